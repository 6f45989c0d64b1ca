"""The feature network of Song et al. 2022 (figure 5, section 4.3): one map after another, the first guiding the rest.

The paper has one ResNet-18 encoder for each feature on 256x256 pixels (:data:`PAPER`). The compact network that comes
with horefine shares one narrow encoder on 128x128 pixels, has skip connections, and is told the sides of the object's
box (:data:`COMPACT`): a CPU core trains it in two hours. Both are the same code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from horefine.extractors.dense import HAND_COORDS, OBJECT_COORDS
from horefine.extractors.depth import DEPTH
from horefine.extractors.heads import Head
from horefine.extractors.joints import JOINTS
from horefine.extractors.layers import condition_vector, conv_block
from horefine.extractors.resnet import ResNet
from horefine.extractors.segmentation import SEGMENTATION

__all__ = ["COMPACT", "FIELD_HEADS", "HEADS", "PAPER", "SPREADS", "FeatureConfig", "FeatureNet", "needed_heads"]

HEADS: dict[str, Head] = {
    "segmentation": SEGMENTATION,
    "joints": JOINTS,
    "depth": DEPTH,
    "hand_coords": HAND_COORDS,
    "object_coords": OBJECT_COORDS,
}
"""In an order in which every guide comes before what it guides."""

DENSE = ("hand_coords", "object_coords")

SPREADS = {"depth": 0.02, "hand_coords": 0.1, "object_coords": 0.2}
"""Heads that say how far off they may be, and the error (metres, codes) they begin by expecting."""

FIELD_HEADS = {
    "hand_mask": "segmentation", "object_mask": "segmentation", "hand_coords": "hand_coords",
    "object_coords": "object_coords", "depth": "depth",
}  # fmt: skip
"""Which head gives which field of ``horefine.Features``."""


@dataclass(frozen=True)
class FeatureConfig:
    """Sizes of the network; written into its weight files."""

    size: int = 128
    """Side of the square input picture, pixels."""
    depth: int = 18
    width: int = 32
    shared_encoder: bool = True
    """One encoder and decoder for all features instead of one for each."""
    skips: bool = True
    """The decoder sees the encoder's maps of its own resolution."""
    decoder: tuple[int, ...] = (128, 96, 64)
    """Channels after each doubling of the resolution, from stride 32 on."""
    subpixel: int = 2
    """A head's last layer gives this many values along each side of a pixel (Shi et al. 2016), so that the rest of it
    works at a lower resolution than the maps'."""
    bottleneck: int = 0
    """Channels after a first 3x3 convolution at stride 32; 0: no such convolution."""
    head_width: int = 48
    bins: int = 12
    """Into how many the dense maps' codes are cut along each axis for a second loss while training; 0: no such loss."""
    spread: bool = True
    """Says at each pixel how far off its codes and depth may be (``heads.spread_loss``)."""
    condition: bool = True
    """Told the sides of the object's box."""
    detach_guides: bool = True
    """Guides are inputs only: what a guided map wants does not change them."""

    @property
    def map_size(self) -> int:
        return self.size // 32 * 2 ** len(self.decoder) * self.subpixel


COMPACT = FeatureConfig()
PAPER = FeatureConfig(
    size=256, width=64, shared_encoder=False, skips=False, decoder=(256, 256, 256), subpixel=1, bottleneck=256,
    head_width=256, bins=0, spread=False, condition=False, detach_guides=False,
)  # fmt: skip


FINE = 2
"""Decoder level (stride 4) that also takes in the stride 2 map, folded, where it is the last."""


class Trunk(nn.Module):
    """Encoder and decoder: picture -> "B C M M" that a head reads; M is the maps' side over ``subpixel``."""

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.encoder = ResNet(config.depth, config.width)
        inputs = self.encoder.channels[-1]
        self.condition = nn.Linear(7, inputs) if config.condition else None
        self.bottleneck = conv_block(inputs, config.bottleneck) if config.bottleneck else nn.Identity()
        inputs = config.bottleneck or inputs
        self.reduce, self.fuse, self.fine = nn.ModuleList(), nn.ModuleList(), None
        for level, outputs in enumerate(config.decoder):
            skip = self.encoder.channels[3 - level] if config.skips else 0
            if level == FINE and config.skips and len(config.decoder) == FINE + 1:
                self.fine = conv_block(4 * self.encoder.channels[0], outputs // 2, 1)
                skip += outputs // 2
            # a 1x1 convolution before the doubling costs a quarter of one after it
            self.reduce.append(conv_block(inputs, outputs, 1) if config.skips else nn.Identity())
            self.fuse.append(conv_block((outputs if config.skips else inputs) + skip, outputs))
            inputs = outputs
        self.skips = config.skips
        if self.condition is not None:
            nn.init.zeros_(self.condition.weight)
            nn.init.zeros_(self.condition.bias)

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        maps = self.encoder(image)
        x = maps[-1]
        if self.condition is not None:
            x = x + self.condition(condition)[:, :, None, None].to(x.dtype)
        x = self.bottleneck(x)
        for level, (reduce, fuse) in enumerate(zip(self.reduce, self.fuse, strict=True)):
            x = nn.functional.interpolate(reduce(x), scale_factor=2, mode="bilinear", align_corners=False)
            skips = [maps[3 - level]] if self.skips else []
            if self.fine is not None and level == FINE:
                skips.append(self.fine(nn.functional.pixel_unshuffle(maps[0], 2)))
            x = fuse(torch.cat([x, *skips], 1))
        return x


class FeatureNet(nn.Module):
    """Picture -> raw maps by head name; ``activate`` turns them into maps."""

    def __init__(self, config: FeatureConfig = COMPACT) -> None:
        super().__init__()
        self.config = config
        trunks = ("shared",) if config.shared_encoder else tuple(HEADS)
        self.trunks = nn.ModuleDict({name: Trunk(config) for name in trunks})
        self.heads = nn.ModuleDict()
        for name, head in HEADS.items():
            inputs = config.decoder[-1] + sum(HEADS[guide].channels for guide in head.guides)
            last = nn.Conv2d(config.head_width, head.channels * config.subpixel**2, 3, padding=1)
            if name == "joints" and last.bias is not None:
                last.bias.data.fill_(-4.0)  # nearly all of a heat map is cold
            unfold = nn.PixelShuffle(config.subpixel)
            self.heads[name] = nn.Sequential(conv_block(inputs, config.head_width), last, unfold)

        self.bins = nn.ModuleDict()
        for name in DENSE if config.bins else ():
            self.bins[name] = nn.Conv2d(config.head_width, 3 * config.bins, 1)
        self.spreads = nn.ModuleDict()
        for name, begin in SPREADS.items() if config.spread else ():
            self.spreads[name] = layer = nn.Conv2d(config.head_width, config.subpixel**2, 1)
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, math.log(begin))  # type: ignore[arg-type]

    def forward(
        self,
        image: Float[Tensor, "B 3 S S"],
        extents: Float[Tensor, "B 3"] | None = None,
        heads: Iterable[str] | None = None,
    ) -> dict[str, Float[Tensor, "B C M M"]]:
        """Raw maps of ``heads`` (all when None) and of what guides them; nothing else is computed.

        Also ``<head>_spread`` "B 1 M M", the logarithm of the error to expect of codes and depth at each pixel; while
        training ``<dense head>_bins``, logits for ``dense.bin_loss``.

        ``image`` is sRGB, 0 to 1; ``extents`` the object's box sides in metres (zeros or None: unknown).
        """
        condition = condition_vector(extents, len(image), image)
        trunk: dict[str, Tensor] = {}
        raw: dict[str, Tensor] = {}
        guides: dict[str, Tensor] = {}
        for name in needed_heads(heads if heads is not None else HEADS):
            key = "shared" if self.config.shared_encoder else name
            if key not in trunk:
                trunk[key] = self.trunks[key](image * 2 - 1, condition)
            inputs = torch.cat([trunk[key], *(guides[g].to(trunk[key].dtype) for g in HEADS[name].guides)], 1)
            block, last, unfold = self.heads[name]  # type: ignore[misc]
            hidden = block(inputs)
            raw[name] = unfold(last(hidden)).float()
            if name in self.spreads:
                raw[f"{name}_spread"] = unfold(self.spreads[name](hidden)).float()
            if self.training and name in self.bins:
                raw[f"{name}_bins"] = self.bins[name](hidden).float()
            guide = HEADS[name].activation(raw[name].detach() if self.config.detach_guides else raw[name])
            guides[name] = nn.functional.avg_pool2d(guide, self.config.subpixel)
        return raw

    @staticmethod
    def activate(raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """Raw maps to maps: shares, heats, codes 0 to 1, metres; spreads in the unit of what they are of."""
        return {name: HEADS[name].activation(v) if name in HEADS else v.exp() for name, v in raw.items()}


def needed_heads(wanted: Iterable[str]) -> list[str]:
    """The heads asked for and all that guide them, guides first. Raises KeyError for an unknown one."""
    needed: set[str] = set()
    queue = list(wanted)
    while queue:
        name = queue.pop()
        if name not in needed:
            needed.add(name)
            queue += HEADS[name].guides
    return [name for name in HEADS if name in needed]
