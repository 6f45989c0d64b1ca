"""Focal length and object size as variables: slopes by finite differences, recovery, priors, sigmas and bad recipes."""

import dataclasses
import functools
import re

import numpy as np
import pytest
import torch
from loss_scenes import DOUBLE, SQUARES, double_parts, double_scene, hand_model, true_features, true_pose

from horefine import load_config, refine
from horefine.data.maps import corrupt, disturb
from horefine.data.mirror import mirror_pose
from horefine.errors import ConfigError, InputError
from horefine.exchange import read_pose
from horefine.factors import chart_for, factor_columns
from horefine.geometry import project
from horefine.levenberg_marquardt import Workspace, forms_of, normal_equations
from horefine.losses.prior import factor_prior
from horefine.mesh import Mesh
from horefine.objective import Objective, Term, parse_terms, prepare
from horefine.render import OUTPUTS, make_renderer
from horefine.scene import FACTORS, Pose, Scene
from horefine.tangent import CHARTS

BOTH = tuple(FACTORS)
TERMS = {**SQUARES, "sdf_consistency": {}}


@functools.lru_cache(maxsize=1)
def off_pose():
    """Not the truth, with factors that are not 1."""
    center = true_features().object.center
    pose = disturb(true_pose(), 3, 8.0, 6.0, 6.0, model=hand_model(), object_center=center).to(dtype=DOUBLE)
    focal, scale = torch.tensor([[1.04, 0.95, 1.1], [0.93, 1.06, 0.98]], dtype=DOUBLE)
    return dataclasses.replace(pose, focal_factor=focal, object_scale=scale)


# --- poses -----------------------------------------------------------------------------------------------------------


def test_a_factor_is_another_camera_or_another_mesh():
    """Rendering with a factor is rendering with that camera (that mesh) and none."""
    pose, (model, features, _) = off_pose(), double_parts()
    scene = double_scene(pose)
    matrix = features.camera.matrix.clone()
    matrix[:, [0, 1], [0, 1]] *= pose.focal_factor[:, None]
    vertices = features.object.vertices * pose.object_scale[:, None, None]
    mesh = Mesh(vertices, features.object.faces, features.object.colors, features.object.name, features.object.counts)
    camera = dataclasses.replace(features.camera, matrix=matrix)
    other = dataclasses.replace(features, camera=camera, object=mesh)
    renderer = make_renderer(model.faces, model.codes, mesh, camera, "torch", want=OUTPUTS | {"colors"})
    plain = Scene(dataclasses.replace(pose, focal_factor=None, object_scale=None), pose, other, model, renderer)
    assert torch.allclose(scene.object, plain.object) and torch.allclose(scene.object_center, plain.object_center)
    same = (scene.render.ids == plain.render.ids).double().mean()
    assert same > 0.999 and torch.allclose(scene.render.masks, plain.render.masks, atol=1e-6)
    there = plain.render.ids >= 0
    assert torch.allclose(scene.render.depth[there], plain.render.depth[there], atol=1e-6)
    given = features.camera.matrix
    assert torch.allclose(project(scene.seen[0], given), project(plain.hand.vertices, matrix), atol=1e-6)
    points = scene.hand.vertices[:, ::20]
    assert torch.allclose(scene.place(scene.to_object_frame(points)), points)
    assert torch.allclose(scene.object_distance(points), plain.object_distance(points), atol=4e-4), "grids differ"


def test_poses_carry_factors_only_where_they_have_them():
    plain, known = true_pose(), true_pose().with_factors(["focal_factor"])
    assert [n for n, _ in plain.items()] == list(Pose.names)
    assert [n for n, _ in known[1].detach().to("cpu").items()] == [*Pose.names, "focal_factor"]
    both = Pose.cat([plain, dataclasses.replace(known, focal_factor=known.focal_factor * 2)])
    assert both.focal_factor.tolist() == [1] * 3 + [2] * 3 and both.object_scale is None
    assert torch.equal(both[4].focal_factor, torch.tensor([2.0]))


# --- charts ----------------------------------------------------------------------------------------------------------


def smooth(scene):
    """Anything smooth that sees every number of the pose, through the camera."""
    hand, thing = (points[:, ::60] for points in scene.seen)
    matrix = scene.features.camera.matrix
    pixels = (project(hand, matrix) / 9).sin().sum((1, 2)) + (project(thing, matrix) / 7).cos().sum((1, 2))
    return pixels + (scene.hand.joints * 9).sin().sum((1, 2)) + (scene.object_center * 20).cos().sum(1)


@pytest.mark.parametrize("name", CHARTS)
def test_gradient_is_the_slope_along_the_new_columns(name):
    def chart():
        return chart_for(name, BOTH)

    leaf = off_pose().map(lambda value: value.clone().requires_grad_())
    scene = double_scene(leaf)
    found = torch.autograd.grad(smooth(scene).sum(), [v for _, v in leaf.items()])
    flat, count = chart().gradient(scene, leaf.like(found)), chart().first
    assert flat.shape[1] == count + 2 and sum(map(len, chart().blocks.values())) == count + 2
    for column in (0, 3, count - 1, count, count + 1):
        step = torch.zeros(3, count + 2, dtype=DOUBLE)
        step[:, column] = 1e-6
        ends = []
        for sign in (1, -1):
            own = chart()
            own.gradient(scene, leaf.like(found))  # a chart that remembers begins here
            ends.append(smooth(double_scene(own.move(scene, sign * step))).detach())
        slope = (ends[0] - ends[1]) / 2e-6
        assert torch.allclose(flat[:, column], slope, rtol=1e-4, atol=1e-4 * float(slope.abs().max())), column


def test_a_step_in_size_keeps_the_middle_and_one_in_focal_length_the_pictures():
    scene = double_scene(off_pose())
    step = torch.zeros(3, 69, dtype=DOUBLE)
    step[:, 68] = 0.1
    grown = double_scene(chart_for("tangent", BOTH).move(scene, step))
    assert torch.allclose(grown.object_center, scene.object_center)
    assert torch.allclose(grown.pose.object_scale, scene.pose.object_scale * float(np.exp(0.1)))
    step = torch.zeros(3, 69, dtype=DOUBLE)
    step[:, 67] = 0.05
    longer, matrix = double_scene(chart_for("tangent", BOTH).move(scene, step)), scene.features.camera.matrix
    middles = [project(s.pose.seen(s.object_center[:, None]), matrix) for s in (scene, longer)]
    assert torch.allclose(*middles)
    moved = (project(longer.seen[0], matrix) - project(scene.seen[0], matrix)).norm(dim=-1)
    alone = dataclasses.replace(scene, pose=dataclasses.replace(scene.pose, focal_factor=longer.pose.focal_factor))
    far = (project(alone.seen[0], matrix) - project(scene.seen[0], matrix)).norm(dim=-1)
    assert (moved.mean(1) < 0.3 * far.mean(1)).all(), "only perspective is left"


# --- the second-order solver -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*TERMS, "factor_prior"])
def test_cost_is_the_loss_and_rows_are_its_slope(name):
    """As in test_levenberg_marquardt, along the new columns and with factors that are not 1."""
    scene = double_scene(off_pose())
    model, features, _ = double_parts()
    parsed = parse_terms({name: TERMS[name]}) if name in TERMS else {
        name: Term(name, factor_prior, 2.0, {"variable": "object_scale", "sigma": 0.1})
    }  # fmt: skip
    whole = Objective(parsed, prepare(parsed, features, model))
    form = forms_of(whole, scene)[name].freeze(scene)
    assert torch.allclose(form.cost(scene), whole.evaluate(scene)[name], rtol=1e-5)
    normal, right = np.zeros((3, 69, 69)), np.zeros((3, 69))
    normal_equations(scene, {name: form}, torch.ones(3, dtype=torch.bool), Workspace(), normal, right, BOTH)
    slope, chart = np.zeros((3, 69)), chart_for("tangent", BOTH)
    columns = [0, 2, 4, 20, 55, 61, 63, 64, 67, 68]
    for column in columns:
        step = torch.zeros(3, 69, dtype=DOUBLE)
        step[:, column] = 1e-6
        ends = [form.cost(double_scene(chart.move(scene, s))) for s in (step, -step)]
        slope[:, column] = ((ends[0] - ends[1]) / 2e-6).numpy()
    scale = np.abs(slope).max(1, keepdims=True)
    assert (scale > 0).all(), "the test must see a slope"
    tolerance = {"penetration": 0.1, "contact": 0.25, "sdf_consistency": 0.01}.get(name, 1e-3)
    assert (np.abs(2 * right - slope)[:, columns] < tolerance * scale).all()
    assert np.allclose(normal, normal.transpose(0, 2, 1))
    assert (np.linalg.eigvalsh(normal) > -1e-6 * np.abs(normal).max()).all()


def test_factor_columns_are_what_the_chart_does_to_the_pose():
    scene = double_scene(off_pose())
    columns = factor_columns(scene, BOTH)
    for place in range(2):
        step = torch.zeros(3, 69, dtype=DOUBLE)
        step[:, 67 + place] = 1e-6
        moved = double_scene(chart_for("tangent", BOTH).move(scene, step))
        hand = (moved.pose.hand_transl - scene.pose.hand_transl) / 1e-6
        thing = (moved.object_center - scene.object_center) / 1e-6
        assert torch.allclose(hand, columns[:, :3, place], atol=1e-5)
        assert torch.allclose(thing, columns[:, 61:64, place], atol=1e-5)


# --- whole recipes ---------------------------------------------------------------------------------------------------

PLAIN = ("losses.penetration=0", "losses.spring_length=0")


def start():
    return disturb(true_pose(), 5, 10.0, 10.0, 5.0, model=hand_model(), object_center=true_features().object.center)


def with_focal(share):
    """The true maps, and a camera whose focal lengths are given ``share`` times too long."""
    features = true_features()
    matrix = features.camera.matrix.clone()
    matrix[:, [0, 1], [0, 1]] *= share
    return dataclasses.replace(features, camera=dataclasses.replace(features.camera, matrix=matrix))


def with_size(share):
    """The true maps, and a mesh that is ``share`` times too large."""
    features = true_features()
    mesh = dataclasses.replace(features.object, vertices=features.object.vertices * share, sdf=None)
    return dataclasses.replace(features, object=mesh)


def run(features, recipe="default", **variables):
    config = load_config(recipe, [*PLAIN, *(f"variables.{name}={sigma}" for name, sigma in variables.items())])
    return refine(start(), features, config, hand_model=hand_model(), renderer="cpu")


def hand_error(pose):
    hands = [hand_model()(p.hand_rotvec, p.hand_shape, p.hand_transl).vertices for p in (pose, true_pose())]
    return (hands[0] - hands[1]).norm(dim=-1).mean(1) * 1e3


@functools.lru_cache(maxsize=1)
def held():
    """Everything right, nothing variable."""
    return run(true_features())


@pytest.mark.parametrize("share", [0.95, pytest.param(1.05, marks=pytest.mark.slow)])
def test_a_wrong_focal_length_is_found_on_exact_maps(share):
    """Perspective is all that tells it from depth: the sigma of the depth says so."""
    fixed, found = run(with_focal(share)), run(with_focal(share), focal=0.05)
    assert (found.pose.focal_factor * share - 1).abs().max() < 3e-3 and (hand_error(found.pose) < 5).all()
    assert (hand_error(fixed.pose) > 20).all() and fixed.pose.focal_factor is None
    assert fixed.sigma.focal_factor is None and (found.sigma.focal_factor < 0.01).all()
    assert (found.sigma.wrist_depth > 2 * fixed.sigma.wrist_depth).all()
    assert found.initial.focal_factor.eq(1).all() and found.history["focal_prior"][0].eq(0).all()


@pytest.mark.parametrize("share", [0.9, pytest.param(1.1, marks=pytest.mark.slow)])
def test_a_wrong_object_size_is_found_on_exact_maps(share):
    """Relative depth is in metres, so exact maps tell a small thing that is near from a large one farther away."""
    found = run(with_size(share), object_scale=0.1)
    assert (found.pose.object_scale * share - 1).abs().max() < 1e-3 and (hand_error(found.pose) < 3).all()
    placed = found.pose.place(with_size(share).object.vertices)
    assert (placed - true_pose().place(true_features().object.vertices)).norm(dim=-1).max() < 2e-3


def test_what_is_right_stays_right():
    found = run(true_features(), focal=0.05, object_scale=0.1)
    assert (found.pose.focal_factor - 1).abs().max() < 5e-3 and (found.pose.object_scale - 1).abs().max() < 1e-3
    assert (hand_error(found.pose) < hand_error(held().pose) + 3).all()
    assert (found.sigma.wrist_depth > held().sigma.wrist_depth).all()


def test_noise_moves_a_factor_by_less_than_its_prior():
    """Maps of networks say little about focal length: the prior holds it, and its sigma is nearly the prior's."""
    found = run(corrupt(true_features(), "n05", 3), focal=0.05)
    off = found.pose.focal_factor.log().abs()
    assert (off < 3 * found.sigma.focal_factor).all() and (off < 0.05).all()
    assert ((found.sigma.focal_factor > 0.01) & (found.sigma.focal_factor < 0.056)).all()


SLOW_CHARTS = [pytest.param(name, marks=pytest.mark.slow) for name in ("axis_angle", "quaternion")]


@pytest.mark.parametrize("chart", ["tangent", *SLOW_CHARTS])
def test_adam_finds_a_size_in_every_chart(chart):
    changes = [f"optimizer.parameters={chart}", "stages.correspond.steps=60", "stages.render.steps=1"]
    config = load_config("adam", [*PLAIN, *changes, "variables.object_scale=0.1", "variables.focal=0.02"])
    found = refine(start(), with_size(1.1), config, hand_model=hand_model(), renderer="cpu")
    assert (found.pose.object_scale * 1.1 - 1).abs().max() < 0.02 and (found.pose.focal_factor - 1).abs().max() < 0.03
    assert found.status == ("improved",) * 3


def test_factors_that_came_with_the_pose_are_kept():
    """Without variables they are held: a second run goes on from the first one's result."""
    known = dataclasses.replace(start(), focal_factor=torch.full((3,), 1 / 1.05))
    found = refine(known, with_focal(1.05), load_config("default", PLAIN), hand_model=hand_model(), renderer="cpu")
    assert torch.equal(found.pose.focal_factor, known.focal_factor) and found.sigma.focal_factor is None
    assert torch.allclose(hand_error(found.pose), hand_error(held().pose), atol=0.3)


# --- files -----------------------------------------------------------------------------------------------------------


def test_factors_go_to_a_file_and_come_back(tmp_path):
    pose = off_pose()[0].to(torch.float32)
    table = {name: value[0].numpy() for name, value in pose.items()}
    np.savez(tmp_path / "new.npz", **table)
    np.savez(tmp_path / "old.npz", **{name: table[name] for name in Pose.names})
    new, old = (read_pose(tmp_path / f"{name}.npz").pose for name in ("new", "old"))
    assert new.focal_factor.tolist() == pose.focal_factor.tolist() and torch.equal(new.object_scale, pose.object_scale)
    assert old.focal_factor is None and old.object_scale is None
    np.savez(tmp_path / "bad.npz", **{**table, "object_scale": 100.0})
    with pytest.raises(InputError, match=r"bad.npz: object_scale: 100; a factor is about 1"):
        read_pose(tmp_path / "bad.npz")


def test_the_mirror_and_other_code_keep_factors():
    pose, (_, features, _) = off_pose(), double_parts()
    assert torch.equal(mirror_pose(pose).focal_factor, pose.focal_factor)
    assert torch.equal(disturb(pose, 0, 5.0, 5.0, 5.0).object_scale, pose.object_scale)
    plain = features.under(pose)
    pixels = project(pose.place(features.object.vertices), plain.camera.matrix)
    assert torch.allclose(pixels, project(pose.seen(pose.place(features.object.vertices)), features.camera.matrix))
    assert torch.allclose(plain.object.scale, features.object.scale * pose.object_scale)
    assert features.under(true_pose()).camera is features.camera


# --- recipes ---------------------------------------------------------------------------------------------------------


def test_a_recipe_without_variables_has_none():
    config = load_config("default")
    assert config.variables.names == () and set(config.terms()) == set(load_config("default").losses)


def test_rates_of_variables():
    config = load_config("adam", ["variables.focal=0.05", "variables.object_scale=0.1", "optimizer.rates.focal=0.02"])
    assert config.rates["focal"] == 0.02 and config.rates["object_scale"] == pytest.approx(0.02)
    assert {"focal_prior", "object_scale_prior"} <= set(config.terms("render"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["variables.focl=0.1"], "variables.focl: no such key; did you mean 'focal'?"),
        (["variables.focal=-0.1"], "variables.focal: -0.1"),
        (["variables.focal=.inf"], "variables.focal: inf"),
        (["optimizer.rates.focal=0.1"], "optimizer.rates.focal: not a variable; set variables.focal"),
        (["optimizer.rates.focall=0.1"], "optimizer.rates.focall: no such block; did you mean 'focal'?"),
    ],
)
def test_wrong_recipes_are_named(overrides, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config("adam", overrides)


def test_priors_alone_are_nothing_to_minimise():
    with pytest.raises(ConfigError, match="every loss is off"):
        load_config({"losses": {"pose_prior": 0}, "stages": {"only": {}}, "variables": {"focal": 0.1}})
