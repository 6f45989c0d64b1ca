"""One stage of Adam as one step that is the same every time, so that a GPU can record it and play it again.

:func:`horefine.descent.walk_eagerly` gives a GPU some thousand small operations a step, one after another, and the host
takes longer to name them than the GPU to do them. Here whatever changes from step to step (pose, moments, schedule,
best poses, history) lies in tensors that the step writes in place, and it asks the device nothing: CUDA records it as a
graph (``torch.cuda.graph``) and plays that back. On a CPU the same step is simply done; that is how it is tested. It
has not been played back on a GPU yet: ``optimizer: {graph: true}`` asks for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.descent import Eager, Search, Walked
from horefine.errors import ConfigError
from horefine.scene import Pose
from horefine.tangent import flat_rates

__all__ = ["walk_captured"]

log = logging.getLogger(__name__)

WARM = 3
"""Steps that are done before one is recorded: what a first call sets up may not be recorded."""


def walk_captured(eager: Eager, pose: Pose, search: Search, report: Callable[[int], Any]) -> Walked:
    """As :func:`horefine.descent.walk_eagerly`, in the tangent chart.

    Raises:
        ConfigError: another chart, whose own state no graph would see.
    """
    if search.parameters != "tangent":
        raise ConfigError(
            f"optimizer.graph: true goes with optimizer.parameters: tangent, not {search.parameters}; leave it out"
        )
    walk = _Walk(eager, pose, search)
    step = _recorded(walk) if pose.hand_transl.device.type == "cuda" else walk.step
    for number in range(len(search.scales)):
        step()
        report(number + 1)
    walk.judge(*eager.look(walk.pose))  # the last pose is judged too, but not moved
    return walk.walked()


def _recorded(walk: _Walk) -> Callable[[], Any]:
    """The step as a graph; where it cannot be recorded, the step itself."""
    saved = [tensor.clone() for tensor in walk.state]
    try:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(min(WARM, len(walk.search.scales))):
                walk.step()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            walk.step()
        step: Callable[[], Any] = graph.replay
    except RuntimeError as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        log.warning("optimizer.graph: the iteration cannot be recorded (%s); it is done step by step", said)
        step = walk.step
    for tensor, value in zip(walk.state, saved, strict=True):
        tensor.copy_(value)
    return step


class _Walk:
    """Everything that a step reads and writes, as tensors that stay where they are."""

    def __init__(self, eager: Eager, pose: Pose, search: Search) -> None:
        like, batch, steps = pose.hand_transl, len(pose), len(search.scales)
        rates = flat_rates(search.rates, like, eager.chart.blocks)
        self.eager, self.search, self.rates = eager, search, rates
        self.pose, self.best = (pose.map(lambda value: value.detach().clone()) for _ in range(2))
        self.lowest = like.new_full((batch,), torch.inf)
        self.best_step = torch.zeros(batch, dtype=torch.long, device=like.device)
        self.first, self.second = (like.new_zeros(batch, len(rates)) for _ in range(2))
        self.factor = like.new_ones(batch, 1)
        self.good, self.waited = torch.full_like(self.lowest, torch.inf), torch.zeros_like(self.best_step)
        self.number = torch.zeros((), dtype=torch.long, device=like.device)
        self.names: tuple[str, ...] = (*eager.look(pose)[1], "total")
        self.history = like.new_zeros(steps + 1, len(self.names), batch)
        count = torch.arange(1, steps + 1, dtype=torch.float64)
        # of each step: the schedule, and what takes the moments' beginning at zero out of them
        table = [torch.tensor(search.scales, dtype=torch.float64), *(1 - beta**count for beta in search.betas)]
        self.table = torch.stack(table, 1).to(like)

    @property
    def state(self) -> list[Tensor]:
        """What a step writes."""
        poses = [value for pose in (self.pose, self.best) for _, value in pose.items()]
        more = [self.lowest, self.best_step, self.first, self.second, self.factor, self.good, self.waited]
        return [*poses, *more, self.number, self.history]

    def step(self) -> None:
        """Looks at the pose, judges it and moves on, all in place."""
        scene, values = self.eager.look(self.pose)
        total = self.judge(scene, values)
        gradient = self.eager.slope(scene, total)
        with torch.no_grad():
            # a row with a number that is not finite stands still instead of spoiling its moments
            gradient = torch.where(gradient.isfinite().all(1, keepdim=True), gradient, torch.zeros_like(gradient))
            moved = self.eager.chart.move(scene, self._adam(gradient, total.detach()))
            for (_, own), (_, value) in zip(self.pose.items(), moved.items(), strict=True):
                own.copy_(value)
            self.number.add_(1)

    def judge(self, scene: Any, values: dict[str, Float[Tensor, "B"]]) -> Float[Tensor, "B"]:
        """Notes the losses, keeps the pose where it is the best so far; returns the sum of the losses."""
        with torch.enable_grad():
            total = torch.stack(list(values.values())).sum(0)
        with torch.no_grad():
            row = torch.stack([*(value.detach() for value in values.values()), total.detach()])
            self.history.index_copy_(0, self.number[None], row[None].to(self.history))
            better = total.isfinite() if self.search.keep_last else total.detach() < self.lowest
            for (_, own), (_, value) in zip(self.best.items(), scene.pose.items(), strict=True):
                own.copy_(torch.where(better.view(-1, *(1,) * (own.dim() - 1)), value, own))
            self.lowest.copy_(torch.where(better, total.detach(), self.lowest))
            self.best_step.copy_(torch.where(better, self.number, self.best_step))
        return total

    def _adam(self, gradient: Float[Tensor, "B P"], total: Float[Tensor, "B"]) -> Float[Tensor, "B P"]:
        """``Adam.step`` and ``Plateau.update`` (:mod:`horefine.adam`), their counters on the device."""
        search, (scale, mean, square) = self.search, self.table.index_select(0, self.number[None])[0].unbind()
        factor = scale * self.factor.clone()  # a cut holds from the next step on
        self.first.lerp_(gradient, 1 - search.betas[0])
        self.second.mul_(search.betas[1]).addcmul_(gradient, gradient, value=1 - search.betas[1])
        if search.patience:
            better = total < self.good * (1 - 1e-4)
            self.good.copy_(torch.where(better, total, self.good))
            waited = torch.where(better, 0, self.waited + 1)
            cut = waited > search.patience
            self.factor.copy_(torch.where(cut[:, None], self.factor * search.cut, self.factor))
            self.waited.copy_(torch.where(cut, 0, waited))
        rates = self.rates * factor
        if search.least:
            rates = torch.where(self.rates > 0, rates.clamp(min=search.least), 0.0)
        return -rates * (self.first / mean) / ((self.second / square).sqrt() + search.epsilon)

    def walked(self) -> Walked:
        """What the stage found."""
        steps = len(self.search.scales)
        order = ("total", *self.names[:-1])
        history = [
            {name: self.history[step, self.names.index(name)].clone() for name in order} for step in range(steps)
        ]
        return Walked(self.best, self.best_step, history)
