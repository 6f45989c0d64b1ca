"""Confidence maps: what they weigh in each loss, in both of its forms, and how they come in."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
import torch
from loss_scenes import SIZE, hand_model, make_scene, objective_of, true_features, true_pose
from torch import Tensor

from horefine import load_config, refine
from horefine.data import Sample
from horefine.data.maps import disturb
from horefine.errors import ConfigError, InputError
from horefine.exchange import read_features
from horefine.extractors.encoder_decoder import FeatureConfig, FeatureNet
from horefine.extractors.maps import MapExtractor, confidence
from horefine.geometry import Camera
from horefine.levenberg_marquardt import Workspace, forms_of, normal_equations
from horefine.losses.robust import Residuals, mad
from horefine.objective import parse_terms
from horefine.objects import embedded_object
from horefine.render import OUTPUTS, make_renderer
from horefine.scene import CONFIDENCES, Features, Pose, Scene
from horefine.tangent import CHARTS

LOSSES: dict[str, dict[str, Any]] = {
    "surface_reprojection": {"sigma": 1.0, "kernel": 10.0},
    "surface_depth": {"sigma": 0.005, "kernel": 10.0},
    "rendered_code": {"sigma": 0.01, "kernel": 3.0},
    "rendered_depth": {"sigma": 0.01, "kernel": 3.0},
}
CODES = ("hand_coords", "object_coords")
DOUBLE = torch.float64


@functools.lru_cache(maxsize=1)
def start() -> Pose:
    center = true_features().object.center
    return disturb(true_pose(), 3, 12.0, 10.0, 8.0, model=hand_model(), object_center=center)


def trusting(features: Features, value: Tensor | float) -> Features:
    """With this confidence in every map."""
    depth = given(features.depth)
    trust = torch.as_tensor(value, dtype=depth.dtype).expand_as(depth).contiguous()
    return dataclasses.replace(features, **dict.fromkeys(CONFIDENCES.values(), trust))


@functools.lru_cache(maxsize=1)
def uneven() -> Features:
    """Another confidence at every pixel, 0 at some."""
    depth = given(true_features().depth)
    trust = {
        name: (torch.rand(depth.shape, generator=torch.Generator().manual_seed(k)) * 1.3 - 0.2).clamp(0, 1)
        for k, name in enumerate(CONFIDENCES.values())
    }
    return dataclasses.replace(true_features(), **trust)


def given(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def value_and_slope(name: str, features: Features, **options: Any) -> tuple[Tensor, Tensor]:
    pose = start().map(lambda value: value.clone().requires_grad_())
    value = objective_of(name, features, **options).evaluate(make_scene(pose, features, start()))[name]
    leaves = [v for _, v in pose.items()]
    slopes = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
    return value.detach(), torch.cat([s.flatten(1) for s in slopes if s is not None], 1)


def spoiled(features: Features, where: Tensor, seed: int) -> Features:
    """Nonsense in all maps inside ``where`` "B H W"."""
    generator = torch.Generator().manual_seed(seed)
    changes = {}
    for name in CONFIDENCES:
        value = getattr(features, name)
        mask = where if value.dim() == 3 else where[:, None]
        changes[name] = torch.where(mask, torch.rand(value.shape, generator=generator) * 0.5, value)
    return dataclasses.replace(features, **changes)


# --- the losses -------------------------------------------------------------------------------------------------------


def test_confidence_of_an_expected_error() -> None:
    found = confidence(torch.tensor([0.0, 0.01, 0.02, 0.04, 0.2]), 0.02)
    torch.testing.assert_close(found, torch.tensor([1, 1, 1, 0.25, 0.01]))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("auto", [False, True])
def test_full_confidence_is_none_and_switched_off_is_none(name: str, auto: bool) -> None:
    options = {**LOSSES[name], "sigma": "auto"} if auto else LOSSES[name]
    options = {**options, "repeats": "auto"} if auto and "rendered" in name else options
    plain, slope = value_and_slope(name, true_features(), **options)
    full, same = value_and_slope(name, trusting(true_features(), 1.0), **options)
    off, alike = value_and_slope(name, uneven(), **options, confidence=False)
    on, _ = value_and_slope(name, uneven(), **options)
    assert torch.equal(plain, full) and torch.equal(slope, same)
    assert torch.equal(plain, off) and torch.equal(slope, alike)
    assert (on != plain).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_pixel_without_confidence_says_nothing(name: str) -> None:
    """Neither to the value nor to the slope nor to an automatic sigma, whatever stands in the maps there."""
    where = torch.zeros(3, *SIZE, dtype=torch.bool)
    where[..., 22:] = True
    options = {**LOSSES[name], "sigma": "auto"}
    seen = trusting(true_features(), torch.where(where, 0.0, 1.0))
    one, other = (value_and_slope(name, spoiled(seen, where, seed), **options) for seed in (0, 1))
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    assert (one[1].norm(dim=1) > 0).all()
    blind = [value_and_slope(name, spoiled(seen, where, seed), **options, confidence=False)[0] for seed in (0, 1)]
    assert not torch.equal(*blind)


@pytest.mark.parametrize("name", LOSSES)
def test_both_forms_agree_and_rows_are_the_slope(name: str) -> None:
    """At a pose off the truth, confidences uneven: cost = loss; 2 J'r = the slope of the cost along random steps."""
    features, model, pose = uneven().to(dtype=DOUBLE), hand_model().to(dtype=DOUBLE), start().to(dtype=DOUBLE)
    renderer = make_renderer(model.faces, model.codes, features.object, features.camera, "torch", want=OUTPUTS)
    scene = Scene(pose, pose, features, model, renderer)
    whole = objective_of(name, features, model, **LOSSES[name])
    form = forms_of(whole, scene)[name].freeze(scene)
    torch.testing.assert_close(form.cost(scene), whole.evaluate(scene)[name], rtol=1e-5, atol=0.0)
    right, normal = np.zeros((3, 67)), np.zeros((3, 67, 67))
    normal_equations(scene, {name: form}, torch.ones(3, dtype=torch.bool), Workspace(), normal, right)
    size = 1e-5
    for seed in range(4):
        step = torch.randn(3, 67, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
        moved = [
            form.cost(dataclasses.replace(scene, pose=CHARTS["tangent"].move(scene, s * size))) for s in (step, -step)
        ]
        slope = (moved[0] - moved[1]) / (2 * size)
        along = 2 * (torch.from_numpy(right) * step).sum(1)
        scale = 2 * np.abs(right).max(1)
        assert (np.abs((slope - along).numpy()) < 2e-3 * scale).all(), (slope, along)


def test_squares_without_confidence_are_those_with_full_confidence() -> None:
    for name, options in LOSSES.items():
        found = []
        for features in (true_features(), trusting(true_features(), 1.0)):
            scene = make_scene(start(), features)
            whole = objective_of(name, features, **options)
            form = forms_of(whole, scene)[name].freeze(scene)
            right, normal = np.zeros((3, 67)), np.zeros((3, 67, 67))
            normal_equations(scene, {name: form}, torch.ones(3, dtype=torch.bool), Workspace(), normal, right)
            found.append((form.cost(scene).numpy(), right, normal))
        for one, other in zip(*found, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6 * np.abs(one).max())


def test_an_automatic_sigma_is_that_of_a_trusted_pixel() -> None:
    """Noise with 1/sqrt(w) times the sigma at each pixel: the spread found is the sigma, whatever the confidences."""
    generator = torch.Generator().manual_seed(0)
    trust = torch.rand(1, 2, 20000, generator=generator).clamp(0.05)
    noise = 0.01 * torch.randn(1, 2, 20000, 1, generator=generator) / trust.sqrt()[..., None]
    found = mad(Residuals(noise * trust.sqrt()[..., None], torch.ones_like(trust), torch.zeros(1, 2)), 1e-6)
    torch.testing.assert_close(found, torch.full((1, 2), 0.01), rtol=0.03, atol=0.0)


@pytest.mark.parametrize("name", LOSSES)
def test_with_an_automatic_sigma_only_ratios_count(name: str) -> None:
    options = {**LOSSES[name], "sigma": "auto"}
    features = uneven()
    fainter = {c: getattr(features, c) * 0.25 for c in CONFIDENCES.values()}
    whole, part = (value_and_slope(name, f, **options)[0] for f in (features, dataclasses.replace(features, **fainter)))
    torch.testing.assert_close(whole, part, rtol=1e-4, atol=0.0)
    fixed = [value_and_slope(name, f, **LOSSES[name])[0] for f in (features, dataclasses.replace(features, **fainter))]
    assert (fixed[1] < fixed[0]).all()


@pytest.mark.parametrize("name", LOSSES)
def test_an_image_does_not_depend_on_its_neighbours(name: str) -> None:
    options = {**LOSSES[name], "sigma": "auto"}
    together = objective_of(name, uneven(), **options).evaluate(make_scene(start(), uneven(), true_pose()))[name]
    alone = uneven()[torch.tensor([1])]
    value = objective_of(name, alone, **options).evaluate(make_scene(start()[1], alone, true_pose()[1]))[name]
    torch.testing.assert_close(together[1:2], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("recipe", ["default", "adam"])
def test_refinement_does_not_mind_nonsense_that_is_not_trusted(recipe: str) -> None:
    """Half of every map says one and the same wrong thing; its confidence tells."""
    where = torch.zeros(3, *SIZE, dtype=torch.bool)
    where[..., 20:30, :] = True
    wrong = spoiled(true_features(), where, 0)
    wrong = dataclasses.replace(
        wrong, **{n: torch.where(where[:, None], 0.3, getattr(wrong, n)) for n in CODES},
        depth=torch.where(where, 0.05, given(wrong.depth)),
    )  # fmt: skip
    shorter = ["stages.correspond.steps=50", "stages.render.steps=60"] if recipe == "adam" else []
    config = load_config(recipe, shorter)
    errors = []
    for features in (wrong, trusting(wrong, torch.where(where, 0.0, 1.0))):
        found = refine(start()[0], features[:1], config, hand_model=hand_model(), renderer="cpu").pose
        hands = [hand_model()(p.hand_rotvec, p.hand_shape, p.hand_transl).vertices for p in (found, true_pose()[0])]
        errors.append((hands[0] - hands[1]).norm(dim=-1).mean() * 1e3)
    assert errors[1] < 0.7 * errors[0], errors


# --- how they come in -------------------------------------------------------------------------------------------------


def test_recipes_take_the_confidences_of_the_maps_that_they_use() -> None:
    config = load_config("default")
    assert set(CONFIDENCES.values()) <= set(config.features)
    off = [f"losses.{name}.confidence=false" for name in LOSSES]
    assert not set(CONFIDENCES.values()) & set(load_config("default", off).features)
    assert not set(CONFIDENCES.values()) & set(load_config("song2022").features)  # as published
    assert not set(CONFIDENCES.values()) & set(load_config("pixels").features)  # switched off: measured, no help
    coded = ["losses.surface_depth=0", "losses.rendered_depth=0"]
    assert "depth_confidence" not in load_config("default", coded).features


def test_the_switch_is_true_or_false() -> None:
    with pytest.raises(ConfigError, match=r"losses.rendered_code.confidence: 3 is neither true nor false"):
        parse_terms({"rendered_code": {"confidence": 3}})


def test_confidences_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match=r"features.hand_confidence runs from 1.5 to 1.5"):
        refine(start(), trusting(true_features(), 1.5), "default", hand_model=hand_model())
    with pytest.raises(InputError, match=r"features.hand_confidence has NaN"):
        refine(start(), trusting(true_features(), torch.nan), "default", hand_model=hand_model())


@pytest.mark.parametrize("spread", [True, False])
def test_the_network_gives_them_where_it_says_how_far_off_it_may_be(spread: bool) -> None:
    torch.manual_seed(0)
    net = FeatureNet(FeatureConfig(width=8, decoder=(16, 16, 8), head_width=8, bins=0, spread=spread)).eval()
    camera = Camera(torch.tensor([[[500.0, 0, 60], [0, 500, 200], [0, 0, 1]]]), (256, 256))
    crops = [Sample("a", torch.rand(3, 256, 256), camera, embedded_object("mug"))]
    names = ["hand_coords", "depth", *CONFIDENCES.values()]
    found = MapExtractor(model=net).extract(crops, names)
    assert list(found) == names
    for name in CONFIDENCES.values():
        value = found[name]
        assert (value is not None) == spread
        assert value is None or (value.shape == (1, 64, 64) and 0 < value.min() <= value.max() <= 1)
    assert list(MapExtractor(model=net).extract(crops, ["hand_mask"])) == ["hand_mask"]


def test_files_may_carry_them(tmp_path) -> None:
    size = (4, 5)
    maps = {"hand_coords": np.zeros((3, *size)), "depth": np.zeros(size), "box": [0, 0, 50, 40]}
    photo, mesh = Camera.from_focal(100.0, (40, 50)), embedded_object("mug")

    def read(**more: Any) -> Features:
        np.savez(tmp_path / "a.npz", **{**maps, **more})
        return read_features(tmp_path / "a.npz", photo, mesh, (40, 50))

    trust = np.linspace(0, 1, 20).reshape(size)
    found = read(hand_confidence=trust)
    torch.testing.assert_close(found.hand_confidence, torch.tensor(trust, dtype=torch.float32)[None])
    assert found.depth_confidence is None
    for bad, said in (
        ({"hand_confidence": trust + 0.5}, "hand_confidence runs from 0.5 to 1.5"),
        ({"hand_confidence": np.where(trust > 0.9, np.nan, trust)}, "hand_confidence: 2 of 20 values are NaN"),
        ({"hand_confidence": trust[:2]}, "differ in size"),
        ({"object_confidence": trust}, "object_confidence without object_coords"),
    ):
        with pytest.raises(InputError, match=said):
            read(**bad)
