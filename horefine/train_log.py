"""What training says while it runs: ``log.jsonl`` always, TensorBoard if asked, a bar on a terminal."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from horefine.errors import AssetError

__all__ = ["TrainLog", "rounded"]

log = logging.getLogger(__name__)


class TrainLog:
    """The log of one run; ``silent`` for all processes but the first."""

    def __init__(self, out: Path, tensorboard: bool = False, silent: bool = False) -> None:
        """Opens the files.

        Raises:
            AssetError: TensorBoard is asked for and not installed.
        """
        self.path, self.silent = out / "log.jsonl", silent
        self._board = _board(out / "tensorboard") if tensorboard and not silent else None
        self._bar: Progress | None = None
        self._began, self._before = time.monotonic(), 0

    def __enter__(self) -> TrainLog:
        console = _console()
        if console.is_terminal and not self.silent and log.isEnabledFor(logging.INFO):
            text = TextColumn(
                "step {task.fields[step]}  loss {task.fields[loss]:.4g}  {task.fields[speed]:.3g} images/s"
            )
            columns = TextColumn("training"), BarColumn(), TaskProgressColumn(), text, TextColumn("{task.fields[left]}")
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task("", total=1.0, step=0, loss=float("nan"), speed=0.0, left="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._board is not None:
            self._board.close()

    def begin(self, images: int) -> None:
        """Counts speed from here, after ``images`` of an earlier run."""
        self._began, self._before = time.monotonic(), images

    def advance(self, step: int, loss: float, images: int, progress: float, spent: float) -> None:
        """Moves the bar. ``spent``: seconds, of earlier runs too."""
        if self._bar is not None:
            speed = (images - self._before) / max(time.monotonic() - self._began, 1e-9)
            left = _clock(spent * (1 - progress) / progress) if progress > 0 else ""
            self._bar.update(self._task, completed=progress, step=step, loss=loss, speed=speed, left=left)

    def losses(self, step: int, entry: Mapping[str, float]) -> None:
        """Means since the last entry."""
        self._write({"step": step, **entry}, self._bar is None)
        self._scalars("train", entry, step)

    def validation(self, step: int, entry: Mapping[str, float]) -> None:
        """Errors on held-out scenes."""
        self._write({"validation": dict(entry)}, True)
        self._scalars("validation", {k: v for k, v in entry.items() if k != "step"}, step)

    def _write(self, entry: Mapping[str, Any], said: bool) -> None:
        if self.silent:
            return
        text = json.dumps(rounded(entry))
        with self.path.open("a") as file:
            file.write(text + "\n")
        if said:
            log.info("%s", text)

    def _scalars(self, group: str, entry: Mapping[str, float], step: int) -> None:
        if self._board is not None:
            for name, value in entry.items():
                self._board.add_scalar(f"{group}/{name}", value, step)


def rounded(value: Any) -> Any:
    """Floats to five digits, in tables too."""
    if isinstance(value, Mapping):
        return {k: rounded(v) for k, v in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _console() -> Console:
    """That of the command's log, so that bar and lines do not overwrite one another."""
    handlers = logging.getLogger("horefine").handlers
    return next((h.console for h in handlers if isinstance(h, RichHandler)), Console(stderr=True))


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h left" if minutes >= 60 else f"{minutes} min left"


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise AssetError(
            f"tensorboard: not installed ({error}); pip install 'horefine[train]', or leave it out (log.jsonl has all)"
        ) from None
    return SummaryWriter(str(folder))
