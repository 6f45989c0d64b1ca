"""``J'J`` and ``J'r`` of the losses as squares: what a step of Gauss-Newton solves.

Rows on points of the hand go through :mod:`horefine.normal_kernels`, which never writes them out. Rows on outlines
(``EdgeRows``) and factors as variables take the plain way, all rows as one matrix: the readable twin of the former.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from horefine import jacobian_kernels as kernels
from horefine import normal_kernels
from horefine.factors import border, dense_border, value_slopes
from horefine.jacobian import HandTables, chart_matrix, hand_jacobian, hand_tables
from horefine.losses.forms import DenseRows, EdgeRows, Form, PointRows, Rows
from horefine.scene import Scene
from horefine.tangent import middles, ray

__all__ = ["Workspace", "normal_equations"]


class Workspace:
    """Arrays that are used again at every step."""

    def __init__(self) -> None:
        self.matrix, self.right = np.empty((0, 67)), np.empty(0)
        self.points, self.jacobian = np.empty((0, 3)), np.empty((0, 3, 61))
        self.wanted, self.whole = np.empty(0, np.bool_), np.empty((68, 68))

    def reserve(self, rows: int, points: int) -> None:
        if len(self.matrix) < rows:
            self.matrix, self.right = np.empty((rows, 67)), np.empty(rows)
        if len(self.points) != points:
            self.points, self.jacobian = np.empty((points, 3)), np.empty((points, 3, 61))
            self.wanted = np.empty(points, np.bool_)


def normal_equations(
    scene: Scene,
    forms: Mapping[str, Form],
    wanted: Bool[Tensor, "B"],
    work: Workspace,
    normal: Float[np.ndarray, "B P P"],
    right: Float[np.ndarray, "B P"],
    variables: Sequence[str] = (),
) -> None:
    """``J'J`` and ``J'r`` of the wanted images in the tangent chart, written into ``normal`` and ``right``.

    67 columns, and one for each of ``variables`` (:mod:`horefine.factors`).
    """
    if not wanted.any():
        return
    by_form = {name: form.rows(scene) for name, form in forms.items()}
    rows = [row for found in by_form.values() for row in found]
    if variables or any(isinstance(row, EdgeRows) for row in rows):
        _written_out(scene, forms, by_form, wanted, work, normal, right, variables)
    else:
        _summed(scene, rows, wanted, work, normal, right)


def _summed(
    scene: Scene, rows: list[Rows], wanted: Tensor, work: Workspace, normal: np.ndarray, right: np.ndarray
) -> None:
    """The equations without the rows: each observation adds its products."""
    tables = hand_tables(scene.hand_model)
    work.reserve(0, tables.point_count)
    points = [row.arrays for row in rows if isinstance(row, PointRows)]
    dense = [(_array(row.values), _array(row.matrix)) for row in rows if isinstance(row, DenseRows)]
    rotations, shape, transl = _hand_numbers(scene)
    hand_ray, object_ray = (ray(middle).double().numpy() for middle in middles(scene))
    for i in wanted.nonzero().flatten().tolist():
        work.wanted[:], work.whole[:] = False, 0.0
        for _, _, _, point, _, weight in points:
            if point.shape[2]:
                normal_kernels.mark_points(point[i], weight[i], work.wanted)
        if work.wanted.any():
            hand_jacobian(tables, rotations[i], shape[i], transl[i], work.points, work.jacobian, work.wanted)
        _add_points([tuple(part[i] for part in own) for own in points], tables, work)
        for values, matrix in dense:
            normal_kernels.add_dense(values[i], matrix[i], work.whole)
        normal_kernels.take_to_chart(work.whole, hand_ray[i], object_ray[i], normal[i], right[i])


def _add_points(points: list[tuple[np.ndarray, ...]], tables: HandTables, work: Workspace) -> None:
    """Adds one image's observations, two lists at once where they may be of the same points."""
    for values, _, wrench, _, _, weight in (p for p in points if not p[3].shape[1]):
        normal_kernels.add_rigid(values, wrench, weight, work.whole)
    waiting = [p for p in points if p[3].shape[1]]
    while waiting:
        own = waiting.pop(0)
        values, slope, wrench, point, share, weight = own
        other = next((o for o in waiting if o[3].shape == point.shape), None)
        if other is None:
            other, matched = tuple(part[:0] for part in own), np.zeros(0, np.bool_)
        else:
            waiting = [o for o in waiting if o is not other]
            matched = np.zeros(len(point), np.bool_)
        normal_kernels.add_points(
            work.jacobian, tables.reach, values, slope, wrench, point, share, weight,
            other[0], other[1], other[2], other[3], other[4], other[5], matched, work.whole,
        )  # fmt: skip
        left = other[5] * ~matched
        if left.any():
            waiting.append((*other[:5], left))


def _hand_numbers(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Local rotations "B 16 3 3", shape "B 10" and translation "B 3" of the hands, double."""
    pose = scene.pose
    rotations = np.empty((*pose.hand_rotvec.shape, 3))
    normal_kernels.turn_matrices(pose.hand_rotvec.contiguous().numpy(), rotations)
    return rotations, pose.hand_shape.double().numpy(), pose.hand_transl.double().numpy()


def _written_out(
    scene: Scene,
    forms: Mapping[str, Form],
    by_form: Mapping[str, Sequence[Rows]],
    wanted: Bool[Tensor, "B"],
    work: Workspace,
    normal: Float[np.ndarray, "B P P"],
    right: Float[np.ndarray, "B P"],
    variables: Sequence[str] = (),
) -> None:
    """The equations from a matrix of all rows."""
    rows = [row for found in by_form.values() for row in found]
    points = [row.arrays for row in rows if isinstance(row, PointRows)]
    edges = [row for row in rows if isinstance(row, EdgeRows)]
    dense = [row for row in rows if isinstance(row, DenseRows)]
    zero = scene.pose.hand_transl.new_zeros(())
    base = sum((row.matrix.mT @ row.matrix for row in dense), zero.expand(len(wanted), 67, 67)).double().numpy()
    pull = sum(((row.matrix.mT @ row.values[..., None])[..., 0] for row in dense), zero.expand(len(wanted), 67))
    pull = pull.double().numpy()
    tables = hand_tables(scene.hand_model)
    most = max((len(e.hand[i][0]) for e in edges for i in range(len(wanted))), default=0) * len(edges)
    most += sum(p[0].shape[1] * p[0].shape[2] for p in points if p[3].shape[2])
    work.reserve(most, tables.point_count)
    rotations, shape, transl = _hand_numbers(scene)
    charts = chart_matrix(scene).double().numpy()
    slopes = value_slopes(scene, forms, by_form, variables) if variables else []
    edge = dense_border(rows, slopes, len(wanted), len(variables)) if variables else None
    for i in wanted.nonzero().flatten().tolist():
        hand_jacobian(tables, rotations[i], shape[i], transl[i], work.points, work.jacobian)
        whole, gradient = base[i].copy(), pull[i].copy()
        last = _add_rows(i, points, edges, work, whole, gradient)
        normal[i, :67, :67] = charts[i].T @ whole @ charts[i]
        right[i, :67] = charts[i].T @ gradient
        if edge is not None:
            cross, square, own = (part[i] for part in edge)
            border(i, rows, slopes, work.matrix[:last], work.right[:last], (cross, square, own))
            normal[i, :67, 67:], normal[i, 67:, 67:], right[i, 67:] = charts[i].T @ cross, square, own
            normal[i, 67:, :67] = normal[i, :67, 67:].T


def _add_rows(
    image: int,
    points: list[tuple[np.ndarray, ...]],
    edges: list[EdgeRows],
    work: Workspace,
    whole: Float[np.ndarray, "67 67"],
    gradient: Float[np.ndarray, "67"],
) -> int:
    """Adds one image's rows to its plain normal equations; those of the object alone fill a corner of six.

    Returns how many rows of ``work`` it filled.
    """
    last = 0
    for values, slope, wrench, point, share, weight in (tuple(part[image] for part in p) for p in points):
        if point.shape[1]:
            last = kernels.point_rows(
                work.jacobian, values, slope, wrench, point, share, weight, work.matrix, work.right, last
            )
        else:
            root = np.sqrt(weight)[:, None, None]
            six = (wrench * root).reshape(-1, 6).astype(np.float64)
            whole[61:, 61:] += six.T @ six
            gradient[61:] += six.T @ (values * root[..., 0]).reshape(-1)
    for edge in edges:
        values, row, point, slope = edge.hand[image]
        last = kernels.edge_rows(work.jacobian, values, row, point, slope, work.matrix, work.right, last)
        values, six = edge.object[image]
        whole[61:, 61:] += six.T @ six
        gradient[61:] += six.T @ values
    matrix = work.matrix[:last]
    whole += matrix.T @ matrix
    gradient += matrix.T @ work.right[:last]
    return last


def _array(value: Tensor) -> np.ndarray:
    return np.ascontiguousarray(value.numpy())
