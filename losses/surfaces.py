"""Points that stand for the surfaces of hand and object in the losses on signed distances.

Everything here weighs by *area*, so that a finer mesh does not count more.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.anatomy import FINGERS, JOINTS, REGIONS
from horefine.distance import signed_distance
from horefine.hand import Hand, HandModel
from horefine.losses.sampling import spread
from horefine.mesh import Mesh

__all__ = ["HandSurface", "ObjectPoints", "find_object_points", "hand_surface", "inner_balls"]

POINTS = 512
"""Points on an object's surface."""
SHRINK = 0.75
"""Radius of a ball over the largest that fits."""
AROUND = 48
"""Vertices that a ball is fitted between: those nearest to it on the flat hand."""


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
    balls: Float[Tensor, "K 21"]
    """Balls inside the hand: each centre as weights of the 21 joints."""
    ring: Int[Tensor, "K N"]
    """Vertices around each ball."""
    radius: Float[Tensor, "K"]
    """Of the ball over its distance to the nearest of those vertices (hands may be slim, and bend)."""
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


def inner_balls(surface: HandSurface, hand: Hand) -> tuple[Float[Tensor, "B K 3"], Float[Tensor, "B K"]]:
    """Centres and radii of the balls inside posed hands (they shrink where skin folds, and with slim hands)."""
    centres = surface.balls @ hand.joints
    with torch.no_grad():  # only which vertex is nearest: one of them passes the gradient on, not all
        nearest = (hand.vertices[:, surface.ring] - centres[:, :, None]).square().sum(-1).argmin(2)
        index = surface.ring.expand(len(centres), -1, -1).gather(2, nearest[..., None]).expand(-1, -1, 3)
    return centres, surface.radius * (hand.vertices.gather(1, index) - centres).norm(dim=-1)


@functools.lru_cache(maxsize=4)
def hand_surface(model: HandModel) -> HandSurface:
    """Areas, inner balls and palmar regions of a hand model; kept, as they never change."""
    with torch.no_grad():
        return HandSurface(_vertex_areas(model), *_inner_balls(model), *_palmar_table(model))


def _vertex_areas(model: HandModel) -> Float[Tensor, "V"]:
    """A third of each face's area to each of its corners."""
    corners = model.template[model.faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], dim=-1).norm(dim=-1) / 2
    total = torch.zeros_like(model.template[:, 0])
    return total.index_add(0, model.faces.flatten(), area[:, None].expand(-1, 3).flatten() / 3)


def _inner_balls(model: HandModel) -> tuple[Float[Tensor, "K 21"], Int[Tensor, "K N"], Float[Tensor, "K"]]:
    """Balls along the bones: three in each phalanx, and four along and three between the rays of the palm.

    Bones stay in the middle of the flesh however the joints bend (middles of opposite vertices do not: in trials they
    came out of bent fingers by up to 9 mm).
    """
    rows = [_between(f"{f}{i}", f"{f}{i + 1}", at) for f in FINGERS for i in (1, 2, 3) for at in (0.2, 0.5, 0.8)]
    rays = [[_between("wrist", f"{finger}1", at) for at in (0.4, 0.6, 0.8, 1.0)] for finger in FINGERS[1:]]
    rows += [row for ray in rays for row in ray]
    rows += [(a + b) / 2 for ray, other in itertools.pairwise(rays) for a, b in zip(ray[1:], other[1:], strict=True)]
    weights = torch.stack(rows).to(model.template)
    zeros = model.template.new_zeros
    flat = model(zeros(1, 16, 3), zeros(1, 10), zeros(1, 3))
    centre, skin = weights @ flat.joints[0], flat.vertices[0]
    distance, ring = torch.cdist(centre, skin).topk(AROUND, largest=False)
    where, mesh = centre.cpu().double().numpy(), skin.cpu().double().numpy()
    inside = -signed_distance(where, mesh, model.faces.cpu().numpy())
    return weights, ring, torch.as_tensor(inside).to(weights).clamp(min=0) * SHRINK / distance[:, 0]


def _between(first: str, second: str, at: float) -> Float[Tensor, "21"]:
    """Weights of the joints for the point that divides a bone."""
    row = torch.zeros(len(JOINTS))
    row[JOINTS.index(first)], row[JOINTS.index(second)] = 1 - at, at
    return row


def _palmar_table(model: HandModel) -> tuple[Int[Tensor, "17 M"], Float[Tensor, "17 M"]]:
    members = [((model.regions == region) & model.palmar).nonzero().flatten() for region in range(len(REGIONS))]
    most = max(len(m) for m in members)
    table = torch.stack([torch.cat([m, m[:1].expand(most - len(m))]) for m in members])
    real = torch.stack([torch.arange(most, device=table.device) < len(m) for m in members])
    return table, real.to(model.template.dtype)
