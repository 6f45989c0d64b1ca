"""Images without end through the refiner: as many at once as memory holds, of whatever objects come.

Images wait in a pool until there is a batch of those that fit one (:mod:`horefine.batching`); a batch's images are
given as soon as it is done, and the next are drawn. However long the stream, no more is kept than the pool. Within a
batch nobody waits for a hard image for long: the solver drops those that are done from its work
(:mod:`horefine.levenberg_marquardt`), and an image with several starts takes several rows of one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from horefine.batching import cat_features, fillable, kind
from horefine.config import Config, load_config
from horefine.errors import ConfigError, InputError
from horefine.hand import HandModel
from horefine.overlap import ahead
from horefine.refined import Refinement
from horefine.refinement import refine
from horefine.scene import Features, Pose
from horefine.starts import needed

__all__ = ["batch_for", "free_memory", "refine_stream", "row_bytes", "usual_batch"]

Key = TypeVar("Key", bound=Hashable)
MOST = {"cpu": 16, "cuda": 256}
"""Rows of a batch beyond which nothing is gained: on a CPU an iteration's fixed costs are spread thin by then."""
POOLED = 2
"""Batches' worth of images that may wait for others that fit them."""
PHOTO, MAP = 16_000_000, 64
"""Bytes of an image's photograph on its way from reading to drawing, and of a pixel of all its maps."""
PIXEL, VERTEX, ALIGNED, TURNED = 700, 1500, 16_000_000, 1500
"""Bytes that a row takes for each pixel of its maps and each vertex of its object; and for the search of the way in,
whatever the object is, and for each of its vertices. ``python -m benchmarks.batch_memory`` prints the peaks beside
what these make of them."""


@dataclass(frozen=True)
class _Waiting:
    """An image in the pool."""

    key: Any
    pose: Pose
    features: Features
    rows: int
    """Of a batch, that it takes: its starts."""


def refine_stream(
    images: Iterable[tuple[Key, Pose, Features]],
    config: Config | str | Path | Mapping[str, Any] = "default",
    *,
    batch: int | Literal["auto"] = "auto",
    threads: int = 0,
    hand_model: HandModel | None = None,
    renderer: str = "auto",
    seed: int = 0,
    check: Callable[[], None] = lambda: None,
    complete: Callable[[Pose, Features], Features] | None = None,
    failed: Callable[[Key, Exception], None] | None = None,
) -> Generator[tuple[Key, Refinement], None, None]:
    """:func:`refine` on each of many images: the same results, a batch at a time, in bounded memory.

    ::

        def images():
            for name in names:                       # drawn only as room becomes free
                yield name, first_pose(name), features_of(name)

        for name, found in refine_stream(images(), "default"):
            save(name, found.pose)

    Args:
        images: of each a key, its pose and its features (B = 1). Objects, sizes of maps and what is known may differ.
        config: as :func:`refine`'s.
        batch: the most rows refined together (an image takes one for each start); ``auto``: by memory.
        threads: batches that are refined beside one another; 0: one after another, in the caller's thread.
        hand_model, renderer, seed, complete: as :func:`refine`'s.
        check: called after each step; what it raises ends the stream.
        failed: told of each image that cannot be refined; the others go on. Without it, the error is raised.

    Yields:
        Key and result (B = 1) of each image. Images of one kind come in the order in which they went in; of others
        that fit no common batch, some may overtake. Where an image's neighbours took more steps, rows of its history
        say again what it had reached.

    Raises:
        ConfigError: a recipe that cannot be used. InputError: see :func:`refine`, unless ``failed`` is told.
    """
    config = config if isinstance(config, Config) else load_config(config)
    if batch != "auto" and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise ConfigError(f"batch: {batch!r} is neither a number of rows, 1 or more, nor auto")

    def work(group: list[_Waiting]) -> list[tuple[Any, Refinement | Exception]]:
        return list(_together(group, one_batch))

    def one_batch(group: list[_Waiting]) -> Refinement:
        return refine(
            Pose.cat([one.pose for one in group]), cat_features([one.features for one in group]), config,
            hand_model=hand_model, renderer=renderer, seed=seed, complete=complete,
            progress=lambda done, total: check(),
        )  # fmt: skip

    for results in ahead(work, _batches(images, config, batch, complete is not None), threads, max(threads, 1)):
        for key, found in results:
            if isinstance(found, Refinement):
                yield key, found
            elif failed is not None:
                failed(key, found)
            elif isinstance(found, InputError):
                raise InputError(f"{key}: {found}") from found
            else:
                raise found


def _batches(
    images: Iterable[tuple[Any, Pose, Features]], config: Config, batch: int | Literal["auto"], everything: bool
) -> Iterator[list[_Waiting]]:
    """Groups that fit one batch, each as full as it can be."""
    pool: dict[Any, list[_Waiting]] = {}
    free = fillable(config)
    most = batch if isinstance(batch, int) else 0
    for key, pose, features in images:
        if len(pose) != 1 or len(features) != 1:
            raise InputError(f"{key}: pose of {len(pose)} images and features of {len(features)}; give one at a time")
        seen = features if everything else _seen(features, config)
        most = most or batch_for(seen, config)
        rows = config.starts.count
        rows = needed(seen.pose_spread, config.starts, config.align, 1)[0] if rows == "auto" else rows
        group = pool.setdefault(kind(seen, free), [])
        if group and _rows(group) + rows > most:
            yield group
            group = pool[kind(seen, free)] = []
        group.append(_Waiting(key, pose, seen, rows))
        while sum(map(_rows, pool.values())) >= POOLED * most or any(_rows(own) >= most for own in pool.values()):
            yield pool.pop(max(pool, key=lambda which: _rows(pool[which])))
    yield from (group for group in pool.values() if group)


def _rows(group: list[_Waiting]) -> int:
    return sum(one.rows for one in group)


def _seen(features: Features, config: Config) -> Features:
    """Without what the recipe does not look at, which would only keep images apart; masks say whether one is seen."""
    asked = {"camera", "object", "hand_mask", "object_mask", *config.features, *config.wishes}
    return replace(features, **{f.name: None for f in fields(Features) if f.name not in asked})


def _together(
    group: list[_Waiting], work: Callable[[list[_Waiting]], Refinement]
) -> Iterator[tuple[Any, Refinement | Exception]]:
    """Each image's result or error; where the batch fails, each alone, so that only the bad ones are lost."""
    try:
        found = work(group)
    except MemoryError:
        raise
    except Exception as error:
        if len(group) == 1:
            yield group[0].key, error
            return
        for one in group:
            yield from _together([one], work)
        return
    yield from ((one.key, found[row]) for row, one in enumerate(group))


# --- how many at once --------------------------------------------------------------------------------------------


def batch_for(features: Features, config: Config) -> int:
    """How many rows like this image's to refine at once: what half of the free memory holds, 1 to :data:`MOST`."""
    return _fitting(row_bytes(features, config), features.camera.matrix.device)


def usual_batch(config: Config, device: torch.device | str = "cpu") -> int:
    """:func:`batch_for` before any image is seen: maps of 64 x 64, an object of 2000 vertices, a photograph beside."""
    maps = 64 * 64 * (PIXEL + 2 * MAP)
    return _fitting(PHOTO + maps + 2000 * VERTEX + _searched(2000, config), torch.device(device))


def _searched(vertices: int, config: Config) -> int:
    return ALIGNED + TURNED * vertices if config.align.features else 0


def _fitting(size: int, device: torch.device) -> int:
    return max(1, min(free_memory(device) // 2 // size, MOST.get(device.type, MOST["cuda"])))


def row_bytes(features: Features, config: Config) -> int:
    """Memory that one row of a batch takes while it is refined, about."""
    height, width = features.camera.size
    own = 2 * _bytes(features) // max(len(features), 1)  # a row of its own for each start
    vertices = features.object.vertices.shape[1]
    return own + PIXEL * height * width + VERTEX * vertices + _searched(vertices, config)


def _bytes(value: Any) -> int:
    """Of every tensor inside."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if is_dataclass(value) and not isinstance(value, type):
        return sum(_bytes(getattr(value, f.name)) for f in fields(value))
    return 0


def free_memory(device: torch.device | str = "cpu") -> int:
    """Bytes that a device has left; of the machine's memory, what this process's control group lets it have."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = [4 << 30]  # where the system does not say
    with suppress(OSError, ValueError, StopIteration, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = [int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024]
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # "max" where there is no limit
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        found.append(max(limit - used, 0))
    return min(found)
