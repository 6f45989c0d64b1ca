"""C2F-SDF's losses as its authors compute them, training weights included.

Dense joint regression (AWR; Huang et al. 2020) makes every cell of the depth map point at every joint; only training
uses it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from horefine.extractors.c2f_sdf import C2fSdf, Looked, Seen

__all__ = ["C2fHand", "C2fTruth", "awr_decode", "awr_targets", "c2f_losses", "heat_target", "tight_l1"]

KERNEL = 0.8
"""In the cube -1 to 1 of column, row and depth: how far from a joint cells point at it."""
FAR = 0.99
"""Depth, normalised, from which a cell is background."""
SIGMA = 0.6
"""Of the heat map's Gaussians, cells."""

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class C2fTruth:
    """The truth of B crops, network frame."""

    hand_points: Float[Tensor, "B M 3"]
    """Metres."""
    hand_distances: Float[Tensor, "B M"]
    """Normalised."""
    object_points: Float[Tensor, "B N 3"]
    object_distances: Float[Tensor, "B N"]
    joints: Float[Tensor, "B 21 3"]
    """Metres."""
    object_center: Float[Tensor, "B 3"]
    joint_places: Float[Tensor, "B 21 3"]
    """Column, row (-1 to 1 from edge to edge) and depth, normalised as the depth map."""
    heat: Float[Tensor, "B 2 G G G"]
    """:func:`heat_target` of hand and object."""


@dataclass(frozen=True)
class C2fHand:
    """The predicted hands."""

    joints: Float[Tensor, "B 21 3"]
    """About the wrist, network frame, metres."""
    fingers: Float[Tensor, "B 45"]
    """Axis-angles relative to MANO's mean pose."""
    shape: Float[Tensor, "B 10"]


def c2f_losses(
    network: C2fSdf, seen: Seen, depth: Float[Tensor, "B 1 S S"], truth: C2fTruth,
    hand: C2fHand | None = None,
) -> Losses:  # fmt: skip
    """Every loss of the published training whose branch the network has.

    Args:
        depth: ``Cloud.depth``.
        hand: As predicted; None leaves its losses out.
    """
    looked, config, losses = seen.looked, network.config, {}
    for name, which, points, exact in (
        ("hand_sdf", "hand", truth.hand_points, truth.hand_distances),
        ("obj_sdf", "object", truth.object_points, truth.object_distances),
    ):
        exact = exact.clamp(-config.clamp, config.clamp)
        fine, coarse = network.fine(which, seen, points), network.coarse(which, looked, points, seen.place)
        for label, found in ((name, fine), (f"{name}_global", coarse)):
            losses[label] = 0.5 * functional.l1_loss(found.clamp(-config.clamp, config.clamp), exact)
    if hand is not None:
        losses |= {
            "mano_joints": 0.5 * functional.mse_loss(hand.joints + seen.place.wrist[:, None], truth.joints),
            "mano_shape": 5e-7 * hand.shape.square().mean(),
            "mano_pose": 5e-5 * hand.fingers.square().mean(),
        }
    if config.object_center:
        losses["volume_joint"] = 0.5 * functional.mse_loss(network.center(looked, seen.place), truth.object_center)
    if config.heatmap:
        losses["heatmap_ho"] = 0.01 * functional.mse_loss(network.heat(looked), truth.heat)
    return losses | (_joint_losses(network, looked, depth, truth) if config.joints else {})


def _joint_losses(network: C2fSdf, looked: Looked, depth: Tensor, truth: C2fTruth) -> Losses:
    maps = network.joint_maps(looked)
    cells = _cells(depth, maps.shape[-1])
    return {
        "loss_pixel": 1e-3 * tight_l1(maps[:, :84], awr_targets(truth.joint_places, cells)),
        "loss_coord": 0.1 * tight_l1(awr_decode(maps, depth), truth.joint_places),
    }


def tight_l1(found: Tensor, exact: Tensor, bend: float = 0.01) -> Float[Tensor, ""]:
    """Mean of a smooth L1 loss that bends at ``bend`` and has that slope beyond."""
    return bend * functional.smooth_l1_loss(found, exact, beta=bend)


def _cells(depth: Float[Tensor, "B 1 S S"], side: int) -> Float[Tensor, "B 3 F F"]:
    """Column, row and depth of each cell; the depth is its first pixel's."""
    step = depth.shape[-1] // side
    steps = (2 * torch.arange(side, device=depth.device, dtype=depth.dtype) + 1) / side - 1
    ys, xs = torch.meshgrid(steps, steps, indexing="ij")
    shown = depth[:, 0, ::step, ::step]
    return torch.stack([xs.expand_as(shown), ys.expand_as(shown), shown], 1)


def awr_targets(joints: Float[Tensor, "B 21 3"], cells: Float[Tensor, "B 3 F F"]) -> Float[Tensor, "B 84 F F"]:
    """63 coordinates of unit vectors from cells to joints, 21 nearnesses; zeros beyond :data:`KERNEL`, in the back."""
    offset = joints[..., None, None] - cells[:, None]
    distance = (offset.square().sum(2) + 1e-8).sqrt()
    near = (KERNEL - distance) / KERNEL
    valid = (near >= 0) & (cells[:, 2:] < FAR)
    return torch.cat([(offset / distance[:, :, None] * valid[:, :, None]).flatten(1, 2), near * valid], 1)


def awr_decode(maps: Float[Tensor, "B 105 F F"], depth: Float[Tensor, "B 1 S S"]) -> Float[Tensor, "B 21 3"]:
    """Joints (column, row, depth; -1 to 1) as the cells' weighted mean. ``maps``: ``C2fSdf.joint_maps``."""
    cells = _cells(depth, maps.shape[-1])
    unit, near, weight = maps[:, :63].unflatten(1, (21, 3)), maps[:, 63:84], maps[:, 84:]
    share = torch.where(cells[:, 2:] < FAR, weight, -1e8).flatten(2).softmax(-1)
    places = cells[:, None] + unit * (KERNEL * (1 - near))[:, :, None]
    return (share[:, :, None] * places.flatten(3)).sum(-1)


def heat_target(
    vertices: Float[Tensor, "B V 3"], bins: int = 32, sigma: float = SIGMA, most: float = 10.0
) -> Float[Tensor, "B G G G"]:
    """Where a surface's vertices are: a Gaussian about each, summed, cut and scaled to a greatest value of 1.

    As published, a cell stands for its first edge, not for its middle.

    Args:
        vertices: In the cube about the wrist, -1 to 1 (``(X - wrist) * scale``).
        sigma: Cells.
        most: Where the sum is cut: 10 for DexYCB, 5 for ObMan.
    """
    places = (vertices + 1) / 2 * bins
    nodes = torch.arange(bins, device=vertices.device, dtype=vertices.dtype)
    x, y, z = torch.exp(-((nodes - places[..., None]) ** 2) / (2 * sigma**2)).unbind(2)
    heat = torch.einsum("bvx,bvy,bvz->bxyz", x, y, z).clamp(max=most)
    return heat / heat.amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
