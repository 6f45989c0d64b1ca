"""The benchmark suites: fixed held-out scenes with exact and noisy maps and wrong first poses, made from their seed.

A suite's scenes are those of ``python -m benchmarks.refine``: grasps of the embedded objects that training never sees,
seen by square maps; every start is 15 degrees and 20 mm off for hand and object and 10 degrees for each finger joint,
and the hand's shape is unknown. Noise: :data:`horefine.data.maps.LEVELS`.

>>> from horefine.suite import make_suite
>>> suite = make_suite("small", "n02")  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.data.maps import corrupt, disturb
from horefine.data.scenes import SceneSource
from horefine.data.synthetic import SyntheticDataset, benchmark_scenes
from horefine.errors import ConfigError, suggestion
from horefine.extractors.picture import linear_picture
from horefine.hand import HandModel, load_hand
from horefine.scene import Features, Pose

__all__ = [
    "SUITES", "Suite", "SuiteSpec", "at_level", "check_level", "check_published", "make_exact", "make_suite", "spec_of",
    "summary",
]  # fmt: skip

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""By how much (relative) a machine's scenes may differ from the published ones: a pixel at a silhouette's rim."""


@dataclass(frozen=True)
class SuiteSpec:
    """What a suite is made of. Anything that changes a number of it is a new ``version``."""

    name: str
    version: int
    count: int
    seed: int
    """Of the scenes; the first poses have the next one, the maps' noise the one after."""
    published: Mapping[str, float]
    """:func:`summary` on the machine that defined this version."""
    levels: tuple[str, ...] = ("exact", "n02", "n05", "c01")
    size: int = 64
    """Side of the maps, pixels."""
    start: tuple[float, float, float] = (15.0, 20.0, 10.0)
    """Of the first poses: degrees, millimetres, degrees a finger joint."""

    @property
    def title(self) -> str:
        return f"{self.name} v{self.version}"


def _published(*values: float) -> dict[str, float]:
    return dict(zip(("truth_m", "turns_rad", "start_m", "masks_px", "depth_m"), values, strict=True))


SUITES: dict[str, SuiteSpec] = {
    spec.name: spec
    for spec in (
        SuiteSpec("standard", 1, 100, 1000, _published(151.707, 1081.40, 3.04116, 102274.1, 4839.13)),
        SuiteSpec("small", 1, 12, 1000, _published(23.1585, 138.950, 0.367482, 12106.1, 727.634)),
    )
}
"""``small`` is the first scenes of ``standard``, for tests."""


@dataclass(frozen=True)
class Suite:
    """The scenes of a suite at one level of noise, N in one batch, right hands, the embedded hand's."""

    spec: SuiteSpec
    level: str
    names: tuple[str, ...]
    """``scene_000000`` ..., also of the photographs."""
    objects: tuple[str, ...]
    """Name of the embedded object in each scene."""
    truth: Pose
    start: Pose
    """The disturbed first poses."""
    features: Features

    def __len__(self) -> int:
        return len(self.names)


def spec_of(name: str) -> SuiteSpec:
    """The suite of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in SUITES:
        raise ConfigError(f"--suite {name}: no such suite{suggestion(name, SUITES)}")
    return SUITES[name]


def check_level(spec: SuiteSpec, level: str) -> None:
    """Raises ConfigError for maps that the suite does not have."""
    if level not in spec.levels:
        raise ConfigError(f"--maps {level}: suite {spec.name} has none{suggestion(level, spec.levels)}")


def make_suite(name: str, level: str = "exact", *, picture: bool = False) -> Suite:
    """Makes a suite's scenes in memory, the same on every machine (a warning is logged where they are not).

    Args:
        level: Of the maps' noise, one of the suite's ``levels``.
        picture: Also ``features.image``, the photographs' crops (slower: each is rendered).

    Raises:
        ConfigError: no such suite or level.
    """
    suite = make_exact(spec_of(name), picture=picture)
    check_level(suite.spec, level)
    return at_level(suite, level)


def make_exact(spec: SuiteSpec, *, picture: bool = False) -> Suite:
    """The scenes with exact maps."""
    hand = load_hand(kind="embedded")
    source = SceneSource(spec.seed, hand=hand)
    truth, features = benchmark_scenes(spec.count, spec.seed, size=spec.size, source=source)
    if picture:
        features = dataclasses.replace(features, image=_crop_pictures(spec, hand))
    names = tuple(f"scene_{index:06d}" for index in range(spec.count))
    objects = tuple(source.names[source.which(index)] for index in range(spec.count))
    start = disturb(truth, spec.seed + 1, *spec.start, model=hand, object_center=features.object.center)
    suite = Suite(spec, "exact", names, objects, truth, start, features)
    check_published(suite)
    return suite


def at_level(exact: Suite, level: str) -> Suite:
    """The same scenes with their exact maps spoiled."""
    return dataclasses.replace(exact, level=level, features=corrupt(exact.features, level, exact.spec.seed + 2))


def _crop_pictures(spec: SuiteSpec, hand: HandModel) -> Float[Tensor, "N 3 H W"]:
    """What the photographs show where the maps are, as ``Features.image``."""
    crops = SyntheticDataset(spec.count, spec.seed, size=4 * spec.size, hand=hand)
    return linear_picture(torch.stack([crops[index].image for index in range(spec.count)]), spec.size)


def summary(suite: Suite) -> dict[str, float]:
    """A few numbers of the exact scenes that tell which ones they are, whatever the last bits on a machine."""
    features = suite.features
    assert features.hand_mask is not None and features.object_mask is not None and features.depth is not None
    return {
        "truth_m": float(suite.truth.hand_transl.abs().sum() + suite.truth.object_transl.abs().sum()),
        "turns_rad": float(suite.truth.hand_rotvec.norm(dim=-1).sum()),
        "start_m": float((suite.start.hand_transl - suite.truth.hand_transl).abs().sum()),
        "masks_px": float(features.hand_mask.sum() + features.object_mask.sum()),
        "depth_m": float(features.depth.abs().sum()),
    }


def check_published(exact: Suite) -> bool:
    """Whether exact scenes are the published ones; a warning says what differs."""
    found, spec = summary(exact), exact.spec
    wrong = [
        f"{key} {found[key]:.6g} instead of {value:.6g}"
        for key, value in spec.published.items()
        if not math.isclose(found[key], value, rel_tol=TOLERANCE)
    ]
    if wrong:
        said = f"this machine makes other scenes ({', '.join(wrong)}): do not compare its scores with published ones"
        log.warning("suite %s: %s", spec.title, said)
    return not wrong
