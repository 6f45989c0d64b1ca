"""Memory that goes back to the system when it is freed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from horefine import heap
from horefine.cli import app

SCRIPT = """
import re
import numpy as np
from horefine.heap import keep_heap_flat
kept = keep_heap_flat()

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

np.ones(20 * 2**17)  # 20 MiB: from now on the usual heap holds whatever is smaller
before = resident()
large = [(np.ones(2**17), np.ones(64)) for _ in range(200)]
most = resident()
small = [one for _, one in large]  # between the large ones: the heap's end cannot move
del large
print(kept, most - before, resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
@pytest.mark.parametrize("usual", [False, True])
def test_what_is_freed_goes_back_to_the_system(usual: bool) -> None:
    environment = {**os.environ, "HOREFINE_HEAP": "usual" if usual else ""}
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, text=True, capture_output=True, check=True)
    kept, most, left = run.stdout.split()
    if kept == "False" and not usual:
        pytest.skip("another C library")
    assert kept == str(not usual) and float(most) > 190
    assert float(left) > 150 if usual else float(left) < 20


def test_the_command_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(heap, "keep_heap_flat", lambda: asked.append(True))
    assert CliRunner().invoke(app, ["run", str(tmp_path / "nothing")]).exit_code == 2 and asked == [True]
