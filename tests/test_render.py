"""The renderer: closed forms, the twin, finite differences, the oracle, and what must never happen."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from render_cases import DATA, MESHES, box, camera, hand, posed, rigid, smooth, sphere, supersampled, torus
from torch import Tensor

from horefine.geometry import Camera, backproject, project
from horefine.hand import load_hand
from horefine.mesh import Mesh
from horefine.objects import embedded_object
from horefine.render import Topology, make_renderer, render

SIZE = (64, 64)
BACKENDS = ("cpu", "torch")


def gradients(outputs: list[Tensor], wrt: list[Tensor], seed: int = 0) -> list[Tensor]:
    """Of the outputs weighted with fixed random numbers, one result for each output."""
    found = []
    for number, output in enumerate(outputs):
        weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed + number)).to(output.dtype)
        loss = (output * weights).sum()
        found += torch.autograd.grad(loss, wrt, retain_graph=True, allow_unused=True, materialize_grads=True)
    return found


def close(fast: Tensor, slow: Tensor, tolerance: float) -> None:
    scale = slow.abs().max().clamp(min=1e-12)
    assert ((fast - slow).abs().max() / scale).item() <= tolerance


@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize(("size", "offset"), [(SIZE, (0.004, -0.006, 0.6)), ((48, 80), (0.07, -0.05, 0.3))])
def test_the_fast_renderer_equals_its_twin(
    name: str, size: tuple[int, int], offset: tuple[float, float, float]
) -> None:
    """In values and gradients; also where the mesh leaves the picture on two sides."""
    vertices, faces = MESHES[name]()
    topology, colors = Topology.pack([(len(vertices), faces)]), torch.rand(len(vertices), 3)
    for seed in range(3):
        results = {}
        for backend in BACKENDS:
            points = posed(vertices, seed, offset).requires_grad_()
            paint = colors.clone().requires_grad_()
            mask, depth, values, ids = render(points, topology, camera(size), size, paint, backend=backend)
            results[backend] = [mask, depth, values, ids, *gradients([mask, depth, values], [points, paint])]
        (mask, depth, values, ids, *fast), (mask2, depth2, values2, ids2, *slow) = results["cpu"], results["torch"]
        assert (ids != ids2).float().mean() <= 2e-4  # a tie on a shared edge may fall either way
        same = ids == ids2
        assert (mask - mask2).abs().max() < 3e-5
        close(depth[same], depth2[same], 1e-5)
        close(values.movedim(1, -1)[same], values2.movedim(1, -1)[same], 1e-4)
        if same.all():
            for one, other in zip(fast, slow, strict=True):
                # a face seen edge-on may count as front or as back: its corners then share the gradient differently
                off = ((one - other).abs() > 3e-4 * other.abs().max()).any(1)
                assert off.float().mean() <= 0.004
                close(one.sum(0), other.sum(0), 3e-3)


@pytest.mark.parametrize("mesh", [hand, torus, box])
def test_mask_gradient_is_that_of_a_supersampled_picture(mesh) -> None:
    """6-dof gradients against central differences of 32x supersampled coverage: a smooth functional, and L2."""
    vertices, faces = mesh()
    topology, matrix = Topology.pack([(len(vertices), faces)]), camera()
    cosines, ratios = [], []
    for seed in range(5):
        base, weights, step = posed(vertices, seed + 100).double(), smooth(SIZE, seed), 8e-4
        offset = torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.004
        target = supersampled(rigid(base, offset), topology, matrix, SIZE)
        losses = (lambda m: (m * weights).sum(), lambda m: ((m - target) ** 2).sum())  # noqa: B023
        difference = torch.zeros(2, 6, dtype=torch.float64)
        for axis in range(6):
            move = torch.eye(6, dtype=torch.float64)[axis] * step
            there, back = (supersampled(rigid(base, sign * move), topology, matrix, SIZE) for sign in (1, -1))
            difference[:, axis] = torch.stack([(f(there) - f(back)) / (2 * step) for f in losses])
        motion = torch.zeros(6, dtype=torch.float64, requires_grad=True)
        mask = render(rigid(base, motion).float(), topology, matrix, SIZE, want=("mask",))[0]
        for f, reference in zip(losses, difference, strict=True):
            (own,) = torch.autograd.grad(f(mask[0].double()), motion, retain_graph=True)
            cosines.append(torch.cosine_similarity(own, reference, 0).item())
            ratios.append((own.norm() / reference.norm()).item())
    assert np.median(cosines) >= 0.999
    assert 0.99 <= np.median(ratios) <= 1.01
    assert min(cosines) > 0.95


@pytest.mark.parametrize(("name", "usual"), [("hand", 0.003), ("open hand", 0.003), ("torus", 5e-4), ("box", 5e-4)])
def test_mask_is_the_supersampled_coverage(name: str, usual: float) -> None:
    """Up to the outlines of two layers within one pixel, which add up instead of being united (between fingers)."""
    vertices, faces = MESHES[name]()
    topology, errors = Topology.pack([(len(vertices), faces)]), []
    for seed in range(5):
        points = posed(vertices, seed)
        exact = render(points, topology, camera(), SIZE, want=("mask",))[0][0].double()
        counted = supersampled(points, topology, camera(), SIZE)
        errors.append(((exact - counted).abs().sum() / counted.sum()).item())
    assert np.median(errors) < usual
    assert max(errors) < 0.02


@pytest.mark.parametrize("faces", [[[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]], [[0, 1, 2]], [[0, 2, 1], [0, 1, 3]]])
def test_twin_passes_gradcheck(faces: list[list[int]]) -> None:
    """A tetrahedron, a lone triangle and an open fold, in float64: vertices and values."""
    points = torch.tensor([[-0.31, -0.27, 2.0], [0.34, -0.21, 2.2], [0.03, 0.37, 1.9], [0.02, 0.01, 1.6]]).double()
    topology, matrix, paint = Topology.pack([(4, torch.tensor(faces))]), camera((8, 8), 15.3).double(), torch.rand(4, 2)

    def run(vertices: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        return render(vertices, topology, matrix, (8, 8), values, backend="torch")[:3]

    inputs = (points.requires_grad_(), paint.double().requires_grad_())
    assert run(*inputs)[0].sum() > 4
    assert torch.autograd.gradcheck(run, inputs, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_triangle_has_its_area_and_its_place(backend: str) -> None:
    """Sum of the mask = area, mean position = centroid: pixel (0, 0) is the centre of the top-left pixel."""
    corners = torch.tensor([[10.2, 7.7], [50.9, 20.3], [23.4, 55.1]], dtype=torch.float64)
    points = backproject(corners[None], torch.tensor([[0.5, 0.6, 0.9]]).double(), camera().double())[0].float()
    topology = Topology.pack([(3, torch.tensor([[0, 1, 2]]))])
    mask = render(points, topology, camera(), SIZE, backend=backend)[0][0].double()
    u, v = corners[1] - corners[0], corners[2] - corners[0]
    assert mask.sum().item() == pytest.approx((u[0] * v[1] - u[1] * v[0]).abs().item() / 2, rel=1e-5)
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    place = torch.stack([(mask * columns).sum(), (mask * rows).sum()]) / mask.sum()
    # within a pixel the mass is counted at the centre: the error is far below a tenth of a pixel
    assert (place - corners.mean(0)).abs().max() < 0.02


@pytest.mark.parametrize("backend", BACKENDS)
def test_disc_has_its_area(backend: str) -> None:
    """A sphere at distance d covers a circle of radius f r / sqrt(d^2 - r^2)."""
    vertices, faces = sphere(0.05, 4)
    mask, depth, _, _ = render(
        vertices + torch.tensor([0.0, 0.0, 0.5]),
        Topology.pack([(len(vertices), faces)]),
        camera(),
        SIZE,
        backend=backend,
    )
    radius = 160 * 0.05 / math.sqrt(0.5**2 - 0.05**2)
    assert mask.sum().item() == pytest.approx(math.pi * radius**2, rel=3e-3)
    assert depth[0, 31:33, 31:33].mean().item() == pytest.approx(0.45, rel=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_whole_pixel_shift_and_scale(backend: str) -> None:
    """Moving the principal point by whole pixels shifts the pictures; scaling the scene scales only depth."""
    vertices, faces = hand()
    points, topology, matrix = posed(vertices, 1), Topology.pack([(len(vertices), faces)]), camera()
    mask, depth, values, _ = render(points, topology, matrix, SIZE, vertices, backend=backend)
    moved = matrix.clone()
    moved[:, :2, 2] += torch.tensor([3.0, -2.0])
    mask2, depth2, values2, _ = render(points, topology, moved, SIZE, vertices, backend=backend)
    for one, other in ((mask, mask2), (depth, depth2), (values, values2)):
        assert ((torch.roll(one, (-2, 3), (-2, -1)) - other).abs() < 1e-4).float().mean() > 0.999
    mask3, depth3, values3, _ = render(points * 2, topology, matrix, SIZE, vertices, backend=backend)
    assert (mask3 - mask).abs().max() < 1e-5
    assert (depth3 - 2 * depth).abs().max() < 1e-5
    assert (values3 - values).abs().max() < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", [1, -1])
def test_the_nearer_face_is_seen(backend: str, order: int) -> None:
    square = torch.tensor([[-1.0, -1.0, 0.0], [1.0, -1.0, 0.0], [1.0, 1.0, 0.0], [-1.0, 1.0, 0.0]])
    points = torch.cat([square * 0.1 + torch.tensor([0.0, 0.0, 0.8]), square * 0.05 + torch.tensor([0.0, 0.0, 0.5])])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    faces = faces if order > 0 else faces.flip(0)
    _, depth, _, ids = render(points, Topology.pack([(8, faces)]), camera(), SIZE, backend=backend)
    near = {2, 3} if order > 0 else {0, 1}
    assert set(ids[0, 24:40, 24:40].unique().tolist()) <= near
    assert depth[0, 32, 32].item() == pytest.approx(0.5, abs=1e-6)
    assert depth[0, 32, 14].item() == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tilted_plane_has_perspective_correct_depth_and_values(backend: str) -> None:
    """Depth of n . X = c along a ray is c / n . d; positions painted on the plane come back as the seen points."""
    normal, level = torch.tensor([0.4, -0.3, 1.0]), 0.7
    edge = torch.tensor([[-0.2, -0.2], [0.2, -0.2], [0.2, 0.2], [-0.2, 0.2]])
    points = torch.cat([edge, ((level - edge @ normal[:2]) / normal[2])[:, None]], 1)
    topology = Topology.pack([(4, torch.tensor([[0, 1, 2], [0, 2, 3]]))])
    _, depth, values, ids = render(points, topology, camera(), SIZE, points, backend=backend)
    hit = (ids[0] >= 0).nonzero()
    assert len(hit) > 2000
    pixels = hit.flip(1).float()
    ray = backproject(pixels[None], torch.ones(1, len(pixels)), camera())[0]
    assert (depth[0][hit[:, 0], hit[:, 1]] - level / (ray @ normal)).abs().max() < 2e-6
    seen = values[0][:, hit[:, 0], hit[:, 1]].T
    assert (project(seen[None], camera())[0] - pixels).abs().max() < 2e-3
    assert (seen @ normal - level).abs().max() < 2e-6


def test_depth_and_values_gradients_against_differences() -> None:
    """The fast renderer itself, moved as a whole: pixels that keep their face."""
    vertices, faces = hand()
    topology, paint = Topology.pack([(len(vertices), faces)]), torch.rand(len(vertices), 3)
    points, step = posed(vertices, 2), 1e-4
    for direction in torch.eye(3):
        there = render(points + step * direction, topology, camera(), SIZE, paint)
        back = render(points - step * direction, topology, camera(), SIZE, paint)
        here = points.clone().requires_grad_()
        now = render(here, topology, camera(), SIZE, paint)
        same = (there[3] == back[3]) & (there[3] == now[3]) & (now[3] >= 0)
        for index, mask in ((1, same), (2, same[:, None].expand(-1, 3, -1, -1))):
            weights = torch.rand(mask.shape) * mask
            (own,) = torch.autograd.grad((now[index] * weights).sum(), here, retain_graph=True)
            difference = ((there[index] - back[index]).double() * weights).sum() / (2 * step)
            assert (own.double() @ direction.double()).sum().item() == pytest.approx(
                difference.item(), rel=0.02, abs=0.5
            )


@pytest.mark.parametrize("backend", BACKENDS)
def test_looking_into_an_open_mesh(backend: str) -> None:
    """A hemisphere covers its disc from outside and from inside; a closed mesh is culled, an open one is not."""
    vertices, faces = sphere(0.05, 3)
    faces = faces[(vertices[faces][..., 2] > -1e-6).all(1)]  # the rim is a circle of vertices
    topology = Topology.pack([(len(vertices), faces)])
    assert not topology.items[0, 6]
    for sign in (1.0, -1.0):
        points = vertices * torch.tensor([1.0, sign, sign]) + torch.tensor([0.0, 0.0, 0.5])  # half a turn about x
        mask, depth, _, ids = render(points, topology, camera(), SIZE, backend=backend)
        assert mask[0, 32, 32] == 1
        assert ((ids >= 0) == (mask > 0.5)).float().mean() > 0.995
        rim = 160 * 0.05 / (0.5 if sign > 0 else math.sqrt(0.5**2 - 0.05**2))
        assert mask.sum().item() == pytest.approx(math.pi * rim**2, rel=0.02)
        assert depth[0, 32, 32].item() == pytest.approx(0.5 + sign * 0.05, abs=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_vertices_and_padding_do_no_harm(backend: str) -> None:
    vertices, faces = hand()
    points = posed(vertices, 0)
    plain = render(points, Topology.pack([(778, faces)]), camera(), SIZE, points, backend=backend)
    padded = torch.cat([faces, torch.zeros(50, 3, dtype=torch.long)])
    more = torch.cat([points, points[-1:].expand(20, 3)])
    again = render(more, Topology.pack([(798, padded)]), camera(), SIZE, more, backend=backend)
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))
    broken = points.clone()
    broken[0], broken[5, 2], broken[7] = float("nan"), -1.0, float("inf")
    broken[9, 2], broken[11], broken[13] = 1e-5, torch.tensor([1e30, 0.0, 1.0]), 0.0
    broken.requires_grad_()
    drawn = render(broken, Topology.pack([(778, faces)]), camera(), SIZE, points, backend=backend)
    gradient = torch.autograd.grad(sum(picture.sum() for picture in drawn[:3]), broken)[0]
    assert all(tensor.isfinite().all() for tensor in (*drawn, gradient))
    assert drawn[0].sum() > 0.5 * plain[0].sum()
    nothing = Topology.pack([(778, torch.zeros(4, 3, dtype=torch.long))])
    assert render(points, nothing, camera(), SIZE, backend=backend)[0].abs().max() == 0
    behind = points * torch.tensor([1.0, 1.0, -1.0])
    assert render(behind, Topology.pack([(778, faces)]), camera(), SIZE, backend=backend)[1].abs().max() == 0


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    """Bit for bit, values and gradients, alone or in a batch on two threads."""
    meshes = [hand(), box(), torus(), hand(), sphere(), box()]
    points = [posed(vertices, seed) for seed, (vertices, _) in enumerate(meshes)]
    matrix = torch.cat([camera(focal=150.0 + 10 * n) for n in range(len(meshes))])
    topology = Topology.pack([(len(v), f) for v, f in meshes])

    def run(vertices: list[Tensor], shape: Topology, matrices: Tensor) -> list[Tensor]:
        packed = torch.cat(vertices).requires_grad_()
        mask, depth, values, ids = render(packed, shape, matrices, SIZE, packed.detach())
        gradient = torch.autograd.grad(mask.square().sum() + depth.sum() + values.square().sum(), packed)[0]
        return [mask, depth, values, ids, gradient]

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        batch = run(points, topology, matrix)
    finally:
        torch.set_num_threads(threads)
    first = 0
    for n, (vertices, faces) in enumerate(meshes):
        alone = run([points[n]], Topology.pack([(len(vertices), faces)]), matrix[n : n + 1])
        for one, other in zip(alone[:4], batch[:4], strict=True):
            assert torch.equal(one[0], other[n])
        assert torch.equal(alone[4], batch[4][first : first + len(vertices)])
        first += len(vertices)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows", [[2], [3, 0], [0, 1, 2, 3], [1, 1, 2]])
def test_a_renderer_of_some_of_the_images(backend: str, rows: list[int]) -> None:
    """Meshes of different sizes, padded, shared or not: the pictures are those of the whole batch."""
    objects = Mesh.cat([embedded_object(name) for name in ("mug", "can", "mug", "drill")])
    model, chosen = load_hand(), torch.tensor(rows)
    view = Camera(camera((48, 48)).expand(4, 3, 3), (48, 48))
    whole = make_renderer(model.faces, model.codes, objects, view, backend)
    away = torch.tensor([0.0, 0.0, 0.6]) + torch.linspace(-0.05, 0.05, 4)[:, None, None]
    vertices = model.template.expand(4, -1, -1) + away, objects.vertices + away
    every, some = whole(*vertices), whole.chosen(chosen)(*(v[chosen] for v in vertices))
    for name in ("masks", "depth", "coords", "ids"):
        assert torch.equal(getattr(some, name), getattr(every, name)[chosen]), name
    assert every.masks.amax((2, 3)).min() > 0.5, "something must be seen"


def test_backward_can_be_repeated() -> None:
    vertices, faces = hand()
    points = posed(vertices, 3).requires_grad_()
    mask = render(points, Topology.pack([(778, faces)]), camera(), SIZE)[0]
    one, two = (torch.autograd.grad(mask.square().sum(), points, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize("name", ["hand", "obj"])
def test_oracle_neural_renderer(name: str) -> None:
    """Silhouette and depth of neural_renderer (forward), whose principal point counts from the picture's corner."""
    stored = np.load(DATA / "nmr.npz")
    matrix = torch.from_numpy(stored["K"])[None].clone()
    matrix[:, :2, 2] -= 0.5
    vertices, faces = (torch.from_numpy(stored[f"{name}_{part}"]) for part in ("verts", "faces"))
    original = Camera(matrix, (int(stored["orig_size"]),) * 2)
    topology = Topology.pack([(len(vertices), faces)])
    mask, depth, _, ids = render(vertices, topology, original.resized(SIZE).matrix, SIZE)
    silhouette = torch.from_numpy(stored[f"{name}_sil_aa0"]) > 0.5
    assert ((ids[0] >= 0) != silhouette).float().mean() <= 0.002
    assert (((mask[0] > 0.5) != silhouette) & ((mask[0] - 0.5).abs() > 0.3)).float().mean() <= 0.002
    both = silhouette & (ids[0] >= 0)
    assert (depth[0] - torch.from_numpy(stored[f"{name}_depth_aa0"]))[both].abs().max() < 2e-5
    fine = render(vertices, topology, original.resized((128, 128)).matrix, (128, 128))[3]
    quarter = (fine[0] >= 0).float().view(64, 2, 64, 2).mean((1, 3))
    assert (quarter != torch.from_numpy(stored[f"{name}_sil_aa1"])).float().mean() <= 0.002
