"""What one iteration of Adam costs and where, fused beside eager: maps of 64x64, every loss of the recipe in each step.

    python -m benchmarks.iteration                       # adam and song2022, batches of 1 and 16
    python -m benchmarks.iteration --config adam --batch 8 --threads 1

Stages are timed in processor time (both threads count), eager and fused in turns within one run, medians, milliseconds
an image. ``a step`` is one of many in a row, with all that belongs to it; ``300 steps`` is the whole call of ``refine``
(fused alone). Eager losses are timed forward alone (``forward and backward`` has their way back), fused ones give both.
Torch has one thread (others spin and count as work); the last rows have ``--threads`` too, from four images on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks._common import write_result
from horefine import Config, Pose, load_config, load_hand, refine
from horefine.adam import Adam
from horefine.config import Optimizer, Stage
from horefine.data.maps import disturb
from horefine.data.synthetic import benchmark_scenes
from horefine.descent import Eager, Search
from horefine.factors import chart_for
from horefine.fused_objective import Fused, fused_losses
from horefine.iteration import descend
from horefine.objective import Objective, prepare, usable
from horefine.render import make_renderer
from horefine.scene import Features, Scene
from horefine.tangent import flat_rates
from horefine.threads import PARALLEL_FROM

TARGETS = {"a step": {1: 1.2, 16: 0.35}, "300 steps": {1: 500.0, 16: 150.0}}
"""Milliseconds an image (wall, two quiet cores) by batch."""
Work = Callable[[], object]


@dataclass(frozen=True)
class Spent:
    """Milliseconds."""

    wall: float
    processor: float


def spent(work: Work) -> Spent:
    """What one call takes."""
    start = time.perf_counter(), time.process_time()
    work()
    return Spent((time.perf_counter() - start[0]) * 1e3, (time.process_time() - start[1]) * 1e3)


@dataclass(frozen=True)
class Case:
    """A recipe on a batch, settled at a disturbed start."""

    config: Config
    pose: Pose
    features: Features
    objective: Objective
    scene_of: Callable[[Pose], Scene]
    fused: Fused
    eager: Eager

    @staticmethod
    def of(name: str, batch: int) -> Case:
        """On held-out synthetic scenes."""
        truth, features = benchmark_scenes(batch, 4000)
        return Case.on(name, disturb(truth, 1, model=load_hand(), object_center=features.object.center), features)

    @staticmethod
    def on(name: str, pose: Pose, features: Features) -> Case:
        """At that start."""
        model, config = load_hand(), load_config(name)
        assert isinstance(config.optimizer, Optimizer)
        renderer = make_renderer(model.faces, model.codes, features.object, features.camera)
        terms = usable(config.terms(), features)

        def scene_of(there: Pose) -> Scene:
            return Scene(there, pose, features, model, renderer)

        objective = Objective(terms, prepare(terms, features, model)).settle(scene_of(pose))
        losses, parameters = fused_losses(objective, scene_of(pose)), config.optimizer.parameters
        fused = Fused.of(objective, losses, scene_of, pose, parameters)
        fused.evaluate(pose)
        return Case(
            config, pose, features, objective, scene_of, fused, Eager(objective, scene_of, chart_for(parameters))
        )


def in_turns(works: Mapping[str, Work], repeats: int, inner: int) -> dict[str, float]:
    """Processor time of one call of each, milliseconds: median of ``repeats`` rounds of all in turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(repeats + 1):  # the first compiles and warms
        for name, work in works.items():
            start = time.process_time()
            for _ in range(inner):
                work()
            if round_:
                times[name].append((time.process_time() - start) / inner * 1e3)
    return {name: float(np.median(values)) for name, values in times.items()}


def eager_stages(case: Case) -> dict[str, Work]:
    """The stages of an eager step."""
    leaf = case.pose.map(lambda value: value.detach().requires_grad_())
    ready = case.scene_of(leaf)
    _ = ready.hand, ready.object, ready.render
    chart, gradient = case.eager.chart, leaf.map(lambda value: torch.ones_like(value)).detach()
    adam = Adam(flat_rates(case.config.rates, case.pose.hand_transl, chart.blocks))

    def posed() -> object:
        scene = case.scene_of(leaf)
        return scene.hand, scene.object

    def move() -> object:
        with torch.no_grad():
            return chart.move(ready, adam.step(chart.gradient(ready, gradient)))

    works: dict[str, Work] = {
        "pose hand and object": posed,
        "render": lambda: case.scene_of(leaf).renderer(ready.hand.vertices, ready.object),
    }
    for name in case.objective.terms:
        alone = replace(case.objective, terms={name: case.objective.terms[name]})
        works[f"loss {name}"] = lambda alone=alone: alone.evaluate(ready)
    return works | {"gradient to chart, Adam, move": move, "forward and backward": lambda: case.eager.evaluate(leaf)}


def fused_stages(case: Case) -> dict[str, Work]:
    """The stages of a fused step, on one thread."""
    fused, batch = case.fused, len(case.pose)
    posed, pull, values = fused.posed, fused.pull, np.zeros((len(fused.names), batch))

    works: dict[str, Work] = {
        "pose hand and object": lambda: fused.place(0, batch),
        "render": lambda: fused.drawing.draw(0, batch),
    }
    for name, loss in fused_losses(case.objective, case.scene_of(case.pose)).items():
        works[f"loss {name}"] = lambda loss=loss: loss.add(posed, pull, values[0], 0, batch)
    return works | {
        "pulls to chart": lambda: fused.collect(0, batch),
        "forward and backward": lambda: (fused.add(values, 0, batch), fused.add_rest(values)),
    }


def search_of(case: Case, steps: int, fused: bool = True) -> Search:
    """As many steps as the recipe would make them."""
    options = case.config.optimizer
    assert isinstance(options, Optimizer)
    return Search([0.1] * steps, case.config.rates, options.parameters, options.betas, options.epsilon, fused=fused)


def steps_in_a_row(case: Case, steps: int, fused: bool) -> Spent:
    """One step of ``steps``; what a stage begins with is left out."""

    def few() -> object:
        return descend(case.objective, case.pose, case.scene_of, search_of(case, 1, fused))

    def many() -> object:
        return descend(case.objective, case.pose, case.scene_of, search_of(case, 1 + steps, fused))

    few()  # compiles
    pairs = [(spent(few), spent(many)) for _ in range(5 if fused else 1)]
    wall = np.median([more.wall - less.wall for less, more in pairs])
    return Spent(float(wall) / steps, float(np.median([m.processor - o.processor for o, m in pairs])) / steps)


def whole(case: Case, steps: int) -> Spent:
    """``refine`` with every loss in every one of ``steps`` steps."""
    stages = {"all": Stage(steps=steps, losses=list(case.config.terms()))}
    config = case.config.model_copy(update={"stages": stages})
    refine(case.pose, case.features, config.one_step())
    return spent(lambda: refine(case.pose, case.features, config))


def take_apart(name: str, batch: int, options: argparse.Namespace) -> list[dict[str, object]]:
    """Rows of one recipe and batch, milliseconds an image."""
    torch.set_num_threads(1)
    case, rows = Case.of(name, batch), []
    eager, fused = eager_stages(case), fused_stages(case)
    parts = {}
    for part in dict.fromkeys([*eager, *fused]):
        ways = {way: works[part] for way, works in (("eager", eager), ("fused", fused)) if part in works}
        parts[part] = in_turns(ways, options.repeats, max(1, 8 // batch))
    for part, found in parts.items():
        rows.append({"recipe": name, "batch": batch, "part": part, **_row(found, batch)})
    eager_step = steps_in_a_row(case, 4, fused=False)
    for threads in sorted({1, options.threads if batch >= PARALLEL_FROM else 1}):
        torch.set_num_threads(threads)
        for part, found in (("a step", steps_in_a_row(case, 60, fused=True)), ("300 steps", whole(case, 300))):
            both = {"eager": eager_step.processor} if (part, threads) == ("a step", 1) else {}
            rows.append({
                "recipe": name, "batch": batch, "part": f"{part}, {threads} thread(s)",
                **_row(both | {"fused": found.processor}, batch),
                "fused, wall": found.wall / batch, "target, wall": TARGETS[part].get(batch, ""),
            })  # fmt: skip
    return rows


def _row(found: Mapping[str, float], batch: int) -> dict[str, object]:
    eager, fused = (found[way] / batch if way in found else None for way in ("eager", "fused"))
    ratio = eager / fused if eager is not None and fused else ""
    blank = ["" if value is None else value for value in (eager, fused)]
    return {"eager": blank[0], "fused": blank[1], "ratio": ratio, "fused, wall": "", "target, wall": ""}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="+", default=["adam", "song2022"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    for name in options.config:
        if load_config(name).optimizer.name != "adam":
            parser.error(f"--config {name}: takes no steps of Adam, which is what is taken apart here; try adam")
    rows = []
    for name in options.config:
        for batch in options.batch:
            rows += take_apart(name, batch, options)
            print(f"{name}, batch {batch}: done", flush=True)
    notes = [
        "milliseconds an image, processor time unless it says wall; 64x64 maps, stages on one thread",
        "eager losses forward alone, fused ones with their gradient; a step takes losses of the same pixels together",
    ]
    write_result("iteration", vars(options), rows=rows, notes=notes)


if __name__ == "__main__":
    main()
