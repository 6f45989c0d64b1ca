"""What a dataset's index is made of: sequences that are computed, and places that are checked."""

from __future__ import annotations

import hashlib
import json
import logging
import operator
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from horefine.cache import cache_dir, read_arrays, write_arrays
from horefine.data.pictures import Picture, read_depth, read_picture
from horefine.errors import ConfigError, InputError, suggestion

__all__ = ["Lazy", "depth_at", "given_names", "no_picture", "picture_at", "place_of", "those_that_pass"]

log = logging.getLogger(__name__)

_SAID = 3
"""Faults of one kind that are said one by one."""
T = TypeVar("T")


class Lazy(Sequence[T]):
    """A sequence whose entries are made when asked for: half a million names take no memory.

    >>> list(Lazy(3, lambda place: place * place))
    [0, 1, 4]
    """

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return [self._make(place) for place in range(self._count)[index]]
        return self._make(place_of(index, self._count))


def place_of(index: Any, count: int) -> int:
    """``index`` as a place from 0 to ``count - 1``; negative ones count from the end.

    Raises:
        IndexError: there is no such place (which also ends a loop over the dataset).
    """
    place = operator.index(index)
    if not -count <= place < count:
        raise IndexError(f"index {place}: there are {count} samples")
    return place % count


def given_names(value: str | Iterable[str], known: Sequence[str], option: str) -> frozenset[str]:
    """The names in an option such as ``give="boxes+wrist"`` (or a list of names).

    Raises:
        ConfigError: one that is not known.
    """
    names = [part for part in value.split("+") if part] if isinstance(value, str) else list(value)
    for name in names:
        if name not in known:
            raise ConfigError(f"{option}: {name!r}{suggestion(name, known)}; join several with +")
    return frozenset(names)


def those_that_pass(
    numbers: Int[ndarray, "N"], test: Callable[[int], bool], name: str, about: Sequence[object]
) -> Int[ndarray, "M"]:
    """Those of the numbers whose annotation passes a test; which they are is kept in the cache directory.

    Args:
        test: raises InputError where an annotation cannot be read; such a number is left out, and said.
        name: of the test, for messages and the file.
        about: everything that the answer depends on.

    Raises:
        ConfigError: none passes.
    """
    key = hashlib.sha256(json.dumps([1, name, *map(str, about), numbers.tolist()]).encode()).hexdigest()[:20]
    path = cache_dir("datasets") / f"{name}-{key}.npz"
    kept = read_arrays(path, ("numbers",))
    if kept is not None:
        return kept["numbers"]
    log.info("keep=%s: %d annotations are read once", name, len(numbers))
    passed, unread = [], 0
    for place, number in enumerate(numbers.tolist()):
        try:
            if test(number):
                passed.append(number)
        except InputError as error:
            unread += 1
            if unread <= _SAID:
                log.warning("keep=%s: left out: %s", name, error)
        if place and place % 2000 == 0:
            log.info("keep=%s: %d of %d annotations", name, place, len(numbers))
    if unread > _SAID:
        log.warning("keep=%s: left out: %d more annotations cannot be read", name, unread - _SAID)
    if not passed:
        raise ConfigError(f"keep={name}: none of {len(numbers)} frames passes ({unread} annotations cannot be read)")
    found = np.array(passed, np.int32)
    if not unread:  # those that cannot be read may be there the next time
        write_arrays(path, {"numbers": found})
    return found


def no_picture(size: tuple[int, int]) -> Picture:
    """In place of a photograph that nobody looks at: one grey pixel. Poses are evaluated without pictures."""
    return Picture(torch.full((3, 1, 1), 0.5), size, {}, ())


def picture_at(path: Path) -> Picture:
    """:func:`~horefine.data.pictures.read_picture` with the whole path in what it says: names recur in a dataset.

    Raises:
        InputError: as that does.
    """
    try:
        return read_picture(path)
    except InputError as error:
        raise InputError(f"{path.parent}: {error}") from None


def depth_at(
    path: Path, size: tuple[int, int], read: Callable[[Path, tuple[int, int]], Tensor] = read_depth
) -> tuple[Float[Tensor, "H W"] | None, tuple[str, ...]]:
    """A depth map, or None and a note where the file is not there (many leave depth out of a download).

    Raises:
        InputError: it is damaged, or of another size than ``size``.
    """
    if not path.is_file():
        return None, (f"no depth: {path} is not there",)
    try:
        return read(path, size), ()
    except InputError as error:
        raise InputError(f"{path.parent}: {error}") from None
