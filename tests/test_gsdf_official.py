"""A published gSDF from pixels: its crops and virtual camera, the wrist, what comes back in the camera's frame."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks import parity_gsdf as parity
from benchmarks.parity_hoisdf import load, tensors_of
from horefine.data import Sample
from horefine.errors import AssetError, ConfigError
from horefine.extractors.gsdf import Gsdf, GsdfConfig, Seen, projection_of
from horefine.extractors.gsdf_camera import BONES, core50, virtual_camera
from horefine.extractors.gsdf_official import OfficialGsdfInitializer, clips_of, gsdf_initializer, predict_official
from horefine.geometry import Camera, axis_angle_to_matrix
from horefine.hand import HandModel, load_hand
from horefine.inverse_kinematics.closed_form import flat_joints
from tests.test_gsdf_checkpoint import snapshot

DATA = Path(__file__).parent / "data" / "gsdf"
EMBEDDED = Path(__file__).resolve().parents[1] / "horefine" / "assets" / "embedded_hand.npz"
TINY = GsdfConfig(size=64, width=4, neck=8, bins=4, point_features=8, field_width=96)
MATRIX = torch.tensor([[[150.0, 0, 10], [0, 160, 50], [0, 0, 1]], [[150.0, 0, 31.5], [0, 160, 31.5], [0, 0, 1]]])


@pytest.fixture(scope="module")
def hand(tmp_path_factory: pytest.TempPathFactory) -> HandModel:
    """The embedded hand in a file of MANO's name and layout: nobody's MANO file is needed here."""
    folder = tmp_path_factory.mktemp("mano")
    shutil.copy(EMBEDDED, folder / "MANO_RIGHT.npz")
    return load_hand(folder)


# --- crops and cameras ------------------------------------------------------------------------------------------------


def test_cameras_equal_the_authors():
    stored = load(DATA / "camera.npz")
    rows = parity.compare(parity.camera_arrays(tensors_of(stored)), stored)
    assert len(rows) == 8 and not [row for row in rows if row.ratio > 1]


def test_a_virtual_camera_looks_at_the_middle():
    middle = torch.tensor([31.5, 31.5])
    camera = virtual_camera(MATRIX, middle)
    ahead = camera.to_camera(torch.tensor([[[0.0, 0, 1]]]).expand(2, 1, 3))
    seen = (ahead @ MATRIX.mT)[:, 0]
    assert torch.allclose(seen[:, :2] / seen[:, 2:], middle.expand(2, 2), atol=1e-4)
    assert torch.allclose(camera.rotation[1], torch.eye(3)) and torch.equal(camera.matrix[1], MATRIX[1])
    assert torch.allclose(camera.rotation @ camera.rotation.mT, torch.eye(3).expand(2, 3, 3), atol=1e-6)
    points = torch.randn(2, 4, 3)
    assert torch.allclose(camera.from_camera(camera.to_camera(points)), points, atol=1e-5)
    with pytest.raises(ValueError, match="focal is 'longer'; known: same, length, scale"):
        virtual_camera(MATRIX, middle, "longer")


def places_of(points: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
    """Crop coordinates, and depths behind the wrist."""
    shown = points @ projection.mT
    return torch.cat([shown[..., :2] / shown[..., 2:], points[..., 2:] - points[:, :1, 2:]], -1)


def test_core50_finds_the_wrist_from_the_thumb(hand):
    rest = flat_joints(hand)
    joints = (rest - rest[0]) @ axis_angle_to_matrix(torch.tensor([0.3, 0.8, -0.2])).mT + torch.tensor([0.05, 0, 0.6])
    bones = torch.stack([(joints[b] - joints[a]).norm() for a, b in BONES])
    norm = float((joints[3] - joints[2]).norm())
    projection = projection_of(MATRIX[:1], 64)
    places = places_of(joints[None], projection)
    found = core50(places, projection, norm)[0]  # 1e-7 in its quotient, as published, costs a thousandth
    assert torch.allclose(found, joints, atol=1e-3)
    found = core50(places, projection, 0.5 * norm, 2 * bones)
    assert torch.allclose((found[0, 1] - found[0, 0]).norm(), 2 * bones[0], rtol=0.5)
    lengths = torch.stack([(found[0, b] - found[0, a]).norm() for a, b in BONES])
    assert float((lengths * (2 * bones - lengths)).sum().abs()) < 1e-6  # the best factor is one
    short = core50(places, projection, 1e-4)  # no depth makes the bone so short
    assert bool(short.isfinite().all())


# --- from pixels ------------------------------------------------------------------------------------------------------


class Told(Gsdf):
    """Its heat maps say what is told; its fields are balls of 3 cm about the wrist and of 5 cm about the object."""

    def __init__(self, points: torch.Tensor) -> None:
        super().__init__(TINY)
        self.points = points
        self.eval()

    def see(self, image: torch.Tensor, frames: int = 1) -> Seen:
        own = virtual_camera(MATRIX, torch.full((2,), 31.5))
        points = own.from_camera(self.points)[: len(image)]
        places = places_of(points, projection_of(own.matrix, 64)[: len(image)])
        return Seen([torch.zeros(len(image), 8, 4, 4)], places, torch.ones(len(image), 22))

    def distance(self, which, features, position, body):
        center, radius = (body.wrist, 0.03) if which == "hand" else (body.object_center, 0.05)
        return ((position - center[:, None]).norm(dim=-1) - radius) * self.config.scale


@pytest.fixture(scope="module")
def told(hand) -> tuple[Told, torch.Tensor, torch.Tensor]:
    """The network, the true rotations and the true joints of two hands."""
    generator = torch.Generator().manual_seed(3)
    rotvec = torch.zeros(2, 16, 3)
    rotvec[:, 0] = torch.randn(2, 3, generator=generator)
    place = torch.tensor([[0.1, -0.05, 0.7], [0.0, 0.0, 0.5]])
    joints = hand(rotvec, torch.zeros(2, 10), place).joints
    return Told(torch.cat([joints, place[:, None] + 0.08], 1)), rotvec, joints


def test_everything_comes_back_in_the_cameras_frame(told, hand):
    network, rotvec, joints = told
    found = predict_official(network, torch.zeros(2, 3, 64, 64), MATRIX, joints[:, 0], flat_joints(hand))
    assert torch.allclose(found.joints, joints, atol=1e-4) and torch.allclose(found.wrist, joints[:, 0], atol=1e-5)
    assert torch.allclose(found.object_center, network.points[:, 21], atol=1e-4) and bool(found.proper.all())
    turns = axis_angle_to_matrix(found.hand_rotvec)
    assert torch.allclose(turns[:, 0], axis_angle_to_matrix(rotvec[:, 0]), atol=1e-3)
    assert torch.allclose(turns[:, 1:], torch.eye(3).expand(2, 15, 3, 3), atol=1e-2)
    points = found.object_center[0] + torch.tensor([[0.05, 0, 0], [0, 0.0, 0], [0, 0, -0.08]])
    assert torch.allclose(found.field("object", 0)(points), torch.tensor([0.0, -0.05, 0.03]), atol=1e-4)
    assert torch.allclose(found.field("hand", 1)(joints[1, :1]), torch.tensor([-0.03]), atol=1e-4)


def crops() -> list[Sample]:
    generator = torch.Generator().manual_seed(1)
    made = [
        Sample(name, torch.rand(3, 64, 64, generator=generator), Camera(matrix[None], (64, 64)))
        for name, matrix in zip("ab", MATRIX, strict=True)
    ]
    return [dataclasses.replace(made[0], wrist=(0.1, -0.05, 0.7)), made[1]]


def test_the_wrist_is_the_users_or_a_root_heads_or_the_thumbs(hand):
    network = Gsdf(TINY).eval()
    by_root = OfficialGsdfInitializer(network, "cpu", hand)
    wrists = torch.stack([reading.wrist for reading in by_root.read(crops())])
    assert torch.allclose(wrists[0], torch.tensor([0.1, -0.05, 0.7]), atol=1e-5)
    assert 0.1 < float(wrists[1, 2]) < 3
    alone = torch.stack([by_root.read([crop])[0].wrist for crop in crops()])
    assert torch.allclose(alone, wrists, atol=1e-4)
    by_thumb = OfficialGsdfInitializer(network, "cpu", hand, wrist="core50")
    found = by_thumb.read(crops())
    assert by_thumb.finder is None and torch.allclose(found[0].wrist, wrists[0], atol=1e-5)
    assert not torch.allclose(found[1].wrist, wrists[1], atol=1e-3) and bool(found[1].wrist.isfinite().all())
    for key in ("wrist", "dataset"):
        with pytest.raises(ConfigError, match=f"gsdf {key}: 'oot': there is none"):
            OfficialGsdfInitializer(network, "cpu", hand, **{key: "oot"})  # type: ignore[arg-type]


def test_a_pose_and_the_objects_surface_come_of_it(told, hand):
    """The whole initialiser, for objects that nobody has a mesh of."""
    network, _, joints = told
    known = [dataclasses.replace(crop, wrist=tuple(joints[i, 0].tolist())) for i, crop in enumerate(crops())]
    initializer = OfficialGsdfInitializer(network, "cpu", hand, wrist="core50")
    initializer.surface_resolution = 32  # type: ignore[misc]
    pose, more = initializer.initialize(known)
    posed = hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).joints
    assert torch.allclose(posed, joints, atol=2e-3)
    for row, mesh in enumerate(more["object"]):
        radius = (mesh.vertices[0] + pose.object_transl[row] - network.points[row, 21]).norm(dim=-1)
        assert torch.allclose(radius, torch.full_like(radius, 0.05), atol=1e-3)


def test_pictures_in_clips():
    assert clips_of(6, 3) == [[0, 1, 2], [3, 4, 5]] and clips_of(2, 3) == [[0, 1]]
    assert clips_of(7, 3) == [[0, 1, 2], [3, 4, 5], [4, 5, 6]]


def test_a_clips_pictures_are_read_together(hand):
    torch.manual_seed(0)
    network = Gsdf(dataclasses.replace(TINY, clip_layers=1, clip_head_width=4, clip_hidden=16)).eval()
    clip = [dataclasses.replace(crop, wrist=(0.0, 0, 0.6)) for crop in crops()] * 2
    clip[2] = dataclasses.replace(clip[2], image=1 - clip[2].image)
    points = torch.tensor([[0.01, 0.02, 0.6]])

    def asked(frames: int) -> list[float]:
        initializer = OfficialGsdfInitializer(network, "cpu", hand, wrist="core50", frames=frames)
        return [float(reading.hand(points)) for reading in initializer.read(clip)]

    single, three = asked(1), asked(3)
    assert single[1] == pytest.approx(single[3], abs=1e-7)  # the same picture
    assert abs(three[1] - three[3]) > 5e-6  # in other company
    assert asked(4)[1] != pytest.approx(three[1], abs=5e-7)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_wants_a_mano_hand(hand, tmp_path):
    path = tmp_path / "snapshot_1599.pth.tar"
    torch.save(snapshot(), path)
    with pytest.raises(AssetError, match="its rotations are MANO's, and the hand here is the embedded one"):
        gsdf_initializer(path, "cpu", load_hand(kind="embedded"))
    initializer = gsdf_initializer(path, "cpu", hand, dataset="dexycb", wrist="core50")
    assert isinstance(initializer, OfficialGsdfInitializer) and initializer.network.config.scale == 3.1
    assert initializer.norm == 0.02788814
    path.write_bytes(b"nothing")
    with pytest.raises(AssetError, match="damaged"):
        gsdf_initializer(path, "cpu", load_hand(kind="embedded"))
