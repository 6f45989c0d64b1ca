"""The ablation as one picture: how much each variant's items change against the reference, with intervals."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence

from PIL import Image

from horefine.ablate.table import Result, number3
from horefine.evaluate import METRICS, interval
from horefine.evaluate.compare import Change
from horefine.evaluate.pictures import Chart, steps_to

__all__ = ["COLORS", "draw"]

COLORS = {"worse": "#c92a2a", "better": "#1c7ed6", "not told apart": "#868e96"}
"""Of a variant against the reference."""
PANELS = 3
"""At most: the first metrics."""
ROW, LABELS, WIDTH, TOP, BOTTOM = 28, 230, 300, 86, 70
"""Pixels."""


def draw(result: Result) -> bytes | None:
    """A panel for each of the first metrics, a row for each variant, as PNG; None where there is nothing to compare."""
    changes = result.changes
    metrics = result.metrics[:PANELS]
    if not metrics or not changes:
        return None
    panels = [_panel(metric, changes, result, LABELS if k == 0 else 24) for k, metric in enumerate(metrics)]
    page = Image.new("RGB", (sum(panel.width for panel in panels), panels[0].height), "white")
    for k, panel in enumerate(panels):
        page.paste(panel, (sum(before.width for before in panels[:k]), 0))
    stream = io.BytesIO()
    page.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def _panel(metric: str, changes: Mapping[str, Sequence[Change]], result: Result, left: int) -> Image.Image:
    """Medians of the items' changes with their intervals, and beside them the variants' own medians."""
    found = {title: next((c for c in own if c.metric == metric), None) for title, own in changes.items()}
    low, high = _reach(found.values())
    bottom = TOP + ROW * len(found)
    chart = Chart((left + WIDTH + 64, bottom + BOTTOM), (left, TOP, left + WIDTH, bottom), (low, high), (len(found), 0))
    apart = steps_to(max(high, -low))[1]
    chart.ticks([k * apart for k in range(math.ceil(low / apart), math.floor(high / apart) + 1)], "x")
    base = interval(result.scores[result.plan.reference].counted(metric))[1]
    if left == LABELS:
        chart.text((24, 40), f"{result.plan.recipe} on {result.source}", "lm", size=14)
        chart.text((24, chart.page.height - 24), "blue: surely better, red: surely worse, grey: not told apart; "
                   f"numbers: medians ({result.plan.reference} above)", "lm", True, 11)  # fmt: skip
    heading = f"change of {METRICS[metric].heading}; {result.plan.reference}: {number3(base)}"
    chart.text((chart.frame[0], chart.frame[1] - 44), heading, "lm")
    chart.pen.line([chart.at(0, 0), chart.at(0, len(found))], "#212529", 3)
    for row, (title, change) in enumerate(found.items()):
        y = chart.at(0, row + 0.5)[1]
        if left == LABELS:
            chart.text((chart.frame[0] - 16, y), title[:32], "rm", size=12)
        _mark(chart, row, change)
    return chart.done()


def _mark(chart: Chart, row: int, change: Change | None) -> None:
    x, y = chart.frame[2] + 12, chart.at(0, row + 0.5)[1]
    if change is None or not all(map(math.isfinite, (change.low, change.change, change.high))):
        chart.text((x, y), "failed", "lm", True, 11)
        return
    color = COLORS[change.verdict]
    chart.pen.line([chart.at(change.low, row + 0.5), chart.at(change.high, row + 0.5)], color, 6)
    at = chart.at(change.change, 0)[0]
    chart.pen.ellipse([at - 9, y - 9, at + 9, y + 9], fill=color)
    chart.text((x, y), number3(change.second), "lm", size=12)


def _reach(changes: Iterable[Change | None]) -> tuple[float, float]:
    """The axis: all finite ends, and zero, with some room."""
    ends = [end for c in changes if c is not None for end in (c.low, c.high) if math.isfinite(end)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room
