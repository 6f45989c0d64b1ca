"""Surfaces on the published lattices: gSDF's recorded meshes, C2F-SDF's recorded points, and what their faults do."""

from __future__ import annotations

import dataclasses
import logging
import math

import numpy as np
import pytest
import torch
from oracles import load
from scipy.spatial import KDTree
from torch import Tensor

from horefine.errors import SurfaceError
from horefine.extractors import surface_official
from horefine.extractors.c2f_sdf_cells import Cells
from horefine.extractors.surface import Surface
from horefine.extractors.surface_official import (
    PUBLISHED,
    Cube,
    Faults,
    cell_surface,
    cube_surfaces,
    in_camera,
    refined_cube,
)


def recorded_fields() -> dict[str, surface_official.Field]:
    """The ellipsoids with which gSDF's extraction was recorded."""
    o = load("surface_official")

    def field(center: np.ndarray, radius: float) -> surface_official.Field:
        scale, middle = torch.tensor(o.mesh_axis_scale), torch.tensor(center)
        return lambda points: ((points - middle) * scale).norm(dim=-1) - radius

    return {
        "hand": field(o.mesh_hand_center, float(o.mesh_hand_radius)),
        "obj": field(o.mesh_obj_center, float(o.mesh_obj_radius)),
    }


def sphere(radius: float, center: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> surface_official.Field:
    return lambda points: (points - torch.tensor(center)).norm(dim=-1) - radius


@pytest.mark.parametrize("method", ["dense", "sparse"])
def test_meshes_equal_the_recorded_ones(method: str) -> None:
    o = load("surface_official")
    found = cube_surfaces(recorded_fields(), int(o.mesh_N), rotation=o.mesh_cam_R, faults=PUBLISHED, method=method)
    for name, surface in found.items():
        assert len(surface.faces) == int(getattr(o, f"mesh_{name}_nfaces"))
        np.testing.assert_allclose(surface.vertices, getattr(o, f"mesh_{name}_verts"), atol=1.5e-5)


@pytest.mark.parametrize("fault", [f.name for f in dataclasses.fields(Faults)])
def test_each_fault_shows_in_the_recorded_meshes(fault: str) -> None:
    """Without it the numbers are others. What an absent part does shows only where one is absent (below)."""
    o = load("surface_official")
    without = dataclasses.replace(PUBLISHED, **{fault: False})
    found = cube_surfaces(recorded_fields(), int(o.mesh_N), rotation=o.mesh_cam_R, faults=without)["hand"]
    same = found.vertices.shape == o.mesh_hand_verts.shape and np.allclose(found.vertices, o.mesh_hand_verts, atol=1e-3)
    assert same == (fault == "absent_at_zero")


def test_the_smaller_cube_equals_the_recorded_one() -> None:
    o = load("surface_official")
    whole = Cube.whole(int(o.mesh_N))
    places = whole.places(np.arange(whole.count**3), sheared=True)
    inside = [(field(places) < 0).view((whole.count,) * 3).numpy() for field in recorded_fields().values()]
    cube = refined_cube(whole, inside, absent_at_zero=True)
    assert cube.spacing == pytest.approx(float(o.mesh_hr_voxel), abs=1e-7)
    np.testing.assert_allclose(cube.origin, o.mesh_hr_origin, atol=1e-6)


def test_without_faults_the_surface_is_where_it_is_in_metres() -> None:
    """Half a spacing of the whole cube would be 2.2 mm here; the shear alone moves it by more than that."""
    scale, wrist, center = 3.1, np.array([0.02, -0.03, 0.7]), (0.12, -0.2, 0.31)
    turn = torch.linalg.matrix_exp(torch.tensor([[0.0, -0.2, 0.1], [0.2, 0, -0.3], [-0.1, 0.3, 0]])).double().numpy()
    fields = {"hand": sphere(0.2, (-0.1, 0.1, 0.0)), "object": sphere(0.1, center)}
    true = turn @ (np.array(center) / scale + wrist)
    for method, share in (("dense", 1.0), ("sparse", 0.12)):
        found = in_camera(cube_surfaces(fields, 64, method=method)["object"], scale, wrist, turn)
        away = np.linalg.norm(found.vertices - true, axis=1) - 0.1 / scale
        assert np.abs(away).max() < 5e-5
        assert found.queries <= share * 2 * 64**3
    wrong = in_camera(cube_surfaces(fields, 64, faults=Faults(sheared=True))["object"], scale, wrist, turn)
    assert np.abs(np.linalg.norm(wrong.vertices - true, axis=1) - 0.1 / scale).max() > 1e-3


@pytest.mark.parametrize("faults", [Faults(), PUBLISHED])
def test_sparse_is_dense_on_both_lattices(faults: Faults) -> None:
    fields = recorded_fields()
    both = [cube_surfaces(fields, 70, faults=faults, method=method) for method in ("dense", "sparse")]
    for name in fields:
        assert np.array_equal(both[0][name].vertices, both[1][name].vertices)
        assert both[1][name].queries < 0.2 * both[0][name].queries


def test_a_part_that_is_not_there_is_said_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    fields = {"hand": sphere(0.2, (0.4, 0.4, 0.4)), "object": lambda points: points.norm(dim=-1) + 0.1}
    with caplog.at_level(logging.WARNING, "horefine"):
        found = cube_surfaces(fields, 48)
    assert set(found) == {"hand"} and "object: no surface" in caplog.text
    assert np.abs(np.linalg.norm(found["hand"].vertices - 0.4, axis=1) - 0.2).max() < 2e-4
    # published: the absent part pulls the smaller cube to the corner, so the hand is seen less finely
    coarse = cube_surfaces(fields, 48, faults=Faults(absent_at_zero=True))
    assert len(coarse["hand"].vertices) < 0.5 * len(found["hand"].vertices)
    with pytest.raises(SurfaceError, match="nothing in the cube"):
        cube_surfaces({"object": fields["object"]}, 20)


def cells_of_record() -> Cells:
    o = load("surface_official")
    x, y, z = ((o.ser_origin + 1) * 16).round().astype(int).tolist()
    return Cells(torch.tensor(o.ser_cell_index, dtype=torch.int64), (x, y, z), int(o.ser_hm_size), 32, int(o.ser_sub))


def test_cells_are_asked_where_the_published_code_asks() -> None:
    o, cells, asked = load("surface_official"), cells_of_record(), []
    center = (torch.tensor(o.ser_origin) + cells.side / cells.bins).tolist()

    def field(points: Tensor) -> Tensor:
        asked.append(points)
        return sphere(0.25, tuple(center))(points)

    found = cell_surface(field, cells, lattice="sheared", follow=False)
    places = torch.cat(asked)
    assert len(places) == found.queries == int(o.ser_n_query)
    assert KDTree(places.double().numpy()).query(o.ser_query_xyz)[0].max() < 1e-6
    regular = Cube(o.ser_origin.astype(np.float64), cells.step, cells.count).places(cells.nodes().numpy())
    assert KDTree(regular.double().numpy()).query(o.ser_query_xyz)[0].max() > 1e-3


def shell(side: int = 12, bins: int = 32, sub: int = 4, half: bool = False) -> Cells:
    """Cells of a cut from -0.375 to 0.375 that a sphere of radius 0.25 about the middle passes; or of its x < 0."""
    places = (torch.stack(torch.meshgrid(*[torch.arange(side)] * 3, indexing="ij"), -1) + 0.5) / bins * 2 - side / bins
    near = (places.norm(dim=-1) - 0.25).abs() < 0.075
    chosen = near & (places[..., 0] < 0) if half else near
    return Cells(chosen.flatten().nonzero()[:, 0], (10, 10, 10), side, bins, sub)


def radius_error(surface: Surface) -> float:
    return float(np.abs(np.linalg.norm(surface.vertices, axis=1) - 0.25).max())


def test_cells_give_the_surface_that_passes_them() -> None:
    cells = shell()
    found = cell_surface(sphere(0.25), cells, batch=1000)
    assert radius_error(found) < 2e-4
    a, b, c = (found.vertices[found.faces[:, corner]].astype(np.float64) for corner in range(3))
    assert (a * np.cross(b, c)).sum() / 6 == pytest.approx(4 / 3 * math.pi * 0.25**3, rel=5e-3)
    sheared = cell_surface(sphere(0.25), cells, lattice="sheared")
    assert radius_error(sheared) > 5 * radius_error(found)


def test_where_the_surface_leaves_the_cells_it_is_followed() -> None:
    """As published, the missing half counts as outside, and the cells' border becomes a false surface."""
    cells = shell(half=True)
    followed = cell_surface(sphere(0.25), cells)
    assert radius_error(followed) < 2e-4 and followed.queries > len(cells.nodes())
    published = cell_surface(sphere(0.25), cells, follow=False)
    assert radius_error(published) > 0.05 and published.queries == len(cells.nodes())


def test_bad_values_and_names_are_refused() -> None:
    with pytest.raises(SurfaceError, match="not finite"):
        cell_surface(lambda points: points[:, 0] * torch.nan, shell())
    with pytest.raises(ValueError, match="lattice is 'bent'; known: sheared, regular"):
        cell_surface(sphere(0.25), shell(), lattice="bent")
