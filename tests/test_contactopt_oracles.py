"""ContactOpt's capsules and penetration and obman's contact losses equal what the official code gave."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oracles import load, tensor

from horefine.losses.contactopt import (
    KINDS,
    LIFT,
    capsule_contact,
    capsule_distance,
    normal_penetration,
    obman_contact,
    obman_terms,
    penetration_depth,
    soft_contact,
)
from horefine.mesh import Mesh
from horefine.scene import Contact, Scene


@functools.lru_cache(maxsize=2)
def mesh_of(index: int) -> Mesh:
    """The object, with the normals that ContactOpt was given."""
    truth = load(f"contact_gt_{index}")
    mesh = Mesh(tensor(truth.obj_verts)[None], tensor(truth.obj_faces)[None])
    if index == 0:
        mesh.__dict__["normals"] = tensor(load("contactopt").obj_normals)[None]
    return mesh


def scene_of(index: int, shift: np.ndarray | float = 0.0) -> Scene:
    """Hand and object of a stored grasp, the hand shifted; the object's frame is the camera's."""
    truth, arrays = load(f"contact_gt_{index}"), load("synth_hand")
    hand, thing = (tensor(truth.hand_verts) + tensor(np.asarray(shift)))[None], tensor(truth.obj_verts)[None]
    mesh = mesh_of(index)
    scene = object.__new__(Scene)
    scene.__dict__.update(
        hand=SimpleNamespace(vertices=hand.requires_grad_()), object=thing.requires_grad_(),
        object_rotation=torch.eye(3, dtype=torch.float64)[None], features=SimpleNamespace(object=mesh),
        hand_model=SimpleNamespace(faces=tensor(arrays.faces), tips=torch.tensor([745, 317, 444, 556, 673])),
        pose=SimpleNamespace(object_transl=torch.zeros(1, 3, dtype=torch.float64), object_scale=None),
    )  # fmt: skip
    return scene


@pytest.mark.parametrize("method", range(6))
@pytest.mark.parametrize("caps", ["objcaps", "handcaps"])
def test_capsules(method: int, caps: str) -> None:
    oracle, scene = load("contactopt"), scene_of(0)
    hand = scene.hand.vertices, tensor(oracle.hand_normals)[None]
    thing = scene.object, tensor(oracle.obj_normals)[None]
    pair, on_caps, on_points = (thing, hand), "obj", "hand"
    if caps == "handcaps":
        pair, on_caps, on_points = (hand, thing), "hand", "obj"
    kind = (*KINDS, "inverse")[method]
    for of, name in (("caps", on_caps), ("points", on_points)):
        found = soft_contact(*capsule_distance(*pair, of=of), kind)
        expected = vars(oracle)[f"{name}_contact_m{method}_{caps}"]
        np.testing.assert_allclose(found[0].detach().numpy(), expected, atol=5e-6)
    if method == 0 and caps == "objcaps":
        (gradient,) = torch.autograd.grad(found.sum(), scene.hand.vertices)
        np.testing.assert_allclose(gradient[0].numpy(), oracle.grad_sum, atol=2e-3 * np.abs(oracle.grad_sum).max())


@pytest.mark.parametrize("thin", [0, 1])
@pytest.mark.parametrize("method", [0, 5])
def test_penetration(thin: int, method: int) -> None:
    oracle, scene = load("contactopt"), scene_of(0)
    options = {"allowed": 0.002 * (1 - thin), "lift": LIFT if method == 5 else 0.0}
    expected = vars(oracle)[f"pen_thin{thin}_m{method}"]
    assert (expected > 0).sum() >= 2
    np.testing.assert_allclose(penetration_depth(scene, **options)[0].detach().numpy(), expected, atol=5e-6)
    assert normal_penetration(scene, **options).item() == pytest.approx(expected.mean(), abs=1e-8)


def test_contact_loss_is_the_mean_over_the_objects_vertices() -> None:
    oracle, scene = load("contactopt"), scene_of(0)
    target = np.linspace(0, 1, 642)
    contact = Contact(tensor(target)[None], torch.zeros(1, 642, dtype=torch.int64), torch.zeros(1, 642, 4))
    for kind, method in (("inverse", 0), ("square", 2)):
        lack = target - vars(oracle)[f"obj_contact_m{method}_objcaps"]
        expected = np.mean(np.abs(lack) + 2 * np.maximum(lack, 0))
        assert capsule_contact(scene, contact, kind=kind).item() == pytest.approx(expected, abs=5e-6)


STATES = [(index, state) for index in (0, 1) for state in ("touch", "deep", "apart")]


@pytest.mark.parametrize("mode", ["dist_tanh", "dist_sq", "dist"])
@pytest.mark.parametrize(("index", "state"), STATES)
def test_obman(index: int, state: str, mode: str) -> None:
    oracle = vars(load(f"metrics_{index}"))
    scene = scene_of(index, oracle[f"{state}_shift"])
    exterior = torch.as_tensor(oracle[f"{state}_hand_exterior"])[None].bool()
    for zones, tips in (("all", None), ("tips", scene.hand_model.tips)):
        found = obman_terms(scene.hand.vertices, scene.object, exterior, mode=mode, tips=tips)
        for value, what in zip(found, ("missed", "penetr"), strict=True):
            expected = float(np.ravel(oracle[f"{state}_obman_{mode}_{zones}_{what}"])[0])
            assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-5), (zones, what)
        whole = obman_contact(scene, mode=mode, zones=zones)
        assert whole.item() == pytest.approx(sum(v.item() for v in found), rel=1e-5, abs=1e-5)
        if zones == "all" and f"{state}_obman_{mode}_ghand" in oracle:
            slopes = torch.autograd.grad(found[0] + found[1], [scene.hand.vertices, scene.object])
            for slope, name in zip(slopes, ("ghand", "gobj"), strict=True):
                expected = oracle[f"{state}_obman_{mode}_{name}"]
                np.testing.assert_allclose(slope[0].numpy() / 1e3, expected, atol=1e-9 + 1e-5 * np.abs(expected).max())


def test_unknown_names_are_refused() -> None:
    scene = scene_of(0)
    for call, message in (
        (lambda: obman_contact(scene, mode="dits"), "mode is 'dits'; known: dist_tanh"),
        (lambda: obman_contact(scene, zones="thumb"), "zones is 'thumb'; known: all, tips"),
        (lambda: soft_contact(torch.ones(1, 1), torch.ones(1, 1), "x"), "kind is 'x'; known: inverse"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
