"""Points that stand for the surfaces of hand and object in the losses on signed distances.

Everything here weighs by *area*, so that a finer mesh does not count more.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.anatomy import REGIONS, vertex_normals
from horefine.hand import HandModel
from horefine.losses.sampling import spread
from horefine.mesh import Mesh

__all__ = ["HandSurface", "ObjectPoints", "find_object_points", "hand_surface"]

POINTS = 512
"""Points on an object's surface."""
BALLS = 128
"""Balls inside the hand, at most."""


@dataclass(frozen=True)
class ObjectPoints:
    """Points spread evenly over each object's surface: each stands for the same area."""

    points: Float[Tensor, "B N 3"]
    """Object frame, metres."""


@dataclass(frozen=True)
class HandSurface:
    """Surface and inside of the hand, as numbers of its vertices. Not of a batch: one hand model, one of these."""

    area: Float[Tensor, "V"]
    """Of the flat hand around each vertex, square metres."""
    balls: Int[Tensor, "K 2"]
    """Opposite vertices: the middle between them is the centre of a ball inside the hand."""
    radius: Float[Tensor, "K"]
    """Of the ball over the distance between its two vertices (0.5: it touches both)."""
    palmar: Int[Tensor, "17 M"]
    """Palmar vertices of each region, padded by repeating the first."""
    palmar_real: Float[Tensor, "17 M"]
    """1, or 0 for padding."""


def find_object_points(hand_model: HandModel, object: Mesh) -> ObjectPoints:
    """:data:`POINTS` points on every object, the same ones each time."""
    points = []
    for image in range(len(object.vertices)):
        vertex_count, face_count = object.counts[image].tolist()
        vertices = object.vertices[image, :vertex_count].detach().cpu().double().numpy()
        corners = vertices[object.faces[image, :face_count].cpu().numpy()]
        points.append(spread(corners, POINTS)[1])
    return ObjectPoints(torch.as_tensor(np.stack(points)).to(object.vertices))


@functools.lru_cache(maxsize=4)
def hand_surface(model: HandModel) -> HandSurface:
    """Areas, inner balls and palmar regions of a hand model; kept, as they never change."""
    with torch.no_grad():
        balls, radius = _inner_balls(model)
        table, real = _palmar_table(model)
        return HandSurface(_vertex_areas(model), balls, radius, table, real)


def _vertex_areas(model: HandModel) -> Float[Tensor, "V"]:
    """A third of each face's area to each of its corners."""
    corners = model.template[model.faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], dim=-1).norm(dim=-1) / 2
    total = torch.zeros_like(model.template[:, 0])
    return total.index_add(0, model.faces.flatten(), area[:, None].expand(-1, 3).flatten() / 3)


def _inner_balls(model: HandModel) -> tuple[Int[Tensor, "K 2"], Float[Tensor, "K"]]:
    """Balls between opposite vertices, none reaching out of the flat hand, thick ones first, well apart.

    A vertex pair qualifies when a ball about its middle holds no vertex within 90 % of half their distance: then the
    two are opposite sides of a finger or of the palm.
    """
    vertices = model.template
    normals = vertex_normals(vertices, model.faces)
    middle = (vertices[:, None] + vertices[None]) / 2
    half = (vertices[:, None] - vertices[None]).norm(dim=-1) / 2
    opposite = (normals @ normals.T < -0.8) & (half > 0.002)
    opposite &= ((vertices[:, None] - middle) * normals[:, None]).sum(-1) > 0.8 * half  # the middle lies below the skin
    first, second = opposite.triu(1).nonzero().unbind(1)
    centre, half = middle[first, second], half[first, second]
    clear = torch.cdist(centre, vertices).min(1).values
    good = (clear > 0.9 * half).nonzero().flatten()
    order = good[clear[good].argsort(descending=True, stable=True)]
    chosen: list[int] = []
    free = torch.ones(len(order), dtype=torch.bool, device=vertices.device)
    while len(chosen) < BALLS and bool(free.any()):
        at = int(free.int().argmax())
        chosen.append(int(order[at]))
        free &= (centre[order] - centre[order[at]]).norm(dim=-1) > 0.6 * clear[order[at]]
    return torch.stack([first[chosen], second[chosen]], 1), clear[chosen] / (2 * half[chosen])


def _palmar_table(model: HandModel) -> tuple[Int[Tensor, "17 M"], Float[Tensor, "17 M"]]:
    members = [((model.regions == region) & model.palmar).nonzero().flatten() for region in range(len(REGIONS))]
    most = max(len(m) for m in members)
    table = torch.stack([torch.cat([m, m[:1].expand(most - len(m))]) for m in members])
    real = torch.stack([torch.arange(most, device=table.device) < len(m) for m in members])
    return table, real.to(model.template.dtype)
