"""Meshes: batches with padding, normalised coordinates, loading files good and bad, repair."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from horefine import repair
from horefine.distance import is_closed
from horefine.errors import AssetError
from horefine.mesh import Mesh, MeshError
from horefine.object_meshing import box, lathe


def can(radius: float = 0.0335, half: float = 0.051, length: float = 0.007):
    return lathe([(0, -half), (radius, -half), (radius, half), (0, half)], length)


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def save(path, vertices, faces, **more):
    trimesh.Trimesh(vertices, faces, process=False, **more).export(path)
    return path


def arrays(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    vertices, faces = mesh.trimmed()
    return vertices.double().numpy(), faces.numpy()


# batches


@pytest.fixture()
def pair() -> Mesh:
    small, large = box((0.1, 0.06, 0.2), 0.03), can()
    return Mesh.cat([Mesh.from_arrays(*small, name="box"), Mesh.from_arrays(*large, name="can")])


def test_padding_repeats_the_last_vertex_and_ends_with_degenerate_faces(pair):
    small = box((0.1, 0.06, 0.2), 0.03)
    vertex_count, face_count = pair.counts[0].tolist()
    assert (vertex_count, face_count) == (len(small[0]), len(small[1])) and vertex_count < pair.vertices.shape[1]
    assert (pair.vertices[0, vertex_count:] == pair.vertices[0, vertex_count - 1]).all()
    assert (pair.faces[0, face_count:] == 0).all() and pair.faces.dtype == torch.int64
    np.testing.assert_allclose(pair.trimmed(0)[0].numpy(), small[0].astype(np.float32))
    assert pair[1].name == ("can",) and pair[torch.tensor([1, 0])].name == ("can", "box")
    assert pair.vertex_mask.sum(1).tolist() == pair.counts[:, 0].tolist()


def test_center_scale_and_codes(pair):
    shifted = Mesh(pair.vertices + torch.tensor([0.3, -0.1, 0.5]), pair.faces, counts=pair.counts)
    torch.testing.assert_close(shifted.center, torch.tensor([[0.3, -0.1, 0.5]] * 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(shifted.scale, torch.tensor([0.2, 0.102]), atol=1e-6, rtol=0)
    assert shifted.codes.min() > -1e-5 and shifted.codes.max() < 1 + 1e-5
    torch.testing.assert_close(shifted.codes[0].amax(0), torch.tensor([0.75, 0.65, 1.0]), atol=1e-5, rtol=0)


def test_normals_are_outward_units_also_of_padding(pair):
    torch.testing.assert_close(pair.normals.norm(dim=-1), torch.ones(pair.vertices.shape[:2]))
    assert ((pair.normals * pair.vertices).sum(-1) > 0).all()
    side = (pair.vertices[1, :, 2].abs() < 0.04) & (pair.vertices[1, :, :2].norm(dim=-1) > 0.033)
    radial = torch.nn.functional.normalize(pair.vertices[1, side] * torch.tensor([1.0, 1.0, 0.0]), dim=-1)
    assert side.sum() > 100 and (pair.normals[1, side] * radial).sum(-1).min() > 0.98


def test_distance_builds_a_grid_when_there_is_none(pair):
    points = torch.tensor([[[0.0, 0.02, 0.0], [0.06, 0.0, 0.0]], [[0.02, 0.0, 0.0], [0.0435, 0.0, 0.0]]])
    expected = torch.tensor([[-0.01, 0.01], [-0.0135, 0.01]])
    torch.testing.assert_close(pair.distance(points), expected, atol=6e-4, rtol=0)
    torch.testing.assert_close(pair.with_sdf()[1].distance(points[1:]), pair.distance(points)[1:])


def test_colours_of_some_are_grey_for_the_others():
    colored = Mesh.from_arrays(*can(), colors=np.tile([1.0, 0, 0], (len(can()[0]), 1)))
    both = Mesh.cat([colored, Mesh.from_arrays(*box((0.1, 0.1, 0.1), 0.05))])
    assert both.colors is not None
    assert both.colors[0, 0].tolist() == [1, 0, 0] and both.colors[1, 0].tolist() == [0.5] * 3


def test_to_changes_reals_only(pair):
    double = pair.to(torch.float64)
    assert double.vertices.dtype == torch.float64 and double.faces.dtype == torch.int64


# loading


@pytest.mark.parametrize("ending", ["obj", "ply", "glb", "stl", "off"])
def test_every_format_gives_the_same_closed_mesh(tmp_path, ending):
    mesh, report = Mesh.load(save(tmp_path / f"can.{ending}", *can()))
    vertices, faces = arrays(mesh)
    assert report.closed and report.unit == "m" and report.turned == 0 and mesh.name == ("can",)
    assert len(vertices) == len(can()[0]) and len(faces) == len(can()[1])
    assert volume(vertices, faces) == pytest.approx(volume(*can()), rel=1e-4)


@pytest.mark.parametrize(("factor", "unit"), [(1, "m"), (100, "cm"), (1000, "mm")])
def test_units_are_recognised_by_size_and_said(tmp_path, caplog, factor, unit):
    vertices, faces = can()
    with caplog.at_level(logging.INFO):
        mesh, report = Mesh.load(save(tmp_path / "can.ply", vertices * factor, faces))
    assert report.unit == unit and not report.given
    assert mesh.scale.item() == pytest.approx(0.102, rel=1e-4)
    assert f"unit {unit}" in "\n".join(report.lines()) and f"unit {unit}" in caplog.text
    assert any(record.levelno == logging.WARNING for record in caplog.records) == (unit != "m")


@pytest.mark.parametrize(
    ("size", "words"),
    [(0.7, "0.7 is 2 to 40 cm in none"), (900.0, "900 is"), (30.0, "unit=cm or unit=mm"), (0.004, "0.004")],
)
def test_sizes_that_fit_no_unit_or_two_are_refused_with_the_way_out(tmp_path, size, words):
    vertices, faces = can()
    path = save(tmp_path / "thing.ply", vertices / 0.102 * size, faces)
    with pytest.raises(MeshError, match=words) as caught:
        Mesh.load(path)
    assert "unit=" in str(caught.value) and "thing.ply" in str(caught.value)
    assert Mesh.load(path, unit="mm")[0].scale.item() == pytest.approx(size / 1000, rel=1e-4)


def test_an_unknown_unit_is_refused(tmp_path):
    with pytest.raises(MeshError, match="unit 'furlong' is not known; use auto, m, cm, mm, in"):
        Mesh.load(save(tmp_path / "can.ply", *can()), unit="furlong")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("text.ply", "hello\n", "cannot be read as .ply"),
        ("cut.obj", "v 0 0 0\nv 0.1 0 0\nv 0 0.1 0\nf 1 2 3\nf 1 2 9\n", "cannot be read as .obj"),
        ("vertices.obj", "v 0 0 0\nv 0.1 0 0\nv 0 0.1", "no faces|cannot be read"),
        ("empty.obj", "", "has nothing in it"),
        ("empty.stl", "", "cannot be read|has nothing"),
        ("thing.fbx", "x", "format '.fbx' is not read; use .obj"),
        ("broken.glb", "glTF", "cannot be read as .glb"),
        ("nan.obj", "v 0 0 0\nv 0.1 0 nan\nv 0 0.1 0\nf 1 2 3\n", "1 of 3 vertices are not finite"),
        ("line.obj", "v 0 0 0\nv 0.1 0 0\nv 0.1 0 0\nf 1 2 3\n", "all 1 faces are without area"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(MeshError, match=words) as caught:
        Mesh.load(tmp_path / name)
    assert name in str(caught.value)


def test_a_point_cloud_and_a_missing_file_are_refused(tmp_path):
    trimesh.PointCloud(np.random.default_rng(0).random((10, 3))).export(tmp_path / "points.ply")
    with pytest.raises(MeshError, match="10 points but no faces"):
        Mesh.load(tmp_path / "points.ply")
    with pytest.raises(AssetError, match="no such mesh"):
        Mesh.load(tmp_path / "nowhere.obj")


def test_flipped_faces_are_turned_and_an_inverted_mesh_too(tmp_path):
    vertices, faces = can()
    chosen = np.random.default_rng(0).random(len(faces)) < 0.1
    mixed = np.where(chosen[:, None], faces[:, ::-1], faces)
    for given, count in ((mixed, chosen.sum()), (faces[:, ::-1], len(faces)), (mixed[:, ::-1], (~chosen).sum())):
        mesh, report = Mesh.load(save(tmp_path / "can.ply", vertices, given))
        assert report.turned == count and report.closed
        assert volume(*arrays(mesh)) == pytest.approx(volume(vertices, faces), rel=1e-4)


def test_loose_triangles_are_welded(tmp_path):
    vertices, faces = can()
    mesh, report = Mesh.load(
        save(tmp_path / "soup.ply", vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3))
    )
    assert report.closed and report.merged == 3 * len(faces) - len(vertices)
    jittered = vertices[faces].reshape(-1, 3) + np.random.default_rng(0).uniform(-1, 1, (3 * len(faces), 3)) * 2e-5
    mesh, report = Mesh.load(save(tmp_path / "soup.ply", jittered, np.arange(3 * len(faces)).reshape(-1, 3)))
    assert report.closed and mesh.counts.tolist() == [[len(vertices), len(faces)]]


def test_small_holes_are_filled_and_large_ones_said(tmp_path, caplog):
    vertices, faces = can()
    mesh, report = Mesh.load(save(tmp_path / "hole.ply", vertices, np.delete(faces, [300, 500, 501], axis=0)))
    assert report.filled >= 2 and report.closed and report.open_loops == 0
    assert volume(*arrays(mesh)) == pytest.approx(volume(vertices, faces), rel=1e-3)
    top = vertices[faces].mean(1)[:, 2] > 0.0505
    with caplog.at_level(logging.WARNING):
        mesh, report = Mesh.load(save(tmp_path / "open.ply", vertices, faces[~top]))
    assert report.open_loops == 1 and not report.closed and "1 holes are left open" in caplog.text
    inside_outside = mesh.distance(torch.tensor([[[0.02, 0, 0], [0, 0, 0.045], [0, 0, 0.06], [0.05, 0, 0]]]))[0]
    torch.testing.assert_close(inside_outside, torch.tensor([-0.0135, -0.006, 0.009, 0.0165]), atol=6e-4, rtol=0)


def test_two_parts_and_repeated_and_degenerate_faces(tmp_path):
    vertices, faces = can()
    both = np.concatenate([vertices, vertices + np.array([0.1, 0, 0])])
    second = faces[:, ::-1] + len(vertices)  # inside out
    extra = np.array([[0, 0, 1], [*faces[5]], [*faces[6][::-1]]])
    mesh, report = Mesh.load(save(tmp_path / "two.ply", both, np.concatenate([faces, second, extra])))
    assert report.dropped == 3 and report.turned == len(faces)
    assert volume(*arrays(mesh)) == pytest.approx(2 * volume(vertices, faces), rel=1e-4)


def test_a_cavity_stays_a_cavity():
    outer, inner = can(), can(0.02, 0.03)
    vertices = np.concatenate([outer[0], inner[0]])
    faces = np.concatenate([outer[1], inner[1][:, ::-1] + len(outer[0])])
    for given in (faces, faces[:, ::-1]):
        oriented, _ = repair.orient(vertices, given)
        assert volume(vertices, oriented) == pytest.approx(volume(*outer) - volume(*inner), rel=1e-9)


def test_a_scene_of_moved_parts_is_joined(tmp_path):
    scene = trimesh.Scene()
    part = trimesh.Trimesh(*can(length=0.01), process=False)
    mirrored = np.diag([-1.0, 1, 1, 1])
    mirrored[0, 3] = 0.1
    scene.add_geometry(part)
    scene.add_geometry(part, transform=mirrored)
    scene.export(tmp_path / "scene.glb")
    mesh, report = Mesh.load(tmp_path / "scene.glb")
    assert report.parts == 2 and report.turned == 0
    assert mesh.scale.item() == pytest.approx(0.167, abs=1e-3)
    assert volume(*arrays(mesh)) == pytest.approx(2 * part.volume, rel=1e-4)


def test_texture_seams_are_merged_and_colours_read_in_linear_light(tmp_path):
    vertices, faces = box((0.1, 0.1, 0.1), 0.01)
    corners = vertices[faces].reshape(-1, 3)  # every triangle apart, as along seams
    image = Image.fromarray(np.repeat(np.array([[[255, 0, 0]], [[0, 0, 188]]], np.uint8), 8, axis=0).repeat(4, axis=1))
    uv = np.stack([np.full(len(corners), 0.5), corners[:, 2] / 0.1 + 0.5], 1)  # v up: red is the top half
    visual = trimesh.visual.TextureVisuals(uv=uv, image=image)
    trimesh.Trimesh(corners, np.arange(len(corners)).reshape(-1, 3), visual=visual, process=False).export(
        tmp_path / "b.obj"
    )
    mesh, report = Mesh.load(tmp_path / "b.obj")
    assert report.colors == "texture" and report.merged == len(corners) - len(vertices) and mesh.colors is not None
    top, bottom = mesh.colors[0][mesh.vertices[0, :, 2] > 0.02], mesh.colors[0][mesh.vertices[0, :, 2] < -0.02]
    torch.testing.assert_close(top, torch.tensor([1.0, 0, 0]).expand_as(top))
    torch.testing.assert_close(bottom, torch.tensor([0, 0, 0.5029]).expand_as(bottom), atol=1e-3, rtol=0)


def test_vertex_colours(tmp_path):
    vertices, faces = can()
    colors = np.zeros((len(vertices), 4), np.uint8)
    colors[:, 1] = np.where(vertices[:, 2] > 0, 255, 0)
    mesh, report = Mesh.load(save(tmp_path / "can.ply", vertices, faces, vertex_colors=colors))
    assert report.colors == "vertices" and mesh.colors is not None
    torch.testing.assert_close(mesh.colors[0, :, 1], (mesh.vertices[0, :, 2] > 0).float())


def test_many_faces_are_simplified_and_few_subdivided(tmp_path):
    vertices, faces = can(length=0.0035)
    assert len(faces) > 4000
    mesh, report = Mesh.load(save(tmp_path / "fine.ply", vertices, faces), max_faces=4000)
    assert "simplified" in report.changed and 500 < report.faces[1] <= 1000
    assert volume(*arrays(mesh)) == pytest.approx(volume(vertices, faces), rel=0.03)
    coarse = trimesh.creation.box((0.08, 0.05, 0.2))
    mesh, report = Mesh.load(save(tmp_path / "box.stl", coarse.vertices, coarse.faces))
    vertices, faces = arrays(mesh)
    assert "subdivided" in report.changed and report.closed and is_closed(faces)
    assert volume(vertices, faces) == pytest.approx(8e-4, rel=1e-5)
    longest = np.linalg.norm(vertices[faces] - vertices[np.roll(faces, 1, axis=1)], axis=-1).max()
    assert longest < 0.08 * 0.2 + 1e-9


def test_subdividing_keeps_the_surface():
    tetrahedron = (
        np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]]),
        np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]),
    )
    for longest in (1.2, 0.9, 0.3):  # some and all edges cut
        vertices, faces = repair.subdivide(*tetrahedron, longest, 10_000)
        assert is_closed(faces) and volume(vertices, faces) == pytest.approx(1 / 6)
        areas = np.linalg.norm(np.cross(*np.diff(vertices[faces], axis=1).swapaxes(0, 1)), axis=1) / 2
        assert areas.sum() == pytest.approx(1.5 + math.sqrt(3) / 2) and areas.min() > 0
