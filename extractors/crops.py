"""What networks take from a batch of crops."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.data import Sample
from horefine.data.shards import MAP_SIZE
from horefine.errors import InputError
from horefine.geometry import Camera
from horefine.mesh import Mesh

__all__ = ["depth_maps", "extents_of", "map_camera", "mesh_of", "pictures"]

MEASURED = 0.002
"""Share of a depth map's pixels: where fewer were measured, there is no depth."""


def pictures(crops: Sequence[Sample], size: int) -> Float[Tensor, "B 3 S S"]:
    """The crops at the network's size, averaged when they shrink.

    Raises:
        InputError: a crop that is not square, or has numbers that are not finite.
    """
    images = []
    for crop in crops:
        height, width = crop.image.shape[1:]
        if height != width:
            raise InputError(f"{crop.name}: the crop is {width}x{height} pixels; cut a square (horefine.data.crop)")
        if not torch.isfinite(crop.image).all():
            raise InputError(f"{crop.name}: the picture holds numbers that are not finite")
        image = crop.image[None]
        if height != size:
            image = torch.nn.functional.interpolate(image, (size, size), mode="bilinear", antialias=height > size)
        images.append(image)
    return torch.cat(images)


def map_camera(crops: Sequence[Sample], size: int = MAP_SIZE) -> Camera:
    """The cameras of the crops' maps."""
    cameras = [crop.camera.resized((size, size)) for crop in crops]
    return Camera(torch.cat([camera.matrix for camera in cameras]), (size, size))


def mesh_of(crops: Sequence[Sample]) -> Mesh:
    """The crops' objects in one batch.

    Raises:
        InputError: a crop without an object.
    """
    meshes = []
    for crop in crops:
        if crop.mesh is None:
            raise InputError(f"{crop.name}: no object mesh; name one in the sidecar ('object')")
        meshes.append(crop.mesh)
    return Mesh.cat(meshes)


def extents_of(crops: Sequence[Sample]) -> Float[Tensor, "B 3"]:
    """Sides of the objects' boxes, metres; zeros where the object is not known."""
    unknown = torch.zeros(1, 3)
    return torch.cat([unknown if c.mesh is None else c.mesh.box[1] - c.mesh.box[0] for c in crops])


def depth_maps(crops: Sequence[Sample], side: int) -> Float[Tensor, "B D D"]:
    """The crops' measured depth at the network's size: picked, never mixed; metres, 0 where nothing was seen.

    Raises:
        InputError: a crop whose picture came without depth, or whose depth shows next to nothing.
    """
    maps = []
    for crop in crops:
        if crop.depth is None:
            raise InputError(
                f"{crop.name}: c2fsdf and measured_depth need a depth camera's map: name it in the sidecar ('depth': "
                "FILE.png, millimetres), or take another --init (hoisdf, gsdf) and --config (pixels)"
            )
        depth = torch.where(torch.isfinite(crop.depth), crop.depth, 0.0)
        if float((depth > 0).float().mean()) < MEASURED:
            raise InputError(f"{crop.name}: its depth map shows next to nothing where hand and object are; see 'depth'")
        index = ((torch.arange(side) + 0.5) * depth.shape[-1] / side).long()
        maps.append(depth[index][:, index])
    return torch.stack(maps)
