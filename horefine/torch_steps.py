"""Levenberg-Marquardt in plain batched torch: the readable twin of the kernels' walk, and the way on a GPU.

The same steps, verdicts and best poses as :mod:`horefine.levenberg_marquardt`, image by image, but everything about
them stays on the device: dampings, verdicts and counters are tensors, each step does the same operations whatever
came of the last, and the host only queues them. It looks up once in :data:`LOOK` steps, to stop when all are done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from horefine.factors import chart_for
from horefine.levenberg_marquardt import EASE, LEAST, MOST, Damping, Descent, _choose, _chosen, _where, frozen_forms
from horefine.losses.forms import Form
from horefine.objective import Objective
from horefine.scene import Pose, Scene
from horefine.torch_equations import damped_steps, normal_equations

__all__ = ["minimise"]

LOOK = 4
"""Steps after which the host asks whether every image is done."""


@torch.no_grad()
def minimise(
    objective: Objective,
    pose: Pose,
    scene_of: Callable[[Pose], Scene],
    steps: int,
    damping: Damping,
    report: Callable[[int], Any] = lambda step: None,
    variables: Sequence[str] = (),
    fewer: Any = None,
) -> Descent:
    """At most ``steps`` steps from ``pose``; the contract of ``levenberg_marquardt.minimise``, on any device.

    No image leaves the batch before all are done (which they are, the host does not know): ``fewer`` is not called.

    Raises:
        ConfigError: somebody's own loss whose squares are of outlines (``forms.EdgeRows``), which only kernels know.
    """
    walk = _Walker.begin(objective, scene_of(pose), damping, tuple(variables))
    values, best_step, left = [], torch.zeros_like(walk.done, dtype=torch.long), []
    for step in range(steps):
        values.append(walk.values)
        walk = walk.step(scene_of, step == steps - 1)
        best_step = torch.where(walk.improved, step + 1, best_step)
        left.append(~walk.done.all())
        report(step + 1)
        if (step + 1) % LOOK == 0 and step + 1 < steps and not left[-1]:
            break
    made = min(1 + int(torch.stack(left).sum()), len(values))  # steps that some image was not done before
    return Descent(walk.best, best_step.clamp(max=made - 1), values[:made])


@dataclass(frozen=True)
class _Walker:
    """The state of a batch between two steps."""

    scene: Scene
    forms: Mapping[str, Form]
    """Frozen at ``scene``."""
    values: dict[str, Float[Tensor, "B"]]
    """Cost of each form there."""
    normal: Float[Tensor, "B P P"]
    right: Float[Tensor, "B P"]
    options: Damping
    free: Float[Tensor, "P"]
    """1 for columns that move, else 0."""
    damping: Float[Tensor, "B"]
    harder: Float[Tensor, "B"]
    """What the next refusal multiplies the damping with (Nielsen 1999)."""
    done: Bool[Tensor, "B"]
    best: Pose
    lowest: Float[Tensor, "B"]
    improved: Bool[Tensor, "B"]
    """Whether ``best`` is of the last step."""
    variables: tuple[str, ...] = ()

    @staticmethod
    def begin(objective: Objective, scene: Scene, options: Damping, variables: tuple[str, ...] = ()) -> _Walker:
        forms = frozen_forms(objective, scene, fused=False)
        values = {name: form.cost(scene) for name, form in forms.items()}
        total = _total(values)
        normal, right = normal_equations(scene, forms, variables)
        free, first = torch.ones(right.shape[1], dtype=right.dtype), torch.full_like(total, options.first)
        free[list(options.still)] = 0
        done, improved = ~total.isfinite(), torch.zeros_like(total, dtype=torch.bool)
        return _Walker(
            scene, forms, values, normal, right, options, free.to(right.device), first, torch.full_like(total, 4.0),
            done, scene.pose, total, improved, variables,
        )  # fmt: skip

    def step(self, scene_of: Callable[[Pose], Scene], last: bool = False) -> _Walker:
        """Tries one step for every image that is not done; after the ``last`` the equations are not looked at."""
        total, options = _total(self.values), self.options
        delta = damped_steps(self.normal, self.right, self.damping, self.done, self.free, options.turn)
        chart = chart_for("tangent", self.variables)
        tried = scene_of(chart.move(self.scene, delta.to(self.scene.pose.hand_transl)))
        costs = {name: form.cost(tried) for name, form in self.forms.items()}
        smooth = _total(costs)
        taken = (smooth < total) & ~self.done
        damping = torch.where(taken, (self.damping * EASE).clamp(min=LEAST), self.damping * self.harder)
        harder = torch.where(taken, 4.0, self.harder * 2)
        done = self.done | (taken & (total - smooth < options.tolerance * total)) | (damping > MOST)
        scene = _chosen(taken, tried, self.scene)
        forms = {name: form.freeze(scene) for name, form in self.forms.items()}
        values = {  # a form that stays the same has no other cost than the step was tried with
            name: _where(taken, costs[name] if form is self.forms[name] else form.cost(scene), self.values[name])
            for name, form in forms.items()
        }
        total = _total(values)
        normal, right = (self.normal, self.right) if last else normal_equations(scene, forms, self.variables)
        improved = taken & (total < self.lowest)
        return _Walker(
            scene, forms, values, normal, right, options, self.free, damping, harder, done,
            _choose(improved, scene.pose, self.best), torch.where(improved, total, self.lowest), improved,
            self.variables,
        )  # fmt: skip


def _total(values: Mapping[str, Float[Tensor, "B"]]) -> Float[Tensor, "B"]:
    """Sum over the losses, double."""
    return torch.stack(list(values.values())).sum(0, dtype=torch.float64)
