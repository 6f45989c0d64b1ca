"""Choosing points by a field, and turning a field into a grid, without asking it everywhere.

HOISDF asks both fields at 64^3 lattice points and keeps the nearest to the zero level. Here a coarse lattice is asked
first and only cells that the surface can reach are refined (:func:`informed_points`; the whole surface, with an
argument why nothing is missed: :func:`field_grid`). The paper's other ways to choose points, its table 7, are here too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from horefine.distance import DistanceGrid
from horefine.extractors.hoisdf import Points

__all__ = ["field_grid", "informed_points", "lattice", "nearest_to_surface", "sampled_points"]

Field = Callable[[Float[Tensor, "B N 3"]], Points]
CORNERS = tuple(itertools.product((0, 1), repeat=3))
"""Of a cell, and its eight octants in the same order."""
REACH = tuple(
    tuple(math.sqrt(0.75 * (1 + sum(a != b for a, b in zip(octant, corner, strict=True)))) for corner in CORNERS)
    for octant in CORNERS
)
"""How far the points of an octant can be from each corner of its cell, in sides of the cell."""


def lattice(center: Float[Tensor, "B 3"], half: float, count: int) -> Float[Tensor, "B N 3"]:
    """``count``^3 cell centres of the cube ``center`` +- ``half``, x slowest."""
    steps = (torch.arange(count, device=center.device, dtype=center.dtype) * 2 + 1) / count - 1
    nodes = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1).flatten(0, 2)
    return center[:, None] + half * nodes


def nearest_to_surface(points: Points, count: int, signed: bool = False) -> Points:
    """The ``count`` points with the smallest distance, nearest first. ``signed``: deepest inside first."""
    distance = points.distance.detach()
    chosen = (distance if signed else distance.abs()).topk(count, largest=False).indices

    def pick(values: Tensor) -> Tensor:
        return values.gather(1, chosen[..., None].expand(-1, -1, values.shape[-1]))

    return Points(pick(points.position), points.distance.gather(1, chosen), pick(points.features))


def informed_points(
    field: Field, center: Float[Tensor, "B 3"], half: float, count: int, *,
    coarse: int = 14, parents: int = 48, signed: bool = False,
) -> Points:  # fmt: skip
    """``count`` points near the zero level of ``field`` within ``center`` +- ``half`` (HOISDF, section 3.2.1).

    A lattice of ``coarse``^3 points is asked; the ``parents`` nearest to the surface are replaced by eight points each,
    and of these the nearest ``count`` are kept. ``signed``: the deepest inside instead of the nearest.
    """
    first = nearest_to_surface(field(lattice(center, half, coarse)), parents, signed)
    quarter = half / coarse / 2
    corners = torch.tensor(list(itertools.product((-quarter, quarter), repeat=3))).to(center)
    return nearest_to_surface(field((first.position[:, :, None] + corners).flatten(1, 2)), count, signed)


def sampled_points(
    kind: str, field: Field, center: Float[Tensor, "B 3"], scale: float, count: int, *,
    coarse: int = 14, generator: torch.Generator | None = None,
) -> Points:  # fmt: skip
    """``count`` points of the cube about ``center``, one of the ways of HOISDF's table 7 (and its supplement B.3).

    Args:
        kind: One of ``hoisdf.SAMPLINGS``: ``absolute``, :func:`informed_points`; ``signed``, the deepest inside;
            ``gradient``, as ``absolute``, then each point moved against the field's gradient times its distance;
            ``random``, anywhere.
        field: About ``center``, in ``scale`` units a metre. The cube's half side is one unit.
        generator: For ``random``, in training. None: always the same places, so that results repeat.
    """
    half = 1 / scale
    if kind == "random":
        drawn = generator if generator is not None else torch.Generator().manual_seed(0)
        # without a generator every image gets the same places: none sees its neighbours in the batch
        places = torch.rand(len(center) if generator is not None else 1, count, 3, generator=drawn)
        return field(center[:, None] + half * (2 * places - 1).to(center))
    chosen = informed_points(field, center, half, count, coarse=coarse, signed=kind == "signed")
    return _moved(field, chosen, scale) if kind == "gradient" else chosen


def _moved(field: Field, points: Points, scale: float) -> Points:
    """In the field's unit, p - d grad d: on the surface where the field is a distance."""
    with torch.enable_grad():
        position = points.position.detach().requires_grad_()
        distance = field(position).distance
        (gradient,) = torch.autograd.grad(distance.sum(), position)
    return field(points.position - distance.detach()[..., None] * gradient / scale**2)


def field_grid(
    distance: Callable[[Float[Tensor, "B N 3"]], Float[Tensor, "B N"]],
    low: Float[Tensor, "B 3"],
    high: Float[Tensor, "B 3"],
    resolution: int = 65,
    *,
    steepness: float = 1.25,
) -> DistanceGrid:
    """A distance (metres) on ``resolution``^3 nodes of the cubes about the boxes ``low``..``high``, coarse to fine.

    Cells are halved where the surface may be. A field that rises by at most L a metre cannot be zero at a point of a
    cell whose distance to some corner is less than the field there divided by L; an octant of a cell all of whose
    points are ruled out like this holds no surface, so neither its nodes nor those of its parts need asking: they are
    interpolated, with the corners' sign. All nodes of the other cells are asked. So the zero level is that of the grid
    with every node asked, cell by cell, as long as L holds. A distance has L = 1. A learned field is steeper in places
    and flatter in most: L is ``steepness`` times the rise seen between the corners of the cell, and not less than
    ``steepness``. Where corners differ in sign, the whole cell is refined whatever L is. What can be missed is a
    thing within one cell, steeper than that, of which no corner of the cell shows anything.

    Args:
        resolution: Nodes along a side. Cheap where ``resolution - 1`` is a multiple of a power of two (33, 65, 129).
        steepness: How much steeper the field may be between the corners of a cell than it shows there.

    Raises:
        ValueError: ``resolution`` below 2.
    """
    if resolution < 2:
        raise ValueError(f"resolution: {resolution} nodes do not span a grid, give at least 2 (65 is usual)")
    middle, half = (low + high) / 2, ((high - low) / 2).amax(-1)
    spacing = 2 * half / (resolution - 1)
    origin = middle - half[:, None]
    cells, stride = resolution - 1, 1
    while cells % 2 == 0 and cells > 8:
        cells, stride = cells // 2, stride * 2
    every = torch.arange((cells + 1) ** 3, device=low.device).expand(len(low), -1)
    values = _ask(distance, _place(every, cells + 1, origin, spacing * stride)).unflatten(1, (cells + 1,) * 3)
    active = torch.ones(len(low), *(cells,) * 3, dtype=torch.bool, device=low.device)
    while stride > 1:
        parents = active.repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
        active = parents & _within_reach(values, spacing * stride, steepness)
        stride //= 2
        values = _refined(distance, values, active, origin, spacing * stride)
    return DistanceGrid(values, origin, spacing)


def _within_reach(
    values: Float[Tensor, "B D D D"], side: Float[Tensor, "B"], steepness: float
) -> Bool[Tensor, "B E E E"]:
    """The octants of each cell (E = 2 (D - 1)) that may hold a zero; see :func:`field_grid`."""
    last = values.shape[-1] - 1
    corners = torch.stack([values[:, x : x + last, y : y + last, z : z + last] for x, y, z in CORNERS], 1)
    corners = corners / side[:, None, None, None, None]
    changes = (corners.amin(1) <= 0) & (corners.amax(1) >= 0)
    whole = corners.unflatten(1, (2, 2, 2))
    rises = [(whole.select(axis, 1) - whole.select(axis, 0)).abs().amax((1, 2)) for axis in (1, 2, 3)]
    steepest = steepness * torch.stack(rises).square().sum(0).sqrt().clamp(min=1)
    levels = corners.abs() / steepest[:, None]
    inside = [
        (levels <= levels.new_tensor(reach)[:, None, None, None]).all(1) | changes for reach in REACH
    ]  # one for each octant
    octants = torch.stack(inside, 1).unflatten(1, (2, 2, 2))
    return octants.permute(0, 4, 1, 5, 2, 6, 3).reshape(len(values), *(2 * last,) * 3)


def _refined(
    distance: Callable[[Tensor], Tensor], values: Float[Tensor, "B D D D"], active: Bool[Tensor, "B E E E"],
    origin: Tensor, spacing: Tensor,
) -> Float[Tensor, "B F F F"]:  # fmt: skip
    """Twice as fine (F = 2 D - 1): the corners of ``active`` cells asked, the other nodes interpolated."""
    last, size = active.shape[-1], active.shape[-1] + 1
    fine = torch.nn.functional.interpolate(values[:, None], (size,) * 3, mode="trilinear", align_corners=True)[:, 0]
    fine[:, ::2, ::2, ::2] = values
    wanted = torch.zeros_like(fine, dtype=torch.bool)
    for x, y, z in CORNERS:
        wanted[:, x : x + last, y : y + last, z : z + last] |= active
    wanted[:, ::2, ::2, ::2] = False  # asked before
    numbers = [nodes.nonzero()[:, 0] for nodes in wanted.flatten(1)]
    # images want different numbers of nodes: the shorter lists get node 0, whose value is known and kept
    chosen = torch.nn.utils.rnn.pad_sequence(numbers, batch_first=True)
    known = fine.flatten(1).gather(1, chosen)
    asked = _ask(distance, _place(chosen, size, origin, spacing))
    asked = torch.where(wanted.flatten(1).gather(1, chosen), asked, known)
    return fine.flatten(1).scatter(1, chosen, asked).view_as(fine)


def _ask(distance: Callable[[Tensor], Tensor], points: Tensor, chunk: int = 8192) -> Tensor:
    if not points.shape[1]:
        return points.new_zeros(points.shape[:2])
    return torch.cat([distance(part) for part in points.split(chunk, 1)], 1)


def _place(numbers: Tensor, size: int, origin: Tensor, spacing: Tensor) -> Float[Tensor, "B N 3"]:
    steps = torch.stack([numbers // size**2, numbers // size % size, numbers % size], -1)
    return origin[:, None] + steps * spacing[:, None, None]
