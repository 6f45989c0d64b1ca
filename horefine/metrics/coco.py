"""COCO's average precision of boxes, masks and keypoints (Lin et al. 2014; cocodataset.org/#detection-eval).

Detections of one category are matched to the truth image by image, the surest first, at ten thresholds of overlap; then
the precision over all images is read at 101 recalls. Written from the definition; equal to pycocotools.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from horefine.errors import InputError
from horefine.metrics import rle

__all__ = ["coco_scores"]

OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
SIZES = {"all": (0.0, 1e10), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}
"""Areas in pixels, both ends included."""
MOST = {"bbox": 100, "segm": 100, "keypoints": 20}
"""Detections of one category in one image that count, by task."""
Annotation = Mapping[str, Any]


def coco_scores(
    truth: Sequence[Annotation],
    results: Sequence[Annotation],
    task: str,
    categories: Mapping[int, str],
    *,
    sigmas: Sequence[float] = (),
) -> dict[str, float]:
    """Average precision of one task over all images. Percent; NaN where there is no truth.

    ``AP`` (mean over overlaps 0.5 to 0.95), ``AP50``, ``AP75``; by size ``APs`` (not of keypoints), ``APm``, ``APl``;
    and of each category ``AP-name``.

    Args:
        truth: annotations as in COCO's files (``image_id``, ``category_id``, ``bbox``, ``area``, ``segmentation`` as
            runs, ``iscrowd``, ``keypoints``, ``num_keypoints``).
        results: detections (``image_id``, ``category_id``, ``score`` and what the task needs), of these images.
        task: bbox, segm or keypoints (by object keypoint similarity).
        categories: number -> name, in the order of the answer.
        sigmas: of each keypoint, for keypoints.

    Raises:
        ValueError: an unknown task; keypoints without sigmas.
        InputError: a detection lacks what the task needs, names an unknown category, or is not finite.
    """
    if task not in MOST:
        raise ValueError(f"task: {task!r} is none of {', '.join(MOST)}")
    if task == "keypoints" and not sigmas:
        raise ValueError("sigmas: keypoints need one for each of them")
    real, detected = _grouped(truth), _grouped(_checked(results, task, categories))
    images = sorted({int(a["image_id"]) for a in (*truth, *results)})
    pairs = {
        key: _Pair.of(real.get(key, []), detected.get(key, []), task, np.asarray(sigmas, np.float64))
        for key in ((image, category) for category in categories for image in images)
        if key in real or key in detected
    }
    curves = {}
    for size, bounds in SIZES.items():
        if size == "s" and task == "keypoints":
            continue
        matched = {key: pair.matched(bounds) for key, pair in pairs.items()}
        rows = {c: [matched[image, c] for image in images if (image, c) in matched] for c in sorted(categories)}
        curves[size] = {category: _precision(found) for category, found in rows.items()}
    whole = curves["all"]
    scores = {"AP": _mean(whole.values()), "AP50": _mean(c[:1] for c in whole.values())}
    scores["AP75"] = _mean(c[5:6] for c in whole.values())
    scores |= {f"AP{size}": _mean(curve.values()) for size, curve in curves.items() if size != "all"}
    return {**scores, **{f"AP-{name}": _mean([whole[number]]) for number, name in categories.items()}}


@dataclass(frozen=True)
class _Pair:
    """Truth and detections of one category in one image."""

    overlaps: np.ndarray
    """Detections x truths."""
    scores: np.ndarray
    """Of the detections, falling."""
    areas: np.ndarray
    """Of the detections, square pixels."""
    true_areas: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray
    """Truths that are no target: crowds, and hands without keypoints when keypoints are asked for."""

    @staticmethod
    def of(truth: list[Annotation], results: list[Annotation], task: str, sigmas: np.ndarray) -> _Pair:
        order = np.argsort([-float(r["score"]) for r in results], kind="stable")[: MOST[task]]
        results = [results[k] for k in order]
        crowd = np.asarray([bool(t.get("iscrowd", 0)) for t in truth], bool)
        ignored = crowd.copy()
        if task == "keypoints":
            ignored |= np.asarray([t["num_keypoints"] == 0 for t in truth], bool)
        measure = {"bbox": _box_overlaps, "segm": _mask_overlaps}.get(task)
        overlaps = measure(results, truth, crowd) if measure else _similarities(results, truth, sigmas)
        return _Pair(
            overlaps,
            np.asarray([float(r["score"]) for r in results]),
            np.asarray([_area(r, task) for r in results]),
            np.asarray([float(t["area"]) for t in truth]),
            crowd,
            ignored,
        )

    def matched(self, bounds: tuple[float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Scores, hits "10 D" and what is left out "10 D" of the detections; how many truths there are to find.

        A truth outside the bounds is no target; a detection that is matched to one, or unmatched and itself outside,
        counts neither way.
        """
        low, high = bounds
        aside = self.ignored | (self.true_areas < low) | (self.true_areas > high)
        order = np.argsort(aside, kind="stable")  # targets are taken first
        hit = np.zeros((len(OVERLAPS), len(self.scores)), bool)
        left_out = np.zeros_like(hit)
        for t, threshold in enumerate(OVERLAPS):
            taken = np.zeros(len(aside), bool)
            for d in range(len(self.scores)):
                best = self._best(d, order, aside, taken, threshold)
                if best >= 0:
                    hit[t, d], left_out[t, d], taken[best] = True, aside[best], True
        outside = (self.areas < low) | (self.areas > high)
        return self.scores, hit, left_out | (~hit & outside), int((~aside).sum())

    def _best(self, d: int, order: np.ndarray, aside: np.ndarray, taken: np.ndarray, threshold: float) -> int:
        """The truth that detection ``d`` is matched to, or -1: the best target left, else the best of the others."""
        best, overlap = -1, threshold
        for g in order:
            if taken[g] and not self.crowd[g]:
                continue
            if best >= 0 and not aside[best] and aside[g]:
                break
            if self.overlaps[d, g] >= overlap:
                best, overlap = int(g), self.overlaps[d, g]
        return best


def _precision(rows: list[tuple[np.ndarray, np.ndarray, np.ndarray, int]]) -> np.ndarray:
    """Precision "10 101" at each overlap and recall; empty when there is nothing to find."""
    targets = sum(row[3] for row in rows)
    if not targets:
        return np.empty((0, len(RECALLS)))
    order = np.argsort(-np.concatenate([row[0] for row in rows]), kind="stable")
    hit, left_out = (np.concatenate([row[k] for row in rows], 1)[:, order] for k in (1, 2))
    found, wrong = np.cumsum(hit & ~left_out, 1), np.cumsum(~hit & ~left_out, 1)
    precision = found / (found + wrong + np.spacing(1.0))
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    padded = np.pad(precision, ((0, 0), (0, 1)))  # a recall that is never reached has precision 0
    places = np.stack([np.searchsorted(row, RECALLS, side="left") for row in found / targets])
    return np.take_along_axis(padded, places, 1)


def _mean(curves: Any) -> float:
    values = np.concatenate([curve.ravel() for curve in curves])
    return 100.0 * float(values.mean()) if len(values) else float("nan")


def _grouped(annotations: Sequence[Annotation]) -> dict[tuple[int, int], list[Annotation]]:
    groups = defaultdict(list)
    for annotation in annotations:
        groups[int(annotation["image_id"]), int(annotation["category_id"])].append(annotation)
    return dict(groups)


def _checked(results: Sequence[Annotation], task: str, categories: Mapping[int, str]) -> Sequence[Annotation]:
    """Every detection has what the task needs."""
    need = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}[task]
    for number, result in enumerate(results):
        where = f"detection {number}"
        missing = [key for key in ("image_id", "category_id", "score", need) if key not in result]
        if missing:
            raise InputError(f"{where}: {', '.join(missing)} missing; {task} needs it")
        if result["category_id"] not in categories:
            raise InputError(
                f"{where}: category_id {result['category_id']} is none of {min(categories)} to {max(categories)}"
            )
        numbers = [result["score"], *(result[need] if task != "segm" else ())]
        if not np.isfinite(np.asarray(numbers, np.float64)).all():
            raise InputError(f"{where}: score or {need} is not finite; leave a failed detection out")
    return results


def _area(result: Annotation, task: str) -> float:
    if task == "segm":
        return float(rle.area(result["segmentation"]))
    if "bbox" in result:
        return float(result["bbox"][2] * result["bbox"][3])
    x, y = np.asarray(result["keypoints"], np.float64).reshape(-1, 3)[:, :2].T
    return float(np.ptp(x) * np.ptp(y))


def _box_overlaps(results: list[Annotation], truth: list[Annotation], crowd: np.ndarray) -> np.ndarray:
    """Intersection over union, "D G"; over the detection alone for a crowd."""
    ours, theirs = (np.asarray([a["bbox"] for a in group], np.float64).reshape(-1, 4) for group in (results, truth))
    low = np.maximum(ours[:, None, :2], theirs[None, :, :2])
    high = np.minimum((ours[:, :2] + ours[:, 2:])[:, None], (theirs[:, :2] + theirs[:, 2:])[None])
    common = np.clip(high - low, 0, None).prod(-1)
    size, true_size = ours[:, 2:].prod(-1)[:, None], theirs[:, 2:].prod(-1)[None]
    whole = np.where(crowd[None], size, size + true_size - common)
    return np.divide(common, whole, out=np.zeros_like(common), where=common > 0)


def _mask_overlaps(results: list[Annotation], truth: list[Annotation], crowd: np.ndarray) -> np.ndarray:
    ours, theirs = ([rle.decode(a["segmentation"]) for a in group] for group in (results, truth))
    overlaps = np.zeros((len(ours), len(theirs)))
    for d, mask in enumerate(ours):
        for g, true in enumerate(theirs):
            if mask.shape != true.shape:
                raise InputError(f"a mask is {mask.shape}, the true one {true.shape} pixels")
            common = (mask & true).sum()
            overlaps[d, g] = common / (mask.sum() if crowd[g] else (mask | true).sum()) if common else 0.0
    return overlaps


def _similarities(results: list[Annotation], truth: list[Annotation], sigmas: np.ndarray) -> np.ndarray:
    """Object keypoint similarity, "D G"."""
    similarities = np.zeros((len(results), len(truth)))
    for g, true in enumerate(truth):
        places = np.asarray(true["keypoints"], np.float64).reshape(-1, 3)
        seen = places[:, 2] > 0
        left, top, width, height = true["bbox"]
        low, high = np.array([left - width, top - height]), np.array([left + 2 * width, top + 2 * height])
        for d, result in enumerate(results):
            ours = np.asarray(result["keypoints"], np.float64).reshape(-1, 3)[:, :2]
            away = ours - places[:, :2]
            if not seen.any():  # then how far out of the box, twice as large on each side
                away = np.maximum(low - ours, 0) + np.maximum(ours - high, 0)
            error = (away**2).sum(-1) / (2 * sigmas) ** 2 / (true["area"] + np.spacing(1.0)) / 2
            similarities[d, g] = np.exp(-error[seen] if seen.any() else -error).mean()
    return similarities
