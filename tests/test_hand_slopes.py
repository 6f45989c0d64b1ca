"""Hands in plain arrays: posed as the hand model poses them, and pulled back as autograd and differences say."""

import numpy as np
import pytest
import torch
from loss_scenes import hand_model

from horefine.fused import Posed, Pull
from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from horefine.hand import load_hand
from horefine.hand_slopes import HandPoser, hand_lists

BATCH = 3
MODELS = {"embedded": load_hand(kind="embedded"), "synthetic": hand_model()}


def numbers(scale=0.6, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(BATCH, *shape, generator=generator)

    rotvec = normal(16, 3) * scale
    rotvec[1] *= 0  # exactly flat: the formulas' other branch
    return rotvec, normal(10), normal(3) * 0.2 + torch.tensor([0.0, 0.0, 0.6])


def pulls(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    vertices = torch.randn(BATCH, len(model.template), 3, generator=generator)
    return vertices, torch.randn(BATCH, 21, 3, generator=generator) * 10


def posed_hand(model, rotvec, shape, transl):
    batch, count = len(rotvec), len(model.template)
    posed, poser = Posed.empty(batch, count, 1, (2, 2)), HandPoser.of(model, batch)
    posed.rotvec[:], posed.shape[:], posed.transl[:] = rotvec.numpy(), shape.numpy(), transl.numpy()
    poser.pose(posed, 0, batch)
    return posed, poser


def pulled(model, posed, poser, vertices, joints):
    pull = Pull.zeros(len(vertices), len(model.template), (2, 2))
    pull.hand[:], pull.joints[:] = vertices.numpy(), joints.numpy()
    poser.pull(posed, pull, 0, len(vertices))
    return pull


def turned_right(rotvec, step):
    """``R exp(step)`` of every joint."""
    return matrix_to_axis_angle(axis_angle_to_matrix(rotvec) @ axis_angle_to_matrix(step))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scale", [0.6, 2.5])
def test_poses_as_the_hand_model(name, scale):
    model, given = MODELS[name], numbers(scale)
    posed, _ = posed_hand(model, *given)
    hand = model.to(dtype=torch.float64)(*(value.double() for value in given))
    assert np.abs(posed.hand - hand.vertices.numpy()).max() < 3e-7
    assert np.abs(posed.joints - hand.joints.numpy()).max() < 1e-7
    assert np.abs(posed.turns - axis_angle_to_matrix(given[0].double()).numpy()).max() < 1e-7


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scale", [0.6, 2.5])
def test_pulls_as_autograd_of_the_hand_model(name, scale):
    model, (rotvec, shape, transl) = MODELS[name], numbers(scale)
    vertices, joints = pulls(model)
    pull = pulled(model, *posed_hand(model, rotvec, shape, transl), vertices, joints)
    step = torch.zeros(BATCH, 16, 3, dtype=torch.float64)
    leaves = [value.requires_grad_() for value in (step, shape.double(), transl.double())]
    hand = model.to(dtype=torch.float64)(turned_right(rotvec.double(), leaves[0]), *leaves[1:])
    total = (hand.vertices * vertices).sum() + (hand.joints * joints).sum()
    for own, theirs in zip((pull.turns, pull.shape, pull.transl), torch.autograd.grad(total, leaves), strict=True):
        assert np.abs(own - theirs.numpy()).max() < 1e-6 * theirs.abs().max()


def test_pulls_as_differences_say():
    model, (rotvec, shape, transl) = MODELS["embedded"], numbers()
    vertices, joints = pulls(model)
    pull = pulled(model, *posed_hand(model, rotvec, shape, transl), vertices, joints)
    double, size = model.to(dtype=torch.float64), 1e-6

    def value(turn, wider):
        hand = double(turned_right(rotvec.double(), turn), shape.double() + wider, transl.double())
        return (hand.vertices * vertices).sum((1, 2)) + (hand.joints * joints).sum((1, 2))

    still, none = torch.zeros(BATCH, 16, 3, dtype=torch.float64), torch.zeros(BATCH, 10, dtype=torch.float64)
    for joint, axis in ((0, 0), (0, 2), (1, 1), (5, 0), (9, 2), (13, 0), (15, 1)):
        step = still.clone()
        step[:, joint, axis] = size
        slope = (value(step, none) - value(-step, none)) / (2 * size)
        assert np.abs(pull.turns[:, joint, axis] - slope.numpy()).max() < 2e-5, (joint, axis)
    for column in (0, 4, 9):
        step = none.clone()
        step[:, column] = size
        slope = (value(still, step) - value(still, -step)) / (2 * size)
        assert np.abs(pull.shape[:, column] - slope.numpy()).max() < 2e-6, column


def test_adds_to_what_is_there_and_takes_a_second_pull():
    model, given = MODELS["embedded"], numbers()
    vertices, joints = pulls(model)
    posed, poser = posed_hand(model, *given)
    once = pulled(model, posed, poser, vertices, joints)
    half = pulled(model, posed, poser, torch.zeros_like(vertices), joints)
    poser.pull(posed, once, 0, BATCH)
    alone = Pull.zeros(BATCH, len(model.template), (2, 2))
    poser.pull(posed, alone, 0, BATCH, vertices.numpy())
    for name in ("turns", "shape", "transl"):
        whole = getattr(half, name) + getattr(alone, name)
        assert np.allclose(getattr(once, name), 2 * whole, rtol=1e-4, atol=1e-4), name


def test_an_image_is_the_same_alone_bit_by_bit():
    model, given = MODELS["embedded"], numbers()
    vertices, joints = pulls(model)
    together = posed_hand(model, *given)
    alone = posed_hand(model, *(value[2:] for value in given))
    assert np.array_equal(together[0].hand[2], alone[0].hand[0])
    every, one = pulled(model, *together, vertices, joints), pulled(model, *alone, vertices[2:], joints[2:])
    assert np.array_equal(every.turns[2], one.turns[0]) and np.array_equal(every.shape[2], one.shape[0])


def test_lists_hold_every_weight_and_corrective():
    for model in MODELS.values():
        lists = hand_lists(model)
        weights = np.zeros((16, len(model.template)), np.float32)
        for bone in range(16):
            own = slice(lists.held[bone], lists.held[bone + 1])
            weights[bone, lists.vertex[own]] = lists.weight[own]
        assert np.array_equal(weights.T, model.weights.numpy())
        rows = np.zeros((15, 9, len(model.template), 3), np.float32)
        for joint in range(15):
            first, last = lists.corrected[joint], lists.corrected[joint + 1]
            part = lists.rows[27 * first : 27 * last].reshape(9, -1, 3)
            rows[joint][:, lists.of_vertex[first:last]] = part
        assert np.array_equal(rows.reshape(135, -1), model.basis[10:].numpy())
