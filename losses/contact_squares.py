"""Touch as squares: springs of predicted contact, and what of the hand is inside the object."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.contact_truth import NO_ANCHOR, region_anchors
from horefine.hand import HandModel, house_from_mano
from horefine.losses import touch_kernels
from horefine.losses.contact import palmar_distances
from horefine.losses.forms import PointRows, Rows, array, gather, kept, places, taken
from horefine.losses.surfaces import hand_surface
from horefine.scene import Contact, Features, Scene

__all__ = [
    "ContactSquares",
    "PenetrationSquares",
    "SpringSquares",
    "contact_squares",
    "penetration_squares",
    "spring_squares",
]

TOUCHING = 6
"""A region's nearest vertices that its distance is made of; those beyond have next to no share in it."""


@dataclass(frozen=True)
class SpringSquares:
    """``spring_length``: one residual for each spring, its kernel 1."""

    anchor: Int[Tensor, "B S"]
    local: Float[Tensor, "B S 3"]
    """The object's vertex, object frame."""
    length: Float[Tensor, "B S"]
    """That the elasticity says, metres."""
    weight: Float[Tensor, "B S"]
    """0 for padding."""
    sigma: float
    model: HandModel = field(repr=False)

    def freeze(self, scene: Scene) -> SpringSquares:
        return self

    def chosen(self, rows: Int[Tensor, "M"]) -> SpringSquares:
        names = ("anchor", "local", "length", "weight")
        return replace(self, **{name: taken(getattr(self, name), rows) for name in names})

    @functools.cached_property
    def _tables(self) -> tuple[np.ndarray, ...]:
        parts = (self.anchor, self.local, self.length, self.weight, self.model.anchor_faces, self.model.anchor_weights)
        return tuple(map(array, parts))

    def _look(self, scene: Scene, sloped: bool) -> tuple[Tensor, PointRows]:
        """Cost, and rows (0 unless ``sloped``)."""
        there, (anchor, local, length, like, faces, shares) = places(scene), self._tables
        total, new = np.zeros(len(like)), functools.partial(np.zeros, dtype=like.dtype)
        values, slope = new((*like.shape, 1)), new((*like.shape, 1, 3))
        wrench, share, weight = new((*like.shape, 1, 6)), new((*like.shape, 3)), new(like.shape)
        point = np.zeros((*like.shape, 3), np.int64)
        touch_kernels.springs(
            there.hand, faces, shares, anchor, local, there.turn, there.transl, there.center, length, like,
            float(self.sigma), sloped, total, values, slope, wrench, point, share, weight,
        )  # fmt: skip
        parts = (values, slope, wrench, point, share, weight)
        return torch.from_numpy(total).to(self.weight.dtype), PointRows.of(*parts)

    def cost(self, scene: Scene) -> Float[Tensor, "B"]:
        return self._look(scene, False)[0]

    def rows(self, scene: Scene) -> list[Rows]:
        return [self._look(scene, True)[1]]


def spring_squares(
    scene: Scene, weight: float, *, contact: Contact, threshold: float, sigma: float, reach: float, firm: float,
    **_: Any,
) -> SpringSquares:  # fmt: skip
    """``losses.contact.spring_length`` as squares; kept with the features, as every stage asks for the same."""
    numbers = weight, threshold, sigma, reach, firm
    given = contact, scene.features.object.vertices, scene.hand_model
    return kept(scene.features, ("spring_length", *numbers), given, lambda: _springs(scene, contact, *numbers))


def _springs(
    scene: Scene, contact: Contact, weight: float, threshold: float, sigma: float, reach: float, firm: float
) -> SpringSquares:
    chosen = region_anchors(scene.hand_model)[contact.region]
    used = (chosen != NO_ANCHOR) & (contact.elasticity > firm) & (contact.probability > threshold)[..., None]
    flat = used.flatten(1)
    count = max(1, int(flat.sum(1).max()))
    by_anchor = torch.where(used, chosen, NO_ANCHOR).to(torch.int8).flatten(1)  # neighbours pull on the same points
    order = by_anchor.argsort(dim=1, stable=True)[:, :count]
    told = torch.arccos((2 * contact.elasticity - 1).clamp(-1, 1)) * (reach / torch.pi)
    valid = flat.gather(1, order).to(told.dtype)
    weights = weight * valid / flat.sum(1, keepdim=True).clamp(min=1)
    anchor = chosen.flatten(1).gather(1, order).clamp(max=NO_ANCHOR - 1)
    end = torch.div(order, chosen.shape[2], rounding_mode="floor")
    local = gather(scene.features.object.vertices, end)
    return SpringSquares(anchor, local, told.flatten(1).gather(1, order), weights, sigma, scene.hand_model)


@dataclass(frozen=True)
class ContactSquares:
    """``contact``: one residual for each region of the hand, Tukey's biweight by reweighting.

    In the slope a region's nearest vertices have the normal of their mean.
    """

    radius: float
    softness: float
    weight: float

    def freeze(self, scene: Scene) -> ContactSquares:
        return self

    def chosen(self, rows: Int[Tensor, "M"]) -> ContactSquares:
        return self

    def _gap(self, scene: Scene) -> tuple[Tensor, Tensor]:
        """Distance of each region in radii, and its vertices' shares in it."""
        distance, share = palmar_distances(scene, self.softness)
        return (share * distance).sum(-1) / self.radius, share

    def cost(self, scene: Scene) -> Float[Tensor, "B"]:
        return self.weight * (1 - (1 - self._gap(scene)[0].square()).relu() ** 3).sum(1)

    def rows(self, scene: Scene) -> list[Rows]:
        gap, share = self._gap(scene)
        palmar = hand_surface(scene.hand_model).palmar
        share, order = share.topk(min(TOUCHING, share.shape[-1]), dim=-1)
        share = share / share.sum(-1, keepdim=True)
        point = palmar.expand(len(gap), -1, -1).gather(2, order)
        touching = (gather(scene.hand.vertices, point) * share[..., None]).sum(2)
        slope = (outward(scene, touching) / self.radius)[..., None, :]
        arm = (touching - scene.object_center[:, None])[..., None, :]
        wrench = -torch.cat([slope, torch.linalg.cross(arm, slope)], -1)
        weight = 3 * self.weight * (1 - gap.square()).relu().square()
        return [PointRows(gap[..., None], slope, wrench, point, share, weight)]


def contact_squares(scene: Scene, weight: float, *, radius: float, softness: float, **_: Any) -> ContactSquares:
    """``losses.contact.contact`` as squares."""
    return ContactSquares(radius, softness, weight)


def outward(scene: Scene, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
    """How the distance to the object grows at camera-frame ``points``, camera axes."""
    leaf = scene.to_object_frame(points).detach().requires_grad_()
    with torch.enable_grad():
        distance = scene.features.object.distance(leaf)
    (slope,) = torch.autograd.grad(distance, leaf, torch.ones_like(distance))
    return slope @ scene.object_rotation.mT


@dataclass(frozen=True)
class PenetrationSquares:
    """``penetration``: one residual for each vertex of the hand and each ball inside it.

    That a ball grows and shrinks with the skin around it is in the cost, and left out of the slopes.
    """

    sigma: float
    tolerance: float
    weight: float

    def freeze(self, scene: Scene) -> PenetrationSquares:
        return self

    def chosen(self, rows: Int[Tensor, "M"]) -> PenetrationSquares:
        return self

    def _look(self, scene: Scene, sloped: bool) -> tuple[Tensor, tuple[np.ndarray, ...]]:
        """Cost; and values, slopes, wrenches and weights of the rows (0 unless ``sloped``)."""
        there, (balls, ring, fitting, area) = places(scene), _sunk(scene.hand_model)
        shape, grid = (len(there.hand), len(area)), scene.features.object.grid
        total, new = np.zeros(len(there.hand)), functools.partial(np.zeros, dtype=there.hand.dtype)
        rows = (new((*shape, 1)), new((*shape, 1, 3)), new((*shape, 1, 6)), new(shape))
        touch_kernels.penetration(
            there.hand, there.joints, balls, ring, fitting, area, there.rotation, there.size, there.transl,
            there.center, array(grid.values), _least(scene.features), array(grid.origin), array(grid.spacing),
            float(self.sigma), float(self.tolerance), float(self.weight), sloped, total,
            rows[0], rows[1], rows[2], rows[3],
        )  # fmt: skip
        return torch.from_numpy(total.astype(there.hand.dtype)), rows

    def cost(self, scene: Scene) -> Float[Tensor, "B"]:
        return self._look(scene, False)[0]

    def rows(self, scene: Scene) -> list[Rows]:
        values, slope, wrench, weight = self._look(scene, True)[1]
        point, share = (np.stack([array(part)] * len(values)) for part in hand_points(scene.hand_model))
        return [PointRows.of(values, slope, wrench, point, share, weight)]


def _least(features: Features) -> Float[np.ndarray, "B N N N"]:
    """``touch_kernels.block_least`` of the object's grid, kept with the features."""
    grid = features.object.grid

    def find() -> np.ndarray:
        values, size = array(grid.values), (grid.values.shape[-1] - 2) // touch_kernels.BLOCK + 1
        found = np.empty((len(values), size, size, size), values.dtype)
        touch_kernels.block_least(values, found)
        return found

    return kept(features, "least", (grid.values,), find)


@functools.lru_cache(maxsize=4)
def _sunk(model: HandModel) -> tuple[np.ndarray, ...]:
    """Of the inner balls, centres, rings and radii (``HandSurface``); and the square centimetres of hand that each
    vertex and each ball stands for (``contact.inside_depth``)."""
    surface = hand_surface(model)
    share = (surface.area.sum() / len(surface.radius)).expand(len(surface.radius))
    area = torch.cat([surface.area, share]) * 1e4
    return tuple(map(array, (surface.balls, surface.ring, surface.radius, area)))


@functools.lru_cache(maxsize=4)
def hand_points(model: HandModel) -> tuple[Int[Tensor, "N M"], Float[Tensor, "N M"]]:
    """Vertices and ball centres as shares of hand points: vertices, then joints (fingertips are vertices)."""
    balls = hand_surface(model).balls
    count = len(model.template)
    joints = [count + j for j in range(16)] + model.tips.tolist()
    house = torch.tensor(joints, device=balls.device)[house_from_mano(balls.device)]
    most = int((balls != 0).sum(1).max())
    share, order = balls.abs().topk(most, dim=1)
    alone = torch.arange(count, device=balls.device)[:, None].expand(-1, most)
    whole = torch.zeros_like(alone, dtype=share.dtype)
    whole[:, 0] = 1
    return torch.cat([alone, house[order]]), torch.cat([whole, share])


def penetration_squares(scene: Scene, weight: float, *, sigma: float, tolerance: float, **_: Any) -> PenetrationSquares:
    """``losses.contact.penetration`` as squares."""
    return PenetrationSquares(sigma, tolerance, weight)
