"""The shapes of the embedded objects, in metres, z up when standing: everyday things of their real size.

Simple ones are boxes, lathes and sweeps; the others are solids put together from distance functions (the primitives
are Quilez's), contoured and remeshed. Front is -y, right is +x.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from horefine import repair
from horefine.object_meshing import Arrays, Solid, box, bridge, contour, lathe, remesh, stack

__all__ = ["SHAPES"]

Point = tuple[float, float, float]


def _capsule(p: np.ndarray, a: Point, b: Point, radius: float, end: float | None = None) -> np.ndarray:
    """A ball swept from a to b, its radius going to ``end``."""
    along = np.subtract(b, a)
    t = np.clip((p - a) @ along / (along @ along), 0, 1)
    return np.linalg.norm(p - a - t[:, None] * along, axis=1) - (
        radius + t * ((radius if end is None else end) - radius)
    )


def _brick(p: np.ndarray, centre: Point, size: Point, rounding: float = 0.0) -> np.ndarray:
    """A box of full size ``size``, its edges rounded."""
    q = np.abs(p - np.array(centre)) - np.array(size) / 2 + rounding
    return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(1), 0) - rounding


def _rod(
    p: np.ndarray, a: Point, b: Point, radius: float, rounding: float = 0.0, end: float | None = None
) -> np.ndarray:
    """A cylinder (a cone when ``end`` is given) from a to b with flat ends."""
    along = np.subtract(b, a)
    length = float(np.linalg.norm(along))
    t = (p - a) @ along / length
    r = np.linalg.norm(p - a - t[:, None] * along / length, axis=1)
    wide = radius + np.clip(t / length, 0, 1) * ((radius if end is None else end) - radius)
    q = np.stack([r - wide + rounding, np.abs(t - length / 2) - length / 2 + rounding])
    return np.linalg.norm(np.maximum(q, 0), axis=0) + np.minimum(q.max(0), 0) - rounding


def _ring(p: np.ndarray, centre: Point, radii: tuple[float, float], thickness: float) -> np.ndarray:
    """An elliptic ring in the x-z plane (nearly a distance when the radii are alike)."""
    q = p - np.array(centre)
    scaled = np.hypot(q[:, 0] / radii[0], q[:, 2] / radii[1])
    return np.hypot((scaled - 1) * min(radii), q[:, 1]) - thickness


def _join(a: np.ndarray, b: np.ndarray, blend: float) -> np.ndarray:
    """Union with a fillet of about ``blend``."""
    h = np.clip(0.5 + 0.5 * (b - a) / blend, 0, 1)
    return b + (a - b) * h - blend * h * (1 - h)


def _solid_mesh(solid: Solid, low: Point, high: Point, fine: float, length: float) -> Arrays:
    """A solid's mesh with edges of ``length``, contoured at ``fine`` or, if that pinches anywhere, a little finer."""
    for step in (fine, 0.94 * fine, 0.89 * fine, 0.83 * fine):
        vertices, faces = remesh(solid, contour(solid, np.array(low), np.array(high), step), length)
        _, place, _ = repair.edge_table(faces)
        if (np.bincount(place) == 2).all() and repair.components(faces)[0] == 1:
            return vertices, faces
    raise RuntimeError(f"no closed surface in one piece came of the solid at lattice steps near {fine}")


def _box() -> Arrays:
    return box((0.16, 0.06, 0.21), 0.012)


def _can() -> Arrays:
    ends = [(0, -0.049), (0.029, -0.049), (0.031, -0.051), (0.0335, -0.051)]
    return lathe(ends + [(r, -z) for r, z in reversed(ends)], 0.0068)


def _bottle() -> Arrays:
    def oval(angles: np.ndarray, radius: float, z: float) -> np.ndarray:
        flat = 1 - 0.4 * np.clip((0.075 - z) / 0.03, 0, 1)  # oval below, round at the neck
        return np.stack([radius * np.cos(angles), flat * radius * np.sin(angles)], 1)

    body = [(0, -0.095), (0.042, -0.095), (0.046, -0.088), (0.046, 0.02), (0.042, 0.038), (0.026, 0.053)]
    cap = [(0.019, 0.056), (0.019, 0.072), (0.012, 0.076), (0.0055, 0.095), (0, 0.095)]
    return lathe(body + cap, 0.0082, oval)


def _mug() -> Arrays:
    foot = [(0, -0.0475), (0.038, -0.0475), (0.041, -0.0445)]
    lip = [(0.041, 0.0463), (0.0395, 0.0475), (0.0375, 0.0475), (0.036, 0.0463)]
    body = lathe([*foot, *lip, (0.036, -0.0415), (0, -0.0415)], 0.0076)
    rings = []
    for turn in np.linspace(1.25, -1.25, 12):
        out = np.array([np.cos(turn), 0, np.sin(turn)])
        around = 2 * np.pi * np.arange(8) / 8
        ring = 0.0058 * np.cos(around)[:, None] * out + 0.0068 * np.sin(around)[:, None] * np.array([0, 1, 0])
        rings.append(np.array([0.038, 0, 0.002]) + out * np.array([0.031, 0, 0.031]) + ring)
    return bridge(body, np.hypot(body[0][:, 0], body[0][:, 1]) > 0.039, rings, 0.0115)


def _bowl() -> Arrays:
    outer = [(0, -0.028), (0.030, -0.028), (0.032, -0.024), (0.052, -0.012), (0.066, 0.006), (0.074, 0.027)]
    inner = [(0.069, 0.027), (0.0612, 0.0085), (0.048, -0.008), (0.030, -0.0185), (0, -0.021)]
    return lathe(outer + inner, 0.0075)


def _tumbler() -> Arrays:
    outer, inner = [(0, -0.06), (0.029, -0.06), (0.041, 0.06)], [(0.0367, 0.06), (0.0252, -0.055), (0, -0.055)]
    return lathe(outer + inner, 0.0078)


def _marker() -> Arrays:
    body = [(0, -0.07), (0.0065, -0.07), (0.008, -0.068), (0.0085, 0.02)]
    cap = [(0.0098, 0.022), (0.0098, 0.062), (0.007, 0.070), (0, 0.070)]
    return lathe(body + cap, 0.0042)


def _banana() -> Arrays:
    along = np.linspace(0, 1, 38)
    bend = 1.9 * (along - 0.5)  # radians along an arc of 11 cm radius
    width = np.interp(along, [0, 0.03, 0.12, 0.35, 0.65, 0.85, 0.91, 1], [4, 6.5, 13, 18, 18, 12, 6, 5.5]) / 1000
    rings = []
    for index, (turn, radius) in enumerate(zip(bend, width, strict=True)):
        count = max(6, round(2 * np.pi * radius / 0.0056))
        angles = 2 * np.pi * (np.arange(count) + 0.5 * (index % 2)) / count
        reach = radius * (1 + 0.05 * np.cos(5 * angles))  # five soft ridges
        out = 0.11 + reach * np.cos(angles)
        rings.append(np.stack([out * np.sin(turn), reach * np.sin(angles), -out * np.cos(turn)], 1))
    ends = [rings[0].mean(0, keepdims=True), rings[-1].mean(0, keepdims=True)]
    return stack([ends[0], *rings, ends[1]])


def _drill() -> Arrays:
    def solid(p: np.ndarray) -> np.ndarray:
        motor = _rod(p, (-0.085, 0, 0.06), (0.035, 0, 0.06), 0.029, 0.006)
        gear = _rod(p, (0.03, 0, 0.06), (0.062, 0, 0.06), 0.026, 0.003, 0.020)
        chuck = _rod(p, (0.06, 0, 0.06), (0.092, 0, 0.06), 0.0165, 0.002, 0.011)
        handle = _capsule(p * [1, 1.25, 1], (-0.032, 0, 0.045), (-0.050, 0, -0.055), 0.0215, 0.020) / 1.25
        trigger = _brick(p, (-0.008, 0, 0.022), (0.022, 0.017, 0.030), 0.005)
        battery = _brick(p, (-0.036, 0, -0.076), (0.098, 0.064, 0.034), 0.005)
        body = np.minimum(np.minimum(motor, gear), chuck)
        return np.minimum(_join(_join(body, handle, 0.012), battery, 0.008), trigger)

    return _solid_mesh(solid, (-0.1, -0.045, -0.11), (0.105, 0.045, 0.105), 0.0042, 0.0092)


def _clamp() -> Arrays:
    def solid(p: np.ndarray) -> np.ndarray:
        spine = _brick(p, (-0.040, 0, 0), (0.016, 0.016, 0.110), 0.001)
        upper = _brick(p, (-0.010, 0, 0.047), (0.072, 0.016, 0.016), 0.001)
        lower = _brick(p, (-0.010, 0, -0.047), (0.072, 0.016, 0.016), 0.001)
        anvil = _rod(p, (0.014, 0, 0.020), (0.014, 0, 0.045), 0.0095, 0.001)
        collar = _rod(p, (0.014, 0, -0.060), (0.014, 0, -0.034), 0.013, 0.002)
        screw = _rod(p, (0.014, 0, -0.110), (0.014, 0, -0.005), 0.0058, 0.001)
        pad = _rod(p, (0.014, 0, -0.012), (0.014, 0, -0.004), 0.0105, 0.001)
        bar = _capsule(p, (-0.018, 0, -0.103), (0.046, 0, -0.103), 0.0048)
        frame = _join(_join(spine, upper, 0.01), lower, 0.01)
        return np.minimum.reduce([frame, anvil, collar, screw, pad, bar])

    return _solid_mesh(solid, (-0.06, -0.025, -0.125), (0.06, 0.025, 0.07), 0.0026, 0.0052)


def _hammer() -> Arrays:
    def solid(p: np.ndarray) -> np.ndarray:
        flat = p * [1, 1.3, 1]  # an oval handle
        handle = _capsule(flat, (0, 0, -0.118), (0, 0, -0.02), 0.0165, 0.0145) / 1.3
        neck = _capsule(flat, (0, 0, -0.02), (0, 0, 0.12), 0.0125, 0.012) / 1.3
        eye = _brick(p, (0, 0, 0.118), (0.030, 0.026, 0.034), 0.004)
        cheek = _rod(p, (0.010, 0, 0.118), (0.045, 0, 0.118), 0.0105, 0.002)
        face = _rod(p, (0.038, 0, 0.118), (0.058, 0, 0.118), 0.0148, 0.002)
        return np.minimum.reduce([_join(handle, neck, 0.004), _join(eye, cheek, 0.006), face, _claw(p)])

    return _solid_mesh(solid, (-0.085, -0.03, -0.145), (0.07, 0.03, 0.145), 0.0034, 0.0068)


def _claw(p: np.ndarray) -> np.ndarray:
    """Two prongs that bend down from the head's left side."""
    turn = np.arctan2(p[:, 2] - 0.058, -(p[:, 0] + 0.005))  # about a centre below the claw
    reach = np.hypot(p[:, 0] + 0.005, p[:, 2] - 0.058) - 0.064
    spread = np.clip((np.pi / 2 - turn) / 1.05, 0, 1)  # 0 at the head, 1 at the tips
    thick = 0.0095 - 0.0062 * spread
    wide, split = 0.0115 + 0.004 * spread, 0.0075 * np.clip((spread - 0.25) / 0.75, 0, 1)
    arc = np.maximum(turn - 1.65, np.pi / 2 - 1.05 - turn) * 0.06
    plate = np.maximum(np.maximum(np.abs(reach) - thick, np.abs(p[:, 1]) - wide), arc)
    return np.maximum(plate, np.where(spread > 0.25, split - np.abs(p[:, 1]), -1.0))


def _spray_bottle() -> Arrays:
    def solid(p: np.ndarray) -> np.ndarray:
        flat = p * [1, 1.35, 1]
        body = _rod(flat, (0, 0, -0.115), (0, 0, 0.02), 0.043, 0.010) / 1.35
        shoulder = _rod(flat, (0, 0, 0.005), (0, 0, 0.062), 0.040, 0.004, 0.014) / 1.35
        collar = _rod(p, (0, 0, 0.055), (0, 0, 0.090), 0.0165, 0.002)
        head = _brick(p, (-0.008, 0, 0.096), (0.070, 0.026, 0.030), 0.007)
        nozzle = _rod(p, (-0.060, 0, 0.100), (-0.035, 0, 0.100), 0.010, 0.0015)
        trigger = _join(
            _capsule(p, (-0.034, 0, 0.085), (-0.043, 0, 0.060), 0.0065),
            _capsule(p, (-0.043, 0, 0.060), (-0.050, 0, 0.036), 0.0065, 0.0055),
            0.003,
        )
        return np.minimum.reduce([_join(body, shoulder, 0.012), collar, _join(head, nozzle, 0.003), trigger])

    return _solid_mesh(solid, (-0.075, -0.045, -0.13), (0.06, 0.045, 0.125), 0.0037, 0.0088)


def _scissors() -> Arrays:
    def half(p: np.ndarray) -> np.ndarray:
        lean = np.array([[np.cos(0.13), 0, -np.sin(0.13)], [0, 1, 0], [np.sin(0.13), 0, np.cos(0.13)]])
        q = p @ lean.T  # opened a little about the pivot at the origin
        wide = np.interp(q[:, 2], [-0.02, 0.0, 0.09], [0.0095, 0.010, 0.0032])
        edge = np.maximum(np.abs(q[:, 0] - 0.001) - wide, np.abs(q[:, 2] - 0.035) - 0.055)
        blade = np.maximum(edge, np.abs(q[:, 1]) - 0.0024)
        shank = _capsule(q, (0.0, 0, -0.012), (-0.012, 0, -0.036), 0.0065, 0.0058)
        loop = _ring(q, (-0.0195, 0, -0.060), (0.0165, 0.026), 0.0055)
        return np.minimum(blade, _join(shank, loop, 0.005))

    def solid(p: np.ndarray) -> np.ndarray:
        lift = np.array([0, 0.0015, 0])
        pivot = _rod(p, (0, -0.0055, 0), (0, 0.0055, 0), 0.0055, 0.001)
        over, under = half(p + lift), half(p * [-1, 1, 1] - lift)
        return np.minimum(np.minimum(over, under), pivot)

    return _solid_mesh(solid, (-0.06, -0.013, -0.10), (0.06, 0.013, 0.10), 0.002, 0.0045)


def _remote() -> Arrays:
    def solid(p: np.ndarray) -> np.ndarray:
        slab = _brick(p, (0, 0, 0), (0.046, 0.020, 0.170), 0.006)
        return np.maximum(slab, _capsule(p, (0, 0.48, -0.08), (0, 0.48, 0.08), 0.4895))  # a rounded back

    return _solid_mesh(solid, (-0.03, -0.02, -0.092), (0.03, 0.02, 0.092), 0.0032, 0.0054)


def _mouse() -> Arrays:
    def solid(p: np.ndarray) -> np.ndarray:
        shell = np.linalg.norm((p - [0, 0, -0.018]) / [0.033, 0.060, 0.040], axis=1)
        dome = (shell - 1) * 0.033
        waist = np.abs(p[:, 0]) - 0.0295 + 0.004 * np.cos(p[:, 1] * 45)
        return np.maximum(np.maximum(dome, -0.017 - p[:, 2]), waist)

    return _solid_mesh(solid, (-0.04, -0.068, -0.025), (0.04, 0.068, 0.03), 0.0035, 0.0053)


def _apple() -> Arrays:
    turn = np.linspace(0, np.pi, 25)[1:-1]
    radius = 0.0375 * np.sin(turn) ** 0.85 * (1 - 0.06 * np.cos(turn))
    dent = 1 - 0.42 * np.exp(-((np.sin(turn) / 0.28) ** 2))  # both poles are sunk in
    body = [(float(r), float(z)) for r, z in zip(radius, -0.034 * np.cos(turn) * dent, strict=True)]
    return lathe([(0, -0.0195), *body, (0.0024, 0.0200), (0.0026, 0.0400), (0, 0.0410)], 0.0062)


SHAPES: dict[str, Callable[[], Arrays]] = {
    "box": _box,
    "can": _can,
    "bottle": _bottle,
    "mug": _mug,
    "bowl": _bowl,
    "tumbler": _tumbler,
    "marker": _marker,
    "banana": _banana,
    "drill": _drill,
    "clamp": _clamp,
    "hammer": _hammer,
    "spray_bottle": _spray_bottle,
    "scissors": _scissors,
    "remote": _remote,
    "mouse": _mouse,
    "apple": _apple,
}
