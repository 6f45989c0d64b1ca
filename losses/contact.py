"""Touching without passing through, on the object's signed distance (ours).

CPF's repulsion counts pairs of vertices and pushes alike inside and outside; its attraction needs a predicted contact.
Here the force depends on the depth alone, weighs by area, and what merely passes by feels none.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.contact_truth import anchor_distances
from horefine.losses.surfaces import hand_surface, inner_balls
from horefine.scene import Contact, Scene

__all__ = ["contact", "penetration", "spring_length"]


def penetration(scene: Scene, *, sigma: float = 0.002, tolerance: float = 0.0) -> Float[Tensor, "B"]:
    """Hand and object do not share space: square centimetres of hand that are one ``sigma`` deep (squared depth).

    ``integral over the hand's surface of (depth / sigma)^2``, depth being what the object's signed distance falls below
    ``-tolerance`` (skin gives way by a millimetre or two; metres). A thin object can pass between the hand's vertices:
    balls along the bones, each for an equal share of the hand's surface, must keep out of the object too.
    """
    depth, area, _ = inside_depth(scene, tolerance)
    return (depth / sigma).square() @ area


def inside_depth(
    scene: Scene, tolerance: float
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "N"], Float[Tensor, "B N 3"]]:
    """How deep (metres) the hand's vertices and inner balls are in the object, the square centimetres of hand that
    each stands for, and where they are."""
    surface = hand_surface(scene.hand_model)
    centres, radius = inner_balls(surface, scene.hand)
    points = torch.cat([scene.hand.vertices, centres], 1)
    reach = torch.cat([torch.zeros_like(points[:, : -len(surface.radius), 0]), radius], 1)
    share = (surface.area.sum() / len(surface.radius)).expand(len(surface.radius))
    area = torch.cat([surface.area, share]) * 1e4
    distance = scene.object_distance(points)
    return (reach - distance - tolerance).relu(), area, points


def contact(scene: Scene, *, radius: float = 0.01, softness: float = 0.001) -> Float[Tensor, "B"]:
    """Parts of the hand that nearly touch the object do touch it: how many of the 17 regions are off the surface.

    A region's distance is the smallest signed distance of its palmar vertices, softly (``softness``, metres); it is
    drawn to zero from either side by Tukey's biweight, which has its strongest pull at 0.45 ``radius`` and none at all
    beyond ``radius`` (metres): a finger that passes by is left alone.
    """
    gap = region_distance(scene, softness) / radius
    return (1 - (1 - gap.square()).relu() ** 3).sum(1)


def spring_length(
    scene: Scene,
    contact: Contact,
    *,
    threshold: float = 0.5,
    sigma: float = 0.005,
    reach: float = 0.045,
    firm: float = 0.1,
) -> Float[Tensor, "B"]:
    """Predicted springs have the length that their elasticity says, in ``sigma`` (metres); smallest at the truth.

    CPF's attraction pulls every spring to length zero, though the prediction says how long it is: elasticity is
    ``(1 + cos(pi d / reach)) / 2``, so ``d`` follows from it. Mean over the springs of object vertices whose
    probability of contact exceeds ``threshold`` of ``q / (1 + q)``, ``q = ((|o - a| - d) / sigma)^2`` (Geman and
    McClure 1985). Elasticities down to ``firm`` only say "far" and are left out.
    """
    distance, exists = anchor_distances(scene.hand_model, scene.hand.vertices, scene.object, contact.region)
    used = exists & (contact.elasticity > firm) & (contact.probability > threshold)[..., None]
    told = torch.arccos((2 * contact.elasticity - 1).clamp(-1, 1)) * (reach / torch.pi)
    square = ((distance - told) / sigma).square()
    return torch.where(used, square / (1 + square), 0.0).sum((1, 2)) / used.sum((1, 2)).clamp(min=1)


def region_distance(scene: Scene, softness: float) -> Float[Tensor, "B 17"]:
    """Smallest signed distance (metres) of each region's palmar vertices, the mean under softmax(-d / softness)."""
    distance, share = palmar_distances(scene, softness)
    return (share * distance).sum(-1)


def palmar_distances(scene: Scene, softness: float) -> tuple[Float[Tensor, "B 17 N"], Float[Tensor, "B 17 N"]]:
    """Signed distances (metres) of each region's palmar vertices, and softmax(-d / softness); 0 for padding."""
    surface = hand_surface(scene.hand_model)
    points = scene.hand.vertices[:, surface.palmar.flatten()]
    distance = scene.object_distance(points).unflatten(1, surface.palmar.shape)
    absent = (1 - surface.palmar_real) * -1e4
    return distance, torch.softmax(absent - distance / softness, -1)
