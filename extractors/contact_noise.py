"""Poses as they are before refinement, made from true ones: what the contact network learns to doubt."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.align import align_hand
from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from horefine.hand import HandModel
from horefine.scene import Features, Pose

__all__ = ["aligned", "disturb"]

GIVEN = 0.2
"""Share of the hands that are not aligned: recipes without a way in, poses of other systems."""
ORIENTATIONS = 144


def aligned(pose: Pose, features: Features, hand: HandModel, generator: torch.Generator) -> Pose:
    """:func:`disturb`, and four hands in five then placed by ``align_hand`` as the recipe ``pixels`` does.

    Args:
        pose: True poses.
        features: Predicted maps.
        hand: The hand model.
        generator: Of all noise.
    """
    begin = disturb(pose, hand, features.object.center, generator)
    end = align_hand(begin, features, hand, rotations=ORIENTATIONS)
    kept = _uniform(pose, generator) < GIVEN
    rotvec = torch.where(kept[..., None], begin.hand_rotvec, end.hand_rotvec)
    return dataclasses.replace(end, hand_rotvec=rotvec, hand_transl=begin.hand_transl.where(kept, end.hand_transl))


def disturb(pose: Pose, hand: HandModel, centers: Float[Tensor, "B 3"], generator: torch.Generator) -> Pose:
    """Poses as alignment leaves them, as far as 40 synthetic photographs tell (medians; errors have long tails).

    Object: 4 degrees and 3 mm across the ray off, one in six turned altogether; depth off by 1 to 5 cm, the hand's
    along with it. Hand: 10 mm across and 2 cm along the ray from where it holds the object, wrist 17 degrees, finger
    joints 12 degrees, towards the relaxed hand.

    Args:
        pose: True poses.
        hand: The hand model.
        centers: Of the objects' boxes, object frame.
        generator: Of all noise.
    """
    count = len(pose)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator).to(pose.hand_transl)

    def chance(share: float) -> Tensor:
        return (_uniform(pose, generator) < share).float()

    far, lost, level = chance(0.3), chance(0.2), 0.3 + 1.4 * _uniform(pose, generator)
    turn = axis_angle_to_matrix(0.05 * normal(3) + lost * 2.0 * normal(3))
    rotation = axis_angle_to_matrix(pose.object_rotvec)
    middle = (rotation @ centers[..., None])[..., 0] + pose.object_transl
    ray = middle / middle[:, 2:]
    move = 0.002 * normal(3) + (far + lost) * 0.008 * normal(3) + ray * normal(1) * (0.012 + 0.04 * far)
    rotation = turn @ rotation
    transl = middle + move - (rotation @ centers[..., None])[..., 0]
    return dataclasses.replace(
        _disturb_hand(pose, hand, move, level, generator),
        object_rotvec=matrix_to_axis_angle(rotation), object_transl=transl,
    )  # fmt: skip


def _disturb_hand(pose: Pose, hand: HandModel, move: Tensor, level: Tensor, generator: torch.Generator) -> Pose:
    """The hand turned about its middle and moved, fingers and shape mixed with the mean and noise."""
    count = len(pose)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator).to(pose.hand_transl)

    mix = level[..., None] * 0.9 * _uniform(pose, generator)[..., None]
    fingers = pose.hand_rotvec[:, 1:].lerp(hand.mean_rotvec[1:].expand(count, -1, -1), mix)
    fingers = fingers + 0.1 * level[..., None] * normal(15, 3)
    shape = pose.hand_shape * _uniform(pose, generator) + 0.3 * normal(10)
    before = hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).vertices.mean(1)
    turn = 0.15 * level + 0.4 * (_uniform(pose, generator) < 0.15)
    wrist = axis_angle_to_matrix(turn * normal(3)) @ axis_angle_to_matrix(pose.hand_rotvec[:, 0])
    rotvec = torch.cat([matrix_to_axis_angle(wrist)[:, None], fingers], 1)
    after = hand(rotvec, shape, torch.zeros_like(pose.hand_transl)).vertices.mean(1)
    ray = before / before[:, 2:]
    shift = level * (0.009 * normal(3) + ray * 0.03 * normal(1))
    return dataclasses.replace(pose, hand_rotvec=rotvec, hand_shape=shape, hand_transl=before + move + shift - after)


def _uniform(pose: Pose, generator: torch.Generator) -> Float[Tensor, "B 1"]:
    """0 to 1, where the pose is."""
    return torch.rand(len(pose), 1, generator=generator).to(pose.hand_transl)
