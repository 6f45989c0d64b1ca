"""Jobs whose processes do not live long, for tests of who goes on with their work. Imported by the workers too."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from horefine import outcome, pipeline
from horefine.job import Job


def deadly(make: Callable[[], Job], name: str, marks: Path, times: int) -> Job:
    """A job whose process is killed the first ``times`` that it has written almost all of one image."""
    write = outcome.write_result

    def write_or_die(folder: Path, result: Any) -> None:
        if result.name == name and len(list(marks.iterdir())) < times:
            (marks / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        write(folder, result)

    outcome.write_result = write_or_die
    return make()


def full(make: Callable[[], Job]) -> Job:
    """A job for whose results there is no room; what says so is the cause of another error."""

    def no_room(folder: Path, result: Any) -> None:
        raise RuntimeError("a file could not be written") from OSError(errno.ENOSPC, "No space left on device")

    outcome.write_result = no_room
    return make()


def endless(make: Callable[[], Job]) -> Job:
    """A job that comes to an end for the first batch only."""
    refine, begun = pipeline.refine, list[str]()

    def never_ending(*inputs: Any, progress: Callable[[int, int], None], **options: Any) -> Any:
        while begun:
            progress(0, 1)
            time.sleep(0.02)
        begun.append("once")
        return refine(*inputs, progress=progress, **options)

    pipeline.refine = never_ending
    return make()
