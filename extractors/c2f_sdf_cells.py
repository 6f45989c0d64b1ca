"""Where C2F-SDF asks its fields: the published sparse reconstruction's cells, chosen from what it knows beforehand.

A coarse map of the cube about the wrist says where hand and object may be: the network's heat map, and 2 in every cell
with a vertex of the predicted hand, a point of the depth map near one of the coarse surfaces, or such an object's point
mirrored about the object's centre (the paper's symmetry of hidden sides). What is nearly empty is cut away, the rest is
smoothed, and each cell above a threshold is divided into a lattice on which both fine fields are asked
(``surface_official.cell_surface``).

All points here are in the cube: ``(X - wrist) * scale``, -1 to 1. ``extractors.surface`` needs no such guess: it
follows the surface itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from horefine.errors import SurfaceError

__all__ = ["Cells", "merged_heat", "ser_cells", "splat_points"]

EMPTY, USED, SURE = 0.005, 2.5, 2.0
"""Heat of a cell that counts as none; of a slice of the map that counts; that a known point gives its cell."""
NEAR_HAND, NEAR_OBJECT = 0.02, 0.04
"""Coarse distances, normalised, within which points of the depth map belong to a surface."""


@dataclass(frozen=True)
class Cells:
    """The cells to be asked, of a cube of ``side`` cells along each axis cut out of the whole cube's ``bins``."""

    index: Int[Tensor, "C"]
    """Numbers of the cells in the cut, z fastest."""
    low: tuple[int, int, int]
    """The cut's first cell."""
    side: int
    bins: int
    sub: int
    """Lattice points of a cell along each axis."""

    @property
    def count(self) -> int:
        """Lattice points of the cut along each axis."""
        return self.sub * self.side

    @property
    def origin(self) -> Float[Tensor, "3"]:
        """The first lattice point."""
        return torch.tensor(self.low) * (2 / self.bins) - 1

    @property
    def step(self) -> float:
        """Between lattice points."""
        return 2 / (self.count - 1) * self.side / self.bins

    def nodes(self) -> Int[Tensor, "K"]:
        """Numbers of the lattice points of all cells, cell by cell, in the cut's lattice (z fastest)."""
        cell = torch.stack(
            [self.index // self.side**2, self.index // self.side % self.side, self.index % self.side], -1
        )
        steps = torch.arange(self.sub, device=self.index.device)
        inner = torch.cartesian_prod(steps, steps, steps).view(-1, 3)
        whole = cell[:, None] * self.sub + inner
        return ((whole[..., 0] * self.count + whole[..., 1]) * self.count + whole[..., 2]).flatten()


def ser_cells(heat: Float[Tensor, "G G G"], resolution: int = 128) -> Cells:
    """The cells of a merged map (:func:`merged_heat`) that are asked.

    Args:
        heat: Axes x, y, z.
        resolution: Lattice points along a side of the cut, at most.

    Raises:
        SurfaceError: no part of the map is warm enough.
    """
    heat = torch.where(heat < EMPTY, 0.0, heat)
    bins = len(heat)
    spans = []
    for axis in range(3):
        used = (heat.sum([other for other in range(3) if other != axis]) > USED).nonzero()[:, 0].tolist()
        if not used:
            raise SurfaceError(
                f"C2F-SDF's map of hand and object shows nothing (no slice above {USED}): the crop shows no hand, or "
                "the depth map does not belong to it; extract the surface without it (extract_surface)"
            )
        spans.append((used[0], used[-1]))
    side = max(last - first for first, last in spans) + 1
    x, y, z = (min(first, bins - side) for first, _ in spans)
    cut = heat[x : x + side, y : y + side, z : z + side]
    padded = torch.nn.functional.pad(cut[None, None], (1,) * 6, mode="replicate")
    warm = torch.nn.functional.avg_pool3d(padded, 3, 1)[0, 0] > EMPTY
    return Cells(warm.flatten().nonzero()[:, 0], (x, y, z), side, bins, resolution // side)


def merged_heat(heat: Float[Tensor, "2 G G G"], known: Float[Tensor, "M 3"]) -> Float[Tensor, "G G G"]:
    """The maps of hand and object together, and :data:`SURE` more in every cell with a ``known`` point."""
    bins = heat.shape[-1]
    index = ((known + 1) / 2 * bins).trunc().long().clamp(0, bins - 1)
    sure = torch.zeros(bins, bins, bins, dtype=torch.bool, device=heat.device)
    sure[index[:, 0], index[:, 1], index[:, 2]] = True
    return heat.sum(0) + SURE * sure


def splat_points(
    points: Float[Tensor, "N 3"], coarse: Float[Tensor, "N 2"], center: Float[Tensor, "3"] | None,
    vertices: Float[Tensor, "V 3"] | None = None,
) -> Float[Tensor, "M 3"]:  # fmt: skip
    """The points that :func:`merged_heat` is sure of.

    Args:
        points: Of the depth map.
        coarse: Distances to hand and object there, normalised.
        center: The object's; None leaves its hidden side out.
        vertices: Of the predicted hand.
    """
    own, other = points[_near(coarse[:, 0], NEAR_HAND)], points[_near(coarse[:, 1], NEAR_OBJECT)]
    parts = [] if vertices is None else [vertices]
    parts += [own, other]
    if center is not None:
        parts.append(2 * center - other)
    return torch.cat(parts)


def _near(distance: Float[Tensor, "N"], limit: float) -> Bool[Tensor, "N"]:
    return distance.abs() <= limit
