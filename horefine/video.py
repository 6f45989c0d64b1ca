"""Videos as folders of frames.

A video is unpacked once into a folder of pictures; from then on it is a folder as any other (sidecars, resuming,
evaluation). PyAV reads it (the extra ``video``).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from horefine.errors import AssetError, ConfigError
from horefine.export import new_folder, write_json

__all__ = ["unpack_video"]

MANIFEST = "frames.json"
"""Beside the frames: of which video they are, and how many a second."""
_QUALITY = 95


def unpack_video(path: Path, folder: Path, *, every: int = 1, fps: float | None = None) -> tuple[Path, float]:
    """The frames of a video as pictures ``000000.jpg`` ... (their numbers in the video) in a folder of their own.

    Frames that an earlier run unpacked in the same way are taken as they are. ``VIDEO.json`` beside the video becomes
    the frames' common sidecar.

    Args:
        folder: gets the frames' folder, named after the video.
        every: only each so-manieth frame.
        fps: at most so many frames a second.

    Returns:
        The folder and its frames a second.

    Raises:
        AssetError: PyAV is missing. ConfigError: the video cannot be read, or has no frames.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such video")
    sidecar = path.with_suffix(".json")
    stat = path.stat()
    told: dict[str, Any] = {
        "video": path.name, "bytes": stat.st_size, "changed": stat.st_mtime_ns, "every": every, "limit_fps": fps,
        "sidecar": hashlib.sha256(sidecar.read_bytes()).hexdigest()[:10] if sidecar.is_file() else None,
    }  # fmt: skip
    target = folder / path.stem
    try:
        known = json.loads((target / MANIFEST).read_text())
        if {key: known.get(key) for key in told} == told:
            return target / "images", float(known["fps"])
    except (OSError, ValueError, KeyError):
        pass
    folder.mkdir(parents=True, exist_ok=True)
    with new_folder(target) as fresh:
        pictures = fresh / "images"
        pictures.mkdir()
        count, rate = _write_frames(path, pictures, every, fps)
        if not count:
            raise ConfigError(f"{path}: no frames could be read; is it a video?")
        if sidecar.is_file():
            shutil.copyfile(sidecar, pictures / "horefine.json")
        write_json(fresh / MANIFEST, told | {"fps": rate, "frames": count})
    return target / "images", rate


def _write_frames(path: Path, folder: Path, every: int, fps: float | None) -> tuple[int, float]:
    """Number of frames written, and how many there are a second."""
    count, step, rate = 0, every, 30.0
    for number, (picture, native) in enumerate(_decoded(path)):
        if number == 0:
            step = max(every, 1 if fps is None else round(native / fps))
            rate = native / step
        if number % step == 0:
            picture.save(folder / f"{number:06d}.jpg", quality=_QUALITY, subsampling=0)
            count += 1
    return count, rate


def _decoded(path: Path) -> Iterator[tuple[Image.Image, float]]:
    """Upright pictures, and the video's frames a second; what is broken at the end is left out."""
    try:
        import av
        from av.error import FFmpegError
    except ImportError:
        way = "pip install 'horefine[video]', or give a folder of frames"
        raise AssetError(f"{path}: videos are read by PyAV, which is missing: {way}") from None
    number = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ConfigError(f"{path}: no pictures in it")
            stream = container.streams.video[0]
            native = float(stream.average_rate or stream.guessed_rate or 30)
            for frame in container.decode(stream):
                turned = frame.to_image()
                number += 1
                yield turned.rotate(frame.rotation, expand=True) if frame.rotation % 360 else turned, native
    except FFmpegError as error:
        if number == 0:
            raise ConfigError(f"{path}: cannot be read as a video ({error})") from None
