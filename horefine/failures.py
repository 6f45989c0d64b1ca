"""What becomes of an image that fails: an outcome with a message, while the others of its batch go on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from horefine.errors import AssetError, ConfigError, InputError
from horefine.export import disk_full
from horefine.items import Item
from horefine.job import Job
from horefine.outcome import Outcome

__all__ = ["NetworkMissing", "each", "failure", "guarded", "network", "together"]

log = logging.getLogger(__name__)


class NetworkMissing(AssetError):
    """A learned part cannot be loaded: no image would fare better."""


@contextmanager
def network() -> Iterator[None]:
    """Around calls of networks: what cannot be loaded is said once, not for each image."""
    try:
        yield
    except AssetError as error:
        raise NetworkMissing(str(error)) from error


def failure(job: Job, name: str, error: Exception) -> Outcome:
    """The outcome of an image that failed; an error that ends all goes on up."""
    if _ends_all(job, error):
        raise error
    codes = {InputError: "input", AssetError: "asset", ConfigError: "config"}
    code = next((code for kind, code in codes.items() if isinstance(error, kind)), "internal")
    message = str(error) if code != "internal" else f"{type(error).__name__}: {error}"
    log.error("%s", message if message.startswith(name) else f"{name}: {message}")
    log.debug("%s", name, exc_info=error)
    return Outcome(name, "failed", code, message)


def guarded(job: Job, index: int, work: Callable[[], Any]) -> Any:
    """What ``work`` gives, or the image's failure."""
    try:
        return work()
    except Exception as error:
        return failure(job, job.dataset.names[index], error)


def each(
    job: Job, items: Sequence[Item], work: Callable[[Item], None]
) -> Any:  # a generator of outcomes that returns the items left
    """Does ``work`` on each item alone."""
    ready = []
    for item in items:
        found = guarded(job, item.index, lambda i=item: work(i))
        if isinstance(found, Outcome):
            yield found
        else:
            ready.append(item)
    return ready


def together(
    job: Job, items: list[Item], work: Callable[[list[Item]], Any], deliver: bool = False
) -> Any:  # a generator of outcomes that returns the items left
    """Does ``work`` on all items at once; when that fails, on each alone, so that only the bad ones drop out."""
    if not items:
        return []
    try:
        found = work(items)
    except Exception as error:
        if _ends_all(job, error):
            raise
        if len(items) == 1:
            yield failure(job, items[0].name, error)
            return []
        left = []
        for item in items:
            left += yield from together(job, [item], work, deliver)
        return left
    if deliver:
        yield from found
    return items


def _ends_all(job: Job, error: Exception) -> bool:
    """Whether an error concerns the whole run, not one image."""
    return job.strict or disk_full(error) or isinstance(error, (MemoryError, NetworkMissing))
