"""The silhouette as squares: how the covered area of each pixel changes when the outline's vertices move.

Coverage is continuous, so nothing is frozen: a tried pose is judged by its own silhouette.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.losses import robust, square_kernels
from horefine.losses.forms import EdgeRows, Rows, Values, packed_vertices
from horefine.render import kernels
from horefine.scene import Scene, focal_stretch

__all__ = ["SilhouetteSquares", "silhouette_squares"]

_NOTHING3, _NOTHING4 = np.zeros((1, 1, 1), np.float32), np.zeros((1, 1, 1, 1), np.float32)


@dataclass(frozen=True)
class SilhouetteSquares:
    """``silhouette``: one residual for each pixel that shows nothing of the other thing."""

    masks: Float[Tensor, "B 2 H W"]
    sigma: float
    other: float
    weight: float

    def freeze(self, scene: Scene) -> SilhouetteSquares:
        return self

    def chosen(self, rows: Int[Tensor, "M"]) -> SilhouetteSquares:
        return replace(self, masks=self.masks[rows])

    def cost(self, scene: Scene) -> Float[Tensor, "B"]:
        hand, thing = self.masks.unbind(1)
        return self.weight * robust.silhouette(scene, hand, thing, sigma=self.sigma, other=self.other)

    def values_at(self, scene: Scene, there: Scene) -> list[Values]:
        """The values of the rows of ``scene`` at the scene ``there``, which may clamp other pixels."""
        lost, gap = self._counted(_outlines(scene)[2]), self._gap(there)
        hand, thing = ([gap[i, side][lost[2 * i + side]] for i in range(len(gap))] for side in (0, 1))
        return [(hand, thing)]

    def _gap(self, scene: Scene) -> np.ndarray:
        """Residual of each pixel, "B 2 H W"."""
        return ((scene.render.masks - self.masks) * (self.weight**0.5 / self.sigma)).float().numpy()

    def _counted(self, mode: np.ndarray) -> np.ndarray:
        """Pixels with a row, hand and object by turns: of nothing else's, and not clamped."""
        keep = self.masks.flip(1) <= self.other
        return keep.flatten(0, 1).numpy() & ((mode & kernels.CLAMPED) == 0)

    def rows(self, scene: Scene) -> list[Rows]:
        scale, gap = self.weight**0.5 / self.sigma, self._gap(scene)
        outline, count, mode, pixels = _outlines(scene)
        topology, matrix = scene.renderer.topology, scene.renderer.matrix.float().numpy()
        lost = self._counted(mode)
        object_points, centre = scene.object.float().numpy(), scene.object_center.float().numpy()
        factor = scene.pose.focal_factor
        stretch = None if factor is None else focal_stretch(factor).double().numpy()
        sides: list[list[tuple[np.ndarray, ...]]] = [[], []]
        for item, (first, vertices) in enumerate(topology.items[:, :2]):
            image, side = divmod(item, 2)
            edges = topology.edge_slots[item]
            number = np.where(lost[item], lost[item].cumsum().reshape(lost[item].shape) - 1, -1)
            entries = square_kernels.outline_slopes(
                pixels[first : first + vertices], outline[edges : edges + count[item]], mode[item], matrix[item],
                number.astype(np.int64), np.float64(scale),
            )  # fmt: skip
            values = gap[image, side][lost[item]].astype(np.float64)
            row, vertex, slope = entries
            slope = slope if stretch is None else slope * stretch[image]
            if side:
                arm = object_points[image, vertex].astype(np.float64) - centre[image]
                wrench = np.zeros((len(values), 6))
                np.add.at(wrench, row, np.concatenate([slope, np.cross(arm, slope)], 1))
                sides[1].append((values, wrench))
            else:
                sides[0].append((values, row, vertex, slope))
        return [EdgeRows(sides[0], sides[1])]


def _outlines(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Outline edges and their number, whether pixels are clamped, and projected vertices, of hands and objects."""
    topology, size = scene.renderer.topology, scene.renderer.size
    vertices = packed_vertices(scene).reshape(-1, 3).float().contiguous().numpy()
    matrix = scene.renderer.matrix.float().contiguous().numpy()
    items = len(topology)
    mask, mode = np.empty((items, *size), np.float32), np.empty((items, *size), np.uint8)
    pixels, facing = np.empty((topology.vertex_count, 3), np.float32), np.empty(topology.slots, np.int8)
    outline, count = np.empty((topology.edge_slots[-1], 3), np.int32), np.zeros(items, np.int32)
    kernels.forward(
        vertices, topology.faces, topology.edges, topology.items, topology.edge_slots, matrix,
        np.zeros((0, 1), np.float32), 0, items, True, False, False,
        mask, _NOTHING3, _NOTHING4, np.zeros((1, 1, 1), np.int32), mode, pixels, facing, outline, count,
    )  # fmt: skip
    return outline, count, mode, pixels


def silhouette_squares(
    scene: Scene, weight: float, *, hand_mask: Tensor, object_mask: Tensor, sigma: float, other: float, **_: Any
) -> SilhouetteSquares:
    """``losses.robust.silhouette`` as squares."""
    return SilhouetteSquares(torch.stack([hand_mask, object_mask], 1), sigma, other, weight)
