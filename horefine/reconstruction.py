"""Objects that nobody has a mesh of: the surface that a network saw takes the mesh's place.

Such a mesh has no texture and no dense map: nothing is known of it but its shape and where the network saw it. Losses
of its colours are left out, its place is not sought by its looks, and its dense map is the one that it shows itself
where the network saw it, in the pixels that are the object's: they hold it there, in the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.config import Config, LevenbergMarquardt
from horefine.data.mirror import mirror_mesh
from horefine.extractors.place_mesh import place_mesh
from horefine.geometry import matrix_to_axis_angle
from horefine.hand import HandModel
from horefine.items import Item, mirror_surface
from horefine.mesh import Mesh
from horefine.render.renderer import make_renderer
from horefine.repair import signed_volume
from horefine.scene import Features, Pose, Scene

__all__ = ["COLOURED", "codes_seen", "one_object", "recipe_for_reconstructed"]

COLOURED = ("photometric",)
"""Losses that compare the object's colours."""
PATIENT = 1e-4
"""Tolerance of Levenberg-Marquardt's steps with such an object (``config.LevenbergMarquardt.tolerance``)."""


def recipe_for_reconstructed(config: Config) -> Config:
    """The recipe without what wants the object's colours: its losses, and its looks on the way in.

    The codes of such an object are read off its own surface and say little of its depth: that valley is long and flat,
    and a solver that ends where a step gains little would stop on the way. It goes on to :data:`PATIENT`.
    """
    losses = {name: 0 if name in COLOURED else entry for name, entry in config.losses.items()}
    align = config.align.model_copy(update={"object": "given"})
    changed: dict[str, Any] = {"losses": losses, "align": align}
    if isinstance(config.optimizer, LevenbergMarquardt):
        tolerance = min(config.optimizer.tolerance, PATIENT)
        changed["optimizer"] = config.optimizer.model_copy(update={"tolerance": tolerance})
        changed["stages"] = {n: stage.model_copy(update={"tolerance": None}) for n, stage in config.stages.items()}
    return config.model_copy(update=changed)


@torch.no_grad()
def codes_seen(
    pose: Pose, features: Features, hand_model: HandModel, renderer: str = "auto"
) -> Float[Tensor, "B 3 H W"]:
    """Dense maps of B objects: the codes that they show where they are, in the pixels that are theirs; 0 elsewhere.

    ``features``: with ``object_mask``.

    Raises:
        ValueError: no object mask.
    """
    if features.object_mask is None:
        raise ValueError("the dense map of a reconstructed object needs features.object_mask")
    draw = make_renderer(hand_model.faces, hand_model.codes, features.object, features.camera, renderer)
    seen = Scene(pose, pose, features, hand_model, draw).render
    shown = (seen.masks[:, 1] > 0.5) & (features.object_mask > 0.5)
    return seen.coords[:, 1] * shown[:, None]


def one_object(items: Sequence[Item], hand_model: HandModel, renderer: str = "auto") -> None:
    """Gives the frames of a clip one mesh in place of a reconstruction each: they show one object.

    It is that of the frame whose surface has the median volume. Frame by frame from there it is laid into the other
    surfaces, each beginning with the rotation of the frame next to it.

    ``items``: in order of time, with first pose, features and surfaces.
    """
    volumes = [abs(signed_volume(seen.vertices, seen.faces)) for seen in (i.surfaces["object"] for i in items)]
    first = sorted(range(len(items)), key=volumes.__getitem__)[len(items) // 2]
    mesh = items[first].mesh()
    for order in (range(first + 1, len(items)), range(first - 1, -1, -1)):
        turn = torch.eye(3)
        for frame in order:
            item = items[frame]
            seen = item.surfaces["object"]
            turn, place = place_mesh(mesh, mirror_surface(seen) if item.left else seen, near=turn)
            assert item.pose is not None
            item.pose = replace(item.pose, object_rotvec=matrix_to_axis_angle(turn[None]), object_transl=place[None])
            _take(item, mesh, hand_model, renderer)


def _take(item: Item, mesh: Mesh, hand_model: HandModel, renderer: str) -> None:
    """Makes ``mesh`` the object of a frame, as its pose has it."""
    item.sample = replace(item.sample, mesh=mirror_mesh(mesh) if item.left else mesh)
    features = item.features
    assert features is not None and item.pose is not None
    features = replace(features, object=mesh, contact=None)
    if features.object_coords is not None:
        features = replace(features, object_coords=codes_seen(item.pose, features, hand_model, renderer))
    item.features = features
