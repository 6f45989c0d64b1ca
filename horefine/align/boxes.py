"""Where an object is, from the box around it in the image and its rotation: a first translation, without any map."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.geometry import project

__all__ = ["translation_from_box"]


def translation_from_box(
    points: Float[Tensor, "B N 3"],
    box: Float[Tensor, "B 4"],
    matrix: Float[Tensor, "B 3 3"],
    *,
    steps: int = 10,
    start: float = 1.0,
    centred: bool = True,
) -> Float[Tensor, "B 3"]:
    """The translation (metres) with which the projected points fill the box: its centre, and its diagonal.

    A fixed point: depth is scaled by the ratio of the diagonals, then the centre is moved. 10 ``steps`` from 1 m as
    BOP's CosyPose and homan do (Labbé et al. 2020; Hasson et al. 2021); PHOSA (Zhang et al. 2020) takes 50 from 2.5 m
    that is not ``centred`` on the box at first.

    Args:
        points: of the object, turned as in the image, metres, about any origin.
        box: left, top, width, height in pixels; from the projected points' smallest to their largest coordinates.
        matrix: intrinsics.
        steps: of the iteration.
        start: first depth, metres. All points must be in front of the camera then.
        centred: begin on the ray through the centre of the box, not on the optical axis.

    Raises:
        ValueError: a box without extent.
    """
    if not (box[:, 2:] > 0).all():
        raise ValueError("translation_from_box: a box has no width or no height")
    centre, diagonal = box[:, :2] + box[:, 2:] / 2, box[:, 2:].norm(dim=-1)
    focal = torch.stack([matrix[:, 0, 0], matrix[:, 1, 1]], -1)
    depth = torch.full_like(diagonal, start)[:, None]
    across = (centre - matrix[:, :2, 2]) * depth / focal if centred else torch.zeros_like(centre)
    for _ in range(steps):
        pixels = project(points + torch.cat([across, depth], -1)[:, None], matrix)
        low, high = pixels.amin(1), pixels.amax(1)
        depth = depth * ((high - low).norm(dim=-1) / diagonal)[:, None]
        across = across + (centre - (low + high) / 2) * depth / focal
    return torch.cat([across, depth], -1)
