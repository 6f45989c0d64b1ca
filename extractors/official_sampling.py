"""HOISDF's own choice of points: a 64^3 lattice about a centre, cut by a box in the picture, the field's nearest kept.

The published code divides the lattice's running number without rounding it, so its lattice is sheared: the first two
coordinates creep on within each row (up to one spacing). Networks trained on it expect it (``sheared``); ``regular`` is
the lattice as the paper describes it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.errors import InputError

__all__ = ["LATTICES", "Chosen", "choose_points", "inside_box", "official_lattice"]

LATTICES = ("sheared", "regular")
log = logging.getLogger("horefine")

Asked = Callable[[Float[Tensor, "N 3"]], tuple[Float[Tensor, "N"], Float[Tensor, "N C"]]]
"""Normalised lattice points to distances there (normalised, not clamped) and to what the maps show there."""


def official_lattice(kind: str = "sheared", count: int = 64) -> Float[Tensor, "N 3"]:
    """``count``^3 points of the cube of half side 1, z fastest.

    Raises:
        ValueError: another ``kind`` than those of :data:`LATTICES`.
    """
    if kind not in LATTICES:
        raise ValueError(f"lattice is {kind!r}; known: {', '.join(LATTICES)}")
    number = torch.arange(count**3)
    rows = number / count if kind == "sheared" else (number // count).float()
    layers = rows / count if kind == "sheared" else (number // count**2).float()
    return torch.stack([layers, rows % count, (number % count).float()], -1) * (2 / (count - 1)) - 1


def inside_box(points: Float[Tensor, "N 3"], matrix: Float[Tensor, "3 3"], box: Float[Tensor, "4"]) -> Int[Tensor, "K"]:
    """Numbers of the camera-frame points whose pixel lies strictly inside ``box`` (x0 y0 x1 y1).

    As in the published code, points behind the camera count where their mirrored pixel does.
    """
    homogeneous = points @ matrix.mT
    pixel = homogeneous[:, :2] / homogeneous[:, 2:]
    return ((pixel > box[:2]) & (pixel < box[2:])).all(-1).nonzero()[:, 0]


@dataclass(frozen=True)
class Chosen:
    """Of one image, in the order of the lattice."""

    index: Int[Tensor, "K"]
    """Numbers of the lattice points."""
    distance: Float[Tensor, "K"]
    features: Float[Tensor, "K C"]
    asked: Int[Tensor, "M"]
    """Numbers of all lattice points whose distance was asked."""
    distances: Float[Tensor, "M"]


def choose_points(
    asked: Asked, nodes: Float[Tensor, "N 3"], center: Float[Tensor, "3"], scale: float,
    matrix: Float[Tensor, "3 3"], box: Float[Tensor, "4"], count: int, chunk: int = 8192,
) -> Chosen:  # fmt: skip
    """The ``count`` lattice points in sight of ``box`` that lie nearest to the zero level.

    The published code fails where fewer points are in the box. Here the box grows by a quarter until there are enough.

    Args:
        nodes: :func:`official_lattice`.
        center: Of the lattice, camera frame, metres.
        scale: Lattice units in a metre.

    Raises:
        InputError: not even the whole neighbourhood of the box shows enough of the lattice.
    """
    places = nodes / scale + center
    candidates = inside_box(places, matrix, box)
    grown = box
    for _ in range(12):
        if len(candidates) >= count:
            break
        middle, half = (grown[:2] + grown[2:]) / 2, (grown[2:] - grown[:2]).abs().clamp(min=8) * 0.625
        grown = torch.cat([middle - half, middle + half])
        candidates = inside_box(places, matrix, grown)
    if len(candidates) < count:
        raise InputError(
            f"box {_numbers(box)}: shows {len(candidates)} of the points about {_numbers(center)} m, {count} are "
            "needed; give the boxes of hand and object in pixels of the crop, and the crop's intrinsics"
        )
    if grown is not box:
        log.warning("box %s shows too few points of the field; %s is used", _numbers(box), _numbers(grown))
    distances = torch.cat([asked(nodes[part])[0] for part in candidates.split(chunk)])
    order = distances.abs().topk(count, largest=False).indices.sort().values
    kept = candidates[order]
    features = torch.cat([asked(nodes[part])[1] for part in kept.split(chunk)])
    return Chosen(kept, distances[order], features, candidates, distances)


def _numbers(values: Tensor) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values.tolist()) + "]"
