"""Reconstructed surfaces among an item's files: for programs, for 3D viewers, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from horefine import draw
from horefine.export import FRAME, write_arrays, write_meshes
from horefine.extractors.surface import Surface

__all__ = ["PARTS", "draw_surfaces", "read_surfaces", "write_surfaces"]

PARTS = {"hand": draw.HAND_COLOR, "object": draw.OBJECT_COLOR}


def write_surfaces(folder: Path, surfaces: Mapping[str, Surface]) -> None:
    """``surfaces.npz`` (as they are) and ``surfaces.glb`` (y up) of ``hand`` and ``object``; no files without any.

    ``surfaces``: in the photograph's camera, metres.
    """
    known = {name: surfaces[name] for name in PARTS if name in surfaces}
    if not known:
        return
    arrays: dict[str, ndarray] = {"frame": np.array(FRAME)}
    for name, surface in known.items():
        arrays[f"{name}_vertices"] = np.asarray(surface.vertices, np.float32)
        arrays[f"{name}_faces"] = np.asarray(surface.faces, np.int32)
    write_arrays(folder / "surfaces.npz", arrays)
    parts = {f"{name}_surface": (one.vertices, one.faces, PARTS[name]) for name, one in known.items()}
    write_meshes(folder / "surfaces.glb", parts)


def read_surfaces(folder: Path) -> dict[str, Surface]:
    """What :func:`write_surfaces` wrote; nothing where there is no such file.

    Raises:
        ValueError, OSError: the file is damaged.
    """
    path = folder / "surfaces.npz"
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return {
            name: Surface(file[f"{name}_vertices"], file[f"{name}_faces"].astype(np.int64))
            for name in PARTS
            if f"{name}_vertices" in file.files
        }


def draw_surfaces(
    path: Path, surfaces: Mapping[str, Surface], photo: Float[ndarray, "H W 3"], matrix: Float[ndarray, "3 3"],
    *, side: int = 400, title: str = "",
) -> None:  # fmt: skip
    """Draws the surfaces over the photograph, from the side and from behind, in one picture.

    Args:
        path: of the PNG.
        surfaces: at least one of ``hand`` and ``object``.
        photo: 0 to 1.
        matrix: its intrinsics, pixels.
        side: of each view, pixels.
        title: above them.
    """
    shown = [
        draw.Surface(np.asarray(surfaces[name].vertices, np.float64), surfaces[name].faces, color)
        for name, color in PARTS.items()
        if name in surfaces
    ]
    box = draw.view_box(np.concatenate([one.vertices for one in shown]), matrix, (photo.shape[0], photo.shape[1]))
    part, camera = draw.crop_photo(photo, matrix, box, side)
    tiles = [
        draw.Tile(draw.overlay(part, draw.paint(shown, camera, (side, side))), "reconstructed"),
        draw.Tile(draw.side_view(shown, (side, side)), "from the side"),
        draw.Tile(draw.side_view(shown, (side, side), 180.0), "from behind"),
    ]
    draw.sheet(tiles, columns=3, title=title).save(path)
