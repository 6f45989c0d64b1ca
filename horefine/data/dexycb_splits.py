"""DexYCB's official splits: which subjects, cameras and recordings each has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from horefine.errors import ConfigError, suggestion

__all__ = ["SPLITS", "Subset", "split_named"]


@dataclass(frozen=True)
class Subset:
    """Which subjects, cameras and recordings of each subject (in order of name) a split has, all counted from 0."""

    subjects: tuple[int, ...]
    cameras: tuple[int, ...]
    recordings: tuple[int, ...]


def _subset(subjects: Sequence[int], recordings: Sequence[int], cameras: Sequence[int] = range(8)) -> Subset:
    return Subset(tuple(subjects), tuple(cameras), tuple(recordings))


_ALL, _FIFTH = range(10), [i for i in range(100) if i % 5 == 4]
_OBJECTS = {
    key: [i for i in range(100) if i // 5 in groups] for key, groups in (("val", (3, 19)), ("test", (7, 11, 15)))
}
SPLITS: Mapping[str, Subset] = {
    "s0/train": _subset(_ALL, [i for i in range(100) if i % 5 != 4]),
    "s0/val": _subset((0, 1), _FIFTH),
    "s0/test": _subset(range(2, 10), _FIFTH),
    "s1/train": _subset((0, 1, 2, 3, 4, 5, 9), range(100)),
    "s1/val": _subset((6,), range(100)),
    "s1/test": _subset((7, 8), range(100)),
    "s2/train": _subset(_ALL, range(100), range(6)),
    "s2/val": _subset(_ALL, range(100), (6,)),
    "s2/test": _subset(_ALL, range(100), (7,)),
    "s3/train": _subset(_ALL, [i for i in range(100) if i // 5 not in (3, 7, 11, 15, 19)]),
    "s3/val": _subset(_ALL, _OBJECTS["val"]),
    "s3/test": _subset(_ALL, _OBJECTS["test"]),
}
"""The official splits: seen everything, unseen subjects, unseen cameras, unseen grasped objects."""


def split_named(name: str) -> Subset | None:
    """The subset of ``s0/test`` (or ``s0_test``, or ``test`` for s0's); None for ``all``.

    Raises:
        ConfigError: there is no such split.
    """
    if name == "all":
        return None
    full = name.replace("_", "/")
    full = full if "/" in full else f"s0/{full}"
    if full not in SPLITS:
        raise ConfigError(f"split {name!r}: DexYCB has none of this name{suggestion(full, (*SPLITS, 'all'))}")
    return SPLITS[full]
