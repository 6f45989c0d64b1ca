"""A field's values on a lattice, asked where the surface is: everywhere, or coarse to fine.

Marching cubes looks at the signs of all nodes and at the values of cells whose corners differ in sign. So a node needs
no asking once its sign is certain and its cells are not crossed. A field that rises by at most L a metre keeps the sign
it has at q at every place nearer to q than ``|field(q)| / L``: with that, a coarse lattice settles most nodes of the
next finer one (branch and bound), and what it settles wrongly, because the field is steeper than L, is found out where
the surface passes: every corner of every crossed cell is asked in the end, and cells that this uncovers are followed
until no crossed cell is left with a corner that was not asked. So where the sparse way sees a surface it is the dense
lattice's, node for node; what it can miss is a part of the surface, apart from all others, that hides from L.

A clamped field says only "at least so far": cells wholly out of reach stay so whatever is known of their inner nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from horefine.errors import SurfaceError
from horefine.extractors import surface_kernels as kernels

__all__ = ["METHODS", "Lattice", "ask_lattice", "ask_nodes", "crossed_cells", "follow_surface"]

METHODS = ("sparse", "dense")
_COARSEST = 14
"""Nodes along the longest side of the lattice that is asked whole, at least."""
Ask = Callable[[Int[np.ndarray, "N"]], Float[np.ndarray, "N"]]
"""Numbers of nodes (z fastest) to the field there."""


@dataclass(frozen=True)
class Lattice:
    """A field on a lattice."""

    values: Float[np.ndarray, "X Y Z"]
    """The field where it was asked; elsewhere its sign."""
    asked: Bool[np.ndarray, "X Y Z"]
    """Of every corner of every crossed cell, at least."""

    @staticmethod
    def unknown(shape: tuple[int, int, int], value: float = 0.0) -> Lattice:
        """Nothing asked yet, ``value`` everywhere."""
        return Lattice(np.full(shape, value, np.float32), np.zeros(shape, bool))

    @property
    def queries(self) -> int:
        """How many nodes were asked."""
        return int(np.count_nonzero(self.asked))


def ask_lattice(
    ask: Ask,
    shape: tuple[int, int, int],
    spacing: float,
    *,
    method: str = "sparse",
    steepness: float = 1.25,
    batch: int = 2**14,
) -> Lattice:
    """The field on a lattice, well enough for marching cubes (see above).

    Args:
        ask: Numbers of nodes, z fastest, to the field's values there, negative inside, in the unit of ``spacing``.
        shape: Nodes along x, y and z, two at least.
        spacing: Between neighbouring nodes.
        method: One of :data:`METHODS`.
        steepness: L is this times the rise seen between asked neighbours, and not less than this (a distance has 1).
        batch: Nodes asked at once, at most.

    Raises:
        SurfaceError: a value that is not finite.
        ValueError: another ``method``, fewer than two nodes along a side.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; known: {', '.join(METHODS)}")
    if min(shape) < 2:
        raise ValueError(f"shape: {shape} nodes do not span a box, give at least 2 along each side")
    if method == "dense":
        lattice = Lattice.unknown(shape)
        ask_nodes(ask, lattice, np.arange(lattice.values.size), batch)
        return lattice
    stride = 1
    while -(-max(shape) // (2 * stride)) >= _COARSEST:
        stride *= 2
    lattice = Lattice.unknown(_level(shape, stride))
    _ask_level(ask, lattice, np.arange(lattice.values.size), stride, shape, batch)
    dead = np.zeros((0, 0, 0), bool)
    while stride > 1:
        side, stride = spacing * stride, stride // 2
        known, finer = lattice, _level(shape, stride)
        dead, steepest = kernels.unreachable(known.values, known.asked, dead, finer, side, steepness)
        values, state = kernels.settle(known.values, known.asked, steepest, dead, finer, side)
        lattice = Lattice(values, np.zeros(finer, bool))
        lattice.asked[::2, ::2, ::2] = known.asked
        _ask_level(ask, lattice, np.flatnonzero(state == kernels.WANTED), stride, shape, batch)
    return follow_surface(ask, lattice, batch)


def _level(shape: tuple[int, int, int], stride: int) -> tuple[int, int, int]:
    """How many nodes every ``stride``-th are."""
    x, y, z = ((side - 1) // stride + 1 for side in shape)
    return x, y, z


def _ask_level(
    ask: Ask, level: Lattice, numbers: np.ndarray, stride: int, shape: tuple[int, int, int], batch: int
) -> None:
    """:func:`ask_nodes` of a lattice of every ``stride``-th node."""

    def asking(chosen: np.ndarray) -> np.ndarray:
        places = np.unravel_index(chosen, level.values.shape)
        return ask(np.ravel_multi_index(tuple(place * stride for place in places), shape))

    ask_nodes(ask if stride == 1 else asking, level, numbers, batch)


def follow_surface(ask: Ask, lattice: Lattice, batch: int = 2**14) -> Lattice:
    """Asks the corners of crossed cells until all are asked; ``lattice`` is changed in place and given back.

    Raises:
        SurfaceError: a value that is not finite.
    """
    numbers = kernels.corners_to_ask(np.argwhere(crossed_cells(lattice.values <= 0)), lattice.asked)
    while len(numbers):
        ask_nodes(ask, lattice, numbers, batch)
        numbers = kernels.more_corners(lattice.values, lattice.asked, numbers)
    return lattice


def ask_nodes(ask: Ask, lattice: Lattice, numbers: Int[np.ndarray, "N"], batch: int = 2**14) -> None:
    """Asks nodes by their numbers, a batch at a time, and writes them into ``lattice``.

    Raises:
        SurfaceError: a value that is not finite.
    """
    for start in range(0, len(numbers), batch):
        part = numbers[start : start + batch]
        found = ask(part)
        bad = int(np.count_nonzero(~np.isfinite(found)))
        if bad:
            raise SurfaceError(
                f"the field is not finite (NaN or infinite) at {bad} of {len(part)} points that were asked: check the "
                "checkpoint and the image's values"
            )
        lattice.values.reshape(-1)[part] = found
        lattice.asked.reshape(-1)[part] = True


def crossed_cells(inside: Bool[np.ndarray, "X Y Z"]) -> Bool[np.ndarray, "x y z"]:
    """Cells of a lattice (one fewer along each side) with corners inside and outside."""
    some, every = inside, inside
    for axis in range(3):
        lower, upper = ((slice(None),) * axis + (part,) for part in (slice(None, -1), slice(1, None)))
        some, every = some[lower] | some[upper], every[lower] & every[upper]
    return some & ~every
