"""Engines write to the process's standard output from C; a command's own output must stay clean."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

__all__ = ["quiet"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Sends what native code writes to standard output into nothing while the block runs (the whole process's)."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # no standard output: nothing to keep clean
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
