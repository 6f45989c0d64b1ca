"""Numba kernels behind :mod:`horefine.jacobian`: how the hand's points move, and rows of the normal equations.

Everything is double and serial, for one image. All kernels are in this one file because numba's cache notices changes
only in the file of the outermost function.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["edge_rows", "hand_jacobian", "point_rows"]

_jit = njit(cache=True, nogil=True, error_model="numpy", fastmath={"nsz", "arcp", "contract", "reassoc"})
HAND, COLUMNS = 61, 67
FRONT_BIT, LOOP_BIT = 1, 2
FROM_BACK, CLAMPED = 1, 2


@_jit
def _skeleton(rotations, shape, flat_joints, shape_joints, parents, turned, placed, d_placed, joints):
    """Global rotation and position of the joints (no translation), and the position's slope on the shape values."""
    for j in range(16):
        for a in range(3):
            total = flat_joints[j, a]
            for k in range(10):
                total += shape_joints[k, j, a] * shape[k]
            joints[j, a] = total
    for j in range(16):
        p = parents[j]
        for a in range(3):
            if p < 0:
                placed[j, a] = joints[j, a]
                for b in range(3):
                    turned[j, a, b] = rotations[j, a, b]
                for k in range(10):
                    d_placed[j, a, k] = shape_joints[k, j, a]
                continue
            total = placed[p, a]
            for b in range(3):
                total += turned[p, a, b] * (joints[j, b] - joints[p, b])
                product = 0.0
                for c in range(3):
                    product += turned[p, a, c] * rotations[j, c, b]
                turned[j, a, b] = product
            placed[j, a] = total
            for k in range(10):
                total = d_placed[p, a, k]
                for b in range(3):
                    total += turned[p, a, b] * (shape_joints[k, j, b] - shape_joints[k, p, b])
                d_placed[j, a, k] = total


@_jit
def _flat_vertices(rotations, shape, template, basis, corrected, correctives, flat):
    """Vertices before skinning; pose correctives that are zero are left out."""
    size = template.shape[0]
    for i in range(size):
        flat[i] = template[i]
    for k in range(10):
        s = shape[k]
        for i in range(size):
            flat[i] += s * basis[k, i]
    for pair in range(corrected.shape[0]):
        v, turn, own = corrected[pair, 0], rotations[corrected[pair, 1] + 1], correctives[pair]
        x, y, z = 0.0, 0.0, 0.0
        for a in range(3):
            for b in range(3):
                value = turn[a, b] - (1.0 if a == b else 0.0)
                x += value * own[3 * a + b, 0]
                y += value * own[3 * a + b, 1]
                z += value * own[3 * a + b, 2]
        flat[3 * v] += x
        flat[3 * v + 1] += y
        flat[3 * v + 2] += z


@_jit
def _place(turned, offset, weights, bones, flat, points):
    """Skinned positions (no translation); returns their centroid."""
    count = bones.shape[0]
    middle = np.zeros(3)
    for v in range(count):
        x, y, z = 0.0, 0.0, 0.0
        fx, fy, fz = flat[3 * v], flat[3 * v + 1], flat[3 * v + 2]
        for q in range(bones.shape[1]):
            w, j = weights[v, q], bones[v, q]
            if w == 0.0:
                continue
            x += w * (offset[j, 0] + turned[j, 0, 0] * fx + turned[j, 0, 1] * fy + turned[j, 0, 2] * fz)
            y += w * (offset[j, 1] + turned[j, 1, 0] * fx + turned[j, 1, 1] * fy + turned[j, 1, 2] * fz)
            z += w * (offset[j, 2] + turned[j, 2, 0] * fx + turned[j, 2, 1] * fy + turned[j, 2, 2] * fz)
        points[v, 0], points[v, 1], points[v, 2] = x, y, z
        middle[0] += x / count
        middle[1] += y / count
        middle[2] += z / count
    return middle


@_jit
def _bend(rotation, correctives, blend, bent, out, column):
    """Adds how a finger turn moves a vertex through its pose correctives, ``correctives`` 9x3 of the joint's matrix.

    The matrix changes by R [e_c]x: column 1 of it is R's column 2 for c = 0, and so on around.
    """
    for c in range(3):
        first, second = (c + 1) % 3, (c + 2) % 3
        for i in range(3):
            bent[i] = 0.0
        for a in range(3):
            up, down = rotation[a, second], rotation[a, first]
            for i in range(3):
                bent[i] += up * correctives[3 * a + first, i] - down * correctives[3 * a + second, i]
        for a in range(3):
            out[a, column + c] += blend[a, 0] * bent[0] + blend[a, 1] * bent[1] + blend[a, 2] * bent[2]


@_jit
def _lever(turned, placed, chain, mass, k, out, columns):
    """Slope of a point on the turns of joint k, from the moment of what hangs on it: ``axis x lever``."""
    l0 = chain[k, 0] - mass[k] * placed[k, 0]
    l1 = chain[k, 1] - mass[k] * placed[k, 1]
    l2 = chain[k, 2] - mass[k] * placed[k, 2]
    for c in range(3):
        a0, a1, a2 = turned[k, 0, c], turned[k, 1, c], turned[k, 2, c]
        out[0, columns + c] += a1 * l2 - a2 * l1
        out[1, columns + c] += a2 * l0 - a0 * l2
        out[2, columns + c] += a0 * l1 - a1 * l0


@_jit
def hand_jacobian(
    rotations,
    shape,
    transl,
    template,
    basis,
    directions,
    flat_joints,
    shape_joints,
    parents,
    weights,
    bones,
    corrected,
    correctives,
    wanted,
    points,
    out,
):
    """Positions and slopes of the 778 vertices and the 16 joints of one hand.

    ``rotations`` 16x3x3; ``template`` 3V and ``basis`` 145x3V as in HandModel, its first ten rows also
    as ``directions`` Vx3x10; ``bones``, ``weights`` VxQ the bones of
    each vertex; ``correctives`` Nx9x3 the pose correctives that are not zero, ``corrected`` Nx2 their vertex and finger
    joint (0 to 14), by vertex. Writes ``points`` (V+16)x3, camera frame, and ``out`` (V+16)x3x61: translation, turn of
    the whole hand about the centroid of its vertices (camera axes), 15 finger turns (each in its own frame), shape.
    Slopes of points that are not ``wanted`` (V+16) are left as they were.
    """
    count = bones.shape[0]
    turned, placed = np.empty((16, 3, 3)), np.empty((16, 3))
    d_placed, joints = np.empty((16, 3, 10)), np.empty((16, 3))
    _skeleton(rotations, shape, flat_joints, shape_joints, parents, turned, placed, d_placed, joints)
    flat, bent = np.empty(3 * count), np.empty(3)
    _flat_vertices(rotations, shape, template, basis, corrected, correctives, flat)
    pair = 0
    offset, d_offset = np.empty((16, 3)), np.empty((16, 3, 10))
    for j in range(16):
        for a in range(3):
            offset[j, a] = placed[j, a]
            for b in range(3):
                offset[j, a] -= turned[j, a, b] * joints[j, b]
            for k in range(10):
                total = d_placed[j, a, k]
                for b in range(3):
                    total -= turned[j, a, b] * shape_joints[k, j, b]
                d_offset[j, a, k] = total
    middle = _place(turned, offset, weights, bones, flat, points)
    points[count:] = placed
    chain, mass, blend, y = np.empty((16, 3)), np.empty(16), np.empty((3, 3)), np.empty(3)
    for v in range(count + 16):
        if not wanted[v]:
            continue
        own, position = out[v], points[v]
        own[:] = 0.0
        chain[:] = 0.0
        mass[:] = 0.0
        if v < count:
            blend[:] = 0.0
            for q in range(bones.shape[1]):
                w, j = weights[v, q], bones[v, q]
                if w == 0.0:
                    continue
                for a in range(3):
                    y[a] = offset[j, a]
                    for b in range(3):
                        y[a] += turned[j, a, b] * flat[3 * v + b]
                        blend[a, b] += w * turned[j, a, b]
                    y[a] *= w
                    for k in range(10):
                        own[a, 51 + k] += w * d_offset[j, a, k]
                while j > 0:
                    mass[j] += w
                    for a in range(3):
                        chain[j, a] += y[a]
                    j = parents[j]
            grown = directions[v]
            for a in range(3):
                b0, b1, b2 = blend[a, 0], blend[a, 1], blend[a, 2]
                for k in range(10):
                    own[a, 51 + k] += b0 * grown[0, k] + b1 * grown[1, k] + b2 * grown[2, k]
            while pair < corrected.shape[0] and corrected[pair, 0] < v:
                pair += 1
            while pair < corrected.shape[0] and corrected[pair, 0] == v:
                j = corrected[pair, 1]
                _bend(rotations[j + 1], correctives[pair], blend, bent, own, 6 + 3 * j)
                pair += 1
        else:
            for a in range(3):
                for k in range(10):
                    own[a, 51 + k] = d_placed[v - count, a, k]
            j = parents[v - count]
            while j > 0:
                mass[j] = 1.0
                chain[j] = position
                j = parents[j]
        for k in range(1, 16):
            if mass[k] > 0.0:
                _lever(turned, placed, chain, mass, k, own, 3 + 3 * k)
        x, y0, z = position[0] - middle[0], position[1] - middle[1], position[2] - middle[2]
        own[0, 4], own[0, 5] = z, -y0
        own[1, 3], own[1, 5] = -z, x
        own[2, 3], own[2, 4] = y0, -x
        for a in range(3):
            own[a, a] = 1.0
    for v in range(count + 16):
        for a in range(3):
            points[v, a] += transl[a]


@_jit
def point_rows(jacobian, values, slope, wrench, point, share, weight, matrix, right, first):
    """Writes the weighted rows of observations (N, K) from row ``first`` on; returns the row after the last."""
    row = first
    moved = np.empty((3, HAND))
    for n in range(values.shape[0]):
        if not weight[n] > 0.0:
            continue
        root = math.sqrt(weight[n])
        moved[:] = 0.0
        for m in range(point.shape[1]):
            s = np.float64(share[n, m])
            if s == 0.0:
                continue
            own = jacobian[point[n, m]]
            for a in range(3):
                for p in range(HAND):
                    moved[a, p] += s * own[a, p]
        for k in range(values.shape[1]):
            s0, s1, s2 = root * slope[n, k, 0], root * slope[n, k, 1], root * slope[n, k, 2]
            for p in range(HAND):
                matrix[row, p] = s0 * moved[0, p] + s1 * moved[1, p] + s2 * moved[2, p]
            for p in range(6):
                matrix[row, HAND + p] = root * wrench[n, k, p]
            right[row] = root * values[n, k]
            row += 1
    return row


@_jit
def edge_rows(jacobian, values, row, point, slope, matrix, right, first):
    """Writes rows to which any number of hand points contribute, from row ``first`` on; returns the row after them."""
    for n in range(values.shape[0]):
        matrix[first + n, :] = 0.0
        right[first + n] = values[n]
    for e in range(row.shape[0]):
        own, target = jacobian[point[e]], matrix[first + row[e]]
        s0, s1, s2 = slope[e, 0], slope[e, 1], slope[e, 2]
        for p in range(HAND):
            target[p] += s0 * own[0, p] + s1 * own[1, p] + s2 * own[2, p]
    return first + values.shape[0]
