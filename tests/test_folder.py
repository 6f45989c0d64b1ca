"""Reading folders of photographs: formats, sidecars, cameras, depth, boxes, and what is said about each."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from horefine.data import folder as folder_module
from horefine.data.crop import crop_box, crop_sample
from horefine.data.folder import FolderDataset, FolderOptions, load_object
from horefine.data.lens import DEFAULT_FOV, camera_of, parse_intrinsics
from horefine.data.mirror import mirror_mesh, mirror_pose, mirror_sample
from horefine.data.pictures import read_picture
from horefine.errors import AssetError, ConfigError, InputError
from horefine.geometry import axis_angle_to_matrix, project
from horefine.objects import embedded_object
from horefine.scene import Pose

GRADIENT = np.stack(np.broadcast_arrays(np.arange(80)[None] * 3, np.arange(60)[:, None] * 4, 128), -1).astype(np.uint8)
"""60 x 80 pixels; red grows to the right, green downwards."""


def picture(folder: Path, name: str = "a.png", array: np.ndarray = GRADIENT, **options: object) -> Path:
    path = folder / name
    Image.fromarray(array).save(path, **options)
    return path


def sidecar(folder: Path, name: str, **table: object) -> None:
    (folder / name).write_text(json.dumps(table))


# --- pictures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.TIF"])
def test_lossless_formats_keep_every_value(tmp_path: Path, name: str) -> None:
    found = read_picture(picture(tmp_path, name, format=None if name != "a.TIF" else "TIFF"))
    assert torch.equal((found.image * 255).round().to(torch.uint8).permute(1, 2, 0), torch.from_numpy(GRADIENT))
    assert found.notes == () and found.size == (60, 80)


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_lossy_formats_are_close(tmp_path: Path, name: str) -> None:
    found = read_picture(picture(tmp_path, name, quality=95))
    assert (found.image - torch.from_numpy(GRADIENT).permute(2, 0, 1) / 255).abs().mean() < 0.02


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held a quarter turn: rotate 90 degrees clockwise to view
    found = read_picture(picture(tmp_path, "a.png", exif=exif))
    assert found.size == (80, 60) and found.image.shape == (3, 80, 60)
    upright = np.rot90(GRADIENT, -1)
    assert torch.equal((found.image * 255).round().byte().permute(1, 2, 0), torch.from_numpy(upright.copy()))
    assert any("upright" in note for note in found.notes)


@pytest.mark.parametrize(
    ("mode", "said"),
    [("CMYK", "CMYK"), ("L", "grey"), ("P", "palette"), ("1", "black and white"), ("RGBA", "white"), ("LA", "white")],
)
def test_other_colour_models_are_converted_and_said(tmp_path: Path, mode: str, said: str) -> None:
    image = Image.fromarray(GRADIENT).convert(mode)
    if mode == "RGBA":
        image.putalpha(100)
    if mode == "LA":
        image = Image.merge("LA", (Image.fromarray(GRADIENT[..., 0]), Image.new("L", (80, 60), 10)))
    image.save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    found = read_picture(next(tmp_path.iterdir()))
    assert found.image.shape == (3, 60, 80) and any(said in note for note in found.notes)


def test_transparent_parts_are_laid_over_white(tmp_path: Path) -> None:
    rgba = np.zeros((40, 40, 4), np.uint8)
    rgba[:20, :, 3] = 255
    found = read_picture(picture(tmp_path, array=rgba))
    assert found.image[:, 0].max() == 0 and found.image[:, -1].min() == 1


def test_sixteen_bit_grey_keeps_its_brightness(tmp_path: Path) -> None:
    found = read_picture(picture(tmp_path, array=np.full((40, 40), 257 * 100, np.uint16)))
    assert torch.allclose(found.image, torch.tensor(100 / 255)) and any("16-bit" in note for note in found.notes)


def test_large_pictures_are_reduced_with_their_camera_and_boxes(tmp_path: Path) -> None:
    picture(tmp_path, "big.png", np.full((6000, 8000), 90, np.uint8))
    sidecar(
        tmp_path, "big.json", object="can", camera={"fx": 8000, "cx": 4000, "cy": 3000}, hand_box=[0, 0, 4000, 3000]
    )
    sample = FolderDataset(tmp_path)[0]
    assert sample.image.shape == (3, 3072, 4096) and sample.camera.size == (3072, 4096)
    scale = 4096 / 8000
    fx, cx = float(sample.camera.matrix[0, 0, 0]), float(sample.camera.matrix[0, 0, 2])
    assert math.isclose(fx, 8000 * scale, rel_tol=1e-5) and math.isclose(cx, 4000.5 * scale - 0.5, rel_tol=1e-5)
    assert sample.hand_box == pytest.approx((-0.244, -0.244, 2047.756, 1535.756), abs=1e-3)
    assert any("reduced from 8000x6000 to 4096x3072" in note for note in sample.notes)
    assert FolderDataset(tmp_path).size_in_file(0) == (6000, 8000)


# --- which files -------------------------------------------------------------------------------------------------


def test_only_photographs_are_listed(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", ".hidden.png", "a.depth.png", "z.png"):
        picture(tmp_path, name, format="JPEG" if name.endswith("JPG") else None)
    (tmp_path / "readme.txt").write_text("x")
    (tmp_path / "c.png").mkdir()
    sidecar(tmp_path, "b.json", depth="z.png")
    assert FolderDataset(tmp_path).names == ("a", "b")


def test_equal_stems_get_names_of_their_own(tmp_path: Path) -> None:
    picture(tmp_path, "a.png")
    picture(tmp_path, "a.jpg")
    picture(tmp_path, "b.png")
    assert sorted(FolderDataset(tmp_path).names) == ["a.jpg", "a.png", "b"]


def test_one_photograph_is_a_folder_of_one(tmp_path: Path) -> None:
    picture(tmp_path, "b.png")
    assert FolderDataset(picture(tmp_path, "a.png")).names == ("a",)


@pytest.mark.parametrize("names", [(), ("a.txt", "b.heic")])
def test_a_folder_without_photographs_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).write_text("x")
    with pytest.raises(ConfigError, match=r"no images there.*found (nothing|1 \.)"):
        FolderDataset(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        FolderDataset(tmp_path / "none")


# --- sidecars ----------------------------------------------------------------------------------------------------


def test_the_strongest_source_wins(tmp_path: Path) -> None:
    picture(tmp_path)
    sidecar(tmp_path, "horefine.json", object="can", side="left", camera={"fx": 70}, images={"a": {"side": "right"}})
    sample = FolderDataset(tmp_path)[0]
    assert sample.side == "right" and sample.mesh is not None and sample.mesh.name == ("can",)
    assert float(sample.camera.matrix[0, 0, 0]) == 70
    sidecar(tmp_path, "a.json", object="mug", camera={"fx": 80, "fy": 81, "cx": 40, "cy": 31})
    sample = FolderDataset(tmp_path)[0]
    assert sample.mesh is not None and sample.mesh.name == ("mug",)
    assert sample.camera.matrix[0].tolist() == [[80, 0, 40], [0, 81, 31], [0, 0, 1]]
    sample = FolderDataset(tmp_path, FolderOptions(object="bowl", camera={"fov": 90}, side="left"))[0]
    assert sample.mesh is not None and sample.mesh.name == ("bowl",) and sample.side == "left"
    assert float(sample.camera.matrix[0, 0, 0]) == pytest.approx(50)  # half of the diagonal of 60 x 80


def test_a_mesh_is_found_beside_its_sidecar(tmp_path: Path) -> None:
    import trimesh

    picture(tmp_path)
    (tmp_path / "meshes").mkdir()
    trimesh.creation.box((60, 80, 120)).export(tmp_path / "meshes" / "thing.obj")
    sidecar(tmp_path, "a.json", object="meshes/thing.obj")
    sample = FolderDataset(tmp_path)[0]
    assert sample.mesh is not None and float(sample.mesh.scale) == pytest.approx(0.12)
    assert any("unit mm" in note for note in sample.notes)


def test_meshes_are_kept_while_they_are_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, thing in zip("abcd", ("mug", "box", "bowl", "can"), strict=True):
        picture(tmp_path, f"{name}.png")
        sidecar(tmp_path, f"{name}.json", object=thing)
    read: list[str] = []
    monkeypatch.setattr(folder_module, "load_object", lambda found, unit: (read.append(found), load_object(found))[1])
    monkeypatch.setattr(folder_module, "KEPT", 3)
    dataset = FolderDataset(tmp_path)
    a, b, c, d = range(4)
    first = dataset[a].mesh
    for index in (b, c, a, d, a):  # with d one must go: b, for a was asked for again
        assert dataset[index].mesh is not None
    assert dataset[a].mesh is first and read == ["mug", "box", "bowl", "can"]
    assert dataset[b].mesh is not None and read[4:] == ["box"]


def test_nothing_known_is_said(tmp_path: Path) -> None:
    picture(tmp_path)
    dataset = FolderDataset(tmp_path, FolderOptions(object="can"))
    sample = dataset[0]
    said = " ".join(sample.notes)
    assert dataset.source_of_camera(0) == "default 60 degrees"
    assert "right hand is assumed" in said and f"{DEFAULT_FOV:g} degree" in said
    focal = math.hypot(60, 80) / 2 / math.tan(math.radians(DEFAULT_FOV / 2))
    assert float(sample.camera.matrix[0, 0, 0]) == pytest.approx(focal)
    assert sample.camera.matrix[0, :2, 2].tolist() == [39.5, 29.5]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"objct": "can"}, "objct: no such key; did you mean 'object'"),
        ({"object": "mugg"}, "no object 'mugg'; did you mean 'mug'"),
        ({"object": "there/none.obj"}, "no mesh file"),
        ({"object": "can", "side": "rigth"}, "side: 'rigth'"),
        ({"object": "can", "object_unit": "feet"}, "object_unit: 'feet'"),
        ({"object": "can", "camera": {"focal": 3}}, "camera.focal: no such key"),
        ({"object": "can", "camera": {"fx": "600"}}, "camera.fx: '600' is not a number"),
        ({"object": "can", "camera": {"fx": 0.9}}, "intrinsics are in pixels"),
        ({"object": "can", "camera": {"fov": 300}}, "300 is not a field of view"),
        ({"object": "can", "camera": {"matrix": [[1, 0], [0, 1]]}}, "expected 3x3"),
        ({"object": "can", "camera": "exif"}, "carries no focal length"),
        ({"object": "can", "hand_box": [10, 10, 5, 40]}, "must be larger"),
        ({"object": "can", "hand_box": [200, 200, 300, 300]}, "outside the 80x60 photo"),
        ({"object": "can", "hand_box": "all"}, "expected \\[x0, y0, x1, y1\\]"),
        ({"object": "can", "depth": "none.png"}, "no such file"),
        ({}, "which object is it\\? Name it with --object.*can"),
    ],
)
def test_what_is_wrong_in_a_sidecar_is_named(tmp_path: Path, table: dict[str, object], message: str) -> None:
    picture(tmp_path)
    sidecar(tmp_path, "a.json", **table)
    with pytest.raises((InputError, AssetError), match=message):
        FolderDataset(tmp_path)[0]


def test_a_broken_sidecar_concerns_its_image_only(tmp_path: Path) -> None:
    picture(tmp_path, "a.png")
    picture(tmp_path, "b.png")
    (tmp_path / "a.json").write_text("{'object': ")
    dataset = FolderDataset(tmp_path, FolderOptions(object="can"))
    with pytest.raises(InputError, match=r"a\.json: cannot be read as JSON"):
        dataset[0]
    assert dataset[1].name == "b"


def test_a_broken_folder_sidecar_is_a_usage_error(tmp_path: Path) -> None:
    picture(tmp_path)
    sidecar(tmp_path, "horefine.json", images={"a": {"sides": "left"}})
    with pytest.raises(ConfigError, match=r"images\.a\.sides: no such key; did you mean 'side'"):
        FolderDataset(tmp_path)


def test_unknown_option_values_are_refused_before_any_work(tmp_path: Path) -> None:
    picture(tmp_path)
    with pytest.raises(AssetError, match="no object 'mugg'; did you mean 'mug'"):
        FolderDataset(tmp_path, FolderOptions(object="mugg"))
    with pytest.raises(ConfigError, match="--side both"):
        FolderDataset(tmp_path, FolderOptions(side="both"))


def test_the_fingerprint_follows_everything_that_matters(tmp_path: Path) -> None:
    picture(tmp_path)
    marks = [FolderDataset(tmp_path, FolderOptions(object="can")).fingerprint(0)]
    sidecar(tmp_path, "a.json", depth="d.png")
    marks.append(FolderDataset(tmp_path, FolderOptions(object="can")).fingerprint(0))
    picture(tmp_path, "d.png", np.full((60, 80), 500, np.uint16))
    marks.append(FolderDataset(tmp_path, FolderOptions(object="can")).fingerprint(0))
    marks.append(FolderDataset(tmp_path, FolderOptions(object="mug")).fingerprint(0))
    picture(tmp_path, array=GRADIENT[::-1].copy())
    marks.append(FolderDataset(tmp_path, FolderOptions(object="mug")).fingerprint(0))
    assert len(set(marks)) == len(marks)
    assert FolderDataset(tmp_path, FolderOptions(object="mug")).fingerprint(0) == marks[-1]


# --- depth -------------------------------------------------------------------------------------------------------


def test_depth_is_read_in_millimetres_and_found_beside_the_photo(tmp_path: Path) -> None:
    picture(tmp_path)
    values = np.full((60, 80), 512, np.uint16)
    values[0] = 0
    picture(tmp_path, "a.depth.png", values)
    sample = FolderDataset(tmp_path, FolderOptions(object="can"))[0]
    assert sample.depth is not None and sample.depth[0].max() == 0
    assert torch.allclose(sample.depth[1:], torch.tensor(0.512))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((60, 80), np.uint8), "16-bit grey"),
        (np.zeros((30, 40), np.uint16), "40x30 pixels, the photo has 80x60"),
    ],
)
def test_depth_of_another_kind_or_size_is_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    picture(tmp_path)
    picture(tmp_path, "a.depth.png", array)
    with pytest.raises(InputError, match=message):
        FolderDataset(tmp_path, FolderOptions(object="can"))[0]


# --- cameras -----------------------------------------------------------------------------------------------------


def test_exif_focal_lengths() -> None:
    size = (3000, 4000)
    camera, how, _ = camera_of(None, size, {0xA405: 26}, "EXIF")
    assert float(camera.matrix[0, 0, 0]) == pytest.approx(26 * 5000 / math.hypot(36, 24)) and "26 mm" in how
    sensor = {0x920A: 50.0, 0xA20E: 4000 / 36 * 25.4, 0xA210: 2, 0xA002: 4000, 0xA003: 3000}
    camera, how, _ = camera_of(None, size, sensor, "EXIF")  # 36 mm wide: 50 mm is 50/36 of the width
    assert float(camera.matrix[0, 0, 0]) == pytest.approx(4000 * 50 / 36, rel=1e-4) and "36.0 mm" in how
    _, _, notes = camera_of(None, (2000, 4000), {0xA405: 26, 0xA002: 4000, 0xA003: 3000}, "EXIF")
    assert any("cropped" in note for note in notes)


def test_intrinsics_for_another_size_are_rescaled() -> None:
    camera, _, _ = camera_of({"fx": 600, "cx": 319.5, "cy": 239.5, "size": [640, 480]}, (960, 1280), {}, "x")
    assert camera.matrix[0].tolist() == pytest.approx(np.array([[1200, 0, 639.5], [0, 1200, 479.5], [0, 0, 1]]))


def test_intrinsics_of_the_command_line(tmp_path: Path) -> None:
    assert parse_intrinsics("1,2,3,4") == {"fx": 1, "fy": 2, "cx": 3, "cy": 4}
    assert parse_intrinsics("600") == {"fx": 600} and parse_intrinsics("exif") == "exif"
    np.save(tmp_path / "K.npy", np.eye(3))
    assert parse_intrinsics(str(tmp_path / "K.npy")) == {"matrix": np.eye(3).tolist()}
    (tmp_path / "K.json").write_text('{"camera": {"fov": 50}}')
    assert parse_intrinsics(str(tmp_path / "K.json")) == {"fov": 50}
    for text in ("1,2", "wide", str(tmp_path / "none.npy")):
        with pytest.raises(InputError):
            parse_intrinsics(text)


# --- crops and mirrors -------------------------------------------------------------------------------------------


def test_a_crop_shows_what_its_camera_says(tmp_path: Path) -> None:
    picture(tmp_path)
    sample = FolderDataset(tmp_path, FolderOptions(object="can", camera={"fx": 100}))[0]
    crop = crop_sample(sample, (19.5, 9.5, 59.5, 49.5), 80)
    assert crop.image.shape == (3, 80, 80)
    point = torch.tensor([[[0.02, -0.03, 0.5]]])
    x, y = project(point, sample.camera.matrix)[0, 0].tolist()
    u, v = project(point, crop.camera.matrix)[0, 0].tolist()
    red, green = float(crop.image[0, round(v), round(u)]), float(crop.image[1, round(v), round(u)])
    assert red * 255 / 3 == pytest.approx(x, abs=0.6) and green * 255 / 4 == pytest.approx(y, abs=0.6)


def test_a_crop_may_leave_the_photo(tmp_path: Path) -> None:
    picture(tmp_path)
    sample = FolderDataset(tmp_path, FolderOptions(object="can"))[0]
    crop = crop_sample(sample, (-40.5, -30.5, 79.5, 89.5), 120)
    assert torch.allclose(crop.image[:, 5, 5], torch.tensor(127 / 255), atol=0.01)
    assert torch.allclose(crop.image[:, 30:90, 40:], sample.image[:, :, :80], atol=0.02)
    far = crop_sample(sample, (200.0, 200.0, 300.0, 300.0), 32)
    assert torch.allclose(far.image, torch.tensor(127 / 255), atol=0.01)


def test_the_crop_box_holds_both_boxes() -> None:
    x0, y0, x1, y1 = crop_box((0, 0, 10, 20), (30, 5, 40, 10), margin=1.5)
    assert (x0, y0, x1, y1) == (-10, -20, 50, 40)
    with pytest.raises(ValueError, match="neither"):
        crop_box(None, None)


def test_a_mirrored_sample_is_the_same_world_in_a_mirror(tmp_path: Path) -> None:
    picture(tmp_path)
    options = FolderOptions(object="can", camera={"fx": 100, "fy": 110, "cx": 33, "cy": 28}, side="left")
    sidecar(tmp_path, "a.json", hand_box=[5, 10, 30, 40])
    sample = FolderDataset(tmp_path, options)[0]
    mirrored = mirror_sample(sample)
    assert mirrored.side == "right" and mirrored.hand_box == (49, 10, 74, 40)
    assert torch.equal(mirror_sample(mirrored).image, sample.image)
    assert torch.allclose(mirror_sample(mirrored).camera.matrix, sample.camera.matrix)
    rotvec, place = torch.randn(1, 16, 3), torch.tensor([[0.03, -0.02, 0.5]])
    pose = Pose(rotvec, torch.zeros(1, 10), place, torch.randn(1, 3), place)
    mesh = embedded_object("mug")
    for camera, shown, chosen in ((sample.camera, pose, mesh), (mirrored.camera, mirror_pose(pose), mirror_mesh(mesh))):
        points = chosen.vertices @ axis_angle_to_matrix(shown.object_rotvec).mT + shown.object_transl[:, None]
        pixels = project(points, camera.matrix)
        if chosen is mesh:
            first = pixels
    assert torch.allclose(79 - pixels[..., 0], first[..., 0], atol=1e-3)
    assert torch.allclose(pixels[..., 1], first[..., 1], atol=1e-3)


def test_a_mirrored_mesh_still_faces_outward_and_keeps_its_distances() -> None:
    mesh = embedded_object("mug")
    mirrored = mirror_mesh(mesh)
    assert torch.allclose(mirrored.normals, mesh.normals * torch.tensor([-1.0, 1, 1]), atol=1e-5)
    points = torch.rand(1, 50, 3) * 0.2 - 0.1
    assert torch.allclose(mirrored.distance(points * torch.tensor([-1.0, 1, 1])), mesh.distance(points), atol=1e-5)
