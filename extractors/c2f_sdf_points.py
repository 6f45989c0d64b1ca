"""What points and pixels of a depth map tell a query (C2F-SDF, Chen et al. 2024, section 3.2), and where they are.

Points are in metres of the network frame (``root.Frame``). For searching neighbours they are counted from
``Place.center`` in units of ``Place.half``, which the published code makes unequal in the three axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.extractors.root import Frame

__all__ = ["Cloud", "Place", "cloud_of", "gather_rows", "image_neighbours", "point_neighbours", "published_pixels"]

REACH = 0.25
"""Metres in front of and behind the reference depth that the depth map shows."""


@dataclass(frozen=True)
class Place:
    """Where B crops look and what is counted from where; metres of the network frame."""

    frame: Frame
    wrist: Float[Tensor, "B 3"]
    """Fields and their queries are counted from here."""
    center: Float[Tensor, "B 3"]
    """Points are counted from here when neighbours are searched."""
    half: Float[Tensor, "B 3"]
    """The unit of that search along each axis."""

    def scaled(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
        """Points as the search sees them."""
        return (points - self.center[:, None]) / self.half[:, None]


@dataclass(frozen=True)
class Cloud:
    """B depth maps as the network takes them."""

    depth: Float[Tensor, "B 1 D D"]
    """Depth minus the reference in units of :data:`REACH`, cut at -1; 1 where nothing near was seen."""
    points: Float[Tensor, "B N 3"]
    """Some of the seen points, network frame, metres."""
    pixels: Float[Tensor, "B M 3"]
    """Where each cell of the feature map lies, row by row; those without depth at the far end of the reach."""
    reference: Float[Tensor, "B"]
    """The depth in the middle, network frame, metres."""


def cloud_of(
    depth: Float[Tensor, "B D D"], frame: Frame, reference: Float[Tensor, "B"], count: int, side: int,
    generator: torch.Generator | None = None,
) -> Cloud:  # fmt: skip
    """The network's input from a crop's depth map, each pixel in its own place.

    Args:
        depth: Metres along the camera's z; 0 (or not finite) where nothing was seen.
        reference: Depth about which things are, along the network frame's z; what is farther than :data:`REACH` behind
            it counts as not seen.
        count: Points kept. Drawn from ``generator``; None: by an order of pixels that is always the same, so that
            results repeat and do not depend on the batch. Fewer seen points repeat; none give the reference point.
        side: Of the feature map, cells.
    """
    known = (torch.isfinite(depth) & (depth > 0)).flatten(1)
    rays = _rays(depth, frame, depth.shape[-1])
    along = (frame.rotation.mT @ rays)[:, 2]  # camera z of a step along each ray
    z = torch.where(known, depth.flatten(1), 1.0) / along
    offset = (z - reference[:, None]) / REACH
    known &= offset < 1
    shown = torch.where(known, offset.clamp(min=-1), 1.0)
    places = (rays * torch.where(known, z, reference[:, None] + REACH)[:, None]).mT
    size = (depth.shape[-1],) * 2
    step = depth.shape[-1] // side
    pixels = places.unflatten(1, size)[:, step // 2 :: step, step // 2 :: step].flatten(1, 2)
    points = gather_rows(places, _drawn(known, count, generator))
    middle = reference[:, None] * reference.new_tensor([0.0, 0.0, 1.0])
    points = torch.where(known.any(1)[:, None, None], points, middle[:, None])
    return Cloud(shown.unflatten(1, size)[:, None], points, pixels, reference)


def _rays(like: Tensor, frame: Frame, side: int) -> Float[Tensor, "B 3 M"]:
    """Through the middles of a crop's cells, network frame, with z = 1."""
    steps = (2 * torch.arange(side, device=like.device, dtype=like.dtype) + 1) / side - 1
    ys, xs = torch.meshgrid(steps, steps, indexing="ij")
    grid = torch.stack([xs, ys], -1).flatten(0, 1)
    return frame.rays(grid.expand(len(frame.projection), -1, -1)).mT


def _drawn(known: Tensor, count: int, generator: torch.Generator | None) -> Int[Tensor, "B N"]:
    """Numbers of ``count`` known pixels of each image, every one once before any comes again."""
    source = generator if generator is not None else torch.Generator().manual_seed(0)
    order = torch.rand(len(known) if generator is not None else 1, known.shape[1], generator=source).to(known.device)
    kept = min(count, known.shape[1])
    first = torch.where(known, order.expand(len(known), -1), 2.0).topk(kept, largest=False).indices
    there = known.sum(1, keepdim=True).clamp(min=1, max=kept)
    return first.gather(1, torch.arange(count, device=known.device) % there)


def published_pixels(
    depth: Float[Tensor, "B 1 D D"], place: Place, side: int, which: str = "first"
) -> Float[Tensor, "B M 3"]:
    """``Cloud.pixels`` of the published network: a cell's middle, with the depth of one of its pixels.

    ``which``: the ``first`` pixel, as published, or its ``middle``. Background is at the far end of the reach.
    """
    step = depth.shape[-1] // side
    begin = step // 2 if which == "middle" else 0
    z = depth[:, 0, begin::step, begin::step] * place.half[:, 2, None, None] + place.center[:, 2, None, None]
    return (_rays(depth, place.frame, side) * z.flatten(1)[:, None]).mT


def gather_rows(values: Float[Tensor, "B M C"], index: Int[Tensor, "B *n"]) -> Float[Tensor, "B *n C"]:
    """Rows of each image's table."""
    flat = index.flatten(1)
    found = values.gather(1, flat[..., None].expand(-1, -1, values.shape[-1]))
    return found.unflatten(1, index.shape[1:])


def _squared(a: Float[Tensor, "B N D"], b: Float[Tensor, "B M D"]) -> Float[Tensor, "B N M"]:
    """By differences: the expanded product loses the digits that tell neighbours apart."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()


def image_neighbours(
    points: Float[Tensor, "B N 3"], pixels: Float[Tensor, "B M 3"], count: int = 4
) -> tuple[Int[Tensor, "B N K"], Float[Tensor, "B N K"]]:
    """(the cells of the feature map nearest to each point in space, their weights by inverse squared distance)."""
    squared, index = _squared(points, pixels).topk(count, largest=False)
    weight = 1 / (squared + 1e-8)
    return index, weight / weight.sum(-1, keepdim=True)


def point_neighbours(
    queries: Float[Tensor, "B N 3"], points: Float[Tensor, "B M 3"], count: int = 16, axes: int = 2
) -> tuple[Int[Tensor, "B N K"], Float[Tensor, "B N K"]]:
    """(the points nearest to each query by its first ``axes`` axes, their squared distances by all three).

    ``axes``: 2 as published (what lies behind a surface is told by the surface in front of it), or 3.
    """
    index = _squared(queries[..., :axes], points[..., :axes]).topk(count, largest=False).indices
    return index, (gather_rows(points, index) - queries[:, :, None]).square().sum(-1)
