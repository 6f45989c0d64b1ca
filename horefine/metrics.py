"""The field's error and quality measures: one function each, with its paper, unit and variant.

Metres in; millimetres, cubic centimetres or counts out, as papers print them. Functions of point sets are batched torch
("B V 3" -> "B"); functions of solid meshes take one scene in numpy, and :func:`interaction` does a batch.
What a name means differs between papers (three penetration depths, two ADD-S); the docstring says which one this is.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from horefine import intersection
from horefine.distance import signed_distance, winding_number
from horefine.mesh import Mesh
from horefine.scene import Pose

__all__ = [
    "add",
    "add_s",
    "auc",
    "contact_regions",
    "disjointness",
    "equivalents",
    "f_score",
    "hand_error",
    "hand_to_object_error",
    "interaction",
    "intersection_volume",
    "mce",
    "mean_joint_error",
    "mssd",
    "object_error",
    "oce",
    "penetration_depth",
    "procrustes",
    "scale_translation",
    "symmetric_object_error",
    "voxel_intersection_volume",
]

MILLIMETRES = 1e3
CUBIC_CENTIMETRES = 1e6
REGIONS = 16
"""Of a hand (CPF): 0 to 14 phalanges, 15 palm, 16 heel."""
TIPS = (2, 5, 8, 11, 14)
ALIGNMENTS = ("none", "root", "scale_translation", "procrustes")


# --- errors of poses ---------------------------------------------------------------------------------------------


def hand_error(predicted: Float[Tensor, "B V 3"], true: Float[Tensor, "B V 3"]) -> Float[Tensor, "B"]:
    """HE: mean distance of corresponding hand vertices, camera frame, no alignment. mm (CPF; Song et al. 2022)."""
    return _mean_distance(predicted, true, None)


def object_error(
    predicted: Float[Tensor, "B V 3"], true: Float[Tensor, "B V 3"], mask: Bool[Tensor, "B V"] | None = None
) -> Float[Tensor, "B"]:
    """OE: mean distance of corresponding object vertices, camera frame. mm (CPF; Song et al. 2022).

    ``mask``: which vertices count (``Mesh.vertex_mask`` leaves padding out).
    """
    return _mean_distance(predicted, true, mask)


def hand_to_object_error(
    hand: Float[Tensor, "B V 3"],
    object_center: Float[Tensor, "B 3"],
    true_hand: Float[Tensor, "B V 3"],
    true_object_center: Float[Tensor, "B 3"],
) -> Float[Tensor, "B"]:
    """HE after moving both object centres together: how well the hand sits on its object, whatever the depth. mm."""
    return _mean_distance(hand - object_center[:, None], true_hand - true_object_center[:, None], None)


def mean_joint_error(
    predicted: Float[Tensor, "B J 3"], true: Float[Tensor, "B J 3"], *, align: str = "none", reflection: bool = False
) -> Float[Tensor, "B"]:
    """MJE (MPJPE): mean distance of corresponding joints. mm.

    ``align``: ``none``; ``root`` (both relative to joint 0, the wrist: DexYCB, HOISDF); ``scale_translation``
    (STMJE of HO-3D); ``procrustes`` (PAMJE). ``reflection``: see :func:`procrustes`.

    Raises:
        ValueError: an unknown alignment.
    """
    if align == "root":
        predicted, true = predicted - predicted[:, :1], true - true[:, :1]
    elif align == "scale_translation":
        predicted = scale_translation(predicted, true)
    elif align == "procrustes":
        predicted = procrustes(predicted, true, reflection=reflection)
    elif align != "none":
        raise ValueError(f"align: {align!r} is none of {', '.join(ALIGNMENTS)}")
    return _mean_distance(predicted, true, None)


def procrustes(
    predicted: Float[Tensor, "B N 3"], true: Float[Tensor, "B N 3"], *, reflection: bool = False
) -> Float[Tensor, "B N 3"]:
    """``predicted`` under the similarity (scale, rotation, translation) that brings it nearest ``true`` (Schönemann).

    ``reflection``: let the rotation mirror, as the scripts of FreiHAND, HO-3D and DexYCB do; a mirrored hand is then
    no error. Umeyama's (1991) proper rotation otherwise.
    """
    centre, true_centre = predicted.mean(1, keepdim=True), true.mean(1, keepdim=True)
    source, target = predicted - centre, true - true_centre
    left, values, right = torch.linalg.svd(target.mT @ source)
    sign = torch.ones_like(values)
    if not reflection:
        sign[:, 2] = torch.det(left @ right).sign()
    rotation = (left * sign[:, None]) @ right
    scale = (values * sign).sum(-1) / (source**2).sum((1, 2)).clamp_min(1e-20)
    return scale[:, None, None] * (source @ rotation.mT) + true_centre


def scale_translation(
    predicted: Float[Tensor, "B J 3"], true: Float[Tensor, "B J 3"], *, bone: tuple[int, int] = (0, 9)
) -> Float[Tensor, "B J 3"]:
    """``predicted`` scaled to the true length of one bone, its wrist put on the true wrist (HO-3D, "scale-trans").

    ``bone``: the wrist and the middle finger's first joint; (0, 9) in our order, (0, 4) in HO-3D's and MANO's.
    """
    root, end = bone
    length = (predicted[:, end] - predicted[:, root]).norm(dim=-1)
    scale = (true[:, end] - true[:, root]).norm(dim=-1) / length
    return (predicted - predicted[:, root, None]) * scale[:, None, None] + true[:, root, None]


def mssd(
    predicted: Float[Tensor, "B V 3"], equivalents: Float[Tensor, "B S V 3"], mask: Bool[Tensor, "B V"] | None = None
) -> Float[Tensor, "B"]:
    """MSSD: largest distance of corresponding points, over the true symmetric pose for which it is smallest. mm.

    BOP (Hodan et al. 2020). ``equivalents``: the object in each of its true symmetric poses (:func:`equivalents`).
    """
    distance = (predicted[:, None] - equivalents).norm(dim=-1) * MILLIMETRES
    distance = distance if mask is None else distance.masked_fill(~mask[:, None], 0.0)
    return distance.amax(-1).amin(-1)


def symmetric_object_error(
    predicted: Float[Tensor, "B V 3"], equivalents: Float[Tensor, "B S V 3"], mask: Bool[Tensor, "B V"] | None = None
) -> Float[Tensor, "B"]:
    """OE of a symmetric object: :func:`object_error` to the nearest of its true symmetric poses. mm."""
    rows = [object_error(predicted, true, mask) for true in equivalents.unbind(1)]
    return torch.stack(rows, 1).amin(1)


def equivalents(mesh: Mesh, pose: Pose) -> Float[Tensor, "B S V 3"]:
    """Vertices of the posed object in each of its symmetric poses (one without ``mesh.symmetries``)."""
    vertices, motions = mesh.vertices[:, None], mesh.symmetries
    if motions is not None:
        vertices = vertices @ motions[:, :, :3, :3].mT + motions[:, :, None, :3, 3]
    return pose.place(vertices.flatten(1, 2)).unflatten(1, vertices.shape[1:3])


def oce(predicted: Float[Tensor, "B 3"], true: Float[Tensor, "B 3"]) -> Float[Tensor, "B"]:
    """Object centre error: distance of the object's origins (HOISDF, Qi et al. 2024: ``object_transl``). mm."""
    return (predicted - true).norm(dim=-1) * MILLIMETRES


def mce(predicted: Float[Tensor, "B V 3"], true: Float[Tensor, "B V 3"]) -> Float[Tensor, "B"]:
    """Mean corner error of the posed vertices' boxes, parallel to the CAMERA's axes (HOISDF's code). mm.

    A box parallel to the object's axes is another number: for it, give its eight corners to :func:`object_error`.
    """
    return _mean_distance(_corners(predicted), _corners(true), None)


def add(
    predicted: Float[Tensor, "B V 3"], true: Float[Tensor, "B V 3"], mask: Bool[Tensor, "B V"] | None = None
) -> Float[Tensor, "B"]:
    """ADD: mean distance of corresponding model points (Hinterstoisser et al. 2012). mm. OE on the same points."""
    return _mean_distance(predicted, true, mask)


def add_s(
    predicted: Float[Tensor, "B V 3"],
    true: Float[Tensor, "B W 3"],
    mask: Bool[Tensor, "B V"] | None = None,
    *,
    over: str = "true",
) -> Float[Tensor, "B"]:
    """ADD-S (ADI): mean distance to the nearest point of the other pose. mm. For symmetric objects.

    ``over``: whose points are averaged; ``true`` as BOP and Hinterstoisser, ``predicted`` as HOISDF's code.

    Raises:
        ValueError: another ``over``.
    """
    if over not in ("true", "predicted"):
        raise ValueError(f"over: {over!r} is neither 'true' nor 'predicted'")
    results = []
    for k in range(len(true)):
        keep = slice(None) if mask is None else mask[k].cpu()
        ours, theirs = _numpy(predicted[k])[keep], _numpy(true[k])[keep]
        sought, among = (theirs, ours) if over == "true" else (ours, theirs)
        results.append(KDTree(among).query(sought)[0].mean())
    return true.new_tensor(np.asarray(results) * MILLIMETRES)


def auc(errors: Float[Tensor, "*any"], *, maximum: float = 50.0, steps: int = 100) -> float:
    """Area under the curve "share of errors at most t", t from 0 to ``maximum``; 1 is best.

    FreiHAND's, HO-3D's and DexYCB's: mm, ``steps`` thresholds with both ends, trapezoids, at most (not below).
    """
    values = np.sort(_numpy(errors).ravel())
    thresholds = np.linspace(0, maximum, steps)
    share = np.searchsorted(values, thresholds, side="right") / max(len(values), 1)
    return float((share[1:] + share[:-1]).sum() / (2 * (steps - 1)))


def f_score(
    predicted: Float[Tensor, "B V 3"], true: Float[Tensor, "B W 3"], threshold: float
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"], Float[Tensor, "B"]]:
    """F-score of vertex sets at ``threshold`` mm (FreiHAND, HO-3D: 5 and 15), with its precision and recall, 0 to 1.

    Precision: the share of predicted vertices strictly within the threshold of a true one; recall the other way round
    (HO-3D's script has the two names exchanged; the F-score is the same).
    """
    results = []
    for ours, theirs in zip(map(_numpy, predicted), map(_numpy, true), strict=True):
        precision = (KDTree(theirs).query(ours)[0] * MILLIMETRES < threshold).mean()
        recall = (KDTree(ours).query(theirs)[0] * MILLIMETRES < threshold).mean()
        both = precision + recall
        results.append((2 * precision * recall / both if both else 0.0, precision, recall))
    scores = true.new_tensor(np.asarray(results))
    return scores[:, 0], scores[:, 1], scores[:, 2]


# --- quality of the interaction ----------------------------------------------------------------------------------


def penetration_depth(
    hand: Float[np.ndarray, "V 3"],
    vertices: Float[np.ndarray, "W 3"],
    faces: Int[np.ndarray, "F 3"],
    *,
    variant: str = "surface",
) -> float:
    """PD: how deep the deepest hand vertex is inside the object. mm; 0 when none is inside.

    ``variant``: ``surface``, to the nearest point of the object's surface (obman, Hasson et al. 2019; exact);
    ``vertex``, to the nearest object VERTEX (CPF, and so Song et al. 2022; larger, and dependent on the mesh).
    An object inside the hand is seen by neither: look at the volume too.

    Raises:
        ValueError: an unknown variant.
    """
    if variant == "surface":
        return max(0.0, float(-signed_distance(hand, vertices, faces).min())) * MILLIMETRES
    if variant != "vertex":
        raise ValueError(f"variant: {variant!r} is neither 'surface' nor 'vertex'")
    inside = hand[winding_number(hand, vertices, faces) > 0.5]
    return float(KDTree(vertices).query(inside)[0].max(initial=0.0)) * MILLIMETRES


def intersection_volume(
    hand: Float[np.ndarray, "V 3"],
    hand_faces: Int[np.ndarray, "F 3"],
    vertices: Float[np.ndarray, "W 3"],
    faces: Int[np.ndarray, "G 3"],
    *,
    method: str = "auto",
    pitch: float | None = None,
) -> float:
    """SIV: solid intersection volume of hand and object, cm3. Options: :mod:`horefine.intersection`.

    Within 0.1 % of the boolean volume (``tests/test_metrics.py``), so comparable between meshes. The
    papers' voxel counts are not: they depend on pitch and voxeliser by up to a factor of two (see
    :func:`voxel_intersection_volume`).
    """
    volume = intersection.intersection_volume(hand, hand_faces, vertices, faces, method=method, pitch=pitch)
    return volume * CUBIC_CENTIMETRES


def voxel_intersection_volume(
    hand: Float[np.ndarray, "V 3"],
    hand_faces: Int[np.ndarray, "F 3"],
    voxels: Float[np.ndarray, "N 3"],
    voxel_volume: float,
) -> float:
    """SIV as CPF prints it: the object's solid voxels (their centres) that lie in the closed hand. cm3.

    ``voxel_volume`` in cubic metres.
    """
    closed = intersection.close_holes(hand_faces)
    near = voxels[((voxels >= hand.min(0)) & (voxels <= hand.max(0))).all(1)]
    return int((winding_number(near, hand, closed) > 0.5).sum()) * voxel_volume * CUBIC_CENTIMETRES


def disjointness(
    hand: Float[np.ndarray, "V 3"],
    regions: Int[np.ndarray, "V"],
    vertices: Float[np.ndarray, "W 3"],
    *,
    others: float = 0.0,
) -> float:
    """CPF's disjointness: summed over regions, the distance of the region's nearest vertex to an object vertex. mm.

    Fingertips weigh 1 and other regions ``others``: 0 is CPF's "tip only", 0.1 its "tip biased".
    """
    distance = KDTree(vertices).query(hand)[0]
    weights = [(region, 1.0 if region in TIPS else others) for region in range(REGIONS + 1)]
    found = [weight * distance[regions == region].min() for region, weight in weights if (regions == region).any()]
    return float(sum(found)) * MILLIMETRES


def contact_regions(
    hand: Float[np.ndarray, "V 3"],
    regions: Int[np.ndarray, "V"],
    vertices: Float[np.ndarray, "W 3"],
    faces: Int[np.ndarray, "F 3"],
    *,
    threshold: float = 5.0,
) -> int:
    """How many of the hand's 17 regions have a vertex within ``threshold`` mm of the object's surface, or inside it."""
    return _touching(signed_distance(hand, vertices, faces), regions, threshold)


def interaction(
    hands: Float[Tensor, "B V 3"],
    hand_faces: Int[Tensor, "F 3"],
    regions: Int[Tensor, "V"],
    objects: Float[Tensor, "B W 3"],
    mesh: Mesh,
    *,
    threshold: float = 5.0,
) -> dict[str, Float[Tensor, "B"]]:
    """PD, SIV and contact of a batch in one pass: ``pd_mm`` (surface), ``siv_cm3``, ``contact_regions``, ``gap_mm``.

    ``objects``: the posed vertices of ``mesh``, which gives faces and padding. ``gap_mm``: from the hand to the
    surface, 0 when they touch.
    """
    faces, parts = hand_faces.cpu().numpy(), regions.cpu().numpy()
    rows = []
    for k in range(len(hands)):
        vertex_count, face_count = mesh.counts[k].tolist()
        hand, vertices = _numpy(hands[k]), _numpy(objects[k, :vertex_count])
        object_faces = mesh.faces[k, :face_count].cpu().numpy()
        distance = signed_distance(hand, vertices, object_faces)
        volume = intersection_volume(hand, faces, vertices, object_faces)
        depth, gap = max(0.0, -distance.min()) * MILLIMETRES, max(0.0, distance.min()) * MILLIMETRES
        rows.append((depth, volume, _touching(distance, parts, threshold), gap))
    columns = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4).unbind(1)
    return dict(zip(("pd_mm", "siv_cm3", "contact_regions", "gap_mm"), columns, strict=True))


def _touching(distance: np.ndarray, regions: np.ndarray, threshold: float) -> int:
    near = regions[distance * MILLIMETRES < threshold]
    return len(np.unique(near[(near >= 0) & (near <= REGIONS)]))


def _mean_distance(predicted: Tensor, true: Tensor, mask: Tensor | None) -> Tensor:
    distance = (predicted - true).norm(dim=-1) * MILLIMETRES
    return distance.mean(-1) if mask is None else (distance * mask).sum(-1) / mask.sum(-1)


def _corners(points: Tensor) -> Tensor:
    """The eight corners of each axis-aligned box: "B V 3" -> "B 8 3"."""
    choice = torch.cartesian_prod(*[torch.tensor([False, True], device=points.device)] * 3)
    return torch.where(choice, points.amax(1, keepdim=True), points.amin(1, keepdim=True))


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().cpu().double().numpy()
