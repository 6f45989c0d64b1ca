"""What every file of this package needs: the papers' units, and a mean distance in millimetres."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

__all__ = ["CUBIC_CENTIMETRES", "MILLIMETRES", "as_numpy", "finite", "mean_distance"]

MILLIMETRES = 1e3
CUBIC_CENTIMETRES = 1e6


def mean_distance(predicted: Tensor, true: Tensor, mask: Tensor | None) -> Tensor:
    distance = (predicted - true).norm(dim=-1) * MILLIMETRES
    return distance.mean(-1) if mask is None else (distance * mask).sum(-1) / mask.sum(-1)


def as_numpy(values: Tensor) -> np.ndarray:
    return values.detach().cpu().double().numpy()


def finite(*values: Tensor) -> Bool[Tensor, "B"]:
    """Which items of a batch are finite in every one of ``values``; the others are failures, and their errors NaN."""
    return torch.stack([torch.isfinite(v.flatten(1)).all(1) for v in values]).all(0)
