"""Many images in a straight line: read, find, crop, first pose, features, refine, write.

Work goes in batches; an image that cannot be used drops out of its batch with a message and the others go on. An item's
folder appears when all its files are written, so whatever ends a run leaves finished items or none.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from horefine import outcome as outcomes
from horefine.config import Config
from horefine.data import Sample
from horefine.data.folder import FolderDataset
from horefine.errors import AssetError, ConfigError, InputError
from horefine.exchange import find_item
from horefine.export import SCHEMA_VERSION, clean_leftovers, disk_full, new_folder, write_text
from horefine.geometry import Box
from horefine.hand import HandModel
from horefine.items import (
    Item,
    box_of_pose,
    cat_features,
    features_from_file,
    given_box,
    pose_from_file,
    pose_problem,
    same_kind,
)
from horefine.outcome import Outcome
from horefine.refinement import refine
from horefine.scene import Features, Pose

__all__ = ["DiskFull", "Job", "Networks", "Plan", "plan", "run"]

log = logging.getLogger(__name__)


class DiskFull(OSError):
    """There is no room left for results; what was finished is kept."""


class Networks(Protocol):
    """The learned parts that a job uses; see ``extractors``."""

    def boxes(self, sample: Sample) -> tuple[Box, Box]:
        """Hand and object box of a photograph, pixels."""
        ...

    def poses(self, crops: Sequence[Sample]) -> tuple[Pose, dict[str, Any]]:
        """First poses of B crops, and the features that come with them (B each)."""
        ...

    def features(self, crops: Sequence[Sample], names: Sequence[str]) -> Features:
        """The named maps of B crops."""
        ...


@dataclass(frozen=True)
class Job:
    """What is to be done."""

    dataset: FolderDataset
    config: Config
    out: Path
    model: HandModel
    networks: Callable[[], Networks]
    """Called when a network is first needed."""
    init: str = "hoisdf"
    """Name of an initializer; ignored when ``poses`` is there."""
    poses: Path | None = None
    """Folder with the first poses."""
    maps: Path | None = None
    """Folder with the features."""
    device: str = "cpu"
    renderer: str = "auto"
    seed: int = 0
    batch_size: int = 8
    limit: int | None = None
    overwrite: bool = False
    strict: bool = False
    pictures: bool = True
    progress: Callable[[str, int, int], None] | None = None
    """Called with stage, done, total while a batch is refined."""

    @property
    def indices(self) -> range:
        count = len(self.dataset)
        return range(count if self.limit is None else min(self.limit, count))

    def folder(self, index: int) -> Path:
        return self.out / "items" / self.dataset.names[index]

    def key(self) -> str:
        """Changes with everything but the images that results depend on."""
        model = hashlib.sha256(self.model.template.numpy().tobytes()).hexdigest()
        parts = (self.config.digest(), self.init if self.poses is None else "files", self.maps is not None, self.seed)
        return hashlib.sha256(json.dumps([*parts, model, SCHEMA_VERSION]).encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Plan:
    """What a run would do, found without running any network."""

    todo: tuple[str, ...]
    finished: tuple[str, ...]
    problems: dict[str, str]
    """Name -> what is missing."""
    features: tuple[str, ...]
    """That the active losses need."""


def plan(job: Job) -> Plan:
    """Opens every image and file that a run would, and says what it would do."""
    todo, finished, problems = [], [], {}
    for index in job.indices:
        name = job.dataset.names[index]
        try:
            if _finished(job, index) is not None:
                finished.append(name)
                continue
            item = Item(index, job.dataset[index])
            if job.poses is not None:
                pose_from_file(item, job.poses, job.model)
            if job.maps is not None:
                features_from_file(item, job.maps, job.dataset, job.config.features)
            todo.append(name)
        except (InputError, AssetError, ConfigError) as error:
            problems[name] = str(error)
    return Plan(tuple(todo), tuple(finished), problems, job.config.features)


def run(job: Job) -> Iterator[Outcome]:
    """Refines every image; yields each outcome when its files are in place.

    Raises:
        DiskFull: there is no room for results. Anything else than a bad image ends the run as it is; KeyboardInterrupt
            too, after which finished items are complete.
    """
    items = job.out / "items"
    try:
        items.mkdir(parents=True, exist_ok=True)
        removed = clean_leftovers(items)
        if removed:
            log.info("removed %d half-written folders of a run that was stopped", removed)
        write_text(job.out / "config.resolved.yaml", job.config.dump())
        yield from _batches(job)
    except OSError as error:
        if disk_full(error):
            message = f"the disk that holds {job.out} is full; finished items are kept: free some space and run again"
            raise DiskFull(error.errno, message) from error
        raise


def _batches(job: Job) -> Iterator[Outcome]:
    machinery = _Lazy(job.networks)
    waiting: list[Item] = []
    for index in job.indices:
        done = _finished(job, index)
        if done is not None:
            yield done
            continue
        item = _guarded(job, index, lambda i=index: _read(job, i))
        if isinstance(item, Outcome):
            yield item
            continue
        waiting.append(item)
        if len(waiting) == job.batch_size:
            yield from _batch(job, machinery, waiting)
            waiting = []
    yield from _batch(job, machinery, waiting)


class _Lazy:
    """The networks, made when first asked for."""

    def __init__(self, make: Callable[[], Networks]) -> None:
        self._make, self._made = make, None

    def __call__(self) -> Networks:
        if self._made is None:
            self._made = self._make()
        return self._made


def _finished(job: Job, index: int) -> Outcome | None:
    """What an earlier run with the same recipe left of an unchanged image."""
    folder = job.folder(index)
    if job.overwrite or not (folder / "result.json").is_file():
        return None
    try:
        table = json.loads((folder / "result.json").read_text())
    except ValueError:
        return None
    if table.get("config_hash") != job.key() or table.get("input_hash") != _input_hash(job, index):
        return None
    return Outcome(job.dataset.names[index], "skipped", row=outcomes.row_of(table))


def _input_hash(job: Job, index: int) -> str:
    digest = hashlib.sha256()
    try:
        digest.update(job.dataset.fingerprint(index).encode())
    except (InputError, OSError):
        return ""
    for folder in (job.poses, job.maps):
        try:
            digest.update(b"" if folder is None else find_item(folder, job.dataset.names[index]).read_bytes())
        except InputError:
            continue
    return digest.hexdigest()[:10]


def _read(job: Job, index: int) -> Item:
    """The image with its sidecar and the files of other systems."""
    import time

    start = time.perf_counter()
    item = Item(index, job.dataset[index])
    item.mesh()
    if job.poses is not None:
        item.pose = pose_from_file(item, job.poses, job.model)
    if job.maps is not None:
        item.features = features_from_file(item, job.maps, job.dataset, job.config.features)
    item.seconds["read"] = time.perf_counter() - start
    return item


def _guarded(job: Job, index: int, work: Callable[[], Any]) -> Any:
    """What ``work`` gives, or the image's failure."""
    try:
        return work()
    except Exception as error:
        return _failure(job, job.dataset.names[index], error)


def _failure(job: Job, name: str, error: Exception) -> Outcome:
    """The outcome of an image that failed; errors that concern the whole run go on up."""
    if job.strict or disk_full(error) or isinstance(error, MemoryError):
        raise error
    codes = {InputError: "input", AssetError: "asset", ConfigError: "config"}
    code = next((code for kind, code in codes.items() if isinstance(error, kind)), "internal")
    message = str(error) if code != "internal" else f"{type(error).__name__}: {error}"
    log.error("%s", message if message.startswith(name) else f"{name}: {message}")
    log.debug("%s", name, exc_info=error)
    return Outcome(name, "failed", code, message)


def _batch(job: Job, networks: Callable[[], Networks], items: Sequence[Item]) -> Iterator[Outcome]:
    ready = []
    for item in items:
        found = _guarded(job, item.index, lambda i=item: _cut(job, networks, i))
        if isinstance(found, Outcome):
            yield found
        else:
            ready.append(item)
    ready = yield from _together(job, ready, lambda group: _first_poses(networks, group))
    ready = yield from _together(job, ready, lambda group: _maps(job, networks, group))
    for group in same_kind(ready):
        yield from _together(job, group, lambda chosen: _refine_and_write(job, chosen), deliver=True)


def _together(
    job: Job, items: list[Item], work: Callable[[list[Item]], Any], deliver: bool = False
) -> Any:  # a generator of outcomes that returns the items left
    """Does ``work`` on all items at once; when that fails, on each alone, so that only the bad ones drop out."""
    if not items:
        return []
    try:
        found = work(items)
    except Exception as error:
        if job.strict or disk_full(error) or isinstance(error, MemoryError):
            raise
        if len(items) == 1:
            yield _failure(job, items[0].name, error)
            return []
        left = []
        for item in items:
            left += yield from _together(job, [item], work, deliver)
        return left
    if deliver:
        yield from found
    return items


def _cut(job: Job, networks: Callable[[], Networks], item: Item) -> None:
    """The crop: from the user's boxes, else from the given pose, else from the detector."""
    with item.timed("find"):
        box = given_box(item.sample)
        if box is None and item.pose is not None:
            from horefine.data.mirror import mirror_pose

            pose = mirror_pose(item.pose) if item.left else item.pose
            assert item.sample.mesh is not None
            box = box_of_pose(pose, job.model, item.sample.mesh, item.sample.camera)
        if box is None:
            from horefine.data.crop import crop_box

            hand, held = networks().boxes(item.sample)
            box = crop_box(item.sample.hand_box or hand, item.sample.object_box or held)
            item.notes.append("hand and object were found by the detector")
        item.cut(box)


def _first_poses(networks: Callable[[], Networks], items: Sequence[Item]) -> None:
    """Poses for the items that have none; one call of the network."""
    asking = [item for item in items if item.pose is None]
    if asking:
        crops = [item.crop for item in asking if item.crop is not None]
        with _shared(asking, "initialise"):
            poses, fields = networks().poses(crops)
        for row, item in enumerate(asking):
            item.pose = poses[row]
            item.fields = {name: value[row : row + 1] for name, value in fields.items() if value is not None}
    for item in items:
        assert item.pose is not None
        problem = pose_problem(item.pose)
        if problem:
            raise InputError(f"{item.name}: the first pose cannot be used: {problem}")


def _maps(job: Job, networks: Callable[[], Networks], items: Sequence[Item]) -> None:
    """Features for the items that have none: only what the active losses need."""
    asking = [item for item in items if item.features is None]
    if not asking:
        return
    import dataclasses

    names = [name for name in job.config.features if name not in asking[0].fields]
    with _shared(asking, "features"):
        found = networks().features([item.crop for item in asking if item.crop is not None], names)
    for row, item in enumerate(asking):
        wanted = {name: value for name, value in item.fields.items() if name in job.config.features}
        own = dataclasses.replace(found[row : row + 1], object=item.mesh())
        item.features = dataclasses.replace(own, **wanted)


def _refine_and_write(job: Job, items: Sequence[Item]) -> Iterator[Outcome]:
    """One batch through the loop; the files of each image as soon as they are asked for."""
    features = cat_features([item.features for item in items if item.features is not None]).to(job.device)
    pose = Pose.cat([item.pose for item in items if item.pose is not None]).to(job.device)
    tick = None if job.progress is None else lambda done, total: job.progress("refine", done, total)  # type: ignore[misc]
    with _shared(items, "refine"):
        found = refine(
            pose, features, job.config, hand_model=job.model, renderer=job.renderer, seed=job.seed, progress=tick
        )
    return _write_all(job, items, found)


def _write_all(job: Job, items: Sequence[Item], found: Any) -> Iterator[Outcome]:
    for row, item in enumerate(items):
        try:
            yield _write(job, item, found, row)
        except Exception as error:
            yield _failure(job, item.name, error)


def _write(job: Job, item: Item, found: Any, row: int) -> Outcome:
    model = job.model.to("cpu")
    assert item.sample.mesh is not None
    about = {
        "object": item.sample.mesh.name[0],
        "hand_model": model.name,
        "camera": {"source": job.dataset.source_of_camera(item.index)},
        "first_pose": "file" if job.poses is not None else job.init,
        "features": "file" if job.maps is not None else "networks",
        "losses": {name: term.weight for name, term in job.config.terms().items()},
        "config_hash": job.key(),
        "input_hash": _input_hash(job, item.index),
        "seed": job.seed,
        "device": job.device,
        "renderer": job.renderer,
        "versions": outcomes.versions(),
    }
    result = outcomes.assemble(item, found, row, model, about)
    with new_folder(job.folder(item.index)) as folder:
        photo = item.sample.image.permute(1, 2, 0).numpy()
        outcomes.write_item(folder, result, photo, pictures=job.pictures)
        table = json.loads((folder / "result.json").read_text())
    return Outcome(item.name, result.status, row=outcomes.row_of(table))


class _shared:
    """Adds an equal part of the time of a block to each item's ``seconds[stage]``."""

    def __init__(self, items: Sequence[Item], stage: str) -> None:
        self.items, self.stage = items, stage

    def __enter__(self) -> None:
        import time

        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        import time

        share = (time.perf_counter() - self.start) / len(self.items)
        for item in self.items:
            item.seconds[self.stage] = item.seconds.get(self.stage, 0.0) + share


def check_device(name: str) -> str:
    """The device to work on; ``auto`` is CUDA where there is one.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name}: not usable here ({str(error).splitlines()[0]}); try cpu or auto") from None
    return name


def check_renderer(name: str, device: str) -> None:
    """Loads the renderer once, so that what is missing is said before any work.

    Raises:
        ConfigError: no such renderer. AssetError: its package is missing.
    """
    from horefine.render.backends import RENDERERS, choose

    try:
        RENDERERS[choose(name, torch.device(device).type)]()
    except ValueError as error:
        raise ConfigError(f"--renderer: {error}") from None
    except ImportError as error:
        raise AssetError(f"--renderer {name}: its package cannot be imported ({error}); try --renderer auto") from None
