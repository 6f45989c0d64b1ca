"""The frames of a clip as points that move: which second differences there are, and what they say of each frame.

Frames may be missing and unevenly spaced: the acceleration at ``t1`` between ``t0`` and ``t2`` is the second divided
difference ``c0 x0 + c1 x1 + c2 x2`` with ``c0 = 2 / ((t1 - t0)(t2 - t0))``, ``c1 = -2 / ((t1 - t0)(t2 - t1))`` and
``c2 = 2 / ((t2 - t1)(t2 - t0))``. Over a gap it is the acceleration of the wider frames.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from horefine.hand import HandModel
from horefine.mesh import Mesh
from horefine.scene import Neighbours, Pose

__all__ = ["blend", "bridged", "level_of", "neighbours_of", "second_differences"]

LEAST, UNKNOWN = 0.1, 0.5
"""Of :func:`level_of`, m / s^2: no clip is taken to accelerate less; what is taken where there are too few frames."""


def second_differences(
    times: Float[Tensor, "T"], used: Bool[Tensor, "T"], stride: int = 1
) -> tuple[Int[Tensor, "S 3"], Float[Tensor, "S 3"]]:
    """Every three used frames that follow one another (``stride`` apart), and their coefficients, 1 / s^2."""
    frames = used.nonzero().flatten()
    count = max(len(frames) - 2 * stride, 0)
    three = torch.stack([frames[k * stride :][:count] for k in range(3)], 1)
    t0, t1, t2 = times[three].unbind(1)
    coefficients = [2 / ((t1 - t0) * (t2 - t0)), -2 / ((t1 - t0) * (t2 - t1)), 2 / ((t2 - t1) * (t2 - t0))]
    return three, torch.stack(coefficients, 1)


def level_of(points: Float[Tensor, "T N 3"], times: Float[Tensor, "T"], used: Bool[Tensor, "T"]) -> float:
    """How much a coordinate accelerates, root mean square, m / s^2, without what the noise of single frames adds.

    That noise, independent from frame to frame, is in a second difference with the sum of its coefficients' squares:
    over frames twice or three times as far apart it is 16 or 81 times less, and the motion's own part the same as long
    as the motion is smooth. Two strides tell the two apart. Medians over the frames: a few wrong ones do not count.
    """
    found = []
    for stride in (1, 2, 3):
        three, coefficients = second_differences(times, used, stride)
        if len(three) >= 3:
            bend = (coefficients[:, :, None, None] * points[three]).sum(1).square().mean((1, 2)).median()
            found.append((float(bend), float(coefficients.square().sum(1).median())))
    if len(found) < 2:
        return UNKNOWN
    (near, near_noise), (far, far_noise) = found[0], found[-1]
    square = (near_noise * far - far_noise * near) / (near_noise - far_noise)
    return max(square, 0.0) ** 0.5 + LEAST


def neighbours_of(
    joints: Float[Tensor, "T 21 3"],
    corners: Float[Tensor, "T 8 3"],
    times: Float[Tensor, "T"],
    used: Bool[Tensor, "T"],
) -> Neighbours:
    """What the other frames say of each: where its points would have no acceleration in each second difference.

    Args:
        times: seconds, ascending.
        used: frames whose poses are worth something; the others are bridged, and told nothing.
    """
    three, coefficients = second_differences(times, used)
    points = torch.cat([joints, corners], 1)
    expected, rate = points[:, None].repeat(1, 3, 1, 1), times.new_zeros(len(times), 3)
    for place in range(3):
        others = [k for k in range(3) if k != place]
        pull = (coefficients[:, others, None, None] * points[three[:, others]]).sum(1)
        own = coefficients[:, place]
        expected[three[:, place], place] = -pull / own[:, None, None]
        rate[three[:, place], place] = own.abs()
    level = points.new_tensor([level_of(part, times, used) for part in (joints, corners)])
    return Neighbours(expected[:, :, :21], expected[:, :, 21:], rate, level.expand(len(times), 2))


def blend(model: HandModel, mesh: Mesh, before: Pose, after: Pose, share: Float[Tensor, "B"]) -> Pose:
    """Poses between two: each rotation along the shortest turn, wrist and centre of the object along the straight line.

    Args:
        mesh: of the B poses.
        share: 0 is ``before``, 1 is ``after``.
    """
    turns = [torch.cat([p.hand_rotvec, p.object_rotvec[:, None]], 1) for p in (before, after)]
    start, end = (axis_angle_to_matrix(turn) for turn in turns)
    way = matrix_to_axis_angle(start.mT @ end) * share[:, None, None]
    rotvec = matrix_to_axis_angle(start @ axis_angle_to_matrix(way))

    def between(a: Tensor, b: Tensor) -> Tensor:
        return torch.lerp(a, b, share.view(-1, *(1,) * (a.dim() - 1)))

    shape = between(before.hand_shape, after.hand_shape)
    wrist = between(*(p.hand_transl + model.rest_joints(p.hand_shape)[:, 0] for p in (before, after)))
    centre = between(*(p.place(mesh.center[:, None])[:, 0] for p in (before, after)))
    found = Pose(rotvec[:, :16], shape, wrist - model.rest_joints(shape)[:, 0], rotvec[:, 16], torch.zeros_like(centre))
    names = [name for name, _ in before.items() if name not in Pose.names]
    found = (
        found.like(value for _, value in found.items())
        if not names
        else Pose(
            **dict(found.items()), **{name: between(getattr(before, name), getattr(after, name)) for name in names}
        )
    )
    moved = centre - found.place(mesh.center[:, None])[:, 0]
    return Pose(**(dict(found.items()) | {"object_transl": moved}))


def bridged(model: HandModel, mesh: Mesh, pose: Pose, times: Float[Tensor, "T"], used: Bool[Tensor, "T"]) -> Pose:
    """The poses, those of frames that are not used taken from the used ones before and after (or the nearest one)."""
    frames = used.nonzero().flatten()
    if not len(frames) or used.all():
        return pose
    place = torch.searchsorted(frames, torch.arange(len(times)))
    before, after = frames[(place - 1).clamp(min=0)], frames[place.clamp(max=len(frames) - 1)]
    before = torch.where(place == 0, after, before)
    span = (times[after] - times[before]).clamp(min=1e-9)
    share = ((times - times[before]) / span).clamp(0, 1)
    share = torch.where(used, torch.ones_like(share), share)
    return blend(model, mesh, pose[before], pose[after], share)
