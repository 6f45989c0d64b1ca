"""What ``benchmarks.machine`` measures: functions that give figures. Each stands alone, in the order of the table."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks import iteration as stages
from benchmarks import refine as accuracy
from benchmarks import render as renderer
from benchmarks import second_order as solver
from benchmarks import throughput
from benchmarks._common import RESULTS, ROOT
from benchmarks._examples import examples_folder
from benchmarks._figures import Figure, Times, figure, in_turns
from horefine import Config, Features, Pose, load_config, load_hand, pipeline, refine
from horefine.config import Stage
from horefine.data.maps import corrupt, disturb
from horefine.data.synthetic import benchmark_scenes
from horefine.iteration import descend

__all__ = [
    "Plan", "by_stage", "iterating", "memory", "on_a_gpu", "photographs", "rendering", "scenes", "solving", "steps_of",
]  # fmt: skip

SEED = 4000
PHOTOGRAPHS = 12


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    quick: bool = False
    threads: int = 2

    def rounds(self, count: int) -> int:
        """Fewer where it must be quick."""
        return 1 if self.quick else count

    def some(self, values: tuple[int, ...]) -> tuple[int, ...]:
        """One of them where it must be quick."""
        return values[1:2] if self.quick else values


# --- the renderer ------------------------------------------------------------------------------------------------


def rendering(plan: Plan) -> Iterator[Figure]:
    """The hand at 64x64, mask and depth, forward and backward, one thread; others in the same rounds."""
    torch.set_num_threads(1)
    vertices, faces = renderer.meshes()["hand"]
    poses, view = renderer.poses(vertices), renderer.camera((64, 64))
    for batch, target in ((1, 0.30), (16, 0.15)):
        runs = {"cpu": renderer.ours(poses, faces, view, batch)} | _others(poses, faces, view, batch)
        times = renderer.interleaved(runs, plan.rounds(25), 4 if plan.quick else max(1, 64 // batch))
        wall = times["cpu"][:, 0] * 1e3 / batch
        yield figure("renderer", f"hand, 64x64, batch {batch}", wall, "ms/image", target)
        for name in set(runs) - {"cpu"}:
            ratio = times[name][:, 1] / times["cpu"][:, 1]
            goal = 4.0 if name == "deodr" else None
            yield figure("renderer", f"{name} / ours, batch {batch}", ratio, "times", goal, more=True)


def _others(poses: list, faces: torch.Tensor, view: object, batch: int) -> dict[str, renderer.Run]:
    """Renderers that are installed and work here."""
    found: dict[str, renderer.Run] = {}
    if importlib.util.find_spec("deodr"):
        found["deodr"] = renderer.deodr(poses, faces, view, batch)  # type: ignore[arg-type]
    for name in ("pytorch3d", "nvdiffrast"):
        if importlib.util.find_spec(name):
            run = renderer.ours(poses, faces, view, batch, name)  # type: ignore[arg-type]
            try:
                run(0)
            except Exception as error:  # a renderer without its device is no reason to stop
                print(f"{name} is installed, and does not render here: {error}", file=sys.stderr)
            else:
                found[name] = run
    return found


# --- Adam --------------------------------------------------------------------------------------------------------


def scenes(batch: int, size: int = 64) -> tuple[Pose, Features]:
    """Disturbed starts and exact maps of held-out synthetic scenes."""
    truth, features = benchmark_scenes(batch, SEED, size=size)
    return disturb(truth, 1, model=load_hand(), object_center=features.object.center), features


def adam_config(steps: int) -> Config:
    """The recipe ``adam`` with all its losses in every step."""
    recipe = load_config("adam")
    return recipe.model_copy(update={"stages": {"all": Stage(steps=steps, losses=list(recipe.terms()))}})


def steps_of(case: stages.Case, rounds: int, steps: Mapping[bool, int]) -> dict[bool, Times]:
    """Seconds of a step of the whole batch, fused (True) or eager: so many in a row, less what a stage begins with."""

    def walk(count: int, fused: bool) -> Callable[[], object]:
        return lambda: descend(case.objective, case.pose, case.scene_of, stages.search_of(case, count, fused))

    works = {f"{fused} {n}": walk(n, fused) for fused, count in steps.items() for n in (1, 1 + count)}
    found = in_turns(works, rounds)

    def one(fused: bool, count: int) -> Times:
        few, many = found[f"{fused} 1"], found[f"{fused} {1 + count}"]
        return Times((many.wall - few.wall) / count, (many.processor - few.processor) / count)

    return {fused: one(fused, count) for fused, count in steps.items()}


def iterating(plan: Plan) -> Iterator[Figure]:
    """A full fused iteration, 300 of them, and eager ones beside it on one thread: threads that wait spin."""
    for batch, target, total in ((1, 1.2, 500.0), (16, 0.35, 150.0)):
        pose, features = scenes(batch)
        case = stages.Case.on("adam", pose, features)
        torch.set_num_threads(plan.threads if batch > 1 else 1)
        found = steps_of(case, plan.rounds(7), {True: 20 if plan.quick else 100})
        wall = found[True].wall * 1e3 / batch
        yield figure("iteration", _of("all losses of adam", batch, plan), wall, "ms/image", target)
        count = 30 if plan.quick else 300
        times = in_turns({"": lambda pose=pose, f=features, c=count: refine(pose, f, adam_config(c))}, plan.rounds(3))
        goal = None if plan.quick else total
        yield figure(
            "refine", _of(f"{count} steps of Adam", batch, plan), times[""].wall * 1e3 / batch, "ms/image", goal
        )
        torch.set_num_threads(1)
        found = steps_of(case, plan.rounds(5), {True: 20 if plan.quick else 100, False: 4 if plan.quick else 20})
        ratio = found[False].processor / found[True].processor
        yield figure("iteration", f"eager / fused, batch {batch}, one thread", ratio, "times", None, more=True)


def _of(what: str, batch: int, plan: Plan) -> str:
    return f"{what}, batch {batch}, {'one thread' if batch == 1 else f'{plan.threads} threads'}"


def by_stage(plan: Plan) -> Iterator[Figure]:
    """Where an iteration goes: processor time of each stage of a fused and an eager one, on one thread."""
    torch.set_num_threads(1)
    for batch in (1,) if plan.quick else (1, 16):
        case = stages.Case.of("adam", batch)
        eager, fused = stages.eager_stages(case), stages.fused_stages(case)
        for name in dict.fromkeys([*fused, *eager]):
            works = {way: own[name] for way, own in (("fused", fused), ("eager", eager)) if name in own}
            for way, times in in_turns(works, plan.rounds(9), max(1, 16 // batch)).items():
                case_name = f"{way}: {name}, batch {batch}"
                yield figure("stage", case_name, times.processor * 1e3 / batch, "ms/image", note="processor time")
    for batch in (1,) if plan.quick else (1, 16):
        spent = solver.measure(load_config("default"), 1 if plan.quick else 16, "n02", batch, 1 if plan.quick else 3)
        for name, value in spent.items():
            yield figure("stage of default", f"{name}, batch {batch}", [value], "ms/image", note="processor time")


# --- the second-order solver -------------------------------------------------------------------------------------


def solving(plan: Plan) -> Iterator[Figure]:
    """``default`` on noisy maps, image by image on one thread and in batches; how well it ends beside it."""
    config, model = load_config("default"), load_hand()
    count = 2 if plan.quick else 16
    truth, exact = benchmark_scenes(count, SEED)
    pose = disturb(truth, 1, model=model, object_center=exact.object.center)
    features = corrupt(exact, "n02", 2)
    torch.set_num_threads(1)
    refine(pose[:1], features[:1], config, hand_model=model)
    times = []
    for k in range(count):
        begin = time.perf_counter()
        refine(pose[k : k + 1], features[k : k + 1], config, hand_model=model)
        times.append(time.perf_counter() - begin)
    yield figure("refine", "default, batch 1, one thread", np.array(times) * 1e3, "ms/image", 50.0)
    ends: list[Pose] = []
    for threads in sorted({1, plan.threads}):
        torch.set_num_threads(threads)
        work = {"": lambda: ends.append(refine(pose, features, config, hand_model=model).pose)}
        rate, last = count / in_turns(work, plan.rounds(5))[""].wall, threads == plan.threads
        target = 20.0 if last and not plan.quick else None
        yield figure("refine", f"default, batch {count}, {threads} thread(s)", rate, "images/s", target, more=True)
    found = accuracy.errors(ends[-1], truth, features)
    for key in ("HE", "OE"):
        note = "of 100 scenes: benchmarks.refine"
        yield figure(
            "accuracy", f"default, {count} scenes with noisy maps (n02), {key}", found[key].numpy(), "mm", note=note
        )


# --- from photographs to files -----------------------------------------------------------------------------------


def photographs(plan: Plan) -> Iterator[Figure]:
    """From photographs to written results: the pipeline with and without threads beside it, and the command whole."""
    torch.set_num_threads(1)  # as the command does
    with tempfile.TemporaryDirectory() as place:
        if not plan.quick:
            root = examples_folder(Path(place) / "in", PHOTOGRAPHS)
            for source, target in (("networks", 1.5), ("files", None)):
                yield from _piped(root, source, target, plan)
        yield figure("photographs", "the command, one photograph, start included", [_command(Path(place) / "one")], "s")


def _piped(root: Path, source: str, target: float | None, plan: Plan) -> Iterator[Figure]:
    """``networks``: first poses, maps and boxes by them; ``files``: poses and maps are there."""
    options = argparse.Namespace(batch_size=8, no_pictures=False)
    serial = throughput.job_of(root, root / f"out_{source}", source, options)
    beside = dataclasses.replace(serial, threads=plan.threads)
    works = {"beside": lambda: list(pipeline.run(beside)), "serial": lambda: list(pipeline.run(serial))}
    found = in_turns(works, plan.rounds(2))
    case = f"photo to files, {source}, {plan.threads} threads"
    yield figure("photographs", case, found["beside"].wall / PHOTOGRAPHS, "s/image", target)
    ratio = found["serial"].wall / found["beside"].wall
    yield figure("photographs", f"serial / {plan.threads} threads, {source}", ratio, "times", None, more=True)


def _command(out: Path) -> float:
    """Seconds of ``horefine run`` with one photograph."""
    words = ["run", str(ROOT / "examples" / "images" / "mug.jpg"), "--init", "hoisdf", "--out", str(out), "--quiet"]
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "horefine", *words], cwd=ROOT, check=True)
    return time.perf_counter() - begin


def memory(plan: Plan) -> Iterator[Figure]:
    """How memory grows over many images, as ``benchmarks.memory`` (an hour) has left it in ``results/memory.json``."""
    path = RESULTS / "memory.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"][:-1] if path.is_file() else []
    rows = [row for row in rows if math.isfinite(row["of the first"])]
    if len(rows) > 1:
        first, last = rows[0]["image"], rows[-1]["image"]
        change, target = abs(rows[-1]["of the first"] - 1) * 100, 5.0 if last >= 5000 else None
        yield figure("memory", f"image {first} to {last}: change (benchmarks.memory)", [change], "%", target)


# --- a GPU ------------------------------------------------------------------------------------------------------------


def on_a_gpu(plan: Plan, device: str = "cuda") -> Iterator[Figure]:
    """Where there is a GPU: images a second by batch and recipe, and how far its poses are from those of the CPU."""
    if device == "cuda" and not torch.cuda.is_available():
        return
    steps = 3 if plan.quick else 300
    adam = adam_config(steps)
    recorded = adam.model_copy(update={"optimizer": adam.optimizer.model_copy(update={"graph": True})})
    recipes = {f"{steps} steps of Adam": adam, "the same, recorded": recorded, "default": load_config("default")}
    for batch in (2,) if plan.quick else (1, 16, 64, 256, 1024):
        pose, features = scenes(batch)
        there = pose.to(device), features.to(device)
        for name, config in recipes.items():

            def work(config: Config = config, there: tuple[Pose, Features] = there) -> None:
                refine(*there, config)
                if device == "cuda":
                    torch.cuda.synchronize()

            rate, wanted = batch / in_turns({"": work}, plan.rounds(3))[""].wall, batch == 256 and config is adam
            yield figure("GPU", f"{name}, batch {batch}", rate, "images/s", 300.0 if wanted else None, more=True)
            if batch in (2, 64):
                yield figure("GPU", f"{name}: hand from the CPU's", _apart(pose, features, there, config), "mm", 0.1)


def _apart(pose: Pose, features: Features, there: tuple[Pose, Features], config: Config) -> np.ndarray:
    """Mean distance of the hand's vertices between this machine's two devices, image by image."""
    model, ends = load_hand(), (refine(pose, features, config).pose, refine(*there, config).pose.to("cpu"))
    hands = [model(end.hand_rotvec, end.hand_shape, end.hand_transl).vertices for end in ends]
    return (hands[0] - hands[1]).norm(dim=-1).mean(1).numpy() * 1e3
