"""The "pytorch3d" backend: PyTorch3D finds the visible faces, everything else is shared with the twin.

PyTorch3D's soft silhouettes (SoftRas) are not used: they dilate the mask by their blur, which biases the optimum. On a
CPU its rasteriser is a brute force over pixels and faces, hundreds of times slower than the "cpu" backend.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.render.topology import FACES, VERTEX, VERTICES, Topology, Unpacked
from horefine.render.twin import drawn_faces, render_with

try:
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes  # type: ignore[import-not-found]
    from pytorch3d.structures import Meshes  # type: ignore[import-not-found]
except ImportError as error:
    raise ImportError(
        "renderer 'pytorch3d' needs the package pytorch3d, which is not installed (or was built for another torch): "
        "pip install --no-build-isolation git+https://github.com/facebookresearch/pytorch3d.git@v0.7.9 (it builds for "
        "half an hour); or use --renderer cpu"
    ) from error

__all__ = ["render", "screen_space"]


def render(
    vertices: Float[Tensor, "V 3"],
    topology: Topology,
    matrix: Float[Tensor, "N 3 3"],
    size: tuple[int, int],
    values: Float[Tensor, "V C"] | None,
    want: frozenset[str],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """See :func:`horefine.render.render`; what is not wanted is None.

    Raises:
        TypeError: the vertices are not float32.
    """
    if vertices.dtype != torch.float32:
        raise TypeError(f"renderer 'pytorch3d' takes float32 tensors, got {vertices.dtype}; convert them")
    return render_with(finder(topology, size), vertices, topology, matrix, size, values, want)


def finder(topology: Topology, size: tuple[int, int]):
    """The visibility function for :func:`horefine.render.twin.render_with`."""

    def find(pixels: Tensor, inverse: Tensor, side: Tensor, parts: Unpacked) -> Int[Tensor, "N H W"]:
        corners = screen_space(pixels, inverse, size)
        faces = drawn_faces(side, parts)
        own_corners = corners.split(topology.items[:, VERTICES].tolist())
        own_faces = faces.split(topology.items[:, FACES].tolist())
        shifted = [own - int(first) for own, first in zip(own_faces, topology.items[:, VERTEX], strict=True)]
        found, *_ = rasterize_meshes(
            Meshes(verts=list(own_corners), faces=shifted),
            image_size=size,
            blur_radius=0.0,
            faces_per_pixel=1,
            perspective_correct=True,
        )
        return found[..., 0]  # numbered through all faces, -1 where empty

    return find


def screen_space(
    pixels: Float[Tensor, "V 2"], inverse: Float[Tensor, " V"], size: tuple[int, int]
) -> Float[Tensor, "V 3"]:
    """PyTorch3D's normalised coordinates: x left, y up, the shorter side of the picture from -1 to 1, z in metres."""
    height, width = size
    short = min(height, width)
    z = 1 / torch.where(inverse > 0, inverse, 1.0)
    return torch.stack([(width - 2 * pixels[:, 0]) / short, (height - 2 * pixels[:, 1]) / short, z], 1)
