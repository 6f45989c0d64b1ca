"""Signed distance fields conditioned on pixel-aligned features (HOISDF, Qi et al. 2024, sections 3.1 and 3.2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from horefine.extractors.layers import fourier

__all__ = ["ENCODED", "FieldDecoder", "SdfHead", "density", "point_features", "to_grid"]

ENCODED = 30
"""Numbers in the Fourier encoding of a point (five octaves)."""


def to_grid(points: Float[Tensor, "B N 3"], projection: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B N 2"]:
    """Points to the crop's own coordinates, -1 to 1 from edge to edge.

    ``projection`` takes a point to homogeneous crop coordinates. Points behind the camera land far outside.
    """
    homogeneous = points @ projection.mT
    depth = homogeneous[..., 2:]
    return torch.where(depth > 1e-3, homogeneous[..., :2] / depth.clamp(min=1e-3), homogeneous.new_tensor(10.0))


def point_features(
    pyramid: list[Tensor], grid: Float[Tensor, "B N 2"], align_corners: bool = False
) -> Float[Tensor, "B N C"]:
    """The maps' values at the points' pixels, bilinear, the border repeated, all levels concatenated."""
    where = grid.detach()[:, :, None]
    parts = [
        nn.functional.grid_sample(level.float(), where, padding_mode="border", align_corners=align_corners)
        for level in pyramid
    ]
    return torch.cat(parts, 1)[..., 0].mT


class SdfHead(nn.Module):
    """What is known of a point to its signed distance (DeepSDF's shape: five layers, the input joined again at the
    third).

    ``width`` must exceed the input's by the size of the second layer's output. ``layer``: what the layers' names begin
    with, ``linh`` in HOISDF's checkpoints, ``lin`` in gSDF's and C2F-SDF's.
    """

    def __init__(self, inputs: int, width: int, dropout: float = 0.0, layer: str = "lin") -> None:
        super().__init__()
        if width <= inputs:
            raise ValueError(f"field width is {width}; it must be more than its input's {inputs}")
        for number, (given, told) in enumerate(
            ((inputs, width), (width, width - inputs), (width, width), (width, width))
        ):
            setattr(self, f"{layer}{number}", weight_norm(nn.Linear(given, told)))
        setattr(self, f"{layer}4", nn.Linear(width, 1))
        self.dropout, self.layer = nn.Dropout(dropout), layer

    def forward(self, inputs: Float[Tensor, "B N I"]) -> Float[Tensor, "B N"]:
        """Signed distance in the field's normalised unit, within -1 to 1 (tanh)."""
        x = inputs
        for number in range(4):
            x = torch.cat([x, inputs], -1) if number == 2 else x
            x = self.dropout(torch.relu(getattr(self, f"{self.layer}{number}")(x)))
        return getattr(self, f"{self.layer}4")(x)[..., 0].tanh()


class FieldDecoder(SdfHead):
    """HOISDF's: what the maps show at a point, and the point."""

    def __init__(self, features: int, width: int, dropout: float = 0.0) -> None:
        super().__init__(features + ENCODED + 3, width, dropout, "linh")

    def forward(self, features: Float[Tensor, "B N F"], points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N"]:
        """Signed distance at ``points``, both in the field's normalised unit, within -1 to 1 (tanh)."""
        return super().forward(torch.cat([features, fourier(points), points], -1))


def density(distance: Float[Tensor, "B N"], beta: Float[Tensor, "1"], sign: float = 1.0) -> Float[Tensor, "B N"]:
    """``sigmoid(sign d / beta) / beta``. HOISDF's code has sign +1, StyleSDF, which it cites, -1 (dense inside)."""
    width = beta.clamp(min=2e-3)
    return (sign * distance / width).sigmoid() / width
