"""The surface points that pixels name, found in torch for a batch, against the walk through each surface's tree."""

import dataclasses

import numpy as np
import pytest
import torch
from loss_scenes import hand_model, true_features

from horefine.data.maps import corrupt
from horefine.losses import torch_pairs
from horefine.losses.pairs import find_surface_pairs
from horefine.losses.sampling import closest_on_triangles


def by_both(features, most):
    """The fields by torch, and the tree's pairs."""
    model, thing = hand_model(), features.object
    names = ("hand_mask", "object_mask", "hand_coords", "object_coords", "depth")
    maps = [getattr(features, name) for name in names]
    found = torch_pairs.paired(
        (model.codes, model.faces), (thing.codes, thing.faces), thing.counts[:, 1],
        torch.stack(maps[:2], 1), torch.stack(maps[2:4], 1), maps[4], most,
    )  # fmt: skip
    return found, find_surface_pairs(model, thing, *maps, max_pixels=most)


def named(codes, index, weights):
    """Code of the surface points."""
    corners = codes.gather(1, index.flatten(1)[..., None].expand(-1, -1, 3)).unflatten(1, index.shape[1:])
    return (corners * weights[..., None]).sum(2)


@pytest.mark.parametrize("level", ["exact", "n05"])
@pytest.mark.parametrize("most", [1000, 37])
def test_the_same_pixels_name_the_same_points(level, most, monkeypatch):
    features, model = corrupt(true_features(), level, 3), hand_model()
    unseen = features.object_mask * torch.tensor([1.0, 0.0, 1.0])[:, None, None]  # one sees no object
    features = dataclasses.replace(features, object_mask=unseen)
    mine, twin = by_both(features, most)
    assert {name: value.shape for name, value in mine.items()} == {name: getattr(twin, name).shape for name in mine}
    for name in ("pixel", "depth", "valid"):
        assert torch.equal(mine[name], getattr(twin, name)), name
    assert torch.allclose(mine["distance"], twin.distance, atol=1e-6)
    assert twin.valid[1, 1].sum() == 0 < twin.valid[0, 1].sum()
    for side, codes in enumerate((model.codes.expand(3, -1, -1), features.object.codes)):
        points = [named(codes, index[:, side], weights[:, side]) for index, weights in (
            (mine["vertices"], mine["barycentric"]), (twin.vertices, twin.barycentric)
        )]  # fmt: skip
        assert torch.allclose(*points, atol=1e-4)
    monkeypatch.setattr(torch_pairs, "BYTES", 2**20)
    again = by_both(features, most)[0]
    assert all(torch.equal(again[name], value) for name, value in mine.items())


def test_padding_of_a_mesh_is_nowhere():
    """Faces past the real ones are not looked at, though their corner may be the nearest there is."""
    corners = torch.rand(2, 6, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    corners[1, 4:] = 0.0
    points = torch.zeros(2, 5, 3).double()
    distance, face, weights = torch_pairs.nearest_on_faces(points, corners, torch.tensor([6, 4]))
    assert (face[1] < 4).all() and (distance[1] > 0).all()
    exact = closest_on_triangles(np.zeros((2, 6, 3)), corners.numpy())
    gap = np.linalg.norm((exact[..., None] * corners.numpy()).sum(2), axis=-1)
    assert np.allclose(distance[:, 0], [gap[0].min(), gap[1, :4].min()])
    assert torch.allclose(weights.sum(-1), torch.ones(2, 5).double()) and (weights > -1e-9).all()


def test_distances_are_those_of_numpy_in_every_region():
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(1, 12, 3, 3, generator=generator).double()
    corners[0, 3, 2] = corners[0, 3, 1]  # degenerate ones
    corners[0, 4, 1:] = corners[0, 4, :1]
    points = torch.rand(1, 400, 3, generator=generator).double() * 3 - 1
    for one in range(12):
        distance, _, weights = torch_pairs.nearest_on_faces(points, corners[:, one : one + 1], torch.tensor([1]))
        own = np.broadcast_to(corners[0, one].numpy(), (400, 3, 3))
        exact = closest_on_triangles(points[0].numpy(), own)
        gap = np.linalg.norm((exact[..., None] * own).sum(1) - points[0].numpy(), axis=-1)
        assert np.allclose(distance[0], gap, atol=1e-12), one
        place = (weights[0, :, :, None] * corners[0, one]).sum(1)
        assert torch.allclose((place - points[0]).norm(dim=-1), distance[0])


def test_nothing_seen_is_a_list_of_one_that_does_not_count():
    blank = torch.zeros(2, 4, 4)
    index, valid = torch_pairs.choose_pixels(blank, blank, 10)
    assert index.shape == (2, 2, 1) and valid.sum() == 0 and index.sum() == 0
