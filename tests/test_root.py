"""Where the wrist is: predicted, or known from the user."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from horefine.data import Sample
from horefine.data.mirror import mirror_pose, mirror_sample
from horefine.extractors.initial import HoisdfInitializer
from horefine.extractors.root import Frame, KnownWrist, Root
from horefine.geometry import Camera, project
from horefine.hand import load_hand
from horefine.objects import embedded_object

MATRIX = torch.tensor([[[300.0, 0, 40], [0, 310, 90], [0, 0, 1]]]).expand(4, 3, 3)
NAN = float("nan")


def frame_and_root() -> tuple[Frame, Root]:
    generator = torch.Generator().manual_seed(0)
    frame = Frame.of(MATRIX, 128)
    return frame, Root(torch.rand(4, 2, 2, generator=generator) - 0.5, torch.zeros(4, 2), frame.focal)


def in_camera(frame: Frame, points: torch.Tensor) -> torch.Tensor:
    return (frame.rotation.mT @ points[..., None])[..., 0]


def test_what_is_known_of_the_wrist_is_taken_and_the_rest_predicted() -> None:
    frame, root = frame_and_root()
    place = torch.tensor([[0.02, -0.03, 0.7], [NAN, NAN, 0.7], [NAN, NAN, NAN], [NAN, NAN, 0.4]])
    grid = torch.tensor([[NAN, NAN], [NAN, NAN], [0.1, -0.2], [0.1, -0.2]])
    (wrist, other), (plain_wrist, plain_other) = root.points(frame, KnownWrist(place, grid)), root.points(frame)
    seen = in_camera(frame, wrist)
    assert torch.allclose(seen[0], place[0], atol=1e-6)
    assert torch.allclose(seen[[1, 3], 2], place[[1, 3], 2])
    pixels = project(seen[:, None], MATRIX)[:, 0]
    predicted = project(in_camera(frame, plain_wrist)[:, None], MATRIX)[:, 0]
    assert torch.allclose(pixels[1], predicted[1], atol=1e-3)  # the depth alone: along the predicted ray
    asked = ((grid[2] + 1) * 128 - 1) / 2
    assert torch.allclose(pixels[2:], asked.expand(2, 2), atol=1e-3)
    assert wrist[2, 2] == pytest.approx(
        float(plain_wrist[2, 2])
    )  # the place in the picture alone: at the predicted depth
    shift = wrist[:, 2] - plain_wrist[:, 2]
    assert torch.allclose(other[:, 2] - plain_other[:, 2], shift, atol=1e-6)  # the object goes along
    assert torch.allclose(
        project(in_camera(frame, other)[:, None], MATRIX),
        project(in_camera(frame, plain_other)[:, None], MATRIX),
        atol=1e-3,
    )


def test_nothing_known_changes_nothing() -> None:
    frame, root = frame_and_root()
    unknown = KnownWrist(torch.full((4, 3), NAN), torch.full((4, 2), NAN))
    for one, other in zip(root.points(frame, unknown), root.points(frame), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def crop(**known: object) -> Sample:
    generator = torch.Generator().manual_seed(3)
    camera = Camera(torch.tensor([[[600.0, 0, 120], [0, 600, 130], [0, 0, 1]]]), (256, 256))
    image = torch.rand(3, 256, 256, generator=generator)
    return dataclasses.replace(Sample("a", image, camera, embedded_object("can")), **known)  # pyright: ignore


def test_only_crops_that_know_something_are_asked() -> None:
    assert KnownWrist.of([crop(), crop()]) is None
    found = KnownWrist.of([crop(), crop(wrist=(None, None, 0.6), keypoints=torch.full((21, 2), 127.5))])
    assert found is not None and found.place[0].isnan().all() and found.grid[0].isnan().all()
    assert found.place[1, 2] == pytest.approx(0.6) and found.place[1, :2].isnan().all()
    assert found.grid[1].tolist() == [0, 0]  # the middle of the crop


def test_the_first_pose_begins_at_the_known_wrist() -> None:
    """With the shipped network: the wrist exactly, alone or in a batch, and as well in the mirror."""
    hand, maker = load_hand(kind="embedded"), HoisdfInitializer()
    place = (0.01, -0.02, 0.45)
    known = crop(wrist=place)

    def wrist(pose) -> torch.Tensor:
        return hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).joints[:, 0]

    both, _ = maker.initialize([crop(), known])
    alone, _ = maker.initialize([known])
    assert torch.allclose(wrist(both)[1], torch.tensor(place), atol=1e-5)
    assert torch.allclose(wrist(alone)[0], torch.tensor(place), atol=1e-5)
    plain, _ = maker.initialize([crop()])
    assert torch.allclose(wrist(both)[0], wrist(plain)[0], atol=1e-5)
    assert (wrist(plain)[0] - torch.tensor(place)).norm() > 0.01
    left, _ = maker.initialize([mirror_sample(dataclasses.replace(known, side="left"))])
    assert torch.allclose(wrist(left)[0], torch.tensor([-0.01, -0.02, 0.45]), atol=1e-5)
    assert float(mirror_pose(left).hand_transl[0, 2]) == pytest.approx(float(left.hand_transl[0, 2]))
