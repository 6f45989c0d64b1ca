"""Losses that tie points of the surfaces to pixels and depths of the maps, fused (:mod:`horefine.fused`).

Which point belongs to which pixel was found once (``losses.pairs``): here a point of the hand is three vertices and
their shares, one of the object three numbers in its own frame, and each pair carries what its residuals are scaled
with. Readable twins: ``robust.surface_reprojection``, ``robust.surface_depth``, ``image.dense_mapping`` and
``image.correspondence_depth``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit
from torch import Tensor

from horefine.fused import Posed, Pull
from horefine.losses.forms import gather, spread_of
from horefine.losses.fused_lists import bound, intrinsics, listed, single
from horefine.losses.pairs import SurfacePairs, VertexPairs
from horefine.scene import Scene

__all__ = ["FusedPairs", "surface_maker", "vertex_maker"]

_jit = njit(cache=True, nogil=True, error_model="numpy", fastmath={"nsz", "arcp", "contract", "reassoc"})
ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
X, Y, Z, U, V, DEPTH, PIXEL_SCALE, DEPTH_SCALE = range(8)
"""Columns of the table: shares of three vertices (hand) or place in the object's frame, pixel, depth, scales."""


@_jit
def _told(x, y, z, root, camera, table, n, bounds, weights):
    """Cost of a point and its slope: x, y, z, and that along z which is the depth's."""
    cost, gx, gy, gz, deep = ZERO, ZERO, ZERO, ZERO, ZERO
    scale = table[n, PIXEL_SCALE]
    if scale > ZERO:
        inverse = ONE / z
        px, py = x * inverse, y * inverse
        du, dv = px * camera[0] + camera[2] - table[n, U], py * camera[1] + camera[3] - table[n, V]
        square = scale * (du * du + dv * dv)
        share = ONE / (ONE + square * bounds[0])
        cost = weights[0] * square * share
        slope = TWO * weights[0] * scale * share * share * inverse
        gx, gy = slope * du * camera[0], slope * dv * camera[1]
        gz = -(gx * px + gy * py)
    scale = table[n, DEPTH_SCALE]
    if scale > ZERO:
        gap = z - root - table[n, DEPTH]
        square = scale * gap * gap
        share = ONE / (ONE + square * bounds[1])
        cost += weights[1] * square * share
        deep = TWO * weights[1] * scale * share * share * gap
    return cost, gx, gy, gz + deep, deep


@_jit
def _pull_pairs(
    first, last, hand, turn, transl, center, camera, start, corners, table, bounds, weights,
    values, pull, force, torque,
):  # fmt: skip
    """Adds cost and gradient of images ``first`` to ``last - 1``.

    Rows ``start[b, 0]`` to ``start[b, 1]`` of ``corners`` and ``table`` are the hand's, those up to ``start[b, 2]`` the
    object's. ``bounds``: one over the squares of the kernels of pixels and of depths; 0 for plain squares.
    """
    for b in range(first, last):
        root, total, rooted = center[b, 2], 0.0, 0.0
        for n in range(start[b, 0], start[b, 1]):
            i, j, k = corners[n, 0], corners[n, 1], corners[n, 2]
            one, two, three = table[n, X], table[n, Y], table[n, Z]
            x = one * hand[b, i, 0] + two * hand[b, j, 0] + three * hand[b, k, 0]
            y = one * hand[b, i, 1] + two * hand[b, j, 1] + three * hand[b, k, 1]
            z = one * hand[b, i, 2] + two * hand[b, j, 2] + three * hand[b, k, 2]
            cost, gx, gy, gz, deep = _told(x, y, z, root, camera[b], table, n, bounds, weights)
            total += cost
            rooted += deep
            for v, share in ((i, one), (j, two), (k, three)):
                pull[b, v, 0] += share * gx
                pull[b, v, 1] += share * gy
                pull[b, v, 2] += share * gz
        fx, fy, fz, tx, ty, tz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        own = turn[b]
        for n in range(start[b, 1], start[b, 2]):
            one, two, three = table[n, X], table[n, Y], table[n, Z]
            x = own[0, 0] * one + own[0, 1] * two + own[0, 2] * three + transl[b, 0]
            y = own[1, 0] * one + own[1, 1] * two + own[1, 2] * three + transl[b, 1]
            z = own[2, 0] * one + own[2, 1] * two + own[2, 2] * three + transl[b, 2]
            cost, gx, gy, gz, deep = _told(x, y, z, root, camera[b], table, n, bounds, weights)
            total += cost
            rooted += deep
            ax, ay, az = x - center[b, 0], y - center[b, 1], z - root
            fx, fy, fz = fx + gx, fy + gy, fz + gz
            tx, ty, tz = tx + (ay * gz - az * gy), ty + (az * gx - ax * gz), tz + (ax * gy - ay * gx)
        values[b] += total
        force[b, 0] += fx
        force[b, 1] += fy
        force[b, 2] += fz - rooted
        torque[b, 0] += tx
        torque[b, 1] += ty
        torque[b, 2] += tz


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
        _pull_pairs(
            first, last, posed.hand, posed.object_turn, posed.object_transl, posed.object_center, self.camera,
            self.start, self.corners, self.table, self.bounds, self.weights,
            values, pull.hand, pull.force, pull.torque,
        )  # fmt: skip


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
