"""What every variant begins from: first poses and features, found once and kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from horefine.config import Config
from horefine.data.mirror import mirror_pose
from horefine.errors import AssetError, InputError
from horefine.exchange import find_item, read_features, read_pose
from horefine.export import write_arrays
from horefine.extractors import extracted_first
from horefine.hand import HandModel, load_hand
from horefine.items import Item
from horefine.job import Job, input_hash
from horefine.preparation import prepare
from horefine.scene import Features, Pose
from horefine.suite import open_suite
from horefine.suite.arrays import digest, feature_arrays, pose_arrays

__all__ = ["Inputs", "Start", "folder_inputs", "seen_by", "suite_inputs"]

log = logging.getLogger(__name__)

Complete = Callable[[Pose, Features], Features]


@dataclass(frozen=True)
class Start:
    """One item, a right hand's (left ones are mirrored)."""

    pose: Pose
    """The first pose, B = 1."""
    features: Features
    """Everything that some variant asks for, B = 1."""
    truth: Pose | None
    key: str
    """Changes with the pose and the features."""


@dataclass(frozen=True)
class Inputs:
    """All items."""

    source: str
    """In words, for the table's legend."""
    names: tuple[str, ...]
    """In order, those that cannot be used too."""
    starts: Mapping[str, Start]
    failures: Mapping[str, str]
    """Name -> why it cannot be used."""
    model: HandModel
    complete: Complete | None = None
    """Finds contact once the poses are aligned (``refine(..., complete=)``); None: only what the files hold."""

    @property
    def with_truth(self) -> bool:
        """Whether some item's errors can be measured."""
        return any(start.truth is not None for start in self.starts.values())


def seen_by(features: Features, config: Config) -> Features:
    """The features without those that a recipe does not ask for."""
    asked = ("camera", "object", *config.features, *config.wishes, *extracted_first(config.features))
    return dataclasses.replace(features, **{f.name: None for f in dataclasses.fields(Features) if f.name not in asked})


def suite_inputs(source: str, level: str, configs: Iterable[Config], limit: int | None = None) -> Inputs:
    """The scenes of a benchmark suite, by name or from its folder.

    Args:
        configs: Of the variants: whether one of them wants the photographs.
        limit: Only the first scenes.

    Raises:
        ConfigError: no such suite or level, or a folder that was changed.
    """
    suite = open_suite(source, level, picture=any("image" in config.features for config in configs))
    starts = {}
    for k, name in enumerate(suite.names[:limit]):
        pose, features = suite.start[k : k + 1], suite.features[k : k + 1]
        key = digest([pose_arrays(pose) | feature_arrays(features)])[:16]
        starts[name] = Start(pose, features, suite.truth[k : k + 1], key)
    about = f"suite {suite.spec.title}, maps {suite.level}, {len(starts)} scenes"
    return Inputs(about, tuple(starts), starts, {}, load_hand(kind="embedded"))


def folder_inputs(job: Job, configs: Iterable[Config], cache: Path) -> Inputs:
    """The images of a job; what the networks find of them is kept in ``cache`` and not found again.

    Args:
        job: Images, networks, files; its recipe and output folder are not used.
        configs: Of the variants: together they say which features are wanted.

    Raises:
        NetworkMissing: a network that is needed cannot be loaded.
    """
    wanted = _wanted(list(configs), job.maps is not None)
    keys = {index: _key(job, index, wanted) for index in job.indices}
    starts: dict[str, Start] = {}
    failures: dict[str, str] = {}
    missing = []
    for index, key in keys.items():
        found = _read(job, index, cache, key)
        if found is None:
            missing.append(index)
        else:
            starts[job.dataset.names[index]] = found
    if missing and len(missing) < len(keys):
        log.info("first poses and maps: %d of %d are there", len(starts), len(keys))
    for found in prepare(job, missing, wanted):
        if not isinstance(found, Item):
            failures[found.name] = found.error or "failed"
            continue
        try:
            starts[found.name] = _keep(job, found, cache, keys[found.index])
        except InputError as error:  # its truth
            failures[found.name] = str(error)
    complete = job.networks.complete if any("contact" in config.features for config in configs) else None
    names = tuple(job.dataset.names[index] for index in job.indices)
    about = f"{len(names)} images of {job.dataset.path.name}, {_origin(job)}"
    return Inputs(about, names, starts, failures, job.model, complete)


def _origin(job: Job) -> str:
    poses = "first poses from files" if job.poses is not None else f"first poses by {job.init}"
    return f"{poses}, maps {'from files' if job.maps is not None else 'by the networks'}"


def _wanted(configs: list[Config], files: bool) -> tuple[str, ...]:
    names = [name for config in configs for name in (*config.features, *extracted_first(config.features))]
    if files:  # networks give what is asked for; files hold what they hold
        names += [name for config in configs for name in config.wishes]
    return tuple(dict.fromkeys(names))


def _key(job: Job, index: int, wanted: tuple[str, ...]) -> str:
    networks = [job.weights, job.init, job.detector] if job.poses is None or job.maps is None else []
    model = hashlib.sha256(job.model.template.cpu().numpy().tobytes()).hexdigest()
    parts = [input_hash(job, index), *networks, sorted(wanted), model]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _truth(job: Job, item: Item) -> Pose | None:
    """Of the sidecar, else of a folder ``truth`` beside the images'; as a right hand's."""
    truth = item.sample.truth
    if truth is None:
        folder = job.dataset.root.resolve().parent / "truth"
        try:
            path = find_item(folder, item.name)
        except InputError:
            return None
        truth = read_pose(path).pose
    return mirror_pose(truth) if item.left else truth


def _keep(job: Job, item: Item, cache: Path, key: str) -> Start:
    """Keeps what was found of an image, mirrored as it is refined."""
    assert item.pose is not None and item.features is not None
    features = dataclasses.replace(item.features, object=item.mesh())
    arrays = pose_arrays(item.pose) | feature_arrays(features) | {"key": np.array(key)}
    if features.pose_spread is not None:
        arrays["pose_spread"] = features.pose_spread[0].cpu().numpy()
    start = Start(item.pose, features, _truth(job, item), key)
    write_arrays(cache / f"{item.name}.npz", arrays)
    return start


def _read(job: Job, index: int, cache: Path, key: str) -> Start | None:
    """What an earlier run kept of an unchanged image; None where there is nothing, or nothing usable."""
    path = cache / f"{job.dataset.names[index]}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                return None
            spread = torch.from_numpy(stored["pose_spread"])[None] if "pose_spread" in stored.files else None
        item = Item(index, job.dataset[index])
        features = read_features(path, item.sample.camera, item.mesh(), item.sample.camera.size)
        pose = read_pose(path).pose
        return Start(pose, dataclasses.replace(features, pose_spread=spread), _truth(job, item), key)
    except FileNotFoundError:
        return None
    except (InputError, AssetError, OSError, ValueError, KeyError, EOFError) as error:
        log.warning("%s: cannot be used (%s): found again", path, error)
        return None
    except Exception as error:  # zipfile.BadZipFile and friends: a damaged archive
        log.warning("%s: damaged (%s): found again", path, error)
        return None
