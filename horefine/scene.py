"""What is estimated (:class:`Pose`), what is observed (:class:`Features`) and both together (:class:`Scene`).

A ``Scene`` is what a loss sees. Its posed hand, posed object and renderings are computed when first asked for and
kept, so an objective that does not look at pictures renders none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.geometry import Camera, axis_angle_to_matrix
from horefine.hand import Hand, HandModel
from horefine.mesh import DistanceGrid, Mesh
from horefine.render import Render, Renderer

__all__ = [
    "CONFIDENCES", "FACTORS", "MAPS", "Contact", "Features", "Neighbours", "Pose", "PoseSpread", "Scene",
    "focal_stretch",
]  # fmt: skip

CONFIDENCES = {"hand_coords": "hand_confidence", "object_coords": "object_confidence", "depth": "depth_confidence"}
"""Maps of :class:`Features` that may come with a confidence, and its name."""
MAPS = ("hand_mask", "object_mask", "hand_coords", "object_coords", "depth", "measured_depth", "image")
"""Fields of :class:`Features` at the size of the maps, besides confidences."""
FACTORS = {"focal": "focal_factor", "object_scale": "object_scale"}
"""What a recipe may leave open besides the poses (``variables``), and its field of :class:`Pose`."""


@dataclass(frozen=True)
class Pose:
    """Poses of B hands and the objects they hold, camera frame, metres and radians; two factors that may be unknown."""

    names: ClassVar[tuple[str, ...]] = ("hand_rotvec", "hand_shape", "hand_transl", "object_rotvec", "object_transl")
    """Of the fields that every pose has."""

    hand_rotvec: Float[Tensor, "B 16 3"]
    """Axis-angle of wrist, index 1-3, middle 1-3, pinky 1-3, ring 1-3, thumb 1-3, relative to the FLAT hand."""
    hand_shape: Float[Tensor, "B 10"]
    """Shape coefficients, standard deviations of the hand model."""
    hand_transl: Float[Tensor, "B 3"]
    """smplx's ``transl``: the wrist joint is at ``J0(shape) + hand_transl``."""
    object_rotvec: Float[Tensor, "B 3"]
    object_transl: Float[Tensor, "B 3"]
    """``X_cam = object_scale R X_object + object_transl``."""
    focal_factor: Float[Tensor, "B"] | None = None
    """The camera's true focal lengths over the given ones; None: 1, they are known."""
    object_scale: Float[Tensor, "B"] | None = None
    """The object's true size over its mesh's, about the origin of its frame; None: 1, the mesh is true to scale."""

    def __len__(self) -> int:
        return len(self.hand_rotvec)

    def __getitem__(self, index: int | slice | Tensor) -> Pose:
        """The chosen images; an integer keeps a batch of one."""
        chosen = slice(index, index + 1 or None) if isinstance(index, int) else index
        return self.map(lambda value: value[chosen])

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors of the fields that are not None."""
        pairs = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        return ((name, value) for name, value in pairs if value is not None)

    def map(self, function: Callable[[Tensor], Tensor]) -> Pose:
        """The pose with ``function`` applied to every tensor."""
        return Pose(**{name: function(value) for name, value in self.items()})

    def like(self, values: Iterable[Tensor]) -> Pose:
        """The pose made of other tensors for the same names, in the order of :meth:`items`."""
        return Pose(**{name: value for (name, _), value in zip(self.items(), values, strict=True)})

    def to(self, *args: Any, **kwargs: Any) -> Pose:
        return self.map(lambda value: value.to(*args, **kwargs))

    def detach(self) -> Pose:
        return self.map(lambda value: value.detach())

    def with_factors(self, names: Iterable[str]) -> Pose:
        """The pose with those factors (field names) 1 that are None."""
        missing = [name for name in names if getattr(self, name) is None]
        return dataclasses.replace(self, **{name: torch.ones_like(self.hand_transl[:, 0]) for name in missing})

    @staticmethod
    def cat(poses: list[Pose]) -> Pose:
        """One batch from several; a factor that only some have is 1 for the others."""
        names = dict.fromkeys(name for pose in poses for name, _ in pose.items())
        whole = [pose.with_factors(names) for pose in poses]
        return Pose(**{name: torch.cat([getattr(pose, name) for pose in whole]) for name in names})

    def sized(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
        """Points of the mesh at the object's true size, object frame."""
        return points if self.object_scale is None else points * self.object_scale[:, None, None]

    def place(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
        """Points of the mesh (object frame) in the camera frame."""
        return self.sized(points) @ axis_angle_to_matrix(self.object_rotvec).mT + self.object_transl[:, None]

    def seen(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
        """Where the *given* camera would have to have camera-frame points to show them where the true one does.

        A camera whose focal length is e times as long shows a point as the given one shows (e x, e y, z).
        """
        if self.focal_factor is None:
            return points
        return points * focal_stretch(self.focal_factor)[:, None]


def focal_stretch(factor: Float[Tensor, "B"]) -> Float[Tensor, "B 3"]:
    """What x, y and z are multiplied with where the focal length is: ``(e, e, 1)``."""
    return torch.stack([factor, factor, torch.ones_like(factor)], 1)


@dataclass(frozen=True)
class Contact:
    """Which object vertices touch which part of the hand, and how firmly (CPF, Yang et al. 2021)."""

    probability: Float[Tensor, "B V"]
    """That the object vertex is in contact, 0 to 1; 0 for padding."""
    region: Int[Tensor, "B V"]
    """Hand region 0..16 (thumb 0-2, index 3-5, middle 6-8, ring 9-11, pinky 12-14, palm 15, heel 16); 17 = none."""
    elasticity: Float[Tensor, "B V 4"]
    """Of each anchor of the region, in the region's anchor order, 0 to 1; 0 where the region has fewer than four."""


@dataclass(frozen=True)
class PoseSpread:
    """How far off a first pose is to be expected, on the mean; the columns of ``Features.pose_spread``."""

    hand_rotation: Float[Tensor, "B"]
    """Of the wrist, radians."""
    wrist_depth: Float[Tensor, "B"]
    """Along the ray through the wrist, metres."""
    wrist_across: Float[Tensor, "B"]
    """Across it, metres."""
    object_rotation: Float[Tensor, "B"]
    """Radians."""
    object_center: Float[Tensor, "B"]
    """Of the centre of the object's box, metres."""

    def stack(self) -> Float[Tensor, "B 5"]:
        """One column for each, in this order."""
        return torch.stack([getattr(self, f.name) for f in dataclasses.fields(self)], 1)

    @staticmethod
    def of(columns: Float[Tensor, "B 5"]) -> PoseSpread:
        """From :meth:`stack`."""
        return PoseSpread(*columns.unbind(1))


@dataclass(frozen=True)
class Neighbours:
    """Where the other frames of a clip say that hand and object of B frames are (:mod:`horefine.motion`).

    A frame is in up to K = 3 second differences: in its own, and in those of the frames before and after it.
    """

    joints: Float[Tensor, "B K 21 3"]
    """Where the joints would have to be for no acceleration there, camera frame."""
    corners: Float[Tensor, "B K 8 3"]
    """Of the object's box, likewise."""
    rate: Float[Tensor, "B K"]
    """Acceleration there for each metre that a point is off, 1 / s^2; 0 where there is no such second difference."""
    level: Float[Tensor, "B 2"]
    """How much each coordinate of hand and object accelerates in this clip, root mean square, m / s^2."""


@dataclass(frozen=True)
class Features:
    """What is known of B images: the camera of the maps, the object's mesh, and maps (each may be missing: None)."""

    camera: Camera
    """Of the maps: ``camera.size`` is their H, W."""
    object: Mesh
    hand_mask: Float[Tensor, "B H W"] | None = None
    """Visible part of the hand, 0 to 1."""
    object_mask: Float[Tensor, "B H W"] | None = None
    hand_coords: Float[Tensor, "B 3 H W"] | None = None
    """Canonical code of the hand's surface (``HandModel.codes``) where the hand is visible, 0 to 1."""
    object_coords: Float[Tensor, "B 3 H W"] | None = None
    """Normalised object coordinates (``Mesh.codes``) where the object is visible, 0 to 1."""
    depth: Float[Tensor, "B H W"] | None = None
    """Metres, minus the depth of the centre of the object's bounding box, where hand or object is visible."""
    measured_depth: Float[Tensor, "B H W"] | None = None
    """Metres along z that a depth camera measured; 0 where it saw nothing."""
    image: Float[Tensor, "B 3 H W"] | None = None
    """The photograph at the size of the maps: linear light, averaged over each pixel, 0 to 1."""
    hand_sdf: DistanceGrid | None = None
    """The regressor's signed distance to the hand, camera frame."""
    object_sdf: DistanceGrid | None = None
    contact: Contact | None = None
    hand_confidence: Float[Tensor, "B H W"] | None = None
    """How far ``hand_coords`` is to be trusted, 0 to 1: what the square of an error there weighs beside that of a good
    pixel, ``(sigma of a good pixel / sigma here)^2``. None: not known, 1 everywhere. So for the two below. A mask
    needs none: its own softness says where it is not sure."""
    object_confidence: Float[Tensor, "B H W"] | None = None
    """Of ``object_coords``."""
    depth_confidence: Float[Tensor, "B H W"] | None = None
    """Of ``depth``."""
    pose_spread: Float[Tensor, "B 5"] | None = None
    """How far off the pose to begin with may be (:class:`PoseSpread`); None: not known."""
    neighbours: Neighbours | None = None
    """Of frames of a clip, for the loss that couples them; None: single images."""

    def __len__(self) -> int:
        return len(self.camera.matrix)

    def map(self, function: Callable[[Tensor], Tensor]) -> Features:
        """The features with ``function`` applied to every tensor inside (nested ones too)."""
        return _map(self, function)

    def __getitem__(self, index: slice | Tensor) -> Features:
        """The chosen images."""
        table = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "object"}
        chosen = {name: _map(value, lambda tensor: tensor[index]) for name, value in table.items()}
        return Features(object=self.object[index], **chosen)

    def under(self, pose: Pose) -> Features:
        """The same features with the pose's factors in camera and mesh, for what knows no factors."""
        camera, thing = self.camera, self.object
        if pose.focal_factor is not None:
            camera = Camera(camera.matrix @ focal_stretch(pose.focal_factor).diag_embed(), camera.size)
        if pose.object_scale is not None:
            thing = dataclasses.replace(thing, vertices=pose.sized(thing.vertices), sdf=None, symmetries=None)
        return dataclasses.replace(self, camera=camera, object=thing)

    def to(self, *args: Any, **kwargs: Any) -> Features:
        """``Tensor.to`` on every tensor; integers keep their dtype."""
        device = self.camera.matrix.to(*args, **kwargs).device
        return self.map(lambda value: value.to(*args, **kwargs) if value.is_floating_point() else value.to(device))


def _map(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value, **{f.name: _map(getattr(value, f.name), function) for f in dataclasses.fields(value)}
        )
    return value


@dataclass(frozen=True)
class Scene:
    """A pose against what was observed; posed meshes and renderings are made when first asked for."""

    pose: Pose
    initial: Pose
    """Where refinement began (for the losses that hold on to it)."""
    features: Features
    hand_model: HandModel
    renderer: Renderer = field(repr=False)
    """Bound to this batch's meshes and camera: ``renderer(hand_vertices, object_vertices) -> Render``."""

    @cached_property
    def hand(self) -> Hand:
        """Posed hand: vertices "B 778 3", joints "B 21 3", transforms "B 16 4 4", camera frame."""
        return self.hand_model(self.pose.hand_rotvec, self.pose.hand_shape, self.pose.hand_transl)

    @cached_property
    def object_rotation(self) -> Float[Tensor, "B 3 3"]:
        return axis_angle_to_matrix(self.pose.object_rotvec)

    @cached_property
    def object(self) -> Float[Tensor, "B V 3"]:
        """Object vertices in the camera frame."""
        return self.place(self.features.object.vertices)

    @cached_property
    def object_center(self) -> Float[Tensor, "B 3"]:
        """Centre of the object's bounding box, camera frame."""
        return self.place(self.features.object.center[:, None])[:, 0]

    @cached_property
    def object_corners(self) -> Float[Tensor, "B 8 3"]:
        """Corners of the object's bounding box, camera frame."""
        return self.place(self.features.object.corners)

    @property
    def seen(self) -> tuple[Float[Tensor, "B N 3"], Float[Tensor, "B V 3"]]:
        """Vertices of hand and object as the given camera sees them: the true ones unless ``pose.focal_factor``."""
        return self.pose.seen(self.hand.vertices), self.pose.seen(self.object)

    @cached_property
    def render(self) -> Render:
        """Hand and object, each rendered alone, at the size of the maps."""
        return self.renderer(*self.seen)

    def place(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
        """Points of the object's mesh (object frame) in the camera frame."""
        return self.pose.sized(points) @ self.object_rotation.mT + self.pose.object_transl[:, None]

    def to_object_frame(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
        """Camera-frame points in the object's frame, at the mesh's size."""
        local, scale = (points - self.pose.object_transl[:, None]) @ self.object_rotation, self.pose.object_scale
        return local if scale is None else local / scale[:, None, None]

    def object_distance(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N"]:
        """Signed distance (metres, negative inside) of camera-frame points to the posed object."""
        distance, scale = self.features.object.distance(self.to_object_frame(points)), self.pose.object_scale
        return distance if scale is None else distance * scale[:, None]
