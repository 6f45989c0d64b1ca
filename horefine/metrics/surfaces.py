"""Errors between two surfaces, each given by points: the F-score."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree
from torch import Tensor

from horefine.metrics.units import MILLIMETRES, as_numpy

__all__ = ["f_score"]


def f_score(
    predicted: Float[Tensor, "B V 3"], true: Float[Tensor, "B W 3"], threshold: float
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"], Float[Tensor, "B"]]:
    """F-score of vertex sets at ``threshold`` mm (FreiHAND, HO-3D: 5 and 15), with its precision and recall, 0 to 1.

    Precision: the share of predicted vertices strictly within the threshold of a true one; recall the other way round
    (HO-3D's script has the two names exchanged; the F-score is the same).
    """
    results = []
    for ours, theirs in zip(map(as_numpy, predicted), map(as_numpy, true), strict=True):
        precision = (KDTree(theirs).query(ours)[0] * MILLIMETRES < threshold).mean()
        recall = (KDTree(ours).query(theirs)[0] * MILLIMETRES < threshold).mean()
        both = precision + recall
        results.append((2 * precision * recall / both if both else 0.0, precision, recall))
    scores = true.new_tensor(np.asarray(results))
    return scores[:, 0], scores[:, 1], scores[:, 2]
