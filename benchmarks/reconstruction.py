"""gSDF and C2F-SDF from pixels, on held-out synthetic photos: surfaces, first poses, and what refinement makes of them.

    python -m benchmarks.reconstruction --scenes 100
    python -m benchmarks.reconstruction --scenes 100 --mesh unknown     # the object's mesh is what the network saw
    python -m benchmarks.reconstruction --scenes 100 --systems gsdf

Photos, boxes and seed are those of ``benchmarks.from_pixels``; depth is the synthetic sensor's. Surfaces are scored as
gSDF scores them (30 000 points; ``icp``: after a scale and a translation from the predicted to the true hand) and as
they stand in the camera's frame (``metric``); one that a network does not show counts as failed. E_h: mean distance of
the 21 joints, E_o: of the object's box centre, nothing aligned. HE, OE, PD, SIV: of the poses, before and after
``pixels`` (gsdf) or ``rgbd`` (c2fsdf); with an unknown object, the true one's mesh is not there to compare with, and
its surfaces before and after are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from benchmarks._common import RESULTS, command, median_interval, write_result
from benchmarks.from_pixels import batches, crops_of, measure
from horefine import Pose, load_config, load_hand, refine
from horefine.data import Sample
from horefine.extractors import Learned, extracted_first
from horefine.hand import HandModel
from horefine.mesh import Mesh
from horefine.metrics import reconstruction_scores
from horefine.reconstruction import codes_seen, recipe_for_reconstructed

RECIPES = {"gsdf": "pixels", "c2fsdf": "rgbd"}
Scores = dict[str, list[float]]


def run(system: str, known: bool, scenes: int, seed: int, batch: int) -> Scores:
    """Every score of every scene, NaN where it failed."""
    hand = load_hand(kind="embedded")
    learned = Learned(system, hand=hand)
    scores: Scores = {}
    for samples, truth in batches(scenes, seed, batch):
        crops = crops_of(learned, samples, "predicted")
        for row, crop in enumerate(crops):
            told = crop if known else replace(crop, mesh=None)
            for name, value in _scene(learned, hand, told, crop, truth[row : row + 1], known, RECIPES[system]).items():
                scores.setdefault(name, []).append(value)
    return scores


def _scene(
    learned: Learned, hand: HandModel, told: Sample, crop: Sample, truth: Pose, known: bool, recipe: str
) -> dict[str, float]:
    assert crop.mesh is not None
    try:
        pose, fields = learned.poses([told])
    except Exception as error:  # an object that nobody sees: this scene failed
        print(f"{crop.name}: {error}", flush=True)
        return dict.fromkeys(_names(known), float("nan"))
    mesh = fields.pop("object", [crop.mesh])[0]
    surfaces = fields.pop("surfaces", [{}])[0]
    told = replace(told, mesh=mesh)
    after = _refined(learned, hand, told, pose, fields, known, recipe)
    true_hand = hand(truth.hand_rotvec, truth.hand_shape, truth.hand_transl)
    faces = hand.faces.numpy()
    exact = ((true_hand.vertices[0].numpy(), faces), _placed(truth, crop.mesh))
    found = dict.fromkeys(_names(known), float("nan"))
    if {"hand", "object"} <= surfaces.keys():
        seen = [(surfaces[name].vertices, surfaces[name].faces) for name in ("hand", "object")]
        for kind, align in (("icp", True), ("metric", False)):
            scored = reconstruction_scores(seen[0], exact[0], seen[1], exact[1], align=align)
            found |= {f"{name} {kind}": value for name, value in scored.items()}
    for when, one in (("first", pose), ("refined", after)):
        posed = hand(one.hand_rotvec, one.hand_shape, one.hand_transl)
        found[f"E_h mm {when}"] = _mm(posed.joints - true_hand.joints)
        found[f"E_o mm {when}"] = _mm(_center(one, mesh) - _center(truth, crop.mesh))
        if known:
            errors = measure(one, truth, crop.mesh, hand)
            found |= {f"{name} {when}": float(errors[name][0]) for name in POSES}
        else:
            pair = (posed.vertices[0].numpy(), faces), _placed(one, mesh)
            scored = reconstruction_scores(pair[0], exact[0], pair[1], exact[1], align=False)
            found |= {f"{name} {when}": scored[name] for name in ("cd_h_cm2", "cd_o_cm2", "fs_o_10")}
            errors = measure(one, truth, mesh, hand)
            found |= {f"{name} {when}": float(errors[name][0]) for name in ("HE_mm", "pd_mm", "siv_cm3")}
    return found


POSES = ("HE_mm", "OE_mm", "MJE_mm", "PA_MJE_mm", "ADD_S_mm", "pd_mm", "siv_cm3")


def _names(known: bool) -> list[str]:
    """Of all scores, in the order of the table."""
    surfaces = ("cd_h_cm2", "fs_h_1", "fs_h_5", "cd_o_cm2", "fs_o_5", "fs_o_10")
    names = [f"{name} {kind}" for kind in ("icp", "metric") for name in surfaces]
    poses = POSES if known else ("HE_mm", "pd_mm", "siv_cm3", "cd_h_cm2", "cd_o_cm2", "fs_o_10")
    return names + [f"{name} {when}" for name in ("E_h mm", "E_o mm", *poses) for when in ("first", "refined")]


def _refined(
    learned: Learned, hand: HandModel, crop: Sample, pose: Pose, fields: dict, known: bool, recipe: str
) -> Pose:
    """As the pipeline does it."""
    config = load_config(recipe)
    features = learned.features([crop], [n for n in extracted_first(config.features) if n not in fields])
    own = {name: value for name, value in fields.items() if name in config.features}
    features = replace(features, **own)
    if not known:
        features = replace(features, object_coords=codes_seen(pose, features, hand))
        config = recipe_for_reconstructed(config)
    return refine(pose, features, config, hand_model=hand, complete=learned.complete).pose


def _placed(pose: Pose, mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    vertices, faces = mesh.trimmed()
    return pose.place(vertices[None])[0].numpy(), faces.numpy()


def _center(pose: Pose, mesh: Mesh) -> torch.Tensor:
    return pose.place(mesh.center[:, None])[:, 0]


def _mm(difference: torch.Tensor) -> float:
    return float(difference.norm(dim=-1).mean()) * 1e3


def rows_of(results: dict[str, Scores]) -> list[dict[str, object]]:
    """Medians with bootstrap intervals, means, and how many failed."""
    rows = []
    for name in next(iter(results.values())):
        row: dict[str, object] = {"score": name}
        for system, scores in results.items():
            values = np.array(scores[name])
            low, middle, high = median_interval(values[np.isfinite(values)])
            row |= {f"{system} median": middle, f"{system} 95 %": f"{low:.3g}..{high:.3g}"}
            row[f"{system} mean"] = float(np.nanmean(values))
        rows.append(row)
    return rows


def notes_of(results: dict[str, Scores]) -> list[str]:
    """Which scenes failed, and for two systems what their scene by scene differences say."""
    notes = []
    for system, scores in results.items():
        lost = sum(not np.isfinite(value) for value in scores["cd_o_cm2 icp"])
        notes.append(f"{system}: {lost} of {len(scores['cd_o_cm2 icp'])} scenes show no surface of hand or object")
        for name in [n.removesuffix(" first") for n in scores if n.endswith(" first")]:
            gained = np.array(scores[f"{name} refined"]) - np.array(scores[f"{name} first"])
            low, middle, high = median_interval(gained[np.isfinite(gained)])
            notes.append(f"{system} refined minus first, {name}: {middle:.3g} ({low:.3g}..{high:.3g})")
    if {"gsdf", "c2fsdf"} <= results.keys():
        for name in results["gsdf"]:
            apart = np.array(results["c2fsdf"][name]) - np.array(results["gsdf"][name])
            low, middle, high = median_interval(apart[np.isfinite(apart)])
            notes.append(f"c2fsdf minus gsdf, {name}: {middle:.3g} ({low:.3g}..{high:.3g})")
    return notes


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=77, help="any but the training scenes' 0")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--systems", nargs="+", default=["gsdf", "c2fsdf"], choices=["gsdf", "c2fsdf"])
    parser.add_argument("--mesh", choices=["known", "unknown"], default="known")
    parser.add_argument("--again", action="store_true", help="tables of the scores measured before, by measured")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    known = options.mesh == "known"
    name = "reconstruction" + ("" if known else "_unknown")
    if options.again:
        before = json.loads((RESULTS / f"{name}.json").read_text())
        results, about = before["scenes"], {"measured": before.get("measured", before["command"])}
    else:
        results = {s: run(s, known, options.scenes, options.seed, options.batch) for s in options.systems}
        about = {"measured": command()}
    count = len(next(iter(next(iter(results.values())).values())))
    notes = [f"{count} photos of seed {options.seed}, object's mesh {options.mesh}", *notes_of(results)]
    notes.append(f"measured by {about['measured']}")
    write_result(name, {**about, "options": vars(options), "scenes": results}, rows=rows_of(results), notes=notes)
    print("\n".join(notes))


if __name__ == "__main__":
    main()
