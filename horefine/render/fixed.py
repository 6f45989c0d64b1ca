"""Coverage with shapes that do not hang on the pose: nothing is asked of the device while a loop runs on it.

:func:`horefine.render.twin.coverage` lists the outline's edges and cuts them at the pixel grid; how many pieces that
gives is known only on the device, and each such question makes the host wait for a GPU (and forbids capturing the
iteration as a graph). Here the pieces stand in a list of fixed length, measured once for a topology and kept with room
to spare; should a pose ever need more, its whole batch is NaN: never a wrong silhouette without a word.
"""

from __future__ import annotations

import weakref

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from horefine.render.topology import Unpacked

__all__ = ["FULL", "area_right_of", "coverage_fixed", "outline", "room"]

FULL = 1e-5
"""As in the kernels, which say what it is."""
ROOM, LEAST = 4, 16
"""Pieces kept over those measured; and at least this many for each row and column of each picture."""
_rooms: weakref.WeakKeyDictionary[Unpacked, dict[tuple[int, int], int]] = weakref.WeakKeyDictionary()


def coverage_fixed(
    pixels: Float[Tensor, "V 2"], side: Int[Tensor, " F"], parts: Unpacked, size: tuple[int, int]
) -> Float[Tensor, "N H W"]:
    """:func:`horefine.render.twin.coverage` in fixed shapes; only its first call for a topology asks the device.

    The pieces of an edge begin at its start and wherever it crosses a row or a column. All pieces of all edges are put
    in order by one sort, by edge and by place along it.
    """
    start, end, front, loop = outline(side, parts)
    p0, step = pixels[start], pixels[end] - pixels[start]
    low, count = _crossings(p0.detach(), (p0 + step).detach(), size)
    wanted = (1 + count.sum(1)) * (front | loop)
    last = wanted.cumsum(0)
    length = room(last[-1:], parts, size)
    number = torch.arange(length, device=pixels.device)
    edge = torch.searchsorted(last, number, right=True).clamp(max=len(last) - 1)
    real = number < last[-1]
    along = _places(number - (last - wanted)[edge], p0[edge], step[edge], low[edge], count[edge])
    order = torch.where(real, edge.double() * 2 + along.detach(), torch.inf).argsort()  # pieces stay with their edge
    along = along[order]
    same = torch.cat([edge[1:] == edge[:-1], edge.new_zeros(1, dtype=torch.bool)]) & _ahead(real)
    until = torch.where(same, torch.cat([along[1:], along[:1]]), 1.0)
    middle = 0.5 * (along + until)
    height, width = size
    column = (p0[edge, 0] + middle * step[edge, 0]).clamp(0, width)
    row = (p0[edge, 1] + middle * step[edge, 1]).detach().floor()
    real = real & (row >= 0) & (row < height)
    area = torch.where(real, (until - along) * step[edge, 1], 0.0)
    row = torch.where(real, row, 0.0).long()
    item = parts.edge_item[edge]
    covered = area_right_of(torch.where(front[edge], area, 0.0), row, column, item, len(parts.closed), size)
    hole = area_right_of(torch.where(loop[edge], area, 0.0), row, column, item, len(parts.closed), size)
    total = torch.where(hole < -FULL, covered - hole, covered)
    total = torch.where(total >= 1 - FULL, 1.0, torch.where(total <= FULL, 0.0, total))
    return torch.where(last[-1] <= length, total, torch.nan)


def room(needed: Int[Tensor, " one"], parts: Unpacked, size: tuple[int, int]) -> int:
    """How many pieces a call has room for; measured on the first call for this topology and picture size."""
    known = _rooms.setdefault(parts, {})
    if size not in known:
        known[size] = ROOM * int(needed.item()) + LEAST * sum(size) * len(parts.closed)
    return known[size]


def outline(
    side: Int[Tensor, " F"], parts: Unpacked
) -> tuple[Int[Tensor, " E"], Int[Tensor, " E"], Bool[Tensor, " E"], Bool[Tensor, " E"]]:
    """Of every edge: start, end, whether it bounds front faces, whether it bounds the surface."""
    there = side[parts.edges[:, 2]]
    boundary = parts.edges[:, 3] < 0
    back = torch.where(boundary, 0, side[parts.edges[:, 3].clamp(min=0)])
    turned = ~boundary & (back > 0)
    start = torch.where(turned, parts.edges[:, 1], parts.edges[:, 0])
    end = torch.where(turned, parts.edges[:, 0], parts.edges[:, 1])
    return start, end, (there > 0) != (back > 0), boundary & (there != 0)


def _crossings(
    start: Float[Tensor, "E 2"], end: Float[Tensor, "E 2"], size: tuple[int, int]
) -> tuple[Float[Tensor, "E 2"], Int[Tensor, "E 2"]]:
    """The first grid line that each edge crosses, and how many, along columns and rows; within the picture."""
    cells = torch.stack([start.new_full((), size[1]), start.new_full((), size[0])])  # made there, not copied
    low = torch.minimum(torch.minimum(start, end).clamp(min=0), cells).ceil()
    high = torch.minimum(torch.maximum(start, end).clamp(min=0), cells).floor()
    return low, (high - low + 1).clamp(min=0).long()


def _places(
    number: Int[Tensor, " M"],
    start: Float[Tensor, "M 2"],
    step: Float[Tensor, "M 2"],
    low: Float[Tensor, "M 2"],
    count: Int[Tensor, "M 2"],
) -> Float[Tensor, " M"]:
    """Where along its edge a piece begins, 0 to 1: number 0 at the start, then at columns, then at rows."""
    upright = number > count[:, 0]
    within = torch.where(upright, number - count[:, 0], number) - 1
    axis = upright.long()[:, None]
    line = low.gather(1, axis)[:, 0] + within
    along, begin = step.gather(1, axis)[:, 0], start.gather(1, axis)[:, 0]
    place = ((line - begin) / torch.where(along == 0, 1.0, along)).clamp(0, 1)
    return torch.where(number == 0, 0.0, place)


def _ahead(real: Bool[Tensor, " M"]) -> Bool[Tensor, " M"]:
    """Whether the next piece is real."""
    return torch.cat([real[1:], real[:1] & False])


def area_right_of(
    area: Float[Tensor, " M"],
    row: Int[Tensor, " M"],
    column: Float[Tensor, " M"],
    item: Int[Tensor, " M"],
    count: int,
    size: tuple[int, int],
) -> Float[Tensor, "N H W"]:
    """Signed area right of the pieces in each pixel: in a piece's own column by its position, then all of it."""
    height, width = size
    own = column.detach().floor()
    place = (item * height + row) * (width + 2) + own.long()
    grid = area.new_zeros(count * height * (width + 2))
    grid = grid.index_add(0, place, area * (1 - (column - own))).index_add(0, place + 1, area * (column - own))
    return grid.view(count, height, width + 2).cumsum(2)[..., :width]
