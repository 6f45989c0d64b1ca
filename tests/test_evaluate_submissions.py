"""Submission files, read back as the official scripts read them."""

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import load
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from horefine import Pose, load_hand
from horefine.cli import app
from horefine.data.mirror import mirror_pose
from horefine.errors import ConfigError, InputError
from horefine.evaluate.submissions import read_ids, write_submission
from horefine.metrics.dexycb import hpe_scores
from horefine.metrics.ho3d import ho3d_scores

HAND = load_hand(kind="embedded")
COUNT = 5


def poses() -> Pose:
    random = np.random.default_rng(0)
    turn = torch.tensor(Rotation.random(2 * COUNT, rng=random).as_rotvec(), dtype=torch.float32)
    rotvec = HAND.mean_rotvec.expand(COUNT, 16, 3).clone()
    rotvec[:, 0] = turn[:COUNT]
    place = torch.tensor([[0.02 * k, 0.05, 0.5 + 0.02 * k] for k in range(COUNT)])
    return Pose(rotvec, torch.zeros(COUNT, 10), place, turn[COUNT:], place + 0.03)


def write(folder: Path, names: list[str], left: int = -1) -> Path:
    pose = poses()
    for k, name in enumerate(names):
        own = mirror_pose(pose) if k == left else pose
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        side = "left" if k == left else "right"
        np.savez(folder / f"{name}.npz", side=side, **{key: value[k].numpy() for key, value in own.items()})
    return folder


def true_points() -> tuple[torch.Tensor, torch.Tensor]:
    pose = poses()
    hand = HAND(pose.hand_rotvec, pose.hand_shape, pose.hand_transl)
    return hand.joints, hand.vertices


def test_ho3d_is_read_back_without_error(tmp_path: Path) -> None:
    names = [f"SM1/{k:04d}" for k in (3, 1, 4, 0, 2)]
    folder = write(tmp_path / "out", [name.replace("/", "_") for name in names])
    (tmp_path / "evaluation.txt").write_text("\n".join(names) + "\n")
    written = write_submission("ho3d", folder, HAND, tmp_path / "evaluation.txt")
    assert written.count == COUNT and not written.missing and "11524 (v2)" in written.notes[0]
    with zipfile.ZipFile(written.path) as archive:
        assert archive.namelist() == ["pred.json"]  # zip -j
        joints, vertices = (torch.tensor(part) for part in json.loads(archive.read("pred.json")))
    assert joints.shape == (COUNT, 21, 3) and vertices.shape == (COUNT, len(HAND.template), 3)
    assert (joints[..., 2] < 0).all()  # OpenGL: in front of the camera is negative
    own_joints, own_vertices = true_points()
    gl = torch.tensor([1.0, -1.0, -1.0])
    order = [0, 5, 6, 7, 9, 10, 11, 17, 18, 19, 13, 14, 15, 1, 2, 3]  # index, middle, pinky, ring, thumb
    tips = own_vertices[:, [744, 333, 444, 555, 672]]
    scores = ho3d_scores(joints, vertices, torch.cat([own_joints[:, order], tips], 1) * gl, own_vertices * gl)
    assert scores["xyz_mean3d"] < 1e-4 and scores["mesh_mean3d"] < 1e-4 and scores["f_score_5"] == 1.0


def test_dexycb_is_read_back_without_error_and_left_hands_are_left(tmp_path: Path) -> None:
    folder = write(tmp_path / "out", [f"s{k}" for k in range(COUNT)], left=2)
    ids = [17, 3, 250, 4, 9]
    (tmp_path / "ids.csv").write_text("name,id\n" + "".join(f"s{k},{number}\n" for k, number in enumerate(ids)))
    written = write_submission("dexycb", folder, HAND, tmp_path / "ids.csv")
    rows = np.array([np.fromstring(line, sep=",") for line in written.path.read_text().splitlines()])
    assert rows.shape == (COUNT, 64) and rows[:, 0].tolist() == sorted(ids)
    by_id = {int(row[0]): torch.tensor(row[1:].reshape(21, 3)) / 1e3 for row in rows}
    found = torch.stack([by_id[number] for number in ids])
    joints = true_points()[0].double()
    joints[2] *= torch.tensor([-1.0, 1.0, 1.0])
    assert hpe_scores(found, joints)["absolute_mpjpe"] < 1e-3


def test_dexycb_lines_are_those_of_the_official_file(tmp_path: Path) -> None:
    """Number by number: as many, as precise, in this order."""
    official = [line for line in str(load("dexycb_hpe").res_txt).splitlines() if line]
    written = write_submission("dexycb", write(tmp_path / "out", ["000007", "000002"]), HAND)
    ours = written.path.read_text().splitlines()
    assert [line.split(",")[0] for line in ours] == ["2", "7"]
    form = [len(number.split(".")[1]) for number in official[0].split(",")[1:]]
    assert [len(number.split(".")[1]) for number in ours[0].split(",")[1:]] == form


def test_bop_is_read_back_without_error(tmp_path: Path) -> None:
    folder = write(tmp_path / "my_run", [f"a{k}" for k in range(COUNT)])
    (tmp_path / "ids.json").write_text(
        json.dumps({f"a{k}": {"scene_id": 8 - k, "im_id": 4 * k, "obj_id": 15} for k in range(COUNT)})
    )
    written = write_submission("bop", folder, HAND, tmp_path / "ids.json")
    assert written.path.name == "myrun_dexycb-test.csv"
    rows = list(csv.DictReader(written.path.open()))
    assert list(rows[0]) == ["scene_id", "im_id", "obj_id", "score", "R", "t", "time"]
    pose = poses()
    for row in rows:
        k = 8 - int(row["scene_id"])
        assert (int(row["im_id"]), int(row["obj_id"]), float(row["time"])) == (4 * k, 15, -1)
        turn = np.array(row["R"].split(), float).reshape(3, 3)
        expected = Rotation.from_rotvec(pose.object_rotvec[k].numpy()).as_matrix()
        np.testing.assert_allclose(turn, expected, atol=1e-6)
        np.testing.assert_allclose(np.array(row["t"].split(), float), pose.object_transl[k].numpy() * 1e3, atol=1e-3)


def test_missing_poses_are_said_and_only_bop_leaves_them_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "out", ["000000", "000001"])
    (tmp_path / "ids.csv").write_text("name,id\n000000,0\n000001,1\n000002,2\n")
    written = write_submission("dexycb", folder, HAND, tmp_path / "ids.csv")
    assert list(written.missing) == ["000002"] and "1 items have no pose" in written.sentences()[0]
    last = written.path.read_text().splitlines()[2].split(",")
    assert last[0] == "2" and set(last[1:]) == {"0.0000"}
    with pytest.raises(InputError, match="000002"):
        write_submission("dexycb", folder, HAND, tmp_path / "ids.csv", strict=True)
    (tmp_path / "bop.csv").write_text("name,scene_id,im_id,obj_id\n000000,0,1,2\n000009,0,2,2\n")
    written = write_submission("bop", folder, HAND, tmp_path / "bop.csv")
    assert len(
        written.path.read_text().splitlines()
    ) == 2 and "1 poses have no id and are left out, the first: 000001" in " ".join(written.sentences())


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("ids.csv", "name,id\na,1\nb,1\n", "a and b both have the id 1"),
        ("ids.csv", "name,id\na,one\n", "cannot be read"),
        ("ids.csv", "name,x,y\na,1,2\n", "expected name,id"),
        ("ids.json", "[1, 2]", "cannot be read"),
        ("ids.csv", "", "is empty"),
        ("none.csv", None, "no such file"),
    ],
)
def test_ids_that_cannot_be_used_are_said(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_ids(tmp_path / name, 1)


def test_gaps_in_ho3d_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "out", ["000000", "000002"])
    with pytest.raises(ConfigError, match="1 is not there"):
        write_submission("ho3d", folder, HAND)
    assert not (folder / "submission").exists()


def test_the_command(tmp_path: Path) -> None:
    folder = write(tmp_path / "out", ["000000", "000001"])
    done = CliRunner().invoke(app, ["evaluate", str(folder), "--submission", "dexycb", "--hand", "embedded"])
    assert done.exit_code == 0 and "2 items, 0 without a pose" in done.output
    done = CliRunner().invoke(app, ["evaluate", str(folder), "--submission", "dexicb"])
    assert done.exit_code == 2 and "did you mean 'dexycb'" in done.output
    done = CliRunner().invoke(app, ["evaluate", str(write(tmp_path / "b", ["x"])), "--submission", "bop"])
    assert done.exit_code == 2 and "Give --ids FILE" in done.output
