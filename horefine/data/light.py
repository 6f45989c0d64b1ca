"""Light for synthetic pictures: where it comes from, what it reaches, what shades what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, no_type_check

import numpy as np
from numba import njit

from horefine.data.raster import zbuffer

__all__ = ["Lights", "ShadowMap", "draw_lights", "lit_share", "shadow_map", "surface_occlusion", "vertex_normals"]

_SIDE = 192
"""Of the shadow map, pixels."""


@dataclass(frozen=True)
class Lights:
    """Directions point from the scene to the light, camera frame."""

    key: np.ndarray
    key_color: np.ndarray
    fill: np.ndarray
    fill_color: np.ndarray
    sky: np.ndarray
    ground: np.ndarray
    up: np.ndarray


def draw_lights(up: np.ndarray, rng: np.random.Generator) -> Lights:
    """A key light from above or from the camera's side, a weaker one from elsewhere, and the sky."""
    up = up / np.linalg.norm(up)

    def direction(high: float) -> np.ndarray:
        d = rng.normal(size=3) + high * up + np.array([0, 0, -0.9])
        return d / np.linalg.norm(d)

    warmth = rng.normal(0, 0.12)
    color = np.exp(np.array([warmth, 0.0, -warmth]) + rng.normal(0, 0.02, 3))
    key = rng.uniform(0.35, 1.5)
    ambient = rng.uniform(0.25, 0.7)
    tint = np.exp(rng.normal(0, 0.08, 3))
    return Lights(
        key=direction(1.3),
        key_color=color * key,
        fill=direction(0.3),
        fill_color=np.exp(rng.normal(0, 0.08, 3)) * rng.uniform(0, 0.4),
        sky=tint * ambient,
        ground=tint * ambient * rng.uniform(0.35, 0.8),
        up=up,
    )


@njit(cache=True, fastmath=True, nogil=True)
@no_type_check
def vertex_normals(vertices, faces):
    """Unit vertex normals, faces weighted by area."""
    out = np.zeros_like(vertices)
    for k in range(faces.shape[0]):
        a, b, c = faces[k, 0], faces[k, 1], faces[k, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        wx, wy, wz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        n0, n1, n2 = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
        for v in (a, b, c):
            out[v, 0] += n0
            out[v, 1] += n1
            out[v, 2] += n2
    for v in range(out.shape[0]):
        length = np.sqrt(out[v, 0] ** 2 + out[v, 1] ** 2 + out[v, 2] ** 2) + np.float32(1e-20)
        for i in range(3):
            out[v, i] /= length
    return out


@njit(cache=True, fastmath=True, nogil=True)
@no_type_check
def _areas(vertices, faces):
    """A third of the area of a vertex's faces."""
    out = np.zeros(vertices.shape[0], np.float32)
    for k in range(faces.shape[0]):
        a, b, c = faces[k, 0], faces[k, 1], faces[k, 2]
        u, w = vertices[b] - vertices[a], vertices[c] - vertices[a]
        n0, n1, n2 = u[1] * w[2] - u[2] * w[1], u[2] * w[0] - u[0] * w[2], u[0] * w[1] - u[1] * w[0]
        area = np.sqrt(n0 * n0 + n1 * n1 + n2 * n2) / 6
        out[a] += area
        out[b] += area
        out[c] += area
    return out


def surface_occlusion(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Share of ambient light that reaches each vertex (V, float32), all others taken as discs.

    Bunnell, "Dynamic ambient occlusion and indirect lighting" (GPU Gems 2, ch. 14), within 5 cm.
    """
    normals, areas = vertex_normals(vertices, faces), _areas(vertices, faces)
    columns = (np.ascontiguousarray(column, np.float32) for column in (*vertices.T, *normals.T, areas))
    return _occlusion(*columns)


@njit(cache=True, fastmath=True, nogil=True)
@no_type_check
def _occlusion(x, y, z, nx, ny, nz, area):
    count = x.shape[0]
    out = np.ones(count, np.float32)
    reach, tiny, zero, pi = np.float32(0.0025), np.float32(1e-9), np.float32(0), np.float32(3.1416)
    behind = np.float32(-0.3)
    for i in range(count):
        total = zero
        px, py, pz, n0, n1, n2 = x[i], y[i], z[i], nx[i], ny[i], nz[i]
        for j in range(count):  # no branches: this loop is vectorised
            d0, d1, d2 = x[j] - px, y[j] - py, z[j] - pz
            square = d0 * d0 + d1 * d1 + d2 * d2 + tiny
            facing = max(n0 * d0 + n1 * d1 + n2 * d2, zero)
            # discs count from both sides, less from behind
            turned = -(nx[j] * d0 + ny[j] * d1 + nz[j] * d2)
            lit = max(turned, behind * turned)
            term = facing * lit * area[j] / (square * (pi * square + area[j]))
            total += term if square < reach else zero
        out[i] = np.exp(np.float32(-1.6) * total)
    return out


class ShadowMap(NamedTuple):
    """What the key light sees, from 1.5 m away."""

    inverse: np.ndarray
    """Inverse depth, 0 where it meets nothing."""
    view: np.ndarray
    """3 x 4: camera frame to the light's."""
    focal: np.float32
    """Pixels of the map."""


def shadow_map(vertices: np.ndarray, faces: np.ndarray, middle: np.ndarray, key: np.ndarray) -> ShadowMap:
    """Of everything within 26 cm of ``middle``, lit from direction ``key``."""
    forward = -key
    right = np.cross(forward, [0.13, 0.97, 0.2])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    offset = -rotation @ (middle + 1.5 * key)
    focal = _SIDE / 2 * 1.5 / 0.26
    matrix = np.array([[focal, 0, _SIDE / 2], [0, focal, _SIDE / 2], [0, 0, 1]])
    placed = (vertices @ rotation.T + offset).astype(np.float32)
    _, inverse = zbuffer(placed, faces, matrix, (_SIDE, _SIDE))
    return ShadowMap(inverse, np.concatenate([rotation, offset[:, None]], 1).astype(np.float32), np.float32(focal))


@njit(cache=True, fastmath=True, nogil=True)
@no_type_check
def lit_share(x, y, z, bias, spread, shadow, view, focal):
    """Share of the key light that reaches a point: 3 x 3 taps of the shadow map, ``spread`` pixels apart."""
    side = shadow.shape[0]
    lx = view[0, 0] * x + view[0, 1] * y + view[0, 2] * z + view[0, 3]
    ly = view[1, 0] * x + view[1, 1] * y + view[1, 2] * z + view[1, 3]
    lz = view[2, 0] * x + view[2, 1] * y + view[2, 2] * z + view[2, 3]
    lit = np.float32(1)
    if lz < 0.1:
        return lit
    u, v = lx / lz * focal + side / 2, ly / lz * focal + side / 2
    near = np.float32(1) / (lz - bias)
    for a in range(-1, 2):
        for b in range(-1, 2):
            i, j = int(v + spread * a + 0.5), int(u + spread * b + 0.5)
            if i >= 0 and j >= 0 and i < side and j < side and shadow[i, j] > near:
                lit -= np.float32(1) / 9
    return lit
