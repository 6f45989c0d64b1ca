"""What a shader needs, without gradients: visible face, depth, barycentrics and interpolated attributes of one scene.

Several meshes are one scene: concatenate their vertices and (shifted) faces; nearer faces hide farther ones. Faces may
reach behind the camera (a floor, a table, a wall): they are rasterised in homogeneous coordinates (Olano and Greer
1997), which needs no clipping.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numba import njit
from numpy import ndarray

__all__ = ["Buffers", "rasterize_buffers"]

NEAR = 0.01


@dataclass(frozen=True)
class Buffers:
    """Pictures of one scene, sampled at pixel centres."""

    ids: Int[ndarray, "H W"]
    """int32, the visible face, -1 where there is none."""
    depth: Float[ndarray, "H W"]
    """float32 metres along z, 0 where empty."""
    barycentric: Float[ndarray, "H W 3"]
    """float32 weights of the face's corners, perspective-correct, 0 where empty."""
    attributes: Float[ndarray, "H W C"]
    """float32, interpolated with these weights; C = 0 when none were given."""


def rasterize_buffers(
    vertices: Float[ndarray, "V 3"],
    faces: Int[ndarray, "F 3"],
    matrix: Float[ndarray, "3 3"],
    size: tuple[int, int],
    attributes: Float[ndarray, "V C"] | None = None,
    *,
    cull: bool = False,
) -> Buffers:
    """Rasterises one scene with a z-buffer.

    Args:
        vertices: camera frame, metres; any float type.
        faces: of all meshes, numbered through ``vertices``; degenerate ones are ignored.
        matrix: intrinsics, pixel (0, 0) the centre of the top-left pixel; skew-free.
        size: height and width.
        attributes: per vertex, any number of channels (normals, colours, texture coordinates, positions in any frame).
        cull: leave out faces seen from inside (only for closed meshes that wind outwards).

    Raises:
        ValueError: shapes that do not fit, or faces that name vertices that are not there.
    """
    points, corners = np.ascontiguousarray(vertices, np.float64), np.ascontiguousarray(faces, np.int64)
    if points.ndim != 2 or points.shape[1] != 3 or corners.ndim != 2 or corners.shape[1] != 3:
        raise ValueError(
            f"rasterize_buffers: vertices {points.shape} and faces {corners.shape}; expected (V, 3) and (F, 3)"
        )
    if corners.size and (corners.min() < 0 or corners.max() >= len(points)):
        raise ValueError(f"rasterize_buffers: faces name vertices up to {corners.max()}, there are {len(points)}")
    painted = np.zeros((len(points), 0)) if attributes is None else np.asarray(attributes)
    if painted.ndim != 2 or len(painted) != len(points):
        raise ValueError(f"rasterize_buffers: attributes {painted.shape} for {len(points)} vertices; expected (V, C)")
    height, width = size
    ids = np.full(size, -1, np.int32)
    inverse = np.zeros(size, np.float32)
    weights = np.zeros((height, width, 3), np.float32)
    _rasterize(points, corners, np.ascontiguousarray(matrix, np.float64), cull, ids, inverse, weights)
    picture = np.zeros((height, width, painted.shape[1]), np.float32)
    _interpolate(corners, np.ascontiguousarray(painted, np.float32), ids, weights, picture)
    depth = np.zeros(size, np.float32)
    np.divide(1.0, inverse, out=depth, where=inverse > 0)
    return Buffers(ids, depth, weights, picture)


@njit(cache=True, nogil=True, error_model="numpy")
def _bounds(values, last):
    """First and last pixel whose centre lies between the smallest and the largest value (closed, clipped)."""
    low, high = min(values[0], min(values[1], values[2])), max(values[0], max(values[1], values[2]))
    return math.ceil(min(max(low, 0.0), last + 1.0)), math.floor(max(min(high, float(last)), -1.0))


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"nsz", "arcp", "contract"})
def _rasterize(points, faces, matrix, cull, ids, inverse, weights):
    """With M the corners as columns and w = M^-1 ray: inside where all w >= 0, 1/z = sum(w), b = w / sum(w)."""
    height, width = ids.shape
    fx, fy, cx, cy = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
    us, vs, rows = np.empty(3), np.empty(3), np.empty((3, 3))
    for k in range(faces.shape[0]):
        a, b, c = points[faces[k, 0]], points[faces[k, 1]], points[faces[k, 2]]
        closest, farthest = min(a[2], min(b[2], c[2])), max(a[2], max(b[2], c[2]))
        if not farthest > NEAR:
            continue
        left, right, top, bottom = 0, width - 1, 0, height - 1
        if closest > NEAR:
            for e in range(3):
                corner = points[faces[k, e]]
                us[e], vs[e] = fx * corner[0] / corner[2] + cx, fy * corner[1] / corner[2] + cy
            left, right = _bounds(us, width - 1)
            top, bottom = _bounds(vs, height - 1)
            if left > right or top > bottom:
                continue
        for e in range(3):
            p, q = points[faces[k, (e + 1) % 3]], points[faces[k, (e + 2) % 3]]
            rows[e, 0], rows[e, 1], rows[e, 2] = (
                p[1] * q[2] - p[2] * q[1],
                p[2] * q[0] - p[0] * q[2],
                p[0] * q[1] - p[1] * q[0],
            )
        det = a[0] * rows[0, 0] + a[1] * rows[0, 1] + a[2] * rows[0, 2]
        # anticlockwise in the picture, y down: outside of an outward face, and a negative determinant
        if det == 0.0 or (cull and det > 0.0) or not math.isfinite(det):
            continue
        rows /= det
        sx, sy = 1.0 / fx, 1.0 / fy
        for i in range(top, bottom + 1):
            y = (i - cy) * sy
            w0y, w1y, w2y = rows[0, 1] * y + rows[0, 2], rows[1, 1] * y + rows[1, 2], rows[2, 1] * y + rows[2, 2]
            for j in range(left, right + 1):
                x = (j - cx) * sx
                w0, w1, w2 = rows[0, 0] * x + w0y, rows[1, 0] * x + w1y, rows[2, 0] * x + w2y
                total = w0 + w1 + w2
                slack = -1e-7 * total
                if w0 >= slack and w1 >= slack and w2 >= slack and total > inverse[i, j] and total * NEAR < 1.0:
                    inverse[i, j] = total
                    ids[i, j] = k
                    weights[i, j, 0], weights[i, j, 1], weights[i, j, 2] = w0 / total, w1 / total, w2 / total


@njit(cache=True, nogil=True, error_model="numpy")
def _interpolate(faces, attributes, ids, weights, picture):
    height, width = ids.shape
    for i in range(height):
        for j in range(width):
            k = ids[i, j]
            if k < 0:
                continue
            a, b, c = faces[k, 0], faces[k, 1], faces[k, 2]
            for channel in range(picture.shape[2]):
                picture[i, j, channel] = (
                    weights[i, j, 0] * attributes[a, channel]
                    + weights[i, j, 1] * attributes[b, channel]
                    + weights[i, j, 2] * attributes[c, channel]
                )
