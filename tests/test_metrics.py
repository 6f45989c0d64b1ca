"""Metrics against numbers that the official scripts printed (recorded on our synthetic hand), and closed forms."""

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from horefine import metrics
from horefine.distance import winding_number
from horefine.geometry import axis_angle_to_matrix
from horefine.intersection import close_holes, intersection_volume, signed_volume
from horefine.mesh import Mesh

DATA = Path(__file__).parent / "data"


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{name}.npz") as stored:
        return dict(stored)


HAND_FACES = load("synth_hand")["faces"].astype(np.int64)


def scene(number: int, state: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Hand vertices in a state, object vertices and faces, and what was recorded of that state."""
    grasp, recorded = load(f"contact_gt_{number}"), load(f"metrics_{number}")
    hand = grasp["hand_verts"].astype(np.float64) + recorded[f"{state}_shift"]
    of_state = {k.removeprefix(f"{state}_"): v for k, v in recorded.items()}
    return hand, grasp["obj_verts"], grasp["obj_faces"], of_state


scenes = pytest.mark.parametrize("number", [0, 1])
states = pytest.mark.parametrize("state", ["touch", "deep", "apart"])


# --- pose errors -------------------------------------------------------------------------------------------------


def test_hand_and_object_errors_are_mean_distances_in_millimetres() -> None:
    points = torch.randn(2, 5, 3)
    moved = points + torch.tensor([[[0.003, 0.0, 0.004]], [[0.0, 0.0, 0.0]]])
    torch.testing.assert_close(metrics.hand_error(moved, points), torch.tensor([5.0, 0.0]), rtol=1e-4, atol=1e-4)
    mask = torch.tensor([[True, False, False, False, False]] * 2)
    moved[:, 1:] += 1
    torch.testing.assert_close(
        metrics.object_error(moved, points, mask), torch.tensor([5.0, 0.0]), rtol=1e-4, atol=1e-4
    )


def test_hand_to_object_error_forgets_a_common_shift() -> None:
    hand, centre = torch.randn(1, 7, 3), torch.randn(1, 3)
    shift = torch.tensor([[0.1, 0.2, 0.3]])
    slip = torch.tensor([[0.0, 0.002, 0.0]])
    error = metrics.hand_to_object_error(hand + shift[:, None] + slip[:, None], centre + shift, hand, centre)
    torch.testing.assert_close(error, torch.tensor([2.0]), rtol=1e-3, atol=1e-3)


def test_ho3d_scores_and_alignments() -> None:
    """shreyashampali/ho3d eval.py: errors in cm, AUC to 5 cm, F-scores; sample 5 is a mirrored prediction."""
    o = load("ho3d_eval")
    score = dict(zip(o["score_names"].tolist(), o["score_vals"].tolist(), strict=True))
    joints, true_joints = torch.tensor(o["pred_xyz"]), torch.tensor(o["gt_xyz"])
    verts, true_verts = torch.tensor(o["pred_verts"]), torch.tensor(o["gt_verts64"])
    aligned = metrics.procrustes(joints, true_joints, reflection=True)
    scaled = metrics.scale_translation(joints, true_joints, bone=(0, 4))
    np.testing.assert_allclose(aligned, o["xyz_aligned"], atol=1e-8)
    np.testing.assert_allclose(scaled, o["xyz_scale_trans"], atol=1e-9)
    aligned_verts = metrics.procrustes(verts, true_verts, reflection=True)
    for name, ours, truth in (
        ("xyz_{}3d", joints, true_joints),
        ("xyz_procrustes_al_{}3d", aligned, true_joints),
        ("xyz_scale_trans_al_{}3d", scaled, true_joints),
        ("mesh_{}3d", verts, true_verts),
        ("mesh_al_{}3d", aligned_verts, true_verts),
    ):
        errors = (ours - truth).norm(dim=-1) * 1e3
        assert float(errors.mean()) / 10 == pytest.approx(score[name.format("mean")], abs=1e-6)
        assert metrics.auc(errors) == pytest.approx(score[name.format("auc")], abs=1e-6)
    for k, threshold in enumerate((5.0, 15.0)):  # what the script calls precision is recall, and the other way round
        raw = torch.stack(metrics.f_score(verts, true_verts, threshold), -1)
        np.testing.assert_allclose(raw, o["fscore"][:, k, [0, 2, 1]], atol=1e-12)
        both = torch.stack(metrics.f_score(aligned_verts, true_verts, threshold), -1)
        np.testing.assert_allclose(both, o["fscore_aligned"][:, k, [0, 2, 1]], atol=1e-12)
        assert float(raw[:, 0].mean()) == pytest.approx(score[f"f_score_{threshold:.0f}"], abs=1e-6)


def test_dexycb_hand_scores() -> None:
    """dex_ycb_toolkit hpe_eval.py, from its own submission text."""
    o = load("dexycb_hpe")
    rows = [np.fromstring(line, sep=",") for line in str(o["res_txt"]).splitlines() if line]
    predicted = {int(row[0]): row[1:].reshape(21, 3) for row in rows}
    ours = torch.tensor(np.stack([predicted[int(i)] for i in o["ids"]])) / 1e3
    true = torch.tensor(o["gt_mm"]) / 1e3
    for name, align in (("absolute", "none"), ("root-relative", "root"), ("procrustes", "procrustes")):
        error = metrics.mean_joint_error(ours, true, align=align, reflection=True)
        assert float(error.mean()) == pytest.approx(float(o[f"{name}_mpjpe"]), abs=1e-8)
    relative = (ours - ours[:, :1] - true + true[:, :1]).norm(dim=-1) * 1e3
    assert metrics.auc(relative) == pytest.approx(float(o["root-relative_auc"]), abs=1e-8)


def test_bop_add_and_adi() -> None:
    """bop_toolkit pose_error.add and adi (millimetres there, metres here)."""
    o = load("bop_errors")
    points = o["pts"] / 1e3
    ours = torch.tensor(points @ o["R_est"].transpose(0, 2, 1) + o["t_est"].transpose(0, 2, 1) / 1e3)
    true = torch.tensor(points @ o["R_gt"].transpose(0, 2, 1) + o["t_gt"].transpose(0, 2, 1) / 1e3)
    np.testing.assert_allclose(metrics.add(ours, true), o["add"], atol=1e-9)
    np.testing.assert_allclose(metrics.add_s(ours, true), o["adi"], atol=1e-9)
    np.testing.assert_allclose(metrics.add_s(true, ours, over="predicted"), o["adi"], atol=1e-9)
    mask = torch.arange(210) < 200
    ours, true = (torch.cat([p, p[:, -1:].expand(-1, 10, -1)], 1) for p in (ours, true))
    np.testing.assert_allclose(metrics.add(ours, true, mask.expand(8, -1)), o["add"], atol=1e-9)
    np.testing.assert_allclose(metrics.add_s(ours, true, mask.expand(8, -1)), o["adi"], atol=1e-9)


def test_procrustes_undoes_a_similarity_but_no_mirror() -> None:
    points = torch.randn(3, 21, 3, dtype=torch.float64)
    turn = axis_angle_to_matrix(torch.randn(3, 3, dtype=torch.float64))
    moved = 1.7 * points @ turn.mT + torch.randn(3, 1, 3, dtype=torch.float64)
    torch.testing.assert_close(metrics.procrustes(moved, points), points)
    mirrored = moved * torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(metrics.procrustes(mirrored, points, reflection=True), points)
    assert (metrics.mean_joint_error(mirrored, points, align="procrustes") > 100).all()


def test_centre_and_corner_errors() -> None:
    cube = torch.tensor(trimesh.creation.box((0.1, 0.1, 0.1)).vertices)[None]
    shift = torch.tensor([[0.0, 0.003, 0.004]], dtype=torch.float64)
    torch.testing.assert_close(metrics.oce(shift, 0 * shift), torch.tensor([5.0], dtype=torch.float64))
    torch.testing.assert_close(metrics.mce(cube + shift[:, None], cube), torch.tensor([5.0], dtype=torch.float64))
    turn = axis_angle_to_matrix(torch.tensor([0.0, 0.0, torch.pi / 4], dtype=torch.float64))
    # the camera-parallel box of a cube turned by 45 degrees: its x and y sides are sqrt(2) longer
    grown = torch.tensor([0.05 * (2**0.5 - 1) * 2**0.5 * 1e3], dtype=torch.float64)
    torch.testing.assert_close(metrics.mce(cube @ turn.mT, cube), grown)


def test_auc_of_known_curves() -> None:
    assert metrics.auc(torch.zeros(4)) == pytest.approx(1.0)
    assert metrics.auc(torch.full((4,), 51.0)) == 0.0
    assert metrics.auc(torch.linspace(0, 50, 5001)) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    "call",
    [
        lambda p: metrics.mean_joint_error(p, p, align="wrist"),
        lambda p: metrics.add_s(p, p, over="both"),
        lambda p: metrics.penetration_depth(p[0].numpy(), p[0].numpy(), np.array([[0, 1, 2]]), variant="deep"),
        lambda p: metrics.disjointness(p[0].numpy(), np.zeros(21, int), p[0].numpy(), variant="palm"),
        lambda p: metrics.mean_vertex_error(p, p, align="bone"),
        lambda p: intersection_volume(p[0].numpy(), HAND_FACES[:1], p[0].numpy(), HAND_FACES[:1], method="magic"),
    ],
)
def test_an_unknown_variant_is_named(call) -> None:
    with pytest.raises(ValueError, match=r"wrist|both|deep|palm|bone|magic"):
        call(torch.randn(1, 21, 3, dtype=torch.float64))


# --- interaction -------------------------------------------------------------------------------------------------


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
@pytest.mark.parametrize("state", ["touch", "deep"])
def test_intersection_volume_is_the_boolean_one(number: int, state: str) -> None:
    """manifold3d's exact volume, recorded; rays within 0.1 %, voxels within 1 %."""
    hand, vertices, faces, _ = scene(number, state)
    exact = float(load(f"metrics_exact_{number}")[f"{state}_exact_intersection_m3"]) * 1e6
    assert metrics.intersection_volume(hand, HAND_FACES, vertices, faces) == pytest.approx(exact, rel=1e-3)
    voxels = metrics.intersection_volume(hand, HAND_FACES, vertices, faces, method="voxels")
    assert voxels == pytest.approx(exact, rel=1e-2)


def test_intersection_volume_apart_is_zero() -> None:
    hand, vertices, faces, _ = scene(0, "apart")
    assert metrics.intersection_volume(hand, HAND_FACES, vertices, faces) == 0.0


@scenes
def test_intersection_volume_by_boolean(number: int) -> None:
    pytest.importorskip("manifold3d", reason="manifold3d is optional")
    hand, vertices, faces, _ = scene(number, "touch")
    exact = float(load(f"metrics_exact_{number}")["touch_exact_intersection_m3"])
    assert intersection_volume(hand, HAND_FACES, vertices, faces, method="boolean") == pytest.approx(exact, rel=1e-6)


@scenes
@states
def test_disjointness_as_cpf(number: int, state: str) -> None:
    hand, vertices, _, recorded = scene(number, state)
    regions = load(f"metrics_{number}")["region_assignment"]
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
    regions = load("metrics_1")["region_assignment"]
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
    regions = load("metrics_0")["region_assignment"]
    result = metrics.interaction(hands, torch.tensor(HAND_FACES), torch.tensor(regions), mesh.vertices.double(), mesh)
    for k, (hand, vertices, faces, _) in enumerate(rows):
        volume = metrics.intersection_volume(hand, HAND_FACES, vertices, faces)
        assert float(result["pd_mm"][k]) == pytest.approx(metrics.penetration_depth(hand, vertices, faces), abs=1e-3)
        assert float(result["siv_cm3"][k]) == pytest.approx(volume, abs=1e-3)
        assert int(result["contact_regions"][k]) == metrics.contact_regions(hand, regions, vertices, faces)
    assert float(result["gap_mm"][2]) > 10 and float(result["gap_mm"][0]) == 0
