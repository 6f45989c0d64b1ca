"""Which part of the hand touches which object vertex, and how firmly, read off a posed pair.

The rule is that of CPF's second release (Yang et al., "CPF: Learning a Contact Potential Field", ICCV 2021): an object
vertex near the palmar side of the hand belongs to the region that holds most of its neighbours, and a spring of known
elasticity ties it to each of the region's anchors. Networks are trained on these; the attraction loss consumes them.
"""

from __future__ import annotations

import functools

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from horefine.anatomy import REGIONS
from horefine.hand import HandModel
from horefine.scene import Contact

__all__ = [
    "NO_ANCHOR",
    "NO_REGION",
    "anchor_distances",
    "anchor_table",
    "contact_from_pose",
    "elasticity",
    "region_anchors",
]

NO_REGION = len(REGIONS)
"""Region of an object vertex that touches nothing."""
NO_ANCHOR = 32
"""Fills the table of anchors where a region has fewer than four."""


def elasticity(distance: Float[Tensor, "*batch"], reach: float = 0.02) -> Float[Tensor, "*batch"]:
    """Elasticity of a spring of this length (metres): ``(1 + cos(pi min(d, reach) / reach)) / 2``, below 1e-8 zero.

    CPF (eq. 3 of the paper has ``reach`` 20 mm, its code for ground truth 45 mm).
    """
    value = 0.5 * torch.cos(torch.pi * distance.clamp(max=reach) / reach) + 0.5
    return torch.where(value < 1e-8, torch.zeros_like(value), value)


def anchor_table(anchor_region: Int[Tensor, "32"]) -> Int[Tensor, "18 4"]:
    """The anchors of each region in ascending order, filled up with ``NO_ANCHOR``; the last row is "no region"."""
    table = anchor_region.new_full((NO_REGION + 1, 4), NO_ANCHOR)
    for region in range(NO_REGION):
        anchors = (anchor_region == region).nonzero().flatten()
        table[region, : len(anchors)] = anchors
    return table


@functools.lru_cache(maxsize=4)
def region_anchors(model: HandModel) -> Int[Tensor, "18 4"]:
    """:func:`anchor_table` of a hand model, kept."""
    return anchor_table(model.anchor_region)


def anchor_distances(
    hand_model: HandModel,
    hand_vertices: Float[Tensor, "B N 3"],
    object_vertices: Float[Tensor, "B V 3"],
    region: Int[Tensor, "B V"],
) -> tuple[Float[Tensor, "B V 4"], Bool[Tensor, "B V 4"]]:
    """Metres from each object vertex to the anchors of its region, and which of the four places hold an anchor."""
    chosen = region_anchors(hand_model)[region]
    anchors = hand_model.anchors(hand_vertices)
    place = chosen.clamp(max=NO_ANCHOR - 1).flatten(1)
    points = anchors.gather(1, place[..., None].expand(-1, -1, 3)).unflatten(1, chosen.shape[1:])
    return (points - object_vertices[:, :, None]).norm(dim=-1), chosen != NO_ANCHOR


def contact_from_pose(
    hand_model: HandModel,
    hand_vertices: Float[Tensor, "B N 3"],
    object_vertices: Float[Tensor, "B V 3"],
    valid: Bool[Tensor, "B V"] | None = None,
    *,
    near: float = 0.02,
    neighbours: int = 32,
    reach: float = 0.045,
    firm: float = 0.1,
) -> Contact:
    """Contact of posed hands and objects (CPF v2, ``prepare_contact_info``). Not differentiable.

    An object vertex touches when a palmar hand vertex is nearer than ``near``. Of its ``neighbours`` nearest palmar
    vertices those within ``near`` vote with ``near - distance`` for their region; the lowest id wins a tie. Each anchor
    of that region gets ``max(firm, elasticity(distance, reach))``.

    Args:
        hand_model: Gives palmar side, regions and anchors.
        hand_vertices: Posed hand, metres.
        object_vertices: Posed object, metres, same frame.
        valid: False for the padding of a batch of meshes; padding touches nothing.
        near: Metres.
        neighbours: How many palmar vertices vote at most.
        reach: Spring length with zero elasticity, metres.
        firm: Least elasticity of a touching vertex's anchors.
    """
    region = _vote(hand_model, hand_vertices, object_vertices, near, neighbours)
    if valid is not None:
        region = torch.where(valid, region, NO_REGION)
    distance, exists = anchor_distances(hand_model, hand_vertices, object_vertices, region)
    spring = elasticity(distance, reach).clamp(min=firm) * exists
    return Contact((region != NO_REGION).to(object_vertices.dtype), region, spring)


def _vote(
    hand_model: HandModel, hand: Float[Tensor, "B N 3"], object_: Float[Tensor, "B V 3"], near: float, neighbours: int
) -> Int[Tensor, "B V"]:
    """The region with most palmar vertices near each object vertex, weighted by closeness; ``NO_REGION`` where none."""
    palmar = hand_model.palmar.nonzero().flatten()
    # exact distances: the expanded square loses 0.2 mm at arm's length in float32
    distance = torch.cdist(object_, hand[:, palmar], compute_mode="donot_use_mm_for_euclid_dist")
    nearest, place = distance.topk(min(neighbours, len(palmar)), dim=-1, largest=False)
    closeness = (near - nearest).clamp(min=0)
    votes = closeness.new_zeros(*closeness.shape[:2], NO_REGION)
    votes = votes.scatter_add(2, hand_model.regions[palmar][place], closeness)
    best = votes.amax(-1, keepdim=True)
    lowest_first = torch.arange(NO_REGION, 0, -1, device=votes.device)
    region = ((votes >= best) * lowest_first).argmax(-1)
    return torch.where(best[..., 0] > 0, region, NO_REGION)
