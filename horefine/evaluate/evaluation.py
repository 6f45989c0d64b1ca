"""An evaluation from end to end: truths and predictions in, :class:`Scores` and what was noticed out."""

from __future__ import annotations

import functools
import multiprocessing
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from horefine.cluster import Check, Engine, all_results
from horefine.errors import ConfigError, InputError, suggestion
from horefine.evaluate.bop import bop_errors
from horefine.evaluate.cases import Case, batches, sequence_of, stack
from horefine.evaluate.catalogue import BOP, INTERACTION, METRICS, OBJECT, SIMULATION
from horefine.evaluate.checks import Mistake, examine
from horefine.evaluate.occlusion import hidden_share, occlusion_label
from horefine.evaluate.predictions import Prediction, stack_predictions
from horefine.evaluate.scores import Scores, score
from horefine.hand import HandModel
from horefine.mesh import Mesh
from horefine.processes import cores
from horefine.scene import Pose
from horefine.simulation import PROTOCOLS, Displacements, Grasp, SimulationSettings, grasps, simulate_all
from horefine.simulation.engines import needed

__all__ = ["Evaluation", "evaluate", "groups_of"]

_TOGETHER = 16
"""Grasps that one worker of a cluster simulates in one task."""
_WORTH = 200
"""Items from which several processes are faster than one: each takes seconds to start."""


@dataclass(frozen=True)
class Evaluation:
    """What came of all items."""

    scores: Scores
    mistakes: tuple[Mistake, ...] = ()
    """What the numbers say went wrong in making the predictions."""
    open: Mapping[str, str] = field(default_factory=dict)
    """Items whose object is not closed, and what is left out of them."""
    without_truth: Mapping[str, str] = field(default_factory=dict)
    """Items that were not evaluated, and why."""
    not_simulated: Mapping[str, str] = field(default_factory=dict)
    """Items that could be measured but not simulated, and why."""
    object_only: tuple[str, ...] = ()
    """Items whose hand is not annotated: their object alone was measured."""
    without_depth: Mapping[str, str] = field(default_factory=dict)
    """Items that BOP's VSD could not be measured of, and why."""
    official: Mapping[str, float] = field(default_factory=dict)
    """What an official script prints of these items (``official``), where it was asked for."""

    def sentences(self) -> list[str]:
        """Everything a reader must know before the numbers."""
        total = len(self.scores)
        lines = [mistake.sentence(total) for mistake in self.mistakes]
        if self.object_only:
            all_of_them = len(self.object_only) == total
            whose = "no item's hand is annotated" if all_of_them else f"the first: {self.object_only[0]}"
            count = "" if all_of_them else f"{len(self.object_only)} of {total} items have no annotated hand, "
            lines.append(f"{count}{whose}: their objects alone are measured")
        left_out = (
            ("without truth, not evaluated", self.without_truth), ("whose object is not closed", self.open),
            ("not simulated", self.not_simulated), ("without VSD", self.without_depth),
        )  # fmt: skip
        for what, items in left_out:
            lines += [f"items {what}: {len(items)}, the first: {k}: {why}" for k, why in list(items.items())[:1]]
        if self.scores.failures:
            lines.append(f"{len(self.scores.failures)} of {total} items failed and count as infinitely wrong")
        return lines


@dataclass(frozen=True)
class _Work:
    """One batch: items with one object."""

    places: tuple[int, ...]
    pose: Pose
    truth: Pose
    mesh: Mesh
    true_mesh: Mesh
    object_only: bool


def evaluate(
    cases: Sequence[Case],
    predictions: Sequence[Prediction],
    hand: HandModel,
    metrics: Sequence[str],
    *,
    strict: bool = False,
    workers: int | None = None,
    protocol: str = "hasson",
    engine: Engine | None = None,
) -> Evaluation:
    """Measures every prediction. Items without a truth are left out; those without a usable pose are failures.

    Args:
        cases: With the predictions of the same items, in the same order.
        metrics: Names (``catalogue.chosen``).
        strict: Stop at what cannot be measured or was recognised as a mistake.
        workers: Processes (default: the processor's cores for 200 items or more, else one).
        protocol: Of the simulation, where ``metrics`` has it (``simulation.PROTOCOLS``).
        engine: A Ray cluster that measures and simulates instead of this machine's processes; the same numbers.

    Raises:
        InputError: with ``strict``, what is wrong. ConfigError: an unknown protocol; only measures of hands are asked
            for, and no hand is annotated.
        AssetError: the simulator is not installed.
    """
    without = {case.name: str(case.problem) for case in cases if case.pose is None}
    kept = [(c, p) for c, p in zip(cases, predictions, strict=True) if c.pose is not None]
    cases, predictions = [c for c, _ in kept], [p for _, p in kept]
    bare = frozenset(case.name for case in cases if case.object_only)
    if bare and len(bare) == len(cases):
        metrics = _of_objects(metrics)
    found = examine(cases, predictions, hand)
    leaks = {name: why for name, why in found.open.items() if name not in bare}
    if strict:
        said = [mistake.sentence(len(cases)) for mistake in found.mistakes]
        _stop([*said, *_named(found.failures | leaks | without)])
    work = list(_batches(cases, predictions, frozenset(found.failures)))
    names = tuple(case.name for case in cases)
    values = _values(_measured(work, hand, metrics, len(cases), engine or workers), work, metrics, len(cases))
    leaky = np.array([name in leaks for name in names], bool)
    for name in set(metrics) & set(INTERACTION):
        values[name][leaky] = np.nan
    fallen: Mapping[str, str] = {}
    if set(metrics) & set(SIMULATION):
        whole = [batch for batch in work if not batch.object_only]
        values["sd_mm"], fallen = _simulated(whole, names, hand, protocol, engine or workers)
    bop = bop_errors(cases, predictions, found.failures) if set(metrics) & set(BOP) else None
    if bop is not None:
        values |= {name: column for name, column in bop.columns.items() if name in metrics}
    scores = Scores(names, values, groups_of(cases, hand), found.failures, bare)
    return Evaluation(
        scores, found.mistakes, leaks, without, fallen, tuple(name for name in names if name in bare),
        {} if bop is None or "VSD" not in metrics else bop.without_depth, {} if bop is None else bop.recalls(),
    )  # fmt: skip


def _values(
    measured: Iterable[Mapping[str, np.ndarray]], work: Sequence[_Work], metrics: Sequence[str], count: int
) -> dict[str, np.ndarray]:
    """The batches' columns as columns of all items, NaN where nothing was measured."""
    values = {name: np.full(count, np.nan) for name in metrics}
    for batch, columns in zip(work, measured, strict=True):
        for name, column in columns.items():
            values[name][list(batch.places)] = column
    return values


def _of_objects(metrics: Sequence[str]) -> tuple[str, ...]:
    """Those that an object's pose alone decides.

    Raises:
        ConfigError: there is none among them.
    """
    kept = tuple(name for name in metrics if name in OBJECT)
    if not kept:
        raise ConfigError(
            f"--metrics {','.join(METRICS[name].title for name in metrics)}: no hand is annotated; of the object alone "
            f"there are {', '.join(METRICS[name].title for name in OBJECT)} (--metrics object)"
        )
    return kept


def _simulated(
    work: Sequence[_Work], names: Sequence[str], hand: HandModel, protocol: str, workers: Engine | int | None
) -> tuple[np.ndarray, Mapping[str, str]]:
    """Simulation displacement of every item, mm, NaN where there is none, and why items could not be simulated."""
    if protocol not in PROTOCOLS:
        raise ConfigError(f"--sim-protocol {protocol}: there is none of this name{suggestion(protocol, PROTOCOLS)}")
    listed = [
        grasp
        for batch in work
        for grasp in grasps(batch.pose, batch.mesh, hand, tuple(names[place] for place in batch.places))
    ]
    settings = PROTOCOLS[protocol]
    if isinstance(workers, Engine):
        needed(settings)
        parts = [listed[first : first + _TOGETHER] for first in range(0, len(listed), _TOGETHER)]
        every = all_results(workers, functools.partial(_simulating, settings), parts)
    else:
        every = [simulate_all(listed, settings, workers=workers)]
    by_name = {name: mm for own in every for name, mm in zip(own.names, own.millimetres.tolist(), strict=True)}
    fallen = {name: why for own in every for name, why in own.failures.items()}
    return np.array([by_name.get(name, np.nan) for name in names]), fallen


def _simulating(settings: SimulationSettings, check: Check) -> Callable[[list[Grasp]], Displacements]:
    """In a worker: what simulates some grasps, in a process apart that may crash or hang."""
    return lambda listed: simulate_all(listed, settings, workers=1)


def _named(problems: Mapping[str, str]) -> Iterator[str]:
    """Each with the item's name before it."""
    return (why if why.startswith(name) else f"{name}: {why}" for name, why in problems.items())


def _stop(problems: Sequence[str]) -> None:
    """Raises what is wrong, if anything is."""
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"{problems[0]}{more}; without --strict the others are evaluated")


def _batches(cases: Sequence[Case], predictions: Sequence[Prediction], failed: frozenset[str]) -> Iterator[_Work]:
    """What can be measured; items that bring their own mesh alone."""
    good = [k for k, case in enumerate(cases) if case.name not in failed]
    common = [k for k in good if predictions[k].mesh is None]
    for places in batches([cases[k] for k in common]):
        chosen = tuple(common[place] for place in places)
        truth, mesh = stack([cases[k] for k in chosen])
        pose = stack_predictions([predictions[k] for k in chosen])
        yield _Work(chosen, pose, truth, mesh, mesh, cases[chosen[0]].object_only)
    for k in good:
        own = predictions[k].mesh
        if own is not None:
            truth, mesh = stack([cases[k]])
            yield _Work((k,), stack_predictions([predictions[k]]), truth, own, mesh, cases[k].object_only)


def _measured(
    work: Sequence[_Work], hand: HandModel, metrics: Sequence[str], count: int, workers: Engine | int | None
) -> Iterator[dict[str, np.ndarray]]:
    """The errors of every batch, in order; by several processes where that is worth their start."""
    if isinstance(workers, Engine):
        yield from all_results(workers, functools.partial(_measuring, hand, tuple(metrics)), work)
        return
    workers = workers or (cores() if count >= _WORTH else 1)
    if workers == 1 or len(work) < 2:
        yield from (_measure(batch, hand, metrics) for batch in work)
        return
    context = multiprocessing.get_context("spawn")  # forked processes inherit torch's locked threads
    with ProcessPoolExecutor(min(workers, len(work)), context, _begin, (pickle.dumps((hand, tuple(metrics))),)) as pool:
        yield from pool.map(_measure_packed, [pickle.dumps(batch) for batch in work])


def _measure(batch: _Work, hand: HandModel, metrics: Sequence[str]) -> dict[str, np.ndarray]:
    wanted = [name for name in metrics if name in OBJECT] if batch.object_only else metrics
    return score(batch.pose, batch.truth, batch.mesh, hand, true_mesh=batch.true_mesh, metrics=wanted)


def _measuring(hand: HandModel, metrics: tuple[str, ...], check: Check) -> Callable[[_Work], dict[str, np.ndarray]]:
    """In a worker of a cluster: what measures a batch."""
    return lambda batch: _measure(batch, hand, metrics)


_common: list[tuple[HandModel, tuple[str, ...]]] = []
"""Of a worker process: hand model and metrics."""


def _begin(packed: bytes) -> None:
    """Starts a worker process. Tensors come as bytes: torch would send each as an open file, and files are few."""
    torch.set_num_threads(1)
    _common.append(pickle.loads(packed))


def _measure_packed(packed: bytes) -> dict[str, np.ndarray]:
    return _measure(pickle.loads(packed), *_common[0])


def groups_of(cases: Sequence[Case], hand: HandModel) -> dict[str, tuple[str, ...]]:
    """Labels by object, by sequence (``cases.sequence_of``) and by how much of the hand is hidden; those that tell
    no items apart are left out."""
    found = {
        "object": tuple(case.object for case in cases),
        "sequence": tuple(sequence_of(case.name) for case in cases),
        "occlusion": tuple(occlusion_label(hidden_share(case, hand)) for case in cases),
    }
    return {kind: labels for kind, labels in found.items() if 1 < len(set(labels)) < max(len(labels), 3)}
