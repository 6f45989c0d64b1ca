"""From pixels to what the refiner starts from: boxes, first poses, feature maps, by name.

A crop is a ``horefine.data.Sample`` cut to the square about hand and object (``horefine.data.crop``), of a right hand
(left ones mirrored before). :data:`FEATURES` says which extractor gives which field of ``horefine.Features``,
:data:`INITIALIZERS` which one a first pose comes from; ``package.module:class`` names somebody else's. Extractors are
imported when first asked for, and their weights read then.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from horefine.errors import ConfigError, suggestion

if TYPE_CHECKING:
    from torch import nn

    from horefine.data import Sample
    from horefine.extractors.detector import Located
    from horefine.geometry import Box
    from horefine.hand import HandModel
    from horefine.scene import Features, Pose

__all__ = [
    "COMPLETED", "DETECTORS", "FEATURES", "INITIALIZERS", "Extractor", "Finder", "Initializer", "Learned",
    "extracted_first", "load_default", "load_model", "reconstructs",
]  # fmt: skip

MAPS = "horefine.extractors.maps:MapExtractor"
FEATURES: dict[str, str] = {
    "hand_mask": MAPS,
    "object_mask": MAPS,
    "hand_coords": MAPS,
    "object_coords": MAPS,
    "depth": MAPS,
    "hand_confidence": MAPS,
    "object_confidence": MAPS,
    "depth_confidence": MAPS,
    "pose_spread": "horefine.extractors.initial:HoisdfInitializer",
    "image": "horefine.extractors.picture:PictureExtractor",
    "measured_depth": "horefine.extractors.measured:MeasuredDepth",
    "hand_sdf": "horefine.extractors.initial:HoisdfInitializer",
    "object_sdf": "horefine.extractors.initial:HoisdfInitializer",
    "contact": "horefine.extractors.contact:ContactExtractor",
}
"""Field of ``horefine.Features`` -> the extractor that gives it."""

OF_REGRESSOR = frozenset({"pose_spread", "hand_sdf", "object_sdf"})
"""Fields that whichever initializer is used gives itself."""

COMPLETED: dict[str, tuple[str, ...]] = {
    "contact": ("hand_mask", "object_mask", "hand_coords", "object_coords", "depth"),
}
"""Fields that depend on the pose that refinement begins from -> the fields that they are read off.

``Learned.complete`` gives them (``refine(..., complete=)``); the extractors above only know the regressor's pose.
"""

INITIALIZERS: dict[str, str] = {
    "hoisdf": "horefine.extractors.initial:HoisdfInitializer",
    "gsdf": "horefine.extractors.field_readers:GsdfInitializer",
    "c2fsdf": "horefine.extractors.field_readers:C2fInitializer",
}
"""Name of a regressor -> its class."""

DETECTORS: dict[str, str] = {
    "horefine": "horefine.extractors.detector:BoxDetector",
    "mediapipe": "horefine.extractors.mediapipe_adapter:MediapipeDetector",
}
"""Name of what finds hand and object in a photograph -> its class."""


class Extractor(Protocol):
    """Made as ``cls(device, hand)``."""

    def extract(self, crops: Sequence[Sample], names: Sequence[str]) -> dict[str, Any]:
        """The named fields of ``horefine.Features`` for B crops; nothing else is computed."""
        ...


@runtime_checkable
class Initializer(Protocol):
    """Made as ``cls(device, hand)``."""

    def initialize(self, crops: Sequence[Sample]) -> tuple[Pose, dict[str, Any]]:
        """First poses of B crops, and the fields of ``horefine.Features`` that came with them.

        One that reconstructs (``reconstructs = True``) also gives ``surfaces`` and ``object``, a list each: for each
        crop the surfaces of hand and object (``surface.Surface`` by name), and the mesh that the pose is of.
        """
        ...


class Finder(Protocol):
    """Made as ``cls(device)``."""

    def locate(self, sample: Sample, side: Literal["right", "left"] | None) -> Located:
        """Where hand and object are in a whole photograph; ``side`` is None where nobody said which hand it is."""
        ...


def load_model(path: Path, task: str) -> nn.Module:
    """The network of a weight file, in eval mode.

    Raises:
        AssetError: see ``weights.read_weights``; also when the numbers do not fit the sizes named in the file.
    """
    from horefine.extractors.networks import load_network

    return load_network(path, task)


@functools.lru_cache(maxsize=8)
def load_default(task: str) -> nn.Module:
    """The network that comes with horefine: ``features``, ``hoisdf``, ``detector`` or ``contact``; read once."""
    from horefine.extractors.weights import default_path

    return load_model(default_path(task), task)


def _named(name: str, known: dict[str, str], kind: str) -> type:
    place = name if ":" in name else known.get(name)
    if place is None:
        raise ConfigError(f"{kind} {name!r}: there is none of this name{suggestion(name, known)}")
    module, attribute = place.split(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{kind} {name!r}: cannot be imported ({error}); check the spelling of {place}") from error


def reconstructs(init: str) -> bool:
    """Whether an initializer, by name or ``package.module:class``, gives surfaces, so that an object needs no mesh.

    Raises:
        ConfigError: no such initializer.
    """
    return bool(getattr(_named(init, INITIALIZERS, "initializer"), "reconstructs", False))


def _from_checkpoint(
    init: str, path: Path, device: str, hand: HandModel, trained_on: str | None, mano_dir: Path | None
) -> Initializer:
    """The initializer of a published network, or of ours with other weights."""
    if init == "hoisdf":
        from horefine.extractors.official_initial import initializer_of

        return initializer_of(path, device, hand)
    if init == "gsdf":
        from horefine.extractors.gsdf_official import gsdf_initializer

        return gsdf_initializer(path, device, hand, dataset=trained_on)
    if init == "c2fsdf":
        from horefine.extractors.c2f_sdf_official import c2f_initializer

        return c2f_initializer(path, device, hand, trained_on or "dexycb", mano_dir)
    raise ConfigError(f"checkpoint {path}: goes with the initializers hoisdf, gsdf and c2fsdf, not with {init!r}")


def extracted_first(names: Iterable[str]) -> tuple[str, ...]:
    """What is extracted before refinement: the named fields, those of :data:`COMPLETED` by what they are read off."""
    return tuple(dict.fromkeys(field for name in names for field in COMPLETED.get(name, (name,))))


class Learned:
    """All learned parts on one device, each loaded when first used (``horefine.job.Networks``)."""

    def __init__(
        self,
        init: str = "hoisdf",
        *,
        device: str = "cpu",
        hand: HandModel | None = None,
        checkpoint: Path | None = None,
        detector: str = "horefine",
        trained_on: str | None = None,
        mano_dir: Path | None = None,
    ) -> None:
        """Checks the names of initializer and detector, loads nothing but a ``checkpoint``.

        Args:
            init: One of :data:`INITIALIZERS`, or ``package.module:class``.
            hand: The hand model that poses are for (default: the embedded one).
            checkpoint: Weights of ``init`` instead of ours: a published ``snapshot_*.pth.tar`` (which wants a MANO
                hand), or a ``.safetensors`` of ``horefine train``.
            trained_on: What a published gSDF or C2F-SDF was trained on, ``dexycb`` or ``obman``; its file does not say.
            mano_dir: Where the MANO file is; C2F-SDF's poses are in its basis.
            detector: One of :data:`DETECTORS`, or ``package.module:class`` (a :class:`Finder`).

        Raises:
            ConfigError: no such initializer, one that takes no checkpoint, or no such detector.
            AssetError: the checkpoint cannot be used (``official_initial.initializer_of``), or the detector's package
                is missing (``mediapipe_adapter.open_hands``).
        """
        from horefine.hand import load_hand

        self.device = device
        self.hand = hand if hand is not None else load_hand(kind="embedded")
        self._initializer = _named(init, INITIALIZERS, "initializer")
        self._finder: Finder = _named(detector, DETECTORS, "detector")(device)
        self._loaded: dict[type, Any] = {}
        if checkpoint is not None:
            self._loaded[self._initializer] = _from_checkpoint(
                init, checkpoint, device, self.hand, trained_on, mano_dir
            )

    @property
    def reconstructs(self) -> bool:
        """Whether the initializer gives surfaces, so that an object needs no mesh."""
        return bool(getattr(self._initializer, "reconstructs", False))

    def _get(self, kind: type) -> Any:
        if kind not in self._loaded:
            self._loaded[kind] = kind(self.device, self.hand)
        return self._loaded[kind]

    def complete(self, pose: Pose, features: Features) -> Features:
        """The features with contact as of this pose; as they are when they have it. For ``refine(..., complete=)``."""
        if features.contact is not None:
            return features
        return self._get(_named("contact", FEATURES, "feature")).complete(pose, features)

    def boxes(self, sample: Sample) -> tuple[Box, Box]:
        """Hand box and object box of a whole photograph of a right hand, pixels."""
        from horefine.extractors.detector import detect

        model = load_default("detector").to(self.device)
        return detect(model, [sample.image.to(self.device)])[0]  # type: ignore[arg-type]

    def locate(self, sample: Sample, side: Literal["right", "left"] | None = None) -> Located:
        """See :class:`Finder`."""
        return self._finder.locate(sample, side)

    def poses(self, crops: Sequence[Sample]) -> tuple[Pose, dict[str, Any]]:
        """First poses of B crops, and the features that come with them."""
        return self._get(self._initializer).initialize(crops)

    def features(self, crops: Sequence[Sample], names: Iterable[str]) -> Features:
        """The named fields of B crops; each extractor runs once, and only if one of its fields is named.

        Raises:
            ConfigError: a name that no extractor gives.
        """
        from horefine.extractors.crops import map_camera, mesh_of
        from horefine.scene import Features

        wanted: dict[type, list[str]] = {}
        for name in names:
            kind = self._initializer if name in OF_REGRESSOR else _named(name, FEATURES, "feature")
            wanted.setdefault(kind, []).append(name)
        fields: dict[str, Any] = {}
        for kind, chosen in wanted.items():
            fields |= self._get(kind).extract(crops, chosen)
        return Features(map_camera(crops), mesh_of(crops), **fields)
