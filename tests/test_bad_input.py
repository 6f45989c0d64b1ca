"""Bad input, all tried: a clear message with the right exit code, the other items done, nothing half written."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trimesh
from photo_folder import FEW_STEPS, write_photo_folder
from PIL import Image
from typer.testing import CliRunner, Result

from horefine import export, outcome
from horefine.cli import app


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo_folder(tmp_path_factory.mktemp("good"), 2)


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy to spoil: p0 is spoiled, p1 stays good."""
    shutil.copytree(good, tmp_path / "in")
    return tmp_path / "in"


def run(folder: Path, *words: object) -> Result:
    files = ("--init", folder / "init", "--features", folder / "maps", "--out", folder / "out", "--no-pictures")
    return CliRunner().invoke(app, [str(w) for w in ("run", folder / "images", *files, *FEW_STEPS, *words)])


def rewrite(path: Path, **changes: object) -> None:
    """Changes arrays of an .npz; None takes one out."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    arrays |= changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})


def sidecar(folder: Path, **changes: object) -> None:
    path = folder / "images" / "p0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def save(folder: Path, image: Image.Image, **options: object) -> None:
    image.save(folder / "images" / "p0.png", **options)


def text_file(folder: Path) -> None:
    (folder / "images" / "p0.png").write_text("this is not a picture")


def empty_file(folder: Path) -> None:
    (folder / "images" / "p0.png").write_bytes(b"")


def truncated_jpeg(folder: Path) -> None:
    save(folder, Image.fromarray(np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)), format="JPEG")
    path = folder / "images" / "p0.png"
    path.write_bytes(path.read_bytes()[:4000])


def truncated_png(folder: Path) -> None:
    path = folder / "images" / "p0.png"
    path.write_bytes(path.read_bytes()[:9000])


def heic(folder: Path) -> None:
    (folder / "images" / "p0.png").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 100)


def one_pixel(folder: Path) -> None:
    save(folder, Image.new("RGB", (1, 1)))


def maps_of_two_sizes(folder: Path) -> None:
    rewrite(folder / "maps" / "p0.npz", hand_mask=np.zeros((16, 16), np.float32))


def nan_in_a_map(folder: Path) -> None:
    depth = np.zeros((32, 32), np.float32)
    depth[3, 4] = np.nan
    rewrite(folder / "maps" / "p0.npz", depth=depth)


def mask_of_255(folder: Path) -> None:
    rewrite(folder / "maps" / "p0.npz", hand_mask=np.full((32, 32), 255.0))


def photograph_of_255(folder: Path) -> None:
    rewrite(folder / "maps" / "p0.npz", image=np.full((3, 32, 32), 255.0))


def map_of_a_wrong_shape(folder: Path) -> None:
    rewrite(folder / "maps" / "p0.npz", hand_coords=np.zeros((32, 32), np.float32))


def maps_without_camera(folder: Path) -> None:
    rewrite(folder / "maps" / "p0.npz", camera=None)


def damaged_maps(folder: Path) -> None:
    path = folder / "maps" / "p0.npz"
    path.write_bytes(path.read_bytes()[:700])


def a_feature_left_out(folder: Path) -> None:
    rewrite(folder / "maps" / "p0.npz", object_coords=None)


def no_maps(folder: Path) -> None:
    (folder / "maps" / "p0.npz").unlink()


def no_pose(folder: Path) -> None:
    (folder / "init" / "p0.npz").unlink()


def nan_in_a_pose(folder: Path) -> None:
    rewrite(folder / "init" / "p0.npz", hand_shape=np.full(10, np.nan))


def pose_in_millimetres(folder: Path) -> None:
    rewrite(folder / "init" / "p0.npz", hand_transl=np.array([10.0, 20, 500]))


def pose_behind_the_camera(folder: Path) -> None:
    rewrite(folder / "init" / "p0.npz", object_transl=np.array([0, 0, -0.5]))


def pose_of_another_shape(folder: Path) -> None:
    rewrite(folder / "init" / "p0.npz", hand_rotvec=np.zeros((15, 3)))


def pose_of_the_other_hand(folder: Path) -> None:
    rewrite(folder / "init" / "p0.npz", side="left")


def misspelt_object(folder: Path) -> None:
    sidecar(folder, object="cann")


def no_object(folder: Path) -> None:
    sidecar(folder, object=None)


def mesh_without_faces(folder: Path) -> None:
    (folder / "images" / "cloud.ply").write_bytes(
        trimesh.PointCloud(np.random.default_rng(0).random((50, 3)) * 0.1).export(file_type="ply")
    )
    sidecar(folder, object="cloud.ply")


def mesh_of_no_known_unit(folder: Path) -> None:
    trimesh.creation.box((3e6, 2e6, 1e6)).export(folder / "images" / "huge.obj")
    sidecar(folder, object="huge.obj")


SPOILED: dict[Callable[[Path], None], str] = {
    text_file: "p0.png: not an image.*it holds text",
    empty_file: "p0.png: empty",
    truncated_jpeg: "p0.png: cut short",
    truncated_png: "p0.png: (cut short|damaged)",
    heic: "HEIC.*export it as JPEG",
    one_pixel: "1x1 pixels is too small",
    maps_of_two_sizes: "differ in size: hand_mask 16x16, object_mask 32x32",
    nan_in_a_map: "depth: 1 of 1024 values are NaN",
    mask_of_255: "hand_mask runs from 255 to 255; expected 0 to 1",
    photograph_of_255: "image runs from 255 to 255; expected 0 to 1",
    map_of_a_wrong_shape: r"hand_coords has shape \(32, 32\); expected \(3, H, W\)",
    maps_without_camera: "give 'box'.*or 'camera'",
    damaged_maps: "p0.npz: (damaged|cannot be read)",
    a_feature_left_out: "needs features.object_coords, which is missing",
    no_maps: "p0: no p0.npz in",
    no_pose: "p0: no p0.npz or p0.json in",
    nan_in_a_pose: "hand_shape: 10 of 10 values are NaN",
    pose_in_millimetres: "millimetres",
    pose_behind_the_camera: "behind the camera",
    pose_of_another_shape: r"hand_rotvec has shape \(15, 3\); expected \(16, 3\)",
    pose_of_the_other_hand: "of a left hand, the image of a right one",
    misspelt_object: "no object 'cann'; did you mean 'can'",
    no_object: "which object is it.*--object",
    mesh_without_faces: "cloud.ply",
    mesh_of_no_known_unit: "huge.obj",
}


@pytest.mark.parametrize(("spoil", "message"), SPOILED.items(), ids=[spoil.__name__ for spoil in SPOILED])
def test_a_bad_item_is_named_and_the_other_is_done(folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    import re

    spoil(folder)
    result = run(folder)
    out = folder / "out"
    assert result.exit_code == 4 and re.search(message, result.stderr), result.stderr
    assert "Traceback" not in result.stderr
    assert [p.name for p in (out / "items").iterdir()] == ["p1"]
    items = {item["name"]: item for item in json.loads((out / "summary.json").read_text())["items"]}
    assert items["p0"]["status"] == "failed" and items["p0"]["error_code"] in ("input", "asset", "config")
    assert re.search(message, items["p0"]["error"]) and items["p1"]["status"] in ("improved", "unchanged")
    assert "p0" in (out / "report.html").read_text() and (out / "summary.csv").read_text().count("\n") == 3


def test_strict_stops_at_the_first_bad_item(folder: Path) -> None:
    text_file(folder)
    result = run(folder, "--strict")
    assert result.exit_code == 4 and "not an image" in result.stderr
    assert not list((folder / "out" / "items").iterdir())


# --- odd, but usable ---------------------------------------------------------------------------------------------


def cmyk(folder: Path) -> None:
    save(folder, Image.open(folder / "images" / "p0.png").convert("CMYK"), format="JPEG")


def sixteen_bit(folder: Path) -> None:
    save(folder, Image.fromarray(np.full((120, 160), 30000, np.uint16)))


def no_intrinsics(folder: Path) -> None:
    sidecar(folder, camera=None)


def open_mesh_in_millimetres(folder: Path) -> None:
    box = trimesh.creation.box((60, 60, 100)).subdivide()
    box.update_faces(np.arange(len(box.faces)) % 12 != 0)
    box.export(folder / "images" / "open.obj")
    sidecar(folder, object="open.obj")


USABLE: dict[Callable[[Path], None], str] = {
    cmyk: "CMYK",
    sixteen_bit: "16-bit grey",
    no_intrinsics: "60 degree diagonal field of view is assumed",
    open_mesh_in_millimetres: "unit mm",
}


@pytest.mark.parametrize(("change", "said"), USABLE.items(), ids=[change.__name__ for change in USABLE])
def test_odd_input_is_used_and_said(folder: Path, change: Callable[[Path], None], said: str) -> None:
    change(folder)
    result = run(folder, "--limit", 1)
    assert result.exit_code == 0, result.stderr
    table = json.loads((folder / "out" / "items" / "p0" / "result.json").read_text())
    assert any(said in note for note in table["notes"]), table["notes"]


def test_a_huge_photo_is_reduced_and_its_maps_still_fit(folder: Path) -> None:
    """8000 x 6000 instead of 160 x 120: the same view, so the given box and camera mean the same."""
    with np.load(folder / "maps" / "p0.npz") as file:
        fx, cx, cy = file["camera"][0, 0], file["camera"][0, 2], file["camera"][1, 2]
    side = 32 * 300 / fx  # of the crop, in the small photo
    x0, y0 = 79.5 - (cx + 0.5) / 32 * side, 59.5 - (cy + 0.5) / 32 * side
    box = (np.array([x0, y0, x0 + side, y0 + side]) + 0.5) * 50 - 0.5
    rewrite(folder / "maps" / "p0.npz", camera=None, box=box)
    Image.new("RGB", (8000, 6000), (90, 100, 110)).save(folder / "images" / "p0.png")
    sidecar(folder, camera={"fx": 15000.0})
    result = run(folder, "--init", folder / "truth", "--limit", 1)
    assert result.exit_code == 0, result.stderr
    table = json.loads((folder / "out" / "items" / "p0" / "result.json").read_text())
    assert table["camera"]["size"] == [4096, 3072] and any("reduced from 8000x6000" in n for n in table["notes"])
    assert table["errors"]["hand_error_mm"] < 3 and table["errors"]["object_error_mm"] < 3


# --- the command line --------------------------------------------------------------------------------------------

REFUSED = [
    (("--object", "mugg"), 3, "no object 'mugg'; did you mean 'mug'"),
    (("--object", "none.obj"), 3, "no mesh file"),
    (("--set", "losses.segmentatoin=1"), 2, "losses.segmentatoin: no such loss; did you mean 'segmentation'"),
    (("--set", "stages.render.stepz=1"), 2, "no such key; did you mean 'steps'"),
    (("--set", "silhouette"), 2, "expected key=value"),
    (("--config", "defualt"), 2, "no such recipe or file; did you mean 'default'"),
    (("--mano-dir", "nowhere"), 3, "MANO"),
    (("--hand", "foot"), 2, "--hand foot"),
    (("--device", "cuda:77"), 2, "--device cuda:77"),
    (("--renderer", "opengl"), 2, "opengl.*known: auto, cpu"),
    (("--intrinsics", "1,2,3"), 2, "--intrinsics '1,2,3': expected fx,fy,cx,cy"),
    (("--fov", "60", "--intrinsics", "600"), 2, "give one of them"),
    (("--side", "both"), 2, "--side both"),
    (("--features", "nowhere"), 2, "--features nowhere: no such folder"),
    (("--init", "no/where"), 2, "--init no/where: no such folder"),
    (("--init", "hiosdf"), 2, "did you mean 'hoisdf'"),
    (("--batch-size", "0"), 2, "batch-size"),
    (("--nonsense",), 2, "nonsense"),
]


@pytest.mark.parametrize(("words", "code", "message"), REFUSED, ids=[" ".join(words) for words, _, _ in REFUSED])
def test_wrong_options_are_refused_before_any_work(
    good: Path, tmp_path: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    import re

    arguments = ["run", str(good / "images"), "--out", str(tmp_path / "out"), *words]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.stderr
    assert re.search(message, " ".join(result.stderr.split())), result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "out").exists()


def test_an_empty_folder(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["run", str(tmp_path)])
    assert result.exit_code == 2 and "no images there" in result.stderr


def test_a_yaml_file_with_unknown_keys(good: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("base: default\nstage: {}\n")
    result = CliRunner().invoke(app, ["run", str(good / "images"), "--config", str(recipe)])
    assert result.exit_code == 2 and "stage: no such key; did you mean 'stages'" in result.stderr
    recipe.write_text("losses: [\n")
    result = CliRunner().invoke(app, ["run", str(good / "images"), "--config", str(recipe)])
    assert result.exit_code == 2 and "not readable as YAML" in result.stderr


def test_missing_weights_are_said_once(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from horefine import extractors

    monkeypatch.setattr("horefine.extractors.weights.default_path", lambda task: tmp_path / f"{task}.safetensors")
    extractors.load_default.cache_clear()
    result = CliRunner().invoke(app, ["run", str(good / "images"), "--out", str(tmp_path / "out")])
    extractors.load_default.cache_clear()
    assert result.exit_code == 3 and result.stderr.count("horefine train") == 1, result.stderr


# --- a disk that fills -------------------------------------------------------------------------------------------


def test_a_disk_that_fills_ends_the_run_and_keeps_what_is_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = export.write_glb

    def full(path: Path, result: export.Result) -> None:
        if result.name == "p1":
            path.write_bytes(b"part of a fi")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, result)

    monkeypatch.setattr(export, "write_glb", full)
    result = run(folder)
    assert result.exit_code == 1 and "is full; finished items are kept: free some space" in result.stderr
    assert "Traceback" not in result.stderr
    assert [p.name for p in (folder / "out" / "items").iterdir()] == ["p0"]
    monkeypatch.undo()
    assert run(folder).exit_code == 0 and len(list((folder / "out" / "items").iterdir())) == 2


def test_a_disk_that_is_full_from_the_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    result = run(folder)
    assert result.exit_code == 1 and "is full" in result.stderr and "Traceback" not in result.stderr


def test_an_unforeseen_error_in_one_item_leaves_the_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = outcome.write_item

    def broken(where: Path, result: export.Result, photo: np.ndarray, **options: bool) -> None:
        if result.name == "p0":
            raise ZeroDivisionError("a mistake of ours")
        write(where, result, photo, **options)

    monkeypatch.setattr(outcome, "write_item", broken)
    result = run(folder)
    assert result.exit_code == 4 and "p0: ZeroDivisionError: a mistake of ours" in result.stderr
    assert [p.name for p in (folder / "out" / "items").iterdir()] == ["p1"]
