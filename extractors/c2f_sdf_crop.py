"""What the published C2F-SDF takes of a picture with depth, in its authors' order of work and with their roundings.

The published network is told the wrist and the middle of the hand's joints. Its camera is *virtual*: turned to look at
the middle of the crop, with the crop's scale, though the picture itself is cut, not turned; and depths are not turned
with it. :func:`virtual_frame` is that camera, everything else happens in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from horefine.extractors.c2f_sdf_points import REACH, Cloud, Place, published_pixels
from horefine.extractors.gsdf_camera import square_box, virtual_camera
from horefine.extractors.root import Frame

__all__ = [
    "C2fCrop", "c2f_crop", "cloud_places", "crop_picture", "draw_points", "normal_depth", "obman_depth", "official_box",
    "official_c2f_crop", "official_place", "virtual_frame",
]  # fmt: skip

MILLIMETRES = 1000.0


@dataclass(frozen=True)
class C2fCrop:
    """B crops as the network takes them."""

    image: Float[Tensor, "B 3 S S"]
    """sRGB, 0 to 1."""
    cloud: Cloud
    place: Place
    seen: Int[Tensor, "B"]
    """How many points were seen; the cloud's were drawn from them."""

    def to(self, device: str) -> C2fCrop:
        """On another device."""
        return _joined([self], lambda parts: parts[0].to(device))

    @staticmethod
    def cat(crops: Sequence[C2fCrop]) -> C2fCrop:
        """Several as one."""
        return _joined(crops, torch.cat)


def _joined(values: Sequence[Any], join: Callable[[list[Tensor]], Tensor]) -> Any:
    """Dataclasses of tensors as one, field by field."""
    if isinstance(values[0], Tensor):
        return join(list(values))
    names = [f.name for f in dataclasses.fields(values[0])]
    return type(values[0])(**{name: _joined([getattr(v, name) for v in values], join) for name in names})


def official_box(points: Float[Tensor, "N 2"], pad: float = 10.0) -> Float[Tensor, "4"]:
    """x, y, width, height of the square about points of hand and object (joints and the box's corners), pixels."""
    low, high = points.amin(0), points.amax(0)
    middle, side = square_box(torch.cat([low - pad, high - low + 2 * pad]))
    return torch.cat([middle - side / 2, side.expand(2)])


def virtual_frame(matrix: Float[Tensor, "B 3 3"], middle: float, size: int) -> Frame:
    """The virtual cameras of crops. ``matrix``: their intrinsics; ``middle``: which pixel that is, along both sides."""
    camera = virtual_camera(matrix, matrix.new_full((2,), middle))
    focal = camera.matrix.diagonal(dim1=1, dim2=2)[:, :2] * (2 / size)
    projection = torch.diag_embed(torch.cat([focal, torch.ones_like(focal[:, :1])], 1))
    return Frame(camera.rotation.mT, projection, focal.prod(1).sqrt())


def official_place(
    frame: Frame, wrist: Float[Tensor, "B 3"], center: Float[Tensor, "B 3"], width: Float[Tensor, "B"], size: int = 256
) -> Place:
    """Where crops look: the unit of neighbours has a width in pixels of the photograph by a focal length of the crop.

    Args:
        wrist: Virtual camera, metres.
        center: The mean of the hand's joints, likewise.
        width: Of the crop's box, pixels of the photograph.
        size: Of the crop, pixels.
    """
    focal = frame.projection.diagonal(dim1=1, dim2=2)[:, :2] * size / 2
    half = width[:, None] * center[:, 2:] / focal / 2
    return Place(frame, wrist, center, torch.cat([half, torch.full_like(half[:, :1], REACH)], -1))


def crop_picture(
    image: Float[Tensor, "C H W"], box: Float[Tensor, "4"], size: int = 256, nearest: bool = False
) -> Float[Tensor, "C S S"]:
    """The picture's values under the crop's pixels, mixed of four or ``nearest``; 0 outside."""
    x, y, width, height = box.double().tolist()
    steps = torch.arange(size, dtype=torch.float64) / size - 0.5
    columns, rows = x + width / 2 + steps * width, y + height / 2 + steps * height
    if nearest:
        return _picked(image, (rows + 0.5).floor().long(), (columns + 0.5).floor().long())
    top, left = rows.floor(), columns.floor()
    down, right = (rows - top)[:, None].to(image.dtype), (columns - left)[None].to(image.dtype)
    parts = [
        _picked(image, (top + i).long(), (left + j).long()) * (down if i else 1 - down) * (right if j else 1 - right)
        for i in (0, 1)
        for j in (0, 1)
    ]
    return torch.stack(parts).sum(0)


def _picked(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    height, width = image.shape[1:]
    seen = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None]
    found = image[:, rows.clamp(0, height - 1)][:, :, columns.clamp(0, width - 1)]
    return torch.where(seen, found, torch.zeros_like(found))


def normal_depth(depth: Float[Tensor, "S S"], plain: float, turned: float) -> Float[Tensor, "S S"]:
    """A cropped depth map (metres) as the network takes it: -1 to 1 about the hand, background 1.

    What is nearer than :data:`REACH` before the hand becomes the nearest there is; the farthest of all is background.

    Args:
        plain: Depth of the hand's middle along the camera's z, metres: what is cut off.
        turned: The same along the virtual camera's: what is subtracted (depths themselves are not turned).
    """
    depth = torch.where(depth.isfinite(), depth, 0.0)
    depth, plain, turned, reach = depth * MILLIMETRES, plain * MILLIMETRES, turned * MILLIMETRES, REACH * MILLIMETRES
    depth = torch.where((depth < plain - reach) & (depth != 0), plain - reach, depth)
    depth = torch.where(depth > plain + reach, 0.0, depth)
    background = (depth == depth.max()) | (depth == 0) | (depth >= turned + reach)
    return torch.where(background, 1.0, ((depth - turned) / reach).clamp(min=-1))


def cloud_places(depth: Float[Tensor, "S S"], place: Place) -> Float[Tensor, "N 3"]:
    """Every pixel of a normalised depth map (:func:`normal_depth`) that is not background, row by row, metres."""
    seen = _seen(depth)
    rows, columns = seen.nonzero().unbind(1)
    z = depth[seen] * place.half[0, 2] + place.center[0, 2]
    grid = torch.stack([columns, rows], -1).to(depth) * (2 / depth.shape[-1]) + (1 / depth.shape[-1] - 1)
    scale = place.frame.projection[0].diagonal()[:2]
    return torch.cat([grid / scale * z[:, None], z[:, None]], -1)


def _seen(depth: Float[Tensor, "S S"]) -> Bool[Tensor, "S S"]:
    return (depth - 1).abs() > 1e-8 + 1e-5


def draw_points(count: int, wanted: int, seed: int) -> Int[Tensor, "N"]:
    """Numbers of ``wanted`` of ``count`` points: none twice before all came, the published order for a ``seed``."""
    random = np.random.RandomState(seed)
    if count >= wanted:
        return torch.from_numpy(random.choice(np.arange(count), wanted, replace=False))
    rest = random.choice(np.arange(count), wanted % count, replace=False) if count else np.zeros(0, np.int64)
    return torch.from_numpy(np.concatenate([np.tile(np.arange(count), wanted // max(count, 1)), rest]))


def official_c2f_crop(
    image: Float[Tensor, "3 H W"], depth: Float[Tensor, "H W"], matrix: Float[Tensor, "3 3"], box: Float[Tensor, "4"],
    joints: Float[Tensor, "21 3"], *, size: int = 256, points: int = 1024, seed: int = 0, pixels: str = "first",
) -> C2fCrop:  # fmt: skip
    """A photograph's crop, as the published tests cut it.

    Args:
        image: sRGB, 0 to 1.
        depth: Metres along the camera's z, 0 where nothing was measured.
        matrix: Intrinsics of the photograph.
        box: :func:`official_box`.
        joints: Of the hand, the wrist first; camera frame, metres.
        points: How many are drawn of those seen (by ``seed``); the middle of the hand where none was seen.
        pixels: ``C2fConfig.pixels``.
    """
    x, y, width, height = box.tolist()
    to_crop = matrix.new_tensor([[1 / width, 0, -x / width], [0, 1 / height, -y / height], [0, 0, 1 / size]]) * size
    frame = virtual_frame((to_crop @ matrix)[None], size / 2, size)  # as published, pixel size / 2 is the middle
    colors = crop_picture(image * 255, box, size).round().clamp(0, 255) / 255
    shown = crop_picture(depth[None], box, size, nearest=True)[0]
    return c2f_crop(colors, shown, frame, joints, float(box[2]), points=points, seed=seed, pixels=pixels)


def c2f_crop(
    image: Float[Tensor, "3 S S"], depth: Float[Tensor, "S S"], frame: Frame, joints: Float[Tensor, "21 3"],
    width: float, *, points: int = 1024, seed: int = 0, pixels: str = "first",
) -> C2fCrop:  # fmt: skip
    """As :func:`official_c2f_crop`, from a picture and a depth map that were cut already.

    Args:
        width: Of the crop in the photograph, pixels.
    """
    size = depth.shape[-1]
    turned = joints @ frame.rotation[0].mT
    place = official_place(frame, turned[None, 0], turned.mean(0)[None], turned.new_tensor([width]), size)
    shown = normal_depth(depth, float(joints.mean(0)[2]), float(place.center[0, 2]))
    every = cloud_places(shown, place)
    drawn = every[draw_points(len(every), points, seed)] if len(every) else place.center.expand(points, 3)
    normal = shown[None, None]
    cells = published_pixels(normal, place, size // 4, pixels)
    return C2fCrop(
        image[None], Cloud(normal, drawn[None], cells, place.center[:, 2]), place, torch.tensor([len(every)])
    )


def obman_depth(stored: Float[Tensor, "H W"], nearest: float, farthest: float) -> Float[Tensor, "H W"]:
    """Metres of ObMan's eight-bit depth pictures.

    Args:
        stored: 0 to 255: 255 the nearest, 1 the farthest, 0 (behind everything) comes out a step beyond it.
        nearest: The annotation's ``depth_min``, metres.
        farthest: ``depth_max``.
    """
    return (stored - 1) / 254 * (nearest - farthest) + farthest
