"""What one iteration of refinement costs and where: a batch of 8, maps of 64x64, every loss of the recipe.

    python -m benchmarks.iteration --config adam --batch 8 --threads 2

``refine`` is the whole call with 300 steps, all the losses of the recipe switched on in every step; below it one step
is taken apart: posing, rendering, each loss (forward alone, hand and pictures being there), all forward and backward,
moving.
"""

from __future__ import annotations

import argparse
import time

import torch

from benchmarks._common import seconds, write_result
from horefine import Config, load_config, load_hand, refine
from horefine.adam import Adam
from horefine.config import Optimizer, Stage
from horefine.data.maps import disturb
from horefine.data.synthetic import benchmark_scenes
from horefine.objective import Objective, prepare, usable
from horefine.render import make_renderer
from horefine.scene import Scene
from horefine.tangent import CHARTS, flat_rates


def parts(name: str, batch: int, repeats: int) -> dict[str, float]:
    """Milliseconds of each part of one step, median."""
    truth, features = benchmark_scenes(batch, 4000)
    model, config = load_hand(), load_config(name)
    pose = disturb(truth, 1, model=model, object_center=features.object.center)
    renderer = make_renderer(model.faces, model.codes, features.object, features.camera)
    terms = usable(config.terms(), features)
    leaf = pose.map(lambda value: value.requires_grad_())

    def fresh() -> Scene:
        return Scene(leaf, pose.detach(), features, model, renderer)

    found = {"prepare (once)": seconds(lambda: prepare(terms, features, model), repeats=3, warm=1)[0]}
    objective = Objective(terms, prepare(terms, features, model)).settle(fresh())
    ready = fresh()
    _ = ready.hand, ready.object, ready.render
    found["pose hand and object"] = seconds(lambda: (fresh().hand, fresh().object), repeats=repeats)[0]
    found["render"] = seconds(lambda: renderer(ready.hand.vertices, ready.object), repeats=repeats)[0]
    for key in terms:
        alone = Objective({key: objective.terms[key]}, objective.inputs)
        found[f"loss {key}"] = seconds(lambda alone=alone: alone.evaluate(ready), repeats=repeats)[0]

    def forward() -> torch.Tensor:
        return torch.stack(list(objective.evaluate(fresh()).values())).sum()

    values = [value for _, value in leaf.items()]

    def both() -> object:
        return torch.autograd.grad(forward(), values, allow_unused=True)

    found["all losses, forward"] = seconds(forward, repeats=repeats)[0]
    found["all losses, forward and backward"] = seconds(both, repeats=repeats)[0]
    assert isinstance(config.optimizer, Optimizer)  # main has said so
    chart = CHARTS[config.optimizer.parameters]()
    adam = Adam(flat_rates(config.optimizer.rates, pose.hand_transl, chart.blocks))
    gradient = leaf.map(lambda value: torch.ones_like(value)).detach()

    def move() -> object:
        with torch.no_grad():
            return chart.move(ready, adam.step(chart.gradient(ready, gradient)))

    found["gradient to chart, Adam, move"] = seconds(move, repeats=repeats)[0]
    return {key: value * 1e3 for key, value in found.items()}


def whole(name: str, batch: int, steps: int) -> float:
    """Seconds an image of ``refine`` with every loss in every one of ``steps`` steps."""
    recipe = load_config(name)

    def everything(count: int) -> Config:
        return recipe.model_copy(update={"stages": {"all": Stage(steps=count, losses=list(recipe.terms()))}})

    truth, features = benchmark_scenes(batch, 4000)
    pose = disturb(truth, 1, model=load_hand(), object_center=features.object.center)
    refine(pose, features, everything(3))  # compiles
    start = time.perf_counter()
    refine(pose, features, everything(steps))
    return (time.perf_counter() - start) / batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="adam")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    if load_config(options.config).optimizer.name != "adam":
        parser.error(f"--config {options.config}: takes no steps of Adam, which is what is taken apart here; try adam")
    torch.set_num_threads(options.threads)
    total = whole(options.config, options.batch, options.steps)
    rows: list[dict[str, object]] = [{"part": f"refine, {options.steps} steps, an image", "ms": total * 1e3}]
    rows += [{"part": part, "ms": ms} for part, ms in parts(options.config, options.batch, options.repeats).items()]
    for row in rows:
        print(f"{row['part']:40s} {row['ms']:9.2f} ms", flush=True)
    note = f"batch {options.batch}, 64x64 maps, {options.threads} thread(s); parts are of the whole batch"
    write_result("iteration", vars(options), rows=rows, notes=[note])


if __name__ == "__main__":
    main()
