"""Numba kernels of touch and of joint angles as squares, image by image, in the precision given.

The readable twins are ``contact.spring_length``, ``contact.inside_depth`` with ``DistanceGrid.sample`` under autograd,
and ``anatomy.anatomy_angles``. A kernel adds the cost to ``total``, and with ``sloped`` writes rows. (After a change
of ``hand_kernels.turn_matrix`` touch this file: numba's cache does not notice.)
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from horefine.hand_kernels import turn_matrix

__all__ = ["BLOCK", "block_least", "joint_angles", "penetration", "springs"]

BLOCK = 4
"""Cells of a distance grid along each side of a block."""
_jit = njit(cache=True, nogil=True, error_model="numpy", fastmath={"nsz", "arcp", "contract", "reassoc"})


@_jit
def _write_wrench(wrench, x, y, z, s0, s1, s2):
    """Of a residual that grows by -s per metre that the object moves, at (x, y, z) from its centre."""
    wrench[0], wrench[1], wrench[2] = -s0, -s1, -s2
    wrench[3], wrench[4], wrench[5] = z * s1 - y * s2, x * s2 - z * s0, y * s0 - x * s1


@_jit
def springs(
    hand, faces, shares, anchor, local, turn, transl, center, length, weight, sigma, sloped, total,
    values, slope, wrench, point, share, row_weight,
):  # fmt: skip
    """Springs (B S) from points of the object (``local``, object frame; ``turn`` has its size in it) to anchors."""
    for b in range(hand.shape[0]):
        points, t = hand[b], turn[b]
        cost = 0.0
        for n in range(anchor.shape[1]):
            w = np.float64(weight[b, n])
            if not w > 0:
                continue
            a = anchor[b, n]
            i, j, k = faces[a, 0], faces[a, 1], faces[a, 2]
            second, third = shares[a, 0], shares[a, 1]
            first = 1 - second - third
            u, v, q = local[b, n, 0], local[b, n, 1], local[b, n, 2]
            ex = t[0, 0] * u + t[0, 1] * v + t[0, 2] * q + transl[b, 0]
            ey = t[1, 0] * u + t[1, 1] * v + t[1, 2] * q + transl[b, 1]
            ez = t[2, 0] * u + t[2, 1] * v + t[2, 2] * q + transl[b, 2]
            x = first * points[i, 0] + second * points[j, 0] + third * points[k, 0] - ex
            y = first * points[i, 1] + second * points[j, 1] + third * points[k, 1] - ey
            z = first * points[i, 2] + second * points[j, 2] + third * points[k, 2] - ez
            distance = math.sqrt(x * x + y * y + z * z)
            value = (distance - length[b, n]) / sigma
            square = value * value
            cost += w * square / (1 + square)
            if not sloped:
                continue
            inverse = 1 / (max(distance, 1e-9) * sigma)
            s0, s1, s2 = x * inverse, y * inverse, z * inverse
            values[b, n, 0] = value
            slope[b, n, 0, 0], slope[b, n, 0, 1], slope[b, n, 0, 2] = s0, s1, s2
            _write_wrench(wrench[b, n, 0], ex - center[b, 0], ey - center[b, 1], ez - center[b, 2], s0, s1, s2)
            point[b, n, 0], point[b, n, 1], point[b, n, 2] = i, j, k
            share[b, n, 0], share[b, n, 1], share[b, n, 2] = first, second, third
            row_weight[b, n] = w / ((1 + square) * (1 + square))
        total[b] += cost


@_jit
def block_least(grid, least):
    """Writes the least value of the cells in each block of :data:`BLOCK` cells a side (B D D D to B N N N)."""
    size = grid.shape[1]
    for b in range(grid.shape[0]):
        for i in range(least.shape[1]):
            for j in range(least.shape[2]):
                for k in range(least.shape[3]):
                    found = grid[b, BLOCK * i, BLOCK * j, BLOCK * k]
                    for x in range(BLOCK * i, min(BLOCK * (i + 1) + 1, size)):
                        for y in range(BLOCK * j, min(BLOCK * (j + 1) + 1, size)):
                            for z in range(BLOCK * k, min(BLOCK * (k + 1) + 1, size)):
                                found = min(found, grid[b, x, y, z])
                    least[b, i, j, k] = found


@_jit
def _at_least(least, size, origin, spacing, x, y, z):
    """A lower bound of :func:`_sample`, from the blocks: most of a hand is told from it to be far away, and they fit
    into a cache that the grid does not."""
    inverse = 1 / np.float64(spacing)
    x, y, z = (x - origin[0]) * inverse, (y - origin[1]) * inverse, (z - origin[2]) * inverse
    return least[_node(x, size) // BLOCK, _node(y, size) // BLOCK, _node(z, size) // BLOCK]


@_jit
def _node(part, size):
    """The node before a place along an axis (in nodes); one that is there even where the place is none."""
    return int(min(max(part, 0.0), size - 2.0))


@_jit
def _sample(grid, origin, spacing, x, y, z):
    """``DistanceGrid.sample`` at one point, and its slope. No arrays: they cost more than all else here."""
    size, inverse = grid.shape[0], 1 / np.float64(spacing)
    x, y, z = (x - origin[0]) * inverse, (y - origin[1]) * inverse, (z - origin[2]) * inverse
    u, v, w = min(max(x, 0.0), size - 1.0), min(max(y, 0.0), size - 1.0), min(max(z, 0.0), size - 1.0)
    ox, oy, oz = (x - u) * spacing, (y - v) * spacing, (z - w) * spacing
    i, j, k = _node(u, size), _node(v, size), _node(w, size)
    u, v, w = u - i, v - j, w - k
    c000, c001, c010, c011 = grid[i, j, k], grid[i, j, k + 1], grid[i, j + 1, k], grid[i, j + 1, k + 1]
    i += 1
    c100, c101, c110, c111 = grid[i, j, k], grid[i, j, k + 1], grid[i, j + 1, k], grid[i, j + 1, k + 1]
    c00, c01 = c000 + w * (c001 - c000), c010 + w * (c011 - c010)
    c10, c11 = c100 + w * (c101 - c100), c110 + w * (c111 - c110)
    c0, c1 = c00 + v * (c01 - c00), c10 + v * (c11 - c10)
    d0 = (c001 - c000) + v * ((c011 - c010) - (c001 - c000))
    d1 = (c101 - c100) + v * ((c111 - c110) - (c101 - c100))
    sx, sy, sz = c1 - c0, (c01 - c00) + u * ((c11 - c10) - (c01 - c00)), d0 + u * (d1 - d0)
    far = math.sqrt(ox * ox + oy * oy + oz * oz)
    sx = ox / far if ox != 0 else sx * inverse
    sy = oy / far if oy != 0 else sy * inverse
    sz = oz / far if oz != 0 else sz * inverse
    return c0 + u * (c1 - c0) + far, sx, sy, sz


@_jit
def _around(hand, ring, x, y, z):
    """Distance to the nearest vertex of a ring."""
    least = np.inf
    for m in range(ring.shape[0]):
        v = ring[m]
        dx, dy, dz = hand[v, 0] - x, hand[v, 1] - y, hand[v, 2] - z
        least = min(least, dx * dx + dy * dy + dz * dz)
    return math.sqrt(least)


@_jit
def penetration(
    hand, joints, balls, ring, fitting, area, rotation, scale, transl, center, grid, least, origin, spacing,
    sigma, tolerance, weight, sloped, total, values, slope, wrench, row_weight,
):  # fmt: skip
    """Vertices of the hand (B V) and balls inside it (K; ``contact.inside_depth``) that are in the object.

    ``fitting`` K: radius of a ball over its distance to the nearest vertex of its ``ring``; ``area`` V + K; ``least``:
    :func:`block_least` of the grid.
    """
    count, more, size = hand.shape[1], balls.shape[0], grid.shape[1]
    for b in range(hand.shape[0]):
        r, s = rotation[b], np.float64(scale[b])
        cost = 0.0
        for n in range(count + more):
            if n < count:
                x, y, z = np.float64(hand[b, n, 0]), np.float64(hand[b, n, 1]), np.float64(hand[b, n, 2])
            else:
                own = balls[n - count]
                x, y, z = 0.0, 0.0, 0.0
                for j in range(21):
                    if own[j] != 0:
                        x += own[j] * joints[b, j, 0]
                        y += own[j] * joints[b, j, 1]
                        z += own[j] * joints[b, j, 2]
            px, py, pz = x - transl[b, 0], y - transl[b, 1], z - transl[b, 2]
            lx = (r[0, 0] * px + r[1, 0] * py + r[2, 0] * pz) / s
            ly = (r[0, 1] * px + r[1, 1] * py + r[2, 1] * pz) / s
            lz = (r[0, 2] * px + r[1, 2] * py + r[2, 2] * pz) / s
            free = s * _at_least(least[b], size, origin[b], spacing[b], lx, ly, lz) + tolerance
            reach = 0.0
            if n >= count:  # at most this: the first vertex around it is no nearer than the nearest
                reach = fitting[n - count] * _around(hand[b], ring[n - count, :1], x, y, z)
            if free >= reach:
                continue
            distance, gx, gy, gz = _sample(grid[b], origin[b], spacing[b], lx, ly, lz)
            distance = s * distance
            if n >= count and reach > distance + tolerance:
                reach = fitting[n - count] * _around(hand[b], ring[n - count], x, y, z)
            depth = reach - distance - tolerance
            if depth <= 0:
                continue
            value = depth / sigma
            cost += area[n] * value * value
            if not sloped:
                continue
            s0 = -(r[0, 0] * gx + r[0, 1] * gy + r[0, 2] * gz) / sigma
            s1 = -(r[1, 0] * gx + r[1, 1] * gy + r[1, 2] * gz) / sigma
            s2 = -(r[2, 0] * gx + r[2, 1] * gy + r[2, 2] * gz) / sigma
            values[b, n, 0], row_weight[b, n] = value, weight * area[n]
            slope[b, n, 0, 0], slope[b, n, 0, 1], slope[b, n, 0, 2] = s0, s1, s2
            _write_wrench(wrench[b, n, 0], x - center[b, 0], y - center[b, 1], z - center[b, 2], s0, s1, s2)
        total[b] += weight * cost


@_jit
def joint_angles(rotvec, axes, expected, sigma, weight, sloped, total, values, matrix):
    """Twist, splay and bend (B 15 3) of the finger joints against those ``expected``, in ``sigma`` (15 3).

    Rows are B x 45, of 67 columns. Their slopes: see ``prior_squares.joint_angle_slopes``, the twin.
    """
    turn, half, m = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    found, own = np.empty(3), np.empty((3, 3))
    root = math.sqrt(weight)
    for b in range(rotvec.shape[0]):
        cost = 0.0
        for j in range(15):
            turn_matrix(rotvec[b, j + 1], turn)
            frame = axes[j + 1]
            for p in range(3):
                for q in range(3):
                    half[p, q] = turn[p, 0] * frame[0, q] + turn[p, 1] * frame[1, q] + turn[p, 2] * frame[2, q]
            for p in range(3):
                for q in range(3):
                    m[p, q] = frame[0, p] * half[0, q] + frame[1, p] * half[1, q] + frame[2, p] * half[2, q]
            found[0] = math.atan2(-m[1, 2], m[2, 2])
            found[1] = math.asin(min(max(m[0, 2], -1 + 1e-7), 1 - 1e-7))
            found[2] = math.atan2(-m[0, 1], m[0, 0])
            for p in range(3):
                value = (found[p] - expected[b, j, p]) / sigma[j, p]
                cost += value * value
                if sloped:
                    values[b, 3 * j + p] = root * value
            if not sloped:
                continue
            sine, cosine = math.sin(found[2]), math.cos(found[2])
            flat = max(math.cos(found[1]), 1e-3)
            tan = math.sin(found[1]) / flat
            own[0, 0], own[0, 1], own[0, 2] = cosine / flat, -sine / flat, 0.0
            own[1, 0], own[1, 1], own[1, 2] = sine, cosine, 0.0
            own[2, 0], own[2, 1], own[2, 2] = -tan * cosine, tan * sine, 1.0
            for p in range(3):
                for q in range(3):
                    total_ = own[p, 0] * frame[q, 0] + own[p, 1] * frame[q, 1] + own[p, 2] * frame[q, 2]
                    matrix[b, 3 * j + p, 6 + 3 * j + q] = root * total_ / sigma[j, p]
        total[b] += weight * cost
