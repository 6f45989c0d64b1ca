"""Arrays kept on disk between runs: read whole or not at all, written atomically, and never needed."""

from __future__ import annotations

import logging
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import platformdirs

from horefine.overlap import LOADING

__all__ = ["cache_dir", "read_arrays", "write_arrays"]

log = logging.getLogger(__name__)


def cache_dir(name: str) -> Path:
    """The folder ``name`` in the user's cache directory for this package (it may not exist yet)."""
    return Path(platformdirs.user_cache_dir("horefine")) / name


def read_arrays(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray] | None:
    """The named arrays of an npz file, or None when it is missing or (said in the log) damaged."""
    if not path.exists():
        return None
    try:
        with LOADING, np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("cache file %s is damaged (%s): its content is made again", path, error)
        return None


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an npz file under a temporary name in its folder, then rename: others see all of it or nothing.

    A cache that cannot be written is said in the log and otherwise ignored.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, path)
    except OSError as error:
        log.warning("cache file %s could not be written (%s): going on without it", path, error)
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
