"""The published training of gSDF: losses, points, three stages that begin from each other and learn."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from horefine.errors import AssetError, ConfigError
from horefine.extractors.batches import Batch
from horefine.extractors.gsdf_official_losses import field_losses, ordinal_loss, pose_losses, signed_points
from horefine.extractors.gsdf_official_task import (
    RANDOM,
    GsdfOfficialTask,
    GsdfPoseTask,
    GsdfStage,
    gsdf_colors,
    gsdf_view,
)
from horefine.extractors.gsdf_video_task import GsdfVideoTask
from horefine.extractors.official_truth import NEAR
from horefine.extractors.tasks import TRAINABLE
from horefine.geometry import project
from horefine.train import load_train_config, train
from tests.toy_shard import write_toy_shard

STAGES: tuple[type[GsdfStage], ...] = (GsdfPoseTask, GsdfOfficialTask, GsdfVideoTask)
SIZES = {
    "size": 128, "width": 16, "neck": 16, "bins": 16, "point_features": 32, "field_width": 128, "field_dropout": 0.0,
}  # fmt: skip
# a wider clamp: where a field is cut it does not learn, and at first it is cut nearly everywhere
CLIP = {**SIZES, "clamp": 0.5, "clip_layers": 1, "clip_heads": 2, "clip_head_width": 8, "clip_hidden": 32}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_toy_shard(tmp_path_factory.mktemp("data") / "shard_00000", 10)


@pytest.fixture(scope="module")
def task(data) -> GsdfOfficialTask:
    torch.manual_seed(0)
    return GsdfOfficialTask({"sizes": SIZES, "pose": RANDOM, "points": 100}, {}, data, 2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def falls(task: GsdfStage, batch: Batch, steps: int = 10) -> None:
    """The losses of one batch fall."""
    optimizer = torch.optim.Adam([p for p in task.model.parameters() if p.requires_grad], 2e-3)
    totals = []
    for _ in range(steps):
        task.model.train()
        total = torch.stack(list(task.losses_of(batch, 0.1, generator()).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert np.isfinite(totals).all() and totals[-1] < 0.8 * totals[0]


# --- losses and points ------------------------------------------------------------------------------------------------


def test_joints_in_order_cost_nothing():
    true = torch.randn(3, 21, 3, generator=generator(1))
    assert float(ordinal_loss(true, true, generator())) == 0
    assert float(ordinal_loss(2 * true + 1, true, generator())) == pytest.approx(0, abs=1e-6)
    mirrored = float(ordinal_loss(-true, true, generator()))
    assert mirrored > 0.1  # every joint is in the wrong order
    near = true.clone().requires_grad_()
    ordinal_loss(near - 0.5 * true.roll(1, 1), true, generator()).backward()
    assert near.grad is not None and float(near.grad.abs().max()) > 0
    two = torch.zeros(1, 21, 3)
    two[0, 4, 2] = 1.0  # one joint behind the others, along the camera's direction by 1
    assert 0 < float(ordinal_loss(-two, two, generator())) < math.log(2) + math.log(2)


def test_losses_are_the_stated_sums():
    joints, center = torch.randn(2, 21, 3), torch.randn(2, 3)
    found = torch.cat([joints + 0.1, center[:, None] - 0.2], 1)
    losses = pose_losses(found, joints, center, generator())
    assert float(losses["joints"]) == pytest.approx(0.01, rel=1e-3)
    assert float(losses["object_center"]) == pytest.approx(0.04, rel=1e-3)
    assert set(pose_losses(found[:, :21], joints, center, generator())) == {"joints", "order"}
    far = {"hand": torch.tensor([[0.5, -0.5]]), "object": torch.tensor([[0.01, 0.03]])}
    true = {"hand": torch.tensor([[0.2, 0.9]]), "object": torch.tensor([[0.0, -0.01]])}
    losses = field_losses(far, true, 0.05, center[:1], center[:1] + 0.1)
    assert float(losses["hand_field"]) == pytest.approx(0.5 * (0 + 0.1) / 2)
    assert float(losses["object_field"]) == pytest.approx(0.5 * (0.01 + 0.04) / 2)
    assert float(losses["object_center"]) == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_half_of_the_points_are_inside(task):
    view = task.view(task.scenes.batch([2, 3, 4]))
    for which in ("hand", "object"):
        points = signed_points(which, view.scene, 60, generator())
        distance = view.scene.distance(which, points)
        assert points.shape == (3, 60, 3) and distance.abs().max() < NEAR
        assert ((distance < 0).float().mean(1) > 0.3).all() and ((distance < 0).float().mean(1) <= 0.5).all()


def test_virtual_cameras_see_the_truth_where_the_crop_shows_it(task):
    """Exactly in the crop's middle; nearly elsewhere: the picture is not warped."""
    batch = task.scenes.batch([2, 3])
    view = task.view(batch)
    side = batch.maps["depth"].shape[-1]
    shown = (2 * project(batch.joints, batch.matrix) + 1) / side - 1
    homogeneous = view.joints @ view.projection.mT
    assert (homogeneous[..., :2] / homogeneous[..., 2:] - shown).abs().max() < 0.1
    assert torch.allclose(view.joints.norm(dim=-1), batch.joints.norm(dim=-1), atol=1e-5)
    assert view.image.shape[-1] == SIZES["size"]


def test_views_and_colours_keep_to_the_published_ranges():
    view = gsdf_view(4000, generator())
    assert view.angle.abs().max() <= math.pi / 2 + 1e-6 and abs(float((view.angle == 0).float().mean()) - 0.4) < 0.03
    assert bool((view.scale == 1).all()) and not view.shift.any()
    image = torch.full((6, 3, 4, 4), 0.5)
    changed = gsdf_colors(image, 2, generator())
    assert changed.amin() >= 0.4 and changed.amax() <= 0.6
    assert torch.equal(changed[0], changed[2]) and not torch.equal(changed[2], changed[3])


# --- stages -----------------------------------------------------------------------------------------------------------


def test_the_first_stage_learns_a_batch(data):
    torch.manual_seed(0)
    task = GsdfPoseTask({"sizes": SIZES, "objects": True}, {}, data, 2)
    batch = task.scenes.batch([2, 3])
    assert task.sized().hand_depth == 0.20 and task.errors(batch)["joint_mm"] > 0
    falls(task, batch)


def test_the_second_stage_learns_a_batch_and_leaves_the_joints(task):
    before = {name: value.clone() for name, value in task.model.pose_model.state_dict().items()}
    falls(task, task.scenes.batch([2, 3]))
    assert all(torch.equal(value, before[name]) for name, value in task.model.pose_model.state_dict().items())
    errors = task.errors(task.scenes.batch([0, 1]))
    assert set(errors) == {"hand_field_mm", "object_field_mm", "object_center_mm"}
    assert 0 < errors["hand_field_mm"] < 2e3 * 0.05 / 3.1


def test_late_in_training_each_field_sees_both_kinds_of_points(task):
    asked = []
    hook = task.model.hand_sdf_head.register_forward_pre_hook(lambda _, x: asked.append(x[0].shape[1]))
    for progress in (0.7, 0.76):
        task.losses_of(task.scenes.batch([2]), progress, generator())
    hook.remove()
    assert asked == [100, 200]


def test_clips_are_of_one_picture_or_of_neighbours(data):
    torch.manual_seed(0)
    task = GsdfVideoTask({"sizes": CLIP, "image": RANDOM, "points": 50}, {}, data, 2)
    seen = []
    task.losses_of = lambda batch, *rest: seen.append((batch, rest[-1])) or {}  # type: ignore[method-assign,func-returns-value]
    task.losses(7, 0.1, generator(), False)
    (batch, frames), *_ = seen
    assert len(batch) == 6 and frames == 3
    assert batch.object.view(2, 3).float().std(1).max() == 0  # one object in a clip
    spread = batch.joints.view(2, 3, 21, 3).std(1)
    assert 0 < float(spread.max()) < 0.05  # a little differently seen
    task.network = dataclasses.replace(task.network, clips="neighbours")
    task.losses(6, 0.1, generator(), False)
    batch = seen[-1][0]
    assert batch.object.view(2, 3).float().std(1).max() == 0  # objects alternate here: the others were replaced


def test_the_third_stage_learns_a_batch(data):
    torch.manual_seed(0)
    task = GsdfVideoTask({"sizes": CLIP, "image": RANDOM, "points": 50, "clips": "neighbours"}, {}, data, 2)
    falls(task, task.scenes.batch([2, 4, 6]))
    clip = {name: p.grad for name, p in task.model.named_parameters() if name.startswith("feat_transformer.")}
    assert clip and all(grad is not None for grad in clip.values())
    assert "hand_field_mm" in task.measure(2)


def test_each_stage_begins_from_the_one_before(data, tmp_path, monkeypatch):
    for stage in STAGES:
        monkeypatch.setitem(TRAINABLE, stage.name, stage)
    changes = {"batch": 3, "epochs": None, "steps": 1, "held_out": 2, "measured": 2, "log_every": 1}
    networks = {
        "gsdf_pose_official": {"sizes": SIZES},
        "gsdf_official": {"sizes": SIZES, "points": 20, "pose": str(tmp_path / "gsdf_pose_official/snapshot.pth.tar")},
        "gsdf_video_official": {
            "sizes": CLIP, "points": 20, "image": str(tmp_path / "gsdf_official/snapshot.pth.tar"), "clips": "views",
        },
    }  # fmt: skip
    left = {}
    for stage in STAGES:
        recipe = dataclasses.replace(load_train_config(stage.name), network=networks[stage.name], **changes)
        out = tmp_path / stage.name
        assert train(recipe, data=data, out=out).is_file() and json.loads((out / "validation.json").read_text())
        left[stage.name] = torch.load(out / "snapshot.pth.tar", weights_only=True)["network"]
    pose, image, clip = left.values()
    for name, value in pose.items():
        assert torch.equal(image["module.pose_model." + name.removeprefix("module.")], value)
        assert torch.equal(clip["module.pose_model." + name.removeprefix("module.")], value)
    assert "module.hand_sdf_head.lin0.weight_g" in image and set(image) < set(clip)
    fresh = GsdfVideoTask(networks["gsdf_video_official"], {}, data, 2)
    state = fresh.model.state_dict()
    assert torch.equal(state["sdf_encoder.weight"], image["module.sdf_encoder.weight"])
    trained = {name for name, p in fresh.model.named_parameters() if p.requires_grad}
    assert "sdf_encoder.weight" in trained and not any(name.startswith("pose_model.") for name in trained)


def test_a_stage_without_the_one_before_is_refused(data, tmp_path):
    for stage, said in ((GsdfOfficialTask, "network.pose: .*train gsdf_pose_official"), (GsdfVideoTask, "network.image: .*train gsdf_official")):  # fmt: skip  # noqa: E501
        with pytest.raises(ConfigError, match=said):
            stage({"sizes": SIZES}, {}, data, 2)
    with pytest.raises(AssetError, match="no such file; give the snapshot"):
        GsdfOfficialTask({"sizes": SIZES, "pose": str(tmp_path / "none.pth.tar")}, {}, data, 2)
    torch.save({"network": {"module.neck.weight": torch.zeros(1)}}, tmp_path / "other.pth.tar")
    with pytest.raises(ConfigError, match=r"network.pose: .*other.pth.tar has no backbone.conv1.weight"):
        GsdfOfficialTask({"sizes": SIZES, "pose": str(tmp_path / "other.pth.tar")}, {}, data, 2)


@pytest.mark.parametrize(
    ("stage", "table", "said"),
    [
        (GsdfOfficialTask, {"frames": 3}, "network.frames: no such key of gsdf_official"),
        (GsdfPoseTask, {"dataset": "dexycbb"}, r"network.dataset: 'dexycbb'.*did you mean 'dexycb'"),
        (GsdfVideoTask, {"clips": "view"}, r"network.clips: 'view'.*did you mean 'views'"),
        (GsdfPoseTask, {"sizes": {"widht": 3}}, r"network.sizes.widht: .*did you mean 'width'"),
    ],
)
def test_recipes_say_what_they_do_not_know(stage, table, said, data):
    with pytest.raises(ConfigError, match=said):
        stage(table, {}, data, 2)
