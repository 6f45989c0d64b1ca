"""What each loss of a recipe costs at a posed and rendered scene, value and gradient: eager (autograd) and fused.

    python -m benchmarks.fused_losses --config adam --batch 1,16

Processor time of one thread, both ways by turns in one run, medians; the eager backward pass ends at the posed points
and pictures' faces, where the fused losses pull. ``value`` and ``gradient``: largest relative difference between the
two, the gradient in the recipe's chart. A stage asks losses of the same pixels or pairs in one pass.
Losses whose features the scenes lack are left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from benchmarks._common import write_result
from horefine import load_config, load_hand
from horefine.config import Config, Optimizer
from horefine.data.maps import disturb
from horefine.data.synthetic import benchmark_scenes
from horefine.descent import Eager
from horefine.factors import chart_for
from horefine.fused import FusedLoss
from horefine.fused_objective import Fused, fused_losses
from horefine.losses.fused import joined
from horefine.objective import Objective, prepare, usable
from horefine.render import make_renderer
from horefine.scene import Pose, Scene


def milliseconds(work: list[Callable[[], object]], repeats: int) -> list[float]:
    """Processor time of each, by turns, medians; what is short is called several times."""
    calls = []
    for one in work:
        one()
        start = time.thread_time()
        one()
        calls.append(max(1, int(5e-4 / max(time.thread_time() - start, 1e-6))))
    times: list[list[float]] = [[] for _ in work]
    for _ in range(repeats):
        for one, count, found in zip(work, calls, times, strict=True):
            start = time.thread_time()
            for _ in range(count):
                one()
            found.append((time.thread_time() - start) / count)
    return [float(np.median(found)) * 1e3 for found in times]


class Bench:
    """A recipe's losses at a disturbed pose of a batch."""

    def __init__(self, config: Config, batch: int) -> None:
        truth, features = benchmark_scenes(batch, 4000)
        model = load_hand()
        renderer = make_renderer(model.faces, model.codes, features.object, features.camera)
        self.pose = disturb(truth, 1, 3.0, 5.0, 5.0, model=model, object_center=features.object.center)
        initial = disturb(truth, 2, 3.0, 5.0, 5.0, model=model, object_center=features.object.center)

        def scene_of(pose: Pose) -> Scene:
            return Scene(pose, initial, features, model, renderer)

        whatever = {name: replace(term, optional=True) for name, term in config.terms().items()}
        terms = usable(whatever, features)
        self.scene_of, self.chart = scene_of, config.optimizer.parameters  # type: ignore[union-attr]
        self.objective = Objective(terms, prepare(terms, features, model)).settle(scene_of(self.pose))
        self.fused = fused_losses(self.objective, scene_of(self.pose))

    def row(self, names: list[str], label: str, repeats: int) -> dict[str, object]:
        """Costs of some of the losses together, and how far the two ways agree."""
        objective = Objective({name: self.objective.terms[name] for name in names}, self.objective.inputs)
        losses = {name: self.fused[name] for name in names}
        eager, fused = milliseconds([self._eager(objective), self._fused(objective, losses)], repeats)
        values, gradient = Eager(objective, self.scene_of, chart_for(self.chart)).evaluate(self.pose)
        mine, pulled = Fused.of(objective, losses, self.scene_of, self.pose, self.chart).evaluate(self.pose)
        off = max(float(((mine[n] - v).abs() / v.abs().clamp(min=1e-12)).max()) for n, v in values.items())
        turned = float(((pulled - gradient).abs().amax(1) / gradient.abs().amax(1).clamp(min=1e-12)).max())
        batch = len(self.pose)
        return {
            "loss": label, "batch": batch, "eager ms": round(eager, 4), "fused ms": round(fused, 4),
            "fused, an image": round(fused / batch, 4), "times": round(eager / fused, 1),
            "value": f"{off:.0e}", "gradient": f"{turned:.0e}",
        }  # fmt: skip

    def _eager(self, objective: Objective) -> Callable[[], object]:
        scene = self.scene_of(self.pose.map(lambda value: value.clone().requires_grad_()))
        parts = [scene.hand.vertices, scene.hand.joints, scene.object, scene.object_center, scene.object_rotation]
        _ = scene.render
        points = [*parts, *(value for _, value in scene.pose.items())]
        deep = any(term.function.__module__.endswith((".prior", ".sequence")) for term in objective.terms.values())

        def work() -> object:
            total = torch.stack(list(objective.evaluate(scene).values())).sum()
            wanted = points if deep else parts
            return torch.autograd.grad(total, wanted, allow_unused=True, retain_graph=True)

        return work

    def _fused(self, objective: Objective, losses: dict[str, FusedLoss]) -> Callable[[], object]:
        state = Fused.of(objective, losses, self.scene_of, self.pose, self.chart)
        state.evaluate(self.pose)
        values, batch = np.zeros((len(losses), len(self.pose))), len(self.pose)
        passes = joined(dict(enumerate(losses.values())))

        def work() -> None:
            for loss in passes:
                loss.add(state.posed, state.pull, values, 0, batch)

        return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="adam")
    parser.add_argument("--batch", default="1,16")
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    config = load_config(options.config)
    if not isinstance(config.optimizer, Optimizer):
        parser.error(f"--config {options.config}: its optimizer takes no steps of Adam; try adam")
    torch.set_num_threads(1)
    rows = []
    for batch in (int(part) for part in options.batch.split(",")):
        bench = Bench(config, batch)
        rows += [bench.row([name], name, options.repeats) for name in bench.fused]
        for stage, walk in config.stages.items():
            names = [name for name in bench.fused if name in (walk.losses or bench.fused)]
            rows.append(bench.row(names, f"stage {stage}", options.repeats))
    write_result(f"fused_losses_{options.config}", {"config": options.config}, rows=rows)


if __name__ == "__main__":
    main()
