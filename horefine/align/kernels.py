"""The numba kernel behind :mod:`horefine.align.templates`: many small pictures against one, at many places."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["match_templates"]


@njit(cache=True, nogil=True)
def _box(mask: np.ndarray) -> tuple:
    """Rows and columns first..last (exclusive) that hold anything of a mask."""
    height, width = mask.shape
    top, bottom, left, right = height, 0, width, 0
    for i in range(height):
        for j in range(width):
            if mask[i, j] > 0.01:
                top, bottom = min(top, i), max(bottom, i + 1)
                left, right = min(left, j), max(right, j + 1)
    return top, bottom, left, right


@njit(cache=True, nogil=True, fastmath=True)
def _cost(mask, paint, ids, box, di, dj, seen, hand, target, total, sigmas, bound, weight, light, limit):
    """Cost of one template moved by (di, dj); stops early where it cannot fall below ``limit``."""
    height, width = seen.shape
    top, bottom, left, right = box
    first_i, last_i = max(top, -di), min(bottom, height - di)
    first_j, last_j = max(left, -dj), min(right, width - dj)
    both, drawn, painted = 0.0, 0.0, 0.0
    m0, m1, m2 = 0.0, 0.0, 0.0
    for i in range(first_i, last_i):
        for j in range(first_j, last_j):
            cover = mask[i, j]
            y, x = i + di, j + dj
            if cover > 0.01 and hand[y, x] < 0.5:
                drawn += cover
                share = cover * seen[y, x]
                both += share
                if ids[i, j] >= 0:
                    painted += share
                    m0 += share * (target[0, y, x] - paint[0, i, j])
                    m1 += share * (target[1, y, x] - paint[1, i, j])
                    m2 += share * (target[2, y, x] - paint[2, i, j])
    if painted < 1.0:
        return math.inf
    outline = weight * (1 - both / (total + drawn - both))
    m0, m1, m2 = m0 / painted, m1 / painted, m2 / painted
    base = outline + 0.3 * (m0 * m0 + m1 * m1) / (light * light)
    if base >= limit:
        return math.inf
    chroma, luminance = 1 / (sigmas[0] * sigmas[0]), 1 / (sigmas[1] * sigmas[1])
    cost = 0.0
    for i in range(first_i, last_i):
        for j in range(first_j, last_j):
            y, x = i + di, j + dj
            if mask[i, j] > 0.01 and ids[i, j] >= 0 and hand[y, x] < 0.5:
                share = mask[i, j] * seen[y, x]
                if share > 0.05:
                    a = target[0, y, x] - paint[0, i, j] - m0
                    b = target[1, y, x] - paint[1, i, j] - m1
                    c = target[2, y, x] - paint[2, i, j] - m2
                    square = (a * a + b * b) * chroma + c * c * luminance
                    cost += share * square / (1 + square / bound)
    return cost / painted + base


@njit(cache=True, nogil=True)
def match_templates(masks, paints, ids, seen, hand, target, reach, sigmas, bound, weight, light, costs, moves):
    """Best place of each template within ``reach`` pixels, first on every second place, then around the best.

    Args:
        masks, ids: R x S x S; paints: R x 3 x S x S, :func:`log_color` of the templates.
        seen, hand: S x S, share of each pixel that shows object and hand; target: 3 x S x S.
        sigmas: of chroma and luminance; bound: square of the kernel's width; weight: of 1 - overlap; light: see losses.
        costs: R, written; moves: R x 2 (rows, columns), written.
    """
    total = 0.0
    for i in range(seen.shape[0]):
        for j in range(seen.shape[1]):
            if hand[i, j] < 0.5:
                total += seen[i, j]
    for r in range(len(masks)):
        box = _box(masks[r])
        best, row, column = math.inf, 0, 0
        for di in range(-reach, reach + 1, 2):
            for dj in range(-reach, reach + 1, 2):
                cost = _cost(
                    masks[r], paints[r], ids[r], box, di, dj, seen, hand, target, total, sigmas, bound, weight, light,
                    best,
                )  # fmt: skip
                if cost < best:
                    best, row, column = cost, di, dj
        middle_row, middle_column = row, column
        for di in range(middle_row - 1, middle_row + 2):
            for dj in range(middle_column - 1, middle_column + 2):
                if di != middle_row or dj != middle_column:
                    cost = _cost(
                        masks[r], paints[r], ids[r], box, di, dj, seen, hand, target, total, sigmas, bound, weight,
                        light, best,
                    )  # fmt: skip
                    if cost < best:
                        best, row, column = cost, di, dj
        costs[r], moves[r, 0], moves[r, 1] = best, row, column
