"""Depth as a sensor sees it: the data's own, or made of exact maps while training (``data.sensor`` makes whole ones).

Maps hold the depth of hand and object alone; what lies behind them is made up: nothing, or a wall or table at some
distance, often near enough to confuse.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.data.sensor import BASELINE
from horefine.extractors.batches import Batch

__all__ = ["sensed"]


def sensed(batch: Batch, generator: torch.Generator) -> Float[Tensor, "B M M"]:
    """Depth maps, metres along the camera's z; 0 where nothing was seen: those of the data's depth camera, made up for
    scenes that have none.

    Made-up ones have the step of a stereo camera's disparities and its noise, holes beside edges and at specks, a
    background; in one of ten images an offset of all depths of a centimetre, as sensors have.
    """
    made = _made(batch, generator)
    if batch.sensed is None:
        return made
    known = (batch.sensed > 0).flatten(1).any(1)
    return torch.where(known[:, None, None], batch.sensed, made)


def _made(batch: Batch, generator: torch.Generator) -> Float[Tensor, "B M M"]:
    maps, like = batch.maps, batch.image

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(like)

    count, side = maps["depth"].shape[:2]
    covered = (maps["hand_mask"] > 0.5) | (maps["object_mask"] > 0.5)
    depth = maps["depth"] + batch.object_center[:, 2, None, None]
    steps = torch.linspace(-1, 1, side).to(like)
    slope = 0.3 * (2 * uniform(count, 2) - 1)
    wall = depth.new_tensor(0.06) + 0.9 * uniform(count) ** 2
    tilt = slope[:, :1, None] * steps[None, :, None] + slope[:, 1:, None] * steps[None, None]
    behind = (batch.object_center[:, 2] + wall)[:, None, None] + 0.3 * tilt
    nothing = (uniform(count) < 0.2)[:, None, None]
    depth = torch.where(covered, depth, torch.where(nothing, 0.0, behind))
    # a map's pixel stands for several of the photograph, of which the sensor's is one
    focal = batch.matrix[:, 0, 0, None, None] * (4 * 2 ** (uniform(count, 1, 1) - 0.5))
    seen = depth > 0
    disparity = focal * BASELINE / depth.clamp(min=0.05)
    disparity = disparity + 0.06 * torch.randn(depth.shape, generator=generator).to(like)
    depth = focal * BASELINE / ((disparity * 8).round() / 8).clamp(min=0.125)
    depth = depth + ((uniform(count) < 0.1) * 0.01 * (2 * uniform(count) - 1))[:, None, None]
    padded = torch.nn.functional.pad(depth[:, None], (1, 1, 1, 1), mode="replicate")
    spread = torch.nn.functional.max_pool2d(padded, 3, 1) + torch.nn.functional.max_pool2d(-padded, 3, 1)
    holes = (spread[:, 0] > 0.02) & (uniform(*depth.shape) < 0.6 * uniform(count, 1, 1))
    specks = torch.nn.functional.interpolate((uniform(count, 1, side // 2, side // 2) < 0.01).float(), (side, side))
    return torch.where(seen & ~holes & (specks[:, 0] == 0), depth, 0.0)
