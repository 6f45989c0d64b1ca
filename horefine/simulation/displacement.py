"""The simulation displacement of one grasp."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from horefine.errors import InputError
from horefine.geometry import axis_angle_to_matrix
from horefine.hand import HandModel
from horefine.mesh import Mesh
from horefine.scene import Pose
from horefine.simulation import bullet, mujoco
from horefine.simulation.check import closed_mesh, fit_mesh
from horefine.simulation.engines import installed, needed
from horefine.simulation.parts import convex_parts
from horefine.simulation.settings import Displacement, SimulationSettings

__all__ = ["Grasp", "grasps", "simulate", "simulation_displacement"]

_RUN = MappingProxyType({"pybullet": bullet.run, "mujoco": mujoco.run})


@dataclass(frozen=True)
class Grasp:
    """One item: a hand and an object, camera frame (y down), metres."""

    name: str
    hand_vertices: Float[np.ndarray, "V 3"]
    hand_faces: Int[np.ndarray, "F 3"]
    object_vertices: Float[np.ndarray, "W 3"]
    """In the camera frame, or in the object's own where there is an ``object_pose``."""
    object_faces: Int[np.ndarray, "G 3"]
    object_pose: Float[np.ndarray, "3 4"] | None = None
    """``X_cam = object_pose[:, :3] X_object + object_pose[:, 3]``: one object can then be decomposed once for
    all poses (``settings.frame``)."""


def grasps(pose: Pose, mesh: Mesh, hand: HandModel, names: tuple[str, ...] | None = None) -> list[Grasp]:
    """The B grasps of a batch of poses (of right hands; ``mesh``: the object of each)."""

    def numpy(values: Tensor) -> np.ndarray:
        return values.detach().cpu().double().numpy()

    names = names if names is not None else tuple(f"item {index}" for index in range(len(pose)))
    hands = numpy(hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).vertices)
    turn = numpy(axis_angle_to_matrix(pose.object_rotvec))
    if pose.object_scale is not None:
        turn = turn * numpy(pose.object_scale)[:, None, None]
    placed = np.concatenate([turn, numpy(pose.object_transl)[..., None]], -1)
    faces, found = hand.faces.cpu().numpy(), []
    for index, name in enumerate(names):
        vertices, corners = mesh.trimmed(index)
        found.append(Grasp(name, hands[index], faces, numpy(vertices), corners.cpu().numpy(), placed[index]))
    return found


def simulation_displacement(
    hand_vertices: Float[np.ndarray, "V 3"],
    hand_faces: Int[np.ndarray, "F 3"],
    object_vertices: Float[np.ndarray, "W 3"],
    object_faces: Int[np.ndarray, "G 3"],
    settings: SimulationSettings | None = None,
    *,
    object_pose: Float[np.ndarray, "3 4"] | None = None,
) -> Displacement:
    """Simulation displacement (SD) of one grasp: Hasson et al. 2019, after Tzionas et al. 2016.

    Args:
        hand_vertices: The hand as it holds still, metres, in a frame whose y points down (the camera's).
        object_vertices: The object in the same frame, or in its own where ``object_pose`` is given.
        settings: The published protocol when left out.
        object_pose: ``X = object_pose[:, :3] X_object + object_pose[:, 3]``.

    Raises:
        InputError: a mesh that cannot be simulated (empty, not finite, not in metres, an object with holes).
        AssetError: the engine is not installed.
    """
    parts = (hand_vertices, hand_faces, object_vertices, object_faces, object_pose)
    return simulate(Grasp("grasp", *parts), settings)


def simulate(grasp: Grasp, settings: SimulationSettings | None = None) -> Displacement:
    """:func:`simulation_displacement` of a :class:`Grasp`, in this process; raises as it does."""
    settings = settings or SimulationSettings()
    needed(settings)
    hand, hand_faces = fit_mesh("hand", grasp.hand_vertices, grasp.hand_faces)
    own, faces = fit_mesh("object", grasp.object_vertices, grasp.object_faces)
    pose = np.eye(3, 4) if grasp.object_pose is None else np.asarray(grasp.object_pose, np.float64)
    if pose.shape != (3, 4) or not np.isfinite(pose).all():
        raise InputError(f"object pose: {pose.tolist()} must be 3 x 4 finite numbers: rotation (with scale) and metres")
    if settings.frame == "camera" and grasp.object_pose is not None:
        own, pose = own @ pose[:, :3].T + pose[:, 3], np.eye(3, 4)
    center = own.mean(0)
    closed = (own, faces) if settings.decomposition in ("hull", "coacd") else closed_mesh(own, faces)
    again = settings.frame == "object" or grasp.object_pose is None  # else the next pose has other parts
    parts = convex_parts(closed[0] - center, closed[1], settings, keep=again)
    turn = pose[:, :3]
    placed = [(vertices @ turn.T, corners) for vertices, corners in parts.meshes]
    origin = turn @ center + pose[:, 3]
    moves = np.random.default_rng(0).normal(scale=settings.jitter, size=(settings.repeats, 3))
    moves[0] = 0
    runs = [_RUN[settings.engine](hand + move, hand_faces, placed, origin, settings) for move in moves]
    if not np.isfinite([moved for moved, _, _ in runs]).all():
        raise InputError(f"simulation: {settings.engine} lost the object (its place is not finite); try another engine")
    shift: Any = tuple((runs[0][0] * 1e3).tolist())
    lengths = tuple(float(np.linalg.norm(moved)) * 1e3 for moved, _, _ in runs)
    return Displacement(
        millimetres=float(np.median(lengths)), shift=shift, turn=float(np.degrees(runs[0][1])), contacts=runs[0][2],
        runs=lengths, parts=len(placed), convex=parts.convex,
        engine=f"{settings.engine} {installed(settings.engine)}", settings=settings,
    )  # fmt: skip
