"""What the photograph itself says of the object: the colours of its mesh against the pixels.

Nothing here is learned: it works for any object whose mesh has colours, as scanned models do. Colours are compared as
logarithms, where a light is an offset: two chroma channels, in which shading cancels, and luminance, which counts less.
The offset (colour of the light, exposure) is the mean residual of the image, kept near grey by a prior.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.hand import HandModel
from horefine.losses.masks import visible
from horefine.scene import Scene

__all__ = [
    "CHROMA",
    "LIGHT",
    "LIGHT_WEIGHT",
    "LUMINANCE",
    "Appearance",
    "color_cost",
    "find_appearance",
    "log_color",
    "photometric",
]

CHROMA = 0.3
"""Sigma of a chroma residual (natural logarithm)."""
LUMINANCE = 0.6
"""Sigma of a luminance residual: shading is not modelled."""
LIGHT = 0.3
"""Sigma of the light's own chroma."""
LIGHT_WEIGHT = 0.3
"""Weight of that, for each pixel that shows the object."""
DARK = 0.08
"""Added to linear values: gloss and stray light lift the dark channels of a saturated colour by about this much."""
MEAN = 0.25
"""Mean linear value of the object's pixels to which a photograph is scaled: what objects reflect on average."""


@dataclass(frozen=True)
class Appearance:
    """How the photograph shows the object."""

    target: Float[Tensor, "B 3 H W"]
    """:func:`log_color` of the photograph."""
    inside: Float[Tensor, "B H W"]
    """1 where a pixel shows more object than anything else."""


def find_appearance(
    hand_model: HandModel | None,
    image: Float[Tensor, "B 3 H W"],
    hand_mask: Float[Tensor, "B H W"],
    object_mask: Float[Tensor, "B H W"],
) -> Appearance:
    """What :func:`photometric` compares with, found once for each refinement; the hand does not matter."""
    del hand_model
    inside = visible(hand_mask, object_mask)[:, 1]
    mean = (image.mean(1) * inside).sum((1, 2)) / inside.sum((1, 2)).clamp_min(1.0)
    exposure = torch.where(mean > 1e-4, MEAN / mean.clamp_min(1e-4), torch.ones_like(mean))
    return Appearance(log_color(image * exposure[:, None, None, None]), inside)


def log_color(linear: Float[Tensor, "*n 3 H W"]) -> Float[Tensor, "*n 3 H W"]:
    """Linear RGB to (red chroma, blue chroma, luminance), natural logarithms."""
    logs = (linear.clamp_min(0.0) + DARK).log()
    luminance = logs.mean(-3, keepdim=True)
    return torch.cat([logs[..., 0:1, :, :] - luminance, logs[..., 2:3, :, :] - luminance, luminance], -3)


def color_cost(
    rendered: Float[Tensor, "B 3 H W"],
    ids: Int[Tensor, "B H W"],
    target: Float[Tensor, "B 3 H W"],
    inside: Float[Tensor, "B H W"],
    *,
    chroma: float = CHROMA,
    luminance: float = LUMINANCE,
    light: float = LIGHT,
    kernel: float = 2.5,
) -> Float[Tensor, "B"]:
    """Robust sum over the pixels ``inside`` of the colour residual in sigmas, squared.

    Args:
        rendered: linear albedo of the posed object, "B 3 H W".
        ids: face seen at each pixel, -1 where none; such a pixel costs what an infinitely bad colour would.
        target: :func:`log_color` of the photograph.
        inside: 1 where the photograph shows the object.
        kernel: residuals beyond this many sigmas pull no more (Geman and McClure 1985).
    """
    drawn = inside * (ids >= 0).to(inside.dtype)
    count = drawn.sum((1, 2)).clamp_min(1.0)
    residual = target - log_color(rendered)
    with torch.no_grad():  # the light is whatever fits best; it does not pull
        offset = (residual * drawn[:, None]).sum((2, 3)) / count[:, None]
    residual = residual - offset[..., None, None]
    square = residual[:, :2].square().sum(1) / chroma**2 + residual[:, 2].square() / luminance**2
    bound = kernel * kernel
    cost = (drawn * square / (1 + square / bound)).sum((1, 2)) + bound * (inside - drawn).sum((1, 2))
    return cost + LIGHT_WEIGHT * count * offset[:, :2].square().sum(1) / light**2


def photometric(
    scene: Scene,
    appearance: Appearance,
    *,
    chroma: float = CHROMA,
    luminance: float = LUMINANCE,
    light: float = LIGHT,
    kernel: float = 2.5,
) -> Float[Tensor, "B"]:
    """The colours of the posed object equal the photograph's where it is seen, up to the light.

    Ours (see the module); sigmas in natural logarithms. An object without colours counts as grey.
    """
    render = scene.render
    return color_cost(
        render.colors[:, 1], render.ids[:, 1], appearance.target, appearance.inside,
        chroma=chroma, luminance=luminance, light=light, kernel=kernel,
    )  # fmt: skip
