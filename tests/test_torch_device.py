"""A step of Levenberg-Marquardt on a device that answers nothing: what can be known of a GPU without one.

Tensors on torch's *meta* device have shapes and no numbers. A step that runs there asks its device nothing (an answer
does not exist), calls no kernel of the CPU, and makes no tensor on the CPU that meets one of the device.
"""

import dataclasses

import pytest
import torch
from loss_scenes import SQUARES, hand_model, true_features
from test_levenberg_marquardt import start

from horefine import torch_steps
from horefine.levenberg_marquardt import Damping
from horefine.losses import contact, contact_squares, torch_squares
from horefine.losses.surfaces import hand_surface
from horefine.objective import Objective, parse_terms, prepare, usable
from horefine.render import RENDERERS, fixed, fixed_faces, make_renderer, twin
from horefine.scene import Scene

RECIPES = {
    "correspond": ("surface_reprojection", "surface_depth", "spring_length", "pose_prior", "shape_prior"),
    "render": ("rendered_code", "rendered_depth", "spring_length", "penetration", "pose_prior", "shape_prior"),
    "others": ("measured_depth", "photometric", "contact", "temporal", "offset", "orientation", "articulation"),
    "outlines": ("silhouette", "pose_prior", "shape_prior"),
}


class Elsewhere:
    """Copies of values on another device: tensors, and whatever holds them; each once."""

    def __init__(self, device):
        self.device, self.kept = device, {}

    def __call__(self, value):
        if id(value) in self.kept:
            return self.kept[id(value)][0]
        if isinstance(value, torch.Tensor):
            return self._keep(value, value.to(self.device))
        if isinstance(value, dict):
            return {key: self(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self(entry) for entry in value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            copy = self._keep(value, object.__new__(type(value)))
            copy.__dict__.update({key: self(entry) for key, entry in value.__dict__.items()})
            return copy
        return value

    def _keep(self, value, copy):
        self.kept[id(value)] = copy, value  # the value stays alive, so that no id is given twice
        return copy


def draw(vertices, topology, matrix, size, values, want):
    """The renderer of a GPU, with our own search for the faces that pixels see."""

    def find(pixels, inverse, side, parts):
        return fixed_faces.visible_faces_fixed(pixels, inverse, side, parts, size)

    return twin.render_with(find, vertices, topology, matrix, size, values, want, fixed=True)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_runs_where_nothing_can_be_asked(recipe, monkeypatch):
    monkeypatch.setitem(RENDERERS, "torch", lambda: draw)
    features, model, first = true_features(), hand_model(), start()
    renderer = make_renderer(model.faces, model.codes, features.object, features.camera, "torch")
    terms = usable(parse_terms({name: SQUARES.get(name, {}) for name in RECIPES[recipe]}), features)
    objective = Objective(terms, prepare(terms, features, model))

    def scene_of(at):
        return Scene(at, first, features, model, renderer)

    with torch.no_grad():
        walk = torch_steps._Walker.begin(objective.settle(scene_of(first)), scene_of(first), Damping())
        walk = walk.step(scene_of)  # measures what has to be measured once
    there = Elsewhere("meta")
    for rooms in (fixed._rooms, fixed_faces._rooms):
        known = rooms.get(renderer.topology.unpacked, {})
        rooms[there(renderer.topology.unpacked)] = dict(known)
    walk, model, features, first, renderer = map(there, (walk, model, features, first, renderer))
    surface, points = there(hand_surface(hand_model())), there(contact_squares.hand_points(hand_model()))
    for module in (contact, contact_squares):
        monkeypatch.setattr(module, "hand_surface", lambda model: surface)
    monkeypatch.setattr(torch_squares, "hand_points", lambda model: points)
    with torch.no_grad():
        after = walk.step(scene_of)
    assert {value.device.type for value in (after.normal, after.lowest, after.done, after.best.hand_rotvec)} == {"meta"}
    assert after.normal.shape == (3, 67, 67)


def test_the_device_does_not_answer():
    """What this file relies on."""
    numbers = torch.ones(3, device="meta")
    for question in (
        lambda: bool((numbers > 0).any()), numbers.nonzero, lambda: numbers[numbers > 0], numbers.numpy,
        lambda: numbers.to("cpu"), lambda: numbers + torch.ones(3), lambda: torch.cat([numbers, torch.ones(3)]),
    ):  # fmt: skip
        with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
            question()
