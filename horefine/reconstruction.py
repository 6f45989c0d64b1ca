"""Objects that nobody has a mesh of: the surface that a network saw takes the mesh's place.

Such a mesh has no texture and no dense map: nothing is known of it but its shape and where the network saw it. Losses
of its colours are left out, its place is not sought by its looks, and its dense map is the one that it shows itself
where the network saw it, in the pixels that are the object's: they hold it there, in the picture.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.config import Config
from horefine.hand import HandModel
from horefine.render.renderer import make_renderer
from horefine.scene import Features, Pose, Scene

__all__ = ["COLOURED", "codes_seen", "recipe_for_reconstructed"]

COLOURED = ("photometric",)
"""Losses that compare the object's colours."""


def recipe_for_reconstructed(config: Config) -> Config:
    """The recipe without what wants the object's colours: its losses, and its looks on the way in."""
    losses = {name: 0 if name in COLOURED else entry for name, entry in config.losses.items()}
    align = config.align.model_copy(update={"object": "given"})
    return config.model_copy(update={"losses": losses, "align": align})


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
