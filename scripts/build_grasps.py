"""Writes ``horefine/assets/grasps.npz``: grasps of the embedded hand on the embedded objects, so that nobody waits.

    python scripts/build_grasps.py

Blocks that the user's cache already has are taken from there. Run it again whenever the embedded hand, an embedded
object or the grasp generator changes (``tests/test_synthetic.py`` says so).
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from horefine.data.bank import VERSION, pack
from horefine.data.scenes import HELD_OUT, SceneSource

NUMBERS = (0, 1, HELD_OUT)
"""Blocks that are shipped: the first scenes of the training seed and of all others; more are made when asked for."""
TARGET = Path(__file__).parents[1] / "horefine" / "assets" / "grasps.npz"


def main() -> None:
    """Makes or collects the blocks."""
    torch.set_num_threads(1)
    source = SceneSource(0)
    blocks = {}
    for number in NUMBERS:
        for which, name in enumerate(source.names):
            began = time.perf_counter()
            block = source.store.block(which, number)
            blocks[source.store.name(which, number)] = block
            print(f"block {number} {name}: {len(block)} grasps, {time.perf_counter() - began:.1f} s", flush=True)
    pack(TARGET, blocks)
    total = sum(len(block) for block in blocks.values())
    print(f"{TARGET}: {total} grasps in {len(blocks)} blocks (version {VERSION}), {TARGET.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
