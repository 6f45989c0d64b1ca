"""The optimiser's coordinates: a flat row of numbers (mostly 67) for each image around the current pose.

Charts of the same poses:

* ``tangent`` (ours): the hand turns about its centroid and the object about the centre of its box, both about the
  camera's axes; fingers turn in their own frame. Turning about the middle separates rotation from translation.
  Depth is a step along the ray through the middle, which leaves the middle's pixel where it is, and the object's
  depth takes the hand along: relative depth is well observed and the depth of both together is not, so the two
  get a coordinate each and Adam, which scales coordinates one by one, walks the valley along its floor.
* ``axis_angle`` (the papers'): plain addition to the axis-angle numbers, the hand about the wrist and the object
  about its origin.
* ``quaternion`` (CPF's, 83 numbers): free quaternions for the joints, the hand's translation that of the middle
  finger's knuckle, the object's that of the centre of its box. It remembers its numbers: quaternions have a length.

Losses see plain poses; gradients arrive on the axis-angle numbers and are carried over by the closed-form
Jacobians of the exponential map (Sola, Deray and Atchuthan 2018, eq. 143-146), so no loss knows about charts.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle, skew
from horefine.losses.cpf import knuckle, quaternion_norm, quaternion_to_rotvec, rotvec_to_quaternion
from horefine.scene import Pose, Scene

__all__ = [
    "BLOCKS",
    "CHARTS",
    "AxisAngle",
    "Quaternion",
    "Tangent",
    "flat_rates",
    "flat_to_pose",
    "middles",
    "pose_to_flat",
    "ray",
]

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

_WIDTHS = {"wrist": 4, "fingers": 60}
_ENDS = list(itertools.accumulate(_WIDTHS.get(name, len(columns)) for name, columns in BLOCKS.items()))
QUATERNION_BLOCKS = {
    name: tuple(range(start, end)) for name, start, end in zip(BLOCKS, [0, *_ENDS], _ENDS, strict=False)
}
"""The columns of the ``quaternion`` chart: four numbers for each joint."""


def flat_rates(
    rates: Mapping[str, float], like: Tensor, blocks: Mapping[str, tuple[int, ...]] = BLOCKS
) -> Float[Tensor, "P"]:
    """One rate for each column; a block that is not named does not move."""
    flat = torch.zeros(sum(map(len, blocks.values())), dtype=like.dtype, device=like.device)
    for name, rate in rates.items():
        flat[list(blocks[name])] = rate
    return flat


def pose_to_flat(pose: Pose) -> Float[Tensor, "B 67"]:
    """The pose's own numbers in a row: hand translation, 16 rotations, shape, object translation, object rotation.

    Metres, radians, standard deviations of shape. Factors (``Pose.focal_factor``, ``Pose.object_scale``) are not among
    them.
    """
    parts = (pose.hand_transl, pose.hand_rotvec.flatten(1), pose.hand_shape, pose.object_transl, pose.object_rotvec)
    return torch.cat(parts, 1)


def flat_to_pose(flat: Float[Tensor, "B 67"]) -> Pose:
    """The inverse of :func:`pose_to_flat`: views of the row, without factors."""
    return Pose(flat[:, 3:51].unflatten(1, (16, 3)), flat[:, 51:61], flat[:, :3], flat[:, 64:], flat[:, 61:64])


class _Plain:
    """A chart of 67 numbers that remembers nothing and asks nothing of them."""

    blocks = BLOCKS

    @staticmethod
    def penalty(scene: Scene) -> dict[str, Float[Tensor, "B"]]:
        """What the numbers themselves cost, by name."""
        return {}


class AxisAngle(_Plain):
    """The papers' chart: gradient and step are those of the pose's own numbers."""

    @staticmethod
    def gradient(scene: Scene, gradient: Pose) -> Float[Tensor, "B 67"]:
        """The gradient in this chart, from the gradient on the pose's numbers."""
        return pose_to_flat(gradient)

    @staticmethod
    def move(scene: Scene, step: Float[Tensor, "B 67"]) -> Pose:
        """The pose reached from ``scene.pose`` by a step."""
        return _moved(scene, flat_to_pose(pose_to_flat(scene.pose.detach()) + step))


class Tangent(_Plain):
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
        pose, delta, hand_middle, object_middle = scene.pose.detach(), flat_to_pose(step), *middles(scene)
        turns = axis_angle_to_matrix(torch.cat([delta.hand_rotvec, delta.object_rotvec[:, None]], 1))
        bones = axis_angle_to_matrix(torch.cat([pose.hand_rotvec, pose.object_rotvec[:, None]], 1))
        number = torch.arange(17, device=step.device)[:, None, None]
        left = (number == 0) | (
            number == 16
        )  # fingers turn in their own frame, wrist and object about the camera's axes
        rotvec = matrix_to_axis_angle(torch.where(left, turns @ bones, bones @ turns))
        wrist_arm, object_arm = scene.hand.joints[:, 0].detach() - hand_middle, pose.object_transl - object_middle
        along = delta.object_transl[:, 2:]
        hand = _sideways(delta.hand_transl) + (delta.hand_transl[:, 2:] + along) * ray(hand_middle)
        thing = _sideways(delta.object_transl) + along * ray(object_middle)
        moved = Pose(
            rotvec[:, :16],
            pose.hand_shape + delta.hand_shape,
            pose.hand_transl + hand + (turns[:, 0] @ wrist_arm[..., None])[..., 0] - wrist_arm,
            rotvec[:, 16],
            pose.object_transl + thing + (turns[:, 16] @ object_arm[..., None])[..., 0] - object_arm,
        )
        return _moved(scene, moved)


class Quaternion:
    """CPF's variables (its ``GeOptimizer``): make one for each search, and move it along with the pose.

    Free quaternions w, x, y, z of the 16 joints, whose length is held near 1 by a penalty of weight 1 (a chart that
    forgot the lengths would take other steps: Adam steps in every number alike); the camera position of the middle
    knuckle, not of the wrist; the object about the centre of its box. A finger's zero rotation is a regular point
    here; it is CPF's anatomy terms that are not a number there.
    """

    blocks = QUATERNION_BLOCKS

    def __init__(self) -> None:
        self.numbers: Float[Tensor, "B 83"] | None = None

    def penalty(self, scene: Scene) -> dict[str, Float[Tensor, "B"]]:
        """How far the quaternions are from unit length."""
        return {"quaternion_norm": quaternion_norm(self._quaternions(self._at(scene)))}

    def gradient(self, scene: Scene, gradient: Pose) -> Float[Tensor, "B 83"]:
        """The gradient in this chart, the penalty's included, from the gradient on the pose's numbers."""
        with torch.enable_grad():
            numbers = self._at(scene).requires_grad_()
            pose = self._pose(scene, numbers)
            outputs = [getattr(pose, name) for name in Pose.names] + [quaternion_norm(self._quaternions(numbers))]
            weights = [getattr(gradient, name) for name in Pose.names] + [torch.ones_like(numbers[:, 0])]
            return torch.autograd.grad(outputs, numbers, weights)[0]

    def move(self, scene: Scene, step: Float[Tensor, "B 83"]) -> Pose:
        """The pose reached from ``scene.pose`` by a step; the chart goes there too."""
        self.numbers = self._at(scene) + step
        return self._pose(scene, self.numbers)

    def _at(self, scene: Scene) -> Float[Tensor, "B 83"]:
        """The numbers of ``scene.pose``: those moved to, or at the beginning those with unit quaternions."""
        if self.numbers is None:
            pose = scene.pose.detach()
            quaternions = rotvec_to_quaternion(pose.hand_rotvec).flatten(1)
            centre = scene.object_center.detach()
            parts = (knuckle(scene.hand_model, pose), quaternions, pose.hand_shape, centre, pose.object_rotvec)
            self.numbers = torch.cat(parts, 1)
        return self.numbers.detach().clone()

    @staticmethod
    def _quaternions(numbers: Float[Tensor, "B 83"]) -> Float[Tensor, "B 16 4"]:
        return numbers[:, 3:67].unflatten(1, (16, 4))

    @staticmethod
    def _pose(scene: Scene, numbers: Float[Tensor, "B 83"]) -> Pose:
        rotvec, turn = quaternion_to_rotvec(Quaternion._quaternions(numbers)), numbers[:, 80:]
        shape, none = numbers[:, 67:77], torch.zeros_like(numbers[:, :3])
        arm = knuckle(scene.hand_model, Pose(rotvec, shape, none, none, none))
        center = scene.pose.detach().sized(scene.features.object.center[:, None])
        middle = (axis_angle_to_matrix(turn) @ center.mT)[..., 0]
        return _moved(scene, Pose(rotvec, shape, numbers[:, :3] - arm, turn, numbers[:, 77:80] - middle))


def middles(scene: Scene) -> tuple[Float[Tensor, "B 3"], Float[Tensor, "B 3"]]:
    """What hand and object turn about: centroid of the vertices, centre of the box."""
    return scene.hand.vertices.detach().mean(1), scene.object_center.detach()


def ray(middle: Float[Tensor, "B 3"]) -> Float[Tensor, "B 3"]:
    """The direction that moves a point in depth and not in the picture, one metre of depth long."""
    return middle / middle[:, 2:].clamp_min(1e-3)


def _moved(scene: Scene, pose: Pose) -> Pose:
    """The pose with the factors of the scene's, which these charts leave as they are."""
    there = scene.pose.detach()
    return replace(pose, focal_factor=there.focal_factor, object_scale=there.object_scale)


def _sideways(transl: Float[Tensor, "B 3"]) -> Float[Tensor, "B 3"]:
    return torch.cat([transl[:, :2], torch.zeros_like(transl[:, 2:])], 1)


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


CHARTS = {"tangent": Tangent, "axis_angle": AxisAngle, "quaternion": Quaternion}
"""Charts by name; ``CHARTS[name]()`` is one search's own."""
