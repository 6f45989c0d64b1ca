"""HO-3D's files, read and checked: lists of frames, annotations (pickles, nothing in them is run), depth; and splits.

Hampali et al., "HOnnotate", CVPR 2020 (versions 2 and 3 of the data). Annotations are in OpenGL's camera frame (y up, z
backward); everything that leaves this module is in OpenCV's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image
from scipy.spatial.transform import Rotation

from horefine.anatomy import convert_joints
from horefine.errors import ConfigError, InputError, suggestion
from horefine.mano import load_restricted

__all__ = ["SPLITS", "Annotation", "Subset", "read_annotation", "read_frames", "read_ho3d_depth", "split_named"]

AXES = np.array([1.0, -1.0, -1.0])
"""OpenGL's camera frame to OpenCV's, and back."""
DEPTH_STEP = 0.00012498664727900177
"""Metres."""
_FRAME = re.compile(r"([A-Za-z]+\d*)/(\d{4})")
_AGAIN = "the download may be incomplete: fetch it again"


@dataclass(frozen=True)
class Subset:
    """Frames of one folder."""

    folder: str
    """``train`` or ``evaluation``."""
    sequences: tuple[str, ...] = ()
    """All of their frames, in order of name; empty: the official list (``train.txt``, ``evaluation.txt``)."""
    spans: Mapping[str, tuple[tuple[int, int], ...]] | None = None
    """First and last frames kept of each sequence of the official list; None: everything."""


_MEAT, _BLEACH = ((30, 450), (585, 685)), ((340, 1355), (1415, 1686))
SPLITS: Mapping[str, Subset] = {
    "train": Subset("train"),
    "evaluation": Subset("evaluation"),
    "v1/train": Subset("train", ("MC1", "MC4", "MC5", "MC6", "SM2", "SM3", "SM4", "SM5", "SS1", "SS2", "SS3")),
    "v1/test": Subset("train", ("MC2",)),
    "v2-/test": Subset(
        "evaluation",
        spans={"SM1": ((0, 889),), **{f"MPM{k}": _MEAT for k in range(10, 15)}, "SB11": _BLEACH, "SB13": _BLEACH},
    ),
}
"""The official ones; CPF's, which Song et al. evaluate on: like version 1, and the test frames with a grasp."""


@dataclass(frozen=True)
class Annotation:
    """One frame, OpenCV's camera frame, metres; None is not annotated."""

    camera: Float[ndarray, "3 3"] | None
    object_name: str | None = None
    object: Float[ndarray, "4 4"] | None = None
    """To the camera."""
    corners: Float[ndarray, "8 3"] | None = None
    """Of the object's box, its own frame."""
    wrist: Float[ndarray, "3"] | None = None
    joints: Float[ndarray, "21 3"] | None = None
    """House order; tips are HO-3D's."""
    rotvec: Float[ndarray, "16 3"] | None = None
    """Relative to the flat hand."""
    betas: Float[ndarray, "10"] | None = None
    transl: Float[ndarray, "3"] | None = None
    """As smplx's; the hand turns about its wrist, which is not the origin, so it is not the file's with two signs."""
    contact: Bool[ndarray, "778"] | None = None
    box: tuple[float, float, float, float] | None = None
    """Of the hand, pixels."""


def split_named(name: str) -> Subset:
    """The subset of that name (``test`` is ``evaluation``).

    Raises:
        ConfigError: there is none.
    """
    full = {"test": "evaluation", "v2/train": "train", "v2/test": "evaluation", "v2-/train": "train"}.get(name, name)
    if full not in SPLITS:
        raise ConfigError(f"split {name!r}: HO-3D has none of this name{suggestion(full, SPLITS)}")
    return SPLITS[full]


def read_frames(root: Path, subset: Subset) -> tuple[list[str], ndarray, ndarray]:
    """The frames of a subset: names of sequences, and for each frame which of them (int16) and its number (int32).

    Raises:
        ConfigError: not HO-3D's folder, or its list is missing or damaged.
    """
    _check_root(root, subset.folder)
    if subset.sequences:
        pairs = [(name, number) for name in subset.sequences for number in _numbers(root / subset.folder / name)]
    else:
        pairs = _listed(root / f"{subset.folder}.txt")
    if subset.spans is not None:
        pairs = [(name, n) for name, n in pairs if any(a <= n <= b for a, b in subset.spans.get(name, ()))]
        names = list(dict.fromkeys(name for name, _ in pairs))
        pairs.sort(key=lambda pair: (names.index(pair[0]), pair[1]))
    if not pairs:
        raise ConfigError(f"{root}: no frames of this split are there")
    names = list(dict.fromkeys(name for name, _ in pairs))
    order = {name: place for place, name in enumerate(names)}
    rows = np.array([order[name] for name, _ in pairs], np.int16)
    return names, rows, np.array([number for _, number in pairs], np.int32)


def _check_root(root: Path, folder: str) -> None:
    if not root.is_dir():
        raise ConfigError(
            f"{root}: no such folder; give HO-3D's (it holds train, evaluation, train.txt, evaluation.txt)"
        )
    if (root / folder).is_dir():
        return
    if root.name in ("train", "evaluation"):
        raise ConfigError(f"{root}: holds no folder {folder!r}: it is one part; give {root.parent}")
    inner = next((path for path in sorted(root.iterdir()) if (path / folder).is_dir()), None)
    held = ", ".join(sorted(path.name for path in root.iterdir())[:4]) or "nothing"
    raise ConfigError(f"{root}: holds no folder {folder!r}: {f'give {inner}' if inner else f'it holds {held}'}")


def _listed(path: Path) -> list[tuple[str, int]]:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; it lists the frames and comes with the dataset: {_AGAIN}")
    pairs = []
    for number, line in enumerate(path.read_text().split(), 1):
        match = _FRAME.fullmatch(line)
        if match is None:
            raise ConfigError(f"{path}: line {number}: {line!r}; expected a frame such as SM1/0000")
        pairs.append((match[1], int(match[2])))
    return pairs


def _numbers(folder: Path) -> list[int]:
    if not (folder / "meta").is_dir():
        raise ConfigError(f"{folder / 'meta'}: no such folder; this split has all frames of {folder.name}: {_AGAIN}")
    return sorted(int(path.stem) for path in (folder / "meta").iterdir() if re.fullmatch(r"\d{4}\.pkl", path.name))


# --- annotations -------------------------------------------------------------------------------------------------


def read_annotation(path: Path) -> Annotation:
    """A frame's annotation; what the file leaves None, or does not hold, is None.

    Raises:
        InputError: missing, damaged, not a table of arrays, or of other shapes.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; {_AGAIN}")
    try:
        table = load_restricted(path.read_bytes())
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: {str(error).partition('; a MANO')[0]}; {_AGAIN}") from None
    if not isinstance(table, Mapping) or "camMat" not in table:
        raise InputError(f"{path}: not an annotation of HO-3D's (it has no camMat)")
    reader = _Reader(path, table)
    camera = reader.array("camMat", (3, 3))
    name, turn, place = table.get("objName"), reader.array("objRot", (3,)), reader.array("objTrans", (3,))
    joints = None if table.get("handJoints3D") is None else reader.array("handJoints3D", (-1,))
    wrist = None if joints is None else joints[:3] * AXES
    return Annotation(
        camera,
        None if name is None else str(name),
        None if turn is None or place is None else _matrix(turn, place),
        reader.array("objCorners3DRest", (8, 3)),
        wrist,
        None if joints is None or joints.size != 63 else _house(joints.reshape(21, 3) * AXES),
        *_hand(reader, wrist),
        contact=reader.flags("handVertContact"),
        box=reader.box("handBoundingBox"),
    )


def _hand(reader: _Reader, wrist: ndarray | None) -> tuple[ndarray | None, ndarray | None, ndarray | None]:
    """Rotations, shape and translation. The wrist is a joint of the file: no hand model is needed to turn about it."""
    rotvec, betas = reader.array("handPose", (16, 3)), reader.array("handBeta", (10,))
    transl = reader.array("handTrans", (3,))
    if rotvec is None or betas is None or transl is None or wrist is None:
        return None, None, None
    turned = Rotation.from_matrix(AXES[:, None] * Rotation.from_rotvec(rotvec[0]).as_matrix()).as_rotvec()
    root = wrist * AXES - transl  # where the model's wrist is at rest
    return np.concatenate([turned[None], rotvec[1:]]), betas, wrist - root


def _matrix(turn: ndarray, place: ndarray) -> ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = AXES[:, None] * Rotation.from_rotvec(turn).as_matrix()
    matrix[:3, 3] = AXES * place
    return matrix


def _house(joints: ndarray) -> ndarray:
    return convert_joints(torch.from_numpy(joints)[None], "ho3d", "house")[0].numpy()


@dataclass(frozen=True)
class _Reader:
    """Checked access to the entries of an annotation."""

    path: Path
    table: Mapping[str, Any]

    def array(self, key: str, shape: tuple[int, ...]) -> ndarray | None:
        value = self.table.get(key)
        if value is None:
            return None
        try:
            found = np.asarray(value, np.float64).reshape(shape)
        except (TypeError, ValueError):
            said = getattr(value, "shape", type(value).__name__)
            raise InputError(f"{self.path}: {key} is {said}; expected numbers of shape {shape}") from None
        if not np.isfinite(found).all() or (key == "handJoints3D" and found.size not in (3, 63)):
            raise InputError(f"{self.path}: {key}: {found.size} numbers, not all finite or not as many as expected")
        return found

    def flags(self, key: str) -> ndarray | None:
        value = self.array(key, (-1,))
        return None if value is None or value.size != 778 else value != 0

    def box(self, key: str) -> tuple[float, float, float, float] | None:
        value = self.array(key, (4,))
        if value is None or value[2] <= value[0] or value[3] <= value[1]:
            return None
        x0, y0, x1, y1 = value.tolist()
        return x0, y0, x1, y1


def read_ho3d_depth(path: Path, size: tuple[int, int]) -> Float[torch.Tensor, "H W"]:
    """Depth in metres, 0 where nothing was measured: ``(red + 256 green)`` steps of 0.125 mm.

    Raises:
        InputError: damaged, or of another size than ``size`` (height, width).
    """
    try:
        with Image.open(path) as file:
            values = np.asarray(file.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path.name}: cannot be read ({error}); {_AGAIN}") from None
    if values.shape[:2] != size:
        raise InputError(
            f"{path.name}: {values.shape[1]}x{values.shape[0]} pixels, its photograph has {size[1]}x{size[0]}"
        )
    steps = values[..., 0].astype(np.int32) + 256 * values[..., 1].astype(np.int32)  # in 8 bits they would wrap around
    return torch.from_numpy((steps * DEPTH_STEP).astype(np.float32))


def name_of(sequence: str, number: int) -> str:
    """``SM1/0000``, as the official lists have it."""
    return f"{sequence}/{number:04d}"


def joints_of(values: Sequence[Any]) -> ndarray:
    """21 joints of the official ground truth (OpenGL, HO-3D's order), as the house has them.

    Raises:
        ValueError: not 21 x 3 numbers.
    """
    return _house(np.asarray(values, np.float64).reshape(21, 3) * AXES)
