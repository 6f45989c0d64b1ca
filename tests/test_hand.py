"""The hand against manopth's recorded output, against smplx, and against what a hand is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from smplx.lbs import lbs

from horefine import anatomy
from horefine.geometry import axis_angle_to_matrix
from horefine.hand import HandModel, load_hand
from horefine.mano import HandData

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def recorded_hand() -> HandModel:
    """The synthetic hand behind the recorded numbers."""
    raw = np.load(DATA / "synth_hand.npz")
    data = HandData(
        template=raw["v_template"].astype(float), faces=raw["faces"], weights=raw["weights"].astype(float),
        regressor=raw["J_regressor"].astype(float), shapedirs=raw["shapedirs"].astype(float),
        posedirs=raw["posedirs"].astype(float), mean_rotvec=np.zeros((16, 3)),
    )  # fmt: skip
    return HandModel.from_data(data, "recorded")


@pytest.fixture(scope="module")
def hand() -> HandModel:
    return HandModel.embedded()


def random_pose(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    size = {"generator": generator, "dtype": dtype}
    return 0.5 * torch.randn(count, 16, 3, **size), torch.randn(count, 10, **size), torch.randn(count, 3, **size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chosen", [[2], [0, 1, 2], [0, 1, 2, 3, 4, 2, 1]])
def test_matches_manopth(recorded_hand: HandModel, chosen: list[int], dtype: torch.dtype) -> None:
    """Oracle mano_fk: vertices, joints and transforms of ManoLayer, without a centre and centred at joint 9."""
    oracle = np.load(DATA / "mano_fk.npz")
    model = recorded_hand.to(dtype=dtype)
    rotvec, shape = (torch.as_tensor(oracle[key][chosen], dtype=dtype) for key in ("pose_axisang", "betas"))
    posed = model(rotvec, shape, torch.zeros(len(chosen), 3, dtype=dtype))
    for name, value in (("verts", posed.vertices), ("joints", posed.joints), ("transf", posed.transforms)):
        assert np.abs(value.numpy() - oracle[f"{name}_nocenter"][chosen]).max() < 1e-5, name
    centred = model(rotvec, shape, -posed.joints[:, anatomy.JOINTS.index("middle1")])
    assert np.abs(centred.vertices.numpy() - oracle["verts_center9"][chosen]).max() < 1e-5
    assert np.abs(centred.joints.numpy() - oracle["joints_center9"][chosen]).max() < 1e-5
    assert np.abs(centred.transforms.numpy() - oracle["transf_center9"][chosen]).max() < 1e-5


def test_matches_smplx(hand: HandModel) -> None:
    """The same vertices and joints as the general skinning of smplx, at every shape and with a translation."""
    model = hand.to(dtype=torch.float64)
    rotvec, shape, transl = random_pose(4, dtype=torch.float64)
    posed = model(rotvec, shape, transl)
    directions = model.basis[:10].T.reshape(778, 3, 10)
    vertices, joints = lbs(
        shape, rotvec.flatten(1), model.template[None], directions, model.basis[10:], model.regressor,
        torch.tensor(model.parents), model.weights,
    )  # fmt: skip
    assert torch.allclose(posed.vertices, vertices + transl[:, None], atol=1e-8)  # smplx adds 1e-8 to its angles
    house = torch.cat([joints, vertices[:, model.tips]], 1) + transl[:, None]
    assert torch.allclose(posed.joints, anatomy.convert_joints(house, "mano"), atol=1e-7)


def test_gradients(hand: HandModel) -> None:
    """Against finite differences, at a bent pose and at the zero rotation."""
    model = hand.to(dtype=torch.float64)
    for scale in (1.0, 0.0):
        rotvec, shape, transl = random_pose(1, 3, torch.float64)
        inputs = [(value * factor).requires_grad_() for value, factor in ((rotvec, scale), (shape, 1), (transl, 1))]

        def outputs(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            posed = model(*values)
            return posed.vertices[:, ::97] * 10, posed.joints[:, ::5] * 10, posed.transforms[:, 3:6]

        assert torch.autograd.gradcheck(outputs, inputs, atol=1e-6)


def test_result_does_not_depend_on_neighbours(hand: HandModel) -> None:
    rotvec, shape, transl = random_pose(7)
    together = hand(rotvec, shape, transl).vertices
    alone = torch.cat([hand(rotvec[i : i + 1], shape[i : i + 1], transl[i : i + 1]).vertices for i in range(7)])
    assert (together - alone).abs().max() < 1e-6


def test_wrist_is_where_smplx_puts_it(hand: HandModel) -> None:
    rotvec, shape, transl = random_pose(3, 5)
    expected = hand.rest_joints(shape)[:, 0] + transl
    assert torch.allclose(hand(rotvec, shape, transl).joints[:, 0], expected, atol=1e-6)


def test_codes_are_the_flat_hand_in_its_cube(hand: HandModel) -> None:
    assert hand.codes.min() >= 0 and hand.codes.max() <= 1
    extent = hand.codes.amax(0) - hand.codes.amin(0)
    assert extent.max() == pytest.approx(1, abs=1e-6)
    flat = hand(torch.zeros(1, 16, 3), torch.zeros(1, 10), torch.zeros(1, 3)).vertices[0]
    assert torch.allclose((hand.codes - 0.5) * hand.code_scale + hand.code_center, flat, atol=1e-6)


def test_regions_of_the_recorded_hand(recorded_hand: HandModel) -> None:
    """Oracle synth_hand_regions: regions exactly; the palmar side but for edge cases and the thumb."""
    oracle = np.load(DATA / "synth_hand_regions.npz")
    assert (recorded_hand.regions.numpy() == oracle["vertex_region"]).all()
    palmar = np.zeros(778, bool)
    palmar[oracle["palm_vertices"]] = True
    fingers = oracle["vertex_region"] > 2
    assert (recorded_hand.palmar.numpy() == palmar)[fingers].mean() > 0.98
    assert (recorded_hand.anchor_region.numpy() == oracle["anchor_region"]).all()


def test_anchors_lie_on_the_palmar_surface_of_their_region(hand: HandModel) -> None:
    assert (hand.regions[hand.anchor_faces] == hand.anchor_region[:, None]).all()
    assert hand.palmar[hand.anchor_faces].all()
    assert torch.bincount(hand.anchor_region).tolist() == list(anatomy.ANCHOR_COUNTS)
    assert len({tuple(face) for face in hand.anchor_faces.tolist()}) == 32
    posed = hand(*random_pose(2))
    corners = posed.vertices[:, hand.anchor_faces]
    w1, w2 = hand.anchor_weights.unbind(-1)
    barycentric = torch.stack([1 - w1 - w2, w1, w2], -1)
    assert torch.allclose(hand.anchors(posed.vertices), (barycentric[..., None] * corners).sum(2), atol=1e-6)


def test_joint_orders_are_converted_by_name() -> None:
    joints = torch.arange(21.0)[:, None].expand(21, 3)
    mano = anatomy.convert_joints(joints, "house", "mano")[:, 0].int().tolist()
    assert mano == [0, 5, 6, 7, 9, 10, 11, 17, 18, 19, 13, 14, 15, 1, 2, 3, 4, 8, 12, 16, 20]
    assert torch.equal(anatomy.convert_joints(anatomy.convert_joints(joints, "house", "fhb"), "fhb"), joints)
    with pytest.raises(ValueError, match="'smpl' is unknown; known: dexycb"):
        anatomy.convert_joints(joints, "smpl")
    with pytest.raises(ValueError, match=r"expected \(..., 21, 3\)"):
        anatomy.convert_joints(joints[:20], "mano")


def test_anatomy_matches_manotorch(recorded_hand: HandModel) -> None:
    """Oracle manotorch_anatomy: rest axes, twist/splay/bend angles, and their composition."""
    oracle = np.load(DATA / "manotorch_anatomy.npz")
    flat = recorded_hand(torch.zeros(1, 16, 3), torch.zeros(1, 10), torch.zeros(1, 3)).joints[0]
    axes = anatomy.rest_axes(flat, bone="parent").double()
    assert np.abs(axes.numpy() - oracle["TMPL_R_p_a"]).max() < 1e-5
    w, xyz = torch.tensor(oracle["pose_quat"][..., :1]), torch.tensor(oracle["pose_quat"][..., 1:])
    sine = xyz.norm(dim=-1, keepdim=True)
    rotvec = xyz * torch.where(sine < 1e-9, 2 / w, 2 * torch.atan2(sine, w) / sine.clamp(min=1e-9))
    rotations = axis_angle_to_matrix(rotvec)
    angles = anatomy.anatomy_angles(rotations, axes)
    assert np.abs(angles.numpy()[:, 1:] - oracle["ee"][:, 1:]).max() < 1e-5
    composed = axis_angle_to_matrix(anatomy.compose_angles(torch.tensor(oracle["ee"]).double(), axes))
    expected = axis_angle_to_matrix(torch.tensor(oracle["compose_aa"]).double())
    assert (composed - expected)[:, 1:].abs().max() < 1e-5
    assert (composed - rotations)[:, 1:].abs().max() < 1e-5


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind is 'smplh'; known: auto, embedded, mano"):
        load_hand(kind="smplh")
