"""Training of the compact gSDF: volumes first, then fields on the frames that they give (gSDF trains in two stages)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from horefine.extractors.batches import Batch
from horefine.extractors.field_losses import eye_losses, field_losses, field_points
from horefine.extractors.gsdf_compact import CompactGsdf, Skeleton, Volumes
from horefine.extractors.hoisdf_task import Truth, centers, truth
from horefine.extractors.measures import field_errors, joint_errors
from horefine.extractors.task import Task
from horefine.inverse_kinematics.closed_form import flat_joints

__all__ = ["GsdfTask"]

LEARNT = 0.15
"""Share of the schedule after which fields are trained on predicted joints only; before, on true ones more and more
seldom."""


class GsdfTask(Task):
    """Joints by volumes, and fields on the kinematic chain."""

    name = "gsdf"

    def build(self) -> nn.Module:
        return CompactGsdf(self.network)

    def losses(self, count: int, progress: float, generator: torch.Generator, half: bool) -> dict[str, Tensor]:
        assert isinstance(self.model, CompactGsdf)
        model, hand = self.model, self.scenes.hand
        batch, extents = self.drawn(count, generator)
        true = truth(batch, hand, self.network.root)
        with self.half(half):
            seen = model.see(batch.image, extents, true.frame.focal)
        source = self.drawing_here(generator)
        with self.here():
            wrist, center = centers(true, seen, min(1.0, 2 * progress) * 0.7, source)
            with self.half(half):
                volumes = model.volumes(seen)
            predicted = volumes.joints(true.frame, wrist).detach()
            joints = _mixed(predicted, true, wrist, progress / LEARNT, source)
            skeleton = Skeleton.of(joints, wrist, center, flat_joints(hand))
            places = field_points(true, batch, self.scenes.objects, 1 / self.network.scale, 160, source)

            def ask(which: str, points: Tensor) -> Tensor:
                with self.half(half):
                    return model.field(which, seen, points, skeleton, true.frame.projection)

            losses = field_losses(ask, places, wrist - true.wrist, self.network.scale, self.network.clamp)
            return losses | volume_losses(volumes, true) | eye_losses(seen, batch, true, self.network)

    def measure(self, count: int) -> dict[str, float]:
        return self.mean_errors(count, self._errors)

    def _errors(self, batch: Batch) -> dict[str, float]:
        assert isinstance(self.model, CompactGsdf)
        model, hand = self.model, self.scenes.hand
        true = truth(batch, hand, self.network.root)
        seen = model.see(batch.image, batch.extents, true.frame.focal)
        assert seen.root is not None
        wrist, center = seen.root.points(true.frame)
        joints = model.volumes(seen).joints(true.frame, wrist)
        skeleton = Skeleton.of(joints, wrist, center, flat_joints(hand))
        places = field_points(
            true, batch, self.scenes.objects, 1 / self.network.scale, 256, torch.Generator(self.device).manual_seed(0)
        )

        def ask(which: str, points: Tensor) -> Tensor:
            return model.field(which, seen, points, skeleton, true.frame.projection) / self.network.scale

        moved = wrist - true.wrist
        return joint_errors(joints, center, true) | field_errors(ask, places, moved, center - true.object_center)


def _mixed(found: Tensor, true: Truth, wrist: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Predicted joints in a share of the images, true ones moved to ``wrist`` in the others."""
    use = torch.rand(len(found), 1, 1, generator=generator).to(found) < share
    return torch.where(use, found, true.own_joints + wrist[:, None])


def volume_losses(volumes: Volumes, true: Truth) -> dict[str, Tensor]:
    """L1 of the joints' places in the picture (half crops) and of their depth behind the wrist."""
    homogeneous = (true.own_joints + true.wrist[:, None]) @ true.frame.projection.mT
    grid = homogeneous[..., :2] / homogeneous[..., 2:]
    depth = true.own_joints[..., 2]
    return {
        "volume_place": 10 * (volumes.grid - grid).abs().mean(),
        "volume_depth": 40 * (volumes.depth - depth).abs().mean(),
    }
