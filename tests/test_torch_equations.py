"""Normal equations and damped steps in torch against the kernels, and the whole walk of Levenberg-Marquardt."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from loss_scenes import DOUBLE, SQUARES, double_objective, double_scene, hand_model, true_features
from test_levenberg_marquardt import start, wishing
from test_render_fixed import Questions

from horefine import levenberg_marquardt, normal_kernels, torch_equations, torch_steps
from horefine.curvature import sigmas
from horefine.errors import ConfigError
from horefine.jacobian import hand_jacobian_twin
from horefine.levenberg_marquardt import Damping, Workspace, forms_of
from horefine.losses.forms import EdgeRows
from horefine.losses.torch_squares import on_any_device
from horefine.normal_equations import normal_equations
from horefine.objective import Objective, parse_terms, prepare, usable
from horefine.render import RENDERERS, make_renderer, twin
from horefine.scene import FACTORS, Scene
from horefine.torch_curvature import variances
from horefine.torch_jacobian import hand_slopes

GROUPS = {
    "correspondences": ("surface_reprojection", "surface_depth", "shape_prior"),
    "pictures": ("rendered_code", "rendered_depth", "pose_prior"),
    "touch": ("spring_length", "penetration", "contact"),
    "of one face": ("surface_reprojection", "rendered_code", "rendered_depth", "penetration"),
    "outlines": ("silhouette", "surface_depth"),
    "others": ("measured_depth", "photometric", "temporal", "offset", "orientation", "anatomy"),
}


def test_points_of_the_hand_move_as_forward_differentiation_says():
    scene = double_scene(start().to(dtype=DOUBLE))
    expected = hand_jacobian_twin(scene.hand_model, scene.pose)
    found = hand_slopes(scene)
    assert found.shape == (3, 794, 3, 61) and found.dtype == DOUBLE
    assert torch.allclose(found, expected, atol=1e-9)
    single = dataclasses.replace(scene, pose=start(), hand_model=hand_model())
    assert torch.allclose(hand_slopes(single).double(), expected, atol=1e-6)


@functools.lru_cache(maxsize=8)
def equations(names, variables=()):
    """By the kernels, and by torch."""
    pose = start().to(dtype=DOUBLE).with_factors(FACTORS[name] for name in variables)
    scene = double_scene(pose)
    made = forms_of(double_objective({name: SQUARES.get(name, {}) for name in names}), scene)
    size = 67 + len(variables)
    normal, right = np.zeros((3, size, size)), np.zeros((3, size))
    frozen = {name: form.freeze(scene) for name, form in made.items()}
    normal_equations(scene, frozen, torch.ones(3, dtype=torch.bool), Workspace(), normal, right, variables)
    there = double_scene(pose)
    other = {name: form.freeze(there) for name, form in on_any_device(made).items()}
    return (torch.from_numpy(normal), torch.from_numpy(right)), (there, other)


@pytest.mark.parametrize("variables", [(), ("focal",), ("object_scale", "focal")])
@pytest.mark.parametrize("group", GROUPS)
def test_the_equations_are_those_of_the_kernels(group, variables, monkeypatch):
    """In double, within 1e-7 of the largest, in any number of pieces (outlines: 1e-6; their kernels are single)."""
    twins, (scene, forms) = equations(GROUPS[group], variables)
    tight = 1e-6 if group == "outlines" else 1e-7
    for room in (torch_equations.BYTES, 2**20):
        monkeypatch.setattr(torch_equations, "BYTES", room)
        for mine, twin_ in zip(torch_equations.normal_equations(scene, forms, variables), twins, strict=True):
            assert twin_.abs().max() > 0
            assert torch.allclose(mine, twin_, atol=tight * float(twin_.abs().max())), group


def test_damped_steps_are_those_of_the_kernel():
    generator = np.random.default_rng(0)
    root = generator.normal(size=(5, 80, 67))
    normal, right = root.transpose(0, 2, 1) @ root, generator.normal(size=(5, 67))
    normal[2], normal[4, 4, 3] = -np.eye(67), np.nan  # not positive, not finite: both are refused as zero
    damping, done = np.array([1e-5, 0.1, 1e-3, 1e-3, 1e-3]), np.array([False, False, False, True, False])
    columns, step = np.setdiff1d(np.arange(67), (2, 50)), np.full((5, 67), 7.0)
    free = torch.ones(67, dtype=DOUBLE)
    free[[2, 50]] = 0
    numbers = [torch.from_numpy(value) for value in (normal, right, damping, done)]
    for turn in (0.05, 10.0):
        normal_kernels.damped_steps(0, 5, normal, right, damping, done, columns, turn, step)
        mine = torch_equations.damped_steps(*numbers, free, turn).numpy()
        assert np.allclose(mine, step, rtol=1e-8, atol=1e-12) and np.abs(step[:2]).max() > 1e-3
        assert (mine[2:] == 0).all()


def test_a_good_step_is_taken_and_a_bad_one_refused_image_by_image():
    form, whole = wishing([True, False, True])
    pose, seen = start().to(dtype=DOUBLE), []
    parts = (whole, pose, double_scene, 40, Damping(first=1e-5, tolerance=1e-9))
    found, other = torch_steps.minimise(*parts, seen.append), levenberg_marquardt.minimise(*parts)
    assert torch.allclose(found.pose.hand_shape[[0, 2]], form.wish[[0, 2]], atol=1e-6)
    assert torch.equal(found.pose.hand_shape[1], pose.hand_shape[1]), "every step of it was worse"
    assert torch.equal(found.best_step, other.best_step) and len(found.values) == len(other.values) < 20
    for mine, twin_ in zip(found.values, other.values, strict=True):
        assert torch.allclose(mine["wish"], twin_["wish"], atol=1e-9)
    assert seen == list(range(1, len(seen) + 1)) and len(seen) % torch_steps.LOOK == 0


def test_columns_that_are_still_do_not_move():
    terms = {"surface_reprojection": {"sigma": 1.0, "kernel": 60.0}, "pose_prior": 1.0}
    pose = start().to(dtype=DOUBLE)
    found = torch_steps.minimise(double_objective(terms), pose, double_scene, 2, Damping(still=tuple(range(6, 51))))
    assert torch.allclose(found.pose.hand_rotvec[:, 1:], pose.hand_rotvec[:, 1:], atol=1e-12)
    assert (found.pose.hand_rotvec[:, 0] - pose.hand_rotvec[:, 0]).abs().max() > 1e-3


@pytest.mark.parametrize("variables", [(), ("focal",)])
def test_the_walk_is_that_of_the_kernels(variables):
    """Ten steps in double on what the last stage of `default` has: the same verdicts, and poses within 1e-6."""
    table = {n: SQUARES.get(n, {}) for n in ("rendered_code", "rendered_depth", "spring_length", "penetration")}
    table |= {"pose_prior": {}, "shape_prior": {}}
    objective = double_objective(table)
    pose = start().to(dtype=DOUBLE).with_factors(FACTORS[name] for name in variables)
    found, other = (
        way.minimise(objective, pose, double_scene, 10, Damping(), variables=variables)
        for way in (torch_steps, levenberg_marquardt)
    )
    assert torch.equal(found.best_step, other.best_step) and len(found.values) == len(other.values)
    for name, value in found.pose.items():
        assert torch.allclose(value, getattr(other.pose, name), atol=1e-6), name
    assert (found.pose.hand_transl - pose.hand_transl).abs().max() > 1e-3


def test_an_image_is_not_changed_by_its_neighbours():
    """In single precision, a neighbour that is not a number included."""
    table = {n: SQUARES[n] for n in ("rendered_code", "rendered_depth", "spring_length", "penetration")}
    table |= {"pose_prior": {}, "shape_prior": {}}
    features, model, initial = true_features(), hand_model(), start()
    broken = dataclasses.replace(initial, object_transl=initial.object_transl.clone())
    broken.object_transl[2] = torch.nan

    def walk(pose, seen):
        renderer = make_renderer(model.faces, model.codes, seen.object, seen.camera, "cpu")
        terms = parse_terms(table)
        objective = Objective(terms, prepare(terms, seen, model))
        scenes = functools.partial(Scene, initial=pose, features=seen, hand_model=model, renderer=renderer)
        return torch_steps.minimise(objective, pose, lambda at: scenes(at), 6, Damping()).pose

    together, beside = walk(initial, features), walk(broken, features)
    alone = walk(initial[1], features[slice(1, 2)])
    for name, value in alone.items():
        for other in (together, beside):
            assert torch.allclose(value[0], getattr(other, name)[1], atol=2e-5), name
    assert torch.equal(beside.object_rotvec[2], initial.object_rotvec[2]), "nothing is said of what is not a number"


class Copies(Questions):
    """Counts tensors made of the host's numbers too: on a GPU the host waits for each such copy."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func).startswith("aten.lift_fresh"):
            self.found[str(func)] += 1
        return super().__torch_dispatch__(func, types, args, kwargs)


def test_the_watch_sees_a_copy():
    with Copies() as asked:
        _ = torch.zeros(2, 3).new_tensor([1.0]), torch.zeros(3)[[2, 0]]
    assert asked.found["aten.lift_fresh.default"] == 2


def test_a_step_asks_the_device_nothing_and_brings_it_nothing(monkeypatch):
    """Every loss that is written as squares, by the renderer that nvdiffrast's adapter uses."""
    features, model, pose = true_features(), hand_model(), start()
    ids = []

    def find(pixels, inverse, side, parts):
        if not ids:  # nvdiffrast's own work, which asks nothing; the twin's does
            ids.append(twin.visible_faces(pixels, inverse, side, parts, features.camera.size))
        return ids[0]

    def render(vertices, topology, matrix, size, values, want):
        return twin.render_with(find, vertices, topology, matrix, size, values, want, fixed=True)

    monkeypatch.setitem(RENDERERS, "torch", lambda: render)
    renderer = make_renderer(model.faces, model.codes, features.object, features.camera, "torch")
    names = (n for group in GROUPS.values() for n in group if n != "anatomy")
    terms = usable(parse_terms({name: SQUARES.get(name, {}) for name in names}), features)
    objective = Objective(terms, prepare(terms, features, model))

    def scene_of(at):
        return Scene(at, start(), features, model, renderer)

    with torch.no_grad():
        walk = torch_steps._Walker.begin(objective.settle(scene_of(pose)), scene_of(pose), Damping())
        walk = walk.step(scene_of)  # tables that are kept are made on the first
        before = walk.lowest.clone()
        with Copies() as asked, monkeypatch.context() as patched:
            patched.setattr(torch.Tensor, "numpy", lambda tensor: pytest.fail("a kernel was asked"))
            walk = walk.step(scene_of)
    assert not asked.found, asked.found
    assert (walk.lowest < before).any(), "the step was worth watching"


@dataclasses.dataclass(frozen=True)
class Outlined:
    """Somebody's loss whose rows are of outlines."""

    def freeze(self, scene):
        return self

    def cost(self, scene):
        raise AssertionError("nobody asks")

    def rows(self, scene):
        return [EdgeRows([], [])]


def test_rows_that_only_the_kernels_know_are_refused_with_the_way_out():
    scene = double_scene(start().to(dtype=DOUBLE))
    with pytest.raises(ConfigError, match=r"losses.mine: .* optimizer.fused: true, or set losses.mine to 0"):
        torch_equations.normal_equations(scene, on_any_device({"mine": Outlined()}))


@pytest.mark.parametrize("variables", [(), ("focal", "object_scale")])
def test_the_spread_is_that_of_the_kernels(variables):
    """Joints, object and variables within 1e-6; where a direction is free, infinite for that image alone."""
    names = ("surface_reprojection", "surface_depth", "pose_prior", "shape_prior", "offset")
    scene = double_scene(start().to(dtype=DOUBLE).with_factors(FACTORS[name] for name in variables))
    objective = double_objective({name: SQUARES.get(name, {}) for name in names})
    told = sigmas(objective, scene, variables)
    forms = {name: form.freeze(scene) for name, form in on_any_device(forms_of(objective, scene)).items()}
    normal = torch_equations.normal_equations(scene, forms, variables)[0]
    found = variances(scene, normal, variables)
    assert found.shape == (3, 66 + len(variables)) and found.isfinite().all()
    place = found[:, :66].unflatten(1, (22, 3))
    for mine, twin_ in (
        (place.sum(-1).sqrt()[:, :21], told.joints), (place[:, 0, 2].sqrt(), told.wrist_depth),
        (place[:, 21].sum(-1).sqrt(), told.object_center), (place[:, 21, 2].sqrt(), told.object_depth),
        *((found[:, 66 + k].sqrt(), getattr(told, FACTORS[name])) for k, name in enumerate(variables)),
    ):  # fmt: skip
        assert torch.allclose(mine, twin_, rtol=1e-6)
    normal[0, 5] = normal[0, :, 5] = 0
    normal[1, 2, 3] = torch.nan
    free = variances(scene, normal, variables)
    assert free[:2].isinf().all() and torch.allclose(free[2], found[2])
