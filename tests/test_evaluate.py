"""Scores, intervals, tables and paired comparison: closed forms, properties, failures counted."""

import csv
import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from horefine import Mesh, Pose, load_hand, metrics
from horefine.data.maps import disturb
from horefine.data.mirror import mirror_mesh, mirror_pose
from horefine.errors import ConfigError, InputError
from horefine.evaluate import METRICS, Scores, catalogue, chosen, compare, interval, score, tables
from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from horefine.objects import embedded_object

HAND = load_hand(kind="embedded")
COUNT = 3


def truth() -> Pose:
    rotvec = HAND.mean_rotvec.expand(COUNT, 16, 3).clone()
    rotvec[:, 0] = torch.tensor([[0.3, 0.2, 0.1], [1.0, 0.0, 0.5], [0.0, -0.7, 0.2]])
    shape = torch.randn(COUNT, 10, generator=torch.Generator().manual_seed(0)) * 0.5
    transl = torch.tensor([0.0, 0.0, 0.5]).expand(COUNT, 3).clone()
    place = torch.tensor([0.05, 0.02, 0.52]).expand(COUNT, 3).clone()
    return Pose(rotvec, shape, transl, rotvec[:, 0] * 0.5, place)


def meshes() -> Mesh:
    return Mesh.cat([embedded_object(name) for name in ("mug", "box", "marker")])


def example(failed: bool = True) -> Scores:
    values = {"HE_mm": np.array([1.0, 12.0, np.nan, 3.0]), "PA_AUC": np.array([0.9, 0.4, np.nan, 0.8])}
    groups = {"object": ("mug", "mug", "box", "box")}
    if not failed:
        values = {name: np.nan_to_num(v, nan=2.0) for name, v in values.items()}
    return Scores(("a", "b", "c", "d"), values, groups, {"c": "missing"} if failed else {})


# --- scores ------------------------------------------------------------------------------------------------------


def test_the_truth_is_without_error_and_every_metric_is_measured() -> None:
    found = score(truth(), truth(), meshes(), HAND)
    assert set(found) == set(catalogue.POSE + catalogue.INTERACTION)
    for name, values in found.items():
        assert values.shape == (COUNT,) and values.dtype == np.float64, name
        if METRICS[name].family == "pose":
            np.testing.assert_allclose(values, 1.0 if METRICS[name].more else 0.0, atol=6e-3, err_msg=name)


def test_a_shift_of_everything_is_in_absolute_errors_only() -> None:
    true = truth()
    shift = torch.tensor([0.003, 0.0, 0.004])
    moved = Pose(
        true.hand_rotvec, true.hand_shape, true.hand_transl + shift, true.object_rotvec, true.object_transl + shift
    )
    found = score(moved, true, meshes(), HAND, metrics=["pose"])
    for name in ("HE_mm", "OE_mm", "ADD_mm", "MSSD_mm", "OCE_mm", "MCE_mm", "wrist_mm"):
        np.testing.assert_allclose(found[name], 5.0, atol=2e-3, err_msg=name)
    for name in ("hand_to_object_mm", "MJE_mm", "ST_MJE_mm", "PA_MJE_mm", "MME_mm", "PA_MME_mm"):
        np.testing.assert_allclose(found[name], 0.0, atol=2e-3, err_msg=name)
    np.testing.assert_allclose(found["wrist_depth_mm"], 4.0, atol=2e-3)


def test_numbers_are_those_of_the_metrics_and_do_not_depend_on_the_batch() -> None:
    true, mesh = truth(), meshes()
    pose = disturb(true, 1, model=HAND, object_center=mesh.center)
    found = score(pose, true, mesh, HAND)
    for k in range(COUNT):
        alone = score(pose[k], true[k], mesh[k], HAND)
        for name, values in found.items():
            np.testing.assert_allclose(values[k], alone[name][0], rtol=1e-4, atol=1e-3, err_msg=name)
    vertices = [p.place(mesh.vertices) for p in (pose, true)]
    joints = [HAND(p.hand_rotvec, p.hand_shape, p.hand_transl).joints for p in (pose, true)]
    expected = metrics.mean_joint_error(joints[0], joints[1], align="procrustes")
    np.testing.assert_allclose(found["PA_MJE_mm"], expected.numpy(), rtol=1e-6)
    expected = metrics.add_s(vertices[0], vertices[1], mesh.vertex_mask)
    np.testing.assert_allclose(found["ADD_S_mm"], expected.numpy(), rtol=1e-5)
    areas = [metrics.auc((j - j[:1] - t + t[:1]).norm(dim=-1) * 1e3) for j, t in zip(*joints, strict=True)]
    np.testing.assert_allclose(found["AUC"], areas, rtol=1e-6)


def test_the_mean_of_the_items_areas_is_the_area_of_the_data_set() -> None:
    """HO-3D and DexYCB pool joints; the items' mean is the same number because every item has as many joints."""
    true = truth()
    found = score(disturb(true, 1, model=HAND), true, meshes(), HAND, metrics=["AUC"])["AUC"]
    poses = disturb(true, 1, model=HAND), true
    ours, theirs = (HAND(p.hand_rotvec, p.hand_shape, p.hand_transl).joints for p in poses)
    pooled = metrics.auc((ours - ours[:, :1] - theirs + theirs[:, :1]).norm(dim=-1) * 1e3)
    assert found.mean() == pytest.approx(pooled, abs=1e-9)


def test_left_hands_in_the_mirror_have_the_same_errors() -> None:
    true, mesh = truth(), meshes()
    pose = disturb(true, 2, model=HAND)
    straight = score(pose, true, mesh, HAND, metrics=["OE", "ADD-S", "MCE", "OCE"])
    mirrored = score(
        mirror_pose(pose), mirror_pose(true), mirror_mesh(mesh), HAND, metrics=["OE", "ADD-S", "MCE", "OCE"]
    )
    for name, values in straight.items():
        np.testing.assert_allclose(values, mirrored[name], rtol=1e-4, err_msg=name)


def test_symmetric_objects_are_right_in_every_symmetric_pose() -> None:
    true, half = truth(), torch.eye(4)
    half[:3, :3] = axis_angle_to_matrix(torch.tensor([0.0, 0.0, torch.pi]))
    mesh = embedded_object("box")
    mesh = Mesh.cat([mesh] * COUNT)
    mesh = Mesh(mesh.vertices, mesh.faces, symmetries=torch.stack([torch.eye(4), half]).expand(COUNT, 2, 4, 4))
    turned = axis_angle_to_matrix(true.object_rotvec) @ half[:3, :3]
    pose = Pose(true.hand_rotvec, true.hand_shape, true.hand_transl, matrix_to_axis_angle(turned), true.object_transl)
    found = score(pose, true, mesh, HAND, metrics=["OE", "ADD", "MSSD"])
    assert found["OE_mm"].max() < 1e-2 and found["MSSD_mm"].max() < 1e-2
    assert found["ADD_mm"].min() > 10  # ADD does not know symmetries


def test_another_mesh_has_no_corresponding_points() -> None:
    true = truth()[:1]
    found = score(
        true,
        true,
        embedded_object("mug"),
        HAND,
        true_mesh=embedded_object("can"),
        metrics=["OE", "ADD", "MSSD", "ADD-S"],
    )
    assert all(np.isnan(found[name]).all() for name in ("OE_mm", "ADD_mm", "MSSD_mm"))
    assert found["ADD_S_mm"][0] > 1


def test_metrics_are_named_as_people_type_them() -> None:
    assert chosen("he, pa-mje ,F@5,SIV") == ("HE_mm", "PA_MJE_mm", "F5", "siv_cm3")
    assert chosen(["all"]) == catalogue.POSE + catalogue.INTERACTION
    with pytest.raises(ConfigError, match=r"no metric 'PA-MJD'; did you mean 'PA-MJE'"):
        chosen("PA-MJD")


def test_scores_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="2 items, but"):
        Scores(("a", "b"), {"HE_mm": np.zeros(3)})
    with pytest.raises(ValueError, match="'c'"):
        Scores(("a", "b"), {}, failures={"c": "missing"})


# --- intervals ---------------------------------------------------------------------------------------------------


def test_intervals_are_the_plain_bootstrap() -> None:
    values = np.random.default_rng(1).normal(5, 2, 50)
    draws = np.random.default_rng(0).integers(0, 50, (2000, 50))
    for statistic, of in (("median", np.median), ("mean", np.mean)):
        low, value, high = interval(values, statistic)
        np.testing.assert_allclose((low, high), np.quantile(of(values[draws], axis=1), [0.025, 0.975]))
        assert value == of(values)
    with pytest.raises(ValueError, match="median, mean"):
        interval(values, "mode")


def test_intervals_in_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(5, 2, 30)
    whole = interval(values, rounds=200)
    monkeypatch.setattr("horefine.evaluate.intervals._BLOCK", 300)
    assert interval(values, rounds=200) == whole


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    spans = [interval(random.normal(3, 1, 40), "mean", level=0.9, rounds=300, seed=k) for k in range(200)]
    covered = np.mean([low <= 3 <= high for low, _, high in spans])
    assert 0.82 <= covered <= 0.96


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.integers(0, 3))
def test_intervals_hold_their_statistic_and_leave_nan_out(values: list[float], unknown: int) -> None:
    low, middle, high = interval([*values, *[float("nan")] * unknown], rounds=50)
    assert low <= high and middle == np.median(values)
    assert min(values) <= low and high <= max(values)


def test_failed_items_push_the_interval_to_infinity() -> None:
    low, middle, high = interval([1.0, 2.0, 3.0, 4.0, np.inf, np.inf])
    assert middle == 3.5 and 1 <= low <= 3.5 and high == np.inf
    assert np.isnan(interval([float("nan")])).all()


# --- tables ------------------------------------------------------------------------------------------------------


def test_failed_items_count_as_infinitely_wrong() -> None:
    errors, areas = tables.metric_rows(example())
    assert errors["median"] == 7.5 and errors["failed"] == 1 and errors["n"] == 3
    assert errors["within_10"] == 0.5 and errors["within_50"] == 0.75
    assert errors["mean"] == pytest.approx(16 / 3)  # of those that did not fail
    assert areas["mean"] == pytest.approx(2.1 / 4)  # a failed item has no area


def test_groups_have_their_own_rows() -> None:
    rows = tables.group_rows(example())
    assert [(row["group"], row[""], row["items"], row["failed"]) for row in rows] == [
        ("all", "", 4, 1),
        ("object", "box", 2, 1),
        ("object", "mug", 2, 0),
    ]
    assert rows[1]["HE (mm)"] == np.inf and rows[2]["HE (mm)"] == 6.5


def test_labels_are_in_order() -> None:
    values, labels = {"HE_mm": np.zeros(4)}, ("unknown", "80-100 %", "0-20 %", "20-40 %")
    found = [label for _, label, _ in tables.by_group(Scores(tuple("abcd"), values, {"occlusion": labels}))]
    assert found == ["0-20 %", "20-40 %", "80-100 %", "unknown"]


def test_formats() -> None:
    rows = [{"name": "a_b", "x": 1.23456, "n": 3}, {"name": "50 %", "x": float("nan")}]
    assert tables.to_markdown(rows).splitlines() == [
        "| name |     x | n |",
        "|------|------:|--:|",
        "| a_b  | 1.235 | 3 |",
        "| 50 % |     - | - |",
    ]
    assert list(csv.reader(io.StringIO(tables.to_csv(rows)))) == [
        ["name", "x", "n"],
        ["a_b", "1.23456", "3"],
        ["50 %", "", ""],
    ]
    latex = tables.to_latex(rows, caption="errors & more", label="tab:a")
    assert r"a\_b & 1.235 & 3 \\" in latex and r"50 \% & - & - \\" in latex and r"\begin{tabular}{lrr}" in latex
    assert r"\caption{errors \& more}" in latex and latex.count(r"\\") == 3


# --- comparison --------------------------------------------------------------------------------------------------


def two(change: np.ndarray, failures: tuple[dict[str, str], dict[str, str]] = ({}, {})) -> tuple[Scores, Scores]:
    names = tuple(f"i{k}" for k in range(len(change)))
    first = np.random.default_rng(0).uniform(5, 30, len(change))
    return (
        Scores(names, {"HE_mm": first}, failures=failures[0]),
        Scores(names[::-1], {"HE_mm": (first + change)[::-1]}, failures=failures[1]),
    )


def test_a_better_system_is_called_better_and_noise_is_not() -> None:
    random = np.random.default_rng(3)
    (found,) = compare.paired(*two(random.normal(-3, 2, 60)))
    assert found.verdict == "better" and found.low < found.change < found.high < 0 and found.better > 0.8
    assert found.sentence("old", "new").startswith("new is better than old in HE: -")
    (found,) = compare.paired(*two(random.normal(3, 2, 60)))
    assert found.verdict == "worse"
    told = [compare.paired(*two(random.normal(0, 2, 40)))[0].verdict != "not told apart" for _ in range(40)]
    assert np.mean(told) <= 0.15


def test_equal_systems_are_not_told_apart() -> None:
    (found,) = compare.paired(*two(np.zeros(10)))
    assert (found.change, found.p, found.better, found.verdict) == (0.0, 1.0, 0.0, "not told apart")


def test_a_failed_item_is_an_infinite_change_and_one_failed_by_both_is_none() -> None:
    a, b = two(np.full(9, -1.0), ({"i0": "NaN", "i1": "NaN"}, {"i1": "missing", "i2": "missing"}))
    (found,) = compare.paired(a, b)
    assert found.items == 9 and found.better == pytest.approx(7 / 9) and found.worse == pytest.approx(1 / 9)
    better, worse = compare.extremes(a, b, "HE_mm", 2)
    assert better[0] == ("i0", -np.inf) and worse == [("i2", np.inf)]


def test_infinite_changes_both_ways_cancel() -> None:
    a, b = two(np.zeros(2), ({"i0": "NaN"}, {"i1": "NaN"}))
    (found,) = compare.paired(a, b)
    assert found.change == 0.0 and (found.low, found.high) == (-np.inf, np.inf) and found.verdict == "not told apart"
    a, b = two(np.zeros(8), ({}, {f"i{k}": "NaN" for k in range(7)}))
    (found,) = compare.paired(a, b)
    assert (found.change, found.high, found.verdict) == (np.inf, np.inf, "worse")


def test_cells_keep_to_their_columns() -> None:
    table = tables.to_markdown([{"a": "x | y\nz", "b": 1.0}]).splitlines()
    assert table[2] == r"| x \| y z | 1 |" and len(table) == 3


def test_more_is_better_where_it_is() -> None:
    names = tuple("abcdefgh")
    a, b = (Scores(names, {"F5": np.linspace(low, low + 0.2, 8)}) for low in (0.1, 0.5))
    (found,) = compare.paired(a, b)
    assert found.verdict == "better" and found.better == 1.0 and found.change == pytest.approx(0.4)


def test_nothing_in_common_is_said() -> None:
    with pytest.raises(InputError, match="nothing to compare"):
        compare.paired(Scores(("a",), {"HE_mm": np.zeros(1)}), Scores(("b",), {"HE_mm": np.zeros(1)}))
