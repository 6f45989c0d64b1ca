"""Each loss against closed forms, its gradient against differences, and its minimum against the truth."""

from __future__ import annotations

import dataclasses
import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from loss_scenes import can, hand_model, make_scene, objective_of, photograph, true_features, true_pose, value_of
from torch import Tensor

from horefine.anatomy import compose_angles
from horefine.geometry import Camera, axis_angle_to_matrix, project
from horefine.losses import LOSSES, PREPARED
from horefine.losses.appearance import DARK, color_cost, log_color
from horefine.losses.cpf import rotvec_to_quaternion
from horefine.losses.image import dense_mapping, relative_depth, segmentation
from horefine.losses.pairs import find_surface_pairs, find_vertex_pairs, nearest_pixels
from horefine.losses.prior import joint_angles
from horefine.losses.sampling import closest_on_triangles, spread
from horefine.mesh import Mesh
from horefine.objective import FEATURES, options_of, parse_terms, prepare, required
from horefine.scene import Contact, Features, Pose, Scene

PICTURED = ("segmentation", "relative_depth", "rendered_code", "rendered_depth", "measured_depth", "silhouette")
RENDERED = (*PICTURED, "photometric")


def double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def stand_in(**parts: object) -> Scene:
    """A scene whose posed parts are given."""
    scene = object.__new__(Scene)
    scene.__dict__.update(parts)
    return scene


def given(value: Any) -> Any:
    """A feature that is there."""
    assert value is not None
    return value


# ---------------------------------------------------------------- the register


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_says_what_it_needs_and_what_it_is(name: str) -> None:
    function = LOSSES[name]
    assert function.__name__ == name and function.__doc__
    assert next(iter(inspect.signature(function).parameters)) == "scene"
    assert all(n in FEATURES or n in PREPARED for n in required(function))
    assert all(isinstance(default, (float, int, str, bool)) for default in options_of(function).values())


# ---------------------------------------------------------------- closed forms: the picture


def four_pixels() -> tuple[Scene, Tensor, Tensor]:
    """Hand 0.5 at the first of 2 x 2 pixels, object 1 at the last; the hand is rendered at 2 m, the object at 3 m."""
    masks = torch.zeros(1, 2, 2, 2)
    masks[0, 0, 0, 0], masks[0, 1, 1, 1] = 0.5, 1.0
    render = SimpleNamespace(
        masks=masks, depth=torch.tensor([[[[2.0, 0], [0, 0]], [[0, 0], [0, 3.0]]]]),
        ids=torch.tensor([[[[7, -1], [-1, -1]], [[-1, -1], [-1, 7]]]]),
    )  # fmt: skip
    hand, thing = torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)
    hand[0, 0, 0], thing[0, 1, 1], thing[0, 0, 1] = 1.0, 0.8, 0.4
    return stand_in(render=render, object_center=torch.tensor([[0.0, 0.0, 2.5]])), hand, thing


def test_segmentation() -> None:
    scene, hand, thing = four_pixels()
    # hand: (0.5 - 1)^2 once; object: (1 - 0.8)^2 and (0 - 0.4)^2; no pixel belongs to both masks
    assert segmentation(scene, hand, thing, reduction="sum").item() == pytest.approx(0.25 + 0.04 + 0.16)
    assert segmentation(scene, hand, thing).item() == pytest.approx(0.45 / 4)
    hidden = segmentation(scene, torch.ones_like(hand), thing, reduction="sum")  # the hand hides all of the object
    kept = (1 - thing) * (scene.render.masks[:, 0] - 1)
    assert hidden.item() == pytest.approx(kept.square().sum().item())
    with pytest.raises(ValueError, match="'median'; known: sum, mean"):
        segmentation(scene, hand, thing, reduction="median")


def test_relative_depth() -> None:
    scene, hand, thing = four_pixels()
    depth = torch.full((1, 2, 2), 0.1)
    # hand: 1 * (2 - 2.5 - 0.1); object: 0.8 * (3 - 2.5 - 0.1); the pixel with mask 0.4 is not rendered
    drawn = 0.6**2 + (0.8 * 0.4) ** 2
    assert relative_depth(scene, hand, thing, depth, reduction="sum").item() == pytest.approx(drawn)
    literal = relative_depth(scene, hand, thing, depth, reduction="sum", literal=True)
    assert literal.item() == pytest.approx(drawn + (0.4 * (100 - 2.6)) ** 2, rel=1e-5)


def test_dense_mapping_counts_pixels() -> None:
    features, pose = true_features(), true_pose()
    pairs = find_vertex_pairs(hand_model(), **_maps(features))
    scene = make_scene(pose, features)
    moved = Camera(features.camera.matrix.clone(), features.camera.size)
    moved.matrix[:, 0, 2] += 2.0
    kept = (pairs.hand.distance < 0.05).sum(1) + (pairs.object.distance < 0.05).sum(1)
    gap = project(scene.hand.vertices, features.camera.matrix)[..., 0] - pairs.hand.pixel[..., 0]
    other = project(scene.object, features.camera.matrix)[..., 0] - pairs.object.pixel[..., 0]
    signed = (gap * (pairs.hand.distance < 0.05)).sum(1) + (other * (pairs.object.distance < 0.05)).sum(1)
    before = dense_mapping(scene, pairs)
    after = dense_mapping(stand_in(**_posed(scene), features=SimpleNamespace(camera=moved)), pairs)
    torch.testing.assert_close(after, before + 4 * signed + 4 * kept, rtol=1e-4, atol=0)
    nothing = dense_mapping(scene, pairs, threshold=0.0, reduction="mean")
    assert nothing.tolist() == [0, 0, 0]


def logs(linear: Float[np.ndarray, "3 H W"]) -> Float[np.ndarray, "3 H W"]:
    """Red chroma, blue chroma, luminance."""
    value = np.log(np.maximum(linear, 0) + DARK)
    return np.stack([value[0] - value.mean(0), value[2] - value.mean(0), value.mean(0)])


def color_twin(
    colors: Float[np.ndarray, "3 H W"],
    ids: np.ndarray,
    target: Float[np.ndarray, "3 H W"],
    inside: np.ndarray,
    offset: Any = None,
    kernel: float = 2.5,
) -> tuple[float, np.ndarray]:
    """``color_cost`` of one image, pixel by pixel, and the light's offset that it found (or was given)."""
    seen = [(int(i), int(j)) for i, j in zip(*np.nonzero(inside), strict=True)]
    drawn = [(i, j) for i, j in seen if ids[i, j] >= 0]
    residual = target - logs(colors)
    if offset is None:
        offset = np.mean([residual[:, i, j] for i, j in drawn], axis=0)
    cost = kernel**2 * (len(seen) - len(drawn)) + 0.3 * len(drawn) * (offset[:2] ** 2).sum() / 0.3**2
    for i, j in drawn:
        a, b, c = residual[:, i, j] - offset
        square = (a * a + b * b) / 0.3**2 + c * c / 0.6**2
        cost += square / (1 + square / kernel**2)
    return float(cost), offset


def some_colors() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rendered colours, face ids, target and inside of two images of 5 x 6 pixels."""
    generator = np.random.default_rng(3)
    colors, photo = torch.as_tensor(generator.random((2, 2, 3, 5, 6)))
    ids = torch.as_tensor(generator.integers(-1, 3, (2, 5, 6)))
    inside = torch.as_tensor(generator.random((2, 5, 6)) > 0.3).double()
    return colors, ids, log_color(photo), inside


def test_color_cost_against_a_twin_and_its_gradient_against_differences() -> None:
    """The light is held while differences are taken: it is fitted, but does not pull."""
    colors, ids, target, inside = some_colors()
    value = color_cost(colors.requires_grad_(), ids, target, inside)
    (gradient,) = torch.autograd.grad(value.sum(), colors)
    for image in range(2):
        rest = ids[image].numpy(), target[image].numpy(), inside[image].numpy()
        here = colors[image].detach().numpy()
        expected, offset = color_twin(here, *rest)
        assert value[image].item() == pytest.approx(expected)
        for channel, i, j in np.ndindex(here.shape):
            step = np.zeros_like(here)
            step[channel, i, j] = 1e-6
            up, down = (color_twin(here + sign * step, *rest, offset)[0] for sign in (1, -1))
            assert gradient[image, channel, i, j].item() == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-6)


def test_nothing_drawn_costs_what_bad_colours_would() -> None:
    colors, _, target, inside = some_colors()
    nowhere = color_cost(colors, torch.full((2, 5, 6), -1), target, inside)
    torch.testing.assert_close(nowhere, 6.25 * inside.sum((1, 2)))
    unseen = color_cost(colors, torch.ones(2, 5, 6, dtype=torch.long), target, inside * 0)
    assert unseen.tolist() == [0, 0]


def test_photometric_does_not_mind_the_light() -> None:
    features = true_features()
    image, inside = given(features.image), given(features.object_mask) > 0
    truth, off = (make_scene(pose, features) for pose in (true_pose(), disturbed(true_pose(), 0.04)))

    def value(scene: Scene, photo: Tensor) -> Tensor:
        found = prepare(terms, dataclasses.replace(features, image=photo), hand_model())
        return LOSSES["photometric"](scene, found["appearance"])

    terms = parse_terms({"photometric": 1.0})
    least, wrong = value(truth, image), value(off, image)
    for scene, before in ((truth, least), (off, wrong)):  # a longer exposure
        torch.testing.assert_close(value(scene, image * 1.7), before, rtol=1e-4, atol=1e-4)
    for light in ((1.0, 0.8, 0.6), (0.6, 0.9, 1.0)):
        lit = photograph(truth.render.colors[:, 1], inside, light)
        assert (value(truth, lit) < 0.2 * wrong).all() and (value(off, lit) > 0.7 * wrong).all(), light
    dark = value(truth, torch.zeros_like(image))
    assert dark.isfinite().all() and (dark > least).all()


def test_an_object_without_colours_counts_as_grey() -> None:
    features = true_features()
    bare = dataclasses.replace(features, object=dataclasses.replace(features.object, colors=None))
    scene = make_scene(true_pose(), bare)
    drawn = scene.render.ids[:, 1] >= 0
    assert (scene.render.colors[:, 1].movedim(1, -1)[drawn] - 0.5).abs().max() < 1e-6
    grey = dataclasses.replace(bare, image=torch.full_like(given(features.image), 0.2))
    least = value_of("photometric", make_scene(true_pose(), grey))
    assert (least < 1e-6 + 6.25 * given(features.object_mask).gt(0.5).logical_and(~drawn).sum((1, 2))).all()


def _maps(features: Features, **changes: object) -> dict[str, Any]:
    names = ("object", "hand_mask", "object_mask", "hand_coords", "object_coords")
    return {name: getattr(features, name) for name in names} | changes


def _posed(scene: Scene) -> dict[str, object]:
    return {"pose": scene.pose, "hand": scene.hand, "object": scene.object, "object_center": scene.object_center}


# ---------------------------------------------------------------- prepared quantities


def test_nearest_pixels_against_brute_force() -> None:
    generator = np.random.default_rng(0)
    codes, coords, mask = generator.random((2, 30, 3)), generator.random((2, 3, 6, 5)), generator.random((2, 6, 5))
    mask[1] = 0.4
    arrays = [torch.as_tensor(x) for x in (codes, coords, mask)]
    found = nearest_pixels(arrays[0], arrays[1], arrays[2], torch.tensor([20, 30]))
    flat = coords[0].reshape(3, -1).T
    gap = np.linalg.norm(codes[0, :, None] - flat[None], axis=-1)
    gap[:, mask[0].ravel() <= 0.5] = np.inf
    assert found.index[0, :20].tolist() == gap.argmin(1)[:20].tolist()
    assert found.pixel[0, 3].tolist() == [gap[3].argmin() % 5, gap[3].argmin() // 5]
    np.testing.assert_allclose(found.distance[0, :20], gap.min(1)[:20], rtol=1e-12)
    assert found.distance[0, 20:].isinf().all() and found.distance[1].isinf().all()


def test_closest_on_triangles() -> None:
    generator = np.random.default_rng(0)
    corners, points = generator.random((40, 3, 3)), generator.random((40, 3)) * 2 - 0.5
    corners[0, 2] = corners[0, 1]  # a degenerate one
    weights = closest_on_triangles(points, corners)
    assert (weights >= -1e-12).all() and np.allclose(weights.sum(1), 1)
    found = np.linalg.norm((weights[..., None] * corners).sum(1) - points, axis=1)
    grid = np.array([(i / 60, j / 60, 1 - (i + j) / 60) for i in range(61) for j in range(61 - i)])
    dense = np.linalg.norm(np.einsum("gk,nkc->ngc", grid, corners) - points[:, None], axis=-1).min(1)
    assert (found <= dense + 1e-12).all() and (dense - found < 0.02).all()


def test_spread_weighs_by_area() -> None:
    corners = np.zeros((2, 3, 3))
    corners[0, 1, 0] = corners[0, 2, 1] = 1
    corners[1, :, 2], corners[1, 1, 0], corners[1, 2, 1] = 1, 3, 1
    face, points = spread(corners, 4000)
    assert (face == 1).mean() == pytest.approx(0.75, abs=1e-3)
    assert points[face == 1].mean(0) == pytest.approx([1, 1 / 3, 1], abs=0.01)


def test_surface_pairs_land_on_their_pixels() -> None:
    features, pose = true_features(), true_pose()
    pairs = find_surface_pairs(hand_model(), **_maps(features), depth=features.depth)
    scene = make_scene(pose, features)
    for side, vertices in enumerate((scene.hand.vertices, scene.object)):
        valid = pairs.valid[:, side] > 0
        index = pairs.vertices[:, side].flatten(1)[..., None].expand(-1, -1, 3)
        points = (vertices.gather(1, index).unflatten(1, (-1, 3)) * pairs.barycentric[:, side, ..., None]).sum(2)
        gap = (project(points, features.camera.matrix) - pairs.pixel[:, side]).norm(dim=-1)[valid]
        assert gap.quantile(0.99) < 0.02
        depth = (points[..., 2] - scene.object_center[:, 2:] - pairs.depth[:, side])[valid].abs()
        assert depth.quantile(0.99) < 1e-4
        assert pairs.distance[:, side][valid].quantile(0.99) < 1e-5  # a few half-covered pixels show no code
        seen = given((features.hand_mask, features.object_mask)[side])
        assert valid.sum(1).tolist() == (seen > 0.5).sum((1, 2)).tolist()
    torch.testing.assert_close(pairs.barycentric.sum(-1), torch.ones_like(pairs.valid))


def test_surface_pairs_find_the_nearest_of_all_faces() -> None:
    features = true_features()
    coords = given(features.hand_coords)
    shaken = coords + torch.randn(coords.shape) * 0.03
    pairs = find_surface_pairs(hand_model(), **_maps(features, hand_coords=shaken))
    corners = hand_model().codes[hand_model().faces].double().numpy()
    u, v = pairs.pixel[0, 0, :40].long().unbind(-1)
    wanted = shaken[0][:, v, u].T.double().numpy()
    weights = closest_on_triangles(wanted[:, None], np.broadcast_to(corners, (40, *corners.shape)))
    exact = np.linalg.norm((weights[..., None] * corners).sum(-2) - wanted[:, None], axis=-1).min(1)
    found = pairs.distance[0, 0, :40].numpy()
    np.testing.assert_allclose(found, exact, atol=1e-6)
    assert pairs.depth.abs().max() == 0  # no depth map


def test_surface_pairs_thin_out_evenly_and_survive_an_empty_mask() -> None:
    features = true_features()
    hand, thing = given(features.hand_mask), given(features.object_mask).clone()
    thing[1] = 0
    pairs = find_surface_pairs(hand_model(), **_maps(features, object_mask=thing), max_pixels=50)
    assert pairs.valid[0].sum(1).tolist() == [50, 50] and pairs.valid[1, 1].sum() == 0
    rows = (hand[0] > 0.5).nonzero()
    step = len(rows) / 50
    assert pairs.pixel[0, 0, 10].tolist() == rows[int(10 * step)].flip(0).tolist()
    scene = make_scene(true_pose(), features)
    value = LOSSES["surface_reprojection"](scene, pairs)
    assert value.isfinite().all()


# ---------------------------------------------------------------- closed forms: priors


def bent(angles: Float[Tensor, "B 16 3"], **changes: object) -> Scene:
    """The hand with given twists, splays and bends."""
    count, model = len(angles), hand_model()
    zeros = torch.zeros
    pose = Pose(compose_angles(angles, model.axes), zeros(count, 10), zeros(count, 3), zeros(count, 3), zeros(count, 3))
    pose = Pose(**{**dict(pose.items()), **changes})
    return stand_in(pose=pose, initial=pose, hand_model=model)


def test_anatomy_is_the_excess_over_the_limits() -> None:
    limits = hand_model().limits
    angles = torch.zeros(4, 16, 3)
    angles[1, 5, 2] = limits[4, 2, 1] + 0.2  # two sigmas too far bent
    angles[2, 1, 1] = limits[0, 1, 0] - 0.1  # one sigma too far splayed
    angles[3, 1:, 2] = limits[:, 2, 1] - 0.01
    value = LOSSES["anatomy"](bent(angles))
    torch.testing.assert_close(value, torch.tensor([0.0, 4.0, 1.0, 0.0]), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="'cfp'; known: limits, cpf, manotorch"):
        LOSSES["anatomy"](bent(angles), variant="cfp")


def test_default_anatomy_is_finite_where_the_official_one_is_not() -> None:
    scene = bent(torch.zeros(1, 16, 3).requires_grad_())
    assert LOSSES["anatomy"](scene, variant="cpf").isnan().all()
    pose = Pose(**{name: value.detach().requires_grad_() for name, value in scene.pose.items()})
    for name in ("anatomy", "pose_prior", "offset"):
        again = stand_in(pose=pose, initial=pose.detach(), hand_model=scene.hand_model)
        value = LOSSES[name](again)
        (gradient,) = torch.autograd.grad(value.sum(), pose.hand_rotvec)
        assert value.isfinite().all() and gradient.isfinite().all()


def test_pose_prior_counts_standard_deviations() -> None:
    model = hand_model()
    relaxed = torch.zeros(2, 16, 3)
    relaxed[:, 1:] = -0.3 * torch.nn.functional.one_hot(torch.tensor(2), 3)  # the rotation vector of loss_scenes
    scene = bent(torch.zeros(2, 16, 3), hand_rotvec=relaxed)
    torch.testing.assert_close(LOSSES["pose_prior"](scene), torch.zeros(2), atol=1e-6, rtol=0)
    low, high = model.limits[4, 2]
    angles = torch.cat([torch.zeros(2, 1, 3), joint_angles(scene)], 1)
    angles[1, 5, 2] += (high - low) / 4 * 1.5
    torch.testing.assert_close(LOSSES["pose_prior"](bent(angles)), torch.tensor([0.0, 2.25]), atol=1e-3, rtol=0)
    torch.testing.assert_close(LOSSES["pose_prior"](bent(angles), width=3.0)[1].item(), 0.25, atol=1e-3, rtol=0)


def test_shape_prior_and_offset() -> None:
    start = true_pose()
    moved = Pose(
        start.hand_rotvec.clone(), start.hand_shape + 0.1, start.hand_transl + torch.tensor([0.03, 0.0, 0.04]),
        start.object_rotvec.clone(), start.object_transl + torch.tensor([0.0, 0.02, 0.0]),
    )  # fmt: skip
    turn = torch.tensor([[0.0, 0.0, 0.02]])
    moved.object_rotvec[:] = 0
    start = Pose(**{n: v.clone() for n, v in start.items()} | {"object_rotvec": turn.expand(3, 3)})
    moved.hand_rotvec[:, 4] = 0
    start.hand_rotvec[:, 4] = torch.tensor([0.3, 0.0, 0.0])
    scene = stand_in(pose=moved, initial=start)
    torch.testing.assert_close(LOSSES["shape_prior"](scene), moved.hand_shape.square().sum(1))
    parts = {"pose": (np.cos(0.15) - 1) ** 2 / 15, "shape": 0.1, "transl": 0.05**2, "object": 0.02**2 + 0.02**2}
    for name, expected in parts.items():
        only = {part: float(part == name) for part in parts}
        np.testing.assert_allclose(LOSSES["offset"](scene, **only), np.full(3, expected), rtol=2e-3)
    start.hand_rotvec[:, 4] = torch.tensor([2 * np.pi - 0.1, 0.0, 0.0])  # the same rotation as -0.1
    joints = LOSSES["offset"](scene, shape=0, transl=0, object=0)
    np.testing.assert_allclose(joints * 15, np.full(3, (np.cos(0.05) - 1) ** 2), rtol=0.02)


def test_articulation_and_orientation_count_standard_deviations() -> None:
    flat = torch.zeros(2, 16, 3)
    bends = flat.clone()
    bends[1, 5, 2], bends[1, 9, 1] = 0.3, 0.1
    scene = bent(bends)
    first = dataclasses.replace(scene.pose, hand_rotvec=flat)
    scene = stand_in(pose=scene.pose, initial=first, hand_model=scene.hand_model)
    torch.testing.assert_close(
        LOSSES["articulation"](scene, sigma=0.1), torch.tensor([0.0, 10.0]), atol=1e-3, rtol=1e-3
    )
    turned = dataclasses.replace(first, hand_rotvec=flat.clone())
    turned.hand_rotvec[1, 0] = torch.tensor([0.0, 0.03, 0.04])
    scene = stand_in(pose=turned, initial=first, hand_model=scene.hand_model)
    torch.testing.assert_close(LOSSES["orientation"](scene, sigma=0.1), torch.tensor([0.0, 0.25]), atol=1e-6, rtol=1e-3)


def test_quaternions_turn_like_matrices() -> None:
    rotvec = torch.randn(20, 3, dtype=torch.float64)
    rotvec[0] = 0
    rotvec[1] *= 1e-7
    w, x, y, z = rotvec_to_quaternion(rotvec).unbind(-1)
    matrix = axis_angle_to_matrix(rotvec)
    torch.testing.assert_close(matrix[:, 0, 0], 1 - 2 * (y * y + z * z))
    torch.testing.assert_close(matrix[:, 1, 0], 2 * (x * y + w * z))
    torch.testing.assert_close(matrix[:, 2, 1], 2 * (y * z + w * x))


# ---------------------------------------------------------------- gradients


@pytest.fixture(scope="module")
def exact() -> Features:
    return true_features().map(double)


def precise(pose: Pose, initial: Pose, features: Features, model) -> Scene:
    return Scene(pose, initial, features, model, SimpleNamespace())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in RENDERED])
def test_gradient_by_differences(name: str, exact: Features) -> None:
    """In double precision, on every number of a disturbed pose at once (a random direction in and out)."""
    model = hand_model().to(dtype=torch.float64)
    start = true_pose().map(double)[:2]
    leaves = [value.requires_grad_() for _, value in disturbed(start, 0.02).items()]
    features = exact[torch.arange(2)]
    inputs = objective_of(name, features, model).inputs
    given = {key: inputs[key] for key in required(LOSSES[name])}
    options: dict[str, Any] = {"sigma": 1.0} if "sigma" in options_of(LOSSES[name]) and "surface" in name else {}

    def value(*numbers: Tensor) -> Tensor:
        scene = stand_in(pose=Pose(*numbers), initial=start, features=features, hand_model=model)
        return LOSSES[name](scene, **given, **options)

    assert value(*leaves).requires_grad
    assert torch.autograd.gradcheck(value, leaves, eps=1e-7, atol=1e-4, rtol=1e-3, fast_mode=True)


@pytest.mark.parametrize("name", PICTURED)
def test_gradient_on_what_is_rendered(name: str, exact: Features) -> None:
    render = make_scene(disturbed(true_pose(), 0.02), true_features()).render
    pictures = [p.detach().double().requires_grad_() for p in (render.masks, render.depth, render.coords)]
    inputs = objective_of(name, exact).inputs
    given = {key: inputs[key] for key in required(LOSSES[name])}
    options = {"sigma": 0.01} if "sigma" in options_of(LOSSES[name]) else {}
    center = torch.tensor([[0.0, 0.0, 0.55]], dtype=torch.float64).expand(3, 3)

    def value(masks: Tensor, depth: Tensor, coords: Tensor) -> Tensor:
        posed = SimpleNamespace(masks=masks, depth=depth, coords=coords, ids=render.ids)
        scene = stand_in(render=posed, object_center=center, features=exact, hand_model=hand_model())
        return LOSSES[name](scene, **given, **options)

    assert torch.autograd.gradcheck(value, pictures, eps=1e-7, atol=1e-4, rtol=1e-3, fast_mode=True)


# ---------------------------------------------------------------- the truth is the minimum


def disturbed(pose: Pose, size: float, seed: int = 0) -> Pose:
    """Every number moved: ``size`` radians and ten times that in shape, a quarter of it in metres."""
    generator = torch.Generator().manual_seed(seed)
    scale = {"hand_rotvec": size, "hand_shape": 10 * size, "object_rotvec": size}
    noise = {n: torch.randn(v.shape, generator=generator).to(v) * scale.get(n, size / 4) for n, v in pose.items()}
    return Pose(**{name: value + noise[name] for name, value in pose.items()})


def pushed(pose: Pose, size: float, seed: int = 0) -> Pose:
    """The hand moved into the object (``size`` metres towards its axis), or out of it (negative)."""
    scene = make_scene(pose, true_features())
    palm = scene.hand.vertices[:, hand_model().palmar & (hand_model().regions == 15)].mean(1)
    inward = torch.nn.functional.normalize(scene.object_center - palm, dim=1)
    return Pose(**{**dict(pose.items()), "hand_transl": pose.hand_transl + size * inward})


def opened(pose: Pose, size: float, seed: int = 0) -> Pose:
    """Every finger joint turned by ``size`` about a random axis."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.randn(len(pose), 16, 3, generator=generator)
    turn[:, 0] = 0
    return Pose(**{**dict(pose.items()), "hand_rotvec": pose.hand_rotvec + size * turn})


def flat(pose: Pose) -> Pose:
    """The relaxed hand of mean shape where the hand is."""
    rotvec = hand_model().mean_rotvec.repeat(len(pose), 1, 1)
    rotvec[:, 0] = pose.hand_rotvec[:, 0]
    return Pose(**{**dict(pose.items()), "hand_rotvec": rotvec, "hand_shape": torch.zeros_like(pose.hand_shape)})


def straight(pose: Pose) -> Pose:
    """The flat hand of mean shape where the hand is."""
    pose = flat(pose)
    pose.hand_rotvec[:, 1:] = 0
    return pose


def apart(pose: Pose) -> Pose:
    """The hand away from the object (CPF's repulsion is smallest there, whatever the truth)."""
    return pushed(pose, -0.1)


def a_little_out(pose: Pose) -> Pose:
    """Half a centimetre off the object (obman's contact: few vertices of a coarse mesh are near any of the hand)."""
    return pushed(pose, -0.005)


def as_it_is(pose: Pose) -> Pose:
    return pose


DISTURBED = tuple((disturbed, size) for size in (0.01, 0.04, 0.15))
INWARD = tuple((pushed, size) for size in (0.004, 0.008, 0.015))
OUTWARD = tuple((pushed, -size) for size in (0.02, 0.012, 0.008))
TABLE = {  # loss: (the pose at which it must be smallest, disturbances that must raise it)
    "segmentation": (as_it_is, DISTURBED),
    "dense_mapping": (as_it_is, DISTURBED[1:]),
    "relative_depth": (as_it_is, DISTURBED),
    "correspondence_depth": (as_it_is, DISTURBED[1:]),
    "surface_reprojection": (as_it_is, DISTURBED),
    "surface_depth": (as_it_is, DISTURBED),
    "rendered_code": (as_it_is, DISTURBED),
    "rendered_depth": (as_it_is, DISTURBED),
    "measured_depth": (as_it_is, DISTURBED),
    "silhouette": (as_it_is, DISTURBED),
    "photometric": (as_it_is, DISTURBED),
    "sdf_consistency": (as_it_is, DISTURBED),
    "spring_length": (as_it_is, DISTURBED),
    "offset": (as_it_is, DISTURBED),
    "articulation": (as_it_is, DISTURBED),
    "orientation": (as_it_is, DISTURBED),
    "temporal": (as_it_is, DISTURBED),
    "penetration": (as_it_is, INWARD),
    "repulsion": (apart, tuple((pushed, size) for size in (0.07, 0.08, 0.1))),
    "contact": (as_it_is, OUTWARD),
    "attraction": (as_it_is, OUTWARD),
    "capsule_contact": (as_it_is, OUTWARD[:1]),
    "normal_penetration": (as_it_is, INWARD),
    "obman_contact": (a_little_out, tuple((pushed, size) for size in (-0.045, -0.015, 0.01, 0.015, 0.025))),
    "anatomy": (as_it_is, tuple((opened, size) for size in (0.3, 0.6))),
    "pose_prior": (flat, DISTURBED),
    "shape_prior": (flat, DISTURBED),
    "edge_length": (straight, DISTURBED),
}


def test_the_table_is_complete() -> None:
    assert set(TABLE) == set(LOSSES)


@pytest.mark.parametrize("name", TABLE)
def test_smallest_at_the_truth(name: str) -> None:
    best, disturbances = TABLE[name]
    truth, features = best(true_pose()), true_features()
    here = make_scene(truth, features)
    objective = objective_of(name, features, **_fixed(name))
    least = objective.evaluate(here)[name]
    assert least.shape == (3,) and least.isfinite().all()
    for disturb, size in disturbances:
        there = make_scene(disturb(truth, size), features, truth)
        value = objective.evaluate(there)[name]
        assert (value > least).all(), (disturb.__name__, size, value, least)


@pytest.mark.parametrize("name", TABLE)
def test_a_step_downhill_lowers_it(name: str) -> None:
    best, disturbances = TABLE[name]
    truth, features = best(true_pose()), true_features()
    objective = objective_of(name, features, **_fixed(name))
    disturb, size = disturbances[-1]
    pose = disturb(truth, size).map(lambda value: value.detach().requires_grad_())
    before = objective.evaluate(make_scene(pose, features, truth))[name]
    leaves = [value for _, value in pose.items()]
    gradient = torch.autograd.grad(before.sum(), leaves, allow_unused=True)
    gradient = [torch.zeros_like(v) if g is None else g for v, g in zip(leaves, gradient, strict=True)]
    length = torch.stack([g.flatten(1).norm(dim=1) for g in gradient]).norm(dim=0)
    assert (length > 0).all() and length.isfinite().all()
    lower = torch.zeros(3, dtype=torch.bool)
    for step in (1e-2, 1e-3, 1e-4):
        moved = Pose(*(
            v.detach() - step * g / length.view(-1, *(1,) * (g.dim() - 1))
            for v, g in zip(leaves, gradient, strict=True)
        ))  # fmt: skip
        lower |= objective.evaluate(make_scene(moved, features, truth))[name].detach() < before.detach()
    assert lower.all()


def _fixed(name: str) -> dict[str, Any]:
    """One yardstick for all poses where the default follows the residuals."""
    return {"sigma": 0.005} if options_of(LOSSES[name]).get("sigma") == "auto" else {}


# ---------------------------------------------------------------- images do not see each other


@pytest.mark.parametrize("name", LOSSES)
def test_an_image_does_not_depend_on_its_neighbours(name: str) -> None:
    """The second image alone, and beside images with other poses and a larger mesh."""
    features, pose = true_features(), disturbed(true_pose(), 0.02)
    alone = value_of(name, make_scene(pose[1], features[torch.tensor([1])], true_pose()[1]))
    bigger = Mesh.cat([_finer(), features.object[1], features.object[2]])
    old = given(features.contact)
    contact = Contact(
        *(torch.nn.functional.pad(x, (0, 0, 0, bigger.vertices.shape[1] - x.shape[1]) if x.dim() == 3 else
          (0, bigger.vertices.shape[1] - x.shape[1]), value=17 if not x.is_floating_point() else 0)
          for x in (old.probability, old.region, old.elasticity))
    )  # fmt: skip
    mixed = Features(**{**{n: getattr(features, n) for n in FEATURES}, "object": bigger, "contact": contact})
    together = value_of(name, make_scene(pose, mixed, true_pose()))
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-6)


def _finer() -> Mesh:
    mesh = can()
    middle = mesh.vertices[0][mesh.faces[0]].mean(1)
    count = mesh.vertices.shape[1]
    new = torch.arange(len(middle)) + count
    a, b, c = mesh.faces[0].unbind(1)
    faces = torch.cat([torch.stack(x, 1) for x in ((a, b, new), (b, c, new), (c, a, new))])
    painted = given(mesh.colors)
    painted = torch.cat([painted, painted[0][mesh.faces[0]].mean(1)[None]], 1)
    return Mesh(torch.cat([mesh.vertices, middle[None]], 1), faces[None], painted, ("finer",), sdf=mesh.sdf)
