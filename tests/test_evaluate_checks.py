"""Mistakes of unit, frame and order that ``horefine evaluate`` recognises from the numbers."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluate_folders import (
    HAND,
    NAMES,
    PLACES,
    Arrays,
    arrays,
    findings,
    photographs,
    scaled,
    three_folders,
    true_poses,
    write,
)  # fmt: skip
from scipy.spatial.transform import Rotation

from horefine import Mesh, Pose
from horefine.anatomy import convert_joints
from horefine.data.maps import disturb
from horefine.evaluate import cases, checks, evaluation, predictions, tables
from horefine.objects import embedded_object


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A truth, a rough and a fine system's poses."""
    return three_folders(tmp_path_factory.mktemp("evaluate"))


def in_gl(table: Arrays) -> Arrays:
    turned = table | {"object_rotvec": gl_rotation(table["object_rotvec"][None])[0]}
    turned["hand_rotvec"] = np.concatenate([gl_rotation(table["hand_rotvec"][:1]), table["hand_rotvec"][1:]])
    return turned


def gl_rotation(rotvec: np.ndarray) -> np.ndarray:
    return Rotation.from_matrix(np.diag([1.0, -1.0, -1.0]) @ Rotation.from_rotvec(rotvec).as_matrix()).as_rotvec()


def thumb_first(table: Arrays) -> Arrays:
    blocks = table["hand_rotvec"][1:].reshape(5, 9)[[4, 0, 1, 3, 2]]
    return table | {"hand_rotvec": np.concatenate([table["hand_rotvec"][:1], blocks.reshape(15, 3)])}


TURNS = ("hand_rotvec", "object_rotvec")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (scaled(1000.0, *PLACES), "positions are in millimetres"),
        (scaled(1000.0, "object_transl"), "the object's position is in millimetres"),
        (scaled(100.0, *PLACES), "positions are in centimetres"),
        (scaled([1, -1, -1], *PLACES), "positions are in OpenGL's camera"),
        (scaled([1000, -1000, -1000], *PLACES), "positions are in millimetres and OpenGL's camera"),
        (in_gl, "the wrist's rotation is in OpenGL's axes"),
        (scaled(180 / np.pi, *TURNS), "the object's rotation is in degrees"),
        (scaled(-1.0, "object_rotvec"), "the object's rotation is transposed"),
        (thumb_first, "the fingers are thumb, index, middle, ring, pinky"),
    ],
)
def test_mistakes_that_all_make_are_said_once(
    scene: tuple[Path, Path, Path], tmp_path: Path, change: Callable[[Arrays], Arrays], said: str
) -> None:
    pose = disturb(true_poses(), 5, 4, 6, 3, model=HAND)
    folder = write(tmp_path / "poses", pose, change)
    found = findings(scene[0], folder)
    told = [mistake for mistake in found.mistakes if said in mistake.what]
    assert len(told) == 1 and len(told[0].items) >= 7, found.sentences()
    if "position" in said:
        assert found.sentences()[0].startswith(f"all 8 predictions: {said}") and len(found.scores.failures) == 8


def test_one_pose_in_millimetres_is_named_alone(scene: tuple[Path, Path, Path], tmp_path: Path) -> None:
    pose = disturb(true_poses(), 5, 4, 6, 3, model=HAND)
    folder = write(tmp_path / "poses", pose)
    np.savez(folder / f"{NAMES[2]}.npz", **scaled(1000.0, *PLACES)(arrays(pose, 2)))
    found = findings(scene[0], folder)
    assert found.sentences()[0] == (
        f"1 of 8 predictions ({NAMES[2]}): positions are in millimetres; divide them by 1000"
    )
    assert list(found.scores.failures) == [NAMES[2]]


def moved_frame(table: Arrays) -> Arrays:
    shift = Rotation.from_rotvec(table["object_rotvec"]).apply([0.03, -0.02, 0.05])
    return table | {"object_transl": table["object_transl"] + shift}


def turned_frame(table: Arrays) -> Arrays:
    turn = Rotation.from_rotvec(table["object_rotvec"]) * Rotation.from_rotvec([0, 0, -np.pi / 2])
    return table | {"object_rotvec": turn.as_rotvec()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (moved_frame, "'mug' are of a mesh whose origin is at (28."),
        (turned_frame, "'mug' are of a mesh turned by ("),
    ],
)
def test_another_frame_of_the_mesh_is_recognised(
    scene: tuple[Path, Path, Path], tmp_path: Path, change: Callable[[Arrays], Arrays], said: str
) -> None:
    pose = disturb(true_poses(), 5, 3, 4, 3, model=HAND)
    found = findings(scene[0], write(tmp_path / "poses", pose, change))
    told = [mistake for mistake in found.mistakes if said in mistake.what]
    assert len(told) == 1 and told[0].items == NAMES[::2], found.sentences()


def test_an_error_of_depth_is_no_frame(scene: tuple[Path, Path, Path], tmp_path: Path) -> None:
    away = {"object_transl": np.array([0.0, 0.0, 0.05])}
    folder = write(tmp_path / "poses", true_poses(), lambda table: table | {k: table[k] + v for k, v in away.items()})
    assert findings(scene[0], folder).mistakes == ()


@pytest.mark.parametrize("seed", range(8))
def test_bad_systems_are_not_suspected(scene: tuple[Path, Path, Path], tmp_path: Path, seed: int) -> None:
    """Large random errors are errors, no misunderstanding."""
    folder = write(tmp_path / "poses", disturb(true_poses(), 20 + seed, 45, 80, 25, model=HAND))
    assert findings(scene[0], folder).mistakes == ()


def test_radians_near_nothing_are_not_called_degrees(tmp_path: Path) -> None:
    """Objects that are hardly turned, and a system that turns each by a radian or two: less would be better, always."""
    truth = dataclasses.replace(true_poses(), object_rotvec=torch.zeros(len(NAMES), 3))
    folder = photographs(tmp_path / "truth", truth, ("mug", "mug"))
    wrong = dataclasses.replace(truth, object_rotvec=torch.randn(8, 3, generator=torch.Generator().manual_seed(3)))
    assert findings(folder, write(tmp_path / "poses", wrong)).mistakes == ()


def test_joints_in_another_order_are_named(scene: tuple[Path, Path, Path], tmp_path: Path) -> None:
    pose = true_poses()
    joints = HAND(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).joints
    folder = write(tmp_path / "poses", pose)
    given = (joints[0], convert_joints(joints[1], "house", "ho3d"), joints[2] * 1000, joints[3] + 0.2)
    for k, value in enumerate(given):
        np.savez(folder / f"{NAMES[k]}.npz", **arrays(pose, k), hand_joints=value.numpy())
    found = {mistake.items: mistake.what for mistake in findings(scene[0], folder).mistakes}
    assert found[(NAMES[1],)].startswith("hand_joints are in the order of mano or ho3d")
    assert found[(NAMES[2],)] == "hand_joints are in millimetres"
    assert found[(NAMES[3],)] == "hand_joints are not those of the pose"
    assert len(found) == 3


def test_empty_and_open_meshes_are_named() -> None:
    mesh, pose = embedded_object("mug"), true_poses()
    holed = Mesh(mesh.vertices, mesh.faces[:, 5:], name=("holed",))
    empty = Mesh(mesh.vertices[:, :0], mesh.faces[:, :0], name=("nothing",))
    listed = [cases.Case(str(k), pose=pose[k], mesh=m) for k, m in enumerate((mesh, holed, empty))]
    given = [predictions.Prediction(case.name, case.pose) for case in listed]
    found = evaluation.evaluate(listed, given, HAND, ("HE_mm", "pd_mm"))
    assert "'nothing' is empty" in found.scores.failures["2"] and "'holed' is not closed" in found.open["1"]
    assert np.isnan(found.scores.values["pd_mm"]).tolist() == [False, True, True]
    assert found.scores.values["HE_mm"][1] == pytest.approx(0, abs=1e-3)


def test_items_without_a_hand_are_measured_by_their_objects(scene: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Among others: the hand counts where it is known, nobody suspects it elsewhere, and a failed item is no hand."""
    nan = {name: torch.full_like(getattr(true_poses(), name), torch.nan) for name in Pose.names if "hand" in name}
    bare = dataclasses.replace(true_poses(), **nan)
    known = cases.cases_from(scene[0])
    mixed = [
        dataclasses.replace(case, pose=bare[k], side="right", object_only=True) if k in (2, 4) else case
        for k, case in enumerate(known)
    ]
    folder = write(tmp_path / "poses", true_poses(), scaled(180 / np.pi, "hand_rotvec"))
    (folder / f"{NAMES[4]}.npz").unlink()
    output = predictions.Output(folder)
    metrics = ("HE_mm", "OE_mm", "pd_mm")
    found = evaluation.evaluate(mixed, predictions.read_predictions(output, mixed, HAND), HAND, metrics)
    scores = found.scores
    assert np.flatnonzero(np.isnan(scores.counted("HE_mm"))).tolist() == [2, 4]
    assert np.isnan(scores.counted("pd_mm")[[2, 4]]).all()
    assert scores.counted("OE_mm")[4] == np.inf and scores.counted("OE_mm")[2] == pytest.approx(0, abs=1e-3)
    assert scores.take([4, 2]).object_only == {NAMES[2], NAMES[4]}
    (mistake,) = found.mistakes
    assert "hand's rotations are in degrees" in mistake.what
    assert set(mistake.items) == set(NAMES) - {NAMES[2], NAMES[4]}
    said = f"2 of 8 items have no annotated hand, the first: {NAMES[2]}: their objects alone are measured"
    assert said in found.sentences()
    rows = {row["metric"]: row["n"] for row in tables.metric_rows(scores)}
    assert rows == {"HE_mm": 6, "OE_mm": 7, "pd_mm": 6}


def test_mistakes_are_sentences() -> None:
    mistake = checks.Mistake("a", "b", ("x",))
    assert mistake.sentence(9) == "1 of 9 predictions (x): a; b"
    assert checks.Mistake("a", "b", tuple("wxyz")).sentence(5) == "4 of 5 predictions: a; b"
    assert checks.Mistake("a", "b", tuple("wxyz")).sentence(4) == "all 4 predictions: a; b"
