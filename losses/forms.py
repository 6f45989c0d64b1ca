"""What a least-squares form of a loss is made of (``losses.squares`` says what one is for)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.losses import row_kernels
from horefine.scene import Scene

__all__ = [
    "DenseRows",
    "EdgeRows",
    "Form",
    "Observed",
    "Places",
    "PointRows",
    "Rows",
    "Values",
    "array",
    "gather",
    "kept",
    "kernel_weight",
    "known",
    "observed_rows",
    "packed_vertices",
    "places",
    "robust_cost",
    "spread_of",
    "taken",
    "values_at",
]

COLUMNS = 67
"""Hand translation 3, its turn 3, finger turns 45, shape 10, object translation 3, its turn 3."""


@dataclass(frozen=True)
class PointRows:
    """K residuals at each of N observations of a body's surface."""

    values: Float[Tensor, "B N K"]
    """In sigmas."""
    slope: Float[Tensor, "B N K 3"]
    """Per metre that the observed point of the hand moves (camera frame); unused for the object's points (M = 0)."""
    wrench: Float[Tensor, "B N K 6"]
    """Per metre that the object moves and radian that it turns about the centre of its box (camera axes)."""
    point: Int[Tensor, "B N M"]
    """Hand points that make up the observed point: vertices, then the 16 joints. M = 0: the object alone is seen."""
    share: Float[Tensor, "B N M"]
    """Their shares."""
    weight: Float[Tensor, "B N"]
    """Of each observation; multiplies squares. 0 leaves it out."""

    @functools.cached_property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The fields in C order, for a kernel."""
        return tuple(
            map(array, (self.values, self.slope, self.wrench, self.point, self.share, self.weight)),
        )

    @staticmethod
    def of(*parts: np.ndarray) -> PointRows:
        """Of arrays, in the order of the fields."""
        rows = PointRows(*map(torch.from_numpy, parts))
        rows.__dict__["arrays"] = parts
        return rows


@dataclass(frozen=True)
class DenseRows:
    """Residuals with their slopes on all 67 numbers (hand translation, turns, shape, object translation, turn)."""

    values: Float[Tensor, "B N"]
    matrix: Float[Tensor, "B N 67"]


@dataclass(frozen=True)
class EdgeRows:
    """Residuals that hang on any number of vertices, image by image (numpy, double; weights applied)."""

    hand: list[tuple[np.ndarray, ...]]
    """Values N; and of E contributions: which value, which hand point, slope per metre of it (3)."""
    object: list[tuple[np.ndarray, ...]]
    """Values N and their wrenches N x 6 (see :class:`PointRows`)."""


Rows = PointRows | DenseRows | EdgeRows
Values = Tensor | tuple[list[np.ndarray], list[np.ndarray]]
"""The values of rows; of :class:`EdgeRows` those of hand and object, image by image."""


@runtime_checkable
class Form(Protocol):
    """A loss as squares; see the module.

    One with a method ``chosen(rows)``, the same (frozen) form of some of the images, lets the solver go on without
    those that are done.
    """

    def freeze(self, scene: Scene) -> Form: ...

    def cost(self, scene: Scene) -> Float[Tensor, "B"]: ...

    def rows(self, scene: Scene) -> list[Rows]: ...


def kept(owner: Any, name: Hashable, given: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """What ``make`` gives, kept with ``owner`` (a frozen dataclass) for who asks again with the very same ``given``."""
    table = owner.__dict__.setdefault("_kept", {})
    known, found = table.get(name, (None, None))
    if known is None or any(a is not b for a, b in zip(known, given, strict=True)):
        found = make()
        table[name] = given, found
    return found


def taken(value: Any, rows: Int[Tensor, "M"]) -> Any:
    """Some rows of tensors, of None nothing, of dataclasses of both those of each."""
    if isinstance(value, Tensor):
        return value[rows]
    if value is None:
        return None
    return dataclasses.replace(
        value, **{f.name: taken(getattr(value, f.name), rows) for f in dataclasses.fields(value)}
    )


def values_at(form: Form, scene: Scene, there: Scene) -> list[Values]:
    """The values that the rows of ``scene`` have at the scene ``there``.

    A form whose rows elsewhere are others has a method of this name.
    """
    own = getattr(form, "values_at", None)
    if own is not None:
        return own(scene, there)
    found: list[Values] = []
    for row in form.rows(there):
        edges = isinstance(row, EdgeRows)
        found.append(([h[0] for h in row.hand], [o[0] for o in row.object]) if edges else row.values)
    return found


def kernel_weight(square: Tensor, kernel: float) -> Tensor:
    """Slope of the Geman-McClure cost over that of the plain square: ``1 / (1 + q / kernel^2)^2``."""
    return torch.ones_like(square) if kernel <= 0 else (1 + square / (kernel * kernel)).square().reciprocal()


@dataclass(frozen=True)
class Observed:
    """Residuals at surface points of hand (0) and object (1), and how they change when those points move."""

    values: Float[Tensor, "B 2 N K"]
    slope: Float[Tensor, "B 2 N K 3"]
    root: float
    """Change of the residuals when the object's centre gets a metre deeper."""
    point: Float[Tensor, "B 2 N 3"]
    corners: Int[Tensor, "B 2 N 3"]
    """Packed vertices: the hand's, then the object's."""
    barycentric: Float[Tensor, "B 2 N 3"]


def packed_vertices(scene: Scene) -> Float[Tensor, "B V 3"]:
    """The hand's vertices, then the object's, as the given camera sees them (``Scene.seen``)."""
    kept = scene.__dict__
    if "packed" not in kept:  # asked for by every form that looks at pixels
        kept["packed"] = torch.cat(scene.seen, 1)
    return kept["packed"]


def gather(values: Float[Tensor, "B V C"], index: Int[Tensor, "B *n"]) -> Float[Tensor, "B *n C"]:
    """``values[b, index[b]]``."""
    flat = index.flatten(1)[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, flat).unflatten(1, index.shape[1:])


def observed_rows(
    scene: Scene,
    seen: Observed,
    used: Float[Tensor, "B 2 N"],
    sigma: Tensor,
    kernel: float,
    weight: float,
    confidence: Float[Tensor, "B 2 N"] | None = None,
) -> list[Rows]:
    """Rows of the hand's and of the object's observations.

    Squares are multiplied by ``confidence``, inside the kernel too (``robust.trusted``).
    """
    there, values = places(scene), array(seen.values)
    batch, _, count, channels = values.shape
    new = functools.partial(np.zeros, dtype=values.dtype)
    hand, thing = (
        (new((batch, count, channels)), new((batch, count, channels, 6)), new((batch, count))) for _ in range(2)
    )
    slope = new((batch, count, channels, 3))
    row_kernels.write_rows(
        values, array(seen.slope), array(seen.point), array(used), known(confidence, used), array(sigma),
        float(kernel), float(weight), float(seen.root), there.center, there.stretch,
        hand[0], slope, hand[1], hand[2], thing[0], thing[1], thing[2],
    )  # fmt: skip
    corners, share = array(seen.corners), array(seen.barycentric)
    own = PointRows.of(
        hand[0], slope, hand[1], np.ascontiguousarray(corners[:, 0]), np.ascontiguousarray(share[:, 0]), hand[2]
    )
    none, unused = (corners[:, 1, :, :0], share[:, 1, :, :0]), new(slope.shape)
    return [own, PointRows.of(thing[0], unused, thing[1], *none, thing[2])]


def array(value: Tensor) -> np.ndarray:
    """The numbers of a tensor without a graph in C order, for a kernel."""
    return value.numpy() if value.is_contiguous() else value.contiguous().numpy()


def known(confidence: Float[Tensor, "B 2 N"] | None, like: Float[Tensor, "B 2 N"]) -> np.ndarray:
    """A confidence as the kernels take it: without a last dimension where there is none."""
    return array(like[..., :0] if confidence is None else confidence)


@dataclass(frozen=True)
class Places:
    """Where hand and object of a scene are, for kernels."""

    hand: Float[np.ndarray, "B V 3"]
    joints: Float[np.ndarray, "B 21 3"]
    rotation: Float[np.ndarray, "B 3 3"]
    """Of the object."""
    size: Float[np.ndarray, "B"]
    """What its mesh is multiplied with."""
    turn: Float[np.ndarray, "B 3 3"]
    """Both: what takes directions of the mesh to the camera's axes."""
    transl: Float[np.ndarray, "B 3"]
    center: Float[np.ndarray, "B 3"]
    """Of the object's box."""
    stretch: Float[np.ndarray, "B"]
    """What the focal length is multiplied with."""


def places(scene: Scene) -> Places:
    """The arrays of a scene, kept with it."""
    kept = scene.__dict__
    if "places" not in kept:
        pose, rotation = scene.pose, scene.object_rotation
        one = torch.ones_like(pose.hand_transl[:, 0])
        size, factor = pose.object_scale, pose.focal_factor
        turn = rotation if size is None else rotation * size[:, None, None]
        parts = (scene.hand.vertices, scene.hand.joints, rotation, one if size is None else size, turn)
        more = (pose.object_transl, scene.object_center, one if factor is None else factor)
        kept["places"] = Places(*map(array, parts), *map(array, more))
    return kept["places"]


def robust_cost(
    values: Float[Tensor, "B 2 N K"],
    used: Float[Tensor, "B 2 N"],
    confidence: Float[Tensor, "B 2 N"] | None,
    sigma: Float[Tensor, "B 2"],
    kernel: float,
    weight: float,
) -> Float[Tensor, "B"]:
    """``weight`` times ``robust.geman_mcclure`` of the residuals that ``robust.trusted`` makes of these."""
    total = np.zeros(len(values))
    row_kernels.robust_cost(
        array(values), array(used), known(confidence, used), array(sigma), float(kernel), float(weight), total
    )
    return torch.from_numpy(total).to(values.dtype)


def spread_of(sigma: Any, like: Tensor) -> Float[Tensor, "B 2"]:
    """A settled sigma as one number for each image and body."""
    if isinstance(sigma, str):
        raise ValueError("sigma: 'auto' must be settled (Objective.settle) before a loss is written as squares")
    return torch.as_tensor(sigma, dtype=like.dtype, device=like.device).expand(len(like), 2)
