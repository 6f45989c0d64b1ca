"""The protocol on MuJoCo, whose bodies are convex: the hand is a layer of prisms under its faces.

Same steps, gravity, mass, friction and drag as on Bullet, and the same inertia (of the parts' box). What differs is the
contact: a spring and a damper that take back a penetration over some steps instead of a fifth of it in each, so that an
overlap of a millimetre or two does not throw the object; and surfaces are kept ``margin`` apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from horefine.errors import InputError
from horefine.intersection import close_holes
from horefine.repair import signed_volume
from horefine.simulation.engines import load
from horefine.simulation.settings import SimulationSettings
from horefine.simulation.wavefront import Part

__all__ = ["run"]


def run(
    hand_vertices: Float[np.ndarray, "V 3"],
    hand_faces: Int[np.ndarray, "F 3"],
    parts: Sequence[Part],
    origin: Float[np.ndarray, "3"],
    settings: SimulationSettings,
) -> tuple[Float[np.ndarray, "3"], float, int]:
    """One simulation: (how the object moved in metres, how far it turned in radians, contacts at the end).

    ``parts`` are convex and relative to ``origin``, where the object's body starts.

    Raises:
        InputError: the engine cannot use the meshes.
        AssetError: it is not installed.
    """
    mujoco = load("mujoco")
    prisms = _within_reach(_prisms(hand_vertices - origin, hand_faces, settings.hand_depth), parts, settings)
    model, inertia = _model(mujoco, prisms, parts, settings)
    data = mujoco.MjData(model)
    for _ in range(settings.steps):
        speed, spin = data.qvel[:3], data.qvel[3:]
        drag = settings.linear_damping * (1 + np.linalg.norm(speed))
        data.qfrc_applied[:3] = -settings.object_mass * drag * speed
        data.qfrc_applied[3:] = -inertia * settings.angular_damping * (1 + np.linalg.norm(spin)) * spin
        mujoco.mj_step(model, data)
    w, turn = abs(data.qpos[3]), np.linalg.norm(data.qpos[4:])
    return data.qpos[:3].copy(), float(2 * np.arctan2(turn, w)), int(data.ncon)


def _prisms(vertices: np.ndarray, faces: np.ndarray, depth: float) -> np.ndarray:
    """ "F 6 3": each face, and itself moved inward along its vertices' normals; faces without area left out."""
    if signed_volume(vertices, close_holes(faces)) < 0:
        faces = faces[:, ::-1]
    corners = vertices[faces]
    area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], area)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-20)
    height = (normals[faces].mean(1) * area).sum(1)  # twice the area seen along the mean normal
    return np.concatenate([corners, corners - depth * normals[faces]], 1)[height > 1e-9]


def _within_reach(prisms: np.ndarray, parts: Sequence[Part], settings: SimulationSettings) -> np.ndarray:
    """Those that the object can meet: near its box, drawn out along the fall."""
    fall = np.asarray(settings.gravity) / max(np.linalg.norm(settings.gravity), 1e-20) * settings.free_fall * 1e-3
    points = np.concatenate([vertices for vertices, _ in parts])
    low, high = points.min(0) + np.minimum(fall, 0) - 0.03, points.max(0) + np.maximum(fall, 0) + 0.03
    return prisms[((prisms.max(1) > low) & (prisms.min(1) < high)).all(1)]


def _model(
    mujoco: Any, prisms: np.ndarray, parts: Sequence[Part], settings: SimulationSettings
) -> tuple[Any, np.ndarray]:
    """The compiled model and the object's principal moments of inertia."""
    spec = mujoco.MjSpec()
    spec.option.gravity, spec.option.timestep = settings.gravity, settings.timestep
    spec.option.iterations = settings.solver_iterations
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10  # friction ten times stiffer than the push: nothing creeps down along the fingers
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    body = spec.worldbody.add_body(name="object")
    body.add_freejoint()
    points = np.concatenate([vertices for vertices, _ in parts])
    square = np.ptp(points, axis=0) ** 2
    inertia = settings.object_mass / 12 * (square.sum() - square)
    body.explicitinertial, body.mass, body.inertia = True, settings.object_mass, inertia
    friction = settings.hand_friction * settings.object_friction
    bodies = [(spec.worldbody, prism) for prism in prisms] + [(body, vertices) for vertices, _ in parts]
    for index, (owner, vertices) in enumerate(bodies):
        mesh = spec.add_mesh(name=str(index), uservert=vertices.astype(np.float32).ravel())
        mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX
        geom = owner.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname=str(index), condim=3)
        geom.friction = [friction, 0, 0]
        geom.margin = settings.margin if owner is body else 0  # the engine adds up the margins of the two
        geom.solref = [settings.correction * settings.timestep, 1]
    try:
        return spec.compile(), inertia
    except ValueError as error:
        raise InputError(f"simulation: mujoco cannot use these meshes ({error})") from error
