"""gSDF (Chen et al. 2023) as its authors published it: joints, their kinematics, fields about them, clips.

A network finds the 21 joints and the object's centre as means of volumetric heat maps; inverse kinematics turns the
joints into the frames of the hand's bones; two decoders give the signed distance to hand and object at any point from
what the map shows at its pixel and from where it lies in those frames. For clips a transformer exchanges the maps of a
clip's pictures first (``gsdf_video``).

Module names are those of the official checkpoints; :data:`OBMAN` and :data:`DEXYCB` are the settings they were trained
with, faults among them. Our own smaller variant with another encoder, which needs no ground truth, is
``gsdf_compact``.

The official network is told the true wrist; here it is an argument. Places are metres in the frame of the virtual
camera that looks at the middle of the crop (``root.Frame``); fields count in units of ``1 / scale`` metres from the
wrist.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from horefine.errors import ConfigError, suggestion
from horefine.extractors.field import SdfHead, to_grid
from horefine.extractors.gsdf_parts import (
    HAND_LATENTS,
    OBJECT_LATENTS,
    Neck,
    VolumeNet,
    hand_embedding,
    object_embedding,
)
from horefine.extractors.gsdf_video import ClipTransformer
from horefine.inverse_kinematics.gsdf import GsdfKinematics, gsdf_kinematics

__all__ = [
    "DATASETS",
    "DEXYCB",
    "JOINTS",
    "OBMAN",
    "POSE_DEPTH",
    "Body",
    "Gsdf",
    "GsdfConfig",
    "PoseNet",
    "Seen",
    "lifted",
    "projection_of",
]

JOINTS = 21
POSE_DEPTH = 0.20
"""``hand_depth`` of the first stage's training."""
_KINEMATICS = ("official", "proper")


@dataclass(frozen=True)
class GsdfConfig:
    """Sizes and settings; the defaults are those published for ObMan."""

    size: int = 256
    depth: int = 18
    width: int = 64
    neck: int = 256
    """Channels between encoder and heat maps, and of the map that points read."""
    bins: int = 64
    """Of the heat maps in depth."""
    hand_depth: float = 0.28
    """Metres before and behind the wrist that the joints' heat maps cover. Stage one trains with :data:`POSE_DEPTH`,
    and stage two reads them with 0.28, as published: depths about the wrist are 1.4 times too large."""
    object_depth: float = 0.28
    point_features: int = 256
    """What is kept of a point's pixel, depth and direction."""
    hand_latent: int = 51
    """Numbers that say how a point lies to the hand's bones (``gsdf_parts.HAND_LATENTS``)."""
    object_latent: int = 72
    """And to the object and the joints."""
    field_width: int = 512
    field_dropout: float = 0.2
    scale: float = 3.5
    """The fields' unit: normalised = metres times this. Half of the published ``recon_scale``."""
    clamp: float = 0.05
    """Normalised distance at which fields are cut in training."""
    clip_layers: int = 0
    """Of each of the clip's two transformers; 0: a network for single pictures."""
    clip_heads: int = 4
    clip_head_width: int = 256
    clip_hidden: int = 1024
    align_corners: bool = True
    """How points read the map; True as published: it reaches from the middle of its first pixel to that of its last."""
    centred_bins: bool = False
    """A bin of a heat map stands for its middle; False: for its edge, as published."""
    kinematics: str = "official"
    """``official``: with the published faults (``inverse_kinematics.gsdf_kinematics``); or ``proper``."""

    def __post_init__(self) -> None:
        """Refuses settings that there are not.

        Raises:
            ConfigError: with what there is.
        """
        if self.kinematics not in _KINEMATICS:
            raise ConfigError(
                f"network.kinematics: {self.kinematics!r}: there is none{suggestion(str(self.kinematics), _KINEMATICS)}"
            )
        for key, numbers in (("hand_latent", HAND_LATENTS), ("object_latent", OBJECT_LATENTS)):
            if getattr(self, key) not in numbers:
                raise ConfigError(f"network.{key}: {getattr(self, key)}; known: {', '.join(map(str, numbers))}")
        if self.size % 32 or self.size < 32:
            raise ConfigError(f"network.size: {self.size} pixels; give a multiple of 32")


OBMAN = GsdfConfig()
"""``recon_scale`` 7.0."""
DEXYCB = dataclasses.replace(OBMAN, scale=3.1)
"""``recon_scale`` 6.2."""
DATASETS = {"obman": OBMAN, "dexycb": DEXYCB}


def projection_of(matrix: Float[Tensor, "B 3 3"], size: int) -> Float[Tensor, "B 3 3"]:
    """Points to homogeneous crop coordinates as gSDF counts them: pixel 0 is -1 and pixel ``size`` is 1."""
    return matrix.new_tensor([[2 / size, 0, -1], [0, 2 / size, -1], [0, 0, 1]]) @ matrix


@dataclass(frozen=True)
class Seen:
    """What the network made of B crops."""

    levels: list[Tensor]
    """Maps for points to read: one."""
    places: Float[Tensor, "B 22 3"]
    """Of the joints and the object's centre: column and row from -1 to 1 as in :func:`projection_of`, depth in
    metres behind the wrist."""
    confidence: Float[Tensor, "B 22"]
    """Greatest probability in each heat map."""

    def __getitem__(self, row: int) -> Seen:
        """One of the batch, as a batch."""
        one = slice(row, row + 1 or None)
        return Seen([level[one] for level in self.levels], self.places[one], self.confidence[one])


@dataclass(frozen=True)
class Body:
    """What the fields are asked about: a hand, and where the object is; metres."""

    wrist: Float[Tensor, "B 3"]
    """About which points are counted."""
    joints: Float[Tensor, "B 21 3"]
    object_center: Float[Tensor, "B 3"]
    kinematics: GsdfKinematics
    """Frames of the bones, from the joints."""

    def __getitem__(self, row: int) -> Body:
        """One of the batch, as a batch."""
        one, bones = slice(row, row + 1 or None), self.kinematics
        own = GsdfKinematics(bones.rotvec[one], bones.transforms[one], bones.valid[one])
        return Body(self.wrist[one], self.joints[one], self.object_center[one], own)


def _scaled(
    places: Float[Tensor, "B J 3"], config: GsdfConfig, reach: Float[Tensor, "J"] | float
) -> Float[Tensor, "B J 3"]:
    """Bins of heat maps to crop coordinates and metres."""
    side = config.size // 4
    counts = places.new_tensor([side, side, config.bins])
    found = (2 * places + (1 if config.centred_bins else 0)) / counts - 1
    return torch.cat([found[..., :2], (found[..., 2] * reach)[..., None]], -1)


def lifted(
    places: Float[Tensor, "B J 3"], wrist_depth: Float[Tensor, "B"], projection: Float[Tensor, "B 3 3"]
) -> Float[Tensor, "B J 3"]:
    """``Seen.places`` to points, metres."""
    depth = places[..., 2] + wrist_depth[:, None]
    ray = torch.cat([places[..., :2], torch.ones_like(depth[..., None])], -1) @ torch.linalg.inv(projection).mT
    return ray / ray[..., 2:] * depth[..., None]


class PoseNet(VolumeNet):
    """The first stage alone: the joints, and the object's centre if there are 22 places."""

    def __init__(self, config: GsdfConfig = OBMAN, places: int = JOINTS) -> None:
        super().__init__(config.depth, config.width, config.neck, places, config.bins)
        self.config = config

    def joints(
        self, image: Float[Tensor, "B 3 S S"], wrist_depth: Float[Tensor, "B"], projection: Float[Tensor, "B 3 3"]
    ) -> Float[Tensor, "B J 3"]:
        """The places looked for, metres. Pictures are sRGB, 0 to 1; ``projection``: :func:`projection_of`."""
        return lifted(_scaled(self(image)[0], self.config, self.config.hand_depth), wrist_depth, projection)


class Gsdf(VolumeNet):
    """See the module's text. ``see`` once, ``joints`` and ``body``, then ``field`` as often as needed."""

    def __init__(self, config: GsdfConfig = OBMAN) -> None:
        c = config
        super().__init__(c.depth, c.width, c.neck, 1, c.bins)
        self.config = c
        self.pose_model = VolumeNet(c.depth, c.width, c.neck, JOINTS, c.bins).requires_grad_(False).eval()
        self.backbone_2_sdf = Neck(self.backbone.channels, c.neck, 1)
        self.sdf_encoder = nn.Linear(c.neck + 4, c.point_features)
        self.hand_sdf_head = SdfHead(c.point_features + c.hand_latent, c.field_width, c.field_dropout)
        self.obj_sdf_head = SdfHead(c.point_features + c.object_latent, c.field_width, c.field_dropout)
        if c.clip_layers:
            sizes = (c.clip_layers, c.clip_heads, c.clip_head_width, c.clip_hidden)
            self.feat_transformer = ClipTransformer(c.neck, c.size // 16, *sizes)

    def train(self, mode: bool = True) -> Gsdf:
        """As ``nn.Module.train``; the frozen network of the joints stays as it is used."""
        super().train(mode)
        self.pose_model.eval()
        return self

    def see(self, image: Float[Tensor, "B 3 S S"], frames: int = 1) -> Seen:
        """Everything that does not depend on points.

        Args:
            image: sRGB, 0 to 1.
            frames: How many pictures in a row are a clip's; a network for single pictures takes no notice.

        Raises:
            ValueError: the batch is not made of whole clips.
        """
        c, image = self.config, self.normalised(image)
        maps = self.backbone(image)
        center, sure = self.places(maps)
        with torch.no_grad():
            joints, sure_joints = self.pose_model.places(self.pose_model.backbone(image))
        level = self.backbone_2_sdf(maps)[-1]
        if c.clip_layers:
            level = self.feat_transformer(level, frames)
        places = torch.cat([_scaled(joints, c, c.hand_depth), _scaled(center, c, c.object_depth)], 1)
        return Seen([level], places, torch.cat([sure_joints, sure], 1))

    def joints(
        self, seen: Seen, wrist: Float[Tensor, "B 3"], projection: Float[Tensor, "B 3 3"]
    ) -> tuple[Float[Tensor, "B 21 3"], Float[Tensor, "B 3"]]:
        """The joints and the object's centre, metres.

        Args:
            wrist: Only its depth is used: heat maps tell depths from it.
            projection: :func:`projection_of`.
        """
        found = lifted(seen.places, wrist[:, 2], projection)
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
        """The field of the ``hand`` or the ``object``, normalised, not clamped, at ``position``, metres."""
        return self.distance(which, self.features(seen, position, projection), position, body)

    def features(
        self, seen: Seen, position: Float[Tensor, "B N 3"], projection: Float[Tensor, "B 3 3"]
    ) -> Float[Tensor, "B N F"]:
        """What the map shows at the points' pixels (outside it: zeros), depths and directions, encoded."""
        with torch.autocast(position.device.type, enabled=False):  # a place needs more than eight bits
            where = to_grid(position, projection)[:, :, None]
            read = nn.functional.grid_sample(seen.levels[0].float(), where, align_corners=self.config.align_corners)
            direction = position / position.norm(dim=-1, keepdim=True)
        return self.sdf_encoder(torch.cat([read[..., 0].mT, position[..., 2:], direction], -1))

    def distance(self, which: str, features: Tensor, position: Tensor, body: Body) -> Float[Tensor, "B N"]:
        """As :meth:`field`, for points whose features were read before: those of hand and object are the same."""
        c, x = self.config, position - body.wrist[:, None]
        if which == "hand":
            embedding, head = hand_embedding(x, body.kinematics, c.hand_latent), self.hand_sdf_head
        else:
            center, around = body.object_center - body.wrist, body.joints - body.wrist[:, None]
            embedding = object_embedding(x, center, around, body.kinematics, c.object_latent)
            head = self.obj_sdf_head
        return head(torch.cat([features, embedding * c.scale], -1)).float()
