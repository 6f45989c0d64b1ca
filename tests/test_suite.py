"""The benchmark suites: the scenes of ``benchmarks.refine``, written and read back bit for bit; changes are noticed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from horefine import load_hand
from horefine.ablate import runner
from horefine.cli import app
from horefine.data.maps import corrupt, disturb
from horefine.data.synthetic import benchmark_scenes
from horefine.errors import ConfigError
from horefine.exchange import find_item, read_pose
from horefine.export import write_arrays
from horefine.headline import evaluate_suite
from horefine.scene import Features, Pose
from horefine.suite import SUITES, Suite, load_suite, make_suite, open_suite, scenes, write_suite
from horefine.suite.arrays import digest, pose_arrays

TINY = dataclasses.replace(SUITES["small"], name="tiny", count=2, published={}, levels=("exact", "n02"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A suite of two scenes as files."""
    folder = tmp_path_factory.mktemp("suite")
    SUITES["tiny"] = TINY
    write_suite(folder, "tiny")
    yield folder
    del SUITES["tiny"]


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    return a == b


# --- the scenes ------------------------------------------------------------------------------------------------------


def test_small_is_what_was_published_and_what_the_benchmark_measures(caplog: pytest.LogCaptureFixture) -> None:
    suite = make_suite("small", "n02")
    assert not caplog.records and len(suite) == 12 and suite.spec.title == "small v1"
    truth, exact = benchmark_scenes(3, 1000)
    start = disturb(truth, 1001, 15, 20, 10, model=load_hand(kind="embedded"), object_center=exact.object.center)
    assert same(suite.truth[:3], truth)
    for (name, ours), (_, theirs) in zip(suite.start[:3].items(), start.items(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6), name  # batches of another size round differently
    maps, own = corrupt(exact, "n02", 1002), suite.features[:3]
    for name in ("hand_mask", "object_mask", "hand_coords", "object_coords", "depth"):
        assert torch.allclose(getattr(own, name), getattr(maps, name), atol=1e-5), name
    assert suite.objects == tuple(suite.features.object.name)


def test_small_begins_standard() -> None:
    one, other = SUITES["small"], SUITES["standard"]
    same_but = dataclasses.replace(one, name="standard", count=other.count, published=other.published)
    assert same_but == other and one.count < other.count


def test_the_start_is_as_far_off_as_it_says() -> None:
    suite = make_suite("small")
    away = (suite.start.hand_transl - suite.truth.hand_transl).norm(dim=-1)
    rest = load_hand(kind="embedded").rest_joints
    moved = rest(suite.truth.hand_shape)[:, 0] - rest(suite.start.hand_shape)[:, 0]
    wrist = suite.start.hand_transl - suite.truth.hand_transl - moved
    assert wrist.norm(dim=-1).tolist() == pytest.approx([0.02] * 12, rel=1e-4) and away.max() < 0.03
    assert not suite.start.hand_shape.any()


def test_other_scenes_than_published_are_said(caplog: pytest.LogCaptureFixture) -> None:
    suite = dataclasses.replace(make_suite("small"), spec=SUITES["small"])
    shifted = dataclasses.replace(suite, truth=suite.truth.map(lambda value: value * 1.01))
    assert scenes.check_published(suite) and not caplog.records
    assert not scenes.check_published(shifted)
    assert "other scenes" in caplog.text and "truth_m 23.39" in caplog.text


def test_unknown_names_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'standard'"):
        make_suite("standart")
    with pytest.raises(ConfigError, match=r"n07.*did you mean 'n0"):
        make_suite("small", "n07")
    with pytest.raises(ConfigError, match="not a suite"):
        open_suite(tmp_path)


# --- files -----------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back_bit_for_bit(tiny: Path) -> None:
    for level in TINY.levels:
        made, read = make_suite("tiny", level, picture=True), load_suite(tiny, level)
        assert same(made.truth, read.truth) and same(made.start, read.start)
        assert (made.names, made.objects) == (read.names, read.objects)
        for field in dataclasses.fields(Features):
            if field.name != "object":
                assert same(getattr(made.features, field.name), getattr(read.features, field.name)), field.name
        assert torch.equal(made.features.object.vertices, read.features.object.vertices)


def test_others_find_everything_they_need(tiny: Path) -> None:
    about = json.loads((tiny / "suite.json").read_text())
    assert about["names"] == ["scene_000000", "scene_000001"] and about["version"] == 1
    for name in about["names"]:
        sidecar = json.loads((tiny / "images" / f"{name}.json").read_text())
        truth = read_pose((tiny / "images" / sidecar["truth"]).resolve()).pose
        start = read_pose(tiny / "init" / f"{name}.npz").pose
        assert (tiny / "images" / f"{name}.png").is_file() and sidecar["object"] in about["objects"]
        assert 0.005 < (truth.object_transl - start.object_transl).norm() < 0.1


def test_writing_again_changes_nothing(tiny: Path) -> None:
    before = json.loads((tiny / "suite.json").read_text())
    photo = (tiny / "images" / "scene_000000.png").stat().st_mtime_ns
    write_suite(tiny, "tiny")
    assert json.loads((tiny / "suite.json").read_text()) == before
    assert (tiny / "images" / "scene_000000.png").stat().st_mtime_ns == photo


def test_another_suite_is_refused(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="holds suite tiny v1"):
        write_suite(tiny, "small")


@pytest.mark.parametrize("part", ["truth", "init", "features/n02"])
def test_a_changed_file_is_noticed(tiny: Path, part: str) -> None:
    path = tiny / part / "scene_000001.npz"
    kept = path.read_bytes()
    with np.load(path) as stored:
        arrays = {key: stored[key] for key in stored.files}
    name = next(key for key, value in arrays.items() if value.dtype == np.float32)
    arrays[name] = np.nextafter(arrays[name], np.float32(9))
    try:
        np.savez(path, **arrays)
        with pytest.raises(ConfigError, match=f"{part}: changed"):
            load_suite(tiny, "n02")
        path.write_bytes(kept[:100])
        with pytest.raises(ConfigError, match=f"{part}: changed"):
            load_suite(tiny, "n02")
        path.unlink()
        with pytest.raises(ConfigError, match=f"{part}: changed"):
            load_suite(tiny, "n02")
    finally:
        path.write_bytes(kept)
    assert isinstance(load_suite(tiny, "n02").truth, Pose)


def test_a_digest_sees_every_bit_and_no_order_of_keys() -> None:
    one = {"a": np.zeros(3), "b": np.ones(2, np.float32)}
    assert digest([one]) == digest([dict(reversed(one.items()))])
    others = [
        {**one, "a": np.zeros((3, 1))},
        {**one, "a": np.zeros(3, np.float32)},
        {"a": np.zeros(3)},
        {**one, "c": 0},
    ]
    assert len({digest([one]), digest([one, one]), *(digest([other]) for other in others)}) == 6


# --- the headline table ----------------------------------------------------------------------------------------------


def poses_folder(folder: Path, suite: Suite, pose: Pose) -> Path:
    """Poses of a suite as another system would give them."""
    for k, name in enumerate(suite.names):
        write_arrays(folder / f"{name}.npz", pose_arrays(pose, k))
    return folder


def test_anybodys_poses_are_scored_on_the_same_scenes(tmp_path: Path) -> None:
    suite = make_suite("small")
    right = evaluate_suite("small", poses=poses_folder(tmp_path / "truth", suite, suite.truth))
    wrong = evaluate_suite("small", poses=poses_folder(tmp_path / "start", suite, suite.start))
    first, perfect, truth = right.rows
    assert list(right.scores) == ["first poses", str(tmp_path / "truth"), "truth"]
    assert perfect["HE (mm)"] == "0 (0..0)" and perfect["< 3 mm"] == 1.0 and perfect["PD (mm)"] == truth["PD (mm)"]
    assert wrong.rows[1]["HE (mm)"] == first["HE (mm)"] and wrong.rows[1]["< 10 mm"] == 0.0
    shift = suite.truth.map(lambda value: value.clone())
    shift.hand_transl[:6, 0] += 0.005  # half of the hands 5 mm off
    half = evaluate_suite("small", poses=poses_folder(tmp_path / "half", suite, shift)).rows[1]
    assert (half["< 3 mm"], half["< 10 mm"]) == (0.5, 1.0)


def test_missing_poses_count_and_millimetres_are_recognised(tmp_path: Path) -> None:
    suite = make_suite("small")
    folder = poses_folder(tmp_path / "some", suite, suite.truth)
    (folder / "scene_000003.npz").unlink()
    found = evaluate_suite("small", poses=folder)
    assert found.rows[1]["failed"] == 1 and found.rows[1]["< 10 mm"] == pytest.approx(11 / 12)
    assert "1 of 12 items failed" in found.text
    far = dataclasses.replace(suite.truth, object_transl=suite.truth.object_transl * 1000)
    assert "millimetres" in evaluate_suite("small", poses=poses_folder(tmp_path / "mm", suite, far)).text
    with pytest.raises(ConfigError, match="no pose of these items"):
        evaluate_suite("small", poses=tmp_path)


@pytest.mark.slow
def test_the_command_prints_the_headline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "short.yaml"
    recipe.write_text("base: default\nstages: {correspond: {steps: 2}, settle: {steps: 1}, render: {steps: 1}}\n")
    words = ("evaluate", "--suite", "small", "--config", str(recipe), "--limit", "3")
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0 and "| first poses |" in told.stdout.replace("  ", "") and "s/image" in told.stdout
    table = json.loads((tmp_path / "out" / "suite" / "suite.json").read_text())
    start, refined = table["items"]["first poses"], table["items"][str(recipe)]
    assert all(refined[name]["OE_mm"] < start[name]["OE_mm"] for name in start) and len(start) == 3
    monkeypatch.setattr(runner, "refine", lambda *a, **k: pytest.fail("refined again"))
    again = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(again.stdout)["items"] == table["items"]
    assert CliRunner().invoke(app, ["evaluate"]).exit_code == 2
    done = CliRunner().invoke(app, ["synthesize", str(tmp_path / "s"), "--suite", "small", "--count", "5"])
    assert done.exit_code == 2 and "scenes are fixed" in done.stderr


@pytest.mark.slow
def test_run_on_the_files_finds_what_the_headline_measures(tiny: Path, tmp_path: Path) -> None:
    """Poses and maps of the folder through ``horefine run``: the same poses as in memory, contact used by both."""
    short = "base: default\nstages: {correspond: {steps: 3}, settle: {steps: 1}, render: {steps: 2, rounds: 1}}\n"
    (tmp_path / "short.yaml").write_text(short)
    recipe = str(tmp_path / "short.yaml")
    evaluate_suite("tiny", config=recipe, maps="n02", out=tmp_path / "memory")
    files = ("--init", tiny / "init", "--features", tiny / "features" / "n02", "--config", recipe, "--no-pictures")
    words = ["run", tiny / "images", *files, "--out", tmp_path / "files"]
    told = CliRunner().invoke(app, [str(word) for word in words])
    assert told.exit_code == 0, told.output
    (memory,) = (tmp_path / "memory" / "n02" / "variants").iterdir()
    for name in ("scene_000000", "scene_000001"):
        folder = tmp_path / "files" / "items" / name
        found, made = read_pose(folder / "result.npz").pose, read_pose(find_item(memory, name)).pose
        for (key, ours), (_, theirs) in zip(found.items(), made.items(), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-4), (name, key)
        with np.load(folder / "result.npz") as arrays:
            assert "history_spring_length" in arrays
