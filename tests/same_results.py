"""Whether two runs wrote the same, to the byte, but for what a clock said."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

CLOCK = re.compile(r'<td class="n" data-v="[\d.]*">[^<]*</td>|<b>[\d.]+ s</b>')


def files_of(out: Path) -> dict[str, bytes | Any]:
    """Path below ``out`` -> what is in the file, seconds left out; records of shards are left out."""
    return {
        str(path.relative_to(out)): _content(path)
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.parent.name != "shards"
    }


def assert_same(one: Path, other: Path) -> None:
    """Fails with the name of the first file that differs."""
    first, second = files_of(one), files_of(other)
    assert list(first) == list(second)
    for name, content in first.items():
        assert content == second[name], name


def _content(path: Path) -> bytes | Any:
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text()))
    if path.name == "summary.csv":
        return [_timeless(row) for row in csv.DictReader(path.read_text().splitlines())]
    if path.name == "report.html":
        return CLOCK.sub("", path.read_text())
    return path.read_bytes()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(inner) for key, inner in value.items() if key != "seconds"}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value
