"""Point sets moved onto the true ones before they are compared: similarities, and scale with translation."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.metrics.units import finite

__all__ = ["procrustes", "scale_translation"]


def procrustes(
    predicted: Float[Tensor, "B N 3"], true: Float[Tensor, "B N 3"], *, reflection: bool = False
) -> Float[Tensor, "B N 3"]:
    """``predicted`` under the similarity (scale, rotation, translation) that brings it nearest ``true`` (Schönemann).

    ``reflection``: let the rotation mirror, as the scripts of FreiHAND, HO-3D and DexYCB do; a mirrored hand is then
    no error. Umeyama's (1991) proper rotation otherwise. An item that is not finite stays NaN, and alone.
    """
    usable = finite(predicted, true)[:, None, None]
    predicted, true = predicted.masked_fill(~usable, 0.0), true.masked_fill(~usable, 0.0)
    centre, true_centre = predicted.mean(1, keepdim=True), true.mean(1, keepdim=True)
    source, target = predicted - centre, true - true_centre
    left, values, right = torch.linalg.svd(target.mT @ source)
    sign = torch.ones_like(values)
    if not reflection:
        sign[:, 2] = torch.det(left @ right).sign()
    rotation = (left * sign[:, None]) @ right
    scale = (values * sign).sum(-1) / (source**2).sum((1, 2)).clamp_min(1e-20)
    aligned = scale[:, None, None] * (source @ rotation.mT) + true_centre
    return aligned.masked_fill(~usable, torch.nan)


def scale_translation(
    predicted: Float[Tensor, "B J 3"], true: Float[Tensor, "B J 3"], *, bone: tuple[int, int] = (0, 9)
) -> Float[Tensor, "B J 3"]:
    """``predicted`` scaled to the true length of one bone, its wrist put on the true wrist (HO-3D, "scale-trans").

    ``bone``: the wrist and the middle finger's first joint; (0, 9) in our order, (0, 4) in HO-3D's and MANO's.
    """
    root, end = bone
    length = (predicted[:, end] - predicted[:, root]).norm(dim=-1)
    scale = (true[:, end] - true[:, root]).norm(dim=-1) / length
    return (predicted - predicted[:, root, None]) * scale[:, None, None] + true[:, root, None]
