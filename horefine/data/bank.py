"""Grasps kept on disk, made when first asked for: scenes are a grasp seen from somewhere.

A *block* is what 64 tries on one object give (with variations usually 20 to 100 grasps). Blocks are named after the
hand, the object's mesh and their number, so another hand or object never meets an old file.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import os
import zipfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import platformdirs
import torch

from horefine.data.grasp import GraspBank, grasp_object
from horefine.errors import InputError
from horefine.hand import HandModel
from horefine.mesh import Mesh

__all__ = ["GraspStore", "hand_digest", "pack", "unpack"]

log = logging.getLogger(__name__)

VERSION = 6
"""Raised whenever the same seed gives other grasps."""
TRIES = 64
RETRIES = 6


def hand_digest(model: HandModel) -> str:
    """Twelve hexadecimal digits that change with the hand's geometry."""
    digest = hashlib.sha256()
    for tensor in (model.template, model.basis, model.weights, model.faces, model.limits, model.mean_rotvec):
        digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return digest.hexdigest()[:12]


def _mesh_digest(mesh: Mesh) -> str:
    vertices, faces = mesh.trimmed()
    digest = hashlib.sha256(vertices.numpy().astype(np.float32).tobytes())
    digest.update(faces.numpy().astype(np.int64).tobytes())
    return digest.hexdigest()[:12]


class GraspStore:
    """Grasps of one hand model on several objects, by object and block."""

    def __init__(self, model: HandModel, meshes: Sequence[Mesh], directory: Path | None = None) -> None:
        """Makes nothing yet.

        Args:
            meshes: Each B = 1.
            directory: Where blocks are kept (default: the user's cache directory).
        """
        self.model, self.meshes = model, list(meshes)
        self.directory = (
            directory if directory is not None else Path(platformdirs.user_cache_dir("horefine")) / "grasps"
        )
        self._hand = hand_digest(model)
        self._names = [_mesh_digest(mesh) for mesh in self.meshes]
        self._blocks: dict[tuple[int, int], GraspBank] = {}

    def block(self, which: int, number: int) -> GraspBank:
        """Grasps of object ``which``; never empty.

        Raises:
            InputError: no grasp was found in many tries (the object is too large, too small or too thin).
        """
        key = (which, number)
        if key not in self._blocks:
            name = self.name(which, number)
            path = self.directory / f"{name}.npz"
            bank = _shipped().get(name)
            bank = bank if bank is not None else _read(path)
            if bank is None:
                bank = self._make(which, number)
                _write(path, bank)
            self._blocks[key] = dataclasses.replace(bank, object=torch.full_like(bank.kind, which))
        return self._blocks[key]

    def name(self, which: int, number: int) -> str:
        """Under which a block is kept: hand, mesh, version of the generator, number."""
        return f"{self._hand}_{self._names[which]}_{VERSION}_{number:04d}"

    def _make(self, which: int, number: int) -> GraspBank:
        mesh = self.meshes[which]
        for retry in range(RETRIES):
            bank = grasp_object(self.model, mesh, TRIES, number + 100_000 * retry, index=which)
            if len(bank):
                return bank
        size = " x ".join(f"{1000 * side:.0f}" for side in (mesh.box[1] - mesh.box[0])[0].tolist())
        raise InputError(
            f"object {mesh.name[0]!r} ({size} mm): no plausible grasp in {TRIES * RETRIES} tries; "
            "a hand holds things between about 5 and 90 mm across somewhere"
        )


@functools.cache
def _shipped() -> dict[str, GraspBank]:
    """Blocks that come with horefine: the embedded hand on the embedded objects (``scripts/build_grasps.py``)."""
    try:
        with resources.as_file(resources.files("horefine.assets") / "grasps.npz") as path:
            return unpack(path)
    except FileNotFoundError:
        return {}


def pack(path: Path, blocks: Mapping[str, GraspBank]) -> None:
    """Many named blocks in one file: the blocks one after the other, with their names and sizes."""
    together = GraspBank.cat(list(blocks.values()))
    arrays = {f.name: getattr(together, f.name).numpy() for f in dataclasses.fields(GraspBank)}
    sizes = np.array([len(block) for block in blocks.values()])
    np.savez_compressed(path, names=np.array(list(blocks)), sizes=sizes, **arrays)


def unpack(path: Path) -> dict[str, GraspBank]:
    """The blocks of :func:`pack`."""
    with np.load(path, allow_pickle=False) as stored:
        together = GraspBank(**{f.name: torch.from_numpy(stored[f.name]) for f in dataclasses.fields(GraspBank)})
        ends = np.cumsum(stored["sizes"])
        names = [str(name) for name in stored["names"]]
    return {
        name: together[int(start) : int(end)] for name, start, end in zip(names, [0, *ends[:-1]], ends, strict=True)
    }


def _read(path: Path) -> GraspBank | None:
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            return GraspBank(**{f.name: torch.from_numpy(stored[f.name]) for f in dataclasses.fields(GraspBank)})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("grasp block %s is damaged (%s): making it again", path, error)
        return None


def _write(path: Path, bank: GraspBank) -> None:
    """Through a temporary file, so that another process sees all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            np.savez(stream, **{f.name: getattr(bank, f.name).numpy() for f in dataclasses.fields(GraspBank)})
        os.replace(temporary, path)
    except OSError as error:
        log.warning("grasp block %s could not be written (%s): it is kept in memory only", path, error)
        temporary.unlink(missing_ok=True)
