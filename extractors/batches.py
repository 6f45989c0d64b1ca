"""Training batches: crops with exact maps and poses, and the changes of view and colour that multiply them.

A turn of the picture about its crop's centre is the same as turning the scene about the optical axis and moving the
principal point, so pictures, maps, camera and poses change together and stay exact (square pixels assumed).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.extractors.joints import heat_maps
from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle, project
from horefine.scene import Pose

__all__ = ["Augmentation", "Batch", "augment_color", "augment_view", "map_targets"]

OUTSIDE = 127 / 255
"""What a crop shows beyond the photograph's edge."""


@dataclass(frozen=True)
class Batch:
    """B scenes seen through their square crops."""

    image: Float[Tensor, "B 3 S S"]
    """sRGB, 0 to 1."""
    maps: dict[str, Tensor]
    """hand_mask, object_mask, depth "B M M"; hand_coords, object_coords "B 3 M M", as in ``horefine.Features``."""
    matrix: Float[Tensor, "B 3 3"]
    """Intrinsics of the maps."""
    pose: Pose
    joints: Float[Tensor, "B 21 3"]
    """Camera frame, metres."""
    object_center: Float[Tensor, "B 3"]
    """Centre of the object's bounding box, camera frame."""
    object: Int[Tensor, "B"]
    """Which of the data's objects."""
    extents: Float[Tensor, "B 3"]
    """The object's box sides, metres."""

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class Augmentation:
    """How far a training picture is changed. Zeros: not at all."""

    rotation: float = 0.6
    """Radians, standard deviation (cut at 1.5 times that)."""
    scale: float = 0.1
    """Standard deviation of the logarithm."""
    shift: float = 0.04
    """Standard deviation, in crop sides."""
    brightness: float = 0.25
    contrast: float = 0.25
    saturation: float = 0.3
    tint: float = 0.1
    """Standard deviation of each channel's gain."""
    blur: float = 0.3
    """Share of the pictures that are blurred."""
    noise: float = 0.03
    """Largest standard deviation of pixel noise."""
    erase: float = 0.25
    """Share of the pictures in which a rectangle is painted over."""


def augment_view(
    batch: Batch, options: Augmentation, rest_wrist: Float[Tensor, "B 3"], generator: torch.Generator
) -> Batch:
    """Turns, scales and shifts the crops; camera, poses and maps follow.

    ``rest_wrist``: the wrist joint of the untranslated hand (``HandModel.rest_joints(shape)[:, 0]``), about which
    MANO's global rotation turns.
    """
    count = len(batch)
    angle = (torch.randn(count, generator=generator) * options.rotation).clamp(
        -1.5 * options.rotation, 1.5 * options.rotation
    )
    scale = (torch.randn(count, generator=generator) * options.scale).clamp(-0.25, 0.25).exp()
    shift = torch.randn(count, 2, generator=generator) * (2 * options.shift)
    turn = axis_angle_to_matrix(torch.stack([torch.zeros_like(angle), torch.zeros_like(angle), angle], -1))
    image, maps = _warp(batch, turn[:, :2, :2], scale, shift)
    pose, wrist = batch.pose, rest_wrist + batch.pose.hand_transl
    rotvec = torch.cat([_turned(turn, pose.hand_rotvec[:, 0])[:, None], pose.hand_rotvec[:, 1:]], 1)
    return dataclasses.replace(
        batch,
        image=image,
        maps=maps,
        matrix=_moved_camera(batch.matrix, maps["depth"].shape[-1], turn[:, :2, :2], scale, shift),
        pose=Pose(
            rotvec,
            pose.hand_shape,
            (turn @ wrist[..., None])[..., 0] - rest_wrist,
            _turned(turn, pose.object_rotvec),
            (turn @ pose.object_transl[..., None])[..., 0],
        ),
        joints=batch.joints @ turn.mT,
        object_center=(turn @ batch.object_center[..., None])[..., 0],
    )


def _turned(turn: Tensor, rotvec: Tensor) -> Tensor:
    return matrix_to_axis_angle(turn @ axis_angle_to_matrix(rotvec))


def _moved_camera(matrix: Tensor, side: int, turn: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """In crop coordinates n in [-1, 1]: ``n' = scale turn n + shift`` with ``n = F X/Z + C``."""
    centre = (2 * matrix[:, :2, 2] + 1) / side - 1
    centre = scale[:, None] * (turn @ centre[..., None])[..., 0] + shift
    moved = matrix.clone()
    moved[:, :2, :2] = matrix[:, :2, :2] * scale[:, None, None]
    moved[:, :2, 2] = ((centre + 1) * side - 1) / 2
    return moved


def _warp(batch: Batch, turn: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    back = turn.mT / scale[:, None, None]
    theta = torch.cat([back, -back @ shift[..., None]], -1)

    def sample(values: Tensor, mode: str) -> Tensor:
        grid = torch.nn.functional.affine_grid(theta, list(values.shape), align_corners=False)
        return torch.nn.functional.grid_sample(values, grid, mode=mode, padding_mode="zeros", align_corners=False)

    maps = batch.maps
    smooth = sample(torch.stack([maps["hand_mask"], maps["object_mask"]], 1), "bilinear")
    # codes and depth jump at silhouettes: a blend of two surfaces is on neither
    crisp = sample(torch.cat([maps["hand_coords"], maps["object_coords"], maps["depth"][:, None]], 1), "nearest")
    moved = {"hand_mask": smooth[:, 0], "object_mask": smooth[:, 1], "depth": crisp[:, 6]}
    # outside the photograph crops are grey (horefine.data.crop), so that is what comes in from the sides
    image = sample(batch.image - OUTSIDE, "bilinear") + OUTSIDE
    return image, {**moved, "hand_coords": crisp[:, :3], "object_coords": crisp[:, 3:6]}


def augment_color(image: Float[Tensor, "B 3 S S"], options: Augmentation, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, saturation, tint, blur, painted rectangles and noise, each image its own."""
    count = len(image)

    def spread(amount: float, channels: int = 1) -> Tensor:
        return 1 + amount * (2 * torch.rand(count, channels, 1, 1, generator=generator) - 1)

    mean = image.mean((1, 2, 3), keepdim=True)
    grey = image.mean(1, keepdim=True)
    image = grey + (image - grey) * spread(options.saturation)
    image = (mean + (image - mean) * spread(options.contrast)) * spread(options.brightness) * spread(options.tint, 3)
    blurred = torch.nn.functional.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
    chosen = torch.rand(count, 1, 1, 1, generator=generator) < options.blur
    image = torch.where(chosen, blurred, image)
    image = _erase(image, options.erase, generator)
    level = torch.rand(count, 1, 1, 1, generator=generator) * options.noise
    return (image + torch.randn(image.shape, generator=generator) * level).clamp(0, 1)


def _erase(image: Tensor, share: float, generator: torch.Generator) -> Tensor:
    count, _, height, width = image.shape
    middle = torch.rand(count, 2, 1, 1, generator=generator)
    half = 0.04 + 0.11 * torch.rand(count, 2, 1, 1, generator=generator)
    half = half * (torch.rand(count, 1, 1, 1, generator=generator) < share)
    ys = torch.linspace(0, 1, height)[None, :, None]
    xs = torch.linspace(0, 1, width)[None, None]
    inside = ((ys - middle[:, 0]).abs() < half[:, 0]) & ((xs - middle[:, 1]).abs() < half[:, 1])
    return torch.where(inside[:, None], torch.rand(count, 3, 1, 1, generator=generator), image)


def map_targets(batch: Batch) -> dict[str, Tensor]:
    """The maps, and the joints' heat maps beside them."""
    side = batch.maps["depth"].shape[-1]
    pixels = project(batch.joints, batch.matrix)
    return {**batch.maps, "joints": heat_maps(pixels, (side, side))}
