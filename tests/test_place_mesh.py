"""A known mesh laid into a reconstructed surface."""

from __future__ import annotations

import pytest
import torch

from horefine.extractors.place_mesh import place_mesh
from horefine.extractors.surface import extract_surface
from horefine.geometry import axis_angle_to_matrix
from horefine.objects import embedded_object


@pytest.mark.parametrize("name", ["drill", "mug", "banana"])
def test_an_object_is_found_in_its_own_surface_from_any_orientation(name):
    mesh = embedded_object(name)
    torch.manual_seed(len(name))
    turn = axis_angle_to_matrix(torch.randn(3) * 1.5)
    place = torch.tensor([0.05, -0.1, 0.6])

    def distance(points):
        return mesh.grid.sample(((points - place) @ turn)[None])[0]

    surface = extract_surface(distance, place - 0.18, place + 0.18, 48)
    found, where = place_mesh(mesh, surface)
    vertices = mesh.vertices[0]
    exact, placed = vertices @ turn.T + place, vertices @ found.T + where
    assert torch.cdist(exact, placed).amin(1).mean() < 0.002
    assert (exact - placed).norm(dim=1).mean() < 0.004
