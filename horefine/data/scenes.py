"""Scenes by number: which object, which grasp, seen from where, and the exact maps of it.

Scene ``i`` of seed ``s`` is always the same, whatever the number of scenes, workers or the order of asking. Grasps come
from :class:`~horefine.data.bank.GraspStore` (made when first needed, kept in the user's cache).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from horefine.data.bank import GraspStore
from horefine.data.compose import PHOTO, Layout, compose
from horefine.data.maps import part_maps
from horefine.data.mirror import mirror_mesh
from horefine.data.shade import Stage, make_stage
from horefine.geometry import Camera
from horefine.hand import HandModel, load_hand
from horefine.mesh import Mesh
from horefine.objects import OBJECTS, embedded_object
from horefine.scene import Features

__all__ = ["SceneSource", "crop_camera", "crop_features", "inside_photo", "photo_camera"]

MAP_SIZE = 64
HELD_OUT = 1000
"""Number of the first block of grasps that training never sees."""


class SceneSource:
    """Layouts by index: which object, which grasp, seen from where. Shared by everything below; picklable."""

    def __init__(
        self,
        seed: int = 0,
        *,
        objects: Iterable[str | Path | Mesh] | None = None,
        hand: HandModel | None = None,
        cache: Path | None = None,
        variety: int = 4,
        mirrored: bool = False,
    ) -> None:
        """Makes nothing yet.

        Args:
            seed: Of everything: grasps, views, looks.
            objects: Names of embedded objects, mesh files or meshes (B = 1); all embedded objects when left out.
            hand: Default: the embedded hand (a MANO file of the user's is used only when asked for).
            cache: Folder of grasp blocks.
            variety: Blocks of grasps made of each object, of about 50 grasps.
            mirrored: Take the objects' mirror images: flipped pictures then show left hands with the true objects.
        """
        self.seed, self.variety, self.mirrored = seed, variety, mirrored
        self.wanted = tuple(objects) if objects is not None else tuple(OBJECTS)
        self.hand = hand if hand is not None else load_hand(kind="embedded")
        self.cache = cache

    @cached_property
    def meshes(self) -> list[Mesh]:
        """The objects, each B = 1 with a distance grid."""
        found = [_mesh(thing) for thing in self.wanted]
        return [mirror_mesh(mesh) for mesh in found] if self.mirrored else found

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

    def which(self, index: int) -> int:
        """The object of scene ``index``."""
        return int(self.rng(index, 4).integers(len(self.wanted)))

    def layout(self, index: int) -> tuple[int, Layout]:
        """Which object, and the geometry of scene ``index``."""
        rng, which = self.rng(index, 0), self.which(index)
        bank = self.store.block(which, self.block_number(index))
        chosen = int(rng.integers(len(bank)))
        return which, compose(self.hand, self.meshes[which], bank[chosen : chosen + 1], rng)

    def block_number(self, index: int) -> int:
        """Which block of grasps a scene takes. The first scenes take the first: few scenes never wait for many grasps.

        Seed 0, which networks are trained on, has blocks of its own; all other seeds share two others.
        """
        turn = index // (40 * len(self.wanted))
        return turn % self.variety if self.seed == 0 else HELD_OUT + turn % 2

    def stage(self, index: int, which: int, layout: Layout) -> Stage:
        """The look of scene ``index``, whose :meth:`layout` is given."""
        colors = self.hand.colors.numpy()
        return make_stage(layout, self.meshes[which], self.rng(index, 1), colors, self.mirrored)

    def __getstate__(self) -> dict:
        """Without what can be made again."""
        kept = {"seed", "variety", "mirrored", "wanted", "hand", "cache"}
        return {name: value for name, value in self.__dict__.items() if name in kept}


def _mesh(thing: str | Path | Mesh) -> Mesh:
    if isinstance(thing, Mesh):
        return thing
    if str(thing) in OBJECTS:
        return embedded_object(str(thing))
    return Mesh.load(Path(thing))[0].with_sdf()


def photo_camera(layout: Layout) -> Camera:
    """Of the whole photo."""
    return Camera(torch.as_tensor(layout.matrix, dtype=torch.float32)[None], PHOTO)


def crop_camera(layout: Layout, size: int) -> Camera:
    """Of the square crop, resampled to ``size`` pixels a side."""
    return photo_camera(layout).cropped(layout.crop_box, (size, size))


def crop_features(layout: Layout, mesh: Mesh, size: int = MAP_SIZE) -> tuple[Features, tuple[float, float]]:
    """Exact maps (B = 1) of the crop as a photo shows it: hidden parts and what lies outside the photo are left out.

    Also the share of the silhouettes inside the crop that is seen.
    """
    camera = crop_camera(layout, size)
    parts = [layout.hand, layout.object, *layout.hiding]
    masks, codes, depth, visible = part_maps(parts, camera.matrix[0].numpy(), (size, size))
    relative = np.where(depth > 0, depth - layout.object_center[2], 0).astype(np.float32)
    inside = inside_photo(layout, size)
    hand_mask, object_mask, hand_coords, object_coords, relative = (
        torch.from_numpy(values * inside)[None] for values in (*masks, *codes, relative)
    )
    features = Features(camera, mesh, hand_mask, object_mask, hand_coords, object_coords, relative)
    return features, (float(visible[0]), float(visible[1]))


def inside_photo(layout: Layout, size: int) -> np.ndarray:
    """Which pixels of the crop show the photo (size x size, bool)."""
    x0, y0, x1, y1 = layout.crop_box
    x = x0 + (np.arange(size) + 0.5) * (x1 - x0) / size
    y = y0 + (np.arange(size) + 0.5) * (y1 - y0) / size
    rows = (y >= -0.5) & (y <= PHOTO[0] - 0.5)
    columns = (x >= -0.5) & (x <= PHOTO[1] - 0.5)
    return rows[:, None] & columns[None]
