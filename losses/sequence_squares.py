"""The coupling of a clip's frames as squares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.hand import house_from_mano
from horefine.losses.forms import PointRows, Rows, kernel_weight
from horefine.losses.sequence import accelerations, robust_cost, scales
from horefine.scene import Neighbours, Scene

__all__ = ["TemporalSquares", "temporal_squares"]


@dataclass(frozen=True)
class TemporalSquares:
    """``temporal``: a row for each joint and corner.

    The squares of one point's up to three second differences, with their kernels' weights, are one square about their
    weighted mean and a constant.
    """

    neighbours: Neighbours
    sigma: str | float | Tensor
    kernel: float
    weight: float

    def freeze(self, scene: Scene) -> TemporalSquares:
        return self

    def cost(self, scene: Scene) -> Float[Tensor, "B"]:
        hand, thing = accelerations(scene, self.neighbours, self.sigma)
        return self.weight * (robust_cost(hand, self.kernel) + robust_cost(thing, self.kernel))

    def rows(self, scene: Scene) -> list[Rows]:
        squares, scale = accelerations(scene, self.neighbours, self.sigma), scales(self.neighbours, self.sigma)
        hand, thing = (kernel_weight(q, self.kernel) * own for q, own in zip(squares, scale, strict=True))
        return [self._hand(scene, hand), self._object(scene, thing)]

    def _hand(self, scene: Scene, share: Float[Tensor, "B K"]) -> PointRows:
        values, weight = self._residuals(scene.hand.joints, self.neighbours.joints, share)
        model = scene.hand_model
        joints = torch.cat([torch.arange(16, device=values.device) + len(model.template), model.tips])
        point = joints[house_from_mano(joints.device)][None, :, None].expand(len(values), -1, -1)
        slope = torch.eye(3, dtype=values.dtype, device=values.device).expand(*values.shape, 3)
        none, whole = values.new_zeros(*values.shape, 6), torch.ones_like(values[..., :1])
        return PointRows(values, slope, none, point, whole, weight)

    def _object(self, scene: Scene, share: Float[Tensor, "B K"]) -> PointRows:
        corners = scene.object_corners
        values, weight = self._residuals(corners, self.neighbours.corners, share)
        slope = torch.eye(3, dtype=values.dtype, device=values.device).expand(*values.shape, 3)
        arm = (corners - scene.object_center[:, None])[:, :, None].expand_as(slope)
        wrench = torch.cat([slope, torch.linalg.cross(arm, slope)], -1)
        none = torch.zeros(*values.shape[:2], 0, dtype=torch.long, device=values.device)
        return PointRows(values, slope, wrench, none, values[..., :0], weight)

    def _residuals(
        self, points: Float[Tensor, "B N 3"], expected: Float[Tensor, "B K N 3"], share: Float[Tensor, "B K"]
    ) -> tuple[Float[Tensor, "B N 3"], Float[Tensor, "B N"]]:
        """Of each point from where it is expected, metres, and the weight of its square."""
        total = share.sum(1)
        mean = (share[..., None, None] * expected).sum(1) / total.clamp(min=1e-12)[:, None, None]
        weight = (self.weight * total / points.shape[1])[:, None].expand(points.shape[:2])
        return points - mean, weight


def temporal_squares(
    scene: Scene, weight: float, *, neighbours: Neighbours, sigma: str | float | Tensor, kernel: float, **_: Any
) -> TemporalSquares:
    """``losses.sequence.temporal`` as squares."""
    return TemporalSquares(neighbours, sigma, kernel, weight)
