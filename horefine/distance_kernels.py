"""Numba kernels behind :mod:`horefine.distance`: a bounding-volume tree, closest points and winding numbers.

One tree over the triangles serves both questions. The nearest triangle is found exactly (branch and bound); the
generalised winding number (Jacobson et al. 2013) is summed hierarchically, far clusters as one dipole (Barill et al.
2018, first order), near triangles by their exact solid angle (van Oosterom and Strackee 1983).

Everything runs on one thread and releases the GIL; compiled code is cached beside the module.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["build_tree", "closest", "grid_distance", "grid_winding", "winding"]

LEAF = 4
FAR = 2.3
"""A cluster is seen as one dipole beyond this many of its radii: winding numbers then err by under one percent."""


@njit(cache=True, nogil=True)
def _order(centres: np.ndarray) -> np.ndarray:
    """Order "F" of points in which halving the list, again and again, splits space at medians of the longest axis."""
    order = np.arange(len(centres))
    along = np.empty(len(centres))
    waiting = [(0, len(centres))]
    while waiting:
        start, stop = waiting.pop()
        if stop - start <= LEAF:
            continue
        axis, widest = 0, -1.0
        for x in range(3):
            low, high = np.inf, -np.inf
            for k in range(start, stop):
                value = centres[order[k], x]
                low, high = min(low, value), max(high, value)
            if high - low > widest:
                axis, widest = x, high - low
        for k in range(start, stop):
            along[k] = centres[order[k], axis]
        middle = (start + stop) // 2
        _select(along, order, start, stop - 1, middle)
        waiting.append((start, middle))
        waiting.append((middle, stop))
    return order


@njit(cache=True, nogil=True)
def _select(along: np.ndarray, order: np.ndarray, first: int, last: int, middle: int) -> None:
    """Moves entries ``first`` to ``last`` so that none before ``middle`` is greater than one from there on (Hoare)."""
    while first < last:
        pivot = along[(first + last) // 2]
        i, j = first, last
        while i <= j:
            while along[i] < pivot:
                i += 1
            while along[j] > pivot:
                j -= 1
            if i <= j:
                along[i], along[j] = along[j], along[i]
                order[i], order[j] = order[j], order[i]
                i, j = i + 1, j - 1
        if middle <= j:
            last = j
        elif middle >= i:
            first = i
        else:
            return


NEAR = 7.0
"""Grid steps from the surface within which every node's distance is exact."""


@njit(cache=True, nogil=True)
def _halves(count: int) -> tuple:
    """The tree of a list cut in halves down to LEAF: children "M 2" (leaves: -1 - start, count) and spans "M 2"."""
    children = np.zeros((2 * count + 1, 2), np.int64)
    spans = np.zeros((2 * count + 1, 2), np.int64)
    spans[0, 1] = count
    used, node = 1, 0
    while node < used:
        start, stop = spans[node, 0], spans[node, 1]
        if stop - start <= LEAF:
            children[node, 0], children[node, 1] = -1 - start, stop - start
        else:
            middle = (start + stop) // 2
            children[node, 0], children[node, 1] = used, used + 1
            spans[used, 0], spans[used, 1] = start, middle
            spans[used + 1, 0], spans[used + 1, 1] = middle, stop
            used += 2
        node += 1
    return children[:used], spans[:used]


@njit(cache=True, nogil=True)
def _summaries(triangles: np.ndarray, vectors: np.ndarray, areas: np.ndarray, spans: np.ndarray) -> tuple:
    """Of each node: its box "M 6" and its dipole "M 7" (area-weighted centre, summed area vector, radius)."""
    boxes = np.zeros((len(spans), 6))
    dipoles = np.zeros((len(spans), 7))
    for node in range(len(spans)):
        box, dipole, weight = boxes[node], dipoles[node], 0.0
        box[:3], box[3:] = np.inf, -np.inf
        for t in range(spans[node, 0], spans[node, 1]):
            weight += areas[t]
            for x in range(3):
                a, b, c = triangles[t, x], triangles[t, 3 + x], triangles[t, 6 + x]
                box[x] = min(box[x], a, b, c)
                box[3 + x] = max(box[3 + x], a, b, c)
                dipole[x] += areas[t] * (a + b + c) / 3
                dipole[3 + x] += vectors[t, x]
        for x in range(3):
            dipole[x] /= weight
            dipole[6] += max(box[3 + x] - dipole[x], dipole[x] - box[x]) ** 2
        dipole[6] = math.sqrt(dipole[6])
    return boxes, dipoles


def build_tree(vertices: np.ndarray, faces: np.ndarray) -> tuple:
    """The tree of a triangle mesh: (triangles "F 9", original face of each "F", children, boxes, dipoles)."""
    corners = np.ascontiguousarray(vertices, np.float64)[np.asarray(faces, np.int64)]
    order = _order(corners.mean(1))
    corners = corners[order]
    vectors = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2
    triangles = np.ascontiguousarray(corners.reshape(-1, 9))
    children, spans = _halves(len(faces))
    boxes, dipoles = _summaries(triangles, vectors, np.linalg.norm(vectors, axis=1) + 1e-30, spans)
    return triangles, order, children, boxes, dipoles


@njit(cache=True, nogil=True)
def _to_triangle(x: float, y: float, z: float, t: np.ndarray) -> tuple:
    """Squared distance to a triangle and the nearest point's weights of corners b and c (Ericson 2005, 5.1.5)."""
    abx, aby, abz = t[3] - t[0], t[4] - t[1], t[5] - t[2]
    acx, acy, acz = t[6] - t[0], t[7] - t[1], t[8] - t[2]
    px, py, pz = x - t[0], y - t[1], z - t[2]
    d1 = abx * px + aby * py + abz * pz
    d2 = acx * px + acy * py + acz * pz
    bb = abx * abx + aby * aby + abz * abz
    bc = abx * acx + aby * acy + abz * acz
    cc = acx * acx + acy * acy + acz * acz
    d3, d4, d5, d6 = d1 - bb, d2 - bc, d1 - bc, d2 - cc
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    v, w = 0.0, 0.0
    if d1 <= 0 and d2 <= 0:
        pass
    elif d3 >= 0 and d4 <= d3:
        v = 1.0
    elif vc <= 0 and d1 >= 0 and d3 <= 0:
        v = d1 / (d1 - d3) if d1 > d3 else 0.0
    elif d6 >= 0 and d5 <= d6:
        w = 1.0
    elif vb <= 0 and d2 >= 0 and d6 <= 0:
        w = d2 / (d2 - d6) if d2 > d6 else 0.0
    elif va <= 0 and d4 >= d3 and d5 >= d6:
        length = (d4 - d3) + (d5 - d6)
        w = (d4 - d3) / length if length > 0 else 0.0
        v = 1 - w
    else:
        total = va + vb + vc
        v, w = vb / total, vc / total
    rx, ry, rz = px - v * abx - w * acx, py - v * aby - w * acy, pz - v * abz - w * acz
    return rx * rx + ry * ry + rz * rz, v, w


@njit(cache=True, nogil=True)
def _box_distance(x: float, y: float, z: float, box: np.ndarray) -> float:
    dx = max(box[0] - x, 0.0, x - box[3])
    dy = max(box[1] - y, 0.0, y - box[4])
    dz = max(box[2] - z, 0.0, z - box[5])
    return dx * dx + dy * dy + dz * dz


@njit(cache=True, nogil=True)
def _nearest(x, y, z, triangles, children, boxes, stack, guess):
    """(squared distance, triangle) nearest to a point; ``guess`` is a triangle believed to be near."""
    best = guess
    bound = _to_triangle(x, y, z, triangles[guess])[0]
    top = 0
    stack[0] = 0
    while top >= 0:
        node = stack[top]
        top -= 1
        if _box_distance(x, y, z, boxes[node]) >= bound:
            continue
        first, second = children[node, 0], children[node, 1]
        if first < 0:
            for t in range(-1 - first, -1 - first + second):
                square = _to_triangle(x, y, z, triangles[t])[0]
                if square < bound:
                    bound, best = square, t
        else:
            if _box_distance(x, y, z, boxes[first]) < _box_distance(x, y, z, boxes[second]):
                first, second = second, first
            stack[top + 1], stack[top + 2] = first, second
            top += 2
    return bound, best


@njit(cache=True, nogil=True)
def closest(points: np.ndarray, triangles: np.ndarray, children: np.ndarray, boxes: np.ndarray) -> tuple:
    """For each point "N 3": unsigned distance, nearest point, and the nearest triangle's place in the tree."""
    distance = np.empty(len(points))
    nearest = np.empty((len(points), 3))
    which = np.empty(len(points), np.int64)
    stack = np.empty(128, np.int64)
    guess = 0
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        square, guess = _nearest(x, y, z, triangles, children, boxes, stack, guess)
        t = triangles[guess]
        _, v, w = _to_triangle(x, y, z, t)
        distance[i], which[i] = math.sqrt(square), guess
        for axis in range(3):
            nearest[i, axis] = (1 - v - w) * t[axis] + v * t[3 + axis] + w * t[6 + axis]
    return distance, nearest, which


@njit(cache=True, nogil=True)
def _solid_angle(x: float, y: float, z: float, t: np.ndarray) -> float:
    """Signed solid angle of a triangle, steradians: positive when seen from behind (the inside)."""
    ax, ay, az = t[0] - x, t[1] - y, t[2] - z
    bx, by, bz = t[3] - x, t[4] - y, t[5] - z
    cx, cy, cz = t[6] - x, t[7] - y, t[8] - z
    a = math.sqrt(ax * ax + ay * ay + az * az)
    b = math.sqrt(bx * bx + by * by + bz * bz)
    c = math.sqrt(cx * cx + cy * cy + cz * cz)
    volume = ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)
    ab, bc, ca = ax * bx + ay * by + az * bz, bx * cx + by * cy + bz * cz, cx * ax + cy * ay + cz * az
    return 2 * math.atan2(volume, a * b * c + ab * c + bc * a + ca * b)


@njit(cache=True, nogil=True)
def _wind(x, y, z, triangles, children, dipoles, stack):
    total, top = 0.0, 0
    stack[0] = 0
    while top >= 0:
        node = stack[top]
        top -= 1
        d = dipoles[node]
        rx, ry, rz = d[0] - x, d[1] - y, d[2] - z
        square = rx * rx + ry * ry + rz * rz
        if square > FAR * FAR * d[6] * d[6]:
            total += (d[3] * rx + d[4] * ry + d[5] * rz) / (square * math.sqrt(square))
            continue
        first, second = children[node, 0], children[node, 1]
        if first < 0:
            for t in range(-1 - first, -1 - first + second):
                total += _solid_angle(x, y, z, triangles[t])
        else:
            stack[top + 1], stack[top + 2] = first, second
            top += 2
    return total / (4 * math.pi)


@njit(cache=True, nogil=True)
def winding(points: np.ndarray, triangles: np.ndarray, children: np.ndarray, dipoles: np.ndarray) -> np.ndarray:
    """Generalised winding number at each point "N 3": 1 inside and 0 outside a closed outward mesh."""
    result = np.empty(len(points))
    stack = np.empty(128, np.int64)
    for i in range(len(points)):
        result[i] = _wind(points[i, 0], points[i, 1], points[i, 2], triangles, children, dipoles, stack)
    return result


@njit(cache=True, nogil=True)
def grid_distance(
    size: int, origin: np.ndarray, spacing: float, triangles: np.ndarray, children: np.ndarray, boxes: np.ndarray
) -> np.ndarray:
    """Unsigned distance at every node of a cubic grid of an even size.

    Every other node in each axis is searched exactly. The nodes between try the triangles nearest to those around
    them, and are searched, too, where that comes out below NEAR steps: further away the try is almost always right.
    """
    values = np.empty((size, size, size))
    nearest = np.empty((size // 2 + 1, size // 2 + 1, size // 2 + 1), np.int64)
    stack = np.empty(128, np.int64)
    guess = 0
    for i in range(0, size, 2):
        for j in range(0, size, 2):
            for k in range(0, size, 2):
                x, y, z = origin[0] + i * spacing, origin[1] + j * spacing, origin[2] + k * spacing
                square, guess = _nearest(x, y, z, triangles, children, boxes, stack, guess)
                values[i, j, k], nearest[i // 2, j // 2, k // 2] = math.sqrt(square), guess
    last = (size - 1) // 2
    for i in range(size):
        for j in range(size):
            for k in range(size):
                if i % 2 == 0 and j % 2 == 0 and k % 2 == 0:
                    continue
                x, y, z = origin[0] + i * spacing, origin[1] + j * spacing, origin[2] + k * spacing
                bound, before = np.inf, -1
                for a in range(i // 2, min(i // 2 + i % 2, last) + 1):
                    for b in range(j // 2, min(j // 2 + j % 2, last) + 1):
                        for c in range(k // 2, min(k // 2 + k % 2, last) + 1):
                            t = nearest[a, b, c]
                            if t != before:
                                square = _to_triangle(x, y, z, triangles[t])[0]
                                if square < bound:
                                    bound, guess = square, t
                                before = t
                if bound < (NEAR * spacing) ** 2:
                    bound, guess = _nearest(x, y, z, triangles, children, boxes, stack, guess)
                values[i, j, k] = math.sqrt(bound)
    return values


@njit(cache=True, nogil=True)
def grid_winding(
    distance: np.ndarray,
    origin: np.ndarray,
    spacing: float,
    closed: bool,
    triangles: np.ndarray,
    children: np.ndarray,
    dipoles: np.ndarray,
) -> np.ndarray:
    """Winding number at every node. In a closed mesh it is copied within balls that hold no surface."""
    size = len(distance)
    result = np.empty((size, size, size))
    stack = np.empty(128, np.int64)
    for i in range(size):
        for j in range(size):
            for k in range(size):
                if closed and i > 0 and distance[i - 1, j, k] > spacing:
                    result[i, j, k] = result[i - 1, j, k]
                elif closed and j > 0 and distance[i, j - 1, k] > spacing:
                    result[i, j, k] = result[i, j - 1, k]
                elif closed and k > 0 and distance[i, j, k - 1] > spacing:
                    result[i, j, k] = result[i, j, k - 1]
                else:
                    x, y, z = origin[0] + i * spacing, origin[1] + j * spacing, origin[2] + k * spacing
                    result[i, j, k] = _wind(x, y, z, triangles, children, dipoles, stack)
    return result
