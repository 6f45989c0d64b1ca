"""The packages and the device that most machines do not have: skipped by name, with the reason."""

from __future__ import annotations

import importlib

import pytest
import torch
from render_cases import MESHES, camera, posed

from horefine import load_config, load_hand, refine
from horefine.data.maps import disturb
from horefine.data.synthetic import benchmark_scenes
from horefine.render import RENDERERS, Topology, render

SIZE = (64, 64)
NAMES = ("hand", "open hand", "torus", "box")


def _loaded(name: str) -> None:
    """Skips unless the backend's package imports."""
    try:
        importlib.import_module("nvdiffrast.torch" if name == "nvdiffrast" else name)
    except ImportError as error:
        pytest.skip(f"renderer {name!r}: {error}")
    RENDERERS[name]()


def _agrees_with_cpu(backend: str, device: str) -> None:
    """Values and gradients of a batch of four meshes."""
    meshes = [MESHES[name]() for name in NAMES]
    topology = Topology.pack([(len(vertices), faces) for vertices, faces in meshes])
    packed = torch.cat([posed(vertices, seed) for seed, (vertices, _) in enumerate(meshes)])
    matrix = camera(SIZE).repeat(len(meshes), 1, 1)
    results = []
    for name, place in (("cpu", "cpu"), (backend, device)):
        points = packed.to(place).requires_grad_()
        drawn = render(points, topology, matrix.to(place), SIZE, points.detach(), backend=name)
        weights = torch.linspace(0, 1, drawn[0].numel()).view(drawn[0].shape).to(place)
        pieces = [torch.autograd.grad((p * weights).sum(), points, retain_graph=True)[0].cpu() for p in drawn[:2]]
        results.append(([picture.detach().cpu() for picture in drawn], pieces))
    (own, own_gradients), (other, other_gradients) = results
    same = own[3] == other[3]
    assert same.float().mean() > 0.998
    assert (own[0] - other[0]).abs().max() < 1e-4
    assert (own[1] - other[1])[same].abs().max() < 1e-5
    assert (own[2] - other[2]).movedim(1, -1)[same].abs().max() < 1e-4
    for one, two in zip(own_gradients, other_gradients, strict=True):
        assert torch.cosine_similarity(one.flatten(), two.flatten(), 0) > 0.999


def test_pytorch3d_on_the_cpu() -> None:
    _loaded("pytorch3d")
    _agrees_with_cpu("pytorch3d", "cpu")


@pytest.mark.parametrize("name", ["torch", "nvdiffrast", "pytorch3d"])
def test_on_cuda(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if name != "torch":
        _loaded(name)
    _agrees_with_cpu(name, "cuda")


@pytest.mark.parametrize(("recipe", "words"), [("adam", ()), ("adam", ("optimizer.graph=true",)), ("default", ())])
def test_poses_on_cuda_are_those_of_the_cpu(recipe: str, words: tuple[str, ...]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    truth, features = benchmark_scenes(8, 1000)
    pose = disturb(truth, 1, model=load_hand(), object_center=features.object.center)
    ends = [refine(pose.to(on), features.to(on), load_config(recipe, words)).pose.to("cpu") for on in ("cpu", "cuda")]
    hands = [load_hand()(end.hand_rotvec, end.hand_shape, end.hand_transl).vertices for end in ends]
    assert (hands[0] - hands[1]).norm(dim=-1).mean(1).median() < 1e-4
