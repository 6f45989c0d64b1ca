"""Simulation displacement (SD): how far an object moves when a simulated hand, held still, is all that holds it.

Hasson et al. 2019 ("Learning joint reconstruction of hands and manipulated objects"), after Tzionas et al. 2016; the
settings are those of the authors' code. Smaller is more stable; without any contact SD is the free fall (106.8 mm),
and deep penetration throws the object further than that. Needs ``pip install 'horefine[sim]'``.

>>> from horefine.simulation import simulation_displacement
>>> simulation_displacement(hand, hand_faces, thing, thing_faces).millimetres  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from horefine.simulation import bullet
from horefine.simulation.parts import convex_parts
from horefine.simulation.settings import Displacement, SimulationSettings

__all__ = ["Displacement", "SimulationSettings", "simulation_displacement"]


def simulation_displacement(
    hand_vertices: Float[np.ndarray, "V 3"],
    hand_faces: Int[np.ndarray, "F 3"],
    object_vertices: Float[np.ndarray, "W 3"],
    object_faces: Int[np.ndarray, "G 3"],
    settings: SimulationSettings | None = None,
) -> Displacement:
    """SD of one grasp; meshes in metres in one frame, whose y points down (the camera's)."""
    settings = settings or SimulationSettings()
    origin = object_vertices.mean(0)
    parts = convex_parts(object_vertices - origin, object_faces, settings)
    moved, turned, touching = bullet.run(hand_vertices, hand_faces, parts.meshes, origin, settings)
    shift: Any = tuple((moved * 1e3).tolist())
    return Displacement(
        float(np.linalg.norm(moved)) * 1e3, shift, float(np.degrees(turned)), touching, len(parts.meshes),
        parts.convex, "pybullet", settings,
    )  # fmt: skip
