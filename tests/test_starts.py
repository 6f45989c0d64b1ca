"""How many starts an image gets, where they lie, and that it does not matter who decided over their number."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from loss_scenes import hand_model, true_features, true_pose

from horefine import load_config, refine
from horefine.config import Align, Starts
from horefine.data.maps import disturb
from horefine.errors import ConfigError
from horefine.scene import PoseSpread
from horefine.starts import directions, needed

AUTO = Starts(count="auto", most=4, rotation=0.5, translation=0.02)


def spread(**columns: list[float]) -> torch.Tensor:
    count = len(next(iter(columns.values())))
    known = {f.name: torch.zeros(count) for f in dataclasses.fields(PoseSpread)}
    return PoseSpread(**{**known, **{name: torch.tensor(value) for name, value in columns.items()}}).stack()


def test_one_start_for_each_step_that_the_pose_may_be_off() -> None:
    sure = spread(hand_rotation=[0.1, 0.51, 0.1, 0.1, 9.0], wrist_depth=[0.02, 0.0, 0.041, 0.0, 0.0])
    assert needed(sure, AUTO, Align(), 5) == [1, 2, 3, 1, 4]
    lost = spread(object_rotation=[0.1, 1.1, torch.nan], object_center=[0.05, 0.0, 0.0])
    assert needed(lost, AUTO, Align(), 3) == [3, 3, 4]
    assert needed(lost, AUTO.model_copy(update={"rotation": 0.0, "translation": 0.0}), Align(), 3) == [1, 1, 1]


def test_what_is_not_known_gets_the_most_and_what_is_placed_anew_does_not_count() -> None:
    lost = spread(hand_rotation=[1.3], object_rotation=[2.0])
    assert needed(None, AUTO, Align(), 3) == [4, 4, 4]
    assert needed(lost, AUTO, Align(object="looks"), 1) == [3]
    assert needed(lost, AUTO, Align(object="looks", hand="codes"), 1) == [1]
    assert needed(None, AUTO, Align(object="looks", hand="codes"), 2) == [1, 1]


def test_further_starts_lie_one_step_away_and_come_again() -> None:
    many = directions(6, 3)
    assert torch.equal(directions(6, 3), many) and not many[0].any()
    torch.testing.assert_close(many[1:].norm(dim=-1), torch.ones(5, 4))
    assert not torch.equal(directions(6, 4), many)


@pytest.mark.parametrize(
    ("recipe", "short"),
    [
        ("adam", ["stages.correspond.steps=6", "stages.render.steps=4"]),
        ("default", ["stages.correspond.steps=3", "stages.settle.steps=2", "stages.render.steps=2"]),
    ],
)
def test_auto_gives_what_a_fixed_number_gives(recipe: str, short: list[str]) -> None:
    center = true_features().object.center
    pose = disturb(true_pose(), 8, 60.0, 10.0, 5.0, model=hand_model(), object_center=center)
    table = ["starts.rotation=0.5", "starts.translation=0.02", *short]
    told = dataclasses.replace(true_features(), pose_spread=spread(hand_rotation=[0.1, 1.2, 0.2]))
    steps: list[tuple[int, int]] = []
    auto = refine(
        pose, told, load_config(recipe, ["starts.count=auto", "starts.most=3", *table]), hand_model=hand_model(),
        renderer="cpu", progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    near = 1e-4 if recipe == "adam" else 2e-3  # the normal equations amplify the last bit
    for images, count in (([0, 2], 1), ([1], 3)):
        chosen = torch.tensor(images)
        config = load_config(recipe, [f"starts.count={count}", *table])
        own = refine(pose[chosen], true_features()[chosen], config, hand_model=hand_model(), renderer="cpu")
        hands = [
            hand_model()(p.hand_rotvec, p.hand_shape, p.hand_transl).vertices for p in (own.pose, auto.pose[chosen])
        ]
        assert float((hands[0] - hands[1]).norm(dim=-1).max()) < near
        assert torch.allclose(own.pose.object_transl, auto.pose.object_transl[chosen], atol=near)
        assert [auto.status[i] for i in images] == list(own.status)
        ends = [found.history["total"][found.best_step, torch.arange(len(found))] for found in (own, auto)]
        assert torch.allclose(ends[0], ends[1][chosen], rtol=0.02)
        for name, values in own.history.items():  # of the same start: all losses begin alike
            assert torch.allclose(auto.history[name][0, chosen], values[0], rtol=1e-3, equal_nan=True), name
        assert own.sigma is not None and auto.sigma is not None
        for field in dataclasses.fields(own.sigma):
            together, alone = getattr(auto.sigma, field.name), getattr(own.sigma, field.name)
            assert (together is None) == (alone is None)
            assert alone is None or torch.allclose(together[chosen], alone, rtol=0.05)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps) and len({total for _, total in steps}) == 1


def test_the_recipe_asks_for_the_spread_only_when_it_decides() -> None:
    assert "pose_spread" in load_config("default", ["starts.count=auto"]).features
    assert "pose_spread" not in load_config("default", ["starts.count=3"]).features


@pytest.mark.parametrize("value", ["0", "many", "1.5", "true"])
def test_a_number_or_auto(value: str) -> None:
    with pytest.raises(ConfigError, match=r"starts.count: .*give a number of starts, 1 or more, or auto"):
        load_config("default", [f"starts.count={value}"])
