"""A dataset in the place of a folder of photographs: ``--dataset NAME[:key=value,...] --root DIR --split SPLIT``.

>>> parse_dataset("dexycb:keep=gsdf,give=boxes+wrist", split="s0/test")
('dexycb', {'keep': 'gsdf', 'give': 'boxes+wrist', 'split': 's0/test'})
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import yaml

from horefine.data import DATASETS, Dataset, Sample, load_dataset
from horefine.data.index import Lazy, place_of
from horefine.data.pictures import picture_size
from horefine.errors import ConfigError, InputError, suggestion

__all__ = ["OpenedDataset", "Photographs", "open_named", "parse_dataset"]

FOLDERS = ("folder", "synthetic")
"""Datasets that are no dataset on disk by name."""


@runtime_checkable
class Photographs(Protocol):
    """What a run asks of its images: a folder of them, or a dataset (:class:`OpenedDataset`)."""

    path: Path
    root: Path

    @property
    def names(self) -> Sequence[str]:
        """Unique, fit to name folders."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...

    def source_of_camera(self, index: int) -> str:
        """Who gave the camera."""
        ...

    def gives(self, index: int, key: str) -> bool:
        """Whether somebody said this of the image, or it was assumed."""
        ...

    def where_said(self, sample: Sample) -> str:
        """How the user can say where hand and object are in one of its images, in words for a message."""
        ...

    def size_in_file(self, index: int) -> tuple[int, int]:
        """Height and width of the photograph in its file."""
        ...

    def fingerprint(self, index: int) -> str:
        """Changes when the image or what is said of it does."""
        ...


class OpenedDataset:
    """The images of a dataset, every ``step``-th of them, as a run takes them (:class:`Photographs`)."""

    def __init__(self, source: Dataset, name: str, root: Path, options: Mapping[str, Any], step: int = 1) -> None:
        self.source, self.name = source, name
        self.path = self.root = root
        self.step = step
        self.about: Mapping[str, Any] = {
            "name": name,
            "root": str(root.resolve()),
            "options": {**options, "step": step},
        }
        """How it was opened, for the summary of a run."""

    def __len__(self) -> int:
        return (len(self.source) + self.step - 1) // self.step

    def __getitem__(self, index: int) -> Sample:
        """The dataset's sample.

        Raises:
            InputError: it cannot be read.
        """
        return self.source[self._place(index)]

    @property
    def names(self) -> Sequence[str]:
        """The dataset's own names, or numbers where it has none."""
        return Lazy(len(self), self._name)

    def source_of_camera(self, index: int) -> str:
        """The dataset."""
        return self.name

    def gives(self, index: int, key: str) -> bool:
        """A dataset says which hand it is and what it holds; boxes and the like are in the sample where they are."""
        return key in ("side", "object", "camera", "truth")

    def where_said(self, sample: Sample) -> str:
        """By the annotation, where it knows the hand and nobody asked for it yet; else by a first pose."""
        known = sample.truth is not None or sample.joints is not None  # of the hand: an object's is not a truth
        if known and "boxes" not in str(self.about["options"].get("give")):
            return f"--dataset {self.name}:give=boxes takes it from the annotation"
        return "with a first pose of it (--init DIR)"

    def size_in_file(self, index: int) -> tuple[int, int]:
        """Height and width of the photograph in its file."""
        path = self._file(index)
        return self[index].camera.size if path is None else picture_size(path)

    def fingerprint(self, index: int) -> str:
        """Ten characters that change with the photograph and with how the dataset was opened."""
        digest = hashlib.sha256(json.dumps(self.about, sort_keys=True, default=str).encode())
        path = self._file(index)
        digest.update(self._name(index).encode() if path is None else path.read_bytes())
        return digest.hexdigest()[:10]

    def ids(self, index: int) -> Mapping[str, int] | None:
        """What official evaluations know the image by (:class:`~horefine.data.Sample`); None where they do not."""
        known = getattr(self.source, "ids", None)
        return None if known is None else known(self._place(index))

    def find(self, names: frozenset[str]) -> list[int]:
        """The places of some names, in order."""
        return [index for index, name in enumerate(self.names) if name in names]

    def _place(self, index: int) -> int:
        return place_of(index, len(self)) * self.step

    def _name(self, index: int) -> str:
        names: Sequence[str] | None = getattr(self.source, "names", None)
        place = self._place(index)
        return f"{place:06d}" if names is None else names[place]

    def _file(self, index: int) -> Path | None:
        files: Sequence[Path] | None = getattr(self.source, "files", None)
        path = None if files is None else Path(files[self._place(index)])
        return path if path is not None and path.is_file() else None


def parse_dataset(text: str, split: str | None = None) -> tuple[str, dict[str, Any]]:
    """Name and options in ``NAME:key=value,key=value``; ``split`` wins over one in the text.

    Raises:
        ConfigError: no such dataset, or an option without a value.
    """
    name, _, rest = text.partition(":")
    known = [key for key in DATASETS if key not in FOLDERS]
    if name in FOLDERS:
        raise ConfigError(
            f"--dataset {name}: photographs in a folder are given as a folder; by name: {', '.join(known)}"
        )
    if name not in known:
        raise ConfigError(f"--dataset {name}: there is none of this name{suggestion(name, known)}")
    options: dict[str, Any] = {}
    for part in rest.split(","):
        key, equals, value = part.partition("=")
        if part and not equals:
            raise ConfigError(f"--dataset {text}: {part!r}; write NAME:key=value,key=value")
        if part:
            options[key] = yaml.safe_load(value)
    return name, options | ({} if split is None else {"split": split})


def open_named(
    text: str,
    root: Path | str | None = None,
    split: str | None = None,
    usual: Mapping[str, Any] | None = None,
) -> OpenedDataset:
    """The dataset that the command line names.

    Args:
        text: ``NAME`` or ``NAME:key=value,...``: the options of its class, and ``step=K`` for every K-th image.
        root: where it lies; else a key of the text.
        usual: options that are given where the class knows them and the text does not say otherwise (None: left out).

    Raises:
        ConfigError: no such dataset, folder or option; what the class refuses.
        AssetError: MANO is asked for and not there.
    """
    name, options = parse_dataset(text, split)
    place = root if root is not None else options.pop("root", None)
    options.pop("root", None)
    if place is None:
        raise ConfigError(f"--dataset {name}: where is it? Give --root DIR")
    step = options.pop("step", 1)
    if not isinstance(step, int) or step < 1:
        raise ConfigError(f"--dataset {name}: step: {step!r}; expected a whole number from 1")
    module, _, attribute = DATASETS[name].partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    known = [key for key in inspect.signature(kind).parameters if key != "root"]
    for key in options:
        if key not in known:
            raise ConfigError(f"--dataset {name}: {key}: no such option{suggestion(key, (*known, 'step'))}")
    given = {key: value for key, value in (usual or {}).items() if key in known and value is not None}
    try:
        source = load_dataset(name, root=Path(place).expanduser(), **{**given, **options})
    except InputError as error:  # of the dataset as a whole, not of one image
        raise ConfigError(f"--dataset {name}: {error}") from None
    if not len(source):
        raise ConfigError(f"--dataset {name}: {place}: has no images of this split")
    return OpenedDataset(source, name, Path(place), options, step)
