"""What a process that goes through thousands of images asks of the system's heap."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["keep_heap_flat"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""``mallopt``'s numbers for its options (glibc's ``malloc.h``)."""
LARGE = 256 * 2**10
"""Bytes of a block that goes back to the system as soon as it is freed."""
UNUSED = 4 * 2**20
"""Bytes that may lie free at the heap's end."""


def keep_heap_flat() -> bool:
    """Lets freed arrays go back to the system for the rest of this process; returns whether the system can do that.

    glibc raises the size above which it does so with the largest block freed so far, up to 32 MiB; smaller ones then
    leave holes in a heap that never shrinks, and memory creeps up over the first thousand images of a run
    (``python -m benchmarks.memory`` measures it, with ``--usual-heap`` without this). The environment variable
    ``HOREFINE_HEAP=usual`` leaves the heap as it is.
    """
    if not sys.platform.startswith("linux") or os.environ.get("HOREFINE_HEAP") == "usual":
        return False
    try:
        option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(option(_MMAP_THRESHOLD, LARGE)) and bool(option(_TRIM_THRESHOLD, UNUSED))
