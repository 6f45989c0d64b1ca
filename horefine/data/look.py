"""One sample measured against what hands, cameras and held things are like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from horefine.anatomy import FINGERS, JOINTS
from horefine.data import Dataset, Sample
from horefine.data.mirror import mirror_pose
from horefine.errors import AssetError, InputError
from horefine.geometry import project
from horefine.hand import HandModel

__all__ = ["Look", "look_at", "posed_parts"]

HAND_LENGTH = 0.13, 0.25
"""Metres from the wrist along the middle finger to its tip, bone by bone: small children and giants aside."""
DISTANCE = 0.15, 3.0
"""Metres from the camera to the wrist."""
_IN_PICTURE = 0.5
"""Of the annotated joints (of the object's vertices), at least this share is in the picture."""
_GAP = 0.10
"""Metres; a held object's nearest vertex is not farther from a joint."""
_DEPTH = 0.06
"""Metres by which a depth map and the annotated joints may differ in the middle."""
_AGREE = 0.015
"""Metres on the mean between the joints of the true pose and the annotated ones."""
_PHALANX = 0.08
"""Metres; no bone of a finger is longer. Joints in another order make bones between fingers."""
_CHAINS = [[0, *(JOINTS.index(f"{finger}{k}") for k in (1, 2, 3, 4))] for finger in FINGERS[1:]]
_MIDDLE = FINGERS[1:].index("middle")


@dataclass(frozen=True)
class Look:
    """What was found of one sample."""

    index: int
    name: str
    error: str | None = None
    """Why it cannot be read."""
    side: str = "right"
    hand: str = "none"
    """``posed`` (a true pose), ``joints`` (annotated joints alone) or ``none``."""
    object: str = "none"
    """``posed``, ``no mesh`` (its pose is known, its mesh is not there) or ``none``."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def look_at(dataset: Dataset, index: int, hand: HandModel) -> tuple[Look, Sample | None]:
    """One sample, measured."""
    names: Sequence[str] | None = getattr(dataset, "names", None)
    name = f"{index:06d}" if names is None else names[index]
    try:
        sample = dataset[index]
    except (InputError, AssetError, OSError) as error:
        return Look(index, name, error=str(error)), None
    thing = "none" if sample.object_truth is None and sample.truth is None else "posed"
    look = Look(
        index, sample.name, side=sample.side,
        hand="posed" if sample.truth is not None else "joints" if sample.joints is not None else "none",
        object="no mesh" if thing == "posed" and sample.mesh is None else thing, notes=sample.notes,
    )  # fmt: skip
    numbers = _measured(sample, *posed_parts(sample, hand), hand)
    return replace(look, numbers=numbers, doubts=tuple(_doubts(numbers))), sample


@torch.no_grad()
def posed_parts(
    sample: Sample, hand: HandModel
) -> tuple[Float[ndarray, "V 3"] | None, Float[ndarray, "21 3"] | None, Float[ndarray, "N 3"] | None]:
    """Vertices and joints of the true hand, vertices of the object: metres, camera, as they are in the picture."""
    vertices = joints = thing = None
    if sample.truth is not None:
        left = sample.side == "left"
        pose = mirror_pose(sample.truth) if left else sample.truth
        posed = hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl)
        flip = np.array([-1.0 if left else 1.0, 1.0, 1.0])
        vertices, joints = posed.vertices[0].double().numpy() * flip, posed.joints[0].double().numpy() * flip
    if sample.mesh is not None:
        own = sample.mesh.trimmed()[0]
        if sample.object_truth is not None:
            matrix = sample.object_truth.double().numpy()
            thing = own.double().numpy() @ matrix[:3, :3].T + matrix[:3, 3]
        elif sample.truth is not None:
            thing = sample.truth.place(own[None])[0].double().numpy()
    return vertices, joints, thing


def _measured(
    sample: Sample, vertices: ndarray | None, posed: ndarray | None, thing: ndarray | None, hand: HandModel
) -> dict[str, float]:
    """What can be compared with what is known of hands, cameras and pictures."""
    given = None if sample.joints is None else sample.joints.double().numpy()
    joints = posed if given is None or not np.isfinite(given).all() else given
    found: dict[str, float] = {}
    if joints is not None:
        found["wrist_depth_m"] = float(joints[0, 2])
        bones = np.linalg.norm(np.diff(joints[_CHAINS], axis=1), axis=2)
        found["hand_length_m"] = float(bones[_MIDDLE].sum())
        found["longest_phalanx_m"] = float(bones[:, 1:].max())
        found["palm_is_longest"] = float((bones.argmax(1) == 0).mean())
        found["joints_in_picture"] = _inside(joints, sample)
        middle = _depth_difference(joints, sample)
        if middle is not None:
            found["depth_minus_joints_m"] = middle
    if joints is given and posed is not None and given is not None:
        found["pose_to_joints_m"] = float(np.linalg.norm(posed - given, axis=1).mean())
    if thing is not None:
        found["object_depth_m"] = float(np.median(thing[:, 2]))
        found["object_in_picture"] = _inside(thing, sample)
    if thing is not None and joints is not None:
        apart = np.linalg.norm(thing[:, None] - joints, axis=-1) if len(thing) < 20000 else np.full((1, 1), np.nan)
        found["hand_to_object_m"] = float(apart.min())
    return found


def _inside(points: ndarray, sample: Sample) -> float:
    """Share of points in front of the camera and in the picture."""
    front = points[points[:, 2] > 0.01]
    if not len(front):
        return 0.0
    pixels = project(torch.from_numpy(front)[None], sample.camera.matrix.double())[0].numpy()
    height, width = sample.camera.size
    seen = (pixels >= -0.5).all(1) & (pixels < [width - 0.5, height - 0.5]).all(1)
    return float(seen.sum() / len(points))


def _depth_difference(joints: ndarray, sample: Sample) -> float | None:
    """Depth map minus the joints' depth, in the middle of those that it sees."""
    if sample.depth is None or (joints[:, 2] <= 0.01).any():
        return None
    pixels = project(torch.from_numpy(joints)[None], sample.camera.matrix.double())[0].round().long().numpy()
    height, width = sample.depth.shape
    known = (pixels >= 0).all(1) & (pixels < [width, height]).all(1)
    depth = sample.depth.numpy()[pixels[known, 1], pixels[known, 0]]
    measured = depth > 0
    return float(np.median(depth[measured] - joints[known, 2][measured])) if measured.sum() >= 5 else None


def _doubts(numbers: Mapping[str, float]) -> list[str]:
    """What is not as hands, cameras and held things are."""
    said = []

    def within(key: str, low: float, high: float, text: str) -> None:
        value = numbers.get(key)
        if value is not None and not low <= value <= high:
            said.append(text.format(value))

    within("wrist_depth_m", *DISTANCE, "the wrist is {:.3g} m before the camera: axes or unit?")
    within("hand_length_m", *HAND_LENGTH, "the hand is {:.3g} m long: unit or order of joints?")
    within("longest_phalanx_m", 0.01, _PHALANX, "a finger has a bone of {:.3g} m: unit or order of joints?")
    within("palm_is_longest", 0.7, 1, "in {:.0%} of the fingers the palm's bone is the longest: order of joints?")
    within("joints_in_picture", _IN_PICTURE, 1, "only {:.0%} of the joints are in the picture: axes or camera?")
    within("object_in_picture", 0.2, 1, "only {:.0%} of the object is in the picture: axes or camera?")
    within("pose_to_joints_m", 0, _AGREE, "the posed hand is {:.3f} m from the annotated joints: pose convention?")
    within("hand_to_object_m", 0, _GAP, "hand and object are {:.3g} m apart: frame of one of them?")
    within(
        "depth_minus_joints_m", -_DEPTH, _DEPTH, "the depth map is {:.3f} m off the joints: its unit, or the camera's?"
    )
    return said
