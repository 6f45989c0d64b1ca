"""Which camera took a photograph: given in numbers, as a field of view, read from EXIF, or a stated default.

Everything is for the upright photograph at the size it has in its file, in pixels, with pixel (0, 0) the centre of the
top-left one (OpenCV's convention).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from horefine.errors import InputError, suggestion
from horefine.geometry import Camera
from horefine.overlap import LOADING

__all__ = ["DEFAULT_FOV", "camera_of", "parse_intrinsics"]

DEFAULT_FOV = 60.0
"""Degrees across the diagonal, when nothing is known: between a phone's main lens (75) and a depth camera (55)."""

_FULL_FRAME = math.hypot(36.0, 24.0)
_FOCAL, _FOCAL_35, _WIDTH, _HEIGHT, _PLANE_X, _PLANE_UNIT = 0x920A, 0xA405, 0xA002, 0xA003, 0xA20E, 0xA210
_MILLIMETRES = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
_KEYS = ("fx", "fy", "cx", "cy", "fov", "hfov", "vfov", "matrix", "size")


def parse_intrinsics(text: str) -> Any:
    """The value of ``--intrinsics``: ``fx,fy,cx,cy``, ``f``, ``exif``, or a ``.json`` / ``.npy`` file.

    Raises:
        InputError: none of these.
    """
    if text == "exif":
        return text
    if text.endswith((".json", ".npy")):
        return read_intrinsics(Path(text))
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        return {"fx": numbers[0]}
    if len(numbers) == 4:
        return dict(zip(("fx", "fy", "cx", "cy"), numbers, strict=True))
    raise InputError(
        f"intrinsics {text!r}: expected fx,fy,cx,cy or one focal length in pixels, a .json or .npy file, or exif"
    )


def read_intrinsics(path: Path) -> Any:
    """Intrinsics from a file: a JSON table as in the sidecar (or a 3x3 list), or a 3x3 ``.npy``."""
    if not path.is_file():
        raise InputError(f"intrinsics {path}: no such file")
    try:
        if path.suffix == ".npy":
            with LOADING:
                return {"matrix": np.load(path, allow_pickle=False).tolist()}
        value = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"intrinsics {path.name}: cannot be read ({error})") from None
    value = value.get("camera", value) if isinstance(value, Mapping) else value
    return {"matrix": value} if isinstance(value, list) else value


def camera_of(
    given: Any, size: tuple[int, int], exif: Mapping[int, Any], where: str
) -> tuple[Camera, str, tuple[str, ...]]:
    """The camera of a photograph of ``size`` (height, width), where it comes from, and what is to be said about it.

    Args:
        given: the sidecar's or the command line's ``camera``; None when there is none.
        exif: EXIF tags by number.
        where: names the source of ``given`` in messages ("a.json", "--fov").

    Raises:
        InputError: ``given`` cannot be understood, is not a camera, or is "exif" and there is no focal length.
    """
    if given is None or given == "exif":
        focal, how, notes = _from_exif(exif, size)
        if focal is not None:
            return Camera.from_focal(focal, size), how, notes
        if given == "exif":
            raise InputError(
                f"{where}: camera 'exif', but the photo carries no focal length; give --intrinsics or --fov"
            )
        said = f"no intrinsics: a {DEFAULT_FOV:g} degree diagonal field of view is assumed (distance scales with it)"
        return (
            Camera.from_focal(_focal(DEFAULT_FOV, math.hypot(*size)), size),
            f"default {DEFAULT_FOV:g} degrees",
            (said,),
        )
    if isinstance(given, list):
        given = {"matrix": given}
    if not isinstance(given, Mapping):
        raise InputError(f'{where}: camera {given!r}: expected a table with {", ".join(_KEYS[:5])}, or "exif"')
    for key in given:
        if key not in _KEYS:
            raise InputError(f"{where}: camera.{key}: no such key{suggestion(str(key), _KEYS)}")
    camera = _from_table(given, size, where)
    _check_focal(camera, size, where)
    return camera, where, ()


def _from_table(given: Mapping[str, Any], size: tuple[int, int], where: str) -> Camera:
    for key, length in (("fov", math.hypot(*size)), ("hfov", size[1]), ("vfov", size[0])):
        if key in given:
            angle = _number(given[key], f"{where}: camera.{key}")
            if not 5 <= angle <= 170:
                raise InputError(f"{where}: camera.{key}: {angle:g} is not a field of view in degrees (5 to 170)")
            return Camera.from_focal(_focal(angle, length), size)
    if "matrix" in given:
        matrix = np.asarray(given["matrix"], dtype=np.float64)
        if matrix.shape != (3, 3):
            raise InputError(f"{where}: camera.matrix has shape {matrix.shape}; expected 3x3")
        fx, fy, cx, cy = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
    elif "fx" in given:
        fx = _number(given["fx"], f"{where}: camera.fx")
        fy = _number(given.get("fy", fx), f"{where}: camera.fy")
        cx = _number(given.get("cx", (size[1] - 1) / 2), f"{where}: camera.cx")
        cy = _number(given.get("cy", (size[0] - 1) / 2), f"{where}: camera.cy")
    else:
        raise InputError(f"{where}: camera: give fx (and fy, cx, cy), fov, hfov, vfov or matrix")
    taken = given.get("size")  # width and height the numbers are for, when the photo was resized since
    camera = Camera(torch.tensor([[[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]], dtype=torch.float32), size)
    if taken is None:
        return camera
    if not isinstance(taken, list) or len(taken) != 2:
        raise InputError(f"{where}: camera.size: {taken!r}; expected [width, height] in pixels")
    return Camera(camera.matrix, (int(taken[1]), int(taken[0]))).resized(size)


def _check_focal(camera: Camera, size: tuple[int, int], where: str) -> None:
    fx, fy = float(camera.matrix[0, 0, 0]), float(camera.matrix[0, 1, 1])
    cx, cy = float(camera.matrix[0, 0, 2]), float(camera.matrix[0, 1, 2])
    numbers = f"fx {fx:g}, fy {fy:g}, cx {cx:g}, cy {cy:g}"
    if not all(map(math.isfinite, (fx, fy, cx, cy))) or min(fx, fy) < 0.1 * max(size):
        raise InputError(
            f"{where}: camera: {numbers} is not a lens for {size[1]}x{size[0]} pixels; intrinsics are in pixels"
        )
    if not (-size[1] < cx < 2 * size[1] and -size[0] < cy < 2 * size[0]):
        raise InputError(
            f"{where}: camera: {numbers}: the centre is far outside the {size[1]}x{size[0]} photo; wrong size?"
        )


def _from_exif(exif: Mapping[int, Any], size: tuple[int, int]) -> tuple[float | None, str, tuple[str, ...]]:
    """Focal length in pixels of the photo as it is now, how it was found, and doubts about it."""
    notes = ()
    recorded = sorted(_exif_number(exif, key) for key in (_WIDTH, _HEIGHT))
    if recorded[0] > 0:
        ratio, recorded_ratio = max(size) / min(size), recorded[1] / recorded[0]
        if abs(ratio / recorded_ratio - 1) > 0.02:
            notes = ("EXIF tells of another aspect ratio: the photo was cropped, its focal length is in doubt",)
    equivalent = _exif_number(exif, _FOCAL_35)
    if equivalent > 0:
        said = f"EXIF: {equivalent:g} mm (35 mm equivalent)"
        return equivalent * math.hypot(*size) / _FULL_FRAME, said, (f"intrinsics from {said}", *notes)
    focal, pixels = _exif_number(exif, _FOCAL), _exif_number(exif, _PLANE_X)
    unit = _MILLIMETRES.get(int(exif.get(_PLANE_UNIT) or 2), 25.4)
    if focal > 0 and pixels > 0 and recorded[1] > 0:
        said = f"EXIF: {focal:g} mm on a sensor of {recorded[1] * unit / pixels:.1f} mm"
        return focal * pixels / unit * max(size) / recorded[1], said, (f"intrinsics from {said}", *notes)
    return None, "", ()


def _exif_number(exif: Mapping[int, Any], key: int) -> float:
    try:
        value = float(exif.get(key) or 0)
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0
    return value if math.isfinite(value) else 0.0


def _focal(angle: float, length: float) -> float:
    return length / 2 / math.tan(math.radians(angle) / 2)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{where}: {value!r} is not a number")
    return float(value)
