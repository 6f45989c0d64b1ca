"""What users say of hand and object: boxes files, key points, the wrist; from the file to the first pose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from horefine.cli import app
from horefine.data import Sample
from horefine.data.crop import crop_sample
from horefine.data.folder import SIDE_ASSUMED, FolderDataset, FolderOptions
from horefine.data.known import keypoint_box, parse_wrist, read_boxes, wrist_from
from horefine.data.mirror import mirror_sample
from horefine.errors import ConfigError, InputError
from horefine.geometry import Camera, project

POINTS = [[30 + i, 20 + 0.5 * i] for i in range(21)]


def photos(folder: Path, *names: str) -> Path:
    for name in names:
        Image.new("RGB", (80, 60), (90, 100, 110)).save(folder / f"{name}.png")
    return folder


def boxes_file(folder: Path, content: Any, name: str = "boxes.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def opened(folder: Path, **options: Any) -> FolderDataset:
    return FolderDataset(folder, FolderOptions(object="can", camera={"fx": 100}, **options))


# --- boxes files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_a_boxes_file_says_what_sidecars_say(tmp_path: Path, kind: str) -> None:
    photos(tmp_path, "a", "b")
    tables = {
        "json": {"a": {"hand_box": [10, 12, 40, 50], "object_box": [20, 5, 60, 30], "side": "left"}, "b.png": {}},
        "csv": "name, hand_x0,hand_y0,hand_x1,hand_y1,object_x0,object_y0,object_x1,object_y1,side\n"
        "a,10,12,40,50, 20,5,60,30,left\n\nb.png,,,,,,,,,\n",
    }
    (tmp_path / "a.json").write_text(json.dumps({"hand_box": [1, 1, 9, 9], "side": "right"}))
    dataset = opened(tmp_path, boxes=boxes_file(tmp_path, tables[kind], f"boxes.{kind}"))
    first, second = dataset[0], dataset[1]
    assert first.hand_box == (10, 12, 40, 50) and first.object_box == (20, 5, 60, 30) and first.side == "left"
    assert SIDE_ASSUMED not in first.notes and dataset.gives(0, "side")
    assert second.hand_box is None and SIDE_ASSUMED in second.notes and not dataset.gives(1, "side")
    assert opened(tmp_path, boxes=tmp_path / f"boxes.{kind}", side="right")[0].side == "right"


def test_what_the_boxes_file_says_changes_the_fingerprint_of_its_image_only(tmp_path: Path) -> None:
    photos(tmp_path, "a", "b")
    path = boxes_file(tmp_path, {"a": {"hand_box": [10, 12, 40, 50]}})
    before = [opened(tmp_path, boxes=path).fingerprint(i) for i in range(2)]
    boxes_file(tmp_path, {"a": {"hand_box": [10, 12, 40, 51]}})
    after = [opened(tmp_path, boxes=path).fingerprint(i) for i in range(2)]
    assert before[0] != after[0] and before[1] == after[1]


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ({"z": {"hand_box": [1, 2, 3, 4]}}, "boxes.json", "names none of these images \\(z\\); expected a"),
        ({"a": {"hand": [1, 2, 3, 4]}}, "boxes.json", "a.hand: no such key; did you mean 'hand_box'"),
        ({"a": [1, 2, 3, 4]}, "boxes.json", 'expected {"NAME"'),
        ([1], "boxes.json", 'expected {"NAME"'),
        ("{", "boxes.json", "cannot be read"),
        ('{"a": {}, "a": {}}', "boxes.json", "'a' stands there twice; one hand for each image"),
        ("", "boxes.csv", "first line must name the columns: name,hand_x0"),
        ("name,hand_x\na,3\n", "boxes.csv", "column 'hand_x'; did you mean 'hand_x"),
        ("name,hand_x0,hand_y0,hand_x1,hand_y1\na,1,2,3\n", "boxes.csv", "line 2: hand box: expected four numbers"),
        ("name,hand_x0,hand_y0,hand_x1,hand_y1\na,1,2,x,4\n", "boxes.csv", "line 2: hand box: expected four numbers"),
        ("name,side\na,left,right\n", "boxes.csv", "line 2: more cells than columns"),
        ("name,side\n,left\n", "boxes.csv", "line 2: no name"),
        ("name,side\na,left\na,right\n", "boxes.csv", "line 3: 'a' stands there twice"),
    ],
)
def test_a_bad_boxes_file_is_a_usage_error(tmp_path: Path, content: Any, name: str, message: str) -> None:
    photos(tmp_path, "a")
    with pytest.raises(ConfigError, match=message) as caught:
        opened(tmp_path, boxes=boxes_file(tmp_path, content, name))
    assert f"--boxes {tmp_path / name}" in str(caught.value)


def test_bytes_that_are_no_text_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_boxes(tmp_path / "boxes.json")
    with pytest.raises(ConfigError, match="no such file"):
        read_boxes(tmp_path)


def test_a_bad_entry_concerns_its_image_only(tmp_path: Path) -> None:
    photos(tmp_path, "a", "b")
    table = {"a": {"hand_box": [50, 10, 20, 40]}, "b": {"hand_box": [10, 10, 30, 40]}}
    path = boxes_file(tmp_path, table)
    dataset = opened(tmp_path, boxes=path)
    with pytest.raises(InputError, match=r"boxes.json: a: hand_box: .* must be larger"):
        dataset[0]
    assert dataset[1].hand_box == (10, 10, 30, 40)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--boxes", "none.json"), "--boxes none.json: no such file"),
        (("--wrist", "1,2"), "--wrist '1,2': expected x,y,z in metres"),
        (("--wrist", "near"), "--wrist 'near'"),
        (("--detector", "medipipe"), "detector 'medipipe': there is none of this name; did you mean 'mediapipe'"),
    ],
)
def test_the_command_refuses_them_before_any_work(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    photos(tmp_path, "a")
    command = ["run", str(tmp_path), "--object", "can", "--out", str(tmp_path / "out"), *words]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2 and message in " ".join(result.stderr.split()), result.stderr
    assert not (tmp_path / "out").exists()


# --- key points and wrist --------------------------------------------------------------------------------------------


def test_key_points_give_the_hand_its_box(tmp_path: Path) -> None:
    photos(tmp_path, "a")
    sample = opened(tmp_path, boxes=boxes_file(tmp_path, {"a": {"keypoints": POINTS}}))[0]
    assert sample.keypoints is not None and sample.keypoints[5].tolist() == [35, 22.5]
    assert sample.hand_box == pytest.approx((28, 19, 52, 31)) == keypoint_box(sample.keypoints)
    table = {"a": {"keypoints": POINTS, "hand_box": [1, 2, 30, 40]}}
    assert opened(tmp_path, boxes=boxes_file(tmp_path, table))[0].hand_box == (1, 2, 30, 40)


def test_key_points_follow_a_reduced_photo_its_crop_and_its_mirror(tmp_path: Path) -> None:
    photos(tmp_path, "a")
    path = boxes_file(tmp_path, {"a": {"keypoints": POINTS}})
    half = opened(tmp_path, boxes=path, largest_side=40)[0].keypoints
    assert half is not None and half[0].tolist() == [(30 + 0.5) / 2 - 0.5, (20 + 0.5) / 2 - 0.5]
    sample = opened(tmp_path, boxes=path, wrist=[0.02, 0.01, 0.5])[0]
    crop = crop_sample(sample, (19.5, 9.5, 59.5, 49.5), 80)
    assert crop.keypoints is not None and crop.keypoints[0].tolist() == [(30 - 19.5) * 2 - 0.5, (20 - 9.5) * 2 - 0.5]
    mirrored = mirror_sample(crop)
    assert mirrored.keypoints is not None and mirrored.wrist == (-0.02, 0.01, 0.5)
    assert torch.equal(mirrored.keypoints[:, 0], 79 - crop.keypoints[:, 0])
    for one in (crop, mirrored):  # the wrist stays at its pixel
        assert one.wrist is not None
        place = project(torch.tensor([one.wrist]), one.camera.matrix)[0]  # pyright: ignore
        expected = torch.tensor([(43.5 - 19.5) * 2 - 0.5, (31.5 - 9.5) * 2 - 0.5])
        assert torch.allclose(place if one is crop else torch.stack([79 - place[0], place[1]]), expected, atol=1e-4)
    again = mirror_sample(mirrored)
    assert again.wrist == crop.wrist and again.keypoints is not None and torch.equal(again.keypoints, crop.keypoints)


@pytest.mark.parametrize(
    ("value", "found"), [(0.6, (None, None, 0.6)), ([0.01, -0.02, 0.6], (0.01, -0.02, 0.6)), (1, (None, None, 1.0))]
)
def test_a_wrist_is_a_place_or_a_depth(value: Any, found: tuple) -> None:
    assert wrist_from(value, "here", Camera.from_focal(100, (60, 80))) == found


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("wrist", [0.1, 0.6], r"wrist: \[0.1, 0.6\]; expected \[x, y, z\] in metres"),
        ("wrist", "0.6", "expected"),
        ("wrist", True, "expected"),
        ("wrist", -0.6, "behind the camera"),
        ("wrist", [0.01, 0.02, -0.6], "behind the camera"),
        ("wrist", 600, "millimetres"),
        ("wrist", [2.0, 0.0, 0.5], r"is seen at pixel \(440, 30\) of a 80x60 photo"),
        ("keypoints", POINTS[:20], "expected 21 points"),
        ("keypoints", [[*point, 1.0] for point in POINTS], "expected 21 points"),
        ("keypoints", [[float(x) + 500, y] for x, y in POINTS], "outside the 80x60 photo"),
        ("keypoints", {"wrist": [1, 2]}, "expected 21 points"),
    ],
)
def test_wrists_and_key_points_that_cannot_be_are_refused(tmp_path: Path, key: str, value: Any, message: str) -> None:
    photos(tmp_path, "a")
    (tmp_path / "a.json").write_text(json.dumps({key: value}))
    with pytest.raises(InputError, match=message) as caught:
        opened(tmp_path)[0]
    assert "a.json" in str(caught.value)


def test_the_commands_wrist() -> None:
    assert parse_wrist("0.6") == 0.6 and parse_wrist("0.1, -0.2,0.6") == [0.1, -0.2, 0.6]


def test_the_wrist_of_the_command_line_wins(tmp_path: Path) -> None:
    photos(tmp_path, "a")
    (tmp_path / "a.json").write_text(json.dumps({"wrist": 0.8}))
    assert opened(tmp_path)[0].wrist == (None, None, 0.8)
    assert opened(tmp_path, wrist=[0.0, 0.0, 0.5])[0].wrist == (0, 0, 0.5)
    assert isinstance(opened(tmp_path)[0], Sample)
