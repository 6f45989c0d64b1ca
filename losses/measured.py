"""The surface against what a depth camera measured: the one loss that knows how far away things are."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.losses.forms import spread_of
from horefine.losses.image_squares import Pixels, RenderedSquares
from horefine.losses.masks import visible
from horefine.losses.robust import Residuals, geman_mcclure
from horefine.scene import Scene

__all__ = ["measured_depth", "measured_squares"]

ALONE = 0.5
"""A pixel whose mask is less than this is not surely of hand or object."""


def _shown(scene: Scene, hand_mask: Tensor, object_mask: Tensor, depth: Tensor) -> Float[Tensor, "B 2 H W"]:
    """1 where a pixel surely shows hand (0) or object (1) and was measured."""
    known = torch.isfinite(depth) & (depth > 0)
    return ((visible(hand_mask, object_mask) > ALONE) & known[:, None]).to(depth.dtype)


def measured_depth(
    scene: Scene,
    hand_mask: Float[Tensor, "B H W"],
    object_mask: Float[Tensor, "B H W"],
    measured_depth: Float[Tensor, "B H W"],
    *,
    sigma: float = 0.005,
    kernel: float = 4.0,
    repeats: float = 1.0,
) -> Float[Tensor, "B"]:
    """Rendered depth equals the depth camera's, ``sigma`` in metres; robust, summed over the pixels of hand and object.

    Ours. A pixel where nothing is rendered costs as much as a bad one but pulls on nothing. ``repeats``: by how many
    the sum is divided (neighbouring pixels of such a camera tell much the same).
    """
    shown = _shown(scene, hand_mask, object_mask, measured_depth)
    values = (scene.render.depth - measured_depth[:, None]).flatten(2)[..., None]
    drawn = (scene.render.ids >= 0).to(shown.dtype)
    used, unseen = (shown * drawn).flatten(2), (shown * (1 - drawn)).flatten(2)
    values = torch.where(used[..., None] > 0, values, 0.0)
    return geman_mcclure(Residuals(values, used / repeats, unseen.sum(2) / repeats), sigma, kernel)


def measured_squares(
    scene: Scene, weight: float, *, hand_mask: Tensor, object_mask: Tensor, measured_depth: Tensor, sigma: float,
    kernel: float, repeats: float, **_: Any,
) -> RenderedSquares:  # fmt: skip
    """:func:`measured_depth` as squares."""
    maps = measured_depth[:, None, None].expand(-1, 2, -1, -1, -1)
    shown = _shown(scene, hand_mask, object_mask, measured_depth)
    pixels = Pixels.chosen(scene, shown, maps, measured_depth.new_zeros(len(maps), 1, 1)).thinned(repeats)
    return RenderedSquares(pixels, spread_of(sigma, measured_depth), kernel, weight, below=False)
