"""Clips from the command line: order and times of frames, folders and videos, gaps, resuming, bad input."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from photo_folder import FEW_STEPS, FOCAL, write_photo_folder
from PIL import Image
from typer.testing import CliRunner, Result

from horefine.cli import app
from horefine.data.frames import frame_numbers, is_video, natural_order
from horefine.errors import AssetError, ConfigError
from horefine.video import unpack_video

QUICK = (*FEW_STEPS, "--set", "clip.sweeps=1", "--set", "clip.steps=1", "--set", "clip.warm=false", "--no-pictures")


def run(images: Path, root: Path, out: Path, *words: object) -> Result:
    """``horefine run --clip`` with poses and maps from files."""
    files = ("--init", root / "init", "--features", root / "maps", "--out", out)
    return CliRunner().invoke(app, [str(word) for word in ("run", images, *files, *QUICK, *words)])


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames p2, p4, p10, whose order by letters is another one."""
    root = write_photo_folder(tmp_path_factory.mktemp("frames"), 5)
    for path in list(root.rglob("p[13].*")):
        path.unlink()
    for path in list(root.rglob("p0.*")):
        path.rename(path.with_name(f"p10{path.suffix}"))
    sidecar = root / "images" / "p10.json"
    sidecar.write_text(sidecar.read_text().replace("p0.npz", "p10.npz"))
    return root


@pytest.fixture(scope="module")
def finished(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    result = run(frames / "images", frames, out, "--clip", "--fps", 10)
    assert result.exit_code == 0, result.output
    return out


# ---------------------------------------------------------------- order and times


def test_frames_come_by_their_numbers() -> None:
    names = ["b_10", "a_2", "b_9", "a_10", "b"]
    assert [names[k] for k in natural_order(names)] == ["a_2", "a_10", "b", "b_9", "b_10"]
    assert natural_order(["2", "10", "1"]) == [2, 0, 1]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a_0010", "a_0020", "a_0040"], [0, 1, 3]),  # a hole
        (["7", "8", "9"], [0, 1, 2]),
        (["s1_f3", "s1_f6", "s1_f15"], [0, 1, 4]),
        (["first", "second"], [0, 1]),
        (["a1_b1", "a2_b2", "a9_b9"], [0, 1, 2]),  # which number counts is not clear
        (["1", "01", "2"], [0, 1, 2]),  # one number twice
        (["x"], [0]),
        ([], []),
    ],
)
def test_times_are_the_number_that_counts(names: list[str], expected: list[int]) -> None:
    assert frame_numbers(names) == expected


# ---------------------------------------------------------------- a folder of frames


def test_a_run_writes_items_and_the_clip(finished: Path) -> None:
    table = json.loads((finished / "clip.json").read_text())
    assert table["frames"] == ["p2", "p4", "p10"] and table["failed"] == []
    for body in ("joints", "object"):
        own = table["motion"][body]
        # p2, p4, p10 are frames 0, 1, 4: no three follow one another, so nothing can be said of an even clip
        assert own["acceleration_clip"] is None and "acceleration_error_clip" in own
    shapes = []
    for frame, name in zip((0, 1, 4), table["frames"], strict=True):
        with np.load(finished / "items" / name / "result.npz") as result:
            shapes.append(result["hand_shape"])
        told = json.loads((finished / "items" / name / "result.json").read_text())
        assert told["clip"]["frame"] == frame and told["clip"]["second"] == pytest.approx(frame / 10)
        assert "the clip moved the hand by" in told["reason"] and not told["clip"]["bridged"]
    assert np.array_equal(shapes[0], shapes[1]) and np.array_equal(shapes[0], shapes[2])
    summary = json.loads((finished / "summary.json").read_text())
    assert [item["name"] for item in summary["items"]] == ["p2", "p4", "p10"] and summary["complete"]
    assert summary["clip"]["fps"] == 10


def test_a_finished_clip_is_not_done_again_and_a_changed_one_is(frames: Path, finished: Path, tmp_path: Path) -> None:
    out, root = tmp_path / "out", tmp_path / "root"
    shutil.copytree(finished, out)
    shutil.copytree(frames, root)
    times = [(out / "items" / name / "result.json").stat().st_mtime_ns for name in ("p2", "p4", "p10")]
    again = run(root / "images", root, out, "--clip", "--fps", 10)
    assert again.exit_code == 0, again.output
    assert times == [(out / "items" / name / "result.json").stat().st_mtime_ns for name in ("p2", "p4", "p10")]
    assert json.loads((out / "summary.json").read_text())["skipped"] == 3
    Image.new("RGB", (160, 120), (90, 40, 200)).save(root / "images" / "p4.png")
    again = run(root / "images", root, out, "--clip", "--fps", 10)
    assert again.exit_code == 0, again.output
    new = [(out / "items" / name / "result.json").stat().st_mtime_ns for name in ("p2", "p4", "p10")]
    assert all(a < b for a, b in zip(times, new, strict=True)), "each frame hangs on the others"


def test_images_by_themselves_are_not_taken_for_a_finished_clip(frames: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "out")
    result = run(frames / "images", frames, tmp_path / "out")
    assert result.exit_code == 0 and json.loads((tmp_path / "out" / "summary.json").read_text())["skipped"] == 0


def test_a_broken_frame_is_a_gap(frames: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(frames, root)
    (root / "images" / "p4.png").write_bytes(b"no picture")
    result = run(root / "images", root, tmp_path / "out", "--clip")
    assert result.exit_code == 4, result.output
    table = json.loads((tmp_path / "out" / "clip.json").read_text())
    assert table["frames"] == ["p2", "p10"] and table["failed"][0]["name"] == "p4"
    again = run(root / "images", root, tmp_path / "out", "--clip")
    assert again.exit_code == 4, "it is still said"
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["skipped"] == 2


def test_maps_of_another_size_and_other_photo_sizes(frames: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(frames, root)
    with np.load(root / "maps" / "p4.npz") as stored:
        maps = {name: stored[name] for name in stored.files}
    maps = {name: value if name == "camera" else value[..., ::2, ::2] for name, value in maps.items()}
    maps["camera"] = maps["camera"] * np.array([[0.5], [0.5], [1]])
    np.savez(root / "maps" / "p4.npz", **maps)
    result = run(root / "images", root, tmp_path / "out", "--clip")
    assert result.exit_code == 4, result.output
    failed = json.loads((tmp_path / "out" / "clip.json").read_text())["failed"]
    assert failed[0]["name"] == "p4" and "not like the clip's other frames'" in failed[0]["error"]


def test_a_clip_shows_one_object(frames: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(frames, root)
    sidecar = root / "images" / "p4.json"
    sidecar.write_text(sidecar.read_text().replace('"can"', '"mug"'))
    result = run(root / "images", root, tmp_path / "out", "--clip")
    assert result.exit_code == 2 and "a clip shows one object" in result.output


@pytest.mark.parametrize(("limit", "every", "expected"), [(1, 1, ["p2"]), (2, 2, ["p2", "p10"])])
def test_fewer_frames(frames: Path, tmp_path: Path, limit: int, every: int, expected: list[str]) -> None:
    result = run(frames / "images", frames, tmp_path, "--clip", "--limit", limit, "--every", every)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "clip.json").read_text())["frames"] == expected


def test_what_only_clips_have(frames: Path, tmp_path: Path) -> None:
    assert "go with --clip" in run(frames / "images", frames, tmp_path, "--every", 2).output
    assert "a picture is no clip" in run(frames / "images" / "p2.png", frames, tmp_path, "--clip").output


# ---------------------------------------------------------------- videos


def write_video(path: Path, pictures: list[np.ndarray], fps: int = 30) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for picture in pictures:
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def shades(count: int) -> list[np.ndarray]:
    return [np.full((120, 160, 3), 20 + 30 * k, np.uint8) for k in range(count)]


def test_a_video_becomes_a_folder_once(tmp_path: Path) -> None:
    video = tmp_path / "grasp.mp4"
    write_video(video, shades(7))
    (tmp_path / "grasp.json").write_text('{"object": "can"}')
    folder, rate = unpack_video(video, tmp_path / "frames", every=3)
    assert rate == pytest.approx(10) and folder == tmp_path / "frames" / "grasp" / "images"
    names = sorted(path.stem for path in folder.glob("*.jpg"))
    assert names == ["000000", "000003", "000006"] and frame_numbers(names) == [0, 1, 2]
    assert json.loads((folder / "horefine.json").read_text()) == {"object": "can"}
    grey = [int(np.asarray(Image.open(folder / f"{name}.jpg")).mean()) for name in names]
    assert grey == pytest.approx([20, 110, 200], abs=4)
    made = (folder / "000003.jpg").stat().st_mtime_ns
    assert unpack_video(video, tmp_path / "frames", every=3) == (folder, rate)
    assert (folder / "000003.jpg").stat().st_mtime_ns == made
    assert unpack_video(video, tmp_path / "frames", fps=15)[1] == pytest.approx(15)
    assert len(list(folder.glob("*.jpg"))) == 4


def test_a_video_is_a_clip(tmp_path: Path) -> None:
    root = write_photo_folder(tmp_path / "root", 3)
    video = tmp_path / "grasp.mp4"
    write_video(video, shades(3))
    (tmp_path / "grasp.json").write_text(json.dumps({"camera": {"fx": FOCAL}, "object": "can", "side": "right"}))
    for number in range(3):
        for part in ("init", "maps"):
            (root / part / f"p{number}.npz").rename(root / part / f"{number:06d}.npz")
    result = run(video, root, tmp_path / "out")
    assert result.exit_code == 0, result.output
    table = json.loads((tmp_path / "out" / "clip.json").read_text())
    assert table["frames"] == ["000000", "000001", "000002"] and table["motion"]["fps"] == pytest.approx(30)
    assert table["motion"]["joints"]["acceleration_clip"] > 0


def test_videos_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_video(Path("A.MOV")) and not is_video(Path("a.png"))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video at all" * 50)
    pytest.importorskip("av")
    with pytest.raises(ConfigError, match=r"broken\.mp4: cannot be read as a video"):
        unpack_video(broken, tmp_path / "frames")
    with pytest.raises(ConfigError, match="no such video"):
        unpack_video(tmp_path / "none.mp4", tmp_path / "frames")
    assert not list((tmp_path / "frames").glob("*")), "nothing half-written is left"
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AssetError, match=r"pip install 'horefine\[video\]'"):
        unpack_video(broken, tmp_path / "frames")
