"""What a detector finds, taken into an item; and photographs that show no hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from horefine.cli import app
from horefine.data import Sample
from horefine.data.crop import crop_box
from horefine.data.folder import SIDE_ASSUMED, FolderDataset
from horefine.data.mirror import mirror_sample
from horefine.errors import InputError
from horefine.extractors.detector import BoxDetector, Located
from horefine.geometry import Camera
from horefine.items import CLEAR, LEAST_CLEAR, Item, check_hand
from horefine.objects import embedded_object
from horefine.scene import Features

HAND, HELD = (20.0, 10.0, 60.0, 50.0), (40.0, 20.0, 90.0, 70.0)


def item(**known: object) -> Item:
    image = torch.rand(3, 90, 120, generator=torch.Generator().manual_seed(0))
    sample = Sample(
        "a", image, Camera.from_focal(100, (90, 120)), embedded_object("can"), notes=(SIDE_ASSUMED, "other")
    )
    return Item(0, dataclasses.replace(sample, **known))  # pyright: ignore


def folder_of_one(folder: Path) -> FolderDataset:
    Image.fromarray(np.full((90, 120, 3), 99, np.uint8)).save(folder / "a.png")
    return FolderDataset(folder)


def with_mask(one: Item, clear: int, value: float = 0.95) -> Item:
    mask = torch.full((1, 64, 64), 0.3)
    mask.view(-1)[:clear] = value
    one.features = Features(one.sample.camera.resized((64, 64)), embedded_object("can"), hand_mask=mask)
    return one


def test_a_guess_leaves_the_sample_as_it_is() -> None:
    one = item()
    one.place(Located(HAND, HELD, notes=("said",)))
    assert one.guessed and one.box == crop_box(HAND, HELD) and one.notes == ["said"]
    assert one.sample.hand_box is None and one.sample.side == "right" and SIDE_ASSUMED in one.sample.notes
    assert one.crop is not None and one.crop.side == "right"


def test_a_sure_detectors_hand_is_kept_and_its_side_taken() -> None:
    one = item()
    points = torch.rand(21, 2) * 40 + 10
    one.place(Located(HAND, HELD, "left", points, sure=True))
    assert not one.guessed and one.left and one.sample.hand_box == HAND and one.sample.keypoints is points
    assert (
        one.sample.notes == ("other",) and one.crop is not None and one.crop.side == "right"
    )  # networks see right hands
    mine = torch.zeros(21, 2)
    told = item(keypoints=mine, side="left")
    told.place(Located(HAND, HELD, "left", points, sure=True))
    assert told.sample.keypoints is mine


def test_the_detector_sees_left_hands_in_the_mirror_and_keeps_given_boxes() -> None:
    finder, sample = BoxDetector(), item().sample
    right = finder.locate(sample)
    left = finder.locate(mirror_sample(sample))
    assert left.hand_box == pytest.approx((119 - right.hand_box[2], right.hand_box[1], 119 - right.hand_box[0],
                                           right.hand_box[3]), abs=1e-3)  # fmt: skip
    assert not right.sure and right.side is None
    boxed = finder.locate(dataclasses.replace(sample, hand_box=HAND))
    assert boxed.hand_box == HAND and boxed.object_box == right.object_box


@pytest.mark.parametrize(("clear", "value", "seen"), [(16, 0.95, False), (17, 0.95, True), (400, CLEAR - 0.01, False)])
def test_a_guess_without_enough_clear_pixels_is_no_hand(clear: int, value: float, seen: bool, tmp_path: Path) -> None:
    assert 16 / 64**2 < LEAST_CLEAR < 17 / 64**2
    one, folder = item(), folder_of_one(tmp_path)
    one.place(Located(HAND, HELD, notes=("mediapipe sees no hand", "boxes by another")))
    if seen:
        check_hand(with_mask(one, clear, value), folder)
        assert one.notes[-1].startswith("only 0.4% of the crop is clearly a hand")
        check_hand(with_mask(one, 100, value), folder)
        assert len(one.notes) == 3  # nothing is said of 2.4 %
        return
    with pytest.raises(InputError, match=r"a: no hand was found .*\(mediapipe sees no hand\).*'hand_box'.*--boxes"):
        check_hand(with_mask(one, clear, value), folder)


def test_who_says_where_the_hand_is_is_believed(tmp_path: Path) -> None:
    nobody = folder_of_one(tmp_path)
    given = item(hand_box=HAND)
    given.place(Located(HAND, HELD))
    check_hand(with_mask(given, 0), nobody)
    sure = item()
    sure.place(Located(HAND, HELD, sure=True))
    check_hand(with_mask(sure, 0), nobody)
    no_maps = item()
    no_maps.place(Located(HAND, HELD))
    no_maps.features = Features(no_maps.sample.camera, embedded_object("can"))
    check_hand(no_maps, nobody)  # a recipe without masks cannot tell


def backgrounds(folder: Path) -> list[str]:
    """Plain, a gradient, stripes, noise: nothing anybody would take for a hand."""
    folder.mkdir()
    y, x = np.mgrid[0:240, 0:320]
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3))
    pictures = {
        "plain": np.full((240, 320, 3), 128),
        "gradient": np.stack([x * 255 // 320, y * 255 // 240, 255 - x * 255 // 320], -1),
        "stripes": np.repeat((x[..., None] // 20 % 2) * 200 + 20, 3, -1),
        "noise": noise,
    }
    for name, picture in pictures.items():
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{name}.png")
    return sorted(pictures)


def test_photographs_without_a_hand_fail_with_a_way_out_and_boxes_overrule(tmp_path: Path) -> None:
    """The shipped networks, from the command line."""
    names, out = backgrounds(tmp_path / "in"), tmp_path / "out"
    few = ("--set", "stages.correspond.steps=1", "--set", "stages.render.steps=1", "--set", "align.object=given")
    command = ["run", str(tmp_path / "in"), "--object", "mug", "--out", str(out), "--no-pictures", *few]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 4 and "Traceback" not in result.stderr, result.stderr
    items = {entry["name"]: entry for entry in json.loads((out / "summary.json").read_text())["items"]}
    assert sorted(items) == names
    refused = {name: entry for name, entry in items.items() if entry["status"] == "failed"}
    assert {"plain", "noise"} <= set(refused)
    for name, entry in refused.items():
        assert entry["error_code"] == "input"
        assert f"{name}: no hand was found in this image" in entry["error"] and "--boxes" in entry["error"]
    for name in set(items) - set(refused):  # the rest is doubted
        assert "is there one?" in str(items[name]["notes"])
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("name,hand_x0,hand_y0,hand_x1,hand_y1\nplain,100,80,200,160\n")
    again = CliRunner().invoke(app, [*command, "--boxes", str(boxes)])
    items = {entry["name"]: entry for entry in json.loads((out / "summary.json").read_text())["items"]}
    assert again.exit_code == 4 and items["noise"]["status"] == "failed"
    assert items["plain"]["status"] != "failed", items["plain"]  # the user says there is one
