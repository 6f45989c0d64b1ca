"""Numba kernels that add rows to the normal equations of one image without writing the rows out.

An observed point moves with the whole hand, its shape, and mostly one finger: 25 of the hand's 61 columns.
Observations are taken finger by finger, so that only those columns are multiplied. The readable twin is
``jacobian_kernels.point_rows`` with a product of the whole matrix (``normal_equations`` takes it for what this file
does not know).

(After a change of ``hand_kernels.turn_matrix`` touch this file: numba's cache does not notice.)

``whole`` is 68 x 68 everywhere: ``J'J`` in its lower triangle, and ``J'r`` in its last row. Sums are double and serial.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from horefine.hand_kernels import turn_matrix

__all__ = ["add_dense", "add_points", "add_rigid", "damped_steps", "mark_points", "take_to_chart", "turn_matrices"]

_jit = njit(cache=True, nogil=True, error_model="numpy", fastmath={"nsz", "arcp", "contract", "reassoc"})
HAND, COLUMNS = 61, 67
TALL = 64
"""Rows that are multiplied at once."""
FINGERS = 32
"""Sets of five fingers."""


@_jit
def mark_points(point, weight, wanted):
    """Sets ``wanted`` for the hand points that observations (N, M) with weight name (with a share of 0 too)."""
    for n in range(point.shape[0]):
        if weight[n] > 0:
            for m in range(point.shape[1]):
                wanted[point[n, m]] = True


@_jit
def _flush(block, columns, size, count, whole):
    """Adds the products of the first ``size`` rows of ``block`` over its first ``count`` entries; clears nothing."""
    for a in range(0, size, 2):
        for b in range(0, a + 2, 2):
            s00, s01, s10, s11 = 0.0, 0.0, 0.0, 0.0
            for t in range(count):
                x0, x1, y0, y1 = block[a, t], block[a + 1, t], block[b, t], block[b + 1, t]
                s00 += x0 * y0
                s01 += x0 * y1
                s10 += x1 * y0
                s11 += x1 * y1
            r0, r1, c0, c1 = columns[a], columns[a + 1], columns[b], columns[b + 1]
            whole[max(r0, c0), min(r0, c0)] += s00
            whole[max(r1, c0), min(r1, c0)] += s10
            whole[max(r1, c1), min(r1, c1)] += s11
            if a != b:
                whole[max(r0, c1), min(r0, c1)] += s01


@_jit
def _columns(fingers, rigid, hand, columns):
    """The plain columns that observations of a set of fingers move with, their values (67) and an even number."""
    size = 0
    if hand:
        for p in range(6):
            columns[size] = p
            size += 1
        for p in range(51, HAND):
            columns[size] = p
            size += 1
        for f in range(5):
            if fingers >> f & 1:
                for p in range(9):
                    columns[size] = 6 + 9 * f + p
                    size += 1
    inner = size
    for p in range(6):
        if rigid >> p & 1:
            columns[size] = HAND + p
            size += 1
    columns[size] = COLUMNS
    size += 1
    if size % 2:  # a row of zeros for company
        columns[size] = COLUMNS
    return inner, size


@_jit
def _sorted(reach, point, share, weight, order, first):
    """Observations with weight by the fingers that move them: ``order``, and where each of the 32 sets begins."""
    count = point.shape[0]
    fingers = np.empty(count, np.int64)
    first[:] = 0
    for n in range(count):
        found = 0
        for m in range(point.shape[1]):
            if share[n, m] != 0:
                found |= reach[point[n, m]]
        fingers[n] = found if weight[n] > 0 else -1
        if weight[n] > 0:
            first[found + 1] += 1
    for f in range(FINGERS):
        first[f + 1] += first[f]
    filled = first.copy()
    for n in range(count):
        if fingers[n] >= 0:
            order[filled[fingers[n]]] = n
            filled[fingers[n]] += 1


@_jit
def _rigid(wrench, weight):
    """Bits of the object's columns that are not zero everywhere."""
    found = 0
    for n in range(wrench.shape[0]):
        if weight[n] > 0:
            for k in range(wrench.shape[1]):
                for p in range(6):
                    if wrench[n, k, p] != 0:
                        found |= 1 << p
    return found


@_jit
def _blend(jacobian, point, share, n, fingers, moved):
    """Writes how an observed point moves: shares of its hand points' slopes on the columns of ``_columns``.

    Three points at a time, in runs of fixed length, and no views: that is what the compiler makes quick.
    """
    corners = point.shape[1]
    for m in range(0, corners, 3):
        second, third = min(m + 1, corners - 1), min(m + 2, corners - 1)
        i, j, k = np.uintp(point[n, m]), np.uintp(point[n, second]), np.uintp(point[n, third])
        u = np.float64(share[n, m])
        v = np.float64(share[n, second]) if m + 1 < corners else 0.0
        w = np.float64(share[n, third]) if m + 2 < corners else 0.0
        keep = 1.0 if m > 0 else 0.0
        for a in range(3):
            for p in range(6):
                own = u * jacobian[i, a, p] + v * jacobian[j, a, p] + w * jacobian[k, a, p]
                moved[a, p] = keep * moved[a, p] + own
            for p in range(10):
                own = u * jacobian[i, a, 51 + p] + v * jacobian[j, a, 51 + p] + w * jacobian[k, a, 51 + p]
                moved[a, 6 + p] = keep * moved[a, 6 + p] + own
            at = 16
            for f in range(5):
                if fingers >> f & 1:
                    first = 6 + 9 * f
                    for p in range(9):
                        own = u * jacobian[i, a, first + p] + v * jacobian[j, a, first + p]
                        own += w * jacobian[k, a, first + p]
                        moved[a, at + p] = keep * moved[a, at + p] + own
                    at += 9


@_jit
def _alike(point, share, n, before):
    """Whether two observations are made of the same points."""
    if before < 0:
        return False
    for m in range(point.shape[1]):
        if point[n, m] != point[before, m] or share[n, m] != share[before, m]:
            return False
    return True


@_jit
def _add_rows(n, values, slope, wrench, weight, moved, columns, inner, size, block, filled, whole):
    """Writes the rows of one observation to ``block``; returns how many it holds after that."""
    root = math.sqrt(np.float64(weight[n]))
    for k in range(values.shape[1]):
        if inner > 0:
            s0, s1, s2 = root * slope[n, k, 0], root * slope[n, k, 1], root * slope[n, k, 2]
            for p in range(inner):
                block[p, filled] = s0 * moved[0, p] + s1 * moved[1, p] + s2 * moved[2, p]
        for p in range(inner, size - 1):
            block[p, filled] = root * wrench[n, k, columns[p] - HAND]
        block[size - 1, filled] = root * values[n, k]
        filled += 1
        if filled == TALL:
            _flush(block, columns, size + size % 2, TALL, whole)
            filled = 0
    return filled


@_jit
def add_points(
    jacobian, reach, values, slope, wrench, point, share, weight,
    more_values, more_slope, more_wrench, more_point, more_share, more_weight, matched, whole,
):  # fmt: skip
    """Adds observations (``forms.PointRows`` of one image) to the normal equations.

    ``jacobian`` Px3x61 and ``reach`` P as ``jacobian_kernels.hand_jacobian`` and ``HandTables`` have them. ``more_*``:
    other values at (mostly) the same points, or none; ``matched`` becomes 1 for those that were added with these.
    """
    corners = point.shape[1]
    order, first = np.empty(values.shape[0], np.int64), np.zeros(FINGERS + 1, np.int64)
    columns, block = np.zeros(COLUMNS + 3, np.int64), np.zeros((COLUMNS + 3, TALL + 8))  # no power of 2: caches
    moved = np.zeros((3, COLUMNS))
    _sorted(reach, point, share, weight, order, first)
    rigid, both = _rigid(wrench, weight), more_values.shape[0] == values.shape[0]
    rigid = rigid | _rigid(more_wrench, more_weight) if both else rigid
    for fingers in range(FINGERS):
        if first[fingers] == first[fingers + 1]:
            continue
        inner, size = _columns(fingers, rigid, corners > 0, columns)
        even = size + size % 2
        block[even - 1] = 0.0
        filled, before = 0, -1
        for place in range(first[fingers], first[fingers + 1]):
            n = order[place]
            if not _alike(point, share, n, before):
                _blend(jacobian, point, share, n, fingers, moved)
            before = n
            filled = _add_rows(n, values, slope, wrench, weight, moved, columns, inner, size, block, filled, whole)
            if both and more_weight[n] > 0:
                same = True
                for m in range(corners):
                    same &= point[n, m] == more_point[n, m] and share[n, m] == more_share[n, m]
                if same:
                    matched[n] = 1
                    filled = _add_rows(
                        n, more_values, more_slope, more_wrench, more_weight, moved, columns, inner, size, block,
                        filled, whole,
                    )  # fmt: skip
        if filled:
            full = (filled + 7) // 8 * 8
            block[:even, filled:full] = 0.0
            _flush(block, columns, even, full, whole)


@_jit
def add_rigid(values, wrench, weight, whole):
    """Adds observations of the object alone: six columns."""
    found, row = np.zeros((7, 8)), np.zeros(8)
    for n in range(values.shape[0]):
        if not weight[n] > 0:
            continue
        w = np.float64(weight[n])
        for k in range(values.shape[1]):
            for p in range(6):
                row[p] = wrench[n, k, p]
            row[6] = values[n, k]
            for a in range(7):
                own = w * row[a]
                for b in range(8):
                    found[a, b] += own * row[b]
    for a in range(7):
        for b in range(a + 1):
            whole[HAND + a, HAND + b] += found[a, b]


@_jit
def turn_matrices(rotvec, out):
    """Rotation matrices (B J 3 3, double) of axis-angles (B J 3)."""
    for b in range(rotvec.shape[0]):
        for j in range(rotvec.shape[1]):
            turn_matrix(rotvec[b, j], out[b, j])


@_jit
def add_dense(values, matrix, whole):
    """Adds rows N x 67 that are mostly zero."""
    places = np.empty(COLUMNS, np.int64)
    for n in range(values.shape[0]):
        count = 0
        for p in range(COLUMNS):
            if matrix[n, p] != 0:
                places[count] = p
                count += 1
        for i in range(count):
            own = np.float64(matrix[n, places[i]])
            whole[COLUMNS, places[i]] += own * values[n]
            for j in range(i + 1):
                whole[places[i], places[j]] += own * matrix[n, places[j]]


@_jit
def take_to_chart(whole, hand_ray, object_ray, normal, right):
    """Writes ``C'J'JC`` (67 x 67) and ``C'J'r``, C as ``jacobian.chart_matrix`` of the two rays; spoils ``whole``."""
    for i in range(COLUMNS):
        for j in range(i):
            whole[j, i] = whole[i, j]
    for i in range(COLUMNS + 1):  # columns: C is one but for two of them
        row = whole[i]
        along = hand_ray[0] * row[0] + hand_ray[1] * row[1] + hand_ray[2] * row[2]
        row[63] = along + object_ray[0] * row[61] + object_ray[1] * row[62] + object_ray[2] * row[63]
        row[2] = along
    for j in range(COLUMNS):  # rows alike
        along = hand_ray[0] * whole[0, j] + hand_ray[1] * whole[1, j] + hand_ray[2] * whole[2, j]
        deep = object_ray[0] * whole[61, j] + object_ray[1] * whole[62, j] + object_ray[2] * whole[63, j]
        for i in range(COLUMNS):
            normal[i, j] = whole[i, j]
        normal[63, j], normal[2, j] = along + deep, along
        right[j] = whole[COLUMNS, j]


@_jit
def _cholesky(a, x):
    """Solves ``a y = x`` in place by the lower triangle of ``a``, which is spoilt; False where it is not positive."""
    size = len(x)
    for j in range(size):
        own = a[j]
        for i in range(j):
            other, total = a[i], own[i]
            for k in range(i):
                total -= own[k] * other[k]
            own[i] = total / other[i]
        total, rest = own[j], x[j]
        for k in range(j):
            total -= own[k] * own[k]
            rest -= own[k] * x[k]
        if not total > 0:
            return False
        own[j] = math.sqrt(total)
        x[j] = rest / own[j]
    for j in range(size - 1, -1, -1):
        x[j] /= a[j, j]
        value, own = x[j], a[j]
        for k in range(j):
            x[k] -= value * own[k]
    return True


@_jit
def damped_steps(first, last, normal, right, damping, done, free, turn, step):
    """Writes ``-(J'J + D)^-1 J'r`` of images ``first`` to ``last`` that are not ``done``; else, and where it breaks, 0.

    D is ``damping`` times the diagonal and a little. ``free``: columns that move. No joint turns more than ``turn``.
    """
    size = len(free)
    a, x = np.empty((size, size)), np.empty(size)
    for i in range(first, last):
        step[i] = 0.0
        if done[i]:
            continue
        trace, finite = 0.0, True
        for j in range(size):
            trace += normal[i, free[j], free[j]]
            x[j] = -right[i, free[j]]
            for k in range(j + 1):
                a[j, k] = normal[i, free[j], free[k]]
                finite &= math.isfinite(a[j, k])
        if not finite:
            continue
        for j in range(size):
            a[j, j] += damping[i] * a[j, j] + 1e-9 * (trace / size + 1e-12)
        if not _cholesky(a, x):  # too little damping for these numbers: the zero step is refused, it gets more
            continue
        for j in range(size):
            step[i, free[j]] = x[j]
        longest = 0.0
        for j in range(17):
            at = 3 + 3 * j if j < 16 else 64
            longest = max(longest, step[i, at] ** 2 + step[i, at + 1] ** 2 + step[i, at + 2] ** 2)
        longest = math.sqrt(longest)
        if longest > turn:
            for p in range(step.shape[1]):
                step[i, p] *= turn / longest
