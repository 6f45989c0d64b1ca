"""Where on a triangle mesh: points spread evenly over it, and the point nearest to a given one. Numpy, double."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

__all__ = ["closest_on_triangles", "spread"]


def spread(corners: Float[np.ndarray, "F 3 3"], count: int) -> tuple[Int[np.ndarray, "N"], Float[np.ndarray, "N 3"]]:
    """Faces and positions of ``count`` points spread evenly over the area of triangles; always the same ones.

    Faces are drawn by stepping evenly through the cumulative area; inside them the points follow the R2 sequence
    (Roberts 2018) folded into the triangle.
    """
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1)
    edges = np.cumsum(area)
    face = np.searchsorted(edges, (np.arange(count) + 0.5) * edges[-1] / count).clip(max=len(area) - 1)
    steps = (np.arange(count)[:, None] * [0.7548776662466927, 0.5698402909980532] + 0.5) % 1
    steps = np.where(steps.sum(1, keepdims=True) > 1, 1 - steps, steps)
    weights = np.stack([1 - steps.sum(1), steps[:, 0], steps[:, 1]], 1)
    return face, (weights[..., None] * corners[face]).sum(1)


def closest_on_triangles(
    points: Float[np.ndarray, "*#n 3"], corners: Float[np.ndarray, "*n 3 3"]
) -> Float[np.ndarray, "*n 3"]:
    """Barycentric weights of the point on each triangle that is nearest to the given point.

    The projection onto the plane where it falls inside, else the nearest of the projections onto the three edges.
    Degenerate triangles are answered by their edges.
    """
    a, b, c = np.moveaxis(corners, -2, 0)
    ab, ac, ap = b - a, c - a, points - a
    d00, d01, d11 = (ab * ab).sum(-1), (ab * ac).sum(-1), (ac * ac).sum(-1)
    d20, d21 = (ap * ab).sum(-1), (ap * ac).sum(-1)
    determinant = d00 * d11 - d01 * d01
    flat = determinant <= 1e-24
    scale = np.where(flat, 1.0, determinant)
    v, w = (d11 * d20 - d01 * d21) / scale, (d00 * d21 - d01 * d20) / scale
    plane = np.stack([1 - v - w, v, w], -1)
    inside = (plane >= 0).all(-1) & ~flat
    options = [plane]
    for i, j in ((0, 1), (1, 2), (2, 0)):
        start, along = corners[..., i, :], corners[..., j, :] - corners[..., i, :]
        length = np.maximum((along * along).sum(-1), 1e-24)
        t = np.clip((((points - start) * along).sum(-1)) / length, 0, 1)
        weights = np.zeros_like(plane)
        weights[..., i], weights[..., j] = 1 - t, t
        options.append(weights)
    choice = np.stack(options)
    gap = np.linalg.norm((choice[..., None] * corners).sum(-2) - points, axis=-1)
    gap[0] = np.where(inside, gap[0], np.inf)
    best = gap.argmin(0)
    return np.take_along_axis(choice, best[None, ..., None], 0)[0]
