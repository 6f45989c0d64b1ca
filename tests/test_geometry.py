"""Rotations against scipy and their own algebra; the camera against closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from horefine import geometry as g
from horefine.geometry import Camera


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rotations_match_scipy(shape, dtype):
    rotvec = torch.randn(*shape, 3, dtype=dtype, generator=torch.Generator().manual_seed(1)) * 1.5
    matrix = g.axis_angle_to_matrix(rotvec)
    expected = Rotation.from_rotvec(rotvec.reshape(-1, 3).double().numpy()).as_matrix().reshape(*shape, 3, 3)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    assert torch.allclose(matrix.double(), torch.from_numpy(expected), atol=tolerance)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, math.pi), st.integers(0, 10_000))
def test_log_inverts_exp_for_every_angle(angle, seed):
    axis = torch.nn.functional.normalize(
        torch.randn(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=0
    )
    matrix = g.axis_angle_to_matrix(axis * angle)
    back = g.axis_angle_to_matrix(g.matrix_to_axis_angle(matrix))
    assert torch.allclose(back, matrix, atol=1e-7)
    assert g.matrix_to_axis_angle(matrix).norm() <= math.pi + 1e-9


def test_exp_has_exact_gradients_also_at_zero():
    for scale in (0.0, 1e-9, 1e-4, 1.0, 3.0):
        rotvec = torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64) * scale
        assert torch.autograd.gradcheck(g.axis_angle_to_matrix, rotvec.requires_grad_(), atol=1e-6)


def test_sixd_round_trip_and_orthonormality():
    matrix = g.axis_angle_to_matrix(torch.randn(7, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(g.sixd_to_matrix(g.matrix_to_sixd(matrix)), matrix, atol=1e-6)
    anything = g.sixd_to_matrix(torch.randn(9, 6, generator=torch.Generator().manual_seed(2)))
    assert torch.allclose(anything @ anything.mT, torch.eye(3).expand(9, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(anything), torch.ones(9), atol=1e-5)


def test_mirrored_rotation_moves_mirrored_points():
    rotvec = torch.tensor([0.4, -0.7, 0.2])
    flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
    mirrored = g.axis_angle_to_matrix(g.mirror_rotvec(rotvec))
    assert torch.allclose(mirrored, flip @ g.axis_angle_to_matrix(rotvec) @ flip, atol=1e-6)


def test_project_and_backproject_are_inverse():
    camera = Camera(torch.tensor([[[500.0, 0, 31.5], [0, 480.0, 20.0], [0, 0, 1]]]).repeat(2, 1, 1), (48, 64))
    points = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)) * 0.1 + torch.tensor([0.0, 0, 0.6])
    pixels = g.project(points, camera.matrix)
    assert torch.allclose(g.backproject(pixels, points[..., 2], camera.matrix), points, atol=1e-6)


def test_crop_keeps_the_picture_in_place():
    """A point at the same place of the same scene content: the centre of pixel (4, 6) of a crop that starts at -0.5."""
    camera = Camera.from_focal(100.0, (40, 60))
    point = g.backproject(torch.tensor([[[6.0, 4.0]]]), torch.tensor([[0.5]]), camera.matrix)
    cropped = camera.cropped((1.5, 1.5, 21.5, 21.5), (40, 40))  # 20 pixels become 40
    # pixel centre 6 is 4.5 pixels from the crop's edge, hence 9 new pixels from the edge, i.e. coordinate 8.5
    assert torch.allclose(g.project(point, cropped.matrix)[0, 0], torch.tensor([8.5, 4.5]), atol=1e-4)
    assert torch.allclose(camera.resized((80, 120)).matrix[0, 0, 2], torch.tensor(59.5))


def test_mirrored_camera_sees_the_mirrored_point():
    camera = Camera(torch.tensor([[[100.0, 0, 20.0], [0, 100.0, 20.0], [0, 0, 1]]]), (40, 60))
    point = torch.tensor([[[0.1, 0.05, 0.5]]])
    u = g.project(point, camera.matrix)[0, 0, 0]
    mirrored = g.project(point * torch.tensor([-1.0, 1, 1]), camera.mirrored().matrix)[0, 0, 0]
    assert torch.allclose(mirrored, 59 - u, atol=1e-4)


def test_square_box():
    assert g.square_box((0, 0, 10, 20), 1.5) == (-10.0, -5.0, 20.0, 25.0)
