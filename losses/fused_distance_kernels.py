"""Numba kernels behind the fused losses on signed distances (``losses.fused_distance``).

A grid's value and slope come from the same eight nodes, interpolated as :meth:`horefine.distance.DistanceGrid.sample`
does. All in one file, because numba's cache notices changes only in the file of the outermost function.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["pull_contact", "pull_fields", "pull_penetration"]

_WAYS = {"nogil": True, "error_model": "numpy", "fastmath": {"nsz", "arcp", "contract", "reassoc"}}
_jit, _inline_jit = njit(cache=True, **_WAYS), njit(forceinline=True, **_WAYS)
ZERO, ONE, TWO, TINY = np.float32(0), np.float32(1), np.float32(2), np.float32(1e-12)


@_inline_jit
def _between(grid, i, j, k, x, y, z):
    """Value and slopes, per node, at a place within the cell (i, j, k)."""
    a, b = grid[i, j, k], grid[i, j, k + 1]
    c, d = grid[i, j + 1, k], grid[i, j + 1, k + 1]
    e, f = grid[i + 1, j, k], grid[i + 1, j, k + 1]
    g, h = grid[i + 1, j + 1, k], grid[i + 1, j + 1, k + 1]
    p, q, r, s = a + z * (b - a), c + z * (d - c), e + z * (f - e), g + z * (h - g)
    low, high = p + y * (q - p), r + y * (s - r)
    by_y = (q - p) + x * ((s - r) - (q - p))
    low_z, high_z = (b - a) + y * ((d - c) - (b - a)), (f - e) + y * ((h - g) - (f - e))
    return low + x * (high - low), high - low, by_y, low_z + x * (high_z - low_z)


@_inline_jit
def _node(index, last):
    """The node before a place along an axis; one that is there even where the place is not a number."""
    return max(min(int(index), last - 1), 0)


@_inline_jit
def _sample(grid, origin, spacing, x, y, z):
    """Signed distance, its slopes, and how far outside the grid the point is (``DistanceGrid.sample``)."""
    last = grid.shape[0] - 1
    side = np.float32(last) * spacing
    cx, cy, cz = x - origin[0], y - origin[1], z - origin[2]
    ix, iy, iz = min(max(cx, ZERO), side), min(max(cy, ZERO), side), min(max(cz, ZERO), side)
    ox, oy, oz = cx - ix, cy - iy, cz - iz
    inverse = ONE / spacing
    u, v, w = ix * inverse, iy * inverse, iz * inverse
    i, j, k = _node(u, last), _node(v, last), _node(w, last)
    value, sx, sy, sz = _between(grid, i, j, k, u - np.float32(i), v - np.float32(j), w - np.float32(k))
    square = ox * ox + oy * oy + oz * oz
    if square > ZERO:
        out = np.float32(math.sqrt(square))
        value += out
        sx = ox / out if ox != ZERO else sx * inverse
        sy = oy / out if oy != ZERO else sy * inverse
        sz = oz / out if oz != ZERO else sz * inverse
        return value, sx, sy, sz, ox, oy, oz
    return value, sx * inverse, sy * inverse, sz * inverse, ZERO, ZERO, ZERO


@_inline_jit
def _local(turn, transl, x, y, z):
    """A camera-frame point in the object's frame."""
    x, y, z = x - transl[0], y - transl[1], z - transl[2]
    return (
        turn[0, 0] * x + turn[1, 0] * y + turn[2, 0] * z,
        turn[0, 1] * x + turn[1, 1] * y + turn[2, 1] * z,
        turn[0, 2] * x + turn[1, 2] * y + turn[2, 2] * z,
    )


@_inline_jit
def _turned(turn, x, y, z):
    """A direction of the object's frame in the camera frame."""
    return (
        turn[0, 0] * x + turn[0, 1] * y + turn[0, 2] * z,
        turn[1, 0] * x + turn[1, 1] * y + turn[1, 2] * z,
        turn[2, 0] * x + turn[2, 1] * y + turn[2, 2] * z,
    )


@_inline_jit
def _push(x, y, z, gx, gy, gz, center, force, torque):
    """What pulls with (gx, gy, gz) on the point pulls on the object the other way."""
    rx, ry, rz = x - center[0], y - center[1], z - center[2]
    force[0] -= gx
    force[1] -= gy
    force[2] -= gz
    torque[0] -= ry * gz - rz * gy
    torque[1] -= rz * gx - rx * gz
    torque[2] -= rx * gy - ry * gx


@_jit
def pull_penetration(
    first, last, hand, joints, turn, transl, center, grid, origin, spacing, box, area, places, shares, ring, ratio,
    tolerance, values, pull, pull_joints, force, torque,
):  # fmt: skip
    """Adds the sum of ``area depth^2`` over vertices and inner balls, and its gradient.

    ``box``: two corners of a box, in the object's frame, outside of which no vertex is inside the object, and the
    object's own two.
    """
    count = hand.shape[1]
    for b in range(first, last):
        total = 0.0
        for v in range(count):
            x, y, z = hand[b, v, 0], hand[b, v, 1], hand[b, v, 2]
            lx, ly, lz = _local(turn[b], transl[b], x, y, z)
            if lx < box[b, 0, 0] or ly < box[b, 0, 1] or lz < box[b, 0, 2]:
                continue
            if lx > box[b, 1, 0] or ly > box[b, 1, 1] or lz > box[b, 1, 2]:
                continue
            value, sx, sy, sz, _, _, _ = _sample(grid[b], origin[b], spacing[b], lx, ly, lz)
            depth = -value - tolerance
            if depth <= ZERO:
                continue
            total += area[v] * depth * depth
            slope = -TWO * area[v] * depth
            gx, gy, gz = _turned(turn[b], slope * sx, slope * sy, slope * sz)
            pull[b, v, 0] += gx
            pull[b, v, 1] += gy
            pull[b, v, 2] += gz
            _push(x, y, z, gx, gy, gz, center[b], force[b], torque[b])
        for n in range(places.shape[0]):
            x, y, z = ZERO, ZERO, ZERO
            for m in range(places.shape[1]):
                at, share = joints[b, places[n, m]], shares[n, m]
                x, y, z = x + share * at[0], y + share * at[1], z + share * at[2]
            lx, ly, lz = _local(turn[b], transl[b], x, y, z)
            # the first vertex around it is no nearer than the nearest: most balls are done with here
            dx, dy, dz = hand[b, ring[n, 0], 0] - x, hand[b, ring[n, 0], 1] - y, hand[b, ring[n, 0], 2] - z
            most = ratio[n] * ratio[n] * (dx * dx + dy * dy + dz * dz)
            # nodes are no nearer to the object than to its box, but for what fitting the grid has changed
            ox = max(max(box[b, 2, 0] - lx, lx - box[b, 3, 0]) - spacing[b] + tolerance, ZERO)
            oy = max(max(box[b, 2, 1] - ly, ly - box[b, 3, 1]) - spacing[b] + tolerance, ZERO)
            oz = max(max(box[b, 2, 2] - lz, lz - box[b, 3, 2]) - spacing[b] + tolerance, ZERO)
            if most <= ox * ox + oy * oy + oz * oz:
                continue
            value, sx, sy, sz, _, _, _ = _sample(grid[b], origin[b], spacing[b], lx, ly, lz)
            free = value + tolerance
            if free > ZERO and most <= free * free:
                continue
            nearest, v = np.float32(np.inf), 0
            for m in range(ring.shape[1]):
                i = ring[n, m]
                dx, dy, dz = hand[b, i, 0] - x, hand[b, i, 1] - y, hand[b, i, 2] - z
                square = dx * dx + dy * dy + dz * dz
                if square < nearest:
                    nearest, v = square, i
            reach = np.float32(math.sqrt(nearest))
            depth = ratio[n] * reach - value - tolerance
            if depth <= ZERO:
                continue
            total += area[count + n] * depth * depth
            slope = TWO * area[count + n] * depth
            gx, gy, gz = _turned(turn[b], -slope * sx, -slope * sy, -slope * sz)
            _push(x, y, z, gx, gy, gz, center[b], force[b], torque[b])
            outward = slope * ratio[n] / max(reach, TINY)  # the ball grows when the skin moves away
            ex, ey, ez = outward * (hand[b, v, 0] - x), outward * (hand[b, v, 1] - y), outward * (hand[b, v, 2] - z)
            pull[b, v, 0] += ex
            pull[b, v, 1] += ey
            pull[b, v, 2] += ez
            for m in range(places.shape[1]):
                at, share = places[n, m], shares[n, m]
                pull_joints[b, at, 0] += share * (gx - ex)
                pull_joints[b, at, 1] += share * (gy - ey)
                pull_joints[b, at, 2] += share * (gz - ez)
        values[b] += total


@_jit
def pull_contact(
    first, last, hand, turn, transl, center, grid, origin, spacing, start, vertex, radius, softness, weight,
    values, pull, force, torque,
):  # fmt: skip
    """Adds Tukey's biweight of each region's soft distance to the object, and its gradient.

    Vertices of region r are ``vertex[start[r]]`` to ``vertex[start[r + 1]]``. ``radius`` and ``softness`` in metres.
    """
    most = 0
    for r in range(start.shape[0] - 1):
        most = max(most, start[r + 1] - start[r])
    distance, share, slope = np.empty(most, np.float32), np.empty(most, np.float32), np.empty((most, 3), np.float32)
    for b in range(first, last):
        total = 0.0
        for r in range(start.shape[0] - 1):
            count, low = start[r + 1] - start[r], np.float32(np.inf)
            for n in range(count):
                v = vertex[start[r] + n]
                lx, ly, lz = _local(turn[b], transl[b], hand[b, v, 0], hand[b, v, 1], hand[b, v, 2])
                distance[n], slope[n, 0], slope[n, 1], slope[n, 2], _, _, _ = _sample(
                    grid[b], origin[b], spacing[b], lx, ly, lz
                )  # fmt: skip
                low = min(low, distance[n])
            whole, mean = ZERO, ZERO
            for n in range(count):
                share[n] = math.exp((low - distance[n]) / softness)
                whole += share[n]
                mean += share[n] * distance[n]
            mean /= whole
            gap = mean / radius
            near = ONE - gap * gap
            if not near > ZERO:
                total += weight if near <= ZERO else near
                continue
            total += weight * (ONE - near * near * near)
            pulled = np.float32(6) * weight * gap * near * near / (radius * whole)
            for n in range(count):
                own = pulled * share[n] * (ONE - (distance[n] - mean) / softness)
                v = vertex[start[r] + n]
                gx, gy, gz = _turned(turn[b], own * slope[n, 0], own * slope[n, 1], own * slope[n, 2])
                pull[b, v, 0] += gx
                pull[b, v, 1] += gy
                pull[b, v, 2] += gz
                _push(hand[b, v, 0], hand[b, v, 1], hand[b, v, 2], gx, gy, gz, center[b], force[b], torque[b])
        values[b] += total


@_inline_jit
def _miss(grid, origin, spacing, x, y, z, per_sigma, per_margin):
    """How far a point is off the zero level, 0 to 1, and its slope; one over sigma and margin, squared."""
    value, sx, sy, sz, ox, oy, oz = _sample(grid, origin, spacing, x, y, z)
    part = ONE / (ONE + value * value * per_sigma)
    trust = np.float32(math.exp(-(ox * ox + oy * oy + oz * oz) * per_margin))
    near, away = TWO * trust * part * part * value * per_sigma, TWO * trust * part * per_margin
    return ONE - trust * part, near * sx + away * ox, near * sy + away * oy, near * sz + away * oz


@_jit
def pull_fields(
    first, last, hand, turn, transl, center, points, hand_grid, hand_origin, hand_spacing,
    grid, origin, spacing, area, share, per_sigma, per_margin, values, pull, force, torque,
):  # fmt: skip
    """Adds what the surfaces are off the zero levels of two fields, camera frame, and its gradient.

    ``area`` of each vertex of the hand and ``share`` of each point of the object: the weight of its miss.
    """
    for b in range(first, last):
        total = 0.0
        for v in range(hand.shape[1]):
            cost, gx, gy, gz = _miss(
                hand_grid[b], hand_origin[b], hand_spacing[b], hand[b, v, 0], hand[b, v, 1], hand[b, v, 2],
                per_sigma, per_margin,
            )  # fmt: skip
            total += area[v] * cost
            pull[b, v, 0] += area[v] * gx
            pull[b, v, 1] += area[v] * gy
            pull[b, v, 2] += area[v] * gz
        for n in range(points.shape[1]):
            x, y, z = _turned(turn[b], points[b, n, 0], points[b, n, 1], points[b, n, 2])
            x, y, z = x + transl[b, 0], y + transl[b, 1], z + transl[b, 2]
            cost, gx, gy, gz = _miss(grid[b], origin[b], spacing[b], x, y, z, per_sigma, per_margin)
            total += share * cost
            _push(x, y, z, -share * gx, -share * gy, -share * gz, center[b], force[b], torque[b])
        values[b] += total
