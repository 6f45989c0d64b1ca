"""Small parts the networks share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["MLP", "condition_vector", "conv_block", "conv_block_biased", "deconv_block", "fourier"]


def conv_block(inputs: int, outputs: int, size: int = 3) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def conv_block_biased(inputs: int, outputs: int, size: int) -> nn.Sequential:
    """HOISDF's ``conv``: as :func:`conv_block`, with the (redundant) bias its checkpoints hold."""
    convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def deconv_block(inputs: int, outputs: int) -> nn.Sequential:
    """HOISDF's ``deconv``: transposed 4x4 convolution of stride 2, batch normalisation, ReLU."""
    convolution = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class MLP(nn.Module):
    """Linear layers with ReLU between them, and after the last when ``final_relu``."""

    def __init__(self, *widths: int, final_relu: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.final_relu = final_relu

    def start(self, std: float, bias: Sequence[float] | None = None) -> None:
        """Starts the last layer near a constant: small weights, and ``bias`` (zeros)."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=std)
        last.bias.data = torch.zeros_like(last.bias) if bias is None else torch.tensor(bias)

    def forward(self, x: Float[Tensor, "*n I"]) -> Float[Tensor, "*n O"]:
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if self.final_relu or index + 1 < len(self.layers):
                x = torch.relu(x)
        return x


def fourier(points: Float[Tensor, "*n 3"], octaves: int = 5) -> Float[Tensor, "*n C"]:
    """``[sin p, cos p, sin 2p, cos 2p, ...]``, 6 numbers an octave; no pi, no identity (HOISDF's encoding)."""
    scaled = points[..., None, :] * (2.0 ** torch.arange(octaves, device=points.device, dtype=points.dtype))[:, None]
    return torch.stack([scaled.sin(), scaled.cos()], -2).flatten(-3)


def condition_vector(
    extents: Float[Tensor, "B 3"] | None, batch: int, like: Tensor | None = None
) -> Float[Tensor, "B 7"]:
    """What is known of the object beside the picture: its box sides, as the networks take them.

    Sides in decimetres, their logarithms, and a 1 that says they are known; zeros where they are not (``None``, or a
    row of zeros).
    """
    if extents is None:
        return torch.zeros(batch, 7) if like is None else like.new_zeros(batch, 7)
    known = (extents > 0).all(-1, keepdim=True)
    sides = torch.where(known, extents, torch.full_like(extents, 0.1)) * 10
    return torch.cat([sides, sides.log(), torch.ones_like(sides[:, :1])], -1) * known
