"""A run described: which images, which recipe, where results go; and what it would do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch

from horefine.config import Config
from horefine.data import Sample
from horefine.data.frames import natural_order
from horefine.data.opened import Photographs
from horefine.errors import AssetError, ConfigError, InputError
from horefine.exchange import find_item
from horefine.export import SCHEMA_VERSION
from horefine.extractors import weights
from horefine.extractors.detector import Located
from horefine.hand import HandModel, load_hand
from horefine.items import Item, features_from_file, pose_from_file
from horefine.outcome import Outcome, row_of
from horefine.scene import Features, Pose

__all__ = [
    "ClipSettings",
    "Job",
    "Networks",
    "Plan",
    "check_device",
    "check_renderer",
    "finished",
    "hand_model",
    "input_hash",
    "plan",
    "weights_digest",
]


@runtime_checkable
class Networks(Protocol):
    """The learned parts that a job uses; see ``extractors``.

    One whose first poses come with surfaces, so that an object needs no mesh, says ``reconstructs = True``.
    """

    def locate(self, sample: Sample, side: Literal["right", "left"] | None) -> Located:
        """Where hand and object are in a photograph; ``side`` is None where nobody said which hand it is."""
        ...

    def poses(self, crops: Sequence[Sample]) -> tuple[Pose, dict[str, Any]]:
        """First poses of B crops, and the features that come with them (B each)."""
        ...

    def features(self, crops: Sequence[Sample], names: Sequence[str]) -> Features:
        """The named maps of B crops."""
        ...

    def complete(self, pose: Pose, features: Features) -> Features:
        """The features with what depends on the pose (contact), on the device they are on."""
        ...


@dataclass(frozen=True)
class ClipSettings:
    """How the images of a folder are the frames of one clip."""

    fps: float
    """Frames a second of the folder."""
    every: int = 1
    """Only each so-manieth is used."""


@dataclass(frozen=True)
class Job:
    """What is to be done."""

    dataset: Photographs
    config: Config
    out: Path
    model: HandModel
    networks: Networks
    init: str = "hoisdf"
    """Name of an initializer; ignored when ``poses`` is there."""
    detector: str = "horefine"
    """Name of what finds hand and object; ignored when ``poses`` is there."""
    poses: Path | None = None
    """Folder with the first poses."""
    maps: Path | None = None
    """Folder with the features."""
    weights: str = ""
    """:func:`weights_digest` of the networks, when they are used."""
    device: str = "cpu"
    renderer: str = "auto"
    seed: int = 0
    batch_size: int = 8
    limit: int | None = None
    overwrite: bool = False
    strict: bool = False
    pictures: bool = True
    threads: int = 0
    """Threads that read, prepare and write beside the refinement; 0: one thing after another."""
    chosen: tuple[int, ...] | None = None
    """Only these of its images: what a shard or a worker does; None: all up to ``limit``."""
    clip: ClipSettings | None = None
    """The images are frames that follow one another (:mod:`horefine.clip_run`); None: images by themselves."""
    check: Callable[[], None] = lambda: None
    """Called after each step and before each image; raises KeyboardInterrupt when the run shall end."""

    @property
    def indices(self) -> Sequence[int]:
        """The images to refine, in order."""
        if self.chosen is not None:
            return self.chosen
        if self.clip is not None:
            return natural_order(self.dataset.names)[:: self.clip.every][: self.limit]
        return range(len(self.dataset))[: self.limit]

    @property
    def batches(self) -> list[tuple[int, ...]]:
        """The images in groups of ``batch_size``, in order: what is shared out among shards and workers.

        Images stay with their neighbours, so that results are those of the undivided run to the last bit.
        """
        order, size = tuple(self.indices), self.batch_size
        return [order[first : first + size] for first in range(0, len(order), size)]

    def folder(self, index: int) -> Path:
        return self.out / "items" / self.dataset.names[index]

    @property
    def reconstructs(self) -> bool:
        """Whether an object that has no mesh can be used: its surface is seen by a network."""
        return self.poses is None and self.maps is None and bool(getattr(self.networks, "reconstructs", False))

    def key(self) -> str:
        """Changes with everything but the images that results depend on."""
        model = hashlib.sha256(self.model.template.cpu().numpy().tobytes()).hexdigest()
        parts = (self.config.digest(), self.init if self.poses is None else "files", self.maps is not None, self.seed)
        if self.detector != "horefine" and self.poses is None:
            parts = (*parts, self.detector)
        if self.clip is not None:
            parts = (*parts, "clip", self.clip.fps, self.clip.every)
        return hashlib.sha256(json.dumps([*parts, self.weights, model, SCHEMA_VERSION]).encode()).hexdigest()[:10]


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
    todo, done, problems = [], [], {}
    for index in job.indices:
        name = job.dataset.names[index]
        try:
            if finished(job, index) is not None:
                done.append(name)
                continue
            item = Item(index, job.dataset[index])
            if job.poses is not None:
                pose_from_file(item, job.poses, job.model)
            if job.maps is not None:
                features_from_file(item, job.maps, job.dataset, job.config.features)
            todo.append(name)
        except (InputError, AssetError, ConfigError) as error:
            problems[name] = str(error)
    return Plan(tuple(todo), tuple(done), problems, job.config.features)


def finished(job: Job, index: int) -> Outcome | None:
    """What an earlier run with the same recipe left of an unchanged image."""
    folder = job.folder(index)
    if job.overwrite or not (folder / "result.json").is_file():
        return None
    try:
        table = json.loads((folder / "result.json").read_text())
    except ValueError:
        return None
    if table.get("config_hash") != job.key() or table.get("input_hash") != input_hash(job, index):
        return None
    return Outcome(job.dataset.names[index], "skipped", row=row_of(table))


def input_hash(job: Job, index: int) -> str:
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


def weights_digest(checkpoint: Path | None = None, init: str = "hoisdf") -> str:
    """Changes with the weights that come with horefine (those that are missing count as nothing) and the user's."""
    digest = hashlib.sha256()
    regressors = {"gsdf": ["gsdf"], "c2fsdf": ["c2f_sdf"]}
    paths = [
        weights.default_path(task) for task in ("detector", "features", "hoisdf", "contact", *regressors.get(init, ()))
    ]
    for path in (*paths, *([checkpoint] if checkpoint else [])):
        if path.is_file():
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:10]


def hand_model(mano_dir: Path | None, kind: str = "auto") -> HandModel:
    """The user's MANO hand or the embedded one (``hand.load_hand``).

    Raises:
        ConfigError: unknown ``kind``. AssetError: a MANO file is asked for and missing or damaged.
    """
    if kind not in ("auto", "embedded", "mano"):
        raise ConfigError(f"--hand {kind}: known: auto, embedded, mano")
    try:
        return load_hand(mano_dir, kind=kind)  # type: ignore[arg-type]
    except (OSError, ValueError) as error:
        raise AssetError(str(error)) from error
