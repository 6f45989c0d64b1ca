"""The connectivity of the meshes that are rendered together: faces, edges with both their faces, and a table of items.

An *item* is one mesh in one image. All items of a batch are rendered in one call, so a topology is packed once for a
batch and used in every iteration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from torch import Tensor

__all__ = ["Topology"]

VERTEX, VERTICES, FACE, FACES, EDGE, EDGES, CLOSED, SLOT = range(8)
"""Columns of the items table: first vertex and count in the packed vertices; first face and count, first edge and
count in the shared tables; 1 for a closed mesh; first face of the item in arrays that have one entry for each face of
each item."""


@dataclass(frozen=True, eq=False)
class Topology:
    """Packed connectivity; made by :meth:`pack`. Items with the same faces share their tables."""

    faces: Int[ndarray, "F 3"]
    """int32 vertex numbers within their item."""
    edges: Int[ndarray, "E 4"]
    """int32 start, end, the face that runs from start to end, the face that runs back (-1: a boundary edge)."""
    items: Int[ndarray, "N 8"]
    """int32, columns as above."""

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def vertex_count(self) -> int:
        """Rows that the packed vertices must have."""
        return int(self.items[:, VERTICES].sum())

    @staticmethod
    def pack(meshes: Sequence[tuple[int, Int[Tensor, "_ 3"] | Int[ndarray, "_ 3"]]]) -> Topology:
        """The topology of several meshes, each ``(vertex_count, faces)``, in the order of their packed vertices.

        Faces with a repeated vertex (padding) are never drawn. An edge is inner when exactly one other face runs along
        it the other way; every other edge is a boundary, and a mesh without boundary is closed (its back is culled).

        Raises:
            ValueError: faces are not "F 3", or name a vertex that the mesh does not have; no mesh at all.
        """
        if not meshes:
            raise ValueError("Topology.pack: got no meshes; give at least one (vertex_count, faces)")
        seen: dict[tuple[int, bytes], tuple[int, ...]] = {}
        all_faces, all_edges, items = [], [], []
        vertex = face = edge = slot = 0
        for number, (count, raw) in enumerate(meshes):
            faces = _checked(raw, count, number)
            key = (count, faces.tobytes())
            if key not in seen:
                faces, edges, closed = _mesh(*key)
                seen[key] = (face, len(faces), edge, len(edges), int(closed))
                all_faces.append(faces)
                all_edges.append(edges)
                face, edge = face + len(faces), edge + len(edges)
            items.append((vertex, count, *seen[key], slot))
            vertex, slot = vertex + count, slot + seen[key][1]
        return Topology(
            np.concatenate(all_faces),
            np.concatenate(all_edges),
            np.array(items, np.int32),
        )

    def chosen(self, numbers: Int[ndarray, " M"]) -> Topology:
        """The topology of some of the items, in that order; their vertices are packed anew."""
        items = self.items[numbers].copy()
        for column, size in ((VERTEX, VERTICES), (SLOT, FACES)):
            items[:, column] = np.cumsum(items[:, size]) - items[:, size]
        return Topology(self.faces, self.edges, items)

    @cached_property
    def slots(self) -> int:
        """Faces of all items, shared ones counted each time."""
        return int(self.items[:, FACES].sum())

    @cached_property
    def edge_slots(self) -> Int[ndarray, " M"]:
        """First edge of each item in arrays with one entry for each edge of each item; the last is their length."""
        return np.concatenate([[0], np.cumsum(self.items[:, EDGES])]).astype(np.int64)

    @cached_property
    def unpacked(self) -> Unpacked:
        """The same as torch tensors with packed vertex and face numbers, for the backends written in torch."""
        faces, edges, face_item, edge_item = [], [], [], []
        for number, row in enumerate(self.items):
            faces.append(self.faces[row[FACE] : row[FACE] + row[FACES]] + row[VERTEX])
            own = self.edges[row[EDGE] : row[EDGE] + row[EDGES]].copy()
            own[:, :2] += row[VERTEX]
            own[:, 2] += row[SLOT]
            own[:, 3] = np.where(own[:, 3] < 0, -1, own[:, 3] + row[SLOT])
            edges.append(own)
            face_item.append(np.full(row[FACES], number))
            edge_item.append(np.full(row[EDGES], number))

        def tensor(parts: list[ndarray]) -> Tensor:
            return torch.from_numpy(np.concatenate(parts).astype(np.int64))

        vertex_item = [np.full(row[VERTICES], number) for number, row in enumerate(self.items)]
        closed = torch.from_numpy(self.items[:, CLOSED] != 0)
        first = torch.from_numpy(self.items[:, SLOT].astype(np.int64))
        return Unpacked(
            tensor(faces), tensor(edges), tensor(face_item), tensor(edge_item), tensor(vertex_item), closed, first
        )


@dataclass(frozen=True, eq=False)
class Unpacked:
    """A topology as int64 tensors that number vertices and faces through all items."""

    faces: Int[Tensor, "F 3"]
    edges: Int[Tensor, "E 4"]
    face_item: Int[Tensor, " F"]
    edge_item: Int[Tensor, " E"]
    vertex_item: Int[Tensor, " V"]
    closed: Tensor
    """bool, one for each item."""
    first_face: Int[Tensor, " N"]
    _moved: dict[torch.device, Unpacked] = field(default_factory=dict, repr=False)

    def on(self, device: torch.device) -> Unpacked:
        """The same on ``device``; the copy is kept."""
        if device == self.faces.device:
            return self
        if device not in self._moved:
            names = ("faces", "edges", "face_item", "edge_item", "vertex_item", "closed", "first_face")
            self._moved[device] = Unpacked(*(getattr(self, name).to(device) for name in names))
        return self._moved[device]


def _checked(raw: Tensor | ndarray, count: int, number: int) -> Int[ndarray, "F 3"]:
    faces = raw.detach().cpu().numpy() if isinstance(raw, Tensor) else np.asarray(raw)
    if faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"Topology.pack: faces of mesh {number} have shape {faces.shape}; expected (F, 3)")
    if faces.size and (faces.min() < 0 or faces.max() >= count):
        raise ValueError(
            f"Topology.pack: mesh {number} has {count} vertices, "
            f"but its faces name vertices {faces.min()} to {faces.max()}"
        )
    return np.ascontiguousarray(faces, np.int32)


@lru_cache(maxsize=64)
def _mesh(count: int, data: bytes) -> tuple[ndarray, ndarray, bool]:
    """Faces without padding at the end, edges, and whether there is no boundary; kept, as images share their meshes."""
    faces = np.frombuffer(data, np.int32).reshape(-1, 3)
    faces = faces[: _last_real(faces)]
    edges = _edges(faces, count)
    return faces, edges, len(edges) > 0 and bool((edges[:, 3] >= 0).all())


def _degenerate(faces: Int[ndarray, "F 3"]) -> ndarray:
    return (faces == np.roll(faces, 1, 1)).any(1)


def _last_real(faces: Int[ndarray, "F 3"]) -> int:
    """Number of faces once the degenerate ones at the end are left off."""
    real = np.flatnonzero(~_degenerate(faces))
    return int(real[-1]) + 1 if len(real) else 0


def _edges(faces: Int[ndarray, "F 3"], count: int) -> Int[ndarray, "E 4"]:
    """Every edge once, with the face on each side (see :attr:`Topology.edges`)."""
    owner = np.flatnonzero(~_degenerate(faces))
    real = faces[owner].astype(np.int64)
    start, end = real.ravel(), np.roll(real, -1, 1).ravel()
    owner = np.repeat(owner, 3)
    key = np.minimum(start, end) * count + np.maximum(start, end)
    there, back = _ranked(key, start < end), _ranked(key, start > end)
    _, first, second = np.intersect1d(there[0], back[0], assume_unique=True, return_indices=True)
    one, other = there[1][first], back[1][second]
    alone = np.ones(len(key), bool)
    alone[one] = alone[other] = False
    inner = np.stack([start[one], end[one], owner[one], owner[other]], 1)
    boundary = np.stack([start[alone], end[alone], owner[alone], np.full(alone.sum(), -1)], 1)
    return np.concatenate([inner, boundary]).astype(np.int32)


def _ranked(key: ndarray, chosen: ndarray) -> tuple[ndarray, ndarray]:
    """Keys of the chosen edges made unique by counting repetitions (non-manifold edges), and the edges' numbers."""
    numbers = np.flatnonzero(chosen)
    order = np.argsort(key[numbers], kind="stable")
    numbers = numbers[order]
    keys = key[numbers]
    rank = np.arange(len(keys)) - np.searchsorted(keys, keys)
    return keys * len(key) + rank, numbers
