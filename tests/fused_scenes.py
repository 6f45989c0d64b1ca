"""For tests of fused losses: a scene as plain arrays, and what pulls on it as gradients of the pose."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from horefine.fused import FusedLoss, Posed, Pull
from horefine.geometry import axis_angle_to_matrix
from horefine.losses.fused import FUSED
from horefine.objective import Objective, options_of
from horefine.scene import Pose, Scene


def fused_of(objective: Objective, name: str, scene: Scene) -> FusedLoss | None:
    """The fused form of one term of a settled objective."""
    term = objective.terms[name]
    given = {key: objective.inputs[key] for key in term.inputs}
    return FUSED[term.function](scene, term.weight, **given, **{**options_of(term.function), **term.options})


@torch.no_grad()
def posed_of(scene: Scene) -> Posed:
    """The scene as plain arrays, by the eager code."""
    scene = dataclasses.replace(scene, pose=scene.pose.detach())  # the given one keeps its graph

    def plain(value: Tensor, kind: Any = np.float32) -> np.ndarray:
        return np.array(value.numpy(), kind, order="C")

    pose, render = scene.pose, scene.render
    return Posed(
        plain(pose.hand_rotvec), plain(axis_angle_to_matrix(pose.hand_rotvec)), plain(pose.hand_shape),
        plain(pose.hand_transl), plain(scene.hand.vertices), plain(scene.hand.joints), plain(pose.object_rotvec),
        plain(scene.object_rotation), plain(pose.object_transl), plain(scene.object_center), plain(scene.object),
        plain(render.masks), plain(render.ids, np.int32), plain(render.depth),
    )  # fmt: skip


def asked(losses: list[FusedLoss], posed: Posed, *parts: tuple[int, int]) -> tuple[np.ndarray, Pull]:
    """Value of each image and gradient, summed over the losses; asked part by part (default: all at once)."""
    batch, vertices, _ = posed.hand.shape
    pull, values = Pull.zeros(batch, vertices, (posed.ids.shape[2], posed.ids.shape[3])), np.zeros(batch)
    for loss in losses:
        for first, last in parts or ((0, len(values)),):
            loss.add(posed, pull, values, first, last)
    return values, pull


def on_the_pose(pull: Pull, scene: Scene) -> Pose:
    """The gradient on the pose's numbers. The scene's pose requires gradients.

    What it pulls on is multiplied with the parts of the scene; a turn is told by how a frame turns:
    ``sum_i (torque x r_i) . (w x r_i) = 2 torque . w`` for any frame r_1, r_2, r_3.
    """
    pose = scene.pose
    parts = {name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in vars(pull).items()}
    total = (scene.hand.vertices * parts["hand"]).sum() + (scene.hand.joints * parts["joints"]).sum()
    total = total + (scene.object_center * parts["force"]).sum() + (scene.render.masks * parts["masks"]).sum()
    total = total + (pose.hand_shape * parts["shape"]).sum() + (pose.hand_transl * parts["transl"]).sum()
    total = total + (pose.object_transl * parts["object_transl"]).sum()
    frame = scene.object_rotation
    about = torch.linalg.cross(parts["torque"][:, :, None].expand_as(frame), frame.detach(), dim=1)
    total = total + (about * frame).sum() / 2
    joints = axis_angle_to_matrix(pose.hand_rotvec)
    eye = torch.eye(3).expand_as(joints)
    about = joints.detach() @ torch.linalg.cross(parts["turns"][..., None].expand_as(joints), eye, dim=2)
    total = total + (about * joints).sum() / 2
    return graded(total, pose)


def graded(total: Tensor, pose: Pose) -> Pose:
    """Gradient on the numbers of a pose that requires gradients; zero where there is none."""
    values = [value for _, value in pose.items()]
    found = torch.autograd.grad(total, values, allow_unused=True, retain_graph=True)
    return pose.like(torch.zeros_like(v) if g is None else g for v, g in zip(values, found, strict=True))
