"""Refines hands against their joints: damped Gauss-Newton with the hand's own Jacobian, one noise level for each hand.

What is minimised is, for a hand and noise ``s``::

    sum_j (NU + 3) log(1 + c_j |x_j - y_j|^2 / (NU s^2))  +  sum ((angle - relaxed) / sigma)^2  +  sum shape^2

The first sum is a Student t likelihood of the joints, so one joint that is quite wrong pulls on little; it is solved
by reweighting (Lange, Little and Taylor 1989). ``c_j`` are confidences. The priors are those of the recipes
(``losses.prior``), in standard deviations. Where the noise is not given it is found with the pose: residuals over the
numbers that the joints leave free, ``s^2 = sum w |r|^2 / (3 N - gamma)`` with gamma the number of parameters that the
joints determine (MacKay 1992, "Bayesian interpolation", section 4): exact joints are met, noisy ones smoothed by what
hands can do. Steps are damped as by Levenberg and Marquardt, each hand's by itself.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from horefine.anatomy import JOINTS, ROTATIONS, anatomy_angles
from horefine.geometry import axis_angle_to_matrix, skew
from horefine.hand import HandModel
from horefine.jacobian import hand_jacobian, hand_tables

__all__ = ["NOISE", "Fit", "fit_joints", "joint_hand"]

NU = 5.0
"""Degrees of freedom of the Student t: how heavy the tails of joint errors are."""
NOISE = (3e-4, 0.02, 0.05)
"""Least noise that is believed, that with which the search begins, and the most; metres."""
TURN = 0.7
"""No joint turns farther than this in one step, radians."""
TOLERANCE = 1e-4
"""A hand is done when a step lowers its cost by less than this share of it."""
PARAMETERS = 61
"""Translation 3, turn of the wrist 3, finger turns 45, shape 10."""

_POINTS = (*(JOINTS[i] for i in (4, 8, 12, 16, 20)), *ROTATIONS)
_HOUSE = [_POINTS.index(name) for name in JOINTS]


@dataclass(frozen=True)
class Fit:
    """B hands, double."""

    turns: Float[np.ndarray, "B 16 3 3"]
    """Local rotations, MANO's order."""
    shape: Float[np.ndarray, "B 10"]
    transl: Float[np.ndarray, "B 3"]
    joints: Float[np.ndarray, "B 21 3"]
    sigma: Float[np.ndarray, "B"]
    """Spread of the joints, metres: given or found."""
    surprise: Float[np.ndarray, "B"]
    """Minus the logarithm of the likelihood of joints and hand, up to a constant: compares fits of the same joints."""
    steps: Int[np.ndarray, "B"]


@functools.lru_cache(maxsize=4)
def joint_hand(hand: HandModel) -> HandModel:
    """The hand in double on the CPU with its five fingertips for vertices: the same joints, with far less work."""
    tips, count = hand.tips, len(hand.template)
    basis = hand.basis.view(145, count, 3)[:, tips].flatten(1)
    own = {name: getattr(hand, name)[tips] for name in ("template", "weights", "colors", "codes", "regions", "palmar")}
    small = replace(hand, basis=basis, regressor=hand.regressor[:, tips], tips=torch.arange(len(tips)), **own)
    return small.to(device="cpu", dtype=torch.float64)


def fit_joints(
    rotvec: Float[Tensor, "B 16 3"],
    transl: Float[Tensor, "B 3"],
    joints: Float[Tensor, "B 21 3"],
    confidence: Float[Tensor, "B 21"],
    hand: HandModel,
    *,
    sigma: float | None = None,
    steps: int = 50,
) -> Fit:
    """The likeliest hands; the search begins at zero shape.

    Args:
        rotvec, transl: where it begins; double, as all that follows.
        joints: house order, metres, finite; of confidence 0 where missing.
        hand: of :func:`joint_hand`.
        sigma: spread of a joint in each direction, metres; found when None.
        steps: at most so many; a hand stops when it moves no more.
    """
    problem = _Problem(joints.numpy(), confidence.numpy(), hand, sigma is None)
    count = len(joints)
    state = problem.look(axis_angle_to_matrix(rotvec).numpy(), np.zeros((count, 10)), transl.numpy())
    walk = _Walk(np.full(count, sigma or NOISE[1]), np.full(count, 1e-3), np.full(count, 2.0))
    rows = np.arange(count)
    found = _take(problem.fit(state, walk, 0), rows)  # a copy: rows are overwritten as hands are done
    for step in range(1, steps + 1):
        state, walk, done = _step(problem, state, walk)
        if done.any() or step == steps:  # hands that are done take no more time
            _put(found, rows, problem.fit(state, walk, step))
            rows, problem = rows[~done], problem.take(~done)
            state, walk = _take(state, ~done), _take(walk, ~done)
        if not len(rows):
            break
    return found


@dataclass(frozen=True)
class _State:
    """Hands with everything that the cost and its slopes need."""

    turns: Float[np.ndarray, "B 16 3 3"]
    shape: Float[np.ndarray, "B 10"]
    transl: Float[np.ndarray, "B 3"]
    points: Float[np.ndarray, "B 21 3"]
    slopes: Float[np.ndarray, "B 21 3 61"]
    angles: Float[np.ndarray, "B 15 3"]
    """Twist, splay and bend less the relaxed ones, in standard deviations."""
    angle_slopes: Float[np.ndarray, "B 15 3 3"]
    """Of each finger joint's three angles on its own three turns."""


@dataclass(frozen=True)
class _Walk:
    """How the search stands."""

    sigma: Float[np.ndarray, "B"]
    damping: Float[np.ndarray, "B"]
    harder: Float[np.ndarray, "B"]
    """What the next refusal multiplies the damping with (Nielsen 1999)."""


_Rows = TypeVar("_Rows", Fit, _State, _Walk)


@dataclass(frozen=True)
class _Problem:
    joints: Float[np.ndarray, "B 21 3"]
    confidence: Float[np.ndarray, "B 21"]
    hand: HandModel
    estimate: bool
    """Whether the noise is found with the pose."""

    def take(self, rows: np.ndarray) -> _Problem:
        """The problem of some of the hands."""
        return replace(self, joints=self.joints[rows], confidence=self.confidence[rows])

    def look(self, turns: np.ndarray, shape: np.ndarray, transl: np.ndarray) -> _State:
        """The joints of hands, and how everything moves."""
        tables, count = hand_tables(self.hand), len(shape)
        points, slopes = np.empty((count, 21, 3)), np.empty((count, 21, 3, PARAMETERS))
        for i in range(count):
            hand_jacobian(tables, turns[i], shape[i], transl[i], points[i], slopes[i])
        return _State(turns, shape, transl, points[:, _HOUSE], slopes[:, _HOUSE], *_angles(turns, self.hand))

    def fit(self, state: _State, walk: _Walk, step: int) -> Fit:
        """What is known of the hands after so many steps."""
        surprise = self.cost(state, walk.sigma) / 2 + 3 * (self.confidence > 0).sum(1) * np.log(walk.sigma)
        steps = np.full(len(surprise), step)
        return Fit(state.turns, state.shape, state.transl, state.points, walk.sigma, surprise, steps)

    def residuals(self, state: _State, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Differences "B 21 3" in metres, and their squared lengths "B 21" in standard deviations."""
        away = state.points - self.joints
        return away, self.confidence * (away**2).sum(-1) / sigma[:, None] ** 2

    def cost(self, state: _State, sigma: Float[np.ndarray, "B"]) -> Float[np.ndarray, "B"]:
        """What is minimised, at a noise."""
        fits = (NU + 3) * np.log1p(self.residuals(state, sigma)[1] / NU).sum(1)
        return fits + (state.angles**2).sum((1, 2)) + (state.shape**2).sum(1)

    def equations(self, state: _State, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Normal equations "B 61 61" and right sides "B 61", and the noise "B" that they are for."""
        own, pull = self._prior_equations(state)
        data, right = self._data_equations(state, sigma)
        if self.estimate:
            sigma = self._noise(state, data, own, sigma)
            data, right = self._data_equations(state, sigma)
        return data + own, right - pull, sigma

    def _data_equations(self, state: _State, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        away, square = self.residuals(state, sigma)
        weight = self.confidence * (NU + 3) / (NU + square) / sigma[:, None] ** 2
        flat = state.slopes.reshape(len(away), 63, PARAMETERS)
        weighted = (np.repeat(weight, 3, 1)[:, :, None] * flat).swapaxes(1, 2)
        return weighted @ flat, -(weighted @ away.reshape(len(away), 63, 1))[..., 0]

    def _prior_equations(self, state: _State) -> tuple[np.ndarray, np.ndarray]:
        count = len(state.shape)
        # a little on the diagonal: a hand without joints has no place, and its equations would be singular
        matrix, pull = np.tile(1e-6 * np.eye(PARAMETERS), (count, 1, 1)), np.zeros((count, PARAMETERS))
        slopes = state.angle_slopes
        blocks = slopes.swapaxes(2, 3) @ slopes
        for j in range(15):
            first = 6 + 3 * j
            matrix[:, first : first + 3, first : first + 3] += blocks[:, j]
        pull[:, 6:51] = (slopes.swapaxes(2, 3) @ state.angles[..., None]).reshape(count, 45)
        matrix[:, range(51, 61), range(51, 61)] += 1.0
        pull[:, 51:] = state.shape
        return matrix, pull

    def _noise(self, state: _State, data: np.ndarray, own: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """The spread of the joints that the residuals tell of."""
        away, square = self.residuals(state, sigma)
        determined = np.einsum("bii->b", np.linalg.solve(data + own, data))
        free = np.maximum(3 * (self.confidence > 0).sum(1) - determined, 1.0)
        total = (self.confidence * (NU + 3) / (NU + square) * (away**2).sum(-1)).sum(1)
        return np.clip(np.sqrt(total / free), NOISE[0], NOISE[2])


def _step(problem: _Problem, state: _State, walk: _Walk) -> tuple[_State, _Walk, Bool[np.ndarray, "B"]]:
    """Tries one step for every hand; and which hands are done."""
    normal, right, sigma = problem.equations(state, walk.sigma)
    diagonal = np.einsum("bii->bi", normal)
    damped = normal + (walk.damping[:, None] * diagonal)[:, :, None] * np.eye(PARAMETERS)
    tried = problem.look(*_moved(state, _capped(np.linalg.solve(damped, right[..., None])[..., 0]), problem.hand))
    cost = problem.cost(state, sigma)
    gain = cost - problem.cost(tried, sigma)
    taken, still = gain > 0, np.abs(sigma - walk.sigma) < 0.01 * walk.sigma
    state = _State(*(_chosen(taken, getattr(tried, f.name), getattr(state, f.name)) for f in fields(state)))
    damping = np.where(taken, np.maximum(walk.damping * 0.2, 1e-9), walk.damping * walk.harder)
    done = (still & taken & (gain < TOLERANCE * (1 + np.abs(cost)))) | (damping > 1e8)
    return state, _Walk(sigma, damping, np.where(taken, 2.0, walk.harder * 2)), done


def _moved(
    state: _State, step: Float[np.ndarray, "B 61"], hand: HandModel
) -> tuple[Float[np.ndarray, "B 16 3 3"], Float[np.ndarray, "B 10"], Float[np.ndarray, "B 3"]]:
    """Turns, shape and translation after a step in the columns of :mod:`horefine.jacobian`.

    The whole hand turns about the middle of its vertices, which are its fingertips here; fingers in their own frames.
    """
    turns = axis_angle_to_matrix(torch.from_numpy(step[:, 3:51].reshape(-1, 16, 3))).numpy()
    middle = state.points[:, [JOINTS.index(name) for name in _POINTS[:5]]].mean(1)
    arm = state.transl + hand.rest_joints(torch.from_numpy(state.shape))[:, 0].numpy() - middle
    transl = state.transl + step[:, :3] + (turns[:, 0] @ arm[..., None])[..., 0] - arm
    turned = np.concatenate([turns[:, :1] @ state.turns[:, :1], state.turns[:, 1:] @ turns[:, 1:]], 1)
    return turned, state.shape + step[:, 51:], transl


def _angles(turns: Float[np.ndarray, "B 16 3 3"], hand: HandModel) -> tuple[np.ndarray, np.ndarray]:
    """The angles of :class:`_State` and their slopes."""
    relaxed = anatomy_angles(axis_angle_to_matrix(hand.mean_rotvec), hand.axes)[1:]
    low, high = hand.limits.unbind(-1)
    with torch.enable_grad():
        step = torch.zeros(len(turns), 16, 3, dtype=torch.float64, requires_grad=True)
        turned = torch.from_numpy(turns) @ (torch.eye(3, dtype=torch.float64) + skew(step))
        angles = (anatomy_angles(turned, hand.axes)[:, 1:] - relaxed) / ((high - low) / 4)  # as losses.prior.pose_prior
        slopes = [torch.autograd.grad(angles[..., k].sum(), step, retain_graph=True)[0] for k in range(3)]
    return angles.detach().numpy(), torch.stack(slopes, 2)[:, 1:].nan_to_num(0.0, 0.0, 0.0).numpy()


def _capped(step: Float[np.ndarray, "B 61"]) -> Float[np.ndarray, "B 61"]:
    """The step shortened so that no joint turns farther than :data:`TURN`."""
    farthest = np.linalg.norm(step[:, 3:51].reshape(-1, 16, 3), axis=-1).max(1)
    return step * np.minimum(1.0, TURN / np.maximum(farthest, 1e-12))[:, None]


def _chosen(taken: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.where(taken.reshape(-1, *[1] * (first.ndim - 1)), first, second)


def _take(table: _Rows, rows: np.ndarray) -> _Rows:
    """Some rows of every field."""
    return type(table)(*(getattr(table, f.name)[rows] for f in fields(table)))


def _put(table: Fit, rows: np.ndarray, other: Fit) -> None:
    """Overwrites rows of every field."""
    for f in fields(table):
        getattr(table, f.name)[rows] = getattr(other, f.name)
