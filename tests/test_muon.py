"""Muon for networks: equal singular values, kernels as matrices in any memory order, AdamW for the rest, resume."""

from typing import Any

import torch
from torch import nn

from horefine.muon import Muon, is_matrix


def network(channels_last: bool) -> Any:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(16, 24, 3, bias=False), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 4, 1))
    return net.to(memory_format=torch.channels_last) if channels_last else net  # type: ignore[call-overload]


def groups(net: Any) -> list[dict]:
    return [{"params": list(net.parameters()), "weight_decay": 0.0}]


def advance(net: Any, optimizer: Muon, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(2, 16, 8, 8, generator=generator)).square().mean().backward()
        optimizer.step()


def test_a_matrix_moves_alike_in_all_its_directions() -> None:
    """The first step's singular values lie near one another (torch's iteration ends within about half of 1), at the
    size that match_rms_adamw gives: 0.2 sqrt(larger side) of the rate."""
    net = network(False)
    before = net[0].weight.detach().clone().flatten(1)
    optimizer = Muon(groups(net), lr=1e-2)
    advance(net, optimizer, 1, 0)
    moved = torch.linalg.svdvals((net[0].weight.detach().flatten(1) - before).double()) / (1e-2 * 0.2 * 144**0.5)
    assert 0.5 < moved.min() and moved.max() < 1.5
    assert is_matrix(net[0].weight) and not is_matrix(net[3].weight) and not is_matrix(net[1].weight)


def test_the_memory_order_of_kernels_does_not_matter() -> None:
    nets = [network(False), network(True)]
    for net in nets:
        advance(net, Muon(groups(net), lr=1e-2), 3, 1)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=3e-4, rtol=0)  # torch iterates in bfloat16
    assert not nets[1][0].weight.is_contiguous()


def test_what_is_no_matrix_walks_as_with_adamw() -> None:
    net, twin = network(False), network(False)
    for a in (net, twin):
        a[0].weight.requires_grad_(False)
    advance(net, Muon(groups(net), lr=1e-2), 4, 2)
    reference = torch.optim.AdamW(twin.parameters(), 1e-2, (0.9, 0.98), weight_decay=0.0)
    advance(twin, reference, 4, 2)  # type: ignore[arg-type]
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_it_goes_on_from_its_state() -> None:
    whole, halves = network(True), network(True)
    straight = Muon(groups(whole), lr=1e-2)
    advance(whole, straight, 2, 3)
    advance(whole, straight, 2, 4)
    first = Muon(groups(halves), lr=1e-2)
    advance(halves, first, 2, 3)
    second = Muon(groups(halves), lr=1e-2)
    second.load_state_dict(first.state_dict())
    advance(halves, second, 2, 4)
    for a, b in zip(whole.parameters(), halves.parameters(), strict=True):
        torch.testing.assert_close(a, b)
