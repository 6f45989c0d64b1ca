"""The whole ablation: every variant on every item."""

from __future__ import annotations

import logging

from horefine.ablate.plan import Plan
from horefine.ablate.runner import Runner
from horefine.ablate.table import Result
from horefine.evaluate import chosen

__all__ = ["METRICS_SHOWN", "chosen_metrics", "run_study"]

log = logging.getLogger(__name__)

METRICS_SHOWN = ("HE_mm", "OE_mm", "pd_mm", "siv_cm3", "contact_regions")
"""The columns of the paper's table 3 (simulation displacement: when asked for) and contact."""


def chosen_metrics(names: str | None) -> tuple[str, ...]:
    """The columns: those of the paper's table 3 and contact, or the named ones (``horefine.evaluate.chosen``).

    Raises:
        ConfigError: no such metric.
    """
    return METRICS_SHOWN if names is None else chosen(names)


def run_study(plan: Plan, runner: Runner) -> Result:
    """Runs what earlier runs left undone, variant by variant.

    A variant that cannot be used, or fails on every item, is a row that says why; the others go on.
    """
    scores, seconds = {}, {}
    for variant in plan.variants:
        if variant.problem:
            log.error("%s: %s", variant.title, variant.problem)
        scores[variant.title], seconds[variant.title] = runner.scores(variant)
    return Result(plan, scores, seconds, runner.inputs.source)
