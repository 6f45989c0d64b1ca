"""Segmentation of the visible hand and object: background, hand, object."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from horefine.extractors.heads import Head

__all__ = ["SEGMENTATION", "soft_labels"]


def soft_labels(maps: Mapping[str, Tensor]) -> Tensor:
    """Shares of background, hand and object in each pixel, "B 3 H W"; they sum to one."""
    hand, other = maps["hand_mask"], maps["object_mask"]
    total = (hand + other).clamp(min=1)
    hand, other = hand / total, other / total
    return torch.stack([(1 - hand - other).clamp(min=0), hand, other], 1)


def _loss(raw: Tensor, maps: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropy with soft labels (Song et al. 2022, section 4.3)."""
    return torch.nn.functional.cross_entropy(raw, soft_labels(maps))


def _fields(prediction: Tensor, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    del maps
    return {"hand_mask": prediction[:, 1], "object_mask": prediction[:, 2]}


SEGMENTATION = Head(3, (), lambda raw: raw.softmax(1), _loss, _fields)
