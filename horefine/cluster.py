"""Work shared out among the worker processes of a Ray cluster, on one machine or many.

Ray's actors do it: each is a process that makes what it needs once (networks, a hand model) and then gets one task
after another. Ray Data would spread rows as well, but begins a task that kills its worker again and again without end,
and wants pyarrow. What is ours is what becomes of the task of a worker that died: a new worker begins it again, a given
number of times (:class:`Lost` after that).
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from horefine.errors import AssetError, ConfigError
from horefine.processes import cores, signature

__all__ = ["Engine", "Lost", "Workers", "all_results", "connected", "load_ray", "open_workers"]

log = logging.getLogger(__name__)

OBJECTS = 200 * 2**20
"""Bytes of Ray's object store where we start Ray: tasks and results are small, pictures travel as files."""
TRIES = 2
"""How often a task is begun before it is :class:`Lost`."""
PATIENCE = 5.0
"""Seconds that workers have to leave in order."""

Check = Callable[[], None]
Work = Callable[[Any], Any]


@dataclass(frozen=True)
class Engine:
    """Which cluster, and how much of it."""

    address: str | None = None
    """``auto`` or HOST:PORT of one that runs; None: Ray is started on this machine, and ended after the work."""
    workers: int | None = None
    """Processes (default: one for each core, or for each GPU share, of the cluster)."""
    gpus: float = 0.0
    """For each worker; 0.5 lets two share one."""
    cpus: int = 1
    """For each worker: its threads."""


@dataclass(frozen=True)
class Lost:
    """In the place of a result: every worker that began the task died."""

    tries: int
    why: str
    """What Ray says of the last one."""


class _Worker:
    """What runs in a worker process."""

    def __init__(self, make: bytes, place: str, level: int) -> None:
        self.make, self.place, self.level = make, place, level
        self.work: Work | None = None

    def who(self) -> str:
        return signature()

    def do(self, task: Any) -> tuple[Any, list[tuple[int, str]]]:
        """The result of one task, and what was logged meanwhile: level and message."""
        with _heard(self.level) as said:
            if self.work is None:
                self.work = self._begin()
            return self.work(task), said

    def _begin(self) -> Work:
        try:
            os.chdir(self.place)  # paths on the command line are relative to it
        except OSError as error:
            raise AssetError(
                f"--engine ray: {self.place} is not there on {os.uname().nodename} ({error.strerror}): "
                "every machine of the cluster must see the same files under the same paths"
            ) from None
        return pickle.loads(self.make)(_cancelled)


def _cancelled() -> None:
    """Raises KeyboardInterrupt in a worker whose task nobody wants any more."""
    import ray

    if getattr(ray.get_runtime_context(), "is_canceled", lambda: False)():
        raise KeyboardInterrupt


@contextmanager
def _heard(level: int) -> Iterator[list[tuple[int, str]]]:
    """Collects what horefine logs, for the process that shows it."""
    said: list[tuple[int, str]] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append((record.levelno, record.getMessage()))

    logger, handler = logging.getLogger("horefine"), Collector()
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield said
    finally:
        logger.removeHandler(handler)


@dataclass
class Workers:
    """The workers of a cluster, from :func:`open_workers`."""

    hire: Callable[[], Any]
    """Starts another worker."""
    count: int
    check: Check
    idle: list[Any] = field(default_factory=list)
    """Workers without a task."""
    dead: set[str] = field(default_factory=set)
    """Processes (``processes.signature``) that died or were ended while they were at a task."""
    names: dict[Any, Any] = field(default_factory=dict)
    """What each worker will answer to who it is."""

    def map(self, tasks: Iterable[Any], tries: int = TRIES) -> Iterator[tuple[int, Any]]:
        """Place among the tasks and result of each, as they are finished; :class:`Lost` where no worker survived it.

        Raises:
            Exception: what a task raised; the others are dropped. KeyboardInterrupt: from ``check``.
        """
        import ray

        waiting = deque((place, task, 1) for place, task in enumerate(tasks))
        running: dict[Any, tuple[Any, int, Any, int]] = {}
        try:
            while waiting or running:
                self.check()
                while waiting and (self.idle or len(running) < self.count):
                    worker = self.idle.pop() if self.idle else self._start()
                    place, task, number = waiting.popleft()
                    running[worker.do.remote(task)] = worker, place, task, number
                for done in ray.wait(list(running), timeout=0.2)[0]:
                    worker, place, task, number = running.pop(done)
                    found = _result(done, number)
                    if not isinstance(found, Lost):
                        self.idle.append(worker)
                        yield place, found
                        continue
                    self._end(worker)  # it may only be out of reach: no two shall do the same
                    if number < tries:
                        waiting.appendleft((place, task, number + 1))
                    else:
                        yield place, found
        finally:
            self._stop(running)

    def _start(self) -> Any:
        worker = self.hire()
        self.names[worker] = worker.who.remote()
        return worker

    def _end(self, worker: Any) -> None:
        """Ends one that is at a task, and notes who it was; one that never said so has begun nothing."""
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        ray.kill(worker)
        with suppress(GetTimeoutError, RayError):
            self.dead.add(ray.get(self.names.pop(worker), timeout=1.0))

    def _stop(self, running: dict[Any, tuple[Any, int, Any, int]]) -> None:
        """Asks workers to leave their tasks, so that nothing half-written stays, and ends those that do not."""
        import ray

        if not running:
            return
        for task in running:
            ray.cancel(task)
        _, busy = ray.wait(list(running), num_returns=len(running), timeout=PATIENCE)
        for task in busy:
            self._end(running[task][0])


def _result(done: Any, number: int) -> Any:
    """What a finished task gave; what it raised is raised here."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        found, said = ray.get(done)
    except RayTaskError as error:
        cause = getattr(error, "cause", None)
        raise (cause if isinstance(cause, Exception) else error) from None
    except RayError as error:
        why = _in_short(str(error))
        log.warning("a worker died (%s): what it was doing is done again", why)
        return Lost(number, why)
    for level, message in said:
        log.log(level, "%s", message)
    return found


def _in_short(text: str) -> str:
    """Who died where and why, of what Ray says in many lines."""
    named = re.findall(r"^\s*(pid|ip): (.*)$", text, re.MULTILINE)
    detail = re.search(r"Worker exit detail: (.*?)(?: Some common causes|$)", text, re.DOTALL)
    last = detail[1] if detail else text.strip().splitlines()[-1] if text.strip() else "no reason given"
    return ", ".join([*(f"{name} {value}" for name, value in named), " ".join(last.split())])


@contextmanager
def open_workers(engine: Engine, make: Callable[[Check], Work], check: Check = lambda: None) -> Iterator[Workers]:
    """Workers, started as they are needed, in the cluster of :func:`connected`.

    Args:
        make: Called once in each worker with what raises KeyboardInterrupt there when the task is to be left; returns
            what does a task. It, tasks and results are pickled (by cloudpickle).
        check: Called now and then while tasks run; raises KeyboardInterrupt when all shall end.

    Raises:
        AssetError, ConfigError: as there; also where the cluster has not what a worker needs.
    """
    with connected(engine) as ray:
        kind = ray.remote(_Worker).options(num_cpus=engine.cpus, num_gpus=engine.gpus, max_restarts=0)
        packed, level = ray.cloudpickle.dumps(make), logging.getLogger("horefine").getEffectiveLevel()
        workers = Workers(lambda: kind.remote(packed, os.getcwd(), level), _count(ray, engine), check)
        try:
            yield workers
        finally:
            for worker in workers.idle:
                ray.kill(worker)


def all_results(engine: Engine, make: Callable[[Check], Work], tasks: Sequence[Any]) -> list[Any]:
    """The result of every task, in their order.

    Raises:
        RuntimeError: one ended every worker that began it. AssetError, ConfigError: as :func:`open_workers`.
    """
    with open_workers(engine, make) as workers:
        found = dict(workers.map(tasks))
    for place, lost in found.items():
        if isinstance(lost, Lost):
            raise RuntimeError(f"{lost.tries} workers died of the same task, number {place}; the last one: {lost.why}")
    return [found[place] for place in range(len(tasks))]


@contextmanager
def connected(engine: Engine) -> Iterator[Any]:
    """The package, connected to the engine's cluster; one that this process is connected to already is kept.

    Raises:
        AssetError: Ray is not installed. ConfigError: no such cluster.
    """
    ray = load_ray()
    if ray.is_initialized():
        yield ray
        return
    _connect(ray, engine)
    try:
        yield ray
    finally:
        ray.shutdown()


def load_ray() -> Any:
    """The package.

    Raises:
        AssetError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when ray is imported; nothing is sent home
    try:
        import ray
    except ImportError as error:
        raise AssetError(f"--engine ray: Ray is not installed ({error}): pip install 'horefine[ray]'") from None
    return ray


def _connect(ray: Any, engine: Engine) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if engine.address is None:
        share = engine.cpus * (engine.workers or 0)
        ray.init(  # "local": whatever RAY_ADDRESS says
            "local", num_cpus=max(share, cores()), include_dashboard=False, object_store_memory=OBJECTS, **quiet
        )
        return
    try:
        _reach(engine.address)  # Ray would try for minutes
        ray.init(address=engine.address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"--address {engine.address}: no Ray cluster answers ({said}); start one with 'ray start --head', or leave "
            "out --address to use this machine alone"
        ) from None


def _reach(address: str) -> None:
    """Raises OSError where nobody listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _count(ray: Any, engine: Engine) -> int:
    """How many workers: as asked for, else as many as the cluster can hold at once.

    Raises:
        ConfigError: it cannot hold one, and will not grow.
    """
    has = ray.cluster_resources()
    shares: Sequence[tuple[float, str]] = ((engine.cpus, "CPU"), (engine.gpus, "GPU"))
    fit = min(int(has.get(kind, 0.0) / share + 1e-6) for share, kind in shares if share)
    if fit == 0:
        told = ", ".join(f"{share:g} {kind}" for share, kind in shares if share)
        have = ", ".join(f"{has.get(kind, 0.0):g} {kind}" for _, kind in shares)
        raise ConfigError(f"--engine ray: a worker needs {told}, the cluster has {have}; change --gpus-per-worker")
    return min(engine.workers or fit, fit)
