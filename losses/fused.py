"""Losses that give value and gradient in one pass over plain arrays (:mod:`horefine.fused` says how and why).

A maker gets what those of ``losses.squares`` get: the scene at which a stage begins, the weight, the loss' inputs by
name and all its options, ``auto`` ones settled. It runs once for each stage, in torch; what it returns is asked at
every iteration and calls one compiled kernel on arrays made beforehand. The eager losses are the readable twins:
``tests/test_fused_losses.py`` compares value and gradient of every one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from horefine.fused import FusedLoss
from horefine.losses import appearance, contact, field, image, measured, prior, robust, sequence
from horefine.losses.fused_clip import temporal_maker
from horefine.losses.fused_distance import contact_maker, field_maker, penetration_maker
from horefine.losses.fused_masks import segmentation_maker, silhouette_maker
from horefine.losses.fused_pairs import surface_maker, vertex_maker
from horefine.losses.fused_pixels import code_maker, color_maker, depth_maker, measured_maker, relative_maker
from horefine.losses.fused_priors import (
    anatomy_maker,
    articulation_maker,
    offset_maker,
    orientation_maker,
    pose_maker,
    shape_maker,
)
from horefine.losses.fused_springs import spring_maker

__all__ = ["FUSED"]

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
