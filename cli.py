"""The command ``horefine``. Each sub-command is a few lines over the library; only this file reads the command line.

Exit codes: 0 all done; 1 unexpected error or full disk; 2 usage or configuration; 3 something needed is missing
(MANO, mesh, weights, renderer); 4 some images failed (summary.json lists them); 130 interrupted (finished ones stay).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from horefine.config import Config
    from horefine.job import Job
    from horefine.outcome import Outcome

__all__ = ["app", "main"]

app = typer.Typer(
    name="horefine",
    help="Refines the 3D pose of a hand and the object it holds, image by image.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
log = logging.getLogger("horefine")

INTERRUPTED, FAILED, MISSING, USAGE, UNEXPECTED = 130, 4, 3, 2, 1


def _option(help: str, *names: str, **settings: Any) -> Any:
    return typer.Option(*names, help=help, **settings)


Images = Annotated[Path, typer.Argument(help="A folder of photographs, or one photograph.")]
Out = Annotated[Path, _option("Where results go.", "--out", "-o")]
Init = Annotated[str, _option("First poses: a network's name, or a folder of NAME.npz / NAME.json.")]
Finder = Annotated[
    str, _option("What finds hand and object: horefine, or mediapipe (side and hand; installed apart).", "--detector")
]
Checkpoint = Annotated[
    Path | None, _option("Weights for --init hoisdf: the authors' snapshot_*.pth.tar (needs MANO), or a .safetensors.")
]
Maps = Annotated[Path | None, _option("A folder of maps NAME.npz, instead of the networks.")]
Recipe = Annotated[
    str, _option("Recipe: a name or a YAML file (auto: default with --features, else pixels).", "--config", "-c")
]
Sets = Annotated[list[str] | None, _option("Change a value, e.g. losses.silhouette=0.", "--set", metavar="KEY=VALUE")]
ObjectName = Annotated[str | None, _option("What is held: an embedded object's name or a mesh file.", "--object")]
ObjectUnit = Annotated[str | None, _option("Unit of the mesh: m, cm, mm, in (default: by its size).")]
Intrinsics = Annotated[str | None, _option("fx,fy,cx,cy in pixels, a .json or .npy file, or exif.")]
Fov = Annotated[float | None, _option("Diagonal field of view in degrees, instead of intrinsics.")]
Side = Annotated[str | None, _option("right or left hand (default: the sidecar's, the detector's, else right).")]
Boxes = Annotated[
    Path | None, _option("JSON or CSV with hand and object box of each image (docs/input.md), instead of a detector.")
]
Wrist = Annotated[
    str | None, _option("Where the wrist is: x,y,z in metres (camera frame), or its depth z; not predicted then.")
]
ManoDir = Annotated[Path | None, _option("Folder with MANO_RIGHT.pkl.")]
HandKind = Annotated[str, _option("auto, embedded or mano.")]
Device = Annotated[str, _option("auto, cpu, cuda:0.")]
RendererName = Annotated[str, _option("auto, cpu, torch, nvdiffrast or pytorch3d.")]
BatchSize = Annotated[int, _option("Images refined together.", min=1)]
Limit = Annotated[int | None, _option("Only the first N images.", min=1)]
Seed = Annotated[int, _option("Of everything random.")]
Overwrite = Annotated[bool, _option("Do finished images again (default: skip them).", "--overwrite")]
Strict = Annotated[bool, _option("Stop at the first image that fails.", "--strict")]
Pictures = Annotated[bool, _option("Draw overlays and loss curves.", "--pictures/--no-pictures")]
DryRun = Annotated[bool, _option("Say what would be done and what is missing.", "--dry-run")]
Verbose = Annotated[bool, _option("Say more; show tracebacks.", "--verbose", "-v")]
Quiet = Annotated[bool, _option("Errors only.", "--quiet", "-q")]
AsJson = Annotated[bool, _option("Print the result as JSON on stdout.", "--json")]


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Sets up logging, and turns exceptions into one clear line and an exit code."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        verbose, quiet = bool(kwargs.get("verbose")), bool(kwargs.get("quiet"))
        _set_up_logging(verbose, quiet)
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except typer.Exit:
            raise
        except Exception as error:
            code = _code(error)
            message = (
                str(error) if code != UNEXPECTED or isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            )
            hint = " (-v shows where)" if code == UNEXPECTED and not verbose else ""
            log.error("%s%s", message, hint, exc_info=error if verbose else None)
            raise typer.Exit(code) from None

    return wrapper


def _one_thread() -> None:
    """One torch thread, unless OMP_NUM_THREADS asks for more: small tensors lose more to threads than they gain."""
    import os

    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def _code(error: Exception) -> int:
    from horefine.errors import AssetError, ConfigError, InputError

    # an optional package that is not there (nvdiffrast, pytorch3d) is missing like any other file
    for kind, code in ((ConfigError, USAGE), ((AssetError, ImportError), MISSING), (InputError, FAILED)):
        if isinstance(error, kind):
            return code
    return UNEXPECTED


def _set_up_logging(verbose: bool, quiet: bool) -> None:
    from rich.logging import RichHandler

    console = Console(stderr=True)
    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.INFO
    handler: logging.Handler = RichHandler(console=console, show_time=False, show_path=verbose, highlighter=None)
    if not console.is_terminal:  # one line for each message: logs are read by programs too
        handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s" if console.is_terminal else "%(levelname)s: %(message)s"))
    log.handlers = [handler]
    log.setLevel(level)
    log.propagate = False


@app.command()
@guarded
def run(
    images: Images,
    out: Out = Path("out"),
    init: Init = "hoisdf",
    detector: Finder = "horefine",
    checkpoint: Checkpoint = None,
    features: Maps = None,
    config: Recipe = "auto",
    overrides: Sets = None,
    object_name: ObjectName = None,
    object_unit: ObjectUnit = None,
    intrinsics: Intrinsics = None,
    fov: Fov = None,
    side: Side = None,
    boxes: Boxes = None,
    wrist: Wrist = None,
    mano_dir: ManoDir = None,
    hand: HandKind = "auto",
    device: Device = "auto",
    renderer: RendererName = "auto",
    batch_size: BatchSize = 8,
    limit: Limit = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    strict: Strict = False,
    pictures: Pictures = True,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Refines hand and object in every image of a folder; writes poses, overlays, 3D scenes and a report."""
    from horefine.config import load_config

    chosen = config if config != "auto" else "pixels" if features is None else "default"
    job = _make_job(
        images, out, load_config(chosen, overrides or ()), init=init, detector=detector, checkpoint=checkpoint,
        features=features, object_name=object_name, object_unit=object_unit, intrinsics=intrinsics, fov=fov, side=side,
        boxes=boxes, wrist=wrist, mano_dir=mano_dir, hand=hand, device=device, renderer=renderer, seed=seed,
        batch_size=batch_size, limit=limit, overwrite=overwrite, strict=strict, pictures=pictures,
    )  # fmt: skip
    if dry_run:
        _show_plan(job, as_json)
    else:
        _drive(job, as_json, quiet)


def _make_job(
    images: Path,
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
    **settings: Any,
) -> Job:
    """The job that the options describe; what cannot be used is said before any work."""
    from horefine.data.folder import FolderDataset, FolderOptions
    from horefine.data.known import parse_wrist
    from horefine.data.lens import parse_intrinsics
    from horefine.errors import ConfigError, InputError
    from horefine.extractors import Learned
    from horefine.job import Job, check_device, check_renderer, hand_model, weights_digest

    if intrinsics is not None and fov is not None:
        raise ConfigError("--intrinsics and --fov: give one of them")
    try:
        camera = {"fov": fov} if fov is not None else None if intrinsics is None else parse_intrinsics(intrinsics)
    except InputError as error:
        raise ConfigError(f"--{error}") from None
    source = "--fov" if fov is not None else "--intrinsics"
    place = None if wrist is None else parse_wrist(wrist)
    dataset = FolderDataset(images, FolderOptions(object_name, object_unit, camera, source, side, place, boxes))
    where = check_device(device)
    _one_thread()
    check_renderer(renderer, where)
    files = _folder(Path(init), "--init") if "/" in init or Path(init).is_dir() else None
    if checkpoint is not None and files is not None:
        raise ConfigError(f"--checkpoint {checkpoint}: goes with --init hoisdf, not with the poses of {files}")
    model = hand_model(mano_dir, hand)
    networks = Learned("hoisdf" if files else init, device=where, hand=model, checkpoint=checkpoint, detector=detector)
    return Job(
        dataset=dataset, config=recipe, out=out, model=model, networks=networks, init=init, poses=files,
        detector=detector, maps=_folder(features, "--features"), device=where, renderer=renderer,
        weights="" if files and features else weights_digest(checkpoint), **settings,
    )  # fmt: skip


def _folder(path: Path | None, option: str) -> Path | None:
    from horefine.errors import ConfigError

    if path is not None and not path.is_dir():
        raise ConfigError(f"{option} {path}: no such folder")
    return path


def _show_plan(job: Job, as_json: bool) -> None:
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


def _drive(job: Job, as_json: bool, quiet: bool) -> None:
    """Runs the job with a progress bar; writes summary and report of what was finished, however it ends."""
    from horefine.pipeline import run as refine_all

    done: list[Outcome] = []
    stopped = True
    try:
        with _stoppable() as check, _progress(len(job.indices), quiet) as advance:
            for outcome in refine_all(dataclasses.replace(job, check=check)):
                done.append(outcome)
                advance(outcome)
        stopped = False
    except KeyboardInterrupt:
        kept = sum(outcome.status != "failed" for outcome in done)
        log.warning("interrupted: %d of %d images are finished and kept; run again to go on", kept, len(job.indices))
        raise
    finally:
        with contextlib.suppress(OSError) if stopped else contextlib.nullcontext():  # the disk may be full
            _conclude(job, done)
    if as_json:
        print((job.out / "summary.json").read_text(), end="")
    failed = sum(outcome.status == "failed" for outcome in done)
    if failed:
        log.warning("%d of %d images failed; %s says why", failed, len(done), job.out / "summary.json")
        raise typer.Exit(FAILED)


def _conclude(job: Job, done: list[Outcome]) -> None:
    from horefine.outcome import write_summary
    from horefine.report import write_report

    about = {
        "schema_version": 1, "input": str(job.dataset.path), "hand_model": job.model.name, "device": job.device,
        "renderer": job.renderer, "seed": job.seed, "config_hash": job.key(), "first_pose": str(job.poses or job.init),
        "features": str(job.maps or "networks"), "complete": len(done) == len(job.indices),
    }  # fmt: skip
    place = {name: index for index, name in enumerate(job.dataset.names)}
    write_summary(job.out, sorted(done, key=lambda outcome: place[outcome.name]), about)
    log.info("report: %s", write_report(job.out, f"horefine: {job.dataset.path.resolve().name}"))


@contextlib.contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Callable[[Outcome], None]]:
    """A bar on a terminal, a line for each image elsewhere."""
    from rich.logging import RichHandler
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = next((h.console for h in log.handlers if isinstance(h, RichHandler)), Console(stderr=True))
    if quiet or not console.is_terminal:
        yield lambda outcome: log.info("%s: %s", outcome.name, _line(outcome)) if outcome.status != "failed" else None
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("refining", total=total)

        def advance(outcome: Outcome) -> None:
            bar.advance(task)
            if outcome.status != "failed":
                log.info("%s: %s", outcome.name, _line(outcome))

        yield advance


def _line(outcome: Outcome) -> str:
    if outcome.status == "skipped":
        return "finished before (--overwrite does it again)"
    return f"{outcome.status}: {outcome.row.get('reason')}"


@contextlib.contextmanager
def _stoppable() -> Iterator[Callable[[], None]]:
    """SIGTERM (a job scheduler, a container's end) ends a run as Ctrl-C does.

    Yields a function to call now and then: a KeyboardInterrupt that was raised inside a callback from compiled code is
    swallowed there, and this raises it again. A SIGINT that the parent process had ignored (``nohup``) stays ignored.
    """
    asked = False

    def stop(*_: object) -> None:
        nonlocal asked
        asked = True
        raise KeyboardInterrupt

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    before = {}
    with contextlib.suppress(ValueError):  # not in the main thread: nothing to catch
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, stop)
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@app.command()
@guarded
def report(
    out: Annotated[Path, typer.Argument(help="The --out of an earlier run.")],
    verbose: Verbose = False,
) -> None:
    """Makes report.html again from the result files."""
    from horefine.report import write_report

    log.info("report: %s", write_report(out))


@app.command()
@guarded
def synthesize(
    folder: Annotated[Path, typer.Argument(help="Gets images, sidecars, depth, truth and exact maps.")],
    suite: Annotated[
        str | None, _option("The fixed scenes of a benchmark suite: standard (100) or small (12); also first poses.")
    ] = None,
    count: Annotated[int, _option("How many photographs.", min=1)] = 100,
    seed: Seed = 0,
    object_names: Annotated[list[str] | None, _option("Only these objects: names or mesh files.", "--object")] = None,
    left: Annotated[float, _option("Share of left hands.", min=0, max=1)] = 0.0,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Makes photographs of hands that hold objects, with exact poses and maps."""
    from rich.progress import Progress

    from horefine.data.synthetic import write_dataset
    from horefine.errors import ConfigError
    from horefine.suite import write_suite

    if suite is not None and (count, seed, object_names, left) != (100, 0, None, 0.0):
        raise ConfigError(f"--suite {suite}: its scenes are fixed; leave out --count, --seed, --object and --left")
    with Progress(console=Console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task("rendering", total=count)
        if suite is not None:
            spec = write_suite(folder, suite, lambda done, total: bar.update(task, completed=done, total=total))
            log.info("%s: suite %s, %d scenes", folder, spec.title, spec.count)
            return
        rate = write_dataset(
            folder,
            count,
            seed,
            objects=object_names,
            left=left,
            progress=lambda done, _: bar.update(task, completed=done),
        )
    log.info("%s: %d photographs, %.2f a second", folder, count, rate)


@app.command()
@guarded
def evaluate(
    out: Annotated[
        Path | None, typer.Argument(help="The --out of a run, or any system's poses NAME.npz / NAME.json.")
    ] = None,
    suite: Annotated[
        str | None,
        _option("On the scenes of a suite (standard, small, its folder): OUT, or a recipe where no OUT is given."),
    ] = None,
    config: Annotated[str, _option("With --suite and without OUT: the recipe.")] = "default",
    maps: Annotated[str, _option("With --suite: exact, n02, n05 or c01.")] = "n02",
    truth: Annotated[
        Path | None, _option("Folder with the truth, as synthesize writes it (default: what the run was made from).")
    ] = None,
    dataset: Annotated[str | None, _option("A dataset by name, instead of --truth.")] = None,
    root: Annotated[Path | None, _option("Where that dataset lies.")] = None,
    against: Annotated[
        Path | None, _option("Another such folder, or initial (a run's first poses): is it better, and on which items?")
    ] = None,
    metrics: Annotated[str | None, _option("Only these, e.g. HE,OE,PA-MJE; or pose, interaction, main, all.")] = None,
    simulate: Annotated[bool, _option("Also simulation displacement (needs horefine's extra sim).", "--sim")] = False,
    protocol: Annotated[
        str, _option("Of --sim: hasson (pybullet, as published) or mujoco.", "--sim-protocol")
    ] = "hasson",
    official: Annotated[str | None, _option("Also the scores of HO-3D's or DexYCB's script: ho3d, dexycb.")] = None,
    submission: Annotated[str | None, _option("Write a submission file instead: ho3d, dexycb or bop.")] = None,
    ids: Annotated[Path | None, _option("CSV or JSON that gives each item's ids in the submission.")] = None,
    object_name: ObjectName = None,
    object_unit: ObjectUnit = None,
    mano_dir: ManoDir = None,
    hand: HandKind = "auto",
    workers: Annotated[int | None, _option("Processes (default: all cores from 200 items on).", min=1)] = None,
    limit: Limit = None,
    strict: Annotated[bool, _option("Stop at the first item that cannot be measured.", "--strict")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Measures poses against the truth: tables, plots, paired comparison, submission files."""
    from horefine.errors import ConfigError
    from horefine.evaluate.command import Request, conclude, hand_for, metrics_of

    _one_thread()
    if suite is not None:
        _headline(suite, out, config, maps, limit, as_json, quiet)
        return
    if out is None:
        raise ConfigError("what is to be evaluated? Give OUT, or --suite standard --config NAME")
    request = Request(
        out, hand_for(out, mano_dir, hand), truth, dataset, root, object_name, object_unit,
        metrics_of(metrics, simulate), limit, strict, workers, protocol, official,
    )  # fmt: skip
    found = conclude(request, against, submission, ids)
    print((found.table.read_text() if as_json else found.text), end="")
    for line in found.warnings:
        log.warning("%s", line)
    log.info("written: %s", found.table.parent)
    if found.failed:
        raise typer.Exit(FAILED)


def _headline(
    suite: str, poses: Path | None, config: str, maps: str, limit: int | None, as_json: bool, quiet: bool
) -> None:
    """The project's headline table of a recipe or of a folder's poses, on a suite's scenes."""
    from rich.progress import Progress

    from horefine.headline import evaluate_suite, write_headline

    out = Path("out/suite") if poses is None else poses / "evaluation"
    with _stoppable() as check, Progress(console=Console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task("refining", total=None)
        found = evaluate_suite(
            suite, config=config, maps=maps, poses=poses, out=out, limit=limit,
            advance=lambda count: bar.advance(task, count), check=check,
        )  # fmt: skip
    paths = write_headline(found, out)
    print(paths[-1].read_text() if as_json else found.text, end="")
    log.info("written: %s", ", ".join(map(str, paths)))
    if any(own.failures for own in found.scores.values()):
        raise typer.Exit(FAILED)


@app.command()
@guarded
def ablate(
    images: Annotated[Path | None, typer.Argument(help="A folder of photographs, best with truth; or --suite.")] = None,
    drop: Annotated[
        str, _option("each, each-loss, pairs, table3, or names: segmentation,depth,segmentation+depth.")
    ] = "each",
    config: Annotated[str | None, _option("Variants and grids: a YAML file; ablations is the paper's.")] = None,
    recipe: Annotated[str, _option("What is ablated (auto: default with given maps, else pixels).")] = "auto",
    suite: Annotated[str | None, _option("The scenes of a suite: standard, small, or its folder.")] = None,
    maps: Annotated[str, _option("Of the suite: exact, n02, n05 or c01.")] = "n02",
    metrics: Annotated[str | None, _option("Columns, e.g. HE,OE,PD.")] = None,
    simulate: Annotated[bool, _option("Also simulation displacement (needs horefine's extra sim).", "--sim")] = False,
    out: Out = Path("out/ablation"),
    init: Init = "hoisdf",
    detector: Finder = "horefine",
    checkpoint: Checkpoint = None,
    features: Maps = None,
    overrides: Sets = None,
    object_name: ObjectName = None,
    object_unit: ObjectUnit = None,
    intrinsics: Intrinsics = None,
    fov: Fov = None,
    side: Side = None,
    boxes: Boxes = None,
    wrist: Wrist = None,
    mano_dir: ManoDir = None,
    hand: HandKind = "auto",
    device: Device = "auto",
    renderer: RendererName = "auto",
    batch_size: BatchSize = 8,
    limit: Limit = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Refines with and without each loss from the same first poses and maps: one table, one plot.

    What is finished is not done again: a run that was stopped goes on where it was.
    """
    from rich.progress import Progress

    from horefine.ablate import (
        Runner,
        chosen_metrics,
        folder_inputs,
        load_plan,
        make_plan,
        run_study,
        suite_inputs,
        to_text,
        write_report,
    )
    from horefine.errors import ConfigError
    from horefine.job import check_device, check_renderer

    if (images is None) == (suite is None):
        raise ConfigError("give a folder of photographs, or --suite standard: one of them")
    asked = recipe if recipe != "auto" else None
    usual = "pixels" if suite is None and features is None else "default"
    plan = load_plan(config, asked, overrides or ()) if config else make_plan(asked or usual, overrides or (), drop)
    if images is None:
        _one_thread()
        device = check_device(device)
        check_renderer(renderer, device)
        inputs = suite_inputs(str(suite), maps, plan.configs, limit)
    else:
        job = _make_job(
            images, out, plan.base, init=init, detector=detector, checkpoint=checkpoint, features=features,
            object_name=object_name, object_unit=object_unit, intrinsics=intrinsics, fov=fov, side=side, boxes=boxes,
            wrist=wrist, mano_dir=mano_dir, hand=hand, device=device, renderer=renderer, seed=seed,
            batch_size=batch_size, limit=limit,
        )  # fmt: skip
        device, inputs = job.device, folder_inputs(job, plan.configs, out / "inputs")
    with _stoppable() as check, Progress(console=Console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task("refining", total=len(inputs.starts) * len(plan.configs))
        runner = Runner(
            inputs, out, chosen_metrics(metrics, inputs, simulate=simulate), device, renderer, batch_size, seed,
            advance=lambda count: bar.advance(task, count), check=check,
        )  # fmt: skip
        result = run_study(plan, runner)
    paths = write_report(result, out)
    print((out / "ablation.json").read_text() if as_json else to_text(result), end="")
    log.info("table and plot: %s", ", ".join(map(str, paths)))
    if any(own.failures for own in result.scores.values()):
        log.warning("some variants failed on some images; %s says why", out / "ablation.json")
        raise typer.Exit(FAILED)


@app.command()
@guarded
def train(
    name: Annotated[
        str, typer.Argument(help="features, hoisdf, detector, contact, hoisdf_official, or a recipe's YAML file.")
    ],
    data: Annotated[
        str, _option("synthetic; a folder of shards or of photos with truth; or a dataset: NAME:key=value,...")
    ] = "synthetic",
    out: Annotated[Path, typer.Option("--out", "-o", help="Gets weights, log and checkpoints.")] = Path("runs/train"),
    smoke: Annotated[bool, typer.Option("--smoke", help="A minute on few scenes.")] = False,
    tensorboard: Annotated[bool, _option("Also log for TensorBoard (pip install 'horefine[train]').")] = False,
    overrides: Sets = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Trains one learned part, reproducibly; goes on where an earlier run stopped.

    Several GPUs: torchrun --nproc_per_node N -m horefine train ... (pip install 'horefine[train]').
    """
    from horefine.train import train as train_network

    changes = [*(overrides or ()), *(["tensorboard=true"] if tensorboard else [])]
    log.info("weights: %s", train_network(name, data=data, out=out, smoke=smoke, overrides=changes))


@app.command()
@guarded
def doctor(as_json: AsJson = False, verbose: Verbose = False) -> None:
    """What is installed, which renderer, which hand, which weights; the fix for each gap."""
    from horefine.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        marks = {"ok": "[green]ok[/]", "note": "[yellow]--[/]", "missing": "[red]!![/]"}
        console = Console(highlight=False, soft_wrap=True)
        for finding in findings:
            console.print(f"{marks[finding.state]}  [bold]{finding.what}[/]: ", end="")
            console.print(finding.found, markup=False)
            if finding.fix and finding.state != "ok":
                console.print(f"      {finding.fix}", markup=False, style="dim")
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(MISSING)


@app.command()
@guarded
def objects(as_json: AsJson = False) -> None:
    """Lists the embedded objects with their sizes."""
    from horefine.objects import OBJECTS, embedded_object

    sizes = {}
    for name in sorted(OBJECTS):
        low, high = embedded_object(name).box
        sizes[name] = [round(side * 100, 1) for side in (high - low)[0].tolist()]
    if as_json:
        print(json.dumps(sizes, indent=2))
    else:
        for name, sides in sizes.items():
            print(f"{name:12} {' x '.join(f'{side:g}' for side in sides)} cm")


@app.command()
def version() -> None:
    """Prints the version."""
    from horefine import __version__

    print(__version__)


def main() -> None:
    """The console script."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
