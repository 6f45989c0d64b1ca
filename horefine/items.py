"""From an image to what refinement needs: crop, first pose, features; by networks, or from other systems' files.

Left hands pass through here mirrored (``data.mirror``): what comes out of a :class:`Item` is a right hand's.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from horefine.batching import alike
from horefine.config import Config
from horefine.data import Sample
from horefine.data.crop import crop_box, crop_sample
from horefine.data.folder import SIDE_ASSUMED
from horefine.data.mirror import mirror_features, mirror_mesh, mirror_pose, mirror_sample
from horefine.data.opened import Photographs
from horefine.errors import InputError
from horefine.exchange import find_item, read_features, read_pose
from horefine.extractors.detector import Located
from horefine.extractors.surface import Surface
from horefine.geometry import Box, Camera, project
from horefine.hand import HandModel
from horefine.mesh import Mesh
from horefine.scene import Features, Pose

__all__ = [
    "Item", "check_hand", "features_from_file", "pose_from_file", "pose_problem", "same_kind", "shared",
]  # fmt: skip

CLEAR = 0.8
"""What a pixel of the hand's mask must have to count as clearly seen."""
LEAST_CLEAR = 0.004
"""Share of a crop's pixels (16 of 64 x 64): where fewer are clearly a hand's, there is none.

``python -m benchmarks.no_hand`` measures how many photographs with and without a hand that tells apart.
"""

FEW_CLEAR = 0.02
"""Below this share the result carries a warning."""


@dataclass
class Item:
    """One image on its way through the pipeline."""

    index: int
    sample: Sample
    """As it is: a left hand is a left hand."""
    box: Box | None = None
    """The crop, in the photograph."""
    crop: Sample | None = None
    """What networks see; mirrored for a left hand."""
    guessed: bool = False
    """Whether the crop was found by a detector that answers even when there is no hand."""
    pose: Pose | None = None
    """Mirrored for a left hand, as are the features."""
    features: Features | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    """Features that came with the first pose (B = 1 each)."""
    surfaces: dict[str, Surface] = field(default_factory=dict)
    """What a network reconstructed of ``hand`` and ``object``, the photograph's camera frame."""
    reconstructed: bool = False
    """Whether the object's mesh is such a surface."""
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    fingerprint: str = ""
    """Changes when the image or a file that it was read with does (``job.input_hash``)."""

    @property
    def name(self) -> str:
        return self.sample.name

    @property
    def left(self) -> bool:
        return self.sample.side == "left"

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds what the block takes to ``seconds[stage]``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def place(self, found: Located) -> None:
        """Takes in what a detector found. What the user gave stays; only a sure detector's hand is kept as given."""
        sample, box = self.sample, crop_box(found.hand_box, found.object_box)
        self.guessed = not found.sure and sample.hand_box is None
        if found.side is not None and found.side != sample.side:
            sample = dataclasses.replace(sample, side=found.side)
        if found.side is not None:
            sample = dataclasses.replace(sample, notes=tuple(n for n in sample.notes if n != SIDE_ASSUMED))
        if found.sure:
            points = found.keypoints if sample.keypoints is None else sample.keypoints
            sample = dataclasses.replace(sample, hand_box=found.hand_box, keypoints=points)
        self.sample = sample
        self.notes += found.notes
        self.cut(box)

    def cut(self, box: Box) -> None:
        """Makes the crop."""
        self.box = box
        crop = crop_sample(self.sample, box)
        self.crop = mirror_sample(crop) if self.left else crop

    def take_surfaces(self, surfaces: dict[str, Surface], mesh: Mesh) -> None:
        """Keeps what a network reconstructed (a right hand's); ``mesh`` becomes the object where there is none."""
        self.surfaces = {name: mirror_surface(one) if self.left else one for name, one in surfaces.items()}
        self.notes += [f"{name}: {note}" for name, one in surfaces.items() for note in one.notes]
        if self.sample.mesh is None:
            assert self.crop is not None
            self.crop = dataclasses.replace(self.crop, mesh=mesh)
            self.sample = dataclasses.replace(self.sample, mesh=mirror_mesh(mesh) if self.left else mesh)
            self.reconstructed = True
            self.notes.append("the object's mesh was not given: the surface that the network saw is refined")

    def mesh(self) -> Mesh:
        """The object, mirrored for a left hand."""
        mesh = self.sample.mesh
        if mesh is None:
            raise InputError(f"{self.name}: which object is it? Name it with --object")
        return mirror_mesh(mesh) if self.left else mesh


@contextmanager
def shared(items: Sequence[Item], stage: str) -> Iterator[None]:
    """Adds an equal part of the time of a block to each item's ``seconds[stage]``."""
    start = time.perf_counter()
    try:
        yield
    finally:
        share = (time.perf_counter() - start) / len(items)
        for item in items:
            item.seconds[stage] = item.seconds.get(stage, 0.0) + share


def mirror_surface(surface: Surface) -> Surface:
    """As ``data.mirror.mirror_mesh``, for a surface in the camera frame."""
    flipped = surface.vertices * np.array([-1, 1, 1], surface.vertices.dtype)
    return dataclasses.replace(surface, vertices=flipped, faces=surface.faces[:, [0, 2, 1]])


def given_box(sample: Sample) -> Box | None:
    """The crop that the user's boxes ask for; None when a box is missing."""
    if sample.hand_box is None or sample.object_box is None:
        return None
    return crop_box(sample.hand_box, sample.object_box)


def pose_from_file(item: Item, folder: Path, model: HandModel) -> Pose:
    """The first pose from ``--init DIR``, as a right hand's.

    Raises:
        InputError: no file for this image, one that cannot be used, or one of the other side.
    """
    mean = model.mean_rotvec if model.name == "mano" else None
    found = read_pose(find_item(folder, item.name), mean, hand_model=model, image_side=item.sample.side)
    item.notes += found.notes
    if found.side is not None and found.side != item.sample.side:
        raise InputError(
            f"{item.name}: the pose is of a {found.side} hand, the image of a {item.sample.side} one; "
            f"give --side {found.side} or 'side' in {item.name}.json"
        )
    return mirror_pose(found.pose) if item.left else found.pose


def features_from_file(item: Item, folder: Path, dataset: Photographs, wanted: Iterable[str]) -> Features:
    """The maps from ``--features DIR`` that are wanted, as a right hand's.

    Raises:
        InputError: no file for this image, or one that cannot be used.
    """
    mesh = item.sample.mesh
    if mesh is None:
        raise InputError(f"{item.name}: which object is it? Name it with --object")
    size = dataset.size_in_file(item.index)
    found = read_features(find_item(folder, item.name, (".npz",)), item.sample.camera, mesh, size)
    found = mirror_features(found) if item.left else found
    wanted = (*wanted, "camera", "object")
    absent = {f.name: None for f in dataclasses.fields(Features) if f.name not in wanted}
    return dataclasses.replace(found, **absent)  # type: ignore[arg-type]


def check_hand(item: Item, dataset: Photographs) -> None:
    """Whether the mask that a network made of a guessed crop shows a hand; a note where it is in doubt.

    Raises:
        InputError: it does not; with what the user of ``dataset`` can say.
    """
    mask = None if item.features is None else item.features.hand_mask
    if not item.guessed or mask is None:
        return
    share = float((mask > CLEAR).float().mean())
    if share >= LEAST_CLEAR:
        if share < FEW_CLEAR:
            item.notes.append(f"only {share:.1%} of the crop is clearly a hand: is there one? Boxes say where it is")
        return
    said = "; ".join(note for note in item.notes if "mediapipe" in note)
    raise InputError(
        f"{item.name}: no hand was found in this image{f' ({said})' if said else ''}; if there is one, say where: "
        f"{dataset.where_said(item.sample)}"
    )


def pose_problem(pose: Pose) -> str | None:
    """What makes a pose impossible to refine, in words; None when nothing does."""
    for name, value in pose.items():
        if not value.isfinite().all():
            return f"{name} is not finite"
    for name, place in (("hand", pose.hand_transl[0]), ("object", pose.object_transl[0])):
        if float(place[2]) <= 0:
            return f"the {name} is behind the camera"
    return None


def box_of_pose(pose: Pose, model: HandModel, mesh: Mesh, camera: Camera) -> Box:
    """The square of the photograph about a posed hand and object."""
    with torch.no_grad():
        hand = model(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).vertices
        points = pose.seen(torch.cat([hand, pose.place(mesh.vertices)], 1))
        points = points[:, points[0, :, 2] > 0.02]
        if not points.numel():
            raise InputError("the pose lies behind the camera")
        pixels = project(points, camera.matrix)[0]
    low, high = pixels.amin(0).tolist(), pixels.amax(0).tolist()
    return crop_box((low[0], low[1], high[0], high[1]), None)


def same_kind(items: Sequence[Item], config: Config) -> list[list[Item]]:
    """Items in groups that fit one batch under a recipe (``batching.alike``)."""
    parts = [item.features for item in items if item.features is not None]
    assert len(parts) == len(items)
    return [[items[k] for k in group] for group in alike(parts, config)]


def to_numpy(value: Tensor) -> np.ndarray:
    """Without gradient, on the CPU."""
    return value.detach().cpu().numpy()
