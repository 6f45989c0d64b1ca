"""What can be learned: each task builds its network, makes losses of training scenes and measures held-out ones."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from horefine.extractors import measures
from horefine.extractors.batches import OUTSIDE, Batch, augment_color, map_targets
from horefine.extractors.c2f_sdf_official_task import OfficialC2fTask
from horefine.extractors.c2f_sdf_task import C2fTask
from horefine.extractors.contact_task import ContactTask
from horefine.extractors.dense import bin_loss
from horefine.extractors.detector import Detector, box_losses
from horefine.extractors.encoder_decoder import DENSE, HEADS, FeatureNet
from horefine.extractors.gsdf_official_task import GsdfOfficialTask, GsdfPoseTask
from horefine.extractors.gsdf_task import GsdfTask
from horefine.extractors.gsdf_video_task import GsdfVideoTask
from horefine.extractors.heads import spread_loss
from horefine.extractors.hoisdf import Hoisdf
from horefine.extractors.hoisdf_task import hoisdf_losses, truth
from horefine.extractors.initial import predict
from horefine.extractors.official_task import OfficialTask
from horefine.extractors.task import Task

__all__ = ["ON_CPU", "TASKS", "TRAINABLE", "Task"]


class FeatureTask(Task):
    """The maps of Song et al. 2022."""

    name = "features"
    weights: ClassVar = {"segmentation": 1.0, "joints": 0.5, "hand_coords": 8.0, "object_coords": 8.0, "depth": 4.0}
    """Chosen so that no loss rules the shared encoder: late in training each is about 0.1 to 0.4."""

    def build(self) -> nn.Module:
        return FeatureNet(self.network)

    def losses(self, count: int, progress: float, generator: torch.Generator, half: bool) -> dict[str, Tensor]:
        batch, extents = self.drawn(count, generator)
        with self.half(half):
            raw = self.model(batch.image, extents)
        targets = map_targets(batch)
        losses = {name: self.weights[name] * HEADS[name].loss(raw[name], targets) for name in HEADS}
        for name in DENSE:
            if f"{name}_bins" in raw:
                mask = targets[name.replace("coords", "mask")]
                losses[f"{name}_bins"] = 0.7 * bin_loss(raw[f"{name}_bins"], targets[name], mask)
        return losses | self._spreads(raw, targets)

    @staticmethod
    def _spreads(raw: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """A small weight: the spread follows the maps, the maps hardly follow it."""
        seen = {name: targets[name.replace("coords", "mask")] > 0.6 for name in DENSE}
        seen["depth"] = targets["hand_mask"] + targets["object_mask"] > 0.6
        losses = {}
        for name, mask in seen.items():
            if f"{name}_spread" in raw:
                target = targets[name][:, None] if name == "depth" else targets[name]
                error = (HEADS[name].activation(raw[name]) - target).abs()
                losses[f"{name}_spread"] = 0.05 * spread_loss(raw[f"{name}_spread"], error, mask)
        return losses

    def measure(self, count: int) -> dict[str, float]:
        def errors(batch: Batch) -> dict[str, float]:
            return measures.map_errors(FeatureNet.activate(self.model(batch.image, batch.extents)), batch)

        return self.mean_errors(count, errors)


class HoisdfTask(Task):
    """Poses, fields and roots."""

    name = "hoisdf"

    def build(self) -> nn.Module:
        return Hoisdf(self.network)

    def losses(self, count: int, progress: float, generator: torch.Generator, half: bool) -> dict[str, Tensor]:
        assert isinstance(self.model, Hoisdf)
        batch, extents = self.drawn(count, generator)
        frame = truth(batch, self.scenes.hand, self.network.root).frame
        with self.half(half):
            seen = self.model.see(batch.image, extents, frame.focal)
        drawn = self.drawing_here(generator)
        with self.here():
            return hoisdf_losses(
                self.model, seen, batch, self.scenes.hand, self.scenes.objects, progress, drawn, half=half
            )

    def measure(self, count: int) -> dict[str, float]:
        def errors(batch: Batch) -> dict[str, float]:
            assert isinstance(self.model, Hoisdf)
            side = batch.maps["depth"].shape[-1]
            found = predict(self.model, batch.image, batch.matrix, side, batch.extents)
            return measures.pose_errors(found, batch, self.scenes)

        return self.mean_errors(count, errors)


class DetectorTask(Task):
    """Boxes in whole photographs."""

    name = "detector"

    def build(self) -> nn.Module:
        return Detector(self.network)

    def losses(self, count: int, progress: float, generator: torch.Generator, half: bool) -> dict[str, Tensor]:
        image, boxes = self.scenes.wholes(self.scenes.choose(count, generator))
        image, boxes = _zoom(image, boxes, generator)
        image = _channels_last(augment_color(image, self.augmentation, generator))
        with self.half(half):
            found = self.model(image)
        return box_losses(found, boxes)

    def measure(self, count: int) -> dict[str, float]:
        image, boxes = self.scenes.wholes(np.arange(count))
        return measures.box_errors(self.model(image), boxes)


def _zoom(image: Tensor, boxes: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Nearer, farther, shifted, sides stretched: other lenses and picture shapes. Boxes are cut at the edge."""
    count = len(image)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(image)

    scale = (0.25 * normal(count, 1) + 0.06 * normal(count, 2)).exp().clamp(0.55, 1.7)
    # the middle of the hand and object stays in the picture
    middle = (boxes[..., :2].amin(1) + boxes[..., 2:].amax(1)) - 1
    target = (middle * scale).clamp(-0.6, 0.6) + 0.2 * normal(count, 2).clamp(-1.5, 1.5)
    shift = target - middle * scale
    theta = image.new_zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = 1 / scale[:, 0], 1 / scale[:, 1]
    theta[:, :, 2] = -shift / scale
    grid = torch.nn.functional.affine_grid(theta, list(image.shape), align_corners=False)
    image = torch.nn.functional.grid_sample(image - OUTSIDE, grid, align_corners=False) + OUTSIDE
    corners = (boxes * 2 - 1).unflatten(-1, (2, 2)) * scale[:, None, None] + shift[:, None, None]
    return image, (((corners + 1) / 2).clamp(0, 1)).flatten(2)


def _channels_last(image: Tensor) -> Tensor:
    return image.contiguous(memory_format=torch.channels_last)


TASKS: dict[str, type[Task]] = {
    task.name: task for task in (FeatureTask, HoisdfTask, DetectorTask, ContactTask, GsdfTask, C2fTask)
}
"""By name; the recipes ``configs/train_<name>.yaml`` say with which numbers. Their weights come with horefine."""
_PUBLISHED: tuple[type[Task], ...] = (
    OfficialTask, GsdfPoseTask, GsdfOfficialTask, GsdfVideoTask, OfficialC2fTask,
)  # fmt: skip
TRAINABLE: dict[str, type[Task]] = {**TASKS, **{task.name: task for task in _PUBLISHED}}
"""All that ``horefine train`` trains."""
ON_CPU = frozenset({ContactTask.name})
"""Tasks whose batches are made for the CPU: ``device: auto`` takes it for them."""
