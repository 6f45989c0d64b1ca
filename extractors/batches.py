"""Training batches: crops with exact maps and poses, and the changes of view and colour that multiply them.

A turn of the picture about its crop's centre is the same as turning the scene about the optical axis and moving the
principal point, so pictures, maps, camera and poses change together and stay exact (square pixels assumed). Colours
are changed by kornia. Random numbers come from a generator on the CPU, whatever device the pictures are on: a run is
the same run on any device.
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

__all__ = ["Augmentation", "Batch", "View", "augment_color", "augment_view", "change_view", "draw_view", "map_targets"]

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
    sensed: Float[Tensor, "B M M"] | None = None
    """What a depth camera saw where the maps are, metres along z; 0 where nothing is known. None: there was none."""

    def __len__(self) -> int:
        return len(self.image)

    def to(self, device: str) -> Batch:
        """Everything on another device."""
        moved = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        maps = {name: value.to(device) for name, value in moved.pop("maps").items()}
        rest = {name: None if value is None else value.to(device) for name, value in moved.items()}
        return Batch(maps=maps, **rest)  # type: ignore[arg-type]


@dataclass(frozen=True)
class View:
    """How the camera of each crop is changed: the picture is turned, scaled and then shifted."""

    angle: Float[Tensor, "B"]
    """Radians, clockwise in the picture."""
    scale: Float[Tensor, "B"]
    shift: Float[Tensor, "B 2"]
    """In half crops."""


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
    """:func:`change_view` by a random :class:`View`."""
    return change_view(batch, draw_view(options, len(batch), generator), rest_wrist)


def draw_view(options: Augmentation, count: int, generator: torch.Generator) -> View:
    """``count`` random views, on the CPU."""
    limit = 1.5 * options.rotation
    angle = (torch.randn(count, generator=generator) * options.rotation).clamp(-limit, limit)
    scale = (torch.randn(count, generator=generator) * options.scale).clamp(-0.25, 0.25).exp()
    return View(angle, scale, torch.randn(count, 2, generator=generator) * (2 * options.shift))


def change_view(batch: Batch, view: View, rest_wrist: Float[Tensor, "B 3"]) -> Batch:
    """Turns, scales and shifts the crops; camera, poses and maps follow.

    ``rest_wrist``: the wrist joint of the untranslated hand (``HandModel.rest_joints(shape)[:, 0]``), about which
    MANO's global rotation turns.
    """
    angle, scale, shift = (value.to(batch.image) for value in (view.angle, view.scale, view.shift))
    turn = axis_angle_to_matrix(torch.stack([torch.zeros_like(angle), torch.zeros_like(angle), angle], -1))
    image, maps, sensed = _warp(batch, turn[:, :2, :2], scale, shift)
    pose, wrist = batch.pose, rest_wrist + batch.pose.hand_transl
    rotvec = torch.cat([_turned(turn, pose.hand_rotvec[:, 0])[:, None], pose.hand_rotvec[:, 1:]], 1)
    return dataclasses.replace(
        batch,
        image=image,
        maps=maps,
        sensed=sensed,
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


def _warp(batch: Batch, turn: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
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
    # depths along the optical axis, about which the scene turns: they stay
    sensed = None if batch.sensed is None else sample(batch.sensed[:, None], "nearest")[:, 0]
    return image, {**moved, "hand_coords": crisp[:, :3], "object_coords": crisp[:, 3:6]}, sensed


def augment_color(image: Float[Tensor, "B 3 S S"], options: Augmentation, generator: torch.Generator) -> Tensor:
    """Saturation, contrast, brightness, tint, blur (kornia's), painted rectangles and noise, each image its own."""
    # kornia takes a second to import, and only training wants it
    from kornia.enhance import (
        adjust_brightness_accumulative,
        adjust_contrast_with_mean_subtraction,
        adjust_saturation_with_gray_subtraction,
    )

    count = len(image)

    def spread(amount: float, channels: int = 1) -> Tensor:
        return 1 + amount * (2 * _uniform(generator, image, count, channels) - 1)

    image = adjust_saturation_with_gray_subtraction(image, spread(options.saturation)[:, 0])
    image = adjust_contrast_with_mean_subtraction(image, spread(options.contrast)[:, 0])
    image = adjust_brightness_accumulative(image, spread(options.brightness)[:, 0], clip_output=False)
    image = image * spread(options.tint, 3)[..., None, None]
    image = _blur(image, options.blur, generator)
    image = _erase(image, options.erase, generator)
    level = _uniform(generator, image, count, 1, 1, 1) * options.noise
    return (image + torch.randn(image.shape, generator=generator).to(image) * level).clamp(0, 1)


def _uniform(generator: torch.Generator, like: Tensor, *shape: int) -> Tensor:
    """Random numbers from 0 to 1 of the generator, where ``like`` is."""
    return torch.rand(*shape, generator=generator).to(like)


def _blur(image: Tensor, share: float, generator: torch.Generator) -> Tensor:
    from kornia.filters import gaussian_blur2d

    sigma = 0.5 + _uniform(generator, image, len(image), 1).expand(-1, 2)
    chosen = torch.rand(len(image), generator=generator) < share
    if not chosen.any():
        return image
    chosen = chosen.nonzero()[:, 0].to(image.device)
    return image.index_copy(0, chosen, gaussian_blur2d(image[chosen], (3, 3), sigma[chosen]))


def _erase(image: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Rectangles of one colour. Not kornia's RandomErasing: that takes three times as long, and no generator."""
    count, _, height, width = image.shape
    middle = _uniform(generator, image, count, 2, 1, 1)
    half = 0.04 + 0.11 * _uniform(generator, image, count, 2, 1, 1)
    half = half * (_uniform(generator, image, count, 1, 1, 1) < share)
    ys = torch.linspace(0, 1, height).to(image)[None, :, None]
    xs = torch.linspace(0, 1, width).to(image)[None, None]
    inside = ((ys - middle[:, 0]).abs() < half[:, 0]) & ((xs - middle[:, 1]).abs() < half[:, 1])
    return torch.where(inside[:, None], _uniform(generator, image, count, 3, 1, 1), image)


def map_targets(batch: Batch) -> dict[str, Tensor]:
    """The maps, and the joints' heat maps beside them."""
    side = batch.maps["depth"].shape[-1]
    pixels = project(batch.joints, batch.matrix)
    return {**batch.maps, "joints": heat_maps(pixels, (side, side))}
