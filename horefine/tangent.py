"""The optimiser's coordinates: a flat row of 67 numbers for each image around the current pose.

Two charts of the same poses:

* ``tangent`` (ours): the hand turns about its centroid and the object about the centre of its box, both about the
  camera's axes; fingers turn in their own frame. Turning about the middle separates rotation from translation.
  Depth is a step along the ray through the middle, which leaves the middle's pixel where it is, and the object's
  depth takes the hand along: relative depth is well observed and the depth of both together is not, so the two
  get a coordinate each and Adam, which scales coordinates one by one, walks the valley along its floor.
* ``axis_angle`` (the papers'): plain addition to the axis-angle numbers, the hand about the wrist and the object
  about its origin.

Losses see plain poses; gradients arrive on the axis-angle numbers and are carried over by the closed-form
Jacobians of the exponential map (Sola, Deray and Atchuthan 2018, eq. 143-146), so no loss knows about charts.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle, skew
from horefine.scene import Pose, Scene

__all__ = ["BLOCKS", "CHARTS", "AxisAngle", "Tangent", "flat_rates", "middles", "ray"]

BLOCKS = {
    "hand_transl": (0, 1),
    "hand_depth": (2,),  # tangent: relative to the object
    "wrist": (3, 4, 5),
    "fingers": tuple(range(6, 51)),
    "shape": tuple(range(51, 61)),
    "object_transl": (61, 62),
    "object_depth": (63,),
    "object_rotation": (64, 65, 66),
}
"""Which columns a named rate moves. ``*_depth`` is along the optical axis (tangent: along the ray)."""


def flat_rates(rates: Mapping[str, float], like: Tensor) -> Float[Tensor, "67"]:
    """One rate for each column; a block that is not named does not move."""
    flat = torch.zeros(67, dtype=like.dtype, device=like.device)
    for name, rate in rates.items():
        flat[list(BLOCKS[name])] = rate
    return flat


def _flatten(pose: Pose) -> Float[Tensor, "B 67"]:
    parts = (pose.hand_transl, pose.hand_rotvec.flatten(1), pose.hand_shape, pose.object_transl, pose.object_rotvec)
    return torch.cat(parts, 1)


def _split(flat: Float[Tensor, "B 67"]) -> Pose:
    return Pose(flat[:, 3:51].unflatten(1, (16, 3)), flat[:, 51:61], flat[:, :3], flat[:, 64:], flat[:, 61:64])


class AxisAngle:
    """The papers' chart: gradient and step are those of the pose's own numbers."""

    @staticmethod
    def gradient(scene: Scene, gradient: Pose) -> Float[Tensor, "B 67"]:
        """The gradient in this chart, from the gradient on the pose's numbers."""
        return _flatten(gradient)

    @staticmethod
    def move(scene: Scene, step: Float[Tensor, "B 67"]) -> Pose:
        """The pose reached from ``scene.pose`` by a step."""
        return _split(_flatten(scene.pose.detach()) + step)


class Tangent:
    """Our chart: turns about the middle of the hand and of the object's box, depth along the ray."""

    @staticmethod
    def gradient(scene: Scene, gradient: Pose) -> Float[Tensor, "B 67"]:
        """The gradient in this chart, from the gradient on the pose's numbers."""
        pose, hand_middle, object_middle = scene.pose.detach(), *middles(scene)
        wrist_arm = scene.hand.joints[:, 0].detach() - hand_middle
        wrist = _carry(pose.hand_rotvec[:, 0], gradient.hand_rotvec[:, 0])
        wrist = wrist + torch.linalg.cross(wrist_arm, gradient.hand_transl)
        fingers = _carry(-pose.hand_rotvec[:, 1:], gradient.hand_rotvec[:, 1:])
        turn = _carry(pose.object_rotvec, gradient.object_rotvec)
        turn = turn + torch.linalg.cross(pose.object_transl - object_middle, gradient.object_transl)
        hand, thing = gradient.hand_transl.clone(), gradient.object_transl.clone()
        hand[:, 2] = (hand * ray(hand_middle)).sum(1)
        thing[:, 2] = (thing * ray(object_middle)).sum(1) + hand[:, 2]
        return torch.cat([hand, wrist, fingers.flatten(1), gradient.hand_shape, thing, turn], 1)

    @staticmethod
    def move(scene: Scene, step: Float[Tensor, "B 67"]) -> Pose:
        """The pose reached from ``scene.pose`` by a step."""
        pose, delta, hand_middle, object_middle = scene.pose.detach(), _split(step), *middles(scene)
        turns = axis_angle_to_matrix(torch.cat([delta.hand_rotvec, delta.object_rotvec[:, None]], 1))
        bones = axis_angle_to_matrix(torch.cat([pose.hand_rotvec, pose.object_rotvec[:, None]], 1))
        left = torch.ones(17, 1, 1, dtype=torch.bool, device=step.device)
        left[1:16] = False  # fingers turn in their own frame, wrist and object about the camera's axes
        rotvec = matrix_to_axis_angle(torch.where(left, turns @ bones, bones @ turns))
        wrist_arm, object_arm = scene.hand.joints[:, 0].detach() - hand_middle, pose.object_transl - object_middle
        along = delta.object_transl[:, 2:]
        hand = _sideways(delta.hand_transl) + (delta.hand_transl[:, 2:] + along) * ray(hand_middle)
        thing = _sideways(delta.object_transl) + along * ray(object_middle)
        return Pose(
            rotvec[:, :16],
            pose.hand_shape + delta.hand_shape,
            pose.hand_transl + hand + (turns[:, 0] @ wrist_arm[..., None])[..., 0] - wrist_arm,
            rotvec[:, 16],
            pose.object_transl + thing + (turns[:, 16] @ object_arm[..., None])[..., 0] - object_arm,
        )


def middles(scene: Scene) -> tuple[Float[Tensor, "B 3"], Float[Tensor, "B 3"]]:
    """What hand and object turn about: centroid of the vertices, centre of the box."""
    return scene.hand.vertices.detach().mean(1), scene.object_center.detach()


def ray(middle: Float[Tensor, "B 3"]) -> Float[Tensor, "B 3"]:
    """The direction that moves a point in depth and not in the picture, one metre of depth long."""
    return middle / middle[:, 2:].clamp_min(1e-3)


def _sideways(transl: Float[Tensor, "B 3"]) -> Float[Tensor, "B 3"]:
    return transl * transl.new_tensor([1.0, 1.0, 0.0])


def _carry(rotvec: Float[Tensor, "*batch 3"], gradient: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """``J_l(rotvec)^-T gradient``: from a gradient on axis-angle numbers to one on a turn applied from the left."""
    square = (rotvec * rotvec).sum(-1)[..., None, None]
    tiny = square < 1e-6
    angle = torch.where(tiny, torch.ones_like(square), square).sqrt()
    # 1/a^2 - cot(a/2)/(2a) is 1/12 at zero and finite up to a full turn.
    factor = torch.where(tiny, 1 / 12 + square / 720, 1 / angle**2 - 1 / (2 * angle * (angle / 2).tan()))
    cross = skew(rotvec)
    eye = torch.eye(3, dtype=rotvec.dtype, device=rotvec.device)
    inverse = eye - 0.5 * cross + factor * (cross @ cross)
    return (inverse.mT @ gradient[..., None])[..., 0]


CHARTS = {"tangent": Tangent, "axis_angle": AxisAngle}
