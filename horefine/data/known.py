"""What a user, or a detector of theirs, knows of hand and object in a photograph: boxes, key points, the wrist's place.

Sidecars hold it image by image; a *boxes file* (``--boxes``) holds it for many, as JSON or CSV (``docs/input.md``).
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.errors import ConfigError, InputError, suggestion
from horefine.geometry import Box, Camera

__all__ = [
    "BOX_KEYS", "Wrist", "box_from", "keypoint_box", "keypoints_from", "parse_wrist", "read_boxes", "wrist_from",
]  # fmt: skip

BOX_KEYS = ("hand_box", "object_box", "side", "keypoints", "wrist")
"""What a boxes file may say of an image: keys of its sidecar."""
_SIDES = ("x0", "y0", "x1", "y1")
_COLUMNS = ("name", *(f"{part}_{side}" for part in ("hand", "object") for side in _SIDES), "side")
"""Of a boxes file in CSV."""
_FARTHEST = 10.0
"""Metres; a wrist beyond is in millimetres."""

Wrist = tuple[float | None, float | None, float]


def read_boxes(path: Path) -> dict[str, dict[str, Any]]:
    """A boxes file: image name (with or without its ending) -> keys of a sidecar.

    JSON: ``{"NAME": {"hand_box": [x0, y0, x1, y1], "object_box": [...], "side": "left"}}``, all keys optional, also
    ``keypoints`` and ``wrist``. CSV: a header of ``name, hand_x0, hand_y0, hand_x1, hand_y1, object_x0, ..., side``;
    columns may be missing, cells empty.

    Raises:
        ConfigError: no such file, one that cannot be read, an unknown key, or one image named twice.
    """
    if not path.is_file():
        raise ConfigError(f"--boxes {path}: no such file")
    try:
        text = path.read_text(encoding="utf-8-sig")
        table = _read_csv(text) if path.suffix.lower() == ".csv" else json.loads(text, object_pairs_hook=_no_doubles)
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"--boxes {path}: cannot be read: {error}") from None
    if not isinstance(table, dict) or not all(isinstance(entry, dict) for entry in table.values()):
        raise ConfigError(f'--boxes {path}: expected {{"NAME": {{"hand_box": [x0, y0, x1, y1], ...}}, ...}}')
    for name, entry in table.items():
        for key in entry:
            if key not in BOX_KEYS:
                raise ConfigError(f"--boxes {path}: {name}.{key}: no such key{suggestion(key, BOX_KEYS)}")
    return table


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen = [key for key, _ in pairs]
    for key in seen:
        if seen.count(key) > 1:
            raise ValueError(f"{key!r} stands there twice; one hand for each image: keep one")
    return dict(pairs)


def _read_csv(text: str) -> dict[str, dict[str, Any]]:
    rows = list(csv.reader(text.splitlines(), skipinitialspace=True))
    header = [cell.strip() for cell in rows[0]] if rows else []
    if "name" not in header:
        raise ValueError(f"its first line must name the columns: {','.join(_COLUMNS)}")
    for column in header:
        if column not in _COLUMNS:
            raise ValueError(f"column {column!r}{suggestion(column, _COLUMNS)}")
    table: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows[1:], 2):
        cells = {column: cell.strip() for column, cell in zip(header, row, strict=False) if cell.strip()}
        if not cells:
            continue
        name = cells.get("name")
        if name is None or len(row) > len(header):
            raise ValueError(f"line {number}: {'no name' if name is None else 'more cells than columns'}")
        if name in table:
            raise ValueError(f"line {number}: {name!r} stands there twice; one hand for each image: keep one")
        table[name] = _entry(cells, number)
    return table


def _entry(cells: Mapping[str, str], number: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"side": cells["side"]} if "side" in cells else {}
    for part in ("hand", "object"):
        found = [cells.get(f"{part}_{side}") for side in _SIDES]
        if any(found):
            try:
                entry[f"{part}_box"] = [float(cell or "") for cell in found]
            except ValueError:
                raise ValueError(f"line {number}: {part} box: expected four numbers, got {found}") from None
    return entry


def box_from(value: Any, where: str, size: tuple[int, int], shown: tuple[int, int]) -> Box:
    """A box of the file's pixels in those of the (perhaps reduced) image.

    Args:
        where: Names source and key in messages ("a.json: hand_box").
        size: Height and width of the photograph in its file.
        shown: Height and width of the image.

    Raises:
        InputError: it is no box, or lies outside the photograph.
    """
    if not _numbers(value, 4):
        raise InputError(f"{where}: {value!r}; expected [x0, y0, x1, y1] in pixels")
    x0, y0, x1, y1 = map(float, value)
    if x1 - x0 < 2 or y1 - y0 < 2:
        raise InputError(f"{where}: {value}: x1 and y1 must be larger than x0 and y0 (not width and height)")
    if x0 >= size[1] or y0 >= size[0] or x1 <= 0 or y1 <= 0:
        raise InputError(f"{where}: {value} lies outside the {size[1]}x{size[0]} photo")
    across, down = shown[1] / size[1], shown[0] / size[0]
    return (x0 + 0.5) * across - 0.5, (y0 + 0.5) * down - 0.5, (x1 + 0.5) * across - 0.5, (y1 + 0.5) * down - 0.5


def keypoints_from(value: Any, where: str, size: tuple[int, int], shown: tuple[int, int]) -> Float[Tensor, "21 2"]:
    """Key points of the hand, as :func:`box_from` takes a box.

    Raises:
        InputError: not 21 pairs of numbers, or their box is none of this photograph.
    """
    if not isinstance(value, list) or len(value) != 21 or not all(_numbers(point, 2) for point in value):
        raise InputError(
            f"{where}: expected 21 points [x, y] in pixels: wrist, then thumb, index, middle, ring, pinky from the "
            "palm to the tip"
        )
    points = torch.tensor(value, dtype=torch.float32)
    box_from([*points.amin(0).tolist(), *points.amax(0).tolist()], where, size, shown)
    return (points + 0.5) * torch.tensor([shown[1] / size[1], shown[0] / size[0]]) - 0.5


def keypoint_box(points: Float[Tensor, "N 2"], factor: float = 1.2) -> Box:
    """The box about key points, which lie inside the hand: grown about its middle."""
    low, high = points.amin(0), points.amax(0)
    middle, half = (low + high) / 2, (high - low) * factor / 2
    x0, y0, x1, y1 = torch.cat([middle - half, middle + half]).tolist()
    return x0, y0, x1, y1


def wrist_from(value: Any, where: str, camera: Camera) -> Wrist:
    """The wrist: ``[x, y, z]`` in metres in the camera's frame, or its depth z alone.

    Raises:
        InputError: neither, behind the camera, farther than ten metres, or far outside the photograph.
    """
    if _numbers([value], 1):
        x, y, z = None, None, float(value)
    elif _numbers(value, 3):
        x, y, z = map(float, value)
    else:
        raise InputError(f"{where}: {value!r}; expected [x, y, z] in metres (camera frame), or the depth z alone")
    if not 0 < z <= _FARTHEST:
        why = "behind the camera" if z <= 0 else "metres away: millimetres?"
        raise InputError(f"{where}: {value!r}: the wrist would be {z:g} m, {why}; z points forward, in metres")
    if x is not None and y is not None:
        pixel = camera.matrix[0] @ torch.tensor([x / z, y / z, 1.0])
        (height, width), (column, row) = camera.size, pixel[:2].tolist()
        if not (-0.5 * width <= column <= 1.5 * width and -0.5 * height <= row <= 1.5 * height):
            raise InputError(
                f"{where}: {value!r} is seen at pixel ({column:.0f}, {row:.0f}) of a {width}x{height} photo; expected "
                "metres in the camera's frame: x right, y down, z forward (and are the intrinsics right?)"
            )
    return x, y, z


def parse_wrist(text: str) -> float | list[float]:
    """The value of ``--wrist``: ``x,y,z`` or ``z``.

    Raises:
        ConfigError: neither.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3):
        raise ConfigError(f"--wrist {text!r}: expected x,y,z in metres (camera frame), or the depth z alone")
    return numbers[0] if len(numbers) == 1 else numbers


def _numbers(value: Any, count: int) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) == count
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in value)
    )
