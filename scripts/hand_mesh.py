"""From a signed distance to an even triangle mesh of a chosen size: surface nets, then isotropic remeshing.

Remeshing follows Botsch and Kobbelt 2004 (split long edges, collapse short ones, flip towards six neighbours, relax
along the surface, project), with a wanted edge length that depends on the place.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Field = Callable[[np.ndarray], np.ndarray]


def surface_nets(field: Field, low: np.ndarray, high: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Closed surface of ``field < 0`` on a grid (Gibson 1998): one vertex for each cell that the surface crosses."""
    axes = [np.arange(a, b + step, step) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    shape = grid.shape[:3]
    values = np.concatenate([field(chunk) for chunk in np.array_split(grid.reshape(-1, 3), 40)]).reshape(shape)
    inside = values < 0
    corners = [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]

    def at(array: np.ndarray, c: tuple[int, int, int]) -> np.ndarray:
        return array[c[0] : shape[0] - 1 + c[0], c[1] : shape[1] - 1 + c[1], c[2] : shape[2] - 1 + c[2]]

    total, count = np.zeros((*(n - 1 for n in shape), 3)), np.zeros([n - 1 for n in shape])
    for a in corners:
        for axis in range(3):
            if a[axis] == 0:
                b = tuple(v + (k == axis) for k, v in enumerate(a))
                va, vb = at(values, a), at(values, b)  # type: ignore[arg-type]
                crosses = at(inside, a) != at(inside, b)  # type: ignore[arg-type]
                share = np.where(crosses, va / np.where(crosses, va - vb, 1), 0)
                spot = np.stack([share if k == axis else np.full_like(share, a[k]) for k in range(3)], -1)
                total += np.where(crosses[..., None], spot, 0)
                count += crosses
    cells = count > 0
    number = -np.ones(cells.shape, int)
    number[cells] = np.arange(cells.sum())
    index = np.argwhere(cells)
    vertices = low + step * (index + total[cells] / count[cells][:, None])
    faces = []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        forward = [slice(None)] * 3
        backward = [slice(None)] * 3
        forward[axis], backward[axis] = slice(1, None), slice(None, -1)
        change = inside[tuple(backward)].astype(int) - inside[tuple(forward)].astype(int)
        where = np.argwhere(change != 0)
        where = where[(where[:, u] > 0) & (where[:, v] > 0)]
        unit = np.eye(3, dtype=int)
        around = [where - unit[u] - unit[v], where - unit[v], where, where - unit[u]]
        quads = np.stack([number[tuple(cell.T)] for cell in around], 1)
        sign = change[tuple(where.T)]
        quads = np.where(sign[:, None] > 0, quads, quads[:, ::-1])
        faces += [quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]
    return vertices, np.concatenate(faces)


def check_closed(faces: np.ndarray) -> None:
    """Every edge in one direction once and in the other once, and no handles; else raises RuntimeError."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    single = len(np.unique(edges, axis=0)) == len(edges)
    both = len(np.unique(np.sort(edges, 1), axis=0)) * 2 == len(edges)
    genus = 1 - (len(np.unique(faces)) - len(edges) // 2 + len(faces)) // 2
    if not (single and both and genus == 0):
        raise RuntimeError(
            f"the surface is not closed and simple (genus {genus}): fingers touch, or the grid is too coarse"
        )


def face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return np.cross(b - a, c - a)


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    total = np.zeros_like(vertices)
    normals = face_normals(vertices, faces)
    for i in range(3):
        np.add.at(total, faces[:, i], normals)
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


class Remesher:
    """A closed triangle mesh under local changes. ``fixed`` vertices stay where they are and are never removed."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, fixed: set[int], size: Field) -> None:
        self.points = [np.array(p) for p in vertices]
        self.faces: dict[int, tuple[int, int, int]] = {i: tuple(map(int, f)) for i, f in enumerate(faces)}  # type: ignore[misc]
        self.around: list[set[int]] = [set() for _ in self.points]
        for i, face in self.faces.items():
            for v in face:
                self.around[v].add(i)
        self.fixed = fixed
        self.next = len(faces)
        self.want = list(size(np.asarray(vertices)))
        self.size = size

    def neighbours(self, v: int) -> set[int]:
        return {w for f in self.around[v] for w in self.faces[f]} - {v}

    def edges(self) -> list[tuple[int, int]]:
        return list(
            {(min(a, b), max(a, b)) for f in self.faces.values() for a, b in zip(f, f[1:] + f[:1], strict=True)}
        )

    def ratio(self, a: int, b: int) -> float:
        """Length of an edge in wanted lengths."""
        gap = self.points[a] - self.points[b]
        return float(np.sqrt(gap @ gap)) * 2 / (self.want[a] + self.want[b])

    def alive(self, v: int) -> bool:
        return bool(self.around[v])

    def count(self) -> int:
        return sum(map(bool, self.around))

    def _put(self, face: tuple[int, int, int]) -> None:
        self.faces[self.next] = face
        for v in face:
            self.around[v].add(self.next)
        self.next += 1

    def _take(self, f: int) -> tuple[int, int, int]:
        face = self.faces.pop(f)
        for v in face:
            self.around[v].discard(f)
        return face

    def split(self, a: int, b: int) -> None:
        middle = len(self.points)
        self.points.append((self.points[a] + self.points[b]) / 2)
        self.want.append((self.want[a] + self.want[b]) / 2)
        self.around.append(set())
        for f in list(self.around[a] & self.around[b]):
            face = self._take(f)
            self._put(tuple(middle if v == a else v for v in face))  # type: ignore[arg-type]
            self._put(tuple(middle if v == b else v for v in face))  # type: ignore[arg-type]

    def collapse(self, a: int, b: int) -> bool:
        """Removes b into a (to their middle unless a is fixed), when the surface stays a manifold without folds."""
        if b in self.fixed:
            a, b = b, a
        if b in self.fixed or not (self.around[a] & self.around[b]):
            return False
        common = self.neighbours(a) & self.neighbours(b)
        if len(common) != 2 or any(len(self.around[c]) <= 3 for c in common):
            return False
        target = self.points[a] if a in self.fixed else (self.points[a] + self.points[b]) / 2
        shared = self.around[a] & self.around[b]
        for v in (a, b):
            for f in self.around[v] - shared:
                old = [self.points[w] for w in self.faces[f]]
                new = [target if w == v else self.points[w] for w in self.faces[f]]
                before, after = np.cross(old[1] - old[0], old[2] - old[0]), np.cross(new[1] - new[0], new[2] - new[0])
                if before @ after < 0.25 * np.linalg.norm(before) * np.linalg.norm(after):
                    return False
        if any(
            np.linalg.norm(target - self.points[w]) * 2 > 1.6 * (self.want[a] + self.want[w])
            for w in self.neighbours(b) - {a}
        ):
            return False
        for f in list(self.around[b]):
            face = self._take(f)
            if a not in face:
                self._put(tuple(a if v == b else v for v in face))  # type: ignore[arg-type]
        self.points[a] = target
        return True

    def flip(self, a: int, b: int) -> bool:
        """Turns the edge a-b when that brings the vertices closer to six neighbours and folds nothing."""
        shared = list(self.around[a] & self.around[b])
        if len(shared) != 2:
            return False
        c, d = (next(v for v in self.faces[f] if v not in (a, b)) for f in shared)
        if d in self.neighbours(c):
            return False
        valence = [len(self.around[v]) for v in (a, b, c, d)]
        after = [valence[0] - 1, valence[1] - 1, valence[2] + 1, valence[3] + 1]
        gain = sum((v - 6) ** 2 for v in valence) - sum((v - 6) ** 2 for v in after)
        if gain <= 0 or min(after) < 4:
            return False
        face = self.faces[shared[0]]
        i = face.index(a)
        if face[(i + 1) % 3] != b:
            a, b = b, a
        first, second = (a, d, c), (d, b, c)
        p = self.points
        normal = sum(
            np.cross(p[self.faces[f][1]] - p[self.faces[f][0]], p[self.faces[f][2]] - p[self.faces[f][0]])
            for f in shared
        )
        for face in (first, second):
            n = np.cross(p[face[1]] - p[face[0]], p[face[2]] - p[face[0]])
            if n @ normal < 0.75 * np.linalg.norm(n) * np.linalg.norm(normal):
                return False
        for f in shared:
            self._take(f)
        self._put(first)
        self._put(second)
        return True

    def relax(self, project: Field, strength: float = 0.6) -> None:
        """Moves every vertex towards the middle of its neighbours, along the surface, then onto it."""
        vertices, faces, back = self.arrays()
        normals = vertex_normals(vertices, faces)
        areas = np.linalg.norm(face_normals(vertices, faces), axis=1)
        want = self.size(vertices)
        centres = vertices[faces].mean(1)
        weight = areas / want[faces].mean(1) ** 2
        total, mass = np.zeros_like(vertices), np.zeros(len(vertices))
        for i in range(3):
            np.add.at(total, faces[:, i], centres * weight[:, None])
            np.add.at(mass, faces[:, i], weight)
        step = total / mass[:, None] - vertices
        step -= (step * normals).sum(1, keepdims=True) * normals
        moved = project(vertices + strength * step)
        want = self.size(moved)
        for i, v in enumerate(back):
            self.want[v] = want[i]
            if v not in self.fixed:
                self.points[v] = moved[i]

    def arrays(self) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Vertices, faces, and which internal vertex each one is."""
        back = [v for v in range(len(self.points)) if self.around[v]]
        number = {v: i for i, v in enumerate(back)}
        faces = np.array([[number[v] for v in f] for f in self.faces.values()])
        return np.array([self.points[v] for v in back]), faces, back

    def round(self, project: Field) -> None:
        """One round of split, collapse, flip, relax."""
        for a, b in sorted(self.edges(), key=lambda e: -self.ratio(*e)):
            if self.ratio(a, b) <= 4 / 3:
                break
            self.split(a, b)
        for a, b in sorted(self.edges(), key=lambda e: self.ratio(*e)):
            if self.alive(a) and self.alive(b) and self.ratio(a, b) < 4 / 5:
                self.collapse(a, b)
        self.flips()
        self.relax(project)

    def flips(self) -> None:
        for a, b in self.edges():
            self.flip(a, b)

    def to_count(self, wanted: int) -> None:
        """Collapses the shortest or splits the longest edges until there are exactly so many vertices."""
        while self.count() > wanted:
            if not any(self.collapse(a, b) for a, b in sorted(self.edges(), key=lambda e: self.ratio(*e))):
                raise RuntimeError("no edge can be collapsed")
        while self.count() < wanted:
            self.split(*max(self.edges(), key=lambda e: self.ratio(*e)))
