"""Losses that compare what is rendered at a pixel with a map, fused (:mod:`horefine.fused`).

Only the pixels that a map speaks of are looked at, and nothing is written back to pictures; the kernels are in
``losses.fused_pixel_kernels``. Readable twins: ``robust.rendered_code``, ``robust.rendered_depth``,
``measured.measured_depth``, ``image.relative_depth`` and ``appearance.photometric``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.fused import FusedLoss, Posed, Pull
from horefine.losses import fused_pixel_kernels as kernels
from horefine.losses.appearance import DARK, LIGHT_WEIGHT, Appearance
from horefine.losses.forms import gather, spread_of
from horefine.losses.fused_lists import bound, listed, rays, single
from horefine.losses.fused_pixel_kernels import (
    CODE_BOUND,
    CODE_SCALE,
    CODE_UNSEEN,
    DEPTH,
    DEPTH_BOUND,
    DEPTH_SCALE,
    DEPTH_UNSEEN,
    FARTHEST,
    ROOTED,
)
from horefine.losses.image import FAR
from horefine.losses.masks import visible
from horefine.losses.robust import both
from horefine.scene import Scene

__all__ = ["FusedColors", "FusedPixels", "code_maker", "color_maker", "depth_maker", "measured_maker", "relative_maker"]


@dataclass(frozen=True)
class FusedPixels:
    """Robust squares of what rendered codes and depths are off by, at the pixels that a map speaks of."""

    hand_faces: Int[np.ndarray, "F 3"]
    hand_codes: Float[np.ndarray, "V 3"]
    """Metres; one row where no codes are compared."""
    normals: Float[np.ndarray, "B G 3"]
    """Of the object's faces, in its frame."""
    start: Int[np.ndarray, "B 3"]
    """First row of each image's hand, of its object, and the end."""
    index: Int[np.ndarray, "N"]
    """Pixel in the flattened map."""
    table: Float[np.ndarray, "N 8"]
    weights: Float[np.ndarray, "B 2 2"]
    """Of hand and object, code and depth."""
    settings: Float[np.ndarray, "6"]
    wants: frozenset[str] = frozenset({"surface"})

    def add(self, posed: Posed, pull: Pull, values: Float[np.ndarray, "B"], first: int, last: int) -> None:
        """See :class:`horefine.fused.FusedLoss`."""
        self.add_both(posed, pull, values, values, first, last)

    def add_both(self, posed: Posed, pull: Pull, codes: np.ndarray, depths: np.ndarray, first: int, last: int) -> None:
        """The same with the values of codes and of depths apart."""
        kernels.pull_pixels(
            first, last, posed.hand, posed.object_turn, posed.object_transl, posed.object_center,
            posed.ids, posed.depth, self.hand_faces, self.hand_codes, self.normals,
            self.start, self.index, self.table, self.weights, self.settings,
            codes, depths, pull.hand, pull.force, pull.torque,
        )  # fmt: skip

    def joined(self, other: FusedLoss) -> FusedPixels | None:
        """This one's codes and the other's depths at the same pixels, in one pass; None where that cannot be."""
        if not isinstance(other, FusedPixels):
            return None
        table = other.table
        if not (np.array_equal(self.start, other.start) and np.array_equal(self.index, other.index)):
            return None
        if self.table[:, DEPTH_SCALE].any() or table[:, CODE_SCALE].any():
            return None
        columns, settings = [DEPTH, DEPTH_SCALE], [DEPTH_BOUND, DEPTH_UNSEEN, ROOTED, FARTHEST]
        found = replace(self, table=self.table.copy(), settings=self.settings.copy(), weights=self.weights.copy())
        found.table[:, columns], found.settings[settings] = table[:, columns], other.settings[settings]
        found.weights[..., 1] = other.weights[..., 1]
        return found


def _made(
    scene: Scene,
    scale: Float[Tensor, "B 2 H W"],
    weight: float,
    repeats: Any,
    settings: dict[int, float],
    *,
    hand_codes: Float[Tensor, "V 3"] | None = None,
    target: Float[Tensor, "B 2 3 H W"] | None = None,
    depth: Float[Tensor, "B H W"] | None = None,
) -> FusedPixels:
    """The pixels whose ``scale`` is above 0, with what the maps say there: of codes or of depths."""
    batch, size = len(scale), scale.shape[2:]
    none = torch.zeros_like(scale)
    maps = none[:, :, None].expand(-1, -1, 3, -1, -1) if target is None else target
    depths = none if depth is None else depth[:, None].expand_as(scale)
    scales = (none, scale) if target is None else (scale, none)
    ray = rays(scene)[:, None].expand(-1, 2, -1, -1, -1)
    rows = torch.cat([ray, maps, torch.stack([depths, *scales], 2)], 2).flatten(3).mT
    place = torch.arange(size[0] * size[1], dtype=torch.int32).expand(batch, 2, -1)
    kept = (scale > 0).flatten(2)
    start, (index, table) = listed(kept.unbind(1), place.unbind(1), rows.unbind(1))
    numbers = torch.zeros(6)
    for name, value in settings.items():
        numbers[name] = value
    shares = (weight / spread_of(repeats, scale))[..., None].expand(-1, -1, 2)
    hand_codes, thing = torch.zeros(1, 3) if hand_codes is None else hand_codes, scene.features.object
    one, two, three = gather(thing.vertices, thing.faces).unbind(2)
    normals = torch.nn.functional.normalize(torch.linalg.cross(two - one, three - one), dim=-1, eps=1e-20)
    return FusedPixels(
        scene.hand_model.faces.int().contiguous().numpy(), single(hand_codes), single(normals), start, index,
        single(table), single(shares), single(numbers),
    )  # fmt: skip


def code_maker(
    scene: Scene, weight: float, *, hand_mask: Tensor, object_mask: Tensor, hand_coords: Tensor, object_coords: Tensor,
    hand_confidence: Tensor | None, object_confidence: Tensor | None, confidence: bool, sigma: Any, kernel: float,
    repeats: Any, **_: Any,
) -> FusedPixels:  # fmt: skip
    """Maker of ``rendered_code``."""
    model, thing = scene.hand_model, scene.features.object
    place = object_coords * thing.scale[:, None, None, None]
    place = place + (thing.center - thing.scale[:, None] / 2)[:, :, None, None]
    target = torch.stack([hand_coords * model.code_scale, place], 1)
    scale = visible(hand_mask, object_mask) / spread_of(sigma, hand_mask)[..., None, None].square()
    trust = both(hand_confidence, object_confidence, confidence)
    settings = {CODE_BOUND: bound(kernel), CODE_UNSEEN: max(kernel, 0.0) ** 2}
    scale, codes = scale if trust is None else scale * trust, model.codes * model.code_scale
    return _made(scene, scale, weight, repeats, settings, hand_codes=codes, target=target)


def depth_maker(
    scene: Scene, weight: float, *, hand_mask: Tensor, object_mask: Tensor, depth: Tensor,
    depth_confidence: Tensor | None, confidence: bool, sigma: Any, kernel: float, repeats: Any, **_: Any,
) -> FusedPixels:  # fmt: skip
    """Maker of ``rendered_depth``."""
    scale = visible(hand_mask, object_mask) / spread_of(sigma, depth)[..., None, None].square()
    trust = both(depth_confidence, depth_confidence, confidence)
    settings = {DEPTH_BOUND: bound(kernel), DEPTH_UNSEEN: max(kernel, 0.0) ** 2, ROOTED: 1.0}
    return _made(scene, scale if trust is None else scale * trust, weight, repeats, settings, depth=depth)


def measured_maker(
    scene: Scene, weight: float, *, hand_mask: Tensor, object_mask: Tensor, measured_depth: Tensor, sigma: Any,
    kernel: float, repeats: Any, **_: Any,
) -> FusedPixels:  # fmt: skip
    """Maker of ``measured_depth``."""
    known = torch.isfinite(measured_depth) & (measured_depth > 0)
    seen = visible(hand_mask, object_mask) * known[:, None]
    scale = seen / spread_of(sigma, seen)[..., None, None].square()
    settings = {DEPTH_BOUND: bound(kernel), DEPTH_UNSEEN: max(kernel, 0.0) ** 2}
    return _made(scene, scale, weight, repeats, settings, depth=measured_depth)


def relative_maker(
    scene: Scene, weight: float, *, hand_mask: Tensor, object_mask: Tensor, depth: Tensor, reduction: str,
    literal: bool, **_: Any,
) -> FusedPixels | None:  # fmt: skip
    """Maker of ``relative_depth``."""
    if reduction not in ("sum", "mean"):
        return None
    scale = torch.stack([hand_mask, object_mask], 1).square()
    share = 1 if reduction == "sum" else hand_mask[0].numel()
    settings = {ROOTED: 1.0, FARTHEST: FAR if literal else 0.0}
    return _made(scene, scale / share, weight, 1.0, settings, depth=depth)


@dataclass(frozen=True)
class FusedColors:
    """Robust squares of what the object's colours are off the photograph's by, up to the light."""

    faces: Int[np.ndarray, "B G 3"]
    albedo: Float[np.ndarray, "B W 3"]
    start: Int[np.ndarray, "B 2"]
    index: Int[np.ndarray, "N"]
    table: Float[np.ndarray, "N 5"]
    """Ray, and the photograph's ``log_color``."""
    scratch: Float[np.ndarray, "N 6"]
    """Written at each call: what colours are off by, and the values that have logarithms."""
    scales: Float[np.ndarray, "3"]
    """One over the squares of the sigmas of chroma and luminance; what is added to linear values."""
    kernel: np.float32
    """One over its square."""
    light: np.float32
    weight: np.float32
    wants: frozenset[str] = frozenset({"surface"})

    def add(self, posed: Posed, pull: Pull, values: Float[np.ndarray, "B"], first: int, last: int) -> None:
        """See :class:`horefine.fused.FusedLoss`."""
        kernels.pull_colors(
            first, last, posed.object, posed.ids, posed.object_center, self.faces, self.albedo,
            self.start, self.index, self.table, self.scratch, self.scales, self.kernel, self.light, self.weight,
            values, pull.force, pull.torque,
        )  # fmt: skip


def color_maker(
    scene: Scene, weight: float, *, appearance: Appearance, chroma: float, luminance: float, light: float,
    kernel: float, **_: Any,
) -> FusedColors | None:  # fmt: skip
    """Maker of ``photometric``."""
    if kernel <= 0:
        return None
    thing, inside = scene.features.object, appearance.inside.flatten(1) > 0
    rows = torch.cat([rays(scene), appearance.target], 1).flatten(2).mT
    place = torch.arange(inside.shape[1], dtype=torch.int32).expand_as(inside)
    start, (index, table) = listed([inside], [place], [rows])
    return FusedColors(
        thing.faces.int().contiguous().numpy(), single(thing.albedo), start, index, single(table),
        np.empty((len(index), 6), np.float32), single([1 / chroma**2, 1 / luminance**2, DARK]),
        np.float32(bound(kernel)), np.float32(LIGHT_WEIGHT / light**2), np.float32(weight),
    )  # fmt: skip
