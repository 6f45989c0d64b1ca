"""How well poses explain the maps they were refined on: what can be said of images without a truth.

The measures are the same for every variant, whatever its losses: a loss that is off has no value to compare. They say
nothing of what the maps do not show, and a variant that follows wrong maps closely has small ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from horefine.batching import cat_features
from horefine.hand import HandModel
from horefine.render import Render, make_renderer
from horefine.scene import Features, Pose

__all__ = ["image_residuals", "maps_of"]

MAPS = ("hand_mask", "object_mask", "hand_coords", "object_coords", "depth")
SEEN = 0.5
"""Coverage from which a pixel shows a part."""
MILLIMETRES = 1e3


@torch.no_grad()
def image_residuals(pose: Pose, features: Features, model: HandModel) -> dict[str, np.ndarray]:
    """Of B poses: ``mask_iou`` (0 to 1), ``code_mm`` and ``map_depth_mm``, each B numbers; NaN without such maps.

    ``mask_iou``: intersection over union of the rendered and the mapped silhouette, mean of hand and object; pixels of
    the other's mask count nothing (it may hide this one; Song et al. 2022, eq. 3). ``code_mm``: distance between the
    point of the surface that is rendered at a pixel and the one that the dense map names there; ``map_depth_mm``: of
    their depths relative to the object's centre; medians over the pixels that both show.
    """
    hand = model(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).vertices
    held = pose.place(features.object.vertices)
    renderer = make_renderer(model.faces, model.codes, features.object, features.camera)
    drawn = renderer(pose.seen(hand), pose.seen(held))
    root = pose.place(features.object.center[:, None])[:, 0, 2]
    scale = torch.stack([torch.full_like(features.object.scale, model.code_scale), features.object.scale], 1)
    rows = [_of_image(k, drawn, features, scale[k], float(root[k])) for k in range(len(pose))]
    return {name: np.array([row[name] for row in rows]) for name in ("mask_iou", "code_mm", "map_depth_mm")}


def maps_of(parts: Sequence[Features]) -> Features:
    """The maps that all items have, as one batch."""
    there = ("camera", "object", *(name for name in MAPS if all(getattr(own, name) is not None for own in parts)))
    absent = {field.name: None for field in dataclasses.fields(Features) if field.name not in there}
    return cat_features([dataclasses.replace(own, **absent) for own in parts])


def _of_image(k: int, drawn: Render, features: Features, scale: Float[Tensor, "2"], root: float) -> dict[str, float]:
    masks = [_seen(features.hand_mask, k), _seen(features.object_mask, k)]
    overlap, codes, depths = [], [], []
    for part, code in enumerate((features.hand_coords, features.object_coords)):
        mask, other = masks[part], masks[1 - part]
        if mask is None:
            continue
        rendered = drawn.masks[k, part] > SEEN
        free = torch.ones_like(mask) if other is None else ~other
        either = ((mask | rendered) & free).sum()
        overlap.append(float((mask & rendered & free).sum() / either) if either else np.nan)
        both = mask & rendered & (drawn.ids[k, part] >= 0)
        if code is not None:
            codes.append((drawn.coords[k, part] - code[k]).norm(dim=0)[both] * scale[part] * MILLIMETRES)
        if features.depth is not None:
            depths.append((drawn.depth[k, part] - root - features.depth[k]).abs()[both] * MILLIMETRES)
    return {
        "mask_iou": float(np.mean(overlap)) if overlap else np.nan,
        "code_mm": _median(codes), "map_depth_mm": _median(depths),
    }  # fmt: skip


def _seen(mask: Float[Tensor, "B H W"] | None, k: int) -> Bool[Tensor, "H W"] | None:
    return None if mask is None else mask[k] > SEEN


def _median(parts: list[Tensor]) -> float:
    values = torch.cat(parts) if parts else torch.empty(0)
    return float(values.median()) if len(values) else float("nan")
