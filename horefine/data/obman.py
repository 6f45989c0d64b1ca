"""ObMan (Hasson et al. 2019): rendered right hands that hold ShapeNet models; 256 x 256 pictures.

``docs/datasets.md`` shows the tree. Everything is in a camera frame with y up and z backward: it is turned by
diag(1, -1, -1). An object is ``affine_transform`` times its ShapeNet model, which is not to be had from the dataset: a
sample whose model is missing says so and has no mesh. ObMan names no wrist rotation and its hands belong to a body
model: the pose is found from the 778 vertices (with MANO), or from the 21 joints (with the embedded hand).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image
from torch import Tensor

from horefine.data import Sample
from horefine.data.annotation import GIVE, HandPose, fit_joints, fit_vertices, give_annotation, pose_of
from horefine.data.hand_truth import TruthHand
from horefine.data.index import Lazy, given_names
from horefine.data.models import ObjectModels
from horefine.data.pictures import read_picture
from horefine.errors import AssetError, ConfigError, InputError, suggestion
from horefine.geometry import Camera
from horefine.hand import HandModel
from horefine.mano import HandData, load_restricted
from horefine.mesh import Mesh

__all__ = ["MATRIX", "ObMan"]

MATRIX = np.array([[480.0, 0.0, 128.0], [0.0, 480.0, 128.0], [0.0, 0.0, 1.0]])
"""Intrinsics of every picture, as published."""
_FLIP = np.array([1.0, -1.0, -1.0])
_SPLITS = ("train", "val", "test")
_HAND_CODES = {"right": (22, 24), "left": (21, 23)}
_OBJECT_CODE = 100
_ENDINGS = {"meta": "pkl", "rgb": "jpg"}
"""Of the files in a folder; the others are png."""
_SHAPENET = ("shapenet", "ShapeNetCore.v2", "ShapeNet")
_VARIABLE = "SHAPENET_ROOT"
_LOOSE = 0.003
"""Metres; a fitted hand farther from the annotated one than this on the mean is spoken of."""


class ObMan:
    """The pictures of one split in order of their numbers."""

    def __init__(
        self,
        root: str | Path,
        split: str = "test",
        *,
        shapenet: str | Path | None = None,
        give: str | Iterable[str] = (),
        truth: str = "auto",
        hand: str = "auto",
        mano_dir: str | Path | None = None,
        mano: HandData | None = None,
    ) -> None:
        """Lists the annotation files; opens none.

        Args:
            root: ``obman``, or the folder that holds it.
            split: ``train``, ``val`` or ``test``.
            shapenet: ShapeNetCore.v2; else in or beside ``root``, else the variable ``SHAPENET_ROOT``.
            give: What of the annotation the image comes with, as papers assume at test time: ``boxes``, ``wrist``,
                ``keypoints``, joined with ``+``. Nothing by default: it has to be found.
            truth: ``vertices`` or ``joints``: what the hand's pose is found from; ``none``; ``auto``: the vertices with
                MANO, else the joints.
            hand: Whose poses the truth is: ``mano``, ``embedded``, or ``auto``.
            mano_dir: Folder of ``MANO_RIGHT.pkl``.
            mano: The right hand itself, in place of a file.

        Raises:
            ConfigError: no such split or tree, or an option is not known.
            AssetError: MANO is asked for and not there.
        """
        base = Path(root) / "obman" if (Path(root) / "obman").is_dir() else Path(root)
        for key, value, known in (("split", split, _SPLITS), ("truth", truth, ("auto", "vertices", "joints", "none"))):
            if value not in known:
                raise ConfigError(f"obman: {key} {value!r}{suggestion(value, known)}")
        self.root, self.split, self.truth = base, split, truth
        self._folder = base / split
        meta = self._folder / "meta"
        if not meta.is_dir():
            raise ConfigError(f"--root {root}: no {split}/meta there; docs/datasets.md shows the tree")
        with os.scandir(meta) as entries:
            numbers = sorted(int(e.name[:-4]) for e in entries if e.name.endswith(".pkl") and e.name[:-4].isdigit())
        if not numbers:
            raise ConfigError(f"--root {root}: {split}/meta holds no annotations (%08d.pkl)")
        self._numbers = np.array(numbers, np.int64)
        self.shapenet = _find_shapenet(shapenet, base)
        self.models = ObjectModels({}, plausible=None)
        self._give = given_names(give, GIVE, "give")
        self.hand = TruthHand(mano) if mano is not None else TruthHand.find(mano_dir, hand)

    def __len__(self) -> int:
        return len(self._numbers)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """``test_00000042``."""
        return tuple(f"{self.split}_{number:08d}" for number in self._numbers.tolist())

    @property
    def files(self) -> Sequence[Path]:
        """The photographs; none is looked for."""
        return Lazy(len(self), lambda index: self._file("rgb", index))

    def sequences(self) -> dict[str, Sequence[int]]:
        """The split is one: its pictures are independent."""
        return {self.split: range(len(self))}

    def describe(self) -> dict[str, Any]:
        """Where things were found, what is missing."""
        absent = {part: self._lacking(part) for part in ("rgb", "depth", "segm")}
        return {
            "dataset": "obman", "root": str(self.root), "split": self.split, "samples": len(self),
            "pictures_missing": absent["rgb"], "depth_missing": absent["depth"], "segm_missing": absent["segm"],
            "true hand": self.hand.name, "shapenet": None if self.shapenet is None else str(self.shapenet),
        }  # fmt: skip

    def __getitem__(self, index: int) -> Sample:
        """One picture.

        Raises:
            InputError: its picture or its annotation is missing or damaged.
        """
        meta = self.annotation(index)
        picture = read_picture(self._file("rgb", index))
        size = picture.image.shape[1], picture.image.shape[2]
        camera = Camera(torch.tensor(MATRIX, dtype=torch.float32)[None], size)
        side = _side(meta, self.names[index])
        joints = self.joints(index, meta)
        matrix, stretch = _split_affine(self.object_affine(index, meta))
        mesh, notes = self._mesh(meta, stretch)
        hand, said = self._hand_pose(index, meta, side)
        placed = None if mesh is None else mesh.vertices[0].numpy() @ matrix[:3, :3].T + matrix[:3, 3]
        sample = Sample(
            name=self.names[index], image=picture.image, camera=camera, mesh=mesh, depth=self._depth(index, meta, size),
            side=side, truth=None if hand is None else pose_of(hand, matrix, side),
            joints=torch.tensor(joints, dtype=torch.float32), object_truth=torch.tensor(matrix, dtype=torch.float32),
            notes=(*picture.notes, *notes, *said),
        )  # fmt: skip
        return give_annotation(sample, self._give, placed)

    def annotation(self, index: int) -> Mapping[str, Any]:
        """The file ``meta/%08d.pkl``.

        Raises:
            InputError: it is missing, damaged, or asks for more than numbers.
        """
        file = self._file("meta", index)
        try:
            table = load_restricted(file.read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(f"{file}: {error}") from None
        if not isinstance(table, Mapping):
            raise InputError(f"{file}: holds a {type(table).__name__}; expected a table")
        return table

    def joints(self, index: int, meta: Mapping[str, Any] | None = None) -> Float[ndarray, "21 3"]:
        """Metres, OpenCV camera, house order."""
        return _array(meta or self.annotation(index), "coords_3d", (21, 3), self.names[index]) * _FLIP

    def vertices(self, index: int, meta: Mapping[str, Any] | None = None) -> Float[ndarray, "V 3"]:
        """Of the hand: metres, OpenCV camera, MANO's order."""
        return _array(meta or self.annotation(index), "verts_3d", (778, 3), self.names[index]) * _FLIP

    def object_affine(self, index: int, meta: Mapping[str, Any] | None = None) -> Float[ndarray, "4 4"]:
        """ShapeNet's model to the OpenCV camera, metres: a rotation, a scale and a translation."""
        affine = _array(meta or self.annotation(index), "affine_transform", (4, 4), self.names[index])
        return np.diag([*_FLIP, 1.0]) @ affine

    def masks(self, index: int) -> tuple[Bool[ndarray, "H W"], Bool[ndarray, "H W"]]:
        """What is visible of hand and object.

        Raises:
            InputError: the picture of classes is missing or damaged.
        """
        codes = _blue(self._file("segm", index))
        side = _side(self.annotation(index), self.names[index])
        return np.isin(codes, _HAND_CODES[side]), codes == _OBJECT_CODE

    # --- parts of a sample ---------------------------------------------------------------------------------------

    def _file(self, part: str, index: int) -> Path:
        return self._folder / part / f"{int(self._numbers[index]):08d}.{_ENDINGS.get(part, 'png')}"

    def _lacking(self, part: str) -> int:
        """How many samples have no such file: one listing, not a question for each."""
        folder = self._folder / part
        there = set(os.listdir(folder)) if folder.is_dir() else set()
        ending = _ENDINGS.get(part, "png")
        return sum(f"{number:08d}.{ending}" not in there for number in self._numbers.tolist())

    def _depth(self, index: int, meta: Mapping[str, Any], size: tuple[int, int]) -> Float[Tensor, "H W"] | None:
        """255 levels from the farthest (1) to the nearest (255) point of the picture; 0 is nothing."""
        file = self._file("depth", index)
        if not file.is_file() or "depth_min" not in meta:
            return None
        levels = _blue(file).astype(np.float32)
        if levels.shape != size:
            raise InputError(f"{file}: {levels.shape[1]}x{levels.shape[0]} pixels; the picture has {size[1]}x{size[0]}")
        near, far = float(meta["depth_min"]), float(meta["depth_max"])
        return torch.from_numpy(np.where(levels > 0, (levels - 1) / 254 * (near - far) + far, 0).astype(np.float32))

    def _mesh(self, meta: Mapping[str, Any], stretch: Float[ndarray, "3 3"]) -> tuple[Mesh | None, tuple[str, ...]]:
        """The object true to scale, or why there is none."""
        name = f"{meta['class_id']}/{meta['sample_id']}"
        if self.shapenet is None:
            said = f"{name}: ShapeNet is not here: give its folder (shapenet=, or {_VARIABLE}); no mesh"
            return None, (said,)
        self.models.paths.setdefault(name, self.shapenet / name / "models" / "model_normalized.obj")
        try:
            mesh = self.models[name]
        except (AssetError, InputError) as error:
            return None, (f"no mesh: {error}",)
        moved = mesh.vertices @ torch.from_numpy(stretch).float().T
        faces = mesh.faces if np.linalg.det(stretch) > 0 else mesh.faces[..., [0, 2, 1]]
        return replace(mesh, vertices=moved, faces=faces, sdf=None, symmetries=None), ()

    def _hand_pose(self, index: int, meta: Mapping[str, Any], side: str) -> tuple[HandPose | None, tuple[str, ...]]:
        if self.truth == "none":
            return None, ()
        by_vertices = self.truth == "vertices" or (self.truth == "auto" and self.hand.name == "mano")
        try:
            if by_vertices:
                found = fit_vertices(self.vertices(index, meta), self._fingers(meta), side, self._model)
            else:
                found = fit_joints(self.joints(index, meta), side, self._model)
        except InputError as error:
            return None, (f"no true hand pose: {error}",)
        said = (
            f"{1000 * found.residual:.1f} mm from its annotated {'vertices' if by_vertices else 'joints'} on the mean"
        )
        loose = not by_vertices or found.residual > _LOOSE
        return found, (f"true hand pose: the {self.hand.name} hand, {said}",) if loose else ()

    def _fingers(self, meta: Mapping[str, Any]) -> list[Float[Tensor, "15 3"]]:
        """What the annotation's finger values may mean: axis-angle or PCA, relative to the flat or the mean hand."""
        mean = self._model.mean_rotvec[1:].double()
        given = [torch.from_numpy(_array(meta, key, (45,), "meta")) for key in ("hand_pose", "pca_pose") if key in meta]
        read = [values.view(15, 3) for values in given]
        basis = None if self.hand.mano is None else self.hand.mano.components
        if basis is not None:
            read += [(values @ torch.from_numpy(basis)).view(15, 3) for values in given]
        return [mean, *read, *(values + mean for values in read)]

    @cached_property
    def _model(self) -> HandModel:
        return self.hand.model()


def _find_shapenet(given: str | Path | None, base: Path) -> Path | None:
    if given is not None:
        if not Path(given).is_dir():
            raise ConfigError(f"obman: shapenet {given}: no such folder")
        return Path(given)
    places = [folder / name for folder in (base, base.parent) for name in _SHAPENET]
    if os.environ.get(_VARIABLE):
        places.insert(0, Path(os.environ[_VARIABLE]).expanduser())
    return next((place for place in places if place.is_dir()), None)


def _side(meta: Mapping[str, Any], name: str) -> Literal["right", "left"]:
    side = meta.get("side", "right")
    if side not in _HAND_CODES:
        raise InputError(f"{name}: side {side!r}; known: right, left")
    return side


def _array(meta: Mapping[str, Any], key: str, shape: tuple[int, ...], name: str) -> ndarray:
    if key not in meta:
        raise InputError(f"{name}: its annotation has no {key!r}; it holds {', '.join(sorted(map(str, meta)))}")
    values = np.asarray(meta[key], np.float64)
    if values.size != int(np.prod(shape)) or not np.isfinite(values).all():
        raise InputError(f"{name}: {key} has shape {values.shape}; expected {shape} finite numbers")
    return values.reshape(shape)


def _blue(file: Path) -> ndarray:
    """The channel of the whole picture: ObMan keeps all, hand and object apart in blue, green and red."""
    try:
        with Image.open(file) as picture:
            values = np.array(picture)
    except (OSError, SyntaxError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from None
    return values if values.ndim == 2 else values[..., 2]


def _split_affine(affine: Float[ndarray, "4 4"]) -> tuple[Float[ndarray, "4 4"], Float[ndarray, "3 3"]]:
    """A rigid motion and what stretches the model before it: ``A = R S`` (polar decomposition)."""
    left, values, right = np.linalg.svd(affine[:3, :3])
    sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = left @ sign @ right, affine[:3, 3]
    stretch = right.T @ sign @ np.diag(values) @ right
    scale = float(np.trace(stretch)) / 3
    if np.allclose(stretch, scale * np.eye(3), atol=1e-4 * abs(scale)):
        # one number for every picture of an object of this size: its distance grid is then built once
        stretch = np.eye(3) * float(f"{scale:.5g}")
    return matrix, stretch
