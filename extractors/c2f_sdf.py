"""C2F-SDF (Chen et al. 2024): surfaces of hand and object from a picture with depth, coarse fields first.

Two encoders, for colour and for depth, exchange at every stage. A coarse field, conditioned on one vector for the whole
picture, tells for the points that the depth camera saw how far they are from hand and object; with the picture's
features at their pixels that is what a point knows (*point semantics*). A fine field asks, at any place, the picture's
features at its pixel and the points about it, those near its surface first.

Module names are those of the published checkpoints, and :data:`DEXYCB` and :data:`OBMAN` their settings;
:data:`COMPACT` is the same code at sizes for a CPU core, plus what the published network takes from ground truth or
lacks: a root head, the sides of the object's box as a condition, rotations without a PCA basis, the object's pose.

Everything here happens in the network frame (``root.Frame``), metres; fields about the wrist, in ``scale`` units a
metre. Where things are is a ``c2f_sdf_points.Place``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from horefine.errors import ConfigError, suggestion
from horefine.extractors.c2f_sdf_encoder import Decoder, Deconvolutions, TwoStreams
from horefine.extractors.c2f_sdf_points import Cloud, Place, gather_rows, image_neighbours, point_neighbours
from horefine.extractors.gsdf_parts import SdfHead, VolumeNet, soft_argmax
from horefine.extractors.layers import MLP, condition_vector
from horefine.extractors.root import Root, RootHead
from horefine.geometry import sixd_to_matrix

__all__ = ["COMPACT", "DEXYCB", "OBMAN", "C2fConfig", "C2fSdf", "HandNumbers", "Looked", "Seen"]

HANDS = ("pca", "sixd", "none")
CELLS = ("first", "middle")


@dataclass(frozen=True)
class C2fConfig:
    """Sizes and branches of the network; written into its weight files."""

    size: int = 128
    depth_size: int = 64
    """Side of the depth map: that of the picture, or half of it."""
    width: int = 32
    decoder: tuple[int, ...] = (96, 64, 64)
    """Channels at strides 16, 8 and 4."""
    latent: int = 64
    """Numbers of the picture's vector, of a point's and of a pixel's features."""
    pixel: int = 96
    """Channels of the map that queries read at their pixel."""
    field_width: int = 192
    coarse_width: int = 128
    field_dropout: float = 0.0
    points: int = 256
    """Points of the depth map."""
    point_neighbours: int = 12
    image_neighbours: int = 4
    neighbour_axes: int = 3
    """By how many axes the points nearest to a query are found; 2 as published."""
    scale: float = 3.1
    """The fields' unit: normalised = metres times this."""
    clamp: float = 0.15
    """Normalised distance at which coarse fields are cut."""
    point_half: float = 0.16
    """Metres: the unit in which neighbours are searched (the published one varies, ``Place``)."""
    hand: str = "sixd"
    """How the hand's rotations are told: ``sixd``, ``pca`` (of MANO's, as published) or ``none`` (no branch)."""
    hand_features: int = 128
    hand_pool: int = 4
    """Cells along a side into which the hand's features are averaged; 1 as published."""
    hand_points: int = 128
    """Channels of what the hand's head reads off the points; 0 as published."""
    object_center: bool = False
    """A heat map of the object's centre (64^3 as published)."""
    object_pose: bool = True
    """Rotation and centre of a known object by a head beside the hand's."""
    center_cell: str = "middle"
    """Which place of a cell the object's heat map means: its ``first`` edge as published."""
    center_bins: int = 64
    heatmap: bool = True
    """A coarse map of where hand and object are, for sparse reconstruction."""
    heat_bins: int = 32
    deconv: int = 48
    """Channels of the transposed convolutions of both."""
    joints: bool = True
    """Dense joint regression on the decoder's features (21 joints)."""
    semantics: bool = True
    """Points and fine fields; without them only the coarse ones."""
    root: bool = True
    condition: bool = True

    def __post_init__(self) -> None:
        """Refuses settings that there are not.

        Raises:
            ConfigError: with the nearest one that there is.
        """
        for key, known in (("hand", HANDS), ("center_cell", CELLS)):
            value = str(getattr(self, key))
            if value not in known:
                raise ConfigError(f"network.{key}: {value!r}: there is none{suggestion(value, known)}")
        if self.depth_size not in (self.size, self.size // 2):
            raise ConfigError(f"network.depth_size: {self.depth_size}; give size ({self.size}) or half of it")


COMPACT = C2fConfig()
DEXYCB = C2fConfig(
    size=256, depth_size=256, width=64, decoder=(256, 128, 128), latent=128, pixel=512, field_width=512,
    coarse_width=512, field_dropout=0.2, points=1024, point_neighbours=16, neighbour_axes=2, scale=3.1, clamp=0.05,
    hand="pca", hand_features=512, hand_pool=1, hand_points=0, object_center=True, object_pose=False,
    center_cell="first", deconv=256, root=False, condition=False,
)  # fmt: skip
OBMAN = C2fConfig(**{**DEXYCB.__dict__, "scale": 3.5})


@dataclass(frozen=True)
class Looked:
    """What the encoder and decoder made of a crop."""

    maps: list[Tensor]
    """Mixtures of both streams at strides 4, 8, 16 and 32."""
    features: Float[Tensor, "B C F F"]
    """The decoder's, at stride 4."""
    latent: Float[Tensor, "B L"]
    """Of the whole picture."""
    condition: Float[Tensor, "B 7"]
    root: Root | None


@dataclass(frozen=True)
class Seen:
    """A crop and its points: what fine fields read."""

    looked: Looked
    place: Place
    points: Float[Tensor, "B N 3"]
    """Network frame, metres."""
    coarse: Float[Tensor, "B N 2"]
    """The coarse fields of hand and object there, cut at the clamp."""
    semantics: Float[Tensor, "B N L"]
    """What each point knows."""
    pixel: Float[Tensor, "B P F F"]
    """The map that queries read at their pixel."""


@dataclass(frozen=True)
class HandNumbers:
    """What the hand's head says."""

    pose: Float[Tensor, "B Q"]
    """Six numbers for each of 16 rotations relative to the flat hand, or an axis-angle and MANO's PCA coefficients."""
    shape: Float[Tensor, "B 10"]
    object: Float[Tensor, "B 9"] | None
    """Six numbers of the object's rotation and its centre relative to the wrist, metres."""

    @property
    def rotations(self) -> Float[Tensor, "B 16 3 3"]:
        """Of the ``sixd`` head; the wrist's in the network frame."""
        return sixd_to_matrix(self.pose.unflatten(-1, (16, 6)))


class C2fSdf(nn.Module):
    """See the module's text. ``look`` once, then ``see``, then ``coarse`` and ``fine`` as often as needed."""

    def __init__(self, config: C2fConfig = COMPACT) -> None:
        super().__init__()
        self.config = c = config
        self.backbone = TwoStreams(c.width, 2 * c.depth_size // c.size)
        channels = self.backbone.channels
        top, read = channels[-1], c.decoder[-1]
        self.awr_head = Decoder(channels, c.decoder, heads=c.joints)
        self.sdf_encoder_global = nn.Linear(top, c.latent)
        self.hand_sdf_head_global, self.obj_sdf_head_global = (
            SdfHead(c.latent + 3, c.coarse_width, c.field_dropout) for _ in range(2)
        )
        if c.semantics:
            self.pcl_feat_emb, self.pcl_xyz_emb, self.pcl_sdf_emb = (
                nn.Sequential(nn.Conv1d(inputs, c.latent, 1), nn.BatchNorm1d(c.latent)) for inputs in (read, 3, 2)
            )
            self.backbone_2_sdf = nn.Sequential(nn.Conv2d(read, c.pixel, 1), nn.BatchNorm2d(c.pixel), nn.ReLU())
            self.sdf_encoder = nn.Linear(c.pixel + 4, c.latent)
            self.sdf_factor = nn.Parameter(torch.zeros(4))
            self.hand_sdf_head, self.obj_sdf_head = (
                SdfHead(2 * c.latent + 3, c.field_width, c.field_dropout) for _ in range(2)
            )
        self._build_heads(top, channels[1])

    def _build_heads(self, top: int, stride8: int) -> None:
        c, side = self.config, self.config.size // 32
        if c.object_center:
            self.neck = Deconvolutions(top, c.deconv, _doublings(c.center_bins, side))
            self.volume_head = nn.Conv2d(c.deconv, c.center_bins, 1)
        if c.heatmap:
            self.heatmap_Unet = Deconvolutions(top, c.deconv, _doublings(c.heat_bins, side))
            self.heatmap_head = nn.Conv2d(c.deconv, 2 * c.heat_bins, 1)
        if c.hand != "none":
            self.backbone_2_mano = nn.Sequential(
                nn.Conv2d(top, c.hand_features, 1), nn.BatchNorm2d(c.hand_features), nn.ReLU()
            )
            inputs = c.hand_features * c.hand_pool**2 + c.hand_points + (7 if c.condition else 0)
            if c.hand_points:
                self.hand_point_mlp = MLP(c.latent + 5, c.hand_points, c.hand_points)
            self.mano_head = _HandHead(inputs, max(c.hand_features, 256), 96 if c.hand == "sixd" else 18, c.object_pose)
        if c.condition:
            self.condition_map = nn.Linear(7, top)
        if c.root:
            self.root_head = RootHead(top, stride8, 7)

    def look(
        self, image: Float[Tensor, "B 3 S S"], depth: Float[Tensor, "B 1 D D"], extents: Tensor | None = None,
        focal: Float[Tensor, "B"] | None = None, reference: Float[Tensor, "B"] | None = None,
    ) -> Looked:  # fmt: skip
        """Reads the crop.

        Args:
            image: sRGB, 0 to 1.
            depth: ``Cloud.depth``.
            extents: Sides of the object's box, metres; rows of zeros, or None, where they are not known.
            focal: In half crops (``Frame.focal``); the root head needs it and ``reference`` (``Cloud.reference``).
        """
        maps, _ = self.backbone(VolumeNet.normalised(image), depth)
        condition = condition_vector(extents, len(image), image)
        if self.config.condition:
            maps[3] = maps[3] + self.condition_map(condition)[:, :, None, None].to(maps[3].dtype)
        features = self.awr_head(maps)
        latent = self.sdf_encoder_global(maps[3].mean((2, 3)))
        root = None
        if self.config.root:
            if focal is None or reference is None:
                raise ValueError("the root head needs the crop's focal length and the depth in its middle")
            root = self.root_head(maps[3], maps[1], condition, focal)
            # the depth camera knows how far away things are; the head adds what lies between them and the wrist
            root = Root(root.grid, root.log_size + (reference / (0.2 * focal)).log()[:, None], focal)
        return Looked(maps, features, latent.float(), condition, root)

    def see(self, looked: Looked, cloud: Cloud, place: Place) -> Seen:
        """Point semantics: the coarse fields and the picture's features at the depth map's points."""
        points = cloud.points
        coarse = torch.stack([self.coarse(which, looked, points, place) for which in ("hand", "object")], -1)
        coarse = coarse.clamp(-self.config.clamp, self.config.clamp)
        scaled = place.scaled(points)
        index, weight = image_neighbours(scaled, place.scaled(cloud.pixels), self.config.image_neighbours)
        read = gather_rows(looked.features.float().flatten(2).mT, index)
        parts = (read * weight[..., None]).sum(2), scaled, coarse
        embeddings = self.pcl_feat_emb, self.pcl_xyz_emb, self.pcl_sdf_emb
        semantics = sum(embed(part.mT) for embed, part in zip(embeddings, parts, strict=True)).relu().mT.float()
        return Seen(looked, place, points, coarse, semantics, self.backbone_2_sdf(looked.features))

    def coarse(self, which: str, looked: Looked, points: Float[Tensor, "B N 3"], place: Place) -> Float[Tensor, "B N"]:
        """The coarse field of ``hand`` or ``object`` at network-frame points; normalised, not cut."""
        head = self.hand_sdf_head_global if which == "hand" else self.obj_sdf_head_global
        latent = looked.latent[:, None].expand(-1, points.shape[1], -1)
        return head(torch.cat([latent, self._place(points, place)], -1))

    def fine(self, which: str, seen: Seen, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N"]:
        """The fine field of ``hand`` or ``object`` at network-frame points, metres; normalised, not cut."""
        return self.fine_both(seen, points, (which,))[which]

    def fine_both(
        self, seen: Seen, points: Float[Tensor, "B N 3"], names: tuple[str, ...] = ("hand", "object")
    ) -> dict[str, Float[Tensor, "B N"]]:
        """As :meth:`fine`, for several fields at the same points: what they share is computed once."""
        pixel = self.pixel_features(seen, points)
        index, squared = self.neighbours(seen, points)
        own = gather_rows(seen.semantics, index)
        place, found = self._place(points, seen.place), {}
        for which in names:
            weight = self.weights(which, seen, index, squared)
            aligned = (weight[..., None] * own).sum(2)
            head = self.hand_sdf_head if which == "hand" else self.obj_sdf_head
            found[which] = head(torch.cat([pixel, aligned, place], -1))
        return found

    def _place(self, points: Tensor, place: Place) -> Tensor:
        return (points - place.wrist[:, None]) * self.config.scale

    def pixel_features(self, seen: Seen, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N L"]:
        """The picture's features at the points' pixels (zeros outside), with depth and direction."""
        return self.sdf_encoder(self.pixel_inputs(seen, points))

    def pixel_inputs(self, seen: Seen, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N P"]:
        """What :meth:`pixel_features` is made of: the map's values, z in metres, the unit vector to the point."""
        with torch.autocast(points.device.type, enabled=False):  # a place needs more than eight bits
            homogeneous = points @ seen.place.frame.projection.mT
            grid = homogeneous[..., :2] / homogeneous[..., 2:]
            read = nn.functional.grid_sample(seen.pixel.float(), grid[:, :, None].detach(), align_corners=True)
            return torch.cat([read[..., 0].mT, points[..., 2:], nn.functional.normalize(points, dim=-1)], -1)

    def neighbours(self, seen: Seen, points: Float[Tensor, "B N 3"]) -> tuple[Tensor, Tensor]:
        """(numbers of the points about each query, their squared distances in the search's unit)."""
        queries, others = seen.place.scaled(points), seen.place.scaled(seen.points)
        with torch.no_grad():
            return point_neighbours(queries, others, self.config.point_neighbours, self.config.neighbour_axes)

    def weights(self, which: str, seen: Seen, index: Tensor, squared: Tensor) -> Float[Tensor, "B N K"]:
        """Of a query's points: near ones count, and more so those on or in the surface by the coarse field."""
        number = 0 if which == "hand" else 1
        outside = gather_rows(seen.coarse[..., number : number + 1], index)[..., 0].clamp(min=0)
        factor = self.sdf_factor.sigmoid()
        weight = 1 / (squared + factor[number] * outside + factor[2].clamp(min=1e-8))
        return weight / (weight.sum(-1, keepdim=True) + 1e-8)

    def hand_numbers(self, seen: Seen | Looked) -> HandNumbers:
        """Rotations and shape of the hand, and the object's pose where there is a head for it.

        Raises:
            ValueError: the network has no such branch (some published files do not).
        """
        if self.config.hand == "none":
            raise ValueError("this C2F-SDF has no branch for the hand's pose")
        looked = seen.looked if isinstance(seen, Seen) else seen
        pooled = nn.functional.adaptive_avg_pool2d(self.backbone_2_mano(looked.maps[3]), self.config.hand_pool)
        parts = [pooled.flatten(1).float()]
        if self.config.hand_points:
            if not isinstance(seen, Seen):
                raise ValueError("this C2F-SDF reads the hand's pose off the points: give what see() made")
            about = self._place(seen.points, seen.place)
            parts.append(self.hand_point_mlp(torch.cat([seen.semantics, about, seen.coarse], -1)).amax(1))
        if self.config.condition:
            parts.append(looked.condition)
        return self.mano_head(torch.cat(parts, -1))

    def heat(self, looked: Looked) -> Float[Tensor, "B 2 G G G"]:
        """Where hand and object are in the cube of a unit about the wrist: axes x, y, z."""
        bins = self.config.heat_bins
        return self.heatmap_head(self.heatmap_Unet(looked.maps[3])).float().unflatten(1, (2, bins))

    def volume(self, looked: Looked) -> Float[Tensor, "B G G G"]:
        """Logits of the object's centre: depth, row, column."""
        return self.volume_head(self.neck(looked.maps[3])).float()

    def center(self, looked: Looked, place: Place, reach: float = 0.28) -> Float[Tensor, "B 3"]:
        """The object's centre by its heat map, network frame, metres; within ``reach`` of the wrist's depth."""
        mean, _ = soft_argmax(self.volume(looked)[:, None])
        if self.config.center_cell == "middle":
            mean = mean + 0.5
        x, y, z = (mean[:, 0] * (2 / self.config.center_bins) - 1).unbind(-1)
        return place.frame.backproject(torch.stack([x, y], -1), z * reach + place.wrist[:, 2])

    def joint_maps(self, looked: Looked) -> Float[Tensor, "B 105 F F"]:
        """Dense joint regression's offsets, heats and weights."""
        return self.awr_head.joint_maps(looked.features)


class _HandHead(nn.Module):
    """Named as in published files."""

    def __init__(self, inputs: int, width: int, pose: int, other: bool) -> None:
        super().__init__()
        self.base_layers = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.pose_reg, self.shape_reg = nn.Linear(width, pose), nn.Sequential(nn.Linear(width, 10))
        self.object_reg = nn.Linear(width, 9) if other else None
        no_turn = torch.tensor([1.0, 0, 0, 0, 1, 0])
        starts = [(self.pose_reg, no_turn.repeat(16) if pose == 96 else torch.zeros(pose))]
        if self.object_reg is not None:
            starts.append((self.object_reg, torch.cat([no_turn, torch.zeros(3)])))
        for layer, bias in starts:
            nn.init.normal_(layer.weight, std=0.01)
            layer.bias.data = bias

    def forward(self, x: Float[Tensor, "B I"]) -> HandNumbers:
        x = self.base_layers(x)
        other = None if self.object_reg is None else self.object_reg(x).float()
        return HandNumbers(self.pose_reg(x).float(), self.shape_reg(x).float(), other)


def _doublings(bins: int, side: int) -> int:
    count = (bins // side).bit_length() - 1
    if side << count != bins:
        raise ConfigError(f"network: {bins} bins are not a power of two times the {side} cells at stride 32")
    return count
