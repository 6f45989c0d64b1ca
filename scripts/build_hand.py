"""Builds the embedded hand: ``python scripts/build_hand.py`` writes horefine/assets/embedded_hand.npz.

Our own geometry in MANO's layout (778 vertices, 1552 faces, 16 joints, 10 shape values, 135 pose features), made from
published measures of hands; no scan and no part of MANO goes into it. ``docs/hand.md`` tells how, step by step.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from hand_form import FINGERS, THICKNESS, Form
from hand_mesh import Remesher, check_closed, surface_nets, vertex_normals, volume
from hand_skin import (
    MANO_FINGERS,
    correctives,
    joint_regressor,
    joint_table,
    nearly_orthogonal,
    prune,
    shape_directions,
    shape_fields,
    smooth_weights,
    transfer,
)

from horefine import anatomy
from horefine.hand import HandModel
from horefine.mano import HandData

ASSET = Path(__file__).parent.parent / "horefine" / "assets" / "embedded_hand.npz"
COUNT = 778
TIPS = (745, 317, 444, 556, 673)
"""Where the fingertips lie in the list of vertices, thumb to pinky: the places that readers of MANO meshes look at."""
ORIGIN = np.array([-90.0, -6.0, -6.0])
"""Of the model's frame, seen from the wrist: near the middle knuckle, so that the wrist is not at the origin."""


def wanted_length(form: Form, points: np.ndarray) -> np.ndarray:
    """Edge length wanted at a place: fine at the fingertips and webs, coarse on the palm and the wrist."""
    parts = form.parts(points)
    length = np.full(len(points), 10.6)
    for finger in FINGERS:
        joints = form.joints[finger]
        share = 1 / (1 + np.exp((parts[finger] - parts["palm"]) / 2.5))
        bone = joints[3] - joints[2]
        along = (points - joints[2]) @ bone / (bone @ bone)
        fine = 6.7 - 1.9 * np.clip((along - 0.1) / 0.7, 0, 1)
        fine = fine * {"thumb": 1.12, "pinky": 0.92}.get(finger, 1.0)
        length = length * (1 - share) + fine * share
    for web in form.webs:
        near = np.clip(1.6 - web.distance(points) / 4.0, 0, 1)
        length = length * (1 - near) + 5.6 * near
    return length


def even_mesh(form: Form, dense: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """The surface with exactly ``COUNT`` vertices; also which of them are the fingertips."""
    vertices, faces = dense[0].copy(), dense[1]
    tips = []
    for finger in FINGERS:
        nearest = int(np.linalg.norm(vertices - form.joints[finger][3], axis=1).argmin())
        vertices[nearest] = form.joints[finger][3]
        tips.append(nearest)
    scale = 1.0
    mesh = Remesher(vertices, faces, set(tips), lambda p: scale * wanted_length(form, p))
    for turn in range(8):
        mesh.round(form.project)
        if turn in (2, 4, 5, 6):
            scale *= float(np.sqrt(mesh.count() / COUNT))
            mesh.want = list(scale * wanted_length(form, np.array(mesh.points)))
    mesh.to_count(COUNT)
    # flat triangles cut the corners of a round surface: a slightly larger level gives the volume back
    target = volume(*dense)
    level = 0.0
    for _ in range(5):
        mesh.flips()
        mesh.relax(lambda p: form.project(p, level), 0.5)  # noqa: B023
        found, sides, _ = mesh.arrays()
        corners = found[sides]
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
        level += (target - volume(found, sides)) / area
    found, sides, back = mesh.arrays()
    return found, sides, [back.index(t) for t in tips]


def in_place(vertices: np.ndarray, faces: np.ndarray, tips: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Vertices in another order: from the wrist to the fingers, with the tips at ``TIPS``."""
    rest = [v for v in np.argsort(-vertices[:, 0]) if v not in tips]
    slots = dict(zip(TIPS, tips, strict=True))
    others = iter(rest)
    order = np.array([slots[i] if i in slots else next(others) for i in range(COUNT)])
    number = np.argsort(order)
    return vertices[order], number[faces]


def tint(form: Form, vertices: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Albedo relative to the skin: pale pink nails, reddish knuckles and fingertips, a lighter palm."""
    colors = np.ones((len(vertices), 3))

    def mix(share: np.ndarray, color: tuple[float, float, float]) -> None:
        colors[:] = colors * (1 - share[:, None]) + share[:, None] * np.array(color)

    palm = 1 / (1 + np.exp((normals[:, 1] + 0.15) / 0.12))
    mix(0.9 * palm, (1.12, 1.04, 1.03))
    for finger in FINGERS:
        joints, backs = form.joints[finger], form.backs[finger]
        for k in (0, 1, 2):
            spot = joints[k] + backs[k] * THICKNESS[finger][2 * k]
            near = np.exp(-((np.linalg.norm(vertices - spot, axis=1) / 8.0) ** 2))
            mix(0.85 * near, (0.90, 0.77, 0.77))
        pad = np.exp(-((np.linalg.norm(vertices - joints[3] + 5 * backs[2], axis=1) / 8.0) ** 2))
        mix(0.8 * pad, (1.07, 0.90, 0.89))
        bone = joints[3] - joints[2]
        length = np.linalg.norm(bone)
        nail = joints[2] + 0.74 * bone + backs[2] * 0.75 * THICKNESS[finger][5]
        offset = (vertices - nail) @ np.stack([bone / length, np.cross(backs[2], bone / length), backs[2]], 1)
        size = np.array([0.24 * length, 0.80 * THICKNESS[finger][5], 0.5 * THICKNESS[finger][5]])
        near = np.exp(-(((offset / size) ** 2).sum(1) ** 2))
        mix(near, (1.14, 1.30, 1.36))
    return colors


def bends(degrees: dict[str, tuple[tuple[float, float, float], ...]]) -> np.ndarray:
    """Twist, splay and bend (16 x 3, radians) from a table by finger."""
    angles = np.zeros((16, 3))
    for f, finger in enumerate(MANO_FINGERS):
        angles[1 + 3 * f : 4 + 3 * f] = np.radians(degrees[finger])
    return angles


RELAXED = {
    "index": ((0, 0, 18), (0, 0, 34), (0, 0, 14)), "middle": ((0, 0, 22), (0, 0, 37), (0, 0, 12)),
    "ring": ((0, 1, 25), (0, 0, 37), (0, 0, 12)), "pinky": ((0, 5, 28), (0, 0, 32), (0, 0, 12)),
    "thumb": ((0, 4, 12), (0, 0, 12), (0, 0, 20)),
}  # fmt: skip
"""The natural pose, degrees: as real grasps' medians, the middle joint bends most; more towards the little finger."""


def corrective_samples() -> torch.Tensor:
    """Poses at which the correctives are fitted, S x 16 x 3: each joint alone over its range, and fingers together."""
    bend = [(0, 0, b) for b in (-15, 20, 40, 60, 80, 95)]
    knuckle = [(0, s, b) for s in (-18, 18) for b in (0, 45)] + bend
    base = [(t, s, b) for t in (-25, 25) for s in (-25, 25) for b in (0, 30)] + [(0, 0, -20), (0, 0, 25), (0, 0, 45)]
    by_finger = [knuckle, [*bend, (0, 0, 108)], bend]
    thumb = [base, [(0, 0, b) for b in (-10, 20, 40, 60)], bend]
    poses = []
    for j, name in enumerate(anatomy.ROTATIONS[1:]):
        for row in (thumb if name.startswith("thumb") else by_finger)[j % 3]:
            angles = np.zeros((16, 3))
            angles[j + 1] = np.radians(row)
            poses.append(angles)
    for first, middle, last in (
        (30, 0, 0),
        (60, 0, 0),
        (88, 0, 0),
        (45, 45, 20),
        (80, 95, 50),
        (70, 20, 10),
        (20, 80, 60),
    ):
        fingers = {f: ((0, 0, first), (0, 0, middle), (0, 0, last)) for f in FINGERS[1:]}
        for thumb_row in (((0, 0, 0),) * 3, ((0, 10, 30), (0, 0, 30), (0, 0, 50))):
            poses.append(bends({**fingers, "thumb": thumb_row}))
    for chosen in (("middle", "ring", "pinky"), ("index",), ("index", "ring"), ("middle", "pinky"), ("ring", "pinky")):
        row = {f: ((0, 0, 78), (0, 0, 60), (0, 0, 30)) if f in chosen else ((0, 0, 3),) * 3 for f in FINGERS[1:]}
        poses.append(bends({**row, "thumb": ((0, 0, 10),) * 3}))
    return torch.tensor(np.array(poses), dtype=torch.float32)


def build(step: float = 1.6, rounds: int = 120) -> dict[str, np.ndarray]:
    """All arrays of the asset; metres."""
    form = Form()
    nets = surface_nets(form.distance, np.array([-190.0, -48, -80]), np.array([40.0, 34, 110]), step)
    dense = form.project(nets[0], rounds=3), nets[1]
    check_closed(dense[1])
    print(f"dense: {len(dense[0])} vertices, {volume(*dense) / 1e3:.1f} cm3")
    vertices, faces = in_place(*even_mesh(form, dense))
    check_closed(faces)
    weights = prune(transfer(smooth_weights(form, *dense), dense, (vertices, faces)))
    ways = shape_directions(form, ORIGIN).values()
    fields, moved = zip(*(shape_fields(form, vertices, weights, way) for way in ways), strict=True)
    fields, moved = nearly_orthogonal(np.stack(fields, -1), np.stack(moved, -1))
    regressor = joint_regressor(form, vertices, weights, fields, moved)
    joints = joint_table(form)
    errors = np.linalg.norm(regressor @ vertices - joints, axis=1)
    drift = np.abs(np.einsum("jv,vck->jck", regressor, fields) - moved).max() * 2.5
    print(f"regressor: joints to {errors.max():.3f} mm, at 2.5 sd to {drift:.3f} mm more")
    data = HandData(
        template=(vertices - ORIGIN) / 1e3, faces=faces, weights=weights, regressor=regressor, shapedirs=fields / 1e3,
        posedirs=np.zeros((COUNT, 3, 135)), mean_rotvec=np.zeros((16, 3)),
    )  # fmt: skip
    plain = HandModel.from_data(data, "without correctives")
    pose = correctives(plain, corrective_samples(), rounds)
    mean = anatomy.compose_angles(torch.tensor(bends(RELAXED)), plain.axes.double())[1:].reshape(45).numpy()
    return {
        "v_template": data.template.astype(np.float32),
        "f": faces.astype(np.int16),
        "weights": weights.astype(np.float32),
        "J_regressor": regressor.astype(np.float32),
        "shapedirs": data.shapedirs.astype(np.float32),
        "posedirs": np.round(pose, 6).astype(np.float32),
        "hands_mean": mean.astype(np.float32),
        "kintree_table": np.stack([anatomy.PARENTS, np.arange(16)]).astype(np.int64),
        "limits": anatomy.default_limits().numpy(),
        "colors": tint(form, vertices, vertex_normals(vertices, faces)).astype(np.float32),
    }


def main() -> None:
    """Builds the hand and writes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ASSET)
    options = parser.parse_args()
    start = time.perf_counter()
    arrays = build()
    np.savez_compressed(options.out, **arrays)
    print(f"{options.out}: {options.out.stat().st_size / 1e3:.0f} kB, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
