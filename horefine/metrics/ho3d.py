"""The fourteen scores that HO-3D's evaluation script (and server) prints for a submission of hands."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.metrics.alignment import procrustes, scale_translation
from horefine.metrics.hand import auc
from horefine.metrics.surfaces import f_score
from horefine.metrics.units import MILLIMETRES

__all__ = ["ho3d_scores"]

BONE = (0, 4)
"""Wrist and first joint of the middle finger, in HO-3D's order of joints."""
THRESHOLDS = (5, 15)
NOT_COMPARABLE = -1.0


def ho3d_scores(
    joints: Float[Tensor, "N 21 3"],
    vertices: Float[Tensor, "N V 3"],
    true_joints: Float[Tensor, "N 21 3"],
    true_vertices: Float[Tensor, "N W 3"],
) -> dict[str, float]:
    """HO-3D's scores (Hampali et al. 2020; FreiHAND's script), by the names and in the order of its ``scores.txt``.

    ``*_mean3d`` in cm; ``*_auc3d`` to 5 cm; ``f_score_5`` and ``_15`` in mm, ``f_al`` after alignment. The alignment
    may mirror, as in the official script: a mirrored hand costs nothing after Procrustes. A hand that is not finite
    makes means and F-scores NaN, and counts as missed in the areas.

    A mesh of another topology than the true one (V is not W) has -1 for its distances, and is aligned for ``f_al`` by
    its joints; there the script forgets to divide by the spread of the predicted joints, so that ``f_al`` means little.

    Args:
        joints: predicted, metres, in HO-3D's order (wrist, index, middle, pinky, ring, thumb, tips).
        vertices: predicted, metres, in the frame of the joints; which camera convention does not matter.
        true_joints: in the same order and frame.
        true_vertices: likewise.

    Raises:
        ValueError: no hands.
    """
    if not len(joints):
        raise ValueError("ho3d_scores: no hands")
    aligned = procrustes(joints, true_joints, reflection=True)
    scaled = scale_translation(joints, true_joints, bone=BONE)
    same = vertices.shape == true_vertices.shape
    fitted = procrustes(vertices, true_vertices, reflection=True) if same else _by_joints(vertices, joints, true_joints)
    scores: dict[str, float] = {}
    for name, predicted in (("xyz", joints), ("xyz_procrustes_al", aligned), ("xyz_scale_trans_al", scaled)):
        scores |= _curve(name, predicted, true_joints)
    for name, predicted in (("mesh", vertices), ("mesh_al", fitted)):
        scores |= _curve(name, predicted, true_vertices)
    for threshold in THRESHOLDS:
        for name, predicted in (("f_score", vertices), ("f_al_score", fitted)):
            scores[f"{name}_{threshold}"] = float(f_score(predicted, true_vertices, threshold)[0].mean())
    return scores


def _curve(name: str, predicted: Tensor, true: Tensor) -> dict[str, float]:
    if predicted.shape != true.shape:
        return {f"{name}_mean3d": NOT_COMPARABLE, f"{name}_auc3d": NOT_COMPARABLE}
    errors = (predicted - true).norm(dim=-1) * MILLIMETRES
    return {f"{name}_mean3d": float(errors.mean()) / 10, f"{name}_auc3d": auc(errors)}


def _by_joints(vertices: Tensor, joints: Tensor, true_joints: Tensor) -> Tensor:
    """Vertices moved as the script moves a mesh of its own topology."""
    source, target = (points - points.mean(1, keepdim=True) for points in (joints, true_joints))
    spread, true_spread = (points.flatten(1).norm(dim=1) for points in (source, target))
    left, values, right = torch.linalg.svd(target.mT @ source)
    scale = values.sum(-1) / (spread * true_spread) * true_spread  # of unit point sets, times the true spread
    centre = vertices.mean(1, keepdim=True)
    shift = true_joints.mean(1, keepdim=True) - joints.mean(1, keepdim=True)
    return (vertices - centre) @ (left @ right).mT * scale[:, None, None] + shift + centre
