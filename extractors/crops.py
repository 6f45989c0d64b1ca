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

__all__ = ["extents_of", "map_camera", "mesh_of", "pictures"]


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
