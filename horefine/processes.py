"""How many processes are worth starting."""

from __future__ import annotations

import os

__all__ = ["cores"]


def cores() -> int:
    """Processor cores that this process may use; of the whole machine where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
