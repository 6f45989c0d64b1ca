"""What papers measured on grids: solid voxels (obman, CPF), gSDF's 5 mm lattice and homan's 32^3 distance grid.

Kept so that their numbers can be reproduced. They depend on pitch and voxeliser by up to a factor of two;
:func:`horefine.metrics.intersection_volume` and the exact depth do not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.ndimage import binary_fill_holes, map_coordinates

from horefine.distance import is_closed, signed_distance, winding_number
from horefine.intersection import close_holes
from horefine.metrics.units import CUBIC_CENTIMETRES, MILLIMETRES

__all__ = ["GridContact", "grid_contact", "grid_penetration_depth", "solid_voxels", "voxel_intersection_volume"]

VOXELISERS = ("obman", "filled")
SUBDIVISIONS = 10
"""At most; trimesh's bound."""
GRID = 32
"""Nodes along each axis of homan's distance grid, and how much wider than the object its cube is."""
GRID_MARGIN = 1.2


def solid_voxels(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], pitch: float, *, variant: str = "obman"
) -> Float[np.ndarray, "N 3"]:
    """Centres (metres) of a solid's voxels: what its surface touches on the lattice of multiples of ``pitch``, filled.

    A cell is touched when a corner of a triangle lies in it, triangles being cut until no edge is over half a pitch.

    ``variant``: ``obman`` fills columns (nothing, when the mesh is open) and shifts the centres by half a cell, as
    trimesh 2.37 did, with which the papers since Hasson et al. 2019 were computed; ``filled`` fills every hole and
    leaves the centres where they are (newer trimesh, but for cells touched in one point; binvox clouds, as CPF uses
    them, are of this kind). Both are larger than the solid: they count every touched cell.

    Raises:
        ValueError: an unknown variant, a pitch that is not positive.
    """
    if variant not in VOXELISERS:
        raise ValueError(f"variant: {variant!r} is none of {', '.join(VOXELISERS)}")
    if not pitch > 0:
        raise ValueError(f"pitch: {pitch} is not a positive length in metres")
    cells = np.round(_dense_points(vertices, faces, pitch / 2) / pitch).astype(np.int64)
    first = cells.min(0)
    solid = np.zeros(cells.max(0) - first + 1, bool)
    solid[tuple((cells - first).T)] = True
    if variant == "filled":
        solid = np.asarray(binary_fill_holes(solid))
    elif is_closed(faces):
        solid = _filled_columns(solid)
    shift = 0.5 if variant == "obman" else 0.0
    return (np.argwhere(solid) + first - shift) * pitch


def voxel_intersection_volume(
    hand: Float[np.ndarray, "V 3"],
    hand_faces: Int[np.ndarray, "F 3"],
    voxels: Float[np.ndarray, "N 3"],
    voxel_volume: float,
) -> float:
    """SIV as obman and CPF print it: the object's solid voxels whose centre lies in the closed hand. cm3.

    obman (Hasson et al. 2019): ``solid_voxels`` of the posed object at 5 mm. CPF (Yang et al. 2021; Song et al. 2022):
    a stored voxel cloud of the object, posed like it. ``voxel_volume`` in cubic metres.
    """
    closed = close_holes(hand_faces)
    near = voxels[((voxels >= hand.min(0)) & (voxels <= hand.max(0))).all(1)]
    return int((winding_number(near, hand, closed) > 0.5).sum()) * voxel_volume * CUBIC_CENTIMETRES


class GridContact(NamedTuple):
    """Contact of one hand and object as gSDF prints it."""

    touching: bool
    """Some hand vertex is in the object (or on it), and the boxes of the two overlap."""
    depth_mm: float
    """Of the deepest hand vertex; 0 without contact."""
    volume_cm3: float
    """Lattice points in both, times the volume of a cell; 0 without contact."""


def grid_contact(
    hand: Float[np.ndarray, "V 3"],
    hand_faces: Int[np.ndarray, "F 3"],
    vertices: Float[np.ndarray, "W 3"],
    faces: Int[np.ndarray, "G 3"],
    *,
    pitch: float = 0.005,
) -> GridContact:
    """Contact, penetration depth and intersection volume of gSDF (Chen et al. 2023; AlignSDF alike).

    Their table prints the share of items in contact, and depth (in cm) and volume averaged over ALL items. The lattice
    begins one pitch before the box where both overlap and is stepped in single precision, as the official code does.
    """
    deepest = float(signed_distance(hand, vertices, faces).min())
    low, high = np.maximum(hand.min(0), vertices.min(0)), np.minimum(hand.max(0), vertices.max(0))
    if deepest > 0 or (high <= low).any():
        return GridContact(False, 0.0, 0.0)
    low, high = low - pitch, high + pitch
    axes = [_single_steps(low[k], int((high[k] - low[k]) / pitch) + 1, pitch) for k in range(3)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3).astype(np.float64)
    for solid in ((hand, hand_faces), (vertices, faces)):
        points = points[signed_distance(points, *solid) < 0] if len(points) else points
    return GridContact(True, -deepest * MILLIMETRES, len(points) * pitch**3 * CUBIC_CENTIMETRES)


def grid_penetration_depth(
    hand: Float[np.ndarray, "V 3"],
    vertices: Float[np.ndarray, "W 3"],
    faces: Int[np.ndarray, "F 3"],
    *,
    misread: bool = False,
) -> float:
    """PD of homan (Hasson et al. 2021): the object's inner distance on a 32^3 grid, trilinear at the hand vertices. mm.

    The grid spans the object's box, made a cube and 1.2 times as wide. ``misread``: as the official code, which places
    the nodes 2/31 apart (the cube is -1 to 1) and reads them as if they were 2/32 apart, so that a depth comes from a
    place up to one node off; it often prints less than half of the depth.
    """
    low, high = vertices.min(0), vertices.max(0)
    centre, half = (low + high) / 2, (high - low).max() * GRID_MARGIN / 2
    steps = -1 + (np.arange(GRID) + 0.5) * 2 / (GRID - 1)
    nodes = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    inner = np.maximum(-signed_distance(nodes * half + centre, vertices, faces), 0).reshape(GRID, GRID, GRID)
    where = ((hand - centre) / half + 1) * (GRID if misread else GRID - 1) / 2 - 0.5
    return float(map_coordinates(inner, where.T, order=1, mode="constant", cval=0.0).max()) * MILLIMETRES


def _dense_points(vertices: np.ndarray, faces: np.ndarray, longest: float) -> np.ndarray:
    """Corners of the triangles after those with an edge over ``longest`` were cut in four, again and again."""
    triangles, done = vertices[faces].astype(np.float64), []
    for _ in range(SUBDIVISIONS + 1):
        edges = np.linalg.norm(np.diff(triangles[:, [0, 1, 2, 0]], axis=1), axis=2)
        long = (edges > longest).any(1)
        done.append(triangles[~long].reshape(-1, 3))
        if not long.any():
            break
        a, b, c = triangles[long].transpose(1, 0, 2)
        ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
        quarters = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        triangles = np.concatenate([np.stack(quarter, 1) for quarter in quarters])
    return np.concatenate(done)


def _filled_columns(surface: np.ndarray) -> np.ndarray:
    """Along the last axis: from each wall to the end of the next one; a wall without a partner encloses nothing."""
    padded = np.pad(surface, ((0, 0), (0, 0), (1, 1))).astype(np.int8)
    change = np.diff(padded, axis=2) != 0
    solid = surface.copy()
    for i, j in np.argwhere(change.sum(2) >= 4):
        places = np.flatnonzero(change[i, j])
        for k in range(0, len(places) - len(places) % 4, 4):
            solid[i, j, places[k] : places[k + 3]] = True
    return solid


def _single_steps(start: float, count: int, step: float) -> np.ndarray:
    """``count`` places from ``start``, each the one before plus ``step`` in single precision."""
    places = np.full(count, step, np.float32)
    places[0] = start
    return np.cumsum(places, dtype=np.float32)
