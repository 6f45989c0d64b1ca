"""HOISDF's own choice of points: a 64^3 lattice about a centre, cut by a box in the picture, the field's nearest kept.

The published code divides the lattice's running number without rounding it, so its lattice is sheared: the first two
coordinates creep on within each row (up to one spacing). Networks trained on it expect it (``sheared``); ``regular`` is
the lattice as the paper describes it.

All points of the lattice in the box are asked (``dense``, as published), or only those that can be among the nearest
(``coarse_to_fine``, :func:`nearest_points`): the same points where the field is like a distance. How much it saves
depends on the field and on the box, which alone leaves out most of the lattice (``benchmarks.fields``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.errors import InputError

__all__ = [
    "LATTICES",
    "SEARCHES",
    "Chosen",
    "choose_points",
    "inside_box",
    "nearest_points",
    "official_lattice",
]

LATTICES = ("sheared", "regular")
SEARCHES = ("dense", "coarse_to_fine")
log = logging.getLogger("horefine")

Asked = Callable[[Float[Tensor, "N 3"]], tuple[Float[Tensor, "N"], Float[Tensor, "N C"]]]
"""Normalised lattice points to distances there (normalised, not clamped) and to what the maps show there."""


def official_lattice(kind: str = "sheared", count: int = 64) -> Float[Tensor, "N 3"]:
    """``count``^3 points of the cube of half side 1, z fastest.

    Raises:
        ValueError: another ``kind`` than those of :data:`LATTICES`.
    """
    if kind not in LATTICES:
        raise ValueError(f"lattice is {kind!r}; known: {', '.join(LATTICES)}")
    number = torch.arange(count**3)
    rows = number / count if kind == "sheared" else (number // count).float()
    layers = rows / count if kind == "sheared" else (number // count**2).float()
    return torch.stack([layers, rows % count, (number % count).float()], -1) * (2 / (count - 1)) - 1


def inside_box(points: Float[Tensor, "N 3"], matrix: Float[Tensor, "3 3"], box: Float[Tensor, "4"]) -> Int[Tensor, "K"]:
    """Numbers of the camera-frame points whose pixel lies strictly inside ``box`` (x0 y0 x1 y1).

    As in the published code, points behind the camera count where their mirrored pixel does.
    """
    homogeneous = points @ matrix.mT
    pixel = homogeneous[:, :2] / homogeneous[:, 2:]
    return ((pixel > box[:2]) & (pixel < box[2:])).all(-1).nonzero()[:, 0]


@dataclass(frozen=True)
class Chosen:
    """Of one image, in the order of the lattice."""

    index: Int[Tensor, "K"]
    """Numbers of the lattice points."""
    distance: Float[Tensor, "K"]
    features: Float[Tensor, "K C"]
    asked: Int[Tensor, "M"]
    """Numbers of all lattice points whose distance was asked."""
    distances: Float[Tensor, "M"]


def choose_points(
    asked: Asked, nodes: Float[Tensor, "N 3"], center: Float[Tensor, "3"], scale: float,
    matrix: Float[Tensor, "3 3"], box: Float[Tensor, "4"], count: int, chunk: int = 8192, search: str = "dense",
) -> Chosen:  # fmt: skip
    """The ``count`` lattice points in sight of ``box`` that lie nearest to the zero level.

    The published code fails where fewer points are in the box. Here the box grows by a quarter until there are enough.

    Args:
        nodes: :func:`official_lattice`.
        center: Of the lattice, camera frame, metres.
        scale: Lattice units in a metre.
        search: One of :data:`SEARCHES`; ``coarse_to_fine`` asks less (:func:`nearest_points`).

    Raises:
        InputError: not even the whole neighbourhood of the box shows enough of the lattice.
        ValueError: another ``search``.
    """
    if search not in SEARCHES:
        raise ValueError(f"search is {search!r}; known: {', '.join(SEARCHES)}")
    places = nodes / scale + center
    candidates = inside_box(places, matrix, box)
    grown = box
    for _ in range(12):
        if len(candidates) >= count:
            break
        middle, half = (grown[:2] + grown[2:]) / 2, (grown[2:] - grown[:2]).abs().clamp(min=8) * 0.625
        grown = torch.cat([middle - half, middle + half])
        candidates = inside_box(places, matrix, grown)
    if len(candidates) < count:
        raise InputError(
            f"box {_numbers(box)}: shows {len(candidates)} of the points about {_numbers(center)} m, {count} are "
            "needed; give the boxes of hand and object in pixels of the crop, and the crop's intrinsics"
        )
    if grown is not box:
        log.warning("box %s shows too few points of the field; %s is used", _numbers(box), _numbers(grown))

    def ask(which: Tensor) -> Tensor:
        return torch.cat([asked(nodes[part])[0] for part in candidates[which].split(chunk)])

    if search == "dense":
        found = torch.arange(len(candidates), device=candidates.device)
        distances = ask(found)
    else:
        found, distances = nearest_points(ask, nodes[candidates], count, float(nodes[1, 2] - nodes[0, 2]))
    order = distances.abs().topk(count, largest=False).indices.sort().values
    kept = candidates[found[order]]
    features = torch.cat([asked(nodes[part])[1] for part in kept.split(chunk)])
    return Chosen(kept, distances[order], features, candidates[found], distances)


def nearest_points(
    ask: Callable[[Int[Tensor, "K"]], Float[Tensor, "K"]], places: Float[Tensor, "N 3"], count: int, spacing: float,
    steepness: float = 1.25,
) -> tuple[Int[Tensor, "M"], Float[Tensor, "M"]]:  # fmt: skip
    """Asks a field at enough of N lattice points to know the ``count`` with the smallest magnitude. Branch and bound.

    The lattice is cut into cubes of three points a side and the middle point of each is asked. Where the field rises by
    at most L a unit, a point's magnitude is at least its cube's middle's less L times the distance to it. Points are
    asked in the order of this bound, until the bound of all others is above the magnitude of ``count`` asked ones:
    these are then the nearest, all of them. A cube's L is ``steepness`` times the rise seen between its middle and its
    neighbours' or any point asked in it, and not less than ``steepness`` (a distance has 1).

    Args:
        ask: Numbers of points to the field there.
        spacing: Of the lattice.

    Returns:
        (numbers, rising, and values of the points that were asked)
    """
    cubes = _cubes(places, 3 * spacing, spacing)
    values, known = torch.full_like(places[:, 0], torch.inf), torch.zeros_like(places[:, 0], dtype=torch.bool)
    middle = values[cubes.middle] = ask(cubes.middle)
    known[cubes.middle] = True
    steepest = steepness * _rise(cubes, middle, places).clamp(min=1)
    away = (places - places[cubes.middle][cubes.of]).norm(dim=-1)
    while True:
        magnitude = values[known].abs()
        limit = magnitude.kthvalue(count).values if len(magnitude) >= count else magnitude.new_tensor(torch.inf)
        bound = middle.abs()[cubes.of] - steepest[cubes.of] * away
        wanted = (~known & (bound <= limit)).nonzero()[:, 0]
        if not len(wanted):
            return known.nonzero()[:, 0], values[known]
        wanted = wanted[bound[wanted].argsort()[: 2 * count]]
        values[wanted], known[wanted] = ask(wanted), True
        seen = (values[wanted] - middle[cubes.of[wanted]]).abs() / away[wanted]
        steepest = steepest.scatter_reduce(0, cubes.of[wanted], steepness * seen, "amax")


@dataclass(frozen=True)
class _Cubes:
    """Points sorted into cubes."""

    middle: Int[Tensor, "C"]
    """Number of each cube's point nearest to its middle."""
    of: Int[Tensor, "N"]
    """Cube of each point."""
    place: Int[Tensor, "C 3"]
    """Of each cube among the cubes."""


def _cubes(places: Float[Tensor, "N 3"], side: float, spacing: float) -> _Cubes:
    low = places.amin(0) - spacing / 2
    cell = ((places - low) / side).long()
    shape = (cell.amax(0) + 1).tolist()
    numbers, of = ((cell[:, 0] * shape[1] + cell[:, 1]) * shape[2] + cell[:, 2]).unique(return_inverse=True)
    place = torch.stack(torch.unravel_index(numbers, shape), -1)
    away = (places - low - (cell + 0.5) * side).norm(dim=-1)
    least = away.new_full((len(place),), torch.inf).scatter_reduce(0, of, away, "amin")
    middling = (away == least[of]).nonzero()[:, 0]
    first = torch.full_like(place[:, 0], len(places)).scatter_reduce(0, of[middling], middling, "amin")
    return _Cubes(first, of, place)


def _rise(cubes: _Cubes, middle: Float[Tensor, "C"], places: Float[Tensor, "N 3"]) -> Float[Tensor, "C"]:
    """The steepest rise from each cube's middle to its neighbours'."""
    shape = tuple((cubes.place.amax(0) + 1).tolist())
    known = torch.full((*shape, 4), torch.nan, device=places.device)
    known[tuple(cubes.place.T)] = torch.cat([middle[:, None], places[cubes.middle]], 1)
    square = torch.zeros(shape, device=places.device)
    for axis in range(3):
        step = known.diff(dim=axis)
        rise = (step[..., 0].abs() / step[..., 1:].norm(dim=-1)).nan_to_num(0)
        end = rise.new_zeros([1 if k == axis else size for k, size in enumerate(rise.shape)])
        square += torch.maximum(torch.cat([rise, end], axis), torch.cat([end, rise], axis)).square()
    return square.sqrt()[tuple(cubes.place.T)]


def _numbers(values: Tensor) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values.tolist()) + "]"
