"""Scores as rows, and rows as Markdown, CSV and LaTeX.

An item that failed is infinitely wrong: it counts in medians, areas and shares. Only the mean of an error leaves it
out (it would be infinite); the number of failed items stands beside it.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from horefine.evaluate.catalogue import MAIN, METRICS, Metric
from horefine.evaluate.intervals import interval
from horefine.evaluate.scores import Scores

__all__ = [
    "by_group",
    "group_rows",
    "median",
    "metric_rows",
    "number",
    "share_within",
    "to_csv",
    "to_latex",
    "to_markdown",
]

Row = Mapping[str, object]
_FEW = 10
"""Metrics that fit beside each other."""


def metric_rows(
    scores: Scores, metrics: Iterable[str] | None = None, *, level: float = 0.95
) -> list[dict[str, object]]:
    """One row for each metric: median and mean within their intervals, shares of items within thresholds.

    Args:
        metrics: Names, in the order of the rows (default: those of the scores).

    Returns:
        Keys ``metric`` (name), ``n`` (items with a number), ``failed``, ``median``, ``median_low``, ``median_high``,
        ``mean``, ``mean_low``, ``mean_high``, and ``within_T`` for the metric's thresholds T.
    """
    return [_row(METRICS[name], scores, level) for name in (scores.values if metrics is None else metrics)]


def _row(metric: Metric, scores: Scores, level: float) -> dict[str, object]:
    values = scores.counted(metric.name)
    row: dict[str, object] = {
        "metric": metric.name,
        "n": int(np.isfinite(scores.values[metric.name]).sum()),
        "failed": len(scores.failures),
    }
    for statistic in ("median", "mean"):
        finite = values if statistic == "median" else np.where(np.isfinite(values), values, np.nan)
        low, value, high = interval(finite, statistic, level)
        row |= {statistic: value, f"{statistic}_low": low, f"{statistic}_high": high}
    return row | {f"within_{edge:g}": share_within(values, edge) for edge in metric.shares}


def share_within(values: np.ndarray, threshold: float) -> float:
    """Share of items whose error is at most the threshold; NaN left out, infinity counts as more."""
    known = values[~np.isnan(values)]
    return float((known <= threshold).mean()) if len(known) else float("nan")


def median(values: np.ndarray) -> float:
    """Of the values that are known; infinite where half of them are."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else float("nan")


def by_group(scores: Scores) -> Iterator[tuple[str, str, Scores]]:
    """``(kind, label, items)`` for every label of every grouping, labels in order."""
    for kind, labels in scores.groups.items():
        for label in sorted(set(labels), key=_natural):
            yield kind, label, scores.take([k for k, own in enumerate(labels) if own == label])


def _natural(label: str) -> tuple[object, ...]:
    """``20-40 %`` before ``100 %``; numbers before words."""
    digits = label.split("-")[0].strip(" %<>=")
    return (0, float(digits), label) if digits.replace(".", "", 1).isdigit() else (1, 0.0, label)


def group_rows(scores: Scores, metrics: Sequence[str] | None = None) -> list[dict[str, object]]:
    """A row for all items and one for each object, sequence and occlusion: medians.

    Args:
        metrics: Names (default: those of the scores when they are few, else the main ones).
    """
    usual = scores.values if len(scores.values) <= _FEW else MAIN
    shown = [name for name in (usual if metrics is None else metrics) if name in scores.values]
    rows = []
    for kind, label, items in [("all", "", scores), *by_group(scores)]:
        cells = {METRICS[name].heading: median(items.counted(name)) for name in shown}
        rows.append({"group": kind, "": label, "items": len(items), "failed": len(items.failures), **cells})
    return rows


# --- formats -----------------------------------------------------------------------------------------------------


def number(value: object) -> str:
    """As in a table: four digits; ``inf`` where more than half of the items failed; ``-`` for nothing."""
    if isinstance(value, bool) or not isinstance(value, float):
        return "-" if value is None else str(value)
    if math.isnan(value):
        return "-"
    return f"{value:.4g}" if abs(value) < 1000 or math.isinf(value) else f"{value:.0f}"


def to_markdown(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table; columns in the order they first appear, a missing value as ``-``."""
    columns, lines, numeric = _cells(rows)
    lines = [[cell.replace("|", r"\|").replace("\n", " ") for cell in line] for line in lines]
    widths = [max(len(line[k]) for line in [columns, *lines]) for k in range(len(columns))]

    def join(cells: Sequence[str]) -> str:
        padded = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, numeric, strict=True)]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if n else "-") for w, n in zip(widths, numeric, strict=True)) + "|"
    return "\n".join([join(columns), rule, *map(join, lines)])


def to_csv(rows: Sequence[Row]) -> str:
    """Rows as CSV, numbers in full; NaN and missing values as nothing."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        values = [row.get(name) for name in columns]
        writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in values])
    return text.getvalue()


def to_latex(rows: Sequence[Row], caption: str = "", label: str = "") -> str:
    r"""Rows as a ``table`` with ``\toprule`` and ``\bottomrule``: the document needs the package booktabs."""
    columns, lines, numeric = _cells(rows)
    body = [" & ".join(_escaped(cell) for cell in line) + r" \\" for line in [columns, *lines]]
    return "\n".join([
        r"\begin{table}", r"\centering",
        *([rf"\caption{{{_escaped(caption)}}}"] if caption else []), *([rf"\label{{{label}}}"] if label else []),
        rf"\begin{{tabular}}{{{''.join('r' if n else 'l' for n in numeric)}}}",
        r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
    ])  # fmt: skip


def _cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]], list[bool]]:
    """Columns, the text of every cell, and which columns are numbers."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [[number(row.get(name)) for name in columns] for row in rows]
    numeric = [all(isinstance(row.get(name, 0), int | float | None) for row in rows) for name in columns]
    return columns, lines, numeric


def _escaped(text: str) -> str:
    for sign in "&%#_":
        text = text.replace(sign, rf"\{sign}")
    return text
