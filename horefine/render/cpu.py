"""The embedded renderer: the numba kernels of :mod:`horefine.render.kernels` as one autograd function."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from horefine.compiling import compiling
from horefine.render import kernels
from horefine.render.topology import Topology
from horefine.threads import over_items

__all__ = ["render", "warm_up"]

_NOTHING3 = np.zeros((1, 1, 1), np.float32)
_NOTHING4 = np.zeros((1, 1, 1, 1), np.float32)
_NO_VALUES = np.zeros((0, 1), np.float32)
_state = {"compiled": False}


def render(
    vertices: Float[Tensor, "V 3"],
    topology: Topology,
    matrix: Float[Tensor, "N 3 3"],
    size: tuple[int, int],
    values: Float[Tensor, "V C"] | None,
    want: frozenset[str],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """See :func:`horefine.render.render`; what is not wanted is None."""
    tensors = (vertices, matrix) if values is None else (vertices, matrix, values)
    for tensor in tensors:
        if tensor.device.type != "cpu" or tensor.dtype != torch.float32:
            raise TypeError(
                f"the cpu renderer takes float32 tensors on the CPU, got {tensor.dtype} on {tensor.device}; "
                "convert them, or choose renderer 'torch', which takes any device and float64"
            )
    _compile_first()
    return _Raster.apply(vertices, values, matrix, topology, size, want)  # type: ignore[return-value]


class _Raster(torch.autograd.Function):
    """Kept lean: at batch 1 the kernels take 0.1 ms, and so would careless wrapping."""

    @staticmethod
    def forward(ctx: Any, vertices: Tensor, values: Tensor | None, matrix: Tensor, topology: Topology, size, want):
        use_mask, use_values = "mask" in want, values is not None and "values" in want
        use_surface = use_values or "depth" in want
        count = len(topology)
        shape, absent = (count, *size), (1, 1, 1)
        # made by numpy: from_numpy is cheaper than .numpy() of a new tensor
        mask = np.empty(shape if use_mask else absent, np.float32)
        depth = np.empty(shape if use_surface else absent, np.float32)
        ids = np.empty(shape if use_surface else absent, np.int32)
        picture = np.empty((count, values.shape[1], *size), np.float32) if use_values else _NOTHING4  # type: ignore[union-attr]
        saved = (
            vertices.detach().contiguous().numpy(),
            matrix.detach().contiguous().numpy(),
            values.detach().contiguous().numpy() if use_values else _NO_VALUES,  # type: ignore[union-attr]
            ids,
            np.empty(shape if use_mask else absent, np.uint8),
            np.empty((topology.vertex_count, 3), np.float32),
            np.empty((topology.edge_slots[-1] if use_mask else 0, 3), np.int32),
            np.zeros(count, np.int32),
        )
        v, k, c, _, mode, pixels, outline, outline_count = saved
        tables = (topology.faces, topology.edges, topology.items, topology.edge_slots)
        facing = np.empty(topology.slots, np.int8)

        def work(first: int, last: int) -> None:
            kernels.forward(
                v, *tables, k, c, first, last, use_mask, use_surface, use_values,
                mask, depth, picture, ids, mode, pixels, facing, outline, outline_count,
            )  # fmt: skip

        over_items(work, count)
        ctx.save_for_backward(vertices)  # the arrays share its memory: this notices a change in place
        ctx.saved, ctx.topology = saved, topology
        ctx.set_materialize_grads(False)
        seen = torch.from_numpy(ids) if use_surface else None
        if seen is not None:
            ctx.mark_non_differentiable(seen)
        return (
            torch.from_numpy(mask) if use_mask else None,
            torch.from_numpy(depth) if "depth" in want else None,
            torch.from_numpy(picture) if use_values else None,
            seen,
        )

    @staticmethod
    def backward(ctx: Any, g_mask: Tensor | None, g_depth: Tensor | None, g_picture: Tensor | None, _: None):  # type: ignore[override]
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the cpu renderer has no second derivatives; use renderer 'torch' with create_graph=True"
            )
        ctx.saved_tensors  # noqa: B018 - raises if the vertices were changed in place
        topology: Topology = ctx.topology
        v, k, c, ids, mode, pixels, outline, outline_count = ctx.saved
        to_values = g_picture is not None and ctx.needs_input_grad[1]
        g_vertices = np.empty(v.shape, np.float32)
        g_values = np.empty(c.shape, np.float32) if to_values else _NO_VALUES
        use = (g_mask is not None, g_depth is not None, g_picture is not None, to_values)
        given = (_array(g_mask, _NOTHING3), _array(g_depth, _NOTHING3), _array(g_picture, _NOTHING4))
        tables = (topology.faces, topology.items, topology.edge_slots)

        def work(first: int, last: int) -> None:
            kernels.backward(
                v, *tables, k, c, first, last, *use, *given,
                ids, mode, pixels, outline, outline_count, g_vertices, g_values,
            )  # fmt: skip

        over_items(work, len(topology))
        gradient = torch.from_numpy(g_vertices)
        return gradient, torch.from_numpy(g_values) if to_values else None, None, None, None, None


def _array(gradient: Tensor | None, missing: ndarray) -> ndarray:
    return missing if gradient is None else gradient.contiguous().numpy()


def _compile_first() -> None:
    """On a machine's first render numba compiles: say so if it takes longer than loading the cache does."""
    if not _state["compiled"]:
        _state["compiled"] = True
        with compiling("the cpu renderer"):
            warm_up()


@torch.enable_grad()
def warm_up() -> None:
    """Compiles the kernels, or loads them from numba's cache, so that the first picture does not wait."""
    _state["compiled"] = True
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
    corners = torch.tensor([[0.0, 0.0, 1.0], [0.1, 0.0, 1.0], [0.0, 0.1, 1.0], [0.0, 0.0, 1.1]], requires_grad=True)
    matrix = torch.tensor([[[8.0, 0.0, 1.5], [0.0, 8.0, 1.5], [0.0, 0.0, 1.0]]])
    topology = Topology.pack([(4, faces)])
    for values in (None, torch.ones(4, 3)):
        mask, depth, picture, _ = render(
            corners, topology, matrix, (4, 4), values, frozenset({"mask", "depth", "values"})
        )
        total = mask.sum() + depth.sum()  # type: ignore[union-attr]
        torch.autograd.grad(total if picture is None else total + picture.sum(), corners)
