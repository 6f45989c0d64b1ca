"""Training of the published C2F-SDF as its authors train it: their network, losses and changes of the pictures.

What differs: points of the fields and their distances come from the meshes as they are needed; the depth map is made of
the exact one, with a sensor's faults (``depth_noise``); picture and depth are always shifted alike (the published code
shifts them apart where it reads pictures from its data base); the encoder begins at random unless the recipe names a
ResNet-18 (``encoder``). With a hand without MANO's basis of poses the network gets no head for it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from horefine.errors import AssetError, ConfigError, suggestion
from horefine.extractors.batches import Batch, View, change_view
from horefine.extractors.c2f_sdf import C2fConfig, C2fSdf, HandNumbers, Seen
from horefine.extractors.c2f_sdf_checkpoints import DATASETS, names_c2f
from horefine.extractors.c2f_sdf_crop import C2fCrop, c2f_crop, virtual_frame
from horefine.extractors.c2f_sdf_hand import HandBasis
from horefine.extractors.c2f_sdf_losses import C2fHand, C2fTruth, awr_decode, c2f_losses, heat_target
from horefine.extractors.c2f_sdf_points import REACH
from horefine.extractors.checkpoints import read_network
from horefine.extractors.depth_noise import sensed
from horefine.extractors.field_losses import field_points
from horefine.extractors.hoisdf_official import ARCHITECTURES
from horefine.extractors.hoisdf_task import truth
from horefine.extractors.measures import field_errors, joint_errors, mean_of
from horefine.extractors.official_truth import Scene, given_of, hand_layer
from horefine.extractors.root import Frame
from horefine.extractors.task import Task
from horefine.geometry import Camera

__all__ = ["OfficialC2fConfig", "OfficialC2fTask", "c2f_colors", "c2f_view"]

log = logging.getLogger(__name__)

SIZE = 256
POINTS = 1000
"""Of each field in a picture, half of them inside."""


@dataclass(frozen=True)
class OfficialC2fConfig:
    """What a recipe may say about the network."""

    dataset: str = "dexycb"
    """Whose settings: one of ``c2f_sdf_checkpoints.DATASETS``."""
    encoder: str | None = None
    """A file of a ResNet-18 (torchvision's ``resnet18-*.pth``) that both streams begin with, as published."""
    sizes: dict[str, Any] = field(default_factory=dict)
    """Entries of ``c2f_sdf.C2fConfig`` that differ from the published ones: trials of smaller networks."""

    def network(self) -> C2fConfig:
        """The network's configuration."""
        sizes = {key: tuple(value) if isinstance(value, list) else value for key, value in self.sizes.items()}
        return dataclasses.replace(DATASETS[self.dataset], **sizes)


class OfficialC2fTask(Task):
    """The published training of C2F-SDF."""

    name = "c2f_sdf_official"
    crop, side = SIZE, SIZE // 2
    smoke: ClassVar[Mapping[str, Any]] = {"batch": 2, "steps": 3, "held_out": 1, "measured": 1, "log_every": 1}

    def configure(self, table: dict[str, Any]) -> OfficialC2fConfig:
        _refuse_unknown("network", table, OfficialC2fConfig, "of the official C2F-SDF")
        config = OfficialC2fConfig(**table)
        if config.dataset not in DATASETS:
            raise ConfigError(
                f"network.dataset: {config.dataset!r}: there is none{suggestion(config.dataset, DATASETS)}"
            )
        _refuse_unknown("network.sizes", config.sizes, C2fConfig, "of C2F-SDF")
        config.network()
        return config

    def build(self) -> nn.Module:
        network = C2fSdf(self.network.network())
        if self.network.encoder is not None:
            tensors, _ = read_network(self.network.encoder, ("fc.",), "give torchvision's resnet18-*.pth")
            try:
                network.backbone.begin_from(tensors)
            except ValueError as error:
                raise AssetError(f"network.encoder {self.network.encoder}: {error}; give a ResNet-18") from None
        return network

    def open(self) -> None:
        super().open()
        self.layer = hand_layer(self.scenes.hand).to(self.device)
        self.basis: HandBasis | None = None
        if not self.trained.config.hand:
            return
        try:
            self.basis = HandBasis.find().to(self.device) if self.scenes.hand.name == "mano" else None
        except AssetError as error:
            log.info("%s", error)
        if self.basis is None:
            log.info("the %s hand has no basis of poses: the network gets no head for it", self.scenes.hand.name)
            self._without_hand()

    def _without_hand(self) -> None:
        network = self.trained
        del network.mano_head, network.backbone_2_mano
        network.config = dataclasses.replace(network.config, hand=False)
        self.network = dataclasses.replace(self.network, sizes={**self.network.sizes, "hand": False})

    @property
    def trained(self) -> C2fSdf:
        """The network."""
        return cast(C2fSdf, self.model)

    def losses(self, count: int, progress: float, generator: torch.Generator, half: bool) -> dict[str, Tensor]:
        batch = self.scenes.batch(self.scenes.choose(count, generator))
        rest = self.scenes.hand.rest_joints(batch.pose.hand_shape)[:, 0]
        batch = change_view(batch, c2f_view(count, self.network.dataset, generator), rest)
        batch = dataclasses.replace(batch, image=c2f_colors(batch.image, generator))
        return self.losses_of(batch, generator, half)

    def losses_of(self, batch: Batch, generator: torch.Generator, half: bool = False) -> dict[str, Tensor]:
        """Weighted losses of a batch as it is."""
        crop = self.crops(batch, generator)
        with self.half(half):
            seen = self._see(crop)
            numbers = None if self.basis is None else self.trained.hand_numbers(seen.looked)
        exact, hand = self._truth(batch, seen, generator), self._hand(numbers)
        with self.half(half):
            return c2f_losses(self.trained, seen, crop.cloud.depth, exact, hand)

    def crops(self, batch: Batch, generator: torch.Generator) -> C2fCrop:
        """The batch as the network takes it, told the true wrist and joints."""
        config = self.trained.config
        size, side = config.size, batch.maps["depth"].shape[-1]
        image = batch.image
        if image.shape[-1] != size:
            image = nn.functional.interpolate(image, (size, size), mode="bilinear", antialias=image.shape[-1] > size)
        index = ((torch.arange(size) + 0.5) * side / size).long().to(image.device)
        depth = sensed(batch, generator)[:, index][:, :, index]
        matrix = Camera(batch.matrix, (side, side)).resized((size, size)).matrix
        frame = virtual_frame(matrix, (size - 1) / 2, size)
        seeds = torch.randint(2**31, (len(batch),), generator=generator).tolist()
        rows = []
        for row, seed in enumerate(seeds):
            one = slice(row, row + 1)
            own = Frame(frame.rotation[one], frame.projection[one], frame.focal[one])
            width = size * config.focal / float(matrix[row, 0, 0])
            given = {"points": config.points, "seed": seed, "pixels": config.pixels}
            rows.append(c2f_crop(image[row], depth[row], own, batch.joints[row], width, **given))
        return C2fCrop.cat(rows)

    def _see(self, crop: C2fCrop) -> Seen:
        return self.trained.see(self.trained.look(crop.image, crop.cloud.depth), crop.cloud, crop.place)

    def _hand(self, numbers: HandNumbers | None) -> C2fHand | None:
        if self.basis is None or numbers is None:
            return None
        pose = self.basis.rotvec(numbers.pose)
        return C2fHand(self.layer(pose, numbers.shape)[1], pose[:, 3:] - self.basis.mean, numbers.shape)

    def _truth(self, batch: Batch, seen: Seen, generator: torch.Generator) -> C2fTruth:
        network, place = self.trained, seen.place
        scene, turn = self._scene(batch), place.frame.rotation.mT
        joints = batch.joints @ turn
        homogeneous = joints @ place.frame.projection.mT
        depth = (joints[..., 2:] - place.center[:, None, 2:]) / REACH
        points = {which: _balanced(which, scene, POINTS, generator) for which in ("hand", "object")}
        heat = [
            heat_target(
                network.cube(scene.surface(which) @ turn, place), network.config.heat_bins,
                most=10.0 if self.network.dataset == "dexycb" else 5.0,
            )
            for which in ("hand", "object")
        ]  # fmt: skip
        return C2fTruth(
            points["hand"] @ turn, scene.distance("hand", points["hand"]) * network.config.scale,
            points["object"] @ turn, scene.distance("object", points["object"]) * network.config.scale,
            joints, (batch.object_center[:, None] @ turn)[:, 0],
            torch.cat([homogeneous[..., :2] / homogeneous[..., 2:], depth], -1), torch.stack(heat, 1),
        )  # fmt: skip

    def _scene(self, batch: Batch) -> Scene:
        given = given_of(batch, ARCHITECTURES["dexycb"])
        return Scene(batch, truth(batch, self.scenes.hand, False), given, self.scenes.objects)

    def measure(self, count: int) -> dict[str, float]:
        results = []
        for start in range(0, count, 8):
            batch = self.scenes.batch(np.arange(start, min(start + 8, count)))
            results.append((len(batch), self._errors(batch)))
        return mean_of(results)

    def _errors(self, batch: Batch) -> dict[str, float]:
        """Of fields, and of joints and the object's centre where there are heads; the wrist is the true one."""
        network, drawn = self.trained, torch.Generator().manual_seed(0)
        crop = self.crops(batch, drawn)
        seen, true = self._see(crop), truth(batch, self.scenes.hand, False)
        turn = seen.place.frame.rotation
        places = field_points(true, batch, self.scenes.objects, 1 / network.config.scale, 256, drawn)

        def ask(which: str, points: Tensor) -> Tensor:
            return network.fine(which, seen, points @ turn.mT) / network.config.scale

        still = torch.zeros_like(true.wrist)
        found = field_errors(ask, places, still, still)
        if network.config.object_center and (network.config.joints or self.basis is not None):
            joints = self._joints(seen, crop) @ turn
            center = (network.center(seen.looked, seen.place)[:, None] @ turn)[:, 0]
            found |= joint_errors(joints, center, true)
        return found

    def _joints(self, seen: Seen, crop: C2fCrop) -> Float[Tensor, "B 21 3"]:
        """Of the hand's head, else by dense regression; network frame, metres."""
        hand = None if self.basis is None else self._hand(self.trained.hand_numbers(seen.looked))
        if hand is not None:
            return hand.joints + seen.place.wrist[:, None]
        found = awr_decode(self.trained.joint_maps(seen.looked), crop.cloud.depth)
        depth = found[..., 2] * REACH + seen.place.center[:, None, 2]
        return seen.place.frame.rays(found[..., :2]) * depth[..., None]

    def export(self, out: Path, tensors: Mapping[str, Tensor], step: int) -> None:
        """``snapshot.pth.tar`` under the published names, for ``--checkpoint``; without tensors that nothing uses."""
        if set(self.network.sizes) - {"hand"}:
            return  # no published architecture
        table = {}
        for name, own in zip(names_c2f(self.trained.config), tensors, strict=True):
            table[f"module.{name}"] = tensors[own].cpu()
            if name.startswith("backbone.") and ".downsample." in name:
                table[f"module.{name.replace('.downsample.', '.depth_downsample.')}"] = tensors[own].cpu()
        partial = out / ".snapshot.pth.tar"
        torch.save({"epoch": step, "network": table}, partial)
        partial.replace(out / "snapshot.pth.tar")


def _refuse_unknown(start: str, table: Mapping[str, Any], kind: type, whose: str) -> None:
    known = {f.name for f in dataclasses.fields(kind)}
    for key in table:
        if key not in known:
            raise ConfigError(f"{start}.{key}: no such key {whose}{suggestion(key, known)}")


def _balanced(which: str, scene: Scene, count: int, generator: torch.Generator) -> Float[Tensor, "B N 3"]:
    """Points about the surface, camera frame: half of them inside, as far as there are enough."""
    surface = scene.surface(which)
    drawn = torch.randint(surface.shape[1], (len(surface), 2 * count, 1), generator=generator).to(surface.device)
    away = torch.randn(len(surface), 2 * count, 3, generator=generator)
    away = away * torch.where(torch.rand(1, 2 * count, 1, generator=generator) < 0.7, 0.008, 0.05)
    points = surface.gather(1, drawn.expand(-1, -1, 3)) + away.to(surface)
    inside = (scene.distance(which, points) < 0).to(torch.int8)
    first = inside.argsort(dim=1, descending=True, stable=True)[:, : count // 2]
    last = inside.argsort(dim=1, stable=True)[:, : count - count // 2]
    return points.gather(1, torch.cat([first, last], 1)[..., None].expand(-1, -1, 3))


def c2f_view(count: int, dataset: str, generator: torch.Generator) -> View:
    """The published changes of view: turns in six of ten pictures, shifts of a tenth of the side (DexYCB only)."""
    turned = torch.rand(count, generator=generator) < 0.6
    angle = torch.randn(count, generator=generator).clamp(-2, 2) * np.deg2rad(45) * turned
    shift = 0.2 * (2 * torch.rand(count, 2, generator=generator) - 1) * (dataset == "dexycb")
    return View(angle, torch.ones(count), shift)


def c2f_colors(image: Float[Tensor, "B 3 S S"], generator: torch.Generator) -> Float[Tensor, "B 3 S S"]:
    """The published changes of colour: each channel brighter or darker by up to a fifth."""
    gain = 0.8 + 0.4 * torch.rand(len(image), 3, 1, 1, generator=generator)
    return (image * gain.to(image)).clamp(0, 1)
