"""Left hands: the world in a mirror that flips x, where they are right hands.

A sample is mirrored once when it is cropped; its result is mirrored back on saving. Each function is its own inverse.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from horefine.data import Sample
from horefine.distance import DistanceGrid
from horefine.geometry import Box, mirror_rotvec
from horefine.mesh import Mesh
from horefine.scene import Features, Pose

__all__ = ["mirror_features", "mirror_mesh", "mirror_pose", "mirror_sample"]


def mirror_pose(pose: Pose) -> Pose:
    """The pose of the mirrored hand and the mirrored object (see :func:`mirror_mesh`)."""
    flip = pose.hand_transl.new_tensor([-1.0, 1.0, 1.0])
    return dataclasses.replace(
        pose,
        hand_rotvec=mirror_rotvec(pose.hand_rotvec),
        hand_transl=pose.hand_transl * flip,
        object_rotvec=mirror_rotvec(pose.object_rotvec),
        object_transl=pose.object_transl * flip,
    )


def mirror_mesh(mesh: Mesh) -> Mesh:
    """The objects with their own x axis flipped; faces turned, so that outward stays outward."""
    flip = mesh.vertices.new_tensor([-1.0, 1.0, 1.0])
    return Mesh(
        mesh.vertices * flip,
        mesh.faces[..., [0, 2, 1]],
        mesh.colors,
        mesh.name,
        mesh.counts,
        None if mesh.sdf is None else _mirror_grid(mesh.sdf),
        None if mesh.symmetries is None else _mirror_motions(mesh.symmetries),
    )


def _mirror_motions(motions: Tensor) -> Tensor:
    """Rigid motions "... 4 4" between two frames, seen in a mirror that flips the x of both."""
    flip = motions.new_tensor([-1.0, 1.0, 1.0, 1.0])
    return flip[:, None] * motions * flip


def mirror_sample(sample: Sample) -> Sample:
    """The photograph, its camera, boxes, depth, object and truth in the mirror; ``side`` is changed to the other."""
    width = sample.camera.size[1]
    return dataclasses.replace(
        sample,
        image=sample.image.flip(-1),
        camera=sample.camera.mirrored(),
        mesh=None if sample.mesh is None else mirror_mesh(sample.mesh),
        depth=None if sample.depth is None else sample.depth.flip(-1),
        side="left" if sample.side == "right" else "right",
        hand_box=_mirror_box(sample.hand_box, width),
        object_box=_mirror_box(sample.object_box, width),
        keypoints=None if sample.keypoints is None else _mirror_points(sample.keypoints, width),
        wrist=None if sample.wrist is None else _mirror_place(*sample.wrist),
        truth=None if sample.truth is None else mirror_pose(sample.truth),
        joints=None if sample.joints is None else sample.joints * sample.joints.new_tensor([-1.0, 1.0, 1.0]),
        object_truth=None if sample.object_truth is None else _mirror_motions(sample.object_truth),
        features=None if sample.features is None else mirror_features(sample.features),
    )


def mirror_features(features: Features) -> Features:
    """The maps in the mirror.

    The hand's codes stay: they are those of the right hand that the mirrored left one is. The object's codes follow
    its mirrored mesh: their x is one minus what it was.
    """

    def flip(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.flip(-1)

    coords = flip(features.object_coords)
    if coords is not None:
        shown = (coords != 0).any(1, keepdim=True)  # 0 where there is no object
        mirrored = torch.cat([1 - coords[:, :1], coords[:, 1:]], 1)
        coords = torch.where(shown, mirrored, coords)
    return dataclasses.replace(
        features,
        camera=features.camera.mirrored(),
        object=mirror_mesh(features.object),
        hand_mask=flip(features.hand_mask),
        object_mask=flip(features.object_mask),
        hand_coords=flip(features.hand_coords),
        object_coords=coords,
        depth=flip(features.depth),
        measured_depth=flip(features.measured_depth),
        image=flip(features.image),
        hand_confidence=flip(features.hand_confidence),
        object_confidence=flip(features.object_confidence),
        depth_confidence=flip(features.depth_confidence),
        hand_sdf=None if features.hand_sdf is None else _mirror_grid(features.hand_sdf),
        object_sdf=None if features.object_sdf is None else _mirror_grid(features.object_sdf),
    )


def _mirror_grid(grid: DistanceGrid) -> DistanceGrid:
    last = grid.origin[:, 0] + (grid.values.shape[1] - 1) * grid.spacing
    origin = torch.cat([-last[:, None], grid.origin[:, 1:]], 1)
    return DistanceGrid(grid.values.flip(1), origin, grid.spacing)


def _mirror_points(points: Tensor, width: int) -> Tensor:
    return torch.stack([width - 1 - points[:, 0], points[:, 1]], -1)


def _mirror_place(x: float | None, y: float | None, z: float) -> tuple[float | None, float | None, float]:
    return (None if x is None else -x), y, z


def _mirror_box(box: Box | None, width: int) -> Box | None:
    return None if box is None else (width - 1 - box[2], box[1], width - 1 - box[0], box[3])
