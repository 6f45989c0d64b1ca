"""Distances: exact ones against closed forms, grids against the exact ones, on whole and on damaged meshes."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from horefine.distance import (
    DistanceGrid,
    build_grid,
    cached_grid,
    closest_points,
    is_closed,
    signed_distance,
    winding_number,
)
from horefine.object_meshing import box, lathe


def sphere(radius: float = 0.05, length: float = 0.003):
    turn = np.linspace(0, np.pi, 40)
    vertices, faces = lathe([(radius * np.sin(a), -radius * np.cos(a)) for a in turn], length)
    return vertices, faces


def can():
    return lathe([(0, -0.051), (0.0335, -0.051), (0.0335, 0.051), (0, 0.051)], 0.007)


def around(vertices: np.ndarray, count: int = 4000, reach: float = 0.006) -> np.ndarray:
    """Points scattered about the surface's vertices."""
    rng = np.random.default_rng(0)
    return vertices[rng.integers(len(vertices), size=count)] + rng.normal(size=(count, 3)) * reach


def errors(mesh, truth, points) -> dict[str, float]:
    """Millimetres and shares: grid of ``mesh`` against true signed distances at points inside the grid."""
    grid = build_grid(*mesh)
    last = (grid.values.shape[-1] - 1) * grid.spacing.item()
    origin = grid.origin.numpy()[0]
    keep = ((points > origin) & (points < origin + last)).all(1)
    found = grid.sample(torch.tensor(points[keep], dtype=torch.float32)[None])[0].numpy()
    true = truth[keep]
    wrong = (found < 0) != (true < 0)
    return {
        "mean": 1e3 * np.abs(found - true).mean(),
        "worst": 1e3 * np.abs(found - true).max(),
        "wrong": wrong.mean(),
        "wrong_far": (wrong & (np.abs(true) > 1e-3)).mean(),
    }


def box_distance(points: np.ndarray, size) -> np.ndarray:
    q = np.abs(points) - np.array(size) / 2
    return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(1), 0)


def test_exact_distance_to_a_box():
    size = (0.08, 0.05, 0.12)
    points = np.random.default_rng(1).uniform(-0.1, 0.1, (3000, 3))
    np.testing.assert_allclose(signed_distance(points, *box(size, 0.01)), box_distance(points, size), atol=1e-12)


def test_closest_points_lie_on_the_named_face_at_the_named_distance():
    vertices, faces = can()
    points = np.random.default_rng(2).uniform(-0.08, 0.08, (500, 3))
    distance, nearest, face = closest_points(points, vertices, faces)
    np.testing.assert_allclose(np.linalg.norm(points - nearest, axis=1), distance, atol=1e-12)
    corners = vertices[faces[face]]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    np.testing.assert_allclose(
        ((nearest - corners[:, 0]) * normal).sum(1) / np.linalg.norm(normal, axis=1), 0, atol=1e-9
    )
    every = np.linalg.norm(points[:, None] - vertices[None], axis=-1).min(1)
    assert (distance <= every + 1e-12).all()


def test_one_triangle_by_hand():
    vertices, faces = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), np.array([[0, 1, 2]])
    points = np.array([[0.2, 0.2, 3.0], [-3, -4, 0], [2, 0, 0], [1, 1, 0], [0.5, -2, 0]])
    expected = [3, 5, 1, np.sqrt(0.5), 2]
    np.testing.assert_allclose(closest_points(points, vertices, faces)[0], expected, atol=1e-12)


def test_winding_number_is_one_inside_and_zero_outside():
    points = np.array([[0, 0, 0], [0.02, 0.01, 0.04], [0.05, 0, 0], [0, 0, 0.06], [0.5, 0.5, 0.5]])
    np.testing.assert_allclose(winding_number(points, *can()), [1, 1, 0, 0, 0], atol=0.02)


@pytest.mark.parametrize(
    ("name", "mesh", "truth"),
    [
        ("sphere", sphere(length=0.0015), lambda p: np.linalg.norm(p, axis=1) - 0.05),
        ("box", box((0.08, 0.05, 0.12), 0.01), lambda p: box_distance(p, (0.08, 0.05, 0.12))),
    ],
)
def test_grid_against_closed_forms(name, mesh, truth):
    points = around(mesh[0])
    measured = errors(mesh, truth(points), points)
    assert measured["mean"] < 0.1, (name, measured)
    assert measured["wrong_far"] == 0, (name, measured)


def bowl():
    outer, inner = [(0, -0.03), (0.04, -0.03), (0.07, 0.03)], [(0.0655, 0.03), (0.037, -0.0255), (0, -0.0255)]
    return lathe(outer + inner, 0.006)


@pytest.mark.parametrize(("name", "mesh"), [("can", can()), ("thin bowl", bowl())])
def test_grid_against_exact_distances(name, mesh):
    points = around(mesh[0])
    measured = errors(mesh, signed_distance(points, *mesh), points)
    assert measured["mean"] < 0.1, (name, measured)
    assert measured["wrong_far"] == 0, (name, measured)


def _without_cap(vertices, faces, rng):
    return vertices, faces[vertices[faces].mean(1)[:, 2] < 0.0505]


def _torn(vertices, faces, rng):
    return vertices, faces[rng.random(len(faces)) > 0.03]


def _soup(vertices, faces, rng):
    corners = vertices[faces].reshape(-1, 3)
    return corners + rng.normal(size=corners.shape) * 5e-5, np.arange(len(corners)).reshape(-1, 3)


@pytest.mark.parametrize("damage", [_without_cap, _torn, _soup])
def test_grid_of_a_damaged_mesh_is_near_the_whole_one(damage):
    whole = can()
    points = around(whole[0])
    mesh = damage(*whole, np.random.default_rng(3))
    assert not is_closed(mesh[1])
    measured = errors(mesh, signed_distance(points, *whole), points)
    assert measured["mean"] < 0.1, measured
    assert measured["worst"] < 2.0, measured
    assert measured["wrong_far"] < 1e-3, measured


def test_sampling_is_exact_for_a_linear_field_and_so_is_its_gradient():
    nodes = torch.stack(torch.meshgrid(*[torch.arange(8.0, dtype=torch.float64)] * 3, indexing="ij"), -1)
    slope = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    origin = torch.tensor([[0.1, -0.2, 0.3]], dtype=torch.float64)
    values = ((nodes * 0.5 + origin) @ slope)[None]
    grid = DistanceGrid(values, origin, torch.tensor([0.5], dtype=torch.float64))
    points = (origin + torch.rand(50, 3, dtype=torch.float64) * 3.4)[None].requires_grad_()
    sampled = grid.sample(points)
    torch.testing.assert_close(sampled, points.detach() @ slope)
    (gradient,) = torch.autograd.grad(sampled.sum(), points)
    torch.testing.assert_close(gradient, slope.expand_as(gradient))


def test_sampling_gradient_matches_finite_differences_inside_and_outside():
    grid = build_grid(*can(), 24).to(torch.float64)
    points = torch.tensor([[[0.01, 0.02, 0.03], [0.0301, 0.0101, 0.0213], [0.2, 0.01, 0.0], [0.2, -0.3, 0.4]]])
    assert torch.autograd.gradcheck(grid.sample, points.double().requires_grad_())


def test_outside_the_grid_is_the_border_value_plus_the_way_to_it():
    grid = build_grid(*sphere(), 32)
    border = grid.origin[0] + torch.tensor([31.0, 15.5, 15.5]) * grid.spacing
    far = border + torch.tensor([0.3, 0, 0])
    values = grid.sample(torch.stack([border, far])[None])[0]
    torch.testing.assert_close(values[1], values[0] + 0.3)
    assert values[1].item() == pytest.approx(0.05 * 0.3 + 0.3, abs=1e-3)


def test_a_grid_is_the_same_alone_and_in_a_batch():
    a, b = build_grid(*can(), 24), build_grid(*sphere(), 24)
    both = DistanceGrid.cat([a, b])
    points = torch.rand(2, 40, 3) * 0.2 - 0.1
    expected = torch.cat([a.sample(points[:1]), b.sample(points[1:])])
    torch.testing.assert_close(both.sample(points), expected)
    torch.testing.assert_close(both[1].sample(points[1:]), expected[1:])


def test_cache_is_used_and_rebuilt_when_damaged(tmp_path, caplog, monkeypatch):
    mesh = can()
    first = cached_grid(*mesh, 16, directory=tmp_path)
    (path,) = tmp_path.iterdir()
    monkeypatch.setattr("horefine.distance.build_grid", None)  # a second call must not build
    torch.testing.assert_close(cached_grid(*mesh, 16, directory=tmp_path).values, first.values)
    monkeypatch.undo()
    path.write_bytes(path.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING):
        again = cached_grid(*mesh, 16, directory=tmp_path)
    assert "damaged" in caplog.text
    torch.testing.assert_close(again.values, first.values)
    assert cached_grid(*mesh, 20, directory=tmp_path).values.shape[-1] == 20


def test_cache_that_cannot_be_written_is_said_and_survived(tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        grid = cached_grid(*can(), 8, directory=tmp_path / "file" / "under")
    assert "could not be written" in caplog.text
    assert grid.values.shape == (1, 8, 8, 8)


@pytest.mark.parametrize(
    ("vertices", "faces", "message"),
    [
        (np.zeros((3, 3)), np.zeros((0, 3), int), "has none"),
        (np.zeros((3, 3)), np.array([[0, 1, 3]]), "vertex 3 is named but there are 3"),
        (np.array([[0, 0, 0], [1, 0, 0], [0, np.nan, 0]]), np.array([[0, 1, 2]]), "not finite"),
    ],
)
def test_meshes_without_a_distance_are_refused(vertices, faces, message):
    with pytest.raises(ValueError, match=message):
        build_grid(vertices, faces)
