"""What a least-squares form of a loss is made of (``losses.squares`` says what one is for)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.scene import Scene, focal_stretch

__all__ = [
    "DenseRows",
    "EdgeRows",
    "Form",
    "Observed",
    "PointRows",
    "Rows",
    "Values",
    "gather",
    "kernel_weight",
    "observed_rows",
    "packed_vertices",
    "spread_of",
    "values_at",
]

COLUMNS = 67
"""Hand translation 3, its turn 3, finger turns 45, shape 10, object translation 3, its turn 3."""


@dataclass(frozen=True)
class PointRows:
    """K residuals at each of N observations of a body's surface."""

    values: Float[Tensor, "B N K"]
    """In sigmas."""
    slope: Float[Tensor, "B N K 3"]
    """Per metre that the observed point of the hand moves (camera frame); unused for the object's points (M = 0)."""
    wrench: Float[Tensor, "B N K 6"]
    """Per metre that the object moves and radian that it turns about the centre of its box (camera axes)."""
    point: Int[Tensor, "B N M"]
    """Hand points that make up the observed point: vertices, then the 16 joints. M = 0: the object alone is seen."""
    share: Float[Tensor, "B N M"]
    """Their shares."""
    weight: Float[Tensor, "B N"]
    """Of each observation; multiplies squares. 0 leaves it out."""


@dataclass(frozen=True)
class DenseRows:
    """Residuals with their slopes on all 67 numbers (hand translation, turns, shape, object translation, turn)."""

    values: Float[Tensor, "B N"]
    matrix: Float[Tensor, "B N 67"]


@dataclass(frozen=True)
class EdgeRows:
    """Residuals that hang on any number of vertices, image by image (numpy, double; weights applied)."""

    hand: list[tuple[np.ndarray, ...]]
    """Values N; and of E contributions: which value, which hand point, slope per metre of it (3)."""
    object: list[tuple[np.ndarray, ...]]
    """Values N and their wrenches N x 6 (see :class:`PointRows`)."""


Rows = PointRows | DenseRows | EdgeRows
Values = Tensor | tuple[list[np.ndarray], list[np.ndarray]]
"""The values of rows; of :class:`EdgeRows` those of hand and object, image by image."""


@runtime_checkable
class Form(Protocol):
    """A loss as squares; see the module."""

    def freeze(self, scene: Scene) -> Form: ...

    def cost(self, scene: Scene) -> Float[Tensor, "B"]: ...

    def rows(self, scene: Scene) -> list[Rows]: ...


def values_at(form: Form, scene: Scene, there: Scene) -> list[Values]:
    """The values that the rows of ``scene`` have at the scene ``there``.

    A form whose rows elsewhere are others has a method of this name.
    """
    own = getattr(form, "values_at", None)
    if own is not None:
        return own(scene, there)
    found: list[Values] = []
    for row in form.rows(there):
        edges = isinstance(row, EdgeRows)
        found.append(([h[0] for h in row.hand], [o[0] for o in row.object]) if edges else row.values)
    return found


def kernel_weight(square: Tensor, kernel: float) -> Tensor:
    """Slope of the Geman-McClure cost over that of the plain square: ``1 / (1 + q / kernel^2)^2``."""
    return torch.ones_like(square) if kernel <= 0 else (1 + square / (kernel * kernel)).square().reciprocal()


@dataclass(frozen=True)
class Observed:
    """Residuals at surface points of hand (0) and object (1), and how they change when those points move."""

    values: Float[Tensor, "B 2 N K"]
    slope: Float[Tensor, "B 2 N K 3"]
    root: float
    """Change of the residuals when the object's centre gets a metre deeper."""
    point: Float[Tensor, "B 2 N 3"]
    corners: Int[Tensor, "B 2 N 3"]
    """Packed vertices: the hand's, then the object's."""
    barycentric: Float[Tensor, "B 2 N 3"]


def packed_vertices(scene: Scene) -> Float[Tensor, "B V 3"]:
    """The hand's vertices, then the object's, as the given camera sees them (``Scene.seen``)."""
    return torch.cat(scene.seen, 1)


def gather(values: Float[Tensor, "B V C"], index: Int[Tensor, "B *n"]) -> Float[Tensor, "B *n C"]:
    """``values[b, index[b]]``."""
    flat = index.flatten(1)[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, flat).unflatten(1, index.shape[1:])


def observed_rows(
    scene: Scene, seen: Observed, used: Float[Tensor, "B 2 N"], sigma: Tensor, kernel: float, weight: float
) -> list[Rows]:
    """Rows of the hand's and of the object's observations."""
    seen = _true(scene, seen)
    values = seen.values / sigma[..., None, None]
    slope = seen.slope / sigma[..., None, None, None]
    root = seen.root / sigma
    weights = used * kernel_weight(values.square().sum(-1), kernel) * weight
    wrench = torch.zeros(*values.shape, 6, dtype=values.dtype, device=values.device)
    wrench[:, 1, ..., :3] = slope[:, 1]
    arm = seen.point[:, 1] - scene.object_center[:, None]
    wrench[:, 1, ..., 3:] = torch.linalg.cross(arm[:, :, None].expand_as(slope[:, 1]), slope[:, 1])
    wrench[..., 2] += root[..., None, None]
    none = seen.corners[:, 1, :, :0]
    return [
        PointRows(values[:, 0], slope[:, 0], wrench[:, 0], seen.corners[:, 0], seen.barycentric[:, 0], weights[:, 0]),
        PointRows(values[:, 1], slope[:, 1], wrench[:, 1], none, seen.barycentric[:, 1, :, :0], weights[:, 1]),
    ]


def _true(scene: Scene, seen: Observed) -> Observed:
    """Points of :func:`packed_vertices` and slopes per metre there as those of the camera frame."""
    if scene.pose.focal_factor is None:
        return seen
    stretch = focal_stretch(scene.pose.focal_factor)[:, None, None]
    return replace(seen, slope=seen.slope * stretch[..., None, :], point=seen.point / stretch)


def spread_of(sigma: Any, like: Tensor) -> Float[Tensor, "B 2"]:
    """A settled sigma as one number for each image and body."""
    if isinstance(sigma, str):
        raise ValueError("sigma: 'auto' must be settled (Objective.settle) before a loss is written as squares")
    return torch.as_tensor(sigma, dtype=like.dtype, device=like.device).expand(len(like), 2)
