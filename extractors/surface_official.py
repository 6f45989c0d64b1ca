"""Surfaces on the lattices of the published gSDF and C2F-SDF, with their faults or without.

Both ask their fields in the cube about the wrist: ``p = (X - wrist) * scale``, -1 to 1. gSDF asks ``count``^3 points of
the whole cube, then as many of a smaller one about all that lies inside hand or object. C2F-SDF asks the lattice points
of chosen cells (``c2f_sdf_cells``) and takes all others for outside. The published code brings the result to metres by
aligning it to the TRUE hand; :func:`in_camera` does without.

Faults of the published code, each named in :class:`Faults`. Right meshes need none of them; recorded numbers do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.errors import SurfaceError
from horefine.extractors.c2f_sdf_cells import Cells
from horefine.extractors.official_sampling import LATTICES
from horefine.extractors.surface import Surface, level_surface
from horefine.extractors.surface_lattice import Ask, Lattice, ask_lattice, ask_nodes, follow_surface

__all__ = ["PUBLISHED", "Cube", "Faults", "cell_surface", "cube_surfaces", "in_camera", "refined_cube"]

log = logging.getLogger("horefine")

Field = Callable[[Float[Tensor, "N 3"]], Float[Tensor, "N"]]
"""Points of the cube to normalised distances, negative inside."""


@dataclass(frozen=True)
class Faults:
    """Which faults of the published code to repeat."""

    sheared: bool = False
    """A lattice number is divided without rounding: x and y creep on within each row, by up to one spacing."""
    absent_at_zero: bool = False
    """A part of which nothing is inside counts as the lattice's first node when the smaller cube is chosen."""
    turned_before_moved: bool = False
    """Vertices are turned to the camera's axes before the lattice's origin, which is not turned, is added."""


PUBLISHED = Faults(True, True, True)


@dataclass(frozen=True)
class Cube:
    """``count``^3 lattice points."""

    origin: Float[np.ndarray, "3"]
    spacing: float
    count: int

    @staticmethod
    def whole(count: int = 128) -> Cube:
        """-1 to 1 along each axis."""
        return Cube(np.full(3, -1.0), 2 / (count - 1), count)

    def places(self, numbers: Int[np.ndarray, "N"], sheared: bool = False) -> Float[Tensor, "N 3"]:
        """Where lattice points are, by their numbers (z fastest); ``sheared``: see :class:`Faults`."""
        n = self.count
        if sheared:
            steps = np.stack([numbers / n / n % n, numbers / n % n, numbers % n], -1)
        else:
            steps = np.stack(np.unravel_index(numbers, (n, n, n)), -1)
        return torch.from_numpy((steps * self.spacing + self.origin).astype(np.float32))


def cube_surfaces(
    fields: Mapping[str, Field],
    count: int = 128,
    *,
    rotation: Float[np.ndarray, "3 3"] | None = None,
    faults: Faults | None = None,
    method: str = "sparse",
    steepness: float = 1.25,
    batch: int = 2**14,
    device: str | torch.device = "cpu",
) -> dict[str, Surface]:
    """gSDF's two passes: the largest part of each field's zero level, in the cube's units, under the field's name.

    A field without one is left out with a warning, as the published code leaves it out.

    Args:
        fields: ``{"hand": ..., "object": ...}``; asked without gradients.
        count: Lattice points along a side, in both passes.
        rotation: To the camera's axes; None leaves the vertices as they are (then :func:`in_camera`).
        faults: None repeats none; :data:`PUBLISHED` all.
        method: ``sparse``, or ``dense`` as published; the same meshes as far as ``steepness`` is enough.
        steepness: See :func:`surface_lattice.ask_lattice`.
        batch: Points asked at once, at most.
        device: Where fields are asked.

    Raises:
        SurfaceError: no field has a zero level, or a value is not finite.
    """
    chosen, first = Faults() if faults is None else faults, Cube.whole(count)

    def passed(cube: Cube) -> dict[str, Lattice]:
        asks = {
            name: _asking(field, lambda numbers: cube.places(numbers, chosen.sheared).to(device))
            for name, field in fields.items()
        }
        return {
            name: ask_lattice(ask, (count, count, count), cube.spacing, method=method, steepness=steepness, batch=batch)
            for name, ask in asks.items()
        }

    coarse = passed(first)
    cube = refined_cube(first, [lattice.values < 0 for lattice in coarse.values()], chosen.absent_at_zero)
    turn = np.eye(3) if rotation is None else np.asarray(rotation, np.float64)
    surfaces = {}
    for name, lattice in passed(cube).items():
        try:
            found = level_surface(lattice)
        except SurfaceError as error:
            log.warning("%s: %s", name, error)
            continue
        away = found.vertices.astype(np.float64) * cube.spacing
        placed = away @ turn.T + cube.origin if chosen.turned_before_moved else (away + cube.origin) @ turn.T
        queries = coarse[name].queries + found.queries
        surfaces[name] = Surface(placed.astype(np.float32), found.faces, queries, found.notes)
    if not surfaces:
        raise SurfaceError(f"no surface: none of the fields ({', '.join(fields)}) has a zero level in its cube")
    return surfaces


def refined_cube(cube: Cube, inside: list[np.ndarray], absent_at_zero: bool = False) -> Cube:
    """The smaller cube about all nodes ``inside`` ("N N N" each), with two nodes to spare at each end.

    ``absent_at_zero``: see :class:`Faults`.

    Raises:
        SurfaceError: no node is inside.
    """
    ends = []
    for part in inside:
        found = np.argwhere(part)
        if len(found) or absent_at_zero:
            ends.append((found.min(0), found.max(0)) if len(found) else (np.zeros(3), np.zeros(3)))
    if not ends:
        raise SurfaceError("no surface: nothing in the cube about the wrist is inside hand or object")
    low, high = np.min([first for first, _ in ends], 0), np.max([last for _, last in ends], 0)
    side = (float((high - low).max()) + 4) * cube.spacing
    return Cube((low - 2) * cube.spacing + cube.origin, side / (cube.count - 1), cube.count)


def cell_surface(
    field: Field,
    cells: Cells,
    *,
    lattice: str = "regular",
    follow: bool = True,
    largest: bool = True,
    batch: int = 2**14,
) -> Surface:
    """C2F-SDF's sparse reconstruction: one field on the lattice points of ``cells``, in the cube's units.

    Args:
        field: asked without gradients.
        cells: which the network thinks hold the surface.
        lattice: ``regular``, or ``sheared`` as published (see :class:`Faults`).
        follow: Where the surface leaves the cells, ask further. As published (False) all that was not asked counts as
            outside: cells' borders inside the thing become surface.
        largest: Only the part with the largest area.
        batch: Points asked at once, at most.

    Raises:
        SurfaceError: no zero level, or a value that is not finite.
        ValueError: another ``lattice``.
    """
    cube = Cube(cells.origin.double().numpy(), cells.step, cells.count)
    sheared, device = _is_sheared(lattice), cells.index.device
    ask = _asking(field, lambda numbers: cube.places(numbers, sheared).to(device))
    known = Lattice.unknown((cube.count, cube.count, cube.count), 1.0)
    ask_nodes(ask, known, cells.nodes().cpu().numpy(), batch)
    found = level_surface(follow_surface(ask, known, batch) if follow else known, largest=largest)
    vertices = found.vertices.astype(np.float64) * cube.spacing + cube.origin
    return Surface(vertices.astype(np.float32), found.faces, found.queries, found.notes)


def in_camera(
    surface: Surface, scale: float, wrist: Float[np.ndarray, "3"], rotation: Float[np.ndarray, "3 3"]
) -> Surface:
    """A surface of the cube in the camera frame, metres: ``X = R (p / scale + wrist)``. Needs no true hand.

    Args:
        surface: the cube's units, axes of the network frame.
        scale: the cube's units in a metre (half the published ``recon_scale``).
        wrist: network frame, metres: what the fields were asked about.
        rotation: camera frame from network frame (``Frame.rotation`` is its inverse).
    """
    places = (surface.vertices.astype(np.float64) / scale + wrist) @ np.asarray(rotation, np.float64).T
    return Surface(places.astype(np.float32), surface.faces, surface.queries, surface.notes)


def _is_sheared(lattice: str) -> bool:
    if lattice not in LATTICES:
        raise ValueError(f"lattice is {lattice!r}; known: {', '.join(LATTICES)}")
    return lattice == "sheared"


def _asking(field: Field, places: Callable[[np.ndarray], Tensor]) -> Ask:
    @torch.no_grad()
    def ask(numbers: np.ndarray) -> np.ndarray:
        return field(places(numbers)).float().cpu().numpy()

    return ask
