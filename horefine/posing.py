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

from horefine import iteration_kernels
from horefine.factors import chart_for
from horefine.fused import Posed
from horefine.hand import Hand
from horefine.hand_slopes import HandPoser
from horefine.losses.forms import array
from horefine.render.cpu import _over_items as over_images
from horefine.scene import Pose, Scene
from horefine.tangent import middles

__all__ = ["moved", "posed"]

_move: Any = iteration_kernels.move  # compiled: no type checker can count what a star stands for in their arguments
_place: Any = iteration_kernels.place_objects


def _plain(pose: Pose) -> bool:
    like = pose.hand_transl
    return like.dtype == torch.float32 and like.device.type == "cpu" and len(list(pose.items())) == len(Pose.names)


def moved(scene: Scene, step: Float[Tensor, "B P"], variables: Sequence[str] = ()) -> Pose:
    """The pose reached from ``scene.pose`` by a step in the tangent chart (with a column for each variable)."""
    if variables or not _plain(scene.pose):
        return chart_for("tangent", variables).move(scene, step.to(scene.pose.hand_transl))
    pose = scene.pose.map(lambda value: value.detach().clone(memory_format=torch.contiguous_format))
    numbers = [value.numpy() for _, value in pose.items()]
    middle, center = map(array, middles(scene))
    joints, delta = array(scene.hand.joints), array(step)

    def work(first: int, last: int) -> None:
        _move(first, last, True, delta, middle, joints, center, *numbers)

    over_images(work, len(pose))
    return pose


def posed(scene: Scene) -> Scene:
    """The same scene, with hand and object already posed (where cached properties look)."""
    if not _plain(scene.pose) or "hand" in scene.__dict__:
        return scene
    pose, mesh, model = scene.pose, scene.features.object, scene.hand_model
    batch, count = len(pose), len(model.template)
    out, poser = Posed.empty(batch, count, mesh.vertices.shape[1], (0, 0)), HandPoser.of(model, batch)
    numbers = {name: array(value) for name, value in pose.items()}
    rotvec, shape, transl = (numbers[name] for name in Pose.names[:3])
    rigid = [numbers[name] for name in Pose.names[3:]]
    points, box = array(mesh.vertices), array(mesh.center)
    for name, value in zip(("rotvec", "shape", "transl"), (rotvec, shape, transl), strict=True):
        getattr(out, name)[:] = value

    def work(first: int, last: int) -> None:
        poser.pose(out, first, last)
        _place(first, last, *rigid, points, box, out.object_turn, out.object_center, out.object)

    over_images(work, batch)
    frames = np.zeros((batch, 16, 4, 4), np.float32)
    frames[..., :3, :3], frames[..., :3, 3], frames[..., 3, 3] = poser.turned, poser.placed + transl[:, None], 1
    hand = Hand(*(torch.from_numpy(part) for part in (out.hand, out.joints, frames)))
    rotation, center, thing = map(torch.from_numpy, (out.object_turn, out.object_center, out.object))
    scene.__dict__.update(hand=hand, object_rotation=rotation, object_center=center, object=thing)
    return scene
