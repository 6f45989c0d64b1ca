"""Contact from maps and a doubtful pose: what the network is told, what it says, how it is taught, where it is used."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from loss_scenes import can, hand_model, true_features, true_pose

from horefine import pipeline
from horefine.config import load_config
from horefine.contact_truth import NO_REGION, contact_from_pose, elasticity, region_anchors
from horefine.errors import AssetError
from horefine.extractors import FEATURES, Learned, extracted_first, load_default, load_model
from horefine.extractors.contact import ContactExtractor, predict_contact
from horefine.extractors.contact_inputs import (
    HAND_CHANNELS,
    MAPS,
    POINT_CHANNELS,
    Points,
    View,
    even_points,
    hand_inputs,
    point_inputs,
)
from horefine.extractors.contact_net import ContactConfig, ContactNet, Touch, contact_of
from horefine.extractors.contact_noise import aligned, disturb
from horefine.extractors.contact_task import Truth, average_precision, contact_errors, contact_losses
from horefine.extractors.weights import default_path, read_weights, save_weights
from horefine.geometry import Camera, axis_angle_to_matrix
from horefine.job import Job
from horefine.mesh import Mesh
from horefine.refinement import refine
from horefine.scene import Contact, Features, Pose
from horefine.train import TrainConfig, train
from tests.toy_shard import write_toy_shard

SMALL = ContactConfig(width=16, hidden=16, hand_width=8, points=32)


def bare(**changes) -> Features:
    """The maps of the stored grasps without their contact."""
    return dataclasses.replace(true_features(), contact=None, **changes)


@pytest.fixture
def net() -> ContactNet:
    """Not trained, but not constant either."""
    model = ContactNet(SMALL).eval().requires_grad_(False)
    torch.nn.init.normal_(model.trunk.layers[-1].weight, std=0.3)
    return model


# --- what it is told --------------------------------------------------------------------------------------------------


def test_even_points_lie_on_the_surface_whatever_the_mesh():
    few = trimesh.creation.box((0.04, 0.06, 0.1))
    many = few.subdivide().subdivide().subdivide()
    meshes = [Mesh.from_arrays(np.asarray(m.vertices), np.asarray(m.faces)) for m in (few, many)]
    found = [even_points(mesh, 4000) for mesh in meshes]
    for points in found:
        gap = (points.place.abs() / torch.tensor([0.02, 0.03, 0.05])).amax(-1)
        assert torch.allclose(gap, torch.ones_like(gap), atol=1e-5)
        assert torch.allclose(points.normal.norm(dim=-1), torch.ones(1, 4000), atol=1e-5)
        assert ((points.normal * points.place).sum(-1) > 0).all()
        on_top = (points.place[..., 2] > 0.0499).float().mean()
        assert on_top.item() == pytest.approx(0.04 * 0.06 / (2 * (0.04 * 0.06 + 0.04 * 0.1 + 0.06 * 0.1)), abs=0.02)
    both = even_points(Mesh.cat(meshes), 4000)
    assert torch.equal(both.place[0], found[0].place[0]) and torch.equal(both.place[1], found[1].place[0])


def test_inputs_have_their_sizes_and_stay_of_unit_size():
    view = View.of(true_pose(), bare(), hand_model())
    points, hand = point_inputs(view, even_points(bare().object, 50), hand_model()), hand_inputs(view, hand_model())
    assert points.values.shape == (3, 50, POINT_CHANNELS) and hand.values.shape[::2] == (3, HAND_CHANNELS)
    assert points.values.isfinite().all() and points.values.abs().max() <= 6 and hand.values.abs().max() <= 6
    skin = hand_model()(*(getattr(true_pose(), f"hand_{n}") for n in ("rotvec", "shape", "transl"))).vertices
    place = even_points(bare().object, 50).place @ view.rotation.mT + view.transl[:, None]
    for region in (0, 5, 16):
        chosen = hand_model().palmar & (hand_model().regions == region)
        expected = (place[:, :, None] - skin[:, None, chosen]).norm(dim=-1).amin(-1)
        torch.testing.assert_close(points.regions[..., region], expected, atol=1e-6, rtol=0)
    expected = (place[:, :, None] - hand_model().anchors(skin)[:, None]).norm(dim=-1)
    torch.testing.assert_close(points.anchors, expected, atol=1e-6, rtol=0)


def test_maps_are_read_where_the_points_are_seen():
    """Maps that are the same everywhere: each window says what they say, against the point's own depth."""
    shape = bare().hand_mask.shape
    code = torch.tensor([0.2, 0.5, 0.8])[None, :, None, None].expand(3, 3, *shape[1:])
    flat = bare(
        hand_mask=torch.ones(shape), object_mask=torch.zeros(shape), hand_coords=code, depth=torch.full(shape, 0.01)
    )
    view = View.of(true_pose(), flat, hand_model())
    points = even_points(flat.object, 40)
    values = point_inputs(view, points, hand_model()).values
    seen = values[..., 70:100].unflatten(-1, (3, 10))[..., :2, :]  # 16 pixels wide: the border comes into it
    assert torch.allclose(seen[..., :2], torch.tensor([1.0, 0.0]).expand_as(seen[..., :2]), atol=1e-5)
    assert torch.allclose(seen[..., 2:5], torch.tensor([0.2, 0.5, 0.8]).expand_as(seen[..., 2:5]), atol=1e-5)
    assert not seen[..., 5:8].any() and not seen[..., 9].any()
    own = (points.place @ view.rotation.mT + view.transl[:, None])[..., 2] - view.center_seen[:, None, 2]
    expected = ((0.01 - own) / 0.02).clamp(-4, 4)[..., None].expand(-1, -1, 2)
    torch.testing.assert_close(seen[..., 8], expected, atol=1e-4, rtol=0)


def test_missing_maps_show_nothing_and_are_flagged():
    none = bare(**dict.fromkeys(MAPS))
    some = bare(hand_coords=None, depth=None)
    points = even_points(none.object, 20)
    for features, known in ((none, [0, 0, 0, 0]), (some, [1, 0, 1, 0]), (bare(), [1, 1, 1, 1])):
        values = point_inputs(View.of(true_pose(), features, hand_model()), points, hand_model()).values
        assert values[0, 0, -4:].tolist() == known
        assert (values[..., 70:100] == 0).all() == (features is none)


def test_an_object_outside_the_picture_or_behind_the_camera_gives_finite_inputs():
    for place in ([3.0, 0.0, 0.5], [0.0, 0.0, -0.5], [0.0, 0.0, 0.0]):
        pose = dataclasses.replace(true_pose(), object_transl=torch.tensor([place] * 3))
        view = View.of(pose, bare(), hand_model())
        assert point_inputs(view, even_points(bare().object, 20), hand_model()).values.isfinite().all()


# --- what it says -----------------------------------------------------------------------------------------------------


def test_it_begins_as_cpfs_rule():
    """Before it has learned anything, contact and distances are those of the posed hand."""
    model = ContactNet(SMALL).eval()
    for parameter in model.trunk.layers[-1].parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        found = predict_contact(model, true_pose(), bare(), hand_model()).contact
    rule = true_features().contact
    assert found is not None and rule is not None
    torch.testing.assert_close((found.probability > 0.5).float(), rule.probability)
    touching = rule.probability > 0.5
    assert (found.region == rule.region)[touching].float().mean() > 0.7  # nearest region against most neighbours
    same = touching & (found.region == rule.region)
    assert (found.elasticity - rule.elasticity)[same].abs().max() < 0.02


def test_contact_of_padding_and_of_the_unlikely():
    anchors = torch.full((1, 4, 32), 0.01)
    region = torch.nn.functional.one_hot(torch.tensor([[2, 15, 3, 3]]), 17).float()
    touch = Touch(torch.tensor([[3.0, 3.0, -3.0, 3.0]]), region, anchors)
    found = contact_of(touch, hand_model(), torch.tensor([[True, True, True, False]]))
    assert found.region.tolist() == [[2, 15, NO_REGION, NO_REGION]]
    assert found.probability[0, :2].min() > 0.9 and found.probability[0, 2] < 0.1 and found.probability[0, 3] == 0
    spring = elasticity(torch.tensor(0.01), 0.045).item()
    assert found.elasticity[0, 0].tolist() == pytest.approx(
        [spring, spring, spring, 0]
    )  # a fingertip has three anchors
    assert found.elasticity[0, 1].tolist() == pytest.approx([spring] * 4) and not found.elasticity[0, 2:].any()


def test_an_image_does_not_depend_on_its_neighbours_nor_on_padding(net):
    small = Mesh.from_arrays(*tetrahedron())
    plain = dataclasses.replace(can(), sdf=None)
    mesh = Mesh.cat([plain, small, plain])
    together = predict_contact(net, true_pose(), bare(object=mesh), hand_model()).contact
    assert together is not None and together.probability.shape == mesh.vertices.shape[:2]
    for row, one in enumerate((plain, small, plain)):
        features = dataclasses.replace(bare()[row : row + 1], object=one)
        alone = predict_contact(net, true_pose()[row], features, hand_model()).contact
        assert alone is not None
        count = one.vertices.shape[1]
        torch.testing.assert_close(together.probability[row, :count], alone.probability[0], atol=1e-5, rtol=1e-4)
        assert torch.equal(together.region[row, :count], alone.region[0])
        assert not together.probability[row, count:].any() and (together.region[row, count:] == NO_REGION).all()
        assert not together.elasticity[row, count:].any()


def tetrahedron():
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.03
    return corners, np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])


def test_vertices_are_looked_at_in_chunks(net, monkeypatch):
    whole = predict_contact(net, true_pose(), bare(), hand_model()).contact
    monkeypatch.setattr("horefine.extractors.contact.CHUNK", 17)
    parts = predict_contact(net, true_pose(), bare(), hand_model()).contact
    torch.testing.assert_close(whole.probability, parts.probability, atol=1e-5, rtol=1e-4)


def test_it_does_not_depend_on_where_the_objects_frame_is_nor_on_the_maps_size(net):
    found = predict_contact(net, true_pose(), bare(), hand_model()).contact
    shift = torch.tensor([0.3, -0.2, 0.1])
    mesh = dataclasses.replace(bare().object, vertices=bare().object.vertices + shift)
    back = (axis_angle_to_matrix(true_pose().object_rotvec) @ shift[:, None])[..., 0]
    pose = dataclasses.replace(true_pose(), object_transl=true_pose().object_transl - back)
    moved = predict_contact(net, pose, bare(object=mesh), hand_model()).contact
    torch.testing.assert_close(found.probability, moved.probability, atol=1e-3, rtol=1e-2)
    camera = Camera(bare().camera.matrix, bare().camera.size).resized((96, 80))
    large = {
        name: torch.nn.functional.interpolate(m if m.dim() == 4 else m[:, None], (96, 80), mode="nearest").view(
            3, *m.shape[1:-2], 96, 80
        )
        for name, m in ((name, getattr(bare(), name)) for name in MAPS)
    }
    features = bare(camera=camera, image=None, measured_depth=None, **large)
    scaled = predict_contact(net, true_pose(), features, hand_model()).contact
    assert (scaled.probability - found.probability).abs().mean() < 0.1


# --- how it is taught -------------------------------------------------------------------------------------------------


def truth_at(points: Points) -> tuple[Truth, Contact]:
    pose = true_pose()
    place = points.place @ axis_angle_to_matrix(pose.object_rotvec).mT + pose.object_transl[:, None]
    skin = hand_model()(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).vertices
    contact = contact_from_pose(hand_model(), skin, place)
    return Truth(contact.region, torch.cdist(place, hand_model().anchors(skin))), contact


def test_the_truth_costs_nothing_and_has_no_error():
    truth, contact = truth_at(even_points(bare().object, 200))
    there = truth.region != NO_REGION
    assert 0.1 < there.float().mean() < 0.9
    region = 40.0 * torch.nn.functional.one_hot(truth.region, 18)[..., :17].float()
    perfect = Touch(torch.where(there, 20.0, -20.0), region, truth.distance)
    assert sum(contact_losses(perfect, truth, hand_model()).values()) < 1e-5
    found = contact_errors(contact_of(perfect, hand_model(), torch.ones_like(there)), truth, hand_model())
    expected = {"f1": 1, "iou": 1, "average_precision": 1, "region_accuracy": 1, "spring_error_mm": 0}
    assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-2)
    rule = contact_errors(contact, truth, hand_model())
    assert {k: rule[k] for k in expected} == pytest.approx(expected, abs=1e-2)


def test_spring_errors_are_those_of_the_springs_that_are_used():
    """All distances 4 mm too long: so are the springs, those too long to be used left out."""
    truth, _ = truth_at(even_points(bare().object, 200))
    there = truth.region != NO_REGION
    region = 40.0 * torch.nn.functional.one_hot(truth.region, 18)[..., :17].float()
    longer = Touch(torch.where(there, 20.0, -20.0), region, truth.distance + 0.004)
    found = contact_errors(contact_of(longer, hand_model(), torch.ones_like(there)), truth, hand_model())
    assert found["spring_error_mm"] == pytest.approx(4, abs=0.02) and found["spring_median_mm"] == pytest.approx(
        4, 0.01
    )
    none = Touch(torch.full_like(longer.contact, -20.0), region, truth.distance)
    empty = contact_errors(contact_of(none, hand_model(), torch.ones_like(there)), truth, hand_model())
    assert empty["f1"] == 0 and empty["spring_error_mm"] == 0 and np.isfinite(list(empty.values())).all()


def test_losses_without_any_contact_are_finite():
    truth = Truth(torch.full((2, 5), NO_REGION), torch.full((2, 5, 32), 0.3))
    logits = torch.zeros(2, 5, requires_grad=True)
    touch = Touch(logits, torch.zeros(2, 5, 17, requires_grad=True), torch.full((2, 5, 32), 0.1, requires_grad=True))
    losses = contact_losses(touch, truth, hand_model())
    assert losses["region"] == 0 and losses["anchors"] == 0 and losses["contact"].item() == pytest.approx(np.log(2))
    sum(losses.values()).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("score", "true", "expected"),
    [([0.9, 0.8, 0.1], [1, 1, 0], 1.0), ([0.9, 0.8, 0.1], [0, 1, 0], 0.5), ([0.9, 0.8, 0.7], [1, 0, 1], 5 / 6),
     ([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0], 0.25), ([0.3, 0.2], [0, 0], 0.0)],
)  # fmt: skip
def test_average_precision(score, true, expected):
    assert average_precision(torch.tensor(score), torch.tensor(true).bool()) == pytest.approx(expected)


def test_disturbed_poses_are_as_far_off_as_aligned_ones():
    """The medians that ``disturb`` says, on many copies of a grasp; the same generator gives the same poses."""
    many = Pose.cat([true_pose()] * 300)
    centers = torch.zeros(len(many), 3)
    pose = disturb(many, hand_model(), centers, torch.Generator().manual_seed(0))
    again = disturb(many, hand_model(), centers, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(pose.items(), again.items(), strict=True))

    def degrees(found: torch.Tensor, true: torch.Tensor) -> float:
        turn = axis_angle_to_matrix(found).mT @ axis_angle_to_matrix(true)
        return ((torch.diagonal(turn, dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1).acos().rad2deg().median().item()

    assert 3 < degrees(pose.object_rotvec, many.object_rotvec) < 8
    assert 10 < degrees(pose.hand_rotvec[:, 0], many.hand_rotvec[:, 0]) < 20
    assert 7 < degrees(pose.hand_rotvec[:, 1:], many.hand_rotvec[:, 1:]) < 22  # these grasps are far from relaxed
    moved = (pose.object_transl - many.object_transl) * 1e3
    assert 2 < moved[:, :2].norm(dim=-1).median() < 8 and 8 < moved[:, 2].abs().median() < 25


def test_some_hands_are_aligned_to_the_maps_and_some_are_not():
    features = bare()[torch.zeros(12, dtype=torch.long)]
    many = true_pose()[torch.zeros(12, dtype=torch.long)]
    begin = disturb(many, hand_model(), features.object.center, torch.Generator().manual_seed(3))
    end = aligned(many, features, hand_model(), torch.Generator().manual_seed(3))
    assert torch.equal(begin.object_transl, end.object_transl)
    moved = (end.hand_transl != begin.hand_transl).any(1)
    assert 0 < moved.sum() < 12 and torch.equal(end.hand_rotvec[:, 1:], begin.hand_rotvec[:, 1:])


@pytest.mark.slow
def test_training_lowers_the_loss_and_leaves_a_usable_weight_file(tmp_path):
    data = write_toy_shard(tmp_path / "data" / "shard_00000", 20)
    changes = {"width": 16, "hidden": 16, "hand_width": 8, "points": 32}
    recipe = TrainConfig(
        "contact", changes, {}, batch=8, steps=40, rate=1e-2, held_out=4, measured=4, log_every=10, ema=0.9
    )
    path = train(recipe, data=data, out=tmp_path / "out")
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert len(losses) == 4 and losses[-1] < 0.9 * losses[0]
    assert {"f1", "rule_f1", "spring_error_mm"} <= read_weights(path, "contact").validation.keys()
    assert isinstance(load_model(path, "contact"), ContactNet)


# --- where it is used -------------------------------------------------------------------------------------------------


def test_shipped_weights_are_small_and_beat_cpfs_rule():
    assert default_path("contact").stat().st_size < 0.5e6
    said = read_weights(default_path("contact"), "contact").validation
    for name in ("f1", "iou", "average_precision", "region_accuracy"):
        assert said[name] > said[f"rule_{name}"]
    assert load_default("contact") is load_default("contact")


def test_weights_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "contact.safetensors"
    save_weights(path, ContactNet(SMALL).state_dict(), "contact", ContactConfig(), {})
    with pytest.raises(AssetError, match="do not fit"):
        load_model(path, "contact")


def test_refine_completes_features_once_after_alignment(net):
    extractor, seen = ContactExtractor(hand=hand_model(), model=net), []

    def complete(pose: Pose, features: Features) -> Features:
        seen.append(pose)
        return extractor.complete(pose, features)

    changes = {"losses": {"spring_length": 1.0, "pose_prior": 1.0}, "stages": {"only": {"steps": 2}}}
    first = dataclasses.replace(true_pose(), hand_transl=true_pose().hand_transl + 0.02)
    options = {"hand_model": hand_model(), "complete": complete}
    result = refine(first, bare(), {**changes, "align": {"hand": "codes"}}, **options)
    assert len(seen) == 1 and "spring_length" in result.history
    assert (seen[0].hand_transl - first.hand_transl).norm(dim=-1).min() > 0.005  # the hand had been aligned
    refine(first, bare(), changes, **options)
    assert len(seen) == 2 and torch.equal(seen[1].hand_transl, first.hand_transl)


def test_what_is_given_wins():
    assert Learned(hand=hand_model()).complete(true_pose(), true_features()) is true_features()


def test_the_pipeline_completes_only_what_the_recipe_wants_and_no_file_gave():
    called = []
    networks = SimpleNamespace(complete=lambda pose, features: called.append(1) or features)
    wants, wants_not = load_config("cpf"), load_config("adam")
    assert "contact" in wants.features and "contact" not in wants_not.features
    for config, features, expected in (
        (wants, bare(), True), (wants_not, bare(), False), (wants, true_features(), False),
        (wants, bare(**dict.fromkeys(MAPS)), False),
    ):  # fmt: skip
        job = object.__new__(Job)
        job.__dict__.update(config=config, networks=networks)
        complete = pipeline.completion(job, features)
        assert (complete is not None) == expected
        if complete is not None:
            complete(true_pose(), features)
    assert called == [1]


def test_contact_is_extracted_by_the_maps_it_is_read_off():
    assert extracted_first(["contact", "image", "depth"]) == (
        "hand_mask", "object_mask", "hand_coords", "object_coords", "depth", "image",
    )  # fmt: skip
    assert set(MAPS) <= set(FEATURES)


def test_region_anchors_agree_with_what_springs_ask_for(net):
    """Springs of a predicted contact exist where the region has anchors, and nowhere else."""
    found = predict_contact(net, true_pose(), bare(), hand_model()).contact
    exists = region_anchors(hand_model())[found.region] != 32
    assert torch.equal(found.elasticity > 0, exists)
