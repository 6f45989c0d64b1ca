"""Poses of other systems, in and out: nothing is lost on the way, and the frame is named."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from oracles import load
from typer.testing import CliRunner

from horefine.cli import app
from horefine.data.mirror import mirror_pose
from horefine.errors import ConfigError, InputError
from horefine.evaluate.submissions import write_submission
from horefine.exchange import read_pose
from horefine.exchange_challenges import named, read_dexycb_joints, read_ho3d
from horefine.exchange_hands import _joints, hamer_table, hands_of, meshregnet_place, read_hands, refocused
from horefine.exchange_objects import bop_line, object_matrix, read_bop, read_matrix, write_bop, write_matrix
from horefine.export import write_meshes
from horefine.geometry import Camera, axis_angle_to_matrix, mirror_rotvec
from horefine.hand import load_hand
from horefine.pose_files import export_poses, gather_poses
from horefine.scene import Pose

CAMERA = Camera(torch.tensor([[[612.0, 0, 322.5], [0, 611.0, 241.0], [0, 0, 1]]]), (480, 640))


def hand(seed: int, side: str = "right", spread: float = 0.6) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "hand_rotvec": rng.normal(size=(16, 3)) * spread, "hand_shape": rng.normal(size=10),
        "hand_transl": np.array([0.05, -0.02, 0.6]) + rng.normal(size=3) * 0.05, "side": side,
    }  # fmt: skip


def thing(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"object_rotvec": rng.normal(size=3), "object_transl": np.array([0.01, 0.02, 0.6]) + rng.normal(size=3) / 50}


def pose_folder(folder: Path, sides: tuple[str, ...] = ("right", "left"), spread: float = 0.6) -> dict[str, Pose]:
    """Pose files under the house's names, of BOP's."""
    folder.mkdir(parents=True)
    found = {}
    for k, side in enumerate(sides):
        name = f"{k:06d}_{k + 3:06d}_{k + 1}"
        table = {**hand(k, side, spread), **thing(k)}
        (folder / f"{name}.json").write_text(json.dumps({n: np.asarray(v).tolist() for n, v in table.items()}))
        found[name] = read_pose(folder / f"{name}.json").pose
    return found


def close(found: Pose, told: Pose, tolerance: float = 1e-6) -> None:
    for name, value in told.items():
        np.testing.assert_allclose(getattr(found, name), value, atol=tolerance, err_msg=name)


# --- hands -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
def test_hamer_there_and_back(side: str, tmp_path: Path) -> None:
    told = hand(1, side)
    table = hamer_table(told, CAMERA)
    assert "OpenCV" in table["frame"] and table["pred_mano_params"]["hand_pose"].shape == (1, 15, 3, 3)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(table, protocol=2))
    flat = {f"pred_mano_params.{key}": value for key, value in table["pred_mano_params"].items()}
    np.savez(tmp_path / "a.npz", **flat, **{key: table[key] for key in ("pred_cam_t_full", "right")})
    torch.save({"pred_mano_params": {k: torch.tensor(v) for k, v in table["pred_mano_params"].items()},
                "pred_cam_t_full": torch.tensor(table["pred_cam_t_full"]), "right": torch.tensor(table["right"])},
               tmp_path / "a.pt")  # fmt: skip
    for found in (
        hands_of(table),
        read_hands(tmp_path / "a.pkl"),
        read_hands(tmp_path / "a.npz"),
        read_hands(tmp_path / "a.pt"),
    ):
        assert len(found) == 1 and found[0]["side"] == side and "OpenCV" in found[0]["frame"]
        for key in ("hand_rotvec", "hand_shape", "hand_transl"):
            np.testing.assert_allclose(found[0][key], told[key], atol=1e-9)


def test_a_left_hand_of_hamer_is_where_hamer_shows_it() -> None:
    """HaMeR draws a left hand as its right model's vertices with x turned over, moved by pred_cam_t_full."""
    model = load_hand(kind="embedded")
    told = hand(2, "left")
    table = hamer_table(told)
    params = table["pred_mano_params"]
    right = torch.tensor(hands_of(table | {"right": [1.0]})[0]["hand_rotvec"], dtype=torch.float32)
    own = model(right[None], torch.tensor(params["betas"]).float(), torch.zeros(1, 3)).vertices[0].double().numpy()
    shown = own * [-1, 1, 1] + table["pred_cam_t_full"][0]
    fields = {
        key: torch.tensor(told[key], dtype=torch.float32)[None] for key in ("hand_rotvec", "hand_shape", "hand_transl")
    }
    ours = mirror_pose(Pose(**fields, object_rotvec=torch.zeros(1, 3), object_transl=torch.zeros(1, 3)))
    posed = model(ours.hand_rotvec, ours.hand_shape, ours.hand_transl).vertices[0].double().numpy() * [-1, 1, 1]
    np.testing.assert_allclose(posed, shown, atol=1e-5)


def test_wilor_mini_has_turned_a_left_hand_back_already() -> None:
    told = hand(3, "left")
    inner = {
        "global_orient": told["hand_rotvec"][None, :1], "hand_pose": told["hand_rotvec"][None, 1:],
        "betas": told["hand_shape"][None], "pred_cam_t_full": told["hand_transl"][None], "scaled_focal_length": 12500.0,
    }  # fmt: skip
    found = hands_of({"hand_bbox": [0, 0, 9, 9], "is_right": 0.0, "wilor_preds": inner})[0]
    np.testing.assert_array_equal(found["hand_rotvec"], told["hand_rotvec"])
    assert found["side"] == "left" and found["focal"] == 12500
    # HaMeR's matrices of the same hand are those of its mirror image
    turned = mirror_rotvec(torch.tensor(told["hand_rotvec"]))
    matrices = axis_angle_to_matrix(turned).numpy()[None]
    mano = {"global_orient": matrices[:, :1], "hand_pose": matrices[:, 1:], "betas": inner["betas"]}
    again = hands_of({"pred_mano_params": mano, "pred_cam_t_full": inner["pred_cam_t_full"], "right": [0]})[0]
    np.testing.assert_allclose(again["hand_rotvec"], told["hand_rotvec"], atol=1e-9)


def test_several_hands_in_one_file() -> None:
    tables = [hamer_table(hand(k, side)) for k, side in enumerate(("left", "right"))]
    both: dict[str, Any] = {key: np.concatenate([t[key] for t in tables]) for key in ("pred_cam_t_full", "right")}
    both["pred_mano_params"] = {
        key: np.concatenate([t["pred_mano_params"][key] for t in tables])
        for key in ("global_orient", "hand_pose", "betas")
    }
    assert [found["side"] for found in hands_of(both)] == ["left", "right"]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("focal", [None, 5000.0])
def test_a_hand_is_placed_anew_for_the_true_camera(side: str, focal: float | None) -> None:
    """Far away through a long lens: near through the true one, its joints on nearly the same pixels."""
    model = load_hand(kind="embedded")
    used = focal or 5000 / 256 * 640
    told = hand(4, side)
    told["hand_transl"] = np.array([0.25, -0.15, 0.6 * used / 612])
    found = refocused(told, CAMERA, model, focal)
    assert 0.45 < found["hand_transl"][2] < 0.75
    far, near = (_joints(table, model) for table in (told, {**told, **found}))
    before = far[:, :2] / far[:, 2:] * used + [319.5, 239.5]
    matrix = CAMERA.matrix[0].double().numpy()
    after = near[:, :2] / near[:, 2:] * matrix.diagonal()[:2] + matrix[:2, 2]
    size = np.ptp(before, axis=0).max()
    assert np.linalg.norm(before - after, axis=1).mean() < 0.1 * size  # perspective: no place shows all the same
    assert np.linalg.norm((before - after).mean(0)) < 0.03 * size
    # seen along its ray, it looks as it did
    turns = [axis_angle_to_matrix(torch.tensor(t["hand_rotvec"][0])).numpy() for t in (told, found)]
    rays = [points.mean(0) / np.linalg.norm(points.mean(0)) for points in (far, near)]
    np.testing.assert_allclose(rays[1] @ turns[1], rays[0] @ turns[0], atol=0.03)


def test_the_same_lens_leaves_a_hand_where_it_is() -> None:
    model = load_hand(kind="embedded")
    told = hand(4)
    found = refocused(told, Camera.from_focal(700.0, (480, 640)), model, 700.0)
    np.testing.assert_allclose(found["hand_transl"], told["hand_transl"], atol=1e-3)


def test_meshregnets_place_is_the_recorded_one() -> None:
    told = load("datasets/meshregnet_proj")
    width, height = told.input_res.tolist()
    camera = Camera(torch.tensor(told.K), (height, width))
    place = meshregnet_place(told.est_scale[:, 0, 0], told.est_trans[:, 0], camera, float(told.off_z))
    np.testing.assert_allclose(place, told.center[:, 0], atol=1e-6)
    np.testing.assert_allclose(told.points + place[:, None], told.recov, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pred_cam_t_full": [[1.0, 2.0]]}, r"pred_cam_t_full has shape \(1, 2\)"),
        ({"pred_cam_t_full": [[1.0, 2.0, float("nan")]]}, "not finite"),
        ({"right": [1, 0]}, "right has 2 values for 1 hands"),
        ({"pred_mano_params": {}}, "global_orient is missing"),
    ],
)
def test_bad_hands_are_named(change: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        hands_of(hamer_table(hand(0)) | change)


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(InputError, match=r"refused: the file asks for os\.system"):
        read_hands(tmp_path / "a.pkl")


# --- objects -----------------------------------------------------------------------------------------------------


def test_foundationpose_there_and_back(tmp_path: Path) -> None:
    told = thing(5)
    write_matrix(tmp_path / "a.txt", told)
    assert "OpenCV" in (tmp_path / "a.txt").read_text().splitlines()[0]
    found = read_matrix(tmp_path / "a.txt")
    np.testing.assert_allclose(found["object_rotvec"], told["object_rotvec"], atol=1e-9)
    np.testing.assert_allclose(found["object_transl"], told["object_transl"], atol=1e-12)
    np.testing.assert_allclose(np.loadtxt(tmp_path / "a.txt"), object_matrix(told), atol=1e-15)


def test_bop_there_and_back(tmp_path: Path) -> None:
    told = {"000048_000001_15": thing(6), "000050_000036_2": thing(7)}
    write_bop(tmp_path / "m_d-test.csv", told)
    weaker = bop_line((48, 1, 15), thing(8), 0.3)
    with (tmp_path / "m_d-test.csv").open("a") as file:
        file.write(weaker + "\n")
    found = read_bop(tmp_path / "m_d-test.csv")
    assert set(found) == set(told)
    for name, table in told.items():
        np.testing.assert_allclose(object_matrix(found[name]), object_matrix(table), atol=1e-9)
    with pytest.raises(InputError, match="BOP wants SCENE_IMAGE_OBJECT"):
        write_bop(tmp_path / "x.csv", {"mug": thing(0)})


def test_bad_objects_are_named(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    for matrix, said in (
        (np.eye(3), "expected a 4x4 matrix"),
        (np.diag([2.0, 1, 1, 1]), "no rotation"),
        (np.eye(4) + np.eye(4, k=3) * 500, "another unit"),
        (np.eye(4), "behind the camera"),
    ):
        np.savetxt(file, matrix)
        with pytest.raises(InputError, match=said):
            read_matrix(file)
    csv = tmp_path / "a.csv"
    csv.write_text("scene,im\n")
    with pytest.raises(InputError, match="its first line must be scene_id"):
        read_bop(csv)
    csv.write_text("scene_id,im_id,obj_id,score,R,t,time\n1,2,3,0.5,1 0 0,1 2 3,-1\n")
    with pytest.raises(InputError, match="line 2: expected scene_id"):
        read_bop(csv)


# --- challenges --------------------------------------------------------------------------------------------------


def shown_joints(pose: Pose, side: str) -> np.ndarray:
    model = load_hand(kind="embedded")
    right = mirror_pose(pose) if side == "left" else pose
    joints = model(right.hand_rotvec, right.hand_shape, right.hand_transl).joints[0].double().numpy()
    return joints * ([-1, 1, 1] if side == "left" else 1)


def test_ho3d_there_and_back(tmp_path: Path) -> None:
    """What evaluate writes; HO-3D takes its own fingertips, so only the others are joints of ours."""
    told = pose_folder(tmp_path / "poses", ("right", "right"))
    ids = tmp_path / "evaluation.txt"
    ids.write_text("\n".join(told) + "\n")
    found = write_submission("ho3d", tmp_path / "poses", load_hand(kind="embedded"), ids)
    joints, vertices = read_ho3d(found.path)
    with zipfile.ZipFile(found.path) as archive:
        archive.extract("pred.json", tmp_path)
    np.testing.assert_array_equal(read_ho3d(tmp_path / "pred.json")[0], joints)
    assert vertices is not None
    kept = [k for k in range(21) if k % 4 or k == 0]
    for k, pose in enumerate(told.values()):
        np.testing.assert_allclose(joints[k, kept], shown_joints(pose, "right")[kept], atol=1e-6)
        posed = load_hand(kind="embedded")(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).vertices[0]
        np.testing.assert_allclose(vertices[k], posed, atol=1e-6)
    with pytest.raises(InputError, match="2 predictions for 3 names"):
        named(list(joints), ["a", "b", "c"])
    (tmp_path / "bad.json").write_text("[[[1, 2, 3]]]")
    with pytest.raises(InputError, match=r"expected \(N, 21, 3\)"):
        read_ho3d(tmp_path / "bad.json")


def test_dexycb_there_and_back(tmp_path: Path) -> None:
    told = pose_folder(tmp_path / "poses")
    ids = tmp_path / "ids.csv"
    ids.write_text("name,id\n" + "".join(f"{name},{7 + k}\n" for k, name in enumerate(told)))
    found = write_submission("dexycb", tmp_path / "poses", load_hand(kind="embedded"), ids)
    joints = read_dexycb_joints(found.path)
    assert list(joints) == [7, 8]
    for values, pose, side in zip(joints.values(), told.values(), ("right", "left"), strict=True):
        np.testing.assert_allclose(values, shown_joints(pose, side), atol=1e-6)
    (tmp_path / "bad.txt").write_text("1,2,3\n")
    with pytest.raises(InputError, match="line 1"):
        read_dexycb_joints(tmp_path / "bad.txt")


def test_a_bop_submission_is_read_back(tmp_path: Path) -> None:
    told = pose_folder(tmp_path / "poses")
    found = read_bop(write_submission("bop", tmp_path / "poses", load_hand(kind="embedded")).path)
    for name, pose in told.items():
        np.testing.assert_allclose(found[name]["object_rotvec"], pose.object_rotvec[0], atol=1e-6)
        np.testing.assert_allclose(found[name]["object_transl"], pose.object_transl[0], atol=1e-6)


# --- folders -----------------------------------------------------------------------------------------------------


def test_out_as_every_format_and_in_again(tmp_path: Path) -> None:
    told = pose_folder(tmp_path / "poses")
    for kind in ("hamer", "foundationpose", "smplx", "bop"):
        written, problems = export_poses(tmp_path / "poses", tmp_path / kind, kind, CAMERA)
        assert written == sorted(told) and not problems
    found = gather_poses(
        tmp_path / "init",
        tmp_path / "hamer",
        tmp_path / "foundationpose",
        camera=CAMERA,
        model=load_hand(kind="embedded"),
    )
    assert found.names == tuple(told) and not found.lacking and not found.notes
    again = gather_poses(tmp_path / "init2", tmp_path / "hamer", tmp_path / "bop" / "horefine_dataset-test.csv")
    assert again.names == tuple(told) and "own focal length (612 pixels)" in again.notes[0]
    for name, pose in told.items():
        for file in (
            tmp_path / "init" / f"{name}.json",
            tmp_path / "init2" / f"{name}.json",
            tmp_path / "smplx" / f"{name}.npz",
        ):
            read = read_pose(file)
            close(read.pose, pose)
            assert read.side == ("left" if name.startswith("000001") else "right")
            if file.suffix == ".json":
                assert "OpenCV" in json.loads(file.read_text())["frame"]
            else:
                with np.load(file) as stored:
                    assert "OpenCV" in str(stored["frame"]) and bool(stored["flat_hand_mean"])


def test_challenge_files_become_joints(tmp_path: Path) -> None:
    told = pose_folder(tmp_path / "poses", ("right", "right"), 0.1)
    ids = tmp_path / "evaluation.txt"
    ids.write_text("\n".join(told) + "\n")
    model = load_hand(kind="embedded")
    archive = write_submission("ho3d", tmp_path / "poses", model, ids).path
    export_poses(tmp_path / "poses", tmp_path / "objects", "foundationpose")
    found = gather_poses(tmp_path / "init", archive, tmp_path / "objects", names=list(told))
    assert found.names == tuple(told)
    for name, pose in told.items():
        read = read_pose(tmp_path / "init" / f"{name}.json", hand_model=model)
        np.testing.assert_allclose(read.pose.object_transl, pose.object_transl, atol=1e-6)
        off = np.linalg.norm(shown_joints(read.pose, "right") - shown_joints(pose, "right"), axis=1)
        assert off.mean() < 0.01  # a fit to joints whose tips are HO-3D's


def test_what_is_lacking_is_said(tmp_path: Path) -> None:
    pose_folder(tmp_path / "poses", ("right", "right", "left"))
    export_poses(tmp_path / "poses", tmp_path / "hands", "hamer")
    export_poses(tmp_path / "poses", tmp_path / "objects", "foundationpose")
    (tmp_path / "objects" / "000000_000003_1.txt").unlink()
    (tmp_path / "hands" / "000001_000004_2.json").write_text("{")
    found = gather_poses(tmp_path / "init", tmp_path / "hands", tmp_path / "objects")
    assert found.names == ("000002_000005_3",)
    assert found.lacking["000000_000003_1"] == "no object"
    assert "cannot be read" in found.lacking["000001_000004_2"]
    with pytest.raises(ConfigError, match="no item has all"):
        gather_poses(tmp_path / "init", tmp_path / "hands", tmp_path / "objects", side="both")
    for bad in (tmp_path / "init", tmp_path / "hands" / "000000_000003_1.json"):
        with pytest.raises(ConfigError):
            gather_poses(tmp_path / "x", None, bad)
    with pytest.raises(ConfigError, match="did you mean 'hamer'"):
        export_poses(tmp_path / "poses", tmp_path / "x", "hammer")


def test_the_commands(tmp_path: Path) -> None:
    told = pose_folder(tmp_path / "poses")
    run = CliRunner()
    options = ["--intrinsics", "612,611,322.5,241", "--size", "640x480"]
    parts = [str(tmp_path / name) for name in ("poses", "hamer", "objects", "init")]
    assert run.invoke(app, ["data", "export", *parts[:2], "--as", "hamer", *options]).exit_code == 0
    assert run.invoke(app, ["data", "export", parts[0], parts[2], "--as", "foundationpose"]).exit_code == 0
    result = run.invoke(app, ["data", "poses", parts[3], "--hands", parts[1], "--objects", parts[2], *options])
    assert result.exit_code == 0, result.output
    for name, pose in told.items():
        close(read_pose(tmp_path / "init" / f"{name}.json").pose, pose)
    assert run.invoke(app, ["data", "poses", parts[3], "--hands", parts[1], "--size", "640x480"]).exit_code == 2
    assert run.invoke(app, ["data", "poses", parts[3]]).exit_code == 2


def test_a_scene_file_holds_the_vertices(tmp_path: Path) -> None:
    """GLB: metres, y up, the camera along -z; read back, nothing but float32's rounding is lost."""
    rng = np.random.default_rng(0)
    sphere = trimesh.creation.icosphere(subdivisions=1, radius=0.04)
    around: Any = rng.normal(size=(len(sphere.vertices), 3)) / 50
    parts = {
        "hand": np.asarray(sphere.vertices) + np.array([0.02, -0.01, 0.6]),
        "object": around + np.array([0, 0, 0.5]),
    }
    write_meshes(tmp_path / "scene.glb", {name: (told, sphere.faces, (0.5, 0.5, 0.5)) for name, told in parts.items()})
    scene = trimesh.load_scene(tmp_path / "scene.glb", process=False)
    for name, told in parts.items():
        found = np.asarray(scene.geometry[name].vertices) * [1, -1, -1]  # type: ignore[union-attr]
        np.testing.assert_allclose(found, told, atol=1e-6)
