"""Priors and ties to the start, fused (:mod:`horefine.fused`).

Readable twins: ``prior.pose_prior``, ``articulation``, ``anatomy`` (its limits), ``shape_prior``, ``orientation`` and
``offset``. In double: 48 angles cost next to nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from torch import Tensor

from horefine.fused import Posed, Pull
from horefine.geometry import axis_angle_to_matrix
from horefine.losses import prior
from horefine.losses.cpf import rotvec_to_quaternion
from horefine.scene import Scene

__all__ = [
    "FusedAngles",
    "FusedTies",
    "anatomy_maker",
    "articulation_maker",
    "offset_maker",
    "orientation_maker",
    "pose_maker",
    "shape_maker",
]

_WAYS = {"nogil": True, "error_model": "numpy", "fastmath": {"nsz", "arcp", "contract", "reassoc"}}
_jit, _inline_jit = njit(cache=True, **_WAYS), njit(forceinline=True, **_WAYS)
FINGERS, SHAPE, HAND, OBJECT, OBJECT_TURN, WRIST = range(6)
"""Weights of ties."""


@_inline_jit
def _beyond(angle, low, high, scale):
    """Cost and slope of an angle that should lie between two numbers."""
    excess = max(angle - high, 0.0) - max(low - angle, 0.0)
    return scale * excess * excess, 2 * scale * excess


@_jit
def _pull_angles(first, last, turns, axes, low, high, scale, values, pull):
    """Adds cost and gradient of twist, splay and bend of the 15 finger joints.

    With M = A^T R A, of which rows 1 and 2 are needed in one number each: splay = asin M02, twist = atan2(-M12, M22),
    bend = atan2(-M01, M00). A turn w in the joint's frame is w' = A^T w in the axes and changes M by M [w']x.
    """
    for b in range(first, last):
        total = 0.0
        for j in range(15):
            a, turn = axes[j + 1], turns[b, j + 1]
            m00, m01, m02, m12, m22 = 0.0, 0.0, 0.0, 0.0, 0.0
            for r in range(3):
                t0 = turn[r, 0] * a[0, 0] + turn[r, 1] * a[1, 0] + turn[r, 2] * a[2, 0]
                t1 = turn[r, 0] * a[0, 1] + turn[r, 1] * a[1, 1] + turn[r, 2] * a[2, 1]
                t2 = turn[r, 0] * a[0, 2] + turn[r, 1] * a[1, 2] + turn[r, 2] * a[2, 2]
                m00, m01, m02 = m00 + a[r, 0] * t0, m01 + a[r, 0] * t1, m02 + a[r, 0] * t2
                m12, m22 = m12 + a[r, 1] * t2, m22 + a[r, 2] * t2
            sine = min(max(m02, -1 + 1e-7), 1 - 1e-7)
            cost, twist = _beyond(math.atan2(-m12, m22), low[b, j, 0], high[b, j, 0], scale[j, 0])
            total += cost
            cost, splay = _beyond(math.asin(sine), low[b, j, 1], high[b, j, 1], scale[j, 1])
            total += cost
            cost, bend = _beyond(math.atan2(-m01, m00), low[b, j, 2], high[b, j, 2], scale[j, 2])
            total += cost
            twist /= max(m12 * m12 + m22 * m22, 1e-14)
            flat = m00 * m00 + m01 * m01
            splay = splay / math.sqrt(1 - sine * sine) if sine == m02 else 0.0
            bend /= max(flat, 1e-14)
            x = twist * m00 - splay * m01 - bend * m00 * m02
            y = twist * m01 + splay * m00 - bend * m01 * m02
            z = bend * flat
            for r in range(3):
                pull[b, j + 1, r] += a[r, 0] * x + a[r, 1] * y + a[r, 2] * z
        values[b] += total


@dataclass(frozen=True)
class FusedAngles:
    """Squares of what twists, splays and bends of the finger joints are beyond an interval, which may be one number."""

    axes: Float[np.ndarray, "16 3 3"]
    low: Float[np.ndarray, "B 15 3"]
    high: Float[np.ndarray, "B 15 3"]
    scale: Float[np.ndarray, "15 3"]
    """What the squares are multiplied with."""
    wants: frozenset[str] = frozenset()

    def add(self, posed: Posed, pull: Pull, values: Float[np.ndarray, "B"], first: int, last: int) -> None:
        """See :class:`horefine.fused.FusedLoss`."""
        _pull_angles(first, last, posed.turns, self.axes, self.low, self.high, self.scale, values, pull.turns)


def _angles(scene: Scene, low: Tensor, high: Tensor, scale: Tensor) -> FusedAngles:
    shape = (len(scene.pose), 15, 3)
    return FusedAngles(
        _double(scene.hand_model.axes), _double(low.expand(shape)), _double(high.expand(shape)), _double(scale)
    )


def pose_maker(scene: Scene, weight: float, *, width: float, **_: Any) -> FusedAngles:
    """Maker of ``pose_prior``."""
    low, high = scene.hand_model.limits.unbind(-1)
    relaxed = prior.relaxed_angles(scene.hand_model)
    return _angles(scene, relaxed, relaxed, weight / (width * (high - low) / 4).square())


def articulation_maker(scene: Scene, weight: float, *, sigma: float, **_: Any) -> FusedAngles:
    """Maker of ``articulation``."""
    first = prior.first_angles(scene)
    return _angles(scene, first, first, torch.full((15, 3), weight / sigma**2))


def anatomy_maker(scene: Scene, weight: float, *, variant: str, sigma: float, **_: Any) -> FusedAngles | None:
    """Maker of ``anatomy``, our variant."""
    if variant != "limits":
        return None
    low, high = scene.hand_model.limits.unbind(-1)
    return _angles(scene, low, high, torch.full((15, 3), weight / sigma**2))


@_inline_jit
def _half_turn(x, y, z):
    """Unit quaternion w, x, y, z of a rotation vector."""
    angle = math.sqrt(x * x + y * y + z * z)
    share = 0.5 - angle * angle / 48 if angle < 1e-4 else math.sin(angle / 2) / angle
    return math.cos(angle / 2), share * x, share * y, share * z


@_jit
def _pull_fingers(rotvec, start, weight, pull):
    """Mean over the finger joints of ``(cos(d/2) - 1)^2``, d the angle turned since the start, times ``weight``."""
    total = 0.0
    for j in range(start.shape[0]):
        w, x, y, z = _half_turn(
            np.float64(rotvec[j + 1, 0]), np.float64(rotvec[j + 1, 1]), np.float64(rotvec[j + 1, 2])
        )
        w0, x0, y0, z0 = start[j, 0], start[j, 1], start[j, 2], start[j, 3]
        cosine = w * w0 + x * x0 + y * y0 + z * z0
        gap = abs(cosine) - 1
        total += gap * gap
        # turning by w in the joint's own frame changes the quaternion by half its product with (0, w)
        slope = weight / start.shape[0] * gap * (1.0 if cosine >= 0 else -1.0)
        pull[j + 1, 0] += slope * (w * x0 - w0 * x + y0 * z - z0 * y)
        pull[j + 1, 1] += slope * (w * y0 - w0 * y + z0 * x - x0 * z)
        pull[j + 1, 2] += slope * (w * z0 - w0 * z + x0 * y - y0 * x)
    return weight * total / start.shape[0]


@_jit
def _pull_turn(turn, start, weight, outside, pull):
    """``weight |R - R_0|^2`` and its slope to a turn in R's own frame, or about the camera's axes (``outside``)."""
    total = 0.0
    product = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            gap = turn[i, j] - start[i, j]
            total += gap * gap
            for k in range(3):
                product[i, j] += start[i, k] * turn[j, k] if outside else turn[k, i] * start[k, j]
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        pull[i] -= 2 * weight * (product[k, j] - product[j, k])
    return weight * total


@_jit
def _pull_numbers(now, start, weight, pull):
    """``weight |now - start|^2``."""
    total = 0.0
    for i in range(now.shape[0]):
        gap = now[i] - start[i]
        total += gap * gap
        pull[i] += 2 * weight * gap
    return weight * total


@_jit
def _pull_ties(
    first, last, rotvec, turns, shape, transl, object_turn, object_transl, fingers, wrist, flat, weights,
    values, pull_turns, pull_shape, pull_transl, torque, pull_object,
):  # fmt: skip
    """Adds the ties whose weight is not 0. ``flat``: shape 10, translation of hand 3 and object 3, object's turn 9."""
    for b in range(first, last):
        total = 0.0
        if weights[FINGERS] != 0:
            total += _pull_fingers(rotvec[b], fingers[b], weights[FINGERS], pull_turns[b])
        if weights[SHAPE] != 0:
            total += _pull_numbers(shape[b], flat[b, :10], weights[SHAPE], pull_shape[b])
        if weights[HAND] != 0:
            total += _pull_numbers(transl[b], flat[b, 10:13], weights[HAND], pull_transl[b])
        if weights[OBJECT] != 0:
            total += _pull_numbers(object_transl[b], flat[b, 13:16], weights[OBJECT], pull_object[b])
        if weights[OBJECT_TURN] != 0:
            begun = flat[b, 16:].reshape(3, 3)
            total += _pull_turn(object_turn[b], begun, weights[OBJECT_TURN], True, torque[b])
        if weights[WRIST] != 0:
            total += _pull_turn(turns[b, 0], wrist[b], weights[WRIST], False, pull_turns[b, 0])
        values[b] += total


@dataclass(frozen=True)
class FusedTies:
    """Squares of what the pose's own numbers and turns are off the start's by."""

    fingers: Float[np.ndarray, "B 15 4"]
    """Quaternions."""
    wrist: Float[np.ndarray, "B 3 3"]
    flat: Float[np.ndarray, "B 25"]
    """Shape, translation of hand and object, rotation matrix of the object."""
    weights: Float[np.ndarray, "6"]
    wants: frozenset[str] = frozenset()

    def add(self, posed: Posed, pull: Pull, values: Float[np.ndarray, "B"], first: int, last: int) -> None:
        """See :class:`horefine.fused.FusedLoss`."""
        _pull_ties(
            first, last, posed.rotvec, posed.turns, posed.shape, posed.transl, posed.object_turn, posed.object_transl,
            self.fingers, self.wrist, self.flat, self.weights,
            values, pull.turns, pull.shape, pull.transl, pull.torque, pull.object_transl,
        )  # fmt: skip


def _ties(scene: Scene, weights: dict[int, float], *, mean: bool = False) -> FusedTies:
    """Ties to the start, or (``mean``) of the shape to the mean shape."""
    start = scene.initial
    shape = torch.zeros_like(start.hand_shape) if mean else start.hand_shape
    turn = axis_angle_to_matrix(start.object_rotvec)
    flat = torch.cat([shape, start.hand_transl, start.object_transl, turn.flatten(1)], 1)
    numbers = np.zeros(6)
    for place, weight in weights.items():
        numbers[place] = weight
    fingers = rotvec_to_quaternion(start.hand_rotvec[:, 1:].double())
    wrist = axis_angle_to_matrix(start.hand_rotvec[:, 0])
    return FusedTies(_double(fingers), _double(wrist), _double(flat), numbers)


def shape_maker(scene: Scene, weight: float, **_: Any) -> FusedTies:
    """Maker of ``shape_prior``."""
    return _ties(scene, {SHAPE: weight}, mean=True)


def orientation_maker(scene: Scene, weight: float, *, sigma: float, **_: Any) -> FusedTies:
    """Maker of ``orientation``."""
    return _ties(scene, {WRIST: weight / (2 * sigma**2)})


def offset_maker(
    scene: Scene, weight: float, *, pose: float, shape: float, transl: float, object: float, variant: str, **_: Any
) -> FusedTies | None:
    """Maker of ``offset``, its smooth variant."""
    if variant != "angle":
        return None
    parts = {FINGERS: pose, SHAPE: shape, HAND: transl, OBJECT: object, OBJECT_TURN: object / 2}
    return _ties(scene, {place: weight * part for place, part in parts.items()})


def _double(value: Tensor) -> np.ndarray:
    return np.array(value.detach().numpy(), np.float64, order="C")
