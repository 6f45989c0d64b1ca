"""Dense maps: for each visible pixel, which point of the hand's or the object's surface it shows.

The codes are ``HandModel.codes`` and ``Mesh.codes`` (Song et al. 2022, section 4.2; NOCS, Wang et al. 2019).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from horefine.extractors.heads import Head, masked_mean

__all__ = ["HAND_COORDS", "OBJECT_COORDS", "bin_loss", "from_bins"]


def _head(which: str, guides: tuple[str, ...]) -> Head:
    def loss(raw: Tensor, maps: Mapping[str, Tensor]) -> Tensor:
        """L1 where the surface is seen; a pixel at the silhouette shows a blend and does not count."""
        return masked_mean((raw.sigmoid() - maps[f"{which}_coords"]).abs(), maps[f"{which}_mask"] > 0.6)

    def fields(prediction: Tensor, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        del maps
        return {f"{which}_coords": prediction}

    return Head(3, guides, torch.sigmoid, loss, fields)


def bin_loss(raw: Tensor, codes: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of codes cut into K bins along each axis (NOCS, section 4.3), where the surface is seen.

    A regression that cannot yet tell two ends of an object apart says "the middle" and learns little from being told
    that it is neither; a classification learns from the start.

    Args:
        raw: "B 3*K h w", at the maps' resolution or a whole fraction of it.
        codes: "B 3 H W"; mask: "B H W".
    """
    step = codes.shape[-1] // raw.shape[-1]
    codes, seen = codes[:, :, ::step, ::step], mask[:, ::step, ::step] > 0.6
    logits = raw.unflatten(1, (3, -1))
    count = logits.shape[2]
    target = (codes * count).long().clamp(0, count - 1)
    chosen = logits.permute(0, 3, 4, 1, 2)[seen].flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(chosen, target.permute(0, 2, 3, 1)[seen].flatten(), reduction="sum")
    return loss / max(len(chosen), 1)


def from_bins(raw: Tensor) -> Tensor:
    """The expected code "B 3 h w" under logits "B 3*K h w" of bins."""
    shares = raw.unflatten(1, (3, -1)).softmax(2)
    middles = (torch.arange(shares.shape[2], device=raw.device, dtype=shares.dtype) + 0.5) / shares.shape[2]
    return (shares * middles[:, None, None]).sum(2)


HAND_COORDS = _head("hand", ("segmentation", "joints"))
OBJECT_COORDS = _head("object", ("segmentation",))
