"""A reconstructed surface as the object that is refined: in its own frame, with no more triangles than it needs."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from horefine.distance import build_grid, closest_points
from horefine.errors import SurfaceError
from horefine.extractors.surface import Surface, level_surface
from horefine.extractors.surface_lattice import Lattice
from horefine.mesh import Mesh
from horefine.repair import signed_volume

__all__ = ["box_center", "coarser", "to_mesh"]

_FACES_A_SQUARE = 3.0
"""Triangles that marching cubes makes for each spacing squared of surface, on a sphere."""
_ROUNDS = 4


def box_center(surface: Surface) -> Float[np.ndarray, "3"]:
    """Centre of the bounding box, in the surface's frame."""
    return (surface.vertices.min(0) + surface.vertices.max(0)) / 2


def to_mesh(
    surface: Surface, center: Float[np.ndarray, "3"] | None = None, *, faces: int = 2000, name: str = "surface"
) -> Mesh:
    """One mesh (B = 1) in an object frame with the surface's axes and its origin at ``center`` (default: of its box).

    So an object of rotation 0 and translation ``center`` is where the surface was found.

    Args:
        surface: metres, camera frame.
        center: metres, camera frame.
        faces: about how many triangles are wanted; see :func:`coarser`. 0: all of the surface's own.
        name: of the mesh.

    Raises:
        SurfaceError: a surface without volume.
    """
    chosen = coarser(surface, faces) if faces else surface
    origin = box_center(surface) if center is None else np.asarray(center)
    return Mesh.from_arrays(chosen.vertices - origin, chosen.faces, name=name)


def coarser(surface: Surface, faces: int = 2000) -> Surface:
    """The same surface with about ``faces`` triangles, twice or more as many where it is too thin for so few.

    Marching cubes on a coarse lattice of exact distances to the surface, then each vertex moved to the nearest point of
    the surface. A lattice is too coarse when the parts and handles (Euler characteristic) are not the surface's, or its
    area is not within 5 %. After four doublings the surface is given back as it is.

    Raises:
        SurfaceError: a surface without volume.
    """
    vertices, triangles = surface.vertices.astype(np.float64), surface.faces
    area, volume = _area(vertices, triangles), signed_volume(vertices, triangles)
    if not (area > 0 and volume > 0):
        raise SurfaceError(f"the surface has no volume ({volume:.3g} m3): it cannot be refined as an object")
    for _ in range(_ROUNDS):
        if faces >= len(triangles):
            break
        spacing = (_FACES_A_SQUARE * area / faces) ** 0.5
        found = _resampled(vertices, triangles, spacing)
        same = _euler(found.vertices, found.faces) == _euler(vertices, triangles)
        if same and abs(_area(found.vertices, found.faces) / area - 1) < 0.05:
            return Surface(found.vertices.astype(np.float32), found.faces, surface.queries, surface.notes)
        faces *= 2
    return surface


def _resampled(vertices: np.ndarray, faces: np.ndarray, spacing: float) -> Surface:
    padding = 0.06
    side = float(np.ptp(vertices, axis=0).max()) * (1 + 2 * padding)
    grid = build_grid(vertices, faces, max(int(np.ceil(side / spacing)) + 1, 8), padding)
    values = grid.values[0].numpy()
    found = level_surface(Lattice(values, np.ones(values.shape, bool)), largest=False)
    places = grid.origin[0].double().numpy() + float(grid.spacing[0]) * found.vertices.astype(np.float64)
    return Surface(closest_points(places, vertices, faces)[1], found.faces)


def _euler(vertices: np.ndarray, faces: np.ndarray) -> int:
    """Euler characteristic of a closed mesh: each edge has two faces."""
    return len(vertices) - len(faces) * 3 // 2 + len(faces)


def _area(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)
