"""MediaPipe as a detector, with a stand-in for the package: versions, views, sides, scatter, two hands, windows."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from horefine.cli import app
from horefine.data import Sample
from horefine.data.known import keypoint_box
from horefine.errors import AssetError
from horefine.extractors import DETECTORS, Learned
from horefine.extractors.detector import Located
from horefine.extractors.mediapipe_adapter import (
    FEWEST_VIEWS,
    VIEWS,
    MediapipeDetector,
    SeenHand,
    View,
    choose,
    gather,
    look,
    open_hands,
)
from horefine.geometry import Camera, square_box
from horefine.items import Item

Hand = tuple[str, np.ndarray]
SIZE = (120, 160)
RED = np.stack([60 + 8.0 * np.cos(np.arange(21)), 50 + 10.0 * np.sin(np.arange(21) * 1.7)], -1)


def package(answer: Callable[[np.ndarray], list[Hand]], version: str = "0.10.21") -> types.ModuleType:
    """A ``mediapipe`` whose hands are ``answer(picture)``: its labels and key points in pixels from edge to edge."""

    class Hands:
        def __init__(self, **options: object) -> None:
            assert options["static_image_mode"] is True and options["max_num_hands"] > 1  # pyright: ignore

        def __enter__(self):
            return self

        def __exit__(self, *error: object) -> None: ...

        def process(self, picture: np.ndarray) -> types.SimpleNamespace:
            assert picture.dtype == np.uint8 and picture.ndim == 3
            height, width = picture.shape[:2]
            name = types.SimpleNamespace
            found = answer(picture)
            marks = [name(landmark=[name(x=x / width, y=y / height) for x, y in points]) for _, points in found]
            sides = [name(classification=[name(label=label, score=0.99)]) for label, _ in found]
            return name(multi_hand_landmarks=marks or None, multi_handedness=sides or None)

    module = types.ModuleType("mediapipe")
    module.__version__ = version  # pyright: ignore
    module.solutions = types.SimpleNamespace(hands=types.SimpleNamespace(Hands=Hands))  # pyright: ignore
    return module


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def put(answer: Callable[[np.ndarray], list[Hand]] = lambda _: [], version: str = "0.10.21") -> None:
        monkeypatch.setitem(sys.modules, "mediapipe", package(answer, version))

    return put


def dots(picture: np.ndarray, color: int, view: View) -> np.ndarray | None:
    """Where a view shows the square that stands for a hand, as 21 points that turn with the view."""
    strength = picture[..., color].astype(float) - picture.astype(float).mean(-1)
    ys, xs = np.nonzero(strength > 60)
    if not len(xs):
        return None
    weight = strength[ys, xs]
    middle = np.array([np.average(xs + 0.5, weights=weight), np.average(ys + 0.5, weights=weight)])
    radius = np.sqrt(weight.sum() / 255)
    steps = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    circle = np.stack([np.cos(steps), np.sin(steps)], -1) @ view.affine(1, 1)[0][:2, :2].T / view.scale
    return np.concatenate([middle[None], middle + radius * circle])


def photo(*spots: tuple[int, int, int, int]) -> Sample:
    """Grey, with a square of one colour for each hand: x, y, side, colour."""
    image = torch.full((3, *SIZE), 0.3)
    for x, y, side, color in spots:
        image[:, y : y + side, x : x + side] = 0
        image[color, y : y + side, x : x + side] = 1
    return Sample("a", image, Camera.from_focal(150, SIZE))


def sees_colors(picture: np.ndarray) -> list[Hand]:
    """A red square is a left hand, a green one a right hand; its label is as in a selfie, by what the view shows."""
    view = sees_colors.views.pop(0)  # pyright: ignore
    found = []
    for color, side in ((0, "left"), (1, "right")):
        points = dots(picture, color, view)
        if points is not None:
            shown = side if not view.mirrored else {"left": "right", "right": "left"}[side]
            found.append(({"left": "Right", "right": "Left"}[shown], points))
    return found


@pytest.fixture
def colors(install: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sees_colors, "views", [*VIEWS] * 9, raising=False)
    install(sees_colors)


# --- which package ---------------------------------------------------------------------------------------------------


def test_another_version_or_none_is_refused_with_the_recipe(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(AssetError, match=r"cannot be imported.*--no-deps mediapipe==0.10.21"):
        open_hands()
    for version in ("1.2.2", "0.9.3", "unknown"):
        install(version=version)
        with pytest.raises(AssetError, match=rf"version {version} is not used.*usage to Google.*--no-deps"):
            open_hands()
    install(version="0.10.14")
    assert hasattr(open_hands(), "Hands")
    del sys.modules["mediapipe"].solutions  # pyright: ignore
    with pytest.raises(AssetError, match=r"has no solutions.hands"):
        open_hands()


def test_it_is_imported_only_when_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    assert set(DETECTORS) == {"horefine", "mediapipe"} and Learned() is not None
    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")
    command = ["run", str(tmp_path), "--object", "can", "--out", str(tmp_path / "out"), "--detector", "mediapipe"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 3 and "--no-deps mediapipe==0.10.21" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr and not (tmp_path / "out").exists()


# --- views -----------------------------------------------------------------------------------------------------------


def test_there_are_twelve_views_and_half_are_mirrored() -> None:
    assert len(set(VIEWS)) == 12 and sum(view.mirrored for view in VIEWS) == 6 and View(False, 0, 1.0) in VIEWS


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_a_view_holds_the_whole_picture_and_goes_back(view: View) -> None:
    width, height = 160, 120
    matrix, (columns, rows) = view.affine(width, height)
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1.0]]) @ matrix.T
    assert (
        (corners[:, :2] > -1e-6).all() and (corners[:, 0] < columns + 1e-6).all() and (corners[:, 1] < rows + 1).all()
    )
    assert np.linalg.det(matrix) == pytest.approx(view.scale**2 * (-1 if view.mirrored else 1))


def test_key_points_come_back_to_the_same_pixels_from_every_view(colors: None) -> None:
    picture = (photo((70, 40, 20, 0)).image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    with open_hands().Hands(static_image_mode=True, max_num_hands=4) as network:
        found = look(network, picture)
    assert len(found) == 12
    for hands in found:
        ((side, points),) = hands
        assert side == "left"  # whether the view is mirrored or not
        assert points[0] == pytest.approx([79.5, 49.5], abs=0.4)  # the middle of pixels 70..89 and 40..59


# --- hands -----------------------------------------------------------------------------------------------------------


def views_of(*hands: tuple[str, np.ndarray, float], seed: int = 0) -> list[list[tuple]]:
    rng = np.random.default_rng(seed)
    return [[(side, points + rng.normal(0, noise, points.shape)) for side, points, noise in hands] for _ in VIEWS]


def test_scatter_is_that_of_the_key_points_over_the_hands_size() -> None:
    noise = 0.5
    (hand,) = gather(views_of(("right", RED, noise)))
    assert hand.side == "right" and hand.views == 12 and hand.size == pytest.approx(20, abs=1)
    assert hand.scatter == pytest.approx(noise * 2**0.5 / hand.size, rel=0.1)
    assert np.abs(hand.keypoints - RED).max() < 4 * noise and hand.believed
    (wild,) = gather(views_of(("right", RED, 3.0)))
    assert wild.scatter > 0.15 and not wild.believed
    (rare,) = gather([hands if i < FEWEST_VIEWS - 1 else [] for i, hands in enumerate(views_of(("right", RED, 0.1)))])
    assert rare.views == FEWEST_VIEWS - 1 and not rare.believed


def test_two_hands_stay_two_whatever_their_order() -> None:
    found = views_of(("right", RED, 0.3), ("left", RED * 1.5 + [50, 0], 0.3))
    found = [hands[::-1] if i % 2 else hands for i, hands in enumerate(found)]
    large, small = gather(found)
    assert (large.side, small.side) == ("left", "right") and large.views == small.views == 12
    assert large.size == pytest.approx(1.5 * small.size, rel=0.1)


def test_the_side_is_that_of_most_views() -> None:
    found = views_of(("right", RED, 0.3))
    found = [[("left" if i < 4 else side, points) for side, points in hands] for i, hands in enumerate(found)]
    assert gather(found)[0].side == "right"


def hand(side: str, shift: float = 0.0, spread: float = 0.5, views: int = 12, scale: float = 1.0) -> SeenHand:
    return SeenHand(side, RED * scale + [shift, 0], np.full(21, spread), views)  # pyright: ignore


def test_which_hand_is_taken_is_said() -> None:
    large, small = hand("left", 60, scale=1.4), hand("right")
    best, notes = choose([large, small], None)
    assert best is large and "2 hands (left, right): the larger one was taken" in notes[1]
    best, notes = choose([large, small], "right")
    assert best is small and "the right one was taken" in notes[1]
    best, notes = choose([large, small], None, keypoint_box(torch.from_numpy(small.keypoints)))
    assert best is small and len(notes) == 1
    best, notes = choose([small], "left")
    assert best is not None and best.side == "left" and "takes it for a right hand; it stays a left one" in notes[1]


def test_hands_that_are_not_believed_are_not_taken() -> None:
    assert choose([], None) == (None, ("mediapipe sees no hand",))
    best, notes = choose([hand("left", spread=3.0)], None)
    assert best is None and "scatter by 15" in notes[0] and "limit 8%" in notes[0]
    best, notes = choose([hand("left", views=2)], None)
    assert best is None and "in 2 of 12 views only" in notes[0]
    best, notes = choose([hand("left", spread=6.0, scale=2), hand("right", 90)], None)
    assert best is not None and best.side == "right" and len(notes) == 1


# --- as a detector ---------------------------------------------------------------------------------------------------


class Boxes:
    """In place of horefine's detector: the object lies at ``answer`` of what it is shown."""

    def __init__(self, answer: tuple[float, float, float, float]) -> None:
        self.answer, self.shown = answer, []

    def locate(self, sample: Sample, side: str | None = None) -> Located:
        self.shown.append((tuple(sample.image.shape[1:]), sample.side))
        return Located((1, 2, 30, 40), self.answer, notes=("by boxes",))


def detector(answer: tuple[float, float, float, float] = (3, 3, 20, 20)) -> tuple[MediapipeDetector, Boxes]:
    made, boxes = MediapipeDetector(), Boxes(answer)
    made.boxes = boxes  # pyright: ignore
    return made, boxes


def test_the_hand_is_mediapipes_and_the_object_is_sought_about_it(colors: None) -> None:
    made, boxes = detector((30, 31, 60, 62))
    found = made.locate(photo((100, 60, 20, 0)))
    assert found.side == "left" and found.sure and found.keypoints is not None
    assert found.keypoints[0].tolist() == pytest.approx([109.5, 69.5], abs=0.4)
    x0, y0, x1, y1 = found.hand_box
    assert (x0 + x1) / 2 == pytest.approx(109.5, abs=0.5) and (y0 + y1) / 2 == pytest.approx(69.5, abs=0.5)
    window = square_box(found.hand_box, 3.0)
    left, top = int(window[0]), int(window[1])
    ((shape, side),) = boxes.shown
    assert side == "left" and shape == (120 - top, 160 - left)
    assert found.object_box == pytest.approx((left + 30, top + 31, left + 60, top + 62))
    assert "found by mediapipe: left" in found.notes[0]


def test_an_object_that_is_far_from_the_hand_is_not_believed(colors: None) -> None:
    made, _ = detector((0, 0, 2, 2))
    found = made.locate(photo((100, 60, 20, 0)))
    assert found.object_box == found.hand_box


def test_what_the_user_gave_stays(colors: None) -> None:
    import dataclasses

    made, boxes = detector()
    sample = dataclasses.replace(photo((100, 60, 20, 0), (20, 20, 16, 1)), object_box=(1.0, 2, 3, 40))
    found = made.locate(sample, "right")
    assert found.side == "right" and found.object_box == (1, 2, 3, 40) and not boxes.shown
    assert any("2 hands" in note for note in found.notes)
    boxed = dataclasses.replace(sample, hand_box=(15.0, 15, 40, 40))
    assert made.locate(boxed).side == "right" and made.locate(boxed).hand_box == (15, 15, 40, 40)


def test_without_a_believed_hand_the_boxes_are_horefines(colors: None) -> None:
    made, _ = detector()
    found = made.locate(photo(), None)
    assert not found.sure and found.side is None and found.hand_box == (1, 2, 30, 40)
    assert found.notes == ("mediapipe sees no hand", "by boxes")


def test_large_photos_are_shown_reduced_and_answered_in_their_own_pixels(colors: None) -> None:
    made, _ = detector()
    image = torch.full((3, 1500, 2000), 0.3)
    image[:, 700:900, 1000:1200] = torch.tensor([1.0, 0, 0])[:, None, None]
    found = made.locate(Sample("a", image, Camera.from_focal(2000, (1500, 2000))))
    assert found.keypoints is not None and found.keypoints[0].tolist() == pytest.approx([1099.5, 799.5], abs=2)


def test_an_item_takes_over_the_side_and_the_hand(colors: None) -> None:
    made, _ = detector()
    item = Item(0, photo((100, 60, 20, 0)))
    item.place(made.locate(item.sample, None))
    assert item.left and not item.guessed and item.sample.hand_box is not None
    assert item.crop is not None and item.crop.side == "right" and item.crop.keypoints is not None
    red = item.crop.image[0] - item.crop.image.mean(0)
    x, y = item.crop.keypoints[0].round().long().tolist()
    assert red[y, x] > 0.3  # key points and picture were mirrored together
