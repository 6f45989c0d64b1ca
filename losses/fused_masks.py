"""Losses on rendered silhouettes, fused (:mod:`horefine.fused`): they pull on the coverage of pixels.

Readable twins: ``robust.silhouette`` and ``image.segmentation``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from torch import Tensor

from horefine.fused import Posed, Pull
from horefine.losses.fused_lists import single
from horefine.scene import Scene

__all__ = ["FusedMasks", "segmentation_maker", "silhouette_maker"]

_jit = njit(cache=True, nogil=True, error_model="numpy", fastmath={"nsz", "arcp", "contract", "reassoc"})
TWO = np.float32(2)


@_jit
def _pull_masks(first, last, masks, target, scale, values, pull):
    """Adds ``sum scale (mask - target)^2`` and its gradient for images ``first`` to ``last - 1``."""
    for b in range(first, last):
        drawn, wanted, share, slope = masks[b].ravel(), target[b].ravel(), scale[b].ravel(), pull[b].ravel()
        total = 0.0
        for n in range(drawn.shape[0]):
            gap = drawn[n] - wanted[n]
            half = share[n] * gap
            total += half * gap
            slope[n] += TWO * half
        values[b] += total


@dataclass(frozen=True)
class FusedMasks:
    """Squares of what the coverage of pixels is off by."""

    target: Float[np.ndarray, "B 2 H W"]
    scale: Float[np.ndarray, "B 2 H W"]
    """What the squares are multiplied with."""
    wants: frozenset[str] = frozenset({"mask"})

    def add(self, posed: Posed, pull: Pull, values: Float[np.ndarray, "B"], first: int, last: int) -> None:
        """See :class:`horefine.fused.FusedLoss`."""
        _pull_masks(first, last, posed.masks, self.target, self.scale, values, pull.masks)


def silhouette_maker(
    scene: Scene, weight: float, *, hand_mask: Tensor, object_mask: Tensor, sigma: float, other: float, **_: Any
) -> FusedMasks:
    """Maker of ``silhouette``."""
    masks = torch.stack([hand_mask, object_mask], 1)
    keep = (masks.flip(1) <= other).to(masks.dtype)
    return FusedMasks(single(masks), single(keep * (weight / sigma**2)))


def segmentation_maker(
    scene: Scene, weight: float, *, hand_mask: Tensor, object_mask: Tensor, reduction: str, **_: Any
) -> FusedMasks | None:
    """Maker of ``segmentation``."""
    if reduction not in ("sum", "mean"):
        return None
    masks = torch.stack([hand_mask, object_mask], 1)
    share = weight if reduction == "sum" else weight / hand_mask[0].numel()
    return FusedMasks(single(masks), single((1 - masks.flip(1)).square() * share))
