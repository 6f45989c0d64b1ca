"""Measures on grids against what the papers' official code printed (obman with its trimesh, CPF, gSDF)."""

import numpy as np
import pytest
import trimesh
from oracles import load

from horefine import metrics

HAND_FACES = load("synth_hand").faces.astype(np.int64)
scenes = pytest.mark.parametrize("number", [0, 1])
states = pytest.mark.parametrize("state", ["touch", "deep", "apart"])


def posed(number: int, state: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hand vertices in a state, object vertices and faces."""
    grasp, recorded = load(f"contact_gt_{number}"), load(f"metrics_{number}")
    return grasp.hand_verts.astype(np.float64) + getattr(recorded, f"{state}_shift"), grasp.obj_verts, grasp.obj_faces


@scenes
@states
def test_solid_voxels_as_obman(number: int, state: str) -> None:
    """Count for count: intersect_vox on trimesh 2.37, with which the papers' numbers were made."""
    hand, vertices, faces = posed(number, state)
    recorded = load(f"metrics_trimesh237_{number}")
    for pitch, name in ((0.005, "5mm"), (0.0025, "2.5mm")):
        voxels = metrics.solid_voxels(vertices, faces, pitch)
        if pitch == 0.005:
            assert len(voxels) == int(getattr(recorded, f"{state}_n_vox_5mm"))
        volume = metrics.voxel_intersection_volume(hand, HAND_FACES, voxels, pitch**3)
        assert volume == pytest.approx(float(getattr(recorded, f"{state}_ivox_solid_{name}_m3")) * 1e6, abs=1e-9)


@scenes
@states
def test_voxel_volume_counts_as_cpf(number: int, state: str) -> None:
    hand, _, _ = posed(number, state)
    grasp, stored = load(f"contact_gt_{number}"), load(f"metrics_{number}")
    voxels = stored.vox_points_can.astype(np.float64) @ grasp.obj_rotmat.T + grasp.obj_tsl
    volume = metrics.voxel_intersection_volume(hand, HAND_FACES, voxels, float(stored.vox_el_vol))
    assert volume == pytest.approx(float(getattr(stored, f"{state}_siv_solid_m3")) * 1e6, rel=1e-6)


@scenes
def test_filled_voxels_are_the_cloud_that_cpf_wants(number: int) -> None:
    """The recorded cloud is of a newer trimesh; cells that are touched in a single point may differ."""
    grasp, stored = load(f"contact_gt_{number}"), load(f"metrics_{number}").vox_points_can
    ours = metrics.solid_voxels(grasp.obj_verts_can, grasp.obj_faces, 0.0025, variant="filled")
    ours, theirs = ({tuple(cell) for cell in np.round(cloud / 0.0025).astype(int)} for cloud in (ours, stored))
    assert theirs <= ours
    assert len(ours - theirs) <= 0.005 * len(theirs)


def test_voxels_of_a_box() -> None:
    box = trimesh.creation.box((0.02, 0.02, 0.02))
    vertices, faces = np.asarray(box.vertices) + 0.0001, np.asarray(box.faces)
    filled = metrics.solid_voxels(vertices, faces, 0.005, variant="filled")
    assert len(filled) == 5**3  # from cell -2 to cell 2
    np.testing.assert_allclose(metrics.solid_voxels(vertices, faces, 0.005), filled - 0.0025, atol=1e-12)
    assert len(metrics.solid_voxels(vertices, faces[1:], 0.005)) <= 5**3 - 3**3  # open: its surface alone
    with pytest.raises(ValueError, match="binvox"):
        metrics.solid_voxels(vertices, faces, 0.005, variant="binvox")
    with pytest.raises(ValueError, match="pitch"):
        metrics.solid_voxels(vertices, faces, 0.0)


@states
def test_contact_on_a_lattice_as_gsdf(state: str) -> None:
    o = load("gsdf_metrics")
    shift = [float(getattr(o, f"contact_{state}_shift")), *o.contact_extra_shift_yz.tolist()]
    result = metrics.grid_contact(
        o.contact_hand_verts.astype(np.float64),
        o.contact_hand_faces.astype(np.int64),
        o.contact_obj_verts_unshifted + np.asarray(shift),
        o.contact_obj_faces.astype(np.int64),
    )
    touching, depth_cm, volume_cm3 = getattr(o, f"contact_{state}_result").tolist()
    assert result.touching == bool(touching)
    assert result.depth_mm / 10 == pytest.approx(depth_cm, abs=1e-6)
    assert result.volume_cm3 == pytest.approx(volume_cm3, abs=1e-9)


@scenes
@states
def test_depth_on_a_grid_is_near_the_exact_one(number: int, state: str) -> None:
    hand, vertices, faces = posed(number, state)
    exact = metrics.penetration_depth(hand, vertices, faces)
    depth = metrics.penetration_depth(hand, vertices, faces, variant="grid")
    assert depth == pytest.approx(exact, abs=0.6)  # nodes are up to 4 mm apart
    assert metrics.grid_penetration_depth(hand, vertices, faces, misread=True) <= depth
    if state == "deep":
        assert depth > 4
