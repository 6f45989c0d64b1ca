"""HOISDF (Qi et al. 2024): pose from points that signed distance fields choose, weigh and exchange.

A U-Net reads the crop; two field decoders give the signed distance to hand and object at any point from the maps'
values at its pixel; the points nearest to each surface become tokens, weighed by a density of their distance, and each
transformer sees its own points and the other's, weighed by its own field. Queries give the hand's rotations and shape,
tokens vote for its joints, and tokens of the object give its rotation and translation.

Module names are those of the official checkpoints, and :data:`OFFICIAL` has their sizes. :data:`COMPACT`, which comes
with horefine, is the same code at sizes that a CPU core trains in two hours, plus what the official network takes from
ground truth or lacks: a root head (wrist and object centre, with intrinsics), the sides of the object's box as a
condition, and per-pixel surface codes that the points read beside the maps.

Everything here happens in a *network frame*: metres, the camera's centre as origin, turned so that the optical axis
runs through the middle of the crop (``root.Frame``); the official network's is the camera's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from horefine.errors import ConfigError, suggestion
from horefine.extractors import unet
from horefine.extractors.eyes import Eyes, Seen
from horefine.extractors.field import ENCODED, FieldDecoder, density, point_features, to_grid
from horefine.extractors.layers import MLP, fourier
from horefine.extractors.transformer import Transformer, block_mask
from horefine.extractors.unet import UNetConfig
from horefine.geometry import axis_angle_to_matrix, sixd_to_matrix

__all__ = [
    "COMPACT",
    "CROSSINGS",
    "OFFICIAL",
    "SAMPLINGS",
    "WEIGHTINGS",
    "Hoisdf",
    "HoisdfConfig",
    "Points",
    "Prediction",
    "Seen",
]

BLOCKS = (1, 3, 3, 3, 3, 3, 1)
"""Queries: wrist, three joints of each finger in MANO's order, shape."""
SAMPLINGS = ("absolute", "signed", "gradient", "random")
"""Ways to choose points: the paper's table 7 (``sampling.sampled_points``)."""
WEIGHTINGS = ("density", "none", "density_concatenation", "distance_concatenation")
"""What a point's features get from its distance: table 8."""
CROSSINGS = ("field", "none", "image", "target")
"""What the other's points bring to a transformer: table 9."""


@dataclass(frozen=True)
class HoisdfConfig:
    """Sizes of the network; written into its weight files."""

    size: int = 128
    depth: int = 18
    width: int = 32
    unet: UNetConfig = unet.COMPACT
    hidden: int = 128
    attention_heads: int = 4
    feedforward: int = 256
    hand_layers: int = 3
    hand_decoder_layers: int = 2
    object_layers: int = 2
    dropout: float = 0.0
    token_mlp: tuple[int, ...] = (256, 128)
    field_mlp: tuple[int, ...] = (128, 64)
    """Widths of the perceptron on point features for the fields; the last is the decoder's input."""
    field_width: int = 160
    field_dropout: float = 0.0
    hand_points: int = 64
    object_points: int = 48
    scale: float = 5.0
    """The fields' unit: normalised = metres times this."""
    clamp: float = 0.25
    """Normalised distance at which fields are cut."""
    density_sign: float = -1.0
    object_rotation: str = "sixd"
    """``sixd`` or ``axis_angle`` (the official one)."""
    align_corners: bool = False
    codes: bool = True
    """Per-pixel surface codes, which points read too."""
    bins: int = 12
    """Into how many a code is cut along each axis (``dense.bin_loss``)."""
    root: bool = True
    condition: bool = True
    heat_peak: float = 1.0
    """Value of the joint heat map at a joint; 255 in the official network."""
    grid: int = 65
    """Nodes along a side of the grids that the fields become for ``sdf_consistency`` (``sampling.field_grid``)."""
    sampling: str = "absolute"
    """Which points are chosen: nearest to the surface (``absolute``), or another of :data:`SAMPLINGS`."""
    weighting: str = "density"
    """Image features are multiplied by the ``density`` of the distance (equation 5) or stay as they are: alone
    (``none``), or with one number more beside them (``density_concatenation``, ``distance_concatenation``)."""
    cross: str = "field"
    """The other's points in a transformer are weighed by its own ``field`` (equation 6); ``target``: by the field that
    chose them; ``image``: not at all; ``none``: left out."""

    def __post_init__(self) -> None:
        """Refuses settings that there are not.

        Raises:
            ConfigError: with the nearest one that there is.
        """
        for key, known in (("sampling", SAMPLINGS), ("weighting", WEIGHTINGS), ("cross", CROSSINGS)):
            value = str(getattr(self, key))
            if value not in known:
                raise ConfigError(f"network.{key}: {value!r}: there is none{suggestion(value, known)}")
        if self.grid < 2:
            raise ConfigError(f"network.grid: {self.grid} nodes do not span a grid; give at least 2 (65 is usual)")


COMPACT = HoisdfConfig()
OFFICIAL = HoisdfConfig(
    size=256, depth=50, width=64, unet=unet.SMALL, hidden=256, feedforward=1024, hand_layers=6, hand_decoder_layers=4,
    object_layers=3, dropout=0.1, token_mlp=(1024, 512, 256), field_mlp=(512, 256), field_width=512, field_dropout=0.2,
    hand_points=600, object_points=200, scale=3.1, clamp=0.15, density_sign=1.0, object_rotation="axis_angle",
    align_corners=True, codes=False, root=False, condition=False, heat_peak=255.0,
)  # fmt: skip


@dataclass(frozen=True)
class Points:
    """Points of one field, network frame, metres, and the field there."""

    position: Float[Tensor, "B N 3"]
    distance: Float[Tensor, "B N"]
    """Normalised, not clamped."""
    features: Float[Tensor, "B N C"]
    """What the maps show at their pixels."""


@dataclass(frozen=True)
class Prediction:
    """Heads of every layer; the last is the result. Positions relative to the hand's or the object's centre."""

    rotations: Float[Tensor, "L B J 3 3"]
    """Of 16 joints; of none in the official variant that leaves them to inverse kinematics."""
    shape: Float[Tensor, "L B 10"]
    votes: Float[Tensor, "E B N 20 3"]
    """Where each hand token believes the joints but the wrist to be."""
    vote_logits: Float[Tensor, "E B N 20"]
    joints: Float[Tensor, "E B 20 3"]
    object_rotation: Float[Tensor, "K B 3 3"]
    object_center: Float[Tensor, "K B 3"]
    """Centre of the object's box (its frame's origin in the official network)."""


class Hoisdf(Eyes):
    """See the module's text. ``see`` once, ``field`` as often as needed, then ``pose``."""

    def __init__(self, config: HoisdfConfig = COMPACT) -> None:
        super().__init__(config)
        self.config = c = config
        features = self.seen_channels
        token = c.hidden - ENCODED - 3 - c.weighting.endswith("_concatenation")
        self.linear_sdfin = MLP(features, *c.field_mlp, final_relu=True)
        self.linear_transformerin = MLP(features, *c.token_mlp, token, final_relu=True)
        self.hand_sdf_decoder = FieldDecoder(c.field_mlp[-1], c.field_width, c.field_dropout)
        self.obj_sdf_decoder = FieldDecoder(c.field_mlp[-1], c.field_width, c.field_dropout)
        self.hand_sigmoid_beta, self.obj_sigmoid_beta = (nn.Parameter(torch.full((1,), 0.1)) for _ in range(2))
        sizes = (c.hidden, c.attention_heads, c.feedforward)
        self.hand_transformer = Transformer(*sizes, c.hand_layers, c.hand_decoder_layers, c.dropout)
        self.obj_transformer = Transformer(*sizes, c.object_layers, 0, c.dropout)
        self.mano_query_embed = nn.Embedding(sum(BLOCKS), c.hidden)
        self.linear_pose, self.linear_shape = MLP(c.hidden, c.hidden, c.hidden, 6), MLP(*(c.hidden,) * 3, 10)
        self.linear_handvote, self.linear_handcls = MLP(*(c.hidden,) * 4, 60), MLP(*(c.hidden,) * 3, 20)
        self.linear_obj_rot = MLP(*(c.hidden,) * 3, 6 if c.object_rotation == "sixd" else 3)
        self.linear_obj_rel_trans = MLP(*(c.hidden,) * 3, 3)
        self.register_buffer("block_mask", block_mask(BLOCKS), persistent=False)
        self.attach()
        if c.condition:
            self.condition_token = nn.Linear(7, c.hidden)
        self._initialise()

    def _initialise(self) -> None:
        no_turn = (1.0, 0, 0, 0, 1, 0)
        self.linear_pose.start(0.02, no_turn)
        self.linear_obj_rot.start(0.02, no_turn if self.config.object_rotation == "sixd" else None)
        for layer in (self.linear_shape, self.linear_handvote, self.linear_obj_rel_trans):
            layer.start(0.01)

    def field(
        self, which: str, seen: Seen, position: Float[Tensor, "B N 3"], center: Tensor, projection: Tensor
    ) -> Points:
        """The field ``hand`` or ``object`` about ``center`` "B 3" at ``position``; both network frame, metres."""
        with torch.autocast(position.device.type, enabled=False):  # a place needs more than eight bits
            grid = to_grid(position, projection)
        features = point_features(seen.levels, grid, self.config.align_corners)
        return Points(position, self.distance(which, features, position, center), features)

    def distance(self, which: str, features: Tensor, position: Tensor, center: Tensor) -> Float[Tensor, "B N"]:
        """As :meth:`field`, for points whose features were read before."""
        decoder = self.hand_sdf_decoder if which == "hand" else self.obj_sdf_decoder
        return decoder(self.linear_sdfin(features), (position - center[:, None]) * self.config.scale).float()

    def pose(
        self, seen: Seen, hand: Points, other: Points, hand_center: Float[Tensor, "B 3"], object_center: Tensor
    ) -> Prediction:
        """Both transformers and all heads, from the chosen points of the hand's and the object's field."""
        hand_read, other_read = self.linear_transformerin(hand.features), self.linear_transformerin(other.features)
        own = hand.position.shape[1]
        tokens = self._gathered("hand", (hand, hand_read), (other, other_read), hand_center)
        memory, hand_layers = self.hand_transformer.encoder(tokens)
        queries = self.hand_transformer.decoder(self.mano_query_embed.weight, memory[:, :own], self.block_mask)
        tokens = self._gathered("object", (other, other_read), (hand, hand_read), object_center)
        if self.config.condition:
            tokens = tokens + self.condition_token(seen.condition)[:, None]
        _, object_layers = self.obj_transformer.encoder(tokens)
        return self._heads(queries, hand_layers[:, :, :own], object_layers[:, :, : other.position.shape[1]],
                           hand.position - hand_center[:, None])  # fmt: skip

    def _gathered(
        self, which: str, own: tuple[Points, Tensor], other: tuple[Points, Tensor], center: Tensor
    ) -> Float[Tensor, "B N C"]:
        """Tokens for a transformer: its own points, then the other's about its own center. Each with what was read."""
        (points, read), (guests, guests_read) = own, other
        tokens = [self._tokens(which, points.position, center, read, points.distance)]
        if self.config.cross == "field":
            crossed = self.distance(which, guests.features, guests.position, center)
            tokens.append(self._tokens(which, guests.position, center, guests_read, crossed))
        elif self.config.cross == "target":
            name = "object" if which == "hand" else "hand"
            tokens.append(self._tokens(name, guests.position, center, guests_read, guests.distance))
        elif self.config.cross == "image":
            tokens.append(self._tokens(which, guests.position, center, guests_read, None))
        return torch.cat(tokens, 1)

    def _tokens(
        self, which: str, position: Tensor, center: Tensor, read: Tensor, distance: Tensor | None
    ) -> Float[Tensor, "B N C"]:
        """Places, and what was read there, weighed by the distance in the field ``which``; None: without it."""
        relative = position - center[:, None]
        place = [relative, fourier(relative * self.config.scale)]
        weighting = self.config.weighting
        concatenated = weighting.endswith("_concatenation")
        if distance is None or weighting == "none":
            return torch.cat([*place, read] + [torch.zeros_like(read[..., :1])] * concatenated, -1)
        weight = distance.detach().clamp(-self.config.clamp, self.config.clamp)
        if weighting.startswith("density"):
            beta = self.hand_sigmoid_beta if which == "hand" else self.obj_sigmoid_beta
            weight = density(weight, beta, self.config.density_sign)
        weight = weight[..., None]
        return torch.cat([*place, read, weight] if concatenated else [*place, read * weight], -1)

    def _heads(self, queries: Tensor, hand: Tensor, other: Tensor, relative: Tensor) -> Prediction:
        votes = relative[:, :, None] + self.linear_handvote(hand).unflatten(-1, (20, 3)).float()
        logits = self.linear_handcls(hand).float()
        turn = self.linear_obj_rot(other).float().mean(2)
        return Prediction(
            rotations=self._rotations(queries),
            shape=self.linear_shape(queries[:, :, -1]).float(),
            votes=votes,
            vote_logits=logits,
            joints=(logits.softmax(2)[..., None] * votes).sum(2),
            object_rotation=_rotation(turn),
            object_center=self.linear_obj_rel_trans(other).float().mean(2),
        )

    def _rotations(self, queries: Tensor) -> Tensor:
        return sixd_to_matrix(self.linear_pose(queries[:, :, :16]).float())


def _rotation(numbers: Tensor) -> Tensor:
    return sixd_to_matrix(numbers) if numbers.shape[-1] == 6 else axis_angle_to_matrix(numbers)
