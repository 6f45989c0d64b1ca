"""What the contact network is told of an object's points, of a posed hand, and of the maps about both.

After CPF's PiCR (Yang et al. 2021): each object point takes what the maps show where it is projected. Added to that are
its place against the posed hand and object, and what the maps say of the posed hand: a hand that lies beside its own
picture is not to be trusted about what it touches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from horefine.extractors import COMPLETED
from horefine.geometry import axis_angle_to_matrix, project
from horefine.hand import HandModel
from horefine.mesh import Mesh, even_samples
from horefine.scene import Features, Pose

__all__ = [
    "HAND_CHANNELS", "POINT_CHANNELS", "HandInputs", "PointInputs", "Points", "View", "even_points", "hand_inputs",
    "point_inputs",
]  # fmt: skip

MAPS = COMPLETED["contact"]
"""The features that are read; each may be missing."""
WINDOWS = (0, 32, 16)
"""Maps are sampled as they are, and averaged over 3x3 pixels of themselves at these smaller sides."""
STACK = 12
"""Channels that are averaged: masks, masks of what is seen, codes, depth of hand and of object."""
LEVEL = 10
"""Channels of one window: masks, codes of hand and object, depth of hand and object against the point's."""
POINT_CHANNELS = 13 + 57 + LEVEL * len(WINDOWS) + 7 + 4
HAND_CHANNELS = 6 + 7 * 2 + 4
STRIDE = 3
"""Every third vertex of the hand is looked at in the maps."""


@dataclass(frozen=True)
class Points:
    """Points on the surfaces of B objects, object frame, metres."""

    place: Float[Tensor, "B N 3"]
    normal: Float[Tensor, "B N 3"]
    """Outward, unit length."""


@dataclass(frozen=True)
class View:
    """B posed hands and objects, and the maps about them, ready to be sampled."""

    hand: Float[Tensor, "B V 3"]
    """Hand vertices, camera frame."""
    anchors: Float[Tensor, "B 32 3"]
    rotation: Float[Tensor, "B 3 3"]
    transl: Float[Tensor, "B 3"]
    center: Float[Tensor, "B 3"]
    """Centre of the object's box, object frame."""
    extents: Float[Tensor, "B 3"]
    """Sides of the object's box, metres."""
    matrix: Float[Tensor, "B 3 3"]
    maps: tuple[Float[Tensor, "B 12 _ _"], ...]
    """For each window: masks, codes times mask, relative depth times mask, averaged."""
    known: Float[Tensor, "B 4"]
    """1 for masks, hand codes, object codes and depth that are there."""

    @property
    def center_seen(self) -> Float[Tensor, "B 3"]:
        """Centre of the object's box, camera frame."""
        return (self.rotation @ self.center[..., None])[..., 0] + self.transl

    @staticmethod
    def of(pose: Pose, features: Features, hand_model: HandModel) -> View:
        """Poses the hand and averages the maps. Maps that are missing count as showing nothing."""
        mesh = features.object
        low, high = mesh.box
        hand = hand_model(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).vertices
        return View(
            hand, hand_model.anchors(hand), axis_angle_to_matrix(pose.object_rotvec), pose.object_transl, mesh.center,
            high - low, features.camera.matrix, *_averaged(features),
        )  # fmt: skip


@dataclass(frozen=True)
class PointInputs:
    """Of N object points."""

    values: Float[Tensor, "B N C"]
    """:data:`POINT_CHANNELS` numbers of about unit size."""
    regions: Float[Tensor, "B N 17"]
    """Distance to the palmar side of each hand region, metres."""
    anchors: Float[Tensor, "B N 32"]
    """Distance to each anchor, metres."""


@dataclass(frozen=True)
class HandInputs:
    """Of M hand vertices."""

    values: Float[Tensor, "B M C"]
    region: Int[Tensor, "M"]


def even_points(mesh: Mesh, count: int) -> Points:
    """``count`` points on each surface, as dense everywhere whatever the mesh's; the same ones each time."""
    chosen = [_even(mesh, index, count) for index in range(len(mesh))]
    return Points(torch.stack([place for place, _ in chosen]), torch.stack([normal for _, normal in chosen]))


def _even(mesh: Mesh, index: int, count: int) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3"]]:
    vertices, faces = mesh.trimmed(index)
    place, share = even_samples(vertices, faces, count)
    chosen, weight = faces[place], share[..., None]
    normal = (weight * mesh.normals[index][chosen]).sum(1)
    return (weight * vertices[chosen]).sum(1), torch.nn.functional.normalize(normal, dim=-1)


def _averaged(features: Features) -> tuple[tuple[Tensor, ...], Float[Tensor, "B 4"]]:
    """:attr:`View.maps` and :attr:`View.known`."""
    matrix, (height, width) = features.camera.matrix, features.camera.size
    empty = matrix.new_zeros(len(matrix), 1, height, width)

    def given(name: str, channels: int) -> Tensor:
        value = getattr(features, name)
        if value is None:
            return empty.expand(-1, channels, -1, -1)
        return value[:, None] if value.dim() == 3 else value

    hand, other = given("hand_mask", 1), given("object_mask", 1)
    hand_seen = hand * (hand > 0.5)
    other_seen = other * ((other > 0.5) & (hand <= 0.5))
    depth = given("depth", 1)
    stack = torch.cat(
        [hand, other, hand_seen, other_seen, given("hand_coords", 3) * hand_seen,
         given("object_coords", 3) * other_seen, depth * hand_seen, depth * other_seen], 1
    )  # fmt: skip
    small = {side: torch.nn.functional.interpolate(stack, (side, side), mode="area") for side in WINDOWS if side}
    levels = [torch.nn.functional.avg_pool2d(small[side], 3, 1, 1) if side else stack for side in WINDOWS]
    there = [getattr(features, name) is not None for name in MAPS]
    known = matrix.new_tensor([there[0] and there[1], there[2], there[3], there[4]])
    return tuple(levels), known.expand(len(matrix), 4)


def _sampled(
    view: View, points: Float[Tensor, "B N 3"]
) -> tuple[list[dict[str, Float[Tensor, "B N _"]]], Float[Tensor, "B N 1"]]:
    """The averaged maps where camera-frame points are seen, a table for each window; and which are in the picture.

    Codes and depth are those of the hand's or object's pixels in the window, zero where it has none. Depth is that of
    the pixels minus the point's own, in units of 2 cm.
    """
    height, width = view.maps[0].shape[-2:]
    front = torch.cat([points[..., :2], points[..., 2:].clamp(min=0.02)], -1)
    place = (2 * project(front, view.matrix) + 1) / view.matrix.new_tensor([width, height]) - 1
    inside = (place.abs() <= 1).all(-1, keepdim=True).to(points.dtype)
    grid = place[:, :, None].clamp(-4, 4)
    own = points[..., 2:] - view.center_seen[:, None, 2:]
    levels = []
    for maps in view.maps:
        part = torch.nn.functional.grid_sample(maps, grid, align_corners=False)[..., 0].mT
        hand, other, hand_seen, other_seen, hand_code, other_code, hand_depth, other_depth = part.split(
            [1, 1, 1, 1, 3, 3, 1, 1], -1
        )
        has_hand, has_other = ((seen > 0.02).to(points.dtype) for seen in (hand_seen, other_seen))
        hand_seen, other_seen = hand_seen.clamp(min=0.02), other_seen.clamp(min=0.02)
        gaps = [
            ((total / seen - own) / 0.02).clamp(-4, 4) * has
            for total, seen, has in ((hand_depth, hand_seen, has_hand), (other_depth, other_seen, has_other))
        ]
        levels.append({
            "masks": torch.cat([hand, other], -1), "hand_code": hand_code / hand_seen, "has_hand": has_hand,
            "object_code": other_code / other_seen, "has_object": has_other, "depth": torch.cat(gaps, -1),
        })  # fmt: skip
    return levels, inside


def point_inputs(view: View, points: Points, hand_model: HandModel) -> PointInputs:
    """What is known of object points against the posed hand and the maps."""
    place = points.place @ view.rotation.mT + view.transl[:, None]
    normal = points.normal @ view.rotation.mT
    ray = torch.nn.functional.normalize(place, dim=-1)
    about = (points.place - view.center[:, None]) / 0.1
    sides = (view.extents[:, None] / 0.1).expand_as(place)
    geometry = [
        normal, (normal * ray).sum(-1, keepdim=True), (place - view.center_seen[:, None]) / 0.1, about, sides,
    ]  # fmt: skip
    touch, regions, anchors, code = _touch(view, place, normal, hand_model)
    levels, inside = _sampled(view, place)
    scale = view.extents.amax(-1).clamp(min=1e-6)[:, None, None]
    own = (points.place - view.center[:, None]) / scale + 0.5
    seen = [level[name] for level in levels for name in ("masks", "hand_code", "object_code", "depth")]
    differences = [
        (levels[0]["object_code"] - own) * levels[0]["has_object"],
        (levels[0]["hand_code"] - code) * levels[0]["has_hand"],
    ]
    known = view.known[:, None].expand(-1, place.shape[1], -1)
    return PointInputs(torch.cat([*geometry, *touch, *seen, *differences, inside, known], -1), regions, anchors)


def _touch(
    view: View, place: Float[Tensor, "B N 3"], normal: Float[Tensor, "B N 3"], hand_model: HandModel
) -> tuple[list[Tensor], Float[Tensor, "B N 17"], Float[Tensor, "B N 32"], Float[Tensor, "B N 3"]]:
    """Inputs, distances to regions and anchors, and the code of the nearest palmar vertex."""
    palmar, counts = _palmar_by_region(hand_model)
    skin = view.hand[:, palmar]
    distance = torch.cdist(place, skin, compute_mode="donot_use_mm_for_euclid_dist")
    regions = torch.stack([part.amin(-1) for part in distance.split(counts, -1)], -1)
    anchors = torch.cdist(place, view.anchors, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distance.argmin(-1)
    offset = skin.gather(1, nearest[..., None].expand(-1, -1, 3)) - place
    code = hand_model.codes[palmar][nearest]
    inputs = [
        (regions / 0.03).clamp(max=3),
        (anchors / 0.03).clamp(max=3),
        (offset / 0.02).clamp(-3, 3),
        ((offset * normal).sum(-1, keepdim=True) / 0.01).clamp(-4, 4),
        (offset.norm(dim=-1, keepdim=True) / 0.01).clamp(max=4),
        code,
    ]
    return inputs, regions, anchors, code


def _palmar_by_region(hand_model: HandModel) -> tuple[Int[Tensor, "P"], list[int]]:
    """Palmar vertices in order of their region, and how many each region has."""
    palmar = hand_model.palmar.nonzero().flatten()
    region = hand_model.regions[palmar]
    return palmar[region.argsort(stable=True)], torch.bincount(region, minlength=17).tolist()


def hand_inputs(view: View, hand_model: HandModel) -> HandInputs:
    """How the posed hand agrees with the maps, vertex by vertex."""
    chosen: Bool[Tensor, "V"] = torch.arange(view.hand.shape[1], device=view.hand.device) % STRIDE == 0
    place, code = view.hand[:, chosen], hand_model.codes[chosen]
    levels, _ = _sampled(view, place)
    parts = [(place - view.center_seen[:, None]) / 0.1, code.expand(len(place), -1, -1)]
    for level in levels[:2]:
        parts += [level["masks"], (level["hand_code"] - code) * level["has_hand"], level["depth"]]
    parts.append(view.known[:, None].expand(-1, place.shape[1], -1))
    return HandInputs(torch.cat(parts, -1), hand_model.regions[chosen])
