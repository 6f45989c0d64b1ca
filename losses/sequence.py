"""Losses over a clip: ours, which couples each frame with those around it, and homan's (Hasson et al. 2021).

homan's are not in the registry: they see all frames at once (joint fits of a video, from the posed vertices and the PCA
coefficients of MANO's finger pose), and a loss there sees one image. Ours fits it: what the other frames say enters as
a feature (``Features.neighbours``).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.scene import Neighbours, Scene

__all__ = ["pca_prior", "smoothness", "temporal"]


def temporal(
    scene: Scene, neighbours: Neighbours, *, sigma: str | float | Tensor = "auto", kernel: float = 30.0
) -> Float[Tensor, "B"]:
    """Hand and object do not accelerate much from frame to frame: a prior on how hands move things.

    Each second difference that a frame has a part in costs ``q / (1 + q / kernel^2)`` for the hand and again for the
    object (Geman and McClure 1985: a sudden move, or a frame that went wrong, pulls on nothing), where ``q`` is the
    mean over the 21 joints, or the corners of the object's box, of ``|acceleration|^2 / sigma^2``. ``sigma``: of each
    coordinate, metres per second squared; ``auto``: as much as there is in this clip (:mod:`horefine.motion` tells it
    from the noise of single frames). ``kernel`` 0 gives plain squares.

    The frames around it stand still (:class:`horefine.scene.Neighbours`): as a function of one frame this is the sum
    over the clip of the accelerations' costs, but for a constant.
    """
    hand, thing = accelerations(scene, neighbours, sigma)
    return robust_cost(hand, kernel) + robust_cost(thing, kernel)


def _level(scene: Scene, neighbours: Neighbours, **_: Any) -> Float[Tensor, "B 2"]:
    return neighbours.level


temporal.spread = _level  # type: ignore[attr-defined]  # what the objective asks for where sigma is auto


def accelerations(
    scene: Scene, neighbours: Neighbours, sigma: str | float | Tensor
) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
    """Mean square of the hand's and of the object's acceleration in each second difference, in ``sigma``."""
    hand, thing = scales(neighbours, sigma)
    joints = (scene.hand.joints[:, None] - neighbours.joints).square().sum(-1).mean(-1)
    corners = (scene.object_corners[:, None] - neighbours.corners).square().sum(-1).mean(-1)
    return joints * hand, corners * thing


def scales(neighbours: Neighbours, sigma: str | float | Tensor) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
    """What the square of a metre off costs for hand and object in each second difference."""
    spread = neighbours.level if isinstance(sigma, str) else torch.as_tensor(sigma).to(neighbours.level)
    hand, thing = spread.expand_as(neighbours.level)[..., None].unbind(1)
    return (neighbours.rate / hand).square(), (neighbours.rate / thing).square()


def robust_cost(square: Float[Tensor, "B K"], kernel: float) -> Float[Tensor, "B"]:
    """Sum of Geman and McClure's costs of squares."""
    return (square if kernel <= 0 else square / (1 + square / (kernel * kernel))).sum(1)


def smoothness(vertices: Float[Tensor, "T V 3"]) -> Float[Tensor, ""]:
    """Mean squared difference of each coordinate between frames that follow one another, metres squared (weight 2000).

    Raises:
        ValueError: fewer than two frames.
    """
    if len(vertices) < 2:
        raise ValueError("smoothness: needs at least two frames")
    return (vertices[1:] - vertices[:-1]).square().mean()


def pca_prior(coefficients: Float[Tensor, "T P"]) -> Float[Tensor, ""]:
    """Mean square of the coefficients of the finger pose (weight 0.004)."""
    return coefficients.square().mean()
