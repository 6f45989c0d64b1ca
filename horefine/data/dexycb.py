"""DexYCB (Chao et al., CVPR 2021) as samples: ``docs/datasets.md`` has the folders it expects.

The index is made of ``meta.yml`` files alone and holds nothing for each image: 465 504 samples take seconds. An image's
number is its place in the official split, whatever is kept of it, so that results can be submitted.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray

from horefine.data import Sample
from horefine.data import dexycb_files as files
from horefine.data.dexycb_files import SERIALS, SIZE, Label, Recording
from horefine.data.dexycb_keep import KEEP, listed
from horefine.data.dexycb_splits import split_named
from horefine.data.dexycb_truth import LabelTruth
from horefine.data.given import GIVE, given_fields
from horefine.data.hand_truth import TruthHand
from horefine.data.index import Lazy, depth_at, given_names, no_picture, picture_at, place_of
from horefine.data.ycb import YCB, YcbModels
from horefine.errors import ConfigError, InputError, suggestion
from horefine.mano import HandData

__all__ = ["DexYCB"]

log = logging.getLogger(__name__)


class DexYCB:
    """A split of DexYCB: an index of images of one hand and the object that it grasps.

    ``dataset[i]`` raises InputError for an image whose files are missing or damaged; the others are not affected.
    Frames without an annotated hand or object have ``truth`` None and a note. Left hands are left hands (``side``).
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "s0/test",
        *,
        keep: str = "all",
        frames: str | Path | None = None,
        give: str | Iterable[str] = (),
        hand: str = "auto",
        mano_dir: str | Path | None = None,
        mano: HandData | None = None,
        models: str | Path | None = None,
        partial: bool = False,
        pictures: bool = True,
    ) -> None:
        """Lists the recordings; opens no image.

        Args:
            root: The folder with ``20200709-subject-01`` ... and ``calibration``.
            split: ``s0/train`` ... ``s3/test``; or ``all``: every recording that is there, without official numbers.
            keep: Which of its frames: a name of ``dexycb_keep.KEEP`` (``all``, ``right``, ``bop``, ``grasp``, ``gsdf``,
                ``hoisdf``, ``c2f``, ...).
            frames: A file that lists them instead, as gSDF's and HOISDF's ``splits/*.json`` do.
            give: What of the annotation the image comes with, as papers assume at test time: ``boxes``, ``wrist``,
                ``keypoints``, joined with ``+``. Nothing by default: it has to be found.
            hand: Whose poses the truth is: ``mano``, ``embedded`` (fitted to the joints), or ``auto``.
            mano_dir: Folder of ``MANO_RIGHT.pkl`` (and ``MANO_LEFT.pkl``).
            mano: The right hand itself, in place of a file.
            models: Folder of the object models. Default: ``root/models``.
            partial: Go on where subjects are missing.
            pictures: False: neither photographs nor depth are read; poses alone are wanted.

        Raises:
            ConfigError: not DexYCB's folder, subjects are missing, or an option that does not exist.
            InputError: a ``meta.yml`` or a camera's calibration cannot be read.
            AssetError: MANO is asked for and not there.
        """
        self.root = Path(root).expanduser()
        self.split = split
        self._pictures = pictures
        self._subset = split_named(split)
        if keep not in KEEP:
            raise ConfigError(f"keep: {keep!r}{suggestion(keep, KEEP)}")
        self._give = given_names(give, GIVE, "give")
        self.recordings, self.lacking = files.find_recordings(self.root, self._subset, partial)
        if self.lacking:
            log.warning("%s: %s: left out: %s", self.root, split, ", ".join(self.lacking))
        self.serials = SERIALS if self._subset is None else tuple(SERIALS[k] for k in self._subset.cameras)
        self._cameras = [files.read_camera(self.root, serial) for serial in self.serials]
        counts = np.array([recording.frames * len(self.serials) for recording in self.recordings])
        self._ends = np.cumsum(counts)
        self.hand = TruthHand(mano) if mano is not None else TruthHand.find(mano_dir, hand)
        self.models = _models(self.root, models)
        self.truths = LabelTruth(self.root, self.hand)
        self.keep = keep if frames is None else str(frames)
        self._kept: np.ndarray | None = None
        kept = KEEP[keep](self) if frames is None else listed(Path(frames), self)
        self._kept = None if kept is None else np.asarray(kept, np.int32)

    def __len__(self) -> int:
        return self.total if self._kept is None else len(self._kept)

    def __getitem__(self, index: int) -> Sample:
        """The image with its depth, object and annotation.

        Raises:
            InputError: a file of this image is missing or damaged.
        """
        number = self.number(index)
        recording, camera, _ = self.locate(number)
        folder, frame = self._place(number)
        picture = picture_at(folder / f"color_{frame:06d}.jpg") if self._pictures else no_picture(SIZE)
        label = self.label(number)
        mesh, notes = self.models.find(self.grasped(recording))
        lens = self._cameras[camera]
        if picture.size != SIZE:  # its label and calibration are for the whole picture
            said = f"{picture.size[1]}x{picture.size[0]} pixels; DexYCB's pictures have {SIZE[1]}x{SIZE[0]}"
            raise InputError(f"{folder / f'color_{frame:06d}.jpg'}: {said}: take the original files")
        truth, said = self.truths.pose(recording, label)
        depth, missing = None, ()
        if self._pictures:
            depth, missing = depth_at(folder / f"aligned_depth_to_color_{frame:06d}.png", picture.size)
        matrix = _matrix(label.objects[recording.grasped])
        wrist = None if label.joints is None else label.joints[0]
        given = given_fields(self._give, lens, points=label.points, wrist=wrist, mesh=mesh, matrix=matrix)
        return Sample(
            name=self._name(number),
            image=picture.image,
            camera=lens,
            mesh=mesh,
            depth=depth,
            side=recording.side,
            truth=truth,
            joints=None if label.joints is None else _tensor(label.joints),
            object_truth=None if matrix is None else _tensor(matrix),
            ids=self.ids(index),
            notes=(*picture.notes, *notes, *missing, *said),
            **given,
        )

    # --- the index

    @property
    def total(self) -> int:
        """Images of the split, before any are left out."""
        return int(self._ends[-1])

    def number(self, index: int) -> int:
        """An image's place in the official split."""
        place = place_of(index, len(self))
        return place if self._kept is None else int(self._kept[place])

    def locate(self, number: int) -> tuple[Recording, int, int]:
        """Recording, camera (its place in ``serials``) and frame of an official number: frames run fastest."""
        row = int(np.searchsorted(self._ends, number, "right"))
        recording = self.recordings[row]
        rest = number - (int(self._ends[row - 1]) if row else 0)
        return recording, rest // recording.frames, rest % recording.frames

    @property
    def names(self) -> Sequence[str]:
        """``01_20200709_141754_836212060125_000000``: subject, recording, camera, frame."""
        return Lazy(len(self), self._name_at)

    @property
    def files(self) -> Sequence[Path]:
        """The photographs; none is looked for."""
        return Lazy(len(self), self._file_at)

    def sequences(self) -> Mapping[str, Sequence[int]]:
        """Name of each recording and camera -> its indices, in order of time."""
        starts = np.concatenate([[0], self._ends[:-1]])
        found: dict[str, Sequence[int]] = {}
        for recording, start in zip(self.recordings, starts.tolist(), strict=True):
            for camera, serial in enumerate(self.serials):
                first = start + camera * recording.frames
                if self._kept is None:
                    rows: Sequence[int] = range(first, first + recording.frames)
                else:
                    rows = range(*np.searchsorted(self._kept, [first, first + recording.frames]).tolist())
                if len(rows):
                    found[f"{recording.name}_{serial}"] = rows
        return found

    def describe(self) -> Mapping[str, Any]:
        """Plain facts for a reader."""
        missing = sorted({self.grasped(r) for r in self.recordings} & set(self.models.missing()))
        return {
            "dataset": "DexYCB", "root": str(self.root), "split": self.split, "kept": self.keep, "samples": len(self),
            "samples of the split": self.total, "recordings": len(self.recordings), "cameras": len(self.serials),
            "hands": dict(Counter(recording.side for recording in self.recordings)),
            "objects": dict(Counter(self.grasped(r) for r in self.recordings)),
            "true hand": self.hand.name, "object models": _path(self.models.folder), "models missing": missing,
            "symmetries": _path(self.models.info), "subjects missing": self.lacking,
        }  # fmt: skip

    def ids(self, index: int) -> Mapping[str, int] | None:
        """What DexYCB's HPE and COCO evaluations (``image``) and BOP (the others) call an image; None without them."""
        if self._subset is None or self.lacking:
            return None
        number = self.number(index)
        recording, camera, frame = self.locate(number)
        row = int(np.searchsorted(self._ends, number, "right"))
        scene = row * len(self.serials) + camera
        return {
            "image": number, "scene_id": scene, "im_id": frame, "obj_id": recording.objects[recording.grasped],
        }  # fmt: skip

    # --- one image

    def label(self, number: int) -> Label:
        """The label of an official number.

        Raises:
            InputError: missing or damaged.
        """
        folder, frame = self._place(number)
        return files.read_label(folder / f"labels_{frame:06d}.npz", len(self.locate(number)[0].objects))

    def segmentation(self, index: int) -> UInt8[ndarray, "H W"]:
        """What each pixel shows: 0 nothing, 1 to 21 an object of YCB, 255 the hand.

        Raises:
            InputError: missing or damaged.
        """
        folder, frame = self._place(self.number(index))
        return files.read_segmentation(folder / f"labels_{frame:06d}.npz")

    def camera_to_world(self, index: int) -> Float[ndarray, "4 4"]:
        """From the camera's frame to that of the recording (its master camera's), metres.

        Raises:
            InputError: the extrinsics are missing or damaged.
        """
        recording, camera, _ = self.locate(self.number(index))
        return files.camera_to_world(self.root, recording.extrinsics, self.serials[camera])

    def grasped(self, recording: Recording) -> str:
        """Name of the object that is grasped."""
        return YCB[recording.objects[recording.grasped]]

    def _place(self, number: int) -> tuple[Path, int]:
        recording, camera, frame = self.locate(number)
        return self.root / recording.folder / self.serials[camera], frame

    def _name(self, number: int) -> str:
        recording, camera, frame = self.locate(number)
        return f"{recording.name}_{self.serials[camera]}_{frame:06d}"

    def _name_at(self, index: int) -> str:
        return self._name(self.number(index))

    def _file_at(self, index: int) -> Path:
        folder, frame = self._place(self.number(index))
        return folder / f"color_{frame:06d}.jpg"


def _models(root: Path, models: str | Path | None) -> YcbModels:
    folder = root / "models" if models is None else Path(models).expanduser()
    if models is not None and not folder.is_dir():
        raise ConfigError(f"models {folder}: no such folder")
    places = (*sorted((root / "bop").glob("*/models_info.json")), folder / "models_info.json")
    info = next((path for path in places if path.is_file()), None)
    return YcbModels(folder if folder.is_dir() else None, info)


def _matrix(rows: Float[ndarray, "3 4"]) -> Float[ndarray, "4 4"] | None:
    """Object to camera; None where it is all zero."""
    return np.concatenate([rows, [[0.0, 0.0, 0.0, 1.0]]]) if rows.any() else None


def _tensor(values: ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)
