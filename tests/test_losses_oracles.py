"""The losses equal what official code (CPF) and a literal reading of Song et al. 2022 computed from the same inputs."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oracles import load, recorded_hand, tensor
from scipy.spatial.transform import Rotation

from horefine.anatomy import JOINTS
from horefine.contact_truth import NO_REGION, anchor_distances, anchor_table, contact_from_pose, elasticity
from horefine.geometry import Camera
from horefine.hand import Hand, HandModel
from horefine.losses.cpf import attraction, axis_terms, edge_length, quaternion_norm, quaternion_offset, repulsion
from horefine.losses.image import correspondence_depth, dense_mapping, relative_depth, segmentation
from horefine.losses.pairs import VertexPairs, nearest_pixels
from horefine.losses.prior import anatomy, offset
from horefine.mesh import Mesh
from horefine.scene import Contact, Pose, Scene


def make_scene(**parts: object) -> Scene:
    """A scene whose posed parts are given instead of computed."""
    scene = object.__new__(Scene)
    scene.__dict__.update(parts)
    return scene


@pytest.fixture(scope="module")
def model() -> HandModel:
    return recorded_hand()


def test_elasticity() -> None:
    oracle = load("elasticity_fn")
    for reach, expected in ((0.02, oracle.k_range20), (0.045, oracle.k_range45)):
        torch.testing.assert_close(elasticity(tensor(oracle.dist_mm) / 1e3, reach), tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["contact_gt_0", "contact_gt_1"])
def test_contact_from_pose(model: HandModel, name: str) -> None:
    oracle = load(name)
    hand, thing = tensor(oracle.hand_verts)[None], tensor(oracle.obj_verts)[None]
    contact = contact_from_pose(model, hand, thing)
    assert contact.probability[0].tolist() == oracle.vertex_contact.tolist()
    assert contact.region[0].tolist() == oracle.contact_region.tolist()
    assert anchor_table(model.anchor_region)[contact.region[0]].tolist() == oracle.anchor_id.tolist()
    torch.testing.assert_close(contact.elasticity[0], tensor(oracle.anchor_elasti), atol=1e-4, rtol=0)
    distance, exists = anchor_distances(model, hand, thing, contact.region)
    assert exists[0].int().tolist() == oracle.anchor_padding_mask.tolist()
    expected = tensor(oracle.anchor_dist_mm)[exists[0]]
    torch.testing.assert_close(distance[0][exists[0]] * 1e3, expected, atol=1e-4, rtol=0)
    assert 0 < contact.probability.sum() < len(thing[0])
    assert (contact.region[contact.probability == 0] == NO_REGION).all()


def energy_scene(model: HandModel, index: int, shift: np.ndarray, dtype: torch.dtype) -> Scene:
    energy, truth = load(f"energy_{index}"), load(f"contact_gt_{index}")
    hand = tensor(truth.hand_verts, dtype)[None].requires_grad_()
    thing = (tensor(truth.obj_verts, dtype) + tensor(shift, dtype))[None].requires_grad_()
    mesh = Mesh(tensor(truth.obj_verts_can, dtype)[None], tensor(truth.obj_faces)[None])
    mesh.__dict__["normals"] = tensor(energy.obj_normals_can, dtype)[None]
    return make_scene(
        hand=Hand(hand, tensor(truth.hand_joints, dtype)[None], torch.eye(4, dtype=dtype).expand(1, 16, 4, 4)),
        object=thing, object_center=thing.mean(1), object_rotation=tensor(truth.obj_rotmat, dtype)[None],
        features=SimpleNamespace(object=mesh), hand_model=model.to(dtype=dtype),
    )  # fmt: skip


def check_energy(scene: Scene, value: torch.Tensor, expected: np.ndarray, on_hand: np.ndarray, on_object: np.ndarray):
    torch.testing.assert_close(value[0].double(), tensor(expected), rtol=1e-4, atol=0)
    found = torch.autograd.grad(value.sum(), [scene.hand.vertices, scene.object])
    for gradient, want in zip(found, (on_hand, on_object), strict=True):
        assert np.abs(want).max() > 0
        torch.testing.assert_close(gradient[0].double(), tensor(want), rtol=1e-4, atol=1e-4 * float(np.abs(want).max()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("index", [0, 1])
def test_attraction(model: HandModel, index: int, dtype: torch.dtype) -> None:
    energy, truth = load(f"energy_{index}"), load(f"contact_gt_{index}")
    scene = energy_scene(model, index, energy.attr_obj_shift, dtype)
    contact = Contact(
        tensor(truth.vertex_contact).to(dtype)[None], tensor(truth.contact_region)[None],
        tensor(truth.anchor_elasti, dtype)[None],
    )  # fmt: skip
    check_energy(scene, attraction(scene, contact), energy.attr, energy.attr_g_hand, energy.attr_g_obj)


REPULSIONS = {
    "code_default": {"query": 0.02},
    "geo_30_80": {},
    "q10": {"query": 0.01},
    "cand8": {"neighbours": 8, "clamp": 0.005},
}


@pytest.mark.parametrize("name", REPULSIONS)
@pytest.mark.parametrize("index", [0, 1])
def test_repulsion(model: HandModel, index: int, name: str) -> None:
    energy = vars(load(f"energy_{index}"))
    scene = energy_scene(model, index, np.zeros(3), torch.float64)
    value = repulsion(scene, **REPULSIONS[name])
    stored = (energy[f"rep_{name}"], energy[f"rep_{name}_g_hand"], energy[f"rep_{name}_g_obj"])
    check_energy(scene, value, *stored)


def test_repulsion_ignores_padding_and_neighbours_in_the_batch(model: HandModel) -> None:
    scene = energy_scene(model, 0, np.zeros(3), torch.float64)
    alone = repulsion(scene)
    mesh = scene.features.object
    more = Mesh.cat([mesh, Mesh(mesh.vertices.repeat(1, 2, 1), mesh.faces)])
    more.__dict__["normals"] = mesh.normals.repeat(2, 2, 1)
    thing = torch.cat([scene.object, scene.object[:, -1:].expand(-1, mesh.vertices.shape[1], -1)], 1)
    both = make_scene(
        hand=SimpleNamespace(vertices=scene.hand.vertices.repeat(2, 1, 1)), object=thing.repeat(2, 1, 1),
        object_rotation=scene.object_rotation.repeat(2, 1, 1), features=SimpleNamespace(object=more),
    )  # fmt: skip
    torch.testing.assert_close(repulsion(both)[:1], alone)
    assert repulsion(both)[1] != alone[0]  # its last vertex counts many times


@pytest.fixture(scope="module")
def posed(model: HandModel) -> SimpleNamespace:
    """CPF's five anatomy poses with our hand: rotation vectors, joints, global rotations."""
    oracle = load("cpf_anatomy")
    quaternion = oracle.quat_used.astype(np.float64)
    rotvec = Rotation.from_quat(quaternion.reshape(-1, 4), scalar_first=True).as_rotvec().reshape(5, 16, 3)
    hand = model(tensor(rotvec), tensor(oracle.betas), torch.zeros(5, 3, dtype=torch.float64))
    return SimpleNamespace(oracle=oracle, rotvec=tensor(rotvec), hand=hand, quaternion=tensor(quaternion))


def test_anatomy_terms(posed: SimpleNamespace) -> None:
    terms = axis_terms(posed.rotvec, posed.hand.joints, posed.hand.transforms[:, :, :3, :3])
    oracle = posed.oracle
    for name, expected in (("back", oracle.b_loss), ("up", oracle.u_loss), ("left", oracle.l_loss)):
        torch.testing.assert_close(terms[name], tensor(expected), atol=2e-4, rtol=0, equal_nan=True)
    torch.testing.assert_close(terms["angle"], tensor(oracle.angle_loss), atol=2e-4, rtol=0)
    assert terms["back"][0].isnan() and terms["angle"][4] > 0  # the official term at a zero rotation


def test_faithful_anatomy(model: HandModel, posed: SimpleNamespace) -> None:
    scene = make_scene(pose=SimpleNamespace(hand_rotvec=posed.rotvec), hand=posed.hand, hand_model=model)
    o = posed.oracle
    expected = tensor(o.angle_loss + 0.1 * (o.b_loss + o.u_loss + o.l_loss))
    torch.testing.assert_close(anatomy(scene, variant="cpf"), expected, atol=2e-4, rtol=0, equal_nan=True)


def test_edges_and_quaternions(model: HandModel, posed: SimpleNamespace) -> None:
    oracle = posed.oracle
    edges = edge_length(make_scene(hand=posed.hand, hand_model=model))
    torch.testing.assert_close(edges, tensor(oracle.edge_loss), rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(quaternion_norm(posed.quaternion), tensor(oracle.quat_norm_loss), rtol=1e-4, atol=1e-7)
    change = quaternion_offset(posed.quaternion[2:3], tensor(oracle.pose_reg_init)[None])
    torch.testing.assert_close(change[0], tensor(oracle.pose_reg_loss_2_vs_1), rtol=1e-3, atol=0)


def song_scene() -> tuple[SimpleNamespace, Scene]:
    oracle = load("song_reading")
    depth = torch.stack([tensor(oracle.depth_h), tensor(oracle.depth_o)])[None]
    drawn = depth < 99
    render = SimpleNamespace(
        masks=torch.stack([tensor(oracle.sil_h), tensor(oracle.sil_o)])[None],
        depth=torch.where(drawn, depth, 0.0), ids=torch.where(drawn, 0, -1),
    )  # fmt: skip
    center = torch.tensor([[0.0, 0.0, float(oracle.z_root)]], dtype=torch.float64)
    scene = make_scene(
        pose=Pose(*(torch.zeros(1, *size) for size in ((16, 3), (10,), (3,), (3,), (3,)))),
        render=render, object_center=center, object=tensor(oracle.V_o)[None],
        hand=SimpleNamespace(vertices=tensor(oracle.V_h)[None]),
        features=SimpleNamespace(camera=Camera(tensor(oracle.K)[None], (16, 16))),
    )  # fmt: skip
    return oracle, scene


def test_song_segmentation_and_depth() -> None:
    oracle, scene = song_scene()
    masks = tensor(oracle.S_h)[None], tensor(oracle.S_o)[None]
    depth = tensor(oracle.D)[None]

    def same(value: torch.Tensor, expected: np.ndarray) -> None:
        torch.testing.assert_close(value[0], tensor(expected), rtol=1e-6, atol=1e-9)

    same(segmentation(scene, *masks, reduction="sum"), oracle.L_seg_sum)
    same(segmentation(scene, *masks), oracle.L_seg_mean)
    same(relative_depth(scene, *masks, depth, reduction="sum"), oracle.L_dep_masked_by_render)
    same(relative_depth(scene, *masks, depth, reduction="sum", literal=True), oracle.L_dep_literal_with_far100)
    same(relative_depth(scene, *masks, depth) * 256, oracle.L_dep_masked_by_render)


@pytest.mark.parametrize("threshold", [0.05, 0.1])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_song_correspondences(threshold: float, reduction: str) -> None:
    oracle, scene = song_scene()
    stored, everywhere = vars(oracle), torch.ones(1, 16, 16, dtype=torch.float64)
    pairs = VertexPairs(
        nearest_pixels(tensor(oracle.feat_h)[None], tensor(oracle.M_h).permute(2, 0, 1)[None], everywhere),
        nearest_pixels(tensor(oracle.feat_o)[None], tensor(oracle.M_o).permute(2, 0, 1)[None], everywhere),
    )
    for side, found in (("h", pairs.hand), ("o", pairs.object)):
        expected = tensor(stored[f"phi_{side}_th{threshold}"])
        kept = expected[:, 0] >= 0
        assert ((found.distance[0] < threshold) == kept).all()
        assert (found.pixel[0][kept] == expected[kept]).all()
    dense = sum(stored[f"L_dense_{s}_th{threshold}_{reduction}"] for s in "ho")
    depth = sum(stored[f"L_dep2_{s}_th{threshold}_{reduction}"] for s in "ho")
    options = {"threshold": threshold, "reduction": reduction}
    found = (
        dense_mapping(scene, pairs, **options),
        correspondence_depth(scene, pairs, tensor(oracle.D)[None], **options),
    )
    torch.testing.assert_close(found[0][0], tensor(dense), rtol=1e-6, atol=0)
    torch.testing.assert_close(found[1][0], tensor(depth), rtol=1e-6, atol=0)


def test_first_objective_of_the_whole_optimiser(model: HandModel) -> None:
    """CPF's GeOptimizer at its first iterate, every term that depends on the pose (hand and object posed by us)."""
    oracle, truth = load("geo_hand_obj_0"), load("contact_gt_0")
    rotvec = tensor(Rotation.from_quat(oracle.init_hand_pose_quat.astype(float), scalar_first=True).as_rotvec())[None]
    shape = tensor(oracle.init_hand_shape)[None]
    centre = model(rotvec, shape, torch.zeros(1, 3, dtype=torch.float64)).joints[:, JOINTS.index("middle1")]
    mesh = Mesh(tensor(oracle.obj_verts_can)[None], tensor(truth.obj_faces)[None])
    mesh.__dict__["normals"] = tensor(oracle.obj_normals_can)[None]
    pose = Pose(
        rotvec, shape, tensor(oracle.init_hand_tsl)[None] - centre, tensor(oracle.init_obj_rot)[None],
        tensor(oracle.init_obj_tsl)[None],
    )  # fmt: skip
    scene = make_scene(pose=pose, initial=pose, features=SimpleNamespace(object=mesh), hand_model=model)
    contact = Contact(
        tensor(truth.vertex_contact).double()[None], tensor(truth.contact_region)[None],
        tensor(truth.anchor_elasti)[None],
    )  # fmt: skip
    terms = axis_terms(rotvec, scene.hand.joints, scene.hand.transforms[:, :, :3, :3])
    found = {
        "contact": attraction(scene, contact), "repulsion": repulsion(scene), "edge": edge_length(scene),
        "joint_b_axis": terms["back"], "joint_u_axis": terms["up"], "joint_l_limit": terms["left"],
    }  # fmt: skip
    weights = {"contact": 10.0, "repulsion": 0.5, "edge": 1.0, "joint_b_axis": 0.1}
    for name, value in found.items():
        expected = vars(oracle)[f"loss0_{name}_loss"]
        np.testing.assert_allclose(value.item(), expected, rtol=1e-3, atol=2e-6, err_msg=name)
    total = sum(weights.get(name, 0.1) * value for name, value in found.items()) + offset(scene)
    torch.testing.assert_close(total[0], tensor(oracle.loss0), rtol=1e-3, atol=0)
