"""Synthetic scenes: grasps keep their promises, scenes are what their truth says, files are whole and resumable."""

import json
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from horefine.data import bank as bank_module
from horefine.data import load_dataset
from horefine.data.bank import GraspStore
from horefine.data.grasp import KINDS, MAX_GAP, MAX_PENETRATION, GraspBank, finger_of_vertex, grasp_object
from horefine.data.scenes import HELD_OUT, SceneSource
from horefine.data.shards import ARRAYS, Shards, whole_from_image, write_shard
from horefine.data.synthetic import SyntheticDataset, benchmark_scenes, write_dataset, write_training_shard
from horefine.distance import signed_distance
from horefine.errors import InputError
from horefine.geometry import axis_angle_to_matrix, project
from horefine.hand import HandModel
from horefine.mesh import Mesh
from horefine.objects import embedded_object

OBJECTS = ("can", "marker")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small grasp blocks, so that the tests never wait for large ones."""
    folder = tmp_path_factory.mktemp("grasps")
    patch = pytest.MonkeyPatch()
    patch.setattr(bank_module, "TRIES", 12)
    patch.setattr(bank_module, "_shipped", lambda: {})
    store = SceneSource(0, objects=OBJECTS, cache=folder).store
    for which in range(len(OBJECTS)):
        store.block(which, 0)
        shutil.copy(folder / f"{store.name(which, 0)}.npz", folder / f"{store.name(which, HELD_OUT)}.npz")
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def grasps(cache: Path) -> list[GraspBank]:
    store = GraspStore(HandModel.embedded(), [embedded_object(name) for name in OBJECTS], cache)
    return [store.block(which, 0) for which in range(len(OBJECTS))]


def test_every_grasp_touches_and_nothing_sinks_in(grasps: list[GraspBank]) -> None:
    """Thumb and two fingers within 3 mm, no vertex deeper than 2 mm: exact distances, every grasp."""
    model = HandModel.embedded()
    finger = finger_of_vertex(model)
    for name, bank in zip(OBJECTS, grasps, strict=True):
        assert len(bank) >= 3
        vertices, faces = embedded_object(name).trimmed()
        hand = model(bank.hand_rotvec, bank.hand_shape, torch.zeros(len(bank), 3)).vertices
        local = (hand - bank.object_transl[:, None]) @ axis_angle_to_matrix(bank.object_rotvec)
        flat = signed_distance(local.reshape(-1, 3).double().numpy(), vertices.double().numpy(), faces.numpy())
        distance = torch.from_numpy(flat).view(len(bank), -1)
        assert (-distance).amax() <= MAX_PENETRATION + 1e-5
        gaps = torch.stack([distance[:, finger == k].amin(1) for k in range(5)], 1)
        assert (gaps[:, 0] <= MAX_GAP + 1e-5).all()
        assert ((gaps[:, 1:] <= MAX_GAP + 1e-5).sum(1) >= 2).all()
        torch.testing.assert_close(bank.gap.double(), gaps.clamp(min=0), atol=1e-5, rtol=0)


def test_grasps_vary_in_shape_kind_and_pose(grasps: list[GraspBank]) -> None:
    together = GraspBank.cat(grasps)
    assert len(together.kind.unique()) >= 3 and int(together.kind.max()) < len(KINDS)
    assert together.hand_shape.std(0).min() > 0.3
    assert together.hand_rotvec[:, 1:].std(0).amax() > 0.1
    assert together.hand_rotvec[:, 0].abs().max() == 0


def test_grasps_are_seeded_and_limits_are_kept() -> None:
    model, mesh = HandModel.embedded(), embedded_object("marker")
    first, again = (grasp_object(model, mesh, 6, 3, steps=45, variations=0) for _ in range(2))
    assert torch.equal(first.hand_rotvec, again.hand_rotvec)
    other = grasp_object(model, mesh, 6, 4, steps=45, variations=0)
    assert len(other) != len(first) or not torch.equal(first.hand_rotvec, other.hand_rotvec)


def test_blocks_are_kept_and_damaged_ones_made_again(cache: Path, grasps: list[GraspBank], caplog) -> None:
    model, mesh = HandModel.embedded(), embedded_object("can")
    store = GraspStore(model, [mesh], cache)
    began = time.perf_counter()
    assert torch.equal(store.block(0, 0).hand_rotvec, grasps[0].hand_rotvec)
    assert time.perf_counter() - began < 1  # read, not made
    path = next(cache.glob(f"*_{store._names[0]}_*_0000.npz"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    again = GraspStore(model, [mesh], cache).block(0, 0)
    assert "damaged" in caplog.text and torch.equal(again.hand_rotvec, grasps[0].hand_rotvec)


def test_the_shipped_grasps_are_of_this_hand_and_these_objects() -> None:
    """Run ``scripts/build_grasps.py`` again when this fails: the hand, an object or the generator has changed."""
    path = Path(bank_module.__file__).parents[1] / "assets" / "grasps.npz"
    shipped = bank_module.unpack(path)
    source = SceneSource(0)
    wanted = {source.store.name(which, number) for which in range(len(source.names)) for number in (0, 1, HELD_OUT)}
    assert wanted == set(shipped)
    assert min(len(block) for block in shipped.values()) >= 5


def test_what_no_hand_can_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trimesh

    monkeypatch.setattr(bank_module, "TRIES", 5)
    monkeypatch.setattr(bank_module, "RETRIES", 1)
    crate = trimesh.creation.box((0.6, 0.6, 0.6))
    store = GraspStore(HandModel.embedded(), [Mesh.from_arrays(crate.vertices, crate.faces, name="crate")], tmp_path)
    with pytest.raises(InputError, match=r"'crate' \(600 x 600 x 600 mm\): no plausible grasp"):
        store.block(0, 0)


@pytest.fixture(scope="module")
def dataset(cache: Path) -> SyntheticDataset:
    return SyntheticDataset(6, 0, objects=OBJECTS, cache=cache)


def test_scenes_are_the_same_whatever_the_order(cache: Path, dataset: SyntheticDataset) -> None:
    third = dataset[3]
    other = SyntheticDataset(40, 0, objects=OBJECTS, cache=cache)
    other[1]
    again = pickle.loads(pickle.dumps(other))[3]
    assert torch.equal(third.image, again.image) and torch.equal(third.depth, again.depth)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(third.truth.items(), again.truth.items(), strict=True))
    assert torch.equal(third.features.hand_coords, again.features.hand_coords)
    assert not torch.equal(third.image, dataset[2].image)
    with pytest.raises(IndexError, match="scene 6 of 6"):
        dataset[6]


def test_a_photo_shows_what_its_truth_says(dataset: SyntheticDataset) -> None:
    model = dataset.source.hand
    for sample in (dataset[i] for i in range(4)):
        assert sample.image.shape == (3, 480, 640) and 0 <= sample.image.min() <= sample.image.max() <= 1
        assert sample.image.std() > 0.03
        hand = model(sample.truth.hand_rotvec, sample.truth.hand_shape, sample.truth.hand_transl)
        pixels = project(hand.vertices, sample.camera.matrix)[0]
        x0, y0, x1, y1 = sample.hand_box
        low = torch.maximum(pixels.amin(0), torch.tensor([-0.5, -0.5]))
        high = torch.minimum(pixels.amax(0), torch.tensor([639.5, 479.5]))
        torch.testing.assert_close(torch.cat([low, high]), torch.tensor([x0, y0, x1, y1]), atol=0.05, rtol=0)
        # the maps' own vertices project into the maps' mask, seen or hidden
        maps = sample.features
        place = project(hand.vertices, maps.camera.matrix)[0].round().long()
        inside = ((place >= 0) & (place < 64)).all(1)
        place = place[inside]
        seen = (maps.hand_mask + maps.object_mask)[0, place[:, 1], place[:, 0]] > 0
        assert seen.float().mean() > 0.3
        rows, columns = torch.nonzero(maps.hand_mask[0] == 1, as_tuple=True)
        nearest = torch.cdist(
            torch.stack([columns, rows], -1).float(), project(hand.vertices, maps.camera.matrix)[0]
        ).amin(1)
        assert nearest.max() < 5


def test_depth_is_that_of_the_surface_with_holes(dataset: SyntheticDataset) -> None:
    sample = dataset[0]
    assert sample.depth.shape == (480, 640) and (sample.depth == 0).any()
    truth = sample.truth.object_transl[0, 2]
    maps = sample.features
    rows, columns = torch.nonzero(maps.object_mask[0] == 1, as_tuple=True)
    x0, y0, x1, y1 = SceneSource(0, objects=OBJECTS, cache=dataset.source.cache).layout(0)[1].crop_box
    u = (x0 + (columns + 0.5) * (x1 - x0) / 64).round().long().clamp(0, 639)
    v = (y0 + (rows + 0.5) * (y1 - y0) / 64).round().long().clamp(0, 479)
    seen = sample.depth[v, u]
    wanted = maps.depth[0, rows, columns] + truth
    assert ((seen - wanted).abs()[seen > 0]).median() < 0.01


def test_crops_are_right_hands_at_the_asked_size(cache: Path, dataset: SyntheticDataset) -> None:
    crops = SyntheticDataset(6, 0, size=96, objects=OBJECTS, cache=cache)
    crop, photo = crops[2], dataset[2]
    assert crop.image.shape == (3, 96, 96) and crop.camera.size == (96, 96) and crop.side == "right"
    assert torch.equal(crop.features.hand_mask, photo.features.hand_mask)
    pixel = project(crop.truth.object_transl[:, None], crop.camera.resized((64, 64)).matrix)
    torch.testing.assert_close(pixel, project(crop.truth.object_transl[:, None], crop.features.camera.matrix))
    with pytest.raises(ValueError, match="left"):
        SyntheticDataset(2, 0, size=96, left=0.5)


@pytest.mark.slow
def test_left_hands_are_mirror_images_of_right_ones(cache: Path) -> None:
    photos = SyntheticDataset(8, 0, objects=("can",), cache=cache, left=1.0)
    sample = photos[0]
    assert sample.side == "left"
    thing = sample.mesh.vertices[0]
    original = embedded_object("can").vertices[0]
    torch.testing.assert_close(thing, original)  # the true object, not its mirror image
    pixels = project(
        (thing @ axis_angle_to_matrix(sample.truth.object_rotvec)[0].T + sample.truth.object_transl)[None],
        sample.camera.matrix,
    )
    x0, _, _, y1 = sample.object_box
    assert pixels[..., 0].amin().clamp(min=-0.5) == pytest.approx(x0, abs=0.1)
    assert pixels[..., 1].amax().clamp(max=479.5) == pytest.approx(y1, abs=0.1)


def test_the_training_seed_has_grasps_of_its_own(cache: Path) -> None:
    train, test = SceneSource(0, objects=OBJECTS, cache=cache), SceneSource(77, objects=OBJECTS, cache=cache)
    numbers = {train.block_number(i) for i in range(0, 2000, 7)}
    assert numbers == {0, 1, 2, 3} and {test.block_number(i) for i in range(0, 2000, 7)} == {HELD_OUT, HELD_OUT + 1}


def test_benchmark_scenes_are_one_batch(cache: Path) -> None:
    source = SceneSource(5, objects=OBJECTS, cache=cache)
    pose, features = benchmark_scenes(4, 5, source=source)
    assert len(pose) == 4 and features.hand_mask.shape == (4, 64, 64) and features.contact is not None
    single, alone = benchmark_scenes(1, 5, source=source)
    torch.testing.assert_close(pose[0].hand_rotvec, single.hand_rotvec)
    assert (features.hand_coords[:1] - alone.hand_coords).abs().mean() < 1e-5  # a silhouette's pixel may flip
    visible = features.hand_mask.sum((1, 2)), features.object_mask.sum((1, 2))
    assert all((area > 20).all() for area in visible)


def test_a_folder_is_whole_resumable_and_readable(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("horefine.data.bank.platformdirs.user_cache_dir", lambda *_: str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "grasps").symlink_to(cache)
    out, seen = tmp_path / "out", []
    rate = write_dataset(out, 3, 0, objects=OBJECTS, progress=lambda done, total: seen.append((done, total)))
    assert rate > 0 and seen == [(1, 3), (2, 3), (3, 3)]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["count"] == 3 and manifest["names"] == ["scene_000000", "scene_000001", "scene_000002"]
    files = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    assert len(files) == 1 + 3 * 5 and not [f for f in files if "tmp" in f]
    before = (out / "images" / "scene_000000.png").stat().st_mtime_ns
    (out / "images" / "scene_000001.json").unlink()
    (out / "images" / "scene_000001.png").unlink()
    write_dataset(out, 3, 0, objects=OBJECTS)
    assert (out / "images" / "scene_000000.png").stat().st_mtime_ns == before
    photos = load_dataset("folder", path=out / "images")
    assert len(photos) == 3
    truth = SyntheticDataset(3, 0, objects=OBJECTS, cache=cache)[1]
    photo = photos[1]
    assert photo.name == "scene_000001" and photo.mesh.name == truth.mesh.name and photo.side == "right"
    assert (photo.image - truth.image).abs().max() < 1 / 255
    torch.testing.assert_close(photo.camera.matrix, truth.camera.matrix)
    torch.testing.assert_close(photo.truth.hand_rotvec, truth.truth.hand_rotvec)
    torch.testing.assert_close(torch.tensor(photo.hand_box), torch.tensor(truth.hand_box))
    assert photo.depth is not None and (photo.depth - truth.depth).abs().max() < 6e-4
    with np.load(out / "maps" / "scene_000001.npz") as maps:
        np.testing.assert_array_equal(maps["hand_coords"], truth.features.hand_coords[0].numpy())


def test_shards_hold_the_scenes(tmp_path: Path, cache: Path) -> None:
    source = SceneSource(0, objects=OBJECTS, cache=cache)
    for k in range(2):
        assert write_training_shard(tmp_path / f"shard_{k:05d}", start=3 * k, count=3, crop=64, source=source) > 0
    (tmp_path / ".shard_00002.99").mkdir()  # one that was cut off
    shards = Shards.open(tmp_path)
    assert len(shards) == 6 and shards.meta["objects"] == list(OBJECTS) and shards.meta["crop"] == 64
    order = [5, 0, 3]
    assert shards.gather("index", order).tolist() == order
    sample = SyntheticDataset(6, 0, size=64, objects=OBJECTS, cache=cache)[3]
    image = shards.gather("image", [3])[0]
    np.testing.assert_array_equal(image, (sample.image * 255).round().to(torch.uint8).numpy())
    np.testing.assert_allclose(shards.gather("hand_coords", [3])[0], sample.features.hand_coords[0].numpy(), atol=1e-3)
    np.testing.assert_allclose(
        shards.gather("hand_mask", [3])[0] / 255, sample.features.hand_mask[0].numpy(), atol=3e-3
    )
    np.testing.assert_allclose(shards.gather("crop_matrix", [3])[0], sample.features.camera.matrix[0].numpy())
    np.testing.assert_allclose(shards.gather("hand_rotvec", [3])[0], sample.truth.hand_rotvec[0].numpy())
    joints = source.hand(sample.truth.hand_rotvec, sample.truth.hand_shape, sample.truth.hand_transl).joints[0]
    np.testing.assert_allclose(shards.gather("joints", [3])[0], joints.numpy(), atol=1e-5)
    for name, (dtype, shape) in ARRAYS.items():
        wanted = tuple(64 if side in ("S", "M") else side for side in shape)
        assert shards[name][0].dtype == dtype and shards[name][0].shape == (3, *wanted)


def test_shards_that_are_missing_or_wrong_say_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no training shard"):
        Shards.open(tmp_path)
    with pytest.raises(ValueError, match="'image' is missing"):
        write_shard(tmp_path / "shard_00000", {"index": np.zeros(2)}, {"crop": 8, "objects": [], "hand": ""})
    assert not (tmp_path / "shard_00000").exists()


def test_letterbox_of_the_photo() -> None:
    corners = whole_from_image(np.array([[-0.5, -0.5], [639.5, 479.5]]))
    np.testing.assert_allclose(corners, [[-0.5, 15.5], [127.5, 111.5]])
