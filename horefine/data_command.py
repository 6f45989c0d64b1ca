"""``horefine data``: is a dataset read the way it was meant? And poses of other systems, in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from horefine import options
from horefine.console import FAILED, guarded, log, one_thread

__all__ = ["app"]

app = typer.Typer(
    name="data", help="Looks at datasets on disk; brings poses of other systems in and out.", no_args_is_help=True
)


@app.command()
@guarded
def check(
    root: Annotated[Path, typer.Argument(help="The dataset's folder.")],
    dataset: Annotated[
        str | None,
        typer.Option(help="NAME or NAME:key=value,... of dexycb, ho3d, fhb, obman, bop, folder (default: recognised)."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Its split (default: the dataset's own).")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Gets check.json and sheets/*.png.")] = Path("out/check"),
    recordings: Annotated[int, typer.Option(help="Recordings to look at, evenly spread.", min=1)] = 12,
    each: Annotated[int, typer.Option(help="Samples of each.", min=1)] = 6,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Also read every object model and build its distance grid.")
    ] = False,
    mano_dir: options.ManoDir = None,
    hand: options.HandKind = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print check.json on stdout.")] = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Counts, missing files, and contact sheets with hand and object drawn on the photographs.

    Exit code 4: samples cannot be read, or most are implausible.
    """
    from horefine.data.check import check_dataset
    from horefine.data.check_sheets import Sheets
    from horefine.data.recognise import hand_of, open_dataset
    from horefine.export import write_json

    one_thread()
    name, opened = open_dataset(root, dataset, split, {"mano_dir": mano_dir, "hand": hand})
    model = hand_of(opened)
    sheets = Sheets(out / "sheets", model)
    found = check_dataset(name, root, opened, model, recordings=recordings, each=each, show=sheets.show)
    if prepare and hasattr(opened, "models"):
        opened.models.prepare()  # type: ignore[attr-defined]
    paths = sheets.write()
    write_json(out / "check.json", {**found.table(), "sheets": [str(path.relative_to(out)) for path in paths]})
    if as_json:
        print((out / "check.json").read_text(), end="")
    elif not quiet:
        print(found.text(), end="")
    log.info("written: %s, %d contact sheets in %s", out / "check.json", len(paths), sheets.folder)
    if not found.ok:
        raise typer.Exit(FAILED)


@app.command()
@guarded
def cache(
    dataset: Annotated[str, typer.Option(help="NAME or NAME:key=value,... of dexycb, ho3d, fhb, obman.")],
    root: Annotated[Path, typer.Option(help="The dataset's folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Gets shard_*/, objects/ and meta.json.")],
    split: Annotated[str | None, typer.Option(help="Its split, e.g. s0/train (default: the dataset's own).")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes (default: one for each core).", min=1)] = None,
    shard_size: Annotated[int, typer.Option(help="Samples of a shard.", min=1)] = 500,
    limit: Annotated[int | None, typer.Option(help="Only the first samples.", min=1)] = None,
    crop: Annotated[int, typer.Option(help="Side of the pictures, pixels (*_official networks: 256).", min=32)] = 128,
    maps: Annotated[int, typer.Option(help="Side of the maps, pixels (*_official networks: 128).", min=16)] = 64,
    form: Annotated[
        str, typer.Option("--format", help="arrays, or webdataset: a tar file a shard that WebDataset reads as well.")
    ] = "arrays",
    mano_dir: options.ManoDir = None,
    hand: options.HandKind = "auto",
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Makes training shards of a dataset: crops, maps drawn from the poses, poses, depth. Goes on where it was stopped.

    horefine train NAME --data OUT reads them.
    """
    from horefine.data.opened import open_named
    from horefine.extractors.sample_shards import ShardPlan, write_shards

    one_thread()
    place = None if mano_dir is None else mano_dir.resolve()
    opened = open_named(dataset, root, split, {"mano_dir": place, "hand": hand})
    told = place or opened.about["options"].get("mano_dir")  # where training finds it again
    plan = ShardPlan(
        opened, out, crop=crop, maps=maps, size=shard_size, limit=limit, about=opened.about, form=form,
        mano_dir=None if told is None else str(Path(told).resolve()),
    )  # fmt: skip
    found = write_shards(
        plan, workers,
        lambda number, meta: log.info("shard %d of %d: %d scenes", number + 1, plan.count, meta.get("count", 0)),
    )  # fmt: skip
    rate = f", {found.made / max(found.seconds, 1e-9):.1f} samples a second" if found.made else ""
    log.info("written: %s: %d scenes of %d samples%s", out, found.scenes, found.samples, rate)
    for why, names in list(found.left_out.items())[:5]:
        log.warning("left out: %d (%s%s): %s", len(names), ", ".join(names[:3]), ", ..." * (len(names) > 3), why)


@app.command()
@guarded
def poses(
    out: Annotated[Path, typer.Argument(help="Gets NAME.json for --init.")],
    hands: Annotated[
        Path | None,
        typer.Option(help="Folder of HaMeR's or WiLoR's dictionaries, HO-3D's pred.json or zip, or DexYCB's .txt."),
    ] = None,
    objects: Annotated[
        Path | None, typer.Option(help="FoundationPose's folder ob_in_cam (NAME.txt, 4x4), or a BOP .csv.")
    ] = None,
    names: Annotated[
        Path | None, typer.Option(help="Frames of pred.json (HO-3D's evaluation.txt) or of a .txt, one a line.")
    ] = None,
    side: Annotated[str | None, typer.Option(help="Which hand to take: right or left.")] = None,
    intrinsics: Annotated[
        str | None, typer.Option(help="The true camera, fx,fy,cx,cy in pixels: hands are placed anew for it.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT of the pictures, with --intrinsics.")] = None,
    mano_dir: options.ManoDir = None,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Makes --init files of other systems' hands and object poses."""
    from horefine.errors import ConfigError
    from horefine.hand import load_hand
    from horefine.pose_files import gather_poses

    one_thread()
    camera = _camera(intrinsics, size)
    listed = None
    if names is not None:
        if not names.is_file():
            raise ConfigError(f"--names {names}: no such file")
        listed = [line.strip() for line in names.read_text().splitlines() if line.strip()]
    model = None if camera is None else load_hand(mano_dir)
    found = gather_poses(out, hands, objects, names=listed, side=side, camera=camera, model=model)
    for note in found.notes:
        log.warning("%s", note)
    for name, why in list(found.lacking.items())[:5]:
        log.warning("%s: %s", name, why)
    log.info("written: %d poses in %s (%d items lack something)", len(found.names), out, len(found.lacking))
    if found.lacking:
        raise typer.Exit(FAILED)


@app.command()
@guarded
def export(
    source: Annotated[Path, typer.Argument(help="The --out of a run, or a folder of pose files.")],
    out: Annotated[Path, typer.Argument(help="Gets the files.")],
    kind: Annotated[str, typer.Option("--as", help="hamer, smplx, foundationpose or bop.")] = "smplx",
    intrinsics: Annotated[str | None, typer.Option(help="The camera, fx,fy,cx,cy: stated for hamer.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT of the pictures, with --intrinsics.")] = None,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Writes poses in other systems' formats (HO-3D's and DexYCB's: horefine evaluate --submission)."""
    from horefine.pose_files import export_poses

    one_thread()
    written, problems = export_poses(source, out, kind, _camera(intrinsics, size))
    for name, why in list(problems.items())[:5]:
        log.warning("%s: %s", name, why)
    log.info("written: %d poses in %s", len(written), out)
    if problems:
        raise typer.Exit(FAILED)


def _camera(intrinsics: str | None, size: str | None) -> Any:
    """The camera of the options; None without them."""
    import re

    from horefine.data.lens import camera_of, parse_intrinsics
    from horefine.errors import ConfigError, InputError

    if intrinsics is None and size is None:
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", size or "")
    if intrinsics is None or match is None:
        raise ConfigError("--intrinsics fx,fy,cx,cy and --size WIDTHxHEIGHT are wanted together")
    try:
        return camera_of(parse_intrinsics(intrinsics), (int(match[2]), int(match[1])), {}, "--intrinsics")[0]
    except InputError as error:
        raise ConfigError(str(error)) from None
