"""A pose as plain arrays, and what the losses pull on it: what fused losses read and write.

A fused loss gives its value and its gradient in one pass over plain arrays, without autograd: at batch 1 an eager
iteration spends nine tenths of its time on bookkeeping. Values come from the same formulas as the eager losses, which
stay the readable twins (``losses/``); :mod:`horefine.iteration` poses, renders, asks every loss, and takes what they
pull on points back to the coordinates of the optimiser.

The gradient arrives where it is simple: on points of the hand, on the object as a rigid body (force and torque about
the centre of its box), on the hand's own turns and shape, and on the rendered silhouettes.

Both are C order. Vertices, masks and depth are float32, ids int32; the small sums of :class:`Pull` (``joints``,
``turns``, ``shape``, ``transl``, ``force``, ``torque``, ``object_transl``) and the losses' values are float64, what is
small in :class:`Posed` is float32. :meth:`Posed.empty` and :meth:`Pull.zeros` make them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

__all__ = ["FusedLoss", "Posed", "Pull"]


@dataclass(frozen=True)
class Posed:
    """B poses in the camera frame, single precision, C order; written anew at every iteration."""

    rotvec: Float[np.ndarray, "B 16 3"]
    turns: Float[np.ndarray, "B 16 3 3"]
    """Rotation matrices of ``rotvec``."""
    shape: Float[np.ndarray, "B 10"]
    transl: Float[np.ndarray, "B 3"]
    hand: Float[np.ndarray, "B V 3"]
    """Vertices of the hand."""
    joints: Float[np.ndarray, "B 21 3"]
    object_rotvec: Float[np.ndarray, "B 3"]
    object_turn: Float[np.ndarray, "B 3 3"]
    object_transl: Float[np.ndarray, "B 3"]
    object_center: Float[np.ndarray, "B 3"]
    """Of the object's box."""
    object: Float[np.ndarray, "B O 3"]
    """Vertices of the object."""
    masks: Float[np.ndarray, "B 2 H W"]
    """Rendered coverage; only where some loss wants ``mask``."""
    ids: Int[np.ndarray, "B 2 H W"]
    """Face seen at the pixel's centre, -1 where empty; only where some loss wants ``surface``."""
    depth: Float[np.ndarray, "B 2 H W"]
    """Metres, 0 where empty; likewise."""

    @staticmethod
    def empty(batch: int, vertices: int, points: int, size: tuple[int, int]) -> Posed:
        """Arrays to write ``batch`` poses of a hand of ``vertices`` and an object of ``points`` vertices into.

        ``hand`` and ``object`` are one piece of memory, ``hand.base`` "N 3": all hands, then all objects.
        """
        pictures, packed = (batch, 2, *size), np.empty((batch * (vertices + points), 3), np.float32)

        def small(*shape: int) -> np.ndarray:
            return np.empty((batch, *shape), np.float32)

        hand, thing = np.split(packed, [batch * vertices])
        return Posed(
            small(16, 3), small(16, 3, 3), small(10), small(3), hand.reshape(batch, vertices, 3), small(21, 3),
            small(3), small(3, 3), small(3), small(3), thing.reshape(batch, points, 3),
            np.empty(pictures, np.float32), np.empty(pictures, np.int32), np.empty(pictures, np.float32),
        )  # fmt: skip


@dataclass(frozen=True)
class Pull:
    """The gradient of the objective; zero before the losses are asked, each adds its own."""

    hand: Float[np.ndarray, "B V 3"]
    """Per metre of each vertex of the hand, camera axes."""
    joints: Float[np.ndarray, "B 21 3"]
    turns: Float[np.ndarray, "B 16 3"]
    """Per radian of a turn of the joint in its own frame: ``R exp(w)``."""
    shape: Float[np.ndarray, "B 10"]
    transl: Float[np.ndarray, "B 3"]
    """What pulls on the number ``hand_transl`` itself (a tie to the start); points pull by ``hand`` and ``joints``."""
    force: Float[np.ndarray, "B 3"]
    """Per metre that the object moves."""
    torque: Float[np.ndarray, "B 3"]
    """Per radian that the object turns about the centre of its box, camera axes."""
    object_transl: Float[np.ndarray, "B 3"]
    """What pulls on the number ``object_transl`` itself."""
    masks: Float[np.ndarray, "B 2 H W"]
    """Per unit of rendered coverage."""

    @staticmethod
    def zeros(batch: int, vertices: int, size: tuple[int, int]) -> Pull:
        """Nothing pulls on ``batch`` hands of ``vertices`` vertices and their objects."""
        small = (np.zeros((batch, *shape)) for shape in ((21, 3), (16, 3), (10,), (3,), (3,), (3,), (3,)))
        return Pull(np.zeros((batch, vertices, 3), np.float32), *small, masks=np.zeros((batch, 2, *size), np.float32))


@runtime_checkable
class FusedLoss(Protocol):
    """One term of a settled objective, its weight applied; made by an entry of ``losses.fused.FUSED``."""

    @property
    def wants(self) -> frozenset[str]:
        """What must be rendered for it: of ``mask`` and ``surface``."""
        ...

    def add(self, posed: Posed, pull: Pull, values: Float[np.ndarray, "B"], first: int, last: int) -> None:
        """Adds the weighted value of images ``first`` to ``last - 1`` to ``values`` and its gradient to ``pull``.

        Images are independent: several threads call this at once for different images.
        """
        ...
