"""Embedded objects: textured meshes of everyday things, made by code, so that nothing need be downloaded.

Shapes are in :mod:`horefine.object_shapes`, textures in :mod:`horefine.object_textures`. A shape is made once and then
kept, with its distance grid, in the user's cache directory, under a name that changes with the code that makes it.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import Float

from horefine import object_meshing, object_shapes
from horefine.cache import cache_dir, read_arrays, write_arrays
from horefine.errors import InputError, suggestion
from horefine.mesh import Mesh
from horefine.object_shapes import SHAPES
from horefine.object_textures import albedo

__all__ = ["OBJECTS", "embedded_object", "object_texture"]

OBJECTS: tuple[str, ...] = tuple(SHAPES)
"""Names of the embedded objects."""


@functools.cache
def embedded_object(name: str) -> Mesh:
    """One embedded object (B = 1) with vertex colours and distance grid, origin at the centre of its box, metres.

    Vertex colours are the texture's mean over a few millimetres, so that they do not alias its lettering.

    Raises:
        InputError: there is no object of this name.
    """
    vertices, faces = _shape(_known(name))
    rng = np.random.default_rng(0)
    spread = [vertices + rng.normal(scale=0.0012, size=vertices.shape) for _ in range(8)]
    colors = np.mean([albedo(name, points) for points in spread], axis=0)
    return Mesh.from_arrays(vertices, faces, colors, name).with_sdf()


def object_texture(name: str, points: Float[np.ndarray, "N 3"], seed: int = 0) -> Float[np.ndarray, "N 3"]:
    """Linear albedo (0 to 1) of an embedded object's surface at points of its own frame, metres.

    Seed 0 is the object's own look, the one of its vertex colours; other seeds shift its colours moderately.

    Raises:
        InputError: there is no object of this name.
    """
    return albedo(_known(name), np.asarray(points, float), seed)


def _known(name: str) -> str:
    if name not in SHAPES:
        raise InputError(f"object {name!r}: there is no such embedded object{suggestion(name, OBJECTS)}")
    return name


def _shape(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Vertices about the centre of their box and faces, from the cache or made now."""
    path = cache_dir("objects") / f"{name}-{_version()}.npz"
    kept = read_arrays(path, ("vertices", "faces"))
    if kept is not None:
        return kept["vertices"], kept["faces"]
    vertices, faces = SHAPES[name]()
    vertices = (vertices - (vertices.min(0) + vertices.max(0)) / 2).astype(np.float32)
    write_arrays(path, {"vertices": vertices, "faces": faces})
    return vertices, faces


@functools.cache
def _version() -> str:
    """A short hash of the code that makes the shapes."""
    sources = (Path(str(module.__file__)).read_bytes() for module in (object_meshing, object_shapes))
    return hashlib.sha256(b"".join(sources)).hexdigest()[:16]
