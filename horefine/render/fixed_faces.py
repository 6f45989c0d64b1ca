"""The face that each pixel sees, in shapes that do not hang on the pose: a rasteriser for a GPU without nvdiffrast.

:func:`horefine.render.twin.visible_faces` lists every pixel of every face's box; how many that is, only the device
knows. Here the list has a fixed length, measured once for a topology and kept with room to spare, as in
:mod:`horefine.render.fixed`. Should a pose ever need more, nothing is seen in the whole batch: such a pose costs as
much as one can, so no step goes there.
"""

from __future__ import annotations

import weakref

import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.render.topology import Unpacked

__all__ = ["visible_faces_fixed"]

SLACK = 1e-5
"""As in the kernels."""
ROOM = 4
"""Pixels of boxes that are kept over those measured, besides a whole picture for each item."""
_rooms: weakref.WeakKeyDictionary[Unpacked, dict[tuple[int, int], int]] = weakref.WeakKeyDictionary()


def visible_faces_fixed(
    pixels: Float[Tensor, "V 2"],
    inverse: Float[Tensor, " V"],
    side: Int[Tensor, " F"],
    parts: Unpacked,
    size: tuple[int, int],
) -> Int[Tensor, "N H W"]:
    """:func:`horefine.render.twin.visible_faces`; only its first call for a topology asks the device."""
    (height, width), corners = size, pixels[parts.faces]
    low, extent = _boxes(corners, side, parts, size)
    counts = extent[:, 0] * extent[:, 1]
    last = counts.cumsum(0)
    number = torch.arange(room(last[-1:], parts, size), device=pixels.device)
    face = torch.searchsorted(last, number, right=True).clamp(max=len(last) - 1)
    within = number - (last - counts)[face]
    wide = extent[face, 0].clamp(min=1)
    column, row = low[face, 0] + within % wide, low[face, 1] + within // wide
    weights = _weights(corners[face], torch.stack([column, row], 1).to(pixels.dtype) + 0.5)
    inside = (number < last[-1]) & (weights >= -SLACK).all(1)
    nearness = torch.where(inside, (weights * inverse[parts.faces[face]]).sum(1), 0.0)
    nowhere, none = len(parts.closed) * height * width, len(parts.faces)
    place = torch.where(inside, (parts.face_item[face] * height + row) * width + column, nowhere)
    best = nearness.new_zeros(nowhere + 1).scatter_reduce(0, place, nearness, "amax")
    own = torch.where(inside & (nearness >= best[place]), face, none)  # the first face wins a tie
    ids = torch.full((nowhere + 1,), none, device=face.device).scatter_reduce(0, place, own, "amin")[:-1]
    return torch.where((ids == none) | (last[-1] > len(number)), -1, ids).view(-1, height, width)


def _boxes(
    corners: Float[Tensor, "F 3 2"], side: Int[Tensor, " F"], parts: Unpacked, size: tuple[int, int]
) -> tuple[Int[Tensor, "F 2"], Int[Tensor, "F 2"]]:
    """First column and row of each face's box, and how many; none of a face that is not drawn."""
    drawn = (side != 0) & ~(parts.closed[parts.face_item] & (side < 0))
    low = (corners.amin(1) - 0.5).ceil().clamp(min=0)
    high = (corners.amax(1) - 0.5).floor()
    high = torch.stack([high[:, 0].clamp(max=size[1] - 1), high[:, 1].clamp(max=size[0] - 1)], 1)
    return low.long(), torch.where(drawn[:, None], high - low + 1, 0.0).clamp(min=0).long()


def _weights(corners: Float[Tensor, "M 3 2"], point: Float[Tensor, "M 2"]) -> Float[Tensor, "M 3"]:
    """Barycentric, in the picture; not a number for a face without area."""
    a, b, c = (corners - point[:, None]).unbind(1)
    parts = [one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0] for one, two in ((b, c), (c, a), (a, b))]
    u, w = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return torch.stack(parts, 1) / (u[:, 0] * w[:, 1] - u[:, 1] * w[:, 0])[:, None]


def room(needed: Int[Tensor, " one"], parts: Unpacked, size: tuple[int, int]) -> int:
    """How many pixels of boxes a call has room for; measured on the first call for this topology and picture size."""
    known = _rooms.setdefault(parts, {})
    if size not in known:
        known[size] = ROOM * int(needed.item()) + size[0] * size[1] * len(parts.closed)
    return known[size]
