"""Ablations: one recipe with and without its losses, on the same first poses and maps, item by item."""

from horefine.ablate.inputs import Inputs, folder_inputs, suite_inputs
from horefine.ablate.plan import Plan, load_plan, make_plan
from horefine.ablate.report import to_text, write_report
from horefine.ablate.runner import Runner, shared_out
from horefine.ablate.study import chosen_metrics, run_study
from horefine.ablate.table import Result
from horefine.ablate.variants import GROUPS, Variant

__all__ = [
    "GROUPS", "Inputs", "Plan", "Result", "Runner", "Variant", "chosen_metrics", "folder_inputs", "load_plan",
    "make_plan", "run_study", "shared_out", "suite_inputs", "to_text", "write_report",
]  # fmt: skip
