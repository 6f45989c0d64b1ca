"""FHB: equal to the recorded loader, and right on a generated tree whose pictures show what is annotated."""

from __future__ import annotations

import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from dataset_trees_more import FHB_SEQUENCES, Shot, fhb_tree
from oracles import DATA, load

from horefine.data import Dataset, Sequenced, load_dataset
from horefine.data.fhb import FHB
from horefine.data.fhb_files import COLOR_MATRIX
from horefine.errors import AssetError, ConfigError, InputError
from horefine.geometry import project
from horefine.hand import load_hand


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree that the official loader read."""
    root = tmp_path_factory.mktemp("recorded")
    with tarfile.open(DATA / "datasets" / "fhbhands.tar.gz") as archive:
        archive.extractall(root, filter="data")
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Shot]]:
    root = tmp_path_factory.mktemp("fhb")
    return root, fhb_tree(root)


def opened(root: Path, split: str = "train", **options: object) -> FHB:
    return FHB(root, split, hand="embedded", **options)  # type: ignore[arg-type]


# --- parity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "count"), [("train", 5), ("test", 2)])
def test_every_recorded_number(recorded: Path, split: str, count: int) -> None:
    """Joints, their pixels, the object's transform about its box's centre and its vertices, of the official loader."""
    told = load("datasets/fhb_loader")
    rows = {key: k for k, key in enumerate(told.keys.tolist())}
    data = opened(recorded, split, truth="none")
    assert len(data) == count
    for index in range(count):
        sequence, frame = data._at(index)
        row = rows[f"{sequence.path}/{frame}"]
        joints, matrix = data.joints(index), data.object_matrix(index)
        assert joints is not None
        assert sequence.object == told.objnames[row]
        np.testing.assert_allclose(joints, told.joints_cam_m[row], atol=1e-6)
        pixels = joints @ COLOR_MATRIX.T
        np.testing.assert_allclose(pixels[:, :2] / pixels[:, 2:], told.joints2d_fullres[row], atol=1e-4)
        vertices = np.asarray(trimesh.load_mesh(data.models.paths[sequence.object], process=False).vertices)
        np.testing.assert_allclose(vertices @ matrix[:3, :3].T + matrix[:3, 3], told.obj_verts_cam[row], atol=1e-6)
        centred = matrix[:3, :3] @ told.can_center[row] + matrix[:3, 3]
        np.testing.assert_allclose(matrix[:3, :3], told.obj_transf_wrt_cam[row, :3, :3], atol=1e-6)
        np.testing.assert_allclose(centred, told.obj_transf_wrt_cam[row, :3, 3], atol=1e-6)


def test_recorded_order(recorded: Path) -> None:
    told = [key.replace("/", "_") for key in load("datasets/fhb_loader").keys.tolist()]
    names = opened(recorded, "all", truth="none").names
    assert [f"{name[:-5]}_{int(name[-4:])}" for name in names] == told


# --- the generated tree ------------------------------------------------------------------------------------------


def test_samples_hold_what_the_pictures_show(tree: tuple[Path, dict[str, Shot]]) -> None:
    root, shots = tree
    data = opened(root, "train")
    hand = load_hand(kind="embedded")
    assert len(data) == sum(FHB_SEQUENCES["train"].values())
    for index, name in enumerate(data.names):
        sample, shot = data[index], shots[name]
        assert sample.name == name and sample.side == "right"
        truth, joints = sample.truth, sample.joints
        assert truth is not None and joints is not None and sample.object_truth is not None and sample.mesh is not None
        np.testing.assert_allclose(joints, shot.joints, atol=2e-6)  # the text file has 0.1 micrometres
        np.testing.assert_allclose(sample.object_truth, shot.matrix, atol=2e-6)
        posed = hand(truth.hand_rotvec, truth.hand_shape, truth.hand_transl)
        np.testing.assert_allclose(posed.vertices[0], shot.vertices, atol=1e-5)
        placed = truth.place(sample.mesh.vertices)[0].numpy()
        matrix = sample.object_truth.numpy()
        np.testing.assert_allclose(
            placed, sample.mesh.vertices[0].numpy() @ matrix[:3, :3].T + matrix[:3, 3], atol=1e-5
        )
        seen = project(posed.vertices, sample.camera.matrix)[0].round().long()
        inside = ((seen >= 0) & (seen < torch.tensor([480, 270]))).all(1)
        on_hand = torch.from_numpy(shot.labels)[seen[inside, 1], seen[inside, 0]]
        assert (on_hand > 0).float().mean() > 0.95  # vertices fall on hand or object, but for rounding at the edge


def test_a_picture_of_full_size_has_the_published_camera(tmp_path: Path) -> None:
    fhb_tree(tmp_path, fits=False, pictures="Video_files")
    sample = opened(tmp_path, "test", truth="none")[0]
    assert sample.camera.size == (1080, 1920)
    np.testing.assert_allclose(sample.camera.matrix[0], COLOR_MATRIX, rtol=1e-6)
    assert sample.truth is None


def test_nothing_of_the_annotation_is_given_unless_asked_for(tree: tuple[Path, dict[str, Shot]]) -> None:
    sample = opened(tree[0], "test")[0]
    assert sample.hand_box is sample.object_box is sample.keypoints is sample.wrist is None
    sample = opened(tree[0], "test", give="boxes+wrist+keypoints")[0]
    assert sample.joints is not None and sample.keypoints is not None and sample.hand_box is not None
    np.testing.assert_allclose(sample.wrist, sample.joints[0], atol=1e-7)  # type: ignore[arg-type]
    x0, y0, x1, y1 = sample.hand_box
    assert (sample.keypoints >= torch.tensor([x0, y0])).all() and (sample.keypoints <= torch.tensor([x1, y1])).all()
    assert sample.object_box is not None


def test_without_fits_the_hand_is_fitted_to_the_joints_and_says_so(tmp_path: Path) -> None:
    shots = fhb_tree(tmp_path, fits=False)
    data = opened(tmp_path, "test")
    sample = data[0]
    assert sample.truth is not None and sample.joints is not None
    assert any("fitted to the magnetic joints" in note for note in sample.notes)
    posed = load_hand(kind="embedded")(sample.truth.hand_rotvec, sample.truth.hand_shape, sample.truth.hand_transl)
    assert (posed.joints[0] - sample.joints).norm(dim=-1).mean() < 0.003
    far = np.linalg.norm(posed.vertices[0].numpy() - shots[data.names[0]].vertices, axis=-1).mean()
    assert far < 0.006
    with pytest.raises(ConfigError, match="no MANO fits"):
        opened(tmp_path, truth="fits")


def test_fits_with_another_hand_are_said(tree: tuple[Path, dict[str, Shot]]) -> None:
    assert any("MANO is not here" in note for note in opened(tree[0])[0].notes)


def test_splits_and_filter(tree: tuple[Path, dict[str, Shot]]) -> None:
    root = tree[0]
    assert len(opened(root, "all")) == len(opened(root, "train")) + len(opened(root, "test"))
    subjects = opened(root, "test", by="subjects")
    assert {name[:9] for name in subjects.names} == {"Subject_2"}
    near = opened(root, "all", filter="cpf")
    every = opened(root, "all")
    kept = [name for k, name in enumerate(every.names) if every._distance(k) <= 5]
    assert list(near.names) == kept
    moved = [every._distance(k) for k in range(len(every))]
    joints, matrix = every.joints(0), every.object_matrix(0)  # against every pair, in millimetres
    assert joints is not None
    vertices = np.asarray(trimesh.load_mesh(every.models.paths[every._at(0)[0].object], process=False).vertices)
    pairs = np.linalg.norm((vertices @ matrix[:3, :3].T + matrix[:3, 3])[:, None] - joints, axis=-1)
    assert moved[0] == pytest.approx(1000 * pairs.min(), abs=1e-6)


def test_it_is_a_dataset_that_tells_of_itself(tree: tuple[Path, dict[str, Shot]]) -> None:
    data = load_dataset("fhb", root=tree[0], split="train", hand="embedded")
    assert isinstance(data, Dataset) and isinstance(data, Sequenced)
    assert {name: len(rows) for name, rows in data.sequences().items()} == FHB_SEQUENCES["train"]
    facts = data.describe()
    assert facts["pictures_missing"] == 0 and facts["objects"]["milk"] == 3
    again = pickle.loads(pickle.dumps(data))
    torch.testing.assert_close(again[1].image, data[1].image)


def test_missing_files_are_said_for_their_frame_alone(tmp_path: Path) -> None:
    fhb_tree(tmp_path)
    base = tmp_path / "fhbhands"
    path = "Subject_1/pour_milk/1"
    (base / "Video_files_480" / path / "color" / "color_0001.jpeg").unlink()
    lines = (base / "Hand_pose_annotation_v1" / path / "skeleton.txt").read_text().splitlines()
    (base / "Hand_pose_annotation_v1" / path / "skeleton.txt").write_text("\n".join(lines[:2]) + "\n")
    data = opened(tmp_path, "train")
    assert data.describe()["pictures_missing"] == 1
    with pytest.raises(InputError, match=r"color_0001.jpeg: no such file"):
        data[1]
    assert data[0].joints is not None
    assert data[2].joints is None and data[2].truth is not None  # the fit is there
    joints_only = opened(tmp_path, "train", truth="joints")[2]
    assert joints_only.truth is None and any("no joints" in note for note in joints_only.notes)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    fhb_tree(tmp_path)
    base = tmp_path / "fhbhands"
    (base / "Hand_pose_annotation_v1" / "Subject_1/pour_milk/1" / "skeleton.txt").write_text("0 1.0 2.0\n")
    (tmp_path / "fhbhands_fits" / "Subject_3/put_salt/2" / "pkls.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    data = opened(tmp_path, "train")
    with pytest.raises(InputError, match=r"skeleton.txt: line 1: expected a frame's number and 63 numbers"):
        data[0]
    with pytest.raises(InputError, match=r"refused: the file asks for os\.system"):
        data[3]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "trian"}, "did you mean 'train'"),
        ({"by": "objects"}, "by 'objects'"),
        ({"filter": "cpf5"}, "did you mean 'cpf'"),
        ({"give": "box"}, "did you mean 'boxes'"),
    ],
)
def test_unknown_options_are_refused(tree: tuple[Path, dict[str, Shot]], options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        FHB(tree[0], **{"hand": "embedded", **options})


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no object poses there"):
        opened(tmp_path)


def test_models_in_another_unit_are_refused(tmp_path: Path) -> None:
    fhb_tree(tmp_path)
    file = tmp_path / "fhbhands" / "Object_models" / "milk_model" / "milk_model.ply"
    mesh = trimesh.load_mesh(file)
    mesh.apply_scale(1000)
    mesh.export(file)
    with pytest.raises(InputError, match=r"in m its longest side is 120 m; .* looks like mm"):
        opened(tmp_path)[0]
    shutil.rmtree(file.parent)
    with pytest.raises(AssetError, match="the model of milk is not there"):
        opened(tmp_path)[0]
