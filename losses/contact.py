"""Touching without passing through, on the object's signed distance (ours).

CPF's repulsion counts pairs of vertices and pushes alike inside and outside; its attraction needs a predicted contact.
Here the force depends on the depth alone, weighs by area, and what merely passes by feels none.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.losses.surfaces import hand_surface
from horefine.scene import Contact, Scene

__all__ = ["contact", "penetration", "region_contact"]


def penetration(scene: Scene, *, sigma: float = 0.002, tolerance: float = 0.0) -> Float[Tensor, "B"]:
    """Hand and object do not share space: square centimetres of hand that are one ``sigma`` deep (squared depth).

    ``integral over the hand's surface of (depth / sigma)^2``, depth being what the object's signed distance falls below
    ``-tolerance`` (skin gives way by a millimetre or two; metres). A thin object can pass between the hand's vertices:
    balls that fill the hand, each for an equal share of its surface, must keep their radius from the object too.
    """
    surface = hand_surface(scene.hand_model)
    vertices = scene.hand.vertices
    first, second = vertices[:, surface.balls[:, 0]], vertices[:, surface.balls[:, 1]]
    points = torch.cat([vertices, (first + second) / 2], 1)
    distance = scene.features.object.distance(scene.to_object_frame(points))
    radius = surface.radius * (first - second).norm(dim=-1)
    reach = torch.cat([torch.zeros_like(distance[:, : vertices.shape[1]]), radius], 1)
    share = surface.area.sum() / len(surface.radius)
    area = torch.cat([surface.area, share.expand(len(surface.radius))]) * 1e4
    depth = (reach - distance - tolerance).relu() / sigma
    return (depth.square() * area).sum(1)


def contact(scene: Scene, *, radius: float = 0.01, softness: float = 0.001) -> Float[Tensor, "B"]:
    """Parts of the hand that nearly touch the object do touch it: how many of the 17 regions are off the surface.

    A region's distance is the smallest signed distance of its palmar vertices, softly (``softness``, metres); it is
    drawn to zero from either side by Tukey's biweight, which has its strongest pull at 0.45 ``radius`` and none at all
    beyond ``radius`` (metres): a finger that passes by is left alone.
    """
    gap = region_distance(scene, softness) / radius
    return (1 - (1 - gap.square()).relu() ** 3).sum(1)


def region_contact(
    scene: Scene, contact: Contact, *, threshold: float = 0.5, sigma: float = 0.005, softness: float = 0.001
) -> Float[Tensor, "B"]:
    """Regions that are predicted to touch do touch, however far they are, in ``sigma`` (metres).

    ``sum over regions of e (sqrt(1 + (d / sigma)^2) - 1)`` with d the region's distance as in :func:`contact` and e the
    highest probability of contact among the object vertices that name the region, where that exceeds ``threshold``.
    """
    named = torch.zeros_like(contact.probability[:, :1]).expand(-1, 18).clone()
    evidence = named.scatter_reduce(1, contact.region, contact.probability, "amax")[:, :17]
    evidence = torch.where(evidence > threshold, evidence, 0.0)
    gap = region_distance(scene, softness) / sigma
    return (evidence * ((1 + gap.square()).sqrt() - 1)).sum(1)


def region_distance(scene: Scene, softness: float) -> Float[Tensor, "B 17"]:
    """Smallest signed distance (metres) of each region's palmar vertices, the mean under softmax(-d / softness)."""
    surface = hand_surface(scene.hand_model)
    points = scene.hand.vertices[:, surface.palmar.flatten()]
    distance = scene.features.object.distance(scene.to_object_frame(points)).unflatten(1, surface.palmar.shape)
    absent = (1 - surface.palmar_real) * -1e4
    return (torch.softmax(absent - distance / softness, -1) * distance).sum(-1)
