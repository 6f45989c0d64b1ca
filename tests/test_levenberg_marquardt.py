"""The second-order solver: slopes against finite differences and a twin, damping, neighbours, and the whole recipe."""

import dataclasses
import functools
import re

import numpy as np
import pytest
import torch
from loss_scenes import (
    DOUBLE,
    SQUARES,
    double_objective,
    double_parts,
    double_scene,
    hand_model,
    true_features,
    true_pose,
)

from horefine import levenberg_marquardt, load_config, load_hand, refine
from horefine.data.maps import corrupt, disturb
from horefine.data.synthetic import benchmark_scenes
from horefine.distance import DistanceGrid
from horefine.errors import ConfigError
from horefine.geometry import axis_angle_to_matrix
from horefine.jacobian import chart_matrix, hand_jacobian, hand_jacobian_twin, hand_tables
from horefine.levenberg_marquardt import Damping, Workspace, forms_of, minimise, normal_equations
from horefine.losses import touch_kernels
from horefine.losses.contact_squares import _least
from horefine.losses.forms import DenseRows, packed_vertices
from horefine.losses.image_squares import see, see_code, see_rendered_depth
from horefine.losses.robust import Residuals, count_repeats
from horefine.objective import Objective, Term
from horefine.tangent import CHARTS

TERMS = {
    **SQUARES,
    "pose_prior": {},
    "shape_prior": {"weight": 2.0},
    "anatomy": {},
    "articulation": {},
    "orientation": {},
}


@functools.lru_cache(maxsize=1)
def start():
    center = true_features().object.center
    pose = disturb(true_pose(), 3, 12.0, 10.0, 8.0, model=hand_model(), object_center=center)
    shape = torch.randn(3, 10, generator=torch.Generator().manual_seed(2)) * 0.5
    return dataclasses.replace(pose, hand_shape=shape)


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
    scene = double_scene(start().to(dtype=DOUBLE))
    whole = double_objective({name: TERMS[name]})
    form = forms_of(whole, scene)[name].freeze(scene)
    assert torch.allclose(form.cost(scene), whole.evaluate(scene)[name], rtol=1e-5)
    normal, right = np.zeros((3, 67, 67)), np.zeros((3, 67))
    normal_equations(scene, {name: form}, torch.ones(3, dtype=torch.bool), Workspace(), normal, right)
    size, slope = 1e-6, np.zeros((3, 67))
    for column in range(67):
        step = torch.zeros(3, 67, dtype=DOUBLE)
        step[:, column] = size
        moved = [form.cost(double_scene(CHARTS["tangent"].move(scene, s))) for s in (step, -step)]
        slope[:, column] = ((moved[0] - moved[1]) / (2 * size)).numpy()
    scale = np.abs(slope).max(1, keepdims=True)
    assert (scale > 0).all(), "the test must see a slope"
    # left out of the slopes: how the balls' radius changes; that each vertex of a region has its own normal and share
    tolerance = {"penetration": 0.1, "contact": 0.25}.get(name, 2e-4)
    assert (np.abs(2 * right - slope) < tolerance * scale).all()
    assert (np.linalg.eigvalsh(normal) > -1e-6 * np.abs(normal).max()).all()


@pytest.mark.parametrize("tolerance", [0.0, 0.002])
def test_what_is_told_to_be_far_from_the_object_is_far(tolerance):
    """Blocks of the grid leave points out: wherever the hand is (in the object, at it, outside its grid), with whatever
    size the object has, the cost stays the loss."""
    draw, costs = torch.Generator().manual_seed(5), []
    whole = double_objective({"penetration": {"sigma": 0.002, "tolerance": tolerance}})
    for far in (0.0, 0.01, 0.02, 0.04, 0.08, 0.3):
        for size in (None, torch.tensor([0.7, 1.0, 1.5], dtype=DOUBLE)):
            pose = start().to(dtype=DOUBLE)
            shift = far * torch.nn.functional.normalize(torch.randn(3, 3, generator=draw, dtype=DOUBLE), dim=1)
            scene = double_scene(dataclasses.replace(pose, hand_transl=pose.hand_transl + shift, object_scale=size))
            cost = forms_of(whole, scene)["penetration"].freeze(scene).cost(scene)
            assert torch.allclose(cost, whole.evaluate(scene)["penetration"], rtol=1e-5, atol=1e-9)
            costs.append(cost)
    assert (torch.stack(costs) > 1).sum() > 10 and (torch.stack(costs) == 0).any(), "the test must see both"


@pytest.mark.parametrize("size", [5, 8, 9, 64])
def test_a_block_of_a_distance_grid_is_no_higher_than_its_cells(size):
    values = torch.randn(2, size, size, size, generator=torch.Generator().manual_seed(size))
    thing = dataclasses.replace(true_features().object[:2], sdf=DistanceGrid(values, torch.zeros(2, 3), torch.ones(2)))
    features = dataclasses.replace(true_features()[:2], object=thing)
    found, cells = torch.from_numpy(_least(features)), -torch.nn.functional.max_pool3d(-values, 2, 1)
    step = touch_kernels.BLOCK
    for axis in (1, 2, 3):
        found = found.repeat_interleave(step, axis).narrow(axis, 0, size - 1)
    blocks = -torch.nn.functional.max_pool3d(-cells, step, step, ceil_mode=True)
    for axis in (1, 2, 3):
        blocks = blocks.repeat_interleave(step, axis).narrow(axis, 0, size - 1)
    assert (found <= cells).all() and torch.equal(found, blocks)


@pytest.mark.parametrize("name", ["rendered_code", "rendered_depth"])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_what_a_pixel_sees_is_what_the_twin_says(name, dtype):
    scene = double_scene(start().to(dtype=DOUBLE))
    form = forms_of(double_objective({name: TERMS[name]}), scene)[name].freeze(scene)
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


def test_the_chart_matrix_is_the_slope_of_the_chart():
    """Plain translation of hand and object that a step in the chart gives, by finite differences."""
    scene = double_scene(start().to(dtype=DOUBLE))
    matrix, size = chart_matrix(scene), 1e-6
    for column in (0, 2, 63, 61):
        step = torch.zeros(3, 67, dtype=DOUBLE)
        step[:, column] = size
        moved = CHARTS["tangent"].move(scene, step)
        hand = (moved.hand_transl - scene.pose.hand_transl) / size
        thing = (moved.object_transl - scene.pose.object_transl) / size
        assert torch.allclose(matrix[:, :3, column], hand, atol=1e-8)
        assert torch.allclose(matrix[:, 61:64, column], thing, atol=1e-8)


@dataclasses.dataclass(frozen=True)
class Wish:
    """Shape values as wished, with slopes that lie for some images: their steps make it worse."""

    wish: torch.Tensor
    honest: torch.Tensor
    asked: list

    def freeze(self, scene):
        return self

    def cost(self, scene):
        self.asked.append(scene)
        return (scene.pose.hand_shape - self.wish).square().sum(1)

    def rows(self, scene):
        matrix = torch.zeros(3, 10, 67, dtype=self.wish.dtype)
        matrix[:, torch.arange(10), torch.arange(51, 61)] = torch.where(self.honest, 1.0, -1.0).to(self.wish)[:, None]
        return [DenseRows(scene.pose.hand_shape - self.wish, matrix)]


def wishing(honest):
    def loss(scene):
        raise AssertionError("a loss with squares is not asked for its value")

    wish = torch.linspace(-1, 1, 10, dtype=DOUBLE).expand(3, 10)
    form = Wish(wish, torch.tensor(honest), [])
    loss.squares = lambda scene, weight: form
    return form, Objective({"wish": Term("wish", loss, 1.0, {})}, {})


def test_a_good_step_is_taken_and_a_bad_one_refused_image_by_image():
    form, whole = wishing([True, False, True])
    pose = start().to(dtype=DOUBLE)
    found = minimise(whole, pose, double_scene, 40, Damping(first=1e-5, tolerance=1e-9))
    assert torch.allclose(found.pose.hand_shape[[0, 2]], form.wish[[0, 2]], atol=1e-6)
    assert torch.equal(found.pose.hand_shape[1], pose.hand_shape[1]), "every step of it was worse"
    assert torch.allclose(found.pose.hand_rotvec, pose.hand_rotvec, atol=1e-9), "nothing asks it to move"
    assert len(found.values) < 20, "refusals raise the damping until the image is done"
    totals = torch.stack([v["wish"] for v in found.values])
    assert (totals[1:] <= totals[:-1]).all()


def test_a_step_turns_no_joint_too_far():
    terms = {"surface_reprojection": {"sigma": 1.0, "kernel": 60.0}}
    pose, seen = start().to(dtype=DOUBLE), []
    minimise(double_objective(terms), pose, lambda p: seen.append(p) or double_scene(p), 1, Damping(turn=0.01))
    turn = axis_angle_to_matrix(seen[0].hand_rotvec).mT @ axis_angle_to_matrix(seen[1].hand_rotvec)
    angle = torch.acos(((turn.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1))
    assert 0.005 < angle.max() < 0.0101


def run(pose, features, **changes):
    config = load_config("default", [f"{key}={value}" for key, value in changes.items()])
    return refine(pose, features, config, hand_model=hand_model(), renderer="cpu")


def hand_error(pose):
    model = hand_model()
    hands = [model(p.hand_rotvec, p.hand_shape, p.hand_transl).vertices for p in (pose, true_pose())]
    return (hands[0] - hands[1]).norm(dim=-1).mean(1) * 1e3


def test_the_recipe_finds_the_truth_from_far_and_keeps_its_neighbours_out():
    center = true_features().object.center
    far = disturb(true_pose(), 5, 40.0, 40.0, 10.0, model=hand_model(), object_center=center)
    found = run(far, true_features())
    assert (hand_error(far) > 30).all() and (hand_error(found.pose) < 3).all()
    assert (found.pose.object_transl - true_pose().object_transl).norm(dim=1).max() < 2e-3
    assert found.status == ("improved",) * 3
    assert len(found.history["total"]) <= 25 and found.history["rendered_code"][0].isnan().all()
    alone = run(far[1], true_features()[slice(1, 2)])
    assert torch.allclose(alone.pose.hand_transl[0], found.pose.hand_transl[1], atol=5e-4)
    assert torch.allclose(alone.pose.hand_rotvec[0], found.pose.hand_rotvec[1], atol=2e-2)


def test_any_other_loss_is_the_square_of_its_root():
    found = run(start(), true_features(), **{"losses.anatomy": 1.0, "losses.offset": 1.0, "stages.render.rounds": 1})
    assert found.status == ("improved",) * 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.dampng=1", "optimizer.dampng: no such key; did you mean 'damping'?"),
        ("optimizer.rates={wrist: 1}", "optimizer.rates: no such key"),
        ("optimizer.damping=-1", "optimizer.damping: -1"),
        ("optimizer.name=levenberg", "optimizer.name: 'levenberg': no such optimizer; did you mean"),
        ("stages.render.rounds=0", "stages.render.rounds: 0"),
        ("losses.pose_prior={sigma: auto}", "losses.pose_prior.sigma: no such option"),
        ("losses.silhouette={sigma: auto}", "losses.silhouette.sigma: 'auto' is not a number"),
    ],
)
def test_wrong_keys_are_named(override, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config("default", [override])


def test_another_optimizer_replaces_the_one_below():
    """Adam's rates and betas would be unknown keys."""
    config = load_config({"base": "adam", "optimizer": {"name": "levenberg_marquardt", "damping": 1e-3}})
    assert config.optimizer.name == "levenberg_marquardt" and config.optimizer.damping == 1e-3
    assert load_config({"base": "adam", "optimizer": {"betas": [0.5, 0.5]}}).optimizer.rates["wrist"] > 0


def test_repeats_counts_pixels_that_tell_the_same():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 2, 64, 64, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(noise, 5, 1, 2) * 5
    used = torch.zeros(1, 2, 64, 64)
    used[..., 10:50, 10:50] = 1
    counts = {}
    for name, values in (("alone", noise), ("alike", smooth), ("tiny", smooth * 1e-6)):
        residuals = Residuals(values.flatten(2)[..., None], used.flatten(2), torch.zeros(1, 2))
        counts[name] = count_repeats(residuals, (64, 64), 1e-4)
    assert (counts["alone"] < 3).all() and (counts["tiny"] < 1.1).all()
    assert ((counts["alike"] > 8) & (counts["alike"] < 25)).all(), "a box of 25 pixels, tapered"


@pytest.mark.parametrize("level", ["exact", "n02"])
def test_images_that_are_done_leave_and_change_nothing(level, monkeypatch):
    """To the last bit: poses, histories, best steps. The last image starts at its truth and is done at once."""
    truth, features = benchmark_scenes(4, 1000)
    start = disturb(truth, 7, 15.0, 20.0, 10.0, model=load_hand(), object_center=features.object.center)
    alike = [torch.cat([getattr(start, name)[:3], value[3:]]) for name, value in truth.items()]
    pose, seen = start.like(alike), corrupt(features, level, 8)
    left, chosen = [], levenberg_marquardt._Walker.chosen
    monkeypatch.setattr(levenberg_marquardt._Walker, "chosen", lambda *a: left.append(len(a[1])) or chosen(*a))
    results = []
    for leaving in (1e9, -100):
        monkeypatch.setattr(levenberg_marquardt, "LEAVING", leaving)
        results.append(refine(pose, seen))
    assert left and min(left) < 4
    one, two = results
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(one.pose.items(), two.pose.items(), strict=True))
    assert one.history.keys() == two.history.keys() and torch.equal(one.best_step, two.best_step)
    for name, values in one.history.items():
        assert torch.equal(values.nan_to_num(), two.history[name].nan_to_num()), name
    assert one.status == two.status


@pytest.mark.parametrize(("name", "leaves"), [("shape_prior", True), ("anatomy", False)])
def test_all_stay_where_a_loss_cannot_do_without_them(name, leaves):
    walk = levenberg_marquardt._Walker.begin(
        double_objective({name: {}}), double_scene(start().to(dtype=DOUBLE)), Damping()
    )
    assert not walk.lets_go(100)
    walk.done[:2] = True
    assert walk.lets_go(100) == leaves and not walk.lets_go(1)
