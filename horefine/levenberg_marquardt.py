"""Damped Gauss-Newton (Levenberg 1944, Marquardt 1963) on a batch of images, each with its own damping and verdicts.

Each step writes the losses as squares (``losses.squares``), solves the 67 normal equations of every image (more where
focal length or object size are variables: :mod:`horefine.factors`) and tries the step. What jumps in the objective
(which face a pixel sees) is held still while a step is tried, so the cost that decides over it is smooth; the objective
as it is, is looked at where a step was taken, and the best pose is kept by it.

Scene depth, hand size and reprojection form a valley whose floor is 1e-5 as steep as its walls: the damping has to
start that small, or the solver stops on the wall.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from horefine import normal_kernels
from horefine.jacobian import chart_matrix
from horefine.losses.forms import DenseRows, Form
from horefine.losses.squares import SQUARES
from horefine.losses.torch_squares import on_any_device
from horefine.normal_equations import Workspace, normal_equations
from horefine.objective import Objective, options_of
from horefine.posing import moved, posed
from horefine.scene import Pose, Scene
from horefine.tangent import CHARTS
from horefine.threads import over_items as over_images

__all__ = ["Damping", "Descent", "Workspace", "forms_of", "frozen_forms", "minimise", "normal_equations"]


@dataclass(frozen=True)
class Damping:
    """How steps are damped and when to stop."""

    first: float = 1e-5
    """Damping at the start, relative to the diagonal of the normal equations."""
    tolerance: float = 1e-4
    """An image is done when a step lowers its cost by less than this share."""
    turn: float = 0.7
    """No joint turns farther than this in one step, radians."""
    still: tuple[int, ...] = ()
    """Columns of the chart that do not move."""


LEAVING = 4
"""What it takes to go on without images that are done, in steps of an image that they would be looked at for nothing:
this and one for each image of the batch."""
EASE, LEAST, MOST = 0.3, 1e-7, 1e3
"""Damping after a good step over that before, and its bounds: an image whose damping exceeds the last is done."""


@dataclass(frozen=True)
class Descent:
    """Where :func:`minimise` ended."""

    pose: Pose
    """The best pose that each image passed through, by the objective as it is."""
    best_step: Int[Tensor, "B"]
    """Its row in ``values`` (the last row for a pose reached by the last step)."""
    values: list[dict[str, Float[Tensor, "B"]]]
    """Weighted value of each loss before each step."""


def forms_of(objective: Objective, scene: Scene) -> dict[str, Form]:
    """Each term of a settled objective as squares; a loss without such a form as the square of its root."""
    forms: dict[str, Form] = {}
    for name, term in objective.terms.items():
        maker = getattr(term.function, "squares", None) or SQUARES.get(term.function)
        given = {key: objective.inputs[key] for key in term.inputs}
        options = {**options_of(term.function), **term.options}
        form = None if maker is None else maker(scene, term.weight, **given, **options)
        forms[name] = form or Rooted(term.function, term.weight, given, term.options)
    return forms


@torch.no_grad()
def frozen_forms(objective: Objective, scene: Scene, fused: bool = True) -> dict[str, Form]:
    """:func:`forms_of`, frozen at the scene: their costs there are the losses themselves.

    ``fused``: by the kernels of the CPU; else in torch, on any device.
    """
    forms = forms_of(objective, scene)
    return {name: form.freeze(scene) for name, form in (forms if fused else on_any_device(forms)).items()}


@torch.no_grad()
def minimise(
    objective: Objective,
    pose: Pose,
    scene_of: Callable[[Pose], Scene],
    steps: int,
    damping: Damping,
    report: Callable[[int], Any] = lambda step: None,
    variables: Sequence[str] = (),
    fewer: Callable[[Int[Tensor, "M"]], Callable[[Pose], Scene]] | None = None,
) -> Descent:
    """At most ``steps`` steps from ``pose``; stops when every image is done.

    Images that are done leave once they are many: the others go on as if they had been alone.

    Args:
        objective: settled.
        scene_of: the scene of a pose of the whole batch.
        report: called with the number of steps after each.
        variables: keys of ``scene.FACTORS`` that are solved for too; the pose has those factors.
        fewer: what ``scene_of`` is for some of the images; None: all stay to the end.
    """
    walk = _Walker.begin(objective, posed(scene_of(pose)), damping, tuple(variables))
    values, best_step = [], np.zeros(len(pose), np.int64)
    rows, best, now = torch.arange(len(pose)), pose, walk.values
    for step in range(steps):
        now = {name: _put(now[name], rows, value) for name, value in walk.values.items()}
        values.append(now)
        walk = walk.step(scene_of, step == steps - 1)
        best_step[rows[torch.from_numpy(walk.improved)]] = step + 1
        report(step + 1)
        if walk.done.all():
            break
        if fewer is not None and walk.lets_go(steps - step - 1):
            best = _put_pose(best, rows, walk.best)
            stay = torch.from_numpy(~walk.done).nonzero()[:, 0]
            rows, now = rows[stay], {name: _put(now[name], rows, value) for name, value in walk.values.items()}
            scene_of = fewer(rows)
            walk = walk.chosen(stay, scene_of)
    best_step_ = torch.from_numpy(best_step).clamp(max=len(values) - 1)
    return Descent(_put_pose(best, rows, walk.best), best_step_, values)


def _put(whole: Tensor, rows: Int[Tensor, "M"], part: Tensor) -> Tensor:
    """The whole with some rows replaced."""
    return part if len(part) == len(whole) else whole.index_copy(0, rows, part)


def _put_pose(whole: Pose, rows: Int[Tensor, "M"], part: Pose) -> Pose:
    return part.like(_put(getattr(whole, name), rows, value) for name, value in part.items())


@dataclass(frozen=True)
class _Walker:
    """The state of a batch between two steps. Small numbers are numpy's: torch takes as long for one as for many."""

    scene: Scene
    forms: Mapping[str, Form]
    """Frozen at ``scene``."""
    values: dict[str, Float[Tensor, "B"]]
    """Cost of each form there."""
    normal: Float[np.ndarray, "B P P"]
    right: Float[np.ndarray, "B P"]
    options: Damping
    damping: Float[np.ndarray, "B"]
    harder: Float[np.ndarray, "B"]
    """What the next refusal multiplies the damping with (Nielsen 1999)."""
    done: Bool[np.ndarray, "B"]
    best: Pose
    lowest: Float[np.ndarray, "B"]
    improved: Bool[np.ndarray, "B"]
    """Whether ``best`` is of the last step."""
    work: Workspace = field(repr=False)
    variables: tuple[str, ...] = ()

    @staticmethod
    def begin(objective: Objective, scene: Scene, options: Damping, variables: tuple[str, ...] = ()) -> _Walker:
        forms = frozen_forms(objective, scene)
        values = {name: form.cost(scene) for name, form in forms.items()}
        total = _total(values)
        work, batch, size = Workspace(), len(total), 67 + len(variables)
        normal, right = np.zeros((batch, size, size)), np.zeros((batch, size))
        normal_equations(scene, forms, torch.ones(batch, dtype=torch.bool), work, normal, right, variables)
        return _Walker(
            scene, forms, values, normal, right, options, np.full(batch, options.first), np.full(batch, 4.0),
            ~np.isfinite(total), scene.pose, total, np.zeros(batch, np.bool_), work, variables,
        )  # fmt: skip

    def lets_go(self, left: int) -> bool:
        """Whether it is worth going on without the images that are done, with so many steps left at most."""
        count, done = len(self.done), int(self.done.sum())
        return done * left > LEAVING + count and all(hasattr(form, "chosen") for form in self.forms.values())

    def chosen(self, rows: Int[Tensor, "M"], scene_of: Callable[[Pose], Scene]) -> _Walker:
        """The same for some of the images."""
        own, forms = rows.numpy(), {name: form.chosen(rows) for name, form in self.forms.items()}  # type: ignore[attr-defined]
        arrays = ("normal", "right", "damping", "harder", "done", "lowest", "improved")
        return replace(
            self, scene=posed(scene_of(self.scene.pose[rows])), forms=forms, best=self.best[rows],
            values={name: value[rows] for name, value in self.values.items()},
            **{name: getattr(self, name)[own] for name in arrays},
        )  # fmt: skip

    def step(self, scene_of: Callable[[Pose], Scene], last: bool = False) -> _Walker:
        """Tries one step for every image that is not done; after the ``last`` the equations are not looked at."""
        total = _total(self.values)
        delta = _solve(self.normal, self.right, self.damping, self.done, self.options)
        tried = posed(scene_of(moved(self.scene, delta, self.variables)))
        costs = {name: form.cost(tried) for name, form in self.forms.items()}
        smooth = _total(costs)
        taken = (smooth < total) & ~self.done
        damping = np.where(taken, np.maximum(self.damping * EASE, LEAST), self.damping * self.harder)
        harder = np.where(taken, 4.0, self.harder * 2)
        done = self.done | (taken & (total - smooth < self.options.tolerance * total)) | (damping > MOST)
        if not taken.any():
            return replace(self, damping=damping, harder=harder, done=done, improved=taken)
        chosen = torch.from_numpy(taken)
        scene = tried if taken.all() else _chosen(chosen, tried, self.scene)
        forms = {name: form.freeze(scene) for name, form in self.forms.items()}
        values = {
            name: _where(chosen, costs[name], self.values[name]) if form is self.forms[name] else form.cost(scene)
            for name, form in forms.items()  # a form that stays the same has no other cost than the step was tried with
        }
        total = _total(values)
        if not last:
            wanted = torch.from_numpy(taken & ~done)
            normal_equations(scene, forms, wanted, self.work, self.normal, self.right, self.variables)
        improved = taken & (total < self.lowest)
        best = scene.pose if improved.all() else _choose(torch.from_numpy(improved), scene.pose, self.best)
        return _Walker(
            scene, forms, values, self.normal, self.right, self.options, damping, harder, done, best,
            np.where(improved, total, self.lowest), improved, self.work, self.variables,
        )  # fmt: skip


def _total(values: Mapping[str, Float[Tensor, "B"]]) -> Float[np.ndarray, "B"]:
    """Sum over the losses."""
    return np.stack([value.numpy() for value in values.values()]).sum(0, dtype=np.float64)


def _solve(
    normal: np.ndarray, right: np.ndarray, damping: np.ndarray, done: np.ndarray, options: Damping
) -> Float[Tensor, "B P"]:
    """The damped step of each image, no turn longer than ``options.turn``; zero for images that are done."""
    step, free = np.empty_like(right), _free(right.shape[1], options.still)

    def work(first: int, last: int) -> None:
        normal_kernels.damped_steps(first, last, normal, right, damping, done, free, float(options.turn), step)

    over_images(work, len(right))
    return torch.from_numpy(step)


@functools.lru_cache(maxsize=16)
def _free(count: int, still: tuple[int, ...]) -> Int[np.ndarray, "N"]:
    """The columns that move."""
    return np.setdiff1d(np.arange(count), still)


def _choose(mask: Tensor, yes: Pose, no: Pose) -> Pose:
    return Pose(**{name: _where(mask, value, getattr(no, name)) for name, value in yes.items()})


def _where(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(mask.view(-1, *(1,) * (yes.dim() - 1)), yes, no)


def _chosen(mask: Bool[Tensor, "B"], yes: Scene, no: Scene) -> Scene:
    """The scene whose images are those of ``yes`` where ``mask``, else of ``no``, with what was already computed."""
    scene = replace(yes, pose=_choose(mask, yes.pose, no.pose))
    for name in ("hand", "object", "object_rotation", "object_center", "render"):
        if name in yes.__dict__ and name in no.__dict__:
            scene.__dict__[name] = _mixed(mask, yes.__dict__[name], no.__dict__[name])  # where cached_property looks
    return scene


def _mixed(mask: Bool[Tensor, "B"], yes: Any, no: Any) -> Any:
    """Tensors, or dataclasses of them, with rows of ``yes`` where ``mask`` and of ``no`` elsewhere."""
    if isinstance(yes, Tensor):
        return _where(mask, yes, no)
    if yes is None:
        return None
    return replace(yes, **{f.name: _mixed(mask, getattr(yes, f.name), getattr(no, f.name)) for f in fields(yes)})


@dataclass(frozen=True)
class Rooted:
    """Any loss as one square, that of its root: right in value and slope, without curvature of its own."""

    function: Callable[..., Tensor]
    weight: float
    inputs: Mapping[str, Any]
    options: Mapping[str, Any]

    def freeze(self, scene: Scene) -> Rooted:
        return self

    def cost(self, scene: Scene) -> Float[Tensor, "B"]:
        return self.weight * self.function(scene, **self.inputs, **self.options)

    def rows(self, scene: Scene) -> list[DenseRows]:
        leaf = scene.pose.map(lambda value: value.detach().requires_grad_())
        with torch.enable_grad():
            there = replace(scene, pose=leaf)
            total = self.cost(there)
        values = [value for _, value in leaf.items()]
        found = torch.autograd.grad(total, values, torch.ones_like(total), allow_unused=True)
        slopes = leaf.like(torch.zeros_like(v) if g is None else g for v, g in zip(values, found, strict=True))
        gradient = torch.nan_to_num(CHARTS["tangent"].gradient(scene, slopes))
        plain = torch.linalg.solve_ex(chart_matrix(scene).mT, gradient[..., None])[0][..., 0]
        root = total.detach().clamp(min=1e-12).sqrt()
        return [DenseRows(root[:, None], plain[:, None] / (2 * root[:, None, None]))]
