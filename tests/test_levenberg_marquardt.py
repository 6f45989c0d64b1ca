"""The second-order solver: slopes against finite differences and a twin, damping, neighbours, and the whole recipe."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from loss_scenes import hand_model, true_features, true_pose

from horefine.data.maps import disturb
from horefine.geometry import axis_angle_to_matrix
from horefine.jacobian import hand_jacobian, hand_jacobian_twin, hand_tables
from horefine.levenberg_marquardt import Workspace, forms_of, normal_equations
from horefine.losses.forms import packed_vertices
from horefine.losses.image_squares import see, see_code, see_rendered_depth
from horefine.objective import Objective, parse_terms, prepare
from horefine.render import make_renderer
from horefine.scene import Scene
from horefine.tangent import CHARTS

DOUBLE = torch.float64
TERMS = {
    "surface_reprojection": {"sigma": 1.0, "kernel": 10.0},
    "surface_depth": {"sigma": 0.005, "kernel": 10.0},
    "rendered_code": {"sigma": 0.01, "kernel": 3.0},
    "rendered_depth": {"sigma": 0.01, "kernel": 3.0},
    "silhouette": {"weight": 2.0, "sigma": 0.5},
    "spring_length": {"weight": 300.0},
    "penetration": {},
    "pose_prior": {},
    "shape_prior": {"weight": 2.0},
    "anatomy": {},
}


@functools.lru_cache(maxsize=1)
def start():
    center = true_features().object.center
    pose = disturb(true_pose(), 3, 12.0, 10.0, 8.0, model=hand_model(), object_center=center)
    shape = torch.randn(3, 10, generator=torch.Generator().manual_seed(2)) * 0.5
    return dataclasses.replace(pose, hand_shape=shape)


@functools.lru_cache(maxsize=1)
def double_parts():
    model, features = hand_model().to(dtype=DOUBLE), true_features().to(dtype=DOUBLE)
    return model, features, make_renderer(model.faces, model.codes, features.object, features.camera, "torch")


def scene_at(pose):
    model, features, renderer = double_parts()
    return Scene(pose, start().to(dtype=DOUBLE), features, model, renderer)


def objective(terms):
    model, features, _ = double_parts()
    parsed = parse_terms(terms)
    return Objective(parsed, prepare(parsed, features, model))


def test_points_of_the_hand_move_as_the_twin_says():
    model, pose = double_parts()[0], start().to(dtype=DOUBLE)
    hand, twin, tables = (
        model(pose.hand_rotvec, pose.hand_shape, pose.hand_transl),
        hand_jacobian_twin(model, pose),
        hand_tables(model),
    )
    rotations = axis_angle_to_matrix(pose.hand_rotvec).numpy()
    points, slopes = np.empty((tables.point_count, 3)), np.empty((tables.point_count, 3, 61))
    for i in range(3):
        hand_jacobian(tables, rotations[i], pose.hand_shape[i].numpy(), pose.hand_transl[i].numpy(), points, slopes)
        assert np.allclose(points[:778], hand.vertices[i].numpy(), atol=1e-6)  # float32 tables of the double model
        assert np.allclose(points[778:], hand.transforms[i, :, :3, 3].numpy(), atol=1e-6)
        assert np.allclose(slopes, twin[i].numpy(), atol=1e-6)


@pytest.mark.parametrize("name", TERMS)
def test_cost_is_the_loss_and_rows_are_its_slope(name):
    """At a pose off the truth: the form's cost equals the loss; 2 J'r is the slope of its cost along all 67 columns."""
    scene = scene_at(start().to(dtype=DOUBLE))
    whole = objective({name: TERMS[name]})
    form = forms_of(whole, scene)[name].freeze(scene)
    assert torch.allclose(form.cost(scene), whole.evaluate(scene)[name], rtol=1e-5)
    normal, right = np.zeros((3, 67, 67)), np.zeros((3, 67))
    normal_equations(scene, {name: form}, torch.ones(3, dtype=torch.bool), Workspace(), normal, right)
    size, slope = 1e-6, np.zeros((3, 67))
    for column in range(67):
        step = torch.zeros(3, 67, dtype=DOUBLE)
        step[:, column] = size
        moved = [form.cost(scene_at(CHARTS["tangent"].move(scene, s))) for s in (step, -step)]
        slope[:, column] = ((moved[0] - moved[1]) / (2 * size)).numpy()
    scale = np.abs(slope).max(1, keepdims=True)
    assert (scale > 0).all(), "the test must see a slope"
    tolerance = 0.1 if name == "penetration" else 2e-4  # the balls' radius is left out of the slopes
    assert (np.abs(2 * right - slope) < tolerance * scale).all()
    assert (np.linalg.eigvalsh(normal) > -1e-6 * np.abs(normal).max()).all()


@pytest.mark.parametrize("name", ["rendered_code", "rendered_depth"])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_what_a_pixel_sees_is_what_the_twin_says(name, dtype):
    scene = scene_at(start().to(dtype=DOUBLE))
    form = forms_of(objective({name: TERMS[name]}), scene)[name].freeze(scene)
    pixels = dataclasses.replace(
        form.pixels, **{k: getattr(form.pixels, k).to(dtype) for k in ("valid", "ray", "target", "codes")}
    )
    vertices, root = packed_vertices(scene).to(dtype), scene.object_center[:, 2].to(dtype)
    used = form.used.to(dtype)
    mine, cosine = see(vertices, root, pixels, form.corners, used, True)
    twin = see_code if name == "rendered_code" else see_rendered_depth
    other, other_cosine = twin(vertices, root, pixels, form.corners)
    kept = used > 0
    assert kept.sum() > 500
    tight = 1e-3 if dtype is torch.float32 else 1e-10
    for key in ("values", "slope", "point", "barycentric"):
        a, b = getattr(mine, key)[kept], getattr(other, key)[kept]
        assert torch.allclose(a, b, atol=tight * float(b.abs().max())), key
    assert torch.allclose(cosine[kept], other_cosine[kept], atol=tight) and mine.root == other.root
    assert torch.allclose(see(vertices, root, pixels, form.corners, used, False)[0].values[kept], mine.values[kept])
