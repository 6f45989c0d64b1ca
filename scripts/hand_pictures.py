"""Pictures of a hand: shaded views by a small software renderer (numba), put together into sheets."""

from __future__ import annotations

import numba
import numpy as np
from PIL import Image, ImageDraw

VIEWS = {
    "back": ((0, 1, 0), (-1, 0, 0)), "palm": ((0, -1, 0), (-1, 0, 0)), "thumb side": ((0, 0, 1), (-1, 0, 0)),
    "little finger side": ((0, 0, -1), (-1, 0, 0)), "finger tips": ((-1, 0, 0), (0, 1, 0)),
    "wrist": ((1, 0, 0), (0, 1, 0)),
}  # fmt: skip
"""Direction from the hand to the eye, and what points up in the picture."""


@numba.njit(cache=True)
def _raster(points, faces, values, height, width):
    depth = np.full((height, width), -1e30)
    image = np.zeros((height, width, values.shape[1]))
    for f in range(len(faces)):
        a, b, c = points[faces[f, 0]], points[faces[f, 1]], points[faces[f, 2]]
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        if area == 0:
            continue
        x0, x1 = max(0, int(np.floor(min(a[0], b[0], c[0])))), min(width - 1, int(np.ceil(max(a[0], b[0], c[0]))))
        y0, y1 = max(0, int(np.floor(min(a[1], b[1], c[1])))), min(height - 1, int(np.ceil(max(a[1], b[1], c[1]))))
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                u = ((b[0] - x) * (c[1] - y) - (b[1] - y) * (c[0] - x)) / area
                v = ((c[0] - x) * (a[1] - y) - (c[1] - y) * (a[0] - x)) / area
                w = 1 - u - v
                if u < 0 or v < 0 or w < 0:
                    continue
                z = u * a[2] + v * b[2] + w * c[2]
                if z > depth[y, x]:
                    depth[y, x] = z
                    for k in range(values.shape[1]):
                        image[y, x, k] = (
                            u * values[faces[f, 0], k] + v * values[faces[f, 1], k] + w * values[faces[f, 2], k]
                        )
    return image, depth


def shade(vertices, faces, colors, eye, up, size=(420, 420), scale=None, wire=False, back_red=True):
    """A picture of the mesh seen from far away in direction ``eye``, light from the upper left; inner sides are red."""
    eye, up = np.asarray(eye, float), np.asarray(up, float)
    eye, right = eye / np.linalg.norm(eye), np.cross(up, eye)
    right /= np.linalg.norm(right)
    up = np.cross(eye, right)
    frame = np.stack([right, up, eye])
    turned = vertices @ frame.T
    middle = (turned.max(0) + turned.min(0)) / 2
    factor = 2  # supersampling
    height, width = size[0] * factor, size[1] * factor
    if scale is None:
        scale = 0.9 / (turned.max(0) - turned.min(0))[:2].max()
    zoom = scale * min(height, width)
    screen = (turned - middle) * zoom
    points = np.stack([width / 2 + screen[:, 0], height / 2 - screen[:, 1], screen[:, 2]], 1)
    normals = np.zeros_like(vertices)
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    area = np.cross(b - a, c - a)
    for i in range(3):
        np.add.at(normals, faces[:, i], area)
    normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12) @ frame.T
    image, depth = _raster(points, faces.astype(np.int64), np.concatenate([normals, colors], 1), height, width)
    n = image[..., :3] / np.maximum(np.linalg.norm(image[..., :3], axis=-1, keepdims=True), 1e-9)
    light = np.array([-0.45, 0.6, 0.66])
    key = np.clip(n @ light, 0, None)
    fill = np.clip(n @ np.array([0.6, -0.2, 0.5]), 0, None)
    lit = (0.18 + 0.70 * key + 0.18 * fill)[..., None] * image[..., 3:] * np.array([0.93, 0.69, 0.56])
    half = light + np.array([0, 0, 1.0])
    lit += (0.10 * np.clip(n @ (half / np.linalg.norm(half)), 0, None) ** 24)[..., None]
    if back_red:
        lit[n[..., 2] < -0.15] = [0.8, 0.1, 0.1]
    lit = np.clip(lit, 0, 1) ** (1 / 1.8)
    lit[depth < -1e29] = 1.0
    picture = lit.reshape(size[0], factor, size[1], factor, 3).mean((1, 3))
    made = Image.fromarray((picture * 255).astype(np.uint8))
    if wire:
        draw = ImageDraw.Draw(made)
        front = ((points[faces[:, 1]] - points[faces[:, 0]])[:, :2], (points[faces[:, 2]] - points[faces[:, 0]])[:, :2])
        seen = front[0][:, 0] * front[1][:, 1] - front[0][:, 1] * front[1][:, 0] < 0
        for face in faces[seen]:
            draw.polygon([tuple(points[v, :2] / factor) for v in face], outline=(60, 60, 60))
    return made


def sheet(rows: list[list[Image.Image]], labels: list[list[str]]) -> Image.Image:
    """Pictures in rows with a line of text over each."""
    width = max(sum(p.width for p in row) for row in rows)
    height = sum(max(p.height for p in row) + 18 for row in rows)
    made = Image.new("RGB", (width, height), "white")
    draw, y = ImageDraw.Draw(made), 0
    for row, names in zip(rows, labels, strict=True):
        x = 0
        for picture, name in zip(row, names, strict=True):
            draw.text((x + 6, y + 3), name, fill=(40, 40, 40))
            made.paste(picture, (x, y + 18))
            x += picture.width
        y += max(p.height for p in row) + 18
    return made
