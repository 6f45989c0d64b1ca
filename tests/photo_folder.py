"""A small folder of photographs with sidecars, first poses and exact maps, as ``horefine run`` reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from horefine.data.maps import disturb, exact_features
from horefine.data.mirror import mirror_features, mirror_mesh, mirror_pose
from horefine.geometry import Camera
from horefine.hand import HandModel, load_hand
from horefine.items import box_of_pose
from horefine.mesh import Mesh
from horefine.objects import embedded_object
from horefine.scene import Features, Pose

FOCAL, SIZE, MAPS = 300.0, (120, 160), (32, 32)
FEW_STEPS = ("--set", "stages.correspond.steps=3", "--set", "stages.render.steps=2")
"""For tests of everything but the refinement itself."""


def right_scene(seed: int, model: HandModel, mesh: Mesh) -> Pose:
    """A hand with a can before its palm, half a metre away: not a grasp, but both are seen."""
    rng = np.random.default_rng(seed)
    rotvec = model.mean_rotvec.clone()[None]
    rotvec[0, 0] = torch.tensor(rng.normal(size=3) * 0.4)
    place = torch.tensor([[0.02, 0.01, 0.5]]) + torch.tensor(rng.normal(size=(1, 3)) * 0.01).float()
    joints = model(rotvec, torch.zeros(1, 10), place).joints
    return Pose(
        rotvec,
        torch.zeros(1, 10),
        place,
        torch.tensor(rng.normal(size=(1, 3)) * 0.3).float(),
        joints[:, 9] + torch.tensor([[0.03, 0.03, -0.09]]),
    )


def write_photo_folder(root: Path, count: int = 2, left: tuple[int, ...] = ()) -> Path:
    """``root/images``, ``root/init`` (disturbed poses), ``root/truth`` and ``root/maps``; returns ``root``.

    Items named in ``left`` are the mirror image: a left hand, the same object as it is.
    """
    for folder in ("images", "init", "truth", "maps"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    model, mesh = load_hand(kind="embedded"), embedded_object("can")
    camera = Camera.from_focal(FOCAL, SIZE)
    for index in range(count):
        mirrored = index in left
        seen = mirror_mesh(mesh) if mirrored else mesh  # in the mirror, where every hand is a right one
        pose = right_scene(index, model, seen)
        box = box_of_pose(pose, model, seen, camera)
        features, _ = exact_features(pose, model, seen, camera.cropped(box, MAPS), contact=False)
        start = disturb(pose, index, 5, 5, 3, model=model, object_center=seen.center)
        if mirrored:
            pose, start, features = mirror_pose(pose), mirror_pose(start), mirror_features(features)
        name, side = f"p{index}", "left" if mirrored else "right"
        _save(root, name, side, pose, start, features)
    return root


def _save(root: Path, name: str, side: str, pose: Pose, start: Pose, features: Features) -> None:
    rng = np.random.default_rng(len(name))
    noise = rng.integers(60, 200, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "images" / f"{name}.png")
    sidecar = {"camera": {"fx": FOCAL}, "object": "can", "side": side, "truth": f"../truth/{name}.npz"}
    (root / "images" / f"{name}.json").write_text(json.dumps(sidecar))
    for folder, which in (("init", start), ("truth", pose)):
        np.savez(root / folder / f"{name}.npz", **{key: value[0].numpy() for key, value in which.items()}, side=side)
    maps = ("hand_mask", "object_mask", "hand_coords", "object_coords", "depth")
    arrays = {key: getattr(features, key)[0].numpy() for key in maps}
    np.savez(root / "maps" / f"{name}.npz", camera=features.camera.matrix[0].numpy(), **arrays)
