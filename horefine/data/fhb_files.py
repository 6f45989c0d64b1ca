"""FPHAB's text files: lists of recordings, joints, object poses, MANO fits; and its calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from horefine.errors import ConfigError, InputError
from horefine.mano import load_restricted

__all__ = [
    "COLOR_FROM_DEPTH", "COLOR_MATRIX", "COLOR_SIZE", "OBJECTS", "Files", "Recording", "lengths", "listed",
    "read_files",
]  # fmt: skip

COLOR_FROM_DEPTH = np.array(
    [
        [0.999988496304, -0.00468848412856, 0.000982563360594, 25.7],
        [0.00469115935266, 0.999985218048, -0.00273845880292, 1.22],
        [-0.000969709653873, 0.00274303671904, 0.99999576807, 3.902],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
"""Depth camera (the annotations' frame) to colour camera, millimetres; the dataset's published calibration."""
COLOR_MATRIX = np.array([[1395.749023, 0.0, 935.732544], [0.0, 1395.749268, 540.681030], [0.0, 0.0, 1.0]])
COLOR_SIZE = 1080, 1920
OBJECTS = {"juice_bottle": "juice", "liquid_soap": "liquid_soap", "milk": "milk", "salt": "salt"}
"""What an action calls its object -> its model's name."""


@dataclass(frozen=True)
class Recording:
    """One recording with an object."""

    subject: str
    action: str
    number: str

    @property
    def path(self) -> str:
        return f"{self.subject}/{self.action}/{self.number}"

    @property
    def object(self) -> str:
        """``open_juice_bottle`` -> ``juice_bottle``."""
        return self.action.partition("_")[2]


@dataclass(frozen=True)
class Files:
    """What a recording's text files hold."""

    skeleton: Mapping[int, Float[ndarray, "21 3"]]
    """Frame -> joints, mm, depth camera, file order."""
    objects: Mapping[int, Float[ndarray, "4 4"]]
    """Frame -> object to depth camera, mm."""
    fits: Mapping[str, Any] | None


def listed(root: Path) -> list[tuple[str, Recording]]:
    """Every recording of the dataset's list in its order, with its part by actions (``train`` or ``test``).

    Raises:
        ConfigError: there is no list.
    """
    file = root / "data_split_action_recognition.txt"
    if not file.is_file():
        raise ConfigError(f"--root {root}: no {file.name}; docs/datasets.md shows the tree")
    part, found = "", []
    for line in file.read_text().splitlines():
        first = line.split()[0] if line.strip() else ""
        if first in ("Training", "Test"):
            part = "train" if first == "Training" else "test"
        elif first.count("/") == 2:
            found.append((part, Recording(*first.split("/"))))
    return found


def read_files(sequence: Recording, skeletons: Path, annotations: Path, fits: Path | None) -> Files:
    """A recording's joints, object poses and MANO fits; what is missing is empty or None.

    Raises:
        InputError: a file is damaged.
    """
    file = None if fits is None else fits / sequence.path / "pkls.pkl"
    return Files(
        _rows(skeletons / sequence.path / "skeleton.txt", (21, 3)),
        # written column by column
        {k: m.T for k, m in _rows(annotations / sequence.path / "object_pose.txt", (4, 4)).items()},
        None if file is None or not file.is_file() else _fits(file),
    )


def lengths(folder: Path) -> dict[Recording, int]:
    """Frames of each recording, from ``Subject_k_info.txt``: three lines of heading, then action, number, length."""
    found = {}
    for file in sorted(folder.glob("Subject_*_info.txt")):
        for line in file.read_text().splitlines()[3:]:
            parts = line.split()
            if len(parts) == 3:
                found[Recording(file.name.removesuffix("_info.txt"), parts[0], parts[1])] = int(parts[2])
    return found


def _rows(file: Path, shape: tuple[int, int]) -> dict[int, ndarray]:
    """Lines of a frame's number and its values; none of an empty or missing file.

    Raises:
        InputError: a line of another length, or not of numbers.
    """
    if not file.is_file():
        return {}
    found = {}
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = np.array(line.split(), np.float64)
            found[int(values[0])] = values[1:].reshape(shape)
        except ValueError:
            count = shape[0] * shape[1]
            raise InputError(f"{file}: line {number}: expected a frame's number and {count} numbers") from None
    return found


def _fits(file: Path) -> Mapping[str, Any]:
    try:
        table = load_restricted(file.read_bytes())
    except ValueError as error:
        raise InputError(f"{file}: {error}") from None
    if not isinstance(table, Mapping):
        raise InputError(f"{file}: holds a {type(table).__name__}; expected a table of frames")
    return table
