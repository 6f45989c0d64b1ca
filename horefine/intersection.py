"""The volume that two solids share, from their triangles.

``rays``: parallel lines through the box where both solids can overlap; along each line the common length is exact, and
the lines, a quarter of a millimetre apart, are summed (errors and times: ``benchmarks/metrics.py``). Right where a
hand touches itself: a point is inside when its winding number is positive. Needs closed meshes; holes such as the wrist
of MANO are closed first.
``voxels``: the cells of a grid whose centre has a winding number over one half in both. For meshes that no cap closes.
``boolean``: the exact volume by manifold3d, when that is installed. Needs manifold meshes.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int
from numba import njit

from horefine.distance import is_closed, signed_distance, winding_number
from horefine.repair import signed_volume

__all__ = ["close_holes", "intersection_volume"]

PITCH = {"rays": 0.00025, "voxels": 0.001}
"""Metres between the samples of each method."""


def close_holes(faces: Int[np.ndarray, "F 3"]) -> Int[np.ndarray, "G 3"]:
    """``faces`` with every simple border loop filled by a fan; the vertices stay as they are.

    A border that is no simple loop is left open: ask :func:`horefine.distance.is_closed`.
    """
    edges = np.concatenate([faces[:, [k, (k + 1) % 3]] for k in range(3)]).astype(np.int64)
    many = int(edges.max(initial=0)) + 1
    keys = np.unique(edges[edges[:, 0] != edges[:, 1]] @ [many, 1])
    starts, ends = keys // many, keys % many
    border = ~np.isin(keys, ends * many + starts, assume_unique=True)  # no face runs along it the other way
    follow: dict[int, list[int]] = {}
    for a, b in zip(starts[border].tolist(), ends[border].tolist(), strict=True):
        follow.setdefault(b, []).append(a)  # a cap runs against the border
    follow = {a: b for a, b in follow.items() if len(b) == 1}
    caps = []
    while follow:
        start, nexts = follow.popitem()
        loop = [start]
        while nexts is not None and nexts[0] != start:
            loop.append(nexts[0])
            nexts = follow.pop(nexts[0], None)
        if nexts is not None:
            caps += [(loop[0], loop[k], loop[k + 1]) for k in range(1, len(loop) - 1)]
    return np.concatenate([faces, np.asarray(caps, faces.dtype).reshape(-1, 3)])


def intersection_volume(
    first: Float[np.ndarray, "V 3"],
    first_faces: Int[np.ndarray, "F 3"],
    second: Float[np.ndarray, "W 3"],
    second_faces: Int[np.ndarray, "G 3"],
    *,
    method: str = "auto",
    pitch: float | None = None,
) -> float:
    """Common volume of two solids in cubic metres (vertices in metres, one frame).

    ``method`` is rays, voxels or boolean (above); auto takes rays, or voxels when a mesh cannot be closed.
    ``pitch``: metres between samples (default 0.25 mm rays, 1 mm voxels).

    Raises:
        ValueError: an unknown method, or a mesh that the chosen method cannot take.
        ModuleNotFoundError: boolean without manifold3d.
    """
    if method not in ("auto", "rays", "voxels", "boolean"):
        raise ValueError(f"method: {method!r} is none of auto, rays, voxels, boolean")
    solids = [_solid(np.ascontiguousarray(faces, np.int64).tobytes()) for faces in (first_faces, second_faces)]
    closed = all(tight for _, tight in solids)
    meshes = [(np.ascontiguousarray(v, np.float64), f) for v, (f, _) in zip((first, second), solids, strict=True)]
    low = np.maximum(*(v[f].min((0, 1)) for v, f in meshes))
    high = np.minimum(*(v[f].max((0, 1)) for v, f in meshes))
    if (high <= low).any():
        return 0.0
    if method == "auto":
        method = "rays" if closed else "voxels"
    if method == "voxels":
        return _by_voxels(meshes, low, high, pitch or PITCH["voxels"])
    if not closed:
        raise ValueError(
            f"method: {method} needs closed meshes, and a hole of one of these is no simple loop; use voxels"
        )
    oriented = [(v, f if signed_volume(v, f) > 0 else f[:, ::-1].copy()) for v, f in meshes]
    return _by_boolean(oriented) if method == "boolean" else _by_rays(oriented, low, high, pitch or PITCH["rays"])


@lru_cache(maxsize=64)
def _solid(faces: bytes) -> tuple[np.ndarray, bool]:
    """Faces "F 3" (int64, as bytes: a hand's are asked for again and again) ready for volumes, and whether they close.

    Degenerate (padding) faces are dropped, and holes closed where that can be done.
    """
    every = np.frombuffer(faces, np.int64).reshape(-1, 3)
    a, b, c = every.T
    real = every[(a != b) & (b != c) & (c != a)]
    if not len(real):
        raise ValueError("faces: the mesh has none, so it has no volume")
    if is_closed(real):
        return real, True
    tight = close_holes(real)
    return tight, is_closed(tight)


def _by_rays(meshes: list, low: np.ndarray, high: np.ndarray, pitch: float) -> float:
    axis = int(np.argmax(high - low))  # along the longest side: the fewest rays, and that side is integrated exactly
    turn = np.roll(np.arange(3), 2 - axis)  # cyclic, so orientation is kept and `axis` becomes z
    low, high = low[turn], high[turn]
    count = np.maximum(np.ceil((high[:2] - low[:2]) / pitch), 1).astype(np.int64)
    step = (high[:2] - low[:2]) / count
    start = low[:2] + step / 2
    crossings = [_crossings(v[:, turn].copy(), f, start, step, count) for v, f in meshes]
    return float(_common_length(*crossings[0], *crossings[1]) * step[0] * step[1])


def _by_voxels(meshes: list, low: np.ndarray, high: np.ndarray, pitch: float) -> float:
    """Counts cells, in blocks of 8 x 8 x 8: only where both signed distances let a block touch both solids."""
    side = 8 * pitch
    points = _lattice(low, side, np.ceil((high - low) / side))
    for vertices, faces in meshes:
        points = points[signed_distance(points, vertices, faces) < side * math.sqrt(3) / 2]
    points = (points[:, None] + _lattice(np.full(3, -side / 2), pitch, np.full(3, 8))).reshape(-1, 3)
    for vertices, faces in meshes:
        points = points[winding_number(points, vertices, faces) > 0.5]
    return len(points) * pitch**3


def _lattice(low: np.ndarray, step: float, count: np.ndarray) -> np.ndarray:
    """Centres of ``count`` cubic cells along each axis from ``low``: "N 3"."""
    axes = [low[k] + step * (np.arange(int(count[k])) + 0.5) for k in range(3)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def _by_boolean(meshes: list) -> float:
    try:
        import manifold3d  # type: ignore[import-not-found]  # optional
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("method 'boolean' needs manifold3d: pip install manifold3d, or use rays") from error
    solids = [manifold3d.Manifold(manifold3d.Mesh64(v, f.astype(np.uint64))) for v, f in meshes]
    for solid in solids:
        if solid.status() != manifold3d.Error.NoError:
            raise ValueError(f"method: boolean needs manifold meshes, and manifold3d says {solid.status()}; use rays")
    return float((solids[0] ^ solids[1]).volume())


@njit(cache=True, nogil=True)
def _left_of(vertices: np.ndarray, a: int, b: int, x: float, y: float) -> bool:
    """Whether (x, y) is left of the edge a -> b seen along z; on the edge: for one direction only.

    Both triangles of an edge compute the same number, so a ray between them is counted once, never twice.
    """
    p, q = (a, b) if a < b else (b, a)
    px, py, qx, qy = vertices[p, 0], vertices[p, 1], vertices[q, 0], vertices[q, 1]
    left = (qx - px) * (y - py) - (qy - py) * (x - px) >= 0
    return left if a < b else not left


@njit(cache=True, nogil=True)
def _visit(vertices, faces, start, step, count, first, heights, signs):
    """Counts (signs empty) or stores the crossings of every ray with the mesh; ``first`` is each ray's next place."""
    store = len(signs) > 0
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, az = vertices[a]
        bx, by, bz = vertices[b]
        cx, cy, cz = vertices[c]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0.0:
            continue
        i0 = max(math.ceil((min(ax, bx, cx) - start[0]) / step[0]), 0)
        i1 = min(math.floor((max(ax, bx, cx) - start[0]) / step[0]), count[0] - 1)
        j0 = max(math.ceil((min(ay, by, cy) - start[1]) / step[1]), 0)
        j1 = min(math.floor((max(ay, by, cy) - start[1]) / step[1]), count[1] - 1)
        for i in range(i0, i1 + 1):
            x = start[0] + i * step[0]
            for j in range(j0, j1 + 1):
                y = start[1] + j * step[1]
                left = _left_of(vertices, a, b, x, y)
                if left != _left_of(vertices, b, c, x, y) or left != _left_of(vertices, c, a, x, y):
                    continue
                ray = i * count[1] + j
                if store:
                    wb = ((x - ax) * (cy - ay) - (y - ay) * (cx - ax)) / area
                    wc = ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / area
                    heights[first[ray]] = az + wb * (bz - az) + wc * (cz - az)
                    signs[first[ray]] = -1 if left else 1  # an upward face is where the ray leaves
                first[ray] += 1


@njit(cache=True, nogil=True)
def _crossings(vertices, faces, start, step, count):
    """Crossings of each ray, in order: (where each ray's begin "R+1", heights, +1 entering or -1 leaving)."""
    rays = count[0] * count[1]
    places = np.zeros(rays + 1, np.int64)
    _visit(vertices, faces, start, step, count, places[1:], np.empty(0), np.empty(0, np.int8))
    for r in range(rays):
        places[r + 1] += places[r]
    heights = np.empty(places[rays])
    signs = np.empty(places[rays], np.int8)
    _visit(vertices, faces, start, step, count, places[:-1].copy(), heights, signs)
    for r in range(rays):
        for k in range(places[r] + 1, places[r + 1]):
            height, sign, m = heights[k], signs[k], k
            while m > places[r] and heights[m - 1] > height:
                heights[m], signs[m] = heights[m - 1], signs[m - 1]
                m -= 1
            heights[m], signs[m] = height, sign
    return places, heights, signs


@njit(cache=True, nogil=True)
def _common_length(places, heights, signs, places2, heights2, signs2):
    """Summed over the rays: the length that has a positive winding number in both meshes.

    A closed mesh is left as often as it is entered, so a ray is done when either mesh has no crossing left.
    """
    total = 0.0
    for r in range(len(places) - 1):
        i, j = places[r], places2[r]
        inside, inside2, last = 0, 0, 0.0
        while i < places[r + 1] and j < places2[r + 1]:
            if heights[i] <= heights2[j]:
                height, sign, sign2 = heights[i], signs[i], 0
                i += 1
            else:
                height, sign, sign2 = heights2[j], 0, signs2[j]
                j += 1
            if inside > 0 and inside2 > 0:
                total += height - last
            inside += sign
            inside2 += sign2
            last = height
    return total
