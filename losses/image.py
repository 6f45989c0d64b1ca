"""What the picture says: Song et al. 2022 (Computer Graphics Forum), equations 3 to 10, as they are written.

Hand and object are rendered *separately*, else a hidden part would get no gradient. ``reduction`` is ``sum`` as in the
equations, or ``mean`` over pixels (pairs) so that a weight does not depend on the size of the maps. Depths are relative
to the depth of the centre of the OBJECT's bounding box, for the hand too.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from horefine.geometry import project
from horefine.losses.pairs import VertexPairs, VisiblePairs
from horefine.scene import Scene

__all__ = ["correspondence_depth", "dense_mapping", "relative_depth", "segmentation"]

FAR = 100.0
"""Depth of the empty background in the paper's renderer (N3MR), metres."""


def segmentation(
    scene: Scene, hand_mask: Float[Tensor, "B H W"], object_mask: Float[Tensor, "B H W"], *, reduction: str = "mean"
) -> Float[Tensor, "B"]:
    """Eq. 3: rendered silhouettes equal the masks; where the OTHER mask is, nothing is asked (it may hide this one).

    ``|(1 - S_other) (render - S)|^2``, coverage squared, hand plus object.
    """
    masks = torch.stack([hand_mask, object_mask], 1)
    difference = (1 - masks.flip(1)) * (scene.render.masks - masks)
    return _reduced(difference.square(), reduction, masks[0, 0].numel())


def relative_depth(
    scene: Scene,
    hand_mask: Float[Tensor, "B H W"],
    object_mask: Float[Tensor, "B H W"],
    depth: Float[Tensor, "B H W"],
    *,
    reduction: str = "mean",
    literal: bool = False,
) -> Float[Tensor, "B"]:
    """Eq. 8: rendered depth below the object's centre equals the depth map where the mask says so, metres squared.

    ``|S (render - z_root - D)|^2``, hand plus object. The paper's renderer answers 100 m where nothing is rendered, so
    an uncovered pixel adds 1e4 and no gradient; ``literal`` keeps that, the default leaves such pixels out.
    """
    masks = torch.stack([hand_mask, object_mask], 1)
    render = scene.render
    drawn = render.ids >= 0
    found = torch.where(drawn, render.depth, FAR) if literal else render.depth
    difference = masks * (found - scene.object_center[:, 2, None, None, None] - depth[:, None])
    if not literal:
        difference = difference * drawn
    return _reduced(difference.square(), reduction, masks[0, 0].numel())


def dense_mapping(
    scene: Scene, vertex_pairs: VertexPairs, *, threshold: float = 0.05, reduction: str = "sum"
) -> Float[Tensor, "B"]:
    """Eq. 5-7: vertices project onto the pixels that show their code, pixels squared, hand plus object.

    ``threshold`` is the largest distance in code space (the paper: 0.05 for FHB and HO3Dv1, 0.1 for HO3Dv2-).
    """
    total = torch.zeros_like(scene.object_center[:, 0])
    for vertices, pairs in zip(scene.seen, (vertex_pairs.hand, vertex_pairs.object), strict=True):
        gap = project(vertices, scene.features.camera.matrix) - pairs.pixel
        total = total + _over_kept(gap.square().sum(-1), pairs.distance < threshold, reduction)
    return total


def correspondence_depth(
    scene: Scene,
    vertex_pairs: VertexPairs,
    depth: Float[Tensor, "B H W"],
    *,
    threshold: float = 0.05,
    reduction: str = "sum",
) -> Float[Tensor, "B"]:
    """Eq. 9-10: vertices lie at the depth of the pixels that show their code, metres squared, hand plus object.

    Reaches vertices that a wrong pose hides, where :func:`relative_depth` cannot.
    """
    root = scene.object_center[:, 2, None]
    total = torch.zeros_like(root[:, 0])
    for vertices, pairs in _sides(scene, vertex_pairs):
        gap = vertices[..., 2] - root - depth.flatten(1).gather(1, pairs.index)
        total = total + _over_kept(gap.square(), pairs.distance < threshold, reduction)
    return total


def _sides(scene: Scene, pairs: VertexPairs) -> tuple[tuple[Tensor, VisiblePairs], tuple[Tensor, VisiblePairs]]:
    return (scene.hand.vertices, pairs.hand), (scene.object, pairs.object)


def _over_kept(square: Float[Tensor, "B V"], kept: Bool[Tensor, "B V"], reduction: str) -> Float[Tensor, "B"]:
    """Sum (mean) over the pairs that are kept; 0 where there is none."""
    total = torch.where(kept, square, 0.0).sum(1)
    return total if _summed(reduction) else total / kept.sum(1).clamp(min=1)


def _reduced(square: Float[Tensor, "B 2 H W"], reduction: str, pixels: int) -> Float[Tensor, "B"]:
    total = square.sum((1, 2, 3))
    return total if _summed(reduction) else total / pixels


def _summed(reduction: str) -> bool:
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction is {reduction!r}; known: sum, mean")
    return reduction == "sum"
