"""The cpu renderer on plain arrays: what fused losses see, and what they pull on silhouettes taken to the vertices."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from horefine.fused import Posed, Pull
from horefine.render import Renderer, kernels
from horefine.render.topology import VERTEX, Topology

__all__ = ["Drawing"]

_NOTHING3, _NOTHING4 = np.zeros((1, 1, 1), np.float32), np.zeros((1, 1, 1, 1), np.float32)
_NO_VALUES = np.zeros((0, 1), np.float32)


@dataclass(frozen=True, eq=False)
class Drawing:
    """The meshes of a batch as ``fused.Posed`` holds them, and the renderer's working arrays; made by :meth:`of`."""

    masks: bool
    """Whether coverage is drawn, and pulled on."""
    surfaces: bool
    """Whether ids and depth are."""
    topology: Topology = field(repr=False)
    """Of hand and object of the first image, of the second, ...; vertices are packed as in ``Posed.hand.base``."""
    vertices: Float[np.ndarray, "N 3"] = field(repr=False)
    matrix: Float[np.ndarray, "M 3 3"]
    drawn: tuple[np.ndarray, ...] = field(repr=False)
    """Masks, depth, ids: one picture for each item."""
    work: tuple[np.ndarray, ...] = field(repr=False)
    """What the way back needs of the way there: mode, pixels, outlines and their lengths; and facing."""
    pulled: Float[np.ndarray, "N 3"] = field(repr=False)
    """What pulls on the vertices through the coverage."""
    on_hand: Float[np.ndarray, "B V 3"] = field(repr=False)
    on_object: Float[np.ndarray, "B W 3"] = field(repr=False)
    """Its two parts; zero where no coverage is drawn."""

    @staticmethod
    def of(renderer: Renderer, posed: Posed, wants: frozenset[str]) -> Drawing:
        """For poses written to ``posed``; ``wants`` any of ``mask`` and ``surface``."""
        (batch, count, _), points = posed.hand.shape, posed.object.shape[1]
        items = renderer.topology.items.copy()
        items[0::2, VERTEX] = np.arange(batch) * count
        items[1::2, VERTEX] = batch * count + np.arange(batch) * points
        topology, masks = replace(renderer.topology, items=items), "mask" in wants
        pictures = (2 * batch, *renderer.size)
        packed = posed.hand.base
        assert isinstance(packed, np.ndarray)
        pulled = np.zeros_like(packed)
        hands, things = np.split(pulled, [batch * count])
        work = (
            np.empty(pictures if masks else (1, 1, 1), np.uint8), np.empty(packed.shape, np.float32),
            np.empty((topology.edge_slots[-1] if masks else 0, 3), np.int32), np.zeros(2 * batch, np.int32),
            np.empty(topology.slots, np.int8),
        )  # fmt: skip
        return Drawing(
            masks, "surface" in wants, topology, packed, np.ascontiguousarray(renderer.matrix.numpy(), np.float32),
            (posed.masks.reshape(pictures), posed.depth.reshape(pictures), posed.ids.reshape(pictures)), work, pulled,
            hands.reshape(batch, count, 3), things.reshape(batch, points, 3),
        )  # fmt: skip

    def draw(self, first: int, last: int) -> None:
        """Writes what is wanted of images ``first`` to ``last - 1``."""
        if not (self.masks or self.surfaces):
            return
        mask, depth, ids = self.drawn
        mode, pixels, outline, lengths, facing = self.work
        topology = self.topology
        kernels.forward(
            self.vertices, topology.faces, topology.edges, topology.items, topology.edge_slots, self.matrix,
            _NO_VALUES, 2 * first, 2 * last, self.masks, self.surfaces, False,
            mask, depth, _NOTHING4, ids, mode, pixels, facing, outline, lengths,
        )  # fmt: skip

    def pull(self, pull: Pull, first: int, last: int) -> None:
        """Writes what pulls on the vertices through the coverage, as it was drawn last."""
        if not self.masks:
            return
        mode, pixels, outline, lengths, _ = self.work
        topology, ids = self.topology, self.drawn[2]
        kernels.backward(
            self.vertices, topology.faces, topology.items, topology.edge_slots, self.matrix, _NO_VALUES,
            2 * first, 2 * last, True, False, False, False,
            pull.masks.reshape(-1, *pull.masks.shape[2:]), _NOTHING3, _NOTHING4,
            ids, mode, pixels, outline, lengths, self.pulled, _NO_VALUES,
        )  # fmt: skip
