"""What is behind hand and object: a table in perspective with their shadow on it, walls, clutter."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, zoom

from horefine.data.compose import PHOTO, Layout
from horefine.data.light import Lights, ShadowMap, lit_share

__all__ = ["paint_background"]

_HALF = (PHOTO[0] // 2, PHOTO[1] // 2)


def paint_background(
    layout: Layout,
    lights: Lights,
    shadow: ShadowMap,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Linear picture (240 x 320 x 3) and depth (240 x 320, metres) of the background of a photo.

    Args:
        shadow: What the key light sees, for the table.
    """
    wall = _wall(rng)
    wall *= (0.4 * lights.sky + 0.5 * lights.key_color * rng.uniform(0.3, 1) + 0.2).astype(np.float32)
    depth = np.full(_HALF, rng.uniform(1.2, 3.5), np.float32)
    if layout.natural and rng.random() < 0.65:
        _table(layout, lights, shadow, rng, wall, depth)
    if rng.random() < 0.35:
        wall = _clutter(wall, rng, int(rng.integers(1, 6)))
    blur = abs(rng.normal(0, 0.8))
    return gaussian_filter(wall, (blur, blur, 0)) if blur > 0.2 else wall, depth


def _color(rng: np.random.Generator) -> np.ndarray:
    """A linear albedo: mostly dull, sometimes strong."""
    grey = np.exp(rng.normal(-1.3, 0.8))
    spread = 0.8 if rng.random() < 0.3 else 0.2
    return (grey * np.exp(rng.normal(0, spread, 3))).clip(0.01, 0.9)


def _noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Smooth noise of about ``cells`` cells across, zero mean, about unit range."""
    grid = rng.normal(size=(cells * 3 // 4 + 2, cells + 2))
    big = np.asarray(zoom(grid, (_HALF[0] / (grid.shape[0] - 1), _HALF[1] / (grid.shape[1] - 1)), order=1))
    return big[: _HALF[0], : _HALF[1]].astype(np.float32)


def _wall(rng: np.random.Generator) -> np.ndarray:
    """Gradients, spots of several sizes, edges; sometimes nothing but one colour."""
    y, x = np.meshgrid(np.linspace(-1, 1, _HALF[0]), np.linspace(-1, 1, _HALF[1]), indexing="ij")
    angle = rng.uniform(0, 6.3)
    ramp = (np.cos(angle) * x + np.sin(angle) * y)[..., None]
    picture = _color(rng) * (1 + rng.uniform(0, 0.5) * ramp)
    kind = rng.random()
    if kind < 0.75:
        for cells in rng.choice([2, 4, 8, 16, 40], size=int(rng.integers(1, 4)), replace=False):
            mix = (_noise(rng, int(cells)) * rng.uniform(0.2, 1.0)).clip(0, 1)[..., None]
            picture = picture * (1 - mix) + _color(rng) * mix
    if kind < 0.35:  # an edge: a shelf, a door, a screen
        cut = np.cos(angle + 1) * x + np.sin(angle + 1) * y > rng.uniform(-0.7, 0.7)
        picture = np.where(cut[..., None], _color(rng) * (1 + 0.2 * ramp), picture)
    picture = picture.clip(0.005, 1).astype(np.float32)
    return _clutter(picture, rng, int(rng.integers(3, 25))) if rng.random() < 0.6 else picture


def _clutter(picture: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """Flat shapes (boxes, discs, polygons, strokes, skin-coloured ones among them), some out of focus."""
    layer = Image.new("RGBA", (_HALF[1], _HALF[0]), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    for _ in range(count):
        x, y = rng.uniform(-20, _HALF[1] + 20), rng.uniform(-20, _HALF[0] + 20)
        w, h = np.exp(rng.uniform(np.log(6), np.log(110), 2))
        color = _color(rng) if rng.random() < 0.85 else np.array([0.6, 0.33, 0.22]) * rng.uniform(0.2, 1.2)
        fill = (*(int(255 * c**0.4545) for c in color.clip(0, 1)), 255)
        kind = rng.integers(4)
        if kind == 0:
            draw.rectangle([x - w / 2, y - h / 2, x + w / 2, y + h / 2], fill=fill)
        elif kind == 1:
            draw.ellipse([x - w / 2, y - h / 2, x + w / 2, y + h / 2], fill=fill)
        elif kind == 2:
            turn = rng.uniform(0, 6.3) + np.sort(rng.uniform(0, 6.28, int(rng.integers(3, 7))))
            draw.polygon([(x + w / 2 * np.cos(t), y + h / 2 * np.sin(t)) for t in turn], fill=fill)
        else:
            t = rng.uniform(0, 6.3)
            draw.line([x, y, x + 2 * w * np.cos(t), y + 2 * w * np.sin(t)], fill=fill, width=int(rng.integers(2, 14)))
    drawn = np.asarray(layer, np.float32) / 255
    alpha = drawn[..., 3:]
    sheet = np.concatenate([drawn[..., :3] ** 2.2 * alpha * picture.mean() * 3, alpha], -1)
    blur = abs(rng.normal(0, 1.5))
    if blur > 0.3:
        sheet = gaussian_filter(sheet, (blur, blur, 0))
    return (picture * (1 - sheet[..., 3:]) + sheet[..., :3]).astype(np.float32)


def _table(
    layout: Layout,
    lights: Lights,
    shadow: ShadowMap,
    rng: np.random.Generator,
    wall: np.ndarray,
    depth: np.ndarray,
) -> None:
    """Paints a table into ``wall`` and ``depth``: textured, lit, with the pair's shadow."""
    up = lights.up
    pair = np.concatenate([layout.hand.vertices, layout.object.vertices])
    level = float((pair @ up).min()) - float(rng.choice([0.004, 0.03, 0.1])) * rng.uniform(0.5, 1.5)
    along = np.cross(up, rng.normal(size=3))
    along /= np.linalg.norm(along)
    half = layout.matrix / 2
    half[:2, 2] = (layout.matrix[:2, 2] + 0.5) / 2 - 0.5
    colors = np.stack([_color(rng), _color(rng)])
    if rng.random() < 0.6:
        colors[1] = colors[0] * rng.uniform(0.55, 0.95)
    brightness = lights.sky + lights.key_color * max(float(lights.key @ up), 0.0)
    light = np.stack([brightness, lights.sky + lights.fill_color * 0.3])
    kind = int(rng.integers(4))
    _paint_table(
        wall, depth, half.astype(np.float32), up.astype(np.float32), np.float32(level), along.astype(np.float32),
        np.cross(up, along).astype(np.float32), colors.astype(np.float32), light.astype(np.float32), kind,
        np.float32(rng.uniform(0.4, 2.5)), int(rng.integers(1 << 20)), np.float32(rng.uniform(0.35, 1.6)), *shadow,
    )  # fmt: skip


@njit(cache=True, fastmath=True, nogil=True)
@no_type_check
def _hash(i, j, seed):
    """A number in 0..1 for each cell of a lattice."""
    h = (i * 374761393 + j * 668265263 + seed * 2147483647) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return np.float32(((h ^ (h >> 16)) & 0xFFFF) / 65535.0)


@njit(cache=True, fastmath=True, nogil=True)
@no_type_check
def _value_noise(x, y, seed):
    """Noise on a unit lattice, 0..1."""
    i, j = int(np.floor(x)), int(np.floor(y))
    s, t = x - i, y - j
    s, t = s * s * (3 - 2 * s), t * t * (3 - 2 * t)
    low = _hash(i, j, seed) * (1 - s) + _hash(i + 1, j, seed) * s
    high = _hash(i, j + 1, seed) * (1 - s) + _hash(i + 1, j + 1, seed) * s
    return low * (1 - t) + high * t


@njit(cache=True, fastmath=True, nogil=True)
@no_type_check
def _pattern(u, v, kind, seed):
    """Share of the second colour at a place of the table (units of about 10 cm)."""
    if kind == 0:  # wood: stretched noise in boards
        board = np.floor(v * 1.1)
        grain = _value_noise(u * 1.5 + board * 7, v * 22, seed)
        rings = np.float32(0.5) + np.float32(0.5) * np.sin(18 * v + 5 * _value_noise(u * 1.2, v * 2.5, seed + 1))
        return np.float32(0.5) * grain + np.float32(0.3) * rings + np.float32(0.3) * _hash(int(board), 0, seed)
    if kind == 1:  # cloth or stone: fine noise
        return np.float32(0.6) * _value_noise(u * 3, v * 3, seed) + np.float32(0.4) * _value_noise(
            u * 25, v * 25, seed + 3
        )
    if kind == 2:  # checks or stripes
        a, b = int(np.floor(u * 2)), int(np.floor(v * 2))
        return np.float32((a + b) & 1) * np.float32(0.8) + np.float32(0.2) * _value_noise(u * 9, v * 9, seed)
    return np.float32(0.25) * _value_noise(u * 1.3, v * 1.3, seed)


@njit(cache=True, fastmath=True, nogil=True)
@no_type_check
def _paint_table(
    wall, depth, matrix, up, level, along, across, colors, light, kind, scale, seed, size, shadow, view, focal
):
    height, width = depth.shape
    for i in range(height):
        dy = (i - matrix[1, 2]) / matrix[1, 1]
        for j in range(width):
            dx = (j - matrix[0, 2]) / matrix[0, 0]
            slope = up[0] * dx + up[1] * dy + up[2]
            if slope * level <= 1e-6:
                continue
            z = level / slope
            if z < 0.05 or z > 3:
                continue
            x, y = dx * z, dy * z
            u = (along[0] * x + along[1] * y + along[2] * z) * 10
            v = (across[0] * x + across[1] * y + across[2] * z) * 10
            if abs(u) > 10 * size * 3 or z > 0.8 + 2 * size:
                continue
            mix = min(max(_pattern(u * scale, v * scale, kind, seed), np.float32(0)), np.float32(1))
            lit = lit_share(x, y, z, np.float32(0.004), np.float32(1.7), shadow, view, focal)
            depth[i, j] = z
            for c in range(3):
                albedo = colors[0, c] * (1 - mix) + colors[1, c] * mix
                wall[i, j, c] = albedo * (light[0, c] * lit + light[1, c] * (1 - lit) * np.float32(0.7))
