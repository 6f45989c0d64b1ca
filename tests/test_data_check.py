"""``horefine data check``: recognises trees, counts what is missing, and shows a wrong convention."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_trees import dexycb_tree, ho3d_tree, write_hands
from dataset_trees_more import bop_tree, fhb_tree, obman_tree
from photo_folder import write_photo_folder
from PIL import Image
from typer.testing import CliRunner

from horefine.cli import app
from horefine.data.check import check_dataset
from horefine.data.check_sheets import HAND_INK, OBJECT_INK, draw_sample
from horefine.data.fhb import FHB
from horefine.data.look import look_at
from horefine.data.recognise import hand_of, open_dataset, recognise
from horefine.errors import ConfigError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every dataset's tree, in a folder of its name."""
    root = tmp_path_factory.mktemp("trees")
    for name, make in (("fhb", fhb_tree), ("obman", obman_tree), ("bop", bop_tree), ("ho3d", ho3d_tree)):
        (root / name).mkdir()
        make(root / name)
    (root / "dexycb").mkdir()
    dexycb_tree(root / "dexycb", pictured=(0,), cameras=1)
    write_photo_folder(root / "folder", count=2)
    write_hands(root / "mano")
    return root


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["data", "check", *arguments])
    return result.exit_code, result.output


# --- recognising -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fhb", "obman", "bop", "ho3d", "dexycb"])
def test_a_tree_is_recognised(trees: Path, name: str) -> None:
    assert recognise(trees / name) == name


def test_the_inner_folder_and_photographs_are_recognised(trees: Path) -> None:
    assert recognise(trees / "fhb" / "fhbhands") == "fhb"
    assert recognise(trees / "obman" / "obman") == "obman"
    assert recognise(trees / "folder" / "images") == "folder"


def test_another_folder_is_refused(trees: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"which dataset is this\? It holds nothing"):
        recognise(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        recognise(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="did you mean 'fhb'"):
        open_dataset(trees / "fhb", "fbh")


# --- the command -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "more", "recordings", "samples"),
    [
        ("fhb", ("--split", "all"), 3, 8),
        ("obman", (), 1, 3),
        ("bop", (), 2, 4),
    ],
)
def test_a_sound_tree_passes(
    trees: Path, tmp_path: Path, name: str, more: tuple[str, ...], recordings: int, samples: int
) -> None:
    code, output = run(str(trees / name), "--out", str(tmp_path), "--hand", "embedded", "--prepare", *more)
    assert code == 0, output
    table = json.loads((tmp_path / "check.json").read_text())
    assert table["dataset"] == name and table["ok"] and table["samples"] == samples
    assert len(table["sequences"]) == len(table["sheets"]) == recordings
    assert sum(len(looks) for looks in table["looked_at"].values()) == samples
    for sheet in table["sheets"]:
        with Image.open(tmp_path / sheet) as picture:
            assert picture.size[0] > 300 and picture.size[1] > 300
    assert "plausible" in output and "verdict" in output


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("dexycb", ("--split", "all", "--recordings", "2", "--each", "2")),
        ("ho3d", ("--split", "train")),
        ("ho3d", ("--split", "evaluation")),
    ],
)
def test_the_other_datasets(trees: Path, tmp_path: Path, name: str, more: tuple[str, ...]) -> None:
    code, output = run(str(trees / name), "--out", str(tmp_path), "--mano-dir", str(trees / "mano"), *more)
    table = json.loads((tmp_path / "check.json").read_text())
    looks = [look for looks in table["looked_at"].values() for look in looks]
    read = [look for look in looks if look["error"] is None]
    doubts = [doubt for look in read for doubt in look["doubts"] if "depth map" not in doubt]  # theirs is a plane
    assert read and not doubts, output
    if name == "ho3d":
        assert code == 0 and len(read) == len(looks)
    else:  # only the first recording has pictures
        assert code == 4 and all("no such file" in look["error"] for look in looks if look["error"])
        assert {look["hand"] for look in read} == {"posed", "none"}


def test_a_folder_of_photographs(trees: Path, tmp_path: Path) -> None:
    code, output = run(str(trees / "folder" / "images"), "--out", str(tmp_path), "--hand", "embedded", "--json")
    assert code == 0, output
    assert json.loads(output[output.index("{") : output.rindex("}") + 1])["counts"]["hands"] == {"posed": 2}


def test_options_of_the_class(trees: Path, tmp_path: Path) -> None:
    code, output = run(str(trees / "bop"), "--out", str(tmp_path), "--dataset", "bop:objects=[5]", "--each", "1", "-q")
    assert code == 0 and not output.strip()
    table = json.loads((tmp_path / "check.json").read_text())
    assert table["samples"] == 2 and list(table["models"]) == ["5"] and "314 symmetries" in table["models"]["5"]
    assert run(str(trees / "bop"), "--dataset", "bop:objects")[0] == 2


# --- what is wrong -----------------------------------------------------------------------------------------------


def spoiled(trees: Path, tmp_path: Path) -> Path:
    shutil.copytree(trees / "fhb", tmp_path / "fhb")
    return tmp_path / "fhb"


def test_missing_pictures_are_counted_and_shown(trees: Path, tmp_path: Path) -> None:
    root = spoiled(trees, tmp_path)
    (root / "fhbhands/Video_files_480/Subject_2/open_juice_bottle/1/color/color_0001.jpeg").unlink()
    code, output = run(str(root), "--out", str(tmp_path / "out"), "--hand", "embedded")
    assert code == 4
    assert "2 of 3 samples read" in output and "color_0001.jpeg: no such file" in output
    table = json.loads((tmp_path / "out" / "check.json").read_text())
    assert table["facts"]["pictures_missing"] == 1 and len(table["counts"]["errors"]) == 1


def test_a_transposed_pose_is_seen(trees: Path, tmp_path: Path) -> None:
    """Object poses written row by row: the loader reads them column by column, as the dataset's are."""
    root = spoiled(trees, tmp_path)
    for file in root.rglob("object_pose.txt"):
        rows = np.loadtxt(file, ndmin=2)
        rows[:, 1:] = rows[:, 1:].reshape(-1, 4, 4).transpose(0, 2, 1).reshape(-1, 16)
        np.savetxt(file, rows, fmt=["%d"] + ["%.6f"] * 16)
    code, output = run(str(root), "--out", str(tmp_path / "out"), "--hand", "embedded")
    assert code == 4
    assert "a convention is read wrongly" in output and "IMPLAUSIBLE" in output


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows * [1, -1, -1], "axes or unit"),  # another camera's axes
        (lambda rows: rows / 1000, "before the camera"),  # metres
        (lambda rows: rows[:, [0, *range(20, 0, -1)]], "order of joints"),
    ],
)
def test_wrong_joints_are_seen(trees: Path, tmp_path: Path, change: object, said: str) -> None:
    root = spoiled(trees, tmp_path)
    shutil.rmtree(root / "fhbhands_fits")
    for file in root.rglob("skeleton.txt"):
        if file.stat().st_size:
            rows = np.loadtxt(file, ndmin=2)
            joints = change(rows[:, 1:].reshape(-1, 21, 3))  # type: ignore[operator]
            np.savetxt(
                file, np.concatenate([rows[:, :1], joints.reshape(len(rows), 63)], 1), fmt=["%d"] + ["%.6f"] * 63
            )
    data = FHB(root, "test", hand="embedded", truth="none")
    look, _ = look_at(data, 0, hand_of(data))
    assert any(said in doubt for doubt in look.doubts), look
    found = check_dataset("fhb", root, data, hand_of(data))
    assert not found.ok and len(found.doubtful) == len(found.every)


def test_outlines_lie_on_what_is_seen(trees: Path) -> None:
    """The hand's outline separates hand from ground: a shifted pose is told from a true one in the picture."""
    data = FHB(trees / "fhb", "test", hand="embedded")
    sample = data[0]
    drawn = np.asarray(draw_sample(sample, hand_of(data))).astype(int)
    for ink in (HAND_INK, OBJECT_INK):
        near = np.abs(drawn - np.array(ink) * 255).sum(-1) < 90
        assert near.sum() > 40
    assert sample.truth is not None
    shape = drawn.shape[:2]
    assert shape == (400, 400)


def test_every_recording_is_looked_at_evenly(trees: Path) -> None:
    data = FHB(trees / "fhb", "all", hand="embedded", truth="none")
    found = check_dataset("fhb", trees, data, hand_of(data), recordings=2, each=2)
    assert list(found.looks) == ["Subject_1/pour_milk/1", "Subject_2/open_juice_bottle/1"]
    assert [[look.index for look in looks] for looks in found.looks.values()] == [[0, 2], [5, 7]]
    assert len(found.sequences) == 3


def test_depth_in_another_unit_is_seen(trees: Path) -> None:
    _, data = open_dataset(trees / "obman", "obman", None, {"hand": "embedded"})
    look, sample = look_at(data, 0, hand_of(data))
    assert sample is not None and sample.depth is not None and not look.doubts
    assert abs(look.numbers["depth_minus_joints_m"]) < 0.03

    class Scaled:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> object:
            import dataclasses

            assert sample is not None and sample.depth is not None
            return dataclasses.replace(sample, depth=sample.depth * torch.tensor(1.3))

    odd, _ = look_at(Scaled(), 0, hand_of(data))  # type: ignore[arg-type]
    assert any("depth map" in doubt for doubt in odd.doubts)
