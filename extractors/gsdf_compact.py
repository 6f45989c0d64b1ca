"""The compact gSDF: its volumes, kinematics and fields (Chen et al. 2023) on the eyes of our compact HOISDF.

The published network (``gsdf.py``) has two backbones, is told where the wrist is, and is trained for days. This one
sees with HOISDF's U-Net and root head (``eyes.py``), and adds what gSDF is: a volumetric heat map for each joint, the
hand's frames by closed-form inverse kinematics, and fields that know a point by its pixel and by how it lies to those
frames. Here reflected hands get the nearest proper rotation, and the depth of a joint is said about the wrist's.

Everything happens in the network frame (``root.Frame``), metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from horefine.extractors.eyes import CompactConfig, Eyes, Seen
from horefine.extractors.field import SdfHead, point_features, to_grid
from horefine.extractors.gsdf_parts import VolumeHead, hand_embedding, object_embedding, soft_argmax
from horefine.extractors.layers import MLP, conv_block, fourier
from horefine.extractors.root import Frame
from horefine.inverse_kinematics.gsdf import GsdfKinematics, gsdf_kinematics

__all__ = ["COMPACT", "CompactGsdf", "CompactGsdfConfig", "Skeleton", "Volumes"]

OCTAVES = 4


@dataclass(frozen=True)
class CompactGsdfConfig(CompactConfig):
    """Sizes of the network; written into its weight files."""

    volume_width: int = 64
    depth_bins: int = 16
    depth_reach: float = 0.2
    """Metres before and behind the wrist that a volume covers."""
    read_mlp: tuple[int, ...] = (128, 96)
    """Widths of the perceptron on what the maps show at a point's pixel; the last is what a field gets."""
    field_width: int = 256
    hand_latent: int = 51
    """Numbers that say how a point lies to the hand, and (next) to the object and the joints (``gsdf_parts``)."""
    object_latent: int = 72


COMPACT = CompactGsdfConfig()


@dataclass(frozen=True)
class Volumes:
    """Where the volumes see the joints."""

    grid: Float[Tensor, "B 21 2"]
    """Crop coordinates, -1 to 1."""
    depth: Float[Tensor, "B 21"]
    """Metres behind the wrist (of the root head, or wherever the wrist is taken to be), z of the network frame."""

    def joints(self, frame: Frame, wrist: Float[Tensor, "B 3"]) -> Float[Tensor, "B 21 3"]:
        """Places, network frame; ``wrist``: where it is taken to be (its z counts)."""
        depth = (wrist[:, None, 2] + self.depth).clamp(min=0.02)
        return frame.rays(self.grid) * depth[..., None]


@dataclass(frozen=True)
class Skeleton:
    """The hand and the object as the fields know them."""

    wrist: Float[Tensor, "B 3"]
    """About which points are counted, network frame."""
    joints: Float[Tensor, "B 21 3"]
    """About the wrist."""
    center: Float[Tensor, "B 3"]
    """Of the object's box, about the wrist."""
    kinematics: GsdfKinematics

    @staticmethod
    def of(joints: Float[Tensor, "B 21 3"], wrist: Tensor, center: Tensor, template: Float[Tensor, "21 3"]) -> Skeleton:
        """From places in the network frame. ``template``: joints of the flat hand (``closed_form.flat_joints``)."""
        own = joints - joints[:, :1]
        return Skeleton(wrist, joints - wrist[:, None], center - wrist, gsdf_kinematics(own, template, faults=False))

    def __getitem__(self, row: int) -> Skeleton:
        """One of the batch, as a batch."""
        one = slice(row, row + 1 or None)
        found = self.kinematics
        return Skeleton(
            self.wrist[one],
            self.joints[one],
            self.center[one],
            GsdfKinematics(found.rotvec[one], found.transforms[one], found.valid[one]),
        )


class CompactGsdf(Eyes):
    """See the module's text. ``see`` once, ``volumes`` for the joints, then ``field`` as often as needed."""

    def __init__(self, config: CompactGsdfConfig = COMPACT) -> None:
        super().__init__(config)
        self.config = c = config
        self.attach()
        finest = self.pyramid_channels[0] + (8 if c.codes else 0)
        block = (conv_block(finest, c.volume_width), conv_block(c.volume_width, c.volume_width))
        self.volume_block = nn.Sequential(*block)
        self.volume_head = VolumeHead(c.volume_width, 21, c.depth_bins)
        self.read = MLP(self.seen_channels, *c.read_mlp, final_relu=True)
        inputs = c.read_mlp[-1] + 6 * OCTAVES
        self.hand_sdf_head = SdfHead(inputs + c.hand_latent, c.field_width, c.field_dropout)
        self.object_sdf_head = SdfHead(inputs + c.object_latent, c.field_width, c.field_dropout)
        if c.frozen:
            self.freeze()

    def volumes(self, seen: Seen) -> Volumes:
        """The joints, by the mean place of each volume."""
        finest = seen.levels[:2] if self.config.codes else seen.levels[:1]
        logits = self.volume_head(self.volume_block(torch.cat(finest, 1)))
        with torch.autocast(logits.device.type, enabled=False):
            places, _ = soft_argmax(logits)
        bins, height, width = logits.shape[2:]
        sides = places.new_tensor([width, height, bins])
        shares = (2 * places + 1) / sides - 1  # the middle of the first bin is half a bin from the edge
        return Volumes(shares[..., :2], shares[..., 2] * self.config.depth_reach)

    def field(
        self, which: str, seen: Seen, position: Float[Tensor, "B N 3"], skeleton: Skeleton, projection: Tensor
    ) -> Float[Tensor, "B N"]:
        """The field ``hand`` or ``object`` at ``position`` (network frame, metres), normalised unit, not clamped."""
        with torch.autocast(position.device.type, enabled=False):  # a place needs more than eight bits
            grid = to_grid(position, projection)
            x = position - skeleton.wrist[:, None]
            if which == "hand":
                known = hand_embedding(x, skeleton.kinematics, self.config.hand_latent)
                own = x
            else:
                known = object_embedding(
                    x, skeleton.center, skeleton.joints, skeleton.kinematics, self.config.object_latent
                )
                own = x - skeleton.center[:, None]
            known = torch.cat([known * self.config.scale, fourier(own * self.config.scale, OCTAVES)], -1)
        read = self.read(point_features(seen.levels, grid))
        head = self.hand_sdf_head if which == "hand" else self.object_sdf_head
        return head(torch.cat([read, known.to(read.dtype)], -1)).float()
