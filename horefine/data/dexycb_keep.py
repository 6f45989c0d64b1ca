"""Which frames of a DexYCB split a paper looks at, by name.

``gsdf`` (Chen et al., CVPR 2023): right hands, every fifth frame; of a test split only those in which hand and object
are within 5 mm. Its published training list also leaves out frames whose distance samples could not be made: give that
list itself (``frames=FILE``) for the paper's very images. HOISDF's "DexYCB" and C2F-SDF use the same frames; HOISDF's
"full" has both hands and every frame with a hand in the picture.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import KDTree

from horefine.data.index import those_that_pass
from horefine.errors import AssetError, ConfigError

if TYPE_CHECKING:
    from horefine.data.dexycb import DexYCB

__all__ = ["KEEP", "listed"]

TOUCH = 0.005
"""Metres between hand and object vertices."""
_EVERY = {"gsdf": 5, "bop": 4}


def _table(data: DexYCB) -> tuple[np.ndarray, np.ndarray]:
    """Row of the recording and frame of every official number."""
    frames = np.array([recording.frames for recording in data.recordings])
    counts = frames * len(data.serials)
    rows = np.repeat(np.arange(len(frames), dtype=np.int32), counts)
    starts = np.repeat(np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
    return rows, ((np.arange(len(rows)) - starts) % frames[rows]).astype(np.int32)


def _side(data: DexYCB, side: str) -> np.ndarray:
    return np.array([recording.side == side for recording in data.recordings])


def _right(data: DexYCB) -> np.ndarray:
    return np.flatnonzero(_side(data, "right")[_table(data)[0]])


def _left(data: DexYCB) -> np.ndarray:
    return np.flatnonzero(_side(data, "left")[_table(data)[0]])


def _bop(data: DexYCB) -> np.ndarray:
    """Targets of the BOP evaluation: every fourth frame."""
    return np.flatnonzero(_table(data)[1] % _EVERY["bop"] == 0)


def _grasp(data: DexYCB) -> np.ndarray:
    """Targets of the grasp evaluation: the last BOP target of each recording and camera."""
    rows, frames = _table(data)
    last = np.array([recording.frames for recording in data.recordings])[rows]
    return np.flatnonzero((frames % _EVERY["bop"] == 0) & (frames + _EVERY["bop"] >= last))


def _gsdf(data: DexYCB) -> np.ndarray:
    rows, frames = _table(data)
    kept = np.flatnonzero(_side(data, "right")[rows] & (frames % _EVERY["gsdf"] == 0))
    return _remembered(data, "gsdf", kept, _touches) if data.split.endswith("test") else kept


def _hoisdf_full(data: DexYCB) -> np.ndarray:
    return _remembered(data, "hoisdf_full", np.arange(data.total), _in_picture)


KEEP: Mapping[str, Callable[[DexYCB], np.ndarray | None]] = {
    "all": lambda data: None,
    "right": _right,
    "left": _left,
    "bop": _bop,
    "grasp": _grasp,
    "gsdf": _gsdf,
    "hoisdf": _gsdf,
    "hoisdf_full": _hoisdf_full,
    "c2f": _gsdf,
}
"""Name -> official numbers of what is kept, in order (None: everything)."""


def listed(path: Path, data: DexYCB) -> np.ndarray:
    """The frames that a file names, in its order.

    Official numbers (gSDF's ``["00000005", ...]``), a table with keys that end in them (HOISDF's), or a text with a
    name or a photograph's path in each line.

    Raises:
        ConfigError: no such file, or it names a frame that this split does not have.
    """
    if not path.is_file():
        raise ConfigError(f"frames {path}: no such file")
    try:
        text = path.read_text()
        entries = [str(entry) for entry in json.loads(text)] if path.suffix == ".json" else text.split()
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(f"frames {path}: cannot be read as a list ({error})") from None
    starts = _starts(data)
    found = [_number(entry, starts, data) for entry in entries]
    wrong = next((entry for entry, number in zip(entries, found, strict=True) if number is None), None)
    if wrong is not None or not found:
        raise ConfigError(
            f"frames {path}: {'is empty' if wrong is None else repr(wrong)}: not a frame of {data.split} "
            f"({data.total} frames); expected numbers of the split, or lines such as {data._name(0)}"
        )
    return np.array(found)


def _starts(data: DexYCB) -> dict[tuple[str, str], tuple[int, int]]:
    """Recording and camera -> the number of its first frame, and how many frames there are."""
    found, first = {}, 0
    for recording in data.recordings:
        for serial in data.serials:
            found[recording.folder.rpartition("/")[2], serial] = first, recording.frames
            first += recording.frames
    return found


def _number(entry: str, starts: Mapping[tuple[str, str], tuple[int, int]], data: DexYCB) -> int | None:
    named = re.search(r"(\d{8}_\d{6})[_/](\d{12})[_/](?:color_)?(\d+)(?:\.jpg)?$", entry)
    if named is not None:
        first, count = starts.get((named[1], named[2]), (0, 0))
        return first + int(named[3]) if int(named[3]) < count else None
    number = re.search(r"(\d+)$", entry)
    return int(number[1]) if number is not None and int(number[1]) < data.total else None


def _remembered(data: DexYCB, name: str, numbers: np.ndarray, test: Callable[[DexYCB, int], bool]) -> np.ndarray:
    recordings = [f"{recording.folder} {recording.frames}" for recording in data.recordings]
    about = [data.root.resolve(), data.split, data.hand.name, data.models.folder, *recordings]
    return those_that_pass(numbers, lambda number: test(data, number), name, about)


def _touches(data: DexYCB, number: int) -> bool:
    """Whether a vertex of the object is within 5 mm of one of the hand."""
    if data.hand.mano is None:
        raise AssetError("keep=gsdf measures MANO's vertices: give mano_dir=DIR, or the paper's own list (frames=FILE)")
    recording, _, _ = data.locate(number)
    truth = data.truths.pose(recording, data.label(number))[0]
    mesh, notes = data.models.find(data.grasped(recording))
    if mesh is None:
        raise AssetError(f"keep=gsdf measures distances to the objects; {notes[0]}")
    if truth is None:
        return False
    model = data.hand.model()
    posed = model(truth.hand_rotvec, truth.hand_shape, truth.hand_transl).vertices[0]
    distances, _ = KDTree(posed.double().numpy()).query(truth.place(mesh.vertices)[0].double().numpy())
    return bool(distances.min() <= TOUCH)


def _in_picture(data: DexYCB, number: int) -> bool:
    """Whether the box of the hand's key points, grown 1.5 times, is in the picture (HOISDF's rule for "full")."""
    points = data.label(number).points
    if points is None:
        return False
    low, high = points.min(0), points.max(0)
    middle, half = (low + high) / 2, (high - low) * 0.75
    start = np.maximum(middle - half, 0)
    end = np.minimum(start + np.maximum(2 * half - 1, 0), np.array([639, 479]))
    return bool((2 * half).prod() > 0 and (end >= start).all())
