"""How far off a pose of the compact HOISDF is to be expected: from its own votes, with constants of held-out scenes.

What the network says by the way was compared with its errors. Where the hand's points and its last two layers disagree
over the joints, the wrist is turned wrongly. Of distances only the distance itself tells, whose share they are; of the
object's rotation nothing does (its tokens and layers agree alike where it is right and wrong): that is a constant.

``python -m benchmarks.trained`` prints for each the ratio of the mean error to the mean spread (``*_spread_ratio``):
times it, a constant is right for those weights; and Spearman's rank correlation (``*_spread_rank``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.extractors.hoisdf import Prediction
from horefine.extractors.root import KnownWrist
from horefine.scene import PoseSpread

__all__ = ["SHIPPED", "Constants", "disagreement", "spread_of"]


@dataclass(frozen=True)
class Constants:
    """What turns signals into expected errors."""

    hand_rotation: float
    """Radians for each metre of :func:`disagreement`."""
    wrist_depth: float
    """Share of the wrist's distance."""
    wrist_across: float
    """Metres."""
    object_rotation: float
    """Radians."""
    object_center: float
    """Share of the wrist's distance."""


SHIPPED = Constants(hand_rotation=16.5, wrist_depth=0.085, wrist_across=0.014, object_rotation=2.0, object_center=0.087)
"""Of the weights that come with horefine."""


def disagreement(found: Prediction) -> Float[Tensor, "B"]:
    """How far apart the hand's votes are, and how far the last layer still moved the joints, metres.

    The deviation of a joint's votes from their weighted mean, and twice the way of the voted joint from the layer
    before; means over the joints.
    """
    votes, joints = found.votes[-1], found.joints[-1]
    share = found.vote_logits[-1].softmax(1)
    deviation = (share * (votes - joints[:, None]).square().sum(-1)).sum(1).sqrt().mean(1)
    before = found.joints[-2] if len(found.joints) > 1 else joints
    return deviation + 2 * (joints - before).norm(dim=-1).mean(1)


def spread_of(
    found: Prediction, wrist: Float[Tensor, "B 3"], known: KnownWrist | None = None, constants: Constants = SHIPPED
) -> PoseSpread:
    """Mean errors to expect of B poses.

    Args:
        wrist: where it was found, metres.
        known: what a user said of it; that is not off.
    """
    distance = wrist.norm(dim=-1)
    one = torch.ones_like(distance)
    depth, across = constants.wrist_depth * distance, constants.wrist_across * one
    if known is not None:
        depth = depth.masked_fill(known.place[:, 2].isfinite(), 0.0)
        across = across.masked_fill(known.place.isfinite().all(1) | known.grid.isfinite().all(1), 0.0)
    return PoseSpread(
        constants.hand_rotation * disagreement(found), depth, across, constants.object_rotation * one,
        constants.object_center * distance,
    )  # fmt: skip
