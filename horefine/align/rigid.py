"""The hand's place and orientation from its dense map, fingers held as they are.

Each pixel of the map names a point of the hand's surface. Whichever way the hand is turned, size and place of its
picture then follow in closed form (weak perspective), so every orientation of a spread over all of them is tried, and
the best are improved by Gauss-Newton on the points' perspective images, both with a robust kernel: codes of a network
are often wrong altogether. A nearly flat hand looks like its mirror image; the relative depth map tells which it is.
Noisy codes say little about depth (they shrink or blur the picture), so the hand's own is then taken from the relative
depth map and the object.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

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
IN_DEPTH = SIGMA / 0.04
"""Errors in depth have a sigma of 4 cm: enough to tell a flat hand from its mirror image, no more."""
RANGE = 0.3
"""Share by which the depth may differ from the given one."""
LEAST = 20
"""A hand seen in fewer pixels of its map stays where it is."""
MOST = 200
"""Pixels that are used, at most."""
APART = math.radians(35)
TIE = math.radians(20)
"""The orientation that a regressor gives the hand is off by about this (``benchmarks/results/train_hoisdf.md``)."""
WORTH = 20
"""A dense map of a network errs alike over regions: however many its pixels, it is worth so many independent ones."""
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
            points[image, used], pairs.pixel[image, 0, used], features.camera.matrix[image], middle[image],
            None if features.depth is None else pairs.depth[image, 0, used], rotations, tie=TIE,
        )  # fmt: skip
    if features.depth is not None:
        moved = _at_depth(turn, moved, points, pairs, weight, pose, features)
    return _turned(pose, turn, moved, middle, hand.joints[:, 0])


def fit_rigid(
    points: Float[Tensor, "N 3"],
    pixels: Float[Tensor, "N 2"],
    matrix: Float[Tensor, "3 3"],
    center: Float[Tensor, "3"],
    depth: Float[Tensor, "N"] | None = None,
    rotations: int = 576,
    finalists: int = 6,
    tie: float = 0.0,
) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "3"]]:
    """Rotation and translation that put ``points`` (about their middle) on ``pixels``, from any orientation.

    A nearly flat hand looks alike in two orientations; depths, if there are any, tell them apart.

    Args:
        points: metres, about the origin that is turned about.
        matrix: intrinsics.
        center: where the origin is now, camera frame; its depth may change by 30 %.
        depth: of each point, metres, up to a common offset, which is not used.
        rotations: orientations that are tried first.
        finalists: how many of them are improved.
        tie: how far, radians, the given orientation is usually off; 0: nothing is known of it.
    """
    spread = torch.cat([torch.eye(3, device=points.device)[None], even_rotations(rotations).to(points)])
    seen = (
        _Observed(pixels, torch.zeros_like(pixels[:, 0]), 0.0) if depth is None else _Observed(pixels, depth, IN_DEPTH)
    )
    usual = _Tie(tie)
    cost, scale, offset = _weak_perspective(points, seen, matrix, center[2], spread)
    cost = cost + usual.cost(spread)
    chosen = best_apart(cost, spread, finalists, APART)
    focal = (matrix[0, 0] * matrix[1, 1]).sqrt()
    away = focal / scale[chosen]
    ray = (offset[chosen] - matrix[:2, 2]) / torch.stack([matrix[0, 0], matrix[1, 1]])
    translation = torch.cat([ray * away[:, None], away[:, None]], 1)
    turn, translation, cost = _gauss_newton(points, seen, matrix, spread[chosen], translation, usual)
    best = cost.argmin()
    return turn[best], translation[best]


@dataclass(frozen=True)
class _Observed:
    """Where the points are seen."""

    pixels: Float[Tensor, "N 2"]
    depth: Float[Tensor, "N"]
    """Metres, up to a common offset."""
    pixels_a_metre: float
    """What an error in depth counts, in errors of the picture; 0: depths are not known."""

    def behind(self, z: Float[Tensor, "R N"], weight: Float[Tensor, "R N"]) -> Float[Tensor, "R N"]:
        """Errors of depths ``z`` in pixels, after the offset that fits the weighted points best."""
        away = z - self.depth
        mean = (weight * away).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1e-6)
        return self.pixels_a_metre * (away - mean)


@dataclass(frozen=True)
class _Tie:
    """The turn is likely small: squares with a robust kernel, in the errors of :data:`WORTH` pixels."""

    sigma: float

    def cost(self, turn: Float[Tensor, "K 3 3"]) -> Float[Tensor, "K"]:
        return SIGMA**2 / WORTH * self._square(turn) * self._kernel(turn)

    def normal(self, turn: Float[Tensor, "K 3 3"], pixels: int) -> tuple[Float[Tensor, "K"], Float[Tensor, "K 3"]]:
        """Weight on a turn, and gradient, beside the sum over ``pixels`` pixels' squared errors."""
        if not self.sigma:
            return turn.new_zeros(len(turn)), turn.new_zeros(len(turn), 3)
        weight = pixels / WORTH * (SIGMA / self.sigma) ** 2 * self._kernel(turn).square()
        return weight, weight[:, None] * matrix_to_axis_angle(turn)

    def _square(self, turn: Tensor) -> Tensor:
        return (matrix_to_axis_angle(turn) / self.sigma).square().sum(-1) if self.sigma else turn.new_zeros(len(turn))

    def _kernel(self, turn: Tensor) -> Tensor:
        return 1 / (1 + self._square(turn) / 9)


def _weak_perspective(
    points: Tensor, seen: _Observed, matrix: Tensor, depth: Tensor, rotations: Float[Tensor, "R 3 3"], rounds: int = 4
) -> tuple[Float[Tensor, "R"], Float[Tensor, "R"], Float[Tensor, "R 2"]]:
    """Robust cost, scale (pixels a metre) and image of the origin for each orientation, by reweighted least squares."""
    turned = torch.einsum("rij,nj->rni", rotations, points)
    flat = turned[..., :2]
    usual = (matrix[0, 0] * matrix[1, 1]).sqrt() / depth
    weight = torch.ones_like(flat[..., 0])
    square = scale = target = middle = kernel = weight  # replaced in the first round
    for done in range(rounds + 1):
        total = weight.sum(1, keepdim=True).clamp_min(1e-6)
        middle = (weight[..., None] * flat).sum(1) / total
        target = (weight[..., None] * seen.pixels).sum(1) / total
        a, b = flat - middle[:, None], seen.pixels - target[:, None]
        scale = (weight[..., None] * a * b).sum((1, 2)) / (weight[..., None] * a * a).sum((1, 2)).clamp_min(1e-9)
        scale = scale.clamp(usual / (1 + RANGE), usual * (1 + RANGE))
        square = (scale[:, None, None] * a - b).square().sum(-1) + seen.behind(turned[..., 2], weight).square()
        width = SIGMA * (4.0, 2.0, 1.0)[min(done, 2)]
        kernel = 1 / (1 + square / width**2)
        weight = kernel.square()
    return (square * kernel).mean(1), scale, target - scale[:, None] * middle


def _gauss_newton(
    points: Tensor,
    seen: _Observed,
    matrix: Tensor,
    turn: Float[Tensor, "K 3 3"],
    translation: Float[Tensor, "K 3"],
    usual: _Tie,
) -> tuple[Tensor, Tensor, Float[Tensor, "K"]]:
    """Fifteen damped steps on perspective images and depths, reweighted by a Geman-McClure kernel; and the cost."""
    eye = torch.eye(6, device=points.device)
    cost, weight = torch.zeros_like(translation[:, 0]), torch.ones(len(turn), len(points), device=points.device)
    for done in range(16):
        moved = points @ turn.mT
        residual, jacobian = _residuals(moved, translation, seen, matrix, weight)
        square = residual.square().sum(-1)
        width = SIGMA * (2.0 if done < 4 else 1.0)
        kernel = 1 / (1 + square / width**2)
        weight, cost = kernel.square(), (square * kernel).mean(1) + usual.cost(turn)
        if done == 15:  # the last pose is judged, but not moved
            break
        weighted = jacobian * weight[..., None, None]
        normal = torch.einsum("knij,knil->kjl", weighted, jacobian)
        gradient = torch.einsum("knij,kni->kj", weighted, residual)
        stiff, pull = usual.normal(turn, len(points))
        normal[:, 3:, 3:] += stiff[:, None, None] * eye[3:, 3:]
        gradient[:, 3:] += pull
        damping = 1e-3 * torch.diagonal(normal, dim1=1, dim2=2).clamp_min(1e-3)
        step = -torch.linalg.solve(normal + damping[:, None] * eye, gradient)
        translation = translation + step[:, :3].clamp(-0.1, 0.1)
        turn = axis_angle_to_matrix(step[:, 3:].clamp(-0.6, 0.6)) @ turn
    return turn, translation, cost


def _residuals(
    moved: Float[Tensor, "K N 3"], translation: Float[Tensor, "K 3"], seen: _Observed, matrix: Tensor, weight: Tensor
) -> tuple[Float[Tensor, "K N 3"], Float[Tensor, "K N 3 6"]]:
    """Errors of picture and depth, pixels, and their change with the translation and a turn about the origin."""
    fx, fy = matrix[0, 0], matrix[1, 1]
    x, y, z = (moved + translation[:, None]).unbind(-1)
    z = z.clamp_min(0.05)
    flat = torch.stack([fx * x / z, fy * y / z], -1) + matrix[:2, 2] - seen.pixels
    residual = torch.cat([flat, seen.behind(z, weight)[..., None]], -1)
    zero = torch.zeros_like(z)
    across = torch.stack([fx / z, zero, -fx * x / z**2, zero, fy / z, -fy * y / z**2], -1).unflatten(-1, (2, 3))
    arm = skew(moved)
    along = seen.pixels_a_metre * -arm[..., 2:, :]  # a common depth is the offset, which is not used
    along = along - (weight[..., None, None] * along).sum(1, keepdim=True) / weight.sum(1)[:, None, None, None]
    behind = torch.cat([torch.zeros_like(along), along], -1)
    return residual, torch.cat([torch.cat([across, -across @ arm], -1), behind], -2)


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
