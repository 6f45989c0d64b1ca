"""Relative depth: metres in front of or behind the centre of the object's bounding box (Song et al. 2022, eq. 8)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from horefine.extractors.heads import Head, masked_mean

__all__ = ["DEPTH", "RANGE"]

RANGE = 0.3
"""Metres at which the tanh saturates. The paper's 1 m spends most of its range on depths no hand reaches."""


def _metres(raw: Tensor) -> Tensor:
    return raw.tanh() * RANGE


def _loss(raw: Tensor, maps: Mapping[str, Tensor]) -> Tensor:
    """L1 in decimetres where hand or object is seen."""
    seen = maps["hand_mask"] + maps["object_mask"] > 0.6
    return masked_mean((_metres(raw) - maps["depth"][:, None]).abs(), seen) * 10


def _fields(prediction: Tensor, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    del maps
    return {"depth": prediction[:, 0]}


DEPTH = Head(1, ("segmentation",), _metres, _loss, _fields)
