"""What each loss is worth: a recipe without it, on the scenes of a benchmark suite (Song et al. 2022, table 3).

    python -m benchmarks.ablations                                    # song2022 without each group of losses
    python -m benchmarks.ablations --drop table3                      # the paper's rows: each loss alone, in pairs
    python -m benchmarks.ablations --recipe default --maps c01

The same as ``horefine ablate --suite standard``, with the command, the commit and the machine beside the numbers. A run
that was stopped goes on where it was (``--work``).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks._common import command, commit, machine, write_picture, write_result
from horefine.ablate import Runner, chosen_metrics, make_plan, run_study, suite_inputs, to_text
from horefine.ablate.chart import draw
from horefine.ablate.report import as_table
from horefine.export import write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="song2022")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c")
    parser.add_argument("--drop", default="each", help="each, each-loss, pairs, table3, or names (comma)")
    parser.add_argument("--suite", default="standard")
    parser.add_argument("--maps", default="n02")
    parser.add_argument("--metrics", help="columns (default: those of the paper's table 3 and contact)")
    parser.add_argument("--sim", action="store_true", help="also simulation displacement (seconds for each pose)")
    parser.add_argument("--limit", type=int, help="only the first scenes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, help="where what is finished is kept (default: out/NAME)")
    parser.add_argument("--out", help="name of the result (default: ablation_RECIPE, with the drop unless it is each)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    usual = f"ablation_{Path(options.recipe).stem}" + ("" if options.drop == "each" else f"_{options.drop}")
    name = options.out or usual
    plan = make_plan(options.recipe, options.set, options.drop)
    inputs = suite_inputs(options.suite, options.maps, plan.configs, options.limit)
    metrics = chosen_metrics(options.metrics, inputs, simulate=options.sim)
    runner = Runner(inputs, options.work or Path("out") / name, metrics, batch_size=10)
    result = run_study(plan, runner)
    drawn = draw(result)
    if drawn is not None:
        write_picture(name, drawn)
    told = {key: str(value) for key, value in vars(options).items()}
    path = write_result(name, {"options": told, **as_table(result)})
    about = {"command": command(), "commit": commit(), "machine": machine()}
    lines = [f"- picture: {name}.png"] if drawn else []
    lines += [
        "- seconds: of refinement, on a machine that others use too",
        *(f"- {k}: `{v}`" for k, v in about.items()),
    ]
    write_text(path.with_suffix(".md"), f"# {name}\n\n{to_text(result)}" + "\n".join(lines) + "\n")
    print(to_text(result))


if __name__ == "__main__":
    main()
