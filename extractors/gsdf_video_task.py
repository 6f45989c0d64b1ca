"""Training of gSDF's clip transformer: the third stage of ``gsdf_official_task``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from horefine.errors import ConfigError
from horefine.extractors.batches import Batch, View, change_view
from horefine.extractors.gsdf import DATASETS, Gsdf, GsdfConfig
from horefine.extractors.gsdf_official_task import RANDOM, GsdfOfficialTask, GsdfStage, gsdf_colors, gsdf_view, take
from horefine.extractors.measures import mean_of

__all__ = ["GsdfVideoTask"]

APART = 0.15
"""Metres: pictures that follow each other in the data and whose wrists are farther apart are not of one clip."""


class GsdfVideoTask(GsdfOfficialTask):
    """Stage two once more, with the clips' transformer between the maps of a clip's pictures, in random order.

    ``neighbours`` of another object or far away are replaced by the first picture: the clip is shorter. A clip's
    pictures are turned and coloured alike; those of one picture (``views``) also a little differently.
    """

    name = "gsdf_video_official"
    settings = ("image", "points", "frames", "clips")
    smoke: ClassVar[Mapping[str, Any]] = {**GsdfStage.smoke, "network": {"image": RANDOM}}

    def sized(self) -> GsdfConfig:
        return dataclasses.replace(DATASETS[self.network.dataset], **{"clip_layers": 8, **self.network.sizes})

    def build(self) -> nn.Module:
        model, path = Gsdf(self.sized()), self.network.image
        if path is None:
            raise ConfigError(
                "network.image: gSDF for clips begins from the one for pictures: train gsdf_official, and name its "
                f"snapshot.pth.tar (or {RANDOM!r}, to try)"
            )
        if path != RANDOM:
            new = {name: value for name, value in model.state_dict().items() if name.startswith("feat_transformer.")}
            take(model, path, "image", new)
            model.requires_grad_()
            model.pose_model.requires_grad_(False)
        return model

    def losses(self, count: int, progress: float, generator: torch.Generator, half: bool) -> dict[str, Tensor]:
        """``count`` pictures, in whole clips: at least one."""
        length = self.network.frames
        first = self.scenes.choose(max(1, count // length), generator)[:, None]
        if self.network.clips == "views":
            batch = self.scenes.batch(first.repeat(length, 1).reshape(-1))
        else:
            batch = self._neighbours(first, generator)
        return self.losses_of(self._changed(batch, generator), progress, generator, half, length)

    def _neighbours(self, first: np.ndarray, generator: torch.Generator) -> Batch:
        length = self.network.frames
        order = torch.stack([torch.randperm(length, generator=generator) for _ in first]).numpy()
        chosen = np.minimum(first + order, len(self.scenes) - 1)
        batch, start = self.scenes.batch(chosen.reshape(-1)), self.scenes.batch(first[:, 0])
        near = (batch.joints[:, 0].unflatten(0, chosen.shape) - start.joints[:, :1]).norm(dim=-1) < APART
        near &= batch.object.unflatten(0, chosen.shape) == start.object[:, None]
        if bool(near.all()):
            return batch
        return self.scenes.batch(np.where(near.cpu().numpy(), chosen, first).reshape(-1))

    def _changed(self, batch: Batch, generator: torch.Generator) -> Batch:
        length = self.network.frames
        clips = len(batch) // length
        angle = gsdf_view(clips, generator).angle.repeat_interleave(length)
        view = View(angle, torch.ones(len(batch)), torch.zeros(len(batch), 2))
        if self.network.clips == "views":
            turn, shift = torch.randn(len(batch), generator=generator), torch.randn(len(batch), 2, generator=generator)
            view = View(angle + math.radians(3) * turn.clamp(-2, 2), view.scale, 0.04 * shift.clamp(-2, 2))
        rest = self.scenes.hand.rest_joints(batch.pose.hand_shape)[:, 0]
        batch = change_view(batch, view, rest)
        return dataclasses.replace(batch, image=gsdf_colors(batch.image, clips, generator))

    def measure(self, count: int) -> dict[str, float]:
        """``neighbours``: held-out pictures in clips as they follow each other; ``views``: each alone."""
        length = self.network.frames if self.network.clips == "neighbours" else 1
        results = []
        for start in range(0, count, length):
            rows = np.arange(start, min(start + length, count))
            results.append((len(rows), self.errors(self.scenes.batch(rows), len(rows))))
        return mean_of(results)
