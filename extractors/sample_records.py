"""A sample with truth as training takes it: crop, exact maps of the pose, boxes, depth; or why it is of no use."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from horefine.data import Dataset, Sample
from horefine.data.crop import crop_box, nearest, resample
from horefine.data.maps import exact_features
from horefine.data.mirror import mirror_sample
from horefine.data.shards import MAP_SIZE, WHOLE_SIZE
from horefine.errors import InputError
from horefine.extractors.detector import letterbox
from horefine.geometry import Box, axis_angle_to_matrix, project
from horefine.hand import HandModel
from horefine.mesh import Mesh
from horefine.scene import Features, Pose

__all__ = ["CROP", "Record", "Refused", "Usable", "mesh_key", "read_record", "record_of"]

CROP = 128
"""Side of the crops, pixels, as in the shards."""
MAPS = ("hand_mask", "object_mask", "hand_coords", "object_coords", "depth")

Record = dict[str, Tensor]
"""One scene by the names of ``horefine.data.shards.ARRAYS`` and ``OPTIONAL``; ``boxes``: in shares of ``whole``."""


@dataclass(frozen=True)
class Usable:
    """A sample as training takes it: right hands, left ones in the mirror."""

    record: Record
    """Without ``object``."""
    mesh: Mesh


@dataclass(frozen=True)
class Refused:
    """A sample of no use."""

    name: str
    why: str


def read_record(
    dataset: Dataset, index: int, hand: HandModel, crop: int = CROP, side: int = MAP_SIZE
) -> Usable | Refused:
    """A dataset's sample for training, or why it cannot be used: its truth, mesh or files (nothing is raised)."""
    name = f"sample {index}"
    try:
        sample = dataset[index]
        name = sample.name
        sample = mirror_sample(sample) if sample.side == "left" else sample
        record = record_of(sample, hand, crop, side)
    except (ValueError, OSError) as error:
        return Refused(name, str(error).removeprefix(f"{name}: "))
    assert sample.mesh is not None  # record_of has looked
    return Usable(record, sample.mesh)


def mesh_key(mesh: Mesh) -> str:
    """The same for the same vertices and faces."""
    vertices, faces = mesh.trimmed()
    return hashlib.sha1(vertices.numpy().tobytes() + faces.numpy().tobytes()).hexdigest()


@torch.no_grad()
def record_of(sample: Sample, hand: HandModel, crop: int = CROP, side: int = MAP_SIZE) -> Record:
    """What training wants of a right hand's sample, and all else of ``shards.ARRAYS`` but ``object`` and ``index``.

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
    maps, box, visible = _maps(sample, pose, mesh, hand, boxes, side)
    depth = torch.zeros(side, side) if sample.depth is None else nearest(sample.depth, box, side)
    if not float(maps.hand_mask.max()) > 0.5:  # type: ignore[union-attr]
        raise InputError(
            f"{sample.name}: truth: the hand is not in the picture; do camera, pose and photo belong together?"
        )
    whole, square = letterbox(sample.image, WHOLE_SIZE)
    corners = torch.tensor(boxes)
    return {
        "image": _bytes(resample(sample.image, box, crop)),
        "whole": _bytes(whole),
        "photo": torch.tensor(sample.image.shape[1:]),
        "camera_matrix": sample.camera.matrix[0],
        "crop_box": torch.tensor(box),
        "hand_box": corners[0],
        "object_box": corners[1],
        "visible": visible,
        "sensed": depth.half(),
        "boxes": (corners - torch.tensor([*square[:2]] * 2)) / (square[2] - square[0]),
        "crop_matrix": maps.camera.matrix[0],
        "joints": posed.joints[0],
        "object_center": ((rotation @ mesh.center[..., None])[..., 0] + pose.object_transl)[0],
        **{name: getattr(pose, name)[0] for name in Pose.names},
        **{name: _bytes(getattr(maps, name)[0]) for name in MAPS[:2]},
        **{name: getattr(maps, name)[0].half() for name in MAPS[2:]},
    }


def _checked(sample: Sample) -> tuple[Pose, Mesh]:
    said = f" ({'; '.join(sample.notes)})" if sample.notes else ""
    if sample.truth is None:
        raise InputError(f"{sample.name}: no true pose{said or '; name one in its sidecar (truth)'}")
    if sample.mesh is None:
        raise InputError(f"{sample.name}: no object mesh{said or '; name one in its sidecar (object)'}")
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


def _maps(
    sample: Sample, pose: Pose, mesh: Mesh, hand: HandModel, boxes: list[Box], side: int
) -> tuple[Features, Box, Float[Tensor, "2"]]:
    """Exact maps, the square of the photograph that they show, and the shares of the silhouettes that are seen."""
    known = sample.features
    if known is not None and known.camera.size == (side, side) and all(getattr(known, n) is not None for n in MAPS):
        # they know what else stands before hand and object, and not how much of these it hides
        return known, _box_between(sample, known), torch.full((2,), torch.nan)
    box = crop_box(boxes[0], boxes[1])
    camera = sample.camera.cropped(box, (side, side))
    maps, visible = exact_features(pose, hand, mesh, camera, contact=False)
    inside = _inside(sample, box, side)
    cut = {name: getattr(maps, name) * inside for name in MAPS}
    return dataclasses.replace(maps, **cut), box, visible[0]


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
