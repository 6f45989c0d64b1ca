"""Which level of a learned field is the surface: the one that covers the pixels that the network itself says it covers.

A field learned as a mean or median of what may be there is blurred: where a wall is thinner than what the network is
sure of, it never says "inside", and a mug's zero level is a few crumbs. The network's mask does not suffer from that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.distance import DistanceGrid
from horefine.extractors.sampling import field_grid

__all__ = ["LEVELS", "Outline", "best_level"]

LEVELS = (0.0, 0.002, 0.004, 0.006, 0.009, 0.012)
"""Metres outside the zero level."""
GAIN = 0.02
"""Overlap that another level than zero must win, each step further out as much again."""
NODES = 41
"""Of the grid along a side."""
DEPTHS = 96
"""At which each ray asks the grid."""


@dataclass(frozen=True)
class Outline:
    """Where a network sees object and hand in a crop."""

    object: Float[Tensor, "M M"]
    """Probability that a pixel shows it."""
    hand: Float[Tensor, "M M"]
    """Where this is likelier than not, the object may be behind."""
    matrix: Float[Tensor, "3 3"]
    """Intrinsics of these maps; camera frame."""


def best_level(
    ask: Callable[[Float[Tensor, "N 3"]], Float[Tensor, "N"]], low: Float[Tensor, "3"], high: Float[Tensor, "3"],
    outline: Outline,
) -> float:  # fmt: skip
    """The level of :data:`LEVELS`, metres, whose inside covers the object's pixels best (intersection over union).

    ``ask``: the field, camera frame, metres, between ``low`` and ``high``.
    """
    middle = LEVELS[len(LEVELS) // 2]
    grid = field_grid(lambda x: (ask(x[0]) - middle)[None], low[None], high[None], NODES)
    nearest = _nearest(grid, low, high, outline) + middle
    wanted, free = outline.object > 0.5, outline.hand < 0.5
    if not bool((wanted & free).any()):
        return 0.0
    scores = []
    for number, level in enumerate(LEVELS):
        covered = nearest < level
        both, either = covered & wanted & free, (covered | wanted) & free
        scores.append(float(both.sum()) / max(float(either.sum()), 1.0) - GAIN * number)
    return LEVELS[max(range(len(LEVELS)), key=scores.__getitem__)]


def _nearest(
    grid: DistanceGrid, low: Float[Tensor, "3"], high: Float[Tensor, "3"], outline: Outline
) -> Float[Tensor, "M M"]:
    """The smallest value of the field along each pixel's ray through the box."""
    height, width = outline.object.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], -1).to(low)
    rays = pixels @ torch.linalg.inv(outline.matrix).mT
    depths = torch.linspace(max(float(low[2]), 0.01), float(high[2]), DEPTHS, device=low.device)
    points = (rays[:, :, None] * depths[:, None]).flatten(0, 2)
    return grid.sample(points[None])[0].view(height, width, DEPTHS).amin(2)
