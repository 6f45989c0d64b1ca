"""Numba kernels that pose hands and take what pulls on their points back to turns and shape.

The readable twin is ``HandModel.__call__`` under autograd. Vertices are single precision and everything about the 16
joints is double; images are served one after the other, so that a result does not depend on the batch. Blend shapes
are dense rows, as few as ten; skinning weights are lists for each bone and pose correctives lists for each joint, since
most of both are zero.

Backwards, forces are collected where they act: each bone gathers the force and the torque about its joint of the
vertices that it holds, and one walk from the tips to the wrist adds what hangs on a joint to what it hangs on. That
costs as much as posing, where a matrix of slopes (:mod:`horefine.jacobian_kernels`) costs fifty times it.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["pose_hands", "pull_hands", "turn_matrix"]

_jit = njit(cache=True, nogil=True, error_model="numpy", fastmath={"nsz", "arcp", "contract", "reassoc"})
F = np.float32


@_jit
def turn_matrix(vector, out):
    """Rodrigues' formula as in ``geometry.axis_angle_to_matrix``, exact at zero."""
    x, y, z = np.float64(vector[0]), np.float64(vector[1]), np.float64(vector[2])
    square = x * x + y * y + z * z
    if square < 1e-12:
        sine, cosine = 1 - square / 6, 0.5 - square / 24
    else:
        angle = math.sqrt(square)
        half = math.sin(angle / 2) / angle
        sine, cosine = math.sin(angle) / angle, 2 * half * half
    out[0, 0], out[1, 1], out[2, 2] = (
        1 - cosine * (y * y + z * z), 1 - cosine * (x * x + z * z), 1 - cosine * (x * x + y * y),
    )  # fmt: skip
    out[0, 1], out[1, 0] = cosine * x * y - sine * z, cosine * x * y + sine * z
    out[0, 2], out[2, 0] = cosine * x * z + sine * y, cosine * x * z - sine * y
    out[1, 2], out[2, 1] = cosine * y * z - sine * x, cosine * y * z + sine * x


@_jit
def _chain(turns, parents, rest, turned, placed):
    """Global rotation and position of the joints, without translation."""
    for j in range(16):
        p = parents[j]
        for a in range(3):
            if p < 0:
                placed[j, a] = rest[j, a]
                for b in range(3):
                    turned[j, a, b] = turns[j, a, b]
                continue
            total = placed[p, a]
            for b in range(3):
                total += turned[p, a, b] * (rest[j, b] - rest[p, b])
                turned[j, a, b] = (
                    turned[p, a, 0] * turns[j, 0, b]
                    + turned[p, a, 1] * turns[j, 1, b]
                    + turned[p, a, 2] * turns[j, 2, b]
                )
            placed[j, a] = total


@_jit
def _bend_flat(turns, corrected, of_vertex, rows, bent, flat):
    """Adds the pose correctives to the flat hand; ``rows`` holds nine for each joint, of its vertices alone."""
    for j in range(15):
        first, count = corrected[j], corrected[j + 1] - corrected[j]
        size = 3 * count
        bent[:size] = F(0)
        for k in range(9):  # plain sums of rows: as one sum of nine products it would not be vectorised
            value = F(turns[j + 1, k // 3, k % 3] - (1.0 if k % 4 == 0 else 0.0))
            row = rows[27 * first + k * size : 27 * first + (k + 1) * size]
            for i in range(row.shape[0]):
                bent[i] += value * row[i]
        for n in range(count):
            v = np.uintp(of_vertex[first + n])
            for a in range(3):
                flat[v, a] += bent[3 * n + a]


@_jit
def pose_hands(
    first, last, rotvec, shape, transl,
    template, blend, flat_joints, shape_joints, parents, held, vertex, weight, corrected, of_vertex, rows, tips, rank,
    turns, hand, joints, flat, rest, turned, placed,
):  # fmt: skip
    """Poses hands ``first`` to ``last``; everything after ``rank`` is written.

    ``turns``, ``hand``, ``joints`` as in ``fused.Posed``; ``flat`` BxVx3 vertices before skinning; ``rest`` Bx16x3,
    ``turned`` Bx16x3x3 and ``placed`` Bx16x3 joints of the flat hand, global rotations, and positions without
    translation: what :func:`pull_hands` needs. Tables: see ``hand_slopes.HandLists``.
    """
    count = template.shape[0]
    own, bent = np.empty((16, 3, 3)), np.empty(3 * count, np.float32)
    for i in range(first, last):
        for j in range(16):
            turn_matrix(rotvec[i, j], own[j])
            for a in range(3):
                total = flat_joints[j, a]
                for k in range(10):
                    total += shape_joints[k, j, a] * shape[i, k]
                rest[i, j, a] = total
                for b in range(3):
                    turns[i, j, a, b] = own[j, a, b]
        _chain(own, parents, rest[i], turned[i], placed[i])
        flat[i, :, :] = template
        line = flat[i].reshape(3 * count)
        for k in range(10):
            value, basis = F(shape[i, k]), blend[k]
            for n in range(3 * count):
                line[n] += value * basis[n]
        _bend_flat(own, corrected, of_vertex, rows, bent, flat[i])
        _skin(turned[i], placed[i], rest[i], transl[i], held, vertex, weight, flat[i], hand[i])
        for j in range(21):
            for a in range(3):
                r = rank[j]
                joints[i, j, a] = placed[i, r, a] + transl[i, a] if r < 16 else hand[i, tips[r - 16], a]


@_jit
def _skin(turned, placed, rest, transl, held, vertex, weight, flat, hand):
    """Linear blend skinning, bone by bone."""
    for a in range(3):
        for v in range(hand.shape[0]):
            hand[v, a] = transl[a]
    for j in range(16):
        t, r = turned[j], rest[j]
        o0 = F(placed[j, 0] - t[0, 0] * r[0] - t[0, 1] * r[1] - t[0, 2] * r[2])
        o1 = F(placed[j, 1] - t[1, 0] * r[0] - t[1, 1] * r[1] - t[1, 2] * r[2])
        o2 = F(placed[j, 2] - t[2, 0] * r[0] - t[2, 1] * r[1] - t[2, 2] * r[2])
        t00, t01, t02 = F(t[0, 0]), F(t[0, 1]), F(t[0, 2])
        t10, t11, t12 = F(t[1, 0]), F(t[1, 1]), F(t[1, 2])
        t20, t21, t22 = F(t[2, 0]), F(t[2, 1]), F(t[2, 2])
        for e in range(held[j], held[j + 1]):
            v, w = np.uintp(vertex[e]), weight[e]
            x, y, z = flat[v, 0], flat[v, 1], flat[v, 2]
            hand[v, 0] += w * (t00 * x + t01 * y + t02 * z + o0)
            hand[v, 1] += w * (t10 * x + t11 * y + t12 * z + o1)
            hand[v, 2] += w * (t20 * x + t21 * y + t22 * z + o2)


@_jit
def _gather_forces(turned, rest, held, vertex, weight, flat, push, pushed, force, torque):
    """Force and torque (about the joint, camera axes) of each bone's vertices, and what pulls on the flat hand.

    ``push`` Vx3 pulls on the posed vertices; ``pushed`` Vx3 is written.
    """
    pushed[:] = F(0)
    for j in range(16):
        t = turned[j]
        t00, t01, t02 = F(t[0, 0]), F(t[0, 1]), F(t[0, 2])
        t10, t11, t12 = F(t[1, 0]), F(t[1, 1]), F(t[1, 2])
        t20, t21, t22 = F(t[2, 0]), F(t[2, 1]), F(t[2, 2])
        r0, r1, r2 = F(rest[j, 0]), F(rest[j, 1]), F(rest[j, 2])
        f0, f1, f2, m0, m1, m2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for e in range(held[j], held[j + 1]):
            v, w = np.uintp(vertex[e]), weight[e]
            p, q, s = w * push[v, 0], w * push[v, 1], w * push[v, 2]
            # the pull in the bone's frame: lever and torque are found there
            x, y, z = t00 * p + t10 * q + t20 * s, t01 * p + t11 * q + t21 * s, t02 * p + t12 * q + t22 * s
            l0, l1, l2 = flat[v, 0] - r0, flat[v, 1] - r1, flat[v, 2] - r2
            f0, f1, f2 = f0 + x, f1 + y, f2 + z
            m0, m1, m2 = m0 + (l1 * z - l2 * y), m1 + (l2 * x - l0 * z), m2 + (l0 * y - l1 * x)
            pushed[v, 0] += x
            pushed[v, 1] += y
            pushed[v, 2] += z
        for a in range(3):
            force[j, a] = t[a, 0] * f0 + t[a, 1] * f1 + t[a, 2] * f2
            torque[j, a] = t[a, 0] * m0 + t[a, 1] * m1 + t[a, 2] * m2


@_jit
def _walk_back(turned, placed, parents, force, torque, moved):
    """From the tips to the wrist: what hangs on a joint pulls on what the joint hangs on.

    ``moved`` 16x3 is the pull on the flat hand's joints; it comes with what the bones' own vertices pull.
    """
    for j in range(15, 0, -1):
        p = parents[j]
        l0, l1, l2 = placed[j, 0] - placed[p, 0], placed[j, 1] - placed[p, 1], placed[j, 2] - placed[p, 2]
        f0, f1, f2 = force[j, 0], force[j, 1], force[j, 2]
        torque[p, 0] += torque[j, 0] + l1 * f2 - l2 * f1
        torque[p, 1] += torque[j, 1] + l2 * f0 - l0 * f2
        torque[p, 2] += torque[j, 2] + l0 * f1 - l1 * f0
        for a in range(3):
            own = turned[p, 0, a] * f0 + turned[p, 1, a] * f1 + turned[p, 2, a] * f2
            moved[j, a] += own
            moved[p, a] -= own
            force[p, a] += force[j, a]
    for a in range(3):
        moved[0, a] += force[0, a]


@_jit
def _unbend(turns, corrected, of_vertex, rows, pushed, near, out):
    """Adds what pulls on the flat hand through the pose correctives to the turns, each in its own frame."""
    slope = np.empty((3, 3))
    for j in range(15):
        first, count = corrected[j], corrected[j + 1] - corrected[j]
        size = 3 * count
        for n in range(count):
            v = np.uintp(of_vertex[first + n])
            for a in range(3):
                near[3 * n + a] = pushed[v, a]
        for k in range(9):
            total, row = F(0), rows[27 * first + k * size : 27 * first + (k + 1) * size]
            for i in range(row.shape[0]):
                total += near[i] * row[i]
            slope[k // 3, k % 3] = total
        t, d = turns[j + 1], slope  # R' dR, its skew part
        for a in range(3):
            out[j + 1, 0] += t[a, 2] * d[a, 1] - t[a, 1] * d[a, 2]
            out[j + 1, 1] += t[a, 0] * d[a, 2] - t[a, 2] * d[a, 0]
            out[j + 1, 2] += t[a, 1] * d[a, 0] - t[a, 0] * d[a, 1]


@_jit
def pull_hands(
    first, last, turns,
    template, blend, flat_joints, shape_joints, parents, held, vertex, weight, corrected, of_vertex, rows, tips, rank,
    flat, rest, turned, placed, on_hand, on_drawn, on_joints, on_turns, on_shape, on_transl,
):  # fmt: skip
    """Adds what points of hands ``first`` to ``last`` are pulled by to ``on_turns``, ``on_shape`` and ``on_transl``.

    ``on_hand`` and ``on_drawn`` BxVx3 are summed (the latter may be empty), ``on_joints`` as in ``fused.Pull``.
    """
    count = template.shape[0]
    push, pushed = np.empty((count, 3), np.float32), np.empty((count, 3), np.float32)
    near = np.empty(3 * count, np.float32)
    force, torque, moved = np.empty((16, 3)), np.empty((16, 3)), np.empty((16, 3))
    for i in range(first, last):
        push[:] = on_hand[i]
        if on_drawn.shape[0] > 0:
            push += on_drawn[i]
        for j in range(21):
            if rank[j] >= 16:
                for a in range(3):
                    push[tips[rank[j] - 16], a] += on_joints[i, j, a]
        _gather_forces(turned[i], rest[i], held, vertex, weight, flat[i], push, pushed, force, torque)
        for j in range(16):
            for a in range(3):  # what a bone's vertices pull on its own joint of the flat hand
                moved[j, a] = -(
                    turned[i, j, 0, a] * force[j, 0]
                    + turned[i, j, 1, a] * force[j, 1]
                    + turned[i, j, 2, a] * force[j, 2]
                )
        for j in range(21):
            if rank[j] < 16:
                for a in range(3):
                    force[rank[j], a] += on_joints[i, j, a]
        _walk_back(turned[i], placed[i], parents, force, torque, moved)
        for j in range(16):
            t = turned[i, j]
            for a in range(3):
                on_turns[i, j, a] += t[0, a] * torque[j, 0] + t[1, a] * torque[j, 1] + t[2, a] * torque[j, 2]
        _unbend(turns[i], corrected, of_vertex, rows, pushed, near, on_turns[i])
        line = pushed.reshape(3 * count)
        for k in range(10):
            total, basis = F(0), blend[k]
            for n in range(3 * count):
                total += line[n] * basis[n]
            whole = np.float64(total)
            for j in range(16):
                for a in range(3):
                    whole += shape_joints[k, j, a] * moved[j, a]
            on_shape[i, k] += whole
        for a in range(3):
            on_transl[i, a] += force[0, a]
