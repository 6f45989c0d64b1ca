"""``horefine evaluate`` from end to end, on poses without pictures; what cannot be used is said."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluate_folders import HAND, NAMES, PLACES, arrays, findings, scaled, three_folders, true_poses, write
from PIL import Image
from typer.testing import CliRunner

from horefine import Mesh, Pose
from horefine.cli import app
from horefine.data.maps import disturb
from horefine.errors import ConfigError, InputError
from horefine.evaluate import cases, evaluation, occlusion, predictions
from horefine.evaluate.command import Request, compare, evaluate_output
from horefine.objects import embedded_object


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A truth, a rough and a fine system's poses."""
    return three_folders(tmp_path_factory.mktemp("evaluate"))


# --- end to end --------------------------------------------------------------------------------------------------


def test_the_command_writes_every_file_and_prints_the_table(scene: tuple[Path, Path, Path]) -> None:
    root, rough, _ = scene
    done = CliRunner().invoke(app, ["evaluate", str(rough), "--truth", str(root), "--metrics", "he,oe,pa-mje,auc"])
    assert done.exit_code == 0, done.output
    assert "PA-MJE (mm)" in done.output and "Medians by group" in done.output
    folder = rough / "evaluation"
    expected = {"scores.json", "scores.csv", "table.md", "table.csv", "table.tex", "curves.png", "groups.png"}
    assert {file.name for file in folder.iterdir()} >= expected
    for picture in folder.glob("*.png"):
        assert np.asarray(Image.open(picture)).std() > 10, picture
    table = json.loads((folder / "scores.json").read_text())
    assert table["counts"] == {"items": 8, "failed": 0, "without_truth": 0} and table["hand_model"] == "embedded"
    rows = list(csv.DictReader((folder / "scores.csv").open()))
    assert [row["name"] for row in rows] == list(NAMES)
    assert [row["sequence"] for row in rows] == ["cup"] * 4 + ["desk"] * 4
    assert [row["object"] for row in rows] == ["mug", "box"] * 4
    median = next(row for row in table["table"] if row["metric"] == "HE_mm" and row["group"] == "all")["median"]
    assert median == pytest.approx(np.median([float(row["HE_mm"]) for row in rows]))
    assert all(float(row["HE_mm"]) > 5 for row in rows)


def test_errors_are_those_of_the_scores_left_hands_too(scene: tuple[Path, Path, Path]) -> None:
    from horefine.evaluate import score

    root, _, fine = scene
    true = true_poses()
    pose = disturb(true, 2, 4.5, 6.0, 2.4, model=HAND)
    found = findings(root, fine).scores
    expected = score(pose, true, Mesh.cat([embedded_object(n) for n in ("mug", "box") * 4]), HAND, metrics=["HE"])
    np.testing.assert_allclose(found.values["HE_mm"], expected["HE_mm"], rtol=1e-4)


def test_a_better_system_is_found_better(scene: tuple[Path, Path, Path]) -> None:
    root, rough, fine = scene
    command = ["evaluate", str(rough), "--truth", str(root), "--against", str(fine), "--metrics", "HE,OE,PA-MJE"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "fine is better than rough in HE: -" in done.output and "most improved: " in done.output
    table = json.loads((rough / "evaluation" / "against_fine.json").read_text())
    assert [change["verdict"] for change in table["changes"]] == ["better"] * 3
    assert len(table["most_improved"]["HE_mm"]) == 5 and table["most_worsened"]["HE_mm"] == []
    again, _ = compare(Request(fine, HAND, truth=root, metrics=("HE_mm",)), rough)
    assert again[0].scores.values["HE_mm"].mean() < again[1].scores.values["HE_mm"].mean()


def test_a_run_is_compared_with_its_first_poses(scene: tuple[Path, Path, Path], tmp_path: Path) -> None:
    root = scene[0]
    pose, first = true_poses(), disturb(true_poses(), 3, 10, 15, 8, model=HAND)
    items = [{"name": name, "status": "improved"} for name in NAMES[:6]]
    for k, item in enumerate(items):
        folder = tmp_path / "run" / "items" / item["name"]
        folder.mkdir(parents=True)
        began = {f"initial_{key}": value for key, value in arrays(first, k).items()}
        np.savez(folder / "result.npz", side="right", **arrays(pose, k), **began)
        (folder / "result.json").write_text("{}")
    summary = {"input": str(root / "images"), "hand_model": "embedded", "complete": True, "items": items}
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
    done = CliRunner().invoke(app, ["evaluate", str(tmp_path / "run"), "--against", "initial", "--metrics", "HE,OE"])
    assert done.exit_code == 0 and "initial is worse than run in HE: +" in done.output, done.output


def test_official_scores_are_those_of_the_official_script(scene: tuple[Path, Path, Path], tmp_path: Path) -> None:
    root, rough, _ = scene
    options = ["evaluate", str(rough), "--truth", str(root), "--metrics", "HE,AUC", "--official"]
    done = CliRunner().invoke(app, [*options, "dexycb"])
    assert done.exit_code == 0 and "root-relative_mpjpe" in done.output
    table = json.loads((rough / "evaluation" / "scores.json").read_text())
    area = next(row["mean"] for row in table["table"] if row["metric"] == "AUC" and row["group"] == "all")
    assert table["official"]["root-relative_auc"] == pytest.approx(area, abs=1e-6)
    done = CliRunner().invoke(app, [*options, "ho3d"])
    table = json.loads((rough / "evaluation" / "scores.json").read_text())
    errors = [item["HE_mm"] for item in table["items"]]
    assert len(table["official"]) == 14 and table["official"]["mesh_mean3d"] == pytest.approx(np.mean(errors) / 10)
    assert CliRunner().invoke(app, [*options, "coco"]).exit_code == 2
    folder = write(tmp_path / "poses", true_poses())
    (folder / f"{NAMES[0]}.npz").unlink()
    found, _ = evaluate_output(Request(folder, HAND, truth=root, metrics=("HE_mm",), official="dexycb"))
    assert np.isnan(found.official["absolute_mpjpe"]) and found.official["procrustes_auc"] == pytest.approx(
        7 / 8, abs=0.01
    )


@pytest.mark.slow
def test_several_processes_give_the_same_numbers(scene: tuple[Path, Path, Path]) -> None:
    root, rough, _ = scene
    found = cases.cases_from(root)
    read = predictions.read_predictions(predictions.Output(rough), found, HAND)
    alone, many = (evaluation.evaluate(found, read, HAND, ("HE_mm", "ADD_S_mm"), workers=n).scores for n in (1, 2))
    for name, values in alone.values.items():
        np.testing.assert_array_equal(values, many.values[name])


def test_a_folder_of_poses_alone_is_a_truth(scene: tuple[Path, Path, Path], tmp_path: Path) -> None:
    root = scene[0]
    with pytest.raises(ConfigError, match="which object is it"):
        cases.cases_from(root / "truth")
    found = cases.cases_from(root / "truth", object_name="mug")
    assert [case.name for case in found] == list(NAMES) and found[-1].left and found[0].object == "mug"


def test_the_outcome_of_a_run_knows_its_truth_and_its_failures(scene: tuple[Path, Path, Path], tmp_path: Path) -> None:
    root = scene[0]
    write(tmp_path / "poses", true_poses())
    for name in NAMES[:-1]:
        folder = tmp_path / "run" / "items" / name
        folder.mkdir(parents=True)
        (tmp_path / "poses" / f"{name}.npz").rename(folder / "result.npz")
        (folder / "result.json").write_text("{}")
    items = [{"name": NAMES[-1], "status": "failed", "error": "no hand was found"}]
    summary = {"input": str(root / "images"), "hand_model": "embedded", "items": items}
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
    found, text = evaluate_output(Request(tmp_path / "run", HAND, metrics=("HE_mm",)))
    assert found.scores.failures == {NAMES[-1]: "the run failed on it: no hand was found"}
    assert np.nanmax(found.scores.values["HE_mm"]) < 1e-2 and "1 of 8 items failed" in text
    done = CliRunner().invoke(app, ["evaluate", str(tmp_path / "run"), "--metrics", "HE"])
    assert done.exit_code == 4 and "count as infinitely wrong" in done.output
    done_items = [{"name": name, "status": "improved"} for name in NAMES[:3]]
    (tmp_path / "run" / "summary.json").write_text(json.dumps({**summary, "complete": True, "items": done_items}))
    found, _ = evaluate_output(Request(tmp_path / "run", HAND, metrics=("HE_mm",)))
    assert found.scores.names == NAMES[:3]  # as with --limit 3
    found, _ = evaluate_output(Request(tmp_path / "run", HAND, truth=root, metrics=("HE_mm",)))
    assert len(found.scores) == 8 and list(found.scores.failures) == [NAMES[-1]]
    with pytest.raises(ConfigError, match="--hand mano"):
        summary["hand_model"] = "mano"
        (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
        evaluate_output(Request(tmp_path / "run", HAND))


@pytest.mark.slow
def test_simulation_is_one_more_metric(scene: tuple[Path, Path, Path]) -> None:
    pytest.importorskip("pybullet")
    from horefine.simulation import grasps, simulate

    root, _, fine = scene
    found = cases.cases_from(root, limit=2)
    read = predictions.read_predictions(predictions.Output(fine), found, HAND)
    scores = evaluation.evaluate(found, read, HAND, ("HE_mm", "sd_mm"), workers=1).scores
    pose, mesh = read[1].pose, found[1].mesh
    assert pose is not None and mesh is not None
    assert scores.values["sd_mm"][1] == pytest.approx(simulate(grasps(pose, mesh, HAND)[0]).millimetres, abs=1e-6)
    with pytest.raises(ConfigError, match="did you mean 'mujoco'"):
        evaluation.evaluate(found, read, HAND, ("sd_mm",), protocol="mujoko")


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--truth", "nowhere"], "no such folder"),
        (["--dataset", "dexycb", "--root", "x"], "no such folder; give DexYCB"),
        (["--dataset", "dexicb", "--root", "x"], "did you mean 'dexycb'"),
        (["--dataset", "ho3d"], "Give --root DIR"),
        (["--metrics", "HEE"], "no metric 'HEE'"),
        (["--metrics", "mask iou"], "measured by horefine ablate"),
        ([], "what is true?"),
    ],
)
def test_options_that_cannot_be_used_are_said(scene: tuple[Path, Path, Path], options: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["evaluate", str(scene[1]), *options])
    assert done.exit_code == 2 and said in done.output.replace("\n", " "), done.output


def test_another_folder_and_a_folder_without_truth_are_said(scene: tuple[Path, Path, Path], tmp_path: Path) -> None:
    root = scene[0]
    np.savez(tmp_path / "other.npz", x=0)
    with pytest.raises(ConfigError, match="it names other; the truth names cup_000"):
        findings(root, tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("L", (64, 48)).save(tmp_path / "photos" / "a.png")
    with pytest.raises(ConfigError, match="no item has a truth"):
        cases.cases_from(tmp_path / "photos", object_name="mug")


def test_missing_and_duplicated_and_nan_are_failures_by_name(scene: tuple[Path, Path, Path], tmp_path: Path) -> None:
    root, _, _ = scene
    folder, pose = write(tmp_path / "poses", true_poses()), true_poses()
    (folder / f"{NAMES[0]}.npz").unlink()
    moved = arrays(pose, 1) | {"hand_transl": arrays(pose, 1)["hand_transl"] + 0.1}
    same = arrays(pose, 2)
    for name, table in ((NAMES[1], moved), (NAMES[2], same)):
        (folder / f"{name}.json").write_text(json.dumps({key: value.tolist() for key, value in table.items()}))
    np.savez(folder / f"{NAMES[3]}.npz", **arrays(pose, 3) | {"object_transl": np.array([np.nan, 0, 1])})
    np.savez(folder / f"{NAMES[4]}.npz", **arrays(pose, 4), side="left")
    found = findings(root, folder)
    assert set(found.scores.failures) == {NAMES[0], NAMES[1], NAMES[3], NAMES[4]}
    said = " ".join(found.scores.failures.values())
    for words in ("missing: no cup_000.npz", "duplicated: cup_001.npz and cup_001.json", "NaN", "of a left hand"):
        assert words in said
    known = [k for k in range(8) if NAMES[k] not in found.scores.failures]
    assert np.isnan(found.scores.values["HE_mm"][[0, 1, 3, 4]]).all()
    assert found.scores.values["HE_mm"][known].max() < 1e-2
    found_cases = cases.cases_from(root)
    read = predictions.read_predictions(predictions.Output(folder), found_cases, HAND)
    with pytest.raises(InputError, match=r"cup_000: missing.*and 3 more"):
        evaluation.evaluate(found_cases, read, HAND, ("HE_mm",), strict=True)


def test_everything_is_written_where_everything_failed(scene: tuple[Path, Path, Path], tmp_path: Path) -> None:
    folder = write(tmp_path / "poses", true_poses(), scaled(1000.0, *PLACES))
    command = ["evaluate", str(folder), "--truth", str(scene[0])]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 4, done.output
    first = next(line for line in done.output.splitlines() if line.startswith("- "))
    assert first.startswith("- **all 8 predictions: positions are in millimetres")
    assert {file.name for file in (folder / "evaluation").iterdir()} >= {"table.tex", "curves.png", "groups.png"}
    table = json.loads((folder / "evaluation" / "scores.json").read_text())
    assert table["counts"]["failed"] == 8 and len(table["items"]) == 8
    done = CliRunner().invoke(app, [*command, "--against", str(scene[2]), "--metrics", "HE"])
    assert done.exit_code == 4 and "fine is better than poses in HE: -inf" in done.output, done.output
    done = CliRunner().invoke(app, [*command, "--strict"])
    assert done.exit_code == 4 and "positions are in millimetres" in done.output


# --- groups ------------------------------------------------------------------------------------------------------


def test_what_hides_the_hand() -> None:
    """An object in front of the hand hides it, one behind does not."""
    pose, mesh = true_poses()[:1], embedded_object("box")
    middle = HAND(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).vertices.mean(1)
    shares = []
    for shift in (-0.15, 0.25):
        place = middle + torch.tensor([[0.0, 0.0, shift]])
        own = Pose(pose.hand_rotvec, pose.hand_shape, pose.hand_transl, pose.object_rotvec, place)
        shares.append(occlusion.hidden_share(cases.Case("a", pose=own, mesh=mesh), HAND))
    assert shares[0] > 0.5 and shares[1] == 0.0
    assert occlusion.occlusion_label(shares[1]) == "0-20 %" and occlusion.occlusion_label(float("nan")) == "unknown"


def test_occlusion_is_that_of_the_renderer() -> None:
    """Whatever the focal length: here by the maps of a crop."""
    from horefine.data.maps import exact_features
    from horefine.geometry import Camera

    pose, mesh = true_poses()[:1], embedded_object("box")
    middle = HAND(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).vertices.mean(1)
    pose = Pose(pose.hand_rotvec, pose.hand_shape, pose.hand_transl, pose.object_rotvec, middle - 0.05)
    matrix = torch.tensor([[[450.0, 0, 100], [0, 350.0, 100], [0, 0, 1]]])
    matrix[:, :2, 2] -= (matrix @ (middle / middle[:, 2:])[..., None])[:, :2, 0] - 128
    _, visible = exact_features(pose, HAND, mesh, Camera(matrix, (256, 256)), contact=False)
    found = occlusion.hidden_share(cases.Case("a", pose=pose, mesh=mesh), HAND)
    assert 0.1 < found < 0.9 and found == pytest.approx(1 - float(visible[0, 0]), abs=0.03)


def test_maps_say_what_is_seen(tmp_path: Path) -> None:
    pose, mesh = true_poses()[:1], embedded_object("box")
    matrix = torch.tensor([[[300.0, 0, 64], [0, 300.0, 64], [0, 0, 1]]])
    mask = np.zeros((128, 128), np.float32)
    np.savez(tmp_path / "a.npz", hand_mask=mask, camera=matrix[0].numpy())
    case = cases.Case("a", pose=pose, mesh=mesh, maps=tmp_path / "a.npz")
    assert occlusion.hidden_share(case, HAND) == 1.0
