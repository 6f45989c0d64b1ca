"""What the first refinement on a machine costs more than the next ones: its kernels are compiled, once.

    python -m benchmarks.compiling                          # the recipes `default` and `adam`

Each recipe refines one built-in scene (held-out synthetic grasp, noisy maps, the start of `benchmarks.refine`) in a
process of its own whose cache of kernels is empty, then in another that finds what the first one compiled, and there a
second time. Processor time and wall time of the call of `refine` alone; what Python takes to import the package stands
in a column of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._common import write_result
from horefine import load_hand
from horefine.data.maps import corrupt, disturb
from horefine.data.synthetic import benchmark_scenes

CHILD = """
import json, pickle, sys, time
def clock(): return time.process_time(), time.perf_counter()
def since(begun): return [now - then for now, then in zip(clock(), begun)]
begun = clock()
import torch
from horefine import refine
torch.set_num_threads(1)
spent = [since(begun)]
with open(sys.argv[1], "rb") as file:
    pose, features = pickle.load(file)
for _ in range(2):
    begun = clock()
    refine(pose, features, sys.argv[2])
    spent.append(since(begun))
print(json.dumps(spent))
"""


def scene(path: Path, level: str) -> None:
    """Writes the pose and the features of one scene."""
    truth, features = benchmark_scenes(1, 1000)
    start = disturb(truth, 1001, 15.0, 20.0, 10.0, model=load_hand(), object_center=features.object.center)
    path.write_bytes(pickle.dumps((start, corrupt(features, level, 1002))))


def fresh(scene: Path, recipe: str, cache: Path) -> list[list[float]]:
    """Processor and wall seconds of the import, the first and the second refinement, in a new process.

    Args:
        cache: Numba's, for this process alone.
    """
    words = [sys.executable, "-c", CHILD, str(scene), recipe]
    own = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    return json.loads(subprocess.run(words, env=own, check=True, stdout=subprocess.PIPE, text=True).stdout)


def columns(times: list[list[float]]) -> dict[str, float]:
    """A row of the table from what :func:`fresh` found."""
    named = zip(("import", "first refinement", "second"), times, strict=True)
    return {f"{name}, {kind}": time for name, own in named for kind, time in zip(("CPU", "wall"), own, strict=True)}


def main() -> None:
    """Runs, prints a table, writes ``results/compiling.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="+", default=["default", "adam"], help="recipes")
    parser.add_argument("--level", default="n02", help="exact, n02, n05 or c01")
    parser.add_argument("--note", action="append", default=[], help="of the machine, for the result file")
    options = parser.parse_args()
    rows, found = [], {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.pickle"
        scene(path, options.level)
        for recipe in options.config:
            cache = Path(folder) / f"cache_{Path(recipe).stem}"
            cache.mkdir()
            for what in ("empty", "warm"):
                times = found[f"{recipe}, {what}"] = fresh(path, recipe, cache)
                rows.append({"recipe": recipe, "cache": what, **columns(times)})
    notes = ["seconds; one scene, one thread", *options.note]
    write_result("compiling", {"options": vars(options), "results": found}, rows=rows, notes=notes)


if __name__ == "__main__":
    main()
