"""Synthetic clips: a hand with what it holds moves along a smooth path, with exact maps and the truth of every frame.

Clip ``i`` of seed ``s`` is always the same. It begins as scene ``i`` of :class:`~horefine.data.scenes.SceneSource`;
hand and object turn and move together, the fingers open and close a little.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from horefine.data import Sample
from horefine.data.compose import PHOTO, Layout
from horefine.data.crop import crop_box
from horefine.data.maps import exact_features
from horefine.data.scenes import MAP_SIZE, SceneSource, photo_camera
from horefine.data.sensor import sense_depth
from horefine.data.synthetic import image_tensor, photograph, write_sample
from horefine.geometry import Box, Camera, axis_angle_to_matrix, matrix_to_axis_angle, project
from horefine.mesh import Mesh
from horefine.scene import Features, Pose

__all__ = ["SyntheticClip", "SyntheticClips"]

TURN, MOVE, OPEN = 0.5, 0.04, 0.12
"""Largest turn and finger opening, radians, and move along each axis, metres."""
TURNS = (0.3, 0.8)
"""Of the sines that a motion is made of, hertz."""


@dataclass(frozen=True)
class SyntheticClip:
    """T frames of one clip."""

    name: str
    object: str
    times: Float[Tensor, "T"]
    """Seconds."""
    truth: Pose
    """B = T."""
    features: Features
    """Exact maps of square crops, each placed anew as a detector would, with contact."""


class SyntheticClips:
    """``count`` clips: ``clips[i]`` is a :class:`SyntheticClip`. Deterministic."""

    def __init__(
        self,
        count: int,
        frames: int = 12,
        seed: int = 1000,
        *,
        fps: float = 30.0,
        size: int = MAP_SIZE,
        source: SceneSource | None = None,
    ) -> None:
        """Makes nothing yet.

        Args:
            count: Number of clips.
            frames: Of each clip.
            fps: Frames a second.
            size: Side of the square maps, pixels.
            source: Where the grasps come from (default: all embedded objects, the embedded hand, this seed).
        """
        self.count, self.frames, self.fps, self.size = count, frames, fps, size
        self.source = source if source is not None else SceneSource(seed)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> SyntheticClip:
        """Clip ``index``. Raises IndexError outside 0 .. count - 1."""
        if not 0 <= index < self.count:
            raise IndexError(f"clip {index} of {self.count}")
        which, layout = self.source.layout(index)
        mesh = self.source.meshes[which]
        times = torch.arange(self.frames) / self.fps
        truth = self._moved(layout.pose, mesh, times, self.source.rng(index, 5))
        whole = Mesh.cat([mesh] * self.frames)
        camera = photo_camera(layout)
        crops = [self._crop(truth[t], mesh, camera).matrix for t in range(self.frames)]
        features, _ = exact_features(truth, self.source.hand, whole, Camera(torch.cat(crops), (self.size, self.size)))
        return SyntheticClip(f"clip_{index:03d}", mesh.name[0], times, truth, features)

    def sample(self, index: int, frame: int, clip: SyntheticClip | None = None) -> Sample:
        """A frame as a photograph with all that is known of it; ``clip``: ``self[index]``, if it is there already."""
        clip = self[index] if clip is None else clip
        which, first = self.source.layout(index)
        layout = self._layout(first, clip.truth[frame], self.source.meshes[which])
        stage = self.source.stage(index, which, layout)
        return Sample(
            name=f"frame_{frame:04d}",
            image=image_tensor(photograph(stage, layout, PHOTO)),
            camera=photo_camera(layout),
            mesh=self.source.meshes[which],
            depth=torch.from_numpy(sense_depth(stage, layout, self.source.rng(index, 3))),
            hand_box=layout.hand_box,
            object_box=layout.object_box,
            truth=layout.pose,
            features=clip.features[torch.tensor([frame])],
        )

    def write(self, folder: Path, index: int) -> None:
        """Clip ``index`` as ``horefine run FOLDER/images --clip`` reads it; files as ``synthesize`` writes them."""
        clip = self[index]
        for part in ("images", "depth", "truth", "maps"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        for frame in range(self.frames):
            write_sample(folder, self.sample(index, frame, clip), clip.object)

    def _layout(self, first: Layout, pose: Pose, mesh: Mesh) -> Layout:
        """The clip's first layout with hand, object and forearm moved; the light stays, nothing is in front."""
        model = self.source.hand
        hand = model(pose.hand_rotvec, pose.hand_shape, pose.hand_transl)
        start = model(first.pose.hand_rotvec, first.pose.hand_shape, first.pose.hand_transl).joints[0, 0]
        turn = axis_angle_to_matrix(pose.hand_rotvec[0, 0]) @ axis_angle_to_matrix(first.pose.hand_rotvec[0, 0]).mT
        arm = (torch.from_numpy(first.forearm.vertices) - start) @ turn.mT + hand.joints[0, 0]
        held = pose.place(mesh.trimmed()[0][None])
        camera = photo_camera(first)
        boxes = _box(hand.vertices, camera), _box(held, camera)
        return dataclasses.replace(
            first, occluders=(), pose=pose, hand=dataclasses.replace(first.hand, vertices=hand.vertices[0].numpy()),
            object=dataclasses.replace(first.object, vertices=held[0].numpy()),
            forearm=dataclasses.replace(first.forearm, vertices=arm.float().numpy()),
            joints=hand.joints[0].numpy(), object_center=pose.place(mesh.center[:, None])[0, 0].double().numpy(),
            hand_box=boxes[0], object_box=boxes[1], crop_box=crop_box(*boxes),
        )  # fmt: skip

    def _moved(self, pose: Pose, mesh: Mesh, times: Float[Tensor, "T"], rng: np.random.Generator) -> Pose:
        """The pose (B = 1) along the clip's path, which begins where the pose is."""
        model, count = self.source.hand, len(times)
        axis = rng.normal(size=3)
        angle = _path(times, rng, TURN)
        turn = axis_angle_to_matrix(angle[:, None] * torch.tensor(axis / np.linalg.norm(axis)).float())
        way = torch.stack([_path(times, rng, MOVE) for _ in range(3)], 1)
        middle = pose.place(mesh.center[:, None])[:, 0]
        arm = pose.hand_transl + model.rest_joints(pose.hand_shape)[:, 0] - middle
        held = pose.object_transl - middle
        opened = -(_path(times, rng, OPEN).abs()[:, None, None] * model.axes[1:, :, 2])
        fingers = axis_angle_to_matrix(pose.hand_rotvec[:, 1:]) @ axis_angle_to_matrix(opened)
        wrist = turn @ axis_angle_to_matrix(pose.hand_rotvec[:, 0])
        return Pose(
            matrix_to_axis_angle(torch.cat([wrist[:, None], fingers], 1)),
            pose.hand_shape.expand(count, -1).clone(),
            pose.hand_transl - arm + (turn @ arm[..., None])[..., 0] + way,
            matrix_to_axis_angle(turn @ axis_angle_to_matrix(pose.object_rotvec)),
            middle + (turn @ held[..., None])[..., 0] + way,
        )

    def _crop(self, pose: Pose, mesh: Mesh, camera: Camera) -> Camera:
        """Of the crop that boxes about both would get."""
        hand = self.source.hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).vertices
        boxes = _box(hand, camera), _box(pose.place(mesh.vertices), camera)
        return camera.cropped(crop_box(*boxes), (self.size, self.size))


def _path(times: Float[Tensor, "T"], rng: np.random.Generator, size: float) -> Float[Tensor, "T"]:
    """Two sines' sum from 0 at the beginning, less than ``size`` from its middle."""
    total = torch.zeros_like(times)
    for share in rng.dirichlet([1, 1]):
        rate, phase = rng.uniform(*TURNS) * 2 * math.pi, rng.uniform(0, 2 * math.pi)
        total = total + float(share) * size * (torch.sin(rate * times + phase) - math.sin(phase))
    return total


def _box(points: Float[Tensor, "1 N 3"], camera: Camera) -> Box:
    pixels = project(points, camera.matrix)[0]
    low, high = pixels.amin(0).tolist(), pixels.amax(0).tolist()
    return low[0], low[1], high[0], high[1]
