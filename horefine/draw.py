"""Pictures of results: shaded hand and object over the photograph, seen from the side, outlines, loss curves.

Everything is drawn with our own CPU renderer and Pillow. Colours are linear light until the very end; edges are
smooth because pictures are rendered larger and averaged down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

from horefine import draw_kernels as kernels
from horefine.geometry import Box
from horefine.render import Topology, render

__all__ = [
    "HAND_COLOR",
    "OBJECT_COLOR",
    "Painting",
    "Surface",
    "Tile",
    "compare",
    "crop_photo",
    "loss_chart",
    "outline",
    "overlay",
    "paint",
    "sheet",
    "side_view",
    "view_box",
]

HAND_COLOR = (0.96, 0.66, 0.46)
"""sRGB: warm, as the object's is cool, so that the two are told apart on any photograph."""
OBJECT_COLOR = (0.30, 0.58, 0.86)
_INK, _PAPER, _FAINT = (33, 37, 41), (255, 255, 255), (134, 142, 150)
_OVERSAMPLING = 3
_NEAR = 0.02
_PALETTE = (
    "#1c7ed6",
    "#e8590c",
    "#2b8a3e",
    "#ae3ec9",
    "#c92a2a",
    "#0b7285",
    "#5f3dc4",
    "#e67700",
    "#495057",
    "#a61e4d",
)


@dataclass(frozen=True, eq=False)
class Surface:
    """A triangle mesh to draw, in the camera's frame, metres."""

    vertices: Float[ndarray, "V 3"]
    faces: Int[ndarray, "F 3"]
    color: tuple[float, float, float]
    """sRGB."""

    @cached_property
    def normals(self) -> Float[ndarray, "V 3"]:
        """Unit normals of the vertices, weighted by area."""
        corners = self.vertices[self.faces]
        area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        total = np.zeros_like(self.vertices)
        for corner in range(3):
            np.add.at(total, self.faces[:, corner], area)
        return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-20)

    def turned(self, rotation: Float[ndarray, "3 3"], about: Float[ndarray, "3"], move: Float[ndarray, "3"]) -> Surface:
        """The surface turned about a point, then moved."""
        return Surface((self.vertices - about) @ rotation.T + about + move, self.faces, self.color)


@dataclass(frozen=True, eq=False)
class Painting:
    """Surfaces as one camera sees them, nearest in front."""

    color: Float[ndarray, "H W 3"]
    """Linear light, multiplied by ``alpha``."""
    alpha: Float[ndarray, "H W"]
    labels: Int[ndarray, "h w"]
    """At the oversampled size: which surface is seen (1, 2, ...), 0 for none."""


def _unit(*vector: float) -> ndarray:
    return (np.array(vector) / np.linalg.norm(vector)).astype(np.float32)


_KEY = _unit(-0.45, -0.65, -0.62)
"""Towards the key light: from the upper left behind the camera."""
_HALF = _unit(*(_KEY - [0.0, 0.0, 1.0]).tolist())
"""Halfway between it and the eye: normals that point there shine."""


def paint(surfaces: Sequence[Surface], matrix: Float[ndarray, "3 3"], size: tuple[int, int]) -> Painting:
    """Shades surfaces with one key light, sky light and a faint highlight; they hide each other by depth."""
    height, width = (side * _OVERSAMPLING for side in size)
    large = matrix.copy()
    large[:2] *= _OVERSAMPLING
    large[:2, 2] += (_OVERSAMPLING - 1) / 2
    seen = [s for s in surfaces if s.vertices[:, 2].max() > _NEAR]
    label, color = np.zeros((height, width), np.int8), np.zeros((*size, 3), np.float32)
    alpha = np.zeros(size, np.float32)
    if seen:
        _, depth, values, ids = render(
            torch.tensor(np.concatenate([s.vertices for s in seen]), dtype=torch.float32),
            Topology.pack([(len(s.vertices), torch.as_tensor(s.faces)) for s in seen]),
            torch.tensor(large, dtype=torch.float32).expand(len(seen), 3, 3).contiguous(),
            (height, width),
            torch.tensor(np.concatenate([s.normals for s in seen]), dtype=torch.float32),
            backend="cpu",
            want={"depth", "values"},
        )
        assert depth is not None and values is not None and ids is not None
        linear = np.array([_linear(np.array(s.color, np.float32)) for s in seen], np.float32)
        numbers = np.array([surfaces.index(s) + 1 for s in seen], np.int8)
        kernels.shade(
            ids.numpy(), depth.numpy(), values.numpy(), linear, numbers, _KEY, _HALF, _OVERSAMPLING,
            color, alpha, label,
        )  # fmt: skip
    return Painting(color, alpha, label)


def overlay(photo: Image.Image, painting: Painting, opacity: float = 0.85) -> Image.Image:
    """A painting over the photograph that the same camera took."""
    below = _linear(np.asarray(photo, np.float32) / 255)
    return _picture(painting.color * opacity + below * (1 - opacity * painting.alpha[..., None]))


def outline(photo: Image.Image, painting: Painting, colors: Sequence[tuple[float, float, float]]) -> Image.Image:
    """The photograph with a line where each surface's visible part ends, edged dark to show on any ground."""
    picture = np.asarray(photo, np.float32) / 255
    thick = max(1, round(min(photo.size) / 260))
    for number, own in enumerate(colors, 1):
        inside = painting.labels == number
        for width, color, strength in ((2 * thick, (0.0, 0.0, 0.0), 0.55), (thick, own, 1.0)):
            line = _reduce(_border(inside, width * _OVERSAMPLING)[..., None].astype(np.float32)) * strength
            picture = picture * (1 - line) + np.array(color, np.float32) * line
    return Image.fromarray((np.clip(picture, 0, 1) * 255).round().astype(np.uint8))


def side_view(surfaces: Sequence[Surface], size: tuple[int, int], angle: float = 90.0) -> Image.Image:
    """Hand and object on paper, seen after walking ``angle`` degrees around them (90: from their left)."""
    points = np.concatenate([s.vertices for s in surfaces])
    centre = (points.min(0) + points.max(0)) / 2
    radius = float(np.linalg.norm(points - centre, axis=1).max())
    turn = np.radians(angle)
    about_y = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    away = np.array([0, 0, 4 * radius]) - centre
    focal = 0.92 * min(size) / 2 / np.tan(np.arcsin(0.25))
    matrix = np.array([[focal, 0, (size[1] - 1) / 2], [0, focal, (size[0] - 1) / 2], [0, 0, 1]])
    painting = paint([s.turned(about_y, centre, away) for s in surfaces], matrix, size)
    ground = np.linspace(0.98, 0.87, size[0], dtype=np.float32)[:, None, None] * np.ones((1, size[1], 3), np.float32)
    return _picture(painting.color + _linear(ground) * (1 - painting.alpha[..., None]))


def view_box(points: Float[ndarray, "N 3"], matrix: Float[ndarray, "3 3"], size: tuple[int, int]) -> Box:
    """A square of the photograph around projected points with a margin, moved and shrunk to lie in it if it can."""
    height, width = size
    front = points[points[:, 2] > _NEAR]
    if not len(front):
        return -0.5, -0.5, width - 0.5, height - 0.5
    pixels = front[:, :2] / front[:, 2:] * [matrix[0, 0], matrix[1, 1]] + matrix[:2, 2]
    low, high = np.clip(pixels.min(0), 0, [width, height]), np.clip(pixels.max(0), 0, [width, height])
    side = max(1.35 * float((high - low).max()), 0.12 * max(size))
    side = min(side, float(min(size))) if side < 1.6 * min(size) else side
    centre = (low + high) / 2
    for axis, length in enumerate((width, height)):
        if side <= length:
            centre[axis] = np.clip(centre[axis], side / 2 - 0.5, length - 0.5 - side / 2)
        else:
            centre[axis] = (length - 1) / 2
    x, y = centre.tolist()
    return x - side / 2, y - side / 2, x + side / 2, y + side / 2


def crop_photo(
    photo: Float[ndarray, "H W 3"], matrix: Float[ndarray, "3 3"], box: Box, side: int
) -> tuple[Image.Image, ndarray]:
    """A square part of a photograph (0 to 1, sRGB) at ``side`` pixels, grey outside the photo, and its camera."""
    x0, y0, x1, y1 = (edge + 0.5 for edge in box)
    height, width = photo.shape[:2]
    pads = [max(0, int(np.ceil(v))) for v in (-y0, y1 - height, -x0, x1 - width)]
    left, top = max(0, int(x0) - 4), max(0, int(y0) - 4)  # touch only what is needed of a large photo
    near = photo[top : int(y1) + 5, left : int(x1) + 5]
    image = (np.clip(near, 0, 1) * 255).round().astype(np.uint8)
    if any(pads):
        image = np.pad(image, ((pads[0], pads[1]), (pads[2], pads[3]), (0, 0)), constant_values=127)
    area = (x0 - left + pads[2], y0 - top + pads[0], x1 - left + pads[2], y1 - top + pads[0])
    scale = side / (x1 - x0)
    part = Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS, box=area)
    camera = matrix.copy()
    camera[0, 0], camera[1, 1] = matrix[0, 0] * scale, matrix[1, 1] * scale
    camera[0, 2], camera[1, 2] = ((matrix[i, 2] - box[i]) * scale - 0.5 for i in (0, 1))
    return part, camera


@dataclass(frozen=True)
class Tile:
    """A picture of a :func:`sheet` and what stands under it."""

    picture: Image.Image
    caption: str


def compare(
    photo: Float[ndarray, "H W 3"],
    matrix: Float[ndarray, "3 3"],
    before: Sequence[Surface],
    after: Sequence[Surface],
    *,
    side: int = 400,
    title: str = "",
    stretch: float = 1.0,
) -> Image.Image:
    """One image's sheet: before, after and the photo; below, the outline after and both poses from the side.

    ``stretch``: the focal length before over that of ``matrix``, where it was refined too.
    """
    shown = before if stretch == 1 else [replace(s, vertices=s.vertices * [stretch, stretch, 1.0]) for s in before]
    points = np.concatenate([s.vertices for s in (*shown, *after)])
    part, camera = crop_photo(photo, matrix, view_box(points, matrix, photo.shape[:2]), side)
    old, new = (paint(surfaces, camera, (side, side)) for surfaces in (shown, after))
    tiles = [
        Tile(overlay(part, old), "before"),
        Tile(overlay(part, new), "after"),
        Tile(part, "photo"),
        Tile(side_view(before, (side, side)), "before, from the side"),
        Tile(side_view(after, (side, side)), "after, from the side"),
        Tile(outline(part, new, [s.color for s in after]), "outline of the result"),
    ]
    return sheet(tiles, columns=3, title=title)


def sheet(tiles: Sequence[Tile], columns: int, title: str = "") -> Image.Image:
    """Pictures of one size in rows, each with its caption."""
    gap, label, top = 10, 26, 34 if title else 10
    width, height = tiles[0].picture.size
    rows = -(-len(tiles) // columns)
    page = Image.new("RGB", (gap + columns * (width + gap), top + rows * (height + label + 4)), _PAPER)
    pen = ImageDraw.Draw(page)
    if title:
        pen.text((gap, 7), title, fill=_INK, font=_font(17))
    for number, tile in enumerate(tiles):
        x, y = gap + number % columns * (width + gap), top + number // columns * (height + label + 4)
        page.paste(tile.picture, (x, y))
        pen.text((x, y + height + 4), tile.caption, fill=_FAINT, font=_font(15))
    return page


def loss_chart(
    history: Mapping[str, Float[ndarray, "steps"]], best_step: int | None = None, size: tuple[int, int] = (560, 400)
) -> Image.Image:
    """Each loss over the steps on a logarithmic axis, ``total`` drawn bold, the kept step marked."""
    width, height = size
    page = Image.new("RGB", (2 * width, 2 * height), _PAPER)  # drawn at twice the size: Pillow's lines are not smooth
    pen = ImageDraw.Draw(page)
    frame = (2 * 64, 2 * 18, 2 * (width - 205), 2 * (height - 40))
    curves = {n: np.where(np.isfinite(v) & (np.asarray(v) > 0), v, np.nan) for n, v in history.items()}
    curves = {n: v for n, v in curves.items() if np.isfinite(v).any()}
    if not curves:
        pen.text((frame[0], frame[1]), "no history", fill=_FAINT, font=_font(28))
        return page.resize(size, Image.Resampling.LANCZOS)
    largest = max(float(np.nanmax(v)) for v in curves.values())
    smallest = max(min(float(np.nanmin(v)) for v in curves.values()), largest * 1e-6)
    low, high = np.floor(np.log10(smallest)), np.ceil(np.log10(largest) + 1e-9)
    high = max(high, low + 1)
    steps = max(len(v) for v in curves.values())
    _axes(pen, frame, (float(low), float(high)), steps)

    def place(step: ndarray, value: ndarray) -> list[tuple[float, float]]:
        x = frame[0] + step / max(steps - 1, 1) * (frame[2] - frame[0])
        y = frame[3] - (np.log10(np.maximum(value, 10.0**low)) - low) / (high - low) * (frame[3] - frame[1])
        return list(zip(x.tolist(), y.tolist(), strict=True))

    if best_step is not None:
        x = frame[0] + best_step / max(steps - 1, 1) * (frame[2] - frame[0])
        pen.line([(x, frame[1]), (x, frame[3])], fill=_FAINT, width=2)
    for number, (name, curve) in enumerate(curves.items()):
        ink = _INK if name == "total" else _PALETTE[number % len(_PALETTE)]
        for run in _runs(curve):
            pen.line(place(run, curve[run]), fill=ink, width=6 if name == "total" else 3, joint="curve")
        y = frame[1] + 36 * number
        pen.line([(frame[2] + 24, y + 14), (frame[2] + 64, y + 14)], fill=ink, width=6 if name == "total" else 4)
        pen.text((frame[2] + 76, y - 2), name, fill=_INK, font=_font(28))
    return page.resize(size, Image.Resampling.LANCZOS)


def _axes(pen: ImageDraw.ImageDraw, frame: tuple[int, int, int, int], powers: tuple[float, float], steps: int) -> None:
    low, high = powers
    every = max(1, int(np.ceil((high - low) / 6)))
    for power in range(int(low), int(high) + 1, every):
        y = frame[3] - (power - low) / (high - low) * (frame[3] - frame[1])
        pen.line([(frame[0], y), (frame[2], y)], fill=(233, 236, 239), width=2)
        pen.text(
            (frame[0] - 12, y),
            f"1e{power}" if abs(power) > 3 else f"{10.0**power:g}",
            fill=_FAINT,
            font=_font(26),
            anchor="rm",
        )
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = frame[0] + share * (frame[2] - frame[0])
        pen.text((x, frame[3] + 12), f"{round(share * (steps - 1))}", fill=_FAINT, font=_font(26), anchor="mt")
    pen.text(((frame[0] + frame[2]) / 2, frame[3] + 44), "step", fill=_FAINT, font=_font(26), anchor="mt")


def _runs(curve: Float[ndarray, "steps"]) -> list[Int[ndarray, "run"]]:
    """Stretches of steps without gaps."""
    steps = np.flatnonzero(np.isfinite(curve))
    return [run for run in np.split(steps, np.flatnonzero(np.diff(steps) > 1) + 1) if len(run)]


def _border(inside: ndarray, width: int) -> ndarray:
    """Pixels of a region within ``width`` of its edge (city blocks)."""
    core = inside.copy()
    for _ in range(width):
        smaller = core.copy()
        smaller[1:] &= core[:-1]
        smaller[:-1] &= core[1:]
        smaller[:, 1:] &= core[:, :-1]
        smaller[:, :-1] &= core[:, 1:]
        core = smaller
    return inside & ~core


def _reduce(values: Float[ndarray, "h w C"]) -> Float[ndarray, "H W C"]:
    """Means over the oversampled squares."""
    # sums of slices: numpy's mean over axes 1 and 3 of the squares takes five times as long
    rows = np.add.reduce([values[i::_OVERSAMPLING] for i in range(_OVERSAMPLING)])
    total = np.add.reduce([rows[:, i::_OVERSAMPLING] for i in range(_OVERSAMPLING)])
    return total / np.float32(_OVERSAMPLING**2)


def _linear(srgb: ndarray) -> ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _picture(linear: Float[ndarray, "H W 3"]) -> Image.Image:
    linear = np.clip(linear, 0, 1)
    srgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return Image.fromarray((srgb * 255).round().astype(np.uint8))


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
