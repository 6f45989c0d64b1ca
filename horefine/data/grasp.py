"""Seeded grasps: a hand shape, finger angles and an object's place in the hand, physically plausible or rejected.

Each candidate starts from a preshape (how the hand is opened and from where it comes to the object) and is then
optimised as a batch: fingertips to the surface, nothing inside the object, fingers apart, joints within their limits
(the recipe of Liu et al. 2021, "Synthesizing diverse and physically stable grasps", with signed distances in place of
sampled contacts). What fails :func:`measure` is thrown away, so every grasp of a bank keeps the promises below.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from horefine import anatomy
from horefine.distance import signed_distance
from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle, sixd_to_matrix
from horefine.hand import Hand, HandModel
from horefine.mesh import Mesh

__all__ = ["KINDS", "MAX_GAP", "MAX_PENETRATION", "GraspBank", "Measure", "grasp_object", "measure"]

KINDS = ("power", "tripod", "pinch", "above", "wide")
"""How the hand comes to the object: palm against its side, three fingertips, thumb and index with a third finger,
fingertips from the end of its longest axis, all fingertips round it."""

MAX_GAP = 0.003
"""Thumb and at least two fingers are nearer to the surface than this, metres."""
MAX_PENETRATION = 0.002
"""No hand vertex is deeper inside the object, metres."""

_FOREARM = 0.030
"""Half the thickness of the forearm behind the wrist, metres."""
_TIPS = [4, 8, 12, 16, 20]


@dataclass(frozen=True)
class GraspBank:
    """N grasps in the hand's own frame: wrist not rotated, ``hand_transl`` zero (fingers -x, palm -y, thumb +z)."""

    hand_rotvec: Float[Tensor, "N 16 3"]
    hand_shape: Float[Tensor, "N 10"]
    object_rotvec: Float[Tensor, "N 3"]
    object_transl: Float[Tensor, "N 3"]
    kind: Int[Tensor, "N"]
    """Index into :data:`KINDS`."""
    object: Int[Tensor, "N"]
    """Index into the objects the bank was made for."""
    gap: Float[Tensor, "N 5"]
    """Of each finger, thumb first: distance of its nearest vertex to the surface, metres (0 when inside)."""
    penetration: Float[Tensor, "N"]
    """Of the deepest hand vertex, metres."""

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, chosen: slice | Tensor | np.ndarray) -> GraspBank:
        return GraspBank(**{f.name: getattr(self, f.name)[chosen] for f in dataclasses.fields(self)})

    @staticmethod
    def cat(banks: list[GraspBank]) -> GraspBank:
        """One bank from several."""
        return GraspBank(
            **{f.name: torch.cat([getattr(b, f.name) for b in banks]) for f in dataclasses.fields(GraspBank)}
        )


@dataclass(frozen=True)
class Measure:
    """What decides whether a grasp is kept."""

    gap: Float[Tensor, "B 5"]
    penetration: Float[Tensor, "B"]
    opposed: Bool[Tensor, "B"]
    """The thumb presses against a finger: the normals where they touch differ by more than 100 degrees."""
    crossing: Float[Tensor, "B"]
    """How far the fingers' bones come nearer to each other than they are thick, metres."""

    @property
    def good(self) -> Bool[Tensor, "B"]:
        """Thumb and at least two fingers touch, nothing sinks in, the grip is opposed, fingers do not cross."""
        touch = self.gap <= MAX_GAP
        grip = touch[:, 0] & (touch[:, 1:].sum(1) >= 2)
        return grip & (self.penetration <= MAX_PENETRATION) & self.opposed & (self.crossing < 0.003)


def finger_of_vertex(model: HandModel) -> Int[Tensor, "V"]:
    """0 to 4 (thumb to pinky) for vertices of fingers, 5 for the rest."""
    return torch.where(model.regions < 15, model.regions // 3, torch.full_like(model.regions, 5))


def measure(
    model: HandModel,
    hand: Hand,
    mesh: Mesh,
    rotation: Float[Tensor, "B 3 3"],
    transl: Float[Tensor, "B 3"],
    *,
    exact: bool = False,
) -> Measure:
    """Measures grasps of one object (``mesh`` has B = 1): by its distance grid, or exactly to its triangles."""
    local = (hand.vertices - transl[:, None]) @ rotation
    with torch.enable_grad():
        points = local.detach().requires_grad_()
        distance = _distance(mesh, points)
        (normals,) = torch.autograd.grad(distance.sum(), points)
    distance = distance.detach()
    if exact:
        vertices, faces = mesh.trimmed()
        flat = signed_distance(local.reshape(-1, 3).double().numpy(), vertices.double().numpy(), faces.numpy())
        distance = torch.as_tensor(flat, dtype=torch.float32).view_as(distance)
    finger = finger_of_vertex(model)
    gaps, touching = [], []
    for k in range(5):
        value, place = distance.masked_fill(finger != k, 1.0).min(1)
        gaps.append(value.clamp(min=0))
        normal = normals[torch.arange(len(place)), place]
        touching.append(torch.nn.functional.normalize(normal, dim=-1))
    gap, normal = torch.stack(gaps, 1), torch.stack(touching, 1)
    cosine = (normal[:, :1] * normal[:, 1:]).sum(-1).masked_fill(gap[:, 1:] > MAX_GAP, 1.0)
    return Measure(gap, (-distance).amax(1).clamp(min=0), cosine.amin(1) < -0.17, _crossing(hand.joints).amax((1, 2)))


def _distance(mesh: Mesh, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N"]:
    """Signed distance of a batch of point sets to one mesh."""
    count, number = points.shape[:2]
    return mesh.distance(points.reshape(1, count * number, 3)).view(count, number)


def _crossing(joints: Float[Tensor, "B 21 3"]) -> Float[Tensor, "B n n"]:
    """How much nearer points on bones of different fingers are than 13 mm, metres."""
    chain = joints[:, 1:].view(-1, 5, 4, 3)
    middle = (chain[:, :, 1:] + chain[:, :, :-1]) / 2
    points = torch.cat([chain[:, :, 2:], middle[:, :, 1:]], 2).flatten(1, 2)
    finger = torch.arange(5).repeat_interleave(4)
    apart = (points[:, :, None] - points[:, None]).square().sum(-1).clamp(min=1e-10).sqrt()
    return (0.013 - apart).clamp(min=0) * (finger[:, None] != finger)


@dataclass(frozen=True)
class _Start:
    """B candidates before optimisation; angles are ``anatomy.anatomy_angles`` of the 15 finger joints."""

    angles: Float[Tensor, "B 15 3"]
    natural: Float[Tensor, "B 15 3"]
    """The preshape, which the fingers do not leave without need."""
    shape: Float[Tensor, "B 10"]
    rotation: Float[Tensor, "B 3 3"]
    transl: Float[Tensor, "B 3"]
    wanted: Float[Tensor, "B 17"]
    """How much each region of the hand is drawn to the surface."""
    kind: Int[Tensor, "B"]


_BENDS = {
    # MCP, PIP, DIP bend of the fingers in degrees, then of the thumb; medians of real grasps or opened from them
    "power": ((28, 32, 14), (12, 14, 12)),
    "tripod": ((42, 34, 16), (16, 16, 14)),
    "pinch": ((45, 30, 12), (16, 18, 16)),
    "above": ((38, 30, 12), (14, 12, 10)),
    "wide": ((22, 26, 14), (6, 8, 10)),
}
_FINGERS = {"power": 5, "tripod": 3, "pinch": 3, "above": 4, "wide": 5}
"""Fingers that must touch, the thumb counted."""


def _preshape(model: HandModel, rng: np.random.Generator, kind: str, count: int) -> Float[Tensor, "B 15 3"]:
    """Twist, splay and bend of the finger joints before the object comes, radians."""
    fingers, thumb = _BENDS[kind]
    bend = np.array([*(fingers * 4), *thumb], float)
    bend = bend * rng.uniform(0.7, 1.3, (count, 1)) + rng.normal(0, 4, (count, 15))
    bend[:, 9:12] += rng.uniform(0, 12, (count, 1))  # the ulnar fingers bend more in real grasps
    bend[:, 6:9] += rng.uniform(0, 18, (count, 1))
    if _FINGERS[kind] < 5:  # the fingers that do not take part: curled in or stretched
        bend[:, 6:9] += rng.choice([-15, 25], (count, 1))
    if _FINGERS[kind] < 4:
        bend[:, 9:12] += rng.choice([-15, 25], (count, 1))
    angles = np.zeros((count, 15, 3))
    angles[..., 2] = bend
    angles[:, ::3, 1] = rng.normal(0, 5, (count, 5))
    natural = anatomy.anatomy_angles(axis_angle_to_matrix(model.mean_rotvec), model.axes)[1:]
    result = torch.as_tensor(np.deg2rad(angles), dtype=torch.float32)
    result[:, 12:, :2] += natural[12:, :2]
    return torch.minimum(torch.maximum(result, model.limits[..., 0]), model.limits[..., 1])


def _open_to(
    model: HandModel, rng: np.random.Generator, angles: Float[Tensor, "B 15 3"], opening: np.ndarray
) -> Float[Tensor, "B 15 3"]:
    """Preshapes whose thumb faces index and middle finger, as far apart as asked (B, metres).

    Of many random hands, each candidate gets the one that fits best; ring and little finger stay as they were.
    """
    count = 600
    trial = angles[torch.as_tensor(rng.integers(len(angles), size=count))].clone()
    bends = np.deg2rad(np.stack([rng.uniform(5, 60, count), rng.uniform(8, 60, count)], 1))
    for first in (0, 3):
        trial[:, first, 2], trial[:, first + 1, 2] = torch.as_tensor(bends, dtype=torch.float32).unbind(1)
        trial[:, first + 2, 2] = trial[:, first + 1, 2] * 0.5
    low, high = model.limits[12:, :, 0] * 0.8, model.limits[12:, :, 1] * 0.8
    low[1:, :2], high[1:, :2] = 0.0, 0.0
    low[1:, 2] = 0.0
    random = torch.as_tensor(rng.random((count, 3, 3)), dtype=torch.float32)
    trial[:, 12:] = low + (high - low) * random
    hand = model(_rotvec(model, trial), torch.zeros(count, 10), torch.zeros(count, 3))
    normals = anatomy.vertex_normals(hand.vertices, model.faces)
    pads = [normals[:, model.palmar & (model.regions == region)].mean(1) for region in (2, 5, 8)]
    gap = hand.joints[:, [8, 12]].mean(1) - hand.joints[:, 4]
    apart = gap.norm(dim=-1)
    toward = gap / apart[:, None]
    facing = (pads[0] * toward).sum(-1) - ((pads[1] + pads[2]) / 2 * toward).sum(-1)
    strain = (trial[:, 12] / model.limits[12, :, 1]).square().sum(-1)
    wanted = torch.as_tensor(opening, dtype=torch.float32)
    misfit = ((apart - wanted[:, None]) / 0.006).square() + 3 * (2 - facing) + 0.3 * strain
    misfit = misfit + torch.as_tensor(rng.random((len(opening), count)), dtype=torch.float32)
    best = trial[misfit.argmin(1)]
    return torch.cat([best[:, :6], angles[:, 6:12], best[:, 12:]], 1)


def _rotvec(model: HandModel, angles: Float[Tensor, "B 15 3"]) -> Float[Tensor, "B 16 3"]:
    whole = torch.cat([torch.zeros_like(angles[:, :1]), angles], 1)
    return anatomy.compose_angles(whole, model.axes)


def _frame(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Right-handed orthonormal columns: ``first`` kept, ``second`` made perpendicular."""
    a = first / np.linalg.norm(first, axis=-1, keepdims=True)
    b = second - (second * a).sum(-1, keepdims=True) * a
    b = b / np.linalg.norm(b, axis=-1, keepdims=True)
    return np.stack([a, b, np.cross(a, b)], -1)


def _tilt(rng: np.random.Generator, count: int, degrees: float) -> np.ndarray:
    """Random small rotations, (count, 3, 3)."""
    rotvec = torch.as_tensor(rng.normal(0, np.deg2rad(degrees), (count, 3)))
    return axis_angle_to_matrix(rotvec).numpy()


def _place(
    model: HandModel, mesh: Mesh, rng: np.random.Generator, kind: str, joints: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where the object starts: rotations and the hand-frame position of its box centre.

    The object's axes are sorted by extent. A power grasp lays the longest across the palm; a fingertip grasp puts a
    short one between thumb and fingers.
    """
    count = len(joints)
    low, high = mesh.vertices[0].amin(0).numpy(), mesh.vertices[0].amax(0).numpy()
    extent = high - low
    order = np.argsort(-extent)
    axes = np.eye(3)[order] * rng.choice([-1.0, 1.0], (count, 3, 1))
    long, mid, short = axes[:, 0], axes[:, 1], axes[:, 2]
    turn = rng.random((count, 1)) < 0.35
    mid, short = np.where(turn, short, mid), np.where(turn, mid, short)
    flat = rng.random((count, 1)) < 0.15
    thumb, fingers = joints[:, 4], joints[:, [8, 12]].mean(1)
    between = (thumb + fingers) / 2
    palm = joints[:, 9] * 0.72 + joints[:, 0] * 0.28
    along = rng.uniform(-0.3, 0.3, (count, 1)) * extent[order[0]]
    if kind in ("power", "wide"):
        across = joints[:, 5] - joints[:, 17]
        target = _frame(np.where(flat, joints[:, 9] - joints[:, 0], across), np.tile([0.0, -1.0, 0.0], (count, 1)))
        source = _frame(long, short)
        reach = 0.5 * np.where(turn[:, 0], extent[order[1]], extent[order[2]]) + (0.012 if kind == "power" else 0.03)
        rotation = target @ _tilt(rng, count, 14) @ source.transpose(0, 2, 1)
        centre = palm + target[:, :, 1] * reach[:, None] + rng.normal(0, 0.008, (count, 3))
        return rotation, centre - rotation @ np.zeros(3) + target[:, :, 0] * along
    closing = fingers - thumb
    toward = between - palm
    end = np.full((count, 1), kind == "above") | (rng.random((count, 1)) < 0.15)
    target = _frame(closing, toward)
    source = _frame(short, np.where(end, long, mid))
    rotation = target @ _tilt(rng, count, 14) @ source.transpose(0, 2, 1)
    depth = np.where(
        end[:, 0], extent[order[0]] / 2 - rng.uniform(0.012, 0.03, count), rng.uniform(-0.005, 0.02, count)
    )
    centre = between + target[:, :, 1] * depth[:, None]
    return rotation, centre + np.where(end, 0.0, along) * target[:, :, 2]


def _start(model: HandModel, mesh: Mesh, rng: np.random.Generator, kind: str, count: int) -> _Start:
    """Candidates of one kind; the object's centre is where :func:`_place` puts it."""
    angles = _preshape(model, rng, kind, count)
    if kind in ("tripod", "pinch", "above"):
        thickness = np.sort((mesh.vertices[0].amax(0) - mesh.vertices[0].amin(0)).numpy())[0]
        with torch.no_grad():
            angles = _open_to(model, rng, angles, min(thickness, 0.085) + 0.02 + rng.uniform(0.0, 0.015, count))
    shape = torch.as_tensor(rng.normal(0, 1, (count, 10)).clip(-2, 2), dtype=torch.float32)
    hand = model(_rotvec(model, angles), shape, torch.zeros(count, 3))
    rotation, centre = _place(model, mesh, rng, kind, hand.joints.double().numpy())
    turned = torch.as_tensor(rotation, dtype=torch.float32)
    transl = torch.as_tensor(centre, dtype=torch.float32) - (turned @ mesh.center[0])
    wanted = torch.zeros(count, 17)
    wanted[:, [3 * k + 2 for k in range(_FINGERS[kind])]] = 1.0
    if kind == "power":
        wanted[:, [1, 4, 7, 10, 13, 3, 6, 9, 12, 15]] = 0.3
    return _Start(angles, angles, shape, turned, transl, wanted, torch.full((count,), KINDS.index(kind)))


def _energy(
    model: HandModel, mesh: Mesh, start: _Start, angles: Tensor, rotation: Tensor, transl: Tensor, members: Tensor
) -> Float[Tensor, "B"]:
    """What a candidate pays, in about millimetres."""
    hand = model(_rotvec(model, angles), start.shape, torch.zeros_like(transl))
    wrist = hand.joints[:, :1]
    sleeve = wrist + wrist.new_tensor([[0.03, 0, 0], [0.07, 0, 0], [0.12, 0, 0], [0.18, 0, 0]])
    distance = _distance(mesh, (torch.cat([hand.vertices, sleeve], 1) - transl[:, None]) @ rotation)
    skin, sleeve = distance[:, :-4] * 1e3, distance[:, -4:] * 1e3
    sunk = (-0.7 - skin).clamp(min=0)
    nearest = -torch.logsumexp(-torch.cat([skin, skin.new_full((len(skin), 1), 1e4)], 1)[:, members] / 1.5, -1) * 1.5
    drawn = (start.wanted * (nearest.square() + 4).sqrt()).sum(1)
    beyond = (angles - model.limits[..., 1]).clamp(min=0) + (model.limits[..., 0] - angles).clamp(min=0)
    change = angles - start.natural
    prior = (change[..., :2] / 0.12).square().sum((1, 2)) + (change[..., 2] / 0.7).square().sum(1)
    hinge = ((angles[:, 2:12:3, 2] - 0.5 * angles[:, 1:12:3, 2]) / 0.35).square().sum(1)
    forearm = (1e3 * _FOREARM - sleeve).clamp(min=0).sum(1)
    crossing = _crossing(hand.joints).sum((1, 2)) * 1e3
    return (
        drawn + 0.6 * sunk.square().sum(1) + 0.3 * prior + 0.3 * hinge + 200 * beyond.sum((1, 2)) + forearm + crossing
    )


def _optimise(model: HandModel, mesh: Mesh, start: _Start, steps: int) -> _Start:
    """Adam on finger angles and the object's place; after a third of the steps the worse half is given up."""
    thin = _thin(model)
    third = steps // 3
    first, energy = _descend(thin, mesh, start, steps, range(third))
    better = torch.zeros_like(start.kind, dtype=torch.bool)
    for kind in range(len(KINDS)):  # kinds pay different terms: each is compared with its own
        same = start.kind == kind
        if same.any():
            better |= same & (energy <= energy[same].median())
    return _descend(thin, mesh, _pick(first, better, start), steps, range(third, steps))[0]


def _pick(found: _Start, chosen: Tensor, start: _Start) -> _Start:
    """The chosen candidates, with the angles of ``start`` for the prior to hold on to."""
    kept = {f.name: getattr(found, f.name)[chosen] for f in dataclasses.fields(_Start)}
    return _Start(**{**kept, "natural": start.natural[chosen]})


def _descend(
    model: HandModel, mesh: Mesh, start: _Start, steps: int, turns: range
) -> tuple[_Start, Float[Tensor, "B"]]:
    """Some of ``steps`` steps of Adam with a falling rate; the candidates and what they pay."""
    angles = start.angles.clone().requires_grad_()
    turn = start.rotation[..., :2].transpose(-1, -2).flatten(1).clone().requires_grad_()
    centre = (start.transl + (start.rotation @ mesh.center[0])).clone().requires_grad_()
    members = _members(model)
    rates = (0.03, 0.01, 0.0015)
    groups = [{"params": [p], "lr": rate} for p, rate in zip((angles, turn, centre), rates, strict=True)]
    optimiser = torch.optim.Adam(groups, betas=(0.8, 0.98))
    energy = torch.zeros(len(angles))
    for step in turns:
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * (0.05 + 0.475 * (1 + np.cos(np.pi * step / steps)))
        optimiser.zero_grad()
        rotation = sixd_to_matrix(turn)
        transl = centre - (rotation @ mesh.center[0])
        energy = _energy(model, mesh, start, angles, rotation, transl, members)
        energy.sum().backward()
        optimiser.step()
    with torch.no_grad():
        rotation = sixd_to_matrix(turn)
        transl = centre.detach() - (rotation @ mesh.center[0])
    return dataclasses.replace(start, angles=angles.detach(), rotation=rotation, transl=transl), energy.detach()


def _thin(model: HandModel) -> HandModel:
    """The hand with every third vertex of its back only, and no faces: what optimisation looks at."""
    palmar = torch.nonzero(model.palmar).squeeze(1)
    back = torch.nonzero(~model.palmar).squeeze(1)[::3]
    kept = torch.cat([palmar, back, model.tips]).unique()
    names = ("template", "weights", "regions", "palmar", "colors", "codes")
    return dataclasses.replace(
        model,
        **{name: getattr(model, name)[kept] for name in names},
        basis=model.basis.view(145, -1, 3)[:, kept].reshape(145, -1),
        regressor=model.regressor[:, kept],
        faces=model.faces[:0],
        tips=torch.searchsorted(kept, model.tips),
    )


def _members(model: HandModel) -> Int[Tensor, "17 n"]:
    """Palmar vertices of each region, what is meant to touch; rows are filled up with the number of vertices."""
    chosen = [torch.nonzero((model.regions == k) & model.palmar).squeeze(1) for k in range(17)]
    return torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=float(len(model.regions)))


def grasp_object(
    model: HandModel, mesh: Mesh, count: int, seed: int, *, steps: int = 120, variations: int = 3, index: int = 0
) -> GraspBank:
    """Tries ``count`` grasps of one object and returns those that are good (:attr:`Measure.good`).

    Good ones are tried again with other hand shapes and a slightly moved object: most of these succeed, at a third of
    the price.

    Args:
        mesh: One object (B = 1).
        count: Tries from scratch.
        seed: Equal seeds give equal grasps.
        variations: How often each good grasp is varied.
        index: What to write into ``bank.object``.
    """
    rng = np.random.default_rng([seed, 7])
    share = rng.multinomial(count, [0.3, 0.2, 0.15, 0.2, 0.15])
    starts = [_start(model, mesh, rng, kind, int(n)) for kind, n in zip(KINDS, share, strict=True) if n]
    first = _finish(model, mesh, _cat(starts), steps)
    if len(first.kind) == 0:
        nothing = torch.zeros(0, 5)
        return GraspBank(
            torch.zeros(0, 16, 3),
            first.shape,
            torch.zeros(0, 3),
            first.transl,
            first.kind,
            first.kind,
            nothing,
            nothing[:, 0],
        )
    if variations == 0:
        return _bank(model, mesh, first, index)
    more = _finish(model, mesh, _vary(model, mesh, rng, first, variations), steps // 3)
    return GraspBank.cat([_bank(model, mesh, first, index), _bank(model, mesh, more, index)])


def _cat(starts: list[_Start]) -> _Start:
    return _Start(**{f.name: torch.cat([getattr(s, f.name) for s in starts]) for f in dataclasses.fields(_Start)})


def _finish(model: HandModel, mesh: Mesh, start: _Start, steps: int) -> _Start:
    """Candidates optimised; only the good ones."""
    kept = _optimise(model, mesh, start, steps)
    with torch.no_grad():
        hand = model(_rotvec(model, kept.angles), kept.shape, torch.zeros_like(kept.transl))
    good = measure(model, hand, mesh, kept.rotation, kept.transl).good
    return _Start(**{f.name: getattr(kept, f.name)[good] for f in dataclasses.fields(_Start)})


def _vary(model: HandModel, mesh: Mesh, rng: np.random.Generator, good: _Start, times: int) -> _Start:
    """Each grasp ``times`` over: a new hand shape, the object turned about 8 degrees and moved about 4 mm."""
    many = _Start(**{f.name: getattr(good, f.name).repeat_interleave(times, 0) for f in dataclasses.fields(_Start)})
    count = len(many.kind)
    shape = torch.as_tensor(rng.normal(0, 1, (count, 10)).clip(-2, 2), dtype=torch.float32)
    turn = torch.as_tensor(_tilt(rng, count, 5), dtype=torch.float32)
    centre = many.transl + (many.rotation @ mesh.center[0])
    rotation = turn @ many.rotation
    moved = centre + torch.as_tensor(rng.normal(0, 0.0025, (count, 3)), dtype=torch.float32)
    angles = many.angles + torch.as_tensor(rng.normal(0, np.deg2rad([1, 2, 4]), (count, 15, 3)), dtype=torch.float32)
    transl = moved - (rotation @ mesh.center[0])
    return dataclasses.replace(many, shape=shape, rotation=rotation, transl=transl, angles=angles, natural=angles)


def _bank(model: HandModel, mesh: Mesh, good: _Start, index: int) -> GraspBank:
    """Grasps that were found good, measured exactly: those that are still good."""
    rotvec = _rotvec(model, good.angles)
    with torch.no_grad():
        hand = model(rotvec, good.shape, torch.zeros_like(good.transl))
    measured = measure(model, hand, mesh, good.rotation, good.transl, exact=True)
    bank = GraspBank(
        rotvec, good.shape, matrix_to_axis_angle(good.rotation), good.transl, good.kind,
        torch.full_like(good.kind, index), measured.gap, measured.penetration,
    )  # fmt: skip
    inside = _swallowed(model, hand, mesh, good.rotation, good.transl)
    return bank[measured.good & (inside <= MAX_PENETRATION)]


def _swallowed(
    model: HandModel, hand: Hand, mesh: Mesh, rotation: Float[Tensor, "B 3 3"], transl: Float[Tensor, "B 3"]
) -> Float[Tensor, "B"]:
    """How deep the deepest object vertex is inside the hand, metres: thin walls can pass between hand vertices."""
    thing = (mesh.trimmed()[0] @ rotation.mT + transl[:, None]).double().numpy()
    faces = model.faces.numpy()
    deepest = []
    for points, skin in zip(thing, hand.vertices.double().numpy(), strict=True):
        near = points[((points > skin.min(0)) & (points < skin.max(0))).all(1)]
        deepest.append(max(0.0, -signed_distance(near, skin, faces).min()) if len(near) else 0.0)
    return torch.tensor(deepest, dtype=torch.float32)
