"""Where a known object is in a reconstructed surface: from any orientation, both surfaces near each other.

A network that gives the object's field says nothing of its rotation. The mesh is tried in orientations spread over all
of them, its box's centre on the surface's; the nearest few are moved on by gradient descent. A pose costs what the
points of each surface are away from the other, cut at two centimetres: of the reconstruction parts may be missing or
too much. Where an object looks the same from several sides (a box, a can), which of them it is stays open here.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.adam import Adam
from horefine.align.rotations import best_apart, even_rotations
from horefine.distance import DistanceGrid
from horefine.extractors.surface import Surface
from horefine.extractors.surface_mesh import box_center, to_mesh
from horefine.geometry import axis_angle_to_matrix
from horefine.mesh import Mesh, even_samples

__all__ = ["place_mesh"]

CUT = 0.02
"""Metres beyond which a point counts no more."""
APART = 0.5
"""Radians between the orientations that are followed."""


def place_mesh(
    mesh: Mesh, surface: Surface, *, near: Float[Tensor, "3 3"] | None = None, rotations: int = 576,
    candidates: int = 24, steps: int = 40, points: int = 240,
) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "3"]]:  # fmt: skip
    """Rotation and translation that lay a mesh (B = 1) into a reconstructed surface (metres, any frame).

    Args:
        near: Begin at this rotation alone: it is known about how the object lies (in the frame before).
        rotations: orientations tried at first; ``candidates``: of these followed, each for ``steps`` steps.
        points: of each surface that are looked at.
    """
    found = to_mesh(surface)
    cost = _Cost(_spread(mesh, points), mesh.grid, _spread(found, points), found.grid)
    turns = even_rotations(rotations) if near is None else near[None]
    middle = mesh.center[0]
    place = -(turns @ middle)  # box centre on box centre
    first = torch.cat([cost(t, p) for t, p in zip(turns.split(96), place.split(96), strict=True)])
    chosen = best_apart(first, turns, candidates if near is None else 1, APART)
    turn, place = _descend(cost, turns[chosen], place[chosen], steps)
    best = cost(turn, place).argmin()
    return turn[best], place[best] + torch.from_numpy(box_center(surface))


def _spread(mesh: Mesh, count: int) -> Float[Tensor, "N 3"]:
    """Points spread evenly over a mesh."""
    vertices, faces = mesh.trimmed()
    chosen, share = even_samples(vertices, faces, count)
    return (share[..., None] * vertices[faces[chosen]]).sum(1)


class _Cost:
    """Mean distance between two surfaces for poses of the first in the second's frame."""

    def __init__(self, own: Tensor, own_grid: DistanceGrid, other: Tensor, other_grid: DistanceGrid) -> None:
        self.own, self.other, self.grids = own, other, (own_grid, other_grid)

    def __call__(self, turn: Float[Tensor, "R 3 3"], place: Float[Tensor, "R 3"]) -> Float[Tensor, "R"]:
        placed = self.own @ turn.mT + place[:, None]
        back = (self.other - place[:, None]) @ turn
        total = torch.zeros(len(turn))
        for points, grid in ((back, self.grids[0]), (placed, self.grids[1])):
            away = grid.sample(points.flatten(0, 1)[None])[0].unflatten(0, points.shape[:2]).abs()
            # smooth at zero, level beyond the cut
            total = total + (CUT**2 * away.square() / (CUT**2 + away.square())).mean(1)
        return total


def _descend(
    cost: _Cost, turn: Float[Tensor, "K 3 3"], place: Float[Tensor, "K 3"], steps: int
) -> tuple[Float[Tensor, "K 3 3"], Float[Tensor, "K 3"]]:
    """Adam on turns about the surface's middle and shifts; steps shrink to nothing."""
    with torch.enable_grad():
        twist = torch.zeros(len(turn), 6, requires_grad=True)
        adam = Adam(torch.full((6,), 0.1), epsilon=1e-8)
        for step in range(steps):
            small = axis_angle_to_matrix(twist[:, :3])
            # a tenth of a radian is to a hand-held thing what half a centimetre is
            now = small @ turn, (small @ place[..., None])[..., 0] + 0.05 * twist[:, 3:]
            (gradient,) = torch.autograd.grad(cost(*now).sum() * 1e4, twist)
            twist = (twist.detach() + adam.step(gradient, 1 - step / steps)).requires_grad_()
    small = axis_angle_to_matrix(twist.detach()[:, :3])
    return small @ turn, (small @ place[..., None])[..., 0] + 0.05 * twist.detach()[:, 3:]
