"""Scenes posed and moved by kernels against torch."""

import dataclasses

import torch
from loss_scenes import DOUBLE, make_scene, true_features, true_pose

from horefine.posing import moved, posed
from horefine.tangent import CHARTS


def test_a_posed_scene_is_what_torch_poses():
    mine, twin = posed(make_scene(true_pose(), true_features())), make_scene(true_pose(), true_features())
    assert "hand" in mine.__dict__ and "hand" not in twin.__dict__
    for name in ("vertices", "joints", "transforms"):
        assert torch.allclose(getattr(mine.hand, name), getattr(twin.hand, name), atol=2e-6), name
    for name in ("object", "object_center", "object_rotation"):
        assert torch.allclose(getattr(mine, name), getattr(twin, name), atol=1e-6), name


def test_a_step_moves_as_the_chart_says():
    scene = make_scene(true_pose(), true_features())
    step = torch.randn(3, 67, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) * 0.05
    mine, twin = moved(scene, step), CHARTS["tangent"].move(scene, step.float())
    for name, value in mine.items():
        assert torch.allclose(value, getattr(twin, name), atol=2e-6), name
    assert torch.equal(scene.pose.hand_rotvec, true_pose().hand_rotvec), "the pose that was left stays"


def test_what_the_kernels_do_not_know_is_left_to_torch():
    one = torch.ones(3)
    for pose in (true_pose().to(dtype=DOUBLE), dataclasses.replace(true_pose(), focal_factor=one)):
        scene = make_scene(pose, true_features())
        assert "hand" not in posed(scene).__dict__
    step = torch.zeros(3, 68, dtype=DOUBLE)
    step[:, 67] = 0.1
    found = moved(make_scene(pose, true_features()), step, ("focal",))
    assert torch.allclose(found.focal_factor, one * torch.tensor(0.1).exp())
