"""Quantities that losses need and that do not depend on the pose: found once for each refinement, without gradients.

A loss asks for one by the name it has in :data:`PREPARED`; the objective calls the function with the hand model and the
features that its parameters name (a parameter with a default may be missing: then it is None or left out). Each returns
a frozen dataclass of tensors whose first dimension is the image. No image looks at another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine import distance_kernels
from horefine.hand import HandModel
from horefine.losses import row_kernels, torch_pairs
from horefine.losses.appearance import find_appearance
from horefine.losses.surfaces import find_object_points
from horefine.mesh import Mesh

__all__ = ["SurfacePairs", "VertexPairs", "VisiblePairs", "find_surface_pairs", "find_vertex_pairs", "named_points"]

MAX_PIXELS = 1000
"""Pixels of a map that are paired with the surface, at most."""


@dataclass(frozen=True)
class VisiblePairs:
    """For each vertex of one surface the pixel whose code is nearest (Song et al. 2022, eq. 4)."""

    pixel: Float[Tensor, "B V 2"]
    """u, v."""
    index: Int[Tensor, "B V"]
    """``v * W + u``: where the pixel is in a flattened map."""
    distance: Float[Tensor, "B V"]
    """In code space (unit cube); infinite for padding, and where the mask is empty."""


@dataclass(frozen=True)
class VertexPairs:
    """Nearest pixels of the vertices of hand and object."""

    hand: VisiblePairs
    object: VisiblePairs


@dataclass(frozen=True)
class SurfacePairs:
    """For each chosen pixel of the hand's map (0) and the object's (1) the surface point whose code is nearest."""

    vertices: Int[Tensor, "B 2 P 3"]
    """The three vertices of the face that holds the point."""
    barycentric: Float[Tensor, "B 2 P 3"]
    """Weights of those vertices, summing to one."""
    pixel: Float[Tensor, "B 2 P 2"]
    """u, v."""
    distance: Float[Tensor, "B 2 P"]
    """In code space (unit cube)."""
    depth: Float[Tensor, "B 2 P"]
    """``Features.depth`` at the pixel, metres below the object's centre; 0 without a depth map."""
    valid: Float[Tensor, "B 2 P"]
    """1, or 0 for padding (a mask with fewer than P pixels)."""
    confidence: Float[Tensor, "B 2 P"] | None = None
    """Of the pixel's code (``Features.hand_confidence``, ``object_confidence``); None: not known."""
    depth_confidence: Float[Tensor, "B 2 P"] | None = None
    """Of the depth *of the surface point that the code names*: half the variance the code's, half the depth map's."""


def find_vertex_pairs(
    hand_model: HandModel,
    object: Mesh,
    hand_mask: Float[Tensor, "B H W"],
    object_mask: Float[Tensor, "B H W"],
    hand_coords: Float[Tensor, "B 3 H W"],
    object_coords: Float[Tensor, "B 3 H W"],
) -> VertexPairs:
    """Song et al. 2022, eq. 4: ``N(v) = argmin_i |M(i) - code(v)|`` over the pixels i of the segmentation.

    The losses keep a pair when its distance is below their threshold (eq. 5).
    """
    hand_codes = hand_model.codes.expand(len(hand_mask), -1, -1)
    return VertexPairs(
        nearest_pixels(hand_codes, hand_coords, hand_mask),
        nearest_pixels(object.codes, object_coords, object_mask, object.counts[:, 0]),
    )


def nearest_pixels(
    codes: Float[Tensor, "B V 3"],
    coords: Float[Tensor, "B 3 H W"],
    mask: Float[Tensor, "B H W"],
    counts: Int[Tensor, "B"] | None = None,
    *,
    inside: float = 0.5,
) -> VisiblePairs:
    """The pixel with ``mask > inside`` whose code is nearest to each of the first ``counts`` vertices."""
    width = mask.shape[-1]
    flat = coords.flatten(2).mT
    index = torch.zeros(codes.shape[:2], dtype=torch.long, device=codes.device)
    distance = codes.new_full(codes.shape[:2], torch.inf)
    for image in range(len(codes)):
        pixels = (mask[image].flatten() > inside).nonzero().flatten()
        count = codes.shape[1] if counts is None else int(counts[image])
        if len(pixels) == 0:
            continue
        gap = torch.cdist(codes[image, :count], flat[image, pixels], compute_mode="donot_use_mm_for_euclid_dist")
        nearest, place = gap.min(1)
        index[image, :count], distance[image, :count] = pixels[place], nearest
    pixel = torch.stack([index % width, index // width], -1).to(codes.dtype)
    return VisiblePairs(pixel, index, distance)


def find_surface_pairs(
    hand_model: HandModel,
    object: Mesh,
    hand_mask: Float[Tensor, "B H W"],
    object_mask: Float[Tensor, "B H W"],
    hand_coords: Float[Tensor, "B 3 H W"],
    object_coords: Float[Tensor, "B 3 H W"],
    depth: Float[Tensor, "B H W"] | None = None,
    hand_confidence: Float[Tensor, "B H W"] | None = None,
    object_confidence: Float[Tensor, "B H W"] | None = None,
    depth_confidence: Float[Tensor, "B H W"] | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
) -> SurfacePairs:
    """The surface point whose code is nearest to the code that each visible pixel shows.

    The other way round than Song et al.: a pixel has one surface point, so nothing is quantised to pixels or vertices
    and no vertex of the far side is drawn to a near-side pixel. A pixel is the hand's when its hand mask is above one
    half and not below its object mask. Above ``max_pixels`` of them every n-th in reading order is taken.
    """
    masks, coords = torch.stack([hand_mask, object_mask], 1), torch.stack([hand_coords, object_coords], 1)
    depths = torch.zeros_like(hand_mask) if depth is None else depth
    if masks.device.type == "cpu":
        fields = _by_trees(hand_model, object, masks, coords, depths, max_pixels)
    else:
        hand, thing = (hand_model.codes, hand_model.faces), (object.codes, object.faces)
        fields = torch_pairs.paired(hand, thing, object.counts[:, 1], masks, coords, depths, max_pixels)
    pairs = SurfacePairs(**fields)
    trust = [hand_confidence, object_confidence, depth_confidence]
    return pairs if all(c is None for c in trust) else _trusted(pairs, hand_mask, *trust)


def _by_trees(
    hand_model: HandModel,
    object: Mesh,
    masks: Float[Tensor, "B 2 H W"],
    coords: Float[Tensor, "B 2 3 H W"],
    depth: Float[Tensor, "B H W"],
    most: int,
) -> dict[str, Tensor]:
    """The fields of the pairs but the confidences, image by image (``torch_pairs.paired``: all at once)."""
    rows = []
    for image in range(len(masks)):
        thing = object.codes[image], object.faces[image, : int(object.counts[image, 1])]
        for side, (codes, faces) in enumerate(((hand_model.codes, hand_model.faces), thing)):
            pixels = _chosen_pixels(masks[image, side], masks[image, 1 - side], most)
            rows.append(_pair(codes, faces, pixels, coords[image, side], depth[image]))
    count = max(1, *(len(row["valid"]) for row in rows))
    return {name: torch.stack([_pad(name, row[name], count) for row in rows]).unflatten(0, (-1, 2)) for name in rows[0]}


def _trusted(
    pairs: SurfacePairs,
    like: Float[Tensor, "B H W"],
    hand: Float[Tensor, "B H W"] | None,
    thing: Float[Tensor, "B H W"] | None,
    depth: Float[Tensor, "B H W"] | None,
) -> SurfacePairs:
    """The pairs with the confidences at their pixels; 1 where a map has none."""
    place = (pairs.pixel[..., 1] * like.shape[-1] + pairs.pixel[..., 0]).long()
    maps = [torch.ones_like(like) if c is None else c for c in (hand, thing, depth, depth)]
    codes, depths = (torch.stack(pair, 1).flatten(2).gather(2, place) for pair in (maps[:2], maps[2:]))
    joint = 2 * codes * depths / (codes + depths).clamp_min(1e-30)  # variances add, in equal shares
    return replace(pairs, confidence=codes, depth_confidence=joint)


def named_points(vertices: Float[Tensor, "B V 3"], pairs: SurfacePairs, side: int) -> Float[Tensor, "B P 3"]:
    """The points of a posed surface, hand (``side`` 0) or object (1), that its map's pixels name."""
    index, weight = pairs.vertices[:, side], pairs.barycentric[:, side]
    corners = vertices.gather(1, index.flatten(1)[..., None].expand(-1, -1, 3)).unflatten(1, index.shape[1:])
    return (corners * weight[..., None]).sum(2)


PREPARED: dict[str, Callable[..., Any]] = {
    "vertex_pairs": find_vertex_pairs,
    "surface_pairs": find_surface_pairs,
    "object_points": find_object_points,
    "appearance": find_appearance,
}
"""What a loss may ask for by name besides the fields of ``Features``."""


def _chosen_pixels(mask: Float[Tensor, "H W"], other: Float[Tensor, "H W"], most: int) -> Int[Tensor, "P"]:
    """Indices of the visible pixels, evenly thinned out to ``most``."""
    pixels = ((mask > 0.5) & (mask >= other)).flatten().nonzero().flatten()
    if len(pixels) <= most:
        return pixels
    return pixels[torch.arange(most, device=pixels.device) * len(pixels) // most]


def _pair(
    codes: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    pixels: Int[Tensor, "P"],
    coords: Float[Tensor, "3 H W"],
    depth: Float[Tensor, "H W"],
) -> dict[str, Tensor]:
    """The rows of one surface in one image."""
    width, wanted = depth.shape[-1], coords.flatten(1)[:, pixels].T
    points = np.ascontiguousarray(wanted.detach().cpu().double().numpy())
    corners, triangles_of = codes.detach().cpu().numpy(), faces.cpu().numpy()
    tree, order = _tree(corners.astype(np.float64).tobytes(), triangles_of.tobytes())
    distance, _, which = distance_kernels.closest(points, *tree)
    weights = row_kernels.weights_on_triangles(points, tree[0][which])
    return {
        "vertices": faces[torch.as_tensor(order[which], device=faces.device)],
        "barycentric": torch.as_tensor(weights).to(wanted),
        "pixel": torch.stack([pixels % width, pixels // width], -1).to(depth.dtype),
        "distance": torch.as_tensor(distance).to(wanted),
        "depth": depth.flatten()[pixels],
        "valid": torch.ones_like(wanted[:, 0]),
    }


@functools.lru_cache(maxsize=64)
def _tree(codes: bytes, faces: bytes) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """Triangles, children and boxes of the tree over a surface in code space, and its order of the faces; kept."""
    corners = np.frombuffer(codes).reshape(-1, 3)
    found = distance_kernels.build_tree(corners, np.frombuffer(faces, np.int64).reshape(-1, 3))
    triangles, order, children, boxes, _ = found
    return (triangles, children, boxes), order


def _pad(name: str, values: Tensor, count: int) -> Tensor:
    """``count`` rows: padding is the surface's vertex 0 with weight one, a point like any other, and not valid."""
    padding = values.new_zeros(count - len(values), *values.shape[1:])
    if name == "barycentric":
        padding[:, 0] = 1
    return torch.cat([values, padding])
