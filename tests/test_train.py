"""The training loop: losses fall, runs resume, recipes are checked."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from horefine.errors import ConfigError, InputError
from horefine.extractors import load_model
from horefine.extractors.weights import read_weights
from horefine.train import TrainConfig, load_train_config, train
from tests.toy_shard import write_toy_shard

SMALL = {
    "features": {"width": 8, "decoder": [16, 16, 8], "head_width": 8},
    "hoisdf": {
        "width": 8, "unet": {"deconvs": [16, 16, 8], "fuses": [16, 16, 8], "heads": []}, "hidden": 64,
        "feedforward": 64, "token_mlp": [32], "field_mlp": [32, 16], "field_width": 64, "hand_points": 16,
        "object_points": 16,
    },
    "detector": {"width": 8, "decoder": [16, 16, 8]},
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_toy_shard(tmp_path_factory.mktemp("data") / "shard_00000", 20)


def recipe(task: str, **changes) -> TrainConfig:
    base = TrainConfig(
        task, SMALL[task], batch=4, steps=24, rate=4e-3, held_out=4, measured=4, log_every=4, ema=0.9, minutes=None
    )
    return dataclasses.replace(base, **changes)


def log_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("task", ["features", "hoisdf", "detector"])
def test_training_lowers_the_loss_and_leaves_a_usable_weight_file(task, data, tmp_path):
    path = train(recipe(task), data=data, out=tmp_path)
    log = log_of(tmp_path)
    parts = ("hand_field", "object_field", "hand_seg", "obj_seg") if task == "hoisdf" else ("loss",)  # the steadiest
    losses = [sum(entry[part] for part in parts) for entry in log if "loss" in entry]
    assert len(losses) == 6 and sum(losses[-3:]) / 3 < 0.9 * losses[0]
    validation = log[-1]["validation"]
    assert validation["images"] == 96 and read_weights(path, task).validation == validation
    assert load_model(path, task) is not None
    assert json.loads((tmp_path / "validation.json").read_text()).keys() == validation.keys()


def test_a_stopped_run_goes_on(data, tmp_path):
    train(recipe("detector", steps=8), data=data, out=tmp_path)
    before = len(log_of(tmp_path))
    train(recipe("detector", steps=12), data=data, out=tmp_path)
    steps = [entry["step"] for entry in log_of(tmp_path)[before:] if "loss" in entry]
    assert steps == [12]
    train(recipe("detector", steps=12), data=data, out=tmp_path, resume=False)
    assert [e["step"] for e in log_of(tmp_path) if "loss" in e][-3:] == [4, 8, 12]


def test_a_state_of_another_network_is_refused(data, tmp_path):
    train(recipe("detector", steps=4), data=data, out=tmp_path)
    other = recipe("detector", steps=8, network={"width": 16, "decoder": [16, 16, 8]})
    with pytest.raises(InputError, match="another network"):
        train(other, data=data, out=tmp_path)


def test_the_clock_ends_the_schedule(data, tmp_path):
    train(recipe("detector", steps=10**6, minutes=0.03), data=data, out=tmp_path)
    log = log_of(tmp_path)
    assert 0 < log[-1]["validation"]["step"] < 1000


def test_the_same_seed_gives_the_same_losses(data, tmp_path):
    for name in ("a", "b"):
        torch.rand(7)  # whatever happened before must not matter
        train(recipe("detector", steps=8), data=data, out=tmp_path / name)
    first, second = ([e["loss"] for e in log_of(tmp_path / n) if "loss" in e] for n in ("a", "b"))
    assert first == second


@pytest.mark.parametrize("name", ["features", "hoisdf", "detector"])
def test_shipped_recipes_are_valid(name):
    assert load_train_config(name).task == name


@pytest.mark.parametrize(
    ("override", "said"),
    [("stepps=3", "did you mean 'steps'"), ("rate=1e-3", "1.0e-3|1e-4 is"), ("task=hoisd", "did you mean 'hoisdf'")],
)
def test_recipes_are_checked(override, said):
    with pytest.raises(ConfigError, match=said):
        load_train_config("detector", [override])


def test_overrides_reach_into_tables_and_networks_check_their_keys(data, tmp_path):
    config = load_train_config("features", ["network.width=8", "steps=7"])
    assert config.network == {"width": 8} and config.steps == 7
    with pytest.raises(ConfigError, match="did you mean 'width'"):
        train(dataclasses.replace(config, network={"widht": 8}, held_out=4), data=data, out=tmp_path)
    with pytest.raises(ConfigError, match="no_such"):
        load_train_config("no_such")


def test_too_few_scenes_are_refused(data, tmp_path):
    with pytest.raises(InputError, match="held out"):
        train(recipe("detector", held_out=20), data=data, out=tmp_path)
    with pytest.raises((InputError, FileNotFoundError), match="shard"):
        train(recipe("detector"), data=tmp_path / "nothing", out=tmp_path)
