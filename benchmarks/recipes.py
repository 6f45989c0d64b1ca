"""Recipes against each other on our networks' maps: the same photos, first poses and maps for all, scene by scene.

    python -m benchmarks.recipes                                # initial pose, cpf, song2022, default, pixels
    python -m benchmarks.recipes --scenes 100
    python -m benchmarks.recipes --configs song2022,default --scenes 600 --out recipes_600
    python -m benchmarks.recipes --maps exact                   # how much of the rest is the maps' fault
    python -m benchmarks.recipes --again                        # the tables anew, from the scenes in the result file

Photos and networks are those of ``benchmarks.from_pixels``; the networks run once for each photo, and each recipe sees
what it asks for. Whether hand and object are aligned first is the recipe's own choice; contact is predicted for recipes
that cannot do without. ``recipes`` holds medians with bootstrap intervals, ``recipes_paired`` each recipe against the
row above it. Seconds are of refinement alone, on one thread. SD (simulation displacement) in both engines, where
they are installed; a grasp that an engine refuses is left out of its medians.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch

from benchmarks import _common
from benchmarks._common import median_interval, write_result
from benchmarks.from_pixels import Errors, batches, crops_of, features_of, measure
from horefine import Pose, load_config, load_hand, refine
from horefine.config import Config
from horefine.errors import AssetError
from horefine.evaluate.intervals import interval
from horefine.extractors import Learned, extracted_first, load_default
from horefine.hand import HandModel
from horefine.mesh import Mesh
from horefine.scene import Features
from horefine.simulation import PROTOCOLS, grasps, simulate_all
from horefine.simulation.engines import installed

FIRST, TRUTH = "initial pose", "truth"
METRICS = ("HE_mm", "OE_mm", "HE+OE_mm", "hand_to_object_mm", "pd_mm", "siv_cm3", "contact_regions")
SIMULATED = {"sd_mm": "hasson", "sd_mujoco_mm": "mujoco"}
"""Column -> protocol (``horefine.simulation.PROTOCOLS``)."""
MORE_IS_BETTER = ("contact_regions",)


def usable(names: Sequence[str]) -> tuple[dict[str, Config], list[str]]:
    """The recipes whose networks are there, and a line about each other one."""
    chosen, notes = {}, []
    for name in names:
        config = load_config(name)
        try:
            if "contact" in config.features:
                load_default("contact")
            chosen[Path(name).stem] = config
        except AssetError as error:
            notes.append(f"{name} left out: {error}")
    return chosen, notes


def only(features: Features, config: Config) -> Features:
    """The features without those that the recipe does not ask for, as ``horefine run`` gives them."""
    asked = ("camera", "object", *config.features, *extracted_first(config.features))
    return replace(features, **{f.name: None for f in fields(Features) if f.name not in asked})


def run(configs: Mapping[str, Config], options: argparse.Namespace) -> tuple[dict[str, Errors], dict[str, float]]:
    """Errors of the first pose, of each recipe's and of the truth, scene by scene; seconds an image of each recipe."""
    hand = load_hand(kind="embedded")
    learned = Learned(hand=hand)
    wanted = tuple(dict.fromkeys(n for config in configs.values() for n in extracted_first(config.features)))
    parts: dict[str, list[Errors]] = {name: [] for name in (FIRST, *configs, TRUTH)}
    seconds = dict.fromkeys(configs, 0.0)
    warm = False
    for samples, truth in batches(options.scenes, options.seed, options.batch):
        crops = crops_of(learned, samples, options.boxes)
        pose, _ = learned.poses(crops)
        features = features_of(learned, crops, truth, wanted, options.maps)
        found = {FIRST: pose, TRUTH: truth}
        for name, config in configs.items():
            if not warm:  # compiles, fills caches
                _refined(learned, pose[0], features[:1], config.one_step())
            begin = time.perf_counter()
            found[name] = _refined(learned, pose, features, config)
            seconds[name] += (time.perf_counter() - begin) / options.scenes
        warm = True
        for name, part in parts.items():
            errors = _with_sum(measure(found[name], truth, features.object, hand))
            part.append(errors | displacements(found[name], features.object, hand))
    errors = {name: {m: torch.cat([p[m] for p in part]) for m in _metrics(part[0])} for name, part in parts.items()}
    return errors, seconds


def displacements(pose: Pose, mesh: Mesh, hand: HandModel) -> Errors:
    """SD of B poses by each protocol whose engine is installed, mm."""
    items = grasps(pose, mesh, hand)
    return {
        name: torch.from_numpy(simulate_all(items, PROTOCOLS[protocol], workers=0).millimetres)
        for name, protocol in SIMULATED.items()
        if installed(PROTOCOLS[protocol].engine)
    }


def _metrics(errors: Errors) -> tuple[str, ...]:
    return tuple(name for name in (*METRICS, *SIMULATED) if name in errors)


def _refined(learned: Learned, pose: Pose, features: Features, config: Config) -> Pose:
    complete = learned.complete if "contact" in config.features else None
    return refine(pose, only(features, config), config, hand_model=learned.hand, complete=complete).pose


def _with_sum(errors: Errors) -> Errors:
    return errors | {"HE+OE_mm": errors["HE_mm"] + errors["OE_mm"]}


def table(errors: Mapping[str, Errors], seconds: Mapping[str, float]) -> list[dict[str, object]]:
    """One row for each recipe: medians, each with its interval, and the mean of HE + OE."""
    rows = []
    for name, own in errors.items():
        cells: dict[str, object] = {}
        for metric in _metrics(own):
            low, middle, high = median_interval(own[metric].tolist())
            cells[metric] = f"{middle:.3g} ({low:.3g}..{high:.3g})"
        cells["mean HE+OE_mm"] = float(own["HE+OE_mm"].mean())
        rows.append({"recipe": name, **cells} | ({"s/image": seconds[name]} if name in seconds else {}))
    return rows


def paired(errors: Mapping[str, Errors]) -> list[dict[str, object]]:
    """Each recipe against the one above, metric by metric: in how many scenes it is better, and by how much."""
    names, rows = [name for name in errors if name != TRUTH], []
    for above, name in itertools.pairwise(names):
        for metric in _metrics(errors[name]):
            change = errors[name][metric] - errors[above][metric]
            gain = change if metric in MORE_IS_BETTER else -change
            low, middle, high = median_interval(change.tolist())
            mean_low, mean, mean_high = interval(change.tolist(), "mean")
            rows.append({
                "recipe": name, "against": above, "metric": metric, "better in": float((gain > 0).float().mean()),
                "worse in": float((gain < 0).float().mean()), "median change": middle, "low": low, "high": high,
                "mean change": mean, "mean low": mean_low, "mean high": mean_high,
            })  # fmt: skip
    return rows


def verdicts(rows: Sequence[Mapping[str, object]], metric: str = "HE+OE_mm") -> list[str]:
    """Who beats whom in ``metric``: where the interval of the median change, or of the mean, leaves zero out."""
    lines = []
    for row in rows:
        if row["metric"] == metric:
            parts = []
            for kind, low, high in (("median", row["low"], row["high"]), ("mean", row["mean low"], row["mean high"])):
                low, high = float(str(low)), float(str(high))
                word = "beats" if high < 0 else "loses to" if low > 0 else "is not told from"
                parts.append(f"{word} {row['against']} by the {kind} change ({low:.3g}..{high:.3g})")
            share = f"better in {row['better in']:.0%} of the scenes"
            lines.append(f"{metric}: {row['recipe']} {parts[0]}, {parts[1]}; {share}")
    return lines


def recorded(
    path: Path,
) -> tuple[dict[str, Errors], dict[str, float], argparse.Namespace, list[str], dict[str, str]]:
    """Errors, seconds, options, recipes left out, and how it was measured, of an earlier run's result file."""
    record = json.loads(path.read_text())
    errors = {
        name: {metric: torch.tensor(values, dtype=torch.float64) for metric, values in own.items()}
        for name, own in record["scenes"].items()
    }
    seconds = {row["recipe"]: row["s/image"] for row in record["rows"] if "s/image" in row}
    return errors, seconds, argparse.Namespace(**record["options"]), record["left_out"], record["measured"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", default="cpf,song2022,default,pixels", help="recipes, worst first")
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--seed", type=int, default=77, help="any but the training scenes' 0")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--maps", choices=["predicted", "exact"], default="predicted")
    parser.add_argument("--boxes", choices=["predicted", "given"], default="predicted")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="recipes", help="name of the result files")
    parser.add_argument("--again", action="store_true", help="tables from the recorded scenes; nothing is refined")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    name = options.out + ("" if options.maps == "predicted" else "_exact_maps")
    if options.again:
        errors, seconds, options, left_out, measured = recorded(_common.RESULTS / f"{name}.json")
    else:
        configs, left_out = usable(options.configs.split(","))
        errors, seconds = run(configs, options)
        measured = {"command": _common.command(), "commit": _common.commit(), "machine": _common.machine()}
    write(name, errors, seconds, options, left_out, measured)


def write(
    name: str, errors: Mapping[str, Errors], seconds: Mapping[str, float], options: argparse.Namespace,
    left_out: Sequence[str], measured: Mapping[str, str],
) -> None:  # fmt: skip
    """Both tables, on the terminal and as result files."""
    about = f"{options.scenes} photos of seed {options.seed}; boxes {options.boxes}, maps {options.maps}"
    rows, notes = paired(errors), [f"{about}; medians and their intervals", *left_out]
    notes.append(f"measured by `{measured['command']}` at commit `{measured['commit']}`")
    scenes = {part: {metric: values.tolist() for metric, values in own.items()} for part, own in errors.items()}
    record = {"options": vars(options), "scenes": scenes, "left_out": list(left_out), "measured": measured}
    write_result(name, record, rows=table(errors, seconds), notes=[*notes, *verdicts(rows)])
    if rows:
        change = "change: this recipe minus the one it stands against, in the metric's unit; low, high: of the median"
        write_result(f"{name}_paired", rows=rows, notes=[*notes, change])
    print("\n".join([*notes, *verdicts(rows)]))


if __name__ == "__main__":
    main()
