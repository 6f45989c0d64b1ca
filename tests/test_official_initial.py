"""A published HOISDF as the source of first poses: what it is told, what comes back, and the command's option."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import parity_hoisdf as parity
from horefine.cli import app
from horefine.data import Sample
from horefine.errors import AssetError, ConfigError
from horefine.extractors import Learned
from horefine.extractors.checkpoints import Checkpoint, build, detect, rename
from horefine.extractors.hoisdf_official import DEPTH, OfficialHoisdf
from horefine.extractors.initial import HoisdfInitializer
from horefine.extractors.official_initial import OfficialInitializer, object_points
from horefine.extractors.weights import default_path
from horefine.geometry import Camera, axis_angle_to_matrix, project
from horefine.hand import HandModel, load_hand
from horefine.objects import embedded_object
from tests.photo_folder import FEW_STEPS, write_photo_folder

EMBEDDED = Path(__file__).resolve().parents[1] / "horefine" / "assets" / "embedded_hand.npz"


def mano_folder(folder: Path) -> Path:
    """The embedded hand in a file of MANO's name and layout: nobody's MANO file is needed here."""
    folder.mkdir(exist_ok=True)
    shutil.copy(EMBEDDED, folder / "MANO_RIGHT.npz")
    return folder


@pytest.fixture(scope="module")
def hand(tmp_path_factory: pytest.TempPathFactory) -> HandModel:
    model = load_hand(mano_folder(tmp_path_factory.mktemp("mano")))
    assert model.name == "mano"
    return model


@pytest.fixture(scope="module")
def network() -> OfficialHoisdf:
    """The variant with inverse kinematics, with made-up weights."""
    tensors = rename(parity.made_up("ho3d_render", "", {}))
    made = build(Checkpoint(tensors, detect(tensors), None))
    made.config = dataclasses.replace(made.config, grid=33)  # a made-up field is no distance: all of it is asked
    return made


def crops() -> list[Sample]:
    generator = torch.Generator().manual_seed(1)
    camera = Camera(torch.tensor([[[600.0, 0, 120], [0, 600, 130], [0, 0, 1]]]), (256, 256))
    plain = Sample("a", torch.rand(3, 256, 256, generator=generator), camera, embedded_object("can"))
    boxed = dataclasses.replace(plain, name="b", hand_box=(90.0, 80, 140, 150), object_box=(100.0, 91, 151, 140))
    return [plain, boxed]


def test_it_is_told_what_the_authors_take_from_the_truth(network, hand):
    asked = []

    class Spy(OfficialInitializer):
        def _given(self, crops):
            asked.append(super()._given(crops))
            return asked[-1]

    pose, fields = Spy(network, "cpu", hand).initialize(crops())
    (given,) = asked
    assert fields == {}
    assert given.hand_box[1].tolist() == [90, 80, 140, 150] and given.object_box[1].tolist() == [100, 91, 151, 140]
    assert bool((given.hand_box[0, 2:] > given.hand_box[0, :2] + 10).all())
    wrist = project(given.wrist[:, None], given.matrix)[0, 0]
    assert bool(((wrist > given.hand_box[0, :2] - 30) & (wrist < given.hand_box[0, 2:] + 30)).all())
    middle = project(given.object_center[:, None], given.matrix)[:, 0]
    assert torch.allclose(middle, ((given.object_box[:, :2] + given.object_box[:, 2:]) / 2).trunc(), atol=1e-3)
    assert middle[1].tolist() == pytest.approx([125, 115])
    assert torch.allclose(given.object_center[:, 2], torch.tensor(DEPTH))
    joints = hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).joints
    assert torch.allclose(joints[:, 0], given.wrist, atol=1e-5)


def test_its_pose_is_the_networks(network, hand):
    initializer = OfficialInitializer(network, "cpu", hand)
    given = initializer._given(crops())
    image = torch.stack([crop.image for crop in crops()])
    prediction = network(image, given)[0]
    with pytest.raises(ValueError, match="rotations need the skeleton of a MANO hand"):
        network.outcome(prediction, given)
    outcome = network.outcome(prediction, given, hand)
    pose, fields = initializer.initialize(crops(), ("object_sdf",))
    assert torch.allclose(pose.object_transl, outcome.object_transl, atol=1e-5)
    assert torch.allclose(pose.hand_rotvec, outcome.hand_rotvec, atol=1e-5)
    grid = fields["object_sdf"]
    assert list(fields) == ["object_sdf"] and grid.values.shape[0] == 2
    points = grid.origin[:, None] + grid.spacing[:, None, None] * torch.tensor([[[0.0, 0, 0], [32, 32, 32]]])
    with torch.no_grad():
        exact = network.field("object", network.see(image), points, given.object_center, given.matrix).distance / 3.1
    corners = torch.stack([grid.values[:, 0, 0, 0], grid.values[:, -1, -1, -1]], 1)
    assert torch.allclose(corners, exact, atol=1e-4)
    vertices = crops()[0].mesh.vertices @ axis_angle_to_matrix(pose.object_rotvec).mT + pose.object_transl[:, None]
    middle = grid.origin + 16 * grid.spacing[:, None]
    assert torch.allclose(middle, (vertices.amin(1) + vertices.amax(1)) / 2, atol=1e-4)


def test_the_points_of_an_objects_box():
    mesh = embedded_object("can")
    points = object_points(mesh)[0]
    low, high = mesh.box[0][0], mesh.box[1][0]
    share = (points - low) / (high - low)
    outer = (share - 0.5).abs().mul(2).round().sum(1)  # 3 corner, 2 middle of an edge, 0 centre
    assert sorted(outer.tolist()) == [0.0] + [2.0] * 12 + [3.0] * 8
    assert len(points.unique(dim=0)) == 21


def test_checkpoint_of_learned(tmp_path, hand):
    own = Learned(checkpoint=default_path("hoisdf"))
    assert isinstance(own._get(HoisdfInitializer), HoisdfInitializer)
    path = tmp_path / "snapshot_1.pth.tar"
    torch.save([1], path)
    for given in (None, hand):  # the file's own fault comes before that there is no MANO hand
        with pytest.raises(AssetError, match="holds a list"):
            Learned(checkpoint=path, hand=given)
    with pytest.raises(ConfigError, match="goes with the initializers hoisdf, gsdf"):
        Learned("horefine.extractors.initial:HoisdfInitializer", checkpoint=path)


def test_the_command_says_what_is_wrong_with_a_checkpoint(tmp_path):
    photos = write_photo_folder(tmp_path, 1)
    missing = tmp_path / "snapshot_9.pth.tar"

    def run(*words: object):
        command = ["run", str(photos / "images"), "--out", str(tmp_path / "out"), *map(str, words)]
        return CliRunner().invoke(app, command)

    result = run("--checkpoint", missing, "--mano-dir", mano_folder(tmp_path / "mano"))
    assert result.exit_code == 3 and "no such file" in result.output
    result = run("--checkpoint", missing, "--init", photos / "init")
    assert result.exit_code == 2 and "not with the poses of" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_with_a_published_checkpoint(tmp_path, monkeypatch):
    """From a file as the authors write it to refined poses; weights made up, so the poses mean nothing."""
    monkeypatch.setattr("horefine.items.LEAST_CLEAR", 0.0)  # the pictures are noise: no hand is to be seen
    photos, path = write_photo_folder(tmp_path, 2, left=(1,)), tmp_path / "snapshot_3_100.pth.tar"
    made = parity.made_up("dexycb", "", {})
    halved = {name: value.half() if value.is_floating_point() else value for name, value in made.items()}
    torch.save({"epoch": 3, "network": halved}, path)
    command = [
        "run", str(photos / "images"), "--checkpoint", str(path), "--mano-dir", str(mano_folder(tmp_path / "mano")),
        "--out", str(tmp_path / "out"), "--no-pictures", *FEW_STEPS,
    ]  # fmt: skip
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert {p.name for p in (tmp_path / "out" / "items").iterdir()} == {"p0", "p1"}
