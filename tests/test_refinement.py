"""The loop: it finds the truth, keeps the best, never mixes images, says what it did, refuses what does not fit."""

import dataclasses

import pytest
import torch
from loss_scenes import hand_model, true_features, true_pose

from horefine import Pose, load_config, refine
from horefine.data.maps import disturb
from horefine.errors import ConfigError, InputError
from horefine.scene import MAPS

SHORT = {"stages.correspond.steps": 60, "stages.render.steps": 90}


def recipe(name="adam", **changes):
    return load_config(name, [f"{key}={value}" for key, value in changes.items()])


def short(**changes):
    return recipe(**(SHORT | changes))


def start(degrees=8.0, millimetres=10.0):
    center = true_features().object.center
    return disturb(true_pose(), 3, degrees, millimetres, 5.0, model=hand_model(), object_center=center)


def run(pose=None, features=None, config=None, **options):
    pose = start() if pose is None else pose
    features = true_features() if features is None else features
    return refine(pose, features, config or short(), hand_model=hand_model(), renderer="cpu", **options)


def hand_error(pose, truth):
    model = hand_model()
    hands = [model(p.hand_rotvec, p.hand_shape, p.hand_transl).vertices for p in (pose, truth)]
    return (hands[0] - hands[1]).norm(dim=-1).mean(1) * 1e3


@pytest.fixture(scope="module")
def refined():
    return run()


def test_finds_the_truth_from_a_disturbed_start(refined):
    before, after = hand_error(start(), true_pose()), hand_error(refined.pose, true_pose())
    assert (before > 8).all() and (after < 6).all() and (after < before / 2).all()
    assert (refined.pose.object_transl - true_pose().object_transl).norm(dim=1).max() < 5e-3
    assert refined.status == ("improved",) * 3 and "fell from" in refined.reason[0]


def test_history_has_every_loss_and_every_step(refined):
    steps = sum(SHORT.values())
    assert {"total", "rendered_code", "surface_depth", "pose_prior"} <= set(refined.history)
    for name, values in refined.history.items():
        assert values.shape == (steps, 3), name
    first = refined.history["rendered_code"][: SHORT["stages.correspond.steps"]]
    assert first.isnan().all(), "not used in the first stage"
    losses = [v for n, v in refined.history.items() if n != "total"]
    assert torch.allclose(torch.stack(losses).nansum(0), refined.history["total"], rtol=1e-4)
    assert ((0 <= refined.best_step) & (refined.best_step < steps)).all()


def test_an_image_does_not_depend_on_its_neighbours(refined):
    alone = run(start()[1], true_features()[slice(1, 2)])
    assert torch.allclose(alone.pose.hand_transl[0], refined.pose.hand_transl[1], atol=2e-4)
    assert torch.allclose(alone.pose.object_rotvec[0], refined.pose.object_rotvec[1], atol=5e-3)


def test_two_runs_give_the_same_numbers(refined):
    again = run()
    for name, value in refined.pose.items():
        assert torch.equal(value, getattr(again.pose, name)), name


def test_never_worse_than_the_start_and_the_truth_stays():
    found = run(true_pose(), config=short(**{"optimizer.rates": "{wrist: 0.5, object_transl: 0.1}"}))
    assert found.status == ("unchanged",) * 3
    for name, value in true_pose().items():
        assert torch.equal(value, getattr(found.pose, name)), name


def test_unused_blocks_stand_still():
    found = run(config=short(**{"optimizer.rates": "{object_transl: 0.006, object_depth: 0.01}"}))
    assert torch.equal(found.pose.hand_rotvec, start().hand_rotvec) or torch.allclose(
        found.pose.hand_rotvec, start().hand_rotvec, atol=1e-5
    )
    assert torch.equal(found.pose.hand_shape, start().hand_shape)
    assert not torch.allclose(found.pose.object_transl, start().object_transl, atol=1e-3)


def test_several_starts_reach_what_one_does_not():
    lost = disturb(true_pose(), 8, 120.0, 10.0, 5.0, model=hand_model(), object_center=true_features().object.center)
    one = run(lost)
    many = run(lost, config=short(**{"starts.count": 6, "starts.rotation": 2.0}))
    assert len(many.pose) == 3 and many.history["total"].shape[1] == 3
    assert hand_error(many.pose, true_pose()).mean() < 0.7 * hand_error(one.pose, true_pose()).mean()


def test_the_papers_recipe_works_too():
    found = run(config=recipe("song2022", **{"stages.refine.steps": 150}))
    assert (hand_error(found.pose, true_pose()) < hand_error(start(), true_pose()) * 0.8).all()


def test_runs_without_optional_features_and_without_depth():
    bare = dataclasses.replace(true_features(), contact=None, hand_sdf=None, object_sdf=None)
    assert run(features=bare).status == ("improved",) * 3
    with pytest.raises(ConfigError, match=r"loss 'surface_depth' needs features.depth.*losses.surface_depth to 0"):
        run(features=dataclasses.replace(bare, depth=None))
    off = short(**{"losses.surface_depth": 0, "losses.rendered_depth": 0})
    assert run(features=dataclasses.replace(bare, depth=None), config=off).status == ("improved",) * 3


def test_gradients_are_off_outside_and_may_be_off_around():
    with torch.no_grad():
        found = run(config=short(**{"stages.correspond.steps": 5, "stages.render.steps": 5}))
    assert not any(value.requires_grad for _, value in found.pose.items())


def test_refuses_what_does_not_fit():
    pose, features = start(), true_features()
    with pytest.raises(InputError, match="pose has 2 images, features 3"):
        run(pose[slice(0, 2)])
    broken = features.hand_coords.clone()
    broken[1, 0, 3, 3] = torch.nan
    with pytest.raises(InputError, match=r"features.hand_coords has NaN .*image 1"):
        run(features=dataclasses.replace(features, hand_coords=broken))
    names = MAPS
    small = dataclasses.replace(features, **{n: getattr(features, n)[..., ::2, ::2] for n in names})
    with pytest.raises(InputError, match=r"features.hand_mask has shape \(3, 24, 24\)"):
        run(features=small)
    holed = features.image.clone()
    holed[2, 1, 0, 0] = torch.inf
    with pytest.raises(InputError, match=r"features.image has NaN or infinite values \(image 2\)"):
        run(features=dataclasses.replace(features, image=holed))
    bad = Pose(**{**dict(pose.items()), "object_transl": pose.object_transl * torch.inf})
    with pytest.raises(InputError, match=r"pose.object_transl has NaN or infinite"):
        run(bad)


def test_one_hopeless_image_does_not_spoil_the_others(refined):
    """An empty hand mask: nothing to hold that image's hand; its neighbours end where they would have."""
    features = true_features()
    mask = features.hand_mask.clone()
    mask[0] = 0
    found = run(features=dataclasses.replace(features, hand_mask=mask))
    assert torch.isfinite(found.pose.hand_transl).all()
    assert found.status[0] == "rejected" and "no hand" in found.reason[0]
    assert torch.equal(found.pose.hand_transl[0], start().hand_transl[0])
    assert torch.allclose(found.pose.object_transl[1:], refined.pose.object_transl[1:], atol=1e-3)
