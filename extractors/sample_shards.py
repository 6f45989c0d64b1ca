"""Training shards out of any dataset with truth: made once, in parallel, so that training reads memory-mapped arrays.

What a shard holds is what training would make of the same samples each time it meets them (``sample_records``): crops,
maps drawn from the poses as Song et al. (2022) make their targets, poses, boxes, the depth camera's map. A shard covers
``size`` samples of the dataset in their order; those that cannot be used are named in its ``meta.json``. Each shard
appears whole, and one that is there is not made again.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import shutil
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from horefine.data import Dataset
from horefine.data.bank import hand_digest
from horefine.data.shards import ARRAYS, MAP_SIZE, OPTIONAL, shape_of, write_shard
from horefine.errors import ConfigError, InputError, suggestion
from horefine.export import write_text
from horefine.extractors.sample_batches import hand_of
from horefine.extractors.sample_records import CROP, Record, Refused, read_record
from horefine.extractors.stored_objects import store_object
from horefine.processes import cores

__all__ = ["FORMS", "Cached", "ShardPlan", "write_shards"]

log = logging.getLogger(__name__)

FORMS = ("arrays", "webdataset")
"""A file for each array, or one tar file that WebDataset reads too (``data.tar_shards``)."""
_META = "meta.json"
_LEFTOVER = 3600.0
"""Seconds after which a shard that was not finished is taken to be a killed run's."""
_SAID = 5
"""Names of samples of no use that are said for each reason; each shard's own file has all."""


@dataclass(frozen=True)
class ShardPlan:
    """What every shard of a folder has in common."""

    data: Dataset
    folder: Path
    hand: str = "auto"
    """Whose pose and shape the truth is (``sample_batches.hand_of``)."""
    crop: int = CROP
    """Side of the pictures, pixels."""
    maps: int = MAP_SIZE
    """Side of the maps, pixels."""
    size: int = 500
    """Samples of a shard."""
    limit: int | None = None
    """Only so many samples of the dataset, the first ones."""
    mano_dir: str | None = None
    """Where MANO was found, for the training."""
    about: Mapping[str, Any] | None = None
    """Of the dataset: a folder keeps shards of one only."""
    form: str = "arrays"
    """Of the files, one of :data:`FORMS`."""

    @property
    def samples(self) -> int:
        """How many samples of the dataset are looked at."""
        return len(self.data) if self.limit is None else min(self.limit, len(self.data))

    @property
    def count(self) -> int:
        """How many shards they make."""
        return -(-self.samples // self.size)

    def rows(self, number: int) -> range:
        """The samples of a shard."""
        return range(number * self.size, min((number + 1) * self.size, self.samples))

    def path(self, number: int) -> Path:
        """A shard's folder."""
        return self.folder / f"shard_{number:05d}"

    def names(self, number: int) -> list[str]:
        """The first and the last sample of a shard by name, where the dataset has names."""
        names: Sequence[str] | None = getattr(self.data, "names", None)
        rows = self.rows(number)
        return [] if names is None else [names[rows[0]], names[rows[-1]]]

    def done(self, number: int) -> bool:
        """Whether the shard is there, of these samples (or of these and more)."""
        meta = _read_json(self.path(number) / _META)
        if meta is None:
            return False
        rows, (start, stop) = self.rows(number), meta.get("samples", (0, 0))
        same = meta.get("names", [])[:1] == self.names(number)[:1] and start == rows.start
        return same and (stop > rows.stop or (stop == rows.stop and meta.get("names", []) == self.names(number)))


@dataclass(frozen=True)
class Cached:
    """What came of it."""

    scenes: int
    samples: int
    made: int
    """Samples that were read now; the others' shards were there."""
    left_out: Mapping[str, Sequence[str]]
    """Reason -> names of the samples."""
    seconds: float

    @property
    def refused(self) -> int:
        """How many samples are of no use."""
        return sum(map(len, self.left_out.values()))


def write_shards(
    plan: ShardPlan, workers: int | None = None, progress: Callable[[int, Mapping[str, Any]], object] | None = None
) -> Cached:
    """Makes the shards that are not there, and ``meta.json`` beside them, which sums up.

    Args:
        workers: Processes; as many as there are cores when left out; 1: this one.
        progress: Called after each shard with its number and its ``meta.json``.

    Raises:
        ConfigError: the folder holds shards of another dataset, hand, size or format; an unknown format.
        InputError: no sample can be used, or a worker process was killed.
    """
    began = time.perf_counter()
    if plan.form not in FORMS:
        raise ConfigError(f"--format {plan.form}: there is none of this name{suggestion(plan.form, FORMS)}")
    hand = hand_of(plan.data, plan.hand)
    common = {
        "data": dict(plan.about or {}), "hand": hand_digest(hand), "hand_name": hand.name, "crop": plan.crop,
        "maps": plan.maps, "shard_size": plan.size, "format": plan.form,
    }  # fmt: skip
    _begin_folder(plan.folder, json.loads(json.dumps(common, default=str)))
    missing = [number for number in range(plan.count) if not plan.done(number)]
    workers = min(workers or cores(), max(len(missing), 1))
    for number in _all_made(plan, missing, workers):
        if progress is not None:
            progress(number, _read_json(plan.path(number) / _META) or {})
    metas = [_read_json(plan.path(number) / _META) or {} for number in range(plan.count)]
    found = _summed(plan, metas, sum(len(plan.rows(number)) for number in missing), time.perf_counter() - began)
    reasons = {why: {"count": len(names), "first": names[:_SAID]} for why, names in found.left_out.items()}
    record = {**common, "samples": found.samples, "count": found.scenes, "left_out": reasons}
    write_text(plan.folder / _META, json.dumps(record, indent=1, default=str))
    if not found.scenes:
        why = next(iter(reasons), "the dataset is empty")
        raise InputError(f"{plan.folder}: none of {found.samples} samples can be trained on; the first: {why}")
    return found


def _begin_folder(folder: Path, common: dict[str, Any]) -> None:
    """Says what the folder holds, or refuses one that holds something else; clears what killed runs left."""
    folder.mkdir(parents=True, exist_ok=True)
    known = _read_json(folder / _META)
    if known is None and any(folder.glob("shard_*")):
        raise ConfigError(f"{folder}: holds shards that are not of a dataset; take another folder")
    for key, value in common.items():
        usual = FORMS[0] if key == "format" else None  # older folders do not say it
        if known is not None and known.get(key, usual) != value:
            there, asked = json.dumps(known.get(key, usual)), json.dumps(value)
            raise ConfigError(
                f"{folder}: holds shards with {key} = {there}, and {asked} is asked for; take another folder"
            )
    if known is None:
        write_text(folder / _META, json.dumps(common, indent=1))
    for path in folder.glob(".shard_*"):
        if time.time() - path.stat().st_mtime > _LEFTOVER:
            shutil.rmtree(path, ignore_errors=True)


def _all_made(plan: ShardPlan, missing: Sequence[int], workers: int) -> Iterator[int]:
    """Makes shards here or in processes, and gives each one's number when it is there."""
    if workers == 1:
        for number in missing:
            _make(plan, number)
            yield number
        return
    context = multiprocessing.get_context("spawn")  # forked processes inherit torch's locked threads
    with ProcessPoolExecutor(workers, context, _begin, (pickle.dumps(plan),)) as pool:
        waiting: dict[Future[None], int] = {pool.submit(_make_here, number): number for number in missing}
        try:
            for future in as_completed(waiting):
                future.result()
                yield waiting[future]
        except BrokenProcessPool:
            raise InputError(
                f"{plan.folder}: a worker process was killed (out of memory?); finished shards stay: run it again, "
                "with fewer --workers or a smaller --shard-size"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_plan: list[ShardPlan] = []
"""Of a worker process."""


def _begin(packed: bytes) -> None:
    """Starts a worker process: one thread, and an end when the process that started it is killed."""
    torch.set_num_threads(1)
    _plan.append(pickle.loads(packed))
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _make_here(number: int) -> None:
    _make(_plan[0], number)


def _make(plan: ShardPlan, number: int) -> None:
    """Writes one shard."""
    hand = hand_of(plan.data, plan.hand)
    records: list[Record] = []
    objects: list[str] = []
    left_out: dict[str, str] = {}
    for index in plan.rows(number):
        found = read_record(plan.data, index, hand, plan.crop, plan.maps)
        if isinstance(found, Refused):
            left_out[found.name] = found.why
            continue
        key = store_object(plan.folder, found.mesh)
        objects += [] if key in objects else [key]
        place = {"object": torch.tensor(objects.index(key)), "index": torch.tensor(index)}
        records.append({**found.record, **place})
    rows = plan.rows(number)
    meta = {
        "objects": objects, "crop": plan.crop, "maps": plan.maps, "hand": hand_digest(hand), "hand_name": hand.name,
        "mano_dir": plan.mano_dir, "samples": [rows.start, rows.stop], "names": plan.names(number),
        "left_out": left_out,
    }  # fmt: skip
    arrays = {
        name: np.stack([record[name].numpy() for record in records])
        if records
        else np.zeros((0, *shape_of(name, meta)))
        for name in (*ARRAYS, *OPTIONAL)
    }
    known: Sequence[str] | None = getattr(plan.data, "names", None)
    names = None if known is None else [known[int(index)] for index in arrays["index"].tolist()]
    write_shard(plan.path(number), arrays, meta, names, tar=plan.form == "webdataset")


def _summed(plan: ShardPlan, metas: Sequence[Mapping[str, Any]], made: int, seconds: float) -> Cached:
    reasons: defaultdict[str, list[str]] = defaultdict(list)
    for meta in metas:
        for name, why in meta.get("left_out", {}).items():
            reasons[why].append(name)
    ordered = Counter({why: len(names) for why, names in reasons.items()}).most_common()
    left_out = {why: reasons[why] for why, _ in ordered}
    return Cached(sum(meta.get("count", 0) for meta in metas), plan.samples, made, left_out, seconds)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
