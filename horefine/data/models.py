"""Object models of a dataset: found by name, their unit checked, read and repaired once, kept on disk and in memory."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from horefine.cache import cache_dir, read_arrays, write_arrays
from horefine.errors import AssetError, suggestion
from horefine.mesh import Mesh
from horefine.mesh_file import UNITS, MeshError, MeshReport
from horefine.symmetry import find_symmetries, symmetry_transforms

__all__ = ["ObjectModels", "remember"]

log = logging.getLogger(__name__)

_VERSION = 1
"""Of the cached files: raised whenever what is in them changes."""
_PLAUSIBLE = 0.005, 1.0
"""Longest side of what a dataset's hands hold, metres; beyond, the unit is wrong."""


class ObjectModels(Mapping[str, Mesh]):
    """The meshes of a dataset by name, in the frame of their files, metres, with their symmetries.

    Reading, repair and colours of a mesh are kept in the user's cache directory, so that a second process starts at
    once; distance grids are built when first asked for (:meth:`prepare` builds all) and kept there too. May be pickled:
    what was read stays behind.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        unit: str = "m",
        *,
        symmetries: Mapping[str, Mapping[str, Any]] | None = None,
        plausible: tuple[float, float] | None = _PLAUSIBLE,
        keep: int = 64,
    ) -> None:
        """Opens nothing.

        Args:
            paths: Name -> mesh file.
            unit: Of the files: m, cm, mm, in.
            symmetries: Name -> BOP's ``symmetries_discrete`` and ``symmetries_continuous``, lengths in the files' unit;
                they win over files beside the mesh (``horefine.symmetry``).
            plausible: Shortest and longest an object may be, metres; None: anything.
            keep: Meshes kept in memory.
        """
        self.paths = dict(paths)
        self.unit = unit
        self._symmetries = dict(symmetries or {})
        self._plausible = plausible
        self._keep = keep
        self._read: dict[str, tuple[Mesh, tuple[str, ...]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_read": {}}

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __contains__(self, name: object) -> bool:
        return name in self.paths

    def __getitem__(self, name: str) -> Mesh:
        """One mesh (B = 1), ``Mesh.name`` the given name.

        Raises:
            AssetError: there is none of this name, or its file is gone.
            MeshError: it cannot be read, or its size says that its unit is another.
        """
        return self._load(name)[0]

    def lines(self, name: str) -> tuple[str, ...]:
        """What was recognised and repaired in a mesh's file, in words."""
        return self._load(name)[1]

    def prepare(self) -> None:
        """Reads every mesh and builds its distance grid, so that both are in the cache."""
        for name in self:
            _ = self[name].grid

    def _load(self, name: str) -> tuple[Mesh, tuple[str, ...]]:
        if name not in self.paths:
            raise AssetError(f"object {name!r}: this dataset has no model of it{suggestion(name, tuple(self.paths))}")
        found = self._read.get(name)
        if found is None:
            found = self._load_now(name)
            remember(self._read, name, found, self._keep)
        return found

    def _load_now(self, name: str) -> tuple[Mesh, tuple[str, ...]]:
        path = self.paths[name]
        if not path.is_file():
            raise AssetError(f"{path}: the model of {name} is not there")
        kept = cache_dir("models") / f"{_key(path, self.unit)}.npz"
        arrays = read_arrays(kept, ("vertices", "faces", "colors", "lines"))
        if arrays is None:
            with _said_by_us():
                mesh, report = Mesh.load(path, self.unit)
            log.debug("%s", "; ".join(report.lines()))
            self._check_size(path, report)
            vertices, faces = mesh.trimmed()
            colors = np.zeros((0, 3), np.float32) if mesh.colors is None else mesh.colors[0].numpy()
            lines = np.array(report.lines())
            arrays = {"vertices": vertices.numpy(), "faces": faces.numpy(), "colors": colors, "lines": lines}
            write_arrays(kept, arrays)
        colored = len(arrays["colors"]) > 0
        mesh = Mesh.from_arrays(arrays["vertices"], arrays["faces"], arrays["colors"] if colored else None, name)
        return self._with_symmetries(mesh, name, path), tuple(str(line) for line in arrays["lines"])

    def _check_size(self, path: Path, report: MeshReport) -> None:
        longest = max(report.extents)
        if self._plausible is None or self._plausible[0] <= longest <= self._plausible[1]:
            return
        low, high = self._plausible
        fits = [unit for unit, metres in UNITS.items() if low <= longest / UNITS[self.unit] * metres <= high]
        raise MeshError(
            f"{path}: in {self.unit} its longest side is {longest:g} m; this dataset's models are in {self.unit}: "
            f"{'looks like ' + ' or '.join(fits) if fits else 'no unit fits'}; take the dataset's own file, or scale it"
        )

    def _with_symmetries(self, mesh: Mesh, name: str, path: Path) -> Mesh:
        metres = UNITS[self.unit]
        if name in self._symmetries:
            found: torch.Tensor | None = symmetry_transforms(
                self._symmetries[name], metres, where=f"{name}: symmetries"
            )
        else:
            found = find_symmetries(path, metres)
        return mesh if found is None else dataclasses.replace(mesh, symmetries=found[None])


@contextmanager
def _said_by_us() -> Iterator[None]:
    """Keeps the mesh reader from warning of a known unit and of faults that :meth:`ObjectModels.lines` tells."""

    def drop(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING or record.thread != threading.get_ident()

    reader = logging.getLogger("horefine.mesh_file")
    reader.addFilter(drop)
    try:
        yield
    finally:
        reader.removeFilter(drop)


def remember(kept: dict[Any, Any], key: Any, value: Any, most: int) -> None:
    """Keeps a value, as the newest, and forgets the oldest beyond ``most``; several threads may do so at once."""
    kept.pop(key, None)
    kept[key] = value
    for old in list(kept)[: max(0, len(kept) - most)]:
        kept.pop(old, None)


def _key(path: Path, unit: str) -> str:
    """Changes with the file; its picture and material are taken to change with it."""
    status = os.stat(path)
    parts = (str(path.resolve()), status.st_size, status.st_mtime_ns, unit, _VERSION)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
