"""What the compact networks see a crop with: HOISDF's U-Net, and what pixels alone must add to it.

Every compact network that knows fields (HOISDF, gSDF, C2F-SDF) begins alike: the U-Net's maps, masks and surface codes
that points read, a root head in place of the true wrist, and the sides of the object's box as a condition. Module names
are HOISDF's, so that one network's eyes fit the next (``weights.begin_from``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from horefine.extractors.dense import from_bins
from horefine.extractors.layers import condition_vector
from horefine.extractors.root import Root, RootHead
from horefine.extractors.unet import COMPACT, UNet, UNetConfig

__all__ = ["CompactConfig", "Eyes", "EyesConfig", "Seen"]


@runtime_checkable
class EyesConfig(Protocol):
    """What the configuration of a network with eyes says of them."""

    @property
    def depth(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def unet(self) -> UNetConfig: ...
    @property
    def codes(self) -> bool:
        """Per-pixel surface codes, which points read too."""
        ...

    @property
    def bins(self) -> int:
        """Into how many a code is cut along each axis (``dense.bin_loss``)."""
        ...

    @property
    def root(self) -> bool: ...
    @property
    def condition(self) -> bool: ...


@dataclass(frozen=True)
class CompactConfig:
    """What the compact networks on HOISDF's eyes have alike: the eyes' sizes (``hoisdf.HoisdfConfig``), the fields."""

    size: int = 128
    depth: int = 18
    width: int = 32
    unet: UNetConfig = COMPACT
    codes: bool = True
    bins: int = 12
    root: bool = True
    condition: bool = True
    heat_peak: float = 1.0
    frozen: bool = True
    """The eyes come from trained weights and stay as they are (``Eyes.freeze``)."""
    field_dropout: float = 0.0
    scale: float = 5.0
    """The fields' unit: normalised = metres times this."""
    clamp: float = 0.25
    """Normalised distance at which fields are cut in training."""


@dataclass(frozen=True)
class Seen:
    """What the U-Net made of a crop."""

    levels: list[Tensor]
    """Maps for points to read."""
    raw: dict[str, Tensor]
    """Raw per-pixel heads: hm, hand_seg, obj_seg and, where there are codes, hand_code, obj_code."""
    condition: Float[Tensor, "B 7"]
    root: Root | None

    def __getitem__(self, row: int) -> Seen:
        """One of the batch, as a batch."""
        one = slice(row, row + 1 or None)
        root = self.root and Root(self.root.grid[one], self.root.log_size[one], self.root.focal[one])
        raw = {name: value[one] for name, value in self.raw.items()}
        return Seen([level[one] for level in self.levels], raw, self.condition[one], root)


class Eyes(UNet):
    """Base class: ``see`` a crop."""

    def __init__(self, config: EyesConfig) -> None:
        heads = {"hm": 1, "hand_seg": 1, "obj_seg": 1} | (
            dict.fromkeys(("hand_code", "obj_code"), 3 * config.bins) if config.codes else {}
        )
        super().__init__(config.depth, config.width, config.unet, heads)
        self.sees = config
        self.seen_channels = sum(self.pyramid_channels) + (8 if config.codes else 0)
        """Of all the levels together."""

    def attach(self) -> None:
        """Adds what the official network lacks: the condition's way in, and the root head."""
        if self.sees.condition:
            self.condition_map = nn.Linear(7, self.top_channels)
        if self.sees.root:
            self.root_head = RootHead(self.top_channels, self.pyramid_channels[-3], 7)

    def freeze(self) -> None:
        """The eyes are not trained: no gradients, and their batch statistics stay."""
        for name in ("backbone_net", "decoder_net", "condition_map", "root_head"):
            if hasattr(self, name):
                getattr(self, name).requires_grad_(False)

    def train(self, mode: bool = True) -> Eyes:
        """As for any module; frozen eyes keep their statistics."""
        super().train(mode)
        for name in ("backbone_net", "decoder_net", "root_head"):
            part = getattr(self, name, None)
            if part is not None and not any(p.requires_grad for p in part.parameters()):
                part.eval()
        return self

    def see(
        self, image: Float[Tensor, "B 3 S S"], extents: Tensor | None = None, focal: Float[Tensor, "B"] | None = None
    ) -> Seen:
        """Reads the crop (sRGB, 0 to 1). ``focal``: in half crops, needed by the root head (``Frame.focal``)."""
        condition = condition_vector(extents, len(image), image)
        bias = self.condition_map(condition) if self.sees.condition else None
        top, levels, raw = self.maps(image * 2 - 1 if self.sees.root else image, bias)
        root = None
        if self.sees.root:
            if focal is None:
                raise ValueError("the root head needs the crop's focal length")
            root = self.root_head(top, levels[-3], condition, focal)
        if self.sees.codes:
            masks = [raw[name].sigmoid() for name in ("hand_seg", "obj_seg")]
            seen = torch.cat([*masks, *(from_bins(raw[name]) for name in ("hand_code", "obj_code"))], 1)
            levels = [seen, *levels]
        return Seen(levels, raw, condition, root)
