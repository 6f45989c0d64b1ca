"""gSDF's closed-form inverse kinematics (Chen et al., "gSDF: Geometry-Driven Signed Distance Functions for 3D
Hand-Object Reconstruction", CVPR 2023), as its official code computes it and, by choice, without that code's faults.

The wrist's rotation is that of an unweighted, uncentred Procrustes fit of the five knuckles; every finger joint then
swings its bone, without twist, towards the next joint, from where the *template's* bones put it. Our own closed form,
which knows twist, limits and missing joints, is :mod:`horefine.inverse_kinematics.closed_form`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from horefine.anatomy import FINGERS, JOINTS, ROTATIONS
from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from horefine.hand import HandModel
from horefine.inverse_kinematics.closed_form import flat_joints

__all__ = ["TRANSFORM_ORDER", "GsdfKinematics", "gsdf_kinematics", "gsdf_start"]

TRANSFORM_ORDER = ("wrist", *(f"{finger}{i}" for finger in FINGERS for i in (1, 2, 3)))
"""Order of the 16 transforms: fingers as in the house order of joints, not as in MANO's."""

_KNUCKLES = [JOINTS.index(f"{finger}1") for finger in FINGERS]
_TO_MANO = [TRANSFORM_ORDER.index(name) for name in ROTATIONS]
_EPSILON = 1e-7


@dataclass(frozen=True)
class GsdfKinematics:
    """What the formula finds. The wrist is at the origin."""

    rotvec: Float[Tensor, "B 16 3"]
    """Axis-angle, MANO's order, relative to the flat hand."""
    transforms: Float[Tensor, "B 16 4 4"]
    """Global rotation and position of the joints in ``TRANSFORM_ORDER``; positions are the template's bones turned."""
    valid: Bool[Tensor, "B"]
    """False: the knuckles are a reflection of the template's (with ``faults`` nothing is then rotated at all)."""


def gsdf_kinematics(
    joints: Float[Tensor, "B 21 3"], template: Float[Tensor, "21 3"], *, faults: bool = True
) -> GsdfKinematics:
    """Rotations of 21 joints by the formula of gSDF.

    Args:
        joints: House order, metres, any frame without reflection.
        template: Joints of the flat hand at zero shape, house order, metres.
        faults: As in the official code: reflections are answered by the flat, unrotated hand; 1e-7 in the divisions
            (it assumes metres, and changes results by about 1e-3); 1e-8 in the angle-axis numbers. False: the nearest
            proper rotation, and none of these. What cannot be had: for a batch of exactly three hands the official
            ``torch.cross`` runs along the batch; here it never does. Its test ``|det + 1| <= 1e-6`` lets some
            reflections through in single precision; here a determinant below zero is a reflection.
    """
    target, rest = joints - joints[:, :1], template - template[:1]
    wrist, valid = _palm(target, rest, proper=not faults)
    turned, placed, local = [wrist], [torch.zeros_like(target[:, 0])], [matrix_to_axis_angle(wrist)]
    epsilon, moves = (_EPSILON, valid) if faults else (0.0, torch.ones_like(valid))
    for finger in FINGERS:
        chain = [0, *(JOINTS.index(f"{finger}{i}") for i in (1, 2, 3, 4))]
        acc, position = wrist, torch.zeros_like(target[:, 0])
        for parent, own, child in zip(chain, chain[1:], chain[2:], strict=False):
            position = position + (acc @ (rest[own] - rest[parent])[:, None])[..., 0]
            wanted = (acc.mT @ (target[:, child] - position)[..., None])[..., 0]
            rotvec = _swing((rest[child] - rest[own]).expand_as(wanted), wanted, epsilon)
            rotvec = torch.where(moves[:, None], rotvec, torch.zeros_like(rotvec))
            acc = acc @ (_rodrigues(rotvec) if faults else axis_angle_to_matrix(rotvec))
            turned.append(acc)
            placed.append(position)
            local.append(rotvec)
    transforms = torch.eye(4, dtype=joints.dtype, device=joints.device).repeat(len(joints), 16, 1, 1)
    transforms[..., :3, :3], transforms[..., :3, 3] = torch.stack(turned, 1), torch.stack(placed, 1)
    return GsdfKinematics(torch.stack(local, 1)[:, _TO_MANO], transforms, valid)


def gsdf_start(
    joints: Float[Tensor, "B 21 3"], hand: HandModel, *, faults: bool
) -> tuple[Float[Tensor, "B 16 3"], Float[Tensor, "B 3"]]:
    """Rotations and translation by :func:`gsdf_kinematics`, with the wrist where it is given.

    The formula wants every joint: a missing one (NaN) is taken to be where the first joint is that is there.
    """
    given = joints.isfinite().all(-1)
    first = joints[torch.arange(len(joints)), given.float().argmax(1)].nan_to_num()
    whole = torch.where(given[..., None], joints, first[:, None])
    rest = flat_joints(hand).to(joints)
    return gsdf_kinematics(whole, rest, faults=faults).rotvec, whole[:, 0] - rest[0]


def _palm(
    target: Float[Tensor, "B 21 3"], rest: Float[Tensor, "21 3"], *, proper: bool
) -> tuple[Float[Tensor, "B 3 3"], Bool[Tensor, "B"]]:
    """The wrist's rotation, and whether the best orthogonal matrix is one."""
    moment = torch.einsum("ki,bkj->bij", rest[_KNUCKLES], target[:, _KNUCKLES])
    left, _, right = torch.linalg.svd(moment)
    valid = torch.linalg.det(right.mT @ left.mT) > 0
    if proper:
        flip = torch.ones_like(left[:, :, 0])
        flip[:, 2] = torch.where(valid, 1.0, -1.0)
        return right.mT @ (flip[:, :, None] * left.mT), valid
    eye = torch.eye(3, dtype=target.dtype, device=target.device)
    return torch.where(valid[:, None, None], right.mT @ left.mT, eye), valid


def _swing(bone: Float[Tensor, "B 3"], wanted: Float[Tensor, "B 3"], epsilon: float) -> Float[Tensor, "B 3"]:
    """The smallest turn from one direction to the other; none where either has no length."""
    least = epsilon or torch.finfo(bone.dtype).tiny
    cross = torch.linalg.cross(bone, wanted)
    sine = cross.norm(dim=-1, keepdim=True)
    axis = cross / (sine + least)
    if not epsilon:  # exact at 0 and at half a turn too, where the arc cosine loses half its digits
        return axis * torch.atan2(sine, (bone * wanted).sum(-1, keepdim=True))
    lengths = (bone.norm(dim=-1) + epsilon, wanted.norm(dim=-1) + epsilon)
    cosine = ((bone * wanted).sum(-1) / lengths[0] / lengths[1]).clamp(-1 + epsilon, 1 - epsilon)
    return axis * torch.acos(cosine)[:, None]


def _rodrigues(rotvec: Float[Tensor, "B 3"]) -> Float[Tensor, "B 3 3"]:
    """The rotation as the official MANO layer has it: the angle is the length of the axis-angle numbers plus 1e-8."""
    angle = (rotvec + 1e-8).norm(dim=-1, keepdim=True)
    half = torch.cat([(angle / 2).cos(), (angle / 2).sin() * rotvec / angle], -1)
    w, x, y, z = (half / half.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (w * y + x * z),
        2 * (w * z + x * y), w * w - x * x + y * y - z * z, 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (w * x + y * z), w * w - x * x - y * y + z * z,
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))
