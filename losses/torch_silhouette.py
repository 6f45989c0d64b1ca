"""The silhouette as squares in torch: how each pixel's coverage moves, by forward differentiation through the renderer.

Twin of ``losses.silhouette_squares``, whose kernel lists what each edge of the outline sweeps. Here the exact area of
the silhouette in fixed shapes (:mod:`horefine.render.fixed`) is differentiated along all columns at once. A pixel that
is fully covered or empty has a slope of zero, and so no part in the equations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.geometry import skew
from horefine.losses.forms import COLUMNS, DenseRows, Rows, Values
from horefine.losses.silhouette_squares import SilhouetteSquares
from horefine.render import fixed, twin
from horefine.scene import Scene
from horefine.torch_jacobian import hand_slopes

__all__ = ["TorchSilhouette"]

HAND = 61
CHUNK = 16
"""Columns that are differentiated at once: memory for their tangents, as often as the outline has pieces."""


@dataclass(frozen=True)
class TorchSilhouette:
    """Twin of ``SilhouetteSquares``: a row for each pixel, 0 where it shows the other thing."""

    form: SilhouetteSquares

    def freeze(self, scene: Scene) -> TorchSilhouette:
        return self

    def cost(self, scene: Scene) -> Float[Tensor, "B"]:
        gap = self._gap(_coverage(scene, *_vertices(scene)))
        return gap.square().sum((1, 2, 3), dtype=torch.float64).to(gap.dtype)

    def values_at(self, scene: Scene, there: Scene) -> list[Values]:
        """The values of the rows of ``scene`` at the scene ``there``, which may clamp other pixels."""
        here, other = (_coverage(at, *_vertices(at)) for at in (scene, there))
        return [torch.where((here > 0) & (here < 1), self._gap(other), 0.0).flatten(1)]

    def rows(self, scene: Scene) -> list[Rows]:
        hand, thing = _vertices(scene)
        slopes, arm = hand_slopes(scene)[:, : hand.shape[1]], thing - scene.object_center[:, None]
        eye = torch.eye(3, dtype=arm.dtype, device=arm.device).expand(*arm.shape, 3)
        moved = torch.cat([eye, -skew(arm), arm.new_zeros(*arm.shape, HAND - 6)], -1)  # object: the first six columns
        directions = [part.movedim(-1, 0) for part in (slopes, moved)]

        def along(*tangent: Tensor) -> Tensor:
            return torch.func.jvp(lambda *points: _coverage(scene, *points), (hand, thing), tangent)[1]

        covered = _coverage(scene, hand, thing)  # also finds out how much room the outline takes
        found = torch.func.vmap(along, chunk_size=CHUNK)(*directions) * self._scale * self._kept(covered)
        sides = found.flatten(3).permute(1, 2, 3, 0)
        matrix = torch.cat([sides, sides.new_zeros(*sides.shape[:3], COLUMNS - HAND)], -1)
        matrix = torch.stack([matrix[:, 0], matrix[:, 1].roll(HAND, -1)], 1)
        return [DenseRows(self._gap(covered).flatten(1), matrix.flatten(1, 2))]

    @property
    def _scale(self) -> float:
        return self.form.weight**0.5 / self.form.sigma

    def _kept(self, like: Tensor) -> Float[Tensor, "B 2 H W"]:
        return (self.form.masks.flip(1) <= self.form.other).to(like.dtype)

    def _gap(self, covered: Float[Tensor, "B 2 H W"]) -> Float[Tensor, "B 2 H W"]:
        return self._kept(covered) * (covered - self.form.masks) * self._scale


def _vertices(scene: Scene) -> tuple[Tensor, Tensor]:
    return scene.hand.vertices, scene.object


def _coverage(scene: Scene, hand: Float[Tensor, "B N 3"], thing: Float[Tensor, "B V 3"]) -> Float[Tensor, "B 2 H W"]:
    """What hand and object cover of each pixel, by their vertices; the scene gives all else."""
    renderer = scene.renderer
    seen = torch.cat([scene.pose.seen(hand), scene.pose.seen(thing)], 1)
    parts = renderer.topology.unpacked.on(seen.device)
    pixels, inverse = twin.project(seen.flatten(0, 1), parts.vertex_item, renderer.matrix.to(seen.dtype))
    side = twin.sides(pixels.detach(), inverse.detach(), parts.faces)
    return fixed.coverage_fixed(pixels, side, parts, renderer.size).unflatten(0, (-1, 2))
