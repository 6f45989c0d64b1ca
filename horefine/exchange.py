"""Poses and maps made by other systems: ``NAME.npz`` and ``NAME.json`` files under the names that are in use.

``docs/input.md`` describes the files. What is read is checked here, at the door: shapes, finite numbers, metres,
a hand in front of the camera.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from horefine.distance import DistanceGrid
from horefine.errors import InputError
from horefine.geometry import Camera, matrix_to_axis_angle
from horefine.hand import HandModel
from horefine.inverse_kinematics.table import pose_from_table
from horefine.mesh import Mesh
from horefine.overlap import LOADING
from horefine.scene import CONFIDENCES, FACTORS, Contact, Features, Pose

__all__ = ["ForeignPose", "find_item", "read_features", "read_pose"]

_MAPS = {
    "hand_mask": 0,
    "object_mask": 0,
    "hand_coords": 3,
    "object_coords": 3,
    "depth": 0,
    "measured_depth": 0,
    "image": 3,
} | dict.fromkeys(CONFIDENCES.values(), 0)
_HOUSE = {
    "shape": "hand_shape",
    "transl": "hand_transl",
    "object_rot": "object_rotvec",
    "object_transl": "object_transl",
}
_SMPLX = {"shape": "betas", "transl": "transl", "object_rot": "obj_rot", "object_transl": "obj_trans"}
_FARTHEST = 10.0
"""Metres; a translation beyond is in millimetres."""


@dataclass(frozen=True)
class ForeignPose:
    """A pose as it stands in a file."""

    pose: Pose
    """B = 1. Of a left hand as it is, not mirrored."""
    side: str | None
    """What the file says."""
    notes: tuple[str, ...] = ()
    """What there is to say of it."""


def find_item(folder: Path, name: str, suffixes: tuple[str, ...] = (".npz", ".json")) -> Path:
    """The file of an item: ``NAME.npz``, ``NAME.json``, or the result of an earlier run (``NAME/result.npz``).

    Raises:
        InputError: none of them is there.
    """
    bases = (folder / name, folder / name / "result", folder / "items" / name / "result")
    for base in bases:
        for suffix in suffixes:
            path = base.with_name(base.name + suffix)
            if path.is_file():
                return path
    raise InputError(f"{name}: no {' or '.join(name + s for s in suffixes)} in {folder}")


def read_pose(
    path: Path,
    mean_rotvec: Float[Tensor, "16 3"] | None = None,
    *,
    hand_model: HandModel | None = None,
    image_side: str = "right",
) -> ForeignPose:
    """A pose of one hand and its object, in the house's names or smplx's, or of 21 ``joints``.

    Args:
        mean_rotvec: MANO's mean pose, for files with ``flat_hand_mean`` false.
        hand_model: the hand that is fitted to joints; without it rotations are needed.
        image_side: whose joints they are when the file does not say.

    Raises:
        InputError: missing file or key, wrong shape, numbers that are not finite, millimetres, behind the camera;
            joints that show no hand of that side.
    """
    table = _read(path)
    where = path.name
    if "joints" in table and not {"hand_rotvec", "global_orient"} & set(table):
        return _from_joints(table, where, hand_model, image_side)
    if "hand_rotvec" in table:
        hand = _array(table, "hand_rotvec", (16, 3), where)
        names = _HOUSE
    else:
        wrist = _rotvec(_need(table, "global_orient", where), 1, f"{where}: global_orient")
        fingers = _rotvec(_need(table, "hand_pose", where), 15, f"{where}: hand_pose")
        hand = torch.cat([wrist, fingers])
        names = _SMPLX
    if "flat_hand_mean" in table and not bool(np.asarray(table["flat_hand_mean"])):
        if mean_rotvec is None:
            raise InputError(f"{where}: flat_hand_mean is false: MANO's mean pose is needed; give --mano-dir")
        hand = hand + mean_rotvec * (torch.arange(16) > 0)[:, None]
    if names["shape"] in table:
        shape = _array(table, names["shape"], (10,), where)
    else:
        shape = torch.zeros(10)
    rotation = _rotvec(_need(table, names["object_rot"], where), 1, f"{where}: {names['object_rot']}")[0]
    transl = _array(table, names["transl"], (3,), where)
    object_transl = _array(table, names["object_transl"], (3,), where)
    for key, value in ((names["transl"], transl), (names["object_transl"], object_transl)):
        _check_place(value, f"{where}: {key}")
    pose = Pose(hand[None], shape[None], transl[None], rotation[None], object_transl[None], **_factors(table, where))
    return ForeignPose(pose, _side(table, where))


def _side(table: Mapping[str, Any], where: str) -> str | None:
    side = str(np.asarray(table["side"])) if "side" in table else None
    if side not in (None, "right", "left"):
        raise InputError(f"{where}: side: {side!r}; known: right, left")
    return side


def _from_joints(table: Mapping[str, Any], where: str, hand_model: HandModel | None, image_side: str) -> ForeignPose:
    """The hand that shows the file's joints; its object, or a place for one between palm and fingertips."""
    if hand_model is None:
        raise InputError(f"{where}: holds joints; here rotations are needed: hand_rotvec, or global_orient + hand_pose")
    side = _side(table, where)
    pose, notes = pose_from_table(table, where, hand_model, side or image_side)
    _check_place(pose.hand_transl[0], f"{where}: joints: wrist")
    held = _held(table, where)
    if held is None:
        said = "the file says nothing of the object: it begins in the hand, unturned; only a recipe with align finds it"
        return ForeignPose(pose, side, (*notes, said))
    return ForeignPose(replace(pose, object_rotvec=held[0], object_transl=held[1]), side, notes)


def _held(table: Mapping[str, Any], where: str) -> tuple[Float[Tensor, "1 3"], Float[Tensor, "1 3"]] | None:
    """Rotation and translation of the object, in the house's names or smplx's; None when there is neither."""
    for names in (_HOUSE, _SMPLX):
        turn, place = names["object_rot"], names["object_transl"]
        if turn in table or place in table:
            rotation = _rotvec(_need(table, turn, where), 1, f"{where}: {turn}")
            transl = _array(table, place, (3,), where)
            _check_place(transl, f"{where}: {place}")
            return rotation, transl[None]
    return None


def _factors(table: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """The factors that an earlier run found, where it looked for them."""
    found = {name: _array(table, name, (1,), where) for name in FACTORS.values() if name in table}
    for name, value in found.items():
        if not 0.1 < float(value) < 10:
            raise InputError(f"{where}: {name}: {float(value):g}; a factor is about 1: leave it out if it is not known")
    return found


def read_features(path: Path, camera: Camera, mesh: Mesh, size: tuple[int, int]) -> Features:
    """The maps of one image, as they are (of a left hand: not mirrored).

    Args:
        camera: of the photograph (B = 1), for maps that give their crop as ``box``.
        mesh: the object (B = 1).
        size: height and width of the photograph in its file, whose pixels ``box`` is in.

    Raises:
        InputError: no camera, unknown or missing keys, maps of different sizes, numbers that are not finite.
    """
    table = _read(path)
    where = path.name
    maps = {name: _map(table[name], channels, f"{where}: {name}") for name, channels in _MAPS.items() if name in table}
    if not maps:
        raise InputError(f"{where}: no maps; known: {', '.join(_MAPS)}")
    sizes = {name: tuple(value.shape[-2:]) for name, value in maps.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{n} {s[0]}x{s[1]}" for n, s in sizes.items())
        raise InputError(f"{where}: the maps differ in size: {listed}; bring them to one size")
    for name, confidence in CONFIDENCES.items():
        if confidence in maps and name not in maps:
            raise InputError(
                f"{where}: {confidence} without {name}: there is nothing to trust; add the map, or leave it out"
            )
    for name in ("hand_mask", "object_mask", "image", *CONFIDENCES.values()):
        if name in maps and not 0 <= float(maps[name].min()) <= float(maps[name].max()) <= 1:
            raise InputError(f"{where}: {name} runs from {maps[name].min():g} to {maps[name].max():g}; expected 0 to 1")
    map_camera = _map_camera(table, next(iter(sizes.values())), camera, size, where)
    given: dict[str, Any] = dict(maps)
    given |= {name: _grid(table, name, where) for name in ("hand_sdf", "object_sdf") if f"{name}_values" in table}
    if "contact_probability" in table:
        given["contact"] = _contact(table, mesh, where)
    return Features(camera=map_camera, object=mesh, **given)


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        if path.suffix == ".npz":
            with LOADING, np.load(path, allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
        table = json.loads(path.read_text())
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path.name}: cannot be read ({error})") from None
    except Exception as error:  # zipfile.BadZipFile and friends: a damaged archive
        raise InputError(f"{path.name}: damaged ({error})") from None
    if not isinstance(table, Mapping):
        raise InputError(f"{path.name}: expected a table {{...}}, got a {type(table).__name__}")
    inner = table.get("pose")
    return {**table, **inner} if isinstance(inner, Mapping) else table


def _need(table: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in table:
        raise InputError(f"{where}: {key} is missing; it holds {', '.join(sorted(table)) or 'nothing'}")
    return table[key]


def _numbers(value: Any, where: str) -> np.ndarray:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{where}: not an array of numbers") from None
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise InputError(
            f"{where}: {bad} of {array.size} values are NaN or infinite; repair the source or leave it out"
        )
    return array


def _array(table: Mapping[str, Any], key: str, shape: tuple[int, ...], where: str) -> Tensor:
    array = _numbers(_need(table, key, where), f"{where}: {key}")
    if array.size != int(np.prod(shape)):
        raise InputError(f"{where}: {key} has shape {array.shape}; expected {shape}")
    return torch.tensor(array.reshape(shape), dtype=torch.float32)


def _rotvec(value: Any, count: int, where: str) -> Float[Tensor, "N 3"]:
    """``count`` rotations, given as axis-angle numbers or as matrices."""
    array = _numbers(value, where)
    if array.size == count * 3:
        return torch.tensor(array.reshape(count, 3), dtype=torch.float32)
    if array.size != count * 9:
        shapes = f"{count} x 3 axis-angle or {count} x 3 x 3 matrices"
        hint = " (PCA coefficients have to be decoded first)" if count == 15 else ""
        raise InputError(f"{where} has shape {array.shape}; expected {shapes}{hint}")
    matrix = torch.tensor(array.reshape(count, 3, 3))
    if not torch.allclose(matrix @ matrix.mT, torch.eye(3, dtype=matrix.dtype), atol=1e-3) or (matrix.det() < 0).any():
        raise InputError(f"{where}: not rotation matrices (R times its transpose is not 1, or it mirrors)")
    return matrix_to_axis_angle(matrix).to(torch.float32)


def _check_place(value: Tensor, where: str) -> None:
    x, y, z = value.tolist()
    numbers = f"({x:g}, {y:g}, {z:g})"
    if max(abs(x), abs(y), abs(z)) > _FARTHEST:
        raise InputError(f"{where}: {numbers} is more than {_FARTHEST:g} m away; millimetres? Give metres")
    if z <= 0:
        raise InputError(f"{where}: {numbers} is behind the camera; the frame is OpenCV's (x right, y down, z forward)")


def _map(value: Any, channels: int, where: str) -> Tensor:
    array = _numbers(value, where)
    if channels and array.ndim == 3 and array.shape[0] != channels and array.shape[-1] == channels:
        array = np.moveaxis(array, -1, 0)
    wanted = f"({channels}, H, W)" if channels else "(H, W)"
    if array.ndim != (3 if channels else 2) or (channels and array.shape[0] != channels) or min(array.shape) < 1:
        raise InputError(f"{where} has shape {array.shape}; expected {wanted}")
    return torch.tensor(array, dtype=torch.float32)[None]


def _map_camera(
    table: Mapping[str, Any], maps: tuple[int, ...], photo: Camera, size: tuple[int, int], where: str
) -> Camera:
    height, width = maps
    if "camera" in table:
        matrix = _array(table, "camera", (3, 3), where)
        centre_in = -width < float(matrix[0, 2]) < 2 * width and -height < float(matrix[1, 2]) < 2 * height
        if float(matrix[0, 0]) <= 0 or float(matrix[1, 1]) <= 0:
            raise InputError(f"{where}: camera: focal lengths must be positive; got {matrix.diagonal().tolist()[:2]}")
        if not centre_in and float(matrix[0, 0]) > 20 * width:
            raise InputError(f"{where}: camera: looks like the photo's; expected that of the {width}x{height} maps")
        return Camera(matrix[None], (height, width))
    if "box" not in table:
        raise InputError(
            f"{where}: give 'box' (the crop x0 y0 x1 y1 in the photo's pixels) or 'camera' (3x3, of the maps)"
        )
    box = _array(table, "box", (4,), where)
    if box[2] - box[0] < 1 or box[3] - box[1] < 1:
        raise InputError(f"{where}: box: {box.tolist()}: x1 and y1 must be larger than x0 and y0")
    x0, y0, x1, y1 = box.tolist()
    return photo.resized(size).cropped((x0, y0, x1, y1), (height, width))


def _grid(table: Mapping[str, Any], name: str, where: str) -> DistanceGrid:
    values = _numbers(table[f"{name}_values"], f"{where}: {name}_values")
    if values.ndim != 3 or len(set(values.shape)) > 1:
        raise InputError(f"{where}: {name}_values has shape {values.shape}; expected (D, D, D)")
    origin = _array(table, f"{name}_origin", (3,), where)
    spacing = _array(table, f"{name}_spacing", (1,), where)
    return DistanceGrid(torch.tensor(values, dtype=torch.float32)[None], origin[None], spacing)


def _contact(table: Mapping[str, Any], mesh: Mesh, where: str) -> Contact:
    count = int(mesh.counts[0, 0])
    probability = _numbers(table["contact_probability"], f"{where}: contact_probability")
    if probability.shape != (count,):
        raise InputError(f"{where}: contact_probability has shape {probability.shape}; the mesh has {count} vertices")
    region = _array(table, "contact_region", (count,), where).long()
    elasticity = _array(table, "contact_elasticity", (count, 4), where)
    return Contact(torch.tensor(probability, dtype=torch.float32)[None], region[None], elasticity[None])
