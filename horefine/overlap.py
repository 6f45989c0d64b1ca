"""Stages of work beside one another: threads with bounded queues, results in the order of what they were made from.

Threads, not processes: what takes long here (torch and numpy on arrays, the numba kernels, Pillow's and zlib's codecs)
lets go of Python's lock, and images need not be copied between processes. Without workers everything here is a plain
loop, with the same results in the same order.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

__all__ = ["LOADING", "ahead", "beside"]

T = TypeVar("T")
R = TypeVar("R")

LOADING = threading.RLock()
"""Held while arrays are loaded. numpy reads their headers with Python's parser, and that of CPython 3.11 loses count of
its depth where two threads parse at once (cpython issue 106905): a sound file would be called damaged."""


def ahead(
    work: Callable[[T], R], tasks: Iterable[T], workers: int, depth: int | None = None
) -> Generator[R, None, None]:
    """``map(work, tasks)`` by ``workers`` threads: results in the tasks' order, each as soon as those before it are.

    Tasks are drawn in the caller's thread. When one fails, or drawing the next does (Ctrl-C), tasks that no thread has
    begun are dropped, those begun are finished and their results given, and then the error is raised.

    Args:
        workers: threads; 0 works in the caller's, one task at a time.
        depth: the most tasks that are drawn and whose results are not yet taken (default: twice the workers).
    """
    if workers <= 0:
        yield from map(work, tasks)
        return
    most, source = max(1, 2 * workers if depth is None else depth), iter(tasks)
    pool, waiting = ThreadPoolExecutor(workers, thread_name_prefix="horefine-ahead"), deque[Future[R]]()
    try:
        while True:
            while waiting and (len(waiting) >= most or waiting[0].done()):
                yield waiting.popleft().result()
            try:
                task = next(source)
            except StopIteration:
                break
            waiting.append(pool.submit(work, task))
        while waiting:
            yield waiting.popleft().result()
    except GeneratorExit:
        raise
    except BaseException:
        begun = [future for future in waiting if not future.cancel()]
        yield from (future.result() for future in begun if future.exception() is None)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def beside(source: Iterable[T], depth: int) -> Generator[T, None, None]:
    """What ``source`` gives, drawn by a thread of its own up to ``depth`` items ahead; its error comes in its place.

    Closing this iterator ends the thread when ``source`` has given what it is at, and closes ``source`` there.

    Args:
        depth: 0 draws in the caller's thread.
    """
    if depth <= 0:
        yield from source
        return
    found: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()
    thread = threading.Thread(target=_draw, args=(source, found, stop), name="horefine-beside", daemon=True)
    thread.start()
    try:
        while True:
            more, item = found.get()
            if more:
                yield item  # type: ignore[misc]
            elif item is None:
                return
            else:
                raise item  # type: ignore[misc]
    finally:
        stop.set()
        while thread.is_alive():  # it may be waiting for room
            with suppress(queue.Empty):
                found.get(timeout=0.02)


def _draw(
    source: Iterable[T], found: queue.Queue[tuple[bool, T | BaseException | None]], stop: threading.Event
) -> None:
    """The thread of :func:`beside`: puts ``(True, item)`` for each item, last ``(False, None or the error)``."""
    items = iter(source)
    try:
        for item in items:
            found.put((True, item))
            if stop.is_set():
                break
        found.put((False, None))
    except BaseException as error:  # Ctrl-C as well: it is raised again where the items are taken
        found.put((False, error))
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()
