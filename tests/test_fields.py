"""What ``benchmarks.fields`` compares with."""

from __future__ import annotations

import pytest
import torch

from benchmarks.fields import COUNTER, Meter, crossings, level_distance, shared


def test_zero_levels_are_compared_where_they_cross_edges() -> None:
    steps = torch.arange(17) * 0.01 - 0.08
    nodes = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1)
    levels = []
    for radius in (0.05, 0.0503):
        found = crossings(nodes.norm(dim=-1) - radius, torch.full((3,), -0.08), torch.tensor(0.01))
        assert abs(torch.from_numpy(found).norm(dim=-1) - radius).max() < 3e-4  # linear along an edge
        levels.append(found)
    assert level_distance(levels[0], levels[0]) == {"level_max_mm": 0.0, "level_p99_mm": 0.0}
    away = level_distance(*levels)
    assert 0.3 < away["level_p99_mm"] <= away["level_max_mm"] < 5  # where an edge grazes the sphere
    assert level_distance(levels[0], levels[0][:0])["level_max_mm"] == float("inf")


def test_points_that_both_ways_choose() -> None:
    places = torch.rand(8, 3)
    assert shared(places, places.flip(0)) == 1
    assert shared(places, torch.cat([places[:2], places[2:] + 0.1])) == pytest.approx(0.25)


def test_queries_belong_to_the_way_that_asks() -> None:
    decoder, meter = torch.nn.Identity(), Meter("points", "hand")
    COUNTER.watch(decoder)
    meter.run("dense", decoder, torch.zeros(2, 30))
    assert meter.run("coarse", lambda count: len(decoder(torch.zeros(count))), 6) == 6
    meter.photos = 1
    meter.note(level_max_mm=1.0, same_points=1.0)
    meter.note(level_max_mm=3.0, same_points=0.5)
    row = meter.row()
    assert (row["dense_queries"], row["queries"], row["fewer"]) == (60, 6, 10.0)
    assert (row["level_max_mm"], row["same_points"]) == (3.0, 0.75)
