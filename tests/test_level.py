"""The level of a blurred field that covers the network's own mask."""

from __future__ import annotations

import pytest
import torch

from horefine.extractors.level import Outline, best_level

MATRIX = torch.tensor([[130.0, 0, 31.5], [0, 130, 31.5], [0, 0, 1]])
CENTER = torch.tensor([0.02, -0.01, 0.5])


def outline(radius: float, hand: slice | None = None) -> Outline:
    """A ball of that radius at CENTER, as a camera sees it; the hand in front of some columns."""
    steps = torch.arange(64.0)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    rays = torch.stack([(x - 31.5) / 130, (y - 31.5) / 130, torch.ones_like(x)], -1)
    rays = rays / rays.norm(dim=-1, keepdim=True)
    away = torch.linalg.cross(rays, CENTER.expand_as(rays)).norm(dim=-1)
    mask, front = (away < radius).float(), torch.zeros(64, 64)
    if hand is not None:
        front[:, hand] = 1
        mask[:, hand] = 0
    return Outline(mask, front, MATRIX)


def ball(radius: float):
    return lambda points: (points - CENTER).norm(dim=-1) - radius


def level(field, seen: Outline) -> float:
    return best_level(field, CENTER - 0.16, CENTER + 0.16, seen)


def test_a_field_that_is_right_keeps_its_zero_level():
    assert level(ball(0.05), outline(0.05)) == 0


@pytest.mark.parametrize("shrunk", [0.006, 0.009])
def test_a_shrunken_field_is_taken_further_out(shrunk):
    assert level(ball(0.05 - shrunk), outline(0.05)) == pytest.approx(shrunk, abs=0.0031)


def test_what_the_hand_hides_says_nothing():
    assert level(ball(0.05), outline(0.05, slice(36, 64))) == 0


def test_no_object_in_the_mask_leaves_the_field_alone():
    assert level(ball(0.05), Outline(torch.zeros(64, 64), torch.zeros(64, 64), MATRIX)) == 0


def test_a_wall_that_never_says_inside_is_found():
    """A plate 4 mm thick, the field 4 mm too large everywhere: no zero level at all."""

    def plate(points):
        return (points[:, 2] - CENTER[2]).abs() - 0.002 + 0.004 + 0 * points[:, 0]

    def disc(points):
        return torch.maximum(plate(points), (points[:, :2] - CENTER[:2]).norm(dim=-1) - 0.05)

    seen = outline(0.05)
    assert (disc(torch.rand(4000, 3) * 0.2 + CENTER - 0.1) > 0).all()
    assert level(disc, seen) >= 0.004
