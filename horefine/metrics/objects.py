"""Errors of the object: vertices, centre, corners, ADD and ADD-S, and what symmetry makes of them."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.spatial import KDTree
from torch import Tensor

from horefine.mesh import Mesh
from horefine.metrics.units import MILLIMETRES, as_numpy, mean_distance
from horefine.scene import Pose

__all__ = ["add", "add_s", "equivalents", "mce", "mssd", "object_error", "oce", "symmetric_object_error"]


def object_error(
    predicted: Float[Tensor, "B V 3"], true: Float[Tensor, "B V 3"], mask: Bool[Tensor, "B V"] | None = None
) -> Float[Tensor, "B"]:
    """OE: mean distance of corresponding object vertices, camera frame. mm (CPF; Song et al. 2022).

    HOISDF's OME ("MME" in its code) too; its HO-3D table leaves the pitcher out.

    ``mask``: which vertices count (``Mesh.vertex_mask`` leaves padding out).
    """
    return mean_distance(predicted, true, mask)


def mssd(
    predicted: Float[Tensor, "B V 3"], equivalents: Float[Tensor, "B S V 3"], mask: Bool[Tensor, "B V"] | None = None
) -> Float[Tensor, "B"]:
    """MSSD: largest distance of corresponding points, over the true symmetric pose for which it is smallest. mm.

    BOP (Hodan et al. 2020). ``equivalents``: the object in each of its true symmetric poses (:func:`equivalents`).
    """
    distance = (predicted[:, None] - equivalents).norm(dim=-1) * MILLIMETRES
    distance = distance if mask is None else distance.masked_fill(~mask[:, None], 0.0)
    return distance.amax(-1).amin(-1)


def symmetric_object_error(
    predicted: Float[Tensor, "B V 3"], equivalents: Float[Tensor, "B S V 3"], mask: Bool[Tensor, "B V"] | None = None
) -> Float[Tensor, "B"]:
    """OE of a symmetric object: :func:`object_error` to the nearest of its true symmetric poses. mm."""
    rows = [object_error(predicted, true, mask) for true in equivalents.unbind(1)]
    return torch.stack(rows, 1).amin(1)


def equivalents(mesh: Mesh, pose: Pose) -> Float[Tensor, "B S V 3"]:
    """Vertices of the posed object in each of its symmetric poses (one without ``mesh.symmetries``)."""
    vertices, motions = mesh.vertices[:, None], mesh.symmetries
    if motions is not None:
        vertices = vertices @ motions[:, :, :3, :3].mT + motions[:, :, None, :3, 3]
    return pose.place(vertices.flatten(1, 2)).unflatten(1, vertices.shape[1:3])


def oce(predicted: Float[Tensor, "B 3"], true: Float[Tensor, "B 3"]) -> Float[Tensor, "B"]:
    """OCE: distance of the object's centres. mm. A centre is what its paper takes for one.

    HOISDF (Qi et al. 2024): the origins of the object's frame (``object_transl``). gSDF's E_o (Chen et al. 2023): the
    middle of the model's box on DexYCB, its origin on ObMan.
    """
    return (predicted - true).norm(dim=-1) * MILLIMETRES


def mce(predicted: Float[Tensor, "B V 3"], true: Float[Tensor, "B V 3"]) -> Float[Tensor, "B"]:
    """Mean corner error of the posed vertices' boxes, parallel to the CAMERA's axes (HOISDF's code). mm.

    A box parallel to the object's axes is another number: for it, give its eight corners to :func:`object_error`.
    """
    return mean_distance(_corners(predicted), _corners(true), None)


def add(
    predicted: Float[Tensor, "B V 3"], true: Float[Tensor, "B V 3"], mask: Bool[Tensor, "B V"] | None = None
) -> Float[Tensor, "B"]:
    """ADD: mean distance of corresponding model points (Hinterstoisser et al. 2012). mm. OE on the same points."""
    return mean_distance(predicted, true, mask)


def add_s(
    predicted: Float[Tensor, "B V 3"],
    true: Float[Tensor, "B W 3"],
    mask: Bool[Tensor, "B V"] | None = None,
    *,
    over: str = "true",
) -> Float[Tensor, "B"]:
    """ADD-S (ADI): mean distance to the nearest point of the other pose. mm. For symmetric objects.

    ``over``: whose points are averaged; ``true`` as BOP and Hinterstoisser, ``predicted`` as HOISDF's code.

    Raises:
        ValueError: another ``over``.
    """
    if over not in ("true", "predicted"):
        raise ValueError(f"over: {over!r} is neither 'true' nor 'predicted'")
    results = []
    for k in range(len(true)):
        keep = slice(None) if mask is None else mask[k].cpu()
        ours, theirs = as_numpy(predicted[k])[keep], as_numpy(true[k])[keep]
        if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
            results.append(np.nan)
            continue
        sought, among = (theirs, ours) if over == "true" else (ours, theirs)
        results.append(KDTree(among).query(sought)[0].mean())
    return true.new_tensor(np.asarray(results) * MILLIMETRES)


def _corners(points: Tensor) -> Tensor:
    """The eight corners of each axis-aligned box: "B V 3" -> "B 8 3"."""
    choice = torch.cartesian_prod(*[torch.tensor([False, True], device=points.device)] * 3)
    return torch.where(choice, points.amax(1, keepdim=True), points.amin(1, keepdim=True))
