"""What clips gain: accuracy and acceleration error of frames refined alone, with one hand, warm starts, and together.

    python -m benchmarks.clips                              # noisy maps (n02), perturbed starts
    python -m benchmarks.clips --pixels --clips 2           # photographs, the networks' first poses and maps

Clips are synthetic (horefine.data.clips): held-out grasps that turn and move smoothly, 30 frames a second. Starts: 15
degrees and 20 mm off for hand and object, 10 degrees for each finger joint; of one frame in six the object's is turned
by half a turn and moved by 0.2 m (``--lost 0``: none).
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import torch

from benchmarks._common import write_result
from horefine import Config, HandModel, Pose, load_config, load_hand
from horefine.clip import refine_clip
from horefine.clip_starts import points_of
from horefine.data.clips import SyntheticClip, SyntheticClips
from horefine.data.maps import corrupt, disturb
from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from horefine.metrics import acceleration, acceleration_error, equivalents, hand_error, symmetric_object_error
from horefine.scene import Features

VARIANTS = {
    "frames alone": None,
    "shared shape": ["clip.warm=false", "clip.sweeps=0"],
    "+ warm starts": ["clip.sweeps=0"],
    "+ temporal": [],
    "temporal alone": ["clip.shape=own", "clip.warm=false"],
}
Complete = Callable[[Pose, Features], Features]


def begin(clip: SyntheticClip, seed: int, lost: int, model: HandModel) -> Pose:
    """Perturbed starts; of every ``lost``-th frame the object is turned round and elsewhere."""
    center = clip.features.object.center
    start = disturb(clip.truth, seed, model=model, object_center=center)
    if lost:
        rows = torch.arange(lost // 2, len(start), lost)
        half = axis_angle_to_matrix(torch.tensor([[0.0, math.pi, 0.0]]))
        start.object_rotvec[rows] = matrix_to_axis_angle(half @ axis_angle_to_matrix(start.object_rotvec[rows]))
        start.object_transl[rows] += torch.tensor([0.15, 0.1, 0.1])
    return start


def measure(pose: Pose, clip: SyntheticClip, model: HandModel) -> dict[str, float]:
    """Means over the frames of one clip; mm, mm/frame^2."""
    mesh = clip.features.object
    hands = [model(p.hand_rotvec, p.hand_shape, p.hand_transl).vertices for p in (pose, clip.truth)]
    points = [points_of(model, mesh, p) for p in (pose, clip.truth)]
    object_error = symmetric_object_error(pose.place(mesh.vertices), equivalents(mesh, clip.truth))
    return {
        "HE": float(hand_error(*hands).mean()), "OE": float(object_error.mean()),
        "joints acc err": float(acceleration_error(points[0][0], points[1][0]).mean()),
        "object acc err": float(acceleration_error(points[0][1], points[1][1]).mean()),
        "joints acc": float(acceleration(points[0][0]).mean()), "true": float(acceleration(points[1][0]).mean()),
    }  # fmt: skip


def run(
    clips: Sequence[tuple[SyntheticClip, Pose, Features]],
    configs: dict[str, Config | None],
    model: HandModel,
    complete: Callable[[Features], Complete | None],
) -> list[dict[str, str | float]]:
    """One row for each variant: means over clips."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ("start", *configs)}
    for clip, start, features in clips:
        found["start"].append(measure(start, clip, model))
        alone = None
        for name, config in configs.items():
            if config is None:
                continue
            began = time.perf_counter()
            result = refine_clip(
                start, features, config, times=clip.times, hand_model=model, complete=complete(features)
            )
            seconds = (time.perf_counter() - began) / len(start)
            found[name].append(measure(result.frames.pose, clip, model) | {"s/frame": seconds})
            alone = alone or measure(result.alone, clip, model)
        assert alone is not None
        found["frames alone"].append(alone)
        print(clip.name, clip.object, {n: round(r[-1]["joints acc err"], 2) for n, r in found.items() if r}, flush=True)
    return [
        {"variant": name} | {key: round(sum(r[key] for r in rows) / len(rows), 3) for key in rows[0]}
        for name, rows in found.items() if rows
    ]  # fmt: skip


def from_maps(options: argparse.Namespace, model: HandModel) -> list[tuple[SyntheticClip, Pose, Features]]:
    found = []
    source = SyntheticClips(options.clips, options.frames, options.seed)
    for index in range(options.clips):
        clip = source[index]
        start = begin(clip, options.seed + 1 + 100 * index, options.lost, model)
        found.append((clip, start, corrupt(clip.features, options.level, options.seed + 2 + 100 * index)))
    return found


def from_pixels(options: argparse.Namespace, model: HandModel) -> tuple[list, Callable[[Features], Complete | None]]:
    """First poses and maps of the networks, from photographs of the clips' frames."""
    from horefine.data.crop import crop_box, crop_sample
    from horefine.extractors import Learned, extracted_first

    networks = Learned("hoisdf", device="cpu", hand=model)
    config, found = load_config(options.config), []
    source = SyntheticClips(options.clips, options.frames, options.seed)
    for index in range(options.clips):
        clip = source[index]
        samples = [source.sample(index, frame, clip) for frame in range(options.frames)]
        crops = [crop_sample(s, crop_box(s.hand_box, s.object_box)) for s in samples]
        pose, fields = networks.poses(crops)
        wanted = [name for name in extracted_first(config.features) if name not in fields]
        features = networks.features(crops, wanted)
        given = {name: value for name, value in fields.items() if value is not None and name in config.features}
        found.append((clip, pose, dataclasses.replace(features, object=clip.features.object, **given)))

    def complete(features: Features) -> Complete | None:
        return networks.complete if "contact" in config.features else None

    return found, complete


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--level", default="n02")
    parser.add_argument("--lost", type=int, default=6, help="of every so many frames one starts far off")
    parser.add_argument("--config", help="recipe (default: default, with --pixels pixels)")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c")
    parser.add_argument("--pixels", action="store_true")
    parser.add_argument("--variants", help="only these, comma between them")
    parser.add_argument("--out", help="name of the result file (default: clips, clips_pixels)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.config = options.config or ("pixels" if options.pixels else "default")
    model = load_hand(kind="embedded")
    complete: Callable[[Features], Complete | None] = lambda features: None  # noqa: E731
    if options.pixels:
        clips, complete = from_pixels(options, model)
    else:
        clips = from_maps(options, model)
    wanted = options.variants.split(",") if options.variants else list(VARIANTS)
    configs = {name: None if extra is None else load_config(options.config, [*options.set, *extra])
               for name, extra in VARIANTS.items() if extra is None or name in wanted}  # fmt: skip
    rows = run(clips, configs, model, complete)
    notes = [
        f"means over {options.clips} clips of {options.frames} frames; HE and OE in mm, accelerations in mm/frame^2",
        "true: acceleration of the true joints; joints acc: of the result's",
    ]
    name = options.out or ("clips_pixels" if options.pixels else "clips")
    write_result(name, {"options": vars(options)}, rows=rows, notes=notes)


if __name__ == "__main__":
    main()
