"""The hand: MANO's parameterisation, from a user's MANO file or from the embedded hand (our own geometry).

A :class:`HandModel` maps 16 rotations (relative to the FLAT hand), 10 shape values and a translation to 778 vertices
and 21 joints: the linear blend skinning of Romero et al. 2017 as coded in ``smplx.lbs.lbs``, which the tests compare it
with. It is written out here because the skeleton is known: five chains of three joints take three batched products
instead of fifteen, and blend shapes and pose correctives take one. The hand is a right hand; left hands are mirrored
at the doors.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from horefine import anatomy
from horefine.geometry import axis_angle_to_matrix
from horefine.mano import HandData, find_mano, read_mano

__all__ = ["Hand", "HandModel", "house_from_mano", "load_hand"]

_MANO_TIPS = (745, 317, 444, 556, 673)
"""Fingertip vertices of MANO's mesh, thumb to pinky (manopth's choice; the embedded hand keeps its tips there too)."""


@dataclass(frozen=True)
class Hand:
    """A batch of posed hands, camera frame, metres."""

    vertices: Float[Tensor, "B V 3"]
    joints: Float[Tensor, "B 21 3"]
    """Wrist, then thumb, index, middle, ring, pinky with four joints each; the fourth is the tip."""
    transforms: Float[Tensor, "B 16 4 4"]
    """Global rotation and position of the 16 joints, MANO's order."""


@dataclass(frozen=True, eq=False)
class HandModel:
    """A right hand in MANO's parameterisation. Build one with :func:`load_hand`."""

    name: str
    """``embedded`` or ``mano``."""
    template: Float[Tensor, "V 3"]
    """The flat hand at zero shape."""
    faces: Int[Tensor, "F 3"]
    weights: Float[Tensor, "V 16"]
    """Skinning weights, rows sum to one."""
    basis: Float[Tensor, "145 V*3"]
    """10 shape directions, then 135 pose correctives."""
    flat_joints: Float[Tensor, "16 3"]
    """Joints of the flat hand at zero shape, MANO's order."""
    shape_joints: Float[Tensor, "10 16*3"]
    """How each shape value moves the flat hand's joints."""
    regressor: Float[Tensor, "16 V"]
    """Joints from the vertices of the flat hand."""
    tips: Int[Tensor, "5"]
    """Fingertip vertices, thumb to pinky."""
    mean_rotvec: Float[Tensor, "16 3"]
    """A natural relaxed pose; the wrist is not rotated."""
    limits: Float[Tensor, "15 3 2"]
    """Lower and upper limit of twist, splay and bend of the finger joints (``anatomy.anatomy_angles``), radians."""
    colors: Float[Tensor, "V 3"]
    """Skin albedo relative to the skin's tone (nails, knuckles, palm), about 1."""
    codes: Float[Tensor, "V 3"]
    """Canonical coordinates: position on the flat hand at zero shape in its bounding cube, 0 to 1."""
    code_center: Float[Tensor, "3"]
    code_scale: float
    """``code = (position - code_center) / code_scale + 0.5``; metres in a code unit."""
    axes: Float[Tensor, "16 3 3"]
    """Columns b, u, l of the flat hand's joints (``anatomy.rest_axes``)."""
    regions: Int[Tensor, "V"]
    """Region 0..16 of each vertex (``anatomy.REGIONS``)."""
    palmar: Bool[Tensor, "V"]
    anchor_faces: Int[Tensor, "32 3"]
    anchor_weights: Float[Tensor, "32 2"]
    anchor_region: Int[Tensor, "32"]

    parents = anatomy.PARENTS

    def __call__(
        self, rotvec: Float[Tensor, "B 16 3"], shape: Float[Tensor, "B 10"], transl: Float[Tensor, "B 3"]
    ) -> Hand:
        """Poses the hand. Differentiable in every argument, at the zero rotation too.

        Args:
            rotvec: Axis-angle of the 16 joints in MANO's order, relative to the flat hand.
            shape: Shape values, standard deviations.
            transl: Added to everything; the wrist ends at ``rest_joints(shape)[:, 0] + transl``.
        """
        count = len(rotvec)
        rotations = axis_angle_to_matrix(rotvec)
        joints = self.rest_joints(shape)
        features = (rotations[:, 1:] - torch.eye(3, dtype=rotvec.dtype, device=rotvec.device)).reshape(count, 135)
        flat = torch.addmm(self.template.reshape(-1), torch.cat([shape, features], 1), self.basis)
        turned, placed = _chain(rotations, joints)
        offset = placed - (turned @ joints[..., None]).squeeze(-1)
        blended = self.weights @ torch.cat([turned.reshape(count, 16, 9), offset], -1)
        matrix = blended[..., :9].unflatten(-1, (3, 3))
        vertices = (matrix * flat.view(count, -1, 1, 3)).sum(-1) + blended[..., 9:] + transl[:, None]
        placed = placed + transl[:, None]
        posed = torch.cat([placed, vertices[:, self.tips]], 1).index_select(1, house_from_mano(placed.device))
        return Hand(vertices, posed, _homogeneous(turned, placed))

    def rest_joints(self, shape: Float[Tensor, "B 10"]) -> Float[Tensor, "B 16 3"]:
        """The 16 joints of the flat hand of a given shape, without translation."""
        return torch.addmm(self.flat_joints.reshape(-1), shape, self.shape_joints).view(len(shape), 16, 3)

    def anchors(self, vertices: Float[Tensor, "B V 3"]) -> Float[Tensor, "B 32 3"]:
        """Where the 32 anchors lie on posed vertices: ``v0 + w1 (v1 - v0) + w2 (v2 - v0)``."""
        corners = vertices[:, self.anchor_faces]
        edges = corners[:, :, 1:] - corners[:, :, :1]
        return corners[:, :, 0] + (self.anchor_weights[..., None] * edges).sum(2)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> HandModel:
        """The same model on another device, or with other floating point numbers; itself when nothing changes."""
        if self.template.to(device=device, dtype=dtype) is self.template:
            return self

        def move(value: object) -> object:
            if not isinstance(value, Tensor):
                return value
            return value.to(device=device, dtype=dtype if value.is_floating_point() else None)

        return dataclasses.replace(self, **{f.name: move(getattr(self, f.name)) for f in dataclasses.fields(self)})

    @staticmethod
    def embedded() -> HandModel:
        """The hand that comes with horefine: our own geometry (``scripts/build_hand.py``)."""
        return _embedded()

    @staticmethod
    def from_data(data: HandData, name: str) -> HandModel:
        """The model of given arrays; regions, palmar side, anchors and axes are derived from them."""

        def tensor(array: np.ndarray) -> Tensor:
            return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32)

        # products in double: the joints of the flat hand must not lose digits to 778 small terms
        flat_joints = tensor(data.regressor @ data.template)
        shape_joints = tensor(np.einsum("jv,vck->kjc", data.regressor, data.shapedirs).reshape(10, 48))
        count = len(data.template)
        directions = [
            data.shapedirs.transpose(2, 0, 1).reshape(10, -1),
            data.posedirs.transpose(2, 0, 1).reshape(135, -1),
        ]
        template, weights = tensor(data.template), tensor(data.weights)
        faces = torch.as_tensor(data.faces.astype(np.int64))
        tips = torch.tensor(_MANO_TIPS)
        low, high = template.amin(0), template.amax(0)
        center, scale = (low + high) / 2, float((high - low).max())
        regions = anatomy.vertex_regions(template, weights, flat_joints)
        axes = anatomy.rest_axes(torch.cat([flat_joints, template[tips]])[_HOUSE_FROM_MANO])
        palmar = anatomy.palmar_side(template, faces, regions, axes)
        anchors = anatomy.make_anchors(template, faces, regions, palmar)
        return HandModel(
            name=name, template=template, faces=faces, weights=weights, basis=tensor(np.concatenate(directions)),
            flat_joints=flat_joints, shape_joints=shape_joints, regressor=tensor(data.regressor), tips=tips,
            mean_rotvec=tensor(data.mean_rotvec),
            limits=anatomy.default_limits() if data.limits is None else tensor(data.limits),
            colors=torch.ones(count, 3) if data.colors is None else tensor(data.colors),
            codes=(template - center) / scale + 0.5, code_center=center, code_scale=scale,
            axes=axes, regions=regions, palmar=palmar,
            anchor_faces=anchors[0], anchor_weights=anchors[1], anchor_region=anchors[2],
        )  # fmt: skip


def load_hand(mano_dir: Path | str | None = None, *, kind: str = "auto") -> HandModel:
    """The user's MANO hand if there is one, else the embedded hand.

    Args:
        mano_dir: Folder (or file) with ``MANO_RIGHT.pkl`` or ``.npz``; searched first (``mano.find_mano``).
        kind: ``embedded`` and ``mano`` insist on one; ``auto`` takes MANO where it is found. A ``mano_dir`` that is
            given and holds no MANO file is an error with ``auto`` too.

    Raises:
        FileNotFoundError: if MANO is insisted on and not found; names the folders searched and where to get it.
        ValueError: for another ``kind`` or a damaged file.
    """
    if kind not in ("auto", "embedded", "mano"):
        raise ValueError(f"kind is {kind!r}; known: auto, embedded, mano")
    if kind == "embedded":
        return _embedded()
    path = find_mano(mano_dir, required=kind == "mano" or mano_dir is not None)
    return _embedded() if path is None else HandModel.from_data(read_mano(path), "mano")


@functools.lru_cache(maxsize=1)
def _embedded() -> HandModel:
    with resources.as_file(resources.files("horefine.assets") / "embedded_hand.npz") as path:
        return HandModel.from_data(read_mano(path), "embedded")


_HOUSE_FROM_MANO = [anatomy.JOINT_ORDERS["mano"].index(name) for name in anatomy.JOINTS]


@functools.lru_cache(maxsize=8)
def house_from_mano(device: torch.device) -> Int[Tensor, "21"]:
    """Place of each house joint among the 16 joints and five tips in MANO's order; kept on the device, as a copy from
    the host makes the host wait for it."""
    return torch.tensor(_HOUSE_FROM_MANO, device=device)


def _chain(
    rotations: Float[Tensor, "B 16 3 3"], joints: Float[Tensor, "B 16 3"]
) -> tuple[Float[Tensor, "B 16 3 3"], Float[Tensor, "B 16 3"]]:
    """Global rotations and positions of the joints from their local rotations: all five fingers at once."""
    count = len(rotations)
    local = rotations[:, 1:].view(count, 5, 3, 3, 3)
    fingers = joints[:, 1:].view(count, 5, 3, 3)
    root = joints[:, None, :1].expand(count, 5, 1, 3)
    steps = (fingers - torch.cat([root, fingers[:, :, :2]], 2))[..., None]
    turned, placed = [rotations[:, :1].expand(count, 5, 3, 3)], [root[:, :, 0]]
    for i in range(3):
        placed.append(placed[-1] + (turned[-1] @ steps[:, :, i]).squeeze(-1))
        turned.append(turned[-1] @ local[:, :, i])
    every_turn = torch.stack(turned[1:], 2).view(count, 15, 3, 3)
    every_place = torch.stack(placed[1:], 2).view(count, 15, 3)
    return torch.cat([rotations[:, :1], every_turn], 1), torch.cat([joints[:, :1], every_place], 1)


def _homogeneous(rotation: Float[Tensor, "B J 3 3"], position: Float[Tensor, "B J 3"]) -> Float[Tensor, "B J 4 4"]:
    last = torch.cat([torch.zeros_like(position), torch.ones_like(position[..., :1])], -1)[..., None, :]
    return torch.cat([torch.cat([rotation, position[..., None]], -1), last], -2)
