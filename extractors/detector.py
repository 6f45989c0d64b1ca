"""Boxes of hand and object in a whole photograph, from its letterboxed 128x128 picture.

Each of the four sides of a box is the expected coordinate under a softmax over the picture of "the outermost point on
this side" (the extreme points of ExtremeNet, Zhou et al. 2019, without its grouping: there is one hand and one object).
The network knows right hands, always answers, and cannot count: whether there is a hand at all is seen later, in its
mask (``items.check_hand``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from horefine.data import Sample
from horefine.data.crop import resample
from horefine.data.mirror import mirror_sample
from horefine.extractors import load_default
from horefine.extractors.layers import conv_block
from horefine.extractors.resnet import ResNet
from horefine.geometry import Box

__all__ = ["COMPACT", "BoxDetector", "Detector", "DetectorConfig", "Located", "box_losses", "detect", "letterbox"]


@dataclass(frozen=True)
class DetectorConfig:
    """Sizes of the network; written into its weight file."""

    size: int = 128
    depth: int = 18
    width: int = 16
    decoder: tuple[int, ...] = (64, 48, 32)


COMPACT = DetectorConfig()


class Detector(nn.Module):
    """Picture -> boxes of hand and object."""

    def __init__(self, config: DetectorConfig = COMPACT) -> None:
        super().__init__()
        self.config = config
        self.encoder = ResNet(config.depth, config.width)
        inputs = self.encoder.channels[-1]
        self.reduce, self.fuse = nn.ModuleList(), nn.ModuleList()
        for level, outputs in enumerate(config.decoder):
            self.reduce.append(conv_block(inputs, outputs, 1))
            self.fuse.append(conv_block(outputs + self.encoder.channels[3 - level], outputs))
            inputs = outputs
        self.extremes = nn.Conv2d(inputs, 8, 1)

    def forward(self, image: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 2 4"]:
        """x0 y0 x1 y1 of hand and object, 0 to 1 from edge to edge of the picture (sRGB, 0 to 1)."""
        maps = self.encoder(image * 2 - 1)
        x = maps[-1]
        for level, (reduce, fuse) in enumerate(zip(self.reduce, self.fuse, strict=True)):
            x = nn.functional.interpolate(reduce(x), scale_factor=2, mode="bilinear", align_corners=False)
            x = fuse(torch.cat([x, maps[3 - level]], 1))
        heat = self.extremes(x).float()
        shares = heat.flatten(2).softmax(-1).view_as(heat)
        # a sixteenth beyond each edge can be reached, so that the mean can come to lie on the edge
        steps = (torch.arange(heat.shape[-1], device=heat.device) + 0.5) / heat.shape[-1] * 1.125 - 0.0625
        across, down = (shares.sum(2) * steps).sum(-1), (shares.sum(3) * steps).sum(-1)
        return torch.stack([across[:, 0::2], down[:, 1::2]], -1).view(len(image), 2, 4)


def box_losses(found: Float[Tensor, "B 2 4"], true: Float[Tensor, "B 2 4"]) -> dict[str, Tensor]:
    """L1 of the sides and one minus the overlap (generalised, Rezatofighi et al. 2019)."""
    return {"sides": 10 * (found - true).abs().mean(), "overlap": 1 - generalised_iou(found, true).mean()}


def generalised_iou(first: Float[Tensor, "*n 4"], second: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Intersection over union, minus the share of the common hull that is in neither."""

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(-1)

    a0, a1, b0, b1 = first[..., :2], first[..., 2:], second[..., :2], second[..., 2:]
    shared = area(torch.maximum(a0, b0), torch.minimum(a1, b1))
    union = (area(a0, a1) + area(b0, b1) - shared).clamp(min=1e-9)
    hull = area(torch.minimum(a0, b0), torch.maximum(a1, b1)).clamp(min=1e-9)
    return shared / union - (hull - union) / hull


def letterbox(image: Float[Tensor, "3 H W"], size: int) -> tuple[Float[Tensor, "3 S S"], Box]:
    """The whole picture in the middle of a grey square, and that square in the picture's pixels."""
    height, width = image.shape[1:]
    half = max(height, width) / 2
    x, y = (width - 1) / 2, (height - 1) / 2
    box = (x - half, y - half, x + half, y + half)
    return resample(image, box, size), box


@torch.inference_mode()
def detect(model: Detector, images: Sequence[Float[Tensor, "3 H W"]]) -> list[tuple[Box, Box]]:
    """Hand box and object box in the pixels of each image."""
    squares = [letterbox(image, model.config.size) for image in images]
    found = model(torch.stack([square for square, _ in squares])).tolist()
    boxes = []
    for image, (_, square), pair in zip(images, squares, found, strict=True):
        boxes.append(tuple(_in_picture(sides, square, image.shape[1:]) for sides in pair))
    return boxes


def _in_picture(sides: list[float], square: Box, size: tuple[int, ...]) -> Box:
    """Crop shares to pixels, inside the picture, at least eight pixels a side."""
    length = square[2] - square[0]
    x0, y0, x1, y1 = (square[i % 2] + length * v for i, v in enumerate(sides))
    (x0, x1), (y0, y1) = _apart(x0, x1, size[1]), _apart(y0, y1, size[0])
    return x0, y0, x1, y1


def _apart(low: float, high: float, limit: int, least: float = 8.0) -> tuple[float, float]:
    middle, half = (low + high) / 2, max((high - low) / 2, least / 2)
    return max(-0.5, middle - half), min(limit - 0.5, middle + half)


@dataclass(frozen=True)
class Located:
    """Where hand and object are in one photograph, pixels."""

    hand_box: Box
    object_box: Box
    side: Literal["right", "left"] | None = None
    """Of the hand; None: this detector cannot tell, or was told."""
    keypoints: Float[Tensor, "21 2"] | None = None
    """As ``Sample.keypoints``."""
    sure: bool = False
    """Whether this detector would have said so if there were no hand."""
    notes: tuple[str, ...] = ()


class BoxDetector:
    """The detector that comes with horefine."""

    def __init__(self, device: str = "cpu") -> None:
        """Loads nothing yet."""
        self.device = device

    def locate(self, sample: Sample, side: Literal["right", "left"] | None = None) -> Located:
        """Boxes in a whole photograph of a hand of ``sample.side``; those that the sample has stay.

        Args:
            side: Which hand is meant; None where nobody said so (this detector then believes ``sample.side``).
        """
        right = mirror_sample(sample) if sample.side == "left" else sample
        model = load_default("detector").to(self.device)
        hand, held = detect(model, [right.image.to(self.device)])[0]  # type: ignore[arg-type]
        if sample.side == "left":
            width = sample.image.shape[2] - 1
            hand, held = ((width - x1, y0, width - x0, y1) for x0, y0, x1, y1 in (hand, held))
        said = ("hand and object were found by the detector",)
        return Located(sample.hand_box or hand, sample.object_box or held, notes=said)
