"""How sure a result is: the spread of its numbers under the objective's own curvature where the search ended.

With residuals in sigmas the cost is twice a negative log likelihood, so the inverse of ``J'J`` is the covariance of the
67 numbers (Laplace's approximation; Gauss-Newton's Hessian). It is right as far as the weights say what evidence is
worth; of another basin (a flipped object) it knows nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float
from torch import Tensor

from horefine.anatomy import JOINT_ORDERS, JOINTS
from horefine.geometry import axis_angle_to_matrix
from horefine.jacobian import chart_matrix, hand_jacobian, hand_tables
from horefine.levenberg_marquardt import Rooted, Workspace, forms_of, normal_equations
from horefine.objective import Objective
from horefine.scene import Scene

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

    def map(self, function: Callable[[Tensor], Tensor]) -> Sigmas:
        """With ``function`` applied to every tensor."""
        return Sigmas(*(function(getattr(self, f.name)) for f in fields(self)))


@torch.no_grad()
def sigmas(objective: Objective, scene: Scene) -> Sigmas:
    """Standard deviations at ``scene``, on the CPU.

    Args:
        objective: settled. One of its losses without a form as squares (the papers' have none): all are infinite.
    """
    batch = len(scene.pose)
    forms = {name: form.freeze(scene) for name, form in forms_of(objective, scene).items()}
    if any(isinstance(form, Rooted) for form in forms.values()):
        nothing = scene.pose.hand_transl.new_full((batch,), torch.inf)
        return Sigmas(nothing[:, None].expand(-1, 21), nothing, nothing, nothing)
    normal, right = np.zeros((batch, 67, 67)), np.zeros((batch, 67))
    normal_equations(scene, forms, torch.ones(batch, dtype=torch.bool), Workspace(), normal, right)
    charts, joints = chart_matrix(scene).double().numpy(), _joint_slopes(scene)
    variances = np.full((batch, 22, 3), np.inf)
    for i in range(batch):
        slopes = np.zeros((22, 3, 67))
        slopes[:21, :, :61] = joints[i]
        slopes[21, :, 61:64] = np.eye(3)
        slopes = (slopes @ charts[i]).reshape(66, 67)
        try:
            factor = scipy.linalg.cho_factor(normal[i])
        except (np.linalg.LinAlgError, ValueError):  # some direction is free, or a number is not finite
            continue
        variances[i] = (slopes * scipy.linalg.cho_solve(factor, slopes.T).T).sum(1).reshape(22, 3)
    found = torch.from_numpy(variances).to(scene.pose.hand_transl)
    place = found.sum(-1).sqrt()
    return Sigmas(place[:, :21], found[:, 0, 2].sqrt(), place[:, 21], found[:, 21, 2].sqrt())


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
    found = []
    for i in range(len(pose)):
        hand_jacobian(tables, rotations[i], shape[i], transl[i], points, slopes)
        found.append(slopes[house].copy())
    return np.stack(found)
