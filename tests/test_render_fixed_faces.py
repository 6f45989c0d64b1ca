"""Visible faces in fixed shapes: those of the twin, and no question to the device after the first call."""

import pytest
import torch
from render_cases import box, camera, hand, open_hand, sphere, torus
from test_render_fixed import Questions, scene

from horefine.render import fixed, fixed_faces, twin
from horefine.render.fixed_faces import visible_faces_fixed


def parts_of(names, size, dtype=torch.float64, ahead=0.0):
    """What a finder of faces is given."""
    points, topology = scene(names, size, dtype)
    points[1, 2] = -0.1  # behind the camera: its faces are not drawn
    points = points + torch.tensor([0.0, 0.0, ahead], dtype=dtype)
    parts, matrix = topology.unpacked, camera(size, 90.0).to(dtype).repeat(len(topology), 1, 1)
    pixels, inverse = twin.project(points, parts.vertex_item, matrix)
    return pixels, inverse, twin.sides(pixels, inverse, parts.faces), parts, size


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(40, 56), (64, 64)])
@pytest.mark.parametrize("names", [(box,), (hand, torus, open_hand), (open_hand, box, sphere)])
def test_the_same_faces_as_the_twin(names, size, dtype):
    given = parts_of(names, size, dtype)
    found, expected = visible_faces_fixed(*given), twin.visible_faces(*given)
    assert torch.equal(found, expected) and found.dtype == expected.dtype
    assert 0.01 < (found >= 0).double().mean() < 0.99


def test_nothing_is_asked_after_the_first_call():
    given = parts_of((hand, torus), (40, 56))
    visible_faces_fixed(*given)
    with Questions() as asked:
        found = visible_faces_fixed(*given)
    assert not asked.found and (found >= 0).any()
    with Questions() as asked:
        twin.visible_faces(*given)
    assert asked.found, "the watch sees what the twin asks"


def test_the_torch_renderer_asks_no_other_device_than_the_cpu(monkeypatch):
    """On torch's meta device, which answers nothing, once it is known how much room there has to be."""
    points, topology = scene((hand, torus), (40, 56), torch.float32)
    matrix = camera((40, 56), 90.0).repeat(2, 1, 1)
    want = frozenset({"mask", "depth", "values"})
    for module in (fixed, fixed_faces):
        monkeypatch.setattr(module, "room", lambda *_: 5000)
    given = [value.to("meta") for value in (points, matrix)]
    found = twin.render(given[0], topology, given[1], (40, 56), given[0], want)
    here = twin.render(points, topology, matrix, (40, 56), points, want)
    assert [f.shape for f in found] == [h.shape for h in here] and {f.device.type for f in found} == {"meta"}


def test_nothing_visible_is_nothing_seen():
    assert (visible_faces_fixed(*parts_of((hand,), (16, 16), ahead=-5.0)) == -1).all()


def test_too_little_room_shows_nothing_rather_than_half(monkeypatch):
    given = parts_of((hand,), (64, 64))
    monkeypatch.setattr(fixed_faces, "room", lambda *_: 40)
    assert (visible_faces_fixed(*given) == -1).all()
