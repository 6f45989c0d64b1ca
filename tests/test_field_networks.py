"""The compact gSDF and C2F-SDF: geometry that needs no training, rows of a batch, what training teaches them with."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from toy_shard import small_network, write_toy_shard

from horefine.errors import InputError
from horefine.extractors.c2f_sdf_compact import CompactC2f, reference_depth
from horefine.extractors.crops import depth_maps
from horefine.extractors.depth_noise import sensed
from horefine.extractors.eyes import Seen
from horefine.extractors.field_losses import field_losses, field_points
from horefine.extractors.gsdf_compact import CompactGsdf, Skeleton, Volumes
from horefine.extractors.hoisdf_task import truth
from horefine.extractors.root import Frame
from horefine.extractors.sample_batches import open_scenes
from horefine.extractors.sizes import network_config
from horefine.geometry import axis_angle_to_matrix
from horefine.hand import load_hand
from horefine.inverse_kinematics.closed_form import flat_joints


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return open_scenes(write_toy_shard(tmp_path_factory.mktemp("data") / "shard_00000", 6), "embedded", 2)


@pytest.fixture(scope="module")
def batch(scenes):
    return scenes.batch(range(4))


def gsdf(**changes) -> CompactGsdf:
    torch.manual_seed(0)
    return CompactGsdf(network_config("gsdf", small_network("gsdf", 8) | changes)).eval()


def c2f(**changes) -> CompactC2f:
    torch.manual_seed(0)
    return CompactC2f(network_config("c2f_sdf", small_network("c2f_sdf", 8) | changes)).eval()


def test_volumes_give_back_the_joints_they_were_told(batch, scenes):
    true = truth(batch, scenes.hand, True)
    joints = torch.cat([true.wrist[:, None], true.wrist[:, None] + true.joints], 1)
    homogeneous = joints @ true.frame.projection.mT
    told = Volumes(homogeneous[..., :2] / homogeneous[..., 2:], joints[..., 2] - true.wrist[:, None, 2])
    assert torch.allclose(told.joints(true.frame, true.wrist), joints, atol=1e-5)


def test_a_bright_bin_is_a_joint_in_its_middle():
    model = gsdf()
    frame = Frame.of(torch.tensor([[[120.0, 0, 31.5], [0, 120, 31.5], [0, 0, 1]]]), 64)
    seen = model.see(torch.rand(1, 3, 128, 128), None, frame.focal)
    logits = torch.full((1, 21, 8, 32, 32), -50.0)
    logits[:, :, 5, 20, 3] = 50
    model.volume_head.forward = lambda _: logits  # type: ignore[method-assign]
    found = model.volumes(seen)
    expected = torch.tensor([(2 * 3 + 1) / 32 - 1, (2 * 20 + 1) / 32 - 1])
    assert torch.allclose(found.grid, expected.expand(1, 21, 2), atol=1e-5)
    assert torch.allclose(found.depth, torch.tensor(((2 * 5 + 1) / 8 - 1) * model.config.depth_reach), atol=1e-6)


def test_the_hand_field_knows_a_point_by_the_hand_alone_when_everything_turns(batch, scenes):
    """Frames of a hand turn with it: what they say of a point that turns along stays."""
    from horefine.extractors.gsdf_parts import hand_embedding

    template = flat_joints(load_hand(kind="embedded"))
    joints = batch.joints
    turn = axis_angle_to_matrix(torch.tensor([0.3, -0.8, 0.5]))
    points = batch.joints[:, :1] + 0.05 * torch.randn(4, 30, 3, generator=torch.Generator().manual_seed(1))
    seen = []
    for rotation in (torch.eye(3), turn):
        bones, asked = joints @ rotation.T, points @ rotation.T
        skeleton = Skeleton.of(bones, bones[:, 0], bones[:, 0], template)
        seen.append(hand_embedding(asked - skeleton.wrist[:, None], skeleton.kinematics)[..., 3:])
    assert torch.allclose(*seen, atol=2e-5)


@pytest.mark.parametrize("system", ["gsdf", "c2f_sdf"])
def test_a_crop_is_seen_alike_alone_and_in_a_batch(system, batch, scenes):
    true = truth(batch, scenes.hand, True)
    points = true.wrist[:, None] + 0.05 * torch.randn(4, 20, 3, generator=torch.Generator().manual_seed(2))
    projection = true.frame.projection
    if system == "gsdf":
        model = gsdf()
        seen = model.see(batch.image, batch.extents, true.frame.focal)
        bones = Skeleton.of(true.wrist[:, None] + torch.nn.functional.pad(true.joints, (0, 0, 1, 0)), true.wrist,
                            true.object_center, flat_joints(scenes.hand))  # fmt: skip
        whole = model.field("object", seen, points, bones, projection)
        alone = model.field("object", seen[2], points[2:3], bones[2], projection[2:3])
    else:
        model = c2f()
        seen = model.see(batch.image, batch.extents, true.frame.focal)
        felt = model.feel(seen, sensed(batch, torch.Generator().manual_seed(0)), true.frame)
        known = model.semantics(felt, true.wrist, true.object_center, true.frame)
        whole = model.field("object", felt, known, points, projection)
        alone = model.field("object", felt[2], known[2], points[2:3], projection[2:3])
    assert isinstance(seen, Seen) and torch.allclose(whole[2:3], alone, atol=1e-5)


def test_votes_of_seen_cells_carry_the_depth_they_stand_on(batch, scenes):
    """Everything half a metre further away: every place is, too (the eyes see the same picture)."""
    model, true = c2f(), truth(batch, scenes.hand, True)
    seen = model.see(batch.image, batch.extents, true.frame.focal)
    seen.raw["hand_seg"].fill_(3.0)
    depth = batch.maps["depth"] + batch.object_center[:, 2, None, None]
    depth = torch.where(batch.maps["hand_mask"] + batch.maps["object_mask"] > 0.5, depth, 0.0)
    near = model.feel(seen, depth, true.frame)
    far = model.feel(seen, torch.where(depth > 0, depth + 0.5, 0.0), true.frame)
    assert torch.allclose(far.cloud.reference - near.cloud.reference, torch.tensor(0.5), atol=0.01)
    moved = (far.places - near.places)[..., 2]
    assert (moved > 0.4).all() and (moved < 0.6).all()


def test_the_reference_depth_is_the_median_inside_the_mask_or_the_guess():
    frame = Frame.of(torch.tensor([[[90.0, 0, 15.5], [0, 90, 15.5], [0, 0, 1]]]).expand(2, 3, 3), 32)
    depth, mask = torch.full((2, 32, 32), 1.5), torch.zeros(2, 16, 16)
    mask[:, 4:12, 4:12] = 1
    depth[0, 6:26, 6:26] = 0.6
    depth[0, 10:14, 10:14] = 0.0  # holes
    depth[1, 6:26, 6:26] = 0.0
    found = reference_depth(depth, frame, mask, torch.tensor([0.4, 0.45]))
    assert torch.allclose(found, torch.tensor([0.6, 0.45]), atol=1e-4)


def test_a_sensor_is_near_the_truth_where_it_sees_and_repeats(batch):
    seen = sensed(batch, torch.Generator().manual_seed(3))
    again = sensed(batch, torch.Generator().manual_seed(3))
    inside = (batch.maps["hand_mask"] > 0.9) | (batch.maps["object_mask"] > 0.9)
    exact = batch.maps["depth"] + batch.object_center[:, 2, None, None]
    error = (seen - exact).abs()[inside & (seen > 0)]
    assert torch.equal(seen, again) and torch.isfinite(seen).all()
    assert (seen[inside] > 0).float().mean() > 0.6
    assert error.median() < 0.01 and error.median() > 1e-5


def test_field_losses_are_nothing_at_the_truth_and_more_elsewhere(batch, scenes):
    true = truth(batch, scenes.hand, True)
    places = field_points(true, batch, scenes.objects, 0.2, 64, torch.Generator().manual_seed(0))
    exact = {"hand": places.hand_distance * 5, "object": places.object_distance * 5}
    still = torch.zeros(4, 3)
    right = field_losses(lambda which, _: exact[which], places, still, 5.0, 0.25)
    wrong = field_losses(lambda which, _: exact[which] + 0.1, places, still, 5.0, 0.25)
    assert all(value == 0 for value in right.values()) and all(value > 1 for value in wrong.values())
    assert (places.hand_distance.abs() < 0.03).float().mean() > 0.4


def test_frozen_eyes_do_not_learn():
    model = gsdf(frozen=True).train()
    learning = {name.split(".")[0] for name, value in model.named_parameters() if value.requires_grad}
    assert not learning & {"backbone_net", "decoder_net", "root_head", "condition_map"}
    assert not model.backbone_net.training and model.volume_block.training


def test_a_crop_without_depth_names_the_way_out(scenes):
    from horefine.data import Sample
    from horefine.geometry import Camera

    sample = Sample("photo", torch.rand(3, 64, 64), Camera.from_focal(100.0, (64, 64)))
    with pytest.raises(InputError, match=r"photo: c2fsdf .* sidecar"):
        depth_maps([sample], 32)
    with pytest.raises(InputError, match="next to nothing"):
        depth_maps([dataclasses.replace(sample, depth=torch.zeros(64, 64))], 32)
    ramp = torch.arange(64.0).expand(64, 64) + 1
    assert torch.equal(depth_maps([dataclasses.replace(sample, depth=ramp)], 32)[0, 0], ramp[0, 1::2])
