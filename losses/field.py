"""What the regressor said about space: the refined surfaces lie on the zero levels of its signed distance fields."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.losses.surfaces import ObjectPoints, hand_surface
from horefine.mesh import DistanceGrid
from horefine.scene import Scene

__all__ = ["sdf_consistency"]


def sdf_consistency(
    scene: Scene,
    object_points: ObjectPoints,
    hand_sdf: DistanceGrid,
    object_sdf: DistanceGrid,
    *,
    sigma: float = 0.01,
    margin: float = 0.02,
) -> Float[Tensor, "B"]:
    """Share of the two surfaces that is off the predicted zero level, 0 to 2 (hand plus object).

    Mean over each surface's area of ``1 - t (1 - q / (1 + q))``, ``q = (d / sigma)^2`` (Geman and McClure 1985), d the
    field at the surface point. Outside the grid the field is a guess: the trust t falls as ``exp(-(out / margin)^2)``
    with the distance to the grid, towards the full price of 1, so that leaving the grid never pays. Metres. A field
    that is unsure is flat, so that its misses are small and pull little: nothing else is known of its spread.
    """
    area = hand_surface(scene.hand_model).area
    points = scene.place(object_points.points)
    hand = _miss(hand_sdf, scene.hand.vertices, sigma, margin)
    return hand @ (area / area.sum()) + _miss(object_sdf, points, sigma, margin).mean(1)


def _miss(grid: DistanceGrid, points: Float[Tensor, "B N 3"], sigma: float, margin: float) -> Float[Tensor, "B N"]:
    square = (grid.sample(points) / sigma).square()
    low = grid.origin[:, None]
    high = low + (grid.values.shape[-1] - 1) * grid.spacing[:, None, None]
    out = (low - points).relu() + (points - high).relu()
    trust = torch.exp(-out.square().sum(-1) / margin**2)
    return 1 - trust / (1 + square)
