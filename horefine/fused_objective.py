"""An objective on plain arrays: pose, render, ask every fused loss, take what they pull on to the chart's coordinates.

Losses without a fused form are evaluated eagerly at the same pose, and their gradient is added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from horefine import iteration_kernels as kernels
from horefine.descent import Eager
from horefine.factors import chart_for
from horefine.fused import FusedLoss, Posed, Pull
from horefine.fused_render import Drawing
from horefine.hand_slopes import HandPoser
from horefine.losses.fused import FUSED, Joint, joined
from horefine.objective import Objective, options_of
from horefine.scene import Pose, Scene
from horefine.threads import over_items as over_images

__all__ = ["CHARTS", "Fused", "fused_losses", "fusible"]

CHARTS = ("axis_angle", "tangent")
"""Those that have kernels; the number of each says so to them."""


def fusible(scene: Scene, parameters: str) -> bool:
    """Whether the fused way exists for such poses, losses aside."""
    numbers, known = scene.pose.hand_transl, len(list(scene.pose.items())) == len(Pose.names)
    plain = numbers.device.type == "cpu" and numbers.dtype == torch.float32 and scene.renderer.name == "cpu"
    return plain and known and parameters in CHARTS


def fused_losses(objective: Objective, scene: Scene) -> dict[str, FusedLoss]:
    """Those terms of a settled objective that have a fused form (an attribute ``fused`` of the loss, or ``FUSED``)."""
    found: dict[str, FusedLoss] = {}
    for name, term in objective.terms.items():
        maker = getattr(term.function, "fused", None) or FUSED.get(term.function)
        given = {key: objective.inputs[key] for key in term.inputs}
        loss = maker and maker(scene, term.weight, **given, **{**options_of(term.function), **term.options})
        if loss is not None:
            found[name] = loss
    return found


@dataclass(frozen=True, eq=False)
class Fused:
    """An objective in a chart on plain arrays, which are written anew at every pose; made by :meth:`of`."""

    names: tuple[str, ...]
    """Of the losses, in the order of their rows in ``values``."""
    losses: list[Joint]
    """With their rows; those that look at the same pixels or pairs in one pass."""
    rest: Eager | None
    """Losses without a fused form."""
    chart: int
    """Number in ``CHARTS``."""
    posed: Posed
    pull: Pull
    poser: HandPoser
    drawing: Drawing
    points: Float[np.ndarray, "B W 3"]
    box: Float[np.ndarray, "B 3"]
    """Vertices of the object and centre of their box, object frame."""
    middle: Float[np.ndarray, "B 3"]
    """Of the hand's vertices."""
    gradient: Float[np.ndarray, "B 67"]

    @staticmethod
    def of(
        objective: Objective,
        losses: Mapping[str, FusedLoss],
        scene_of: Callable[[Pose], Scene],
        pose: Pose,
        parameters: str,
    ) -> Fused:
        """For poses like ``pose``; ``losses`` from :func:`fused_losses`."""
        scene, batch, names = scene_of(pose.detach()), len(pose), tuple(objective.terms)
        remaining = {name: term for name, term in objective.terms.items() if name not in losses}
        rest = Eager(replace(objective, terms=remaining), scene_of, chart_for(parameters)) if remaining else None
        points = np.ascontiguousarray(scene.features.object.vertices.numpy(), np.float32)
        count, size = len(scene.hand_model.template), scene.renderer.size
        posed = Posed.empty(batch, count, points.shape[1], size)
        wants = frozenset(want for loss in losses.values() for want in loss.wants)
        return Fused(
            names, joined({names.index(name): loss for name, loss in losses.items()}), rest, CHARTS.index(parameters),
            posed, Pull.zeros(batch, count, size), HandPoser.of(scene.hand_model, batch),
            Drawing.of(scene.renderer, posed, wants), points,
            np.ascontiguousarray(scene.features.object.center.numpy(), np.float32),
            np.zeros((batch, 3)), np.zeros((batch, 67)),
        )  # fmt: skip

    def put(self, pose: Pose) -> None:
        """Takes the numbers of a pose."""
        for into, value in zip(self._numbers, [getattr(pose, name) for name in Pose.names], strict=True):
            into[...] = value.detach().numpy()

    @property
    def _numbers(self) -> tuple[np.ndarray, ...]:
        posed = self.posed
        return posed.rotvec, posed.shape, posed.transl, posed.object_rotvec, posed.object_transl

    @property
    def pose(self) -> Pose:
        """The numbers as they are, in the arrays' own memory."""
        return Pose(*(torch.from_numpy(value) for value in self._numbers))

    def add(self, values: Float[np.ndarray, "L B"], first: int, last: int) -> None:
        """Adds the fused losses of images ``first`` to ``last - 1`` to ``values`` (zero) and writes ``gradient``."""
        pull = self.pull
        self.place(first, last)
        self.drawing.draw(first, last)
        kernels.clear(
            first, last, pull.hand, pull.joints, pull.turns, pull.shape, pull.transl, pull.force, pull.torque,
            pull.object_transl, pull.masks, self.drawing.masks,
        )  # fmt: skip
        for loss in self.losses:
            loss.add(self.posed, pull, values, first, last)
        self.collect(first, last)

    def place(self, first: int, last: int) -> None:
        """Poses hands and objects."""
        posed = self.posed
        self.poser.pose(posed, first, last)
        kernels.place_objects(
            first, last, posed.object_rotvec, posed.object_transl, self.points, self.box,
            posed.object_turn, posed.object_center, posed.object,
        )  # fmt: skip

    def collect(self, first: int, last: int) -> None:
        """Takes what was pulled on to the coordinates of the chart: writes ``gradient`` and ``middle``."""
        posed, pull = self.posed, self.pull
        self.drawing.pull(pull, first, last)
        self.poser.pull(posed, pull, first, last, self.drawing.on_hand)
        kernels.pull_objects(
            first, last, posed.object, posed.object_center, self.drawing.on_object, pull.force, pull.torque
        )
        kernels.chart_gradient(
            first, last, self.chart, posed.rotvec, posed.turns, posed.hand, posed.joints,
            posed.object_rotvec, posed.object_transl, posed.object_center,
            pull.turns, pull.shape, pull.transl, pull.force, pull.torque, pull.object_transl,
            self.middle, self.gradient,
        )  # fmt: skip

    def add_rest(self, values: Float[np.ndarray, "L B"]) -> None:
        """Adds the losses that have no fused form, of all images."""
        if self.rest is not None:
            found, gradient = self.rest.evaluate(self.pose)
            for name, value in found.items():
                values[self.names.index(name)] = value.numpy()
            self.gradient[...] += gradient.numpy()

    def evaluate(self, pose: Pose) -> tuple[dict[str, Float[Tensor, "B"]], Float[Tensor, "B 67"]]:
        """Weighted value of each loss, and the gradient of their sum, as :meth:`Eager.evaluate`."""
        self.put(pose)
        values = np.zeros((len(self.names), len(pose)))
        over_images(lambda first, last: self.add(values, first, last), len(pose))
        self.add_rest(values)
        rows = torch.from_numpy(values.astype(np.float32)).unbind(0)
        return dict(zip(self.names, rows, strict=True)), torch.from_numpy(self.gradient.astype(np.float32))
