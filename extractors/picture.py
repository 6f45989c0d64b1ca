"""The photograph itself as a feature: linear light at the size of the maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from horefine.data import Sample
from horefine.data.shards import MAP_SIZE
from horefine.extractors.crops import pictures
from horefine.hand import HandModel

__all__ = ["PictureExtractor", "linear_picture"]


class PictureExtractor:
    """Nothing is learned here."""

    def __init__(self, device: str = "cpu", hand: HandModel | None = None) -> None:
        """Neither device nor hand matters."""
        del device, hand

    @torch.no_grad()
    def extract(self, crops: Sequence[Sample], names: Sequence[str]) -> dict[str, Tensor]:
        """``{"image": "B 3 64 64"}`` of B crops."""
        del names
        return {"image": linear_picture(pictures(crops, 4 * MAP_SIZE), MAP_SIZE)}


def linear_picture(image: Tensor, size: int) -> Tensor:
    """sRGB "B 3 S S" (0 to 1) to linear light (IEC 61966-2-1), averaged over each of ``size`` x ``size`` pixels."""
    linear = torch.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)
    return torch.nn.functional.interpolate(linear, (size, size), mode="area")
