"""Dense maps: for each visible pixel, which point of the hand's or the object's surface it shows.

The codes are ``HandModel.codes`` and ``Mesh.codes`` (Song et al. 2022, section 4.2; NOCS, Wang et al. 2019).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from horefine.extractors.heads import Head, masked_mean

__all__ = ["HAND_COORDS", "OBJECT_COORDS"]


def _head(which: str, guides: tuple[str, ...]) -> Head:
    def loss(raw: Tensor, maps: Mapping[str, Tensor]) -> Tensor:
        """L1 where the surface is seen; a pixel at the silhouette shows a blend and does not count."""
        return masked_mean((raw.sigmoid() - maps[f"{which}_coords"]).abs(), maps[f"{which}_mask"] > 0.6)

    def fields(prediction: Tensor, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        del maps
        return {f"{which}_coords": prediction}

    return Head(3, guides, torch.sigmoid, loss, fields)


HAND_COORDS = _head("hand", ("segmentation", "joints"))
OBJECT_COORDS = _head("object", ("segmentation",))
