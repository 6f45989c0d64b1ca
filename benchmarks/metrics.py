"""How exact the intersection volume is, and what every metric costs.

    python -m benchmarks.metrics --scenes 50 --items 1000

Scenes: seeded grasps of the embedded objects, slightly disturbed so that most of them penetrate. The reference is the
ray method at 0.05 mm. Where the hand touches itself, a boolean counts the shared part as its library decides.
Items: the same scenes again and again. Times are of the processor, one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import time
from collections.abc import Callable

import numpy as np
import torch
import trimesh
from torch import Tensor

from benchmarks._common import write_result
from horefine import HandModel, Mesh, Pose, load_hand, metrics
from horefine.data.maps import disturb
from horefine.data.synthetic import benchmark_scenes
from horefine.geometry import Camera, axis_angle_to_matrix
from horefine.intersection import intersection_volume
from horefine.metrics import penetration_depth
from horefine.metrics.hand import ALIGNMENTS
from horefine.symmetry import symmetry_transforms

Meshes = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Scenes = tuple[Pose, Pose, Mesh, HandModel, Camera]
METHODS = {
    "rays 1 mm": {"method": "rays", "pitch": 0.001},
    "rays 0.5 mm": {"method": "rays", "pitch": 0.0005},
    "rays 0.25 mm (default)": {"method": "rays"},
    "voxels 1 mm": {"method": "voxels"},
    "boolean (manifold3d)": {"method": "boolean"},
}
CHUNK = 10
"""Items whose symmetric poses are held at once: a round object has hundreds."""


def disturbed(count: int, seed: int) -> Scenes:
    """True and disturbed poses, objects, hand and cameras."""
    truth, features = benchmark_scenes(count, seed)
    model, mesh = load_hand(kind="embedded"), features.object
    pose = disturb(truth, seed + 1, 5.0, 5.0, 5.0, model=model, object_center=mesh.center, keep_shape=True)
    return truth, pose, mesh, model, features.camera


def solids(scenes: Scenes) -> list[Meshes]:
    """Hand and object meshes of disturbed grasps, camera frame, metres."""
    _, pose, mesh, model, _ = scenes
    hands = model(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).vertices
    rotation = axis_angle_to_matrix(pose.object_rotvec)
    result = []
    for k in range(len(pose)):
        vertices, faces = mesh.trimmed(k)
        moved = vertices @ rotation[k].mT + pose.object_transl[k]
        result.append((hands[k].double().numpy(), model.faces.numpy(), moved.double().numpy(), faces.numpy()))
    return result


def fine(meshes: Meshes, least: int = 10_000) -> Meshes:
    """The same with the object's faces cut in four until there are ``least``."""
    hand, hand_faces, vertices, faces = meshes
    while len(faces) < least:
        vertices, faces = trimesh.remesh.subdivide(vertices, faces)[:2]
    return hand, hand_faces, vertices, faces


def timed(work: Callable[[Meshes], float], meshes: list[Meshes]) -> tuple[np.ndarray, float]:
    """The values of all scenes, and the median milliseconds of one."""
    work(meshes[0])  # compiles
    values, times = [], []
    for one in meshes:
        begin = time.process_time()
        values.append(work(one))
        times.append(time.process_time() - begin)
    return np.asarray(values), float(np.median(times)) * 1e3


def depth_and_volume(meshes: Meshes) -> float:
    return penetration_depth(meshes[0], *meshes[2:]) * intersection_volume(*meshes)


def cheap(scenes: Scenes) -> dict[str, Tensor | float]:
    """Every error of a batch that needs no solid, no renderer and no sampling."""
    truth, pose, mesh, model, camera = scenes
    true, ours = (model(p.hand_rotvec, p.hand_shape, p.hand_transl) for p in (truth, pose))
    held, found, mask = truth.place(mesh.vertices), pose.place(mesh.vertices), mesh.vertex_mask
    turned, true_turned = axis_angle_to_matrix(pose.object_rotvec), axis_angle_to_matrix(truth.object_rotvec)
    centres = [p.place(mesh.center[:, None])[:, 0] for p in (pose, truth)]
    regions = model.regions.numpy()
    errors: dict[str, Tensor | float] = {
        **{f"MJE {a}": metrics.mean_joint_error(ours.joints, true.joints, align=a) for a in ALIGNMENTS},
        **metrics.hpe_scores(ours.joints, true.joints),
        **metrics.ho3d_scores(ours.joints, ours.vertices, true.joints, true.vertices),
        "HE": metrics.hand_error(ours.vertices, true.vertices),
        "PA-MME": metrics.mean_vertex_error(ours.vertices, true.vertices, align="procrustes"),
        "hand to object": metrics.hand_to_object_error(ours.vertices, centres[0], true.vertices, centres[1]),
        "OE": metrics.object_error(found, held, mask),
        "OCE": metrics.oce(*centres),
        "MCE": metrics.mce(found, held),
        "ADD": metrics.add(found, held, mask),
        "ADD-S": metrics.add_s(found, held, mask),
        "re": metrics.rotation_error(turned, true_turned),
        "proj": metrics.projection_error(found, held, camera.matrix, mask),
        "disjointness": float(
            np.mean(
                [metrics.disjointness(h, regions, v) for h, v in zip(ours.vertices.numpy(), found.numpy(), strict=True)]
            )
        ),
    }
    return errors


def symmetric(scenes: Scenes) -> list[Tensor]:
    """OE, MSSD and MSPD as if every object were round about its z axis (BOP's 315 poses), a few items at a time."""
    truth, pose, mesh, _, camera = scenes
    turns = symmetry_transforms({"symmetries_continuous": [{"axis": [0, 0, 1]}]})
    mesh = dataclasses.replace(mesh, symmetries=turns.expand(len(mesh), -1, 4, 4))
    rows = []
    for begin in range(0, len(pose), CHUNK):
        part = slice(begin, begin + CHUNK)
        one, found = mesh[part], pose[part].place(mesh[part].vertices)
        same = metrics.equivalents(one, truth[part])
        rows.append(metrics.symmetric_object_error(found, same, one.vertex_mask))
        rows.append(metrics.mssd(found, same, one.vertex_mask))
        rows.append(metrics.mspd(found, same, camera.matrix[part], one.vertex_mask))
    return rows


def repeated(scenes: Scenes, count: int) -> Scenes:
    """``count`` items of the same scenes in turn."""
    truth, pose, mesh, model, camera = scenes
    index = torch.arange(count) % len(pose)
    return truth[index], pose[index], mesh[index], model, Camera(camera.matrix[index], camera.size)


def volume_rows(meshes: list[Meshes], exact: np.ndarray) -> list[dict[str, object]]:
    """Errors of the common volume by method, where there is over 0.01 cm3, and times."""
    seen, rows = exact > 1e-8, []
    for name, choice in METHODS.items():
        if choice["method"] == "boolean" and importlib.util.find_spec("manifold3d") is None:
            continue
        values, milliseconds = timed(lambda m, choice=choice: intersection_volume(*m, **choice), meshes)
        error = np.abs(values[seen] / exact[seen] - 1) * 100
        row = {
            "metric": f"SIV by {name}",
            "median error %": float(np.median(error)),
            "worst error %": float(error.max()),
        }
        rows.append({**row, "ms an item": milliseconds})
    return rows


def depth_rows(meshes: list[Meshes]) -> list[dict[str, object]]:
    """Times of the penetration depths, and of depth and volume of fine objects."""
    rows: list[dict[str, object]] = []
    for variant in ("surface", "vertex", "grid"):
        _, milliseconds = timed(lambda m, v=variant: penetration_depth(m[0], m[2], m[3], variant=v), meshes)
        rows.append({"metric": f"PD, {variant}", "ms an item": milliseconds})
    finer = [fine(one) for one in meshes]
    faces = int(np.median([len(one[3]) for one in finer]))
    _, milliseconds = timed(depth_and_volume, finer)
    return [*rows, {"metric": f"PD (surface) and SIV (rays), object of {faces} faces", "ms an item": milliseconds}]


def batch_rows(scenes: Scenes) -> list[dict[str, object]]:
    """Times of what needs no solid, over all items."""
    rows, count = [], len(scenes[0])
    for name, work in (("all cheap metrics but the next", cheap), ("OE, MSSD, MSPD of round objects", symmetric)):
        begin = time.process_time()
        work(scenes)
        took = time.process_time() - begin
        rows.append({"metric": f"{name}, {count} items", "ms an item": took / count * 1e3, "s in all": took})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=50)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=3000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    scenes = disturbed(options.scenes, options.seed)
    meshes = solids(scenes)
    exact, _ = timed(lambda m: intersection_volume(*m, method="rays", pitch=5e-5), meshes)
    rows = [*volume_rows(meshes, exact), *depth_rows(meshes), *batch_rows(repeated(scenes, options.items))]
    notes = [
        f"{options.scenes} scenes, {int((exact > 1e-8).sum())} with over 0.01 cm3 in common",
        f"median volume {np.median(exact) * 1e6:.2f} cm3",
        "error against rays 0.05 mm apart; processor time of one thread",
    ]
    write_result("metrics", rows=rows, notes=notes)


if __name__ == "__main__":
    main()
