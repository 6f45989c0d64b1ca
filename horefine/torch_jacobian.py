"""How the points of the hand move, in torch: closed form, batched, on any device (twin of ``jacobian_kernels``)."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.geometry import axis_angle_to_matrix, skew
from horefine.hand import HandModel
from horefine.scene import Scene

__all__ = ["hand_slopes"]


def hand_slopes(scene: Scene) -> Float[Tensor, "B P 3 61"]:
    """Slopes of the vertices and the 16 joints on the hand's plain columns (see :mod:`horefine.jacobian`).

    Translation, turn of the whole hand about the centroid of its vertices (camera axes), 15 finger turns (each in its
    own frame), shape. In the precision of the pose; 0.6 MB an image in single.
    """
    model, pose, hand = scene.hand_model, scene.pose, scene.hand
    turned, placed = hand.transforms[:, :, :3, :3], hand.transforms[:, :, :3, 3]
    rotations, eye = axis_angle_to_matrix(pose.hand_rotvec), _eye(placed)
    count, positions = hand.vertices.shape[1], torch.cat([hand.vertices, placed], 1)
    blend = torch.einsum("vj,bjac->bvac", model.weights, turned)
    slopes = positions.new_zeros(*positions.shape[:2], 3, 61)
    slopes[..., 0:3] = eye
    slopes[..., 3:6] = -skew(positions - hand.vertices.mean(1, keepdim=True))
    fingers = _by_skinning(scene, rotations, turned, placed)
    fingers[:, :count] += torch.einsum("bvac,bvcjk->bvajk", blend, _by_correctives(model, rotations))
    slopes[..., 6:51] = fingers.flatten(-2)
    grown = _joints_by_shape(model, turned)
    slopes[:, :count, :, 51:] = _vertices_by_shape(model, turned, grown, blend)
    slopes[:, count:, :, 51:] = grown
    return slopes


def _by_skinning(
    scene: Scene,
    rotations: Float[Tensor, "B 16 3 3"],
    turned: Float[Tensor, "B 16 3 3"],
    placed: Float[Tensor, "B 16 3"],
) -> Float[Tensor, "B P 3 15 3"]:
    """Slope on the turns of each finger joint: ``axis x lever``, the lever being the moment of what hangs on it.

    ``turned``, ``placed``: global rotation and place of the joints, camera frame.
    """
    model, shape = scene.hand_model, scene.pose.hand_shape
    bent, tables = (rotations[:, 1:] - _eye(rotations)).flatten(1), _tables(model)
    flat = torch.addmm(model.template.reshape(-1), torch.cat([shape, bent], 1), model.basis).unflatten(1, (-1, 3))
    offset = placed - (turned @ model.rest_joints(shape)[..., None])[..., 0]
    own = model.weights[..., None] * (torch.einsum("bjac,bvc->bvja", turned, flat) + offset[:, None])
    joints = tables.above[:, :, None] * placed[:, :, None]
    moment = torch.cat([torch.einsum("bvja,jk->bvka", own, tables.hangs), joints], 1)
    lever = moment - tables.mass[..., None] * placed[:, None]
    axes = turned.mT[:, None, 1:]  # of each joint, in the camera's
    return torch.linalg.cross(axes, lever[:, :, 1:, None]).permute(0, 1, 4, 2, 3)


def _by_correctives(model: HandModel, rotations: Float[Tensor, "B 16 3 3"]) -> Float[Tensor, "B V 3 15 3"]:
    """How finger turns move the flat hand through its pose correctives: the joint's matrix changes by ``R [e_c]x``."""
    change = rotations[:, 1:, None] @ skew(_eye(rotations))  # joint, axis, matrix
    tables = model.basis[10:].view(15, 9, -1)
    return torch.einsum("bjcm,jmv->bvjc", change.flatten(-2), tables).unflatten(1, (-1, 3))


def _joints_by_shape(model: HandModel, turned: Float[Tensor, "B 16 3 3"]) -> Float[Tensor, "B 16 3 10"]:
    """Each bone that a joint hangs on grows, in the frame of the joint at the bone's beginning."""
    tables = _tables(model)
    steps = turned.index_select(1, tables.parents) @ tables.bones[1:]
    steps = torch.cat([tables.bones[:1].expand(len(turned), -1, -1, -1), steps], 1)
    return torch.einsum("jk,bkas->bjas", tables.hangs, steps)


def _vertices_by_shape(
    model: HandModel,
    turned: Float[Tensor, "B 16 3 3"],
    grown: Float[Tensor, "B 16 3 10"],
    blend: Float[Tensor, "B V 3 3"],
) -> Float[Tensor, "B V 3 10"]:
    """By the bones (their places move, and those of the flat joints), and by the flat hand itself."""
    offset = grown - turned @ model.shape_joints.view(10, 16, 3).permute(1, 2, 0)
    directions = model.basis[:10].view(10, -1, 3).permute(1, 2, 0)
    return torch.einsum("vj,bjak->bvak", model.weights, offset) + blend @ directions


@dataclass(frozen=True)
class _Tables:
    """What of a hand model's skeleton never changes, on its device: made once, as each copy makes the host wait."""

    hangs: Float[Tensor, "16 16"]
    """1 where the first joint hangs on the second, or is it."""
    above: Float[Tensor, "16 16"]
    """The same without the joints themselves: which turns move a joint."""
    mass: Float[Tensor, "P 16"]
    """Share of each vertex and joint that hangs on a joint."""
    parents: Int[Tensor, "15"]
    """Of all joints but the first."""
    bones: Float[Tensor, "16 3 10"]
    """How each shape value moves a joint of the flat hand from its parent."""


@functools.lru_cache(maxsize=4)
def _tables(model: HandModel) -> _Tables:
    hangs, parents = torch.eye(16), list(model.parents[1:])
    for joint, parent in enumerate(parents, start=1):  # parents come before their children
        hangs[joint] += hangs[parent]
    hangs = hangs.to(model.weights)
    above, flat = hangs - _eye(hangs, 16), model.shape_joints.view(10, 16, 3).permute(1, 2, 0)
    bones = torch.cat([flat[:1], flat[1:] - flat[parents]])
    mass = torch.cat([model.weights @ hangs, above])
    return _Tables(hangs, above, mass, torch.tensor(parents, device=hangs.device), bones)


def _eye(like: Tensor, size: int = 3) -> Float[Tensor, "N N"]:
    return torch.eye(size, dtype=like.dtype, device=like.device)
