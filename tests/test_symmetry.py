"""Symmetric objects: how symmetries are read, errors up to them, and a start that is another symmetric pose."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch
import trimesh
from loss_scenes import can, hand_model, true_features, true_pose

from horefine import load_config, refine
from horefine.align.symmetric import align_symmetric, followed
from horefine.data.maps import disturb
from horefine.data.mirror import mirror_mesh
from horefine.errors import InputError
from horefine.geometry import axis_angle_to_matrix
from horefine.mesh import Mesh
from horefine.metrics import equivalents, mssd, object_error, symmetric_object_error
from horefine.symmetry import find_symmetries, symmetry_transforms

FLIP = [-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1]
"""Half a turn about y."""
ROUND = {"symmetries_continuous": [{"axis": [0, 0, 1], "offset": [0, 0, 0]}]}


def round_can(**changes):
    """The can of the stored grasps, which says that it is round and that its ends are alike."""
    table = {"symmetries_discrete": [FLIP], **ROUND, **changes}
    return dataclasses.replace(can(), symmetries=symmetry_transforms(table)[None])


def turn(angle, count=3):
    """About the can's axis."""
    motion = torch.eye(4).repeat(count, 1, 1)
    motion[:, :3, :3] = axis_angle_to_matrix(torch.tensor([0.0, 0.0, angle]))
    return motion


def features():
    return dataclasses.replace(true_features(), object=Mesh.cat([round_can()] * 3))


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_continuous_axis_is_turns_about_a_line():
    found = symmetry_transforms(
        {"symmetries_continuous": [{"axis": [0, 0, 2], "offset": [10, 20, 5]}]}, 1e-3, steps=8
    ).double()
    assert found.shape == (8, 4, 4) and torch.equal(found[0], torch.eye(4).double())
    on_axis = torch.tensor([0.01, 0.02, 0.3, 1.0]).double()
    assert torch.allclose(found @ on_axis, on_axis.expand(8, 4), atol=1e-6)
    angles = torch.atan2(found[:, 1, 0], found[:, 0, 0]) % (2 * math.pi)
    assert torch.allclose(angles, torch.arange(8).double() * math.pi / 4, atol=1e-5)


def test_every_discrete_motion_comes_with_every_turn():
    found = symmetry_transforms({"symmetries_discrete": [FLIP], **ROUND}, steps=12)
    assert len(found) == 24 and len(torch.unique((found * 1e4).round(), dim=0)) == 24
    points = torch.tensor([[0.03, 0.0, 0.05, 1.0]])
    moved = (found @ points.T)[..., 0]
    assert torch.allclose(moved[:, :2].norm(dim=1), torch.full((24,), 0.03), atol=1e-6)
    assert torch.allclose(moved[:, 2].abs(), torch.full((24,), 0.05), atol=1e-6)


def test_symmetries_lie_beside_the_mesh(tmp_path):
    solid = trimesh.creation.cylinder(radius=30.0, height=120.0, sections=16)
    moved = np.reshape(FLIP, (4, 4)).astype(float)
    moved[:3, 3] = [0, 0, 40]
    info = {"7": {"diameter": 1.0, "symmetries_discrete": [moved.ravel().tolist()]}, "8": {"diameter": 1.0}}
    (tmp_path / "models_info.json").write_text(json.dumps(info))
    for name in ("obj_000007", "obj_000008", "own", "plain"):
        solid.export(tmp_path / f"{name}.ply")
    (tmp_path / "own.json").write_text(json.dumps(ROUND))
    found = {
        name: Mesh.load(tmp_path / f"{name}.ply", "mm")[0] for name in ("obj_000007", "obj_000008", "own", "plain")
    }
    assert found["obj_000008"].symmetries is None and found["plain"].symmetries is None
    assert found["obj_000007"].symmetries.shape == (1, 2, 4, 4) and found["own"].symmetries.shape == (1, 315, 4, 4)
    assert torch.allclose(found["obj_000007"].symmetries[0, 1, :3, 3], torch.tensor([0.0, 0.0, 0.04]))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"symmetries_discrete": [[1, 2, 3]]}, "symmetries_discrete: expected 16 numbers"),
        ({"symmetries_discrete": [(-np.eye(4)).ravel().tolist()]}, "symmetries_discrete: not a rigid motion"),
        ({"symmetries_continuous": [{"axis": [0, 0, 0]}]}, "symmetries_continuous: axis [0.0, 0.0, 0.0] has no"),
        ({"symmetries_continuous": [[0, 0, 1]]}, "symmetries_continuous: expected"),
    ],
)
def test_wrong_symmetries_are_named(tmp_path, table, message):
    (tmp_path / "thing.json").write_text(json.dumps(table))
    with pytest.raises(InputError, match=re.escape(f"thing.json: {message}")):
        find_symmetries(tmp_path / "thing.ply")


def test_batches_and_mirrors_carry_symmetries():
    mesh = round_can()
    both = Mesh.cat([can(), mesh]).to("cpu")
    assert both.symmetries.shape == (2, 630, 4, 4) and torch.equal(both.symmetries[0], torch.eye(4).expand(630, 4, 4))
    assert torch.equal(both[1].symmetries, mesh.symmetries) and Mesh.cat([can()]).symmetries is None
    there = mirror_mesh(dataclasses.replace(mesh, sdf=None))
    moved = there.vertices @ there.symmetries[0, 40, :3, :3].mT
    assert torch.allclose(moved[..., :2].norm(dim=-1), mesh.vertices[..., :2].norm(dim=-1), atol=1e-6)
    assert torch.allclose(mirror_mesh(there).symmetries, mesh.symmetries)


# --- errors ----------------------------------------------------------------------------------------------------------


def test_errors_are_those_to_the_nearest_symmetric_pose():
    pose, mesh = true_pose(), features().object
    step = 2 * math.pi / 315
    other = followed(pose, turn(100 * step))
    placed, true = other.place(mesh.vertices), equivalents(mesh, pose)
    assert true.shape[:2] == (3, 630) and torch.allclose(true[:, 0], pose.place(mesh.vertices))
    assert (object_error(placed, true[:, 0], mesh.vertex_mask) > 20).all()
    assert (symmetric_object_error(placed, true, mesh.vertex_mask) < 1e-3).all() and (mssd(placed, true) < 2e-3).all()
    shifted = placed + torch.tensor([0.0, 0.003, 0.0])
    assert torch.allclose(symmetric_object_error(shifted, true, mesh.vertex_mask), torch.tensor(3.0), atol=0.05)
    assert (mssd(shifted, true, mesh.vertex_mask) >= symmetric_object_error(shifted, true) - 1e-3).all()
    plain = Mesh.cat([can()] * 3)
    assert torch.equal(equivalents(plain, pose)[:, 0], pose.place(plain.vertices))


def test_followed_moves_the_object_in_its_own_frame():
    pose = dataclasses.replace(true_pose(), object_scale=torch.tensor([1.1, 0.9, 1.0]))
    motion = turn(1.0)
    motion[:, :3, 3] = torch.tensor([0.01, -0.02, 0.03])
    points = can().vertices.expand(3, -1, -1)
    moved = points @ motion[:, :3, :3].mT + motion[:, None, :3, 3]
    assert torch.allclose(followed(pose, motion).place(points), pose.place(moved), atol=1e-6)


# --- refinement ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.0, 0.4, 3.0])
def test_the_start_takes_the_orientation_that_the_map_means(angle):
    """Whichever of its poses a can begins from, and however it is tilted and moved."""
    center = true_features().object.center
    start = disturb(followed(true_pose(), turn(angle)), 2, 20.0, 20.0, 5.0, model=hand_model(), object_center=center)
    found = align_symmetric(start, features(), hand_model())
    mesh, axis = features().object, torch.tensor([0.0, 0.0, 1.0])
    before, after, true = (axis_angle_to_matrix(p.object_rotvec) for p in (start, found, true_pose()))
    assert torch.allclose((before @ axis).abs(), (after @ axis).abs(), atol=1e-4), "only about its symmetries"
    off = ((after.mT @ true).diagonal(dim1=1, dim2=2).sum(1) - 1).div(2).clamp(-1, 1).acos().rad2deg()
    assert (off < 30).all(), off
    assert torch.allclose(found.place(mesh.center[:, None]), start.place(mesh.center[:, None]), atol=1e-6)
    assert torch.equal(found.hand_rotvec, start.hand_rotvec)
    assert align_symmetric(start, true_features(), hand_model()) is start


def test_a_can_whose_maps_mean_another_pose_is_solved_up_to_symmetry():
    """Upside down and turned by a third: the start, and the truth that it is judged by."""
    mesh, plain = features().object, ["losses.penetration=0", "losses.spring_length=0"]
    truth = followed(true_pose(), mesh.symmetries[:, 420])
    start = disturb(truth, 5, 10.0, 10.0, 5.0, model=hand_model(), object_center=mesh.center)
    found = refine(start, features(), load_config("default", plain), hand_model=hand_model(), renderer="cpu")
    placed = found.pose.place(mesh.vertices)
    assert (symmetric_object_error(placed, equivalents(mesh, truth)) < 0.01).all()
    assert (object_error(placed, truth.place(mesh.vertices)) > 50).all()
    assert torch.equal(found.initial.object_rotvec, start.object_rotvec)
    one = ["stages.correspond.steps=1", "stages.settle.steps=1", "stages.render.steps=1", "stages.render.rounds=1"]
    lost = refine(start, true_features(), load_config("default", [*plain, *one]), hand_model=hand_model())
    assert (found.history["total"][0] < 0.4 * lost.history["total"][0]).all(), "without symmetries it begins far off"
