"""The official gSDF equals what the authors' code computed; its parts do what they say.

The numbers in ``data/gsdf`` were recorded from the authors' code with made-up weights (no trained ones); the weights
are made again here from their names. ``clip.npz`` begins at the encoder's maps, which our network computed where it
equalled the recording. All recorded arrays: ``python -m benchmarks.parity_gsdf FOLDER``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import parity_gsdf as parity
from benchmarks.parity_hoisdf import load, tensors_of
from horefine.errors import ConfigError
from horefine.extractors.field import SdfHead
from horefine.extractors.gsdf import OBMAN, Gsdf, GsdfConfig, PoseNet, Seen, lifted, projection_of
from horefine.extractors.gsdf_checkpoint import gsdf_names
from horefine.extractors.gsdf_parts import (
    HAND_LATENTS,
    OBJECT_LATENTS,
    hand_embedding,
    object_embedding,
    soft_argmax,
)
from horefine.extractors.gsdf_video import ClipTransformer
from horefine.inverse_kinematics import gsdf_kinematics

DATA = Path(__file__).parent / "data" / "gsdf"
TINY = GsdfConfig(size=64, width=4, neck=8, bins=4, point_features=8, field_width=96)


@pytest.fixture(scope="module")
def stored():
    return load(DATA / "picture.npz")


@pytest.fixture(scope="module")
def network(stored) -> Gsdf:
    return parity.network_of(stored)


# --- the authors' numbers ---------------------------------------------------------------------------------------------


def test_weights_are_the_recorded_ones(stored):
    names = [name for name in stored if name.startswith("fill:")]
    assert len(names) == 7
    shapes = gsdf_names()
    for name in names:
        own = name.removeprefix("fill:")
        assert np.allclose(parity.value_of(own, shapes[own]).flatten()[:4], stored[name], atol=1e-7), name


def test_network_equals_the_authors(stored, network):
    template = torch.from_numpy(stored["template21"])
    rows = parity.compare(parity.network_arrays(network, tensors_of(stored), template), stored)
    inputs = {"img", "pts", "cam_intr", "hand_center_3d", "recon_scale", "depth_dim", "template21", "b_joints"}
    assert {row.array for row in rows} == {n for n in stored if not n.startswith("fill:")} - inputs
    assert not [row for row in rows if row.ratio > 1]


def test_clips_equal_the_authors():
    stored = load(DATA / "clip.npz")
    made = {name: value for name, value in parity.made_up("clip").items() if name.startswith(("feat_", "backbone_2_"))}
    with torch.device("meta"):
        network = Gsdf(dataclasses.replace(OBMAN, clip_layers=8)).eval()
    network.load_state_dict(made, strict=False, assign=True)
    with torch.no_grad():
        level = network.backbone_2_sdf([torch.from_numpy(stored["top"])])[-1]
        found = {"sdf_map": level[:, ::16], "sdf_map_refined_2frames": network.feat_transformer(level, 2)[:, ::16]}
    rows = parity.compare(found, stored)
    assert len(rows) == 2 and not [row for row in rows if row.ratio > 1]


def test_the_numbers_would_tell(stored, network, monkeypatch):
    """Mistakes that are easily made are far beyond the tolerances."""
    inputs, template = tensors_of(stored), torch.from_numpy(stored["template21"])
    with torch.no_grad():
        seen = network.see(inputs.pop("img") * parity.STD + parity.MEAN)

    def worst(seen: Seen = seen) -> float:
        rows = parity.compare(parity.network_arrays(network, inputs, template, seen), stored)
        return max(row.ratio for row in rows if row.array.startswith("b_pretanh"))

    assert worst() < 1
    assert worst(dataclasses.replace(seen, levels=[seen.levels[0].mT])) > 100
    forward = SdfHead.forward
    with monkeypatch.context() as patch:
        patch.setattr(SdfHead, "forward", lambda self, x: forward(self, x.roll(51, -1)))
        assert worst() > 100
    with monkeypatch.context() as patch:
        patch.setattr(network, "config", dataclasses.replace(network.config, align_corners=False))
        assert worst() > 100


def test_an_image_does_not_depend_on_its_neighbours(stored, network):
    """Three pictures: the published cross product of a batch of three is another."""
    inputs, template = tensors_of(stored), torch.from_numpy(stored["template21"])
    image = inputs["img"] * parity.STD + parity.MEAN
    noise = torch.rand(2, *image.shape[1:], generator=torch.Generator().manual_seed(1))
    projection = projection_of(inputs["cam_intr"][..., :3], 256).expand(3, -1, -1)
    wrist = inputs["hand_center_3d"].expand(3, -1)
    with torch.no_grad():
        seen = network.see(torch.cat([image, noise]))
        body = network.body(wrist, *network.joints(seen, wrist, projection), template)
        position = (inputs["pts"] / network.config.scale + wrist[:1, None]).expand(3, -1, -1)
        found = network.field("hand", seen, position, body, projection)
    assert np.allclose(found[:1], stored["sdf_hand"], atol=1e-3)
    assert not torch.allclose(found[0], found[1], atol=1e-2)


# --- parts ------------------------------------------------------------------------------------------------------------


def test_soft_argmax_is_where_the_peak_is():
    logits = torch.zeros(1, 2, 4, 5, 6)
    logits[0, 0, 3, 1, 2] = logits[0, 1, 0, 4, 5] = 60.0
    places, peak = soft_argmax(logits)
    assert torch.allclose(places[0], torch.tensor([[2.0, 1, 3], [5, 4, 0]]), atol=1e-5)
    assert torch.allclose(peak, torch.ones(1, 2))
    even, peak = soft_argmax(torch.zeros(1, 1, 4, 5, 6))
    assert torch.allclose(even[0, 0], torch.tensor([2.5, 2, 1.5])) and torch.allclose(peak, torch.tensor(1 / 120))


@pytest.mark.parametrize("centred", [False, True])
def test_places_in_heat_maps_are_lifted_to_where_they_came_from(centred):
    """A point's own pixel and depth, as bins, give the point back."""
    config = dataclasses.replace(OBMAN, centred_bins=centred)
    matrix = torch.tensor([[[300.0, 0, 120], [0, 310, 140], [0, 0, 1]]])
    point, wrist = torch.tensor([[[0.02, -0.03, 0.62]]]), torch.tensor([0.6])
    pixel = (point @ matrix.mT)[..., :2] / point[..., 2:]
    half = 0.5 if centred else 0.0
    bins = torch.cat([pixel / 4 - half, ((point[..., 2:] - 0.6) / 0.28 + 1) * 32 - half], -1)
    net = PoseNet(dataclasses.replace(config, width=4, neck=8), 1)
    net.forward = lambda image: (bins, bins[..., 0])  # type: ignore[method-assign]
    found = net.joints(torch.zeros(1, 3, 256, 256), wrist, projection_of(matrix, 256))
    assert torch.allclose(found, point, atol=1e-5)
    assert torch.allclose(lifted(torch.zeros(1, 1, 3), wrist, projection_of(matrix, 256))[..., 2], torch.tensor(0.6))


def test_features_are_the_point_in_each_bones_frame():
    """Turned and moved together, hand and point keep their bones' coordinates; shorter features begin the longer."""
    generator = torch.Generator().manual_seed(0)
    template = torch.from_numpy(load(DATA / "picture.npz")["template21"])
    joints = template + 0.003 * torch.randn(2, 21, 3, generator=generator)
    joints = joints - joints[:, :1]
    x = 0.1 * torch.randn(2, 5, 3, generator=generator)
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    first = hand_embedding(x, gsdf_kinematics(joints, template, faults=False))
    second = hand_embedding(x @ turn.mT, gsdf_kinematics(joints @ turn.mT, template, faults=False))
    assert torch.allclose(first[..., 3:], second[..., 3:], atol=1e-4) and first.shape[-1] == 51
    assert torch.allclose(first[..., 3:].unflatten(-1, (16, 3))[..., 0, :].norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    known = gsdf_kinematics(joints, template)
    center = torch.tensor([[0.1, 0, 0]]).expand(2, 3)
    for latent in HAND_LATENTS:
        assert torch.equal(hand_embedding(x, known, latent), hand_embedding(x, known)[..., :latent])
    whole = object_embedding(x, center, joints, known)
    assert torch.equal(whole[..., 3:6], x - center[:, None]) and torch.equal(whole[..., 9:12], x - joints[:, None, 0])
    for latent in OBJECT_LATENTS:
        part = object_embedding(x, center, joints, known, latent)
        wanted = whole[..., :latent] if latent != 69 else torch.cat([whole[..., :6], whole[..., 9:]], -1)
        assert torch.equal(part, wanted)


def test_a_clip_has_any_number_of_pictures_in_any_order():
    torch.manual_seed(0)
    clip = ClipTransformer(8, 4, 2, 2, 4, 16).eval()
    maps = torch.randn(6, 8, 4, 4)
    with torch.no_grad():
        whole, halves, single = clip(maps, 6), clip(maps, 3), clip(maps, 1)
        order = torch.tensor([3, 0, 5, 1, 4, 2])
        assert torch.allclose(clip(maps[order], 6), whole[order], atol=1e-5)
        assert torch.allclose(clip(maps[:3], 3), halves[:3], atol=1e-5)
        assert torch.allclose(clip(maps[:1], 1), single[:1], atol=1e-5)
    assert not torch.allclose(whole, halves, atol=1e-3) and not torch.allclose(halves, single, atol=1e-3)
    with pytest.raises(ValueError, match="6 pictures are not clips of 4"):
        clip(maps, 4)


def test_training_leaves_the_joints_network_alone():
    network = Gsdf(TINY).train()
    assert network.training and not network.pose_model.training and network.hand_sdf_head.training
    assert not any(p.requires_grad for p in network.pose_model.parameters())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kinematics": "propper"}, "network.kinematics: 'propper'.*did you mean 'proper'"),
        ({"hand_latent": 50}, "network.hand_latent: 50; known: 3, 6, 21, 36, 51"),
        ({"object_latent": 51}, "network.object_latent: 51; known: 3, 6, 9, 69, 72"),
        ({"size": 100}, "network.size: 100 pixels; give a multiple of 32"),
    ],
)
def test_settings_that_there_are_not(changes, said):
    with pytest.raises(ConfigError, match=said):
        GsdfConfig(**changes)
