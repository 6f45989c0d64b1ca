"""How long ``horefine evaluate`` takes, on synthetic items with photographs, sidecars, maps and disturbed poses.

    python -m benchmarks.evaluate                     # 1000 items, all metrics but the simulation, two processes
    python -m benchmarks.evaluate --items 100 --workers 1

Scenes are those of ``horefine synthesize`` (``--scenes`` of them, each under several names with another disturbance).
The target is 60 s for 1000 items on two cores; wall time counts other work on the machine too,
processor time does not.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks._common import write_result
from horefine import load_hand
from horefine.data.maps import disturb
from horefine.data.synthetic import write_dataset
from horefine.evaluate.cases import cases_from
from horefine.evaluate.catalogue import INTERACTION, POSE
from horefine.evaluate.evaluation import evaluate
from horefine.evaluate.files import write_evaluation
from horefine.evaluate.predictions import Output, read_predictions
from horefine.exchange import read_pose
from horefine.export import write_arrays
from horefine.hand import HandModel

TARGET = 60.0
"""Seconds for 1000 items."""


def copies(scenes: Path, folder: Path, items: int, hand: HandModel) -> tuple[Path, Path]:
    """The scenes again and again under other names (hard links), and a disturbed pose of each."""
    names = sorted(file.stem for file in (scenes / "images").glob("*.png"))
    for part in ("images", "depth", "truth", "maps", "poses"):
        (folder / part).mkdir(parents=True)
    for k in range(items):
        source, name = names[k % len(names)], f"part{k // len(names):02d}_{k % len(names):04d}"
        for part, ending in (("images", "png"), ("depth", "png"), ("truth", "npz"), ("maps", "npz")):
            os.link(scenes / part / f"{source}.{ending}", folder / part / f"{name}.{ending}")
        sidecar = (scenes / "images" / f"{source}.json").read_text()
        (folder / "images" / f"{name}.json").write_text(sidecar.replace(source, name))
        found = read_pose(scenes / "truth" / f"{source}.npz")
        pose = {key: value[0].numpy() for key, value in disturb(found.pose, k, model=hand).items()}
        write_arrays(folder / "poses" / f"{name}.npz", {**pose, "side": np.array(found.side)})
    return folder, folder / "poses"


def run(items: int, scenes: int, workers: int, folder: Path) -> dict[str, tuple[float, float]]:
    """Wall and processor seconds of each stage."""
    hand = load_hand(kind="embedded")
    write_dataset(folder / "scenes", scenes, 5)
    truth, poses = copies(folder / "scenes", folder / "items", items, hand)
    stages: dict[str, tuple[float, float]] = {}
    began = time.perf_counter(), processor()

    def clock(stage: str) -> None:
        nonlocal began
        now = time.perf_counter(), processor()
        stages[stage], began = (now[0] - began[0], now[1] - began[1]), now

    cases = cases_from(truth)
    clock("read truths")
    predictions = read_predictions(Output(poses), cases, hand)
    clock("read poses")
    found = evaluate(cases, predictions, hand, POSE + INTERACTION, workers=workers)
    clock("check and measure")
    write_evaluation(poses, found, "benchmark", {})
    clock("intervals, tables, plots")
    return stages | {"all": (sum(s[0] for s in stages.values()), sum(s[1] for s in stages.values()))}


def processor() -> float:
    """Processor seconds so far, of this process and of those it waited for."""
    return sum(os.times()[:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="horefine-evaluate-"))
    try:
        seconds = run(options.items, options.scenes, options.workers, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    wall, busy = (1e3 * value / options.items for value in seconds["all"])
    notes = [
        f"{options.items} items, {len(POSE + INTERACTION)} metrics, {options.workers} processes; "
        f"load of the machine {os.getloadavg()[0]:.1f}",
        f"1000 items: {wall:.0f} s ({busy:.0f} s of processor time), target {TARGET:.0f} s",
    ]
    rows = [{"stage": stage, "seconds": wall, "of processor": busy} for stage, (wall, busy) in seconds.items()]
    write_result("evaluate", {"options": vars(options)}, rows=rows, notes=notes)
    print("\n".join(notes))


if __name__ == "__main__":
    main()
