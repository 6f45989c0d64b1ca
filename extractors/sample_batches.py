"""Training batches out of any dataset of samples that carry truth, cropped and mapped when they are asked for.

The interface is that of ``shard_batches.Scenes``. Exact maps are drawn from the true pose (or taken from the sample,
where it brings them), signed distances come from the sample's mesh. A sample that cannot be used is named and left out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from horefine.data import Dataset, Sample
from horefine.data.bank import hand_digest
from horefine.data.crop import crop_box, resample
from horefine.data.folder import FolderDataset
from horefine.data.hand_truth import TruthHand
from horefine.data.maps import exact_features
from horefine.data.mirror import mirror_sample
from horefine.data.scenes import SceneSource
from horefine.data.shards import MAP_SIZE, WHOLE_SIZE, Shards
from horefine.errors import ConfigError, InputError
from horefine.extractors.batches import Batch
from horefine.extractors.detector import letterbox
from horefine.extractors.shard_batches import Objects, Scenes, batch_of
from horefine.geometry import Box, axis_angle_to_matrix, project
from horefine.hand import HandModel, load_hand
from horefine.mesh import Mesh
from horefine.objects import embedded_object
from horefine.scene import Features, Pose

__all__ = ["CROP", "SampleScenes", "hand_of", "open_scenes", "record_of"]

log = logging.getLogger(__name__)

CROP = 128
"""Side of the crops, pixels, as in the shards."""
KEPT = 1000
"""Scenes kept ready in memory (about 0.2 MB each)."""
MAPS = ("hand_mask", "object_mask", "hand_coords", "object_coords", "depth")

Record = dict[str, Tensor]
"""One scene under the names of ``horefine.data.shards.ARRAYS`` (those that batches read)."""


class SampleScenes(Scenes):
    """Scenes of a dataset; numbers below ``held_out`` are its first usable samples, the others its later ones.

    ``objects`` holds the objects met so far; it grows at its end.
    """

    def __init__(
        self, dataset: Dataset, hand: HandModel, held_out: int, device: str = "cpu",
        crop: int = CROP, side: int = MAP_SIZE,
    ) -> None:  # fmt: skip
        """Reads samples until ``held_out`` usable ones are found, and one more.

        Args:
            hand: Whose pose and shape the truth is.
            crop: Side of the pictures, pixels.
            side: Side of the maps, pixels.

        Raises:
            InputError: no usable sample is left to train on; says how many were left out and why the first was.
        """
        self.dataset, self.held_out, self.device = dataset, held_out, device
        self.crop, self.side = crop, side
        self.hand, self._hand = hand.to(device), hand.to("cpu")
        self.refused: dict[int, str] = {}
        """Why samples were left out, by their number in the dataset."""
        self._ready: OrderedDict[int, Record] = OrderedDict()
        self._parts: dict[str, Objects] = {}
        self._held: list[int] = []
        self._first = 0
        while len(self._held) < held_out and self._first < len(dataset):
            self._held += [self._first] if self._record(self._first) is not None else []
            self._first += 1
        if all(self._record(index) is None for index in range(self._first, len(dataset))):
            first = f"; the first: {next(iter(self.refused.values()))}" if self.refused else ""
            raise InputError(
                f"{len(dataset)} samples, {len(self._held)} of them held out and {len(self.refused)} of no use: none "
                f"is left to train on{first}"
            )

    def __len__(self) -> int:
        """Held out and others; some of the others may turn out to be of no use."""
        return len(self._held) + len(self.dataset) - self._first

    def choose(self, count: int, generator: torch.Generator) -> np.ndarray:
        """Random training scenes."""
        return torch.randint(len(self._held), len(self), (count,), generator=generator).numpy()

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The scenes as they are; in place of one of no use comes the next."""
        return batch_of(self._reader(indices), self.objects)

    def wholes(self, indices: Sequence[int] | np.ndarray) -> tuple[Float[Tensor, "B 3 W W"], Float[Tensor, "B 2 4"]]:
        """As ``Scenes.wholes``."""
        read = self._reader(indices)
        return read("whole").float() / 255, read("boxes")

    def _reader(self, indices: Sequence[int] | np.ndarray) -> Callable[[str], Tensor]:
        records = [self._usable(int(index)) for index in indices]
        return lambda name: torch.stack([record[name] for record in records]).to(self.device)

    def _usable(self, number: int) -> Record:
        """The scene, or the next training scene that can be used (there is one: see ``__init__``)."""
        if number < len(self._held):
            return self._record(self._held[number])  # type: ignore[return-value]
        rest = len(self.dataset) - self._first
        for step in range(rest):
            record = self._record(self._first + (number - len(self._held) + step) % rest)
            if record is not None:
                return record
        raise InputError("no sample is left to train on")

    def _record(self, index: int) -> Record | None:
        """A sample's scene, or None for one of no use (named once)."""
        if index in self.refused:
            return None
        if index in self._ready:
            self._ready.move_to_end(index)
            return self._ready[index]
        name = f"sample {index}"
        try:
            sample = self.dataset[index]
            name = sample.name
            sample = mirror_sample(sample) if sample.side == "left" else sample
            record = record_of(sample, self._hand, self.crop, self.side)
            record["object"] = torch.tensor(self._number_of(sample.mesh))  # type: ignore[arg-type]
        except (ValueError, OSError) as error:
            said = str(error)
            self.refused[index] = said if said.startswith(name) else f"{name}: {said}"
            log.warning("%s; it is left out of the training", self.refused[index])
            return None
        self._ready[index] = record
        if len(self._ready) > KEPT:
            self._ready.popitem(last=False)
        return record

    def _number_of(self, mesh: Mesh) -> int:
        """The object's number; one seen for the first time gets the next."""
        vertices, faces = mesh.trimmed()
        key = hashlib.sha1(vertices.numpy().tobytes() + faces.numpy().tobytes()).hexdigest()
        if key not in self._parts:
            self._parts[key] = Objects.of([mesh]).to(self.device)
            self.objects = Objects.cat(list(self._parts.values()))
        return list(self._parts).index(key)


def open_scenes(
    data: Path | Dataset, hand: str, held_out: int, device: str = "cpu", crop: int = CROP, side: int = MAP_SIZE
) -> Scenes:
    """The scenes of a folder of training shards, of a folder of photographs with truth, or of a dataset.

    Args:
        hand: ``embedded``, ``mano`` or ``auto``: see :func:`hand_of`.
        crop: Side of pictures and ``side``: of maps; shards have their own.

    Raises:
        InputError: neither shards nor photographs there, or nothing to train on.
    """
    if isinstance(data, Path):
        if any(data.glob("shard_*/meta.json")):
            objects = Objects.of([embedded_object(name) for name in Shards.open(data).meta["objects"]])
            return Scenes.open(data, objects, hand_of(data, hand), held_out, device)
        try:
            dataset: Dataset = FolderDataset(data / "images" if (data / "images").is_dir() else data)
        except ConfigError as error:
            raise InputError(
                f"{data}: no training shards (shard_*/meta.json), and no photographs with truth either ({error}); "
                "horefine synthesize makes such a folder"
            ) from None
    else:
        dataset = data
    return SampleScenes(dataset, hand_of(data, hand), held_out, device, crop, side)


def hand_of(data: Path | Dataset, kind: str = "auto") -> HandModel:
    """The hand whose pose and shape the data's truth is.

    Of synthetic scenes it is the one that they were made with; of other data a MANO hand where there is one
    (``auto``), or the one insisted on (``embedded``, ``mano``). A dataset's truth is of the hand it was opened with.

    Raises:
        ConfigError: another one is insisted on.
    """
    truth = getattr(data, "hand", None)
    if isinstance(truth, TruthHand):
        if kind not in ("auto", truth.name):
            raise ConfigError(f"hand: {kind}: the data's truth is of the {truth.name} hand: open it with hand={kind}")
        return truth.model()
    source = getattr(data, "source", None)
    if isinstance(source, SceneSource):
        return source.hand
    embedded = load_hand(kind="embedded")
    if kind == "auto" and isinstance(data, Path):
        manifests = (data / "manifest.json", data.parent / "manifest.json")
        written = [json.loads(path.read_text()).get("hand") for path in manifests if path.is_file()]
        if any(data.glob("shard_*")) or hand_digest(embedded) in written:
            return embedded
    return load_hand(kind=kind)


@torch.no_grad()
def record_of(sample: Sample, hand: HandModel, crop: int = CROP, side: int = MAP_SIZE) -> Record:
    """What training wants of a right hand's sample; ``object`` is left to the caller.

    Raises:
        InputError: no truth or mesh, numbers that are not finite, or a hand that is not in the picture.
    """
    pose, mesh = _checked(sample)
    posed = hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl)
    rotation = axis_angle_to_matrix(pose.object_rotvec)
    held = mesh.vertices @ rotation.mT + pose.object_transl[:, None]
    if float(posed.vertices[..., 2].min()) <= 0 or float(held[..., 2].min()) <= 0:
        raise InputError(f"{sample.name}: truth: hand or object is behind the camera")
    boxes = [
        given if given is not None else _seen_box(points, sample)
        for given, points in ((sample.hand_box, posed.vertices), (sample.object_box, held))
    ]
    maps, box = _maps(sample, pose, mesh, hand, boxes, side)
    if not float(maps.hand_mask.max()) > 0.5:  # type: ignore[union-attr]
        raise InputError(
            f"{sample.name}: truth: the hand is not in the picture; do camera, pose and photo belong together?"
        )
    whole, square = letterbox(sample.image, WHOLE_SIZE)
    corners = torch.tensor(boxes)
    return {
        "image": _bytes(resample(sample.image, box, crop)),
        "whole": _bytes(whole),
        "boxes": (corners - torch.tensor([*square[:2]] * 2)) / (square[2] - square[0]),
        "crop_matrix": maps.camera.matrix[0],
        "joints": posed.joints[0],
        "object_center": ((rotation @ mesh.center[..., None])[..., 0] + pose.object_transl)[0],
        **{name: getattr(pose, name)[0] for name in Pose.names},
        **{name: _bytes(getattr(maps, name)[0]) for name in MAPS[:2]},
        **{name: getattr(maps, name)[0].half() for name in MAPS[2:]},
    }


def _checked(sample: Sample) -> tuple[Pose, Mesh]:
    if sample.truth is None:
        raise InputError(f"{sample.name}: no true pose; name one in its sidecar ('truth')")
    if sample.mesh is None:
        raise InputError(f"{sample.name}: no object mesh; name one in its sidecar ('object')")
    numbers = [("the picture", sample.image), ("the camera", sample.camera.matrix), ("the mesh", sample.mesh.vertices)]
    numbers += [(f"truth: {name}", value) for name, value in sample.truth.items()]
    for name, value in numbers:
        if not value.isfinite().all():
            raise InputError(f"{sample.name}: {name} holds numbers that are not finite")
    return sample.truth, sample.mesh


def _seen_box(points: Float[Tensor, "1 N 3"], sample: Sample) -> Box:
    """About projected points, cut by the picture."""
    height, width = sample.image.shape[1:]
    pixels = project(points, sample.camera.matrix)[0]
    low, high = pixels.amin(0).tolist(), pixels.amax(0).tolist()
    x0, x1 = (min(max(x, -0.5), width - 0.5) for x in (low[0], high[0]))
    y0, y1 = (min(max(y, -0.5), height - 0.5) for y in (low[1], high[1]))
    if x1 - x0 < 2 or y1 - y0 < 2:
        raise InputError(f"{sample.name}: truth: hand or object is outside the picture; is the camera right?")
    return x0, y0, x1, y1


def _maps(sample: Sample, pose: Pose, mesh: Mesh, hand: HandModel, boxes: list[Box], side: int) -> tuple[Features, Box]:
    """Exact maps, and the square of the photograph that they show."""
    known = sample.features
    if known is not None and known.camera.size == (side, side) and all(getattr(known, n) is not None for n in MAPS):
        return known, _box_between(sample, known)  # they know what else stands before hand and object
    box = crop_box(boxes[0], boxes[1])
    camera = sample.camera.cropped(box, (side, side))
    maps, _ = exact_features(pose, hand, mesh, camera, contact=False)
    inside = _inside(sample, box, side)
    cut = {name: getattr(maps, name) * inside for name in MAPS}
    return dataclasses.replace(maps, **cut), box


def _box_between(sample: Sample, maps: Features) -> Box:
    """The part of the photograph that maps with this camera show."""
    (fx, _, cx), (_, fy, cy), _ = sample.camera.matrix[0].tolist()
    (gx, _, dx), (_, gy, dy), _ = maps.camera.matrix[0].tolist()
    height, width = maps.camera.size
    x0, y0 = cx - (dx + 0.5) * fx / gx, cy - (dy + 0.5) * fy / gy
    return x0, y0, x0 + width * fx / gx, y0 + height * fy / gy


def _inside(sample: Sample, box: Box, side: int) -> Bool[Tensor, "S S"]:
    """Which pixels of the maps show the photograph."""
    height, width = sample.image.shape[1:]
    places = (torch.arange(side) + 0.5) / side
    x, y = box[0] + places * (box[2] - box[0]), box[1] + places * (box[3] - box[1])
    return ((y >= -0.5) & (y <= height - 0.5))[:, None] & (x >= -0.5) & (x <= width - 0.5)


def _bytes(values: Tensor) -> Tensor:
    return (values * 255).round().to(torch.uint8)
