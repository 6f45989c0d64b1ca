"""What a refinement found, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.curvature import Sigmas
from horefine.scene import Pose

__all__ = ["Refinement", "joined", "moved"]


@dataclass(frozen=True)
class Refinement:
    """What :func:`horefine.refine` found for B images."""

    pose: Pose
    initial: Pose
    history: dict[str, Float[Tensor, "steps B"]]
    """Weighted value of each loss, and ``total``, before each step; NaN where a stage does not use the loss."""
    best_step: Int[Tensor, "B"]
    """The step (row of the history) whose pose was kept."""
    status: tuple[str, ...]
    """``improved``; ``unchanged`` (nothing better was found, or the recipe skips the image); ``worsened`` (a recipe
    that keeps the last step); ``rejected`` (the search broke or the maps show nothing; the start is returned)."""
    reason: tuple[str, ...]
    """One sentence for each image."""
    sigma: Sigmas | None = None
    """How sure ``pose`` is by the objective's curvature."""

    def __len__(self) -> int:
        return len(self.pose)

    def __getitem__(self, image: int) -> Refinement:
        """One image's result (B = 1)."""
        rows = slice(image, image + 1 or None)
        return Refinement(
            self.pose[image], self.initial[image], {name: values[:, rows] for name, values in self.history.items()},
            self.best_step[rows], self.status[rows], self.reason[rows],
            None if self.sigma is None else self.sigma.map(lambda value: value[rows]),
        )  # fmt: skip


def joined(parts: Sequence[Refinement], order: Int[Tensor, "B"]) -> Refinement:
    """One result of several, images in ``order``; a history that ended earlier than others goes on with NaN."""
    if len(parts) == 1:
        return parts[0]
    order = order.to(parts[0].best_step.device)

    def merged(values: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(values))[order]

    steps = max(len(next(iter(part.history.values()))) for part in parts)
    history = {}
    for name in dict.fromkeys(name for part in parts for name in part.history):
        columns = [part.history.get(name, torch.full_like(part.history["total"], torch.nan)) for part in parts]
        rows = [torch.nn.functional.pad(c, (0, 0, 0, steps - len(c)), value=torch.nan) for c in columns]
        history[name] = torch.cat(rows, 1)[:, order]
    sure = [part.sigma for part in parts if part.sigma is not None]
    sigma = None
    if len(sure) == len(parts):
        names = [f.name for f in fields(sure[0]) if getattr(sure[0], f.name) is not None]
        sigma = Sigmas(**{name: merged([getattr(s, name) for s in sure]) for name in names})
    status, reason = ([v for part in parts for v in getattr(part, name)] for name in ("status", "reason"))
    return Refinement(
        Pose.cat([part.pose for part in parts])[order], Pose.cat([part.initial for part in parts])[order], history,
        merged([part.best_step for part in parts]), tuple(status[i] for i in order), tuple(reason[i] for i in order),
        sigma,
    )  # fmt: skip


def moved(found: Refinement, device: torch.device) -> Refinement:
    """The same result on another device."""
    history = {name: values.to(device) for name, values in found.history.items()}
    pose, initial = found.pose.to(device), found.initial.to(device)
    best_step, sure = found.best_step.to(device), found.sigma
    sure = None if sure is None else sure.map(lambda value: value.to(device))
    return replace(found, pose=pose, initial=initial, history=history, best_step=best_step, sigma=sure)
