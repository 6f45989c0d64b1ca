"""A folder of as many photographs as wanted, made of the shipped examples, with first poses and maps of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from benchmarks._common import ROOT
from horefine.data.folder import FolderDataset
from horefine.data.maps import disturb, exact_features
from horefine.hand import load_hand
from horefine.items import box_of_pose
from horefine.scene import MAPS

__all__ = ["examples_folder"]

SIDE = 64
"""Pixels of a map."""


def examples_folder(root: Path, count: int) -> Path:
    """``root/images``, ``root/init`` (8 degrees and 10 mm off) and ``root/maps`` (exact) of ``count`` items; ``root``.

    The photographs and their sidecars are links to ``examples/images``, again and again; so are poses and maps.
    """
    source, model = ROOT / "examples", load_hand(kind="embedded")
    for name in ("images", "init", "maps", "kept"):
        (root / name).mkdir(parents=True)
    for name in ("truth", "depth"):
        shutil.copytree(source / name, root / name)
    dataset = FolderDataset(source / "images")
    for index, name in enumerate(dataset.names):
        sample = dataset[index]
        assert sample.truth is not None and sample.mesh is not None
        box = box_of_pose(sample.truth, model, sample.mesh, sample.camera)
        camera = sample.camera.cropped(box, (SIDE, SIDE))
        features, _ = exact_features(sample.truth, model, sample.mesh, camera, contact=False)
        start = disturb(sample.truth, index, 8.0, 10.0, 5.0, model=model, object_center=sample.mesh.center)
        there = {key: getattr(features, key) for key in MAPS}
        arrays = {key: value[0].numpy() for key, value in there.items() if value is not None}
        np.savez(root / "kept" / f"{name}.maps.npz", camera=camera.matrix[0].numpy(), **arrays)  # pyright: ignore
        pose = {key: value[0].numpy() for key, value in start.items()}
        np.savez(root / "kept" / f"{name}.init.npz", side=sample.side, **pose)  # pyright: ignore
    for number in range(count):
        example = dataset.names[number % len(dataset)]
        name = f"{number:06d}_{example}"
        for ending in ("jpg", "json"):
            (root / "images" / f"{name}.{ending}").symlink_to(source / "images" / f"{example}.{ending}")
        for folder in ("init", "maps"):
            (root / folder / f"{name}.npz").symlink_to(root / "kept" / f"{example}.{folder}.npz")
    return root
