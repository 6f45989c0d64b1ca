"""Two systems on the same items: is B better than A, by how much, how surely, and on which items.

Items are compared with themselves, so what makes an item hard for both cancels out. An item that one of the two failed
is an infinite change; one that both failed is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon

from horefine.errors import InputError
from horefine.evaluate.catalogue import METRICS, Metric
from horefine.evaluate.intervals import interval
from horefine.evaluate.scores import Scores
from horefine.evaluate.tables import number

__all__ = ["FEWEST", "SURE", "Change", "changes", "extremes", "paired"]

SURE = 0.05
"""Largest p of a difference that is called one."""
_FAR = 1e9
"""Stands for an infinite change while medians are taken: half-way between plus and minus infinity is no change."""
FEWEST = 6
"""Items from which on the test can be that sure: five that all change one way have p = 2 / 2^5."""


@dataclass(frozen=True)
class Change:
    """B against A in one metric, B minus A."""

    metric: str
    items: int
    """That both systems were asked for."""
    first: float
    """Median of A, failed items infinitely wrong."""
    second: float
    """Median of B."""
    change: float
    """Median of the items' changes, within ``low`` and ``high`` (bootstrap)."""
    low: float
    high: float
    better: float
    """Share of items in which B is better."""
    worse: float
    p: float
    """Two-sided Wilcoxon signed-rank test (1945): how likely so one-sided a difference is if there is none."""

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` (B than A) or ``not told apart``: interval and test must agree."""
        if not (self.p < SURE and (self.low > 0 or self.high < 0)):
            return "not told apart"
        return "better" if (self.change > 0) == METRICS[self.metric].more else "worse"

    def sentence(self, first: str = "A", second: str = "B") -> str:
        """In words: ``B is better than A in HE: -3.1 mm (-4 .. -2.2), in 78 % of items``."""
        metric = METRICS[self.metric]
        word = "is not told from" if self.verdict == "not told apart" else f"is {self.verdict} than"
        unit = f" {metric.unit}" if metric.unit else ""
        span = f"{_signed(self.change)}{unit} ({_signed(self.low)} .. {_signed(self.high)})"
        share = f"better in {self.better:.0%} of items, worse in {self.worse:.0%}"
        return f"{second} {word} {first} in {metric.title}: {span}, {share} (p {number(self.p)})"


def _signed(value: float) -> str:
    return f"{value:+.3g}"


def changes(metric: Metric, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Second minus first; 0 where both are infinite, NaN where either is not known."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isinf(first) & np.isinf(second), 0.0, second - first)


def paired(a: Scores, b: Scores, metrics: Sequence[str] | None = None) -> list[Change]:
    """B against A, metric by metric, on the items that both have.

    Raises:
        InputError: they have no item or no metric in common.
    """
    a, b = _common(a, b)
    names = [name for name in (a.values if metrics is None else metrics) if name in a.values and name in b.values]
    if not len(a) or not names:
        raise InputError("nothing to compare: the two have no item or no metric in common")
    return [found for name in names if (found := _change(METRICS[name], a, b)) is not None]


def _common(a: Scores, b: Scores) -> tuple[Scores, Scores]:
    places = {name: k for k, name in enumerate(b.names)}
    kept = [k for k, name in enumerate(a.names) if name in places]
    return a.take(kept), b.take([places[a.names[k]] for k in kept])


def _change(metric: Metric, a: Scores, b: Scores) -> Change | None:
    first, second = a.counted(metric.name), b.counted(metric.name)
    change = changes(metric, first, second)
    known = change[~np.isnan(change)]
    if not len(known):
        return None
    gain = known if metric.more else -known
    low, middle, high = (_unbounded(value) for value in interval(np.clip(known, -_FAR, _FAR)))
    return Change(
        metric.name, len(known), interval(first)[1], interval(second)[1], middle, low, high,
        float((gain > 0).mean()), float((gain < 0).mean()), _p(known),
    )  # fmt: skip


def _unbounded(value: float) -> float:
    """Infinity again, where half of a change or more was infinite."""
    return value if abs(value) < _FAR / 4 else float(np.copysign(np.inf, value))


def _p(change: np.ndarray) -> float:
    """Of the signed-rank test; items without a change say nothing (Wilcoxon's own rule)."""
    moved = change[change != 0]
    return float(np.asarray(wilcoxon(moved))[1]) if len(moved) else 1.0


def extremes(
    a: Scores, b: Scores, metric: str, count: int = 5
) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """The items in which B is most better than A, and most worse, with their changes (B minus A)."""
    a, b = _common(a, b)
    change = changes(METRICS[metric], a.counted(metric), b.counted(metric))
    gain = change if METRICS[metric].more else -change
    order = [k for k in np.argsort(-gain, kind="stable") if not np.isnan(gain[k])]
    better = [(a.names[k], float(change[k])) for k in order[:count] if gain[k] > 0]
    worse = [(a.names[k], float(change[k])) for k in order[::-1][:count] if gain[k] < 0]
    return better, worse
