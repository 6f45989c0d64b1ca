"""The image losses of ``losses.robust`` as squares: slopes of what a surface point, or a pixel's ray, says."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.losses import row_kernels, square_kernels, torch_rows
from horefine.losses.forms import (
    Observed,
    Rows,
    array,
    gather,
    kept,
    known,
    observed_rows,
    packed_vertices,
    places,
    robust_cost,
    spread_of,
    taken,
)
from horefine.losses.masks import visible
from horefine.losses.pairs import SurfacePairs, named_points
from horefine.losses.robust import both
from horefine.render import Renderer, render
from horefine.scene import Scene

__all__ = [
    "Hit",
    "PairSquares",
    "Pixels",
    "RenderedSquares",
    "code_squares",
    "depth_squares",
    "hit",
    "pair_squares",
    "see",
    "see_code",
    "see_rendered_depth",
]

GRAZING = 0.1
"""Cosine between ray and face below which a pixel's slope says nothing; such a pixel keeps its cost for a step."""


# --- correspondences -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairSquares:
    """``surface_reprojection`` and ``surface_depth``: nothing in them jumps."""

    flat: bool
    """Whether pixels are compared, else depths."""
    pairs: SurfacePairs
    local: Float[Tensor, "B P 3"]
    """The object's points, object frame."""
    matrix: Float[Tensor, "B 3 3"]
    """Of the camera."""
    used: Float[Tensor, "B 2 P"]
    sigma: Float[Tensor, "B 2"]
    kernel: float
    weight: float
    confidence: Float[Tensor, "B 2 P"] | None = None

    def freeze(self, scene: Scene) -> PairSquares:
        return self

    def chosen(self, rows: Int[Tensor, "M"]) -> PairSquares:
        names = ("pairs", "local", "matrix", "used", "sigma", "confidence")
        return replace(self, **{name: taken(getattr(self, name), rows) for name in names})

    @functools.cached_property
    def _tables(self) -> tuple[np.ndarray, ...]:
        pairs = self.pairs
        parts = (pairs.vertices, pairs.barycentric, self.local, pairs.pixel, pairs.depth, self.used, self.matrix)
        return tuple(map(array, parts))

    def see(self, scene: Scene, sloped: bool) -> Observed:
        """Residuals; their slopes and the points (as the given camera sees them) are 0 unless ``sloped``."""
        pairs, there = self.pairs, places(scene)
        vertices, share, local, pixel, depth, used, matrix = self._tables
        values = np.zeros((*used.shape, 2 if self.flat else 1), used.dtype)
        slope, point = np.zeros((*values.shape, 3), used.dtype), np.zeros((*used.shape, 3), used.dtype)
        row_kernels.see_pairs(
            there.hand, vertices, share, local, there.turn, there.transl, there.stretch, pixel, depth, matrix,
            there.center, used, self.flat, sloped, values, slope, point,
        )  # fmt: skip
        found, root = (torch.from_numpy(values), torch.from_numpy(slope)), 0.0 if self.flat else -1.0
        return Observed(found[0], found[1], root, torch.from_numpy(point), pairs.vertices, pairs.barycentric)

    def cost(self, scene: Scene) -> Float[Tensor, "B"]:
        values = self.see(scene, False).values
        return robust_cost(values, self.used, self.confidence, self.sigma, self.kernel, self.weight)

    def rows(self, scene: Scene) -> list[Rows]:
        seen = self.see(scene, True)
        return observed_rows(scene, seen, self.used, self.sigma, self.kernel, self.weight, self.confidence)


def pair_squares(flat: bool) -> Callable[..., PairSquares]:
    """Of ``surface_reprojection`` (``flat``) or ``surface_depth``."""

    def make(
        scene: Scene, weight: float, *, surface_pairs: SurfacePairs, sigma: Any, kernel: float, threshold: float,
        confidence: bool, **_: Any,
    ) -> PairSquares:  # fmt: skip
        used = surface_pairs.valid * (surface_pairs.distance < threshold)
        trust = surface_pairs.confidence if flat else surface_pairs.depth_confidence
        local = named_points(scene.features.object.vertices, surface_pairs, 1)
        spread = spread_of(sigma, used)
        matrix, trust = scene.features.camera.matrix, trust if confidence else None
        return PairSquares(flat, surface_pairs, local, matrix, used, spread, kernel, weight, trust)

    return make


# --- what is rendered ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pixels:
    """The pixels that show hand (0) or object (1), as lists, with what the maps say there."""

    index: Int[Tensor, "B 2 N"]
    """In the flattened map."""
    valid: Float[Tensor, "B 2 N"]
    ray: Float[Tensor, "B 2 N 3"]
    """Direction with z = 1."""
    target: Float[Tensor, "B 2 N C"]
    faces: Int[Tensor, "B F 3"]
    """Of hand and object, packed vertices."""
    codes: Float[Tensor, "B V C"]
    """Of the packed vertices, metres (rendered_code), else nothing."""
    confidence: Float[Tensor, "B 2 N"] | None = None
    """Of the maps; None: not known, or not wanted."""

    @staticmethod
    def find(scene: Scene, maps: Float[Tensor, "B 2 C H W"], codes: Float[Tensor, "B V C"]) -> Pixels:
        """``maps`` where hand or object are seen."""
        hand, thing = scene.features.hand_mask, scene.features.object_mask
        assert hand is not None and thing is not None
        given = (hand, thing, scene.hand_model)  # every loss on what is rendered asks for the same pixels
        return Pixels._of(
            kept(scene.features, "listed", given, lambda: _listed(scene, visible(hand, thing))), maps, codes
        )

    @staticmethod
    def chosen(
        scene: Scene, shown: Float[Tensor, "B 2 H W"], maps: Float[Tensor, "B 2 C H W"], codes: Float[Tensor, "B V C"]
    ) -> Pixels:
        """``maps`` where ``shown`` is above 0."""
        return Pixels._of(_listed(scene, shown), maps, codes)

    @staticmethod
    def _of(listed: tuple[Tensor, ...], maps: Float[Tensor, "B 2 C H W"], codes: Float[Tensor, "B V C"]) -> Pixels:
        order, valid, ray, faces = listed
        flat = maps.flatten(3).mT
        target = flat.gather(2, order[..., None].expand(-1, -1, -1, flat.shape[-1]))
        return Pixels(order, valid.to(maps.dtype), ray, target, faces, codes)

    def trusted(self, confidence: Float[Tensor, "B 2 H W"] | None) -> Pixels:
        """The same pixels with the maps' confidence in them; those of confidence 0 are not valid."""
        if confidence is None:
            return self
        trust = confidence.flatten(2).gather(2, self.index)
        return replace(self, confidence=trust, valid=self.valid * (trust > 0))

    def thinned(self, repeats: float | Float[Tensor, "B 2"]) -> Pixels:
        """The same pixels with their weight divided by how often they tell the same."""
        return replace(self, valid=self.valid / spread_of(repeats, self.valid)[..., None])

    @functools.cached_property
    def tables(self) -> tuple[np.ndarray, ...]:
        """Rays, codes and targets (hand's and object's pixels in a row), index, valid and faces, for kernels."""
        parts = (self.ray.flatten(1, 2), self.codes, self.target.flatten(1, 2), self.index, self.valid, self.faces)
        return tuple(map(array, parts))

    def sight(self, scene: Scene, hand_faces: int) -> tuple[Int[Tensor, "B 2 N 3"], Float[Tensor, "B 2 N"]]:
        """Corners of the face that each pixel sees at ``scene``, and ``valid``, or 0 for a pixel that sees none."""
        seen = scene.__dict__.setdefault("sight", {})
        if id(self.index) not in seen:  # losses on the same pixels see the same faces
            corners, drawn = np.empty((*self.index.shape, 3), np.int64), np.empty_like(self.tables[4])
            index, _, faces = self.tables[3:]
            row_kernels.sight(array(drawn_ids(scene)), index, faces, hand_faces, corners, drawn)
            seen[id(self.index)] = torch.from_numpy(corners), torch.from_numpy(drawn), self.index
        corners, drawn, _ = seen[id(self.index)]
        return corners, drawn * self.valid


def drawn_ids(scene: Scene) -> Int[Tensor, "B 2 P"]:
    """The face that each pixel sees. Where nothing is rendered yet, no silhouettes and codes are for this."""
    renderer = scene.renderer
    if "render" in scene.__dict__ or not isinstance(renderer, Renderer):
        return scene.render.ids.flatten(2)
    packed = packed_vertices(scene).flatten(0, 1)
    ids = render(
        packed, renderer.topology, renderer.matrix, renderer.size, backend=renderer.name, want=frozenset({"depth"})
    )[3]
    assert ids is not None
    return ids.view(len(scene.pose), 2, -1)


def _listed(scene: Scene, shown: Float[Tensor, "B 2 H W"]) -> tuple[Tensor, ...]:
    """Places, validity and rays of the pixels whose ``shown`` is above 0, and the packed faces (see ``Pixels``)."""
    features, seen = scene.features, shown.flatten(2)
    count = max(1, int((seen > 0).sum(2).max()))
    matrix = features.camera.matrix[:, None, None]
    if seen.device.type == "cpu":
        order, valid = seen.new_zeros(*seen.shape[:2], count, dtype=torch.long), matrix.new_zeros(len(seen), 2, count)
        row_kernels.list_pixels(array(seen), count, order.numpy(), valid.numpy())
    else:
        order, valid = torch_rows.list_pixels(seen, count)
    width = shown.shape[-1]
    u, v = order % width, torch.div(order, width, rounding_mode="floor")
    x, y = (u - matrix[..., 0, 2]) / matrix[..., 0, 0], (v - matrix[..., 1, 2]) / matrix[..., 1, 1]
    hand_faces = scene.hand_model.faces.expand(len(order), -1, -1)
    faces = torch.cat([hand_faces, features.object.faces + len(scene.hand_model.template)], 1)
    return order, valid, torch.stack([x, y, torch.ones_like(x)], -1), faces


@dataclass(frozen=True)
class Hit:
    """Where rays meet the planes of the faces they saw when visibility was frozen."""

    depth: Float[Tensor, "B 2 N"]
    barycentric: Float[Tensor, "B 2 N 3"]
    tilt: Float[Tensor, "B 2 N 3"]
    """``n / n.d``: depth gained per metre that the face moves."""
    grazing: Float[Tensor, "B 2 N"]
    """Cosine between ray and normal."""
    first: Float[Tensor, "B 2 N 3"]
    """How the second corner's barycentric grows per metre within the face."""
    second: Float[Tensor, "B 2 N 3"]
    """How the third corner's does."""


def hit(vertices: Float[Tensor, "B V 3"], corners: Int[Tensor, "B 2 N 3"], ray: Float[Tensor, "B 2 N 3"]) -> Hit:
    """Ray and plane, barycentric coordinates not clamped: smooth in the vertices."""
    a, b, c = gather(vertices, corners).unbind(-2)
    u, w = b - a, c - a
    normal = torch.linalg.cross(u, w)
    square = normal.square().sum(-1).clamp(min=1e-24)
    along = (normal * ray).sum(-1)
    along = torch.where(along.abs() < 1e-16, torch.full_like(along, 1e-16), along)
    depth = (normal * a).sum(-1) / along
    inside = depth[..., None] * ray - a
    first = torch.linalg.cross(w, normal) / square[..., None]
    second = torch.linalg.cross(normal, u) / square[..., None]
    one, two = (inside * first).sum(-1), (inside * second).sum(-1)
    barycentric = torch.stack([1 - one - two, one, two], -1)
    grazing = along.abs() / (square * ray.square().sum(-1)).sqrt()
    return Hit(depth, barycentric, normal / along[..., None], grazing, first, second)


def see_code(vertices: Tensor, root: Float[Tensor, "B"], pixels: Pixels, corners: Tensor) -> tuple[Observed, Tensor]:
    """Rendered code minus the map's, metres; and the cosine between ray and normal."""
    met, codes = hit(vertices, corners, pixels.ray), gather(pixels.codes, corners)
    values = (codes * met.barycentric[..., None]).sum(-2) - pixels.target
    # A face that moves by x shows the ray the place -(1 - d n'/n.d) x further along: that turns into codes by C.
    per_metre = (codes[..., 1, :, None] - codes[..., 0, :, None]) * met.first[..., None, :]
    per_metre = per_metre + (codes[..., 2, :, None] - codes[..., 0, :, None]) * met.second[..., None, :]
    along = (per_metre * pixels.ray[..., None, :]).sum(-1, keepdim=True)
    slope = along * met.tilt[..., None, :] - per_metre
    point = met.depth[..., None] * pixels.ray
    return Observed(values, slope, 0.0, point, corners, met.barycentric), met.grazing


def see_rendered_depth(
    vertices: Tensor, root: Float[Tensor, "B"], pixels: Pixels, corners: Tensor
) -> tuple[Observed, Tensor]:
    """Rendered depth below ``root`` minus the map's, metres; and the cosine between ray and normal."""
    met = hit(vertices, corners, pixels.ray)
    values = met.depth - root[:, None, None] - pixels.target[..., 0]
    point = met.depth[..., None] * pixels.ray
    return Observed(values[..., None], met.tilt[..., None, :], -1.0, point, corners, met.barycentric), met.grazing


def see(
    vertices: Tensor, root: Float[Tensor, "B"], pixels: Pixels, corners: Tensor, used: Tensor, sloped: bool
) -> tuple[Observed, Tensor]:
    """:func:`see_code` where the pixels have codes, else :func:`see_rendered_depth`, by the kernel; 0 if not used."""
    code = pixels.codes.shape[1] > 1
    batch, _, count = corners.shape[:3]
    channels, sides = (3 if code else 1), 2 * count

    def empty(*shape: int) -> Tensor:
        return vertices.new_zeros(batch, sides, *shape)

    values, depth, grazing, share = empty(channels), empty(), empty(), empty(3)
    slope = empty(channels, 3) if sloped else vertices.new_zeros(1, 1, 1, 3)
    ray, codes, target = pixels.tables[:3]
    square_kernels.see_pixels(
        array(vertices), array(corners.flatten(1, 2)), ray, array(used.flatten(1)),
        codes, target, array(root), code, sloped,
        values.numpy(), slope.numpy(), share.numpy(), depth.numpy(), grazing.numpy(),
    )  # fmt: skip
    shape = (2, count)
    point = (depth[..., None] * pixels.ray.flatten(1, 2)).unflatten(1, shape)
    if sloped:
        slope = slope.unflatten(1, shape)
    else:
        slope = slope.expand(batch, 2, count, 3).unsqueeze(3).expand(-1, -1, -1, channels, -1)
    seen = Observed(values.unflatten(1, shape), slope, 0.0 if code else -1.0, point, corners, share.unflatten(1, shape))
    return seen, grazing.unflatten(1, shape)


@dataclass(frozen=True)
class RenderedSquares:
    """``rendered_code``, ``rendered_depth`` and ``measured_depth``; between two freezes a pixel keeps its face."""

    pixels: Pixels
    sigma: Float[Tensor, "B 2"]
    kernel: float
    weight: float
    below: bool = True
    """Depth is told below the object's centre; else from the camera."""
    corners: Tensor = field(default_factory=lambda: torch.empty(0))
    used: Tensor = field(default_factory=lambda: torch.empty(0))
    fixed: Tensor = field(default_factory=lambda: torch.empty(0))
    """Cost of pixels that see nothing, or a face edge-on: it stays as it is for a step."""
    at: tuple[Scene, Observed] | None = None
    """The scene of the freeze and what is seen there."""

    def freeze(self, scene: Scene) -> RenderedSquares:
        corners, seen = self.pixels.sight(scene, len(scene.hand_model.faces))
        there, grazing = self._see(scene, corners, seen, True)
        used, fixed = torch.empty_like(seen), seen.new_empty(len(seen))
        row_kernels.split_by_grazing(
            array(there.values), array(self.pixels.valid), array(seen), array(grazing), GRAZING,
            known(self.pixels.confidence, seen), array(self.sigma), float(self.kernel), float(self.weight),
            used.numpy(), fixed.numpy(),
        )  # fmt: skip
        return replace(self, corners=corners, used=used, fixed=fixed, at=(scene, there))

    def chosen(self, rows: Int[Tensor, "M"]) -> RenderedSquares:
        names = ("pixels", "sigma", "corners", "used", "fixed")
        return replace(self, at=None, **{name: taken(getattr(self, name), rows) for name in names})

    def _observed(self, scene: Scene, sloped: bool) -> Observed:
        if self.at is not None and self.at[0] is scene:
            return self.at[1]
        return self._see(scene, self.corners, self.used, sloped)[0]

    def _see(self, scene: Scene, corners: Tensor, used: Tensor, sloped: bool) -> tuple[Observed, Tensor]:
        root = scene.object_center[:, 2]
        root = root if self.below else torch.zeros_like(root)
        seen, grazing = see(packed_vertices(scene), root, self.pixels, corners, used, sloped)
        return seen if self.below else replace(seen, root=0.0), grazing

    def cost(self, scene: Scene) -> Float[Tensor, "B"]:
        values, trust = self._observed(scene, False).values, self.pixels.confidence
        return self.fixed + robust_cost(values, self.used, trust, self.sigma, self.kernel, self.weight)

    def rows(self, scene: Scene) -> list[Rows]:
        seen, trust = self._observed(scene, True), self.pixels.confidence
        return observed_rows(scene, seen, self.used, self.sigma, self.kernel, self.weight, trust)


def code_squares(
    scene: Scene,
    weight: float,
    *,
    hand_coords: Tensor,
    object_coords: Tensor,
    hand_confidence: Tensor | None,
    object_confidence: Tensor | None,
    confidence: bool,
    sigma: Any,
    kernel: float,
    repeats: Any,
    **_: Any,
) -> RenderedSquares:
    given = (hand_coords, object_coords, hand_confidence, object_confidence, scene.hand_model)

    def find() -> Pixels:
        trust = both(hand_confidence, object_confidence, confidence)
        return _coded(scene, hand_coords, object_coords).trusted(trust)

    pixels = kept(scene.features, ("rendered_code", confidence), given, find)
    return RenderedSquares(pixels.thinned(repeats), spread_of(sigma, scene.features.object.scale), kernel, weight)


def _coded(scene: Scene, hand_coords: Float[Tensor, "B 3 H W"], object_coords: Float[Tensor, "B 3 H W"]) -> Pixels:
    """The pixels with the codes that the maps show, metres."""
    model, thing = scene.hand_model, scene.features.object
    scale = torch.stack([torch.full_like(thing.scale, model.code_scale), thing.scale], 1)
    maps = torch.stack([hand_coords, object_coords], 1) * scale[:, :, None, None, None]
    hand_codes = (model.codes * model.code_scale).expand(len(scale), -1, -1)
    return Pixels.find(scene, maps, torch.cat([hand_codes, thing.codes * thing.scale[:, None, None]], 1))


def depth_squares(
    scene: Scene,
    weight: float,
    *,
    depth: Tensor,
    depth_confidence: Tensor | None,
    confidence: bool,
    sigma: Any,
    kernel: float,
    repeats: Any,
    **_: Any,
) -> RenderedSquares:
    def find() -> Pixels:
        maps = depth[:, None, None].expand(-1, 2, -1, -1, -1)
        found = Pixels.find(scene, maps, depth.new_zeros(len(depth), 1, 1))
        return found.trusted(both(depth_confidence, depth_confidence, confidence))

    given = (depth, depth_confidence, scene.hand_model)
    pixels = kept(scene.features, ("rendered_depth", confidence), given, find)
    return RenderedSquares(pixels.thinned(repeats), spread_of(sigma, depth), kernel, weight)
