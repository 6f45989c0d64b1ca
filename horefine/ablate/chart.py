"""The ablation as one picture: how much each variant's items change against the reference, with intervals."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

from horefine.ablate.table import Result, changes_of, number3
from horefine.evaluate import METRICS, interval
from horefine.evaluate.compare import Change

__all__ = ["COLORS", "draw"]

COLORS = {"worse": "#b2182b", "better": "#2166ac", "not told apart": "#888888"}
"""Of a variant against the reference."""
SHOWN = 3
"""Panels at most."""


def draw(result: Result) -> bytes | None:
    """A panel for each of the first metrics, a row for each variant, as PNG; None where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    changes = changes_of(result)
    metrics, titles = result.metrics[:SHOWN], list(changes)
    if not metrics or not titles:
        return None
    figure = Figure(figsize=(3.0 + 3.2 * len(metrics), 1.6 + 0.34 * len(titles)), layout="constrained")
    figure.suptitle(f"{result.plan.recipe} on {result.source}", fontsize=9)
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for panel, metric in zip(panels, metrics, strict=True):
        found = [next((c for c in changes[title] if c.metric == metric), None) for title in titles]
        _panel(panel, metric, found, result)
    panels[0].set_yticks(range(len(titles)), titles, fontsize=8)
    panels[0].set_ylim(len(titles) - 0.4, -0.6)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def _panel(panel: Any, metric: str, found: Sequence[Change | None], result: Result) -> None:
    """Medians of the items' changes with their intervals, and beside them the variants' own medians."""
    base = interval(result.scores[result.plan.reference].counted(metric))[1]
    panel.set_title(f"change of {METRICS[metric].heading}; {result.plan.reference}: {number3(base)}", fontsize=8)
    panel.axvline(0, color="black", linewidth=0.8)
    panel.tick_params(axis="x", labelsize=7)
    panel.tick_params(axis="y", length=0)
    for row, change in enumerate(found):
        if change is None or not all(map(math.isfinite, (change.low, change.change, change.high))):
            said = "failed" if change is None or math.isinf(change.second) else ""
            panel.annotate(said, (0, row), fontsize=7, va="center", ha="center")
            continue
        color = COLORS[change.verdict]
        panel.plot([change.low, change.high], [row, row], color=color, linewidth=2, solid_capstyle="butt")
        panel.plot([change.change], [row], "o", color=color, markersize=5)
        panel.annotate(
            f"{number3(change.second)}", (1.01, row), xycoords=("axes fraction", "data"), fontsize=7, va="center"
        )
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
