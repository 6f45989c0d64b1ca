"""Acceleration, its error and jitter in closed form."""

import math

import torch

from horefine.metrics import acceleration, acceleration_error, jitter


def test_even_motion_has_none_and_a_parabola_its_own() -> None:
    time = torch.arange(7.0)[:, None, None]
    line = torch.tensor([0.01, 0.02, -0.03]) * time + torch.rand(1, 5, 3)
    torch.testing.assert_close(acceleration(line), torch.zeros(5), atol=1e-3, rtol=0)
    bend = line + torch.tensor([0.003, 0.0, 0.004]) * time**2 / 2
    torch.testing.assert_close(acceleration(bend), torch.full((5,), 5.0), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(jitter(bend), torch.zeros(4), atol=2e-3, rtol=0)
    cubic = line + torch.tensor([0.0, 0.001, 0.0]) * time**3 / 6
    torch.testing.assert_close(jitter(cubic), torch.ones(4), atol=2e-3, rtol=1e-3)


def test_a_shift_costs_nothing_and_noise_sqrt_6() -> None:
    """Of a point off by independent noise of size s a coordinate: E|second difference| = s sqrt(6) 2 sqrt(2 / pi)."""
    generator = torch.Generator().manual_seed(0)
    true = torch.cumsum(torch.rand(2000, 8, 3, generator=generator) * 0.01, 0)
    torch.testing.assert_close(acceleration_error(true + 0.02, true), torch.zeros(1998), atol=1e-2, rtol=0)
    noisy = true + 0.001 * torch.randn(true.shape, generator=generator)
    expected = math.sqrt(6) * 2 * math.sqrt(2 / math.pi)
    torch.testing.assert_close(acceleration_error(noisy, true).mean(), torch.tensor(expected), rtol=0.03, atol=0)


def test_a_missing_frame_spoils_what_it_is_part_of() -> None:
    points = torch.zeros(6, 2, 3)
    points[2] = torch.nan
    assert acceleration(points).isnan().tolist() == [True, True, True, False]
    assert acceleration(torch.zeros(2, 4, 3)).shape == (0,) and jitter(torch.zeros(1, 4, 3)).shape == (0,)
