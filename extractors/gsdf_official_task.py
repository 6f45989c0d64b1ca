"""Training of gSDF as its authors train it: the joints, then the fields; clips are ``gsdf_video_task``.

What differs from the published code, because it was not published or because the pictures are ours: the distances at
training points come from the meshes as they are needed, crops are those of ``horefine run`` (grey outside the
photograph), and the encoder begins at random unless the recipe names weights (``start``). A first stage that is not
there is an error; the published code goes on with a random one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from horefine.errors import ConfigError, suggestion
from horefine.extractors.batches import Batch, View, change_view
from horefine.extractors.checkpoints import fill, published, read_network
from horefine.extractors.gsdf import DATASETS, JOINTS, POSE_DEPTH, Gsdf, GsdfConfig, PoseNet, projection_of
from horefine.extractors.gsdf_camera import VirtualCamera, virtual_camera
from horefine.extractors.gsdf_official_losses import field_losses, pose_losses, signed_points
from horefine.extractors.hoisdf_official import ARCHITECTURES
from horefine.extractors.hoisdf_task import truth
from horefine.extractors.measures import mean_of
from horefine.extractors.official_truth import Scene, given_of
from horefine.extractors.task import Task
from horefine.geometry import Camera
from horefine.inverse_kinematics.closed_form import flat_joints

__all__ = [
    "RANDOM",
    "GsdfOfficialConfig",
    "GsdfOfficialTask",
    "GsdfPoseTask",
    "GsdfStage",
    "gsdf_colors",
    "gsdf_view",
    "take",
]

EPOCHS = 1600
BOTH = 1200 / EPOCHS
"""Share of the schedule after which each field learns from the other's points too."""
RANDOM = "random"
"""In place of a file: the first stage (or the single pictures' network) is not trained. For trials only."""


@dataclass(frozen=True)
class GsdfOfficialConfig:
    """What a recipe may say about the network."""

    dataset: str = "dexycb"
    """Whose settings: one of ``gsdf.DATASETS``."""
    pose: str | None = None
    """The first stage's ``snapshot.pth.tar``, for the second."""
    image: str | None = None
    """The second stage's, for clips: all but the clips' transformer."""
    points: int = 1000
    """Of each field and picture, in a step."""
    frames: int = 3
    """Of a clip."""
    clips: str = "views"
    """``neighbours``: pictures that follow each other in the data; ``views``: one picture from changed cameras, for
    data that has no sequences."""
    objects: bool = False
    """The first stage looks for the object's centre too."""
    sizes: dict[str, Any] = field(default_factory=dict)
    """Entries of ``gsdf.GsdfConfig`` that differ from the published ones: trials of smaller networks."""


@dataclass(frozen=True)
class _View:
    """A batch through its virtual cameras."""

    scene: Scene
    camera: VirtualCamera
    projection: Float[Tensor, "B 3 3"]
    image: Float[Tensor, "B 3 S S"]
    joints: Float[Tensor, "B 21 3"]
    center: Float[Tensor, "B 3"]

    @property
    def wrist(self) -> Float[Tensor, "B 3"]:
        return self.joints[:, 0]


class GsdfStage(Task):
    """What the three stages share."""

    crop, side = 256, 128
    settings: ClassVar[tuple[str, ...]] = ()
    smoke: ClassVar[Mapping[str, Any]] = {"batch": 2, "steps": 3, "held_out": 1, "measured": 1, "log_every": 1}

    def configure(self, table: dict[str, Any]) -> GsdfOfficialConfig:
        known = (*self.settings, "dataset", "sizes")
        for key in table:
            if key not in known:
                raise ConfigError(f"network.{key}: no such key of {self.name}{suggestion(key, known)}")
        config = GsdfOfficialConfig(**table)
        for key, choices in (("dataset", tuple(DATASETS)), ("clips", ("views", "neighbours"))):
            if getattr(config, key) not in choices:
                value = str(getattr(config, key))
                raise ConfigError(f"network.{key}: {value!r}: there is none{suggestion(value, choices)}")
        fields = {f.name for f in dataclasses.fields(GsdfConfig)}
        for key in config.sizes:
            if key not in fields:
                raise ConfigError(f"network.sizes.{key}: no such key of gSDF{suggestion(key, fields)}")
        return config

    def sized(self) -> GsdfConfig:
        """The network's configuration."""
        return dataclasses.replace(DATASETS[self.network.dataset], **self.network.sizes)

    def open(self) -> None:
        super().open()
        self.template = flat_joints(self.scenes.hand).to(self.device)

    def losses(self, count: int, progress: float, generator: torch.Generator, half: bool) -> dict[str, Tensor]:
        batch = self._changed(self.scenes.batch(self.scenes.choose(count, generator)), generator)
        return self.losses_of(batch, progress, generator, half)

    def _changed(self, batch: Batch, generator: torch.Generator) -> Batch:
        rest = self.scenes.hand.rest_joints(batch.pose.hand_shape)[:, 0]
        batch = change_view(batch, gsdf_view(len(batch), generator), rest)
        return dataclasses.replace(batch, image=gsdf_colors(batch.image, len(batch), generator))

    def losses_of(
        self, batch: Batch, progress: float, generator: torch.Generator, half: bool = False
    ) -> dict[str, Tensor]:
        """Losses of a batch as it is."""
        raise NotImplementedError

    def view(self, batch: Batch) -> _View:
        """The batch through its virtual cameras."""
        size, side = self.sized().size, batch.maps["depth"].shape[-1]
        matrix = Camera(batch.matrix, (side, side)).resized((size, size)).matrix
        camera = virtual_camera(matrix, matrix.new_full((2,), (size - 1) / 2))
        image = batch.image
        if image.shape[-1] != size:
            shrinks = image.shape[-1] > size
            image = nn.functional.interpolate(image, (size, size), mode="bilinear", antialias=shrinks)
        given = given_of(batch, ARCHITECTURES["dexycb"])
        scene = Scene(batch, truth(batch, self.scenes.hand, False), given, self.scenes.objects)
        places = camera.from_camera(torch.cat([batch.joints, batch.object_center[:, None]], 1))
        return _View(scene, camera, projection_of(camera.matrix, size), image, places[:, :JOINTS], places[:, JOINTS])

    def measure(self, count: int) -> dict[str, float]:
        results = []
        for start in range(0, count, 8):
            batch = self.scenes.batch(np.arange(start, min(start + 8, count)))
            results.append((len(batch), self.errors(batch)))
        return mean_of(results)

    def errors(self, batch: Batch) -> dict[str, float]:
        """On held-out scenes."""
        raise NotImplementedError

    def export(self, out: Path, tensors: Mapping[str, Tensor], step: int) -> None:
        """``snapshot.pth.tar`` under the published names: for the next stage and the authors' code."""
        table = {f"module.{published(name)}": value.cpu() for name, value in tensors.items()}
        partial = out / ".snapshot.pth.tar"
        torch.save({"epoch": step, "network": table}, partial)
        partial.replace(out / "snapshot.pth.tar")


class GsdfPoseTask(GsdfStage):
    """Stage one: 21 joints from volumetric heat maps, told the wrist's depth."""

    name = "gsdf_pose_official"
    settings = ("objects",)

    def build(self) -> nn.Module:
        return PoseNet(self.sized(), JOINTS + int(self.network.objects))

    def sized(self) -> GsdfConfig:
        return dataclasses.replace(DATASETS[self.network.dataset], **{"hand_depth": POSE_DEPTH, **self.network.sizes})

    def losses_of(
        self, batch: Batch, progress: float, generator: torch.Generator, half: bool = False
    ) -> dict[str, Tensor]:
        view = self.view(batch)
        return pose_losses(self._joints(view, half), view.joints, view.center, generator)

    def _joints(self, view: _View, half: bool = False) -> Float[Tensor, "B J 3"]:
        assert isinstance(self.model, PoseNet)
        with self.half(half):
            return self.model.joints(view.image, view.wrist[:, 2], view.projection)

    def errors(self, batch: Batch) -> dict[str, float]:
        view = self.view(batch)
        found = self._joints(view)
        return {"joint_mm": 1e3 * (found[:, :JOINTS] - view.joints).norm(dim=-1).mean().item()}


class GsdfOfficialTask(GsdfStage):
    """Stage two: the object's centre and both fields of single pictures, about the frozen joints."""

    name = "gsdf_official"
    settings = ("pose", "points")
    smoke = {**GsdfStage.smoke, "network": {"pose": RANDOM}}  # noqa: RUF012

    def build(self) -> nn.Module:
        model, path = Gsdf(self.sized()), self.network.pose
        if path is None:
            raise ConfigError(
                "network.pose: gSDF's second stage needs the first: train gsdf_pose_official, and name its "
                f"snapshot.pth.tar (or {RANDOM!r}, to try)"
            )
        if path != RANDOM:
            take(model.pose_model, path, "pose", {}, "pose_model.")
        return model

    def losses_of(
        self, batch: Batch, progress: float, generator: torch.Generator, half: bool = False, frames: int = 1
    ) -> dict[str, Tensor]:
        """As for any stage; ``frames``: how many pictures in a row are a clip's."""
        found, exact, center, true_center = self._asked(batch, progress > BOTH, generator, half, frames)
        return field_losses(found, exact, self.sized().clamp, center, true_center)

    def _asked(
        self, batch: Batch, both: bool, generator: torch.Generator, half: bool = False, frames: int = 1
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]:
        """Fields at points about each surface, the truth there, the object's centre and the true one.

        ``both``: each field at the other's points too.
        """
        model, view = self.model, self.view(batch)
        assert isinstance(model, Gsdf)
        names = ("hand", "object")
        own = {name: signed_points(name, view.scene, self.network.points, generator) for name in names}
        if both:
            own = dict.fromkeys(names, torch.cat([own[name] for name in names], 1))
        with self.half(half):
            seen = model.see(view.image.contiguous(memory_format=torch.channels_last), frames)
        joints, center = model.joints(seen, view.wrist, view.projection)
        body = model.body(view.wrist, joints, center, self.template)
        found, exact = {}, {}
        for name, points in own.items():
            with self.half(half):
                found[name] = model.field(name, seen, view.camera.from_camera(points), body, view.projection)
            exact[name] = view.scene.distance(name, points) * model.config.scale
        return found, exact, center, view.center

    def errors(self, batch: Batch, frames: int = 1) -> dict[str, float]:
        """On held-out scenes; ``frames``: how many pictures in a row are a clip's."""
        drawn = torch.Generator().manual_seed(0)
        found, exact, center, true_center = self._asked(batch, False, drawn, frames=frames)
        c = self.sized()
        far = {
            f"{name}_field_mm": 1e3 / c.scale * (value.clamp(-c.clamp, c.clamp) - exact[name].clamp(-c.clamp, c.clamp))
            for name, value in found.items()
        }
        errors = {name: value.abs().mean().item() for name, value in far.items()}
        return errors | {"object_center_mm": 1e3 * (center - true_center).norm(dim=-1).mean().item()}


def take(network: nn.Module, path: str, key: str, own: Mapping[str, Tensor], start: str = "") -> None:
    """Gives a network the tensors of a stage's file (then it is in eval mode, not to be trained).

    Args:
        key: Of the recipe, for messages.
        own: Tensors that the file does not hold.
        start: If names in the file begin with this, only those are taken.

    Raises:
        AssetError: see ``checkpoints.read_network``.
        ConfigError: the file's network is another one.
    """
    tensors, _ = read_network(path, (), "give the snapshot.pth.tar that the stage before left")
    part = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
    try:
        fill(network, {**(part or tensors), **own}, "this network")
    except ValueError as error:
        raise ConfigError(f"network.{key}: {path} {error}") from None


def gsdf_view(count: int, generator: torch.Generator) -> View:
    """The published changes of view: turns about the crop's middle in six of ten pictures; nothing else."""
    turned = torch.rand(count, generator=generator) < 0.6
    angle = torch.randn(count, generator=generator).clamp(-2, 2) * math.radians(45) * turned
    return View(angle, torch.ones(count), torch.zeros(count, 2))


def gsdf_colors(image: Float[Tensor, "B 3 S S"], clips: int, generator: torch.Generator) -> Float[Tensor, "B 3 S S"]:
    """The published changes of colour: each channel times 0.8 to 1.2, alike in each of the ``clips`` in a row."""
    gain = 0.8 + 0.4 * torch.rand(clips, 3, 1, 1, generator=generator)
    gain = gain.repeat_interleave(len(image) // clips, 0)
    return (image * gain.to(image)).clamp(0, 1)
