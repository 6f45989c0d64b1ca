"""The "nvdiffrast" backend (CUDA): nvdiffrast finds the visible faces, everything else is shared with the twin.

nvdiffrast's own antialiasing is not used: it finds a silhouette only where the face that owns it is visible at the
neighbouring pixel's centre, and with faces of about a pixel its gradient nearly vanishes. Depth and values are computed
from the ids, so all backends agree. nvdiffrast (Laine et al. 2020) is licensed for non-commercial use and is
installed by the user; version 0.3.3 or later is needed for image sizes that are not multiples of 8.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.render.topology import FACES, SLOT, Topology, Unpacked
from horefine.render.twin import drawn_faces, render_with

try:
    import nvdiffrast.torch as dr  # type: ignore[import-not-found]
except ImportError as error:
    raise ImportError(
        "renderer 'nvdiffrast' needs the package nvdiffrast, which is not installed (licence: non-commercial; needs "
        "the CUDA toolkit): pip install setuptools wheel ninja && pip install --no-build-isolation "
        "git+https://github.com/NVlabs/nvdiffrast.git; or use --renderer cpu"
    ) from error

__all__ = ["clip_space", "render"]

_contexts: dict[torch.device, Any] = {}


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
        TypeError: the vertices are not float32 on a CUDA device.
    """
    if vertices.device.type != "cuda" or vertices.dtype != torch.float32:
        raise TypeError(
            f"renderer 'nvdiffrast' takes float32 tensors on a CUDA device, got {vertices.dtype} on {vertices.device}; "
            "move them, or use --renderer cpu"
        )
    return render_with(finder(topology, size), vertices, topology, matrix, size, values, want, fixed=True)


def finder(topology: Topology, size: tuple[int, int]):
    """The visibility function for :func:`horefine.render.twin.render_with`."""
    ranges = torch.from_numpy(topology.items[:, [SLOT, FACES]].copy())  # on the CPU, as nvdiffrast wants it

    def find(pixels: Tensor, inverse: Tensor, side: Tensor, parts: Unpacked) -> Int[Tensor, "N H W"]:
        device = pixels.device
        if device not in _contexts:
            _contexts[device] = dr.RasterizeCudaContext(device=device)
        corners = clip_space(pixels, inverse, parts, size)
        faces = drawn_faces(side, parts).to(torch.int32).contiguous()
        picture, _ = dr.rasterize(_contexts[device], corners, faces, size, ranges=ranges, grad_db=False)
        return picture[..., 3].round().long() - 1  # numbered from 1 through all faces, 0 where empty

    return find


def clip_space(
    pixels: Float[Tensor, "V 2"], inverse: Float[Tensor, " V"], parts: Unpacked, size: tuple[int, int]
) -> Float[Tensor, "V 4"]:
    """Homogeneous clip coordinates; row 0, nvdiffrast's y = -1, is the top row of the picture.

    The z range is fitted to each item (z/w is affine in 1/z), so that the whole depth buffer resolves one mesh.
    """
    height, width = size
    drawn = inverse > 0
    count = len(parts.closed)
    low = torch.full((count,), torch.inf, device=pixels.device, dtype=pixels.dtype)
    low = low.scatter_reduce(0, parts.vertex_item, torch.where(drawn, inverse, torch.inf), "amin")
    high = torch.zeros_like(low).scatter_reduce(0, parts.vertex_item, torch.where(drawn, inverse, 0.0), "amax")
    span = (high - low).clamp(min=1e-6)[parts.vertex_item]
    place = 0.9 - 1.8 * (inverse - low[parts.vertex_item]) / span
    w = 1 / torch.where(drawn, inverse, 1.0)
    z = torch.where(drawn, place, 0.0)
    ndc = torch.stack([2 * pixels[:, 0] / width - 1, 2 * pixels[:, 1] / height - 1, z, torch.ones_like(z)], 1)
    return (ndc * w[:, None]).contiguous()
