"""A measured number with its interval and the number to reach; work that is timed in turns; work in a process apart."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from benchmarks._common import median_interval

__all__ = ["Figure", "Times", "apart", "figure", "in_turns", "peak_megabytes"]

Work = Callable[[], object]
T = TypeVar("T")


@dataclass(frozen=True)
class Figure:
    """One number of one machine."""

    part: str
    """What was measured: ``renderer``, ``iteration``, ..."""
    case: str
    value: float
    unit: str
    low: float = math.nan
    high: float = math.nan
    """Ends of the 95 % interval of the median; NaN where there was one measurement."""
    target: float | None = None
    more: bool = False
    """Whether more is better."""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the number to reach is reached; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.more else self.value <= self.target

    def row(self) -> dict[str, object]:
        """For a table."""
        sign = ">=" if self.more else "<="
        return {
            "": self.part, "case": self.case, "value": self.value, "unit": self.unit,
            "95 %": "" if math.isnan(self.low) else f"{self.low:.3g} .. {self.high:.3g}",
            "to reach": "" if self.target is None else f"{sign} {self.target:g}",
            "met": {None: "", True: "yes", False: "no"}[self.met],
        }  # fmt: skip


@dataclass(frozen=True)
class Times:
    """Seconds of one call, round by round; in a round all works took their turn."""

    wall: np.ndarray
    processor: np.ndarray
    """Of all threads of the process."""


def figure(
    part: str, case: str, values: Sequence[float] | np.ndarray, unit: str, target: float | None = None,
    more: bool = False, note: str = "",
) -> Figure:  # fmt: skip
    """The median of what the rounds gave, within its interval."""
    low, middle, high = median_interval(values)
    alone = len(values) < 2
    return Figure(part, case, middle, unit, math.nan if alone else low, math.nan if alone else high, target, more, note)


def in_turns(works: Mapping[str, Work], rounds: int, calls: int = 1) -> dict[str, Times]:
    """Every work ``calls`` times, one after the other, round after round; an unmeasured round comes first."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            wall, processor = time.perf_counter(), time.process_time()
            for _ in range(calls):
                work()
            spent = (time.perf_counter() - wall) / calls, (time.process_time() - processor) / calls
            if turn:
                found[name].append(spent)
    return {name: Times(*np.array(spent).T) for name, spent in found.items()}


def apart(work: Callable[..., T], *given: object) -> T:
    """What the function returns in a fresh process: its peak of memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1, _begin, (torch.get_num_threads(),)) as pool:
        return pool.apply(work, given)


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)


def peak_megabytes() -> float:
    """The most that this process has had; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
