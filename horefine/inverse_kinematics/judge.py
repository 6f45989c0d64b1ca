"""Whether there is a hand in given joints, of the side and in the order that was said: by what else they may show."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float

from horefine.anatomy import JOINT_ORDERS, JOINTS
from horefine.hand import HandModel
from horefine.inverse_kinematics.closed_form import closed_form
from horefine.inverse_kinematics.fit import Fit, fit_joints
from horefine.inverse_kinematics.given import Given
from horefine.inverse_kinematics.gsdf import gsdf_start

__all__ = ["STARTS", "fit_given", "judge"]

STARTS = {
    "anatomical": closed_form,
    "gsdf": functools.partial(gsdf_start, faults=False),
    "gsdf_official": functools.partial(gsdf_start, faults=True),
}
"""Closed forms by name: ours; gSDF's formula; the same with the faults of its code."""

_MARGIN = 8.0
"""The joints show something else when that is exp(8), 3000 times, as likely."""
_DOUBT, _STRANGE = 0.01, 0.03
"""Noise, metres, beyond which other orders are tried; beyond which the joints show no hand that the model knows."""
_FEW = 15
"""Steps of a fit that is only held against another: where it is the right one, it needs no more."""
_ASTRAY = (5.0, 0.02)
"""A joint that is so many times the noise, and metres, from where a hand would have it is named."""


def fit_given(given: Given, hand: HandModel, steps: int, start: str = "anatomical") -> Fit:
    """The closed form, refined.

    Args:
        hand: of ``fit.joint_hand``.
        start: a key of :data:`STARTS`.
    """
    rotvec, transl = STARTS[start](given.joints, hand)
    joints = given.joints.nan_to_num()
    return fit_joints(rotvec, transl, joints, given.confidence, hand, sigma=given.sigma, steps=steps)


def judge(
    given: Given, fit: Fit, hand: HandModel, steps: int
) -> tuple[Bool[np.ndarray, "B"], Bool[np.ndarray, "B"], tuple[tuple[str, ...], ...]]:
    """Which joints are those of a hand of the other side, which fits are of use, and what there is to say of each.

    The likelihood of the fit is held against that of a fit to the mirrored joints and, where neither is good, to the
    joints in other orders.
    """
    possible = np.array([problem is None for problem in given.problems], dtype=bool)
    mirror = given.joints.new_tensor([-1.0, 1.0, 1.0])
    other = fit_given(replace(given, joints=given.joints * mirror), hand, min(steps, _FEW))
    doubtful = possible & (np.minimum(fit.sigma, other.sigma) > _DOUBT)
    orders = _order_shown(given, np.minimum(fit.surprise, other.surprise), doubtful, hand, steps)
    known = np.array([order is None for order in orders], dtype=bool)
    mirrored = possible & known & (fit.surprise - other.surprise > _MARGIN)
    strange = possible & known & ~mirrored & (fit.sigma > _STRANGE)
    away = np.linalg.norm(fit.joints - given.joints.numpy(), axis=-1)
    opposite = "left" if given.side == "right" else "right"
    notes = []
    for i, problem in enumerate(given.problems):
        if problem is not None:
            said = [problem]
        elif orders[i] is not None:
            said = [f"the joints are in another order, that of {orders[i]!r} it seems: give joint_order"]
        elif mirrored[i]:
            said = [f"the joints are those of a {opposite} hand, not of a {given.side} one: give the other side"]
        elif strange[i]:
            said = [f"no hand has its joints like this: they lie {fit.sigma[i] * 1000:.0f} mm off; in another order?"]
        else:
            said = _astray(away[i], fit.sigma[i])
        notes.append((*said, *given.notes[i]))
    return mirrored, possible & known & ~mirrored & ~strange, tuple(notes)


def _order_shown(
    given: Given, surprise: Float[np.ndarray, "B"], rows: Bool[np.ndarray, "B"], hand: HandModel, steps: int
) -> list[str | None]:
    """The order that the joints of doubtful hands seem to be in, if it is another than that given."""
    shown: list[str | None] = [None] * len(rows)
    least, where = surprise - _MARGIN, np.flatnonzero(rows)
    if not len(where):
        return shown
    places = [JOINTS.index(name) for name in given.order]
    for order in dict.fromkeys(JOINT_ORDERS.values()):
        if order == given.order:
            continue
        back = [places[order.index(name)] for name in JOINTS]
        chosen = torch.from_numpy(where)
        part = replace(given, joints=given.joints[chosen][:, back], confidence=given.confidence[chosen][:, back])
        found = fit_given(part, hand, min(steps, _FEW)).surprise
        for i, value in zip(where, found, strict=True):
            if value < least[i]:
                least[i], shown[i] = value, next(name for name, one in JOINT_ORDERS.items() if one == order)
    return shown


def _astray(away: Float[np.ndarray, "21"], sigma: float) -> list[str]:
    """Joints that the fit does not believe."""
    far = np.flatnonzero(away > max(_ASTRAY[0] * sigma, _ASTRAY[1]))
    return [f"{JOINTS[i]} lies {away[i] * 1000:.0f} mm off the hand and counts little" for i in far]
