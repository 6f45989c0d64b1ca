"""What every benchmark shares: the machine's name, an honest interval, and results as JSON and as a Markdown table.

A benchmark is ``benchmarks/NAME.py``. ``.venv/bin/python -m benchmarks.NAME`` prints its numbers and writes them to
``benchmarks/results`` with the command, the commit and the machine.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from horefine.evaluate.intervals import interval
from horefine.evaluate.tables import to_markdown as markdown_table
from horefine.export import write_bytes, write_text
from horefine.processes import cores

__all__ = [
    "RESULTS", "commit", "machine", "markdown_table", "median_interval", "seconds", "write_picture", "write_result",
]  # fmt: skip

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def machine() -> str:
    """Processor, cores in use, threads, GPU and the versions that matter, in one line."""
    parts = [_processor(), f"{cores()} cores", f"{torch.get_num_threads()} torch thread(s)"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    return ", ".join([*parts, platform.system(), versions])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def commit() -> str:
    """Short hash of the checkout, with ``+`` when tracked files differ from it; ``unknown`` outside git."""
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or "unknown"


def median_interval(
    values: Sequence[float] | np.ndarray, *, level: float = 0.95, rounds: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """The median within its bootstrap percentile interval: (low, median, high). NaN values are left out."""
    return interval(values, "median", level, rounds, seed)


def seconds(work: Callable[[], object], *, repeats: int = 20, warm: int = 3) -> tuple[float, float, float]:
    """Wall time of one call: (median, 10 % and 90 % quantile) of ``repeats``, after ``warm`` unmeasured ones."""
    for _ in range(warm):
        work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times)), float(np.quantile(times, 0.1)), float(np.quantile(times, 0.9))


def write_result(
    name: str,
    record: Mapping[str, object] | None = None,
    *,
    rows: Sequence[Mapping[str, object]] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Writes ``results/NAME.json`` and returns its path; prints ``rows`` as a table and writes them to ``NAME.md``.

    ``record``: what the JSON holds beside rows, notes, command, commit and machine. ``notes``: what a reader must know.
    Each file appears whole or not at all.
    """
    about = {"command": command(), "commit": commit(), "machine": machine()}
    path = RESULTS / f"{name}.json"
    whole = {"name": name, **about, "notes": list(notes), "rows": list(rows), **(record or {})}
    write_text(path, json.dumps(whole, indent=1, default=_plain) + "\n")
    if rows:
        table = markdown_table(rows)
        lines = [f"# {name}", "", table, "", *[f"- {note}" for note in notes]]
        lines += [f"- {key}: `{value}`" for key, value in about.items()]
        write_text(path.with_suffix(".md"), "\n".join(lines) + "\n")
        print(table)
    return path


def write_picture(name: str, data: bytes) -> Path:
    """Writes the bytes of a PNG to ``results/NAME.png``, whole or not at all, and returns its path."""
    path = RESULTS / f"{name}.png"
    write_bytes(path, data)
    return path


def command() -> str:
    """How this process was started, as someone else would type it in the repository's folder."""
    script = Path(sys.argv[0]).resolve()
    if script.is_relative_to(ROOT):
        module = ".".join(script.relative_to(ROOT).with_suffix("").parts)
        return " ".join(["python -m", module, *sys.argv[1:]])
    return " ".join(["python", script.name, *sys.argv[1:]])


def _plain(value: object) -> object:
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} does not belong in a results file")
