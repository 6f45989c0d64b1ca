"""One loop for all learned parts: ``train("features", data=..., out=...)``.

A *task* (``extractors.task``) says what is learned: it builds the network, turns scenes into losses and measures
held-out ones. The loop (``train_loop``) does the rest: AdamW, Muon or SGD, an exponential average of the weights (which
is what is measured and shipped), a log (``train_log``), checkpoints written atomically as safetensors, resume. The
schedule runs on steps, on passes over the data or on minutes, so that a recipe (``train_recipe``) fits the machine it
is run on: a processor, a GPU, or several processes that ``torchrun`` starts (``train_devices``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from horefine.data import DATASETS, Dataset, load_dataset
from horefine.data.opened import FOLDERS, open_named
from horefine.data.shards import Shards
from horefine.errors import ConfigError
from horefine.extractors.tasks import ON_CPU, TRAINABLE
from horefine.train_devices import open_devices
from horefine.train_loop import Loop
from horefine.train_recipe import TrainConfig, load_train_config

__all__ = ["TrainConfig", "load_train_config", "train"]

SMOKE = {
    "steps": 60, "epochs": None, "minutes": 3.0, "held_out": 8, "measured": 8, "batch": 8, "measure_every": 1e9,
    "log_every": 2,
}  # fmt: skip
"""Changes of a recipe for a trial: half a minute on a core of its own, three at most on a crowded one."""


def train(
    config: str | Path | TrainConfig,
    *,
    data: str | Path | Dataset,
    out: str | Path,
    smoke: bool = False,
    resume: bool = True,
    overrides: Sequence[str] = (),
) -> Path:
    """Trains one learned part and returns the path of its weight file, ``<out>/<task>.safetensors``.

    Started by ``torchrun``, every process calls this and gets the same answer; the first one writes.

    Args:
        config: Recipe: a name (``features``, ``hoisdf``, ``detector``), a YAML file, or the table itself.
        data: A folder of training shards (``shard_*``) or of photographs with truth (``horefine synthesize`` makes
            one); ``synthetic``: shards that are written under ``out`` first; a dataset by name and options
            (``synthetic:count=400,seed=1``, ``dexycb:root=DIR``); or any ``horefine.data.Dataset``.
        out: Gets the weights, ``log.jsonl``, ``validation.json`` and ``state.safetensors`` (to resume from).
        smoke: About a minute on few scenes (:data:`SMOKE`), to see that the loss falls.
        resume: Go on from ``state.safetensors`` when it is there.
        overrides: ``key=value`` changes of the recipe.

    Raises:
        ConfigError: the recipe is wrong, or names a device that is not here.
        InputError: there are no scenes, or the state in ``out`` belongs to another network.
        AssetError: an optional package is missing that the recipe wants.
    """
    recipe = config if isinstance(config, TrainConfig) else load_train_config(config, overrides)
    kind = TRAINABLE[recipe.task]
    if smoke:
        recipe = replace(recipe, **{**SMOKE, **kind.smoke})
    devices = open_devices("cpu" if recipe.device == "auto" and recipe.task in ON_CPU else recipe.device)
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with devices.first_alone():
        source = _source(data, out, smoke)
    if smoke:
        recipe = _of_few(recipe, source)
    task = kind(recipe.network, recipe.augmentation, source, recipe.held_out, device=devices.device, hand=recipe.hand)
    torch.set_flush_denormal(True)  # weight decay drives moments there, and processors are slow on them
    try:
        loop = Loop(recipe, task, out, resume and not smoke, devices)
        if devices.count > 1:  # the network is one; what is dropped out of it is each process' own
            torch.manual_seed(recipe.seed + devices.number)
        return loop.run()
    finally:
        torch.set_flush_denormal(False)


def _of_few(recipe: TrainConfig, source: Path | Dataset) -> TrainConfig:
    """A trial holds out a quarter of the scenes at most: of a generated tree there are a handful."""
    if isinstance(source, Path):
        if not any(source.glob("shard_*/meta.json")):
            return recipe
        count = len(Shards.open(source))
    else:
        count = len(source)
    held_out = min(recipe.held_out, max(1, count // 4))
    return replace(recipe, held_out=held_out, measured=min(recipe.measured, held_out))


def _source(data: str | Path | Dataset, out: Path, smoke: bool) -> Path | Dataset:
    if not isinstance(data, (str, Path)):
        return data
    name, given, options = str(data).partition(":")
    if name == "synthetic" and not given:
        return _synthetic(out, smoke)
    if given and name in DATASETS:
        return _named(name, options) if name in FOLDERS else open_named(str(data))
    return Path(data)


def _named(name: str, options: str) -> Dataset:
    pairs = [part.partition("=") for part in options.split(",") if part]
    try:
        return load_dataset(name, **{key: yaml.safe_load(value) for key, _, value in pairs})
    except TypeError as error:
        raise ConfigError(f"data {name}:{options}: {error}; write NAME:key=value,key=value") from None


def _synthetic(out: Path, smoke: bool) -> Path:
    from horefine.data.synthetic import write_training_shard

    folder = out / "data"
    size, count = (40, 1) if smoke else (500, 36)
    for index in range(count):
        path = folder / f"shard_{index:05d}"
        if not path.is_dir():
            write_training_shard(path, start=index * size, count=size)
    Shards.open(folder)
    return folder
