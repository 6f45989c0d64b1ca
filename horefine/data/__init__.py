"""Where images come from: every source is an index with ``len`` and ``[i] -> Sample``.

>>> from horefine.data import load_dataset
>>> sample = load_dataset("synthetic", count=4, seed=0)[0]  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from horefine.errors import InputError, suggestion
from horefine.geometry import Box, Camera
from horefine.mesh import Mesh
from horefine.scene import Features, Pose

__all__ = ["DATASETS", "Dataset", "Sample", "Sequenced", "load_dataset"]


@dataclass(frozen=True)
class Sample:
    """One image and what is known of it."""

    name: str
    """Unique in its dataset, fit to name a file."""
    image: Float[Tensor, "3 H W"]
    """sRGB, 0 to 1."""
    camera: Camera
    """Of the whole image (B = 1)."""
    mesh: Mesh | None = None
    """The object (B = 1)."""
    depth: Float[Tensor, "H W"] | None = None
    """Of the sensor, metres along z; 0 where it saw nothing."""
    side: Literal["right", "left"] = "right"
    hand_box: Box | None = None
    object_box: Box | None = None
    keypoints: Float[Tensor, "21 2"] | None = None
    """Of the hand in the picture, pixels: wrist, thumb 1-4, index 1-4, middle 1-4, ring 1-4, pinky 1-4."""
    wrist: tuple[float | None, float | None, float] | None = None
    """Where it is, metres, camera frame; x and y are None where only the depth is known."""
    truth: Pose | None = None
    """B = 1. Of a left hand as it is, not mirrored."""
    joints: Float[Tensor, "21 3"] | None = None
    """As a dataset annotates them: house order, metres, camera frame; NaN where one is not. For drawing and measuring:
    nothing that is estimated begins from them."""
    object_truth: Float[Tensor, "4 4"] | None = None
    """Object to camera, metres, where the object's pose is annotated, with or without a hand's."""
    features: Features | None = None
    """Exact maps of the network's crop (synthetic scenes only)."""
    ids: Mapping[str, int] | None = None
    """Numbers that an official evaluation knows the image by: ``image`` (its place in the split), ``scene_id``,
    ``im_id`` and ``obj_id`` (BOP); None where the dataset has none."""
    notes: tuple[str, ...] = ()
    """What was assumed."""


@runtime_checkable
class Dataset(Protocol):
    """An index of samples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@runtime_checkable
class Sequenced(Protocol):
    """What a dataset may tell of itself without opening its pictures (``horefine data check`` shows it)."""

    def sequences(self) -> Mapping[str, Sequence[int]]:
        """Name of each recording -> its indices, in order of time."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Plain facts for a reader: where things were found, how many there are, what is missing."""
        ...


DATASETS: dict[str, str] = {
    "folder": "horefine.data.folder:FolderDataset",
    "synthetic": "horefine.data.synthetic:SyntheticDataset",
    "dexycb": "horefine.data.dexycb:DexYCB",
    "ho3d": "horefine.data.ho3d:HO3D",
    "obman": "horefine.data.obman:ObMan",
    "fhb": "horefine.data.fhb:FHB",
    "bop": "horefine.data.bop:BOP",
}
"""Name -> ``module:class``, imported when first asked for."""


def load_dataset(name: str, **options: Any) -> Dataset:
    """The dataset of that name, made with ``options`` (see the class).

    Raises:
        InputError: there is no such dataset.
    """
    if name not in DATASETS:
        raise InputError(f"dataset {name!r}: there is none of this name{suggestion(name, tuple(DATASETS))}")
    module, attribute = DATASETS[name].split(":")
    factory: Callable[..., Dataset] = getattr(importlib.import_module(module), attribute)
    return factory(**options)
