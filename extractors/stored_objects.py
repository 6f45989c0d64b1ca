"""The objects of a folder of training shards: their meshes and distance grids beside the shards, read when asked for.

A set like ObMan has thousands of objects of its own; their grids (a megabyte each) stay on disk, the last used ones in
memory. Few objects are simply held.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor

from horefine.data.index import place_of
from horefine.distance import DistanceGrid
from horefine.errors import InputError
from horefine.export import write_arrays
from horefine.extractors.sample_records import mesh_key
from horefine.extractors.shard_batches import Objects
from horefine.mesh import Mesh
from horefine.objects import OBJECTS, embedded_object

__all__ = ["FEW", "StoredGrids", "StoredMeshes", "open_objects", "store_object"]

FEW = 256
"""So many objects are held in memory; of more, as many."""
_FOLDER = "objects"


def store_object(root: Path, mesh: Mesh) -> str:
    """Writes ``objects/KEY.npz`` under ``root`` unless it is there; returns the key. The file appears whole.

    It has the mesh (vertices, faces, name), its distance grid (values, origin, spacing) and what every batch asks for
    (extents, center, surface: ``shard_batches.Objects``).
    """
    key = mesh_key(mesh)
    path = root / _FOLDER / f"{key}.npz"
    if not path.is_file():
        vertices, faces = mesh.trimmed()
        one, grid = Objects.of([mesh]), mesh.grid
        arrays = {
            "vertices": vertices, "faces": faces.int(), "values": grid.values[0], "origin": grid.origin[0],
            "spacing": grid.spacing[0], "extents": one.extents[0], "center": one.centers[0], "surface": one.surface[0],
        }  # fmt: skip
        write_arrays(path, {**{name: value.numpy() for name, value in arrays.items()}, "name": np.array(mesh.name[0])})
    return key


def open_objects(root: Path, names: Sequence[str], device: str = "cpu") -> Objects:
    """The objects that shards under ``root`` name: stored ones by key, or horefine's own.

    Raises:
        InputError: one is neither.
    """
    if all(name in OBJECTS and not _path(root, name).is_file() for name in names):
        return Objects.of([embedded_object(name) for name in names]).to(device)
    paths = [_path(root, name) for name in names]
    for name, path in zip(names, paths, strict=True):
        if not path.is_file():
            raise InputError(f"{root}: its shards show the object {name!r}, and {path} is not there; make them again")
    meshes = StoredMeshes(paths)
    extents, centers, surface = (
        torch.from_numpy(np.stack([_read(path, name) for path in paths])).to(device)
        for name in ("extents", "center", "surface")
    )
    if len(paths) > FEW:
        return Objects(meshes, extents, centers, surface, StoredGrids(meshes, device))
    held = list(meshes)
    return Objects(held, extents, centers, surface, DistanceGrid.cat([mesh.grid for mesh in held]).to(device))


def _path(root: Path, name: str) -> Path:
    return root / _FOLDER / f"{name}.npz"


def _read(path: Path, name: str) -> np.ndarray:
    with np.load(path, allow_pickle=False) as file:  # reads no array but this one
        return file[name]


class StoredMeshes(Sequence[Mesh]):
    """Meshes on disk, each with its distance grid; the last used ones are kept."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self._kept: OrderedDict[int, Mesh] = OrderedDict()

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Mesh: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Mesh]: ...
    def __getitem__(self, index: int | slice) -> Mesh | Sequence[Mesh]:
        """One mesh (B = 1)."""
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        place = place_of(index, len(self))
        if place not in self._kept:
            self._kept[place] = _mesh(self.paths[place])
            if len(self._kept) > FEW:
                self._kept.popitem(last=False)
        self._kept.move_to_end(place)
        return self._kept[place]


def _mesh(path: Path) -> Mesh:
    with np.load(path, allow_pickle=False) as file:
        values, origin, spacing = (torch.from_numpy(file[name])[None] for name in ("values", "origin", "spacing"))
        vertices, faces = (torch.from_numpy(file[name])[None] for name in ("vertices", "faces"))
        return Mesh(vertices, faces.long(), name=(str(file["name"]),), sdf=DistanceGrid(values, origin, spacing))


@dataclass(frozen=True)
class StoredGrids:
    """Distance grids on disk in the place of a ``DistanceGrid`` of all: ``grids[which]`` are those of a batch."""

    meshes: StoredMeshes
    device: str = field(default="cpu")

    def __len__(self) -> int:
        return len(self.meshes)

    def __getitem__(self, which: Tensor) -> DistanceGrid:
        """The grids of objects by number; those met twice are read once."""
        chosen, place = which.cpu().unique(return_inverse=True)
        grids = DistanceGrid.cat([self.meshes[int(number)].grid for number in chosen])
        return grids[place].to(self.device)

    def to(self, device: str) -> StoredGrids:
        """Gives its grids on another device."""
        return StoredGrids(self.meshes, device)
