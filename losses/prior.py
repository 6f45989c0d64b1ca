"""What is known of hands and starts before looking: joint limits, usual poses and shapes, nearness to the start."""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.anatomy import anatomy_angles
from horefine.geometry import axis_angle_to_matrix
from horefine.hand import HandModel
from horefine.losses.cpf import (
    cpf_anatomy,
    cpf_offset,
    manotorch_anatomy,
    quaternion_offset,
    rotvec_to_quaternion,
)
from horefine.scene import FACTORS, Scene

__all__ = ["anatomy", "articulation", "factor_prior", "offset", "orientation", "pose_prior", "shape_prior"]


def anatomy(scene: Scene, *, variant: str = "limits", sigma: float = 0.1) -> Float[Tensor, "B"]:
    """Joints stay within what a hand can do.

    ``limits`` (ours): twist, splay and bend beyond the hand model's limits, in ``sigma`` radians, squared and summed
    over joints; 0 for every possible hand, smooth everywhere. ``cpf``: CPF's terms as coded (``losses.cpf.axis_terms``;
    ``sigma`` is not used), which ask every joint to turn about its bending axis only and are NaN at a zero rotation.
    ``manotorch``: those of CPF's second release (``losses.cpf.manotorch_anatomy``; ``sigma`` is not used).

    Raises:
        ValueError: for another variant.
    """
    if variant == "cpf":
        return cpf_anatomy(scene)
    if variant == "manotorch":
        return manotorch_anatomy(scene)
    if variant != "limits":
        raise ValueError(f"variant is {variant!r}; known: limits, cpf, manotorch")
    angles, limits = joint_angles(scene), scene.hand_model.limits
    excess = (limits[..., 0] - angles).relu() + (angles - limits[..., 1]).relu()
    return (excess / sigma).square().sum((1, 2))


def pose_prior(scene: Scene, *, width: float = 1.0) -> Float[Tensor, "B"]:
    """Twist, splay and bend of the finger joints are near those of the relaxed hand, in standard deviations.

    ``sum ((angle - relaxed) / sigma)^2`` where sigma is ``width`` times a quarter of the joint's range (a range spans
    two standard deviations to either side): about 6 degrees for a twist, 11 for a splay, 29 for a knuckle's bend.
    """
    relaxed = relaxed_angles(scene.hand_model)
    low, high = scene.hand_model.limits.unbind(-1)
    sigma = width * (high - low) / 4
    return ((joint_angles(scene) - relaxed) / sigma).square().sum((1, 2))


def articulation(scene: Scene, *, sigma: float = 0.2) -> Float[Tensor, "B"]:
    """Twist, splay and bend of the finger joints are near those of the first pose, in standard deviations.

    ``sum ((angle - first) / sigma)^2``, sigma in radians: what the regressor is off by. Ours, for maps that say less
    of the fingers than the regressor did.
    """
    return ((joint_angles(scene) - first_angles(scene)) / sigma).square().sum((1, 2))


def orientation(scene: Scene, *, sigma: float = 0.2) -> Float[Tensor, "B"]:
    """The hand is turned as in the first pose, in standard deviations: ``|R - R_0|^2 / (2 sigma^2)``.

    That is the squared angle for small turns; ``sigma`` in radians. Ours, for maps that say little of it.
    """
    turned, first = (axis_angle_to_matrix(p.hand_rotvec[:, 0]) for p in (scene.pose, scene.initial))
    return (turned - first).square().sum((1, 2)) / (2 * sigma**2)


def shape_prior(scene: Scene) -> Float[Tensor, "B"]:
    """Sum of squared shape values: they are standard deviations of the hand model."""
    return scene.pose.hand_shape.square().sum(1)


def factor_prior(scene: Scene, *, variable: str, sigma: float) -> Float[Tensor, "B"]:
    """A factor of the pose (a key of ``scene.FACTORS``) is near 1: the square of its logarithm in ``sigma``.

    Comes with a recipe's ``variables``; no loss of the YAML.
    """
    return (getattr(scene.pose, FACTORS[variable]).log() / sigma).square()


def offset(
    scene: Scene,
    *,
    pose: float = 1.0,
    shape: float = 1.0,
    transl: float = 1.0,
    object: float = 1.0,
    variant: str = "angle",
) -> Float[Tensor, "B"]:
    """CPF's ties to where refinement began; the options weigh its four parts. No common unit.

    ``pose``: mean over the 15 finger joints of ``(cos(d/2) - 1)^2``, d the angle turned since; ``shape``: squared
    change of the shape values; ``transl``: squared change of the hand's translation; ``object``: squared change of its
    translation and rotation, the latter as ``|R - R_0|^2 / 2``, which is the squared angle for small turns (CPF
    subtracts axis-angle numbers, which jump at half a turn). The wrist may turn freely. ``variant: cpf``: as CPF codes
    it (``losses.cpf.cpf_offset``).

    Raises:
        ValueError: for another variant than ``angle`` and ``cpf``.
    """
    if variant == "cpf":
        return cpf_offset(scene, pose=pose, shape=shape, transl=transl, object=object)
    if variant != "angle":
        raise ValueError(f"variant is {variant!r}; known: angle, cpf")
    now, start = scene.pose, scene.initial
    turned, before = (rotvec_to_quaternion(p.hand_rotvec[:, 1:]) for p in (now, start))
    same_side = torch.where((turned * before).sum(-1, keepdim=True) < 0, -before, before)  # q and -q are one rotation
    rotation = scene.object_rotation - axis_angle_to_matrix(start.object_rotvec)
    return (
        pose * quaternion_offset(turned, same_side)
        + shape * (now.hand_shape - start.hand_shape).square().sum(1)
        + transl * (now.hand_transl - start.hand_transl).square().sum(1)
        + object * ((now.object_transl - start.object_transl).square().sum(1) + rotation.square().sum((1, 2)) / 2)
    )


def joint_angles(scene: Scene) -> Float[Tensor, "B 15 3"]:
    """Twist, splay and bend of the finger joints, radians."""
    return anatomy_angles(axis_angle_to_matrix(scene.pose.hand_rotvec), scene.hand_model.axes)[:, 1:]


def first_angles(scene: Scene) -> Float[Tensor, "B 15 3"]:
    """Twist, splay and bend of the finger joints of the first pose, radians."""
    return anatomy_angles(axis_angle_to_matrix(scene.initial.hand_rotvec), scene.hand_model.axes)[:, 1:]


@functools.lru_cache(maxsize=4)
def relaxed_angles(model: HandModel) -> Float[Tensor, "15 3"]:
    """Twist, splay and bend of the model's relaxed pose."""
    return anatomy_angles(axis_angle_to_matrix(model.mean_rotvec), model.axes)[1:]
