"""What a depth camera would see of a scene: quantised, noisy, with holes where it cannot measure."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter

from horefine.data.compose import PHOTO, Layout
from horefine.data.raster import zbuffer
from horefine.data.shade import Stage

__all__ = ["sense_depth"]

BASELINE = 0.05
"""Metres between a stereo depth camera's eyes; its disparity comes in eighths of a pixel."""


def sense_depth(stage: Stage, layout: Layout, rng: np.random.Generator) -> np.ndarray:
    """Depth of the whole photo (480 x 640 float32, metres along z; 0 where the sensor saw nothing).

    As a stereo camera: the step grows with the square of depth, noise likewise; nothing beside depth edges, where only
    one eye looks, and at some specks.
    """
    ids, inverse = zbuffer(stage.vertices, stage.faces, layout.matrix, PHOTO)
    depth = stage.behind.repeat(2, 0).repeat(2, 1)
    depth = np.where(ids >= 0, 1 / np.maximum(inverse, 1e-6), depth)
    disparity = layout.matrix[0, 0] * BASELINE / depth + rng.normal(0, 0.06, PHOTO)
    seen = layout.matrix[0, 0] * BASELINE / np.maximum((disparity * 8).round() / 8, 0.125)
    edge = maximum_filter(depth, 3) - minimum_filter(depth, 3) > 0.02
    shadow = edge | np.roll(edge, -int(rng.integers(1, 4)), 1)
    specks = (rng.random((PHOTO[0] // 4, PHOTO[1] // 4)) < 0.004).repeat(4, 0).repeat(4, 1)
    return np.where((shadow & (rng.random(PHOTO) < 0.85)) | specks, 0, seen).astype(np.float32)
