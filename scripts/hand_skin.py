"""Skinning weights, joint regressor, shape directions and pose correctives of the embedded hand (millimetres)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from hand_form import FINGERS, Form
from hand_mesh import vertex_normals
from scipy.optimize import nnls
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from horefine.anatomy import PARENTS, compose_angles
from horefine.geometry import axis_angle_to_matrix
from horefine.hand import HandModel

MANO_FINGERS = ("index", "middle", "pinky", "ring", "thumb")


def joint_table(form: Form) -> np.ndarray:
    """The 16 joints in MANO's order."""
    return np.concatenate([np.zeros((1, 3)), *(form.joints[f][:3] for f in MANO_FINGERS)])


def ends(form: Form) -> np.ndarray:
    """Where the bone of each of the 16 joints ends (for the wrist: the middle knuckle)."""
    return np.concatenate([form.joints["middle"][:1], *(form.joints[f][1:] for f in MANO_FINGERS)])


def _to_segment(points: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance to a segment, and where along it (0 to 1, not clipped)."""
    along = (points - a) @ (b - a) / ((b - a) @ (b - a))
    return np.linalg.norm(points - a - np.clip(along, 0, 1)[:, None] * (b - a), axis=1), along


def hard_labels(form: Form, points: np.ndarray) -> np.ndarray:
    """The one joint that moves each point, before any smoothing."""
    parts = form.parts(points)
    web = np.min([w.distance(points) for w in form.webs], 0)
    under = np.clip(web - 0.8, 0, 2.5)  # a web belongs to the palm, so that it follows neither finger fully
    label = np.zeros(len(points), int)
    best = np.full(len(points), np.inf)
    for f, finger in enumerate(MANO_FINGERS):
        joints, backs = form.joints[finger], form.backs[finger]
        if finger == "thumb":
            metacarpal, along = _to_segment(points, joints[0], joints[1])
            others = [_to_segment(points, 0.15 * form.joints[o][0], form.joints[o][0])[0] for o in FINGERS[1:]]
            mine = np.minimum(metacarpal - 13.0, parts["thumb"]) < np.min(others, 0) - 10.0
            mine &= along > 0.0
        else:
            # on the palm side the finger begins beyond its joint: the pad of the palm reaches under it
            bone = (joints[1] - joints[0]) / np.linalg.norm(joints[1] - joints[0])
            begins = (points - joints[0]) @ (bone + 0.5 * backs[0]) > 0
            mine = (parts[finger] < parts["palm"] + under) & begins
        closer = mine & (parts[finger] < best)
        best = np.where(closer, parts[finger], best)
        part = np.zeros(len(points), int)
        for k in (1, 2):
            bone = joints[k + 1] - joints[k - 1]
            bone = bone / np.linalg.norm(bone)
            lean = bone - 0.18 * backs[k]  # the crease on the palm side lies a little before the joint
            part += (points - joints[k]) @ lean > 0
        label = np.where(closer, 1 + 3 * f + part, label)
    return label


def smooth_weights(form: Form, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Heat spread of the hard labels over the surface: neighbouring fingers only meet through the web."""
    label = hard_labels(form, vertices)
    hard = np.eye(16)[label]
    edges = np.unique(np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1), axis=0)
    reach = np.full(len(vertices), 8.0)
    parts = form.parts(vertices)
    for finger in FINGERS:
        joints = form.joints[finger]
        share = 1 / (1 + np.exp((parts[finger] - parts["palm"]) / 2.0))
        _, along = _to_segment(vertices, joints[1], joints[2])
        width = np.where(along < -0.5, 5.5, np.where(along < 0.5, 4.3, 3.8)) * (1.2 if finger == "thumb" else 1.0)
        reach = np.where(share > 0.5, width, reach)
    thenar, along = _to_segment(vertices, form.joints["thumb"][0], form.joints["thumb"][1])
    reach = np.where((thenar < 22) & (along < 0.75), np.maximum(reach, 10.0), reach)
    length = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1)
    rate = (reach[edges].mean(1) / np.maximum(length, 0.4)) ** 2 / 3  # the mean of cotangent weights on an even mesh
    count, steps = len(vertices), 3
    graph = sp.coo_matrix((rate, (edges[:, 0], edges[:, 1])), (count, count))
    graph = graph + graph.T
    laplace = sp.diags(np.asarray(graph.sum(1)).ravel()) - graph
    solver = splu((sp.eye(count) + laplace / steps).tocsc())
    for _ in range(steps):
        hard = solver.solve(hard)
    return hard


def prune(weights: np.ndarray, keep: int = 4, least: float = 0.02) -> np.ndarray:
    """At most ``keep`` joints for each vertex, small shares dropped, rows summing to one."""
    cut = np.sort(weights, 1)[:, -keep][:, None]
    kept = np.where((weights >= cut) & (weights > least), weights - least * 0.5, 0)
    return kept / kept.sum(1, keepdims=True)


def transfer(
    values: np.ndarray, dense: tuple[np.ndarray, np.ndarray], coarse: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Values of a dense surface at the vertices of a coarse one: near points whose normals agree."""
    distance, index = cKDTree(dense[0]).query(coarse[0], 24)
    agree = np.einsum("vc,vkc->vk", vertex_normals(*coarse), vertex_normals(*dense)[index])
    share = np.exp(-((distance / 2.0) ** 2)) * np.clip(agree, 1e-6, None) ** 2
    return np.einsum("vk,vkj->vj", share / share.sum(1, keepdims=True), values[index])


@dataclass(frozen=True)
class Direction:
    """A shape direction: a strain (3 x 3) for each of the 15 finger bones, and a displacement field of the palm."""

    bones: np.ndarray
    palm: Callable[[np.ndarray], np.ndarray]


def shape_directions(form: Form, origin: np.ndarray) -> dict[str, Direction]:
    """The ten ways in which hands differ, one standard deviation each (before they are made nearly orthogonal)."""
    start, end = joint_table(form)[1:], ends(form)[1:]
    way = (end - start) / np.linalg.norm(end - start, axis=1, keepdims=True)
    along = np.einsum("ja,jb->jab", way, way)
    across = np.eye(3) - along
    names = np.array([f for f in MANO_FINGERS for _ in range(3)])
    part = np.tile([0, 1, 2], 5)
    thumb = (names == "thumb")[:, None, None]
    order = np.vectorize({"index": -1.0, "middle": -0.3, "ring": 0.6, "pinky": 1.0, "thumb": 0.0}.get)(names)
    taper = np.choose(part, [-0.8, 0.0, 1.0])[:, None, None]
    none = np.zeros((15, 3, 3))

    def still(points: np.ndarray) -> np.ndarray:
        return np.zeros_like(points)

    def towards_fingers(points: np.ndarray) -> np.ndarray:
        return _ease((15.0 - points[:, 0]) / 80.0)

    def scaled(*factors: float) -> Callable[[np.ndarray], np.ndarray]:
        return lambda points: (points - origin) * np.array(factors)

    def wider(points: np.ndarray) -> np.ndarray:
        return np.stack([0 * points[:, 0], 0 * points[:, 0], 0.036 * points[:, 2] * towards_fingers(points)], 1)

    def fleshier(points: np.ndarray) -> np.ndarray:
        low = -4.0 * np.log1p(np.exp(-(points[:, 1] + 3.0) / 4.0))
        return np.stack([0 * low, 0.085 * low * _ease((20.0 - points[:, 0]) / 40.0), 0 * low], 1)

    def longer(points: np.ndarray) -> np.ndarray:
        return np.stack([0.026 * np.minimum(points[:, 0] - origin[0], -origin[0]), *np.zeros((2, len(points)))], 1)

    return {
        "size": Direction(0.042 * np.broadcast_to(np.eye(3), (15, 3, 3)), scaled(0.042, 0.042, 0.042)),
        "finger length": Direction(0.026 * np.where(thumb, 0, along), still),
        "girth": Direction(np.where(thumb, 0.025, 0.045) * across, scaled(0.0, 0.016, 0.016)),
        "palm width": Direction(none, wider),
        "palm length": Direction(none, longer),
        "thumb length": Direction(0.030 * np.where(thumb, along, 0), still),
        "thumb girth": Direction(0.050 * np.where(thumb, across, 0), still),
        "finger order": Direction(0.028 * order[:, None, None] * along, still),
        "palm thickness": Direction(none, fleshier),
        "finger taper": Direction(0.050 * taper * np.where(thumb, 0.5, 1.0) * across, still),
    }


def _ease(share: np.ndarray) -> np.ndarray:
    share = np.clip(share, 0, 1)
    return share * share * (3 - 2 * share)


def shape_fields(
    form: Form, vertices: np.ndarray, weights: np.ndarray, way: Direction
) -> tuple[np.ndarray, np.ndarray]:
    """Displacement of every vertex and of the 16 joints along a shape direction: V x 3, 16 x 3.

    Each bone's strain acts from its joint; a joint moves as its parent's strain (or the palm's field) says.
    """
    joints = joint_table(form)
    moved = way.palm(joints)
    each = np.zeros((len(vertices), 16, 3))
    each[:, 0] = way.palm(vertices)
    for j in range(1, 16):
        if (j - 1) % 3 != 0:
            moved[j] = moved[j - 1] + way.bones[j - 2] @ (joints[j] - joints[j - 1])
        each[:, j] = moved[j] + (vertices - joints[j]) @ way.bones[j - 1].T
    return np.einsum("vj,vja->va", weights, each), moved


def nearly_orthogonal(fields: np.ndarray, moved: np.ndarray, much: float = 0.75) -> tuple[np.ndarray, np.ndarray]:
    """Makes directions nearly orthogonal while changing each as little as possible; sizes are kept.

    The first (size) is kept and taken out of the others; these are then decorrelated symmetrically (Lowdin 1950), by
    the power ``much`` of the full step: a full one would trade what each direction means for exact orthogonality.
    """
    flat = np.concatenate([fields.reshape(-1, fields.shape[-1]), moved.reshape(-1, fields.shape[-1])])
    count = fields.size // fields.shape[-1]
    sizes = np.linalg.norm(flat[:count], axis=0)
    rest = flat[:, 1:] - flat[:, :1] * (flat[:count, 0] @ flat[:count, 1:]) / sizes[0] ** 2
    rest = rest / np.linalg.norm(rest[:count], axis=0)
    values, vectors = np.linalg.eigh(rest[:count].T @ rest[:count])
    rest = rest @ (vectors * values ** (-0.5 * much)) @ vectors.T
    flat = np.concatenate([flat[:, :1], rest * sizes[1:] / np.linalg.norm(rest[:count], axis=0)], 1)
    return flat[:count].reshape(fields.shape), flat[count:].reshape(moved.shape)


def joint_regressor(
    form: Form, vertices: np.ndarray, weights: np.ndarray, fields: np.ndarray, moved: np.ndarray
) -> np.ndarray:
    """Rows of weights >= 0, sum 1, whose vertices' mean is the joint at every shape.

    ``fields`` (V x 3 x 10) and ``moved`` (16 x 3 x 10): what the shape directions do to vertices and joints.
    """
    joints = joint_table(form)
    rows = np.zeros((16, len(vertices)))
    for j in range(16):
        distance = np.linalg.norm(vertices - joints[j], axis=1)
        parent = 0 if (j - 1) % 3 == 0 else max(j - 1, 0)
        near = distance < (48 if j == 0 else 30 if j == 13 else 24)
        near &= (weights[:, j] + weights[:, parent]) > 0.5
        chosen = np.flatnonzero(near)
        system = np.concatenate([
            30 * np.ones((1, len(chosen))), (vertices[chosen] - joints[j]).T,
            (fields[chosen] - moved[j]).transpose(1, 2, 0).reshape(30, -1) * 2.5,
            np.diag(0.15 * distance[chosen] / distance[chosen].min()),
        ])  # fmt: skip
        target = np.zeros(len(system))
        target[0] = 30
        found, _ = nnls(system, target)
        found[found < 1e-4] = 0
        rows[j, chosen] = found / found.sum()
    return rows


def correctives(model: HandModel, poses: torch.Tensor, rounds: int = 160) -> np.ndarray:
    """Pose correctives, V x 3 x 135 (metres): what keeps the volume and strains the skin least when joints turn.

    A corrective is linear in the rotation entries of the joints near by, as MANO's are; all are found together by
    gradient descent on the membrane energy of the skin, the change of volume, folded faces, and the correctives' own
    size and roughness.

    Args:
        model: The hand without correctives.
        poses: Twist, splay and bend of all joints, S x 16 x 3, radians.
    """
    rest, skin, faces = model.template * 1e3, model.weights, model.faces
    count = len(poses)
    rotvec = compose_angles(poses, model.axes)
    features = (axis_angle_to_matrix(rotvec)[:, 1:] - torch.eye(3)).reshape(count, 15, 9)
    placed = model(rotvec, torch.zeros(count, 10), torch.zeros(count, 3)).transforms
    turn, spot = placed[..., :3, :3], placed[..., :3, 3] * 1e3
    shift = spot - (turn @ (model.flat_joints * 1e3)[..., None]).squeeze(-1)
    blend_turn = (skin @ turn.reshape(count, 16, 9)).view(count, -1, 3, 3)
    blend_shift = skin @ shift
    neighbours = _averaging(faces.numpy(), len(rest))
    support = _support(skin, neighbours)
    laplace = (torch.eye(len(rest)) - neighbours).to_sparse_csr()
    pose = torch.zeros(15, 9, len(rest), 3, requires_grad=True)
    frame = _face_frames(rest, faces)
    full = _volume(rest[faces][None])[0]
    expected = torch.nn.functional.normalize(
        (blend_turn[:, faces].mean(2) @ frame.normal[..., None]).squeeze(-1), dim=-1
    )
    optimiser = torch.optim.Adam([pose], lr=0.08)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, rounds, 0.004)
    for step in range(rounds):
        offset = torch.einsum("sjk,jkvc->svc", features, pose * support[:, None, :, None])
        posed = (blend_turn @ (rest + offset)[..., None]).squeeze(-1) + blend_shift
        corners = posed[:, faces]
        edges = (
            torch.stack([corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0]], -1) @ frame.inverse
        )
        membrane = ((edges.mT @ edges - torch.eye(2)) ** 2).sum((-1, -2)) * frame.area
        normal = torch.nn.functional.normalize(torch.linalg.cross(edges[..., 0], edges[..., 1], dim=-1), dim=-1)
        fold = torch.relu(0.3 - (normal * expected).sum(-1)) * frame.area
        change = _volume(corners) - full
        rough = (laplace @ offset.transpose(0, 1).reshape(len(rest), -1)).view(len(rest), count, 3)
        loss = (
            0.05 * membrane.sum() + ((change / 180) ** 2).sum() + 6.0 * fold.sum()
            + 1.5 * (rough**2).sum() + 0.6 * (offset**2).sum()
        )  # fmt: skip
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step in (0, rounds // 2, rounds - 1):
            worst, size = (change / full).abs().max() * 100, offset.detach().norm(dim=-1).max()
            print(
                f"  correctives {step}: loss {loss.item():.0f}, worst volume {worst:.2f} %, largest {size:.2f} mm",
                flush=True,
            )
    kept = pose.detach() * support[:, None, :, None]
    return kept.permute(2, 3, 0, 1).reshape(len(rest), 3, 135).numpy() / 1e3


def _support(skin: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
    """Where the corrective of each of the 15 joints may act: where some skin follows the joint and some does not."""
    below = torch.zeros(15, 16)
    for j in range(1, 16):
        k = j
        while k > 0:
            below[k - 1, j] = 1
            k = PARENTS[k]
    share = below @ skin.T
    near = (4 * share * (1 - share)).clamp(0, 1) ** 0.5
    for _ in range(2):
        near = near @ neighbours.T
    return torch.where(near > 0.02, near.clamp(max=0.5) * 2, torch.zeros_like(near))


@dataclass(frozen=True)
class _Frames:
    """The triangles at rest: unit normals, areas, inverse edge matrices in their planes."""

    normal: torch.Tensor
    area: torch.Tensor
    inverse: torch.Tensor


def _face_frames(rest: torch.Tensor, faces: torch.Tensor) -> _Frames:
    corners = rest[faces]
    edges = torch.stack([corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]], -1)
    cross = torch.linalg.cross(edges[..., 0], edges[..., 1], dim=-1)
    normal = torch.nn.functional.normalize(cross, dim=-1)
    tangent = torch.nn.functional.normalize(edges[..., 0], dim=-1)
    plane = torch.stack([tangent, torch.linalg.cross(normal, tangent, dim=-1)], -2)
    return _Frames(normal, cross.norm(dim=-1) / 2, torch.linalg.inv(plane @ edges))


def _volume(corners: torch.Tensor) -> torch.Tensor:
    return (corners[:, :, 0] * torch.linalg.cross(corners[:, :, 1], corners[:, :, 2], dim=-1)).sum((1, 2)) / 6


def _averaging(faces: np.ndarray, count: int) -> torch.Tensor:
    """Mean over the neighbours, dense V x V."""
    graph = torch.zeros(count, count)
    for a, b in ((0, 1), (1, 2), (2, 0)):
        graph[faces[:, a], faces[:, b]] = 1
        graph[faces[:, b], faces[:, a]] = 1
    return graph / graph.sum(1, keepdim=True)
