"""What every command shares: log lines, exit codes, progress bars, and ending in order when asked to.

Exit codes: 0 all done; 1 unexpected error or full disk; 2 usage or configuration; 3 something needed is missing
(MANO, mesh, weights, renderer); 4 some images failed (summary.json lists them); 130 interrupted (finished ones stay).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from horefine.outcome import Outcome

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "MISSING",
    "UNEXPECTED",
    "USAGE",
    "guarded",
    "line_of",
    "log",
    "one_thread",
    "progress",
    "stoppable",
]  # fmt: skip

log = logging.getLogger("horefine")

INTERRUPTED, FAILED, MISSING, USAGE, UNEXPECTED = 130, 4, 3, 2, 1


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Sets up logging, and turns exceptions into one clear line and an exit code."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        verbose, quiet = bool(kwargs.get("verbose")), bool(kwargs.get("quiet"))
        _set_up_logging(verbose, quiet)
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except typer.Exit:
            raise
        except Exception as error:
            code = _code(error)
            message = (
                str(error) if code != UNEXPECTED or isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            )
            hint = " (-v shows where)" if code == UNEXPECTED and not verbose else ""
            log.error("%s%s", message, hint, exc_info=error if verbose else None)
            raise typer.Exit(code) from None

    return wrapper


def one_thread() -> None:
    """One torch thread, unless OMP_NUM_THREADS asks for more: small tensors lose more to threads than they gain."""
    import os

    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def _code(error: Exception) -> int:
    from horefine.errors import AssetError, ConfigError, InputError

    # an optional package that is not there (nvdiffrast, pytorch3d) is missing like any other file
    for kind, code in ((ConfigError, USAGE), ((AssetError, ImportError), MISSING), (InputError, FAILED)):
        if isinstance(error, kind):
            return code
    return UNEXPECTED


def _set_up_logging(verbose: bool, quiet: bool) -> None:
    from rich.logging import RichHandler

    console = Console(stderr=True)
    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.INFO
    handler: logging.Handler = RichHandler(console=console, show_time=False, show_path=verbose, highlighter=None)
    if not console.is_terminal:  # one line for each message: logs are read by programs too
        handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s" if console.is_terminal else "%(levelname)s: %(message)s"))
    log.handlers = [handler]
    log.setLevel(level)
    log.propagate = False


@contextlib.contextmanager
def progress(total: int, quiet: bool) -> Iterator[Callable[[Outcome], None]]:
    """A bar on a terminal, a line for each image elsewhere."""
    from rich.logging import RichHandler
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = next((h.console for h in log.handlers if isinstance(h, RichHandler)), Console(stderr=True))
    if quiet or not console.is_terminal:
        yield lambda outcome: log.info("%s: %s", outcome.name, line_of(outcome)) if outcome.status != "failed" else None
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("refining", total=total)

        def advance(outcome: Outcome) -> None:
            bar.advance(task)
            if outcome.status != "failed":
                log.info("%s: %s", outcome.name, line_of(outcome))

        yield advance


def line_of(outcome: Outcome) -> str:
    if outcome.status == "skipped":
        return "finished before (--overwrite does it again)"
    return f"{outcome.status}: {outcome.row.get('reason')}"


@contextlib.contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """SIGTERM (a job scheduler, a container's end) ends a run as Ctrl-C does.

    Yields a function to call now and then: a KeyboardInterrupt that was raised inside a callback from compiled code is
    swallowed there, and this raises it again. A SIGINT that the parent process had ignored (``nohup``) stays ignored.
    """
    asked = False

    def stop(*_: object) -> None:
        nonlocal asked
        asked = True
        raise KeyboardInterrupt

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    before = {}
    with contextlib.suppress(ValueError):  # not in the main thread: nothing to catch
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, stop)
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
