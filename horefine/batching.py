"""One batch of images from many: of different objects, meshes of different sizes, some things known of only some.

Meshes are padded (``Mesh.cat``), symmetries too; what is not known of some images is filled with what says nothing:
a confidence with 1 everywhere, the spread of a first pose with infinity, predicted contact with none. What cannot be
filled, the size of the maps and the nodes of distance grids among them, tells which images fit one batch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from horefine.config import Config
from horefine.distance import RESOLUTION
from horefine.geometry import Camera
from horefine.mesh import Mesh
from horefine.scene import CONFIDENCES, Contact, Features, PoseSpread

__all__ = ["alike", "cat_features", "fillable"]

SILENT = ("spring_length", "attraction")
"""Losses that are zero, and pull nowhere, where no vertex is in contact."""
NO_REGION = 17


def fillable(config: Config | None) -> frozenset[str]:
    """Features that a batch may lack of some images under this recipe (None: whatever the recipe).

    Contact only where each loss that looks at it may be left out, is zero where there is none, and no image is skipped
    for having too little.
    """
    known = {*CONFIDENCES.values(), "pose_spread"}
    if config is None or "contact" in config.features:
        return frozenset(known)
    looking = [term.function.__name__ for term in config.terms().values() if "contact" in term.features]
    return frozenset(known | {"contact"} if all(name in SILENT for name in looking) else known)


def alike(parts: Sequence[Features], config: Config | None = None) -> list[list[int]]:
    """Which features fit one batch, by their places: maps of one size, the same features there but :func:`fillable`."""
    groups: dict[Any, list[int]] = {}
    free = fillable(config)
    for place, own in enumerate(parts):
        groups.setdefault(kind(own, free), []).append(place)
    return list(groups.values())


def kind(own: Features, free: Collection[str]) -> tuple[Any, ...]:
    """Equal for features that fit one batch; ``free``: what may be filled."""
    present = tuple(f.name for f in fields(Features) if f.name not in free and getattr(own, f.name) is not None)
    grids = tuple(grid.values.shape[1:] for grid in (own.hand_sdf, own.object_sdf) if grid is not None)
    nodes = RESOLUTION if own.object.sdf is None else own.object.sdf.values.shape[-1]
    return own.camera.size, present, grids, nodes


def cat_features(parts: Sequence[Features]) -> Features:
    """One batch from several that fit (see :func:`alike`); what only some have is filled."""
    mesh = Mesh.cat([part.object for part in parts])
    merged: dict[str, Any] = {"object": mesh}
    for name in (f.name for f in fields(Features) if f.name not in ("camera", "object")):
        values = [getattr(part, name) for part in parts]
        if all(value is None for value in values):
            continue
        filled = [_blank(name, part) if value is None else value for value, part in zip(values, parts, strict=True)]
        if name == "contact":
            filled = [_padded(value, mesh.vertices.shape[1]) for value in filled]
        merged[name] = _cat(filled)
    camera = Camera(torch.cat([part.camera.matrix for part in parts]), parts[0].camera.size)
    return Features(camera, **merged)


def _blank(name: str, own: Features) -> Any:
    """What says nothing, of as many images as ``own`` has.

    Raises:
        ValueError: for a feature that something has to be said of.
    """
    matrix, count = own.camera.matrix, len(own)
    if name in CONFIDENCES.values():
        return matrix.new_ones(count, *own.camera.size)
    if name == "pose_spread":
        return matrix.new_full((count, len(fields(PoseSpread))), torch.inf)
    if name == "contact":
        size = own.object.vertices.shape[1]
        region = torch.full((count, size), NO_REGION, device=matrix.device)
        return Contact(matrix.new_zeros(count, size), region, matrix.new_zeros(count, size, 4))
    raise ValueError(f"features.{name}: some images of the batch have it, some do not; see batching.alike")


def _cat(parts: Sequence[Any]) -> Any:
    """Tensors, or dataclasses of them, one after another."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    assert is_dataclass(parts[0]) and not isinstance(parts[0], type)
    return replace(parts[0], **{f.name: _cat([getattr(own, f.name) for own in parts]) for f in fields(parts[0])})


def _padded(own: Contact, count: int) -> Contact:
    """``own`` with ``count`` vertices: no contact, no region."""

    def longer(values: Tensor, filling: float) -> Tensor:
        rest = values.new_full((len(values), count - values.shape[1], *values.shape[2:]), filling)
        return torch.cat([values, rest], 1)

    return Contact(longer(own.probability, 0), longer(own.region, NO_REGION), longer(own.elasticity, 0))
