"""What the stages of one refinement share: its setting, the starts of its images as rows, and where a stage ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.config import Config
from horefine.hand import HandModel
from horefine.objective import Objective, prepare, usable
from horefine.posing import posed
from horefine.render import OUTPUTS, Renderer, make_renderer
from horefine.scene import Features, Pose, Scene

__all__ = ["Rows", "Setting", "Walk", "choose", "shared_sigmas"]


@dataclass(frozen=True)
class Rows:
    """The starts of B images as the R rows of one batch, each image's one after another."""

    counts: tuple[int, ...]
    image: Int[Tensor, "R"]
    """Whose start a row is."""
    first: Int[Tensor, "B"]
    """Each image's first row: its pose as given."""

    @staticmethod
    def of(counts: Sequence[int], device: torch.device) -> Rows:
        many = torch.tensor(counts, device=device)
        return Rows(
            tuple(counts), torch.arange(len(many), device=device).repeat_interleave(many), many.cumsum(0) - many
        )

    @property
    def single(self) -> bool:
        """Whether every image has one start."""
        return len(self.image) == len(self.first)

    def lowest(self, values: Float[Tensor, "R"]) -> Int[Tensor, "B"]:
        """Each image's row with the lowest value, the first of equal ones."""
        table = values.new_full((len(self.first), max(self.counts)), torch.inf)
        place = torch.arange(len(values), device=values.device) - self.first[self.image]
        table[self.image, place] = values
        return self.first + table.argmin(1)


@dataclass(frozen=True)
class Setting:
    """What stays the same during one refinement."""

    config: Config
    features: Features
    hand_model: HandModel
    given: Pose
    initial: Pose
    """Where refinement begins: the given pose, or what :func:`align` made of it."""
    inputs: dict[str, Any]
    renderer: Renderer

    @staticmethod
    def of(
        config: Config, features: Features, hand_model: HandModel, given: Pose, initial: Pose, renderer: str
    ) -> Setting:
        terms = usable(config.terms(), features)
        want = OUTPUTS | ({"colors"} if any("image" in term.features for term in terms.values()) else set())
        draw = make_renderer(hand_model.faces, hand_model.codes, features.object, features.camera, renderer, want=want)
        features = replace(features)  # what is found and kept with it (losses.forms.kept) is of this refinement alone
        return Setting(config, features, hand_model, given, initial, prepare(terms, features, hand_model), draw)

    @property
    def fused(self) -> bool:
        """Whether the kernels of the CPU are asked; else torch, on whatever device."""
        return self.config.optimizer.fused and self.features.camera.matrix.device.type == "cpu"

    def posed(self, pose: Pose) -> Scene:
        """A scene of the pose; by kernels hand and object are posed at once."""
        return posed(self.scene(pose)) if self.fused else self.scene(pose)

    def chosen(self, rows: Int[Tensor, "M"]) -> Setting:
        """The same of some rows, for scenes of losses that know their maps already: maps and inputs are left out."""
        known = Features(self.features.camera, self.features.object)
        given, initial, features = self.given[rows], self.initial[rows], known[rows]
        return replace(
            self, features=features, given=given, initial=initial, inputs={}, renderer=self.renderer.chosen(rows)
        )

    def scene(self, pose: Pose) -> Scene:
        return Scene(pose, self.initial, self.features, self.hand_model, self.renderer)

    def objective(self, at: Pose | Scene, stage: str | None = None) -> Objective:
        """The objective of a stage (the last when not named), its sigmas settled at a pose."""
        terms = usable(self.config.terms(stage or list(self.config.stages)[-1]), self.features)
        return Objective(terms, self.inputs).settle(self.scene(at) if isinstance(at, Pose) else at)


@dataclass(frozen=True)
class Walk:
    """Where a stage ended: the best pose, its step in the history, the objective it was best for."""

    pose: Pose
    best_step: Int[Tensor, "B"]
    objective: Objective


def shared_sigmas(objective: Objective, setting: Setting, pose: Pose, rows: Rows) -> Objective:
    """With several starts: one yardstick for all starts of an image, the smallest spread that any of them reached."""
    if rows.single:
        return objective
    settled, several = setting.objective(pose), (torch.tensor(rows.counts) > 1).to(rows.image.device)[rows.image]

    def shared(value: Any, own: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        along = (-1, *(1,) * (value.dim() - 1))
        least = value.new_full((len(rows.first), *value.shape[1:]), torch.inf)
        least = least.scatter_reduce(0, rows.image.view(along).expand_as(value), value, "amin")[rows.image]
        return torch.where(several.view(along), least, own)

    terms = {
        name: replace(term, options={k: shared(v, objective.terms[name].options[k]) for k, v in term.options.items()})
        for name, term in settled.terms.items()
    }
    return replace(settled, terms=terms)


def choose(mask: Tensor, yes: Pose, no: Pose) -> Pose:
    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(mask.view(-1, *(1,) * (a.dim() - 1)), a, b)

    return Pose(**{name: pick(value, getattr(no, name)) for name, value in yes.items()})
