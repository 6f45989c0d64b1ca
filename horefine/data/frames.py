"""The frames of a clip: in which order they come, and when each was taken."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

__all__ = ["VIDEO_SUFFIXES", "frame_numbers", "is_video", "natural_order"]

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".webm", ".mkv", ".m4v")


def is_video(path: Path) -> bool:
    """Whether the ending is a video's."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def natural_order(names: Sequence[str]) -> list[int]:
    """The places of the names in the order of the numbers in them: frame_2 before frame_10."""

    def key(place: int) -> list[tuple[int, int, str]]:
        parts = re.split(r"(\d+)", names[place])
        return [(0, int(part), part) if part.isdigit() else (1, 0, part) for part in parts]

    return sorted(range(len(names)), key=key)


def frame_numbers(names: Sequence[str]) -> list[int]:
    """When each of the ordered frames was taken, in frames from the first: the number that counts in their names.

    A clip ``a_0010, a_0020, a_0040`` has a hole: 0, 1, 3. Where names have no such number: 0, 1, 2, ...
    """
    parts = [re.split(r"(\d+)", name) for name in names]
    plain = list(range(len(names)))
    if len(names) < 2 or len({len(part) for part in parts}) > 1:
        return plain
    differing = [k for k in range(len(parts[0])) if len({part[k] for part in parts}) > 1]
    if len(differing) != 1 or not parts[0][differing[0]].isdigit():
        return plain
    numbers = [int(part[differing[0]]) for part in parts]
    steps = np.diff(numbers)
    if (steps <= 0).any():
        return plain
    unit = int(np.gcd.reduce(steps))
    return [(number - numbers[0]) // unit for number in numbers]
