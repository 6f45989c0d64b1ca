"""How far off predictions may be: whether what is expected comes true, and the spread of a first pose."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from horefine.data import Sample
from horefine.extractors.batches import Batch
from horefine.extractors.hoisdf import Hoisdf, HoisdfConfig, Prediction
from horefine.extractors.initial import HoisdfInitializer
from horefine.extractors.measures import calibration, errors_of
from horefine.extractors.root import KnownWrist
from horefine.extractors.spread import SHIPPED, disagreement, spread_of
from horefine.extractors.unet import UNetConfig
from horefine.geometry import Camera
from horefine.objects import embedded_object
from horefine.scene import PoseSpread


def test_true_expectations_are_called_true() -> None:
    """Laplace errors of the scale that was expected."""
    generator = torch.Generator().manual_seed(0)
    expected = torch.rand(40000, generator=generator) + 0.05
    uniform = torch.rand(40000, generator=generator)
    found = calibration(expected, -expected * uniform.log())  # |Laplace| is exponential
    assert found["ratio"] == pytest.approx(1, abs=0.03) and found["worst_decile"] == pytest.approx(1, abs=0.05)
    assert 0.3 < found["rank"] < 0.6 and 0.4 < found["sure_half"] < 0.7


def test_calibration_in_closed_form() -> None:
    error = torch.arange(1.0, 11.0)
    exact = calibration(error, error)
    assert exact == pytest.approx({"ratio": 1, "rank": 1, "worst_decile": 1, "sure_half": 3 / 5.5})
    backwards = calibration(error.flip(0) * 2, error)
    assert backwards["ratio"] == pytest.approx(0.5) and backwards["rank"] == pytest.approx(-1)
    assert backwards["worst_decile"] == pytest.approx(1 / 20) and backwards["sure_half"] == pytest.approx(8 / 5.5)
    assert all(math.isnan(value) for value in calibration(torch.empty(0), torch.empty(0)).values())


def test_errors_of_a_pose_in_closed_form() -> None:
    """The wrist 3 cm deeper and 4 cm aside of (0, 0, 0.5); hand turned by 0.2, object by 0.3 rad."""
    eye = torch.eye(3)[None]
    turn = torch.matrix_exp(torch.tensor([[[0.0, -0.3, 0], [0.3, 0, 0], [0, 0, 0]]]))
    hand = torch.zeros(1, 16, 3)
    true = object.__new__(Batch)
    true.__dict__.update(
        joints=torch.tensor([[[0.0, 0, 0.5]]]), object_center=torch.zeros(1, 3),
        pose=SimpleNamespace(hand_rotvec=hand, object_rotvec=torch.zeros(1, 3)),
    )  # fmt: skip
    turned = hand.clone()
    turned[:, 0, 1] = 0.2
    found = SimpleNamespace(
        wrist=torch.tensor([[0.04, 0, 0.53]]), hand_rotvec=turned, object_rotation=turn @ eye,
        object_center=torch.tensor([[0.0, 0.06, 0.08]]),
    )  # fmt: skip
    errors = errors_of(found, true).stack()  # type: ignore[arg-type]
    torch.testing.assert_close(errors, torch.tensor([[0.2, 0.03, 0.04, 0.3, 0.1]]), atol=1e-4, rtol=1e-4)


def predicted(votes: torch.Tensor, before: torch.Tensor | None = None) -> Prediction:
    """Votes "B N 20 3" of equal weight, and the joints of the layer before."""
    joints = votes.mean(1)
    layers = joints[None] if before is None else torch.stack([before, joints])
    count, batch = len(layers), len(votes)
    return Prediction(
        torch.eye(3).expand(1, batch, 16, 3, 3), torch.zeros(1, batch, 10), votes.expand(count, *votes.shape),
        torch.zeros(count, *votes.shape[:-1]), layers, torch.eye(3).expand(1, batch, 3, 3), torch.zeros(1, batch, 3),
    )  # fmt: skip


def test_votes_that_differ_and_layers_that_move_are_disagreement() -> None:
    votes = torch.zeros(2, 2, 20, 3)
    votes[0, 0, :, 0], votes[0, 1, :, 0] = 0.03, -0.03  # 3 cm on either side of the mean
    torch.testing.assert_close(disagreement(predicted(votes)), torch.tensor([0.03, 0.0]))
    moved = votes.mean(1) + torch.tensor([0.0, 0.01, 0.0])
    torch.testing.assert_close(disagreement(predicted(votes, moved)), torch.tensor([0.05, 0.02]))


def test_spread_grows_with_distance_and_what_is_known_is_not_off() -> None:
    wrist = torch.tensor([[0.0, 0, 0.5], [0, 0, 1.0], [0, 0, 1.0]])
    nothing = torch.nan
    known = KnownWrist(
        torch.tensor([[nothing] * 3, [nothing, nothing, 1.0], [0.0, 0, 1.0]]), torch.full((3, 2), nothing)
    )
    votes = predicted(torch.zeros(3, 2, 20, 3))
    free, told = spread_of(votes, wrist), spread_of(votes, wrist, known)
    torch.testing.assert_close(free.wrist_depth, SHIPPED.wrist_depth * torch.tensor([0.5, 1, 1]))
    torch.testing.assert_close(free.object_center, SHIPPED.object_center * torch.tensor([0.5, 1, 1]))
    assert told.wrist_depth.tolist() == [free.wrist_depth[0], 0, 0]
    assert told.wrist_across.tolist() == [free.wrist_across[0], free.wrist_across[1], 0]
    columns = free.stack()
    assert columns.shape == (3, 5) and torch.equal(PoseSpread.of(columns).wrist_depth, free.wrist_depth)


def test_the_spread_comes_with_the_pose_and_not_without() -> None:
    torch.manual_seed(0)
    config = HoisdfConfig(
        width=8, unet=UNetConfig((16, 16, 8), (16, 16, 8), (), 16, ()), hidden=64, feedforward=64, token_mlp=(32,),
        field_mlp=(32, 16), field_width=64, hand_points=24, object_points=16,
    )  # fmt: skip
    initializer = HoisdfInitializer(model=Hoisdf(config).eval())
    camera = Camera(torch.tensor([[[500.0, 0, 60], [0, 500, 200], [0, 0, 1]]]), (256, 256))
    crops = [Sample(name, torch.rand(3, 256, 256), camera, embedded_object("mug")) for name in "ab"]
    pose, fields = initializer.initialize(crops)
    assert set(fields) == {"pose_spread"} and fields["pose_spread"].shape == (2, 5)
    assert (fields["pose_spread"] > 0).all() and fields["pose_spread"].isfinite().all()
    alone = initializer.initialize(crops[1:])[1]["pose_spread"]
    torch.testing.assert_close(fields["pose_spread"][1:], alone, atol=1e-5, rtol=1e-3)
    assert initializer.extract(crops, ["pose_spread"]) == {"pose_spread": None}
    assert len(pose) == 2
