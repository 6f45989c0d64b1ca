"""Sigmas from the curvature: closed forms, the sampled spread of real refinements, and what has none."""

import dataclasses

import pytest
import torch
from loss_scenes import DOUBLE, double_objective, double_scene, hand_model, true_features, true_pose

from horefine import load_config, refine
from horefine.curvature import sigmas
from horefine.data.maps import disturb


def scene_and(terms):
    return double_scene(true_pose().to(dtype=DOUBLE)), double_objective(terms)


def test_priors_alone_give_their_own_widths():
    """Ties of translation and turn in closed form: offset's rows on a block, the rest held by stiff priors."""
    ties = {"pose": 0.0, "shape": 1e8, "transl": 400.0, "object": 2500.0}
    scene, objective = scene_and(
        {"offset": ties, "pose_prior": {"width": 1e-3}, "surface_reprojection": {"sigma": 1.0}}
    )
    found = sigmas(objective, scene)
    assert found.joints.shape == (3, 21) and found.object_center.shape == (3,)
    assert bool((found.joints > 0).all()) and bool(found.joints.isfinite().all())
    stiffer = {**ties, "transl": 4e8, "object": 2.5e9}
    held = sigmas(
        scene_and({"offset": stiffer, "pose_prior": {"width": 1e-3}, "surface_reprojection": {"sigma": 1.0}})[1], scene
    )
    # 1 / sqrt(weight) along each axis; the centre also feels the turn about it: nothing, the tie is about the origin
    assert bool((held.joints[:, 0] < 3**0.5 / 2e4 * 1.01).all())
    assert bool((held.object_depth < found.object_depth).all())


def test_twice_the_noise_is_twice_the_sigma():
    """Without priors, sigmas scale with the residuals' own."""
    one, two = (
        sigmas(objective, scene)
        for scene, objective in (
            scene_and({
                "surface_reprojection": {"sigma": size, "kernel": 0.0},
                "surface_depth": {"sigma": 0.005 * size, "kernel": 0.0},
                "offset": {key: 1.0 / size**2 for key in ("pose", "shape", "transl", "object")},
                "pose_prior": {"width": size},
            })
            for size in (1.0, 2.0)
        )
    )  # fmt: skip
    for a, b in ((one.joints, two.joints), (one.wrist_depth, two.wrist_depth), (one.object_center, two.object_center)):
        torch.testing.assert_close(2 * a, b, rtol=1e-6, atol=0)


def test_losses_without_squares_say_nothing():
    scene, objective = scene_and({"segmentation": 1.0, "pose_prior": 1.0})
    assert bool(sigmas(objective, scene).joints.isinf().all())


def test_a_direction_without_evidence_is_infinite():
    scene, objective = scene_and({"pose_prior": 1.0})
    assert bool(sigmas(objective, scene).wrist_depth.isinf().all())


@pytest.mark.slow
def test_sigmas_are_the_spread_of_results_under_noise():
    """Maps with fresh noise thirty times: the spread of the results is what the curvature says, within a factor."""
    from horefine.data.maps import corrupt

    features, truth, model = true_features(), true_pose(), hand_model()
    start = disturb(truth, 1, 5.0, 5.0, 5.0, model=model, object_center=features.object.center)
    config = load_config("default", ["losses.spring_length=0", "losses.penetration=0"])
    depths, told = [], []
    for seed in range(30):
        noisy = corrupt(features, "n02", seed)
        result = refine(start, noisy, config, hand_model=model)
        posed = model(result.pose.hand_rotvec, result.pose.hand_shape, result.pose.hand_transl)
        assert result.sigma is not None
        depths.append(posed.joints[:, 0, 2])
        told.append(result.sigma.wrist_depth)
    ratio = torch.stack(depths).std(0) / torch.stack(told).median(0).values
    assert bool(((ratio > 0.3) & (ratio < 3)).all()), ratio


def test_a_rejected_image_is_not_sure():
    features = true_features()
    blank = dataclasses.replace(features, hand_mask=torch.zeros_like(features.hand_mask))
    result = refine(true_pose(), blank, load_config("default", ["stages.render.rounds=1"]), hand_model=hand_model())
    assert result.sigma is not None and bool(result.sigma.joints.isinf().all())
