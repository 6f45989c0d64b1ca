"""The published training of HOISDF: what it is told, its points, its losses, and a small network that learns."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from horefine.errors import ConfigError
from horefine.extractors import official_task
from horefine.extractors.checkpoints import load_official, published_names
from horefine.extractors.hoisdf_official import ARCHITECTURES, DEPTH, OfficialHoisdf
from horefine.extractors.official_task import OfficialTask, official_colors, official_view
from horefine.extractors.official_truth import NEAR, given_of, hand_layer, official_truth, points_near
from horefine.geometry import axis_angle_to_matrix, project
from horefine.hand import load_hand
from horefine.train import load_train_config, train
from tests.toy_shard import write_toy_shard

# torch 2.13's convolutions on a CPU break on channels-last maps of 8 channels, so none has fewer than 16 here
SIZES = {
    "depth": 18, "width": 16, "hidden": 64, "attention_heads": 2, "feedforward": 64, "hand_layers": 2,
    "unet": {"deconvs": [16] * 4, "fuses": [16] * 4, "laterals": [16] * 4, "top": 16, "heads": [16]},
    "hand_decoder_layers": 1, "object_layers": 1, "token_mlp": [32], "field_mlp": [32, 16], "field_width": 64,
    "hand_points": 40, "object_points": 24, "dropout": 0.0, "field_dropout": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_toy_shard(tmp_path_factory.mktemp("data") / "shard_00000", 10)


@pytest.fixture(scope="module")
def task(data) -> OfficialTask:
    torch.manual_seed(0)
    return OfficialTask({"sizes": SIZES}, {}, data, 2)


def test_a_small_network_learns_a_batch(task):
    batch = task.scenes.batch([2, 3])
    optimizer = torch.optim.AdamW([p for p in task.model.parameters() if p.requires_grad], 1e-3)
    frozen = {n: p.clone() for n, p in task.model.backbone_net.named_parameters() if "bn" in n}
    totals = []
    for _ in range(6):
        losses = task.losses_of(batch, 0.1, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert np.isfinite(totals).all() and totals[-1] < 0.9 * totals[0]
    assert frozen and all(
        torch.equal(p, frozen[n]) for n, p in task.model.backbone_net.named_parameters() if n in frozen
    )
    assert set(losses) == {
        "sdfhand_loss", "sdfobj_loss", "joint_heatmap", "hand_seg", "obj_seg", "loss_joint_3d", "loss_joint_cls",
        "loss_all_joint_3d", "obj_rot", "obj_trans", "mano_mesh_loss", "mano_joint_loss", "pose_param_loss",
        "shape_param_loss",
    }  # fmt: skip


def test_points_lie_near_the_true_surface(task):
    scene = task._scene(task.scenes.batch([2, 3, 4]))
    for which in ("hand", "object"):
        points = points_near(which, scene, 200, 0.0, torch.Generator().manual_seed(0))
        distance = scene.distance(which, points)
        assert points.shape == (3, 200, 3) and distance.abs().max() < NEAR
        assert 0.2 < (distance.abs() < 0.02).float().mean() < 0.9  # they fill the layer
        moved = points_near(which, scene, 200, 0.01, torch.Generator().manual_seed(0))
        assert 0 < (moved - points).abs().max() <= 0.01
        on = scene.distance(which, scene.surface(which))
        assert on.abs().max() < 2e-3


def test_the_truth_is_consistent(task):
    batch = task.scenes.batch([2, 3])
    scene = task._scene(batch)
    exact = official_truth(scene, task.model.config, torch.Generator().manual_seed(0))
    _, joints = task.layer(exact.hand[:, :48], exact.hand[:, 48:])
    torch.testing.assert_close(joints * 1e3, exact.joints, atol=0.05, rtol=0)
    place = exact.object_transl + scene.given.object_center
    torch.testing.assert_close(place, batch.pose.object_transl)
    points = exact.hand_points / task.model.config.scale + scene.given.wrist[:, None]
    torch.testing.assert_close(scene.distance("hand", points) * task.model.config.scale, exact.hand_distances)
    assert exact.hand_mask.shape == (2, 128, 128) and 0 <= exact.hand_mask.min() and exact.hand_mask.max() <= 1
    # joints in the 128-pixel map: twice those of the 64-pixel map, half a pixel of the larger to the right
    torch.testing.assert_close(exact.joint_pixels, 2 * project(batch.joints, batch.matrix) + 0.5, atol=1e-3, rtol=0)


def test_the_network_is_told_what_the_published_one_is(task):
    batch = task.scenes.batch([2, 3])
    given = given_of(batch, ARCHITECTURES["dexycb"])
    assert torch.equal(given.wrist, batch.joints[:, 0]) and torch.equal(given.object_center[:, 2], given.wrist[:, 2])
    assert torch.all(given_of(batch, ARCHITECTURES["ho3d"]).object_center[:, 2] == torch.tensor(DEPTH))
    pixels = project(batch.joints, given.matrix)
    for box, own in zip(given.hand_box, pixels, strict=True):  # a tenth larger than the joints, whole middle
        assert (box[2:] - box[:2] - 1.1 * (own.amax(0) - own.amin(0))).abs().max() < 1e-2
    # the object's reference lies on the ray through the middle of its box
    seen = project(given.object_center[:, None], given.matrix)[:, 0]
    assert ((given.object_box[:, :2] + given.object_box[:, 2:]) / 2 - seen).abs().max() < 1.01


def test_boxes_hold_the_objects_corners(task):
    batch = task.scenes.batch([2])
    mesh = task.scenes.objects.meshes[int(batch.object[0])]
    rotation = axis_angle_to_matrix(batch.pose.object_rotvec)
    pixels = project(
        mesh.vertices @ rotation.mT + batch.pose.object_transl[:, None], given_of(batch, ARCHITECTURES["dexycb"]).matrix
    )
    box = given_of(batch, ARCHITECTURES["dexycb"]).object_box[0]
    assert (pixels[0].amin(0) > box[:2] - 1).all() and (pixels[0].amax(0) < box[2:] + 1).all()


def test_views_and_colours_keep_to_the_published_ranges():
    generator = torch.Generator().manual_seed(0)
    view = official_view(4000, "dexycb", generator)
    assert view.angle.abs().max() <= np.deg2rad(60) + 1e-6 and abs((view.angle == 0).float().mean() - 0.4) < 0.03
    assert 1 / 1.2 - 1e-6 <= view.scale.min() and view.scale.max() <= 1 / 0.8 + 1e-6 and view.shift.abs().max() <= 0.2
    turned = official_view(4000, "ho3d", generator).angle
    assert turned.abs().max() > 3.1 and abs(float(turned.mean())) < 0.15
    image = torch.rand(6, 3, 32, 32, generator=generator)
    changed = official_colors(image, generator)
    assert changed.shape == image.shape and 0 <= changed.min() and changed.max() <= 1
    assert (changed - image).abs().flatten(1).mean(1).min() > 0.01  # each is changed
    again = official_colors(image, torch.Generator().manual_seed(5))
    assert torch.equal(again, official_colors(image, torch.Generator().manual_seed(5)))


def test_after_the_fortieth_epoch_the_own_field_chooses(task, monkeypatch):
    asked = []

    def choose(network, which, seen, given, search):
        asked.append(which)
        raise ValueError("too few")  # falls back on the truth

    monkeypatch.setattr(official_task, "choose", choose)
    batch = task.scenes.batch([2])
    for progress in (0.0, 0.5):
        task.losses_of(batch, progress, torch.Generator().manual_seed(0))
    assert not asked
    for seed in range(4):
        assert all(v.isfinite() for v in task.losses_of(batch, 0.9, torch.Generator().manual_seed(seed)).values())
    assert 0 < len(asked) < 8 and set(asked) == {"hand", "object"}


def test_what_crosses_over_does_not_train_the_maps(task):
    """As published: the object's points reach the hand's transformer detached."""
    batch = task.scenes.batch([2])
    scene, network = task._scene(batch), task.network_of
    seen = network.see(official_task._sized(batch.image))
    generator = torch.Generator().manual_seed(0)
    hand, other = (task._points(which, scene, seen, 0.0, False, generator) for which in ("hand", "object"))
    features = other.features.detach().requires_grad_()
    other = dataclasses.replace(other, features=features)
    prediction = network.pose(seen, hand, other, scene.given.wrist, scene.given.object_center)
    own = torch.autograd.grad(prediction.object_center.sum(), features, retain_graph=True)[0]
    crossed = torch.autograd.grad(prediction.joints.sum(), features, allow_unused=True)[0]
    assert own.abs().max() > 0 and (crossed is None or crossed.abs().max() == 0)


def test_the_variant_without_rotations_has_its_own_losses(data):
    task = OfficialTask({"architecture": "ho3d_render", "sizes": SIZES}, {}, data, 2)
    losses = task.losses_of(task.scenes.batch([2]), 0.0, torch.Generator().manual_seed(0))
    assert {"shape_param_loss", "shape_size"} <= set(losses) and "mano_mesh_loss" not in losses
    assert all(value.isfinite() for value in losses.values())


def test_the_hand_layer_is_the_data_hands(task):
    hand = load_hand(kind="embedded")
    rotvec, shape = 0.3 * torch.randn(3, 16, 3), torch.randn(3, 10)
    posed = hand(rotvec, shape, torch.zeros(3, 3))
    vertices, joints = hand_layer(hand)(rotvec.flatten(1), shape)
    torch.testing.assert_close(vertices, posed.vertices - posed.joints[:, :1], atol=1e-5, rtol=0)
    torch.testing.assert_close(joints, posed.joints - posed.joints[:, :1], atol=1e-5, rtol=0)


def test_a_run_measures_and_leaves_its_files(data, tmp_path):
    changes = {
        "network": {"sizes": SIZES},
        "batch": 2,
        "epochs": None,
        "steps": 2,
        "held_out": 2,
        "measured": 2,
        "log_every": 1,
    }
    recipe = dataclasses.replace(load_train_config("hoisdf_official"), **changes)
    path = train(recipe, data=data, out=tmp_path)
    assert path.name == "hoisdf_official.safetensors" and path.is_file()
    assert "hand_mje_mm" in (tmp_path / "validation.json").read_text()
    assert not (tmp_path / "snapshot.pth.tar").exists()  # no published architecture


def test_snapshots_are_read_as_the_authors_are(tmp_path, monkeypatch):
    """Under published names; ``--checkpoint`` reads them."""
    network = OfficialHoisdf()
    task = OfficialTask.__new__(OfficialTask)
    task.model, task.network = network, official_task.OfficialConfig()
    monkeypatch.setattr(OfficialTask, "network_of", network)
    task.export(tmp_path, network.state_dict(), 7)
    stored = torch.load(tmp_path / "snapshot.pth.tar", weights_only=True)
    assert stored["epoch"] == 7
    assert {n.removeprefix("module.") for n in stored["network"]} == set(published_names(ARCHITECTURES["dexycb"]))
    again = load_official(tmp_path / "snapshot.pth.tar").state_dict()
    assert all(torch.equal(again[name], value) for name, value in network.state_dict().items())


def test_settings_are_checked(data):
    for network, said in (
        ({"architectur": "dexycb"}, "did you mean 'architecture'"),
        ({"architecture": "dexicb"}, "did you mean 'dexycb'"),
        ({"lattice": "regulr"}, "did you mean 'regular'"),
        ({"sizes": {"widht": 16}}, "did you mean 'width'"),
    ):
        with pytest.raises(ConfigError, match=said):
            OfficialTask(network, {}, data, 2)


def test_the_recipe_is_the_published_one():
    recipe = load_train_config("hoisdf_official")
    assert [round(recipe.rate_at(epoch / 70) / 1e-4, 4) for epoch in (0, 8.9, 9, 17.9, 18)] == [1, 1, 0.7, 0.7, 0.49]
    assert recipe.rate_at(0.999) == pytest.approx(1e-5)
    assert recipe.clip == float("inf") and recipe.ema == 0 and recipe.epochs == 70 and recipe.batch == 22


@pytest.mark.slow
def test_the_whole_network_takes_a_step(data, tmp_path):
    """``--smoke``: three steps of the published network, its measurement and its snapshot."""
    train("hoisdf_official", data=data, out=tmp_path, smoke=True)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert len(lines) == 4 and all("NaN" not in line for line in lines)
    assert load_official(tmp_path / "snapshot.pth.tar").architecture == ARCHITECTURES["dexycb"]
