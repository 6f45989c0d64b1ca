"""A word to whoever waits while kernels are compiled for the first time on a machine."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

__all__ = ["compiling"]

PATIENCE = 2.0
"""Seconds; what takes longer is compiled, what does not comes from numba's cache."""
_log = logging.getLogger("horefine")
_met: set[str] = set()


@contextlib.contextmanager
def compiling(what: str) -> Iterator[bool]:
    """For the first use of kernels: says in the log that ``what`` is being compiled if the block takes that long.

    Yields whether this is the first use in this process; only then is anything said.
    """
    first = what not in _met
    _met.add(what)
    timer = threading.Timer(PATIENCE, _log.info, [f"compiling {what}: once on this machine, may take a minute"])
    timer.daemon = True
    if first:
        timer.start()
    try:
        yield first
    finally:
        timer.cancel()
