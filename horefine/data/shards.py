"""Training shards: scenes as plain memory-mapped arrays, so that reading them costs nothing.

A shard is a folder with a ``meta.json`` and one ``.npy`` file for each array below, or with all of them in one
``scenes.tar`` (``tar_shards``). It is written under a temporary name and renamed when complete, so a folder called
``shard_*`` is always whole. :class:`Shards` joins many.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from horefine.data.tar_shards import TAR, open_tar, write_tar

__all__ = ["ARRAYS", "MAP_SIZE", "OPTIONAL", "WHOLE_SIZE", "Shards", "shape_of", "whole_from_image", "write_shard"]

MAP_SIZE = 64
"""Side of the square maps of a crop, pixels, unless ``meta["maps"]`` says another."""
WHOLE_SIZE = 128
"""Side of the letterboxed whole image, pixels."""

ARRAYS: dict[str, tuple[str, tuple[Any, ...]]] = {
    # The square crop of side S around hand and object (meta["crop"], 128 unless asked), and its exact maps of side M
    "image": ("uint8", (3, "S", "S")),  # sRGB
    "hand_mask": ("uint8", ("M", "M")),  # visible coverage, 255 = 1; occluders in front are taken out
    "object_mask": ("uint8", ("M", "M")),
    "hand_coords": ("float16", (3, "M", "M")),  # HandModel.codes, 0..1 where the mask is not zero, else 0
    "object_coords": ("float16", (3, "M", "M")),  # Mesh.codes
    "depth": ("float16", ("M", "M")),  # metres minus the depth of the object's box centre, 0 where both masks are 0
    # The whole photo, letterboxed (640x480: 128 wide, 96 high, rows 16..111); see whole_from_image
    "whole": ("uint8", (3, 128, 128)),
    # Geometry; pixels are those of the photo (640x480 unless "photo" says); pixel (0, 0) = centre of the top-left one
    "camera_matrix": ("float32", (3, 3)),  # of the photo
    "crop_box": ("float32", (4,)),  # x0 y0 x1 y1 of the square crop (it may leave the photo)
    "crop_matrix": ("float32", (3, 3)),  # intrinsics of the maps: Camera.cropped(crop_box, (M, M))
    "hand_box": ("float32", (4,)),  # of the whole hand (hidden parts too), clipped to the photo
    "object_box": ("float32", (4,)),
    # Truth: the fields of horefine.scene.Pose, camera frame (metres, radians), always a right hand
    "hand_rotvec": ("float32", (16, 3)),
    "hand_shape": ("float32", (10,)),
    "hand_transl": ("float32", (3,)),
    "object_rotvec": ("float32", (3,)),
    "object_transl": ("float32", (3,)),
    "joints": ("float32", (21, 3)),  # camera frame, house order
    "object_center": ("float32", (3,)),  # centre of the object's bounding box, camera frame
    "object": ("int16", ()),  # index into meta["objects"]
    "visible": ("float32", (2,)),  # share of the hand's and of the object's silhouette that is seen; NaN: not known
    "index": ("int64", ()),  # of the scene in its dataset
}
"""name -> dtype and shape of one scene; a shard stacks N of them along the first axis."""
OPTIONAL: dict[str, tuple[str, tuple[Any, ...]]] = {
    "sensed": ("float16", ("M", "M")),  # depth of a sensor in the crop, metres along z; 0: nothing known
    "photo": ("int32", (2,)),  # height and width of the photo, pixels
}
"""Arrays that older shards lack; one that any shard of a folder lacks is as if none had it."""


def whole_from_image(points: np.ndarray, size: tuple[int, int] | np.ndarray = (480, 640)) -> np.ndarray:
    """Pixels (..., 2) of a photo of ``size`` (height, width; or one for each, (..., 2)) to pixels of its letterboxed
    128x128 picture."""
    sides = np.asarray(size, np.float64)
    scale = WHOLE_SIZE / sides.max(-1, keepdims=True)
    pad = (WHOLE_SIZE - sides[..., ::-1] * scale) / 2
    return (np.asarray(points) + 0.5) * scale + pad - 0.5


def shape_of(name: str, meta: Mapping[str, Any]) -> tuple[int, ...]:
    """Shape of one scene's array in shards with this ``meta``."""
    sides = {"S": meta["crop"], "M": meta.get("maps", MAP_SIZE)}
    return tuple(sides.get(side, side) for side in {**ARRAYS, **OPTIONAL}[name][1])


def write_shard(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    meta: Mapping[str, Any],
    names: Sequence[str] | None = None,
    *,
    tar: bool = False,
) -> None:
    """Writes one shard folder: every array of :data:`ARRAYS` (and of :data:`OPTIONAL` where given), checked and
    converted, then ``meta.json``.

    ``meta`` must hold ``objects`` (names), ``crop`` (S) and ``hand`` (hash of the hand asset). An existing shard of
    that name is replaced. ``tar``: as ``scenes.tar``, whose labels say each scene's object and its name in ``names``.
    Raises ValueError when an array is missing or misshapen.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    count = len(arrays["index"])
    given = {name: kind for name, kind in OPTIONAL.items() if name in arrays}
    checked = {}
    for name, (dtype, _) in (ARRAYS | given).items():
        wanted = (count, *shape_of(name, meta))
        if name not in arrays or arrays[name].shape != wanted:
            found = "missing" if name not in arrays else f"of shape {arrays[name].shape}"
            raise ValueError(f"shard array {name!r} is {found}; it must be {wanted}")
        checked[name] = np.ascontiguousarray(arrays[name], dtype=dtype)
    if tar:
        keys = [f"{index:09d}" for index in checked["index"].tolist()]
        shown = [meta["objects"][number] for number in checked["object"].tolist()]
        labels = [{"name": name, "object": one} for name, one in zip(names or keys, shown, strict=True)]
        write_tar(partial / TAR, checked, keys, labels)
    else:
        for name, values in checked.items():
            np.save(partial / f"{name}.npy", values)
    (partial / "meta.json").write_text(json.dumps({**meta, "count": count}, indent=1))
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)


@dataclass(frozen=True)
class Shards:
    """Many shards as one list of scenes.

    ``shards.gather("image", indices)`` reads scenes by global index; ``shards[name][k]`` is shard k's memory map.
    """

    arrays: dict[str, list[np.ndarray]]
    meta: dict[str, Any]
    starts: np.ndarray
    """First global index of each shard, and the total at the end."""

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, name: str) -> list[np.ndarray]:
        return self.arrays[name]

    def gather(self, name: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """One array, (len(indices), ...), in the order of ``indices``."""
        indices = np.asarray(indices)
        shard = np.searchsorted(self.starts, indices, side="right") - 1
        parts = self.arrays[name]
        out = np.empty((len(indices), *parts[0].shape[1:]), parts[0].dtype)
        for which in np.unique(shard):
            rows = np.flatnonzero(shard == which)
            out[rows] = parts[which][indices[rows] - self.starts[which]]
        return out

    @property
    def optional(self) -> frozenset[str]:
        """Which arrays of :data:`OPTIONAL` all shards have."""
        return frozenset(self.arrays) & frozenset(OPTIONAL)

    @staticmethod
    def open(root: str | Path, limit: int | None = None) -> Shards:
        """Maps every finished ``shard_*`` under ``root`` (the first ``limit``) that holds scenes, in order of name.

        Shards may know different objects: ``meta["objects"]`` has all, as they are met, and ``gather("object", ...)``
        gives places in it.

        Raises FileNotFoundError when there is none, ValueError when shards differ in crop or map size or hand.
        """
        folders = sorted(p for p in Path(root).glob("shard_*") if (p / "meta.json").is_file())[:limit]
        metas = [json.loads((p / "meta.json").read_text()) for p in folders]
        full = [place for place, meta in enumerate(metas) if meta["count"]]
        folders, metas = [folders[place] for place in full], [metas[place] for place in full]
        if not folders:
            raise FileNotFoundError(
                f"{root}: no training shard (shard_*/meta.json); write some with write_training_shard"
            )
        for key in ("crop", "maps", "hand"):
            if any(m.get(key) != metas[0].get(key) for m in metas):
                raise ValueError(f"{root}: shards differ in {key!r}; keep one kind in a folder")
        mapped = [_mapped(folder, meta["count"]) for folder, meta in zip(folders, metas, strict=True)]
        names = [*ARRAYS, *(name for name in OPTIONAL if all(name in part for part in mapped))]
        arrays = {name: [part[name] for part in mapped] for name in names}
        objects = list(dict.fromkeys(name for meta in metas for name in meta["objects"]))
        if any(meta["objects"] != objects for meta in metas):
            place_of = {name: place for place, name in enumerate(objects)}
            tables = [np.array([place_of[name] for name in meta["objects"]], np.int32) for meta in metas]
            arrays["object"] = [table[part] for table, part in zip(tables, arrays["object"], strict=True)]
        starts = np.cumsum([0, *(m["count"] for m in metas)])
        return Shards(arrays, {**metas[0], "objects": objects}, starts)


def _mapped(folder: Path, count: int) -> dict[str, np.ndarray]:
    """A shard's arrays, mapped into memory."""
    if (folder / TAR).is_file():
        return open_tar(folder / TAR, count)
    there = [name for name in (*ARRAYS, *OPTIONAL) if name in ARRAYS or (folder / f"{name}.npy").is_file()]
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in there}
