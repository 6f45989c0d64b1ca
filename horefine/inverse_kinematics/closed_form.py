"""The start of :func:`horefine.joints_to_pose`: rotations of 21 joints in closed form, nothing is iterated.

The palm's frame is the proper rotation that fits wrist and knuckles best (Kabsch 1976; Umeyama 1991 for the sign);
then, from the knuckles outwards, splay and bend of every joint turn its bone towards the next joint as seen. Twist,
which points on the bones' axes do not show, stays that of the relaxed hand, and every angle stays within the hand's
limits. What is not there (a missing joint, a bone without length) leaves its joint relaxed.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from horefine.anatomy import FINGERS, JOINTS, ROTATIONS, anatomy_angles, compose_angles, convert_joints
from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from horefine.hand import HandModel

__all__ = ["closed_form", "flat_joints"]

_PALM = [0, *(JOINTS.index(f"{finger}1") for finger in FINGERS)]
_NARROW = 0.01
"""A palm whose joints spread less than this across its longest direction (root mean square, metres) tells no frame."""
_SHORT = 1e-4
"""A bone shorter than this, metres, has no direction."""


def flat_joints(hand: HandModel) -> Float[Tensor, "21 3"]:
    """Joints of the flat hand at zero shape, house order."""
    return convert_joints(torch.cat([hand.flat_joints, hand.template[hand.tips]]), "mano")


def closed_form(
    joints: Float[Tensor, "B 21 3"], hand: HandModel
) -> tuple[Float[Tensor, "B 16 3"], Float[Tensor, "B 3"]]:
    """Rotations (axis-angle, MANO's order) and translation of the hand of zero shape that shows these joints.

    Args:
        joints: House order, metres; NaN where missing. A right hand's.
    """
    given = joints.isfinite().all(-1)
    joints = torch.where(given[..., None], joints, torch.zeros_like(joints))
    rest = flat_joints(hand).to(joints)
    wrist, transl = _palm(joints, given, rest, hand)
    axes, limits = hand.axes.to(joints), hand.limits.to(joints)
    relaxed = anatomy_angles(axis_angle_to_matrix(hand.mean_rotvec.to(joints)), axes)
    angles = relaxed.repeat(len(joints), 1, 1)
    global_turn = wrist[:, None].expand(-1, 5, 3, 3)
    for level in (1, 2, 3):
        own = [JOINTS.index(f"{finger}{level}") for finger in FINGERS]
        turn = [ROTATIONS.index(f"{finger}{level}") for finger in FINGERS]
        child = [i + 1 for i in own]
        frame = global_turn @ axes[turn]
        wanted = (frame.mT @ (joints[:, child] - joints[:, own])[..., None])[..., 0]
        bone = (axes[turn].mT @ (rest[child] - rest[own])[..., None])[..., 0]
        low, high = limits[[i - 1 for i in turn]].unbind(-1)
        found = _bent(bone, wanted, relaxed[turn], low, high)
        seen = given[:, own] & given[:, child] & (wanted.norm(dim=-1) > _SHORT)
        angles[:, turn] = torch.where(seen[..., None], found, relaxed[turn])
        global_turn = global_turn @ axis_angle_to_matrix(compose_angles(angles, axes))[:, turn]
    rotvec = compose_angles(angles, axes)
    rotvec[:, 0] = matrix_to_axis_angle(wrist)
    return rotvec, transl


def _palm(
    joints: Float[Tensor, "B 21 3"], given: Bool[Tensor, "B 21"], rest: Float[Tensor, "21 3"], hand: HandModel
) -> tuple[Float[Tensor, "B 3 3"], Float[Tensor, "B 3"]]:
    """Rotation of the wrist, and translation: of the palm's joints, or of all where those tell too little."""
    relaxed = hand(hand.mean_rotvec[None], torch.zeros_like(hand.template[:1, :1]).expand(1, 10), hand.template[:1] * 0)
    palm = torch.zeros_like(given)
    palm[:, _PALM] = given[:, _PALM]
    turn, transl, across = _procrustes(rest.expand_as(joints), joints, palm)
    other = _procrustes(relaxed.joints.to(joints).expand_as(joints), joints, given)
    enough = across > _NARROW
    return torch.where(enough[:, None, None], turn, other[0]), torch.where(enough[:, None], transl, other[1])


def _procrustes(
    source: Float[Tensor, "B N 3"], target: Float[Tensor, "B N 3"], used: Bool[Tensor, "B N"]
) -> tuple[Float[Tensor, "B 3 3"], Float[Tensor, "B 3"], Float[Tensor, "B"]]:
    """Proper rotation about ``source[:, 0]`` and translation that take source to target; second spread of the target.

    Always a rotation: of the identity's kind where the points say nothing.
    """
    weight = used[..., None].to(source)
    total = weight.sum(1).clamp_min(1.0)
    a, b = (weight * source).sum(1) / total, (weight * target).sum(1) / total
    from_, to = weight * (source - a[:, None]), weight * (target - b[:, None])
    left, _, right = torch.linalg.svd(from_.mT @ to)
    flip = torch.ones_like(a)
    flip[:, 2] = torch.linalg.det(right.mT @ left.mT).sign()
    turn = right.mT @ (flip[:, :, None] * left.mT)
    spread = torch.linalg.svdvals(to)[:, 1] / total[:, 0].sqrt()
    arm = (turn @ (a - source[:, 0])[..., None])[..., 0]
    return turn, b - arm - source[:, 0], spread


def _bent(
    bone: Float[Tensor, "5 3"],
    wanted: Float[Tensor, "B 5 3"],
    relaxed: Float[Tensor, "5 3"],
    low: Float[Tensor, "5 3"],
    high: Float[Tensor, "5 3"],
) -> Float[Tensor, "B 5 3"]:
    """Twist, splay and bend that turn ``bone`` to the direction ``wanted`` (both along the joint's b, u, l).

    ``Rx(twist) Ry(splay) Rz(bend) bone = wanted`` with the relaxed twist: of the two splays that lift the bone's l
    component to that wanted, the one nearer to the relaxed splay, within limits; then the bend that comes nearest.
    """
    twist = relaxed[:, 0]
    x, y, z = torch.nn.functional.normalize(wanted, dim=-1, eps=1e-12).unbind(-1)
    y, z = twist.cos() * y + twist.sin() * z, twist.cos() * z - twist.sin() * y
    along, up, side = torch.nn.functional.normalize(bone, dim=-1, eps=1e-12).unbind(-1)
    across = torch.atan2(x, z)
    reach = torch.acos((side / torch.hypot(x, z).clamp_min(1e-9)).clamp(-1, 1))
    both = torch.stack([_wrapped(across + reach - relaxed[:, 1]), _wrapped(across - reach - relaxed[:, 1])])
    nearer = both.gather(0, both.abs().argmin(0, keepdim=True))[0] + relaxed[:, 1]
    splay = torch.maximum(torch.minimum(nearer, high[:, 1]), low[:, 1])
    bend = torch.atan2(y, splay.cos() * x - splay.sin() * z) - torch.atan2(up, along)
    bend = relaxed[:, 2] + _wrapped(bend - relaxed[:, 2])
    bend = torch.maximum(torch.minimum(bend, high[:, 2]), low[:, 2])
    return torch.stack([twist.expand_as(bend), splay, bend], -1)


def _wrapped(angle: Tensor) -> Tensor:
    """Between minus and plus half a turn."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
