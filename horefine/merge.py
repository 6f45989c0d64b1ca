"""One summary of the shards of a run (``horefine merge``): as the undivided run would have written it.

What is there is read off the items' own files, what failed and what there should be off the shards' records
(:mod:`horefine.shards`). Shards of different runs are refused before anything is written.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import shlex
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from horefine.errors import ConfigError, InputError
from horefine.export import new_folder, write_text
from horefine.outcome import Outcome, row_of, write_summary
from horefine.shards import FOLDER, Record, Shard, read_records

__all__ = ["Merged", "merge"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Merged:
    """What the shards of a run came to."""

    title: str
    total: int
    finished: int
    failed: Mapping[str, str]
    """Name -> why."""
    missing: Sequence[str]
    """Names that are known of images without a result."""
    unfinished: Mapping[Shard, str]
    """Shard -> what it lacks and the command that would complete it, in words."""

    @property
    def complete(self) -> bool:
        """Whether nothing failed and nothing is missing."""
        return self.finished == self.total


def merge(out: Path, others: Sequence[Path] = ()) -> Merged:
    """Writes ``summary.csv``, ``summary.json`` and ``config.resolved.yaml`` as the undivided run would have.

    Items of other output folders are taken over into ``out``. Nothing is written where the shards do not belong
    together.

    Raises:
        ConfigError: no shard was run there; shards of different runs (recipe, weights, images, number of shards).
        InputError: a record or an item's file is damaged; one image with different inputs.
    """
    found = [(folder, record) for folder in (out, *others) for record in read_records(folder)]
    if not found:
        raise ConfigError(f"{out}: holds no shards (no {FOLDER}/*.json); run 'horefine run ... --shard i/n' first")
    _check_one_run(found)
    _check_inputs(found)
    records = _taken_over(out, found)
    tables = {name: table for own in records for name in own.names if (table := _result(out, own, name)) is not None}
    placed = sorted((pair for own in records for pair in _outcomes(own, tables)), key=lambda pair: pair[0])
    outcomes = [outcome for _, outcome in placed]
    first = records[0]
    write_text(out / "config.resolved.yaml", first.recipe)
    write_summary(out, outcomes, {**first.about, "complete": len(outcomes) == first.total})
    failed = {own.name: str(own.error) for own in outcomes if own.status == "failed"}
    missing = [name for own in records for name in own.names if name not in tables and name not in failed]
    return Merged(first.title, first.total, len(tables), failed, missing, _unfinished(records, tables))


def _unfinished(records: Sequence[Record], tables: Mapping[str, Any]) -> dict[Shard, str]:
    """Shard -> what it lacks and its command, for those that lack something."""
    known = {own.shard: own for own in records}
    found = {}
    for number in range(1, records[0].shards + 1):
        why = _lacks(known[number], tables) if number in known else "has not begun"
        if why:
            shard = Shard(number, records[0].shards)
            found[shard] = f"{why}: {_command(known.get(number, records[0]), shard)}"
    return found


def _check_one_run(found: Sequence[tuple[Path, Record]]) -> None:
    """Raises ConfigError where records are of different runs; says it where machines or versions differ."""
    way_out = (
        f"merge the shards of one run: give each run an --out of its own, or remove the other's records in OUT/{FOLDER}"
    )
    questions: dict[str, Callable[[Record], object]] = {
        "into how many shards": lambda own: own.shards,
        "--batch-size": lambda own: own.batch_size,
        "images": lambda own: (own.about.get("input"), own.about.get("dataset")),
        "how many images, or which": lambda own: (own.total, own.listing),
        "recipe": lambda own: own.recipe,
        "first poses": lambda own: own.about.get("first_pose"),
        "features": lambda own: own.about.get("features"),
        "seed": lambda own: own.about.get("seed"),
        "hand model": lambda own: own.about.get("hand_model"),
        "weights or hand (config_hash)": lambda own: own.key,
    }
    for what, ask in questions.items():
        one = found[0]
        other = next((own for own in found if ask(own[1]) != ask(one[1])), None)
        if other is None:
            continue
        if what == "recipe":
            said = _difference(one[1].recipe, other[1].recipe)
        elif what == "how many images, or which":
            said = f"{one[1].total} and {other[1].total} (list {one[1].listing} and {other[1].listing})"
        else:
            said = f"{ask(one[1])} and {ask(other[1])}"
        raise ConfigError(f"{_told(one)} and {_told(other)} differ in {what}: {said}; {way_out}")
    for what in ("device", "renderer"):
        kinds = sorted({str(own.about.get(what)) for _, own in found})
        if len(kinds) > 1:
            log.warning(
                "the shards' %ss differ (%s): results are alike, not equal to the last bit", what, ", ".join(kinds)
            )
    if any(own.versions != found[0][1].versions for _, own in found):
        log.warning("the shards ran with different versions of packages (OUT/%s says which)", FOLDER)


def _told(own: tuple[Path, Record]) -> str:
    return f"shard {own[1].shard}/{own[1].shards} in {own[0]}"


def _difference(one: str, other: str) -> str:
    """The first lines in which two recipes differ."""
    lines = [line for line in difflib.ndiff(one.splitlines(), other.splitlines()) if line[:2] in ("- ", "+ ")]
    return ", ".join(f"{line[0]} {line[2:].strip()}" for line in lines[:4])


def _check_inputs(found: Sequence[tuple[Path, Record]]) -> None:
    """Raises InputError where one image was refined from different inputs."""
    seen: dict[str, tuple[Path, str]] = {}
    for folder, record in found:
        for name in record.names:
            table = _result(folder, record, name)
            if table is None:
                continue
            digest = str(table.get("input_hash"))
            where, known = seen.setdefault(name, (folder, digest))
            if known != digest:
                raise InputError(
                    f"{name}: was refined from one input in {where} and from another in {folder} (input_hash {known}, "
                    f"{digest}): the image or a file beside it changed in between; remove the older result"
                )


def _result(folder: Path, record: Record, name: str) -> dict[str, Any] | None:
    """``result.json`` of an item that was finished with the run's recipe."""
    path = folder / "items" / name / "result.json"
    try:
        table = json.loads(path.read_text())
    except (OSError, ValueError):  # damaged is as good as missing: the next run does it again
        return None
    return table if table.get("config_hash") == record.key else None


def _taken_over(out: Path, found: Iterable[tuple[Path, Record]]) -> list[Record]:
    """One record for each shard, that of ``out`` first; items and records of other folders are brought into ``out``."""
    kept: dict[int, Record] = {}
    for folder, record in found:
        if record.shard not in kept or (record.ended and not kept[record.shard].ended):
            kept[record.shard] = record
        if folder.resolve() == out.resolve():
            continue
        for name in record.names:
            if _result(folder, record, name) is not None and _result(out, record, name) is None:
                with new_folder(out / "items" / name) as place:
                    shutil.copytree(folder / "items" / name, place, copy_function=_linked, dirs_exist_ok=True)
    for record in kept.values():
        record.write(out)
    return [kept[number] for number in sorted(kept)]


def _linked(source: str, target: str) -> None:
    """A second name for a file, where the disk can; our files are never changed in place. Else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _outcomes(record: Record, tables: Mapping[str, Mapping[str, Any]]) -> Iterable[tuple[int, Outcome]]:
    """Place among all images and outcome of each image that is known to have ended."""
    for place, name in zip(record.places, record.names, strict=True):
        if name in tables:
            status = "skipped" if name in record.skipped else str(tables[name]["status"])
            yield place, Outcome(name, status, row=row_of(tables[name]))
        elif name in record.failed:
            yield place, Outcome(name, "failed", record.failed[name]["error_code"], record.failed[name]["error"])


def _lacks(record: Record, tables: Mapping[str, Any]) -> str:
    """What a shard lacks, in words; nothing where it is whole."""
    failed = [name for name in record.names if name not in tables and name in record.failed]
    missing = [name for name in record.names if name not in tables and name not in record.failed]
    said = [
        f"{len(names)} {what} ({_some(names)})" for what, names in (("missing", missing), ("failed", failed)) if names
    ]
    return ", ".join(said)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _command(record: Record, shard: Shard) -> str:
    """The command line of a shard, from its own record or from another's."""
    before = ["", *record.command[:-1]]
    words = [str(shard) if last == "--shard" else word for last, word in zip(before, record.command, strict=True)]
    words = [f"--shard={shard}" if word.startswith("--shard=") else word for word in words]
    return shlex.join(words) if words else f"run shard {shard} again"
