"""Quality of the interaction: penetration, common volume, disjointness, contact."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from horefine import intersection
from horefine.distance import signed_distance, winding_number
from horefine.mesh import Mesh
from horefine.metrics.units import CUBIC_CENTIMETRES, MILLIMETRES, as_numpy
from horefine.metrics.voxels import grid_penetration_depth

__all__ = [
    "contact_ratio",
    "contact_regions",
    "disjointness",
    "interaction",
    "intersection_volume",
    "penetration_depth",
    "penetration_depths",
]

REGIONS = 16
"""Of a hand (CPF): 0 to 14 phalanges, 15 palm, 16 heel."""
TIPS = (2, 5, 8, 11, 14)
DISJOINTNESS = {"tip_only": 0.0, "tip_biased": 0.1}
"""Weight of a region that is no fingertip, by variant."""
DEPTHS = ("surface", "vertex", "grid")


def penetration_depth(
    hand: Float[np.ndarray, "V 3"],
    vertices: Float[np.ndarray, "W 3"],
    faces: Int[np.ndarray, "F 3"],
    *,
    variant: str = "surface",
) -> float:
    """PD: how deep the deepest hand vertex is inside the object. mm; 0 when none is inside, NaN when one is not finite.

    ``variant``: ``surface``, to the nearest point of the object's surface (obman, Hasson et al. 2019; exact);
    ``vertex``, to the nearest object VERTEX (CPF, and so Song et al. 2022; larger, and dependent on the mesh);
    ``grid``, on homan's distance grid (:func:`grid_penetration_depth`, which has the official misreading too).
    An object inside the hand is seen by none of them: look at the volume too.

    Raises:
        ValueError: an unknown variant; a mesh without faces.
    """
    if variant not in DEPTHS:
        raise ValueError(f"variant: {variant!r} is none of {', '.join(DEPTHS)}")
    if variant == "grid":
        return float("nan") if _failed(hand, vertices) else grid_penetration_depth(hand, vertices, faces)
    return float(penetration_depths(hand, vertices, faces, variant=variant).max(initial=0.0))


def penetration_depths(
    hand: Float[np.ndarray, "V 3"],
    vertices: Float[np.ndarray, "W 3"],
    faces: Int[np.ndarray, "F 3"],
    *,
    variant: str = "surface",
) -> Float[np.ndarray, "V"]:
    """Depth of every hand vertex, 0 outside of the object, by ``surface`` or ``vertex`` as above. mm.

    Its mean over all vertices is obman's mean penetration (by vertex).

    Raises:
        ValueError: an unknown variant; a mesh without faces.
    """
    if variant not in ("surface", "vertex"):
        raise ValueError(f"variant: {variant!r} is neither surface nor vertex")
    if _failed(hand, vertices):
        return np.full(len(hand), np.nan)
    if variant == "surface":
        return np.maximum(-signed_distance(hand, vertices, faces), 0.0) * MILLIMETRES
    depths, inside = np.zeros(len(hand)), winding_number(hand, vertices, faces) > 0.5
    depths[inside] = KDTree(vertices).query(hand[inside])[0] * MILLIMETRES
    return depths


def intersection_volume(
    hand: Float[np.ndarray, "V 3"],
    hand_faces: Int[np.ndarray, "F 3"],
    vertices: Float[np.ndarray, "W 3"],
    faces: Int[np.ndarray, "G 3"],
    *,
    method: str = "auto",
    pitch: float | None = None,
) -> float:
    """SIV: solid intersection volume of hand and object, cm3; NaN when a vertex is not finite.

    ``method``: ``boolean`` is exact (manifold3d); rays and voxels approach it (:mod:`horefine.intersection`; by how
    much on grasps: ``benchmarks/metrics``), so it is comparable between meshes. The papers' voxel
    counts are not: see :func:`voxel_intersection_volume`.
    """
    if _failed(hand, vertices):
        return float("nan")
    volume = intersection.intersection_volume(hand, hand_faces, vertices, faces, method=method, pitch=pitch)
    return volume * CUBIC_CENTIMETRES


def disjointness(
    hand: Float[np.ndarray, "V 3"],
    regions: Int[np.ndarray, "V"],
    vertices: Float[np.ndarray, "W 3"],
    *,
    variant: str = "tip_only",
) -> float:
    """CPF's disjointness: summed over regions, the distance of the region's nearest vertex to an object vertex. mm.

    ``variant``: ``tip_only`` sums the five fingertips, ``tip_biased`` adds a tenth of every other region. NaN when a
    vertex is not finite.

    Raises:
        ValueError: an unknown variant.
    """
    if variant not in DISJOINTNESS:
        raise ValueError(f"variant: {variant!r} is none of {', '.join(DISJOINTNESS)}")
    if _failed(hand, vertices):
        return float("nan")
    others = DISJOINTNESS[variant]
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


def contact_ratio(gaps: Float[Tensor, "B"], *, threshold: float = 0.0) -> float:
    """Contact ratio: items whose ``gap_mm`` (:func:`interaction`) is at most ``threshold`` mm. %, of all items.

    gSDF's C_r has threshold 0 (and counts on its aligned meshes: :func:`grid_contact`). A NaN, a failed item, is no
    contact; no items at all is NaN.
    """
    return 100.0 * float((gaps <= threshold).double().mean())


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
    surface, 0 when they touch. An item with a vertex that is not finite is NaN in every column.
    """
    faces, parts = hand_faces.cpu().numpy(), regions.cpu().numpy()
    rows = []
    for k in range(len(hands)):
        vertex_count, face_count = mesh.counts[k].tolist()
        hand, vertices = as_numpy(hands[k]), as_numpy(objects[k, :vertex_count])
        if _failed(hand, vertices):
            rows.append((float("nan"),) * 4)
            continue
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


def _failed(hand: np.ndarray, vertices: np.ndarray) -> bool:
    """A NaN would be compared away: ``max(0, nan)`` is 0, and a failure would look like a perfect score."""
    return not (np.isfinite(hand).all() and np.isfinite(vertices).all())
