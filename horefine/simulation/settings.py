"""Every number that a simulation displacement depends on, and what one simulation found."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from horefine.errors import ConfigError, suggestion

__all__ = ["DECOMPOSITIONS", "ENGINES", "Displacement", "SimulationSettings"]

ENGINES = ("pybullet", "mujoco")
DECOMPOSITIONS = ("vhacd", "coacd", "hull")


@dataclass(frozen=True)
class SimulationSettings:
    """Hasson et al. 2019 (obman_train), in metres, kilograms and seconds; the camera frame's y points down."""

    engine: Literal["pybullet", "mujoco"] = "pybullet"
    """pybullet is what published numbers were made with; mujoco is another engine's opinion on the same protocol."""
    gravity: tuple[float, float, float] = (0.0, 9.8, 0.0)
    steps: int = 35
    timestep: float = 1 / 240
    solver_iterations: int = 150
    hand_friction: float = 3.0
    """Lateral; an engine uses the product of the hand's and the object's (that is what Bullet does)."""
    object_friction: float = 3.0
    hand_restitution: float = 0.0
    """Also multiplied with the object's: 0 here means that nothing bounces."""
    object_restitution: float = 0.5
    object_mass: float = 1.0
    linear_damping: float = 0.04
    """Per second (Bullet's default)."""
    angular_damping: float = 0.04
    decimals: int = 6
    """Coordinates are rounded to so many decimals of a metre: the published protocol passes meshes as text files."""
    decomposition: Literal["vhacd", "coacd", "hull"] = "vhacd"
    """How an object that is not convex becomes convex parts."""
    resolution: int = 1000
    """Voxels in V-HACD's grid (all of them, not along a side)."""
    concavity: float = 0.001
    """V-HACD: how concave a part may stay, a share of the object's hull."""
    threshold: float = 0.05
    """CoACD: how concave a part may stay, of an object scaled to 2."""

    def __post_init__(self) -> None:
        """Refuse numbers that no simulation can run with.

        Raises:
            ConfigError: naming the field, its value and what is allowed.
        """
        for name, known in (("engine", ENGINES), ("decomposition", DECOMPOSITIONS)):
            if getattr(self, name) not in known:
                hint = suggestion(str(getattr(self, name)), known)
                raise ConfigError(f"simulation.{name}: {getattr(self, name)!r} is none of {', '.join(known)}{hint}")
        for field in fields(self):
            value = getattr(self, field.name)
            numbers = value if isinstance(value, tuple | list) else (value,)
            if not isinstance(value, str) and not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
                raise ConfigError(f"simulation.{field.name}: {value!r} is not a finite number")
        if len(self.gravity) != 3:
            raise ConfigError(f"simulation.gravity: {self.gravity!r} must be three numbers, metres per second squared")
        for name in ("steps", "timestep", "solver_iterations", "object_mass", "resolution", "concavity", "threshold"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"simulation.{name}: {getattr(self, name)!r} must be above 0")

    @property
    def free_fall(self) -> float:
        """How far the object falls where nothing holds it, millimetres: what SD is without any contact.

        Bullet's steps: semi-implicit Euler with a drag of damping * speed * (1 + speed).
        """
        pull, speed, way = math.sqrt(sum(g * g for g in self.gravity)), 0.0, 0.0
        for _ in range(self.steps):
            speed += self.timestep * (pull - self.linear_damping * speed * (1 + speed))
            way += self.timestep * speed
        return way * 1e3


@dataclass(frozen=True)
class Displacement:
    """What one simulation found."""

    millimetres: float
    """Simulation displacement (SD): how far the object's origin (the mean of its vertices) moved."""
    shift: tuple[float, float, float]
    """The same as a vector in the frame of the meshes, millimetres."""
    turn: float
    """How far the object turned, degrees."""
    contacts: int
    """Contact points of hand and object after the last step; 0: it fell past or was thrown off."""
    parts: int
    """Convex parts that stood for the object."""
    convex: bool
    """Whether the object itself was convex and went in unchanged."""
    engine: str
    """Name and version, with the decomposition's where one was used."""
    settings: SimulationSettings

    @property
    def held(self) -> bool:
        """Whether the hand still touches the object at the end and it has not fallen freely."""
        return self.contacts > 0 and self.millimetres < 0.95 * self.settings.free_fall

    def record(self) -> dict[str, Any]:
        """Plain values, for a result file."""
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "settings"}
        return {**plain, "settings": {f.name: getattr(self.settings, f.name) for f in fields(self.settings)}}
