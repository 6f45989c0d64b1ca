"""The training loop: losses fall, runs resume, recipes are checked."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from horefine import train_log
from horefine.cli import app
from horefine.errors import AssetError, ConfigError, InputError
from horefine.extractors import load_model
from horefine.extractors.weights import read_weights
from horefine.train import TrainConfig, load_train_config, train
from horefine.train_devices import open_devices
from horefine.train_log import TrainLog
from tests.toy_shard import small_network, write_toy_shard

ROOT = Path(__file__).resolve().parents[1]
STEADY = {
    "hoisdf": ("hand_field", "object_field", "hand_seg", "obj_seg"),
    "gsdf": ("hand_field", "object_field", "volume_place"),
    "c2f_sdf": ("hand_field", "object_field", "center"),
}
"""Losses that fall from the first step on; of the others all together do."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_toy_shard(tmp_path_factory.mktemp("data") / "shard_00000", 20)


def recipe(task: str, **changes) -> TrainConfig:
    base = TrainConfig(
        task,
        small_network(task, 8),
        batch=4,
        steps=24,
        rate=4e-3,
        held_out=4,
        measured=4,
        log_every=4,
        ema=0.9,
        minutes=None,
    )
    return dataclasses.replace(base, **changes)


def log_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("task", ["features", "hoisdf", "detector", "gsdf", "c2f_sdf"])
def test_training_lowers_the_loss_and_leaves_a_usable_weight_file(task, data, tmp_path):
    path = train(recipe(task), data=data, out=tmp_path)
    log = log_of(tmp_path)
    parts = STEADY.get(task, ("loss",))
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


@pytest.mark.parametrize("name", ["features", "hoisdf", "detector", "contact", "gsdf", "c2f_sdf"])
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


# --- schedule, log, devices -------------------------------------------------------------------------------------------


def test_rates_follow_the_schedule():
    cosine = TrainConfig("detector", rate=1.0, warmup=0.1, lowest=0.01)
    assert cosine.rate_at(0) == 0.02 and cosine.rate_at(0.05) == pytest.approx(0.5) and cosine.rate_at(0.1) == 1
    assert cosine.rate_at(0.55) == pytest.approx(0.505) and cosine.rate_at(1) == pytest.approx(0.01)
    steps = TrainConfig("detector", rate=1.0, warmup=0, schedule="steps", decay=0.5, decay_every=0.25, lowest=0.2)
    assert [steps.rate_at(done) for done in (0, 0.24, 0.25, 0.5, 0.75)] == [1, 1, 0.5, 0.25, 0.2]


def test_epochs_are_passes_over_the_training_scenes(data, tmp_path):
    train(recipe("detector", epochs=2, batch=4), data=data, out=tmp_path)
    assert log_of(tmp_path)[-1]["validation"]["step"] == 8  # 16 scenes, 4 held out of 20


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("schedule=cosin", "did you mean 'cosine'"),
        ("hand=manno", "did you mean 'mano'"),
        ("tensorboard=2", "neither true nor false"),
        ("epochs=many", "is not a number"),
        ("betas=0.9", "expected two numbers"),
    ],
)
def test_further_keys_are_checked(override, said):
    with pytest.raises(ConfigError, match=said):
        load_train_config("detector", [override])


def test_unknown_devices_and_augmentations_are_refused(data, tmp_path):
    with pytest.raises(ConfigError, match="device: 'gpu'"):
        train(recipe("detector", device="gpu"), data=data, out=tmp_path)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="sees no GPU"):
            train(recipe("detector", device="cuda:1"), data=data, out=tmp_path)
    with pytest.raises(ConfigError, match=r"augmentation\.blurr: .*did you mean 'blur'"):
        train(recipe("detector", augmentation={"blurr": 1.0}), data=data, out=tmp_path)
    with pytest.raises(ConfigError, match="NAME:key=value"):
        train(recipe("detector"), data="synthetic:cuont=3", out=tmp_path)


def test_several_processes_without_accelerate_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(AssetError, match=r"pip install 'horefine\[train\]'"):
        open_devices("cpu")


def test_tensorboard_gets_the_log(data, tmp_path):
    pytest.importorskip("tensorboard", reason="the extra 'train' is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(recipe("detector", steps=8, tensorboard=True), data=data, out=tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    shown = {event.step: event.value for event in events.Scalars("train/loss")}
    assert shown == pytest.approx({e["step"]: e["loss"] for e in log_of(tmp_path) if "loss" in e}, rel=1e-4)
    assert "validation/hull_giou" in events.Tags()["scalars"]


def test_tensorboard_that_is_missing_names_the_extra(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(AssetError, match=r"pip install 'horefine\[train\]'"):
        train(recipe("detector", tensorboard=True), data=data, out=tmp_path)


def test_a_terminal_gets_a_bar_and_a_file_gets_lines(tmp_path, monkeypatch, caplog):
    for terminal in (True, False):
        caplog.clear()
        console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
        monkeypatch.setattr(train_log, "_console", lambda console=console: console)
        with caplog.at_level(logging.INFO, "horefine"), TrainLog(tmp_path) as log:
            log.begin(0)
            log.advance(30, 1.25, 240, 0.5, 60.0)
            log.losses(30, {"loss": 1.25})
            log.validation(30, {"hull_giou": 0.5})
            if log._bar is not None:
                log._bar.refresh()
        said = console.file.getvalue()
        lines = [record.getMessage() for record in caplog.records]
        assert lines[-1] == '{"validation": {"hull_giou": 0.5}}'
        if terminal:
            assert "step 30" in said and "loss 1.25" in said and "images/s" in said and "1 min left" in said
            assert len(lines) == 1  # the bar shows the losses
        else:
            assert not said and json.loads(lines[0]) == {"step": 30, "loss": 1.25}
    assert len(log_of(tmp_path)) == 4


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_hoisdf_learns_from_an_empty_folder_by_one_command(tmp_path):
    """``horefine train hoisdf --data synthetic --smoke``: scenes are made, the network is the shipped one's size."""
    found = CliRunner().invoke(app, ["train", "hoisdf", "--data", "synthetic", "--smoke", "--out", str(tmp_path)])
    assert found.exit_code == 0, found.output
    losses = [sum(entry[part] for part in STEADY["hoisdf"]) for entry in log_of(tmp_path) if "loss" in entry]
    third = max(1, len(losses) // 3)
    assert len(losses) >= 2 and sum(losses[-third:]) < 0.97 * sum(losses[:third])
    assert load_model(tmp_path / "hoisdf.safetensors", "hoisdf") is not None


@pytest.mark.slow
def test_two_processes_learn_one_network(data, tmp_path):
    """Each from scenes of its own; gradients are averaged, one writes."""
    pytest.importorskip("accelerate", reason="the extra 'train' is not installed")
    words = ["device=cpu", "steps=4", "batch=2", "held_out=4", "measured=4", "log_every=1", "minutes=null", "threads=1"]
    words += ["network.width=16", "network.decoder=[16,16,8]", "rate=0.001"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.train_process", str(data), str(tmp_path), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOREFINE_TEST_TYPES": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"process_{number}.pt", weights_only=True) for number in (0, 1))
    assert first["scenes"] != second["scenes"]
    for name, value in first["average"].items():
        torch.testing.assert_close(value, second["average"][name], msg=name)
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(first["model"][name], second["model"][name]), name
    log = log_of(tmp_path)
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2, 3, 4]  # one of them writes
    assert log[-1]["validation"]["images"] == 16
    assert read_weights(tmp_path / "detector.safetensors", "detector").validation == log[-1]["validation"]
