"""Symmetries of an object: the rigid motions of its own frame after which it is the same thing.

Read in BOP's convention (``models_info.json``): ``symmetries_discrete``, 4x4 matrices row by row, and
``symmetries_continuous``, axes with a point on them (``offset``); lengths in the mesh file's unit.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from horefine.errors import InputError
from horefine.geometry import axis_angle_to_matrix

__all__ = ["find_symmetries", "symmetry_transforms"]

KEYS = ("symmetries_discrete", "symmetries_continuous")
STEPS = 315
"""Of a full turn about an axis of symmetry: BOP's (``max_sym_disc_step`` 0.01)."""


def find_symmetries(path: Path, metres: float = 1.0) -> Float[Tensor, "S 4 4"] | None:
    """Symmetries of a mesh file, from ``STEM.json`` or, by the number in its name, ``models_info.json`` beside it.

    Args:
        path: of the mesh.
        metres: one unit of the file.

    Returns:
        Motions in metres, the identity first; None where no symmetry is known.

    Raises:
        InputError: such a file cannot be used.
    """
    number = re.search(r"(\d+)$", path.stem)
    for file, key in ((path.with_suffix(".json"), None), (path.parent / "models_info.json", number)):
        if not file.is_file() or (file.name == "models_info.json" and key is None):
            continue
        try:
            table = json.loads(file.read_text())
        except (ValueError, OSError) as error:
            raise InputError(f"{file}: cannot be read as JSON ({error})") from None
        if key is not None and isinstance(table, Mapping):
            table = table.get(str(int(key[1])), {})
        if isinstance(table, Mapping) and any(name in table for name in KEYS):
            return symmetry_transforms(table, metres, where=file.name)
    return None


def symmetry_transforms(
    table: Mapping[str, Any], metres: float = 1.0, *, where: str = "symmetries", steps: int = STEPS
) -> Float[Tensor, "S 4 4"]:
    """The motions of a table with :data:`KEYS`: every discrete one (and none) followed by every turn about the axis.

    Raises:
        InputError: not rigid motions, or an axis of length 0.
    """
    discrete = [np.eye(4)] + [_matrix(entry, metres, where) for entry in table.get(KEYS[0], ())]
    turns = [turn for entry in table.get(KEYS[1], ()) for turn in _turns(entry, metres, where, steps)]
    every = discrete + [turn @ motion for motion in discrete for turn in turns]
    return torch.tensor(np.stack(every), dtype=torch.float32)


def _matrix(entry: Any, metres: float, where: str) -> np.ndarray:
    try:
        matrix = np.array(entry, dtype=float).reshape(4, 4)
    except (TypeError, ValueError):
        raise InputError(f"{where}: {KEYS[0]}: expected 16 numbers, a 4x4 matrix row by row") from None
    turn = matrix[:3, :3]
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-3) or np.linalg.det(turn) < 0:
        raise InputError(f"{where}: {KEYS[0]}: not a rigid motion (its 3x3 part is no rotation)")
    matrix[:3, 3] *= metres
    matrix[3] = [0, 0, 0, 1]
    return matrix


def _turns(entry: Any, metres: float, where: str, steps: int) -> list[np.ndarray]:
    """Turns about one axis, the zero turn left out."""
    try:
        axis = np.array(entry["axis"], dtype=float).reshape(3)
        offset = np.array(entry.get("offset", (0, 0, 0)), dtype=float).reshape(3) * metres
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f'{where}: {KEYS[1]}: expected {{"axis": [x, y, z], "offset": [x, y, z]}}') from None
    length = float(np.linalg.norm(axis))
    if not np.isfinite(length) or length == 0:
        raise InputError(f"{where}: {KEYS[1]}: axis {axis.tolist()} has no direction")
    angles = torch.arange(1, steps, dtype=torch.float64) * (2 * math.pi / steps)
    found = []
    for turn in axis_angle_to_matrix(torch.as_tensor(axis / length) * angles[:, None]).numpy():
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = turn, offset - turn @ offset
        found.append(matrix)
    return found
