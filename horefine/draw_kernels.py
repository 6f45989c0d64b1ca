"""The inner loop of a picture: which surface each sample sees, its light, and the mean over a pixel's samples."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["shade"]

_jit = njit(cache=True, nogil=True, error_model="numpy", fastmath={"nsz", "arcp", "contract", "reassoc"})
ZERO, HALF, TINY = np.float32(0), np.float32(0.5), np.float32(1e-12)
DIFFUSE, SKY, AMBIENT, SHINE = np.float32(0.72), np.float32(0.30), np.float32(0.13), np.float32(0.10)


@_jit
def shade(ids, depth, normals, colors, numbers, key, half, factor, color, alpha, labels):
    """Surfaces under a key light, sky light and a faint highlight (to the 32nd power); they hide each other by depth.

    Args:
        ids, depth: "S h w": the face that each surface has at a sample (negative: none) and its depth.
        normals: "S 3 h w", of any length.
        colors: "S 3", linear light. numbers: "S", what ``labels`` says where a surface is seen.
        key, half: "3", unit vectors to the light and halfway between it and the eye.
        factor: samples along each side of a pixel.
        color, alpha: "H W 3" and "H W" with ``h = factor H``: written, means over each pixel's samples.
        labels: "h w": written, 0 where nothing is seen.
    """
    share = np.float32(1) / np.float32(factor * factor)
    for i in range(color.shape[0]):
        for j in range(color.shape[1]):
            red, green, blue, count = ZERO, ZERO, ZERO, 0
            for y in range(i * factor, (i + 1) * factor):
                for x in range(j * factor, (j + 1) * factor):
                    nearest, who = np.float32(np.inf), -1
                    for s in range(ids.shape[0]):
                        if ids[s, y, x] >= 0 and depth[s, y, x] < nearest:
                            nearest, who = depth[s, y, x], s
                    if who < 0:
                        labels[y, x] = 0
                        continue
                    labels[y, x] = numbers[who]
                    nx, ny, nz = normals[who, 0, y, x], normals[who, 1, y, x], normals[who, 2, y, x]
                    inverse = np.float32(1) / math.sqrt(nx * nx + ny * ny + nz * nz + TINY)
                    nx, ny, nz = nx * inverse, ny * inverse, nz * inverse
                    shine = max(nx * half[0] + ny * half[1] + nz * half[2], ZERO)
                    for _ in range(5):
                        shine = shine * shine
                    light = DIFFUSE * max(nx * key[0] + ny * key[1] + nz * key[2], ZERO)
                    light += SKY * (HALF - HALF * ny) + AMBIENT  # the sky is towards minus y
                    red += light * colors[who, 0] + SHINE * shine
                    green += light * colors[who, 1] + SHINE * shine
                    blue += light * colors[who, 2] + SHINE * shine
                    count += 1
            color[i, j, 0], color[i, j, 1], color[i, j, 2] = red * share, green * share, blue * share
            alpha[i, j] = np.float32(count) * share
