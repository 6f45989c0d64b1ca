"""From the options of a command to a job, and from the job to its end (``run``; ``ablate`` shares the first part)."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from horefine.console import FAILED, log, one_thread, progress, stoppable

if TYPE_CHECKING:
    from horefine.cluster import Engine
    from horefine.config import Config
    from horefine.data.folder import FolderOptions
    from horefine.job import ClipSettings, Job
    from horefine.outcome import Outcome
    from horefine.shards import Record, Shard

__all__ = ["device_there", "drive", "engine_of", "make_job", "make_jobs", "merge_shards", "parse_batch", "show_plan"]


def make_job(
    images: Path | None,
    out: Path,
    recipe: Config,
    *,
    init: str,
    detector: str,
    checkpoint: Path | None,
    features: Path | None,
    object_name: str | None,
    object_unit: str | None,
    intrinsics: str | None,
    fov: float | None,
    side: str | None,
    boxes: Path | None,
    wrist: str | None,
    mano_dir: Path | None,
    hand: str,
    device: str,
    renderer: str,
    trained_on: str | None = None,
    dataset_name: str | None = None,
    root: Path | None = None,
    split: str | None = None,
    clip: bool = False,
    every: int = 1,
    fps: float | None = None,
    **settings: Any,
) -> Job:
    """The job that the options describe; what cannot be used is said before any work.

    A video is unpacked below ``out`` and is a clip, as a folder of frames is with ``clip``.
    """
    from horefine.data.folder import FolderDataset, FolderOptions
    from horefine.data.known import parse_wrist
    from horefine.data.lens import parse_intrinsics
    from horefine.data.opened import Photographs, open_named
    from horefine.errors import ConfigError, InputError
    from horefine.extractors import Learned, reconstructs
    from horefine.job import Job, check_device, check_renderer, hand_model, weights_digest
    from horefine.stream import usual_batch

    if intrinsics is not None and fov is not None:
        raise ConfigError("--intrinsics and --fov: give one of them")
    try:
        camera = {"fov": fov} if fov is not None else None if intrinsics is None else parse_intrinsics(intrinsics)
    except InputError as error:
        raise ConfigError(f"--{error}") from None
    source = "--fov" if fov is not None else "--intrinsics"
    place = None if wrist is None else parse_wrist(wrist)
    files = _folder(Path(init), "--init") if "/" in init or Path(init).is_dir() else None
    images, frames = _clip_of(images, out, clip, every, fps)
    unknown = files is None and features is None and reconstructs(init)
    options = FolderOptions(object_name, object_unit, camera, source, side, place, boxes, unknown=unknown)
    dataset: Photographs
    if dataset_name is not None:
        _only_folders(images, options, dataset_name)
        dataset = open_named(dataset_name, root, split, {"mano_dir": mano_dir, "hand": hand})
    elif images is not None:
        dataset = FolderDataset(images, options)
    else:
        raise ConfigError("which images? Give a folder of them, or --dataset NAME --root DIR")
    where = check_device(device)
    one_thread()
    check_renderer(renderer, where)
    if checkpoint is not None and files is not None:
        raise ConfigError(f"--checkpoint {checkpoint}: goes with a network's --init, not with the poses of {files}")
    if settings.get("batch_size") == "auto":
        settings["batch_size"] = usual_batch(recipe, where)
        log.info("batches of %d images, by memory", settings["batch_size"])
    model = hand_model(mano_dir, hand)
    networks = Learned(
        "hoisdf" if files else init, device=where, hand=model, checkpoint=checkpoint, detector=detector,
        trained_on=trained_on, mano_dir=mano_dir,
    )  # fmt: skip
    return Job(
        dataset=dataset, config=recipe, out=out, model=model, networks=networks, init=init, poses=files,
        detector=detector, maps=_folder(features, "--features"), device=where, renderer=renderer,
        weights="" if files and features else weights_digest(checkpoint, init), clip=frames, **settings,
    )  # fmt: skip


def engine_of(
    name: str, address: str | None = None, workers: int | None = None, gpus: float | None = None, threads: int = 1
) -> Engine | None:
    """What ``--engine`` and its options say; None: this process does the work.

    Raises:
        ConfigError: no such engine, or an option that goes with ray. AssetError: Ray is not installed.
    """
    from horefine.cluster import Engine, load_ray
    from horefine.errors import ConfigError

    given = {"--address": address, "--workers": workers, "--gpus-per-worker": gpus}
    odd = [option for option, value in given.items() if value is not None]
    if name == "local" and odd:
        raise ConfigError(f"{odd[0]}: goes with --engine ray")
    if name not in ("local", "ray"):
        raise ConfigError(f"--engine {name}: known: local (this process), ray (docs/distribute.md)")
    if name == "local":
        return None
    load_ray()
    return Engine(address, workers, gpus or 0.0, max(threads, 1))


def device_there(engine: Engine, device: str) -> str:
    """The device that the workers of ``engine`` have.

    Raises:
        ConfigError: ``--device`` says another.
    """
    from horefine.errors import ConfigError

    there = "cuda:0" if engine.gpus else "cpu"
    if device not in ("auto", there):
        way_out = "leave out --device" if engine.gpus else "--gpus-per-worker 1 gives each worker a GPU"
        raise ConfigError(f"--device {device}: workers of --engine ray use {there}; {way_out}")
    return there


def make_jobs(
    make: Callable[..., Job], engine: Engine | None, device: str, renderer: str
) -> tuple[Job, Callable[[], Job]]:
    """The job here, and what makes it in a worker of ``engine``, on the device there.

    Args:
        make: :func:`make_job` but for device and renderer.

    Raises:
        ConfigError: as that; a clip, or a device that workers do not have, with an engine.
    """
    from horefine.errors import ConfigError

    if engine is None:
        return make(device=device, renderer=renderer), make
    there = device_there(engine, device)
    if not engine.gpus:
        job = make(device=there, renderer=renderer)
    else:  # perhaps there is no GPU here: only the workers refine
        job = dataclasses.replace(make(device="cpu", renderer="auto"), device=there, renderer=renderer)
    if job.clip is not None:
        raise ConfigError("--engine ray: a clip is refined as a whole, by one process; leave out --engine")
    return job, functools.partial(make, device=there, renderer=renderer)


def parse_batch(text: str) -> int | str:
    """What ``--batch-size`` says: a number of images, or ``auto``.

    Raises:
        ConfigError: neither.
    """
    from horefine.errors import ConfigError

    if text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"--batch-size {text}: give a number of images, 1 or more, or auto")
    return int(text)


def _clip_of(
    images: Path | None, out: Path, clip: bool, every: int, fps: float | None
) -> tuple[Path | None, ClipSettings | None]:
    """The folder of the frames, and how they are one clip; None where they are images by themselves."""
    from horefine.clip import FPS
    from horefine.data.frames import is_video
    from horefine.errors import ConfigError
    from horefine.job import ClipSettings
    from horefine.video import unpack_video

    if images is None:
        if clip:
            raise ConfigError("--clip: goes with a folder of frames or a video, not with --dataset")
        return None, None
    if is_video(images):
        folder, rate = unpack_video(images, out / "frames", every=every, fps=fps)
        log.info("%s: frames in %s, %.4g a second", images, folder, rate)
        return folder, ClipSettings(rate)
    if not clip:
        if every != 1 or fps is not None:
            raise ConfigError("--every and --fps: go with --clip or a video; images by themselves have no order")
        return images, None
    if images.is_file():
        raise ConfigError(f"--clip {images}: a picture is no clip; give the folder of its frames, or a video")
    return images, ClipSettings(FPS if fps is None else fps, every)


def _only_folders(images: Path | None, options: FolderOptions, dataset: str) -> None:
    """Refuses what is said of photographs in a folder where a dataset says it."""
    from horefine.errors import ConfigError

    given = {
        "a folder of images": images, "--object": options.object, "--object-unit": options.object_unit,
        options.camera_from: options.camera, "--side": options.side, "--wrist": options.wrist, "--boxes": options.boxes,
    }  # fmt: skip
    known = [name for name, value in given.items() if value is not None]
    if known:
        raise ConfigError(f"--dataset {dataset}: says that itself; leave out {', '.join(known)}")


def _folder(path: Path | None, option: str) -> Path | None:
    from horefine.errors import ConfigError

    if path is not None and not path.is_dir():
        raise ConfigError(f"{option} {path}: no such folder")
    return path


def show_plan(job: Job, as_json: bool) -> None:
    from horefine.job import plan

    found = plan(job)
    if as_json:
        print(json.dumps(vars(found), indent=2))
    else:
        steps = sum(stage.steps for stage in job.config.stages.values())
        counts = len(found.todo), len(found.finished), len(found.problems)
        log.info("%s: %d images to refine, %d finished, %d with problems", job.dataset.path, *counts)
        log.info("recipe: %d steps; features: %s", steps, ", ".join(found.features) or "none")
        log.info("first poses: %s; features: %s; out: %s", job.poses or job.init, job.maps or "networks", job.out)
        for name, problem in found.problems.items():
            log.error("%s", problem if problem.startswith(name) else f"{name}: {problem}")
    if found.problems:
        raise typer.Exit(FAILED)


def drive(
    job: Job, as_json: bool, quiet: bool, shard: Shard | None = None, by: Callable[[Job], Any] | None = None
) -> None:
    """Runs the job with a progress bar; writes summary and report of what was finished, however it ends.

    Args:
        shard: Only this part of it; a record is written and no summary.
        by: What yields the outcomes of a job instead of this process' pipeline.
    """
    from horefine.clip_run import run as refine_clip
    from horefine.pipeline import run as refine_images
    from horefine.shards import begin, cut

    record = None
    if shard is not None:
        whole, job = job, cut(job, shard)
        record = begin(whole, shard, _about(whole), ["horefine", *sys.argv[1:]] if "run" in sys.argv else ())
    refine_all = by or (refine_images if job.clip is None else refine_clip)
    done: list[Outcome] = []
    stopped = True
    try:
        with (
            stoppable() as check,
            progress(len(job.indices), quiet) as advance,
            contextlib.closing(refine_all(dataclasses.replace(job, check=check))) as outcomes,
        ):
            for outcome in outcomes:
                done.append(outcome.packed())
                advance(outcome)
        stopped = False
    except KeyboardInterrupt:
        kept = sum(outcome.status != "failed" for outcome in done)
        log.warning("interrupted: %d of %d images are finished and kept; run again to go on", kept, len(job.indices))
        raise
    finally:
        with contextlib.suppress(OSError) if stopped else contextlib.nullcontext():  # the disk may be full
            table = _conclude(job, done) if record is None else _end_shard(job, record, done)
    if as_json:
        print(table.read_text(), end="")
    failed = sum(outcome.status == "failed" for outcome in done)
    if failed:
        log.warning("%d of %d images failed; %s says why", failed, len(done), table)
        raise typer.Exit(FAILED)


def merge_shards(out: Path, others: Sequence[Path], as_json: bool) -> None:
    """One summary and report of all shards; says what is missing and how to get it."""
    from horefine.merge import merge
    from horefine.report import write_report

    found = merge(out, others)
    log.info("report: %s", write_report(out, f"horefine: {found.title}"))
    if as_json:
        print((out / "summary.json").read_text(), end="")
    for name, why in found.failed.items():
        log.error("%s", why if why.startswith(name) else f"{name}: {why}")
    for shard, what in found.unfinished.items():
        log.warning("shard %s: %s", shard, what)
    log.info("%d of %d images are finished", found.finished, found.total)
    if not found.complete:
        raise typer.Exit(FAILED)


def _end_shard(job: Job, record: Record, done: list[Outcome]) -> Path:
    from horefine.shards import end

    record = end(job.out, record, done)
    log.info("shard %d/%d: when all have run: horefine merge %s", record.shard, record.shards, job.out)
    return record.path(job.out)


def _about(job: Job) -> dict[str, Any]:
    """How the run is made, for its summary."""
    return {
        "schema_version": 1, "input": str(job.dataset.path), "hand_model": job.model.name, "device": job.device,
        "renderer": job.renderer, "seed": job.seed, "config_hash": job.key(), "first_pose": str(job.poses or job.init),
        "features": str(job.maps or "networks"), "complete": False, "dataset": getattr(job.dataset, "about", None),
    }  # fmt: skip


def _conclude(job: Job, done: list[Outcome]) -> Path:
    """Summary and report; returns the summary's path."""
    from horefine.clip_run import read_motion
    from horefine.outcome import write_summary
    from horefine.report import write_report

    about = _about(job) | {"complete": len(done) == len(job.indices)}
    if job.clip is not None:
        about["clip"] = read_motion(job.out)
    place = {job.dataset.names[index]: k for k, index in enumerate(job.indices)}
    write_summary(job.out, sorted(done, key=lambda outcome: place[outcome.name]), about)
    log.info("report: %s", write_report(job.out, f"horefine: {job.dataset.path.resolve().name}"))
    return job.out / "summary.json"
