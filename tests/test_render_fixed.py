"""Rendering in fixed shapes: the twin's pictures and gradients, and no question to the device inside a loop."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from render_cases import box, camera, hand, open_hand, posed, sphere, torus
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from horefine import load_config, load_hand
from horefine.adam import Adam
from horefine.data.maps import disturb
from horefine.data.synthetic import benchmark_scenes
from horefine.objective import Objective, prepare, usable
from horefine.render import RENDERERS, Topology, fixed, make_renderer, twin
from horefine.scene import Pose, Scene
from horefine.tangent import CHARTS

WANT = frozenset({"mask", "depth", "values"})
ASKING = (
    "aten._local_scalar_dense",
    "aten.nonzero",
    "aten.masked_select",
    "aten.repeat_interleave.Tensor",
    "aten.equal",
)
"""Operations whose result's shape, or value on the host, hangs on the data: on a GPU the host waits for them."""


class Questions(TorchDispatchMode):
    """Counts operations that ask the device something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = str(func)
        index = args[1] if name.startswith("aten.index") and len(args) > 1 and isinstance(args[1], list | tuple) else ()
        if name.startswith(ASKING) or any(isinstance(i, Tensor) and i.dtype == torch.bool for i in index):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def draw(points: Tensor, topology: Topology, size: tuple[int, int], values: Tensor, is_fixed: bool) -> tuple:
    def find(pixels: Tensor, inverse: Tensor, side: Tensor, parts: Any) -> Tensor:
        return twin.visible_faces(pixels, inverse, side, parts, size)

    matrix = camera(size, 90.0).to(points.dtype).repeat(len(topology), 1, 1)
    return twin.render_with(find, points, topology, matrix, size, values, WANT, fixed=is_fixed)


def scene(names: tuple, size: tuple[int, int], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Topology]:
    meshes = [name() for name in names]
    points = [posed(vertices, seed).to(dtype) for seed, (vertices, _) in enumerate(meshes)]
    return torch.cat(points), Topology.pack([(len(v), f) for v, f in meshes])


@pytest.mark.parametrize("size", [(40, 56), (64, 64)])
@pytest.mark.parametrize("names", [(box,), (hand, torus, open_hand), (open_hand, box, sphere)])
def test_the_same_pictures_and_gradients_as_the_twin(names: tuple, size: tuple[int, int]) -> None:
    points, topology = scene(names, size, torch.float64)
    points[1, 2] = -0.1  # behind the camera: its faces are not drawn
    weights = [torch.randn(len(topology), *shape, *size).double() for shape in ((), (), (3,))]
    found = []
    for is_fixed in (False, True):
        leaf = points.clone().requires_grad_()
        pictures = draw(leaf, topology, size, points, is_fixed)[:3]
        total = torch.stack([(w * p).sum() for w, p in zip(weights, pictures, strict=True)]).sum()
        found.append((*pictures, torch.autograd.grad(total, leaf)[0]))
    for one, other in zip(*found, strict=True):
        one, other = one.detach(), other.detach()
        assert one.abs().max() > 0
        assert (one - other).abs().max() < 1e-9 * max(1.0, float(one.abs().max()))


def test_coverage_passes_gradcheck() -> None:
    vertices, faces = box()
    topology = Topology.pack([(len(vertices), faces)])
    points, size = posed(vertices, 2).double().requires_grad_(), (12, 10)

    def cover(points: Tensor) -> Tensor:
        parts = topology.unpacked
        pixels, inverse = twin.project(points, parts.vertex_item, camera(size, 20.0).double())
        side = twin.sides(pixels.detach(), inverse.detach(), parts.faces)
        return fixed.coverage_fixed(pixels, side, parts, size)

    assert 0.01 < float(cover(points).detach().mean()) < 0.99
    assert torch.autograd.gradcheck(cover, points, eps=1e-7)


def test_nothing_visible_is_an_empty_picture() -> None:
    points, topology = scene((hand,), (16, 16))
    mask, depth, values, ids = draw(points - torch.tensor([0.0, 0.0, 5.0]), topology, (16, 16), points, True)
    assert float(mask.abs().max()) == float(depth.abs().max()) == float(values.abs().max()) == 0.0
    assert (ids == -1).all()


def test_too_little_room_is_never_a_wrong_silhouette(monkeypatch: pytest.MonkeyPatch) -> None:
    points, topology = scene((hand,), (64, 64))
    monkeypatch.setattr(fixed, "room", lambda *_: 40)
    assert draw(points, topology, (64, 64), points, True)[0].isnan().all()


def test_a_whole_iteration_asks_the_device_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every loss of two recipes, forward and backward, by the renderer that nvdiffrast's adapter uses."""
    truth, features = benchmark_scenes(2, 4000)
    model = load_hand()
    pose = disturb(truth, 1, model=model, object_center=features.object.center).map(lambda v: v.requires_grad_())
    ids: list[Tensor] = []

    def find(pixels: Tensor, inverse: Tensor, side: Tensor, parts: Any) -> Tensor:
        if not ids:  # nvdiffrast's own work, which asks nothing; the twin's does
            ids.append(twin.visible_faces(pixels, inverse, side, parts, features.camera.size))
        return ids[0]

    def render(vertices, topology, matrix, size, values, want):
        return twin.render_with(find, vertices, topology, matrix, size, values, want, fixed=True)

    monkeypatch.setitem(RENDERERS, "torch", lambda: render)
    renderer = make_renderer(model.faces, model.codes, features.object, features.camera, "torch")
    for recipe in ("adam", "song2022"):
        terms = usable(load_config(recipe).terms(), features)
        objective = Objective(terms, prepare(terms, features, model))
        objective = objective.settle(Scene(pose, pose.detach(), features, model, renderer))

        chart, adam = CHARTS["tangent"](), Adam(torch.full((67,), 1e-3))

        def step(objective: Objective = objective, chart: Any = chart, adam: Adam = adam) -> Pose:
            here = Scene(pose, pose.detach(), features, model, renderer)
            total = torch.stack(list(objective.evaluate(here).values())).sum()
            leaves = [value for _, value in pose.items()]
            found = torch.autograd.grad(total, leaves, materialize_grads=True, allow_unused=True)
            with torch.no_grad():
                return chart.move(here, adam.step(chart.gradient(here, pose.like(found))))

        step()  # tables that are kept are made on the first
        with Questions() as asked:
            moved = step()
        assert not asked.found, asked.found
        assert all(value.isfinite().all() for _, value in moved.items())


def test_the_watch_sees_a_question() -> None:
    with Questions() as asked:
        _ = torch.arange(3)[torch.tensor([True, False, True])]
        bool(torch.ones(()) > 0)
    assert len(asked.found) == 2
