"""Even, closed triangle meshes from code: boxes, stacks of rings (lathes, sweeps) and signed-distance functions.

Contact and texture live on vertices, so triangles should be near equilateral and of one size. Boxes and stacks are laid
out that way. Solids given by a signed-distance function are dual contoured (Ju et al. 2002) on a fine lattice and then
remeshed to the wanted edge length (collapse, flip, relax: Botsch and Kobbelt 2004), each round ending on the surface.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from horefine import repair

__all__ = ["Arrays", "Solid", "box", "bridge", "contour", "lathe", "outward", "remesh", "stack"]

Arrays = tuple[np.ndarray, np.ndarray]
"""Vertices "V 3" in metres and faces "F 3"."""
Solid = Callable[[np.ndarray], np.ndarray]
"""Points "N 3" in metres to signed distance "N" (negative inside; a bound will do away from the surface)."""


def outward(vertices: np.ndarray, faces: np.ndarray) -> Arrays:
    """The mesh with all faces turned over if its enclosed volume is negative."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    volume = (a * np.cross(b, c)).sum()
    return vertices, faces if volume > 0 else faces[:, ::-1].copy()


def box(size: tuple[float, float, float], length: float) -> Arrays:
    """A box about the origin with its sides cut into squares of about ``length``, two triangles each."""
    counts = [max(1, round(side / length)) for side in size]
    sheets = []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        i, j = np.meshgrid(np.arange(counts[u]), np.arange(counts[v]), indexing="ij")
        corners = np.zeros((i.size, 4, 3), np.int64)
        for place, (di, dj) in enumerate(((0, 0), (1, 0), (1, 1), (0, 1))):
            corners[:, place, u], corners[:, place, v] = i.ravel() + di, j.ravel() + dj
        # Alternate the diagonals, so that no direction of the sheet is stiffer than another.
        odd = ((i + j).ravel() % 2).astype(bool)
        corners[odd] = np.roll(corners[odd], 1, axis=1)
        far = corners.copy()
        far[..., axis] = counts[axis]
        sheets += [far, corners[:, ::-1]]
    quads = np.concatenate(sheets)
    lattice, faces = np.unique(quads.reshape(-1, 3), axis=0, return_inverse=True)
    faces = faces.reshape(-1, 4)
    vertices = (lattice / np.array(counts) - 0.5) * np.array(size)
    return outward(vertices, np.concatenate([faces[:, [0, 1, 2]], faces[:, [0, 2, 3]]]))


def stack(rings: list[np.ndarray]) -> Arrays:
    """A closed surface through rings of points "M 3" (M may differ), the first and last of which are single points.

    Points of a ring are spread over its turn; neighbouring rings are zipped together in the order of their turns.
    """
    starts = np.cumsum([0] + [len(ring) for ring in rings])
    faces: list[tuple[int, int, int]] = []
    for (a, b), (start_a, start_b) in zip(pairwise(rings), pairwise(starts), strict=False):
        m, n, i, j = len(a), len(b), 0, 0
        steps_a, steps_b = (m if m > 1 else 0), (n if n > 1 else 0)
        while i < steps_a or j < steps_b:
            if j >= steps_b or (i < steps_a and (i + 1) * n <= (j + 1) * m):
                faces.append((start_a + i % m, start_a + (i + 1) % m, start_b + j % n))
                i += 1
            else:
                faces.append((start_a + i % m, start_b + (j + 1) % n, start_b + j % n))
                j += 1
    vertices = np.concatenate(rings)
    return outward(vertices, _flip(vertices, _flip(vertices, np.array(faces, np.int64))))


def bridge(body: Arrays, eligible: np.ndarray, rings: list[np.ndarray], clear: float) -> Arrays:
    """A tube through ``rings`` ("M 3" each, M the same) from the body to itself: a handle.

    At both ends the body's vertices that are ``eligible`` ("V" bool) and within ``clear`` of the end ring's centre are
    cut away, and the border of the cut is joined to the ring.
    """
    vertices, faces = body
    gone = np.zeros(len(vertices), bool)
    for ring in (rings[0], rings[-1]):
        gone |= eligible & (np.linalg.norm(vertices - ring.mean(0), axis=1) < clear)
    faces = faces[~gone[faces].any(1)]
    loops = repair.border_loops(faces)
    start, count = len(vertices), len(rings[0])
    tube = np.arange(len(rings) * count).reshape(-1, count) + start
    vertices = np.concatenate([vertices, *rings])
    quads = [np.stack([a, np.roll(a, -1), np.roll(b, -1), b], 1) for a, b in pairwise(tube)]
    pieces = [faces, _halve(vertices, np.concatenate(quads))]
    for ring in (tube[0], tube[-1]):
        near = min(loops, key=lambda loop: np.linalg.norm(vertices[loop].mean(0) - vertices[ring].mean(0)))
        pieces.append(_zip(vertices, near, ring))
    used, faces = np.unique(np.concatenate(pieces), return_inverse=True)
    vertices, faces = vertices[used], faces.reshape(-1, 3)
    return vertices, repair.orient(vertices, faces)[0]


def _zip(vertices: np.ndarray, loop: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """Triangles between two closed chains of vertices, each step the shorter of the two possible edges."""
    best, length = np.zeros((0, 3), np.int64), np.inf
    for other in (ring, ring[::-1]):
        turned = np.roll(other, -int(np.linalg.norm(vertices[other] - vertices[loop[0]], axis=1).argmin()))
        i, j, faces, total = 0, 0, [], 0.0
        while i < len(loop) or j < len(turned):
            a, b = loop[i % len(loop)], turned[j % len(turned)]
            next_a, next_b = loop[(i + 1) % len(loop)], turned[(j + 1) % len(turned)]
            step_a = np.linalg.norm(vertices[next_a] - vertices[b]) if i < len(loop) else np.inf
            step_b = np.linalg.norm(vertices[next_b] - vertices[a]) if j < len(turned) else np.inf
            faces.append((a, next_a, b) if step_a <= step_b else (a, next_b, b))
            i, j = (i + 1, j) if step_a <= step_b else (i, j + 1)
            total += min(step_a, step_b)
        if total < length:
            best, length = np.array(faces, np.int64), total
    return best


def lathe(
    profile: list[tuple[float, float]],
    length: float,
    section: Callable[[np.ndarray, float, float], np.ndarray] | None = None,
) -> Arrays:
    """A surface of revolution about z from a profile of (radius, z) corners that starts and ends on the axis.

    The profile is cut into steps of about ``length`` (corners kept), each ring into about as many as its girth needs.
    ``section(angles, radius, z) -> "M 2"`` replaces the circle by another cross-section.
    """
    corners = np.array(profile, float)
    places = [corners[0]]
    for start, stop in pairwise(corners):
        count = max(1, round(float(np.hypot(*(stop - start))) / length))
        places += [start + (stop - start) * step / count for step in range(1, count + 1)]
    rings = []
    for index, (radius, z) in enumerate(places):
        if radius < 1e-9:
            rings.append(np.array([[0.0, 0.0, z]]))
            continue
        count = max(6, round(2 * np.pi * radius / length))
        angles = 2 * np.pi * (np.arange(count) + 0.5 * (index % 2)) / count
        circle = np.stack([radius * np.cos(angles), radius * np.sin(angles)], 1)
        flat = circle if section is None else section(angles, float(radius), float(z))
        rings.append(np.column_stack([flat, np.full(count, z)]))
    return stack(rings)


def _slope(solid: Solid, points: np.ndarray, step: float = 1e-6) -> tuple[np.ndarray, np.ndarray]:
    """A solid's distance "N" at points and its unit gradient "N 3", by forward differences."""
    here = solid(points)
    result = np.stack([solid(points + step * axis) - here for axis in np.eye(3)], 1)
    return here, result / np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-12)


def _project(solid: Solid, points: np.ndarray, rounds: int = 2) -> np.ndarray:
    """Points moved along the gradient onto the surface."""
    for _ in range(rounds):
        distance, slope = _slope(solid, points)
        points = points - np.clip(distance, -0.005, 0.005)[:, None] * slope
    return points


def contour(solid: Solid, low: np.ndarray, high: np.ndarray, length: float) -> Arrays:
    """Dual contouring of a solid on a lattice of step ``length`` that must hold it with a cell to spare.

    One vertex a cell, at the point that best fits the tangent planes of the cell's crossed edges.
    """
    shape = np.ceil((np.asarray(high) - low) / length).astype(int) + 1
    nodes = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    values = solid(nodes.reshape(-1, 3) * length + low).reshape(shape)
    inside = values < 0
    cells, planes, quads = [], [], []
    for axis in range(3):
        one = np.eye(3, dtype=int)[axis]
        u, v = np.eye(3, dtype=int)[(axis + 1) % 3], np.eye(3, dtype=int)[(axis + 2) % 3]
        here = np.take(inside, range(shape[axis] - 1), axis)
        there = np.take(inside, range(1, shape[axis]), axis)
        edges = np.argwhere(here != there)
        first, second = values[tuple(edges.T)], values[tuple((edges + one).T)]
        points = low + length * (edges + (first / (first - second))[:, None] * one)
        points = _project(solid, points)
        around = np.stack([edges - u - v, edges - v, edges, edges - u], 1)  # anticlockwise about the axis
        leaving = inside[tuple(edges.T)]
        quads.append(np.where(leaving[:, None, None], around, around[:, ::-1]))
        cells.append(around.reshape(-1, 3))
        planes.append(np.repeat(np.concatenate([points, _slope(solid, points)[1]], 1), 4, axis=0))
    used, place = np.unique(np.concatenate(cells), axis=0, return_inverse=True)
    vertices = _fit(place.ravel(), np.concatenate(planes), len(used))
    vertices = np.clip(vertices, low + length * used, low + length * (used + 1))
    counts = np.cumsum([0] + [len(q) * 4 for q in quads])
    corners = np.concatenate([place.ravel()[a:b].reshape(-1, 4) for a, b in pairwise(counts)])
    turned = np.concatenate([(q[:, 0] != c.reshape(-1, 4, 3)[:, 0]).any(1) for q, c in zip(quads, cells, strict=True)])
    corners[turned] = corners[turned][:, ::-1]
    return outward(vertices, _halve(vertices, corners))


def _fit(place: np.ndarray, planes: np.ndarray, count: int, hold: float = 0.05) -> np.ndarray:
    """For each of ``count`` groups the point nearest to its planes "N 6" (point, normal), held to their mean point."""
    points, normals = planes[:, :3], planes[:, 3:]
    weight = np.bincount(place, minlength=count)[:, None]
    mean = np.stack([np.bincount(place, points[:, i], count) for i in range(3)], 1) / weight
    offset = (normals * (points - mean[place])).sum(1)
    outer = normals[:, :, None] * normals[:, None]
    matrix = np.stack([np.bincount(place, outer[:, i, j], count) for i in range(3) for j in range(3)], 1)
    right = np.stack([np.bincount(place, normals[:, i] * offset, count) for i in range(3)], 1)
    matrix = matrix.reshape(-1, 3, 3) + hold * weight[:, :, None] * np.eye(3)
    return mean + np.linalg.solve(matrix, right[..., None])[..., 0]


def _halve(vertices: np.ndarray, quads: np.ndarray) -> np.ndarray:
    """Two triangles a quad, cut along the shorter diagonal."""
    p = vertices[quads]
    first = np.linalg.norm(p[:, 0] - p[:, 2], axis=1) <= np.linalg.norm(p[:, 1] - p[:, 3], axis=1)
    straight = np.concatenate([quads[first][:, [0, 1, 2]], quads[first][:, [0, 2, 3]]])
    crossed = np.concatenate([quads[~first][:, [0, 1, 3]], quads[~first][:, [1, 2, 3]]])
    return np.concatenate([straight, crossed])


def remesh(solid: Solid, mesh: Arrays, length: float, rounds: int = 6) -> Arrays:
    """The same surface with edges of about ``length``, from a finer mesh of it."""
    vertices, faces = mesh
    for step in range(rounds):
        wanted = length * min(1.0, 0.5 + 0.5 * (step + 1) / (rounds - 2))
        vertices, faces = _collapse(vertices, faces, wanted)
        faces = _flip(vertices, faces)
        vertices = _relax(solid, vertices, faces, sharp=step >= rounds - 3)
    vertices, faces = _collapse(vertices, faces, 0.6 * length)  # edges that sharpening made too short
    return outward(vertices, _flip(vertices, faces))


def _collapse(vertices: np.ndarray, faces: np.ndarray, length: float) -> Arrays:
    """Merge the ends of edges shorter than 4/5 ``length``, shortest first, where topology and orientation allow."""
    points = [tuple(p) for p in vertices.tolist()]
    corners = [list(f) for f in faces.tolist()]
    fans: list[set[int]] = [set() for _ in points]
    for index, face in enumerate(corners):
        for vertex in face:
            fans[vertex].add(index)
    edges = np.unique(np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1), axis=0)
    sizes = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1)
    alive = [True] * len(points)
    for a, b in edges[np.argsort(sizes, kind="stable")][: int((sizes < 0.8 * length).sum())].tolist():
        if not (alive[a] and alive[b]) or not fans[a] & fans[b]:
            continue
        if _square(points[a], points[b]) < (0.8 * length) ** 2 and _mergeable(a, b, points, corners, fans, length):
            _merge(a, b, points, corners, fans)
            alive[b] = False
    kept = np.array([face for face in corners if face], np.int64)
    used, kept = np.unique(kept, return_inverse=True)
    return np.array(points)[used], kept.reshape(-1, 3)


def _merge(a, b, points, corners, fans) -> None:
    """Move a to the middle of the edge and give it b's faces."""
    points[a] = tuple((p + q) / 2 for p, q in zip(points[a], points[b], strict=True))
    for index in fans[a] & fans[b]:
        for vertex in corners[index]:
            fans[vertex].discard(index)
        corners[index] = []
    for index in fans[b]:
        corners[index] = [a if vertex == b else vertex for vertex in corners[index]]
    fans[a] |= fans[b]
    fans[b] = set()


def _mergeable(a, b, points, corners, fans, length) -> bool:
    """Whether merging b into a (at their middle) keeps a manifold, turns no face over and makes no long edge."""
    shared = fans[a] & fans[b]
    near_a = {v for f in fans[a] for v in corners[f]} - {a}
    near_b = {v for f in fans[b] for v in corners[f]} - {b}
    if len(shared) != 2 or len(near_a & near_b) != 2 or len(near_a | near_b) < 6:
        return False
    middle = tuple((p + q) / 2 for p, q in zip(points[a], points[b], strict=True))
    limit = (1.4 * length) ** 2
    for v in near_a | near_b:
        if v not in (a, b) and _square(points[v], middle) > limit:
            return False
    for index in (fans[a] | fans[b]) - shared:
        old = [points[v] for v in corners[index]]
        new = [middle if v in (a, b) else points[v] for v in corners[index]]
        before, after = _cross(*old), _cross(*new)
        if _cosine(before, after) < 0.5:
            return False
    return True


def _square(a, b) -> float:
    return (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2


def _cross(a, b, c) -> tuple[float, float, float]:
    ux, uy, uz, vx, vy, vz = b[0] - a[0], b[1] - a[1], b[2] - a[2], c[0] - a[0], c[1] - a[1], c[2] - a[2]
    return uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx


def _flip(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Turn edges where that makes the smaller angles larger (Delaunay) and the surface is nearly flat."""
    points, corners = vertices.tolist(), faces.tolist()
    sides: dict[tuple[int, int], int] = {}
    for index, (i, j, k) in enumerate(corners):
        sides[i, j] = sides[j, k] = sides[k, i] = index
    for a, b in _wide(vertices, faces):
        left, right = sides.get((a, b)), sides.get((b, a))
        if left is None or right is None or left == right:
            continue
        c = next(v for v in corners[left] if v not in (a, b))
        d = next(v for v in corners[right] if v not in (a, b))
        if c == d or (c, d) in sides or (d, c) in sides or not _better(points[a], points[b], points[c], points[d]):
            continue
        del sides[a, b], sides[b, a]
        corners[left], corners[right] = [c, d, b], [d, c, a]
        sides[c, d] = sides[d, b] = sides[b, c] = left
        sides[d, c] = sides[c, a] = sides[a, d] = right
    return np.array(corners, np.int64)


def _wide(vertices: np.ndarray, faces: np.ndarray) -> list[tuple[int, int]]:
    """Edges (low vertex first) whose two opposite angles sum to more than pi."""
    half, angles = [], []
    for first in range(3):
        a, b, c = faces[:, first], faces[:, (first + 1) % 3], faces[:, (first + 2) % 3]
        u, v = vertices[a] - vertices[c], vertices[b] - vertices[c]
        half.append(np.stack([a, b], 1))
        angles.append(np.arctan2(np.linalg.norm(np.cross(u, v), axis=1), (u * v).sum(1)))
    edges, place = np.unique(np.sort(np.concatenate(half), axis=1), axis=0, return_inverse=True)
    total = np.bincount(place.ravel(), np.concatenate(angles))
    return [(a, b) for a, b in edges[total > np.pi + 1e-6].tolist()]


def _better(a, b, c, d) -> bool:
    """Whether edge cd is better than edge ab of the triangles abc and bad: flat, and opposite angles over pi."""
    if _angle(c, a, b) + _angle(d, a, b) <= np.pi + 1e-6:
        return False
    old_left, old_right, new_left, new_right = _cross(a, b, c), _cross(b, a, d), _cross(c, d, b), _cross(d, c, a)
    return all(_cosine(new, old) > 0.9 for new in (new_left, new_right) for old in (old_left, old_right))


def _dot(u, v) -> float:
    return u[0] * v[0] + u[1] * v[1] + u[2] * v[2]


def _cosine(u, v) -> float:
    return _dot(u, v) / max((_dot(u, u) * _dot(v, v)) ** 0.5, 1e-30)


def _angle(at, a, b) -> float:
    u, v = [p - q for p, q in zip(a, at, strict=True)], [p - q for p, q in zip(b, at, strict=True)]
    return math.acos(min(1.0, max(-1.0, _cosine(u, v))))


def _relax(solid: Solid, vertices: np.ndarray, faces: np.ndarray, sharp: bool) -> np.ndarray:
    """Move vertices to the middle of their neighbours, then back onto the surface and onto its edges and corners."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    for _ in range(3 if sharp else 1):
        count = np.bincount(edges[:, 0], minlength=len(vertices))[:, None]
        mean = (
            np.stack([np.bincount(edges[:, 0], vertices[edges[:, 1], i], len(vertices)) for i in range(3)], 1) / count
        )
        normals = _slope(solid, vertices)[1]
        step = mean - vertices
        vertices = _project(solid, vertices + 0.6 * (step - (step * normals).sum(1, keepdims=True) * normals))
        if sharp:
            vertices = _sharpen(solid, vertices, faces)
    return vertices


def _sharpen(solid: Solid, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Move vertices whose faces lie on different sheets of the surface to where the sheets meet."""
    centres = _project(solid, vertices[faces].mean(1))
    normals = _slope(solid, centres)[1]
    planes = np.concatenate([centres, normals], 1)
    fitted = _fit(faces.ravel(), np.repeat(planes, 3, axis=0), len(vertices), hold=0.02)
    summed = np.stack([np.bincount(faces.ravel(), np.repeat(normals[:, i], 3), len(vertices)) for i in range(3)], 1)
    spread = np.linalg.norm(summed, axis=1) / np.bincount(faces.ravel(), minlength=len(vertices))
    near = (np.linalg.norm(fitted - vertices, axis=1) < 0.006) & (np.abs(solid(fitted)) < 0.0008)
    return np.where((near & (spread < 0.93))[:, None], fitted, vertices)
