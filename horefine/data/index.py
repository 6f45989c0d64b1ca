"""What a dataset's index is made of: sequences that are computed, and places that are checked."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, overload

from horefine.errors import ConfigError, suggestion

__all__ = ["Lazy", "given_names", "place_of"]

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
