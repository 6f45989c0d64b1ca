"""Adam's step in place, as a GPU would record it: the walk of the readable twin, wherever it is recorded or not."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from loss_scenes import hand_model, make_scene, true_features, true_pose
from test_torch_device import Elsewhere, draw

from horefine import captured, contact_truth, load_config, refine
from horefine.captured import walk_captured
from horefine.data.maps import disturb
from horefine.descent import Eager, Search, Walked, walk_eagerly
from horefine.errors import ConfigError
from horefine.factors import chart_for
from horefine.losses import contact, prior
from horefine.objective import Objective, prepare, usable
from horefine.render import RENDERERS, fixed, fixed_faces, make_renderer
from horefine.scene import Pose, Scene


def start() -> Pose:
    center = true_features().object.center
    return disturb(true_pose(), 3, 8.0, 10.0, 5.0, model=hand_model(), object_center=center)


def eager(recipe: str) -> Eager:
    ready = make_scene(start(), true_features())

    def scene_of(pose: Pose) -> Scene:
        return dataclasses.replace(ready, pose=pose)

    terms = load_config(recipe).terms()
    objective = Objective(terms, prepare(terms, true_features(), hand_model())).settle(ready)
    return Eager(objective, scene_of, chart_for("tangent", ()))


def search(**options: Any) -> Search:
    rates = {"hand_transl": 0.002, "hand_rotation": 0.01, "fingers": 0.01, "object_transl": 0.002}
    known = dict.fromkeys(chart_for("tangent", ()).blocks, 0.003)
    return Search(
        [1.0, 0.9, 0.8, 0.7, 0.6, 0.5], {**known, **{k: v for k, v in rates.items() if k in known}}, **options
    )


def same(one: Walked, two: Walked) -> None:
    assert torch.equal(one.best_step, two.best_step)
    for (name, a), (_, b) in zip(one.pose.items(), two.pose.items(), strict=True):
        assert torch.allclose(a, b, atol=2e-6), name
    assert len(one.history) == len(two.history) == 6
    for first, second in zip(one.history, two.history, strict=True):
        assert list(first) == list(second)
        for name, value in first.items():
            assert torch.allclose(value, second[name], rtol=2e-4, atol=1e-6), name


@pytest.mark.parametrize("recipe", ["adam", "song2022"])
@pytest.mark.parametrize("options", [{}, {"patience": 1, "cut": 0.5}, {"least": 0.0025, "keep_last": True}])
def test_the_walk_of_the_twin(recipe: str, options: dict[str, Any]) -> None:
    one, two = (
        walk(eager(recipe), start(), search(**options), lambda _: None) for walk in (walk_eagerly, walk_captured)
    )
    same(one, two)
    assert all(float((a - b).abs().max()) > 0 for (_, a), (_, b) in zip(start().items(), two.pose.items(), strict=True))


def test_a_row_that_is_not_finite_stands_still() -> None:
    pose = start()
    pose.hand_transl[1, 0] = torch.nan
    found = walk_captured(eager("adam"), pose, search(), lambda _: None)
    assert found.pose.hand_transl[1, 0].isnan() and torch.equal(found.pose.hand_shape[1], pose.hand_shape[1])
    fine = walk_captured(eager("adam"), start(), search(), lambda _: None)
    assert torch.allclose(found.pose.object_transl[[0, 2]], fine.pose.object_transl[[0, 2]], atol=2e-6)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.SimpleNamespace]:
    """In the place of CUDA's: records by keeping the step, plays it back by doing it."""
    seen = types.SimpleNamespace(recorded=0, played=0, refuse=False)

    class Graph:
        def replay(self) -> None:
            seen.played += 1
            seen.step()

    class Stream:
        def wait_stream(self, other: Any) -> None:
            pass

    @contextlib.contextmanager
    def graph(_: Any) -> Iterator[None]:
        seen.recorded += 1
        if seen.refuse:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        yield

    monkeypatch.setattr(captured.torch, "cuda", types.SimpleNamespace(
        Stream=Stream, current_stream=Stream, stream=lambda _: contextlib.nullcontext(), CUDAGraph=Graph, graph=graph,
    ))  # fmt: skip
    yield seen


@pytest.mark.parametrize("refuse", [False, True])
def test_recording_leaves_no_trace(
    refuse: bool, recorder: types.SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    """Warming up and recording do steps; the stage begins after them where it would have begun."""
    recorder.refuse = refuse
    walk = captured._Walk(eager("adam"), start(), search(patience=1))
    before = [tensor.clone() for tensor in walk.state]
    recorder.step = walk.step
    with caplog.at_level(logging.WARNING, "horefine"):
        step = captured._recorded(walk)
    assert recorder.recorded == 1 and ("cannot be recorded (operation not permitted" in caplog.text) == refuse
    assert all(torch.equal(a, b) for a, b in zip(before, walk.state, strict=True))
    for _ in range(6):
        step()
    walk.judge(*walk.eager.look(walk.pose))
    assert recorder.played == (0 if refuse else 6)
    same(walk_eagerly(eager("adam"), start(), search(patience=1), lambda _: None), walk.walked())


def test_a_chart_with_a_state_of_its_own_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.graph: true goes with optimizer\.parameters: tangent, not "):
        walk_captured(eager("adam"), start(), search(parameters="absolute"), lambda _: None)


def test_a_recipe_asks_for_it() -> None:
    words = [f"stages.{name}.steps=5" for name in load_config("adam").stages]
    results = [
        refine(start(), true_features(), load_config("adam", [*words, f"optimizer.{how}"]), hand_model=hand_model())
        for how in ("graph=true", "fused=false")
    ]
    for (name, a), (_, b) in zip(*(result.pose.items() for result in results), strict=True):
        assert torch.allclose(a, b, atol=5e-6), name
    assert torch.equal(results[0].best_step, results[1].best_step)


@pytest.mark.parametrize("recipe", ["adam", "song2022"])
def test_a_step_asks_the_device_nothing(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, which answers nothing (``test_torch_device``), with the renderer that asks nothing."""
    monkeypatch.setitem(RENDERERS, "torch", lambda: draw)
    features, model, first = true_features(), hand_model(), start()
    renderer = make_renderer(model.faces, model.codes, features.object, features.camera, "torch")
    terms = usable(load_config(recipe).terms(), features)
    objective = Objective(terms, prepare(terms, features, model)).settle(Scene(first, first, features, model, renderer))

    def scene_of(pose: Pose) -> Scene:
        return Scene(pose, first, features, model, renderer)

    walk = captured._Walk(Eager(objective, scene_of, chart_for("tangent", ())), first, search(patience=2))
    walk.step()  # measures what has to be measured once
    there: Any = Elsewhere("meta")
    for rooms in (fixed._rooms, fixed_faces._rooms):
        known = rooms.get(renderer.topology.unpacked, {})
        rooms[there(renderer.topology.unpacked)] = dict(known)
    known = [(contact, "hand_surface"), (contact_truth, "region_anchors"), (prior, "relaxed_angles")]
    for module, name in known:  # found once for a hand model
        found = there(getattr(module, name)(model))
        monkeypatch.setattr(module, name, lambda model, found=found: found)
    model, features, first, renderer, objective = map(there, (model, features, first, renderer, objective))  # type: ignore[arg-type]
    for name, value in vars(walk).items():
        setattr(walk, name, value if name == "eager" else there(value))
    walk.eager = Eager(objective, scene_of, walk.eager.chart)
    walk.step()
    assert {value.device.type for value in walk.state} == {"meta"}
