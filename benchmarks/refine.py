"""How accurate refinement is on maps of known quality, for any recipe: the headline numbers of the optimiser.

    python -m benchmarks.refine --config default --level exact --scenes 100
    python -m benchmarks.refine --config song2022 --level exact --scenes 100
    python -m benchmarks.refine --config song2022 --level n02 --drop each        # the paper's table 3, on our scenes
    python -m benchmarks.refine --set losses.spring_length=0 --set losses.penetration=0 --out refine_default_no_contact

Scenes are seeded grasps of the embedded objects seen by 64x64 maps; the start is 15 degrees and 20 mm off for hand and
object, 10 degrees for each finger joint, and the hand's shape is unknown. Levels of noise: horefine.data.maps.corrupt.
"""

from __future__ import annotations

import argparse
import time

import torch

from benchmarks._common import median_interval, write_result
from horefine import Config, Pose, load_config, load_hand, refine
from horefine.ablate import GROUPS
from horefine.data.maps import corrupt, disturb
from horefine.data.synthetic import benchmark_scenes
from horefine.evaluate import score
from horefine.scene import Features

IMAGE_LOSSES = {
    name: GROUPS[name].losses for name in ("segmentation", "dense mapping", "relative depth", "correspondence depth")
}
"""The paper's four image losses, and what stands for each in a recipe."""


def errors(pose: Pose, truth: Pose, features: Features) -> dict[str, torch.Tensor]:
    """HE, OE (mean over vertices, mm), HErel (hand after aligning the object's centre), dz of the object's centre."""
    found = _scored(pose, truth, features, {"HE": "HE_mm", "OE": "OE_mm", "HErel": "hand_to_object_mm"})
    centres = [p.place(features.object.center[:, None])[:, 0, 2] for p in (pose, truth)]
    return found | {"dz": (centres[0] - centres[1]).abs() * 1e3}


def touch(pose: Pose, truth: Pose, features: Features) -> dict[str, torch.Tensor]:
    """PD (to the surface, mm) and SIV (cm3) of the poses themselves."""
    return _scored(pose, truth, features, {"PD": "pd_mm", "SIV": "siv_cm3"})


def _scored(pose: Pose, truth: Pose, features: Features, names: dict[str, str]) -> dict[str, torch.Tensor]:
    """Metrics of ``horefine.evaluate`` under the names of this table."""
    found = score(pose, truth, features.object, load_hand(), metrics=names.values())
    return {title: torch.from_numpy(found[name]) for title, name in names.items()}


def run(config: Config, scenes: int, level: str, batch: int, seed: int, start: tuple[float, float, float]) -> dict:
    """Refines ``scenes`` scenes in batches; returns medians with intervals, percentiles and time."""
    truth, features = benchmark_scenes(scenes, seed)
    model = load_hand()
    before = disturb(truth, seed + 1, *start, model=model, object_center=features.object.center)
    spoiled = corrupt(features, level, seed + 2)
    rows = [torch.arange(i, min(i + batch, scenes)) for i in range(0, scenes, batch)]
    refine(before[rows[0][:1]], spoiled[rows[0][:1]], config, hand_model=model)  # compiles, fills caches
    begin = time.perf_counter()
    results = [refine(before[r], spoiled[r], config, hand_model=model) for r in rows]
    seconds = time.perf_counter() - begin
    refined = Pose.cat([r.pose for r in results])
    after = errors(refined, truth, features) | touch(refined, truth, features)
    first = errors(before, truth, features) | touch(before, truth, features)
    table = {}
    for name, value in after.items():
        low, middle, high = median_interval(value.tolist())
        table[name] = {
            "median": middle, "interval": [low, high], "p90": float(value.quantile(0.9)),
            "start_median": float(first[name].median()),
        }  # fmt: skip
    statuses = [s for r in results for s in r.status]
    return {
        "scenes": scenes, "level": level, "seed": seed, "table": table,
        "below_3mm": float(((after["HE"] < 3) & (after["OE"] < 3)).float().mean()),
        "ok_10mm": float(((after["HE"] < 10) & (after["OE"] < 10)).float().mean()),
        "status": {s: statuses.count(s) for s in dict.fromkeys(statuses)},
        "seconds_per_image": seconds / scenes, "batch": batch, "threads": torch.get_num_threads(),
    }  # fmt: skip


def show(name: str, result: dict) -> None:
    cells = [f"{k} {v['median']:6.2f} /{v['p90']:6.2f}" for k, v in result["table"].items()]
    share = f"<3mm {result['below_3mm']:.2f} <10mm {result['ok_10mm']:.2f}"
    print(f"{name:34s} {'  '.join(cells)}  {share}  {result['seconds_per_image'] * 1e3:6.0f} ms/image", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="default")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c")
    parser.add_argument("--level", default="exact", help="exact, n02, n05, c01 (several: comma)")
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--start", type=float, nargs=3, default=(15.0, 20.0, 10.0), metavar=("DEG", "MM", "FINGER"))
    parser.add_argument("--drop", choices=["each"], help="also without each of the four image losses")
    parser.add_argument("--out", help="name of the result file (default: refine_CONFIG, refine_CONFIG_drop)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results: dict[str, dict] = {}
    print("median / 90th percentile, mm")
    for level in options.level.split(","):
        variants: dict[str, list[str]] = {"": []}
        if options.drop:
            known = load_config(options.config).losses
            for title, names in IMAGE_LOSSES.items():
                variants[f" - {title}"] = [f"losses.{n}=0" for n in names if n in known]
        for title, extra in variants.items():
            config = load_config(options.config, [*options.set, *extra])
            name = f"{options.config} {level}{title}"
            start = tuple(options.start)
            results[name] = run(config, options.scenes, level, options.batch, options.seed, start)
            show(name, results[name])
    rows = []
    for name, result in results.items():
        cells = {f"{k} {q}": v[q] for k, v in result["table"].items() for q in ("median", "p90")}
        rows.append({"run": name, **cells, "< 3 mm": result["below_3mm"], "s/image": result["seconds_per_image"]})
    name = options.out or f"refine_{options.config}" + ("_drop" if options.drop else "")
    units = "errors and PD in mm, SIV in cm3"
    write_result(name, {"options": vars(options), "results": results}, rows=rows, notes=[units])


if __name__ == "__main__":
    main()
