"""How the points of hand and object move with the 67 numbers of a small step: what second-order solvers need.

Rows are first written in *plain* columns, where hand and object know nothing of one another: translation of the hand
(3, camera axes), its turn about the centroid of its vertices (3), fifteen finger turns in their own frames (45), shape
(10), translation of the object (3), its turn about the centre of its box (3). :func:`chart_matrix` takes them to the
coordinates of :class:`horefine.tangent.Tangent`: depth runs along the rays, and the object's takes the hand along.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine import jacobian_kernels as kernels
from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from horefine.hand import HandModel
from horefine.scene import Pose, Scene
from horefine.tangent import middles, ray

__all__ = ["HandTables", "chart_matrix", "hand_jacobian", "hand_jacobian_twin", "hand_tables"]


@dataclass(frozen=True)
class HandTables:
    """A hand model as the arrays that the kernel reads (double)."""

    template: Float[np.ndarray, "V3"]
    basis: Float[np.ndarray, "145 V3"]
    directions: Float[np.ndarray, "V 3 10"]
    """How each shape value moves a vertex of the flat hand: the first rows of ``basis``, by vertex."""
    flat_joints: Float[np.ndarray, "16 3"]
    shape_joints: Float[np.ndarray, "10 16 3"]
    parents: Int[np.ndarray, "16"]
    weights: Float[np.ndarray, "V Q"]
    """Of the bones that hold a vertex, padded with zeros."""
    bones: Int[np.ndarray, "V Q"]
    corrected: Int[np.ndarray, "N 2"]
    """Vertex and finger joint (0 to 14) of the pose correctives that are not zero, by vertex."""
    correctives: Float[np.ndarray, "N 9 3"]
    """How far they move the vertex for each number of the joint's matrix, metres."""
    reach: Int[np.ndarray, "P"]
    """Which fingers' turns move a vertex or joint: one bit for each."""

    @property
    def point_count(self) -> int:
        """Vertices and joints."""
        return len(self.bones) + 16


@functools.lru_cache(maxsize=4)
def hand_tables(model: HandModel) -> HandTables:
    """The tables of a hand model, kept."""

    def array(value: Tensor) -> np.ndarray:
        return np.ascontiguousarray(value.detach().cpu().double().numpy())

    weights = array(model.weights)
    bones = np.argsort(-weights, axis=1, kind="stable")[:, : (weights != 0).sum(1).max()]
    basis = array(model.basis)
    correctives = basis[10:].reshape(15, 9, -1, 3).transpose(2, 0, 1, 3)
    corrected = np.argwhere((correctives != 0).any((2, 3)))
    parents = np.asarray(model.parents, np.int64)
    return HandTables(
        array(model.template).reshape(-1), basis,
        np.ascontiguousarray(basis[:10].reshape(10, -1, 3).transpose(1, 2, 0)), array(model.flat_joints),
        array(model.shape_joints).reshape(10, 16, 3), parents,
        np.ascontiguousarray(np.take_along_axis(weights, bones, 1)), np.ascontiguousarray(bones.astype(np.int64)),
        corrected.astype(np.int64), np.ascontiguousarray(correctives[tuple(corrected.T)]),
        _reach(weights, parents, corrected),
    )  # fmt: skip


def _reach(weights: np.ndarray, parents: np.ndarray, corrected: np.ndarray) -> Int[np.ndarray, "P"]:
    """Bits of the fingers that move each vertex, by skinning or correctives, and each joint."""
    finger = np.array([0] + [1 << j // 3 for j in range(15)])
    own = np.concatenate([weights != 0, parents[:, None] == np.arange(16)])
    found = np.bitwise_or.reduce(np.where(own, finger, 0), axis=1)
    np.bitwise_or.at(found, corrected[:, 0], finger[corrected[:, 1] + 1])
    return found


def hand_jacobian(
    tables: HandTables,
    rotations: np.ndarray,
    shape: np.ndarray,
    transl: np.ndarray,
    points: np.ndarray,
    out: np.ndarray,
    wanted: np.ndarray | None = None,
) -> None:
    """Positions "P 3" and slopes "P 3 61" of one hand's vertices and joints, written into ``points`` and ``out``.

    ``rotations`` "16 3 3" local rotations, ``shape`` "10", ``transl`` "3", all double. Columns: see the module.
    Only slopes of the points that are ``wanted`` ("P", all when not given) are written.
    """
    wanted = np.ones(len(points), np.bool_) if wanted is None else wanted
    kernels.hand_jacobian(
        rotations, shape, transl, tables.template, tables.basis, tables.directions,
        tables.flat_joints, tables.shape_joints,
        tables.parents, tables.weights, tables.bones, tables.corrected, tables.correctives, wanted,
        points, out,
    )  # fmt: skip


def hand_jacobian_twin(model: HandModel, pose: Pose) -> Float[Tensor, "B P 3 61"]:
    """The slopes that :func:`hand_jacobian` writes, by forward differentiation of the posed hand: slow and readable."""
    middle = model(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).vertices.mean(1)

    def moved(step: Float[Tensor, "B 61"]) -> Float[Tensor, "B P 3"]:
        turns = axis_angle_to_matrix(step[:, 3:51].unflatten(1, (16, 3)))
        bones = axis_angle_to_matrix(pose.hand_rotvec)
        wrist, fingers = turns[:, :1] @ bones[:, :1], bones[:, 1:] @ turns[:, 1:]
        rotvec = matrix_to_axis_angle(torch.cat([wrist, fingers], 1))
        arm = pose.hand_transl + model.rest_joints(pose.hand_shape)[:, 0] - middle
        transl = pose.hand_transl + step[:, :3] + (turns[:, 0] @ arm[..., None])[..., 0] - arm
        hand = model(rotvec, pose.hand_shape + step[:, 51:], transl)
        return torch.cat([hand.vertices, hand.transforms[:, :, :3, 3]], 1)

    zero = pose.hand_transl.new_zeros(len(pose), 61)
    every = torch.func.jacfwd(moved)(zero)  # B P 3 B 61
    own = torch.arange(len(pose))
    return every[own, :, :, own]


def chart_matrix(scene: Scene) -> Float[Tensor, "B 67 67"]:
    """Plain columns from a step in the tangent chart: ``plain = matrix @ step``, to first order."""
    hand_middle, object_middle = middles(scene)
    matrix = torch.eye(67, dtype=hand_middle.dtype, device=hand_middle.device).repeat(len(hand_middle), 1, 1)
    matrix[:, 0:3, 2] = matrix[:, 0:3, 63] = ray(hand_middle)
    matrix[:, 61:64, 63] = ray(object_middle)
    return matrix
