"""Photographs and depth maps from files, whatever their orientation, colour model and size; what was changed is said.

A picture is upright (EXIF orientation applied) sRGB in 0..1. Everything that a user should know about how it got there
is a short sentence in its notes.
"""

from __future__ import annotations

import errno
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from horefine.errors import InputError
from horefine.overlap import LOADING

__all__ = ["LARGEST_SIDE", "PICTURE_SUFFIXES", "SMALLEST_SIDE", "Picture", "picture_size", "read_depth", "read_picture"]

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
SMALLEST_SIDE = 32
"""Pixels; a smaller picture shows no hand."""
LARGEST_SIDE = 4096
"""Pixels; a larger picture is reduced to this."""

_ORIENTATION, _EXIF = 0x0112, 0x8769
_SOUND = {"RGB", "L"}
_GREY_16 = {"I;16", "I;16B", "I;16L", "I"}


@dataclass(frozen=True)
class Picture:
    """A decoded photograph."""

    image: Float[Tensor, "3 H W"]
    """sRGB, 0 to 1, upright."""
    size: tuple[int, int]
    """Height and width in the file, upright; ``image`` may be smaller (see :data:`LARGEST_SIDE`)."""
    exif: dict[int, Any]
    """The photographic EXIF tags by number; empty when there are none."""
    notes: tuple[str, ...]


def read_picture(path: Path, largest_side: int = LARGEST_SIDE) -> Picture:
    """Reads a photograph.

    Raises:
        InputError: not an image, damaged, cut short, or too small; the message says which and what to do.
    """
    _check_content(path)
    notes: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's about palettes and large pictures: we say it ourselves
            with Image.open(path) as file:
                if getattr(file, "n_frames", 1) > 1:
                    notes.append(f"{file.n_frames} frames in the file: the first is used")
                file.load()
                if file.getexif().get(_ORIENTATION, 1) != 1:
                    notes.append("turned upright (EXIF orientation)")
                exif = dict(file.getexif()) | dict(file.getexif().get_ifd(_EXIF))
                upright = ImageOps.exif_transpose(file)
    except UnidentifiedImageError:
        raise InputError(f"{path.name}: not an image that can be read; {_what_instead(path)}") from None
    except Image.DecompressionBombError:
        raise InputError(
            f"{path.name}: too large to decode safely; reduce it to {largest_side} pixels a side"
        ) from None
    except (OSError, ValueError, SyntaxError, struct.error) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.EACCES, errno.EIO):
            raise InputError(f"{path.name}: cannot be opened ({error.strerror})") from None
        cut = "truncated" in str(error).lower()
        reason = "cut short: the end of the file is missing" if cut else f"damaged ({error})"
        raise InputError(f"{path.name}: {reason}; copy or export it again") from None
    if min(upright.size) < SMALLEST_SIDE:
        width, height = upright.size
        raise InputError(
            f"{path.name}: {width}x{height} pixels is too small; at least {SMALLEST_SIDE} a side are needed"
        )
    size = upright.height, upright.width
    if _png_depth(path) == 16 and upright.mode in ("RGB", "RGBA"):
        notes.append("16 bits a channel: read as 8")
    rgb, said = _as_rgb(upright, path.name)
    notes += said
    if max(size) > largest_side:
        scale = largest_side / max(size)
        width, height = round(size[1] * scale), round(size[0] * scale)
        rgb = rgb.resize((width, height), Image.Resampling.BOX, reducing_gap=2.0)
        notes.append(f"reduced from {size[1]}x{size[0]} to {width}x{height} pixels; the camera was scaled with it")
    image = torch.from_numpy(np.array(rgb)).permute(2, 0, 1).to(torch.float32) / 255
    return Picture(image, size, exif, tuple(notes))


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width of a photograph that :func:`read_picture` can read, upright; only its header is opened."""
    with Image.open(path) as file:
        width, height = file.size
        return (width, height) if file.getexif().get(_ORIENTATION, 1) >= 5 else (height, width)


def read_depth(path: Path, size: tuple[int, int]) -> Float[Tensor, "H W"]:
    """A depth map in metres, 0 where nothing was measured.

    The file is a 16-bit grey PNG or TIFF in millimetres, or a ``.npy`` array (integers: millimetres; floats: metres)
    aligned with the upright photograph.

    Args:
        size: height and width of the photograph in its file; the map must have the same.

    Raises:
        InputError: missing, of another size or kind.
    """
    if not path.is_file():
        raise InputError(f"depth {path}: no such file; correct the sidecar's 'depth' or take the line out")
    try:
        if path.suffix == ".npy":
            with LOADING:
                values = np.load(path, allow_pickle=False)
        else:
            with Image.open(path) as file:
                values = np.array(file)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"depth {path.name}: cannot be read ({error})") from None
    if values.ndim != 2 or values.dtype == np.uint8 or values.dtype.kind not in "uif":
        kind = f"{values.dtype} of shape {values.shape}"
        raise InputError(
            f"depth {path.name}: holds {kind}; give 16-bit grey in millimetres (or .npy, floats in metres)"
        )
    if values.shape != size:
        found, wanted = (f"{s[1]}x{s[0]}" for s in (values.shape, size))
        raise InputError(f"depth {path.name}: {found} pixels, the photo has {wanted}; align it with the photo first")
    metres = values.astype(np.float32) * (1.0 if values.dtype.kind == "f" else 0.001)
    return torch.from_numpy(np.where(np.isfinite(metres) & (metres > 0), metres, 0).astype(np.float32))


def _as_rgb(picture: Image.Image, name: str) -> tuple[Image.Image, list[str]]:
    """The picture in 8-bit RGB, and what was done to it."""
    mode = picture.mode
    if mode in _SOUND and "transparency" not in picture.info:
        return picture.convert("RGB"), ["grey picture: no colour to go by"] if mode == "L" else []
    if mode in _GREY_16:
        values = np.array(picture).astype(np.float64)
        grey = Image.fromarray(np.clip(values / 257, 0, 255).round().astype(np.uint8))
        return grey.convert("RGB"), ["16-bit grey: read as 8, no colour to go by"]
    if mode == "F":
        values = np.array(picture)
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 255:
            raise InputError(f"{name}: a picture of floating point numbers outside 0..255; export it as 8-bit RGB")
        values = values * (255 if values.max() <= 1 else 1)
        return Image.fromarray(values.round().astype(np.uint8)).convert("RGB"), ["floating point grey: read as 8 bits"]
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        solid = rgba.getchannel("A").getextrema()[0] == 255
        return Image.alpha_composite(white, rgba).convert("RGB"), [] if solid else [
            "transparent parts: laid over white"
        ]
    words = {"CMYK": "CMYK (print colours)", "P": "palette picture", "1": "black and white picture"}
    return picture.convert("RGB"), [f"{words.get(mode, mode)}: converted to RGB"]


def _check_content(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path.name}: no such file")
    if path.stat().st_size == 0:
        raise InputError(f"{path.name}: empty (0 bytes); copy it again")


def _what_instead(path: Path) -> str:
    """What the file seems to be, for the message."""
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: run 'git lfs pull'"
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"):
        return "it is HEIC or AVIF: export it as JPEG or PNG"
    try:
        head.decode("utf-8")
    except UnicodeDecodeError:
        return f"known formats: {', '.join(s[1:] for s in PICTURE_SUFFIXES)}"
    return f"it holds text; known formats: {', '.join(s[1:] for s in PICTURE_SUFFIXES)}"


def _png_depth(path: Path) -> int:
    """Bits of each channel of a PNG; 0 for other files."""
    with path.open("rb") as file:
        head = file.read(26)
    return head[24] if head.startswith(b"\x89PNG") and len(head) > 24 else 0
