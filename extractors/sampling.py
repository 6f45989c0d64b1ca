"""Choosing points by a field, and turning a field into a grid, without asking it everywhere.

HOISDF asks both fields at 64^3 lattice points and keeps the nearest to the zero level. Here a coarse lattice is asked
first and only cells that the surface can reach are refined.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.distance import DistanceGrid
from horefine.extractors.hoisdf import Points

__all__ = ["field_grid", "informed_points", "lattice", "nearest_to_surface"]

Field = Callable[[Float[Tensor, "B N 3"]], Points]


def lattice(center: Float[Tensor, "B 3"], half: float, count: int) -> Float[Tensor, "B N 3"]:
    """``count``^3 cell centres of the cube ``center`` +- ``half``, x slowest."""
    steps = (torch.arange(count, device=center.device, dtype=center.dtype) * 2 + 1) / count - 1
    nodes = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1).flatten(0, 2)
    return center[:, None] + half * nodes


def nearest_to_surface(points: Points, count: int) -> Points:
    """The ``count`` points with the smallest distance, nearest first."""
    chosen = points.distance.detach().abs().topk(count, largest=False).indices

    def pick(values: Tensor) -> Tensor:
        return values.gather(1, chosen[..., None].expand(-1, -1, values.shape[-1]))

    return Points(pick(points.position), points.distance.gather(1, chosen), pick(points.features))


def informed_points(
    field: Field, center: Float[Tensor, "B 3"], half: float, count: int, *, coarse: int = 14, parents: int = 48
) -> Points:
    """``count`` points near the zero level of ``field`` within ``center`` +- ``half``.

    A lattice of ``coarse``^3 points is asked; the ``parents`` nearest to the surface are replaced by eight points each,
    and of these the nearest ``count`` are kept.
    """
    first = nearest_to_surface(field(lattice(center, half, coarse)), parents)
    quarter = half / coarse / 2
    corners = torch.tensor(list(itertools.product((-quarter, quarter), repeat=3))).to(center)
    return nearest_to_surface(field((first.position[:, :, None] + corners).flatten(1, 2)), count)


def field_grid(
    distance: Callable[[Float[Tensor, "B N 3"]], Float[Tensor, "B N"]],
    low: Float[Tensor, "B 3"],
    high: Float[Tensor, "B 3"],
    resolution: int = 33,
) -> DistanceGrid:
    """A distance (metres) on ``resolution``^3 nodes of the cubes about the boxes ``low``..``high``.

    Every second node is asked first; the nodes between only where the surface may be within two coarse cells. The rest
    is interpolated. ``resolution`` must be odd.
    """
    middle, half = (low + high) / 2, ((high - low) / 2).amax(-1)
    spacing = 2 * half / (resolution - 1)
    origin = middle - half[:, None]
    steps = torch.arange(resolution, device=low.device, dtype=low.dtype)
    count = (resolution + 1) // 2
    coarse = _ask(distance, _nodes(origin, spacing, steps[::2])).view(-1, 1, count, count, count)
    size = (resolution,) * 3
    values = torch.nn.functional.interpolate(coarse, size, mode="trilinear", align_corners=True).flatten(1)
    near = (coarse.abs() < 4 * spacing[:, None, None, None, None]).to(values.dtype)
    near = torch.nn.functional.interpolate(near, size, mode="trilinear", align_corners=True).flatten(1) > 0
    # images want different numbers of nodes: the shorter lists repeat their first, so that none sees its neighbours
    wanted = near.sum(1)
    chosen = near.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : int(wanted.max())]
    real = torch.arange(chosen.shape[1], device=low.device) < wanted[:, None]
    chosen = torch.where(real, chosen, chosen[:, :1])
    nodes = _nodes(origin, spacing, steps).gather(1, chosen[..., None].expand(-1, -1, 3))
    asked = torch.where(wanted[:, None] > 0, _ask(distance, nodes), values.gather(1, chosen))
    return DistanceGrid(values.scatter(1, chosen, asked).view(-1, *size), origin, spacing)


def _ask(distance: Callable[[Tensor], Tensor], points: Tensor, chunk: int = 8192) -> Tensor:
    if not points.shape[1]:
        return points.new_zeros(points.shape[:2])
    return torch.cat([distance(part) for part in points.split(chunk, 1)], 1)


def _nodes(origin: Tensor, spacing: Tensor, steps: Tensor) -> Tensor:
    places = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1).flatten(0, 2)
    return origin[:, None] + places * spacing[:, None, None]
