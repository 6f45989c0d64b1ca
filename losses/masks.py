"""Which pixels a thing is seen in: the one rule that losses and the way in share."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["visible"]


def visible(hand_mask: Float[Tensor, "B H W"], object_mask: Float[Tensor, "B H W"]) -> Float[Tensor, "B 2 H W"]:
    """1 where a pixel shows more hand (0) or object (1) than anything else."""
    masks = torch.stack([hand_mask, object_mask], 1)
    return ((masks > 0.5) & (masks >= masks.flip(1))).to(masks.dtype)
