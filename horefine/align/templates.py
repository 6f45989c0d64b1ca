"""The object's pose from its own looks: pictures of the mesh in many orientations against the photograph.

No network is asked which way the object is turned. Its mesh is drawn in orientations spread over all of them and each
picture is laid over the photograph, moved by a few pixels: colours (up to the light) and outline decide. The best are
then moved and turned by Adam on the same two terms at the maps' full size, the best of those again, and the cheapest is
taken; the pose that was given competes with them. What hides the object (the hand's mask) counts for nothing.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from horefine.adam import Adam
from horefine.align.kernels import match_templates
from horefine.align.rotations import best_apart, even_rotations
from horefine.geometry import Camera, axis_angle_to_matrix, matrix_to_axis_angle
from horefine.losses.appearance import CHROMA, LIGHT, LUMINANCE, Appearance, color_cost, find_appearance, log_color
from horefine.mesh import Mesh
from horefine.render import Topology, render
from horefine.scene import Features, Pose

__all__ = ["align_object"]

COARSE = 32
"""Side of the pictures that are compared first, pixels."""
REACH = 4
"""How far a picture is moved there, pixels."""
KERNEL = 2.5
OUTLINE = 4.0
"""What a picture that overlaps not at all costs there, in squared sigmas of a pixel."""
SILHOUETTE = 12.0
"""Weight of a squared error in coverage beside a squared sigma of colour, when poses are moved by Adam."""
NEAR_FAR = 0.25
"""Share by which the depth may differ from the given one at no cost. What hides the object without being a hand makes
it look small; without a bound it would be moved far away."""
APART = math.radians(30)
LEAST = 6
"""An object seen in fewer pixels of its map stays where it is."""


@dataclass(frozen=True)
class Placed:
    """K placements of the objects of B images: rotation and centre of the bounding box, camera frame."""

    rotation: Float[Tensor, "B K 3 3"]
    center: Float[Tensor, "B K 3"]

    def take(self, index: Tensor) -> Placed:
        """The placements ``index`` "B k"."""
        rows = torch.arange(len(index), device=index.device)[:, None]
        return Placed(self.rotation[rows, index], self.center[rows, index])


def align_object(
    pose: Pose,
    features: Features,
    *,
    renderer: str = "auto",
    rotations: int = 576,
    candidates: int = 16,
    finalists: int = 4,
    steps: tuple[int, int] = (15, 45),
) -> Pose:
    """The pose with the object where colours and outline of its mesh agree best with the photograph.

    Args:
        pose: B poses; the object's centre should be right to an eighth of the maps' width and a tenth of its depth.
        features: with ``image``, ``hand_mask`` and ``object_mask``.
        renderer: as :func:`horefine.render.render` takes it.
        rotations: orientations that are drawn.
        candidates: of these, how many are moved by Adam for ``steps[0]`` steps.
        finalists: of these, how many for ``steps[1]`` more.

    Raises:
        ValueError: a feature is missing.
    """
    if features.image is None or features.hand_mask is None or features.object_mask is None:
        raise ValueError("align_object needs features.image, hand_mask and object_mask")
    seen = find_appearance(None, features.image, features.hand_mask, features.object_mask)
    given = _placed(pose, features.object)
    found = _coarse(given, features, seen, rotations, candidates, renderer)
    found = Placed(torch.cat([given.rotation, found.rotation], 1), torch.cat([given.center, found.center], 1))
    found, cost = _descend(found, features, seen, given, steps[0], 1.0, renderer)
    found = found.take(cost.topk(min(finalists, cost.shape[1]), largest=False).indices)
    found, cost = _descend(found, features, seen, given, steps[1], 0.5, renderer)
    best = found.take(cost.argmin(1, keepdim=True))
    enough = seen.inside.sum((1, 2)) >= LEAST
    rotation = torch.where(enough[:, None, None], best.rotation[:, 0], given.rotation[:, 0])
    center = torch.where(enough[:, None], best.center[:, 0], given.center[:, 0])
    offset = (rotation @ features.object.center[..., None])[..., 0]
    return dataclasses.replace(pose, object_rotvec=matrix_to_axis_angle(rotation), object_transl=center - offset)


def _placed(pose: Pose, mesh: Mesh) -> Placed:
    rotation = axis_angle_to_matrix(pose.object_rotvec)
    center = (rotation @ mesh.center[..., None])[..., 0] + pose.object_transl
    return Placed(rotation[:, None], center[:, None])


@torch.no_grad()
def _coarse(given: Placed, features: Features, seen: Appearance, rotations: int, count: int, renderer: str) -> Placed:
    """The ``count`` best of ``rotations`` orientations of each image, 30 degrees apart, at their best places."""
    size = (COARSE, COARSE)
    camera = Camera(features.camera.matrix, features.camera.size).resized(size)
    assert features.hand_mask is not None and features.object_mask is not None
    masks = torch.stack([features.hand_mask, seen.inside * features.object_mask], 1)
    masks = torch.nn.functional.interpolate(masks, size, mode="area").cpu().numpy()
    target = torch.nn.functional.interpolate(seen.target, size, mode="area").cpu().numpy()
    spread = even_rotations(rotations).to(given.center)
    turned, placed = [], []
    for image in range(len(given.center)):
        center = given.center[image, 0]
        pictures = _draw(features.object[image], spread, center, camera.matrix[image], size, renderer)
        cost, moves = _match(pictures, masks[image], target[image])
        chosen = best_apart(cost.to(spread.device), spread, count, APART)
        move = moves.to(center)[chosen]
        focal = camera.matrix[image, [0, 1], [0, 1]]
        shift = move.flip(1) * center[2] / focal  # rows and columns to x and y
        turned.append(spread[chosen])
        placed.append(center + torch.cat([shift, torch.zeros_like(shift[:, :1])], 1))
    return Placed(torch.stack(turned), torch.stack(placed))


def _draw(
    mesh: Mesh, rotations: Tensor, center: Tensor, matrix: Tensor, size: tuple[int, int], renderer: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Masks "R S S", colours "R 3 S S" and face ids of one mesh in R orientations about its box's centre."""
    vertices, faces = mesh.trimmed()
    count = len(rotations)
    placed = (vertices - mesh.center[0]) @ rotations.mT + center
    topology = Topology.pack([(len(vertices), faces)] * count)
    albedo = mesh.albedo[0, : len(vertices)].repeat(count, 1)
    mask, _, color, ids = render(
        placed.flatten(0, 1), topology, matrix.expand(count, 3, 3), size, albedo, backend=renderer
    )
    assert mask is not None and color is not None and ids is not None
    return mask, color, ids


def _match(pictures: tuple[Tensor, Tensor, Tensor], masks: np.ndarray, target: np.ndarray) -> tuple[Tensor, Tensor]:
    """Cost "R" and best move "R 2" (rows, columns) of each picture."""
    mask, color, ids = pictures
    costs, moves = np.zeros(len(mask), np.float64), np.zeros((len(mask), 2), np.int64)
    match_templates(
        mask.cpu().numpy(), log_color(color).cpu().numpy(), ids.cpu().numpy(), masks[1], masks[0], target, REACH,
        (CHROMA, LUMINANCE), KERNEL**2, OUTLINE, LIGHT, costs, moves,
    )  # fmt: skip
    return torch.from_numpy(costs), torch.from_numpy(moves)


STEP = (0.003, 0.003, 0.008, 0.04, 0.04, 0.04)
"""First step of Adam: metres across and along the ray, radians."""


def _descend(
    start: Placed, features: Features, seen: Appearance, given: Placed, steps: int, rate: float, renderer: str
) -> tuple[Placed, Float[Tensor, "B K"]]:
    """Adam on colours and outline from each placement; the best that each passed through, and its cost."""
    batch, count = start.center.shape[:2]
    rows = torch.arange(batch, device=start.center.device).repeat_interleave(count)
    look = _Look.of(features, seen, rows, renderer)
    usual = given.center[rows, 0, 2]
    rotation, center = start.rotation.flatten(0, 1), start.center.flatten(0, 1)
    step = center.new_tensor(STEP) * rate
    ray = center / center[:, 2:]
    numbers = torch.zeros(len(rows), 6, device=center.device, requires_grad=True)
    adam = Adam(torch.ones_like(step), betas=(0.8, 0.9), epsilon=1e-8)
    lowest = torch.full_like(center[:, 0], torch.inf)
    best = rotation, center
    for done in range(steps + 1):
        with torch.enable_grad():
            move = numbers * step
            turned = axis_angle_to_matrix(move[:, 3:]) @ rotation
            across = torch.cat([move[:, :2], torch.zeros_like(move[:, :1])], 1)
            moved = center + across + move[:, 2:3] * ray
            beyond = ((moved[:, 2].clamp_min(0.01) / usual).log().abs() - NEAR_FAR).relu()
            cost = look.cost(turned, moved) + (10 * beyond).square()
        better = cost.detach() < lowest
        lowest = torch.where(better, cost.detach(), lowest)
        best = (
            torch.where(better[:, None, None], turned.detach(), best[0]),
            torch.where(better[:, None], moved.detach(), best[1]),
        )
        if done < steps:
            (gradient,) = torch.autograd.grad(cost.sum(), numbers)
            scale = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done / steps))
            further = adam.step(gradient.nan_to_num(0.0, 0.0, 0.0), scale)
            numbers = (numbers.detach() + further).requires_grad_()
    return Placed(best[0].unflatten(0, (batch, count)), best[1].unflatten(0, (batch, count))), lowest.view(batch, count)


@dataclass(frozen=True)
class _Look:
    """What placements of objects are judged by: N rows, several for each image."""

    vertices: Float[Tensor, "N V 3"]
    """About the box's centre."""
    albedo: Float[Tensor, "NV 3"]
    topology: Topology
    matrix: Float[Tensor, "N 3 3"]
    size: tuple[int, int]
    target: Float[Tensor, "N 3 H W"]
    inside: Float[Tensor, "N H W"]
    coverage: Float[Tensor, "N H W"]
    free: Float[Tensor, "N H W"]
    """1 where no hand may hide the object."""
    renderer: str

    @staticmethod
    def of(features: Features, seen: Appearance, rows: Tensor, renderer: str) -> _Look:
        mesh = features.object
        assert features.hand_mask is not None and features.object_mask is not None
        coverage = features.object_mask * (features.object_mask >= features.hand_mask)
        count = mesh.vertices.shape[1]
        return _Look(
            (mesh.vertices - mesh.center[:, None])[rows],
            mesh.albedo[rows].flatten(0, 1).contiguous(),
            Topology.pack([(count, mesh.faces[row]) for row in rows.tolist()]),
            features.camera.matrix[rows],
            features.camera.size,
            seen.target[rows],
            seen.inside[rows],
            coverage[rows],
            (features.hand_mask < 0.5).to(coverage.dtype)[rows],
            renderer,
        )

    def cost(self, rotation: Float[Tensor, "N 3 3"], center: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Colours and outline, for each pixel that shows the object."""
        placed = self.vertices @ rotation.mT + center[:, None]
        mask, _, color, ids = render(
            placed.flatten(0, 1), self.topology, self.matrix, self.size, self.albedo, backend=self.renderer
        )
        assert mask is not None and color is not None and ids is not None
        outline = ((mask - self.coverage).square() * self.free).sum((1, 2))
        cost = color_cost(color, ids, self.target, self.inside, kernel=KERNEL) + SILHOUETTE * outline
        return cost / self.inside.sum((1, 2)).clamp_min(1.0)
