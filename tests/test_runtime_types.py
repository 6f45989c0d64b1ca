"""The tests do check the annotated shapes, and leave numba's functions to numba."""

import os

import pytest
import torch

from horefine.geometry import Camera, axis_angle_to_matrix, project

checked = pytest.mark.skipif(os.environ.get("HOREFINE_TEST_TYPES") == "0", reason="HOREFINE_TEST_TYPES=0")


@checked
def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(Exception, match="Type-check error"):
        axis_angle_to_matrix(torch.zeros(2, 4))
    with pytest.raises(Exception, match="Type-check error"):
        project(torch.zeros(2, 5, 3), torch.zeros(3, 3, 3))  # two batch sizes
    with pytest.raises(Exception, match="Type-check error"):
        Camera(torch.zeros(1, 3, 4), (4, 4))


@checked
def test_an_integer_serves_as_a_float() -> None:
    assert Camera.from_focal(500, (4, 6)).size == (4, 6)
