"""What is written of a refined image, and the summary of a run."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import io
import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from horefine import __version__
from horefine.data.mirror import mirror_pose
from horefine.draw import HAND_COLOR, OBJECT_COLOR, Surface, compare, loss_chart
from horefine.export import Result, write_json, write_result, write_text
from horefine.geometry import axis_angle_to_matrix
from horefine.hand import HandModel
from horefine.items import Item, to_numpy
from horefine.metrics import equivalents, interaction, symmetric_object_error
from horefine.refined import Refinement
from horefine.scene import FACTORS, Pose
from horefine.surface_files import draw_surfaces, write_surfaces

__all__ = ["COLUMNS", "Outcome", "assemble", "row_of", "versions", "write_item", "write_summary"]

COLUMNS = (
    "name", "status", "reason", "error_code", "error", "seconds", "best_step",
    "hand_error_start_mm", "hand_error_mm", "object_error_start_mm", "object_error_mm",
    "penetration_start_mm", "penetration_mm", "contact_regions_start", "contact_regions", "object", "side", "camera",
    "notes",
)  # fmt: skip
"""Of ``summary.csv``."""
_HAND_DEPTHS = (0.15, 3.0)
_LEAST_SEEN = 0.01
_PNG: dict[str, Any] = {"compress_level": 4}
"""Half the time of the usual level 6 for a file 3 % larger."""
_FLIP = np.diag([-1.0, 1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Outcome:
    """How one image ended."""

    name: str
    status: str
    """improved, unchanged, rejected (refined now); skipped (finished before, ``row`` says how); failed."""
    error_code: str | None = None
    """Of a failed one: input, asset, config, internal, or worker (its processes died: ``horefine.distribute``)."""
    error: str | None = None
    row: Mapping[str, Any] = field(default_factory=dict)
    """Its line of the summary."""

    def packed(self) -> Outcome:
        """The same in a third of the memory, for keeping very many."""
        return dataclasses.replace(self, row=_Packed(self.row))


class _Packed(Mapping[str, Any]):
    """A line of the summary as JSON, unpacked when it is looked at."""

    __slots__ = ("text",)

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.text = json.dumps(dict(row), separators=(",", ":")).encode()

    def whole(self) -> dict[str, Any]:
        """All of it at once."""
        return json.loads(self.text)

    def __getitem__(self, key: str) -> Any:
        return self.whole()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.whole())

    def __len__(self) -> int:
        return len(self.whole())


def assemble(item: Item, refinement: Refinement, row: int, model: HandModel, about: Mapping[str, Any]) -> Result:
    """The result of one image of a batch, mirrored back for a left hand."""
    pose, initial = refinement.pose[row].to("cpu"), refinement.initial[row].to("cpu")
    posed, before = _posed(pose, item, model), _posed(initial, item, model)
    assert item.sample.mesh is not None
    vertices, faces = item.sample.mesh.trimmed()
    hand_faces = to_numpy(model.faces)
    assert item.box is not None
    notes = [*item.sample.notes, *item.notes, *_unseen(item), *_doubts(posed["hand_joints"])]
    return Result(
        name=item.name,
        side=item.sample.side,
        pose=_numbers(mirror_pose(pose) if item.left else pose),
        initial=_numbers(mirror_pose(initial) if item.left else initial),
        status=refinement.status[row],
        reason=refinement.reason[row],
        hand_vertices=posed["hand_vertices"],
        hand_joints=posed["hand_joints"],
        hand_faces=hand_faces[:, [0, 2, 1]] if item.left else hand_faces,
        object_vertices=posed["object_vertices"][: len(vertices)],
        object_faces=to_numpy(faces),
        initial_hand_vertices=before["hand_vertices"],
        initial_object_vertices=before["object_vertices"][: len(vertices)],
        object_matrix=posed["object_matrix"],
        wrist_matrix=posed["wrist_matrix"],
        matrix=_refined_matrix(item, pose),
        image_size=item.sample.camera.size,
        crop=item.box,
        history={name: to_numpy(values[:, row]) for name, values in refinement.history.items()},
        best_step=int(refinement.best_step[row]),
        surfaces=item.surfaces,
        about={
            **about,
            "camera": {**about.get("camera", {}), **_given_camera(item, pose)},
            "notes": notes,
            "errors": _errors(item, pose, initial, model),
            **_sigmas(refinement, row),
            "interaction": {"start": _touch(before, item, model), "end": _touch(posed, item, model)},
            "seconds": _rounded(item.seconds),
        },
    )


def _posed(pose: Pose, item: Item, model: HandModel) -> dict[str, np.ndarray]:
    """Meshes, joints and matrices of a pose (a right hand's) in the photograph's frame."""
    mesh = item.mesh()
    with torch.no_grad():
        hand = model(pose.hand_rotvec, pose.hand_shape, pose.hand_transl)
        held = pose.place(mesh.vertices)
        turned = pose.sized(axis_angle_to_matrix(pose.object_rotvec))
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = to_numpy(turned[0]), to_numpy(pose.object_transl[0])
    wrist = to_numpy(hand.transforms[0, 0]).astype(np.float64)
    found = {
        "hand_vertices": to_numpy(hand.vertices[0]),
        "hand_joints": to_numpy(hand.joints[0]),
        "object_vertices": to_numpy(held[0]),
        "object_matrix": matrix,
        "wrist_matrix": wrist,
    }
    if not item.left:
        return found
    return {k: _FLIP @ v @ _FLIP if k.endswith("matrix") else v * [-1, 1, 1] for k, v in found.items()}


def _numbers(pose: Pose) -> dict[str, np.ndarray]:
    return {name: to_numpy(value[0]) for name, value in pose.items()}


def _errors(item: Item, pose: Pose, initial: Pose, model: HandModel) -> dict[str, float] | None:
    """Mean distance of hand and object vertices from the truth, before and after, mm; None when it is not known."""
    truth = item.sample.truth
    if truth is None:
        return None
    truth = mirror_pose(truth) if item.left else truth
    wanted, found = _posed(truth, item, model), {}
    for suffix, guess in (("_start_mm", initial), ("_mm", pose)):
        posed = _posed(guess, item, model)
        for part in ("hand", "object"):
            away = np.linalg.norm(posed[f"{part}_vertices"] - wanted[f"{part}_vertices"], axis=1)
            found[f"{part}_error{suffix}"] = round(float(away.mean()) * 1000, 3)
        if item.mesh().symmetries is not None:  # any symmetric pose is right
            error = symmetric_object_error(guess.place(item.mesh().vertices), equivalents(item.mesh(), truth))
            found[f"object_error{suffix}"] = round(float(error[0]), 3)
    return found


def _refined_matrix(item: Item, pose: Pose) -> np.ndarray:
    """The intrinsics that show the result where it belongs: the given ones, or those with the focal length found."""
    matrix = to_numpy(item.sample.camera.matrix[0]).astype(np.float64)
    if pose.focal_factor is not None:
        matrix[[0, 1], [0, 1]] *= float(pose.focal_factor[0])
    return matrix


def _given_camera(item: Item, pose: Pose) -> dict[str, Any]:
    """What to say of the camera where its focal length was refined too."""
    return {} if pose.focal_factor is None else {"given_matrix": to_numpy(item.sample.camera.matrix[0]).tolist()}


def _sigmas(refinement: Refinement, row: int) -> dict[str, Any]:
    """How sure the result is (``curvature.Sigmas``): ``sigma_mm``, None where the recipe says nothing of it, and
    ``sigma`` for the factors that were variables."""
    if refinement.sigma is None or not bool(refinement.sigma.joints[row].isfinite().all()):
        return {"sigma_mm": None}
    numbers = {f.name: getattr(refinement.sigma, f.name) for f in dataclasses.fields(refinement.sigma)}
    found = {name: to_numpy(value[row]).astype(float) for name, value in numbers.items() if value is not None}
    factors = {name: np.round(found.pop(name), 5).tolist() for name in FACTORS.values() if name in found}
    lengths = {name: np.round(value * 1000, 2).tolist() for name, value in found.items()}
    return {"sigma_mm": lengths, **({"sigma": factors} if factors else {})}


def _touch(posed: Mapping[str, np.ndarray], item: Item, model: HandModel) -> dict[str, float]:
    """Penetration depth and volume, hand regions in contact, gap (``metrics.interaction``); no truth is needed."""
    flip = torch.tensor([-1.0 if item.left else 1.0, 1.0, 1.0])  # a right hand again, as the faces are
    hand, held = (
        torch.tensor(posed[f"{part}_vertices"], dtype=torch.float32)[None] * flip for part in ("hand", "object")
    )
    found = interaction(hand, model.faces, model.regions, held, item.mesh())
    return {name: round(float(value), 3) for name, value in found.items()}


def _unseen(item: Item) -> list[str]:
    """Parts that the maps hardly show: a pose found from so little means nothing."""
    said = []
    for part in ("hand", "object"):
        mask = getattr(item.features, f"{part}_mask")
        if mask is not None and float(mask.mean()) < _LEAST_SEEN:
            said.append(
                f"hardly any {part} is seen in the crop ({float(mask.mean()):.1%} of it): do not trust the result"
            )
    return said


def _doubts(joints: np.ndarray) -> list[str]:
    """Sizes and distances that no photograph of a hand has."""
    depth = float(joints[0, 2])
    chain = joints[[0, 9, 10, 11, 12]]  # wrist to the tip of the middle finger
    length = float(np.linalg.norm(np.diff(chain, axis=0), axis=1).sum())
    said = []
    if not _HAND_DEPTHS[0] <= depth <= _HAND_DEPTHS[1]:
        said.append(f"the hand is {depth:.2f} m from the camera: check the intrinsics")
    if not 0.14 <= length <= 0.24:
        said.append(f"the hand is {length * 100:.0f} cm long: check intrinsics and the object's unit")
    return said


def write_item(folder: Path, result: Result, photo: np.ndarray, *, pictures: bool = True) -> None:
    """All files of one item; ``photo`` is "H W 3", 0 to 1. ``result.json`` comes last."""
    if pictures:
        start = time.perf_counter()
        hand, held = result.hand_faces, result.object_faces
        before = (
            Surface(result.initial_hand_vertices, hand, HAND_COLOR),
            Surface(result.initial_object_vertices, held, OBJECT_COLOR),
        )
        after = Surface(result.hand_vertices, hand, HAND_COLOR), Surface(result.object_vertices, held, OBJECT_COLOR)
        title = f"{result.name}: {result.status}"
        longer = (np.asarray(pose.get("focal_factor", 1.0)) for pose in (result.initial, result.pose))
        stretch = float(next(longer) / next(longer))
        compare(photo, result.matrix, before, after, title=title, stretch=stretch).save(folder / "overlay.png", **_PNG)
        loss_chart(result.history, result.best_step).save(folder / "loss.png", **_PNG)
        if result.surfaces:
            name = folder / "surfaces.png"
            draw_surfaces(name, result.surfaces, photo, result.matrix, title=f"{result.name}: surfaces")
        seconds = {**result.about.get("seconds", {}), "draw": round(time.perf_counter() - start, 4)}
        result = dataclasses.replace(result, about={**result.about, "seconds": seconds})
    write_surfaces(folder, result.surfaces)
    write_result(folder, result)


def row_of(table: Mapping[str, Any]) -> dict[str, Any]:
    """The summary's line of a finished item, from its ``result.json``."""
    errors, touch = table.get("errors") or {}, table.get("interaction") or {}
    start, end = touch.get("start", {}), touch.get("end", {})
    return {
        "name": table["name"],
        "status": table["status"],
        "reason": table["reason"],
        "seconds": round(sum((table.get("seconds") or {}).values()), 3),
        "best_step": table.get("best_step"),
        **errors,
        "penetration_start_mm": start.get("pd_mm"),
        "penetration_mm": end.get("pd_mm"),
        "contact_regions_start": start.get("contact_regions"),
        "contact_regions": end.get("contact_regions"),
        "object": table.get("object"),
        "side": table.get("side"),
        "camera": table.get("camera", {}).get("source"),
        "notes": "; ".join(table.get("notes") or ()),
    }


def write_summary(out: Path, outcomes: Sequence[Outcome], about: Mapping[str, Any]) -> None:
    """``summary.csv`` (a line for each item) and ``summary.json`` (the same, with counts and how the run was made)."""
    rows = [
        {"name": o.name, "status": o.status, "error_code": o.error_code, "error": o.error}
        | (o.row.whole() if isinstance(o.row, _Packed) else dict(o.row))
        for o in outcomes
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([row.get(column, "") for column in COLUMNS] for row in rows)  # None is written as nothing
    write_text(out / "summary.csv", text.getvalue())
    counts = Counter(str(row["status"]) for row in rows)
    medians = {
        key: _median([row.get(key) for row in rows])
        for key in ("seconds", "hand_error_start_mm", "hand_error_mm", "object_error_start_mm", "object_error_mm")
    }
    skipped = sum(o.status == "skipped" for o in outcomes)
    table = {
        **about,
        "counts": dict(counts),
        "skipped": skipped,
        "medians": medians,
        "versions": versions(),
        "items": rows,
    }
    write_json(out / "summary.json", table)


def _median(values: Sequence[Any]) -> float | None:
    numbers = [float(value) for value in values if isinstance(value, (int, float)) and math.isfinite(value)]
    return round(float(np.median(numbers)), 3) if numbers else None


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {stage: round(value, 4) for stage, value in seconds.items()}


def versions() -> dict[str, str]:
    """Of this package and of those that decide numbers."""
    return dict(_versions())


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    """Looked up once: what is installed is said in files that take milliseconds to read."""
    found = {"horefine": __version__}
    for name in ("torch", "numpy", "numba", "trimesh"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return tuple(found.items())
