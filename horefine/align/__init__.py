"""The way in from afar: hand and object placed from the maps and the photograph alone, before anything is refined.

Refinement by gradients needs a start within some 60 degrees. A regressor that has not learned an object knows nothing
of its orientation; but its mesh, its looks and the maps do. No start is needed here, only a rough place.
"""

from __future__ import annotations

from horefine.align.rigid import align_hand
from horefine.align.symmetric import align_symmetric
from horefine.align.templates import align_object
from horefine.hand import HandModel
from horefine.scene import Features, Pose

__all__ = ["HANDS", "OBJECTS", "align", "align_hand", "align_object", "align_symmetric"]

HANDS: dict[str, tuple[str, ...]] = {
    "given": (),
    "codes": ("hand_mask", "object_mask", "hand_coords", "object_coords", "depth"),
}
"""How the hand may be aligned, and the features that it takes."""
OBJECTS: dict[str, tuple[str, ...]] = {"given": (), "looks": ("image", "hand_mask", "object_mask")}
"""How the object may be aligned, and the features that it takes."""


def align(
    pose: Pose,
    features: Features,
    hand_model: HandModel,
    *,
    hand: str = "codes",
    object: str = "looks",
    rotations: int = 576,
    candidates: int = 16,
    finalists: int = 4,
    renderer: str = "auto",
) -> Pose:
    """B poses with the object (:func:`align_object`), then the hand (:func:`align_hand`) placed anew.

    Args:
        pose: where the regressor saw them.
        features: with what :data:`HANDS` and :data:`OBJECTS` name for the ways chosen.
        hand: a key of :data:`HANDS`.
        object: a key of :data:`OBJECTS`.
        rotations, candidates, finalists: see :func:`align_object`.

    Raises:
        KeyError: an unknown way.
    """
    if OBJECTS[object]:
        pose = align_object(
            pose, features, renderer=renderer, rotations=rotations, candidates=candidates, finalists=finalists
        )
    if HANDS[hand]:
        pose = align_hand(pose, features, hand_model, rotations=rotations)
    return pose
