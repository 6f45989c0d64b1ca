"""Embedded objects: textured meshes of everyday things, made by code, so that nothing need be downloaded."""

from __future__ import annotations

import functools

import numpy as np

from horefine.errors import InputError, suggestion
from horefine.mesh import Mesh
from horefine.object_shapes import SHAPES

__all__ = ["OBJECTS", "embedded_object", "object_texture"]

OBJECTS: tuple[str, ...] = tuple(SHAPES)
"""Names of the embedded objects."""


@functools.cache
def embedded_object(name: str) -> Mesh:
    """One embedded object (B = 1) with vertex colours and distance grid, origin at the centre of its box, metres.

    Raises:
        InputError: there is no object of this name.
    """
    if name not in SHAPES:
        raise InputError(f"object {name!r}: there is no such embedded object{suggestion(name, OBJECTS)}")
    vertices, faces = SHAPES[name]()
    vertices = vertices - (vertices.min(0) + vertices.max(0)) / 2
    return Mesh.from_arrays(vertices, faces, object_texture(name, vertices), name).with_sdf()


def object_texture(name: str, points: np.ndarray, seed: int = 0) -> np.ndarray:
    """Linear albedo "N 3" (0 to 1) of an object's surface at points "N 3" of its own frame (metres)."""
    rng = np.random.default_rng([sum(map(ord, name)), seed])
    axes, phases = rng.normal(size=(3, 3)) * 25, rng.uniform(0, 6.3, 3)
    return 0.5 + 0.35 * np.sin(np.asarray(points) @ axes + phases)
