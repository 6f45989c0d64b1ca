"""Scores of the datasets' own scripts: HO-3D's fourteen, DexYCB's hand pose, COCO's average precision."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from oracles import load, tensor

from horefine import metrics
from horefine.errors import InputError
from horefine.metrics import rle

# --- HO-3D and DexYCB hands --------------------------------------------------------------------------------------


def test_ho3d_scores_are_those_of_the_script() -> None:
    """shreyashampali/ho3d eval.py, scores.txt in its order; sample 5 is a mirrored prediction."""
    o = load("ho3d_eval")
    scores = metrics.ho3d_scores(tensor(o.pred_xyz), tensor(o.pred_verts), tensor(o.gt_xyz), tensor(o.gt_verts64))
    assert list(scores) == o.score_names.tolist()
    np.testing.assert_allclose(list(scores.values()), o.score_vals, atol=1e-6)


def test_ho3d_scores_of_another_topology_and_of_a_failure() -> None:
    o = load("ho3d_eval")
    joints, vertices, true_joints, true = map(tensor, (o.pred_xyz, o.pred_verts, o.gt_xyz, o.gt_verts64))
    whole = metrics.ho3d_scores(joints, vertices, true_joints, true)
    part = metrics.ho3d_scores(joints, vertices[:, :500], true_joints, true)
    assert part["mesh_mean3d"] == part["mesh_auc3d"] == part["mesh_al_mean3d"] == part["mesh_al_auc3d"] == -1.0
    assert part["xyz_mean3d"] == whole["xyz_mean3d"] and 0 < part["f_score_15"] < 1
    joints[2, 5, 1] = torch.nan
    failed = metrics.ho3d_scores(joints, vertices, true_joints, true)
    assert math.isnan(failed["xyz_mean3d"]) and math.isnan(failed["xyz_procrustes_al_mean3d"])
    assert failed["xyz_auc3d"] < whole["xyz_auc3d"] and failed["mesh_mean3d"] == whole["mesh_mean3d"]
    with pytest.raises(ValueError, match="no hands"):
        metrics.ho3d_scores(joints[:0], vertices[:0], true_joints[:0], true[:0])


def test_a_mesh_of_another_topology_is_moved_by_its_joints() -> None:
    """Joints of unit spread: then what the script forgets to divide by is 1, and the alignment is right."""
    o = load("ho3d_eval")
    true_joints, true = tensor(o.gt_xyz[:2]), tensor(o.gt_verts64[:2])
    centre = true_joints.mean(1, keepdim=True)
    spread = (true_joints - centre).flatten(1).norm(dim=1)[:, None, None]
    joints, vertices = (true_joints - centre) / spread + 0.3, (true[:, :700] - centre) / spread + 0.3
    scores = metrics.ho3d_scores(joints, vertices, true_joints, true)
    assert scores["xyz_procrustes_al_mean3d"] == pytest.approx(0.0, abs=1e-9)
    shrunk = metrics.ho3d_scores(true_joints, true[:, :700], true_joints, true)
    assert scores["f_al_score_15"] > shrunk["f_al_score_15"]


def test_dexycb_hand_scores_are_those_of_the_toolkit() -> None:
    o = load("dexycb_hpe")
    rows = [np.fromstring(line, sep=",") for line in str(o.res_txt).splitlines() if line]
    predicted = {int(row[0]): row[1:].reshape(21, 3) for row in rows}
    ours = torch.tensor(np.stack([predicted[int(i)] for i in o.ids])) / 1e3
    scores = metrics.hpe_scores(ours, torch.tensor(o.gt_mm) / 1e3)
    for name, value in scores.items():
        assert value == pytest.approx(float(getattr(o, name)), abs=1e-8)
    assert len(scores) == 6
    ours[0] = torch.nan
    failed = metrics.hpe_scores(ours, torch.tensor(o.gt_mm) / 1e3)
    assert math.isnan(failed["absolute_mpjpe"]) and failed["procrustes_auc"] < scores["procrustes_auc"]
    with pytest.raises(ValueError, match="no hands"):
        metrics.hpe_scores(ours[:0], ours[:0])


# --- COCO --------------------------------------------------------------------------------------------------------


def same(ours: dict[str, float], recorded: dict[str, float], within: float) -> None:
    assert set(ours) == set(recorded)
    for name, value in recorded.items():
        assert ours[name] == pytest.approx(value, abs=within, nan_ok=True), name


def dexycb_truth() -> list[dict[str, Any]]:
    o = load("dexycb_coco")
    frames = enumerate(zip(o.segs, o.joint_2d, o.ycb_ids.tolist(), strict=True))
    return [a for i, (labels, joints, ids) in frames for a in metrics.dexycb_annotations(labels, joints[0], ids, i)]


def test_dexycb_annotations_are_those_of_the_toolkit() -> None:
    recorded = json.loads(str(load("dexycb_coco").anno_first))
    for ours, theirs in zip(dexycb_truth(), recorded, strict=False):
        theirs.pop("id")
        assert ours == theirs


def test_dexycb_coco_scores_are_those_of_the_toolkit() -> None:
    """Every line of bbox, segm and keypoints."""
    o = load("dexycb_coco")
    scores = metrics.dexycb_coco_scores(dexycb_truth(), json.loads(str(o.results_json)))
    for task, recorded in json.loads(str(o.metrics_json)).items():
        same(scores[task], recorded, 1e-9)


@pytest.mark.parametrize("task", ["bbox", "segm", "keypoints"])
def test_average_precision_of_crowded_images(task: str) -> None:
    """Recorded from pycocotools: crowds, several of a kind, equal scores, unseen keypoints, over 100 detections."""
    o = load("coco_random")
    truth, results = json.loads(str(o.truth_json)), json.loads(str(o.results_json))
    categories = {1: "a", 2: "b", 5: "c"}
    scores = metrics.coco_scores(truth, results, task, categories, sigmas=o.sigmas.tolist())
    same(scores, json.loads(str(o.metrics_json))[task], 1e-9)


def test_average_precision_of_nothing() -> None:
    truth = dexycb_truth()
    assert metrics.dexycb_coco_scores(truth, [])["bbox"]["AP"] == 0.0
    perfect = [{**annotation, "score": 1.0} for annotation in truth]
    for task, scores in metrics.dexycb_coco_scores(truth, perfect, tasks=("bbox", "segm")).items():
        assert scores["AP"] == pytest.approx(100.0), task
    # the fourth hand has no seen joint, and yet is a target: its (0, 0) are far outside of its own box
    assert metrics.dexycb_coco_scores(truth, perfect)["keypoints"]["AP"] == pytest.approx(100 * 77 / 101)
    assert math.isnan(metrics.coco_scores([], perfect, "bbox", {k: str(k) for k in range(1, 23)})["AP"])


@pytest.mark.parametrize(
    ("change", "task", "message"),
    [
        ({"category_id": 23}, "bbox", "detection 0: category_id 23"),
        ({"score": math.nan}, "bbox", "detection 0: score or bbox is not finite"),
        ({"keypoints": [math.inf] * 63}, "keypoints", "keypoints is not finite"),
    ],
)
def test_a_detection_that_cannot_be_scored_is_named(change: dict[str, Any], task: str, message: str) -> None:
    truth = dexycb_truth()
    with pytest.raises(InputError, match=message):
        metrics.coco_scores(
            truth, [{**truth[0], "score": 1.0, **change}], task, metrics.DEXYCB_CATEGORIES, sigmas=[0.05] * 21
        )
    with pytest.raises(InputError, match="segmentation missing"):
        metrics.coco_scores(truth, [{"image_id": 0, "category_id": 1, "score": 1.0}], "segm", metrics.DEXYCB_CATEGORIES)
    with pytest.raises(ValueError, match="sigmas"):
        metrics.coco_scores(truth, [], "keypoints", metrics.DEXYCB_CATEGORIES)
    with pytest.raises(ValueError, match="boxes"):
        metrics.coco_scores(truth, [], "boxes", metrics.DEXYCB_CATEGORIES)


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (40, 60)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_runs_come_back(shape: tuple[int, int], share: float) -> None:
    mask = np.random.default_rng(0).random(shape) < share
    packed = rle.encode(mask)
    np.testing.assert_array_equal(rle.decode(packed), mask)
    assert rle.area(packed) == mask.sum()
    listed = {"size": packed["size"], "counts": rle.runs(packed).tolist()}
    np.testing.assert_array_equal(rle.decode(listed), mask)
    np.testing.assert_array_equal(rle.decode({**packed, "counts": packed["counts"].encode()}), mask)


def test_long_runs_and_boxes() -> None:
    mask = np.zeros((480, 640), bool)
    mask[100:103, 600:604] = True
    packed = rle.encode(mask)
    assert rle.bounding_box(packed) == [600.0, 100.0, 4.0, 3.0]
    assert rle.bounding_box(rle.encode(~mask)) == [0.0, 0.0, 640.0, 480.0]
    assert rle.bounding_box(rle.encode(mask & False)) == [0.0] * 4
    with pytest.raises(ValueError, match="do not fill"):
        rle.decode({**packed, "size": [480, 639]})
    with pytest.raises(ValueError, match="polygons"):
        rle.runs({"counts": [1, 2, 3, 4]})
