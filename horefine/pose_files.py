"""Poses between systems, folder by folder: others' hands and objects become ``--init`` files, and poses theirs.

Every file that is written names its frame. Tables are those of ``docs/input.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from horefine.errors import ConfigError, InputError, suggestion
from horefine.evaluate.predictions import Output
from horefine.exchange import find_item, read_pose
from horefine.exchange_challenges import joints_table, named, read_dexycb_joints, read_ho3d
from horefine.exchange_hands import FRAME, hamer_table, read_hands, refocused
from horefine.exchange_objects import read_bop, read_matrix, write_bop, write_matrix
from horefine.export import write_arrays, write_json
from horefine.geometry import Camera
from horefine.hand import HandModel

__all__ = ["FORMATS", "Gathered", "export_poses", "gather_poses"]

_HANDS = (".json", ".npz", ".pkl", ".pt", ".pth")
_FOCAL_SAID = "the hand's place was for a focal length of {:.0f} pixels: found anew for {:.0f}"
_FOCAL_DOUBT = (
    "the hand's translation is for its own focal length ({}): its depth is wrong unless that is the camera's; give the "
    "camera"
)


@dataclass(frozen=True)
class Gathered:
    """What :func:`gather_poses` wrote."""

    names: tuple[str, ...]
    """Items with all that was asked for."""
    lacking: Mapping[str, str]
    """The others, and what they lack."""
    notes: tuple[str, ...]


def gather_poses(
    out: Path,
    hands: Path | None = None,
    objects: Path | None = None,
    *,
    names: Sequence[str] | None = None,
    side: str | None = None,
    camera: Camera | None = None,
    model: HandModel | None = None,
) -> Gathered:
    """Writes ``OUT/NAME.json`` for ``--init`` from other systems' files.

    Args:
        hands: A folder of HaMeR's or WiLoR's dictionaries (NAME.json, .npz, .pkl, .pt), HO-3D's ``pred.json`` or zip,
            or DexYCB's joints (a .txt file).
        objects: A folder of FoundationPose's ``NAME.txt`` (its ``ob_in_cam``), or a BOP result file (.csv).
        names: Of the frames of ``pred.json`` in order; of the pictures of a .txt file by number.
        side: Which hand to take where a file holds both; without it the first.
        camera: Of the pictures (B = 1): a translation made for another focal length is found anew for it.
        model: The hand that is shown then.

    Raises:
        ConfigError: nothing to read, another kind of file. InputError: a file that holds all items is damaged.
    """
    if hands is None and objects is None:
        raise ConfigError("give hands, objects, or both")
    sources = []
    problems: dict[str, str] = {}
    notes: list[str] = []
    if hands is not None:
        read = _hands(hands, names, side, problems)
        sources.append({name: _placed(table, camera, model, notes) for name, table in read.items()})
    if objects is not None:
        sources.append(_objects(objects, problems))
    every = sorted({name for source in sources for name in source} | set(problems))
    whole = tuple(name for name in every if all(name in source for source in sources))
    for name in whole:
        merged: dict[str, Any] = {"name": name, "frame": FRAME}
        for source in sources:
            merged |= source[name]
        write_json(out / f"{name}.json", {key: _plain(value) for key, value in merged.items()})
    kinds = [kind for kind, given in (("hand", hands), ("object", objects)) if given is not None]
    lacking = {
        name: problems.get(name)
        or "no " + " and no ".join(k for k, s in zip(kinds, sources, strict=True) if name not in s)
        for name in every
        if name not in whole
    }
    if not whole:
        first = next(iter(lacking.items()), None)
        raise ConfigError("no item has all that was asked for" + (f"; {first[0]}: {first[1]}" if first else ""))
    return Gathered(whole, lacking, tuple(dict.fromkeys(notes)))


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist() if isinstance(value, np.ndarray) else value


def _hands(path: Path, names: Sequence[str] | None, side: str | None, problems: dict[str, str]) -> dict[str, Any]:
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix in _HANDS and not f.name.startswith("."))
        if not files:
            raise ConfigError(f"{path}: no hands there (NAME{', NAME'.join(_HANDS)})")
        return _each(files, lambda file: _chosen(read_hands(file), side, file.name), problems)
    if path.suffix == ".txt":
        joints = read_dexycb_joints(path)
        called = {k: f"{k:06d}" if names is None else names[k] for k in joints if names is None or k < len(names)}
        return {name: joints_table(joints[k], side or "right") for k, name in called.items()}
    if path.suffix in (".json", ".zip"):
        if names is None:
            raise ConfigError(f"{path}: which frames are these? Give their list (HO-3D's evaluation.txt)")
        frames = named(list(read_ho3d(path)[0]), [name.replace("/", "_") for name in names])
        problems |= {name: "no hand in it" for name, joints in frames.items() if not joints.any()}
        return {name: joints_table(j, side or "right") for name, j in frames.items() if name not in problems}
    raise ConfigError(f"{path}: neither a folder of hands, nor HO-3D's pred.json, nor DexYCB's .txt")


def _objects(path: Path, problems: dict[str, str]) -> dict[str, Any]:
    if path.is_dir():
        files = sorted(path.glob("*.txt"))
        if not files:
            raise ConfigError(f"{path}: no object poses there (NAME.txt, 4x4)")
        return _each(files, read_matrix, problems)
    if path.suffix == ".csv":
        return dict(read_bop(path))
    raise ConfigError(f"{path}: neither a folder of NAME.txt nor BOP's .csv")


def _each(files: Sequence[Path], read: Callable[[Path], Any], problems: dict[str, str]) -> dict[str, Any]:
    """What each file holds, by its stem; a file that cannot be read does not affect the others."""
    found = {}
    for file in files:
        try:
            found[file.stem] = read(file)
        except InputError as error:
            problems[file.stem] = str(error)
    return found


def _chosen(hands: Sequence[Mapping[str, Any]], side: str | None, where: str) -> Mapping[str, Any]:
    fitting = [hand for hand in hands if side is None or hand["side"] == side]
    if not fitting:
        raise InputError(f"{where}: no {side + ' ' if side else ''}hand in it")
    return fitting[0]


def _placed(
    table: Mapping[str, Any], camera: Camera | None, model: HandModel | None, notes: list[str]
) -> dict[str, Any]:
    """The hand with its translation for the true camera."""
    kept = {key: value for key, value in table.items() if key != "focal"}
    if "hand_transl" not in table:
        return kept
    own = table.get("focal")
    if camera is None or model is None:
        notes.append(_FOCAL_DOUBT.format("unknown" if own is None else f"{own:.0f} pixels"))
        return kept
    used = float(own) if own is not None else 5000 / 256 * max(camera.size)
    true = float(camera.matrix[0, 0, 0])
    if abs(used - true) < 1e-6 * true:
        return kept
    notes.append(_FOCAL_SAID.format(used, true))
    return kept | refocused(table, camera, model, used)


# --- out ---------------------------------------------------------------------------------------------------------


def export_poses(source: Path, out: Path, kind: str, camera: Camera | None = None) -> tuple[list[str], dict[str, str]]:
    """Poses of a run or a folder of pose files in another system's format (:data:`FORMATS`).

    Args:
        camera: Of the pictures, where the format states one.

    Returns:
        Names that were written, and of the others why not.

    Raises:
        ConfigError: an unknown format, a folder without poses.
    """
    if kind not in FORMATS:
        raise ConfigError(f"--as {kind}: there is none of this name{suggestion(kind, FORMATS)}")
    if not source.is_dir():
        raise ConfigError(f"{source}: no such folder")
    tables: dict[str, dict[str, Any]] = {}
    problems = {}
    for name in Output(source).names:
        try:
            found = read_pose(find_item(source, name))
        except InputError as error:
            problems[name] = str(error)
            continue
        tables[name] = {key: value[0].double().numpy() for key, value in found.pose.items()}
        tables[name]["side"] = found.side or "right"
    if not tables:
        why = next(iter(problems.values()), "no pose files")
        raise ConfigError(f"{source}: no pose that can be read: {why}")
    out.mkdir(parents=True, exist_ok=True)
    FORMATS[kind](out, tables, camera)
    return sorted(tables), problems


def _to_hamer(out: Path, tables: Mapping[str, Mapping[str, Any]], camera: Camera | None) -> None:
    for name, table in tables.items():
        write_json(out / f"{name}.json", hamer_table(table, camera))


def _to_smplx(out: Path, tables: Mapping[str, Mapping[str, Any]], camera: Camera | None) -> None:
    for name, table in tables.items():
        rotvec = np.asarray(table["hand_rotvec"]).reshape(16, 3)
        arrays: dict[str, Any] = {
            "global_orient": rotvec[0], "hand_pose": rotvec[1:].reshape(45), "betas": table["hand_shape"],
            "transl": table["hand_transl"], "obj_rot": table["object_rotvec"], "obj_trans": table["object_transl"],
            "side": table["side"], "flat_hand_mean": True, "frame": FRAME,
        }  # fmt: skip
        write_arrays(out / f"{name}.npz", {key: np.asarray(value) for key, value in arrays.items()})


def _to_foundationpose(out: Path, tables: Mapping[str, Mapping[str, Any]], camera: Camera | None) -> None:
    for name, table in tables.items():
        write_matrix(out / f"{name}.txt", table)


def _to_bop(out: Path, tables: Mapping[str, Mapping[str, Any]], camera: Camera | None) -> None:
    try:
        write_bop(out / "horefine_dataset-test.csv", tables)
    except InputError as error:
        raise ConfigError(f"{error}; horefine evaluate --submission bop --ids FILE takes other names") from None
    about = "OpenCV camera (x right, y down, z forward); R row by row, t in millimetres; time -1: not known"
    write_json(out / "about.json", {"format": "bop", "frame": about, "file": "METHOD_DATASET-SPLIT.csv: rename it"})


FORMATS: dict[str, Callable[[Path, Mapping[str, Mapping[str, Any]], Camera | None], None]] = {
    "hamer": _to_hamer,
    "smplx": _to_smplx,
    "foundationpose": _to_foundationpose,
    "bop": _to_bop,
}
"""Name -> writes the poses into a folder."""
