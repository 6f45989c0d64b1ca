"""From pixels alone, on held-out synthetic photos: the regressor's poses, and what refinement makes of them.

    python -m benchmarks.from_pixels --scenes 200
    python -m benchmarks.from_pixels --scenes 200 --config song2022
    python -m benchmarks.from_pixels --scenes 200 --maps exact       # how much of the rest is the maps' fault
    python -m benchmarks.from_pixels --scenes 500 --init-only        # the networks' poses alone, beside their targets

Each photo (640x480, intrinsics and object mesh known, as in a folder with sidecars) goes the way of ``horefine run``:
boxes by the detector, crop, first pose by HOISDF, maps by the feature network, refinement. Ground truth is only
compared with. Held out: other grasps, views, hands and looks than the training scenes' (another seed); the objects are
those trained on. ``wrist`` and ``hand_to_object`` tell an error in absolute depth from one in how the object is held.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks._common import median_interval, write_result
from horefine import Pose, load_config, load_hand, refine
from horefine.config import Config
from horefine.data import Sample
from horefine.data.crop import crop_box, crop_sample
from horefine.data.maps import exact_features
from horefine.data.synthetic import SyntheticDataset
from horefine.evaluate import score
from horefine.extractors import Learned, extracted_first
from horefine.extractors.crops import map_camera, mesh_of
from horefine.extractors.tasks import TASKS
from horefine.extractors.weights import default_path, read_weights
from horefine.hand import HandModel
from horefine.mesh import Mesh
from horefine.scene import Features

Errors = dict[str, torch.Tensor]
METRICS = (
    "HE_mm", "OE_mm", "hand_to_object_mm", "MJE_mm", "PA_MJE_mm", "OCE_mm", "ADD_S_mm", "wrist_mm", "wrist_depth_mm",
    "pd_mm", "siv_cm3", "contact_regions", "gap_mm",
)  # fmt: skip
TARGETS = {"MJE_mm": (15, 10), "PA_MJE_mm": (9, 6), "OCE_mm": (25, 15), "ADD_S_mm": (20, 12)}
"""What the networks' poses should reach, trained on two cores and on a GPU."""


def measure(pose: Pose, truth: Pose, mesh: Mesh, hand: HandModel) -> Errors:
    """All errors of B poses; interaction of the poses themselves, and of the truth for comparison."""
    return {name: torch.from_numpy(values) for name, values in score(pose, truth, mesh, hand, metrics=METRICS).items()}


def features_of(learned: Learned, crops: Sequence[Sample], truth: Pose, names: Sequence[str], maps: str) -> Features:
    """The networks' features, or the exact ones with the photograph and the distance fields as they are."""
    if maps == "predicted":
        return learned.features(crops, names)
    rest = learned.features(crops, [name for name in names if name in ("image", "hand_sdf", "object_sdf")])
    exact = exact_features(truth, learned.hand, mesh_of(crops), map_camera(crops))[0]
    return replace(exact, image=rest.image, hand_sdf=rest.hand_sdf, object_sdf=rest.object_sdf)


def crops_of(learned: Learned, samples: Sequence[Sample], boxes: str) -> list[Sample]:
    """The samples cut to the detector's boxes (``predicted``) or to the true ones (``given``)."""
    found = [learned.boxes(s) if boxes == "predicted" else (s.hand_box, s.object_box) for s in samples]
    return [crop_sample(s, crop_box(*pair)) for s, pair in zip(samples, found, strict=True)]


def batches(scenes: int, seed: int, batch: int) -> Iterator[tuple[list[Sample], Pose]]:
    """``scenes`` photos and their true poses, made as they are asked for: no more than ``batch`` are in memory."""
    dataset = SyntheticDataset(scenes, seed)
    for first in range(0, scenes, batch):
        samples = [dataset[i] for i in range(first, min(first + batch, scenes))]
        yield samples, Pose.cat([s.truth for s in samples if s.truth is not None])
        print(f"{first + len(samples)} scenes", flush=True)


def run(
    config: Config | None, scenes: int, seed: int, batch: int, maps: str, boxes: str
) -> tuple[Errors, Errors, Errors, dict]:
    """Errors of the first poses, of the refined ones and of the truth, scene by scene, and seconds by stage.

    Without a recipe nothing is refined: the refined ones are the first.
    """
    hand = load_hand(kind="embedded")
    learned = Learned(hand=hand)
    seconds: dict[str, float] = {"boxes": 0.0, "poses": 0.0, "features": 0.0, "refine": 0.0}
    parts: tuple[list[Errors], ...] = ([], [], [])

    def clock(stage: str, start: float) -> float:
        now = time.perf_counter()
        seconds[stage] += now - start
        return now

    for samples, truth in batches(scenes, seed, batch):
        start = time.perf_counter()
        crops = crops_of(learned, samples, boxes)
        start = clock("boxes", start)
        pose, _ = learned.poses(crops)
        start = clock("poses", start)
        mesh = mesh_of(crops)
        refined = pose
        if config is not None:
            features = features_of(learned, crops, truth, extracted_first(config.features), maps)
            start = clock("features", start)
            complete = learned.complete if "contact" in config.features else None
            refined = refine(pose, features, config, hand_model=hand, complete=complete).pose
            clock("refine", start)
        for part, one in zip(parts, (pose, refined, truth), strict=True):
            part.append(measure(one, truth, mesh, hand))
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


def first_rows(before: Errors) -> list[dict[str, object]]:
    """Medians with bootstrap intervals and means of the first poses."""
    rows = []
    for name, first in before.items():
        low, middle, high = median_interval(first.tolist())
        mean = float(first.mean())
        rows.append({"error": name, "median": middle, "interval": f"{low:.3g}..{high:.3g}", "mean": mean})
    return rows


def against_targets(before: Errors) -> list[str]:
    """A line for each number that the networks alone should reach."""
    lines = []
    for name, (cores, gpu) in TARGETS.items():
        mean, median = float(before[name].mean()), median_interval(before[name].tolist())[1]
        verdict = "reached" if mean <= cores else "not reached"
        lines.append(f"networks alone, {name}: mean {mean:.1f}, median {median:.1f}; target {cores} ({verdict} by the "
                     f"mean), with a GPU {gpu}")  # fmt: skip
    return lines


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
    parser.add_argument("--init-only", action="store_true", help="the networks' poses alone; nothing is refined")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = None if options.init_only else load_config(options.config, options.set)
    before, after, true, seconds = run(config, options.scenes, options.seed, options.batch, options.maps, options.boxes)
    name = f"from_pixels_{Path(options.config).stem}" + ("" if options.maps == "predicted" else "_exact_maps")
    name = "from_pixels_init" if config is None else name
    parts = {"first": before} if config is None else {"first": before, "refined": after}
    record = {
        "options": vars(options), "seconds_per_image": seconds,
        "weights": {t: read_weights(default_path(t), t).validation for t in TASKS if default_path(t).exists()},
        "scenes": {part: {k: v.tolist() for k, v in e.items()} for part, e in parts.items()},
    }  # fmt: skip
    notes = [
        f"{options.scenes} photos of seed {options.seed}; boxes {options.boxes}, maps {options.maps}",
        "seconds an image: " + ", ".join(f"{k} {v:.2f}" for k, v in seconds.items()),
        *against_targets(before),
    ]
    rows = first_rows(before) if config is None else rows_of(before, after, true)
    write_result(name, record, rows=rows, notes=notes)
    print("\n".join(notes))


if __name__ == "__main__":
    main()
