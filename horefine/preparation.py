"""The inputs of a batch: images read, cropped and given first poses and features; one that fails drops out alone."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from horefine.data.folder import FolderDataset
from horefine.data.mirror import mirror_pose
from horefine.errors import InputError
from horefine.extractors import extracted_first
from horefine.failures import each, guarded, network, together
from horefine.items import (
    Item,
    box_of_pose,
    check_hand,
    features_from_file,
    given_box,
    pose_from_file,
    pose_problem,
    shared,
)
from horefine.job import Job, input_hash
from horefine.outcome import Outcome
from horefine.overlap import LOADING
from horefine.reconstruction import codes_seen

__all__ = ["find_inputs", "prepare", "read", "wanted_from_files"]


def prepare(job: Job, indices: Sequence[int], wanted: Sequence[str] | None = None) -> Iterator[Item | Outcome]:
    """First poses and the wanted features of some images, as refinement gets them; nothing is refined or written.

    Without ``wanted`` the features are those of the job's recipe.

    Yields an item, in the images' order within a batch, or the outcome of an image that failed.

    Raises:
        NetworkMissing, KeyboardInterrupt: see :func:`horefine.pipeline.run`.
    """
    files, maps = (wanted_from_files(job), job.config.features) if wanted is None else (wanted, wanted)
    for start in range(0, len(indices), job.batch_size):
        job.check()
        batch = [guarded(job, i, lambda i=i: read(job, i, files)) for i in indices[start : start + job.batch_size]]
        yield from (found for found in batch if isinstance(found, Outcome))
        yield from (yield from find_inputs(job, [found for found in batch if isinstance(found, Item)], maps))


def wanted_from_files(job: Job) -> tuple[str, ...]:
    """What is read from files of maps: also what optional losses would use."""
    return (*job.config.features, *extracted_first(job.config.features), *job.config.wishes)


def read(job: Job, index: int, wanted: Sequence[str]) -> Item:
    """The image with its sidecar and the files of other systems."""
    start = time.perf_counter()
    with nullcontext() if isinstance(job.dataset, FolderDataset) else LOADING:  # who knows how others load
        item = Item(index, job.dataset[index])
        if item.sample.mesh is not None or not job.reconstructs:
            item.mesh()
        if job.poses is not None:
            item.pose = pose_from_file(item, job.poses, job.model)
        if job.maps is not None:
            item.features = features_from_file(item, job.maps, job.dataset, wanted)
        item.fingerprint = input_hash(job, index)
    item.seconds["read"] = time.perf_counter() - start
    return item


def find_inputs(
    job: Job, items: Sequence[Item], wanted: Sequence[str]
) -> Any:  # a generator of outcomes that returns the items left
    """Crop, first pose and features of each item."""
    ready = yield from each(job, items, lambda item: _cut(job, item))
    ready = yield from together(job, ready, lambda group: _first_poses(job, group))
    ready = yield from together(job, ready, lambda group: _maps(job, group, wanted))
    if job.maps is None:
        ready = yield from each(job, ready, lambda item: check_hand(item, job.dataset))
    return ready


def _cut(job: Job, item: Item) -> None:
    """The crop: from the user's boxes, else from the given pose, else from the detector."""
    with item.timed("find"):
        box = given_box(item.sample)
        if box is None and item.pose is not None:
            pose = mirror_pose(item.pose) if item.left else item.pose
            assert item.sample.mesh is not None
            box = box_of_pose(pose, job.model, item.sample.mesh, item.sample.camera)
        if box is not None:
            item.cut(box)
            return
        told = job.maps is not None or job.dataset.gives(item.index, "side")
        with network():
            found = job.networks.locate(item.sample, item.sample.side if told else None)
        item.place(found)


def _first_poses(job: Job, items: Sequence[Item]) -> None:
    """Poses for the items that have none; one call of the network."""
    asking = [item for item in items if item.pose is None]
    if asking:
        crops = [item.crop for item in asking if item.crop is not None]
        with network(), shared(asking, "initialise"):
            poses, fields = job.networks.poses(crops)
        surfaces, meshes = fields.pop("surfaces", None), fields.pop("object", None)
        for row, item in enumerate(asking):
            item.pose = poses[row]
            if surfaces is not None and meshes is not None:
                item.take_surfaces(surfaces[row], meshes[row])
            item.fields = {name: value[row : row + 1] for name, value in fields.items() if value is not None}
    for item in items:
        assert item.pose is not None
        problem = pose_problem(item.pose)
        if problem:
            raise InputError(f"{item.name}: the first pose cannot be used: {problem}")


def _maps(job: Job, items: Sequence[Item], wanted: Sequence[str]) -> None:
    """Features for the items that have none: only what is wanted (what the active losses need)."""
    asking = [item for item in items if item.features is None]
    if not asking:
        return
    names = [name for name in extracted_first(wanted) if name not in asking[0].fields]
    with network(), shared(asking, "features"):
        found = job.networks.features([item.crop for item in asking if item.crop is not None], names)
    for row, item in enumerate(asking):
        given = {name: value for name, value in item.fields.items() if name in wanted}
        own = dataclasses.replace(found[row : row + 1], object=item.mesh())
        if item.reconstructed and own.object_coords is not None:
            assert item.pose is not None
            own = dataclasses.replace(own, object_coords=codes_seen(item.pose, own, job.model, job.renderer))
        item.features = dataclasses.replace(own, **given)
