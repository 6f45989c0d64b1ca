"""The shapes of the embedded objects, in metres, z up when standing: everyday things of their real size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from horefine.object_meshing import Arrays, Solid, box, contour, lathe, remesh

__all__ = ["SHAPES"]


def _cylinder(points: np.ndarray, radius: float, low: float, high: float) -> np.ndarray:
    """Distance to an upright cylinder about z."""
    q = np.stack(
        [np.hypot(points[:, 0], points[:, 1]) - radius, np.abs(points[:, 2] - (low + high) / 2) - (high - low) / 2]
    )
    return np.linalg.norm(np.maximum(q, 0), axis=0) + np.minimum(q.max(0), 0)


def _solid_mesh(solid: Solid, low: tuple, high: tuple, fine: float, length: float) -> Arrays:
    return remesh(solid, contour(solid, np.array(low), np.array(high), fine), length)


def _box() -> Arrays:
    return box((0.16, 0.06, 0.21), 0.012)


def _can() -> Arrays:
    return lathe([(0, -0.051), (0.0335, -0.051), (0.0335, 0.051), (0, 0.051)], 0.007)


def _mug() -> Arrays:
    def solid(p: np.ndarray) -> np.ndarray:
        outer, inner = _cylinder(p, 0.040, -0.048, 0.048), _cylinder(p, 0.0355, -0.042, 0.070)
        ring = np.hypot(np.hypot(p[:, 0] - 0.041, p[:, 2] * 0.8) - 0.025, p[:, 1]) - 0.006
        return np.maximum(np.minimum(outer, ring), -inner)

    return _solid_mesh(solid, (-0.05, -0.05, -0.055), (0.085, 0.05, 0.055), 0.003, 0.0068)


SHAPES: dict[str, Callable[[], Arrays]] = {
    "box": _box,
    "can": _can,
    "mug": _mug,
}
