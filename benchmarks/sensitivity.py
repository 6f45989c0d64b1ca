"""How far off things may be: errors after refinement against one wrong thing at a time, on the same scenes.

    python -m benchmarks.sensitivity                                   # default, all factors, 30 scenes
    python -m benchmarks.sensitivity --config default,song2022 --scenes 100
    python -m benchmarks.sensitivity --factors rotation,translation
    python -m benchmarks.sensitivity --starts 8                        # any rotation, with several starts

Scenes, maps and the usual start (15 degrees, 20 mm, 10 degrees a finger joint off, shape unknown) are those of
``benchmarks.refine``; each factor (``benchmarks/_factors.py``) leaves all else as it is. The maps are exact unless the
factor is noise or occlusion; contact, which some losses use, is the true one (``--no-contact``: none). *Solved*: HE and
OE below 3 mm. The *basin* of a factor is the largest value up to which at least 90 % of the scenes are solved, at all
smaller values too.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks._common import median_interval, write_picture, write_result
from benchmarks._factors import FACTORS, USUAL, Scenes, Trial, label
from benchmarks.refine import errors
from horefine import Config, Pose, load_config, load_hand, refine
from horefine.data.synthetic import benchmark_scenes
from horefine.errors import ConfigError

SOLVED = 3.0
"""Millimetres."""
SHARE = 0.9
"""Of scenes solved inside the basin."""
SEVERAL = ("rotation", "both", "any")
"""Factors that several starts are for."""
ERRORS = {"HE": "HE", "OE": "OE", "hand to object": "HErel"}
"""Title -> its name in ``benchmarks.refine``."""


def measure(config: Config, scenes: Scenes, trial: Trial, batch: int) -> dict[str, Any]:
    """Medians with intervals, 90th percentiles and shares solved after refining one trial; seconds an image."""
    features, start = trial
    begin = time.perf_counter()
    parts = torch.arange(len(start)).split(batch)
    found = [refine(start[rows], features[rows], config, hand_model=scenes.model).pose for rows in parts]
    seconds = (time.perf_counter() - begin) / len(start)
    after = errors(Pose.cat(found), scenes.truth, scenes.features)
    cells: dict[str, Any] = {}
    for title, name in ERRORS.items():
        low, middle, high = median_interval(after[name].tolist())
        cells |= {f"{title} median": middle, f"{title} interval": f"{low:.3g}..{high:.3g}"}
        cells[f"{title} p90"] = float(after[name].quantile(0.9))
    below = {title: after[name] < SOLVED for title, name in ERRORS.items()}
    cells["solved"] = float((below["HE"] & below["OE"]).float().mean())
    cells["hand to object < 3 mm"] = float(below["hand to object"].float().mean())
    return cells | {"s/image": seconds}


def curves(config: Config, scenes: Scenes, factors: Sequence[str], batch: int) -> list[dict[str, Any]]:
    """One row for each value of each factor."""
    refine(scenes.start()[:1], scenes.features[:1], config, hand_model=scenes.model)  # compiles, fills caches
    rows = []
    for name in factors:
        for value in FACTORS[name].values:
            cells = measure(config, scenes, FACTORS[name].trial(scenes, value), batch)
            rows.append({"factor": name, "value": label(value), **cells})
            shown = ", ".join(f"{title} {cells[f'{title} median']:.3g}" for title in ERRORS)
            print(f"{name} {label(value)}: {shown} mm, solved {cells['solved']:.2f}", flush=True)
    return rows


def basin(values: Sequence[str], shares: Sequence[float]) -> str | None:
    """The last value before the first at which fewer than :data:`SHARE` are solved; None: it is the first."""
    inside = None
    for value, share in zip(values, shares, strict=True):
        if share < SHARE:
            break
        inside = value
    return inside


def basins(rows: Sequence[Mapping[str, Any]]) -> dict[str, str | None]:
    """The basin of each factor of ``rows`` that has one."""
    found = {}
    for name, own in by_factor(rows).items():
        if FACTORS[name].grows:
            found[name] = basin([row["value"] for row in own], [row["solved"] for row in own])
    return found


def by_factor(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of each factor."""
    names = dict.fromkeys(row["factor"] for row in rows)
    return {name: [row for row in rows if row["factor"] == name] for name in names}


def picture(rows: Sequence[Mapping[str, Any]], title: str) -> bytes | None:
    """A panel for each factor, as PNG; None where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    panels = by_factor(rows)
    across = min(4, len(panels))
    down = math.ceil(len(panels) / across)
    figure = Figure(figsize=(4.2 * across, 3 * down + 0.4), layout="constrained")
    figure.suptitle(f"{title}: median (full), 90th percentile (dotted), share solved (grey)")
    for k, (name, own) in enumerate(panels.items()):
        panel = figure.add_subplot(down, across, k + 1, title=FACTORS[name].title, yscale="log", ylabel="mm")
        _draw(panel, own)
        if k == 0:
            panel.legend(fontsize=7)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=90)
    return stream.getvalue()


def _draw(panel: Any, own: Sequence[Mapping[str, Any]]) -> None:
    """The curves of one factor; values that are no numbers stand side by side. Below 0.01 mm is drawn at 0.01."""
    values = [row["value"] for row in own]
    try:
        places = [float(value) for value in values]
    except ValueError:
        places = list(range(len(values)))
        panel.set_xticks(places, values, fontsize=7)
    for color, title in enumerate(ERRORS):
        for kind, style in (("median", "-"), ("p90", ":")):
            heights = [max(row[f"{title} {kind}"], 0.01) for row in own]
            panel.plot(places, heights, style, color=f"C{color}", marker=".", label=title if style == "-" else None)
    right = panel.twinx()
    right.plot(places, [row["solved"] for row in own], color="0.6", linewidth=3, alpha=0.5)
    right.set_ylim(0, 1.03)


def study(recipe: str, scenes: Scenes, options: argparse.Namespace) -> None:
    """The curves of one recipe, printed and written."""
    several = [f"starts.count={options.starts}", f"starts.rotation={math.radians(options.turn):.4f}"]
    config = load_config(recipe, [*options.set, *(several if options.starts > 1 else [])])
    try:
        rows = curves(config, scenes, options.factors, options.batch)
    except ConfigError as error:  # it needs the photograph, or contact
        print(f"{recipe}: left out: {error}")
        return
    name = f"sensitivity_{Path(recipe).stem}" + (f"_starts{options.starts}" if options.starts > 1 else "")
    name += "_no_contact" if options.no_contact else ""
    drawn, found = picture(rows, name), basins(rows)
    contact = "no contact" if options.no_contact else "true contact"
    notes = [
        f"errors in mm after refinement of {len(scenes.truth)} scenes; solved: HE and OE below {SOLVED:g} mm",
        *(f"basin ({SHARE:.0%} solved up to here), {FACTORS[key].title}: {found[key] or 'none'}" for key in found),
        f"start, where it is not what varies: {label(USUAL)} (degrees/mm/degrees a finger joint), shape 0; {contact}",
        "a wrong focal length moves everything along the rays: there, look at hand to object",
        *([f"starts: {options.starts}, the others turned by {options.turn:g} degrees"] if options.starts > 1 else []),
        f"picture: {name}.png" if drawn else "no picture: matplotlib is missing (pip install 'horefine[dev]')",
    ]
    if drawn:
        write_picture(name, drawn)
    write_result(name, {"options": vars(options), "basins": found}, rows=rows, notes=notes)
    print("\n".join(notes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="default", help="recipes, separated by commas")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c")
    parser.add_argument("--factors", help=f"of {','.join(FACTORS)} (default: all; with --starts {','.join(SEVERAL)})")
    parser.add_argument("--scenes", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--starts", type=int, default=1, help="starts for each image (starts.count)")
    parser.add_argument("--turn", type=float, default=120.0, help="with --starts: starts.rotation, degrees")
    parser.add_argument("--no-contact", action="store_true", help="do not give the true contact")
    options = parser.parse_args()
    everything = SEVERAL if options.starts > 1 else tuple(FACTORS)
    options.factors = tuple(options.factors.split(",")) if options.factors else everything
    for name in options.factors:
        if name not in FACTORS:
            parser.error(f"--factors {name}: no such factor; known: {', '.join(FACTORS)}")
    torch.set_num_threads(options.threads)
    truth, features = benchmark_scenes(options.scenes, options.seed)
    features = dataclasses.replace(features, contact=None) if options.no_contact else features
    for recipe in options.config.split(","):
        study(recipe, Scenes(truth, features, load_hand(), options.seed), options)


if __name__ == "__main__":
    main()
