"""Hand and object of a batch of images, each rendered alone, in one call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.geometry import Camera
from horefine.render.backends import OUTPUTS, RENDERERS, choose, render
from horefine.render.topology import CLOSED, Topology

if TYPE_CHECKING:
    from horefine.mesh import Mesh

__all__ = ["Render", "Renderer", "make_renderer"]


@dataclass(frozen=True)
class Render:
    """Pictures of B hands and objects; along the second dimension 0 = hand, 1 = object, each rendered alone.

    What a renderer was told not to draw (``want``) is NaN (ids: -2), so that using it cannot go unnoticed.
    """

    masks: Float[Tensor, "B 2 H W"]
    """Exact area of the silhouette in the pixel, 0 to 1."""
    depth: Float[Tensor, "B 2 H W"]
    """Metres; 0 where empty."""
    coords: Float[Tensor, "B 2 3 H W"]
    """Interpolated codes of the surface; 0 where empty."""
    ids: Int[Tensor, "B 2 H W"]
    """Face seen at the pixel's centre, -1 where empty."""
    colors: Float[Tensor, "B 2 3 H W"]
    """Linear albedo of the object (the hand has none: 0); 0 where empty."""


@dataclass(frozen=True, eq=False)
class Renderer:
    """Bound to the meshes and cameras of a batch; made by :func:`make_renderer`."""

    topology: Topology = field(repr=False)
    matrix: Float[Tensor, "N 3 3"]
    """One for each item: hand and object of the first image, of the second, ..."""
    size: tuple[int, int]
    values: Float[Tensor, "V C"] = field(repr=False)
    """Of the packed vertices: codes, and colours where they are wanted."""
    name: str
    """The backend."""
    want: frozenset[str]

    def __call__(self, hand_vertices: Float[Tensor, "B 778 3"], object_vertices: Float[Tensor, "B V 3"]) -> Render:
        """Renders camera-frame vertices (metres); differentiable with respect to both."""
        packed = torch.cat([hand_vertices, object_vertices], 1).reshape(-1, 3)
        mask, depth, painted, ids = render(
            packed, self.topology, self.matrix, self.size, self.values, backend=self.name, want=self.want & OUTPUTS
        )
        shape = (len(hand_vertices), 2, *self.size)
        absent = packed.new_full((), torch.nan)
        return Render(
            absent.expand(shape) if mask is None else mask.view(shape),
            absent.expand(shape) if depth is None else depth.view(shape),
            self._channels(painted, 0, absent),
            torch.full((), -2, dtype=torch.int32).expand(shape) if ids is None else ids.view(shape),
            self._channels(painted, 3, absent),
        )

    def chosen(self, rows: Int[Tensor, " M"]) -> Renderer:
        """The renderer of some of the images."""
        items = torch.stack([2 * rows, 2 * rows + 1], 1).flatten()
        values = self.values.unflatten(0, (len(self.matrix) // 2, -1))[rows].flatten(0, 1)
        return replace(self, topology=self.topology.chosen(items.numpy()), matrix=self.matrix[items], values=values)

    def _channels(self, painted: Tensor | None, first: int, absent: Tensor) -> Float[Tensor, "B 2 3 H W"]:
        there = painted is not None and painted.shape[1] > first
        chosen = painted[:, first : first + 3] if there else absent.expand(len(self.matrix), 3, *self.size)  # type: ignore[index]
        return chosen.unflatten(0, (-1, 2))


def make_renderer(
    hand_faces: Int[Tensor, "F 3"],
    hand_codes: Float[Tensor, "778 3"],
    objects: Mesh,
    camera: Camera,
    name: str = "auto",
    *,
    want: Iterable[str] = OUTPUTS,
) -> Renderer:
    """The renderer of B images: one hand model, B objects, B cameras of one image size.

    Args:
        hand_faces: of the hand model.
        hand_codes: painted into ``Render.coords`` for the hand.
        objects: B meshes; their ``codes`` are painted into ``Render.coords``.
        camera: of the maps; its matrix decides the device.
        name: "auto", "cpu", "torch", "nvdiffrast" or "pytorch3d".
        want: any of "mask", "depth", "values" (the coords) and "colors", which are painted with the coords; the colours
            of an object without any are grey.

    Raises:
        ConfigError: unknown renderer.
        ValueError: numbers of objects and cameras differ; a closed object winds inwards (it would be invisible).
        ImportError: the renderer's package is missing.
    """
    count = len(camera.matrix)
    if len(objects.vertices) != count:
        raise ValueError(f"make_renderer: {len(objects.vertices)} objects, but {count} cameras")
    backend = choose(name, camera.matrix.device.type)
    RENDERERS[backend]()  # a missing package is named now, not in the middle of the work
    object_vertices = objects.vertices.shape[1]
    pairs = [((len(hand_codes), hand_faces), (object_vertices, objects.faces[i])) for i in range(count)]
    topology = Topology.pack([mesh for pair in pairs for mesh in pair])
    _refuse_inward(objects, topology)
    device = camera.matrix.device
    values = torch.cat([hand_codes.to(device).expand(count, -1, 3), objects.codes.to(device)], 1)
    wanted = frozenset(want)
    if "colors" in wanted:
        albedo = objects.colors if objects.colors is not None else torch.full_like(objects.vertices, 0.5)
        hands = values.new_zeros(count, len(hand_codes), 3)
        values = torch.cat([values, torch.cat([hands, albedo.to(device)], 1)], -1)
        wanted |= {"values"}
    return Renderer(
        topology,
        camera.matrix.repeat_interleave(2, 0),
        camera.size,
        values.flatten(0, 1).to(camera.matrix.dtype).contiguous(),
        backend,
        wanted,
    )


def _refuse_inward(objects: Mesh, topology: Topology) -> None:
    """The sign of a closed mesh's volume says which way its faces look."""
    corners = objects.vertices.detach() - objects.vertices.detach().mean(1, keepdim=True)
    for number, (points, faces) in enumerate(zip(corners, objects.faces, strict=True)):
        a, b, c = points[faces].unbind(1)
        if topology.items[2 * number + 1, CLOSED] and (torch.linalg.cross(a, b) * c).sum() < 0:
            raise ValueError(
                f"make_renderer: the faces of object {number} look inwards: flip them (faces.flip(-1)), or load the "
                "mesh with Mesh.load, which repairs this; after mirroring a mesh its faces must be flipped too"
            )
