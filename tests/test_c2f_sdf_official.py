"""A published C2F-SDF as the source of first poses: what it is told, what comes back, in which frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import parity_c2f_sdf as parity
from horefine.data import Sample
from horefine.data.crop import crop_sample
from horefine.errors import AssetError, InputError, SurfaceError
from horefine.extractors.c2f_sdf import C2fSdf
from horefine.extractors.c2f_sdf_crop import official_c2f_crop
from horefine.extractors.c2f_sdf_hand import HandBasis
from horefine.extractors.c2f_sdf_official import C2fReading, OfficialC2fInitializer, official_c2f, reconstruction_cells
from horefine.extractors.field_initial import FieldInitializer, Reading
from horefine.geometry import Camera, axis_angle_to_matrix, project
from horefine.hand import HandModel, load_hand
from horefine.objects import embedded_object
from tests.c2f_sdf_files import published
from tests.test_c2f_sdf import SMALL

DATA = Path(__file__).parent / "data" / "c2f_sdf"


class Told(FieldInitializer):
    """Finds the same hand in every crop."""

    def __init__(self, hand: HandModel) -> None:
        super().__init__("cpu", hand)

    def read(self, crops: Sequence[Sample]) -> list[Reading]:
        def away(points: torch.Tensor) -> torch.Tensor:
            return points.norm(dim=-1)

        place = torch.tensor([0.03, -0.02, 0.6])
        return [Reading(0.1 * torch.ones(16, 3), torch.zeros(10), place, place + 0.05, away, away) for _ in crops]


@pytest.fixture(scope="module")
def hand() -> HandModel:
    return load_hand(kind="embedded")


@pytest.fixture(scope="module")
def network() -> C2fSdf:
    torch.manual_seed(0)
    return C2fSdf(SMALL).eval().requires_grad_(False)


BASIS = HandBasis(0.1 * torch.arange(45.0), torch.eye(45)[:15])


def crop(name: str = "a", seed: int = 1) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    camera = Camera(torch.tensor([[[300.0, 0, 40], [0, 300, 70], [0, 0, 1]]]), (128, 128))
    depth = torch.zeros(128, 128)
    depth[30:90, 40:100] = 0.6 + 0.02 * torch.rand(60, 60, generator=generator)
    return Sample(name, torch.rand(3, 128, 128, generator=generator), camera, embedded_object("can"), depth)


def test_the_answer_is_the_networks_in_the_cameras_frame(network, hand):
    kept = []

    class Spy(OfficialC2fInitializer):
        def _see(self, crop, depth, joints):
            kept.append(super()._see(crop, depth, joints))
            return kept[-1]

    reading = Spy(network, "cpu", hand, BASIS, Told(hand)).read([crop()])[0]
    (seen,) = kept
    turn = seen.place.frame.rotation[0]
    middle = turn.mT @ torch.tensor([0.0, 0, 1])
    assert torch.allclose(project(middle[None, None], crop().camera.matrix)[0, 0], torch.tensor(63.5), atol=1e-3)
    assert torch.allclose(reading.wrist, torch.tensor([0.03, -0.02, 0.6]))
    assert torch.allclose(seen.place.wrist[0], turn @ reading.wrist, atol=1e-6)
    points = reading.wrist + 0.05 * torch.randn(9, 3)
    for which, ask in (("hand", reading.hand), ("object", reading.object)):
        exact = network.fine(which, seen, (points @ turn.mT)[None])[0] / network.config.scale
        assert torch.allclose(ask(points), exact, atol=1e-6)
    numbers = network.hand_numbers(seen.looked)
    wrist = turn.mT @ axis_angle_to_matrix(numbers.pose[0, :3])
    assert torch.allclose(axis_angle_to_matrix(reading.hand_rotvec[0]), wrist, atol=1e-5)
    assert torch.allclose(reading.hand_rotvec[1:].flatten(), BASIS.rotvec(numbers.pose)[0, 3:])
    assert torch.equal(reading.hand_shape, numbers.shape[0])
    assert torch.allclose(turn @ reading.object_center, network.center(seen.looked, seen.place)[0], atol=1e-5)


def test_a_crop_of_ours_is_looked_at_as_the_authors_look(hand):
    """The same photograph, box and joints: frame, units and points agree; pixels are resampled otherwise."""
    stored = parity.load(DATA / "crop.npz")
    x, y, width, height = stored["place"].tolist()
    image = torch.zeros(3, 480, 640)
    image[:, y : y + height, x : x + width] = stored["pre/rgb_raw"].permute(2, 0, 1) / 255
    depth = torch.from_numpy(stored["pre/depth_raw"].numpy().astype(np.float32)) / 1000
    focal_x, focal_y, *middle = stored["pre/K"].tolist()
    matrix = torch.tensor([[focal_x, 0, middle[0]], [0, focal_y, middle[1]], [0, 0, 1]])
    box, joints = stored["pre/bbox"], stored["pre/joints"]
    exact = official_c2f_crop(image, depth, matrix, box, joints)
    sample = Sample("a", image, Camera(matrix[None], (480, 640)), None, depth)
    corner = (box[:2], box[:2] + box[2:])
    cut = crop_sample(sample, tuple(torch.cat(corner).tolist()))  # type: ignore[arg-type]
    assert cut.depth is not None
    seen = []

    class Network(C2fSdf):
        def see(self, looked, cloud, place):
            seen.append((cloud, place))
            return super().see(looked, cloud, place)

    small = dataclasses.replace(SMALL, size=256, points=1024, focal=focal_x, center_bins=64, heat_bins=32)
    OfficialC2fInitializer(Network(small).eval(), "cpu", hand, BASIS, Told(hand))._see(cut, cut.depth, joints)
    cloud, place = seen[0]
    for name in ("wrist", "center", "half"):
        assert torch.allclose(getattr(place, name), getattr(exact.place, name), rtol=1e-4, atol=1e-5)
    for name in ("rotation", "projection"):
        assert torch.allclose(getattr(place.frame, name), getattr(exact.place.frame, name), rtol=1e-4, atol=1e-5)
    differs = (cloud.depth - exact.cloud.depth).abs() > 0.05
    assert differs.float().mean() < 0.03  # edges fall on other pixels
    middles = cloud.points.mean(1), exact.cloud.points.mean(1)
    assert torch.allclose(*middles, atol=5e-3)


def test_without_a_head_for_the_hand_it_stays_as_found(hand):
    without = C2fSdf(dataclasses.replace(SMALL, hand=False, object_center=False, heatmap=False)).eval()
    finder = Told(hand)
    reading = OfficialC2fInitializer(without, "cpu", hand, None, finder).read([crop()])[0]
    (found,) = finder.read([crop()])
    assert torch.equal(reading.hand_rotvec, found.hand_rotvec) and torch.equal(
        reading.object_center, found.object_center
    )
    with pytest.raises(ValueError, match="basis is None"):
        OfficialC2fInitializer(C2fSdf(SMALL), "cpu", hand, None, finder)
    with pytest.raises(ValueError, match="search is 'fast'; known: follow, cells"):
        OfficialC2fInitializer(without, "cpu", hand, None, finder, "fast")


def test_what_is_known_of_the_wrist_is_taken(network, hand):
    initializer = OfficialC2fInitializer(network, "cpu", hand, BASIS, Told(hand))
    for known, wrist in (((None, None, 0.66), [0.033, -0.022, 0.66]), ((0.01, 0.02, 0.7), [0.01, 0.02, 0.7])):
        (reading,) = initializer.read([dataclasses.replace(crop(), wrist=known)])
        assert reading.wrist.tolist() == pytest.approx(wrist)


def test_depth_is_needed_and_repeats(network, hand):
    initializer = OfficialC2fInitializer(network, "cpu", hand, BASIS, Told(hand))
    with pytest.raises(InputError, match="b: c2fsdf and measured_depth need a depth camera's map"):
        initializer.read([crop(), dataclasses.replace(crop(), name="b", depth=None)])
    first, second = (initializer.read([crop("b", 2), crop()])[1], initializer.read([crop()])[0])
    points = first.wrist + 0.05 * torch.randn(9, 3)
    assert torch.equal(first.hand(points), second.hand(points))


DEPTH = torch.full((64, 64), 0.6)


class Balls(C2fSdf):
    """Its fields are two balls of 4 cm, 2 cm to each side of the wrist."""

    def fine_both(self, seen, points, names=("hand", "object")):
        middle = seen.place.wrist[0]
        offset = torch.tensor([0.02, 0, 0])
        centers = {"hand": middle - offset, "object": middle + offset}
        return {name: ((points - centers[name]).norm(dim=-1) - 0.04) * self.config.scale for name in names}


def test_surfaces_from_the_cells_are_those_of_the_field(hand, monkeypatch):
    torch.manual_seed(0)
    balls = Balls(dataclasses.replace(SMALL, heatmap=False, hand=False)).eval()
    monkeypatch.setattr(OfficialC2fInitializer, "surface_resolution", 33)
    monkeypatch.setattr(OfficialC2fInitializer, "cell_resolution", 48)
    found = {}
    for search in ("follow", "cells"):
        initializer = OfficialC2fInitializer(balls, "cpu", hand, None, Told(hand), search)
        (reading,) = initializer.read([crop()])
        assert isinstance(reading, C2fReading)
        found[search] = initializer.surfaces(reading)
        turn = initializer._see(crop(), DEPTH, hand_joints(hand)).place.frame.rotation[0]
        for which, sign in (("hand", -1), ("object", 1)):
            center = reading.wrist + turn.mT @ torch.tensor([sign * 0.02, 0, 0])
            distance = (torch.from_numpy(found[search][which].vertices) - center).norm(dim=-1)
            assert (distance - 0.04).abs().max() < 2e-3
    nothing = C2fSdf(dataclasses.replace(SMALL, heatmap=False)).eval()
    seen = OfficialC2fInitializer(nothing, "cpu", hand, BASIS, Told(hand))._see(crop(), DEPTH, hand_joints(hand))
    with pytest.raises(SurfaceError, match="shows nothing"):
        reconstruction_cells(nothing, seen, None, None)


def hand_joints(hand: HandModel) -> torch.Tensor:
    return hand(torch.zeros(1, 16, 3), torch.zeros(1, 10), torch.tensor([[0.0, 0, 0.6]])).joints[0]


def test_a_checkpoint_needs_a_mano_hand_only_for_its_pose(tmp_path, hand):
    path = tmp_path / "snapshot_799.pth.tar"
    torch.save(published(), path)
    with pytest.raises(AssetError, match="the hand here is the embedded one; give the folder of your MANO_RIGHT"):
        official_c2f(path, "cpu", hand)
    table = published()
    for name in list(table["network"]):
        if name.startswith(("module.mano_head.", "module.backbone_2_mano.")):
            del table["network"][name]
    torch.save(table, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("horefine.extractors.c2f_sdf_official.C2fInitializer", lambda device: Told(hand))
        assert official_c2f(path, "cpu", hand).basis is None
