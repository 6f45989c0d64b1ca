"""Weight files: safetensors only (no code in them), with the network's sizes and its validation numbers inside."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from horefine.errors import AssetError

__all__ = [
    "LICENCE", "Weights", "begin_from", "default_path", "read_weights", "save_weights", "start_path", "write_tensors",
]  # fmt: skip

VERSION = "1"
LICENCE = "Apache-2.0; trained by the horefine developers on horefine's own synthetic scenes"


@dataclass(frozen=True)
class Weights:
    """What a weight file holds."""

    task: str
    """``features``, ``hoisdf`` or ``detector``."""
    network: dict[str, Any]
    """Fields of the network's configuration."""
    validation: dict[str, Any]
    tensors: dict[str, Tensor]


def default_path(task: str) -> Path:
    """Where the weights that come with horefine lie."""
    return Path(str(resources.files("horefine.assets") / f"{task}.safetensors"))


def start_path(start: str) -> Path:
    """The file that ``start`` names: itself, or the weights of that task that come with horefine."""
    shipped = default_path(start) if "/" not in start and "." not in start else None
    return shipped if shipped is not None and shipped.is_file() else Path(start)


def save_weights(
    path: Path, tensors: Mapping[str, Tensor], task: str, network: Any, validation: Mapping[str, Any]
) -> None:
    """Writes a weight file in half precision (batch statistics in full), atomically.

    ``network`` is the network's configuration, a dataclass.
    """
    stored = {}
    for name, value in tensors.items():
        if name.endswith("num_batches_tracked"):
            continue
        half = value.is_floating_point() and not name.endswith(("running_var", "running_mean"))
        stored[name] = value.to(torch.float16) if half else value
    metadata = {
        "task": task,
        "network": json.dumps(dataclasses.asdict(network)),
        "validation": json.dumps(dict(validation)),
        "version": VERSION,
        "licence": LICENCE,
    }
    write_tensors(path, stored, metadata)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes tensors under a temporary name and renames: a file of this name is always whole."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    contiguous = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    try:
        save_file(contiguous, partial, dict(metadata or {}))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def begin_from(model: nn.Module, path: Path) -> int:
    """Copies into ``model`` what a weight file has of the same name and size; returns how many tensors.

    The feature network's encoder also fits HOISDF's backbone.

    Raises:
        AssetError: the file cannot be read, or nothing in it fits.
    """
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise AssetError(f"start {path}: cannot be read ({error}); give a weight file of horefine") from None
    own, renamed = model.state_dict(), {}
    for name, value in found.items():
        name = name.replace("trunks.shared.encoder.", "backbone_net.resnet.") if name not in own else name
        if name in own and own[name].shape == value.shape:
            renamed[name] = value.to(own[name].dtype)
    if not renamed:
        raise AssetError(f"start {path}: nothing in it fits this network")
    model.load_state_dict(renamed, strict=False)
    return len(renamed)


def read_weights(path: Path, task: str) -> Weights:
    """Reads and checks a weight file.

    Raises:
        AssetError: missing, damaged, of another task or version, or with numbers that are not finite; the message says
            how to get a good one.
    """
    way_out = f"reinstall horefine, or train it: horefine train {task} --data synthetic"
    if not path.is_file():
        raise AssetError(f"weights {path}: no such file; {way_out}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise AssetError(f"weights {path}: damaged or not a safetensors file ({error}); {way_out}") from None
    if metadata.get("task") != task:
        raise AssetError(
            f"weights {path}: made for {metadata.get('task', 'something else')!r}, not {task!r}; {way_out}"
        )
    if metadata.get("version") != VERSION:
        raise AssetError(f"weights {path}: version {metadata.get('version')!r}, this is {VERSION!r}; {way_out}")
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise AssetError(f"weights {path}: {name} holds numbers that are not finite; {way_out}")
    tensors = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    try:
        network, validation = (json.loads(metadata[name]) for name in ("network", "validation"))
    except (KeyError, ValueError) as error:
        raise AssetError(f"weights {path}: its header does not say what network it is ({error!r}); {way_out}") from None
    if not isinstance(network, dict):
        raise AssetError(f"weights {path}: its header does not say what network it is ({network!r}); {way_out}")
    return Weights(task, network, validation, tensors)
