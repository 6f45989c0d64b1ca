"""Feature maps of crops by the feature network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from horefine.data import Sample
from horefine.extractors import load_default
from horefine.extractors.crops import extents_of, pictures
from horefine.extractors.encoder_decoder import FIELD_HEADS, HEADS, FeatureNet, needed_heads
from horefine.hand import HandModel

__all__ = ["MapExtractor"]


class MapExtractor:
    """Segmentation, dense maps and relative depth (Song et al. 2022)."""

    def __init__(self, device: str = "cpu", hand: HandModel | None = None, model: FeatureNet | None = None) -> None:
        """``model``: default is the network that comes with horefine. The hand model does not matter to maps."""
        del hand
        self.device = device
        self.model: FeatureNet = (model or load_default("features")).to(device)  # type: ignore[assignment]

    @torch.inference_mode()
    def extract(self, crops: Sequence[Sample], names: Sequence[str]) -> dict[str, Tensor]:
        """The named maps "B [C] 64 64"; codes and depth are zero where neither hand nor object is seen."""
        image = pictures(crops, self.model.config.size).to(self.device)
        heads = needed_heads(FIELD_HEADS[name] for name in names)
        if "segmentation" not in heads:
            heads.append("segmentation")
        maps = FeatureNet.activate(self.model(image, extents_of(crops).to(self.device), heads))
        fields: dict[str, Tensor] = {}
        for head in heads:
            fields |= HEADS[head].fields(maps[head], maps)
        return {name: _seen_only(name, fields).cpu() for name in names}


def _seen_only(name: str, fields: dict[str, Tensor]) -> Tensor:
    """A map with what lies outside its surface taken out."""
    value = fields[name]
    hand = fields["hand_mask"] > 0.5
    other = (fields["object_mask"] > 0.5) & ~hand
    shown = {"hand_coords": hand[:, None], "object_coords": other[:, None], "depth": hand | other}.get(name)
    return value if shown is None else value * shown
