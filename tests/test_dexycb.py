"""DexYCB: the index against the official one, labels decoded, left hands, what is missing or damaged."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from dataset_trees import OBJECTS, Frame, corners, dexycb_tree, left_hand, posed, project, right_hand, write_hands
from oracles import DATA
from PIL import Image

from horefine.data import Dataset, Sample, Sequenced, load_dataset
from horefine.data.dexycb import DexYCB
from horefine.data.dexycb_keep import KEEP
from horefine.data.dexycb_splits import SPLITS
from horefine.data.hand_truth import TruthHand, nearest_shape
from horefine.data.mirror import mirror_pose
from horefine.errors import AssetError, ConfigError, InputError
from horefine.geometry import axis_angle_to_matrix
from horefine.hand import HandModel


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1000 recordings that the official loader has indexed, with three labels."""
    folder = tmp_path_factory.mktemp("official")
    with tarfile.open(DATA / "datasets" / "dexycb.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "dexycb"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Frame]]:
    """One subject with images."""
    root = tmp_path_factory.mktemp("dexycb")
    frames = dexycb_tree(root, cameras=2)
    write_hands(root / "mano")
    return root, frames


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


RECORDED = json.loads((DATA / "datasets" / "dexycb_index.json").read_text())


@pytest.mark.parametrize("split", [name for name in RECORDED if "label" not in name])
def test_index_is_the_official_one(official: Path, split: str) -> None:
    """Lengths, files, cameras, objects, shapes and BOP's ids of every split."""
    expected, data = RECORDED[split], DexYCB(official, split, hand="embedded")
    assert (len(data), len(data.recordings)) == (expected["len"], expected["n_seq"])
    for index, sample, bop in zip(expected["idx"], expected["samples"], expected["bop"], strict=True):
        recording, camera, frame = data.locate(index)
        ids = data.ids(index)
        assert ids is not None
        assert [ids["image"], ids["scene_id"], ids["im_id"]] == [index, *bop]
        assert str(data.files[index].relative_to(official)) == sample["color_file"]
        assert sample["label_file"].endswith(f"{data.serials[camera]}/labels_{frame:06d}.npz")
        assert list(recording.objects) == sample["ycb_ids"]
        assert recording.grasped == sample["ycb_grasp_ind"]
        assert recording.side == sample["mano_side"]
        assert data.truths.betas(recording) == pytest.approx(sample["mano_betas"])
        matrix, expected_camera = data._cameras[camera].matrix[0], sample["intrinsics"]
        found = [matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]]
        assert torch.stack(found).tolist() == [expected_camera[key] for key in ("fx", "fy", "ppx", "ppy")]


@pytest.mark.parametrize("split", ["s0_test", "s1_test", "s2_test", "s3_test"])
def test_targets_of_bop_and_grasp(official: Path, split: str) -> None:
    expected = RECORDED[split]
    for keep in ("bop", "grasp"):
        data = DexYCB(official, split, keep=keep, hand="embedded")
        assert len(data) == expected[f"n_{keep}"]
        assert [data.number(index) for index in range(40)] == expected[f"first_{keep}"]
        assert not data.ids(1) or data.ids(1)["image"] == data.number(1)  # type: ignore[index]
    marked = {i: s["is_bop_target"] for i, s in zip(expected["idx"], expected["samples"], strict=True)}
    assert {i for i, target in marked.items() if target} == set(marked) & set(KEEP["bop"](data).tolist())  # type: ignore[union-attr]


def test_recorded_labels(official: Path) -> None:
    """Poses as they stand; an absent hand (joints -1) and an absent object (all zero) are None."""
    data = DexYCB(official, "s0/test", hand="embedded")
    for number in RECORDED["label_idx_s0_test"]:
        recording, camera, frame = data.locate(number)
        path = official / recording.folder / data.serials[camera] / f"labels_{frame:06d}.npz"
        label, stored = data.label(number), np.load(path)
        assert np.array_equal(label.objects, stored["pose_y"])
        if (stored["joint_3d"] == -1).all():
            assert label.hand is label.joints is label.points is None
        else:
            assert label.hand is not None
            assert label.joints is not None
            assert label.points is not None
            assert np.array_equal(label.hand, stored["pose_m"][0])
            assert np.array_equal(label.joints, stored["joint_3d"][0])
            assert np.array_equal(label.points, stored["joint_2d"][0])
        assert np.array_equal(np.unique(data.segmentation(number)), np.unique(stored["seg"]))
    assert data.label(7).hand is None


def test_splits_cover_and_do_not_meet() -> None:
    whole = {(s, c, r) for s in range(10) for c in range(8) for r in range(100)}
    for setup in ("s0", "s1", "s2", "s3"):
        parts = [SPLITS[f"{setup}/{part}"] for part in ("train", "val", "test")]
        sets = [{(s, c, r) for s in p.subjects for c in p.cameras for r in p.recordings} for p in parts]
        assert set.union(*sets) == whole
        assert sum(map(len, sets)) == len(whole)


# --- samples -----------------------------------------------------------------------------------------------------


def opened(tree: tuple[Path, dict[str, Frame]], **options: object) -> DexYCB:
    root = tree[0]
    return DexYCB(root, "s0/test", partial=True, **({"mano_dir": root / "mano"} | options))  # type: ignore[arg-type]


def pictured(data: DexYCB, frames: dict[str, Frame]) -> dict[str, int]:
    return {name: index for index, name in enumerate(data.names) if name in frames}


def posed_as_seen(sample: Sample, model: HandModel) -> tuple[np.ndarray, np.ndarray]:
    """Joints and vertices of the truth, as they are in the picture."""
    assert sample.truth is not None
    left = sample.side == "left"
    pose = mirror_pose(sample.truth) if left else sample.truth
    hand = model(pose.hand_rotvec, pose.hand_shape, pose.hand_transl)
    flip = np.array([-1.0 if left else 1.0, 1, 1])
    return hand.joints[0].double().numpy() * flip, hand.vertices[0].double().numpy() * flip


def test_samples_show_what_was_put_in(tree: tuple[Path, dict[str, Frame]]) -> None:
    """Right hands to 1e-6 m; left ones to what MANO's fault leaves, with the wrist exact and all rotations."""
    frames, data = tree[1], opened(tree)
    model, found = data.hand.model(), {}
    for name, index in pictured(data, frames).items():
        sample, true = data[index], frames[name]
        assert sample.name == name
        assert sample.mesh is not None
        assert sample.mesh.symmetries is None
        assert sample.image.shape == (3, 480, 640)
        assert sample.depth is not None
        assert sample.depth[:20].max() == 0
        x, y = project(true.vertices[:1])[0].round().astype(int)
        assert sample.depth[y - 3 : y + 3, x - 3 : x + 3] == pytest.approx(true.vertices[0, 2], abs=0.12)
        assert sample.depth[-1, -1] == pytest.approx(0.95)
        assert [sample.keypoints, sample.hand_box, sample.object_box, sample.wrist] == [None] * 4
        found[name] = sample
        if sample.truth is None:
            continue
        joints, vertices = posed_as_seen(sample, model)
        assert joints[0] == pytest.approx(true.joints[0], abs=1e-6)
        assert sample.joints == pytest.approx(true.joints, abs=1e-6)
        assert sample.truth.hand_rotvec[0] == pytest.approx(true.rotvec, abs=1e-6)
        off = np.linalg.norm(vertices - true.vertices, axis=1)
        assert off.max() < (1e-6 if sample.side == "right" else 0.012)
        assert off.mean() < (1e-6 if sample.side == "right" else 0.003)
        held = sample.truth.place(sample.mesh.vertices)[0].numpy()
        box = corners(sample.mesh.name[0]) @ true.matrix[:3, :3].T + true.matrix[:3, 3]
        assert held.min(0) == pytest.approx(box.min(0), abs=1e-5)
        assert held.max(0) == pytest.approx(box.max(0), abs=1e-5)
    sides = [sample.side for sample in found.values() if sample.truth is not None]
    assert sides.count("left") == 4
    assert sides.count("right") == 1


def test_absent_hand_and_object_are_stated(tree: tuple[Path, dict[str, Frame]]) -> None:
    data = opened(tree)
    first = data.recordings[0].name
    no_hand = data[data.names.index(f"{first}_836212060125_000001")]
    no_object = data[data.names.index(f"{first}_839512060362_000000")]
    assert no_hand.truth is no_hand.joints is None
    assert "no hand is annotated" in no_hand.notes[-1]
    assert no_hand.object_truth is not None
    assert no_object.truth is no_object.object_truth is None
    assert "the object's pose is not annotated" in no_object.notes[-1]
    assert no_object.joints is not None


def test_what_papers_assume_is_given_when_asked_for(tree: tuple[Path, dict[str, Frame]]) -> None:
    data = opened(tree, give="boxes+wrist+keypoints")
    sample, true = data[data.names.index(name := next(iter(tree[1])))], tree[1][next(iter(tree[1]))]
    assert name == sample.name
    assert sample.wrist == pytest.approx(true.joints[0], abs=1e-6)
    assert sample.keypoints is not None
    assert sample.hand_box is not None
    assert sample.object_box is not None
    x0, y0, x1, y1 = sample.hand_box
    assert ((sample.keypoints > torch.tensor([x0, y0])) & (sample.keypoints < torch.tensor([x1, y1]))).all()
    with pytest.raises(ConfigError, match=r"give: 'box'.*did you mean 'boxes'"):
        opened(tree, give="box")


def test_left_hand_without_its_own_file(tree: tuple[Path, dict[str, Frame]], tmp_path: Path) -> None:
    """MANO_RIGHT alone: the left hand's basis and mean are its mirror image."""
    shutil.copy(tree[0] / "mano" / "MANO_RIGHT.npz", tmp_path)
    with_file, without = opened(tree), opened(tree, mano_dir=tmp_path)
    assert with_file.hand.left is not None
    assert without.hand.left is None
    index = next(i for n, i in pictured(with_file, tree[1]).items() if with_file.locate(i)[0].side == "left")
    first, second = with_file[index].truth, without[index].truth
    assert first is not None
    assert second is not None
    for (name, value), (_, other) in zip(first.items(), second.items(), strict=True):
        assert torch.allclose(value, other, atol=1e-6), name


def test_nearest_shape_of_a_faulty_left_hand() -> None:
    """Better than keeping the values, wrist exact, linear; none is needed where the fault does nothing."""
    hand = right_hand()
    betas = np.random.default_rng(1).normal(size=10)
    shape, residual = nearest_shape(hand, betas)
    offsets = hand.shapedirs - np.einsum("v,vck->ck", hand.regressor[0], hand.shapedirs)
    wanted = (offsets @ betas) * [-1, 1, 1]
    kept = np.linalg.norm(offsets @ betas - wanted, axis=1).mean()
    assert residual == pytest.approx(np.linalg.norm(offsets @ shape - wanted, axis=1).mean())
    assert residual < kept
    assert nearest_shape(hand, 2 * betas)[0] == pytest.approx(2 * shape)
    assert nearest_shape(hand, np.zeros(10))[1] == 0
    truth = TruthHand(hand, left_hand(hand))
    values, transl = np.random.default_rng(2).normal(size=48) * 0.2, np.array([0.1, 0.05, 0.6])
    found = truth.from_pca(values, np.zeros(10), transl, "left")
    left = left_hand(hand)
    assert left.components is not None
    rotvec = np.concatenate([values[None, :3], (values[3:] @ left.components).reshape(15, 3) + left.mean_rotvec[1:]])
    _, vertices = posed(left, rotvec, np.zeros(10), transl)
    ours = truth.model()(found.rotvec, found.shape, found.transl).vertices[0].numpy()
    assert ours * [-1, 1, 1] == pytest.approx(vertices, abs=1e-6)  # without shape there is no fault


def test_fault_and_wrong_hand_are_said_once(
    tree: tuple[Path, dict[str, Frame]], caplog: pytest.LogCaptureFixture
) -> None:
    data = opened(tree)
    lefts = [i for n, i in pictured(data, tree[1]).items() if data.locate(i)[0].side == "left"]
    with caplog.at_level(logging.INFO, "horefine.data"):
        for index in lefts:
            _ = data[index]
    assert sum("sign fault of MANO's left shapes" in record.message for record in caplog.records) == 1
    assert not [r for r in caplog.records if "annotated joints" in r.message]
    hand = right_hand()
    assert hand.components is not None
    wrong = opened(tree, mano=type(hand)(**{**vars(hand), "components": hand.components[::-1]}))
    with caplog.at_level(logging.WARNING, "horefine.data"):
        _ = wrong[pictured(wrong, tree[1])[next(iter(tree[1]))]]
    assert any("mm from the annotated joints" in record.message for record in caplog.records)


def test_without_mano_the_embedded_hand_is_fitted(tree: tuple[Path, dict[str, Frame]]) -> None:
    data = opened(tree, mano_dir=None, hand="embedded")
    name = next(iter(tree[1]))
    sample = data[data.names.index(name)]
    joints, _ = posed_as_seen(sample, data.hand.model())
    assert np.linalg.norm(joints - tree[1][name].joints, axis=1).mean() < 0.003
    assert "fitted to the annotated joints" in sample.notes[-1]


def test_camera_to_world_is_that_of_the_calibration(tree: tuple[Path, dict[str, Frame]]) -> None:
    data = opened(tree)
    matrix = data.camera_to_world(0)
    assert matrix[:3, :3] @ matrix[:3, :3].T == pytest.approx(np.eye(3), abs=1e-12)
    stored = yaml.safe_load((tree[0] / "calibration/extrinsics_20200702_151821/extrinsics.yml").read_text())
    assert matrix[:3].reshape(-1).tolist() == stored["extrinsics"]["836212060125"]


# --- the index as a sequence -------------------------------------------------------------------------------------


def test_is_a_dataset_with_recordings(tree: tuple[Path, dict[str, Frame]]) -> None:
    data = load_dataset("dexycb", root=tree[0], partial=True, hand="embedded")
    assert isinstance(data, Dataset)
    assert isinstance(data, Sequenced)
    assert isinstance(data, DexYCB)
    rows = data.sequences()
    assert sorted(row for part in rows.values() for row in part) == list(range(len(data)))
    for name, part in rows.items():
        assert [data.names[row] for row in part] == [f"{name}_{frame:06d}" for frame in range(len(part))]
    assert data.describe()["samples"] == len(data)
    assert len(set(data.names)) == len(data)
    assert not any("/" in name for name in data.names[:100])
    assert data.number(-1) == len(data) - 1
    with pytest.raises(IndexError):
        data[len(data)]
    kept = opened(tree, keep="bop")
    assert sorted(row for part in kept.sequences().values() for row in part) == list(range(len(kept)))


def test_pickles_small_and_reads_the_same_in_threads(tree: tuple[Path, dict[str, Frame]]) -> None:
    data = opened(tree, hand="embedded", mano_dir=None)
    indices = list(pictured(data, tree[1]).values())[4:6]
    first = [data[index] for index in indices]
    content = pickle.dumps(data)
    assert len(content) < 100_000
    again: DexYCB = pickle.loads(content)
    with ThreadPoolExecutor(2) as pool:
        second = list(pool.map(again.__getitem__, indices))
    for one, other in zip(first, second, strict=True):
        assert one.truth is not None
        assert other.truth is not None
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.truth.hand_rotvec, other.truth.hand_rotvec)
        assert one.ids == other.ids


# --- which frames ------------------------------------------------------------------------------------------------


def test_gsdf_keeps_right_hands_that_touch(
    tree: tuple[Path, dict[str, Frame]], caplog: pytest.LogCaptureFixture
) -> None:
    """Every fifth frame, right hands; in a test split hand and object within 5 mm, from the labels; kept on disk."""
    data = opened(tree)
    with caplog.at_level(logging.INFO):
        numbers = _touching(data, tree[1])
        if not numbers:
            with pytest.raises(ConfigError, match="keep=gsdf: none of 80 frames passes"):
                opened(tree, keep="gsdf")
        else:
            kept = opened(tree, keep="gsdf")
            assert [kept.number(index) for index in range(len(kept))] == numbers
    assert any("left out" in record.message and "no such file" in record.message for record in caplog.records)
    with pytest.raises(AssetError, match="mano_dir"):
        opened(tree, keep="gsdf", hand="embedded", mano_dir=None)


def _touching(data: DexYCB, frames: dict[str, Frame]) -> list[int]:
    found = []
    for name, index in pictured(data, frames).items():
        sample, frame = data[index], data.locate(index)[2]
        if sample.side == "right" and frame % 5 == 0 and sample.truth is not None and sample.mesh is not None:
            held = sample.truth.place(sample.mesh.vertices)[0].numpy()
            if np.linalg.norm(held[:, None] - frames[name].vertices, axis=-1).min() <= 0.005:
                found.append(index)
    return found


def test_sides_and_hoisdf_full(official: Path) -> None:
    right, left = (DexYCB(official, "s1/test", keep=side, hand="embedded") for side in ("right", "left"))
    whole = DexYCB(official, "s1/test", hand="embedded")
    assert len(right) + len(left) == len(whole)
    assert all(right.locate(right.number(i))[0].side == "right" for i in range(0, len(right), 97))
    full = DexYCB(official, "s0/test", keep="hoisdf_full", hand="embedded")  # three labels are there, one has no hand
    assert [full.number(index) for index in range(len(full))] == [0, 7551]


def test_frames_from_a_papers_list(official: Path, tmp_path: Path) -> None:
    whole = DexYCB(official, "s0/test", hand="embedded")
    wanted = [5, 1078, 7551]
    for name, text in {
        "gsdf.json": json.dumps([f"{number:08d}" for number in wanted]),
        "numbers.json": json.dumps(wanted),
        "hoisdf.json": json.dumps({f"s0_{number}": {} for number in wanted}),
        "names.txt": "\n".join(whole.names[number] for number in wanted),
        "paths.txt": "\n".join(str(whole.files[number]) for number in wanted),
    }.items():
        path = tmp_path / name
        path.write_text(text)
        data = DexYCB(official, "s0/test", frames=path, hand="embedded")
        assert [data.number(index) for index in range(len(data))] == wanted, name
        assert data.names[1] == whole.names[1078]
    (tmp_path / "far.json").write_text("[7552]")
    with pytest.raises(ConfigError, match=r"far\.json: '7552': not a frame of s0/test"):
        DexYCB(official, "s0/test", frames=tmp_path / "far.json", hand="embedded")
    with pytest.raises(ConfigError, match="no such file"):
        DexYCB(official, "s0/test", frames=tmp_path / "none.json", hand="embedded")


# --- what goes wrong ---------------------------------------------------------------------------------------------


def test_wrong_folders_say_which_is_right(official: Path, tmp_path: Path) -> None:
    subject = official / "20200709-subject-01"
    for given, said in {
        official / "nothing": "no such folder",
        subject: f"it is one subject's; give {official}",
        next(subject.iterdir()): f"it is one recording's; give {official}",
        official.parent: f"they are in {official}: give that folder",
        tmp_path: "it holds no folders",
    }.items():
        with pytest.raises(ConfigError, match=said):
            DexYCB(given, hand="embedded")
    (tmp_path / "20200709-subject-01.tar.gz").touch()
    with pytest.raises(ConfigError, match="unpack the archives first"):
        DexYCB(tmp_path, hand="embedded")
    (tmp_path / "20200709-subject-01").mkdir()
    with pytest.raises(ConfigError, match="has no folder 'calibration'"):
        DexYCB(tmp_path, hand="embedded")
    with pytest.raises(ConfigError, match=r"split 's0/tests'.*did you mean 's0/test'"):
        DexYCB(official, "s0/tests", hand="embedded")
    with pytest.raises(ConfigError, match=r"keep: 'gsfd'; did you mean 'gsdf'"):
        DexYCB(official, keep="gsfd", hand="embedded")


def test_missing_subjects_are_an_error_unless_partial(tree: tuple[Path, dict[str, Frame]]) -> None:
    with pytest.raises(ConfigError, match=r"incomplete: subject-04 \(0 of 100 recordings\).*partial=true"):
        DexYCB(tree[0], "s0/test", hand="embedded")
    with pytest.raises(ConfigError, match="no complete subject"):
        DexYCB(tree[0], "s0/val", partial=True, hand="embedded")
    data = opened(tree)
    assert data.ids(0) is None  # places in the official split are not known
    assert len(DexYCB(tree[0], "all", hand="embedded")) == 100 * 8 * 2


def test_missing_calibration(tree: tuple[Path, dict[str, Frame]], tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(tree[0], root)
    (root / "calibration" / "intrinsics" / "836212060125_640x480.yml").unlink()
    with pytest.raises(InputError, match=r"836212060125_640x480\.yml: no such file; the download may be incomplete"):
        DexYCB(root, "all", hand="embedded")
    shutil.copytree(tree[0] / "calibration", root / "calibration", dirs_exist_ok=True)
    shutil.rmtree(next((root / "calibration").glob("mano_*right")))
    data = DexYCB(root, "all", mano_dir=root / "mano")
    sample = data[data.names.index(next(iter(tree[1])))]
    assert sample.truth is None
    assert "mano.yml: no such file" in sample.notes[-1]
    next(root.glob("2020*/2020*/meta.yml")).write_text("serials: [")
    with pytest.raises(InputError, match=r"meta\.yml: cannot be read as YAML"):
        DexYCB(root, "all", hand="embedded")


@pytest.mark.parametrize("broken", ["color_000000.jpg", "aligned_depth_to_color_000000.png", "labels_000000.npz"])
@pytest.mark.parametrize("how", ["missing", "empty", "cut", "text"])
def test_one_bad_file_spoils_one_sample(
    tree: tuple[Path, dict[str, Frame]], tmp_path: Path, broken: str, how: str
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(tree[0], root)
    data = DexYCB(root, "all", hand="embedded")
    index = data.names.index(next(iter(tree[1])))
    path = data.files[index].with_name(broken)
    content = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes(
            {"empty": b"", "cut": content[: len(content) // 2], "text": b"<html>quota exceeded</html>"}[how]
        )
    if how == "missing" and "depth" in broken:
        assert any("no depth" in note for note in data[index].notes)
    else:
        with pytest.raises(InputError, match=broken) as caught:
            _ = data[index]
        assert str(path.parent) in str(caught.value)
    assert data[index + 1].image.shape == (3, 480, 640)


def test_reduced_pictures_are_refused(tree: tuple[Path, dict[str, Frame]], tmp_path: Path) -> None:
    """Labels and calibration are for 640x480: nothing is guessed."""
    root = tmp_path / "copy"
    shutil.copytree(tree[0], root)
    data = DexYCB(root, "all", hand="embedded")
    index = data.names.index(next(iter(tree[1])))
    with Image.open(data.files[index]) as file:
        file.resize((320, 240)).save(data.files[index])
    with pytest.raises(InputError, match=r"color_000000\.jpg: 320x240 pixels; DexYCB's pictures have 640x480"):
        _ = data[index]


def test_poses_without_pictures(tree: tuple[Path, dict[str, Frame]]) -> None:
    """The same truth, no photograph and no depth."""
    with_pictures, without = opened(tree), opened(tree, pictures=False)
    index = with_pictures.names.index(next(iter(tree[1])))
    first, second = with_pictures[index], without[index]
    assert second.image.shape == (3, 1, 1)
    assert second.depth is None
    assert torch.equal(first.camera.matrix, second.camera.matrix)
    assert first.truth is not None
    assert second.truth is not None
    assert torch.equal(first.truth.hand_rotvec, second.truth.hand_rotvec)


def test_labels_of_other_shapes_are_refused(tree: tuple[Path, dict[str, Frame]], tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(tree[0], root)
    data = DexYCB(root, "all", hand="embedded")
    index = data.names.index(next(iter(tree[1])))
    path = data.files[index].with_name("labels_000000.npz")
    with np.load(path) as stored:
        table = dict(stored)
    for key, value, said in (
        (
            "pose_y",
            table["pose_y"][:2],
            r"pose_y is float32 of shape \(2, 3, 4\); expected numbers of shape \(3, 3, 4\)",
        ),
        ("joint_3d", table["joint_3d"] * np.nan, "joint_3d holds numbers that are not finite"),
        ("pose_m", np.array([None]), "damaged"),
    ):
        np.savez(path, **{**table, key: value})
        with pytest.raises(InputError, match=said):
            data.label(index)
    del table["pose_m"]
    np.savez(path, **table)
    with pytest.raises(InputError, match="pose_m"):
        data.label(index)


def test_models_missing_symmetric_or_of_bop(tree: tuple[Path, dict[str, Frame]], tmp_path: Path) -> None:
    """No model: said, no crash. BOP's symmetries move to this model's frame: a half turn about its box's axis."""
    root = tmp_path / "copy"
    shutil.copytree(tree[0], root)
    name, size = "003_cracker_box", np.array(OBJECTS["003_cracker_box"]) * 1e3
    entry = {f"min_{axis}": -half / 2 for axis, half in zip("xyz", size, strict=True)}
    entry |= {f"size_{axis}": value for axis, value in zip("xyz", size.tolist(), strict=True)}
    turn = np.diag([-1.0, -1.0, 1.0, 1.0]).reshape(-1).tolist()
    (root / "bop" / "models").mkdir(parents=True)
    (root / "bop" / "models" / "models_info.json").write_text(
        json.dumps({"2": entry | {"symmetries_discrete": [turn]}})
    )
    mesh, _ = DexYCB(root, "all", hand="embedded").models.find(name)
    assert mesh is not None
    assert mesh.symmetries is not None
    assert mesh.symmetries.shape == (1, 2, 4, 4)
    moved = mesh.vertices[0] @ mesh.symmetries[0, 1, :3, :3].T + mesh.symmetries[0, 1, :3, 3]
    assert torch.allclose(moved.amin(0), mesh.box[0][0], atol=1e-6)  # the box falls onto itself, though its origin
    assert torch.allclose(moved.amax(0), mesh.box[1][0], atol=1e-6)  # is not its centre
    shutil.rmtree(root / "models")
    data = DexYCB(root, "all", hand="embedded")
    sample = data[data.names.index(next(iter(tree[1])))]
    assert sample.mesh is None
    assert any("no mesh: no folder of object models was found" in note for note in sample.notes)
    assert data.describe()["models missing"] == sorted(OBJECTS)
    with pytest.raises(ConfigError, match="no such folder"):
        DexYCB(root, "all", models=tmp_path / "none", hand="embedded")


def test_rotations_are_rotations(tree: tuple[Path, dict[str, Frame]]) -> None:
    data = opened(tree)
    name = next(iter(tree[1]))
    sample = data[data.names.index(name)]
    assert sample.truth is not None
    turn = axis_angle_to_matrix(sample.truth.object_rotvec)[0].numpy()
    assert turn == pytest.approx(tree[1][name].matrix[:3, :3], abs=1e-6)
    assert sample.object_truth is not None
    assert sample.object_truth.numpy() == pytest.approx(tree[1][name].matrix, abs=1e-6)
