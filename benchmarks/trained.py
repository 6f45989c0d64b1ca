"""How good the shipped networks are on held-out scenes: ``results/train_<task>.json``.

    python -m benchmarks.trained --data FOLDER            # training shards; their first scenes are never trained on
    python -m benchmarks.trained                          # makes 200 scenes of another seed first
    python -m benchmarks.trained --tasks gsdf c2f_sdf

Numbers carry their units in their names; ``extractors/measures.py`` says what each is.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks._common import write_result
from horefine.data.synthetic import write_training_shard
from horefine.extractors import load_default
from horefine.extractors.tasks import TASKS
from horefine.extractors.weights import default_path, read_weights


def measure(task: str, data: Path, scenes: int) -> dict[str, float]:
    """The shipped weights of ``task`` on the first ``scenes`` of ``data``."""
    weights = read_weights(default_path(task), task)
    runner = TASKS[task](weights.network, {}, data, held_out=0)
    runner.model = load_default(task)
    with torch.no_grad():
        return runner.measure(scenes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of shards; made when left out")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=77, help="of the scenes made")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as made:
        data = options.data
        if data is None:
            data = Path(made)
            write_training_shard(data / "shard_00000", start=0, count=options.scenes, seed=options.seed)
        where = f"seed {options.seed}" if options.data is None else "first scenes of the training folder"
        for task in options.tasks:
            validation = read_weights(default_path(task), task).validation
            found = measure(task, data, options.scenes)
            rows = [{"number": name, "held out": value} for name, value in found.items()]
            notes = [f"{options.scenes} scenes, {where}; trained on {validation.get('images')} images"]
            write_result(f"train_{task}", {"trained": validation, "held_out": found}, rows=rows, notes=notes)


if __name__ == "__main__":
    main()
