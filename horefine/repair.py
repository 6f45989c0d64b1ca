"""Making a triangle mesh from anywhere fit for use: one surface, no seams, outward, without small holes.

Plain numpy on arrays; each function takes and gives back (vertices "V 3", faces "F 3") or a part of it.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int
from scipy.sparse import csgraph
from scipy.spatial import KDTree

from horefine import distance_kernels as kernels

__all__ = [
    "border_loops",
    "cap",
    "cluster",
    "components",
    "drop_bad_faces",
    "edge_table",
    "fill",
    "orient",
    "signed_volume",
    "subdivide",
    "weld",
]

MANY_PARTS = 500


def edge_table(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Undirected edges: (edges "E 2" low vertex first, edge of each half-edge "3F", its direction: 1 if low to high).

    Half-edge ``i * F + f`` goes from corner i of face f to the next corner.
    """
    half = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges, place = np.unique(np.sort(half, axis=1), axis=0, return_inverse=True)
    return edges, place.ravel(), (half[:, 0] < half[:, 1]).astype(np.int64)


def weld(vertices: np.ndarray, faces: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge vertices nearer than ``distance`` and drop unused ones: (vertices, faces, old vertex -> new or -1)."""
    pairs = KDTree(vertices).query_pairs(distance, output_type="ndarray")
    links = scipy.sparse.coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(vertices),) * 2)
    _, group = csgraph.connected_components(links, directed=False)
    used, first = np.unique(group, return_index=True)
    merged = faces if len(used) == len(vertices) else first[group][faces]
    kept, faces = np.unique(merged, return_inverse=True)
    place = np.full(len(vertices), -1)
    place[kept] = np.arange(len(kept))
    return vertices[kept], faces.reshape(-1, 3), place[first[group]]


def drop_bad_faces(faces: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Without faces that name a vertex twice and without repeats (either way round): (faces, dropped, repeats)."""
    a, b, c = faces.T
    good = faces[(a != b) & (b != c) & (c != a)]
    _, first = np.unique(np.sort(good, axis=1), axis=0, return_index=True)
    return good[np.sort(first)], len(faces) - len(good), len(good) - len(first)


def components(faces: np.ndarray) -> tuple[int, np.ndarray, scipy.sparse.csr_matrix]:
    """Parts joined through edges of exactly two faces: (count, part of each face, adjacency).

    The adjacency's entry is 1 for neighbours whose windings agree and 2 for neighbours whose windings do not.
    """
    _, place, direction = edge_table(faces)
    order = np.argsort(place, kind="stable")
    uses = np.bincount(place)
    starts = np.cumsum(uses) - uses
    pair = order[np.stack([starts[uses == 2], starts[uses == 2] + 1], 1)]
    left, right = (pair % len(faces)).T
    relation = np.where(direction[pair[:, 0]] != direction[pair[:, 1]], 1, 2)
    keys = np.concatenate([left * len(faces) + right, right * len(faces) + left])
    keys, first = np.unique(keys, return_index=True)  # two faces may share two edges
    entries = np.tile(relation, 2)[first], (keys // len(faces), keys % len(faces))
    adjacency = scipy.sparse.csr_matrix(entries, shape=(len(faces), len(faces)))
    count, part = csgraph.connected_components(adjacency, directed=False)
    return count, part, adjacency


def _turns(faces: np.ndarray, part: np.ndarray, adjacency: scipy.sparse.csr_matrix) -> np.ndarray:
    """Which faces to turn over ("F" bool) so that each part has the winding that most of its faces have."""
    flip = np.zeros(len(faces), bool)
    for root in np.unique(part, return_index=True)[1]:
        order, before = csgraph.breadth_first_order(adjacency, root, directed=False)
        if len(order) > 1:
            odd = np.asarray(adjacency[order[1:], before[order[1:]]]).ravel() == 2
            for face, turn in zip(order[1:].tolist(), odd.tolist(), strict=True):
                flip[face] = flip[before[face]] ^ turn
    most = np.bincount(part, flip) / np.bincount(part) > 0.5
    return flip ^ most[part]


def orient(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, int]:
    """Give each part one winding, outward: (faces, how many were turned over).

    A mesh of more than MANY_PARTS parts is loose triangles: which side is out is then left as it came.
    A part inside another keeps the winding most of its faces came with, relative to the part around it: a cavity
    stays a cavity. Parts with a border are judged as if their holes were covered.
    """
    count, part, adjacency = components(faces)
    flip = _turns(faces, part, adjacency)
    if count > MANY_PARTS:
        return np.where(flip[:, None], faces[:, ::-1], faces), int(flip.sum())
    result = np.where(flip[:, None], faces[:, ::-1], faces)
    volumes = np.array([signed_volume(*_covered(vertices, result[part == index])) for index in range(count)])
    around = _nesting(vertices, result, part, volumes)
    for index in np.argsort(-np.abs(volumes), kind="stable"):
        judge = index if around[index] < 0 else around[index]
        if volumes[judge] < 0:
            flip[part == index] ^= True
    return np.where(flip[:, None], faces[:, ::-1], faces), int(flip.sum())


def _nesting(vertices: np.ndarray, faces: np.ndarray, part: np.ndarray, volumes: np.ndarray) -> np.ndarray:
    """For each part the outermost part that holds it, or -1. Beyond 40 parts none are looked for."""
    around = np.full(len(volumes), -1)
    if not 1 < len(volumes) <= 40:
        return around
    largest_first = np.argsort(-np.abs(volumes), kind="stable")
    for place, outer in enumerate(largest_first):
        if around[outer] >= 0:
            continue
        triangles, _, children, _, dipoles = kernels.build_tree(*_covered(vertices, faces[part == outer]))
        for inner in largest_first[place + 1 :]:
            points = vertices[np.unique(faces[part == inner])[:20]]
            turns = np.abs(kernels.winding(np.ascontiguousarray(points), triangles, children, dipoles))
            if around[inner] < 0 and np.median(turns) > 0.9:
                around[inner] = outer
    return around


def signed_volume(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> float:
    """Volume of a closed mesh by the divergence theorem; negative when its faces point inwards."""
    a, b, c = ((vertices[faces[:, k]] - vertices[faces[0, 0]]).astype(np.float64) for k in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def border_loops(faces: np.ndarray) -> list[np.ndarray]:
    """Closed chains of edges that have a face on one side only, each in the order that closes the hole."""
    _, place, _ = edge_table(faces)
    half = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    border = half[np.bincount(place)[place] == 1]
    follow: dict[int, list[int]] = {}
    for a, b in border[:, ::-1].tolist():
        follow.setdefault(a, []).append(b)
    loops = []
    while follow:
        start = next(iter(follow))
        chain = [start]
        while chain[-1] in follow:
            ahead = follow[chain[-1]]
            chain.append(ahead.pop())
            if not ahead:
                del follow[chain[-2]]
            if chain[-1] in chain[:-1]:  # a vertex on two holes: cut the finished hole off
                first = chain.index(chain[-1])
                loops.append(np.array(chain[first:-1]))
                chain = chain[: first + 1]
    return [loop for loop in loops if len(loop) >= 3]


def cap(vertices: np.ndarray, faces: np.ndarray, loops: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Cover each loop with a fan about the mean of its vertices (one triangle for a loop of three)."""
    points, fans = [vertices], [faces]
    count = len(vertices)
    for loop in loops:
        if len(loop) == 3:
            fans.append(loop[None])
            continue
        points.append(vertices[loop].mean(0, keepdims=True))
        fans.append(np.stack([loop, np.roll(loop, -1), np.full(len(loop), count)], 1))
        count += 1
    return np.concatenate(points), np.concatenate(fans)


def _covered(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return cap(vertices, faces, border_loops(faces))


def fill(
    vertices: np.ndarray, faces: np.ndarray, longest: float
) -> tuple[np.ndarray, np.ndarray, int, list[np.ndarray]]:
    """Cover holes whose border is no longer than ``longest``: (vertices, faces, covered, loops that are left)."""
    loops = border_loops(faces)
    small = [np.linalg.norm(vertices[loop] - vertices[np.roll(loop, 1)], axis=1).sum() <= longest for loop in loops]
    vertices, faces = cap(vertices, faces, [loop for loop, good in zip(loops, small, strict=True) if good])
    return vertices, faces, int(sum(small)), [loop for loop, good in zip(loops, small, strict=True) if not good]


def cluster(vertices: np.ndarray, faces: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """About ``target`` faces by merging the vertices of each cell of a lattice: (vertices, faces, old -> new vertex).

    Coarse and quick (Rossignac and Borrel 1993); topology may change where the surface is thinner than a cell.
    """
    low, extent = vertices.min(0), float(np.ptp(vertices, axis=0).max())
    fine, coarse = extent / 2000, extent / 4
    best = vertices, faces, np.arange(len(vertices))
    for _ in range(14):
        step = (fine * coarse) ** 0.5
        cells, place = np.unique(np.floor((vertices - low) / step).astype(np.int64), axis=0, return_inverse=True)
        merged, _, _ = drop_bad_faces(place.ravel()[faces])
        if len(merged) > target:
            fine = step
            continue
        coarse = step
        weight = np.bincount(place.ravel(), minlength=len(cells))
        means = [np.bincount(place.ravel(), vertices[:, i], len(cells)) / weight for i in range(3)]
        best = np.stack(means, 1), merged, place.ravel()
    return best


def subdivide(vertices: np.ndarray, faces: np.ndarray, longest: float, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Halve edges longer than ``longest`` (in every face they border) until none is left or ``limit`` faces are."""
    while len(faces) < limit:
        edges, place, _ = edge_table(faces)
        long = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1) > longest
        if not long.any():
            break
        middle = np.full(len(edges), -1)
        middle[long] = len(vertices) + np.arange(long.sum())
        vertices = np.concatenate([vertices, vertices[edges[long]].mean(1)])
        faces = np.concatenate(
            [_split(face, cut) for face, cut in zip(faces, middle[place].reshape(3, -1).T, strict=True)]
        )
    return vertices, faces


def _split(face: np.ndarray, cut: np.ndarray) -> list[tuple[int, int, int]]:
    """A face whose edges ab, bc, ca have middle vertices ``cut`` (-1: none), as one to four faces."""
    (a, b, c), (ab, bc, ca) = face.tolist(), cut.tolist()
    while not (ab >= 0 and (bc < 0 or ca >= 0)) and max(ab, bc, ca) >= 0:
        a, b, c, ab, bc, ca = b, c, a, bc, ca, ab  # turn until ab is cut, and ca with it when two are
    if ab < 0:
        return [(a, b, c)]
    if ca < 0:
        return [(a, ab, c), (ab, b, c)]
    if bc < 0:
        return [(a, ab, ca), (ab, b, c), (ab, c, ca)]
    return [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
