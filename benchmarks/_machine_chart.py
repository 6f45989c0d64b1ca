"""The figures of a machine as pictures: how time and memory grow, and where an iteration goes."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

from PIL import Image

from benchmarks._figures import Figure
from horefine.ablate.chart import COLORS
from horefine.evaluate.pictures import Chart, steps_to

__all__ = ["growth", "reached", "stages"]

LINES = ("#1c7ed6", "#e8590c", "#2b8a3e", "#ae3ec9")
Points = Sequence[tuple[float, float]]


def growth(figures: Sequence[Figure]) -> bytes | None:
    """A panel for each thing that grows and each unit, both axes logarithmic; None without such figures."""
    panels: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for found in figures:
        if found.part == "growth" and found.value > 0:  # a difference of two noisy times may be below
            name, _, rest = found.case.partition(" by ")
            what, _, value = rest.partition(": ")
            panels.setdefault((found.unit, what), {}).setdefault(name, []).append((float(value), found.value))
    if not panels:
        return None
    titles = {"ms/image": "milliseconds an image", "MB": "memory of the process, MB"}
    units = list(dict.fromkeys(unit for unit, _ in panels))
    names = list(dict.fromkeys(what for _, what in panels))
    page = Image.new("RGB", (430 * len(names), 330 * len(units)), "white")
    for (unit, what), lines in panels.items():
        drawn = _panel(f"{titles.get(unit, unit)} by {what}", lines)
        page.paste(drawn, (430 * names.index(what), 330 * units.index(unit)))
    return _png(page)


def _panel(title: str, lines: Mapping[str, Points]) -> Image.Image:
    """Lines of positive numbers in powers of two across and of ten upright."""
    across = sorted({x for points in lines.values() for x, _ in points})
    values = [y for points in lines.values() for _, y in points]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) + 1e-9)
    left, right = math.log2(across[0]) - 0.2, math.log2(across[-1]) + 0.2
    chart = Chart((430, 330), (64, 66, 300, 280), (left, right), (low, max(high, low + 1)))
    for power in range(low, max(high, low + 1) + 1):
        _tick(chart, (left, power), (right, power), f"{10.0**power:g}", "rm")
    for x in across:
        _tick(chart, (math.log2(x), low), (math.log2(x), max(high, low + 1)), f"{x:g}", "mt")
    chart.names(title, "")
    for row, (name, points) in enumerate(lines.items()):
        color = LINES[row % len(LINES)]
        places = [chart.at(math.log2(x), math.log10(y)) for x, y in sorted(points)]
        chart.pen.line(places, color, 5)
        for x, y in places:
            chart.pen.ellipse([x - 6, y - 6, x + 6, y + 6], fill=color)
        at = chart.frame[1] + 20 + 44 * row
        chart.pen.line([(chart.frame[2] + 14, at), (chart.frame[2] + 44, at)], color, 6)
        chart.text((chart.frame[2] + 52, at), name[:18], "lm", size=10)
    return chart.done()


def _tick(chart: Chart, begin: tuple[float, float], end: tuple[float, float], text: str, anchor: str) -> None:
    first, last = chart.at(*begin), chart.at(*end)
    chart.pen.line([first, last], "#e9ecef", 2)
    away = (-12, 0) if anchor == "rm" else (0, 10)
    chart.text((first[0] + away[0], first[1] + away[1]), text, anchor, faint=True, size=11)


def stages(figures: Sequence[Figure]) -> bytes | None:
    """Bars of the stages: an iteration of Adam, fused beside eager, and ``default``; a panel for each batch; None
    without such figures."""
    panels: dict[str, dict[str, dict[str, float]]] = {}
    for found in figures:
        name, _, batch = found.case.rpartition(", ")
        if found.part == "stage":
            way, _, name = name.partition(": ")
            panels.setdefault(f"an iteration of adam, {batch}", {}).setdefault(name, {})[way] = found.value
        elif found.part == "stage of default" and name != "whole":
            panels.setdefault(f"default, {batch}", {}).setdefault(name, {})["all its steps"] = found.value
    if not panels:
        return None
    drawn = [_bars(f"{title}: processor time", rows) for title, rows in panels.items()]
    page = Image.new("RGB", (drawn[0].width * min(2, len(drawn)), _height(drawn[:2]) + _height(drawn[2:])), "white")
    for k, panel in enumerate(drawn):
        page.paste(panel, (panel.width * (k % 2), _height(drawn[:2]) * (k // 2)))
    return _png(page)


def _height(panels: Sequence[Image.Image]) -> int:
    return max((panel.height for panel in panels), default=0)


def _bars(title: str, rows: Mapping[str, Mapping[str, float]]) -> Image.Image:
    ways = list(dict.fromkeys(way for own in rows.values() for way in own))
    high = max(value for own in rows.values() for value in own.values()) * 1.05
    bottom = 86 + 34 * len(rows)
    chart = Chart((560, bottom + 60), (210, 86, 500, bottom), (0, high), (len(rows), 0))
    chart.ticks(steps_to(high, 4), "x")
    chart.names(title, "ms an image")
    for row, (name, own) in enumerate(rows.items()):
        chart.text((chart.frame[0] - 12, chart.at(0, row + 0.5)[1]), name[:30], "rm", size=11)
        for place, way in enumerate(ways):
            if way in own:
                top, thick = row + 0.15 + 0.7 * place / len(ways), 0.7 / len(ways)
                (x0, y0), (x1, y1) = chart.at(0, top), chart.at(own[way], top + thick)
                chart.pen.rectangle([x0, y0, x1, y1], fill=LINES[place])
                chart.text((x1 + 8, (y0 + y1) / 2), f"{own[way]:.3g}", "lm", faint=True, size=9)
    for place, way in enumerate(ways if len(ways) > 1 else ()):
        x = chart.frame[2] - 160 + 120 * place
        y = chart.frame[3] + 52
        chart.pen.rectangle([x, y - 8, x + 20, y + 8], fill=LINES[place])
        chart.text((x + 28, y), way, "lm", size=11)
    return chart.done()


def reached(figures: Sequence[Figure]) -> bytes | None:
    """How far each figure is from its number to reach: bars of their ratio, beyond 1 is reached; None without any."""
    known = [found for found in figures if found.target and found.value > 0]  # differences of noisy times may not be
    if not known:
        return None
    ratios = [(f.value / f.target if f.more else f.target / f.value) for f in known if f.target]
    low, high = min(0.5, *ratios) / 1.2, max(2.0, *ratios) * 1.2
    bottom = 60 + 30 * len(known)
    chart = Chart((960, bottom + 70), (400, 60, 720, bottom), (math.log2(low), math.log2(high)), (len(known), 0))
    for power in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1):
        _tick(chart, (power, len(known)), (power, 0), f"{2.0**power:g}", "mt")
    chart.names("times as good as the number to reach (right of 1: reached)", "")
    chart.pen.line([chart.at(0, 0), chart.at(0, len(known))], "#212529", 3)
    for row, (found, ratio) in enumerate(zip(known, ratios, strict=True)):
        y = chart.at(0, row + 0.5)[1]
        ends = sorted([chart.at(0, 0)[0], chart.at(math.log2(ratio), 0)[0]])
        chart.pen.rectangle([ends[0], y - 12, ends[1], y + 12], fill=COLORS["better" if found.met else "worse"])
        chart.text((chart.frame[0] - 12, y), f"{found.part}: {found.case}"[:60], "rm", size=11)
        sign = ">=" if found.more else "<="
        said = f"{found.value:.3g} {found.unit} ({sign} {found.target:g})"
        chart.text((chart.frame[2] + 12, y), said, "lm", size=11)
    return _png(chart.done())


def _png(page: Image.Image) -> bytes:
    stream = io.BytesIO()
    page.save(stream, "PNG", optimize=True)
    return stream.getvalue()
