"""Errors of poses against numbers that the official scripts printed, and closed forms."""

import numpy as np
import pytest
import torch
import trimesh
from oracles import load

from horefine import metrics
from horefine.geometry import axis_angle_to_matrix
from horefine.intersection import intersection_volume

FACE = np.array([[0, 1, 2]])


def test_hand_and_object_errors_are_mean_distances_in_millimetres() -> None:
    points = torch.randn(2, 5, 3)
    moved = points + torch.tensor([[[0.003, 0.0, 0.004]], [[0.0, 0.0, 0.0]]])
    torch.testing.assert_close(metrics.hand_error(moved, points), torch.tensor([5.0, 0.0]), rtol=1e-4, atol=1e-4)
    mask = torch.tensor([[True, False, False, False, False]] * 2)
    moved[:, 1:] += 1
    torch.testing.assert_close(
        metrics.object_error(moved, points, mask), torch.tensor([5.0, 0.0]), rtol=1e-4, atol=1e-4
    )


def test_hand_to_object_error_forgets_a_common_shift() -> None:
    hand, centre = torch.randn(1, 7, 3), torch.randn(1, 3)
    shift = torch.tensor([[0.1, 0.2, 0.3]])
    slip = torch.tensor([[0.0, 0.002, 0.0]])
    error = metrics.hand_to_object_error(hand + shift[:, None] + slip[:, None], centre + shift, hand, centre)
    torch.testing.assert_close(error, torch.tensor([2.0]), rtol=1e-3, atol=1e-3)


def test_ho3d_scores_and_alignments() -> None:
    """shreyashampali/ho3d eval.py: errors in cm, AUC to 5 cm, F-scores; sample 5 is a mirrored prediction."""
    o = vars(load("ho3d_eval"))
    score = dict(zip(o["score_names"].tolist(), o["score_vals"].tolist(), strict=True))
    joints, true_joints = torch.tensor(o["pred_xyz"]), torch.tensor(o["gt_xyz"])
    verts, true_verts = torch.tensor(o["pred_verts"]), torch.tensor(o["gt_verts64"])
    aligned = metrics.procrustes(joints, true_joints, reflection=True)
    scaled = metrics.scale_translation(joints, true_joints, bone=(0, 4))
    np.testing.assert_allclose(aligned, o["xyz_aligned"], atol=1e-8)
    np.testing.assert_allclose(scaled, o["xyz_scale_trans"], atol=1e-9)
    aligned_verts = metrics.procrustes(verts, true_verts, reflection=True)
    for name, ours, truth in (
        ("xyz_{}3d", joints, true_joints),
        ("xyz_procrustes_al_{}3d", aligned, true_joints),
        ("xyz_scale_trans_al_{}3d", scaled, true_joints),
        ("mesh_{}3d", verts, true_verts),
        ("mesh_al_{}3d", aligned_verts, true_verts),
    ):
        errors = (ours - truth).norm(dim=-1) * 1e3
        assert float(errors.mean()) / 10 == pytest.approx(score[name.format("mean")], abs=1e-6)
        assert metrics.auc(errors) == pytest.approx(score[name.format("auc")], abs=1e-6)
    for k, threshold in enumerate((5.0, 15.0)):  # what the script calls precision is recall, and the other way round
        raw = torch.stack(metrics.f_score(verts, true_verts, threshold), -1)
        np.testing.assert_allclose(raw, o["fscore"][:, k, [0, 2, 1]], atol=1e-12)
        both = torch.stack(metrics.f_score(aligned_verts, true_verts, threshold), -1)
        np.testing.assert_allclose(both, o["fscore_aligned"][:, k, [0, 2, 1]], atol=1e-12)
        assert float(raw[:, 0].mean()) == pytest.approx(score[f"f_score_{threshold:.0f}"], abs=1e-6)


def test_bop_add_and_adi() -> None:
    """bop_toolkit pose_error.add and adi (millimetres there, metres here)."""
    o = vars(load("bop_errors"))
    points = o["pts"] / 1e3
    ours = torch.tensor(points @ o["R_est"].transpose(0, 2, 1) + o["t_est"].transpose(0, 2, 1) / 1e3)
    true = torch.tensor(points @ o["R_gt"].transpose(0, 2, 1) + o["t_gt"].transpose(0, 2, 1) / 1e3)
    np.testing.assert_allclose(metrics.add(ours, true), o["add"], atol=1e-9)
    np.testing.assert_allclose(metrics.add_s(ours, true), o["adi"], atol=1e-9)
    np.testing.assert_allclose(metrics.add_s(true, ours, over="predicted"), o["adi"], atol=1e-9)
    mask = torch.arange(210) < 200
    ours, true = (torch.cat([p, p[:, -1:].expand(-1, 10, -1)], 1) for p in (ours, true))
    np.testing.assert_allclose(metrics.add(ours, true, mask.expand(8, -1)), o["add"], atol=1e-9)
    np.testing.assert_allclose(metrics.add_s(ours, true, mask.expand(8, -1)), o["adi"], atol=1e-9)


def test_procrustes_undoes_a_similarity_but_no_mirror() -> None:
    points = torch.randn(3, 21, 3, dtype=torch.float64)
    turn = axis_angle_to_matrix(torch.randn(3, 3, dtype=torch.float64))
    moved = 1.7 * points @ turn.mT + torch.randn(3, 1, 3, dtype=torch.float64)
    torch.testing.assert_close(metrics.procrustes(moved, points), points)
    mirrored = moved * torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(metrics.procrustes(mirrored, points, reflection=True), points)
    assert (metrics.mean_joint_error(mirrored, points, align="procrustes") > 100).all()


def test_centre_and_corner_errors() -> None:
    cube = torch.tensor(trimesh.creation.box((0.1, 0.1, 0.1)).vertices)[None]
    shift = torch.tensor([[0.0, 0.003, 0.004]], dtype=torch.float64)
    torch.testing.assert_close(metrics.oce(shift, 0 * shift), torch.tensor([5.0], dtype=torch.float64))
    torch.testing.assert_close(metrics.mce(cube + shift[:, None], cube), torch.tensor([5.0], dtype=torch.float64))
    turn = axis_angle_to_matrix(torch.tensor([0.0, 0.0, torch.pi / 4], dtype=torch.float64))
    # the camera-parallel box of a cube turned by 45 degrees: its x and y sides are sqrt(2) longer
    grown = torch.tensor([0.05 * (2**0.5 - 1) * 2**0.5 * 1e3], dtype=torch.float64)
    torch.testing.assert_close(metrics.mce(cube @ turn.mT, cube), grown)


def test_auc_of_known_curves() -> None:
    assert metrics.auc(torch.zeros(4)) == pytest.approx(1.0)
    assert metrics.auc(torch.full((4,), 51.0)) == 0.0
    assert metrics.auc(torch.linspace(0, 50, 5001)) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    "call",
    [
        lambda p: metrics.mean_joint_error(p, p, align="wrist"),
        lambda p: metrics.add_s(p, p, over="both"),
        lambda p: metrics.penetration_depth(p[0].numpy(), p[0].numpy(), FACE, variant="deep"),
        lambda p: metrics.disjointness(p[0].numpy(), np.zeros(21, int), p[0].numpy(), variant="palm"),
        lambda p: metrics.mean_vertex_error(p, p, align="bone"),
        lambda p: intersection_volume(p[0].numpy(), FACE, p[0].numpy(), FACE, method="magic"),
    ],
)
def test_an_unknown_variant_is_named(call) -> None:
    with pytest.raises(ValueError, match=r"wrist|both|deep|palm|bone|magic"):
        call(torch.randn(1, 21, 3, dtype=torch.float64))
