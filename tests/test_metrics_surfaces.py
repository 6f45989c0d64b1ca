"""Errors between surfaces against what gSDF's official code printed, and closed forms."""

import numpy as np
import pytest
import torch
import trimesh
from oracles import load, tensor

from horefine import metrics
from horefine.metrics.surfaces import closed


def test_icp_of_scale_and_translation_as_gsdf() -> None:
    o = load("gsdf_metrics")
    fit = metrics.fit_scale_translation(o.icp_source.astype(np.float64), o.icp_target.astype(np.float64))
    assert fit.scale == pytest.approx(float(o.icp_scale[0]), abs=1e-6)
    np.testing.assert_allclose(fit.translation, o.icp_trans[0], atol=1e-6)
    np.testing.assert_allclose(fit(o.icp_source.astype(np.float64)), o.icp_source_aligned_by_export, atol=1e-6)


@pytest.mark.parametrize(("name", "thresholds"), [("hand", (1, 5)), ("obj", (5, 10))])
def test_chamfer_and_f_scores_as_gsdf(name: str, thresholds: tuple[int, int]) -> None:
    o = load("gsdf_metrics")
    predicted, true = (tensor(getattr(o, f"m_pts_{kind}_{name}"))[None] for kind in ("pred", "gt"))
    assert float(metrics.chamfer(predicted, true)) == pytest.approx(float(getattr(o, f"m_chamfer_{name}")), abs=1e-10)
    for threshold in thresholds:
        score = metrics.f_score(predicted, true, threshold, epsilon=1e-7)[0]
        assert float(score) == pytest.approx(float(getattr(o, f"m_fscore_{name}_{threshold}")), abs=2e-8)


def test_hand_and_centre_errors_as_gsdf() -> None:
    """E_h and E_o: the virtual camera's results are turned back before they are compared."""
    o = load("gsdf_metrics")
    joints, centre = (
        tensor(points) @ tensor(o.m_cam_R).mT for points in (o.m_joints_pred_virtual, o.m_center_pred_virtual)
    )
    hand = metrics.mean_joint_error(joints[None], tensor(o.m_joints_gt)[None])
    assert float(hand) == pytest.approx(float(o.m_mano_joint), abs=1e-4)
    assert float(metrics.oce(centre[None], tensor(o.m_center_gt)[None])) == pytest.approx(
        float(o.m_obj_center), abs=1e-4
    )


def test_icp_undoes_a_scale_and_a_shift() -> None:
    points = np.random.default_rng(0).normal(size=(400, 3)) * 0.05
    fit = metrics.fit_scale_translation((points - 0.3) / 7, points)
    assert fit.scale == pytest.approx(7.0)
    np.testing.assert_allclose(fit((points - 0.3) / 7), points, atol=1e-9)
    with pytest.raises(ValueError, match="one place"):
        metrics.fit_scale_translation(np.ones((5, 3)), points)


def surface(radius: float, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> tuple[np.ndarray, np.ndarray]:
    ball = trimesh.creation.icosphere(4, radius)
    return np.asarray(ball.vertices) + shift, np.asarray(ball.faces, np.int64)


def test_scores_of_whole_surfaces() -> None:
    """The hand's scale and shift go to the object too: here the object was misplaced by just that."""
    hand, held = surface(0.04, (0.0, 0.0, 0.6)), surface(0.03, (0.05, 0.0, 0.6))
    scaled = [((v - (0.0, 0.0, 0.6)) * 3, f) for v, f in (hand, held)]
    scores = metrics.reconstruction_scores(scaled[0], hand, scaled[1], held, points=4000)
    exact = metrics.reconstruction_scores(hand, hand, held, held, align=False, points=4000)
    assert set(scores) == {"cd_h_cm2", "fs_h_1", "fs_h_5", "cd_o_cm2", "fs_o_5", "fs_o_10"}
    assert scores["fs_h_5"] == pytest.approx(1.0, abs=1e-3) and scores["fs_o_5"] == pytest.approx(1.0, abs=1e-3)
    assert scores["cd_h_cm2"] == pytest.approx(exact["cd_h_cm2"], rel=0.05)
    assert exact["cd_h_cm2"] > 0  # two draws of one surface are not the same points
    assert metrics.reconstruction_scores(scaled[0], hand, scaled[1], held, points=4000) == scores
    grown = metrics.reconstruction_scores(surface(0.05), surface(0.04), held, held, align=False, points=20_000)
    assert grown["cd_h_cm2"] == pytest.approx(2 * 1.0**2, rel=0.02)  # 1 cm apart everywhere
    assert grown["fs_h_5"] == 0.0
    with pytest.raises(ValueError, match="no faces"):
        metrics.reconstruction_scores((hand[0], hand[1][:0]), hand, held, held)


def test_a_surface_that_is_not_there_has_no_scores_and_cannot_align() -> None:
    hand, held = surface(0.04, (0.0, 0.0, 0.6)), surface(0.03, (0.05, 0.0, 0.6))
    both = metrics.reconstruction_scores(hand, hand, held, held, points=2000)
    one = metrics.reconstruction_scores(hand, hand, None, held, points=2000)
    assert set(one) == set(both) and all(np.isnan(one[key]) == (key[3] == "o") for key in one)
    assert all(one[key] == both[key] for key in one if key[3] == "h")
    none = metrics.reconstruction_scores(None, hand, held, held, points=2000)
    assert set(none) == set(both) and np.isnan(list(none.values())).all()
    metric = metrics.reconstruction_scores(None, hand, held, held, align=False, points=2000)
    assert np.isnan(metric["cd_h_cm2"]) and metric["fs_o_5"] == pytest.approx(1.0, abs=1e-3)


def test_a_closed_surface_has_no_border() -> None:
    vertices, faces = surface(0.04)
    top = vertices[:, 2].argmax()
    shut = closed(vertices, faces[(faces != top).all(1)])
    ends = np.sort(np.concatenate([shut[1][:, [0, 1]], shut[1][:, [1, 2]], shut[1][:, [2, 0]]]), axis=1)
    assert (np.unique(ends, axis=0, return_counts=True)[1] == 2).all()
    assert len(shut[0]) == len(vertices) + 1


def test_an_item_that_is_not_finite_is_nan_and_alone() -> None:
    true = torch.randn(3, 30, 3, dtype=torch.float64)
    ours = true + 0.001 * torch.randn(3, 30, 3, dtype=torch.float64)
    ours[1, 4, 2] = torch.nan
    joints = slice(0, 21)
    for errors in (
        metrics.chamfer(ours, true),
        metrics.f_score(ours, true, 5.0)[0],
        metrics.add_s(ours, true),
        metrics.mssd(ours, true[:, None]),
        metrics.mean_vertex_error(ours, true),
        metrics.mean_vertex_error(ours, true, align="procrustes"),
        *(metrics.mean_joint_error(ours[:, joints], true[:, joints], align=align) for align in ("none", "root")),
        metrics.mean_joint_error(ours[:, joints], true[:, joints], align="procrustes"),
    ):
        assert torch.isnan(errors).tolist() == [False, True, False]
