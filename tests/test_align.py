"""The way in: rotations that cover all, templates against a plain twin, hand and object found from anywhere."""

from __future__ import annotations

import dataclasses
import functools
import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from loss_scenes import hand_model, true_features, true_pose
from torch import Tensor

from horefine import load_config, load_hand, refine
from horefine.align import align, align_hand, align_object
from horefine.align.kernels import match_templates
from horefine.align.rigid import _Observed, _residuals, fit_rigid
from horefine.align.rotations import angle_between, best_apart, even_rotations
from horefine.batching import cat_features
from horefine.data.crop import crop_box, crop_sample
from horefine.data.maps import disturb, exact_features
from horefine.data.synthetic import SyntheticDataset
from horefine.errors import ConfigError
from horefine.extractors.crops import map_camera
from horefine.extractors.picture import PictureExtractor, linear_picture
from horefine.geometry import Camera, axis_angle_to_matrix, matrix_to_axis_angle, project
from horefine.scene import Features, Pose

# ---------------------------------------------------------------- rotations


def some_rotations(count: int, seed: int = 0) -> Float[Tensor, "count 3 3"]:
    """Uniform over all orientations."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator))
    q = q * torch.diagonal(r, dim1=1, dim2=2).sign()[:, None]
    return q * torch.linalg.det(q)[:, None, None]


def degrees(a: Tensor, b: Tensor) -> Tensor:
    return torch.rad2deg(angle_between(a, b))


@pytest.mark.parametrize("count", [1, 24, 576])
def test_even_rotations_are_rotations(count: int) -> None:
    turns = even_rotations(count)
    assert turns.shape == (count, 3, 3)
    torch.testing.assert_close(turns @ turns.mT, torch.eye(3).expand(count, 3, 3), atol=1e-6, rtol=0)
    assert torch.linalg.det(turns).min() > 0.999


def test_even_rotations_leave_no_orientation_out() -> None:
    nearest = degrees(some_rotations(4000)[:, None], even_rotations(576)[None]).min(1).values
    assert nearest.max() < 27 and nearest.mean() < 15
    between = degrees(even_rotations(576)[:, None], even_rotations(576)[None]) + 360 * torch.eye(576)
    assert between.min() > 8, "no two are nearly the same"


def test_angle_between() -> None:
    turn = axis_angle_to_matrix(torch.tensor([[0.0, 0.0, 0.3], [0.0, 2.0, 0.0], [math.pi, 0.0, 0.0]]))
    start = some_rotations(3)
    torch.testing.assert_close(angle_between(turn @ start, start), torch.tensor([0.3, 2.0, math.pi]), atol=2e-3, rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 12), st.floats(0.1, 2.5), st.floats(0, 1))
def test_best_apart(seed: int, total: int, count: int, apart: float, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    turns, cost = some_rotations(total, seed), torch.rand(total, generator=generator)
    cost[torch.rand(total, generator=generator) < share] = torch.inf
    found = best_apart(cost, turns, count, apart)
    assert found.shape == (count,)
    assert cost[found[0]] == cost.min()
    own = list(dict.fromkeys(found.tolist()))
    assert found.tolist() == own + [own[0]] * (count - len(own)), "the cheapest fills up"
    if cost.isinf().all():
        assert len(own) == 1
        return
    assert cost[own].isfinite().all() and (cost[own].diff() >= 0).all()
    between = angle_between(turns[own][:, None], turns[own][None]) + 9 * torch.eye(len(own))
    assert between.min() >= apart - 1e-4
    if len(own) < count:  # nothing was forgotten
        left = cost.isfinite().nonzero().flatten()
        near = angle_between(turns[left][:, None], turns[own][None]).min(1).values
        assert (near < apart + 1e-4)[~torch.isin(left, torch.tensor(own))].all()


# ---------------------------------------------------------------- templates

SIGMAS, BOUND, WEIGHT, LIGHT = (0.3, 0.6), 6.25, 4.0, 0.3


def twin_cost(mask, paint, ids, move, seen, hand, target) -> float:
    """A template moved by (rows, columns), on whole pictures: pixels that leave the picture are lost."""
    size = len(mask)
    away = size + max(abs(m) for m in move)
    wide = np.pad(np.concatenate([mask[None], paint, ids[None] >= 0]), ((0, 0), (away, away), (away, away)))
    rows, columns = (slice(away - m, away - m + size) for m in move)
    cover, color, painted = wide[0, rows, columns], wide[1:4, rows, columns], wide[4, rows, columns] > 0
    free = hand < 0.5
    cover = np.where((cover > 0.01) & free, cover, 0)
    both = (cover * seen).sum()
    share = cover * seen * painted
    if share.sum() < 1:
        return math.inf
    outline = WEIGHT * (1 - both / ((seen * free).sum() + cover.sum() - both))
    residual = target - color
    offset = (share * residual).sum((1, 2)) / share.sum()
    outline += 0.3 * (offset[:2] ** 2).sum() / LIGHT**2
    a, b, c = residual - offset[:, None, None]
    square = (a * a + b * b) / SIGMAS[0] ** 2 + c * c / SIGMAS[1] ** 2
    counts = share > 0.05
    return float((share * square / (1 + square / BOUND))[counts].sum() / share.sum() + outline)


def twin_search(template, picture, reach: int) -> tuple[float, tuple[int, int]]:
    """The cheapest of every second move, then of its eight neighbours."""
    every_second = list(product(range(-reach, reach + 1, 2), repeat=2))
    cost, best = min((twin_cost(*template, move, *picture), move) for move in every_second)
    if math.isinf(cost):
        best = (0, 0)
    around = [(best[0] + i, best[1] + j) for i, j in product((-1, 0, 1), repeat=2)]
    cost, best = min((twin_cost(*template, move, *picture), move) for move in around)
    return (cost, best) if math.isfinite(cost) else (math.inf, (0, 0))


def small_pictures(count: int, seed: int, size: int = 12):
    """Templates with soft outlines (some at the border, the last one empty) and a picture with a hand in it."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    centers, radius = rng.uniform(0, size, (count, 2)), rng.uniform(1.5, 4, count)
    away = np.hypot(rows - centers[:, :1, None], columns - centers[:, 1:, None])
    masks = np.clip(radius[:, None, None] - away + 0.5, 0, 1).astype(np.float32)
    masks[-1] = 0
    ids = np.where(masks > 0.5, rng.integers(0, 9, masks.shape), -1).astype(np.int32)
    paints = rng.normal(0, 0.5, (count, 3, size, size)).astype(np.float32)
    seen = np.clip(3.3 - np.hypot(rows - 6, columns - 5), 0, 1).astype(np.float32)
    hand = np.clip((columns - 6.5) * (rows > 4), 0, 1).astype(np.float32)
    target = rng.normal(0, 0.5, (3, size, size)).astype(np.float32)
    return (masks, paints, ids), (seen * (1 - hand), hand, target)


def matched(templates, picture, reach: int) -> tuple[np.ndarray, np.ndarray]:
    count = len(templates[0])
    costs, moves = np.full(count, np.nan), np.full((count, 2), -99)
    match_templates(*templates, *picture, reach, SIGMAS, BOUND, WEIGHT, LIGHT, costs, moves)
    return costs, moves


@pytest.mark.parametrize("seed", [0, 1])
def test_templates_against_a_twin(seed: int) -> None:
    templates, picture = small_pictures(12, seed)
    costs, moves = matched(templates, picture, 3)
    for row in range(12):
        cost, move = twin_search([part[row] for part in templates], picture, 3)
        assert costs[row] == pytest.approx(cost, rel=1e-4), row
        assert tuple(moves[row]) == move, row
    assert np.isinf(costs[-1]) and np.isfinite(costs).sum() >= 8


def test_a_moved_template_is_found_where_it_went() -> None:
    """The picture is the template itself, in other light; the hand hides a part and nothing is lost by it."""
    (masks, paints, ids), _ = small_pictures(6, 4)
    rows, columns = np.mgrid[:12, :12]
    paints[0] = np.stack([np.sin(rows), np.cos(columns), np.sin(rows + columns)]) * 0.3
    masks[0] = (abs(rows - 5) <= 2) & (abs(columns - 5) <= 2)
    ids[0] = np.where(masks[0] > 0, 1, -1)
    seen, target = np.roll(masks[0], (2, -1), (0, 1)), np.roll(paints[0], (2, -1), (1, 2)) + 0.05
    hand = np.zeros_like(seen)
    hand[:, 5:7] = 1
    costs, moves = matched((masks, paints, ids), (seen * (1 - hand), hand, target), 3)
    assert tuple(moves[0]) == (2, -1) and costs[0] == pytest.approx(0.3 * 2 * 0.05**2 / LIGHT**2, rel=1e-3)
    assert costs[0] < costs[1:].min()


# ---------------------------------------------------------------- the hand

MATRIX = Camera.from_focal(90.0, (64, 64)).matrix[0]
CENTER = torch.tensor([0.02, -0.03, 0.6])


def some_points(count: int = 120, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points of a hand's size about the origin, a pose from anywhere, and their pixels."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 3, generator=generator) * torch.tensor([0.05, 0.03, 0.02])
    turn, moved = some_rotations(1, seed)[0], CENTER + torch.tensor([0.03, 0.02, 0.08])
    return points, turn, moved, project((points @ turn.T + moved)[None], MATRIX[None])[0]


@pytest.mark.parametrize("seed", range(6))
def test_fit_rigid_finds_any_pose_of_exact_points(seed: int) -> None:
    points, turn, moved, pixels = some_points(seed=seed)
    found, place = fit_rigid(points, pixels, MATRIX, CENTER)
    assert degrees(found, turn) < 0.2
    assert (place - moved).abs().max() < 1e-3


@pytest.mark.parametrize("seed", range(6))
def test_fit_rigid_passes_over_outliers(seed: int) -> None:
    points, turn, moved, pixels = some_points(seed=seed)
    wild = torch.rand(len(points), generator=torch.Generator().manual_seed(seed)) < 0.3
    pixels = torch.where(wild[:, None], torch.rand_like(pixels) * 64, pixels)
    found, place = fit_rigid(points, pixels, MATRIX, CENTER)
    assert degrees(found, turn) < 2
    assert (place - moved)[:2].norm() < 3e-3 and (place - moved)[2].abs() < 0.02


def lost_hand(truth: Pose, angle: float = 120.0, depth: float = 0.08) -> Pose:
    """The hand turned about its middle by ``angle`` degrees about some axis, and ``depth`` metres too far."""
    axis = torch.nn.functional.normalize(torch.tensor([[0.5, 1.0, -0.3], [1.0, 0.0, 0.4], [-0.2, 0.3, 1.0]]), dim=1)
    turn = axis_angle_to_matrix(axis[: len(truth)] * math.radians(angle))
    rotvec = truth.hand_rotvec.clone()
    rotvec[:, 0] = matrix_to_axis_angle(turn @ axis_angle_to_matrix(rotvec[:, 0]))
    model = hand_model()
    hand = model(truth.hand_rotvec, truth.hand_shape, truth.hand_transl)
    middle, wrist = hand.vertices.mean(1), hand.joints[:, 0]
    moved = (turn @ (wrist - middle)[..., None])[..., 0] + middle - wrist
    moved[:, 2] += depth
    return dataclasses.replace(truth, hand_rotvec=rotvec, hand_transl=truth.hand_transl + moved)


def wrist_turn(pose: Pose) -> Tensor:
    return axis_angle_to_matrix(pose.hand_rotvec[:, 0])


def test_a_hand_that_is_lost_is_found() -> None:
    truth, features = true_pose(), true_features()
    start = lost_hand(truth)
    found = align_hand(start, features, hand_model())
    assert (degrees(wrist_turn(start), wrist_turn(truth)) > 119).all()
    assert (degrees(wrist_turn(found), wrist_turn(truth)) < 10).all()
    middles = [hand_model()(p.hand_rotvec, p.hand_shape, p.hand_transl).vertices.mean(1) for p in (found, truth)]
    assert (middles[0] - middles[1])[:, 2].abs().max() < 5e-3
    assert (middles[0] - middles[1]).norm(dim=1).max() < 8e-3
    for name in ("hand_shape", "object_rotvec", "object_transl"):
        assert torch.equal(getattr(found, name), getattr(truth, name)), name
    assert torch.equal(found.hand_rotvec[:, 1:], truth.hand_rotvec[:, 1:]), "fingers are held as they are"
    blind = align_hand(start, dataclasses.replace(features, depth=None), hand_model())
    assert (degrees(wrist_turn(blind), wrist_turn(truth)) < 10).all(), "without depth, from the codes alone"


def test_a_hand_that_is_hardly_seen_stays() -> None:
    truth, features = true_pose(), true_features()
    mask = features.hand_mask.clone()
    mask[1] = 0
    mask[1, 20, 5:20] = 1
    start = lost_hand(truth)
    found = align_hand(start, dataclasses.replace(features, hand_mask=mask), hand_model())
    assert torch.allclose(found.hand_transl[1], start.hand_transl[1], atol=1e-6)
    assert degrees(wrist_turn(found), wrist_turn(start))[1] < 0.1
    assert degrees(wrist_turn(found), wrist_turn(truth))[0] < 10
    with pytest.raises(ValueError, match="both dense maps"):
        align_hand(start, dataclasses.replace(features, hand_coords=None), hand_model())


def test_a_hand_does_not_depend_on_its_neighbours() -> None:
    start, features = lost_hand(true_pose()), true_features()
    together = align_hand(start, features, hand_model())
    for row in range(3):
        alone = align_hand(start[row], features[slice(row, row + 1)], hand_model())
        assert degrees(wrist_turn(alone), wrist_turn(together)[row : row + 1]) < 0.1
        assert torch.allclose(alone.hand_transl[0], together.hand_transl[row], atol=1e-4)


# ---------------------------------------------------------------- the object

PHOTOS = (("box", 1), ("drill", 2), ("can", 1), ("box", 4))
"""Object and scene: not hidden by anything but the hand."""


@functools.lru_cache(maxsize=1)
def photographs() -> tuple[Pose, Features]:
    """Crops of synthetic photos with exact maps, in one batch."""
    poses, features = [], []
    for name, index in PHOTOS:
        sample = SyntheticDataset(index + 1, 5, objects=[name])[index]
        assert sample.truth is not None and sample.mesh is not None
        crop = crop_sample(sample, crop_box(sample.hand_box, sample.object_box))
        maps, _ = exact_features(sample.truth, load_hand(kind="embedded"), sample.mesh, map_camera([crop]))
        image = PictureExtractor().extract([crop], ["image"])["image"]
        poses.append(sample.truth)
        features.append(dataclasses.replace(maps, image=image))
    return Pose.cat(poses), cat_features(features)


def centers_of(pose: Pose, features: Features) -> Tensor:
    turn = axis_angle_to_matrix(pose.object_rotvec)
    return (turn @ features.object.center[..., None])[..., 0] + pose.object_transl


def lost_object(truth: Pose, features: Features) -> Pose:
    """Objects in some orientation, one or two centimetres away."""
    turn = some_rotations(len(truth), 11)
    center = centers_of(truth, features) + torch.tensor([0.01, -0.008, 0.02])
    transl = center - (turn @ features.object.center[..., None])[..., 0]
    return dataclasses.replace(truth, object_rotvec=matrix_to_axis_angle(turn), object_transl=transl)


def object_turn(pose: Pose) -> Tensor:
    return axis_angle_to_matrix(pose.object_rotvec)


@pytest.fixture(scope="module")
def aligned() -> Pose:
    truth, features = photographs()
    return align_object(lost_object(truth, features), features)


def test_an_object_is_found_by_its_looks(aligned: Pose) -> None:
    truth, features = photographs()
    before = degrees(object_turn(lost_object(truth, features)), object_turn(truth))
    after = degrees(object_turn(aligned), object_turn(truth))
    assert (before > 60).all() and (after < 10).all(), (before, after)
    away = (centers_of(aligned, features) - centers_of(truth, features)).norm(dim=1)
    assert away.max() < 0.015, away
    for name in ("hand_rotvec", "hand_shape", "hand_transl"):
        assert torch.equal(getattr(aligned, name), getattr(truth, name)), name


def test_an_object_does_not_depend_on_its_neighbours(aligned: Pose) -> None:
    truth, features = photographs()
    alone = align_object(lost_object(truth, features)[2], features[slice(2, 3)])
    assert degrees(object_turn(alone), object_turn(aligned)[2:3]) < 0.5
    assert torch.allclose(alone.object_transl[0], aligned.object_transl[2], atol=5e-4)


def test_a_good_pose_is_not_given_away() -> None:
    truth, features = photographs()
    found = align_object(truth[0], features[slice(0, 1)], rotations=24, candidates=2, finalists=1)
    assert degrees(object_turn(found), object_turn(truth)[:1]) < 5


def test_an_unseen_object_stays_and_one_without_colours_is_grey() -> None:
    truth, features = photographs()
    start, rows = lost_object(truth, features)[slice(0, 2)], features[slice(0, 2)]
    mask = rows.object_mask.clone()
    mask[0] = 0
    bare = dataclasses.replace(rows, object_mask=mask, object=dataclasses.replace(rows.object, colors=None))
    found = align_object(start, bare, rotations=48, candidates=2, finalists=1)
    assert all(value.isfinite().all() for _, value in found.items())
    assert degrees(object_turn(found), object_turn(start))[0] < 0.1
    assert torch.allclose(found.object_transl[0], start.object_transl[0], atol=1e-6)
    with pytest.raises(ValueError, match=r"features\.image"):
        align_object(start, dataclasses.replace(rows, image=None))


# ---------------------------------------------------------------- recipes


def test_nothing_is_aligned_unless_asked_for() -> None:
    truth, features = photographs()
    found = align(truth, features, load_hand(kind="embedded"), hand="given", object="given")
    assert all(torch.equal(value, getattr(found, name)) for name, value in truth.items())
    assert load_config("default").align.features == ()
    assert "image" not in load_config("default").features


def test_what_the_way_in_takes_is_asked_for() -> None:
    config = load_config("pixels")
    assert {"image", "hand_mask", "object_mask", "hand_coords", "object_coords", "depth"} <= set(config.features)
    only = load_config({"align": {"object": "looks"}, "losses": {"shape_prior": 1.0}, "stages": {"a": {"steps": 1}}})
    assert only.features == ("image", "hand_mask", "object_mask")
    off = load_config("pixels", ["align.object=given", "losses.photometric=0"])
    assert "image" not in off.features and "hand_coords" in off.features
    with pytest.raises(ConfigError, match=r"align\.object: looks: needs features\.image.*extract it, or set .* given"):
        refine(true_pose(), dataclasses.replace(true_features(), image=None), only, hand_model=hand_model())


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("align.objct=looks", r"align\.objct.*did you mean 'object'"),
        ("align.object=look", r"align\.object.*looks"),
        ("align.rotations=3", r"align\.rotations"),
        ("align=codes", r"align"),
    ],
)
def test_a_wrong_key_is_named(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config("pixels", [override])


def test_the_recipe_finds_both_from_afar() -> None:
    truth, features = photographs()
    truth, features = truth[1], features[slice(1, 2)]
    model = load_hand(kind="embedded")
    start = disturb(truth, 2, 110.0, 15.0, 5.0, model=model, object_center=features.object.center)
    config = load_config("pixels", ["stages.correspond.steps=15", "stages.render.steps=25"])
    found = refine(start, features, config, hand_model=model, renderer="cpu")
    assert found.status == ("improved",) and "photometric" in found.history
    assert all(torch.equal(value, getattr(start, name)) for name, value in found.initial.items())
    assert degrees(object_turn(start), object_turn(truth)) > 100
    assert degrees(object_turn(found.pose), object_turn(truth)) < 10
    hands = [model(p.hand_rotvec, p.hand_shape, p.hand_transl).vertices for p in (start, found.pose, truth)]
    before, after = ((hands[i] - hands[2]).norm(dim=-1).mean() for i in (0, 1))
    assert after < 0.02 and after < before / 3, (before, after)


# ---------------------------------------------------------------- the photograph as a feature


def test_linear_picture() -> None:
    image = torch.tensor([0.0, 0.04, 0.5, 1.0])[:, None, None, None].expand(4, 3, 8, 8)
    linear = linear_picture(image, 4)
    assert linear.shape == (4, 3, 4, 4)
    expected = torch.tensor([0.0, 0.04 / 12.92, ((0.5 + 0.055) / 1.055) ** 2.4, 1.0])
    torch.testing.assert_close(linear, expected[:, None, None, None].expand_as(linear))
    checkers = (torch.arange(8)[:, None] + torch.arange(8)) % 2.0
    half = linear_picture(checkers.expand(1, 3, 8, 8), 4)
    torch.testing.assert_close(half, torch.full_like(half, 0.5))  # half the light, not the light of half the number


def test_depth_tells_a_flat_thing_from_its_mirror_image() -> None:
    """Far away, a plane tilted forth looks like one tilted back; depths up to an offset decide."""
    generator = torch.Generator().manual_seed(3)
    plane = torch.rand(80, 3, generator=generator) * torch.tensor([0.16, 0.12, 0.0]) - torch.tensor([0.08, 0.06, 0.0])
    turn = axis_angle_to_matrix(torch.tensor([0.0, 0.7, 0.0]))
    placed = plane @ turn.mT + CENTER
    pixels = project(placed[None], MATRIX[None])[0]
    noisy = pixels + 2.0 * torch.randn(pixels.shape, generator=generator)  # more than perspective shows
    flipped = placed[:, 2] * -1 + 2.0
    for depth, sign in ((placed[:, 2] + 5.0, 1.0), (flipped, -1.0)):
        found, _ = fit_rigid(plane, noisy, MATRIX, CENTER, depth)
        tilt = (plane @ found.mT)[:, 2]
        assert sign * float(torch.corrcoef(torch.stack([tilt, placed[:, 2]]))[0, 1]) > 0.9


def test_slopes_of_picture_and_depth() -> None:
    """Against finite differences, weights held still."""
    generator = torch.Generator().manual_seed(4)
    points = torch.randn(12, 3, generator=generator).double() * 0.05
    seen = _Observed(
        torch.rand(12, 2, generator=generator).double() * 64, torch.rand(12, generator=generator).double(), 75.0
    )
    weight = torch.rand(1, 12, generator=generator).double()
    place, matrix = CENTER[None].double(), MATRIX.double()
    jacobian = _residuals(points[None], place, seen, matrix, weight)[1]
    for column in range(6):
        ends = []
        for sign in (1, -1):
            step = torch.zeros(6, dtype=torch.float64)
            step[column] = sign * 1e-6
            moved = points @ axis_angle_to_matrix(step[3:]).mT
            residual = _residuals(moved[None], place + step[:3], seen, matrix, weight)[0]
            ends.append(residual)
        slope = (ends[0] - ends[1]) / 2e-6
        if column < 3:  # the offset of the depths takes a common one up
            slope[..., 2] = 0
        torch.testing.assert_close(jacobian[..., column], slope, atol=1e-4, rtol=1e-5)
