"""How time and memory grow with the batch, the maps and the object (``benchmarks.machine``)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import torch
import trimesh

from benchmarks import iteration as stages
from benchmarks import render as renderer
from benchmarks._figures import Figure, apart, figure, in_turns, peak_megabytes
from benchmarks._machine_parts import Plan, scenes, steps_of
from horefine import Mesh, load_config, refine

__all__ = ["growing"]

GROWTH = {
    "batch": (1, 2, 4, 8, 16, 32, 64),
    "map side": (32, 64, 128, 256),
    "object faces": (500, 2000, 8000, 20000),
}
"""What is varied, the rest being a batch of 4, maps of 64x64 and the embedded objects."""


def growing(plan: Plan) -> Iterator[Figure]:
    """Time and memory against the size of the batch, of the maps and of the object; each point in a fresh process
    (its peak of memory is its own; a quick look measures all in this one)."""
    for what, values in GROWTH.items():
        for value in plan.some(values):
            found = _grown(what, value, plan) if plan.quick else apart(_grown, what, value, plan)
            for name, (numbers, unit) in found.items():
                yield figure("growth", f"{name} by {what}: {value}", numbers, unit)


def _grown(what: str, value: int, plan: Plan) -> dict[str, tuple[list[float], str]]:
    batch = value if what == "batch" else 4
    torch.set_num_threads(plan.threads if batch > 1 else 1)
    pose, features = scenes(batch, value if what == "map side" else 64)
    if what == "object faces":
        features = dataclasses.replace(features, object=_egg(features.object, value), contact=None)
    rounds = plan.rounds(3)
    vertices, faces = renderer.meshes()["hand"] if what != "object faces" else features.object.trimmed(0)
    side = value if what == "map side" else 64
    view = renderer.camera((side, side))
    drawn = renderer.poses(vertices - vertices.mean(0), max(batch, 16))
    run = renderer.ours(drawn, faces, view, batch)
    drawing = in_turns({"": _counting(run)}, rounds + 2, max(1, 8 // batch))[""]
    step = steps_of(stages.Case.on("adam", pose, features), rounds, {True: 10 if plan.quick else 40})[True]
    config = load_config("default")
    solved = in_turns({"": lambda: refine(pose, features, config)}, 1 if plan.quick else 2)[""]
    found = {
        "render": ((drawing.wall * 1e3 / batch).tolist(), "ms/image"),
        "iteration of adam": ((step.wall * 1e3 / batch).tolist(), "ms/image"),
        "default": ((solved.wall * 1e3 / batch).tolist(), "ms/image"),
    }
    return found if plan.quick else found | {"memory": ([peak_megabytes()], "MB")}


def _counting(run: Callable[[int], object]) -> Callable[[], object]:
    """Calls with 0, 1, 2, ..."""
    number = iter(range(10**9))
    return lambda: run(next(number))


def _egg(like: Mesh, faces: int) -> Mesh:
    """An ellipsoid in the box of each object, of about as many faces: only the time of it means anything."""
    side = max(4, round((faces / 2) ** 0.5))
    ball = trimesh.creation.uv_sphere(count=[side, side])
    points = torch.tensor(np.asarray(ball.vertices), dtype=torch.float32)
    spread = [v.amax(0) - v.amin(0) for v in (like.trimmed(k)[0] for k in range(len(like)))]
    made = [
        Mesh.from_arrays((points * (extent / 2) + center).numpy(), np.asarray(ball.faces), name="egg")
        for extent, center in zip(spread, like.center, strict=True)
    ]
    return Mesh.cat(made)
