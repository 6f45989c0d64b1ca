"""From photographs to written results: images a second, one thing after another and with stages beside one another.

    python -m benchmarks.throughput --count 24 --rounds 3

``horefine run``'s pipeline on photographs that repeat the shipped examples, once as users of photos have it (boxes,
first poses and maps by the networks, recipe ``pixels``) and once with poses and maps from files (recipe ``default``).
Each round runs serially and with threads in turn, in one process that has compiled everything; the best round counts
for each. On a machine that others use, look at processor seconds: wall time there says how busy the others were.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._common import write_result
from benchmarks._examples import examples_folder
from horefine import load_config, pipeline
from horefine.job import Job
from horefine.processes import cores
from horefine.run_command import make_job

NOTHING = dict.fromkeys(
    ("checkpoint", "object_name", "object_unit", "intrinsics", "fov", "side", "boxes", "wrist", "mano_dir")
)


def job_of(root: Path, out: Path, source: str, options: argparse.Namespace) -> Job:
    """The job of ``networks`` or ``files``."""
    files = source == "files"
    return make_job(
        root / "images", out, load_config("default" if files else "pixels"),
        init=str(root / "init") if files else "hoisdf", features=root / "maps" if files else None,
        detector="horefine", hand="auto", device="cpu", renderer="auto", overwrite=True,
        batch_size=options.batch_size, pictures=not options.no_pictures, **NOTHING,
    )  # fmt: skip


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def stages(out: Path) -> dict[str, float]:
    """Mean seconds of each stage an image, as the results of the last run say."""
    found: dict[str, list[float]] = {}
    for path in sorted(out.glob("items/*/result.json")):
        for name, value in json.loads(path.read_text())["seconds"].items():
            found.setdefault(name, []).append(value)
    return {name: round(float(np.mean(values)), 4) for name, values in found.items()}


def measure(root: Path, source: str, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, float]]:
    """One row of the table, and the serial run's seconds by stage."""
    serial = job_of(root, root / f"out_{source}", source, options)
    beside = dataclasses.replace(serial, threads=options.threads)
    list(pipeline.run(dataclasses.replace(serial, limit=options.batch_size)))
    times: dict[str, list[tuple[float, float]]] = {"serial": [], "threads": []}
    by_stage: dict[str, float] = {}
    for _ in range(options.rounds):
        times["threads"].append(timed(lambda: list(pipeline.run(beside))))
        times["serial"].append(timed(lambda: list(pipeline.run(serial))))
        by_stage = stages(serial.out)
    wall, processor = ({name: np.array(own)[:, k].min() for name, own in times.items()} for k in (0, 1))
    row = {
        "source": source,
        "serial images/s": round(options.count / wall["serial"], 3),
        f"{options.threads} threads images/s": round(options.count / wall["threads"], 3),
        "ratio": round(float(np.median([one[0] / other[0] for one, other in zip(*times.values(), strict=True)])), 3),
        "serial processor s an image": round(processor["serial"] / options.count, 3),
        "with threads": round(processor["threads"] / options.count, 3),
    }
    return row, by_stage


def main() -> None:
    """Measures, prints a table, writes ``results/throughput.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=24, help="images a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=cores(), help="as horefine run's")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--source", default="networks,files", help="networks, files or both")
    parser.add_argument("--no-pictures", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = examples_folder(Path(folder) / "in", options.count)
        found = {source: measure(root, source, options) for source in options.source.split(",")}
    notes = [f"seconds an image by stage, serial, {source}: {by_stage}" for source, (_, by_stage) in found.items()]
    record = {"stages": {source: by_stage for source, (_, by_stage) in found.items()}}
    write_result("throughput", record, rows=[row for row, _ in found.values()], notes=notes)


if __name__ == "__main__":
    main()
