"""Numba kernels behind the image losses as squares: what a pixel's ray says of its face, and how outlines cover pixels.

:func:`see_pixels` is one pass over the pixels of a batch, serial, in the precision it is given; its readable twins
are ``hit``, ``see_code`` and ``see_rendered_depth`` of ``losses.image_squares``. A pixel whose weight is 0 is skipped:
its numbers are 0.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["outline_slopes", "see_pixels"]

_jit = njit(cache=True, nogil=True, error_model="numpy", fastmath={"nsz", "arcp", "contract", "reassoc"})


@_jit
def see_pixels(
    vertices, corners, ray, used, codes, target, root, code, sloped,
    values, slope, barycentric, depth, grazing,
):  # fmt: skip
    """Writes residuals (B M K), their slopes (B M K 3), barycentrics, depths and cosines of M pixels in B images.

    ``code``: K = 3 residuals, rendered code minus ``target``; else K = 1, rendered depth minus ``root`` minus
    ``target``. ``sloped`` says whether slopes and barycentrics are wanted.
    """
    for b in range(corners.shape[0]):
        points = vertices[b]
        for n in range(corners.shape[1]):
            if not used[b, n] > 0:
                continue
            i, j, k = corners[b, n, 0], corners[b, n, 1], corners[b, n, 2]
            dx, dy, dz = ray[b, n, 0], ray[b, n, 1], ray[b, n, 2]
            ax, ay, az = points[i, 0], points[i, 1], points[i, 2]
            ux, uy, uz = points[j, 0] - ax, points[j, 1] - ay, points[j, 2] - az
            wx, wy, wz = points[k, 0] - ax, points[k, 1] - ay, points[k, 2] - az
            nx, ny, nz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
            square = nx * nx + ny * ny + nz * nz
            along = nx * dx + ny * dy + nz * dz
            if square < 1e-24:
                square += 1e-24
            if abs(along) < 1e-16:
                along += 1e-16
            z = (nx * ax + ny * ay + nz * az) / along
            grazing[b, n] = abs(along) / math.sqrt(square * (dx * dx + dy * dy + dz * dz))
            depth[b, n] = z
            tx, ty, tz = nx / along, ny / along, nz / along
            if not code:
                values[b, n, 0] = z - root[b] - target[b, n, 0]
                if not sloped:
                    continue
                slope[b, n, 0, 0], slope[b, n, 0, 1], slope[b, n, 0, 2] = tx, ty, tz
            inverse = 1 / square
            px, py, pz = z * dx - ax, z * dy - ay, z * dz - az
            fx, fy, fz = (wy * nz - wz * ny) * inverse, (wz * nx - wx * nz) * inverse, (wx * ny - wy * nx) * inverse
            sx, sy, sz = (ny * uz - nz * uy) * inverse, (nz * ux - nx * uz) * inverse, (nx * uy - ny * ux) * inverse
            one, two = px * fx + py * fy + pz * fz, px * sx + py * sy + pz * sz
            barycentric[b, n, 0], barycentric[b, n, 1], barycentric[b, n, 2] = 1 - one - two, one, two
            if not code:
                continue
            for c in range(3):
                base = codes[b, i, c]
                first, second = codes[b, j, c] - base, codes[b, k, c] - base
                values[b, n, c] = base + one * first + two * second - target[b, n, c]
                if sloped:
                    mx, my, mz = first * fx + second * sx, first * fy + second * sy, first * fz + second * sz
                    shift = mx * dx + my * dy + mz * dz
                    slope[b, n, c, 0] = shift * tx - mx
                    slope[b, n, c, 1] = shift * ty - my
                    slope[b, n, c, 2] = shift * tz - mz


@_jit
def outline_slopes(pixels, outline, mode, matrix, number, scale):
    """How the coverage of the pixels numbered in ``number`` (-1: not wanted) changes with the outline's vertices.

    ``pixels`` Vx3 and ``outline`` Ex3 as the renderer's kernels have them (pixel i, j is the square [j, j+1] x
    [i, i+1]). Returns pixel number, vertex and slope per metre (times ``scale``) of each contribution: an edge sweeps
    area along its normal, in a cell by the integral of 1 - t (its start) and of t (its end) over its part there.
    """
    height, width = mode.shape
    most = 0
    for e in range(outline.shape[0]):
        a, b = outline[e, 0], outline[e, 1]
        most += 2 * (3 + int(min(abs(pixels[a, 0] - pixels[b, 0]) + abs(pixels[a, 1] - pixels[b, 1]), 1e6)))
    row, vertex, slope = np.empty(most, np.int64), np.empty(most, np.int64), np.empty((most, 3))
    ends = np.empty((2, 3))
    fx, fy, cx, cy = matrix[0, 0], matrix[1, 1], matrix[0, 2] + 0.5, matrix[1, 2] + 0.5
    found = 0
    for e in range(outline.shape[0]):
        a, b, kind = outline[e, 0], outline[e, 1], outline[e, 2]
        ax, ay = np.float64(pixels[a, 0]), np.float64(pixels[a, 1])
        dx, dy = pixels[b, 0] - ax, pixels[b, 1] - ay
        for q in range(2):
            v = a if q == 0 else b
            h = np.float64(pixels[v, 2]) * scale
            gx, gy = -dy * h, dx * h
            ends[q, 0], ends[q, 1] = gx * fx, gy * fy
            ends[q, 2] = -(gx * (pixels[v, 0] - cx) + gy * (pixels[v, 1] - cy))
        t = 0.0
        while t < 1 - 1e-9 and found + 2 <= most:
            x, y = ax + (t + 1e-7) * dx, ay + (t + 1e-7) * dy
            j, i = math.floor(x), math.floor(y)
            end = 1.0
            if dx > 0:
                end = min(end, (j + 1 - ax) / dx)
            elif dx < 0:
                end = min(end, (j - ax) / dx)
            if dy > 0:
                end = min(end, (i + 1 - ay) / dy)
            elif dy < 0:
                end = min(end, (i - ay) / dy)
            end = max(end, t + 1e-6)
            if i >= 0 and i < height and j >= 0 and j < width and number[i, j] >= 0:
                sign = float(kind & 1) - (float((kind & 2) >> 1) if (mode[i, j] & 1) != 0 else 0.0)
                middle = 0.5 * (t + end)
                for q in range(2):
                    part = sign * (end - t) * (middle if q else 1 - middle)
                    row[found], vertex[found] = number[i, j], b if q else a
                    slope[found, 0], slope[found, 1], slope[found, 2] = (
                        part * ends[q, 0], part * ends[q, 1], part * ends[q, 2],
                    )  # fmt: skip
                    found += 1
            t = end
    return row[:found], vertex[:found], slope[:found]
