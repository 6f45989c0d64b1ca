"""A clip in a straight line: frames in order, each prepared as any image, refined together, written as items.

What a run resumes is the clip: where its frames, its recipe and their inputs are those of a finished run, nothing is
done; else all is done again, because each frame's result hangs on the others.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from horefine.batching import cat_features
from horefine.clip import ClipRefinement, refine_clip
from horefine.clip_starts import points_of
from horefine.data.folder import FolderDataset
from horefine.data.frames import frame_numbers, natural_order
from horefine.data.mirror import mirror_pose
from horefine.errors import ConfigError, InputError
from horefine.export import write_json
from horefine.failures import failure
from horefine.items import Item, same_kind, shared
from horefine.job import Job, input_hash
from horefine.metrics import acceleration, acceleration_error, jitter
from horefine.outcome import Outcome, row_of
from horefine.pipeline import completion, tidy, write_all
from horefine.preparation import prepare
from horefine.reconstruction import one_object, recipe_for_reconstructed
from horefine.scene import Pose

__all__ = ["MOTION", "read_motion", "run"]

log = logging.getLogger(__name__)

MOTION = "clip.json"
"""What is written of the clip as a whole."""


def run(job: Job) -> Generator[Outcome, None, None]:
    """Refines the frames of one clip (``job.clip``); yields each frame's outcome when its files are in place.

    A frame that cannot be used is an outcome ``failed`` and a gap; the others go on.

    Raises:
        NetworkMissing, DiskFull, KeyboardInterrupt: as :func:`horefine.pipeline.run`.
        ConfigError: the frames show different objects.
    """
    with tidy(job):
        digest = _digest(job)
        done = _finished(job, digest)
        if done is not None:
            yield from done
            return
        (job.out / MOTION).unlink(missing_ok=True)
        failed: list[Outcome] = []
        items: list[Item] = []
        for found in _prepared(job):
            if isinstance(found, Item):
                items.append(found)
            else:
                failed.append(found)
                yield found
        yield from _refined(job, items, failed, digest)


def _digest(job: Job) -> str:
    """Changes with anything that the clip's results depend on."""
    frames = [(job.dataset.names[i], input_hash(job, i)) for i in job.indices]
    return hashlib.sha256(json.dumps([job.key(), frames]).encode()).hexdigest()[:10]


def _finished(job: Job, digest: str) -> list[Outcome] | None:
    """What an earlier run left, if it finished the same clip."""
    if job.overwrite:
        return None
    try:
        table = json.loads((job.out / MOTION).read_text())
        if table["digest"] != digest:
            return None
        found = [Outcome(**own) for own in table["failed"]]
        for name in table["frames"]:
            result = json.loads((job.out / "items" / name / "result.json").read_text())
            if result["clip"]["digest"] != digest:
                return None
            found.append(Outcome(name, "skipped", row=row_of(result)))
        return found
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _prepared(job: Job) -> Iterator[Item | Outcome]:
    """Every frame with first pose and features, all of one side of hand: that which most frames show."""
    items: list[Item] = []
    for found in prepare(job, job.indices):
        if isinstance(found, Item):
            items.append(_lighter(found))
        else:
            yield found
    sides = Counter(item.sample.side for item in items)
    if len(sides) > 1:
        side = sides.most_common(1)[0][0]
        others = [item.index for item in items if item.sample.side != side]
        log.warning(
            "%d of %d frames were taken for the other hand: a clip shows one, the %s", len(others), len(items), side
        )
        yield from (item for item in items if item.sample.side == side)
        assert isinstance(job.dataset, FolderDataset)
        told = FolderDataset(job.dataset.path, dataclasses.replace(job.dataset.options, side=side))
        for found in prepare(dataclasses.replace(job, dataset=told), others):
            yield _lighter(found) if isinstance(found, Item) else found
        return
    yield from items


def _lighter(item: Item) -> Item:
    """Without the picture, which is read again when the frame is drawn: clips are long."""
    small = item.sample.image[:, :1, :1].clone()
    item.sample = dataclasses.replace(item.sample, image=small, depth=None)
    item.crop, item.fields = None, {}
    return item


def _refined(job: Job, items: list[Item], failed: list[Outcome], digest: str) -> Iterator[Outcome]:
    place = {index: frame for frame, index in enumerate(job.indices)}
    items, odd = _alike(job, sorted(items, key=lambda item: place[item.index]))
    for item, why in odd:
        lost = failure(job, item.name, InputError(f"{item.name}: {why}"))
        failed.append(lost)
        yield lost
    if not items:
        return
    if items[0].reconstructed:
        one_object(items, job.model, job.renderer)
    numbers = _numbers(job)
    frames = torch.tensor([numbers[place[item.index]] for item in items])
    assert job.clip is not None
    log.info("%d frames are ready and refined together", len(items))
    try:
        found = _refine(job, items, frames / job.clip.fps)
    except (InputError, ConfigError, RuntimeError) as error:
        for item in items:
            yield failure(job, item.name, error)
        return
    about = {"digest": digest, "frames": len(items)}
    abouts = [{"clip": about | {"frame": int(n), "second": float(n / job.clip.fps), "bridged": bool(b)}}
              for n, b in zip(frames, found.bridged, strict=True)]  # fmt: skip
    written = []
    for row, item in enumerate(items):
        item.sample = dataclasses.replace(item.sample, image=job.dataset[item.index].image)
        for outcome in write_all(job, [item], found.frames[row], [abouts[row]]):
            (failed if outcome.status == "failed" else written).append(outcome)
            yield outcome
        item.sample = dataclasses.replace(item.sample, image=item.sample.image[:, :1, :1].clone())
    lost = [{"name": o.name, "status": o.status, "error_code": o.error_code, "error": o.error} for o in failed]
    motion = _motion(job, items, found, frames)
    write_json(job.out / MOTION, {"digest": digest, "frames": [o.name for o in written], "failed": lost, **motion})


def _numbers(job: Job) -> list[int]:
    """When each of the job's frames was taken, in frames of the folder."""
    names = [job.dataset.names[i] for i in natural_order(job.dataset.names)]
    assert job.clip is not None
    return frame_numbers(names)[:: job.clip.every][: job.limit]


def _alike(job: Job, items: list[Item]) -> tuple[list[Item], list[tuple[Item, str]]]:
    """The frames that fit one another, and the others with what is wrong with them.

    Raises:
        ConfigError: they show different objects.
    """
    objects = {item.mesh().name[0]: item.name for item in items if not item.reconstructed}
    if len(objects) > 1:
        said = ", ".join(f"{thing} in {name}" for thing, name in objects.items())
        raise ConfigError(f"--clip: a clip shows one object, these frames say {said}; run each clip by itself")
    groups = sorted(same_kind(items, job.config), key=len, reverse=True)
    kept = {id(item) for item in groups[0]} if groups else set()
    why = "its maps are not like the clip's other frames' (their size, or which there are)"
    return [item for item in items if id(item) in kept], [(item, why) for item in items if id(item) not in kept]


def _refine(job: Job, items: Sequence[Item], seconds: Tensor) -> ClipRefinement:
    features = cat_features([item.features for item in items if item.features is not None]).to(job.device)
    pose = Pose.cat([item.pose for item in items if item.pose is not None]).to(job.device)
    with shared(items, "refine"):
        return refine_clip(
            pose, features, recipe_for_reconstructed(job.config) if items[0].reconstructed else job.config,
            times=seconds, hand_model=job.model, renderer=job.renderer, seed=job.seed, batch=max(job.batch_size, 8),
            progress=lambda done, total: job.check(), complete=completion(job, features),
        )  # fmt: skip


def _motion(job: Job, items: Sequence[Item], found: ClipRefinement, frames: Tensor) -> dict[str, Any]:
    """How smoothly joints and object move: first poses, frames alone, the clip; beside the truth where it is known."""
    assert job.clip is not None
    model, mesh = (
        job.model.to("cpu"),
        cat_features([item.features for item in items if item.features is not None]).object,
    )
    step = job.clip.every
    place = torch.div(frames - frames[0], step, rounding_mode="floor")
    poses = {"first": found.frames.initial, "alone": found.alone, "clip": found.frames.pose}
    points = {
        name: [_spread(body, place) for body in points_of(model, mesh.to("cpu"), pose)] for name, pose in poses.items()
    }
    truths = [item.sample.truth for item in items]
    table: dict[str, Any] = {"fps": job.clip.fps / step, "units": "mm per frame squared (jitter: cubed), means"}
    for body, title in enumerate(("joints", "object")):
        own: dict[str, Any] = {}
        for name, bodies in points.items():
            own[f"acceleration_{name}"] = _mean(acceleration(bodies[body]))
            own[f"jitter_{name}"] = _mean(jitter(bodies[body]))
        if all(truth is not None for truth in truths):
            right = Pose.cat(
                [mirror_pose(t) if i.left else t for t, i in zip(truths, items, strict=True) if t is not None]
            )
            true = _spread(points_of(model, mesh.to("cpu"), right)[body], place)
            own |= {
                f"acceleration_error_{name}": _mean(acceleration_error(b[body], true)) for name, b in points.items()
            }
        table[title] = own
    return {"motion": table}


def _spread(points: Tensor, place: Tensor) -> Tensor:
    """The points at their places in time; NaN where there is no frame."""
    whole = points.new_full((int(place[-1]) + 1, *points.shape[1:]), torch.nan)
    whole[place] = points.cpu()
    return whole


def _mean(values: Tensor) -> float | None:
    numbers = values[values.isfinite()]
    return round(float(np.mean(numbers.numpy())), 4) if len(numbers) else None


def read_motion(out: Path) -> dict[str, Any]:
    """What :func:`run` wrote of the clip's motion; nothing where there is none."""
    try:
        return json.loads((out / MOTION).read_text())["motion"]
    except (OSError, ValueError, KeyError):
        return {}
