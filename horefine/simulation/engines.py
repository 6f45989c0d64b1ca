"""Packages that simulation needs and a plain installation lacks: loaded when used, their absence said with the fix."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from horefine.errors import AssetError
from horefine.simulation.settings import SimulationSettings

__all__ = ["FIX", "installed", "load", "needed", "quiet"]

FIX = "pip install 'horefine[sim]'"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Sends what native code writes to standard output and error into nothing while the block runs (all threads').

    Engines print from C: build times, progress, warnings about meshes. A command's own output must stay clean.
    """
    if sys.stdout is not None:
        sys.stdout.flush()
    _flush()
    kept: dict[int, int] = {}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream in (1, 2):
            with contextlib.suppress(OSError):  # closed: nothing to keep clean
                kept[stream] = os.dup(stream)
                os.dup2(nowhere, stream)
        yield
    finally:
        _flush()
        for stream, copy in kept.items():
            os.dup2(copy, stream)
            os.close(copy)
        os.close(nowhere)


def _flush() -> None:
    """Writes out what C has buffered, which would else appear later, when the output is back."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).fflush(None)


@functools.cache
def load(name: str) -> Any:
    """The package pybullet, mujoco or coacd.

    Raises:
        AssetError: it is not installed, or does not load; with the fix.
    """
    try:
        with quiet():
            return importlib.import_module(name)
    except ImportError as error:
        why = "is not installed" if importlib.util.find_spec(name) is None else f"does not load ({error})"
        raise AssetError(f"simulation: the package {name} {why}: {FIX}") from None


def installed(name: str) -> str | None:
    """The version of a package, or None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def needed(settings: SimulationSettings) -> None:
    """Loads every package that these settings ask for (V-HACD comes with pybullet).

    Raises:
        AssetError: one is missing; with the fix.
    """
    decomposer = {"vhacd": "pybullet", "fitted": "pybullet", "coacd": "coacd"}.get(settings.decomposition)
    for name in dict.fromkeys([settings.engine, decomposer]):
        if name is not None:
            load(name)
