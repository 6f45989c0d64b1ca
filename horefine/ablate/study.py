"""The whole ablation: every variant on every item."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

from horefine.ablate.inputs import Inputs
from horefine.ablate.plan import Plan
from horefine.ablate.runner import Runner
from horefine.ablate.table import Result, trouble
from horefine.ablate.variants import Variant, without
from horefine.config import Config
from horefine.evaluate import chosen
from horefine.evaluate.catalogue import IMAGE, SIMULATION
from horefine.objective import usable

__all__ = ["METRICS_SHOWN", "chosen_metrics", "effective", "run_study"]

log = logging.getLogger(__name__)

METRICS_SHOWN = ("HE_mm", "OE_mm", "pd_mm", "siv_cm3", "contact_regions")
"""The columns of the paper's table 3 (simulation displacement: when asked for) and contact."""


def chosen_metrics(names: str | None, inputs: Inputs, *, simulate: bool = False) -> tuple[str, ...]:
    """The columns: those of the paper's table 3 and contact, or the named ones (``horefine.evaluate.chosen``).

    Without any truth there are no errors to show: how well the maps are explained stands in for them.

    Args:
        simulate: Also simulation displacement (``horefine[sim]``; a second or two for each pose).

    Raises:
        ConfigError: no such metric. AssetError: the simulator is not installed.
    """
    usual = METRICS_SHOWN if inputs.with_truth else (*METRICS_SHOWN, *IMAGE)
    found = chosen([*(usual if names is None else chosen(names)), *(SIMULATION if simulate else ())])
    if set(found) & set(SIMULATION):
        from horefine.simulation import SimulationSettings
        from horefine.simulation.engines import needed

        needed(SimulationSettings())
    return found


def run_study(plan: Plan, runner: Runner) -> Result:
    """Runs what earlier runs left undone, variant by variant.

    A variant that cannot be used, or fails on every item, is a row that says why; the others go on.
    """
    plan, notes = effective(plan, runner.inputs)
    scores, seconds = {}, {}
    for variant in plan.variants:
        scores[variant.title], seconds[variant.title] = runner.scores(variant)
    result = Result(plan, scores, seconds, runner.inputs.source, tuple(notes), runner.inputs.failures)
    for line in (trouble(result, variant) for variant in plan.variants):
        if line:
            log.error("%s", line)
    return result


def effective(plan: Plan, inputs: Inputs) -> tuple[Plan, list[str]]:
    """The plan without losses that can do nothing here (optional ones whose features nobody has), and a line on them.

    Variants that differ from the reference in nothing else are left out: they would repeat it.
    """
    kept: list[Variant] = []
    idle: dict[str, None] = {}
    for variant in plan.variants:
        if variant.config is None:
            kept.append(variant)
            continue
        names = _idle(variant.config, inputs)
        idle |= dict.fromkeys(names)
        kept.append(dataclasses.replace(variant, config=without(variant.config, names)) if names else variant)
    base = next(variant.config for variant in kept if variant.title == plan.reference)
    same = [v.title for v in kept if v.title != plan.reference and base is not None and _equal(v.config, base)]
    notes = []
    if idle:
        notes.append(f"{', '.join(idle)}: off, as no image has the features for it")
    if same:
        notes.append(f"left out, as the same as {plan.reference}: {', '.join(same)}")
    variants = tuple(variant for variant in kept if variant.title not in same)
    return dataclasses.replace(plan, variants=variants), notes


def _equal(one: Config | None, other: Config) -> bool:
    """Whether two recipes do the same: losses that are off may be written or not."""
    return one is not None and without(one, ()).digest() == without(other, ()).digest()


def _idle(config: Config, inputs: Inputs) -> Sequence[str]:
    """Active losses that no item has the features for."""
    terms = config.terms()
    found = inputs.complete is not None and "contact" in config.features
    waiting = {name for name, term in terms.items() if term.optional and not (found and "contact" in term.features)}
    for start in inputs.starts.values():
        waiting -= set(usable(terms, start.features))
    return sorted(waiting)
