"""Object poses of FoundationPose (one 4x4 text file for each picture) and of BOP's result files, in and out.

What is read and written here are tables under the house's names, as ``--init`` files have them: ``object_rotvec`` and
``object_transl``, metres, radians, OpenCV camera, the object's frame that of its mesh file.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from horefine.errors import InputError
from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle

__all__ = ["bop_line", "object_matrix", "read_bop", "read_matrix", "write_bop", "write_matrix"]

HEADER = "scene_id,im_id,obj_id,score,R,t,time"
_FAR = 10.0
"""Metres; beyond, the file is in millimetres."""


def read_matrix(path: Path) -> dict[str, Any]:
    """A pose of FoundationPose (``ob_in_cam/NAME.txt``): 4x4, object to camera, metres.

    Raises:
        InputError: not 16 numbers, no rigid motion, millimetres, behind the camera.
    """
    try:
        matrix = np.loadtxt(path).reshape(4, 4)
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name}: expected a 4x4 matrix in text ({error})") from None
    return _table(matrix[:3, :3], matrix[:3, 3], path.name)


def write_matrix(path: Path, table: Mapping[str, Any]) -> None:
    """The 4x4 text file that :func:`read_matrix` reads; its first line, a comment, names the frame."""
    frame = "object (frame of its mesh file) to OpenCV camera (x right, y down, z forward), metres"
    np.savetxt(path, object_matrix(table), fmt="%.17g", header=frame)


def object_matrix(table: Mapping[str, Any]) -> Float[ndarray, "4 4"]:
    """Object to camera, from the house's names."""
    rotvec = torch.as_tensor(np.asarray(table["object_rotvec"], np.float64).reshape(3))
    matrix = np.eye(4)
    matrix[:3, :3] = axis_angle_to_matrix(rotvec).numpy()
    matrix[:3, 3] = np.asarray(table["object_transl"], np.float64)
    return matrix


def read_bop(path: Path) -> dict[str, dict[str, Any]]:
    """BOP's result file: ``SCENE_IMAGE_OBJECT`` (``000048_000001_15``) -> the pose with the highest score.

    Rotations are nine numbers row by row, translations millimetres.

    Raises:
        InputError: another header, a line that is not of it, or no rigid motion; names the line.
    """
    try:
        with path.open(newline="") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path.name}: cannot be read ({error})") from None
    if not lines or ",".join(cell.strip() for cell in lines[0]) != HEADER:
        raise InputError(f"{path.name}: its first line must be {HEADER}")
    found: dict[str, dict[str, Any]] = {}
    for number, cells in enumerate(lines[1:], 2):
        if not cells:
            continue
        where = f"{path.name}: line {number}"
        try:
            scene, image, thing = map(int, cells[:3])
            score = float(cells[3])
            rotation = np.array(cells[4].split(), float).reshape(3, 3)
            place = np.array(cells[5].split(), float).reshape(3) / 1000
        except (ValueError, IndexError) as error:
            raise InputError(f"{where}: expected {HEADER} ({error})") from None
        name = f"{scene:06d}_{image:06d}_{thing}"
        if name not in found or score > found[name]["score"]:
            found[name] = {**_table(rotation, place, where), "score": score}
    return found


def bop_line(ids: tuple[int, int, int], table: Mapping[str, Any], score: float = 1.0) -> str:
    """A line of BOP's result file: scene, image and object id, the pose with its translation in millimetres."""
    matrix = object_matrix(table)
    turn = " ".join(f"{value:.10g}" for value in matrix[:3, :3].reshape(-1))
    place = " ".join(f"{value:.10g}" for value in matrix[:3, 3] * 1000)
    return ",".join([*map(str, ids), f"{score:g}", turn, place, "-1"])


def write_bop(path: Path, tables: Mapping[str, Mapping[str, Any]]) -> None:
    """A result file of poses whose names are ``SCENE_IMAGE_OBJECT``.

    Raises:
        InputError: a name that is not.
    """
    lines = [HEADER]
    for name, table in tables.items():
        match = re.fullmatch(r"(\d+)_(\d+)_(\d+)", name)
        if match is None:
            raise InputError(f"{name}: BOP wants SCENE_IMAGE_OBJECT (000048_000001_15)")
        ids = int(match[1]), int(match[2]), int(match[3])
        lines.append(bop_line(ids, table, float(table.get("score", 1.0))))
    path.write_text("\n".join(lines) + "\n")


def _table(rotation: ndarray, place: ndarray, where: str) -> dict[str, Any]:
    if not np.isfinite(rotation).all() or not np.isfinite(place).all():
        raise InputError(f"{where}: numbers that are not finite")
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) or np.linalg.det(rotation) < 0:
        raise InputError(f"{where}: no rotation (R times its transpose is not 1, or it mirrors)")
    if np.abs(place).max() > _FAR:
        raise InputError(f"{where}: {place.tolist()} is more than {_FAR:g} m away: another unit?")
    if place[2] <= 0:
        raise InputError(f"{where}: {place.tolist()} is behind the camera; the frame is OpenCV's")
    rotvec = matrix_to_axis_angle(torch.from_numpy(np.array(rotation, float))).numpy()
    return {"object_rotvec": rotvec, "object_transl": np.array(place, float)}
