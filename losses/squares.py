"""Losses as sums of squares: what a second-order solver needs to know of them besides their value.

A loss that is a sum of (robust) squares has an entry in :data:`SQUARES`: a function that makes its least-squares form
for one stage, from the term's weight, its inputs and its options (sigmas settled). The form is asked in three steps::

    form.freeze(scene)   -> the form with everything that jumps (which face a pixel sees) held as it is at ``scene``
    frozen.cost(scene)   -> the weighted value at a scene nearby: smooth; at the scene of the freeze, the loss itself
    frozen.rows(scene)   -> residuals and slopes there, weights applied (Gauss-Newton, robust kernels by reweighting)

Slopes are given where they are simple: on points of the hand (the solver knows how each moves with the 61 numbers of
the hand) and on the six numbers of the rigid object. Everything here is plain torch on a whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from horefine.losses import appearance, contact, measured, prior, robust, sequence
from horefine.losses.contact_squares import contact_squares, penetration_squares, spring_squares
from horefine.losses.forms import DenseRows, Form, PointRows, Rows
from horefine.losses.image_squares import code_squares, depth_squares, pair_squares
from horefine.losses.photometric_squares import photometric_squares
from horefine.losses.prior_squares import (
    articulation_squares,
    factor_prior_squares,
    offset_squares,
    orientation_squares,
    pose_prior_squares,
    shape_prior_squares,
)
from horefine.losses.sequence_squares import temporal_squares
from horefine.losses.silhouette_squares import silhouette_squares

__all__ = ["SQUARES", "DenseRows", "Form", "PointRows", "Rows"]

Maker = Callable[..., Form | None]
SQUARES: Mapping[Callable[..., Tensor], Maker] = {
    robust.surface_reprojection: pair_squares(flat=True),
    robust.surface_depth: pair_squares(flat=False),
    robust.rendered_code: code_squares,
    robust.rendered_depth: depth_squares,
    robust.silhouette: silhouette_squares,
    measured.measured_depth: measured.measured_squares,
    appearance.photometric: photometric_squares,
    contact.contact: contact_squares,
    contact.spring_length: spring_squares,
    contact.penetration: penetration_squares,
    prior.articulation: articulation_squares,
    prior.factor_prior: factor_prior_squares,
    prior.offset: offset_squares,
    prior.orientation: orientation_squares,
    prior.pose_prior: pose_prior_squares,
    prior.shape_prior: shape_prior_squares,
    sequence.temporal: temporal_squares,
}
"""How each loss is written as squares: ``maker(scene, weight, **inputs, **options) -> Form``, or None where the options
make it something else."""
