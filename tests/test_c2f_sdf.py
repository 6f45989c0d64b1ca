"""The published C2F-SDF equals what the authors' code computed: network, crop, cells, losses.

The numbers in ``data/c2f_sdf`` were recorded from the authors' code with made-up weights (no trained ones) and cut down
(:data:`CUTS`). All recorded arrays: ``python -m benchmarks.parity_c2f_sdf FOLDER``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import torch

from benchmarks import parity_c2f_sdf as parity
from horefine.errors import ConfigError, SurfaceError
from horefine.extractors import c2f_sdf_points as points_of
from horefine.extractors.c2f_sdf import DEXYCB, OBMAN, C2fConfig, C2fSdf
from horefine.extractors.c2f_sdf_cells import Cells, merged_heat, ser_cells, splat_points
from horefine.extractors.c2f_sdf_checkpoints import names_c2f
from horefine.extractors.c2f_sdf_crop import draw_points, normal_depth, obman_depth, official_box, official_c2f_crop
from horefine.extractors.c2f_sdf_losses import awr_decode, awr_targets, heat_target
from horefine.extractors.c2f_sdf_points import Place, cloud_of
from horefine.extractors.root import Frame
from horefine.extractors.surface_official import cell_surface
from tests.c2f_sdf_files import unused

DATA = Path(__file__).parent / "data" / "c2f_sdf"
CUTS = {
    "enc/c1_sub": (4, 4, 4), "enc/c2_sub": (4, 2, 2), "enc/c3_sub": (4, 4, 4), "enc/c4": (8,), "enc/feat": (8, 8, 8),
    "enc/heatmap": (1, 4, 4, 4), "enc/awr_out_sub": (2, 2, 2), "enc/rgb4_sub": (8,), "enc/depth4_sub": (8,),
    "mano/verts": (8,), "pcl/img_weight": (8,), "pcl/img_index": (2,), "pcl/feat": (32,), "q/pixel_feat": (16, 2),
    "q/pixel_latent": (16,), "q/knn_weight_hand": (8,), "q/knn_weight_obj": (8,), "q/point_feat_hand": (16,),
    "q/point_feat_obj": (16,), "ser/heatmap_merged": (3, 1, 1), "ser/hm_target_obj": (1, 1, 1),
    "pre/pcl_full_head": (8,),
}  # fmt: skip
"""Every how manieth is kept along each axis."""


def cut(name: str, value: torch.Tensor) -> torch.Tensor:
    return value[tuple(slice(None, None, step) for step in CUTS.get(name, ()))]


def differing(found: parity.Arrays, stored: parity.Arrays, *starts: str) -> list[dict]:
    """Arrays of the recording beyond their tolerance; all those beginning so must have been computed."""
    wanted = {name for name in stored if name.startswith(starts)} - parity.aside(stored)
    assert wanted and not wanted - set(found)
    rows = parity.compare({name: cut(name, value) for name, value in found.items() if name in wanted}, stored)
    return [row for row in rows if row["ratio"] > 1]


@pytest.fixture(scope="module")
def recorded() -> parity.Arrays:
    return parity.load(DATA / "network.npz")


@pytest.fixture(scope="module")
def cells() -> parity.Arrays:
    return parity.load(DATA / "cells.npz")


@pytest.fixture(scope="module")
def network() -> C2fSdf:
    return parity.network_of()


# --- the authors' numbers ---------------------------------------------------------------------------------------------


def test_network_and_losses_equal_the_authors(network, recorded):
    found = parity.network_arrays(network, recorded)
    assert not differing(found, recorded, "enc/", "mano/", "obj/", "pcl/", "q/", "loss/")


def test_cells_equal_the_authors(recorded, cells):
    stored = recorded | cells
    assert not differing(parity.cell_arrays(stored), stored, "ser/", "crop/")


@torch.no_grad()
def test_fields_in_the_cells_equal_the_authors(network, recorded, cells):
    """Where the authors asked their sheared lattice; elsewhere the volume is 1."""
    seen, _ = parity.see(network, recorded)
    found = ser_cells(parity.cell_arrays(recorded | cells)["ser/heatmap_merged"], 64)
    picked = cells["vol/pick"].long()
    asked = torch.isin(picked, found.nodes())
    assert 20 < asked.sum() < len(picked)
    values = network.fine_both(seen, network.uncube(parity.sheared(found, picked)[None], seen.place))
    for which in ("hand", "object"):
        ours = torch.where(asked, values[which][0], 1.0)
        assert torch.allclose(ours, cells[f"vol/{which}"], atol=1e-4)
        regular = network.fine(which, seen, network.uncube(parity.sheared(found, picked, False)[None], seen.place))
        assert not torch.allclose(torch.where(asked, regular[0], 1.0), cells[f"vol/{which}"], atol=1e-4)


def test_crop_equals_the_authors(recorded):
    stored = parity.load(DATA / "crop.npz")
    x, y, width, height = stored.pop("place").tolist()
    image = torch.zeros(480, 640, 3, dtype=torch.uint8)
    image[y : y + height, x : x + width] = stored["pre/rgb_raw"]
    found = parity.crop_arrays({**stored, "pre/rgb_raw": image})
    assert not differing(found, stored, "pre/")
    given = [name for name in recorded if name.startswith("in/") and "obj_" not in name]
    rows = parity.compare({name: found[name] for name in given}, recorded)
    assert len(rows) == 8 and not [row for row in rows if row["ratio"] > 1]


def test_the_numbers_would_tell(recorded, network, monkeypatch):
    """Neighbours in space, the cell's middle pixel and the middle of the heat map's cells matter beyond tolerance."""
    for key, value, name in (
        ("neighbour_axes", 3, "q/knn_index"), ("center_cell", "middle", "obj/center"),
        ("scale", OBMAN.scale, "q/fine_hand"),
    ):  # fmt: skip
        monkeypatch.setattr(network, "config", dataclasses.replace(DEXYCB, **{key: value}))
        changed = parity.network_arrays(network, {k: v for k, v in recorded.items() if not k.startswith("loss/")})
        assert differing(changed, recorded, name)


def test_names_are_the_published_ones():
    """What the network reads, and what it leaves, are together the published state dict: names and shapes."""
    names = {name: list(shape) for name, shape in names_c2f().items()} | unused()
    stored = json.dumps(sorted([name, shape] for name, shape in names.items())).encode()
    assert len(names) == 662 and hashlib.sha256(stored).hexdigest()[:16] == "8ac3c559405d56c0"


# --- a small network --------------------------------------------------------------------------------------------------

SMALL = C2fConfig(
    size=64, width=8, decoder=(16, 16, 16), latent=8, pixel=16, field_width=48, field_dropout=0.0, points=64,
    point_neighbours=4, hand_features=16, center_bins=16, heat_bins=8, deconv=8,
)  # fmt: skip


def looked_at(count: int, size: int = 64) -> tuple[torch.Tensor, torch.Tensor, Frame]:
    image, depth = torch.rand(count, 3, size, size), torch.zeros(count, size, size)
    depth[:, size // 4 : -size // 4, size // 4 : -size // 4] = 0.5 + 0.05 * torch.rand(count, size // 2, size // 2)
    matrix = torch.tensor([[1.2 * size, 0, size / 2 + 3], [0, 1.2 * size, size / 2], [0, 0, 1]])
    return image, depth, Frame.of(matrix.expand(count, 3, 3), size)


def test_an_image_does_not_depend_on_its_neighbours_and_gradients_reach_every_number():
    torch.manual_seed(0)
    network = C2fSdf(SMALL).eval()
    image, depth, frame = looked_at(3)
    wrist = torch.tensor([[0.0, 0, 0.52]]).expand(3, 3)
    cloud = cloud_of(depth, frame, wrist[:, 2], SMALL.points, 16)
    place = Place(frame, wrist, wrist, torch.full((3, 3), 0.2))
    points = wrist[:, None] + 0.1 * torch.randn(3, 20, 3)
    looked = network.look(image, cloud.depth)
    seen = network.see(looked, cloud, place)
    both = network.fine_both(seen, points)
    one = slice(1, 2)
    frame1 = Frame(frame.rotation[one], frame.projection[one], frame.focal[one])
    cloud1 = cloud_of(depth[one], frame1, wrist[one, 2], SMALL.points, 16)
    assert torch.equal(cloud1.points, cloud.points[one])
    alone = network.see(
        network.look(image[one], cloud1.depth), cloud1, Place(frame1, wrist[one], wrist[one], place.half[one])
    )
    assert torch.allclose(network.fine("object", alone, points[one]), both["object"][one], atol=1e-6)
    odd = torch.tensor([[[0.0, 0, 0], [0.1, 0, 0], [0, 0, -1e-30], [0.2, 0.1, -0.5]]])
    assert torch.isfinite(network.fine("hand", alone, odd)).all()  # beside and behind the camera
    numbers = network.hand_numbers(looked)
    parts = [*both.values(), seen.coarse, numbers.pose, numbers.shape, network.heat(looked),
             network.center(looked, place), network.joint_maps(looked)]  # fmt: skip
    torch.stack([(part**2).sum() for part in parts]).sum().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]


def test_settings_that_there_are_not():
    for key, value, message in (
        ("pixels", "midle", "did you mean 'middle'"), ("neighbour_axes", 4, "known: 2, 3"),
        ("size", 100, "multiple of 32"), ("center_cell", "x", "there is none"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            dataclasses.replace(DEXYCB, **{key: value})
    with pytest.raises(ConfigError, match="48 bins are not a power of two times the 8"):
        C2fSdf(dataclasses.replace(SMALL, size=256, heat_bins=48))
    without = C2fSdf(dataclasses.replace(SMALL, hand=False))
    with pytest.raises(ValueError, match="no branch for the hand"):
        without.hand_numbers(without.look(torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64)))


# --- points -----------------------------------------------------------------------------------------------------------


def test_depth_is_lifted_to_where_it_was_seen():
    """A plane across the camera's axis stays one, in the turned frame, and pixels project to where they are."""
    _, _, frame = looked_at(2)
    depth = torch.full((2, 64, 64), 0.6)
    cloud = cloud_of(depth, frame, torch.tensor([0.6, 0.6]), 50, 16)
    for places in (cloud.points, cloud.pixels):
        assert torch.allclose((places @ frame.rotation)[..., 2], torch.tensor(0.6), atol=1e-5)
    homogeneous = cloud.pixels @ frame.projection.mT
    grid = (homogeneous[..., :2] / homogeneous[..., 2:]).unflatten(1, (16, 16))
    middles = (2 * (torch.arange(16) * 4 + 2) + 1) / 64 - 1  # of the third pixel of each cell
    assert torch.allclose(grid[..., 0], middles.expand(2, 16, 16), atol=1e-5)
    assert torch.allclose(grid[..., 1], middles[:, None].expand(2, 16, 16), atol=1e-5)


def test_points_missing_and_far_and_none():
    _, depth, frame = looked_at(2)
    depth[0, 20:30, 20:30] = torch.nan
    depth[1] = 0
    depth[1, 0, 0] = 5.0
    cloud = cloud_of(depth, frame, torch.tensor([0.5, 0.5]), 2000, 16)
    assert torch.isfinite(cloud.points).all() and torch.isfinite(cloud.pixels).all()
    assert (cloud.depth[1] == 1).all() and torch.equal(cloud.points[1, 0], torch.tensor([0.0, 0, 0.5]))
    seen = 32 * 32 - 100
    assert len(cloud.points[0].unique(dim=0)) == seen  # each once before any comes again
    drawn = [
        cloud_of(depth, frame, torch.tensor([0.5, 0.5]), 40, 16, torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    ]
    assert torch.equal(drawn[0].points, drawn[1].points) and not torch.equal(drawn[0].points, drawn[2].points)


def test_neighbours_by_picture_and_by_space():
    points = torch.tensor([[[0.0, 0, 0], [0.1, 0, 0], [0.05, 0, 3]]])
    index, squared = points_of.point_neighbours(torch.tensor([[[0.06, 0.0, 0.0]]]), points, 2, 2)
    assert index[0, 0].tolist() == [2, 1] and torch.allclose(squared[0, 0], torch.tensor([9.0001, 0.0016]), atol=1e-4)
    index, _ = points_of.point_neighbours(torch.tensor([[[0.06, 0.0, 0.0]]]), points, 2, 3)
    assert index[0, 0].tolist() == [1, 0]


# --- crop -------------------------------------------------------------------------------------------------------------


def test_depth_map_of_the_crop():
    depth = torch.tensor([[0.0, 0.2, 0.7], [0.8, 1.2, 0.9], [0.4, 0.6, 0.75]])
    found = normal_depth(depth, 0.7, 0.75)
    assert torch.allclose(found, torch.tensor([[1.0, -1.0, -0.2], [0.2, 1.0, 1.0], [-1.0, -0.6, 0.0]]), atol=1e-5)
    assert torch.equal(normal_depth(torch.full((2, 2), torch.nan), 0.7, 0.75), torch.ones(2, 2))


def test_obman_depth():
    stored = torch.tensor([[255.0, 1.0, 128.0]])
    assert torch.allclose(obman_depth(stored, 0.4, 0.9), torch.tensor([[0.4, 0.9, 0.65]]), atol=1e-6)


def test_points_are_drawn_again_only_when_there_are_too_few():
    assert len(set(draw_points(2000, 1024, 0).tolist())) == 1024
    few = draw_points(300, 1024, 0)
    assert sorted(set(torch.bincount(few).tolist())) == [3, 4]
    assert torch.equal(draw_points(300, 1024, 0), few) and not torch.equal(draw_points(300, 1024, 1), few)


def test_a_crop_where_the_depth_camera_saw_nothing():
    matrix = torch.tensor([[600.0, 0, 80], [0, 600, 60], [0, 0, 1]])
    joints = torch.tensor([0.0, 0, 0.6]) + 0.03 * torch.randn(21, 3)
    places = joints @ matrix.mT
    box = official_box(places[:, :2] / places[:, 2:])
    crop = official_c2f_crop(torch.rand(3, 120, 160), torch.zeros(120, 160), matrix, box, joints, size=64, points=10)
    assert int(crop.seen) == 0 and torch.allclose(crop.cloud.points, crop.place.center.expand(1, 10, 3))


# --- cells ------------------------------------------------------------------------------------------------------------


def test_cells_of_a_ball_give_its_surface_on_the_regular_lattice_only():
    """Known points on a ball: both lattices ask the same cells, one of them asks the ball where it is."""
    directions = torch.nn.functional.normalize(torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    center = torch.tensor([0.1, -0.05, 0.02])
    cells = ser_cells(merged_heat(torch.zeros(2, 32, 32, 32), center + 0.2 * directions))
    errors = {}
    for lattice in ("regular", "sheared"):
        surface = cell_surface(lambda p: (p - center).norm(dim=-1) - 0.2, cells, lattice=lattice, follow=False)
        errors[lattice] = float(((torch.from_numpy(surface.vertices) - center).norm(dim=-1) - 0.2).abs().mean())
        assert surface.queries == len(cells.nodes()) < cells.count**3
    assert errors["regular"] < 1e-4 < 1e-3 < errors["sheared"]


def test_cells_of_nothing_and_of_what_is_known():
    with pytest.raises(SurfaceError, match="shows nothing"):
        ser_cells(torch.zeros(32, 32, 32))
    points = torch.tensor([[0.0, 0, 0], [0.5, 0, 0]])
    coarse = torch.tensor([[0.5, 0.01], [0.0, 0.5]])
    known = splat_points(points, coarse, torch.tensor([0.1, 0, 0]), torch.tensor([[0.0, 0.9, 0]]))
    assert known.tolist() == [[0, pytest.approx(0.9), 0], [0.5, 0, 0], [0, 0, 0], [pytest.approx(0.2), 0, 0]]
    assert len(splat_points(points, coarse, None)) == 2
    nodes = Cells(torch.tensor([5]), (0, 0, 0), 2, 4, 3).nodes()
    assert len(nodes) == 27 and nodes.tolist()[0] == (3 * 6 + 0) * 6 + 3


# --- training targets -------------------------------------------------------------------------------------------------


def test_dense_joint_regression_points_back_at_the_joints():
    """Exact maps, with all weight on cells in reach, give the joints back."""
    depth = torch.rand(2, 1, 32, 32) * 0.4 - 0.2
    depth[:, :, :4] = 1
    joints = 0.4 * (2 * torch.rand(2, 21, 3) - 1)
    steps = (2 * torch.arange(8) + 1) / 8 - 1
    ys, xs = torch.meshgrid(steps, steps, indexing="ij")
    shown = depth[:, 0, ::4, ::4]
    cells = torch.stack([xs.expand_as(shown), ys.expand_as(shown), shown], 1)
    exact = awr_targets(joints, cells)
    near = exact[:, 63:]
    assert (near[:, :, 0] == 0).all()  # background
    found = awr_decode(torch.cat([exact, torch.where(near > 0, 0.0, -1e4)], 1), depth)
    assert torch.allclose(found, joints, atol=1e-4)


def test_heat_map_of_one_vertex_and_of_many():
    heat = heat_target(torch.tensor([[[0.0, 0.25, -0.5]]]))[0]
    assert heat[16, 20, 8] == 1 and torch.isclose(heat[17, 20, 8], heat[15, 20, 8])
    assert torch.isclose(heat[17, 20, 8], torch.exp(torch.tensor(-1 / 0.72)), atol=1e-6)
    crowd = heat_target(torch.zeros(1, 50, 3))[0]
    assert crowd[16, 16, 16] == 1 and crowd[17, 16, 16] == 1  # both cut
