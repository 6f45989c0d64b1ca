"""``ablation.md``, ``.csv``, ``.json``, ``.tex`` and ``.png`` of an ablation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from horefine.ablate.chart import draw
from horefine.ablate.table import Result, change_rows, legend, mean_change, mean_rows, rows_of, verdicts
from horefine.ablate.variants import active
from horefine.evaluate import Scores, metric_rows, to_csv, to_latex, to_markdown
from horefine.export import write_bytes, write_json, write_text

__all__ = ["as_table", "to_text", "write_report"]


def to_text(result: Result) -> str:
    """Both tables with their legend, as Markdown."""
    parts = [to_markdown(rows_of(result))]
    changes = change_rows(result)
    if changes:
        parts += ["", f"Against {result.plan.reference}, item by item (*: sure):", "", to_markdown(changes)]
        parts += ["", "Means, as papers print them (*: the change's interval leaves out zero):", ""]
        parts.append(to_markdown(mean_rows(result)))
    parts += ["", *(f"- {line}" for line in (*verdicts(result), *legend(result)))]
    return "\n".join(parts) + "\n"


def write_report(result: Result, out: Path) -> list[Path]:
    """Writes the files; returns their paths."""
    text = to_text(result)
    paths = {ending: out / f"ablation.{ending}" for ending in ("md", "csv", "json", "tex")}
    write_text(paths["md"], f"# Ablation of {result.plan.recipe}\n\n{text}")
    write_text(paths["csv"], to_csv(_long_rows(result)))
    write_text(paths["tex"], to_latex(rows_of(result), f"Ablation of {result.plan.recipe}: {result.source}"))
    write_json(paths["json"], as_table(result))
    picture = draw(result)
    if picture is not None:
        paths["png"] = out / "ablation.png"
        write_bytes(paths["png"], picture)
    return list(paths.values())


def _long_rows(result: Result) -> list[dict[str, object]]:
    """A row for each variant and metric, numbers in full."""
    changes = {(title, change.metric): change for title, own in result.changes.items() for change in own}
    rows = []
    for variant in result.variants:
        for row in metric_rows(result.scores[variant.title], result.metrics):
            change = changes.get((variant.title, str(row["metric"])))
            told = {} if change is None else {
                "change": change.change, "change_low": change.low, "change_high": change.high,
                "better": change.better, "p": change.p, "verdict": change.verdict,
            }  # fmt: skip
            if told:
                ends = mean_change(result, variant.title, str(row["metric"]))
                told |= dict(zip(("mean_change_low", "mean_change", "mean_change_high"), ends, strict=True))
            rows.append({"variant": variant.title, **row, **told})
    return rows


def as_table(result: Result) -> dict[str, object]:
    """Everything, down to each item's numbers, as plain values."""
    return {
        "recipe": result.plan.recipe, "reference": result.plan.reference, "source": result.source,
        "legend": legend(result), "verdicts": verdicts(result),
        "variants": [
            {
                "title": variant.title, "losses": list(active(variant.config)) if variant.config else [],
                "config_hash": variant.config.digest() if variant.config else None, "problem": variant.problem,
                "failures": dict(result.scores[variant.title].failures),
            }
            for variant in result.variants
        ],
        "rows": _long_rows(result),
        "changes": {title: [dataclasses.asdict(c) for c in own] for title, own in result.changes.items()},
        "items": {
            title: {name: values for name, values in zip(own.names, _columns(own, result), strict=True)}
            for title, own in result.scores.items()
        },
    }  # fmt: skip


def _columns(scores: Scores, result: Result) -> list[dict[str, float]]:
    return [{m: float(scores.values[m][k]) for m in result.metrics} for k in range(len(scores))]
