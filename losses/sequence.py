"""Terms over a clip, of homan (Hasson et al. 2021). Not in the registry: a loss there sees one image, no neighbours.

For joint fits of a video, from the posed vertices and the PCA coefficients of MANO's finger pose.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

__all__ = ["pca_prior", "smoothness"]


def smoothness(vertices: Float[Tensor, "T V 3"]) -> Float[Tensor, ""]:
    """Mean squared difference of each coordinate between frames that follow one another, metres squared (weight 2000).

    Raises:
        ValueError: fewer than two frames.
    """
    if len(vertices) < 2:
        raise ValueError("smoothness: needs at least two frames")
    return (vertices[1:] - vertices[:-1]).square().mean()


def pca_prior(coefficients: Float[Tensor, "T P"]) -> Float[Tensor, ""]:
    """Mean square of the coefficients of the finger pose (weight 0.004)."""
    return coefficients.square().mean()
