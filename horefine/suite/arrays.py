"""Features and poses as the arrays that ``docs/input.md`` describes (the way back of :mod:`horefine.exchange`)."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy import ndarray
from torch import Tensor

from horefine.distance import DistanceGrid
from horefine.scene import Contact, Features, Pose

__all__ = ["digest", "feature_arrays", "pose_arrays"]


def pose_arrays(pose: Pose, row: int = 0) -> dict[str, ndarray]:
    """One pose of a batch as :func:`horefine.exchange.read_pose` reads it."""
    return {name: _numpy(value[row]) for name, value in pose.items()}


def feature_arrays(features: Features, row: int = 0) -> dict[str, ndarray]:
    """One image of a batch as :func:`horefine.exchange.read_features` reads it; features that are None are left out.

    ``pose_spread`` has no place in that format and is left out too.
    """
    own = features[row : row + 1]
    found: dict[str, ndarray] = {"camera": _numpy(own.camera.matrix[0])}
    for name in (field.name for field in dataclasses.fields(Features) if field.name != "pose_spread"):
        value = getattr(own, name)
        if isinstance(value, Tensor):
            found[name] = _numpy(value[0])
        elif isinstance(value, DistanceGrid):
            found |= _grid_arrays(name, value)
        elif isinstance(value, Contact):
            found |= _contact_arrays(value, int(own.object.counts[0, 0]))
    return found


def _grid_arrays(name: str, grid: DistanceGrid) -> dict[str, ndarray]:
    parts = {field.name: getattr(grid, field.name) for field in dataclasses.fields(grid)}
    return {f"{name}_{key}": _numpy(value[0]) for key, value in parts.items()}


def _contact_arrays(contact: Contact, count: int) -> dict[str, ndarray]:
    """Of the mesh's own vertices, without a batch's padding."""
    parts = {field.name: getattr(contact, field.name) for field in dataclasses.fields(contact)}
    return {f"contact_{key}": _numpy(value[0, :count]) for key, value in parts.items()}


def _numpy(value: Tensor) -> ndarray:
    return value.detach().cpu().numpy()


def digest(items: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 over the names, kinds, shapes and bytes of many items' arrays, in order: one changed bit changes it."""
    total = hashlib.sha256()
    for item in items:
        for name in sorted(item):
            array = np.ascontiguousarray(item[name])
            total.update(f"{name} {array.dtype.str} {array.shape};".encode())
            total.update(array.tobytes())
    return total.hexdigest()
