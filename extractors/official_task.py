"""Training of the official HOISDF as its authors train it: their network, losses, points and changes of the pictures.

What differs from the published code, because it was not published or because the pictures are ours: the distances at
training points come from the meshes as they are needed, crops are those of ``horefine run`` (grey outside the
photograph), and the encoder begins at random unless the recipe names weights (``start``).
"""

from __future__ import annotations

import contextlib
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

from horefine.errors import ConfigError, suggestion
from horefine.extractors import measures
from horefine.extractors.batches import Batch, View, change_view
from horefine.extractors.checkpoints import published_names
from horefine.extractors.hoisdf import Hoisdf, Points, Prediction, Seen
from horefine.extractors.hoisdf_official import ARCHITECTURES, SIZE, OfficialHoisdf
from horefine.extractors.hoisdf_task import truth
from horefine.extractors.initial import Found
from horefine.extractors.mano_layer import ManoLayer
from horefine.extractors.official_initial import choose
from horefine.extractors.official_losses import WEIGHTS, official_losses
from horefine.extractors.official_sampling import LATTICES
from horefine.extractors.official_truth import Scene, given_of, hand_layer, official_truth, points_near
from horefine.extractors.sizes import network_config
from horefine.extractors.task import Task
from horefine.extractors.transformer import block_mask
from horefine.geometry import axis_angle_to_matrix

__all__ = ["OfficialConfig", "OfficialTask", "official_colors", "official_view"]

log = logging.getLogger(__name__)

EPOCHS = 70
OWN_FIELD = 40 / EPOCHS
"""Share of the schedule after which the network's own field may choose the points."""
KEEP_TRUE = 0.4
"""How often the truth still does."""


@dataclass(frozen=True)
class OfficialConfig:
    """What a recipe may say about the network."""

    architecture: str = "dexycb"
    """One of ``hoisdf_official.ARCHITECTURES``."""
    lattice: str = "sheared"
    """Of the points: as published, or ``regular``, as described in the paper."""
    sizes: dict[str, Any] = field(default_factory=dict)
    """Entries of ``hoisdf.HoisdfConfig`` that differ from the published ones: trials of smaller networks."""


class Trained(OfficialHoisdf):
    """The official network in training, at published sizes or others."""

    def __init__(self, config: OfficialConfig) -> None:
        with torch.device("meta") if config.sizes else contextlib.nullcontext():
            super().__init__(ARCHITECTURES[config.architecture], config.lattice)
        if config.sizes:
            sizes = network_config("hoisdf", config.sizes)
            changed = {name: getattr(sizes, name) for name in config.sizes}
            Hoisdf.__init__(self, dataclasses.replace(self.config, **changed))
            if not self.architecture.rotations:
                del self.linear_pose
                self.mano_query_embed = nn.Embedding(1, self.config.hidden)
                self.block_mask = block_mask((1,))
        # as published: batch normalisation keeps its factors, except where the encoder shrinks its input
        for name, parameter in self.backbone_net.named_parameters():
            parameter.requires_grad_("bn" not in name)

    def _gathered(self, which: str, own: Any, other: Any, center: Tensor) -> Tensor:
        """As published: what crosses over to the other transformer does not train the maps."""
        points, read = other
        guests = dataclasses.replace(points, distance=points.distance.detach(), features=points.features.detach())
        return super()._gathered(which, own, (guests, read.detach()), center)


class OfficialTask(Task):
    """The published training of HOISDF."""

    name = "hoisdf_official"
    crop, side = SIZE, SIZE // 2
    smoke: ClassVar[Mapping[str, Any]] = {"batch": 2, "steps": 3, "held_out": 1, "measured": 1, "log_every": 1}

    def configure(self, table: dict[str, Any]) -> OfficialConfig:
        known = {f.name for f in dataclasses.fields(OfficialConfig)}
        for key in table:
            if key not in known:
                raise ConfigError(f"network.{key}: no such key of the official HOISDF{suggestion(key, known)}")
        config = OfficialConfig(**table)
        for key, names in (("architecture", tuple(ARCHITECTURES)), ("lattice", LATTICES)):
            if getattr(config, key) not in names:
                value = str(getattr(config, key))
                raise ConfigError(f"network.{key}: {value!r}: there is none{suggestion(value, names)}")
        network_config("hoisdf", config.sizes)
        return config

    def build(self) -> nn.Module:
        return Trained(self.network)

    def open(self) -> None:
        super().open()
        self.layer: ManoLayer | None = None
        if self.network_of.architecture.rotations:
            self.layer = hand_layer(self.scenes.hand).to(self.device)
        if self.scenes.hand.name != "mano":
            log.info(
                "the truth is the %s hand's: the trained network gives that hand's pose and shape, not MANO's",
                self.scenes.hand.name,
            )

    @property
    def network_of(self) -> Trained:
        return cast(Trained, self.model)

    def losses(self, count: int, progress: float, generator: torch.Generator, half: bool) -> dict[str, Tensor]:
        batch = self.scenes.batch(self.scenes.choose(count, generator))
        rest = self.scenes.hand.rest_joints(batch.pose.hand_shape)[:, 0]
        batch = change_view(batch, official_view(count, self.network.architecture, generator), rest)
        batch = dataclasses.replace(batch, image=official_colors(batch.image, generator))
        return self.losses_of(batch, progress, generator, half)

    def losses_of(
        self, batch: Batch, progress: float, generator: torch.Generator, half: bool = False
    ) -> dict[str, Tensor]:
        """Weighted losses of a batch as it is."""
        network, scene = self.network_of, self._scene(batch)
        exact = official_truth(scene, network.config, generator)
        with self.half(half):
            seen = network.see(_sized(batch.image))
        own = progress > OWN_FIELD and float(torch.rand(1, generator=generator)) >= KEEP_TRUE
        chosen = {which: self._points(which, scene, seen, progress, own, generator) for which in ("hand", "object")}
        kept: dict[str, Tensor] = {}
        hooks = [
            network.get_submodule(name).register_forward_hook(
                lambda _, __, value, name=name: kept.update({name: value})
            )
            for name in ("linear_obj_rot", "linear_obj_rel_trans")
        ]
        try:
            with self.half(half):
                prediction = network.pose(
                    seen, chosen["hand"], chosen["object"], scene.given.wrist, scene.given.object_center
                )
        finally:
            for hook in hooks:
                hook.remove()
        said = kept["linear_obj_rot"].float(), kept["linear_obj_rel_trans"].float()
        places = chosen["hand"].position
        losses = official_losses(network, seen, scene.given, prediction, places, said, exact, self.layer)
        if self.layer is None:
            losses |= _shape_losses(prediction, batch.pose.hand_shape)
        return {name: WEIGHTS.get(name, 1.0) * value for name, value in losses.items()}

    def _scene(self, batch: Batch) -> Scene:
        given = given_of(batch, self.network_of.architecture)
        return Scene(batch, truth(batch, self.scenes.hand, False), given, self.scenes.objects)

    def _points(
        self, which: str, scene: Scene, seen: Seen, progress: float, own: bool, generator: torch.Generator
    ) -> Points:
        """The transformer's points: near the true surface, or those that the network's own field chooses."""
        network, given = self.network_of, scene.given
        count = network.config.hand_points if which == "hand" else network.config.object_points
        place = None
        if own:
            try:
                place = choose(network, which, seen, given, "coarse_to_fine").position
            except ValueError:  # too little of the lattice is in sight of the box
                log.debug("the %s's box shows too few points; the truth chooses them", which)
        if place is None:
            noise = 0.03 if progress < 0.3 else 0.05 if progress < 0.7 else 0.07
            place = points_near(which, scene, count, noise / network.config.scale, generator)
        return network.field(which, seen, place, given.center(which), given.matrix)

    def measure(self, count: int) -> dict[str, float]:
        results = []
        for start in range(0, count, 8):
            batch = self.scenes.batch(np.arange(start, min(start + 8, count)))
            results.append((len(batch), measures.pose_errors(self._found(batch), batch, self.scenes)))
        return measures.mean_of(results)

    def _found(self, batch: Batch) -> Found:
        """The network's answer, told the truth's wrist and boxes as the published tests tell it."""
        network, scene = self.network_of, self._scene(batch)
        given, seen = scene.given, network.see(_sized(batch.image))
        hand, other = (choose(network, which, seen, given, "coarse_to_fine") for which in ("hand", "object"))
        prediction = network.pose(seen, hand, other, given.wrist, given.object_center)
        outcome = network.outcome(prediction, given, self.scenes.hand)
        rotation = axis_angle_to_matrix(outcome.object_rotvec)
        middle = (rotation @ self.scenes.objects.centers[batch.object][..., None])[..., 0]
        return Found(
            outcome.hand_rotvec, outcome.hand_shape, outcome.wrist, outcome.joints[:, 1:], rotation,
            outcome.object_transl + middle, scene.true.frame, seen, (given.wrist, given.object_center),
        )  # fmt: skip

    def export(self, out: Path, tensors: Mapping[str, Tensor], step: int) -> None:
        """``snapshot.pth.tar`` under the published names, for ``horefine run --checkpoint`` and the authors' code."""
        if self.network.sizes:
            return  # no published architecture
        names = published_names(self.network_of.architecture)
        table = {f"module.{name}": tensors[own].cpu() for name, own in zip(names, tensors, strict=True)}
        partial = out / ".snapshot.pth.tar"
        torch.save({"epoch": step, "network": table}, partial)
        partial.replace(out / "snapshot.pth.tar")


def _shape_losses(prediction: Prediction, shape: Float[Tensor, "B 10"]) -> dict[str, Tensor]:
    """Of the variant whose rotations come from inverse kinematics."""
    error = (prediction.shape - shape).square().mean()
    return {"shape_param_loss": 0.1 * error, "shape_size": 1e-6 * prediction.shape.square().mean()}


def _sized(image: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 256 256"]:
    """Crops of shards are smaller than the network's."""
    if image.shape[-1] != SIZE:
        image = nn.functional.interpolate(image, (SIZE, SIZE), mode="bilinear", antialias=image.shape[-1] > SIZE)
    return image.contiguous(memory_format=torch.channels_last)


def official_view(count: int, architecture: str, generator: torch.Generator) -> View:
    """The published changes of view: turns, scales of 0.8 to 1.2 of the crop, shifts of a tenth of its side."""
    if architecture.startswith("ho3d"):
        angle = torch.pi * (2 * torch.rand(count, generator=generator) - 1)
    else:
        turned = torch.rand(count, generator=generator) < 0.6
        angle = torch.randn(count, generator=generator).clamp(-2, 2) * np.deg2rad(30) * turned
    side = (1 + 0.2 * torch.randn(count, generator=generator)).clamp(0.8, 1.2)
    return View(angle, 1 / side, 0.2 * (2 * torch.rand(count, 2, generator=generator) - 1))


def official_colors(image: Float[Tensor, "B 3 S S"], generator: torch.Generator) -> Float[Tensor, "B 3 S S"]:
    """The published changes of colour: blur, then brightness, saturation, hue and contrast in random order."""
    from kornia import enhance, filters

    def drawn(low: float, high: float, channels: int | None = None) -> Tensor:
        shape = (len(image),) if channels is None else (len(image), channels)
        return (low + (high - low) * torch.rand(*shape, generator=generator)).to(image)

    image = filters.gaussian_blur2d(image, (3, 3), drawn(0.01, 0.5, 1).expand(-1, 2))
    brightness, saturation, contrast = (drawn(0.5, 1.5) for _ in range(3))
    hue = drawn(-0.15, 0.15) * 2 * torch.pi
    changes = (
        lambda x: enhance.adjust_brightness_accumulative(x, brightness),
        lambda x: enhance.adjust_saturation_with_gray_subtraction(x, saturation),
        lambda x: enhance.adjust_hue(x, hue),
        lambda x: enhance.adjust_contrast_with_mean_subtraction(x, contrast),
    )
    for number in torch.randperm(len(changes), generator=generator).tolist():
        image = changes[number](image)
    return image
