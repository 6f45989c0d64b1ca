"""Training scenes and the objects they show; batches out of training shards (``horefine.data.shards``)."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from horefine.data.shards import WHOLE_SIZE, Shards, whole_from_image
from horefine.distance import DistanceGrid
from horefine.errors import InputError
from horefine.extractors.batches import Augmentation, Batch, augment_color, augment_view
from horefine.hand import HandModel
from horefine.mesh import Mesh, even_samples
from horefine.scene import Pose

__all__ = ["Grids", "Objects", "Scenes", "ShardScenes", "batch_of", "surface_points"]


@runtime_checkable
class Grids(Protocol):
    """A ``DistanceGrid`` of all objects, or something that gives those of a batch."""

    def __getitem__(self, index: Tensor, /) -> DistanceGrid: ...

    def to(self, device: str, /) -> Grids: ...


@dataclass(frozen=True)
class Objects:
    """The meshes of a data set, ready to be indexed by a batch."""

    meshes: Sequence[Mesh]
    extents: Tensor
    """Box sides "O 3", metres."""
    centers: Tensor
    """Box centres "O 3", object frame."""
    surface: Tensor
    """Points spread evenly over each surface "O 1024 3", object frame."""
    grids: Grids

    @staticmethod
    def of(meshes: list[Mesh]) -> Objects:
        boxes = [m.vertices[0] for m in meshes]
        extents = torch.stack([v.amax(0) - v.amin(0) for v in boxes])
        centers = torch.stack([(v.amax(0) + v.amin(0)) / 2 for v in boxes])
        surface = torch.stack([surface_points(*m.trimmed()) for m in meshes])
        return Objects(meshes, extents, centers, surface, DistanceGrid.cat([m.grid for m in meshes]))

    @staticmethod
    def cat(parts: Sequence[Objects]) -> Objects:
        """Several as one, in their order."""
        extents, centers, surface = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("extents", "centers", "surface")
        )
        everything = torch.arange(max(len(part.meshes) for part in parts), device=extents.device)
        grids = DistanceGrid.cat([part.grids[everything[: len(part.meshes)]] for part in parts])
        return Objects([mesh for part in parts for mesh in part.meshes], extents, centers, surface, grids)

    def to(self, device: str) -> Objects:
        """What a batch asks for on another device; the meshes stay where they are."""
        extents, centers, surface = (value.to(device) for value in (self.extents, self.centers, self.surface))
        return Objects(self.meshes, extents, centers, surface, self.grids.to(device))


def surface_points(vertices: Tensor, faces: Tensor, count: int = 1024) -> Tensor:
    """``count`` points "N 3" on a mesh, as dense everywhere; the same ones each time."""
    chosen, share = even_samples(vertices, faces, count)
    return (share[..., None] * vertices[faces[chosen]]).sum(1)


class Scenes(ABC):
    """Training scenes by number. The first ``held_out`` are for validation only."""

    objects: Objects
    hand: HandModel
    held_out: int
    device: str
    """Where batches, objects and hand are."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def choose(self, count: int, generator: torch.Generator) -> np.ndarray:
        """Numbers of random training scenes."""

    @abstractmethod
    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The scenes as they are."""

    @abstractmethod
    def wholes(self, indices: Sequence[int] | np.ndarray) -> tuple[Float[Tensor, "B 3 W W"], Float[Tensor, "B 2 4"]]:
        """Whole photographs, letterboxed, and the boxes of hand and object in them (shares of the picture)."""

    def augmented(
        self, indices: Sequence[int] | np.ndarray, options: Augmentation, generator: torch.Generator
    ) -> Batch:
        """The scenes seen from a turned, nearer or shifted camera, in other colours."""
        batch = self.batch(indices)
        rest = self.hand.rest_joints(batch.pose.hand_shape)[:, 0]
        batch = augment_view(batch, options, rest, generator)
        return dataclasses.replace(batch, image=augment_color(batch.image, options, generator))

    @staticmethod
    def open(root: str | Path, objects: Objects, hand: HandModel, held_out: int, device: str = "cpu") -> ShardScenes:
        """The shards under ``root``.

        Raises:
            InputError: there are no scenes but those held out.
        """
        shards = Shards.open(root)
        if len(shards) <= held_out:
            raise InputError(f"{root}: {len(shards)} scenes, of which {held_out} are held out; write more scenes")
        return ShardScenes(shards, objects.to(device), hand.to(device), held_out, device)


@dataclass(frozen=True)
class ShardScenes(Scenes):
    """Scenes of training shards on disk."""

    shards: Shards
    objects: Objects
    hand: HandModel
    held_out: int
    device: str = "cpu"

    def __len__(self) -> int:
        return len(self.shards)

    def choose(self, count: int, generator: torch.Generator) -> np.ndarray:
        """Random training scenes, in order of their place on disk."""
        return np.sort(torch.randint(self.held_out, len(self.shards), (count,), generator=generator).numpy())

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The scenes as they are."""

        def read(name: str) -> Tensor:
            return torch.from_numpy(self.shards.gather(name, indices)).to(self.device)

        return batch_of(read, self.objects, read("sensed") if "sensed" in self.shards.optional else None)

    def wholes(self, indices: Sequence[int] | np.ndarray) -> tuple[Float[Tensor, "B 3 W W"], Float[Tensor, "B 2 4"]]:
        """Whole photographs, letterboxed, and the boxes of hand and object in them (shares of the picture)."""
        gather = self.shards.gather
        corners = np.stack([gather(name, indices) for name in ("hand_box", "object_box")], 1).reshape(-1, 2, 2, 2)
        size = gather("photo", indices)[:, None, None] if "photo" in self.shards.optional else np.array([480, 640])
        boxes = (whole_from_image(corners, size) + 0.5) / WHOLE_SIZE
        image = torch.from_numpy(gather("whole", indices)).to(self.device).float() / 255
        return image, torch.from_numpy(boxes).float().flatten(2).to(self.device)


def batch_of(read: Callable[[str], Tensor], objects: Objects, sensed: Tensor | None = None) -> Batch:
    """A batch from the arrays of its scenes.

    Args:
        read: Gives one of ``horefine.data.shards.ARRAYS``, stacked.
        sensed: The optional array of that name.
    """
    names = ("hand_coords", "object_coords", "depth")
    maps = {name: read(name).float() for name in names}
    maps |= {name: read(name).float() / 255 for name in ("hand_mask", "object_mask")}
    which = read("object").long()
    pose = Pose(**{name: read(name) for name in Pose.names})
    return Batch(
        read("image").float() / 255, maps, read("crop_matrix"), pose, read("joints"), read("object_center"),
        which, objects.extents[which], None if sensed is None else sensed.float(),
    )  # fmt: skip
