"""Validation numbers of the learned parts, each with its unit in its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.extractors.batches import Batch
from horefine.extractors.detector import generalised_iou
from horefine.extractors.shard_batches import Scenes
from horefine.geometry import axis_angle_to_matrix, project
from horefine.scene import PoseSpread

if TYPE_CHECKING:
    from horefine.extractors.field_losses import Places
    from horefine.extractors.hoisdf_task import Truth
    from horefine.extractors.initial import Found

__all__ = [
    "box_errors", "calibration", "dense_matches", "errors_of", "field_errors", "joint_errors", "map_errors", "mean_of",
    "pose_errors",
]  # fmt: skip


def mean_of(results: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """Means of batches, weighted by their sizes."""
    total = sum(count for count, _ in results)
    return {name: sum(count * values[name] for count, values in results) / total for name in results[0][1]}


def map_errors(maps: Mapping[str, Tensor], batch: Batch) -> dict[str, float]:
    """Overlap, share of dense matches within 3 pixels, and depth error of the predicted maps.

    Where the network says how far off it may be, also how true that is (:func:`calibration`), and the median of it
    (codes, metres; ``maps.GOOD`` is that of the shipped network).
    """
    result: dict[str, float] = {}
    for which, channel in (("hand", 1), ("object", 2)):
        found, true = maps["segmentation"][:, channel], batch.maps[f"{which}_mask"]
        both, either = (found > 0.5) & (true > 0.5), (found > 0.5) | (true > 0.5)
        result[f"{which}_iou"] = (both.sum((1, 2)) / either.sum((1, 2)).clamp(min=1)).mean().item()
        codes = maps[f"{which}_coords"]
        result[f"{which}_match_3px"] = dense_matches(codes, found, batch.maps[f"{which}_coords"], true)
        seen = true > 0.6
        error = (codes - batch.maps[f"{which}_coords"]).norm(dim=1)
        result[f"{which}_code_error"] = error[seen].median().item()
    seen = batch.maps["hand_mask"] + batch.maps["object_mask"] > 0.6
    error = (maps["depth"][:, 0] - batch.maps["depth"]).abs()[seen] * 1e3
    result["depth_mean_mm"], result["depth_median_mm"] = error.mean().item(), error.median().item()
    return result | _spread_errors(maps, batch)


def _spread_errors(maps: Mapping[str, Tensor], batch: Batch) -> dict[str, float]:
    hand, thing = batch.maps["hand_mask"], batch.maps["object_mask"]
    seen = {"hand_coords": hand > 0.6, "object_coords": thing > 0.6, "depth": hand + thing > 0.6}
    result: dict[str, float] = {}
    for name, mask in seen.items():
        if f"{name}_spread" in maps:
            true = batch.maps[name] if batch.maps[name].dim() == 4 else batch.maps[name][:, None]
            error = (maps[name] - true).abs().mean(1)[mask]
            expected = maps[f"{name}_spread"][:, 0][mask]
            found = {"median": expected.median().item(), **calibration(expected, error)}
            result |= {f"{name.removesuffix('_coords')}_spread_{key}": value for key, value in found.items()}
    return result


def calibration(expected: Float[Tensor, "N"], error: Float[Tensor, "N"]) -> dict[str, float]:
    """How true expected errors are, over N observations.

    Returns:
        ``ratio``: mean error over mean expected error, 1 when true on the whole. ``rank``: Spearman's rank correlation,
        1 when they tell the bad from the good, 0 when all are the same. ``worst_decile``: the ratio among the tenth
        with the largest expected errors. ``sure_half``: mean error of the half with the smallest ones, over the mean of
        all. NaN without observations.
    """
    if len(error) < 2:
        return dict.fromkeys(("ratio", "rank", "worst_decile", "sure_half"), float("nan"))
    order, told = expected.argsort(), bool(expected.max() > expected.min())
    ranks = torch.stack([value.argsort().argsort().double() for value in (expected, error)])
    worst, sure = order[-max(1, len(order) // 10) :], order[: max(1, len(order) // 2)]
    return {
        "ratio": (error.mean() / expected.mean()).item(),
        "rank": torch.corrcoef(ranks)[0, 1].item() if told else 0.0,
        "worst_decile": (error[worst].mean() / expected[worst].mean()).item(),
        "sure_half": (error[sure].mean() / error.mean()).item(),
    }


def dense_matches(codes: Tensor, mask: Tensor, true_codes: Tensor, true_mask: Tensor, pixels: float = 3.0) -> float:
    """Share of visible surface points that the predicted map puts within ``pixels`` of where they are.

    A true pixel stands for the surface point that it shows; its match is the pixel inside the predicted mask whose
    predicted code is nearest (Song et al. 2022, eq. 4).
    """
    side = codes.shape[-1]
    places = (
        torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1).flatten(0, 1).float()
    )
    shares = []
    for code, inside, true_code, true_inside in zip(codes, mask, true_codes, true_mask, strict=True):
        candidates, wanted = (inside > 0.5).flatten().nonzero()[:, 0], (true_inside > 0.6).flatten().nonzero()[:, 0]
        if not len(wanted):
            continue
        if not len(candidates):
            shares.append(torch.tensor(0.0))
            continue
        apart = torch.cdist(true_code.flatten(1).T[wanted], code.flatten(1).T[candidates])
        matched = candidates[apart.argmin(1)]
        shares.append(((places[matched] - places[wanted]).norm(dim=-1) <= pixels).float().mean())
    return torch.stack(shares).mean().item() if shares else 0.0


def pose_errors(found: Found, batch: Batch, scenes: Scenes) -> dict[str, float]:
    """Hand joints (root-aligned, Procrustes-aligned, voted), vertices, wrist, object centre, rotation and ADD-S."""
    hand = scenes.hand
    centers = scenes.objects.centers[batch.object]
    pose = found.pose(hand, centers)
    predicted = hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl)
    true = hand(batch.pose.hand_rotvec, batch.pose.hand_shape, batch.pose.hand_transl)
    surface = scenes.objects.surface[batch.object]
    placed = surface @ found.object_rotation.mT + pose.object_transl[:, None]
    rotation = axis_angle_to_matrix(batch.pose.object_rotvec)
    true_placed = surface @ rotation.mT + batch.pose.object_transl[:, None]
    cosine = ((found.object_rotation * rotation).sum((1, 2)) - 1) / 2
    relative, true_relative = predicted.joints - predicted.joints[:, :1], true.joints - true.joints[:, :1]
    voted = found.voted_joints - found.wrist[:, None]
    together = placed - predicted.joints[:, :1], true_placed - true.joints[:, :1]

    def mm(difference: Tensor) -> float:
        return difference.norm(dim=-1).mean().item() * 1e3

    return {
        "hand_mje_mm": mm(relative - true_relative),
        "hand_pa_mje_mm": mm(procrustes(predicted.joints, true.joints) - true.joints),
        "voted_mje_mm": mm(voted - true_relative[:, 1:]),
        "hand_he_mm": mm(predicted.vertices - true.vertices),
        "wrist_mm": mm(predicted.joints[:, 0] - true.joints[:, 0]),
        "wrist_depth_mm": (predicted.joints[:, 0, 2] - true.joints[:, 0, 2]).abs().mean().item() * 1e3,
        "wrist_pixels": _pixels(predicted.joints[:, 0], true.joints[:, 0], batch),
        "object_oce_mm": mm(found.object_center - batch.object_center),
        "object_oce_from_wrist_mm": mm(
            found.object_center - predicted.joints[:, 0] - batch.object_center + true.joints[:, 0]
        ),
        "object_oe_mm": mm(placed - true_placed),
        "object_oe_from_wrist_mm": mm(together[0] - together[1]),
        "object_add_s_mm": torch.cdist(true_placed, placed).amin(-1).mean().item() * 1e3,
        "object_rotation_mean_deg": cosine.clamp(-1, 1).acos().rad2deg().mean().item(),
        "object_rotation_median_deg": cosine.clamp(-1, 1).acos().rad2deg().median().item(),
    } | _pose_spread_errors(found, batch)


def joint_errors(joints: Float[Tensor, "B 21 3"], center: Float[Tensor, "B 3"], true: Truth) -> dict[str, float]:
    """Joints (root-aligned, Procrustes-aligned), wrist and object centre of a network that says places alone."""
    own, exact = joints - joints[:, :1], true.own_joints

    def mm(difference: Tensor) -> float:
        return difference.norm(dim=-1).mean().item() * 1e3

    return {
        "hand_mje_mm": mm(own - exact),
        "hand_pa_mje_mm": mm(procrustes(own, exact) - exact),
        "wrist_mm": mm(joints[:, 0] - true.wrist),
        "object_oce_mm": mm(center - true.object_center),
        "object_oce_from_wrist_mm": mm(center - joints[:, 0] - true.object_center + true.wrist),
    }


def field_errors(
    ask: Callable[[str, Tensor], Float[Tensor, "B N"]], places: Places, moved: Float[Tensor, "B 3"],
    object_moved: Float[Tensor, "B 3"], near: float = 0.02,
) -> dict[str, float]:  # fmt: skip
    """Mean error of the predicted fields within ``near`` metres of the true surfaces, and the share of right signs.

    The field of the hand is asked where the network takes it to be (``moved``), that of the object likewise: errors of
    shape, not of place.
    """
    result = {}
    for which, shift in (("hand", moved), ("object", object_moved)):
        exact = getattr(places, f"{which}_distance")
        found, close = ask(which, getattr(places, which) + shift[:, None]), exact.abs() < near
        result[f"{which}_field_mm"] = (found.clamp(-0.05, 0.05) - exact)[close].abs().mean().item() * 1e3
        result[f"{which}_field_sign"] = (found.sign() == exact.sign())[close].float().mean().item()
    return result


def _pose_spread_errors(found: Found, batch: Batch) -> dict[str, float]:
    """Ratio and rank of :func:`calibration` for each of the pose's spreads."""
    if found.spread is None:
        return {}
    errors = errors_of(found, batch)
    result: dict[str, float] = {"hand_rotation_mean_deg": errors.hand_rotation.rad2deg().mean().item()}
    for field in dataclasses.fields(PoseSpread):
        true = calibration(getattr(found.spread, field.name), getattr(errors, field.name))
        result |= {f"{field.name}_spread_{key}": true[key] for key in ("ratio", "rank")}
    return result


def errors_of(found: Found, batch: Batch) -> PoseSpread:
    """The errors that the spread of a pose is an expectation of."""
    off = found.wrist - batch.joints[:, 0]
    ray = torch.nn.functional.normalize(batch.joints[:, 0], dim=-1)
    along = (off * ray).sum(-1)
    return PoseSpread(
        _angle(axis_angle_to_matrix(found.hand_rotvec[:, 0]), axis_angle_to_matrix(batch.pose.hand_rotvec[:, 0])),
        along.abs(),
        (off - along[:, None] * ray).norm(dim=-1),
        _angle(found.object_rotation, axis_angle_to_matrix(batch.pose.object_rotvec)),
        (found.object_center - batch.object_center).norm(dim=-1),
    )


def _angle(one: Float[Tensor, "B 3 3"], other: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B"]:
    return (((one * other).sum((1, 2)) - 1) / 2).clamp(-1, 1).acos()


def _pixels(found: Tensor, true: Tensor, batch: Batch) -> float:
    difference = project(found[:, None], batch.matrix) - project(true[:, None], batch.matrix)
    return difference.norm(dim=-1).mean().item()


def procrustes(points: Float[Tensor, "B N 3"], target: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
    """``points`` after the similarity that brings them nearest to ``target`` (Umeyama 1991)."""
    a, b = points - points.mean(1, keepdim=True), target - target.mean(1, keepdim=True)
    u, s, vt = torch.linalg.svd(b.mT @ a)
    sign = torch.linalg.det(u @ vt).sign()
    s = torch.cat([s[:, :2], s[:, 2:] * sign[:, None]], 1)
    u = torch.cat([u[..., :2], u[..., 2:] * sign[:, None, None]], -1)
    scale = s.sum(1) / a.square().sum((1, 2))
    return scale[:, None, None] * (a @ (u @ vt).mT) + target.mean(1, keepdim=True)


def box_errors(found: Float[Tensor, "B 2 4"], true: Float[Tensor, "B 2 4"]) -> dict[str, float]:
    """Overlap of the boxes, and of the square crops that they make."""
    low, high = torch.minimum(found[:, 0], found[:, 1])[:, :2], torch.maximum(found[:, 0], found[:, 1])[:, 2:]
    true_low, true_high = torch.minimum(true[:, 0], true[:, 1])[:, :2], torch.maximum(true[:, 0], true[:, 1])[:, 2:]
    overlap = generalised_iou(found, true).mean(0)
    hull = generalised_iou(torch.cat([low, high], -1), torch.cat([true_low, true_high], -1))
    return {
        "hand_box_giou": overlap[0].item(),
        "object_box_giou": overlap[1].item(),
        "hull_giou": hull.mean().item(),
        "hull_giou_worst_20th": hull.quantile(0.05).item(),
    }
