"""Numba kernels of robust squares: what observations cost, and their rows, image by image, in the precision given.

The readable twin of the costs is ``robust.geman_mcclure`` on ``robust.trusted``; residuals are those of the losses in
``robust``, and rows are tested against the slopes of the costs. (After a change of ``distance_kernels._to_triangle``
touch this file: numba's cache does not notice.)
Side 0 is the hand, side 1 the object. ``confidence`` with no last dimension: none is known. An observation that is not
``used`` is skipped and its numbers stay 0.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from horefine.distance_kernels import _to_triangle

__all__ = ["list_pixels", "robust_cost", "see_pairs", "sight", "split_by_grazing", "weights_on_triangles", "write_rows"]

_jit = njit(cache=True, nogil=True, error_model="numpy", fastmath={"nsz", "arcp", "contract", "reassoc"})


@_jit
def robust_cost(values, used, confidence, sigma, kernel, weight, total):
    """Adds ``weight`` times the Geman-McClure cost of values (B 2 N K) to ``total`` (B)."""
    bound, trusted = kernel * kernel, confidence.shape[2] > 0
    for b in range(values.shape[0]):
        found = 0.0
        for s in range(2):
            inverse = 1 / np.float64(sigma[b, s])
            for n in range(values.shape[2]):
                u = np.float64(used[b, s, n])
                if not u > 0:
                    continue
                q = 0.0
                for k in range(values.shape[3]):
                    r = values[b, s, n, k] * inverse
                    q += r * r
                if trusted:
                    if not confidence[b, s, n] > 0:
                        continue
                    q *= confidence[b, s, n]
                found += u * (q / (1 + q / bound)) if kernel > 0 else u * q
        total[b] += weight * found


@_jit
def split_by_grazing(values, valid, seen, grazing, least, confidence, sigma, kernel, weight, used, fixed):
    """Writes ``used`` (B 2 N), and what the others cost to ``fixed`` (B): pixels that see nothing, or a face edge-on.

    ``seen`` is ``valid``, or 0 for a pixel that sees nothing; ``least`` is the cosine of what is edge-on.
    """
    bound, trusted = kernel * kernel, confidence.shape[2] > 0
    for b in range(values.shape[0]):
        found = 0.0
        for s in range(2):
            inverse = 1 / np.float64(sigma[b, s])
            for n in range(values.shape[2]):
                u = np.float64(valid[b, s, n])
                used[b, s, n] = 0
                if not u > 0:
                    continue
                trust = np.float64(confidence[b, s, n]) if trusted else 1.0
                if not seen[b, s, n] > 0:
                    found += bound * u if trust > 0 and kernel > 0 else 0.0
                    continue
                if grazing[b, s, n] > least:
                    used[b, s, n] = valid[b, s, n]
                    continue
                if not trust > 0:
                    continue
                q = 0.0
                for k in range(values.shape[3]):
                    r = values[b, s, n, k] * inverse
                    q += r * r
                q *= trust
                found += u * (q / (1 + q / bound)) if kernel > 0 else u * q
        fixed[b] = weight * found


@_jit
def write_rows(
    values, slope, point, used, confidence, sigma, kernel, weight, root, center, stretch,
    hand_values, hand_slope, hand_wrench, hand_weight, values_, wrench_, weight_,
):  # fmt: skip
    """Writes the rows (``forms.PointRows``) of observations (B 2 N K): of the hand, then (underscored) of the object.

    ``root`` is the change of the values when the object's centre gets a metre deeper; ``stretch`` B (what the focal
    length is multiplied with) belongs to slopes and points, which are where the given camera sees them.
    """
    bound, trusted = kernel * kernel, confidence.shape[2] > 0
    for b in range(values.shape[0]):
        e = np.float64(stretch[b])
        for s in range(2):
            inverse = 1 / np.float64(sigma[b, s])
            for n in range(values.shape[2]):
                u = np.float64(used[b, s, n])
                if not u > 0:
                    continue
                trust = np.float64(confidence[b, s, n]) if trusted else 1.0
                q = 0.0
                for k in range(values.shape[3]):
                    r = values[b, s, n, k] * inverse
                    q += r * r
                part = 1 + q * trust / bound if kernel > 0 else 1.0
                w = u * trust * weight / (part * part)
                if s == 0:
                    hand_weight[b, n] = w
                    for k in range(values.shape[3]):
                        hand_values[b, n, k] = values[b, s, n, k] * inverse
                        hand_slope[b, n, k, 0] = slope[b, s, n, k, 0] * inverse * e
                        hand_slope[b, n, k, 1] = slope[b, s, n, k, 1] * inverse * e
                        hand_slope[b, n, k, 2] = slope[b, s, n, k, 2] * inverse
                        hand_wrench[b, n, k, 2] = root * inverse
                    continue
                weight_[b, n] = w
                x, y = point[b, s, n, 0] / e - center[b, 0], point[b, s, n, 1] / e - center[b, 1]
                z = point[b, s, n, 2] - center[b, 2]
                for k in range(values.shape[3]):
                    values_[b, n, k] = values[b, s, n, k] * inverse
                    s0, s1 = slope[b, s, n, k, 0] * inverse * e, slope[b, s, n, k, 1] * inverse * e
                    s2 = slope[b, s, n, k, 2] * inverse
                    wrench_[b, n, k, 0], wrench_[b, n, k, 1], wrench_[b, n, k, 2] = s0, s1, s2 + root * inverse
                    wrench_[b, n, k, 3] = y * s2 - z * s1
                    wrench_[b, n, k, 4] = z * s0 - x * s2
                    wrench_[b, n, k, 5] = x * s1 - y * s0


@_jit
def see_pairs(
    hand, corners, share, local, turn, transl, stretch, pixel, depth, matrix, center, used, flat, sloped,
    values, slope, point,
):  # fmt: skip
    """Writes residuals, slopes and points (as the given camera sees them) of correspondences.

    ``flat``: K = 2, the projected surface point minus its ``pixel``; else K = 1, its depth below the object's centre
    minus ``depth``. The hand's points are ``share`` of the vertices ``corners`` (B 2 N 3), the object's are ``local``
    (B N 3), object frame; ``turn`` has the object's size in it.
    """
    for b in range(hand.shape[0]):
        e, points, t, o = stretch[b], hand[b], turn[b], transl[b]
        fx, fy, cx, cy = matrix[b, 0, 0], matrix[b, 1, 1], matrix[b, 0, 2], matrix[b, 1, 2]
        for s in range(2):
            for n in range(used.shape[2]):
                if not used[b, s, n] > 0:
                    continue
                if s == 0:
                    i, j, k = corners[b, 0, n, 0], corners[b, 0, n, 1], corners[b, 0, n, 2]
                    u, v, w = share[b, 0, n, 0], share[b, 0, n, 1], share[b, 0, n, 2]
                    x = u * points[i, 0] + v * points[j, 0] + w * points[k, 0]
                    y = u * points[i, 1] + v * points[j, 1] + w * points[k, 1]
                    z = u * points[i, 2] + v * points[j, 2] + w * points[k, 2]
                else:
                    u, v, w = local[b, n, 0], local[b, n, 1], local[b, n, 2]
                    x = t[0, 0] * u + t[0, 1] * v + t[0, 2] * w + o[0]
                    y = t[1, 0] * u + t[1, 1] * v + t[1, 2] * w + o[1]
                    z = t[2, 0] * u + t[2, 1] * v + t[2, 2] * w + o[2]
                x, y = x * e, y * e
                if not flat:
                    values[b, s, n, 0] = z - center[b, 2] - depth[b, s, n]
                else:
                    values[b, s, n, 0] = fx * x / z + cx - pixel[b, s, n, 0]
                    values[b, s, n, 1] = fy * y / z + cy - pixel[b, s, n, 1]
                if not sloped:
                    continue
                point[b, s, n, 0], point[b, s, n, 1], point[b, s, n, 2] = x, y, z
                if not flat:
                    slope[b, s, n, 0, 2] = 1
                else:
                    slope[b, s, n, 0, 0], slope[b, s, n, 1, 1] = fx / z, fy / z
                    slope[b, s, n, 0, 2], slope[b, s, n, 1, 2] = -fx * x / (z * z), -fy * y / (z * z)


@_jit
def sight(ids, index, faces, hand_faces, corners, drawn):
    """Writes the corners (B 2 N 3) of the face that each pixel of ``index`` (B 2 N) sees, and 1 for it in ``drawn``.

    ``ids`` (B 2 P) are those of the renderer, ``faces`` (B F 3) the hand's (``hand_faces`` of them) and the object's.
    Where there is no face corners and ``drawn`` are 0.
    """
    for b in range(index.shape[0]):
        for s in range(2):
            first = hand_faces if s else 0
            for n in range(index.shape[2]):
                found = ids[b, s, index[b, s, n]]
                drawn[b, s, n] = 1 if found >= 0 else 0
                for c in range(3):
                    corners[b, s, n, c] = faces[b, first + found, c] if found >= 0 else 0


@_jit
def list_pixels(shown, count, index, valid):
    """Writes the places (B 2 N) of pixels whose ``shown`` (B 2 P) is above 0, in reading order, and 1 for each."""
    for b in range(shown.shape[0]):
        for s in range(2):
            found = 0
            for p in range(shown.shape[2]):
                if shown[b, s, p] > 0 and found < count:
                    index[b, s, found], valid[b, s, found] = p, 1
                    found += 1


@_jit
def weights_on_triangles(points, triangles):
    """Barycentric weights (N 3) of the point on each triangle (N 9) that is nearest to the point (N 3); double."""
    found = np.empty((points.shape[0], 3))
    for n in range(points.shape[0]):
        _, v, w = _to_triangle(points[n, 0], points[n, 1], points[n, 2], triangles[n])
        found[n, 0], found[n, 1], found[n, 2] = 1 - v - w, v, w
    return found
