"""Contact read off a pose, and the losses on signed distances, where the answer is known in closed form."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from loss_scenes import can, hand_model, make_scene, true_features, true_pose
from torch import Tensor

from horefine.anatomy import ANCHOR_COUNTS, TIP_REGIONS
from horefine.contact_truth import NO_ANCHOR, NO_REGION, anchor_table, contact_from_pose, elasticity
from horefine.distance import DistanceGrid, signed_distance
from horefine.geometry import Camera
from horefine.losses.contact import contact, penetration, region_distance, spring_length
from horefine.losses.cpf import attraction
from horefine.losses.field import sdf_consistency
from horefine.losses.surfaces import ObjectPoints, find_object_points, hand_surface, inner_balls
from horefine.mesh import Mesh
from horefine.scene import Contact, Features, Pose, Scene


def floor(height: float, count: int = 1) -> DistanceGrid:
    """The signed distance of everything below ``y = height``: linear, so the grid is exact."""
    node = torch.arange(8) * 0.2 - 0.7
    values = (node[None, :, None] - height).expand(8, 8, 8)
    return DistanceGrid(values.repeat(count, 1, 1, 1), torch.full((count, 3), -0.7), torch.full((count,), 0.2))


def over_floor(height: float, pose: Pose | None = None) -> Scene:
    """The flat hand (fingers -x, palm -y) at the origin and an object that fills everything below a height."""
    if pose is None:
        pose = Pose(*(torch.zeros(1, *size) for size in ((16, 3), (10,), (3,), (3,), (3,))))
    mesh = dataclasses.replace(can(), sdf=floor(height))
    features = Features(Camera.from_focal(100.0, (8, 8)), mesh)
    scene = object.__new__(Scene)
    scene.__dict__.update(pose=pose, initial=pose, features=features, hand_model=hand_model())
    return scene


# ---------------------------------------------------------------- contact read off a pose


def test_elasticity_ends() -> None:
    value = elasticity(torch.tensor([0.0, 0.01, 0.02, 0.5]), 0.02)
    torch.testing.assert_close(value, torch.tensor([1.0, 0.5, 0.0, 0.0]))


def test_anchor_table() -> None:
    table = anchor_table(hand_model().anchor_region)
    assert [(row != NO_ANCHOR).sum().item() for row in table] == [*ANCHOR_COUNTS, 0]
    assert sorted(table[table != NO_ANCHOR].tolist()) == list(range(32))
    assert all(row.tolist() == sorted(row.tolist()) for row in table)


def test_contact_of_a_fingertip() -> None:
    """Object vertices under the index fingertip belong to it; far ones and padding to nothing."""
    model = hand_model()
    tip = model.template[(model.regions == TIP_REGIONS[1]) & model.palmar].mean(0)
    points = torch.stack([tip - torch.tensor([0, d, 0]) for d in (0.003, 0.008, 0.2, 0.003)])[None]
    valid = torch.tensor([[True, True, True, False]])
    found = contact_from_pose(model, model.template[None], points, valid)
    assert found.region.tolist() == [[5, 5, NO_REGION, NO_REGION]]
    assert found.probability.tolist() == [[1, 1, 0, 0]]
    distance = (model.anchors(model.template[None])[0, [9, 10, 11]] - points[0, 0]).norm(dim=-1)
    torch.testing.assert_close(found.elasticity[0, 0, :3], elasticity(distance, 0.045).clamp(min=0.1))
    assert found.elasticity[0, :, 3].tolist() == [0] * 4 and found.elasticity[0, 2:].abs().max() == 0
    assert (found.elasticity[0, 0, :3] > found.elasticity[0, 1, :3]).all()


def test_contact_between_two_regions_goes_to_the_lower() -> None:
    model = hand_model()
    first, second = (int((model.regions == r).logical_and(model.palmar).nonzero()[0]) for r in (4, 7))
    vertices = torch.full((1, 778, 3), 9.0)
    vertices[0, first], vertices[0, second] = torch.tensor([0.01, 0, 0]), torch.tensor([-0.01, 0, 0])
    assert contact_from_pose(model, vertices, torch.zeros(1, 1, 3)).region.item() == 4
    vertices[0, second] *= 0.9
    assert contact_from_pose(model, vertices, torch.zeros(1, 1, 3)).region.item() == 7


def test_springs_at_the_truth_have_their_length() -> None:
    features = true_features()
    scene = make_scene(true_pose(), features)
    assert features.contact is not None
    assert spring_length(scene, features.contact).max() < 1e-3
    assert (features.contact.probability.sum(1) > 50).all()
    assert (attraction(scene, features.contact) > 0).all()  # CPF's pulls on although this is the truth
    none = Contact(*(torch.zeros_like(x) for x in dataclasses.astuple(features.contact)))
    assert attraction(scene, none).tolist() == [0] * 3 and spring_length(scene, none).tolist() == [0] * 3


def test_one_spring() -> None:
    """One touching vertex, one anchor (the thumb's proximal region has one): attraction and spring length by hand."""
    scene = over_floor(-9.0)
    anchor = hand_model().anchors(scene.hand.vertices)[0, 0]
    count = can().vertices.shape[1]
    region, probability = torch.full((1, count), NO_REGION), torch.zeros(1, count)
    spring = torch.zeros(1, count, 4)
    region[0, 7], probability[0, 7], spring[0, 7, 0] = 0, 0.9, elasticity(torch.tensor(0.02), 0.045)
    gap = float((can().vertices[0, 7] - anchor).norm())
    found = Contact(probability, region, spring)
    k = spring[0, 7, 0].item()
    assert attraction(scene, found).item() == pytest.approx(0.1 * k * gap**2, rel=1e-4)
    assert attraction(scene, found, other_weight=1.0).item() == pytest.approx(k * gap**2, rel=1e-4)
    assert attraction(scene, found, threshold=0.95).item() == 0
    q = ((gap - 0.02) / 0.005) ** 2
    assert spring_length(scene, found).item() == pytest.approx(q / (1 + q), rel=1e-4)


# ---------------------------------------------------------------- what stands for the hand


def test_hand_surface() -> None:
    model, surface = hand_model(), hand_surface(hand_model())
    corners = model.template[model.faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1).sum() / 2
    torch.testing.assert_close(surface.area.sum(), area)
    assert surface.palmar_real.sum() == model.palmar.sum()
    members = surface.palmar[surface.palmar_real > 0]
    assert sorted(members.tolist()) == model.palmar.nonzero().flatten().tolist()
    assert (model.regions[surface.palmar] == torch.arange(17)[:, None]).all()


def test_balls_lie_in_the_hand_in_real_grasps() -> None:
    surface, hand = hand_surface(hand_model()), make_scene(true_pose(), true_features()).hand
    centre, radius = inner_balls(surface, hand)
    assert len(radius[0]) == 70 and radius.median() > 0.005
    for image in range(3):
        arrays = (x[image].double().numpy() for x in (centre, hand.vertices))
        depth = -signed_distance(next(arrays), next(arrays), hand_model().faces.numpy())
        out = radius[image].numpy() - depth
        assert np.quantile(out, 0.9) < 5e-4 and out.max() < 1.5e-3


def test_object_points_are_spread_by_area() -> None:
    points = find_object_points(hand_model(), Mesh.cat([can(), can()])).points
    assert torch.equal(points[0], points[1])
    caps = (points[0, :, 2].abs() > 0.0599).float().mean()
    side, cap = 2 * np.pi * 0.028 * 0.12, 2 * np.pi * 0.028**2
    assert float(caps) == pytest.approx(cap / (side + cap), abs=0.01)


# ---------------------------------------------------------------- penetration and contact


def test_penetration_is_the_squared_depth_over_the_area() -> None:
    model, surface = hand_model(), hand_surface(hand_model())
    height = float(model.template[:, 1].min()) + 0.004
    scene = over_floor(height)
    depth = (height - model.template[:, 1]).relu()
    skin = ((depth / 0.002).square() * surface.area).sum() * 1e4
    (centre,), (radius,) = inner_balls(surface, scene.hand)
    into = (radius - (centre[:, 1] - height)).relu() / 0.002
    balls = into.square().mean() * surface.area.sum() * 1e4
    assert skin > 0
    assert penetration(scene).item() == pytest.approx((skin + balls).item(), rel=1e-3)
    assert penetration(scene, sigma=0.004).item() == pytest.approx((skin + balls).item() / 4, rel=1e-3)
    assert penetration(scene, tolerance=0.0041).item() == 0
    assert penetration(over_floor(height - 0.0041)).item() == 0


def test_a_thin_object_inside_the_hand_is_seen() -> None:
    """A rod of 2 mm through the palm touches no vertex; the balls feel it, and a step lowers it."""
    spacing = 0.002
    node = (torch.arange(128) - 63.5) * spacing
    x, z = torch.meshgrid(node, node, indexing="ij")
    values = ((x.square() + z.square()).sqrt() - 0.001)[:, None, :].expand(128, 128, 128)
    palm = hand_surface(hand_model()).balls[50] @ over_floor(0.0).hand.joints[0]
    rod = DistanceGrid(values[None].contiguous(), palm[None] + node[0], torch.tensor([spacing]))
    pose = Pose(*(torch.zeros(1, *size).requires_grad_() for size in ((16, 3), (10,), (3,), (3,), (3,))))
    scene = over_floor(0.0, pose)
    scene.__dict__["features"] = dataclasses.replace(scene.features, object=dataclasses.replace(can(), sdf=rod))
    inside = scene.features.object.distance(scene.hand.vertices) < 0
    assert inside.sum() <= 2
    value = penetration(scene)
    (pull,) = torch.autograd.grad(value.sum(), pose.hand_transl)
    assert value.item() > 5 and pull.norm() > 0


def test_contact_pulls_what_is_near_and_leaves_what_passes_by() -> None:
    lowest = torch.tensor([hand_model().template[hand_surface(hand_model()).palmar[r], 1].min() for r in range(17)])
    height = float(lowest.max()) - 0.012
    scene = over_floor(height)
    gap = lowest - height
    soft = region_distance(scene, 1e-5)[0]
    torch.testing.assert_close(soft, gap, atol=1e-4, rtol=0)
    ratio = (gap / 0.01).square().clamp(max=1)
    assert contact(scene, softness=1e-5).item() == pytest.approx((1 - (1 - ratio) ** 3).sum().item(), rel=1e-3)
    assert contact(over_floor(-0.3)).item() == 17
    pose = Pose(*(torch.zeros(1, *size).requires_grad_() for size in ((16, 3), (10,), (3,), (3,), (3,))))
    for distance, pulled in ((0.004, True), (0.011, False)):
        value = contact(over_floor(float(lowest.min()) - distance, pose), softness=1e-5)
        (pull,) = torch.autograd.grad(value.sum(), pose.hand_transl)
        assert (pull[0, 1] > 0) == pulled


def test_region_distance_is_the_smallest_and_shifts_with_the_hand() -> None:
    near, far = region_distance(over_floor(-0.2), 0.001), region_distance(over_floor(-0.25), 0.001)
    torch.testing.assert_close(far - near, torch.full((1, 17), 0.05), atol=1e-4, rtol=0)
    hard = hand_model().template[hand_surface(hand_model()).palmar, 1].amin(1) + 0.2
    assert ((near[0] - hard) > -1e-5).all() and ((near[0] - hard) < 0.002).all()


# ---------------------------------------------------------------- predicted fields


def test_sdf_consistency_in_closed_form() -> None:
    scene = over_floor(0.0)
    points = torch.tensor([[[0.0, 0.01, 0.0], [0.0, 0.02, 0.1]]])
    value = sdf_consistency(scene, ObjectPoints(points), floor(0.0), floor(0.0), sigma=0.01)
    q = (hand_model().template[:, 1] / 0.01).square()
    area = hand_surface(hand_model()).area
    expected = (q / (1 + q) * area).sum() / area.sum() + (0.5 + 0.8) / 2
    assert value.item() == pytest.approx(expected.item(), rel=1e-3)


def test_leaving_the_grid_of_a_field_does_not_pay() -> None:
    points = torch.zeros(1, 60, 3)
    points[0, :, 0] = torch.linspace(0.69, 0.9, 60)  # the grid ends at 0.7; y = 0 is its zero level throughout
    value = torch.stack([_at(points[:, i : i + 1]) for i in range(60)])
    assert value[0] == 0 and (value.diff() >= 0).all() and value[-1] > 0.99


def _at(points: Tensor) -> Tensor:
    scene = over_floor(0.0)
    grids = floor(0.0), floor(0.0)
    return (sdf_consistency(scene, ObjectPoints(points), *grids) - _hand_only(scene, grids[0]))[0]


def _hand_only(scene: Scene, grid: DistanceGrid) -> Tensor:
    return sdf_consistency(scene, ObjectPoints(torch.zeros(1, 1, 3)), grid, grid)


def test_padding_and_density_of_a_mesh_do_not_count() -> None:
    """Losses on signed distances see the field, not the vertices: repeating the last vertex changes nothing."""
    features = true_features()
    scene = make_scene(true_pose(), features)
    mesh = features.object
    assert mesh.colors is not None
    longer = (torch.cat([values, values[:, -1:].repeat(1, 99, 1)], 1) for values in (mesh.vertices, mesh.colors))
    padded = dataclasses.replace(mesh, **dict(zip(("vertices", "colors"), longer, strict=True)))
    other = SimpleNamespace(features=dataclasses.replace(features, object=padded))
    again = make_scene(true_pose(), other.features)
    assert torch.equal(penetration(scene), penetration(again)) and torch.equal(contact(scene), contact(again))
