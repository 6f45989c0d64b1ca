"""Rotations spread evenly over all orientations."""

from __future__ import annotations

import functools
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["angle_between", "best_apart", "even_rotations"]

ROOT = math.sqrt(2)
PSI = 1.533751168755204288118041
"""The positive root of x^4 = x + 4 (Alexa 2022)."""


@functools.lru_cache(maxsize=8)
def even_rotations(count: int) -> Float[Tensor, "count 3 3"]:
    """``count`` rotations, as evenly spread as a spiral can (super-Fibonacci: Alexa, CVPR 2022, algorithm 1).

    576 of them leave no orientation farther than about 25 degrees from its nearest.
    """
    place = torch.arange(count, dtype=torch.float64) + 0.5
    near, far = (place / count).sqrt(), (1 - place / count).sqrt()
    first, second = 2 * math.pi * place / ROOT, 2 * math.pi * place / PSI
    x, y, z, w = near * first.sin(), near * first.cos(), far * second.sin(), far * second.cos()
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
        2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
        2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).view(-1, 3, 3).float()


def angle_between(a: Float[Tensor, "*#n 3 3"], b: Float[Tensor, "*#n 3 3"]) -> Float[Tensor, "..."]:
    """Angle of the rotation from ``a`` to ``b``, radians; the two are broadcast."""
    return (((a * b).sum((-1, -2)) - 1) / 2).clamp(-1, 1).acos()


def best_apart(
    cost: Float[Tensor, "R"], rotations: Float[Tensor, "R 3 3"], count: int, apart: float
) -> Int[Tensor, "count"]:
    """The cheapest ``count`` rotations that are at least ``apart`` radians from any cheaper one chosen.

    When there are not that many, the cheapest is repeated.
    """
    order = cost.argsort()
    sorted_rotations = rotations[order]
    free = cost[order].isfinite()
    chosen: list[int] = []
    while len(chosen) < count and bool(free.any()):
        first = int(free.int().argmax())
        chosen.append(first)
        free &= angle_between(sorted_rotations, sorted_rotations[first]) >= apart
        free[first] = False
    chosen = chosen or [0]
    return order[torch.tensor(chosen + [chosen[0]] * (count - len(chosen)), device=order.device)]
