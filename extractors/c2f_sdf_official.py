"""First poses and shapes by a published C2F-SDF checkpoint, without ground truth.

The authors' network is told the wrist and the middle of the hand's joints. Here they come from another network that
sees depth (the compact one that comes with horefine), the wrist from the user where it is known. Its camera and its
units are those it was trained with (``c2f_sdf_crop``). Rotations and shape are MANO's, in the basis of the user's own
MANO file; a checkpoint without a head for them (as the released one for DexYCB) leaves the hand's pose as it was found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.data import Sample
from horefine.errors import AssetError, SurfaceError
from horefine.extractors import load_model
from horefine.extractors.c2f_sdf import C2fSdf, Seen
from horefine.extractors.c2f_sdf_cells import Cells, merged_heat, ser_cells, splat_points
from horefine.extractors.c2f_sdf_checkpoints import load_c2f, read_c2f
from horefine.extractors.c2f_sdf_crop import c2f_crop, virtual_frame
from horefine.extractors.c2f_sdf_hand import HandBasis
from horefine.extractors.crops import depth_maps, map_camera, pictures
from horefine.extractors.field_initial import FieldInitializer, Reading
from horefine.extractors.field_readers import C2fInitializer
from horefine.extractors.surface import Surface
from horefine.extractors.surface_official import cell_surface, in_camera
from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from horefine.hand import HandModel
from horefine.mano import REGISTER_AT

__all__ = [
    "SEARCHES",
    "C2fReading",
    "OfficialC2fInitializer",
    "c2f_initializer",
    "official_c2f",
    "reconstruction_cells",
]

SEARCHES = ("follow", "cells")
"""How surfaces are looked for: along the surface itself (``surface.extract_surface``), or beginning in the cells that
the network thinks hold it (``c2f_sdf_cells``), as published."""

AT_ONCE = 2**13
"""Points asked at once: each looks at all points of the depth map."""


def official_c2f(
    path: Path, device: str, hand: HandModel, dataset: str = "dexycb", mano_dir: Path | None = None
) -> OfficialC2fInitializer:
    """The initializer of a published checkpoint.

    Args:
        dataset: What it was trained on (``c2f_sdf_checkpoints.DATASETS``); the file does not say.
        mano_dir: Where the user's MANO file is, for its basis of poses (``mano.find_mano``).

    Raises:
        AssetError, ConfigError: see ``c2f_sdf_checkpoints.load_c2f``; also where its poses have no MANO hand.
    """
    needed = read_c2f(path, dataset).config.hand
    if needed and hand.name != "mano":
        raise AssetError(
            f"checkpoint {path}: its poses are MANO's, and the hand here is the {hand.name} one; give the folder of "
            f"your MANO_RIGHT.pkl with --mano-dir (register at {REGISTER_AT}), or leave --checkpoint out"
        )
    basis = HandBasis.find(mano_dir) if needed else None
    return OfficialC2fInitializer(load_c2f(path, dataset), device, hand, basis)


def c2f_initializer(
    path: Path, device: str, hand: HandModel, dataset: str = "dexycb", mano_dir: Path | None = None
) -> FieldInitializer:
    """The initializer of a published checkpoint (:func:`official_c2f`), or of a weight file of horefine's own.

    Raises:
        AssetError, ConfigError: see :func:`official_c2f` and ``extractors.load_model``.
    """
    if path.suffix == ".safetensors":
        return C2fInitializer(device, hand, load_model(path, "c2f_sdf"))  # type: ignore[arg-type]
    return official_c2f(path, device, hand, dataset, mano_dir)


@dataclass(frozen=True)
class C2fReading(Reading):
    """With the published way to its surfaces."""

    reconstruct: Callable[[str], Surface] | None = None
    """The surface of ``hand`` or ``object`` from the network's cells, camera frame, metres."""


class OfficialC2fInitializer(FieldInitializer):
    """First poses, fields and surfaces of crops with depth by a published C2F-SDF."""

    cell_resolution: ClassVar[int] = 128
    """Lattice points along a side of the cells' cut (``ser_cells``)."""

    def __init__(
        self, network: C2fSdf, device: str, hand: HandModel, basis: HandBasis | None = None,
        finder: FieldInitializer | None = None, search: str = "follow",
    ) -> None:  # fmt: skip
        """Wraps a network.

        Args:
            basis: Of the user's MANO file; a network with a head for the hand needs it.
            finder: Finds the hand first (default: the compact network with the embedded hand).
            search: One of :data:`SEARCHES`.

        Raises:
            ValueError: another ``search``, or no ``basis`` where one is needed.
        """
        super().__init__(device, hand)
        if search not in SEARCHES:
            raise ValueError(f"search is {search!r}; known: {', '.join(SEARCHES)}")
        if network.config.hand and basis is None:
            raise ValueError("this C2F-SDF tells the hand's pose in MANO's basis: basis is None")
        self.network, self.search = network.to(device), search
        self.basis = None if basis is None else basis.to(device)
        self.finder = finder if finder is not None else C2fInitializer(device)

    @torch.no_grad()
    def read(self, crops: Sequence[Sample]) -> list[Reading]:
        """The network's answers, one crop after the other.

        Raises:
            InputError: a crop without depth.
        """
        depth = depth_maps(crops, self.network.config.size)
        found = self.finder.read(crops)
        return [self._read(*known) for known in zip(crops, depth, found, strict=True)]

    def surfaces(self, reading: Reading) -> dict[str, Surface]:
        """As of any network that knows fields, or as published (``search``)."""
        if self.search == "follow" or not isinstance(reading, C2fReading) or reading.reconstruct is None:
            return super().surfaces(reading)
        found = {}
        for which in ("hand", "object"):
            try:
                found[which] = reading.reconstruct(which)
            except SurfaceError:
                continue
        return found

    def _read(self, crop: Sample, depth: Float[Tensor, "S S"], first: Reading) -> C2fReading:
        network, device = self.network, self.device
        first = dataclasses.replace(first, wrist=_known_wrist(crop, first.wrist.cpu()))
        seen = self._see(crop, depth, _joints(self.finder.hand, first))
        turn = seen.place.frame.rotation[0]
        rotvec, shape = self._hand(seen, first)
        center = first.object_center
        if network.config.object_center:
            center = (network.center(seen.looked, seen.place) @ turn)[0].cpu()

        def field(which: str) -> Callable[[Tensor], Tensor]:
            @torch.no_grad()
            def distance(points: Tensor) -> Tensor:
                parts = (points.to(device) @ turn.mT)[None].split(AT_ONCE, 1)
                found = torch.cat([network.fine(which, seen, part)[0] for part in parts])
                return (found / network.config.scale).to(points)

            return distance

        found = C2fReading(rotvec, shape, first.wrist, center, field("hand"), field("object"))
        return dataclasses.replace(found, reconstruct=self._reconstruction(seen, found))

    def _see(self, crop: Sample, depth: Float[Tensor, "S S"], joints: Float[Tensor, "21 3"]) -> Seen:
        config, size = self.network.config, self.network.config.size
        matrix = map_camera([crop], size).matrix
        frame = virtual_frame(matrix, (size - 1) / 2, size)
        width = size * config.focal / float(matrix[0, 0, 0])
        cut = c2f_crop(
            pictures([crop], size)[0], depth, frame, joints.cpu(), width, points=config.points, pixels=config.pixels
        )
        cut = cut.to(self.device)
        return self.network.see(self.network.look(cut.image, cut.cloud.depth), cut.cloud, cut.place)

    def _hand(self, seen: Seen, first: Reading) -> tuple[Float[Tensor, "16 3"], Float[Tensor, "10"]]:
        """Axis-angles (the wrist's in the camera frame) and shape; as found before where the network has no head."""
        if self.basis is None:
            same = self.hand.name == self.finder.hand.name
            return first.hand_rotvec, first.hand_shape if same else torch.zeros_like(first.hand_shape)
        numbers = self.network.hand_numbers(seen.looked)
        rotvec = self.basis.rotvec(numbers.pose).view(16, 3)
        wrist = matrix_to_axis_angle(seen.place.frame.rotation[0].mT @ axis_angle_to_matrix(rotvec[:1]))
        return torch.cat([wrist, rotvec[1:]]).cpu(), numbers.shape[0].cpu()

    def _reconstruction(self, seen: Seen, reading: Reading) -> Callable[[str], Surface]:
        network, place = self.network, seen.place
        hand = self.hand.to("cpu")
        rest = hand.rest_joints(reading.hand_shape[None])[:, 0]
        posed = hand(reading.hand_rotvec[None], reading.hand_shape[None], reading.wrist[None] - rest).vertices[0]
        turn = place.frame.rotation[0]

        @torch.no_grad()
        def reconstruct(which: str) -> Surface:
            vertices, center = posed.to(turn) @ turn.mT, reading.object_center.to(turn) @ turn.mT
            cells = reconstruction_cells(network, seen, vertices, center, self.cell_resolution)

            def field(points: Tensor) -> Tensor:
                return network.fine(which, seen, network.uncube(points.to(turn)[None], place))[0]

            surface = cell_surface(field, cells, batch=AT_ONCE)
            return in_camera(surface, network.config.scale, place.wrist[0].cpu().numpy(), turn.mT.cpu().numpy())

        return reconstruct


def reconstruction_cells(
    network: C2fSdf, seen: Seen, vertices: Float[Tensor, "V 3"] | None, center: Float[Tensor, "3"] | None,
    resolution: int = 128,
) -> Cells:  # fmt: skip
    """The cells in which the published reconstruction asks both fields, for one crop.

    Args:
        vertices: Of the predicted hand, network frame, metres. None: no points are taken for sure, neither the depth
            map's, as the published code does where the network has no head for the hand.
        center: The object's; None leaves its hidden side out.
        resolution: See :func:`ser_cells`.

    Raises:
        SurfaceError: the network's map shows nothing.
    """
    bins, place = network.config.heat_bins, seen.place

    def cube(points: Tensor) -> Tensor:
        return network.cube(points[None], place)[0]

    heat = network.heat(seen.looked)[0] if network.config.heatmap else torch.zeros(2, bins, bins, bins).to(seen.points)
    if vertices is None:
        return ser_cells(heat.sum(0), resolution)
    middle = None if center is None else cube(center[None])[0]
    known = splat_points(cube(seen.points[0]), seen.coarse[0], middle, cube(vertices))
    return ser_cells(merged_heat(heat, known), resolution)


def _known_wrist(crop: Sample, found: Float[Tensor, "3"]) -> Float[Tensor, "3"]:
    """As the user knows it: wholly, or its depth (then it stays on its ray)."""
    if crop.wrist is None:
        return found
    x, y, z = crop.wrist
    return found * (z / found[2]) if x is None or y is None else torch.tensor([x, y, z])


def _joints(hand: HandModel, reading: Reading) -> Float[Tensor, "21 3"]:
    """Of a reading's hand, camera frame."""
    model = hand.to("cpu")
    shape = reading.hand_shape[None].cpu()
    transl = reading.wrist[None].cpu() - model.rest_joints(shape)[:, 0]
    return model(reading.hand_rotvec[None].cpu(), shape, transl).joints[0]
