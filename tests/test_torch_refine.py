"""The whole recipe without kernels (``optimizer: {fused: false}``) against the kernels, on held-out scenes."""

import dataclasses
import functools
import re

import pytest
import torch

from horefine import load_config, load_hand, refine
from horefine.data.maps import corrupt, disturb
from horefine.data.synthetic import benchmark_scenes
from horefine.errors import ConfigError
from horefine.refined import moved

SCENES = 3


@functools.lru_cache(maxsize=1)
def problem():
    """Truth, features and a start as in ``benchmarks.second_order``."""
    truth, features = benchmark_scenes(SCENES, 1000)
    start = disturb(truth, 1001, 15.0, 20.0, 10.0, model=load_hand(), object_center=features.object.center)
    return truth, features, start


def errors(pose, truth, features):
    """Mean distance of the vertices of hand and object, millimetres."""
    model = load_hand()
    hands = [model(p.hand_rotvec, p.hand_shape, p.hand_transl).vertices for p in (pose, truth)]
    things = [p.place(features.object.vertices) for p in (pose, truth)]
    return [(a - b).norm(dim=-1).mean(1) * 1e3 for a, b in (hands, things)]


def run(start, features, *overrides, fused=False):
    overrides = [f"optimizer.fused={str(fused).lower()}", *overrides]
    return refine(start, features, load_config("default", overrides), hand_model=load_hand())


@pytest.mark.parametrize("level", ["exact", "n02"])
def test_the_recipe_ends_where_the_kernels_end(level):
    truth, features, start = problem()
    seen = corrupt(features, level, 1002)
    mine, twin = (run(start, seen, fused=fused) for fused in (False, True))
    for own, other in zip(errors(mine.pose, truth, seen), errors(twin.pose, truth, seen), strict=True):
        assert own.median() < (0.3 if level == "exact" else 5.0)
        assert abs(own.median() - other.median()) < 0.05 and (own - other).abs().max() < 0.2
    assert mine.status == twin.status == ("improved",) * SCENES
    assert mine.history.keys() == twin.history.keys()
    assert torch.allclose(mine.history["total"][0], twin.history["total"][0], rtol=1e-3)
    for field in dataclasses.fields(twin.sigma):
        own, other = (getattr(found.sigma, field.name) for found in (mine, twin))
        assert (own is None) == (other is None)
        assert own is None or torch.allclose(own, other, rtol=0.05), field.name


def test_an_image_is_not_changed_by_its_neighbours():
    _, features, start = problem()
    seen = corrupt(features, "n02", 1002)
    together, alone = run(start, seen), run(start[slice(1, 2)], seen[slice(1, 2)])
    for name, value in alone.pose.items():
        assert torch.allclose(value[0], getattr(together.pose, name)[1], atol=2e-3), name
    assert together.status[1] == alone.status[0]


def test_other_losses_and_variables_too():
    """Outlines, a loss without squares, the focal length; and several starts."""
    _, features, start = problem()
    overrides = ("losses.silhouette=0.5", "losses.anatomy=0.1", "variables.focal=0.02", "starts.count=2")
    stages = {"render": {"steps": 4, "losses": ["rendered_code", "silhouette", "anatomy", "pose_prior"]}}
    config = {"base": "default", "optimizer": {"fused": False}, "stages": stages}
    found = refine(start[slice(0, 2)], features[slice(0, 2)], load_config(config, overrides), hand_model=load_hand())
    assert found.status == ("improved",) * 2
    assert (found.pose.focal_factor != 1).all() and found.pose.focal_factor.sub(1).abs().max() < 0.1
    assert {"silhouette", "anatomy", "focal_prior"} <= found.history.keys()


def test_a_result_moves_as_a_whole():
    """Its sigmas, too: on a GPU they are where it was found."""
    _, features, start = problem()
    config = {"base": "default", "stages": {"correspond": {"steps": 1}, "settle": {"steps": 1}}}
    found = refine(start[0], features[slice(0, 1)], load_config(config), hand_model=load_hand())
    away = moved(found, torch.device("meta"))
    assert away.sigma is not None and away.sigma.joints.device.type == away.pose.hand_transl.device.type == "meta"


def test_the_key_is_a_truth_value():
    assert load_config("default").optimizer.fused
    with pytest.raises(ConfigError, match=re.escape("optimizer.fused: 'perhaps'")):
        load_config("default", ["optimizer.fused=perhaps"])
