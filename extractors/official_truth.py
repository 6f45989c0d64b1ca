"""What the official HOISDF is told and compared with in training, made from a batch of ours."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from importlib import resources

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.extractors.batches import Batch
from horefine.extractors.hoisdf import HoisdfConfig
from horefine.extractors.hoisdf_official import SIZE, Architecture, Given, object_reference
from horefine.extractors.hoisdf_task import Truth, hand_distance
from horefine.extractors.mano_layer import ManoLayer
from horefine.extractors.official_crop import HAND_FACTORS, box_of
from horefine.extractors.official_losses import OfficialTruth
from horefine.extractors.shard_batches import Objects
from horefine.geometry import Camera, axis_angle_to_matrix, project
from horefine.hand import HandModel
from horefine.mano import find_mano, read_mano

__all__ = ["NEAR", "Scene", "given_of", "hand_layer", "official_truth", "points_near"]

NEAR = 0.05
"""Metres from the surface within which the transformers' training points lie."""


@dataclass(frozen=True)
class Scene:
    """A batch, and what is known of it."""

    batch: Batch
    true: Truth
    """In the camera's frame."""
    given: Given
    objects: Objects

    def surface(self, which: str) -> Float[Tensor, "B V 3"]:
        """Points of the hand's or the object's surface, camera frame."""
        true = self.true
        if which == "hand":
            return true.vertices + true.wrist[:, None]
        local = self.objects.surface[self.batch.object] - self.objects.centers[self.batch.object][:, None]
        return local @ true.object_rotation.mT + true.object_center[:, None]

    def distance(self, which: str, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N"]:
        """Signed distance of camera-frame points to the hand or the object, metres."""
        true = self.true
        if which == "hand":
            return hand_distance(points - true.wrist[:, None], true.vertices, true.normals)
        local = (points - true.object_center[:, None]) @ true.object_rotation
        return self.objects.grids[self.batch.object].sample(local + self.objects.centers[self.batch.object][:, None])


def given_of(batch: Batch, architecture: Architecture) -> Given:
    """The wrist, the object's reference point and both boxes, from the truth as in the published training."""
    matrix = _matrix(batch, SIZE)
    corners = _box_points(batch.extents) @ axis_angle_to_matrix(batch.pose.object_rotvec).mT
    places = project(corners + batch.object_center[:, None], matrix)
    factor = HAND_FACTORS.get(architecture.name, 1.2)
    hand_box = torch.stack([box_of(points, factor) for points in project(batch.joints, matrix)])
    object_box = torch.stack([box_of(points, 1.0) for points in places])
    wrist = batch.joints[:, 0]
    depth = wrist[:, 2]
    if architecture.object_depth is not None:
        depth = torch.full_like(depth, architecture.object_depth)
    return Given(matrix, wrist, object_reference(object_box, depth, matrix), hand_box, object_box)


def _matrix(batch: Batch, size: int) -> Float[Tensor, "B 3 3"]:
    """Intrinsics of the crop at ``size`` pixels a side."""
    side = batch.maps["depth"].shape[-1]
    return Camera(batch.matrix, (side, side)).resized((size, size)).matrix


def _box_points(extents: Float[Tensor, "B 3"]) -> Float[Tensor, "B 21 3"]:
    """Corners, middles of edges and centre of boxes about the origin."""
    steps = [step for step in itertools.product((-1.0, 0.0, 1.0), repeat=3) if sum(map(abs, step)) != 1]
    return extents.new_tensor([s for s in steps if sum(map(abs, s)) >= 2 or not any(s)]) * (extents / 2)[:, None]


def official_truth(scene: Scene, config: HoisdfConfig, generator: torch.Generator) -> OfficialTruth:
    """What the losses compare with; the fields' points are drawn anew: half near the surface, half anywhere."""
    batch, true, given = scene.batch, scene.true, scene.given
    fields = {}
    for which, count in (("hand", config.hand_points), ("object", config.object_points)):
        center = given.center(which)
        points = torch.cat([
            points_near(which, scene, count - count // 2, 0.0, generator),
            center[:, None] + _spread(center, count // 2, 1 / config.scale, generator),
        ], 1)  # fmt: skip
        fields[f"{which}_points"] = (points - center[:, None]) * config.scale
        fields[f"{which}_distances"] = scene.distance(which, points) * config.scale
    side = SIZE // 2
    masks = {name: batch.maps[name] for name in ("hand_mask", "object_mask")}
    if batch.maps["depth"].shape[-1] != side:
        masks = {
            name: torch.nn.functional.interpolate(value[:, None], (side, side), mode="bilinear")[:, 0]
            for name, value in masks.items()
        }
    return OfficialTruth(
        joints=torch.cat([torch.zeros_like(true.joints[:, :1]), true.joints], 1) * 1e3,
        joint_pixels=project(batch.joints, _matrix(batch, side)),
        object_rotvec=batch.pose.object_rotvec,
        object_transl=batch.pose.object_transl - given.object_center,
        hand=torch.cat([batch.pose.hand_rotvec.flatten(1), batch.pose.hand_shape], 1),
        **{name: value.clamp(0, 1) for name, value in masks.items()},
        **fields,
    )


def points_near(
    which: str, scene: Scene, count: int, noise: float, generator: torch.Generator
) -> Float[Tensor, "B N 3"]:
    """Points within :data:`NEAR` of the true surface, then moved by up to ``noise`` metres along each axis."""
    surface = scene.surface(which)
    drawn = torch.randint(surface.shape[1], (len(surface), 2 * count, 1), generator=generator).to(surface.device)
    points = surface.gather(1, drawn.expand(-1, -1, 3)) + _spread(surface[:, 0], 2 * count, NEAR, generator)
    near = scene.distance(which, points).abs() < NEAR
    order = near.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :count]
    return points.gather(1, order[..., None].expand(-1, -1, 3)) + _spread(surface[:, 0], count, noise, generator)


def _spread(like: Float[Tensor, "B 3"], count: int, amount: float, generator: torch.Generator) -> Tensor:
    """Uniform in a cube of half side ``amount``."""
    return amount * (2 * torch.rand(len(like), count, 3, generator=generator) - 1).to(like)


def hand_layer(hand: HandModel) -> ManoLayer:
    """The published hand layer with the arrays of this hand.

    Raises:
        AssetError: it is a MANO hand, and its file is not where it was.
    """
    if hand.name == "mano":
        path = find_mano(None, required=True)
        assert path is not None
        return ManoLayer.from_data(read_mano(path))
    with resources.as_file(resources.files("horefine.assets") / "embedded_hand.npz") as path:
        return ManoLayer.from_data(read_mano(path))
