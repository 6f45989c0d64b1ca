"""What ``benchmarks.sensitivity`` makes wrong: scenes with exact maps, and factors that each spoil one thing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from horefine import Pose
from horefine.data.maps import corrupt, disturb
from horefine.hand import HandModel
from horefine.scene import Features

__all__ = ["FACTORS", "USUAL", "Factor", "Scenes", "hidden", "label"]

USUAL = (15.0, 20.0, 10.0)
"""The usual start: degrees, millimetres, degrees a finger joint."""
BLOCK = 8
"""Side of the blocks that are taken out of maps, pixels."""

Trial = tuple[Features, Pose]
"""What a recipe is given: features and start."""
Value = Any
"""Of a factor: a number, the name of a noise level, or (degrees, millimetres, degrees a finger joint)."""


@dataclass(frozen=True)
class Scenes:
    """N scenes and their exact maps."""

    truth: Pose
    features: Features
    model: HandModel
    seed: int

    def start(
        self,
        degrees: float = USUAL[0],
        millimetres: float = USUAL[1],
        fingers: float = USUAL[2],
        *,
        keep_shape: bool = False,
    ) -> Pose:
        """The truth disturbed, always in the same directions; the shape is zero or the true one."""
        center, seed = self.features.object.center, self.seed + 1
        options = {"model": self.model, "object_center": center, "keep_shape": keep_shape}
        return disturb(self.truth, seed, degrees, millimetres, fingers, **options)


def any_rotation(scenes: Scenes, millimetres: float) -> Trial:
    """Starts whose wrist and object are turned to any rotation, all equally likely (another angle for each scene)."""
    starts = []
    for i in range(len(scenes.truth)):
        quaternion = np.random.default_rng([scenes.seed + 3, i]).normal(size=4)
        cosine = abs(quaternion[0]) / float(np.linalg.norm(quaternion))
        angle, row = math.degrees(2 * math.acos(min(1.0, cosine))), torch.tensor([i])
        alone = Scenes(scenes.truth[row], scenes.features[row], scenes.model, 10_000 * scenes.seed + i)
        starts.append(alone.start(angle, millimetres))
    return scenes.features, Pose.cat(starts)


def wrong_focal(scenes: Scenes, percent: float) -> Trial:
    """Maps of the true camera that are taken for those of one whose focal length is ``percent`` larger."""
    matrix = scenes.features.camera.matrix.clone()
    matrix[:, [0, 1], [0, 1]] *= 1 + percent / 100
    camera = dataclasses.replace(scenes.features.camera, matrix=matrix)
    return dataclasses.replace(scenes.features, camera=camera), scenes.start()


def wrong_shape(scenes: Scenes, deviations: float) -> Trial:
    """The usual start, but its shape is so far from the true one (root mean square of the 10 values); same wrist."""
    truth, start = scenes.truth, scenes.start(keep_shape=True)
    draws = [np.random.default_rng([scenes.seed + 4, i]).normal(size=10) for i in range(len(truth))]
    step = torch.as_tensor(np.stack(draws), dtype=truth.hand_shape.dtype)
    shape = truth.hand_shape + deviations * step / step.square().mean(1, keepdim=True).sqrt()
    wrist = scenes.model.rest_joints(truth.hand_shape)[:, 0] - scenes.model.rest_joints(shape)[:, 0]
    return scenes.features, dataclasses.replace(start, hand_shape=shape, hand_transl=start.hand_transl + wrist)


def occluded(scenes: Scenes, percent: float, parts: Sequence[str] = ("hand", "object")) -> Trial:
    """Maps without ``percent`` of the visible pixels of each of ``parts``, whose depth goes with them."""
    features = scenes.features
    hand, thing, depth = features.hand_mask, features.object_mask, features.depth
    assert hand is not None and thing is not None and depth is not None
    owner = {"hand": hand >= thing, "object": thing > hand}
    changed = {"depth": depth.clone()}
    for k, part in enumerate(parts):
        mask, coords = (getattr(features, f"{part}_{kind}").clone() for kind in ("mask", "coords"))
        for i in range(len(features)):
            rng = np.random.default_rng([scenes.seed + 5, i, k])
            gone = torch.from_numpy(hidden(mask[i].numpy(), percent / 100, rng))
            mask[i, gone] = 0
            coords[i, :, gone] = 0
            changed["depth"][i, gone & owner[part][i]] = 0
        changed |= {f"{part}_mask": mask, f"{part}_coords": coords}
    return dataclasses.replace(features, **changed), scenes.start()


def hidden(mask: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Which pixels of a mask (H x W, 0 to 1) are taken out: ``share`` of those above 0.5, and the rims beside them.

    Whole blocks in random order, of the last one a part; a larger share takes the same pixels out and further ones.
    """
    y, x = np.indices(mask.shape) + rng.integers(BLOCK, size=(2, 1, 1))
    columns = x.max() // BLOCK + 1
    ranks = rng.permutation((y.max() // BLOCK + 1) * columns)
    order = ranks[y // BLOCK * columns + x // BLOCK] * BLOCK**2 + y % BLOCK * BLOCK + x % BLOCK
    seen = np.sort(order[mask > 0.5])
    count = round(share * len(seen))
    return (mask > 0) & (order <= seen[count - 1]) if count else np.zeros(mask.shape, bool)


@dataclass(frozen=True)
class Factor:
    """One thing that is made wrong."""

    title: str
    values: tuple[Value, ...]
    trial: Callable[[Scenes, Value], Trial]
    """Features and start of the scenes at one of the values."""
    grows: bool = True
    """Whether the values go from right to wrong, so that there is a basin."""


def _noisy(scenes: Scenes, level: str) -> Trial:
    return corrupt(scenes.features, level, scenes.seed + 2), scenes.start()


FACTORS: dict[str, Factor] = {
    "rotation": Factor(
        "start rotation, degrees", (5, 15, 30, 45, 60, 75, 90, 120, 150, 180), lambda s, v: (s.features, s.start(v))
    ),
    "translation": Factor(
        "start translation, mm", (5, 10, 20, 40, 60, 80, 100, 150, 200),
        lambda s, v: (s.features, s.start(millimetres=v)),
    ),
    "both": Factor(
        "start: degrees/mm/degrees a finger joint",
        ((15, 20, 10), (30, 40, 15), (45, 60, 20), (60, 60, 20), (90, 80, 20), (150, 100, 20), (180, 200, 20)),
        lambda s, v: (s.features, s.start(*v)),
    ),
    "any": Factor("any start rotation and mm", (0, 20, 60), any_rotation),
    "noise": Factor("independent noise", ("exact", "n02", "n05"), _noisy, grows=False),
    "correlated": Factor("correlated noise", ("exact", "c005", "c01", "c02", "c04"), _noisy, grows=False),
    "focal": Factor("focal length wrong by, %", (-10, -5, -2, -1, 0, 1, 2, 5, 10), wrong_focal, grows=False),
    "shape": Factor("start shape wrong by, sd", (0, 0.5, 1, 1.5, 2, 3), wrong_shape),
    "occlusion": Factor("hand and object occluded, %", (0, 20, 40, 60, 80), occluded),
    "hand": Factor("hand occluded, %", (0, 20, 40, 60, 80), lambda s, v: occluded(s, v, ["hand"])),
    "object": Factor("object occluded, %", (0, 20, 40, 60, 80), lambda s, v: occluded(s, v, ["object"])),
}  # fmt: skip
"""By name."""


def label(value: Value) -> str:
    """Of a value in tables: ``15/20/10`` for a triple."""
    return "/".join(f"{part:g}" for part in value) if isinstance(value, tuple) else str(value)
