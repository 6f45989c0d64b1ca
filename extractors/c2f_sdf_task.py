"""Training of the compact C2F-SDF on scenes with a depth camera's map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from horefine.extractors.batches import Batch
from horefine.extractors.c2f_sdf_compact import CompactC2f, Felt
from horefine.extractors.depth_noise import sensed
from horefine.extractors.field_losses import eye_losses, field_losses, field_points
from horefine.extractors.hoisdf_task import Truth, truth
from horefine.extractors.measures import field_errors, joint_errors
from horefine.extractors.task import Task

__all__ = ["C2fTask"]


class C2fTask(Task):
    """Places by votes of the depth map, fields coarse and fine."""

    name = "c2f_sdf"

    def build(self) -> nn.Module:
        return CompactC2f(self.network)

    def losses(self, count: int, progress: float, generator: torch.Generator, half: bool) -> dict[str, Tensor]:
        assert isinstance(self.model, CompactC2f)
        model, config = self.model, self.network
        batch, extents = self.drawn(count, generator)
        true = truth(batch, self.scenes.hand, config.root)
        depth = sensed(batch, generator)
        source = self.drawing_here(generator)
        with self.here():
            with self.half(half):
                seen = model.see(batch.image, extents, true.frame.focal)
                felt = model.feel(seen, depth, true.frame, source)
            wrist, center = _about(felt, true, min(1.0, 4 * progress), source)
            places = field_points(true, batch, self.scenes.objects, 1 / config.scale, 160, source)
            with self.half(half):
                points = model.semantics(felt, wrist, center, true.frame)

            def fine(which: str, position: Tensor) -> Tensor:
                with self.half(half):
                    return model.field(which, felt, points, position, true.frame.projection)

            def coarse(which: str, position: Tensor) -> Tensor:
                with self.half(half):
                    return model.coarse(which, felt, position, wrist, center)

            # where the depth camera saw things is where they are: nothing moves with a wrong wrist
            still = torch.zeros_like(wrist)
            losses = field_losses(fine, places, still, config.scale, config.clamp)
            losses |= field_losses(coarse, places, still, config.scale, config.clamp, "coarse")
            return losses | place_losses(felt, true) | eye_losses(seen, batch, true, config)

    def measure(self, count: int) -> dict[str, float]:
        return self.mean_errors(count, self._errors)

    def _errors(self, batch: Batch) -> dict[str, float]:
        assert isinstance(self.model, CompactC2f)
        model = self.model
        true = truth(batch, self.scenes.hand, self.network.root)
        seen = model.see(batch.image, batch.extents, true.frame.focal)
        felt = model.feel(seen, sensed(batch, torch.Generator().manual_seed(0)), true.frame)
        wrist = felt.joints[:, 0]
        points = model.semantics(felt, wrist, felt.center, true.frame)
        generator = torch.Generator(self.device).manual_seed(0)
        places = field_points(true, batch, self.scenes.objects, 1 / self.network.scale, 256, generator)

        def ask(which: str, position: Tensor) -> Tensor:
            return model.field(which, felt, points, position, true.frame.projection) / self.network.scale

        still = torch.zeros_like(wrist)
        return joint_errors(felt.joints, felt.center, true) | field_errors(ask, places, still, still)


def _about(felt: Felt, true: Truth, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Wrist and object centre for the fields: predicted in a share of the images (within 10 cm), else noisy."""

    def noisy(place: Tensor) -> Tensor:
        return place + 0.01 * torch.randn(place.shape, generator=generator).to(place)

    hand, other = felt.joints[:, 0].detach(), felt.center.detach()
    use = torch.rand(len(hand), 1, generator=generator).to(hand) < share
    use &= (hand - true.wrist).norm(dim=-1, keepdim=True) < 0.1
    use &= (other - true.object_center).norm(dim=-1, keepdim=True) < 0.1
    return torch.where(use, hand, noisy(true.wrist)), torch.where(use, other, noisy(true.object_center))


def place_losses(felt: Felt, true: Truth) -> dict[str, Tensor]:
    """L1 of joints and object centre, in space and about the wrist."""
    own, exact = felt.joints - felt.joints[:, :1], true.own_joints
    return {
        "joints": 30 * (felt.joints - exact - true.wrist[:, None]).abs().mean(),
        "hand": 30 * (own - exact).abs().mean(),
        "center": 20 * (felt.center - true.object_center).abs().mean(),
    }
