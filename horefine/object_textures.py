"""Procedural albedo of the embedded objects: labels, stripes, lettering, logos, wood, blush.

A texture is a function of surface points in the object's frame, so it is as sharp as the picture it is seen in.
Objects that look alike when turned (can, bowl, tumbler, bottle, marker, apple) differ all the way round on purpose:
without that, their rotation about the axis could not be seen. Colours are sRGB here and become linear at the end.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np

from horefine.mesh_file import linear_from_srgb

__all__ = ["TEXTURES", "albedo"]

Color = tuple[float, float, float]

WHITE: Color = (0.93, 0.92, 0.89)
BLACK: Color = (0.10, 0.10, 0.11)
STEEL: Color = (0.62, 0.64, 0.67)
RED: Color = (0.78, 0.10, 0.11)
YELLOW: Color = (0.96, 0.77, 0.10)
ORANGE: Color = (0.93, 0.45, 0.08)
GREEN: Color = (0.18, 0.52, 0.24)
BLUE: Color = (0.11, 0.27, 0.62)


class Paint:
    """Colours of N points that are painted over, layer by layer."""

    def __init__(self, base: Color, count: int) -> None:
        self.rgb = np.tile(np.array(base), (count, 1))

    def over(self, color: Color | np.ndarray, where: np.ndarray) -> None:
        """Paint ``color`` where the mask ("N" bool, or opacity 0 to 1) says."""
        self.rgb += np.asarray(where, float)[:, None] * (np.asarray(color) - self.rgb)


def _noise(points: np.ndarray, size: float, seed: int) -> np.ndarray:
    """Smooth values 0 to 1 at points "N k" that change over about ``size`` (value noise)."""
    place = points / size
    cell = np.floor(place).astype(np.int64)
    t = place - cell
    t = t * t * (3 - 2 * t)
    total = np.zeros(len(points))
    for corner in np.ndindex(*(2,) * points.shape[1]):
        weight = np.prod(np.where(np.array(corner), t, 1 - t), axis=1)
        total += weight * _hash(cell + np.array(corner), seed)
    return total


def _hash(cells: np.ndarray, seed: int) -> np.ndarray:
    """A fixed number 0 to 1 for each integer cell "N k"."""
    value = np.full(len(cells), (seed * 0x9E3779B1 + 0x7F4A7C15) & 0xFFFFFFFF, np.uint64)
    for axis in range(cells.shape[1]):
        value = (value ^ (cells[:, axis].astype(np.int64) & 0xFFFFFFFF).astype(np.uint64)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        value ^= value >> np.uint64(29)
    return (value >> np.uint64(40)).astype(float) / float(1 << 24)


def _within(u: np.ndarray, v: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """Inside the rectangle u0, v0, u1, v1."""
    return (u > box[0]) & (u < box[2]) & (v > box[1]) & (v < box[3])


def _disc(u: np.ndarray, v: np.ndarray, centre: tuple[float, float], radius: float, stretch: float = 1.0) -> np.ndarray:
    return np.hypot((u - centre[0]) / stretch, v - centre[1]) < radius


def _letters(
    u: np.ndarray, v: np.ndarray, box: tuple[float, float, float, float], size: float, seed: int = 0
) -> np.ndarray:
    """Lines of make-believe letters (u right, v up, ``size`` their height) that fill a rectangle."""
    x, y = (u - box[0]) / size, (box[3] - v) / size
    row, column = np.floor(y / 1.5).astype(np.int64), np.floor(x / 0.85).astype(np.int64)
    fx, fy = (x / 0.85 - column) * 0.85 / 0.62, (y / 1.5 - row) * 1.5
    bit = np.stack([np.floor(fx * 3), np.floor(fy * 5)], 1).astype(np.int64)
    stroke = _hash(np.column_stack([row, column, bit]), seed) < 0.62
    word = _hash(np.column_stack([row, column]), seed + 1) > 0.16
    ragged = u < box[2] - (box[2] - box[0]) * 0.35 * _hash(row[:, None], seed + 2)
    whole = (row * 1.5 + 1 <= (box[3] - box[1]) / size + 1e-9) & (column * 0.85 + 0.62 <= (box[2] - box[0]) / size)
    return stroke & word & ragged & whole & (fx < 1) & (fy < 1) & _within(u, v, box)


def _bars(u: np.ndarray, v: np.ndarray, box: tuple[float, float, float, float], pitch: float) -> np.ndarray:
    """A bar code."""
    return _within(u, v, box) & (_hash(np.floor((u - box[0]) / pitch).astype(np.int64)[:, None], 5) < 0.5)


def _turn(p: np.ndarray) -> np.ndarray:
    """Angle about z, -pi to pi; 0 is the front (-y), growing to the right as seen from the front."""
    return np.arctan2(p[:, 0], -p[:, 1])


def _wrap(angle: np.ndarray) -> np.ndarray:
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _hues(turn: np.ndarray, saturation: float, value: float, shift: float = 0.0) -> np.ndarray:
    """Colours "N 3" whose hue goes once round with the angle."""
    h = (turn / (2 * np.pi) + shift) % 1
    rgb = np.clip(np.abs((h[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return value * (1 - saturation + saturation * rgb)


def _box(p: np.ndarray) -> np.ndarray:
    x, y, z = p.T
    paint = Paint((0.74, 0.10, 0.12), len(p))
    face = np.argmax(np.abs(p) / np.array([0.08, 0.03, 0.105]), axis=1)
    front, back = (face == 1) & (y < 0), (face == 1) & (y > 0)
    paint.over(WHITE, front & _disc(x, z, (0, 0.045), 0.036, 1.7))
    paint.over(BLUE, front & _letters(x, z, (-0.048, 0.024, 0.060, 0.066), 0.022, 3))
    paint.over((0.90, 0.72, 0.42), front & _disc(x, z, (0.02, -0.045), 0.034))
    paint.over(
        (0.70, 0.48, 0.22),
        front & _disc(x % 0.016, z % 0.016, (0.008, 0.008), 0.0022) & _disc(x, z, (0.02, -0.045), 0.03),
    )
    paint.over((0.82, 0.60, 0.30), front & _disc(x, z, (-0.040, -0.062), 0.026))
    paint.over(YELLOW, front & (z < -0.088))
    paint.over((0.95, 0.85, 0.60), back & _within(-x, z, (-0.070, -0.09, 0.070, 0.02)))
    paint.over(BLACK, back & _letters(-x, z, (-0.064, -0.085, 0.064, 0.012), 0.0065, 4))
    paint.over(WHITE, back & _letters(-x, z, (-0.06, 0.04, 0.07, 0.09), 0.024, 6))
    right, left = (face == 0) & (x > 0), (face == 0) & (x < 0)
    paint.over(BLUE, right & (z < 0.02))
    paint.over(WHITE, right & _letters(z, -y, (-0.09, -0.016, 0.01, 0.02), 0.014, 7))
    paint.over(WHITE, left & _within(-y, z, (-0.022, -0.08, 0.022, 0.06)))
    paint.over(BLACK, left & _letters(-y, z, (-0.018, -0.03, 0.02, 0.056), 0.005, 8))
    paint.over(BLACK, left & _bars(z, y, (-0.075, -0.016, -0.038, 0.016), 0.0011))
    top, bottom = (face == 2) & (z > 0), (face == 2) & (z < 0)
    paint.over(YELLOW, top & (x < -0.02))
    paint.over(WHITE, top & _letters(x, y, (0.0, -0.02, 0.07, 0.02), 0.016, 9))
    paint.over((0.68, 0.56, 0.42), bottom)
    paint.over(BLACK, bottom & _letters(x, -y, (-0.06, -0.01, 0.02, 0.02), 0.008, 2))
    return paint.rgb


def _can(p: np.ndarray) -> np.ndarray:
    turn, z, r = _turn(p), p[:, 2], np.hypot(p[:, 0], p[:, 1])
    u = turn * 0.0335
    paint = Paint((0.80, 0.12, 0.10), len(p))
    paint.over(_hues(turn, 0.75, 0.85, 0.02), z < -0.012)
    paint.over(WHITE, (z > -0.014) & (z < -0.010))
    paint.over(WHITE, _disc(u, z, (0, 0.016), 0.017, 1.25))
    paint.over(RED, _letters(u, z, (-0.016, 0.002, 0.022, 0.028), 0.010, 11))
    paint.over(YELLOW, _disc(u, z, (0.0, -0.030), 0.011, 1.6))
    panel = _wrap(turn - 2.1) * 0.0335
    paint.over(WHITE, _within(panel, z, (-0.021, -0.038, 0.021, 0.036)))
    paint.over(BLACK, _letters(panel, z, (-0.018, -0.034, 0.020, 0.033), 0.0048, 12))
    code = _wrap(turn + 2.1) * 0.0335
    paint.over(GREEN, _within(code, z, (-0.024, -0.010, 0.024, 0.040)))
    paint.over(WHITE, _within(code, z, (-0.016, -0.038, 0.016, -0.012)))
    paint.over(BLACK, _bars(code, z, (-0.013, -0.036, 0.013, -0.015), 0.0009))
    paint.over(YELLOW, _disc(code, z, (0, 0.016), 0.013))
    metal = (np.abs(z) > 0.0455) | ((np.abs(z) > 0.040) & (r < 0.0328))
    rings = 0.06 * np.sin(r * 1600) * (r < 0.029)
    paint.over((np.array(STEEL) + rings[:, None]).clip(0, 1), metal)
    paint.over(
        (0.35, 0.36, 0.40), metal & (r < 0.029) & _letters(p[:, 0], p[:, 1], (-0.018, -0.006, 0.022, 0.012), 0.008, 13)
    )
    paint.over(BLUE, metal & (r < 0.026) & _disc(p[:, 0], p[:, 1], (0.012, -0.014), 0.006))
    return paint.rgb


def _bottle(p: np.ndarray) -> np.ndarray:
    x, y, z = p.T
    paint = Paint((0.95, 0.76, 0.09), len(p))
    front = (y < 0) & (z < 0.06)
    paint.over((0.86, 0.64, 0.07), np.clip(_noise(p, 0.05, 1) - 0.35, 0, 0.6))
    label = np.abs(x) < 0.036 - 0.006 * np.cos(z * 60)
    paint.over(RED, front & label & (z > -0.075) & (z < 0.012))
    paint.over(WHITE, front & _within(x, z, (-0.033, -0.034, 0.033, -0.006)))
    paint.over(RED, front & _letters(x, z, (-0.030, -0.034, 0.036, -0.009), 0.017, 21))
    paint.over(GREEN, front & _disc(x, z, (0.012, -0.056), 0.010, 1.4))
    back = (y > 0) & _within(-x, z, (-0.032, -0.072, 0.032, 0.016))
    paint.over((0.96, 0.92, 0.78), back)
    paint.over(BLUE, back & (z > 0.0))
    paint.over(BLACK, (y > 0) & _letters(-x, z, (-0.029, -0.068, 0.031, -0.004), 0.0052, 22))
    paint.over(RED, (z > 0.030) & (z < 0.036) & (x > 0))
    paint.over((0.80, 0.12, 0.10), (z > 0.0565))
    paint.over((0.55, 0.06, 0.06), (z > 0.0565) & (z < 0.071) & (np.sin(_turn(p) * 18) > 0.5))
    paint.over(WHITE, (z > 0.0565) & (z < 0.074) & (np.abs(_wrap(_turn(p) - 0.9)) < 0.25))
    return paint.rgb


def _mug(p: np.ndarray) -> np.ndarray:
    turn, z = _turn(p), p[:, 2]
    x, y = p[:, 0] + 0.0169, p[:, 1]  # the body's axis: the handle moves the box's centre
    turn, r = np.arctan2(x, -y), np.hypot(x, y)
    paint = Paint((0.20, 0.42, 0.62), len(p))
    inside = (r < 0.0385) & (z > -0.0435)
    outside = ~inside & (r < 0.0425)
    u = turn * 0.041
    paint.over(WHITE, outside & _disc(u, z, (0, 0.004), 0.024))
    paint.over(RED, outside & _disc(u, z, (0, 0.011), 0.011))
    paint.over(GREEN, outside & _within(u, z, (-0.015, -0.014, 0.015, -0.003)))
    back = _wrap(turn - np.pi) * 0.041
    paint.over(YELLOW, outside & (np.abs(back) < 0.028) & (np.sin(z * 420) > 0.1))
    paint.over(BLACK, outside & _letters(_wrap(turn + 1.55) * 0.041, z, (-0.014, -0.03, 0.018, 0.03), 0.011, 31))
    paint.over((0.90, 0.88, 0.82), inside)
    paint.over((0.55, 0.30, 0.16), inside & (z < -0.038))
    paint.over(ORANGE, inside & (z > 0.036) & (np.abs(_wrap(turn - 2.4)) < 0.5))
    paint.over((0.13, 0.29, 0.46), ~inside & (r > 0.0425) & (np.sin(z * 300) > 0.75))
    paint.over((0.75, 0.72, 0.66), z < -0.0462)
    paint.over(BLACK, (z < -0.0462) & _letters(x, -y, (-0.02, -0.012, 0.024, 0.014), 0.008, 32))
    return paint.rgb


def _bowl(p: np.ndarray) -> np.ndarray:
    turn, z, r = _turn(p), p[:, 2], np.hypot(p[:, 0], p[:, 1])
    wall = np.interp(z, [-0.0275, -0.0185, -0.008, 0.0085, 0.0275], [0.020, 0.031, 0.0505, 0.0638, 0.0717])
    inside = (r < wall) & (z > -0.0235)
    paint = Paint((0.86, 0.30, 0.14), len(p))
    sector = np.floor((turn + np.pi) / (2 * np.pi) * 10).astype(np.int64)
    local = ((turn + np.pi) / (2 * np.pi) * 10) % 1 - 0.5
    paint.over(_hues(sector * 0.62832, 0.6, 0.9, 0.05), ~inside & (z > -0.004) & (z < 0.019))
    paint.over(WHITE, ~inside & (np.hypot(local * 0.042, z - 0.0075) < 0.008 * (0.4 + 0.6 * _hash(sector[:, None], 3))))
    paint.over(BLUE, ~inside & (z < -0.010) & (np.abs(_wrap(turn - 1.0)) < 1.3))
    paint.over((0.93, 0.90, 0.80), inside)
    paint.over((0.20, 0.42, 0.55), inside & (np.abs(r - 0.058) < 0.004) & (turn > -1.9))
    paint.over(RED, inside & _disc(p[:, 0], p[:, 1], (0.012, -0.012), 0.016))
    paint.over(GREEN, inside & _disc(p[:, 0], p[:, 1], (-0.024, 0.014), 0.009, 1.8))
    paint.over(YELLOW, inside & (r > 0.030) & (r < 0.05) & (np.abs(_wrap(turn - 2.6)) < 0.25))
    paint.over((0.60, 0.45, 0.35), z < -0.0272)
    paint.over(BLACK, (z < -0.0272) & _letters(p[:, 0], -p[:, 1], (-0.02, -0.008, 0.022, 0.012), 0.007, 41))
    return paint.rgb


def _tumbler(p: np.ndarray) -> np.ndarray:
    turn, z, r = _turn(p), p[:, 2], np.hypot(p[:, 0], p[:, 1])
    inside = (r < 0.0331 + 0.1 * z) & (z > -0.0575)
    paint = Paint(WHITE, len(p))
    paint.over(_hues(turn, 0.65, 0.88, 0.45), ~inside & (z < 0.04))
    wave = 0.012 * np.sin(2 * turn + 0.6) + 0.006 * np.sin(5 * turn)
    paint.over(BLUE, ~inside & (np.abs(z - wave) < 0.006))
    paint.over(WHITE, ~inside & (np.abs(z - wave + 0.018) < 0.003))
    u = turn * 0.036
    paint.over(BLACK, ~inside & _letters(u, z, (-0.026, 0.018, 0.034, 0.038), 0.013, 51))
    star = _wrap(turn - 2.5) * 0.033
    paint.over(YELLOW, ~inside & _disc(star, z, (0, -0.034), 0.014))
    paint.over(RED, ~inside & _disc(star, z, (0.003, -0.031), 0.006))
    paint.over((0.85, 0.88, 0.90), inside)
    paint.over(RED, inside & (z > 0.045) & (turn > 0.3) & (turn < 1.4))
    paint.over(GREEN, inside & (z < 0.02) & (np.abs(_wrap(turn + 1.8)) < 0.4))
    paint.over((0.70, 0.72, 0.74), z < -0.0595)
    paint.over(BLUE, (z < -0.0595) & _disc(p[:, 0], p[:, 1], (0.010, 0.006), 0.008))
    return paint.rgb


def _marker(p: np.ndarray) -> np.ndarray:
    turn, z = _turn(p), p[:, 2]
    u = turn * 0.0087
    paint = Paint((0.90, 0.90, 0.88), len(p))
    paint.over(GREEN, z > 0.0205)
    paint.over((0.10, 0.34, 0.14), (z > 0.0205) & (np.sin(turn * 14) > 0.6) & (z < 0.05))
    paint.over(WHITE, (z > 0.022) & (np.abs(_wrap(turn - 0.8)) < 0.35) & (z < 0.060))
    paint.over(GREEN, (z < 0.016) & (z > 0.008))
    paint.over(GREEN, (z < 0.008) & (np.abs(_wrap(turn - 2.7)) < 0.6))
    paint.over(BLACK, _letters(z, -u, (-0.058, -0.005, 0.006, 0.006), 0.0055, 61) & (np.abs(u) < 0.009))
    other = _wrap(turn + 2.0) * 0.0087
    paint.over(RED, _within(other, z, (-0.003, -0.050, 0.003, -0.010)))
    paint.over(BLACK, _bars(z, other, (-0.008, -0.004, 0.006, 0.004), 0.0008))
    paint.over((0.12, 0.40, 0.18), z < -0.0668)
    return paint.rgb


def _banana(p: np.ndarray) -> np.ndarray:
    axis = p + np.array([0, 0, -0.0335])  # roughly the arc's plane: x along, z out of the bend
    along = np.arctan2(axis[:, 0], 0.11 - axis[:, 2] - 0.03)
    paint = Paint((0.95, 0.80, 0.20), len(p))
    paint.over((0.72, 0.74, 0.22), np.clip((np.abs(p[:, 0]) - 0.062) / 0.03, 0, 0.9))
    paint.over((0.86, 0.66, 0.14), np.clip(_noise(p, 0.03, 71) * 1.6 - 0.7, 0, 0.8))
    paint.over((0.40, 0.25, 0.09), (_noise(p, 0.006, 72) > 0.80) & (_noise(p, 0.04, 73) > 0.42))
    paint.over((0.62, 0.46, 0.12), (np.abs(p[:, 1]) < 0.0012) | (_noise(p * np.array([0.15, 1, 1]), 0.004, 74) > 0.90))
    paint.over((0.25, 0.17, 0.09), p[:, 0] < -0.0885)
    paint.over((0.45, 0.36, 0.14), p[:, 0] > 0.0895)
    sticker = _disc(p[:, 0], p[:, 2], (0.018, -0.013), 0.0085, 1.25) & (p[:, 1] < 0)
    paint.over(BLUE, sticker)
    paint.over(WHITE, sticker & _letters(p[:, 0], p[:, 2], (0.010, -0.018, 0.030, -0.008), 0.0062, 75))
    paint.over((0.38, 0.24, 0.10), (p[:, 1] > 0) & _disc(along, p[:, 2], (-0.25, -0.012), 0.006, 12))
    return paint.rgb


def _drill(p: np.ndarray) -> np.ndarray:
    x, y, z = p.T
    paint = Paint(ORANGE, len(p))
    grip = (z < 0.022) & (z > -0.058)
    paint.over(BLACK, grip & ((np.abs(y) < 0.013) | (np.sin((z + 0.4 * x) * 700) > -0.55)))
    paint.over(BLACK, (x < -0.078) & (np.sin(z * 900) > -0.2))
    paint.over((0.25, 0.25, 0.27), (x > 0.033) & (z > 0.02))
    paint.over(STEEL, (x > 0.061) & (z > 0.02))
    paint.over(BLACK, (x > 0.061) & (z > 0.02) & (np.sin(np.arctan2(y, z - 0.06) * 9) > 0.75) & (x < 0.078))
    side = (np.abs(y) > 0.012) & (z > 0.035)
    right = side & (y < 0)
    paint.over(BLACK, right & _within(x, z, (-0.062, 0.047, 0.024, 0.073)))
    paint.over(WHITE, right & _letters(x, z, (-0.057, 0.048, 0.030, 0.072), 0.019, 82))
    left = side & (y > 0)
    paint.over(YELLOW, left & _within(-x, z, (-0.020, 0.046, 0.060, 0.074)))
    paint.over(BLACK, left & _letters(-x, z, (-0.017, 0.049, 0.064, 0.072), 0.0085, 83))
    paint.over(RED, (z > 0.005) & (z < 0.038) & (x > -0.008) & (x < 0.012) & (np.abs(y) < 0.0095))
    battery = z < -0.060
    paint.over((0.16, 0.16, 0.18), battery)
    paint.over(ORANGE, battery & (z < -0.072) & (z > -0.080))
    paint.over(WHITE, battery & (y < -0.028) & _letters(x, z, (-0.078, -0.090, 0.010, -0.064), 0.011, 84))
    paint.over(GREEN, battery & (y > 0.028) & _within(x, z, (-0.06, -0.09, -0.03, -0.064)))
    paint.over(RED, battery & (x > 0.008) & _disc(y, z, (0.012, -0.074), 0.007))
    return paint.rgb


def _clamp(p: np.ndarray) -> np.ndarray:
    x, y, z = p.T
    z = z - 0.0265  # the screw moves the box's centre down from the frame's
    paint = Paint((0.15, 0.33, 0.66), len(p))
    screw = (x > 0.002) & (z < 0.0385) & ~((z < -0.033) & (z > -0.061))
    paint.over(STEEL, screw & (z < 0.03))
    paint.over((0.30, 0.31, 0.33), screw & (z < -0.012) & (np.sin(z * 2100) > 0.2) & (z > -0.097))
    bar = z < -0.0965
    paint.over(RED, bar & (x > 0.030))
    paint.over(YELLOW, bar & (x < -0.004))
    front = (y < -0.006) & (x < 0.022)
    paint.over(WHITE, front & _letters(z, x + 0.040, (-0.040, -0.006, 0.052, 0.008), 0.0115, 91) & (x < -0.030))
    paint.over(YELLOW, front & _within(x, z, (-0.028, 0.040, 0.000, 0.054)))
    back = (y > 0.006) & (x < 0.022)
    paint.over(ORANGE, back & (np.sin((x + z) * 330) > 0.3) & (x < -0.030))
    paint.over(WHITE, back & _letters(-x, z, (-0.002, -0.054, 0.036, -0.041), 0.009, 92))
    paint.over((0.10, 0.22, 0.45), _noise(p, 0.008, 93) > 0.80)
    return paint.rgb


def _hammer(p: np.ndarray) -> np.ndarray:
    x, y, z = p.T
    grain = _noise(p * np.array([1.0, 1.0, 0.07]), 0.0035, 101)
    wood = np.array([0.78, 0.56, 0.32])[None] * (0.78 + 0.32 * grain)[:, None]
    paint = Paint((0.78, 0.56, 0.32), len(p))
    paint.over(wood, np.ones(len(p)))
    grip = z < -0.022
    paint.over((0.12, 0.13, 0.15), grip)
    paint.over(RED, grip & ((np.sin(z * 420) > 0.82) | (z > -0.030)))
    paint.over(RED, grip & (np.abs(y) > 0.008) & (y < 0) & _within(x, z, (-0.03, -0.10, 0.03, -0.06)))
    paint.over(WHITE, grip & (y < 0) & _letters(z, -x, (-0.098, -0.008, -0.058, 0.010), 0.011, 102))
    paint.over(YELLOW, grip & (y > 0) & _within(x, z, (-0.03, -0.115, 0.03, -0.095)))
    paint.over(BLUE, ~grip & (y < 0) & _within(x, z, (-0.03, 0.010, 0.03, 0.052)))
    paint.over(WHITE, ~grip & (y < 0) & _letters(z, -x, (0.012, -0.008, 0.056, 0.010), 0.0085, 103))
    paint.over(BLACK, ~grip & (y > 0) & _letters(z, x, (0.005, -0.008, 0.070, 0.010), 0.0085, 104))
    head = (z > 0.095) | ((z > 0.070) & (x < -0.018))
    paint.over((np.array(STEEL) * (0.75 + 0.35 * _noise(p, 0.012, 105))[:, None]), head)
    paint.over((0.24, 0.25, 0.28), head & (x > -0.004) & (x < 0.028))
    paint.over(YELLOW, head & (y < 0) & (x > -0.002) & (x < 0.026) & _disc(x, z, (0.012, 0.112), 0.008))
    paint.over(GREEN, head & (y > 0) & _within(x, z, (0.0, 0.104, 0.024, 0.122)))
    return paint.rgb


def _spray_bottle(p: np.ndarray) -> np.ndarray:
    x, y, z = p.T
    paint = Paint((0.20, 0.60, 0.75), len(p))
    label = (z > -0.095) & (z < -0.012)
    front, back = label & (y < -0.004), label & (y > 0.004)
    paint.over(WHITE, front & (np.abs(x - 0.0095) < 0.034))
    paint.over((0.10, 0.42, 0.60), front & _letters(x, z, (-0.021, -0.042, 0.060, -0.016), 0.017, 111))
    paint.over(GREEN, front & _disc(x, z, (-0.006, -0.066), 0.018))
    paint.over(YELLOW, front & _disc(x, z, (0.016, -0.070), 0.012))
    paint.over((0.98, 0.86, 0.30), back & (np.abs(x - 0.0095) < 0.034))
    paint.over(RED, back & (z > -0.030) & (np.abs(x - 0.0095) < 0.034))
    paint.over(BLACK, back & _letters(-x, z, (-0.041, -0.092, 0.030, -0.034), 0.0055, 112))
    head = z > 0.048
    paint.over(WHITE, head)
    paint.over(RED, head & (x < -0.022) & (z < 0.078))
    paint.over(RED, (x < -0.030) & (z > 0.02) & (z < 0.080))
    paint.over((0.15, 0.15, 0.17), head & (x < -0.044) & (z > 0.082))
    paint.over((0.75, 0.77, 0.80), head & (z < 0.074) & (np.sin(_turn(p) * 16) > 0.4) & (x > -0.022))
    paint.over(BLUE, head & (y < 0) & _within(x, z, (-0.012, 0.084, 0.020, 0.096)))
    paint.over(ORANGE, head & (y > 0) & _disc(x, z, (0.004, 0.090), 0.007))
    return paint.rgb


def _scissors(p: np.ndarray) -> np.ndarray:
    x, y, z = p.T
    paint = Paint(STEEL, len(p))
    paint.over((0.74, 0.76, 0.79), np.sin((x + z) * 500) > 0.4)
    handle = z < -0.010
    paint.over(ORANGE, handle & (x > 0))
    paint.over((0.42, 0.18, 0.55), handle & (x <= 0))
    paint.over(BLACK, handle & (z < -0.070) & (np.abs(y) < 0.0032))
    paint.over(YELLOW, handle & (y < -0.0032) & (z > -0.034) & (z < -0.020))
    paint.over((0.10, 0.45, 0.48), handle & (y > 0.0032) & (z > -0.060) & (z < -0.030))
    pivot = np.hypot(x, z - 0.0005) < 0.0056
    paint.over(np.where(y[:, None] < 0, np.array(BLUE), np.array(RED)), pivot)
    paint.over(BLACK, (y < 0) & (z > 0.016) & (z < 0.05) & (np.sin(z * 900) > 0.5) & (np.abs(x) < 0.006))
    paint.over((0.35, 0.37, 0.42), (y > 0) & (z > 0.03) & (z < 0.045))
    return paint.rgb


def _remote(p: np.ndarray) -> np.ndarray:
    x, y, z = p.T
    paint = Paint((0.13, 0.13, 0.15), len(p))
    front = y < -0.004
    columns, rows = np.round(x / 0.0125), np.round((z + 0.010) / 0.0125)
    key = (
        front
        & (np.abs(columns) <= 1)
        & (z > -0.062)
        & (z < 0.036)
        & (np.hypot(x - columns * 0.0125, z + 0.010 - rows * 0.0125) < 0.0046)
    )
    tint = _hash(np.stack([columns, rows], 1).astype(np.int64), 121)
    paint.over((0.75, 0.76, 0.78), key & (tint < 0.7))
    paint.over(YELLOW, key & (tint >= 0.7) & (tint < 0.85))
    paint.over(BLUE, key & (tint >= 0.85))
    paint.over(RED, front & _disc(x, z, (-0.0125, 0.070), 0.006))
    paint.over(GREEN, front & _disc(x, z, (0.0125, 0.070), 0.0045))
    ring = np.hypot(x, z - 0.050)
    paint.over((0.42, 0.43, 0.46), front & (ring < 0.0125) & (ring > 0.006))
    paint.over(WHITE, front & _letters(x, z, (-0.016, -0.078, 0.020, -0.068), 0.0075, 122))
    back = y > 0.002
    paint.over((0.45, 0.20, 0.12), back & (z < 0.01) & (z > -0.07) & (np.abs(x) < 0.017))
    paint.over(WHITE, back & _letters(-x, z, (-0.014, 0.02, 0.016, 0.065), 0.006, 123))
    paint.over((0.50, 0.05, 0.05), z > 0.0825)
    paint.over((0.55, 0.56, 0.60), (np.abs(y) < 0.0016) & (np.abs(z) < 0.083))
    return paint.rgb


def _mouse(p: np.ndarray) -> np.ndarray:
    x, y, z = p.T
    paint = Paint((0.80, 0.81, 0.83), len(p))
    paint.over((0.22, 0.23, 0.26), np.abs(x) > 0.0255 - 0.004 * np.cos(y * 45))
    paint.over((0.25, 0.26, 0.28), (np.abs(x) < 0.0011) & (y < -0.010) & (z > -0.012))
    paint.over((0.25, 0.26, 0.28), (np.abs(y + 0.010) < 0.0011) & (z > -0.012))
    paint.over(BLACK, _within(x, y, (-0.0048, -0.048, 0.0048, -0.022)) & (z > -0.012))
    paint.over(
        (0.55, 0.56, 0.58), _within(x, y, (-0.0048, -0.048, 0.0048, -0.022)) & (z > -0.012) & (np.sin(y * 2600) > 0)
    )
    paint.over(RED, (x < -0.020) & _within(y, z, (-0.025, -0.006, 0.012, 0.004)))
    paint.over(BLUE, (z > -0.01) & _disc(x, y, (0.0, 0.030), 0.011))
    paint.over(WHITE, (z > -0.01) & _letters(x, y, (-0.0075, 0.026, 0.012, 0.036), 0.0078, 131))
    below = z < -0.0185
    paint.over((0.16, 0.16, 0.18), below)
    paint.over(WHITE, below & _letters(-x, y, (-0.018, 0.010, 0.020, 0.04), 0.006, 132))
    paint.over(GREEN, below & _disc(x, y, (0.004, -0.02), 0.006))
    return paint.rgb


def _apple(p: np.ndarray) -> np.ndarray:
    turn, z, r = _turn(p), p[:, 2], np.hypot(p[:, 0], p[:, 1])
    blush = np.clip(0.55 + 0.75 * np.cos(turn - 0.5) + 0.5 * (_noise(p, 0.014, 141) - 0.5), 0, 1)
    paint = Paint((0.74, 0.76, 0.24), len(p))
    paint.over((0.76, 0.12, 0.12), blush)
    streak = _noise(np.stack([np.cos(turn) * 0.05, np.sin(turn) * 0.05, z * 0.12], 1), 0.0028, 142)
    paint.over((0.90, 0.52, 0.20), np.clip(streak * 2 - 1.15, 0, 0.7))
    paint.over((0.92, 0.86, 0.55), _noise(p, 0.0022, 143) > 0.86)
    paint.over((0.52, 0.42, 0.16), np.clip((0.012 - r) / 0.006, 0, 1) * (z > 0))
    paint.over((0.30, 0.20, 0.10), (r < 0.0034) & (z > 0.012))
    paint.over((0.35, 0.26, 0.14), (r < 0.007) & (z < 0))
    u = _wrap(turn - 2.2) * 0.036
    paint.over(BLUE, _disc(u, z, (0, 0.004), 0.010, 1.2))
    paint.over(WHITE, _letters(u, z, (-0.009, -0.002, 0.014, 0.011), 0.0085, 144) & _disc(u, z, (0, 0.004), 0.010, 1.2))
    paint.over((0.45, 0.30, 0.14), _disc(_wrap(turn + 1.7) * 0.036, z, (0, -0.008), 0.005, 1.6))
    return paint.rgb


TEXTURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "box": _box,
    "can": _can,
    "bottle": _bottle,
    "mug": _mug,
    "bowl": _bowl,
    "tumbler": _tumbler,
    "marker": _marker,
    "banana": _banana,
    "drill": _drill,
    "clamp": _clamp,
    "hammer": _hammer,
    "spray_bottle": _spray_bottle,
    "scissors": _scissors,
    "remote": _remote,
    "mouse": _mouse,
    "apple": _apple,
}


def albedo(name: str, points: np.ndarray, seed: int = 0) -> np.ndarray:
    """Linear albedo "N 3" at points "N 3" (metres, object frame); other seeds than 0 shift its colours."""
    srgb = TEXTURES[name](points)
    return linear_from_srgb(np.clip(_jitter(srgb, seed), 0.02, 0.98))


def _jitter(srgb: np.ndarray, seed: int) -> np.ndarray:
    if seed == 0:
        return srgb
    rng = np.random.default_rng(seed)
    angle, saturation, value = rng.normal(0, 0.25), rng.uniform(0.75, 1.2), rng.uniform(0.8, 1.15)
    tint = 1 + 0.06 * (np.array(colorsys.hsv_to_rgb(rng.random(), 1, 1)) - 0.5)
    grey = srgb.mean(1, keepdims=True)
    # A turn about the grey axis shifts the hue (Rodrigues' formula; the colour less its grey is square to the axis).
    chroma = srgb - grey
    turned = np.cos(angle) * chroma + np.sin(angle) * np.cross(np.full(3, 3**-0.5), chroma)
    return (grey + saturation * turned) * value * tint
