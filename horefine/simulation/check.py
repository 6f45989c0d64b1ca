"""Meshes fit to be simulated, or an error that says what is wrong with them and what to do."""

from __future__ import annotations

import logging

import numpy as np
from jaxtyping import Float, Int

from horefine import repair
from horefine.distance import is_closed
from horefine.errors import InputError
from horefine.mesh_file import UNITS

__all__ = ["closed_mesh", "fit_mesh"]

log = logging.getLogger(__name__)

SIZES = {"hand": (0.05, 0.6), "object": (0.005, 0.8)}
"""Longest side, metres, from least to most."""


def fit_mesh(
    what: str, vertices: Float[np.ndarray, "V C"], faces: Int[np.ndarray, "F D"]
) -> tuple[Float[np.ndarray, "W 3"], Int[np.ndarray, "G 3"]]:
    """The mesh of ``what`` (hand or object) in double precision, without padding faces and without unused vertices.

    Raises:
        InputError: it is empty, has values that are not finite or faces of vertices that are not there, or its size
            is no hand's or object's in metres; the message says in which unit it would be.
    """
    vertices, faces = np.asarray(vertices, np.float64), np.asarray(faces, np.int64)
    if vertices.ndim != 2 or faces.ndim != 2 or vertices.shape[1] != 3 or faces.shape[1] != 3:
        raise InputError(f"{what} mesh: vertices {vertices.shape} and faces {faces.shape} must be (V, 3) and (F, 3)")
    if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
        raise InputError(
            f"{what} mesh: its faces name vertices {faces.min()} to {faces.max()}, but it has {len(vertices)}; "
            "give the faces of this mesh, counted from 0"
        )
    kept, _, _ = repair.drop_bad_faces(faces) if len(faces) else (faces, 0, 0)
    if not len(kept):
        raise InputError(f"{what} mesh: empty ({len(vertices)} vertices, no faces with area); give a surface mesh")
    used, place = np.unique(kept, return_inverse=True)
    points = vertices[used]
    bad = int((~np.isfinite(points)).any(1).sum())
    if bad:
        raise InputError(f"{what} mesh: {bad} of {len(points)} vertices are not finite (NaN or inf): its pose failed")
    _metres(what, float(np.ptp(points, axis=0).max()))
    return points, place.reshape(-1, 3)


def _metres(what: str, size: float) -> None:
    low, high = SIZES[what]
    if low <= size <= high:
        return
    fits = [unit for unit in ("mm", "cm", "in") if low <= size * UNITS[unit] <= high]
    said = f"{what} mesh: its longest side is {size:g}, and metres are wanted ({low:g} to {high:g})"
    if "mm" in fits or "cm" in fits:
        ways = " or ".join(f"{unit} (multiply by {UNITS[unit]:g})" for unit in fits if unit != "in")
        raise InputError(f"{said}: this looks like {ways}")
    raise InputError(f"{said}: scale it to metres")


def closed_mesh(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]
) -> tuple[Float[np.ndarray, "W 3"], Int[np.ndarray, "G 3"]]:
    """An object's mesh as a closed surface: seams welded and small holes covered where it is not closed as it comes.

    Raises:
        InputError: it has holes that are not small (border over 0.3 of its size, as :meth:`Mesh.load` has it).
    """
    if is_closed(faces):
        return vertices, faces
    size = float(np.ptp(vertices, axis=0).max())
    points, corners, _ = repair.weld(vertices, faces, 1e-5 * size)
    corners, _, _ = repair.drop_bad_faces(corners)
    corners, _ = repair.orient(points, corners)
    points, corners, covered, _ = repair.fill(points, corners, 0.3 * size)
    if not is_closed(corners):
        _, place, _ = repair.edge_table(corners)
        loose = int((np.bincount(place) != 2).sum())
        raise InputError(
            f"object mesh: not watertight ({loose} edges without two faces after its small holes were covered), so it "
            "has no inside to decompose; load it with Mesh.load, which repairs what it can, close it by hand, or "
            "simulate with decomposition=hull (its convex hull) or coacd (closes it by voxels)"
        )
    if covered:
        log.debug("object mesh: %d small holes covered", covered)
    return points, corners
