"""HOISDF's losses as its authors compute them, for comparison with their numbers (ours: ``hoisdf_task``).

``official_losses`` gives them before the training weights (:data:`WEIGHTS`); those of the hand layer have their factors
inside, as in the published code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from horefine.extractors.hoisdf import Prediction, Seen
from horefine.extractors.hoisdf_official import Given, OfficialHoisdf
from horefine.extractors.joints import heat_maps
from horefine.extractors.mano_layer import ManoLayer
from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle

__all__ = ["WEIGHTS", "OfficialTruth", "hand_layer_losses", "object_losses", "official_losses", "vote_losses"]

WEIGHTS: Mapping[str, float] = {
    "sdfhand_loss": 50.0, "sdfobj_loss": 25.0, "joint_heatmap": 1e-3, "hand_seg": 1.0, "obj_seg": 1.0,
    "loss_joint_3d": 0.1, "loss_joint_cls": 1.0, "loss_all_joint_3d": 0.1, "obj_rot": 0.7, "obj_trans": 100.0,
}  # fmt: skip
"""Weights in training; others 1."""

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class OfficialTruth:
    """The truth of B crops, in the units of the published data."""

    hand_points: Float[Tensor, "B M 3"]
    """Normalised: about the wrist, times the network's scale."""
    hand_distances: Float[Tensor, "B M"]
    object_points: Float[Tensor, "B N 3"]
    """Normalised, about the object's reference point."""
    object_distances: Float[Tensor, "B N"]
    joints: Float[Tensor, "B 21 3"]
    """Millimetres from the wrist."""
    joint_pixels: Float[Tensor, "B 21 2"]
    """In the 128x128 map."""
    object_rotvec: Float[Tensor, "B 3"]
    object_transl: Float[Tensor, "B 3"]
    """Metres from the object's reference point."""
    hand: Float[Tensor, "B 58"]
    """48 axis-angles relative to the flat hand, 10 shape values."""
    hand_mask: Float[Tensor, "B 128 128"]
    object_mask: Float[Tensor, "B 128 128"]


def official_losses(
    network: OfficialHoisdf, seen: Seen, given: Given, prediction: Prediction, tokens: Float[Tensor, "B N 3"],
    objects: tuple[Float[Tensor, "K B M 3"], Float[Tensor, "K B M 3"]], truth: OfficialTruth, layer: ManoLayer | None,
) -> Losses:  # fmt: skip
    """Every loss of the published training.

    Args:
        tokens: Points that voted, camera frame, metres.
        objects: What the heads say for each of the object's points: axis-angles and translations.
        layer: None leaves the hand's out.
    """
    losses = _field_losses(network, seen, given, truth) | _map_losses(network, seen, truth)
    losses |= vote_losses(
        tokens - given.wrist[:, None], prediction.votes, prediction.vote_logits, prediction.joints, truth.joints[:, 1:]
    )
    losses |= object_losses(*objects, truth)
    if layer is not None:
        losses |= hand_layer_losses(prediction, truth, layer)
    return losses


def _field_losses(network: OfficialHoisdf, seen: Seen, given: Given, truth: OfficialTruth) -> Losses:
    clamp, losses = network.config.clamp, {}
    for name, which, points, exact in (
        ("sdfhand_loss", "hand", truth.hand_points, truth.hand_distances),
        ("sdfobj_loss", "object", truth.object_points, truth.object_distances),
    ):
        center = given.center(which)
        place = points / network.config.scale + center[:, None]
        found = network.field(which, seen, place, center, given.matrix).distance
        losses[name] = functional.l1_loss(found.clamp(-clamp, clamp), exact.clamp(-clamp, clamp))
    return losses


def _map_losses(network: OfficialHoisdf, seen: Seen, truth: OfficialTruth) -> Losses:
    raw = seen.raw
    height, width = raw["hm"].shape[-2:]
    heat = network.config.heat_peak * heat_maps(truth.joint_pixels, (height, width), 1.25).sum(1, keepdim=True)
    bce = functional.binary_cross_entropy
    return {
        "joint_heatmap": functional.mse_loss(raw["hm"], heat),
        "hand_seg": bce(raw["hand_seg"].sigmoid()[:, 0], truth.hand_mask),
        "obj_seg": bce(raw["obj_seg"].sigmoid()[:, 0], truth.object_mask),
    }


def vote_losses(
    points: Float[Tensor, "B N 3"], votes: Float[Tensor, "L B N 20 3"], logits: Float[Tensor, "L B N 20"],
    joints: Float[Tensor, "L B 20 3"], true: Float[Tensor, "B 20 3"], near: float = 0.04,
) -> Losses:  # fmt: skip
    """Votes of points within ``near`` of a joint, which points those are, and the joints voted for.

    ``points`` and predictions in metres from the wrist, ``true`` in millimetres from it.
    """
    close = (points[:, :, None] - true[:, None] / 1000).norm(dim=-1) < near
    target, close = true[:, None].expand_as(votes), close.expand_as(logits).to(votes.dtype)
    each = functional.smooth_l1_loss(votes * 1000, target, reduction="none")
    return {
        "loss_joint_3d": (each * close[..., None]).sum() / close.sum() / 3,
        "loss_joint_cls": functional.binary_cross_entropy_with_logits(logits, close),
        "loss_all_joint_3d": functional.smooth_l1_loss(joints * 1000, true.expand_as(joints)),
    }


def object_losses(rotvecs: Float[Tensor, "K B M 3"], places: Float[Tensor, "K B M 3"], truth: OfficialTruth) -> Losses:
    """Axis-angle and translation (metres) of every point and layer, each against the truth (not their mean)."""
    rotvec, transl = truth.object_rotvec[:, None], truth.object_transl[:, None]
    return {
        "obj_rot": functional.smooth_l1_loss(rotvecs, rotvec.expand_as(rotvecs)),
        "obj_trans": functional.smooth_l1_loss(places, transl.expand_as(places)),
    }


def hand_layer_losses(prediction: Prediction, truth: OfficialTruth, layer: ManoLayer) -> Losses:
    """Vertices, joints, rotations and shape of every layer, with the published factors."""
    pose, shape = truth.hand[:, :48], truth.hand[:, 48:]
    vertices, joints = layer(pose, shape)
    rotations = axis_angle_to_matrix(pose.unflatten(-1, (16, 3)))
    count = prediction.rotations.shape[:2]
    rotvec = matrix_to_axis_angle(prediction.rotations).flatten(2)
    found, found_joints = layer(rotvec.flatten(0, 1), prediction.shape.flatten(0, 1))

    def error(value: Tensor, true: Tensor) -> Tensor:
        return functional.mse_loss(value, true.expand_as(value))

    return {
        "mano_mesh_loss": 1e4 * error(found.unflatten(0, count), vertices),
        "mano_joint_loss": 1e4 * error(found_joints.unflatten(0, count), joints),
        "pose_param_loss": 10 * error(prediction.rotations, rotations),
        "shape_param_loss": 0.1 * error(prediction.shape, shape),
    }
