"""Draws docs/objects.png, the contact sheet of the embedded objects: ``python docs/make_objects.py [FILE]``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from horefine.objects import OBJECTS, embedded_object, object_texture
from horefine.render import Topology, render

TILE, FINE, COLUMNS = 220, 3, 4
VIEWS = ((28, 22), (165, 30))
"""Degrees round the object and above it."""
LIGHT, FILL = np.array([-0.5, -0.65, -0.6]), np.array([0.8, 0.2, -0.3])


def rotation(azimuth: float, elevation: float) -> np.ndarray:
    """Object (z up, seen from -y at azimuth 0) to camera frame."""
    a, e = np.radians(azimuth), np.radians(elevation)
    forward = np.array([-np.sin(a) * np.cos(e), np.cos(a) * np.cos(e), -np.sin(e)])
    right = np.array([np.cos(a), np.sin(a), 0])
    return np.stack([right, np.cross(forward, right), forward])


def views(name: str) -> list[np.ndarray]:
    """Pictures "S S 3" of one object, 0 to 1."""
    mesh = embedded_object(name)
    vertices, faces = mesh.trimmed()
    size = TILE * FINE
    distance = 3.4 * mesh.scale.item()
    turns = [rotation(*view) for view in VIEWS]
    offset = torch.tensor([0, 0, distance], dtype=torch.float32)
    placed = [vertices @ torch.tensor(turn, dtype=torch.float32).T + offset for turn in turns]
    focal, middle = 2.4 * size, (size - 1) / 2
    matrix = torch.tensor([[focal, 0, middle], [0, focal, middle], [0, 0, 1.0]]).expand(len(VIEWS), 3, 3)
    values = torch.cat([vertices, mesh.normals[0, : len(vertices)]], 1).repeat(len(VIEWS), 1)
    topology = Topology.pack([(len(vertices), faces)] * len(VIEWS))
    mask, _, found, ids = render(torch.cat(placed), topology, matrix, (size, size), values)
    assert mask is not None and found is not None and ids is not None
    flat = face_normals(vertices.numpy(), faces.numpy())
    smooth = mesh.normals[0].numpy()
    sharp = (smooth[faces.numpy()] * flat[:, None]).sum(-1).min(1) < 0.8
    pictures = []
    for index, turn in enumerate(turns):
        where = ids[index].numpy() >= 0
        seen = found[index].numpy()[:, where].T
        face = ids[index].numpy()[where]
        normals = np.where(sharp[face, None], 0.8 * flat[face] + 0.2 * seen[:, 3:], seen[:, 3:]) @ turn.T
        picture = np.ones((size, size, 3)) * 0.80
        picture[where] = shade(object_texture(name, seen[:, :3]), normals)
        pictures.append(picture.reshape(TILE, FINE, TILE, FINE, 3).mean((1, 3)))
    return pictures


def face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals "F 3"."""
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)


def shade(albedo: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Linear light from a lamp above left, a weaker one at the right, the sky and a soft highlight."""
    normals = normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)
    lamp, fill = LIGHT / np.linalg.norm(LIGHT), FILL / np.linalg.norm(FILL)
    half = lamp - np.array([0.0, 0, 1])
    half = half / np.linalg.norm(half)
    light = 0.28 + 0.80 * (normals @ lamp).clip(0) + 0.16 * (normals @ fill).clip(0)
    return albedo * light[:, None] + 0.07 * (normals @ half).clip(0)[:, None] ** 40


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("objects.png")
    cells = [np.concatenate(views(name), axis=1) for name in OBJECTS]
    cells += [np.full_like(cells[0], 0.80)] * (-len(cells) % COLUMNS)
    rows = [np.concatenate(cells[i : i + COLUMNS], axis=1) for i in range(0, len(cells), COLUMNS)]
    linear = np.concatenate(rows).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    sheet = Image.fromarray((encoded * 255 + 0.5).astype(np.uint8))
    draw = ImageDraw.Draw(sheet)
    for index, name in enumerate(OBJECTS):
        place = (index % COLUMNS * TILE * len(VIEWS) + 10, index // COLUMNS * TILE + 6)
        extents = embedded_object(name).box[1][0] * 200
        text = f"{name}   {extents[0]:.1f} x {extents[1]:.1f} x {extents[2]:.1f} cm"
        draw.text(place, text, fill=(70, 70, 75), font=ImageFont.load_default(15))
    sheet.save(path, optimize=True)


if __name__ == "__main__":
    main()
