"""Submission files in the formats of HO-3D, DexYCB and BOP, from any folder of poses. No truth is needed.

HO-3D (Hampali et al. 2020): ``pred.json`` in a zip, ``[joints, vertices]`` of every frame in the order of
``evaluation.txt``, metres, OpenGL camera, HO-3D's joint order and fingertip vertices. DexYCB (Chao et al. 2021): a line
of 64 numbers for each image, its number in the split and 21 joints in mm. BOP: a CSV of object poses, mm.
The first two want every frame: a hand that is missing is written as points at the camera and said.
"""

from __future__ import annotations

import csv
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from horefine.data.mirror import mirror_pose
from horefine.errors import ConfigError, InputError, suggestion
from horefine.evaluate.official import ho3d_joints
from horefine.evaluate.predictions import Output
from horefine.exchange import ForeignPose, find_item, read_pose
from horefine.export import new_folder, write_json
from horefine.geometry import axis_angle_to_matrix
from horefine.hand import HandModel

__all__ = ["SUBMISSIONS", "Submission", "read_ids", "write_submission"]

HO3D_FRAMES = {11524: "v2", 20137: "v3"}
BOP_KEYS = ("scene_id", "im_id", "obj_id")
Ids = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Submission:
    """What was written."""

    path: Path
    count: int
    """Items in it."""
    missing: Mapping[str, str]
    """Items without a pose that can be used, and why."""
    notes: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        """What a reader must know."""
        first = next(iter(self.missing.items()), None)
        lost = [f"{len(self.missing)} items have no pose, the first: {first[0]}: {first[1]}"] if first else []
        return [*lost, *self.notes]


def write_submission(
    kind: str,
    out: Path,
    hand: HandModel,
    ids: Path | None = None,
    *,
    strict: bool = False,
    table: Mapping[str, tuple[int, ...]] | None = None,
) -> Submission:
    """Writes ``OUT/submission`` for ``ho3d``, ``dexycb`` or ``bop``.

    Args:
        ids: What :func:`read_ids` reads; without it the items' names must be their ids.
        strict: Refuse a submission that lacks an item.
        table: The ids themselves, of a dataset that knows them.

    Raises:
        ConfigError: an unknown format, ids that cannot be used. InputError: with ``strict``, an item has no pose.
    """
    if kind not in SUBMISSIONS:
        raise ConfigError(f"--submission {kind}: there is none of this name{suggestion(kind, SUBMISSIONS)}")
    output = Output(out)
    if not out.is_dir():
        raise ConfigError(f"{out}: no such folder")
    width = 3 if kind == "bop" else 1
    if table is not None:
        known = dict(table)
    else:
        known = read_ids(ids, width) if ids else ids_of_names(output.names, width, kind)
    listed = sorted(known, key=lambda name: known[name])
    poses, missing = _poses(output, listed, hand)
    if missing and strict:
        name, why = next(iter(missing.items()))
        raise InputError(f"{name}: {why} ({len(missing)} of {len(listed)} items have no pose)")
    if not poses:
        named = ", ".join(output.names[:3]) or "nothing"
        raise ConfigError(f"{out}: has no usable pose of the items in {ids or 'it'}; it names {named}")
    others = sorted(set(output.names) - set(known) - {name.replace("/", "_") for name in known})
    notes = [f"{len(others)} poses have no id and are left out, the first: {others[0]}"] if others else []
    with new_folder(out / "submission") as folder:
        name, more = SUBMISSIONS[kind](folder, listed, known, poses, hand, out)
        found = Submission(out / "submission" / name, len(listed), missing, (*notes, *more))
        write_json(folder / "about.json", {
            "format": kind, "file": name, "items": len(listed), "missing": missing, "notes": list(found.notes),
        })  # fmt: skip
    return found


# --- ids ---------------------------------------------------------------------------------------------------------


def read_ids(path: Path, width: int) -> dict[str, tuple[int, ...]]:
    """Item -> its ids (``width`` whole numbers), from a CSV (``name,id`` or ``name,scene_id,im_id,obj_id``), a JSON
    table, or a list of frames in order such as HO-3D's ``evaluation.txt`` (``SM1/0000``: the item may also be called
    ``SM1_0000``).

    Raises:
        ConfigError: no such file, not these columns, not whole numbers, the same ids twice.
    """
    if not path.is_file():
        raise ConfigError(f"--ids {path}: no such file")
    try:
        found = _READERS.get(path.suffix.lower(), _frames)(path)
        ids = {name: tuple(int(str(value)) for value in values) for name, values in found.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"--ids {path}: cannot be read ({type(error).__name__}: {error})") from None
    wrong = next((f"{name}: {values}" for name, values in ids.items() if len(values) != width), None)
    if wrong or not ids:
        wanted = "name,scene_id,im_id,obj_id" if width == 3 else "name,id"
        raise ConfigError(f"--ids {path}: {wrong or 'is empty'}; expected {wanted}")
    return _unique(ids, f"--ids {path}")


def _unique(ids: dict[str, tuple[int, ...]], where: str) -> dict[str, tuple[int, ...]]:
    owners: dict[tuple[int, ...], str] = {}
    for name, values in ids.items():
        if owners.setdefault(values, name) != name:
            raise ConfigError(f"{where}: {owners[values]} and {name} both have the id {', '.join(map(str, values))}")
    return ids


def _table(path: Path) -> dict[str, Sequence[Any]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [name for name in (rows[0] if rows else {}) if name != "name"]
    order = [name for name in BOP_KEYS if name in columns] or columns
    return {row["name"]: [row[column] for column in order] for row in rows}


def _json(path: Path) -> dict[str, Sequence[Any]]:
    def values(entry: Any) -> Sequence[Any]:
        if isinstance(entry, Mapping):
            return [entry[name] for name in BOP_KEYS]
        return entry if isinstance(entry, list) else [entry]

    return {name: values(entry) for name, entry in json.loads(path.read_text()).items()}


def _frames(path: Path) -> dict[str, Sequence[Any]]:
    lines = [line.strip() for line in path.read_text().splitlines()]
    return {name: [place] for place, name in enumerate(line for line in lines if line)}


_READERS: dict[str, Callable[[Path], dict[str, Sequence[Any]]]] = {".csv": _table, ".json": _json}


def ids_of_names(names: Sequence[str], width: int, kind: str) -> dict[str, tuple[int, ...]]:
    """Ids that the names are: ``000123``, or ``000048_000001_15`` for scene, image and object.

    Raises:
        ConfigError: they are none.
    """
    found = {name: tuple(int(part) for part in re.findall(r"\d+", name)) for name in names}
    shape = r"\d+" if width == 1 else r"\d+[_/]\d+[_/]\d+"
    wrong = next((name for name in names if not re.fullmatch(shape, name)), None)
    if wrong is not None or not names:
        raise ConfigError(f"--submission {kind}: what is the id of {wrong or 'its items'}? Give --ids FILE")
    return _unique(found, "items")


# --- poses -------------------------------------------------------------------------------------------------------


def _poses(output: Output, names: Sequence[str], hand: HandModel) -> tuple[dict[str, ForeignPose], dict[str, str]]:
    """The poses as they are (left hands left), and why the others are missing."""
    mean = hand.mean_rotvec if hand.name == "mano" else None
    poses, missing = {}, {}
    for name in names:
        try:
            poses[name] = read_pose(_file(output.folder, name), mean)
        except InputError as error:
            missing[name] = output.failed.get(name, str(error).removeprefix(f"{name}: "))
    return poses, missing


def _file(folder: Path, name: str) -> Path:
    """The pose of a frame, whose slashes may have become underscores."""
    try:
        return find_item(folder, name)
    except InputError:
        return find_item(folder, name.replace("/", "_"))


@torch.no_grad()
def _points(given: ForeignPose, hand: HandModel) -> tuple[np.ndarray, np.ndarray]:
    """Joints and vertices, metres, OpenCV camera, of the hand as it is."""
    left = given.side == "left"
    pose = mirror_pose(given.pose) if left else given.pose
    posed = hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl)
    flip = np.array([-1.0 if left else 1.0, 1.0, 1.0])
    return posed.joints[0].double().numpy() * flip, posed.vertices[0].double().numpy() * flip


# --- formats -----------------------------------------------------------------------------------------------------

Written = tuple[str, list[str]]


def _ho3d(
    folder: Path, listed: Sequence[str], ids: Ids, poses: Mapping[str, ForeignPose], hand: HandModel, out: Path
) -> Written:
    places = [ids[name][0] for name in listed]
    if places != list(range(len(places))):
        raise ConfigError(f"HO-3D wants every frame of evaluation.txt, 0 to N - 1; ids run {_span(places)}")
    axes = np.array([1.0, -1.0, -1.0])

    def points(name: str) -> tuple[np.ndarray, np.ndarray]:
        if name not in poses:
            return np.zeros((21, 3)), np.zeros((len(hand.template), 3))
        joints, vertices = _points(poses[name], hand)
        ordered = ho3d_joints(torch.from_numpy(joints)[None], torch.from_numpy(vertices)[None])[0].numpy()
        return ordered * axes, vertices * axes

    with zipfile.ZipFile(folder / "pred.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("pred.json", "w", force_zip64=True) as stream:
            for part in (0, 1):  # all joints, then all vertices; one frame in memory at a time
                stream.write(b"[[" if part == 0 else b"], [")
                for row, name in enumerate(listed):
                    numbers = points(name)[part].round(6).tolist()
                    stream.write((", " if row else "").encode() + json.dumps(numbers).encode())
            stream.write(b"]]")
    expected = " or ".join(f"{count} ({version})" for count, version in HO3D_FRAMES.items())
    odd = [] if len(listed) in HO3D_FRAMES else [f"{len(listed)} frames; the official test has {expected}"]
    return "pred.zip", odd


def _dexycb(
    folder: Path, listed: Sequence[str], ids: Ids, poses: Mapping[str, ForeignPose], hand: HandModel, out: Path
) -> Written:
    def lines() -> Iterator[str]:
        for name in listed:
            joints = _points(poses[name], hand)[0] * 1e3 if name in poses else np.zeros((21, 3))
            yield ",".join([str(ids[name][0]), *(f"{value:.4f}" for value in joints.reshape(-1))])

    (folder / "hpe.txt").write_text("\n".join(lines()) + "\n")
    return "hpe.txt", []


def _bop(
    folder: Path, listed: Sequence[str], ids: Ids, poses: Mapping[str, ForeignPose], hand: HandModel, out: Path
) -> Written:
    rows = ["scene_id,im_id,obj_id,score,R,t,time"]
    for name in listed:
        if name in poses:
            pose = poses[name].pose
            turn = axis_angle_to_matrix(pose.object_rotvec.double())[0].reshape(-1).tolist()
            place = (pose.object_transl[0].double() * 1e3).tolist()
            numbers = [" ".join(f"{value:.8g}" for value in values) for values in (turn, place)]
            rows.append(",".join([*map(str, ids[name]), "1.0", *numbers, "-1"]))
    name = f"{re.sub('[^A-Za-z0-9]', '', out.resolve().name) or 'horefine'}_dexycb-test.csv"
    (folder / name).write_text("\n".join(rows) + "\n")
    return name, ["the file's name is METHOD_DATASET-SPLIT.csv: rename it for another dataset or split"]


def _span(places: Sequence[int]) -> str:
    gap = next((k for k, place in enumerate(places) if place != k), len(places))
    return f"from {places[0]} to {places[-1]}, {len(places)} of them; {gap} is not there"


SUBMISSIONS: dict[str, Callable[..., Written]] = {"ho3d": _ho3d, "dexycb": _dexycb, "bop": _bop}
"""By name: writes the file into a folder; its name and notes."""
