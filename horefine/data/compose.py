"""What a synthetic photo shows: a grasp, from where, through which lens, with which forearm and what in front.

A :class:`Layout` is geometry only; how it looks is in :mod:`horefine.data.shade`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from horefine.data.grasp import GraspBank
from horefine.data.maps import Part
from horefine.data.raster import zbuffer
from horefine.geometry import Box, axis_angle_to_matrix, matrix_to_axis_angle
from horefine.hand import HandModel
from horefine.mesh import Mesh
from horefine.scene import Pose

__all__ = ["PHOTO", "Layout", "compose"]

PHOTO = (480, 640)
"""Height and width of a synthetic photo."""
MIN_VISIBLE = (0.35, 0.25)
"""Share of the silhouette of hand and object that must be seen."""
TRIES = 16


@dataclass(frozen=True)
class Layout:
    """Geometry of one photo, camera frame, metres."""

    pose: Pose
    matrix: np.ndarray
    """3 x 3 intrinsics of the 640 x 480 photo."""
    hand: Part
    object: Part
    forearm: Part
    sleeve: np.ndarray
    """Of each forearm vertex: 0 skin, 1 sleeve."""
    occluders: tuple[Part, ...]
    up: np.ndarray
    """Unit vector against gravity."""
    joints: np.ndarray
    """21 x 3."""
    object_center: np.ndarray
    hand_box: Box
    object_box: Box
    crop_box: Box
    visible: tuple[float, float]
    natural: bool
    """Whether the view is as of a person at a table (else from anywhere)."""

    @property
    def hiding(self) -> tuple[Part, ...]:
        """What hides hand and object without being either."""
        return (self.forearm, *self.occluders)


def compose(model: HandModel, mesh: Mesh, grasp: GraspBank, rng: np.random.Generator) -> Layout:
    """A photo of one grasp (``len(grasp) == 1``): views are drawn until hand and object are both seen well enough.

    Of the tries, the first with :data:`MIN_VISIBLE` is taken, or the one that comes nearest.
    """
    with torch.no_grad():
        hand = model(grasp.hand_rotvec, grasp.hand_shape, torch.zeros(1, 3))
    vertices = hand.vertices[0].double().numpy()
    wrist = model.rest_joints(grasp.hand_shape)[0, 0].double().numpy()
    turned = axis_angle_to_matrix(grasp.object_rotvec)[0].double().numpy()
    thing = mesh.trimmed()[0].double().numpy() @ turned.T + grasp.object_transl[0].double().numpy()
    arm, sleeve = _forearm(model, vertices, wrist, thing, rng)
    best: tuple[float, tuple] | None = None
    hands, things = model.faces.numpy().astype(np.int32), mesh.trimmed()[1].numpy().astype(np.int32)
    with_occluder = rng.random() < 0.25
    for _ in range(TRIES):
        view, matrix, up, natural = _view(rng, vertices, thing, arm[:, :].mean(0) - wrist, turned)
        rotation, offset = view
        placed = [(points @ rotation.T + offset).astype(np.float32) for points in (vertices, thing, arm)]
        occluders = _occluders(rng, placed) if with_occluder else ()
        parts = [Part(placed[0], hands), Part(placed[1], things), Part(placed[2], _tube_faces(len(arm))), *occluders]
        visible = _visible(parts, matrix)
        score = min(visible[0] / MIN_VISIBLE[0], visible[1] / MIN_VISIBLE[1])
        if best is None or score > best[0]:
            best = (score, (rotation, offset, matrix, up, natural, placed, occluders, visible))
        if score >= 1:
            break
    assert best is not None
    rotation, offset, matrix, up, natural, placed, occluders, visible = best[1]
    pose = _pose(grasp, wrist, rotation, offset, turned)
    boxes = _box(placed[0], matrix), _box(placed[1], matrix)
    return Layout(
        pose=pose,
        matrix=matrix,
        hand=Part(placed[0], hands, model.codes.numpy()),
        object=Part(placed[1], things, mesh.codes[0, : len(thing)].numpy()),
        forearm=Part(placed[2], _tube_faces(len(arm))),
        sleeve=sleeve,
        occluders=occluders,
        up=up,
        joints=(hand.joints[0].double().numpy() @ rotation.T + offset).astype(np.float32),
        object_center=(
            mesh.center[0].double().numpy() @ (rotation @ turned).T + _object_transl(grasp, rotation, offset)
        ),
        hand_box=boxes[0],
        object_box=boxes[1],
        crop_box=_crop_box(boxes, rng),
        visible=visible,
        natural=natural,
    )


def _object_transl(grasp: GraspBank, rotation: np.ndarray, offset: np.ndarray) -> np.ndarray:
    return rotation @ grasp.object_transl[0].double().numpy() + offset


def _pose(grasp: GraspBank, wrist: np.ndarray, rotation: np.ndarray, offset: np.ndarray, turned: np.ndarray) -> Pose:
    """The grasp moved by ``x -> rotation x + offset``; the hand turns about its wrist."""
    rotvec = grasp.hand_rotvec.clone()
    rotvec[:, 0] = matrix_to_axis_angle(torch.as_tensor(rotation)).float()
    return Pose(
        rotvec,
        grasp.hand_shape,
        torch.as_tensor(rotation @ wrist + offset - wrist)[None].float(),
        matrix_to_axis_angle(torch.as_tensor(rotation @ turned))[None].float(),
        torch.as_tensor(_object_transl(grasp, rotation, offset))[None].float(),
    )


def _random_rotation(rng: np.random.Generator) -> np.ndarray:
    q = rng.normal(size=4)
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _view(
    rng: np.random.Generator, vertices: np.ndarray, thing: np.ndarray, arm: np.ndarray, turned: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray, bool]:
    """Camera rotation and offset of the hand's frame, intrinsics, the direction up, and whether the view is natural.

    A natural view: the elbow is not far above the hand, the object's z axis is rather upright, and a camera looks
    slightly down, hardly rolled. One view in five is from anywhere.
    """
    natural = bool(rng.random() < 0.8)
    if natural:
        up = _gravity(rng, arm / np.linalg.norm(arm), turned[:, 2])
        rotation = _look(rng, up)
    else:
        rotation = _random_rotation(rng)
        up = rotation.T @ np.array([0.0, -1.0, 0.0])
    focal = float(np.exp(rng.uniform(np.log(430), np.log(850))))
    centre = np.array([PHOTO[1] / 2 - 0.5, PHOTO[0] / 2 - 0.5]) + rng.normal(0, 6, 2)
    matrix = np.array([[focal, 0, centre[0]], [0, focal * rng.uniform(0.99, 1.01), centre[1]], [0, 0, 1]])
    both = np.concatenate([vertices, thing]) @ rotation.T
    low, high = both.min(0), both.max(0)
    middle, extent = (low + high) / 2, (high - low)[:2].max()
    span = float(np.exp(rng.uniform(np.log(130), np.log(380))))  # pixels that the pair takes
    distance = float(np.clip(focal * extent / span, 0.28, 1.4))
    room = np.array(PHOTO[::-1]) / 2 - 0.5 * focal * (high - low)[:2] / distance
    pixel = np.array(PHOTO[::-1]) / 2 + rng.uniform(-1, 1, 2) * np.maximum(room, 0) * 0.75
    place = np.array([*((pixel - centre) / focal * distance), distance])
    return (rotation, place - middle), matrix, rotation @ up, natural


def _gravity(rng: np.random.Generator, arm: np.ndarray, upright: np.ndarray) -> np.ndarray:
    """A direction up in the hand's frame, of a few drawn: with weight, the object upright and the elbow low."""
    candidates = rng.normal(size=(24, 3))
    candidates /= np.linalg.norm(candidates, axis=1, keepdims=True)
    candidates[:6] = upright + 0.25 * candidates[:6]
    candidates /= np.linalg.norm(candidates, axis=1, keepdims=True)
    weight = 1.2 * np.abs(candidates @ upright) - 4.0 * np.maximum(candidates @ arm - 0.3, 0)
    share = np.exp(2 * weight)
    return candidates[rng.choice(len(candidates), p=share / share.sum())]


def _look(rng: np.random.Generator, up: np.ndarray) -> np.ndarray:
    """Rotation of a camera that looks at the pair with ``up`` upwards in its picture, from a random side."""
    side = np.cross(up, rng.normal(size=3))
    side /= np.linalg.norm(side)
    elevation = np.deg2rad(np.clip(rng.normal(28, 24), -12, 80))
    forward = np.cos(elevation) * side - np.sin(elevation) * up
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    roll = np.deg2rad(rng.normal(0, 9))
    x, y = np.cos(roll) * right + np.sin(roll) * down, np.cos(roll) * down - np.sin(roll) * right
    return np.stack([x, y, forward])


_RINGS, _SPOKES = 9, 14


def _tube_faces(count: int) -> np.ndarray:
    """Faces of ``count / _SPOKES`` rings, the last closed by a fan."""
    rings = count // _SPOKES
    i, j = np.meshgrid(np.arange(rings - 1), np.arange(_SPOKES), indexing="ij")
    a, b = i * _SPOKES + j, i * _SPOKES + (j + 1) % _SPOKES
    sides = np.concatenate([np.stack([a, b, a + _SPOKES], -1), np.stack([b, b + _SPOKES, a + _SPOKES], -1)]).reshape(
        -1, 3
    )
    last = (rings - 1) * _SPOKES
    fan = np.stack([np.full(_SPOKES - 2, last), last + np.arange(1, _SPOKES - 1), last + np.arange(2, _SPOKES)], -1)
    return np.concatenate([sides, fan]).astype(np.int32)


def _forearm(
    model: HandModel, vertices: np.ndarray, wrist: np.ndarray, thing: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A tapered tube behind the wrist, as thick as the hand is there; perhaps in a sleeve. V x 3 and V."""
    rest = model.template.double().numpy()
    end = rest[:, 0] > rest[:, 0].max() - 0.010
    ring = vertices[end]
    middle = ring.mean(0)
    away = np.array([1.0, 0, 0])
    for _ in range(10):
        bend = np.array([1.0, *rng.normal(0, [0.22, 0.15])])
        bend /= np.linalg.norm(bend)
        behind = thing - middle
        along = behind @ bend
        if ((along > 0.02) & (np.linalg.norm(behind - along[:, None] * bend, axis=1) < 0.045)).sum() == 0:
            away = bend
            break
    steps = np.array([-0.010, -0.002, 0.02, 0.05, 0.09, 0.13, 0.18, 0.24, 0.30])
    grow = np.array([0.90, 1.0, 1.02, 1.08, 1.18, 1.30, 1.42, 1.48, 1.45])
    first = int(rng.integers(2, 6)) if rng.random() < 0.6 else _RINGS
    clothed = np.arange(_RINGS) >= first
    grow = np.where(clothed, grow * rng.uniform(1.12, 1.5), grow)
    angle = np.linspace(0, 2 * np.pi, _SPOKES, endpoint=False)
    frame = np.stack([away, *_perpendicular(away)])
    aim = np.where(steps < 0.02, 0, 1)[:, None]
    centres = middle + steps[:, None] * np.where(aim, away, [1.0, 0, 0])
    circle = _outline(ring - middle, angle)[:, None] * (
        np.cos(angle)[:, None] * frame[1] + np.sin(angle)[:, None] * frame[2]
    )
    wobble = 1 + np.where(clothed, 0.06, 0.0)[:, None] * rng.normal(size=(_RINGS, _SPOKES))
    points = centres[:, None] + circle[None] * (grow[:, None] * wobble)[..., None]
    return points.reshape(-1, 3), np.repeat(clothed, _SPOKES).astype(np.float32)


def _outline(ring: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """How far the wrist reaches in each direction of its y-z plane, metres."""
    turn, radius = np.arctan2(ring[:, 2], ring[:, 1]), np.hypot(ring[:, 1], ring[:, 2])
    apart = np.abs((turn[None] - angle[:, None] + np.pi) % (2 * np.pi) - np.pi)
    reach = np.where(apart < 0.45, radius, 0).max(1)
    return np.maximum((reach + np.roll(reach, 1) + np.roll(reach, -1)) / 3, 0.01)


def _perpendicular(axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hand's y and z made perpendicular to ``axis``."""
    y = np.array([0.0, 1.0, 0.0])
    y = y - (y @ axis) * axis
    y /= np.linalg.norm(y)
    return y, np.cross(axis, y)


def _occluders(rng: np.random.Generator, placed: list[np.ndarray]) -> tuple[Part, ...]:
    """One or two boxes or balls between camera and pair, each in front of a random point of them."""
    both = np.concatenate(placed[:2])
    low, high = both.min(0), both.max(0)
    parts = []
    for _ in range(int(rng.integers(1, 3))):
        target = low + (high - low) * rng.random(3)
        near = target * rng.uniform(0.45, 0.8)
        near[2] = min(near[2], low[2] - 0.06)
        if near[2] < 0.12:
            continue
        vertices, faces = _cube() if rng.random() < 0.5 else _ball()
        size = rng.uniform(0.008, 0.03, 3) * near[2] / 0.4
        size[rng.integers(3)] *= rng.uniform(1, 5)
        parts.append(Part(((vertices * size) @ _random_rotation(rng).T + near).astype(np.float32), faces))
    return tuple(parts)


def _cube() -> tuple[np.ndarray, np.ndarray]:
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    quads = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    vertices = corners[quads].reshape(-1, 3)
    base = np.arange(6)[:, None] * 4
    return vertices, np.concatenate([base + np.array([0, 1, 2]), base + np.array([0, 2, 3])]).astype(np.int32)


def _ball(rings: int = 9, spokes: int = 14) -> tuple[np.ndarray, np.ndarray]:
    polar, turn = np.linspace(0.05, np.pi - 0.05, rings), np.linspace(0, 2 * np.pi, spokes, endpoint=False)
    p, t = np.meshgrid(polar, turn, indexing="ij")
    vertices = np.stack([np.sin(p) * np.cos(t), np.sin(p) * np.sin(t), np.cos(p)], -1).reshape(-1, 3)
    i, j = np.meshgrid(np.arange(rings - 1), np.arange(spokes), indexing="ij")
    a, b = i * spokes + j, i * spokes + (j + 1) % spokes
    faces = np.concatenate([np.stack([a, a + spokes, b], -1), np.stack([b, a + spokes, b + spokes], -1)])
    return vertices, faces.reshape(-1, 3).astype(np.int32)


def _visible(parts: list[Part], matrix: np.ndarray) -> tuple[float, float]:
    """Share of the silhouettes of hand and object that is inside the photo and not hidden, on a coarse picture."""
    scale = 0.15
    size = (int(PHOTO[0] * scale), int(PHOTO[1] * scale))
    border = 24  # what lies outside the photo counts as hidden
    coarse = matrix * np.array([[scale], [scale], [1]])
    coarse[:2, 2] += border
    wide = (size[0] + 2 * border, size[1] + 2 * border)
    drawn = [zbuffer(part.vertices, part.faces, coarse, wide) for part in parts]
    nearest = np.max([inverse for _, inverse in drawn], 0)
    inside = np.zeros(wide, bool)
    inside[border:-border, border:-border] = True
    shares = []
    for ids, inverse in drawn[:2]:
        alone = ids >= 0
        shares.append(float((alone & inside & (inverse >= nearest)).sum() / max(alone.sum(), 1)))
    return shares[0], shares[1]


def _box(vertices: np.ndarray, matrix: np.ndarray) -> Box:
    """Bounding box of the projection, clipped to the photo."""
    pixels = vertices[:, :2] / vertices[:, 2:] * [matrix[0, 0], matrix[1, 1]] + matrix[:2, 2]
    limit = np.array([PHOTO[1] - 0.5, PHOTO[0] - 0.5])
    low, high = pixels.min(0).clip(-0.5, limit), pixels.max(0).clip(-0.5, limit)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _crop_box(boxes: tuple[Box, Box], rng: np.random.Generator) -> Box:
    """A square about both boxes, 1.1 to 1.45 times their longer side, off centre by up to 8 % of it."""
    low = np.minimum(boxes[0][:2], boxes[1][:2])
    high = np.maximum(boxes[0][2:], boxes[1][2:])
    side = float((high - low).max())
    x, y = (low + high) / 2 + rng.uniform(-0.08, 0.08, 2) * side
    half = side * rng.uniform(1.1, 1.45) / 2
    return float(x - half), float(y - half), float(x + half), float(y + half)
