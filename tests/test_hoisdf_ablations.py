"""The rows of HOISDF's tables 7 to 9: every one trains, and each setting does what it is named for."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.ablations_hoisdf import OURS, chosen_rows, read_rows, train_rows
from horefine.errors import ConfigError
from horefine.extractors import load_default, load_model
from horefine.extractors.hoisdf import CROSSINGS, SAMPLINGS, WEIGHTINGS, Hoisdf, HoisdfConfig, Points, Seen
from horefine.extractors.sizes import network_config
from horefine.extractors.unet import UNetConfig
from tests.toy_shard import write_toy_shard

RECIPE, ROWS = read_rows()
TINY = HoisdfConfig(
    width=8, unet=UNetConfig((16, 16, 8), (16, 16, 8), (), 16, ()), hidden=64, feedforward=64, token_mlp=(32,),
    field_mlp=(32, 16), field_width=64, hand_points=12, object_points=8,
)  # fmt: skip
SETTINGS = (
    "network.width=8", "network.unet={deconvs: [16, 16, 8], fuses: [16, 16, 8], heads: []}", "network.hidden=64",
    "network.feedforward=64", "network.token_mlp=[32]", "network.field_mlp=[32, 16]", "network.field_width=64",
    "network.hand_points=12", "network.object_points=8", "batch=2", "steps=2", "held_out=2", "measured=2",
    "log_every=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_shard(tmp_path_factory.mktemp("data") / "shard_00000", 8)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_trains(name: str, data: Path, tmp_path: Path) -> None:
    (row,) = train_rows([name], str(data), tmp_path, overrides=SETTINGS)
    assert row["row"] == name and row["images"] == 4
    assert all(isinstance(row[f"{column}_mm"], float) for column in OURS)
    losses = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
    assert all(torch.isfinite(torch.tensor(entry["loss"])) for entry in losses if "loss" in entry)
    model = load_model(tmp_path / name / "hoisdf.safetensors", "hoisdf")
    assert isinstance(model, Hoisdf)
    for key, value in ROWS[name].network.items():
        assert getattr(model.config, key) == value, "the weight file says which row it is"


def test_the_rows_are_the_papers() -> None:
    """Tables 7, 8 and 9 have four rows each; two stand in two tables."""
    assert [sum(table in row.tables for row in ROWS.values()) for table in (7, 8, 9)] == [4, 4, 4]
    settings = [network_config("hoisdf", row.network) for row in ROWS.values()]
    assert len(set(settings)) == len(ROWS) and settings[0] == network_config("hoisdf", {})
    assert {s.sampling for s in settings} == set(SAMPLINGS)
    assert {s.weighting for s in settings} == set(WEIGHTINGS)
    assert {s.cross for s in settings} == set(CROSSINGS)


def test_rows_are_named_or_all() -> None:
    assert chosen_rows(None, ROWS) == list(ROWS)
    assert chosen_rows("no_cross,ours", ROWS) == ["no_cross", "ours"]
    with pytest.raises(ConfigError, match="rows: 'no_cros': there is none; did you mean 'no_cross'"):
        chosen_rows("no_cros", ROWS)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("sampling", "absolut", "network.sampling: 'absolut': there is none; did you mean 'absolute'"),
        ("weighting", "densty", "did you mean 'density'"),
        ("cross", "off", "network.cross: 'off': there is none; known: field, image, none, target"),
        ("grid", 1, "network.grid: 1 nodes"),
    ],
)
def test_settings_are_checked(key: str, value: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        network_config("hoisdf", {key: value})


def test_the_shipped_network_is_the_papers_own_row() -> None:
    model = load_default("hoisdf")
    assert isinstance(model, Hoisdf)
    assert (model.config.sampling, model.config.weighting, model.config.cross) == ("absolute", "density", "field")


# --- what the transformers are given ----------------------------------------------------------------------------------


def network(**settings: str) -> Hoisdf:
    torch.manual_seed(0)
    return Hoisdf(dataclasses.replace(TINY, condition=False, **settings)).eval()


def points(model: Hoisdf, count: int, seed: int) -> Points:
    generator = torch.Generator().manual_seed(seed)
    channels = sum(model.pyramid_channels) + 8
    return Points(
        torch.randn(1, count, 3, generator=generator) * 0.05,
        torch.randn(1, count, generator=generator) * 0.1,
        torch.rand(1, count, channels, generator=generator),
    )


@torch.no_grad()
def rotations(model: Hoisdf, hand: Points, other: Points) -> tuple[Tensor, Tensor]:
    seen, center = Seen([], {}, torch.zeros(1, 7), None), torch.zeros(1, 3)
    result = model.pose(seen, hand, other, center, center + 0.02)
    return result.rotations[-1], result.object_rotation[-1]


@pytest.mark.parametrize("cross", CROSSINGS)
def test_what_crosses(cross: str) -> None:
    """Which of the other's points, of the distances they were chosen by, and of its own field reach a transformer."""
    model = network(cross=cross)
    hand, other = points(model, 12, 1), points(model, 8, 2)
    before, _ = rotations(model, hand, other)

    def changes(guests: Points) -> bool:
        return not torch.equal(rotations(model, hand, guests)[0], before)

    assert changes(dataclasses.replace(other, position=other.position + 0.01)) == (cross != "none")
    assert changes(dataclasses.replace(other, distance=other.distance + 0.05)) == (cross == "target")
    with torch.no_grad():  # the hand's own field, asked at the object's points
        model.hand_sdf_decoder.linh4.bias.add_(0.1)
    assert changes(other) == (cross == "field")


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_what_a_distance_does_to_a_token(weighting: str) -> None:
    model = network(weighting=weighting, cross="none")
    hand, other = points(model, 12, 1), points(model, 8, 2)
    read = model.linear_transformerin(hand.features)
    assert read.shape[-1] == 64 - 33 - weighting.endswith("concatenation")
    found = model._tokens("hand", hand.position, torch.zeros(1, 3), read, hand.distance)[..., 33:]
    density = ((-hand.distance / 0.1).sigmoid() / 0.1)[..., None]  # |d| <= 0.25 is not cut
    inside = hand.distance.abs() < 0.25
    expected = {
        "density": read * density,
        "none": read,
        "density_concatenation": torch.cat([read, density], -1),
        "distance_concatenation": torch.cat([read, hand.distance[..., None]], -1),
    }[weighting]
    assert torch.allclose(found[inside], expected[inside], atol=1e-5) and bool(inside.any())
    plain = model._tokens("hand", hand.position, torch.zeros(1, 3), read, None)[..., 33:]
    assert torch.equal(plain[..., : read.shape[-1]], read) and plain.shape == found.shape
    assert rotations(model, hand, other)[0].shape == (1, 16, 3, 3)
