"""One stage of Adam by torch: any device, any chart, any variable, any loss. The readable twin of the fused stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.adam import Adam, Plateau
from horefine.objective import Objective
from horefine.scene import Pose, Scene
from horefine.tangent import flat_rates

__all__ = ["Eager", "Search", "Walked", "walk_eagerly"]


@dataclass(frozen=True)
class Search:
    """How one stage walks; see ``config.Optimizer`` and ``config.Stage``."""

    scales: Sequence[float]
    """What multiplies the rates, one for each step."""
    rates: Mapping[str, float]
    parameters: str = "tangent"
    betas: tuple[float, float] = (0.9, 0.99)
    epsilon: float = 1e-12
    least: float = 0.0
    patience: int | None = None
    cut: float = 0.1
    keep_last: bool = False
    fused: bool = True
    """False: eager even where all could be fused."""
    graph: bool = False
    """Each step in place, recorded as a CUDA graph where there is CUDA (``horefine.captured``)."""


@dataclass(frozen=True)
class Walked:
    """Where a stage ended."""

    pose: Pose
    """The best pose that each image passed through."""
    best_step: Int[Tensor, "B"]
    """Its row in ``history``; one past the last for the pose that the last step reached."""
    history: list[dict[str, Float[Tensor, "B"]]]
    """``total`` and the weighted value of each loss before each step."""


@dataclass(frozen=True)
class Eager:
    """An objective in a chart, by torch."""

    objective: Objective
    scene_of: Callable[[Pose], Scene]
    chart: Any
    """One search's own (``factors.chart_for``)."""

    def look(self, pose: Pose) -> tuple[Scene, dict[str, Float[Tensor, "B"]]]:
        """The scene of a pose and each loss' weighted value there, both with a graph behind them."""
        scene = self.scene_of(pose.map(lambda value: value.detach().requires_grad_()))
        with torch.enable_grad():
            return scene, self.objective.evaluate(scene) | self.chart.penalty(scene)

    def slope(self, scene: Scene, total: Float[Tensor, "B"]) -> Float[Tensor, "B P"]:
        """Gradient of ``total`` in the chart; coordinates that no loss touches get zero."""
        leaf, values = scene.pose, [value for _, value in scene.pose.items()]
        # not of total.sum(): outside, gradients may be off, and the sum would have none
        found = torch.autograd.grad(total, values, torch.ones_like(total), allow_unused=True)
        given = leaf.like(torch.zeros_like(v) if g is None else g for v, g in zip(values, found, strict=True))
        return self.chart.gradient(scene, given)

    def evaluate(self, pose: Pose) -> tuple[dict[str, Float[Tensor, "B"]], Float[Tensor, "B P"]]:
        """Weighted value of each loss, and the gradient of their sum."""
        scene, values = self.look(pose)
        with torch.enable_grad():
            total = torch.stack(list(values.values())).sum(0)
        return {name: value.detach() for name, value in values.items()}, self.slope(scene, total)


def walk_eagerly(eager: Eager, pose: Pose, search: Search, report: Callable[[int], Any]) -> Walked:
    """As many steps from ``pose`` as the search has scales; ``report`` is called with their number after each."""
    rates = flat_rates(search.rates, pose.hand_transl, eager.chart.blocks)
    adam = Adam(rates, search.betas, search.epsilon, search.least)
    plateau = Plateau(len(pose), search.patience, search.cut) if search.patience else None
    best, lowest = pose, pose.hand_transl.new_full((len(pose),), torch.inf)
    best_step, history = torch.zeros(len(pose), dtype=torch.long, device=lowest.device), []
    for step in range(len(search.scales) + 1):
        scene, values = eager.look(pose)
        with torch.enable_grad():
            total = torch.stack(list(values.values())).sum(0)
        better = total.isfinite() if search.keep_last else total.detach() < lowest
        lowest, best_step = torch.where(better, total.detach(), lowest), torch.where(better, step, best_step)
        best = _choose(better, scene.pose.detach(), best)
        if step == len(search.scales):  # the last pose is judged too, but not moved
            break
        history.append({"total": total.detach(), **{key: value.detach() for key, value in values.items()}})
        gradient, scale = eager.slope(scene, total), search.scales[step]
        # a row with a number that is not finite stands still instead of spoiling its moments
        gradient = torch.where(gradient.isfinite().all(1, keepdim=True), gradient, torch.zeros_like(gradient))
        if plateau is not None:  # as with torch's: a cut holds from the next step on
            scale, _ = scale * plateau.scale.to(total), plateau.update(total)
        with torch.no_grad():
            pose = eager.chart.move(scene, adam.step(gradient, scale))
        report(step + 1)
    return Walked(best, best_step, history)


def _choose(mask: Tensor, yes: Pose, no: Pose) -> Pose:
    pairs = zip(yes.items(), no.items(), strict=True)
    return yes.like(torch.where(mask.view(-1, *(1,) * (a.dim() - 1)), a, b) for (_, a), (_, b) in pairs)
