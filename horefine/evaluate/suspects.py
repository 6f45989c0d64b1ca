"""Known misunderstandings of a pose file: how a pose would read if it was meant otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from horefine.data.mirror import mirror_pose
from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from horefine.hand import HandModel
from horefine.mesh import Mesh
from horefine.scene import Pose

__all__ = ["SUSPECTS", "Change", "Suspect"]

Change = Callable[[Pose, Mesh, HandModel], Pose]


@dataclass(frozen=True)
class Suspect:
    """A misunderstanding: what is true of the pose, in words, and the pose that was meant."""

    part: str
    """Whose error it explains: ``hand``, ``fingers`` or ``object``."""
    what: str
    remedy: str
    meant: Change


def _fingers(order: Sequence[int]) -> Change:
    """Finger blocks taken from other places; 0 index, 1 middle, 2 pinky, 3 ring, 4 thumb."""
    places = [0, *(1 + 3 * block + k for block in order for k in range(3))]
    return lambda pose, mesh, hand: replace(pose, hand_rotvec=pose.hand_rotvec[:, places])


def _object_turned(pose: Pose, mesh: Mesh, hand: HandModel) -> Pose:
    return replace(pose, object_rotvec=-pose.object_rotvec)


def _object_inverse(pose: Pose, mesh: Mesh, hand: HandModel) -> Pose:
    back = axis_angle_to_matrix(-pose.object_rotvec)
    return replace(
        pose, object_rotvec=-pose.object_rotvec, object_transl=-(back @ pose.object_transl[..., None])[..., 0]
    )


def _centred(pose: Pose, mesh: Mesh, hand: HandModel) -> Pose:
    shift = (axis_angle_to_matrix(pose.object_rotvec) @ mesh.center[..., None])[..., 0]
    return replace(pose, object_transl=pose.object_transl - shift)


def _gl_rotation(part: str) -> Change:
    """Only the positions were brought to OpenCV's axes."""
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))

    def turned(rotvec: Tensor) -> Tensor:
        return matrix_to_axis_angle(flip.to(rotvec) @ axis_angle_to_matrix(rotvec))

    def change(pose: Pose, mesh: Mesh, hand: HandModel) -> Pose:
        if part == "object":
            return replace(pose, object_rotvec=turned(pose.object_rotvec))
        wrist = turned(pose.hand_rotvec[:, :1])
        return replace(pose, hand_rotvec=torch.cat([wrist, pose.hand_rotvec[:, 1:]], 1))

    return change


def _degrees(pose: Pose, mesh: Mesh, hand: HandModel) -> Pose:
    """Only where an angle is too large for radians: what is small anyway would come nearer to a truth near zero."""

    def meant(rotvec: Tensor) -> Tensor:
        large = rotvec.norm(dim=-1).reshape(len(rotvec), -1).amax(1) > 2 * math.pi
        return torch.where(large.reshape(-1, *[1] * (rotvec.ndim - 1)), torch.deg2rad(rotvec), rotvec)

    return replace(pose, hand_rotvec=meant(pose.hand_rotvec), object_rotvec=meant(pose.object_rotvec))


def _wrist_given(pose: Pose, mesh: Mesh, hand: HandModel) -> Pose:
    return replace(pose, hand_transl=pose.hand_transl - hand.rest_joints(pose.hand_shape)[:, 0])


def _other_hand(pose: Pose, mesh: Mesh, hand: HandModel) -> Pose:
    """The rotations of the other side's hand, at the place where it is."""
    other = mirror_pose(pose)
    return replace(pose, hand_rotvec=other.hand_rotvec)


def _with_mean(pose: Pose, mesh: Mesh, hand: HandModel) -> Pose:
    return replace(pose, hand_rotvec=pose.hand_rotvec + hand.mean_rotvec.to(pose.hand_rotvec))


_ORDER = "give wrist, index, middle, pinky, ring, thumb (MANO's order)"
_AXES = "rotation is in OpenGL's axes, the position is not"
_TURN = "turn it too: R' = diag(1, -1, -1) R"
SUSPECTS = (
    Suspect("hand", "the hand's rotations are in degrees", "give radians", _degrees),
    Suspect("hand", f"the wrist's {_AXES}", _TURN, _gl_rotation("hand")),
    Suspect("hand", "hand_transl is the wrist, not smplx's transl", "subtract J0(hand_shape)", _wrist_given),
    Suspect("hand", "the hand is mirrored", "give the side (left or right) of the hand in the photograph", _other_hand),
    Suspect("fingers", "the fingers are thumb, index, middle, ring, pinky", _ORDER, _fingers((1, 2, 4, 3, 0))),
    Suspect("fingers", "the fingers are index, middle, ring, pinky, thumb", _ORDER, _fingers((0, 1, 3, 2, 4))),
    Suspect("fingers", "MANO's mean pose is missing", "add it, or say flat_hand_mean: false", _with_mean),
    Suspect("object", "the object's rotation is in degrees", "give radians", _degrees),
    Suspect("object", "the object's rotation is transposed", "give R of X_cam = R X_object + t", _object_turned),
    Suspect("object", "the object's pose is camera to object", "give X_cam = R X_object + t", _object_inverse),
    Suspect("object", f"the object's {_AXES}", _TURN, _gl_rotation("object")),
    Suspect("object", "the pose is of the mesh centred at its box", "give t - R c, c the box's centre", _centred),
)
"""In order: of two that explain as much the first is named."""
