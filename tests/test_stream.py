"""Images without end: the same results as one at a time, bounded memory, errors of single images, how many at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from loss_scenes import SIZE, can, hand_model, true_pose

import horefine
from horefine import Features, Pose, Refinement, load_config, refine, refine_stream, stream
from horefine.data.maps import disturb, exact_features
from horefine.errors import ConfigError, InputError
from horefine.geometry import Camera
from horefine.objects import embedded_object
from horefine.run_command import parse_batch

ADAM = load_config("adam", ["stages.correspond.steps=3", "stages.render.steps=3"])
MESHES = [dataclasses.replace(can(), sdf=None), embedded_object("marker")]


def image(number: int, side: int = SIZE[0]) -> tuple[str, Pose, Features]:
    """One of three grasps, of one of two objects, each time begun elsewhere."""
    truth, mesh = true_pose()[number % 3], MESHES[number % 2]
    camera = Camera.from_focal(150.0 * side / SIZE[0], (side, side))
    features, _ = exact_features(truth, hand_model(), mesh, camera, contact=False)
    start = disturb(truth, number, 8.0, 8.0, 5.0, model=hand_model(), object_center=mesh.center)
    return f"i{number}", start, features


def run(images, config=ADAM, **options) -> list[tuple[str, Refinement]]:
    return list(refine_stream(images, config, hand_model=hand_model(), renderer="cpu", **options))


def same(found: Refinement, alone: Refinement, near: float = 1e-4) -> None:
    assert len(found) == 1 and found.status == alone.status
    for name, value in alone.pose.items():
        assert torch.allclose(getattr(found.pose, name), value, atol=near), name
    assert torch.allclose(found.initial.hand_transl, alone.initial.hand_transl, atol=1e-6)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_stream_gives_what_each_image_gives_alone(threads: int) -> None:
    images = [image(k) for k in range(5)] + [image(5, 32)]
    found = dict(run(iter(images), batch=2, threads=threads))
    assert set(found) == {key for key, _, _ in images}
    for key, pose, features in images:
        same(found[key], refine(pose, features, ADAM, hand_model=hand_model(), renderer="cpu"))


def test_the_solver_and_several_starts_too() -> None:
    config = load_config("default", ["starts.count=auto", "starts.most=3", "starts.rotation=0.5"])
    images = []
    for k in range(3):
        key, pose, features = image(k)
        spread = torch.full((1, 5), [0.01, 0.9, 0.01][k])
        images.append((key, pose, dataclasses.replace(features, pose_spread=spread)))
    for (key, found), (wanted, pose, features) in zip(run(images, config, batch=8), images, strict=True):
        alone = refine(pose, features, config, hand_model=hand_model(), renderer="cpu")
        assert key == wanted
        hands = [hand_model()(p.hand_rotvec, p.hand_shape, p.hand_transl).vertices for p in (found.pose, alone.pose)]
        assert float((hands[0] - hands[1]).norm(dim=-1).max()) < 2e-3  # the normal equations amplify the last bit
        assert found.sigma is not None and len(found.sigma.joints) == 1


def test_no_more_is_drawn_than_a_pool_and_the_rest_is_given_at_the_end() -> None:
    drawn, batches = 0, []
    short = load_config("adam", ["stages.correspond.steps=1", "stages.render.steps=1"])
    few = [image(k) for k in range(2)] + [image(k, 32) for k in range(2)]

    def images() -> Iterator[tuple[int, Pose, Features]]:
        nonlocal drawn
        for number in range(40):
            drawn += 1
            _, pose, features = few[number % 4 if number % 5 == 0 else number % 2]
            yield number, pose, features

    taken = []
    for key, _ in refine_stream(images(), short, batch=4, hand_model=hand_model(), renderer="cpu"):
        taken.append(key)
        batches.append(drawn)
        assert drawn - len(taken) < 2 * 4  # waiting in the pool, or of this batch and not yet given
    assert sorted(taken) == list(range(40))
    common = [key for key in taken if few[key % 4 if key % 5 == 0 else key % 2][2].camera.size == SIZE]
    assert common == sorted(common)  # those of a kind come in their order


def test_an_image_that_cannot_be_refined_is_told_and_the_others_go_on() -> None:
    images = [image(k) for k in range(4)]
    images[2] = ("i2", dataclasses.replace(images[2][1], hand_transl=torch.full((1, 3), torch.nan)), images[2][2])
    said: dict[str, Exception] = {}
    found = run(images, batch=4, failed=said.__setitem__)
    assert [key for key, _ in found] == ["i0", "i1", "i3"]
    assert isinstance(said["i2"], InputError) and "hand_transl" in str(said["i2"])
    with pytest.raises(InputError, match=r"i2: pose.hand_transl has NaN"):
        run(images, batch=4)


def test_what_cannot_be_is_said() -> None:
    key, pose, features = image(0)
    with pytest.raises(ConfigError, match="batch: 0 is neither a number of rows"):
        run([(key, pose, features)], batch=0)
    with pytest.raises(InputError, match="i0: pose of 2 images"):
        run([(key, Pose.cat([pose, pose]), features)])
    with pytest.raises(KeyboardInterrupt):
        run([(key, pose, features)], check=lambda: (_ for _ in ()).throw(KeyboardInterrupt))


def test_how_many_at_once_follows_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    features = image(0)[2]
    one = stream.row_bytes(features, ADAM)
    assert one > 2 * sum(v.numel() * 4 for v in (features.hand_coords, features.object_coords) if v is not None)
    assert stream.row_bytes(image(0, 96)[2], ADAM) > 2 * one
    assert stream.row_bytes(features, load_config("pixels")) > one + 10_000_000
    for free, wanted in ((10 * one, 5), (one, 1), (1 << 50, 16)):
        monkeypatch.setattr(stream, "free_memory", lambda device, free=free: free)
        assert stream.batch_for(features, ADAM) == wanted
    monkeypatch.setattr(stream, "free_memory", lambda device: 160 << 20)
    assert 1 <= stream.usual_batch(load_config("pixels")) < stream.usual_batch(ADAM) < 16


def test_the_command_takes_a_number_or_auto() -> None:
    assert parse_batch("3") == 3 and parse_batch("auto") == "auto"
    for wrong in ("0", "-1", "many", "1.5"):
        with pytest.raises(ConfigError, match=f"--batch-size {wrong}: give a number of images, 1 or more, or auto"):
            parse_batch(wrong)


def test_free_memory_is_what_the_machine_or_its_control_group_leaves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert 1 << 20 < stream.free_memory() < 1 << 50
    real = Path
    told = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   2048 kB\n", "max": "max\n", "current": "5\n"}

    class Told:
        def __init__(self, path: str) -> None:
            self.path = path

        def __truediv__(self, name: str) -> Told:
            return Told(name.removeprefix("memory."))

        def read_text(self) -> str:
            return told[self.path]

    monkeypatch.setattr(stream, "Path", Told)
    assert stream.free_memory() == 2048 * 1024 and real is not Told
    told["max"] = "1005\n"
    assert stream.free_memory() == 1000


def test_it_is_public() -> None:
    assert horefine.refine_stream is stream.refine_stream
