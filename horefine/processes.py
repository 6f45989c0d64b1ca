"""How many processes are worth starting, and what tells one from all others."""

from __future__ import annotations

import functools
import hashlib
import os
import platform

__all__ = ["cores", "machine", "signature"]


def cores() -> int:
    """Processor cores that this process may use; of the whole machine where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def signature() -> str:
    """``NUMBER@MACHINE`` of this process, one of a kind among all that share a disk while it lives."""
    return f"{os.getpid()}@{machine()}"


@functools.cache
def machine() -> str:
    """Tells apart the machines (and containers) that share a disk: a process number means something on one only."""
    try:
        inside = os.readlink("/proc/self/ns/pid")
    except OSError:
        inside = ""
    return hashlib.sha256(f"{platform.node()} {inside}".encode()).hexdigest()[:8]
