"""Training scenes of any dataset: the same batches as from shards, exact maps, bad samples named and left out."""

from __future__ import annotations

import dataclasses
import json
import logging

import numpy as np
import pytest
import torch

from horefine.data import Sample
from horefine.data.bank import hand_digest
from horefine.data.folder import FolderDataset
from horefine.data.maps import exact_features
from horefine.data.mirror import mirror_sample
from horefine.errors import InputError
from horefine.extractors.batches import Augmentation
from horefine.extractors.sample_batches import SampleScenes, hand_of, open_scenes
from horefine.extractors.sample_records import record_of
from horefine.extractors.shard_batches import Objects, Scenes
from horefine.extractors.tasks import TASKS
from horefine.geometry import Camera, project
from horefine.hand import load_hand
from horefine.objects import embedded_object
from horefine.scene import Pose
from tests.photo_folder import write_photo_folder
from tests.toy_shard import small_network, write_toy_shard


@pytest.fixture(scope="module")
def hand():
    return load_hand(kind="embedded")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Five photographs with truth, one of a left hand."""
    return write_photo_folder(tmp_path_factory.mktemp("photos"), 5, left=(2,))


def few(photos) -> list[Sample]:
    dataset = FolderDataset(photos / "images")
    return [dataset[i] for i in range(len(dataset))]


def test_a_folder_gives_the_truth_of_its_sidecars(photos, hand):
    scenes = open_scenes(photos, "embedded", held_out=2)
    assert isinstance(scenes, SampleScenes) and len(scenes) == 5 and not scenes.refused
    batch = scenes.batch(np.arange(2))
    sample = few(photos)[0]
    assert torch.equal(batch.pose.hand_rotvec[0], sample.truth.hand_rotvec[0])
    # the maps show what the pose puts where the camera of the maps sees it
    codes, mask = batch.maps["hand_coords"][0], batch.maps["hand_mask"][0] > 0.99
    posed = hand(*(getattr(sample.truth, n) for n in ("hand_rotvec", "hand_shape", "hand_transl")))
    pixels = project(posed.vertices, batch.matrix[:1])[0].round().long()
    inside = ((pixels >= 0) & (pixels < 64)).all(-1)
    apart = torch.stack([
        (codes[:, v, u] - code).norm()
        for (u, v), code, ok in zip(pixels.tolist(), hand.codes, inside, strict=True)
        if ok and mask[v, u]
    ])  # fmt: skip
    assert len(apart) > 100 and apart.median() < 0.1  # the others are hidden by the hand's front
    assert batch.image.shape == (2, 3, 128, 128) and batch.maps["depth"].shape == (2, 64, 64)


def test_distances_come_from_the_meshes_that_were_met(photos):
    scenes = open_scenes(photos, "embedded", held_out=0)
    batch = scenes.batch(np.arange(5))
    assert len(scenes.objects.meshes) == 2  # the can, and the can in the mirror of the left hand
    assert batch.object.tolist() == [0, 0, 1, 0, 0]
    surface = scenes.objects.surface[batch.object]
    assert scenes.objects.grids[batch.object].sample(surface).abs().max() < 2e-3
    low, high = embedded_object("can").box
    torch.testing.assert_close(batch.extents, (high - low).expand(5, 3))


def test_left_hands_are_seen_in_the_mirror(photos, hand):
    sample = few(photos)[2]
    assert sample.side == "left"
    mirrored = mirror_sample(sample)
    record = record_of(mirrored, hand)
    batch = open_scenes(photos, "embedded", held_out=0).batch([2])
    torch.testing.assert_close(batch.joints[0], record["joints"])
    torch.testing.assert_close(batch.pose.hand_transl[0], sample.truth.hand_transl[0] * torch.tensor([-1.0, 1, 1]))


def test_maps_that_samples_bring_are_taken_with_their_crop(photos, hand):
    sample = few(photos)[0]
    drawn = record_of(sample, hand)
    box = (10.5, 3.5, 106.5, 99.5)
    camera = sample.camera.cropped(box, (64, 64))
    maps, _ = exact_features(sample.truth, hand, sample.mesh, camera, contact=False)
    taken = record_of(dataclasses.replace(sample, features=maps), hand)
    torch.testing.assert_close(taken["crop_matrix"], camera.matrix[0])
    torch.testing.assert_close(taken["depth"].float(), maps.depth[0], atol=1e-3, rtol=0)
    # the picture is that box's: its middle pixel is the photograph's
    u, v = 58, 51  # of the photograph; in the crop (u - 10.5) * 128 / 96 - 0.5
    seen = taken["image"][:, round((v - 3.5) * 128 / 96 - 0.5), round((u - 10.5) * 128 / 96 - 0.5)].float() / 255
    assert (seen - sample.image[:, v, u]).abs().max() < 0.5  # noise, interpolated
    assert not torch.equal(drawn["crop_matrix"], taken["crop_matrix"])


def test_whole_pictures_and_boxes_equal_the_shards_way(photos, hand):
    image, boxes = open_scenes(photos, "embedded", held_out=0).wholes(np.arange(2))
    sample = few(photos)[0]
    posed = hand(*(getattr(sample.truth, n) for n in ("hand_rotvec", "hand_shape", "hand_transl")))
    pixels = project(posed.vertices, sample.camera.matrix)[0]
    assert image.shape == (2, 3, 128, 128)
    # 160 x 120 letterboxed: 160 wide is the whole side, 20 rows of grey above
    low = (pixels.amin(0) + 0.5 + torch.tensor([0.0, 20.0])) / 160
    torch.testing.assert_close(boxes[0, 0, :2], low.clamp(min=0), atol=1e-5, rtol=0)
    assert (image[:, :, :15] - 127 / 255).abs().max() < 1e-6


def test_shards_and_samples_make_the_same_batch(tmp_path, hand):
    """What was written as a shard, offered as samples again, comes out the same."""
    write_toy_shard(tmp_path / "shard_00000", 6)
    shards = open_scenes(tmp_path, "auto", held_out=2)
    batch = shards.batch([3])

    class Again:
        def __len__(self):
            return 4

        def __getitem__(self, index):
            gather = shards.shards.gather
            matrix = torch.from_numpy(gather("camera_matrix", [index + 2]))
            pose = Pose(**{n: torch.from_numpy(gather(n, [index + 2])) for n in Pose.names})
            mesh = shards.objects.meshes[int(gather("object", [index + 2])[0])]
            boxes = [tuple(map(float, gather(n, [index + 2])[0])) for n in ("hand_box", "object_box")]
            return Sample(f"s{index}", torch.zeros(3, 480, 640), Camera(matrix, (480, 640)), mesh,
                          truth=pose, hand_box=boxes[0], object_box=boxes[1])  # fmt: skip

    again = SampleScenes(Again(), hand, 0).batch([1])
    for name, value in batch.maps.items():
        shown = again.maps[name]
        assert (shown - value).abs().mean() < 2e-3, name  # shards do not cut at the photograph's edge here
    torch.testing.assert_close(again.matrix, batch.matrix, atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(again.joints, batch.joints, atol=1e-5, rtol=0)
    torch.testing.assert_close(again.object_center, batch.object_center, atol=1e-5, rtol=0)


# --- bad samples ------------------------------------------------------------------------------------------------------


class Listed:
    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        if isinstance(self.samples[index], Exception):
            raise self.samples[index]
        return self.samples[index]


def spoiled(sample: Sample, **changes) -> Sample:
    return dataclasses.replace(sample, name="bad", **changes)


def bad_samples(sample: Sample) -> dict[str, Sample | Exception]:
    nan = sample.image.clone()
    nan[0, 0, 0] = torch.nan
    pose = sample.truth
    lost = dataclasses.replace(pose, hand_transl=torch.full((1, 3), torch.nan))
    behind = dataclasses.replace(pose, hand_transl=pose.hand_transl * torch.tensor([1.0, 1, -1]))
    aside = dataclasses.replace(pose, hand_transl=pose.hand_transl + torch.tensor([3.0, 0, 0]))
    return {
        "no true pose": spoiled(sample, truth=None),
        "no object mesh": spoiled(sample, mesh=None),
        "picture holds numbers that are not finite": spoiled(sample, image=nan),
        "hand_transl holds numbers that are not finite": spoiled(sample, truth=lost),
        "behind the camera": spoiled(sample, truth=behind),
        "outside the picture": spoiled(sample, truth=aside),
        "cannot be read": InputError("bad: cannot be read"),
    }


def test_bad_samples_are_named_once_and_left_out(photos, hand, caplog):
    good = few(photos)
    bad = bad_samples(good[0])
    samples = [*bad.values(), good[0], *list(bad.values())[:3], good[1], good[3]]
    with caplog.at_level(logging.WARNING, "horefine"):
        scenes = SampleScenes(Listed(samples), hand, held_out=1)
        assert torch.equal(scenes.batch([0]).pose.hand_transl, good[0].truth.hand_transl)
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            batch = scenes.augmented(scenes.choose(8, generator), Augmentation(), generator)
            assert all(value.isfinite().all() for value in (batch.image, batch.joints, *batch.maps.values()))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(scenes.refused) == 10  # each once
    for line, why in zip(said, bad, strict=False):
        assert why in line and "bad" in line and "left out" in line


def test_an_error_when_nothing_is_left(photos, hand):
    good = few(photos)[0]
    with pytest.raises(InputError, match="2 of no use: none is left to train on; the first: bad: no true pose"):
        SampleScenes(Listed([spoiled(good, truth=None), good, spoiled(good, mesh=None)]), hand, held_out=1)
    with pytest.raises(InputError, match="none is left"):
        SampleScenes(Listed([]), hand, held_out=0)


def test_a_folder_of_nothing_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(InputError, match=r"no training shards .* synthesize"):
        open_scenes(tmp_path / "nothing", "auto", 0)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="no images"):
        open_scenes(tmp_path, "auto", 0)


def test_the_hand_is_the_one_the_truth_was_made_with(photos, tmp_path, hand):
    assert hand_of(photos, "embedded") is hand
    (tmp_path / "images").mkdir()
    (tmp_path / "manifest.json").write_text(json.dumps({"hand": hand_digest(hand)}))
    assert hand_of(tmp_path) is hand and hand_of(tmp_path / "images") is hand


@pytest.mark.parametrize("name", ["features", "hoisdf", "detector", "gsdf", "c2f_sdf"])
def test_every_task_learns_from_samples(name, photos):
    task = TASKS[name](small_network(name, 16), {}, photos, 2, hand="embedded")
    assert isinstance(task.scenes, Scenes) and isinstance(task.scenes.objects, Objects)
    losses = task.losses(3, 0.5, torch.Generator().manual_seed(0), False)
    sum(losses.values()).backward()
    task.refresh()
    with torch.no_grad():
        task.model.eval()
        measured = task.measure(2)
    assert all(np.isfinite(value) for value in measured.values()) and len(task.scenes) == 5
