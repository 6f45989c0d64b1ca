"""Surfaces of learned fields: marching cubes (Lewiner et al. 2003, scikit-image) on as few field values as will do.

:func:`extract_surface` serves HOISDF, gSDF and C2F-SDF: any function from points to signed distances, in metres and in
any frame. C2F-SDF's paper asks near the surface only (4.3 % of the points, 2.7 times faster); how that is done here for
any field, and why the mesh is that of all points, says :mod:`horefine.extractors.surface_lattice`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float, Int
from scipy.sparse import csgraph
from skimage.measure import marching_cubes
from torch import Tensor

from horefine.errors import SurfaceError
from horefine.extractors.surface_lattice import Lattice, ask_lattice, crossed_cells

__all__ = ["CUTS", "Surface", "extract_surface", "largest_part", "level_surface"]

CUTS = ("close", "error")
_SIDES = ("x", "y", "z")

Distance = Callable[[Float[Tensor, "N 3"]], Float[Tensor, "N"]]


@dataclass(frozen=True)
class Surface:
    """A closed triangle mesh where a field is zero."""

    vertices: Float[np.ndarray, "V 3"]
    """In the frame and unit of the field's points."""
    faces: Int[np.ndarray, "F 3"]
    """Outward by the right-hand rule: normals point to where the field is positive."""
    queries: int = 0
    """How many points the field was asked at."""
    notes: tuple[str, ...] = ()
    """What a reader must know: cut by the box, parts left out."""


def extract_surface(
    distance: Distance,
    low: Float[Tensor, "3"],
    high: Float[Tensor, "3"],
    resolution: int = 128,
    *,
    method: str = "sparse",
    steepness: float = 1.25,
    largest: bool = True,
    cut: str = "close",
    batch: int = 2**14,
) -> Surface:
    """The zero level of a field within the box ``low`` to ``high``, as a closed mesh.

    Args:
        distance: Points to signed distances, negative inside, metres; asked without gradients.
        low: Lowest corner of the box. Points are made on its device and in its type.
        high: Highest corner.
        resolution: Nodes along the longest side of the box; the other sides have the same spacing.
        method: ``sparse``, or ``dense``: every node asked, for the same mesh.
        steepness: See :func:`ask_lattice`; larger is safer and asks more.
        largest: Only the part with the largest area (gSDF and C2F-SDF do so).
        cut: Where the surface leaves the box: ``close`` it with the box's side and say so in the notes, or ``error``.
        batch: Points asked at once, at most.

    Raises:
        SurfaceError: no zero level in the box, a surface that leaves it (``cut`` is ``error``), values not finite.
        ValueError: an empty box, fewer than two nodes, another ``method`` or ``cut``.
    """
    sides = (high - low).double().cpu().numpy()
    if resolution < 2 or not (np.isfinite(sides).all() and (sides > 0).all()):
        raise ValueError(f"a box of sides {_numbers(sides)} m on {resolution} nodes has nothing in it: give high > low")
    spacing = float(sides.max()) / (resolution - 1)
    x, y, z = (int(np.ceil(side / spacing - 1e-4)) + 1 for side in sides.tolist())
    shape = x, y, z
    axes = [
        (start + spacing * torch.arange(count, dtype=torch.float64)).to(low)
        for start, count in zip(low.tolist(), shape, strict=True)
    ]

    @torch.no_grad()
    def ask(numbers: np.ndarray) -> np.ndarray:
        index = torch.from_numpy(numbers).to(low.device)
        rows = index // shape[2]
        places = axes[0][rows // shape[1]], axes[1][rows % shape[1]], axes[2][index % shape[2]]
        return distance(torch.stack(places, -1)).float().cpu().numpy()

    lattice = ask_lattice(ask, shape, spacing, method=method, steepness=steepness, batch=batch)
    surface = level_surface(lattice, largest=largest, cut=cut)
    origin = low.double().cpu().numpy()
    vertices = (origin + spacing * surface.vertices.astype(np.float64)).astype(np.float32)
    return Surface(vertices, surface.faces, surface.queries, surface.notes)


def level_surface(lattice: Lattice, *, largest: bool = True, cut: str = "close") -> Surface:
    """Marching cubes at level 0, in units of the lattice's spacing, its node [0, 0, 0] at the origin.

    Raises:
        SurfaceError, ValueError: as :func:`extract_surface`.
    """
    if cut not in CUTS:
        raise ValueError(f"cut is {cut!r}; known: {', '.join(CUTS)}")
    values, shape = lattice.values, lattice.values.shape
    inside = values <= 0
    if inside.all() or not inside.any():
        raise SurfaceError(_no_level(lattice, bool(inside.any())))
    borders = [(axis, end) for axis in range(3) for end in (0, -1) if inside.take(end, axis).any()]
    if borders:
        # so far outside that the surface ends on the box's side
        values = np.pad(values, 1, constant_values=np.float32(1e4 * np.abs(values).max()))
        inside = np.pad(inside, 1)
    used, start = _around(inside)
    cells = np.zeros(inside[used].shape, bool)
    cells[1:, 1:, 1:] = crossed_cells(inside[used])  # scikit-image looks at a cell's last corner
    vertices, faces, _, _ = marching_cubes(values[used], 0.0, mask=cells)
    vertices = vertices + (start - bool(borders))
    faces = faces.astype(np.int64)
    notes = []
    if largest:
        vertices, faces, left = largest_part(vertices, faces)
        notes += [f"{left} smaller parts of the surface are left out"] if left else []
    sides = [
        ("low " if end == 0 else "high ") + _SIDES[axis]
        for axis, end in borders
        if (vertices[:, axis] < 0 if end == 0 else vertices[:, axis] > shape[axis] - 1).any()
    ]
    if sides:
        said = f"the surface leaves its box at {', '.join(sides)}"
        if cut == "error":
            raise SurfaceError(f"{said}: give a larger box, or close it there (cut='close')")
        notes.append(f"{said}: closed there")
        vertices = vertices.clip(0, np.array(shape, np.float32) - 1)
    return Surface(vertices.astype(np.float32), faces, lattice.queries, tuple(notes))


def largest_part(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]
) -> tuple[Float[np.ndarray, "W 3"], Int[np.ndarray, "G 3"], int]:
    """The part with the largest area of those joined by vertices, and how many others there are."""
    ends = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    links = scipy.sparse.coo_matrix((np.ones(len(ends[0]), np.int8), ends), shape=(len(vertices),) * 2)
    count, part = csgraph.connected_components(links.tocsr(), directed=False)
    if count == 1:
        return vertices, faces, 0
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    kept = part == np.bincount(part[faces[:, 0]], area, count).argmax()
    place = np.cumsum(kept) - 1
    return vertices[kept], place[faces[kept[faces[:, 0]]]], count - 1


def _around(inside: np.ndarray) -> tuple[tuple[slice, ...], np.ndarray]:
    """The part of the lattice that holds what is inside, a node to spare at each end, and where it begins."""
    ranges = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(inside.any(others))
        ranges.append((max(int(found[0]) - 1, 0), min(int(found[-1]) + 2, inside.shape[axis])))
    return tuple(slice(*ends) for ends in ranges), np.array([first for first, _ in ranges], np.float32)


def _no_level(lattice: Lattice, inside: bool) -> str:
    values = lattice.values[lattice.asked]
    if inside:
        return (
            f"no surface: all {len(values)} points asked are inside (the field is at most {values.max():.4g}): give a "
            "larger box, or check the field's sign (negative is inside)"
        )
    return (
        f"no surface: none of the {len(values)} points asked is inside (the field is at least {values.min():.4g}): "
        "check the box, the field's sign (negative is inside) and whether the picture shows the thing"
    )


def _numbers(values: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values.tolist()) + "]"
