"""Numba kernels of one optimiser step on flat rows: rigid objects, charts, Adam with a plateau for each image, moving.

The readable twins are ``Scene.place``, ``tangent.Tangent`` and ``tangent.AxisAngle``, ``adam.Adam`` and
``adam.Plateau``. Sums and the optimiser's state are double, poses single; rows are served one after the other and
never mix. (After a change of ``hand_kernels.turn_matrix`` touch this file: numba's cache does not notice.)
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from horefine.hand_kernels import turn_matrix

__all__ = [
    "adam", "chart_gradient", "clear", "judge", "move", "place_objects", "pull_objects", "turn_vector",
]  # fmt: skip

_jit = njit(cache=True, nogil=True, error_model="numpy", fastmath={"nsz", "arcp", "contract", "reassoc"})
LEAST_DEPTH = 1e-3
"""``tangent.ray``: metres."""


@_jit
def turn_vector(m, out):
    """The rotation vector of a matrix as in ``geometry.matrix_to_axis_angle``, by the largest quaternion number."""
    trace = (m[0, 0] + m[1, 1] + m[2, 2], m[0, 0], m[1, 1], m[2, 2])
    x, y, z = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
    if trace[0] >= max(trace[1], max(trace[2], trace[3])):
        w = 1 + trace[0]
    elif trace[1] >= max(trace[2], trace[3]):
        w, x, y, z = x, 1 + m[0, 0] - m[1, 1] - m[2, 2], m[1, 0] + m[0, 1], m[0, 2] + m[2, 0]
    elif trace[2] >= trace[3]:
        w, x, y, z = y, m[1, 0] + m[0, 1], 1 - m[0, 0] + m[1, 1] - m[2, 2], m[2, 1] + m[1, 2]
    else:
        w, x, y, z = z, m[0, 2] + m[2, 0], m[2, 1] + m[1, 2], 1 - m[0, 0] - m[1, 1] + m[2, 2]
    if w < 0:
        w, x, y, z = -w, -x, -y, -z
    sine = math.sqrt(x * x + y * y + z * z)
    factor = 2 / w if sine < 1e-7 * w else 2 * math.atan2(sine, w) / sine
    out[0], out[1], out[2] = x * factor, y * factor, z * factor


@_jit
def _ray_share(g, middle):
    """What a step in depth along the ray through ``middle`` does to a pull on a place."""
    z = max(np.float64(middle[2]), LEAST_DEPTH)
    return (g[0] * middle[0] + g[1] * middle[1] + g[2] * middle[2]) / z


@_jit
def _to_numbers(vector, torque, side, out):
    """``J' torque``: from a torque to axis-angle numbers; ``side`` 1: ``R exp(w)``, -1: ``exp(w) R``."""
    x, y, z = np.float64(vector[0]), np.float64(vector[1]), np.float64(vector[2])
    square = x * x + y * y + z * z
    if square < 1e-6:
        one, two = 0.5 - square / 24, 1 / 6 - square / 120
    else:
        angle = math.sqrt(square)
        half = math.sin(angle / 2)
        one, two = 2 * half * half / square, (angle - math.sin(angle)) / (square * angle)
    t0, t1, t2 = torque[0], torque[1], torque[2]
    c0, c1, c2 = y * t2 - z * t1, z * t0 - x * t2, x * t1 - y * t0
    out[0] = t0 + side * one * c0 + two * (y * c2 - z * c1)
    out[1] = t1 + side * one * c1 + two * (z * c0 - x * c2)
    out[2] = t2 + side * one * c2 + two * (x * c1 - y * c0)


@_jit
def chart_gradient(
    first, last, tangent, rotvec, turns, hand, joints, object_rotvec, object_transl, object_center,
    on_turns, on_shape, on_transl, force, torque, on_object, middle, gradient,
):  # fmt: skip
    """Writes ``gradient`` Bx67 of the tangent or the axis-angle chart, and ``middle`` Bx3 of the hand's vertices.

    ``on_turns``, ``on_shape``, ``on_transl``, ``force``, ``torque`` and ``on_object`` as in ``fused.Pull``, what points
    of the hand are pulled by already added (``hand_kernels.pull_hands``).
    """
    whole = np.empty(3)
    for i in range(first, last):
        own, count = gradient[i], hand.shape[1]
        sx, sy, sz = 0.0, 0.0, 0.0
        for v in range(count):
            sx, sy, sz = sx + hand[i, v, 0], sy + hand[i, v, 1], sz + hand[i, v, 2]
        middle[i, 0], middle[i, 1], middle[i, 2] = sx / count, sy / count, sz / count
        c, t = object_center[i], object_transl[i]
        a0, a1, a2 = t[0] - c[0], t[1] - c[1], t[2] - c[2]
        for a in range(3):
            own[a] = on_transl[i, a]
            own[61 + a] = force[i, a] + on_object[i, a]
        for k in range(10):
            own[51 + k] = on_shape[i, k]
        if not tangent:
            for j in range(16):
                _to_numbers(rotvec[i, j], on_turns[i, j], 1.0, own[3 + 3 * j : 6 + 3 * j])
            f = force[i]  # from the centre of the box to the origin of the frame
            whole[0] = torque[i, 0] - (a1 * f[2] - a2 * f[1])
            whole[1] = torque[i, 1] - (a2 * f[0] - a0 * f[2])
            whole[2] = torque[i, 2] - (a0 * f[1] - a1 * f[0])
            _to_numbers(object_rotvec[i], whole, -1.0, own[64:67])
            continue
        for j in range(1, 16):
            for a in range(3):
                own[3 + 3 * j + a] = on_turns[i, j, a]
        t, g = turns[i, 0], on_turns[i, 0]
        l0, l1, l2 = joints[i, 0, 0] - middle[i, 0], joints[i, 0, 1] - middle[i, 1], joints[i, 0, 2] - middle[i, 2]
        own[3] = t[0, 0] * g[0] + t[0, 1] * g[1] + t[0, 2] * g[2] + l1 * own[2] - l2 * own[1]
        own[4] = t[1, 0] * g[0] + t[1, 1] * g[1] + t[1, 2] * g[2] + l2 * own[0] - l0 * own[2]
        own[5] = t[2, 0] * g[0] + t[2, 1] * g[1] + t[2, 2] * g[2] + l0 * own[1] - l1 * own[0]
        p = on_object[i]
        own[64] = torque[i, 0] + a1 * p[2] - a2 * p[1]
        own[65] = torque[i, 1] + a2 * p[0] - a0 * p[2]
        own[66] = torque[i, 2] + a0 * p[1] - a1 * p[0]
        own[2] = _ray_share(own[0:3], middle[i])
        own[63] = _ray_share(own[61:64], c) + own[2]


@_jit
def judge(
    first, last, values, total, row, always, rotvec, shape, transl, object_rotvec, object_transl,
    best, lowest, best_step,
):  # fmt: skip
    """Sums ``values`` LxB to ``total`` and keeps the poses that are better than any before (``always``: all finite).

    ``best`` Bx67 (hand's translation, turns, shape, object's translation, turn), ``lowest`` and ``best_step`` are kept.
    """
    for i in range(first, last):
        whole = 0.0
        for k in range(values.shape[0]):
            whole += values[k, i]
        total[i] = whole
        if not (math.isfinite(whole) if always else whole < lowest[i]):
            continue
        lowest[i], best_step[i], own = whole, row, best[i]
        for a in range(3):
            own[a], own[61 + a], own[64 + a] = transl[i, a], object_transl[i, a], object_rotvec[i, a]
        for j in range(16):
            for a in range(3):
                own[3 + 3 * j + a] = rotvec[i, j, a]
        for k in range(10):
            own[51 + k] = shape[i, k]


@_jit
def adam(
    first, last, gradient, rates, beta, beta_square, epsilon, count, least, scale,
    total, patience, cut, threshold, factor, lowest, waited, mean, square, step,
):  # fmt: skip
    """Writes ``step`` Bx67 (``adam.Adam.step``, the ``count``th) and updates each image's plateau for the next.

    A gradient with a number that is not finite counts as zero. ``patience`` 0: no plateau. ``factor``, ``lowest`` and
    ``waited`` B are the plateau's state, ``mean`` and ``square`` Bx67 Adam's.
    """
    warm, warm_square = 1 - beta**count, 1 - beta_square**count
    for i in range(first, last):
        finite = True
        for p in range(gradient.shape[1]):
            finite &= math.isfinite(gradient[i, p])
        own = scale * factor[i]
        for p in range(gradient.shape[1]):
            g = gradient[i, p] if finite else 0.0
            mean[i, p] += (1 - beta) * (g - mean[i, p])
            square[i, p] = beta_square * square[i, p] + (1 - beta_square) * g * g
            rate = max(rates[p] * own, least) if rates[p] > 0 else 0.0
            step[i, p] = -rate * (mean[i, p] / warm) / (math.sqrt(square[i, p] / warm_square) + epsilon)
        if patience > 0:
            better = total[i] < lowest[i] * (1 - threshold)
            lowest[i] = total[i] if better else lowest[i]
            waited[i] = 0 if better else waited[i] + 1
            if waited[i] > patience:
                factor[i], waited[i] = factor[i] * cut, 0


@_jit
def _turn(vector, w0, w1, w2, left, own, other, both):
    """Turns an axis-angle by (w0, w1, w2), about the camera's axes (``left``) or its own; no turn changes no number.

    ``other`` is left as the matrix of the turn.
    """
    both[0, 0], both[0, 1], both[0, 2] = w0, w1, w2
    turn_matrix(both[0], other)
    if w0 == 0 and w1 == 0 and w2 == 0:
        return
    turn_matrix(vector, own)
    for a in range(3):
        for b in range(3):
            if left:
                both[a, b] = other[a, 0] * own[0, b] + other[a, 1] * own[1, b] + other[a, 2] * own[2, b]
            else:
                both[a, b] = own[a, 0] * other[0, b] + own[a, 1] * other[1, b] + own[a, 2] * other[2, b]
    turn_vector(both, vector)


@_jit
def _move_middle(transl, s0, s1, depth, middle, a0, a1, a2, turn):
    """Moves a place sideways, along the ray through the middle, and by a turn about the middle (``a``: the arm)."""
    z = max(np.float64(middle[2]), LEAST_DEPTH)
    r0, r1, r2 = s0 + depth * middle[0] / z, s1 + depth * middle[1] / z, depth * middle[2] / z
    transl[0] += r0 + ((turn[0, 0] - 1) * a0 + turn[0, 1] * a1 + turn[0, 2] * a2)
    transl[1] += r1 + (turn[1, 0] * a0 + (turn[1, 1] - 1) * a1 + turn[1, 2] * a2)
    transl[2] += r2 + (turn[2, 0] * a0 + turn[2, 1] * a1 + (turn[2, 2] - 1) * a2)


@_jit
def move(
    first, last, tangent, step, middle, joints, object_center, rotvec, shape, transl, object_rotvec, object_transl
):
    """Moves the poses by ``step`` Bx67 in the tangent or axis-angle chart; ``middle`` of :func:`chart_gradient`."""
    own, other, both = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    for i in range(first, last):
        s = step[i]
        for k in range(10):
            shape[i, k] += s[51 + k]
        if not tangent:
            for a in range(3):
                transl[i, a] += s[a]
                object_transl[i, a] += s[61 + a]
                object_rotvec[i, a] += s[64 + a]
            for j in range(16):
                for a in range(3):
                    rotvec[i, j, a] += s[3 + 3 * j + a]
            continue
        for j in range(1, 16):
            k = 3 + 3 * j
            _turn(rotvec[i, j], s[k], s[k + 1], s[k + 2], False, own, other, both)
        _turn(rotvec[i, 0], s[3], s[4], s[5], True, own, other, both)
        m, w = middle[i], joints[i, 0]
        _move_middle(transl[i], s[0], s[1], s[2] + s[63], m, w[0] - m[0], w[1] - m[1], w[2] - m[2], other)
        _turn(object_rotvec[i], s[64], s[65], s[66], True, own, other, both)
        m, w = object_center[i], object_transl[i]
        _move_middle(object_transl[i], s[61], s[62], s[63], m, w[0] - m[0], w[1] - m[1], w[2] - m[2], other)


@_jit
def place_objects(first, last, rotvec, transl, points, middle, turn, center, placed):
    """Writes rotation matrix, centre of the box and vertices of rigid objects, camera frame."""
    own = np.empty((3, 3))
    for i in range(first, last):
        turn_matrix(rotvec[i], own)
        for a in range(3):
            center[i, a] = transl[i, a]
            for b in range(3):
                turn[i, a, b] = own[a, b]
                center[i, a] += own[a, b] * middle[i, b]
        t0, t1, t2 = transl[i, 0], transl[i, 1], transl[i, 2]
        r00, r01, r02 = turn[i, 0, 0], turn[i, 0, 1], turn[i, 0, 2]
        r10, r11, r12 = turn[i, 1, 0], turn[i, 1, 1], turn[i, 1, 2]
        r20, r21, r22 = turn[i, 2, 0], turn[i, 2, 1], turn[i, 2, 2]
        for v in range(points.shape[1]):
            x, y, z = points[i, v, 0], points[i, v, 1], points[i, v, 2]
            placed[i, v, 0] = r00 * x + r01 * y + r02 * z + t0
            placed[i, v, 1] = r10 * x + r11 * y + r12 * z + t1
            placed[i, v, 2] = r20 * x + r21 * y + r22 * z + t2


@_jit
def pull_objects(first, last, placed, center, on_drawn, force, torque):
    """Adds force and torque about the centre of what pulls on an object's vertices, ``on_drawn`` BxWx3."""
    for i in range(first, last):
        c0, c1, c2 = center[i, 0], center[i, 1], center[i, 2]
        f0, f1, f2, m0, m1, m2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for v in range(placed.shape[1]):
            x, y, z = placed[i, v, 0] - c0, placed[i, v, 1] - c1, placed[i, v, 2] - c2
            p, q, s = on_drawn[i, v, 0], on_drawn[i, v, 1], on_drawn[i, v, 2]
            f0, f1, f2 = f0 + p, f1 + q, f2 + s
            m0, m1, m2 = m0 + (y * s - z * q), m1 + (z * p - x * s), m2 + (x * q - y * p)
        force[i, 0] += f0
        force[i, 1] += f1
        force[i, 2] += f2
        torque[i, 0] += m0
        torque[i, 1] += m1
        torque[i, 2] += m2


@_jit
def clear(first, last, on_hand, on_joints, on_turns, on_shape, on_transl, force, torque, on_object, on_masks, masks):
    """Sets what pulls on images ``first`` to ``last`` (``fused.Pull``) to zero; on masks only where ``masks``."""
    on_hand[first:last] = np.float32(0)
    on_joints[first:last] = 0.0
    on_turns[first:last] = 0.0
    on_shape[first:last] = 0.0
    on_transl[first:last] = 0.0
    force[first:last] = 0.0
    torque[first:last] = 0.0
    on_object[first:last] = 0.0
    if masks:
        on_masks[first:last] = np.float32(0)
