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

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from horefine.errors import SurfaceError

__all__ = ["METHODS", "Lattice", "ask_lattice", "ask_nodes", "crossed_cells", "follow_surface"]

METHODS = ("sparse", "dense")
_COARSEST = 14
"""Nodes along the longest side of the lattice that is asked whole, at least."""
_CLASSES = tuple(itertools.product((0, 1), repeat=3))[1:]
"""Which coordinates of a node are odd, the nodes of the coarser lattice left out."""

Ask = Callable[[Int[np.ndarray, "N"]], Float[np.ndarray, "N"]]
"""Numbers of nodes (z fastest) to the field there."""


@dataclass(frozen=True)
class Lattice:
    """A field on a lattice."""

    values: Float[np.ndarray, "X Y Z"]
    """The field where it was asked; elsewhere its sign, with a magnitude that it has at least."""
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
    batch: int = 2**16,
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
    lattice, stride = Lattice.unknown(shape), 1
    while method == "sparse" and -(-max(shape) // (2 * stride)) >= _COARSEST:
        stride *= 2
    first = np.zeros(shape, bool)
    first[::stride, ::stride, ::stride] = True
    ask_nodes(ask, lattice, first, batch)
    dead = np.zeros([(side - 1) // stride for side in shape], bool)
    while stride > 1:
        dead = _refine(ask, lattice, dead, stride, spacing, steepness, batch)
        stride //= 2
    return follow_surface(ask, lattice, batch)


def follow_surface(ask: Ask, lattice: Lattice, batch: int = 2**16) -> Lattice:
    """Asks the corners of crossed cells until all are asked; ``lattice`` is changed in place and given back.

    Raises:
        SurfaceError: a value that is not finite.
    """
    while True:
        wanted = _corners(crossed_cells(lattice.values <= 0)) & ~lattice.asked
        if not wanted.any():
            return lattice
        ask_nodes(ask, lattice, wanted, batch)


def ask_nodes(ask: Ask, lattice: Lattice, wanted: Bool[np.ndarray, "X Y Z"], batch: int = 2**16) -> None:
    """Asks the ``wanted`` nodes, a batch at a time, and writes them into ``lattice``.

    Raises:
        SurfaceError: a value that is not finite.
    """
    numbers = np.flatnonzero(wanted)
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
    lattice.asked[...] |= wanted


def crossed_cells(inside: Bool[np.ndarray, "X Y Z"]) -> Bool[np.ndarray, "x y z"]:
    """Cells of a lattice (one fewer along each side) with corners inside and outside."""
    some, every = inside, inside
    for axis in range(3):
        some = _first(some, axis) | _last(some, axis)
        every = _first(every, axis) & _last(every, axis)
    return some & ~every


def _refine(
    ask: Ask, lattice: Lattice, dead: np.ndarray, stride: int, spacing: float, steepness: float, batch: int
) -> np.ndarray:
    """Settles the lattice of half the ``stride``, asking where it must; its cells that no surface can reach."""
    values, asked, step = lattice.values, lattice.asked, stride // 2
    coarse, fine = values[::stride, ::stride, ::stride], values[::step, ::step, ::step]
    steepest = steepness * _rise(coarse, asked[::stride, ::stride, ::stride], stride * spacing)
    dead = dead | _out_of_reach(coarse, steepest * (stride * spacing * math.sqrt(0.75)))
    dead = _halved(dead, [side - 1 for side in fine.shape])
    settled = _corners(dead)
    wanted = np.zeros(values.shape, bool)
    for odd in _CLASSES:
        place = tuple(slice(start, None, 2) for start in odd)
        reach = step * spacing * math.sqrt(sum(odd))
        count = [len(range(*part.indices(side))) for part, side in zip(place, fine.shape, strict=True)]
        bound = _pooled(steepest, odd, count) * reach
        outside, inside = _pooled(coarse, odd, count) - bound, _pooled(-coarse, odd, count) - bound
        certain = ((outside > 0) != (inside > 0)) | settled[place]
        # of a settled node all corners have one sign, that of the larger; it is out of reach by an unknown margin
        positive = outside > inside
        margin = np.maximum(np.maximum(outside, inside), np.float32(1e-6 * spacing))
        fine[place] = np.where(positive, margin, -margin)
        wanted[::step, ::step, ::step][place] = ~certain
    ask_nodes(ask, lattice, wanted, batch)
    return dead


def _rise(values: np.ndarray, known: np.ndarray, side: float) -> np.ndarray:
    """The steepest rise from each node to its neighbours, in each direction the larger; 1 at least."""
    square = np.zeros_like(values)
    for axis in range(3):
        both = _first(known, axis) & _last(known, axis)
        rise = np.where(both, np.diff(values, axis=axis), 0) ** 2
        largest = np.zeros_like(values)
        for part in (_first, _last):
            np.maximum(part(largest, axis), rise, out=part(largest, axis))
        square += largest
    return np.sqrt(np.maximum(square / np.float32(side**2), 1), dtype=np.float32)


def _out_of_reach(values: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Cells with all corners on one side and each too far for the surface to come to the cell's middle."""
    far = []
    for side in (values > reach, values < -reach):
        for axis in range(3):
            side = _first(side, axis) & _last(side, axis)
        far.append(side)
    return far[0] | far[1]


def _halved(cells: np.ndarray, shape: list[int]) -> np.ndarray:
    """Each cell's eight parts; cells beyond the last whole coarse one are False."""
    fine = np.zeros(shape, bool)
    parts = cells
    for axis in range(3):
        parts = parts.repeat(2, axis)
    fine[: parts.shape[0], : parts.shape[1], : parts.shape[2]] = parts
    return fine


def _pooled(coarse: np.ndarray, odd: tuple[int, ...], count: list[int]) -> np.ndarray:
    """For the nodes between (``odd``) coarse ones: the largest of the coarse nodes around, of one at the far border."""
    for axis in range(3):
        if not odd[axis]:
            continue
        between = np.maximum(_first(coarse, axis), _last(coarse, axis))
        if count[axis] > between.shape[axis]:
            between = np.concatenate([between, coarse.take([-1], axis)], axis)
        coarse = between
    return coarse


def _corners(cells: np.ndarray) -> np.ndarray:
    """Nodes of the chosen cells."""
    for axis in range(3):
        shape = list(cells.shape)
        shape[axis] += 1
        nodes = np.zeros(shape, bool)
        _first(nodes, axis)[...] = cells
        _last(nodes, axis)[...] |= cells
        cells = nodes
    return cells


def _first(values: np.ndarray, axis: int) -> np.ndarray:
    return values[(slice(None),) * axis + (slice(None, -1),)]


def _last(values: np.ndarray, axis: int) -> np.ndarray:
    return values[(slice(None),) * axis + (slice(1, None),)]
