"""Joints from anywhere become a hand's pose: a closed form, then the likeliest hand of the model.

>>> from horefine import joints_to_pose
>>> found = joints_to_pose(joints, order="openpose")  # 21 x 3, metres  # doctest: +SKIP
>>> found.pose(object_rotvec, object_transl)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from torch import Tensor

from horefine.anatomy import FINGERS, JOINTS
from horefine.errors import InputError, suggestion
from horefine.geometry import matrix_to_axis_angle
from horefine.hand import HandModel, load_hand
from horefine.inverse_kinematics.closed_form import closed_form
from horefine.inverse_kinematics.fit import joint_hand
from horefine.inverse_kinematics.given import ALIASES, read_joints
from horefine.inverse_kinematics.gsdf import GsdfKinematics, gsdf_kinematics
from horefine.inverse_kinematics.judge import STARTS, fit_given, judge
from horefine.scene import Pose

__all__ = ["ALIASES", "GsdfKinematics", "HandFit", "closed_form", "gsdf_kinematics", "joints_to_pose"]

_AROUND = [JOINTS.index(f"{finger}{i}") for finger in FINGERS for i in (1, 4)]


@dataclass(frozen=True)
class HandFit:
    """Hands that show given joints, B of them; always finite. Those of left hands are in the mirror (x flipped)."""

    rotvec: Float[Tensor, "B 16 3"]
    """As ``Pose.hand_rotvec``."""
    shape: Float[Tensor, "B 10"]
    transl: Float[Tensor, "B 3"]
    joints: Float[Tensor, "B 21 3"]
    """Of the hands found, house order."""
    residual: Float[Tensor, "B 21"]
    """How far the given joints are from them, metres; NaN where none was given."""
    sigma: Float[Tensor, "B"]
    """Spread of the given joints about the hand, in each direction, metres: found, or as given."""
    mirrored: Bool[Tensor, "B"]
    """The joints are those of a hand of the other side; this fit is of no use."""
    usable: Bool[Tensor, "B"]
    """There is a hand of this side in the joints."""
    notes: tuple[tuple[str, ...], ...]
    """What there is to say of each hand; why it is not usable comes first."""

    def pose(
        self, object_rotvec: Float[Tensor, "B 3"] | None = None, object_transl: Float[Tensor, "B 3"] | None = None
    ) -> Pose:
        """The hands with their objects; an object that is not given lies unturned between palm and fingertips."""
        turn = torch.zeros_like(self.transl) if object_rotvec is None else object_rotvec
        place = self.joints[:, _AROUND].mean(1) if object_transl is None else object_transl
        return Pose(self.rotvec, self.shape, self.transl, turn, place)


def joints_to_pose(
    joints: ArrayLike | Tensor,
    hand: HandModel | None = None,
    *,
    order: str | Sequence[str] = "house",
    side: str = "right",
    confidence: ArrayLike | Tensor | None = None,
    sigma: ArrayLike | Tensor | None = None,
    start: str = "anatomical",
    steps: int = 50,
) -> HandFit:
    """The hands that show given joints: a closed form, then the likeliest rotations, shape and place.

    The joints may be noisy, incomplete or impossible; what comes out is a hand, and ``usable`` and ``notes`` say what
    to think of it. See ``inverse_kinematics.fit`` for what is minimised.

    Args:
        joints: "B 21 3" or "21 3", metres, OpenCV camera frame (or any other that is no mirror); NaN where missing.
        hand: default: ``load_hand()``.
        order: name of an order of joints (``anatomy.JOINT_ORDERS``, ``inverse_kinematics.ALIASES``), or 21 names.
        side: of a left hand x is flipped first; what comes out is in that mirror, as everywhere in horefine.
        confidence: 0 to 1 for each joint, "21" or "B 21": multiplies its squared error; 0 leaves it out.
        sigma: spread of the joints in each direction, metres: one number, "21" or "B 21". Default: found for each hand.
        start: the closed form: ``anatomical`` (ours), ``gsdf`` (gSDF's formula), ``gsdf_official`` (with its faults).
        steps: of the refinement, at most; 0: the closed form alone, whose ``sigma`` says nothing.

    Raises:
        InputError: another shape, number or unit than said; unknown order, side or start; nothing but NaN.
    """
    hand = load_hand() if hand is None else hand
    if start not in STARTS:
        raise InputError(f"start: {start!r}{suggestion(start, STARTS)}")
    given = read_joints(joints, hand, order, side, confidence, sigma)
    fit = fit_given(given, joint_hand(hand), steps, start)
    mirrored, usable, notes = judge(given, fit, joint_hand(hand), steps)
    like = joints if isinstance(joints, Tensor) and joints.is_floating_point() else torch.zeros(())

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device=like.device, dtype=like.dtype)

    return HandFit(
        matrix_to_axis_angle(torch.from_numpy(fit.turns)).to(like),
        tensor(fit.shape),
        tensor(fit.transl),
        tensor(fit.joints),
        tensor(np.linalg.norm(fit.joints - given.joints.numpy(), axis=-1)),
        tensor(fit.sigma),
        torch.from_numpy(mirrored).to(like.device),
        torch.from_numpy(usable).to(like.device),
        notes,
    )
