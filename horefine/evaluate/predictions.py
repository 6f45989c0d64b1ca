"""What is evaluated: poses from the output of ``horefine run``, or from a folder of files of any system."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from horefine.data.mirror import mirror_mesh, mirror_pose
from horefine.errors import ConfigError, InputError
from horefine.evaluate.cases import Case
from horefine.exchange import find_item, read_pose
from horefine.export import write_arrays
from horefine.hand import HandModel
from horefine.mesh import Mesh
from horefine.scene import Pose

__all__ = ["Output", "Prediction", "first_poses", "read_predictions", "stack_predictions"]

_SUFFIXES = (".npz", ".json")
_NO_ITEMS = ("summary.json", "manifest.json", "horefine.json")
_OURS = ("evaluation", "submission")
"""Folders that evaluation writes into a folder of poses."""
_FIELDS = tuple(field.name for field in dataclasses.fields(Pose))
_NEAR = 1e-4
"""Metres and radians: two files that differ by less say the same."""


@dataclass(frozen=True)
class Prediction:
    """The pose that a system gave of one item, as a right hand's."""

    name: str
    pose: Pose | None = None
    """None where there is none that can be used; ``problem`` says why."""
    mesh: Mesh | None = None
    """The object it was made with, where the file holds it and it is not the true one."""
    problem: str | None = None
    path: Path | None = None
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Joints that the file holds beside the pose."""


@dataclass(frozen=True)
class Output:
    """A folder of predictions."""

    folder: Path

    @cached_property
    def summary(self) -> Mapping[str, Any]:
        """How ``horefine run`` made it; empty for other systems' folders."""
        file = self.folder / "summary.json"
        try:
            table = json.loads(file.read_text()) if file.is_file() else {}
        except (ValueError, OSError) as error:
            raise ConfigError(f"{file}: cannot be read as JSON ({error}); run again, or remove it") from None
        return table if isinstance(table, Mapping) else {}

    @property
    def made_from(self) -> Path | None:
        """The images that a run was made from."""
        return Path(self.summary["input"]) if "input" in self.summary else None

    @property
    def dataset(self) -> Mapping[str, Any] | None:
        """The dataset that a run was made from: its name, root and options."""
        return self.summary.get("dataset")

    @property
    def hand(self) -> str | None:
        """The hand model of a run: ``embedded`` or ``mano``."""
        return self.summary.get("hand_model")

    @cached_property
    def asked(self) -> frozenset[str]:
        """The items of a run that came to its end (perhaps with ``--limit``); empty for others."""
        items = self.summary.get("items", ()) if self.summary.get("complete") else ()
        return frozenset(item["name"] for item in items)

    @cached_property
    def failed(self) -> Mapping[str, str]:
        """Items that the run could not do, and why."""
        items = self.summary.get("items", ())
        return {item["name"]: str(item.get("error")) for item in items if item.get("status") == "failed"}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of all items that lie there, in order."""
        items = self.folder / "items"
        if items.is_dir():
            return tuple(sorted(p.parent.relative_to(items).as_posix() for p in items.rglob("result.json")))
        found = (p for p in self.folder.rglob("*") if p.suffix in _SUFFIXES and p.name not in _NO_ITEMS)
        own = (p.relative_to(self.folder) for p in found if not p.name.startswith("."))
        kept = (p for p in own if p.parts[0] not in _OURS)
        return tuple(sorted({p.with_suffix("").as_posix().removesuffix("/result") for p in kept}))


def read_predictions(output: Output, cases: Sequence[Case], hand: HandModel) -> list[Prediction]:
    """A prediction for every case, in their order; those that are missing or unusable say why.

    Raises:
        ConfigError: the folder is not there, or holds nothing of these items.
    """
    if not output.folder.is_dir():
        raise ConfigError(f"{output.folder}: no such folder")
    known = {case.name for case in cases}
    if not known & set(output.names) and not known & set(output.failed):
        theirs, ours = (", ".join(sorted(names)[:3]) or "nothing" for names in (output.names, known))
        raise ConfigError(f"{output.folder}: holds no pose of these items: it names {theirs}; the truth names {ours}")
    return [_read(output, case, hand) for case in cases]


def first_poses(output: Output, folder: Path) -> Path:
    """Writes the poses that a run began with as ``NAME.npz`` into a folder, and returns it.

    Raises:
        ConfigError: these are no results of a run.
    """
    for name in output.names:
        file = output.folder / "items" / name / "result.npz"
        if not file.is_file():
            raise ConfigError(f"{output.folder}: is no run's output: {file} with its first pose is not there")
        with np.load(file, allow_pickle=False) as table:
            first = {key: table[f"initial_{key}"] for key in _FIELDS if f"initial_{key}" in table.files}
            write_arrays(folder / f"{name}.npz", {**first, "side": table["side"]})
    return folder


def _read(output: Output, case: Case, hand: HandModel) -> Prediction:
    name = case.name
    if name in output.failed:
        return Prediction(name, problem=f"the run failed on it: {output.failed[name]}")
    try:
        path = find_item(output.folder, name)
    except InputError:
        return Prediction(name, problem=f"missing: no {name}.npz, {name}.json or items/{name} in {output.folder}")
    mean = hand.mean_rotvec if hand.name == "mano" else None
    try:
        found = read_pose(path, mean)
        for twin in _twins(output.folder, name, path):
            _check_twin(found.pose, read_pose(twin, mean).pose, name, (path, twin))
    except InputError as error:
        return Prediction(name, problem=str(error), path=path)
    if found.side is not None and found.side != case.side and not case.object_only:
        said = f"the pose is of a {found.side} hand, the truth of a {case.side} one"
        return Prediction(name, problem=f"{said}: give the other side, or mirror it", path=path)
    pose = mirror_pose(found.pose) if case.left else found.pose
    return Prediction(name, pose, _own_mesh(path, case), None, path, _extra(path))


def _twins(folder: Path, name: str, path: Path) -> list[Path]:
    """Other files of the same name: another format beside it, or a result further down."""
    bases = (folder / name, folder / name / "result", folder / "items" / name / "result")
    own = path.with_suffix("")
    found = [base.with_name(base.name + suffix) for base in bases for suffix in _SUFFIXES if base != own]
    flat = [own.with_name(own.name + suffix) for suffix in _SUFFIXES if own.name != "result"]
    return [file for file in (*flat, *found) if file != path and file.is_file()]


def _check_twin(first: Pose, second: Pose, name: str, files: tuple[Path, Path]) -> None:
    """Whether two files of one name say the same.

    Raises:
        InputError: they do not.
    """
    far = max(float((getattr(first, key) - getattr(second, key)).abs().max()) for key in Pose.names)
    if far > _NEAR:
        said = " and ".join(file.name if file.stem != "result" else f"{name}/{file.name}" for file in files)
        raise InputError(f"duplicated: {said} say different poses; keep one of them")


def _own_mesh(path: Path, case: Case) -> Mesh | None:
    """The object of a run's result, where it has another number of vertices than the true one; in its own frame."""
    if path.name != "result.npz" or case.mesh is None:
        return None
    with np.load(path, allow_pickle=False) as file:
        if not {"object_vertices", "object_faces", "object_matrix"} <= set(file.files):
            return None
        faces, vertices = file["object_faces"], file["object_vertices"]
        if [len(vertices), len(faces)] == case.mesh.counts[0].tolist():
            return None
        matrix = file["object_matrix"]
    own = Mesh.from_arrays((vertices - matrix[:3, 3]) @ np.linalg.inv(matrix[:3, :3]).T, faces, name=case.object)
    return mirror_mesh(own) if case.left else own


def _extra(path: Path) -> dict[str, np.ndarray]:
    """Joints beside the pose, as they stand in the file."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            table = {key: file[key] for key in ("hand_joints",) if key in file.files}
    else:
        table = json.loads(path.read_text())
    value = table.get("hand_joints")
    return {} if value is None else {"hand_joints": np.asarray(value, np.float64)}


def stack_predictions(predictions: Sequence[Prediction]) -> Pose:
    """Their poses as one batch."""
    return Pose.cat([p.pose for p in predictions if p.pose is not None]).map(lambda value: value.to(torch.float32))
