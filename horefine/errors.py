"""Errors a user can act on: each names the key, the value and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["AssetError", "ConfigError", "InputError", "SurfaceError", "suggestion"]


class ConfigError(ValueError):
    """A configuration that cannot be used (exit code 2)."""


class AssetError(FileNotFoundError):
    """A file the work needs is not there or cannot be used: hand model, mesh, weights (exit code 3)."""


class InputError(ValueError):
    """One item (image, mesh, pose, map) cannot be used; the others go on (exit code 4)."""


class SurfaceError(InputError):
    """A field has no surface that can be extracted from it; the item goes on without one (exit code 4 otherwise)."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` or, when nothing is close, ``; known: a, b``."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known) or 'none'}"
