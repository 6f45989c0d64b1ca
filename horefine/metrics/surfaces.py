"""Errors between two surfaces: F-score and chamfer distance of their points, and gSDF's protocol around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from horefine import repair
from horefine.mesh import even_samples
from horefine.metrics.units import MILLIMETRES, as_numpy

__all__ = [
    "ScaleTranslation", "chamfer", "closed", "f_score", "f_scores", "fit_scale_translation", "reconstruction_scores",
]  # fmt: skip

SQUARE_CENTIMETRES = 1e4
PARTS = ("fit predicted", "fit true", "score predicted", "score true")
"""Of the points drawn on a surface: each use has its own, or equal meshes would be compared on equal points."""
Surface = tuple[Float[np.ndarray, "_ 3"], Int[np.ndarray, "_ 3"]]


def f_score(
    predicted: Float[Tensor, "B V 3"], true: Float[Tensor, "B W 3"], threshold: float, *, epsilon: float = 0.0
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"], Float[Tensor, "B"]]:
    """F-score of point sets at ``threshold`` mm, with its precision and recall, 0 to 1. NaN: not finite.

    F@5 and F@15 of the vertices (FreiHAND, HO-3D; PA: after :func:`procrustes`); FS@1, 5 and 10 of points on the
    surfaces (gSDF, with ``epsilon`` 1e-7 in the denominator).
    Precision: the share of predicted points strictly within the threshold of a true one; recall the other way round
    (HO-3D's script has the two names exchanged; the F-score is the same).
    """
    score, precision, recall = f_scores(predicted, true, (threshold,), epsilon=epsilon)[:, 0].unbind(-1)
    return score, precision, recall


def f_scores(
    predicted: Float[Tensor, "B V 3"],
    true: Float[Tensor, "B W 3"],
    thresholds: Sequence[float],
    *,
    epsilon: float = 0.0,
) -> Float[Tensor, "B T 3"]:
    """:func:`f_score` at T thresholds (mm) from one search for the nearest points: score, precision, recall."""
    results = []
    for ours, theirs in zip(map(as_numpy, predicted), map(as_numpy, true), strict=True):
        to_true, to_predicted = _nearest(ours, theirs)
        for threshold in thresholds:
            precision = _share(to_true * MILLIMETRES, threshold)
            recall = _share(to_predicted * MILLIMETRES, threshold)
            both = precision + recall
            results.append((2 * precision * recall / (both + epsilon) if both else 0.0, precision, recall))
    return true.new_tensor(np.asarray(results).reshape(-1, len(thresholds), 3))


def chamfer(predicted: Float[Tensor, "B V 3"], true: Float[Tensor, "B W 3"]) -> Float[Tensor, "B"]:
    """CD: mean SQUARED distance to the nearest point of the other set, summed over both directions. cm2.

    gSDF (Chen et al. 2023), AlignSDF, Grasping Field: on 30 000 points of each surface. Others print mean distances, or
    half the sum. NaN of an item that is not finite.
    """
    sums = []
    for ours, theirs in zip(map(as_numpy, predicted), map(as_numpy, true), strict=True):
        to_true, to_predicted = _nearest(ours, theirs)
        sums.append((to_true**2).mean() + (to_predicted**2).mean())
    return true.new_tensor(np.asarray(sums) * SQUARE_CENTIMETRES)


@dataclass(frozen=True)
class ScaleTranslation:
    """``x -> scale x + translation``."""

    scale: float
    translation: Float[np.ndarray, "3"]
    """Metres."""

    def __call__(self, points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        return points * self.scale + self.translation


def fit_scale_translation(
    source: Float[np.ndarray, "N 3"], target: Float[np.ndarray, "M 3"], *, iterations: int = 100
) -> ScaleTranslation:
    """The scale and translation, no rotation, that bring ``source`` onto ``target`` by ICP in both directions (gSDF).

    Begins at the same centre and spread; then pairs each point with the nearest of the other set, and solves for scale
    and translation by least squares, until the root mean square distance is below 1 mm or gains less than 0.01 mm.

    Args:
        source: points, any unit.
        target: points, metres (the two bounds above are in metres, as in the official code).
        iterations: at most.

    Raises:
        ValueError: points that are not finite, or all at one place.
    """
    centre, true_centre = source.mean(0), target.mean(0)
    spread, true_spread = (np.sqrt(((p - p.mean(0)) ** 2).sum() / len(p)) for p in (source, target))
    if not (np.isfinite([spread, true_spread]).all() and spread > 0):
        raise ValueError("fit_scale_translation: the points are not finite, or all at one place")
    begin = true_spread / spread
    points = (source - centre) * begin + true_centre
    trees = KDTree(points), KDTree(target)
    scale, shift, previous = 1.0, np.zeros(3), np.inf
    for _ in range(iterations):
        moved = points * scale + shift
        partner = target[trees[1].query(moved)[1]]
        chosen = points[trees[0].query((target - shift) / scale)[1]]
        square = ((moved - partner) ** 2).sum() + ((target - chosen * scale - shift) ** 2).sum()
        error = np.sqrt(square / (len(points) + len(target)))
        if previous - error < 1e-5 or error < 1e-3:
            break
        previous = error
        scale, shift = _least_squares(np.concatenate([points, chosen]), np.concatenate([partner, target]))
    return ScaleTranslation(float(begin * scale), shift + (true_centre - centre * begin) * scale)


def reconstruction_scores(
    hand: Surface | None,
    true_hand: Surface,
    objects: Surface | None,
    true_objects: Surface,
    *,
    align: bool = True,
    points: int = 30_000,
) -> dict[str, float]:
    """Hand and object surfaces as gSDF scores them (Chen et al. 2023): ``cd_h_cm2``, ``fs_h_1``, ``fs_o_5``, ...

    ``align``: the scale and translation of :func:`fit_scale_translation` from the predicted to the true HAND is applied
    to hand and object (no rotation); False scores metric surfaces where they are. The official code draws without a
    seed; ours draws the same points each time.

    Args:
        hand: predicted vertices (any unit when aligned, else metres, camera frame) and faces; the object's likewise.
            None: there is no surface. Its scores are NaN then, and without a hand to align by, the object's too.
        true_hand: metres, camera frame; closed at the wrist (:func:`closed`), as gSDF's is.
        objects: predicted, or None.
        true_objects: metres, camera frame.
        align: see above.
        points: on each surface.

    Raises:
        ValueError: a surface without faces or area. The official code skips such an item; count it as failed.
    """
    our_hand, their_hand, our_objects, their_objects = (
        None if surface is None else _drawn(surface, points) for surface in (hand, true_hand, objects, true_objects)
    )
    assert their_hand is not None and their_objects is not None
    fit = None
    if align and our_hand is not None:
        fit = fit_scale_translation(our_hand["fit predicted"], their_hand["fit true"])
    scores = {}
    parts = ("h", our_hand, their_hand, (1, 5)), ("o", our_objects, their_objects, (5, 10))
    for name, predicted, true, thresholds in parts:
        if predicted is None or (align and fit is None):
            keys = [f"cd_{name}_cm2", *(f"fs_{name}_{threshold}" for threshold in thresholds)]
            scores |= dict.fromkeys(keys, float("nan"))
            continue
        ours = predicted["score predicted"] if fit is None else fit(predicted["score predicted"])
        pair = torch.from_numpy(ours)[None], torch.from_numpy(true["score true"])[None]
        scores[f"cd_{name}_cm2"] = float(chamfer(*pair))
        shares = f_scores(*pair, thresholds, epsilon=1e-7)[0, :, 0].tolist()
        scores |= {f"fs_{name}_{threshold}": share for threshold, share in zip(thresholds, shares, strict=True)}
    return scores


def closed(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> Surface:
    """The surface with its holes covered, such as a hand's at the wrist: what true hands are scored as."""
    return repair.cap(vertices, faces, repair.border_loops(faces))


def _drawn(surface: Surface, count: int) -> dict[str, np.ndarray]:
    """``count`` random points of a surface for each of :data:`PARTS`."""
    vertices, faces = (
        torch.from_numpy(np.asarray(surface[0], np.float64)),
        torch.from_numpy(surface[1].astype(np.int64)),
    )
    if not len(faces) or not torch.isfinite(vertices).all():
        raise ValueError("reconstruction_scores: a surface has no faces, or vertices that are not finite: it failed")
    chosen, weights = even_samples(vertices, faces, count * len(PARTS))
    places = (weights[..., None] * vertices[faces[chosen]]).sum(1).numpy()
    return dict(zip(PARTS, np.split(places, len(PARTS)), strict=True))


def _least_squares(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """Scale and translation from corresponding points."""
    centre, true_centre = source.mean(0), target.mean(0)
    scale = ((source - centre) * (target - true_centre)).sum() / ((source - centre) ** 2).sum()
    return float(scale), true_centre - scale * centre


def _nearest(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each of our points to theirs, and of theirs to ours; NaN when a set is not finite."""
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return np.full(len(ours), np.nan), np.full(len(theirs), np.nan)
    return KDTree(theirs).query(ours)[0], KDTree(ours).query(theirs)[0]


def _share(distances: np.ndarray, threshold: float) -> float:
    return float("nan") if np.isnan(distances).any() else float((distances < threshold).mean())
