"""The ablation's table, in the layout of Song et al. 2022 (table 3): what is on, then the errors; and who is better."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from horefine.ablate.plan import Plan
from horefine.ablate.variants import GROUPS, Variant, active, groups_of
from horefine.evaluate import METRICS, Scores, interval
from horefine.evaluate.compare import Change, paired
from horefine.evaluate.tables import number

__all__ = ["Result", "cell", "change_rows", "legend", "mean_change", "mean_rows", "rows_of", "verdicts"]

ON, PART, OFF = "x", "(x)", ""
"""Marks: all losses of a group that some variant has are on, some of them, none."""


@dataclass(frozen=True)
class Result:
    """An ablation that was run."""

    plan: Plan
    scores: Mapping[str, Scores]
    """By title, of every variant."""
    seconds: Mapping[str, Mapping[str, float]]
    """By title and item, of refinement alone."""
    source: str
    """What it was run on, in words."""
    notes: tuple[str, ...] = ()
    """What else a reader must know."""
    unusable: Mapping[str, str] = field(default_factory=dict)
    """Items that have no first pose or no maps, and why: missing in every variant."""

    @property
    def variants(self) -> tuple[Variant, ...]:
        return self.plan.variants

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that say something of some variant."""
        names = next(iter(self.scores.values())).values
        return tuple(n for n in names if any(np.isfinite(own.values[n]).any() for own in self.scores.values()))

    @functools.cached_property
    def changes(self) -> dict[str, list[Change]]:
        """Title -> each metric of a variant against the reference's, item by item. Kept: intervals take a while."""
        base = self.scores[self.plan.reference]
        others = [v.title for v in self.variants if v.title != self.plan.reference]
        return {title: paired(base, self.scores[title], self.metrics) for title in others}


def marks(variants: Sequence[Variant]) -> dict[str, dict[str, str]]:
    """Title -> group -> mark, for the groups that some variant has."""
    on = {variant.title: active(variant.config) if variant.config else () for variant in variants}
    widest = groups_of(dict.fromkeys(loss for losses in on.values() for loss in losses))
    found: dict[str, dict[str, str]] = {}
    for title, losses in on.items():
        counts = {name: sum(loss in losses for loss in group.losses) for name, group in widest.items()}
        found[title] = {
            name: OFF if not count else ON if count == len(widest[name].losses) else PART
            for name, count in counts.items()
        }
    return found


def rows_of(result: Result) -> list[dict[str, object]]:
    """A row for each variant: name, marks, medians within their 95 % intervals, seconds, failed items."""
    shown, rows = marks(result.variants), []
    several = any(own.failures for own in result.scores.values())
    for variant in result.variants:
        own, seconds = result.scores[variant.title], result.seconds[variant.title]
        row: dict[str, object] = {"": variant.title}
        row |= {_sign(name): mark for name, mark in shown[variant.title].items()}
        row |= {METRICS[name].heading: cell(own, name) for name in result.metrics}
        row["s/image"] = float(np.median(list(seconds.values()))) if seconds else float("nan")
        rows.append(row | ({"failed": len(own.failures)} if several else {}))
    return rows


def _sign(group: str) -> str:
    return GROUPS[group].sign if group in GROUPS else group.rpartition(":")[2]


def cell(scores: Scores, metric: str) -> str:
    """``5.1 (4.38..5.92)``: the median within its 95 % interval; failed items count as infinitely wrong."""
    low, middle, high = interval(scores.counted(metric))
    return f"{number3(middle)} ({number3(low)}..{number3(high)})" if not np.isnan(middle) else "-"


def number3(value: float) -> str:
    """Three digits: what an interval of a hundred items is worth; below a thousandth: 0."""
    return f"{round(value, 3) + 0.0:.3g}" if abs(value) < 1000 else number(value)


def change_rows(result: Result) -> list[dict[str, object]]:
    """A row for each variant but the reference: the medians of the items' changes, and the verdict's sign.

    ``+3.1* (2.2..4)``: this much larger than the reference's in the median item, within its 95 % interval; the star
    says that the difference is sure (the interval leaves out zero, and the signed-rank test agrees).
    """
    rows = []
    for title, changes in result.changes.items():
        row: dict[str, object] = {"": title}
        for change in changes:
            star = "" if change.verdict == "not told apart" else "*"
            cell = f"{_signed(change.change)}{star} ({_signed(change.low)}..{_signed(change.high)})"
            row[f"change of {METRICS[change.metric].heading}"] = cell
        rows.append(row)
    return rows


def mean_change(result: Result, title: str, metric: str) -> tuple[float, float, float]:
    """(low, mean, high) of a variant's changes against the reference; items that either failed are left out."""
    first, second = (result.scores[name].values[metric] for name in (result.plan.reference, title))
    return interval(second - first, "mean")


def mean_rows(result: Result) -> list[dict[str, object]]:
    """A row for each variant: means of the first two metrics, as papers print them, and the means of the changes.

    The star says that the interval of the change leaves out zero. Means feel every outlier; medians feel none.
    """
    rows = []
    for variant in result.variants:
        row: dict[str, object] = {"": variant.title}
        for metric in result.metrics[:2]:
            low, middle, high = interval(result.scores[variant.title].values[metric], "mean")
            heading = METRICS[metric].heading
            row[f"mean {heading}"] = f"{number3(middle)} ({number3(low)}..{number3(high)})"
            low, middle, high = mean_change(result, variant.title, metric)
            star = "*" if low > 0 or high < 0 else ""
            told = f"{_signed(middle)}{star} ({_signed(low)}..{_signed(high)})"
            row[f"change of mean {heading}"] = "-" if variant.title == result.plan.reference else told
        rows.append(row)
    return rows


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{number3(value)}"


def verdicts(result: Result, metrics: Sequence[str] = ("HE_mm", "OE_mm")) -> list[str]:
    """A sentence for each variant and metric (default: the errors; without a truth, penetration and volume)."""
    told = [name for name in metrics if name in result.metrics] or [*result.metrics[:2]]
    lines = [line for variant in result.variants if (line := trouble(result, variant))]
    for title, changes in result.changes.items():
        own = result.scores[title]
        if len(own.failures) < len(own):
            lines += [change.sentence(result.plan.reference, title) for change in changes if change.metric in told]
    return lines


def trouble(result: Result, variant: Variant) -> str:
    """What went wrong with a variant; nothing where only items that no variant can use are missing."""
    if variant.problem:
        return f"{variant.title}: {variant.problem}"
    own = result.scores[variant.title]
    failed = {name: why for name, why in own.failures.items() if name not in result.unusable}
    if not failed:
        return ""
    name, why = next(iter(failed.items()))
    return f"{variant.title}: failed on {len(failed)} of {len(own)} items; {name}: {why.removeprefix(f'{name}: ')}"


def legend(result: Result) -> list[str]:
    """What the columns mean, and what the numbers are of."""
    groups = next(iter(marks(result.variants).values()))
    signs = [f"{_sign(name)} {name} ({', '.join(_losses(result, name))})" for name in groups]
    lines = [
        f"{result.source}; recipe {result.plan.recipe}",
        "medians within 95 % bootstrap intervals; an item that failed counts as infinitely wrong",
        f"{ON}: on, {PART}: in part; " + ", ".join(signs),
        *(f"{METRICS[name].title}: {METRICS[name].meaning}" for name in result.metrics),
    ]
    lines += result.notes
    lines += [
        f"not usable: {why if why.startswith(name) else f'{name}: {why}'}" for name, why in result.unusable.items()
    ]
    if not any(METRICS[name].family == "pose" for name in result.metrics):
        lines.append("no truth is known of these images: only the quality of the poses is measured")
    return lines


def _losses(result: Result, group: str) -> tuple[str, ...]:
    on = dict.fromkeys(loss for variant in result.variants if variant.config for loss in active(variant.config))
    return groups_of(on)[group].losses
