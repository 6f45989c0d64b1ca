"""Every fused loss against its readable twin: value and gradient of the eager loss under autograd."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from fused_scenes import asked, fused_of, graded, on_the_pose, posed_of
from loss_scenes import can, hand_model, make_scene, objective_of, true_features, true_pose

from horefine.contact_truth import contact_from_pose
from horefine.distance import build_grid
from horefine.fused import Posed
from horefine.geometry import axis_angle_to_matrix
from horefine.losses import LOSSES
from horefine.losses.fused import FUSED, joined
from horefine.mesh import Mesh
from horefine.scene import Features, Pose

CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "surface_reprojection": ({}, {"sigma": 2.0, "kernel": 3.0, "threshold": 0.02}, {"kernel": 0.0}),
    "surface_depth": ({}, {"sigma": "auto", "kernel": 3.0}, {"confidence": False}),
    "rendered_code": ({}, {"sigma": 0.01, "kernel": 0.0, "confidence": False}, {"repeats": "auto", "inflation": 2.0}),
    "rendered_depth": ({}, {"sigma": 0.01, "kernel": 0.0, "confidence": False}, {"repeats": "auto", "inflation": 2.0}),
    "silhouette": ({}, {"sigma": 0.3, "other": 0.5}),
    "segmentation": ({}, {"reduction": "sum"}),
    "spring_length": ({}, {"threshold": 0.0, "sigma": 0.02, "firm": 0.3}),
    "pose_prior": ({}, {"width": 0.5}),
    "shape_prior": ({},),
    "anatomy": ({}, {"sigma": 0.3}),
    "articulation": ({}, {"sigma": 0.05}),
    "orientation": ({}, {"sigma": 0.05}),
    "offset": ({"pose": 30.0, "transl": 400.0, "object": 200.0}, {"pose": 0.0, "shape": 0.0}, {"transl": 0.0}),
    "penetration": ({}, {"tolerance": 0.002, "sigma": 0.01}, {"tolerance": -0.01}),
    "contact": ({}, {"radius": 0.05, "softness": 0.004}),
    "sdf_consistency": ({}, {"sigma": 0.004, "margin": 0.005}),
    "photometric": ({}, {"chroma": 0.1, "luminance": 0.2, "light": 0.1, "kernel": 8.0}),
    "temporal": ({}, {"sigma": 2.0, "kernel": 3.0}, {"kernel": 0.0}),
    "measured_depth": ({}, {"repeats": 3.0, "kernel": 0.0, "sigma": 0.02}),
    "relative_depth": ({}, {"reduction": "sum"}, {"literal": True}),
    "dense_mapping": ({}, {"threshold": 0.03, "reduction": "mean"}),
    "correspondence_depth": ({}, {"threshold": 0.03, "reduction": "mean"}),
}
"""Options with which each fused loss is compared."""
WEIGHT = 1.7
PICTURED = ("rendered_code", "rendered_depth", "measured_depth")


@functools.lru_cache(maxsize=1)
def things() -> Mesh:
    """Three objects of different sizes, so that two are padded."""
    box: Any = trimesh.creation.box((0.05, 0.09, 0.07))
    ball: Any = trimesh.creation.icosphere(2, 0.04)
    meshes = [can()]
    for mesh in (box, ball):
        vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
        grid = build_grid(vertices, faces, 48)
        meshes.append(dataclasses.replace(Mesh.from_arrays(vertices, faces), sdf=grid))
    return Mesh.cat(meshes)


@functools.lru_cache(maxsize=4)
def features_of(kind: str) -> Features:
    """``cans``: exact maps of three grasps; ``things``: the same maps for other objects; ``trusted``: with confidences,
    of which some are 0; ``empty``: no image shows a hand."""
    features = true_features()
    if kind == "things":
        scene = make_scene(true_pose(), dataclasses.replace(features, object=things()))
        contact = contact_from_pose(hand_model(), scene.hand.vertices, scene.object, things().vertex_mask)
        return dataclasses.replace(features, object=things(), contact=contact)
    if kind == "trusted":
        shape, generator = (3, *features.camera.size), torch.Generator().manual_seed(1)
        maps = [(torch.rand(shape, generator=generator) * 1.4 - 0.4).clamp(min=0) for _ in range(3)]
        return dataclasses.replace(
            features, hand_confidence=maps[0], object_confidence=maps[1], depth_confidence=maps[2]
        )
    if kind == "empty":
        assert features.hand_mask is not None
        return dataclasses.replace(features, hand_mask=torch.zeros_like(features.hand_mask))
    return features


def near(seed: int, far: float = 1.0) -> Pose:
    """The true pose, disturbed; requires gradients."""
    generator = torch.Generator().manual_seed(seed)
    size = {"hand_rotvec": 0.15, "hand_shape": 0.6, "hand_transl": 0.01, "object_rotvec": 0.2, "object_transl": 0.01}
    pose = true_pose()
    moved = {n: v + far * size[n] * torch.randn(v.shape, generator=generator) for n, v in pose.items()}
    return Pose(**{name: value.requires_grad_() for name, value in moved.items()})


def both(name: str, options: dict[str, Any], kind: str, seed: int) -> tuple[Any, ...]:
    """Scene, fused loss, eager values and eager gradient."""
    features = features_of(kind)
    scene = make_scene(near(seed), features, true_pose())
    objective = objective_of(name, features, weight=WEIGHT, **options)
    objective = objective.settle(dataclasses.replace(scene, pose=scene.pose.detach()))
    values = objective.evaluate(scene)[name]
    gradient = graded(values.sum(), scene.pose) if values.requires_grad else scene.pose.map(torch.zeros_like)
    return scene, fused_of(objective, name, scene), values.detach(), gradient


def assert_same(one: Pose, other: Pose, tolerance: float = 1e-4) -> None:
    """Gradients agree, image by image and field by field, relative to the largest number of the field.

    What cancels in a field is noise: numbers below 1e-5 of the image's largest are not looked at.
    """
    most = torch.stack([value.flatten(1).abs().amax(1) for _, value in other.items()]).amax(0)
    for (name, mine), (_, eager) in zip(one.items(), other.items(), strict=True):
        scale = eager.flatten(1).abs().amax(1)
        gap = (mine - eager).flatten(1).abs().amax(1)
        assert (gap <= tolerance * scale + 1e-5 * most).all(), (name, gap / scale.clamp(min=1e-30), scale)


def given(value: Any) -> Any:
    """What is there."""
    assert value is not None
    return value


def cases() -> list[Any]:
    rows = []
    for name, variants in CASES.items():
        for number, options in enumerate(variants):
            kinds = ("cans", "things", "trusted", "empty") if number == 0 else ("trusted",)
            rows += [pytest.param(name, options, kind, id=f"{name}-{number}-{kind}") for kind in kinds]
    return rows


def test_every_fused_loss_is_compared() -> None:
    assert {function.__name__ for function in FUSED} == set(CASES)
    assert all(LOSSES[function.__name__] is function for function in FUSED)


@pytest.mark.parametrize(("name", "options", "kind"), cases())
def test_value_and_gradient_are_those_of_the_eager_loss(name: str, options: dict[str, Any], kind: str) -> None:
    scene, fused, expected, gradient = both(name, options, kind, seed=len(name))
    assert fused is not None
    values, pull = asked([fused], posed_of(scene))
    np.testing.assert_allclose(values, expected.numpy(), rtol=3e-5, atol=1e-9)
    assert_same(on_the_pose(pull, scene), gradient)
    if kind != "empty":
        assert (expected > 0).any()


@pytest.mark.parametrize("name", CASES)
def test_an_image_does_not_depend_on_its_neighbours(name: str) -> None:
    scene, fused, _, _ = both(name, CASES[name][0], "things", seed=3)
    posed = posed_of(scene)
    whole, alone = asked([fused], posed), asked([fused], posed, (1, 3), (0, 1))
    assert (whole[0] == alone[0]).all()
    assert all((value == getattr(alone[1], field)).all() for field, value in vars(whole[1]).items())
    one, pull = asked([fused], posed, (1, 2))
    assert one[1] == whole[0][1] and one[0] == one[2] == 0
    assert all((value[::2] == 0).all() for value in vars(pull).values())


@pytest.mark.parametrize("name", CASES)
def test_a_pose_that_is_not_a_number_harms_no_other_image(name: str) -> None:
    scene, fused, _, _ = both(name, CASES[name][0], "cans", seed=3)
    posed = posed_of(scene)
    values, pull = asked([fused], posed)
    for field, value in vars(posed).items():
        if field != "ids":
            value[1] = (np.nan, np.inf)[field in ("joints", "depth")]
    broken, torn = asked([fused], posed)
    assert (broken[::2] == values[::2]).all() and not np.isfinite(broken[1])
    assert all((value[::2] == getattr(torn, field)[::2]).all() for field, value in vars(pull).items())


@pytest.mark.parametrize("name", CASES)
def test_what_was_there_is_added_to(name: str) -> None:
    scene, fused, _, _ = both(name, CASES[name][0], "cans", seed=4)
    posed = posed_of(scene)
    once, pull = asked([fused], posed)
    twice, doubled = asked([fused, fused], posed)
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-12)
    for field, value in vars(pull).items():
        np.testing.assert_allclose(getattr(doubled, field), 2 * value, rtol=1e-5, atol=1e-6 * np.abs(value).max())


@pytest.mark.parametrize(
    ("names", "passes"),
    [(("rendered_depth", "shape_prior", "rendered_code"), 2), (("surface_reprojection", "surface_depth"), 1),
     (("rendered_code", "measured_depth"), 2), (("dense_mapping", "correspondence_depth", "surface_depth"), 2),
     (("rendered_code", "rendered_depth", "relative_depth", "surface_reprojection"), 3)],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["things", "trusted"])
def test_joined_losses_are_the_same_losses(names: tuple[str, ...], passes: int, kind: str) -> None:
    made = [both(name, CASES[name][0], kind, seed=5) for name in names]
    posed, losses = posed_of(made[0][0]), {row: fused for row, (_, fused, _, _) in enumerate(made)}
    found = joined(losses)
    assert sorted(row for joint in found for row in joint.rows) == list(losses)
    if kind == "things":
        assert len(found) == passes and found[0].wants == made[found[0].rows[0]][1].wants
    values, pull = np.zeros((len(names), 3)), asked([], posed)[1]
    for joint in found:
        for first, last in ((0, 1), (1, 3)):
            joint.add(posed, pull, values, first, last)
    np.testing.assert_allclose(values, np.stack([m[2] for m in made]), rtol=3e-5)
    assert_same(on_the_pose(pull, made[0][0]), on_the_pose(asked(list(losses.values()), posed)[1], made[0][0]))


def shaken(posed: Posed, motion: dict[str, np.ndarray], far: float) -> Posed:
    """The hand's points moved each by its own vector, the object as a whole, joints turned; faces seen stay."""
    w = far * motion["torque"].astype(np.float64)
    turn = axis_angle_to_matrix(torch.from_numpy(w)).numpy()
    own = axis_angle_to_matrix(torch.from_numpy(far * motion["turns"].astype(np.float64))).numpy()
    center = posed.object_center.astype(np.float64)
    placed = center + far * motion["force"]
    about = (posed.object_transl - center)[:, None] @ turn.swapaxes(1, 2)
    moved = {
        "hand": posed.hand + far * motion["hand"], "joints": posed.joints + far * motion["joints"],
        "turns": posed.turns @ own, "shape": posed.shape + far * motion["shape"],
        "object_turn": turn @ posed.object_turn, "object_transl": placed + about[:, 0], "object_center": placed,
        "object": placed[:, None] + (posed.object - center[:, None]) @ turn.swapaxes(1, 2),
        "masks": posed.masks + far * motion["masks"],
    }  # fmt: skip
    return dataclasses.replace(posed, **{name: np.ascontiguousarray(v, np.float32) for name, v in moved.items()})


def test_a_thin_object_is_kept_out_of_the_balls() -> None:
    """Of a sheet thinner than a grid's cell no node is inside: vertices pass it, balls do not."""
    sheet: Any = trimesh.creation.box((0.16, 0.0005, 0.16)).subdivide_to_size(0.03)
    vertices, faces = np.asarray(sheet.vertices) + np.array([0, 0.0013, 0]), np.asarray(sheet.faces)
    mesh = dataclasses.replace(Mesh.from_arrays(vertices, faces), sdf=build_grid(vertices, faces, 32))
    assert (mesh.grid.values > 0).all()
    features = dataclasses.replace(true_features()[:1], object=mesh)
    pose = near(3)[:1]
    pose = dataclasses.replace(pose, object_transl=make_scene(pose, features).hand.joints[:, 9].detach())
    scene = make_scene(pose.map(lambda value: value.detach().requires_grad_()), features)
    objective = objective_of("penetration", features)
    expected = objective.evaluate(scene)["penetration"]
    values, pull = asked([given(fused_of(objective, "penetration", scene))], posed_of(scene))
    assert values[0] > 0.1
    np.testing.assert_allclose(values, expected.detach().numpy(), rtol=1e-5)
    assert_same(on_the_pose(pull, scene), graded(expected.sum(), scene.pose))


def depths(posed: Posed, features: Features) -> np.ndarray:
    """Depth at which each pixel's ray meets the plane of the face that it is said to see; 0 where it sees none."""
    rows, columns = np.mgrid[: features.camera.size[0], : features.camera.size[1]]
    found = np.zeros(posed.ids.shape)
    for image, matrix in enumerate(features.camera.matrix.double().numpy()):
        fx, fy, cx, cy = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
        ray = np.stack([(columns - cx) / fx, (rows - cy) / fy, np.ones(rows.shape)], -1)
        sides = ((posed.hand, hand_model().faces), (posed.object, features.object.faces[image]))
        for side, (points, faces) in enumerate(sides):
            ids = posed.ids[image, side]
            a, b, c = np.moveaxis(points[image].astype(float)[faces.numpy()[ids.clip(min=0)]], -2, 0)
            normal = np.cross(b - a, c - a)
            found[image, side] = np.where(ids >= 0, (normal * a).sum(-1) / (normal * ray).sum(-1), 0)
    return found


@pytest.mark.parametrize(
    "name",
    ["surface_reprojection", "surface_depth", "rendered_code", "rendered_depth", "measured_depth", "silhouette",
     "spring_length", "penetration", "contact", "sdf_consistency", "pose_prior", "shape_prior", "orientation",
     "temporal"],
)  # fmt: skip
def test_what_pulls_is_the_slope_of_the_value(name: str) -> None:
    """Differences of the fused value itself, no eager code: each pixel keeps its face, so nothing jumps."""
    scene, fused, _, _ = both(name, CASES[name][0], "things", seed=6)
    posed = posed_of(scene)
    _, pull = asked([fused], posed)
    generator = np.random.default_rng(1)
    size = {"hand": 1.0, "joints": 1.0, "turns": 3.0, "shape": 3.0, "force": 1.0, "torque": 3.0, "masks": 30.0}
    # hand and joints as a whole: what single vertices add up to would be lost among rounding
    motion = {field: (s * generator.normal(size=getattr(pull, field).shape)) for field, s in size.items()}
    motion["hand"] = motion["hand"][:, :1] + 0.3 * motion["hand"]
    # what is painted ends at the edge of its face, so that longer steps see no slope there
    step, loose = (1e-5, 0.04) if name in PICTURED else (3e-4, 0.01)
    sides = [shaken(posed, motion, sign * step) for sign in (1, -1)]
    sides = [dataclasses.replace(s, depth=depths(s, features_of("things")).astype(np.float32)) for s in sides]
    ahead, behind = (asked([fused], side)[0] for side in sides)
    expected = sum((getattr(pull, f) * motion[f]).reshape(3, -1).sum(1) for f in size)
    scale = np.abs(expected).max()
    np.testing.assert_allclose((ahead - behind) / (2 * step), expected, rtol=2e-2, atol=loose * scale)
    assert scale > 0
