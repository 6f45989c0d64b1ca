"""Synthetic hand-object scenes: an index with ``[i] -> Sample``, exact poses and maps, and what is written from them.

Scene ``i`` of seed ``s`` is always the same, whatever the number of scenes, workers or the order of asking. Grasps come
from :class:`~horefine.data.bank.GraspStore` (made when first needed, kept in the user's cache).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from horefine.data.bank import GraspStore
from horefine.data.compose import PHOTO, Layout, compose
from horefine.data.maps import exact_features
from horefine.geometry import Camera
from horefine.hand import HandModel, load_hand
from horefine.mesh import Mesh
from horefine.objects import OBJECTS, embedded_object
from horefine.scene import Features, Pose

__all__ = ["SceneSource", "benchmark_scenes"]

MAP_SIZE = 64


class SceneSource:
    """Layouts by index: which object, which grasp, seen from where. Shared by everything below; picklable."""

    def __init__(
        self,
        seed: int = 0,
        *,
        objects: Iterable[str | Path | Mesh] | None = None,
        hand: HandModel | None = None,
        cache: Path | None = None,
        variety: int = 8,
    ) -> None:
        """Makes nothing yet.

        Args:
            seed: Of everything: grasps, views, looks.
            objects: Names of embedded objects, mesh files or meshes (B = 1); all embedded objects when left out.
            hand: Default: the embedded hand (a MANO file of the user's is used only when asked for).
            cache: Folder of grasp blocks.
            variety: Blocks of grasps made of each object, of about 20 grasps.
        """
        self.seed, self.variety = seed, variety
        self.wanted = tuple(objects) if objects is not None else tuple(OBJECTS)
        self.hand = hand if hand is not None else load_hand(kind="embedded")
        self.cache = cache

    @cached_property
    def meshes(self) -> list[Mesh]:
        """The objects, each B = 1 with a distance grid."""
        return [_mesh(thing) for thing in self.wanted]

    @cached_property
    def store(self) -> GraspStore:
        return GraspStore(self.hand, self.meshes, self.cache)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the objects."""
        return tuple(mesh.name[0] for mesh in self.meshes)

    def rng(self, index: int, stream: int) -> np.random.Generator:
        """Random numbers of one scene; stream 0 is geometry, the others looks."""
        return np.random.default_rng([self.seed, index, stream])

    def layout(self, index: int) -> tuple[int, Layout]:
        """Which object, and the geometry of scene ``index``."""
        rng = self.rng(index, 0)
        which = int(rng.integers(len(self.meshes)))
        # the first scenes need only the first block of each object: a few scenes never wait for many grasps
        number = (index // (10 * len(self.meshes))) % self.variety + 1000 * self.seed
        bank = self.store.block(which, number)
        chosen = int(rng.integers(len(bank)))
        return which, compose(self.hand, self.meshes[which], bank[chosen : chosen + 1], rng)

    def __getstate__(self) -> dict:
        """Without what can be made again."""
        kept = {"seed", "variety", "wanted", "hand", "cache"}
        return {name: value for name, value in self.__dict__.items() if name in kept}


def _mesh(thing: str | Path | Mesh) -> Mesh:
    if isinstance(thing, Mesh):
        return thing
    if str(thing) in OBJECTS:
        return embedded_object(str(thing))
    from horefine.mesh_io import load_mesh

    return load_mesh(Path(thing))[0]


def benchmark_scenes(
    count: int, seed: int, *, size: int = MAP_SIZE, occluders: bool = False, source: SceneSource | None = None
) -> tuple[Pose, Features, Float[Tensor, "B 3"]]:
    """Poses and exact maps of ``count`` scenes in one batch, without pictures: what refinement is measured on.

    Args:
        size: Side of the square maps, pixels.
        occluders: Whether forearm and things in front hide parts of the maps.
        source: Where the scenes come from (default: all embedded objects, the embedded hand, this seed).

    Returns:
        The true poses, the features, and the object centres in their meshes' frames (for ``disturb``).
    """
    source = source if source is not None else SceneSource(seed)
    drawn = [source.layout(index) for index in range(count)]
    pose = Pose.cat([layout.pose for _, layout in drawn])
    mesh = Mesh.cat([source.meshes[which] for which, _ in drawn])
    cameras = torch.stack([crop_camera(layout, size).matrix[0] for _, layout in drawn])
    hiding = [layout.hiding for _, layout in drawn] if occluders else None
    features, _ = exact_features(pose, source.hand, mesh, Camera(cameras, (size, size)), hiding=hiding)
    return pose, features, mesh.center


def photo_camera(layout: Layout) -> Camera:
    """Of the whole photo."""
    return Camera(torch.as_tensor(layout.matrix, dtype=torch.float32)[None], PHOTO)


def crop_camera(layout: Layout, size: int) -> Camera:
    """Of the square crop, resampled to ``size`` pixels a side."""
    return photo_camera(layout).cropped(layout.crop_box, (size, size))
