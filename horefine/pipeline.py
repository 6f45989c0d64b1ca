"""Many images in a straight line: read, find, crop, first pose, features (:mod:`horefine.preparation`), refine, write.

Work goes in batches; an image that cannot be used drops out of its batch with a message and the others go on. An item's
folder appears when all its files are written, so whatever ends a run leaves finished items or none. With
``job.threads``, while one batch is refined the next is read and prepared and the one before is written
(:mod:`horefine.overlap`); batches, results and their order are the same.
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from typing import Any

import torch

from horefine import outcome
from horefine.batching import cat_features
from horefine.config import Config
from horefine.data.folder import FolderDataset
from horefine.export import clean_leftovers, disk_full, new_folder, write_text
from horefine.failures import guarded, network, together
from horefine.items import Item, same_kind, shared
from horefine.job import Job, finished
from horefine.outcome import Outcome
from horefine.overlap import ahead, beside
from horefine.preparation import find_inputs, read, wanted_from_files
from horefine.reconstruction import recipe_for_reconstructed
from horefine.refined import Refinement
from horefine.refinement import refine
from horefine.scene import Features, Pose

__all__ = ["DiskFull", "completion", "outcomes", "run", "tidy", "write_all"]

log = logging.getLogger(__name__)


class DiskFull(OSError):
    """There is no room left for results; what was finished is kept."""


def run(job: Job) -> Generator[Outcome, None, None]:
    """Refines every image; yields each outcome when its files are in place.

    Raises:
        NetworkMissing: a learned part that is needed cannot be loaded.
        DiskFull: there is no room for results.
        KeyboardInterrupt: as it comes; finished items are complete and nothing else is left.
    """
    with tidy(job):
        yield from _batches(job)


def outcomes(job: Job) -> Iterator[Outcome]:
    """As :func:`run`, in a folder of results that somebody else keeps in order (:func:`tidy`): a part of their run.

    Raises:
        NetworkMissing, DiskFull, KeyboardInterrupt: as :func:`run`.
    """
    with _full_disk_said(job):
        yield from _batches(job)


@contextmanager
def tidy(job: Job) -> Iterator[None]:
    """Makes the folder of results ready, and says what is to be done when its disk is full."""
    items = job.out / "items"
    with _full_disk_said(job):
        items.mkdir(parents=True, exist_ok=True)
        removed = clean_leftovers(items)
        if removed:
            log.info("removed %d half-written folders of a run that was stopped", removed)
        write_text(job.out / "config.resolved.yaml", job.config.dump())
        yield


@contextmanager
def _full_disk_said(job: Job) -> Iterator[None]:
    """Whatever comes of a full disk goes on up as DiskFull, which says so itself: causes do not travel from workers."""
    try:
        yield
    except Exception as error:
        if disk_full(error) and not isinstance(error, DiskFull):
            message = f"the disk that holds {job.out} is full; finished items are kept: free some space and run again"
            raise DiskFull(errno.ENOSPC, message) from error
        raise


def _batches(job: Job) -> Iterator[Outcome]:
    """Batches prepared in a thread of their own, refined and written in others; this one waits (and heeds Ctrl-C)."""
    with (
        closing(beside(_prepared(job), min(job.threads, 1))) as prepared,
        closing(ahead(lambda found: _refined(job, found), prepared, _refiners(job), job.threads)) as refined,
    ):
        tasks = chain.from_iterable(refined)
        yield from ahead(_finish, tasks, job.threads, max(job.batch_size, 2 * job.threads))


def _refiners(job: Job) -> int:
    """Batches refined beside one another: a core each; a GPU has enough in one, and one is best left to this thread."""
    return job.threads if job.threads > 1 and torch.device(job.device).type == "cpu" else 0


def _prepared(job: Job) -> Iterator[Outcome | list[Item]]:
    """Items ready to be refined, in groups that fit one batch, and the outcomes of the others as they come.

    An image that cannot be read takes its place in a batch all the same: so its neighbours are those that they have
    where batches are shared out among workers or shards, and their results the same to the last bit.
    """
    waiting: list[Item] = []
    taken, wanted = 0, wanted_from_files(job)
    with closing(ahead(lambda index: _begin(job, index, wanted), job.indices, _readers(job))) as begun:
        for item in begun:
            if isinstance(item, Outcome):
                yield item
            else:
                waiting.append(item)
            taken += isinstance(item, Item) or item.status == "failed"
            if taken == job.batch_size:
                yield from _groups(job, waiting)
                waiting, taken = [], 0
    yield from _groups(job, waiting)


def _readers(job: Job) -> int:
    """Threads that read: a folder's files can be opened by several at once; who knows of other datasets."""
    return min(job.threads, 4) if isinstance(job.dataset, FolderDataset) else 0


def _begin(job: Job, index: int, wanted: Sequence[str]) -> Outcome | Item:
    """What an earlier run left of an image, or the image read."""
    job.check()
    return finished(job, index) or guarded(job, index, lambda: read(job, index, wanted))


def _groups(job: Job, items: Sequence[Item]) -> Iterator[Outcome | list[Item]]:
    """First poses and features of one batch; what is left of it in groups that are refined together."""
    ready = yield from find_inputs(job, items, job.config.features)
    yield from (alike for kind in _by_recipe(ready) for alike in same_kind(kind, _recipe(job, kind[0])))


def _refined(job: Job, found: Outcome | list[Item]) -> list[Outcome | Callable[[], Outcome]]:
    """An outcome as it is; of items that are refined now the writing of each one's files, still to be done."""
    if isinstance(found, Outcome):
        return [found]
    return list(together(job, found, lambda chosen: _refine(job, chosen), deliver=True))


def _finish(task: Outcome | Callable[[], Outcome]) -> Outcome:
    return task if isinstance(task, Outcome) else task()


def _by_recipe(items: Sequence[Item]) -> list[list[Item]]:
    """Those with a reconstructed object apart from the others: they are refined by another recipe."""
    parts = ([item for item in items if item.reconstructed is which] for which in (False, True))
    return [part for part in parts if part]


def _recipe(job: Job, item: Item) -> Config:
    return recipe_for_reconstructed(job.config) if item.reconstructed else job.config


def completion(job: Job, features: Features) -> Callable[[Pose, Features], Features] | None:
    """Predicts contact once the poses are aligned, where the recipe wants it, no file gave it and there are maps."""
    if "contact" not in job.config.features or features.contact is not None or features.hand_mask is None:
        return None

    def complete(pose: Pose, known: Features) -> Features:
        with network():
            return job.networks.complete(pose, known)

    return complete


def _refine(job: Job, items: Sequence[Item]) -> list[Callable[[], Outcome]]:
    """One batch through the loop; what is left to do is to write each item's files."""
    features = cat_features([item.features for item in items if item.features is not None]).to(job.device)
    pose = Pose.cat([item.pose for item in items if item.pose is not None]).to(job.device)
    with shared(items, "refine"):
        found = refine(
            pose,
            features,
            _recipe(job, items[0]),
            hand_model=job.model,
            renderer=job.renderer,
            seed=job.seed,
            progress=lambda done, total: job.check(),
            complete=completion(job, features),
        )
    return _writings(job, items, found)


def _writings(
    job: Job, items: Sequence[Item], found: Refinement, abouts: Sequence[Mapping[str, Any]] | None = None
) -> list[Callable[[], Outcome]]:
    """For each item what writes its files."""
    same = _about(job)

    def writing(row: int, item: Item) -> Callable[[], Outcome]:
        more = same if abouts is None else {**same, **abouts[row]}
        return lambda: guarded(job, item.index, lambda: _write(job, item, found, row, more))

    return [writing(row, item) for row, item in enumerate(items)]


def write_all(
    job: Job, items: Sequence[Item], found: Refinement, abouts: Sequence[Mapping[str, Any]] | None = None
) -> Iterator[Outcome]:
    """Writes each item's files; ``abouts``: what else is to be said of each in its ``result.json``."""
    yield from (writing() for writing in _writings(job, items, found, abouts))


def _about(job: Job) -> dict[str, Any]:
    """What is said of every item alike in its ``result.json``."""
    return {
        "hand_model": job.model.name,
        "first_pose": "file" if job.poses is not None else job.init,
        "features": "file" if job.maps is not None else "networks",
        "losses": {name: term.weight for name, term in job.config.terms().items()},
        "config_hash": job.key(),
        "seed": job.seed,
        "device": job.device,
        "renderer": job.renderer,
        "versions": outcome.versions(),
    }


def _write(job: Job, item: Item, found: Refinement, row: int, more: Mapping[str, Any]) -> Outcome:
    model = job.model.to("cpu")
    assert item.sample.mesh is not None
    about = {
        "object": item.sample.mesh.name[0],
        "camera": {"source": job.dataset.source_of_camera(item.index)},
        "input_hash": item.fingerprint,
        **more,
    }
    result = outcome.assemble(item, found, row, model, about)
    with new_folder(job.folder(item.index)) as folder:
        photo = item.sample.image.permute(1, 2, 0).numpy()
        outcome.write_item(folder, result, photo, pictures=job.pictures)
        table = json.loads((folder / "result.json").read_text())
    return Outcome(item.name, result.status, row=outcome.row_of(table))
