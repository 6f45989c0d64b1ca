"""How much of the hand is hidden: by the maps of what is visible where there are some, else by the held object."""

from __future__ import annotations

import math

import numpy as np
import torch

from horefine.data.raster import zbuffer
from horefine.evaluate.cases import Case
from horefine.geometry import Camera, project
from horefine.hand import HandModel

__all__ = ["hidden_share", "occlusion_label"]

_SIDE = 128
"""Pixels along the longer side of the drawing."""
_STEP = 20
"""Per cent in a label."""


def hidden_share(case: Case, hand: HandModel) -> float:
    """The share of the hand's silhouette that is not seen, 0 to 1; NaN where it cannot be told.

    With maps (``maps/NAME.npz``) everything that hides counts, and the edge of the photograph; without, only the
    object of the truth.
    """
    if case.pose is None or case.mesh is None or case.object_only:
        return math.nan
    with torch.no_grad():
        found = hand(case.pose.hand_rotvec, case.pose.hand_shape, case.pose.hand_transl).vertices
        held = case.pose.place(case.mesh.vertices)
    faces = [np.ascontiguousarray(f.cpu().numpy(), np.int32) for f in (hand.faces, case.mesh.faces[0])]
    points = [np.ascontiguousarray(v[0].cpu().numpy(), np.float32) for v in (found, held)]
    if case.maps is not None:
        return _by_maps(case, points[0], faces[0])
    camera = _about(points[0])
    (ids, near), (_, other) = (
        zbuffer(v, f, camera.matrix[0].numpy(), camera.size) for v, f in zip(points, faces, strict=True)
    )
    seen = ids >= 0
    return float((seen & (other > near)).sum() / seen.sum()) if seen.any() else math.nan


def _by_maps(case: Case, vertices: np.ndarray, faces: np.ndarray) -> float:
    """What the mask of the visible hand lacks of its silhouette."""
    assert case.maps is not None
    with np.load(case.maps, allow_pickle=False) as maps:
        if "hand_mask" not in maps or "camera" not in maps:
            return math.nan
        mask, matrix = maps["hand_mask"], maps["camera"]
    camera = Camera(torch.from_numpy(matrix).float()[None], mask.shape)
    camera = camera.mirrored() if case.left else camera
    ids, _ = zbuffer(vertices, faces, camera.matrix[0].numpy(), camera.size)
    alone = float((ids >= 0).sum())
    return max(0.0, 1 - float(mask.sum()) / alone) if alone else math.nan


def _about(vertices: np.ndarray) -> Camera:
    """A small picture of the points from where they were seen. Focal lengths do not matter: they stretch everything
    alike, and shares of areas stay."""
    matrix = torch.eye(3)[None]
    pixels = project(torch.from_numpy(vertices)[None], matrix)[0].numpy()
    low, high = pixels.min(0), pixels.max(0)
    scale = _SIDE / max(float((high - low).max()), 1e-9)
    move = np.array([[scale, 0, -low[0] * scale], [0, scale, -low[1] * scale], [0, 0, 1]])
    return Camera(torch.from_numpy(move).float() @ matrix, (_SIDE, _SIDE))


def occlusion_label(share: float) -> str:
    """``0-20 %`` and so on; ``unknown`` for NaN.

    >>> occlusion_label(0.2), occlusion_label(1.0)
    ('20-40 %', '80-100 %')
    """
    if math.isnan(share):
        return "unknown"
    low = min(int(share * 100 // _STEP) * _STEP, 100 - _STEP)
    return f"{low}-{low + _STEP} %"
