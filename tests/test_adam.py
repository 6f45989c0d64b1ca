"""Adam and the plateau against torch's own, row by row; rows never mix."""

import torch

from horefine.adam import Adam, Plateau


def test_equals_torch_adam():
    start = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    curvature = torch.tensor([1.0, 10.0, 0.1, 3.0, 0.5], dtype=torch.float64)
    theirs = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=0.03, eps=1e-12)
    ours, adam = start.clone(), Adam(torch.full((5,), 0.03, dtype=torch.float64))
    for _ in range(50):
        optimizer.zero_grad()
        (0.5 * curvature * theirs**2).sum().backward()
        optimizer.step()
        ours = ours + adam.step(curvature * ours)
    assert torch.allclose(ours, theirs.detach(), atol=1e-10)


def test_plateau_equals_torch_for_each_row_alone():
    losses = torch.rand(60, 4, generator=torch.Generator().manual_seed(1)) * torch.linspace(1, 0.7, 60)[:, None]
    ours = Plateau(4, patience=5, factor=0.1)
    mine = torch.stack([ours.update(row)[:, 0].clone() for row in losses])
    for row in range(4):
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=5, min_lr=0)
        for step in range(60):
            theirs.step(float(losses[step, row]))
            assert abs(optimizer.param_groups[0]["lr"] - float(mine[step, row])) < 1e-6 or mine[step, row] < 1e-7


def test_a_rate_of_zero_holds_still():
    adam = Adam(torch.tensor([0.1, 0.0]))
    assert adam.step(torch.ones(2, 2))[:, 1].eq(0).all()


def test_no_rate_falls_below_the_least_and_none_is_raised_from_zero():
    adam = Adam(torch.tensor([1e-2, 1e-3, 0.0]), least=1e-4)
    first = adam.step(torch.ones(2, 3), torch.tensor([[1.0], [0.05]]))
    expected = -torch.tensor([[1e-2, 1e-3, 0.0], [5e-4, 1e-4, 0.0]])
    assert torch.allclose(first, expected, rtol=1e-5, atol=0)
