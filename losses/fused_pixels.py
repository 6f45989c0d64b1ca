"""Losses that compare what is rendered at a pixel with a map, fused (:mod:`horefine.fused`).

The renderer says which face a pixel sees. Where its ray meets the plane of that face, the code and the depth there and
how they change when the face moves are the renderer's own formulas (:mod:`horefine.render.kernels`); only the pixels
that a map speaks of are looked at, and nothing is written back to pictures. Readable twins: ``robust.rendered_code``,
``robust.rendered_depth``, ``measured.measured_depth`` and ``image.relative_depth``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit
from torch import Tensor

from horefine.fused import Posed, Pull
from horefine.losses.forms import spread_of
from horefine.losses.fused_lists import bound, listed, rays, single
from horefine.losses.image import FAR
from horefine.losses.masks import visible
from horefine.losses.robust import both
from horefine.scene import Scene

__all__ = ["FusedPixels", "code_maker", "depth_maker", "measured_maker", "relative_maker"]

_jit = njit(cache=True, nogil=True, error_model="numpy", fastmath={"nsz", "arcp", "contract", "reassoc"})
ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
GRAZING = np.float32(1e-3)
"""Cosine between ray and face below which nothing pulls on the face, as in the renderer."""
X, Y, RED, GREEN, BLUE, DEPTH, CODE_SCALE, DEPTH_SCALE = range(8)
"""Columns of the table: ray (its z is 1), code and depth of the maps (metres), what squares are multiplied with."""
CODE_BOUND, DEPTH_BOUND, CODE_UNSEEN, DEPTH_UNSEEN, ROOTED, FARTHEST = range(6)
"""Settings: one over the squares of the kernels, what a pixel costs where nothing is rendered, whether depth is told
below the object's centre, the depth of the empty background (0: none)."""


@_jit
def _hit(points, a, b, c, dx, dy):
    """Two sides of the face at its corner A, A, the normal n, n.d and the barycentrics of B and C."""
    ax, ay, az = points[a, 0], points[a, 1], points[a, 2]
    ux, uy, uz = points[b, 0] - ax, points[b, 1] - ay, points[b, 2] - az
    wx, wy, wz = points[c, 0] - ax, points[c, 1] - ay, points[c, 2] - az
    nx, ny, nz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
    along = nx * dx + ny * dy + nz
    ex, ey, ez = ay - az * dy, az * dx - ax, ax * dy - ay * dx
    one = (wx * ex + wy * ey + wz * ez) / along
    two = -(ux * ex + uy * ey + uz * ez) / along
    return ax, ay, az, ux, uy, uz, wx, wy, wz, nx, ny, nz, along, one, two


@_jit
def _code_pull(codes, a, b, c, one, two, table, n, settings, weight):
    """Cost of the code seen, and its slope to the barycentrics of the second and the third corner."""
    scale = table[n, CODE_SCALE]
    if scale <= ZERO:
        return ZERO, ZERO, ZERO
    second, third = min(max(one, ZERO), ONE), min(max(two, ZERO), ONE)  # as painted
    first = max(ONE - second - third, ZERO)
    r0 = first * codes[a, 0] + second * codes[b, 0] + third * codes[c, 0] - table[n, RED]
    r1 = first * codes[a, 1] + second * codes[b, 1] + third * codes[c, 1] - table[n, GREEN]
    r2 = first * codes[a, 2] + second * codes[b, 2] + third * codes[c, 2] - table[n, BLUE]
    square = scale * (r0 * r0 + r1 * r1 + r2 * r2)
    share = ONE / (ONE + square * settings[CODE_BOUND])
    slope = TWO * weight * scale * share * share
    by_second = r0 * (codes[b, 0] - codes[a, 0]) + r1 * (codes[b, 1] - codes[a, 1]) + r2 * (codes[b, 2] - codes[a, 2])
    by_third = r0 * (codes[c, 0] - codes[a, 0]) + r1 * (codes[c, 1] - codes[a, 1]) + r2 * (codes[c, 2] - codes[a, 2])
    return weight * square * share, slope * by_second, slope * by_third


@_jit
def _depth_pull(z, table, n, settings, weight):
    """Cost of a depth and its slope."""
    scale = table[n, DEPTH_SCALE]
    if scale <= ZERO:
        return ZERO, ZERO
    gap = z - table[n, DEPTH]
    square = scale * gap * gap
    share = ONE / (ONE + square * settings[DEPTH_BOUND])
    return weight * square * share, TWO * weight * scale * share * share * gap


@_jit
def _look(points, faces, codes, k, z, table, n, settings, code_weight, depth_weight):
    """Cost of a pixel that sees face k at depth z (below the root), its slope there, and what pulls on the face.

    The pull on the face is that on its three corners together, and their shares in it.
    """
    a, b, c = faces[k, 0], faces[k, 1], faces[k, 2]
    dx, dy = table[n, X], table[n, Y]
    ax, ay, az, ux, uy, uz, wx, wy, wz, nx, ny, nz, along, one, two = _hit(points, a, b, c, dx, dy)
    cost, by_one, by_two = _code_pull(codes, a, b, c, one, two, table, n, settings, code_weight)
    more, deep = _depth_pull(z, table, n, settings, depth_weight)
    cost += more
    if along * along < GRAZING * GRAZING * (nx * nx + ny * ny + nz * nz) * (dx * dx + dy * dy + ONE):
        return cost, deep, ZERO, ZERO, ZERO, one, two
    det = nx * ax + ny * ay + nz * az
    mean = -(by_one * one + by_two * two) - deep * det / along
    inverse = -ONE / det
    gx = (mean * nx + by_one * (wy * az - wz * ay) + by_two * (ay * uz - az * uy)) * inverse
    gy = (mean * ny + by_one * (wz * ax - wx * az) + by_two * (az * ux - ax * uz)) * inverse
    gz = (mean * nz + by_one * (wx * ay - wy * ax) + by_two * (ax * uy - ay * ux)) * inverse
    return cost, deep, gx, gy, gz, one, two


@_jit
def _unseen(root, table, n, settings, code_weight, depth_weight):
    """Cost of a pixel where nothing is rendered, and its slope to the depth there."""
    cost = ZERO
    if table[n, CODE_SCALE] > ZERO:
        cost += code_weight * settings[CODE_UNSEEN]
    if table[n, DEPTH_SCALE] > ZERO:
        cost += depth_weight * settings[DEPTH_UNSEEN]
        if settings[FARTHEST] > ZERO:
            more, deep = _depth_pull(settings[FARTHEST] - root, table, n, settings, depth_weight)
            return cost + more, deep
    return cost, ZERO


@_jit
def _pull_pixels(
    first, last, hand, thing, ids, depth, center, hand_faces, faces, hand_codes, codes,
    start, index, table, weights, settings, values, pull, force, torque,
):  # fmt: skip
    """Adds cost and gradient of images ``first`` to ``last - 1``.

    Rows ``start[b, 0]`` to ``start[b, 1]`` of ``index`` and ``table`` are pixels of the hand, those up to ``start[b,
    2]`` the object's. ``weights`` of hand and object, code and depth, "B 2 2".
    """
    shape = (ids.shape[0], 2, ids.shape[2] * ids.shape[3])
    ids, depth = ids.reshape(shape), depth.reshape(shape)
    for b in range(first, last):
        root, total, rooted = settings[ROOTED] * center[b, 2], 0.0, 0.0
        w0, w1 = weights[b, 0, 0], weights[b, 0, 1]
        for n in range(start[b, 0], start[b, 1]):
            k = ids[b, 0, index[n]]
            if k < 0:
                cost, deep = _unseen(root, table, n, settings, w0, w1)
            else:
                z = depth[b, 0, index[n]] - root
                cost, deep, gx, gy, gz, one, two = _look(
                    hand[b], hand_faces, hand_codes, k, z, table, n, settings, w0, w1
                )  # fmt: skip
                for v, share in ((0, ONE - one - two), (1, one), (2, two)):
                    corner = hand_faces[k, v]
                    pull[b, corner, 0] += share * gx
                    pull[b, corner, 1] += share * gy
                    pull[b, corner, 2] += share * gz
            total += cost
            rooted += deep
        fx, fy, fz, tx, ty, tz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        w0, w1 = weights[b, 1, 0], weights[b, 1, 1]
        for n in range(start[b, 1], start[b, 2]):
            k = ids[b, 1, index[n]]
            if k < 0:
                cost, deep = _unseen(root, table, n, settings, w0, w1)
            else:
                far = depth[b, 1, index[n]]
                cost, deep, gx, gy, gz, _, _ = _look(
                    thing[b], faces[b], codes[b], k, far - root, table, n, settings, w0, w1
                )  # fmt: skip
                rx, ry, rz = far * table[n, X] - center[b, 0], far * table[n, Y] - center[b, 1], far - center[b, 2]
                fx, fy, fz = fx + gx, fy + gy, fz + gz
                tx, ty, tz = tx + (ry * gz - rz * gy), ty + (rz * gx - rx * gz), tz + (rx * gy - ry * gx)
            total += cost
            rooted += deep
        values[b] += total
        force[b, 0] += fx
        force[b, 1] += fy
        force[b, 2] += fz - settings[ROOTED] * rooted
        torque[b, 0] += tx
        torque[b, 1] += ty
        torque[b, 2] += tz


@dataclass(frozen=True)
class FusedPixels:
    """Robust squares of what rendered codes and depths are off by, at the pixels that a map speaks of."""

    hand_faces: Int[np.ndarray, "F 3"]
    faces: Int[np.ndarray, "B G 3"]
    hand_codes: Float[np.ndarray, "V 3"]
    """Metres; one row where no codes are compared."""
    codes: Float[np.ndarray, "B W 3"]
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
        _pull_pixels(
            first, last, posed.hand, posed.object, posed.ids, posed.depth, posed.object_center,
            self.hand_faces, self.faces, self.hand_codes, self.codes,
            self.start, self.index, self.table, self.weights, self.settings,
            values, pull.hand, pull.force, pull.torque,
        )  # fmt: skip


def _made(
    scene: Scene,
    scale: Float[Tensor, "B 2 H W"],
    weight: float,
    repeats: Any,
    settings: dict[int, float],
    *,
    codes: tuple[Tensor, Tensor] | None = None,
    target: Float[Tensor, "B 2 3 H W"] | None = None,
    depth: Float[Tensor, "B H W"] | None = None,
) -> FusedPixels:
    """The pixels whose ``scale`` is above 0, with the maps' codes (metres) or depths there."""
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
    hand_codes, thing_codes = codes or (torch.zeros(1, 3), torch.zeros(batch, 1, 3))
    model, thing = scene.hand_model, scene.features.object
    return FusedPixels(
        model.faces.int().contiguous().numpy(), thing.faces.int().contiguous().numpy(), single(hand_codes),
        single(thing_codes), start, index, single(table), single(shares), single(numbers),
    )  # fmt: skip


def code_maker(
    scene: Scene, weight: float, *, hand_mask: Tensor, object_mask: Tensor, hand_coords: Tensor, object_coords: Tensor,
    hand_confidence: Tensor | None, object_confidence: Tensor | None, confidence: bool, sigma: Any, kernel: float,
    repeats: Any, **_: Any,
) -> FusedPixels:  # fmt: skip
    """Maker of ``rendered_code``."""
    model, thing = scene.hand_model, scene.features.object
    units = torch.stack([torch.full_like(thing.scale, model.code_scale), thing.scale], 1)
    target = torch.stack([hand_coords, object_coords], 1) * units[:, :, None, None, None]
    codes = model.codes * model.code_scale, thing.codes * thing.scale[:, None, None]
    scale = visible(hand_mask, object_mask) / spread_of(sigma, hand_mask)[..., None, None].square()
    trust = both(hand_confidence, object_confidence, confidence)
    settings = {CODE_BOUND: bound(kernel), CODE_UNSEEN: max(kernel, 0.0) ** 2}
    return _made(
        scene, scale if trust is None else scale * trust, weight, repeats, settings, codes=codes, target=target
    )


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
