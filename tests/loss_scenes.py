"""Small scenes for the tests of the losses: three grasps of a painted can, exact maps, fields, contact, photographs."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh

from horefine.contact_truth import contact_from_pose
from horefine.distance import DistanceGrid, build_grid
from horefine.geometry import Camera, axis_angle_to_matrix, matrix_to_axis_angle
from horefine.hand import HandModel
from horefine.losses import LOSSES
from horefine.mano import HandData
from horefine.mesh import Mesh
from horefine.objective import Objective, parse_terms, prepare
from horefine.render import OUTPUTS, make_renderer
from horefine.scene import Features, Neighbours, Pose, Scene

DATA = Path(__file__).parent / "data"
SIZE = (48, 48)


@functools.lru_cache(maxsize=1)
def hand_model() -> HandModel:
    """The synthetic hand for which the stored grasps were made."""
    with np.load(DATA / "synth_hand.npz") as raw:
        data = HandData(
            raw["v_template"].astype(float), raw["faces"], raw["weights"].astype(float),
            raw["J_regressor"].astype(float), raw["shapedirs"].astype(float), raw["posedirs"].astype(float),
            np.zeros((16, 3)),
        )  # fmt: skip
    relaxed = torch.zeros(16, 3)
    relaxed[1:] = -0.3 * torch.nn.functional.one_hot(torch.full((15,), 2), 3)
    return dataclasses.replace(HandModel.from_data(data, "synthetic"), mean_rotvec=relaxed)


@functools.lru_cache(maxsize=1)
def can() -> Mesh:
    """The can of the stored grasps, 56 mm wide and 120 mm high."""
    mesh: Any = trimesh.creation.cylinder(radius=0.028, height=0.12, sections=24).subdivide_to_size(0.03)
    mesh = Mesh.from_arrays(np.asarray(mesh.vertices), np.asarray(mesh.faces), name="can")
    painted = 0.05 + 0.4 * mesh.codes.flip(-1)  # no two points of its surface have one colour
    return dataclasses.replace(
        mesh, colors=painted, sdf=build_grid(mesh.vertices[0].numpy(), mesh.faces[0].numpy(), 48)
    )


@functools.lru_cache(maxsize=1)
def true_pose() -> Pose:
    """The stored grasps in front of the camera, each seen from another side."""
    with np.load(DATA / "grasps.npz") as stored:
        bank = {key: torch.as_tensor(stored[key]) for key in stored.files}
    turn = axis_angle_to_matrix(torch.tensor([[0.6, 2.0, -0.5], [2.6, 0.3, 0.4], [-0.9, -1.2, 1.8]]))
    place = torch.tensor([[0.01, 0.0, 0.5], [-0.01, 0.01, 0.55], [0.0, -0.02, 0.6]])
    place = place - (turn @ bank["object_transl"][..., None])[..., 0]
    wrist = hand_model().rest_joints(bank["hand_shape"])[:, 0]
    rotvec = bank["hand_rotvec"].clone()
    rotvec[:, 0] = matrix_to_axis_angle(turn @ axis_angle_to_matrix(rotvec[:, 0]))
    return Pose(
        rotvec,
        bank["hand_shape"],
        (turn @ wrist[..., None])[..., 0] - wrist + place,
        matrix_to_axis_angle(turn @ axis_angle_to_matrix(bank["object_rotvec"])),
        (turn @ bank["object_transl"][..., None])[..., 0] + place,
    )


@functools.lru_cache(maxsize=1)
def true_features() -> Features:
    """What a perfect extractor and a perfect regressor would say of :func:`true_pose`."""
    count = len(true_pose())
    camera = Camera(Camera.from_focal(150.0, SIZE).matrix.expand(count, 3, 3).clone(), SIZE)
    features = Features(camera, Mesh.cat([can()] * count))
    scene = make_scene(true_pose(), features)
    render, thing = scene.render, scene.object
    depth = torch.where(render.ids >= 0, render.depth, torch.inf)
    nearer = depth <= depth.flip(1)
    masks = torch.where(nearer, render.masks, 0.0)
    front = torch.where(nearer[:, 0], render.depth[:, 0], render.depth[:, 1]) - scene.object_center[:, 2, None, None]
    grids = [
        DistanceGrid.cat([build_grid(v.numpy(), f.numpy(), 40) for v, f in zip(vertices, faces, strict=True)])
        for vertices, faces in (
            (scene.hand.vertices, hand_model().faces.expand(count, -1, -1)),
            (thing, features.object.faces),
        )
    ]
    return dataclasses.replace(
        features, hand_mask=masks[:, 0], object_mask=masks[:, 1], hand_coords=render.coords[:, 0],
        object_coords=render.coords[:, 1], depth=torch.where(masks.sum(1) > 0, front, 0.0),
        measured_depth=torch.where(masks.sum(1) > 0, front + scene.object_center[:, 2, None, None], 0.0),
        image=photograph(render.colors[:, 1], masks[:, 1] > 0), hand_sdf=grids[0],
        object_sdf=grids[1], contact=contact_from_pose(hand_model(), scene.hand.vertices, thing),
        neighbours=Neighbours(
            scene.hand.joints[:, None].repeat(1, 3, 1, 1), scene.object_corners[:, None].repeat(1, 3, 1, 1),
            torch.tensor([[60.0, 30.0, 30.0], [60.0, 30.0, 0.0], [30.0, 0.0, 0.0]]), torch.full((count, 2), 0.5),
        ),
    )  # fmt: skip


def photograph(
    colors: torch.Tensor, inside: torch.Tensor, light: tuple[float, float, float] = (0.9, 0.8, 0.7)
) -> torch.Tensor:
    """What a camera sees: painted surfaces in a light where the object is visible, and grey elsewhere."""
    return torch.where(inside[:, None], colors * torch.tensor(light)[:, None, None], 0.3)


def make_scene(pose: Pose, features: Features, initial: Pose | None = None) -> Scene:
    """A scene with its renderer."""
    model = hand_model()
    renderer = make_renderer(
        model.faces, model.codes, features.object, features.camera, "cpu", want=OUTPUTS | {"colors"}
    )
    return Scene(pose, pose if initial is None else initial, features, model, renderer)


def objective_of(name: str, features: Features, model: HandModel | None = None, **options: Any) -> Objective:
    """One loss with weight 1 and what it needs."""
    terms = parse_terms({name: {"weight": 1.0, **options}})
    return Objective(terms, prepare(terms, features, model or hand_model()))


def value_of(name: str, scene: Scene, **options: Any) -> torch.Tensor:
    """A loss from ``LOSSES`` at a scene, its inputs prepared."""
    assert name in LOSSES
    return objective_of(name, scene.features, **options).evaluate(scene)[name]


# --- the same in double precision: what slopes are checked with -------------------------------------------------------

DOUBLE = torch.float64
SQUARES = {
    "surface_reprojection": {"sigma": 1.0, "kernel": 10.0},
    "surface_depth": {"sigma": 0.005, "kernel": 10.0},
    "rendered_code": {"sigma": 0.01, "kernel": 3.0},
    "rendered_depth": {"sigma": 0.01, "kernel": 3.0},
    "measured_depth": {"sigma": 0.01, "kernel": 3.0},
    "silhouette": {"weight": 2.0, "sigma": 0.5},
    "spring_length": {"weight": 300.0},
    "penetration": {},
    "contact": {"radius": 0.03, "weight": 2.0},
    "photometric": {"weight": 0.5},
    "temporal": {"weight": 2.0},
    "offset": {"pose": 3.0, "shape": 0.5, "transl": 400.0, "object": 2000.0},
}
"""Losses of images and contact that are written as squares, with sigmas."""


@functools.lru_cache(maxsize=1)
def double_parts() -> tuple[HandModel, Features, Any]:
    """Hand, features and their renderer."""
    model, features = hand_model().to(dtype=DOUBLE), true_features().to(dtype=DOUBLE)
    want = OUTPUTS | {"colors"}
    return (
        model,
        features,
        make_renderer(model.faces, model.codes, features.object, features.camera, "torch", want=want),
    )


def double_scene(pose: Pose) -> Scene:
    """Of a pose of all three grasps that began at the truth."""
    model, features, renderer = double_parts()
    return Scene(pose, true_pose().to(dtype=DOUBLE), features, model, renderer)


def double_objective(terms: dict[str, Any]) -> Objective:
    """Of a ``losses:`` table."""
    model, features, _ = double_parts()
    parsed = parse_terms(terms)
    return Objective(parsed, prepare(parsed, features, model))
