"""BOP's errors against bop_toolkit's numbers (millimetres there), and closed forms."""

import numpy as np
import pytest
import torch
import trimesh
from oracles import load, tensor

from horefine import metrics
from horefine.geometry import Camera, axis_angle_to_matrix
from horefine.mesh import Mesh


def posed(rotation: np.ndarray, shift: np.ndarray, points: np.ndarray) -> torch.Tensor:
    return torch.tensor(points @ rotation.transpose(0, 2, 1) + shift.transpose(0, 2, 1)) / 1e3


def test_pose_errors_as_bop() -> None:
    """pose_error.mssd, mspd, re, te and proj of the ywchao fork."""
    o = load("bop_errors")
    ours, true = posed(o.R_est, o.t_est, o.pts), posed(o.R_gt, o.t_gt, o.pts)
    symmetric = torch.stack([posed(o.R_gt @ turn, o.t_gt, o.pts) for turn in o.sym_R], 1)
    matrix = torch.tensor(o.K).expand(len(ours), 3, 3)
    np.testing.assert_allclose(metrics.mssd(ours, symmetric), o.mssd, atol=1e-9)
    np.testing.assert_allclose(metrics.mssd(ours, true[:, None]), o.mssd_nosym, atol=1e-9)
    np.testing.assert_allclose(metrics.mspd(ours, symmetric, matrix), o.mspd, atol=1e-9)
    np.testing.assert_allclose(metrics.rotation_error(torch.tensor(o.R_est), torch.tensor(o.R_gt)), o.re, atol=2e-6)
    shifts = [torch.tensor(t[..., 0]) / 1e3 for t in (o.t_est, o.t_gt)]
    np.testing.assert_allclose(metrics.oce(*shifts), o.te, atol=1e-9)
    np.testing.assert_allclose(metrics.projection_error(ours, true, matrix), o.proj, atol=1e-9)
    mask = torch.arange(210) < 200
    longer, true_longer = (torch.cat([p, p[:, -1:].expand(-1, 10, -1) + 0.1], 1) for p in (ours, true))
    np.testing.assert_allclose(
        metrics.projection_error(longer, true_longer, matrix, mask.expand(8, -1)), o.proj, atol=1e-9
    )
    both = torch.cat([symmetric, symmetric[:, :, -1:].expand(-1, -1, 10, -1)], 2)
    np.testing.assert_allclose(metrics.mspd(longer, both, matrix, mask.expand(8, -1)), o.mspd, atol=1e-9)


@pytest.mark.parametrize("cost", ["step", "tlinear"])
def test_visible_surface_discrepancy_as_bop(cost: str) -> None:
    """pose_error.vsd, recorded on our renderings of a box that is hidden in part; the sixth is out of the picture."""
    o = load("bop_vsd")
    matrix = tensor(o.matrix).expand(len(o.true), 3, 3)
    predicted, true, observed = map(tensor, (o.predicted, o.true, o.observed))
    ours = metrics.vsd(predicted, true, observed, matrix, tensor(o.diameter_mm), cost=cost)
    np.testing.assert_allclose(ours, getattr(o, cost), atol=1e-9)


def test_average_recall_as_bop() -> None:
    """pose_matching and score, one instance in each image; target 7 has no pose."""
    o = load("bop_vsd")
    visible, solid, projected, sizes = map(
        tensor, (o.ar_vsd_errors, o.ar_mssd_errors, o.ar_mspd_errors, o.ar_diameters)
    )
    recalls = metrics.average_recall(visible, solid, projected, sizes, int(o.ar_width))
    assert [recalls[name] for name in ("vsd", "mssd", "mspd")] == pytest.approx(o.ar.tolist(), abs=1e-12)
    assert recalls["mean"] == pytest.approx(o.ar.mean())
    with pytest.raises(ValueError, match="no targets"):
        metrics.average_recall(visible[:0], solid[:0], projected[:0], sizes[:0], 640)


def box_and_camera(count: int) -> tuple[Mesh, Camera, torch.Tensor]:
    """A box of 60 x 40 x 20 mm, half a metre before a small camera."""
    box = trimesh.creation.box((0.06, 0.04, 0.02))
    mesh = Mesh.cat([Mesh.from_arrays(np.asarray(box.vertices), np.asarray(box.faces))] * count)
    camera = Camera(Camera.from_focal(80.0, (24, 32)).matrix.expand(count, 3, 3), (24, 32))
    return mesh, camera, mesh.vertices + torch.tensor([0.0, 0.0, 0.5])


def test_vsd_of_a_box_that_is_too_far() -> None:
    """Moved 30 mm away: every pixel of its front is off by at least that, and by no more than 31.5 mm."""
    mesh, camera, vertices = box_and_camera(2)
    moved = vertices + torch.tensor([[[0.0, 0.0, 0.03]], [[0.0, 0.0, 0.0]]])
    true, ours = (metrics.object_depth(v, mesh, camera) for v in (vertices, moved))
    size = metrics.diameter(mesh)
    assert size.tolist() == pytest.approx([float(np.hypot(np.hypot(60, 40), 20))] * 2)
    errors = metrics.vsd(ours, true, torch.zeros_like(true), camera.matrix, size, taus=(0.1, 0.9))
    assert errors[0, 0] == 1.0  # 30 mm is over a tenth of 75 mm
    assert errors[0, 1] == pytest.approx(
        float(((true[0] > 0) != (ours[0] > 0)).sum() / ((true[0] > 0) | (ours[0] > 0)).sum())
    )
    assert errors[1].tolist() == [0.0, 0.0]
    wall = torch.full_like(true, 0.3)  # hides both: nothing is visible
    assert metrics.vsd(ours, true, wall, camera.matrix, size).eq(1.0).all()
    with pytest.raises(ValueError, match="linear"):
        metrics.vsd(ours, true, wall, camera.matrix, size, cost="linear")


def test_a_failed_pose_has_no_vsd_and_its_neighbour_keeps_its_own() -> None:
    mesh, camera, vertices = box_and_camera(2)
    broken = vertices.clone()
    broken[0, 3] = torch.nan
    true, ours = (metrics.object_depth(v, mesh, camera) for v in (vertices, broken))
    errors = metrics.vsd(ours, true, torch.zeros_like(true), camera.matrix, metrics.diameter(mesh))
    assert torch.isnan(errors[0]).all() and errors[1].eq(0.0).all()


def test_angle_between_rotations() -> None:
    turns = axis_angle_to_matrix(torch.tensor([[0.0, 0.0, 0.5], [torch.pi, 0.0, 0.0]], dtype=torch.float64))
    straight = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    assert metrics.rotation_error(turns, straight).tolist() == pytest.approx([np.degrees(0.5), 180.0])


def test_diameter_of_a_flat_object() -> None:
    square = Mesh.from_arrays(
        np.array([[0, 0, 0], [3, 0, 0], [3, 4, 0], [0, 4, 0.0]]) / 1e3, np.array([[0, 1, 2], [0, 2, 3]])
    )
    assert metrics.diameter(square).tolist() == pytest.approx([5.0])
