"""Springs of predicted contact, fused (:mod:`horefine.fused`). Readable twin: ``contact.spring_length``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit

from horefine.contact_truth import NO_ANCHOR, region_anchors
from horefine.fused import Posed, Pull
from horefine.losses.fused_lists import listed, single
from horefine.scene import Contact, Scene

__all__ = ["FusedSprings", "spring_maker"]

_jit = njit(cache=True, nogil=True, error_model="numpy", fastmath={"nsz", "arcp", "contract", "reassoc"})
ONE, TWO, TINY = np.float32(1), np.float32(2), np.float32(1e-9)
X, Y, Z, LENGTH, WEIGHT = range(5)
"""Columns of the table: the object's end in its own frame, the spring's length, its weight."""


@_jit
def _place_anchors(points, faces, shares, anchors):
    """Where the anchors are."""
    for n in range(faces.shape[0]):
        a, b, c = faces[n, 0], faces[n, 1], faces[n, 2]
        for i in range(3):
            anchors[n, i] = shares[n, 0] * points[a, i] + shares[n, 1] * points[b, i] + shares[n, 2] * points[c, i]


@_jit
def _pull_image(anchors, turn, transl, anchor, table, first, last, center, inverse, pulled, force, torque):
    """Cost of an image's springs; what pulls on anchors is added to ``pulled``."""
    total, fx, fy, fz, tx, ty, tz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for row in range(first, last):
        n = np.uintp(row)
        at, px, py, pz = np.uintp(anchor[n]), table[n, X], table[n, Y], table[n, Z]
        ox = turn[0, 0] * px + turn[0, 1] * py + turn[0, 2] * pz + transl[0]
        oy = turn[1, 0] * px + turn[1, 1] * py + turn[1, 2] * pz + transl[1]
        oz = turn[2, 0] * px + turn[2, 1] * py + turn[2, 2] * pz + transl[2]
        dx, dy, dz = anchors[at, 0] - ox, anchors[at, 1] - oy, anchors[at, 2] - oz
        length = np.float32(math.sqrt(dx * dx + dy * dy + dz * dz))
        gap = (length - table[n, LENGTH]) * inverse
        part = ONE / (ONE + gap * gap)
        total += table[n, WEIGHT] * gap * gap * part
        slope = TWO * table[n, WEIGHT] * gap * part * part * inverse / max(length, TINY)
        gx, gy, gz = slope * dx, slope * dy, slope * dz
        pulled[at, 0] += gx
        pulled[at, 1] += gy
        pulled[at, 2] += gz
        rx, ry, rz = ox - center[0], oy - center[1], oz - center[2]
        fx, fy, fz = fx - gx, fy - gy, fz - gz
        tx, ty, tz = tx - (ry * gz - rz * gy), ty - (rz * gx - rx * gz), tz - (rx * gy - ry * gx)
    force[0] += fx
    force[1] += fy
    force[2] += fz
    torque[0] += tx
    torque[1] += ty
    torque[2] += tz
    return total


@_jit
def _pull_springs(
    first, last, hand, turn, transl, center, faces, shares, start, anchor, table, inverse,
    values, pull, force, torque,
):  # fmt: skip
    """Adds cost and gradient of images ``first`` to ``last - 1``; ``inverse`` is one over sigma."""
    anchors, pulled = np.empty(faces.shape, np.float32), np.empty(faces.shape)
    for b in range(first, last):
        if start[b, 0] == start[b, 1]:
            continue
        pulled[:] = 0.0
        _place_anchors(hand[b], faces, shares, anchors)
        values[b] += _pull_image(
            anchors, turn[b], transl[b], anchor, table, start[b, 0], start[b, 1], center[b], inverse, pulled,
            force[b], torque[b],
        )  # fmt: skip
        for n in range(faces.shape[0]):
            for corner in range(3):
                for i in range(3):
                    pull[b, faces[n, corner], i] += shares[n, corner] * pulled[n, i]


@dataclass(frozen=True)
class FusedSprings:
    """Robust squares of what springs are too long or too short by."""

    faces: Int[np.ndarray, "32 3"]
    """Vertices of the hand that each anchor is made of."""
    shares: Float[np.ndarray, "32 3"]
    start: Int[np.ndarray, "B 2"]
    """First row of each image's springs, and the end."""
    anchor: Int[np.ndarray, "N"]
    table: Float[np.ndarray, "N 5"]
    inverse: np.float32
    """One over sigma."""
    wants: frozenset[str] = frozenset()

    def add(self, posed: Posed, pull: Pull, values: Float[np.ndarray, "B"], first: int, last: int) -> None:
        """See :class:`horefine.fused.FusedLoss`."""
        _pull_springs(
            first, last, posed.hand, posed.object_turn, posed.object_transl, posed.object_center,
            self.faces, self.shares, self.start, self.anchor, self.table, self.inverse,
            values, pull.hand, pull.force, pull.torque,
        )  # fmt: skip


def spring_maker(
    scene: Scene, weight: float, *, contact: Contact, threshold: float, sigma: float, reach: float, firm: float,
    **_: Any,
) -> FusedSprings:  # fmt: skip
    """Maker of ``spring_length``."""
    anchors = region_anchors(scene.hand_model)[contact.region]
    used = (anchors != NO_ANCHOR) & (contact.elasticity > firm) & (contact.probability > threshold)[..., None]
    told = torch.arccos((2 * contact.elasticity - 1).clamp(-1, 1)) * (reach / torch.pi)
    share = (weight / used.sum((1, 2)).clamp(min=1))[:, None, None].expand_as(told)
    ends = scene.features.object.vertices[:, :, None].expand(-1, -1, told.shape[2], -1)
    rows = torch.cat([ends, torch.stack([told, share], -1)], -1)
    start, (anchor, table) = listed([used.flatten(1)], [anchors.int().flatten(1)], [rows.flatten(1, 2)])
    first, second = scene.hand_model.anchor_weights.unbind(1)
    shares = torch.stack([1 - first - second, first, second], 1)
    faces = scene.hand_model.anchor_faces.int().contiguous().numpy()
    return FusedSprings(faces, single(shares), start, anchor, single(table), np.float32(1 / sigma))
