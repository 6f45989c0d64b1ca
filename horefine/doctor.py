"""What this installation has and lacks: packages, device, renderers, hand, weights; each gap with its fix."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

__all__ = ["Finding", "examine"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: Literal["ok", "note", "missing"]
    """``note``: works without it; ``missing``: something a user expects does not work."""
    found: str
    fix: str = ""


def examine() -> list[Finding]:
    """Looks at everything; never raises."""
    checks: Iterable[Callable[[], list[Finding]]] = (
        _python, _packages, _device, _renderers, _hand, _weights, _detectors, _simulation, _workers, _cache,
    )  # fmt: skip
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check()
        except Exception as error:  # a broken installation is what doctor is for
            what = check.__name__.lstrip("_")
            findings.append(Finding(what, "missing", f"{type(error).__name__}: {error}", "pip install -e . again"))
    return findings


def _python() -> list[Finding]:
    from horefine import __version__

    return [
        Finding("horefine", "ok", f"{__version__} in {Path(__file__).parent}"),
        Finding("python", "ok", f"{sys.version.split()[0]} on {platform.platform(terse=True)}, {os.cpu_count()} CPUs"),
    ]


def _packages() -> list[Finding]:
    """Required packages that are absent (present ones in one line), optional ones by what they are for."""
    findings, present = [], []
    try:
        wanted = [line for line in requires("horefine") or [] if "extra ==" not in line]
    except PackageNotFoundError:
        return [Finding("packages", "note", "horefine runs from a folder, not installed", "pip install -e .")]
    for line in wanted:
        name = line.split(";")[0].strip()
        for mark in "<>=!~[ ":
            name = name.split(mark)[0]
        try:
            present.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            findings.append(Finding(name, "missing", "not installed", f"pip install '{line.split(';')[0].strip()}'"))
    return [Finding("packages", "ok", ", ".join(present)), *findings]


def _device() -> list[Finding]:
    import torch

    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        return [Finding("device", "ok", f"{torch.cuda.device_count()} CUDA: {', '.join(sorted(names))}")]
    how = "" if torch.version.cuda else "; this torch is a CPU build"
    return [Finding("device", "note", f"CPU{how}", "for a GPU install torch from https://pytorch.org")]


def _renderers() -> list[Finding]:
    import torch

    from horefine.render import RENDERERS
    from horefine.render.backends import choose

    used = choose("auto", "cuda" if torch.cuda.is_available() else "cpu")
    findings = [Finding("renderer", "ok", f"auto takes {used}")]
    for name, load in RENDERERS.items():
        try:
            load()
            findings.append(Finding(f"renderer {name}", "ok", "loads"))
        except ImportError as error:
            state = "missing" if name == used else "note"
            findings.append(Finding(f"renderer {name}", state, "not installed", str(error).splitlines()[0]))
    return findings


def _detectors() -> list[Finding]:
    from horefine.extractors.mediapipe_adapter import RECIPE

    try:
        found = version("mediapipe")
    except PackageNotFoundError:
        return [Finding("mediapipe", "note", "not installed: our detector finds the hands", RECIPE)]
    if found.startswith("0.10."):
        return [Finding("mediapipe", "ok", f"{found}, with --detector mediapipe")]
    return [Finding("mediapipe", "note", f"{found} is not used: its models are not in its wheel", RECIPE)]


def _simulation() -> list[Finding]:
    from horefine.simulation.engines import FIX, installed

    wanted = {"pybullet": "simulation displacement", "mujoco": "its second engine", "coacd": "its finest decomposition"}
    found = {name: installed(name) for name in wanted}
    present = [Finding("simulation", "ok", f"{name} {version}") for name, version in found.items() if version]
    return present + [
        Finding("simulation", "note", f"no {name}: no {wanted[name]}", FIX) for name, held in found.items() if not held
    ]


def _workers() -> list[Finding]:
    try:
        return [Finding("ray", "ok", f"{version('ray')}, with --engine ray")]
    except PackageNotFoundError:
        return [Finding("ray", "note", "not installed: no --engine ray", "pip install 'horefine[ray]'")]


def _hand() -> list[Finding]:
    from horefine.hand import load_hand
    from horefine.mano import REGISTER_AT, find_mano

    findings = [Finding("embedded hand", "ok", f"{len(load_hand(kind='embedded').template)} vertices")]
    path = find_mano()
    if path is None:
        fix = f"register at {REGISTER_AT}, then --mano-dir DIR or HOREFINE_MANO_DIR=DIR (licence: non-commercial)"
        return [*findings, Finding("MANO", "note", "no file: the embedded hand is used", fix)]
    try:
        load_hand(kind="mano")
    except (ValueError, OSError) as error:
        return [*findings, Finding("MANO", "missing", f"{path}: {error}", "download it again, or take it away")]
    return [*findings, Finding("MANO", "ok", str(path))]


def _weights() -> list[Finding]:
    from horefine.extractors.tasks import TASKS
    from horefine.extractors.weights import default_path, read_weights

    findings = []
    for task in TASKS:
        path = default_path(task)
        if not path.is_file():
            fix = f"horefine train {task} --data synthetic --out runs/{task}"
            findings.append(Finding(f"weights {task}", "missing", f"no {path.name}", fix))
            continue
        weights = read_weights(path, task)
        said = json.dumps(weights.validation)
        size = f"{path.stat().st_size / 1e6:.1f} MB"
        findings.append(Finding(f"weights {task}", "ok", f"{size}; {said[:160]}{'…' if len(said) > 160 else ''}"))
    return findings


def _cache() -> list[Finding]:
    """Room and right to write in the cache of distance grids."""
    import platformdirs

    folder = Path(platformdirs.user_cache_dir("horefine"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return [Finding("cache", "note", f"{folder}: {error.strerror}", "set XDG_CACHE_HOME to a folder you may write")]
    free = shutil.disk_usage(folder).free / 1e9
    state, fix = ("ok", "") if free > 1 else ("note", "free some space")
    numba = "with numba" if importlib.util.find_spec("numba") else "without numba"
    return [Finding("cache", state, f"{folder}, {free:.0f} GB free, {numba}", fix)]
