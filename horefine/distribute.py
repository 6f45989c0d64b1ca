"""The images of a run refined by the workers of a Ray cluster (``horefine run --engine ray``).

A worker refines one batch after another as :mod:`horefine.pipeline` does here, and writes the files itself; batches are
those of the local run, so that results are the same to the last bit. The batch of a worker that died is refined again
as a whole. When that fails too its images are tried one by one, and one that still ends its worker is an outcome
``failed`` (code ``worker``).
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Generator, Iterable, Sequence

from horefine import pipeline
from horefine.cluster import Check, Engine, Lost, Workers, open_workers
from horefine.errors import ConfigError
from horefine.export import clean_leftovers
from horefine.heap import keep_heap_flat
from horefine.job import Job, finished
from horefine.outcome import Outcome

__all__ = ["run"]

log = logging.getLogger(__name__)

Indices = tuple[int, ...]


def run(job: Job, make: Callable[[], Job], engine: Engine) -> Generator[Outcome, None, None]:
    """As :func:`horefine.pipeline.run`, by workers; outcomes in the order in which images are finished.

    Args:
        job: What is to be done; its networks are not used here.
        make: Makes the same job in a worker, on the device there. It is pickled.

    Raises:
        AssetError: Ray is not installed. ConfigError: no such cluster; a clip.
        NetworkMissing, DiskFull, KeyboardInterrupt: as there.
    """
    if job.clip is not None:
        raise ConfigError("--engine ray: a clip is refined as a whole, by one process; leave out --engine")
    with pipeline.tidy(job):
        todo = []
        for index in job.indices:
            job.check()
            done = finished(job, index)
            if done is None:
                todo.append(index)
            else:
                yield done
        batches = dataclasses.replace(job, chosen=tuple(todo)).batches
        if not batches:
            return
        with open_workers(engine, functools.partial(_begin, make), job.check) as workers:
            log.info("%d batches for %d workers", len(batches), min(workers.count, len(batches)))
            try:
                left = yield from _refined(workers, batches)
                lost = yield from _refined(workers, [(index,) for batch in left for index in batch])
            finally:
                clean_leftovers(job.out / "items", workers.dead)
        for batch, why in lost.items():
            yield from (_given_up(job.dataset.names[index], why) for index in batch)


def _begin(make: Callable[[], Job], check: Check) -> Callable[[Indices], list[Outcome]]:
    """In a worker: what refines a batch. It keeps the job, and with it the networks."""
    keep_heap_flat()
    job = dataclasses.replace(make(), check=check, overwrite=True)  # what is finished was left out before
    return lambda batch: list(pipeline.outcomes(dataclasses.replace(job, chosen=batch)))


def _refined(workers: Workers, batches: Sequence[Indices]) -> Generator[Outcome, None, dict[Indices, Lost]]:
    """The outcomes of all batches but those that no worker survived, which are returned."""
    lost: dict[Indices, Lost] = {}
    for place, found in workers.map(batches):
        if isinstance(found, Lost):
            lost[batches[place]] = found
        else:
            outcomes: Iterable[Outcome] = found
            yield from outcomes
    return lost


def _given_up(name: str, lost: Lost) -> Outcome:
    why = f"{name}: every worker that refined it died, {lost.tries} times alone; the last one: {lost.why}"
    log.error("%s", why)
    return Outcome(name, "failed", "worker", why)
