"""Losses on signed distances, fused (:mod:`horefine.fused`); the kernels are in ``losses.fused_distance_kernels``.

Readable twins: ``contact.penetration``, ``contact.contact`` and ``field.sdf_consistency``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from horefine.fused import Posed, Pull
from horefine.losses import fused_distance_kernels as kernels
from horefine.losses.fused_lists import single
from horefine.losses.surfaces import ObjectPoints, hand_surface
from horefine.mesh import DistanceGrid
from horefine.scene import Scene

__all__ = [
    "FusedContact",
    "FusedFields",
    "FusedPenetration",
    "contact_maker",
    "field_maker",
    "penetration_maker",
]


@dataclass(frozen=True)
class FusedGrids:
    """Distance grids of a batch, as plain arrays."""

    values: Float[np.ndarray, "B D D D"]
    origin: Float[np.ndarray, "B 3"]
    spacing: Float[np.ndarray, "B"]

    @staticmethod
    def of(grid: DistanceGrid) -> FusedGrids:
        """The same grids, not copied."""
        return FusedGrids(grid.values.contiguous().numpy(), single(grid.origin), single(grid.spacing))

    def box(self, below: float) -> Float[np.ndarray, "B 2 3"]:
        """Lowest and highest corner of the cells with a node below that distance (empty: high below low)."""
        found = np.empty((len(self.values), 2, 3), np.float32)
        last = self.values.shape[1] - 1
        for image, values in enumerate(self.values):
            front, side = (values < below).any(2), (values < below).any(0)
            for axis, line in enumerate((front.any(1), front.any(0), side.any(0))):
                low = np.flatnonzero(line)
                ends = np.array([low[0] - 1, low[-1] + 1] if len(low) else [1, 0]).clip(0, last)
                found[image, :, axis] = self.origin[image, axis] + ends * self.spacing[image]
        return found


@dataclass(frozen=True)
class FusedPenetration:
    """Squared depth of the hand's vertices and inner balls in the object."""

    grids: FusedGrids
    box: Float[np.ndarray, "B 4 3"]
    """Two corners of a box outside of which no vertex is inside the object, and the object's own two."""
    area: Float[np.ndarray, "N"]
    """Of vertices and balls: what the squared depth, metres, is multiplied with."""
    places: Int[np.ndarray, "K M"]
    """Joints that make up a ball's centre."""
    shares: Float[np.ndarray, "K M"]
    ring: Int[np.ndarray, "K R"]
    """Vertices around a ball."""
    ratio: Float[np.ndarray, "K"]
    """Radius over the distance to the nearest of them."""
    tolerance: np.float32
    wants: frozenset[str] = frozenset()

    def add(self, posed: Posed, pull: Pull, values: Float[np.ndarray, "B"], first: int, last: int) -> None:
        """See :class:`horefine.fused.FusedLoss`."""
        grids = self.grids
        kernels.pull_penetration(
            first, last, posed.hand, posed.joints, posed.object_turn, posed.object_transl, posed.object_center,
            grids.values, grids.origin, grids.spacing, self.box, self.area, self.places, self.shares, self.ring,
            self.ratio, self.tolerance, values, pull.hand, pull.joints, pull.force, pull.torque,
        )  # fmt: skip


def penetration_maker(scene: Scene, weight: float, *, sigma: float, tolerance: float, **_: Any) -> FusedPenetration:
    """Maker of ``penetration``."""
    thing = scene.features.object
    surface, grids = hand_surface(scene.hand_model), FusedGrids.of(thing.grid)
    count = len(surface.radius)
    share = (surface.area.sum() / count).expand(count)
    area = torch.cat([surface.area, share]) * (1e4 * weight / sigma**2)
    most = int((surface.balls != 0).sum(1).max())
    shares, places = surface.balls.topk(most, dim=1)
    box = grids.box(-tolerance)  # where a trilinear value is below this, one of its eight nodes is
    if tolerance < 0:  # outside the grid too
        box[:, 0], box[:, 1] = -np.inf, np.inf
    own = single(torch.stack(thing.box, 1))
    return FusedPenetration(
        grids, np.concatenate([box, own], 1), single(area), places.int().contiguous().numpy(), single(shares),
        surface.ring.int().contiguous().numpy(), single(surface.radius), np.float32(tolerance),
    )  # fmt: skip


@dataclass(frozen=True)
class FusedContact:
    """Tukey's biweight of the distance of the hand's regions to the object."""

    grids: FusedGrids
    start: Int[np.ndarray, "18"]
    """First of each region's vertices in ``vertex``, and the end."""
    vertex: Int[np.ndarray, "N"]
    radius: np.float32
    softness: np.float32
    weight: np.float32
    wants: frozenset[str] = frozenset()

    def add(self, posed: Posed, pull: Pull, values: Float[np.ndarray, "B"], first: int, last: int) -> None:
        """See :class:`horefine.fused.FusedLoss`."""
        grids = self.grids
        kernels.pull_contact(
            first, last, posed.hand, posed.object_turn, posed.object_transl, posed.object_center,
            grids.values, grids.origin, grids.spacing, self.start, self.vertex, self.radius, self.softness, self.weight,
            values, pull.hand, pull.force, pull.torque,
        )  # fmt: skip


def contact_maker(scene: Scene, weight: float, *, radius: float, softness: float, **_: Any) -> FusedContact:
    """Maker of ``contact``."""
    surface = hand_surface(scene.hand_model)
    real = surface.palmar_real > 0
    start = torch.cat([torch.zeros(1, dtype=torch.long), real.sum(1).cumsum(0)]).numpy()
    vertex = surface.palmar[real].int().numpy()
    grids = FusedGrids.of(scene.features.object.grid)
    return FusedContact(grids, start, vertex, np.float32(radius), np.float32(softness), np.float32(weight))


@dataclass(frozen=True)
class FusedFields:
    """What the surfaces of hand and object are off the zero levels of the regressor's fields."""

    points: Float[np.ndarray, "B P 3"]
    """Of the object's surface, in its own frame."""
    hand: FusedGrids
    object: FusedGrids
    """Camera frame, both."""
    area: Float[np.ndarray, "V"]
    """What a vertex of the hand that is far off costs; of all of them the loss' weight."""
    share: np.float32
    """What a point of the object does."""
    per_sigma: np.float32
    per_margin: np.float32
    """One over the squares of sigma and margin."""
    wants: frozenset[str] = frozenset()

    def add(self, posed: Posed, pull: Pull, values: Float[np.ndarray, "B"], first: int, last: int) -> None:
        """See :class:`horefine.fused.FusedLoss`."""
        kernels.pull_fields(
            first, last, posed.hand, posed.object_turn, posed.object_transl, posed.object_center, self.points,
            self.hand.values, self.hand.origin, self.hand.spacing,
            self.object.values, self.object.origin, self.object.spacing,
            self.area, self.share, self.per_sigma, self.per_margin, values, pull.hand, pull.force, pull.torque,
        )  # fmt: skip


def field_maker(
    scene: Scene, weight: float, *, object_points: ObjectPoints, hand_sdf: DistanceGrid, object_sdf: DistanceGrid,
    sigma: float, margin: float, **_: Any,
) -> FusedFields:  # fmt: skip
    """Maker of ``sdf_consistency``."""
    area, points = hand_surface(scene.hand_model).area, single(object_points.points)
    return FusedFields(
        points, FusedGrids.of(hand_sdf), FusedGrids.of(object_sdf), single(area * (weight / area.sum())),
        np.float32(weight / points.shape[1]), np.float32(1 / sigma**2), np.float32(1 / margin**2),
    )  # fmt: skip
