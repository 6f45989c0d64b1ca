"""Ablations: what is dropped, one set of inputs for all variants, resumption, failures as rows, the tables."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photo_folder import FEW_STEPS, write_photo_folder
from PIL import Image
from typer.testing import CliRunner, Result

from horefine import Pose, load_config, load_hand
from horefine.ablate import (
    Inputs,
    Runner,
    chosen_metrics,
    folder_inputs,
    load_plan,
    make_plan,
    run_study,
    suite_inputs,
    to_text,
    write_report,
)
from horefine.ablate import runner as running
from horefine.ablate import table as tables
from horefine.ablate.plan import Plan
from horefine.ablate.residuals import image_residuals, maps_of
from horefine.ablate.variants import GROUPS, UNIONS, Variant, active, dropped, groups_of, without
from horefine.cli import app
from horefine.config import Config
from horefine.data import Sample
from horefine.data.folder import FolderDataset
from horefine.errors import ConfigError
from horefine.evaluate import Scores
from horefine.extractors.detector import Located
from horefine.job import Job
from horefine.losses import LOSSES
from horefine.scene import Features

METRICS = ("HE_mm", "OE_mm")
SHORT = {"base": "song2022", "stages": {"align": {"steps": 3}, "refine": {"steps": 2}}}


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    """The paper's recipe with a few steps of each stage."""
    path = tmp_path / "short.yaml"
    path.write_text(json.dumps(SHORT))
    return str(path)


@pytest.fixture(scope="module")
def scenes() -> Inputs:
    return suite_inputs("small", "n02", (), limit=3)


def study(plan: Plan, inputs: Inputs, out: Path, **settings: Any) -> tables.Result:
    return run_study(plan, Runner(inputs, out, METRICS, **settings))


def no_refinement(*_: Any, **__: Any) -> None:
    raise AssertionError("refined again")


# --- what is dropped -------------------------------------------------------------------------------------------------


def test_every_loss_is_in_one_group() -> None:
    members = [loss for group in GROUPS.values() for loss in group.losses]
    assert set(LOSSES) <= set(members) and len(members) == len(set(members))
    assert len({group.sign for group in GROUPS.values()}) == len(GROUPS)
    assert all(set(parts) <= set(GROUPS) for parts in UNIONS.values())


def test_each_drops_every_group_of_the_recipe_alone() -> None:
    config = load_config("song2022")
    full, *others = dropped(config, "each")
    assert full.config is config
    on = set(active(config))
    lost = {v.title: on - set(active(v.config)) for v in others if v.config is not None}
    assert lost["without segmentation"] == {"segmentation"}
    assert lost["without depth"] == {"relative_depth", "correspondence_depth"}
    singles = [names for title, names in lost.items() if title != "without depth"]
    assert set().union(*singles) == on and sum(map(len, singles)) == len(on)
    assert len({variant.slug for variant in others}) == len(others)


def test_each_fits_every_shipped_recipe() -> None:
    for name in ("default", "adam", "pixels", "cpf"):
        titles = [variant.title for variant in dropped(load_config(name), "each") if variant.config is not None]
        assert len(titles) > 2, name
    assert "without photograph" in titles or "without photograph" in [
        variant.title for variant in dropped(load_config("pixels"), "each")
    ]


def test_pairs_and_single_losses() -> None:
    config = load_config("default")
    groups, losses = groups_of(active(config)), active(config)
    assert len(dropped(config, "pairs")) == 1 + len(groups) * (len(groups) - 1) // 2
    found = dropped(config, "each-loss")[1:]
    assert [set(losses) - set(active(v.config)) for v in found if v.config] == [{name} for name in losses]


def test_table3_has_the_rows_of_the_paper() -> None:
    config = load_config("song2022")
    rows = dropped(config, "table3")
    assert len(rows) == 7 and rows[0].title == "full"
    kept = [tuple(n in active(v.config) for n in ("segmentation", "dense_mapping", "relative_depth", "anatomy"))
            for v in rows if v.config]  # fmt: skip
    assert sorted(kept) == sorted({(s, m, d, True) for s in (0, 1) for m in (0, 1) for d in (0, 1)} - {(0, 0, 0, True)})


def test_a_dropped_loss_is_off_in_every_stage() -> None:
    """Also where a stage changes its options (``settle`` of our recipe)."""
    config = without(load_config("default"), ["surface_depth"])
    assert all("surface_depth" not in config.terms(stage) for stage in config.stages)
    assert "surface_reprojection" in config.terms("settle")


def test_names_are_forgiving_and_mistakes_are_told() -> None:
    config = load_config("song2022")
    titles = [v.title for v in dropped(config, "Dense_Mapping, offset + depth")]
    assert titles == ["full", "without Dense_Mapping", "without offset + depth"]
    with pytest.raises(ConfigError, match="did you mean 'segmentation'"):
        dropped(config, "segmentatoin")
    with pytest.raises(ConfigError, match=r"has no such loss \(segmentation, silhouette\); it has dense mapping"):
        dropped(load_config("default"), "segmentation")
    with pytest.raises(ConfigError, match="nothing named"):
        dropped(config, " ")


def test_somebody_elses_loss_is_a_group_of_its_own() -> None:
    config = load_config({"base": "song2022", "losses": {"horefine.losses.prior:shape_prior": 2.0}})
    found = dropped(config, "each")
    assert found[-1].title == "without horefine.losses.prior:shape_prior" and found[-1].config is not None
    assert "horefine.losses.prior:shape_prior" not in active(found[-1].config)


def test_a_recipe_with_nothing_left_is_a_row_that_says_so() -> None:
    config = load_config({"losses": {"silhouette": 1.0}, "stages": {"all": {"steps": 1}}})
    _, only = dropped(config, "each")
    assert only.config is None and "nothing to minimise" in only.problem


# --- plans -----------------------------------------------------------------------------------------------------------


def plan_of(tmp_path: Path, text: str, *settings: Any) -> Plan:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    return load_plan(str(path), *settings)


def test_a_plan_names_variants_and_spans_grids(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, """
recipe: song2022
set: {stages.refine.steps: 7}
variants:
  softer: {set: {losses.segmentation.weight: 1.0e-2}}
  ours: {recipe: default}
  bare: {drop: [contact, anatomy]}
  broken: {set: [losses.segmentatoin=1]}
grid: {losses.offset: [0, 2.5], optimizer.epsilon: [1.0e-8]}
reference: softer
""")  # fmt: skip
    configs = {variant.title: variant.config for variant in plan.variants}
    assert list(configs) == ["full", "softer", "ours", "bare", "broken", "offset=0, optimizer.epsilon=1e-08",
                             "offset=2.5, optimizer.epsilon=1e-08"]  # fmt: skip
    assert plan.reference == "softer" and plan.recipe == "song2022"
    assert all(config.stages["refine"].steps == 7 for title, config in configs.items() if config and title != "ours")
    assert configs["softer"] is not None and configs["softer"].terms()["segmentation"].weight == 0.01
    assert configs["bare"] is not None and not {"anatomy", "spring_length"} & set(active(configs["bare"]))
    broken = next(variant for variant in plan.variants if variant.title == "broken")
    assert broken.config is None and "did you mean 'segmentation'" in broken.problem
    offs = [configs[title] for title in list(configs)[-2:]]
    assert ["offset" in active(config) for config in offs if config] == [False, True]


def test_the_shipped_plan_is_the_papers_table() -> None:
    plan = load_plan("ablations")
    assert [v.title for v in plan.variants] == [v.title for v in make_plan("song2022", drop="table3").variants]
    assert load_plan("ablations", None, ["stages.refine.steps=9"]).base.stages["refine"].steps == 9


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("recipes: default", "recipes: no such key; did you mean 'recipe'"),
        ("recipe: defualt", "did you mean 'default'"),
        ("variants: {a: {weights: 1}}", "variants.a: weights: no such key"),
        ("variants: {full: {}}", r"two variants are called \(nearly\) 'full'"),
        ("variants: {a b: {}, a_B: {}}", r"two variants are called \(nearly\) 'a b'"),
        ("variants: {'..': {}}", "no letter in the name '..'"),
        ("grid: {losses.offset: 3}", r"grid.losses.offset: 3; expected a list"),
        ("reference: ours", "no variant 'ours'"),
        ("set: 3", "expected a table of values by key"),
        ("[1, 2]", "expected a table, got list"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_a_bad_plan_is_told(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan_of(tmp_path, text)
    with pytest.raises(ConfigError, match="no such file or shipped ablation; did you mean 'ablations'"):
        load_plan("ablation")


# --- running ---------------------------------------------------------------------------------------------------------


def test_the_table_has_marks_errors_and_changes(scenes: Inputs, recipe: str, tmp_path: Path) -> None:
    result = study(make_plan(recipe, drop="segmentation,depth"), scenes, tmp_path)
    rows = tables.rows_of(result)
    assert [row[""] for row in rows] == ["full", "without segmentation", "without depth"]
    assert [(row["S"], row["M"], row["D"], row["Z"]) for row in rows] == [
        ("x", "x", "x", "x"), ("", "x", "x", "x"), ("x", "x", "", ""),
    ]  # fmt: skip
    values = result.scores["full"].values["HE_mm"]
    assert np.isfinite(values).all() and str(rows[0]["HE (mm)"]).startswith(f"{np.median(values):.3g} (")
    change = next(c for c in result.changes["without depth"] if c.metric == "HE_mm")
    assert change.change == pytest.approx(np.median(result.scores["without depth"].values["HE_mm"] - values))
    text = to_text(result)
    assert "suite small v1, maps n02, 3 scenes" in text and "Against full, item by item" in text
    assert "S segmentation (segmentation)" in text


def test_reports_hold_the_same_numbers(scenes: Inputs, recipe: str, tmp_path: Path) -> None:
    result = study(make_plan(recipe, drop="depth"), scenes, tmp_path)
    paths = {path.suffix: path for path in write_report(result, tmp_path)}
    table = json.loads(paths[".json"].read_text())
    lines = list(csv.DictReader(io.StringIO(paths[".csv"].read_text())))
    assert [(line["variant"], line["metric"]) for line in lines] == [
        (title, metric) for title in ("full", "without depth") for metric in METRICS
    ]
    for line in lines:
        values = result.scores[line["variant"]].values[line["metric"]]
        assert float(line["median"]) == pytest.approx(np.median(values)) and line["failed"] == "0"
        stored = [item[line["metric"]] for item in table["items"][line["variant"]].values()]
        assert stored == pytest.approx(values.tolist())
    last = lines[-1]
    assert lines[0]["change"] == "" and last["verdict"] in ("better", "worse", "not told apart")
    change = np.mean(result.scores["without depth"].values["OE_mm"] - result.scores["full"].values["OE_mm"])
    assert float(last["mean_change"]) == pytest.approx(change)
    assert r"\toprule" in paths[".tex"].read_text() and "| full" in paths[".md"].read_text()
    with Image.open(paths[".png"]) as picture:
        assert picture.format == "PNG" and picture.width > 600


def test_nothing_finished_is_done_again(
    scenes: Inputs, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(recipe, drop="depth")
    first = study(plan, scenes, tmp_path)
    monkeypatch.setattr(running, "refine", no_refinement)
    again = study(plan, scenes, tmp_path)
    for title, own in first.scores.items():
        assert all(np.array_equal(own.values[m], again.scores[title].values[m]) for m in METRICS)
    assert again.seconds == first.seconds
    more = run_study(plan, Runner(scenes, tmp_path, (*METRICS, "PA_MJE_mm")))  # a new column: measured, not refined
    assert np.isfinite(more.scores["full"].values["PA_MJE_mm"]).all()


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(
    scenes: Inputs, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, calls = make_plan(recipe, drop="depth"), []

    def stop() -> None:
        calls.append(1)
        if len(list((tmp_path / "killed").rglob("scene_*.json"))) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study(plan, scenes, tmp_path / "killed", batch_size=1, check=stop)
    assert calls and len(list((tmp_path / "killed").rglob("scene_*.json"))) == 2
    assert not list((tmp_path / "killed").rglob(".partial*"))
    whole, refined = running.refine, []
    monkeypatch.setattr(running, "refine", lambda *a, **k: refined.append(len(a[0])) or whole(*a, **k))
    after = study(plan, scenes, tmp_path / "killed", batch_size=1)
    assert sum(refined) == 4 + 2  # the four that were missing, and a warm-up for each variant
    once = study(plan, scenes, tmp_path / "whole", batch_size=1)
    for title in once.scores:
        np.testing.assert_array_equal(after.scores[title].values["HE_mm"], once.scores[title].values["HE_mm"])


@pytest.mark.slow
def test_what_changed_is_done_again(scenes: Inputs, recipe: str, tmp_path: Path) -> None:
    """Another recipe under the same title, another first pose, a damaged record."""
    one = study(make_plan(recipe, drop="depth"), scenes, tmp_path).scores["full"].values["HE_mm"]
    other = study(make_plan(recipe, ["losses.offset=50"], "depth"), scenes, tmp_path).scores["full"].values["HE_mm"]
    assert not np.array_equal(one, other)
    name = scenes.names[0]
    (tmp_path / "variants" / "full" / f"{name}.json").write_text("{")
    back = study(make_plan(recipe, drop="depth"), scenes, tmp_path).scores["full"].values["HE_mm"]
    np.testing.assert_array_equal(back, one)
    moved = dataclasses.replace(scenes.starts[name], key="other")
    inputs = dataclasses.replace(scenes, starts={**scenes.starts, name: moved})
    record = tmp_path / "variants" / "full" / f"{name}.json"
    before = record.stat().st_mtime_ns
    study(make_plan(recipe, drop="depth"), inputs, tmp_path)
    assert record.stat().st_mtime_ns > before


def test_records_are_poses_that_others_read(scenes: Inputs, recipe: str, tmp_path: Path) -> None:
    from horefine.exchange import find_item, read_pose

    result = study(make_plan(recipe, drop="depth"), scenes, tmp_path)
    name = scenes.names[1]
    pose = read_pose(find_item(tmp_path / "variants" / "without_depth", name)).pose
    found = running.errors_of(pose, [scenes.starts[name]], scenes.model, ("HE_mm",))
    assert found["HE_mm"][0] == pytest.approx(result.scores["without depth"].values["HE_mm"][1], abs=1e-3)


def test_a_variant_that_fails_is_a_row_and_the_others_go_on(
    scenes: Inputs, recipe: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_of(tmp_path, f"""
recipe: {recipe}
variants:
  fields: {{set: {{losses.sdf_consistency: 1.0, stages.refine.losses: [sdf_consistency, segmentation]}}}}
  typo: {{set: {{losses.offest: 1}}}}
  last: {{drop: [offset]}}
""")  # fmt: skip
    result = study(plan, scenes, tmp_path / "out")
    rows = {row[""]: row for row in tables.rows_of(result)}
    assert rows["full"]["failed"] == rows["last"]["failed"] == 0
    assert rows["fields"]["failed"] == rows["typo"]["failed"] == 3 and str(rows["fields"]["HE (mm)"]).startswith("inf")
    text = to_text(result)
    assert "features.hand_sdf, which is missing" in text and "did you mean 'offset'" in text
    assert "typo" in caplog.text
    assert {path.suffix for path in write_report(result, tmp_path)} >= {".md", ".csv", ".json", ".tex"}


def test_a_bad_item_fails_alone(scenes: Inputs, recipe: str, tmp_path: Path) -> None:
    bad = scenes.starts[scenes.names[1]]
    pose = dataclasses.replace(bad.pose, hand_transl=bad.pose.hand_transl * torch.nan)
    starts = {**scenes.starts, scenes.names[1]: dataclasses.replace(bad, pose=pose)}
    inputs = dataclasses.replace(scenes, starts=starts, names=(*scenes.names, "lost"), failures={"lost": "no file"})
    result = study(make_plan(recipe, drop="depth"), inputs, tmp_path)
    assert "not usable: lost: no file" in to_text(result) and "failed on 1 of 4 items" in to_text(result)
    for own in result.scores.values():
        assert set(own.failures) == {scenes.names[1], "lost"}
        assert np.isfinite(own.values["HE_mm"]).tolist() == [True, False, True, False]


def test_losses_that_can_do_nothing_are_off_and_said(scenes: Inputs, recipe: str, tmp_path: Path) -> None:
    blind = {n: dataclasses.replace(s, features=dataclasses.replace(s.features, contact=None))
             for n, s in scenes.starts.items()}  # fmt: skip
    result = study(make_plan(recipe, drop="contact,depth"), dataclasses.replace(scenes, starts=blind), tmp_path)
    assert [variant.title for variant in result.variants] == ["full", "without depth"]
    text = to_text(result)
    assert "spring_length: off, as no image has the features for it" in text
    assert "left out, as the same as full: without contact" in text and "C contact" not in text


# --- the verdict -----------------------------------------------------------------------------------------------------


def result_of(change: Sequence[float]) -> tables.Result:
    """Two variants whose HE differ by ``change``, item by item."""
    names = tuple(f"i{k}" for k in range(len(change)))
    base = np.linspace(4, 9, len(change))
    scores = {t: Scores(names, {"HE_mm": v}) for t, v in (("full", base), ("other", base + np.asarray(change)))}
    config = load_config("song2022")
    plan = Plan("song2022", (Variant("full", config), Variant("other", config)), config, "full")
    return tables.Result(plan, scores, {"full": {}, "other": {}}, "made up")


def test_the_star_needs_an_interval_without_zero() -> None:
    sure = tables.change_rows(result_of(np.linspace(1, 3, 30)))[0]["change of HE (mm)"]
    assert str(sure).startswith("+2* (+1.") and "worse than full" in tables.verdicts(result_of([1.0] * 30))[0]
    unsure = tables.change_rows(result_of([*np.linspace(-2, -0.1, 15), *np.linspace(0.1, 2, 15)]))[0]
    assert "*" not in str(unsure["change of HE (mm)"])
    assert "is better than full" in tables.verdicts(result_of([-0.5, -1.0] * 15))[0]


def test_means_are_told_beside_medians() -> None:
    """A tenth of the items much worse: the median does not move, the mean does; its interval here holds zero or not."""
    result = result_of([0.0] * 90 + [5.0] * 10)
    low, mean, high = tables.mean_change(result, "other", "HE_mm")
    assert mean == pytest.approx(0.5) and 0 < low < mean < high
    full, other = tables.mean_rows(result)
    assert full["change of mean HE (mm)"] == "-" and str(other["change of mean HE (mm)"]).startswith("+0.5* (+0.2")
    assert "*" not in str(tables.change_rows(result)[0]["change of HE (mm)"])


def test_numbers_are_as_long_as_they_are_worth() -> None:
    shown = [tables.number3(value) for value in (5.0993, 0.04567, 7.4e-5, -2e-4, 123.4, 4321.0, float("inf"))]
    assert shown == ["5.1", "0.046", "0", "0", "123", "4321", "inf"]
    assert tables.number3(float("nan")) == "-"


# --- residuals -------------------------------------------------------------------------------------------------------


def test_residuals_are_small_at_the_truth_and_measure_what_they_say() -> None:
    inputs = suite_inputs("small", "exact", (), limit=3)
    starts = list(inputs.starts.values())
    truth = Pose.cat([start.truth for start in starts if start.truth is not None])
    maps = maps_of([start.features for start in starts])
    right = image_residuals(truth, maps, inputs.model)
    assert (right["mask_iou"] > 0.95).all() and (right["code_mm"] < 1).all() and (right["map_depth_mm"] < 0.5).all()
    wrong = image_residuals(Pose.cat([start.pose for start in starts]), maps, inputs.model)
    assert (wrong["mask_iou"] < right["mask_iou"]).all() and (wrong["code_mm"] > 4 * right["code_mm"]).all()
    back = dataclasses.replace(truth, hand_transl=truth.hand_transl + torch.tensor([0.0, 0.0, 0.004]))
    alone = dataclasses.replace(maps, object_mask=None)  # only the hand is looked at, 4 mm too far away
    np.testing.assert_allclose(image_residuals(back, alone, inputs.model)["map_depth_mm"], 4, atol=0.5)
    blind = dataclasses.replace(maps, hand_mask=None, object_mask=None)
    assert all(np.isnan(values).all() for values in image_residuals(truth, blind, inputs.model).values())


def test_columns_are_those_of_the_paper_or_the_named_ones(scenes: Inputs) -> None:
    assert chosen_metrics(None, scenes) == ("HE_mm", "OE_mm", "pd_mm", "siv_cm3", "contact_regions")
    assert chosen_metrics("PD,he", scenes) == ("HE_mm", "pd_mm")
    blind = {name: dataclasses.replace(start, truth=None) for name, start in scenes.starts.items()}
    assert "mask_iou" in chosen_metrics(None, dataclasses.replace(scenes, starts=blind))
    with pytest.raises(ConfigError, match="no metric 'HX'"):
        chosen_metrics("HX", scenes)


@pytest.mark.slow
def test_simulation_displacement_is_a_column(scenes: Inputs, recipe: str, tmp_path: Path) -> None:
    pytest.importorskip("pybullet")
    metrics = chosen_metrics("HE", scenes, simulate=True)
    plan = make_plan(recipe, drop="depth")
    one = {name: scenes.starts[name] for name in scenes.names[:1]}
    inputs = dataclasses.replace(scenes, names=scenes.names[:1], starts=one)
    result = run_study(plan, Runner(inputs, tmp_path, metrics))
    values = result.scores["full"].values["sd_mm"]
    assert np.isfinite(values).all() and (values >= 0).all() and "SD (mm)" in to_text(result)


# --- folders ---------------------------------------------------------------------------------------------------------


class Counting:
    """Networks that count what they are asked for; poses and maps come from the files of the stand-in photographs."""

    def __init__(self, truth: Path) -> None:
        self.truth, self.asked = truth, {"locate": 0, "poses": 0, "features": 0}

    def locate(self, sample: Sample, side: Any) -> Located:
        del side
        self.asked["locate"] += 1
        height, width = sample.camera.size
        return Located((0, 0, width, height), (0, 0, width, height))

    def poses(self, crops: Sequence[Sample]) -> tuple[Pose, dict[str, Any]]:
        self.asked["poses"] += len(crops)
        truths = [crop.truth for crop in crops if crop.truth is not None]
        return Pose.cat(truths), {}

    def features(self, crops: Sequence[Sample], names: Sequence[str]) -> Features:
        from horefine.data.maps import exact_features
        from horefine.extractors.crops import map_camera, mesh_of

        self.asked["features"] += len(crops)
        truth = Pose.cat([crop.truth for crop in crops if crop.truth is not None])
        found, _ = exact_features(truth, load_hand(kind="embedded"), mesh_of(crops), map_camera(crops))
        absent = {f.name: None for f in dataclasses.fields(Features) if f.name not in ("camera", "object", *names)}
        return dataclasses.replace(found, **absent)

    def complete(self, pose: Pose, features: Features) -> Features:
        del pose
        return features


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photographs, the second of a left hand."""
    return write_photo_folder(tmp_path_factory.mktemp("photos"), 3, left=(1,))


def job_of(photos: Path, config: Config, networks: Any, **files: Path) -> Job:
    model = load_hand(kind="embedded")
    return Job(FolderDataset(photos / "images"), config, photos, model, networks, **files)  # type: ignore[arg-type]


def test_networks_are_asked_once_for_all_variants_and_runs(photos: Path, recipe: str, tmp_path: Path) -> None:
    networks, plan = Counting(photos), make_plan(recipe, drop="segmentation,depth")
    first = folder_inputs(job_of(photos, plan.base, networks), plan.configs, tmp_path / "inputs")
    assert networks.asked == {"locate": 3, "poses": 3, "features": 3} and not first.failures
    again = folder_inputs(job_of(photos, plan.base, networks), plan.configs, tmp_path / "inputs")
    assert networks.asked["poses"] == 3
    for name, start in first.starts.items():
        other = again.starts[name]
        assert start.key == other.key and torch.equal(start.pose.hand_transl, other.pose.hand_transl)
        assert start.features.hand_coords is not None and other.features.hand_coords is not None
        assert torch.equal(start.features.hand_coords, other.features.hand_coords)
        assert torch.equal(start.features.camera.matrix, other.features.camera.matrix)
        assert start.truth is not None and other.truth is not None
        assert torch.equal(start.truth.object_transl, other.truth.object_transl)
    (tmp_path / "inputs" / "p1.npz").write_bytes(b"PK damaged")
    folder_inputs(job_of(photos, plan.base, networks), plan.configs, tmp_path / "inputs")
    assert networks.asked["poses"] == 4
    wider = [*plan.configs, load_config(recipe, ["losses.photometric=1"])]
    folder_inputs(job_of(photos, plan.base, networks), wider, tmp_path / "inputs")
    assert networks.asked["features"] == 7  # another feature is wanted: all are found again


def horefine(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


FEW = ("--set", "stages.correspond.steps=2", "--set", "stages.settle.steps=1", "--set", "stages.render.steps=1")


@pytest.mark.slow
def test_the_command_measures_what_run_measures(photos: Path, tmp_path: Path) -> None:
    """Left hands too; a second run prints the same."""
    files = ("--init", photos / "init", "--features", photos / "maps", *FEW)
    told = horefine("ablate", photos / "images", *files, "--drop", "depth", "--out", tmp_path / "a", "--json")
    assert told.exit_code == 0, told.output
    table = json.loads(told.stdout)
    assert table["recipe"] == "default" and set(table["items"]) == {"full", "without depth"}
    ran = horefine("run", photos / "images", *files, "--out", tmp_path / "r", "--no-pictures")
    assert ran.exit_code == 0, ran.output
    for name, item in table["items"]["full"].items():
        errors = json.loads((tmp_path / "r" / "items" / name / "result.json").read_text())["errors"]
        assert item["HE_mm"] == pytest.approx(errors["hand_error_mm"], abs=2e-3)
        assert item["OE_mm"] == pytest.approx(errors["object_error_mm"], abs=2e-3)
    again = horefine("ablate", photos / "images", *files, "--drop", "depth", "--out", tmp_path / "a")
    assert again.exit_code == 0 and "without depth" in again.stdout and "| full" in again.stdout


@pytest.mark.slow
def test_without_a_truth_only_the_quality_is_measured(photos: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(photos / "images", tmp_path / "alone" / "images")
    for sidecar in (tmp_path / "alone" / "images").glob("*.json"):
        table = json.loads(sidecar.read_text())
        sidecar.write_text(json.dumps({key: value for key, value in table.items() if key != "truth"}))
    files = ("--init", photos / "init", "--features", photos / "maps", *FEW, "--drop", "depth")
    told = horefine("ablate", tmp_path / "alone" / "images", *files, "--out", tmp_path / "a")
    assert told.exit_code == 0 and "HE (mm)" not in told.stdout
    assert "PD (mm)" in told.stdout and "mask IoU" in told.stdout and "code residual (mm)" in told.stdout
    assert "no truth is known" in told.stdout
    shutil.copytree(photos / "truth", tmp_path / "alone" / "truth")  # beside the images: found without a sidecar
    told = horefine("ablate", tmp_path / "alone" / "images", *files, "--out", tmp_path / "a")
    assert told.exit_code == 0 and "HE (mm)" in told.stdout


def test_exit_codes(photos: Path, tmp_path: Path) -> None:
    files = ("--init", photos / "init", "--features", photos / "maps", *FEW_STEPS)
    assert horefine("ablate").exit_code == 2
    assert horefine("ablate", photos / "images", "--suite", "small").exit_code == 2
    assert horefine("ablate", photos / "images", *files, "--drop", "segmentation", "--out", tmp_path).exit_code == 2
    assert horefine("ablate", "--suite", "smal", "--out", tmp_path).exit_code == 2
    broken = tmp_path / "plan.yaml"
    broken.write_text(
        "recipe: default\nset: [stages.correspond.steps=1, stages.render.steps=1]\nvariants: {a: {drop: [nothing]}}\n"
    )
    told = horefine("ablate", photos / "images", *files, "--config", broken, "--out", tmp_path / "b")
    assert told.exit_code == 4 and "no such loss or group" in told.stdout


@pytest.mark.slow
def test_the_benchmark_writes_the_table(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import _common, ablations

    monkeypatch.setattr(_common, "RESULTS", tmp_path / "results")
    words = ["--recipe", recipe, "--suite", "small", "--limit", "2", "--drop", "depth", "--metrics", "HE,OE"]
    monkeypatch.setattr("sys.argv", ["ablations.py", *words, "--work", str(tmp_path / "work"), "--out", "short"])
    ablations.main()
    table = json.loads((tmp_path / "results" / "short.json").read_text())
    assert set(table["items"]) == {"full", "without depth"} and table["command"].startswith("python")
    page = (tmp_path / "results" / "short.md").read_text()
    assert "| full" in page and "change of HE" in page and "command: `python" in page
