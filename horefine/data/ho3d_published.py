"""The joints of HO-3D's evaluation part, published years later: ``evaluation_xyz.json`` beside ``evaluation.txt``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jaxtyping import Float
from numpy import ndarray

from horefine.data.ho3d_files import joints_of
from horefine.errors import InputError

__all__ = ["FILE", "PublishedJoints"]

FILE = "evaluation_xyz.json"


class PublishedJoints:
    """Read when the first is asked for; left behind when pickled."""

    def __init__(self, root: Path) -> None:
        self.path = root / FILE
        self._list = root / "evaluation.txt"
        self._read: tuple[list[Any], dict[str, int]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_read": None}

    @property
    def there(self) -> bool:
        """Whether the file is in the dataset's folder."""
        return self.path.is_file()

    def of(self, frame: str) -> Float[ndarray, "21 3"]:
        """Joints of a frame (``SM1/0000``), house order, OpenCV's camera frame, metres.

        Raises:
            InputError: the file is damaged, or of another version of the dataset.
        """
        if self._read is None:
            self._read = self._entries(), {name: place for place, name in enumerate(self._list.read_text().split())}
        entries, places = self._read
        if len(entries) != len(places):
            raise InputError(f"{self.path}: {len(entries)} entries for {len(places)} frames: of another version?")
        try:
            return joints_of(entries[places[frame]])
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(f"{self.path}: {frame}: {type(error).__name__}: {error}") from None

    def _entries(self) -> list[Any]:
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: cannot be read as JSON ({error}); fetch it again") from None
        if not isinstance(found, list):
            raise InputError(f"{self.path}: expected a list of 21 joints for each frame, got {type(found).__name__}")
        return found
