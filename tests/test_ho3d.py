"""HO-3D: equal to CPF's loader and the official projection; axes, depth, what is not annotated, missing or damaged."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from dataset_trees import AXES, Frame, ho3d_tree, right_hand, write_hands
from oracles import DATA, load
from PIL import Image

from horefine.anatomy import convert_joints
from horefine.data import Dataset, Sequenced, load_dataset
from horefine.data.ho3d import HO3D
from horefine.data.ho3d_files import read_frames, read_ho3d_depth, split_named
from horefine.errors import AssetError, ConfigError, InputError
from horefine.geometry import axis_angle_to_matrix, project
from horefine.hand import HandModel
from horefine.mano import HandData


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree that official code was run on."""
    folder = tmp_path_factory.mktemp("official")
    with tarfile.open(DATA / "datasets" / "ho3d.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "ho3d"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Frame]]:
    root = tmp_path_factory.mktemp("ho3d")
    frames = ho3d_tree(root)
    write_hands(root / "mano")
    return root, frames


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def recorded_data() -> HandData:
    """The hand that the recording was made with."""
    arrays = load("synth_hand")
    return HandData(
        arrays.v_template, arrays.faces, arrays.weights, arrays.J_regressor, arrays.shapedirs, arrays.posedirs,
        np.zeros((16, 3)),
    )  # fmt: skip


def test_equal_to_the_recorded_loader(official: Path) -> None:
    """Joints, vertices, pose and translation after the change of axes, object in the camera: 1e-5 m."""
    recorded = load("datasets/ho3d_cpf_loader")
    data = HO3D(official, "train", mano=recorded_data())
    model = HandModel.from_data(recorded_data(), "recorded")
    for place, name in enumerate(recorded.frames):
        sample = data[data.names.index(str(name)[len("train/") :].replace("/", "_"))]
        pose = sample.truth
        assert pose is not None
        assert sample.joints is not None
        assert sample.joints.numpy() == pytest.approx(recorded.get_joints3d[place], abs=1e-6)
        pixels = project(sample.joints[None].double(), sample.camera.matrix.double())[0].numpy()
        assert pixels == pytest.approx(recorded.get_joints2d[place], abs=2e-3)  # single precision there
        hand = model(pose.hand_rotvec, pose.hand_shape, pose.hand_transl)
        assert hand.vertices[0].numpy() == pytest.approx(recorded.get_hand_verts3d[place], abs=1e-6)
        assert pose.hand_rotvec.reshape(48).numpy() == pytest.approx(recorded.get_hand_pose_wrt_cam[place], abs=1e-6)
        assert pose.hand_transl[0].numpy() == pytest.approx(recorded.get_hand_tsl_wrt_cam[place], abs=1e-6)
        _check_object(official, data, sample.mesh.name[0], pose, recorded, place)  # type: ignore[union-attr]


def _check_object(root: Path, data: HO3D, name: str, pose, recorded, place: int) -> None:
    vertices = np.asarray(trimesh.load(root / "models" / name / "textured_simple.obj", process=False).vertices)  # type: ignore[union-attr]
    turn, place_ = axis_angle_to_matrix(pose.object_rotvec.double())[0].numpy(), pose.object_transl[0].double().numpy()
    count = int(recorded.n_obj_verts[place])
    assert vertices @ turn.T + place_ == pytest.approx(recorded.get_obj_verts_transf[place][:count], abs=1e-6)
    # CPF's canonical object: axes changed, centred at its box; the same motion seen from there
    change = np.diag(AXES)
    centre = (vertices @ change).min(0) / 2 + (vertices @ change).max(0) / 2
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn @ change, turn @ change @ centre + place_
    assert matrix == pytest.approx(recorded.get_obj_transf_wrt_cam[place], abs=1e-6)
    corners = data.annotation(data.names.index(str(recorded.frames[place])[6:].replace("/", "_"))).corners
    assert corners is not None
    assert corners @ change - centre == pytest.approx(recorded.get_obj_corners_can[place], abs=1e-6)
    assert corners @ turn.T + place_ == pytest.approx(recorded.get_obj_corners3d[place], abs=1e-6)


def test_equal_to_the_recorded_projection_and_depth(official: Path) -> None:
    recorded, data = load("datasets/ho3d_projection"), HO3D(official, "train", mano=recorded_data())
    for place, name in enumerate(recorded.frames):
        sample = data[data.names.index(str(name).replace("/", "_"))]
        assert sample.joints is not None
        assert sample.depth is not None
        pixels = project(sample.joints[None], sample.camera.matrix)
        ordered = convert_joints(torch.cat([pixels, pixels[..., :1]], -1), "house", "ho3d")[0, :, :2].numpy()
        assert ordered == pytest.approx(recorded.uv_joints_mano_order[place], abs=2e-3)
        assert float(sample.depth.max()) == pytest.approx(recorded.depth_m[place], abs=1e-6)


def test_depth_does_not_wrap_around(tmp_path: Path) -> None:
    """(R + 256 G) steps: in 8 bits 256 G would be 0."""
    values = np.zeros((4, 5, 3), np.uint8)
    values[0, 0], values[1, 1], values[2, 2] = (255, 0, 9), (0, 1, 9), (255, 255, 0)
    Image.fromarray(values).save(tmp_path / "0000.png")
    depth = read_ho3d_depth(tmp_path / "0000.png", (4, 5)).double()
    step = 0.00012498664727900177
    assert [float(depth[k, k]) for k in range(4)] == pytest.approx([255 * step, 256 * step, 65535 * step, 0], rel=1e-6)
    with pytest.raises(InputError, match="5x4 pixels, its photograph has 4x4"):
        read_ho3d_depth(tmp_path / "0000.png", (4, 4))


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_samples_show_what_was_put_in(tmp_path: Path, version: str) -> None:
    """Turned about the wrist, not about the origin: vertices exact to 1e-6 m."""
    frames = ho3d_tree(tmp_path, version)
    data = HO3D(tmp_path, "train", mano=right_hand())
    model = data.hand.model()
    assert data.version == version
    for index, name in enumerate(data.names):
        sample, true = data[index], frames[name.replace("_", "/")]
        assert sample.name == name
        assert [sample.wrist, sample.hand_box, sample.keypoints] == [None] * 3
        if sample.truth is None:
            continue
        pose = sample.truth
        hand = model(pose.hand_rotvec, pose.hand_shape, pose.hand_transl)
        assert hand.vertices[0].numpy() == pytest.approx(true.vertices, abs=1e-6)
        assert hand.joints[0, 0].numpy() == pytest.approx(true.joints[0], abs=1e-6)
        assert sample.object_truth is not None
        assert sample.object_truth.numpy() == pytest.approx(true.matrix, abs=1e-6)
        assert sample.depth is not None
        assert [float(sample.depth[row, 0]) for row in (0, -1)] == pytest.approx([0, 0.95], abs=1e-4)
        assert sample.ids is None
    given = HO3D(tmp_path, "train", mano=right_hand(), give="boxes+wrist+keypoints")[0]
    assert given.wrist == pytest.approx(frames["SM2/0000"].joints[0], abs=1e-6)
    assert given.hand_box is not None
    assert given.object_box is not None
    assert given.keypoints is not None


def test_unannotated_frame_is_stated(tree: tuple[Path, dict[str, Frame]]) -> None:
    data = HO3D(tree[0], "train", mano_dir=tree[0] / "mano")
    sample = data[data.names.index("MC2_0001")]
    assert sample.truth is sample.mesh is sample.joints is sample.object_truth is None
    assert "this frame is not annotated" in sample.notes
    assert torch.equal(sample.camera.matrix, data[data.names.index("MC2_0000")].camera.matrix)
    assert any("camera of another frame" in note for note in sample.notes)


def test_evaluation_part_gives_box_and_wrist(tree: tuple[Path, dict[str, Frame]]) -> None:
    """In the order of evaluation.txt, whatever the names' order; no hand is annotated, its object is."""
    data = HO3D(tree[0], hand="embedded")
    lines = (tree[0] / "evaluation.txt").read_text().split()
    assert [name.replace("_", "/") for name in data.names] == lines
    assert lines != sorted(lines)
    for index, line in enumerate(lines):
        sample, true = data[index], tree[1][line]
        assert sample.ids == {"image": index}
        assert sample.truth is sample.joints is None
        assert "only the wrist" in sample.notes[-1]
        assert sample.wrist == pytest.approx(true.joints[0], abs=1e-6)
        assert sample.hand_box is not None
        assert sample.object_truth is not None
        assert sample.object_truth.numpy() == pytest.approx(true.matrix, abs=1e-6)
    bare = HO3D(tree[0], hand="embedded", give=())[0]
    assert bare.wrist is bare.hand_box is None


def test_published_joints_of_the_evaluation_part(tree: tuple[Path, dict[str, Frame]], tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(tree[0], root)
    lines = (root / "evaluation.txt").read_text().split()
    joints = [convert_joints(torch.from_numpy(tree[1][n].joints)[None], "house", "ho3d")[0].numpy() for n in lines]
    (root / "evaluation_xyz.json").write_text(json.dumps([(points * AXES).tolist() for points in joints]))
    for split in ("evaluation", "v2-/test"):
        data = HO3D(root, split, mano_dir=root / "mano")
        for index, name in enumerate(data.names):
            sample, true = data[index], tree[1][name.replace("_", "/")]
            assert sample.joints is not None
            assert sample.joints.numpy() == pytest.approx(true.joints, abs=1e-6)
            assert sample.truth is not None
            pose = sample.truth
            found = data.hand.model()(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).joints[0].numpy()
            assert np.linalg.norm(found - true.joints, axis=1).mean() < 0.003
            assert sample.object_truth is not None
    for text, said in (
        ("[[[0, 0, 0]]]", "1 entries for 3 frames: of another version"),
        ("[[1], [2], [3]]", "ValueError"),
        ("{}", "expected a list"),
        ("[", "cannot be read as JSON"),
    ):
        (root / "evaluation_xyz.json").write_text(text)
        with pytest.raises(InputError, match=rf"evaluation_xyz\.json: .*{said}"):
            HO3D(root, hand="embedded")[0]


def test_splits_by_name(tmp_path: Path) -> None:
    """CPF's: training frames of version 1; test frames with a grasp, in order of time."""
    for sequence, count in {"SM2": 3, "MC2": 2, "ABF10": 4}.items():
        (tmp_path / "train" / sequence / "meta").mkdir(parents=True)
        for number in range(count):
            (tmp_path / "train" / sequence / "meta" / f"{number:04d}.pkl").touch()
    names, rows, numbers = read_frames(tmp_path, replace(split_named("v1/train"), sequences=("SM2",)))
    assert (names, rows.tolist(), numbers.tolist()) == (["SM2"], [0, 0, 0], [0, 1, 2])
    assert read_frames(tmp_path, split_named("v1/test"))[2].tolist() == [0, 1]
    with pytest.raises(ConfigError, match="MC1/meta: no such folder; this split has all frames of MC1"):
        read_frames(tmp_path, split_named("v1/train"))
    (tmp_path / "evaluation").mkdir()
    frames = ["SM1/0889", "SM1/0890", "MPM10/0029", "MPM10/0451", "MPM10/0450", "MPM10/0030", "AP10/0000", "SB13/1415"]
    (tmp_path / "evaluation.txt").write_text("\n".join(frames))
    names, rows, numbers = read_frames(tmp_path, split_named("v2-/test"))
    found = [f"{names[row]}/{number:04d}" for row, number in zip(rows, numbers, strict=True)]
    assert found == ["SM1/0889", "MPM10/0030", "MPM10/0450", "SB13/1415"]
    assert split_named("test") == split_named("evaluation")
    with pytest.raises(ConfigError, match=r"split 'trian'.*did you mean 'train'"):
        split_named("trian")


def test_is_a_dataset_with_recordings(tree: tuple[Path, dict[str, Frame]]) -> None:
    data = load_dataset("ho3d", root=str(tree[0]), split="train", mano_dir=str(tree[0] / "mano"))
    assert isinstance(data, Dataset)
    assert isinstance(data, Sequenced)
    assert isinstance(data, HO3D)
    assert {name: list(rows) for name, rows in data.sequences().items()} == {"SM2": [0, 1, 2], "MC2": [3, 4]}
    assert data.describe()["dataset"] == "HO-3D v2"
    again: HO3D = pickle.loads(pickle.dumps(data))
    first, second = data[1].truth, again[1].truth
    assert first is not None
    assert second is not None
    assert torch.equal(first.hand_transl, second.hand_transl)
    with pytest.raises(IndexError):
        data[5]


def test_embedded_hand_is_fitted_without_mano(tree: tuple[Path, dict[str, Frame]]) -> None:
    sample = HO3D(tree[0], "train", hand="embedded")[0]
    assert sample.truth is not None
    assert "fitted to the annotated joints" in sample.notes[-1]


def test_frames_that_touch(tree: tuple[Path, dict[str, Frame]]) -> None:
    """CPF's filter: a vertex of the object within 5 mm of the palmar side; those of the tree that do are kept."""
    data = HO3D(tree[0], "train", mano_dir=tree[0] / "mano")
    palmar = data.hand.model().palmar.numpy()
    near = []
    for index, name in enumerate(data.names):
        sample = data[index]
        if sample.truth is not None and sample.mesh is not None:
            held = sample.truth.place(sample.mesh.vertices)[0].numpy()
            hand = tree[1][name.replace("_", "/")].vertices[palmar]
            if np.linalg.norm(held[:, None] - hand, axis=-1).min() <= 0.005:
                near.append(name)
    if near:
        assert list(HO3D(tree[0], "train", keep="cpf", mano_dir=tree[0] / "mano").names) == near
    else:
        with pytest.raises(ConfigError, match="keep=cpf: none of 5 frames passes"):
            HO3D(tree[0], "train", keep="cpf", mano_dir=tree[0] / "mano")
    with pytest.raises(AssetError, match="mano_dir"):
        HO3D(tree[0], "train", keep="cpf", hand="embedded")


# --- what goes wrong ---------------------------------------------------------------------------------------------


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (__import__("os").system, ("touch /nonexistent/evil",))


def test_pickles_are_not_run(tree: tuple[Path, dict[str, Frame]], tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(tree[0], root)
    data = HO3D(root, "train", hand="embedded")
    path = root / "train/SM2/meta/0000.pkl"
    path.write_bytes(pickle.dumps({"camMat": _Evil()}))
    with pytest.raises(InputError, match=r"meta/0000\.pkl: refused: the file asks for (posix|nt)\.system"):
        data.annotation(0)


def test_annotations_written_by_python_2(tree: tuple[Path, dict[str, Frame]], tmp_path: Path) -> None:
    """The official files are: text keys as bytes, numpy's old module names, protocol 2."""
    root = tmp_path / "copy"
    shutil.copytree(tree[0], root)
    path = root / "train/SM2/meta/0000.pkl"
    first = HO3D(root, "train", hand="embedded").annotation(0)
    content = path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    path.write_bytes(content)
    again = HO3D(root, "train", hand="embedded").annotation(0)
    assert np.array_equal(again.rotvec, first.rotvec)  # type: ignore[arg-type]


@pytest.mark.parametrize("broken", ["rgb/0000.png", "depth/0000.png", "meta/0000.pkl"])
@pytest.mark.parametrize("how", ["missing", "empty", "cut", "text"])
def test_one_bad_file_spoils_one_sample(
    tree: tuple[Path, dict[str, Frame]], tmp_path: Path, broken: str, how: str
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(tree[0], root)
    data, path = HO3D(root, "train", hand="embedded"), root / "train" / "SM2" / broken
    content = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"<html>sorry</html>"}[how])
    if how == "missing" and "depth" in broken:
        assert any("no depth" in note for note in data[0].notes)
    else:
        with pytest.raises(InputError, match="0000") as caught:
            _ = data[0]
        assert str(path.parent) in str(caught.value)
    assert data[1].image.shape == (3, 480, 640)


def test_wrong_folders_and_lists_say_the_way_out(tree: tuple[Path, dict[str, Frame]], tmp_path: Path) -> None:
    root = tmp_path / "up" / "copy"
    shutil.copytree(tree[0], root)
    for given, said in {
        root / "none": "no such folder",
        root / "train": f"it is one part; give {root}",
        root.parent: f"give {root}",
        root / "models": "it holds 003_cracker_box, 006_mustard_bottle",
    }.items():
        with pytest.raises(ConfigError, match=said):
            HO3D(given, hand="embedded")
    (root / "evaluation.txt").write_text("SM1/0000\nSM1-0001\n")
    with pytest.raises(ConfigError, match="line 2: 'SM1-0001'; expected a frame such as SM1/0000"):
        HO3D(root, hand="embedded")
    (root / "evaluation.txt").unlink()
    with pytest.raises(ConfigError, match=r"evaluation\.txt: no such file; it lists the frames"):
        HO3D(root, hand="embedded")
    with pytest.raises(ConfigError, match=r"give: 'wrists'.*did you mean 'wrist'"):
        HO3D(root, "train", give="wrists", hand="embedded")
    with pytest.raises(ConfigError, match="keep: 'all_'"):
        HO3D(root, "train", keep="all_", hand="embedded")


def test_another_mesh_of_the_object_is_doubted(
    tree: tuple[Path, dict[str, Frame]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    box = trimesh.creation.box((0.06, 0.2, 0.1))
    (tmp_path / "006_mustard_bottle").mkdir()
    box.export(tmp_path / "006_mustard_bottle" / "textured_simple.obj")
    data = HO3D(tree[0], "train", models=tmp_path, hand="embedded")
    with caplog.at_level(logging.WARNING):
        sample = data[0]
    assert any("off the annotated box by" in record.message for record in caplog.records)
    assert any("centred at the origin" in note for note in sample.notes)
    assert data[3].mesh is None
    assert any("has no 003_cracker_box" in note for note in data[3].notes)


def test_annotation_of_other_shapes_is_refused(tree: tuple[Path, dict[str, Frame]], tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(tree[0], root)
    data, path = HO3D(root, "train", hand="embedded"), root / "train/SM2/meta/0000.pkl"
    table = pickle.loads(path.read_bytes())
    for key, value, said in (
        ("handPose", np.zeros(45), r"handPose is \(45,\); expected numbers of shape \(16, 3\)"),
        ("objTrans", np.full(3, np.nan), "objTrans: 3 numbers, not all finite"),
        ("handJoints3D", np.zeros((20, 3)), "handJoints3D: 60 numbers"),
        ("camMat", "none", "camMat is str; expected numbers"),
    ):
        path.write_bytes(pickle.dumps({**table, key: value}))
        with pytest.raises(InputError, match=said):
            data.annotation(0)
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(InputError, match="not an annotation of HO-3D's"):
        data.annotation(0)
