"""How sure a result is: the spread of its numbers under the objective's own curvature where the search ended.

With residuals in sigmas the cost is twice a negative log likelihood, so the inverse of ``J'J`` is the covariance of the
67 numbers and of the recipe's variables (Laplace's approximation; Gauss-Newton's Hessian). It is right as far as the
weights say what evidence is worth; of another basin (a flipped object) it knows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float
from torch import Tensor

from horefine.anatomy import JOINT_ORDERS, JOINTS
from horefine.factors import factor_columns
from horefine.geometry import axis_angle_to_matrix
from horefine.jacobian import chart_matrix, hand_jacobian, hand_tables
from horefine.levenberg_marquardt import Rooted, Workspace, frozen_forms, normal_equations
from horefine.losses.forms import Form
from horefine.objective import Objective
from horefine.scene import FACTORS, Scene
from horefine.torch_curvature import variances as torch_variances
from horefine.torch_equations import normal_equations as torch_equations

__all__ = ["Sigmas", "sigmas"]


@dataclass(frozen=True)
class Sigmas:
    """Standard deviations of B results, metres. Infinite where the objective says nothing."""

    joints: Float[Tensor, "B 21"]
    """Of each joint's place: root of its three variances' sum."""
    wrist_depth: Float[Tensor, "B"]
    """Of the wrist's distance along the camera's axis."""
    object_center: Float[Tensor, "B"]
    """Of the place of the centre of the object's box: root of its three variances' sum."""
    object_depth: Float[Tensor, "B"]
    focal_factor: Float[Tensor, "B"] | None = None
    """Of ``Pose.focal_factor``, no unit; None where it is not a variable. The others then take it into account."""
    object_scale: Float[Tensor, "B"] | None = None
    """Of ``Pose.object_scale``, likewise."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Sigmas:
        """With ``function`` applied to every tensor."""
        found = ((f.name, getattr(self, f.name)) for f in fields(self))
        return Sigmas(**{name: function(value) for name, value in found if value is not None})


@torch.no_grad()
def sigmas(
    objective: Objective, scene: Scene, variables: Sequence[str] = (), forms: Mapping[str, Form] | None = None,
    fused: bool = True,
) -> Sigmas:  # fmt: skip
    """Standard deviations at ``scene``.

    Args:
        objective: settled. One of its losses without a form as squares (the papers' have none): all are infinite.
        variables: keys of ``scene.FACTORS`` that are not known.
        forms: ``frozen_forms`` of both, where they are there already.
        fused: by the kernels of the CPU; else in torch, on any device.
    """
    batch, forms = len(scene.pose), frozen_forms(objective, scene, fused) if forms is None else forms
    if any(isinstance(form, Rooted) for form in forms.values()):
        nothing = scene.pose.hand_transl.new_full((batch,), torch.inf)
        own = {FACTORS[name]: nothing for name in variables}
        return Sigmas(nothing[:, None].expand(-1, 21), nothing, nothing, nothing, **own)
    if fused:
        every = _variances(scene, forms, variables)
    else:
        every = torch_variances(scene, torch_equations(scene, forms, variables)[0], variables)
    every = every.to(scene.pose.hand_transl)
    found = every[:, :66].unflatten(1, (22, 3))
    place = found.sum(-1).sqrt()
    fields_ = [FACTORS[name] for name in variables]  # of the logarithm, so relative
    own = {name: getattr(scene.pose, name) * every[:, 66 + k].sqrt() for k, name in enumerate(fields_)}
    return Sigmas(place[:, :21], found[:, 0, 2].sqrt(), place[:, 21], found[:, 21, 2].sqrt(), **own)


def _variances(scene: Scene, forms: Mapping[str, Form], variables: Sequence[str]) -> Float[Tensor, "B C"]:
    """What :func:`horefine.torch_curvature.variances` says, by the kernels."""
    batch, size, count = len(scene.pose), 67 + len(variables), 66 + len(variables)
    normal, right = np.zeros((batch, size, size)), np.zeros((batch, size))
    normal_equations(scene, forms, torch.ones(batch, dtype=torch.bool), Workspace(), normal, right, variables)
    charts = torch.cat([chart_matrix(scene), factor_columns(scene, variables)], 2).double().numpy()
    joints, variances = _joint_slopes(scene), np.full((batch, count), np.inf)
    for i in range(batch):
        plain = np.zeros((22, 3, 67))
        plain[:21, :, :61] = joints[i]
        plain[21, :, 61:64] = np.eye(3)
        slopes = np.zeros((count, size))
        slopes[:66] = (plain @ charts[i]).reshape(66, size)
        slopes[66:, 67:] = np.eye(len(variables))
        try:
            factor = scipy.linalg.cho_factor(normal[i])
        except (np.linalg.LinAlgError, ValueError):  # some direction is free, or a number is not finite
            continue
        variances[i] = (slopes * scipy.linalg.cho_solve(factor, slopes.T).T).sum(1)
    return torch.from_numpy(variances)


def _joint_slopes(scene: Scene) -> Float[np.ndarray, "B 21 3 61"]:
    """How the joints (house order) move with the hand's plain columns."""
    model, pose = scene.hand_model, scene.pose
    tables = hand_tables(model)
    points, slopes = np.empty((tables.point_count, 3)), np.empty((tables.point_count, 3, 61))
    count = len(model.template)
    mano = [count + joint for joint in range(16)] + model.tips.tolist()
    house = [mano[JOINT_ORDERS["mano"].index(name)] for name in JOINTS]
    rotations = axis_angle_to_matrix(pose.hand_rotvec.double()).numpy()
    shape, transl = pose.hand_shape.double().numpy(), pose.hand_transl.double().numpy()
    found, wanted = [], np.zeros(tables.point_count, np.bool_)
    wanted[house] = True
    for i in range(len(pose)):
        hand_jacobian(tables, rotations[i], shape[i], transl[i], points, slopes, wanted)
        found.append(slopes[house].copy())
    return np.stack(found)
