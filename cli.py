"""The command ``horefine``. Each sub-command is a few lines over the library; only this file reads the command line.

Exit codes: :mod:`horefine.console`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from horefine import options
from horefine.console import FAILED, INTERRUPTED, MISSING, guarded, log, one_thread, stoppable
from horefine.data_command import app as data_app
from horefine.options import option
from horefine.run_command import (
    device_there,
    drive,
    engine_of,
    make_job,
    make_jobs,
    merge_shards,
    parse_batch,
    show_plan,
)

if TYPE_CHECKING:
    from horefine.cluster import Engine

__all__ = ["app", "main"]

app = typer.Typer(
    name="horefine",
    help="Refines the 3D pose of a hand and the object it holds, image by image.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app)


@app.command()
@guarded
def run(
    images: options.Images = None,
    out: options.Out = Path("out"),
    dataset: options.DatasetName = None,
    root: options.Root = None,
    split: options.Split = None,
    init: options.Init = "hoisdf",
    detector: options.Finder = "horefine",
    checkpoint: options.Checkpoint = None,
    trained_on: options.TrainedOn = None,
    features: options.Maps = None,
    config: options.Recipe = "auto",
    overrides: options.Sets = None,
    object_name: options.ObjectName = None,
    object_unit: options.ObjectUnit = None,
    intrinsics: options.Intrinsics = None,
    fov: options.Fov = None,
    side: options.Side = None,
    boxes: options.Boxes = None,
    wrist: options.Wrist = None,
    mano_dir: options.ManoDir = None,
    hand: options.HandKind = "auto",
    device: options.Device = "auto",
    renderer: options.RendererName = "auto",
    batch_size: options.RunBatch = "8",
    limit: options.Limit = None,
    clip: options.Clip = False,
    every: options.Every = 1,
    fps: options.Fps = None,
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
    strict: options.Strict = False,
    pictures: options.Pictures = True,
    threads: options.Threads = None,
    shard: options.Part = None,
    engine: options.EngineName = "local",
    address: options.Address = None,
    workers: options.RayWorkers = None,
    gpus: options.Gpus = None,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Refines hand and object in every image of a folder; writes poses, overlays, 3D scenes and a report."""
    from horefine import distribute
    from horefine.config import load_config
    from horefine.heap import keep_heap_flat
    from horefine.processes import cores
    from horefine.shards import cut, parse_shard

    keep_heap_flat()
    part = None if shard is None else parse_shard(shard)
    ray = engine_of(engine, address, workers, gpus, threads or 0)
    seen = "rgbd" if init == "c2fsdf" else "pixels"
    chosen = config if config != "auto" else seen if features is None else "default"
    make = functools.partial(
        make_job, images, out, load_config(chosen, overrides or ()), init=init, detector=detector,
        checkpoint=checkpoint, trained_on=trained_on, features=features, object_name=object_name,
        object_unit=object_unit, intrinsics=intrinsics, fov=fov, side=side, boxes=boxes, wrist=wrist,
        dataset_name=dataset, root=root, split=split, mano_dir=mano_dir, hand=hand, seed=seed, limit=limit,
        batch_size=parse_batch(batch_size), overwrite=overwrite, strict=strict, pictures=pictures, clip=clip,
        every=every, fps=fps,
        threads=threads if threads is not None else 0 if ray else cores(),
    )  # fmt: skip
    job, there = make_jobs(make, ray, device, renderer)
    if dry_run:
        show_plan(job if part is None else cut(job, part), as_json)
    else:
        drive(job, as_json, quiet, part, None if ray is None else lambda own: distribute.run(own, there, ray))


@app.command()
@guarded
def merge(
    out: Annotated[Path, typer.Argument(help="The --out of the shards; gets the summary and the report.")],
    others: Annotated[list[Path] | None, typer.Argument(help="Further --out of shards of the same run.")] = None,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Makes one summary and report of a run's shards (run --shard); says what is missing and how to get it."""
    merge_shards(out, others or (), as_json)


@app.command()
@guarded
def report(
    out: Annotated[Path, typer.Argument(help="The --out of an earlier run.")],
    verbose: options.Verbose = False,
) -> None:
    """Makes report.html again from the result files."""
    from horefine.report import write_report

    log.info("report: %s", write_report(out))


@app.command()
@guarded
def synthesize(
    folder: Annotated[Path, typer.Argument(help="Gets images, sidecars, depth, truth and exact maps.")],
    suite: Annotated[
        str | None, option("The fixed scenes of a benchmark suite: standard (100) or small (12); also first poses.")
    ] = None,
    count: Annotated[int, option("How many photographs.", min=1)] = 100,
    seed: options.Seed = 0,
    object_names: Annotated[list[str] | None, option("Only these objects: names or mesh files.", "--object")] = None,
    left: Annotated[float, option("Share of left hands.", min=0, max=1)] = 0.0,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
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
        option("On the scenes of a suite (standard, small, its folder): OUT, or a recipe where no OUT is given."),
    ] = None,
    config: Annotated[str, option("With --suite and without OUT: the recipe.")] = "default",
    maps: Annotated[str, option("With --suite: exact, n02, n05 or c01.")] = "n02",
    truth: Annotated[
        Path | None, option("Folder with the truth, as synthesize writes it (default: what the run was made from).")
    ] = None,
    dataset: options.DatasetName = None,
    root: options.Root = None,
    split: options.Split = None,
    against: Annotated[
        Path | None, option("Another such folder, or initial (a run's first poses): is it better, and on which items?")
    ] = None,
    metrics: Annotated[str | None, option("Only these, e.g. HE,OE; or pose, object, bop, interaction, all.")] = None,
    simulate: Annotated[bool, option("Also simulation displacement (needs horefine's extra sim).", "--sim")] = False,
    protocol: Annotated[
        str, option("Of --sim: hasson (pybullet, as published) or mujoco.", "--sim-protocol")
    ] = "hasson",
    official: Annotated[str | None, option("Also the scores of a set's own script: ho3d, dexycb, bop.")] = None,
    submission: Annotated[str | None, option("Write a submission file instead: ho3d, dexycb or bop.")] = None,
    ids: Annotated[Path | None, option("CSV or JSON that gives each item's ids in the submission.")] = None,
    object_name: options.ObjectName = None,
    object_unit: options.ObjectUnit = None,
    mano_dir: options.ManoDir = None,
    hand: options.HandKind = "auto",
    workers: Annotated[int | None, option("Processes (default: all cores from 200 items on).", min=1)] = None,
    engine: options.EngineName = "local",
    address: options.Address = None,
    limit: options.Limit = None,
    strict: Annotated[bool, option("Stop at the first item that cannot be measured.", "--strict")] = False,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Measures poses against the truth: tables, plots, paired comparison, submission files."""
    from horefine.cluster import connected
    from horefine.errors import ConfigError
    from horefine.evaluate.command import Request, conclude, hand_for, metrics_of

    one_thread()
    ray = engine_of(engine, address, workers if engine == "ray" else None)
    if suite is not None:
        _headline(suite, out, config, maps, limit, as_json, quiet, ray)
        return
    if out is None:
        raise ConfigError("what is to be evaluated? Give OUT, or --suite standard --config NAME")
    request = Request(
        out, hand_for(out, mano_dir, hand), truth, dataset, root, object_name, object_unit,
        metrics_of(metrics, simulate), limit, strict, workers, protocol, official, split, mano_dir,
        ray,
    )  # fmt: skip
    with contextlib.nullcontext() if ray is None else connected(ray):
        found = conclude(request, against, submission, ids)
    print((found.table.read_text() if as_json else found.text), end="")
    for line in found.warnings:
        log.warning("%s", line)
    log.info("written: %s", found.table.parent)
    if found.failed:
        raise typer.Exit(FAILED)


def _headline(
    suite: str,
    poses: Path | None,
    config: str,
    maps: str,
    limit: int | None,
    as_json: bool,
    quiet: bool,
    engine: Engine | None,
) -> None:
    """The project's headline table of a recipe or of a folder's poses, on a suite's scenes."""
    from rich.progress import Progress

    from horefine.headline import evaluate_suite, write_headline

    out = Path("out/suite") if poses is None else poses / "evaluation"
    with stoppable() as check, Progress(console=Console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task("refining", total=None)
        found = evaluate_suite(
            suite, config=config, maps=maps, poses=poses, out=out, limit=limit,
            advance=lambda count: bar.advance(task, count), check=check, engine=engine,
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
        str, option("each, each-loss, pairs, table3, or names: segmentation,depth,segmentation+depth.")
    ] = "each",
    config: Annotated[str | None, option("Variants and grids: a YAML file; ablations is the paper's.")] = None,
    recipe: Annotated[str, option("What is ablated (auto: default with given maps, else pixels).")] = "auto",
    suite: Annotated[str | None, option("The scenes of a suite: standard, small, or its folder.")] = None,
    maps: Annotated[str, option("Of the suite: exact, n02, n05 or c01.")] = "n02",
    metrics: Annotated[str | None, option("Columns, e.g. HE,OE,PD.")] = None,
    simulate: Annotated[bool, option("Also simulation displacement (needs horefine's extra sim).", "--sim")] = False,
    out: options.Out = Path("out/ablation"),
    dataset: options.DatasetName = None,
    root: options.Root = None,
    split: options.Split = None,
    init: options.Init = "hoisdf",
    detector: options.Finder = "horefine",
    checkpoint: options.Checkpoint = None,
    features: options.Maps = None,
    overrides: options.Sets = None,
    object_name: options.ObjectName = None,
    object_unit: options.ObjectUnit = None,
    intrinsics: options.Intrinsics = None,
    fov: options.Fov = None,
    side: options.Side = None,
    boxes: options.Boxes = None,
    wrist: options.Wrist = None,
    mano_dir: options.ManoDir = None,
    hand: options.HandKind = "auto",
    device: options.Device = "auto",
    renderer: options.RendererName = "auto",
    batch_size: options.BatchSize = 8,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    engine: options.EngineName = "local",
    address: options.Address = None,
    workers: options.RayWorkers = None,
    gpus: options.Gpus = None,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
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
        shared_out,
        suite_inputs,
        to_text,
        write_report,
    )
    from horefine.errors import ConfigError
    from horefine.job import check_device, check_renderer

    if sum(given is not None for given in (images, suite, dataset)) != 1:
        raise ConfigError("give a folder of photographs, --dataset NAME, or --suite standard: one of them")
    ray = engine_of(engine, address, workers, gpus)
    there = None if ray is None else device_there(ray, device)
    asked = recipe if recipe != "auto" else None
    usual = "pixels" if suite is None and features is None else "default"
    plan = load_plan(config, asked, overrides or ()) if config else make_plan(asked or usual, overrides or (), drop)
    if suite is not None:
        one_thread()
        device = check_device(device)
        check_renderer(renderer, device)
        inputs = suite_inputs(suite, maps, plan.configs, limit)
    else:
        job = make_job(
            images, out, plan.base, init=init, detector=detector, checkpoint=checkpoint, features=features,
            object_name=object_name, object_unit=object_unit, intrinsics=intrinsics, fov=fov, side=side, boxes=boxes,
            wrist=wrist, dataset_name=dataset, root=root, split=split, mano_dir=mano_dir, hand=hand, device=device,
            renderer=renderer, seed=seed,
            batch_size=batch_size, limit=limit,
        )  # fmt: skip
        device, inputs = job.device, folder_inputs(job, plan.configs, out / "inputs")
    with stoppable() as check, Progress(console=Console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task("refining", total=len(inputs.starts) * len(plan.configs))
        runner = Runner(
            inputs, out, chosen_metrics(metrics, inputs, simulate=simulate), there or device, renderer, batch_size,
            seed, advance=lambda count: bar.advance(task, count), check=check,
        )  # fmt: skip
        with shared_out(runner, ray) as refining:
            result = run_study(plan, refining)
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
        str, option("synthetic; a folder of shards or of photos with truth; or a dataset: NAME:key=value,...")
    ] = "synthetic",
    out: Annotated[Path, typer.Option("--out", "-o", help="Gets weights, log and checkpoints.")] = Path("runs/train"),
    smoke: Annotated[bool, typer.Option("--smoke", help="A minute on few scenes.")] = False,
    tensorboard: Annotated[bool, option("Also log for TensorBoard (pip install 'horefine[train]').")] = False,
    overrides: options.Sets = None,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Trains one learned part, reproducibly; goes on where an earlier run stopped.

    Several GPUs: torchrun --nproc_per_node N -m horefine train ... (pip install 'horefine[train]').
    """
    from horefine.train import train as train_network

    changes = [*(overrides or ()), *(["tensorboard=true"] if tensorboard else [])]
    log.info("weights: %s", train_network(name, data=data, out=out, smoke=smoke, overrides=changes))


@app.command()
@guarded
def doctor(as_json: options.AsJson = False, verbose: options.Verbose = False) -> None:
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
def objects(as_json: options.AsJson = False) -> None:
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
