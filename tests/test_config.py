"""Recipes: what they say, what they refuse and how they say so."""

import pytest
import yaml

from horefine.config import config_names, load_config
from horefine.errors import ConfigError


@pytest.mark.parametrize("name", config_names())
def test_every_shipped_recipe_loads_and_round_trips(name):
    config = load_config(name)
    again = load_config(yaml.safe_load(config.dump()))
    assert again == config and again.digest() == config.digest()
    assert config.features


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("losses.segmentatoin=1", "losses.segmentatoin: no such loss; did you mean 'segmentation'?"),
        ("losses.segmentation.raduis=1", "losses.segmentation.raduis: no such option; known: weight, "),
        ("losses.offset.weight=1e-4", "losses.offset.weight: '1e-4' is not a number (1e-4 is 1.0e-4 in YAML)"),
        ("losses.segmentation=-1", "losses.segmentation.weight: -1 is negative"),
        ("losses.segmentation=.nan", "is not a finite number"),
        ("optimizer.rate=3", "optimizer.rate: no such key; did you mean 'rates'?"),
        ("optimizer.rates.wirst=3", "optimizer.rates.wirst: no such block; did you mean 'wrist'?"),
        ("stages.refine.step=3", "stages.refine.step: no such key; did you mean 'steps'?"),
        ("stages.refine.steps=0", "stages.refine.steps: 0: "),
        ("stages.refine.losses=[segmentatio]", "did you mean 'segmentation'?"),
        ("lossess.segmentation=1", "lossess: no such key; did you mean 'losses'?"),
        ("stages={}", "stages: empty"),
        ("losses.segmentation", "expected key=value"),
        ("losses.nowhere.to:be=1", "losses.nowhere: no such loss"),
    ],
)
def test_refusals_name_the_key_and_the_way_out(override, message):
    with pytest.raises(ConfigError) as error:
        load_config("song2022", [override])
    assert message in str(error.value)


def test_unknown_recipe_and_broken_file(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'default'"):
        load_config("defualt")
    (tmp_path / "bad.yaml").write_text("losses: [")
    with pytest.raises(ConfigError, match="not readable as YAML"):
        load_config(tmp_path / "bad.yaml")
    (tmp_path / "self.yaml").write_text(f"base: {tmp_path / 'self.yaml'}")
    with pytest.raises(ConfigError, match="extends itself"):
        load_config(tmp_path / "self.yaml")


def test_zero_and_off_leave_out_and_free_the_feature():
    for value in ("0", "off"):
        config = load_config("song2022", [f"losses.relative_depth={value}", f"losses.correspondence_depth={value}"])
        assert "relative_depth" not in config.terms()
        assert "depth" not in config.features


def test_all_off_is_refused():
    with pytest.raises(ConfigError, match="nothing to minimise"):
        load_config({"losses": {"segmentation": 0}, "stages": {"refine": {}}})


def test_base_is_extended_and_stage_tables_change_entries(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: song2022\nstages: {refine: {steps: 7, losses: {segmentation: 2.0}}}\n")
    config = load_config(path)
    terms = config.terms("refine")
    assert config.stages["refine"].steps == 7 and config.stages["refine"].patience == 20
    assert terms["segmentation"].weight == 2.0 and terms["segmentation"].options["reduction"] == "sum"
    off = load_config(path, ["losses.segmentation=0"])
    assert "segmentation" not in off.terms("refine"), "an ablation wins over a stage"


def test_a_recipe_read_again_is_what_its_file_says(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("losses: {segmentation: {weight: 0.3}}\nstages: {refine: {steps: 7}}\n")
    first = load_config(path)
    first.losses["segmentation"]["weight"] = 0.5
    assert load_config(path).losses == {"segmentation": {"weight": 0.3}}, "what a caller wrote to stays the caller's"
    path.write_text("losses: {segmentation: {weight: 0.4}}\nstages: {refine: {steps: 7}}\n")
    assert load_config(path).losses == {"segmentation": {"weight": 0.4}}


def test_terms_are_found_once_and_stay_what_the_recipe_says():
    config = load_config("default")
    stage = list(config.stages)[-1]
    terms = config.terms(stage)
    name = next(name for name, term in terms.items() if term.options)
    assert config.terms(stage)[name] is terms[name], "parsed once"
    with pytest.raises(TypeError):
        terms[name].options["weight"] = 3
    del terms[name]
    assert name in config.terms(stage), "the caller's table is the caller's"
    losses = {**config.losses, name: 0}
    assert name not in config.model_copy(update={"losses": losses}).terms(stage), "a copy has terms of its own"
    config.losses[name] = 0
    assert name not in config.terms(stage), "and so has a table that was written to"


def test_an_option_that_only_python_can_write(tmp_path, monkeypatch):
    (tmp_path / "lambda_losses.py").write_text("def bent(scene, *, by=None):\n    return by(scene)\n")
    monkeypatch.syspath_prepend(tmp_path)
    losses = {"lambda_losses:bent": {"by": lambda scene: 2.0}}
    terms = load_config({"losses": losses, "stages": {"refine": {}}}).terms()
    assert terms["lambda_losses:bent"].options["by"](None) == 2.0


def test_a_foreign_loss_is_named_by_module(tmp_path, monkeypatch):
    (tmp_path / "their_losses.py").write_text("def tidy(scene, *, size: float = 2.0):\n    return scene\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = load_config({"losses": {"their_losses:tidy": {"size": 3}}, "stages": {"refine": {}}})
    assert config.terms()["their_losses:tidy"].options == {"size": 3.0}
    with pytest.raises(ConfigError, match="cannot import 'untidy'"):
        load_config({"losses": {"their_losses:untidy": 1}, "stages": {"refine": {}}})


def test_optional_losses_wish_for_features_but_do_not_need_them():
    config = load_config("default")
    assert "contact" in config.wishes and "contact" not in config.features
    with pytest.raises(ConfigError, match=r"optional: 3 is neither true nor false"):
        load_config("default", ["losses.spring_length.optional=3"])
