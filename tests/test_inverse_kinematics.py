"""Joints become hands: gSDF's formula against its official code, closed form, fit, and what is said of bad joints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import load, tensor
from photo_folder import FEW_STEPS, write_photo_folder
from torch import Tensor
from typer.testing import CliRunner

from horefine import HandModel, joints_to_pose, load_hand
from horefine.anatomy import JOINT_ORDERS, JOINTS, ROTATIONS, anatomy_angles, compose_angles, convert_joints
from horefine.cli import app
from horefine.data.mirror import mirror_pose
from horefine.data.synthetic import SceneSource
from horefine.errors import InputError
from horefine.exchange import find_item, read_pose
from horefine.geometry import axis_angle_to_matrix
from horefine.hand import Hand
from horefine.inverse_kinematics import closed_form, gsdf_kinematics
from horefine.inverse_kinematics.closed_form import flat_joints
from horefine.inverse_kinematics.fit import _angles, _moved, _Problem, joint_hand
from horefine.scene import Pose

MIRROR = torch.tensor([-1.0, 1.0, 1.0])


def hand_model() -> HandModel:
    return load_hand(kind="embedded")


@pytest.fixture(scope="module")
def grasps() -> tuple[Pose, Hand]:
    """Hands that hold things: nothing that the prior was made of."""
    source = SceneSource(3)
    pose = Pose.cat([source.layout(i)[1].pose for i in range(6)])
    return pose, hand_model()(pose.hand_rotvec, pose.hand_shape, pose.hand_transl)


def noisy(joints: Tensor, millimetres: float, seed: int = 0) -> Tensor:
    return joints + torch.randn(joints.shape, generator=torch.Generator().manual_seed(seed)) * millimetres / 1000


def apart(a: Tensor, b: Tensor) -> Tensor:
    """Mean distance of joints, millimetres, for each hand."""
    return (a - b).norm(dim=-1).mean(1) * 1000


def possible_hands(count: int) -> tuple[Tensor, Hand]:
    """Rotations anywhere within the limits, twists as in the relaxed hand."""
    hand, generator = hand_model().to(dtype=torch.float64), torch.Generator().manual_seed(1)
    low, high = hand.limits.unbind(-1)
    angles = torch.zeros(count, 16, 3, dtype=torch.float64)
    angles[:, 1:] = low + (high - low) * torch.rand(count, 15, 3, generator=generator, dtype=torch.float64)
    angles[:, :, 0] = anatomy_angles(axis_angle_to_matrix(hand.mean_rotvec), hand.axes)[:, 0]
    rotvec = compose_angles(angles, hand.axes)
    rotvec[:, 0] = torch.randn(count, 3, generator=generator)
    transl = torch.randn(count, 3, generator=generator).double() / 10
    return rotvec, hand(rotvec, torch.zeros(count, 10).double(), transl)


# --- gSDF's formula ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gsdf_formula_is_that_of_the_official_code(dtype: torch.dtype) -> None:
    oracle = load("gsdf_ik")
    found = gsdf_kinematics(tensor(oracle.joints, dtype), tensor(oracle.template21, dtype))
    assert found.valid.tolist() == oracle.valid[:, 0].astype(bool).tolist()
    assert np.abs(found.transforms.numpy() - oracle.global_trans).max() < 2e-4
    assert np.abs(found.rotvec.flatten(1).numpy() - oracle.axisang).max() < 2e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gsdf_formula_with_special_hands(dtype: torch.dtype) -> None:
    oracle = load("gsdf_ik")
    found = gsdf_kinematics(tensor(oracle.special_joints, dtype), tensor(oracle.template21, dtype))
    assert found.valid.tolist() == oracle.special_valid[:, 0].astype(bool).tolist()
    away = np.abs(found.transforms.numpy() - oracle.special_global_trans).max((1, 2, 3))
    loose = np.isin(np.arange(10), (0, 1, 8, 9))  # acos near 0 and pi: a second implementation is 2.4e-3 off
    assert (away[loose] < 1e-2).all() and (away[~loose] < 2e-4).all()
    assert torch.equal(found.rotvec[6:8], torch.zeros(2, 16, 3, dtype=dtype))  # a reflection: the unrotated hand


def test_gsdf_formula_without_faults_turns_mirrored_hands_too_and_is_exact() -> None:
    oracle = load("gsdf_ik")
    joints, template = tensor(oracle.special_joints), tensor(oracle.template21)
    found = gsdf_kinematics(joints, template, faults=False)
    assert found.rotvec.isfinite().all() and found.transforms.isfinite().all()
    turns = found.transforms[..., :3, :3]
    assert torch.allclose(turns @ turns.mT, torch.eye(3, dtype=torch.float64).expand_as(turns), atol=1e-10)
    assert (turns.det() > 0.999).all() and found.valid.tolist() == [True] * 6 + [False] * 2 + [True] * 2
    assert gsdf_kinematics(template[None], template, faults=False).rotvec.abs().max() < 1e-12
    usual = gsdf_kinematics(joints, template)
    assert 1e-4 < (usual.transforms - found.transforms)[0].abs().max() < 1e-2  # what the 1e-7s do


@pytest.mark.parametrize(("start", "faults"), [("gsdf", False), ("gsdf_official", True)])
def test_gsdf_formula_is_a_start_by_name(grasps: tuple[Pose, Hand], start: str, faults: bool) -> None:
    joints = grasps[1].joints.double()
    alone = joints_to_pose(joints, hand_model(), start=start, steps=0)
    formula = gsdf_kinematics(joints, flat_joints(hand_model()).double(), faults=faults)
    assert torch.allclose(axis_angle_to_matrix(alone.rotvec), axis_angle_to_matrix(formula.rotvec), atol=1e-9)
    assert torch.allclose(alone.joints[:, 0], joints[:, 0], atol=1e-9)
    given = noisy(grasps[1].joints, 3.0)
    given[0, [0, 7]] = torch.nan
    given[1] = torch.nan
    refined = joints_to_pose(given, hand_model(), start=start)
    ours = joints_to_pose(given, hand_model())
    assert refined.rotvec.isfinite().all()
    assert apart(refined.joints[2:], ours.joints[2:]).max() < 0.5  # wherever it begins


# --- the closed form -----------------------------------------------------------------------------------------------


def test_closed_form_finds_every_possible_hand_of_relaxed_twist() -> None:
    rotvec, true = possible_hands(40)
    found, place = closed_form(true.joints, hand_model())
    again = hand_model().to(dtype=torch.float64)(found, torch.zeros(40, 10, dtype=torch.float64), place)
    assert (again.joints - true.joints).norm(dim=-1).max() < 1e-7
    assert torch.allclose(found[:, 1:], rotvec[:, 1:], atol=1e-3)  # at 90 degrees a splay does nothing
    assert torch.allclose(axis_angle_to_matrix(found[:, 0]), axis_angle_to_matrix(rotvec[:, 0]), atol=1e-5)


def test_closed_form_leaves_what_is_not_seen_relaxed_and_is_a_proper_rotation() -> None:
    _, true = possible_hands(4)
    relaxed = hand_model().mean_rotvec.double()
    joints = true.joints.clone()
    joints[0, 7:9] = torch.nan  # the index finger's last two joints
    joints[1] = joints[1] * MIRROR
    joints[2] = joints[2, :1]  # all in one point
    joints[3] = torch.nan
    rotvec, transl = closed_form(joints, hand_model())
    assert rotvec.isfinite().all() and transl.isfinite().all()
    for name in ("index2", "index3"):
        turn = ROTATIONS.index(name)
        assert torch.allclose(rotvec[0, turn], relaxed[turn], atol=1e-5)
    assert torch.allclose(rotvec[2, 1:], relaxed[1:], atol=1e-5)
    assert (axis_angle_to_matrix(rotvec).det() > 0.99).all()


# --- the fit -------------------------------------------------------------------------------------------------------


def test_exact_joints_are_met_and_the_pose_comes_back(grasps: tuple[Pose, Hand]) -> None:
    pose, true = grasps
    found = joints_to_pose(true.joints, hand_model())
    assert apart(found.joints, true.joints).max() < 0.1 and found.usable.all() and not found.mirrored.any()
    assert found.notes == ((),) * 6 and found.residual.max() < 5e-4
    hand = hand_model()(found.rotvec, found.shape, found.transl)
    assert torch.allclose(hand.joints, found.joints, atol=1e-5)  # what it says is where the model has them
    assert (hand.vertices - true.vertices).norm(dim=-1).mean() < 1.5e-3
    palm = axis_angle_to_matrix(found.rotvec[:, 0]).mT @ axis_angle_to_matrix(pose.hand_rotvec[:, 0])
    assert torch.rad2deg(((palm.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1).acos()).max() < 5


@pytest.mark.parametrize("millimetres", [1.0, 3.0, 10.0, 20.0])
def test_fitted_joints_are_nearer_the_truth_than_those_given(grasps: tuple[Pose, Hand], millimetres: float) -> None:
    joints = grasps[1].joints
    given = noisy(joints, millimetres)
    found = joints_to_pose(given, hand_model())
    before, after = apart(given, joints), apart(found.joints, joints)
    assert (after < before).all() and after.mean() < (0.85 if millimetres < 2 else 0.7) * before.mean()
    assert 0.75 * millimetres < float(found.sigma.median()) * 1000 < 1.25 * millimetres
    assert not found.mirrored.any()


def test_a_joint_that_is_wrong_counts_little_and_is_named(grasps: tuple[Pose, Hand]) -> None:
    joints = grasps[1].joints
    given = noisy(joints, 3.0)
    given[:, 12] += 0.08
    found = joints_to_pose(given, hand_model())
    others = [i for i in range(21) if i != 12]
    assert (found.joints - joints)[:, others].norm(dim=-1).mean() < 0.005
    assert all(any(note.startswith("middle4 lies ") for note in notes) for notes in found.notes)
    told = joints_to_pose(given, hand_model(), confidence=(torch.arange(21) != 12).float())
    assert apart(told.joints[:, others], joints[:, others]).mean() < 4 and found.usable.all()
    assert told.residual[:, 12].isnan().all() and "joints missing: middle4" in told.notes[0]
    sigma = torch.full((21,), 0.003)
    sigma[12] = 0.1
    spread = joints_to_pose(given, hand_model(), sigma=sigma)
    assert apart(spread.joints[:, others], joints[:, others]).mean() < 4 and spread.residual[:, 12].min() > 0.05


def test_missing_joints_are_filled_in(grasps: tuple[Pose, Hand]) -> None:
    joints = grasps[1].joints
    given = joints.clone()
    given[:, [4, 6, 12, 17]] = torch.nan
    given[0, 20, 1] = torch.nan  # one number is enough
    found = joints_to_pose(given, hand_model())
    assert found.usable.all() and found.rotvec.isfinite().all() and apart(found.joints, joints).max() < 6
    assert "joints missing: thumb4, index2, middle4, pinky1, pinky4" in found.notes[0]
    assert found.residual[:, [4, 6, 12, 17]].isnan().all() and int(found.residual[1].isfinite().sum()) == 17


def test_a_hand_does_not_depend_on_its_neighbours(grasps: tuple[Pose, Hand]) -> None:
    given = noisy(grasps[1].joints, 5.0)
    given[1] = torch.nan
    together = joints_to_pose(given, hand_model())
    for i in (0, 4):
        alone = joints_to_pose(given[i], hand_model())  # 21 x 3 is a batch of one
        for name in ("rotvec", "shape", "transl", "sigma"):
            assert torch.allclose(getattr(alone, name)[0], getattr(together, name)[i], atol=1e-6), name


def test_slopes_are_those_of_the_posed_hand(grasps: tuple[Pose, Hand]) -> None:
    """Points, angles and the step agree with one another: by differences."""
    pose, hand = grasps[0][:2], joint_hand(hand_model())
    turns = axis_angle_to_matrix(pose.hand_rotvec.double()).numpy()
    problem = _Problem(np.zeros((2, 21, 3)), np.ones((2, 21)), hand, True)
    state = problem.look(turns, pose.hand_shape.double().numpy(), pose.hand_transl.double().numpy())
    assert np.abs(state.points - grasps[1].joints[:2].numpy()).max() < 1e-6
    step = np.random.default_rng(0).normal(size=(2, 61)) * 1e-6
    there = problem.look(*_moved(state, step, hand))
    assert np.allclose(there.points - state.points, np.einsum("bjap,bp->bja", state.slopes, step), atol=1e-10)
    angles = np.einsum("bjap,bjp->bja", state.angle_slopes, step[:, 6:51].reshape(2, 15, 3))
    assert np.allclose(there.angles - state.angles, angles, atol=1e-9)
    assert np.allclose(_angles(turns, hand)[0], state.angles)


# --- what is no hand, or not the one that was said -----------------------------------------------------------------


def test_the_other_sides_hand_is_recognised(grasps: tuple[Pose, Hand]) -> None:
    joints = grasps[1].joints
    wrong = joints_to_pose(noisy(joints * MIRROR, 5.0), hand_model())
    assert wrong.mirrored.all() and not wrong.usable.any() and wrong.rotvec.isfinite().all()
    assert wrong.notes[0] == ("the joints are those of a left hand, not of a right one: give the other side",)
    left = joints_to_pose(joints * MIRROR, hand_model(), side="left")
    right = joints_to_pose(joints, hand_model())
    assert left.usable.all() and torch.allclose(left.rotvec, right.rotvec) and torch.allclose(left.joints, right.joints)


@pytest.mark.parametrize("order", ["mano", "fhb"])
def test_orders_by_name_and_one_that_was_forgotten(grasps: tuple[Pose, Hand], order: str) -> None:
    joints = grasps[1].joints[:3]
    other = convert_joints(joints, "house", order)
    assert torch.equal(
        joints_to_pose(other, hand_model(), order=order).joints, joints_to_pose(joints, hand_model()).joints
    )
    by_names = joints_to_pose(other, hand_model(), order=list(JOINT_ORDERS[order]))
    assert by_names.usable.all() and apart(by_names.joints, joints).max() < 0.1
    wrong = joints_to_pose(other, hand_model())
    assert not wrong.usable.any() and not wrong.mirrored.any()
    assert wrong.notes[0][0] == f"the joints are in another order, that of {order!r} it seems: give joint_order"


def degenerate() -> dict[str, Tensor]:
    hand = hand_model()
    flat = flat_joints(hand)
    bent = torch.zeros(1, 16, 3)
    bent[:, 1:] = hand.limits[..., 1]
    relaxed = hand(hand.mean_rotvec[None], torch.zeros(1, 10), torch.zeros(1, 3)).joints[0]
    zero_bone, folded, line = relaxed.clone(), relaxed.clone(), torch.zeros(21, 3)
    zero_bone[8] = zero_bone[7]
    folded[12] = folded[10]
    line[:, 0] = torch.arange(21) / 100
    cases = {
        "fist": hand(compose_angles(bent, hand.axes), torch.zeros(1, 10), torch.zeros(1, 3)).joints[0],
        "straight": flat,
        "half turn": flat * torch.tensor([1.0, -1.0, -1.0]),
        "mirrored": relaxed * MIRROR,
        "zero bone": zero_bone,
        "folded back": folded,
        "large": relaxed * 1.3,
        "tiny": relaxed * 0.35,
        "point": torch.zeros(21, 3),
        "line": line,
        "noise": torch.randn(21, 3, generator=torch.Generator().manual_seed(0)) / 20,
        "wrist only": torch.where(torch.arange(21)[:, None] == 0, relaxed, torch.nan),
        "plane": relaxed * torch.tensor([1.0, 0.0, 1.0]),
        "far": relaxed + torch.tensor([0.0, 0.0, 50.0]),
    }
    return cases


def test_degenerate_hands_give_finite_poses_and_words() -> None:
    cases = degenerate()
    found = joints_to_pose(torch.stack(list(cases.values())), hand_model())
    for name in ("rotvec", "shape", "transl", "joints", "sigma"):
        assert getattr(found, name).isfinite().all(), name
    turns = axis_angle_to_matrix(found.rotvec.double())
    assert torch.allclose(turns.det(), torch.ones(len(cases), 16, dtype=torch.float64), atol=1e-6)
    usable = dict(zip(cases, found.usable.tolist(), strict=True))
    said = dict(zip(cases, (" ".join(notes) for notes in found.notes), strict=True))
    hopeless = {"mirrored", "tiny", "point", "line", "noise", "wrist only"}
    assert {name for name, good in usable.items() if not good} == hopeless
    assert all(said[name] for name in hopeless)
    assert "left hand" in said["mirrored"] and "0.35 times" in said["tiny"] and "1 of 21" in said["wrist only"]
    assert "point or on a line" in said["point"] and "point or on a line" in said["line"]
    assert found.residual[list(cases).index("fist")].max() < 5e-4  # at the edge of what a hand can do
    assert found.residual[list(cases).index("half turn")].max() < 2e-3


def test_steps_zero_is_the_closed_form(grasps: tuple[Pose, Hand]) -> None:
    joints = grasps[1].joints
    found = joints_to_pose(joints, hand_model(), steps=0)
    rotvec, transl = closed_form(joints.double(), hand_model())
    matrices = axis_angle_to_matrix(found.rotvec.double())
    assert torch.allclose(matrices, axis_angle_to_matrix(rotvec.double()), atol=1e-5)
    assert torch.allclose(found.transl, transl.float(), atol=1e-6) and not found.shape.any()


@pytest.mark.parametrize(
    ("joints", "options", "said"),
    [
        (torch.zeros(2, 20, 3), {}, r"joints: shape \(2, 20, 3\); expected \(21, 3\) or \(B, 21, 3\)"),
        (torch.zeros(21, 2), {}, r"shape \(21, 2\).*keypoints"),
        (torch.full((1, 21, 3), torch.nan), {}, "every joint has a NaN"),
        ("wrist", {}, "joints: not an array of numbers"),
        (flat_joints(hand_model()) * 1000, {}, "1e\\+03 times a hand's; millimetres. Divide by 1000"),
        (flat_joints(hand_model()) * 100, {}, "100 times a hand's; centimetres. Divide by 100"),
        (flat_joints(hand_model()), {"order": "opnpose"}, "'opnpose' is unknown; did you mean 'openpose'"),
        (flat_joints(hand_model()), {"order": ["wrist"] * 21}, "joint_order: 21 names.*known: wrist, thumb1"),
        (flat_joints(hand_model()), {"start": "gsfd"}, "start: 'gsfd'; did you mean 'gsdf'"),
        (flat_joints(hand_model()), {"side": "up"}, "side: 'up'; known: right, left"),
        (flat_joints(hand_model()), {"confidence": 2.0}, "confidence: runs from 2 to 2; expected 0 to 1"),
        (flat_joints(hand_model()), {"confidence": [0.5, 1.0]}, r"confidence: shape \(2,\); expected one number"),
        (flat_joints(hand_model()), {"sigma": 5.0}, "sigma: runs from 5 to 5; expected metres"),
    ],
)
def test_bad_input_is_refused_in_words(joints: object, options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        joints_to_pose(joints, hand_model(), **options)  # pyright: ignore


def test_the_fit_makes_a_pose_with_or_without_an_object(grasps: tuple[Pose, Hand]) -> None:
    pose, true = grasps
    found = joints_to_pose(true.joints, hand_model())
    with_object = found.pose(pose.object_rotvec, pose.object_transl)
    assert torch.equal(with_object.object_rotvec, pose.object_rotvec) and len(with_object) == 6
    rough = found.pose()
    assert not rough.object_rotvec.any()
    assert (rough.object_transl - true.joints.mean(1)).norm(dim=1).max() < 0.08


def test_joint_hand_is_the_hand_in_double(grasps: tuple[Pose, Hand]) -> None:
    pose, true = grasps
    small = joint_hand(hand_model())
    assert small.template.dtype == torch.float64 and len(small.template) == 5
    posed = small(pose.hand_rotvec.double(), pose.hand_shape.double(), pose.hand_transl.double())
    assert torch.allclose(posed.joints.float(), true.joints, atol=1e-6)
    assert tuple(JOINTS.index(f"{finger}4") for finger in ("thumb", "pinky")) == (4, 20)


# --- as a file of --init ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs, the second of a left hand; ``joints/`` holds their joints, with 3 mm of noise, in HO-3D's order.

    The first file (npz) holds the object's pose too; the second (json) holds a missing joint and nothing of the object.
    """
    root = write_photo_folder(tmp_path_factory.mktemp("photos"), 2, left=(1,))
    (root / "joints").mkdir()
    for name in ("p0", "p1"):
        pose = read_pose(root / "truth" / f"{name}.npz").pose
        seen = mirror_pose(pose) if name == "p1" else pose
        joints = noisy(hand_model()(seen.hand_rotvec, seen.hand_shape, seen.hand_transl).joints[0], 3.0)
        joints = convert_joints(joints * MIRROR if name == "p1" else joints, "house", "ho3d")
        if name == "p0":
            turn, place = pose.object_rotvec[0].numpy(), pose.object_transl[0].numpy()
            file = root / "joints" / "p0.npz"
            np.savez(file, joints=joints.numpy(), joint_order="ho3d", obj_rot=turn, obj_trans=place)
        else:
            rows: list[list[float] | None] = list(joints.tolist())
            rows[5] = None
            table = {"joints": rows, "joint_order": "ho3d", "side": "left", "joint_sigma": 0.003}
            (root / "joints" / "p1.json").write_text(json.dumps(table))
    return root


@pytest.mark.parametrize("name", ["p0", "p1"])
def test_a_file_of_joints_is_a_pose(photos: Path, name: str) -> None:
    truth = read_pose(photos / "truth" / f"{name}.npz").pose
    found = read_pose(find_item(photos / "joints", name), hand_model=hand_model(), image_side="right")
    pose = mirror_pose(found.pose) if name == "p1" else found.pose
    true = mirror_pose(truth) if name == "p1" else truth
    fitted = hand_model()(pose.hand_rotvec, pose.hand_shape, pose.hand_transl)
    assert apart(fitted.joints, hand_model()(true.hand_rotvec, true.hand_shape, true.hand_transl).joints).max() < 4
    if name == "p0":
        assert found.side is None and found.notes == () and torch.equal(found.pose.object_transl, truth.object_transl)
    else:
        assert found.side == "left" and found.notes[0] == "joints missing: middle2"
        assert "says nothing of the object" in found.notes[1] and not found.pose.object_rotvec.any()
        assert (found.pose.object_transl - truth.object_transl).norm() < 0.15


def test_a_run_begins_at_joints(photos: Path, tmp_path: Path) -> None:
    words = ["run", photos / "images", "--init", photos / "joints", "--features", photos / "maps", "--out", tmp_path]
    result = CliRunner().invoke(app, [str(word) for word in (*words, *FEW_STEPS)])
    assert result.exit_code == 0, result.output
    for name in ("p0", "p1"):
        table = json.loads((tmp_path / "items" / name / "result.json").read_text())
        assert table["first_pose"] == "file" and table["errors"]["hand_error_start_mm"] < 8
    assert any("says nothing of the object" in note for note in table["notes"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"joints": "x"}, "a.npz: joints: not an array of numbers"),
        ({"joints": np.zeros((2, 21, 3)) + np.nan}, "a.npz: joints: every joint has a NaN"),
        ({"times": 1000.0}, "a.npz: joints: bones of hand 0 are .* millimetres"),
        ({"times": MIRROR.numpy()}, "a.npz: joints: the joints are those of a left hand, not of a right one"),
        ({"plus": np.array([0, 0, -0.5])}, "a.npz: joints: they reach behind the camera .* relative to the wrist"),
        ({"plus": np.array([0, 0, 100.0])}, "a.npz: joints: wrist: .* is more than 10 m away"),
        ({"joint_order": "nimble"}, "a.npz: joint_order: 'nimble' is unknown"),
        ({"joint_order": "mano"}, "a.npz: joints: the joints are in another order, that of 'house'"),
        ({"object_rotvec": np.zeros(3)}, "a.npz: object_transl is missing; it holds"),
        ({"side": "both"}, "a.npz: side: 'both'; known: right, left"),
    ],
)
def test_a_file_of_joints_that_cannot_be_used(
    grasps: tuple[Pose, Hand], tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    joints = (grasps[1].joints[0] - grasps[1].joints[0, 0]).numpy() + np.array([0, 0, 0.5])
    table = {"joints": joints * change.pop("times", 1.0) + change.pop("plus", 0.0)} | change
    np.savez(tmp_path / "a.npz", **table)
    with pytest.raises(InputError, match=said):
        read_pose(tmp_path / "a.npz", hand_model=hand_model())
    with pytest.raises(InputError, match=r"a\.npz: holds joints; here rotations are needed"):
        read_pose(tmp_path / "a.npz")
