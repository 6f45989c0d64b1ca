"""Poses of the right object in another frame of its mesh: moved or turned by the same amount in every image.

A frame's offset is constant as the object sees it; an error of the system (say, of depth) is, if anything, constant as
the camera sees it. Where an object is seen from one side only the two cannot be told apart, and nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from horefine.evaluate.cases import Case
from horefine.evaluate.predictions import Prediction

__all__ = ["other_frames"]

FEWEST = 4
"""Items of one object."""
LEAST = {"mm": 15.0, "degrees": 20.0}
"""Smaller offsets are nobody's mistake."""
LEFT = 0.4
"""What may be left of the middle error under the suspicion."""
Said = dict[tuple[str, str], list[str]]


def other_frames(cases: Sequence[Case], predictions: Sequence[Prediction]) -> Said:
    """What and remedy of each object whose poses are of another frame, and its items."""
    groups: dict[tuple[str, bool], list[int]] = {}
    for place, case in enumerate(cases):
        groups.setdefault((case.object, case.left), []).append(place)
    found: Said = {}
    for (name, _), places in groups.items():
        said = _of_object(name, [cases[k] for k in places], [predictions[k] for k in places])
        if said is not None:
            found.setdefault(said, []).extend(cases[k].name for k in places)
    return found


def _of_object(name: str, cases: Sequence[Case], predictions: Sequence[Prediction]) -> tuple[str, str] | None:
    pairs = [(c.pose, p.pose) for c, p in zip(cases, predictions, strict=True) if c.pose and p.pose]
    mesh = cases[0].mesh
    if len(pairs) < FEWEST or mesh is None or mesh.symmetries is not None or cases[0].left:
        return None
    true, ours = (Rotation.from_rotvec(np.stack([pair[k].object_rotvec[0].numpy() for pair in pairs])) for k in (0, 1))
    turn = true.inv() * ours
    angle = _middle(turn.magnitude())
    quaternions = turn.as_quat()
    means = [Rotation.from_quat(np.delete(quaternions, k, 0)).mean() for k in range(len(quaternions))]
    rest = _middle([(mean.inv() * own).magnitude() for mean, own in zip(means, turn, strict=True)])
    if angle > np.radians(LEAST["degrees"]) and rest < LEFT * angle:
        axis = turn.mean().inv().as_rotvec(degrees=True).round().astype(int).tolist()
        what = f"the poses of {name!r} are of a mesh turned by {_numbers(axis)} degrees (axis times angle)"
        return what, "give R Q, Q that rotation, or evaluate with that mesh (--object)"
    shift = np.stack([(our.object_transl - own.object_transl)[0].double().numpy() for own, our in pairs]) * 1e3
    return _moved(name, shift, ours.inv().apply(shift))


def _moved(name: str, seen: Float[np.ndarray, "N 3"], own: Float[np.ndarray, "N 3"]) -> tuple[str, str] | None:
    """``seen``: errors of the position in the camera's frame, ``own``: in the object's, mm."""
    offset, rest = np.median(own, axis=0), _rest(own)
    length = _middle(np.linalg.norm(own, axis=1))
    if length < LEAST["mm"] or rest > LEFT * length or _rest(seen) < 2 * rest:
        return None
    place = _numbers(offset.round(1).tolist())
    what = f"the poses of {name!r} are of a mesh whose origin is at {place} mm of this one's"
    return what, "give t - R c, c that point, or evaluate with that mesh (--object)"


def _rest(values: Float[np.ndarray, "N 3"]) -> float:
    """How far an item is from what the other items say, in the middle: a few random ones always fit themselves."""
    return _middle([np.linalg.norm(values[k] - np.median(np.delete(values, k, 0), axis=0)) for k in range(len(values))])


def _middle(values: Sequence[Any] | np.ndarray) -> float:
    return float(np.median(values))


def _numbers(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"
