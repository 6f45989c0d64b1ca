"""The renderer's speed, against deodr in the same run, and the quality of its mask gradient.

    python -m benchmarks.render                # both
    python -m benchmarks.render --only speed

Speed: forward and backward of mask and depth to camera-frame vertices, one thread, the poses rotated among 128 (a fixed
pose lets the branch predictor memorise the mesh). Every round times each renderer on the same poses, one after the
other; ratios are of processor time within a round. deodr is driven through its C++ functions directly, with the
adjacency precomputed and its input checks left out: the fastest way to use it.
Gradient: 6-dof gradients against central differences of 32x supersampled coverage (counted points, no edges).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks._common import median_interval, write_result
from horefine.geometry import Camera, axis_angle_to_matrix
from horefine.hand import load_hand
from horefine.objects import embedded_object
from horefine.render import Topology, render

POSES = 128
DISTANCE = 0.6
Run = Callable[[int], object]


def meshes() -> dict[str, tuple[Tensor, Tensor]]:
    """Vertices about the origin and faces: the embedded hand in its relaxed pose, and a mug."""
    model = load_hand(kind="embedded")
    hand = model(model.mean_rotvec[None], torch.zeros(1, 10), torch.zeros(1, 3)).vertices[0]
    mug = embedded_object("mug")
    found = {"hand": (hand, model.faces), "mug": (mug.vertices[0], mug.faces[0])}
    return {name: (vertices - vertices.mean(0), faces) for name, (vertices, faces) in found.items()}


def camera(size: tuple[int, int]) -> Camera:
    """The hand fills most of the picture."""
    return Camera.from_focal(160 * min(size) / 64, size)


def poses(vertices: Tensor, count: int = POSES, seed: int = 0) -> list[Tensor]:
    """Random rotations and small offsets in front of the camera."""
    generator = torch.Generator().manual_seed(seed)
    rotations = axis_angle_to_matrix(torch.randn(count, 3, generator=generator) * 1.2)
    offsets = torch.randn(count, 3, generator=generator) * 0.01 + torch.tensor([0.0, 0.0, DISTANCE])
    return [(vertices @ r.T + t).contiguous() for r, t in zip(rotations, offsets, strict=True)]


def ours(vertices: list[Tensor], faces: Tensor, view: Camera, batch: int, backend: str = "cpu") -> Run:
    """Forward and backward of ``batch`` consecutive poses in one call."""
    topology = Topology.pack([(len(vertices[0]), faces)] * batch)
    matrix = view.matrix.expand(batch, 3, 3).contiguous()
    starts = range(0, len(vertices) - batch + 1, batch)
    inputs = [torch.cat(vertices[i : i + batch]).requires_grad_() for i in starts]
    given = [torch.randn(batch, *view.size) for _ in range(2)]

    def run(number: int) -> object:
        points = inputs[number % len(inputs)]
        mask, depth, _, _ = render(points, topology, matrix, view.size, backend=backend)
        return torch.autograd.grad([mask, depth], points, given)  # type: ignore[list-item]

    return run


class Deodr:
    """deodr's silhouette (sigma 1) and depth as a two-channel picture, differentiated to camera-frame vertices."""

    def __init__(self, faces: Tensor, count: int, view: Camera, sigma: float = 1.0) -> None:
        from deodr import differentiable_renderer_cython as native
        from deodr.differentiable_renderer import Scene2D
        from deodr.triangulated_mesh import TriMeshAdjacencies

        self.native, self.sigma, self.view = native, sigma, view
        self.adjacency = TriMeshAdjacencies(faces.numpy().astype(np.uint32), clockwise=False, nb_vertices=count)
        corners, number = faces.numpy().astype(np.uint32), len(faces)
        self.scene = Scene2D(
            faces=corners,
            faces_uv=corners,
            ij=np.zeros((count, 2)),
            depths=np.zeros(count),
            textured=np.zeros(number, bool),
            uv=np.zeros((count, 2)),
            shade=np.zeros(count),
            colors=np.ones((count, 2)),
            shaded=np.zeros(number, bool),
            edgeflags=np.zeros((number, 3), bool),
            height=view.size[0],
            width=view.size[1],
            nb_colors=2,
            texture=np.zeros((0, 0)),
            background_color=np.zeros(2),
            clockwise=False,
            backface_culling=True,
        )

    def forward(self, points: Tensor) -> np.ndarray:
        """Picture "H W 2": silhouette and depth."""
        scene, matrix = self.scene, self.view.matrix[0].double().numpy()
        self.points = points.detach().numpy().astype(np.float64)
        self.z = self.points[:, 2]
        scene.ij = self.points[:, :2] / self.z[:, None] * [matrix[0, 0], matrix[1, 1]] + matrix[:2, 2]
        scene.depths = self.z
        scene.colors[:, 1] = self.z
        scene.edgeflags = self.adjacency.edge_on_silhouette(scene.ij)
        self.picture, self.buffer = np.empty((*self.view.size, 2)), np.empty(self.view.size)
        self.native.renderSceneCpp(scene, self.sigma, self.picture, self.buffer, check_valid=False)
        return self.picture

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        """Gradient "V 3" of the last forward (its picture is consumed)."""
        scene, matrix = self.scene, self.view.matrix[0].double().numpy()
        scene.clear_gradients()
        self.native.renderSceneBCpp(scene, self.sigma, self.picture, self.buffer, gradient, check_valid=False)
        flat = scene.ij_b * [matrix[0, 0], matrix[1, 1]] / self.z[:, None]
        depth = scene.colors_b[:, 1] - (flat * self.points[:, :2]).sum(1) / self.z
        return np.concatenate([flat, depth[:, None]], 1)


class _DeodrFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, points: Tensor, renderer: Deodr):
        ctx.renderer = renderer
        picture = torch.from_numpy(renderer.forward(points).copy())
        return picture

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return torch.from_numpy(ctx.renderer.backward(gradient.contiguous().numpy()).astype(np.float32)), None


def deodr(vertices: list[Tensor], faces: Tensor, view: Camera, batch: int) -> Run:
    """The same work, one mesh after the other: deodr has no batch."""
    renderer = Deodr(faces, len(vertices[0]), view)
    inputs = [points.clone().requires_grad_() for points in vertices]
    given = torch.randn(*view.size, 2, dtype=torch.float64)

    def run(number: int) -> object:
        for k in range(batch):
            points = inputs[(number * batch + k) % len(inputs)]
            torch.autograd.grad(_DeodrFunction.apply(points, renderer), points, given)
        return None

    return run


def interleaved(runs: dict[str, Run], rounds: int, calls: int) -> dict[str, np.ndarray]:
    """Seconds of one call: "rounds 2" (wall, processor) for each run; the runs take turns within a round."""
    for run in runs.values():
        for number in range(3):
            run(number)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter(), time.thread_time()
            for number in range(calls):
                run(turn * calls + number)
            wall, processor = time.perf_counter() - start[0], time.thread_time() - start[1]
            times[name].append((wall / calls, processor / calls))
    return {name: np.array(values) for name, values in times.items()}


CASES = (
    ("hand", (64, 64), 1),
    ("hand", (64, 64), 16),
    ("mug", (64, 64), 1),
    ("mug", (64, 64), 16),
    ("hand", (128, 128), 1),
    ("hand", (120, 160), 1),
)


def speed(rounds: int) -> Iterator[dict[str, object]]:
    """A row for each case: milliseconds an image, and the ratios within rounds."""
    found = meshes()
    for name, size, batch in CASES:
        vertices, faces = found[name]
        own, view = poses(vertices), camera(size)
        runs = {
            "cpu": ours(own, faces, view, batch),
            "deodr": deodr(own, faces, view, batch),
            "torch": ours(own, faces, view, batch, "torch"),
        }
        times = interleaved(runs, rounds, max(1, POSES // batch // 2))
        wall, processor = ({k: v[:, i] for k, v in times.items()} for i in (0, 1))
        low, ratio, high = median_interval(processor["deodr"] / processor["cpu"])
        yield {
            "case": f"{name}, {len(faces)} faces, {size[1]}x{size[0]}",
            "batch": batch,
            "ms/image": float(np.median(wall["cpu"])) * 1e3 / batch,
            "best": float(wall["cpu"].min()) * 1e3 / batch,
            "CPU ms/image": float(np.median(processor["cpu"])) * 1e3 / batch,
            "deodr CPU ms/image": float(np.median(processor["deodr"])) * 1e3 / batch,
            "deodr / ours": ratio,
            "95 %": f"{low:.2f}..{high:.2f}",
            "torch twin / ours": float(np.median(processor["torch"] / processor["cpu"])),
        }


def supersampled(points: Tensor, topology: Topology, view: Camera, factor: int = 32) -> Tensor:
    """Coverage by counting ``factor`` squared points a pixel."""
    height, width = view.size
    fine = view.resized((height * factor, width * factor))
    ids = render(points, topology, fine.matrix, fine.size, want=("depth",))[3]
    assert ids is not None
    return (ids[0] >= 0).view(height, factor, width, factor).float().mean((1, 3)).double()


def moved(points: Tensor, motion: Tensor) -> Tensor:
    """A small rotation about the centroid (metres at the mean radius) and a translation, float64."""
    centre = points.mean(0)
    radius = (points - centre).norm(dim=1).mean()
    return (points - centre) @ axis_angle_to_matrix((motion[:3] / radius)[None])[0].T + centre + motion[3:]


def gradient(name: str, count: int, step: float = 8e-4) -> Iterator[dict[str, object]]:
    """Cosine and magnitude of mask gradients against differences: exact area and deodr, two losses."""
    size = (64, 64)
    vertices, faces = meshes()[name]
    topology, view = Topology.pack([(len(vertices), faces)]), camera(size)
    other = Deodr(faces, len(vertices), view)
    masks: dict[str, Callable[[Tensor], Tensor]] = {
        "cpu": lambda p: render(p, topology, view.matrix, size, want=("mask",))[0][0].double(),  # type: ignore[index]
        "deodr": lambda p: _DeodrFunction.apply(p, other)[..., 0],  # type: ignore[index]
    }
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for seed, base in enumerate(poses(vertices, count, seed=1)):
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(1, 1, 6, 6, generator=generator, dtype=torch.float64)
        weights = torch.nn.functional.interpolate(noise, size, mode="bicubic", align_corners=True)[0, 0]
        place = base.double()
        away = torch.randn(6, generator=generator, dtype=torch.float64) * 0.004
        target = supersampled(moved(place, away).float(), topology, view)
        losses = {"linear": lambda m: (m * weights).sum(), "squared": lambda m: ((m - target) ** 2).sum()}  # noqa: B023
        both = [
            [supersampled(moved(place, s * step * axis).float(), topology, view) for s in (1, -1)]
            for axis in torch.eye(6, dtype=torch.float64)
        ]
        for method, mask in masks.items():
            for kind, loss in losses.items():
                motion = torch.zeros(6, dtype=torch.float64, requires_grad=True)
                (own,) = torch.autograd.grad(loss(mask(moved(place, motion).float())), motion)
                reference = torch.stack([(loss(a) - loss(b)) / (2 * step) for a, b in both])
                cosine = torch.cosine_similarity(own, reference, 0).item()
                found.setdefault((method, kind), []).append((cosine, (own.norm() / reference.norm()).item()))
    for (method, kind), values in found.items():
        cosines, ratios = np.array(values).T
        yield {
            "mesh": name,
            "renderer": method,
            "loss": kind,
            "poses": count,
            "median cosine": float(np.median(cosines)),
            "worst cosine": float(cosines.min()),
            "median magnitude": float(np.median(ratios)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("speed", "gradient"))
    parser.add_argument("--rounds", type=int, default=25, help="timed rounds of each case")
    parser.add_argument("--poses", type=int, default=24, help="poses of the gradient comparison")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.only != "gradient":
        busy = os.getloadavg()[0]
        notes = [
            "forward and backward of mask and depth, one thread, poses rotated among 128",
            "ratios are of processor time within a round, the renderers taking turns",
            f"load average at the start: {busy:.1f} (wall times suffer from it, processor times and ratios little)",
        ]
        write_result("render_speed", rows=list(speed(given.rounds)), notes=notes)
    if given.only != "speed":
        rows = [row for name in ("hand", "mug") for row in gradient(name, given.poses)]
        write_result("render_gradient", rows=rows, notes=["64x64, against differences of 32x supersampled coverage"])


if __name__ == "__main__":
    main()
