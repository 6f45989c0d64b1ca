"""Memory of a run from its first images to its last: flat, or it would not end.

    python -m benchmarks.memory --count 10000 --threads 2

``horefine run`` in a process of its own on photographs that repeat the shipped examples, with poses and maps from
files and few steps (what is measured is everything about the refinement, not the refinement). Read from the system
while it runs: resident memory about the 100th, 1000th, ... image (median), and at its peak, the summary and the report
of all images included.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks._common import write_result
from benchmarks._examples import examples_folder

LIGHT = (
    "--config", "default", "--set", "stages.correspond.steps=2", "--set", "stages.settle.steps=1",
    "--set", "stages.render.steps=1", "--set", "stages.render.rounds=1", "--no-pictures",
)  # fmt: skip
BULKY = ("result.npz", "scene.glb")


def resident(process: int, key: str = "VmRSS") -> float:
    """Resident memory, MiB (Linux)."""
    text = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    found = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) / 1024 if found else float("nan")


def watch(process: subprocess.Popen, items: Path, every: float) -> Iterator[tuple[int, float]]:
    """How many images are finished and the resident memory then, until the process ends.

    The large files of finished items are removed on the way: they would fill the disk.
    """
    seen: set[str] = set()
    while process.poll() is None:
        new = (
            {entry.name for entry in os.scandir(items) if not entry.name.startswith(".")} - seen
            if items.is_dir()
            else ()
        )
        for name in new:
            for file in BULKY:
                (items / name / file).unlink(missing_ok=True)
        seen.update(new)
        try:
            yield len(seen), resident(process.pid)
        except (OSError, ValueError):
            return
        time.sleep(every)


def milestones(count: int, first: int) -> list[int]:
    """``first``, ten times as many, again and again, and one near the end."""
    found, end = [first], int(count * 0.9)
    while found[-1] * 10 < end:
        found.append(found[-1] * 10)
    return [*found, end] if end > found[-1] else found


def main() -> None:
    """Runs, prints a table, writes ``results/memory.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="images")
    parser.add_argument("--first", type=int, default=100, help="the first image at which memory counts")
    parser.add_argument("--threads", type=int, default=2, help="as horefine run's")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--every", type=float, default=0.2, help="seconds between two looks")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--usual-heap", action="store_true", help="without horefine.heap")
    options = parser.parse_args()
    heap = {"HOREFINE_HEAP": "usual"} if options.usual_heap else {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = examples_folder(Path(folder) / "in", options.count)
        out = Path(folder) / "out"
        command = [sys.executable, "-m", "horefine", "run", root / "images", "--init", root / "init", "--features"]
        command += [root / "maps", "--out", out, "--threads", options.threads, "--quiet", *LIGHT]
        words = [str(word) for word in [*command, "--batch-size", options.batch_size]]
        begin, peak, curve = time.perf_counter(), 0.0, []
        with subprocess.Popen(words, env={**os.environ, **heap}) as process:
            for done, size in watch(process, out / "items", options.every):
                if size == size:  # gone as it ends
                    curve.append((done, size))
                    peak = max(peak, size)
        seconds, page = time.perf_counter() - begin, (out / "report.html").stat().st_size / 2**20
    if process.returncode:
        raise SystemExit(f"horefine run ended with {process.returncode}")
    done, size = np.array(curve).T
    rows, base = [], float("nan")
    for place in milestones(options.count, options.first):
        near = size[(done >= place * 0.9) & (done <= place * 1.1)]
        middle = float(np.nanmedian(near)) if len(near) else float("nan")
        base = middle if not rows else base
        rows.append({"image": place, "MiB": round(middle, 1), "of the first": round(middle / base, 4)})
    rows.append({"image": "highest of all", "MiB": round(peak, 1), "of the first": round(peak / base, 4)})
    notes = [
        f"{options.count} images, {seconds / options.count * 1e3:.0f} ms each, {options.threads} threads",
        f"report.html: {page:.1f} MiB",
        *(["with the system's usual heap"] if heap else []),
    ]
    thinned = curve[:: max(1, len(curve) // 200)]
    write_result("memory", {"curve": [[int(n), round(s, 1)] for n, s in thinned]}, rows=rows, notes=notes)


if __name__ == "__main__":
    main()
