"""The hand's place and orientation from its dense map, fingers held as they are.

Each pixel of the map names a point of the hand's surface. Whichever way the hand is turned, size and place of its
picture then follow in closed form (weak perspective), so every orientation of a spread over all of them is tried, and
the best are improved by Gauss-Newton on the points' perspective images, both with a robust kernel: codes of a network
are often wrong altogether. Noisy codes say little about depth (they shrink or blur the picture), so depth is then taken
from the relative depth map and the object.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.align.rotations import best_apart, even_rotations
from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle, skew
from horefine.hand import HandModel
from horefine.losses.pairs import SurfacePairs, find_surface_pairs, named_points
from horefine.scene import Features, Pose

__all__ = ["align_hand", "fit_rigid"]

SIGMA = 3.0
"""Of a point's image, pixels of the map."""
RANGE = 0.3
"""Share by which the depth may differ from the given one."""
LEAST = 20
"""A hand seen in fewer pixels of its map stays where it is."""
MOST = 200
"""Pixels that are used, at most."""
APART = math.radians(35)
CODE = 0.1
"""A pixel whose code is farther than this from the surface is not used."""


@torch.no_grad()
def align_hand(pose: Pose, features: Features, hand_model: HandModel, *, rotations: int = 576) -> Pose:
    """The pose with the hand turned and moved, as it is, to where its dense map and the relative depth map show it.

    Args:
        pose: B poses. The object's centre counts: relative depth is measured from it.
        features: with ``hand_mask``, ``object_mask``, ``hand_coords``, ``object_coords``; ``depth`` if there is one.
        rotations: orientations that are tried.

    Raises:
        ValueError: a map is missing.
    """
    masks = features.hand_mask, features.object_mask
    codes = features.hand_coords, features.object_coords
    if masks[0] is None or masks[1] is None or codes[0] is None or codes[1] is None:
        raise ValueError("align_hand needs both masks and both dense maps")
    hand = hand_model(pose.hand_rotvec, pose.hand_shape, pose.hand_transl)
    middle = hand.vertices.mean(1)
    pairs = find_surface_pairs(
        hand_model, features.object, masks[0], masks[1], codes[0], codes[1], features.depth, max_pixels=MOST
    )
    points = named_points(hand.vertices, pairs, 0) - middle[:, None]
    weight = pairs.valid[:, 0] * (pairs.distance[:, 0] < CODE)
    turn, moved = torch.eye(3, device=middle.device).repeat(len(middle), 1, 1), middle.clone()
    for image in range(len(pose)):
        used = weight[image] > 0
        if int(used.sum()) < LEAST:
            continue
        turn[image], moved[image] = fit_rigid(
            points[image, used], pairs.pixel[image, 0, used], features.camera.matrix[image], middle[image], rotations
        )
    if features.depth is not None:
        moved = _at_depth(turn, moved, points, pairs, weight, pose, features)
    return _turned(pose, turn, moved, middle, hand.joints[:, 0])


def fit_rigid(
    points: Float[Tensor, "N 3"],
    pixels: Float[Tensor, "N 2"],
    matrix: Float[Tensor, "3 3"],
    center: Float[Tensor, "3"],
    rotations: int = 576,
    finalists: int = 4,
) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "3"]]:
    """Rotation and translation that put ``points`` (about their middle) on ``pixels``, from any orientation.

    Args:
        points: metres, about the origin that is turned about.
        matrix: intrinsics.
        center: where the origin is now, camera frame; its depth may change by 30 %.
        rotations: orientations that are tried first.
        finalists: how many of them are improved.
    """
    spread = torch.cat([torch.eye(3, device=points.device)[None], even_rotations(rotations).to(points)])
    cost, scale, offset = _weak_perspective(points, pixels, matrix, center[2], spread)
    chosen = best_apart(cost, spread, finalists, APART)
    focal = (matrix[0, 0] * matrix[1, 1]).sqrt()
    depth = focal / scale[chosen]
    ray = (offset[chosen] - matrix[:2, 2]) / torch.stack([matrix[0, 0], matrix[1, 1]])
    translation = torch.cat([ray * depth[:, None], depth[:, None]], 1)
    turn, translation, cost = _gauss_newton(points, pixels, matrix, spread[chosen], translation)
    best = cost.argmin()
    return turn[best], translation[best]


def _weak_perspective(
    points: Tensor, pixels: Tensor, matrix: Tensor, depth: Tensor, rotations: Float[Tensor, "R 3 3"], rounds: int = 4
) -> tuple[Float[Tensor, "R"], Float[Tensor, "R"], Float[Tensor, "R 2"]]:
    """Robust cost, scale (pixels a metre) and image of the origin for each orientation, by reweighted least squares."""
    flat = torch.einsum("rij,nj->rni", rotations[:, :2], points)
    usual = (matrix[0, 0] * matrix[1, 1]).sqrt() / depth
    weight = torch.ones_like(flat[..., 0])
    square = scale = target = middle = kernel = weight  # replaced in the first round
    for done in range(rounds + 1):
        total = weight.sum(1, keepdim=True).clamp_min(1e-6)
        middle = (weight[..., None] * flat).sum(1) / total
        target = (weight[..., None] * pixels).sum(1) / total
        a, b = flat - middle[:, None], pixels - target[:, None]
        scale = (weight[..., None] * a * b).sum((1, 2)) / (weight[..., None] * a * a).sum((1, 2)).clamp_min(1e-9)
        scale = scale.clamp(usual / (1 + RANGE), usual * (1 + RANGE))
        square = (scale[:, None, None] * a - b).square().sum(-1)
        width = SIGMA * (4.0, 2.0, 1.0)[min(done, 2)]
        kernel = 1 / (1 + square / width**2)
        weight = kernel.square()
    return (square * kernel).mean(1), scale, target - scale[:, None] * middle


def _gauss_newton(
    points: Tensor, pixels: Tensor, matrix: Tensor, turn: Float[Tensor, "K 3 3"], translation: Float[Tensor, "K 3"]
) -> tuple[Tensor, Tensor, Float[Tensor, "K"]]:
    """Fifteen damped steps on the perspective images, reweighted by a Geman-McClure kernel; and the cost reached."""
    fx, fy = matrix[0, 0], matrix[1, 1]
    eye = torch.eye(6, device=points.device)
    cost = torch.zeros_like(translation[:, 0])
    for done in range(16):
        moved = points @ turn.mT
        x, y, z = (moved + translation[:, None]).unbind(-1)
        z = z.clamp_min(0.05)
        residual = torch.stack([fx * x / z, fy * y / z], -1) + matrix[:2, 2] - pixels
        square = residual.square().sum(-1)
        width = SIGMA * (2.0 if done < 4 else 1.0)
        kernel = 1 / (1 + square / width**2)
        cost = (square * kernel).mean(1)
        if done == 15:  # the last pose is judged, but not moved
            break
        zero = torch.zeros_like(z)
        across = torch.stack([fx / z, zero, -fx * x / z**2, zero, fy / z, -fy * y / z**2], -1).unflatten(-1, (2, 3))
        jacobian = torch.cat([across, -across @ skew(moved)], -1)
        weighted = jacobian * kernel.square()[..., None, None]
        normal = torch.einsum("knij,knil->kjl", weighted, jacobian)
        gradient = torch.einsum("knij,kni->kj", weighted, residual)
        damping = 1e-3 * torch.diagonal(normal, dim1=1, dim2=2).clamp_min(1e-3)
        step = -torch.linalg.solve(normal + damping[:, None] * eye, gradient)
        translation = translation + step[:, :3].clamp(-0.1, 0.1)
        turn = axis_angle_to_matrix(step[:, 3:].clamp(-0.6, 0.6)) @ turn
    return turn, translation, cost


def _at_depth(
    turn: Tensor, moved: Tensor, points: Tensor, pairs: SurfacePairs, weight: Tensor, pose: Pose, features: Features
) -> Float[Tensor, "B 3"]:
    """The hand along its ray at the median of the depths that its pixels ask for."""
    mesh = features.object
    center = (axis_angle_to_matrix(pose.object_rotvec) @ mesh.center[..., None])[..., 0] + pose.object_transl
    asked = pairs.depth[:, 0] + center[:, 2:] - (points @ turn.mT)[..., 2]
    asked = torch.where(weight > 0, asked, torch.nan).nanmedian(1).values
    enough = (weight > 0).sum(1) >= LEAST
    depth = torch.where(enough & (asked > 0.05), asked, moved[:, 2])
    return moved * (depth / moved[:, 2])[:, None]


def _turned(pose: Pose, turn: Tensor, moved: Tensor, middle: Tensor, wrist: Tensor) -> Pose:
    """The hand turned about its middle, which goes to ``moved``."""
    rotvec = pose.hand_rotvec.clone()
    rotvec[:, 0] = matrix_to_axis_angle(turn @ axis_angle_to_matrix(rotvec[:, 0]))
    target = (turn @ (wrist - middle)[..., None])[..., 0] + moved
    return dataclasses.replace(pose, hand_rotvec=rotvec, hand_transl=pose.hand_transl + target - wrist)
