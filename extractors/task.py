"""What a task is: a network, the losses of training scenes, and errors on held-out ones."""

from __future__ import annotations

import contextlib
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from horefine.data import Dataset
from horefine.data.shards import MAP_SIZE, Shards
from horefine.errors import ConfigError, InputError, suggestion
from horefine.extractors.batches import Augmentation, Batch
from horefine.extractors.measures import mean_of
from horefine.extractors.sample_batches import open_scenes
from horefine.extractors.sample_records import CROP
from horefine.extractors.shard_batches import Scenes, ShardScenes
from horefine.extractors.sizes import network_config

__all__ = ["Task"]


class Task(ABC):
    """A network and what it is trained on."""

    name: str
    crop: ClassVar[int] = CROP
    """Side of the pictures that it wants of a dataset, pixels; shards have their own."""
    side: ClassVar[int] = MAP_SIZE
    """Side of the maps, likewise."""
    smoke: ClassVar[Mapping[str, Any]] = {}
    """Changes of the recipe for a trial of a minute, beside those of every task."""

    def __init__(
        self, network: dict[str, Any], augmentation: dict[str, float], data: Path | Dataset, held_out: int,
        *, device: str = "cpu", hand: str = "auto",
    ) -> None:  # fmt: skip
        """Builds the network and opens the data.

        Args:
            network: Changes of the network's sizes.
            data: A folder of shards, a folder of photographs with truth, or a dataset.
            device: Where network and batches are.
            hand: ``auto``, ``embedded`` or ``mano`` (``sample_batches.hand_of``).

        Raises:
            ConfigError: a size or an augmentation that there is not.
            InputError: nothing to train on.
        """
        self.network = self.configure(network)
        known = {f.name for f in dataclasses.fields(Augmentation)}
        for key in augmentation:
            if key not in known:
                raise ConfigError(f"augmentation.{key}: no such key{suggestion(key, known)}")
        self.augmentation = Augmentation(**augmentation)
        self.folder, self.held_out, self.device, self.hand = data, held_out, device, hand
        self.model = self.build().to(device)
        self.open()

    def configure(self, table: dict[str, Any]) -> Any:
        """The network's configuration, a dataclass, with the entries of ``table`` changed."""
        return network_config(self.name, table)

    @abstractmethod
    def build(self) -> nn.Module:
        """The network, not trained."""

    @abstractmethod
    def losses(self, count: int, progress: float, generator: torch.Generator, half: bool) -> dict[str, Tensor]:
        """Weighted losses of ``count`` random training scenes; ``half``: convolutions in bfloat16."""

    @abstractmethod
    def measure(self, count: int) -> dict[str, float]:
        """Errors on the first ``count`` held-out scenes, units in the names."""

    def drawn(self, count: int, generator: torch.Generator) -> tuple[Batch, Float[Tensor, "B 3"]]:
        """``count`` random training scenes, changed as the recipe says, and the sides of their objects' boxes.

        In one of ten the sides are zeros: networks are also asked about objects that nobody knows.
        """
        batch = self.scenes.augmented(self.scenes.choose(count, generator), self.augmentation, generator)
        known = torch.rand(count, 1, generator=generator).to(self.device) > 0.1
        image = batch.image.contiguous(memory_format=torch.channels_last)
        return dataclasses.replace(batch, image=image), batch.extents * known

    def mean_errors(self, count: int, errors: Callable[[Batch], Mapping[str, float]]) -> dict[str, float]:
        """Means of ``errors`` over the first ``count`` held-out scenes, some of them at a time."""
        results = []
        for start in range(0, count, 32):
            batch = self.scenes.batch(np.arange(start, min(start + 32, count)))
            with self.here():
                results.append((len(batch), errors(batch)))
        return mean_of(results)

    def open(self) -> None:
        """Opens the data.

        Raises:
            InputError: there is none, or the shards' pictures are smaller than the network's.
        """
        self.scenes = self._scenes()
        size = getattr(self.network, "size", 0)
        if isinstance(self.scenes, ShardScenes) and self.scenes.shards.meta["crop"] < size:
            raise InputError(
                f"{self.folder}: its pictures have {self.scenes.shards.meta['crop']} pixels a side, and this network "
                f"wants {size}: make them with horefine data cache --crop {size}"
            )

    def _scenes(self) -> Scenes:
        crop = max(self.crop, getattr(self.network, "size", 0))
        return open_scenes(self.folder, self.hand, self.held_out, self.device, crop, self.side)

    def refresh(self) -> None:
        """Takes in shards written since; the held-out scenes stay."""
        if isinstance(self.scenes, ShardScenes) and isinstance(self.folder, Path):
            shards = Shards.open(self.folder)
            if shards.meta["objects"] == self.scenes.shards.meta["objects"]:
                self.scenes = dataclasses.replace(self.scenes, shards=shards)
            else:  # objects that none of the shards had shown
                self.scenes = self._scenes()

    def export(self, out: Path, tensors: Mapping[str, Tensor], step: int) -> None:  # noqa: B027
        """Writes the weights in further formats, if the network has any; called whenever they are saved."""

    def half(self, enabled: bool) -> torch.autocast:
        """Where convolutions and perceptrons may use bfloat16."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=enabled)

    def here(self) -> contextlib.AbstractContextManager[Any]:
        """Where tensors made without naming a device are the network's neighbours. Slows every call a little."""
        on_cpu = torch.device(self.device).type == "cpu"
        return contextlib.nullcontext() if on_cpu else torch.device(self.device)

    def drawing_here(self, generator: torch.Generator) -> torch.Generator:
        """For code that draws where its tensors are: the generator, or one on the device begun from it."""
        if torch.device(self.device).type == "cpu":
            return generator
        seed = int(torch.randint(2**62, (1,), generator=generator))
        return torch.Generator(self.device).manual_seed(seed)
