"""Training recipes: ``configs/train_<task>.yaml`` as a checked table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from horefine.errors import ConfigError, suggestion
from horefine.extractors.tasks import TRAINABLE

__all__ = ["DEVICES", "HANDS", "SCHEDULES", "TrainConfig", "load_train_config"]

SCHEDULES = ("cosine", "steps", "cycle")
DEVICES = ("auto", "cpu", "cuda")
HANDS = ("auto", "embedded", "mano")
_CHOICES: Mapping[str, tuple[str, ...]] = {"schedule": SCHEDULES, "hand": HANDS}


@dataclass(frozen=True)
class TrainConfig:
    """A recipe: ``configs/train_<task>.yaml``."""

    task: str
    network: dict[str, Any] = field(default_factory=dict)
    """Sizes that differ from the compact network's."""
    augmentation: dict[str, float] = field(default_factory=dict)
    batch: int = 16
    """Scenes in a step of one process."""
    steps: int = 8000
    epochs: float | None = None
    """Passes over the training scenes, in place of ``steps``."""
    minutes: float | None = None
    """Wall clock at which the schedule ends if the steps have not; none: no limit."""
    optimizer: str = "adamw"
    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    """Of AdamW's (and Muon's AdamW) two averages."""
    weight_decay: float = 0.02
    schedule: str = "cosine"
    """Of the rate after its rise: ``cosine``; ``steps``: times ``decay`` again and again; or ``cycle``: up and down."""
    decay: float = 0.7
    decay_every: float = 0.1
    """Share of the schedule between two of those."""
    cycle: int = 150
    """Steps of one rise from ``lowest`` and fall back to it."""
    lowest: float = 0.01
    """Share of ``rate`` below which it does not fall."""
    warmup: float = 0.03
    """Share of the schedule in which the rate rises."""
    clip: float = 10.0
    """Largest gradient norm; ``.inf``: any."""
    ema: float = 0.999
    """Of the weights' average, which is what is measured and kept; 0: the weights themselves."""
    held_out: int = 256
    """Scenes at the start of the data that are only measured."""
    measured: int = 128
    """How many of them are measured while training; all at the end."""
    measure_every: float = 6.0
    """Minutes."""
    log_every: int = 50
    start: str | None = None
    """Weights to begin from, a file or the name of those that come with horefine (``hoisdf``): what has the same name
    and size (for HOISDF, the feature network's encoder too)."""
    hand: str = "auto"
    """Whose pose and shape the truth is: ``embedded``, ``mano``, or ``auto`` (``sample_batches.hand_of``)."""
    seed: int = 0
    threads: int = 1
    device: str = "auto"
    """``cpu``, ``cuda`` or ``cuda:N``; ``auto``: a GPU where there is one."""
    bfloat16: bool = True
    """Convolutions in bfloat16 (autocast)."""
    tensorboard: bool = False
    """Also write ``<out>/tensorboard``."""

    def rate_at(self, done: float, step: int = 0) -> float:
        """The learning rate when a share ``done`` (0 to 1) of the schedule, ``step`` steps, is over."""
        if self.schedule == "cycle":
            place = abs(2 * (step % self.cycle) / self.cycle - 1)
            return self.rate * (self.lowest + (1 - self.lowest) * (1 - place))
        if done < self.warmup:
            return self.rate * max(done / self.warmup, 0.02)
        if self.schedule == "steps":
            return self.rate * max(self.decay ** math.floor(done / self.decay_every + 1e-9), self.lowest)
        share = (done - self.warmup) / (1 - self.warmup)
        return self.rate * (self.lowest + (1 - self.lowest) * 0.5 * (1 + math.cos(math.pi * share)))


def load_train_config(config: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """A recipe by name (``features``, ``hoisdf``, ``detector``) or path, with ``key=value`` overrides.

    Raises:
        ConfigError: no such recipe, a key it does not know (with the nearest one it does), or a value of another kind.
    """
    path = Path(config)
    if path.suffix not in (".yaml", ".yml"):
        path = Path(__file__).parent / "configs" / f"train_{config}.yaml"
    if not path.is_file():
        raise ConfigError(f"training recipe {str(config)!r}: there is none{suggestion(str(config), TRAINABLE)}")
    table = yaml.safe_load(path.read_text()) or {}
    for override in overrides:
        key, _, value = override.partition("=")
        target, *rest = key.split(".")
        if rest:
            table[target] = {**(table.get(target) or {}), ".".join(rest): yaml.safe_load(value)}
        else:
            table[target] = yaml.safe_load(value)
    return _checked(table, path.name)


def _checked(table: Mapping[str, Any], where: str) -> TrainConfig:
    known = {f.name: f for f in fields(TrainConfig)}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"{where}: {key}: no such key{suggestion(key, known)}")
        default = getattr(TrainConfig, key, None)
        if isinstance(default, bool) and not isinstance(value, bool):
            raise ConfigError(f"{where}: {key}: {value!r} is neither true nor false")
        number = isinstance(default, (int, float)) or (key in ("epochs", "minutes") and value is not None)
        if number and not isinstance(value, (int, float)):
            raise ConfigError(f"{where}: {key}: {value!r} is not a number (1e-4 is 1.0e-4 in YAML)")
        if value not in _CHOICES.get(key, (value,)):
            raise ConfigError(f"{where}: {key}: {value!r}{suggestion(str(value), _CHOICES[key])}")
    if "betas" in table and not (isinstance(table["betas"], list) and len(table["betas"]) == 2):
        raise ConfigError(f"{where}: betas: {table['betas']!r}; expected two numbers, [0.9, 0.98]")
    if "task" not in table or table["task"] not in TRAINABLE:
        raise ConfigError(
            f"{where}: task {table.get('task')!r}: there is none{suggestion(str(table.get('task')), TRAINABLE)}"
        )
    return TrainConfig(**{**table, **({"betas": tuple(table["betas"])} if "betas" in table else {})})
