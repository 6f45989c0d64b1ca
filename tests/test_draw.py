"""The shading kernel against the same in numpy."""

from __future__ import annotations

import numpy as np

from horefine.draw_kernels import shade

FACTOR, SIZE = 3, (4, 5)


def twin(ids, depth, normals, colors, numbers, key, half):
    """As the kernel, array by array."""
    behind = np.where(ids >= 0, depth, np.inf)
    who, seen = behind.argmin(0), (ids >= 0).any(0)
    n = np.take_along_axis(normals, who[None, None], 0)[0]
    n = n / np.linalg.norm(n, axis=0)
    light = 0.72 * np.maximum(np.einsum("c,chw->hw", key, n), 0) + 0.3 * (0.5 - 0.5 * n[1]) + 0.13
    shine = np.maximum(np.einsum("c,chw->hw", half, n), 0) ** 32
    color = (light[..., None] * colors[who] + 0.1 * shine[..., None]) * seen[..., None]

    def mean(values):
        return values.reshape(SIZE[0], FACTOR, SIZE[1], FACTOR, -1).mean((1, 3))

    return mean(color), mean(seen.astype(float))[..., 0], np.where(seen, numbers[who], 0)


def test_shading_is_what_numpy_says() -> None:
    rng = np.random.default_rng(0)
    shape = (2, SIZE[0] * FACTOR, SIZE[1] * FACTOR)
    ids = rng.integers(-1, 3, shape).astype(np.int32)
    depth, normals = rng.random(shape).astype(np.float32) + 0.3, rng.normal(size=(2, 3, *shape[1:])).astype(np.float32)
    colors, numbers = rng.random((2, 3)).astype(np.float32), np.array([2, 1], np.int8)
    towards = np.array([-0.4, -0.6, -0.6]), np.array([-0.2, -0.3, -0.9])
    key, half = (v / np.linalg.norm(v) for v in towards)
    color, alpha = np.full((*SIZE, 3), 9, np.float32), np.full(SIZE, 9, np.float32)
    labels = np.full(shape[1:], 9, np.int8)
    key32, half32 = key.astype(np.float32), half.astype(np.float32)
    shade(ids, depth, normals, colors, numbers, key32, half32, FACTOR, color, alpha, labels)
    wanted = twin(ids, depth, normals, colors, numbers, key, half)
    assert np.allclose(color, wanted[0], atol=1e-5) and np.allclose(alpha, wanted[1], atol=1e-6)
    assert np.array_equal(labels, wanted[2]) and {0, 1, 2} == set(labels.ravel().tolist())
