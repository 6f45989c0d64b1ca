"""DexYCB's files, read and checked: recordings (``meta.yml``), calibration, labels.

Chao et al., "DexYCB: A Benchmark for Capturing Hand Grasping of Objects", CVPR 2021. Ten subjects, 100 recordings each,
eight cameras. A label is in the frame of its camera (OpenCV's), metres.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from jaxtyping import Float, UInt8
from numpy import ndarray

from horefine.data.dexycb_splits import Subset
from horefine.errors import ConfigError, InputError
from horefine.geometry import Camera

__all__ = [
    "SERIALS", "SIZE", "Label", "Recording", "camera_to_world", "find_recordings", "read_betas",
    "read_camera", "read_label", "read_segmentation", "subject_folders",
]  # fmt: skip

SIZE = 480, 640
SERIALS = (
    "836212060125", "839512060362", "840412060917", "841412060263", "932122060857", "932122060861", "932122061900",
    "932122062010",
)  # fmt: skip
_SUBJECT = re.compile(r"\d{8}-.+")
_RECORDING = re.compile(r"\d{8}_\d{6}")
_READERS = 8
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_AGAIN = "the download may be incomplete: fetch it again"


@dataclass(frozen=True)
class Recording:
    """One recording, as its ``meta.yml`` says."""

    subject: int
    """Counted from 0."""
    folder: str
    """Below the dataset's folder: ``20200709-subject-01/20200709_141754``."""
    frames: int
    objects: tuple[int, ...]
    """Numbers of YCB, in the order of the labels."""
    grasped: int
    """Place in ``objects``."""
    side: Literal["right", "left"]
    hand: str
    """Its calibration: ``calibration/mano_<hand>/mano.yml``."""
    extrinsics: str

    @property
    def name(self) -> str:
        """Subject and time: ``01_20200709_141754``."""
        return f"{self.subject + 1:02d}_{self.folder.rpartition('/')[2]}"


@dataclass(frozen=True)
class Label:
    """The label of one frame: camera frame, metres."""

    objects: Float[ndarray, "N 3 4"]
    """Object to camera; all zero where an object is not annotated."""
    hand: Float[ndarray, "51"] | None
    """Wrist's axis-angle, 45 PCA values, MANO's translation; None where no hand is annotated."""
    joints: Float[ndarray, "21 3"] | None
    """House order."""
    points: Float[ndarray, "21 2"] | None
    """The same, pixels."""


# --- folders -----------------------------------------------------------------------------------------------------


def subject_folders(root: Path) -> dict[int, Path]:
    """Number of each subject (from 0) -> its folder.

    Raises:
        ConfigError: this is not DexYCB's folder; the message says what it looks like.
    """
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder; give DexYCB's (it holds 20200709-subject-01 ... and calibration)")
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    found = [name for name in names if _SUBJECT.fullmatch(name)]
    if not found:
        raise ConfigError(f"{root}: holds no folders such as 20200709-subject-01: {_what_is(root, names)}")
    if not (root / "calibration").is_dir():
        raise ConfigError(
            f"{root}: has no folder 'calibration' (intrinsics, hand shapes): unpack calibration.tar.gz here"
        )
    numbered = [re.search(r"-subject-(\d+)$", name) for name in found]
    if all(numbered):
        return {int(match[1]) - 1: root / name for match, name in zip(numbered, found, strict=True) if match}
    return {place: root / name for place, name in enumerate(found)}


def _what_is(root: Path, names: Sequence[str]) -> str:
    if any(_RECORDING.fullmatch(name) for name in names) or _SUBJECT.fullmatch(root.name):
        return f"it is one subject's; give {root.parent}"
    if _RECORDING.fullmatch(root.name) or (root / "meta.yml").is_file():
        return f"it is one recording's; give {root.parent.parent}"
    inner = next((n for n in names if any(_SUBJECT.fullmatch(e.name) for e in (root / n).iterdir())), None)
    if inner is not None:
        return f"they are in {root / inner}: give that folder"
    archives = sorted(path.name for path in root.glob("*subject*.tar*"))
    if archives:
        return f"unpack the archives first ({archives[0]} ...)"
    return f"it holds {', '.join(names[:4]) or 'no folders'}"


def find_recordings(root: Path, subset: Subset | None, partial: bool = False) -> tuple[list[Recording], list[str]]:
    """The recordings of a split in the official order (``None``: every recording there is), and what is missing.

    Only subjects' folders are listed and ``meta.yml`` read: no frame is looked at.

    Args:
        partial: Go on without subjects that are missing or incomplete.

    Raises:
        ConfigError: not DexYCB's folder, or (unless ``partial``) a subject's recordings are not all there.
        InputError: a ``meta.yml`` cannot be read.
    """
    folders = subject_folders(root)
    wanted: list[tuple[int, str]] = []
    lacking: list[str] = []
    for subject in sorted(folders) if subset is None else subset.subjects:
        names = _recordings(folders[subject]) if subject in folders else []
        if subset is None:
            wanted += [(subject, name) for name in names]
        elif len(names) == 100:
            wanted += [(subject, names[place]) for place in subset.recordings]
        else:
            lacking.append(f"subject-{subject + 1:02d} ({len(names)} of 100 recordings)")
    if lacking and not partial:
        raise ConfigError(
            f"{root}: incomplete: {', '.join(lacking)}; which recordings a split has is their place among all 100: "
            "complete the download, or go on without these subjects (partial=true), or take all there is (split=all)"
        )
    if not wanted:
        raise ConfigError(
            f"{root}: no complete subject of this split is there ({', '.join(lacking) or 'no recordings'})"
        )
    paths = [f"{folders[subject].name}/{name}" for subject, name in wanted]
    with ThreadPoolExecutor(_READERS) as pool:  # for folders on a network; parsing takes turns
        texts = list(pool.map(lambda path: _text(root / path / "meta.yml"), paths))
    rows = zip(wanted, paths, texts, strict=True)
    return [_recording(root, subject, path, text) for (subject, _), path, text in rows], lacking


def _recordings(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if _RECORDING.fullmatch(entry.name) and entry.is_dir())


def _recording(root: Path, subject: int, folder: str, text: str) -> Recording:
    where = root / folder / "meta.yml"
    table = _table(text, where)
    try:
        objects = tuple(int(number) for number in table["ycb_ids"])
        recording = Recording(
            subject, folder, int(table["num_frames"]), objects, int(table["ycb_grasp_ind"]),
            table["mano_sides"][0], str(table["mano_calib"][0]), str(table["extrinsics"]),
        )  # fmt: skip
        if recording.side not in ("right", "left") or not 0 <= recording.grasped < len(objects):
            raise ValueError(f"side {recording.side!r}, object {recording.grasped} of {len(objects)}")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{where}: not a recording's ({type(error).__name__}: {error}); {_AGAIN}") from None
    return recording


# --- calibration -------------------------------------------------------------------------------------------------


def read_camera(root: Path, serial: str) -> Camera:
    """The colour camera of a serial number (depth is aligned to it).

    Raises:
        ConfigError: its calibration is not there. InputError: it cannot be read.
    """
    path = root / "calibration" / "intrinsics" / f"{serial}_{SIZE[1]}x{SIZE[0]}.yml"
    color = _table(_text(path), path).get("color")
    try:
        fx, fy, cx, cy = (float(color[key]) for key in ("fx", "fy", "ppx", "ppy"))  # type: ignore[index]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: no colour camera in it ({type(error).__name__}: {error}); {_AGAIN}") from None
    return Camera(torch.tensor([[[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]]), SIZE)


def read_betas(root: Path, hand: str) -> Float[ndarray, "10"]:
    """Shape values of a subject's hand.

    Raises:
        InputError: missing, or not ten numbers.
    """
    path = root / "calibration" / f"mano_{hand}" / "mano.yml"
    betas = _table(_text(path), path).get("betas")
    try:
        values = np.array(betas, np.float64).reshape(10)
    except (TypeError, ValueError):
        raise InputError(f"{path}: betas: {betas!r}; expected ten numbers") from None
    if not np.isfinite(values).all():
        raise InputError(f"{path}: betas: {betas!r}; expected ten numbers")
    return values


def camera_to_world(root: Path, extrinsics: str, serial: str) -> Float[ndarray, "4 4"]:
    """From a camera's frame to the recording's world (that of the master camera), metres.

    Raises:
        InputError: missing, or not 3x4.
    """
    path = root / "calibration" / f"extrinsics_{extrinsics}" / "extrinsics.yml"
    known = _table(_text(path), path).get("extrinsics")
    try:
        rows = np.array(known[serial], np.float64).reshape(3, 4)  # type: ignore[index]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: camera {serial} is not in it ({type(error).__name__}: {error}); {_AGAIN}") from None
    return np.concatenate([rows, [[0.0, 0.0, 0.0, 1.0]]])


# --- labels ------------------------------------------------------------------------------------------------------


def read_label(path: Path, objects: int) -> Label:
    """The label of a frame with that many objects; its segmentation is not decoded.

    Raises:
        InputError: missing, damaged, of other shapes, or not finite.
    """
    table = _arrays(path, ("pose_y", "pose_m", "joint_3d", "joint_2d"))
    hand = _shaped(table, "pose_m", (1, 51), path)[0]
    joints = _shaped(table, "joint_3d", (1, 21, 3), path)[0]
    points = _shaped(table, "joint_2d", (1, 21, 2), path)[0]
    absent = not hand.any()
    unknown = absent or bool((joints == -1).all())
    return Label(
        _shaped(table, "pose_y", (objects, 3, 4), path),
        None if absent else hand,
        None if unknown else joints,
        None if unknown else points,
    )


def read_segmentation(path: Path) -> UInt8[ndarray, "H W"]:
    """What each pixel shows: 0 nothing, 1 to 21 an object of YCB, 255 the hand.

    Raises:
        InputError: missing or damaged.
    """
    return _arrays(path, ("seg",))["seg"]


def _arrays(path: Path, names: Sequence[str]) -> dict[str, ndarray]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; {_AGAIN}")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except KeyError as error:
        raise InputError(f"{path}: {error.args[0]}; expected a label of DexYCB's ({', '.join(names)})") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{path}: damaged ({error or type(error).__name__}); {_AGAIN}") from None
    except Exception as error:  # zlib.error, tokenize errors of a broken header
        raise InputError(f"{path}: damaged ({type(error).__name__}: {error}); {_AGAIN}") from None


def _shaped(table: Mapping[str, ndarray], name: str, shape: tuple[int, ...], path: Path) -> ndarray:
    value = table[name]
    if value.shape != shape or value.dtype.kind != "f":
        raise InputError(f"{path}: {name} is {value.dtype} of shape {value.shape}; expected numbers of shape {shape}")
    if not np.isfinite(value).all():
        raise InputError(f"{path}: {name} holds numbers that are not finite")
    return value.astype(np.float64)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {_AGAIN}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


def _table(text: str, path: Path) -> Mapping[str, Any]:
    try:
        table = yaml.load(text, Loader=_LOADER)  # a safe loader: builds plain values only
    except yaml.YAMLError as error:
        raise InputError(f"{path}: cannot be read as YAML ({str(error).splitlines()[0]}); {_AGAIN}") from None
    if not isinstance(table, Mapping):
        raise InputError(f"{path}: expected a table, got {type(table).__name__}; {_AGAIN}")
    return table
