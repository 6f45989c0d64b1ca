"""ObMan: equal to the recorded loader, and right on a generated tree with a left hand and a missing model."""

from __future__ import annotations

import dataclasses
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from dataset_trees import right_hand
from dataset_trees_more import Shot, obman_tree
from oracles import DATA, load
from scipy.spatial.transform import Rotation

from horefine.data import Dataset, Sequenced, load_dataset
from horefine.data.annotation import fit_vertices, nearest_rotation
from horefine.data.mirror import mirror_sample
from horefine.data.obman import MATRIX, ObMan, _split_affine
from horefine.errors import ConfigError, InputError
from horefine.hand import HandModel, load_hand
from horefine.mano import HandData


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("SHAPENET_ROOT", raising=False)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree that the official loader read."""
    root = tmp_path_factory.mktemp("recorded")
    with tarfile.open(DATA / "datasets" / "obman.tar.gz") as archive:
        archive.extractall(root, filter="data")
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Shot]]:
    root = tmp_path_factory.mktemp("obman")
    return root, obman_tree(root)


def as_mano() -> HandData:
    """The embedded hand's arrays in the place of MANO's, with a PCA basis."""
    return right_hand()


def pixels(points: np.ndarray) -> np.ndarray:
    moved = points @ MATRIX.T
    return moved[:, :2] / moved[:, 2:]


# --- parity ------------------------------------------------------------------------------------------------------


def test_every_recorded_number(recorded: Path) -> None:
    told = load("datasets/obman_loader")
    data = ObMan(recorded, "test", hand="embedded", truth="none")
    np.testing.assert_array_equal(MATRIX, told.cam_intr)
    assert len(data) == len(told.joints3d) and data.shapenet is not None
    for index in range(len(data)):
        meta = data.annotation(index)
        path = data.shapenet / meta["class_id"] / meta["sample_id"] / "models" / "model_normalized.obj"
        model = np.asarray(trimesh.load_mesh(path, process=False).vertices)
        affine = data.object_affine(index)
        moved = model @ affine[:3, :3].T + affine[:3, 3]
        hand, thing = data.masks(index)
        for found, official in (
            (data.joints(index), told.joints3d[index]),
            (data.vertices(index), told.verts3d[index]),
            (moved, told.obj_verts[index]),
        ):
            np.testing.assert_allclose(found, official, atol=1e-6)
        for found, official in (
            (pixels(data.joints(index)), told.joints2d[index]),
            (pixels(data.vertices(index)), told.verts2d[index]),
            (pixels(moved), told.obj_verts2d[index]),
        ):
            np.testing.assert_allclose(found, official, atol=1e-4)
        assert [hand.sum(), thing.sum(), 0] == told.segm[index].tolist()
        rigid = data[index].object_truth
        assert rigid is not None
        scaled = model * meta["obj_scale"]
        np.testing.assert_allclose(scaled @ rigid[:3, :3].numpy().T + rigid[:3, 3].numpy(), moved, atol=1e-6)


# --- the generated tree ------------------------------------------------------------------------------------------


def test_samples_hold_what_the_pictures_show(tree: tuple[Path, list[Shot]]) -> None:
    root, shots = tree
    data = ObMan(root, "test", mano=as_mano())
    hand = data.hand.model()
    assert data.names == ("test_00000000", "test_00000001", "test_00000002")
    for sample, shot, side in zip((data[k] for k in range(3)), shots, ("right", "right", "left"), strict=True):
        assert sample.side == side and sample.mesh is not None and sample.truth is not None
        assert sample.joints is not None and sample.object_truth is not None and sample.depth is not None
        np.testing.assert_allclose(sample.joints, shot.joints, atol=1e-6)
        np.testing.assert_allclose(sample.object_truth, shot.matrix, atol=1e-6)
        right = mirror_sample(sample) if side == "left" else sample
        assert right.truth is not None
        posed = hand(right.truth.hand_rotvec, right.truth.hand_shape, right.truth.hand_transl).vertices[0].numpy()
        np.testing.assert_allclose(posed * ([-1, 1, 1] if side == "left" else 1), shot.vertices, atol=2e-5)
        placed = sample.truth.place(sample.mesh.vertices)[0].numpy()
        corners = np.array([placed.min(0), placed.max(0)])
        scale = float(sample.mesh.scale) / 0.7
        model = trimesh.creation.box((0.3 * scale, 0.7 * scale, 0.3 * scale)).vertices
        moved = np.asarray(model) @ shot.matrix[:3, :3].T + shot.matrix[:3, 3]
        np.testing.assert_allclose(corners, [moved.min(0), moved.max(0)], atol=1e-5)
        seen = shot.depth > 0
        step = np.ptp(shot.depth[seen]) / 254
        np.testing.assert_allclose(sample.depth.numpy()[seen], shot.depth[seen], atol=step)
        assert (sample.depth.numpy()[~seen] == 0).all()


def test_masks_of_both_sides(tree: tuple[Path, list[Shot]]) -> None:
    data = ObMan(tree[0], "test", hand="embedded", truth="none")
    for index, shot in enumerate(tree[1]):
        hand, thing = data.masks(index)
        np.testing.assert_array_equal(hand, shot.labels == 1)
        np.testing.assert_array_equal(thing, shot.labels == 2)


def test_with_the_embedded_hand_the_pose_comes_from_the_joints(tree: tuple[Path, list[Shot]]) -> None:
    sample = ObMan(tree[0], "test", hand="embedded")[2]
    assert sample.truth is not None and sample.joints is not None
    assert any("embedded hand" in note and "joints" in note for note in sample.notes)
    turned = mirror_sample(sample)
    assert turned.truth is not None and turned.joints is not None
    posed = load_hand(kind="embedded")(turned.truth.hand_rotvec, turned.truth.hand_shape, turned.truth.hand_transl)
    assert (posed.joints[0] - turned.joints).norm(dim=-1).mean() < 0.003


def test_a_missing_shapenet_model_is_said(tmp_path: Path) -> None:
    obman_tree(tmp_path, ("right", "right"), absent=1)
    data = ObMan(tmp_path, "test", hand="embedded", truth="none")
    assert data[0].mesh is not None
    sample = data[1]
    assert sample.mesh is None and sample.object_truth is not None
    assert any("no mesh" in note and "model_normalized.obj" in note for note in sample.notes)


def test_shapenet_may_be_elsewhere_or_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    obman_tree(tmp_path, ("right",))
    other = tmp_path / "elsewhere"
    (tmp_path / "shapenet").rename(other)
    sample = ObMan(tmp_path, "test", hand="embedded", truth="none")[0]
    assert sample.mesh is None and "SHAPENET_ROOT" in " ".join(sample.notes)
    assert ObMan(tmp_path, "test", shapenet=other, hand="embedded", truth="none")[0].mesh is not None
    monkeypatch.setenv("SHAPENET_ROOT", str(other))
    assert ObMan(tmp_path, "test", hand="embedded", truth="none")[0].mesh is not None
    with pytest.raises(ConfigError, match="no such folder"):
        ObMan(tmp_path, "test", shapenet=tmp_path / "nowhere", hand="embedded")


def test_it_is_a_dataset_that_tells_of_itself(tree: tuple[Path, list[Shot]]) -> None:
    data = load_dataset("obman", root=tree[0], split="test", hand="embedded", truth="none")
    assert isinstance(data, Dataset) and isinstance(data, Sequenced)
    assert [len(rows) for rows in data.sequences().values()] == [3]
    assert data.describe()["depth_missing"] == 0
    again = pickle.loads(pickle.dumps(data))
    torch.testing.assert_close(again[1].image, data[1].image)


def test_bad_input_is_named(tmp_path: Path) -> None:
    obman_tree(tmp_path, ("right", "right", "right"))
    folder = tmp_path / "obman" / "test"
    (folder / "rgb" / "00000000.jpg").unlink()
    table = pickle.loads((folder / "meta" / "00000001.pkl").read_bytes())
    (folder / "meta" / "00000001.pkl").write_bytes(pickle.dumps(table | {"coords_3d": np.zeros((20, 3))}, protocol=2))
    (folder / "meta" / "00000002.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    data = ObMan(tmp_path, "test", hand="embedded")
    for index, said in enumerate(("no such file", r"coords_3d has shape \(20, 3\)", "refused: the file asks for")):
        with pytest.raises(InputError, match=said):
            data[index]
    with pytest.raises(ConfigError, match="no val/meta there"):
        ObMan(tmp_path, "val")
    with pytest.raises(ConfigError, match="did you mean 'val'"):
        ObMan(tmp_path, "vall")


# --- parts -------------------------------------------------------------------------------------------------------


def test_an_affine_map_is_a_rigid_motion_after_a_stretch() -> None:
    rng = np.random.default_rng(0)
    for scales in ((0.2, 0.2, 0.2), (0.1, 0.2, 0.3), (-0.2, 0.2, 0.2)):
        axes = Rotation.from_rotvec(rng.normal(size=3)).as_matrix()
        affine = np.eye(4)
        affine[:3, :3] = Rotation.from_rotvec(rng.normal(size=3)).as_matrix() @ axes @ np.diag(scales) @ axes.T
        affine[:3, 3] = rng.normal(size=3)
        rigid, stretch = _split_affine(affine)
        np.testing.assert_allclose(rigid[:3, :3] @ rigid[:3, :3].T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rigid[:3, :3]) > 0
        np.testing.assert_allclose(rigid[:3, :3] @ stretch, affine[:3, :3], atol=1e-5)
        np.testing.assert_array_equal(rigid[:3, 3], affine[:3, 3])


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_hand_is_found_from_its_vertices_whatever_the_fingers_values_mean(side: str) -> None:
    model = load_hand(kind="embedded")
    rng = np.random.default_rng(3)
    rotvec = torch.tensor(rng.normal(size=(1, 16, 3)) * 0.3, dtype=torch.float32)
    rotvec[0, 0] = torch.tensor([1.9, -0.4, 2.0])
    shape, transl = torch.tensor(rng.normal(size=(1, 10))).float(), torch.tensor([[0.1, -0.2, 0.6]])
    vertices = model(rotvec, shape, transl).vertices[0].numpy() * ([-1, 1, 1] if side == "left" else 1)
    given = rotvec[0, 1:] - model.mean_rotvec[1:]
    found = fit_vertices(vertices, [given, given + model.mean_rotvec[1:]], side, model)
    assert found.residual < 1e-5
    posed = model(found.rotvec, found.shape, found.transl).vertices[0].numpy()
    np.testing.assert_allclose(posed * ([-1, 1, 1] if side == "left" else 1), vertices, atol=1e-5)
    np.testing.assert_allclose(found.transl, transl, atol=2e-4)


def test_a_hand_mesh_of_another_model_is_refused() -> None:
    with pytest.raises(InputError, match="100 vertices"):
        fit_vertices(np.zeros((100, 3)), [torch.zeros(15, 3)], "right", load_hand(kind="embedded"))


def test_the_nearest_rotation_is_a_rotation() -> None:
    exact = torch.from_numpy(Rotation.from_rotvec(np.random.default_rng(0).normal(size=(4, 3))).as_matrix())
    torch.testing.assert_close(nearest_rotation(exact), exact)
    near = nearest_rotation(exact + 1e-3 * torch.randn(4, 3, 3, dtype=torch.float64))
    torch.testing.assert_close(near @ near.mT, torch.eye(3, dtype=torch.float64).expand(4, 3, 3))
    mirrored = exact @ torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    assert (nearest_rotation(mirrored).det() > 0).all()


def test_the_hand_model_of_given_arrays_is_used(recorded: Path) -> None:
    other = dataclasses.replace(as_mano(), template=as_mano().template * 1.1)
    data = ObMan(recorded, "test", mano=other)
    assert isinstance(data._model, HandModel) and data.hand.name == "mano"
    assert float(np.ptp(data._model.template.numpy())) > float(np.ptp(load_hand(kind="embedded").template.numpy()))
