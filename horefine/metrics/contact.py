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

__all__ = [
    "contact_regions",
    "disjointness",
    "interaction",
    "intersection_volume",
    "penetration_depth",
    "voxel_intersection_volume",
]

REGIONS = 16
"""Of a hand (CPF): 0 to 14 phalanges, 15 palm, 16 heel."""
TIPS = (2, 5, 8, 11, 14)


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
        hand, vertices = as_numpy(hands[k]), as_numpy(objects[k, :vertex_count])
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
