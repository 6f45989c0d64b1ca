"""Pictures of a layout: lights with a shadow map, ambient occlusion, skin, textures, and a camera's faults.

A :class:`Stage` holds what is the same in every picture of a scene (colours, normals, occlusion, lights, the shadow
map, the background), so a crop and the whole photo show the same thing. Colours are linear until :func:`develop`.
"""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from numba import njit
from PIL import Image
from scipy.ndimage import gaussian_filter

from horefine.data.background import paint_background
from horefine.data.compose import Layout
from horefine.data.light import Lights, ShadowMap, draw_lights, lit_share, shadow_map, surface_occlusion, vertex_normals
from horefine.data.raster import interpolate, shrink, zbuffer
from horefine.geometry import Box
from horefine.mesh import Mesh
from horefine.objects import OBJECTS, object_texture

__all__ = ["Lens", "Stage", "develop", "make_stage", "picture"]

_SKIN = np.log([[0.86, 0.55, 0.41], [0.72, 0.41, 0.27], [0.52, 0.25, 0.13], [0.30, 0.125, 0.06], [0.12, 0.048, 0.027]])
"""Logarithms of linear skin albedos, light to dark."""


@dataclass(frozen=True)
class Lens:
    """What the camera does to the light."""

    exposure: float
    balance: np.ndarray
    blur: float
    """Pixels of the 640 x 480 photo."""
    noise: float
    contrast: float
    jpeg: int
    """Quality; 0: none."""
    seed: int


@dataclass(frozen=True)
class Stage:
    """All parts as one mesh in the camera frame, with what their vertices carry, and the light on them."""

    vertices: np.ndarray
    faces: np.ndarray
    attributes: np.ndarray
    """V x 12: normal, albedo, occlusion, gloss, skin (0 or 1), own position."""
    textured: tuple[int, int]
    """Faces (from, to) whose albedo is the embedded object's texture."""
    texture: tuple[str, int] | None
    lights: Lights
    shadow: ShadowMap
    background: np.ndarray
    """Linear picture of what is behind, at half the photo's size."""
    behind: np.ndarray
    """Its depth, metres (half size too)."""
    lens: Lens


def make_stage(
    layout: Layout, mesh: Mesh, rng: np.random.Generator, hand_colors: np.ndarray, mirrored: bool = False
) -> Stage:
    """Dresses and lights a layout.

    Args:
        mesh: The object (B = 1), for its name and vertex colours.
        rng: Everything about the look comes from it.
        hand_colors: ``HandModel.colors``.
        mirrored: Whether the mesh is the mirror image of the object (for pictures that are flipped afterwards).
    """
    parts = [layout.hand, layout.object, layout.forearm, *layout.occluders]
    counts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    vertices = np.concatenate([part.vertices for part in parts])
    faces = np.concatenate([part.faces + start for part, start in zip(parts, counts, strict=False)]).astype(np.int32)
    normals = vertex_normals(vertices, faces)
    normals[: counts[1]] = _open_wrist(layout, normals[: counts[1]])
    pair = counts[2]
    occlusion = np.ones(len(vertices), np.float32)
    occlusion[:pair] = surface_occlusion(vertices[:pair], faces[: len(layout.hand.faces) + len(layout.object.faces)])
    albedo, gloss, skin, texture = _dress(layout, mesh, counts, rng, hand_colors)
    own = np.zeros((len(vertices), 3), np.float32)
    own[counts[1] : counts[2]] = mesh.trimmed()[0].numpy() * np.array([-1 if mirrored else 1, 1, 1])
    attributes = np.concatenate(
        [normals, albedo, occlusion[:, None], gloss[:, None], skin[:, None], own], 1, dtype=np.float32
    )
    lights = draw_lights(layout.up, rng)
    shadow = shadow_map(vertices, faces, vertices[:pair].mean(0), lights.key)
    background, behind = paint_background(layout, lights, shadow, rng)
    start = len(layout.hand.faces)
    textured = (start, start + len(layout.object.faces))
    return Stage(vertices, faces, attributes, textured, texture, lights, shadow, background, behind, _lens(rng))


def _open_wrist(layout: Layout, normals: np.ndarray) -> np.ndarray:
    """Normals of the hand without the lid of its wrist, where the forearm goes on: no seam in the shading."""
    assert layout.hand.codes is not None
    along = layout.hand.codes[:, 0]
    rim = along > along.max() - 0.03
    axis = layout.forearm.vertices.mean(0) - layout.joints[0]
    axis = axis / np.linalg.norm(axis)
    flat = normals[rim] - (normals[rim] @ axis)[:, None] * axis
    result = normals.copy()
    result[rim] = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return result


def _dress(
    layout: Layout,
    mesh: Mesh,
    counts: np.ndarray,
    rng: np.random.Generator,
    hand_colors: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, int] | None]:
    """Linear albedo, gloss and skin flag of every vertex, and the object's texture."""
    total = counts[-1]
    albedo, gloss, skin = np.ones((total, 3), np.float32), np.zeros(total, np.float32), np.zeros(total, np.float32)
    where = rng.random() ** 1.3 * (len(_SKIN) - 1)
    low = int(where)
    tone = np.exp(
        _SKIN[low] + (where - low) * (_SKIN[min(low + 1, len(_SKIN) - 1)] - _SKIN[low]) + rng.normal(0, 0.06, 3)
    )
    mottle = 1 + 0.05 * _waves(layout.hand.vertices, rng, 90)[:, None] * np.array([0.6, 1.0, 1.0])
    strength = rng.uniform(0.6, 1.4)
    albedo[: counts[1]] = tone * hand_colors**strength * mottle
    skin[: counts[1]] = 1
    cloth = np.exp(rng.normal(-1.6, 0.8)) * (1 + rng.uniform(-0.5, 0.5, 3))
    stripes = 1 + (rng.random() < 0.3) * 0.4 * _waves(layout.forearm.vertices, rng, 60)[:, None]
    bare = layout.sleeve[:, None]
    assert layout.hand.codes is not None
    rim = layout.hand.codes[:, 0] > layout.hand.codes[:, 0].max() - 0.1
    albedo[counts[2] : counts[3]] = (1 - bare) * albedo[: counts[1]][rim].mean(0) + bare * (cloth * stripes)
    skin[counts[2] : counts[3]] = 1 - layout.sleeve
    gloss[: counts[1]] = gloss[counts[2] : counts[3]] = rng.uniform(0.02, 0.12) * skin[counts[2] : counts[3]].max(
        initial=0
    )
    gloss[counts[1] : counts[2]] = rng.choice([0.03, 0.1, 0.25, 0.5]) * rng.uniform(0.5, 1.2)
    for start, end in itertools.pairwise(counts[3:]):
        albedo[start:end] = np.exp(rng.normal(-1.2, 0.7)) * (1 + rng.uniform(-0.6, 0.6, 3))
        gloss[start:end] = rng.uniform(0, 0.3)
    name = mesh.name[0]
    texture = None
    if name in OBJECTS:
        texture = (name, 0 if rng.random() < 0.6 else int(rng.integers(1, 1 << 30)))
    elif mesh.colors is not None:
        albedo[counts[1] : counts[2]] = mesh.colors[0, : counts[2] - counts[1]].numpy()
    else:
        base = np.exp(rng.normal(-1.0, 0.5)) * (1 + rng.uniform(-0.5, 0.5, 3))
        albedo[counts[1] : counts[2]] = base * (1 + 0.3 * _waves(mesh.trimmed()[0].numpy(), rng, 60)[:, None])
    return albedo.clip(0.01, 0.95), gloss, skin, texture


def _waves(points: np.ndarray, rng: np.random.Generator, frequency: float) -> np.ndarray:
    """A smooth random function of position, about -1 to 1."""
    axes, phases = rng.normal(size=(5, 3)) * frequency, rng.uniform(0, 6.3, 5)
    return np.sin(points @ axes.T + phases).mean(1) * 1.6


def _lens(rng: np.random.Generator) -> Lens:
    return Lens(
        exposure=float(np.exp(rng.normal(0, 0.28))),
        balance=np.exp(rng.normal(0, 0.06, 3)),
        blur=float(abs(rng.normal(0, 0.9))),
        noise=float(rng.choice([0.002, 0.006, 0.014]) * rng.uniform(0.5, 1.5)),
        contrast=float(rng.uniform(0.85, 1.2)),
        jpeg=int(rng.integers(45, 96)) if rng.random() < 0.6 else 0,
        seed=int(rng.integers(1 << 30)),
    )


@njit(cache=True, fastmath=True, nogil=True)
@no_type_check
def _shade(attributes, depth, matrix, lights, shadow, view, focal, out):
    """Linear colour of every pixel with a depth. Rows of ``lights``: the fields of ``Lights``."""
    key, key_color, fill, fill_color, sky, ground, up = (
        lights[0], lights[1], lights[2], lights[3], lights[4], lights[5], lights[6]
    )  # fmt: skip
    height, width = depth.shape
    for i in range(height):
        for j in range(width):
            z = depth[i, j]
            if z <= 0:
                continue
            dx, dy = (j - matrix[0, 2]) / matrix[0, 0], (i - matrix[1, 2]) / matrix[1, 1]
            n0, n1, n2 = attributes[i, j, 0], attributes[i, j, 1], attributes[i, j, 2]
            length = np.sqrt(n0 * n0 + n1 * n1 + n2 * n2) + np.float32(1e-9)
            if n0 * dx + n1 * dy + n2 > 0:
                length = -length
            n0, n1, n2 = n0 / length, n1 / length, n2 / length
            ray = np.sqrt(dx * dx + dy * dy + np.float32(1))
            v0, v1, v2 = -dx / ray, -dy / ray, np.float32(-1) / ray
            push = np.float32(0.006)  # off the surface, so that it does not shade itself
            skin, gloss, open_ = attributes[i, j, 8], attributes[i, j, 7], attributes[i, j, 6]
            towards = n0 * key[0] + n1 * key[1] + n2 * key[2]
            wrap = np.float32(0.3) * skin
            direct = max(np.float32(0), (towards + wrap) / (1 + wrap))
            if direct > 0:
                px, py, pz = dx * z + push * n0, dy * z + push * n1, z + push * n2
                direct *= lit_share(px, py, pz, np.float32(0.004), np.float32(1.3), shadow, view, focal)
            second = max(np.float32(0), n0 * fill[0] + n1 * fill[1] + n2 * fill[2])
            high = np.float32(0.5) + np.float32(0.5) * (n0 * up[0] + n1 * up[1] + n2 * up[2])
            h0, h1, h2 = key[0] + v0, key[1] + v1, key[2] + v2
            norm = np.sqrt(h0 * h0 + h1 * h1 + h2 * h2) + np.float32(1e-9)
            shine = max(np.float32(0), (n0 * h0 + n1 * h1 + n2 * h2) / norm) ** (
                np.float32(14) + np.float32(90) * gloss
            )
            rim = (1 - max(np.float32(0), n0 * v0 + n1 * v1 + n2 * v2)) ** 4
            for c in range(3):
                # light bleeds through skin: its shades are redder than its lights
                bleed = open_ ** (np.float32(1) - skin * (np.float32(0.45) if c == 0 else np.float32(0)))
                ambient = (ground[c] + (sky[c] - ground[c]) * high) * bleed
                light = ambient + (direct * key_color[c] + second * fill_color[c]) * (
                    np.float32(0.5) + np.float32(0.5) * bleed
                )
                spark = gloss * (shine * key_color[c] * direct + np.float32(0.5) * rim * sky[c] * open_)
                out[i, j, c] = attributes[i, j, 3 + c] * light + spark


def picture(stage: Stage, matrix: np.ndarray, size: tuple[int, int], box: Box, supersample: int = 2) -> np.ndarray:
    """Linear picture (H x W x 3) of a region of the photo.

    Args:
        matrix: 3 x 3 intrinsics of this picture.
        size: Its height and width.
        box: Which region of the photo it shows (the background is cut out there).
        supersample: Samples of a pixel along each side.
    """
    scaled = _supersampled(matrix, supersample)
    top, left, bottom, right = _shown(stage.vertices, scaled, size, supersample)
    result = _cut(stage.background, box, size)
    if top >= bottom or left >= right:
        return result
    scaled[:2, 2] -= np.array([left, top], np.float32) * supersample
    color, cover = _foreground(stage, scaled, (bottom - top, right - left), supersample)
    part = result[top:bottom, left:right]
    part *= 1 - cover[..., None]
    part += color
    return result


def _supersampled(matrix: np.ndarray, supersample: int) -> np.ndarray:
    """Intrinsics of the finer picture (pixel (0, 0) is the centre of the first one)."""
    scaled = matrix.astype(np.float32) * np.float32(supersample)
    scaled[:2, 2] += (supersample - 1) / 2
    scaled[2, 2] = 1
    return scaled


def _shown(
    vertices: np.ndarray, matrix: np.ndarray, size: tuple[int, int], supersample: int
) -> tuple[int, int, int, int]:
    """Rows and columns of the picture that anything in front can reach: top, left, bottom, right."""
    if (vertices[:, 2] < 0.02).any():
        return 0, 0, *size
    x, y = (vertices[:, i] / vertices[:, 2] * matrix[i, i] + matrix[i, 2] for i in (0, 1))
    rows = (np.array([y.min(), y.max()]) / supersample + [-1, 2]).clip(0, size[0]).astype(int)
    columns = (np.array([x.min(), x.max()]) / supersample + [-1, 2]).clip(0, size[1]).astype(int)
    return int(rows[0]), int(columns[0]), int(rows[1]), int(columns[1])


def _foreground(
    stage: Stage, matrix: np.ndarray, size: tuple[int, int], supersample: int
) -> tuple[np.ndarray, np.ndarray]:
    """Linear colour times coverage, and coverage, of everything but the background."""
    fine = (size[0] * supersample, size[1] * supersample)
    ids, inverse = zbuffer(stage.vertices, stage.faces, matrix, fine)
    values = interpolate(stage.vertices, stage.faces, matrix, stage.attributes, ids)
    depth = np.where(ids >= 0, 1 / np.maximum(inverse, 1e-6), 0).astype(np.float32)
    if stage.texture is not None:
        shown = (ids >= stage.textured[0]) & (ids < stage.textured[1])
        values[shown, 3:6] = object_texture(stage.texture[0], values[shown, 9:12], stage.texture[1])
    out = np.zeros((*fine, 3), np.float32)
    lights = stage.lights
    light = np.stack(
        [lights.key, lights.key_color, lights.fill, lights.fill_color, lights.sky, lights.ground, lights.up]
    )
    _shade(values, depth, matrix, light.astype(np.float32), *stage.shadow, out)
    return shrink(out, supersample), shrink((depth > 0).astype(np.float32), supersample)


def _cut(background: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """A region of the half-size background, resampled; outside the photo its border goes on."""
    height, width = background.shape[:2]
    y = (box[1] + (np.arange(size[0]) + 0.5) * (box[3] - box[1]) / size[0] + 0.5) / 2 - 0.5
    x = (box[0] + (np.arange(size[1]) + 0.5) * (box[2] - box[0]) / size[1] + 0.5) / 2 - 0.5
    y, x = y.clip(0, height - 1), x.clip(0, width - 1)
    i, j = np.minimum(y.astype(int), height - 2), np.minimum(x.astype(int), width - 2)
    s, t = (y - i).astype(np.float32)[:, None, None], (x - j).astype(np.float32)[None, :, None]
    rows = background[i] * (1 - s) + background[i + 1] * s
    return rows[:, j] * (1 - t) + rows[:, j + 1] * t


def develop(linear: np.ndarray, lens: Lens, scale: float = 1.0) -> np.ndarray:
    """A camera's picture (H x W x 3 uint8, sRGB) of linear light.

    Args:
        scale: Pixels of this picture in a pixel of the photo (blur is given in the photo's pixels).
    """
    rng = np.random.default_rng(lens.seed)
    middle = np.median(linear.mean(-1)) * 0.5 + linear.mean() * 0.5
    light = linear * (lens.balance * (lens.exposure * 0.2 / max(middle, 1e-3)))
    sigma = lens.blur * scale
    if sigma > 0.15:
        light = gaussian_filter(light, (sigma, sigma, 0))
    light = light + rng.standard_normal(light.shape, np.float32) * (lens.noise * np.sqrt(0.15 + light.clip(0)))
    light = light.clip(0) ** lens.contrast * 0.2 ** (1 - lens.contrast)
    light = np.where(light > 0.7, 1 - 0.3 * np.exp(-(light - 0.7) / 0.3), light)  # a film's shoulder
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-6) ** (1 / 2.4) - 0.055)
    image = (encoded * 255 + 0.5).clip(0, 255).astype(np.uint8)
    if lens.jpeg:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=lens.jpeg)
        image = np.array(Image.open(stream))
    return image
