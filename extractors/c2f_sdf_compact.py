"""The compact C2F-SDF: depth, point semantics and coarse-to-fine fields (Chen et al. 2024) on our HOISDF's eyes.

The published network (``c2f_sdf.py``) has two ResNets, is told where the wrist is, and is trained for days. This one
sees colour with HOISDF's U-Net (``eyes.py``) and depth with a small encoder of its own; a gate mixes the two at stride
4. Every cell with depth votes for the joints and the object's centre in space, as C2F-SDF's dense joint regression
does, and so says where hand and object are in metres; coarse fields tell the points of the depth map what they are
near; fine fields read the mixed map at a query's pixel and the points about it.

Everything happens in the network frame (``root.Frame``), metres.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from horefine.extractors.c2f_sdf_encoder import Gate
from horefine.extractors.c2f_sdf_points import Cloud, cloud_of, gather_rows, point_neighbours
from horefine.extractors.eyes import CompactConfig, Eyes, Seen
from horefine.extractors.field import SdfHead, point_features, to_grid
from horefine.extractors.layers import MLP, conv_block, fourier
from horefine.extractors.root import Frame

__all__ = ["COMPACT", "CompactC2f", "CompactC2fConfig", "Felt", "reference_depth"]

OCTAVES = 4
PLACES = 22
"""21 joints and the object's centre."""


@dataclass(frozen=True)
class CompactC2fConfig(CompactConfig):
    """Sizes of the network; written into its weight files."""

    depth_size: int = 64
    """Side of the depth map, pixels: half the picture's."""
    depth_widths: tuple[int, int, int] = (24, 64, 96)
    """Channels of the depth encoder at strides 2, 4 and 8 of the picture."""
    latent: int = 64
    """Numbers of the picture's vector for the coarse fields, and of a point's features."""
    read_mlp: tuple[int, ...] = (128, 64)
    coarse_width: int = 128
    field_width: int = 224
    points: int = 256
    """Points of the depth map that know what they are near."""
    neighbours: int = 8
    """Points that a query looks at."""
    neighbour_axes: int = 3
    point_half: float = 0.16
    """Metres: the unit in which neighbours are weighed."""
    reach: float = 0.1
    """Metres: the unit of a cell's votes."""


COMPACT = CompactC2fConfig()


@dataclass(frozen=True)
class Felt:
    """What colour and depth together show of B crops."""

    seen: Seen
    cloud: Cloud
    mixed: Float[Tensor, "B C M M"]
    """Colour and depth, at stride 4."""
    places: Float[Tensor, "B 22 3"]
    """Joints and the object's centre, network frame, metres."""
    vector: Float[Tensor, "B L"]
    """Of the whole crop."""

    def __getitem__(self, row: int) -> Felt:
        """One of the batch, as a batch."""
        one = slice(row, row + 1 or None)
        cloud = Cloud(*(getattr(self.cloud, f.name)[one] for f in dataclasses.fields(Cloud)))
        return Felt(self.seen[row], cloud, self.mixed[one], self.places[one], self.vector[one])

    @property
    def joints(self) -> Float[Tensor, "B 21 3"]:
        return self.places[:, :21]

    @property
    def center(self) -> Float[Tensor, "B 3"]:
        return self.places[:, 21]


@dataclass(frozen=True)
class Semantics:
    """What the points of the depth map know."""

    hand: Float[Tensor, "B N"]
    """Coarse distance to the hand, normalised."""
    object: Float[Tensor, "B N"]
    features: Float[Tensor, "B N L"]
    wrist: Float[Tensor, "B 3"]
    center: Float[Tensor, "B 3"]

    def __getitem__(self, row: int) -> Semantics:
        """One of the batch, as a batch."""
        one = slice(row, row + 1 or None)
        return Semantics(*(getattr(self, f.name)[one] for f in dataclasses.fields(self)))


def reference_depth(
    depth: Float[Tensor, "B D D"], frame: Frame, mask: Float[Tensor, "B M M"], otherwise: Float[Tensor, "B"]
) -> Float[Tensor, "B"]:
    """The depth about which things are: the median of what was measured where ``mask`` shows hand or object.

    Along the middle ray of the crop, network frame; ``otherwise`` where fewer than ten pixels were measured there.
    """
    side = depth.shape[-1]
    shown = nn.functional.interpolate(mask[:, None], (side, side), mode="bilinear")[:, 0] > 0.5
    known = (shown & torch.isfinite(depth) & (depth > 0)).flatten(1)
    middle = torch.where(known, depth.flatten(1), torch.nan).nanmedian(1).values
    along = frame.rotation[:, 2, 2]  # camera z of a step along the network frame's axis
    return torch.where(known.sum(1) >= 10, (middle / along).nan_to_num(), otherwise)


class CompactC2f(Eyes):
    """See the module's text. ``feel`` once, ``semantics`` for the points, then ``field`` as often as needed."""

    def __init__(self, config: CompactC2fConfig = COMPACT) -> None:
        super().__init__(config)
        self.config = c = config
        self.attach()
        fine, middle, coarse = c.depth_widths
        stride4 = self.pyramid_channels[0]
        codes = 8 if c.codes else 0
        self.depth_fine = conv_block(5, fine)
        self.depth_middle = nn.Sequential(
            nn.PixelUnshuffle(2), conv_block(4 * fine, middle), conv_block(middle, middle)
        )
        self.depth_coarse = nn.Sequential(nn.MaxPool2d(2), conv_block(middle, coarse), conv_block(coarse, coarse))
        self.depth_join = conv_block(middle + coarse, stride4)
        self.gate = Gate(stride4)
        self.mix = nn.Sequential(conv_block(stride4 + codes, stride4), conv_block(stride4, stride4))
        self.vote = nn.Conv2d(stride4, 4 * PLACES, 1)
        self.vector = MLP(self.top_channels_read + stride4, 128, c.latent)
        self.hand_sdf_head_global = SdfHead(c.latent + 3 + 6 * OCTAVES, c.coarse_width)
        self.obj_sdf_head_global = SdfHead(c.latent + 3 + 6 * OCTAVES, c.coarse_width)
        self.point_image = nn.Linear(stride4, c.latent)
        self.point_place = MLP(3 + 6 * OCTAVES, 64, c.latent)
        self.point_distance = nn.Linear(2, c.latent)
        self.sdf_factor = nn.Parameter(torch.tensor([0.0, 0.0, -4.0]))
        self.read = MLP(self.seen_channels + stride4, *c.read_mlp, final_relu=True)
        inputs = c.read_mlp[-1] + c.latent + 5 + 6 + 12 * OCTAVES
        self.hand_sdf_head = SdfHead(inputs, c.field_width, c.field_dropout)
        self.obj_sdf_head = SdfHead(inputs, c.field_width, c.field_dropout)
        if c.frozen:
            self.freeze()

    @property
    def top_channels_read(self) -> int:
        """Of the stride 32 map that points read."""
        return self.pyramid_channels[-1]

    def feel(
        self, seen: Seen, depth: Float[Tensor, "B D D"], frame: Frame, generator: torch.Generator | None = None
    ) -> Felt:
        """Takes in the depth map (metres along the camera's z; 0: nothing seen). ``generator``: ``cloud_of``."""
        with torch.autocast(depth.device.type, enabled=False):
            masks = [seen.raw[name][:, 0].float().sigmoid() for name in ("hand_seg", "obj_seg")]
            assert seen.root is not None
            middle = seen.root.points(frame)[0][:, 2]
            reference = reference_depth(depth, frame, torch.maximum(*masks), middle)
            finest = seen.levels[1 if self.config.codes else 0]
            cloud = cloud_of(depth, frame, reference, self.config.points, finest.shape[-1], generator)
            near = cloud.depth < 1
            shown = nn.functional.interpolate(torch.stack(masks, 1), cloud.depth.shape[-2:], mode="bilinear")
            edges = nn.functional.pad(cloud.depth.clamp(max=1).diff(dim=-1), (0, 1))
            maps = torch.cat([torch.where(near, cloud.depth, 0.0), near, edges, shown], 1)
        middle_map = self.depth_middle(self.depth_fine(maps))
        wide = nn.functional.interpolate(self.depth_coarse(middle_map), scale_factor=2, mode="bilinear")
        felt = self.depth_join(torch.cat([middle_map, wide], 1))
        mixed = self.gate(finest.to(felt.dtype), felt)[2]
        mixed = self.mix(
            torch.cat([mixed, *(level.to(mixed.dtype) for level in seen.levels[:1] if self.config.codes)], 1)
        )
        step = cloud.depth.shape[-1] // mixed.shape[-1]
        there = near[:, 0, step // 2 :: step, step // 2 :: step]
        whole = torch.cat([seen.levels[-1].mean((2, 3)), mixed.mean((2, 3))], -1)
        return Felt(seen, cloud, mixed, self._places(self.vote(mixed), cloud, there), self.vector(whole).float())

    def _places(self, votes: Tensor, cloud: Cloud, there: Bool[Tensor, "B M M"]) -> Float[Tensor, "B 22 3"]:
        """Means of what the cells vote for, by how sure they are; those without depth only where no cell has any."""
        with torch.autocast(votes.device.type, enabled=False):
            votes = votes.float().flatten(2).unflatten(1, (PLACES, 4))
            share = (votes[:, :, 3] - 20 * (~there).flatten(1)[:, None]).softmax(-1)
            offsets = (share[:, :, None] * votes[:, :, :3]).sum(-1) * self.config.reach
            return torch.einsum("bpm,bmc->bpc", share, cloud.pixels) + offsets

    def semantics(
        self, felt: Felt, wrist: Float[Tensor, "B 3"], center: Float[Tensor, "B 3"], frame: Frame
    ) -> Semantics:
        """What the points are near, with the wrist and the object's centre taken to be there."""
        points = felt.cloud.points
        hand, other = (self.coarse(which, felt, points, wrist, center) for which in ("hand", "object"))
        with torch.autocast(points.device.type, enabled=False):
            grid = to_grid(points, frame.projection)
            x = (points - wrist[:, None]) * self.config.scale
            place = torch.cat([x, fourier(x, OCTAVES)], -1)
        read = point_features([felt.mixed], grid)
        known = torch.stack([hand, other], -1).detach() / self.config.clamp
        features = self.point_image(read) + self.point_place(place) + self.point_distance(known)
        return Semantics(hand, other, torch.relu(features).float(), wrist, center)

    def coarse(
        self, which: str, felt: Felt, position: Float[Tensor, "B N 3"], wrist: Tensor, center: Tensor
    ) -> Float[Tensor, "B N"]:
        """The coarse field, of the place alone: normalised, cut at ``clamp``."""
        x = (position - (wrist if which == "hand" else center)[:, None]) * self.config.scale
        vector = felt.vector[:, None].expand(-1, x.shape[1], -1)
        head = self.hand_sdf_head_global if which == "hand" else self.obj_sdf_head_global
        found = head(torch.cat([vector, x, fourier(x, OCTAVES)], -1)).float()
        return found.clamp(-self.config.clamp, self.config.clamp)

    def field(
        self, which: str, felt: Felt, known: Semantics, position: Float[Tensor, "B N 3"], projection: Tensor
    ) -> Float[Tensor, "B N"]:
        """The fine field at ``position`` (network frame, metres), normalised unit, not clamped."""
        with torch.autocast(position.device.type, enabled=False):
            grid = to_grid(position, projection)
            about, offset = self._about(which, felt, known, position)
            wrist, center = (position - p[:, None] for p in (known.wrist, known.center))
            x = torch.cat([wrist, center], -1) * self.config.scale
            waves = torch.cat(
                [fourier(wrist * self.config.scale, OCTAVES), fourier(center * self.config.scale, OCTAVES)], -1
            )
        read = self.read(point_features([*felt.seen.levels, felt.mixed], grid))
        head = self.hand_sdf_head if which == "hand" else self.obj_sdf_head
        return head(torch.cat([read, about.to(read.dtype), offset, x, waves], -1)).float()

    def _about(self, which: str, felt: Felt, known: Semantics, position: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the points about each query, those near the surface first, and where these points lie to it:
        their mean offset, its length and the nearest distance, normalised (C2F-SDF, equation 4)."""
        half = self.config.point_half
        queries, points = position / half, felt.cloud.points / half
        index, squared = point_neighbours(queries, points, self.config.neighbours, self.config.neighbour_axes)
        alpha, bias = self.sdf_factor.sigmoid()[0 if which == "hand" else 1], self.sdf_factor.sigmoid()[2]
        near = (known.hand if which == "hand" else known.object).detach()
        apart = gather_rows(near[..., None], index)[..., 0].clamp(min=0)
        weight = 1 / (squared + alpha * apart + bias.clamp(min=1e-4))
        weight = weight / weight.sum(-1, keepdim=True)
        features = (weight[..., None] * gather_rows(known.features, index)).sum(2)
        shift = (weight[..., None] * (gather_rows(points, index) - queries[:, :, None])).sum(2)
        lengths = torch.stack([shift.norm(dim=-1), squared.amin(-1).sqrt()], -1)
        return features, torch.cat([shift, lengths], -1)
