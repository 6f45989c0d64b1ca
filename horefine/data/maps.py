"""Exact feature maps of a known pose, what to spoil them with, and disturbed starting poses.

Masks are the covered share of 4x4 samples of a pixel; codes and depth belong to the pixel's centre where the part is
seen there, and to the mean of the seen samples where only a pixel's rim shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor

from horefine.contact_truth import contact_from_pose
from horefine.data.raster import interpolate, shrink, zbuffer
from horefine.geometry import Camera, axis_angle_to_matrix, matrix_to_axis_angle
from horefine.hand import HandModel
from horefine.mesh import Mesh
from horefine.scene import Features, Pose

__all__ = ["LEVELS", "Part", "corrupt", "disturb", "exact_features", "part_maps"]

SAMPLES = 4
"""Of a pixel, along each side."""


@dataclass(frozen=True)
class Part:
    """A posed mesh as the maps' renderer wants it: camera frame, float32, int32."""

    vertices: np.ndarray
    faces: np.ndarray
    codes: np.ndarray | None = None
    """V x 3; None for what only hides other things (forearm, occluders)."""


def part_maps(
    parts: Sequence[Part], matrix: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Maps of the visible part of the first two parts (hand, object); the others only hide.

    Args:
        parts: Hand, object, then anything else in front of the camera.
        matrix: 3 x 3 intrinsics of the maps.
        size: Height and width of the maps.

    Returns:
        masks (2 x H x W, 0 to 1), codes (2 x 3 x H x W), depth (H x W metres along z, 0 where neither is seen), and the
        share of each silhouette (inside this picture) that is seen (2).
    """
    fine = Camera(torch.as_tensor(matrix)[None], size).resized((size[0] * SAMPLES, size[1] * SAMPLES))
    seen, ids, inverse = _who(parts, fine.matrix[0].numpy(), fine.size)
    blocks = (size[0], SAMPLES, size[1], SAMPLES)
    masks = np.stack([shrink((seen == k).astype(np.float32), SAMPLES) for k in (0, 1)])
    visible = np.array([(seen == k).sum() / max((ids[k] >= 0).sum(), 1) for k in (0, 1)], np.float32)
    centre, centre_ids, centre_inverse = _who(parts, matrix, size)
    codes = np.zeros((2, 3, *size), np.float32)
    depth = np.zeros(size, np.float32)
    for k in (0, 1):
        part = parts[k]
        assert part.codes is not None
        here = centre == k
        picture = interpolate(part.vertices, part.faces, matrix, part.codes, np.where(here, centre_ids[k], -1))
        depth[here] = 1 / centre_inverse[k][here]
        rim = (masks[k] > 0) & ~here
        if rim.any():
            samples = seen == k
            values = interpolate(
                part.vertices, part.faces, fine.matrix[0].numpy(), part.codes, np.where(samples, ids[k], -1)
            )
            count = np.maximum(samples.reshape(blocks).sum((1, 3)), 1)
            picture[rim] = (values.reshape(*blocks, 3).sum((1, 3)) / count[..., None])[rim]
            z = np.where(samples, 1 / np.maximum(inverse[k], 1e-6), 0).reshape(blocks).sum((1, 3)) / count
            alone = rim & (masks[1 - k] <= masks[k]) & ~((centre == 0) | (centre == 1))
            depth[alone] = z[alone]
        codes[k] = picture.transpose(2, 0, 1)
    return masks, codes, depth, visible


def _who(
    parts: Sequence[Part], matrix: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Index of the nearest part in each pixel (-1: none), and each part's ids and inverse depth drawn alone."""
    drawn = [zbuffer(part.vertices, part.faces, matrix, size) for part in parts]
    nearest = np.full(size, -1, np.int32)
    best = np.zeros(size, np.float32)
    for k, (_, inverse) in enumerate(drawn):
        closer = inverse > best
        nearest[closer] = k
        best[closer] = inverse[closer]
    return nearest, [ids for ids, _ in drawn], [inverse for _, inverse in drawn]


def exact_features(
    pose: Pose,
    model: HandModel,
    mesh: Mesh,
    camera: Camera,
    *,
    hiding: Sequence[Sequence[Part]] | None = None,
    contact: bool = True,
) -> tuple[Features, Float[Tensor, "B 2"]]:
    """The maps that a perfect network would give, of B posed pairs.

    Args:
        mesh: B objects.
        camera: Of the maps; its size is theirs.
        hiding: Of each image, further meshes that hide hand and object (their maps show the rest only).
        contact: Whether to find the contact of the pose (``contact_truth``).

    Returns:
        The features, and the share of each silhouette inside the picture that is seen.
    """
    with torch.no_grad():
        hand = model(pose.hand_rotvec, pose.hand_shape, pose.hand_transl)
        rotation = axis_angle_to_matrix(pose.object_rotvec)
        vertices = mesh.vertices @ rotation.mT + pose.object_transl[:, None]
        centre = (mesh.center[:, None] @ rotation.mT)[:, 0] + pose.object_transl
        touching = contact_from_pose(model, hand.vertices, vertices, mesh.vertex_mask) if contact else None
    hand_faces, hand_codes = _int32(model.faces), _float32(model.codes)
    collected = []
    for i in range(len(pose)):
        parts = [
            Part(_float32(hand.vertices[i]), hand_faces, hand_codes),
            Part(_float32(vertices[i]), _int32(mesh.faces[i]), _float32(mesh.codes[i])),
            *(hiding[i] if hiding is not None else ()),
        ]
        masks, codes, depth, visible = part_maps(parts, camera.matrix[i].numpy(), camera.size)
        relative = np.where(depth > 0, depth - float(centre[i, 2]), 0).astype(np.float32)
        collected.append((masks, codes, relative, visible))
    masks, codes, depth, visible = (torch.from_numpy(np.stack(column)) for column in zip(*collected, strict=True))
    features = Features(
        camera, mesh, masks[:, 0], masks[:, 1], codes[:, 0], codes[:, 1], depth, contact=touching
    )  # fmt: skip
    return features, visible


def _float32(values: Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.detach().cpu().numpy(), np.float32)


def _int32(values: Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.cpu().numpy(), np.int32)


@dataclass(frozen=True)
class Noise:
    """How maps are spoiled (reference: the levels at which refinement was measured)."""

    code: float
    """Standard deviation of codes, code units."""
    depth: float
    """Standard deviation of depth, metres."""
    smooth: float = 0.0
    """Pixels (of 64) over which the noise is correlated, half as much independent noise on top; 0: independent."""
    outliers: float = 0.0
    """Share of pixels with a random code, and of pixels with +-5 cm on the depth."""


LEVELS = {
    "exact": None,
    "n02": Noise(0.02, 0.005),
    "n05": Noise(0.05, 0.005, outliers=0.1),
    "c005": Noise(0.005, 0.00125, 4, 0.1),
    "c01": Noise(0.01, 0.0025, 4, 0.1),
    "c02": Noise(0.02, 0.005, 4, 0.1),
    "c04": Noise(0.04, 0.01, 4, 0.1),
}
"""Independent noise (n) and noise correlated over 4 pixels with outliers (c), as a network makes it."""


def corrupt(features: Features, level: str, seed: int) -> Features:
    """Exact maps spoiled as a network would: soft, grown or shrunken masks, noisy codes and depth, outliers.

    Each image has its own stream of random numbers (``seed`` and its place in the batch). Maps that are None stay so.

    Raises:
        ValueError: for a level that is not in :data:`LEVELS`.
    """
    if level not in LEVELS:
        raise ValueError(f"noise level {level!r} is unknown; known: {', '.join(LEVELS)}")
    noise = LEVELS[level]
    if noise is None:
        return features
    names = ("hand_mask", "object_mask", "hand_coords", "object_coords", "depth")
    columns: dict[str, list[np.ndarray]] = {name: [] for name in names if getattr(features, name) is not None}
    for i in range(len(features)):
        maps = {name: getattr(features, name)[i].numpy() for name in columns}
        for name, value in _spoil(maps, noise, np.random.default_rng([seed, i])).items():
            columns[name].append(value)
    values = {name: torch.from_numpy(np.stack(column)) for name, column in columns.items()}
    return replace(features, **values)


def _spoil(maps: dict[str, np.ndarray], noise: Noise, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One image of :func:`corrupt`."""
    out: dict[str, np.ndarray] = {}
    unit = next(iter(maps.values())).shape[-1] / 64
    for name in ("hand_mask", "object_mask"):
        if name in maps:
            soft = gaussian_filter(maps[name], unit)
            out[name] = (1 / (1 + np.exp(-(soft - rng.uniform(0.35, 0.65)) / 0.12))).astype(np.float32)
    hand = out["hand_mask"] > 0.5 if "hand_mask" in out else np.abs(maps["hand_coords"]).max(0) > 0
    thing = (out["object_mask"] > 0.5 if "object_mask" in out else np.abs(maps["object_coords"]).max(0) > 0) & ~hand
    for name, wanted in (("hand_coords", hand), ("object_coords", thing)):
        if name in maps:
            filled = _extend(maps[name], np.abs(maps[name]).max(0) > 0)
            spoiled = filled + _field(rng, filled.shape, noise.code, noise.smooth * unit)
            wild = rng.random(wanted.shape) < noise.outliers
            spoiled = np.where(wild, rng.random(filled.shape), spoiled)
            out[name] = (spoiled.clip(0, 1) * wanted).astype(np.float32)
    if "depth" in maps:
        depth = maps["depth"]
        near = np.where(
            hand,
            _extend(depth, (depth != 0) & _seen(maps, "hand")),
            _extend(depth, (depth != 0) & _seen(maps, "object")),
        )
        near = near + _field(rng, depth.shape, noise.depth, noise.smooth * unit)
        near += (rng.random(depth.shape) < noise.outliers) * rng.uniform(-0.05, 0.05, depth.shape)
        out["depth"] = (near * (hand | thing)).astype(np.float32)
    return out


def _seen(maps: dict[str, np.ndarray], part: str) -> np.ndarray:
    """Pixels whose depth belongs to a part, as far as the maps tell."""
    if f"{part}_mask" not in maps:
        return np.ones_like(maps["depth"], bool)
    other = "object" if part == "hand" else "hand"
    return maps[f"{part}_mask"] > maps.get(f"{other}_mask", np.zeros_like(maps["depth"]))


def _extend(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Every pixel gets the value of the nearest valid one (a predicted mask may be larger than the true one)."""
    if not valid.any():
        return values
    i, j = np.asarray(distance_transform_edt(~valid, return_distances=False, return_indices=True))
    return values[..., i, j]


def _field(rng: np.random.Generator, shape: tuple[int, ...], sigma: float, smooth: float) -> np.ndarray:
    """Noise of standard deviation ``sigma``: independent, or smooth plus half as much independent."""
    noise = rng.normal(size=shape) * sigma
    if smooth == 0:
        return noise
    field = gaussian_filter(rng.normal(size=shape), (0,) * (len(shape) - 2) + (smooth, smooth))
    return 0.5 * noise + field / max(field.std(), 1e-9) * sigma


def disturb(
    pose: Pose,
    seed: int,
    degrees: float = 15.0,
    millimetres: float = 20.0,
    finger_degrees: float = 10.0,
    *,
    model: HandModel | None = None,
    object_center: Float[Tensor, "B 3"] | None = None,
    keep_shape: bool = False,
) -> Pose:
    """A wrong start: every rotation turned by the given angle about a random axis, both bodies moved by the distance.

    The hand turns about its wrist and the object about its box centre. The shape is set to zero (it is unknown); the
    wrist joint then stays where the move puts it when ``model`` is given.

    Args:
        seed: Equal seeds give equal disturbances; each image has its own stream.
        object_center: Of each object's box, in the object's frame (default: its origin).
        keep_shape: Leave the shape as it is.
    """
    draws = [np.random.default_rng([seed, i]).normal(size=(19, 3)) for i in range(len(pose))]
    unit = torch.as_tensor(np.stack(draws), dtype=pose.hand_transl.dtype)
    unit = unit / unit.norm(dim=-1, keepdim=True)
    turn = axis_angle_to_matrix(
        unit[:, :17] * torch.deg2rad(unit.new_tensor([degrees] + [finger_degrees] * 15 + [degrees]))[:, None]
    )
    rotation = axis_angle_to_matrix(pose.hand_rotvec)
    turned = torch.cat([turn[:, :1] @ rotation[:, :1], rotation[:, 1:] @ turn[:, 1:16]], 1)
    object_old = axis_angle_to_matrix(pose.object_rotvec)
    object_new = turn[:, 16] @ object_old
    shape = pose.hand_shape if keep_shape else torch.zeros_like(pose.hand_shape)
    transl = pose.hand_transl + unit[:, 17] * millimetres / 1000
    if model is not None:
        transl = transl + model.rest_joints(pose.hand_shape)[:, 0] - model.rest_joints(shape)[:, 0]
    centre = object_center if object_center is not None else torch.zeros_like(pose.object_transl)
    back = ((object_old - object_new) @ centre[..., None])[..., 0]
    return replace(
        pose, hand_rotvec=matrix_to_axis_angle(turned), hand_shape=shape, hand_transl=transl,
        object_rotvec=matrix_to_axis_angle(object_new),
        object_transl=pose.object_transl + back + unit[:, 18] * millimetres / 1000,
    )  # fmt: skip
