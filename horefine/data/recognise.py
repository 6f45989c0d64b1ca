"""Which dataset a folder holds, by its tree; opening it; the hand that its truth is of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from horefine.data import DATASETS, Dataset
from horefine.data.folder import FolderDataset
from horefine.data.opened import open_named
from horefine.data.pictures import PICTURE_SUFFIXES
from horefine.errors import ConfigError
from horefine.hand import HandModel, load_hand

__all__ = ["hand_of", "open_dataset", "recognise"]


def recognise(root: Path) -> str:
    """Name of the dataset whose tree this is (its folder, or the one that holds it).

    Raises:
        ConfigError: none of them.
    """
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder")
    for base in (root, root / "fhbhands", root / "obman"):
        if base.is_dir():
            names = {entry.name for entry in base.iterdir()}
            found = next((name for name, fits in _TREES.items() if fits(base, names)), None)
            if found is not None:
                return found
    shown = ", ".join(sorted(entry.name for entry in root.iterdir())[:5]) or "nothing"
    raise ConfigError(
        f"{root}: which dataset is this? It holds {shown}; docs/datasets.md shows the trees; name it with --dataset "
        f"({', '.join(name for name in DATASETS if name != 'synthetic')})"
    )


_TREES = {
    "dexycb": lambda base, names: any(re.fullmatch(r"\d{8}-subject-\d+", name) for name in names),
    "fhb": lambda base, names: "Hand_pose_annotation_v1" in names,
    "obman": lambda base, names: any(any((base / part / "meta").glob("*.pkl")) for part in ("test", "val", "train")),
    "ho3d": lambda base, names: any(
        f"{part}.txt" in names or any((base / part).glob("*/meta")) for part in ("train", "evaluation")
    ),
    "bop": lambda base, names: any(base.glob("*/*/scene_gt.json")),
    "folder": lambda base, names: any(Path(name).suffix.lower() in PICTURE_SUFFIXES for name in names),
}
"""Name -> whether a folder is its tree; the first that fits (DexYCB holds a BOP set too)."""


def open_dataset(
    root: Path, text: str | None = None, split: str | None = None, usual: Mapping[str, Any] | None = None
) -> tuple[str, Dataset]:
    """The dataset in a folder, recognised where it is not named (``NAME`` or ``NAME:key=value,...``).

    Args:
        usual: Options that are given where its class knows them.

    Raises:
        ConfigError: not recognised, or its class refuses the folder or an option.
    """
    text = text or recognise(root)
    if text == "folder":
        return text, FolderDataset(root)
    opened = open_named(text, root, split, usual)
    return opened.name, opened.source


def hand_of(dataset: Dataset) -> HandModel:
    """The hand model whose poses the dataset's truth is."""
    truth = getattr(dataset, "hand", None)
    return load_hand() if truth is None else truth.model()
