"""A run in n parts, for batch schedulers (``horefine run ... --shard i/n``).

A shard refines every n-th batch of the run, so that each image has the neighbours it has in the undivided run. It keeps
a record, ``OUT/shards/i-of-n.json``: its images from the beginning, what failed at its end. For everything else the
items' own files are trusted (:mod:`horefine.merge`), so a shard that was killed has lost nothing that it finished.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from horefine.errors import ConfigError, InputError
from horefine.export import write_json
from horefine.job import Job
from horefine.outcome import Outcome, versions

__all__ = ["FOLDER", "Record", "Shard", "begin", "cut", "end", "parse_shard", "read_records"]

FOLDER = "shards"
"""Of the records, in a run's output folder."""


@dataclass(frozen=True)
class Shard:
    """One part of a run."""

    number: int
    """From 1."""
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def parse_shard(text: str) -> Shard:
    """What ``--shard`` says.

    >>> parse_shard("2/8")
    Shard(number=2, count=8)

    Raises:
        ConfigError: it is not i/n with 1 <= i <= n.
    """
    found = re.fullmatch(r"([0-9]+)/([0-9]+)", text.strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError(f"--shard {text}: expected i/n with 1 <= i <= n, e.g. 1/8 to 8/8 for eight parts")
    return Shard(int(found[1]), int(found[2]))


@dataclass(frozen=True)
class Record:
    """What a shard says of itself; written when it begins, and again when it ends."""

    shard: int
    shards: int
    batch_size: int
    total: int
    """Images of the whole run."""
    listing: str
    """Changes with their names or order."""
    title: str
    """Of the report."""
    about: Mapping[str, Any]
    """Of the run, as in its summary."""
    recipe: str
    """As ``config.resolved.yaml`` has it."""
    command: Sequence[str]
    """That runs this shard (again); nothing where no command line did."""
    places: Sequence[int]
    """Of the shard's images among all."""
    names: Sequence[str]
    versions: Mapping[str, str] = field(default_factory=dict)
    skipped: Sequence[str] = ()
    """Those that an earlier run had finished."""
    failed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Name -> ``error_code`` and ``error``."""
    ended: bool = False

    @property
    def key(self) -> str:
        return str(self.about["config_hash"])

    def path(self, out: Path) -> Path:
        return out / FOLDER / f"{self.shard}-of-{self.shards}.json"

    def write(self, out: Path) -> None:
        write_json(self.path(out), dataclasses.asdict(self))


def cut(job: Job, shard: Shard) -> Job:
    """The part of a job that is the shard's: every n-th batch, from the i-th.

    Raises:
        ConfigError: the job is a clip, whose frames are refined together.
    """
    if job.clip is not None:
        raise ConfigError("--shard: a clip is refined as a whole; give each clip a job of its own")
    own = job.batches[shard.number - 1 :: shard.count]
    return dataclasses.replace(job, chosen=tuple(index for batch in own for index in batch))


def begin(job: Job, shard: Shard, about: Mapping[str, Any], command: Sequence[str] = ()) -> Record:
    """Writes the record of a shard that is about to run.

    Args:
        job: The undivided one.
        about: Of the run (``write_summary``).
        command: The words that ran the shard.
    """
    place = {index: k for k, index in enumerate(job.indices)}
    own, names = cut(job, shard).indices, [job.dataset.names[index] for index in place]
    listing = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:10]
    record = Record(
        shard.number, shard.count, job.batch_size, len(names), listing, job.dataset.path.resolve().name, dict(about),
        job.config.dump(), list(command), [place[index] for index in own], [job.dataset.names[index] for index in own],
        versions(),
    )  # fmt: skip
    record.write(job.out)
    return record


def end(out: Path, record: Record, done: Sequence[Outcome]) -> Record:
    """Writes what became of a shard's images, however many were done."""
    failed = {
        own.name: {"error_code": own.error_code or "", "error": own.error or ""}
        for own in done
        if own.status == "failed"
    }
    skipped = [own.name for own in done if own.status == "skipped"]
    record = dataclasses.replace(record, failed=failed, skipped=skipped, ended=len(done) == len(record.names))
    record.write(out)
    return record


def read_records(folder: Path) -> list[Record]:
    """Of one output folder, in the order of their numbers."""
    found = []
    for path in sorted((folder / FOLDER).glob("*-of-*.json")):
        try:
            found.append(Record(**json.loads(path.read_text())))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{path}: damaged ({error}); run that shard again") from None
    return sorted(found, key=lambda record: (record.shards, record.shard))
