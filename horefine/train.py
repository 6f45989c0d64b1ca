"""One loop for all learned parts: ``train("features", data=..., out=...)``.

A *task* says what is learned: it builds the network, turns scene indices into losses and measures held-out scenes. The
loop does the rest: AdamW or SGD with a warm-up and a cosine, an exponential average of the weights (which is what is
measured and shipped), a JSONL log, checkpoints written atomically as safetensors, resume. The schedule runs on steps or
on minutes, whichever comes first, so that a recipe fits the machine it is run on.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from horefine.errors import ConfigError, InputError, suggestion
from horefine.extractors.tasks import TASKS, Task
from horefine.extractors.weights import begin_from, save_weights, write_tensors
from horefine.muon import Muon

__all__ = ["TrainConfig", "load_train_config", "train"]

log = logging.getLogger(__name__)

OPTIMIZERS = {"muon": Muon, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


@dataclass(frozen=True)
class TrainConfig:
    """A recipe: ``configs/train_<task>.yaml``."""

    task: str
    network: dict[str, Any] = field(default_factory=dict)
    """Sizes that differ from the compact network's."""
    augmentation: dict[str, float] = field(default_factory=dict)
    batch: int = 16
    steps: int = 8000
    minutes: float | None = None
    """Wall clock at which the schedule ends if the steps have not; none: no limit."""
    optimizer: str = "adamw"
    rate: float = 1e-3
    weight_decay: float = 0.02
    warmup: float = 0.03
    """Share of the schedule in which the rate rises."""
    clip: float = 10.0
    """Largest gradient norm."""
    ema: float = 0.999
    held_out: int = 256
    """Scenes at the start of the data that are only measured."""
    measured: int = 128
    """How many of them are measured while training; all at the end."""
    measure_every: float = 6.0
    """Minutes."""
    log_every: int = 50
    start: str | None = None
    """A weight file to begin from: what has the same name and size (for HOISDF, the feature network's encoder too)."""
    seed: int = 0
    threads: int = 1
    bfloat16: bool = True
    """Convolutions in bfloat16 (autocast)."""


def load_train_config(config: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """A recipe by name (``features``, ``hoisdf``, ``detector``) or path, with ``key=value`` overrides.

    Raises:
        ConfigError: no such recipe, a key it does not know (with the nearest one it does), or a value of another kind.
    """
    path = Path(config)
    if path.suffix not in (".yaml", ".yml"):
        path = Path(__file__).parent / "configs" / f"train_{config}.yaml"
    if not path.is_file():
        raise ConfigError(f"training recipe {str(config)!r}: there is none{suggestion(str(config), TASKS)}")
    table = yaml.safe_load(path.read_text()) or {}
    for override in overrides:
        key, _, value = override.partition("=")
        target, *rest = key.split(".")
        if rest:
            table[target] = {**table.get(target, {}), ".".join(rest): yaml.safe_load(value)}
        else:
            table[target] = yaml.safe_load(value)
    known = {f.name: f for f in fields(TrainConfig)}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"{path.name}: {key}: no such key{suggestion(key, known)}")
        default = getattr(TrainConfig, key, None)
        if isinstance(default, (int, float)) and not isinstance(value, (int, float)):
            raise ConfigError(f"{path.name}: {key}: {value!r} is not a number (1e-4 is 1.0e-4 in YAML)")
    recipe = TrainConfig(**table)
    if recipe.task not in TASKS:
        raise ConfigError(f"{path.name}: task {recipe.task!r}: there is none{suggestion(recipe.task, TASKS)}")
    return recipe


def train(
    config: str | Path | TrainConfig,
    *,
    data: str | Path,
    out: str | Path,
    smoke: bool = False,
    resume: bool = True,
    overrides: Sequence[str] = (),
) -> Path:
    """Trains one learned part and returns the path of its weight file, ``<out>/<task>.safetensors``.

    Args:
        config: Recipe: a name (``features``, ``hoisdf``, ``detector``), a YAML file, or the table itself.
        data: A folder of training shards (``shard_*``), or ``synthetic``: a few are written under ``out`` first.
        out: Gets the weights, ``log.jsonl``, ``validation.json`` and ``state.safetensors`` (to resume from).
        smoke: A minute or less on few scenes, to see that the loss falls.
        resume: Go on from ``state.safetensors`` when it is there.
        overrides: ``key=value`` changes of the recipe.

    Raises:
        ConfigError: the recipe is wrong.
        InputError: there are no scenes, or the state in ``out`` belongs to another network.
    """
    recipe = config if isinstance(config, TrainConfig) else load_train_config(config, overrides)
    if smoke:
        recipe = replace(recipe, steps=60, minutes=0.5, held_out=8, measured=8, batch=8, measure_every=1e9, log_every=5)
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    folder = _synthetic(out, smoke) if str(data) == "synthetic" else Path(data)
    task = TASKS[recipe.task](recipe.network, recipe.augmentation, folder, recipe.held_out)
    torch.set_flush_denormal(True)  # weight decay drives moments there, and processors are slow on them
    try:
        return _Loop(recipe, task, out, resume and not smoke).run()
    finally:
        torch.set_flush_denormal(False)


def _synthetic(out: Path, smoke: bool) -> Path:
    from horefine.data.shards import Shards
    from horefine.data.synthetic import write_training_shard

    folder = out / "data"
    size, count = (40, 1) if smoke else (500, 36)
    for index in range(count):
        path = folder / f"shard_{index:05d}"
        if not path.is_dir():
            write_training_shard(path, start=index * size, count=size)
    Shards.open(folder)
    return folder


class _Loop:
    """The state of one training run."""

    def __init__(self, recipe: TrainConfig, task: Task, out: Path, resume: bool) -> None:
        self.recipe, self.task, self.out = recipe, task, out
        self.model = task.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if recipe.start:
            log.info("%d tensors from %s", begin_from(self.model, Path(recipe.start)), recipe.start)
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        kind: Any = OPTIMIZERS.get(recipe.optimizer)
        if kind is None:
            raise ConfigError(
                f"optimizer: {recipe.optimizer!r}: there is none{suggestion(recipe.optimizer, OPTIMIZERS)}"
            )
        extra = {"momentum": 0.9} if recipe.optimizer == "sgd" else {"betas": (0.9, 0.98)}
        self.optimizer = kind(_groups(self.model, recipe.weight_decay), lr=recipe.rate, **extra)
        self.step, self.images, self.spent = 0, 0, 0.0
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.state = out / "state.safetensors"
        if resume and self.state.is_file():
            self._restore()
            self.generator.manual_seed(recipe.seed + self.step)

    @property
    def progress(self) -> float:
        """0 to 1, by steps or by minutes."""
        by_time = self.spent / (60 * self.recipe.minutes) if self.recipe.minutes else 0.0
        return min(1.0, max(self.step / self.recipe.steps, by_time))

    def run(self) -> Path:
        recipe = self.recipe
        began, measured = time.monotonic() - self.spent, time.monotonic()
        sums: dict[str, float] = {}
        while self.progress < 1:
            for name, value in self._advance().items():
                sums[name] = sums.get(name, 0.0) + value / recipe.log_every
            self.spent = time.monotonic() - began
            if self.step % recipe.log_every == 0:
                self._log({"step": self.step, "minutes": round(self.spent / 60, 2), "rate": self._rate(), **sums})
                sums = {}
            if time.monotonic() - measured > 60 * recipe.measure_every:
                self.save(self.measure(recipe.measured))
                self.task.refresh()
                measured = time.monotonic()
        return self.save(self.measure(recipe.held_out))

    def _advance(self) -> dict[str, float]:
        rate = self._rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=False):
            losses = self.task.losses(self.recipe.batch, self.progress, self.generator, self.recipe.bfloat16)
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad()
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        if torch.isfinite(norm):  # a step that blew up is left out, not averaged in
            self.optimizer.step()
        self.step += 1
        self.images += self.recipe.batch
        self._average()
        return {"loss": total.item(), **{name: value.item() for name, value in losses.items()}}

    def _rate(self) -> float:
        warm, done = self.recipe.warmup, self.progress
        if done < warm:
            return self.recipe.rate * max(done / warm, 0.02)
        return self.recipe.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm))))

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - keep)
            else:
                self.average[name].copy_(value)

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
        entry = _rounded({**done, **result})
        self._log({"validation": entry})
        return entry

    def save(self, validation: Mapping[str, float]) -> Path:
        """Weights to ship, and the state to resume from."""
        path = self.out / f"{self.recipe.task}.safetensors"
        save_weights(path, self.average, self.recipe.task, self.task.network, dict(validation))
        (self.out / "validation.json").write_text(json.dumps(validation, indent=1))
        state = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        state |= {f"average.{k}": v for k, v in self.average.items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
        state["clock"] = torch.tensor([self.step, self.spent, self.images], dtype=torch.float64)
        write_tensors(self.state, state)
        return path

    def _restore(self) -> None:
        state = load_file(self.state)

        def part(prefix: str) -> dict[str, Tensor]:
            return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}

        try:
            self.model.load_state_dict(part("model."))
        except RuntimeError as error:
            raise InputError(f"{self.state}: belongs to another network; train into an empty folder") from error
        self.average = part("average.")
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in part("optimizer.").items():
            index, name = key.split(".", 1)
            moments.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        step, self.spent, images = state["clock"].tolist()
        self.step, self.images = int(step), int(images)

    def _log(self, entry: Mapping[str, Any]) -> None:
        text = json.dumps(_rounded(entry))
        with (self.out / "log.jsonl").open("a") as file:
            file.write(text + "\n")
        log.info("%s", text)


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _rounded(v) for k, v in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _groups(model: torch.nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only."""
    plain = [p for p in model.parameters() if p.dim() < 2]
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    return [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
