"""What a map feature is to the feature network: its channels, its guides, its activation and its training loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Head", "masked_mean", "spread_loss"]


@dataclass(frozen=True)
class Head:
    """One feature of Song et al. 2022, figure 5."""

    channels: int
    guides: tuple[str, ...]
    """Names of the heads whose maps are concatenated to this head's input."""
    activation: Callable[[Tensor], Tensor]
    """Raw "B C H W" to the map."""
    loss: Callable[[Tensor, Mapping[str, Tensor]], Tensor]
    """(raw "B C H W", targets) -> a number. Targets: see ``batches.Batch.maps``."""
    fields: Callable[[Tensor, Mapping[str, Tensor]], dict[str, Tensor]]
    """(map, the other maps) -> fields of ``horefine.Features``."""


def masked_mean(error: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``error`` "B C H W" over the pixels of ``mask`` "B H W"; 0 when there is none."""
    weight = mask[:, None].to(error.dtype)
    return (error * weight).sum() / (weight.sum() * error.shape[1]).clamp(min=1)


def spread_loss(log_spread: Tensor, error: Tensor, mask: Tensor) -> Tensor:
    """Negative log likelihood of errors as a Laplace distribution's: least where the spread is the mean error.

    Args:
        log_spread: "B 1 H W", logarithm of the expected absolute error.
        error: "B C H W", absolute; its mean over C counts. Not to be changed by this loss: it is detached.
        mask: "B H W", the pixels that count.
    """
    expected = error.detach().mean(1, keepdim=True)
    return masked_mean(expected * (-log_spread).exp() + log_spread, mask)
