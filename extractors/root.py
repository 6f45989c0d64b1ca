"""Where wrist and object are, from the crop, its intrinsics and the object's size alone.

The official HOISDF is given the true wrist. Here a head says at which pixel wrist and object centre lie and how large
they appear; with the focal length that is a depth: ``z = 0.2 m * focal * exp(q)``, where ``focal`` is in half crops and
0.2 m is about what fills half a crop. What the user knows of the wrist (:class:`KnownWrist`) is taken instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from horefine.data import Sample
from horefine.extractors.layers import MLP, conv_block

__all__ = ["Frame", "KnownWrist", "Root", "RootHead"]


@dataclass(frozen=True)
class Frame:
    """The network frame of B crops: the camera's centre, turned to look at the middle of the crop."""

    rotation: Float[Tensor, "B 3 3"]
    """Network frame from camera frame."""
    projection: Float[Tensor, "B 3 3"]
    """Network-frame points to homogeneous crop coordinates, -1 to 1 from edge to edge."""
    focal: Float[Tensor, "B"]
    """Half crops per unit of X/Z about the middle of the crop."""

    @staticmethod
    def of(matrix: Float[Tensor, "B 3 3"], side: int, turned: bool = True) -> Frame:
        """From intrinsics ``matrix`` of a crop of ``side`` pixels; ``turned`` False keeps the camera's axes."""
        to_crop = matrix.new_tensor([[2 / side, 0, 1 / side - 1], [0, 2 / side, 1 / side - 1], [0, 0, 1]])
        crop = to_crop @ matrix
        focal = (crop[:, 0, 0] * crop[:, 1, 1]).sqrt()
        if not turned:
            return Frame(torch.eye(3).to(matrix).expand(len(matrix), 3, 3), crop, focal)
        ray = torch.linalg.solve(crop, matrix.new_tensor([0.0, 0.0, 1.0]).expand(len(matrix), 3))
        ray = ray / ray.norm(dim=-1, keepdim=True)
        rotation = _turn_to_axis(ray)
        # off the axis a pinhole stretches by 1 / cos^2 along the radius and 1 / cos across it
        return Frame(rotation, crop @ rotation.mT, focal / ray[:, 2] ** 1.5)

    def rays(self, grid: Float[Tensor, "B N 2"]) -> Float[Tensor, "B N 3"]:
        """Through crop coordinates, network frame, with z = 1."""
        homogeneous = torch.cat([grid, torch.ones_like(grid[..., :1])], -1)
        rays = torch.linalg.solve(self.projection, homogeneous.mT).mT
        return rays / rays[..., 2:]

    def backproject(self, grid: Float[Tensor, "B 2"], depth: Float[Tensor, "B"]) -> Float[Tensor, "B 3"]:
        """The network-frame point at crop coordinates ``grid`` with a given z."""
        return self.rays(grid[:, None])[:, 0] * depth[:, None]


def _turn_to_axis(ray: Float[Tensor, "B 3"]) -> Float[Tensor, "B 3 3"]:
    """The smallest rotation that takes a unit ``ray`` to (0, 0, 1)."""
    x, y, z = ray.unbind(-1)
    k = 1 / (1 + z)
    rows = [1 - x * x * k, -x * y * k, -x, -x * y * k, 1 - y * y * k, -y, x, y, z]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


@dataclass(frozen=True)
class KnownWrist:
    """What is known of the wrists of B crops; NaN where it is not."""

    place: Float[Tensor, "B 3"]
    """Camera frame, metres; the depth may be known alone."""
    grid: Float[Tensor, "B 2"]
    """Crop coordinates, -1 to 1."""

    @staticmethod
    def of(crops: Sequence[Sample], device: str = "cpu") -> KnownWrist | None:
        """From ``Sample.wrist`` and ``Sample.keypoints``; None when no crop has either."""
        if all(crop.wrist is None and crop.keypoints is None for crop in crops):
            return None
        nothing = float("nan")
        places = [[nothing if v is None else v for v in crop.wrist or (None,) * 3] for crop in crops]
        grids = [
            [nothing, nothing]
            if crop.keypoints is None
            else ((crop.keypoints[0] + 0.5) * 2 / crop.image.shape[-1] - 1).tolist()
            for crop in crops
        ]
        return KnownWrist(torch.tensor(places, device=device), torch.tensor(grids, device=device))


@dataclass(frozen=True)
class Root:
    """Wrist (0) and centre of the object's box (1)."""

    grid: Float[Tensor, "B 2 2"]
    """Crop coordinates, -1 to 1."""
    log_size: Float[Tensor, "B 2"]
    """q of the module's text."""
    focal: Float[Tensor, "B"]

    def depth(self) -> Float[Tensor, "B 2"]:
        """Metres along z of the network frame."""
        return 0.2 * self.focal[:, None] * self.log_size.exp()

    def points(
        self, frame: Frame, known: KnownWrist | None = None
    ) -> tuple[Float[Tensor, "B 3"], Float[Tensor, "B 3"]]:
        """Wrist and object centre, network frame.

        What is ``known`` of the wrist is taken as it is. The object stays on its ray and moves in depth as the wrist
        does: how far apart the two are is seen better than how far away they are.
        """
        depth = self.depth()
        if known is None:
            return frame.backproject(self.grid[:, 0], depth[:, 0]), frame.backproject(self.grid[:, 1], depth[:, 1])
        wrist = self._known(frame, known)
        moved = depth[:, 1] + wrist[:, 2] - depth[:, 0]
        return wrist, frame.backproject(self.grid[:, 1], moved.clamp(min=0.05))

    def _known(self, frame: Frame, known: KnownWrist) -> Float[Tensor, "B 3"]:
        """The wrist, network frame: known as a whole, on a known ray, at a known depth, or predicted."""
        ray = frame.backproject(known.grid.where(known.grid.isfinite(), self.grid[:, 0]), torch.ones_like(self.focal))
        along = (frame.rotation.mT @ ray[..., None])[:, 2, 0]  # camera z of a step along the ray
        z = known.place[:, 2]
        depth = torch.where(z.isfinite(), z / along, self.depth()[:, 0])
        whole = (frame.rotation @ known.place[..., None])[..., 0]
        return whole.where(known.place.isfinite().all(-1, keepdim=True), ray * depth[:, None])


class RootHead(nn.Module):
    """Places by the mean of a spatial softmax at stride 8, sizes by a perceptron on the stride 32 map."""

    def __init__(self, top: int, stride8: int, condition: int) -> None:
        super().__init__()
        self.place = nn.Sequential(conv_block(stride8 + 2, 32), nn.Conv2d(32, 2, 1))
        self.squeeze = conv_block(top, 64, 1)
        self.size = MLP(64 * 16 + condition + 5, 128, 64, 2)
        self.size.start(0.0)

    def forward(self, top: Tensor, stride8: Tensor, condition: Tensor, focal: Float[Tensor, "B"]) -> Root:
        height, width = stride8.shape[-2:]
        ys = (2 * torch.arange(height, device=top.device) + 1) / height - 1
        xs = (2 * torch.arange(width, device=top.device) + 1) / width - 1
        where = torch.stack(torch.meshgrid(xs, ys, indexing="xy"))[None].to(stride8.dtype)
        heat = self.place(torch.cat([stride8, where.expand(len(top), -1, -1, -1)], 1))
        squeezed = nn.functional.adaptive_avg_pool2d(self.squeeze(top), 4)
        with torch.autocast(top.device.type, enabled=False):  # a place needs more than eight bits
            grid = heat.float().flatten(2).softmax(-1) @ where.float().flatten(2).mT
            inputs = torch.cat([squeezed.float().flatten(1), condition, grid.flatten(1), focal.log()[:, None]], -1)
            return Root(grid, self.size(inputs), focal)
