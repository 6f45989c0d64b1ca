"""Choosing and packing: topology, the batch renderer, errors, scene buffers, and the adapters of foreign rasterisers.

The adapters are run here against stand-ins written from the packages' documentation (in numpy, a few lines each): that
checks their coordinates, numbering and orders. The packages themselves are tried in test_render_gpu.py.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
import types
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from render_cases import MESHES, box, camera, hand, open_hand, posed, sphere, torus
from torch import Tensor

from horefine.errors import ConfigError
from horefine.geometry import Camera
from horefine.render import OUTPUTS, RENDERERS, Topology, make_renderer, render
from horefine.render.buffers import rasterize_buffers
from horefine.render.twin import render_with

SIZE = (48, 64)


@dataclass(frozen=True)
class Objects:
    """What :func:`make_renderer` asks of a batch of meshes."""

    vertices: Tensor
    faces: Tensor
    codes: Tensor
    colors: Tensor | None = None


def objects() -> Objects:
    """Two meshes of different size in one padded batch."""
    parts = [box(), torus()]
    most_vertices, most_faces = (max(len(part[i]) for part in parts) for i in (0, 1))
    vertices = torch.stack([torch.cat([v, v[-1:].expand(most_vertices - len(v), 3)]) for v, _ in parts])
    faces = torch.stack([torch.cat([f, f.new_zeros(most_faces - len(f), 3)]) for _, f in parts])
    return Objects(vertices, faces, vertices * 5 + 0.5)


def test_topology_of_a_closed_and_of_an_open_mesh() -> None:
    vertices, faces = hand()
    closed = Topology.pack([(len(vertices), faces)])
    assert closed.items[0, 6] == 1
    assert len(vertices) - len(closed.edges) + len(faces) == 2  # Euler: genus 0
    assert (closed.edges[:, 3] >= 0).all()
    cut = Topology.pack([(len(vertices), open_hand()[1])])
    rim = cut.edges[cut.edges[:, 3] < 0]
    assert cut.items[0, 6] == 0
    assert sorted(rim[:, 0]) == sorted(rim[:, 1])  # the rim is one or more loops


def test_topology_of_a_mesh_with_three_faces_at_one_edge() -> None:
    """Two of them are paired, the third keeps a boundary edge; nothing is lost."""
    faces = torch.tensor([[0, 1, 2], [1, 0, 3], [0, 1, 4]])
    edges = Topology.pack([(5, faces)]).edges
    inner = edges[edges[:, 3] >= 0]
    assert len(inner) == 1
    assert {inner[0, 2], inner[0, 3]} in ({0, 1}, {1, 2})
    assert 2 * len(inner) + (edges[:, 3] < 0).sum() == 9


def test_items_with_the_same_faces_share_tables() -> None:
    vertices, faces = hand()
    topology = Topology.pack([(778, faces), (778, faces.clone()), (len(box()[0]), box()[1])])
    assert len(topology) == 3
    assert len(topology.faces) == len(faces) + 12
    assert topology.vertex_count == 2 * len(vertices) + 8
    assert topology.slots == 2 * len(faces) + 12


@pytest.mark.parametrize(
    ("meshes", "message"),
    [
        ([], "no meshes"),
        ([(3, torch.tensor([[0, 1, 3]]))], "3 vertices.*0 to 3"),
    ],
)
def test_topology_refuses_nonsense(meshes: list, message: str) -> None:
    with pytest.raises(Exception, match=message):
        Topology.pack(meshes)


@pytest.mark.parametrize("name", ["cpu", "torch"])
def test_batch_renderer_draws_each_mesh_alone(name: str) -> None:
    vertices, faces = hand()
    scene = objects()
    cameras = Camera(torch.cat([camera(SIZE, 100.0), camera(SIZE, 130.0)]), SIZE)
    renderer = make_renderer(faces, vertices * 5, scene, cameras, name)  # type: ignore[arg-type]
    hands = torch.stack([posed(vertices, 0), posed(vertices, 1)]).requires_grad_()
    things = torch.stack([posed(scene.vertices[0], 2), posed(scene.vertices[1], 3)]).requires_grad_()
    drawn = renderer(hands, things)
    assert drawn.masks.shape == drawn.depth.shape == drawn.ids.shape == (2, 2, *SIZE)
    assert drawn.coords.shape == (2, 2, 3, *SIZE)
    for image in range(2):
        for kind, (points, shape, codes) in enumerate(
            [(hands, faces, vertices * 5), (things, scene.faces[image], scene.codes[image])]
        ):
            topology = Topology.pack([(points.shape[1], shape)])
            own = render(points[image], topology, cameras.matrix[image : image + 1], SIZE, codes, backend=name)
            for one, other in zip((drawn.masks, drawn.depth, drawn.coords, drawn.ids), own, strict=True):
                assert torch.equal(one[image, kind], other[0])
    both = torch.autograd.grad(drawn.masks[:, 0].sum() + drawn.coords[:, 1].sum(), [hands, things])
    assert all(gradient.abs().max() > 0 for gradient in both)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_only_what_is_wanted_is_drawn(backend: str) -> None:
    vertices, faces = hand()
    points, topology = posed(vertices, 0), Topology.pack([(778, faces)])
    everything = render(points, topology, camera(SIZE), SIZE, vertices, backend=backend)
    for want, present in (
        (("mask",), (0,)),
        (("depth",), (1, 3)),
        (("values",), (2, 3)),
        (("mask", "depth"), (0, 1, 3)),
    ):
        drawn = render(points, topology, camera(SIZE), SIZE, vertices, backend=backend, want=want)
        for index, picture in enumerate(drawn):
            assert (picture is not None) == (index in present)
            assert picture is None or torch.equal(picture, everything[index])


def test_a_batch_renderer_that_draws_masks_only_gives_nan_elsewhere() -> None:
    vertices, faces = hand()
    scene = objects()
    cameras = Camera(camera(SIZE).repeat(2, 1, 1), SIZE)
    renderer = make_renderer(faces, vertices, scene, cameras, want=("mask",))  # type: ignore[arg-type]
    drawn = renderer(torch.stack([posed(vertices, 0)] * 2), scene.vertices + torch.tensor([0, 0, 0.5]))
    assert drawn.masks.isfinite().all()
    assert drawn.depth.isnan().all()
    assert drawn.coords.isnan().all()
    assert drawn.coords.shape == (2, 2, 3, *SIZE)


def test_colors_are_painted_where_they_are_wanted() -> None:
    """What the twin paints, beside coords that stay what they were; the hand is black, NaN when not wanted."""
    vertices, faces = hand()
    scene = objects()
    cameras = Camera(camera(SIZE).repeat(2, 1, 1), SIZE)
    hands = torch.stack([posed(vertices, 0), posed(vertices, 1)])
    things = torch.stack([posed(scene.vertices[0], 2), posed(scene.vertices[1], 3)])
    painted = dataclasses.replace(scene, colors=torch.rand(scene.vertices.shape))
    want = OUTPUTS | {"colors"}
    fast, twin = (
        make_renderer(faces, vertices, painted, cameras, name, want=want)(hands, things)  # type: ignore[arg-type]
        for name in ("cpu", "torch")
    )
    torch.testing.assert_close(fast.colors, twin.colors, atol=1e-4, rtol=0)
    for image in range(2):
        topology = Topology.pack([(things.shape[1], scene.faces[image])])
        own = render(things[image], topology, cameras.matrix[:1], SIZE, painted.colors[image])[2]
        assert own is not None and torch.equal(fast.colors[image, 1], own[0])
        assert own.max() > 0.5
    assert not fast.colors[:, 0].any() and not fast.colors[:, 1].movedim(1, -1)[fast.ids[:, 1] < 0].any()
    plain = make_renderer(faces, vertices, painted, cameras, "cpu")(hands, things)  # type: ignore[arg-type]
    assert plain.colors.isnan().all() and plain.colors.shape == fast.colors.shape
    torch.testing.assert_close(plain.coords, fast.coords, atol=1e-6, rtol=0)
    grey = make_renderer(faces, vertices, scene, cameras, "cpu", want=("colors",))(hands, things)  # type: ignore[arg-type]
    seen = grey.ids[:, 1] >= 0
    torch.testing.assert_close(grey.colors[:, 1].movedim(1, -1)[seen], torch.full((int(seen.sum()), 3), 0.5))
    assert grey.masks.isnan().all()


def test_an_object_that_looks_inwards_is_refused() -> None:
    vertices, faces = hand()
    scene = objects()
    mirrored = Objects(scene.vertices * torch.tensor([-1.0, 1.0, 1.0]), scene.faces, scene.codes)
    cameras = Camera(camera(SIZE).repeat(2, 1, 1), SIZE)
    with pytest.raises(ValueError, match=r"object 0 look inwards.*flip"):
        make_renderer(faces, vertices, mirrored, cameras)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_drawing_without_gradients(mode) -> None:
    vertices, faces = hand()
    points, topology = posed(vertices, 0), Topology.pack([(778, faces)])
    reference = render(points, topology, camera(SIZE), SIZE, vertices)
    with mode():
        drawn = render(points.clone(), topology, camera(SIZE), SIZE, vertices)
    assert all(torch.equal(one, other) for one, other in zip(reference, drawn, strict=True))


def test_second_derivatives_and_changed_inputs_are_refused() -> None:
    vertices, faces = hand()
    points, topology = posed(vertices, 0).requires_grad_(), Topology.pack([(778, faces)])
    mask = render(points, topology, camera(SIZE), SIZE)[0]
    with pytest.raises(RuntimeError, match=r"no second derivatives.*'torch'"):
        torch.autograd.grad(mask.sum(), points, create_graph=True)
    moved = points * 1.0
    mask = render(moved, topology, camera(SIZE), SIZE)[0]
    with torch.no_grad():
        moved.add_(0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        mask.sum().backward()


def test_gradient_of_the_painted_values() -> None:
    """Painting is linear: the gradient with respect to the values gives the picture back."""
    vertices, faces = hand()
    paint = torch.rand(778, 2, requires_grad=True)
    picture = render(posed(vertices, 0), Topology.pack([(778, faces)]), camera(SIZE), SIZE, paint)[2]
    weights = torch.rand(picture.shape)
    (gradient,) = torch.autograd.grad((picture * weights).sum(), paint)
    assert (gradient * paint).sum().item() == pytest.approx((picture * weights).sum().item(), rel=1e-4)


def test_errors_say_what_to_do() -> None:
    vertices, faces = hand()
    points, topology = posed(vertices, 0), Topology.pack([(778, faces)])
    with pytest.raises(ConfigError, match=r"'torhc'.*did you mean 'torch'"):
        render(points, topology, camera(), SIZE, backend="torhc")
    with pytest.raises(ValueError, match=r"'masks'.*no such output.*mask"):
        render(points, topology, camera(), SIZE, want=("masks",))
    with pytest.raises(ValueError, match=r"777 vertices.*778"):
        render(points[1:], topology, camera(), SIZE)
    with pytest.raises(ValueError, match=r"2 camera matrices.*1 mesh"):
        render(points, topology, camera().repeat(2, 1, 1), SIZE)
    with pytest.raises(TypeError, match=r"float64.*'torch'"):
        render(points.double(), topology, camera().double(), SIZE)


@pytest.mark.parametrize("name", ["nvdiffrast", "pytorch3d"])
def test_a_missing_package_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"horefine.render.{name}", raising=False)
    with pytest.raises(ImportError, match=f"(?s)package {name}.*pip install.*--renderer cpu"):
        RENDERERS[name]()


def test_scene_buffers_agree_with_the_renderer() -> None:
    for mesh in (hand, torus):
        vertices, faces = mesh()
        points = posed(vertices, 4)
        _, depth, values, ids = render(points, Topology.pack([(len(points), faces)]), camera(SIZE), SIZE, vertices)
        seen = rasterize_buffers(points.numpy(), faces.numpy(), camera(SIZE)[0].numpy(), SIZE, vertices.numpy())
        culled = rasterize_buffers(points.numpy(), faces.numpy(), camera(SIZE)[0].numpy(), SIZE, cull=True)
        assert (seen.ids != culled.ids).mean() < 1e-3
        same = seen.ids == ids[0].numpy()
        assert same.mean() > 0.999
        assert np.abs(seen.depth - depth[0].numpy())[same].max() < 1e-5
        assert np.abs(seen.attributes - values[0].permute(1, 2, 0).numpy())[same].max() < 1e-5
        assert np.abs(seen.barycentric.sum(2) - (seen.ids >= 0)).max() < 1e-5


def test_scene_buffers_of_a_floor_that_reaches_behind_the_camera() -> None:
    """The plane y = 0.3: depth 0.3 / y along each ray, in front of it a sphere."""
    floor = np.array([[-5, 0.3, -5], [5, 0.3, -5], [5, 0.3, 5], [-5, 0.3, 5.0]])
    ball, ball_faces = sphere(0.1, 2)
    vertices = np.concatenate([floor, ball.numpy() + np.array([0.0, 0.1, 1.0])])
    faces = np.concatenate([[[0, 1, 2], [0, 2, 3]], ball_faces.numpy() + 4])
    matrix = Camera.from_focal(100.0, SIZE).matrix[0].numpy()
    seen = rasterize_buffers(vertices, faces, matrix, SIZE, vertices)
    rows = np.mgrid[: SIZE[0], : SIZE[1]][0]
    with np.errstate(divide="ignore"):
        depth = 0.3 / ((rows - matrix[1, 2]) / matrix[1, 1])
    ground = (seen.ids == 0) | (seen.ids == 1)
    assert ((depth > 0) & (depth < 5) & ~ground).sum() == (seen.ids > 1)[(depth > 0) & (depth < 5)].sum()
    assert np.abs(seen.depth / depth - 1)[ground].max() < 1e-5
    assert np.abs(seen.attributes[..., 1] - 0.3)[ground].max() < 1e-6
    assert seen.ids[33, 32] > 1
    assert seen.depth[33, 32] == pytest.approx(0.9, abs=0.01)
    with pytest.raises(ValueError, match="up to 999"):
        rasterize_buffers(vertices, np.array([[0, 1, 999]]), matrix, SIZE)


def _draw(picture: np.ndarray, nearest: np.ndarray, corners: np.ndarray, z: np.ndarray, number: int) -> None:
    """One face into a picture, pixel centres at + 1/2, smaller z wins; corners in pixels."""
    height, width = picture.shape
    rows, columns = np.mgrid[:height, :width] + 0.5
    u, v = corners[1] - corners[0], corners[2] - corners[0]
    area = u[0] * v[1] - u[1] * v[0]
    if area == 0:
        return
    x, y = columns - corners[0, 0], rows - corners[0, 1]
    second, third = (x * v[1] - y * v[0]) / area, (u[0] * y - u[1] * x) / area
    depth = (1 - second - third) * z[0] + second * z[1] + third * z[2]
    drawn = (second >= 0) & (third >= 0) & (second + third <= 1) & (depth < nearest)
    picture[drawn], nearest[drawn] = number, depth[drawn]


def stand_in_nvdiffrast() -> types.ModuleType:
    """nvdiffrast.torch.rasterize in range mode: clip space in, row 0 at y = -1, channel 3 = face number + 1."""

    def rasterize(context, pos, tri, resolution, ranges, grad_db):
        assert context == "context"
        assert pos.dtype == torch.float32
        assert tri.dtype == ranges.dtype == torch.int32
        height, width = resolution
        out = np.zeros((len(ranges), height, width, 4), np.float32)
        ndc = (pos[:, :3] / pos[:, 3:]).double().numpy()
        assert (pos[:, 3] > 0).all()
        pixels = (ndc[:, :2] + 1) / 2 * [width, height]
        for image, (first, count) in enumerate(ranges.tolist()):
            nearest = np.full((height, width), 1.0)  # the far plane
            for face in range(first, first + count):
                corners = tri[face].numpy()
                assert (np.abs(ndc[corners, 2]) <= 1).all()
                _draw(out[image, ..., 3], nearest, pixels[corners], ndc[corners, 2], face + 1)
        return torch.from_numpy(out), torch.zeros(0)

    module = types.ModuleType("nvdiffrast.torch")
    module.rasterize = rasterize  # type: ignore[attr-defined]
    module.RasterizeCudaContext = lambda device: "context"  # type: ignore[attr-defined]
    return module


def stand_in_pytorch3d() -> dict[str, types.ModuleType]:
    """rasterize_meshes: x left, y up, shorter side -1 to 1, faces numbered through all meshes, -1 where empty."""

    @dataclass
    class Meshes:
        verts: list[Tensor]
        faces: list[Tensor]

    def rasterize_meshes(meshes, image_size, blur_radius, faces_per_pixel, perspective_correct):
        height, width = image_size
        assert (blur_radius, faces_per_pixel, perspective_correct) == (0.0, 1, True)
        found = np.full((len(meshes.verts), height, width), -1)
        number = 0
        for image, (verts, faces) in enumerate(zip(meshes.verts, meshes.faces, strict=True)):
            points = verts.double().numpy()
            pixels = (np.array([width, height]) - points[:, :2] * min(height, width)) / 2
            nearest = np.full((height, width), np.inf)
            for corners in faces.numpy():
                _draw(found[image], nearest, pixels[corners], -1 / points[corners, 2], number)
                number += 1
        return torch.from_numpy(found)[..., None], None, None, None

    structures, rasterizer = types.ModuleType("pytorch3d.structures"), types.ModuleType("rasterize_meshes")
    structures.Meshes, rasterizer.rasterize_meshes = Meshes, rasterize_meshes  # type: ignore[attr-defined]
    names = ["pytorch3d", "pytorch3d.renderer", "pytorch3d.renderer.mesh"]
    modules = {name: types.ModuleType(name) for name in names}
    return modules | {
        "pytorch3d.structures": structures,
        "pytorch3d.renderer.mesh.rasterize_meshes": rasterizer,
    }


@pytest.mark.parametrize("name", ["nvdiffrast", "pytorch3d"])
@pytest.mark.parametrize("size", [(40, 56), (56, 40)])
def test_adapters_follow_the_documented_conventions(
    name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same faces at the same pixels as the twin, over several items, one open, one partly behind the camera."""
    if name == "nvdiffrast":
        package = types.ModuleType("nvdiffrast")
        package.torch = stand_in_nvdiffrast()  # type: ignore[attr-defined]
        modules = {"nvdiffrast": package, "nvdiffrast.torch": package.torch}
    else:
        modules = stand_in_pytorch3d()
    for key, module in modules.items():
        monkeypatch.setitem(sys.modules, key, module)
    monkeypatch.delitem(sys.modules, f"horefine.render.{name}", raising=False)
    adapter = importlib.import_module(f"horefine.render.{name}")
    try:
        meshes = [MESHES["box"](), sphere(0.06, 2), open_sphere()]
        points = [posed(vertices, seed) for seed, (vertices, _) in enumerate(meshes)]
        points[1][3, 2] = -0.1
        topology = Topology.pack([(len(v), f) for v, f in meshes])
        packed, matrix = torch.cat(points), camera(size, 90.0).repeat(3, 1, 1)
        want = frozenset({"mask", "depth", "values"})
        own = render(packed, topology, matrix, size, packed, backend="torch")
        foreign = render_with(adapter.finder(topology, size), packed, topology, matrix, size, packed, want)
        assert (own[3] >= 0).float().mean() > 0.02
        assert (own[3] != foreign[3]).float().mean() < 5e-4
        assert torch.equal(own[0], foreign[0])
        same = own[3] == foreign[3]
        assert (own[1] - foreign[1])[same].abs().max() < 1e-6
    finally:
        sys.modules.pop(f"horefine.render.{name}", None)


def open_sphere() -> tuple[Tensor, Tensor]:
    vertices, faces = sphere(0.06, 2)
    return vertices, faces[(vertices[faces][..., 2] > -0.02).all(1)]
