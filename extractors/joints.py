"""Heat maps of the 21 hand joints: they guide the hand's dense map."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.extractors.heads import Head

__all__ = ["JOINTS", "heat_maps"]

SIGMA = 1.5
"""Pixels of a 64x64 map: a Gaussian that has faded at Song et al.'s radius of 3 pixels."""


def heat_maps(pixels: Float[Tensor, "B J 2"], size: tuple[int, int], sigma: float = SIGMA) -> Float[Tensor, "B J H W"]:
    """A Gaussian of peak 1 about each joint; nothing for joints outside the map or not finite."""
    ys = torch.arange(size[0], device=pixels.device, dtype=pixels.dtype)
    xs = torch.arange(size[1], device=pixels.device, dtype=pixels.dtype)
    row = torch.exp(-((xs - pixels[..., :1]) ** 2) / (2 * sigma**2))
    column = torch.exp(-((ys - pixels[..., 1:]) ** 2) / (2 * sigma**2))
    return torch.nan_to_num(column[..., :, None] * row[..., None, :])


def _loss(raw: Tensor, maps: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropy of each pixel, in joints' worths of pixels. A squared error has next to no slope on a cold map."""
    share = maps["joints"][0, 0].numel() / (4 * SIGMA**2 * torch.pi)
    return torch.nn.functional.binary_cross_entropy_with_logits(raw, maps["joints"]) * share


def _fields(prediction: Tensor, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    del prediction, maps
    return {}


JOINTS = Head(21, ("segmentation",), torch.sigmoid, _loss, _fields)
