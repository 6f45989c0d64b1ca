"""What an image costs under Levenberg-Marquardt and where the time goes, alone and in a batch.

    python -m benchmarks.second_order                       # the recipe `default`, batches of 1 and 16
    python -m benchmarks.second_order --set losses.spring_length=0 --set losses.penetration=0

Processor time of one thread, milliseconds an image, each stage without the stages inside it; the best of several runs
over the same scenes (held-out synthetic grasps on noisy maps, the start of `benchmarks.refine`).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks._common import write_result
from horefine import levenberg_marquardt, load_config, load_hand, normal_equations, refine, refinement, setting, verdict
from horefine.data.maps import corrupt, disturb
from horefine.data.synthetic import benchmark_scenes
from horefine.losses import image_squares
from horefine.losses.contact_squares import PenetrationSquares, SpringSquares
from horefine.losses.image_squares import PairSquares, RenderedSquares
from horefine.losses.prior_squares import AnglePrior, ShapePrior
from horefine.objective import Objective
from horefine.render import Renderer

FORMS = (PenetrationSquares, SpringSquares, PairSquares, RenderedSquares, AnglePrior, ShapePrior)
STAGES: dict[str, list[tuple[Any, str]]] = {
    "way in": [(refinement, "_aligned")],
    "prepare": [(setting, "prepare"), (setting, "make_renderer")],
    "settle": [(Objective, "settle")],
    "forms": [(levenberg_marquardt, "forms_of")],
    "move and pose": [(levenberg_marquardt, "moved"), (levenberg_marquardt, "posed")],
    "freeze": [(form, "freeze") for form in FORMS],
    "cost": [(form, "cost") for form in FORMS],
    "rows": [(form, "rows") for form in FORMS],
    "normal equations": [(normal_equations, "_summed")],
    "solve": [(levenberg_marquardt, "_solve")],
    "render": [(Renderer, "__call__"), (image_squares, "drawn_ids")],
    "conclude": [(refinement, "conclude")],
    "how sure": [(verdict, "sigmas")],
}
"""Functions and methods by stage; what belongs to none is ``rest``."""


class Clock:
    """Time of each stage, not counting the stages inside it."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.stage, self.since = "rest", time.thread_time()

    def enter(self, stage: str) -> str:
        """Stops the time of the stage that was on, and returns its name."""
        now, before = time.thread_time(), self.stage
        self.spent[before] += now - self.since
        self.stage, self.since = stage, now
        return before

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*given: Any, **named: Any) -> Any:
            before = self.enter(stage)
            try:
                return function(*given, **named)
            finally:
                self.enter(before)

        return wrapped


@contextlib.contextmanager
def watched() -> Iterator[Clock]:
    """A clock that runs while the stages' functions do."""
    clock = Clock()
    places = [(stage, owner, name, getattr(owner, name)) for stage, found in STAGES.items() for owner, name in found]
    for stage, owner, name, function in places:
        setattr(owner, name, clock.timed(stage, function))
    try:
        yield clock
    finally:
        clock.enter("rest")
        for _, owner, name, function in places:
            setattr(owner, name, function)


def measure(config: Any, scenes: int, level: str, batch: int, runs: int) -> dict[str, float]:
    """Milliseconds an image by stage, and ``whole``: of the run with the least."""
    truth, features = benchmark_scenes(scenes, 1000)
    model = load_hand()
    start = disturb(truth, 1001, 15.0, 20.0, 10.0, model=model, object_center=features.object.center)
    spoiled = corrupt(features, level, 1002)
    rows = [torch.arange(i, min(i + batch, scenes)) for i in range(0, scenes, batch)]
    given = [(start[r], spoiled[r]) for r in rows]
    refine(*given[0], config, hand_model=model)  # compiles, fills caches
    found = []
    for _ in range(runs):
        with watched() as clock:
            for pose, seen in given:
                refine(pose, seen, config, hand_model=model)
        found.append({name: clock.spent[name] * 1e3 / scenes for name in [*STAGES, "rest"]})
    best = min(found, key=lambda times: sum(times.values()))
    return {**best, "whole": sum(best.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="default")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c")
    parser.add_argument("--level", default="n02", help="exact, n02, n05 or c01")
    parser.add_argument("--scenes", type=int, default=16)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", default="second_order", help="name of the result file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(options.config, options.set)
    results = {b: measure(config, options.scenes, options.level, b, options.runs) for b in options.batch}
    rows = [
        {"stage": name, **{f"batch {b}": r[name] for b, r in results.items()}} for name in results[options.batch[0]]
    ]
    write_result(options.out, {"options": vars(options), "results": results}, rows=rows, notes=["ms an image"])


if __name__ == "__main__":
    main()
