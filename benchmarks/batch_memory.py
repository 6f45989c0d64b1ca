"""Memory that one more image of a batch takes at its peak, beside what ``--batch-size auto`` reckons with.

    python -m benchmarks.batch_memory                       # `default`, `adam` and `pixels`, batches of 16 and 32

One built-in scene on noisy maps, so many times over, is refined in a process of its own for each batch size. What is
measured is the highest resident memory (Linux) of the larger batch less that of the smaller, for each row between
them; kernels, hand model and everything that a process has once drop out. ``reckoned`` is
``horefine.stream.row_bytes``, which has to be the larger. The object's mesh is the scene's, or that with each face
halved in all directions once or twice.
"""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import trimesh

from benchmarks._common import write_result
from horefine import Features, Mesh, Pose, load_config, load_hand
from horefine.data.maps import corrupt, disturb
from horefine.data.synthetic import benchmark_scenes
from horefine.stream import row_bytes

CHILD = """
import pickle, sys
import torch
from pathlib import Path
from horefine import refine
torch.set_num_threads(1)
with open(sys.argv[1], "rb") as file:
    pose, features = pickle.load(file)
rows = torch.zeros(int(sys.argv[3]), dtype=torch.long)
refine(pose[rows], features[rows], sys.argv[2])
status = Path("/proc/self/status").read_text().split()
print(int(status[status.index("VmHWM:") + 1]) / 1024)
"""


def scene(side: int, halved: int) -> tuple[Pose, Features]:
    """First pose and features of one scene: maps of so many pixels a side, the object's faces halved so often.

    The photograph is noise: nobody's looks are judged, but room is made for them.
    """
    truth, features = benchmark_scenes(1, 1000, size=side)
    start = disturb(truth, 1001, 15.0, 20.0, 10.0, model=load_hand(), object_center=features.object.center)
    features = corrupt(features, "n02", 1002)
    photo = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    vertices, faces = (value.numpy() for value in features.object.trimmed())
    for _ in range(halved):
        vertices, faces = trimesh.remesh.subdivide(vertices, faces)[:2]
    fields = {"image": photo, "contact": None}
    if halved:
        fields["object"] = Mesh.from_arrays(vertices, faces, None, features.object.name[0])
    return start, replace(features, **fields)


def peak(path: Path, recipe: str, batch: int) -> float:
    """Highest resident memory of a process that refines so many rows, MiB."""
    words = [sys.executable, "-c", CHILD, str(path), recipe, str(batch)]
    own = {**os.environ, "OMP_NUM_THREADS": "1"}
    return float(subprocess.run(words, env=own, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    """Runs, prints a table, writes ``results/batch_memory.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="+", default=["default", "adam", "pixels"], help="recipes")
    parser.add_argument("--batch", type=int, nargs=2, default=[16, 32], help="a smaller and a larger one")
    parser.add_argument("--note", action="append", default=[], help="of the machine, for the result file")
    options = parser.parse_args()
    rows, found = [], {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.pickle"
        for side, halved in ((64, 0), (128, 0), (64, 1), (64, 2)):
            pose, features = scene(side, halved)
            path.write_bytes(pickle.dumps((pose, features)))
            vertices = features.object.vertices.shape[1]
            for recipe in options.config:
                few, many = (peak(path, recipe, batch) for batch in options.batch)
                measured = (many - few) / (options.batch[1] - options.batch[0])
                reckoned = row_bytes(features, load_config(recipe)) / 2**20
                found[f"{recipe}, {side}, {vertices}"] = {"peaks": [few, many]}
                rows.append(
                    {"recipe": recipe, "side": side, "vertices": vertices, "measured": measured, "reckoned": reckoned}
                )
    notes = [f"MiB a row, between batches of {options.batch[0]} and {options.batch[1]}", *options.note]
    write_result("batch_memory", {"options": vars(options), "results": found}, rows=rows, notes=notes)


if __name__ == "__main__":
    main()
