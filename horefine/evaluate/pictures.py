"""Plots of an evaluation, drawn with Pillow: share of items within a threshold, medians by group, two systems."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from horefine.evaluate.catalogue import METRICS
from horefine.evaluate.intervals import interval
from horefine.evaluate.scores import Scores
from horefine.evaluate.tables import by_group, median

__all__ = ["Chart", "curves", "groups", "steps_to", "versus"]

_INK, _PAPER, _FAINT, _GRID = (33, 37, 41), (255, 255, 255), (134, 142, 150), (233, 236, 239)
_COLORS = ("#1c7ed6", "#e8590c", "#2b8a3e", "#ae3ec9", "#c92a2a", "#0b7285", "#e67700", "#495057")
_TWICE = 2
"""Pillow's lines are not smooth: everything is drawn larger and reduced."""
_CURVES = ("HE_mm", "OE_mm", "hand_to_object_mm", "MJE_mm", "PA_MJE_mm", "ADD_S_mm")
Frame = tuple[float, float, float, float]


class Chart:
    """A page with a frame and linear axes; ``at`` gives the pixel of a value."""

    def __init__(self, size: tuple[int, int], frame: Frame, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.size, self.x, self.y = size, x, y
        self.frame = tuple(value * _TWICE for value in frame)
        self.page = Image.new("RGB", (size[0] * _TWICE, size[1] * _TWICE), _PAPER)
        self.pen = ImageDraw.Draw(self.page)

    def at(self, x: float, y: float) -> tuple[float, float]:
        left, top, right, bottom = self.frame
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return left + across * (right - left), bottom - up * (bottom - top)

    def text(self, place: tuple[float, float], text: str, anchor: str, faint: bool = False, size: int = 13) -> None:
        font = ImageFont.load_default(size * _TWICE)
        self.pen.text(place, text, fill=_FAINT if faint else _INK, font=font, anchor=anchor)

    def ticks(self, values: Sequence[float], axis: str, label: str = "{:g}") -> None:
        """Grid lines with numbers, across (``y``) or upright (``x``)."""
        left, top, right, bottom = self.frame
        for value in values:
            if axis == "y":
                y = self.at(self.x[0], value)[1]
                self.pen.line([(left, y), (right, y)], fill=_GRID, width=_TWICE)
                self.text((left - 12, y), label.format(value), "rm", faint=True)
            else:
                x = self.at(value, self.y[0])[0]
                self.pen.line([(x, top), (x, bottom)], fill=_GRID, width=_TWICE)
                self.text((x, bottom + 10), label.format(value), "mt", faint=True)

    def names(self, title: str, x: str, y: str = "") -> None:
        left, top, right, bottom = self.frame
        self.text((left, top - (64 if y else 40)), title, "lm", size=15)
        self.text(((left + right) / 2, bottom + 52), x, "mt", faint=True)
        self.text((left, top - 10), y, "lb", faint=True, size=11)

    def done(self) -> Image.Image:
        return self.page.resize(self.size, Image.Resampling.LANCZOS)


def steps_to(high: float, count: int = 5) -> list[float]:
    """Round numbers from 0 up to about ``high``: 1, 2 or 5 times a power of ten apart."""
    rough = max(high, 1e-9) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough * 0.999)
    return [round(k * step, 10) for k in range(math.floor(high / step + 1e-6) + 1)]


def curves(scores: Scores, metrics: Sequence[str] = _CURVES, *, limit: float = 50.0) -> Image.Image:
    """Share of items whose error is at most a threshold; failed items never are."""
    shown = [name for name in metrics if name in scores.values]
    chart = Chart((720, 420), (64, 48, 520, 356), (0, limit), (0, 1))
    chart.ticks(steps_to(limit), "x")
    chart.ticks((0, 0.25, 0.5, 0.75, 1), "y", "{:.0%}")
    failed = f", {len(scores.failures)} failed" if scores.failures else ""
    chart.names(f"items within a threshold ({len(scores)} items{failed})", "mm")
    for row, name in enumerate(shown):
        values = scores.counted(name)
        values = np.sort(values[~np.isnan(values)])
        color, places = _COLORS[row % len(_COLORS)], [chart.at(0, 0)]
        for k, value in enumerate(values[values <= limit]):
            places += [chart.at(value, k / len(values)), chart.at(value, (k + 1) / len(values))]
        chart.pen.line([*places, chart.at(limit, float((values <= limit).mean() if len(values) else 0))], color, 5)
        y = chart.frame[1] + row * 44
        chart.pen.line([(chart.frame[2] + 24, y + 10), (chart.frame[2] + 64, y + 10)], color, 6)
        chart.text((chart.frame[2] + 76, y + 10), f"{METRICS[name].title}: {median(values):.1f}", "lm")
    chart.text((chart.frame[2] + 24, chart.frame[1] + len(shown) * 44 + 8), "numbers: medians", "lm", True, 11)
    return chart.done()


def groups(scores: Scores, metrics: Sequence[str] = ("HE_mm", "OE_mm")) -> Image.Image | None:
    """Medians within their intervals for every object, sequence and occlusion; None where there are no groups."""
    rows = [(f"{kind}: {label}" if kind != "object" else label, items) for kind, label, items in by_group(scores)][:40]
    shown = [name for name in metrics if name in scores.values]
    if not rows or not shown:
        return None
    rows = [("all", scores), *rows]
    spans = {(row, name): interval(items.counted(name)) for row, (_, items) in enumerate(rows) for name in shown}
    finite = [end for span in spans.values() for end in span if math.isfinite(end)]
    high = max(finite, default=1.0) * 1.05 or 1.0
    height = 24 * len(rows)
    chart = Chart((720, height + 110), (190, 48, 690, 48 + height), (0, high), (len(rows), 0))
    chart.ticks(steps_to(high), "x")
    chart.names(
        "medians and their 95 % intervals: " + ", ".join(METRICS[n].title for n in shown), METRICS[shown[0]].unit
    )
    for (row, name), (low, middle, top) in spans.items():
        y = row + 0.5 + (shown.index(name) - (len(shown) - 1) / 2) * 0.3
        color = _COLORS[shown.index(name) % len(_COLORS)]
        chart.pen.line([chart.at(min(low, high), y), chart.at(min(top, high), y)], color, 5)
        x, y = chart.at(min(middle, high), y)
        chart.pen.ellipse([x - 8, y - 8, x + 8, y + 8], fill=color)
    for row, (label, items) in enumerate(rows):
        chart.text((chart.frame[0] - 12, chart.at(0, row + 0.5)[1]), f"{label[:18]} ({len(items)})", "rm")
    for place, name in enumerate(shown):
        x, y = chart.frame[2] - 260 + 130 * place, chart.frame[1] - 44
        chart.pen.ellipse([x - 8, y - 8, x + 8, y + 8], fill=_COLORS[place % len(_COLORS)])
        chart.text((x + 16, y), METRICS[name].title, "lm")
    return chart.done()


def versus(a: Scores, b: Scores, metric: str, names: tuple[str, str] = ("A", "B")) -> Image.Image:
    """Every item as a point: the error of A across, of B upright; below the line B is the better one (by errors)."""
    places = {name: k for k, name in enumerate(b.names)}
    common = [(k, places[name]) for k, name in enumerate(a.names) if name in places]
    first, second = a.counted(metric), b.counted(metric)
    points = np.array([(first[k], second[j]) for k, j in common])
    points = points[np.isfinite(points).all(1)]
    high = float(np.quantile(points, 0.98)) * 1.1 if len(points) else 1.0
    chart = Chart((480, 500), (64, 48, 464, 448), (0, high), (0, high))
    for axis in ("x", "y"):
        chart.ticks(steps_to(high), axis)
    chart.names(f"{METRICS[metric].heading}, item by item", names[0], names[1])
    chart.pen.line([chart.at(0, 0), chart.at(high, high)], _FAINT, 3)
    for x, y in points:
        at_x, at_y = chart.at(min(x, high), min(y, high))
        better = (y < x) != METRICS[metric].more
        chart.pen.ellipse([at_x - 6, at_y - 6, at_x + 6, at_y + 6], fill=_COLORS[0] if better else _COLORS[1])
    return chart.done()
