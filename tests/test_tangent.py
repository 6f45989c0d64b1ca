"""The charts: a step in a chart's coordinate changes a loss as the chart's gradient says (finite differences)."""

import pytest
import torch

from horefine.geometry import Camera, axis_angle_to_matrix, project
from horefine.hand import load_hand
from horefine.mesh import Mesh
from horefine.objects import embedded_object
from horefine.render import make_renderer
from horefine.scene import Features, Pose, Scene
from horefine.tangent import (
    BLOCKS,
    CHARTS,
    QUATERNION_BLOCKS,
    AxisAngle,
    Quaternion,
    Tangent,
    flat_rates,
    flat_to_pose,
    pose_to_flat,
)

BATCH = 2


def random_pose(seed=0, scale=0.8):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    ahead = torch.tensor([0.0, 0.0, 3.0], dtype=torch.float64)
    return Pose(
        normal(BATCH, 16, 3) * scale, normal(BATCH, 10), normal(BATCH, 3) * 0.3 + ahead,
        normal(BATCH, 3), normal(BATCH, 3) * 0.3 + ahead,
    )  # fmt: skip


HAND = load_hand(kind="embedded").to(dtype=torch.float64)
MESH = Mesh.cat([embedded_object("box"), embedded_object("mug")]).to(dtype=torch.float64)
FEATURES = Features(Camera(torch.eye(3, dtype=torch.float64).expand(BATCH, 3, 3), (8, 8)), MESH)
RENDERER = make_renderer(HAND.faces, HAND.codes, MESH, FEATURES.camera, "torch")


def scene_at(pose):
    return Scene(pose, pose, FEATURES, HAND, RENDERER)


def loss(scene):
    """Anything smooth that sees every number of the pose; sized so that slopes are of the order of one."""
    target = torch.linspace(-1, 1, 3, dtype=torch.float64)
    bones = (scene.hand.joints * 9 - target).sin().sum((1, 2)) + (scene.hand.vertices[:, ::40] * 5).cos().sum((1, 2))
    return bones + (scene.object[:, ::50] * 5 + target).cos().sum((1, 2)) / 5


def test_a_pose_in_a_row_stands_where_the_blocks_say():
    pose = random_pose()
    flat = pose_to_flat(pose)
    assert torch.equal(flat[:, BLOCKS["wrist"]], pose.hand_rotvec[:, 0])
    assert torch.equal(flat[:, BLOCKS["shape"]], pose.hand_shape)
    assert torch.equal(flat[:, [*BLOCKS["object_transl"], *BLOCKS["object_depth"]]], pose.object_transl)
    assert torch.equal(flat[:, BLOCKS["object_rotation"]], pose.object_rotvec)
    assert all(torch.equal(value, getattr(pose, name)) for name, value in flat_to_pose(flat).items())


@pytest.mark.parametrize("chart", [Tangent, AxisAngle])
@pytest.mark.parametrize("scale", [0.0, 1e-5, 0.8, 2.0])
def test_gradient_is_the_slope_along_every_coordinate(chart, scale):
    pose = random_pose(3, scale)
    leaf = pose.map(lambda value: value.clone().requires_grad_())
    scene = scene_at(leaf)
    gradients = torch.autograd.grad(loss(scene).sum(), [v for _, v in leaf.items()], allow_unused=True)
    gradient = Pose(
        *(torch.zeros_like(v) if g is None else g for (_, v), g in zip(leaf.items(), gradients, strict=True))
    )
    flat = chart.gradient(scene, gradient)
    size = 1e-6
    for column in range(67):
        step = torch.zeros(BATCH, 67, dtype=torch.float64)
        step[:, column] = size
        slope = (loss(scene_at(chart.move(scene, step))) - loss(scene_at(chart.move(scene, -step)))) / (2 * size)
        assert torch.allclose(flat[:, column], slope, atol=2e-6), column


@pytest.mark.parametrize("scale", [0.0, 1e-5, 0.8])
def test_the_quaternion_chart_adds_its_penalty_and_remembers_lengths(scale):
    generator = torch.Generator().manual_seed(7)
    push = 0.1 * torch.randn(BATCH, 83, generator=generator, dtype=torch.float64)

    def pushed(step):
        """Loss and penalty one push and one small step from the same beginning."""
        chart, pose = Quaternion(), random_pose(3, scale)
        scene = scene_at(chart.move(scene_at(pose), push))
        scene = scene_at(chart.move(scene, step))
        return chart, scene, loss(scene) + sum(chart.penalty(scene).values())

    chart, scene, _ = pushed(torch.zeros_like(push))
    leaf = scene.pose.map(lambda value: value.detach().requires_grad_())
    scene = scene_at(leaf)
    assert chart.penalty(scene)["quaternion_norm"].min() > 1e-3
    slopes = chart.gradient(scene, Pose(*torch.autograd.grad(loss(scene).sum(), [v for _, v in leaf.items()])))
    for column in range(83):
        step = torch.zeros_like(push)
        step[:, column] = 1e-6
        slope = (pushed(step)[2] - pushed(-step)[2]) / 2e-6
        assert torch.allclose(slopes[:, column], slope, atol=2e-6), column


def test_a_tangent_turn_keeps_the_middle_in_place():
    pose = random_pose(1)
    scene = scene_at(pose)
    step = torch.zeros(BATCH, 67, dtype=torch.float64)
    step[:, 3:6], step[:, 64:67] = 0.7, -0.4
    moved = scene_at(Tangent.move(scene, step))
    assert torch.allclose(moved.hand.vertices.mean(1), scene.hand.vertices.mean(1))
    assert torch.allclose(moved.object_center, scene.object_center)
    assert not torch.allclose(moved.hand.vertices, scene.hand.vertices, atol=0.05)


def test_depth_keeps_the_middle_on_its_pixel_and_takes_the_hand_along():
    pose = random_pose(5)
    scene = scene_at(pose)
    step = torch.zeros(BATCH, 67, dtype=torch.float64)
    step[:, 63] = 0.4
    moved = scene_at(Tangent.move(scene, step))
    eye = torch.eye(3, dtype=torch.float64).expand(BATCH, 3, 3)
    for before, after in (
        (scene.object_center, moved.object_center),
        (scene.hand.vertices.mean(1), moved.hand.vertices.mean(1)),
    ):
        assert torch.allclose(after[:, 2] - before[:, 2], torch.full((BATCH,), 0.4, dtype=torch.float64))
        assert torch.allclose(project(after[:, None], eye), project(before[:, None], eye))


def test_no_step_is_no_move():
    pose = random_pose(2)
    for chart in CHARTS.values():
        columns = sum(map(len, chart.blocks.values()))
        moved = chart().move(scene_at(pose), torch.zeros(BATCH, columns, dtype=torch.float64))
        for name, value in pose.items():
            same = axis_angle_to_matrix if name.endswith("rotvec") else (lambda x: x)
            assert torch.allclose(same(getattr(moved, name)), same(value), atol=1e-7), name


def test_blocks_cover_every_column_once():
    assert sorted(c for columns in BLOCKS.values() for c in columns) == list(range(67))
    assert [c for columns in QUATERNION_BLOCKS.values() for c in columns] == list(range(83))
    rates = flat_rates({"wrist": 0.5}, torch.zeros(1))
    assert rates[3:6].eq(0.5).all() and rates.sum() == 1.5
