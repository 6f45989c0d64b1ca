"""Adam (Kingma and Ba 2015) on one row of parameters for each image, with a rate and a plateau counter for each.

torch's own ``ReduceLROnPlateau`` watches one number for the whole batch, so an image's result would depend on its
neighbours. Here everything has a batch dimension and no operation mixes rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Adam", "Plateau"]


@dataclass
class Adam:
    """Moments of a "B P" gradient; :meth:`step` returns the update to add."""

    rates: Float[Tensor, "P"]
    """Step size of each parameter, in the parameter's own unit (a first step moves by exactly this much)."""
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-12
    least: float = 0.0
    """A rate that moves at all is not scaled below this."""
    count: int = 0
    first: Tensor | None = field(default=None, repr=False)
    second: Tensor | None = field(default=None, repr=False)

    def step(self, gradient: Float[Tensor, "B P"], scale: float | Float[Tensor, "B 1"] = 1.0) -> Float[Tensor, "B P"]:
        """The update for this gradient; ``scale`` multiplies the rates (a schedule, or one number for each image)."""
        if self.first is None or self.second is None:
            self.first, self.second = torch.zeros_like(gradient), torch.zeros_like(gradient)
        self.count += 1
        self.first.lerp_(gradient, 1 - self.betas[0])
        self.second.mul_(self.betas[1]).addcmul_(gradient, gradient, value=1 - self.betas[1])
        mean = self.first / (1 - self.betas[0] ** self.count)
        root = (self.second / (1 - self.betas[1] ** self.count)).sqrt_().add_(self.epsilon)
        if self.least:
            return mean.div_(root).mul_(-torch.where(self.rates > 0, (self.rates * scale).clamp(min=self.least), 0.0))
        return mean.div_(root).mul_(self.rates).mul_(-scale)


@dataclass
class Plateau:
    """A factor for each image's rate, cut when its loss has not fallen for ``patience`` steps.

    The rule of torch's ``ReduceLROnPlateau`` in relative mode, row by row (Song et al. 2022: patience 20).
    """

    batch: int
    patience: int
    factor: float = 0.1
    threshold: float = 1e-4
    scale: Float[Tensor, "B 1"] = field(init=False)
    best: Float[Tensor, "B"] = field(init=False)
    waited: Int[Tensor, "B"] = field(init=False)

    def __post_init__(self) -> None:
        self.scale = torch.ones(self.batch, 1)
        self.best = torch.full((self.batch,), torch.inf)
        self.waited = torch.zeros(self.batch, dtype=torch.long)

    def update(self, loss: Float[Tensor, "B"]) -> Float[Tensor, "B 1"]:
        """Takes this step's loss of each image and returns each image's factor."""
        loss = loss.detach()
        if self.best.device != loss.device:
            self.scale, self.best, self.waited = (t.to(loss.device) for t in (self.scale, self.best, self.waited))
        better = loss < self.best * (1 - self.threshold)
        self.best = torch.where(better, loss, self.best)
        self.waited = torch.where(better, 0, self.waited + 1)
        cut = self.waited > self.patience
        self.scale = torch.where(cut[:, None], self.scale * self.factor, self.scale)
        self.waited = torch.where(cut, 0, self.waited)
        return self.scale
