"""Surfaces of fields: closed forms, the sparse mesh against the dense one, and fields that have no surface."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import surfaces as benchmark
from horefine.distance import signed_distance
from horefine.errors import SurfaceError
from horefine.extractors.surface import Surface, extract_surface, largest_part
from horefine.extractors.surface_lattice import ask_lattice, crossed_cells
from horefine.extractors.surface_mesh import box_center, coarser, to_mesh
from horefine.repair import edge_table

Distance = Callable[[Tensor], Tensor]
LOW, HIGH = torch.full((3,), -0.1), torch.full((3,), 0.1)


def sphere(radius: float, center: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Distance:
    return lambda points: (points - torch.tensor(center)).norm(dim=-1) - radius


def torus(points: Tensor) -> Tensor:
    return torch.stack([points[:, :2].norm(dim=-1) - 0.05, points[:, 2]], -1).norm(dim=-1) - 0.02


def plate(points: Tensor) -> Tensor:
    """2 mm thick, about an odd axis."""
    turn = torch.linalg.matrix_exp(torch.tensor([[0.0, -0.7, 0.4], [0.7, 0, -0.3], [-0.4, 0.3, 0]]))
    out = (points @ turn).abs() - torch.tensor([0.06, 0.05, 0.001])
    return out.clamp(min=0).norm(dim=-1) + out.amax(-1).clamp(max=0)


def two_spheres(points: Tensor) -> Tensor:
    return torch.minimum(sphere(0.03, (0.05, 0.01, 0.0))(points), sphere(0.009, (-0.06, -0.02, 0.01))(points))


def bumpy(points: Tensor, height: float = 0.002) -> Tensor:
    """No distance: rises by 1 + 600 height where bumps are steepest, as a learned field may."""
    return points.norm(dim=-1) - 0.06 + height * (600 * points).sin().prod(-1)


FIELDS: dict[str, Distance] = {
    "sphere": sphere(0.06),
    "torus": torus,
    "plate": plate,
    "two_spheres": two_spheres,
    "bumpy": bumpy,
    "flat": lambda points: 0.3 * torus(points),
    "steep": lambda points: 3 * plate(points),
    "clamped": lambda points: plate(points).clamp(-0.015, 0.015),
    "saturated": lambda points: 0.015 * (two_spheres(points) / 0.015).tanh(),
}


def volume(surface: Surface) -> float:
    a, b, c = (surface.vertices[surface.faces[:, corner]].astype(np.float64) for corner in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def euler(surface: Surface) -> int:
    return len(surface.vertices) - len(edge_table(surface.faces)[0]) + len(surface.faces)


def is_closed(surface: Surface) -> bool:
    _, place, direction = edge_table(surface.faces)
    return bool((np.bincount(place) == 2).all() and (np.bincount(place, 2 * direction - 1) == 0).all())


@pytest.mark.parametrize("method", ["dense", "sparse"])
def test_a_sphere_is_where_it_is(method: str) -> None:
    center = (0.31, -0.22, 0.7)
    found = extract_surface(
        sphere(0.06, center), LOW + torch.tensor(center), HIGH + torch.tensor(center), method=method
    )
    radius = np.linalg.norm(found.vertices - np.array(center), axis=1)
    spacing = 0.2 / 127
    assert np.abs(radius - 0.06).max() < spacing**2 / 0.06 / 8 + 1e-6  # a chord of one spacing, and float32 at 0.7 m
    assert volume(found) == pytest.approx(4 / 3 * math.pi * 0.06**3, rel=2e-3)
    assert euler(found) == 2 and is_closed(found) and found.notes == ()
    assert np.allclose(box_center(found), center, atol=1e-5)


@pytest.mark.parametrize("method", ["dense", "sparse"])
def test_normals_point_outward(method: str) -> None:
    found = extract_surface(torus, LOW, HIGH, 64, method=method)
    a, b, c = (found.vertices[found.faces[:, corner]].astype(np.float64) for corner in range(3))
    normal = np.cross(b - a, c - a)
    middle = torch.tensor((a + b + c) / 3).requires_grad_()
    torus(middle).sum().backward()
    assert middle.grad is not None
    wide = np.linalg.norm(normal, axis=1) > 1e-9
    assert ((normal * middle.grad.numpy()).sum(1)[wide] > 0).all()
    assert euler(found) == 0 and is_closed(found)
    assert volume(found) == pytest.approx(2 * math.pi**2 * 0.05 * 0.02**2, rel=0.01)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("resolution", [65, 90, 128])
def test_sparse_is_dense(name: str, resolution: int) -> None:
    """The same mesh, number for number, of far fewer points; no point is asked twice."""
    asked = []

    def distance(points: Tensor) -> Tensor:
        asked.append(points)
        return FIELDS[name](points)

    sparse = extract_surface(distance, LOW, HIGH, resolution, largest=False)
    dense = extract_surface(FIELDS[name], LOW, HIGH, resolution, method="dense", largest=False)
    assert np.array_equal(sparse.vertices, dense.vertices) and np.array_equal(sparse.faces, dense.faces)
    assert dense.queries == resolution**3 and is_closed(sparse)
    points = torch.cat(asked)
    assert sparse.queries == len(points) == len(points.unique(dim=0))
    # a field that is flatter than a distance says less about what is around, a steep one may be steeper still
    share = {"flat": 0.5, "bumpy": 0.35}.get(name, 0.16 if resolution < 128 else 0.06)
    assert sparse.queries < share * dense.queries


@pytest.mark.parametrize("seed", range(8))
def test_sparse_is_dense_on_random_blobs(seed: int) -> None:
    """Smooth unions of spheres in boxes with sides of their own."""
    drawn = torch.Generator().manual_seed(seed)
    centers = (torch.rand(6, 3, generator=drawn) - 0.5) * 0.12
    radii = 0.008 + 0.02 * torch.rand(6, generator=drawn)

    def distance(points: Tensor) -> Tensor:
        each = (points[:, None] - centers).norm(dim=-1) - radii
        return -torch.logsumexp(-each / 0.004, -1) * 0.004

    low = -0.1 - 0.02 * torch.rand(3, generator=drawn)
    high = 0.1 + 0.05 * torch.rand(3, generator=drawn)
    both = [extract_surface(distance, low, high, 72, method=method, largest=False) for method in ("dense", "sparse")]
    assert np.array_equal(both[0].vertices, both[1].vertices) and np.array_equal(both[0].faces, both[1].faces)
    assert both[1].queries < 0.25 * both[0].queries


def test_every_corner_of_a_crossed_cell_is_asked() -> None:
    points = torch.stack(torch.meshgrid(*[torch.linspace(-0.1, 0.1, 50)] * 3, indexing="ij"), -1).flatten(0, 2)
    exact = plate(points)
    lattice = ask_lattice(lambda numbers: exact[numbers].numpy(), (50, 50, 50), 0.2 / 49)
    whole = exact.view(50, 50, 50).numpy()
    assert np.array_equal(lattice.values <= 0, whole <= 0)
    assert np.array_equal(lattice.values[lattice.asked], whole[lattice.asked])
    cells = np.argwhere(crossed_cells(whole <= 0))
    corners = cells[:, None] + np.array(list(np.ndindex(2, 2, 2)))
    assert len(cells) > 500 and lattice.asked[tuple(corners.reshape(-1, 3).T)].all()


def test_a_field_that_breaks_its_promise_is_followed() -> None:
    """Values far from the surface are five times too large: the lattice is settled wrongly, then mended on the way."""

    def boasting(points: Tensor) -> Tensor:
        exact = torch.minimum(sphere(0.06)(points), sphere(0.012, (0.069, 0.0, 0.0))(points))
        return torch.where(exact.abs() > 0.003, 5 * exact - 0.012 * exact.sign(), exact)

    both = [extract_surface(boasting, LOW, HIGH, 96, method=method, steepness=0.3) for method in ("dense", "sparse")]
    assert np.array_equal(both[0].vertices, both[1].vertices)
    assert both[1].queries < 0.2 * both[0].queries


def test_a_larger_steepness_finds_what_hides() -> None:
    """Bumps so high that some are islands: with L too small a few are missed, with the field's own none."""

    def islands(points: Tensor) -> Tensor:
        return bumpy(points, 0.004)

    dense = extract_surface(islands, LOW, HIGH, 90, method="dense", largest=False)
    least, most = (
        extract_surface(islands, LOW, HIGH, 90, largest=False, steepness=steepness) for steepness in (1.25, 3.0)
    )
    assert len(least.vertices) < len(dense.vertices) and least.queries < most.queries < 0.3 * dense.queries
    assert np.array_equal(most.vertices, dense.vertices) and np.array_equal(most.faces, dense.faces)
    largest = extract_surface(islands, LOW, HIGH, 90)
    assert np.array_equal(largest.vertices, extract_surface(islands, LOW, HIGH, 90, method="dense").vertices)


def test_no_more_than_a_batch_at_once_and_no_gradients() -> None:
    sizes = []

    def distance(points: Tensor) -> Tensor:
        sizes.append(len(points))
        assert not torch.is_grad_enabled()
        return torus(points)

    for method in ("sparse", "dense"):
        whole = extract_surface(torus, LOW, HIGH, 40, method=method)
        parts = extract_surface(distance, LOW, HIGH, 40, method=method, batch=999)
        assert np.array_equal(whole.vertices, parts.vertices)
    assert max(sizes) == 999


def test_only_the_largest_part_is_kept() -> None:
    found = extract_surface(two_spheres, LOW, HIGH)
    assert volume(found) == pytest.approx(4 / 3 * math.pi * 0.03**3, rel=5e-3)
    assert found.notes == ("1 smaller parts of the surface are left out",)
    whole = extract_surface(two_spheres, LOW, HIGH, largest=False)
    assert volume(whole) == pytest.approx(4 / 3 * math.pi * (0.03**3 + 0.009**3), rel=5e-3)
    assert largest_part(found.vertices, found.faces)[2] == 0


def test_the_largest_is_by_area_not_by_triangles() -> None:
    big, fine = extract_surface(sphere(0.06), LOW, HIGH, 20), extract_surface(sphere(0.02), LOW / 3, HIGH / 3, 64)
    vertices = np.concatenate([big.vertices, fine.vertices + np.float32(1)])
    faces = np.concatenate([big.faces, fine.faces + len(big.vertices)])
    kept, triangles, others = largest_part(vertices, faces)
    assert len(fine.faces) > len(big.faces) and others == 1
    assert np.array_equal(kept, big.vertices) and np.array_equal(triangles, big.faces)


def test_a_cut_surface_is_closed_and_named_or_refused() -> None:
    field = sphere(0.08, (0.06, 0.0, 0.0))
    found = extract_surface(field, LOW, HIGH, 80)
    assert is_closed(found) and euler(found) == 2
    assert found.notes == ("the surface leaves its box at high x: closed there",)
    assert found.vertices[:, 0].max() == pytest.approx(0.1, abs=1e-6)
    height = 0.08 - 0.04  # of the cap that is cut off
    cap = math.pi * height**2 * (3 * 0.08 - height) / 3
    assert volume(found) == pytest.approx(4 / 3 * math.pi * 0.08**3 - cap, rel=5e-3)
    with pytest.raises(SurfaceError, match=r"leaves its box at high x: give a larger box"):
        extract_surface(field, LOW, HIGH, 80, cut="error")


def test_a_stray_part_at_the_border_is_no_cut() -> None:
    def field(points: Tensor) -> Tensor:
        return torch.minimum(sphere(0.05)(points), sphere(0.02, (0.1, 0.1, 0.1))(points))

    found = extract_surface(field, LOW, HIGH, 64, cut="error")
    assert found.notes == ("1 smaller parts of the surface are left out",)


@pytest.mark.parametrize("method", ["dense", "sparse"])
@pytest.mark.parametrize(
    ("field", "said"),
    [
        (lambda points: points.norm(dim=-1) + 0.01, "none of the .* points asked is inside"),
        (lambda points: points.norm(dim=-1) - 1, "all .* points asked are inside"),
        (lambda points: points[:, 0] * torch.nan, "not finite"),
        (lambda points: torch.where(points[:, 0] > 0.09, torch.inf, sphere(0.05)(points)), "not finite"),
    ],
)
def test_no_surface_says_why(field: Distance, said: str, method: str) -> None:
    with pytest.raises(SurfaceError, match=said):
        extract_surface(field, LOW, HIGH, 40, method=method)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="method is 'spare'; known: sparse, dense"):
        extract_surface(torus, LOW, HIGH, method="spare")
    with pytest.raises(ValueError, match="cut is 'open'; known: close, error"):
        extract_surface(torus, LOW, HIGH, 20, cut="open")
    with pytest.raises(ValueError, match="give high > low"):
        extract_surface(torus, HIGH, LOW)
    with pytest.raises(ValueError, match="1 nodes"):
        extract_surface(torus, LOW, HIGH, 1)


def test_a_mesh_for_the_refiner() -> None:
    """Few triangles on the surface itself, in a frame of its own."""
    center = torch.tensor([0.05, -0.04, 0.6])
    found = extract_surface(lambda points: torus(points - center), LOW + center, HIGH + center)
    small = coarser(found, 2000)
    assert is_closed(small) and euler(small) == 0 and 1000 < len(small.faces) < 4000 < len(found.faces)
    away = signed_distance(small.vertices.astype(np.float64), found.vertices.astype(np.float64), found.faces)
    assert np.abs(away).max() < 1e-6
    mesh = to_mesh(found, name="ring")
    assert mesh.name == ("ring",) and mesh.center.abs().max() < 1e-4
    assert np.allclose(mesh.vertices[0].numpy() + box_center(found), small.vertices, atol=1e-7)
    placed = to_mesh(found, np.zeros(3), faces=0)
    assert np.array_equal(placed.vertices[0].numpy(), found.vertices)
    assert len(placed.faces[0]) == len(found.faces)


def test_what_is_too_thin_for_few_triangles_keeps_more() -> None:
    small = coarser(extract_surface(plate, LOW, HIGH), 300)
    assert len(small.faces) > 600 and euler(small) == 2


def test_a_mesh_without_volume_is_refused() -> None:
    corners = np.eye(3, dtype=np.float32)
    with pytest.raises(SurfaceError, match="no volume"):
        to_mesh(Surface(corners, np.array([[0, 1, 2], [0, 2, 1]])))


def test_the_benchmark_compares_both_ways() -> None:
    low, high = benchmark.cube(torch.tensor([-0.05, -0.02, -0.02]), torch.tensor([0.05, 0.02, 0.02]), "close")
    assert torch.allclose(low, torch.full((3,), -0.075)) and torch.allclose(high, torch.full((3,), 0.075))
    cases = [benchmark.Case("grid", name, "close", sphere(r), LOW, HIGH) for name, r in (("a", 0.05), ("b", 0.06))]
    rows = [benchmark.measure(case, 48, 1, 4096) for case in cases]
    assert rows[0]["same"] and rows[0]["chamfer_mm"] == 0 and 0 < float(rows[0]["share_percent"]) < 25
    (line,) = benchmark.summary(rows)
    assert line["same"] == "2 of 2" and line["thing"] == "all 2"
    assert float(line["faster"]) == pytest.approx(sum(r["dense_s"] for r in rows) / sum(r["s"] for r in rows))
    off = extract_surface(sphere(0.06), LOW + 0.001, HIGH + 0.001, 48)
    shift = benchmark.chamfer(extract_surface(sphere(0.06), LOW, HIGH, 48), off)
    assert 0.0 < shift < 4.2 / 2 and not benchmark.same(off, extract_surface(sphere(0.06), LOW, HIGH, 48))
