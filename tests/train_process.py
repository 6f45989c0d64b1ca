"""One of the processes of ``test_two_processes_learn_one_network``: trains, then writes down what it ended with."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from horefine import train_loop
from horefine.extractors.shard_batches import ShardScenes
from horefine.train import train


def main() -> None:
    data, out, *overrides = sys.argv[1:]
    loops: list[train_loop.Loop] = []
    scenes: list[int] = []
    begin, choose = train_loop.Loop.__init__, ShardScenes.choose

    def begun(self: train_loop.Loop, *args, **kwargs) -> None:
        loops.append(self)
        begin(self, *args, **kwargs)

    def chosen(self: ShardScenes, count: int, generator: torch.Generator):
        found = choose(self, count, generator)
        scenes.extend(found.tolist())
        return found

    train_loop.Loop.__init__, ShardScenes.choose = begun, chosen
    train("detector", data=data, out=out, overrides=overrides)
    (loop,) = loops
    assert loop.devices.count == 2
    ended = {"average": loop.average, "model": loop.model.state_dict(), "scenes": scenes}
    torch.save(ended, Path(out) / f"process_{loop.devices.number}.pt")


if __name__ == "__main__":
    main()
