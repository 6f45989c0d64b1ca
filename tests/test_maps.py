"""Exact maps against geometry and against the renderer; noise and disturbances against what they promise."""

import numpy as np
import pytest
import torch

from horefine.data.maps import LEVELS, Part, corrupt, disturb, exact_features, part_maps
from horefine.data.raster import interpolate, zbuffer
from horefine.geometry import Camera, axis_angle_to_matrix, project
from horefine.hand import HandModel
from horefine.mesh import Mesh
from horefine.render import make_renderer
from horefine.scene import Features, Pose

SIZE = (64, 64)


def square(x0: float, x1: float, z: float) -> Part:
    """A square sheet x0..x1 in x and y at a depth; its codes are its position plus a half."""
    vertices = np.array([[x0, x0, z], [x1, x0, z], [x1, x1, z], [x0, x1, z]], np.float32)
    return Part(vertices, np.array([[0, 1, 2], [0, 2, 3]], np.int32), vertices + 0.5)


def pinhole(focal: float = 100.0) -> np.ndarray:
    return np.array([[focal, 0, 31.5], [0, focal, 31.5], [0, 0, 1]])


@pytest.fixture(scope="module")
def scene() -> tuple[HandModel, Pose, Mesh, Camera]:
    """Two hands before two balls."""
    import trimesh

    model = HandModel.embedded()
    ball = trimesh.creation.icosphere(3, 0.04)
    mesh = Mesh.cat([Mesh.from_arrays(ball.vertices * scale, ball.faces, name="ball") for scale in (1.0, 0.7)])
    generator = torch.Generator().manual_seed(1)
    rotvec = torch.randn(2, 16, 3, generator=generator) * 0.15
    rotvec[:, 0] = torch.tensor([[0.3, 1.2, -0.4], [2.0, 0.3, 0.5]])
    transl = torch.tensor([[0.09, 0.0, 0.5], [0.02, 0.03, 0.6]])
    shape = torch.randn(2, 10, generator=generator)
    pose = Pose(
        rotvec, shape, transl, torch.tensor([[0.2, 0.1, 0.0], [0.0, 1.0, 0.3]]), torch.tensor([[0.0, 0.0, 0.55]] * 2)
    )
    matrix = torch.tensor([[180.0, 0, 31.5], [0, 180.0, 31.5], [0, 0, 1]]).expand(2, 3, 3)
    return model, pose, mesh, Camera(matrix, SIZE)


def test_sheet_covers_the_pixels_it_should() -> None:
    # 10 pixels to 10 cm at 1 m: -0.1 .. 0.1 reaches from pixel 21.5 to 41.5, whose edges are pixel borders
    masks, codes, depth, visible = part_maps([square(-0.1, 0.1, 1.0), square(3, 4, 1.0)], pinhole(), SIZE)
    expected = np.zeros(SIZE, np.float32)
    expected[22:42, 22:42] = 1
    np.testing.assert_allclose(masks[0], expected, atol=1e-6)
    assert masks[1].max() == 0 and codes[1].max() == 0
    np.testing.assert_allclose(depth, expected, atol=1e-5)
    x = (np.arange(64) - 31.5) / 100
    np.testing.assert_allclose(codes[0, 0][expected > 0], np.broadcast_to(x + 0.5, SIZE)[expected > 0], atol=1e-5)
    assert visible[0] == pytest.approx(1)


def test_rim_pixels_are_partly_covered_and_keep_a_code() -> None:
    masks, codes, _, _ = part_maps([square(-0.1025, 0.1, 1.0), square(3, 4, 1.0)], pinhole(), SIZE)
    assert masks[0, 30, 21] == pytest.approx(0.25)
    assert 0.3 < codes[0, 0, 30, 21] < 0.5


def test_the_nearer_part_hides_and_what_is_neither_hides_too() -> None:
    parts = [square(-0.1, 0.1, 1.0), square(-0.05, 0.05, 0.9), square(-0.02, 0.02, 0.5)]
    masks, codes, depth, visible = part_maps(parts, pinhole(), SIZE)
    assert masks[:, 32, 32].max() == 0 and depth[32, 32] == 0  # behind the sheet that is nobody's
    assert masks[1, 32, 27] == 1 and masks[0, 32, 27] == 0 and depth[32, 27] == pytest.approx(0.9)
    assert np.all(masks.sum(0) <= 1 + 1e-6)
    assert visible[1] < 1 and codes[0][:, masks[0] == 0].max() == 0


def test_zbuffer_draws_into_given_buffers_and_skips_what_is_behind() -> None:
    near, far = square(-0.05, 0.05, 0.9), square(-0.1, 0.1, 1.0)
    buffers = zbuffer(far.vertices, far.faces, pinhole(), SIZE)
    ids, inverse = zbuffer(near.vertices, near.faces, pinhole(), SIZE, into=buffers, offset=2)
    assert set(np.unique(ids)) == {-1, 0, 1, 2, 3}
    assert inverse[32, 32] == pytest.approx(1 / 0.9)
    behind = square(-0.1, 0.1, -1.0)
    assert zbuffer(behind.vertices, behind.faces, pinhole(), SIZE)[0].max() == -1


def test_interpolation_is_perspective_correct() -> None:
    tilted = Part(np.array([[-1, -1, 2], [1, -1, 4], [1, 1, 4], [-1, 1, 2]], np.float32), square(0, 1, 1).faces)
    ids, inverse = zbuffer(tilted.vertices, tilted.faces, pinhole(40), SIZE)
    drawn = interpolate(tilted.vertices, tilted.faces, pinhole(40), tilted.vertices, ids)
    seen = ids >= 0
    assert seen.sum() > 500
    np.testing.assert_allclose(drawn[..., 2][seen], 1 / inverse[seen], rtol=1e-4)
    columns = np.broadcast_to((np.arange(64) - 31.5) / 40, SIZE)
    np.testing.assert_allclose((drawn[..., 0] / drawn[..., 2])[seen], columns[seen], atol=1e-4)


def test_maps_agree_with_the_renderer(scene) -> None:
    model, pose, mesh, camera = scene
    features, visible = exact_features(pose, model, mesh, camera)
    hand = model(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).vertices
    thing = mesh.vertices @ axis_angle_to_matrix(pose.object_rotvec).mT + pose.object_transl[:, None]
    drawn = make_renderer(model.faces, model.codes, mesh, camera, "cpu")(hand, thing)
    for k, name in enumerate(("hand", "object")):
        mask = getattr(features, f"{name}_mask")
        other = getattr(features, ("object_mask", "hand_mask")[k])
        alone = other == 0
        assert (mask - drawn.masks[:, k])[alone].abs().max() < 0.4  # 16 samples against the exact area
        assert (mask - drawn.masks[:, k])[alone].abs().mean() < 0.004
        inner = mask == 1
        assert inner.sum() > 100
        coords = getattr(features, f"{name}_coords")
        assert (coords - drawn.coords[:, k]).abs().amax(1)[inner].max() < 1e-4
        depth = features.depth + (mesh.center + pose.object_transl)[:, 2, None, None]
        assert (depth - drawn.depth[:, k])[inner].abs().max() < 1e-4
    assert ((visible > 0) & (visible <= 1)).all()


def test_codes_are_where_the_surface_projects(scene) -> None:
    """Every hand pixel's code is the code of a surface point that projects into that pixel."""
    model, pose, mesh, camera = scene
    features, _ = exact_features(pose, model, mesh, camera)
    hand = model(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).vertices
    pixels = project(hand, camera.matrix)
    for i in range(2):
        rows, columns = torch.nonzero(features.hand_mask[i] == 1, as_tuple=True)
        codes = features.hand_coords[i][:, rows, columns].T
        nearest = torch.cdist(codes, model.codes).argmin(1)
        gap = (pixels[i, nearest] - torch.stack([columns, rows], -1)).norm(dim=-1)
        assert gap.median() < 2.0  # vertices are a few pixels apart


def test_contact_comes_along(scene) -> None:
    model, pose, mesh, camera = scene
    features, _ = exact_features(pose, model, mesh, camera)
    assert features.contact is not None and features.contact.region.shape == (2, mesh.vertices.shape[1])
    assert exact_features(pose, model, mesh, camera, contact=False)[0].contact is None


@pytest.fixture(scope="module")
def features(scene) -> Features:
    model, pose, mesh, camera = scene
    return exact_features(pose, model, mesh, camera)[0]


def test_corrupt_leaves_exact_maps_alone_and_refuses_unknown_levels(features: Features) -> None:
    assert corrupt(features, "exact", 0) is features
    with pytest.raises(ValueError, match=r"n03.*known: exact, n02"):
        corrupt(features, "n03", 0)


@pytest.mark.parametrize("level", ["n02", "n05"])
def test_independent_noise_has_the_stated_size(features: Features, level: str) -> None:
    noisy = corrupt(features, level, 3)
    noise = LEVELS[level]
    inner = (features.hand_mask == 1) & (noisy.hand_mask > 0.5)
    middle = inner[:, None] & (features.hand_coords > 0.2) & (features.hand_coords < 0.8)
    change = (noisy.hand_coords - features.hand_coords)[middle]
    spread = 1.4826 * change.abs().median()  # outliers do not count
    assert spread == pytest.approx(noise.code, rel=0.25)
    depth = (noisy.depth - features.depth)[inner]
    assert 1.4826 * depth.abs().median() == pytest.approx(noise.depth, rel=0.3)


def test_network_like_noise_is_smooth(features: Features) -> None:
    change = (corrupt(features, "c02", 1).hand_coords - features.hand_coords).numpy()
    inside = (features.hand_mask == 1).numpy()

    def alike(step: int) -> float:
        both = inside & np.roll(inside, step, 2)
        a, b = (change[:, 0][both], np.roll(change[:, 0], step, 2)[both])
        keep = (np.abs(a) < 0.1) & (np.abs(b) < 0.1)
        return float(np.corrcoef(a[keep], b[keep])[0, 1])

    assert alike(1) > 0.4 > 0.3 > abs(alike(20))


def test_corrupt_is_seeded_and_an_image_does_not_see_its_neighbours(features: Features) -> None:
    first = corrupt(features, "c01", 5)
    assert torch.equal(first.hand_coords, corrupt(features, "c01", 5).hand_coords)
    assert not torch.equal(first.hand_coords, corrupt(features, "c01", 6).hand_coords)
    alone = corrupt(features[:1], "c01", 5)
    assert torch.equal(first.hand_coords[:1], alone.hand_coords)
    assert (first.hand_coords >= 0).all() and (first.hand_coords <= 1).all()
    assert (
        corrupt(Features(features.camera, features.object, features.hand_mask, features.object_mask), "n02", 0).depth
        is None
    )


def test_disturb_moves_by_what_was_asked(scene) -> None:
    model, pose, mesh, _ = scene
    start = disturb(pose, 4, 15, 20, 10, model=model, object_center=mesh.center)

    def angle(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        trace = (axis_angle_to_matrix(a).mT @ axis_angle_to_matrix(b)).diagonal(dim1=-2, dim2=-1).sum(-1)
        return torch.rad2deg(((trace - 1) / 2).clamp(-1, 1).acos())

    torch.testing.assert_close(
        angle(pose.object_rotvec, start.object_rotvec), torch.full((2,), 15.0), atol=0.05, rtol=0
    )
    turned = angle(pose.hand_rotvec, start.hand_rotvec)
    torch.testing.assert_close(turned[:, 0], torch.full((2,), 15.0), atol=0.05, rtol=0)
    torch.testing.assert_close(turned[:, 1:], torch.full((2, 15), 10.0), atol=0.05, rtol=0)
    assert start.hand_shape.abs().max() == 0

    def wrist(p: Pose) -> torch.Tensor:
        return model.rest_joints(p.hand_shape)[:, 0] + p.hand_transl

    torch.testing.assert_close((wrist(start) - wrist(pose)).norm(dim=-1), torch.full((2,), 0.02), atol=1e-5, rtol=0)
    assert torch.equal(disturb(pose, 4, keep_shape=True).hand_shape, pose.hand_shape)


def test_disturb_turns_the_object_about_the_given_centre_and_is_seeded(scene) -> None:
    _, pose, _, _ = scene
    centre = torch.tensor([[0.1, -0.2, 0.05]] * 2)
    start = disturb(pose, 9, object_center=centre)

    def place(p: Pose) -> torch.Tensor:
        return (axis_angle_to_matrix(p.object_rotvec) @ centre[..., None])[..., 0] + p.object_transl

    torch.testing.assert_close((place(start) - place(pose)).norm(dim=-1), torch.full((2,), 0.02), atol=1e-5, rtol=0)
    again, alone = disturb(pose, 9, object_center=centre), disturb(pose[:1], 9, object_center=centre[:1])
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(start.items(), again.items(), strict=True))
    torch.testing.assert_close(start.hand_rotvec[:1], alone.hand_rotvec)
    assert not torch.equal(start.hand_transl, disturb(pose, 10, object_center=centre).hand_transl)
