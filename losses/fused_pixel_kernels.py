"""Numba kernels behind the fused losses on what is rendered at a pixel (``losses.fused_pixels``).

The renderer says which face a pixel sees. Where its ray meets the plane of that face, the code and the depth there and
how they change when the face moves are the renderer's own formulas (:mod:`horefine.render.kernels`, written out here
because numba's cache notices changes only in the file of the outermost function).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = [
    "CODE_BOUND",
    "CODE_UNSEEN",
    "DEPTH_BOUND",
    "DEPTH_UNSEEN",
    "FARTHEST",
    "ROOTED",
    "pull_colors",
    "pull_pixels",
]

_jit = njit(cache=True, nogil=True, error_model="numpy", fastmath={"nsz", "arcp", "contract", "reassoc"})
ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
THIRD = np.float32(1 / 3)
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
def _painted(one, two):
    """Shares of the three corners in what is painted."""
    second, third = min(max(one, ZERO), ONE), min(max(two, ZERO), ONE)
    return max(ONE - second - third, ZERO), second, third


@_jit
def _code_pull(codes, a, b, c, one, two, table, n, settings, weight):
    """Cost of the code seen, and its slope to the barycentrics of the second and the third corner."""
    scale = table[n, CODE_SCALE]
    if scale <= ZERO:
        return ZERO, ZERO, ZERO
    first, second, third = _painted(one, two)
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
def _face_pull(ax, ay, az, ux, uy, uz, wx, wy, wz, nx, ny, nz, along, one, two, dx, dy, by_one, by_two, deep):
    """What pulls on a face's corners together, from the slopes to two barycentrics and to depth.

    From dw = -M^-1 dM w, M the corners as columns (:mod:`horefine.render.kernels`). Its parts are the barycentrics.
    """
    if along * along < GRAZING * GRAZING * (nx * nx + ny * ny + nz * nz) * (dx * dx + dy * dy + ONE):
        return ZERO, ZERO, ZERO
    det = nx * ax + ny * ay + nz * az
    mean = -(by_one * one + by_two * two) - deep * det / along
    inverse = -ONE / det
    return (
        (mean * nx + by_one * (wy * az - wz * ay) + by_two * (ay * uz - az * uy)) * inverse,
        (mean * ny + by_one * (wz * ax - wx * az) + by_two * (az * ux - ax * uz)) * inverse,
        (mean * nz + by_one * (wx * ay - wy * ax) + by_two * (ax * uy - ay * ux)) * inverse,
    )


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
    gx, gy, gz = _face_pull(
        ax, ay, az, ux, uy, uz, wx, wy, wz, nx, ny, nz, along, one, two, dx, dy, by_one, by_two, deep
    )  # fmt: skip
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
def pull_pixels(
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


@_jit
def _colors(thing, faces, albedo, ids, start, end, index, table, scratch, dark, offset):
    """First pass over an image's pixels: what colours are off by, and the values that have logarithms, in ``scratch``.

    The mean of the former is the light, ``offset``; returns how many pixels show the object.
    """
    offset[:] = 0.0
    count = 0
    for n in range(start, end):
        k = ids[index[n]]
        if k < 0:
            continue
        a, b, c = faces[k, 0], faces[k, 1], faces[k, 2]
        hit = _hit(thing, a, b, c, table[n, X], table[n, Y])
        first, second, third = _painted(hit[13], hit[14])
        for i in range(3):
            scratch[n, 3 + i] = max(first * albedo[a, i] + second * albedo[b, i] + third * albedo[c, i], ZERO) + dark
        red = np.float32(math.log(scratch[n, 3]))
        green = np.float32(math.log(scratch[n, 4]))
        blue = np.float32(math.log(scratch[n, 5]))
        mean = (red + green + blue) * THIRD
        scratch[n, 0] = table[n, RED] - (red - mean)
        scratch[n, 1] = table[n, GREEN] - (blue - mean)
        scratch[n, 2] = table[n, BLUE] - mean
        for i in range(3):
            offset[i] += scratch[n, i]
        count += 1
    offset /= max(count, 1)
    return count


@_jit
def pull_colors(
    first, last, thing, ids, center, faces, albedo, start, index, table, scratch, scales, kernel, light, weight,
    values, force, torque,
):  # fmt: skip
    """Adds the photometric cost of images ``first`` to ``last - 1`` and its gradient; the light does not pull.

    ``scales``: one over the squares of the sigmas of chroma and luminance, and what is added to linear values.
    ``kernel``: one over its square. ``light``: what the square of the light's chroma costs for each pixel.
    """
    ids = ids.reshape((ids.shape[0], 2, ids.shape[2] * ids.shape[3]))
    offset = np.empty(3)
    for b in range(first, last):
        count = _colors(
            thing[b], faces[b], albedo[b], ids[b, 1], start[b, 0], start[b, 1], index, table, scratch, scales[2], offset
        )
        o0, o1, o2 = np.float32(offset[0]), np.float32(offset[1]), np.float32(offset[2])
        total = (start[b, 1] - start[b, 0] - count) / np.float64(kernel)
        total += light * max(count, 1) * (o0 * o0 + o1 * o1)
        fx, fy, fz, tx, ty, tz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for n in range(start[b, 0], start[b, 1]):
            k = ids[b, 1, index[n]]
            if k < 0:
                continue
            r0, r1, r2 = scratch[n, 0] - o0, scratch[n, 1] - o1, scratch[n, 2] - o2
            square = (r0 * r0 + r1 * r1) * scales[0] + r2 * r2 * scales[1]
            share = ONE / (ONE + square * kernel)
            total += square * share
            slope = -TWO * weight * share * share
            g0, g1, g2 = slope * scales[0] * r0, slope * scales[0] * r1, slope * scales[1] * r2
            mean = (g2 - g0 - g1) * THIRD
            by_red, by_green, by_blue = (g0 + mean) / scratch[n, 3], mean / scratch[n, 4], (g1 + mean) / scratch[n, 5]
            a, at, c = faces[b, k, 0], faces[b, k, 1], faces[b, k, 2]
            own = albedo[b]
            by_one = by_red * (own[at, 0] - own[a, 0]) + by_green * (own[at, 1] - own[a, 1])
            by_one += by_blue * (own[at, 2] - own[a, 2])
            by_two = by_red * (own[c, 0] - own[a, 0]) + by_green * (own[c, 1] - own[a, 1])
            by_two += by_blue * (own[c, 2] - own[a, 2])
            dx, dy = table[n, X], table[n, Y]
            ax, ay, az, ux, uy, uz, wx, wy, wz, nx, ny, nz, along, one, two = _hit(thing[b], a, at, c, dx, dy)
            gx, gy, gz = _face_pull(
                ax, ay, az, ux, uy, uz, wx, wy, wz, nx, ny, nz, along, one, two, dx, dy, by_one, by_two, ZERO
            )  # fmt: skip
            far = (nx * ax + ny * ay + nz * az) / along
            rx, ry, rz = far * dx - center[b, 0], far * dy - center[b, 1], far - center[b, 2]
            fx, fy, fz = fx + gx, fy + gy, fz + gz
            tx, ty, tz = tx + (ry * gz - rz * gy), ty + (rz * gx - rx * gz), tz + (rx * gy - ry * gx)
        values[b] += weight * total
        force[b, 0] += fx
        force[b, 1] += fy
        force[b, 2] += fz
        torque[b, 0] += tx
        torque[b, 1] += ty
        torque[b, 2] += tz
