"""The normal equations of a batch and their damped solution, in torch: any device, no question to it.

Twin of :mod:`horefine.normal_equations` and of ``normal_kernels.damped_steps``. Slopes and rows are in the precision of
the pose (single); products are taken and summed in double, as the kernels do: depth, size and reprojection form a
valley whose floor is 1e-5 as steep as its walls, and products of single numbers know no more than 1e-7 of the walls.
Double is slow on a desktop GPU, but it is 68 x 68 products of rows only: 30 million for a list of 3000.

Rows are never written out as a whole: observations are taken so many at a time that a batch needs about
:data:`BYTES` for them, whatever its size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from horefine.errors import ConfigError
from horefine.factors import value_slopes
from horefine.jacobian import chart_matrix
from horefine.losses.forms import DenseRows, Form, PointRows
from horefine.scene import Scene
from horefine.torch_jacobian import hand_slopes

__all__ = ["damped_steps", "normal_equations"]

HAND, COLUMNS = 61, 67
BYTES = 256 * 2**20
"""What the rows of a batch that are at hand at one time take, about."""


def normal_equations(
    scene: Scene, forms: Mapping[str, Form], variables: Sequence[str] = ()
) -> tuple[Float[Tensor, "B P P"], Float[Tensor, "B P"]]:
    """``J'J`` and ``J'r`` of all images in the tangent chart, double: 67 columns, and one for each of ``variables``.

    Args:
        forms: frozen at ``scene``; plain torch (``losses.torch_squares.on_any_device``).

    Raises:
        ConfigError: a form whose rows are of outlines, which only the kernels know.
    """
    by_form = {name: form.rows(scene) for name, form in forms.items()}
    slopes = iter(value_slopes(scene, forms, by_form, variables)) if variables else None
    size = COLUMNS + len(variables) + 1
    whole = torch.zeros(len(scene.pose), size, size, dtype=torch.float64, device=scene.pose.hand_transl.device)
    jacobian = hand_slopes(scene).flatten(2)
    for name, found in by_form.items():
        for rows in found:
            more = None if slopes is None else next(slopes)
            assert more is None or isinstance(more, Tensor)
            if isinstance(rows, PointRows):
                _add_points(jacobian, rows, more, whole)
            elif isinstance(rows, DenseRows):
                _add(torch.cat([rows.matrix, *_last(more, rows.values)], -1), whole)
            else:
                raise ConfigError(
                    f"losses.{name}: its outlines need the kernels of the CPU; refine there with optimizer.fused: true,"
                    f" or set losses.{name} to 0"
                )
    chart = torch.eye(size - 1, dtype=torch.float64, device=whole.device).repeat(len(whole), 1, 1)
    chart[:, :COLUMNS, :COLUMNS] = chart_matrix(scene)
    return chart.mT @ whole[:, :-1, :-1] @ chart, (chart.mT @ whole[:, :-1, -1:])[..., 0]


def _last(more: Float[Tensor, "*n P"] | None, values: Float[Tensor, "*n"]) -> list[Tensor]:
    """The columns behind the 67: slopes on the variables, and the values."""
    return [*([] if more is None else [more]), values[..., None]]


def _add(rows: Float[Tensor, "B N C"], whole: Float[Tensor, "B C C"]) -> None:
    rows = rows.double()
    whole.baddbmm_(rows.mT, rows)


def _add_points(
    jacobian: Float[Tensor, "B P 183"], rows: PointRows, more: Tensor | None, whole: Float[Tensor, "B C C"]
) -> None:
    """Adds observations, some at a time."""
    batch, count, kinds = rows.values.shape
    width = whole.shape[1]
    own = jacobian.element_size() * (2 * 3 * HAND + kinds * width) + 8 * kinds * width
    chunk = max(1, BYTES // max(1, batch * own))
    for first in range(0, count, chunk):
        here = slice(first, first + chunk)
        root = rows.weight[:, here].sqrt()[..., None, None]
        extra = None if more is None else more[:, here]
        parts = [part * root for part in (rows.wrench[:, here], *_last(extra, rows.values[:, here]))]
        if rows.point.shape[2]:
            moved = _moved(jacobian, rows.point[:, here], rows.share[:, here])
            _add(torch.cat([(rows.slope[:, here] * root) @ moved, *parts], -1).flatten(1, 2), whole)
        else:  # of the object alone: its columns and those behind them
            _add(torch.cat(parts, -1).flatten(1, 2), whole[:, HAND:, HAND:])


def _moved(
    jacobian: Float[Tensor, "B P 183"], point: Int[Tensor, "B N M"], share: Float[Tensor, "B N M"]
) -> Float[Tensor, "B N 3 61"]:
    """How observed points move: shares of hand points."""
    batch, points, columns = jacobian.shape
    first = torch.arange(batch, device=jacobian.device)[:, None, None] * points
    flat = (point + first).flatten(0, 1), jacobian.reshape(-1, columns)
    found = embedding_bag(*flat, per_sample_weights=share.reshape(-1, share.shape[2]), mode="sum")
    return found.view(batch, -1, 3, HAND)


def damped_steps(
    normal: Float[Tensor, "B P P"],
    right: Float[Tensor, "B P"],
    damping: Float[Tensor, "B"],
    done: Bool[Tensor, "B"],
    free: Float[Tensor, "P"],
    turn: float,
) -> Float[Tensor, "B P"]:
    """``-(J'J + D)^-1 J'r`` of the images that are not ``done``; else, and where it breaks, 0.

    D is ``damping`` times the diagonal and a little. ``free``: 1 for columns that move, else 0. No joint turns farther
    than ``turn``.
    """
    finite = normal.isfinite().all(-1).all(-1) & right.isfinite().all(-1)
    usable = (finite & ~done)[:, None, None]
    kept = torch.where(usable, normal, torch.ones_like(free).diag()) * (free[:, None] * free)
    diagonal = kept.diagonal(dim1=1, dim2=2)
    little = 1e-9 * (diagonal.sum(1, keepdim=True) / free.sum() + 1e-12)
    more = damping[:, None] * diagonal + little
    damped = kept + torch.where(free > 0, more, 1.0).diag_embed()
    factor, broken = torch.linalg.cholesky_ex(damped)
    pull = torch.where(usable[..., 0], right, 0.0) * free
    step = -torch.cholesky_solve(pull[..., None], factor)[..., 0]
    good = usable[:, 0] & (broken == 0)[:, None] & step.isfinite().all(1, keepdim=True)
    step = torch.where(good, step, 0.0)
    turns = torch.cat([step[:, 3:51], step[:, 64:67]], 1).unflatten(1, (17, 3)).norm(dim=-1).amax(1)
    return step * (turn / turns.clamp(min=turn))[:, None]
