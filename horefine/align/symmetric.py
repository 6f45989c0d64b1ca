"""Which of a symmetric object's equal orientations the dense map means.

The codes of a symmetric object tell its sides apart though nothing on it does: a map may have been made with another of
its symmetric poses than the one refinement begins from, and codes half a turn away pull in vain. Any of these poses
is right, so before anything is refined the start is turned to the one whose codes agree best.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle, project
from horefine.hand import HandModel
from horefine.losses.pairs import find_surface_pairs, named_points
from horefine.scene import Features, Pose

__all__ = ["align_symmetric", "followed"]

LEAST = 10
"""An object seen in fewer pixels of its map keeps its orientation."""
MOST = 200
CODE = 0.1
"""A pixel whose code is farther than this from the surface is not used."""
BETTER = 0.98
"""Another orientation is taken where it costs less than this share of the given one."""


def followed(pose: Pose, motion: Float[Tensor, "B 4 4"]) -> Pose:
    """The pose with the object moved by ``motion`` in its own frame first: ``X_cam = R (S X) + t``."""
    rotation = axis_angle_to_matrix(pose.object_rotvec)
    shift = pose.sized(motion[:, None, :3, 3]) @ rotation.mT
    turn = matrix_to_axis_angle(rotation @ motion[:, :3, :3])
    return dataclasses.replace(pose, object_rotvec=turn, object_transl=pose.object_transl + shift[:, 0])


@torch.no_grad()
def align_symmetric(pose: Pose, features: Features, hand_model: HandModel) -> Pose:
    """B poses with each object in that of its symmetric orientations which its dense map shows.

    The mean distance in the picture between the points that the map's pixels name and those pixels, about their common
    middle (a start may lie centimetres off). Objects without symmetries, and images without the maps, stay.
    """
    masks, symmetries = (features.hand_mask, features.object_mask), features.object.symmetries
    codes = features.hand_coords, features.object_coords
    if symmetries is None or masks[0] is None or masks[1] is None or codes[0] is None or codes[1] is None:
        return pose
    pairs = find_surface_pairs(hand_model, features.object, masks[0], masks[1], codes[0], codes[1], max_pixels=MOST)
    points = named_points(features.object.vertices, pairs, 1)
    weight = pairs.valid[:, 1] * (pairs.distance[:, 1] < CODE)
    chosen = symmetries[:, 0].clone()
    for image in range(len(pose)):
        used = weight[image] > 0
        if int(used.sum()) < LEAST:
            continue
        own, motions = pose[image], symmetries[image]
        moved = points[image, used] @ motions[:, :3, :3].mT + motions[:, None, :3, 3]
        placed = own.seen(own.place(moved.flatten(0, 1)[None]))
        pixels = project(placed, features.camera.matrix[image : image + 1])[0].unflatten(0, moved.shape[:2])
        away = pixels - pairs.pixel[image, 1, used]
        cost = (away - away.mean(1, keepdim=True)).norm(dim=-1).mean(1)
        best = int(cost.argmin())
        if cost[best] < BETTER * cost[0]:
            chosen[image] = motions[best]
    return followed(pose, chosen)
