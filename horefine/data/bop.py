"""Any dataset in BOP's format (Hodan et al. 2018): rigid objects in scenes, one sample for each annotated object.

``docs/datasets.md`` shows the tree. Lengths in the files are millimetres. BOP annotates no hands: a sample has the
object's pose (``object_truth``) and no ``truth``, and says so. Hands that come in files of their own (HOT3D) are
not read here.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image
from torch import Tensor

from horefine.data import Sample
from horefine.data.annotation import box_of
from horefine.data.index import Lazy, given_names
from horefine.data.known import box_from
from horefine.data.models import ObjectModels, remember
from horefine.data.pictures import read_picture
from horefine.errors import ConfigError, InputError, suggestion
from horefine.geometry import Box, Camera
from horefine.mesh_file import UNITS

__all__ = ["BOP", "NO_HAND"]

NO_HAND = "no hand is annotated (BOP): the object's pose is known alone"
_PICTURES = ("rgb", "gray")
_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_SAME = 0.05
"""How far a mesh's diagonal may be from the one ``models_info.json`` states, as a share of it."""
_KEPT = 4
"""Scenes whose files stay in memory."""


class BOP:
    """The annotated objects of one split: scene by scene, image by image, in the order of ``scene_gt.json``."""

    def __init__(
        self,
        root: str | Path,
        split: str = "auto",
        *,
        models: str = "models",
        objects: Iterable[int] | None = None,
        visible: float = 0.1,
        targets: bool = False,
        give: str | Iterable[str] = (),
    ) -> None:
        """Reads every scene's annotation; opens no picture.

        Args:
            root: Folder of the dataset.
            split: Its folder: ``test``, ``train_pbr``, ...; ``auto``: the first of test, val, train (and their kinds).
            models: Folder of the meshes (``models_eval`` and ``models_cad`` are others).
            objects: Only these ids.
            visible: Only objects of which this share is seen, where ``scene_gt_info.json`` says it.
            targets: Only what ``test_targets_bop19.json`` lists.
            give: What of the annotation the image comes with: ``boxes``. Nothing by default: it has to be found.

        Raises:
            ConfigError: no such tree, split or models; an annotation that cannot be read.
        """
        self.root = Path(root)
        self.split = _find_split(self.root, split)
        self._scenes = sorted(
            int(f.name) for f in (self.root / self.split).iterdir() if f.is_dir() and f.name.isdigit()
        )
        self.info = _json(self.root / models / "models_info.json") or {}
        self.models = ObjectModels(_find_models(self.root / models), "mm", plausible=None)
        self.visible = visible
        self._wanted = None if objects is None else {int(number) for number in objects}
        self._targets = _targets(self.root) if targets else None
        self._give = given_names(give, ("boxes",), "give")
        self._missing_files: list[str] = []
        self._hidden = 0
        self._read: dict[int, dict[str, Any]] = {}
        self._rows = np.array(list(self._index()), np.int32).reshape(-1, 5)
        if not len(self._rows):
            raise ConfigError(
                f"--root {root}: no annotated object in {self.split} (with at least {visible:g} of it seen)"
            )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_read": {}}

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """``000048_000001_15`` (scene, image, object), as submissions want it; a second one ends in ``-2``."""
        rows = self._rows.tolist()
        return tuple(f"{s:06d}_{i:06d}_{o}" + (f"-{copy}" if copy > 1 else "") for s, i, o, _, copy in rows)

    @property
    def files(self) -> Sequence[Path]:
        """The photographs, looked for when asked for."""
        return Lazy(len(self), self._file)

    def ids(self, index: int) -> Mapping[str, int]:
        """What BOP's evaluation knows an object of an image by."""
        scene, image, number, _, _ = self._rows[index].tolist()
        return {"scene_id": scene, "im_id": image, "obj_id": number}

    def sequences(self) -> dict[str, Sequence[int]]:
        """Scene -> indices."""
        return {f"{scene:06d}": np.flatnonzero(self._rows[:, 0] == scene).tolist() for scene in self._scenes}

    def describe(self) -> dict[str, Any]:
        """Where things were found, what is missing."""
        images = {(scene, image) for scene, image, *_ in self._rows.tolist()}
        absent = [f"{scene:06d}/{image:06d}" for scene, image in sorted(images) if self._picture(scene, image) is None]
        used = Counter(self._rows[:, 2].tolist())
        return {
            "dataset": "bop", "root": str(self.root), "split": self.split, "samples": len(self),
            "scenes": len(self._scenes), "images": len(images), "pictures_missing": len(absent),
            "first_missing": absent[:3], "annotation_missing": self._missing_files, "less_visible": self._hidden,
            "models": len(self.models), "models_missing": sorted(n for n in used if str(n) not in self.models),
            "symmetric": sorted(int(k) for k, v in self.info.items() if any(n.startswith("symm") for n in v)),
            "hands": {"right": 0, "left": 0, "absent": len(self)},
            "objects": {str(number): count for number, count in sorted(used.items())},
        }  # fmt: skip

    def __getitem__(self, index: int) -> Sample:
        """One object in one image.

        Raises:
            InputError: the picture or the camera is missing or damaged. AssetError: the object's model is.
        """
        scene, image, number, _, _ = self._rows[index].tolist()
        file = self._picture(scene, image)
        if file is None:
            raise InputError(f"{self.names[index]}: no picture {image:06d} in rgb or gray of {self.split}/{scene:06d}")
        picture = read_picture(file)
        size = picture.image.shape[1], picture.image.shape[2]
        camera, scale = self._camera(scene, image, picture.size)
        camera = camera.resized(size)
        mesh = self.models[str(number)]
        self._check_size(number, mesh.vertices[0].numpy())
        matrix = self.object_matrix(index)
        placed = mesh.vertices[0].numpy() @ matrix[:3, :3].T + matrix[:3, 3]
        return Sample(
            name=self.names[index], image=picture.image, camera=camera, mesh=mesh,
            depth=self._depth(scene, image, scale, size),
            object_box=self._box(index, placed, camera, picture.size),
            object_truth=torch.tensor(matrix, dtype=torch.float32),
            ids=self.ids(index), notes=(*picture.notes, NO_HAND),
        )  # fmt: skip

    def object_matrix(self, index: int) -> Float[ndarray, "4 4"]:
        """Model (its file's frame) to camera, metres."""
        scene, image, _, place, _ = self._rows[index].tolist()
        entry = self._scene(scene)["gt"][str(image)][place]
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(entry["cam_R_m2c"], (3, 3))
        matrix[:3, 3] = np.asarray(entry["cam_t_m2c"], float) / 1000
        return matrix

    def mask(self, index: int) -> Bool[ndarray, "H W"] | None:
        """The visible part of the object, where the dataset has it."""
        scene, image, _, place, _ = self._rows[index].tolist()
        file = self.root / self.split / f"{scene:06d}" / "mask_visib" / f"{image:06d}_{place:06d}.png"
        if not file.is_file():
            return None
        with Image.open(file) as picture:
            return np.asarray(picture.convert("L")) > 0

    # --- files ---------------------------------------------------------------------------------------------------

    def _index(self) -> Iterator[tuple[int, int, int, int, int]]:
        """Scene, image, object, its place in the image's list, which one of its kind there."""
        for scene in self._scenes:
            table = self._scene(scene)
            if not table["gt"]:
                self._missing_files.append(f"{scene:06d}/scene_gt.json")
            for key in sorted(table["gt"], key=int):
                copies: Counter[int] = Counter()
                for place, entry in enumerate(table["gt"][key]):
                    number = int(entry["obj_id"])
                    row = scene, int(key), number
                    if (self._wanted is not None and number not in self._wanted) or not self._listed(row):
                        continue
                    if self._seen(table["info"], key, place) < self.visible:
                        self._hidden += 1
                        continue
                    copies[number] += 1  # of those that are kept: a submission's names have no numbers of copies
                    yield *row, place, copies[number]

    def _listed(self, row: tuple[int, int, int]) -> bool:
        return self._targets is None or row in self._targets

    def _seen(self, info: Mapping[str, Any], key: str, place: int) -> float:
        entries = info.get(key, ())
        return float(entries[place].get("visib_fract", 1.0)) if place < len(entries) else 1.0

    def _scene(self, scene: int) -> dict[str, Any]:
        """A scene's tables; the last few stay in memory."""
        found = self._read.get(scene)
        if found is None:
            folder = self.root / self.split / f"{scene:06d}"
            parts = {"gt": "scene_gt", "camera": "scene_camera", "info": "scene_gt_info"}
            found = {key: _json(folder / f"{name}.json") or {} for key, name in parts.items()}
            remember(self._read, scene, found, _KEPT)
        return found

    def _file(self, index: int) -> Path:
        scene, image, *_ = self._rows[index].tolist()
        return self._picture(scene, image) or self.root / self.split / f"{scene:06d}" / "rgb" / f"{image:06d}.png"

    def _picture(self, scene: int, image: int) -> Path | None:
        folder = self.root / self.split / f"{scene:06d}"
        tried = (folder / part / f"{image:06d}{ending}" for part in _PICTURES for ending in _ENDINGS)
        return next((file for file in tried if file.is_file()), None)

    def _camera(self, scene: int, image: int, size: tuple[int, int]) -> tuple[Camera, float]:
        """Of the picture in its file, and what its depth map's numbers are in millimetres."""
        entry = self._scene(scene)["camera"].get(str(image))
        if entry is None:
            raise InputError(f"{self.split}/{scene:06d}/scene_camera.json: has no image {image}")
        matrix = torch.tensor(entry["cam_K"], dtype=torch.float32).view(1, 3, 3)
        return Camera(matrix, size), float(entry.get("depth_scale", 1.0))

    def _depth(self, scene: int, image: int, scale: float, size: tuple[int, int]) -> Float[Tensor, "H W"] | None:
        folder = self.root / self.split / f"{scene:06d}" / "depth"
        file = next((f for e in (".png", ".tif") if (f := folder / f"{image:06d}{e}").is_file()), None)
        if file is None:
            return None
        with Image.open(file) as picture:
            values = np.asarray(picture).astype(np.float32)
        if values.shape != size:
            raise InputError(f"{file}: {values.shape[1]}x{values.shape[0]} pixels; the picture has {size[1]}x{size[0]}")
        return torch.from_numpy(values * np.float32(scale / 1000))

    def _box(self, index: int, surface: Float[ndarray, "V 3"], camera: Camera, size: tuple[int, int]) -> Box | None:
        """Of the visible part, where it is stated (x, y, width, height in whole pixels of the file), else of all."""
        if "boxes" not in self._give:
            return None
        scene, image, _, place, _ = self._rows[index].tolist()
        entries = self._scene(scene)["info"].get(str(image), ())
        seen = entries[place].get("bbox_visib", (0, 0, 0, 0)) if place < len(entries) else (0, 0, 0, 0)
        if min(seen[2:]) < 2:
            return box_of(surface, camera)
        x, y, width, height = map(float, seen)
        edges = [x - 0.5, y - 0.5, x + width - 0.5, y + height - 0.5]
        return box_from(edges, f"{self.names[index]}: bbox_visib", size, camera.size)

    def _check_size(self, number: int, vertices: Float[ndarray, "V 3"]) -> None:
        """A mesh in another unit than the annotation's is the commonest fault of home-made BOP sets."""
        sides = [self.info.get(str(number), {}).get(f"size_{axis}") for axis in "xyz"]
        if any(side is None for side in sides):
            return
        stated = float(np.linalg.norm(np.array(sides, float))) / 1000
        found = float(np.linalg.norm(np.ptp(vertices, axis=0)))
        if abs(found / stated - 1) > _SAME:
            unit = next((u for u, m in UNITS.items() if abs(found / 1e-3 * m / stated - 1) < _SAME), None)
            why = f"the file is in {unit}, not mm" if unit else "another object, or scaled"
            raise InputError(
                f"{self.models.paths[str(number)]}: {found:g} m across; models_info.json says {stated:g} m: {why}"
            )


def _find_split(root: Path, split: str) -> str:
    if not root.is_dir():
        raise ConfigError(f"--root {root}: no such folder")
    found = sorted(f.parent.parent.name for f in root.glob("*/*/scene_gt.json"))
    known = list(dict.fromkeys(found))
    if not known:
        raise ConfigError(f"--root {root}: no SPLIT/SCENE/scene_gt.json there; docs/datasets.md shows BOP's tree")
    if split in known:
        return split
    if split != "auto":
        raise ConfigError(f"--root {root}: no split {split!r}{suggestion(split, known)}")
    return min(
        known, key=lambda name: next((k for k, n in enumerate(("test", "val", "train")) if name.startswith(n)), 3)
    )


def _find_models(folder: Path) -> dict[str, Path]:
    """Id -> mesh."""
    found = {
        str(int(match[1])): file for file in sorted(folder.glob("obj_*")) if (match := _MODEL.fullmatch(file.name))
    }
    if not found:
        others = sorted(f.name for f in folder.parent.glob("models*") if f.is_dir()) if folder.parent.is_dir() else []
        raise ConfigError(f"no {folder}/obj_%06d.ply{suggestion(folder.name, others)}")
    return found


_MODEL = re.compile(r"obj_(\d+)\.(?:ply|obj|glb)")


def _targets(root: Path) -> set[tuple[int, int, int]]:
    file = next((f for f in sorted(root.glob("test_targets_bop*.json"))), None)
    if file is None:
        raise ConfigError(f"--root {root}: no test_targets_bop*.json, which targets=true wants")
    return {(int(e["scene_id"]), int(e["im_id"]), int(e["obj_id"])) for e in _json(file) or ()}


def _json(file: Path) -> Any:
    """What a file holds; None where there is none."""
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ConfigError(f"{file}: cannot be read as JSON ({error})") from None
