"""Training shards of datasets: the same scenes as read directly, made in parallel, resumed, bad samples named."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_trees import dexycb_tree, ho3d_tree, write_hands
from dataset_trees_more import fhb_tree, obman_tree
from typer.testing import CliRunner

from horefine.cli import app
from horefine.data.opened import OpenedDataset, open_named
from horefine.data.shards import Shards
from horefine.data.tar_shards import open_tar, write_tar
from horefine.errors import ConfigError, InputError
from horefine.extractors import stored_objects
from horefine.extractors.batches import Augmentation, Batch, View, augment_view, change_view
from horefine.extractors.depth_noise import sensed
from horefine.extractors.encoder_decoder import PAPER
from horefine.extractors.sample_batches import SampleScenes, hand_of, open_scenes
from horefine.extractors.sample_shards import ShardPlan, write_shards
from horefine.extractors.sizes import network_config
from horefine.extractors.task import Task
from horefine.extractors.tasks import TRAINABLE
from horefine.objects import embedded_object
from horefine.train import load_train_config
from tests.toy_shard import small_network, write_toy_shard


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HO-3D with MANO's files; the last of five training images, MC2/0001, is not annotated."""
    root = tmp_path_factory.mktemp("ho3d")
    ho3d_tree(root)
    write_hands(root / "mano")
    return root


def opened(root: Path) -> OpenedDataset:
    return open_named("ho3d", root, "train", {"mano_dir": root / "mano"})


def plan(root: Path, folder: Path, **more: object) -> ShardPlan:
    data = opened(root)
    given = {"size": 2, "mano_dir": str(root / "mano"), "about": data.about, **more}
    return ShardPlan(data, folder, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cached(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By the command, in two processes."""
    folder = tmp_path_factory.mktemp("cache") / "shards"
    found = CliRunner().invoke(app, [
        "data", "cache", "--dataset", "ho3d", "--root", str(root), "--split", "train", "--out", str(folder),
        "--workers", "2", "--shard-size", "2", "--mano-dir", str(root / "mano"),
    ])  # fmt: skip
    said = " ".join((found.output + found.stderr).split())
    assert found.exit_code == 0, said
    assert "4 scenes of 5 samples" in said
    assert "left out: 1 (MC2_0001): no true pose" in said
    return folder


def assert_same(batch: Batch, other: Batch) -> None:
    """Within float16 and the rounding of pictures to bytes."""
    for name, value in batch.pose.items():
        assert torch.equal(value, getattr(other.pose, name)), name
    for name, value in batch.maps.items():
        torch.testing.assert_close(value, other.maps[name], atol=1e-6, rtol=1e-3)
    for name in ("image", "matrix", "joints", "object_center", "extents"):
        torch.testing.assert_close(getattr(batch, name), getattr(other, name), atol=1e-6, rtol=0)
    assert batch.sensed is not None
    assert other.sensed is not None
    torch.testing.assert_close(batch.sensed, other.sensed, atol=0, rtol=1e-3)


def test_the_cache_holds_what_training_makes_of_the_dataset(root: Path, cached: Path) -> None:
    stored = open_scenes(cached, "auto", 1)
    direct = SampleScenes(opened(root), hand_of(opened(root)), 1)
    assert len(stored) == 4
    assert stored.hand.name == "mano"
    batch, other = stored.batch(range(4)), direct.batch(range(4))
    assert_same(batch, other)
    surface = stored.objects.surface[batch.object]
    torch.testing.assert_close(surface, direct.objects.surface[other.object])
    points = surface + 0.01
    found = stored.objects.grids[batch.object].sample(points)
    torch.testing.assert_close(found, direct.objects.grids[other.object].sample(points))
    assert len(stored.objects.meshes) == 2
    for mine, theirs in zip(stored.wholes(range(4)), direct.wholes(range(4)), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_depth_is_what_the_camera_saw_there(root: Path, cached: Path) -> None:
    """Each pixel of the maps, followed through both cameras to the photograph's; and it is about the hand's depth."""
    scenes = open_scenes(cached, "auto", 1)
    batch = scenes.batch([2])
    sample = opened(root)[2]
    assert batch.sensed is not None
    assert sample.depth is not None
    v, u = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    rays = torch.stack([u, v, torch.ones_like(u)], -1) @ torch.linalg.inv(batch.matrix[0]).T
    x, y = (rays @ sample.camera.matrix[0].T)[..., :2].round().long().unbind(-1)
    inside = (x >= 0) & (x < 640) & (y >= 0) & (y < 480)
    there = torch.where(inside, sample.depth[y.clamp(0, 479), x.clamp(0, 639)], 0.0)
    assert ((batch.sensed[0] - there).abs() < 1e-3).float().mean() > 0.97  # but for places halfway between two pixels
    hand = (batch.maps["hand_mask"][0] > 0.99) & (batch.sensed[0] < 0.9)
    exact = batch.maps["depth"][0] + batch.object_center[0, 2]
    assert hand.sum() > 100
    assert (batch.sensed[0] - exact)[hand].abs().median() < 0.06  # the tree's dots show the back of the hand too


def test_bad_samples_are_named(cached: Path) -> None:
    total = json.loads((cached / "meta.json").read_text())
    assert (total["samples"], total["count"], total["hand_name"]) == (5, 4, "mano")
    ((why, named),) = total["left_out"].items()
    assert "no true pose" in why
    assert named == {"count": 1, "first": ["MC2_0001"]}
    last = json.loads((cached / "shard_00002" / "meta.json").read_text())
    assert last["count"] == 0
    assert last["left_out"] == {"MC2_0001": why}
    assert Shards.open(cached).gather("index", np.arange(4)).tolist() == [0, 1, 2, 3]


def test_a_stopped_cache_goes_on(root: Path, cached: Path, tmp_path: Path) -> None:
    """One shard is there, one was cut off; the first is left as it is."""
    folder = tmp_path / "shards"
    shutil.copytree(cached, folder)
    for number in (1, 2):
        shutil.rmtree(folder / f"shard_{number:05d}")
    (folder / ".shard_00001.99").mkdir()
    assert len(open_scenes(folder, "auto", 0)) == 2  # what is there can be trained on
    before = (folder / "shard_00000" / "image.npy").stat().st_mtime_ns
    found = write_shards(plan(root, folder), workers=1)
    assert (found.scenes, found.samples, found.made, found.refused) == (4, 5, 3, 1)
    assert (folder / "shard_00000" / "image.npy").stat().st_mtime_ns == before
    assert_same(open_scenes(folder, "auto", 1).batch(range(4)), open_scenes(cached, "auto", 1).batch(range(4)))
    assert write_shards(plan(root, folder), workers=1).made == 0
    assert write_shards(plan(root, folder, limit=3), workers=1).made == 0  # more is there


def test_a_folder_keeps_one_kind_of_shards(root: Path, cached: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="crop = 128, and 64 is asked for; take another folder"):
        write_shards(plan(root, cached, crop=64), workers=1)
    with pytest.raises(ConfigError, match="shards that are not of a dataset"):
        write_shards(plan(root, write_toy_shard(tmp_path / "shard_00000", 2)), workers=1)
    data = open_named("ho3d:step=4", root, "train", {"mano_dir": root / "mano"})
    with pytest.raises(ConfigError, match="holds shards with data"):
        write_shards(ShardPlan(data, cached, size=2, about=data.about), workers=1)


def test_a_longer_dataset_remakes_the_last_shard(root: Path, tmp_path: Path) -> None:
    assert write_shards(plan(root, tmp_path, limit=3), workers=1).scenes == 3
    found = write_shards(plan(root, tmp_path, limit=4), workers=1)
    assert (found.scenes, found.made) == (4, 2)


def test_nothing_to_train_on_is_an_error(root: Path, tmp_path: Path) -> None:
    data = open_named("ho3d", root, "evaluation", {"mano_dir": root / "mano"})
    with pytest.raises(InputError, match="none of 3 samples can be trained on; the first: no true pose"):
        write_shards(ShardPlan(data, tmp_path, size=2), workers=1)
    assert len(json.loads((tmp_path / "shard_00000" / "meta.json").read_text())["left_out"]) == 2


def test_mano_must_be_the_one_the_cache_was_made_with(
    cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(cached, folder)
    for path in folder.glob("shard_*/meta.json"):
        meta = json.loads(path.read_text())
        path.write_text(json.dumps({**meta, "mano_dir": str(tmp_path / "gone")}))
    for name in ("HOREFINE_MANO_DIR", "MANO_ROOT", "SMPLX_MODELS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="MANO hand that is not here: set HOREFINE_MANO_DIR"):
        open_scenes(folder, "auto", 0)
    with pytest.raises(ConfigError, match=r"the truth in .* is of the mano hand"):
        open_scenes(cached, "embedded", 0)


# --- WebDataset --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tarred(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``cached``, in tar files."""
    folder = tmp_path_factory.mktemp("cache") / "tars"
    found = CliRunner().invoke(app, [
        "data", "cache", "--dataset", "ho3d", "--root", str(root), "--split", "train", "--out", str(folder),
        "--workers", "2", "--shard-size", "2", "--mano-dir", str(root / "mano"), "--format", "webdataset",
    ])  # fmt: skip
    assert found.exit_code == 0, " ".join((found.output + found.stderr).split())
    return folder


def test_tar_files_hold_the_same_scenes(cached: Path, tarred: Path) -> None:
    """Every array to the bit, mapped into memory; batches are the same tensors."""
    plain, tars = Shards.open(cached), Shards.open(tarred)
    assert set(plain.arrays) == set(tars.arrays)
    for name, parts in plain.arrays.items():
        for one, other in zip(parts, tars.arrays[name], strict=True):
            assert one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f"), name
    assert not any(part.flags.writeable or part.flags.owndata for part in tars["image"])
    rows = [3, 0, 2]
    assert_same(open_scenes(tarred, "auto", 1).batch(rows), open_scenes(cached, "auto", 1).batch(rows))
    assert not list(tarred.rglob("*.npy"))


def test_tar_files_are_what_webdataset_reads(tarred: Path) -> None:
    """By its rules: files in order, a sample is the members of one name up to the first dot."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted(tarred.glob("shard_*/scenes.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                assert member.isreg()
                samples.setdefault(key, {})[extension] = tar.extractfile(member).read()  # type: ignore[union-attr]
    assert list(samples) == [f"{index:09d}" for index in range(4)]
    labels = [json.loads(sample["json"]) for sample in samples.values()]
    assert [label["name"] for label in labels] == ["SM2_0000", "SM2_0001", "SM2_0002", "MC2_0000"]
    assert all((tarred / "objects" / f"{label['object']}.npz").is_file() for label in labels)
    images = np.stack([np.load(io.BytesIO(sample["image.npy"])) for sample in samples.values()])
    assert np.array_equal(images, Shards.open(tarred).gather("image", np.arange(4)))


def test_stopped_tar_files_go_on_and_stay_what_they_are(root: Path, tarred: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tars"
    shutil.copytree(tarred, folder)
    before = [path.read_bytes() for path in sorted(folder.glob("shard_*/scenes.tar"))]
    shutil.rmtree(folder / "shard_00001")
    found = write_shards(plan(root, folder, form="webdataset"), workers=1)
    assert (found.scenes, found.made) == (4, 2)
    assert [path.read_bytes() for path in sorted(folder.glob("shard_*/scenes.tar"))] == before
    with pytest.raises(ConfigError, match='format = "webdataset", and "arrays" is asked for'):
        write_shards(plan(root, folder), workers=1)
    with pytest.raises(ConfigError, match="--format tar: there is none of this name"):
        write_shards(plan(root, tmp_path / "other", form="tar"), workers=1)
    path = folder / "shard_00001" / "scenes.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"scenes of \d+ are expected: make the shard again"):
        Shards.open(folder)


def test_tar_files_of_others_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, size in (("0.x.npy", 640), ("1.x.npy", 1280)):
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(bytes(size)))
    with pytest.raises(ValueError, match="its scenes are not alike"):
        open_tar(tmp_path / "a.tar", 2)
    with pytest.raises(ValueError, match="the label has 602 bytes; 512 are there for it"):
        write_tar(tmp_path / "b.tar", {"x": np.zeros((1, 3))}, ["0"], ["a" * 600])


def test_many_objects_stay_on_disk(tmp_path: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = open_scenes(cached, "auto", 0)
    monkeypatch.setattr(stored_objects, "FEW", 1)
    scenes = open_scenes(cached, "auto", 0)
    assert isinstance(scenes.objects.grids, stored_objects.StoredGrids)
    which = torch.tensor([1, 0, 1])
    points = held.objects.surface[which] + 0.004
    found = scenes.objects.grids[which].sample(points)
    torch.testing.assert_close(found, held.objects.grids[which].sample(points))
    assert len(scenes.objects.meshes._kept) == 1  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"object 'no such'.*make them again"):
        stored_objects.open_objects(cached, ["no such"])


def test_old_shards_are_read_as_before(tmp_path: Path) -> None:
    """Without the optional arrays, beside shards that show other objects."""
    write_toy_shard(tmp_path / "shard_00000", 4, names=("can", "box"))
    write_toy_shard(tmp_path / "shard_00001", 4, seed=1, names=("bottle", "can"))
    scenes = open_scenes(tmp_path, "auto", 0)
    batch = scenes.batch(range(8))
    assert batch.sensed is None
    assert batch.object.tolist() == [0, 1, 0, 1, 2, 0, 2, 0]
    low, high = embedded_object("bottle").box
    torch.testing.assert_close(batch.extents[4], (high - low)[0])
    image, boxes = scenes.wholes(range(2))
    assert image.shape == (2, 3, 128, 128)
    assert 0 < boxes.min()
    assert boxes.max() < 1


# --- the depth camera in a batch ---------------------------------------------------------------------------------


def test_the_depth_map_moves_with_the_view(cached: Path) -> None:
    batch = open_scenes(cached, "auto", 0).batch(range(2))
    assert batch.sensed is not None
    rest = torch.zeros(2, 3)
    quarter = View(torch.full((2,), torch.pi / 2), torch.ones(2), torch.zeros(2, 2))
    turned = change_view(batch, quarter, rest)
    assert turned.sensed is not None
    # a turn of a quarter moves pixels onto pixels, and the depths along the axis stay
    moved = torch.rot90(batch.sensed, -1, (1, 2))
    assert (turned.sensed - moved).abs().flatten().quantile(0.95) < 1e-6
    assert (turned.maps["hand_mask"] - torch.rot90(batch.maps["hand_mask"], -1, (1, 2))).abs().max() < 1e-3
    changed = augment_view(batch, Augmentation(), rest, torch.Generator().manual_seed(0))
    assert set(changed.sensed.unique().tolist()) <= set(batch.sensed.unique().tolist()) | {0.0}  # type: ignore[union-attr]


def test_scenes_without_a_depth_map_get_one_made(cached: Path) -> None:
    batch = open_scenes(cached, "auto", 0).batch(range(2))
    assert batch.sensed is not None
    batch.sensed[1] = 0
    found = sensed(batch, torch.Generator().manual_seed(0))
    assert torch.equal(found[0], batch.sensed[0])
    assert (found[1] > 0).float().mean() > 0.1


# --- training ----------------------------------------------------------------------------------------------------


def trained(out: Path, data: str, *words: str) -> list[dict[str, float]]:
    small = [f"network.{key}={value}" for key, value in small_network("features", 16).items()]
    overrides = [word for pair in zip(["--set"] * 99, [*small, *words], strict=False) for word in pair]
    found = CliRunner().invoke(app, ["train", "features", "--data", data, "--out", str(out), "--smoke", *overrides])
    assert found.exit_code == 0, " ".join((found.output + found.stderr).split())
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_the_loss_on_the_cache_falls(cached: Path) -> None:
    torch.manual_seed(0)
    task = TRAINABLE["features"](small_network("features", 16), {"erase": 0, "noise": 0, "rotation": 0}, cached, 1)
    optimizer, generator = torch.optim.Adam(task.model.parameters(), 5e-3), torch.Generator().manual_seed(0)
    history = []
    for _ in range(25):
        loss = torch.stack(list(task.losses(4, 0.5, generator, False).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert np.isfinite(history).all()
    assert np.mean(history[-5:]) < 0.7 * history[0]


@pytest.mark.slow
def test_training_from_the_cache_by_the_command(cached: Path, tmp_path: Path) -> None:
    losses = [line["loss"] for line in trained(tmp_path, str(cached), "rate=0.005") if "loss" in line]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < 0.8 * losses[0]


RECIPES = ("features_song2022", "gsdf_official_obman", "c2f_sdf_official_obman", "hoisdf_official_ho3d")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_of_sets_differ_where_the_papers_do(name: str) -> None:
    """Each is its task's recipe for another set, with other entries of the network only; Song et al.'s is their own."""
    own = load_train_config(name)
    usual = load_train_config(own.task)
    if name == "features_song2022":
        assert network_config("features", own.network) == PAPER
    else:
        assert dataclasses.replace(own, network=usual.network) == usual
        assert {key for key in own.network if own.network[key] != usual.network[key]} <= {"dataset", "architecture"}


def test_song_et_al_s_rate_goes_up_and_down() -> None:
    recipe = load_train_config("features_song2022")
    rates = [recipe.rate_at(0.1, step) for step in range(301)]
    assert rates[0] == rates[150] == rates[300] == pytest.approx(1e-4)
    assert rates[75] == max(rates) == pytest.approx(1e-2)
    assert np.ptp(np.abs(np.diff(rates))) < 1e-9  # linear


def test_pictures_too_small_for_the_network_are_refused(cached: Path) -> None:
    with pytest.raises(InputError, match=r"128 pixels a side, and this network wants 256: .* --crop 256"):
        TRAINABLE["features"]({"size": 256}, {}, cached, 1)


@pytest.mark.parametrize("name", ["features", "hoisdf", "gsdf", "c2f_sdf"])
@pytest.mark.parametrize("source", ["direct", "cache"])
def test_compact_networks_learn_from_it(name: str, source: str, root: Path, cached: Path) -> None:
    data = cached if source == "cache" else opened(root)
    one_step(TRAINABLE[name](small_network(name, 16), {}, data, 1))


def one_step(task: Task) -> None:
    losses = task.losses(2, 0.5, torch.Generator().manual_seed(0), False)
    torch.stack(list(losses.values())).sum().backward()
    assert all(value.isfinite() for value in losses.values())
    gradients = [p.grad for p in task.model.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


OFFICIAL: dict[str, dict[str, Any]] = {
    "hoisdf_official": {"architecture": "ho3d_render", "sizes": {"hand_points": 40, "object_points": 24}},
    "gsdf_pose_official": {},
    "gsdf_official": {"pose": "random", "points": 50},
    "gsdf_video_official": {"image": "random", "points": 50},
    "c2f_sdf_official": {"dataset": "obman"},
    "contact": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFICIAL)
@pytest.mark.parametrize("source", ["direct", "cache"])
def test_published_networks_learn_from_it(
    name: str, source: str, root: Path, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOREFINE_MANO_DIR", str(root / "mano"))
    data = cached if source == "cache" else opened(root)
    one_step(TRAINABLE[name](OFFICIAL[name], {}, data, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dexycb", "fhb", "obman"])
def test_every_set_trains_by_one_command(name: str, tmp_path: Path) -> None:
    """Directly, and from a cache: the same scenes."""
    tree, options = tmp_path / "tree", ""
    if name == "dexycb":
        names = dexycb_tree(tree, cameras=2)
        write_hands(tree / "mano")
        (tree / "there.txt").write_text("\n".join(names))
        options = f"partial=true,frames={tree / 'there.txt'},mano_dir={tree / 'mano'},"
    else:
        {"fhb": fhb_tree, "obman": obman_tree}[name](tree)
    split = {"dexycb": "s0/test", "fhb": "train", "obman": "test"}[name]
    trained(tmp_path / "direct", f"{name}:{options}root={tree},split={split}", "batch=2")
    found = CliRunner().invoke(app, [
        "data", "cache", "--dataset", f"{name}:{options}".rstrip(",:"), "--root", str(tree), "--split", split,
        "--out", str(tmp_path / "cache"), "--workers", "1",
    ])  # fmt: skip
    assert found.exit_code == 0, found.output + found.stderr
    trained(tmp_path / "trained", str(tmp_path / "cache"))
