"""Threads over items by a pool of our own, and torch's threads kept out of small work.

OpenMP's threads (torch's, numba's) spin while they wait, which costs a hundredfold on a machine that is busy, and
tensors of one image lose more to being shared out than they gain. So refinement on a CPU gives torch one thread, and
shares out whole images instead, by as many threads as torch was allowed (``torch.set_num_threads``).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import torch

__all__ = ["allowed", "one_torch_thread", "over_items"]

PARALLEL_FROM = 4
"""Items in a call from which threads pay."""
_allowed: ContextVar[int | None] = ContextVar("allowed", default=None)
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def allowed() -> int:
    """How many threads :func:`over_items` may use: torch's number, that outside :func:`one_torch_thread` within it."""
    found = _allowed.get()
    return torch.get_num_threads() if found is None else found


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """Within, torch's own operations take one thread; :func:`over_items` keeps those that torch had."""
    before, token = torch.get_num_threads(), _allowed.set(allowed())
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _allowed.reset(token)


def over_items(work: Callable[[int, int], None], count: int) -> None:
    """Runs ``work(first, last)`` over all items, on several threads when there are enough items.

    One compiled kernel in any number of threads, so that an item's result is the same in any batch.
    """
    threads = min(allowed(), count // 2)
    if count < PARALLEL_FROM or threads < 2:
        work(0, count)
        return
    bounds = [count * part // threads for part in range(threads + 1)]
    others = [_pool(threads).submit(work, bounds[i], bounds[i + 1]) for i in range(1, threads)]
    work(bounds[0], bounds[1])
    for other in others:
        other.result()


def _pool(threads: int) -> ThreadPoolExecutor:
    """Keyed by process: a pool does not survive a fork."""
    key = (os.getpid(), threads)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(threads - 1, thread_name_prefix="horefine-items")
    return _pools[key]
