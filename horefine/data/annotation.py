"""From a dataset's annotation to the house's: poses of matrices, boxes of points, a hand from joints or mesh."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from horefine.data import Sample
from horefine.data.known import keypoint_box
from horefine.data.mirror import mirror_pose
from horefine.errors import InputError
from horefine.geometry import Box, Camera, axis_angle_to_matrix, matrix_to_axis_angle, project, skew
from horefine.hand import HandModel
from horefine.inverse_kinematics import joints_to_pose
from horefine.scene import Pose

__all__ = [
    "GIVE",
    "HandPose",
    "box_of",
    "fit_joints",
    "fit_vertices",
    "give_annotation",
    "nearest_rotation",
    "pose_of",
    "rigid",
]

GIVE = ("boxes", "wrist", "keypoints")
"""What of its annotation a sample may come with (a dataset's option ``give``), as papers assume at test time."""
_NEAR = 0.01


@dataclass(frozen=True)
class HandPose:
    """One hand (B = 1), of a left hand as the right one that it mirrors."""

    rotvec: Float[Tensor, "1 16 3"]
    shape: Float[Tensor, "1 10"]
    transl: Float[Tensor, "1 3"]
    residual: float = 0.0
    """How far it is from what it was fitted to, metres, on the mean."""


def pose_of(hand: HandPose, object_matrix: Float[ndarray, "4 4"], side: str) -> Pose:
    """The pose of a hand (as :class:`HandPose` has it) and its object (as it is), both as they are in the picture."""
    matrix = torch.from_numpy(np.ascontiguousarray(object_matrix, np.float64))
    rotvec = matrix_to_axis_angle(nearest_rotation(matrix[:3, :3]))[None].float()
    transl = matrix[:3, 3][None].float()
    pose = Pose(hand.rotvec, hand.shape, hand.transl, rotvec, transl)
    if side == "right":
        return pose
    left = mirror_pose(pose)
    return Pose(left.hand_rotvec, left.hand_shape, left.hand_transl, rotvec, transl)


def nearest_rotation(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation closest to a matrix that rounding (text files, float32) has moved a little off."""
    left, _, right = torch.linalg.svd(matrix)
    turn = torch.ones_like(matrix[..., 0])
    turn[..., 2] = (left @ right).det().sign()
    return (left * turn[..., None, :]) @ right


def give_annotation(sample: Sample, give: Collection[str], surface: Float[ndarray, "N 3"] | None = None) -> Sample:
    """The sample with what it is given (:data:`GIVE`) of its annotated ``joints``, and the box of its object.

    Args:
        surface: Points of the object, metres, camera frame.
    """
    more: dict[str, Any] = {}
    joints = sample.joints
    if joints is not None and joints.isfinite().all() and bool((joints[:, 2] > _NEAR).all()):
        if "boxes" in give:
            more["hand_box"] = box_of(joints.double().numpy(), sample.camera, 1.2)
        if "keypoints" in give:
            more["keypoints"] = project(joints[None], sample.camera.matrix)[0]
        if "wrist" in give:
            more["wrist"] = tuple(joints[0].tolist())
    if "boxes" in give and surface is not None:
        more["object_box"] = box_of(surface, sample.camera)
    return replace(sample, **more) if more else sample


def box_of(points: Float[ndarray, "N 3"], camera: Camera, factor: float = 1.0) -> Box | None:
    """The box around points (metres, camera frame) in the picture, grown about its middle; None where none is in it."""
    known = torch.from_numpy(np.ascontiguousarray(points, np.float64))
    known = known[known.isfinite().all(1)]
    known = known[known[:, 2] > _NEAR]
    if len(known) < 2:
        return None
    x0, y0, x1, y1 = keypoint_box(project(known[None], camera.matrix.double())[0], factor)
    height, width = camera.size
    inside = x0 < width and y0 < height and x1 > 0 and y1 > 0 and x1 - x0 >= 2 and y1 - y0 >= 2
    return (x0, y0, x1, y1) if inside else None


def fit_joints(joints: Float[ndarray, "21 3"], side: str, hand: HandModel) -> HandPose:
    """The hand that shows 21 annotated joints (house order, metres, as they are in the picture).

    Raises:
        InputError: they show no hand of that side.
    """
    found = joints_to_pose(torch.from_numpy(np.ascontiguousarray(joints, np.float32)), hand, side=side)
    if not bool(found.usable[0]):
        raise InputError("; ".join(found.notes[0]) or "the annotated joints show no hand")
    return HandPose(found.rotvec, found.shape, found.transl, float(found.residual.nanmean()))


@torch.no_grad()
def fit_vertices(
    vertices: Float[ndarray, "V 3"], fingers: Sequence[Float[Tensor, "15 3"]], side: str, hand: HandModel
) -> HandPose:
    """The wrist's rotation, shape and place that bring a hand model's vertices to given ones.

    For datasets that give a mesh with MANO's vertices and finger rotations in a convention they do not name: each of
    ``fingers`` (axis-angle, relative to the flat hand) is tried, the best kept. With rotations fixed the
    vertices are affine in the shape: Gauss-Newton, from the rotation of Kabsch (1976), needs a few steps.

    Raises:
        InputError: another number of vertices than the model's.
    """
    target = torch.from_numpy(np.ascontiguousarray(vertices, np.float64))
    if target.shape != hand.template.shape:
        raise InputError(f"a hand mesh of {len(target)} vertices; MANO's has {len(hand.template)}")
    if side == "left":
        target = target * torch.tensor([-1.0, 1.0, 1.0])
    model = hand.to(dtype=torch.float64)
    tried = [_fit(target, rotations.double(), model) for rotations in fingers]
    return min(tried, key=lambda found: found.residual)


def _fit(target: Tensor, fingers: Tensor, hand: HandModel) -> HandPose:
    shape, zero = torch.zeros(10, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    local = torch.cat([zero, fingers])
    shapes = torch.cat([torch.zeros(1, 10), torch.eye(10)]).double()
    posed = hand(local.expand(11, 16, 3), shapes, zero.expand(11, 3)).vertices
    base, steps = posed[0], posed[1:] - posed[:1]
    turn, place = rigid(base, target)
    offset_columns = torch.eye(3).double().repeat(len(target), 1)
    for _ in range(6):  # Gauss-Newton in the hand's own frame: shape, a small turn, a small move
        now = base + torch.einsum("k,kvc->vc", shape, steps)
        missing = (target - place) @ turn - now
        turning = -skew(now).reshape(-1, 3)
        columns = torch.cat([steps.reshape(10, -1).T, turning, offset_columns], 1)
        ridge = 1e-9 * torch.diag(columns.square().sum(0))
        step = torch.linalg.solve(columns.T @ columns + ridge, columns.T @ missing.reshape(-1))
        shape = shape + step[:10]
        place = place + turn @ step[13:]
        turn = turn @ axis_angle_to_matrix(step[10:13])
    final = base + torch.einsum("k,kvc->vc", shape, steps)
    residual = float(((final @ turn.T + place) - target).norm(dim=-1).mean())
    root = hand.rest_joints(shape[None])[0, 0]
    # the model turns about its wrist: R (v - root) + root + transl = R v + place
    transl = place + turn @ root - root
    rotvec = torch.cat([matrix_to_axis_angle(turn)[None], fingers])
    return HandPose(rotvec[None].float(), shape[None].float(), transl[None].float(), residual)


def rigid(
    points: Float[Tensor, "N 3"], target: Float[Tensor, "N 3"]
) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "3"]]:
    """Rotation and translation that bring points to their partners, least squares (Kabsch 1976)."""
    a, b = points.mean(0), target.mean(0)
    turn = nearest_rotation((target - b).T @ (points - a))
    return turn, b - turn @ a
