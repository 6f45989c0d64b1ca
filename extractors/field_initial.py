"""First poses and shapes of networks that know fields: gSDF and C2F-SDF (and any that gives a :class:`Reading`).

What such a network says of a hand are joints or rotations; of an object, where it is and a field. A known mesh is laid
into that field (``place_mesh``); of an unknown object the field's surface becomes the mesh that is refined, as it lies
in the picture: its rotation is none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.data import Sample
from horefine.distance import DistanceGrid
from horefine.errors import SurfaceError
from horefine.extractors.level import Outline, best_level
from horefine.extractors.place_mesh import place_mesh
from horefine.extractors.sampling import field_grid
from horefine.extractors.surface import Surface, extract_surface
from horefine.extractors.surface_mesh import box_center, to_mesh
from horefine.geometry import matrix_to_axis_angle
from horefine.hand import HandModel, load_hand
from horefine.mesh import Mesh
from horefine.scene import Pose

__all__ = ["RECONSTRUCTED", "FieldInitializer", "Reading"]

RECONSTRUCTED = "reconstructed"
"""Name of a mesh that a network made."""
MARGIN = 0.025
"""Metres that grids reach beyond the things they are of."""
REACH = 0.16
"""Metres from the wrist or the object's centre within which their surfaces are looked for."""

Field = Callable[[Float[Tensor, "N 3"]], Float[Tensor, "N"]]
"""Points (camera frame, metres) to signed distances, metres."""


@dataclass(frozen=True)
class Reading:
    """What a network says of one crop; camera frame, metres."""

    hand_rotvec: Float[Tensor, "16 3"]
    hand_shape: Float[Tensor, "10"]
    wrist: Float[Tensor, "3"]
    object_center: Float[Tensor, "3"]
    """Of the object's box."""
    hand: Field
    object: Field
    outline: Outline | None = None
    """Where the network sees hand and object, if it says so: tells which level of a blurred field is the surface."""


class FieldInitializer(ABC):
    """First poses, fields and surfaces; subclasses read the crops."""

    reconstructs: ClassVar[bool] = True
    """Gives surfaces: an object needs no mesh."""
    resolution: ClassVar[int] = 65
    """Nodes along a side of the grids for ``sdf_consistency``."""
    surface_resolution: ClassVar[int] = 64
    """Nodes along a side of the box in which surfaces are looked for."""

    def __init__(self, device: str = "cpu", hand: HandModel | None = None) -> None:
        self.device = device
        self.hand = hand if hand is not None else load_hand(kind="embedded")

    @abstractmethod
    def read(self, crops: Sequence[Sample]) -> list[Reading]:
        """Runs the network.

        Raises:
            InputError: a crop lacks what the network needs (depth).
        """

    @torch.no_grad()
    def initialize(self, crops: Sequence[Sample], fields: Sequence[str] = ()) -> tuple[Pose, dict[str, Any]]:
        """Poses of B crops, and what comes with them.

        ``surfaces``: for each crop the reconstructed ``hand`` and ``object`` (camera frame; what has no surface is
        absent); ``object``: the mesh that the object's pose is of, the given one or the reconstructed; the named grids
        ``hand_sdf``, ``object_sdf``.

        Raises:
            SurfaceError: an object without a mesh of which the field shows no surface.
        """
        readings = self.read(crops)
        surfaces = [self.surfaces(reading) for reading in readings]
        placed = [self._object(*known) for known in zip(crops, readings, surfaces, strict=True)]
        pose = self._pose(readings, [turn for _, turn, _ in placed], [transl for _, _, transl in placed])
        meshes = [mesh for mesh, _, _ in placed]
        told: dict[str, Any] = {"surfaces": surfaces, "object": meshes}
        if fields:
            hand, other = self._grids(pose, meshes, readings)
            told |= {name: {"hand_sdf": hand, "object_sdf": other}[name] for name in fields}
        return pose.to("cpu"), told

    def extract(self, crops: Sequence[Sample], names: Sequence[str]) -> dict[str, Any]:
        """``hand_sdf`` and ``object_sdf`` as :meth:`initialize` gives them; ``pose_spread`` is None: not known."""
        fields = [name for name in names if name != "pose_spread"]
        found = self.initialize(crops, fields)[1] if fields else {}
        return {name: found[name] if name in fields else None for name in names}

    def surfaces(self, reading: Reading) -> dict[str, Surface]:
        """The surfaces of hand and object that the fields show, camera frame; one that there is not is left out."""
        found = {}
        for which, ask in (("hand", reading.hand), ("object", reading.object)):
            middle = reading.object_center if which == "object" else self._palm(reading)
            low, high = middle - REACH, middle + REACH
            level = 0.0
            if which == "object" and reading.outline is not None:
                level = best_level(ask, low, high, reading.outline)
            try:
                found[which] = extract_surface(
                    lambda x, ask=ask, level=level: ask(x) - level, low, high, self.surface_resolution, steepness=1.5
                )
            except SurfaceError:
                continue
        return found

    def _palm(self, reading: Reading) -> Float[Tensor, "3"]:
        """The middle of the hand, about which its surface is looked for."""
        model = self.hand.to(reading.wrist.device)
        rest = model.rest_joints(reading.hand_shape[None])[:, 0]
        posed = model(reading.hand_rotvec[None], reading.hand_shape[None], reading.wrist[None] - rest).vertices[0]
        return (posed.amin(0) + posed.amax(0)) / 2

    def _object(
        self, crop: Sample, reading: Reading, surfaces: dict[str, Surface]
    ) -> tuple[Mesh, Float[Tensor, "3 3"], Float[Tensor, "3"]]:
        """The object's mesh, rotation and translation."""
        if crop.mesh is None:
            if "object" not in surfaces:
                raise SurfaceError(f"{crop.name}: the network shows no surface of the object; name its mesh (--object)")
            mesh = to_mesh(surfaces["object"], name=RECONSTRUCTED)
            return mesh, torch.eye(3), torch.from_numpy(box_center(surfaces["object"]))
        if "object" not in surfaces:
            turn = torch.eye(3)
            return crop.mesh, turn, reading.object_center.cpu() - crop.mesh.center[0]
        return crop.mesh, *place_mesh(crop.mesh, surfaces["object"])

    def _pose(self, readings: Sequence[Reading], turns: Sequence[Tensor], transl: Sequence[Tensor]) -> Pose:
        def stacked(name: str) -> Tensor:
            return torch.stack([getattr(reading, name) for reading in readings]).cpu()

        shape = stacked("hand_shape")
        rest = self.hand.to("cpu").rest_joints(shape)[:, 0]
        rotvec = matrix_to_axis_angle(torch.stack(list(turns)))
        return Pose(stacked("hand_rotvec"), shape, stacked("wrist") - rest, rotvec, torch.stack(list(transl)))

    def _grids(
        self, pose: Pose, meshes: Sequence[Mesh], readings: Sequence[Reading]
    ) -> tuple[DistanceGrid, DistanceGrid]:
        """The fields as grids about the posed hands and objects."""
        posed = self.hand.to("cpu")(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).vertices
        grids: dict[str, list[DistanceGrid]] = {"hand": [], "object": []}
        for row, (mesh, reading) in enumerate(zip(meshes, readings, strict=True)):
            about = {"hand": posed[row : row + 1], "object": pose[row].place(mesh.vertices)}
            for which, points in about.items():
                ask: Field = getattr(reading, which)
                low, high = (end.to(self.device) for end in (points.amin(1) - MARGIN, points.amax(1) + MARGIN))
                grids[which].append(
                    field_grid(lambda x, ask=ask: ask(x[0])[None], low, high, self.resolution).to("cpu")
                )
        return DistanceGrid.cat(grids["hand"]), DistanceGrid.cat(grids["object"])
