"""gSDF (Chen et al. 2023): joints from volumetric heat maps, kinematics in closed form, fields about the joints.

A network finds the 21 joints and the object's centre as means of volumetric heat maps; inverse kinematics turns the
joints into the frames of the hand's bones; two decoders give the signed distance to hand and object at any point from
what the map shows at its pixel and from where it lies in those frames. For clips a transformer exchanges the maps of a
clip's pictures first.

Module names are those of the official checkpoints; :data:`OBMAN` and :data:`DEXYCB` have their sizes and the settings
they were trained with, faults among them. :data:`COMPACT` is the same code at sizes that a CPU core trains in hours,
without the faults, plus what the official network takes from ground truth or lacks: a root head (the wrist, with
intrinsics), the sides of the object's box as a condition, skips from the encoder to the necks. It has one encoder where
the official has two (one of them frozen).

Everything here happens in a *network frame*: metres, the camera's centre as origin, turned so that the optical axis
runs through the middle of the crop (``root.Frame``, and the official virtual camera likewise: ``gsdf_camera``). Fields
count in units of ``1 / scale`` metres from the wrist.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from horefine.errors import ConfigError, suggestion
from horefine.extractors.field import to_grid
from horefine.extractors.gsdf_parts import (
    HAND_LATENTS,
    OBJECT_LATENTS,
    Neck,
    SdfHead,
    VolumeNet,
    hand_embedding,
    object_embedding,
    soft_argmax,
)
from horefine.extractors.layers import condition_vector
from horefine.extractors.root import Root, RootHead
from horefine.inverse_kinematics import GsdfKinematics, gsdf_kinematics

__all__ = ["COMPACT", "DEXYCB", "JOINTS", "OBMAN", "Body", "Gsdf", "GsdfConfig", "Seen"]

JOINTS = 21
KINEMATICS = ("proper", "official")


@dataclass(frozen=True)
class GsdfConfig:
    """Sizes of the network; written into its weight files."""

    size: int = 128
    depth: int = 18
    width: int = 32
    shared_backbone: bool = True
    """One encoder for joints, object centre and fields; False: the joints have their own (``pose_model``), frozen."""
    skips: bool = True
    """The encoder's maps are added in the necks."""
    neck: int = 64
    neck_blocks: int = 3
    """Each doubles the heat maps' side, from a 32nd of ``size``."""
    bins: int = 16
    """Of the heat maps in depth."""
    depth_dim: float = 0.28
    """Metres before and behind the wrist that the depth bins cover."""
    sdf_channels: int = 64
    """Of the map that points read."""
    sdf_blocks: int = 3
    """Each doubles that map's side."""
    point_features: int = 64
    """What is kept of a point's pixel, depth and direction."""
    hand_latent: int = 51
    """Numbers of a point's kinematic features, hand (``gsdf_parts.HAND_LATENTS``)."""
    object_latent: int = 72
    field_width: int = 192
    field_dropout: float = 0.0
    scale: float = 3.1
    """The fields' unit: normalised = metres times this. Half of the official ``recon_scale``."""
    clamp: float = 0.15
    """Normalised distance at which fields are cut in training."""
    align_corners: bool = False
    """How points read the map; True: as published (a map reaches from the middle of its first pixel to its last)."""
    outside: str = "border"
    """What points outside the picture read: its ``border``, or ``zeros`` as published."""
    centred_bins: bool = True
    """A bin stands for its middle; False: for its edge, as published."""
    kinematics: str = "proper"
    """``official``: with the published faults (``inverse_kinematics.gsdf_kinematics``)."""
    root: bool = True
    condition: bool = True
    grid: int = 65
    """Nodes along a side of the grids that the fields become for ``sdf_consistency`` (``sampling.field_grid``)."""

    def __post_init__(self) -> None:
        """Refuses settings that there are not.

        Raises:
            ConfigError: with what there is.
        """
        for key, known in (("kinematics", KINEMATICS), ("outside", ("border", "zeros"))):
            value = str(getattr(self, key))
            if value not in known:
                raise ConfigError(f"network.{key}: {value!r}: there is none{suggestion(value, known)}")
        for key, numbers in (("hand_latent", HAND_LATENTS), ("object_latent", OBJECT_LATENTS)):
            if getattr(self, key) not in numbers:
                raise ConfigError(f"network.{key}: {getattr(self, key)}; known: {', '.join(map(str, numbers))}")
        if self.grid < 2:
            raise ConfigError(f"network.grid: {self.grid} nodes do not span a grid; give at least 2 (65 is usual)")


COMPACT = GsdfConfig()
OBMAN = GsdfConfig(
    size=256, width=64, shared_backbone=False, skips=False, neck=256, bins=64, sdf_channels=256, sdf_blocks=1,
    point_features=256, field_width=512, field_dropout=0.2, scale=3.5, clamp=0.05, align_corners=True, outside="zeros",
    centred_bins=False, kinematics="official", root=False, condition=False,
)  # fmt: skip
"""As published for ObMan (``recon_scale`` 7.0). Heat maps cover 0.28 m here, though stage one trains with 0.20."""
DEXYCB = GsdfConfig(**{**OBMAN.__dict__, "scale": 3.1})
"""As published for DexYCB (``recon_scale`` 6.2)."""


@dataclass(frozen=True)
class Seen:
    """What the network made of B crops."""

    levels: list[Tensor]
    """Maps for points to read: one."""
    places: Float[Tensor, "B 22 3"]
    """Of the joints and the object's centre in the heat maps: column, row and depth, -1 to 1 from edge to edge."""
    confidence: Float[Tensor, "B 22"]
    """Greatest probability in each heat map."""
    condition: Float[Tensor, "B 7"]
    root: Root | None


@dataclass(frozen=True)
class Body:
    """What the fields are asked about: hands, and where the objects are; network frame, metres."""

    wrist: Float[Tensor, "B 3"]
    """About which points are counted."""
    joints: Float[Tensor, "B 21 3"]
    object_center: Float[Tensor, "B 3"]
    kinematics: GsdfKinematics
    """Frames of the bones, from the joints."""

    def center(self, which: str) -> Float[Tensor, "B 3"]:
        """Of the ``hand`` (its wrist) or the ``object``."""
        return self.wrist if which == "hand" else self.object_center


class Gsdf(VolumeNet):
    """See the module's text. ``see`` once, ``joints`` and ``body``, then ``field`` as often as needed."""

    def __init__(self, config: GsdfConfig = COMPACT) -> None:
        c = config
        places = JOINTS + 1 if c.shared_backbone else 1
        trunk = (c.depth, c.width)
        sizes = {"neck": c.neck, "blocks": c.neck_blocks, "skips": c.skips}
        super().__init__(*trunk, places, c.bins, **sizes)
        self.config = c
        channels = self.backbone.channels
        if not c.shared_backbone:
            self.pose_model = VolumeNet(*trunk, JOINTS, c.bins, **sizes).requires_grad_(False)
        self.backbone_2_sdf = Neck(channels, c.sdf_channels, c.sdf_blocks, c.skips)
        self.sdf_encoder = nn.Linear(c.sdf_channels + 4, c.point_features)
        self.hand_sdf_head = SdfHead(c.point_features + c.hand_latent, c.field_width, c.field_dropout)
        self.obj_sdf_head = SdfHead(c.point_features + c.object_latent, c.field_width, c.field_dropout)
        if c.condition:
            self.condition_map = nn.Linear(7, channels[-1])
        if c.root:
            if c.neck_blocks < 2:
                raise ConfigError(f"network.neck_blocks: {c.neck_blocks}; the root head needs at least 2")
            self.root_head = RootHead(channels[-1], c.neck, 7)

    def train(self, mode: bool = True) -> Gsdf:
        """As ``nn.Module.train``; the frozen joints' network stays as it is used."""
        super().train(mode)
        if not self.config.shared_backbone:
            self.pose_model.eval()
        return self

    def see(
        self,
        image: Float[Tensor, "B 3 S S"],
        extents: Float[Tensor, "B 3"] | None = None,
        focal: Float[Tensor, "B"] | None = None,
    ) -> Seen:
        """Everything that does not depend on points.

        Args:
            image: sRGB, 0 to 1.
            extents: The objects' box sides, metres; a row of zeros where unknown.
            focal: Half crops, for the root head (``root.Frame.focal``).

        Raises:
            ValueError: there is a root head and no ``focal``.
        """
        condition = condition_vector(extents, len(image), image)
        maps = self.backbone(self.normalised(image))
        if self.config.condition:
            maps[-1] = maps[-1] + self.condition_map(condition)[..., None, None].to(maps[-1].dtype)
        stages = self.neck(maps)
        places, confidence = soft_argmax(self.volume_head(stages[-1]))
        if not self.config.shared_backbone:
            with torch.no_grad():
                hand = self.pose_model(image)
            places, confidence = torch.cat([hand[0], places], 1), torch.cat([hand[1], confidence], 1)
        root = None
        if self.config.root:
            if focal is None:
                raise ValueError("the root head needs the crop's focal length")
            root = self.root_head(maps[-1], stages[1], condition, focal)
        return Seen([self.backbone_2_sdf(maps)[-1]], self._scaled(places), confidence, condition, root)

    def _scaled(self, places: Float[Tensor, "B J 3"]) -> Float[Tensor, "B J 3"]:
        """Bins to -1 to 1 from edge to edge."""
        side = self.config.size // 32 * 2**self.config.neck_blocks
        counts = places.new_tensor([side, side, self.config.bins])
        return (2 * places + (1 if self.config.centred_bins else 0)) / counts - 1

    def joints(
        self, seen: Seen, wrist: Float[Tensor, "B 3"], projection: Float[Tensor, "B 3 3"]
    ) -> tuple[Float[Tensor, "B 21 3"], Float[Tensor, "B 3"]]:
        """The joints and the object's centre in the network frame, metres.

        Args:
            wrist: Only its depth is used: heat maps tell depths from it.
            projection: Takes points to homogeneous crop coordinates (``root.Frame.projection``).
        """
        depth = seen.places[..., 2] * self.config.depth_dim + wrist[:, None, 2]
        ones = torch.ones_like(depth[..., None])
        ray = torch.linalg.solve(projection, torch.cat([seen.places[..., :2], ones], -1).mT).mT
        found = ray / ray[..., 2:] * depth[..., None]
        return found[:, :JOINTS], found[:, JOINTS]

    def body(
        self, wrist: Float[Tensor, "B 3"], joints: Float[Tensor, "B 21 3"], object_center: Float[Tensor, "B 3"],
        template: Float[Tensor, "21 3"],
    ) -> Body:  # fmt: skip
        """What the fields are asked about. No gradient passes through the joints.

        Args:
            template: Joints of the flat hand at zero shape (``inverse_kinematics.closed_form.flat_joints``), metres.
        """
        fixed = joints.detach()
        with torch.no_grad(), torch.autocast(joints.device.type, enabled=False):
            found = gsdf_kinematics(fixed, template.to(fixed), faults=self.config.kinematics == "official")
        return Body(wrist, fixed, object_center, found)

    def field(
        self, which: str, seen: Seen, position: Float[Tensor, "B N 3"], body: Body, projection: Float[Tensor, "B 3 3"]
    ) -> Float[Tensor, "B N"]:
        """The field of the ``hand`` or the ``object``, normalised, at ``position``, network frame, metres."""
        return self.distance(which, self.features(seen, position, projection), position, body)

    def features(
        self, seen: Seen, position: Float[Tensor, "B N 3"], projection: Float[Tensor, "B 3 3"]
    ) -> Float[Tensor, "B N F"]:
        """What the map shows at the points' pixels, their depths and directions, encoded; for both fields."""
        with torch.autocast(position.device.type, enabled=False):  # a place needs more than eight bits
            where = to_grid(position, projection)[:, :, None]
            read = nn.functional.grid_sample(
                seen.levels[0].float(), where, padding_mode=self.config.outside, align_corners=self.config.align_corners
            )[..., 0].mT
            distance = position.norm(dim=-1, keepdim=True)
        return self.sdf_encoder(torch.cat([read, position[..., 2:], position / distance], -1))

    def distance(self, which: str, features: Tensor, position: Tensor, body: Body) -> Float[Tensor, "B N"]:
        """As :meth:`field`, for points whose features were read before."""
        c, x = self.config, position - body.wrist[:, None]
        if which == "hand":
            embedding, head = hand_embedding(x, body.kinematics, c.hand_latent), self.hand_sdf_head
        else:
            center = body.object_center - body.wrist
            around = body.joints - body.wrist[:, None]
            embedding = object_embedding(x, center, around, body.kinematics, c.object_latent)
            head = self.obj_sdf_head
        return head(torch.cat([features, embedding * c.scale], -1)).float()
