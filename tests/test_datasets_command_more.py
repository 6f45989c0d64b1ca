"""The commands on FHB, ObMan and BOP in their real layouts: run, evaluate, submissions, training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from dataset_trees_more import bop_tree, fhb_tree, obman_tree
from test_datasets_command import FEW_STEPS, command, said, write_truth

from horefine.data.opened import open_named
from horefine.exchange_objects import read_bop
from horefine.train import train


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.mark.parametrize(("name", "make"), [("fhb", fhb_tree), ("obman", obman_tree)])
def test_a_run_is_evaluated_without_being_told_anything_again(tmp_path: Path, name: str, make: object) -> None:
    """Of ObMan a right and a left hand."""
    make(tmp_path / name)  # type: ignore[operator]
    out = tmp_path / "out"
    found = command(
        "run", "--dataset", f"{name}:give=boxes,step=2", "--root", tmp_path / name, "--out", out, "--hand", "embedded",
        *FEW_STEPS,
    )  # fmt: skip
    assert found.exit_code == 0, said(found)
    evaluated = command("evaluate", out, "--metrics", "HE,OE", "--json")
    assert evaluated.exit_code == 0, said(evaluated)
    rows = json.loads(evaluated.stdout)["items"]
    assert len(rows) == 2 and all(0 < row["HE_mm"] < 200 and np.isfinite(row["OE_mm"]) for row in rows)


@pytest.mark.parametrize(("name", "make", "count"), [("fhb", fhb_tree, 3), ("obman", obman_tree, 3)])
def test_true_poses_have_no_error(tmp_path: Path, name: str, make: object, count: int) -> None:
    make(tmp_path / name)  # type: ignore[operator]
    write_truth(open_named(name, tmp_path / name, None, {"hand": "embedded"}), tmp_path / "poses", 0.01)
    found = command(
        "evaluate", tmp_path / "poses", "--dataset", name, "--root", tmp_path / name, "--hand", "embedded", "--metrics",
        "HE,OE", "--json",
    )  # fmt: skip
    assert found.exit_code == 0, said(found)
    rows = json.loads(found.stdout)["items"]
    assert [row["HE_mm"] for row in rows] == pytest.approx([10.0] * count, abs=1e-2)
    assert [row["OE_mm"] for row in rows] == pytest.approx([0.0] * count, abs=1e-2)


def test_a_run_on_bop_becomes_a_submission(tmp_path: Path) -> None:
    told = bop_tree(tmp_path / "bop")
    out = tmp_path / "out"
    given = "--root", tmp_path / "bop"
    found = command("run", "--dataset", "bop:give=boxes,step=3", *given, "--out", out, "--hand", "embedded", *FEW_STEPS)
    assert found.exit_code == 0, said(found)
    found = command("evaluate", out, "--submission", "bop", "--dataset", "bop:step=3", *given)
    assert found.exit_code == 0, said(found)
    poses = read_bop(next((out / "submission").glob("*.csv")))
    assert list(poses) == [name for k, name in enumerate(told) if k in (0, 3)]
    # no hand is annotated: nothing to evaluate against, and it is said
    found = command("evaluate", out)
    assert found.exit_code == 2 and "no true pose" in said(found)


@pytest.mark.slow
def test_training_takes_obman(tmp_path: Path) -> None:
    obman_tree(tmp_path / "obman", ("right", "left") * 6)
    data = f"obman:root={tmp_path / 'obman'},hand=embedded"
    path = train("features", data=data, out=tmp_path / "run", smoke=True, overrides=["threads=1"])
    assert path.is_file()
