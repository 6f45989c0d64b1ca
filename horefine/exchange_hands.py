"""Hands of HaMeR (Pavlakos et al. 2024) and WiLoR (Potamias et al. 2025), in and out, and the camera they belong to.

Both predict a right hand in MANO's parameters relative to the flat hand, as rotation matrices; a left hand is found in
the flipped picture, and what is predicted is the right hand in that mirror. WiLoR-mini gives axis-angle instead, and
has turned a left hand's back already. The translation of all three (``pred_cam_t_full``) is in the picture as it is,
for a focal length of their own (5000 / 256 times the longer side unless told otherwise): depth is as wrong as that
focal length. :func:`refocused` finds the pose for the true camera.

What is read and written here are tables under the house's names, as ``--init`` files have them (``docs/input.md``):
metres, radians, OpenCV camera, a left hand as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from horefine.errors import InputError
from horefine.geometry import Camera, axis_angle_to_matrix, matrix_to_axis_angle, mirror_rotvec
from horefine.hand import HandModel
from horefine.mano import load_restricted

__all__ = ["FRAME", "hamer_table", "hands_of", "meshregnet_place", "read_hands", "refocused"]

FRAME = "OpenCV camera (x right, y down, z forward), metres, radians"
_INNER = ("pred_mano_params", "wilor_preds", "mano_params")
_PLACES = ("pred_cam_t_full", "cam_t_full", "pred_cam_t", "cam_t")
_SIDES = ("right", "is_right")
_FLIP = np.array([-1.0, 1.0, 1.0])


def read_hands(path: Path) -> list[dict[str, Any]]:
    """The hands in a file of HaMeR's or WiLoR's dictionaries (json, npz, pkl, or pt saved by torch).

    A dictionary may hold several hands (its arrays' first axis), a file a list of dictionaries (WiLoR-mini).
    An npz names inner keys with a dot: ``pred_mano_params.global_orient``.

    Raises:
        InputError: it cannot be read, asks for more than numbers, or a key is missing or of another shape.
    """
    found = _open(path)
    tables = found if isinstance(found, list) else [found]
    if not all(isinstance(table, Mapping) for table in tables):
        raise InputError(f"{path.name}: holds a {type(found).__name__}; expected a dictionary, or a list of them")
    return [hand for table in tables for hand in hands_of(table, path.name)]


def _open(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        if path.suffix == ".json":
            return json.loads(path.read_text())
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return _nested({key: file[key] for key in file.files})
        if path.suffix in (".pt", ".pth"):
            return torch.load(path, map_location="cpu", weights_only=True)
        return load_restricted(path.read_bytes())
    except Exception as error:  # foreign files may raise anything
        raise InputError(f"{path.name}: cannot be read ({error}); save numpy arrays, not torch tensors") from None


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in flat.items():
        outer, dot, inner = key.partition(".")
        if dot:
            table.setdefault(outer, {})[inner] = value
        else:
            table[key] = value
    return table


def hands_of(table: Mapping[str, Any], where: str = "hands") -> list[dict[str, Any]]:
    """The hands of one dictionary, under the house's names; ``focal`` is what their translation is for, where stated.

    Raises:
        InputError: a key is missing, of another shape, or not finite.
    """
    flat = dict(table)
    for name in _INNER:
        if isinstance(table.get(name), Mapping):
            flat |= table[name]
    wrist, in_mirror = _rotations(flat, "global_orient", 1, where)
    fingers, also = _rotations(flat, "hand_pose", 15, where)
    if in_mirror != also:
        raise InputError(f"{where}: global_orient and hand_pose must both be matrices, or both axis-angle")
    count = len(wrist)
    betas = _rows(flat, ("betas",), 10, count, where)
    place = _rows(flat, _PLACES, 3, count, where)
    sides = _sides(flat, count, where)
    if len(fingers) != count:
        raise InputError(f"{where}: hand_pose is of {len(fingers)} hands, global_orient of {count}")
    focal = _focal(flat)
    hands = []
    for k, side in enumerate(sides):
        rotvec = torch.cat([wrist[k], fingers[k]])
        rotvec = mirror_rotvec(rotvec) if side == "left" and in_mirror else rotvec
        hand: dict[str, Any] = {"hand_rotvec": rotvec.numpy(), "hand_shape": betas[k], "hand_transl": place[k]}
        hand |= {"side": side, "frame": FRAME, "flat_hand_mean": True}
        if focal is not None:
            hand["focal"] = focal[min(k, len(focal) - 1)]
        hands.append(hand)
    return hands


def hamer_table(hand: Mapping[str, Any], camera: Camera | None = None) -> dict[str, Any]:
    """A hand under the house's names as HaMeR's dictionary of one hand: :func:`hands_of` gives it back.

    Args:
        camera: Of the picture (B = 1); its focal length is stated, as HaMeR states its own.
    """
    side = str(hand.get("side", "right"))
    rotvec = torch.as_tensor(np.asarray(hand["hand_rotvec"], np.float64).reshape(16, 3))
    matrices = axis_angle_to_matrix(mirror_rotvec(rotvec) if side == "left" else rotvec).numpy()
    table: dict[str, Any] = {
        "pred_mano_params": {
            "global_orient": matrices[None, :1], "hand_pose": matrices[None, 1:],
            "betas": np.asarray(hand["hand_shape"], np.float64).reshape(1, 10),
        },
        "pred_cam_t_full": np.asarray(hand["hand_transl"], np.float64).reshape(1, 3),
        "right": np.array([float(side == "right")]),
        "frame": f"{FRAME}; pred_mano_params are of a right hand: a left one (right = 0) is its mirror image in x",
    }  # fmt: skip
    if camera is not None:
        matrix = camera.matrix[0].double().numpy()
        height, width = camera.size
        table |= {"scaled_focal_length": float(matrix[0, 0]), "img_size": np.array([[width, height]]), "camera": matrix}
    return table


@torch.no_grad()
def refocused(hand: Mapping[str, Any], camera: Camera, model: HandModel, focal: float | None = None) -> dict[str, Any]:
    """The hand as the true camera sees it: ``hand_rotvec`` and ``hand_transl`` that show its joints where its own does.

    Its own camera has the focal length ``focal`` (default: the hand's ``focal``, else HaMeR's 5000 / 256 times the
    longer side) and looks at the picture's middle. The network saw a crop: how the hand is turned is relative to the
    ray to it, so it is turned with that ray. Then each joint ``X + t`` is to be on the ray of its pixel: two equations
    linear in t, solved together by least squares.
    """
    height, width = camera.size
    own = float(focal or hand.get("focal") or 5000 / 256 * max(height, width))
    seen = _joints(hand, model)
    pixels = seen[:, :2] / seen[:, 2:] * own + [(width - 1) / 2, (height - 1) / 2]
    matrix = camera.matrix[0].double().numpy()
    rays = (pixels - matrix[:2, 2]) / matrix.diagonal()[:2]
    turn = _between(seen.mean(0), np.array([*rays.mean(0), 1.0]))
    rotvec = torch.as_tensor(np.array(hand["hand_rotvec"], np.float64).reshape(16, 3)).clone()
    rotvec[0] = matrix_to_axis_angle(torch.from_numpy(turn) @ axis_angle_to_matrix(rotvec[0]))
    turned = {**hand, "hand_rotvec": rotvec.numpy(), "hand_transl": np.zeros(3)}
    joints = _joints(turned, model)
    columns = np.concatenate([np.tile(np.eye(2), (len(rays), 1)), -rays.reshape(-1, 1)], 1)
    wanted = (rays * joints[:, 2:] - joints[:, :2]).reshape(-1)
    place = np.linalg.lstsq(columns, wanted, rcond=None)[0]
    return {"hand_rotvec": turned["hand_rotvec"], "hand_transl": place}


def meshregnet_place(
    scale: Float[ndarray, "B"], shift: Float[ndarray, "B 2"], camera: Camera, offset: float = 0.4
) -> Float[ndarray, "B 3"]:
    """Where MeshRegNet (Hasson et al. 2020) puts a hand or object, from what its heads give: metres, camera frame.

    ``Z = f s + offset``, ``X, Y = (shift + size / 2 - centre) Z / f``, with the scale as the network uses it (its
    head's output times 1e-4) and the shift in pixels (times 100) of the picture of ``camera``.
    """
    matrix = camera.matrix.double().numpy()
    height, width = camera.size
    focal = matrix[:, 0, 0]
    depth = focal * np.asarray(scale, np.float64) + offset
    across = np.asarray(shift, np.float64) + np.array([width / 2, height / 2]) - matrix[:, :2, 2]
    return np.concatenate([across * (depth / focal)[:, None], depth[:, None]], 1)


def _joints(hand: Mapping[str, Any], model: HandModel) -> Float[ndarray, "21 3"]:
    """Of the hand as it is, metres, camera."""
    left = str(hand.get("side", "right")) == "left"
    rotvec = torch.as_tensor(np.asarray(hand["hand_rotvec"], np.float32).reshape(1, 16, 3))
    shape = torch.as_tensor(np.asarray(hand["hand_shape"], np.float32).reshape(1, 10))
    posed = model(mirror_rotvec(rotvec) if left else rotvec, shape, torch.zeros(1, 3)).joints[0].double().numpy()
    return posed * (_FLIP if left else 1.0) + np.asarray(hand["hand_transl"], np.float64)


def _between(start: Float[ndarray, "3"], end: Float[ndarray, "3"]) -> Float[ndarray, "3 3"]:
    """The smallest rotation that turns one direction into another."""
    a, b = start / np.linalg.norm(start), end / np.linalg.norm(end)
    axis, cosine = np.cross(a, b), float(a @ b)
    sine = float(np.linalg.norm(axis))
    angle = np.arctan2(sine, cosine)
    return axis_angle_to_matrix(torch.from_numpy(axis * (angle / sine if sine > 1e-12 else 1.0))).numpy()


# --- arrays ------------------------------------------------------------------------------------------------------


def _numbers(table: Mapping[str, Any], key: str, where: str) -> ndarray:
    if key not in table:
        raise InputError(f"{where}: {key} is missing; it holds {', '.join(sorted(map(str, table)))}")
    try:
        values = np.asarray(table[key], np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{where}: {key} is not an array of numbers") from None
    if not np.isfinite(values).all() or not values.size:
        raise InputError(f"{where}: {key} is empty or not finite")
    return values


def _rotations(
    table: Mapping[str, Any], key: str, joints: int, where: str
) -> tuple[Float[torch.Tensor, "B J 3"], bool]:
    """Axis-angle, and whether they were matrices (of the mirrored hand, where it is a left one)."""
    values = _numbers(table, key, where)
    if values.shape[-2:] == (3, 3) and values.size % (joints * 9) == 0:
        matrices = torch.from_numpy(values.reshape(-1, joints, 3, 3))
        if not torch.allclose(matrices @ matrices.mT, torch.eye(3, dtype=torch.float64), atol=1e-3):
            raise InputError(f"{where}: {key}: not rotation matrices")
        return matrix_to_axis_angle(matrices), True
    if values.size % (joints * 3) == 0 and values.shape[-1] in (3, joints * 3):
        return torch.from_numpy(values.reshape(-1, joints, 3)), False
    raise InputError(f"{where}: {key} has shape {values.shape}; expected (B, {joints}, 3, 3) or (B, {joints}, 3)")


def _rows(
    table: Mapping[str, Any], names: tuple[str, ...], width: int, count: int, where: str
) -> Float[ndarray, "B N"]:
    key = next((name for name in names if name in table), names[0])
    values = _numbers(table, key, where)
    if values.size != count * width:
        raise InputError(f"{where}: {key} has shape {values.shape}; expected {width} numbers for each of {count} hands")
    return values.reshape(count, width)


def _sides(table: Mapping[str, Any], count: int, where: str) -> list[str]:
    key = next((name for name in _SIDES if name in table), None)
    if key is None:
        return ["right"] * count
    values = _numbers(table, key, where).reshape(-1)
    if len(values) != count:
        raise InputError(f"{where}: {key} has {len(values)} values for {count} hands")
    return ["right" if value > 0.5 else "left" for value in values]


def _focal(table: Mapping[str, Any]) -> list[float] | None:
    for key in ("scaled_focal_length", "focal_length"):
        if key in table:
            return np.asarray(table[key], np.float64).reshape(-1).tolist() or None
    return None
