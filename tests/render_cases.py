"""Meshes, poses and a supersampled reference picture for the renderer's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import trimesh
from torch import Tensor

from horefine.geometry import Camera, axis_angle_to_matrix
from horefine.render import Topology, render

DATA = Path(__file__).parent / "data"


def camera(size: tuple[int, int] = (64, 64), focal: float = 160.0) -> Tensor:
    return Camera.from_focal(focal, size).matrix


def hand() -> tuple[Tensor, Tensor]:
    """A closed mesh with MANO's counts."""
    stored = np.load(DATA / "synth_hand.npz")
    vertices = torch.from_numpy(stored["v_template"]).float()
    return vertices - vertices.mean(0), torch.from_numpy(stored["faces"]).long()


def open_hand() -> tuple[Tensor, Tensor]:
    """The same, cut open at the wrist."""
    vertices, faces = hand()
    kept = vertices[:, 0] < vertices[:, 0].max() - 0.02
    return vertices, faces[kept[faces].all(1)]


def _tensors(mesh: trimesh.Trimesh) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.array(mesh.vertices)).float(), torch.from_numpy(np.array(mesh.faces)).long()


def sphere(radius: float = 0.05, subdivisions: int = 3) -> tuple[Tensor, Tensor]:
    return _tensors(trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius))


def torus() -> tuple[Tensor, Tensor]:
    """A body with a hole, self-occluding, about 3000 faces of a pixel or less."""
    return _tensors(trimesh.creation.torus(major_radius=0.05, minor_radius=0.018, major_sections=48, minor_sections=32))


def box() -> tuple[Tensor, Tensor]:
    """Twelve faces much larger than a pixel."""
    return _tensors(trimesh.creation.box((0.08, 0.05, 0.12)))


MESHES = {"hand": hand, "open hand": open_hand, "torus": torus, "box": box}


def posed(vertices: Tensor, seed: int, offset: tuple[float, float, float] = (0.004, -0.006, 0.6)) -> Tensor:
    """Turned at random and put in front of the camera."""
    turn = torch.randn(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 1.2
    rotation = axis_angle_to_matrix(turn[None])[0].to(vertices.dtype)
    return vertices @ rotation.T + vertices.new_tensor(offset)


def smooth(size: tuple[int, int], seed: int) -> Tensor:
    """A smooth random picture, float64."""
    noise = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.interpolate(noise, size, mode="bicubic", align_corners=True)[0, 0]


def supersampled(
    vertices: Tensor, topology: Topology, matrix: Tensor, size: tuple[int, int], factor: int = 32
) -> Tensor:
    """Coverage counted on ``factor`` squared points a pixel: no edge is walked, only the z-buffer is used."""
    height, width = size
    fine = Camera(matrix, size).resized((height * factor, width * factor))
    ids = render(vertices.float(), topology, fine.matrix, fine.size, want=("depth",))[3]
    assert ids is not None
    return (ids[0] >= 0).view(height, factor, width, factor).float().mean((1, 3)).double()


def rigid(vertices: Tensor, motion: Tensor) -> Tensor:
    """Vertices moved by a small rotation about their centroid (as metres at their mean radius) and a translation."""
    centre = vertices.mean(0)
    radius = (vertices - centre).norm(dim=1).mean()
    rotation = axis_angle_to_matrix((motion[:3] / radius)[None])[0]
    return (vertices - centre) @ rotation.T + centre + motion[3:]
