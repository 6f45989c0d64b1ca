"""How fast this machine is: renderer, iteration, solver, photographs, growth; against the numbers to reach.

    python -m benchmarks.machine               # make bench: some ten minutes on two cores
    python -m benchmarks.machine --quick       # does everything run? Numbers of a few rounds
    python -m benchmarks.machine --only renderer,growth

Times are wall times of a machine that does nothing else, medians within 95 % bootstrap intervals; ratios are of
processor time within a round in which both took their turn. Results: ``results/machine_NAME`` (JSON, Markdown, plots),
NAME from the processor, its cores and the GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from benchmarks import _machine_chart as charts
from benchmarks import _machine_parts as parts
from benchmarks._common import _processor, markdown_table, write_picture, write_result
from benchmarks._figures import Figure
from benchmarks._machine_growth import growing
from benchmarks._machine_parts import Plan
from horefine.processes import cores

__all__ = ["PARTS", "main", "measured", "name_of"]

PARTS: dict[str, Callable[[Plan], Iterator[Figure]]] = {
    "renderer": parts.rendering, "iteration": parts.iterating, "stages": parts.by_stage, "solver": parts.solving,
    "photographs": parts.photographs, "memory": parts.memory, "growth": growing, "gpu": parts.on_a_gpu,
}  # fmt: skip
"""By the names of ``--only``."""


def name_of(threads: int) -> str:
    """Of this machine, for files: processor, cores in use, GPU."""
    said = [_processor(), f"{threads} cores"]
    if torch.cuda.is_available():
        said.append(torch.cuda.get_device_name())
    text = re.sub(r"\([^)]*\)|@.*?(?=,|$)|\b(CPU|Processor)\b", "", ", ".join(said))
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def measured(names: Sequence[str], plan: Plan) -> tuple[list[Figure], list[str]]:
    """The figures of those parts, printed as they come, and what could not be measured."""
    figures: list[Figure] = []
    failed: list[str] = []
    for name in names:
        begin = time.perf_counter()
        try:
            for found in PARTS[name](plan):
                figures.append(found)
                print(f"{found.part:12s} {found.case:52s} {found.value:10.4g} {found.unit}", flush=True)
        except Exception as error:  # the other parts are worth having
            failed.append(f"{name}: {type(error).__name__}: {error}")
            print(f"{name} FAILED: {failed[-1]}", flush=True)
        print(f"-- {name}: {time.perf_counter() - begin:.0f} s", flush=True)
    return figures, failed


def write(figures: Sequence[Figure], failed: Sequence[str], plan: Plan, name: str) -> None:
    """JSON, Markdown and plots; the table of the numbers to reach comes first."""
    notes = [
        f"growth: {plan.threads} threads, one at batch 1; stages: processor time of one thread",
        f"load average at the end: {os.getloadavg()[0]:.1f} (wall times suffer from it, ratios little)",
        *(f"not measured: {reason}" for reason in failed),
        *(["a quick look: few rounds, short runs; not for comparisons"] if plan.quick else []),
    ]
    aims = [found.row() for found in figures if found.target is not None]
    others = [found.row() for found in figures if found.target is None]
    record = {"figures": [dataclasses.asdict(found) | {"met": found.met} for found in figures], "quick": plan.quick}
    write_result(name, record, rows=aims + others, notes=notes)
    for kind, draw in (("growth", charts.growth), ("stages", charts.stages), ("reached", charts.reached)):
        picture = draw(figures)
        if picture is not None:
            write_picture(f"{name}_{kind}", picture)
    if aims:
        met = sum(found.met is True for found in figures)
        print(f"\nnumbers to reach: {met} of {len(aims)} reached\n{markdown_table(aims)}")


def main(words: Sequence[str] | None = None) -> int:
    """Measures and writes; 1 where a part could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few rounds of everything")
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}; several: comma")
    parser.add_argument("--threads", type=int, default=min(2, cores()))
    parser.add_argument("--name", help="of the result files (default: machine_NAME)")
    options = parser.parse_args(words)
    names = options.only.split(",")
    if unknown := set(names) - set(PARTS):
        parser.error(f"--only {','.join(sorted(unknown))}: known are {', '.join(PARTS)}")
    plan = Plan(options.quick, options.threads)
    figures, failed = measured(names, plan)
    suffix = "_quick" if options.quick else ""
    write(figures, failed, plan, options.name or f"machine_{name_of(cores())}{suffix}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
