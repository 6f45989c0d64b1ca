"""The surface point whose code each pixel shows, in torch for a whole batch: for a GPU.

Twin of ``pairs.find_surface_pairs``, which walks a tree over each surface, image by image, on the CPU: a GPU is through
sooner with every pixel against every face than the host is with one tree. It is asked one thing, how many pixels the
fullest mask has.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.losses.masks import visible

__all__ = ["choose_pixels", "nearest_on_faces", "paired"]

BYTES = 2**30
"""What the numbers of the pairs of pixels and faces at hand at one time take, about."""
NUMBERS = 24
"""Of each pair, single precision."""


def paired(
    hand: tuple[Float[Tensor, "V 3"], Int[Tensor, "F 3"]],
    thing: tuple[Float[Tensor, "B N 3"], Int[Tensor, "B M 3"]],
    real: Int[Tensor, "B"],
    masks: Float[Tensor, "B 2 H W"],
    coords: Float[Tensor, "B 2 3 H W"],
    depth: Float[Tensor, "B H W"],
    most: int,
) -> dict[str, Tensor]:
    """The fields of ``pairs.SurfacePairs`` but the confidences.

    Args:
        hand: codes and faces.
        thing: codes and faces of the objects, of which the first ``real`` count.
        depth: 0 without a depth map.
        most: pixels of a map, at most.
    """
    index, valid = choose_pixels(masks[:, 0], masks[:, 1], most)
    wanted = coords.flatten(3).mT.gather(2, index[..., None].expand(-1, -1, -1, 3))
    batch, width = len(masks), masks.shape[3]
    every = torch.full_like(real, len(hand[1]))
    rows = []
    for side, (codes, faces, count) in enumerate(
        ((hand[0].expand(batch, -1, -1), hand[1].expand(batch, -1, -1), every), (*thing, real))
    ):
        corners = codes.gather(1, faces.flatten(1)[..., None].expand(-1, -1, 3)).unflatten(1, faces.shape[1:])
        distance, face, weights = nearest_on_faces(wanted[:, side], corners, count)
        vertices = faces.gather(1, face[..., None].expand(-1, -1, 3))
        rows.append((vertices, weights, distance))
    vertices, weights, distance = (torch.stack(list(part), 1) for part in zip(*rows, strict=True))
    kept, first = valid > 0, torch.zeros_like(weights)
    first[..., 0] = 1
    pixel = torch.stack([index % width, index // width], -1).to(depth.dtype)
    shown = depth.flatten(1)[:, None].expand(-1, 2, -1).gather(2, index)
    return {
        "vertices": torch.where(kept[..., None], vertices, 0),
        "barycentric": torch.where(kept[..., None], weights, first),
        "pixel": torch.where(kept[..., None], pixel, 0.0),
        "distance": torch.where(kept, distance, 0.0),
        "depth": torch.where(kept, shown, 0.0),
        "valid": valid,
    }


def choose_pixels(
    hand_mask: Float[Tensor, "B H W"], object_mask: Float[Tensor, "B H W"], most: int
) -> tuple[Int[Tensor, "B 2 P"], Float[Tensor, "B 2 P"]]:
    """Visible pixels of hand (0) and object (1) in reading order, evenly thinned out to ``most``, and 1 for each;
    both 0 for padding. P is ``most`` at most, and 1 at least."""
    hidden = 1 - visible(hand_mask, object_mask).flatten(2)
    number = (hidden == 0).sum(2, keepdim=True)
    count = max(1, min(most, int(number.max())))
    order = hidden.argsort(dim=2, stable=True)
    place = torch.arange(count, device=number.device)
    thinned = torch.where(number > most, place * number // most, place)
    valid = place < number
    return torch.where(valid, order.gather(2, thinned), 0), valid.to(hidden.dtype)


def nearest_on_faces(
    points: Float[Tensor, "B P 3"], corners: Float[Tensor, "B F 3 3"], real: Int[Tensor, "B"]
) -> tuple[Float[Tensor, "B P"], Int[Tensor, "B P"], Float[Tensor, "B P 3"]]:
    """Distance to the nearest of the first ``real`` faces, that face, and the nearest point's barycentric weights."""
    batch, count = points.shape[:2]
    chunk = max(1, BYTES // (4 * NUMBERS * batch * corners.shape[1]))
    parts = [_nearest(points[:, i : i + chunk], corners, real) for i in range(0, count, chunk)]
    square, face, weights = (torch.cat(list(part), 1) for part in zip(*parts, strict=True))
    return square.sqrt(), face, weights


def _nearest(
    points: Float[Tensor, "B P 3"], corners: Float[Tensor, "B F 3 3"], real: Int[Tensor, "B"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Every point against every face (Ericson 2005, 5.1.5, as ``distance_kernels._to_triangle``); squared distance."""
    a = corners[:, None, :, 0]
    ab, ac = corners[:, None, :, 1] - a, corners[:, None, :, 2] - a

    def dot(one: Tensor, two: Tensor) -> Tensor:
        return one[..., 0] * two[..., 0] + one[..., 1] * two[..., 1] + one[..., 2] * two[..., 2]

    away = points[:, :, None] - a
    d1, d2, bb, bc, cc = dot(ab, away), dot(ac, away), dot(ab, ab), dot(ab, ac), dot(ac, ac)
    d3, d4, d5, d6 = d1 - bb, d2 - bc, d1 - bc, d2 - cc
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    total, along = va + vb + vc, (d4 - d3) + (d5 - d6)
    v, w = vb / total, vc / total
    edge = (d4 - d3) / torch.where(along > 0, along, 1.0)
    for where, own, other in (  # of the regions that a point is in, the last counts
        ((va <= 0) & (d4 >= d3) & (d5 >= d6), 1 - edge, edge),
        ((vb <= 0) & (d2 >= 0) & (d6 <= 0), 0.0, d2 / torch.where(d2 > d6, d2 - d6, 1.0)),
        ((d6 >= 0) & (d5 <= d6), 0.0, 1.0),
        ((vc <= 0) & (d1 >= 0) & (d3 <= 0), d1 / torch.where(d1 > d3, d1 - d3, 1.0), 0.0),
        ((d3 >= 0) & (d4 <= d3), 1.0, 0.0),
        ((d1 <= 0) & (d2 <= 0), 0.0, 0.0),
    ):
        v, w = torch.where(where, own, v), torch.where(where, other, w)
    rest = away - v[..., None] * ab - w[..., None] * ac
    square = dot(rest, rest)
    number = torch.arange(corners.shape[1], device=real.device)
    square = torch.where((number < real[:, None, None]) & square.isfinite(), square, torch.inf)
    least, face = square.min(2)
    v, w = (part.gather(2, face[..., None])[..., 0] for part in (v, w))
    return least, face, torch.stack([1 - v - w, v, w], -1)
