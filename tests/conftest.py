"""One thread, fixed seeds, and every annotated shape and type checked while the tests run.

The check is jaxtyping's import hook with beartype. It leaves out functions that numba compiles (numba reads their byte
code, and a wrapper would hide it). ``HOREFINE_TEST_TYPES=0`` turns it off, to time something.
"""

from __future__ import annotations

import ast
import logging
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from jaxtyping import _import_hook, install_import_hook

torch.set_num_threads(1)
sys.path.append(str(Path(__file__).resolve().parents[1]))  # for benchmarks, however pytest was started


def _leave_numba_alone() -> None:
    """Teaches the import hook to pass over functions with a numba decorator."""
    transformer = _import_hook.JaxtypingTransformer
    decorate = transformer.visit_FunctionDef

    def visit(self: _import_hook.JaxtypingTransformer, node: ast.FunctionDef) -> ast.FunctionDef:
        compiled = any("jit" in ast.unparse(decorator) for decorator in node.decorator_list)
        return node if compiled else decorate(self, node)

    transformer.visit_FunctionDef = visit


if os.environ.get("HOREFINE_TEST_TYPES", "1") != "0":
    _leave_numba_alone()
    install_import_hook("horefine", "runtime_types.check")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test begins at the same random numbers, torch settings (training sets its own) and silent log (commands set
    up theirs, on a stream that is closed by now), whatever ran before."""
    log = logging.getLogger("horefine")
    log.handlers, log.propagate = [logging.NullHandler()], True
    log.setLevel(logging.NOTSET)
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)
    torch.manual_seed(0)
    np.random.seed(0)
