"""The command: a folder through the whole pipeline, resumption, dry runs, interruption, exit codes, help."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from photo_folder import FEW_STEPS, write_photo_folder
from PIL import Image
from typer.testing import CliRunner, Result

from horefine import outcome, pipeline
from horefine.cli import app
from horefine.distance import signed_distance
from horefine.exchange import find_item, read_pose
from horefine.export import clean_leftovers
from horefine.geometry import axis_angle_to_matrix, project
from horefine.hand import load_hand
from horefine.objects import embedded_object

FILES = {"result.npz", "result.json", "scene.glb", "overlay.png", "loss.png"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photographs, the second of a left hand."""
    return write_photo_folder(tmp_path_factory.mktemp("photos"), 3, left=(1,))


def horefine(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def refine(photos: Path, out: Path, *words: object, poses: str = "init") -> Result:
    files = ("--init", photos / poses, "--features", photos / "maps", "--out", out)
    return horefine("run", photos / "images", *files, *FEW_STEPS, *words)


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run over :func:`photos`."""
    out = tmp_path_factory.mktemp("out")
    result = refine(photos, out)
    assert result.exit_code == 0, result.output
    return out


def left_over(out: Path) -> list[str]:
    return [path.name for path in out.rglob("*") if path.name.startswith(".")]


# --- what a run writes -------------------------------------------------------------------------------------------


def test_a_run_writes_every_file_of_every_item(finished: Path) -> None:
    assert {p.name for p in (finished / "items").iterdir()} == {"p0", "p1", "p2"}
    for name in ("p0", "p1", "p2"):
        assert {p.name for p in (finished / "items" / name).iterdir()} == FILES
    assert {p.name for p in finished.iterdir()} == {
        "items", "config.resolved.yaml", "summary.csv", "summary.json", "report.html",
    }  # fmt: skip
    assert not left_over(finished)


def test_the_result_names_frame_units_and_how_it_came_about(finished: Path) -> None:
    table = json.loads((finished / "items" / "p0" / "result.json").read_text())
    assert "OpenCV" in table["frame"] and "metres" in table["frame"] and "FLAT" in table["hand_parameterisation"]
    assert table["schema_version"] == 1 and table["side"] == "right" and table["object"] == "can"
    assert table["camera"]["size"] == [160, 120] and table["camera"]["source"] == "p0.json"
    assert table["status"] in ("improved", "unchanged") and table["versions"]["horefine"]
    assert set(table["seconds"]) >= {"read", "find", "refine", "draw"} and table["first_pose"] == "file"
    for end in ("start", "end"):
        assert set(table["interaction"][end]) == {"pd_mm", "siv_cm3", "contact_regions", "gap_mm"}
    assert len(table["sigma_mm"]["joints"]) == 21 and all(0 < s < 100 for s in table["sigma_mm"]["joints"])
    assert 0 < table["sigma_mm"]["object_depth"] <= table["sigma_mm"]["object_center"]
    assert set(table["errors"]) == {f"{part}_error{at}_mm" for part in ("hand", "object") for at in ("_start", "")}


def test_json_and_npz_agree_and_read_back_as_poses(finished: Path) -> None:
    folder = finished / "items"
    from_npz = read_pose(folder / "p0" / "result.npz")
    from_json = read_pose(folder / "p0" / "result.json")
    for (name, a), (_, b) in zip(from_npz.pose.items(), from_json.pose.items(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name
    assert from_npz.side == "right" and find_item(finished, "p0") == folder / "p0" / "result.npz"
    table = json.loads((folder / "p0" / "result.json").read_text())
    (folder.parent / "smplx.json").write_text(json.dumps(table["smplx"]))
    smplx = read_pose(folder.parent / "smplx.json")
    (folder.parent / "smplx.json").unlink()
    assert torch.allclose(smplx.pose.hand_rotvec, from_npz.pose.hand_rotvec, atol=1e-6)
    assert torch.allclose(smplx.pose.object_transl, from_npz.pose.object_transl, atol=1e-6)


@pytest.mark.parametrize("name", ["p0", "p1"])
def test_stored_meshes_are_the_posed_models_in_the_photo(finished: Path, name: str) -> None:
    """Of the left hand (p1) too: the left hand model is the right one with x flipped."""
    with np.load(finished / "items" / name / "result.npz") as file:
        arrays = {key: file[key] for key in file.files}
    model, mesh = load_hand(kind="embedded"), embedded_object("can")
    pose = {key: torch.from_numpy(arrays[key])[None] for key in ("hand_rotvec", "hand_shape", "hand_transl")}
    flip = torch.tensor([-1.0 if name == "p1" else 1.0, 1, 1])
    turn = torch.tensor([1.0, -1, -1]) if name == "p1" else torch.ones(3)
    hand = model(pose["hand_rotvec"] * turn, pose["hand_shape"], pose["hand_transl"] * flip)
    assert torch.allclose(hand.vertices[0] * flip, torch.from_numpy(arrays["hand_vertices"]), atol=1e-5)
    assert torch.allclose(hand.joints[0] * flip, torch.from_numpy(arrays["hand_joints"]), atol=1e-5)
    rotation = axis_angle_to_matrix(torch.from_numpy(arrays["object_rotvec"]))
    held = mesh.vertices[0] @ rotation.mT + torch.from_numpy(arrays["object_transl"])
    assert torch.allclose(held, torch.from_numpy(arrays["object_vertices"]), atol=1e-5)
    assert np.allclose(arrays["object_matrix"][:3, :3], rotation.numpy(), atol=1e-5)
    wrist = torch.from_numpy(arrays["wrist_matrix"][:3, 3]).float()
    assert torch.allclose(wrist, torch.from_numpy(arrays["hand_joints"][0]), atol=1e-5)
    for part in ("hand", "object"):
        solid = trimesh.Trimesh(arrays[f"{part}_vertices"], arrays[f"{part}_faces"], process=False)
        assert solid.volume > 0, f"{part} faces inward"


def test_a_left_hand_lands_where_its_truth_is(photos: Path, tmp_path: Path) -> None:
    """Started at the truth with maps of the truth, nothing moves far; a mirroring mistake would move it by cm."""
    assert refine(photos, tmp_path, poses="truth").exit_code == 0
    for row in csv.DictReader((tmp_path / "summary.csv").open()):
        with np.load(tmp_path / "items" / row["name"] / "result.npz") as file:  # what is said of contact is so
            hand, held = file["initial_hand_vertices"], (file["initial_object_vertices"], file["object_faces"])
        depth = -signed_distance(hand.astype(float), held[0].astype(float), held[1].astype(int)).min() * 1000
        assert float(row["penetration_start_mm"]) == pytest.approx(max(depth, 0), abs=0.01)
        assert float(row["hand_error_start_mm"]) < 0.01 and float(row["object_error_start_mm"]) < 0.01
        assert float(row["hand_error_mm"]) < 3 and float(row["object_error_mm"]) < 3, row


def test_refinement_follows_the_maps(photos: Path, tmp_path: Path) -> None:
    steps = ("--set", "stages.correspond.steps=60", "--set", "stages.render.steps=10")
    files = ("--init", photos / "init", "--features", photos / "maps", "--out", tmp_path)
    assert horefine("run", photos / "images", *files, *steps, "--no-pictures").exit_code == 0
    for row in csv.DictReader((tmp_path / "summary.csv").open()):
        assert row["status"] == "improved"
        assert float(row["object_error_mm"]) < 0.4 * float(row["object_error_start_mm"]), row
        assert float(row["hand_error_mm"]) < 0.6 * float(row["hand_error_start_mm"]), row


def test_the_3d_scene_is_metres_with_y_up(finished: Path) -> None:
    scene = trimesh.load(finished / "items" / "p0" / "scene.glb")
    assert isinstance(scene, trimesh.Scene) and set(scene.geometry) == {"hand", "object"}
    with np.load(finished / "items" / "p0" / "result.npz") as file:
        wanted = file["hand_vertices"] * [1, -1, -1]
    found = np.asarray(scene.geometry["hand"].vertices)
    assert np.allclose(np.sort(found, 0), np.sort(wanted, 0), atol=1e-5)


def test_the_overlay_covers_the_photo_where_the_hand_is(finished: Path, photos: Path) -> None:
    with np.load(finished / "items" / "p0" / "result.npz") as file:
        matrix = torch.from_numpy(file["camera"]).float()[None]
        pixels = project(torch.from_numpy(file["hand_vertices"]).float()[None], matrix)[0]
    assert ((pixels > -1) & (pixels < torch.tensor([160.0, 120]))).float().mean() > 0.9
    sheet = np.asarray(Image.open(finished / "items" / "p0" / "overlay.png").convert("RGB")).astype(float)
    before, photo = sheet[34:434, 10:410], sheet[34:434, 830:1230]
    assert np.abs(before - photo).max(-1).mean() > 3  # something is drawn over the photo ...
    assert (np.abs(before - photo).max(-1) < 8).mean() > 0.2  # ... and not everywhere


def test_networks_get_right_hands_only_and_their_boxes_are_mirrored_back(photos: Path, tmp_path: Path) -> None:
    from horefine.config import load_config
    from horefine.data.folder import FolderDataset
    from horefine.job import Job

    class Recorder:
        """Answers with the truth; notes what it was asked."""

        def __init__(self) -> None:
            self.sides: list[str] = []
            self.told: list[str | None] = []
            self.asked: list[tuple[str, ...]] = []

        def locate(self, sample, side):
            from horefine.extractors.detector import Located

            self.told.append(side)
            x, y = project(sample.truth.hand_transl, sample.camera.matrix)[0].tolist()
            half = 300 / float(sample.truth.hand_transl[0, 2]) * 0.15
            return Located((x - half, y - half, x + half, y + half), (x - half, y, x, y + half), notes=("by hand",))

        def poses(self, crops):
            from horefine.scene import Pose

            self.sides += [crop.side for crop in crops]
            return Pose.cat([crop.truth for crop in crops]), {}

        def features(self, crops, names):
            from horefine.data.maps import exact_features
            from horefine.geometry import Camera
            from horefine.mesh import Mesh
            from horefine.scene import Pose

            self.asked.append(tuple(names))
            camera = Camera(torch.cat([c.camera.resized((32, 32)).matrix for c in crops]), (32, 32))
            pose = Pose.cat([crop.truth for crop in crops])
            return exact_features(pose, model, Mesh.cat([crop.mesh for crop in crops]), camera, contact=False)[0]

        def complete(self, pose, features):
            return features

    model, networks = load_hand(kind="embedded"), Recorder()
    recipe = load_config("default", ["stages.correspond.steps=2", "stages.render.steps=2"])
    dataset = FolderDataset(photos / "images")
    job = Job(dataset, recipe, tmp_path, model, networks, batch_size=2, pictures=False)
    found = list(pipeline.run(job))
    assert [o.status for o in found] == ["unchanged"] * 3 or all(o.row["hand_error_mm"] < 3 for o in found)
    assert networks.told == ["right", "left", "right"]
    assert set(networks.sides) == {"right"} and set(networks.asked[0]) == set(recipe.features)
    for name in ("p0", "p1", "p2"):
        table = json.loads((tmp_path / "items" / name / "result.json").read_text())
        assert table["errors"]["hand_error_start_mm"] < 0.01
        truth = dataset[dataset.names.index(name)].truth
        assert truth is not None
        with np.load(tmp_path / "items" / name / "result.npz") as file:
            pixels = project(torch.from_numpy(file["initial_hand_vertices"]).float()[None], dataset[0].camera.matrix)[0]
        x0, y0, x1, _ = table["box"]
        assert x0 < pixels[:, 0].min() and pixels[:, 0].max() < x1 and y0 < pixels[:, 1].min()
        assert "by hand" in table["notes"]


@pytest.fixture
def untrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Weights of networks as they are before training: the pipeline's plumbing, not its quality."""
    from horefine import extractors
    from horefine.extractors import networks, sizes, weights

    for task, kind in networks._KINDS.items():
        network = sizes.network_config(task, {})
        path = tmp_path / f"{task}.safetensors"
        weights.save_weights(path, kind(network).state_dict(), task, network, {"trained": False})
    monkeypatch.setattr(weights, "default_path", lambda task: tmp_path / f"{task}.safetensors")
    extractors.load_default.cache_clear()
    yield
    extractors.load_default.cache_clear()


@pytest.mark.usefixtures("untrained")
def test_from_pixels_alone(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("horefine.items.LEAST_CLEAR", 0.0)  # untrained networks see no hands
    out = tmp_path / "out"
    result = horefine("run", photos / "images", "--out", out, *FEW_STEPS, "--no-pictures", "--limit", 2)
    assert result.exit_code == 0, result.stderr
    for name in ("p0", "p1"):
        table = json.loads((out / "items" / name / "result.json").read_text())
        assert table["first_pose"] == "hoisdf" and table["features"] == "networks"
        assert set(table["seconds"]) >= {"read", "find", "initialise", "features", "refine"}
        assert any("found by the detector" in note for note in table["notes"])
    again = ("run", photos / "images", "--out", out, *FEW_STEPS, "--dry-run", "--json")
    assert json.loads(horefine(*again).stdout)["finished"] == ["p0", "p1"]
    (tmp_path / "hoisdf.safetensors").write_bytes(b"others")  # results of other weights are not these
    assert json.loads(horefine(*again).stdout)["finished"] == []


# --- resumption and plans ----------------------------------------------------------------------------------------


def test_finished_items_are_skipped_until_something_changes(photos: Path, finished: Path, tmp_path: Path) -> None:
    out, images = tmp_path / "out", tmp_path / "photos"
    shutil.copytree(finished, out)
    shutil.copytree(photos, images)

    def done_again(*words: object) -> set[str]:
        stamps = {p.parent.name: p.stat().st_mtime_ns for p in out.glob("items/*/result.json")}
        result = refine(images, out, "--no-pictures", *words)
        assert result.exit_code == 0, result.output
        return {p.parent.name for p in out.glob("items/*/result.json") if p.stat().st_mtime_ns != stamps[p.parent.name]}

    assert done_again() == set()
    assert json.loads((out / "summary.json").read_text())["skipped"] == 3
    Image.new("RGB", (160, 120)).save(images / "images" / "p2.png")
    assert done_again() == {"p2"}
    shutil.copy(images / "truth" / "p0.npz", images / "init" / "p0.npz")
    assert done_again() == {"p0"}
    assert done_again("--set", "losses.silhouette=0.5") == {"p0", "p1", "p2"}
    assert done_again("--set", "losses.silhouette=0.5", "--overwrite", "--limit", 1) == {"p0"}


def test_a_dry_run_writes_nothing_and_names_what_is_missing(photos: Path, tmp_path: Path) -> None:
    images = tmp_path / "photos"
    shutil.copytree(photos, images)
    (images / "maps" / "p1.npz").unlink()
    (images / "images" / "p2.png").write_bytes(b"")
    result = refine(images, tmp_path / "out", "--dry-run")
    assert result.exit_code == 4 and not (tmp_path / "out").exists()
    assert "1 images to refine, 0 finished, 2 with problems" in result.stderr
    assert "p1: no p1.npz in" in result.stderr and "p2.png: empty" in result.stderr
    plan = json.loads(refine(images, tmp_path / "out", "--dry-run", "--json").stdout)
    assert plan["todo"] == ["p0"] and set(plan["problems"]) == {"p1", "p2"} and "hand_mask" in plan["features"]


def test_json_is_all_that_is_on_stdout(photos: Path, tmp_path: Path) -> None:
    result = refine(photos, tmp_path, "--json", "--limit", 1)
    summary = json.loads(result.stdout)
    assert summary["items"][0]["name"] == "p0" and summary["complete"] and summary["input"].endswith("images")


def test_results_do_not_depend_on_the_batch(photos: Path, tmp_path: Path) -> None:
    found = []
    for size in (1, 3):
        assert refine(photos, tmp_path / str(size), "--batch-size", size, "--no-pictures").exit_code == 0
        with np.load(tmp_path / str(size) / "items" / "p2" / "result.npz") as file:
            found.append(file["hand_rotvec"])
    assert np.allclose(*found, atol=1e-4)


# --- stopping ----------------------------------------------------------------------------------------------------


def test_ctrl_c_keeps_what_is_finished(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = outcome.write_result

    def interrupted(folder: Path, result) -> None:
        write(folder, result)
        if result.name == "p1":
            raise KeyboardInterrupt

    monkeypatch.setattr(outcome, "write_result", interrupted)
    result = refine(photos, tmp_path, "--no-pictures", "--threads", 0)
    assert result.exit_code == 130 and "interrupted: 1 of 3 images are finished" in result.stderr
    assert [p.name for p in (tmp_path / "items").iterdir()] == ["p0"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [item["name"] for item in summary["items"]] == ["p0"] and not summary["complete"]
    monkeypatch.undo()
    result = refine(photos, tmp_path, "--no-pictures")
    assert result.exit_code == 0 and "p0: finished before" in result.stderr
    assert len(list(tmp_path.glob("items/*/result.json"))) == 3


def test_a_swallowed_interrupt_is_raised_again_at_the_next_step() -> None:
    from horefine.console import stoppable

    with stoppable() as check:
        check()
        with contextlib.suppress(KeyboardInterrupt):  # as a callback from compiled code does
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        with pytest.raises(KeyboardInterrupt):
            check()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_real_process_in_order(photos: Path, tmp_path: Path, which: signal.Signals) -> None:
    command = [sys.executable, "-m", "horefine.cli", "run", photos / "images", "--init", photos / "init"]
    command += ["--features", photos / "maps", "--out", tmp_path]
    command += ["--config", "adam", "--set", "stages.render.steps=100000"]  # Adam goes on to the last step

    def heed() -> None:  # a test run in the background of a shell ignores Ctrl-C, and so would its children
        signal.signal(which, signal.SIG_DFL)

    words = [str(word) for word in command]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        try:
            deadline = time.monotonic() + 300
            while not (tmp_path / "config.resolved.yaml").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(0.5)
            process.send_signal(which)
            _, error = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 130, error
    assert "interrupted: 0 of 3 images are finished" in error and "Traceback" not in error
    assert list((tmp_path / "items").iterdir()) == [] and not left_over(tmp_path)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="only told by /proc")
def test_what_an_ended_process_left_is_removed_before_its_parent_asks(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # ended, and still there for its parent
        left = tmp_path / f".partial-{ended.pid}-p0"
        left.mkdir()
        assert clean_leftovers(tmp_path) == 1 and not left.exists()


def test_half_written_folders_of_killed_runs_are_removed(photos: Path, tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "items" / f".partial-{dead.pid}-p0").mkdir(parents=True)
    (tmp_path / "items" / f".partial-{dead.pid}-p0" / "result.npz").write_bytes(b"half")
    (tmp_path / "items" / f".partial-{os.getppid()}-p9").mkdir()  # of a run that goes on: left alone
    assert refine(photos, tmp_path, "--no-pictures", "--limit", 1).exit_code == 0
    assert left_over(tmp_path) == [f".partial-{os.getppid()}-p9"]


# --- the other commands ------------------------------------------------------------------------------------------


def test_help_is_quick_and_loads_no_torch() -> None:
    code = "import sys, horefine.cli; print('torch' in sys.modules, 'numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    for words in ((), ("run",), ("train",), ("synthesize",), ("doctor",)):
        result = horefine(*words, "--help")
        assert result.exit_code == 0 and "Usage" in result.output


def test_the_list_of_objects() -> None:
    sizes = json.loads(horefine("objects", "--json").stdout)
    assert len(sizes) >= 10 and all(2 <= max(sides) <= 40 for sides in sizes.values())


def test_doctor_names_each_gap_and_its_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from horefine.extractors import weights

    monkeypatch.setattr(weights, "default_path", lambda task: tmp_path / f"{task}.safetensors")
    result = horefine("doctor", "--json")
    findings = {finding["what"]: finding for finding in json.loads(result.stdout)}
    assert result.exit_code == 3 and findings["weights hoisdf"]["state"] == "missing"
    assert "horefine train hoisdf" in findings["weights hoisdf"]["fix"]
    assert findings["renderer cpu"]["state"] == "ok" and findings["embedded hand"]["state"] == "ok"
    assert "weights hoisdf" in horefine("doctor").stdout


def test_doctor_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    from horefine import doctor

    def broken() -> list[doctor.Finding]:
        raise RuntimeError("no")

    monkeypatch.setattr(doctor, "_device", broken)
    assert any(f.state == "missing" and "RuntimeError: no" in f.found for f in doctor.examine())


def test_version() -> None:
    from horefine import __version__

    assert horefine("version").stdout.strip() == __version__
