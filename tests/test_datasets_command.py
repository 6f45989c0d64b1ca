"""The commands on DexYCB and HO-3D in their real layouts: check, run, evaluate, submissions, training."""

from __future__ import annotations

import dataclasses
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_trees import dexycb_tree, ho3d_tree, write_hands
from oracles import DATA
from typer.testing import CliRunner, Result

from horefine.cli import app
from horefine.data.mirror import mirror_pose
from horefine.data.opened import OpenedDataset, Photographs, open_named, parse_dataset
from horefine.errors import ConfigError, InputError
from horefine.evaluate.command import Request, conclude, official_ids
from horefine.export import write_arrays
from horefine.hand import load_hand
from horefine.items import Item, check_hand
from horefine.scene import Features
from horefine.train import train

FEW_STEPS = ("--set", "stages.correspond.steps=1", "--set", "stages.render.steps=1", "--no-pictures")


@pytest.fixture(scope="module")
def dexycb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A subject, and a list of its images that are there and fully annotated."""
    root = tmp_path_factory.mktemp("dexycb")
    names = [
        name
        for name in dexycb_tree(root, cameras=8)
        if not (name.startswith("03_20200820_140148") and "000001" in name)
    ]
    write_hands(root / "mano")
    (root / "there.txt").write_text("\n".join(name for name in names if "839512060362_000000" not in name))
    return root


@pytest.fixture(scope="module")
def ho3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ho3d")
    ho3d_tree(root)
    write_hands(root / "mano")
    return root


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def command(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def said(result: Result) -> str:
    return " ".join((result.output + result.stderr).split())


def named(root: Path, **more: object) -> str:
    options = {"partial": "true", "frames": root / "there.txt", **more}
    return "dexycb:" + ",".join(f"{key}={value}" for key, value in options.items())


def write_truth(data: OpenedDataset, folder: Path, shift: float = 0.0) -> None:
    """The true poses as another system's files, the hand ``shift`` metres farther away."""
    folder.mkdir(parents=True)
    for index in range(len(data)):
        sample = data[index]
        if sample.truth is not None:
            pose = sample.truth.map(torch.clone)
            table = {key: value[0].numpy() for key, value in pose.items()}
            table["hand_transl"] = table["hand_transl"] + np.array([0, 0, shift], np.float32)
            write_arrays(folder / f"{sample.name}.npz", {**table, "side": np.array(sample.side)})


def test_dexycb_runs_and_is_evaluated(dexycb: Path, tmp_path: Path) -> None:
    """Right and left hands; the run remembers what it was made from; the same truth by name."""
    out, mano = tmp_path / "out", dexycb / "mano"
    given = ("--root", dexycb, "--split", "s0/test", "--mano-dir", mano)
    found = command("run", "--dataset", named(dexycb, give="boxes", step=12), *given, "--out", out, *FEW_STEPS)
    assert found.exit_code == 0, said(found)
    summary = json.loads((out / "summary.json").read_text())
    names = [item["name"] for item in summary["items"]]
    assert len(names) == 2
    assert {json.loads((out / "items" / n / "result.json").read_text())["side"] for n in names} == {"right", "left"}
    assert summary["dataset"]["options"] == {
        "partial": True, "frames": str(dexycb / "there.txt"), "give": "boxes", "split": "s0/test", "step": 12,
    }  # fmt: skip
    found = command("evaluate", out, "--mano-dir", mano, "--metrics", "HE,OE", "--json")
    assert found.exit_code == 0, said(found)
    again = command("evaluate", out, "--dataset", named(dexycb, step=12), *given, "--metrics", "HE,OE", "--json")
    assert again.exit_code == 0, said(again)
    first, second = json.loads(found.stdout), json.loads(again.stdout)
    assert first["counts"] == second["counts"] == {"items": 2, "failed": 0, "without_truth": 0}
    assert [row["HE_mm"] for row in first["items"]] == pytest.approx([row["HE_mm"] for row in second["items"]])
    made = [(out / "items" / n / "result.npz").stat().st_mtime_ns for n in names]
    found = command("run", "--dataset", named(dexycb, give="boxes", step=12), *given, "--out", out, *FEW_STEPS)
    assert found.exit_code == 0, said(found)
    assert [(out / "items" / n / "result.npz").stat().st_mtime_ns for n in names] == made  # nothing is done again


def test_true_poses_of_dexycb_have_no_error(dexycb: Path, tmp_path: Path) -> None:
    """What the loader gives, evaluated against what it gives: right and left hands are counted alike."""
    data = open_named(named(dexycb), dexycb, "s0/test", {"mano_dir": dexycb / "mano"})
    write_truth(data, tmp_path / "poses", 0.01)
    found = command(
        "evaluate", tmp_path / "poses", "--dataset", named(dexycb), "--root", dexycb, "--split", "s0/test",
        "--mano-dir", dexycb / "mano", "--hand", "mano", "--metrics", "HE,OE,MJE", "--official", "bop", "--json",
    )  # fmt: skip
    assert found.exit_code == 0, said(found)
    assert json.loads(found.stdout)["official"] == {"AR_VSD": 1, "AR_MSSD": 1, "AR_MSPD": 1, "AR": 1}
    rows = json.loads(found.stdout)["items"]
    assert len(rows) == len(data)
    assert [row["HE_mm"] for row in rows] == pytest.approx([10.0] * len(rows), abs=1e-2)
    assert [row["OE_mm"] for row in rows] == pytest.approx([0.0] * len(rows), abs=1e-2)


def test_submission_with_the_datasets_own_ids(ho3d: Path, dexycb: Path, tmp_path: Path) -> None:
    """HO-3D's frames in the order of evaluation.txt without a file of ids; DexYCB's need the whole split."""
    lines = (ho3d / "evaluation.txt").read_text().split()
    train_part = open_named("ho3d:split=train", ho3d, None, {"mano_dir": ho3d / "mano"})
    write_truth(train_part, tmp_path / "any")
    poses = sorted((tmp_path / "any").glob("*.npz"))[: len(lines)]
    (tmp_path / "poses").mkdir()
    for line, path in zip(lines, poses, strict=True):
        (tmp_path / "poses" / f"{line.replace('/', '_')}.npz").write_bytes(path.read_bytes())
    mano = ("--mano-dir", ho3d / "mano", "--hand", "mano")
    found = command("evaluate", tmp_path / "poses", "--submission", "ho3d", "--dataset", "ho3d", "--root", ho3d, *mano)
    assert found.exit_code == 0, said(found)
    with zipfile.ZipFile(tmp_path / "poses" / "submission" / "pred.zip") as archive:
        joints, vertices = json.loads(archive.read("pred.json"))
    assert (len(joints), len(vertices)) == (len(lines), len(lines))
    found = command(
        "evaluate", tmp_path / "poses", "--submission", "dexycb", "--dataset", named(dexycb), "--root", dexycb, *mano
    )
    assert found.exit_code == 2
    assert "have no ids for it; give --ids FILE" in said(found)


def test_every_image_of_a_split_has_its_official_number(tmp_path: Path) -> None:
    """DexYCB's HPE file has a line for each of the 7552 images of the recorded s0 test split, BOP's csv its poses."""
    with tarfile.open(DATA / "datasets" / "dexycb.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    recorded = json.loads((DATA / "datasets" / "dexycb_index.json").read_text())["s0_test"]
    data = open_named("dexycb", tmp_path / "dexycb", "s0/test", {"hand": "embedded", "pictures": False})
    pose = {"hand_rotvec": np.zeros((16, 3)), "hand_shape": np.zeros(10), "hand_transl": [0, 0, 0.5]}
    pose |= {"object_rotvec": np.zeros(3), "object_transl": [0, 0, 0.6]}
    (tmp_path / "poses").mkdir()
    for index in recorded["idx"]:
        np.savez(tmp_path / "poses" / f"{data.names[index]}.npz", **pose)
    request = Request(
        tmp_path / "poses", load_hand(kind="embedded"), dataset="dexycb", root=tmp_path / "dexycb", split="s0/test"
    )
    ids = official_ids(request, "dexycb")
    assert ids is not None
    assert [number for (number,) in ids.values()] == list(range(recorded["len"]))
    conclude(request, None, "dexycb", None)
    lines = (tmp_path / "poses" / "submission" / "hpe.txt").read_text().splitlines()
    assert len(lines) == recorded["len"]
    there = [int(line.split(",")[0]) for line in lines if any(float(v) for v in line.split(",")[1:])]
    assert there == sorted(recorded["idx"])
    conclude(request, None, "bop", None)
    rows = next((tmp_path / "poses" / "submission").glob("*.csv")).read_text().splitlines()[1:]
    assert sorted([int(v) for v in row.split(",")[:2]] for row in rows) == sorted(recorded["bop"])


def test_ho3d_evaluation_part_runs(ho3d: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = command("run", "--dataset", "ho3d", "--root", ho3d, "--limit", 1, "--out", out, *FEW_STEPS)
    assert found.exit_code == 0, said(found)
    name = json.loads((out / "summary.json").read_text())["items"][0]["name"]
    assert name == (ho3d / "evaluation.txt").read_text().split()[0].replace("/", "_")
    result = json.loads((out / "items" / name / "result.json").read_text())
    assert result["camera"]["source"] == "ho3d"
    assert any("only the wrist" in note for note in result["notes"])
    found = command("evaluate", out)  # the object's pose is published, the hand's is not
    assert found.exit_code == 0, said(found)
    assert "no item's hand is annotated: their objects alone are measured" in said(found)


def test_check_finds_ho3d_plausible(ho3d: Path, tmp_path: Path) -> None:
    check(ho3d, tmp_path, "--split", "train")


@pytest.mark.slow
def test_check_finds_dexycb_plausible(dexycb: Path, tmp_path: Path) -> None:
    check(dexycb, tmp_path, "--dataset", f"dexycb:partial=true,frames={dexycb / 'there.txt'}")


def check(root: Path, out: Path, *more: str) -> None:
    found = command("data", "check", root, "--mano-dir", root / "mano", "--out", out, *more)
    assert found.exit_code == 0, said(found)
    assert list((out / "sheets").glob("*.png"))
    assert not json.loads((out / "check.json").read_text()).get("unreadable")


@pytest.mark.slow
def test_training_takes_a_dataset(dexycb: Path, tmp_path: Path) -> None:
    data = f"{named(dexycb)},root={dexycb},split=s0/test,mano_dir={dexycb / 'mano'}"
    path = train("features", data=data, out=tmp_path, smoke=True, overrides=["threads=1"])
    assert path.is_file()
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log


# --- the adapter -------------------------------------------------------------------------------------------------


def test_who_finds_no_hand_says_how_the_user_can_show_it(ho3d: Path) -> None:
    """By the annotation's boxes where nobody asked for them; where there is no annotation, by a first pose."""
    options = {"mano_dir": ho3d / "mano"}
    data = open_named("ho3d", ho3d, "train", options)
    item = Item(0, data[0], guessed=True)
    maps = item.sample.camera.resized((64, 64))
    item.features = Features(maps, item.mesh(), hand_mask=torch.zeros(1, 64, 64))
    with pytest.raises(InputError, match=r"no hand was found .* say where: --dataset ho3d:give=boxes takes it"):
        check_hand(item, data)
    boxed = open_named("ho3d:give=boxes", ho3d, "train", options)
    assert boxed[0].hand_box is not None, "the way out is one"
    first = "with a first pose of it (--init DIR)"
    assert boxed.where_said(item.sample) == first
    assert data.where_said(dataclasses.replace(item.sample, truth=None, joints=None)) == first


def test_opened_dataset_is_what_a_run_takes(ho3d: Path) -> None:
    data = open_named("ho3d:step=2", ho3d, "train", {"mano_dir": ho3d / "mano", "pictures": None, "no_such": 1})
    assert isinstance(data, Photographs)
    assert list(data.names) == ["SM2_0000", "SM2_0002", "MC2_0001"]
    assert [data[k].name for k in range(len(data))] == list(data.names)
    assert data.size_in_file(0) == (480, 640)
    assert data.gives(0, "side")
    assert not data.gives(0, "hand_box")
    assert len({data.fingerprint(k) for k in range(3)}) == 3
    assert data.fingerprint(0) != open_named("ho3d", ho3d, "train").fingerprint(0)
    assert data.find(frozenset({"SM2_0002"})) == [1]
    with pytest.raises(IndexError):
        _ = data[3]


def test_options_of_datasets_are_checked(ho3d: Path, tmp_path: Path) -> None:
    assert parse_dataset("ho3d:keep=cpf,step=3", "v1/test") == ("ho3d", {"keep": "cpf", "step": 3, "split": "v1/test"})
    for text, root, match in (
        ("h03d", ho3d, "--dataset h03d: there is none of this name; did you mean 'ho3d'"),
        ("folder", ho3d, "photographs in a folder are given as a folder"),
        ("ho3d", None, r"where is it\? Give --root DIR"),
        ("ho3d:kep=cpf", ho3d, "kep: no such option; did you mean 'keep'"),
        ("ho3d:keep", ho3d, "'keep'; write NAME:key=value"),
        ("ho3d:step=0", ho3d, "step: 0; expected a whole number"),
        ("ho3d", tmp_path, "holds no folder 'evaluation'"),
    ):
        with pytest.raises(ConfigError, match=match):
            open_named(text, root)
    found = command("run", ho3d, "--dataset", "ho3d", "--root", ho3d, "--side", "left")
    assert found.exit_code == 2
    assert "says that itself; leave out a folder of images, --side" in said(found)
    found = command("run")
    assert found.exit_code == 2
    assert "which images?" in said(found)


def test_left_truth_is_a_left_hand(dexycb: Path) -> None:
    """Outside it is a left hand; mirrored once it is the right one that the model is."""
    data = open_named(named(dexycb), dexycb, "s0/test", {"mano_dir": dexycb / "mano"})
    sample = next(data[k] for k in range(len(data)) if data[k].side == "left")
    assert sample.truth is not None
    assert sample.joints is not None
    model = data.source.hand.model()  # type: ignore[attr-defined]
    pose = mirror_pose(sample.truth)
    joints = model(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).joints[0]
    flip = torch.tensor([-1.0, 1.0, 1.0])
    assert (joints * flip - sample.joints).norm(dim=-1).mean() < 0.003
    assert (joints - sample.joints).norm(dim=-1).mean() > 0.02
