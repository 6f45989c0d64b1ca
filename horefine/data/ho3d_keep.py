"""Which frames of an HO-3D split a paper looks at, by name.

``cpf`` (Yang et al., ICCV 2021; Song et al. evaluate on the same): frames in which a vertex of the object is within
5 mm of the palmar side of the hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.spatial import KDTree

from horefine.data.index import those_that_pass
from horefine.errors import AssetError
from horefine.hand import HandModel

if TYPE_CHECKING:
    from horefine.data.ho3d import HO3D

__all__ = ["KEEP"]

TOUCH = 0.005
"""Metres."""


def _cpf(data: HO3D) -> np.ndarray:
    if data.hand.mano is None:
        raise AssetError("keep=cpf measures MANO's vertices: give mano_dir=DIR")
    model = data.hand.model()
    about = [data.root.resolve(), data.split, data.version, data.hand.name, data.models.folder]
    return those_that_pass(np.arange(data.total), lambda row: _touches(data, row, model), "cpf", about)


def _touches(data: HO3D, row: int, model: HandModel) -> bool:
    known = data.annotation(row)
    truth = data._truth(known, data._true_joints(row, known))[0]
    if truth is None or known.object_name is None:
        return False
    mesh, notes = data.models.find(known.object_name)
    if mesh is None:
        raise AssetError(f"keep=cpf measures distances to the objects; {notes[0]}")
    with torch.no_grad():
        hand = model(truth.hand_rotvec, truth.hand_shape, truth.hand_transl).vertices[0]
    held = truth.place(mesh.vertices)[0].double().numpy()
    distances, _ = KDTree(held).query(hand[model.palmar].double().numpy())
    return bool(distances.min() <= TOUCH)


KEEP: Mapping[str, Callable[[HO3D], np.ndarray | None]] = {"all": lambda data: None, "cpf": _cpf}
"""Name -> rows of what is kept, in order (None: everything)."""
