"""How the points of the hand move, in torch: closed form, batched, on any device (twin of ``jacobian_kernels``)."""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
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
    rotations, eye = axis_angle_to_matrix(pose.hand_rotvec), torch.eye(3).to(placed)
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
    bent = (rotations[:, 1:] - torch.eye(3).to(rotations)).flatten(1)
    flat = torch.addmm(model.template.reshape(-1), torch.cat([shape, bent], 1), model.basis).unflatten(1, (-1, 3))
    offset = placed - (turned @ model.rest_joints(shape)[..., None])[..., 0]
    own = model.weights[..., None] * (torch.einsum("bjac,bvc->bvja", turned, flat) + offset[:, None])
    hangs = _hangs(model.parents).to(placed)
    above = hangs - torch.eye(16).to(hangs)  # a joint is not moved by its own turn
    mass = torch.cat([model.weights @ hangs, above])
    moment = torch.cat([torch.einsum("bvja,jk->bvka", own, hangs), above[:, :, None] * placed[:, :, None]], 1)
    lever = moment - mass[..., None] * placed[:, None]
    axes = turned.mT[:, None, 1:]  # of each joint, in the camera's
    return torch.linalg.cross(axes, lever[:, :, 1:, None]).permute(0, 1, 4, 2, 3)


def _by_correctives(model: HandModel, rotations: Float[Tensor, "B 16 3 3"]) -> Float[Tensor, "B V 3 15 3"]:
    """How finger turns move the flat hand through its pose correctives: the joint's matrix changes by ``R [e_c]x``."""
    change = rotations[:, 1:, None] @ skew(torch.eye(3).to(rotations))  # joint, axis, matrix
    tables = model.basis[10:].view(15, 9, -1)
    return torch.einsum("bjcm,jmv->bvjc", change.flatten(-2), tables).unflatten(1, (-1, 3))


def _joints_by_shape(model: HandModel, turned: Float[Tensor, "B 16 3 3"]) -> Float[Tensor, "B 16 3 10"]:
    """Each bone that a joint hangs on grows, in the frame of the joint at the bone's beginning."""
    flat = model.shape_joints.view(10, 16, 3).permute(1, 2, 0)
    parents = list(model.parents[1:])
    bones = turned[:, parents] @ (flat[1:] - flat[parents])
    steps = torch.cat([flat[:1].expand(len(turned), -1, -1, -1), bones], 1)
    return torch.einsum("jk,bkas->bjas", _hangs(model.parents).to(turned), steps)


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


@functools.lru_cache(maxsize=4)
def _hangs(parents: tuple[int, ...]) -> Float[Tensor, "16 16"]:
    """1 where the first joint hangs on the second, or is it."""
    table = torch.eye(len(parents))
    for joint in range(len(parents)):
        at = parents[joint]
        while at >= 0:
            table[joint, at] = 1
            at = parents[at]
    return table
