"""From crops to poses and fields with HOISDF, from pixels, intrinsics and (when known) the object's size alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.data import Sample
from horefine.distance import DistanceGrid
from horefine.extractors import load_default
from horefine.extractors.crops import extents_of, map_camera, mesh_of, pictures
from horefine.extractors.hoisdf import Hoisdf, Seen
from horefine.extractors.root import Frame, KnownWrist
from horefine.extractors.sampling import field_grid, sampled_points
from horefine.extractors.spread import spread_of
from horefine.geometry import matrix_to_axis_angle
from horefine.hand import HandModel, load_hand
from horefine.scene import Pose, PoseSpread

__all__ = ["Found", "HoisdfInitializer", "field_grids", "predict"]


@dataclass(frozen=True)
class Found:
    """Predictions for B crops, camera frame, metres."""

    hand_rotvec: Float[Tensor, "B 16 3"]
    hand_shape: Float[Tensor, "B 10"]
    wrist: Float[Tensor, "B 3"]
    voted_joints: Float[Tensor, "B 20 3"]
    """The joints but the wrist as the points vote for them."""
    object_rotation: Float[Tensor, "B 3 3"]
    object_center: Float[Tensor, "B 3"]
    """Centre of the object's box."""
    frame: Frame
    seen: Seen
    centers: tuple[Float[Tensor, "B 3"], Float[Tensor, "B 3"]]
    """About which the hand's and the object's field were asked, network frame."""
    spread: PoseSpread | None = None
    """How far off all this is to be expected."""

    def pose(self, hand: HandModel, object_box_center: Float[Tensor, "B 3"]) -> Pose:
        """As the rest of horefine wants it. ``object_box_center``: ``Mesh.center``, object frame."""
        rest = hand.rest_joints(self.hand_shape)[:, 0]
        offset = (self.object_rotation @ object_box_center[..., None])[..., 0]
        return Pose(
            self.hand_rotvec,
            self.hand_shape,
            self.wrist - rest,
            matrix_to_axis_angle(self.object_rotation),
            self.object_center - offset,
        )


@torch.no_grad()
def predict(
    model: Hoisdf,
    image: Float[Tensor, "B 3 S S"],
    matrix: Float[Tensor, "B 3 3"],
    side: int,
    extents: Float[Tensor, "B 3"] | None,
    known: KnownWrist | None = None,
) -> Found:
    """Runs the network on crops.

    Args:
        model: In eval mode, with a root head.
        image: sRGB, 0 to 1, at the network's size.
        matrix: Intrinsics of the crops counted in ``side`` pixels.
        extents: The objects' box sides, metres; a row of zeros where unknown.
        known: Of the wrists; taken instead of the root head's answer.
    """
    config = model.config
    frame = Frame.of(matrix, side, config.root)
    seen = model.see(image, extents, frame.focal)
    if seen.root is None:
        raise ValueError("this HOISDF has no root head: it needs the wrist's place, which pixels alone do not give it")
    centers = seen.root.points(frame, known)
    points = [
        sampled_points(
            config.sampling,
            lambda x, which=which, center=center: model.field(which, seen, x, center, frame.projection),
            center, config.scale, count,
        )
        for which, center, count in zip(
            ("hand", "object"), centers, (config.hand_points, config.object_points), strict=True
        )
    ]  # fmt: skip
    result = model.pose(seen, points[0], points[1], *centers)
    back = frame.rotation.mT
    rotations = result.rotations[-1]
    rotations = torch.cat([(back @ rotations[:, 0])[:, None], rotations[:, 1:]], 1)
    return Found(
        matrix_to_axis_angle(rotations),
        result.shape[-1],
        (back @ centers[0][..., None])[..., 0],
        (centers[0][:, None] + result.joints[-1]) @ back.mT,
        back @ result.object_rotation[-1],
        (back @ (centers[1] + result.object_center[-1])[..., None])[..., 0],
        frame,
        seen,
        centers,
        spread_of(result, centers[0], known),
    )


@torch.no_grad()
def field_grids(
    model: Hoisdf, found: Found, hand_points: Float[Tensor, "B V 3"], object_points: Float[Tensor, "B W 3"],
    resolution: int | None = None, margin: float = 0.025,
) -> tuple[DistanceGrid, DistanceGrid]:  # fmt: skip
    """The predicted fields as grids, camera frame, over the boxes of two sets of camera-frame points and a margin.

    ``resolution``: nodes along a side; default: the network's ``grid``.
    """
    resolution = model.config.grid if resolution is None else resolution

    def asked(which: str, center: Tensor) -> Callable[[Tensor], Tensor]:
        def distance(points: Tensor) -> Tensor:
            inside = points @ found.frame.rotation.mT
            return model.field(which, found.seen, inside, center, found.frame.projection).distance / model.config.scale

        return distance

    return tuple(
        field_grid(asked(which, center), points.amin(1) - margin, points.amax(1) + margin, resolution)
        for which, center, points in zip(("hand", "object"), found.centers, (hand_points, object_points), strict=True)
    )  # type: ignore[return-value]


class HoisdfInitializer:
    """First poses and distance fields of crops by HOISDF."""

    def __init__(self, device: str = "cpu", hand: HandModel | None = None, model: Hoisdf | None = None) -> None:
        """``model``: default is the compact network that comes with horefine."""
        self.device = device
        self.hand = hand if hand is not None else load_hand(kind="embedded")
        self.model: Hoisdf = (model or load_default("hoisdf")).to(device)  # type: ignore[assignment]

    @torch.no_grad()
    def initialize(self, crops: Sequence[Sample], fields: Sequence[str] = ()) -> tuple[Pose, dict[str, Any]]:
        """Poses of B crops (camera frame), their ``pose_spread``, and the named fields as grids about hand and object.

        Grids (``hand_sdf``, ``object_sdf``) take several times as long as the pose, so they are made only when named.

        The network knows the embedded hand's shapes; a user's MANO hand gets its own mean shape.
        """
        side = self.model.config.size
        camera, extents = map_camera(crops, side), extents_of(crops).to(self.device)
        image = pictures(crops, side).to(self.device)
        known = KnownWrist.of(crops, self.device)
        found = predict(self.model, image, camera.matrix.to(self.device), side, extents, known)
        if self.hand.name != "embedded":
            found = dataclasses.replace(found, hand_shape=torch.zeros_like(found.hand_shape))
        mesh, hand = mesh_of(crops).to(self.device), self.hand.to(self.device)
        pose = found.pose(hand, mesh.center)
        grids: dict[str, Any] = {}
        if fields:
            vertices = mesh.vertices @ found.object_rotation.mT + pose.object_transl[:, None]
            posed = hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).vertices
            hand_grid, object_grid = field_grids(self.model, found, posed, vertices)
            grids = {"hand_sdf": hand_grid.to("cpu"), "object_sdf": object_grid.to("cpu")}
        assert found.spread is not None
        told = {"pose_spread": found.spread.stack().cpu()}
        return pose.to("cpu"), told | {name: grids[name] for name in fields if name in grids}

    def extract(self, crops: Sequence[Sample], names: Sequence[str]) -> dict[str, Any]:
        """``hand_sdf`` and ``object_sdf`` as :meth:`initialize` gives them. ``pose_spread`` is None: it is asked for
        here when the pose came from elsewhere, and of that one nothing is known."""
        fields = [name for name in names if name != "pose_spread"]
        found = self.initialize(crops, fields)[1] if fields else {}
        return {name: found[name] if name in fields else None for name in names}
