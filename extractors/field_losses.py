"""What the compact networks that know fields learn from alike: points, their distances, where things are looked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.extractors.batches import Batch
from horefine.extractors.eyes import CompactConfig, Seen
from horefine.extractors.hoisdf_task import (
    Truth,
    field_loss,
    hand_distance,
    map_losses,
    object_distance,
    pool,
    root_losses,
)
from horefine.extractors.shard_batches import Objects

__all__ = ["Places", "eye_losses", "field_losses", "field_points"]


@dataclass(frozen=True)
class Places:
    """Points about hand and object, and their true distances; network frame, metres."""

    hand: Float[Tensor, "B N 3"]
    hand_distance: Float[Tensor, "B N"]
    object: Float[Tensor, "B N 3"]
    object_distance: Float[Tensor, "B N"]


def field_points(
    true: Truth, batch: Batch, objects: Objects, half: float, count: int, generator: torch.Generator
) -> Places:
    """``count`` points for each field, half of them within 3 cm of its surface, the rest in a cube of side 2 ``half``.

    As in gSDF and C2F-SDF each field is asked about its own points.
    """
    local = objects.surface[batch.object] - objects.centers[batch.object][:, None]
    surface = local @ true.object_rotation.mT + true.object_center[:, None]
    hand = pool(true.vertices + true.wrist[:, None], true.wrist, half, count, generator)
    other = pool(surface, true.object_center, half, count, generator)
    return Places(
        hand, hand_distance(hand - true.wrist[:, None], true.vertices, true.normals),
        other, object_distance(other, true, objects, batch.object),
    )  # fmt: skip


def field_losses(
    ask: Callable[[str, Tensor], Float[Tensor, "B N"]], places: Places, moved: Float[Tensor, "B 3"], scale: float,
    clamp: float, name: str = "field",
) -> dict[str, Tensor]:  # fmt: skip
    """L1 of clamped distances for hand and object.

    ``ask``: the predicted field, normalised unit; ``moved``: from the true wrist to where it is taken to be: everything
    moves with it, so that hand and object stay together.
    """
    found = {which: ask(which, getattr(places, which) + moved[:, None]) for which in ("hand", "object")}
    return {
        f"{which}_{name}": field_loss(value, getattr(places, f"{which}_distance") * scale, clamp)
        for which, value in found.items()
    }


def eye_losses(seen: Seen, batch: Batch, true: Truth, config: CompactConfig) -> dict[str, Tensor]:
    """What keeps eyes that are trained seeing what HOISDF's do: masks, codes, heat, roots. Frozen ones need nothing."""
    if config.frozen:
        return {}
    return map_losses(seen, batch, config.heat_peak) | (root_losses(seen, true) if seen.root is not None else {})
