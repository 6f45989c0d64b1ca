"""Clips: second differences and what they say of a frame, how much a clip accelerates, gaps, breaks, and the whole."""

from __future__ import annotations

import dataclasses
import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_scenes import can, hand_model, make_scene, true_pose

from horefine import Config, Pose, load_config, load_hand, refine
from horefine.clip import check_times, one_hand, refine_clip, together
from horefine.clip_starts import best_sequence, breaks, points_of, put_right, replaced, speeds
from horefine.config import LevenbergMarquardt, Optimizer
from horefine.data.clips import SyntheticClip, SyntheticClips
from horefine.data.maps import corrupt, disturb, exact_features
from horefine.data.scenes import SceneSource
from horefine.errors import ConfigError, InputError
from horefine.geometry import Camera, axis_angle_to_matrix, matrix_to_axis_angle
from horefine.losses import LOSSES
from horefine.mesh import Mesh
from horefine.metrics.motion import acceleration, acceleration_error
from horefine.motion import LEAST, UNKNOWN, blend, bridged, level_of, neighbours_of, second_differences
from horefine.refined import Refinement
from horefine.scene import Features

FRAMES = 9
TIMES = torch.arange(FRAMES) / 30
ALL = torch.ones(FRAMES, dtype=torch.bool)


def turned(pose: Pose, mesh: Mesh, rotvec: torch.Tensor, way: torch.Tensor) -> Pose:
    """Hand and object turned about the object's centre, and moved."""
    turn, model = axis_angle_to_matrix(rotvec), hand_model()
    middle = pose.place(mesh.center[:, None])[:, 0]
    wrist = model.rest_joints(pose.hand_shape)[:, 0]
    arm, held = pose.hand_transl + wrist - middle, pose.object_transl - middle
    rotation = torch.cat([(turn @ axis_angle_to_matrix(pose.hand_rotvec[:, 0]))[:, None],
                          axis_angle_to_matrix(pose.hand_rotvec[:, 1:])], 1)  # fmt: skip
    return Pose(
        matrix_to_axis_angle(rotation), pose.hand_shape,
        pose.hand_transl - arm + (turn @ arm[..., None])[..., 0] + way,
        matrix_to_axis_angle(turn @ axis_angle_to_matrix(pose.object_rotvec)),
        middle + (turn @ held[..., None])[..., 0] + way,
    )  # fmt: skip


def a_clip(frames: int = FRAMES) -> tuple[Pose, Features]:
    """The first stored grasp turning and moving evenly, and its exact maps."""
    mesh = Mesh.cat([can()] * frames)
    pose = true_pose()[0].map(lambda value: value.expand(frames, *value.shape[1:]).clone())
    share = torch.linspace(0, 1, frames)[:, None]
    truth = turned(pose, mesh, share * torch.tensor([0.1, 0.2, -0.1]), share * torch.tensor([0.02, -0.01, 0.02]))
    camera = Camera(Camera.from_focal(150.0, (48, 48)).matrix.expand(frames, 3, 3).clone(), (48, 48))
    return truth, exact_features(truth, hand_model(), mesh, camera, contact=False)[0]


# ---------------------------------------------------------------- second differences


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.01, 0.2), min_size=2, max_size=8), st.integers(0, 2**31 - 1))
def test_second_differences_of_a_parabola_are_its_acceleration(spans: list[float], seed: int) -> None:
    """Whatever the spacing: the divided difference of a t^2 / 2 + v t + x is a."""
    times = torch.tensor([0.0, *spans]).cumsum(0)
    a, v, x = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed))
    points = a * times[:, None] ** 2 / 2 + v * times[:, None] + x
    three, coefficients = second_differences(times, torch.ones(len(times), dtype=torch.bool))
    assert len(three) == len(times) - 2
    found = (coefficients[..., None] * points[three]).sum(1)
    torch.testing.assert_close(found, a.expand_as(found), atol=0.05, rtol=1e-2)


def test_a_missing_frame_is_bridged_by_a_wider_difference() -> None:
    used = torch.tensor([True, True, False, True, True, False])
    three, coefficients = second_differences(torch.arange(6) * 0.1, used)
    assert three.tolist() == [[0, 1, 3], [1, 3, 4]]
    torch.testing.assert_close(coefficients[0], torch.tensor([2 / 0.03, -2 / 0.02, 2 / 0.06]))
    torch.testing.assert_close(coefficients.sum(1), torch.zeros(2), atol=1e-4, rtol=0)


def test_neighbours_expect_what_makes_no_acceleration() -> None:
    """On a straight line everyone expects everyone where they are; ends are in fewer second differences."""
    line = torch.arange(5)[:, None, None] * torch.tensor([0.01, -0.02, 0.005])
    around = neighbours_of(line.expand(5, 21, 3), line.expand(5, 8, 3), torch.arange(5) / 10, torch.ones(5).bool())
    for points, own in ((around.joints, line.expand(5, 21, 3)), (around.corners, line.expand(5, 8, 3))):
        torch.testing.assert_close(points, own[:, None].expand_as(points), atol=1e-6, rtol=0)
    # roles in a difference: first, middle, last; 1/s^2 at ten frames a second
    expected = [[100, 0, 0], [100, 200, 0], [100, 200, 100], [0, 200, 100], [0, 0, 100]]
    torch.testing.assert_close(around.rate, torch.tensor(expected).float(), rtol=1e-4, atol=1e-3)
    assert around.level.shape == (5, 2)


def test_the_loss_over_a_clip_is_its_accelerations() -> None:
    """Summed over frames, each second difference is counted by each of its three frames; moving one frame changes the
    clip's accelerations by what its own loss changes."""
    truth, features = a_clip(5)
    times, used = torch.arange(5) / 30, torch.ones(5, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    noisy = dataclasses.replace(
        truth,
        hand_transl=truth.hand_transl + 0.003 * torch.randn(5, 3, generator=generator),
        object_transl=truth.object_transl + 0.002 * torch.randn(5, 3, generator=generator),
    )

    def values(pose: Pose, around: Pose) -> torch.Tensor:
        seen = neighbours_of(*points_of(hand_model(), features.object, around), times, used)
        scene = make_scene(pose, dataclasses.replace(features, neighbours=seen))
        return LOSSES["temporal"](scene, seen, sigma=1.0, kernel=0.0)

    def whole(pose: Pose) -> float:
        total = 0.0
        for points in points_of(hand_model(), features.object, pose):
            bend = points.diff(n=2, dim=0) * 900
            total += float(bend.square().sum(-1).mean(-1).sum())
        return total

    torch.testing.assert_close(float(values(noisy, noisy).sum()), 3 * whole(noisy), rtol=1e-3, atol=1e-3)
    moved = dataclasses.replace(noisy, hand_transl=noisy.hand_transl.clone())
    moved.hand_transl[2] += 0.004
    change = float(values(moved, noisy)[2] - values(noisy, noisy)[2])
    torch.testing.assert_close(change, whole(moved) - whole(noisy), rtol=1e-3, atol=1e-3)


def test_a_wild_neighbour_pulls_on_nothing() -> None:
    truth, features = a_clip(5)
    joints, corners = points_of(hand_model(), features.object, truth)
    wild = joints.clone()
    wild[2] += 0.5
    seen = neighbours_of(wild, corners, TIMES[:5], ALL[:5])
    scene = make_scene(truth, dataclasses.replace(features, neighbours=seen))
    value = LOSSES["temporal"](scene, seen, sigma=0.5, kernel=30.0)
    assert (value < 3 * 30**2).all() and value[1] > 800
    calm = neighbours_of(joints, corners, TIMES[:5], ALL[:5])
    assert (LOSSES["temporal"](scene, calm, sigma=0.5, kernel=30.0) < 20).all()


# ---------------------------------------------------------------- how much a clip accelerates


def swing(count: int, size: float = 0.04, rate: float = 1.0) -> torch.Tensor:
    """A point that swings: acceleration's root mean square over whole periods is ``size (2 pi rate)^2 / sqrt(2)``."""
    times = torch.arange(count) / 30
    return (size * torch.sin(2 * math.pi * rate * times))[:, None, None].expand(count, 4, 3).clone()


def test_the_level_of_a_swing_is_its_own_whatever_the_noise() -> None:
    """Medians over frames: for a sine sqrt(1/2) of the largest acceleration, as the root mean square."""
    times, used = torch.arange(61) / 30, torch.ones(61, dtype=torch.bool)
    expected = 0.04 * (2 * math.pi) ** 2 / math.sqrt(2)
    assert level_of(swing(61), times, used) == pytest.approx(expected + LEAST, rel=0.08)
    noise = torch.randn(61, 4, 3, generator=torch.Generator().manual_seed(1)) * 0.001
    assert level_of(swing(61) + noise, times, used) == pytest.approx(expected + LEAST, rel=0.25)
    assert level_of(0 * swing(61) + noise, times, used) < 0.6  # of 2.2 that a single stride would see
    wild = swing(61)
    wild[20] += 1.0
    assert level_of(wild, times, used) == pytest.approx(expected + LEAST, rel=0.15)


def test_the_level_of_few_frames_is_not_known() -> None:
    assert level_of(swing(5), TIMES[:5], ALL[:5]) == UNKNOWN


# ---------------------------------------------------------------- gaps and breaks


def test_a_bridge_goes_straight() -> None:
    truth, features = a_clip()
    used = ALL.clone()
    used[[0, 4, 5, 8]] = False
    broken = truth.map(lambda v: torch.where(used.view(-1, *(1,) * (v.dim() - 1)), v, torch.full_like(v, 7.0)))
    found = bridged(hand_model(), features.object, broken, TIMES, used)
    before, after = points_of(hand_model(), features.object, truth), points_of(hand_model(), features.object, found)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a[1:8], b[1:8], atol=2e-3, rtol=0)  # the motion is even
        torch.testing.assert_close(b[0], a[1], atol=1e-6, rtol=0)
        torch.testing.assert_close(b[8], a[7], atol=1e-6, rtol=0)
    assert bridged(hand_model(), features.object, broken, TIMES, ~ALL) is broken
    ends = blend(hand_model(), features.object, truth, truth[ALL.nonzero().flatten().flip(0)], torch.zeros(FRAMES))
    torch.testing.assert_close(ends.hand_transl, truth.hand_transl, atol=1e-6, rtol=0)


def test_a_flip_is_a_break_and_an_even_motion_is_not() -> None:
    truth, features = a_clip()
    even = speeds(points_of(hand_model(), features.object, truth), TIMES)
    assert not breaks(even).any()
    flipped = dataclasses.replace(truth, object_rotvec=truth.object_rotvec.clone())
    flipped.object_rotvec[4] = matrix_to_axis_angle(
        axis_angle_to_matrix(truth.object_rotvec[4:5]) @ axis_angle_to_matrix(torch.tensor([[math.pi, 0.0, 0.0]]))
    )[0]
    assert breaks(speeds(points_of(hand_model(), features.object, flipped), TIMES)).nonzero().flatten().tolist() == [
        3,
        4,
    ]


def test_two_wrong_frames_of_eight_do_not_make_wrong_usual() -> None:
    """Four of seven steps are wrong then: their median would be."""
    points = torch.arange(8)[:, None, None] * torch.tensor([0.005, 0.0, 0.0]).expand(1, 4, 3)
    points = points.clone()
    points[[2, 5]] += 0.2
    found = breaks(speeds((points, points), TIMES[:8]))
    assert found.nonzero().flatten().tolist() == [1, 2, 4, 5]


def test_the_best_sequence_weighs_maps_against_motion() -> None:
    """A jump is taken back where the maps do not mind, and stays where they insist."""
    truth, features = a_clip()
    joints, corners = points_of(hand_model(), features.object, truth)
    away = corners.clone()
    away[4] += 0.1
    own = torch.full((FRAMES, 2), torch.inf)
    own[:, 0], own[4] = 0, torch.tensor([0.0, 100.0])
    points = [(joints, away), (joints, corners)]
    assert best_sequence(own, points, TIMES).tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    own[4, 1] = 1e5
    assert best_sequence(own, points, TIMES).sum() == 0


def a_result(pose: Pose, status: str = "improved") -> Refinement:
    count = len(pose)
    return Refinement(pose, pose, {"total": torch.zeros(1, count)}, torch.zeros(count, dtype=torch.long),
                      (status,) * count, ("said",) * count)  # fmt: skip


def test_replaced_takes_only_the_rows_it_is_told() -> None:
    truth, _ = a_clip()
    other = a_result(truth[2:4].map(lambda value: value + 1), "unchanged")
    found = replaced(a_result(truth), torch.tensor([5, 1]), other)
    torch.testing.assert_close(found.pose.hand_transl[[5, 1]], truth.hand_transl[2:4] + 1)
    assert found.status == ("improved", "unchanged", *("improved",) * 3, "unchanged", *("improved",) * 3)
    assert found.initial is not found.pose or True
    torch.testing.assert_close(found.initial.hand_transl, truth.hand_transl)


# ---------------------------------------------------------------- the recipe of a clip


def test_together_is_the_last_stage_with_the_shape_held() -> None:
    whole = load_config("default")
    own = together(whole, temporal=True)
    assert isinstance(own.optimizer, LevenbergMarquardt) and own.optimizer.still == ["shape"]
    assert list(own.stages) == ["render"] and own.terms()["temporal"].weight == 1
    assert set(own.terms()) == {*whole.terms("render"), "temporal"}
    assert "temporal" not in together(whole, temporal=False).terms()
    assert "temporal" not in together(load_config("default", ["losses.temporal=0"]), temporal=True).terms()
    heavy = together(load_config("default", ["losses.temporal.weight=3", "losses.temporal.kernel=5"]), temporal=True)
    assert heavy.terms()["temporal"].weight == 3 and heavy.terms()["temporal"].options["kernel"] == 5
    adam = together(load_config("pixels"), temporal=True)
    assert (
        isinstance(adam.optimizer, Optimizer)
        and "shape" not in adam.optimizer.rates
        and adam.align.object == "given"
        and "temporal" in adam.terms()
    )
    free = together(load_config("default", ["clip.shape=own"]), temporal=True)
    assert isinstance(free.optimizer, LevenbergMarquardt) and free.optimizer.still == []


@pytest.mark.parametrize("setting", ["clip.shape=mine", "clip.sweeps=-1", "clip.swep=1", "optimizer.still=[thumb]"])
def test_a_recipe_says_what_it_does_not_know(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.split("=")[0]):
        load_config("default", [setting])


def test_times_ascend() -> None:
    check_times(TIMES, FRAMES)
    with pytest.raises(InputError, match="9 finite numbers"):
        check_times(TIMES[1:], FRAMES)
    with pytest.raises(InputError, match="frame 3 is not later"):
        check_times(TIMES[[0, 1, 2, 2, 4]], 5)


def test_one_hand_is_the_mean_and_wrists_stay() -> None:
    truth, _ = a_clip()
    shape = torch.randn(FRAMES, 10, generator=torch.Generator().manual_seed(3))
    pose = dataclasses.replace(truth, hand_shape=shape, focal_factor=torch.linspace(0.9, 1.1, FRAMES))
    used = ALL.clone()
    used[3] = False
    shared = one_hand(hand_model(), pose, used, a_result(pose))
    torch.testing.assert_close(shared.hand_shape, shape[used].mean(0).expand(FRAMES, 10))
    assert shared.focal_factor is not None and len(shared.focal_factor.unique()) == 1
    wrists = [hand_model()(p.hand_rotvec, p.hand_shape, p.hand_transl).joints[:, 0] for p in (pose, shared)]
    torch.testing.assert_close(wrists[0], wrists[1], atol=1e-6, rtol=0)


# ---------------------------------------------------------------- the whole


def tuned(*settings: str) -> Config:
    return load_config("default", settings)


@functools.lru_cache(maxsize=1)
def a_real_clip() -> SyntheticClip:
    """Six frames of the embedded hand holding a mug."""
    return SyntheticClips(1, 6, source=SceneSource(1000, objects=["mug"]))[0]


def test_a_clip_moves_more_truly_than_its_frames_and_is_not_worse() -> None:
    clip, model = a_real_clip(), load_hand(kind="embedded")
    mesh = clip.features.object
    start = disturb(clip.truth, 5, model=model, object_center=mesh.center)
    found = refine_clip(start, corrupt(clip.features, "n02", 3), "default", times=clip.times, hand_model=model, batch=4)
    assert not found.bridged.any() and set(found.frames.status) == {"improved"}
    assert (found.frames.pose.hand_shape == found.frames.pose.hand_shape[0]).all()
    true, alone, now = (points_of(model, mesh, p) for p in (clip.truth, found.alone, found.frames.pose))
    for body in range(2):
        before, after = (acceleration_error(points[body], true[body]).mean() for points in (alone, now))
        assert after < 0.5 * before, (body, before, after)
        errors = [(points[body] - true[body]).norm(dim=-1).mean() for points in (alone, now)]
        assert errors[1] < 1.25 * errors[0], (body, errors)  # of one short clip; benchmarks.clips measures it


def test_frames_that_went_wrong_are_put_right_from_those_beside_them() -> None:
    """Two frames with the object elsewhere, one without a result: begun again, and right."""
    truth, features = a_clip(7)
    bad = truth.map(lambda value: value.clone())
    bad.object_transl[2:4] += torch.tensor([0.15, 0.0, 0.1])
    bad.hand_transl[5] += 1.0
    alone = a_result(bad)
    alone = dataclasses.replace(alone, status=tuple("rejected" if t == 5 else "improved" for t in range(7)))
    config, model = tuned(), hand_model()
    asked: list[list[int]] = []

    def again(pose: Pose, rows: torch.Tensor, own: Config) -> Refinement:
        asked.append(rows.tolist())
        assert own.align.object == "given" and own.starts.count == 1
        return refine(pose, features[rows], own, hand_model=model)

    found = put_right(alone, TIMES[:7], config, features, model, "auto", again)
    assert asked[0] == [2, 4, 5, 6] or asked[0] == [2, 4, 5]
    assert "rejected" not in found.status
    true, now = (points_of(model, features.object, p)[1] for p in (truth, found.pose))
    assert ((now - true).norm(dim=-1).mean(1) < 0.003).all()


def test_an_unbroken_clip_is_left_alone() -> None:
    truth, features = a_clip(5)

    def never(pose: Pose, rows: torch.Tensor, own: Config) -> Refinement:
        raise AssertionError("nothing is to be begun again")

    alone = a_result(truth)
    assert put_right(alone, TIMES[:5], tuned(), features, hand_model(), "auto", never) is alone


def test_a_lost_frame_is_bridged() -> None:
    truth, features = a_clip(5)
    start = disturb(truth, 5, 5.0, 5.0, 5.0, model=hand_model(), object_center=features.object.center)
    lost = {name: getattr(features, name).clone() for name in
            ("hand_mask", "object_mask", "hand_coords", "object_coords", "depth")}  # fmt: skip
    for value in lost.values():
        value[2] = 0
    found = refine_clip(start, dataclasses.replace(features, **lost), tuned("clip.sweeps=1"), times=TIMES[:5],
                        hand_model=hand_model())  # fmt: skip
    assert found.bridged.nonzero().flatten().tolist() == [2] and found.frames.status[2] == "rejected"
    assert "bridged from the clip's frame 2 and 4" in found.frames.reason[2]
    true, now = (points_of(hand_model(), features.object, p)[1] for p in (truth, found.frames.pose))
    assert ((now - true).norm(dim=-1).mean(1) < 0.003).all()


@pytest.mark.parametrize("count", [1, 2])
def test_a_clip_of_one_or_two_frames_is_refined_too(count: int) -> None:
    truth, features = a_clip(count)
    start = disturb(truth, 5, 5.0, 5.0, 5.0, model=hand_model(), object_center=features.object.center)
    found = refine_clip(start, features, "default", hand_model=hand_model())
    assert found.frames.status == ("improved",) * count and not found.bridged.any()


FEW = ("stages.correspond.steps=2", "stages.settle.steps=1", "stages.render.steps=1")


def test_a_clip_whose_frames_have_nothing_to_do_with_one_another_is_its_frames() -> None:
    truth, features = a_clip(3)
    start = disturb(truth, 5, 5.0, 5.0, 5.0, model=hand_model(), object_center=features.object.center)
    apart = tuned(*FEW, "losses.temporal=0", "clip.shape=own", "clip.warm=false")
    found = refine_clip(start, features, apart, hand_model=hand_model(), batch=2)
    for frame in range(3):
        alone = refine(start[frame], features[torch.tensor([frame])], tuned(*FEW), hand_model=hand_model())
        torch.testing.assert_close(found.frames.pose.hand_rotvec[frame], alone.pose.hand_rotvec[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(
            found.frames.pose.object_transl[frame], alone.pose.object_transl[0], atol=1e-5, rtol=0
        )


def test_a_recipe_may_name_the_loss_that_images_do_not_have() -> None:
    """Where a stage takes all losses, single frames go without it; images by themselves say what is missing."""
    truth, features = a_clip(3)
    losses = {"surface_reprojection": {"sigma": 1.0}, "surface_depth": {"sigma": 0.005}, "temporal": 2.0}
    config = load_config({"losses": losses, "stages": {"all": {"steps": 2}}, "clip": {"sweeps": 1, "warm": False},
                          "optimizer": {"name": "levenberg_marquardt"}})  # fmt: skip
    assert (
        "neighbours" not in (*config.features, *config.wishes) and together(config, temporal=True).terms()["temporal"]
    )
    found = refine_clip(truth, features, config, hand_model=hand_model())
    assert not found.bridged.any()
    with pytest.raises(ConfigError, match=r"needs features\.neighbours"):
        refine(truth, features, config, hand_model=hand_model())


@pytest.mark.slow
def test_adam_takes_clips_too() -> None:
    truth, features = a_clip(4)
    start = disturb(truth, 5, 5.0, 5.0, 5.0, model=hand_model(), object_center=features.object.center)
    config = load_config("adam", ["stages.correspond.steps=20", "stages.render.steps=15", "clip.steps=15",
                                  "clip.sweeps=2", "clip.warm=false"])  # fmt: skip
    found = refine_clip(start, corrupt(features, "n02", 3), config, times=TIMES[:4], hand_model=hand_model())
    assert (found.frames.pose.hand_shape == found.frames.pose.hand_shape[0]).all()
    rough, smooth = (acceleration(points_of(hand_model(), features.object, p)[1]).mean()
                     for p in (found.alone, found.frames.pose))  # fmt: skip
    assert smooth < 0.7 * rough


def test_nothing_is_seen_in_any_frame() -> None:
    truth, features = a_clip(3)
    blind = dataclasses.replace(features, hand_mask=torch.zeros(3, 48, 48))
    found = refine_clip(truth, blind, tuned("clip.sweeps=1"), hand_model=hand_model())
    assert found.frames.status == ("rejected",) * 3 and found.bridged.all()
    torch.testing.assert_close(found.frames.pose.hand_transl, truth.hand_transl)
