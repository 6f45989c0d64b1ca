"""Joints as they come from other systems: order, side, unit, gaps and confidences, checked at the door."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from horefine.anatomy import JOINT_ORDERS, JOINTS
from horefine.errors import InputError, suggestion
from horefine.hand import HandModel
from horefine.inverse_kinematics.closed_form import flat_joints

__all__ = ["ALIASES", "Given", "joint_order", "read_joints"]

ALIASES = dict.fromkeys(("openpose", "mediapipe", "coco_wholebody", "hamer", "wilor"), "house") | {"smplx": "mano"}
"""Orders that other systems share with one of ``anatomy.JOINT_ORDERS``."""

_LEAST = 4
"""Joints that a hand needs."""
_NARROW = 0.01
"""Spread (root mean square) across their longest direction below which joints show no orientation, metres."""
_OTHER_UNIT = 20.0
"""A hand so many times too large (or small) is given in another unit."""
_USUAL = (0.7, 1.4)
"""Size of grown-up hands, and some of children's, over the model's."""
_POSSIBLE = (0.5, 2.0)
_LONG = 0.06
"""Metres; shorter bones are not measured where longer ones are there: noise makes them longer."""
_BONES = [(JOINTS[i], JOINTS[0 if i % 4 == 1 else i - 1]) for i in range(1, 21)]


@dataclass(frozen=True)
class Given:
    """The joints of B hands as the fit wants them: right hands', house order, metres."""

    joints: Float[Tensor, "B 21 3"]
    """Double; NaN where missing."""
    order: tuple[str, ...]
    """In which they came."""
    side: str
    confidence: Float[Tensor, "B 21"]
    """Of a joint's square, relative to ``sigma``; 0 where missing."""
    sigma: float | None
    """Metres; None: to be found."""
    problems: tuple[str | None, ...]
    """Why there is no hand in the joints."""
    notes: tuple[tuple[str, ...], ...]


def read_joints(
    joints: ArrayLike | Tensor,
    hand: HandModel,
    order: str | Sequence[str],
    side: str,
    confidence: ArrayLike | Tensor | None,
    sigma: ArrayLike | Tensor | None,
) -> Given:
    """See :func:`horefine.joints_to_pose`.

    Raises:
        InputError: another shape than (B, 21, 3); no number anywhere; another unit than metres; an unknown order or
            side; confidences or sigmas of another shape or range.
    """
    values = _numbers(joints, "joints")
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[1:] != (21, 3):
        hint = "; for points in the picture see the sidecar's key 'keypoints'" if values.shape[-1:] == (2,) else ""
        raise InputError(f"joints: shape {_numbers(joints, 'joints').shape}; expected (21, 3) or (B, 21, 3){hint}")
    if side not in ("right", "left"):
        raise InputError(f"side: {side!r}; known: right, left")
    names = joint_order(order)
    places = [names.index(name) for name in JOINTS]
    there = np.asarray(np.isfinite(values).all(-1))
    if values.size and not there.any():
        raise InputError("joints: every joint has a NaN or infinite number; leave the hand out")
    trust, noise = _trust(confidence, sigma, there)
    values = np.where((there & (trust > 0))[..., None], values, np.nan)[:, places]
    ordered = torch.from_numpy(values)
    if side == "left":
        ordered = ordered * ordered.new_tensor([-1.0, 1.0, 1.0])
    there, trust = there[:, places], trust[:, places]
    problems, notes = _look(ordered.numpy(), flat_joints(hand).double().numpy())
    return Given(ordered, names, side, torch.from_numpy(np.where(there, trust, 0.0)), noise, problems, notes)


def joint_order(order: str | Sequence[str]) -> tuple[str, ...]:
    """The names of 21 joints of an order: its name, or the names themselves.

    Raises:
        InputError: an unknown order, or names that are not those of ``anatomy.JOINTS``.
    """
    if isinstance(order, str):
        name = ALIASES.get(order.lower(), order.lower())
        if name not in JOINT_ORDERS:
            known = sorted({*JOINT_ORDERS, *ALIASES})
            raise InputError(
                f"joint_order: {order!r} is unknown{suggestion(name, known)}; or give the 21 names in your order: "
                f"{', '.join(JOINTS[:3])} ... {JOINTS[-1]}"
            )
        return JOINT_ORDERS[name]
    names = tuple(str(name) for name in order)
    wrong = sorted(set(names) - set(JOINTS)) or sorted(set(JOINTS) - set(names))
    if wrong or len(names) != 21:
        raise InputError(f"joint_order: {len(names)} names, {wrong[:3]} unknown or missing; known: {', '.join(JOINTS)}")
    return names


def _numbers(value: ArrayLike | Tensor, where: str) -> np.ndarray:
    try:
        if isinstance(value, Tensor):
            return value.detach().cpu().double().numpy()
        if isinstance(value, list):  # of JSON, where a missing joint is null
            value = [[np.nan] * 3 if row is None else row for row in value]
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{where}: not an array of numbers") from None


def _trust(
    confidence: ArrayLike | Tensor | None, sigma: ArrayLike | Tensor | None, there: np.ndarray
) -> tuple[np.ndarray, float | None]:
    """Weight of each joint's square, and the noise that weight 1 has."""
    trust = np.ones(there.shape)
    if confidence is not None:
        trust = _each_joint(confidence, "confidence", there)
        if not ((trust >= 0) & (trust <= 1)).all():
            raise InputError(f"confidence: runs from {trust.min():g} to {trust.max():g}; expected 0 to 1")
    if sigma is None:
        return trust, None
    spread = _each_joint(sigma, "sigma", there)
    if not ((spread > 0) & (spread < 1)).all():
        raise InputError(f"sigma: runs from {spread.min():g} to {spread.max():g}; expected metres, above 0 and below 1")
    usual = float(np.median(spread))
    return trust * (usual / spread) ** 2, usual


def _each_joint(value: ArrayLike | Tensor, where: str, like: np.ndarray) -> np.ndarray:
    array = _numbers(value, where)
    if array.shape not in ((), (21,), like.shape):
        raise InputError(f"{where}: shape {array.shape}; expected one number, (21,) or {like.shape}")
    return np.broadcast_to(array, like.shape)


def _look(
    joints: Float[np.ndarray, "B 21 3"], rest: Float[np.ndarray, "21 3"]
) -> tuple[tuple[str | None, ...], tuple[tuple[str, ...], ...]]:
    """Problems and notes of each hand."""
    ends = np.array([[JOINTS.index(name) for name in bone] for bone in _BONES])
    length = np.linalg.norm(rest[ends[:, 0]] - rest[ends[:, 1]], axis=-1)
    long = length > _LONG
    problems: list[str | None] = []
    notes: list[tuple[str, ...]] = []
    for number, one in enumerate(joints):
        there = np.isfinite(one).all(-1)
        missing = [name for name, seen in zip(JOINTS, there, strict=True) if not seen]
        notes.append((f"joints missing: {', '.join(missing)}",) if missing else ())
        if there.sum() < _LEAST:
            problems.append(f"{there.sum()} of 21 joints are given; a hand needs {_LEAST}")
            continue
        ratios = np.linalg.norm(one[ends[:, 0]] - one[ends[:, 1]], axis=-1) / length
        ratios = ratios[long] if np.isfinite(ratios[long]).any() else ratios
        size = float(np.nanmedian(ratios)) if np.isfinite(ratios).any() else 1.0
        spread = np.linalg.svd(one[there] - one[there].mean(0), compute_uv=False)[1] / there.sum() ** 0.5
        if size > _OTHER_UNIT:
            said = "millimetres? Divide by 1000" if size > 300 else "centimetres? Divide by 100"
            raise InputError(f"joints: bones of hand {number} are {size:.3g} times a hand's; {said}")
        if spread <= _NARROW * min(1.0, size):
            problems.append("the joints lie in a point or on a line: they show no hand")
        elif not _POSSIBLE[0] < size < _POSSIBLE[1]:
            problems.append(f"bones are {size:.2g} times a usual hand's: are they metres?")
        else:
            problems.append(None)
            if not _USUAL[0] < size < _USUAL[1]:
                notes[-1] += (f"bones are {size:.2g} times a usual hand's",)
    return tuple(problems), tuple(notes)
