"""The command ``horefine evaluate`` without its command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from horefine.cluster import Engine
from horefine.data.opened import open_named
from horefine.errors import ConfigError
from horefine.evaluate.cases import Case, cases_from, check_truth_hand
from horefine.evaluate.catalogue import BOP, IMAGE, INTERACTION, METRICS, POSE, SIMULATION, chosen
from horefine.evaluate.evaluation import Evaluation, evaluate
from horefine.evaluate.files import FOLDER, comparison_stem, write_comparison, write_evaluation
from horefine.evaluate.official import official_scores
from horefine.evaluate.predictions import Output, first_poses, read_predictions
from horefine.evaluate.submissions import BOP_KEYS, write_submission
from horefine.hand import HandModel
from horefine.job import hand_model

__all__ = ["Conclusion", "Request", "compare", "conclude", "evaluate_output", "hand_for", "metrics_of"]


INITIAL = "initial"
"""What ``--against`` calls the poses that a run began with."""


@dataclass(frozen=True)
class Request:
    """What is to be evaluated, against what, and how."""

    out: Path
    hand: HandModel
    truth: Path | None = None
    """Default: the folder that the run was made from."""
    dataset: str | None = None
    """``NAME`` or ``NAME:key=value,...`` (``data.opened``)."""
    root: Path | None = None
    object_name: str | None = None
    object_unit: str | None = None
    metrics: tuple[str, ...] = POSE + INTERACTION
    limit: int | None = None
    strict: bool = False
    workers: int | None = None
    protocol: str = "hasson"
    """Of the simulation, where the metrics have it."""
    official: str | None = None
    """Whose official scores to add: ``ho3d``, ``dexycb`` or ``bop``."""
    split: str | None = None
    """Of the dataset."""
    mano_dir: Path | None = None
    """For a dataset's truth."""
    engine: Engine | None = None
    """A Ray cluster that measures."""

    @property
    def measured(self) -> tuple[str, ...]:
        """The metrics, with those that the official scores are made of."""
        return chosen([*self.metrics, *(BOP if self.official == "bop" else ())])

    @property
    def source(self) -> tuple[str, Path | None, str | None] | None:
        """The dataset, where it lies and its split: as asked for, else what the run was made from."""
        if self.dataset is not None or self.truth is not None:
            return None if self.dataset is None else (self.dataset, self.root, self.split)
        made = Output(self.out).dataset
        if made is None:
            return None
        options = ",".join(f"{key}={value}" for key, value in made["options"].items())
        return f"{made['name']}:{options}", self.root or Path(made["root"]), self.split

    @property
    def usual(self) -> dict[str, Any]:
        """Options that every dataset's truth is opened with: it is of the hand that is evaluated."""
        return {"hand": self.hand.name, "mano_dir": self.mano_dir}


def metrics_of(names: str | None, simulate: bool) -> tuple[str, ...]:
    """What ``--metrics`` and ``--sim`` ask for.

    Raises:
        ConfigError: an unknown metric.
    """
    asked = list(POSE + INTERACTION) if names is None else list(chosen(names))
    if set(asked) & set(IMAGE):
        raise ConfigError(f"--metrics {names}: {METRICS[asked[-1]].title} is measured by horefine ablate, against maps")
    return chosen([*asked, *(SIMULATION if simulate else ())])


@dataclass(frozen=True)
class Conclusion:
    """What a command says at its end."""

    text: str
    """For a terminal."""
    table: Path
    """The same for programs, JSON."""
    warnings: tuple[str, ...] = ()
    failed: bool = False
    """Whether an item of an evaluated folder failed."""


def hand_for(out: Path, mano_dir: Path | None, kind: str) -> HandModel:
    """The hand model that is asked for; with ``auto`` the one that the run was made with, where OUT is a run's.

    Raises:
        ConfigError: unknown ``kind``. AssetError: MANO is needed and missing.
    """
    made = Output(out).hand
    return hand_model(mano_dir, made if kind == "auto" and made in ("embedded", "mano") else kind)


def conclude(request: Request, against: Path | None, submission: str | None, ids: Path | None) -> Conclusion:
    """Evaluates, compares or writes a submission file, as asked.

    Raises:
        ConfigError, AssetError, InputError: as those do.
    """
    if submission is not None:
        table = None if ids is not None else official_ids(request, submission)
        written = write_submission(submission, request.out, request.hand, ids, strict=request.strict, table=table)
        text = f"{written.path}: {written.count} items, {len(written.missing)} without a pose\n"
        about = written.path.parent / "about.json"
        return Conclusion(text, about, tuple(written.sentences()), bool(written.missing))
    if against is None:
        found, text = evaluate_output(request)
        table = request.out / FOLDER / "scores.json"
        return Conclusion(text, table, tuple(found.sentences()), bool(found.scores.failures))
    if str(against) == INITIAL and not against.exists():
        against = first_poses(Output(request.out), request.out / FOLDER / INITIAL)
    pair, text = compare(request, against)
    folders = zip((request.out, against), pair, strict=True)
    said = tuple(f"{folder}: {line}" for folder, one in folders for line in one.sentences())
    table = request.out / FOLDER / f"{comparison_stem(_names(request.out, against)[1])}.json"
    return Conclusion(text, table, said, any(one.scores.failures for one in pair))


def truths(request: Request) -> list[Case]:
    """The cases of a request.

    Raises:
        ConfigError: nobody said what is true, or it cannot be used.
    """
    output = Output(request.out)
    truth = request.truth
    source = request.source
    if truth is None and source is None:
        truth = output.made_from
        if truth is None:
            raise ConfigError(f"{request.out}: what is true? Give --truth FOLDER, or --dataset NAME --root DIR")
        if not truth.exists():
            raise ConfigError(f"{request.out}: was made from {truth}, which is not there; give --truth FOLDER")
        truth = truth if truth.is_dir() else truth.parent
    if truth is not None:
        check_truth_hand(truth, request.hand)
    views = bool(set(request.measured) & set(BOP))
    own = request.truth is None and request.dataset is None and bool(output.asked)
    if source is not None:
        return cases_from(
            dataset=source[0], root=source[1], split=source[2], usual=request.usual,
            only=output.asked if own else None, limit=request.limit, views=views,
        )  # fmt: skip
    cases = cases_from(
        truth, object_name=request.object_name, object_unit=request.object_unit, limit=request.limit, views=views
    )
    return [case for case in cases if case.name in output.asked] if own else cases


def official_ids(request: Request, kind: str) -> dict[str, tuple[int, ...]] | None:
    """Ids of a dataset's images in a submission; None where no dataset was named.

    Raises:
        ConfigError: it cannot be opened, or its images have no such ids.
    """
    source = request.source
    if source is None:
        return None
    opened = open_named(source[0], source[1], source[2], {"pictures": False, **request.usual})
    keys = BOP_KEYS if kind == "bop" else ("image",)
    found = {}
    for index, name in enumerate(opened.names):
        known = opened.ids(index)
        if known is None or any(key not in known for key in keys):
            raise ConfigError(f"--submission {kind}: {source[0]}: its images have no ids for it; give --ids FILE")
        found[name] = tuple(known[key] for key in keys)
    return found


def evaluate_output(request: Request) -> tuple[Evaluation, str]:
    """Evaluates a folder, writes ``OUT/evaluation`` and returns what came of it with its Markdown table.

    Raises:
        ConfigError: the folder, the truth or an option cannot be used. InputError: with ``strict``, an item cannot.
    """
    found = _evaluate(request, truths(request), request.out)
    about = {
        **({"simulation": request.protocol} if set(request.metrics) & set(SIMULATION) else {}),
        "evaluated": str(request.out), "hand_model": request.hand.name, "interval": "bootstrap, 95 %, 2000 rounds",
        "truth": _told(request),
    }  # fmt: skip
    return found, write_evaluation(request.out, found, f"Evaluation of {request.out.resolve().name}", about)


def _told(request: Request) -> str:
    """What was true, in words."""
    source = request.source
    if source is None:
        return str(request.truth or Output(request.out).made_from)
    return " ".join(str(part) for part in source if part is not None)


def compare(request: Request, other: Path) -> tuple[tuple[Evaluation, Evaluation], str]:
    """Evaluates two folders on the same truth and says whether the second is better; writes into the first one's
    ``evaluation``.

    Raises:
        ConfigError, InputError: as :func:`evaluate_output`.
    """
    cases = truths(request)
    first, second = (_evaluate(request, cases, folder) for folder in (request.out, other))
    return (first, second), write_comparison(request.out, first.scores, second.scores, _names(request.out, other))


def _evaluate(request: Request, cases: Sequence[Case], folder: Path) -> Evaluation:
    output = Output(folder)
    if output.hand not in (None, request.hand.name):
        raise ConfigError(f"{folder}: was made with the {output.hand} hand; give --hand {output.hand}")
    predictions = read_predictions(output, cases, request.hand)
    found = evaluate(
        cases, predictions, request.hand, request.measured, strict=request.strict, workers=request.workers,
        protocol=request.protocol, engine=request.engine,
    )  # fmt: skip
    if request.official in (None, "bop"):  # BOP's are made of its metrics
        return found
    return replace(found, official=official_scores(request.official, cases, predictions, request.hand))


def _names(first: Path, second: Path) -> tuple[str, str]:
    """What the two are called: the last parts of their paths that differ."""
    ours, theirs = first.resolve().parts, second.resolve().parts
    for depth in range(1, max(len(ours), len(theirs)) + 1):
        names = "/".join(ours[-depth:]), "/".join(theirs[-depth:])
        if names[0] != names[1]:
            return names
    return "A", "B"
