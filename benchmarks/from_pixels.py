"""From pixels alone, on held-out synthetic photos: the regressor's poses, and what refinement makes of them.

    python -m benchmarks.from_pixels --scenes 200
    python -m benchmarks.from_pixels --scenes 200 --config song2022
    python -m benchmarks.from_pixels --scenes 200 --maps exact       # how much of the rest is the maps' fault

Each photo (640x480, intrinsics and object mesh known, as in a folder with sidecars) goes the way of ``horefine run``:
boxes by the detector, crop, first pose by HOISDF, maps by the feature network, refinement. Ground truth is only
compared with. Held out: other grasps, views, hands and looks than the training scenes' (another seed); the objects are
those trained on. ``wrist`` and ``hand_to_object`` tell an error in absolute depth from one in how the object is held.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch

from benchmarks._common import median_interval, write_result
from horefine import Pose, load_config, load_hand, refine
from horefine.config import Config
from horefine.data import Sample
from horefine.data.crop import crop_box, crop_sample
from horefine.data.maps import exact_features
from horefine.data.synthetic import SyntheticDataset
from horefine.extractors import Learned, extracted_first
from horefine.extractors.crops import map_camera, mesh_of
from horefine.extractors.tasks import TASKS
from horefine.extractors.weights import default_path, read_weights
from horefine.geometry import axis_angle_to_matrix
from horefine.hand import HandModel
from horefine.mesh import Mesh
from horefine.metrics import add_s, hand_error, hand_to_object_error, interaction, mean_joint_error, object_error, oce
from horefine.scene import Features

Errors = dict[str, torch.Tensor]


def measure(pose: Pose, truth: Pose, mesh: Mesh, hand: HandModel) -> Errors:
    """All errors of B poses; interaction of the poses themselves, and of the truth for comparison."""
    posed, true = (hand(p.hand_rotvec, p.hand_shape, p.hand_transl) for p in (pose, truth))
    vertices, centers = [], []
    for p in (pose, truth):
        rotation = axis_angle_to_matrix(p.object_rotvec)
        vertices.append(mesh.vertices @ rotation.mT + p.object_transl[:, None])
        centers.append((rotation @ mesh.center[..., None])[..., 0] + p.object_transl)
    errors = {
        "HE_mm": hand_error(posed.vertices, true.vertices),
        "OE_mm": object_error(vertices[0], vertices[1], mesh.vertex_mask),
        "hand_to_object_mm": hand_to_object_error(posed.vertices, centers[0], true.vertices, centers[1]),
        "MJE_mm": mean_joint_error(posed.joints, true.joints, align="root"),
        "PA_MJE_mm": mean_joint_error(posed.joints, true.joints, align="procrustes"),
        "OCE_mm": oce(centers[0], centers[1]),
        "ADD_S_mm": add_s(vertices[0], vertices[1], mesh.vertex_mask),
        "wrist_mm": (posed.joints[:, 0] - true.joints[:, 0]).norm(dim=-1) * 1e3,
        "wrist_depth_mm": (posed.joints[:, 0, 2] - true.joints[:, 0, 2]).abs() * 1e3,
    }
    return errors | interaction(posed.vertices, hand.faces, hand.regions, vertices[0], mesh)


def features_of(learned: Learned, crops: Sequence[Sample], truth: Pose, names: Sequence[str], maps: str) -> Features:
    """The networks' features, or the exact ones with the networks' other fields."""
    if maps == "predicted":
        return learned.features(crops, names)
    return exact_features(truth, learned.hand, mesh_of(crops), map_camera(crops))[0]


def run(
    config: Config, scenes: int, seed: int, batch: int, maps: str, boxes: str
) -> tuple[Errors, Errors, Errors, dict]:
    """Errors of the first poses, of the refined ones and of the truth, scene by scene, and seconds by stage."""
    hand = load_hand(kind="embedded")
    learned, dataset = Learned(hand=hand), SyntheticDataset(scenes, seed)
    seconds: dict[str, float] = {"boxes": 0.0, "poses": 0.0, "features": 0.0, "refine": 0.0}
    parts: tuple[list[Errors], ...] = ([], [], [])

    def clock(stage: str, start: float) -> float:
        now = time.perf_counter()
        seconds[stage] += now - start
        return now

    for first in range(0, scenes, batch):
        samples = [dataset[i] for i in range(first, min(first + batch, scenes))]
        truth = Pose.cat([s.truth for s in samples if s.truth is not None])
        start = time.perf_counter()
        found = [learned.boxes(s) if boxes == "predicted" else (s.hand_box, s.object_box) for s in samples]
        crops = [crop_sample(s, crop_box(*pair)) for s, pair in zip(samples, found, strict=True)]
        start = clock("boxes", start)
        pose, _ = learned.poses(crops)
        start = clock("poses", start)
        features = features_of(learned, crops, truth, extracted_first(config.features), maps)
        start = clock("features", start)
        complete = learned.complete if "contact" in config.features else None
        refined = refine(pose, features, config, hand_model=hand, complete=complete).pose
        clock("refine", start)
        for part, one in zip(parts, (pose, refined, truth), strict=True):
            part.append(measure(one, truth, features.object, hand))
        print(f"{first + len(samples)} scenes", flush=True)
    before, after, true = ({name: torch.cat([p[name] for p in part]) for name in part[0]} for part in parts)
    return before, after, true, {name: value / scenes for name, value in seconds.items()}


def rows_of(before: Errors, after: Errors, true: Errors) -> list[dict[str, object]]:
    """Medians with bootstrap intervals, means, and the change of each."""
    rows = []
    for name, first in before.items():
        last = after[name]
        (low, middle, high), (low2, middle2, high2) = median_interval(first.tolist()), median_interval(last.tolist())
        rows.append({
            "error": name,
            "first, median": middle, "first, interval": f"{low:.3g}..{high:.3g}",
            "refined, median": middle2, "refined, interval": f"{low2:.3g}..{high2:.3g}",
            "first, mean": float(first.mean()), "refined, mean": float(last.mean()),
            "change of median %": 100 * (middle2 / middle - 1) if middle else 0.0,
            "change of mean %": 100 * float(last.mean() / first.mean().clamp(min=1e-9) - 1),
            "truth, mean": float(true[name].mean()),
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="pixels")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=77, help="any but the training scenes' 0")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--maps", choices=["predicted", "exact"], default="predicted")
    parser.add_argument("--boxes", choices=["predicted", "given"], default="predicted")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = load_config(options.config, options.set)
    before, after, true, seconds = run(config, options.scenes, options.seed, options.batch, options.maps, options.boxes)
    name = f"from_pixels_{options.config}" + ("" if options.maps == "predicted" else "_exact_maps")
    record = {
        "options": vars(options), "seconds_per_image": seconds,
        "weights": {task: read_weights(default_path(task), task).validation for task in TASKS},
        "scenes": {part: {k: v.tolist() for k, v in e.items()} for part, e in (("first", before), ("refined", after))},
    }  # fmt: skip
    write_result(name, record, rows=rows_of(before, after, true), notes=[
        f"{options.scenes} photos of seed {options.seed}; boxes {options.boxes}, maps {options.maps}",
        "seconds an image: " + ", ".join(f"{k} {v:.2f}" for k, v in seconds.items()),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
