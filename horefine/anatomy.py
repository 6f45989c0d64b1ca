"""Names, regions, anchors and joint axes of a hand with MANO's skeleton: all from geometry, no asset lists.

Two orders of joints occur. ``JOINTS``, 21 of them, is the house order of joint *positions*. ``ROTATIONS``, 16 of them,
is MANO's order of joint *rotations* (wrist, index 1-3, middle 1-3, pinky 1-3, ring 1-3, thumb 1-3).

Regions and anchors follow the layout of CPF (Yang et al. 2021): 17 regions, 32 anchors. The anatomical axes are those
of CPF's ``AxisLayer`` (b: from a joint back along its bone, u: towards the back of the hand, l = b x u).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from horefine.geometry import matrix_to_axis_angle

__all__ = [
    "ANCHOR_COUNTS",
    "FINGERS",
    "JOINTS",
    "JOINT_ORDERS",
    "MIDDLE_KNUCKLE",
    "PARENTS",
    "REGIONS",
    "ROTATIONS",
    "TIP_REGIONS",
    "anatomy_angles",
    "bone_axes",
    "compose_angles",
    "convert_joints",
    "default_limits",
    "make_anchors",
    "palmar_side",
    "rest_axes",
    "vertex_normals",
    "vertex_regions",
]

FINGERS = ("thumb", "index", "middle", "ring", "pinky")
"""Fingers in the house order; also the order of the tips and of the regions."""

_MANO_FINGERS = ("index", "middle", "pinky", "ring", "thumb")

JOINTS = ("wrist", *(f"{finger}{i}" for finger in FINGERS for i in (1, 2, 3, 4)))
"""The 21 joint positions; 1 is the knuckle (the thumb's carpometacarpal joint), 4 the tip."""

ROTATIONS = ("wrist", *(f"{finger}{i}" for finger in _MANO_FINGERS for i in (1, 2, 3)))
"""The 16 joint rotations, MANO's order."""

PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
"""Parent of each of the 16 joints."""

MIDDLE_KNUCKLE = ROTATIONS.index("middle1")

JOINT_ORDERS: dict[str, tuple[str, ...]] = {
    "house": JOINTS,
    "dexycb": JOINTS,
    "freihand": JOINTS,
    "mano": (*ROTATIONS, *(f"{finger}4" for finger in FINGERS)),
    "ho3d": (*ROTATIONS, *(f"{finger}4" for finger in FINGERS)),
    "fhb": ("wrist", *(f"{f}1" for f in FINGERS), *(f"{f}{i}" for f in FINGERS for i in (2, 3, 4))),
}
"""Joint orders by name. ``mano`` is smplx's with its five tips appended; ``fhb`` is FPHAB's file order."""

REGIONS = (*(f"{finger} {part}" for finger in FINGERS for part in ("proximal", "middle", "distal")), "palm", "heel")
"""Names of the 17 regions; a vertex without contact has region 17."""

ANCHOR_COUNTS = (1, 1, 3) * 5 + (4, 3)
"""Anchors in each region, 32 in all."""

TIP_REGIONS = (2, 5, 8, 11, 14)

_ANCHOR_LAYOUT = {
    "thumb": (0, 1, 2, 2, 2, 15, 16),
    "index": (3, 4, 5, 5, 5, 15),
    "middle": (6, 7, 8, 8, 8, 15, 16),
    "ring": (9, 10, 11, 11, 11, 15, 16),
    "pinky": (12, 13, 14, 14, 14),
}
"""Region of each anchor, ray by ray: CPF's numbering."""


def convert_joints(joints: Float[Tensor, "*batch J 3"], source: str, target: str = "house") -> Tensor:
    """Joint positions in another order (names of ``JOINT_ORDERS``).

    Raises:
        ValueError: for an unknown order or another number of joints than 21.
    """
    for name in (source, target):
        if name not in JOINT_ORDERS:
            raise ValueError(f"joint order {name!r} is unknown; known: {', '.join(sorted(JOINT_ORDERS))}")
    if joints.shape[-2:] != (21, 3):
        raise ValueError(f"joints have shape {tuple(joints.shape)}; expected (..., 21, 3)")
    position = {joint: i for i, joint in enumerate(JOINT_ORDERS[source])}
    return joints[..., [position[joint] for joint in JOINT_ORDERS[target]], :]


def vertex_normals(vertices: Float[Tensor, "*batch V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "*batch V 3"]:
    """Unit normals, faces weighted by area."""
    corners = vertices[..., faces, :]
    area = torch.linalg.cross(corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :], dim=-1)
    total = torch.zeros_like(vertices)
    for corner in range(3):
        total = total.index_add(-2, faces[:, corner], area)
    return torch.nn.functional.normalize(total, dim=-1, eps=1e-20)


def vertex_regions(
    vertices: Float[Tensor, "V 3"], weights: Float[Tensor, "V 16"], joints: Float[Tensor, "16 3"]
) -> Int[Tensor, "V"]:
    """Region of each vertex of the flat hand, 0..16.

    A finger's vertex belongs to the phalanx with the largest skinning weight. What belongs to the wrist is cut in two
    by the plane across the line from wrist to middle knuckle at half its length: 15 beyond it, 16 before it.
    """
    region = torch.full((16,), 16, dtype=torch.int64)
    for i, name in enumerate(ROTATIONS[1:], start=1):
        region[i] = 3 * FINGERS.index(name[:-1]) + int(name[-1]) - 1
    axis = joints[MIDDLE_KNUCKLE] - joints[0]
    along = (vertices - joints[0]) @ axis / (axis @ axis)
    found = region.to(vertices.device)[weights.argmax(-1)]
    return torch.where((found == 16) & (along > 0.5), torch.full_like(found, 15), found)


def palmar_side(
    vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], regions: Int[Tensor, "V"], axes: Float[Tensor, "16 3 3"]
) -> Bool[Tensor, "V"]:
    """Vertices of the flat hand that look away from its back, the fingers' sides included.

    The back of the hand is towards y; that of the thumb, which is turned, is the u axis of its joints (``rest_axes``).
    """
    normals = vertex_normals(vertices, faces)
    back = torch.zeros_like(normals)
    back[:, 1] = 1.0
    thumb = regions < 3
    back[thumb] = axes[[ROTATIONS.index(f"thumb{i}") for i in (1, 2, 3)], :, 1][regions[thumb]]
    return (normals * back).sum(-1) < 0.15


def make_anchors(
    vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], regions: Int[Tensor, "V"], palmar: Bool[Tensor, "V"]
) -> tuple[Int[Tensor, "32 3"], Float[Tensor, "32 2"], Int[Tensor, "32"]]:
    """Faces, barycentric weights and regions of the 32 anchors, in CPF's numbering.

    In every region, of the faces wholly palmar and wholly inside it, the first anchor is the one nearest to the
    region's palmar centroid; the others are found by farthest-point selection. Each anchor is its face's middle.

    Raises:
        ValueError: if a region has fewer palmar faces than it needs anchors.
    """
    centres = vertices[faces].mean(1)
    inside = palmar[faces].all(1)
    chosen: dict[int, list[int]] = {}
    for region, count in enumerate(ANCHOR_COUNTS):
        candidates = torch.nonzero(inside & (regions[faces] == region).all(1)).squeeze(-1)
        if len(candidates) < count:
            raise ValueError(
                f"region {region} ({REGIONS[region]}) has {len(candidates)} palmar faces; it needs {count}"
            )
        points = centres[candidates]
        distance = (points - points.mean(0)).norm(dim=-1)
        picked = [int(distance.argmin())]
        nearest = (points - points[picked[0]]).norm(dim=-1)
        while len(picked) < count:
            picked.append(int(nearest.argmax()))
            nearest = torch.minimum(nearest, (points - points[picked[-1]]).norm(dim=-1))
        chosen[region] = candidates[picked].tolist()
    layout = [region for ray in _ANCHOR_LAYOUT.values() for region in ray]
    order = [chosen[region].pop(0) for region in layout]
    weights = vertices.new_full((len(order), 2), 1 / 3)
    return faces[order], weights, torch.tensor(layout, device=vertices.device)


def bone_axes(
    joints: Float[Tensor, "*batch 21 3"], rotations: Float[Tensor, "*batch 16 3 3"]
) -> tuple[Float[Tensor, "*batch 15 3"], Float[Tensor, "*batch 15 3"], Float[Tensor, "*batch 15 3"]]:
    """Back, up and left unit axes of the 15 finger joints, each in the joint's own frame (CPF's ``AxisLayer``).

    ``b = R_j^T (J_j - J_child)``, ``l = b x up``, ``u = l x b``, normalised; ``up`` is y, for the thumb (1, 1, 1).
    A joint bends by a positive rotation about l, is splayed by one about u and twisted by one about b.

    Args:
        joints: Positions, house order.
        rotations: *Global* rotations, MANO's order.
    """
    start = [JOINTS.index(name) for name in ROTATIONS[1:]]
    bone = joints[..., start, :] - joints[..., [i + 1 for i in start], :]
    return _frame((rotations[..., 1:, :, :].mT @ bone[..., None]).squeeze(-1))


def rest_axes(joints: Float[Tensor, "21 3"], *, bone: str = "own") -> Float[Tensor, "16 3 3"]:
    """Columns b, u, l of every joint of the flat hand; the wrist's are x, y, z.

    Args:
        joints: Of the flat hand, house order.
        bone: ``own``: b points back along the bone that the joint moves (CPF); the last joint takes the axes of the one
            before it, because a tip is a point on the skin and not on the bone. ``parent``: along the bone before the
            joint, as in manotorch's anatomy (v0.0.2), whose limits are stated for these axes.

    Raises:
        ValueError: for another ``bone``.
    """
    eye = torch.eye(3, dtype=joints.dtype, device=joints.device).expand(16, 3, 3)
    if bone == "own":
        axes = torch.stack(bone_axes(joints, eye), -1)[[3 * (i // 3) + min(i % 3, 1) for i in range(15)]]
    elif bone == "parent":
        ordered = joints[[JOINTS.index(name) for name in ROTATIONS]]
        axes = torch.stack(_frame(ordered[list(PARENTS[1:])] - ordered[1:]), -1)
    else:
        raise ValueError(f"bone is {bone!r}; known: own, parent")
    return torch.cat([eye[:1], axes])


def _frame(bone: Float[Tensor, "*batch 15 3"]) -> tuple[Tensor, Tensor, Tensor]:
    """b, u, l from b's direction."""
    back = torch.nn.functional.normalize(bone, dim=-1)
    up = back.new_tensor([[1.0, 1.0, 1.0] if name.startswith("thumb") else [0.0, 1.0, 0.0] for name in ROTATIONS[1:]])
    left = torch.nn.functional.normalize(torch.linalg.cross(back, up.expand_as(back), dim=-1), dim=-1)
    return back, torch.linalg.cross(left, back, dim=-1), left


def anatomy_angles(
    rotations: Float[Tensor, "*batch 16 3 3"], axes: Float[Tensor, "16 3 3"]
) -> Float[Tensor, "*batch 16 3"]:
    """Twist, splay and bend of *local* joint rotations: intrinsic XYZ Euler angles of ``A^T R A``, radians.

    ``A^T R A = Rx(twist) Ry(splay) Rz(bend)``; unique for a splay within 90 degrees.
    """
    matrix = axes.mT @ rotations @ axes
    splay = torch.asin(matrix[..., 0, 2].clamp(-1 + 1e-7, 1 - 1e-7))
    twist = torch.atan2(-matrix[..., 1, 2], matrix[..., 2, 2])
    bend = torch.atan2(-matrix[..., 0, 1], matrix[..., 0, 0])
    return torch.stack([twist, splay, bend], -1)


def compose_angles(angles: Float[Tensor, "*batch 16 3"], axes: Float[Tensor, "16 3 3"]) -> Float[Tensor, "*batch 16 3"]:
    """Rotation vectors of given twists, splays and bends (radians): the inverse of :func:`anatomy_angles`."""
    sine, cosine = angles.sin(), angles.cos()
    one, zero = torch.ones_like(angles[..., 0]), torch.zeros_like(angles[..., 0])

    def matrix(*rows: Tensor) -> Tensor:
        return torch.stack(rows, -1).unflatten(-1, (3, 3))

    (s_x, s_y, s_z), (c_x, c_y, c_z) = sine.unbind(-1), cosine.unbind(-1)
    twist = matrix(one, zero, zero, zero, c_x, -s_x, zero, s_x, c_x)
    splay = matrix(c_y, zero, s_y, zero, one, zero, -s_y, zero, c_y)
    bend = matrix(c_z, -s_z, zero, s_z, c_z, zero, zero, zero, one)
    return matrix_to_axis_angle(axes @ twist @ splay @ bend @ axes.mT)


def default_limits() -> Float[Tensor, "15 3 2"]:
    """Lower and upper limit of twist, splay and bend of the 15 finger joints (MANO's order), radians.

    Bends cover the 1st to 99th percentile of real grasps with a margin and the passive ranges of textbooks (Kapandji,
    The Physiology of the Joints, vol. 1): fingers MCP -20..95, PIP -5..110, DIP -8..85; thumb CMC -20..50, MCP -10..65,
    IP -15..85. The thumb's base also turns about its bone; other hinges get the few degrees that fitted models need.
    """
    finger = [[(-12, 12), (-22, 22), (-20, 95)], [(-6, 6), (-6, 6), (-5, 110)], [(-5, 5), (-5, 5), (-8, 85)]]
    thumb = [[(-45, 45), (-40, 40), (-25, 50)], [(-15, 15), (-15, 15), (-10, 65)], [(-6, 6), (-6, 6), (-15, 85)]]
    return torch.deg2rad(torch.tensor([*(finger * 4), *thumb], dtype=torch.float32))
