"""C2F-SDF (Chen et al. 2024): surfaces of hand and object from a picture with depth, coarse fields first.

Two encoders, for colour and for depth, exchange at every stage. A coarse field, conditioned on one vector for the whole
picture, tells for the points that the depth camera saw how far they are from hand and object; with the picture's
features at their pixels that is what a point knows (*point semantics*). A fine field asks, at any place, the picture's
features at its pixel and the points about it, those near its surface first.

Module names are those of the published checkpoints, and :data:`DEXYCB` and :data:`OBMAN` their settings. What published
files hold and the network never uses is not here (``c2f_sdf_checkpoints``). The network that comes with horefine is
``c2f_sdf_compact``.

Everything here happens in a network frame (``root.Frame``; published: ``c2f_sdf_crop.virtual_frame``), metres; fields
about the wrist, in ``scale`` units a metre. Where things are is a ``c2f_sdf_points.Place``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from horefine.errors import ConfigError, suggestion
from horefine.extractors.c2f_sdf_encoder import Decoder, Deconvolutions, TwoStreams
from horefine.extractors.c2f_sdf_points import Cloud, Place, gather_rows, image_neighbours, point_neighbours
from horefine.extractors.field import SdfHead
from horefine.extractors.gsdf_parts import VolumeNet, soft_argmax

__all__ = ["DEXYCB", "OBMAN", "C2fConfig", "C2fSdf", "HandNumbers", "Looked", "Seen"]


@dataclass(frozen=True)
class C2fConfig:
    """Sizes and branches: by default as published for DexYCB, faults among them."""

    size: int = 256
    """Side of the crop and of its depth map, pixels."""
    width: int = 64
    decoder: tuple[int, ...] = (256, 128, 128)
    """Channels at strides 16, 8 and 4."""
    latent: int = 128
    """Numbers of the picture's vector, of a point's and of a pixel's features."""
    pixel: int = 512
    """Channels of the map that queries read at their pixel."""
    field_width: int = 512
    field_dropout: float = 0.2
    points: int = 1024
    """Points of the depth map."""
    point_neighbours: int = 16
    image_neighbours: int = 4
    neighbour_axes: int = 2
    """By how many axes the points nearest to a query are found: 2 as published, 3 as the paper describes it."""
    pixels: str = "first"
    """Which depth stands for a cell of the feature map in its middle: that of its ``first`` pixel, as published, or of
    its ``middle`` one."""
    scale: float = 3.1
    """The fields' unit: normalised = metres times this. Half of the published ``recon_scale``."""
    focal: float = 614.0
    """Of the photographs trained on, pixels: the published unit of neighbours depends on it."""
    clamp: float = 0.05
    """Normalised distance at which coarse fields are cut, and fine ones in training."""
    hand: bool = True
    """A head for the hand's pose and shape; some published files have none."""
    hand_features: int = 512
    object_center: bool = True
    center_cell: str = "first"
    """Which place of a cell the object's heat map means: its ``first`` edge, as published, or its ``middle``."""
    center_bins: int = 64
    heatmap: bool = True
    """A coarse map of where hand and object are, for sparse reconstruction."""
    heat_bins: int = 32
    deconv: int = 256
    """Channels of the transposed convolutions of both."""
    joints: bool = True
    """Dense joint regression on the decoder's features, which only training uses."""

    def __post_init__(self) -> None:
        """Refuses settings that there are not.

        Raises:
            ConfigError: with what there is.
        """
        for key in ("pixels", "center_cell"):
            value, known = str(getattr(self, key)), ("first", "middle")
            if value not in known:
                raise ConfigError(f"network.{key}: {value!r}: there is none{suggestion(value, known)}")
        if self.neighbour_axes not in (2, 3):
            raise ConfigError(f"network.neighbour_axes: {self.neighbour_axes}; known: 2, 3")
        if self.size % 32:
            raise ConfigError(f"network.size: {self.size} pixels; give a multiple of 32")


DEXYCB = C2fConfig()
OBMAN = C2fConfig(scale=3.5, focal=480.0)


@dataclass(frozen=True)
class Looked:
    """What the encoder and decoder made of a crop."""

    maps: list[Tensor]
    """Mixtures of both streams at strides 4, 8, 16 and 32."""
    features: Float[Tensor, "B C F F"]
    """The decoder's, at stride 4."""
    latent: Float[Tensor, "B L"]
    """Of the whole picture."""


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

    pose: Float[Tensor, "B 18"]
    """The wrist's axis-angle (network frame) and 15 coefficients of MANO's PCA basis."""
    shape: Float[Tensor, "B 10"]


class C2fSdf(nn.Module):
    """See the module's text. ``look`` once, then ``see``, then ``coarse`` and ``fine`` as often as needed."""

    def __init__(self, config: C2fConfig = DEXYCB) -> None:
        super().__init__()
        self.config = c = config
        self.backbone = TwoStreams(c.width)
        channels = self.backbone.channels
        top, read = channels[-1], c.decoder[-1]
        self.awr_head = Decoder(channels, c.decoder, heads=c.joints)
        self.sdf_encoder_global = nn.Linear(top, c.latent)
        self.hand_sdf_head_global, self.obj_sdf_head_global = (
            SdfHead(c.latent + 3, c.field_width, c.field_dropout) for _ in range(2)
        )
        self.pcl_feat_emb, self.pcl_xyz_emb, self.pcl_sdf_emb = (
            nn.Sequential(nn.Conv1d(inputs, c.latent, 1), nn.BatchNorm1d(c.latent)) for inputs in (read, 3, 2)
        )
        self.backbone_2_sdf = nn.Sequential(nn.Conv2d(read, c.pixel, 1), nn.BatchNorm2d(c.pixel), nn.ReLU())
        self.sdf_encoder = nn.Linear(c.pixel + 4, c.latent)
        self.sdf_factor = nn.Parameter(torch.zeros(4))
        """Weights of outside distance for the hand's and the object's field, what is added to both; one unused."""
        self.hand_sdf_head, self.obj_sdf_head = (
            SdfHead(2 * c.latent + 3, c.field_width, c.field_dropout) for _ in range(2)
        )
        self._build_branches(top)

    def _build_branches(self, top: int) -> None:
        c, side = self.config, self.config.size // 32
        if c.object_center:
            self.neck = Deconvolutions(top, c.deconv, _doublings(c.center_bins, side))
            self.volume_head = nn.Conv2d(c.deconv, c.center_bins, 1)
        if c.heatmap:
            self.heatmap_Unet = Deconvolutions(top, c.deconv, _doublings(c.heat_bins, side))
            self.heatmap_head = nn.Conv2d(c.deconv, 2 * c.heat_bins, 1)
        if c.hand:
            convolution = nn.Conv2d(top, c.hand_features, 1)
            self.backbone_2_mano = nn.Sequential(convolution, nn.BatchNorm2d(c.hand_features), nn.ReLU())
            self.mano_head = _HandHead(c.hand_features)

    def look(self, image: Float[Tensor, "B 3 S S"], depth: Float[Tensor, "B 1 S S"]) -> Looked:
        """Reads the crop: sRGB, 0 to 1, and ``Cloud.depth``."""
        maps, _ = self.backbone(VolumeNet.normalised(image), depth)
        features = self.awr_head(maps)
        return Looked(maps, features, self.sdf_encoder_global(maps[3].mean((2, 3))).float())

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
        embedded = [embed(part.mT) for embed, part in zip(embeddings, parts, strict=True)]
        semantics = torch.relu(embedded[0] + embedded[1] + embedded[2]).mT.float()
        return Seen(looked, place, points, coarse, semantics, self.backbone_2_sdf(looked.features))

    def coarse(self, which: str, looked: Looked, points: Float[Tensor, "B N 3"], place: Place) -> Float[Tensor, "B N"]:
        """The coarse field of ``hand`` or ``object`` at network-frame points; normalised, not cut."""
        head = self.hand_sdf_head_global if which == "hand" else self.obj_sdf_head_global
        latent = looked.latent[:, None].expand(-1, points.shape[1], -1)
        return head(torch.cat([latent, self.cube(points, place)], -1))

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
        place, found = self.cube(points, seen.place), {}
        for which in names:
            weight = self.weights(which, seen, index, squared)
            aligned = (weight[..., None] * own).sum(2)
            head = self.hand_sdf_head if which == "hand" else self.obj_sdf_head
            found[which] = head(torch.cat([pixel, aligned, place], -1))
        return found

    def cube(self, points: Float[Tensor, "B N 3"], place: Place) -> Float[Tensor, "B N 3"]:
        """Network-frame points about the wrist in the fields' unit."""
        return (points - place.wrist[:, None]) * self.config.scale

    def uncube(self, points: Float[Tensor, "B N 3"], place: Place) -> Float[Tensor, "B N 3"]:
        """Back from :meth:`cube`."""
        return points / self.config.scale + place.wrist[:, None]

    def pixel_features(self, seen: Seen, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N L"]:
        """The picture's features at the points' pixels (zeros outside), with depth and direction."""
        return self.sdf_encoder(self.pixel_inputs(seen, points))

    def pixel_inputs(self, seen: Seen, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N P"]:
        """What :meth:`pixel_features` is made of: the map's values, z in metres, the unit vector to the point."""
        with torch.autocast(points.device.type, enabled=False):  # a place needs more than eight bits
            homogeneous = points @ seen.place.frame.projection.mT
            # beside the camera a pixel is infinitely far away: as far outside as any
            grid = (homogeneous[..., :2] / homogeneous[..., 2:]).nan_to_num(1e2).clamp(-1e2, 1e2).detach()
            read = nn.functional.grid_sample(seen.pixel.float(), grid[:, :, None], align_corners=True)
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

    def hand_numbers(self, looked: Looked) -> HandNumbers:
        """Rotations and shape of the hand.

        Raises:
            ValueError: the network has no such branch (some published files do not).
        """
        if not self.config.hand:
            raise ValueError("this C2F-SDF has no branch for the hand's pose")
        return self.mano_head(self.backbone_2_mano(looked.maps[3]).mean((2, 3)))

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

    def __init__(self, width: int) -> None:
        super().__init__()
        self.base_layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.pose_reg, self.shape_reg = nn.Linear(width, 18), nn.Sequential(nn.Linear(width, 10))

    def forward(self, x: Float[Tensor, "B I"]) -> HandNumbers:
        x = self.base_layers(x)
        return HandNumbers(self.pose_reg(x).float(), self.shape_reg(x).float())


def _doublings(bins: int, side: int) -> int:
    count = (bins // side).bit_length() - 1
    if side << count != bins:
        raise ConfigError(f"network: {bins} bins are not a power of two times the {side} cells at stride 32")
    return count
