"""Muon (Jordan et al. 2024): the step of a matrix is its momentum with all singular values made equal.

Directions that the gradient hardly shows move as far as those that rule it. It is ``optimizer: muon`` in the training
recipes; compare the ``log.jsonl`` of a run with ``--set optimizer=adamw``. torch's Muon takes matrices only; here the
kernel of a convolution is the matrix (outputs, inputs x window), and what is no matrix goes to AdamW.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Muon", "is_matrix"]

SMALLEST = 16
"""Matrices with fewer rows or columns gain nothing from it."""


def is_matrix(value: Tensor) -> bool:
    """Whether Muon moves this parameter."""
    return value.dim() >= 2 and min(value.shape[0], value[0].numel()) >= SMALLEST


def _flat(value: Tensor) -> Tensor:
    """The parameter as a matrix in the same memory, whether the window or the channel runs fastest."""
    if value.dim() == 4 and not value.is_contiguous():
        value = value.permute(0, 2, 3, 1)
    return value.view(len(value), -1)


class Muon:
    """torch's Muon for matrices and AdamW for the rest, as one optimizer (the part of its interface that we use).

    The rate is AdamW's: a matrix' step is scaled to the size that AdamW's would have (Liu et al. 2025).
    """

    def __init__(
        self, groups: Iterable[Mapping[str, Any]], lr: float, betas: tuple[float, float] = (0.9, 0.98)
    ) -> None:
        """``groups``: of parameters, each with its ``weight_decay``."""
        self._matrices: list[tuple[nn.Parameter, nn.Parameter]] = []
        flat, rest = [], []
        for group in groups:
            decay = group["weight_decay"]
            chosen = [p for p in group["params"] if is_matrix(p)]
            pairs = [(p, nn.Parameter(_flat(p.data))) for p in chosen]
            self._matrices += pairs
            if pairs:
                flat.append({"params": [twin for _, twin in pairs], "weight_decay": decay})
            rest.append({"params": [p for p in group["params"] if not is_matrix(p)], "weight_decay": decay})
        self._parts: list[torch.optim.Optimizer] = [torch.optim.AdamW([g for g in rest if g["params"]], lr, betas)]
        if flat:
            self._parts.append(torch.optim.Muon(flat, lr, adjust_lr_fn="match_rms_adamw"))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self._parts for group in part.param_groups]

    def zero_grad(self) -> None:
        for part in self._parts:
            part.zero_grad()
        for parameter, _ in self._matrices:
            parameter.grad = None

    def step(self) -> None:
        for parameter, twin in self._matrices:
            # in the order of the twin's memory, whatever the gradient's own
            gradient = parameter.grad
            twin.grad = None if gradient is None else _flat_like(gradient, parameter)
        for part in self._parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """As torch's: ``state`` by the parameter's number, through all parts."""
        state, first = {}, 0
        for part in self._parts:
            own = part.state_dict()
            state |= {first + index: values for index, values in own["state"].items()}
            first += sum(len(group["params"]) for group in own["param_groups"])
        return {"state": state, "param_groups": []}

    def load_state_dict(self, found: Mapping[str, Any]) -> None:
        first = 0
        for part in self._parts:
            groups = part.state_dict()["param_groups"]
            count = sum(len(group["params"]) for group in groups)
            state = {i - first: v for i, v in found["state"].items() if first <= i < first + count}
            part.load_state_dict({"state": state, "param_groups": groups})
            first += count


def _flat_like(gradient: Tensor, parameter: Tensor) -> Tensor:
    if parameter.dim() == 4 and not parameter.is_contiguous():
        gradient = gradient.permute(0, 2, 3, 1)
    return gradient.reshape(len(gradient), -1)
