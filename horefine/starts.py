"""How many beginnings an image gets, and where they lie.

A further start lies ``starts.rotation`` and ``starts.translation`` from the pose as given. With ``count: auto`` an
image whose pose is expected within one such step of the truth gets one start, and one more for each further step that
the least sure of its numbers may be off. What the recipe's ``align`` places anew does not count: nothing is left of it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.config import Align, Starts
from horefine.scene import PoseSpread

__all__ = ["directions", "needed"]


def needed(spread: Float[Tensor, "B 5"] | None, options: Starts, align: Align, batch: int) -> list[int]:
    """Starts of each of ``batch`` images, 1 to ``options.most``.

    Args:
        spread: ``Features.pose_spread``; without it every image gets the most, unless ``align`` places both anew.
    """
    left = ["hand"] * (align.hand == "given") + ["object"] * (align.object == "given")
    if not left:
        return [1] * batch
    if spread is None:
        return [options.most] * batch
    found = PoseSpread.of(spread)
    turns = {"hand": found.hand_rotation, "object": found.object_rotation}
    ways = {"hand": torch.maximum(found.wrist_depth, found.wrist_across), "object": found.object_center}
    steps = [(turns, options.rotation), (ways, options.translation)]
    ratios = [table[part] / size for table, size in steps if size > 0 for part in left]
    if not ratios:  # further starts would be where the first is
        return [1] * batch
    counts = torch.stack(ratios).amax(0).nan_to_num(posinf=1e6, nan=1e6).clamp(max=1e6).ceil()
    return counts.clamp(1, options.most).int().tolist()


def directions(count: int, seed: int) -> Float[Tensor, "count 4 3"]:
    """Unit steps of ``count`` starts: hand and object moved, hand and object turned; the first start is not.

    Equal numbers and seeds give equal steps, whoever decided over the number.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 4, 3, generator=generator)
    noise = noise / noise.norm(dim=-1, keepdim=True)
    noise[0] = 0
    return noise
