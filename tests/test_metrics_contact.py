"""Quality of the interaction against official code and exact volumes, recorded on our synthetic hand; closed forms."""

import numpy as np
import pytest
import torch
import trimesh
from oracles import load

from horefine import metrics
from horefine.distance import winding_number
from horefine.intersection import close_holes, intersection_volume
from horefine.mesh import Mesh
from horefine.repair import signed_volume

HAND_FACES = load("synth_hand").faces.astype(np.int64)


def scene(number: int, state: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Hand vertices in a state, object vertices and faces, and what was recorded of that state."""
    grasp, recorded = vars(load(f"contact_gt_{number}")), vars(load(f"metrics_{number}"))
    hand = grasp["hand_verts"].astype(np.float64) + recorded[f"{state}_shift"]
    of_state = {k.removeprefix(f"{state}_"): v for k, v in recorded.items()}
    return hand, grasp["obj_verts"], grasp["obj_faces"], of_state


scenes = pytest.mark.parametrize("number", [0, 1])
states = pytest.mark.parametrize("state", ["touch", "deep", "apart"])


@scenes
@states
def test_penetration_depth_of_both_kinds(number: int, state: str) -> None:
    """CPF collisionutils (to vertices) and obman (to the surface)."""
    hand, vertices, faces, recorded = scene(number, state)
    surface = metrics.penetration_depth(hand, vertices, faces)
    assert surface == pytest.approx(float(recorded["obman_surface_maxdepth_mm"]), abs=1e-3)
    nearest = metrics.penetration_depth(hand, vertices, faces, variant="vertex")
    assert nearest == pytest.approx(np.ravel(recorded["pd_m"])[0] * 1e3, abs=1e-2)
    assert nearest >= surface


@scenes
@states
def test_depths_of_every_vertex_as_cpf_and_obman(number: int, state: str) -> None:
    """CPF's statistics are of squared depths, in metres, over the vertices inside; obman's mean is over all."""
    hand, vertices, faces, recorded = scene(number, state)
    depths = metrics.penetration_depths(hand, vertices, faces, variant="vertex")
    np.testing.assert_array_equal(depths > 0, ~recorded["hand_exterior"])
    squares = (depths[depths > 0] / 1e3) ** 2
    assert squares.max(initial=0.0) == pytest.approx(np.ravel(recorded["pd2_max"])[0], rel=1e-3, abs=1e-12)
    assert squares.sum() == pytest.approx(np.ravel(recorded["pd2_sum"])[0], rel=1e-3, abs=1e-12)
    assert depths.max() == pytest.approx(float(recorded["obman_max_penetr_mm"]), abs=1e-3)
    assert depths.mean() == pytest.approx(float(recorded["obman_mean_penetr_mm"]), abs=1e-5)


@scenes
@pytest.mark.parametrize("state", ["touch", "deep"])
def test_intersection_volume_is_the_boolean_one(number: int, state: str) -> None:
    """manifold3d's exact volume, recorded; rays within 0.1 %, voxels within 1 %."""
    hand, vertices, faces, _ = scene(number, state)
    exact = float(vars(load(f"metrics_exact_{number}"))[f"{state}_exact_intersection_m3"]) * 1e6
    assert metrics.intersection_volume(hand, HAND_FACES, vertices, faces) == pytest.approx(exact, rel=1e-3)
    voxels = metrics.intersection_volume(hand, HAND_FACES, vertices, faces, method="voxels")
    assert voxels == pytest.approx(exact, rel=1e-2)


def test_intersection_volume_apart_is_zero() -> None:
    hand, vertices, faces, _ = scene(0, "apart")
    assert metrics.intersection_volume(hand, HAND_FACES, vertices, faces) == 0.0


@scenes
@pytest.mark.parametrize("state", ["touch", "deep"])
def test_intersection_volume_by_boolean(number: int, state: str) -> None:
    pytest.importorskip("manifold3d", reason="manifold3d is optional")
    hand, vertices, faces, _ = scene(number, state)
    exact = float(vars(load(f"metrics_exact_{number}"))[f"{state}_exact_intersection_m3"])
    assert intersection_volume(hand, HAND_FACES, vertices, faces, method="boolean") == pytest.approx(exact, rel=1e-6)


@scenes
@states
def test_disjointness_as_cpf(number: int, state: str) -> None:
    hand, vertices, _, recorded = scene(number, state)
    regions = vars(load(f"metrics_{number}"))["region_assignment"]
    for name in ("tip_only", "tip_biased"):
        ours = metrics.disjointness(hand, regions, vertices, variant=name)
        assert ours == pytest.approx(float(recorded[f"dj_{name}"]) * 1e3, abs=1e-2)


def boxes(shift: tuple[float, float, float]) -> list[np.ndarray]:
    """Two boxes of 40 x 30 x 20 mm, the second shifted."""
    box = trimesh.creation.box((0.04, 0.03, 0.02))
    vertices, faces = np.asarray(box.vertices), np.asarray(box.faces, np.int64)
    return [vertices, faces, vertices + np.asarray(shift), faces]


@pytest.mark.parametrize("method", ["rays", "voxels"])
def test_overlap_of_two_boxes(method: str) -> None:
    volume = intersection_volume(*boxes((0.03, 0.01, 0.005)), method=method)
    assert volume == pytest.approx(0.01 * 0.02 * 0.015, rel=1e-6)
    assert intersection_volume(*boxes((0.05, 0.0, 0.0)), method=method) == 0.0


def test_overlap_of_two_balls() -> None:
    ball = trimesh.creation.icosphere(5, 0.03)
    vertices, faces = np.asarray(ball.vertices), np.asarray(ball.faces, np.int64)
    apart, radius = 0.05, 0.03
    lens = np.pi * (2 * radius - apart) ** 2 * (apart**2 + 4 * apart * radius) / (12 * apart)
    volume = intersection_volume(vertices, faces, vertices + np.array([0.01, 0.04, np.sqrt(apart**2 - 0.0017)]), faces)
    assert volume == pytest.approx(lens, rel=1e-2)  # the mesh lies inside the ball


def test_overlap_does_not_mind_orientation_padding_or_a_hole() -> None:
    first, faces, second, others = boxes((0.03, 0.01, 0.005))
    true = intersection_volume(first, faces, second, others)
    padded = np.concatenate([others, np.zeros((5, 3), np.int64)])
    assert intersection_volume(first, faces[:, ::-1], second, padded) == pytest.approx(true, rel=1e-12)
    assert intersection_volume(first, faces[2:], second, others) == pytest.approx(true, rel=1e-3)


def test_a_hand_that_touches_itself_is_counted_once() -> None:
    """Two overlapping boxes as ONE mesh, against a box around both: the volume of their union."""
    first, faces, second, _ = boxes((0.03, 0.0, 0.0))
    pair, pair_faces = np.concatenate([first, second]), np.concatenate([faces, faces + len(first)])
    around = trimesh.creation.box((0.2, 0.2, 0.2))
    volume = intersection_volume(pair, pair_faces, np.asarray(around.vertices), np.asarray(around.faces, np.int64))
    assert volume == pytest.approx(0.07 * 0.03 * 0.02, rel=1e-6)


def test_close_holes_caps_a_wrist() -> None:
    """A cylinder without its lid: the border is one loop of 24 edges."""
    tube = trimesh.creation.cylinder(0.03, 0.1, sections=24)
    vertices, faces = np.asarray(tube.vertices), np.asarray(tube.faces, np.int64)
    closed = close_holes(faces[np.asarray(tube.face_normals)[:, 2] < 0.9])
    assert signed_volume(vertices, closed) == pytest.approx(float(tube.volume), rel=1e-9)
    assert len(close_holes(faces)) == len(faces)


def test_contact_regions_grow_with_the_threshold() -> None:
    hand, vertices, faces, _ = scene(1, "touch")
    regions = vars(load("metrics_1"))["region_assignment"]
    counts = [metrics.contact_regions(hand, regions, vertices, faces, threshold=t) for t in (0.0, 3.0, 5.0, 500.0)]
    assert counts == sorted(counts)
    assert 0 < counts[0] < counts[-1] == 17
    triangles = np.repeat(vertices[faces][None], len(hand), 0).reshape(-1, 3, 3)
    nearest = trimesh.triangles.closest_point(triangles, np.repeat(hand, len(faces), 0)).reshape(len(hand), -1, 3)
    near = np.linalg.norm(nearest - hand[:, None], axis=-1).min(1) < 3e-3
    inside = winding_number(hand, vertices, faces) > 0.5
    assert counts[1] == len(np.unique(regions[near | inside]))
    apart, *_ = scene(1, "apart")
    assert metrics.contact_regions(apart, regions, vertices, faces) == 0


def test_interaction_of_a_padded_batch_is_each_scene_alone() -> None:
    rows = [scene(number, state) for number, state in ((0, "touch"), (1, "deep"), (0, "apart"))]
    mesh = Mesh.cat([Mesh.from_arrays(vertices, faces) for _, vertices, faces, _ in rows])
    hands = torch.tensor(np.stack([hand for hand, *_ in rows]))
    regions = vars(load("metrics_0"))["region_assignment"]
    result = metrics.interaction(hands, torch.tensor(HAND_FACES), torch.tensor(regions), mesh.vertices.double(), mesh)
    for k, (hand, vertices, faces, _) in enumerate(rows):
        volume = metrics.intersection_volume(hand, HAND_FACES, vertices, faces)
        assert float(result["pd_mm"][k]) == pytest.approx(metrics.penetration_depth(hand, vertices, faces), abs=1e-3)
        assert float(result["siv_cm3"][k]) == pytest.approx(volume, abs=1e-3)
        assert int(result["contact_regions"][k]) == metrics.contact_regions(hand, regions, vertices, faces)
    assert float(result["gap_mm"][2]) > 10 and float(result["gap_mm"][0]) == 0


def test_a_scene_that_is_not_finite_has_no_depth_and_no_volume() -> None:
    """``max(0, nan)`` is 0: a failure must not look like a perfect score."""
    hand, vertices, faces, _ = scene(0, "deep")
    regions = vars(load("metrics_0"))["region_assignment"]
    broken = hand.copy()
    broken[5, 1] = np.nan
    for variant in ("surface", "vertex", "grid"):
        assert np.isnan(metrics.penetration_depth(broken, vertices, faces, variant=variant))
    assert np.isnan(metrics.intersection_volume(broken, HAND_FACES, vertices, faces))
    assert np.isnan(metrics.disjointness(broken, regions, vertices))
    mesh = Mesh.cat([Mesh.from_arrays(vertices, faces)] * 2)
    hands = torch.tensor(np.stack([broken, hand]))
    result = metrics.interaction(hands, torch.tensor(HAND_FACES), torch.tensor(regions), mesh.vertices.double(), mesh)
    for name, column in result.items():
        assert torch.isnan(column).tolist() == [True, False], name
    with pytest.raises(ValueError, match="faces"):
        metrics.penetration_depth(hand, vertices, faces[:0])
    with pytest.raises(ValueError, match="faces"):
        metrics.intersection_volume(hand, HAND_FACES, vertices, faces[:0])
