"""HOISDF as its authors published it: three architectures, their checkpoints' names, their order of work.

:class:`~horefine.extractors.hoisdf.Hoisdf` has the parts. Here are the official sizes, pixel coordinates, choice of
points (``official_sampling``) and hand: where a checkpoint's queries give rotations they are used; in the variant
without (``ho3d_render``) the voted joints are, by inverse kinematics on the user's MANO skeleton.

The official network is told what ours predicts: the wrist, the point from which the object is counted, and both boxes
(:class:`Given`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from horefine.extractors import unet
from horefine.extractors.field import point_features
from horefine.extractors.hoisdf import BLOCKS, OFFICIAL, Hoisdf, Points, Prediction, Seen
from horefine.extractors.mano_layer import joint_rotations
from horefine.extractors.official_sampling import Chosen, choose_points, official_lattice
from horefine.extractors.transformer import block_mask
from horefine.geometry import backproject, matrix_to_axis_angle
from horefine.hand import HandModel

__all__ = ["ARCHITECTURES", "DEPTH", "Architecture", "Given", "OfficialHoisdf", "Outcome", "object_reference"]

SIZE = 256
DEPTH = 0.5244322
"""Metres: how far away the HO3D networks assume the object to be (:func:`object_reference`)."""


@dataclass(frozen=True)
class Architecture:
    """What tells the published networks apart."""

    decoder: str = "small"
    """``small`` or ``big``: the U-Net's."""
    rotations: bool = True
    """False: one query, for the shape; joints by votes and rotations by inverse kinematics."""
    hand_layers: int = 6
    hand_decoder_layers: int = 4
    object_layers: int = 3
    object_depth: float | None = None
    """Metres; None: the wrist's."""

    @property
    def name(self) -> str:
        """Its setting in the published code; ``custom`` for a variation of those."""
        return next((name for name, known in ARCHITECTURES.items() if known == self), "custom")


ARCHITECTURES = {
    "dexycb": Architecture(),
    "ho3d": Architecture("big", object_depth=DEPTH),
    "ho3d_render": Architecture(rotations=False, object_depth=DEPTH),
}
"""``dexycb_full`` is ``dexycb``."""


@dataclass(frozen=True)
class Given:
    """What the network is told beside the picture, for B crops of 256 pixels a side; camera frame, metres."""

    matrix: Float[Tensor, "B 3 3"]
    """Intrinsics of the crop, pixels."""
    wrist: Float[Tensor, "B 3"]
    object_center: Float[Tensor, "B 3"]
    """From where the object is counted: :func:`object_reference`, not its true centre."""
    hand_box: Float[Tensor, "B 4"]
    object_box: Float[Tensor, "B 4"]

    def center(self, which: str) -> Float[Tensor, "B 3"]:
        """Of the ``hand`` or the ``object``."""
        return self.wrist if which == "hand" else self.object_center


def object_reference(
    object_box: Float[Tensor, "B 4"], depth: Float[Tensor, "B"], matrix: Float[Tensor, "B 3 3"]
) -> Float[Tensor, "B 3"]:
    """The point at ``depth`` behind the (whole) pixel in the middle of the object's box."""
    middle = ((object_box[:, :2] + object_box[:, 2:]) / 2).trunc()
    return backproject(middle, depth, matrix)


@dataclass(frozen=True)
class Outcome:
    """Results for B crops: camera frame, metres; rotations relative to the FLAT hand."""

    hand_rotvec: Float[Tensor, "B 16 3"]
    hand_shape: Float[Tensor, "B 10"]
    wrist: Float[Tensor, "B 3"]
    joints: Float[Tensor, "B 21 3"]
    """As the points vote for them; the wrist as given."""
    object_rotvec: Float[Tensor, "B 3"]
    object_transl: Float[Tensor, "B 3"]
    """Of the origin of the object's frame."""
    proper: Bool[Tensor, "B"]
    """False where inverse kinematics found no hand: its rotations are zero."""


class OfficialHoisdf(Hoisdf):
    """Loads and repeats a published checkpoint (``checkpoints.load_official``); see the module's text."""

    def __init__(self, architecture: Architecture = ARCHITECTURES["dexycb"], lattice: str = "sheared") -> None:
        """``lattice``: see ``official_sampling``; ``sheared`` is what the checkpoints were trained with."""
        sizes = {"small": unet.SMALL, "big": unet.BIG}[architecture.decoder]
        config = dataclasses.replace(
            OFFICIAL,
            unet=sizes,
            hand_layers=architecture.hand_layers,
            hand_decoder_layers=architecture.hand_decoder_layers,
            object_layers=architecture.object_layers,
        )
        super().__init__(config)
        self.architecture, self.lattice = architecture, lattice
        if not architecture.rotations:
            del self.linear_pose
            self.mano_query_embed = nn.Embedding(1, self.config.hidden)
            self.block_mask = block_mask((1,))

    def reset_mask(self) -> None:
        """Makes the one buffer that no checkpoint holds (it is lost on the meta device)."""
        self.block_mask = block_mask(BLOCKS if self.architecture.rotations else (1,))

    def field(
        self, which: str, seen: Seen, position: Float[Tensor, "B N 3"], center: Tensor, projection: Tensor
    ) -> Points:
        """As ``Hoisdf.field``. ``projection``: intrinsics of the crop, pixels."""
        homogeneous = position @ projection.mT
        pixel = homogeneous[..., :2] / homogeneous[..., 2:]
        middle = (SIZE - 1) / 2
        features = point_features(seen.levels, (pixel - middle) / middle, self.config.align_corners)
        return Points(position, self.distance(which, features, position, center), features)

    def choose(self, which: str, seen: Seen, given: Given) -> tuple[Points, list[Chosen]]:
        """The points of the hand's or the object's field, image by image, in the lattice's order."""
        config, center = self.config, given.center(which)
        boxes = given.hand_box if which == "hand" else given.object_box
        nodes = official_lattice(self.lattice).to(center)
        count = config.hand_points if which == "hand" else config.object_points
        chosen = []
        for image in range(len(center)):
            one = slice(image, image + 1)
            levels = [level[one] for level in seen.levels]
            part = dataclasses.replace(seen, levels=levels)

            def asked(points: Tensor, part: Seen = part, one: slice = one) -> tuple[Tensor, Tensor]:
                place = (points / config.scale + center[one])[None]
                found = self.field(which, part, place, center[one], given.matrix[one])
                return found.distance[0], found.features[0]

            chosen.append(
                choose_points(asked, nodes, center[image], config.scale, given.matrix[image], boxes[image], count)
            )
        index = torch.stack([one.index for one in chosen])
        position = nodes[index] / config.scale + center[:, None]
        distance = torch.stack([one.distance for one in chosen])
        return Points(position, distance, torch.stack([one.features for one in chosen])), chosen

    def _rotations(self, queries: Tensor) -> Tensor:
        if self.architecture.rotations:
            return super()._rotations(queries)
        return queries.new_zeros(*queries.shape[:2], 0, 3, 3)

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "B 3 S S"], given: Given) -> tuple[Prediction, Points, Points]:
        """Heads of every layer, and the points chosen by the hand's and by the object's field."""
        seen = self.see(image)
        hand, _ = self.choose("hand", seen, given)
        other, _ = self.choose("object", seen, given)
        return self.pose(seen, hand, other, given.wrist, given.object_center), hand, other

    def outcome(self, prediction: Prediction, given: Given, hand: HandModel | None = None) -> Outcome:
        """The last layer's results in the camera frame.

        Args:
            hand: A MANO hand; inverse kinematics needs its skeleton where the network gives no rotations.

        Raises:
            ValueError: it is needed and missing.
        """
        shape, votes = prediction.shape[-1], prediction.joints[-1]
        joints = torch.cat([torch.zeros_like(votes[:, :1]), votes], 1)
        proper = torch.ones(len(votes), dtype=torch.bool, device=votes.device)
        if self.architecture.rotations:
            rotvec = matrix_to_axis_angle(prediction.rotations[-1])
        elif hand is None:
            raise ValueError("hand is None: this HOISDF gives joints, and rotations need the skeleton of a MANO hand")
        else:
            flat = hand.to(shape.device)(shape.new_zeros(len(shape), 16, 3), shape, shape.new_zeros(len(shape), 3))
            rotvec, proper = joint_rotations(joints, flat.joints)
        return Outcome(
            rotvec, shape, given.wrist, joints + given.wrist[:, None],
            matrix_to_axis_angle(prediction.object_rotation[-1]),
            given.object_center + prediction.object_center[-1], proper,
        )  # fmt: skip
