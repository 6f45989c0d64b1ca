"""Predictions made for HO-3D's and DexYCB's challenges, read back: joints in the house's order, metres, OpenCV camera.

``horefine evaluate --submission`` writes them. HO-3D: ``pred.json`` (or the zip that holds it), all joints then all
vertices in the order of ``evaluation.txt``, OpenGL camera (y up, z backward), MANO's joint order with its tips.
DexYCB: a line for each picture, its number in the split and 63 millimetres.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from horefine.anatomy import convert_joints
from horefine.errors import InputError

__all__ = ["joints_table", "named", "read_dexycb_joints", "read_ho3d"]

_GL = np.array([1.0, -1.0, -1.0])
_FRAME = "OpenCV camera (x right, y down, z forward), metres"


def read_ho3d(path: Path) -> tuple[Float[ndarray, "N 21 3"], Float[ndarray, "N V 3"] | None]:
    """Joints of every frame, and vertices where the file has them; a hand that is missing has zeros there.

    Raises:
        InputError: it cannot be read, or is not ``[joints, vertices]``.
    """
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                table = json.loads(archive.read("pred.json"))
        else:
            table = json.loads(path.read_text())
        joints = np.array(table[0], float)
        vertices = np.array(table[1], float) if len(table) > 1 and len(table[1]) else None
    except (OSError, ValueError, KeyError, IndexError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path.name}: not HO-3D's [joints, vertices] ({error})") from None
    if joints.ndim != 3 or joints.shape[1:] != (21, 3) or (vertices is not None and len(vertices) != len(joints)):
        shapes = f"{joints.shape}, {None if vertices is None else vertices.shape}"
        raise InputError(f"{path.name}: joints and vertices have shapes {shapes}; expected (N, 21, 3), (N, 778, 3)")
    ordered = convert_joints(torch.from_numpy(joints * _GL), "ho3d", "house").numpy()
    return ordered, None if vertices is None else vertices * _GL


def read_dexycb_joints(path: Path) -> dict[int, Float[ndarray, "21 3"]]:
    """Picture's number in the split -> joints.

    Raises:
        InputError: a line that is not 64 numbers; names it.
    """
    found = {}
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name}: cannot be read ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            cells = line.split(",")
            found[int(cells[0])] = np.array(cells[1:], float).reshape(21, 3) / 1000
        except ValueError:
            raise InputError(f"{path.name}: line {number}: expected a picture's number and 63 millimetres") from None
    return found


def joints_table(joints: Float[ndarray, "21 3"], side: str = "right") -> Mapping[str, Any]:
    """The table of an ``--init`` file that holds joints."""
    return {"joints": joints.tolist(), "joint_order": "house", "side": side, "frame": _FRAME}


def named(values: Sequence[Any], names: Sequence[str]) -> dict[str, Any]:
    """Values under their names, of the same number.

    Raises:
        InputError: another number.
    """
    if len(values) != len(names):
        raise InputError(f"{len(values)} predictions for {len(names)} names: is it the list of another version?")
    return dict(zip(names, values, strict=True))
