"""Scenes posed and moved by kernels: what a second-order step asks of torch a hundred small operations for.

For single precision on the CPU, with nothing but the 67 numbers variable; elsewhere torch does it
(``HandModel.__call__``, ``Scene.place``, ``tangent.Tangent.move``, which are the readable twins).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from horefine import hand_kernels, iteration_kernels
from horefine.factors import chart_for
from horefine.hand import Hand
from horefine.hand_slopes import hand_lists
from horefine.losses.forms import array
from horefine.scene import Pose, Scene
from horefine.tangent import middles
from horefine.threads import over_items as over_images

__all__ = ["moved", "posed"]

_move: Any = iteration_kernels.move  # compiled: no type checker can count what a star stands for in their arguments
_pose: Any = hand_kernels.pose_hands
_place: Any = iteration_kernels.place_objects


def _plain(pose: Pose) -> bool:
    like, known = pose.hand_transl, pose.focal_factor is None and pose.object_scale is None
    return known and like.dtype == torch.float32 and like.device.type == "cpu"


def moved(scene: Scene, step: Float[Tensor, "B P"], variables: Sequence[str] = ()) -> Pose:
    """The pose reached from ``scene.pose`` by a step in the tangent chart (with a column for each variable)."""
    if variables or not _plain(scene.pose):
        return chart_for("tangent", variables).move(scene, step.to(scene.pose.hand_transl))
    numbers = [array(getattr(scene.pose, name)).copy() for name in Pose.names]
    middle, center = map(array, middles(scene))
    joints, delta = array(scene.hand.joints), array(step)

    def work(first: int, last: int) -> None:
        _move(first, last, True, delta, middle, joints, center, *numbers)

    over_images(work, len(delta))
    return Pose(*map(torch.from_numpy, numbers))


def posed(scene: Scene) -> Scene:
    """The same scene, with hand and object already posed (where cached properties look)."""
    if not _plain(scene.pose) or "hand" in scene.__dict__:
        return scene
    mesh, model = scene.features.object, scene.hand_model
    rotvec, shape, transl, turn, place = (array(getattr(scene.pose, name)) for name in Pose.names)
    points, box, tables = array(mesh.vertices), array(mesh.center), hand_lists(model).arrays
    batch, count = len(rotvec), len(model.template)

    def new(*size: int) -> np.ndarray:
        return np.empty((batch, *size), np.float32)

    turns, hand, joints, flat = new(16, 3, 3), new(count, 3), new(21, 3), new(count, 3)
    rest, turned, placed = np.empty((batch, 16, 3)), np.empty((batch, 16, 3, 3)), np.empty((batch, 16, 3))
    rotation, center, thing = new(3, 3), new(3), new(points.shape[1], 3)

    def work(first: int, last: int) -> None:
        _pose(first, last, rotvec, shape, transl, *tables, turns, hand, joints, flat, rest, turned, placed)
        _place(first, last, turn, place, points, box, rotation, center, thing)

    over_images(work, batch)
    frames = np.zeros((batch, 16, 4, 4), np.float32)
    frames[..., :3, :3], frames[..., :3, 3], frames[..., 3, 3] = turned, placed + transl[:, None], 1
    parts = Hand(*(torch.from_numpy(part) for part in (hand, joints, frames)))
    scene.__dict__.update(
        hand=parts, object_rotation=torch.from_numpy(rotation), object_center=torch.from_numpy(center),
        object=torch.from_numpy(thing),
    )  # fmt: skip
    return scene
