"""The benchmark of a machine: figures, plots and files from made-up numbers, and a quick look at everything."""

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import _common, _machine_chart, machine
from benchmarks._figures import Figure, apart, figure, in_turns, peak_megabytes
from benchmarks._machine_parts import Plan, on_a_gpu, rendering


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_common, "RESULTS", tmp_path)
    return tmp_path


def made_up() -> list[Figure]:
    grown = [("batch", (1, 4, 16)), ("map side", (32, 128))]
    return [
        figure("renderer", "hand", [0.2, 0.25, 0.3], "ms/image", 0.3),
        figure("refine", "default", [12.0, 13.0, 14.0], "images/s", 20.0, more=True),
        *(
            figure("growth", f"{name} by {what}: {value}", [math.sqrt(value) * factor], unit)
            for what, values in grown
            for value in values
            for name, factor, unit in (("render", 0.1, "ms/image"), ("default", 9.0, "ms/image"), ("memory", 99, "MB"))
        ),
        *(
            figure("stage", f"{way}: render, batch {b}", [0.3], "ms/image")
            for way in ("fused", "eager")
            for b in (1, 16)
        ),
        figure("stage of default", "solve, batch 1", [3.0], "ms/image"),
    ]


def test_a_figure_says_whether_it_is_reached() -> None:
    fast, slow, *_ = made_up()
    assert (fast.value, fast.met, slow.met) == (0.25, True, False)
    assert fast.low == 0.2 and fast.high == 0.3
    assert fast.row()["to reach"] == "<= 0.3" and slow.row()["met"] == "no"
    alone = figure("a", "b", [2.0], "s")
    assert alone.met is None and math.isnan(alone.low) and alone.row()["95 %"] == ""


def test_works_take_turns() -> None:
    said: list[str] = []
    found = in_turns({"a": lambda: said.append("a"), "b": lambda: said.append("b")}, 2, calls=2)
    assert "".join(said) == "aabb" * 3  # the first round is not measured
    assert found["a"].wall.shape == found["b"].processor.shape == (2,)
    assert (found["a"].wall >= 0).all()


def test_work_apart_has_its_own_peak() -> None:
    """A new process does not begin with what this one has had."""
    kept = np.ones(300 * 131072)  # 300 MB
    assert 0 < apart(peak_megabytes) < peak_megabytes() - 200
    del kept


def test_files_and_plots_of_a_machine(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine.write(made_up(), ["gpu: RuntimeError: no"], Plan(), "demo")
    stored = json.loads((results / "demo.json").read_text(encoding="utf-8"))
    assert [found["met"] for found in stored["figures"][:3]] == [True, False, None]
    assert "not measured: gpu: RuntimeError: no" in stored["notes"]
    assert "numbers to reach: 1 of 2 reached" in capsys.readouterr().out
    assert (results / "demo.md").read_text(encoding="utf-8").splitlines()[4].startswith("| renderer")
    for kind in ("growth", "stages", "reached"):
        with Image.open(results / f"demo_{kind}.png") as picture:
            assert picture.width > 400 and len(picture.convert("RGB").getcolors(1 << 20) or ()) > 20


def test_no_plot_of_nothing() -> None:
    for draw in (_machine_chart.growth, _machine_chart.stages, _machine_chart.reached):
        assert draw([figure("a", "b", [1.0], "s")]) is None
    noise = [figure("growth", "iteration by batch: 1", [-0.1], "ms/image"), *made_up()]
    assert Image.open(io.BytesIO(_machine_chart.growth(noise) or b"")).width > 400


def test_a_part_that_fails_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(plan: Plan) -> Iterator[Figure]:
        yield made_up()[0]
        raise RuntimeError("no such thing")

    monkeypatch.setattr(machine, "PARTS", {"one": broken, "two": lambda plan: iter(made_up()[1:2])})
    figures, failed = machine.measured(["one", "two"], Plan())
    assert len(figures) == 2 and failed == ["one: RuntimeError: no such thing"]
    assert "one FAILED" in capsys.readouterr().out


def test_a_machine_has_a_name_for_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_processor", lambda: "Intel(R) Core(TM) i7-9700 CPU @ 3.00GHz")
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: False)
    assert machine.name_of(8) == "intel_core_i7_9700_8_cores"
    with pytest.raises(SystemExit):
        machine.main(["--only", "renderers"])


def test_the_renderer_is_measured() -> None:
    found = {one.case: one for one in rendering(Plan(quick=True))}
    assert {"hand, 64x64, batch 1", "hand, 64x64, batch 16"} <= set(found)
    assert all(one.value > 0 for one in found.values())


def test_what_a_gpu_would_be_asked() -> None:
    """On the CPU in its place; there the poses are the CPU's own, but for steps done in another order of sums."""
    found = {one.case: one for one in on_a_gpu(Plan(quick=True), "cpu")}
    assert len(found) == 6 and all(one.value > 0 for name, one in found.items() if one.unit == "images/s")
    assert all(one.value < 0.01 for one in found.values() if one.unit == "mm")
    assert torch.cuda.is_available() or not list(on_a_gpu(Plan(quick=True)))


@pytest.mark.slow
def test_a_quick_look_at_everything(results: Path) -> None:
    """What ``make bench`` runs, a round of each; every number but differences of noisy times is positive."""
    assert machine.main(["--quick", "--name", "quick"]) == 0
    stored = json.loads((results / "quick.json").read_text(encoding="utf-8"))
    parts = {found["part"] for found in stored["figures"]}
    assert parts >= {
        "renderer",
        "iteration",
        "refine",
        "stage",
        "stage of default",
        "accuracy",
        "photographs",
        "growth",
    }
    assert set(machine.PARTS) == {"renderer", "iteration", "stages", "solver", "photographs", "memory", "growth", "gpu"}
    sure = [found for found in stored["figures"] if "iteration" not in found["part"] + found["case"]]
    assert all(found["value"] > 0 for found in sure if found["part"] != "memory")
    assert (results / "quick_growth.png").is_file()
