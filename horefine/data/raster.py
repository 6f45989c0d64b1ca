"""A z-buffer for making pictures: which face is seen in each pixel, where on it, and what its vertices carry there.

Not differentiable and without coverage: scenes are supersampled instead. (The renderer that refinement differentiates
is :mod:`horefine.render`; the tests compare the two.) Pixel (0, 0) is the centre of the top-left pixel.
"""

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np
from numba import njit

__all__ = ["interpolate", "shrink", "zbuffer"]

_NEAR = np.float32(0.02)


@njit(cache=True, fastmath=True, nogil=True)
@no_type_check
def _fill(vertices, faces, matrix, offset, ids, inverse_depth):
    """Draws faces nearer than what ``inverse_depth`` (1/z) holds; face k is written as ``offset + k``."""
    height, width = ids.shape
    fx, fy, cx, cy = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
    count = vertices.shape[0]
    u, v, w = np.empty(count, np.float32), np.empty(count, np.float32), np.empty(count, np.float32)
    for k in range(count):
        z = vertices[k, 2]
        w[k] = np.float32(1) / z if z > _NEAR else np.float32(-1)
        u[k] = fx * vertices[k, 0] / z + cx
        v[k] = fy * vertices[k, 1] / z + cy
    for k in range(faces.shape[0]):
        a, b, c = faces[k, 0], faces[k, 1], faces[k, 2]
        if w[a] < 0 or w[b] < 0 or w[c] < 0:
            continue
        left = math.ceil(max(min(u[a], u[b], u[c]), 0))
        right = math.floor(min(max(u[a], u[b], u[c]), width - 1))
        top = math.ceil(max(min(v[a], v[b], v[c]), 0))
        bottom = math.floor(min(max(v[a], v[b], v[c]), height - 1))
        area = (u[b] - u[a]) * (v[c] - v[a]) - (u[c] - u[a]) * (v[b] - v[a])
        if left > right or top > bottom or area == 0:
            continue
        scale = np.float32(1) / area
        s_u, s_v = (v[c] - v[a]) * scale, (u[a] - u[c]) * scale
        t_u, t_v = (v[a] - v[b]) * scale, (u[b] - u[a]) * scale
        wa, wb, wc = w[a], w[b] - w[a], w[c] - w[a]
        for i in range(top, bottom + 1):
            s = (left - u[a]) * s_u + (i - v[a]) * s_v
            t = (left - u[a]) * t_u + (i - v[a]) * t_v
            for j in range(left, right + 1):
                if s >= -1e-5 and t >= -1e-5 and s + t <= 1.00001:
                    inverse = wa + s * wb + t * wc
                    if inverse > inverse_depth[i, j]:
                        inverse_depth[i, j] = inverse
                        ids[i, j] = offset + k
                s += s_u
                t += t_u


def zbuffer(
    vertices: np.ndarray,
    faces: np.ndarray,
    matrix: np.ndarray,
    size: tuple[int, int],
    into: tuple[np.ndarray, np.ndarray] | None = None,
    offset: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Faces seen at the centres of pixels.

    Args:
        vertices: V x 3 float32, camera frame, metres.
        faces: F x 3 int32; both sides are drawn, faces behind the camera's near plane (2 cm) are not.
        matrix: 3 x 3 intrinsics in pixels of this picture.
        size: Height and width.
        into: Buffers to draw into (nearer things stay); new ones when left out.
        offset: Added to the face numbers, so that several meshes can share a buffer.

    Returns:
        ids (H x W int32, -1 where nothing is) and inverse depth (H x W float32, 1/metres, 0 where nothing is).
    """
    ids, inverse = into if into is not None else (np.full(size, -1, np.int32), np.zeros(size, np.float32))
    _fill(vertices, faces, matrix.astype(np.float32), offset, ids, inverse)
    return ids, inverse


@njit(cache=True, fastmath=True, nogil=True)
@no_type_check
def _interpolate(vertices, faces, matrix, values, ids, offset, out):
    """Perspective-correct values at pixel centres; pixels of other meshes are left as they are."""
    height, width = ids.shape
    for i in range(height):
        y = (i - matrix[1, 2]) / matrix[1, 1]
        for j in range(width):
            k = ids[i, j] - offset
            if k < 0 or k >= faces.shape[0]:
                continue
            x = (j - matrix[0, 2]) / matrix[0, 0]
            a, b, c = faces[k, 0], faces[k, 1], faces[k, 2]
            ax, ay, az = vertices[a, 0], vertices[a, 1], vertices[a, 2]
            ux, uy, uz = vertices[b, 0] - ax, vertices[b, 1] - ay, vertices[b, 2] - az
            wx, wy, wz = vertices[c, 0] - ax, vertices[c, 1] - ay, vertices[c, 2] - az
            nx, ny, nz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
            along = nx * x + ny * y + nz
            ex, ey, ez = ay - az * y, az * x - ax, ax * y - ay * x
            s = min(max((wx * ex + wy * ey + wz * ez) / along, 0.0), 1.0)
            t = min(max(-(ux * ex + uy * ey + uz * ez) / along, 0.0), 1.0 - s)
            for channel in range(values.shape[1]):
                base = values[a, channel]
                out[i, j, channel] = base + s * (values[b, channel] - base) + t * (values[c, channel] - base)


def interpolate(
    vertices: np.ndarray,
    faces: np.ndarray,
    matrix: np.ndarray,
    values: np.ndarray,
    ids: np.ndarray,
    offset: int = 0,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Vertex values (V x C float32) at the pixels where ``ids`` shows this mesh; H x W x C, 0 elsewhere."""
    if out is None:
        out = np.zeros((*ids.shape, values.shape[1]), np.float32)
    _interpolate(vertices, faces, matrix.astype(np.float32), values, ids, offset, out)
    return out


def shrink(picture: np.ndarray, factor: int) -> np.ndarray:
    """Means of ``factor`` x ``factor`` pixels (H x W or H x W x C); faster than a reshape and ``mean``."""
    total = picture[::factor, ::factor].copy()
    for i in range(factor):
        for j in range(factor):
            if i or j:
                total += picture[i::factor, j::factor]
    total /= factor * factor
    return total
