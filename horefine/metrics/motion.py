"""How smoothly points of a clip move, and whether they move as they truly do. Millimetres per frame squared.

Points "T N 3" are T frames that follow one another at equal spacing, metres. A frame that is missing is NaN, and so is
every difference that it has a part in.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.metrics.units import MILLIMETRES

__all__ = ["acceleration", "acceleration_error", "jitter"]


def acceleration(points: Float[Tensor, "T N 3"]) -> Float[Tensor, "D"]:
    """Mean length of the second difference, of each frame but the first and the last. mm/frame^2.

    Of results without truth: what of it is the motion's own, nobody can say; of one clip the less the smoother.
    """
    return _mean_length(torch.diff(points, n=2, dim=0))


def acceleration_error(predicted: Float[Tensor, "T N 3"], true: Float[Tensor, "T N 3"]) -> Float[Tensor, "D"]:
    """Mean distance of the second differences from the true ones (Kanazawa et al. 2019, HMMR; VIBE's). mm/frame^2.

    A shift that stays the same costs nothing; a result that lags behind or is smoothed too much does.
    """
    return _mean_length(torch.diff(predicted, n=2, dim=0) - torch.diff(true, n=2, dim=0))


def jitter(points: Float[Tensor, "T N 3"]) -> Float[Tensor, "D"]:
    """Mean length of the third difference, the jerk (Flash and Hogan 1985; as jitter in Yi et al. 2021). mm/frame^3."""
    return _mean_length(torch.diff(points, n=3, dim=0))


def _mean_length(differences: Float[Tensor, "D N 3"]) -> Float[Tensor, "D"]:
    return differences.norm(dim=-1).mean(-1) * MILLIMETRES
