"""The official lattice by branch and bound: the same points as by asking all of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from horefine.extractors.hoisdf_official import OfficialHoisdf
from horefine.extractors.official_initial import OfficialInitializer
from horefine.extractors.official_sampling import choose_points, nearest_points, official_lattice
from horefine.hand import load_hand

MATRIX = torch.tensor([[300.0, 0, 128], [0, 300, 128], [0, 0, 1]])
CENTER = torch.tensor([0.0, 0, 0.7])
TURN = torch.linalg.matrix_exp(torch.tensor([[0.0, -0.7, 0.4], [0.7, 0, -0.3], [-0.4, 0.3, 0]]))


def plate(points: Tensor) -> Tensor:
    out = (points @ TURN).abs() - torch.tensor([0.3, 0.25, 0.004])
    return out.clamp(min=0).norm(dim=-1) + out.amax(-1).clamp(max=0)


def two_balls(points: Tensor) -> Tensor:
    first = (points - torch.tensor([0.21, 0.03, 0])).norm(dim=-1) - 0.15
    return torch.minimum(first, (points + torch.tensor([0.3, 0.11, 0.07])).norm(dim=-1) - 0.05)


FIELDS = {
    "ball": lambda points: (points - 0.0123).norm(dim=-1) - 0.4,
    "two_balls": two_balls,
    "plate": plate,
    "flat": lambda points: 0.4 * two_balls(points),
    "steep": lambda points: (3 * two_balls(points)).tanh(),
    "saturated": lambda points: 0.15 * (two_balls(points) / 0.15).tanh(),
}


@pytest.mark.parametrize("lattice", ["sheared", "regular"])
@pytest.mark.parametrize("name", FIELDS)
def test_the_same_points_for_less(name: str, lattice: str) -> None:
    nodes, queries = official_lattice(lattice), {"dense": 0, "coarse_to_fine": 0}
    found = {}
    for search in queries:

        def asked(points: Tensor, search: str = search) -> tuple[Tensor, Tensor]:
            queries[search] += len(points)
            return FIELDS[name](points), points

        row = (nodes, CENTER, 3.1, MATRIX, torch.tensor([30.0, 20, 220, 246]), 200)
        found[search] = choose_points(asked, *row, search=search)
    dense, sparse = found["dense"], found["coarse_to_fine"]
    same = set(dense.index.tolist()) & set(sparse.index.tolist())
    # points at one distance may stand for each other; nothing nearer may be missed
    assert len(same) >= 196
    assert torch.allclose(dense.distance.abs().sort().values, sparse.distance.abs().sort().values, atol=1e-6)
    assert bool((sparse.index.diff() > 0).all()) and bool((sparse.asked.diff() > 0).all())
    assert torch.equal(sparse.distances, FIELDS[name](nodes[sparse.asked]))
    assert torch.equal(sparse.features, nodes[sparse.index])
    assert queries["coarse_to_fine"] * 5 < queries["dense"]


def test_few_points_are_all_asked() -> None:
    places, asked = official_lattice("regular", 8)[:40], []

    def ask(which: Tensor) -> Tensor:
        asked.extend(which.tolist())
        return places[which].norm(dim=-1)

    numbers, values = nearest_points(ask, places, 40, 2 / 7)
    assert numbers.tolist() == list(range(40)) and sorted(asked) == list(range(40))
    assert torch.equal(values, places.norm(dim=-1))


def test_noise_is_nearly_all_asked() -> None:
    """No distance at all, so nothing is promised: what is asked raises the slope, most is asked, little is missed."""
    places = official_lattice("regular", 16)
    field = torch.randn(len(places), generator=torch.Generator().manual_seed(0))
    numbers, values = nearest_points(lambda which: field[which], places, 50, 2 / 15)
    assert torch.equal(values, field[numbers])
    missed = field.abs() <= field.abs().kthvalue(50).values
    missed[numbers] = False
    assert int(missed.sum()) <= 2 and len(numbers) > len(places) / 2


def test_other_searches_are_refused() -> None:
    with pytest.raises(ValueError, match="search is 'sparse'; known: dense, coarse_to_fine"):
        choose_points(
            lambda x: (x[:, 0], x), official_lattice(), CENTER, 3.1, MATRIX, torch.zeros(4), 1, search="sparse"
        )
    with pytest.raises(ValueError, match="search is 'sparse'; known: dense, coarse_to_fine"):
        OfficialInitializer(OfficialHoisdf.__new__(OfficialHoisdf), "cpu", load_hand(kind="embedded"), search="sparse")
