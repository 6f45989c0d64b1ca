"""HO-3D, versions 2 and 3 (Hampali et al., CVPR 2020), as samples: ``docs/datasets.md`` has the folders it expects.

The evaluation part gives the hand's box and wrist with each image, and its object's pose; the hand is not annotated.
Its joints were published later: lay ``evaluation_xyz.json`` beside ``evaluation.txt`` and they are read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from horefine.data import Sample
from horefine.data.annotation import HandPose, pose_of
from horefine.data.given import GIVE, given_fields
from horefine.data.hand_truth import TruthHand
from horefine.data.ho3d_files import (
    Annotation,
    name_of,
    read_annotation,
    read_frames,
    read_ho3d_depth,
    split_named,
)
from horefine.data.ho3d_keep import KEEP
from horefine.data.ho3d_published import FILE, PublishedJoints
from horefine.data.index import Lazy, depth_at, given_names, no_picture, picture_at, place_of
from horefine.data.ycb import YcbModels
from horefine.errors import ConfigError, InputError, suggestion
from horefine.geometry import Camera, project
from horefine.mano import HandData
from horefine.mesh import Mesh
from horefine.scene import Pose

__all__ = ["HO3D"]

log = logging.getLogger(__name__)

SIZE = 480, 640
_PLACES = ("models", "YCB_Models/models", "YCB_Video_Models/models", "../models", "../YCB_Video_Models/models")
_SAME_BOX = 0.005


class HO3D:
    """A split of HO-3D: an index of images of one right hand and its object.

    ``dataset[i]`` raises InputError for an image whose files are missing or damaged; the others are not affected.
    Frames without an annotation have ``truth`` None and a note.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "evaluation",
        *,
        keep: str = "all",
        give: str | Iterable[str] | None = None,
        hand: str = "auto",
        mano_dir: str | Path | None = None,
        mano: HandData | None = None,
        models: str | Path | None = None,
        pictures: bool = True,
    ) -> None:
        """Reads the list of frames; opens no image.

        Args:
            root: The folder with ``train``, ``evaluation``, ``train.txt`` and ``evaluation.txt``.
            split: ``train``, ``evaluation`` (in the order that submissions want), ``v1/train``, ``v1/test``,
                ``v2-/test`` (CPF's; see ``ho3d_files.SPLITS``).
            keep: Which of its frames: ``all``, or ``cpf``: object within 5 mm of the palmar side of the hand.
            give: What of the annotation the image comes with: ``boxes``, ``wrist``, ``keypoints``, joined with ``+``.
                Default: what the evaluation part gives everybody, ``boxes+wrist`` there and nothing in training.
            hand: Whose poses the truth is: ``mano``, ``embedded`` (fitted to the joints), or ``auto``.
            mano_dir: Folder of ``MANO_RIGHT.pkl``.
            mano: The hand itself, in place of a file.
            models: Folder of the YCB-Video models. Default: searched in and beside ``root``.
            pictures: False: neither photographs nor depth are read; poses alone are wanted.

        Raises:
            ConfigError: not HO-3D's folder, or an option that does not exist.
            AssetError: MANO is asked for and not there.
        """
        self.root = Path(root).expanduser()
        self.split = split
        self._pictures = pictures
        self._subset = split_named(split)
        if keep not in KEEP:
            raise ConfigError(f"keep: {keep!r}{suggestion(keep, KEEP)}")
        self.keep = keep
        self._sequences, self._rows, self._numbers = read_frames(self.root, self._subset)
        evaluation = self._subset.folder == "evaluation"
        self._give = given_names(("boxes", "wrist") if give is None and evaluation else give or (), GIVE, "give")
        self.hand = TruthHand(mano) if mano is not None else TruthHand.find(mano_dir, hand)
        self.models = YcbModels(_models(self.root, models))
        first = self.root / self._subset.folder / self._sequences[0] / "rgb"
        self.version = "v3" if next(first.glob("*.jpg"), None) is not None else "v2"
        self._cameras: dict[str, Float[ndarray, "3 3"]] = {}
        self._published = PublishedJoints(self.root)
        self._checked: set[str] = set()
        self._kept: np.ndarray | None = None
        kept = KEEP[keep](self)
        self._kept = None if kept is None else np.asarray(kept, np.int32)

    def __len__(self) -> int:
        return len(self._rows) if self._kept is None else len(self._kept)

    def __getitem__(self, index: int) -> Sample:
        """The image with its depth, object and annotation.

        Raises:
            InputError: a file of this image is missing or damaged.
        """
        row = self.row(index)
        picture = picture_at(self._picture(row)) if self._pictures else no_picture(SIZE)
        known = self.annotation(row)
        camera, said = self._camera(row, known, picture.size)
        mesh, more = (None, ("no mesh: the object is not annotated",))
        if known.object_name is not None:
            mesh, more = self.models.find(known.object_name)
            self._check(known, mesh)
        depth, missing = None, ()
        if self._pictures:
            depth, missing = depth_at(self._part(row, "depth", "png"), picture.size, read_ho3d_depth)
        joints = self._true_joints(row, known)
        truth, notes = self._truth(known, joints)
        points = None if joints is None else project(_tensor(joints)[None], camera.matrix)[0].numpy()
        given = given_fields(
            self._give, camera, points=points, wrist=known.wrist, box=known.box, mesh=mesh, matrix=known.object
        )
        return Sample(
            name=self._name(row).replace("/", "_"),
            image=picture.image,
            camera=camera,
            mesh=mesh,
            depth=depth,
            truth=truth,
            joints=None if joints is None else _tensor(joints),
            object_truth=None if known.object is None else _tensor(known.object),
            ids=self.ids(index),
            notes=(*picture.notes, *said, *more, *missing, *notes),
            **given,
        )

    # --- the index

    def row(self, index: int) -> int:
        """An image's place in the split, before any are left out."""
        place = place_of(index, len(self))
        return place if self._kept is None else int(self._kept[place])

    @property
    def total(self) -> int:
        """Images of the split, before any are left out."""
        return len(self._rows)

    @property
    def names(self) -> Sequence[str]:
        """``SM1_0000``: sequence and frame."""
        return Lazy(len(self), self._name_at)

    @property
    def files(self) -> Sequence[Path]:
        """The photographs; none is looked for."""
        return Lazy(len(self), self._file_at)

    def sequences(self) -> Mapping[str, Sequence[int]]:
        """Name of each sequence -> its indices, in order of time."""
        rows = np.arange(self.total) if self._kept is None else self._kept
        places, found = self._rows[rows], {}
        for number, name in enumerate(self._sequences):
            mine = np.flatnonzero(places == number)
            if len(mine):
                found[name] = mine[np.argsort(self._numbers[rows[mine]], kind="stable")].tolist()
        return found

    def describe(self) -> Mapping[str, Any]:
        """Plain facts for a reader."""
        return {
            "dataset": f"HO-3D {self.version}", "root": str(self.root), "split": self.split, "kept": self.keep,
            "samples": len(self), "samples of the split": self.total, "sequences": len(self._sequences),
            "true hand": self.hand.name, "object models": str(self.models.folder),
            "models missing": self.models.missing(),
            "published joints": str(self._published.path) if self._published.there else None,
        }  # fmt: skip

    def ids(self, index: int) -> Mapping[str, int] | None:
        """``image``: the line of ``evaluation.txt`` from 0, which ``pred.json`` is in the order of; None elsewhere."""
        whole = self._subset.folder == "evaluation" and self._subset.spans is None
        return {"image": self.row(index)} if whole else None

    # --- one image

    def annotation(self, row: int) -> Annotation:
        """What is annotated of a row of the split.

        Raises:
            InputError: missing or damaged.
        """
        return read_annotation(self._part(row, "meta", "pkl"))

    def _truth(self, known: Annotation, joints: ndarray | None) -> tuple[Pose | None, tuple[str, ...]]:
        if known.object is None and known.wrist is None:
            return None, ("this frame is not annotated",)
        if known.object is None:
            return None, ("the object's pose is not annotated in this frame",)
        said: tuple[str, ...] = ()
        if known.rotvec is not None and known.betas is not None and known.transl is not None and self.hand.mano:
            found = _hand(known.rotvec, known.betas, known.transl)
        elif joints is not None:
            try:
                found, text = self.hand.from_joints(joints, "right")
            except InputError as error:
                return None, (f"no true hand: {error}",)
            said = (text,)
        else:
            return None, (f"only the wrist of this hand is annotated (its joints: {FILE}, see docs/datasets.md)",)
        return pose_of(found, known.object, "right"), said

    def _true_joints(self, row: int, known: Annotation) -> Float[ndarray, "21 3"] | None:
        """Annotated joints, or the published ones of the evaluation part."""
        if known.joints is not None or self._subset.folder != "evaluation" or not self._published.there:
            return known.joints
        return self._published.of(self._name(row))

    def _camera(self, row: int, known: Annotation, size: tuple[int, int]) -> tuple[Camera, tuple[str, ...]]:
        """The frame's camera, or that of another frame of its sequence."""
        sequence = self._sequences[self._rows[row]]
        matrix, said = known.camera, ()
        if matrix is None:
            if sequence not in self._cameras:
                self._cameras[sequence] = self._camera_of(sequence)
            matrix, said = self._cameras[sequence], ("camera of another frame of the sequence",)
        return Camera(_tensor(matrix)[None], size), said

    def _camera_of(self, sequence: str) -> Float[ndarray, "3 3"]:
        folder = self.root / self._subset.folder / sequence / "meta"
        for path in sorted(folder.glob("*.pkl")):
            found = read_annotation(path).camera
            if found is not None:
                return found
        raise InputError(f"{folder}: no frame of {sequence} has a camera")

    def _check(self, known: Annotation, mesh: Mesh | None) -> None:
        """Once for each object: the mesh against the annotated box."""
        if mesh is None or known.corners is None or known.object_name in self._checked:
            return
        self._checked.add(str(known.object_name))
        low, high = (torch.from_numpy(corner).float() for corner in (known.corners.min(0), known.corners.max(0)))
        far = float(torch.stack([mesh.box[0][0] - low, mesh.box[1][0] - high]).abs().max())
        if far > _SAME_BOX:
            log.warning(
                "%s: its mesh is off the annotated box by %.1f mm: is it YCB-Video's textured_simple.obj?",
                known.object_name, 1e3 * far,
            )  # fmt: skip

    def _part(self, row: int, part: str, suffix: str) -> Path:
        sequence = self._sequences[self._rows[row]]
        return self.root / self._subset.folder / sequence / part / f"{self._numbers[row]:04d}.{suffix}"

    def _picture(self, row: int) -> Path:
        own, other = ("jpg", "png") if self.version == "v3" else ("png", "jpg")
        path = self._part(row, "rgb", own)
        return path if path.is_file() or not path.with_suffix(f".{other}").is_file() else path.with_suffix(f".{other}")

    def _name(self, row: int) -> str:
        return name_of(self._sequences[self._rows[row]], int(self._numbers[row]))

    def _name_at(self, index: int) -> str:
        return self._name(self.row(index)).replace("/", "_")

    def _file_at(self, index: int) -> Path:
        return self._part(self.row(index), "rgb", "jpg" if self.version == "v3" else "png")


def _models(root: Path, models: str | Path | None) -> Path | None:
    if models is None:
        return next((root / place for place in _PLACES if (root / place).is_dir()), None)
    folder = Path(models).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"models {folder}: no such folder")
    return folder


def _hand(rotvec: ndarray, betas: ndarray, transl: ndarray) -> HandPose:
    return HandPose(_tensor(rotvec)[None], _tensor(betas)[None], _tensor(transl)[None])


def _tensor(values: ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
