"""The numbers that HO-3D's and DexYCB's own scripts print, of the items that are evaluated.

They differ from the table's of similar name: alignment may mirror, HO-3D has its own fingertips, means are over all
joints of all items. A failed item has no number: means and F-scores are then NaN, as the scripts refuse such a file,
and the areas count it as missed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.anatomy import convert_joints
from horefine.errors import ConfigError, suggestion
from horefine.evaluate.cases import Case
from horefine.evaluate.predictions import Prediction
from horefine.hand import HandModel
from horefine.metrics.dexycb import hpe_scores
from horefine.metrics.ho3d import ho3d_scores
from horefine.scene import Pose

__all__ = ["HO3D_TIPS", "OFFICIAL", "ho3d_joints", "official_scores"]

HO3D_TIPS = (744, 333, 444, 555, 672)
"""Fingertip vertices of HO-3D's annotation, thumb to pinky; others are used elsewhere (``hand``)."""
Points = tuple[Tensor, Tensor]


def ho3d_joints(joints: Float[Tensor, "B 21 3"], vertices: Float[Tensor, "B V 3"]) -> Float[Tensor, "B 21 3"]:
    """The house's joints in HO-3D's order, with its fingertips."""
    ordered = convert_joints(joints, "house", "ho3d")
    return torch.cat([ordered[:, :16], vertices[:, list(HO3D_TIPS)]], 1)


def _ho3d(ours: Points, true: Points) -> dict[str, float]:
    return ho3d_scores(ho3d_joints(*ours), ours[1], ho3d_joints(*true), true[1])


def _dexycb(ours: Points, true: Points) -> dict[str, float]:
    return hpe_scores(ours[0], true[0])


OFFICIAL: dict[str, Callable[[Points, Points], dict[str, float]]] = {"ho3d": _ho3d, "dexycb": _dexycb}


def official_scores(
    name: str, cases: Sequence[Case], predictions: Sequence[Prediction], hand: HandModel
) -> dict[str, float]:
    """Scores by the names that the official script gives them.

    Args:
        name: of :data:`OFFICIAL`.
        cases: those with a true hand count.

    Raises:
        ConfigError: another name, or no true hand.
    """
    if name not in OFFICIAL:
        raise ConfigError(f"--official {name}: there is none of this name{suggestion(name, (*OFFICIAL, 'bop'))}")
    pairs = zip(cases, predictions, strict=True)
    kept = [(case.pose, given.pose) for case, given in pairs if case.pose and not case.object_only]
    if not kept:
        raise ConfigError(f"--official {name}: is of hands, and no item's hand is annotated")
    true = _points([pose for pose, _ in kept], hand)
    ours = _points([pose if given is None else given for pose, given in kept], hand)
    lost = torch.tensor([given is None for _, given in kept])[:, None, None]
    return OFFICIAL[name]((ours[0].masked_fill(lost, torch.nan), ours[1].masked_fill(lost, torch.nan)), true)


@torch.no_grad()
def _points(poses: Sequence[Pose], hand: HandModel, size: int = 100) -> Points:
    """Joints and vertices of many hands, metres."""
    parts = []
    for first in range(0, len(poses), size):
        pose = Pose.cat(list(poses[first : first + size]))
        posed = hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl)
        parts.append((posed.joints, posed.vertices))
    joints, vertices = zip(*parts, strict=True)
    return torch.cat(joints).double(), torch.cat(vertices).double()
