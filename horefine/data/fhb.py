"""FPHAB, "First-Person Hand Action Benchmark" (Garcia-Hernando et al. 2018), called FHB by its loaders: four objects.

``docs/datasets.md`` shows the tree. Joints and object poses are in the frame of the depth camera, in millimetres; the
constants below bring them into the colour camera. Object poses are 4x4 matrices written column by column. Hand poses
come from the MANO fits of Hasson et al. 2020 (``fhbhands_fits``), which are in the colour camera already, in metres,
relative to the flat hand; without them a hand is fitted to the 21 magnetic joints, and the sample says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from jaxtyping import Float
from numpy import ndarray
from scipy.spatial import KDTree

from horefine.anatomy import convert_joints
from horefine.data import Sample
from horefine.data.annotation import GIVE, HandPose, fit_joints, give_annotation, pose_of
from horefine.data.fhb_files import (
    COLOR_FROM_DEPTH,
    COLOR_MATRIX,
    COLOR_SIZE,
    OBJECTS,
    Files,
    Recording,
    lengths,
    listed,
    read_files,
)
from horefine.data.hand_truth import TruthHand
from horefine.data.index import Lazy, given_names
from horefine.data.models import ObjectModels, remember
from horefine.data.pictures import read_picture
from horefine.errors import ConfigError, InputError, suggestion
from horefine.geometry import Camera
from horefine.hand import HandModel
from horefine.mano import HandData

__all__ = ["FHB"]

_SPLITS = {"actions": ("train", "test", "all"), "subjects": ("train", "test")}
_SUBJECTS = {"train": (1, 3, 4), "test": (2, 5, 6)}
_FILTERS = {"cpf": 5.0}
"""Name -> largest distance of an object vertex to the nearest joint, mm (CPF, Yang et al. 2021: "<5 mm")."""
_ANNOTATIONS = ("Object_6D_pose_annotation_v1_1", "Object_6D_pose_annotation_v1")
_OTHER_HAND = "true hand pose: a MANO fit, shown by the embedded hand (MANO is not here): some millimetres off"
_KEPT = 8
"""Sequences whose files stay in memory."""


class FHB:
    """Frames of FHB in which one of the four modelled objects is held; every hand is a right one."""

    def __init__(
        self,
        root: str | Path,
        split: str = "test",
        *,
        by: str = "actions",
        filter: str | None = None,
        fits: str | Path | None = None,
        give: str | Iterable[str] = (),
        truth: str = "auto",
        hand: str = "auto",
        mano_dir: str | Path | None = None,
        mano: HandData | None = None,
        small: bool | None = None,
    ) -> None:
        """Reads the lists and which frames have an object's pose; opens no picture.

        Args:
            root: ``fhbhands``, or the folder that holds it.
            split: ``train``, ``test`` or (by actions) ``all``.
            by: ``actions`` (the dataset's own split, which CPF and Song et al. use) or ``subjects`` (1, 3, 4 train).
            filter: ``cpf``: only frames in which a vertex of the object is within 5 mm of a joint.
            fits: ``fhbhands_fits``; searched in and beside ``root`` when not given.
            give: What of the annotation the image comes with, as papers assume at test time: ``boxes``, ``wrist``,
                ``keypoints``, joined with ``+``. Nothing by default: it has to be found.
            truth: ``fits``, ``joints`` (fitted to them), ``none``, or ``auto``: the fits where there are any.
            hand: Whose poses the truth is: ``mano``, ``embedded``, or ``auto``.
            mano_dir: Folder of ``MANO_RIGHT.pkl``.
            mano: The right hand itself, in place of a file.
            small: the pictures of ``Video_files_480``; None: where there are any, as the papers' loaders do.

        Raises:
            ConfigError: the tree lacks what is needed, or an option is not known.
            AssetError: MANO is asked for and not there.
        """
        self.root = Path(root) / "fhbhands" if (Path(root) / "fhbhands").is_dir() else Path(root)
        _check_options(split, by, filter, truth)
        self.split, self.by, self.filter, self.truth = split, by, filter, truth
        self._annotations = self._find("object poses", *_ANNOTATIONS)
        self._skeletons = self._find("hand joints", "Hand_pose_annotation_v1")
        places = [Path(fits)] if fits is not None else [self.root / "fhbhands_fits", self.root.parent / "fhbhands_fits"]
        self.fits = next((place for place in places if place.is_dir()), None)
        if (fits is not None or truth == "fits") and self.fits is None:
            named = " or ".join(map(str, places))
            raise ConfigError(f"--root {root}: no MANO fits in {named}: name their folder (fits=)")
        reduced = (self.root / "Video_files_480").is_dir()
        self._videos = self.root / ("Video_files_480" if (reduced if small is None else small) else "Video_files")
        self.models = ObjectModels(
            {name: self.root / "Object_models" / f"{m}_model" / f"{m}_model.ply" for name, m in OBJECTS.items()}
        )
        self._give = given_names(give, GIVE, "give")
        self.hand = TruthHand(mano) if mano is not None else TruthHand.find(mano_dir, hand)
        self._empty: list[str] = []
        self._unlisted: list[str] = []
        self._read: dict[int, Files] = {}
        self._sequences, self._place, self._frame = self._index()
        if filter is not None:
            near = np.array([self._distance(k) <= _FILTERS[filter] for k in range(len(self))], bool)
            self._place, self._frame = self._place[near], self._frame[near]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_read": {}}

    def __len__(self) -> int:
        return len(self._frame)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """``Subject_1_put_salt_1_0042``."""
        pairs = zip(self._place.tolist(), self._frame.tolist(), strict=True)
        return tuple(f"{self._sequences[p].path.replace('/', '_')}_{frame:04d}" for p, frame in pairs)

    @property
    def files(self) -> Sequence[Path]:
        """The photographs; none is looked for."""
        return Lazy(len(self), self._picture)

    def sequences(self) -> dict[str, Sequence[int]]:
        """Recording -> indices."""
        return {
            sequence.path: np.flatnonzero(self._place == place).tolist()
            for place, sequence in enumerate(self._sequences)
            if (self._place == place).any()
        }

    def describe(self) -> dict[str, Any]:
        """Where things were found, what is missing."""
        wanted = [self._picture(k) for k in range(len(self))]
        absent = [str(path.relative_to(self.root)) for path in wanted if not path.is_file()]
        return {
            "dataset": "fhb", "root": str(self.root), "split": self.split, "by": self.by, "filter": self.filter,
            "samples": len(self), "pictures": self._videos.name, "pictures_missing": len(absent),
            "first_missing": absent[:3], "object_poses": self._annotations.name,
            "mano_fits": None if self.fits is None else str(self.fits), "true hand": self.hand.name,
            "empty_sequences": self._empty, "sequences_without_length": self._unlisted,
            "hands": {"right": len(self), "left": 0, "absent": 0},
            "objects": {name: int(np.isin(self._place, self._of(name)).sum()) for name in OBJECTS},
            "depth": "not aligned with colour in this dataset: not read",
        }  # fmt: skip

    def __getitem__(self, index: int) -> Sample:
        """One frame.

        Raises:
            InputError: its picture or its joints are missing or damaged. AssetError: the object's model is.
        """
        sequence = self._at(index)[0]
        picture = read_picture(self._picture(index))
        size = picture.image.shape[1], picture.image.shape[2]
        camera = Camera(torch.tensor(COLOR_MATRIX, dtype=torch.float32)[None], COLOR_SIZE).resized(size)
        mesh, matrix = self.models[sequence.object], self.object_matrix(index)
        placed = mesh.vertices[0].numpy() @ matrix[:3, :3].T + matrix[:3, 3]
        joints = self.joints(index)
        hand, notes = self.hand_pose(index)
        sample = Sample(
            name=self.names[index], image=picture.image, camera=camera, mesh=mesh, side="right",
            truth=None if hand is None else pose_of(hand, matrix, "right"),
            joints=None if joints is None else torch.tensor(joints, dtype=torch.float32),
            object_truth=torch.tensor(matrix, dtype=torch.float32), notes=(*picture.notes, *notes),
        )  # fmt: skip
        return give_annotation(sample, self._give, placed)

    def joints(self, index: int) -> Float[ndarray, "21 3"] | None:
        """The magnetic sensors' joints: metres, colour camera, house order; None where there are none."""
        place, frame = int(self._place[index]), int(self._frame[index])
        found = self._open(place).skeleton.get(frame)
        if found is None:
            return None
        moved = found @ COLOR_FROM_DEPTH[:3, :3].T + COLOR_FROM_DEPTH[:3, 3]
        return convert_joints(torch.from_numpy(moved / 1000), "fhb", "house").numpy()

    def object_matrix(self, index: int) -> Float[ndarray, "4 4"]:
        """Object (its model file's frame) to colour camera, metres."""
        matrix = COLOR_FROM_DEPTH @ self._open(int(self._place[index])).objects[int(self._frame[index])]
        matrix[:3, 3] /= 1000
        return matrix

    def hand_pose(self, index: int) -> tuple[HandPose | None, tuple[str, ...]]:
        """The hand's pose and where it comes from."""
        if self.truth == "none":
            return None, ()
        fit = None if self.truth == "joints" else self._fit(index)
        if isinstance(fit, HandPose):
            return fit, () if self.hand.name == "mano" else (_OTHER_HAND,)
        if self.truth == "fits":
            return None, (fit or "no MANO fits",)
        joints = self.joints(index)
        if joints is None:
            return None, ("no joints in skeleton.txt for this frame: the hand's pose is not known",)
        try:
            found = fit_joints(joints, "right", self._model)
        except InputError as error:
            return None, (f"the magnetic joints show no hand: {error}",)
        millimetres = 1000 * found.residual
        said = f"true hand pose: the {self.hand.name} hand fitted to the magnetic joints, {millimetres:.1f} mm off"
        return found, (said,) if fit is None else (fit, said)

    @cached_property
    def _model(self) -> HandModel:
        return self.hand.model()

    def _fit(self, index: int) -> HandPose | str | None:
        """The MANO fit of a frame, None where there are no fits at all, else why there is none."""
        sequence, frame = self._at(index)
        fits = self._open(int(self._place[index])).fits
        if fits is None:
            return None if self.fits is None else f"no MANO fits of {sequence.path}"
        entry = fits.get(f"{frame:06d}.pkl")
        if entry is None:
            return f"no MANO fit of frame {frame}"
        pose, shape, place = (
            torch.tensor(np.asarray(entry[key], np.float32)).reshape(1, -1) for key in ("fullpose", "shape", "trans")
        )
        if pose.shape[1] != 48 or shape.shape[1] < 10 or place.shape[1] != 3:
            sizes = f"{pose.shape[1]}, {shape.shape[1]}, {place.shape[1]}"
            raise InputError(f"{sequence.path}: MANO fit of frame {frame} has {sizes} values; expected 48, 10, 3")
        return HandPose(pose.view(1, 16, 3), shape[:, :10], place)

    # --- files ---------------------------------------------------------------------------------------------------

    def _find(self, what: str, *names: str) -> Path:
        for name in names:
            if (self.root / name).is_dir():
                return self.root / name
        raise ConfigError(
            f"--root {self.root}: no {what} there ({' or '.join(names)}); docs/datasets.md shows the tree"
        )

    def _at(self, index: int) -> tuple[Recording, int]:
        return self._sequences[int(self._place[index])], int(self._frame[index])

    def _of(self, name: str) -> list[int]:
        return [place for place, sequence in enumerate(self._sequences) if sequence.object == name]

    def _picture(self, index: int) -> Path:
        sequence, frame = self._at(index)
        return self._videos / sequence.path / "color" / f"color_{frame:04d}.jpeg"

    def _index(self) -> tuple[list[Recording], ndarray, ndarray]:
        """Recordings of the split with one of the objects; for each sample its recording and its frame."""
        known = lengths(self.root / "Subjects_info")
        sequences: list[Recording] = []
        places, frames = [], []
        for sequence in self._listed():
            poses = self._annotations / sequence.path / "object_pose.txt"
            if sequence.object not in OBJECTS or not poses.is_file():
                continue
            found = np.array([int(line.split(None, 1)[0]) for line in poses.read_text().splitlines() if line.strip()])
            length = known.get(sequence)
            if length is None:
                self._unlisted.append(sequence.path)
            else:
                found = found[found < length]
            if not len(found):
                self._empty.append(sequence.path)
                continue
            places.append(np.full(len(found), len(sequences), np.int32))
            frames.append(np.sort(found).astype(np.int32))
            sequences.append(sequence)
        if not sequences:
            raise ConfigError(f"--root {self.root}: no frame of split {self.split} has an object's pose")
        return sequences, np.concatenate(places), np.concatenate(frames)

    def _listed(self) -> list[Recording]:
        every = listed(self.root)
        if self.by == "actions":
            return [sequence for own, sequence in every if self.split in (own, "all")]
        subjects = [f"Subject_{number}" for number in _SUBJECTS[self.split]]
        return [sequence for _, sequence in every if sequence.subject in subjects]

    def _open(self, place: int) -> Files:
        """A recording's files; the last few stay in memory."""
        found = self._read.get(place)
        if found is None:
            found = read_files(self._sequences[place], self._skeletons, self._annotations, self.fits)
            remember(self._read, place, found, _KEPT)
        return found

    def _distance(self, index: int) -> float:
        """From the object's vertices to the nearest joint, mm; infinite without joints."""
        joints = self.joints(index)
        if joints is None:
            return float("inf")
        matrix = self.object_matrix(index)
        local = (joints - matrix[:3, 3]) @ np.linalg.inv(matrix[:3, :3]).T
        return 1000 * float(self._trees[self._at(index)[0].object].query(local)[0].min())

    @cached_property
    def _trees(self) -> dict[str, KDTree]:
        """Of the models' own vertices, metres: repair would move the nearest one."""
        names = {sequence.object for sequence in self._sequences}
        loaded = {name: trimesh.load_mesh(self.models.paths[name], process=False) for name in names}
        return {name: KDTree(np.asarray(mesh.vertices)) for name, mesh in loaded.items()}


def _check_options(split: str, by: str, filter: str | None, truth: str) -> None:
    for key, value, known in (
        ("by", by, tuple(_SPLITS)),
        ("split", split, _SPLITS.get(by, ())),
        ("filter", filter, (None, *_FILTERS)),
        ("truth", truth, ("auto", "fits", "joints", "none")),
    ):
        if value not in known:
            raise ConfigError(f"fhb: {key} {value!r}{suggestion(str(value), [k for k in known if k])}")
