"""Choosing points by a field, and fields as grids: what is asked, what is found, on fields known in closed form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from horefine.extractors import load_default
from horefine.extractors.hoisdf import Hoisdf, Points
from horefine.extractors.root import Frame
from horefine.extractors.sampling import field_grid, informed_points, sampled_points
from tests.toy_shard import write_toy_shard

Distance = Callable[[Tensor], Tensor]


def sphere(radius: float, scale: float = 1.0):
    def field(points):
        return Points(points, (points.norm(dim=-1) - radius) * scale, points)

    return field


def box_distance(sides: tuple[float, float, float], center: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Distance:
    def distance(points: Tensor) -> Tensor:
        out = (points - torch.tensor(center)).abs() - torch.tensor(sides) / 2
        return out.clamp(min=0).norm(dim=-1) + out.amax(-1).clamp(max=0)

    return distance


def two_spheres(points: Tensor) -> Tensor:
    first = (points - torch.tensor([0.05, 0.01, 0])).norm(dim=-1) - 0.03
    return torch.minimum(first, (points + torch.tensor([0.06, 0.02, -0.01])).norm(dim=-1) - 0.009)


def turned(distance: Distance) -> Distance:
    """About an odd axis: faces and edges lie across the grid."""
    turn = torch.linalg.matrix_exp(torch.tensor([[0.0, -0.7, 0.4], [0.7, 0, -0.3], [-0.4, 0.3, 0]]))
    return lambda points: distance(points @ turn)


FIELDS: dict[str, Distance] = {
    "sphere": lambda points: points.norm(dim=-1) - 0.06,
    "box": turned(box_distance((0.12, 0.08, 0.05))),
    # thinner than a cell of any level (the finest: 3.1 mm), and in the middle between the coarsest level's nodes
    "plate": turned(box_distance((0.12, 0.1, 0.002))),
    "plate_between": box_distance((0.121, 0.103, 0.002), (0.0, 0.0, 0.0125)),
    "two_spheres": two_spheres,
    "flat": lambda points: 0.3 * (points.norm(dim=-1) - 0.06),
    "steep": lambda points: 3 * turned(box_distance((0.12, 0.08, 0.05)))(points),
    "clamped": lambda points: turned(box_distance((0.12, 0.08, 0.01)))(points).clamp(-0.05, 0.05),
    "saturated": lambda points: 0.03 * (two_spheres(points) / 0.03).tanh(),
}


def dense_grid(distance: Distance, resolution: int) -> Tensor:
    steps = torch.linspace(-0.1, 0.1, resolution)
    nodes = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1)
    return distance(nodes.flatten(0, 2)[None]).view(resolution, resolution, resolution)


def crossing_cells(values: Tensor) -> Tensor:
    """Cells whose corners differ in sign."""
    last = values.shape[-1] - 1
    corners = torch.stack(
        [values[x : x + last, y : y + last, z : z + last] for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    )
    return (corners.amin(0) <= 0) & (corners.amax(0) > 0)


def corners_of(cells: Tensor) -> Tensor:
    nodes = torch.zeros([size + 1 for size in cells.shape], dtype=torch.bool)
    last = len(cells)
    for x in (0, 1):
        for y in (0, 1):
            for z in (0, 1):
                nodes[x : x + last, y : y + last, z : z + last] |= cells
    return nodes


LOW, HIGH = torch.full((1, 3), -0.1), torch.full((1, 3), 0.1)


@pytest.mark.parametrize("name", FIELDS)
def test_the_zero_level_is_the_dense_grids(name):
    """Every node of every cell that the surface crosses is asked, every sign is right, little is asked."""
    asked = []

    def distance(points: Tensor) -> Tensor:
        asked.append(points[0])
        return FIELDS[name](points)

    grid = field_grid(distance, LOW, HIGH)
    exact = dense_grid(FIELDS[name], 65)
    cells = crossing_cells(exact)
    assert int(cells.sum()) > 500
    assert torch.equal(crossing_cells(grid.values[0]), cells)
    assert ((grid.values[0] > 0) == (exact > 0)).all()
    error = (grid.values[0] - exact).abs()
    assert float(error[corners_of(cells)].max()) < 1e-6
    points = torch.cat(asked)
    # where a field is flat, much of space could be near its surface for all that is known
    assert len(points) < 64**3 / (2.5 if name == "flat" else 8)
    assert len(((points + 0.1) / 0.003125).round().unique(dim=0)) == len(points), "no node is asked twice"


def test_what_lies_a_little_off_the_surface_is_asked_too():
    """The losses look at the field beside the zero level: two nodes off it, values are the field's own."""
    exact = dense_grid(FIELDS["box"], 65)
    error = (field_grid(FIELDS["box"], LOW, HIGH).values[0] - exact).abs()
    assert error[exact.abs() < 1.5 * 0.2 / 64].max() < 1e-6
    assert error.max() < 0.01


def test_images_of_a_batch_do_not_see_each_other():
    radii = torch.tensor([[0.05], [0.02]])
    low, high = LOW.expand(2, 3), HIGH.expand(2, 3)
    grid = field_grid(lambda points: points.norm(dim=-1) - radii, low, high)
    for image in range(2):
        alone = field_grid(lambda points, image=image: points.norm(dim=-1) - radii[image], LOW, HIGH)
        assert torch.equal(alone.values[0], grid.values[image])
    low = torch.tensor([[0.1, 0.2, 0.3]])
    moved = field_grid(lambda points: (points - 0.3).norm(dim=-1) - 0.05, low, low + 0.2)
    assert torch.allclose(moved.origin, low) and moved.spacing.tolist() == pytest.approx([0.2 / 64])


@pytest.mark.parametrize("resolution", [2, 9, 17, 34, 41])
def test_any_number_of_nodes_will_do(resolution):
    grid = field_grid(FIELDS["box"], LOW, HIGH, resolution)
    exact = dense_grid(FIELDS["box"], resolution)
    assert grid.values.shape == (1, resolution, resolution, resolution)
    assert torch.equal(crossing_cells(grid.values[0]), crossing_cells(exact))


def test_one_node_is_refused():
    with pytest.raises(ValueError, match="resolution: 1 nodes"):
        field_grid(FIELDS["box"], LOW, HIGH, 1)


def test_the_margin_is_what_finds_a_surface_that_hides_between_corners():
    """A field that shows its corners a rise of 1 and falls four times as fast between them: a promise broken."""

    def spike(points: Tensor) -> Tensor:
        away = (points - torch.tensor([0.0125, 0.0125, 0.0125])).norm(dim=-1)
        return torch.minimum(0.05 + 0 * away, 8 * (away - 0.004))

    exact = crossing_cells(dense_grid(spike, 65))
    assert exact.any()
    assert not crossing_cells(field_grid(spike, LOW, HIGH).values[0]).any()
    assert torch.equal(crossing_cells(field_grid(spike, LOW, HIGH, steepness=8.0).values[0]), exact)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The shipped network's fields for a picture: for ``hand`` and ``object``, camera frame, metres."""
    from horefine.extractors.shard_batches import Objects, Scenes
    from horefine.hand import load_hand
    from horefine.objects import OBJECTS, embedded_object

    folder = write_toy_shard(tmp_path_factory.mktemp("data") / "shard_00000", 2)
    objects = Objects.of([embedded_object(name) for name in OBJECTS[:2]])
    batch = Scenes.open(folder, objects, load_hand(kind="embedded"), 1).batch(torch.arange(1).numpy())
    model = load_default("hoisdf")
    assert isinstance(model, Hoisdf)
    frame = Frame.of(batch.matrix, batch.maps["depth"].shape[-1])
    with torch.no_grad():
        seen = model.see(batch.image, batch.extents, frame.focal)
        assert seen.root is not None
        hand, other = seen.root.points(frame)
    centers: dict[str, Tensor] = {"hand": hand, "object": other}

    @torch.no_grad()
    def field(which: str, points: Tensor) -> Tensor:
        return model.field(which, seen, points, centers[which], frame.projection).distance / model.config.scale

    return field, centers


@pytest.mark.parametrize("which", ["hand", "object"])
def test_the_shipped_networks_zero_level(shipped, which):
    """A learned field is no distance: steeper in places, flatter in most. Same cells, same nodes all the same."""
    field, centers = shipped
    low, high, asked = centers[which] - 0.08, centers[which] + 0.08, []

    def distance(points: Tensor) -> Tensor:
        asked.append(points.shape[1])
        return field(which, points)

    found = field_grid(distance, low, high, 33).values[0]
    count = sum(asked)
    steps = torch.arange(33) * (0.16 / 32) - 0.08
    nodes = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1).flatten(0, 2)
    exact = torch.cat([field(which, part) for part in (centers[which] + nodes)[None].split(8192, 1)], 1).view(
        33, 33, 33
    )
    cells = crossing_cells(exact)
    assert int(cells.sum()) > 50
    assert torch.equal(crossing_cells(found), cells)
    assert (found - exact)[corners_of(cells)].abs().max() < 1e-5
    assert count < 33**3


# --- points -----------------------------------------------------------------------------------------------------------


def test_informed_points_lie_near_the_surface():
    found = informed_points(sphere(0.07, 5.0), torch.zeros(2, 3), 0.2, 40)
    assert found.position.shape == (2, 40, 3) and found.features.shape == (2, 40, 3)
    assert (found.position.norm(dim=-1) - 0.07).abs().max() < 0.006
    assert torch.allclose(found.distance, 5 * (found.position.norm(dim=-1) - 0.07), atol=1e-6)
    # all round it, not on one side
    assert found.position.mean(1).abs().max() < 0.03


def test_the_papers_other_ways_to_choose_points():
    center = torch.tensor([[0.1, 0.0, 0.5], [0.0, 0.2, 0.6]])

    def field(points: Tensor) -> Points:
        offset = points - center[:, None]
        return Points(points, 5 * (offset.norm(dim=-1) - 0.07), offset)

    off = {kind: sampled_points(kind, field, center, 5.0, 40) for kind in ("absolute", "signed", "gradient", "random")}
    for found in off.values():
        assert found.position.shape == (2, 40, 3)
        assert torch.equal(found.position - center[:, None], found.features)
        assert torch.equal(found.distance, field(found.position).distance)
    radius = {kind: found.features.norm(dim=-1) for kind, found in off.items()}
    assert radius["signed"].max() < 0.035, "in the middle, where the field is lowest"
    assert (radius["gradient"] - 0.07).abs().max() < 1e-6, "on the surface: the field is a distance"
    assert (radius["absolute"] - 0.07).abs().max() > 1e-4
    assert off["random"].features.abs().amax() <= 0.2 and off["random"].features.std(dim=1).min() > 0.07


def test_random_points_repeat_unless_a_generator_says_otherwise():
    center, field = torch.zeros(3, 3), sphere(0.07, 5.0)
    fixed = sampled_points("random", field, center, 5.0, 9).position
    assert torch.equal(fixed, sampled_points("random", field, center, 5.0, 9).position)
    assert torch.equal(fixed[0], fixed[2])
    generator = torch.Generator().manual_seed(4)
    drawn = sampled_points("random", field, center, 5.0, 9, generator=generator).position
    assert not torch.equal(drawn[0], drawn[2])


def test_moving_points_leaves_no_gradients_behind():
    weight = torch.nn.Parameter(torch.tensor(5.0))

    def field(points: Tensor) -> Points:
        return Points(points, weight * (points.norm(dim=-1) - 0.07), points)

    with torch.no_grad():
        found = sampled_points("gradient", field, torch.zeros(1, 3), 5.0, 8)
    assert weight.grad is None and not found.position.requires_grad and not found.distance.requires_grad
