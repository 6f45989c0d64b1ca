"""Variants over items: each pair is refined and measured once, and kept the moment it is done.

``OUT/variants/SLUG/NAME.json`` holds the pose (also for ``--init`` and ``--poses``), its numbers and how it came about.
A run that is stopped leaves whole files; the same command goes on from there. Failed items are tried again.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from horefine.ablate.inputs import Inputs, Start, seen_by
from horefine.ablate.residuals import image_residuals, maps_of
from horefine.ablate.variants import Variant
from horefine.batching import alike, cat_features
from horefine.cluster import Check, Engine, Lost, Workers, open_workers
from horefine.config import Config
from horefine.errors import AssetError, ConfigError, InputError
from horefine.evaluate import METRICS, Scores, score
from horefine.evaluate.catalogue import IMAGE, SIMULATION
from horefine.export import disk_full, write_json, write_text
from horefine.hand import HandModel
from horefine.mesh import Mesh
from horefine.refined import Refinement
from horefine.refinement import refine
from horefine.scene import Pose
from horefine.suite.arrays import digest, pose_arrays

__all__ = ["Runner", "errors_of", "shared_out"]

log = logging.getLogger(__name__)

FEW = 2
"""Poses that are simulated faster here than by processes that must be started."""
VERSION = 1
"""Of the records."""
Record = dict[str, Any]


def errors_of(pose: Pose, starts: Sequence[Start], model: HandModel, metrics: Sequence[str]) -> dict[str, np.ndarray]:
    """The metrics of B poses; those that need a truth are NaN where there is none."""
    truth = Pose.cat([pose[k] if start.truth is None else start.truth for k, start in enumerate(starts)])
    features = maps_of([start.features for start in starts])
    found = score(pose, truth, features.object, model, metrics=[name for name in metrics if name not in IMAGE])
    if set(metrics) & set(IMAGE):
        residuals = image_residuals(pose, features, model)
        found |= {name: residuals[name] for name in metrics if name in IMAGE}
    if set(metrics) & set(SIMULATION):
        found["sd_mm"] = displacements(pose, features.object, model)
    blind = np.array([start.truth is None for start in starts])
    return {name: np.where(blind & (METRICS[name].family == "pose"), np.nan, values) for name, values in found.items()}


def displacements(pose: Pose, mesh: Mesh, model: HandModel) -> np.ndarray:
    """Simulation displacement of B poses, mm; NaN where one cannot be simulated."""
    from horefine.simulation import grasps, simulate_all

    found = simulate_all(grasps(pose, mesh, model), workers=None if len(pose) > FEW else 0)
    for name, why in found.failures.items():
        log.warning("%s: no simulation displacement: %s", name, why)
    return found.millimetres


@dataclass(frozen=True)
class Runner:
    """Refines and measures."""

    inputs: Inputs
    out: Path
    metrics: tuple[str, ...]
    device: str = "cpu"
    renderer: str = "auto"
    batch_size: int = 8
    seed: int = 0
    advance: Callable[[int], None] = lambda count: None
    """Called with the number of items that were finished."""
    check: Callable[[], None] = lambda: None
    """Called now and then; raises KeyboardInterrupt when the run shall end."""
    workers: Workers | None = None
    """What refines and measures instead of this process (:func:`shared_out`)."""

    def scores(self, variant: Variant) -> tuple[Scores, dict[str, float]]:
        """Errors of a variant, and the seconds of each item that was refined; what is missing is done now."""
        records = dict(self._records(variant)) if variant.config is not None else {}
        names, failures = self.inputs.names, dict(self.inputs.failures)
        if variant.config is None:
            failures |= dict.fromkeys(names, variant.problem)
        failures |= {name: str(own["error"]) for name, own in records.items() if "error" in own}
        good = {name: own["scores"] for name, own in records.items() if "error" not in own}
        values = {
            metric: np.array([_number(good.get(name, {}).get(metric)) for name in names]) for metric in self.metrics
        }
        seconds = {name: float(own["seconds"]) for name, own in records.items() if "error" not in own}
        return Scores(names, values, {}, failures), seconds

    def _records(self, variant: Variant) -> Iterator[tuple[str, Record]]:
        config, folder = variant.config, self.out / "variants" / variant.slug
        assert config is not None
        write_text(folder / "config.resolved.yaml", config.dump())
        waiting = []
        for name in self.inputs.starts:
            found = self._finished(folder, name, config)
            if found is None:
                waiting.append(name)
                continue
            self.advance(1)
            yield name, found
        for name, record in self._made(self._batches(waiting, config), config):
            write_json(folder / f"{name}.json", record)
            self.advance(1)
            yield name, record

    def _batches(self, names: Sequence[str], config: Config) -> list[list[str]]:
        """The items in groups that are refined together."""
        starts = [self.inputs.starts[name] for name in names]
        groups = alike([seen_by(start.features, config) for start in starts], config)
        size = self.batch_size
        return [[names[k] for k in group[n : n + size]] for group in groups for n in range(0, len(group), size)]

    def _made(self, batches: Sequence[Sequence[str]], config: Config) -> Iterator[tuple[str, Record]]:
        """The records of all batches, made here or by workers."""
        if self.workers is not None:
            yield from self._by(self.workers, batches, config)
            return
        for number, names in enumerate(batches):
            self.check()
            if number == 0:
                self._warm_up(self.inputs.starts[names[0]], config)
            yield from self._together(names, config)

    def _by(
        self, workers: Workers, batches: Sequence[Sequence[str]], config: Config, *, alone: bool = False
    ) -> Iterator[tuple[str, Record]]:
        """Records made by workers. The items of a batch that no worker survives are tried alone, then given up."""
        tasks = [({name: self.inputs.starts[name] for name in names}, config) for names in batches]
        lost: list[list[str]] = []
        for place, found in workers.map(tasks):
            if not isinstance(found, Lost):
                yield from found
            elif alone:
                why = f"every worker that refined it died; the last one: {found.why}"
                yield batches[place][0], {"key": self._key(batches[place][0], config), "error": why}
            else:
                lost += [[name] for name in batches[place]]
        if lost:
            yield from self._by(workers, lost, config, alone=True)

    def _key(self, name: str, config: Config) -> str:
        parts = [VERSION, config.digest(), self.inputs.starts[name].key, self.seed, self.device, self.renderer]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def _finished(self, folder: Path, name: str, config: Config) -> Record | None:
        """What an earlier run left, with every metric; None where there is nothing, or a failure."""
        try:
            record = json.loads((folder / f"{name}.json").read_text())
        except (OSError, ValueError):
            return None
        if record.get("key") != self._key(name, config) or "error" in record:
            return None
        start = self.inputs.starts[name]
        known = record["scores"] if record["truth"] == _truth_key(start) else {}
        missing = [metric for metric in self.metrics if metric not in known]
        if missing:
            pose = Pose(**{key: torch.tensor(value)[None] for key, value in record["pose"].items()})
            record["scores"] = known | _row(errors_of(pose, [start], self.inputs.model, missing), 0)
            record["truth"] = _truth_key(start)
            write_json(folder / f"{name}.json", record)
        return record

    def _together(self, names: Sequence[str], config: Config) -> Iterator[tuple[str, Record]]:
        """One batch; where it fails, each item alone, so that only the bad ones are lost."""
        try:
            yield from self._refined(names, config).items()
        except Exception as error:
            if disk_full(error) or isinstance(error, MemoryError):
                raise
            if len(names) > 1:
                for name in names:
                    yield from self._together([name], config)
                return
            known = isinstance(error, (ConfigError, InputError, AssetError))
            said = str(error) if known else f"{type(error).__name__}: {error}"
            log.debug("%s", names[0], exc_info=error)
            yield names[0], {"key": self._key(names[0], config), "error": said}

    def _refined(self, names: Sequence[str], config: Config) -> dict[str, Record]:
        starts = [self.inputs.starts[name] for name in names]
        begin = time.perf_counter()
        found = self._refine(starts, config)
        seconds = (time.perf_counter() - begin) / len(names)
        pose = found.pose.to("cpu")
        errors = errors_of(pose, starts, self.inputs.model.to("cpu"), self.metrics)
        return {
            name: {
                "key": self._key(name, config), "status": found.status[k], "reason": found.reason[k],
                "seconds": round(seconds, 4), "scores": _row(errors, k), "truth": _truth_key(starts[k]),
                "pose": {key: value[k].tolist() for key, value in pose.items()},
            }
            for k, name in enumerate(names)
        }  # fmt: skip

    def _refine(self, starts: Sequence[Start], config: Config) -> Refinement:
        features = cat_features([seen_by(start.features, config) for start in starts]).to(self.device)
        blind = "contact" in config.features and features.contact is None and features.hand_mask is not None
        pose = Pose.cat([start.pose for start in starts]).to(self.device)
        return refine(
            pose, features, config, hand_model=self.inputs.model, renderer=self.renderer, seed=self.seed,
            progress=lambda done, total: self.check(), complete=self.inputs.complete if blind else None,
        )  # fmt: skip

    def _warm_up(self, start: Start, config: Config) -> None:
        """One step of each stage: compiles and fills caches, so that the seconds of the first item are its own."""
        try:
            self._refine([start], config.one_step())
        except Exception as error:  # said of each item when it is its turn
            log.debug("warming up: %s", error)


@contextmanager
def shared_out(runner: Runner, engine: Engine | None) -> Iterator[Runner]:
    """The runner with workers of a Ray cluster, whose records are the same but for the seconds; itself without one.

    Raises:
        AssetError, ConfigError: :func:`horefine.cluster.open_workers`.
    """
    if engine is None:
        yield runner
        return
    none = dataclasses.replace(runner.inputs, names=(), starts={}, failures={})
    bare = dataclasses.replace(runner, inputs=none, advance=_nothing, check=_nothing)
    with open_workers(engine, functools.partial(_begin, bare), runner.check) as workers:
        yield dataclasses.replace(runner, workers=workers)


def _begin(runner: Runner, check: Check) -> Callable[[tuple[dict[str, Start], Config]], list[tuple[str, Record]]]:
    """In a worker: what refines and measures a batch."""
    warm: set[str] = set()

    def work(task: tuple[dict[str, Start], Config]) -> list[tuple[str, Record]]:
        starts, config = task
        own = dataclasses.replace(runner, inputs=dataclasses.replace(runner.inputs, starts=starts), check=check)
        if config.digest() not in warm:
            own._warm_up(next(iter(starts.values())), config)
            warm.add(config.digest())
        return list(own._together(list(starts), config))

    return work


def _nothing(*_: object) -> None:
    """In the place of a callback that is of the process that shows progress."""


def _truth_key(start: Start) -> str:
    """Changes with the truth that scores are against."""
    return "" if start.truth is None else digest([pose_arrays(start.truth)])[:16]


def _row(errors: Mapping[str, np.ndarray], k: int) -> dict[str, float]:
    return {name: float(values[k]) for name, values in errors.items()}


def _number(value: Any) -> float:
    """NaN for what is missing; JSON has no NaN and no infinity, so they come back as None."""
    return float("nan") if value is None else float(value)
