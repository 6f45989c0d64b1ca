"""The coupling of a clip's frames, fused (:mod:`horefine.fused`). Readable twin: ``sequence.temporal``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numba import njit
from torch import Tensor

from horefine.fused import Posed, Pull
from horefine.losses.fused_lists import bound, single
from horefine.losses.sequence import scales
from horefine.scene import Neighbours, Scene

__all__ = ["FusedClip", "temporal_maker"]

_WAYS = {"nogil": True, "error_model": "numpy", "fastmath": {"nsz", "arcp", "contract", "reassoc"}}
_jit, _inline_jit = njit(cache=True, **_WAYS), njit(forceinline=True, **_WAYS)


@_jit
def _apart(points, expected):
    """Mean square of the distance between points."""
    total = 0.0
    for n in range(points.shape[0]):
        for i in range(3):
            gap = points[n, i] - expected[n, i]
            total += gap * gap
    return total / points.shape[0]


@_inline_jit
def _cost(square, kernel):
    """Robust cost of a square, and its slope."""
    share = 1 / (1 + square * kernel)
    return square * share, share * share


@_jit
def _pull_clip(
    first, last, joints, turn, transl, center, corners, hand_expected, expected, hand_scale, scale, kernel, weight,
    values, pull, force, torque,
):  # fmt: skip
    """Adds the cost of each second difference of images ``first`` to ``last - 1``, and its gradient."""
    there = np.empty(corners.shape[1:], np.float32)
    for b in range(first, last):
        for n in range(corners.shape[1]):
            x, y, z = corners[b, n, 0], corners[b, n, 1], corners[b, n, 2]
            for i in range(3):
                there[n, i] = turn[b, i, 0] * x + turn[b, i, 1] * y + turn[b, i, 2] * z + transl[b, i]
        total = 0.0
        for k in range(hand_scale.shape[1]):
            cost, slope = _cost(_apart(joints[b], hand_expected[b, k]) * hand_scale[b, k], kernel)
            total += cost
            slope *= 2 * weight * hand_scale[b, k] / joints.shape[1]
            for n in range(joints.shape[1]):
                for i in range(3):
                    pull[b, n, i] += slope * (joints[b, n, i] - hand_expected[b, k, n, i])
            cost, slope = _cost(_apart(there, expected[b, k]) * scale[b, k], kernel)
            total += cost
            slope *= 2 * weight * scale[b, k] / corners.shape[1]
            for n in range(corners.shape[1]):
                gx, gy, gz = (
                    slope * (there[n, 0] - expected[b, k, n, 0]), slope * (there[n, 1] - expected[b, k, n, 1]),
                    slope * (there[n, 2] - expected[b, k, n, 2]),
                )  # fmt: skip
                rx, ry, rz = there[n, 0] - center[b, 0], there[n, 1] - center[b, 1], there[n, 2] - center[b, 2]
                force[b, 0] += gx
                force[b, 1] += gy
                force[b, 2] += gz
                torque[b, 0] += ry * gz - rz * gy
                torque[b, 1] += rz * gx - rx * gz
                torque[b, 2] += rx * gy - ry * gx
        values[b] += weight * total


@dataclass(frozen=True)
class FusedClip:
    """Robust squares of the accelerations of joints and of the corners of the object's box."""

    corners: Float[np.ndarray, "B 8 3"]
    """Object frame."""
    hand_expected: Float[np.ndarray, "B K 21 3"]
    expected: Float[np.ndarray, "B K 8 3"]
    hand_scale: Float[np.ndarray, "B K"]
    """What the square of a metre off costs."""
    scale: Float[np.ndarray, "B K"]
    kernel: float
    """One over its square, 0 for plain squares."""
    weight: float
    wants: frozenset[str] = frozenset()

    def add(self, posed: Posed, pull: Pull, values: Float[np.ndarray, "B"], first: int, last: int) -> None:
        """See :class:`horefine.fused.FusedLoss`."""
        _pull_clip(
            first, last, posed.joints, posed.object_turn, posed.object_transl, posed.object_center, self.corners,
            self.hand_expected, self.expected, self.hand_scale, self.scale, self.kernel, self.weight,
            values, pull.joints, pull.force, pull.torque,
        )  # fmt: skip


def temporal_maker(
    scene: Scene, weight: float, *, neighbours: Neighbours, sigma: str | float | Tensor, kernel: float, **_: Any
) -> FusedClip:
    """Maker of ``temporal``."""
    hand, thing = scales(neighbours, sigma)
    return FusedClip(
        single(scene.features.object.corners), single(neighbours.joints), single(neighbours.corners), single(hand),
        single(thing), float(bound(kernel)), float(weight),
    )  # fmt: skip
