"""How long DexYCB's index takes and how much memory; how fast samples of DexYCB and HO-3D are read.

    python -m benchmarks.dataset_index                 # 465 504 training images, as ten folders of recordings
    python -m benchmarks.dataset_index --files         # with an empty photograph for each: none is looked at

Trees are generated in the real layouts (``tests/dataset_trees.py``). Each measurement has a process of its own;
memory is what it grows by. The targets are 20 s and 500 MB for the index.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml

from benchmarks._common import ROOT, write_result
from horefine.data.dexycb_files import SERIALS

sys.path.append(str(ROOT / "tests"))
TREES = importlib.import_module("dataset_trees")

SAMPLES = 465_504
"""Training images of s0."""


def listing(root: Path, files: bool) -> None:
    """Ten subjects of 100 recordings; the 800 of s0's training part have 465 504 images together."""
    frames = SAMPLES // len(SERIALS)
    seen = 0
    for subject in range(1, 11):
        for place in range(100):
            training = place % 5 != 4
            count = frames * (seen + 1) // 800 - frames * seen // 800 if training else 72
            seen += training
            side = ("right", "left")[place % 2]
            day = f"202008{subject:02d}"
            folder = root / f"{day}-subject-{subject:02d}" / f"{day}_{140000 + 37 * place:06d}"
            folder.mkdir(parents=True)
            meta = {
                "serials": list(SERIALS), "num_frames": count, "extrinsics": "20200702_151821",
                "ycb_ids": [1, 5, 8, 9], "ycb_grasp_ind": place % 4, "mano_sides": [side],
                "mano_calib": [f"20200820_140042_subject-{subject:02d}_{side}"],
            }  # fmt: skip
            (folder / "meta.yml").write_text(yaml.safe_dump(meta))
            for serial in SERIALS if files and training else ():
                (folder / serial).mkdir()
                for number in range(count):
                    (folder / serial / f"color_{number:06d}.jpg").touch()
        TREES.dexycb_calibration(root, subject, np.zeros(10))


def index(root: str) -> dict[str, float]:
    """Seconds and megabytes of the index, then of every name, recording and a look at each thousandth place."""
    from horefine.data.dexycb import DexYCB

    before, start, busy = _memory(), time.perf_counter(), time.process_time()
    data = DexYCB(root, "s0/train", hand="embedded")
    found = {
        "samples": float(len(data)), "wall s": time.perf_counter() - start, "processor s": time.process_time() - busy,
        "MB": _memory() - before,
    }  # fmt: skip
    start = time.perf_counter()
    right = DexYCB(root, "s0/train", keep="right", hand="embedded")
    found |= {"right hands": float(len(right)), "second index and filter s": time.perf_counter() - start}
    start = time.perf_counter()
    count = sum(len(rows) for rows in data.sequences().values())
    found["recordings and cameras s"] = time.perf_counter() - start
    start = time.perf_counter()
    distinct = len(set(data.names))
    found |= {"all names s": time.perf_counter() - start, "MB after all": _memory() - before}
    assert count == distinct == len(data) == SAMPLES
    return found


def reading(root: str, name: str, repeats: int, pictures: bool) -> dict[str, float]:
    """Samples a second of one process, and what it grows by; without ``pictures``: poses alone, for evaluation."""
    from horefine.data import load_dataset

    options = {"split": "all"} if name == "dexycb" else {"split": "train"}
    data = load_dataset(name, root=root, mano_dir=f"{root}/mano", pictures=pictures, **options)
    places = [k for k, file in enumerate(data.files) if file.is_file()]  # type: ignore[attr-defined]
    before = _memory()
    data[places[0]]
    start, busy = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        for place in places:
            data[place]
    count = repeats * len(places)
    wall, own = time.perf_counter() - start, time.process_time() - busy
    return {"samples a second": count / wall, "of processor time": count / own, "MB": _memory() - before}


def _memory() -> float:
    """The most that this process has had, megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _apart(work: Callable[..., dict[str, float]], *given: object) -> dict[str, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, given)


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", action="store_true", help="make an empty file for each photograph")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        listing(root / "large", options.files)
        table: dict[str, dict[str, float]] = {"index of DexYCB s0/train": _apart(index, str(root / "large"))}
        TREES.dexycb_tree(root / "dexycb", cameras=2)
        TREES.ho3d_tree(root / "ho3d")
        for name in ("dexycb", "ho3d"):
            TREES.write_hands(root / name / "mano")
            for pictures, what in ((True, "samples"), (False, "poses alone")):
                given = str(root / name), name, options.repeats, pictures
                table[f"reading {name}, {what}"] = _apart(reading, *given)
    for what, found in table.items():
        rows += [{"": what, "measured": key, "value": round(value, 3)} for key, value in found.items()]
    note = "empty photographs were there" if options.files else "folders of recordings without photographs"
    write_result("dataset_index", table, rows=rows, notes=[f"index: {note}; targets 20 s, 500 MB"])


if __name__ == "__main__":
    main()
