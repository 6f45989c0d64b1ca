"""The priors as squares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.anatomy import anatomy_angles
from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle, skew
from horefine.losses import prior, touch_kernels
from horefine.losses.forms import COLUMNS, DenseRows, Rows, array
from horefine.scene import FACTORS, Scene

__all__ = [
    "AnglePrior",
    "FactorPrior",
    "OffsetSquares",
    "OrientationPrior",
    "ShapePrior",
    "articulation_squares",
    "factor_prior_squares",
    "joint_angle_slopes",
    "offset_squares",
    "orientation_squares",
    "pose_prior_squares",
    "shape_prior_squares",
]


@dataclass(frozen=True)
class AnglePrior:
    """``pose_prior`` and ``articulation``: one row for each angle of each finger joint."""

    expected: Float[Tensor, "B 15 3"]
    sigma: Float[Tensor, "15 3"]
    weight: float

    def freeze(self, scene: Scene) -> AnglePrior:
        return self

    def chosen(self, rows: Int[Tensor, "M"]) -> AnglePrior:
        return replace(self, expected=self.expected[rows])

    def _look(self, scene: Scene, sloped: bool) -> tuple[Tensor, DenseRows]:
        """Cost, and rows (0 unless ``sloped``)."""
        expected, batch = array(self.expected), len(self.expected)
        total, values = np.zeros(batch), np.zeros((batch, 45), expected.dtype)
        matrix = np.zeros((batch, 45, COLUMNS), expected.dtype)
        touch_kernels.joint_angles(
            array(scene.pose.hand_rotvec), array(scene.hand_model.axes), expected, array(self.sigma),
            float(self.weight), sloped, total, values, matrix,
        )  # fmt: skip
        rows = DenseRows(torch.from_numpy(values), torch.from_numpy(matrix))
        return torch.from_numpy(total).to(self.expected.dtype), rows

    def cost(self, scene: Scene) -> Float[Tensor, "B"]:
        return self._look(scene, False)[0]

    def rows(self, scene: Scene) -> list[Rows]:
        return [self._look(scene, True)[1]]


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


def pose_prior_squares(scene: Scene, weight: float, *, width: float, **_: Any) -> AnglePrior:
    low, high = scene.hand_model.limits.unbind(-1)
    relaxed = prior.relaxed_angles(scene.hand_model).expand(len(scene.pose), -1, -1)
    return AnglePrior(relaxed.contiguous(), width * (high - low) / 4, weight)


def articulation_squares(scene: Scene, weight: float, *, sigma: float, **_: Any) -> AnglePrior:
    first = prior.first_angles(scene)
    return AnglePrior(first, torch.full_like(first[0], sigma), weight)


@dataclass(frozen=True)
class ShapePrior:
    """``shape_prior``."""

    weight: float

    def freeze(self, scene: Scene) -> ShapePrior:
        return self

    def chosen(self, rows: Int[Tensor, "M"]) -> ShapePrior:
        return self

    def cost(self, scene: Scene) -> Float[Tensor, "B"]:
        return self.weight * prior.shape_prior(scene)

    def rows(self, scene: Scene) -> list[Rows]:
        shape, root = scene.pose.hand_shape, self.weight**0.5
        matrix = torch.zeros(len(shape), 10, COLUMNS, dtype=shape.dtype, device=shape.device)
        matrix[:, :, 51:61].diagonal(dim1=1, dim2=2).fill_(root)
        return [DenseRows(root * shape, matrix)]


def shape_prior_squares(scene: Scene, weight: float, **_: Any) -> ShapePrior:
    return ShapePrior(weight)


@dataclass(frozen=True)
class OrientationPrior:
    """``orientation``."""

    sigma: float
    weight: float

    def freeze(self, scene: Scene) -> OrientationPrior:
        return self

    def chosen(self, rows: Int[Tensor, "M"]) -> OrientationPrior:
        return self

    def cost(self, scene: Scene) -> Float[Tensor, "B"]:
        return self.weight * prior.orientation(scene, sigma=self.sigma)

    def rows(self, scene: Scene) -> list[Rows]:
        rotation = axis_angle_to_matrix(scene.pose.hand_rotvec[:, 0])
        weight = self.weight / (2 * self.sigma**2)
        return [DenseRows(*_turned(weight, rotation, scene.initial.hand_rotvec[:, 0], 3))]


def orientation_squares(scene: Scene, weight: float, *, sigma: float, **_: Any) -> OrientationPrior:
    return OrientationPrior(sigma, weight)


@dataclass(frozen=True)
class FactorPrior:
    """``factor_prior``: a row that none of the 67 numbers moves."""

    variable: str
    sigma: float
    weight: float

    def freeze(self, scene: Scene) -> FactorPrior:
        return self

    def chosen(self, rows: Int[Tensor, "M"]) -> FactorPrior:
        return self

    def cost(self, scene: Scene) -> Float[Tensor, "B"]:
        return self.weight * prior.factor_prior(scene, variable=self.variable, sigma=self.sigma)

    def rows(self, scene: Scene) -> list[Rows]:
        values = self.weight**0.5 * getattr(scene.pose, FACTORS[self.variable]).log()[:, None] / self.sigma
        return [DenseRows(values, values.new_zeros(len(values), 1, COLUMNS))]


def factor_prior_squares(scene: Scene, weight: float, *, variable: str, sigma: float, **_: Any) -> FactorPrior:
    return FactorPrior(variable, sigma, weight)


@dataclass(frozen=True)
class OffsetSquares:
    """``offset``, its smooth variant."""

    pose: float
    shape: float
    transl: float
    object: float
    weight: float

    def freeze(self, scene: Scene) -> OffsetSquares:
        return self

    def chosen(self, rows: Int[Tensor, "M"]) -> OffsetSquares:
        return self

    def cost(self, scene: Scene) -> Float[Tensor, "B"]:
        found = prior.offset(scene, pose=self.pose, shape=self.shape, transl=self.transl, object=self.object)
        return self.weight * found

    def rows(self, scene: Scene) -> list[Rows]:
        now, start = scene.pose, scene.initial
        lever = scene.hand.joints[:, 0] - scene.hand.vertices.mean(1)  # the turn is about the vertices' centroid
        arm = now.object_transl - scene.object_center
        parts = [
            _moved(self.transl, now.hand_transl - start.hand_transl, lever, 0),
            _moved(self.object, now.object_transl - start.object_transl, arm, COLUMNS - 6),
            self._turned(scene),
            self._bent(scene),
            _plain(self.shape, now.hand_shape - start.hand_shape, 51),
        ]
        root = self.weight**0.5
        return [DenseRows(root * torch.cat([a for a, _ in parts], 1), root * torch.cat([b for _, b in parts], 1))]

    def _turned(self, scene: Scene) -> tuple[Tensor, Tensor]:
        return _turned(self.object / 2, scene.object_rotation, scene.initial.object_rotvec, COLUMNS - 3)

    def _bent(self, scene: Scene) -> tuple[Tensor, Tensor]:
        """``cos(d / 2) - 1`` of each finger joint; d grows by the turn's part along the axis turned about."""
        root = (self.pose / 15) ** 0.5
        now, start = (axis_angle_to_matrix(p.hand_rotvec[:, 1:]) for p in (scene.pose, scene.initial))
        turn = matrix_to_axis_angle(start.mT @ now)
        half = turn.norm(dim=-1, keepdim=True) / 2
        axis = turn / (2 * half).clamp(min=1e-9)
        matrix = turn.new_zeros(len(turn), 15, COLUMNS)
        blocks = matrix[..., 6:51].unflatten(-1, (15, 3))
        joints = torch.arange(15, device=turn.device)
        blocks[:, joints, joints] = -half.sin() / 2 * axis
        return root * (half[..., 0].cos() - 1), root * matrix


def _moved(
    weight: float, values: Float[Tensor, "B 3"], lever: Float[Tensor, "B 3"], first: int
) -> tuple[Tensor, Tensor]:
    """A point that moves with the three columns from ``first`` on and, at ``lever``, with the turn after them."""
    matrix = values.new_zeros(len(values), 3, COLUMNS)
    matrix[:, :, first : first + 3] = torch.eye(3, dtype=values.dtype, device=values.device)
    matrix[:, :, first + 3 : first + 6] = -skew(lever)
    return weight**0.5 * values, weight**0.5 * matrix


def _turned(
    weight: float, rotation: Float[Tensor, "B 3 3"], first: Float[Tensor, "B 3"], column: int
) -> tuple[Tensor, Tensor]:
    """Nine numbers of ``R - R_0``; turning by w, the three columns from ``column`` on, changes R by ``[w]x R``."""
    values = (rotation - axis_angle_to_matrix(first)).flatten(1)
    matrix = values.new_zeros(len(values), 9, COLUMNS)
    matrix[..., column : column + 3] = (
        (skew(torch.eye(3, dtype=values.dtype, device=values.device)) @ rotation[:, None]).flatten(2).mT
    )
    return weight**0.5 * values, weight**0.5 * matrix


def _plain(weight: float, values: Float[Tensor, "B N"], first: int) -> tuple[Tensor, Tensor]:
    """Numbers that are columns themselves."""
    count = values.shape[1]
    matrix = values.new_zeros(len(values), count, COLUMNS)
    matrix[:, :, first : first + count].diagonal(dim1=1, dim2=2).fill_(1)
    return weight**0.5 * values, weight**0.5 * matrix


def offset_squares(
    scene: Scene, weight: float, *, pose: float, shape: float, transl: float, object: float, variant: str
) -> OffsetSquares | None:
    """``offset`` as squares; CPF's variant, which jumps, has none."""
    return OffsetSquares(pose, shape, transl, object, weight) if variant == "angle" else None
