"""Training batches out of any dataset of samples that carry truth, cropped and mapped when they are asked for.

The interface is that of ``shard_batches.Scenes``. Exact maps are drawn from the true pose (or taken from the sample,
where it brings them), signed distances come from the sample's mesh. A sample that cannot be used is named and left out.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from horefine.data import Dataset
from horefine.data.bank import hand_digest
from horefine.data.folder import FolderDataset
from horefine.data.hand_truth import TruthHand
from horefine.data.opened import OpenedDataset
from horefine.data.scenes import SceneSource
from horefine.data.shards import MAP_SIZE, Shards
from horefine.errors import ConfigError, InputError
from horefine.extractors.batches import Batch
from horefine.extractors.sample_records import CROP, Record, Refused, mesh_key, read_record
from horefine.extractors.shard_batches import Objects, Scenes, batch_of
from horefine.extractors.stored_objects import open_objects
from horefine.hand import HandModel, load_hand
from horefine.mano import find_mano
from horefine.mesh import Mesh

__all__ = ["SampleScenes", "hand_of", "open_scenes"]

log = logging.getLogger(__name__)

KEPT = 1000
"""Scenes kept ready in memory (about 0.2 MB each)."""


class SampleScenes(Scenes):
    """Scenes of a dataset; numbers below ``held_out`` are its first usable samples, the others its later ones.

    ``objects`` holds the objects met so far; it grows at its end.
    """

    def __init__(
        self, dataset: Dataset, hand: HandModel, held_out: int, device: str = "cpu",
        crop: int = CROP, side: int = MAP_SIZE,
    ) -> None:  # fmt: skip
        """Reads samples until ``held_out`` usable ones are found, and one more.

        Args:
            hand: Whose pose and shape the truth is.
            crop: Side of the pictures, pixels.
            side: Side of the maps, pixels.

        Raises:
            InputError: no usable sample is left to train on; says how many were left out and why the first was.
        """
        self.dataset, self.held_out, self.device = dataset, held_out, device
        self.crop, self.side = crop, side
        self.hand, self._hand = hand.to(device), hand.to("cpu")
        self.refused: dict[int, str] = {}
        """Why samples were left out, by their number in the dataset."""
        self._ready: OrderedDict[int, Record] = OrderedDict()
        self._parts: dict[str, Objects] = {}
        self._held: list[int] = []
        self._first = 0
        while len(self._held) < held_out and self._first < len(dataset):
            self._held += [self._first] if self._record(self._first) is not None else []
            self._first += 1
        if all(self._record(index) is None for index in range(self._first, len(dataset))):
            first = f"; the first: {next(iter(self.refused.values()))}" if self.refused else ""
            raise InputError(
                f"{len(dataset)} samples, {len(self._held)} of them held out and {len(self.refused)} of no use: none "
                f"is left to train on{first}"
            )

    def __len__(self) -> int:
        """Held out and others; some of the others may turn out to be of no use."""
        return len(self._held) + len(self.dataset) - self._first

    def choose(self, count: int, generator: torch.Generator) -> np.ndarray:
        """Random training scenes."""
        return torch.randint(len(self._held), len(self), (count,), generator=generator).numpy()

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The scenes as they are; in place of one of no use comes the next."""
        read = self._reader(indices)
        return batch_of(read, self.objects, read("sensed"))

    def wholes(self, indices: Sequence[int] | np.ndarray) -> tuple[Float[Tensor, "B 3 W W"], Float[Tensor, "B 2 4"]]:
        """As ``Scenes.wholes``."""
        read = self._reader(indices)
        return read("whole").float() / 255, read("boxes")

    def _reader(self, indices: Sequence[int] | np.ndarray) -> Callable[[str], Tensor]:
        records = [self._usable(int(index)) for index in indices]
        return lambda name: torch.stack([record[name] for record in records]).to(self.device)

    def _usable(self, number: int) -> Record:
        """The scene, or the next training scene that can be used (there is one: see ``__init__``)."""
        if number < len(self._held):
            return self._record(self._held[number])  # type: ignore[return-value]
        rest = len(self.dataset) - self._first
        for step in range(rest):
            record = self._record(self._first + (number - len(self._held) + step) % rest)
            if record is not None:
                return record
        raise InputError("no sample is left to train on")

    def _record(self, index: int) -> Record | None:
        """A sample's scene, or None for one of no use (named once)."""
        if index in self.refused:
            return None
        if index in self._ready:
            self._ready.move_to_end(index)
            return self._ready[index]
        found = read_record(self.dataset, index, self._hand, self.crop, self.side)
        if isinstance(found, Refused):
            self.refused[index] = f"{found.name}: {found.why}"
            log.warning("%s; it is left out of the training", self.refused[index])
            return None
        record = found.record
        record["object"] = torch.tensor(self._number_of(found.mesh))
        self._ready[index] = record
        if len(self._ready) > KEPT:
            self._ready.popitem(last=False)
        return record

    def _number_of(self, mesh: Mesh) -> int:
        """The object's number; one seen for the first time gets the next."""
        key = mesh_key(mesh)
        if key not in self._parts:
            self._parts[key] = Objects.of([mesh]).to(self.device)
            self.objects = Objects.cat(list(self._parts.values()))
        return list(self._parts).index(key)


def open_scenes(
    data: Path | Dataset, hand: str, held_out: int, device: str = "cpu", crop: int = CROP, side: int = MAP_SIZE
) -> Scenes:
    """The scenes of a folder of training shards, of a folder of photographs with truth, or of a dataset.

    Args:
        hand: ``embedded``, ``mano`` or ``auto``: see :func:`hand_of`.
        crop: Side of pictures and ``side``: of maps; shards have their own.

    Raises:
        InputError: neither shards nor photographs there, or nothing to train on.
    """
    if isinstance(data, Path):
        if any(data.glob("shard_*/meta.json")):
            objects = open_objects(data, Shards.open(data).meta["objects"], device)
            return Scenes.open(data, objects, hand_of(data, hand), held_out, device)
        try:
            dataset: Dataset = FolderDataset(data / "images" if (data / "images").is_dir() else data)
        except ConfigError as error:
            raise InputError(
                f"{data}: no training shards (shard_*/meta.json), and no photographs with truth either ({error}); "
                "horefine synthesize makes such a folder"
            ) from None
    else:
        dataset = data
    return SampleScenes(dataset, hand_of(data, hand), held_out, device, crop, side)


def hand_of(data: Path | Dataset, kind: str = "auto") -> HandModel:
    """The hand whose pose and shape the data's truth is.

    Of synthetic scenes it is the one that they were made with; of other data a MANO hand where there is one
    (``auto``), or the one insisted on (``embedded``, ``mano``). A dataset's truth is of the hand it was opened with.

    Raises:
        ConfigError: another one is insisted on.
    """
    data = data.source if isinstance(data, OpenedDataset) else data
    truth = getattr(data, "hand", None)
    if isinstance(truth, TruthHand):
        if kind not in ("auto", truth.name):
            raise ConfigError(f"hand: {kind}: the data's truth is of the {truth.name} hand: open it with hand={kind}")
        return truth.model()
    source = getattr(data, "source", None)
    if isinstance(source, SceneSource):
        return source.hand
    embedded = load_hand(kind="embedded")
    if isinstance(data, Path) and any(data.glob("shard_*/meta.json")):
        return _hand_of_shards(data, kind, embedded)
    if kind == "auto" and isinstance(data, Path):
        manifests = (data / "manifest.json", data.parent / "manifest.json")
        written = [json.loads(path.read_text()).get("hand") for path in manifests if path.is_file()]
        if hand_digest(embedded) in written:
            return embedded
    return load_hand(kind=kind)


def _hand_of_shards(folder: Path, kind: str, embedded: HandModel) -> HandModel:
    """The hand that shards were made with: the embedded one, or the user's MANO if it is the same.

    Raises:
        ConfigError: another one is insisted on, or MANO is not here.
    """
    meta = Shards.open(folder).meta
    if "hand_name" not in meta:  # synthetic scenes
        return load_hand(kind=kind) if kind == "mano" else embedded
    name = meta["hand_name"]
    if kind not in ("auto", name):
        raise ConfigError(f"hand: {kind}: the truth in {folder} is of the {name} hand")
    if name == "embedded":
        return embedded
    places = [place for place in (meta.get("mano_dir"), None) if place is None or Path(place).exists()]
    for place in places:
        path = find_mano(place)
        hand = None if path is None else load_hand(path)
        if hand is not None and hand_digest(hand) == meta["hand"]:
            return hand
    raise ConfigError(
        f"{folder}: its truth is of a MANO hand that is not here: set HOREFINE_MANO_DIR to the folder of the "
        "MANO_RIGHT.pkl that it was made with"
    )
