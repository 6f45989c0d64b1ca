"""The scenes of a shard as one tar file that WebDataset reads, and that is mapped into memory all the same.

A scene is the members ``KEY.NAME.npy``, one for each of its arrays, and ``KEY.json``. All scenes of a file have the
same members, in the same order and of the same sizes: a scene's place in the file is its number times the size of one,
and an array of all scenes is a view of the file with that stride. Nothing is unpacked, copied or indexed. POSIX ustar,
no compression.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["TAR", "open_tar", "write_tar"]

TAR = "scenes.tar"
"""The file's name in a shard's folder."""
_BLOCK = tarfile.BLOCKSIZE


def write_tar(path: Path, arrays: Mapping[str, np.ndarray], keys: Sequence[str], labels: Sequence[Any]) -> None:
    """Writes N scenes.

    Args:
        arrays: Name -> array of all scenes, along the first axis.
        keys: What each scene's members begin with; unique, without dots.
        labels: Each scene's JSON, at most 512 bytes of it.

    Raises:
        ValueError: a label is longer.
    """
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, (key, label) in enumerate(zip(keys, labels, strict=True)):
            for name, values in arrays.items():
                stream = io.BytesIO()
                np.save(stream, np.asarray(values[number], order="C"), allow_pickle=False)
                _add(tar, f"{key}.{name}.npy", stream.getvalue())
            text = json.dumps(label).encode()
            if len(text) > _BLOCK:
                raise ValueError(f"{key}: the label has {len(text)} bytes; {_BLOCK} are there for it")
            _add(tar, f"{key}.json", text.ljust(_BLOCK))


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # no owner, no date: the same scenes are the same bytes
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def open_tar(path: Path, count: int) -> dict[str, np.ndarray]:
    """Name -> array of the file's ``count`` scenes, mapped into memory, read-only.

    Raises:
        ValueError: the file is cut off, or its scenes are not alike (another program wrote it).
    """
    if not count:
        return {}
    members = _first_scene(path)
    stride = sum(_BLOCK + -(-member.size // _BLOCK) * _BLOCK for member in members)
    size = path.stat().st_size
    if size < count * stride:
        raise ValueError(f"{path}: has {size} bytes; {count} scenes of {stride} are expected: make the shard again")
    content = np.memmap(path, np.uint8, "r")
    found = {}
    for member in members:
        name = member.name.split(".", 1)[1]
        _check_alike(content, path, member, (count - 1) * stride)
        if name.endswith(".npy"):
            found[name.removesuffix(".npy")] = _view(content, member, stride, count)
    return found


def _first_scene(path: Path) -> list[tarfile.TarInfo]:
    members: list[tarfile.TarInfo] = []
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if members and member.name.split(".")[0] != members[0].name.split(".")[0]:
                break
            members.append(member)
    return members


def _check_alike(content: np.ndarray, path: Path, member: tarfile.TarInfo, last: int) -> None:
    """Whether the last scene has this member where it must be."""
    header = content[last + member.offset : last + member.offset + _BLOCK].tobytes()
    try:
        there = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except tarfile.HeaderError:
        there = None
    if there is None or there.size != member.size or there.name.split(".", 1)[1] != member.name.split(".", 1)[1]:
        raise ValueError(f"{path}: its scenes are not alike: horefine did not write it, or not all of it")


def _view(content: np.ndarray, member: tarfile.TarInfo, stride: int, count: int) -> np.ndarray:
    stream = io.BytesIO(content[member.offset_data : member.offset_data + member.size].tobytes())
    first = np.load(stream, allow_pickle=False)
    begin = member.offset_data + member.size - first.nbytes
    return np.ndarray(
        (count, *first.shape), first.dtype, buffer=content.data, offset=begin, strides=(stride, *first.strides)
    )
