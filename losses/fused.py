"""Losses that give value and gradient in one pass over plain arrays (:mod:`horefine.fused` says how and why).

A maker gets what those of ``losses.squares`` get: the scene at which a stage begins, the weight, the loss' inputs by
name and all its options, ``auto`` ones settled. It runs once for each stage, in torch; what it returns is asked at
every iteration and calls one compiled kernel on arrays made beforehand. The eager losses are the readable twins:
``tests/test_fused_losses.py`` compares value and gradient of every one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from horefine.fused import FusedLoss, Posed, Pull
from horefine.losses import appearance, contact, field, image, measured, prior, robust, sequence
from horefine.losses.fused_clip import temporal_maker
from horefine.losses.fused_distance import contact_maker, field_maker, penetration_maker
from horefine.losses.fused_masks import segmentation_maker, silhouette_maker
from horefine.losses.fused_pairs import FusedPairs, surface_maker, vertex_maker
from horefine.losses.fused_pixels import (
    FusedPixels,
    code_maker,
    color_maker,
    depth_maker,
    measured_maker,
    relative_maker,
)
from horefine.losses.fused_priors import (
    anatomy_maker,
    articulation_maker,
    offset_maker,
    orientation_maker,
    pose_maker,
    shape_maker,
)
from horefine.losses.fused_springs import spring_maker

__all__ = ["FUSED", "Joint", "joined"]

Maker = Callable[..., FusedLoss | None]
FUSED: Mapping[Callable[..., Tensor], Maker] = {
    robust.surface_reprojection: surface_maker(of_depth=False),
    robust.surface_depth: surface_maker(of_depth=True),
    robust.rendered_code: code_maker,
    robust.rendered_depth: depth_maker,
    robust.silhouette: silhouette_maker,
    contact.spring_length: spring_maker,
    contact.penetration: penetration_maker,
    contact.contact: contact_maker,
    field.sdf_consistency: field_maker,
    measured.measured_depth: measured_maker,
    prior.pose_prior: pose_maker,
    prior.shape_prior: shape_maker,
    prior.anatomy: anatomy_maker,
    prior.offset: offset_maker,
    prior.articulation: articulation_maker,
    prior.orientation: orientation_maker,
    appearance.photometric: color_maker,
    sequence.temporal: temporal_maker,
    image.segmentation: segmentation_maker,
    image.relative_depth: relative_maker,
    image.dense_mapping: vertex_maker(of_depth=False),
    image.correspondence_depth: vertex_maker(of_depth=True),
}
"""Maker of each loss: ``maker(scene, weight, **inputs, **options) -> FusedLoss``, or None where inputs or options make
it something that has no fused form."""


@dataclass(frozen=True)
class Joint:
    """One fused loss, or two in one pass, and the rows of a table of values that they add to."""

    rows: tuple[int, ...]
    loss: FusedLoss

    @property
    def wants(self) -> frozenset[str]:
        """See :class:`horefine.fused.FusedLoss`."""
        return self.loss.wants

    def add(self, posed: Posed, pull: Pull, values: Float[np.ndarray, "L B"], first: int, last: int) -> None:
        """Adds the weighted values of images ``first`` to ``last - 1`` to their rows and the gradient to ``pull``."""
        if len(self.rows) == 2 and isinstance(self.loss, FusedPixels | FusedPairs):
            self.loss.add_both(posed, pull, values[self.rows[0]], values[self.rows[1]], first, last)
        else:
            self.loss.add(posed, pull, values[self.rows[0]], first, last)


def joined(losses: Mapping[int, FusedLoss]) -> list[Joint]:
    """The losses by their rows, two and two in one pass where they look at the same pixels or pairs.

    ``rendered_code`` takes the depth of the same pixels along, ``surface_reprojection`` that of the same points.
    """
    found, taken = [], set()
    for row, loss in losses.items():
        if row in taken or not isinstance(loss, FusedPixels | FusedPairs):
            continue
        for other, more in losses.items():
            both = loss.joined(more) if other not in {row, *taken} else None
            if both is not None:
                found.append(Joint((row, other), both))
                taken |= {row, other}
                break
    return found + [Joint((row,), loss) for row, loss in losses.items() if row not in taken]
