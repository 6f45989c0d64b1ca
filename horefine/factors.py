"""Focal length and object size as variables: a chart's columns for them, and their part of the normal equations.

A variable is the natural logarithm of a factor of the pose (``scene.FACTORS``). A known object leaves focal length
and depth nearly free together: a longer lens farther away gives the same picture but for perspective. In the tangent
chart a step in focal length therefore takes hand and object along in depth, so that their pictures stay. An object
grows about the middle of its box, not about the origin of its mesh.

Second-order solvers need slopes: those of all residuals on a variable come from central differences of the frozen
forms' values, which asks nothing of a form and touches nothing where nothing is variable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from horefine.losses.forms import DenseRows, EdgeRows, Form, PointRows, Rows, Values, values_at
from horefine.scene import FACTORS, Pose, Scene
from horefine.tangent import CHARTS, Tangent, middles

__all__ = ["Factored", "border", "chart_for", "dense_border", "factor_columns", "value_slopes"]

STEP = 2e-3
"""Of the central differences, in the logarithm: residuals in single precision, which are smooth over this."""


def chart_for(name: str, variables: Sequence[str] = ()) -> Any:
    """One search's own chart (``tangent.CHARTS``), with a column for each variable (keys of ``scene.FACTORS``)."""
    chart = CHARTS[name]()
    return Factored(chart, variables) if variables else chart


class Factored:
    """A chart with further columns, the logarithms of some of the pose's factors (which must not be None)."""

    def __init__(self, chart: Any, variables: Sequence[str]) -> None:
        self.chart, self.variables = chart, tuple(variables)
        self.first = sum(map(len, chart.blocks.values()))
        own = {name: (self.first + place,) for place, name in enumerate(self.variables)}
        self.blocks: dict[str, tuple[int, ...]] = {**chart.blocks, **own}

    def penalty(self, scene: Scene) -> dict[str, Float[Tensor, "B"]]:
        """What the numbers themselves cost, by name."""
        return self.chart.penalty(scene)

    def gradient(self, scene: Scene, gradient: Pose) -> Float[Tensor, "B P"]:
        """The gradient in this chart, from the gradient on the pose's numbers."""
        pose, slopes = scene.pose.detach(), []
        for name in self.variables:
            factor = getattr(pose, FACTORS[name])
            slope = factor * getattr(gradient, FACTORS[name])
            if name == "object_scale":
                arm = pose.object_transl - scene.object_center.detach()
                slope = slope + (gradient.object_transl * arm).sum(1)
            elif isinstance(self.chart, Tangent):
                hand, thing = middles(scene)
                slope = slope + hand[:, 2] * gradient.hand_transl[:, 2] + thing[:, 2] * gradient.object_transl[:, 2]
            slopes.append(slope)
        return torch.cat([self.chart.gradient(scene, gradient), torch.stack(slopes, 1)], 1)

    def move(self, scene: Scene, step: Float[Tensor, "B P"]) -> Pose:
        """The pose reached from ``scene.pose`` by a step."""
        pose = self.chart.move(scene, step[:, : self.first])
        for name, factor in zip(self.variables, step[:, self.first :].exp().unbind(1), strict=True):
            pose = replace(pose, **{FACTORS[name]: getattr(pose, FACTORS[name]) * factor})
            if name == "object_scale":  # the middle of the box stays where it is
                grown = pose.place(scene.features.object.center[:, None])[:, 0] - pose.object_transl
                pose = replace(pose, object_transl=pose.object_transl + grown * (1 / factor - 1)[:, None])
            elif isinstance(self.chart, Tangent):
                ahead = step.new_tensor([0.0, 0.0, 1.0]) * (factor - 1)[:, None]
                hand, thing = middles(scene)
                pose = replace(
                    pose,
                    hand_transl=pose.hand_transl + ahead * hand[:, 2:],
                    object_transl=pose.object_transl + ahead * thing[:, 2:],
                )
        return pose


def factor_columns(scene: Scene, variables: Sequence[str]) -> Float[Tensor, "B 67 P"]:
    """What a step in each variable of the tangent chart is in plain columns (:mod:`horefine.jacobian`)."""
    hand, thing = middles(scene)
    columns = hand.new_zeros(len(hand), 67, len(variables))
    for place, name in enumerate(variables):
        if name == "focal":
            columns[:, 2, place], columns[:, 63, place] = hand[:, 2], thing[:, 2]
    return columns


def value_slopes(
    scene: Scene, forms: Mapping[str, Form], rows: Mapping[str, Sequence[Rows]], variables: Sequence[str]
) -> list[Values]:
    """Slopes of the values of all rows along each variable of the tangent chart: a last dimension of that size.

    Args:
        forms: frozen at ``scene``.
        rows: those of each form there.
    """
    chart = chart_for("tangent", variables)
    found: list[list[Values]] = []
    for place in range(len(variables)):
        step = scene.pose.hand_transl.new_zeros(len(scene.pose), chart.first + len(variables))
        step[:, chart.first + place] = STEP
        ends = [replace(scene, pose=chart.move(scene, s)) for s in (step, -step)]
        values = [[v for name in rows for v in values_at(forms[name], scene, there)] for there in ends]
        found.append([_difference(more, less) for more, less in zip(*values, strict=True)])
    return [_stacked(parts) for parts in zip(*found, strict=True)]


def _difference(more: Values, less: Values) -> Values:
    if isinstance(more, Tensor):
        assert isinstance(less, Tensor)
        return (more - less) / (2 * STEP)
    hand, thing = ([(a - b) / (2 * STEP) for a, b in zip(more[k], less[k], strict=True)] for k in (0, 1))
    return hand, thing


def _stacked(parts: Sequence[Values]) -> Values:
    if isinstance(parts[0], Tensor):
        return torch.stack([part for part in parts if isinstance(part, Tensor)], -1)
    hand, thing = ([np.stack(own, -1) for own in zip(*(part[k] for part in parts), strict=True)] for k in (0, 1))
    return hand, thing


def dense_border(
    rows: Sequence[Rows], slopes: Sequence[Values], batch: int, count: int
) -> tuple[Float[np.ndarray, "B 67 P"], Float[np.ndarray, "B P P"], Float[np.ndarray, "B P"]]:
    """What :func:`border` gives of one image, of all images' dense rows: ``J'd``, ``d'd`` and ``d'r``."""
    cross, square, pull = np.zeros((batch, 67, count)), np.zeros((batch, count, count)), np.zeros((batch, count))
    for row, slope in zip(rows, slopes, strict=True):
        if isinstance(row, DenseRows):
            assert isinstance(slope, Tensor)
            matrix, own, values = row.matrix.double(), slope.double(), row.values.double()
            cross += (matrix.mT @ own).numpy()
            square += (own.mT @ own).numpy()
            pull += (own.mT @ values[..., None])[..., 0].numpy()
    return cross, square, pull


def border(
    image: int,
    rows: Sequence[Rows],
    slopes: Sequence[Values],
    matrix: Float[np.ndarray, "N 67"],
    right: Float[np.ndarray, "N"],
    into: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Adds ``J'd``, ``d'd`` and ``d'r`` of one image's point and edge rows, d their values' slopes on the variables.

    Args:
        rows, slopes: all, in one order; the slopes from :func:`value_slopes`.
        matrix, right: the weighted rows of all that hangs on the hand, as the kernels wrote them: those of the point
            rows, then those of the edge rows.
        into: "67 P", "P P" and "P".
    """
    cross, square, pull = into
    own: list[np.ndarray] = []
    edges: list[np.ndarray] = []
    for row, slope in zip(rows, slopes, strict=True):
        if isinstance(row, PointRows):
            assert isinstance(slope, Tensor)
            root = row.weight[image].double().numpy() ** 0.5
            weighted = slope[image].double().numpy() * root[:, None, None]
            if row.point.shape[2]:
                own.append(weighted[root > 0].reshape(-1, weighted.shape[-1]))
                continue
            six = (row.wrench[image].double().numpy() * root[:, None, None]).reshape(-1, 6)
            values = (row.values[image].double().numpy() * root[:, None]).reshape(-1)
            alone = weighted.reshape(-1, weighted.shape[-1])
        elif isinstance(row, EdgeRows):
            assert not isinstance(slope, Tensor)
            edges.append(slope[0][image].astype(np.float64))
            values, six = row.object[image]
            alone = slope[1][image].astype(np.float64)
        else:
            continue
        cross[61:] += six.T @ alone
        square += alone.T @ alone
        pull += alone.T @ values
    whole = np.concatenate([np.zeros((0, len(pull))), *own, *edges])
    cross += matrix.T @ whole
    square += whole.T @ whole
    pull += whole.T @ right
