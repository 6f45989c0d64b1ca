"""Numba kernels behind :mod:`horefine.extractors.surface_lattice`; compiled code is cached beside the module.

A level is a lattice of every ``stride``-th node; cell (x, y, z) of it lies between nodes (x, y, z) and (x+1, y+1, z+1).
Where the finer lattice reaches beyond the last node, there is a last cell that lacks corners: nothing is certain of it.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["corners_to_ask", "more_corners", "settle", "unreachable"]

ROOTS = np.sqrt(np.arange(10)).astype(np.float32)
WANTED = 2
"""Of :func:`settle`'s states: a node whose sign is not certain. 1: certain; 0: in a cell that nothing can reach."""


@njit(cache=True, nogil=True)
def unreachable(values, asked, before, shape, side, steepness):
    """What is certain of a level's cells.

    Args:
        values: "X Y Z" float32; where not asked, the field's sign with a magnitude that it has at least.
        asked: "X Y Z" bool.
        before: cells of the next coarser level that no surface can reach (an empty array: none).
        shape: nodes of the next finer level.
        side: of a cell, in the unit of ``values``.
        steepness: see ``ask_lattice``.

    Returns:
        dead: "x y z" bool, cells that no surface can reach, the incomplete last ones included (never dead).
        steepest: "X Y Z" float32, how much the field may rise around each node.
    """
    nx, ny, nz = values.shape
    steepest = np.empty(values.shape, np.float32)
    for x in range(nx):
        for y in range(ny):
            for z in range(nz):
                square, here = np.float32(0), values[x, y, z]
                if asked[x, y, z]:
                    for axis in range(3):
                        largest = np.float32(0)
                        for step in (-1, 1):
                            i, j, k = x, y, z
                            if axis == 0:
                                i += step
                            elif axis == 1:
                                j += step
                            else:
                                k += step
                            if 0 <= i < nx and 0 <= j < ny and 0 <= k < nz and asked[i, j, k]:
                                largest = max(largest, abs(values[i, j, k] - here))
                        square += largest * largest
                steepest[x, y, z] = steepness * math.sqrt(max(square / (side * side), 1.0))
    dead = np.zeros((shape[0] // 2, shape[1] // 2, shape[2] // 2), np.bool_)
    reach = side * math.sqrt(0.75)
    for x in range(min(nx - 1, dead.shape[0])):
        for y in range(min(ny - 1, dead.shape[1])):
            for z in range(min(nz - 1, dead.shape[2])):
                if x // 2 < before.shape[0] and y // 2 < before.shape[1] and z // 2 < before.shape[2]:
                    if before[x // 2, y // 2, z // 2]:
                        dead[x, y, z] = True
                        continue
                positive = values[x, y, z] > 0
                out = True
                for corner in range(8):
                    i, j, k = x + (corner >> 2), y + (corner >> 1 & 1), z + (corner & 1)
                    value = values[i, j, k]
                    if (value > 0) != positive or abs(value) <= steepest[i, j, k] * reach:
                        out = False
                        break
                dead[x, y, z] = out
    return dead, steepest


@njit(cache=True, nogil=True)
def settle(values, asked, steepest, dead, shape, side):
    """The next finer level: its values as far as they follow, and which nodes do not.

    Args:
        values: of this level, as ``asked``: see :func:`unreachable`.
        asked: see there.
        steepest: and ``dead``: what it returns.
        dead: see there.
        shape: nodes of the finer level.
        side: of a cell of this level.

    Returns:
        fine: float32 of ``shape``; the nodes of this level as they are, the others with their sign where it is certain.
        state: uint8 of ``shape``; WANTED where it is not.
    """
    fine = np.empty(shape, np.float32)
    for x in range(shape[0]):
        for y in range(shape[1]):
            row, source = fine[x, y], values[x >> 1, y >> 1]
            for z in range(shape[2]):
                row[z] = source[z >> 1]
    state = np.zeros(shape, np.uint8)
    least, half = np.float32(1e-6 * side), np.float32(0.5 * side)
    for x in range(dead.shape[0]):
        for y in range(dead.shape[1]):
            for z in range(dead.shape[2]):
                if dead[x, y, z]:
                    continue
                for i in range(2 * x, min(2 * x + 3, shape[0])):
                    for j in range(2 * y, min(2 * y + 3, shape[1])):
                        for k in range(2 * z, min(2 * z + 3, shape[2])):
                            if (i | j | k) & 1 == 0 or state[i, j, k]:
                                continue
                            above, below, rise = _margins(values, steepest, i, j, k, half)
                            certain = (above > 0) != (below > 0) or _touches(dead, i, j, k)
                            if not certain:
                                above, below = _further(values, asked, steepest, i, j, k, half, above, below, rise)
                                certain = (above > 0) != (below > 0)
                            state[i, j, k] = 1 if certain else WANTED
                            # of a settled node all corners have one sign, that of the larger
                            fine[i, j, k] = max(above, least) if above > below else -max(below, least)
    return fine, state


@njit(cache=True, nogil=True)
def _margins(values, steepest, i, j, k, half):
    """How far at least the field is above 0 at node (i, j, k) of the finer level, how far below, and the rise taken."""
    reach = half * ROOTS[(i & 1) + (j & 1) + (k & 1)]
    above, below = np.float32(-np.inf), np.float32(-np.inf)
    rise = np.float32(0)
    for p in range(i >> 1, min((i + 1) >> 1, values.shape[0] - 1) + 1):
        for q in range(j >> 1, min((j + 1) >> 1, values.shape[1] - 1) + 1):
            for r in range(k >> 1, min((k + 1) >> 1, values.shape[2] - 1) + 1):
                above, below = max(above, values[p, q, r]), max(below, -values[p, q, r])
                rise = max(rise, steepest[p, q, r])
    return above - rise * reach, below - rise * reach, rise


@njit(cache=True, nogil=True)
def _further(values, asked, steepest, i, j, k, half, above, below, rise):
    """:func:`_margins` from asked nodes a cell further away, along the axes on which the node lies on this level's.

    Where the surface passes beside the nodes around, those in front of it and behind it know more.
    """
    for p in range(max((i + 1) // 2 - 1, 0), min(i // 2 + 1, values.shape[0] - 1) + 1):
        for q in range(max((j + 1) // 2 - 1, 0), min(j // 2 + 1, values.shape[1] - 1) + 1):
            for r in range(max((k + 1) // 2 - 1, 0), min(k // 2 + 1, values.shape[2] - 1) + 1):
                if asked[p, q, r]:
                    square = (2 * p - i) ** 2 + (2 * q - j) ** 2 + (2 * r - k) ** 2
                    fall = max(rise, steepest[p, q, r]) * half * ROOTS[square]
                    above, below = max(above, values[p, q, r] - fall), max(below, -values[p, q, r] - fall)
    return above, below


@njit(cache=True, nogil=True)
def _touches(dead, i, j, k):
    """Whether node (i, j, k) of the finer level lies on or in a cell that nothing can reach."""
    for x in range(max((i + 1) // 2 - 1, 0), min(i // 2, dead.shape[0] - 1) + 1):
        for y in range(max((j + 1) // 2 - 1, 0), min(j // 2, dead.shape[1] - 1) + 1):
            for z in range(max((k + 1) // 2 - 1, 0), min(k // 2, dead.shape[2] - 1) + 1):
                if dead[x, y, z]:
                    return True
    return False


@njit(cache=True, nogil=True)
def corners_to_ask(cells, asked):
    """Numbers of the corners of ``cells`` ("C 3") that were not asked; they are marked as asked."""
    found = np.empty(64, np.int64)
    count = 0
    for cell in cells:
        found, count = _take(asked, cell[0], cell[1], cell[2], found, count)
    return found[:count]


@njit(cache=True, nogil=True)
def more_corners(values, asked, numbers):
    """As :func:`corners_to_ask`, of the crossed ones of the cells around nodes ``numbers``: those asked last."""
    found = np.empty(64, np.int64)
    count = 0
    nx, ny, nz = values.shape
    for number in numbers:
        i, j, k = number // (ny * nz), number // nz % ny, number % nz
        for x in range(max(i - 1, 0), min(i, nx - 2) + 1):
            for y in range(max(j - 1, 0), min(j, ny - 2) + 1):
                for z in range(max(k - 1, 0), min(k, nz - 2) + 1):
                    inside = 0
                    for corner in range(8):
                        inside += int(values[x + (corner >> 2), y + (corner >> 1 & 1), z + (corner & 1)] <= 0)
                    if 0 < inside < 8:
                        found, count = _take(asked, x, y, z, found, count)
    return found[:count]


@njit(cache=True, nogil=True)
def _take(asked, x, y, z, found, count):
    """Adds the corners of a cell that were not asked."""
    for corner in range(8):
        i, j, k = x + (corner >> 2), y + (corner >> 1 & 1), z + (corner & 1)
        if not asked[i, j, k]:
            asked[i, j, k] = True
            if count == len(found):
                longer = np.empty(2 * count, np.int64)
                longer[:count] = found
                found = longer
            found[count] = (i * asked.shape[1] + j) * asked.shape[2] + k
            count += 1
    return found, count
