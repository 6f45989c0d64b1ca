"""Triangle meshes in batches: padding, normalised object coordinates, normals and signed distance.

A mesh lives in its own frame, in metres. A batch of B meshes shares one pair of array sizes; shorter meshes repeat
their last vertex and end with the degenerate face (0, 0, 0), which no renderer and no distance sees.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.distance import RESOLUTION, DistanceGrid, cached_grid
from horefine.mesh_file import UNITS, MeshError, MeshReport, read_mesh
from horefine.symmetry import find_symmetries

__all__ = ["DistanceGrid", "Mesh", "MeshError", "MeshReport"]


def even_samples(
    vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], count: int
) -> tuple[Int[Tensor, "N"], Float[Tensor, "N 3"]]:
    """Faces and barycentric coordinates of ``count`` points, as dense everywhere; the same ones each time."""
    generator = torch.Generator().manual_seed(0)  # drawn on the CPU: the same on every device
    corners = vertices[faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], dim=-1).norm(dim=-1)
    chosen = torch.multinomial(area.cpu().clamp(min=1e-12), count, replacement=True, generator=generator)
    share = torch.rand(count, 2, generator=generator)
    share = torch.where(share.sum(1, keepdim=True) > 1, 1 - share, share)
    return chosen.to(faces.device), torch.cat([1 - share.sum(1, keepdim=True), share], 1).to(vertices)


@dataclass(frozen=True)
class Mesh:
    """B triangle meshes, object frame, metres."""

    vertices: Float[Tensor, "B V 3"]
    """Padded by repeating the last real vertex."""
    faces: Int[Tensor, "B F 3"]
    """Outward by the right-hand rule; padded with (0, 0, 0)."""
    colors: Float[Tensor, "B V 3"] | None = None
    """Linear albedo of each vertex, 0 to 1."""
    name: tuple[str, ...] = ()
    counts: Int[Tensor, "B 2"] = None  # type: ignore[assignment]
    """How many vertices and faces of each mesh are real (default: all)."""
    sdf: DistanceGrid | None = None
    """Signed distance; :meth:`distance` builds it when it is not here."""
    symmetries: Float[Tensor, "B S 4 4"] | None = None
    """Motions of the object's frame (metres) after which it is the same, the identity first and as padding."""

    def __post_init__(self) -> None:
        """Fill in the counts and names that were left out."""
        if self.counts is None:
            sizes = torch.tensor([self.vertices.shape[1], self.faces.shape[1]], device=self.vertices.device)
            object.__setattr__(self, "counts", sizes.expand(len(self.vertices), 2))
        if not self.name:
            object.__setattr__(self, "name", ("mesh",) * len(self.vertices))

    def __len__(self) -> int:
        return len(self.vertices)

    def __getitem__(self, index: int | slice | Tensor) -> Mesh:
        """The chosen meshes, still padded; an integer keeps a batch of one (see :meth:`trimmed`)."""
        chosen = slice(index, index + 1 or None) if isinstance(index, int) else index
        places = torch.arange(len(self), device=self.vertices.device)[chosen].tolist()
        return Mesh(
            self.vertices[chosen],
            self.faces[chosen],
            None if self.colors is None else self.colors[chosen],
            tuple(self.name[place] for place in places),
            self.counts[chosen],
            None if self.sdf is None else self.sdf[chosen],
            None if self.symmetries is None else self.symmetries[chosen],
        )

    @staticmethod
    def from_arrays(
        vertices: Float[np.ndarray, "V 3"],
        faces: Int[np.ndarray, "F 3"],
        colors: Float[np.ndarray, "V 3"] | None = None,
        name: str = "mesh",
    ) -> Mesh:
        """One mesh (B = 1) from numpy arrays in metres, as they are: nothing is checked or repaired."""
        return Mesh(
            torch.tensor(np.asarray(vertices), dtype=torch.float32)[None],
            torch.tensor(np.asarray(faces), dtype=torch.int64)[None],
            None if colors is None else torch.tensor(np.asarray(colors), dtype=torch.float32)[None],
            (name,),
        )

    @staticmethod
    def load(path: str | Path, unit: str = "auto", *, max_faces: int = 20_000) -> tuple[Mesh, MeshReport]:
        """One mesh (B = 1) from an OBJ, PLY, GLB, STL or OFF file, and what was recognised and repaired.

        The mesh keeps the file's frame and is scaled to metres. ``unit`` is "m", "cm", "mm", "in" or "auto": by size,
        as a hand-held thing is 2 to 40 cm long. Seams are merged, faces oriented, small holes filled, meshes above
        ``max_faces`` simplified to a quarter of that; the report (also in the log) says which of these was done.

        Raises:
            AssetError: there is no such file.
            MeshError: it cannot be read, has no surface, has values that are not finite, or its size fits no unit.
            InputError: symmetries beside it (:mod:`horefine.symmetry`) that cannot be used.
        """
        vertices, faces, colors, report = read_mesh(path, unit, max_faces)
        mesh = Mesh.from_arrays(vertices, faces, colors, Path(path).stem)
        found = find_symmetries(Path(path), UNITS[report.unit])
        return (mesh if found is None else dataclasses.replace(mesh, symmetries=found[None])), report

    @staticmethod
    def cat(meshes: list[Mesh]) -> Mesh:
        """One batch from several, padded to the largest.

        Colours are kept when any mesh has them (grey for the others); distance grids when any mesh has one (the
        others' are built).
        """
        vertex_count = max(mesh.vertices.shape[1] for mesh in meshes)
        face_count = max(mesh.faces.shape[1] for mesh in meshes)
        colors = None
        if any(mesh.colors is not None for mesh in meshes):
            colors = torch.cat([_repeat_last(mesh.albedo, vertex_count) for mesh in meshes])
        sdf = None
        if any(mesh.sdf is not None for mesh in meshes):
            sdf = DistanceGrid.cat([mesh.grid for mesh in meshes])
        return Mesh(
            torch.cat([_repeat_last(mesh.vertices, vertex_count) for mesh in meshes]),
            torch.cat([_zeros_after(mesh.faces, face_count) for mesh in meshes]),
            colors,
            tuple(name for mesh in meshes for name in mesh.name),
            torch.cat([mesh.counts for mesh in meshes]),
            sdf,
            _joined([mesh.symmetries for mesh in meshes], [len(mesh) for mesh in meshes]),
        )

    def to(self, *args: object, **kwargs: object) -> Mesh:
        """``Tensor.to`` on every tensor; a floating dtype leaves the integers as they are."""
        device = torch.empty(0, device=self.vertices.device).to(*args, **kwargs).device  # type: ignore[arg-type]
        return Mesh(
            self.vertices.to(*args, **kwargs),  # type: ignore[arg-type]
            self.faces.to(device),
            None if self.colors is None else self.colors.to(*args, **kwargs),  # type: ignore[arg-type]
            self.name,
            self.counts.to(device),
            None if self.sdf is None else self.sdf.to(*args, **kwargs),
            None if self.symmetries is None else self.symmetries.to(*args, **kwargs),  # type: ignore[arg-type]
        )

    def trimmed(self, index: int = 0) -> tuple[Float[Tensor, "V 3"], Int[Tensor, "F 3"]]:
        """Vertices and faces of one mesh without padding."""
        vertex_count, face_count = self.counts[index].tolist()
        return self.vertices[index, :vertex_count], self.faces[index, :face_count]

    @property
    def albedo(self) -> Float[Tensor, "B V 3"]:
        """The colours, or grey where the mesh has none."""
        return self.colors if self.colors is not None else torch.full_like(self.vertices, 0.5)

    @cached_property
    def vertex_mask(self) -> Tensor:
        """ "B V" bool: which vertices are real."""
        places = torch.arange(self.vertices.shape[1], device=self.vertices.device)
        return places < self.counts[:, :1]

    @cached_property
    def box(self) -> tuple[Float[Tensor, "B 3"], Float[Tensor, "B 3"]]:
        """Lowest and highest corner of the axis-aligned bounding box."""
        return self.vertices.amin(1), self.vertices.amax(1)  # padding repeats a vertex: it cannot move the box

    @cached_property
    def center(self) -> Float[Tensor, "B 3"]:
        """Centre of the bounding box."""
        return (self.box[0] + self.box[1]) / 2

    @cached_property
    def corners(self) -> Float[Tensor, "B 8 3"]:
        """Of the bounding box."""
        low, high = self.box
        upper = torch.cartesian_prod(*[torch.tensor([False, True], device=low.device)] * 3)
        return torch.where(upper, high[:, None], low[:, None])

    @cached_property
    def scale(self) -> Float[Tensor, "B"]:
        """Longest side of the bounding box, metres."""
        return (self.box[1] - self.box[0]).amax(-1)

    @cached_property
    def codes(self) -> Float[Tensor, "B V 3"]:
        """Normalised object coordinates: (vertex - center) / scale + 0.5, inside the unit cube."""
        return (self.vertices - self.center[:, None]) / self.scale[:, None, None] + 0.5

    @cached_property
    def normals(self) -> Float[Tensor, "B V 3"]:
        """Outward unit normals of the vertices (mean of the faces' by area); padding has its last vertex's."""
        corners = self.vertices[torch.arange(len(self), device=self.faces.device)[:, None, None], self.faces]
        area = torch.linalg.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0], dim=-1)
        total = torch.zeros_like(self.vertices)
        for corner in range(3):
            total = total.scatter_add(1, self.faces[:, :, corner, None].expand(-1, -1, 3), area)
        last = (self.counts[:, :1] - 1).clamp(min=0)
        places = torch.minimum(torch.arange(total.shape[1], device=total.device)[None], last)
        total = total.gather(1, places[..., None].expand(-1, -1, 3))
        return total / total.norm(dim=-1, keepdim=True).clamp(min=1e-20)

    @cached_property
    def grid(self) -> DistanceGrid:
        """The distance grids: ``sdf``, or built now (and kept on disk) when there is none."""
        if self.sdf is not None:
            return self.sdf
        grids = []
        for index in range(len(self)):
            vertices, faces = self.trimmed(index)
            grids.append(cached_grid(vertices.detach().cpu().double().numpy(), faces.cpu().numpy(), RESOLUTION))
        return DistanceGrid.cat(grids).to(self.vertices.device, self.vertices.dtype)

    def with_sdf(self) -> Mesh:
        """The same meshes with their distance grids inside."""
        return self if self.sdf is not None else dataclasses.replace(self, sdf=self.grid)

    def distance(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N"]:
        """Signed distance of points (object frame, metres) to the meshes, negative inside; differentiable."""
        return self.grid.sample(points)


def _joined(symmetries: list[Tensor | None], counts: list[int]) -> Float[Tensor, "B S 4 4"] | None:
    """Symmetries of one batch, padded with the identity; None where no mesh has any."""
    known = [value for value in symmetries if value is not None]
    if not known:
        return None
    most = max(value.shape[1] for value in known)
    rows = []
    for value, count in zip(symmetries, counts, strict=True):
        alone = torch.eye(4).to(known[0]).expand(count, most, 4, 4)
        rows.append(alone if value is None else torch.cat([value, alone[:, value.shape[1] :]], 1))
    return torch.cat(rows)


def _repeat_last(values: Float[Tensor, "B V C"], count: int) -> Float[Tensor, "B N C"]:
    return torch.cat([values, values[:, -1:].expand(-1, count - values.shape[1], -1)], 1)


def _zeros_after(faces: Int[Tensor, "B F 3"], count: int) -> Int[Tensor, "B N 3"]:
    return torch.cat([faces, faces.new_zeros(len(faces), count - faces.shape[1], 3)], 1)
