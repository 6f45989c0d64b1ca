"""Unit, frame and order mistakes, recognised from the numbers: what a pose would be if it were meant otherwise.

A pose that cannot be read as metres in OpenCV's camera is compared with the truth in other units and axes. A pose that
can be read but is far off is compared with the truth under each known misunderstanding (:data:`SUSPECTS`): where one of
them takes most of the error away, it is named. Nothing is corrected: only the maker can say what was meant.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from horefine.anatomy import JOINT_ORDERS, JOINTS
from horefine.data.mirror import mirror_pose
from horefine.distance import is_closed
from horefine.evaluate.cases import Case, batches, stack
from horefine.evaluate.frames import other_frames
from horefine.evaluate.predictions import Prediction, stack_predictions
from horefine.evaluate.suspects import SUSPECTS
from horefine.hand import HandModel
from horefine.mesh import Mesh
from horefine.scene import Pose

__all__ = ["Findings", "Mistake", "examine"]

FAR = {"hand": 40.0, "fingers": 10.0, "object": 25.0}
"""mm: smaller errors are nobody's misunderstanding."""
ALONE = 0.2
"""What may be left of a single item's error under a suspicion."""
SHARED = ((0.4, 0.8, 1), (0.65, 0.9, 10))
"""For one of all items: what may be left in the middle, the share that must be better, and of how many items."""
_READINGS: dict[str, tuple[tuple[float, float, float], str]] = {
    "in millimetres": ((1e-3, 1e-3, 1e-3), "divide them by 1000"),
    "in centimetres": ((1e-2, 1e-2, 1e-2), "divide them by 100"),
    "in OpenGL's camera (y up, z backwards)": ((1, -1, -1), "give OpenCV's: y' = -y, z' = -z, R' = diag(1, -1, -1) R"),
    "in millimetres and OpenGL's camera": ((1e-3, -1e-3, -1e-3), "divide by 1000, and turn y and z everywhere"),
}  # fmt: skip
_REACH = 0.3
"""Metres from the truth within which a reading of a position is believed."""
_SLIP = 0.005
"""Metres between the joints in a file and those of its pose, from which on the two disagree."""


@dataclass(frozen=True)
class Mistake:
    """One misunderstanding and the items that show it."""

    what: str
    remedy: str
    items: tuple[str, ...]

    def sentence(self, total: int) -> str:
        """In words; items are named unless all show it."""
        if len(self.items) == total > 1:
            return f"all {total} predictions: {self.what}; {self.remedy}"
        if len(self.items) > max(total / 2, 3):
            return f"{len(self.items)} of {total} predictions: {self.what}; {self.remedy}"
        few = ", ".join(self.items[:3]) + (", ..." if len(self.items) > 3 else "")
        return f"{len(self.items)} of {total} predictions ({few}): {self.what}; {self.remedy}"


@dataclass(frozen=True)
class Findings:
    """What was noticed before anything is measured."""

    failures: dict[str, str] = field(default_factory=dict)
    """Items that cannot be measured, and why."""
    mistakes: tuple[Mistake, ...] = ()
    open: dict[str, str] = field(default_factory=dict)
    """Items whose object encloses no volume: what touches it is not measured."""


def examine(cases: Sequence[Case], predictions: Sequence[Prediction], hand: HandModel) -> Findings:
    """Everything that can be said of predictions before they are measured; cases all have a truth."""
    failures: dict[str, str] = {}
    found: dict[tuple[str, str], list[str]] = {}
    open_meshes = _open_meshes(cases, predictions, failures)
    for case, prediction in zip(cases, predictions, strict=True):
        if prediction.problem is None or case.name in failures:
            continue
        reading = _misread(case, prediction)
        failures[case.name] = prediction.problem if reading is None else "; ".join(reading)
        if reading is not None:
            found.setdefault(reading, []).append(case.name)
    usable = [k for k, case in enumerate(cases) if case.name not in failures]
    kept = [cases[k] for k in usable], [predictions[k] for k in usable]
    suspected = _suspected(*kept, hand)
    named = {name for (what, _), names in suspected.items() if "object" in what for name in names}
    frames = other_frames(*kept)
    found |= suspected | _disordered(*kept, hand)
    found |= {said: names for said, names in frames.items() if not named & set(names)}
    mistakes = tuple(Mistake(what, remedy, tuple(names)) for (what, remedy), names in found.items())
    return Findings(failures, tuple(sorted(mistakes, key=lambda m: -len(m.items))), open_meshes)


# --- meshes ------------------------------------------------------------------------------------------------------


def _open_meshes(cases: Sequence[Case], predictions: Sequence[Prediction], failures: dict[str, str]) -> dict[str, str]:
    """Items whose object is not closed; those whose object is empty are added to ``failures``."""
    said: dict[int, tuple[bool, str]] = {}
    noted = {}
    for case, prediction in zip(cases, predictions, strict=True):
        mesh = prediction.mesh or case.mesh
        assert mesh is not None
        if id(mesh) not in said:  # one object is held in many items
            said[id(mesh)] = _state(mesh)
        empty, words = said[id(mesh)]
        if empty:
            failures[case.name] = words
        elif words:
            noted[case.name] = words
    return noted


def _state(mesh: Mesh) -> tuple[bool, str]:
    """Whether a mesh is empty, and what is wrong with it."""
    vertices, faces = mesh.trimmed()
    if not len(vertices) or not len(faces):
        counts = f"{len(vertices)} vertices, {len(faces)} faces"
        return True, f"the object {mesh.name[0]!r} is empty ({counts}): give its mesh"
    if is_closed(faces.cpu().numpy()):
        return False, ""
    return False, f"the object {mesh.name[0]!r} is not closed: penetration and volume are left out; fill its holes"


# --- positions that cannot be read -------------------------------------------------------------------------------


def _misread(case: Case, prediction: Prediction) -> tuple[str, str] | None:
    """In which unit or camera the positions of an unreadable pose file are near the truth: what, and the remedy."""
    if prediction.path is None or case.pose is None:
        return None
    try:
        given = _positions(prediction.path)
    except (ValueError, OSError, TypeError):
        return None
    truth = mirror_pose(case.pose) if case.left else case.pose
    wanted = {"hand": truth.hand_transl[0].double().numpy(), "object": truth.object_transl[0].double().numpy()}
    found = {part: _reading(place, wanted[part]) for part, place in given.items()}
    said = {part: reading for part, reading in found.items() if reading is not None}
    if not said:
        return None
    part, reading = next(iter(said.items()))
    whose = "positions are" if list(said.values()) == [reading] * 2 else f"the {part}'s position is"
    return f"{whose} {reading}", _READINGS[reading][1]


def _reading(place: Float[np.ndarray, "3"], wanted: Float[np.ndarray, "3"]) -> str | None:
    """How a position must be meant to be near the wanted one; None where it is near as it stands, or nothing helps."""
    away = {reading: np.linalg.norm(place * factors - wanted) for reading, (factors, _) in _READINGS.items()}
    best = min(away, key=lambda reading: away[reading])
    return best if away[best] < min(_REACH, float(np.linalg.norm(place - wanted))) else None


def _positions(path: Path) -> dict[str, np.ndarray]:
    """The translations of a pose file, as they are: only those that are three finite numbers."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            table = dict(file)
    else:
        table = json.loads(path.read_text())
        table = {**table, **table.get("pose", {})}
    keys = {"hand": ("hand_transl", "transl"), "object": ("object_transl", "obj_trans")}
    found = {}
    for part, names in keys.items():
        value = next((table[name] for name in names if name in table), None)
        place = np.asarray(value, np.float64).reshape(-1) if value is not None else np.zeros(0)
        if place.shape == (3,) and np.isfinite(place).all():
            found[part] = place
    return found


# --- poses that can be read but are far off ----------------------------------------------------------------------


def _suspected(
    cases: Sequence[Case], predictions: Sequence[Prediction], hand: HandModel
) -> dict[tuple[str, str], list[str]]:
    """What and remedy of each misunderstanding, and the items that show it."""
    before = {part: np.zeros(len(cases)) for part in FAR}
    after = np.full((len(SUSPECTS), len(cases)), np.nan)  # of items that are far off
    for places in map(np.asarray, batches(cases)):
        truth, mesh = stack([cases[k] for k in places])
        pose = stack_predictions([predictions[k] for k in places])
        for part, limit in FAR.items():
            true = _points(part, truth, mesh, hand)
            before[part][places] = _distance(_points(part, pose, mesh, hand), true)
            far = torch.from_numpy(np.flatnonzero(before[part][places] > limit))
            rows = [row for row, suspect in enumerate(SUSPECTS) if suspect.part == part and len(far)]
            for row in rows:
                meant = SUSPECTS[row].meant(pose[far], mesh[far], hand)
                after[row, places[far.numpy()]] = _distance(_points(part, meant, mesh[far], hand), true[far])
    found: dict[tuple[str, str], list[str]] = {}
    for part in FAR:
        rows = [row for row, suspect in enumerate(SUSPECTS) if suspect.part == part]
        known = np.flatnonzero(np.isfinite(before[part]))  # an object alone has no hand to be misread
        left = after[rows][:, known] / np.maximum(before[part][known], 1e-9)
        for row, items in _explained(left, before[part][known] > FAR[part], part != "fingers").items():
            suspect = SUSPECTS[rows[row]]
            found[suspect.what, suspect.remedy] = [cases[known[k]].name for k in items]
    return found


def _explained(left: Float[np.ndarray, "S N"], far: np.ndarray, singly: bool) -> dict[int, list[int]]:
    """Which suspicion explains which items: one for all where it explains most, else single items (``singly``)."""
    if not far.any():
        return {}
    of_all = np.median(left[:, far], axis=1)
    best = int(of_all.argmin())
    helped, count = (left[best, far] < 1).mean(), far.sum()
    if far.mean() > 0.5 and any(of_all[best] < rest and helped >= most and count >= n for rest, most, n in SHARED):
        return {best: np.flatnonzero((left[best] < 1) | ~far).tolist()}  # all that do not speak against it
    found: dict[int, list[int]] = {}
    for k in np.flatnonzero(far) if singly else ():
        if left[:, k].min() < ALONE:
            found.setdefault(int(left[:, k].argmin()), []).append(int(k))
    return found


@torch.no_grad()
def _points(part: str, pose: Pose, mesh: Mesh, hand: HandModel) -> Float[Tensor, "B N 3"]:
    """What an error is measured on: the hand's vertices; the joints in the wrist's own frame, that is how the fingers
    are bent wherever the hand is; the object's vertices."""
    if part == "object":
        return pose.place(mesh.vertices)
    posed = hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl)
    if part == "hand":
        return posed.vertices
    return (posed.joints - posed.joints[:, :1]) @ posed.transforms[:, 0, :3, :3]


def _distance(ours: Tensor, true: Tensor) -> np.ndarray:
    return ((ours - true).norm(dim=-1).mean(-1) * 1e3).double().cpu().numpy()


# --- joints beside the pose --------------------------------------------------------------------------------------


def _disordered(
    cases: Sequence[Case], predictions: Sequence[Prediction], hand: HandModel
) -> dict[tuple[str, str], list[str]]:
    """Files whose joints are not those of their pose, in this order and unit."""
    found: dict[tuple[str, str], list[str]] = {}
    for case, prediction in zip(cases, predictions, strict=True):
        joints, pose = prediction.extra.get("hand_joints"), prediction.pose
        if joints is None or pose is None or case.object_only:  # of which side such a hand is, nobody says
            continue
        with torch.no_grad():
            own = hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).joints[0].double().numpy()
        said = _order(joints, own * [-1, 1, 1] if case.left else own)
        if said is not None:
            found.setdefault(said, []).append(case.name)
    return found


def _order(joints: np.ndarray, own: Float[np.ndarray, "21 3"]) -> tuple[str, str] | None:
    """What the joints of a file are instead of those of its pose; None where they are the same."""
    wanted = "give them in the order " + ", ".join(JOINTS[:3]) + " ... or leave them out: errors are of the pose"
    if joints.shape != (21, 3) or not np.isfinite(joints).all():
        return f"hand_joints has shape {joints.shape}, or is not finite", wanted
    spread = np.linalg.norm(own - own.mean(0)) / max(np.linalg.norm(joints - joints.mean(0)), 1e-12)
    for factor, unit in ((1.0, ""), (1e-3, "in millimetres"), (1e-2, "in centimetres")):
        if not 0.5 < spread / factor < 2:
            continue
        distance = np.linalg.norm(joints[:, None] * factor - own[None], axis=-1)
        rows, places = linear_sum_assignment(distance)
        if np.diag(distance).mean() < _SLIP:
            return (f"hand_joints are {unit}", "give metres") if unit else None
        if distance[rows, places].mean() < _SLIP:
            names = tuple(JOINTS[k] for k in places)
            known = [order for order, listed in JOINT_ORDERS.items() if listed == names]
            order = f"in the order of {' or '.join(known)}" if known else f"in the order {', '.join(names[:6])} ..."
            return f"hand_joints are {order}{f' and {unit}' if unit else ''}", wanted
    return "hand_joints are not those of the pose", "they are not used; look which of the two is meant"
