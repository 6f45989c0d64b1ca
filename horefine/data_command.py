"""``horefine data``: is a dataset read the way it was meant?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from horefine.console import FAILED, guarded, log, one_thread

__all__ = ["app"]

app = typer.Typer(name="data", help="Looks at datasets on disk.", no_args_is_help=True)


@app.command()
@guarded
def check(
    root: Annotated[Path, typer.Argument(help="The dataset's folder.")],
    dataset: Annotated[
        str | None, typer.Option(help="dexycb, ho3d, fhb, obman, bop or folder (default: recognised from the tree).")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Its split (default: the dataset's own).")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Gets check.json and sheets/*.png.")] = Path("out/check"),
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Another option of the dataset's class.")
    ] = None,
    recordings: Annotated[int, typer.Option(help="Recordings to look at, evenly spread.", min=1)] = 12,
    each: Annotated[int, typer.Option(help="Samples of each.", min=1)] = 6,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Also read every object model and build its distance grid.")
    ] = False,
    mano_dir: Annotated[Path | None, typer.Option(help="Folder with MANO_RIGHT.pkl.")] = None,
    hand: Annotated[str, typer.Option(help="auto, embedded or mano.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print check.json on stdout.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more; show tracebacks.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")] = False,
) -> None:
    """Counts, missing files, and contact sheets with hand and object drawn on the photographs.

    Exit code 4: samples cannot be read, or most are implausible.
    """
    from horefine.data.check import check_dataset
    from horefine.data.check_sheets import Sheets
    from horefine.data.recognise import hand_of, open_dataset
    from horefine.export import write_json

    one_thread()
    given: dict[str, Any] = {"split": split, "mano_dir": mano_dir, "hand": hand} | _pairs(options)
    name, opened = open_dataset(root, dataset, given)
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


def _pairs(options: list[str] | None) -> dict[str, Any]:
    from horefine.errors import ConfigError

    found = {}
    for option in options or ():
        key, equals, value = option.partition("=")
        if not equals:
            raise ConfigError(f"--set {option}: expected KEY=VALUE")
        found[key] = yaml.safe_load(value)
    return found
