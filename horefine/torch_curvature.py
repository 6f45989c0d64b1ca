"""Variances of joints and object from the normal equations, in torch: twin of what ``curvature.sigmas`` does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.factors import factor_columns
from horefine.hand import house_from_mano
from horefine.jacobian import chart_matrix
from horefine.scene import Scene
from horefine.torch_jacobian import hand_slopes

__all__ = ["variances"]


def variances(scene: Scene, normal: Float[Tensor, "B P P"], variables: Sequence[str] = ()) -> Float[Tensor, "B C"]:
    """Of the places of the 21 joints (house order) and of the object's centre (3 coordinates each, camera axes), and of
    the variables: C = 66 and their number, double. Infinite where some direction is free or a number is not finite.

    Args:
        normal: ``J'J`` in the tangent chart, double, as :mod:`horefine.torch_equations` gives it.
    """
    model, count, size = scene.hand_model, len(scene.hand_model.template), normal.shape[1]
    mano = torch.cat([torch.arange(count, count + 16, device=normal.device), model.tips])
    joints = hand_slopes(scene).index_select(1, mano[house_from_mano(mano.device)])
    plain = normal.new_zeros(len(normal), 22, 3, 67)
    plain[:, :21, :, :61] = joints.double()
    plain[:, 21, :, 61:64] = torch.eye(3, dtype=plain.dtype, device=plain.device)
    chart = torch.cat([chart_matrix(scene), factor_columns(scene, variables)], 2).double()
    own = torch.eye(size, dtype=plain.dtype, device=plain.device)[67:].expand(len(normal), -1, -1)
    slopes = torch.cat([plain.flatten(1, 2) @ chart, own], 1)
    finite = normal.isfinite().all(-1).all(-1)
    safe = torch.where(finite[:, None, None], normal, torch.eye(size, dtype=plain.dtype, device=plain.device))
    factor, broken = torch.linalg.cholesky_ex(safe)
    found = (slopes * torch.cholesky_solve(slopes.mT, factor).mT).sum(2)
    return torch.where((finite & (broken == 0))[:, None], found, torch.inf)
