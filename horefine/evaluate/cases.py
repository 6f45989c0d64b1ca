"""What is evaluated against: the true pose, object and camera of every item, from a folder or a dataset."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.data import Dataset, Sample
from horefine.data.bank import hand_digest
from horefine.data.folder import FolderDataset, FolderOptions, find_object, load_object
from horefine.data.mirror import mirror_mesh, mirror_pose
from horefine.data.opened import open_named
from horefine.data.pictures import PICTURE_SUFFIXES
from horefine.errors import AssetError, ConfigError, InputError
from horefine.exchange import read_pose
from horefine.geometry import Camera, matrix_to_axis_angle
from horefine.hand import HandModel
from horefine.mesh import Mesh
from horefine.scene import Pose

__all__ = ["Case", "View", "batches", "cases_from", "check_truth_hand", "sequence_of", "stack", "truth_folder"]

_READERS = 4
"""Threads that read."""
View = tuple[Camera, Tensor | None]
"""An image's camera (B = 1) and the depth map "H W" of its scene, metres, where there is one."""


class _Sidecars(FolderDataset):
    """A folder's samples without pictures and cameras: errors of poses need neither, and they take longest to read."""

    def __getitem__(self, index: int) -> Sample:
        """What is known of a photograph; its picture and camera are one grey pixel."""
        file, name = self.files[index], self.names[index]
        settings = self._settings(file)
        truth = settings.get("truth")
        return Sample(
            name=name,
            image=torch.full((3, 1, 1), 0.5),
            camera=Camera(torch.eye(3)[None], (1, 1)),
            mesh=self._mesh(settings, name)[0],
            side=self._side(settings)[0],
            truth=None if truth is None else read_pose(truth.folder / str(truth.value)).pose,
        )


@dataclass(frozen=True)
class Case:
    """One item with its truth, as a right hand's: a left one is in the mirror, its object too."""

    name: str
    side: str = "right"
    pose: Pose | None = None
    """None where the truth is not known; ``problem`` says why."""
    mesh: Mesh | None = None
    maps: Path | None = None
    """File with the masks of what is visible."""
    view: Callable[[], View] | None = None
    """Reads the image's camera and depth map, as they are (not mirrored)."""
    problem: str | None = None
    object_only: bool = False
    """Whether only the object is annotated: the hand of ``pose`` is NaN, and no hand is measured."""

    @property
    def object(self) -> str:
        return "unknown" if self.mesh is None else self.mesh.name[0]

    @property
    def left(self) -> bool:
        """Whether pose and object are in the mirror; an object without a hand never is."""
        return self.side == "left" and not self.object_only


def cases_from(
    truth: Path | None = None,
    *,
    dataset: str | None = None,
    root: Path | None = None,
    split: str | None = None,
    usual: Mapping[str, Any] | None = None,
    only: frozenset[str] | None = None,
    object_name: str | None = None,
    object_unit: str | None = None,
    limit: int | None = None,
    views: bool = False,
) -> list[Case]:
    """The items of a folder (``truth``) or of a dataset by name, in its order.

    ``truth`` is a folder of photographs with sidecars (or one that ``horefine synthesize`` made), or a folder of pose
    files alone, whose object ``object_name`` says. Of a dataset (``data.opened``) ``only`` these names are read, and no
    pictures; ``usual``: options of its class where it has them; ``views``: with cameras and depth maps, read when they
    are asked for.

    Raises:
        ConfigError: no such folder or dataset, or one without truth; ``views`` of a folder.
        AssetError: the object is not there.
    """
    if dataset is not None:
        source = open_named(dataset, root, split, {"pictures": views, **(usual or {})})
        places = (range(len(source)) if only is None else source.find(only))[:limit]
        found = [*_samples(source, places)]
        if views:
            found = [replace(case, view=partial(_view, source, k)) for case, k in zip(found, places, strict=True)]
        return _with_truth(found, f"--dataset {dataset}")
    if views:
        raise ConfigError("BOP's errors are of a dataset's images, with camera and depth: give --dataset NAME")
    if truth is None:
        raise ConfigError("what is true? Give --truth FOLDER, or --dataset NAME --root DIR")
    folder = truth_folder(truth)
    if any(file.suffix.lower() in PICTURE_SUFFIXES for file in folder.iterdir()):
        photographs = _Sidecars(folder, FolderOptions(object_name, object_unit))
        return _with_truth([*_samples(photographs, range(len(photographs))[:limit])], f"--truth {truth}")
    return _from_poses(folder, object_name, object_unit, limit)


def truth_folder(path: Path) -> Path:
    """The folder of images in what ``horefine synthesize`` made, or the folder itself.

    Raises:
        ConfigError: there is none.
    """
    if not path.is_dir():
        raise ConfigError(f"--truth {path}: no such folder")
    return path / "images" if (path / "images").is_dir() else path


def check_truth_hand(truth: Path, hand: HandModel) -> None:
    """Whether synthetic scenes were made with this hand: poses of one hand model mean nothing to another.

    Raises:
        ConfigError: they were not.
    """
    folder = truth_folder(truth)
    manifest = (folder.parent if folder.name == "images" else folder) / "manifest.json"
    if not manifest.is_file():
        return
    made = json.loads(manifest.read_text()).get("hand")
    if made is not None and made != hand_digest(hand):
        raise ConfigError(
            f"--truth {truth}: was made with another hand model than {hand.name!r}: "
            "give --hand embedded or --hand mano with --mano-dir, whichever synthesize had"
        )


def _samples(source: Dataset, places: Sequence[int]) -> Iterator[Case]:
    """Cases in order; where pictures are decoded, which takes longest, several threads do."""
    names: Sequence[str] | None = getattr(source, "names", None)
    mirrored: dict[int, tuple[Mesh, Mesh]] = {}
    files: Sequence[Path] | None = getattr(source, "files", None)

    def case(index: int) -> Case:
        try:
            sample = source[index]
        except (InputError, AssetError, OSError) as error:
            return Case(f"{index:06d}" if names is None else names[index], problem=f"the truth cannot be read: {error}")
        return _case(sample, mirrored, None if files is None else files[index])

    if isinstance(source, _Sidecars):
        yield from map(case, places)
        return
    with ThreadPoolExecutor(_READERS) as pool:
        yield from pool.map(case, places)


def _view(source: Dataset, index: int) -> View:
    sample = source[index]
    return sample.camera, sample.depth


def _case(sample: Sample, mirrored: dict[int, tuple[Mesh, Mesh]], file: Path | None) -> Case:
    mesh, pose = sample.mesh, sample.truth
    if mesh is not None and pose is None and sample.object_truth is not None:
        return Case(sample.name, sample.side, _object_pose(sample.object_truth), mesh, object_only=True)
    missing = "no object" if mesh is None else "no true pose" if pose is None else None
    if missing or mesh is None or pose is None:
        return Case(sample.name, sample.side, problem=f"the dataset has {missing} for it")
    if sample.side == "left":
        if id(mesh) not in mirrored:
            mirrored[id(mesh)] = mesh, mirror_mesh(mesh)  # kept with its source: ids are used again
        mesh = mirrored[id(mesh)][1]
        pose = mirror_pose(pose)
    maps = None if file is None else file.parent.parent / "maps" / f"{file.stem}.npz"
    return Case(sample.name, sample.side, pose, mesh, maps if maps is not None and maps.is_file() else None)


def _object_pose(matrix: Float[Tensor, "4 4"]) -> Pose:
    """The pose of an object whose hand nobody knows: NaN, so that no number can come of it."""
    rotvec, shape, transl = (torch.full((1, *size), torch.nan) for size in ((16, 3), (10,), (3,)))
    return Pose(rotvec, shape, transl, matrix_to_axis_angle(matrix[None, :3, :3]), matrix[None, :3, 3])


def _with_truth(cases: list[Case], where: str) -> list[Case]:
    if not any(case.pose is not None for case in cases):
        why = next((case.problem for case in cases if case.problem), "it is empty")
        raise ConfigError(f"{where}: no item has a truth ({why}); sidecars name it: 'truth' (docs/input.md)")
    return cases


def _from_poses(folder: Path, object_name: str | None, unit: str | None, limit: int | None) -> list[Case]:
    """A folder of pose files alone."""
    files = sorted(f for f in folder.iterdir() if f.suffix in (".npz", ".json") and not f.name.startswith("."))
    if not files:
        raise ConfigError(f"--truth {folder}: neither photographs nor pose files (NAME.npz, NAME.json) are there")
    if object_name is None:
        raise ConfigError(f"--truth {folder}: holds poses only; which object is it? Give --object")
    mesh = load_object(find_object(object_name, Path.cwd(), "--object"), unit or "auto")[0]
    cases, turned = [], mirror_mesh(mesh)
    for file in files[:limit]:
        try:
            found = read_pose(file)
        except InputError as error:
            cases.append(Case(file.stem, problem=f"the truth cannot be read: {error}"))
            continue
        left = found.side == "left"
        pose = mirror_pose(found.pose) if left else found.pose
        cases.append(Case(file.stem, "left" if left else "right", pose, turned if left else mesh))
    return _with_truth(cases, f"--truth {folder}")


def sequence_of(name: str) -> str:
    """The sequence in an item's name: its folder, or what stands before the number at its end.

    >>> sequence_of("SM1/0004"), sequence_of("MPM10_0021"), sequence_of("mug")
    ('SM1', 'MPM10', 'mug')
    """
    if "/" in name:
        return name.rpartition("/")[0]
    return re.sub(r"[-_. ]*\d+$", "", name) or name


def batches(cases: Sequence[Case], size: int = 50) -> Iterator[list[int]]:
    """Places of the cases in groups of one object, at most ``size`` each: they make one batch without padding. Cases
    without a hand are by themselves."""
    groups: dict[tuple[int, bool], list[int]] = {}
    for place, case in enumerate(cases):
        if case.pose is not None and case.mesh is not None:
            groups.setdefault((id(case.mesh), case.object_only), []).append(place)
    for places in groups.values():
        yield from (places[first : first + size] for first in range(0, len(places), size))


def stack(cases: Sequence[Case]) -> tuple[Pose, Mesh]:
    """The truths of cases with one object as one batch."""
    mesh = cases[0].mesh
    assert mesh is not None
    rows = torch.zeros(len(cases), dtype=torch.long)
    return Pose.cat([case.pose for case in cases if case.pose is not None]), mesh[rows]
