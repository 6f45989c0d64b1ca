"""Synthetic photos of a hand and what it holds, with exact poses and maps: a dataset, and what is written from it.

>>> from horefine.data.synthetic import SyntheticDataset
>>> sample = SyntheticDataset(4, seed=0)[0]  # doctest: +SKIP
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from horefine.data import Sample
from horefine.data.bank import hand_digest
from horefine.data.compose import PHOTO, Layout
from horefine.data.maps import exact_features
from horefine.data.mirror import mirror_sample
from horefine.data.scenes import SceneSource, crop_camera, crop_features, inside_photo, photo_camera
from horefine.data.sensor import sense_depth
from horefine.data.shade import Stage, develop, picture
from horefine.data.shards import ARRAYS, MAP_SIZE, WHOLE_SIZE, write_shard
from horefine.geometry import Box, Camera
from horefine.hand import HandModel
from horefine.mesh import Mesh
from horefine.scene import Features, Pose

__all__ = [
    "SceneSource", "SyntheticDataset", "benchmark_scenes", "image_tensor", "photograph", "write_dataset",
    "write_sample", "write_training_shard",
]  # fmt: skip

log = logging.getLogger(__name__)

WHOLE_BOX: Box = (-0.5, -0.5, PHOTO[1] - 0.5, PHOTO[0] - 0.5)
OUTSIDE = 127
"""Grey of what a crop shows beyond the photo (as ``horefine.data.crop``)."""


def benchmark_scenes(
    count: int, seed: int, *, size: int = MAP_SIZE, hidden: bool = False, source: SceneSource | None = None
) -> tuple[Pose, Features]:
    """Poses and exact maps of ``count`` scenes in one batch, without pictures: what refinement is measured on.

    Args:
        size: Side of the square maps, pixels.
        hidden: Whether the forearm and things in front hide parts of the maps.
        source: Where the scenes come from (default: all embedded objects, the embedded hand, this seed).

    Returns:
        The true poses and the features (with contact). ``features.object.center`` is what ``disturb`` wants.
    """
    source = source if source is not None else SceneSource(seed)
    drawn = [source.layout(index) for index in range(count)]
    pose = Pose.cat([layout.pose for _, layout in drawn])
    mesh = Mesh.cat([source.meshes[which] for which, _ in drawn])
    cameras = torch.cat([crop_camera(layout, size).matrix for _, layout in drawn])
    hiding = [layout.hiding for _, layout in drawn] if hidden else None
    features, _ = exact_features(pose, source.hand, mesh, Camera(cameras, (size, size)), hiding=hiding)
    return pose, features


class SyntheticDataset:
    """``count`` scenes: ``dataset[i]`` is a :class:`Sample` with truth and exact features. Picklable, deterministic."""

    def __init__(
        self,
        count: int,
        seed: int = 0,
        *,
        size: int | None = None,
        objects: Iterable[str | Path | Mesh] | None = None,
        hand: HandModel | None = None,
        cache: Path | None = None,
        variety: int = 4,
        left: float = 0.0,
    ) -> None:
        """Makes nothing yet.

        Args:
            count: Number of scenes.
            seed: Of everything.
            size: Side of the square crop to draw, pixels; the whole 640x480 photo when left out.
            objects: Names, mesh files or meshes; all embedded objects when left out.
            hand: The embedded hand when left out.
            cache: Folder in which grasps are kept.
            variety: Blocks of about 50 grasps made of each object.
            left: Share of photos that show a left hand (whole photos only; ``side`` says so, nothing else differs).

        Raises:
            ValueError: ``left`` with crops (networks see right hands only).
        """
        if left and size is not None:
            raise ValueError(f"left={left}: crops show right hands only; leave size out")
        self.count, self.size, self.left = count, size, left
        options = {"objects": objects, "hand": hand, "cache": cache, "variety": variety}
        self.source = SceneSource(seed, **options)
        self.mirrored = SceneSource(seed, **options, mirrored=True) if left else None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        """Scene ``index``. Raises IndexError outside 0 .. count - 1."""
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        flipped = self.mirrored is not None and self.source.rng(index, 2).random() < self.left
        source = self.mirrored if flipped and self.mirrored is not None else self.source
        which, layout = source.layout(index)
        stage = source.stage(index, which, layout)
        features, _ = crop_features(layout, source.meshes[which])
        name = f"scene_{index:06d}"
        if self.size is not None:
            return self._crop(name, source.meshes[which], layout, stage, features)
        sample = Sample(
            name=name,
            image=image_tensor(photograph(stage, layout, PHOTO)),
            camera=photo_camera(layout),
            mesh=source.meshes[which],
            depth=torch.from_numpy(sense_depth(stage, layout, source.rng(index, 3))),
            hand_box=layout.hand_box,
            object_box=layout.object_box,
            truth=layout.pose,
            features=features,
        )
        return mirror_sample(sample) if flipped else sample

    def _crop(self, name: str, mesh: Mesh, layout: Layout, stage: Stage, features: Features) -> Sample:
        assert self.size is not None
        scale = self.size / (layout.crop_box[2] - layout.crop_box[0])

        def inside(box: Box) -> Box:
            x0, y0, x1, y1 = ((v - layout.crop_box[i % 2]) * scale - 0.5 for i, v in enumerate(box))
            return x0, y0, x1, y1

        return Sample(
            name=name,
            image=image_tensor(_crop_picture(stage, layout, self.size)),
            camera=crop_camera(layout, self.size),
            mesh=mesh,
            hand_box=inside(layout.hand_box),
            object_box=inside(layout.object_box),
            truth=layout.pose,
            features=features,
        )


def image_tensor(image: np.ndarray) -> Float[Tensor, "3 H W"]:
    """A picture (H x W x 3, uint8) as ``Sample.image``."""
    return torch.tensor(image).permute(2, 0, 1).float() / 255  # a copy: the picture may be read-only


def photograph(stage: Stage, layout: Layout, size: tuple[int, int]) -> np.ndarray:
    """The whole photo at a size (height, width), uint8."""
    matrix = photo_camera(layout).resized(size).matrix[0].numpy()
    return develop(picture(stage, matrix, size, WHOLE_BOX), stage.lens, size[1] / PHOTO[1])


def _crop_picture(stage: Stage, layout: Layout, size: int) -> np.ndarray:
    """The square crop, uint8, grey beyond the photo."""
    matrix = crop_camera(layout, size).matrix[0].numpy()
    linear = picture(stage, matrix, (size, size), layout.crop_box)
    image = develop(linear, stage.lens, size / (layout.crop_box[2] - layout.crop_box[0]))
    return np.where(inside_photo(layout, size)[..., None], image, np.uint8(OUTSIDE))


def write_training_shard(
    path: str | Path,
    *,
    start: int,
    count: int = 500,
    seed: int = 0,
    crop: int = 128,
    source: SceneSource | None = None,
) -> float:
    """Writes scenes ``start`` .. ``start + count - 1`` as one shard (arrays: ``horefine.data.shards.ARRAYS``).

    Args:
        path: Folder to make, ``.../shard_00000``; read it with ``Shards.open(parent)``.
        crop: Side of the stored crops, pixels.
        source: Default: all embedded objects and the embedded hand, with ``seed``.

    Returns:
        Scenes made in a second.
    """
    source = source if source is not None else SceneSource(seed)
    began = time.perf_counter()
    records = [_record(source, index, crop) for index in range(start, start + count)]
    arrays = {name: np.stack([record[name] for record in records]) for name in ARRAYS}
    meta = {"objects": list(source.names), "crop": crop, "hand": hand_digest(source.hand), "seed": source.seed}
    write_shard(Path(path), arrays, meta)
    return count / (time.perf_counter() - began)


def _record(source: SceneSource, index: int, crop: int) -> dict[str, np.ndarray]:
    """One scene as the arrays of a shard."""
    which, layout = source.layout(index)
    stage = source.stage(index, which, layout)
    features, visible = crop_features(layout, source.meshes[which])
    height = WHOLE_SIZE * PHOTO[0] // PHOTO[1]
    whole = np.full((WHOLE_SIZE, WHOLE_SIZE, 3), OUTSIDE, np.uint8)
    edge = (WHOLE_SIZE - height) // 2
    whole[edge : edge + height] = photograph(stage, layout, (height, WHOLE_SIZE))
    record = {name: getattr(layout.pose, name)[0].numpy() for name in _POSE}
    record |= {name: _numpy(features, name) for name in ("hand_coords", "object_coords", "depth")}
    record |= {name: (_numpy(features, name) * 255).round() for name in ("hand_mask", "object_mask")}
    record |= {name: np.array(getattr(layout, name)) for name in ("hand_box", "object_box", "crop_box")}
    return record | {
        "image": _crop_picture(stage, layout, crop).transpose(2, 0, 1),
        "whole": whole.transpose(2, 0, 1),
        "camera_matrix": layout.matrix,
        "crop_matrix": features.camera.matrix[0].numpy(),
        "joints": layout.joints,
        "object_center": layout.object_center,
        "object": np.array(which),
        "visible": np.array(visible),
        "index": np.array(index),
    }


_POSE = ("hand_rotvec", "hand_shape", "hand_transl", "object_rotvec", "object_transl")
_MAPS = ("hand_mask", "object_mask", "hand_coords", "object_coords", "depth")


def _numpy(features: Features, name: str) -> np.ndarray:
    return getattr(features, name)[0].numpy()


def write_dataset(
    folder: str | Path,
    count: int,
    seed: int = 0,
    *,
    objects: Iterable[str | Path] | None = None,
    left: float = 0.0,
    hand: HandModel | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Writes ``count`` photos as ``horefine run`` reads them, and all that is known of them.

    ``images/NAME.png`` with ``images/NAME.json`` (camera, object, side, boxes, depth, truth), ``depth/NAME.png``
    (uint16 millimetres, 0 where the sensor saw nothing), ``truth/NAME.npz`` (the fields of ``Pose`` and ``side``),
    ``maps/NAME.npz`` (the arrays of ``Features`` and ``box``, the crop they show) and, last, ``manifest.json``. Every
    file appears whole; photos whose sidecar is there are not made again.

    Args:
        left: Share of left hands.
        progress: Called with the number done and ``count``.

    Returns:
        Photos made in a second (those that were there already not counted).
    """
    folder = Path(folder)
    wanted = tuple(str(thing) for thing in objects) if objects is not None else None
    dataset = SyntheticDataset(count, seed, objects=wanted, left=left, hand=hand)
    for part in ("images", "depth", "truth", "maps"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    began, made = time.perf_counter(), 0
    for index in range(count):
        if not (folder / "images" / f"scene_{index:06d}.json").is_file():
            sample = dataset[index]
            write_sample(folder, sample, str(dataset.source.wanted[dataset.source.which(index)]))
            made += 1
        if progress is not None:
            progress(index + 1, count)
    names = [f"scene_{index:06d}" for index in range(count)]
    manifest = {
        "generator": "horefine synthesize", "count": count, "seed": seed, "left": left,
        "objects": [str(thing) for thing in dataset.source.wanted], "hand": hand_digest(dataset.source.hand),
        "names": names,
    }  # fmt: skip
    _atomic(folder / "manifest.json", lambda path: path.write_text(json.dumps(manifest, indent=1)))
    return made / max(time.perf_counter() - began, 1e-9)


def write_sample(folder: Path, sample: Sample, thing: str) -> None:
    """The files of one photo, its sidecar last: with the sidecar there, all are."""
    name, features, truth = sample.name, sample.features, sample.truth
    assert features is not None and truth is not None and sample.depth is not None
    image = (sample.image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    _atomic(folder / "images" / f"{name}.png", lambda path: Image.fromarray(image).save(path, "PNG", compress_level=3))
    millimetres = (sample.depth * 1000).round().clamp(0, 65535).numpy().astype(np.uint16)
    _atomic(folder / "depth" / f"{name}.png", lambda path: Image.fromarray(millimetres).save(path, "PNG"))
    pose = {key: value[0].numpy() for key, value in truth.items()}
    _atomic(folder / "truth" / f"{name}.npz", lambda path: _npz(path, **pose, side=np.array(sample.side)))
    maps = {key: _numpy(features, key) for key in _MAPS}
    _atomic(folder / "maps" / f"{name}.npz", lambda path: _npz(path, **maps, camera=features.camera.matrix[0].numpy()))
    (fx, _, cx), (_, fy, cy), _ = sample.camera.matrix[0].tolist()
    sidecar = {
        "camera": {"fx": fx, "fy": fy, "cx": cx, "cy": cy},
        "object": thing, "side": sample.side, "hand_box": sample.hand_box, "object_box": sample.object_box,
        "depth": f"../depth/{name}.png", "truth": f"../truth/{name}.npz",
    }  # fmt: skip
    _atomic(folder / "images" / f"{name}.json", lambda path: path.write_text(json.dumps(sidecar, indent=1)))


def _npz(path: Path, **arrays: np.ndarray) -> None:
    with path.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def _atomic(path: Path, write: Callable[[Path], object]) -> None:
    """``write`` gets a temporary path, which is renamed when it returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
