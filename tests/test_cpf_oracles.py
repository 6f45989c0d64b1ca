"""The recipe ``cpf`` walks as CPF's own ``GeOptimizer`` does: total, gradients and iterations from the same inputs."""

import dataclasses
import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oracles import load, recorded_hand
from oracles import tensor as recorded
from scipy.spatial.transform import Rotation

from horefine import refine
from horefine.anatomy import MIDDLE_KNUCKLE
from horefine.config import Config, Optimizer, load_config
from horefine.geometry import Camera, axis_angle_to_matrix
from horefine.hand import HandModel
from horefine.losses.cpf import (
    kinetic_score,
    knuckle,
    quaternion_norm,
    quaternion_to_rotvec,
    repulsion,
    rotvec_to_quaternion,
)
from horefine.losses.prior import anatomy, offset
from horefine.mesh import Mesh
from horefine.objective import Objective, prepare
from horefine.scene import Contact, Features, Pose, Scene
from horefine.tangent import QUATERNION_BLOCKS, Quaternion

tensor = functools.partial(recorded, dtype=torch.float32)
NAMES = ("geo_hand_obj_0", "geo_hand_obj_1", "geo_hand_0", "geo_hand_1")


@pytest.fixture(scope="module")
def model() -> HandModel:
    return recorded_hand(torch.float32)


def start(model: HandModel, oracle: SimpleNamespace) -> tuple[Pose, Features]:
    """The recorded inputs as ours."""
    truth = load(str(oracle.scene))
    rotvec = tensor(Rotation.from_quat(oracle.init_hand_pose_quat.astype(float), scalar_first=True).as_rotvec())[None]
    none = torch.zeros(1, 3)
    arm = knuckle(model, Pose(rotvec, tensor(oracle.init_hand_shape)[None], none, none, none))
    mesh = Mesh(tensor(oracle.obj_verts_can)[None], tensor(truth.obj_faces)[None])
    mesh.__dict__["normals"] = tensor(oracle.obj_normals_can)[None]
    pose = Pose(
        rotvec, tensor(oracle.init_hand_shape)[None], tensor(oracle.init_hand_tsl)[None] - arm,
        tensor(oracle.init_obj_rot)[None], tensor(oracle.init_obj_tsl)[None],
    )  # fmt: skip
    contact = Contact(
        tensor(truth.vertex_contact).float()[None], tensor(truth.contact_region)[None],
        tensor(truth.anchor_elasti)[None],
    )  # fmt: skip
    return pose, Features(Camera(torch.eye(3)[None], (8, 8)), mesh, contact=contact)


def bare_scene(**parts: object) -> Scene:
    """A scene without a renderer."""
    scene = object.__new__(Scene)
    scene.__dict__.update(parts)
    return scene


def recipe(oracle: SimpleNamespace) -> Config:
    """The shipped recipe with the weight, the length and the frozen variables of the recording."""
    changes = [f"losses.repulsion.weight={float(oracle.lambda_repulsion)}", f"stages.refine.steps={oracle.n_iter}"]
    if oracle.mode == "hand":
        changes += [f"optimizer.rates.object_{part}=0" for part in ("transl", "depth", "rotation")]
    return load_config("cpf", changes)


def first_scene(model: HandModel, oracle: SimpleNamespace) -> tuple[Scene, Objective]:
    pose, features = start(model, oracle)
    terms = recipe(oracle).terms()
    leaf = pose.map(lambda value: value.requires_grad_())
    scene = bare_scene(pose=leaf, initial=pose.detach(), features=features, hand_model=model)
    return scene, Objective(terms, prepare(terms, features, model))


@pytest.mark.parametrize("name", NAMES)
def test_first_total_and_every_gradient(model: HandModel, name: str) -> None:
    oracle = load(name)
    stored = vars(oracle)
    scene, objective = first_scene(model, oracle)
    total = torch.stack(list(objective.evaluate(scene).values())).sum(0)
    np.testing.assert_allclose(total.item(), oracle.loss0, rtol=1e-4)
    gradient = torch.autograd.grad(total.sum(), [value for _, value in scene.pose.items()])
    flat = Quaternion().gradient(scene, Pose(*gradient))[0].double().numpy()
    blocks = {
        "hand_tsl_var": ("hand_transl", "hand_depth"), "hand_pose_var_val": ("fingers",), "hand_shape_var": ("shape",),
        "obj_tsl_var": ("object_transl", "object_depth"), "obj_rot_var": ("object_rotation",),
    }  # fmt: skip
    compared = 0
    for key, names in blocks.items():
        if f"grad0_{key}" not in stored:
            assert oracle.mode == "hand" and key.startswith("obj")
            continue
        expected = stored[f"grad0_{key}"]
        found = flat[[c for block in names for c in QUATERNION_BLOCKS[block]]].reshape(expected.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max(), err_msg=key)
        compared += 1
    assert compared == (5 if oracle.mode == "hand_obj" else 3)


@pytest.mark.parametrize("name", NAMES)
def test_forty_iterations(model: HandModel, name: str) -> None:
    oracle = load(name)
    pose, features = start(model, oracle)
    found = refine(pose, features, recipe(oracle), hand_model=model, renderer="cpu")
    history = {key: values[:, 0].numpy() for key, values in found.history.items()}
    np.testing.assert_allclose(history["total"][:5], oracle.loss_hist[:5], rtol=1e-3)
    np.testing.assert_allclose(history["total"], oracle.loss_hist, rtol=2e-2)
    theirs = dict(zip(oracle.comp_names.tolist(), oracle.comp_hist.T, strict=True))
    tenth = sum(0.1 * theirs[f"joint_{key}_loss"] for key in ("b_axis", "u_axis", "l_limit"))
    pairs = {
        "attraction": 10 * theirs["contact_loss"], "repulsion": oracle.lambda_repulsion * theirs["repulsion_loss"],
        "anatomy": theirs["angle_limit_loss"] + tenth, "edge_length": theirs["edge_loss"],
        "quaternion_norm": theirs["quat_norm_loss"],
    }  # fmt: skip
    ties = np.sum([theirs[f"{key}_loss"] for key in ("pose_reg", "hand_tsl", "obj_transf")], axis=0)
    shape = oracle.loss_hist - np.sum(list(pairs.values()), axis=0) - ties  # recorded in the total only
    pairs["offset"] = ties + shape
    assert shape[0] < 1e-6 < shape[1] and (ties[1:] > 1e-6).all()
    for key, expected in pairs.items():
        np.testing.assert_allclose(history[key][:5], expected[:5], rtol=1e-3, atol=3e-6, err_msg=key)
    ends = end_variables(model, found.pose)
    for key, value in ends.items():
        if hasattr(oracle, f"final_{key}"):
            np.testing.assert_allclose(value, vars(oracle)[f"final_{key}"], atol=1e-3, err_msg=key)
    assert found.best_step.tolist() == [39] and found.status == ("improved",)  # the last iterate


def test_schedule_is_that_of_torch(model: HandModel) -> None:
    """Adam in two groups of rates and ReduceLROnPlateau (stepped after it, with a floor) on the same numbers."""
    oracle = load("geo_hand_1")
    pose, features = start(model, oracle)
    changes = ["stages.refine.steps=30", "stages.refine.patience=1", "optimizer.least_rate=2.0e-4"]
    config = load_config("cpf", [*changes, "losses.repulsion.weight=20"])
    found = refine(pose, features, config, hand_model=model, renderer="cpu").history["total"][:, 0]
    terms = config.terms()
    objective = Objective(terms, prepare(terms, features, model))
    chart = Quaternion()
    begin = bare_scene(pose=pose, initial=pose, features=features, hand_model=model)
    chart.penalty(begin)
    numbers = chart.numbers
    assert numbers is not None
    places = torch.zeros(83, dtype=torch.bool)
    places[[*range(3), *range(77, 80)]] = True  # both translations
    groups = [numbers[:, places].clone().requires_grad_(), numbers[:, ~places].clone().requires_grad_()]
    held = numbers[:, 3:7].clone()  # the wrist
    adam = torch.optim.Adam([{"params": groups[:1], "lr": 1e-3}, {"params": groups[1:], "lr": 1e-2}])
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, factor=0.5, patience=1, min_lr=2e-4)
    theirs, rates = [], []
    for _ in range(30):
        now = torch.zeros_like(numbers)
        now[:, places], now[:, ~places] = groups
        now = torch.cat([now[:, :3], held, now[:, 7:]], 1)
        chart.numbers = now.detach()
        scene = bare_scene(pose=Quaternion._pose(begin, now), initial=pose, features=features, hand_model=model)
        total = (
            torch.stack(list(objective.evaluate(scene).values())).sum()
            + quaternion_norm(now[:, 3:67].view(1, 16, 4)).sum()
        )
        adam.zero_grad()
        total.backward()
        adam.step()
        plateau.step(total.item())
        theirs.append(total.item())
        rates.append([group["lr"] for group in adam.param_groups])
    assert rates[9][1] < 1e-2 and rates[-1][1] < 5e-3  # it was cut, early and more than once
    np.testing.assert_allclose(found.numpy(), theirs, rtol=2e-3)
    np.testing.assert_allclose(found.numpy()[:10], theirs[:10], rtol=1e-4)


def end_variables(model: HandModel, pose: Pose) -> dict[str, np.ndarray]:
    hand = model(pose.hand_rotvec, pose.hand_shape, pose.hand_transl)
    place = knuckle(model, pose)
    torch.testing.assert_close(place, hand.transforms[:, MIDDLE_KNUCKLE, :3, 3])
    values = {
        "hand_tsl_var": place, "hand_shape_var": pose.hand_shape, "obj_rot_var": pose.object_rotvec,
        "obj_tsl_var": pose.object_transl, "hand_verts": hand.vertices, "hand_joints": hand.joints,
    }  # fmt: skip
    return {key: value[0].numpy() for key, value in values.items()}


@pytest.mark.parametrize("name", ["geo_hand_obj_0", "geo_hand_obj_1"])
def test_the_pose_that_ends_places_the_object(model: HandModel, name: str) -> None:
    oracle = load(name)
    pose, features = start(model, oracle)
    pose = refine(pose, features, recipe(oracle), hand_model=model, renderer="cpu").pose
    place = features.object.vertices @ axis_angle_to_matrix(pose.object_rotvec).mT + pose.object_transl[:, None]
    np.testing.assert_allclose(place[0].numpy(), oracle.final_obj_verts, atol=1e-4)


def test_the_recipe_says_what_the_scripts_say() -> None:
    config = load_config("cpf")
    assert config.features == ("contact",)
    assert config.stages["refine"].model_dump(include={"steps", "patience", "cut"}) == {
        "steps": 500, "patience": 20, "cut": 0.5,
    }  # fmt: skip
    weights = {name: term.weight for name, term in config.terms().items()}
    assert weights == {"attraction": 10, "repulsion": 2, "anatomy": 1, "edge_length": 1, "offset": 1}
    assert isinstance(config.optimizer, Optimizer) and "wrist" not in config.optimizer.rates


def test_the_skip_rule_and_the_last_iterate(model: HandModel) -> None:
    """Below one vertex in a hundred the start comes back; steps that are far too long end worse, and are kept."""
    oracle = load("geo_hand_obj_0")
    pose, features = start(model, oracle)
    config, contact = recipe(oracle), features.contact
    assert contact is not None
    few = torch.zeros_like(contact.probability)
    few[:, contact.probability[0].nonzero().flatten()[:6]] = 1  # of 642
    for probability, status in ((few, "unchanged"), (few.clone().index_fill_(1, torch.tensor([0, 1]), 1), "improved")):
        thin = dataclasses.replace(features, contact=dataclasses.replace(contact, probability=probability))
        found = refine(pose, thin, config, hand_model=model, renderer="cpu")
        assert found.status == (status,)
        assert ("skips" in found.reason[0]) == (status == "unchanged")
        assert torch.equal(found.pose.hand_transl, pose.hand_transl) == (status == "unchanged")
    wild = config.optimizer.model_copy(update={"rates": {"fingers": 1.0, "hand_transl": 0.5}})
    found = refine(pose, features, config.model_copy(update={"optimizer": wild}), hand_model=model, renderer="cpu")
    assert found.status == ("worsened",) and not torch.equal(found.pose.hand_transl, pose.hand_transl)
    kept = config.model_copy(update={"optimizer": wild.model_copy(update={"keep": "best"})})
    assert refine(pose, features, kept, hand_model=model, renderer="cpu").status != ("worsened",)


def test_a_joint_without_rotation_is_not_a_number_and_stands_still(model: HandModel) -> None:
    oracle = load("geo_hand_obj_0")
    pose, features = start(model, oracle)
    flat = Pose(**{**dict(pose.items()), "hand_rotvec": pose.hand_rotvec.index_fill(1, torch.tensor([4]), 0.0)})
    config = recipe(oracle)
    stages = {"refine": config.stages["refine"].model_copy(update={"steps": 3})}
    found = refine(flat, features, config.model_copy(update={"stages": stages}), hand_model=model, renderer="cpu")
    assert found.status == ("rejected",) and found.history["anatomy"].isnan().all()
    assert torch.equal(found.pose.hand_rotvec, flat.hand_rotvec)


def test_anatomy_of_the_second_release(model: HandModel) -> None:
    oracle = load("manotorch_anatomy")
    rotvec = Rotation.from_quat(oracle.pose_quat.reshape(-1, 4), scalar_first=True).as_rotvec().reshape(4, 16, 3)
    precise = model.to(dtype=torch.float64)
    scene = bare_scene(pose=SimpleNamespace(hand_rotvec=torch.as_tensor(rotvec)), hand_model=precise)
    found = anatomy(scene, variant="manotorch")
    np.testing.assert_allclose(found.numpy(), oracle.loss_mean, atol=1e-5)
    assert found[0] == 0 and found[3] > 0.5


def test_the_kinetic_score(model: HandModel) -> None:
    oracle = load("cpf_anatomy")
    rotvec = Rotation.from_quat(oracle.quat_used.reshape(-1, 4).astype(float), scalar_first=True).as_rotvec()
    precise, numbers = model.to(dtype=torch.float64), torch.as_tensor(rotvec).reshape(5, 16, 3)
    joints = precise(numbers, torch.as_tensor(oracle.betas).double(), torch.zeros(5, 3, dtype=torch.float64)).joints
    np.testing.assert_allclose(kinetic_score(numbers, joints).numpy(), oracle.kinetic_score, atol=2e-4)


@pytest.mark.parametrize("index", [0, 1])
def test_the_older_repulsion(index: int) -> None:
    energy, truth = load(f"energy_{index}"), load(f"contact_gt_{index}")
    mesh = Mesh(tensor(truth.obj_verts_can)[None], tensor(truth.obj_faces)[None])
    mesh.__dict__["normals"] = tensor(energy.obj_normals_can)[None]
    scene = bare_scene(
        hand=SimpleNamespace(vertices=tensor(truth.hand_verts)[None]), object=tensor(truth.obj_verts)[None],
        object_rotation=tensor(truth.obj_rotmat)[None], features=SimpleNamespace(object=mesh),
    )  # fmt: skip
    found = repulsion(scene, query=1e9, clamp=0.015, neighbours=1, strength=0.05)
    np.testing.assert_allclose(found.item() * len(truth.obj_verts), energy.rep_old, rtol=1e-4)


def test_offset_in_our_numbers_and_in_theirs(model: HandModel) -> None:
    """Alike for small changes, unlike for a turn on top of a large one and when the shape moves the knuckle."""
    oracle = load("geo_hand_obj_0")
    pose, features = start(model, oracle)
    far = Pose(**{**dict(pose.items()), "object_rotvec": torch.tensor([[0.0, 0.0, 3.0]])})

    def both(now: Pose, then: Pose) -> tuple[float, float]:
        scene = bare_scene(pose=now, initial=then, features=features, hand_model=model)
        return offset(scene, shape=0.0).item(), offset(scene, shape=0.0, variant="cpf").item()

    small = Pose(**{**dict(pose.items()), "object_transl": pose.object_transl + 0.01})
    assert both(small, pose) == pytest.approx((3e-4, 3e-4), rel=1e-3)
    turned = Pose(**{**dict(far.items()), "object_rotvec": torch.tensor([[0.0, 0.3, 3.0]])})
    ours, theirs = both(turned, far)
    angle = (Rotation.from_rotvec([0, 0.3, 3]) * Rotation.from_rotvec([0, 0, 3]).inv()).magnitude()
    assert theirs == pytest.approx(0.09, rel=1e-3) and ours == pytest.approx(2 - 2 * np.cos(angle), rel=1e-3)
    assert ours < 0.05
    other = Pose(**{**dict(pose.items()), "hand_shape": pose.hand_shape + 1.0})
    ours, theirs = both(other, pose)
    moved = (knuckle(model, other) - knuckle(model, pose)).square().sum().item()
    assert ours < 1e-9 and theirs == pytest.approx(moved, rel=1e-4) and moved > 0
    with pytest.raises(ValueError, match="variant is 'official'; known: angle, cpf"):
        offset(bare_scene(pose=pose, initial=pose), variant="official")


def test_quaternions_there_and_back() -> None:
    rotvec = torch.rand(30, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3.4 - 1.7
    rotvec[0], rotvec[1] = 0, rotvec[1] * 1e-8
    quaternion = rotvec_to_quaternion(rotvec)
    for length in (1.0, 0.3, -2.0):  # any length, and q and -q are one rotation
        torch.testing.assert_close(quaternion_to_rotvec(length * quaternion), rotvec, atol=1e-12, rtol=1e-9)
    assert torch.autograd.gradcheck(quaternion_to_rotvec, [(1.1 * quaternion[:8]).requires_grad_()], eps=1e-8)
