"""The protocol on pybullet: the hand a fixed surface, the object a body of convex parts, steps of gravity.

Meshes pass through text files as in the published protocol: the same vertices given from memory are welded otherwise
and give other displacements.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from horefine.errors import InputError
from horefine.simulation.engines import load, quiet
from horefine.simulation.settings import SimulationSettings
from horefine.simulation.wavefront import Part, write_obj

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
    bullet = load("pybullet")
    with tempfile.TemporaryDirectory(prefix="horefine-") as folder, quiet():
        client = bullet.connect(bullet.DIRECT)
        try:
            return _run(bullet, client, Path(folder), (hand_vertices, hand_faces), parts, origin, settings)
        except bullet.error as error:
            raise InputError(f"simulation: pybullet cannot use these meshes ({error})") from error
        finally:
            bullet.disconnect(client)


def _run(
    bullet: Any,
    client: int,
    folder: Path,
    hand: tuple[np.ndarray, np.ndarray],
    parts: Sequence[Part],
    origin: np.ndarray,
    settings: SimulationSettings,
) -> tuple[np.ndarray, float, int]:
    here = {"physicsClientId": client}
    bullet.setPhysicsEngineParameter(
        enableFileCaching=0,  # it would take the file of an earlier simulation for this one's
        numSolverIterations=settings.solver_iterations,
        fixedTimeStep=settings.timestep,
        **here,
    )
    bullet.setGravity(*settings.gravity, **here)
    write_obj(folder / "hand.obj", [hand], settings.decimals)
    write_obj(folder / "object.obj", parts, settings.decimals)
    concave = bullet.GEOM_FORCE_CONCAVE_TRIMESH
    surface = bullet.createCollisionShape(bullet.GEOM_MESH, fileName=str(folder / "hand.obj"), flags=concave, **here)
    fixed = bullet.createMultiBody(baseMass=0, baseCollisionShapeIndex=surface, **here)
    solid = bullet.createCollisionShape(bullet.GEOM_MESH, fileName=str(folder / "object.obj"), **here)
    body = bullet.createMultiBody(
        baseMass=settings.object_mass, basePosition=origin.tolist(), baseCollisionShapeIndex=solid, **here
    )
    bullet.changeDynamics(
        fixed, -1, lateralFriction=settings.hand_friction, restitution=settings.hand_restitution, **here
    )
    # in single precision, as Bullet keeps its defaults: contacts are chaotic, the digits beyond it change SD
    linear, angular = np.array([settings.linear_damping, settings.angular_damping], np.float32).tolist()
    bullet.changeDynamics(
        body,
        -1,
        lateralFriction=settings.object_friction,
        restitution=settings.object_restitution,
        linearDamping=linear,
        angularDamping=angular,
        **here,
    )
    for _ in range(settings.steps):
        bullet.stepSimulation(**here)
    position, quaternion = bullet.getBasePositionAndOrientation(body, **here)
    touching = len(bullet.getContactPoints(bodyA=fixed, bodyB=body, **here))
    x, y, z, w = quaternion
    return np.asarray(position) - origin, 2 * math.atan2(math.hypot(x, y, z), abs(w)), touching
