"""Contact and hand anatomy as CPF codes them (Yang et al., "CPF: Learning a Contact Potential Field", ICCV 2021).

These are faithful: means over pairs in metres squared, an exponent so small that the repulsion is nearly a constant
force, anatomy terms that are NaN for a joint that is not rotated at all. For refinement that behaves see
``losses/contact.py`` and the default ``anatomy``.
"""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine import anatomy as anatomy_of_hand
from horefine.anatomy import MIDDLE_KNUCKLE, TIP_REGIONS
from horefine.contact_truth import NO_ANCHOR, region_anchors
from horefine.geometry import axis_angle_to_matrix
from horefine.hand import HandModel
from horefine.scene import Contact, Pose, Scene

__all__ = [
    "attraction",
    "axis_terms",
    "cpf_anatomy",
    "cpf_offset",
    "edge_length",
    "kinetic_score",
    "knuckle",
    "manotorch_anatomy",
    "quaternion_norm",
    "quaternion_offset",
    "quaternion_to_rotvec",
    "repulsion",
    "rotvec_to_quaternion",
]

SOFT = (0, 3, 6, 9, 14)
"""Finger joints (MANO's order, the wrist left out) with some play: the four knuckles and the thumb's last joint."""
THUMB = (12, 13)
"""The thumb's base and middle joint."""
HARD = tuple(i for i in range(15) if i not in SOFT + THUMB)


def attraction(
    scene: Scene, contact: Contact, *, threshold: float = 0.8, tip_weight: float = 1.0, other_weight: float = 0.1
) -> Float[Tensor, "B"]:
    """CPF's attraction: springs between touching object vertices and the anchors of their region, metres squared.

    ``mean over (vertex i, anchor a) of w_a k_ia |o_i - a|^2`` with elasticity k and w = ``tip_weight`` for anchors of
    the fingertips. A vertex touches when its probability exceeds ``threshold``; without any the loss is 0.
    """
    model = scene.hand_model
    table = region_anchors(model)[contact.region]
    touching = (contact.probability > threshold)[..., None] & (table != NO_ANCHOR)
    is_tip = torch.isin(model.anchor_region, model.anchor_region.new_tensor(TIP_REGIONS))
    importance = torch.where(is_tip, tip_weight, other_weight).to(contact.elasticity)
    place = table.clamp(max=NO_ANCHOR - 1)
    spring = contact.elasticity * importance[place] * touching
    # sum_i k_ia |o_i - a|^2 = sum_i k_ia |o_i|^2 - 2 a . sum_i k_ia o_i + |a|^2 sum_i k_ia, about the object's centre:
    # no array of vertices times anchors times coordinates
    springs = spring.new_zeros(*table.shape[:2], NO_ANCHOR).scatter_add(2, place, spring)
    origin = scene.object_center.detach()[:, None]
    anchors, vertices = model.anchors(scene.hand.vertices) - origin, scene.object - origin
    energy = (
        (springs.sum(2) * vertices.square().sum(2)).sum(1)
        - 2 * (anchors * (springs.mT @ vertices)).sum((1, 2))
        + (springs.sum(1) * anchors.square().sum(2)).sum(1)
    )
    return energy / touching.sum((1, 2)).clamp(min=1)


def repulsion(
    scene: Scene, *, query: float = 0.03, clamp: float = 0.08, neighbours: int = 50, strength: float = 5e-4
) -> Float[Tensor, "B"]:
    """CPF's repulsion: hand vertices near an object vertex are pushed out along its normal. No unit.

    ``sum over object vertices o and the hand vertices h among its nearest that are closer than query of
    strength exp(2 clamp((o - h) . n)) / number of object vertices with any``. In metres the exponent is tiny, so
    near pairs are pushed alike inside and outside, the value counts pairs, jumps as they come and go, and grows with
    the density of the meshes. Slow (all pairs of vertices). CPF's older ``repulsion_loss`` is, over the number of
    object vertices, this with ``query: 1.0e+9, clamp: 0.015, neighbours: 1, strength: 0.05``.
    """
    mesh, vertices, skin = scene.features.object, scene.object, scene.hand.vertices
    normals = mesh.normals @ scene.object_rotation.mT
    with torch.no_grad():  # only which; never pose anything in here, the scene would keep it without its graph
        distance = torch.cdist(vertices, skin, compute_mode="donot_use_mm_for_euclid_dist")
        any_near = (distance.amin(-1) < query) & mesh.vertex_mask
        order = torch.sort(any_near.int(), dim=1, descending=True, stable=True).indices
        some = order[:, : max(1, int(any_near.sum(1).max()))]
        distance, place = _rows(distance, some).topk(neighbours, dim=-1, largest=False)
        near = (distance < query) & any_near.gather(1, some)[..., None]
    hand = _rows(skin, place.flatten(1)).unflatten(1, place.shape[1:])
    depth = ((_rows(vertices, some)[:, :, None] - hand) * _rows(normals, some)[:, :, None]).sum(-1)
    energy = strength * torch.exp(2 * depth.clamp(-clamp, clamp)) * near
    return energy.sum((1, 2)) / near.any(-1).sum(1).clamp(min=1)


def _rows(values: Float[Tensor, "B N C"], index: Int[Tensor, "B M"]) -> Float[Tensor, "B M C"]:
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def axis_terms(
    rotvec: Float[Tensor, "B 16 3"],
    joints: Float[Tensor, "B 21 3"],
    rotations: Float[Tensor, "B 16 3 3"],
    *,
    unit: bool = True,
) -> dict[str, Float[Tensor, "B"]]:
    """CPF's four anatomy terms (first release): ``back``, ``up``, ``left`` (no unit) and ``angle`` (radians squared).

    A joint's rotation axis should be its l axis (it bends), neither its b axis (twist) nor its u axis (splay): with c_x
    the axis' component, ``back = mean_hard c_b^2 + mean_soft relu(|c_b| - sin 5)^2 + 0.01 mean_thumb relu(|c_b| -
    sin 60)^2``, ``up`` alike with 10 degrees, ``left`` with ``1 - c_l`` and 20; an angle costs the square of what it
    exceeds 90 degrees by.

    Args:
        rotvec: Local joint rotations (the first, the wrist's, is not looked at). A zero rotation has no axis: NaN.
        joints: Positions, house order.
        rotations: Global joint rotations.
        unit: False takes the rotation vector itself for the axis (:func:`kinetic_score`).
    """
    axes = anatomy_of_hand.bone_axes(joints, rotations)
    angle = rotvec[:, 1:].norm(dim=-1)
    axis = rotvec[:, 1:] / angle[..., None] if unit else rotvec[:, 1:]
    back, up, left = ((axis * direction).sum(-1) for direction in axes)

    def mixed(miss: Float[Tensor, "B 15"], degrees: float) -> Float[Tensor, "B"]:
        soft, thumb = (torch.tensor(x, dtype=miss.dtype).deg2rad().sin() for x in (degrees, 60.0))
        return (
            miss[:, HARD].square().mean(1)
            + (miss[:, SOFT] - soft).relu().square().mean(1)
            + 0.01 * (miss[:, THUMB] - thumb).relu().square().mean(1)
        )

    return {
        "back": mixed(back.abs(), 5.0),
        "up": mixed(up.abs(), 10.0),
        "left": mixed(1 - left, 20.0),
        "angle": (angle - torch.pi / 2).relu().square().mean(1),
    }


def cpf_anatomy(scene: Scene) -> Float[Tensor, "B"]:
    """CPF's weighting of :func:`axis_terms`: ``angle + 0.1 (back + up + left)``."""
    terms = axis_terms(scene.pose.hand_rotvec, scene.hand.joints, scene.hand.transforms[:, :, :3, :3])
    return terms["angle"] + 0.1 * (terms["back"] + terms["up"] + terms["left"])


def kinetic_score(rotvec: Float[Tensor, "B 16 3"], joints: Float[Tensor, "B 21 3"]) -> Float[Tensor, "B"]:
    """CPF's "hand kinetic score" (``AnatomyMetric``), a metric: like :func:`cpf_anatomy`, but not the same.

    As coded it takes the rotation vector for its axis (so no rotation is no NaN) and local rotations for global ones.
    Smaller is better; positions in house order.
    """
    terms = axis_terms(rotvec, joints, axis_angle_to_matrix(rotvec), unit=False)
    return terms["angle"] + 0.1 * (terms["back"] + terms["up"] + terms["left"])


_HINGE = ((0, 0), (0, 0), (0, 90))
MANOTORCH_LIMITS = (
    *(((0, 0), (-5, 5), (0, 90)), _HINGE, _HINGE) * 4,
    *(((-45, 45), (-15, 45), (0, 45)), ((0, 0), (-10, 10), (0, 90)), _HINGE),
)
"""Twist, splay and bend of the 15 finger joints (MANO's order), degrees; of right hands."""


def manotorch_anatomy(scene: Scene) -> Float[Tensor, "B"]:
    """The anatomy of CPF's second release (manotorch's ``AnatomyConstraintLossEE``): mean excess in radians.

    Twist, splay and bend (Euler angles about the axes of the *parent* bones of the flat hand) beyond hard limits,
    summed over the three and averaged over the 15 joints. Hinges may not twist or splay at all, and no finger bends
    backwards; the force is as strong for a hundredth of a degree as for ninety.
    """
    rotations, axes = axis_angle_to_matrix(scene.pose.hand_rotvec), _parent_axes(scene.hand_model)
    angles = anatomy_of_hand.anatomy_angles(rotations, axes)[:, 1:]
    limits = torch.tensor(MANOTORCH_LIMITS, dtype=angles.dtype, device=angles.device).deg2rad()
    excess = (limits[..., 0] - angles).relu() + (angles - limits[..., 1]).relu()
    return torch.where(angles.abs() < 1e-6, 0.0, excess).sum(2).mean(1)


@functools.lru_cache(maxsize=4)
def _parent_axes(model: HandModel) -> Float[Tensor, "16 3 3"]:
    joints = torch.cat([model.flat_joints, model.template[model.tips]])
    return anatomy_of_hand.rest_axes(anatomy_of_hand.convert_joints(joints, "mano"), bone="parent")


def edge_length(scene: Scene) -> Float[Tensor, "B"]:
    """CPF: edges of the hand's mesh keep the length they have flat at zero shape, mean square, metres squared."""
    ends, rest = _edges(scene.hand_model)
    length = (scene.hand.vertices[:, ends[0]] - scene.hand.vertices[:, ends[1]]).norm(dim=-1)
    return (length - rest).square().mean(1)


@functools.lru_cache(maxsize=4)
def _edges(model: HandModel) -> tuple[Int[Tensor, "2 E"], Float[Tensor, "E"]]:
    """The mesh's edges, each once, and their lengths on the flat hand."""
    pairs = torch.cat([model.faces[:, pair] for pair in ([0, 1], [1, 2], [2, 0])]).sort(1).values
    ends = pairs.unique(dim=0).T
    return ends, (model.template[ends[0]] - model.template[ends[1]]).norm(dim=-1)


def rotvec_to_quaternion(rotvec: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 4"]:
    """Unit quaternion w, x, y, z; smooth at the zero rotation."""
    square = rotvec.square().sum(-1, keepdim=True)
    tiny = square < 1e-12
    half = torch.where(tiny, torch.ones_like(square), square).sqrt() / 2
    real = torch.where(tiny, 1 - square / 8, half.cos())
    return torch.cat([real, rotvec * torch.where(tiny, 0.5 - square / 48, half.sin() / (2 * half))], -1)


def quaternion_to_rotvec(quaternion: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3"]:
    """Axis times angle, at most half a turn, of a quaternion w, x, y, z of any length but 0; smooth at no rotation."""
    q = quaternion * torch.where(quaternion[..., :1] < 0, -1.0, 1.0)
    square = q[..., 1:].square().sum(-1, keepdim=True)
    tiny = square < 1e-12 * q[..., :1].square()
    sine = torch.where(tiny, torch.ones_like(square), square).sqrt()
    real = torch.where(tiny, q[..., :1], torch.ones_like(square))
    return q[..., 1:] * torch.where(
        tiny, 2 / real - square / real**3 * (2 / 3), 2 * torch.atan2(sine, q[..., :1]) / sine
    )


def quaternion_norm(quaternion: Float[Tensor, "B J 4"]) -> Float[Tensor, "B"]:
    """CPF: free quaternions stay near unit length, ``mean (|q|^2 - 1)^2``. (Axis-angle needs no such term.)"""
    return (quaternion.square().sum(-1) - 1).square().mean(1)


def quaternion_offset(quaternion: Float[Tensor, "B J 4"], initial: Float[Tensor, "B J 4"]) -> Float[Tensor, "B"]:
    """CPF: joints stay near where they began, ``mean (Re(q q_0^-1) - 1)^2`` of normalised quaternions.

    ``Re(q q_0^-1)`` is the cosine of half the angle between the two.
    """
    unit, start = (torch.nn.functional.normalize(q, dim=-1) for q in (quaternion, initial))
    return ((unit * start).sum(-1) - 1).square().mean(1)


def knuckle(model: HandModel, pose: Pose) -> Float[Tensor, "B 3"]:
    """The middle finger's knuckle in the camera frame, metres: what CPF's hand translation is the position of."""
    rest = model.rest_joints(pose.hand_shape)
    bone = rest[:, MIDDLE_KNUCKLE] - rest[:, 0]
    turned = (axis_angle_to_matrix(pose.hand_rotvec[:, 0]) @ bone[..., None])[..., 0]
    return rest[:, 0] + turned + pose.hand_transl


def cpf_offset(
    scene: Scene, *, pose: float = 1.0, shape: float = 1.0, transl: float = 1.0, object: float = 1.0
) -> Float[Tensor, "B"]:
    """CPF's ties to where refinement began, on its own variables: squared changes, no common unit.

    ``pose``: :func:`quaternion_offset` of the 15 finger joints; ``shape``: sum over the shape values; ``transl``: of
    the middle knuckle; ``object``: of the centre of its box and of its *axis-angle numbers*, which jump at half a turn
    and measure a rotation otherwise the farther they are from zero.
    """
    now, start = scene.pose, scene.initial
    turned, before = (rotvec_to_quaternion(p.hand_rotvec[:, 1:]) for p in (now, start))
    same_side = torch.where((turned * before).sum(-1, keepdim=True) < 0, -before, before)  # CPF's numbers cannot jump
    middle = axis_angle_to_matrix(start.object_rotvec) @ start.sized(scene.features.object.center[:, None]).mT
    moved = scene.object_center - middle[..., 0] - start.object_transl
    return (
        pose * quaternion_offset(turned, same_side)
        + shape * (now.hand_shape - start.hand_shape).square().sum(1)
        + transl * (knuckle(scene.hand_model, now) - knuckle(scene.hand_model, start)).square().sum(1)
        + object * (moved.square().sum(1) + (now.object_rotvec - start.object_rotvec).square().sum(1))
    )
