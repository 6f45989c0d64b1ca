"""How fast training batches come from datasets, directly and from a cache, and what a process grows by.

    python -m benchmarks.dataset_throughput

Trees are generated in the real layouts (``tests/dataset_trees.py``, ``tests/dataset_trees_more.py``): photographs of
the real sizes, few of them, so files come from the system's memory and not from a disk. ``direct``: what the first pass
over a dataset costs (read, crop, draw the maps); ``arrays`` and ``webdataset``: the same scenes from shards in either
format; ``making``: the samples of a second of one process that writes them. Each measurement has a process of its own.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks._common import ROOT, write_result
from horefine.data.opened import OpenedDataset, open_named

sys.path.append(str(ROOT / "tests"))
TREES, MORE = importlib.import_module("dataset_trees"), importlib.import_module("dataset_trees_more")
SPLITS = {"dexycb": "s0/test", "ho3d": "train", "fhb": "train", "obman": "test"}


def plant(name: str, root: Path) -> None:
    """A tree, MANO's files (in its layout, with our hand) and, for DexYCB, the list of the images that are there."""
    if name in ("dexycb", "ho3d"):
        options = {"cameras": 4} if name == "dexycb" else {}
        names = getattr(TREES, f"{name}_tree")(root, **options)
        TREES.write_hands(root / "mano")
        (root / "there.txt").write_text("\n".join(names))
    elif name == "fhb":
        MORE.fhb_tree(root)
    else:
        MORE.obman_tree(root, ("right", "right", "left", "right", "right", "left"))


def opened(name: str, root: str) -> OpenedDataset:
    """The tree, as a run and a training open it."""
    text = f"dexycb:partial=true,frames={root}/there.txt" if name == "dexycb" else name
    mano = f"{root}/mano" if name in ("dexycb", "ho3d") else None
    return open_named(text, root, SPLITS[name], {"mano_dir": mano, "hand": None if mano else "embedded"})


def direct(name: str, root: str, repeats: int) -> dict[str, float]:
    """Records of every sample, again and again; nothing is kept."""
    from horefine.extractors.sample_batches import hand_of
    from horefine.extractors.sample_records import Usable, read_record

    torch.set_num_threads(1)
    before, data = _memory(), opened(name, root)
    hand = hand_of(data)
    good = [index for index in range(len(data)) if isinstance(read_record(data, index, hand), Usable)]
    return _timed(lambda index: read_record(data, index, hand), good, repeats, before)


def stored(form: str, root: str, repeats: int) -> dict[str, float]:
    """Batches of 16 of the shards' scenes."""
    from horefine.extractors.sample_batches import open_scenes

    torch.set_num_threads(1)
    before = _memory()
    scenes = open_scenes(Path(root) / form, "auto", 0)
    order = np.random.default_rng(0).integers(0, len(scenes), (20 * repeats, 16))
    scenes.batch(order[0])
    found = _timed(lambda rows: scenes.batch(order[rows]), range(len(order)), 1, before)
    return {key: value * (16 if "sample" in key or "processor" in key else 1) for key, value in found.items()}


def making(name: str, root: str, form: str) -> dict[str, float]:
    """The shards, in this process."""
    from horefine.extractors.sample_shards import ShardPlan, write_shards

    torch.set_num_threads(1)
    before, data = _memory(), opened(name, root)
    mano = str(Path(root) / "mano") if (Path(root) / "mano").is_dir() else None
    start, busy = time.perf_counter(), time.process_time()
    plan = ShardPlan(data, Path(root) / form, about=data.about, mano_dir=mano, form=form)
    found = write_shards(plan, workers=1)
    wall, own = time.perf_counter() - start, time.process_time() - busy
    kilobytes = sum(p.stat().st_size for p in (Path(root) / form).glob("shard_*/*")) / found.scenes / 1e3
    rates = {"samples a second": found.samples / wall, "of processor time": found.samples / own}
    return rates | {"MB": _memory() - before, "kB a scene": kilobytes}


def _timed(work: Callable[[int], object], places: range | list[int], repeats: int, before: float) -> dict[str, float]:
    start, busy = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        for place in places:
            work(place)
    wall, own = time.perf_counter() - start, time.process_time() - busy
    count = repeats * len(places)
    return {"samples a second": count / wall, "of processor time": count / own, "MB": _memory() - before}


def _memory() -> float:
    """The most that this process has had, megabytes (``ru_maxrss`` begins with what the parent had)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _apart(work: Callable[..., dict[str, float]], *given: object) -> dict[str, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, given)


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    table: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in SPLITS:
            root = str(Path(folder) / name)
            plant(name, Path(root))
            table[name] = {
                "making arrays": _apart(making, name, root, "arrays"),  # the first fills the cache of models
                "making webdataset": _apart(making, name, root, "webdataset"),
                "direct": _apart(direct, name, root, options.repeats),
                "arrays": _apart(stored, "arrays", root, options.repeats),
                "webdataset": _apart(stored, "webdataset", root, options.repeats),
            }
    rows = [
        {"set": name, "": what, **{key: round(value, 1) for key, value in found.items()}}
        for name, works in table.items()
        for what, found in works.items()
    ]
    notes = [
        "one process; MB: what it grows by, beside Python, torch and horefine",
        "arrays, webdataset: pages of the shards that are mapped into memory count too; making includes the objects' "
        "grids, the first also reading their models",
        "of processor time: samples in a second of it, whatever else the machine does",
    ]
    write_result("dataset_throughput", {"table": table}, rows=rows, notes=notes)


if __name__ == "__main__":
    main()
