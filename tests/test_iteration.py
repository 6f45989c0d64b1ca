"""A fused step is the eager step: values, gradients, Adam, plateau, moves, trajectories; and images never mix."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from loss_scenes import hand_model, make_scene, true_features, true_pose

from horefine import Pose, load_config, refine
from horefine import iteration_kernels as kernels
from horefine.adam import Adam, Plateau
from horefine.config import Optimizer
from horefine.data.maps import disturb
from horefine.descent import Eager, Search
from horefine.factors import chart_for
from horefine.fused_objective import Fused, fused_losses, fusible
from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from horefine.iteration import descend
from horefine.objective import Objective, Term, prepare
from horefine.tangent import CHARTS

RECIPES = ("adam", "song2022")


@functools.lru_cache(maxsize=1)
def start():
    center = true_features().object.center
    return disturb(true_pose(), 3, 8.0, 10.0, 5.0, model=hand_model(), object_center=center)


def scene_of(pose, features=None):
    features = true_features() if features is None else features
    begin = start() if len(pose) == 3 else pose.detach()
    return dataclasses.replace(make_scene(pose, features), initial=begin)


def renderers():
    """``scene_of`` that makes its renderer once."""
    ready = scene_of(start())
    return lambda pose: dataclasses.replace(ready, pose=pose)


# --- a loss that pulls on everything there is -------------------------------------------------------------------------


def coefficients(batch, seed=5):
    generator = torch.Generator().manual_seed(seed)
    model, features = hand_model(), true_features()
    sizes = {
        "hand": (len(model.template), 3), "joints": (21, 3), "object": tuple(features.object.vertices[0].shape),
        "masks": (2, *features.camera.size), "frames": (16, 3, 3), "shape": (10,), "transl": (3,), "place": (3,),
    }  # fmt: skip
    return {name: torch.randn(*size, generator=generator).expand(batch, *size) for name, size in sizes.items()}


def tug(scene, *, masks=1.0):
    """Everything times some number."""
    own = {name: value.to(scene.pose.hand_transl) for name, value in coefficients(len(scene.pose)).items()}
    parts = (
        (scene.hand.vertices, own["hand"]), (scene.hand.joints, own["joints"] * 10), (scene.object, own["object"]),
        (scene.render.masks, own["masks"] * masks), (axis_angle_to_matrix(scene.pose.hand_rotvec), own["frames"]),
        (scene.pose.hand_shape, own["shape"]), (scene.pose.hand_transl, own["transl"] * 50),
        (scene.pose.object_transl, own["place"] * 50),
    )  # fmt: skip
    return sum((value * number).flatten(1).sum(1) for value, number in parts)


@dataclasses.dataclass(frozen=True)
class FusedTug:
    weight: float
    masks: float
    wants: frozenset[str] = frozenset({"mask"})

    def add(self, posed, pull, values, first, last):
        chosen, w = slice(first, last), self.weight
        own = {name: value[chosen].double().numpy() for name, value in coefficients(len(values)).items()}
        parts = (
            (posed.hand, own["hand"]), (posed.joints, own["joints"] * 10), (posed.object, own["object"]),
            (posed.masks, own["masks"] * self.masks), (posed.turns, own["frames"]), (posed.shape, own["shape"]),
            (posed.transl, own["transl"] * 50), (posed.object_transl, own["place"] * 50),
        )  # fmt: skip
        for value, number in parts:
            values[chosen] += w * (value[chosen] * number).reshape(len(number), -1).sum(1)
        pull.hand[chosen] += w * own["hand"]
        pull.joints[chosen] += w * own["joints"] * 10
        pull.masks[chosen] += w * own["masks"] * self.masks
        pull.force[chosen] += w * own["object"].sum(1)
        arm = posed.object[chosen] - posed.object_center[chosen, None]
        pull.torque[chosen] += w * np.cross(arm, own["object"]).sum(1)
        skew = posed.turns[chosen].transpose(0, 1, 3, 2) @ own["frames"]
        pull.turns[chosen] += w * np.stack(
            [skew[..., 2, 1] - skew[..., 1, 2], skew[..., 0, 2] - skew[..., 2, 0], skew[..., 1, 0] - skew[..., 0, 1]],
            -1,
        )
        pull.shape[chosen] += w * own["shape"]
        pull.transl[chosen] += w * own["transl"] * 50
        pull.object_transl[chosen] += w * own["place"] * 50


tug.fused = lambda scene, weight, *, masks: FusedTug(weight, masks)


def broken(scene):
    """Not a number for the second image; no fused form."""
    bad = torch.tensor([1.0, torch.nan, 1.0])
    return scene.pose.hand_transl.square().sum(1) * bad


def objective_of(*functions, weight=2.0):
    return Objective({f.__name__: Term(f.__name__, f, weight, {}) for f in functions}, {})


def recipe_objective(name, of=None):
    terms, of = load_config(name).terms(), of or renderers()
    return Objective(terms, prepare(terms, true_features(), hand_model())).settle(of(start()))


def both(objective, parameters, of=None, pose=None):
    of, pose = of or renderers(), start() if pose is None else pose
    losses = fused_losses(objective, of(pose))
    fused = Fused.of(objective, losses, of, pose, parameters)
    return fused.evaluate(pose), Eager(objective, of, chart_for(parameters)).evaluate(pose)


def assert_same_slope(one, other, tolerance=1e-4):
    """Relative to the largest number of each image's block of coordinates."""
    for block, columns in CHARTS["tangent"].blocks.items():
        gap, scale = (one - other)[:, list(columns)].abs().amax(1), other[:, list(columns)].abs().amax(1)
        assert (gap <= tolerance * scale + 1e-6 * other.abs().amax(1)).all(), (block, gap, scale)


# --- one look ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", ["tangent", "axis_angle"])
@pytest.mark.parametrize("turned", [0.0, 1.0, 2.5])
def test_every_pull_arrives_in_the_chart(parameters, turned):
    pose = start()
    spin = torch.randn(3, 16, 3, generator=torch.Generator().manual_seed(1)) * turned
    pose = dataclasses.replace(pose, hand_rotvec=spin, object_rotvec=pose.object_rotvec * turned)
    (values, slope), (expected, gradient) = both(objective_of(tug), parameters, pose=pose)
    torch.testing.assert_close(values["tug"], expected["tug"], rtol=1e-4, atol=1e-2)
    assert_same_slope(slope, gradient)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_have_the_eager_values_and_slopes(name):
    objective = recipe_objective(name)
    assert len(fused_losses(objective, scene_of(start()))) >= 4
    (values, slope), (expected, gradient) = both(objective, search_of(name).parameters)
    assert list(values) == list(expected)
    for key, value in values.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5)
    assert_same_slope(slope, gradient, 5e-4)


def test_losses_without_a_fused_form_are_added():
    def plain(scene):
        return (scene.hand.joints[:, 5] - scene.object_center).square().sum(1) * 100

    (values, slope), (expected, gradient) = both(objective_of(tug, plain), "tangent")
    torch.testing.assert_close(values["plain"], expected["plain"])
    assert_same_slope(slope, gradient)


# --- one step ---------------------------------------------------------------------------------------------------------


def test_turn_vectors_are_those_of_the_geometry():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    angles = torch.cat([torch.rand(150, generator=generator) * 3.14, torch.full((25,), 3.1415926), torch.zeros(25)])
    vectors = vectors * angles[:, None]
    vectors[-10:] = 1e-9
    for matrix in axis_angle_to_matrix(vectors):
        out = np.zeros(3)
        kernels.turn_vector(matrix.numpy(), out)
        assert np.allclose(out, matrix_to_axis_angle(matrix).numpy(), atol=1e-7)


@pytest.mark.parametrize("parameters", ["tangent", "axis_angle"])
@pytest.mark.parametrize("size", [0.0, 1e-4, 0.5])
def test_moves_are_those_of_the_chart(parameters, size):
    of, pose = renderers(), start()
    fused = Fused.of(objective_of(tug), fused_losses(objective_of(tug), of(pose)), of, pose, parameters)
    fused.evaluate(pose)
    step = torch.randn(3, 67, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * size
    posed = fused.posed
    kernels.move(
        0, 3, fused.chart, step.numpy(), fused.middle, posed.joints, posed.object_center,
        posed.rotvec, posed.shape, posed.transl, posed.object_rotvec, posed.object_transl,
    )  # fmt: skip
    expected = CHARTS[parameters].move(of(pose), step.float())
    for name, value in fused.pose.items():
        if name.endswith("rotvec"):  # at half a turn both signs are one rotation
            value, there = axis_angle_to_matrix(value), axis_angle_to_matrix(getattr(expected, name))
        else:
            there = getattr(expected, name)
        torch.testing.assert_close(value, there, atol=2e-6, rtol=1e-5)
        if size == 0:
            assert torch.equal(getattr(fused.pose, name), getattr(pose, name))


@pytest.mark.parametrize(("patience", "least"), [(0, 0.0), (3, 0.0), (3, 5e-3)])
def test_adam_and_plateau_are_the_readable_ones(patience, least):
    generator = torch.Generator().manual_seed(4)
    rates = torch.cat([torch.full((40,), 1e-2), torch.full((20,), 1e-3), torch.zeros(7)]).double()
    theirs, plateau = Adam(rates, (0.8, 0.9), 1e-8, least), Plateau(3, patience, 0.1) if patience else None
    mean, square, step = (np.zeros((3, 67)) for _ in range(3))
    state = np.ones(3), np.full(3, np.inf), np.zeros(3, np.int64)
    for count in range(12):
        gradient = torch.randn(3, 67, generator=generator, dtype=torch.float64)
        total = torch.rand(3, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 1.0, 0.9**count])
        scale = 1 - count / 20
        given = gradient.clone()
        if count == 5:
            given[1, 7] = torch.nan
            gradient[1] = 0
        kernels.adam(
            0, 3, given.numpy(), rates.numpy(), 0.8, 0.9, 1e-8, count + 1, least, scale,
            total.numpy(), patience, 0.1, 1e-4, *state, mean, square, step,
        )  # fmt: skip
        every = scale if plateau is None else scale * plateau.scale
        if plateau is not None:
            plateau.update(total)
        expected = theirs.step(gradient, every)
        np.testing.assert_allclose(step, expected.numpy(), rtol=1e-6, atol=1e-12)
    assert not patience or (state[0] < 1).any()


# --- a stage ----------------------------------------------------------------------------------------------------------


def search_of(name, steps=20, **changes):
    config = load_config(name)
    adam = config.optimizer
    assert isinstance(adam, Optimizer)
    options = {
        "scales": [1.0] * steps, "rates": config.rates, "parameters": adam.parameters, "betas": adam.betas,
        "epsilon": adam.epsilon,
    }  # fmt: skip
    return Search(**(options | changes))


@pytest.mark.parametrize("name", RECIPES)
def test_twenty_steps_go_where_eager_steps_go(name):
    of = renderers()
    objective = recipe_objective(name, of)
    search = search_of(name, patience=4 if name == "song2022" else None)
    ours, theirs = (
        descend(objective, start(), of, dataclasses.replace(search, fused=fused)) for fused in (True, False)
    )
    for key, value in ours.pose.items():
        there = getattr(theirs.pose, key)
        bound = 2e-3 if key == "hand_shape" else 1e-4  # metres, radians; standard deviations move at 0.7 a step
        assert (value - there).abs().max() < bound, (key, (value - there).abs().max())
        assert (value - getattr(start(), key)).abs().max() > 5 * bound, key
    assert torch.equal(ours.best_step, theirs.best_step)
    assert [list(row) for row in ours.history] == [list(row) for row in theirs.history]
    for key in ours.history[0]:
        mine, eager = (torch.stack([row[key] for row in walked.history]) for walked in (ours, theirs))
        torch.testing.assert_close(mine, eager, rtol=5e-3, atol=1e-2)


def test_total_is_the_sum_and_the_best_is_the_lowest():
    of, seen = renderers(), []
    found = descend(recipe_objective("adam", of), start(), of, search_of("adam", 12), seen.append)
    assert seen == list(range(1, 13)) and len(found.history) == 12
    total = torch.stack([row["total"] for row in found.history])
    parts = torch.stack([torch.stack([v for k, v in row.items() if k != "total"]).sum(0) for row in found.history])
    torch.testing.assert_close(total, parts, rtol=1e-5, atol=0)
    inside = found.best_step < 12
    assert torch.equal(found.best_step[inside], total.argmin(0)[inside])
    again = recipe_objective("adam", of).evaluate(of(found.pose))
    low = torch.stack(list(again.values())).sum(0)
    assert (low <= total.amin(0) * (1 + 1e-4)).all()


def test_keep_last_keeps_the_last():
    of, wild = renderers(), search_of("adam", 5, scales=[20.0] * 5)
    best = descend(recipe_objective("adam", of), start(), of, wild)
    last = descend(recipe_objective("adam", of), start(), of, dataclasses.replace(wild, keep_last=True))
    assert last.best_step.tolist() == [5, 5, 5] and (best.best_step < 5).any()
    eager = descend(recipe_objective("adam", of), start(), of, dataclasses.replace(wild, keep_last=True, fused=False))
    assert eager.best_step.tolist() == [5, 5, 5]


@pytest.mark.parametrize("fused", [True, False])
def test_what_is_not_a_number_stands_still(fused):
    of = renderers()
    found = descend(objective_of(tug, broken), start(), of, search_of("adam", 4, fused=fused, keep_last=False))
    for key, value in found.pose.items():
        assert torch.equal(value[1], getattr(start(), key)[1]), key
        assert value.isfinite().all()
    assert (found.pose.hand_transl[0] - start().hand_transl[0]).abs().max() > 1e-3
    assert found.best_step[1] == 0 and torch.stack([row["total"] for row in found.history])[:, 1].isnan().all()


def walk(rows, threads=1):
    """A few fused steps of chosen images."""
    rows = torch.tensor(rows)
    pose, features = start()[rows], true_features()[rows]
    ready = make_scene(pose, features)
    terms = load_config("adam").terms()

    def of(there):
        return dataclasses.replace(ready, pose=there)

    objective = Objective(terms, prepare(terms, features, hand_model())).settle(of(pose))
    fused = {name: term for name, term in objective.terms.items() if name in fused_losses(objective, of(pose))}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return descend(dataclasses.replace(objective, terms=fused), pose, of, search_of("adam", 6)).pose
    finally:
        torch.set_num_threads(before)


def test_images_depend_neither_on_neighbours_nor_on_threads():
    together, threaded = walk([0, 1, 2, 0, 1]), walk([0, 1, 2, 0, 1], threads=2)
    alone = walk([1])
    for key, value in together.items():
        assert torch.equal(value, getattr(threaded, key)), key
        assert torch.equal(value[1], value[4]) and torch.equal(value[1], getattr(alone, key)[0]), key


# --- which way is taken -----------------------------------------------------------------------------------------------


def test_the_eager_way_is_taken_where_there_is_no_other():
    scene = scene_of(start())
    assert fusible(scene, "tangent") and fusible(scene, "axis_angle") and not fusible(scene, "quaternion")
    assert not fusible(dataclasses.replace(scene, pose=start().to(dtype=torch.float64)), "tangent")
    assert not fusible(dataclasses.replace(scene, pose=start().with_factors(["focal_factor"])), "tangent")
    torch_renderer = dataclasses.replace(scene.renderer, name="torch")
    assert not fusible(dataclasses.replace(scene, renderer=torch_renderer), "tangent")


@pytest.mark.parametrize("change", ["optimizer.fused=false", "variables.focal=0.05", "optimizer.parameters=quaternion"])
def test_a_recipe_can_ask_for_the_eager_way(change, monkeypatch):
    def refuse(*_):
        raise AssertionError("took the fused way")

    monkeypatch.setattr(Fused, "of", refuse)
    few = ["stages.correspond.steps=2", "stages.render.steps=2"]
    config = load_config("adam", [*few, change])
    found = refine(start(), true_features(), config, hand_model=hand_model())
    assert isinstance(found.pose, Pose) and len(found.history["total"]) == 4
    with pytest.raises(AssertionError, match="fused way"):
        refine(start(), true_features(), load_config("adam", few), hand_model=hand_model())
