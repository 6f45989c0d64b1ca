"""A tiny training shard for tests: a hand and an object thrown beside each other, coloured by their surface codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from horefine.data.crop import crop_box, resample
from horefine.data.maps import exact_features
from horefine.data.shards import write_shard
from horefine.geometry import Camera, axis_angle_to_matrix, project
from horefine.hand import load_hand
from horefine.mesh import Mesh
from horefine.objects import OBJECTS, embedded_object
from horefine.scene import Pose


def small_network(task: str, width: int) -> dict[str, Any]:
    """Sizes at which a task's network learns in seconds; ``width``: of its encoder."""
    unet = {"deconvs": [16, 16, 8], "fuses": [16, 16, 8], "heads": []}
    return {
        "gsdf": {
            "width": width, "unet": unet, "frozen": False, "volume_width": 16, "depth_bins": 8, "read_mlp": [32, 16],
            "field_width": 128,
        },
        "c2f_sdf": {
            "width": width, "unet": unet, "frozen": False, "depth_widths": [8, 16, 16], "latent": 16,
            "read_mlp": [32, 16], "coarse_width": 64, "field_width": 112, "points": 48, "neighbours": 4,
        },
        "features": {"width": width, "decoder": [16, 16, 8], "head_width": 8},
        "hoisdf": {
            "width": width, "unet": unet, "hidden": 64,
            "feedforward": 64, "token_mlp": [32], "field_mlp": [32, 16], "field_width": 64, "hand_points": 16,
            "object_points": 16,
        },
        "detector": {"width": width, "decoder": [16, 16, 8]},
    }[task]  # fmt: skip


def _box(points: torch.Tensor) -> tuple[float, float, float, float]:
    low, high = points.amin(0).clamp(min=-0.5), points.amax(0)
    return float(low[0]), float(low[1]), float(high[0].clamp(max=639.5)), float(high[1].clamp(max=479.5))


def toy_pose(count: int, seed: int) -> Pose:
    generator = torch.Generator().manual_seed(seed)
    hand = load_hand(kind="embedded")

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    rotvec = hand.mean_rotvec.expand(count, -1, -1) + 0.1 * normal(count, 16, 3)
    rotvec = torch.cat([(normal(count, 1, 3) * 0.8), rotvec[:, 1:]], 1)
    transl = torch.tensor([0.0, 0.0, 0.55]) + 0.05 * normal(count, 3)
    return Pose(rotvec, 0.5 * normal(count, 10), transl, normal(count, 3), transl + 0.04 * normal(count, 3))


def write_toy_shard(path: Path, count: int = 24, seed: int = 0, names: tuple[str, ...] = OBJECTS[:2]) -> Path:
    """Writes ``path`` (a ``shard_*`` folder) and returns its parent."""
    hand, pose = load_hand(kind="embedded"), toy_pose(count, seed)
    which = torch.arange(count) % len(names)
    mesh = Mesh.cat([embedded_object(names[i]) for i in which])
    photo = Camera.from_focal(600.0, (480, 640))
    matrix = photo.matrix.expand(count, 3, 3)
    posed = hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl)
    rotation = axis_angle_to_matrix(pose.object_rotvec)
    center = (rotation @ mesh.center[..., None])[..., 0] + pose.object_transl
    hand_pixels = project(posed.vertices, matrix)
    object_pixels = project(mesh.vertices @ rotation.mT + pose.object_transl[:, None], matrix)
    hand_boxes, object_boxes = [_box(p) for p in hand_pixels], [_box(p) for p in object_pixels]
    boxes = torch.tensor([crop_box(a, b) for a, b in zip(hand_boxes, object_boxes, strict=True)])
    camera = Camera(matrix, (480, 640)).cropped(boxes, (64, 64))
    features, visible = exact_features(pose, hand, mesh, camera)
    images, wholes = _pictures(features, boxes, seed)
    arrays = {
        "image": images, "whole": wholes, "visible": visible.numpy(), "index": np.arange(count),
        **{n: (getattr(features, n).numpy() * 255).round() for n in ("hand_mask", "object_mask")},
        **{n: getattr(features, n).numpy() for n in ("hand_coords", "object_coords", "depth")},
        "camera_matrix": matrix.numpy(), "crop_box": boxes.numpy(), "crop_matrix": camera.matrix.numpy(),
        "hand_box": np.array(hand_boxes), "object_box": np.array(object_boxes), "joints": posed.joints.numpy(),
        "object_center": center.numpy(), "object": which.numpy(),
        **{name: value.numpy() for name, value in pose.items()},
    }  # fmt: skip
    write_shard(path, arrays, {"objects": list(names), "crop": 128, "hand": "toy"})
    return path.parent


def _pictures(features, boxes: torch.Tensor, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    hand, other = features.hand_mask[:, None], features.object_mask[:, None]
    codes = hand * (0.3 + 0.5 * features.hand_coords) + other * features.object_coords
    small = codes + (1 - hand - other).clamp(min=0) * 0.1
    large = torch.nn.functional.interpolate(small, scale_factor=2, mode="bilinear")
    images = (large.clamp(0, 1) * 255).byte().numpy()
    wholes = rng.integers(0, 40, (len(boxes), 3, 128, 128)).astype(np.uint8)
    for whole, image, (x0, y0, x1, _) in zip(wholes, large, boxes.tolist(), strict=True):
        side = max(2, round((x1 - x0) / 5))
        left, top = round((x0 + 0.5) / 5), round((y0 + 0.5) / 5) + 16
        part = resample(image, (-0.5, -0.5, 127.5, 127.5), side)
        rows, columns = np.arange(top, top + side), np.arange(left, left + side)
        keep_r, keep_c = (rows >= 0) & (rows < 128), (columns >= 0) & (columns < 128)
        patch = (part.numpy() * 255).astype(np.uint8)[:, keep_r][:, :, keep_c]
        whole[:, rows[keep_r][0] : rows[keep_r][-1] + 1, columns[keep_c][0] : columns[keep_c][-1] + 1] = patch
    return images, wholes
