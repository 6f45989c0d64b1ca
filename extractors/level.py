"""Which level of a learned field is the surface: the one that covers the pixels that the network itself says it covers.

A field learned as a mean or median of what may be there is blurred: where a wall is thinner than what the network is
sure of, it never says "inside", and a mug's zero level is a few crumbs. The network's mask does not suffer from that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from horefine.extractors.sampling import field_grid

__all__ = ["LEVELS", "Outline", "best_level"]

LEVELS = (0.0, 0.002, 0.004, 0.006, 0.009, 0.012)
"""Metres outside the zero level."""
GAIN = 0.02
"""Overlap that another level than zero must win, each step further out as much again."""
NODES = 41


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
    steps = torch.arange(NODES, device=low.device)
    nodes = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1).flatten(0, 2)
    points = grid.origin[0] + nodes * grid.spacing[0]
    values = grid.values.flatten() + middle
    wanted, free = outline.object > 0.5, outline.hand < 0.5
    if not bool((wanted & free).any()):
        return 0.0
    scores = []
    for number, level in enumerate(LEVELS):
        covered = _covered(points[values < level], float(grid.spacing[0]), outline)
        both, either = covered & wanted & free, (covered | wanted) & free
        scores.append(float(both.sum()) / max(float(either.sum()), 1.0) - GAIN * number)
    return LEVELS[max(range(len(LEVELS)), key=scores.__getitem__)]


def _covered(points: Float[Tensor, "N 3"], spacing: float, outline: Outline) -> Bool[Tensor, "M M"]:
    """Pixels that cubes of side ``spacing`` about the points fall on."""
    covered = torch.zeros_like(outline.object, dtype=torch.bool)
    corners = torch.tensor([[x, y, 0.0] for x in (-0.5, 0.0, 0.5) for y in (-0.5, 0.0, 0.5)], device=points.device)
    places = (points[:, None] + 0.98 * spacing * corners).flatten(0, 1)
    places = places[places[:, 2] > 0.01]
    homogeneous = places @ outline.matrix.mT
    pixels = (homogeneous[:, :2] / homogeneous[:, 2:]).round().long()
    height, width = covered.shape
    there = (pixels >= 0).all(1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
    covered[pixels[there, 1], pixels[there, 0]] = True
    return covered
