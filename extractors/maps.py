"""Feature maps of crops by the feature network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.data import Sample
from horefine.extractors import load_default
from horefine.extractors.crops import extents_of, pictures
from horefine.extractors.encoder_decoder import FIELD_HEADS, HEADS, FeatureNet, needed_heads
from horefine.hand import HandModel
from horefine.scene import CONFIDENCES

__all__ = ["GOOD", "MapExtractor", "confidence"]

GOOD = {"hand_coords": 0.028, "object_coords": 0.07, "depth": 0.016}
"""Mean absolute error (codes, metres) below which a pixel is trusted fully: the medians that the network expects of
held-out scenes (``*_spread_median`` of ``python -m benchmarks.trained``). So a recipe's sigmas, which were chosen for
ordinary pixels, keep their meaning, and only what is worse than ordinary weighs less."""
MAP_OF = {confidence: name for name, confidence in CONFIDENCES.items()}


def confidence(expected: Float[Tensor, "*n"], good: float) -> Float[Tensor, "*n"]:
    """What the square of an error weighs beside that of a good pixel: ``(good / max(expected, good))^2``, 0 to 1.

    Args:
        expected: mean absolute error to expect at each pixel (``heads.spread_loss``).
        good: that of a good pixel, same unit; below it, no more trust is to be won.
    """
    return (good / expected.clamp_min(good)).square()


class MapExtractor:
    """Segmentation, dense maps and relative depth (Song et al. 2022)."""

    def __init__(self, device: str = "cpu", hand: HandModel | None = None, model: FeatureNet | None = None) -> None:
        """``model``: default is the network that comes with horefine. The hand model does not matter to maps."""
        del hand
        self.device = device
        self.model: FeatureNet = (model or load_default("features")).to(device)  # type: ignore[assignment]

    @torch.inference_mode()
    def extract(self, crops: Sequence[Sample], names: Sequence[str]) -> dict[str, Tensor | None]:
        """The named maps "B [C] 64 64"; codes and depth are zero where neither hand nor object is seen.

        Confidences (:func:`confidence` of the error that the network expects) are None where it expects none: weights
        from before it did.
        """
        image = pictures(crops, self.model.config.size).to(self.device)
        heads = needed_heads(FIELD_HEADS[MAP_OF.get(name, name)] for name in names)
        if "segmentation" not in heads:
            heads.append("segmentation")
        maps = FeatureNet.activate(self.model(image, extents_of(crops).to(self.device), heads))
        fields: dict[str, Tensor] = {}
        for head in heads:
            fields |= HEADS[head].fields(maps[head], maps)
            if f"{head}_spread" in maps:
                fields[CONFIDENCES[head]] = confidence(maps[f"{head}_spread"][:, 0], GOOD[head])
        return {n: None if n in MAP_OF and n not in fields else _seen_only(n, fields).cpu() for n in names}


def _seen_only(name: str, fields: dict[str, Tensor]) -> Tensor:
    """A map with what lies outside its surface taken out."""
    value = fields[name]
    hand = fields["hand_mask"] > 0.5
    other = (fields["object_mask"] > 0.5) & ~hand
    shown = {"hand_coords": hand[:, None], "object_coords": other[:, None], "depth": hand | other}.get(name)
    return value if shown is None else value * shown
