"""Simulation displacement (SD): how far an object moves when a simulated hand, held still, is all that holds it.

Hasson et al. 2019 ("Learning joint reconstruction of hands and manipulated objects"), after Tzionas et al. 2016; the
settings are those of the authors' code. Smaller is more stable; without any contact SD is the free fall (106.8 mm),
and deep penetration can throw the object further than that. Needs ``pip install 'horefine[sim]'``.

>>> from horefine.simulation import simulation_displacement
>>> simulation_displacement(hand, hand_faces, thing, thing_faces).millimetres  # doctest: +SKIP
"""

from __future__ import annotations

from horefine.simulation.batch import Displacements, simulate_all
from horefine.simulation.displacement import Grasp, grasps, simulate, simulation_displacement
from horefine.simulation.settings import PROTOCOLS, Displacement, SimulationSettings

__all__ = [
    "PROTOCOLS",
    "Displacement",
    "Displacements",
    "Grasp",
    "SimulationSettings",
    "grasps",
    "simulate",
    "simulate_all",
    "simulation_displacement",
]
