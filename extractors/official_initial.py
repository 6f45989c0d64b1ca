"""First poses by a published HOISDF checkpoint, without ground truth.

The authors' network is told the wrist, a point near the object and the boxes of both. Here they come from the compact
network that comes with horefine (its root head and its pose), boxes from the user where given. Rotations and shape are
MANO's, so a MANO hand is needed; the object's pose is that of the dataset's own mesh (YCB models for the published
checkpoints): another mesh of the same thing, in another frame, is placed wrongly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.data import Sample
from horefine.distance import DistanceGrid
from horefine.errors import AssetError
from horefine.extractors import load_model
from horefine.extractors.checkpoints import load_official, read_checkpoint
from horefine.extractors.crops import extents_of, map_camera, mesh_of, pictures
from horefine.extractors.hoisdf import Points, Seen
from horefine.extractors.hoisdf_official import SIZE, Given, OfficialHoisdf, object_reference
from horefine.extractors.initial import HoisdfInitializer, predict
from horefine.extractors.official_crop import HAND_FACTORS, box_of
from horefine.extractors.official_sampling import SEARCHES, choose_points, official_lattice
from horefine.extractors.root import KnownWrist
from horefine.extractors.sampling import field_grid
from horefine.geometry import Box, axis_angle_to_matrix, project
from horefine.hand import HandModel
from horefine.mano import REGISTER_AT
from horefine.mesh import Mesh
from horefine.scene import Pose

__all__ = ["OfficialInitializer", "choose", "initializer_of", "object_points"]


def initializer_of(
    path: Path, device: str, hand: HandModel, search: str = "dense"
) -> HoisdfInitializer | OfficialInitializer:
    """The initializer of a published checkpoint, or of a weight file of horefine's own (``.safetensors``).

    ``search``: how a published network's points are found (``official_sampling.SEARCHES``).

    Raises:
        AssetError: see ``checkpoints.load_official`` and ``extractors.load_model``; also when a published network's
            poses have no MANO hand to go with.
    """
    if path.suffix == ".safetensors":
        model = load_model(path, "hoisdf")
        if not model.config.root:  # type: ignore[union-attr]
            raise AssetError(
                f"checkpoint {path}: has no root head, and pixels alone do not give it the wrist; train it with "
                "network.root: true"
            )
        return HoisdfInitializer(device, hand, model)  # type: ignore[arg-type]
    if hand.name != "mano":
        read_checkpoint(path)  # what is wrong with the file is said first
        raise AssetError(
            f"checkpoint {path}: its poses are MANO's, and the hand here is the {hand.name} one; give the folder of "
            f"your MANO_RIGHT.pkl with --mano-dir (register at {REGISTER_AT}), or leave --checkpoint out"
        )
    return OfficialInitializer(load_official(path), device, hand, search=search)


def object_points(mesh: Mesh) -> Float[Tensor, "B 21 3"]:
    """Corners, middles of the edges and centre of the objects' boxes, object frame."""
    steps = torch.cartesian_prod(*[torch.arange(-1.0, 2.0)] * 3).to(mesh.vertices)
    kept = steps[(steps.abs().sum(-1) >= 2) | (steps.abs().sum(-1) == 0)]
    low, high = mesh.box
    return ((low + high) / 2)[:, None] + kept * ((high - low) / 2)[:, None]


@torch.no_grad()
def choose(network: OfficialHoisdf, which: str, seen: Seen, given: Given, search: str = "dense") -> Points:
    """The points of the hand's or the object's field. ``search``: one of ``official_sampling.SEARCHES``."""
    if search == "dense":
        return network.choose(which, seen, given)[0]
    config, center = network.config, given.center(which)
    boxes, count = (given.hand_box, config.hand_points) if which == "hand" else (given.object_box, config.object_points)
    nodes = official_lattice(network.lattice).to(center)
    found = []
    for image in range(len(center)):
        one = slice(image, image + 1)
        part = dataclasses.replace(seen, levels=[level[one] for level in seen.levels])

        def asked(points: Tensor, part: Seen = part, one: slice = one) -> tuple[Tensor, Tensor]:
            place = (points / config.scale + center[one])[None]
            there = network.field(which, part, place, center[one], given.matrix[one])
            return there.distance[0], there.features[0]

        row = (center[image], config.scale, given.matrix[image], boxes[image], count)
        chosen = choose_points(asked, nodes, *row, search=search)
        place = nodes[chosen.index] / config.scale + center[image]
        found.append((place, chosen.distance, chosen.features))
    return Points(*(torch.stack(values) for values in zip(*found, strict=True)))


@dataclass(frozen=True)
class _Looked:
    """What the network saw and was told."""

    seen: Seen
    given: Given
    pose: Pose


class OfficialInitializer:
    """First poses and distance fields of crops by a published HOISDF."""

    def __init__(
        self,
        network: OfficialHoisdf,
        device: str,
        hand: HandModel,
        finder: HoisdfInitializer | None = None,
        search: str = "dense",
    ) -> None:
        """Wraps a network.

        Args:
            finder: Finds wrist and object first (default: the compact network with the embedded hand).
            search: ``dense``, the published order of work, or ``coarse_to_fine``, the same points by fewer queries.

        Raises:
            ValueError: another ``search``.
        """
        if search not in SEARCHES:
            raise ValueError(f"search is {search!r}; known: {', '.join(SEARCHES)}")
        self.search = search
        self.network, self.device, self.hand = network.to(device), device, hand.to(device)
        self.finder = finder if finder is not None else HoisdfInitializer(device)

    @torch.no_grad()
    def initialize(self, crops: Sequence[Sample], fields: Sequence[str] = ()) -> tuple[Pose, dict[str, Any]]:
        """As ``HoisdfInitializer.initialize``."""
        looked, mesh = self._look(crops), mesh_of(crops).to(self.device)
        pose = looked.pose
        grids: dict[str, Any] = {}
        for name, which in (("hand_sdf", "hand"), ("object_sdf", "object")):
            if name in fields:
                if which == "hand":
                    points = self.hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).vertices
                else:
                    rotation = axis_angle_to_matrix(pose.object_rotvec)
                    points = mesh.vertices @ rotation.mT + pose.object_transl[:, None]
                grids[name] = self._grid(which, looked, points).to("cpu")
        return pose.to("cpu"), grids

    def extract(self, crops: Sequence[Sample], names: Sequence[str]) -> dict[str, Any]:
        """``hand_sdf`` and ``object_sdf`` as :meth:`initialize` gives them."""
        return self.initialize(crops, names)[1]

    def _look(self, crops: Sequence[Sample]) -> _Looked:
        given = self._given(crops)
        network, image = self.network, pictures(crops, SIZE).to(self.device)
        seen = network.see(image)
        hand, other = (choose(network, which, seen, given, self.search) for which in ("hand", "object"))
        prediction = network.pose(seen, hand, other, given.wrist, given.object_center)
        found = network.outcome(prediction, given, self.hand)
        offset = self.hand.rest_joints(found.hand_shape)[:, 0]
        pose = Pose(found.hand_rotvec, found.hand_shape, found.wrist - offset, found.object_rotvec, found.object_transl)
        return _Looked(seen, given, pose)

    def _given(self, crops: Sequence[Sample]) -> Given:
        """What the authors take from the truth, from the compact network's pose and the user's boxes."""
        finder, device = self.finder, self.device
        side = finder.model.config.size
        extents, mesh = extents_of(crops).to(device), mesh_of(crops).to(device)
        small = map_camera(crops, side).matrix.to(device)
        known = KnownWrist.of(crops, device)
        found = predict(finder.model, pictures(crops, side).to(device), small, side, extents, known)
        hand = finder.hand.to(device)
        pose = found.pose(hand, mesh.center)
        joints = hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).joints
        corners = object_points(mesh) @ found.object_rotation.mT + pose.object_transl[:, None]
        matrix = map_camera(crops, SIZE).matrix.to(device)
        architecture = self.network.architecture
        factor = HAND_FACTORS.get(architecture.name, 1.2)
        hand_box = _boxes([crop.hand_box for crop in crops], crops, project(joints, matrix), factor)
        object_box = _boxes([crop.object_box for crop in crops], crops, project(corners, matrix), 1.0)
        depth = found.wrist[:, 2]
        if architecture.object_depth is not None:
            depth = torch.full_like(depth, architecture.object_depth)
        return Given(matrix, found.wrist, object_reference(object_box, depth, matrix), hand_box, object_box)

    def _grid(self, which: str, looked: _Looked, points: Tensor, margin: float = 0.025) -> DistanceGrid:
        center, network = looked.given.center(which), self.network

        def distance(asked: Tensor) -> Tensor:
            return network.field(which, looked.seen, asked, center, looked.given.matrix).distance / network.config.scale

        return field_grid(distance, points.amin(1) - margin, points.amax(1) + margin, network.config.grid)


def _boxes(
    given: Sequence[Box | None], crops: Sequence[Sample], points: Float[Tensor, "B N 2"], factor: float
) -> Float[Tensor, "B 4"]:
    """The user's boxes in pixels of the network's crop, else those of projected points."""
    rows = []
    for box, crop, own in zip(given, crops, points, strict=True):
        if box is None:
            rows.append(box_of(own, factor))
        else:
            scale = SIZE / crop.image.shape[-1]
            rows.append((own.new_tensor(box) + 0.5) * scale - 0.5)
    return torch.stack(rows)
