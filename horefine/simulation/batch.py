"""Many grasps in parallel processes. An engine that dies takes one item with it, which is reported by name."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from horefine.errors import InputError
from horefine.processes import cores
from horefine.simulation.displacement import Grasp, simulate
from horefine.simulation.engines import needed
from horefine.simulation.settings import Displacement, SimulationSettings

__all__ = ["Displacements", "simulate_all"]


@dataclass(frozen=True)
class Displacements:
    """What simulating N grasps found, in their order."""

    names: tuple[str, ...]
    results: tuple[Displacement | None, ...]
    """None where the item failed."""
    failures: Mapping[str, str]
    """Item -> why, in words."""
    settings: SimulationSettings

    @property
    def millimetres(self) -> Float[np.ndarray, "N"]:
        """SD of each item; NaN where it failed."""
        return np.array([np.nan if result is None else result.millimetres for result in self.results], np.float64)


def simulate_all(
    grasps: Sequence[Grasp],
    settings: SimulationSettings | None = None,
    *,
    workers: int | None = None,
    limit: float = 120.0,
    done: Callable[[int], object] | None = None,
) -> Displacements:
    """SD of many grasps; the numbers are those of :func:`simulate`, whatever the workers.

    Args:
        workers: Processes (started anew, "spawn"); as many as there are processors when left out; 0: this process,
            where a crash of the engine is everybody's.
        limit: Seconds for one item, after which its process is ended and the item fails (not with ``workers=0``).
        done: Called with the number of finished items after each.

    Raises:
        AssetError: the engine is not installed.
        InputError: two grasps of one name.
        RuntimeError: worker processes cannot be started.
    """
    settings = settings or SimulationSettings()
    needed(settings)
    names = tuple(grasp.name for grasp in grasps)
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InputError(f"simulation: {twice[0]!r} is the name of more than one grasp; give each its own")
    if workers is None:
        workers = cores()
    answers: dict[int, Displacement | str] = {}

    def keep(index: int, answer: Displacement | str) -> None:
        answers[index] = answer
        if done is not None:
            done(len(answers))

    if workers == 0:
        for index, grasp in enumerate(grasps):
            keep(index, _answer(grasp, settings))
    elif grasps:
        _Workers(grasps, settings, limit, keep).run(min(workers, len(grasps)))
    ordered = [answers[index] for index in range(len(grasps))]
    return Displacements(
        names,
        tuple(None if isinstance(answer, str) else answer for answer in ordered),
        {name: answer for name, answer in zip(names, ordered, strict=True) if isinstance(answer, str)},
        settings,
    )


def _answer(grasp: Grasp, settings: SimulationSettings) -> Displacement | str:
    try:
        return simulate(grasp, settings)
    except InputError as error:
        return str(error)
    except Exception as error:  # whatever an engine has to say: that item fails, the others go on
        return f"{type(error).__name__}: {error}"


def _serve(connection: Connection, settings: SimulationSettings) -> None:
    """A worker: grasps come, answers go, until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(1)  # the workers share the processors
    connection.send("ready")
    while True:
        try:
            index, grasp = connection.recv()
        except EOFError:
            return
        connection.send((index, _answer(grasp, settings)))


class _Workers:
    """Processes that simulate one grasp at a time each; one that dies or takes too long is replaced."""

    def __init__(
        self,
        grasps: Sequence[Grasp],
        settings: SimulationSettings,
        limit: float,
        keep: Callable[[int, Displacement | str], None],
    ) -> None:
        self.grasps, self.settings, self.limit, self.keep = grasps, settings, limit, keep
        self.context = multiprocessing.get_context("spawn")
        self.waiting = list(range(len(grasps)))[::-1]
        self.busy: dict[Connection, tuple[Any, int | None, float]] = {}
        """Connection -> process, the item it works on (None: it is starting), when that is overdue."""

    def run(self, count: int) -> None:
        try:
            for _ in range(count):
                self._start()
            while self.busy:
                soonest = min(overdue for _, _, overdue in self.busy.values())
                ready = wait(list(self.busy), timeout=max(0.0, soonest - time.monotonic()))
                for connection in ready:
                    self._read(connection)  # type: ignore[arg-type]
                for connection in [c for c, (_, _, overdue) in self.busy.items() if overdue < time.monotonic()]:
                    self._lost(connection, f"took longer than {self.limit:g} s and was stopped")
        finally:
            for connection, (process, _, _) in self.busy.items():
                process.kill()
                connection.close()

    def _start(self) -> None:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(theirs, self.settings), daemon=True)
        process.start()
        theirs.close()  # so that its end is seen here when the process dies
        self.busy[ours] = process, None, time.monotonic() + 300

    def _read(self, connection: Connection) -> None:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            self._lost(connection, "")
            return
        process, item, _ = self.busy[connection]
        if item is not None:
            self.keep(*message)
        if not self.waiting:
            del self.busy[connection]
            connection.close()
            process.join()
            return
        item = self.waiting.pop()
        self.busy[connection] = process, item, time.monotonic() + self.limit
        try:
            connection.send((item, self.grasps[item]))
        except OSError:
            self._lost(connection, "")

    def _lost(self, connection: Connection, why: str) -> None:
        """A process is dead or too slow: its item failed, and another process takes its place."""
        process, item, _ = self.busy.pop(connection)
        connection.close()
        if why:
            process.kill()
        process.join()
        if item is None:
            raise RuntimeError(
                f"simulation: a worker process could not start (exit code {process.exitcode}); a script that starts "
                "processes needs `if __name__ == '__main__':`; workers=0 does without"
            )
        self.keep(item, f"simulation: the engine's process {why or f'died (exit code {process.exitcode})'}")
        if self.waiting:
            self._start()
