"""Results on disk: one folder for each item, whole or not there at all.

``result.npz`` holds the arrays, ``result.json`` the same poses as readable numbers with frame and units named and how
they came about, ``scene.glb`` hand and object for any viewer. ``docs/input.md`` describes the fields.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from horefine.processes import machine, signature

__all__ = [
    "FRAME",
    "SCHEMA_VERSION",
    "Result",
    "clean_leftovers",
    "disk_full",
    "load_result",
    "new_folder",
    "write_arrays",
    "write_bytes",
    "write_glb",
    "write_json",
    "write_meshes",
    "write_result",
    "write_text",
]

SCHEMA_VERSION = 1
FRAME = "OpenCV camera (x right, y down, z forward), metres, radians"
_HAND = (
    "MANO's parameterisation: hand_rotvec is axis-angle of wrist, index 1-3, middle 1-3, pinky 1-3, ring 1-3, "
    "thumb 1-3 relative to the FLAT hand (smplx: global_orient + hand_pose with flat_hand_mean=True); hand_transl "
    "is smplx's transl: the wrist is at J0(hand_shape) + hand_transl"
)
_LEFT = "; of a LEFT hand, for a left hand model (the right one mirrored in x)"
_JOINTS = "wrist, thumb 1-4, index 1-4, middle 1-4, ring 1-4, pinky 1-4"
_PREFIX = ".partial-"
_FORGOTTEN = 3600.0
"""Seconds after which what another machine left half written, and touched no more, is taken for a leftover."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SMPLX = {"hand_shape": "betas", "hand_transl": "transl", "object_rotvec": "obj_rot", "object_transl": "obj_trans"}


@dataclass(frozen=True)
class Result:
    """Everything about one refined image, in the photograph's camera, a left hand as a left hand."""

    name: str
    side: str
    pose: Mapping[str, ndarray]
    """Fields of ``Pose`` without the batch dimension."""
    initial: Mapping[str, ndarray]
    status: str
    reason: str
    hand_vertices: Float[ndarray, "V 3"]
    hand_joints: Float[ndarray, "21 3"]
    hand_faces: Int[ndarray, "F 3"]
    object_vertices: Float[ndarray, "N 3"]
    object_faces: Int[ndarray, "M 3"]
    initial_hand_vertices: Float[ndarray, "V 3"]
    initial_object_vertices: Float[ndarray, "N 3"]
    object_matrix: Float[ndarray, "4 4"]
    """Object to camera."""
    wrist_matrix: Float[ndarray, "4 4"]
    matrix: Float[ndarray, "3 3"]
    """Intrinsics of the photograph as it was used, pixels."""
    image_size: tuple[int, int]
    """Height and width of that photograph."""
    crop: tuple[float, float, float, float]
    """The square the networks and maps looked at, pixels of that photograph."""
    history: Mapping[str, Float[ndarray, "steps"]]
    best_step: int
    surfaces: Mapping[str, Any] = field(default_factory=dict)
    """``hand`` and ``object`` as a network reconstructed them, where one did: ``vertices`` and ``faces`` (as above)."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Plain values for ``result.json``: notes, camera source, object, hand model, hashes, timings, versions, errors."""


def write_result(folder: Path, result: Result) -> None:
    """Writes ``result.npz``, ``scene.glb`` and, last, ``result.json``: a folder with it is complete."""
    arrays: dict[str, Any] = {f"{name}": value for name, value in result.pose.items()}
    arrays |= {f"initial_{name}": value for name, value in result.initial.items()}
    arrays |= {f"history_{name}": np.asarray(value, np.float32) for name, value in result.history.items()}
    for name in ("hand_vertices", "hand_joints", "object_vertices", "initial_hand_vertices", "initial_object_vertices"):
        arrays[name] = np.asarray(getattr(result, name), np.float32)
    arrays |= {"hand_faces": result.hand_faces.astype(np.int32), "object_faces": result.object_faces.astype(np.int32)}
    arrays |= {"object_matrix": result.object_matrix, "wrist_matrix": result.wrist_matrix, "camera": result.matrix}
    arrays |= {"image_size": np.array(result.image_size), "box": np.array(result.crop), "best_step": result.best_step}
    arrays |= {"schema_version": SCHEMA_VERSION, "frame": FRAME, "side": result.side, "flat_hand_mean": True}
    np.savez_compressed(folder / "result.npz", **arrays)
    write_glb(folder / "scene.glb", result)
    write_json(folder / "result.json", describe(result))


def describe(result: Result) -> dict[str, Any]:
    """The table behind ``result.json``; its ``pose`` can be read back with ``--init``."""
    rotvec = np.asarray(result.pose["hand_rotvec"])
    pose = {name: np.asarray(value).tolist() for name, value in result.pose.items()}
    smplx = {"global_orient": rotvec[0].tolist(), "hand_pose": rotvec[1:].reshape(-1).tolist()}
    smplx |= {other: pose[name] for name, other in _SMPLX.items()}
    height, width = result.image_size
    return {
        "schema_version": SCHEMA_VERSION,
        "name": result.name,
        "status": result.status,
        "reason": result.reason,
        "frame": FRAME,
        "hand_parameterisation": _HAND + (_LEFT if result.side == "left" else ""),
        "joint_order": _JOINTS,
        "side": result.side,
        "pose": pose,
        "initial": {name: np.asarray(value).tolist() for name, value in result.initial.items()},
        "smplx": {**smplx, "flat_hand_mean": True, "side": result.side},
        "hand_joints": np.asarray(result.hand_joints).tolist(),
        "object_matrix": np.asarray(result.object_matrix).tolist(),
        "wrist_matrix": np.asarray(result.wrist_matrix).tolist(),
        "camera": {
            "matrix": np.asarray(result.matrix).tolist(),
            "size": [width, height],
            "pixels": "pixel (0, 0) is the centre of the top-left pixel",
            **result.about.get("camera", {}),
        },
        "box": list(result.crop),
        "surfaces": {
            name: {"vertices": len(one.vertices), "faces": len(one.faces)} for name, one in result.surfaces.items()
        },
        "best_step": result.best_step,
        **{key: value for key, value in result.about.items() if key != "camera"},
    }


def write_glb(path: Path, result: Result) -> None:
    """:func:`write_meshes` of ``hand`` and ``object``."""
    from horefine.draw import HAND_COLOR, OBJECT_COLOR

    hand = result.hand_vertices, result.hand_faces, HAND_COLOR
    write_meshes(path, {"hand": hand, "object": (result.object_vertices, result.object_faces, OBJECT_COLOR)})


def write_meshes(path: Path, parts: Mapping[str, tuple[ndarray, ndarray, tuple[float, float, float]]]) -> None:
    """Meshes (camera frame; vertices, faces, sRGB) as glTF: metres, y up, the camera looking along -z."""
    import trimesh
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    flip = np.array([1.0, -1.0, -1.0])
    scene = trimesh.Scene()
    for name, (vertices, faces, color) in parts.items():
        mesh = trimesh.Trimesh(np.asarray(vertices) * flip, faces, process=False)
        material = PBRMaterial(name=name, baseColorFactor=[*color, 1.0], metallicFactor=0.0, roughnessFactor=0.7)
        mesh.visual = TextureVisuals(material=material)
        mesh.vertex_normals  # noqa: B018  written only when they are there
        scene.add_geometry(mesh, node_name=name, geom_name=name)
    path.write_bytes(scene.export(file_type="glb"))  # type: ignore[arg-type]


def load_result(folder: Path) -> tuple[dict[str, Any], dict[str, ndarray]]:
    """``result.json`` and the arrays of ``result.npz`` of a finished item.

    Raises:
        FileNotFoundError: the item is not finished. ValueError: a file is damaged.
    """
    table = json.loads((folder / "result.json").read_text())
    with np.load(folder / "result.npz", allow_pickle=False) as file:
        return table, {name: file[name] for name in file.files}


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears under ``path`` only when the block ends without an error; an old one is replaced then.

    Several processes, on several machines, may make the same folder: the last one to end wins, and no mixture is seen.
    """
    partial = _partial(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        while not _moved(partial, path):
            old = _partial(path, "old-")
            with suppress(FileNotFoundError):  # another process was faster to move it away
                path.rename(old)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _moved(partial: Path, path: Path) -> bool:
    """Renames a folder; False where there is one already."""
    try:
        partial.rename(path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) and path.exists():
            return False
        if isinstance(error, PermissionError) and path.exists():  # Windows
            return False
        raise
    return True


def _partial(path: Path, mark: str = "") -> Path:
    """The name under which this process writes what will be at ``path``."""
    return path.with_name(f"{_PREFIX}{signature()}-{mark}{path.name}")


def clean_leftovers(folder: Path, dead: Collection[str] = ()) -> int:
    """Removes what killed runs left half written in a folder; returns how many there were.

    Of another machine's, which may still be at work, only what was not touched for an hour.

    Args:
        dead: Processes (``processes.signature``) that are known to be dead or dying, on whatever machine: the system
            still lists a killed process while it takes its memory back.
    """
    found = [path for path in folder.glob(f"{_PREFIX}*") if _writer(path) in dead or not _alive(path)]
    for path in found:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return len(found)


def _writer(path: Path) -> str:
    return path.name[len(_PREFIX) :].split("-")[0]


def _alive(path: Path) -> bool:
    """Whether the process that writes it still runs (another run into the same folder)."""
    number, _, host = _writer(path).partition("@")
    if host and host != machine():
        return _touched(path) > time.time() - _FORGOTTEN
    if not number.isdigit() or int(number) == os.getpid():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return not _ended(int(number))


def _ended(process: int) -> bool:
    """Whether a process has ended and its parent has not asked how yet; False where the system does not say."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except (OSError, IndexError):
        return False


def _touched(path: Path) -> float:
    """When a file, or a folder or a file in it, was last written, seconds since 1970; 0 for what has just gone."""
    try:
        inside = list(path.iterdir()) if path.is_dir() else []
        return max(each.stat().st_mtime for each in (path, *inside))
    except OSError:
        return 0.0


def write_text(path: Path, text: str) -> None:
    """:func:`write_bytes` of a text in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file under a temporary name and renames it: readers see the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_arrays(path: Path, arrays: Mapping[str, ndarray]) -> None:
    """:func:`write_bytes` of a compressed npz file."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    write_bytes(path, stream.getvalue())


def write_json(path: Path, table: Mapping[str, Any]) -> None:
    """:func:`write_text` of a table; numbers that are not finite become null (JSON has none)."""
    write_text(path, json.dumps(_plain(table), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)


def disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one it came from, says that the disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False
