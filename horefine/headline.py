"""The project's headline numbers of a recipe, or of anybody's poses, on a benchmark suite.

>>> from horefine.headline import evaluate_suite
>>> print(evaluate_suite("small", config="default").text)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from horefine.ablate.inputs import Inputs, suite_inputs
from horefine.ablate.runner import Runner, errors_of, shared_out
from horefine.ablate.table import cell
from horefine.ablate.variants import Variant
from horefine.cluster import Engine
from horefine.config import load_config
from horefine.evaluate import METRICS, Scores, metric_rows, to_csv, to_markdown
from horefine.evaluate.cases import Case
from horefine.evaluate.evaluation import evaluate
from horefine.evaluate.predictions import Output, read_predictions
from horefine.export import write_json, write_text
from horefine.scene import Pose

__all__ = ["COLUMNS", "Headline", "evaluate_suite", "suite_cases", "write_headline"]

COLUMNS = ("HE_mm", "OE_mm", "hand_to_object_mm", "pd_mm", "siv_cm3", "contact_regions")
EDGES = (3.0, 10.0)
"""Millimetres: of how many scenes are hand AND object this near the truth?"""
FIRST, TRUTH = "first poses", "truth"


@dataclass(frozen=True)
class Headline:
    """The numbers of a suite."""

    title: str
    scores: Mapping[str, Scores]
    """Of the first poses, of what is evaluated, and of the truth."""
    seconds: float
    """An item, of refinement alone; NaN for poses from files."""
    lines: tuple[str, ...]
    """What a reader must know."""

    @property
    def rows(self) -> list[dict[str, object]]:
        """A row for each of the scores: medians within their 95 % intervals, shares of scenes near the truth."""
        rows = []
        for name, own in self.scores.items():
            row: dict[str, object] = {"": name}
            row |= {METRICS[metric].heading: cell(own, metric) for metric in own.values}
            row |= {f"< {edge:g} mm": share_near(own, edge) for edge in EDGES}
            middle = name not in (FIRST, TRUTH)
            rows.append(row | {"failed": len(own.failures), "s/image": self.seconds if middle else float("nan")})
        return rows

    @property
    def text(self) -> str:
        """The table with its legend, as Markdown."""
        return "\n".join([to_markdown(self.rows), "", *(f"- {line}" for line in self.lines), ""])


def share_near(scores: Scores, edge: float) -> float:
    """The share of items whose hand and whose object are both less than ``edge`` mm from the truth."""
    near = [scores.counted(name) < edge for name in ("HE_mm", "OE_mm")]
    return float(np.logical_and(*near).mean())


def evaluate_suite(
    source: str | Path = "standard",
    *,
    config: str = "default",
    maps: str = "n02",
    poses: Path | None = None,
    overrides: Sequence[str] = (),
    out: Path = Path("out/suite"),
    limit: int | None = None,
    device: str = "cpu",
    renderer: str = "auto",
    batch_size: int = 10,
    seed: int = 0,
    advance: Callable[[int], None] = lambda count: None,
    check: Callable[[], None] = lambda: None,
    engine: Engine | None = None,
) -> Headline:
    """Refines a suite's wrong first poses and measures; or measures the poses of another method on the same scenes.

    Args:
        source: Name of a suite, or its folder.
        config: The recipe; its results are kept in ``out``, and what is there is not done again.
        maps: Level of the maps' noise.
        poses: Folder with NAME.npz or NAME.json (``docs/input.md``) instead of refining.
        overrides: Of the recipe, ``a.b=value``.
        engine: A Ray cluster that refines and measures; the same numbers.

    Raises:
        ConfigError: no such suite, level or recipe; a folder with no pose of these scenes.
    """
    recipe = load_config(config, overrides)
    inputs = suite_inputs(str(source), maps, () if poses is not None else (recipe,), limit)
    lines = [inputs.source]
    if poses is None:
        name = config if not overrides else f"{config} ({', '.join(overrides)})"
        runner = Runner(inputs, out / maps, COLUMNS, device, renderer, batch_size, seed, advance, check)
        with shared_out(runner, engine) as refining:
            found, seconds = refining.scores(Variant(name, recipe))
    else:
        name, seconds = str(poses), {}
        cases = suite_cases(inputs)
        evaluation = evaluate(cases, read_predictions(Output(poses), cases, inputs.model), inputs.model, COLUMNS)
        found = evaluation.scores
        lines += evaluation.sentences()
    lines += [f"{METRICS[metric].title}: {METRICS[metric].meaning}" for metric in COLUMNS]
    lines.append("medians within 95 % bootstrap intervals; < 3 mm: share of scenes with both HE and OE below")
    scores = {FIRST: _scores(inputs, [s.pose for s in inputs.starts.values()]), name: found}
    scores[TRUTH] = _scores(inputs, [s.truth for s in inputs.starts.values() if s.truth is not None])
    middle = float(np.median(list(seconds.values()))) if seconds else float("nan")
    return Headline(f"{name} on {inputs.source}", scores, middle, tuple(lines))


def suite_cases(inputs: Inputs) -> list[Case]:
    """The scenes as what is evaluated against."""
    return [Case(name, "right", start.truth, start.features.object, None) for name, start in inputs.starts.items()]


def _scores(inputs: Inputs, poses: Sequence[Pose]) -> Scores:
    starts = list(inputs.starts.values())
    return Scores(inputs.names, errors_of(Pose.cat(list(poses)), starts, inputs.model, COLUMNS))


def write_headline(found: Headline, out: Path) -> list[Path]:
    """``suite.md``, ``suite.csv`` (all statistics) and ``suite.json`` (every scene); returns their paths."""
    long = [{"poses": name, **row} for name, own in found.scores.items() for row in metric_rows(own)]
    items = {
        name: {item: {m: float(v[k]) for m, v in own.values.items()} for k, item in enumerate(own.names)}
        for name, own in found.scores.items()
    }
    failures = {name: dict(own.failures) for name, own in found.scores.items()}
    write_text(out / "suite.md", f"# {found.title}\n\n{found.text}")
    write_text(out / "suite.csv", to_csv(long))
    about = {"title": found.title, "lines": found.lines, "seconds": found.seconds, "rows": long}
    write_json(out / "suite.json", {**about, "failures": failures, "items": items})
    return [out / f"suite.{ending}" for ending in ("md", "csv", "json")]
