"""The training loop: optimizer, schedule, averaged weights, log, checkpoints, resume."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from horefine.errors import ConfigError, InputError, suggestion
from horefine.extractors.task import Task
from horefine.extractors.weights import begin_from, save_weights, start_path, write_tensors
from horefine.muon import Muon
from horefine.train_devices import Devices
from horefine.train_log import TrainLog, rounded
from horefine.train_recipe import TrainConfig

__all__ = ["OPTIMIZERS", "Loop"]

log = logging.getLogger(__name__)

OPTIMIZERS = {"muon": Muon, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
_APART = 1_000_003
"""Between the seeds of processes."""


class Loop:
    """The state of one training run."""

    def __init__(
        self, recipe: TrainConfig, task: Task, out: Path, resume: bool, devices: Devices | None = None
    ) -> None:
        self.recipe, self.task, self.out = recipe, task, out
        self.devices = devices if devices is not None else Devices(task.device)
        self.model = task.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if recipe.start:
            log.info("%d tensors from %s", begin_from(self.model, start_path(recipe.start)), recipe.start)
        self.losses = self.devices.joined(task.losses, self.model)
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.optimizer = _optimizer(self.model, recipe)
        self.log = TrainLog(out, recipe.tensorboard, silent=not self.devices.first)
        self.step, self.images, self.spent = 0, 0, 0.0
        self.steps = recipe.steps
        if recipe.epochs is not None:
            scenes = len(task.scenes) - recipe.held_out
            self.steps = max(1, math.ceil(recipe.epochs * scenes / (recipe.batch * self.devices.count)))
        self.generator = torch.Generator().manual_seed(recipe.seed + _APART * self.devices.number)
        self.state = out / "state.safetensors"
        if resume and self.state.is_file():
            self._restore()
            self.generator.manual_seed(recipe.seed + self.step + _APART * self.devices.number)

    @property
    def progress(self) -> float:
        """0 to 1, by steps or by minutes."""
        by_time = self.spent / (60 * self.recipe.minutes) if self.recipe.minutes else 0.0
        return min(1.0, max(self.step / self.steps, by_time))

    def run(self) -> Path:
        """Trains to the end of the schedule; returns the weight file."""
        recipe = self.recipe
        began, measured = time.monotonic() - self.spent, self.spent
        self.log.begin(self.images)
        sums: dict[str, float] = {}
        with self.log:
            while self.progress < 1:
                losses = self._advance()
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + value / recipe.log_every
                self.spent = self.devices.same(time.monotonic() - began)
                self.log.advance(self.step, losses["loss"], self.images, self.progress, self.spent)
                if self.step % recipe.log_every == 0:
                    entry = {"minutes": round(self.spent / 60, 2), "rate": recipe.rate_at(self.progress, self.step)}
                    self.log.losses(self.step, entry | self._shared(sums))
                    sums = {}
                if self.spent - measured > 60 * recipe.measure_every:
                    self.conclude(recipe.measured)
                    self.task.refresh()
                    measured = self.spent = self.devices.same(time.monotonic() - began)
            return self.conclude(recipe.held_out)

    def _advance(self) -> dict[str, float]:
        rate = self.recipe.rate_at(self.progress, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        losses = self.losses(self.recipe.batch, self.progress, self.generator, self.recipe.bfloat16)
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad()
        self.devices.backward(total)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        if torch.isfinite(norm):  # a step that blew up is left out, not averaged in
            self.optimizer.step()
        self.step += 1
        self.images += self.recipe.batch * self.devices.count
        self._average()
        values = torch.stack([total, *losses.values()]).detach().tolist()  # one wait for the device
        return dict(zip(("loss", *losses), values, strict=True))

    def _shared(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Means over processes."""
        values = self.devices.mean(torch.tensor(list(sums.values()), device=self.devices.device))
        return dict(zip(sums, values.tolist(), strict=True))

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - keep)
            else:
                self.average[name].copy_(value)

    def conclude(self, count: int) -> Path:
        """Measures and saves in the first process; the others wait. Returns the weight file."""
        for name, _ in self.model.named_buffers():  # running statistics are each process' own
            if name in self.average and self.average[name].is_floating_point():
                self.average[name] = self.devices.mean(self.average[name])
        if self.devices.first:
            self.save(self.measure(count))
        self.devices.wait()
        return self._weights

    def measure(self, count: int) -> dict[str, float]:
        """The averaged weights on held-out scenes."""
        current = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        self.model.eval()
        try:
            with torch.no_grad():
                result = self.task.measure(count)
        finally:
            self.model.load_state_dict(current)
        done = {"step": self.step, "minutes": self.spent / 60, "images": self.images}
        entry = rounded({**done, **result})
        self.log.validation(self.step, entry)
        return entry

    @property
    def _weights(self) -> Path:
        return self.out / f"{self.recipe.task}.safetensors"

    def save(self, validation: Mapping[str, float]) -> None:
        """Weights to ship, and the state to resume from."""
        save_weights(self._weights, self.average, self.recipe.task, self.task.network, dict(validation))
        self.task.export(self.out, self.average, self.step)
        (self.out / "validation.json").write_text(json.dumps(validation, indent=1))
        state = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        state |= {f"average.{k}": v for k, v in self.average.items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
        state["clock"] = torch.tensor([self.step, self.spent, self.images], dtype=torch.float64)
        write_tensors(self.state, state)

    def _restore(self) -> None:
        state = load_file(self.state)

        def part(prefix: str) -> dict[str, Tensor]:
            return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}

        try:
            self.model.load_state_dict(part("model."))
        except RuntimeError as error:
            raise InputError(f"{self.state}: belongs to another network; train into an empty folder") from error
        self.average = {name: value.to(self.devices.device) for name, value in part("average.").items()}
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in part("optimizer.").items():
            index, name = key.split(".", 1)
            moments.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        step, self.spent, images = state["clock"].tolist()
        self.step, self.images = int(step), int(images)


def _optimizer(model: torch.nn.Module, recipe: TrainConfig) -> Any:
    """With weight decay on matrices only; frozen parameters are left out."""
    kind: Any = OPTIMIZERS.get(recipe.optimizer)
    if kind is None:
        raise ConfigError(f"optimizer: {recipe.optimizer!r}: there is none{suggestion(recipe.optimizer, OPTIMIZERS)}")
    learned = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learned if p.dim() >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in learned if p.dim() < 2], "weight_decay": 0.0},
    ]
    extra = {"momentum": 0.9} if recipe.optimizer == "sgd" else {"betas": recipe.betas}
    return kind(groups, lr=recipe.rate, **extra)
