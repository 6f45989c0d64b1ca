"""The embedded hand: a closed hand of the right measures whose skin stays whole when it bends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import cKDTree

from horefine import anatomy
from horefine.geometry import axis_angle_to_matrix
from horefine.hand import Hand, HandModel

BONES = {
    "thumb": ((38.0, 36.9, 39.6), (30.7, 29.9, 32.0), (26.9, 26.6, 27.4), (34.0, 33.4, 34.5)),
    "index": ((88.7, 85.4, 92.9), (31.9, 30.6, 33.5), (21.4, 20.4, 22.5), (22.2, 21.3, 23.2)),
    "middle": ((92.6, 89.1, 97.7), (30.7, 29.4, 32.4), (22.5, 21.6, 23.7), (23.7, 22.8, 24.7)),
    "ring": ((84.5, 81.8, 87.9), (27.8, 26.2, 29.4), (24.0, 22.9, 25.1), (23.1, 22.2, 24.1)),
    "pinky": ((80.7, 79.5, 81.9), (21.2, 20.7, 21.6), (18.9, 18.5, 19.5), (19.8, 19.4, 20.4)),
}
"""Wrist-1, 1-2, 2-3, 3-4 of each finger: mean, least and greatest over people, millimetres (docs/hand.md)."""


@pytest.fixture(scope="module")
def hand() -> HandModel:
    return HandModel.embedded()


def pose(hand: HandModel, rotvec: torch.Tensor | None = None, shape: torch.Tensor | None = None) -> Hand:
    count = max(len(value) for value in (rotvec, shape) if value is not None)
    rotvec = torch.zeros(count, 16, 3) if rotvec is None else rotvec
    shape = torch.zeros(count, 10) if shape is None else shape
    return hand(rotvec, shape, torch.zeros(count, 3))


def flat(hand: HandModel) -> Hand:
    return pose(hand, torch.zeros(1, 16, 3))


def bent(hand: HandModel, joint: int, degrees: float) -> torch.Tensor:
    """Rotation vectors with one joint bent."""
    angles = torch.zeros(1, 16, 3)
    angles[0, joint, 2] = np.radians(degrees)
    return anatomy.compose_angles(angles, hand.axes)


def volume(vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    a, b, c = vertices[:, faces].unbind(2)
    return (a * torch.linalg.cross(b, c, dim=-1)).sum((1, 2)) / 6


def winding(points: torch.Tensor, corners: torch.Tensor) -> torch.Tensor:
    """How often a closed surface turns about each point (van Oosterom and Strackee 1983): 1 inside, 0 outside."""
    a, b, c = (corners[None] - points[:, None, None]).double().unbind(2)
    la, lb, lc = a.norm(dim=-1), b.norm(dim=-1), c.norm(dim=-1)
    above = (a * torch.linalg.cross(b, c, dim=-1)).sum(-1)
    below = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
    return torch.atan2(above, below).sum(-1) / (2 * torch.pi)


def bones(joints: torch.Tensor) -> torch.Tensor:
    """Lengths in millimetres, B x 5 x 4."""
    fingers = joints[:, 1:].view(-1, 5, 4, 3)
    chain = torch.cat([joints[:, None, :1].expand(-1, 5, 1, 3), fingers], 2)
    return chain.diff(dim=2).norm(dim=-1) * 1e3


def test_is_one_closed_surface_turned_outward(hand: HandModel) -> None:
    mesh = trimesh.Trimesh(flat(hand).vertices[0].numpy(), hand.faces.numpy(), process=False)
    assert len(mesh.vertices) == 778 and len(mesh.faces) == 1552
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.euler_number == 2 and mesh.body_count == 1
    assert 250e-6 < mesh.volume < 420e-6  # hands displace 0.25 to 0.42 litres


def test_triangles_are_even(hand: HandModel) -> None:
    """Quality 4 sqrt(3) area / sum of squared sides: 1 for equal sides, 0 for a sliver."""
    a, b, c = flat(hand).vertices[0][hand.faces].unbind(1)
    area = torch.linalg.cross(b - a, c - a, dim=-1).norm(dim=-1) / 2
    squares = (b - a).square().sum(-1) + (c - b).square().sum(-1) + (a - c).square().sum(-1)
    assert (4 * 3**0.5 * area / squares).min() > 0.6
    lengths = torch.stack([(b - a).norm(dim=-1), (c - b).norm(dim=-1), (a - c).norm(dim=-1)])
    assert lengths.min() > 0.0025 and lengths.max() < 0.016


def test_bones_have_the_mean_lengths(hand: HandModel) -> None:
    expected = torch.tensor([[row[0] for row in rows] for rows in BONES.values()])
    assert (bones(flat(hand).joints)[0] - expected).abs().max() < 1.0


def test_shapes_span_the_range_of_people(hand: HandModel) -> None:
    """Within 2.5 sd every bone reaches the shortest and the longest of the people measured."""
    lengths = bones(pose(hand, shape=torch.cat([2.5 * torch.eye(10), -2.5 * torch.eye(10)])).joints)
    for finger, rows in enumerate(BONES.values()):
        for bone, (_, low, high) in enumerate(rows):
            assert lengths[:, finger, bone].min() <= low and lengths[:, finger, bone].max() >= high


def test_shape_directions_mean_what_they_say(hand: HandModel) -> None:
    """Size scales all; the lengths and the finger order act on their bones; girths hardly move a joint."""
    base = bones(flat(hand).joints)[0]
    change = bones(pose(hand, shape=torch.eye(10)).joints) / base - 1
    assert torch.allclose(change[0], torch.full((5, 4), 0.042), atol=0.004)
    assert (change[1, 1:, 1:] > 0.012).all() and (change[1, :, 0] < 0).all()
    assert (change[4, 1:, 0] > 0.01).all()
    assert (change[5, 0, 1:] > 0.02).all() and (change[5, 1:, 1:].abs() < 0.01).all()
    assert (change[7, 1, 1:] < -0.02).all() and (change[7, 4, 1:] > 0.02).all()
    assert change[[6, 8, 9]].abs().max() < 0.01
    directions = torch.nn.functional.normalize(hand.basis[:10], dim=1)
    assert (directions @ directions.T - torch.eye(10)).abs().max() < 0.4  # nearly orthogonal


def test_regressor_keeps_the_joints_inside_at_every_shape(hand: HandModel) -> None:
    shape = 2 * torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    vertices = pose(hand, shape=shape).vertices
    joints = hand.rest_joints(shape)
    assert torch.allclose(hand.regressor @ vertices, joints, atol=1e-6)
    turns = torch.stack([winding(j, v[hand.faces]) for j, v in zip(joints, vertices, strict=True)])
    assert torch.allclose(turns, torch.ones_like(turns), atol=1e-3)


def test_skinning_is_smooth_and_does_not_leak(hand: HandModel) -> None:
    assert torch.allclose(hand.weights.sum(1), torch.ones(778), atol=1e-6)
    assert (hand.weights >= 0).all() and (hand.weights > 0).sum(1).max() <= 4
    fingers = hand.weights[:, 1:].view(778, 5, 3).sum(2)
    two = fingers.sort(1).values[:, -2] > 0.05
    assert two.sum() < 60  # the webs
    joints, vertices = hand.flat_joints, flat(hand).vertices[0]
    for finger in range(5):  # beyond its web a finger's skin follows nothing else
        middle, tip = joints[2 + 3 * finger], joints[3 + 3 * finger]
        along = (vertices - middle) @ (tip - middle) / (tip - middle).square().sum()
        own = fingers[:, finger] > 0.5
        assert fingers[own & (along > 0.3), finger].min() > 0.97
    edges = torch.cat([hand.faces[:, [0, 1]], hand.faces[:, [1, 2]], hand.faces[:, [2, 0]]])
    assert (hand.weights[edges[:, 0]] - hand.weights[edges[:, 1]]).abs().max() < 0.9


@pytest.mark.parametrize("joint", range(1, 16))
def test_bending_keeps_volume_and_turns_no_skin_inside_out(hand: HandModel, joint: int) -> None:
    """The finger keeps its volume within 12 % at 80 degrees (the thumb's base at 45), and every face its side."""
    degrees = 45 if anatomy.ROTATIONS[joint].startswith("thumb") else 80
    rest, posed = flat(hand), pose(hand, bent(hand, joint, degrees))
    finger = anatomy.FINGERS.index(anatomy.ROTATIONS[joint][:-1])
    lengths, girth = bones(rest.joints)[0, finger, 1:].sum(), 0.0085
    finger_volume = lengths * 1e-3 * np.pi * girth**2
    assert abs(volume(posed.vertices, hand.faces) - volume(rest.vertices, hand.faces)) < 0.12 * finger_volume
    turn = hand.weights @ posed.transforms[0, :, :3, :3].reshape(16, 9)
    a, b, c = rest.vertices[0][hand.faces].unbind(1)
    before = torch.linalg.cross(b - a, c - a, dim=-1)
    expected = (turn.view(778, 3, 3)[hand.faces].mean(1) @ before[..., None]).squeeze(-1)
    a, b, c = posed.vertices[0][hand.faces].unbind(1)
    after = torch.linalg.cross(b - a, c - a, dim=-1)
    assert (torch.nn.functional.cosine_similarity(after, expected, dim=-1) > 0).all()


def test_correctives_vanish_on_the_flat_hand_and_help_a_bent_finger(hand: HandModel) -> None:
    import dataclasses

    plain = dataclasses.replace(hand, basis=torch.cat([hand.basis[:10], torch.zeros(135, 778 * 3)]))
    assert torch.equal(flat(hand).vertices, flat(plain).vertices)
    rest = volume(flat(hand).vertices, hand.faces)
    for joint in (2, 5, 8, 11):
        rotvec = bent(hand, joint, 80)
        with_, without = (abs(volume(pose(m, rotvec).vertices, m.faces) - rest) for m in (hand, plain))
        assert with_ < 0.5 * without


def crossings(vertices: np.ndarray, faces: np.ndarray) -> int:
    """Edges that pass through a triangle they do not touch."""
    edges = np.unique(np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1), axis=0)
    lengths = np.linalg.norm(vertices[edges[:, 1]] - vertices[edges[:, 0]], axis=1)
    near = cKDTree(vertices[edges].mean(1)).query_ball_tree(cKDTree(vertices[faces].mean(1)), 1.3 * lengths.max())
    first = np.repeat(np.arange(len(edges)), [len(row) for row in near])
    second = np.concatenate([np.array(row, int) for row in near])
    apart = (edges[first][:, :, None] != faces[second][:, None]).all((1, 2))
    part, triangle = edges[first[apart]], faces[second[apart]]
    start, (a, b, c) = vertices[part[:, 0]], (vertices[triangle[:, i]] for i in range(3))
    way = vertices[part[:, 1]] - start
    p = np.cross(way, c - a)
    size = (p * (b - a)).sum(-1)
    size = np.where(np.abs(size) < 1e-18, np.inf, size)
    q = np.cross(start - a, b - a)
    u, v, t = ((start - a) * p).sum(-1) / size, (way * q).sum(-1) / size, ((c - a) * q).sum(-1) / size
    return int(((u > 0) & (v > 0) & (u + v < 1) & (t > 0) & (t < 1)).sum())


def test_crossings_are_found() -> None:
    """Two balls that overlap cross; side by side they do not."""
    ball = trimesh.creation.icosphere(subdivisions=1)
    faces = np.concatenate([ball.faces, ball.faces + len(ball.vertices)])
    for gap, crossed in ((1.2, True), (2.2, False)):
        vertices = np.concatenate([ball.vertices, ball.vertices + np.array([gap, 0.1, 0.05])])
        assert (crossings(vertices, faces) > 0) == crossed


def test_no_self_intersection_flat_relaxed_and_over_shapes(hand: HandModel) -> None:
    faces = hand.faces.numpy()
    hands = [flat(hand), pose(hand, hand.mean_rotvec[None])]
    hands += [
        pose(hand, hand.mean_rotvec[None], sign * 2.5 * torch.eye(10)[k : k + 1]) for k in (2, 3) for sign in (1, -1)
    ]
    assert [crossings(h.vertices[0].double().numpy(), faces) for h in hands] == [0] * len(hands)


def test_relaxed_pose_is_within_the_limits_and_looks_natural(hand: HandModel) -> None:
    """All joints bend to the palm, the middle joints most, the little finger's knuckle more than the index's."""
    angles = anatomy.anatomy_angles(axis_angle_to_matrix(hand.mean_rotvec), hand.axes)[1:]
    assert (angles > hand.limits[..., 0] - 1e-6).all() and (angles < hand.limits[..., 1] + 1e-6).all()
    assert not hand.mean_rotvec[0].any()
    bend = torch.rad2deg(angles[:, 2]).view(5, 3)[[0, 1, 3, 2]]
    assert (bend > 5).all() and (bend[:, 1] > bend[:, 2]).all() and bend[3, 0] > bend[0, 0]
    tips = pose(hand, hand.mean_rotvec[None]).joints[0, [8, 12, 16, 20]]
    assert (tips[:, 1] < flat(hand).joints[0, [8, 12, 16, 20], 1]).all()


def test_positive_bend_brings_every_tip_towards_the_palm(hand: HandModel) -> None:
    rest = flat(hand).joints[0]
    for joint in range(1, 16):
        finger = anatomy.FINGERS.index(anatomy.ROTATIONS[joint][:-1])
        tip = 4 + 4 * finger
        moved = pose(hand, bent(hand, joint, 20)).joints[0, tip] - rest[tip]
        assert moved[1] < -0.001, anatomy.ROTATIONS[joint]


def test_tips_are_the_ends_of_the_fingers(hand: HandModel) -> None:
    posed = flat(hand)
    for finger, tip in enumerate(hand.tips.tolist()):
        way = posed.joints[0, 4 + 4 * finger] - posed.joints[0, 3 + 4 * finger]
        own = hand.regions == 3 * finger + 2
        along = posed.vertices[0] @ way
        assert along[tip] > along[own].max() - 0.002 * way.norm()
        assert hand.regions[tip] == 3 * finger + 2


def test_every_region_has_skin_on_both_sides(hand: HandModel) -> None:
    for region in range(17):
        inside = hand.regions == region
        assert inside.sum() >= 15 and 0.25 < hand.palmar[inside].float().mean() < 0.75, anatomy.REGIONS[region]


def test_mirrored_is_a_left_hand(hand: HandModel) -> None:
    """A posed right hand seen in the mirror is the mirrored model in the mirrored pose."""
    from horefine.geometry import mirror_rotvec

    generator = torch.Generator().manual_seed(1)
    rotvec, flip = 0.4 * torch.randn(2, 16, 3, generator=generator), torch.tensor([-1.0, 1.0, 1.0])
    right = pose(hand, rotvec).vertices * flip
    flipped = (hand.basis.view(145, 778, 3) * flip).reshape(145, -1)
    signs = torch.tensor([[1.0, -1, -1], [-1, 1, 1], [-1, 1, 1]]).reshape(9).repeat(15)
    flipped[10:] *= signs[:, None]
    left = HandModel(
        **{
            **{name: getattr(hand, name) for name in hand.__dataclass_fields__},
            "template": hand.template * flip,
            "basis": flipped,
            "flat_joints": hand.flat_joints * flip,
            "shape_joints": (hand.shape_joints.view(10, 16, 3) * flip).reshape(10, 48),
        }
    )
    assert torch.allclose(pose(left, mirror_rotvec(rotvec)).vertices, right, atol=1e-6)
