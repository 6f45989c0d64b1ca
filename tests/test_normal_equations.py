"""The normal equations summed observation by observation against all rows written out."""

import numpy as np
import pytest
import scipy.linalg
import torch
from loss_scenes import DOUBLE, SQUARES, double_objective, double_scene, true_pose

from horefine import normal_kernels
from horefine.levenberg_marquardt import forms_of
from horefine.losses import row_kernels
from horefine.losses.forms import robust_cost
from horefine.losses.prior_squares import joint_angle_slopes
from horefine.losses.robust import geman_mcclure, trusted
from horefine.losses.sampling import closest_on_triangles
from horefine.normal_equations import Workspace, _summed, _written_out

GROUPS = {
    "correspondences": ("surface_reprojection", "surface_depth", "shape_prior"),
    "pictures": ("rendered_code", "rendered_depth", "pose_prior"),
    "touch": ("spring_length", "penetration", "contact"),
}


def equations(way, names, wanted, work=None):
    """``J'J`` and ``J'r`` of three images."""
    scene = double_scene(true_pose().to(dtype=DOUBLE))
    terms = {name: SQUARES.get(name, {}) for name in names}
    forms = {name: form.freeze(scene) for name, form in forms_of(double_objective(terms), scene).items()}
    normal, right = np.full((3, 67, 67), 7.0), np.full((3, 67), 7.0)
    if way == "summed":
        rows = [row for form in forms.values() for row in form.rows(scene)]
        _summed(scene, rows, wanted, work or Workspace(), normal, right)
    else:
        by_form = {name: form.rows(scene) for name, form in forms.items()}
        _written_out(scene, forms, by_form, wanted, Workspace(), normal, right)
    return normal, right


@pytest.mark.parametrize("group", GROUPS)
def test_sums_are_the_product_of_all_rows(group):
    wanted = torch.ones(3, dtype=torch.bool)
    mine, twin = (equations(way, GROUPS[group], wanted) for way in ("summed", "written"))
    for a, b in zip(mine, twin, strict=True):
        assert np.abs(b).max() > 0
        assert np.allclose(a, b, rtol=1e-9, atol=1e-11 * np.abs(b).max())
    assert np.allclose(mine[0], mine[0].transpose(0, 2, 1))


def test_slopes_of_points_that_nobody_asked_for_do_not_matter():
    """The workspace holds numbers of the image before: here, none at all."""
    spoilt = Workspace()
    spoilt.reserve(0, 794)
    spoilt.jacobian[:] = np.nan
    for group in GROUPS.values():
        normal, right = equations("summed", group, torch.ones(3, dtype=torch.bool), spoilt)
        assert np.isfinite(normal).all() and np.isfinite(right).all()


def test_images_that_are_not_wanted_stay_as_they_were():
    normal, right = equations("summed", GROUPS["pictures"], torch.tensor([True, False, True]))
    assert (normal[1] == 7).all() and (right[1] == 7).all()
    assert not (normal[[0, 2]] == 7).any()


def test_damped_steps_are_those_of_scipy():
    generator = np.random.default_rng(0)
    root = generator.normal(size=(4, 80, 67))
    normal, right = root.transpose(0, 2, 1) @ root, generator.normal(size=(4, 67))
    normal[2] = -np.eye(67)  # not positive: the step is refused as zero
    damping, done = np.array([1e-5, 0.1, 1e-3, 1e-3]), np.array([False, False, False, True])
    free, step = np.setdiff1d(np.arange(67), (2, 50)), np.full((4, 67), 7.0)
    normal_kernels.damped_steps(0, 4, normal, right, damping, done, free, 0.05, step)
    for i in (0, 1):
        own = normal[i][np.ix_(free, free)]
        diagonal = np.diagonal(own)
        damped = own + np.diag(damping[i] * diagonal + 1e-9 * (diagonal.mean() + 1e-12))
        expected = np.zeros(67)
        expected[free] = -scipy.linalg.solve(damped, right[i, free], assume_a="pos")
        turns = np.linalg.norm(np.concatenate([expected[3:51].reshape(16, 3), expected[None, 64:67]]), axis=1)
        expected *= min(1.0, 0.05 / turns.max())
        assert np.allclose(step[i], expected, rtol=1e-8, atol=1e-12)
        assert (step[i, [2, 50]] == 0).all() and np.abs(step[i]).max() > 1e-3
    assert (step[2:] == 0).all()


def test_joint_angles_have_the_slopes_of_their_twin():
    scene = double_scene(true_pose().to(dtype=DOUBLE))
    form = forms_of(double_objective({"pose_prior": {}}), scene)["pose_prior"].freeze(scene)
    (rows,) = form.rows(scene)
    angles, slope = joint_angle_slopes(scene)
    assert torch.allclose(rows.values, ((angles - form.expected) / form.sigma).flatten(1), atol=1e-9)
    blocks = rows.matrix[..., 6:51].unflatten(-1, (15, 3)).unflatten(1, (15, 3))
    for j in range(15):
        assert torch.allclose(blocks[:, j, :, j], slope[:, j] / form.sigma[j][:, None], atol=1e-9)
    assert torch.count_nonzero(rows.matrix) <= 3 * 45 * 3


def test_weights_on_triangles_are_those_of_the_numpy_twin():
    generator = np.random.default_rng(1)
    corners, points = generator.normal(size=(200, 3, 3)), generator.normal(size=(200, 3)) * 2
    mine = row_kernels.weights_on_triangles(points, corners.reshape(-1, 9))
    twin = closest_on_triangles(points, corners)
    places = [(w[..., None] * corners).sum(1) for w in (mine, twin)]
    assert np.allclose(*places, atol=1e-9) and np.allclose(mine.sum(1), 1)


@pytest.mark.parametrize("kernel", [0.0, 2.0])
@pytest.mark.parametrize("trust", [False, True])
def test_robust_costs_are_those_of_the_torch_twin(kernel, trust):
    generator = torch.Generator().manual_seed(0)
    values, used = torch.randn(3, 2, 50, 2, generator=generator), torch.rand(3, 2, 50, generator=generator).round()
    confidence = torch.rand(3, 2, 50, generator=generator).sub(0.2).relu() if trust else None
    sigma = torch.tensor([[0.5, 1.0], [2.0, 0.3], [1.0, 1.0]])
    mine = robust_cost(values, used, confidence, sigma, kernel, 3.0)
    twin = 3 * geman_mcclure(trusted(values, used, torch.zeros_like(used), confidence), sigma, kernel)
    assert torch.allclose(mine, twin, rtol=1e-5)
