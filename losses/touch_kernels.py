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

__all__ = ["joint_angles", "penetration", "springs"]

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
def _sample(grid, origin, spacing, x, y, z, sloped, out):
    """``DistanceGrid.sample`` at one point; its slope is written to ``out``."""
    size = grid.shape[0]
    far, value = 0.0, 0.0
    place, low, past = (x, y, z), np.empty(3, np.int64), np.empty(3)
    part = np.empty(3)
    for a in range(3):
        p = (place[a] - origin[a]) / spacing
        inside = min(max(p, 0.0), size - 1.0)
        past[a] = (p - inside) * spacing
        far += past[a] * past[a]
        low[a] = min(max(int(inside), 0), size - 2)
        part[a] = inside - low[a]
    i, j, k = low[0], low[1], low[2]
    u, v, w = part[0], part[1], part[2]
    c000, c001, c010, c011 = grid[i, j, k], grid[i, j, k + 1], grid[i, j + 1, k], grid[i, j + 1, k + 1]
    i += 1
    c100, c101, c110, c111 = grid[i, j, k], grid[i, j, k + 1], grid[i, j + 1, k], grid[i, j + 1, k + 1]
    c00, c01 = c000 + w * (c001 - c000), c010 + w * (c011 - c010)
    c10, c11 = c100 + w * (c101 - c100), c110 + w * (c111 - c110)
    c0, c1 = c00 + v * (c01 - c00), c10 + v * (c11 - c10)
    value = c0 + u * (c1 - c0)
    far = math.sqrt(far)
    if sloped:
        out[0] = (c1 - c0) / spacing
        out[1] = ((c01 - c00) + u * ((c11 - c10) - (c01 - c00))) / spacing
        d0 = (c001 - c000) + v * ((c011 - c010) - (c001 - c000))
        d1 = (c101 - c100) + v * ((c111 - c110) - (c101 - c100))
        out[2] = (d0 + u * (d1 - d0)) / spacing
        for a in range(3):
            if past[a] != 0:
                out[a] = past[a] / far
    return value + far


@_jit
def penetration(
    hand, joints, balls, ring, fitting, area, rotation, scale, transl, center, grid, origin, spacing,
    sigma, tolerance, weight, sloped, total, values, slope, wrench, row_weight,
):  # fmt: skip
    """Vertices of the hand (B V) and balls inside it (K; ``contact.inside_depth``) that are in the object.

    ``fitting`` K: radius of a ball over its distance to the nearest vertex of its ``ring``; ``area`` V + K.
    """
    count, more = hand.shape[1], balls.shape[0]
    out = np.empty(3)
    for b in range(hand.shape[0]):
        r, s = rotation[b], np.float64(scale[b])
        cost = 0.0
        for n in range(count + more):
            reach = 0.0
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
                least = np.inf
                for m in range(ring.shape[1]):
                    v = ring[n - count, m]
                    dx, dy, dz = hand[b, v, 0] - x, hand[b, v, 1] - y, hand[b, v, 2] - z
                    least = min(least, dx * dx + dy * dy + dz * dz)
                reach = fitting[n - count] * math.sqrt(least)
            px, py, pz = x - transl[b, 0], y - transl[b, 1], z - transl[b, 2]
            distance = s * _sample(
                grid[b], origin[b], spacing[b],
                (r[0, 0] * px + r[1, 0] * py + r[2, 0] * pz) / s,
                (r[0, 1] * px + r[1, 1] * py + r[2, 1] * pz) / s,
                (r[0, 2] * px + r[1, 2] * py + r[2, 2] * pz) / s, sloped, out,
            )  # fmt: skip
            depth = reach - distance - tolerance
            if depth <= 0:
                continue
            value = depth / sigma
            cost += area[n] * value * value
            if not sloped:
                continue
            s0 = -(r[0, 0] * out[0] + r[0, 1] * out[1] + r[0, 2] * out[2]) / sigma
            s1 = -(r[1, 0] * out[0] + r[1, 1] * out[1] + r[1, 2] * out[2]) / sigma
            s2 = -(r[2, 0] * out[0] + r[2, 1] * out[1] + r[2, 2] * out[2]) / sigma
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
