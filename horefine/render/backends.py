"""One function over several renderers, each loaded only when it is used."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable

from jaxtyping import Float, Int
from torch import Tensor

from horefine.errors import ConfigError, suggestion
from horefine.render.topology import Topology

__all__ = ["OUTPUTS", "RENDERERS", "choose", "render"]

OUTPUTS = frozenset({"mask", "depth", "values"})
Backend = Callable[..., tuple["Tensor | None", "Tensor | None", "Tensor | None", "Tensor | None"]]


def _loader(module: str) -> Callable[[], Backend]:
    def load() -> Backend:
        return (sys.modules.get(name) or importlib.import_module(name)).render

    name = f"horefine.render.{module}"
    return load


RENDERERS: dict[str, Callable[[], Backend]] = {
    "cpu": _loader("cpu"),
    "torch": _loader("twin"),
    "nvdiffrast": _loader("nvdiffrast"),
    "pytorch3d": _loader("pytorch3d"),
}
"""Backends by name; each value imports its module and returns its ``render``."""


def choose(name: str, device_type: str) -> str:
    """The name of the backend to use; "auto" is nvdiffrast on CUDA where it is installed, else cpu or torch.

    Raises:
        ConfigError: no such renderer.
    """
    if name == "auto":
        if device_type == "cpu":
            return "cpu"
        return "nvdiffrast" if device_type == "cuda" and importlib.util.find_spec("nvdiffrast") else "torch"
    if name not in RENDERERS:
        raise ConfigError(f"renderer {name!r}: no such renderer{suggestion(name, ['auto', *RENDERERS])}")
    return name


def render(
    vertices: Float[Tensor, "V 3"],
    topology: Topology,
    matrix: Float[Tensor, "N 3 3"],
    size: tuple[int, int],
    values: Float[Tensor, "V C"] | None = None,
    *,
    backend: str = "cpu",
    want: Iterable[str] = OUTPUTS,
) -> tuple[
    Float[Tensor, "N H W"] | None,
    Float[Tensor, "N H W"] | None,
    Float[Tensor, "N C H W"] | None,
    Int[Tensor, "N H W"] | None,
]:
    """Renders N meshes, each alone in its own image: ``(mask, depth, values, ids)``.

    * mask: the exact area of the silhouette in each pixel, 0 to 1, with its exact gradient;
    * depth: metres along z of the surface at the pixel's centre, 0 where empty;
    * values: ``values`` interpolated at the same point, 0 where empty;
    * ids: the face seen at the pixel's centre, numbered within its mesh, -1 where empty.

    mask, depth and values are differentiable with respect to ``vertices``, values also with respect to ``values``;
    the camera is constant. A closed mesh must wind outwards; an open one may wind either way. Faces nearer than 1 cm
    to the camera's plane are not drawn.

    Args:
        vertices: of all meshes one after the other, camera frame, metres.
        topology: of the same meshes (:meth:`Topology.pack`).
        matrix: intrinsics of each image, pixel (0, 0) the centre of the top-left pixel.
        size: height and width of the images.
        values: per vertex, any number of channels.
        backend: "auto" or a name of :data:`RENDERERS`.
        want: any of "mask", "depth", "values": the others are None and cost nothing (ids come with depth or values).

    Raises:
        ValueError: shapes that do not fit, an unknown backend or output.
        TypeError: a dtype or device that the backend does not take.
        ImportError: the backend's package is missing.
    """
    wanted = frozenset(want)
    if wanted - OUTPUTS:
        raise ValueError(f"render: want={sorted(wanted - OUTPUTS)}: no such output; known: {sorted(OUTPUTS)}")
    if len(vertices) != topology.vertex_count:
        raise ValueError(f"render: {len(vertices)} vertices, but the topology packs {topology.vertex_count}")
    if len(matrix) != len(topology):
        raise ValueError(f"render: {len(matrix)} camera matrices, but the topology has {len(topology)} meshes")
    if values is not None and len(values) != len(vertices):
        raise ValueError(f"render: {len(values)} rows of values for {len(vertices)} vertices")
    return RENDERERS[choose(backend, vertices.device.type)]()(vertices, topology, matrix, size, values, wanted)
