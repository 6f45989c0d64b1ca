"""A suite as files that any system can read (``docs/input.md``), and back.

``DIR/images`` with sidecars, ``DIR/depth``, ``DIR/truth`` and ``DIR/maps`` (exact, as the photographs show them, with
what stands in front) as ``horefine synthesize`` writes them; ``DIR/init``: the wrong first poses;
``DIR/features/LEVEL``: the suite's maps,
nothing in front; and, last, ``DIR/suite.json``: what it is, with a digest of each part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from horefine.batching import cat_features
from horefine.data.bank import hand_digest
from horefine.data.synthetic import write_dataset
from horefine.errors import ConfigError
from horefine.exchange import find_item, read_features, read_pose
from horefine.export import write_arrays, write_json
from horefine.geometry import Camera
from horefine.hand import load_hand
from horefine.objects import embedded_object
from horefine.scene import Features, Pose
from horefine.suite.arrays import digest, feature_arrays, pose_arrays
from horefine.suite.scenes import Suite, SuiteSpec, at_level, check_level, make_exact, make_suite, spec_of

__all__ = ["MANIFEST", "load_suite", "open_suite", "write_suite"]

MANIFEST = "suite.json"
FORMAT = 1
"""Of the folder."""


def write_suite(folder: str | Path, name: str, progress: Callable[[int, int], None] | None = None) -> SuiteSpec:
    """Writes a suite; what is there already is not made again.

    Args:
        progress: Called with the number of photographs done and of all.

    Raises:
        ConfigError: no such suite, or the folder holds another one.
    """
    folder, spec, hand = Path(folder), spec_of(name), load_hand(kind="embedded")
    _refuse_others(folder, spec)
    write_dataset(folder, spec.count, spec.seed, hand=hand, progress=progress)
    exact = make_exact(spec, picture=True)
    parts = {
        "truth": _digest_of_files(folder / "truth", exact.names),
        "init": _write_all(folder / "init", exact.names, (_start(exact, k) for k in range(len(exact)))),
        "images": _digest_of_pictures(folder / "images", exact.names),
    }
    for level in spec.levels:
        maps = at_level(exact, level).features
        arrays = (feature_arrays(maps, k) for k in range(len(exact)))
        parts[f"features/{level}"] = _write_all(folder / "features" / level, exact.names, arrays)
    about = {
        "format": FORMAT, "suite": spec.name, "version": spec.version, "count": spec.count, "seed": spec.seed,
        "start": dict(zip(("degrees", "millimetres", "finger_degrees"), spec.start, strict=True)),
        "map_size": spec.size, "hand": hand_digest(hand), "names": exact.names,
        "objects": exact.objects, "sha256": parts,
    }  # fmt: skip
    write_json(folder / MANIFEST, about)
    return spec


def _start(suite: Suite, row: int) -> dict[str, Any]:
    return {**pose_arrays(suite.start, row), "side": np.array("right")}


def _write_all(folder: Path, names: Iterable[str], items: Iterable[dict[str, Any]]) -> str:
    """Writes each item's arrays; the digest of all."""
    written = []
    for name, arrays in zip(names, items, strict=True):
        write_arrays(folder / f"{name}.npz", arrays)
        written.append(arrays)
    return digest(written)


def _refuse_others(folder: Path, spec: SuiteSpec) -> None:
    other = None
    if (folder / MANIFEST).is_file():
        found = _manifest(folder)
        other = f"suite {found['suite']} v{found['version']}"
        if (found["suite"], found["version"]) == (spec.name, spec.version):
            return
    elif (folder / "manifest.json").is_file():
        found = json.loads((folder / "manifest.json").read_text())
        other = f"{found.get('count')} scenes of seed {found.get('seed')}"
        if (found.get("count"), found.get("seed")) == (spec.count, spec.seed):
            return
    if other is not None:
        raise ConfigError(f"{folder}: holds {other}; give suite {spec.title} a folder of its own")


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        table = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError:
        said = f"{folder}: no {MANIFEST} there: not a suite, or not completely written"
        raise ConfigError(f"{said}; write one with: horefine synthesize {folder} --suite standard") from None
    except ValueError as error:
        raise ConfigError(f"{folder / MANIFEST}: damaged ({error}); write the suite again") from None
    if table.get("format") != FORMAT:
        raise ConfigError(f"{folder / MANIFEST}: format {table.get('format')!r}; this version reads {FORMAT}")
    return table


def open_suite(source: str | Path, level: str = "exact", *, picture: bool = False) -> Suite:
    """A suite by name (made in memory), or read from the folder of :func:`write_suite`.

    Raises:
        ConfigError: neither a suite nor a folder with one, no such level, or a folder whose content has changed.
    """
    if Path(source).is_dir():
        return load_suite(Path(source), level)
    return make_suite(str(source), level, picture=picture)


def load_suite(folder: Path, level: str = "exact") -> Suite:
    """The scenes that :func:`write_suite` wrote, bit for bit.

    Raises:
        ConfigError: see :func:`open_suite`.
    """
    about = _manifest(folder)
    spec = spec_of(about["suite"])
    if about["version"] != spec.version:
        said = f"{folder}: suite {spec.name} v{about['version']}; this version of horefine knows v{spec.version}"
        raise ConfigError(f"{said}: write it again")
    check_level(spec, level)
    names = tuple(about["names"])
    for part in ("truth", "init", f"features/{level}"):
        if _digest_of_files(folder / part, names) != about["sha256"].get(part):
            raise ConfigError(f"{folder / part}: changed since the suite was written; write it again, elsewhere")
    features = [_features(folder, level, *pair) for pair in zip(names, about["objects"], strict=True)]
    truth, start = _poses(folder / "truth", names), _poses(folder / "init", names)
    return Suite(spec, level, names, tuple(about["objects"]), truth, start, cat_features(features))


def _features(folder: Path, level: str, name: str, thing: str) -> Features:
    path, mesh = folder / "features" / level / f"{name}.npz", embedded_object(thing)
    unused = Camera(torch.eye(3)[None], (1, 1))  # of the photograph; the maps bring their own
    return read_features(path, unused, mesh, unused.size)


def _poses(folder: Path, names: Iterable[str]) -> Pose:
    return Pose.cat([read_pose(find_item(folder, name)).pose for name in names])


def _digest_of_files(folder: Path, names: Iterable[str]) -> str:
    """:func:`digest` of npz files; "missing" when one is not there or cannot be read."""

    def arrays(name: str) -> dict[str, ndarray]:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}

    try:
        return digest(map(arrays, names))
    except Exception as error:  # zipfile.BadZipFile and friends: a damaged archive
        return f"missing: {error}"


def _digest_of_pictures(folder: Path, names: Iterable[str]) -> str:
    total = hashlib.sha256()
    for name in names:
        total.update((folder / f"{name}.png").read_bytes())
        total.update((folder / f"{name}.json").read_bytes())
    return total.hexdigest()
