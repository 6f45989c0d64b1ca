"""Recorded numbers of official code (tests/data), and the hand they were recorded with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from horefine.hand import HandModel
from horefine.mano import HandData

DATA = Path(__file__).parent / "data"


def load(name: str) -> SimpleNamespace:
    """The arrays of ``tests/data/<name>.npz``."""
    with np.load(DATA / f"{name}.npz") as stored:
        return SimpleNamespace(**{key: stored[key] for key in stored.files})


def tensor(array: np.ndarray | float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Floats in ``dtype``, everything else as integers."""
    return torch.as_tensor(np.asarray(array)).to(dtype if np.asarray(array).dtype.kind == "f" else torch.int64)


def recorded_hand(dtype: torch.dtype = torch.float64) -> HandModel:
    """The hand with which the oracles were recorded, with their regions, palm and anchors."""
    arrays, regions = load("synth_hand"), load("synth_hand_regions")
    data = HandData(
        arrays.v_template, arrays.faces, arrays.weights, arrays.J_regressor, arrays.shapedirs, arrays.posedirs,
        np.zeros((16, 3)),
    )  # fmt: skip
    palmar = torch.zeros(778, dtype=torch.bool)
    palmar[regions.palm_vertices.astype(np.int64)] = True
    return dataclasses.replace(
        HandModel.from_data(data, "oracle").to(dtype=dtype),
        regions=tensor(regions.vertex_region), palmar=palmar, anchor_faces=tensor(regions.anchor_faces),
        anchor_weights=tensor(regions.anchor_weights, dtype), anchor_region=tensor(regions.anchor_region),
    )  # fmt: skip
