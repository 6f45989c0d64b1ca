"""How HOISDF's authors cut pictures: needs the truth (hand joints and object points in the picture), as their tests do.

Numbers here are pixels as the published code counts them. Pixels are picked, never mixed; outside the picture is black.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from horefine.extractors.hoisdf_official import SIZE, object_reference

__all__ = [
    "HAND_FACTORS",
    "OfficialCrop",
    "box_of",
    "crop_affine",
    "crop_square",
    "map_box",
    "official_crop",
    "pick",
    "turned_affine",
]

HAND_FACTORS = {"dexycb": 1.1, "ho3d": 1.2, "ho3d_render": 1.2}
"""How much larger than the hand's joints its box is."""


@dataclass(frozen=True)
class OfficialCrop:
    """What the network takes of one photograph."""

    affine: Float[Tensor, "3 3"]
    """Crop pixels from pixels."""
    matrix: Float[Tensor, "3 3"]
    """Intrinsics of the crop."""
    hand_box: Float[Tensor, "4"]
    object_box: Float[Tensor, "4"]
    object_center: Float[Tensor, "3"]
    """``Given.object_center``."""


def box_of(points: Float[Tensor, "N 2"], factor: float) -> Float[Tensor, "4"]:
    """x0 y0 x1 y1 of points, grown about their (whole) middle."""
    low, high = points.amin(0), points.amax(0)
    middle, half = ((low + high) / 2).trunc(), (high - low) * factor / 2
    return torch.cat([middle - half, middle + half])


def crop_square(
    hand_box: Float[Tensor, "4"], object_box: Float[Tensor, "4"], size: tuple[int, int]
) -> tuple[Int[Tensor, "2"], float]:
    """(middle, side) of the square about both boxes, which are cut by the picture (height, width) first."""
    limit = torch.tensor([size[1], size[0]], dtype=hand_box.dtype)
    low = torch.minimum(hand_box[:2], object_box[:2]).clamp(min=0)
    high = torch.minimum(torch.maximum(hand_box[2:], object_box[2:]), limit)
    return ((low + high) / 2).trunc().long(), float((high - low).max())


def crop_affine(middle: Tensor, side: float, angle: float = 0.0, size: int = SIZE) -> Float[Tensor, "3 3"]:
    """Takes a square to ``size`` pixels a side; ``angle``: turned by it about its middle, radians."""
    scale = size / side
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    x, y = middle.tolist()
    half = size / 2
    return torch.tensor([
        [cosine, -sine, half - cosine * x + sine * y],
        [sine, cosine, half - sine * x - cosine * y],
        [0.0, 0.0, 1.0],
    ])  # fmt: skip


def turned_affine(
    middle: Tensor, side: float, angle: float, principal: Float[Tensor, "2"], size: int = SIZE
) -> Float[Tensor, "3 3"]:
    """Makes intrinsics of the crop by ``turned_affine @ matrix`` once the scene is turned about the optical axis.

    The picture is cut by ``crop_affine(middle, side, angle)``; ``principal``: the principal point.
    """
    cosine, sine = math.cos(angle), math.sin(angle)
    rotation = torch.tensor([[cosine, -sine], [sine, cosine]])
    return crop_affine(rotation @ (middle - principal) + principal, side, size=size)


def map_box(box: Float[Tensor, "4"], affine: Float[Tensor, "3 3"]) -> Float[Tensor, "4"]:
    """A box of the photograph in the crop (without rotation)."""
    return torch.cat([affine[:2, :2] @ corner + affine[:2, 2] for corner in box.view(2, 2)])


def pick(image: Shaped[Tensor, "H W *C"], affine: Float[Tensor, "3 3"], size: int = SIZE) -> Shaped[Tensor, "S S *C"]:
    """The photograph's pixels under the crop's; 0 outside."""
    back = torch.linalg.inv(affine.double())
    steps = torch.arange(size, dtype=torch.float64) + 0.5
    ys, xs = torch.meshgrid(steps, steps, indexing="ij")
    places = torch.stack([xs, ys, torch.ones_like(xs)], -1) @ back.mT
    columns, rows = places[..., 0].floor().long(), places[..., 1].floor().long()
    height, width = image.shape[:2]
    seen = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    found = image[rows.clamp(0, height - 1), columns.clamp(0, width - 1)]
    return torch.where(seen.view(*seen.shape, *[1] * (image.dim() - 2)), found, torch.zeros_like(found))


def official_crop(
    joints: Float[Tensor, "21 2"], object_points: Float[Tensor, "M 2"], matrix: Float[Tensor, "3 3"],
    depth: float, size: tuple[int, int], hand_factor: float = 1.1, hand_box: Float[Tensor, "4"] | None = None,
) -> OfficialCrop:  # fmt: skip
    """The crop of a photograph of ``size`` (height, width).

    Args:
        joints: Of the hand, pixels.
        object_points: Of the object's box: corners, middles of edges, centre; pixels.
        depth: At which the object is believed to be: the wrist's (``dexycb``) or ``hoisdf_official.DEPTH``.
        hand_factor: See :data:`HAND_FACTORS`.
        hand_box: Instead of the joints' own.
    """
    if hand_box is not None:
        joints = hand_box.view(2, 2)
    middle, side = crop_square(box_of(joints, 1.5), box_of(object_points, 1.5), size)
    affine = crop_affine(middle, side)
    object_box = map_box(box_of(object_points, 1.0), affine)
    crop_matrix = affine @ matrix
    reference = object_reference(object_box[None], torch.tensor([depth]), crop_matrix[None])[0]
    return OfficialCrop(affine, crop_matrix, map_box(box_of(joints, hand_factor), affine), object_box, reference)
