"""The contact network: which object points touch the hand, with which region, and how far its anchors are.

After CPF's PiCR (Yang et al. 2021): features of each point, a maximum over all of them for context, one small
perceptron for every point. PiCR gives a region's elasticities as four numbers whose meaning changes with the region;
here each point says how far it is from each of the 32 anchors, a correction of what the posed hand has it, and the
elasticity follows (``contact_truth.elasticity``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from horefine.contact_truth import NO_ANCHOR, NO_REGION, elasticity, region_anchors
from horefine.extractors.contact_inputs import HAND_CHANNELS, POINT_CHANNELS, HandInputs, PointInputs
from horefine.extractors.layers import MLP
from horefine.hand import HandModel
from horefine.scene import Contact

__all__ = ["COMPACT", "ContactConfig", "ContactNet", "Touch", "contact_of"]

NEAR = 0.02
"""Metres from the palmar side within which a point touches (``contact_truth.contact_from_pose``)."""


@dataclass(frozen=True)
class ContactConfig:
    """Sizes of the network; written into its weight files."""

    width: int = 96
    """Of what is known of a point by itself."""
    hidden: int = 128
    hand_width: int = 48
    points: int = 256
    """Points on each object over which the context is taken."""


COMPACT = ContactConfig()


@dataclass(frozen=True)
class Touch:
    """What the network says of N object points."""

    contact: Float[Tensor, "B N"]
    """Logit of being within 2 cm of the palmar side."""
    region: Float[Tensor, "B N 17"]
    """Logits."""
    anchors: Float[Tensor, "B N 32"]
    """Distance to each anchor, metres."""


class ContactNet(nn.Module):
    """Inputs of object points and hand vertices -> :class:`Touch`."""

    def __init__(self, config: ContactConfig = COMPACT) -> None:
        super().__init__()
        self.config = config
        width, hidden, hand = config.width, config.hidden, config.hand_width
        self.point = MLP(POINT_CHANNELS, width, width, final_relu=True)
        self.hand = MLP(HAND_CHANNELS, hand, hand, final_relu=True)
        self.context = nn.Linear(2 * width + 2 * hand, hidden)
        self.local = nn.Linear(width + hand, hidden)
        self.trunk = MLP(hidden, hidden, 1 + NO_REGION + NO_ANCHOR)
        self.trunk.start(0.01)
        self.nearness = nn.Parameter(torch.tensor([1.0, 1.0]))
        """How far the posed hand is believed at first: contact, region."""

    def forward(self, points: PointInputs, hand: HandInputs, context: PointInputs | None = None) -> Touch:
        """``context``: points spread evenly over the surface (default: ``points``)."""
        own = self.point(points.values)
        around = own if context is None else self.point(context.values)
        skin = self.hand(hand.values)
        whole = torch.cat([around.amax(1), around.mean(1), skin.amax(1), skin.mean(1)], -1)
        member = nn.functional.one_hot(hand.region, NO_REGION).to(skin.dtype)
        of_region = (member / member.sum(0).clamp(min=1)).T @ skin
        nearest = points.regions.argmin(-1, keepdim=True).expand(-1, -1, skin.shape[-1])
        local = torch.cat([own, of_region.gather(1, nearest)], -1)
        x = torch.relu(self.local(local) + self.context(whole)[:, None])
        contact, region, anchors = self.trunk(x).split([1, NO_REGION, NO_ANCHOR], -1)
        closeness = (NEAR - points.regions).clamp(-0.06, 0.06) / 0.01
        return Touch(
            contact[..., 0] + self.nearness[0] * closeness.amax(-1),
            region + self.nearness[1] * closeness,
            # bent towards zero near it, so that no distance is negative and no gradient dies
            nn.functional.softplus((points.anchors + 0.02 * anchors) / 0.002) * 0.002,
        )


def contact_of(
    touch: Touch, hand_model: HandModel, valid: Bool[Tensor, "B N"], *, least: float = 0.1, reach: float = 0.045,
    firm: float = 0.1,
) -> Contact:  # fmt: skip
    """As the losses want it. Points that touch with a probability below ``least``, and padding, have no region.

    Args:
        touch: The network's answer.
        hand_model: Gives the anchors of each region.
        valid: False for padding, whose probability is 0.
        least: Probability.
        reach, firm: As in ``contact_truth.contact_from_pose``.
    """
    probability = torch.sigmoid(touch.contact) * valid
    region = torch.where(probability >= least, touch.region.argmax(-1), NO_REGION)
    chosen = region_anchors(hand_model)[region]
    distance = touch.anchors.gather(2, chosen.clamp(max=NO_ANCHOR - 1))
    spring = elasticity(distance, reach).clamp(min=firm) * (chosen != NO_ANCHOR)
    return Contact(probability, region, spring)
