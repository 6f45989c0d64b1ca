"""MediaPipe's hand model as a detector for photographs: ``--detector mediapipe`` (hand box, side, key points).

MediaPipe is no dependency: version 0.10 (Apache-2.0, its models inside its wheel, works offline) asks for old numpy, so
it is installed without its dependencies, see :data:`RECIPE`. Later versions download their model when they are used and
report usage to Google; they are refused.

Its score is no measure of quality: where fingers are hidden it invents them with a high score. How far its key points
scatter when the picture is mirrored, turned and shrunk is one: a few per cent of the hand's size where they are right.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from horefine.data import Sample
from horefine.data.known import keypoint_box
from horefine.errors import AssetError
from horefine.extractors.detector import BoxDetector, Located
from horefine.geometry import Box, square_box

__all__ = [
    "LARGEST_SPREAD", "RECIPE", "VIEWS", "MediapipeDetector", "SeenHand", "View", "choose", "gather", "look",
    "open_hands",
]  # fmt: skip

RECIPE = (
    "pip install --no-deps mediapipe==0.10.21 && pip install absl-py attrs flatbuffers 'protobuf<5' matplotlib "
    "opencv-python-headless"
)
"""How 0.10 is installed beside numpy 2 (its own list of dependencies holds numpy back)."""
LARGEST_SPREAD = 0.08
"""Of the hand's size: key points that scatter more are not believed."""
FEWEST_VIEWS = 4
"""In how many of the views a hand must be seen."""
LONGEST_SIDE = 1280
"""Pixels of the pictures that MediaPipe is shown."""

Side = Literal["right", "left"]
_OTHER: dict[str, Side] = {"right": "left", "left": "right"}


@dataclass(frozen=True)
class View:
    """A copy of the picture: mirrored, then turned about its middle, then shrunk, on a canvas that holds it."""

    mirrored: bool
    degrees: float
    scale: float

    def affine(self, width: int, height: int) -> tuple[np.ndarray, tuple[int, int]]:
        """Its pixels from the picture's (3 x 3; edges of the picture count from 0), and its width and height."""
        angle = math.radians(self.degrees)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        size = np.ceil(np.abs(turn) @ [width, height]).astype(int)
        linear = self.scale * turn @ np.diag([-1.0 if self.mirrored else 1.0, 1.0])
        matrix = np.eye(3)
        matrix[:2, :2] = linear
        matrix[:2, 2] = size / 2 - linear @ [width / 2, height / 2]
        return matrix, (int(size[0]), int(size[1]))


VIEWS = tuple(View(m, degrees, scale) for m in (False, True) for degrees in (0, -20, 20) for scale in (1.0, 0.7))


@dataclass(frozen=True)
class SeenHand:
    """One hand as several views show it."""

    side: Side
    keypoints: Float[np.ndarray, "21 2"]
    """Pixels of the photograph: the median over the views."""
    spread: Float[np.ndarray, "21"]
    """How far each scatters over the views (root mean square), pixels."""
    views: int
    """How many views show it."""

    @property
    def size(self) -> float:
        """The longer side of the key points' box, pixels."""
        return float(np.ptp(self.keypoints, axis=0).max())

    @property
    def scatter(self) -> float:
        """Mean spread as a share of the hand's size."""
        return float(self.spread.mean() / max(self.size, 1e-6))

    @property
    def believed(self) -> bool:
        """Whether its key points agree well enough."""
        return self.views >= FEWEST_VIEWS and self.scatter <= LARGEST_SPREAD


def open_hands() -> Any:
    """MediaPipe's module of hands, if it is a version that works offline and reports to nobody.

    Raises:
        AssetError: it is not installed, broken, or another version; says how to install the right one.
    """
    try:
        module = importlib.import_module("mediapipe")
    except ImportError as error:
        raise AssetError(
            f"--detector mediapipe: cannot be imported ({error}); install it: {RECIPE}; or leave --detector out"
        ) from None
    version = str(getattr(module, "__version__", "unknown"))
    if not version.startswith("0.10."):
        raise AssetError(
            f"--detector mediapipe: version {version} is not used: only 0.10 has its hand model in its wheel, later "
            f"ones download it and report usage to Google; install it: {RECIPE}; or leave --detector out"
        )
    hands = getattr(getattr(module, "solutions", None), "hands", None)
    if hands is None:
        raise AssetError(f"--detector mediapipe: version {version} has no solutions.hands; install it: {RECIPE}")
    return hands


def look(network: Any, picture: np.ndarray, views: Sequence[View] = VIEWS) -> list[list[tuple[Side, np.ndarray]]]:
    """What each view shows: side and key points (21 x 2, pixels of the picture) of each hand.

    Args:
        network: ``mediapipe.solutions.hands.Hands``.
        picture: H x W x 3, uint8.
    """
    height, width = picture.shape[:2]
    image = Image.fromarray(picture)
    found = []
    for view in views:
        matrix, size = view.affine(width, height)
        back = np.linalg.inv(matrix)
        shown = image.transform(
            size, Image.Transform.AFFINE, tuple(back[:2].ravel()), Image.Resampling.BILINEAR, fillcolor=(127,) * 3
        )
        answer: Any = network.process(np.asarray(shown))
        hands = []
        for marks, named in zip(answer.multi_hand_landmarks or [], answer.multi_handedness or [], strict=False):
            points = np.array([[mark.x * size[0], mark.y * size[1], 1.0] for mark in marks.landmark])
            pixels = (points @ back.T)[:, :2] - 0.5  # the house's pixels: 0 is the centre of the first
            hands.append((_side(named.classification[0].label, view.mirrored), pixels))
        found.append(hands)
    return found


def _side(label: str, mirrored: bool) -> Side:
    """0.10 names hands as in a selfie, which is mirrored: in a photograph its ``Left`` is a right hand."""
    shown: Side = "left" if label == "Right" else "right"
    return _OTHER[shown] if mirrored else shown


def gather(found: Sequence[Sequence[tuple[Side, np.ndarray]]]) -> list[SeenHand]:
    """The hands that the views show, largest first; at most one of each view belongs to the same hand."""
    groups: list[list[tuple[int, Side, np.ndarray]]] = []
    for view, hands in enumerate(found):
        for side, points in hands:
            near = [g for g in groups if all(v != view for v, _, _ in g) and _same([p for _, _, p in g], points)]
            if near:
                near[0].append((view, side, points))
            else:
                groups.append([(view, side, points)])
    seen = []
    for group in groups:
        stack = np.stack([points for _, _, points in group])
        middle = np.median(stack, axis=0)
        spread = np.sqrt(((stack - middle) ** 2).sum(-1).mean(0))
        lefts = sum(side == "left" for _, side, _ in group)
        seen.append(SeenHand("left" if 2 * lefts > len(group) else "right", middle, spread, len(group)))
    return sorted(seen, key=lambda hand: -hand.size)


def _same(group: list[np.ndarray], points: np.ndarray) -> bool:
    """Whether key points are of the hand of a group: their boxes' middles are near for their size."""
    other = np.median(np.stack(group), axis=0)
    middles = [(p.min(0) + p.max(0)) / 2 for p in (other, points)]
    size = max(np.ptp(other, axis=0).max(), np.ptp(points, axis=0).max())
    return bool(np.linalg.norm(middles[0] - middles[1]) < 0.4 * size)


class MediapipeDetector:
    """Hand by MediaPipe, object by horefine's detector near it; horefine's alone where MediaPipe is not sure."""

    def __init__(self, device: str = "cpu") -> None:
        """Imports MediaPipe.

        Raises:
            AssetError: see :func:`open_hands`.
        """
        self.hands, self.boxes = open_hands(), BoxDetector(device)

    def locate(self, sample: Sample, side: Side | None = None) -> Located:
        """As ``BoxDetector.locate``; also the side where nobody said it, and key points."""
        chosen, notes = choose(self._seen(sample), side, sample.hand_box)
        if chosen is None:
            other = self.boxes.locate(sample, side)
            return Located(other.hand_box, other.object_box, notes=(*notes, *other.notes))
        points = torch.from_numpy(chosen.keypoints).float()
        hand_box = sample.hand_box or keypoint_box(points)
        held = sample.object_box or self._held(sample, hand_box, chosen.side)
        return Located(hand_box, held, chosen.side, points, sure=True, notes=notes)

    def _seen(self, sample: Sample) -> list[SeenHand]:
        height, width = sample.image.shape[1:]
        picture = Image.fromarray((sample.image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
        shrink = min(1.0, LONGEST_SIDE / max(height, width))
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        small = np.asarray(picture.resize(size, Image.Resampling.BILINEAR) if shrink < 1 else picture)
        with (
            _hushed(),
            self.hands.Hands(
                static_image_mode=True, max_num_hands=4, model_complexity=1, min_detection_confidence=0.3
            ) as network,
        ):
            found = look(network, small)
        factor = np.array([width / size[0], height / size[1]])
        return gather([[(side, (points + 0.5) * factor - 0.5) for side, points in hands] for hands in found])

    def _held(self, sample: Sample, hand_box: Box, side: Side) -> Box:
        """The object by horefine's detector in a window about the hand; the hand's own box where it finds none near."""
        window = square_box(hand_box, 3.0)
        height, width = sample.image.shape[1:]
        left, top = max(0, int(window[0])), max(0, int(window[1]))
        right, bottom = min(width, math.ceil(window[2])), min(height, math.ceil(window[3]))
        if right - left < 16 or bottom - top < 16:
            return hand_box
        part = Sample(sample.name, sample.image[:, top:bottom, left:right], sample.camera, side=side)
        x0, y0, x1, y1 = self.boxes.locate(part, side).object_box
        found = x0 + left, y0 + top, x1 + left, y1 + top
        return found if _touch(found, square_box(hand_box, 1.5)) else hand_box


def _touch(first: Box, second: Box) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Without what MediaPipe's compiled part tells of its own workings on the error stream, whatever one asks it."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def choose(
    hands: Sequence[SeenHand], side: Side | None, box: Box | None = None
) -> tuple[SeenHand | None, tuple[str, ...]]:
    """The hand that is meant, and what is to be said.

    Of the hands that are believed and lie in the user's ``box`` (if there is one): that of the named side, else the
    largest. None when there is none; the note says why.
    """
    seen = [hand for hand in hands if box is None or _touch(box, keypoint_box(torch.from_numpy(hand.keypoints)))]
    good = [hand for hand in seen if hand.believed]
    if not good:
        return None, (_doubt(seen),)
    best = next((hand for hand in good if side in (None, hand.side)), good[0])
    notes = [f"hand found by mediapipe: {best.side}, key points scatter by {best.scatter:.1%} of it"]
    if side not in (None, best.side):
        notes.append(f"mediapipe takes it for a {best.side} hand; it stays a {side} one, as given")
        best = dataclasses.replace(best, side=side)
    if len(good) > 1:
        why = "the larger one" if side is None else f"the {side} one"
        sides = ", ".join(hand.side for hand in good)
        notes.append(f"mediapipe sees {len(good)} hands ({sides}): {why} was taken; 'side' or boxes choose another")
    return best, tuple(notes)


def _doubt(hands: Sequence[SeenHand]) -> str:
    """Why none of them is believed."""
    if not hands:
        return "mediapipe sees no hand"
    best = min(hands, key=lambda hand: (hand.views < FEWEST_VIEWS, hand.scatter))
    if best.views < FEWEST_VIEWS:
        return f"mediapipe sees a hand in {best.views} of {len(VIEWS)} views only: not believed"
    limit = f"{LARGEST_SPREAD:.0%}"
    return f"mediapipe's key points scatter by {best.scatter:.1%} of the hand (limit {limit}): not believed"
