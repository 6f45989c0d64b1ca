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
    "CODE_SCALE",
    "CODE_UNSEEN",
    "DEPTH",
    "DEPTH_BOUND",
    "DEPTH_SCALE",
    "DEPTH_UNSEEN",
    "FARTHEST",
    "ROOTED",
    "pull_colors",
    "pull_pixels",
]

_WAYS = {"nogil": True, "error_model": "numpy", "fastmath": {"nsz", "arcp", "contract", "reassoc"}}
_jit, _inline_jit = njit(cache=True, **_WAYS), njit(forceinline=True, **_WAYS)
ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
THIRD = np.float32(1 / 3)
GRAZING = np.float32(1e-3)
"""Cosine between ray and face below which nothing pulls on the face, as in the renderer."""
X, Y, RED, GREEN, BLUE, DEPTH, CODE_SCALE, DEPTH_SCALE = range(8)
"""Columns of the table: ray (its z is 1); what the maps say there, metres: the hand's code or the place in the object's
frame, and the depth; what their squares are multiplied with."""
CODE_BOUND, DEPTH_BOUND, CODE_UNSEEN, DEPTH_UNSEEN, ROOTED, FARTHEST = range(6)
"""Settings: one over the squares of the kernels, what a pixel costs where nothing is rendered, whether depth is told
below the object's centre, the depth of the empty background (0: none)."""


# An array that is handed on to where branches are is counted in and out at every pixel, which costs more than the
# arithmetic: helpers with branches take numbers and tuples of numbers.


@_inline_jit
def _row(table, n):
    """A row of the table as numbers."""
    return (
        table[n, 0], table[n, 1], table[n, 2], table[n, 3], table[n, 4], table[n, 5], table[n, 6], table[n, 7],
    )  # fmt: skip


@_inline_jit
def _hit(points, a, b, c, dx, dy):
    """Corner A, two sides of the face there, the normal n, 1 / n.d, barycentrics of B and C, and the ray's x and y."""
    ax, ay, az = points[a, 0], points[a, 1], points[a, 2]
    ux, uy, uz = points[b, 0] - ax, points[b, 1] - ay, points[b, 2] - az
    wx, wy, wz = points[c, 0] - ax, points[c, 1] - ay, points[c, 2] - az
    nx, ny, nz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
    along = nx * dx + ny * dy + nz
    ex, ey, ez = ay - az * dy, az * dx - ax, ax * dy - ay * dx
    inverse = ONE / along
    one, two = (wx * ex + wy * ey + wz * ez) * inverse, -(ux * ex + uy * ey + uz * ez) * inverse
    return ax, ay, az, ux, uy, uz, wx, wy, wz, nx, ny, nz, inverse, one, two, dx, dy


@_inline_jit
def _painted(values, a, b, c, one, two):
    """Three values at the hit, as painted, and how they differ at the second and the third corner from the first."""
    second, third = min(max(one, ZERO), ONE), min(max(two, ZERO), ONE)
    first = max(ONE - second - third, ZERO)
    v0, v1, v2 = values[a, 0], values[a, 1], values[a, 2]
    s0, s1, s2 = values[b, 0], values[b, 1], values[b, 2]
    t0, t1, t2 = values[c, 0], values[c, 1], values[c, 2]
    seen = (
        first * v0 + second * s0 + third * t0, first * v1 + second * s1 + third * t1,
        first * v2 + second * s2 + third * t2,
    )  # fmt: skip
    return seen, (s0 - v0, s1 - v1, s2 - v2), (t0 - v0, t1 - v1, t2 - v2)


@_inline_jit
def _code_pull(painted, row, settings, weight):
    """Cost of the code seen, and its slope to the barycentrics of the second and the third corner."""
    seen, second, third = painted
    scale, r0, r1, r2 = row[CODE_SCALE], seen[0] - row[RED], seen[1] - row[GREEN], seen[2] - row[BLUE]
    square = scale * (r0 * r0 + r1 * r1 + r2 * r2)
    share = ONE / (ONE + square * settings[CODE_BOUND])
    slope = TWO * weight * scale * share * share
    by_second = slope * (r0 * second[0] + r1 * second[1] + r2 * second[2])
    by_third = slope * (r0 * third[0] + r1 * third[1] + r2 * third[2])
    return weight * square * share, by_second, by_third


@_inline_jit
def _depth_pull(z, row, settings, weight):
    """Cost of a depth and its slope; nothing where the row has none."""
    scale, gap = row[DEPTH_SCALE], z - row[DEPTH]
    square = scale * gap * gap
    share = ONE / (ONE + square * settings[DEPTH_BOUND])
    return weight * square * share, TWO * weight * scale * share * share * gap


@_inline_jit
def _face_pull(hit, by_one, by_two, deep):
    """What pulls on a face's corners together, from the slopes to two barycentrics and to depth.

    From dw = -M^-1 dM w, M the corners as columns (:mod:`horefine.render.kernels`). Its parts are the barycentrics.
    """
    ax, ay, az, ux, uy, uz, wx, wy, wz, nx, ny, nz, inverse, one, two, dx, dy = hit
    if ONE < GRAZING * GRAZING * inverse * inverse * (nx * nx + ny * ny + nz * nz) * (dx * dx + dy * dy + ONE):
        return ZERO, ZERO, ZERO
    along = deep * inverse
    if by_one == ZERO and by_two == ZERO:
        return along * nx, along * ny, along * nz
    det = ONE / (nx * ax + ny * ay + nz * az)
    along += (by_one * one + by_two * two) * det
    by_one, by_two = -by_one * det, -by_two * det
    return (
        along * nx + by_one * (wy * az - wz * ay) + by_two * (ay * uz - az * uy),
        along * ny + by_one * (wz * ax - wx * az) + by_two * (az * ux - ax * uz),
        along * nz + by_one * (wx * ay - wy * ax) + by_two * (ax * uy - ay * ux),
    )


@_inline_jit
def _unseen(root, row, settings, weights):
    """Costs of a pixel where nothing is rendered, code's and depth's, and the slope to the depth there."""
    code = weights[0] * settings[CODE_UNSEEN] if row[CODE_SCALE] > ZERO else ZERO
    if settings[FARTHEST] > ZERO:
        cost, deep = _depth_pull(settings[FARTHEST] - root, row, settings, weights[1])
        return code, cost, deep
    return code, weights[1] * settings[DEPTH_UNSEEN] if row[DEPTH_SCALE] > ZERO else ZERO, ZERO


@_jit
def _pull_hand(points, faces, codes, ids, depth, index, table, first, last, root, settings, weights, pull):
    """Cost of codes and of depths in rows ``first`` to ``last - 1``, and their slope to the root's depth."""
    code, deep, rooted = 0.0, 0.0, 0.0
    for number in range(first, last):
        n = np.uintp(number)
        row, place = _row(table, n), np.uintp(index[n])
        k = ids[place]
        if k < 0:
            cost, more, slope = _unseen(root, row, settings, weights)
            code, deep, rooted = code + cost, deep + more, rooted + slope
            continue
        a, b, c = np.uintp(faces[k, 0]), np.uintp(faces[k, 1]), np.uintp(faces[k, 2])
        hit = _hit(points, a, b, c, row[X], row[Y])
        one, two = hit[13], hit[14]
        by_one, by_two = ZERO, ZERO
        if row[CODE_SCALE] > ZERO:
            cost, by_one, by_two = _code_pull(_painted(codes, a, b, c, one, two), row, settings, weights[0])
            code += cost
        more, slope = _depth_pull(depth[place] - root, row, settings, weights[1])
        deep, rooted = deep + more, rooted + slope
        gx, gy, gz = _face_pull(hit, by_one, by_two, slope)
        rest = ONE - one - two
        pull[a, 0] += rest * gx
        pull[a, 1] += rest * gy
        pull[a, 2] += rest * gz
        pull[b, 0] += one * gx
        pull[b, 1] += one * gy
        pull[b, 2] += one * gz
        pull[c, 0] += two * gx
        pull[c, 1] += two * gy
        pull[c, 2] += two * gz
    return code, deep, rooted


@_inline_jit
def _place_pull(x, y, z, turn, transl, row, settings, weight):
    """Cost of a camera-frame point of the object that should be where the map says in its own frame, and the slope.

    A code of the object is a place in its frame, so no corner is looked at. The slope is one of the camera frame.
    """
    x, y, z = x - transl[0], y - transl[1], z - transl[2]
    r0 = turn[0] * x + turn[3] * y + turn[6] * z - row[RED]
    r1 = turn[1] * x + turn[4] * y + turn[7] * z - row[GREEN]
    r2 = turn[2] * x + turn[5] * y + turn[8] * z - row[BLUE]
    scale = row[CODE_SCALE]
    square = scale * (r0 * r0 + r1 * r1 + r2 * r2)
    share = ONE / (ONE + square * settings[CODE_BOUND])
    slope = TWO * weight * scale * share * share
    r0, r1, r2 = slope * r0, slope * r1, slope * r2
    return (
        weight * square * share, turn[0] * r0 + turn[1] * r1 + turn[2] * r2,
        turn[3] * r0 + turn[4] * r1 + turn[5] * r2, turn[6] * r0 + turn[7] * r1 + turn[8] * r2,
    )  # fmt: skip


@_inline_jit
def _plane_pull(nx, ny, nz, dx, dy, px, py, pz, deep):
    """What pulls on a body at the point that a ray sees of it, from the slopes to that place in its frame and to depth.

    A body that moves by u shows the ray a point further along by n.u / n.d, which is the place -(u - d n.u / n.d) away.
    """
    along = nx * dx + ny * dy + nz
    if along * along < GRAZING * GRAZING * (nx * nx + ny * ny + nz * nz) * (dx * dx + dy * dy + ONE):
        return ZERO, ZERO, ZERO
    share = (px * dx + py * dy + pz + deep) / along
    return share * nx - px, share * ny - py, share * nz - pz


@_jit
def _pull_object(
    normals, turn, transl, ids, depth, index, table, first, last, root, settings, weights, center, force, torque
):
    """The same for the object, which is pulled on as a whole."""
    code, deep, rooted = 0.0, 0.0, 0.0
    fx, fy, fz, tx, ty, tz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for number in range(first, last):
        n = np.uintp(number)
        row, place = _row(table, n), np.uintp(index[n])
        k = ids[place]
        if k < 0:
            cost, more, slope = _unseen(root, row, settings, weights)
            code, deep, rooted = code + cost, deep + more, rooted + slope
            continue
        a, b, c = normals[k, 0], normals[k, 1], normals[k, 2]
        nx = turn[0] * a + turn[1] * b + turn[2] * c
        ny = turn[3] * a + turn[4] * b + turn[5] * c
        nz = turn[6] * a + turn[7] * b + turn[8] * c
        z = depth[place]
        x, y = z * row[X], z * row[Y]
        cost, px, py, pz = _place_pull(x, y, z, turn, transl, row, settings, weights[0])
        more, slope = _depth_pull(z - root, row, settings, weights[1])
        code, deep, rooted = code + cost, deep + more, rooted + slope
        gx, gy, gz = _plane_pull(nx, ny, nz, row[X], row[Y], px, py, pz, slope)
        rx, ry, rz = x - center[0], y - center[1], z - center[2]
        fx, fy, fz = fx + gx, fy + gy, fz + gz
        tx, ty, tz = tx + (ry * gz - rz * gy), ty + (rz * gx - rx * gz), tz + (rx * gy - ry * gx)
    force[0] += fx
    force[1] += fy
    force[2] += fz
    torque[0] += tx
    torque[1] += ty
    torque[2] += tz
    return code, deep, rooted


@_jit
def pull_pixels(
    first, last, hand, turn, transl, center, ids, depth, hand_faces, hand_codes, normals,
    start, index, table, weights, settings, code_values, depth_values, pull, force, torque,
):  # fmt: skip
    """Adds cost and gradient of images ``first`` to ``last - 1``.

    Rows ``start[b, 0]`` to ``start[b, 1]`` of ``index`` and ``table`` are pixels of the hand, those up to ``start[b,
    2]`` the object's. ``weights`` of hand and object, code and depth, "B 2 2".
    """
    shape = (ids.shape[0], 2, ids.shape[2] * ids.shape[3])
    ids, depth = ids.reshape(shape), depth.reshape(shape)
    numbers = settings[0], settings[1], settings[2], settings[3], settings[4], settings[5]
    for b in range(first, last):
        root, r = settings[ROOTED] * center[b, 2], turn[b]
        code, deep, rooted = _pull_hand(
            hand[b], hand_faces, hand_codes, ids[b, 0], depth[b, 0], index, table, start[b, 0], start[b, 1],
            root, numbers, (weights[b, 0, 0], weights[b, 0, 1]), pull[b],
        )  # fmt: skip
        more_code, more_deep, more_rooted = _pull_object(
            normals[b], (r[0, 0], r[0, 1], r[0, 2], r[1, 0], r[1, 1], r[1, 2], r[2, 0], r[2, 1], r[2, 2]),
            (transl[b, 0], transl[b, 1], transl[b, 2]), ids[b, 1], depth[b, 1], index, table, start[b, 1], start[b, 2],
            root, numbers, (weights[b, 1, 0], weights[b, 1, 1]), (center[b, 0], center[b, 1], center[b, 2]),
            force[b], torque[b],
        )  # fmt: skip
        code_values[b] += code + more_code
        depth_values[b] += deep + more_deep
        force[b, 2] -= settings[ROOTED] * (rooted + more_rooted)


@_inline_jit
def _logs(seen, dark):
    """Red and blue chroma and luminance (``appearance.log_color``), and the values that have logarithms."""
    red, green, blue = max(seen[0], ZERO) + dark, max(seen[1], ZERO) + dark, max(seen[2], ZERO) + dark
    logs = np.float32(math.log(red)), np.float32(math.log(green)), np.float32(math.log(blue))
    mean = (logs[0] + logs[1] + logs[2]) * THIRD
    return logs[0] - mean, logs[2] - mean, mean, red, green, blue


@_jit
def _colors(points, faces, albedo, ids, index, table, first, last, dark, scratch):
    """First pass over an image's pixels: what colours are off by, and the values that have logarithms, in ``scratch``.

    Returns how many pixels show the object, and the mean of what colours are off by: the light.
    """
    count, o0, o1, o2 = 0, 0.0, 0.0, 0.0
    for number in range(first, last):
        n = np.uintp(number)
        k = ids[np.uintp(index[n])]
        if k < 0:
            continue
        a, b, c = np.uintp(faces[k, 0]), np.uintp(faces[k, 1]), np.uintp(faces[k, 2])
        hit = _hit(points, a, b, c, table[n, X], table[n, Y])
        seen, _, _ = _painted(albedo, a, b, c, hit[13], hit[14])
        own = _logs(seen, dark)
        r0, r1, r2 = table[n, RED] - own[0], table[n, GREEN] - own[1], table[n, BLUE] - own[2]
        scratch[n, 0], scratch[n, 1], scratch[n, 2] = r0, r1, r2
        scratch[n, 3], scratch[n, 4], scratch[n, 5] = own[3], own[4], own[5]
        count, o0, o1, o2 = count + 1, o0 + r0, o1 + r1, o2 + r2
    some = max(count, 1)
    return count, np.float32(o0 / some), np.float32(o1 / some), np.float32(o2 / some)


@_inline_jit
def _color_pull(r0, r1, r2, red, green, blue, second, third, scales, kernel):
    """Cost of a colour, and its slope to the barycentrics of the second and the third corner."""
    square = (r0 * r0 + r1 * r1) * scales[0] + r2 * r2 * scales[1]
    share = ONE / (ONE + square * kernel)
    slope = -TWO * share * share
    g0, g1, g2 = slope * scales[0] * r0, slope * scales[0] * r1, slope * scales[1] * r2
    mean = (g2 - g0 - g1) * THIRD
    by_red, by_green, by_blue = (g0 + mean) / red, mean / green, (g1 + mean) / blue
    by_one = by_red * second[0] + by_green * second[1] + by_blue * second[2]
    return square * share, by_one, by_red * third[0] + by_green * third[1] + by_blue * third[2]


@_jit
def _pull_colors(
    points,
    faces,
    albedo,
    ids,
    index,
    table,
    scratch,
    first,
    last,
    center,
    offset,
    scales,
    kernel,
    weight,
    force,
    torque,
):
    """Second pass: the cost of an image's pixels that show the object, and what pulls on it."""
    total, fx, fy, fz, tx, ty, tz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for number in range(first, last):
        n = np.uintp(number)
        k = ids[np.uintp(index[n])]
        if k < 0:
            continue
        a, b, c = np.uintp(faces[k, 0]), np.uintp(faces[k, 1]), np.uintp(faces[k, 2])
        dx, dy = table[n, X], table[n, Y]
        hit = _hit(points, a, b, c, dx, dy)
        _, second, third = _painted(albedo, a, b, c, hit[13], hit[14])
        cost, by_one, by_two = _color_pull(
            scratch[n, 0] - offset[0], scratch[n, 1] - offset[1], scratch[n, 2] - offset[2],
            scratch[n, 3], scratch[n, 4], scratch[n, 5], second, third, scales, kernel,
        )  # fmt: skip
        total += cost
        gx, gy, gz = _face_pull(hit, weight * by_one, weight * by_two, ZERO)
        far = (hit[9] * hit[0] + hit[10] * hit[1] + hit[11] * hit[2]) * hit[12]
        rx, ry, rz = far * dx - center[0], far * dy - center[1], far - center[2]
        fx, fy, fz = fx + gx, fy + gy, fz + gz
        tx, ty, tz = tx + (ry * gz - rz * gy), ty + (rz * gx - rx * gz), tz + (rx * gy - ry * gx)
    force[0] += fx
    force[1] += fy
    force[2] += fz
    torque[0] += tx
    torque[1] += ty
    torque[2] += tz
    return total


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
    for b in range(first, last):
        begin, end = start[b, 0], start[b, 1]
        count, o0, o1, o2 = _colors(
            thing[b], faces[b], albedo[b], ids[b, 1], index, table, begin, end, scales[2], scratch
        )
        total = _pull_colors(
            thing[b], faces[b], albedo[b], ids[b, 1], index, table, scratch, begin, end, center[b], (o0, o1, o2),
            (scales[0], scales[1]), kernel, weight, force[b], torque[b],
        )  # fmt: skip
        total += (end - begin - count) / np.float64(kernel) + light * max(count, 1) * (o0 * o0 + o1 * o1)
        values[b] += weight * total
