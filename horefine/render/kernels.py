"""The numba kernels of the cpu backend: visibility, exact-area coverage, and their gradients.

Coverage (the mask). Every edge between a face that looks at the camera and one that does not is walked through the
pixel grid and the signed area to its right is accumulated, as font rasterisers do (the area-accumulation algorithm of
FreeType's smooth rasteriser); a running sum along the row then is the exact box-filtered area of the silhouette. An
open mesh adds its boundary loop: with S the projected area of the front faces and D that of the loop, S - D is the area
of the back faces, and the coverage is the larger of the two.

Gradient of coverage. Moving an edge sweeps area along its normal: ``dA/dP0 = N * integral(1 - t)``, ``dA/dP1 = N *
integral(t)`` over the part inside the pixel, so the backward pass walks the same edges. It is exact where 0 < A < 1.

Depth and values. With M = [A B C] the face's corners as columns and d = K^-1 (u, v, 1) the pixel's ray, w = M^-1 d
gives depth z = 1 / sum(w) and perspective-correct barycentrics b = z w; from dw = -M^-1 dM w the gradient to corner j
is ``-w_j * sum_i(g_i r_i)``, r_i the rows of M^-1. No projection is chained through.

Inside the kernels a pixel (i, j) is the square [j, j+1] x [i, i+1]: half a pixel is added to the principal point,
because outside pixel (0, 0) is the *centre* of the top-left pixel. Everything is float32 and serial within
an item, so that an item's result does not depend on its neighbours.

All kernels are in this one file because numba's cache notices changes only in the file of the outermost function.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["backward", "forward"]

F = np.float32
ONE, HALF, ZERO, HUGE = F(1), F(0.5), F(0), F(1e30)
NEAR = F(0.01)
"""Metres; a face with a corner closer to the camera's plane than this is not drawn."""
FAR_PIXEL = F(1e6)
"""A face with a corner farther than this from the image (or not finite) is not drawn."""
SLACK = F(1e-5)
"""Of the inside test, in barycentric units: no cracks between faces."""
FULL = F(1e-5)
"""Coverage this close to 0 or 1 is 0 or 1: the float32 noise of a row's running sum."""
GRAZING = F(1e-3)
"""Cosine between ray and face below which depth and values get no gradient."""
_jit = njit(cache=True, nogil=True, error_model="numpy", fastmath={"nsz", "arcp", "contract", "afn"})
SMALL = 32
"""Pixels of a box that is listed rather than walked."""
LISTED = 2048
"""(face, pixel) pairs that are listed before they are tested."""
BOX_STEPS = np.array([[((e // w) << 16) + e % w if w else 0 for e in range(SMALL)] for w in range(SMALL + 1)], np.int32)
"""Of box width and number: row and column within the box, packed into one integer."""
FRONT_BIT, LOOP_BIT = 1, 2
FROM_BACK, CLAMPED = 1, 2


@_jit
def _project(vertices, matrix, pixels):
    """Corner positions in pixels and 1/z; 1/z = -1 marks a vertex that cannot be drawn."""
    fx, fy, cx, cy = matrix[0, 0], matrix[1, 1], matrix[0, 2] + HALF, matrix[1, 2] + HALF
    for k in range(vertices.shape[0]):
        z = vertices[k, 2]
        inverse = ONE / z
        u = fx * vertices[k, 0] * inverse + cx
        v = fy * vertices[k, 1] * inverse + cy
        good = z > NEAR and abs(u) < FAR_PIXEL and abs(v) < FAR_PIXEL
        pixels[k, 0] = u
        pixels[k, 1] = v
        pixels[k, 2] = inverse if good else -ONE


@_jit
def _face(faces, pixels, cull, facing, drawn):
    """1: seen from outside (corners run anticlockwise in the picture), -1: from inside, 0: edge-on or not drawn.

    Lists the faces to draw in ``drawn`` and returns how many. No branches: half the faces turn away, unpredictably.
    """
    count = 0
    for k in range(faces.shape[0]):
        a, b, c = np.uintp(faces[k, 0]), np.uintp(faces[k, 1]), np.uintp(faces[k, 2])
        ax, ay = pixels[a, 0], pixels[a, 1]
        area = (pixels[b, 0] - ax) * (pixels[c, 1] - ay) - (pixels[c, 0] - ax) * (pixels[b, 1] - ay)
        there = min(pixels[a, 2], min(pixels[b, 2], pixels[c, 2])) > ZERO
        side = (int(area < ZERO) - int(area > ZERO)) * int(there)
        facing[k] = side
        drawn[count] = k
        count += int(side > 0) if cull else int(side != 0)
    return count


@_jit
def _visible(faces, pixels, drawn, count, inverse_depth, ids, planes, fragments):
    """z-buffer on 1/z, which is affine in the picture; the first face wins a tie.

    Faces are about a pixel, so loops over their boxes would mispredict at every turn. Instead the pixels of all small
    boxes are listed without branches (eight at a time, of which the surplus is overwritten by the next face) and then
    tested in one long loop; only the box of a large face is walked.
    """
    height, width = ids.shape
    ids[:] = -1
    inverse_depth[:] = ZERO
    last_column, last_row = F(width - 1), F(height - 1)
    listed = 0
    for n in range(count):
        k = drawn[n]
        a, b, c = np.uintp(faces[k, 0]), np.uintp(faces[k, 1]), np.uintp(faces[k, 2])
        # pixel centres are at j + 1/2
        ax, ay, bx, by = pixels[a, 0] - HALF, pixels[a, 1] - HALF, pixels[b, 0] - HALF, pixels[b, 1] - HALF
        cx, cy, cz = pixels[c, 0] - HALF, pixels[c, 1] - HALF, pixels[c, 2]
        left = math.ceil(max(min(ax, min(bx, cx)), ZERO))
        right = math.floor(min(max(ax, max(bx, cx)), last_column))
        top = math.ceil(max(min(ay, min(by, cy)), ZERO))
        bottom = math.floor(min(max(ay, max(by, cy)), last_row))
        scale = ONE / ((bx - ax) * (cy - ay) - (cx - ax) * (by - ay))
        planes[n, 0], planes[n, 1] = (by - cy) * scale, (cx - bx) * scale
        planes[n, 2], planes[n, 3] = (cy - ay) * scale, (ax - cx) * scale
        planes[n, 4], planes[n, 5], planes[n, 6] = cx, cy, cz
        planes[n, 7], planes[n, 8] = pixels[a, 2] - cz, pixels[b, 2] - cz
        wide = right - left + 1 if top <= bottom and left <= right else 0
        total = wide * (bottom - top + 1)
        if total > SMALL:
            _test(fragments, listed, planes, drawn, inverse_depth, ids)
            listed = 0
            _test_box(planes, n, k, left, right, top, bottom, inverse_depth, ids)
            continue
        corner = (top << 16) + left
        e = 0
        while True:
            for step in range(8):
                fragments[listed + e + step, 0] = n
                fragments[listed + e + step, 1] = corner + BOX_STEPS[wide, e + step]
            e += 8
            if e >= total:
                break
        listed += total
        if listed + SMALL > fragments.shape[0]:
            _test(fragments, listed, planes, drawn, inverse_depth, ids)
            listed = 0
    _test(fragments, listed, planes, drawn, inverse_depth, ids)


@_jit
def _test(fragments, listed, planes, drawn, inverse_depth, ids):
    """The depth test of listed (face, pixel) pairs."""
    for m in range(listed):
        n, place = np.uintp(fragments[m, 0]), fragments[m, 1]
        row, column = place >> 16, place & 0xFFFF
        x, y = F(column) - planes[n, 4], F(row) - planes[n, 5]
        b0, b1 = x * planes[n, 0] + y * planes[n, 1], x * planes[n, 2] + y * planes[n, 3]
        z = planes[n, 6] + b0 * planes[n, 7] + b1 * planes[n, 8]
        i, j = np.uintp(row), np.uintp(column)
        wins = (min(b0, min(b1, ONE - b0 - b1)) >= -SLACK) & (z > inverse_depth[i, j])
        inverse_depth[i, j] = z if wins else inverse_depth[i, j]
        ids[i, j] = drawn[n] if wins else ids[i, j]


@_jit
def _test_box(planes, n, k, left, right, top, bottom, inverse_depth, ids):
    """The depth test of a face in all pixels of its box."""
    for i in range(top, bottom + 1):
        y = F(i) - planes[n, 5]
        for j in range(left, right + 1):
            x = F(j) - planes[n, 4]
            b0, b1 = x * planes[n, 0] + y * planes[n, 1], x * planes[n, 2] + y * planes[n, 3]
            z = planes[n, 6] + b0 * planes[n, 7] + b1 * planes[n, 8]
            if (min(b0, min(b1, ONE - b0 - b1)) >= -SLACK) & (z > inverse_depth[i, j]):
                inverse_depth[i, j] = z
                ids[i, j] = k


@_jit
def _outline(edges, facing, closed, outline):
    """Writes the edges that bound the front faces (bit 1) or the surface itself (bit 2); returns how many."""
    count = 0
    for e in range(edges.shape[0]):
        there = facing[edges[e, 2]]
        back = edges[e, 3]
        if back >= 0:
            seen_back = facing[back] > 0
            if (there > 0) == seen_back:
                continue
            outline[count, 0] = edges[e, 1] if seen_back else edges[e, 0]
            outline[count, 1] = edges[e, 0] if seen_back else edges[e, 1]
            outline[count, 2] = FRONT_BIT
            count += 1
        elif there != 0:
            outline[count, 0] = edges[e, 0]
            outline[count, 1] = edges[e, 1]
            outline[count, 2] = LOOP_BIT + (FRONT_BIT if there > 0 else 0)
            count += 1
    return count


@_jit
def _add_left(ay, by, area):
    """The part of an edge left of the picture covers whole rows from column 0 on."""
    height = area.shape[0]
    low, high, sign = (ay, by, ONE) if by > ay else (by, ay, -ONE)
    low, high = max(low, ZERO), min(high, F(height))
    i = int(low)
    while i < height and F(i) < high:
        area[i, 0] += sign * (min(high, F(i + 1)) - max(low, F(i)))
        i += 1


@_jit
def _clip(start, step, size, enter, leave):
    """The part of [enter, leave] in which start + t * step lies in [0, size]."""
    if step == ZERO:
        if start < ZERO or start >= size:
            return ONE, ZERO
        return enter, leave
    one, other = -start / step, (size - start) / step
    if one > other:
        one, other = other, one
    return max(enter, one), min(leave, other)


@_jit
def _span(ax, ay, bx, by, dx, dy, width, height):
    """The part of an edge, from 0 to 1 along it, that is in the picture."""
    if min(min(ax, bx), min(ay, by)) >= ZERO and max(ax, bx) < width and max(ay, by) < height:
        return ZERO, ONE
    enter, leave = _clip(ax, dx, width, ZERO, ONE)
    return _clip(ay, dy, height, enter, leave)


@_jit
def _short(i, j, i2, j2, height, width):
    """Whether an edge stays within two rows and two columns of the picture (most do)."""
    near = (abs(i2 - i) <= 1) & (abs(j2 - j) <= 1)
    return near & (min(i, i2) >= 0) & (max(i, i2) < height) & (min(j, j2) >= 0) & (max(j, j2) < width)


@_jit
def _crossings(ax, ay, dx, dy, i, j, i2, j2):
    """Where such an edge leaves its first and enters its last cell, and whether it goes sideways first."""
    tx = (F(max(j, j2)) - ax) / dx if j2 != j else ONE
    ty = (F(max(i, i2)) - ay) / dy if i2 != i else ONE
    tx, ty = min(max(tx, ZERO), ONE), min(max(ty, ZERO), ONE)
    return min(tx, ty), max(tx, ty), tx < ty


@_jit
def _add_piece(ax, dx, dy, start, end, i, j, area):
    """The area right of the part of an edge from ``start`` to ``end``, which lies in the cell (i, j)."""
    d = (end - start) * dy
    middle = ax + HALF * (start + end) * dx - F(j)
    area[i, j] += d * (ONE - middle)
    area[i, j + 1] += d * middle


@_jit
def _add_edge(ax, ay, bx, by, area):
    """Accumulates the signed area to the right of the edge (its own column exactly, the rest by the running sum)."""
    height, width = area.shape[0], area.shape[1] - 1
    dx, dy = bx - ax, by - ay
    i, j, i2, j2 = math.floor(ay), math.floor(ax), math.floor(by), math.floor(bx)
    if _short(i, j, i2, j2, height, width):
        t1, t2, sideways = _crossings(ax, ay, dx, dy, i, j, i2, j2)
        _add_piece(ax, dx, dy, ZERO, t1, i, j, area)
        _add_piece(ax, dx, dy, t1, t2, i if sideways else i2, j2 if sideways else j, area)
        _add_piece(ax, dx, dy, t2, ONE, i2, j2, area)
        return
    if dy == ZERO:
        return
    if ax < ZERO or bx < ZERO:
        if ax < ZERO and bx < ZERO:
            _add_left(ay, by, area)
            return
        cross = ay - ax * dy / dx
        if ax < ZERO:
            _add_left(ay, cross, area)
        else:
            _add_left(cross, by, area)
    enter, leave = _span(ax, ay, bx, by, dx, dy, F(width), F(height))
    if enter >= leave:
        return
    i, j, si, sj, tx, ty, sx, sy = _start(ax, ay, dx, dy, enter, height, width)
    t = enter
    while True:
        sideways = tx < ty
        after = tx if sideways else ty
        last = after >= leave
        end = leave if last else after
        if end > t:
            _add_piece(ax, dx, dy, t, end, i, j, area)
            t = end
        if last:
            return
        if sideways:
            j += sj
            tx += sx
            if j < 0 or j >= width:
                return
        else:
            i += si
            ty += sy
            if i < 0 or i >= height:
                return


@_jit
def _start(ax, ay, dx, dy, enter, height, width):
    """First cell of a walk, its direction, the parameters of the next crossings and their steps."""
    x, y = ax + enter * dx, ay + enter * dy
    i, j = math.floor(y), math.floor(x)
    if dy < ZERO and y == F(i):
        i -= 1
    if dx < ZERO and x == F(j):
        j -= 1
    i, j = min(max(i, 0), height - 1), min(max(j, 0), width - 1)
    si, sj = (1 if dy > ZERO else -1), (1 if dx > ZERO else -1)
    tx = ty = sx = sy = HUGE
    if dx != ZERO:
        inverse = ONE / dx
        sx = abs(inverse)
        tx = (F(j + (1 if sj > 0 else 0)) - ax) * inverse
    if dy != ZERO:
        inverse = ONE / dy
        sy = abs(inverse)
        ty = (F(i + (1 if si > 0 else 0)) - ay) * inverse
    return i, j, si, sj, tx, ty, sx, sy


@_jit
def _pull(start, end, i, j, kind, mode, gradient):
    """The mask's gradient along the part of an edge in the cell (i, j), weighted with 1 - t and with t."""
    state = mode[i, j]
    sign = F(kind & FRONT_BIT) - (F((kind & LOOP_BIT) >> 1) if (state & FROM_BACK) != 0 else ZERO)
    g = gradient[i, j] * sign * (end - start) if (state & CLAMPED) == 0 else ZERO
    middle = HALF * (start + end)
    return g * (ONE - middle), g * middle


@_jit
def _edge_weights(ax, ay, bx, by, kind, mode, gradient):
    """Integrals of the mask's gradient along an edge, weighted with 1 - t and with t."""
    height, width = mode.shape
    w0, w1 = ZERO, ZERO
    dx, dy = bx - ax, by - ay
    i, j, i2, j2 = math.floor(ay), math.floor(ax), math.floor(by), math.floor(bx)
    if _short(i, j, i2, j2, height, width):
        t1, t2, sideways = _crossings(ax, ay, dx, dy, i, j, i2, j2)
        p0, p1 = _pull(ZERO, t1, i, j, kind, mode, gradient)
        q0, q1 = _pull(t1, t2, i if sideways else i2, j2 if sideways else j, kind, mode, gradient)
        r0, r1 = _pull(t2, ONE, i2, j2, kind, mode, gradient)
        return p0 + q0 + r0, p1 + q1 + r1
    enter, leave = _span(ax, ay, bx, by, dx, dy, F(width), F(height))
    if enter >= leave:
        return w0, w1
    i, j, si, sj, tx, ty, sx, sy = _start(ax, ay, dx, dy, enter, height, width)
    t = enter
    while True:
        sideways = tx < ty
        after = tx if sideways else ty
        last = after >= leave
        end = leave if last else after
        if end > t:
            p0, p1 = _pull(t, end, i, j, kind, mode, gradient)
            w0, w1 = w0 + p0, w1 + p1
            t = end
        if last:
            return w0, w1
        if sideways:
            j += sj
            tx += sx
            if j < 0 or j >= width:
                return w0, w1
        else:
            i += si
            ty += sy
            if i < 0 or i >= height:
                return w0, w1


@_jit
def _cover(pixels, outline, count, closed, area, loop, mask, mode):
    """The mask, and for each pixel whether it came from the back faces and whether it is clamped."""
    area[:] = ZERO
    if not closed:
        loop[:] = ZERO
    for e in range(count):
        a, b, kind = outline[e, 0], outline[e, 1], outline[e, 2]
        if (kind & FRONT_BIT) != 0:
            _add_edge(pixels[a, 0], pixels[a, 1], pixels[b, 0], pixels[b, 1], area)
        if (kind & LOOP_BIT) != 0:
            _add_edge(pixels[a, 0], pixels[a, 1], pixels[b, 0], pixels[b, 1], loop)
    height, width = mask.shape
    for i in range(height):
        total, hole = ZERO, ZERO
        for j in range(width):
            total += area[i, j]
            covered, state = total, 0
            if not closed:
                hole += loop[i, j]
                if hole < -FULL:
                    covered = total - hole
                    state = FROM_BACK
            if covered >= ONE - FULL:
                covered = ONE
                state |= CLAMPED
            if covered <= FULL:
                covered = ZERO
                state |= CLAMPED
            mask[i, j] = covered
            mode[i, j] = state


@_jit
def _hit(vertices, ia, ib, ic, dx, dy):
    """Where a ray meets a face: A x ray, the two sides at A, the normal n, n.d, and the barycentrics of B and C."""
    ax, ay, az = vertices[ia, 0], vertices[ia, 1], vertices[ia, 2]
    ux, uy, uz = vertices[ib, 0] - ax, vertices[ib, 1] - ay, vertices[ib, 2] - az
    wx, wy, wz = vertices[ic, 0] - ax, vertices[ic, 1] - ay, vertices[ic, 2] - az
    nx, ny, nz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
    along = nx * dx + ny * dy + nz
    ex, ey, ez = ay - az * dy, az * dx - ax, ax * dy - ay * dx
    b1 = (wx * ex + wy * ey + wz * ez) / along
    b2 = -(ux * ex + uy * ey + uz * ez) / along
    return ax, ay, az, ux, uy, uz, wx, wy, wz, nx, ny, nz, along, b1, b2


@_jit
def _paint(vertices, faces, matrix, values, ids, picture):
    """Values at the ray's hit, 0 where no face is."""
    height, width = ids.shape
    ifx, ify, cx, cy = ONE / matrix[0, 0], ONE / matrix[1, 1], matrix[0, 2], matrix[1, 2]
    for i in range(height):
        for j in range(width):
            k = ids[i, j]
            if k < 0:
                for c in range(picture.shape[0]):
                    picture[c, i, j] = ZERO
                continue
            ia, ib, ic = faces[k, 0], faces[k, 1], faces[k, 2]
            hit = _hit(vertices, ia, ib, ic, (F(j) - cx) * ifx, (F(i) - cy) * ify)
            b1, b2 = min(max(hit[13], ZERO), ONE), min(max(hit[14], ZERO), ONE)
            b0 = max(ONE - b1 - b2, ZERO)
            for c in range(picture.shape[0]):
                picture[c, i, j] = b0 * values[ia, c] + b1 * values[ib, c] + b2 * values[ic, c]


@_jit
def _surface_gradient(
    vertices, faces, matrix, values, ids, use_depth, use_values, g_depth, g_picture, to_values, g, gv
):
    """Adds the gradient of depth and values to ``g`` (vertices), and to ``gv`` (values) when asked for."""
    height, width = ids.shape
    ifx, ify, cx, cy = ONE / matrix[0, 0], ONE / matrix[1, 1], matrix[0, 2], matrix[1, 2]
    for i in range(height):
        for j in range(width):
            k = ids[i, j]
            if k < 0:
                continue
            dx, dy = (F(j) - cx) * ifx, (F(i) - cy) * ify
            ia, ib, ic = faces[k, 0], faces[k, 1], faces[k, 2]
            ax, ay, az, ux, uy, uz, wx, wy, wz, nx, ny, nz, along, b1, b2 = _hit(vertices, ia, ib, ic, dx, dy)
            b0 = ONE - b1 - b2
            # derivatives to b1 - b0 and b2 - b0 (values) and to depth, all from one q = sum_i g_i r_i
            d1, d2 = ZERO, ZERO
            if use_values:
                for c in range(g_picture.shape[0]):
                    s, base = g_picture[c, i, j], values[ia, c]
                    d1 += s * (values[ib, c] - base)
                    d2 += s * (values[ic, c] - base)
                    if to_values:
                        gv[ia, c] += s * b0
                        gv[ib, c] += s * b1
                        gv[ic, c] += s * b2
            if along * along < GRAZING * GRAZING * (nx * nx + ny * ny + nz * nz) * (dx * dx + dy * dy + ONE):
                continue
            det = nx * ax + ny * ay + nz * az
            mean = -(d1 * b1 + d2 * b2)
            if use_depth:
                mean -= g_depth[i, j] * det / along
            # rows 1 and 2 of M^-1 are (w x A) / det and (A x u) / det, and the three rows sum to n / det
            inverse = ONE / det
            qx = (mean * nx + d1 * (wy * az - wz * ay) + d2 * (ay * uz - az * uy)) * inverse
            qy = (mean * ny + d1 * (wz * ax - wx * az) + d2 * (az * ux - ax * uz)) * inverse
            qz = (mean * nz + d1 * (wx * ay - wy * ax) + d2 * (ax * uy - ay * ux)) * inverse
            g[ia, 0] -= b0 * qx
            g[ia, 1] -= b0 * qy
            g[ia, 2] -= b0 * qz
            g[ib, 0] -= b1 * qx
            g[ib, 1] -= b1 * qy
            g[ib, 2] -= b1 * qz
            g[ic, 0] -= b2 * qx
            g[ic, 1] -= b2 * qy
            g[ic, 2] -= b2 * qz


@_jit
def _coverage_gradient(pixels, matrix, outline, count, mode, g_mask, g):
    """Adds the gradient of the mask to ``g``."""
    fx, fy, cx, cy = matrix[0, 0], matrix[1, 1], matrix[0, 2] + HALF, matrix[1, 2] + HALF
    for e in range(count):
        a, b = outline[e, 0], outline[e, 1]
        ax, ay, bx, by = pixels[a, 0], pixels[a, 1], pixels[b, 0], pixels[b, 1]
        w0, w1 = _edge_weights(ax, ay, bx, by, outline[e, 2], mode, g_mask)
        normal_x, normal_y = ay - by, bx - ax
        gx, gy = normal_x * w0 * pixels[a, 2], normal_y * w0 * pixels[a, 2]
        g[a, 0] += gx * fx
        g[a, 1] += gy * fy
        g[a, 2] -= gx * (ax - cx) + gy * (ay - cy)
        gx, gy = normal_x * w1 * pixels[b, 2], normal_y * w1 * pixels[b, 2]
        g[b, 0] += gx * fx
        g[b, 1] += gy * fy
        g[b, 2] -= gx * (bx - cx) + gy * (by - cy)


@_jit
def forward(
    vertices, faces, edges, items, edge_start, matrix, values, first, last, use_mask, use_surface, use_values,
    mask, depth, picture, ids, mode, pixels, facing, outline, outline_count,
):  # fmt: skip
    """Renders items ``first`` to ``last``; everything after ``use_values`` is written."""
    height, width = (mask.shape[1], mask.shape[2]) if use_mask else (ids.shape[1], ids.shape[2])
    area = np.empty((height, width + 1), np.float32)
    loop = np.empty((height, width + 1), np.float32)
    most = items[first:last, 3].max() if last > first else 0
    drawn = np.empty(most + 1, np.int32)
    planes = np.empty((most, 9), np.float32)
    fragments = np.empty((LISTED, 2), np.int32)
    for n in range(first, last):
        v, f, e, slot = items[n, 0], items[n, 2], items[n, 4], items[n, 7]
        v_end, f_end, e_end = v + items[n, 1], f + items[n, 3], e + items[n, 5]
        closed = items[n, 6] != 0
        own, own_faces = vertices[v:v_end], faces[f:f_end]
        own_pixels, own_facing = pixels[v:v_end], facing[slot : slot + items[n, 3]]
        own_outline = outline[edge_start[n] : edge_start[n + 1]]
        _project(own, matrix[n], own_pixels)
        count = _face(own_faces, own_pixels, closed, own_facing, drawn)
        if use_mask:
            outline_count[n] = _outline(edges[e:e_end], own_facing, closed, own_outline)
            _cover(own_pixels, own_outline, outline_count[n], closed, area, loop, mask[n], mode[n])
        if use_surface:
            _visible(own_faces, own_pixels, drawn, count, depth[n], ids[n], planes, fragments)
            if use_values:
                _paint(own, own_faces, matrix[n], values[v:v_end], ids[n], picture[n])
            for i in range(height):
                for j in range(width):
                    inverse = depth[n, i, j]
                    depth[n, i, j] = ONE / inverse if inverse > ZERO else ZERO


@_jit
def backward(
    vertices, faces, items, edge_start, matrix, values, first, last, use_mask, use_depth, use_values, to_values,
    g_mask, g_depth, g_picture, ids, mode, pixels, outline, outline_count, g_vertices, g_values,
):  # fmt: skip
    """Gradients of items ``first`` to ``last``: writes ``g_vertices`` and, with ``to_values``, ``g_values``."""
    for n in range(first, last):
        v, f = items[n, 0], items[n, 2]
        v_end, f_end = v + items[n, 1], f + items[n, 3]
        own = g_vertices[v:v_end]
        own[:] = ZERO
        own_values = g_values[v:v_end] if to_values else g_values[0:0]
        own_values[:] = ZERO
        if use_depth or use_values:
            _surface_gradient(
                vertices[v:v_end], faces[f:f_end], matrix[n], values[v:v_end] if use_values else values[0:0], ids[n],
                use_depth, use_values, g_depth[n if use_depth else 0], g_picture[n if use_values else 0],
                to_values, own, own_values,
            )  # fmt: skip
        if use_mask:
            own_outline = outline[edge_start[n] : edge_start[n + 1]]
            _coverage_gradient(pixels[v:v_end], matrix[n], own_outline, outline_count[n], mode[n], g_mask[n], own)
