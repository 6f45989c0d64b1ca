"""The square part of a photograph that networks look at."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from horefine.data import Sample
from horefine.geometry import Box, square_box

__all__ = ["CROP_SIZE", "crop_box", "crop_sample", "nearest", "resample"]

CROP_SIZE = 256
"""Pixels a side (Song et al. 2022; HOISDF)."""
MARGIN = 1.25


def crop_box(hand_box: Box | None, object_box: Box | None, margin: float = MARGIN) -> Box:
    """The square about both boxes (one of them must be there) with a margin.

    Raises:
        ValueError: neither box is given.
    """
    boxes = [box for box in (hand_box, object_box) if box is not None]
    if not boxes:
        raise ValueError("crop_box: neither a hand box nor an object box")
    x0, y0 = (min(box[i] for box in boxes) for i in (0, 1))
    x1, y1 = (max(box[i] for box in boxes) for i in (2, 3))
    return square_box((x0, y0, x1, y1), margin)


def crop_sample(sample: Sample, box: Box, size: int = CROP_SIZE) -> Sample:
    """The sample as if ``box`` of its photograph were all there is, ``size`` pixels a side; grey outside the photo.

    Depth goes along; exact features do not (they belong to another crop).
    """
    image = resample(sample.image, box, size)
    depth = None
    if sample.depth is not None:
        depth = nearest(sample.depth, box, size)
    scale = size / (box[2] - box[0])

    def inside(other: Box | None) -> Box | None:
        if other is None:
            return None
        x0, y0, x1, y1 = ((v - box[i % 2]) * scale - 0.5 for i, v in enumerate(other))
        return x0, y0, x1, y1

    return dataclasses.replace(
        sample,
        image=image,
        camera=sample.camera.cropped(box, (size, size)),
        depth=depth,
        hand_box=inside(sample.hand_box),
        object_box=inside(sample.object_box),
        keypoints=None if sample.keypoints is None else (sample.keypoints - torch.tensor(box[:2])) * scale - 0.5,
        features=None,
    )


def resample(image: Float[Tensor, "3 H W"], box: Box, size: int) -> Float[Tensor, "3 S S"]:
    """A square of a picture at another number of pixels: averaged when it shrinks, smooth when it grows."""
    height, width = image.shape[1:]
    x0, y0, x1, y1 = (edge + 0.5 for edge in box)
    left, top = max(0, int(np.ceil(-x0))), max(0, int(np.ceil(-y0)))
    right, bottom = max(0, int(np.ceil(x1 - width))), max(0, int(np.ceil(y1 - height)))
    low_x, low_y = max(0, int(x0) - 2), max(0, int(y0) - 2)  # touch only what is needed of a large photo
    near = image[:, low_y : max(low_y + 1, int(y1) + 3), low_x : max(low_x + 1, int(x1) + 3)]
    part = (near.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    part = np.pad(part, ((top, bottom), (left, right), (0, 0)), constant_values=127)
    area = (x0 - low_x + left, y0 - low_y + top, x1 - low_x + left, y1 - low_y + top)
    area = (area[0], area[1], min(area[2], part.shape[1]), min(area[3], part.shape[0]))  # rounding only
    picture = Image.fromarray(part).resize((size, size), Image.Resampling.BILINEAR, box=area)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def nearest(depth: Float[Tensor, "H W"], box: Box, size: int) -> Float[Tensor, "S S"]:
    """Measured depths are picked, never mixed; 0 outside the photo."""
    height, width = depth.shape
    places = (torch.arange(size) + 0.5) / size
    columns = (box[0] + places * (box[2] - box[0])).round().long()
    rows = (box[1] + places * (box[3] - box[1])).round().long()
    seen = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    return torch.where(seen, depth[rows.clamp(0, height - 1)][:, columns.clamp(0, width - 1)], 0.0)
