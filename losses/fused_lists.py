"""Tensors of a stage as the flat arrays that fused losses walk through: one list for all images, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from horefine.scene import Scene

__all__ = ["bound", "intrinsics", "listed", "rays", "single"]


def listed(
    kept: Sequence[Bool[Tensor, "B _"]], *tables: Sequence[Tensor]
) -> tuple[Int[np.ndarray, "B _"], list[np.ndarray]]:
    """The rows that are kept, of the first image's hand, of its object, of the second image's hand, ...

    Args:
        kept: of hand and of object (or of one alone), "B N" each.
        tables: as many tensors "B N *" each.

    Returns:
        where each list begins and, last, where the image's last one ends; and the rows of each table.
    """
    sizes = torch.stack([k.sum(1) for k in kept], 1)
    ends = torch.cat([torch.zeros(1, dtype=torch.long), sizes.flatten().cumsum(0)])
    first = ends[:-1].view(sizes.shape)
    start = torch.cat([first, ends[1:].view(sizes.shape)[:, -1:]], 1)
    chosen = torch.cat(list(kept), 1)
    return start.contiguous().numpy(), [torch.cat(list(table), 1)[chosen].contiguous().numpy() for table in tables]


def intrinsics(scene: Scene) -> Float[np.ndarray, "B 4"]:
    """fx, fy, cx and cy of the camera of the maps."""
    matrix = scene.features.camera.matrix
    return single(torch.stack([matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, 0, 2], matrix[:, 1, 2]], 1))


def rays(scene: Scene) -> Float[Tensor, "B 2 H W"]:
    """x and y of the direction in which each pixel of the maps looks; its z is 1."""
    (height, width), matrix = scene.features.camera.size, scene.features.camera.matrix
    x = (torch.arange(width) - matrix[:, 0, 2, None]) / matrix[:, 0, 0, None]
    y = (torch.arange(height) - matrix[:, 1, 2, None]) / matrix[:, 1, 1, None]
    shape = (len(matrix), height, width)
    return torch.stack([x[:, None].expand(shape), y[:, :, None].expand(shape)], 1)


def single(values: Any) -> np.ndarray:
    """A float32 array of its own."""
    return np.array(values.detach().numpy() if isinstance(values, Tensor) else values, np.float32, order="C")


def bound(kernel: float) -> float:
    """What a square is multiplied with in the Geman-McClure kernel; 0 where squares are plain."""
    return 1 / (kernel * kernel) if kernel > 0 else 0.0
