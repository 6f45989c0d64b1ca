"""The forms in torch against those of the kernels: what they cost, their rows, and each function against its kernel."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from loss_scenes import DOUBLE, SQUARES, double_parts, hand_model, make_scene, true_features, true_pose

from horefine.data.maps import disturb
from horefine.levenberg_marquardt import Rooted, forms_of
from horefine.losses import row_kernels, torch_rows
from horefine.losses.forms import DenseRows, array, known
from horefine.losses.forms import robust_cost as kernel_cost
from horefine.losses.squares import SQUARES as KNOWN
from horefine.losses.torch_squares import on_any_device
from horefine.objective import Objective, parse_terms, prepare
from horefine.scene import Scene

TERMS = {**SQUARES, "pose_prior": {}, "articulation": {}, "orientation": {}, "shape_prior": {"weight": 2.0}}
LEFT_OUT = {"silhouette"}
"""Whose rows are others, with the same equations."""


@functools.lru_cache(maxsize=4)
def problem(dtype, seed=3):
    """A scene off the truth whose maps come with confidences (double by the torch renderer), and its inputs."""
    features = true_features()
    generator = torch.Generator().manual_seed(1)
    trust = {
        name: torch.rand(3, *features.camera.size, generator=generator).sub(0.1).relu()
        for name in ("hand_confidence", "object_confidence", "depth_confidence")
    }
    features = dataclasses.replace(features, **trust)
    pose = disturb(true_pose(), seed, 12.0, 10.0, 8.0, model=hand_model(), object_center=features.object.center)
    if dtype == torch.float32:
        return make_scene(pose, features, true_pose())
    model, _, renderer = double_parts()
    return Scene(pose.to(dtype=dtype), true_pose().to(dtype=dtype), features.to(dtype=dtype), model, renderer)


def fresh(scene, pose=None):
    """The same scene, with nothing computed yet."""
    return dataclasses.replace(scene, pose=scene.pose if pose is None else pose)


def objective_at(scene, table):
    terms = parse_terms(table)
    return Objective(terms, prepare(terms, scene.features, scene.hand_model)).settle(scene)


def close(mine, twin, tight):
    assert mine.shape == twin.shape and mine.dtype == twin.dtype
    scale = float(twin.abs().max())
    assert torch.allclose(mine, twin, rtol=tight, atol=tight * scale), float((mine - twin).abs().max()) / scale


def test_every_form_has_a_case():
    assert {function.__name__ for function in KNOWN} <= {*TERMS, "factor_prior"}


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("name", sorted(set(TERMS) - LEFT_OUT))
def test_costs_and_rows_are_those_of_the_kernels(name, dtype):
    scene = problem(dtype)
    objective = objective_at(scene, {name: TERMS[name]})
    form = forms_of(objective, fresh(scene))[name]
    other = on_any_device({name: form})[name]
    near = scene.pose.map(lambda value: value + 1e-3 * value.std())
    tight = 1e-9 if dtype == DOUBLE else 2e-4
    one, two = form.freeze(fresh(scene)), other.freeze(fresh(scene))
    for pose in (scene.pose, near):
        close(two.cost(fresh(scene, pose)), one.cost(fresh(scene, pose)), tight)
    for mine, twin in zip(two.rows(fresh(scene)), one.rows(fresh(scene)), strict=True):
        assert type(mine) is type(twin)
        if isinstance(twin, DenseRows):
            close(mine.values, twin.values, tight)
            close(mine.matrix, twin.matrix, tight)
            continue
        close(mine.weight, twin.weight, tight)
        used = twin.weight > 0
        assert used.sum() > 3
        own = ("slope", "share") if twin.point.shape[2] else ()  # of the hand's points
        for key in ("values", "wrench", *own):
            close(getattr(mine, key)[used], getattr(twin, key)[used], tight)
        assert torch.equal(mine.point[used], twin.point[used])


def test_a_silhouette_costs_what_the_kernel_says_and_any_loss_is_its_own_twin():
    for dtype in (torch.float32, DOUBLE):
        scene = problem(dtype)
        forms = forms_of(objective_at(scene, {"silhouette": SQUARES["silhouette"], "anatomy": 1.0}), fresh(scene))
        other = on_any_device(forms)
        assert isinstance(other["anatomy"], Rooted)
        close(other["silhouette"].cost(fresh(scene)), forms["silhouette"].cost(fresh(scene)), 1e-5)


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("kernel", [0.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_robust_costs_and_what_is_edge_on(kernel, trust, dtype):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.rand(*shape, generator=generator, dtype=dtype)

    values, valid = random(3, 2, 60, 3) * 4 - 2, random(3, 2, 60).round() * 0.7
    seen, grazing = valid * random(3, 2, 60).round(), random(3, 2, 60) * 0.4
    confidence = random(3, 2, 60).sub(0.2).relu() if trust else None
    sigma = random(3, 2) + 0.3
    tight = 1e-12 if dtype == DOUBLE else 1e-5
    mine = torch_rows.robust_cost(values, valid, confidence, sigma, kernel, 3.0)
    close(mine, kernel_cost(values, valid, confidence, sigma, kernel, 3.0), tight)
    used, fixed = torch_rows.split_by_grazing(values, valid, seen, grazing, 0.1, confidence, sigma, kernel, 2.0)
    other, left = np.empty_like(valid.numpy()), np.empty_like(fixed.numpy())
    row_kernels.split_by_grazing(
        values.numpy(), valid.numpy(), seen.numpy(), grazing.numpy(), 0.1, known(confidence, valid), sigma.numpy(),
        kernel, 2.0, other, left,
    )  # fmt: skip
    assert torch.equal(used, torch.from_numpy(other)) and 20 < int((used > 0).sum()) < 200
    close(fixed, torch.from_numpy(left), tight)


def test_what_is_not_used_counts_for_nothing_whatever_it_is():
    values, used = torch.ones(1, 2, 4, 1), torch.tensor([[[1.0, 0, 1, 0], [0, 0, 1, 1]]])
    spoilt = torch.where(used[..., None] > 0, values, torch.nan)
    parts = (torch.ones(1, 2), 0.0, 1.0)
    fixed = torch_rows.split_by_grazing(spoilt, used, used, torch.zeros_like(used), 0.1, None, *parts)[1]
    assert float(fixed) == 4.0
    points = torch.where(used[..., None] > 0, torch.ones(1, 2, 4, 3), 0.0)  # the others are at the camera: no pixel
    flat = torch_rows.see_pairs(
        points, torch.zeros(1, 2, 4, 2), torch.zeros(1, 2, 4), torch.eye(3)[None], torch.zeros(1, 3), used, True
    )
    assert all(part.isfinite().all() for part in flat)


def test_lists_and_sight_are_those_of_the_kernels():
    generator = torch.Generator().manual_seed(0)
    shown = torch.rand(3, 2, 90, generator=generator).sub(0.5).relu()
    for count in (20, 60):
        index, valid = np.zeros((3, 2, count), np.int64), np.zeros((3, 2, count), np.float32)
        row_kernels.list_pixels(shown.numpy(), count, index, valid)
        mine = torch_rows.list_pixels(shown, count)
        assert torch.equal(mine[0], torch.from_numpy(index)) and torch.equal(mine[1], torch.from_numpy(valid))
    faces = torch.randint(0, 30, (3, 50, 3), generator=generator)
    ids = torch.randint(-1, 20, (3, 2, 90), generator=generator, dtype=torch.int32)
    corners, drawn = np.empty((3, 2, 60, 3), np.int64), np.empty((3, 2, 60), np.float32)
    row_kernels.sight(array(ids), index, array(faces), 30, corners, drawn)
    found = torch_rows.sight(ids, torch.from_numpy(index), faces, 30)
    assert torch.equal(found[0], torch.from_numpy(corners)) and torch.equal(found[1].float(), torch.from_numpy(drawn))
    assert 0 < drawn.mean() < 1
