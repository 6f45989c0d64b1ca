"""Walking downhill by first derivatives: one stage of Adam on the objective of a batch, eager or fused.

*Eager* is torch throughout: any device, any chart, any variable, any loss. *Fused* is the same step on plain arrays
(:mod:`horefine.fused`): pose, render, ask every loss, take what they pull on back to the chart's coordinates, judge,
step and move, one call for each stage of that and no tensor in between. Losses without a fused form are evaluated
eagerly beside it and their gradient added. ``descend`` takes the fused way where there is one; both give the same
trajectory up to single precision. (Over hundreds of steps two such trajectories part: Adam divides a gradient by its
own size, so where a coordinate has come to rest the step is as long as ever and its sign is decided by rounding, and
faces seen or not by a pixel make the objective jump.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from horefine import iteration_kernels as kernels
from horefine.adam import Plateau
from horefine.captured import walk_captured
from horefine.compiling import compiling
from horefine.descent import Eager, Search, Walked, walk_eagerly
from horefine.factors import chart_for
from horefine.fused_objective import Fused, fused_losses, fusible
from horefine.objective import Objective
from horefine.scene import Pose, Scene
from horefine.tangent import flat_rates, flat_to_pose, pose_to_flat
from horefine.threads import over_items as over_images

__all__ = ["descend"]


def descend(
    objective: Objective,
    pose: Pose,
    scene_of: Callable[[Pose], Scene],
    search: Search,
    report: Callable[[int], Any] = lambda step: None,
    variables: Sequence[str] = (),
) -> Walked:
    """As many steps from ``pose`` as the search has scales.

    Args:
        objective: settled.
        scene_of: the scene of a pose of the whole batch.
        report: called with the number of steps after each.
        variables: keys of ``scene.FACTORS`` that are searched too; the pose has those factors.
    """
    eager = Eager(objective, scene_of, chart_for(search.parameters, variables))
    if search.graph:
        return walk_captured(eager, pose, search, report)
    if search.fused and not variables and fusible(scene_of(pose), search.parameters):
        losses = fused_losses(objective, scene_of(pose))
        if losses:
            fused = Fused.of(objective, losses, scene_of, pose, search.parameters)
            with compiling("the fused iteration") as first:
                if first:
                    fused.evaluate(pose)
            return _Walker(fused, pose, search).walk(report)
    return walk_eagerly(eager, pose, search, report)


class _Walker:
    """One stage on a :class:`Fused` objective: Adam's and the plateaus' state, the best poses, the history."""

    def __init__(self, fused: Fused, pose: Pose, search: Search) -> None:
        fused.put(pose)
        batch, steps = len(pose), len(search.scales)
        self.fused, self.search, self.step = fused, search, 0
        self.values, self.total = np.zeros((steps + 1, len(fused.names), batch)), np.zeros((steps + 1, batch))
        self.best = pose_to_flat(pose).detach().numpy().copy()
        self.lowest, self.best_step = np.full(batch, np.inf), np.zeros(batch, np.int64)
        self.rates = flat_rates(search.rates, pose.hand_transl).double().numpy()
        self.moments = tuple(np.zeros((batch, 67)) for _ in range(3))  # mean, mean square, and the step itself
        self.plateau = np.ones(batch), np.full(batch, np.inf), np.zeros(batch, np.int64)

    def walk(self, report: Callable[[int], Any]) -> Walked:
        """All steps of the search."""
        batch, steps = len(self.best), len(self.search.scales)
        for step in range(steps + 1):
            self.step = step
            if self.fused.rest is None:
                over_images(self._both, batch)
            else:
                over_images(self._add, batch)
                self.fused.add_rest(self.values[step])
                over_images(self._advance, batch)
            if step < steps:
                report(step + 1)
        return Walked(flat_to_pose(torch.from_numpy(self.best)), torch.from_numpy(self.best_step), self._history())

    def _both(self, first: int, last: int) -> None:
        self._add(first, last)
        self._advance(first, last)

    def _add(self, first: int, last: int) -> None:
        self.fused.add(self.values[self.step], first, last)

    def _advance(self, first: int, last: int) -> None:
        """Judges where the images are and moves them on; the last pose is judged too, but not moved."""
        posed, fused, search, step = self.fused.posed, self.fused, self.search, self.step
        kernels.judge(
            first, last, self.values[step], self.total[step], step, search.keep_last,
            posed.rotvec, posed.shape, posed.transl, posed.object_rotvec, posed.object_transl,
            self.best, self.lowest, self.best_step,
        )  # fmt: skip
        if step == len(search.scales):
            return
        kernels.adam(
            first, last, fused.gradient, self.rates, *search.betas, search.epsilon, step + 1, search.least,
            search.scales[step], self.total[step], search.patience or 0, search.cut, Plateau.threshold,
            *self.plateau, *self.moments,
        )  # fmt: skip
        kernels.move(
            first, last, fused.chart, self.moments[2], fused.middle, posed.joints, posed.object_center,
            posed.rotvec, posed.shape, posed.transl, posed.object_rotvec, posed.object_transl,
        )  # fmt: skip

    def _history(self) -> list[dict[str, Float[Tensor, "B"]]]:
        table = np.concatenate([self.total[:-1, None], self.values[:-1]], 1).astype(np.float32)
        names = ("total", *self.fused.names)
        return [dict(zip(names, row.unbind(0), strict=True)) for row in torch.from_numpy(table).unbind(0)]
