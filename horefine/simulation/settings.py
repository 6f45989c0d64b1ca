"""Every number that a simulation displacement depends on, and what one simulation found."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from horefine.errors import ConfigError, suggestion

__all__ = ["DECOMPOSITIONS", "ENGINES", "PROTOCOLS", "Displacement", "SimulationSettings"]

ENGINES = ("pybullet", "mujoco")
FRAMES = ("camera", "object")
DECOMPOSITIONS = ("vhacd", "fitted", "coacd", "hull")
_POSITIVE = (
    "steps", "timestep", "solver_iterations", "object_mass", "resolution", "concavity", "threshold", "hand_depth",
    "correction", "repeats",
)  # fmt: skip


@dataclass(frozen=True)
class SimulationSettings:
    """The published protocol (obman_train, Hasson et al. 2019); metres, kilograms, seconds; the frame's y points down.

    Left as they are they reproduce published numbers; :data:`PROTOCOLS` names the other set we measure with.
    """

    engine: Literal["pybullet", "mujoco"] = "pybullet"
    """pybullet is what published numbers were made with; mujoco is another engine's opinion."""
    gravity: tuple[float, float, float] = (0.0, 9.8, 0.0)
    steps: int = 35
    timestep: float = 1 / 240
    solver_iterations: int = 150
    hand_friction: float = 3.0
    """Lateral. What acts is the product of the hand's and the object's (that is how Bullet combines them)."""
    object_friction: float = 3.0
    hand_restitution: float = 0.0
    """Also multiplied with the object's: 0 here means that nothing bounces. mujoco: must stay 0."""
    object_restitution: float = 0.5
    object_mass: float = 1.0
    linear_damping: float = 0.04
    """Bullet's default: a drag of damping * speed * (1 + speed) for each kilogram."""
    angular_damping: float = 0.04
    decimals: int = 6
    """pybullet: coordinates are rounded to so many decimals of a metre, as the protocol passes meshes as text."""
    decomposition: Literal["vhacd", "fitted", "coacd", "hull"] = "vhacd"
    """How an object that is not convex becomes convex parts. vhacd: as published, parts up to a centimetre too thick;
    fitted: V-HACD's parts shrunk onto the object's surface; coacd: best for thin walls, seconds to half a minute an
    object; hull: one part. Parts are kept on disk. How true and how dear each is: ``benchmarks/simulation``."""
    frame: Literal["camera", "object"] = "camera"
    """Along whose axes it is decomposed. camera: anew in every pose, as published; object: once for all poses, where a
    grasp gives the object's pose apart."""
    resolution: int = 1000
    """Voxels of V-HACD's grid, all in all; fitted: a hundred times as many."""
    concavity: float = 0.001
    """V-HACD: how concave a part may stay, a share of the object's hull."""
    threshold: float = 0.05
    """CoACD: how concave a part may stay, of an object scaled to a box of side 2."""
    margin: float = 0.002
    """mujoco: how far apart contacts keep two surfaces, metres. Bullet's is 1 mm; with 2 mm, what bridges the small
    gaps of an annotated grasp, true grasps are held and shifted ones fall (``benchmarks/simulation``)."""
    correction: float = 5.0
    """mujoco: time steps in which a penetration falls to 1/e (Bullet corrects a fifth of it in each step)."""
    hand_depth: float = 0.005
    """mujoco, which has no concave surfaces: the hand is a layer of prisms under its faces, so many metres deep."""
    repeats: int = 1
    """Runs, the hand moved at random by ``jitter`` in all but the first; SD is then their median."""
    jitter: float = 1e-5
    """Standard deviation of that move, metres: contacts are chaotic, and this shows how much."""

    def __post_init__(self) -> None:
        """Refuse numbers that no simulation can run with.

        Raises:
            ConfigError: naming the field, its value and what is allowed.
        """
        for name, known in (("engine", ENGINES), ("decomposition", DECOMPOSITIONS), ("frame", FRAMES)):
            if getattr(self, name) not in known:
                said = getattr(self, name)
                raise ConfigError(f"simulation.{name}: there is no {said!r}{suggestion(str(said), known)}")
        for field in fields(self):
            value = getattr(self, field.name)
            numbers = value if isinstance(value, tuple | list) else (value,)
            if field.name not in ("engine", "decomposition", "frame") and not all(
                isinstance(n, int | float) and math.isfinite(n) for n in numbers
            ):
                raise ConfigError(f"simulation.{field.name}: {value!r} is not a finite number")
        if not isinstance(self.gravity, tuple | list) or len(self.gravity) != 3:
            raise ConfigError(f"simulation.gravity: {self.gravity!r} must be three numbers, metres per second squared")
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise ConfigError(f"simulation.{name}: {getattr(self, name)!r} must be above 0")
        if self.engine == "mujoco" and self.hand_restitution * self.object_restitution:
            raise ConfigError("simulation.hand_restitution: must be 0 with mujoco, whose contacts do not bounce")

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


PROTOCOLS = {
    "hasson": SimulationSettings(),
    "mujoco": SimulationSettings(engine="mujoco", decomposition="fitted", frame="object"),
}
"""Settings by name: what published numbers were made with, and the same fall in another engine on tighter parts."""


@dataclass(frozen=True)
class Displacement:
    """What simulating one grasp found."""

    millimetres: float
    """Simulation displacement (SD): how far the object's origin, the mean of its vertices, moved."""
    shift: tuple[float, float, float]
    """The same as a vector in the frame of the meshes, millimetres (of the first run)."""
    turn: float
    """How far the object turned, degrees (first run)."""
    contacts: int
    """Contact points of hand and object after the last step (first run); 0: the object has left the hand."""
    runs: tuple[float, ...]
    """SD of each run, millimetres; ``millimetres`` is their median."""
    parts: int
    """Convex parts that stood for the object."""
    convex: bool
    """Whether the object itself was convex and went in unchanged."""
    engine: str
    """Name and version."""
    settings: SimulationSettings

    def record(self) -> dict[str, Any]:
        """Plain values, for a result file."""
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "settings"}
        return {**plain, "settings": {f.name: getattr(self.settings, f.name) for f in fields(self.settings)}}
