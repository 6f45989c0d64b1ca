"""Errors of the hand: joints and vertices, absolute or aligned, and the area under their curve."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor

from horefine.metrics.alignment import procrustes, scale_translation
from horefine.metrics.units import as_numpy, mean_distance

__all__ = ["ALIGNMENTS", "auc", "hand_error", "hand_to_object_error", "mean_joint_error", "mean_vertex_error"]

ALIGNMENTS = ("none", "root", "scale_translation", "procrustes")


def hand_error(predicted: Float[Tensor, "B V 3"], true: Float[Tensor, "B V 3"]) -> Float[Tensor, "B"]:
    """HE: mean distance of corresponding hand vertices, camera frame, no alignment. mm (CPF; Song et al. 2022)."""
    return mean_distance(predicted, true, None)


def hand_to_object_error(
    hand: Float[Tensor, "B V 3"],
    object_center: Float[Tensor, "B 3"],
    true_hand: Float[Tensor, "B V 3"],
    true_object_center: Float[Tensor, "B 3"],
) -> Float[Tensor, "B"]:
    """HE after moving both object centres together: how well the hand sits on its object, whatever the depth. mm."""
    return mean_distance(hand - object_center[:, None], true_hand - true_object_center[:, None], None)


def mean_joint_error(
    predicted: Float[Tensor, "B J 3"],
    true: Float[Tensor, "B J 3"],
    *,
    align: str = "none",
    reflection: bool = False,
    bone: tuple[int, int] = (0, 9),
) -> Float[Tensor, "B"]:
    """MJE (MPJPE): mean distance of corresponding joints. mm.

    ``align``: ``none`` (gSDF's E_h: 21 joints, absolute); ``root`` (both relative to joint 0, the wrist: DexYCB and
    HOISDF); ``scale_translation`` (STMJE of HO-3D, by ``bone``); ``procrustes`` (PAMJE). ``reflection``: see
    :func:`procrustes`; HOISDF's PAMJE does without, the scripts of HO-3D and DexYCB allow it.

    Raises:
        ValueError: an unknown alignment.
    """
    if align == "root":
        predicted, true = predicted - predicted[:, :1], true - true[:, :1]
    elif align == "scale_translation":
        predicted = scale_translation(predicted, true, bone=bone)
    elif align == "procrustes":
        predicted = procrustes(predicted, true, reflection=reflection)
    elif align != "none":
        raise ValueError(f"align: {align!r} is none of {', '.join(ALIGNMENTS)}")
    return mean_distance(predicted, true, None)


def mean_vertex_error(
    predicted: Float[Tensor, "B V 3"], true: Float[Tensor, "B V 3"], *, align: str = "none", reflection: bool = False
) -> Float[Tensor, "B"]:
    """MME (mesh error, MPVPE): mean distance of corresponding hand vertices. mm. Its AUC (VAUC): :func:`auc`.

    ``align``: ``none``, or ``procrustes`` (PAMME: the vertices are aligned by themselves, not by the joints; FreiHAND,
    HO-3D). ``reflection``: see :func:`procrustes`.

    Raises:
        ValueError: an unknown alignment.
    """
    if align == "procrustes":
        predicted = procrustes(predicted, true, reflection=reflection)
    elif align != "none":
        raise ValueError(f"align: {align!r} is neither none nor procrustes")
    return mean_distance(predicted, true, None)


def auc(errors: Float[Tensor, "*any"], *, maximum: float = 50.0, steps: int = 100) -> float:
    """Area under the curve "share of errors at most t", t from 0 to ``maximum``; 1 is best.

    FreiHAND's, HO-3D's and DexYCB's: mm, ``steps`` thresholds with both ends, trapezoids, at most (not below). Give it
    the error of every joint (or vertex: VAUC) of every item; a NaN counts as missed at every threshold.
    """
    values = np.sort(as_numpy(errors).ravel())
    thresholds = np.linspace(0, maximum, steps)
    share = np.searchsorted(values, thresholds, side="right") / max(len(values), 1)
    return float((share[1:] + share[:-1]).sum() / (2 * (steps - 1)))
