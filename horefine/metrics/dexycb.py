"""What the DexYCB toolkit prints: hand joints (HPE), and the truth of its COCO task (boxes, masks, hand keypoints)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from horefine.metrics.alignment import procrustes
from horefine.metrics.coco import coco_scores
from horefine.metrics.hand import auc
from horefine.metrics.rle import area, bounding_box, encode
from horefine.metrics.units import MILLIMETRES

__all__ = ["DEXYCB_CATEGORIES", "dexycb_annotations", "dexycb_coco_scores", "hpe_scores"]

DEXYCB_CATEGORIES = {
    1: "002_master_chef_can", 2: "003_cracker_box", 3: "004_sugar_box", 4: "005_tomato_soup_can",
    5: "006_mustard_bottle", 6: "007_tuna_fish_can", 7: "008_pudding_box", 8: "009_gelatin_box",
    9: "010_potted_meat_can", 10: "011_banana", 11: "019_pitcher_base", 12: "021_bleach_cleanser",
    13: "024_bowl", 14: "025_mug", 15: "035_power_drill", 16: "036_wood_block", 17: "037_scissors",
    18: "040_large_marker", 19: "051_large_clamp", 20: "052_extra_large_clamp", 21: "061_foam_brick", 22: "hand",
}  # fmt: skip
HAND = 22
HAND_LABEL = 255
"""Of the hand in a segmentation; an object's label is its category."""
SIGMA = 0.05
"""Of every hand joint in OKS."""
TASKS = ("bbox", "segm", "keypoints")


def hpe_scores(predicted: Float[Tensor, "N 21 3"], true: Float[Tensor, "N 21 3"]) -> dict[str, float]:
    """Hand pose of DexYCB (Chao et al. 2021), ``_mpjpe`` (mm) and ``_auc`` (to 50 mm) of three alignments.

    ``absolute``, ``root-relative`` and ``procrustes``, which may mirror, as in the official script. A hand that is not
    finite makes the mean NaN and counts as missed in the area. Give every frame whose true hand is annotated; the
    toolkit refuses a missing one.

    Args:
        predicted: metres, camera frame, wrist first.
        true: likewise.

    Raises:
        ValueError: no hands.
    """
    if not len(predicted):
        raise ValueError("hpe_scores: no hands")
    pairs = {
        "absolute": (predicted, true),
        "root-relative": (predicted - predicted[:, :1], true - true[:, :1]),
        "procrustes": (procrustes(predicted, true, reflection=True), true),
    }
    scores = {}
    for name, (ours, theirs) in pairs.items():
        errors = (ours - theirs).norm(dim=-1) * MILLIMETRES
        scores |= {f"{name}_mpjpe": float(errors.mean()), f"{name}_auc": auc(errors)}
    return scores


def dexycb_annotations(
    segmentation: UInt8[np.ndarray, "H W"],
    joints: Float[np.ndarray, "21 2"],
    ycb_ids: Sequence[int],
    image_id: int,
) -> list[dict[str, Any]]:
    """The true COCO annotations of one DexYCB frame, as its toolkit derives them from ``labels_*.npz``.

    Without ``id``, which :func:`horefine.metrics.coco_scores` does not need. What is not in the picture has none.

    Args:
        segmentation: labels 1 to 21 (objects) and 255 (hand).
        joints: pixels; (-1, -1), a joint that is not annotated, becomes (0, 0) unseen, and is counted all the same.
        ycb_ids: of the scene's objects.
        image_id: number of the frame in the split.
    """
    found = []
    for label in (*ycb_ids, HAND_LABEL):
        mask = segmentation == label
        if not mask.any():
            continue
        keypoints, count = [0.0] * 63, 0
        if label == HAND_LABEL:
            rows = [(0.0, 0.0, 0) if x == -1 and y == -1 else (x, y, 2) for x, y in joints.tolist()]
            keypoints, count = [value for row in rows for value in row], len(rows)
        rle = encode(mask)
        found.append(
            {
                "image_id": image_id,
                "category_id": HAND if label == HAND_LABEL else int(label),
                "segmentation": rle,
                "area": area(rle),
                "bbox": bounding_box(rle),
                "iscrowd": 0,
                "keypoints": keypoints,
                "num_keypoints": count,
            }
        )
    return found


def dexycb_coco_scores(
    truth: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]], *, tasks: Sequence[str] = TASKS
) -> dict[str, dict[str, float]]:
    """:func:`horefine.metrics.coco_scores` of each task, as the toolkit prints them (Chao et al. 2021, table 3 and 4).

    Args:
        truth: :func:`dexycb_annotations` of every frame.
        results: the submission's list.
        tasks: any of bbox, segm, keypoints.

    Raises:
        InputError: a result that cannot be scored.
    """
    return {task: coco_scores(truth, results, task, DEXYCB_CATEGORIES, sigmas=[SIGMA] * 21) for task in tasks}
