"""Synthetic clips: smooth, the same every time, begun where the scene is; the benchmark that is made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import _common, clips
from horefine import load_hand
from horefine.clip_starts import points_of
from horefine.data.clips import SyntheticClips
from horefine.data.scenes import SceneSource
from horefine.metrics import acceleration, jitter


def mugs(frames: int) -> SyntheticClips:
    return SyntheticClips(2, frames, source=SceneSource(1000, objects=["mug"]))


def test_a_clip_is_smooth_and_begins_where_its_scene_is() -> None:
    whole = mugs(6)
    clip, (_, layout) = whole[1], whole.source.layout(1)
    torch.testing.assert_close(clip.truth.hand_transl[:1], layout.pose.hand_transl, atol=1e-5, rtol=0)
    torch.testing.assert_close(clip.truth.hand_rotvec[:1], layout.pose.hand_rotvec, atol=1e-4, rtol=0)
    torch.testing.assert_close(clip.truth.object_transl[:1], layout.pose.object_transl, atol=1e-5, rtol=0)
    assert (clip.truth.hand_shape == clip.truth.hand_shape[0]).all() and clip.times[-1] == pytest.approx(5 / 30)
    for points in points_of(load_hand(kind="embedded"), clip.features.object, clip.truth):
        assert points.diff(dim=0).norm(dim=-1).mean() > 2e-4, "it moves"
        assert acceleration(points).mean() < 3 and jitter(points).mean() < 0.6
    masks = clip.features.hand_mask, clip.features.object_mask
    assert all(mask is not None and (mask.flatten(1).mean(1) > 0.02).all() for mask in masks)


def test_a_clip_is_the_same_every_time() -> None:
    one, other = mugs(3)[0], mugs(3)[0]
    for (_, a), (_, b) in zip(one.truth.items(), other.truth.items(), strict=True):
        assert torch.equal(a, b)
    assert one.features.depth is not None and other.features.depth is not None
    assert torch.equal(one.features.depth, other.features.depth)
    longer = mugs(4)[0]
    torch.testing.assert_close(longer.truth.object_transl[:3], one.truth.object_transl)
    with pytest.raises(IndexError, match="clip 2 of 2"):
        mugs(3)[2]


def test_frames_are_photographs_with_what_is_known_of_them(tmp_path: Path) -> None:
    whole = mugs(2)
    whole.write(tmp_path, 0)
    assert sorted(p.name for p in (tmp_path / "images").glob("*.png")) == ["frame_0000.png", "frame_0001.png"]
    sample = whole.sample(0, 1)
    assert sample.image.shape == (3, 480, 640) and sample.truth is not None and sample.hand_box is not None
    before, now = whole.sample(0, 0).image, sample.image
    assert 0.0005 < (before - now).abs().mean() < 0.05, "the hand moves, the room stays"


def test_the_benchmark_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_common, "RESULTS", tmp_path)
    quick = ["--set", "stages.correspond.steps=2", "--set", "stages.settle.steps=1", "--set", "stages.render.steps=1"]
    words = [
        "--clips",
        "1",
        "--frames",
        "3",
        "--lost",
        "2",
        "--variants",
        "+ temporal",
        "--set",
        "clip.sweeps=1",
        *quick,
    ]
    monkeypatch.setattr(_common.sys, "argv", [str(_common.ROOT / "benchmarks" / "clips.py"), *words])
    clips.main()
    rows = json.loads((tmp_path / "clips.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == ["start", "frames alone", "+ temporal"]
    assert all(row["HE"] > 0 and row["joints acc err"] > 0 for row in rows) and rows[1]["HE"] < rows[0]["HE"]
