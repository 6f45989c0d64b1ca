"""The priors as squares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.anatomy import anatomy_angles
from horefine.geometry import axis_angle_to_matrix
from horefine.losses import prior
from horefine.losses.forms import COLUMNS, DenseRows, Rows
from horefine.scene import Scene

__all__ = ["PosePrior", "ShapePrior", "joint_angle_slopes", "pose_prior_squares", "shape_prior_squares"]


@dataclass(frozen=True)
class PosePrior:
    """``pose_prior``: one row for each angle of each finger joint."""

    relaxed: Float[Tensor, "15 3"]
    sigma: Float[Tensor, "15 3"]
    weight: float

    def freeze(self, scene: Scene) -> PosePrior:
        return self

    def cost(self, scene: Scene) -> Float[Tensor, "B"]:
        return self.weight * ((prior.joint_angles(scene) - self.relaxed) / self.sigma).square().sum((1, 2))

    def rows(self, scene: Scene) -> list[Rows]:
        angles, slope = joint_angle_slopes(scene)
        root = self.weight**0.5
        values = root * (angles - self.relaxed) / self.sigma
        matrix = torch.zeros(*values.shape, COLUMNS, dtype=values.dtype, device=values.device)
        blocks = matrix[..., 6:51].unflatten(-1, (15, 3))  # B, 15 joints, 3 angles, 15 joints, 3 turns
        joints = torch.arange(15, device=values.device)
        blocks[:, joints, :, joints] = (root * slope / self.sigma[..., None]).transpose(0, 1)
        return [DenseRows(values.flatten(1), matrix.flatten(1, 2))]


def joint_angle_slopes(scene: Scene) -> tuple[Float[Tensor, "B 15 3"], Float[Tensor, "B 15 3 3"]]:
    """Twist, splay and bend, and their change per radian that a joint turns about the axes of its own frame.

    Intrinsic XYZ angles: with ``w`` the turn in the axes (b, u, l) of the joint and p = w_x cos(bend) - w_y sin(bend),
    twist grows by p / cos(splay), splay by w_x sin(bend) + w_y cos(bend), bend by w_z - p tan(splay).
    """
    axes = scene.hand_model.axes
    angles = anatomy_angles(axis_angle_to_matrix(scene.pose.hand_rotvec), axes)[:, 1:]
    _, splay, bend = angles.unbind(-1)
    sine, cosine, zero = bend.sin(), bend.cos(), torch.zeros_like(bend)
    flat = splay.cos().clamp(min=1e-3)
    tan = splay.sin() / flat
    rows = [
        torch.stack([cosine / flat, -sine / flat, zero], -1),
        torch.stack([sine, cosine, zero], -1),
        torch.stack([-tan * cosine, tan * sine, torch.ones_like(bend)], -1),
    ]
    return angles, torch.stack(rows, -2) @ axes[1:].mT


def pose_prior_squares(scene: Scene, weight: float, *, width: float, **_: Any) -> PosePrior:
    low, high = scene.hand_model.limits.unbind(-1)
    return PosePrior(prior.relaxed_angles(scene.hand_model), width * (high - low) / 4, weight)


@dataclass(frozen=True)
class ShapePrior:
    """``shape_prior``."""

    weight: float

    def freeze(self, scene: Scene) -> ShapePrior:
        return self

    def cost(self, scene: Scene) -> Float[Tensor, "B"]:
        return self.weight * prior.shape_prior(scene)

    def rows(self, scene: Scene) -> list[Rows]:
        shape, root = scene.pose.hand_shape, self.weight**0.5
        matrix = torch.zeros(len(shape), 10, COLUMNS, dtype=shape.dtype, device=shape.device)
        matrix[:, torch.arange(10), torch.arange(51, 61)] = root
        return [DenseRows(root * shape, matrix)]


def shape_prior_squares(scene: Scene, weight: float, **_: Any) -> ShapePrior:
    return ShapePrior(weight)
