"""The form of the embedded hand: a skeleton from published measures, and flesh as one signed distance.

Millimetres; a right hand, the wrist joint at the origin; fingers towards -x, palm towards -y, thumb towards +z.
Used by ``build_hand.py``; see ``docs/hand.md`` for the sources of the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.interpolate import PchipInterpolator

FINGERS = ("thumb", "index", "middle", "ring", "pinky")

BONES = {
    "thumb": (38.0, 30.7, 26.9, 34.0),
    "index": (88.7, 31.9, 21.4, 22.2),
    "middle": (92.6, 30.7, 22.5, 23.7),
    "ring": (84.5, 27.8, 24.0, 23.1),
    "pinky": (80.7, 21.2, 18.9, 19.8),
}
"""Wrist to joint 1, then 1-2, 2-3, 3-tip: means over people."""

_KNUCKLE_YZ = {"index": (0.5, 24.0), "middle": (3.5, 2.2), "ring": (1.5, -17.8), "pinky": (-4.0, -36.0)}
"""Height and side of the knuckles: the transverse arch and a spacing of about 19 mm."""

_DIRECTION = {"index": (7.0, 3.0), "middle": (0.0, 2.0), "ring": (-7.5, 2.5), "pinky": (-16.5, 3.5)}
"""Of the flat fingers, degrees: spread towards the thumb, slope towards the palm."""

_THUMB = ((-0.63, -0.36, 0.69), (-0.66, -0.13, 0.74), (-0.75, -0.06, 0.66), (-0.81, -0.02, 0.58))

THICKNESS = {
    # half breadths at the knuckle, mid phalanx 1, joint 2, mid phalanx 2, joint 3, pulp, end
    "thumb": (13.0, 11.2, 10.9, 10.0, 10.6, 10.6, 8.2),
    "index": (9.6, 9.2, 9.75, 8.65, 8.55, 8.4, 6.6),
    "middle": (9.7, 9.4, 9.9, 8.9, 8.75, 8.6, 6.8),
    "ring": (9.2, 8.9, 9.3, 8.35, 8.2, 8.1, 6.4),
    "pinky": (8.2, 7.8, 8.0, 7.3, 7.2, 7.1, 5.6),
}


def _unit(vector: np.ndarray | tuple[float, ...]) -> np.ndarray:
    return np.asarray(vector, float) / np.linalg.norm(vector)


def skeleton() -> dict[str, np.ndarray]:
    """Joints 1-3 and the tip of each finger, 4 x 3, of the flat hand; bone lengths are exactly ``BONES``."""
    joints = {}
    for finger in FINGERS:
        lengths = BONES[finger]
        if finger == "thumb":
            steps = [length * _unit(way) for length, way in zip(lengths, _THUMB, strict=True)]
            joints[finger] = np.cumsum(steps, 0)
            continue
        y, z = _KNUCKLE_YZ[finger]
        first = np.array([-np.sqrt(lengths[0] ** 2 - y * y - z * z), y, z])
        spread, slope = np.radians(_DIRECTION[finger])
        way = np.array([-np.cos(spread) * np.cos(slope), -np.sin(slope), np.sin(spread) * np.cos(slope)])
        along = np.cumsum([0.0, *lengths[1:]])
        joints[finger] = first + along[:, None] * way
    return joints


def back_of(finger: str, joints: np.ndarray) -> np.ndarray:
    """Unit dorsal direction of each of a finger's three bones (CPF's u axis), 3 x 3."""
    up = np.array([1.0, 1.0, 1.0]) if finger == "thumb" else np.array([0.0, 1.0, 0.0])
    backs = []
    for start, end in pairwise(joints):
        bone = _unit(start - end)
        left = _unit(np.cross(bone, up))
        backs.append(np.cross(left, bone))
    return np.array(backs)


@dataclass(frozen=True)
class Cone:
    """A capsule whose radius goes from one end to the other, flattened by ``flat`` along ``back``."""

    start: np.ndarray
    end: np.ndarray
    radii: tuple[float, float]
    back: np.ndarray
    flat: float = 1.0

    def distance(self, points: np.ndarray) -> np.ndarray:
        axis = self.end - self.start
        offset = points - self.start
        if self.flat != 1.0:
            back = self.back - axis * (self.back @ axis) / max(axis @ axis, 1e-9)
            back = _unit(back)
            offset = offset + np.outer(offset @ back, back) * (1 / self.flat - 1)
        along = np.clip(offset @ axis / max(axis @ axis, 1e-9), 0, 1)
        radius = self.radii[0] + along * (self.radii[1] - self.radii[0])
        return np.linalg.norm(offset - along[:, None] * axis, axis=1) - radius


@dataclass(frozen=True)
class Chain:
    """Capsules end to end, the radius a smooth curve along them (no swelling where two meet)."""

    spots: np.ndarray
    radii: np.ndarray
    backs: np.ndarray
    flat: float

    def distance(self, points: np.ndarray) -> np.ndarray:
        steps = np.linalg.norm(np.diff(self.spots, axis=0), axis=1)
        arc = np.concatenate([[0], np.cumsum(steps)])
        radius = PchipInterpolator(arc, self.radii)
        found = []
        for i in range(len(steps)):
            axis = (self.spots[i + 1] - self.spots[i]) / steps[i]
            back = self.backs[i] - axis * (self.backs[i] @ axis)
            back = _unit(back)
            offset = points - self.spots[i]
            offset = offset + np.outer(offset @ back, back) * (1 / self.flat - 1)
            along = np.clip(offset @ axis, 0, steps[i])
            found.append(np.linalg.norm(offset - along[:, None] * axis, axis=1) - radius(arc[i] + along))
        return np.min(found, 0)


def smooth_min(values: np.ndarray, blend: float) -> np.ndarray:
    """Smooth minimum over the first axis: ``-k log sum exp(-d/k)``."""
    low = values.min(0)
    return low - blend * np.log(np.exp(-(values - low) / blend).sum(0))


def smooth_max(a: np.ndarray, b: np.ndarray, blend: float) -> np.ndarray:
    return -smooth_min(np.stack([-a, -b]), blend)


class Form:
    """The flesh: signed distance (approximate away from the surface), negative inside, and which part a point is of."""

    def __init__(self) -> None:
        self.joints = skeleton()
        self.backs = {finger: back_of(finger, self.joints[finger]) for finger in FINGERS}
        self.digits = {finger: self._digit(finger) for finger in FINGERS}
        self.webs: list[Cone] = []
        self.palm = self._palm()

    def _digit(self, finger: str) -> list[Cone | Chain]:
        joints, backs = self.joints[finger], self.backs[finger]
        base, mid1, two, mid2, three, pulp, end = THICKNESS[finger]
        flat = 0.94
        way = _unit(joints[3] - joints[2])
        last = joints[3] - way * end
        stations = [
            (joints[0], base, backs[0], 0.0), ((joints[0] + joints[1]) / 2, mid1, backs[0], -0.7),
            (joints[1], two, backs[0], 0.0), ((joints[1] + joints[2]) / 2, mid2, backs[1], -0.7),
            (joints[2], three, backs[1], 0.0), (joints[2] + 0.5 * (last - joints[2]), pulp, backs[2], -0.6),
            (last, end, backs[2], 0.0),
        ]  # fmt: skip
        chain = Chain(
            np.array([p + shift * back for p, _, back, shift in stations]),
            np.array([r for _, r, _, _ in stations]),
            np.array([back for _, _, back, _ in stations]),
            flat,
        )
        # the pulp of the tip, and the fat pads under the phalanges
        size = 0.78 * pulp
        centre = joints[2] + 0.55 * (last - joints[2]) - backs[2] * (0.30 * pulp)
        pads = [Cone(centre - way * 2, centre + way * 3.0, (size, 0.92 * size), backs[2])]
        for bone, thick in ((0, mid1), (1, mid2)):
            ahead = joints[bone + 1] - joints[bone]
            low = joints[bone] + 0.5 * ahead - backs[bone] * (0.30 * thick)
            pads.append(Cone(low - 0.22 * ahead, low + 0.22 * ahead, (0.74 * thick,) * 2, backs[bone]))
        # knuckle of the middle joint
        bump = joints[1] + backs[0] * (0.33 * two)
        pads.append(Cone(bump - way, bump + way, (0.62 * two,) * 2, backs[0]))
        return [chain, *pads]

    def _palm(self) -> list[Cone]:
        up = np.array([0.0, 1.0, 0.0])
        joints = self.joints

        def cone(a: object, b: object, ra: float, rb: float, flat: float = 1.0) -> Cone:
            return Cone(np.asarray(a, float), np.asarray(b, float), (ra, rb), up, flat)

        cones = []
        heads = {"index": 10.4, "middle": 10.8, "ring": 10.3, "pinky": 9.2}
        for finger, head in heads.items():
            knuckle = joints[finger][0]
            root = 0.17 * knuckle + np.array([0, -1.5, 0.10 * knuckle[2]])
            cones.append(cone(root, knuckle + np.array([2.0, -3.0, 0]), 13.0, head))
            bump = knuckle + np.array([1.0, 3.4, 0])
            cones.append(cone(bump, bump + np.array([6, -1.5, -0.06 * knuckle[2]]), 5.9, 4.6))
        index, middle, ring, pinky = (joints[f][0] for f in ("index", "middle", "ring", "pinky"))
        cones += [
            cone(index + np.array([0, -7.2, -1]), middle + np.array([0, -8.4, 0]), 7.0, 7.0),
            cone(middle + np.array([0, -8.4, 0]), ring + np.array([0, -7.2, 0]), 7.0, 7.0),
            cone(ring + np.array([0, -7.2, 0]), pinky + np.array([2, -5.6, 2]), 7.0, 7.0),
            cone([-28, -6, 2], [-74, -5, 2], 9.5, 9.0),
            # heel: thenar, hypothenar
            cone([-13, -10, 15], [-42, -15, 33], 13.5, 13.2),
            cone([-20, -11, 12], [-48, -10, 22], 13.0, 9.5),
            cone([-12, -8, -14], [-50, -7.5, -30], 13.5, 11.8),
            cone([-50, -7.5, -30], pinky + np.array([8, -4, 0]), 11.8, 9.5),
            # wrist: radius and ulna side
            cone([-12, -3, 11], [32, -1, 13.0], 16.3, 17.3),
            cone([-12, -3, -11], [32, -1, -13.0], 15.8, 16.8),
            cone([-8, -3, 0], [32, -1, 0], 17.0, 18.0),
        ]
        cones += self._webs()
        return cones

    def _webs(self) -> list[Cone]:
        up = np.array([0.0, 1.0, 0.0])
        cones = []
        for one, other in (("index", "middle"), ("middle", "ring"), ("ring", "pinky")):
            a, b = self.joints[one], self.joints[other]
            reach = 0.33
            start = a[0] + reach * (a[1] - a[0]) - 4.0 * up
            end = b[0] + reach * (b[1] - b[0]) - 4.0 * up
            cones.append(Cone(start, end, (4.6, 4.6), up))
        self.webs = list(cones)
        thumb, index = self.joints["thumb"], self.joints["index"][0]
        for along_thumb, along_index, radius in ((0.15, 0.42, 10.0), (0.55, 0.58, 7.5), (0.9, 0.72, 5.5)):
            a = thumb[0] + along_thumb * (thumb[1] - thumb[0])
            b = along_index * index + np.array([0, -2.0, 3.0])
            cones.append(Cone(a, b, (radius, radius), up))
        return cones

    def parts(self, points: np.ndarray) -> dict[str, np.ndarray]:
        """Signed distance to the palm and to each finger alone."""
        found = {"palm": smooth_min(np.stack([c.distance(points) for c in self.palm]), 2.6)}
        cut = smooth_max(found["palm"], points[:, 0] - 24.0, 4.0)
        found["palm"] = cut
        for finger, cones in self.digits.items():
            body = smooth_min(np.stack([c.distance(points) for c in cones]), 1.1)
            found[finger] = self._nail(finger, points, body)
        return found

    def _nail(self, finger: str, points: np.ndarray, body: np.ndarray) -> np.ndarray:
        """Flattens the back of the last phalanx where the nail lies."""
        joints, back = self.joints[finger], self.backs[finger][2]
        way = _unit(joints[3] - joints[2])
        pulp = THICKNESS[finger][5]
        normal = _unit(back + 0.10 * way)
        top = joints[2] + 0.75 * (joints[3] - joints[2]) + back * 0.70 * pulp
        plane = (points - top) @ normal
        fade = 4.0 * np.clip(0.45 - (points - joints[2]) @ way / np.linalg.norm(joints[3] - joints[2]), 0, None) * 10
        return smooth_max(body, plane - fade, 0.8)

    def distance(self, points: np.ndarray) -> np.ndarray:
        """The whole hand: every finger melts into the palm, fingers hardly into each other."""
        parts = self.parts(points)
        palm = parts["palm"]
        joined = [smooth_min(np.stack([palm, parts[f]]), 3.2 if f == "thumb" else 2.4) for f in FINGERS]
        return smooth_min(np.stack(joined), 0.35)

    def gradient(self, points: np.ndarray, step: float = 0.05) -> np.ndarray:
        eye = np.eye(3) * step
        return np.stack([(self.distance(points + e) - self.distance(points - e)) / (2 * step) for e in eye], 1)

    def project(self, points: np.ndarray, level: float = 0.0, rounds: int = 6) -> np.ndarray:
        """Points moved along the gradient onto the surface ``distance == level``."""
        for _ in range(rounds):
            slope = self.gradient(points)
            square = np.maximum((slope * slope).sum(1), 0.05)
            step = (self.distance(points) - level) / square
            points = points - np.clip(step, -4, 4)[:, None] * slope
        return points
