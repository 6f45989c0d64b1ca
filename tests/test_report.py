"""Drawings, results on disk, foreign poses and maps, and the report that is made from files alone."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from horefine import draw, export, report
from horefine.batching import cat_features
from horefine.data.mirror import mirror_features
from horefine.errors import InputError
from horefine.exchange import read_features, read_pose
from horefine.extractors.surface import Surface
from horefine.geometry import Camera, axis_angle_to_matrix
from horefine.mesh import DistanceGrid, Mesh
from horefine.objects import embedded_object
from horefine.outcome import Outcome, row_of, write_item, write_summary
from horefine.scene import CONFIDENCES, Contact, Features
from horefine.surface_files import read_surfaces

CAMERA = np.array([[200.0, 0, 49.5], [0, 200, 39.5], [0, 0, 1]])
RED, BLUE = (0.9, 0.2, 0.2), (0.2, 0.3, 0.9)


def ball(x: float, z: float, color: tuple[float, float, float], radius: float = 0.05) -> draw.Surface:
    mesh = trimesh.creation.icosphere(3, radius)
    return draw.Surface(np.asarray(mesh.vertices) + np.array([x, 0, z]), np.asarray(mesh.faces), color)


# --- drawings ----------------------------------------------------------------------------------------------------


def test_the_nearer_surface_hides_the_other() -> None:
    near_red = draw.paint([ball(0, 0.5, RED), ball(0, 0.8, BLUE)], CAMERA, (80, 100))
    near_blue = draw.paint([ball(0, 0.8, RED), ball(0, 0.5, BLUE)], CAMERA, (80, 100))
    assert near_red.labels[120, 150] == 1 and near_blue.labels[120, 150] == 2
    assert set(np.unique(near_red.labels)) == {0, 1}  # the far ball is smaller in the picture, and wholly hidden
    assert near_red.color[40, 50, 0] > near_red.color[40, 50, 2]
    assert near_blue.color[40, 50, 2] > near_blue.color[40, 50, 0]


def test_a_ball_is_drawn_where_the_camera_sees_it() -> None:
    painting = draw.paint([ball(0.05, 0.5, RED)], CAMERA, (80, 100))
    rows, columns = np.nonzero(painting.alpha > 0.5)
    assert columns.mean() == pytest.approx(49.5 + 200 * 0.1, abs=0.5) and rows.mean() == pytest.approx(39.5, abs=0.3)
    radius = 200 * 0.05 / math.sqrt(0.5**2 - 0.05**2)  # of the silhouette cone, near enough on the axis
    assert painting.alpha.sum() == pytest.approx(math.pi * radius**2, rel=0.03)
    assert ((painting.alpha > 0.05) & (painting.alpha < 0.95)).any()  # smooth edges


def test_what_is_behind_the_camera_is_not_drawn() -> None:
    painting = draw.paint([ball(0, -0.5, RED)], CAMERA, (80, 100))
    assert painting.alpha.max() == 0
    photo = Image.new("RGB", (100, 80), (10, 200, 30))
    assert np.array_equal(np.asarray(draw.overlay(photo, painting)), np.asarray(photo))


def test_an_overlay_keeps_the_photo_beside_and_shows_it_through() -> None:
    photo = Image.new("RGB", (100, 80), (10, 200, 30))
    painting = draw.paint([ball(0, 0.5, RED)], CAMERA, (80, 100))
    shown = np.asarray(draw.overlay(photo, painting, 0.5))
    assert tuple(shown[0, 0]) == (10, 200, 30)
    assert shown[40, 50, 0] > 100 and shown[40, 50, 1] > 100  # red over green, half each


def test_an_outline_lies_on_the_silhouette_only() -> None:
    photo = Image.new("RGB", (100, 80), (120, 120, 120))
    surface = ball(0, 0.5, RED)
    painting = draw.paint([surface], CAMERA, (80, 100))
    changed = np.abs(np.asarray(draw.outline(photo, painting, [RED])).astype(int) - 120).max(-1) > 4
    distance = np.hypot(*np.mgrid[-39.5:40, -49.5:50])
    assert changed.any() and (np.abs(distance[changed] - 20) < 4).all()


def test_from_the_side_depth_becomes_width() -> None:
    long = trimesh.creation.box((0.02, 0.02, 0.2))
    surface = draw.Surface(np.asarray(long.vertices) + np.array([0, 0, 0.6]), np.asarray(long.faces), BLUE)
    picture = np.asarray(draw.side_view([surface], (90, 90))).astype(int)
    blue = picture[..., 2] - picture[..., 0] > 40
    rows, columns = np.nonzero(blue)
    assert np.ptp(columns) > 5 * np.ptp(rows) and 60 < np.ptp(columns) < 90


def test_the_view_holds_everything_and_stays_in_the_photo() -> None:
    points = np.array([[-0.02, -0.02, 0.5], [0.02, 0.03, 0.5]])
    x0, y0, x1, y1 = draw.view_box(points, CAMERA, (80, 100))
    pixels = points[:, :2] / 0.5 * 200 + [49.5, 39.5]
    assert x0 >= -0.5 and y0 >= -0.5 and x1 <= 99.5 and y1 <= 79.5 and x1 - x0 == pytest.approx(y1 - y0)
    assert x0 < pixels[:, 0].min() and x1 > pixels[:, 0].max() and y0 < pixels[:, 1].min() and y1 > pixels[:, 1].max()
    assert draw.view_box(np.array([[0, 0, -1.0]]), CAMERA, (80, 100)) == (-0.5, -0.5, 99.5, 79.5)


def test_a_cropped_photo_keeps_its_camera() -> None:
    photo = np.zeros((80, 100, 3))
    photo[30, 70] = 1
    point = np.array([(70 - 49.5) / 200 * 0.5, (30 - 39.5) / 200 * 0.5, 0.5])
    for box in ((49.5, 9.5, 89.5, 49.5), (-20.5, -20.5, 99.5, 99.5), (60.0, 20.0, 180.0, 140.0)):
        part, camera = draw.crop_photo(photo, CAMERA, box, 160)
        u, v = point[:2] / point[2] * [camera[0, 0], camera[1, 1]] + camera[:2, 2]
        bright = np.asarray(part).astype(float).sum(-1)
        bright[bright >= 3 * 127] -= 3 * 127 * (bright[bright >= 3 * 127] < 3 * 128)  # grey outside the photo
        row, column = np.unravel_index(bright.argmax(), bright.shape)
        assert (column, row) == (pytest.approx(u, abs=1.5), pytest.approx(v, abs=1.5)), box


def test_a_loss_chart_draws_every_curve_and_survives_gaps() -> None:
    steps = np.arange(50)
    late = np.where(steps < 20, np.nan, 3.0)
    history = {"total": 10.0 ** (-steps / 25), "late": late, "zero": np.zeros(50), "nan": np.full(50, np.nan)}
    picture = np.asarray(draw.loss_chart(history, 40)).astype(int)
    dark = (picture.sum(-1) < 250)[30:340, 70:350]
    assert dark.any(0).mean() > 0.9  # the total, all the way
    assert np.asarray(draw.loss_chart({"nan": np.full(3, np.nan)})).shape == picture.shape
    draw.loss_chart({"total": np.array([1.0])}, 0)


# --- results on disk ---------------------------------------------------------------------------------------------


def result(name: str = "a", status: str = "improved", **about: object) -> export.Result:
    """Two balls as hand and object."""
    rng = np.random.default_rng(0)
    hand, held = ball(-0.03, 0.5, RED), ball(0.03, 0.5, BLUE)
    pose = {
        "hand_rotvec": rng.normal(size=(16, 3)).astype(np.float32), "hand_shape": np.zeros(10, np.float32),
        "hand_transl": np.array([0, 0, 0.5], np.float32), "object_rotvec": np.array([0.1, 0.2, 0.3], np.float32),
        "object_transl": np.array([0, 0, 0.5], np.float32),
    }  # fmt: skip
    return export.Result(
        name=name, side="right", pose=pose, initial=pose, status=status, reason="because <it> did",
        hand_vertices=hand.vertices, hand_joints=rng.normal(size=(21, 3)), hand_faces=hand.faces,
        object_vertices=held.vertices, object_faces=held.faces, initial_hand_vertices=hand.vertices + 0.01,
        initial_object_vertices=held.vertices, object_matrix=np.eye(4), wrist_matrix=np.eye(4), matrix=CAMERA,
        image_size=(80, 100), crop=(10.0, 10.0, 70.0, 70.0), history={"total": np.array([3.0, 2.0, math.nan])},
        best_step=1, about={"notes": ["said & done"], "seconds": {"refine": 0.25}, "object": "mug", **about},
    )  # fmt: skip


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with export.new_folder(tmp_path / "a") as folder:
        (folder / "x").write_text("1")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a" / "x").read_text() == "1"
    with pytest.raises(RuntimeError), export.new_folder(tmp_path / "a") as folder:
        (folder / "x").write_text("2")
        raise RuntimeError
    assert (tmp_path / "a" / "x").read_text() == "1" and [p.name for p in tmp_path.iterdir()] == ["a"]
    with export.new_folder(tmp_path / "a") as folder:
        (folder / "y").write_text("3")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["y"] and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    export.write_json(
        tmp_path / "a.json", {"a": math.nan, "b": [np.float32(1.5), math.inf], "c": np.arange(2), 3: Path("x")}
    )
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [1.5, None], "c": [0, 1], "3": "x"}


def test_a_left_result_says_so(tmp_path: Path) -> None:
    import dataclasses

    table = export.describe(dataclasses.replace(result(), side="left"))
    assert "LEFT" in table["hand_parameterisation"] and table["smplx"]["side"] == "left"
    assert len(table["smplx"]["hand_pose"]) == 45


def test_a_full_disk_is_recognised_behind_other_errors() -> None:
    import errno

    full = OSError(errno.ENOSPC, "full")
    outer = ValueError("x")
    outer.__cause__ = full
    assert export.disk_full(full) and export.disk_full(outer)
    assert not export.disk_full(OSError(errno.EACCES, "no")) and not export.disk_full(None)


# --- what other systems wrote ------------------------------------------------------------------------------------


def test_smplx_names_with_matrices_and_a_mean(tmp_path: Path) -> None:
    rotvec, mean = torch.randn(16, 3) * 0.5, torch.randn(16, 3) * 0.1
    arrays = {
        "global_orient": axis_angle_to_matrix(rotvec[0]).numpy(), "hand_pose": axis_angle_to_matrix(rotvec[1:]).numpy(),
        "betas": np.arange(10.0), "transl": [0, 0.1, 0.5], "obj_rot": np.eye(3), "obj_trans": [0.1, 0, 0.6],
    }  # fmt: skip
    np.savez(tmp_path / "a.npz", **arrays)
    found = read_pose(tmp_path / "a.npz")
    assert torch.allclose(found.pose.hand_rotvec[0], rotvec, atol=1e-5) and found.side is None
    assert found.pose.object_rotvec.abs().max() < 1e-6 and found.pose.hand_shape[0, 3] == 3
    np.savez(tmp_path / "b.npz", **arrays, flat_hand_mean=False, side="left")
    with pytest.raises(InputError, match="--mano-dir"):
        read_pose(tmp_path / "b.npz")
    shifted = read_pose(tmp_path / "b.npz", mean)
    assert shifted.side == "left" and torch.allclose(shifted.pose.hand_rotvec[0, 1:], rotvec[1:] + mean[1:], atol=1e-5)
    assert torch.allclose(shifted.pose.hand_rotvec[0, 0], rotvec[0], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hand_pose": np.zeros(12)}, "PCA coefficients have to be decoded"),
        ({"hand_pose": None}, "hand_pose is missing; it holds"),
        ({"obj_rot": np.diag([1.0, 1, -1])}, "not rotation matrices"),
        ({"side": "both"}, "side: 'both'"),
        ({"betas": np.array(["a"] * 10)}, "not an array of numbers"),
    ],
)
def test_poses_that_cannot_be_meant(tmp_path: Path, change: dict[str, object], message: str) -> None:
    arrays = {"global_orient": np.zeros(3), "hand_pose": np.zeros(45), "transl": [0, 0, 1.0], "obj_rot": np.zeros(3)}
    arrays |= {"obj_trans": np.array([0, 0, 1.0]), **change}
    np.savez(tmp_path / "a.npz", **{key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(InputError, match=message):
        read_pose(tmp_path / "a.npz")


def full_features(size: int = 8) -> Features:
    """Random maps of everything for a mug."""
    mesh = embedded_object("mug")
    count = mesh.vertices.shape[1]
    grid = DistanceGrid(torch.randn(1, 5, 5, 5), torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([0.02]))
    contact = Contact(torch.rand(1, count), torch.randint(0, 17, (1, count)), torch.rand(1, count, 4))
    return Features(
        Camera.from_focal(20.0, (size, size)), mesh, torch.rand(1, size, size), torch.rand(1, size, size),
        torch.rand(1, 3, size, size), torch.rand(1, 3, size, size), torch.randn(1, size, size),
        image=torch.rand(1, 3, size, size), hand_sdf=grid, object_sdf=grid, contact=contact,
    )  # fmt: skip


def test_features_come_back_from_their_file(tmp_path: Path) -> None:
    wanted = full_features()
    maps = ("hand_mask", "object_mask", "hand_coords", "object_coords", "depth", "image")
    arrays = {name: getattr(wanted, name)[0].numpy() for name in maps}
    assert wanted.contact is not None and wanted.hand_sdf is not None
    arrays["object_coords"] = np.moveaxis(arrays["object_coords"], 0, -1)  # H x W x 3 is understood too
    arrays |= {f"contact_{name}": value[0].numpy() for name, value in vars(wanted.contact).items()}
    for part in ("hand", "object"):
        arrays |= {f"{part}_sdf_{name}": value[0].numpy() for name, value in vars(wanted.hand_sdf).items()}
    photo = Camera.from_focal(40.0, (40, 60))
    np.savez(tmp_path / "a.npz", **arrays, box=[10, 5, 26, 21])
    found = read_features(tmp_path / "a.npz", photo, wanted.object, (80, 120))  # the photo was reduced to half
    for name in maps:
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name
    assert found.contact is not None and torch.equal(found.contact.region, wanted.contact.region)
    assert found.object_sdf is not None and torch.equal(found.object_sdf.values, wanted.hand_sdf.values)
    expected = photo.resized((80, 120)).cropped((10.0, 5.0, 26.0, 21.0), (8, 8))
    assert torch.allclose(found.camera.matrix, expected.matrix) and found.camera.size == (8, 8)
    np.savez(tmp_path / "b.npz", **{**arrays, "contact_probability": np.zeros(3)}, box=[10, 5, 26, 21])
    with pytest.raises(InputError, match=r"contact_probability has shape \(3,\); the mesh has"):
        read_features(tmp_path / "b.npz", photo, wanted.object, (80, 120))


def test_mirrored_features_are_their_own_inverse() -> None:
    features = full_features()
    noise = torch.rand(3, *features.camera.size, generator=torch.Generator().manual_seed(2))
    sure = {name: noise[None, row] for row, name in enumerate(CONFIDENCES.values())}
    features = dataclasses.replace(features, **sure)
    twice = mirror_features(mirror_features(features))
    assert not torch.equal(mirror_features(features).hand_confidence, features.hand_confidence)
    for name in ("hand_mask", "hand_coords", "object_coords", "depth", "image", *CONFIDENCES.values()):
        assert torch.allclose(getattr(twice, name), getattr(features, name), atol=1e-6), name
    once = mirror_features(features)
    assert once.image is not None and features.image is not None
    assert torch.equal(once.image[..., 0], features.image[..., -1])
    assert once.hand_sdf is not None and features.hand_sdf is not None
    point = torch.tensor([[[0.13, 0.24, 0.35]]])
    flipped = point * torch.tensor([-1.0, 1, 1])
    assert torch.allclose(once.hand_sdf.sample(flipped), features.hand_sdf.sample(point), atol=1e-6)


def test_batches_of_unlike_meshes_pad_contact_with_nothing() -> None:
    mug, can = full_features(), full_features()
    small = embedded_object("can")
    count = small.vertices.shape[1]
    assert can.contact is not None
    contact = Contact(*(value[:, :count] for value in vars(can.contact).values()))
    can = Features(**{**vars(can), "object": small, "contact": contact})
    both = cat_features([mug, can])
    width = max(count, mug.object.vertices.shape[1])
    assert both.contact is not None and both.contact.probability.shape == (2, width) and len(both) == 2
    assert (both.contact.region[1, count:] == 17).all() and (both.contact.probability[1, count:] == 0).all()
    assert isinstance(both.object, Mesh) and both.object.name == ("mug", "can")


# --- the report --------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags with their attributes, and whether every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("drawn")
    outcomes = [Outcome("b<ad>", "failed", "input", "b<ad>: not & an image")]
    for name, status in (("a", "improved"), ("c d#", "rejected")):
        errors = {f"{part}_error{at}_mm": 5.0 for part in ("hand", "object") for at in ("_start", "")}
        with export.new_folder(tmp_path / "items" / name) as folder:
            write_item(folder, result(name, status, errors=errors), np.full((80, 100, 3), 0.4))
        table = json.loads((tmp_path / "items" / name / "result.json").read_text())
        outcomes.append(Outcome(name, status, row=row_of(table)))
    write_summary(tmp_path, outcomes, {"input": "photos/", "device": "cpu", "hand_model": "embedded"})
    (tmp_path / "config.resolved.yaml").write_text("losses: {a: 1}  # <b>\n")
    return tmp_path


@pytest.fixture
def out(drawn: Path, tmp_path: Path) -> Path:
    """A run of three images: one improved, one rejected, one that could not be read."""
    shutil.copytree(drawn, tmp_path / "out")
    return tmp_path / "out"


def test_the_report_is_one_well_formed_file(out: Path) -> None:
    text = report.write_report(out, "A & B").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    for tag, attributes in page.tags:  # nothing is fetched: pictures inside, links to the run's own files only
        for key in ("src", "href"):
            link = attributes.get(key)
            assert link is None or link.startswith("data:image/" if key == "src" else "items/"), (tag, link)
    assert "http" not in re.sub(r"data:image/\S+", "", text)
    assert "<title>A &amp; B</title>" in text and "b&lt;ad&gt;: not &amp; an image" in text
    assert "because &lt;it&gt; did" in text and "said &amp; done" in text and "# &lt;b&gt;" in text
    assert 'href="items/c%20d%23/scene.glb"' in text and "5.0 → 5.0 mm" in text


def test_the_meshes_in_the_page_are_the_results(out: Path) -> None:
    import base64

    text = report.write_report(out).read_text()
    table = json.loads(re.search(r'id="mesh0">(.*?)</script>', text, re.S).group(1))  # type: ignore[union-attr]
    grid = np.frombuffer(base64.b64decode(table["parts"][0]["vertices"]), "<u2").reshape(-1, 3)
    vertices = np.array(table["low"]) + grid / 65535 * table["span"]
    assert np.allclose(vertices, result().hand_vertices, atol=table["span"] / 65535)
    faces = np.frombuffer(base64.b64decode(table["parts"][0]["faces"]), "<u2").reshape(-1, 3)
    assert np.array_equal(faces, result().hand_faces)
    assert [part["when"] for part in table["parts"]] == ["after", "after", "before", "before"]


def test_many_images_are_listed_but_not_all_shown(out: Path) -> None:
    text = report.write_report(out, embedded=1).read_text()
    assert text.count("<article") == 1 and "Pictures (1 of 2" in text and "c d#" in text


def test_a_damaged_item_does_not_break_the_report(out: Path) -> None:
    (out / "items" / "a" / "result.npz").write_bytes(b"x")
    assert "cannot be shown" in report.write_report(out).read_text()


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no summary\.json"):
        report.write_report(tmp_path)


def test_the_summary_is_a_table_with_medians(out: Path) -> None:
    lines = (out / "summary.csv").read_text().splitlines()
    assert lines[0].startswith("name,status,reason,error_code,error,seconds") and len(lines) == 4
    summary = json.loads((out / "summary.json").read_text())
    assert summary["counts"] == {"failed": 1, "improved": 1, "rejected": 1} and summary["medians"]["hand_error_mm"] == 5
    assert summary["medians"]["seconds"] >= 0.25  # refine, and what drawing took


# --- reconstructed surfaces --------------------------------------------------------------------------------------


def reconstructed() -> dict[str, Surface]:
    """The balls of :func:`result`, a little larger."""
    return {"hand": seen(ball(-0.03, 0.5, RED, 0.055)), "object": seen(ball(0.03, 0.5, BLUE, 0.052))}


def seen(shape: draw.Surface) -> Surface:
    return Surface(shape.vertices.astype(np.float32), shape.faces)


def write_one(out: Path, surfaces: dict[str, Surface]) -> Path:
    """A run of one image that has these surfaces; its folder."""
    shown = dataclasses.replace(result(), surfaces=surfaces)
    with export.new_folder(out / "items" / "a") as folder:
        write_item(folder, shown, np.full((80, 100, 3), 0.4))
    table = json.loads((out / "items" / "a" / "result.json").read_text())
    write_summary(out, [Outcome("a", "improved", row=row_of(table))], {})
    return out / "items" / "a"


def parts_of_the_page(out: Path) -> dict[str, list[dict[str, str]]]:
    text = report.write_report(out).read_text()
    table = json.loads(re.search(r'id="mesh0">(.*?)</script>', text, re.S).group(1))  # type: ignore[union-attr]
    found: dict[str, list[dict[str, str]]] = {}
    for part in table["parts"]:
        found.setdefault(part["when"], []).append(part)
    return found


def test_surfaces_are_written_and_read_back(tmp_path: Path) -> None:
    surfaces = reconstructed()
    folder = write_one(tmp_path, surfaces)
    found = read_surfaces(folder)
    assert list(found) == ["hand", "object"]
    for name, wanted in surfaces.items():
        assert np.allclose(found[name].vertices, wanted.vertices, atol=1e-6)
        assert np.array_equal(found[name].faces, wanted.faces)
    scene = trimesh.load_scene(folder / "surfaces.glb")
    assert set(scene.geometry) == {"hand_surface", "object_surface"}
    assert np.allclose(scene.bounds[:, 2], [-0.555, -0.445], atol=1e-5)  # the camera looks along -z
    with np.load(folder / "surfaces.npz") as file:
        assert "OpenCV camera" in str(file["frame"])
    numbers = json.loads((folder / "result.json").read_text())["surfaces"]
    assert numbers["hand"] == {"vertices": len(surfaces["hand"].vertices), "faces": len(surfaces["hand"].faces)}


def test_surfaces_are_drawn_where_the_camera_sees_them(tmp_path: Path) -> None:
    folder = write_one(tmp_path, {"object": seen(ball(0.03, 0.5, BLUE))})
    with Image.open(folder / "surfaces.png") as file:
        picture = np.asarray(file.convert("RGB")).astype(int)[34:434, 10:410]  # the first tile
    blue = picture[..., 2] - picture[..., 0] > 40
    assert 0.2 < blue.mean() < 0.6 and np.abs(np.argwhere(blue).mean(0) - 200).max() < 30


def test_the_page_shows_surfaces_where_there_are_any(tmp_path: Path) -> None:
    write_one(tmp_path, reconstructed())
    text = report.write_report(tmp_path).read_text()
    page = Page()
    page.feed(text)
    assert page.open == [] and 'data-when="surfaces"' in text and 'href="items/a/surfaces.glb"' in text
    assert 'alt="surfaces"' in text
    parts = parts_of_the_page(tmp_path)
    assert {when: len(found) for when, found in parts.items()} == {"after": 2, "before": 2, "surfaces": 2}
    assert [part["color"] for part in parts["surfaces"]] == [list(draw.HAND_COLOR), list(draw.OBJECT_COLOR)]


def test_the_page_does_without_surfaces_and_with_one(tmp_path: Path) -> None:
    folder = write_one(tmp_path / "none", {})
    assert not list(folder.glob("surfaces*")) and read_surfaces(folder) == {}
    assert json.loads((folder / "result.json").read_text())["surfaces"] == {}
    assert "surfaces" not in parts_of_the_page(tmp_path / "none")
    assert 'data-when="surfaces"' not in (tmp_path / "none" / "report.html").read_text()
    write_one(tmp_path / "one", {"hand": reconstructed()["hand"]})
    assert len(parts_of_the_page(tmp_path / "one")["surfaces"]) == 1
    (tmp_path / "one" / "items" / "a" / "surfaces.npz").write_bytes(b"x")
    assert "cannot be shown" in report.write_report(tmp_path / "one").read_text()


def test_a_fine_surface_is_carried_by_the_page_with_fewer_triangles(tmp_path: Path) -> None:
    import base64

    fine = trimesh.creation.icosphere(6, 0.05)  # 81920 triangles
    surface = Surface((np.asarray(fine.vertices) + np.array([0, 0, 0.5])).astype(np.float32), np.asarray(fine.faces))
    folder = write_one(tmp_path, {"hand": surface})
    assert len(read_surfaces(folder)["hand"].faces) == len(fine.faces)
    (part,) = parts_of_the_page(tmp_path)["surfaces"]
    assert 8_000 < len(base64.b64decode(part["faces"])) // 6 <= 20_000
