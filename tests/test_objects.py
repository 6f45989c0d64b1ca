"""Embedded objects: sound meshes of real size, textures that show every rotation, seeds, caching."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from horefine import object_meshing, objects, repair
from horefine.distance import is_closed
from horefine.errors import InputError
from horefine.mesh import Mesh
from horefine.object_meshing import bridge, contour, lathe, remesh
from horefine.objects import OBJECTS, embedded_object, object_texture

GENUS = {"mug": 1, "scissors": 2}


@pytest.fixture(scope="module", autouse=True)
def shared_cache(tmp_path_factory):
    """One fresh cache for this file, so that nothing made by older code is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        embedded_object.cache_clear()
        yield


def shape(name: str) -> tuple[np.ndarray, np.ndarray]:
    vertices, faces = embedded_object(name).trimmed()
    return vertices.double().numpy(), faces.numpy()


def genus(vertices: np.ndarray, faces: np.ndarray) -> float:
    edges, _, _ = repair.edge_table(faces)
    return (2 - (len(vertices) - len(edges) + len(faces))) / 2


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def surface_points(name: str, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points spread evenly over an object and the normals of their faces."""
    vertices, faces = shape(name)
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = np.linalg.norm(normals, axis=1)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(faces), count, p=areas / areas.sum())
    weights = rng.dirichlet([1, 1, 1], count)
    return (corners[chosen] * weights[..., None]).sum(1), normals[chosen] / areas[chosen, None]


def test_there_are_at_least_twelve_and_the_asked_for_ones():
    assert len(OBJECTS) >= 12
    assert {"box", "can", "bottle", "mug", "bowl", "marker", "banana", "drill", "clamp", "hammer"} <= set(OBJECTS)


@pytest.mark.parametrize("name", OBJECTS)
def test_mesh_is_closed_outward_in_one_part_and_of_real_size(name):
    vertices, faces = shape(name)
    _, place, _ = repair.edge_table(faces)
    assert is_closed(faces) and (np.bincount(place) == 2).all()
    assert repair.components(faces)[0] == 1 and genus(vertices, faces) == GENUS.get(name, 0)
    assert volume(vertices, faces) > 1e-5
    extents = np.ptp(vertices, axis=0)
    assert 0.02 <= extents.max() <= 0.30 and extents.min() > 0.009
    np.testing.assert_allclose(vertices.min(0) + vertices.max(0), 0, atol=1e-6)
    assert 450 <= len(vertices) <= 1500


@pytest.mark.parametrize("name", OBJECTS)
def test_triangles_are_even(name):
    vertices, faces = shape(name)
    edges, _, _ = repair.edge_table(faces)
    lengths = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1)
    assert lengths.std() / lengths.mean() < 0.3
    assert lengths.max() < 2.6 * lengths.mean() and lengths.max() < 0.021
    sides = [vertices[faces[:, (i + 1) % 3]] - vertices[faces[:, i]] for i in range(3)]
    cosines = [
        -(a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        for a, b in zip(sides, sides[1:] + sides[:1], strict=True)
    ]
    smallest = np.degrees(np.arccos(np.clip(cosines, -1, 1))).min(0)
    assert np.median(smallest) > 38 and (smallest < 15).mean() < 0.03


@pytest.mark.parametrize("name", OBJECTS)
def test_distance_grid_agrees_with_the_surface(name):
    mesh = embedded_object(name)
    points, normals = surface_points(name, 2000)
    assert mesh.sdf is not None
    on = mesh.distance(torch.tensor(points, dtype=torch.float32)[None])[0]
    assert on.abs().mean() < 5e-4
    for step in (-0.0015, 0.004):
        values = mesh.distance(torch.tensor(points + step * normals, dtype=torch.float32)[None])[0]
        assert (torch.sign(values) == np.sign(step)).float().mean() > 0.9


@pytest.mark.parametrize("name", OBJECTS)
def test_texture_is_an_albedo_and_varied_and_vertex_colours_are_its_mean(name):
    points, _ = surface_points(name, 3000)
    colors = object_texture(name, points)
    assert colors.shape == points.shape and colors.min() >= 0 and colors.max() <= 1
    assert colors.std(0).max() > 0.08
    mesh = embedded_object(name)
    assert mesh.colors is not None and 0 <= mesh.colors.min() and mesh.colors.max() <= 1
    assert np.abs(mesh.colors[0].mean(0).numpy() - colors.mean(0)).max() < 0.12


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("degrees", [40, 90, 180])
def test_texture_shows_a_turn_about_the_axis_from_every_side(name, degrees):
    """Seen from any side, an object and the same object turned about z differ in colour, whatever their shapes do."""
    points, normals = surface_points(name, 4000)
    turn = np.radians(degrees)
    back = np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    difference = np.abs(object_texture(name, points) - object_texture(name, points @ back.T)).max(1)
    for side in np.radians([0, 60, 120, 180, 240, 300]):
        seen = normals @ np.array([np.sin(side), -np.cos(side), 0.3]) > 0.2
        assert (difference[seen] > 0.1).mean() > 0.08


@pytest.mark.parametrize("name", OBJECTS)
def test_seeds_shift_colours_moderately_and_repeatably(name):
    points, _ = surface_points(name, 1000)
    base, other = object_texture(name, points), object_texture(name, points, seed=7)
    assert 0.003 < np.abs(base - other).mean() < 0.25
    np.testing.assert_array_equal(other, object_texture(name, points, seed=7))
    np.testing.assert_array_equal(base[:10], object_texture(name, points[:10]))


def test_objects_batch():
    batch = Mesh.cat([embedded_object(name) for name in ("can", "mug", "clamp")])
    assert batch.name == ("can", "mug", "clamp") and batch.sdf is not None and len(batch.sdf) == 3


def test_shapes_are_repeatable_and_come_from_the_cache_the_second_time(monkeypatch):
    first = shape("remote")
    again = objects.SHAPES["remote"]()
    np.testing.assert_allclose(again[0] - (again[0].min(0) + again[0].max(0)) / 2, first[0], atol=1e-7)
    np.testing.assert_array_equal(again[1], first[1])
    monkeypatch.setitem(objects.SHAPES, "remote", None)  # calling it would fail
    embedded_object.cache_clear()
    np.testing.assert_array_equal(shape("remote")[0], first[0])


@pytest.mark.parametrize("call", [embedded_object, lambda name: object_texture(name, np.zeros((1, 3)))])
def test_an_unknown_name_is_refused_with_a_suggestion(call):
    with pytest.raises(InputError, match=r"'hamer'.*did you mean 'hammer'"):
        call("hamer")


# the tools they are made with


def test_contour_and_remesh_of_a_ball():
    def ball(p: np.ndarray) -> np.ndarray:
        return np.linalg.norm(p, axis=1) - 0.04

    fine = contour(ball, np.full(3, -0.046), np.full(3, 0.046), 0.004)
    vertices, faces = remesh(ball, fine, 0.008)
    assert is_closed(faces) and genus(vertices, faces) == 0
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 0.04, atol=2e-4)
    edges, _, _ = repair.edge_table(faces)
    assert np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1).mean() == pytest.approx(
        0.008, rel=0.15
    )


def test_contour_and_remesh_keep_the_edges_of_a_cube():
    def cube(p: np.ndarray) -> np.ndarray:
        q = np.abs(p) - 0.03
        return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(1), 0)

    vertices, faces = remesh(cube, contour(cube, np.full(3, -0.0351), np.full(3, 0.0351), 0.0037), 0.008)
    assert volume(vertices, faces) == pytest.approx(0.06**3, rel=0.01)


def test_bridge_adds_a_handle():
    body = lathe([(0, -0.04), (0.03, -0.04), (0.03, 0.04), (0, 0.04)], 0.006)
    rings = []
    for turn in np.linspace(1.2, -1.2, 9):
        out, around = np.array([np.cos(turn), 0, np.sin(turn)]), 2 * np.pi * np.arange(6) / 6
        ring = 0.004 * (np.cos(around)[:, None] * out + np.sin(around)[:, None] * np.array([0, 1, 0]))
        rings.append(np.array([0.026, 0, 0]) + 0.024 * out + ring)
    vertices, faces = bridge(body, np.ones(len(body[0]), bool), rings, 0.009)
    assert is_closed(faces) and genus(vertices, faces) == 1 and repair.components(faces)[0] == 1
    assert volume(vertices, faces) > volume(*object_meshing.outward(*body))
