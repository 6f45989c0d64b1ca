"""Hands posed in plain arrays, and what pulls on their points taken back to turns, shape and translation.

The readable twin is :class:`~horefine.hand.HandModel` under autograd; :mod:`horefine.hand_kernels` says how.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from horefine import hand_kernels as kernels
from horefine.anatomy import JOINT_ORDERS, JOINTS
from horefine.fused import Posed, Pull
from horefine.hand import HandModel
from horefine.jacobian import HandTables, hand_tables

__all__ = ["HandLists", "HandPoser", "hand_lists"]

_NOTHING = np.empty((0, 0, 3), np.float32)
# compiled: no type checker can count what a star stands for in their arguments
_pose_hands: Any = kernels.pose_hands
_pull_hands: Any = kernels.pull_hands


@dataclass(frozen=True)
class HandLists:
    """A hand model as the lists that the kernels walk: :class:`~horefine.jacobian.HandTables`, by bone and by joint."""

    template: Float[np.ndarray, "V 3"]
    blend: Float[np.ndarray, "10 V3"]
    """Shape directions (single precision, as all that concerns vertices)."""
    flat_joints: Float[np.ndarray, "16 3"]
    shape_joints: Float[np.ndarray, "10 16 3"]
    parents: Int[np.ndarray, "16"]
    held: Int[np.ndarray, "17"]
    """Where each bone's vertices begin in the next two."""
    vertex: Int[np.ndarray, "E"]
    weight: Float[np.ndarray, "E"]
    corrected: Int[np.ndarray, "16"]
    """Where each finger joint's corrected vertices begin in the next."""
    of_vertex: Int[np.ndarray, "N"]
    rows: Float[np.ndarray, "N27"]
    """Nine rows for each joint (numbers of its matrix), each of three coordinates of its corrected vertices."""
    tips: Int[np.ndarray, "5"]
    rank: Int[np.ndarray, "21"]
    """Of each joint in the house's order: one of the 16 joints, or 16 plus the number of a tip."""

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """In the order in which the kernels take them."""
        return (
            self.template, self.blend, self.flat_joints, self.shape_joints, self.parents, self.held, self.vertex,
            self.weight, self.corrected, self.of_vertex, self.rows, self.tips, self.rank,
        )  # fmt: skip


@functools.lru_cache(maxsize=4)
def hand_lists(model: HandModel) -> HandLists:
    """The lists of a hand model, kept."""
    tables, single = hand_tables(model), np.float32
    weights = np.zeros((len(tables.weights), 16))
    np.put_along_axis(weights, tables.bones, tables.weights, 1)
    bone, vertex = np.nonzero(weights.T)
    order = np.argsort(tables.corrected[:, 1], kind="stable")  # by joint, then by vertex
    corrected = np.searchsorted(tables.corrected[order, 1], np.arange(16))
    return HandLists(
        tables.template.reshape(-1, 3).astype(single), tables.basis[:10].astype(single), tables.flat_joints,
        tables.shape_joints, tables.parents, np.searchsorted(bone, np.arange(17)), vertex.astype(np.int32),
        weights.T[bone, vertex].astype(single), corrected, tables.corrected[order, 0].astype(np.int32),
        _rows_by_joint(tables, order, corrected), model.tips.cpu().numpy().astype(np.int64),
        np.array([JOINT_ORDERS["mano"].index(name) for name in JOINTS]),
    )  # fmt: skip


def _rows_by_joint(tables: HandTables, order: np.ndarray, first: np.ndarray) -> Float[np.ndarray, "N27"]:
    own = tables.correctives[order].astype(np.float32)
    parts = [own[first[j] : first[j + 1]].transpose(1, 0, 2).reshape(-1) for j in range(15)]
    return np.concatenate(parts)


@dataclass(frozen=True)
class HandPoser:
    """Poses a batch of hands and keeps what the way back needs; made by :meth:`of`."""

    tables: Any = field(repr=False)
    """:attr:`HandLists.arrays`."""
    flat: Float[np.ndarray, "B V 3"] = field(repr=False)
    """Vertices before skinning."""
    rest: Float[np.ndarray, "B 16 3"] = field(repr=False)
    """Joints of the flat hands."""
    turned: Float[np.ndarray, "B 16 3 3"] = field(repr=False)
    placed: Float[np.ndarray, "B 16 3"] = field(repr=False)
    """Global rotation of the joints, and position without translation."""

    @staticmethod
    def of(model: HandModel, batch: int) -> HandPoser:
        """For ``batch`` hands."""
        count = len(model.template)
        return HandPoser(
            hand_lists(model).arrays, np.empty((batch, count, 3), np.float32), np.empty((batch, 16, 3)),
            np.empty((batch, 16, 3, 3)), np.empty((batch, 16, 3)),
        )  # fmt: skip

    def pose(self, posed: Posed, first: int, last: int) -> None:
        """Writes ``turns``, ``hand`` and ``joints`` of images ``first`` to ``last - 1`` from ``rotvec``, ``shape``,
        ``transl``."""
        _pose_hands(
            first, last, posed.rotvec, posed.shape, posed.transl, *self.tables,
            posed.turns, posed.hand, posed.joints, self.flat, self.rest, self.turned, self.placed,
        )  # fmt: skip

    def pull(
        self, posed: Posed, pull: Pull, first: int, last: int, drawn: Float[np.ndarray, "B V 3"] = _NOTHING
    ) -> None:
        """Adds what pulls on vertices and joints (as they were posed last) to ``turns``, ``shape`` and ``transl``.

        Args:
            drawn: a further pull on the vertices.
        """
        _pull_hands(
            first, last, posed.turns, *self.tables, self.flat, self.rest, self.turned, self.placed,
            pull.hand, drawn, pull.joints, pull.turns, pull.shape, pull.transl,
        )  # fmt: skip
