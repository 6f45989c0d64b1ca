"""Losses that tie points of the surfaces to pixels and depths of the maps, fused (:mod:`horefine.fused`).

Which point belongs to which pixel was found once (``losses.pairs``): here a point of the hand is three vertices and
their shares, one of the object three numbers in its own frame, and each pair carries what its residuals are scaled
with. Readable twins: ``robust.surface_reprojection``, ``robust.surface_depth``, ``image.dense_mapping`` and
``image.correspondence_depth``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit
from torch import Tensor

from horefine.fused import FusedLoss, Posed, Pull
from horefine.losses.forms import gather, spread_of
from horefine.losses.fused_lists import bound, intrinsics, listed, single
from horefine.losses.pairs import SurfacePairs, VertexPairs
from horefine.scene import Scene

__all__ = ["FusedPairs", "surface_maker", "vertex_maker"]

_WAYS = {"nogil": True, "error_model": "numpy", "fastmath": {"nsz", "arcp", "contract", "reassoc"}}
_jit, _inline_jit = njit(cache=True, **_WAYS), njit(forceinline=True, **_WAYS)
ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
X, Y, Z, U, V, DEPTH, PIXEL_SCALE, DEPTH_SCALE = range(8)
"""Columns of the table: shares of three vertices (hand) or place in the object's frame, pixel, depth, scales."""


@_inline_jit
def _row(table, n):
    """A row as numbers: an array that is handed on to where branches are is counted in and out at every row."""
    return (
        table[n, 0], table[n, 1], table[n, 2], table[n, 3], table[n, 4], table[n, 5], table[n, 6], table[n, 7],
    )  # fmt: skip


@_inline_jit
def _told(x, y, z, root, camera, row, bounds, weights):
    """Costs of a point, in the picture and in depth, and its slope: x, y, z, and that along z which is the depth's."""
    pixels, depths, gx, gy, gz, deep = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    scale = row[PIXEL_SCALE]
    if scale > ZERO:
        inverse = ONE / z
        px, py = x * inverse, y * inverse
        du, dv = px * camera[0] + camera[2] - row[U], py * camera[1] + camera[3] - row[V]
        square = scale * (du * du + dv * dv)
        share = ONE / (ONE + square * bounds[0])
        pixels = weights[0] * square * share
        slope = TWO * weights[0] * scale * share * share * inverse
        gx, gy = slope * du * camera[0], slope * dv * camera[1]
        gz = -(gx * px + gy * py)
    scale = row[DEPTH_SCALE]
    if scale > ZERO:
        gap = z - root - row[DEPTH]
        square = scale * gap * gap
        share = ONE / (ONE + square * bounds[1])
        depths = weights[1] * square * share
        deep = TWO * weights[1] * scale * share * share * gap
    return pixels, depths, gx, gy, gz + deep, deep


@_jit
def _pull_hand(points, corners, table, first, last, root, camera, bounds, weights, pull):
    """Costs of rows ``first`` to ``last - 1``, in the picture and in depth, and their slope to the root's depth."""
    flat, deep, rooted = 0.0, 0.0, 0.0
    for place in range(first, last):
        n = np.uintp(place)
        row = _row(table, n)
        a, b, c = np.uintp(corners[n, 0]), np.uintp(corners[n, 1]), np.uintp(corners[n, 2])
        one, two, three = row[X], row[Y], row[Z]
        x = one * points[a, 0] + two * points[b, 0] + three * points[c, 0]
        y = one * points[a, 1] + two * points[b, 1] + three * points[c, 1]
        z = one * points[a, 2] + two * points[b, 2] + three * points[c, 2]
        pixels, depths, gx, gy, gz, slope = _told(x, y, z, root, camera, row, bounds, weights)
        flat, deep, rooted = flat + pixels, deep + depths, rooted + slope
        pull[a, 0] += one * gx
        pull[a, 1] += one * gy
        pull[a, 2] += one * gz
        pull[b, 0] += two * gx
        pull[b, 1] += two * gy
        pull[b, 2] += two * gz
        pull[c, 0] += three * gx
        pull[c, 1] += three * gy
        pull[c, 2] += three * gz
    return flat, deep, rooted


@_jit
def _pull_object(turn, transl, table, first, last, center, camera, bounds, weights, force, torque):
    """The same for the object, which is pulled on as a whole."""
    flat, deep, rooted = 0.0, 0.0, 0.0
    fx, fy, fz, tx, ty, tz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for place in range(first, last):
        n = np.uintp(place)
        row = _row(table, n)
        one, two, three = row[X], row[Y], row[Z]
        x = turn[0, 0] * one + turn[0, 1] * two + turn[0, 2] * three + transl[0]
        y = turn[1, 0] * one + turn[1, 1] * two + turn[1, 2] * three + transl[1]
        z = turn[2, 0] * one + turn[2, 1] * two + turn[2, 2] * three + transl[2]
        pixels, depths, gx, gy, gz, slope = _told(x, y, z, center[2], camera, row, bounds, weights)
        flat, deep, rooted = flat + pixels, deep + depths, rooted + slope
        ax, ay, az = x - center[0], y - center[1], z - center[2]
        fx, fy, fz = fx + gx, fy + gy, fz + gz
        tx, ty, tz = tx + (ay * gz - az * gy), ty + (az * gx - ax * gz), tz + (ax * gy - ay * gx)
    force[0] += fx
    force[1] += fy
    force[2] += fz
    torque[0] += tx
    torque[1] += ty
    torque[2] += tz
    return flat, deep, rooted


@_jit
def _pull_pairs(
    first, last, hand, turn, transl, center, camera, start, corners, table, bounds, weights,
    pixel_values, depth_values, pull, force, torque,
):  # fmt: skip
    """Adds cost and gradient of images ``first`` to ``last - 1``.

    Rows ``start[b, 0]`` to ``start[b, 1]`` of ``corners`` and ``table`` are the hand's, those up to ``start[b, 2]`` the
    object's. ``bounds``: one over the squares of the kernels of pixels and of depths; 0 for plain squares.
    """
    bound, weight = (bounds[0], bounds[1]), (weights[0], weights[1])
    for b in range(first, last):
        lens = camera[b, 0], camera[b, 1], camera[b, 2], camera[b, 3]
        flat, deep, rooted = _pull_hand(
            hand[b], corners, table, start[b, 0], start[b, 1], center[b, 2], lens, bound, weight, pull[b]
        )
        more_flat, more_deep, more_rooted = _pull_object(
            turn[b], transl[b], table, start[b, 1], start[b, 2], center[b], lens, bound, weight,
            force[b], torque[b],
        )  # fmt: skip
        pixel_values[b] += flat + more_flat
        depth_values[b] += deep + more_deep
        force[b, 2] -= rooted + more_rooted


@dataclass(frozen=True)
class FusedPairs:
    """Robust squares of what pairs of points and pixels are off by, in the picture and in depth."""

    camera: Float[np.ndarray, "B 4"]
    """fx, fy, cx, cy."""
    start: Int[np.ndarray, "B 3"]
    """First row of each image's hand, of its object, and the end."""
    corners: Int[np.ndarray, "N 3"]
    """Vertices of the hand."""
    table: Float[np.ndarray, "N 8"]
    bounds: Float[np.ndarray, "2"]
    """One over the square of the kernel, 0 for plain squares: pixels, depths."""
    weights: Float[np.ndarray, "2"]
    wants: frozenset[str] = frozenset()

    def add(self, posed: Posed, pull: Pull, values: Float[np.ndarray, "B"], first: int, last: int) -> None:
        """See :class:`horefine.fused.FusedLoss`."""
        self.add_both(posed, pull, values, values, first, last)

    def add_both(self, posed: Posed, pull: Pull, pixels: np.ndarray, depths: np.ndarray, first: int, last: int) -> None:
        """The same with the values of pixels and of depths apart."""
        _pull_pairs(
            first, last, posed.hand, posed.object_turn, posed.object_transl, posed.object_center, self.camera,
            self.start, self.corners, self.table, self.bounds, self.weights,
            pixels, depths, pull.hand, pull.force, pull.torque,
        )  # fmt: skip

    def joined(self, other: FusedLoss) -> FusedPairs | None:
        """This one's pixels and the other's depths of the same pairs, in one pass; None where that cannot be."""
        if not isinstance(other, FusedPairs):
            return None
        places, table = slice(X, V + 1), other.table
        same = np.array_equal(self.start, other.start) and np.array_equal(self.corners, other.corners)
        if not (same and np.array_equal(self.table[:, places], table[:, places])):
            return None
        if self.table[:, DEPTH_SCALE].any() or table[:, PIXEL_SCALE].any():
            return None
        found = replace(self, table=self.table.copy(), bounds=self.bounds.copy(), weights=self.weights.copy())
        found.table[:, [DEPTH, DEPTH_SCALE]] = table[:, [DEPTH, DEPTH_SCALE]]
        found.bounds[1], found.weights[1] = other.bounds[1], other.weights[1]
        return found


def surface_maker(of_depth: bool) -> Callable[..., FusedPairs]:
    """Maker of ``surface_depth``, or of ``surface_reprojection``."""

    def make(
        scene: Scene, weight: float, *, surface_pairs: SurfacePairs, sigma: Any, kernel: float, threshold: float,
        confidence: bool, **_: Any,
    ) -> FusedPairs:  # fmt: skip
        pairs = surface_pairs
        scale = pairs.valid * (pairs.distance < threshold)
        trust = pairs.depth_confidence if of_depth else pairs.confidence
        if confidence and trust is not None:
            scale = scale * trust
        scale = scale / spread_of(sigma, scale)[..., None].square()
        points = gather(scene.features.object.vertices, pairs.vertices[:, 1])
        place = torch.stack([pairs.barycentric[:, 0], (points * pairs.barycentric[:, 1, ..., None]).sum(2)], 1)
        rows = _rows(place, pairs.pixel, pairs.depth, scale, of_depth)
        start, (corners, table) = listed((scale > 0).unbind(1), pairs.vertices.int().unbind(1), rows.unbind(1))
        return FusedPairs(intrinsics(scene), start, corners, table, single([bound(kernel)] * 2), single([weight] * 2))

    return make


def vertex_maker(of_depth: bool) -> Callable[..., FusedPairs | None]:
    """Maker of ``correspondence_depth``, or of ``dense_mapping``."""

    def make(
        scene: Scene, weight: float, *, vertex_pairs: VertexPairs, threshold: float, reduction: str,
        depth: Tensor | None = None, **_: Any,
    ) -> FusedPairs | None:  # fmt: skip
        if reduction not in ("sum", "mean"):
            return None
        batch, count = vertex_pairs.hand.distance.shape
        whole = torch.tensor([1.0, 0.0, 0.0]).expand(batch, count, 3)
        sides = ((vertex_pairs.hand, whole), (vertex_pairs.object, scene.features.object.vertices))
        rows, kept, corners = [], [], []
        for pairs, place in sides:
            near = pairs.distance < threshold
            share = torch.ones(batch) if reduction == "sum" else 1 / near.sum(1).clamp(min=1)
            there = torch.zeros_like(pairs.distance) if depth is None else depth.flatten(1).gather(1, pairs.index)
            rows.append(_rows(place, pairs.pixel, there, near * share[:, None], of_depth))
            kept.append(near)
            corners.append(torch.arange(near.shape[1], dtype=torch.int32)[:, None].expand(batch, -1, 3))
        start, (corners, table) = listed(kept, corners, rows)
        return FusedPairs(intrinsics(scene), start, corners, table, single([0, 0]), single([weight] * 2))

    return make


def _rows(place: Tensor, pixel: Tensor, depth: Tensor, scale: Tensor, of_depth: bool) -> Float[Tensor, "*n 8"]:
    """Rows of the table, in which only one of the two residuals counts."""
    none = torch.zeros_like(scale)
    scales = (none, scale) if of_depth else (scale, none)
    return torch.cat([place, pixel, torch.stack([depth, *scales], -1)], -1)
