"""What a depth camera measured as a feature: picked for each pixel of the maps, never mixed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from horefine.data import Sample
from horefine.data.shards import MAP_SIZE
from horefine.extractors.crops import depth_maps
from horefine.hand import HandModel

__all__ = ["MeasuredDepth"]


class MeasuredDepth:
    """Nothing is learned here."""

    def __init__(self, device: str = "cpu", hand: HandModel | None = None) -> None:
        """Neither device nor hand matters."""
        del device, hand

    def extract(self, crops: Sequence[Sample], names: Sequence[str]) -> dict[str, Tensor]:
        """``{"measured_depth": "B 64 64"}`` of B crops.

        Raises:
            InputError: a crop without depth.
        """
        del names
        return {"measured_depth": depth_maps(crops, MAP_SIZE)}
