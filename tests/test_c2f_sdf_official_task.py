"""The published training of C2F-SDF: what it is told, what it compares with, and a small network that learns."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from horefine.errors import AssetError, ConfigError
from horefine.extractors import tasks
from horefine.extractors.c2f_sdf_checkpoints import load_c2f, names_c2f
from horefine.extractors.c2f_sdf_hand import HandBasis
from horefine.extractors.c2f_sdf_official_task import (
    OfficialC2fConfig,
    OfficialC2fTask,
    _balanced,
    c2f_colors,
    c2f_view,
)  # fmt: skip
from horefine.extractors.resnet import ResNet
from horefine.geometry import project
from horefine.train import load_train_config, train
from tests.c2f_sdf_files import published
from tests.toy_shard import write_toy_shard

SIZES = {
    "size": 64, "width": 16, "decoder": [16, 16, 16], "latent": 16, "pixel": 16, "field_width": 64,
    "field_dropout": 0.0, "points": 128, "hand_features": 16, "center_bins": 16, "heat_bins": 16, "deconv": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_toy_shard(tmp_path_factory.mktemp("data") / "shard_00000", 8)


@pytest.fixture(scope="module")
def task(data) -> OfficialC2fTask:
    torch.manual_seed(0)
    return OfficialC2fTask({"sizes": SIZES}, {}, data, 2)


def test_a_small_network_learns_a_batch(task):
    batch = task.scenes.batch([2, 3])
    optimizer = torch.optim.Adam(task.model.parameters(), 1e-3)
    totals = []
    for _ in range(8):
        losses = task.losses_of(batch, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert np.isfinite(totals).all() and totals[-1] < 0.8 * totals[0]
    assert set(losses) == {
        "hand_sdf", "hand_sdf_global", "obj_sdf", "obj_sdf_global", "volume_joint", "heatmap_ho", "loss_pixel",
        "loss_coord",
    }  # fmt: skip


def test_a_hand_with_a_basis_of_poses_has_its_losses(task, data, monkeypatch):
    """MANO's basis is not here; another stands for it."""
    assert not task.trained.config.hand and task.network.sizes["hand"] is False  # as for any hand without one
    monkeypatch.setattr(OfficialC2fTask, "_without_hand", lambda self: None)
    task = OfficialC2fTask({"sizes": SIZES}, {}, data, 2)
    batch = task.scenes.batch([2])
    task.basis = HandBasis(batch.pose.hand_rotvec[0, 1:].flatten(), torch.eye(45)[:15])
    crop = task.crops(batch, torch.Generator().manual_seed(0))
    seen = task._see(crop)
    hand = task._hand(task.trained.hand_numbers(seen.looked))
    assert hand is not None and hand.joints.shape == (1, 21, 3) and (hand.joints[:, 0] == 0).all()
    numbers = task.trained.hand_numbers(seen.looked)
    assert torch.allclose(hand.fingers[:, :15], numbers.pose[:, 3:], atol=1e-5)
    losses = task.losses_of(batch, torch.Generator().manual_seed(0))
    assert {"mano_joints", "mano_shape", "mano_pose"} <= set(losses)
    coarser = task.losses_of(batch, torch.Generator().manual_seed(0), half=True)  # convolutions in bfloat16
    for name, value in losses.items():
        assert value.isfinite() and torch.isclose(value, coarser[name].float(), rtol=0.2, atol=1e-6), name


def test_what_the_network_is_told_and_compared_with(task):
    batch = task.scenes.batch([2, 3])
    crop = task.crops(batch, torch.Generator().manual_seed(0))
    turn = crop.place.frame.rotation
    assert torch.allclose(crop.place.wrist, (turn @ batch.joints[:, 0, :, None])[..., 0], atol=1e-6)
    exact = task._truth(batch, task._see(crop), torch.Generator().manual_seed(0))
    scene = task._scene(batch)
    for which, points, distances in (
        ("hand", exact.hand_points, exact.hand_distances), ("object", exact.object_points, exact.object_distances),
    ):  # fmt: skip
        found = scene.distance(which, points @ turn) * task.trained.config.scale
        assert torch.allclose(found, distances, atol=2e-3) and points.shape[1] == 1000
        assert 0.35 < (distances < 0).float().mean() <= 0.5
    assert torch.allclose(exact.joints @ turn, batch.joints, atol=1e-5)
    # joints in the crop: the virtual camera sees them nearly where the real one does
    side = batch.maps["depth"].shape[-1]
    pixels = (project(batch.joints, batch.matrix) + 0.5) * 2 / side - 1
    assert (exact.joint_places[..., :2] - pixels).abs().max() < 0.06
    assert exact.heat.shape == (2, 2, 16, 16, 16) and torch.allclose(exact.heat.amax((2, 3, 4)), torch.tensor(1.0))


def test_joints_by_dense_regression_come_back_to_where_they_are(task, monkeypatch):
    batch = task.scenes.batch([2, 3])
    crop = task.crops(batch, torch.Generator().manual_seed(0))
    seen = task._see(crop)
    exact = task._truth(batch, seen, torch.Generator().manual_seed(0))
    monkeypatch.setattr("horefine.extractors.c2f_sdf_official_task.awr_decode", lambda *_: exact.joint_places)
    assert torch.allclose(task._joints(seen, crop), exact.joints, atol=1e-5)


def test_points_are_half_inside(task):
    scene = task._scene(task.scenes.batch([2, 3, 4]))
    points = _balanced("hand", scene, 200, torch.Generator().manual_seed(0))
    inside = scene.distance("hand", points) < 0
    assert inside[:, :100].float().mean() > 0.9 and not inside[:, 100:].any()


def test_views_and_colours_keep_to_the_published_ranges():
    generator = torch.Generator().manual_seed(0)
    view = c2f_view(4000, "dexycb", generator)
    assert view.angle.abs().max() <= np.pi / 2 + 1e-6 and abs(float((view.angle == 0).float().mean()) - 0.4) < 0.03
    assert (view.scale == 1).all() and 0.19 < view.shift.abs().max() <= 0.2
    assert (c2f_view(9, "obman", generator).shift == 0).all()
    image = torch.full((50, 3, 4, 4), 0.5)
    changed = c2f_colors(image, generator)
    assert 0.4 <= changed.min() < 0.42 and 0.58 < changed.max() <= 0.6 and changed[:, :, 0, 0].unique().numel() == 150


def test_both_streams_begin_with_a_resnet(data, tmp_path):
    torch.manual_seed(0)
    resnet = ResNet(18, 16).state_dict() | {"fc.weight": torch.zeros(3, 3)}
    torch.save(resnet, tmp_path / "resnet18.pth")
    task = OfficialC2fTask({"sizes": SIZES, "encoder": str(tmp_path / "resnet18.pth")}, {}, data, 2)
    backbone = task.trained.backbone.state_dict()
    for name in (
        "layer3.0.conv1.weight",
        "layer3.0.depth_conv1.weight",
        "layer2.0.downsample.0.weight",
        "depth_bn1.bias",
    ):
        assert torch.equal(backbone[name], resnet[name.replace("depth_", "")])
    torch.save(ResNet(18, 8).state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(
        AssetError, match=r"network\.encoder .*resnet18\.pth: conv1\.weight is \(8, 3, 7, 7\); expected"
    ):
        OfficialC2fTask({"sizes": SIZES, "encoder": str(tmp_path / "resnet18.pth")}, {}, data, 2)


def test_what_a_recipe_may_not_say(data):
    for table, message in (
        ({"dataset": "dexicb"}, "did you mean 'dexycb'"), ({"size": 3}, "did you mean 'sizes'"),
        ({"sizes": {"widht": 3}}, r"network\.sizes\.widht: no such key of C2F-SDF; did you mean 'width'"),
        ({"sizes": {"size": 100}}, "multiple of 32"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            OfficialC2fTask(table, {}, data, 2)
    assert OfficialC2fConfig("obman").network().scale == 3.5


def test_a_run_measures_and_leaves_its_files(data, tmp_path, monkeypatch):
    monkeypatch.setitem(tasks.TRAINABLE, OfficialC2fTask.name, OfficialC2fTask)
    changes = {"network": {"sizes": SIZES}, "batch": 2, "epochs": None, "steps": 2, "held_out": 2, "measured": 2}
    recipe = dataclasses.replace(load_train_config("c2f_sdf_official"), **changes)
    assert recipe.rate_at(0.7) == 1e-4 and recipe.rate_at(0.76) == 5e-5
    path = train(recipe, data=data, out=tmp_path)
    assert path.name == "c2f_sdf_official.safetensors" and path.is_file()
    said = (tmp_path / "validation.json").read_text()
    assert "hand_mje_mm" in said and "object_oce_mm" in said
    assert not (tmp_path / "snapshot.pth.tar").exists()  # no published architecture


def test_snapshots_are_read_as_the_authors_are(tmp_path):
    """Under published names; the reader of checkpoints takes them."""
    names = names_c2f()
    task = OfficialC2fTask.__new__(OfficialC2fTask)
    task.network = OfficialC2fConfig()
    with torch.device("meta"):
        task.model = task.build()
    own = published()["network"]
    tensors = dict(zip(task.model.state_dict(), (own[f"module.{name}"] for name in names), strict=True))
    task.export(tmp_path, tensors, 7)
    network = load_c2f(tmp_path / "snapshot.pth.tar")
    assert network.config == OfficialC2fConfig().network()
    task._without_hand()
    kept = {name: value for name, value in tensors.items() if not name.startswith(("mano_head.", "backbone_2_mano."))}
    task.export(tmp_path, kept, 8)
    assert not load_c2f(tmp_path / "snapshot.pth.tar").config.hand
