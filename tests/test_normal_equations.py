"""The normal equations summed observation by observation against all rows written out."""

import numpy as np
import pytest
import torch
from loss_scenes import DOUBLE, SQUARES, double_objective, double_scene, true_pose

from horefine.levenberg_marquardt import forms_of
from horefine.normal_equations import Workspace, _summed, _written_out

GROUPS = {
    "correspondences": ("surface_reprojection", "surface_depth", "shape_prior"),
    "pictures": ("rendered_code", "rendered_depth", "pose_prior"),
    "touch": ("spring_length", "penetration", "contact"),
}


def equations(way, names, wanted, work=None):
    """``J'J`` and ``J'r`` of three images."""
    scene = double_scene(true_pose().to(dtype=DOUBLE))
    terms = {name: SQUARES.get(name, {}) for name in names}
    forms = {name: form.freeze(scene) for name, form in forms_of(double_objective(terms), scene).items()}
    normal, right = np.full((3, 67, 67), 7.0), np.full((3, 67), 7.0)
    if way == "summed":
        rows = [row for form in forms.values() for row in form.rows(scene)]
        _summed(scene, rows, wanted, work or Workspace(), normal, right)
    else:
        by_form = {name: form.rows(scene) for name, form in forms.items()}
        _written_out(scene, forms, by_form, wanted, Workspace(), normal, right)
    return normal, right


@pytest.mark.parametrize("group", GROUPS)
def test_sums_are_the_product_of_all_rows(group):
    wanted = torch.ones(3, dtype=torch.bool)
    mine, twin = (equations(way, GROUPS[group], wanted) for way in ("summed", "written"))
    for a, b in zip(mine, twin, strict=True):
        assert np.abs(b).max() > 0
        assert np.allclose(a, b, rtol=1e-9, atol=1e-11 * np.abs(b).max())
    assert np.allclose(mine[0], mine[0].transpose(0, 2, 1))


def test_slopes_of_points_that_nobody_asked_for_do_not_matter():
    """The workspace holds numbers of the image before: here, none at all."""
    spoilt = Workspace()
    spoilt.reserve(0, 794)
    spoilt.jacobian[:] = np.nan
    for group in GROUPS.values():
        normal, right = equations("summed", group, torch.ones(3, dtype=torch.bool), spoilt)
        assert np.isfinite(normal).all() and np.isfinite(right).all()


def test_images_that_are_not_wanted_stay_as_they_were():
    normal, right = equations("summed", GROUPS["pictures"], torch.tensor([True, False, True]))
    assert (normal[1] == 7).all() and (right[1] == 7).all()
    assert not (normal[[0, 2]] == 7).any()
