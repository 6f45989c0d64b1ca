"""What an evaluation leaves on disk: scores of every item, tables in three formats, plots."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from horefine.evaluate import pictures, tables
from horefine.evaluate.catalogue import METRICS
from horefine.evaluate.compare import FEWEST, Change, extremes, paired
from horefine.evaluate.evaluation import Evaluation
from horefine.evaluate.scores import Scores
from horefine.export import write_bytes, write_json, write_text
from horefine.outcome import versions

__all__ = ["FOLDER", "as_markdown", "write_comparison", "write_evaluation"]

FOLDER = "evaluation"
"""In the evaluated folder."""
_FAILED = (
    "A failed item counts as infinitely wrong in medians and shares and as 0 in areas; means of errors leave it out."
)


def item_rows(scores: Scores) -> list[dict[str, object]]:
    """A row for each item: its groups, why it failed, its numbers."""
    rows: list[dict[str, object]] = []
    for k, name in enumerate(scores.names):
        row: dict[str, object] = {"name": name, **{kind: labels[k] for kind, labels in scores.groups.items()}}
        row["failure"] = scores.failures.get(name, "")
        rows.append(row | {metric: float(values[k]) for metric, values in scores.values.items()})
    return rows


def shown_rows(table: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """:func:`tables.metric_rows` for people: intervals in one cell, shares in per cent."""
    rows = []
    for row in table:
        cells: dict[str, object] = {"metric": METRICS[str(row["metric"])].heading}
        for statistic in ("median", "mean"):
            low, high = (tables.number(row[f"{statistic}_{end}"]) for end in ("low", "high"))
            cells |= {statistic: row[statistic], f"{statistic}, 95 %": f"{low} .. {high}"}
        shares = [(key.removeprefix("within_"), value) for key, value in row.items() if key.startswith("within_")]
        cells["share within"] = ", ".join(f"{edge}: {value:.0%}" for edge, value in shares) or "-"
        rows.append(cells | {"items": row["n"], "failed": row["failed"]})
    return rows


def as_markdown(evaluation: Evaluation, title: str, table: Sequence[Mapping[str, object]]) -> str:
    """Notes, the table of all metrics (:func:`tables.metric_rows`), that of the groups and the failures."""
    scores = evaluation.scores
    said = evaluation.sentences()
    lines = [f"# {title}", "", *[f"- **{line}**" for line in said], *([""] if said else [])]
    lines += [tables.to_markdown(shown_rows(table)), "", _FAILED, ""]
    if evaluation.official:
        official = [{"official score": name, "": value} for name, value in evaluation.official.items()]
        lines += [tables.to_markdown(official), ""]
    if scores.groups:
        lines += ["Medians by group:", "", tables.to_markdown(tables.group_rows(scores)), ""]
    if scores.failures:
        failed = [{"failed item": name, "why": why} for name, why in scores.failures.items()]
        lines += [tables.to_markdown(failed), ""]
    return "\n".join(lines).rstrip() + "\n"


def write_evaluation(out: Path, evaluation: Evaluation, title: str, about: Mapping[str, Any]) -> str:
    """Writes ``OUT/evaluation`` (scores as JSON and CSV, tables, plots) and returns the table as Markdown."""
    folder, scores = out / FOLDER, evaluation.scores
    folder.mkdir(parents=True, exist_ok=True)
    items, long = item_rows(scores), long_rows(scores)
    text = as_markdown(evaluation, title, [row for row in long if row["group"] == "all"])
    counts = {"items": len(scores), "failed": len(scores.failures), "without_truth": len(evaluation.without_truth)}
    write_json(folder / "scores.json", {
        "schema_version": 1, "title": title, **about, "failed_items": _FAILED, "counts": counts,
        "metrics": {name: {"unit": METRICS[name].unit, "meaning": METRICS[name].meaning} for name in scores.values},
        "notes": evaluation.sentences(), "mistakes": [vars(mistake) for mistake in evaluation.mistakes],
        "official": evaluation.official, "not_closed": evaluation.open, "not_simulated": evaluation.not_simulated,
        "object_only": evaluation.object_only, "without_depth": evaluation.without_depth,
        "without_truth": evaluation.without_truth, "table": long, "items": items, "versions": versions(),
    })  # fmt: skip
    write_text(folder / "scores.csv", tables.to_csv(items))
    write_text(folder / "table.md", text)
    write_text(folder / "table.csv", tables.to_csv(long))
    write_text(folder / "table.tex", tables.to_latex(tables.group_rows(scores), caption=f"{title}. Medians."))
    for name, picture in (("curves", pictures.curves(scores)), ("groups", pictures.groups(scores))):
        if picture is not None:
            write_picture(folder / f"{name}.png", picture)
    return text


def long_rows(scores: Scores) -> list[dict[str, object]]:
    """A row for each metric of all items and of every group."""
    parts = [("all", "", scores), *tables.by_group(scores)]
    return [{"group": kind, "label": label} | row for kind, label, s in parts for row in tables.metric_rows(s)]


def write_picture(path: Path, picture: Image.Image) -> None:
    """As PNG, whole or not at all."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    write_bytes(path, stream.getvalue())


def write_comparison(out: Path, a: Scores, b: Scores, names: tuple[str, str], count: int = 5) -> str:
    """Writes ``evaluation/against_NAME.json``, ``.md``, ``.csv``, ``.tex`` and a plot; returns the Markdown."""
    found, folder = paired(a, b), out / FOLDER
    stem = comparison_stem(names[1])
    moved = {change.metric: extremes(a, b, change.metric, count) for change in found}
    rows = [change_row(change, names) for change in found]
    lines = [change.sentence(*names) for change in found]
    sure = [f"- {line}" for change, line in zip(found, lines, strict=True) if change.verdict != "not told apart"]
    few = " (fewer than six items never can)" if max(change.items for change in found) < FEWEST else ""
    text = "\n".join([
        f"# {names[1]} against {names[0]}", "", *(sure or [f"No difference is sure{few}."]), "",
        tables.to_markdown(rows), "", f"Change: {names[1]} minus {names[0]}, median over the items.", "",
        *_extremes(found, moved), "",
    ])  # fmt: skip
    write_json(folder / f"{stem}.json", {
        "schema_version": 1, "first": names[0], "second": names[1], "sentences": lines,
        "changes": [vars(c) | {"verdict": c.verdict} for c in found],
        "most_improved": {k: v[0] for k, v in moved.items()}, "most_worsened": {k: v[1] for k, v in moved.items()},
    })  # fmt: skip
    write_text(folder / f"{stem}.md", text)
    write_text(folder / f"{stem}.csv", tables.to_csv([vars(c) | {"verdict": c.verdict} for c in found]))
    write_text(folder / f"{stem}.tex", tables.to_latex(rows, caption=f"{names[1]} against {names[0]}"))
    write_picture(folder / f"{stem}.png", pictures.versus(a, b, found[0].metric, names))
    return text


def comparison_stem(name: str) -> str:
    """Of the files that say how a system of this name (it may hold slashes) compares."""
    return f"against_{name.replace('/', '_')}"


def change_row(change: Change, names: tuple[str, str]) -> dict[str, object]:
    """One line of the comparison's table."""
    return {
        "metric": METRICS[change.metric].heading, names[0]: change.first, names[1]: change.second,
        "change": change.change, "95 %": f"{tables.number(change.low)} .. {tables.number(change.high)}",
        "better": f"{change.better:.0%}", "worse": f"{change.worse:.0%}", "p": change.p,
        f"{names[1]} is": change.verdict,
    }  # fmt: skip


def _extremes(found: Sequence[Change], moved: Mapping[str, tuple[list, list]]) -> list[str]:
    """The items that changed most, of the first two metrics."""
    lines = []
    for change in found[:2]:
        for word, items in zip(("improved", "worsened"), moved[change.metric], strict=True):
            listed = ", ".join(f"{name} ({value:+.3g})" for name, value in items) or "none"
            lines.append(f"- {METRICS[change.metric].heading}, most {word}: {listed}")
    return lines
