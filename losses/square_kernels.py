"""Numba kernels behind :mod:`horefine.losses.image_squares`: what the ray of a pixel says of the face it sees.

One pass over the pixels of a batch, serial, in the precision it is given; the readable twins are ``hit``,
``see_code`` and ``see_rendered_depth`` of that module. A pixel whose weight is 0 is skipped: its numbers are 0.
"""

from __future__ import annotations

import math

from numba import njit

__all__ = ["see_pixels"]

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
