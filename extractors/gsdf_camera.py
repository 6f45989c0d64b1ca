"""Where gSDF's numbers live: crops, the virtual camera that looks at a crop's middle, the wrist from the hand itself.

The published network is told the true wrist. ``core50`` is its code's way without: heat maps tell depths from an
unknown wrist, and the length of one bone of the thumb fixes how far away that is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.anatomy import FINGERS, JOINTS

__all__ = ["BONES", "LENGTHENED", "NORMS", "VirtualCamera", "core50", "square_box", "virtual_camera"]

NORMS = {"obman": 0.02505871, "dexycb": 0.02788814}
"""Metres from the thumb's second joint to its third, mean of each dataset."""
BONES = [
    (JOINTS.index(f"{finger}{i - 1}") if i > 1 else 0, JOINTS.index(f"{finger}{i}"))
    for finger in FINGERS
    for i in (1, 2, 3, 4)
]
"""The 20 bones: parent and child in the house order of joints."""
LENGTHENED = ("same", "length", "scale")
"""Ways to choose a virtual camera's focal length."""


@dataclass(frozen=True)
class VirtualCamera:
    """Cameras at the true cameras' places that look at the middles of B crops."""

    rotation: Float[Tensor, "B 3 3"]
    """True camera from virtual camera."""
    matrix: Float[Tensor, "B 3 3"]
    """Intrinsics, pixels of the crop."""

    def to_camera(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
        """Points of the virtual cameras' frames in the true ones'."""
        return points @ self.rotation.mT

    def from_camera(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
        """And back."""
        return points @ self.rotation


def virtual_camera(matrix: Float[Tensor, "B 3 3"], middle: Float[Tensor, "2"], focal: str = "same") -> VirtualCamera:
    """The camera that a crop is said to be taken by ("perspective crop layers", Yu et al. 2021).

    The picture is not warped: the crop's own pixels are taken for that camera's, which is nearly true.

    Args:
        matrix: Intrinsics of the crop, pixels.
        middle: Of the crop, pixels; becomes the principal point.
        focal: ``same`` (all that is published), ``length``: times the length of the middle's ray at depth 1, ``scale``:
            as the pinhole stretches there.

    Raises:
        ValueError: another ``focal``.
    """
    if focal not in LENGTHENED:
        raise ValueError(f"focal is {focal!r}; known: {', '.join(LENGTHENED)}")
    lengths = torch.stack([matrix[:, 0, 0], matrix[:, 1, 1]], -1)
    x, y = ((middle - matrix[:, :2, 2]) / lengths).unbind(-1)
    flat, length = (1 + x * x).sqrt(), (1 + x * x + y * y).sqrt()
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    about_y = torch.stack([one / flat, zero, x / flat, zero, one, zero, -x / flat, zero, one / flat], -1)
    cosine, sine = flat / length, -y / length
    about_x = torch.stack([one, zero, zero, zero, cosine, -sine, zero, sine, cosine], -1)
    rotation = about_y.unflatten(-1, (3, 3)) @ about_x.unflatten(-1, (3, 3))
    if focal != "same":
        lengths = lengths * length[:, None]
    if focal == "scale":
        lengths = lengths * torch.stack([flat, length / flat], -1)
    found = torch.diag_embed(torch.cat([lengths, one[:, None]], -1))
    found[:, :2, 2] = middle
    return VirtualCamera(rotation, found)


def square_box(box: Float[Tensor, "4"], factor: float = 1.25) -> tuple[Float[Tensor, "2"], Float[Tensor, ""]]:
    """(middle, side) of the published crop about a box of left, top, width, height: for ``official_crop.crop_affine``.

    For DexYCB the box is that of the hand's joints and the object's corners, 10 pixels larger on every side.
    """
    return box[:2] + box[2:] / 2, box[2:].amax() * factor


def core50(
    places: Float[Tensor, "B 21 3"], projection: Float[Tensor, "B 3 3"], norm: float,
    bones: Float[Tensor, "20"] | None = None,
) -> Float[Tensor, "B 21 3"]:  # fmt: skip
    """Joints without the wrist's depth (scale-normalised 2.5D: Iqbal et al. 2018), metres.

    The heat maps must come from a network trained so (``norm_coords``); others tell depths of another size. Where no
    depth makes the bone as long as it should be (its depths alone are longer), the nearest one is taken.

    Args:
        places: Crop coordinates and depth behind the wrist (``gsdf.Seen.places``).
        projection: ``gsdf.projection_of``.
        norm: Metres from the thumb's second joint to its third: one of :data:`NORMS`.
        bones: Mean lengths of :data:`BONES`; the hand is scaled about the camera to fit them. Image by image: the
            published code takes them together.
    """
    rays = torch.cat([places[..., :2], torch.ones_like(places[..., :1])], -1) @ torch.linalg.inv(projection).mT
    rays, depth = rays[..., :2] / rays[..., 2:], places[..., 2]
    first, second = JOINTS.index("thumb3"), JOINTS.index("thumb2")
    apart = rays[:, first] - rays[:, second]
    offset = rays[:, first] * depth[:, first, None] - rays[:, second] * depth[:, second, None]
    a, b = apart.square().sum(-1), 2 * (apart * offset).sum(-1)
    c = offset.square().sum(-1) + (depth[:, first] - depth[:, second]).square() - norm**2
    wrist = 0.5 * (-b + (b * b - 4 * a * c).clamp(min=0).sqrt()) / (a + 1e-7)
    depth = depth + wrist[:, None]
    joints = torch.cat([rays * depth[..., None], depth[..., None]], -1)
    if bones is None:
        return joints
    ends = torch.tensor(BONES, device=joints.device)
    lengths = (joints[:, ends[:, 1]] - joints[:, ends[:, 0]]).norm(dim=-1)
    factor = (lengths * bones).sum(-1) / lengths.square().sum(-1).clamp(min=1e-12)
    return joints * factor[:, None, None]
