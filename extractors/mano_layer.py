"""The hand layer of published hand networks, and the closed form that turns their joints into its rotations.

Networks trained with ``manopth`` (HOISDF, gSDF, AlignSDF) store its arrays in their checkpoints and count everything
from the wrist's joint. :class:`ManoLayer` does the same sums with a checkpoint's arrays, or with those of the user's
own MANO file.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from horefine.anatomy import PARENTS
from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from horefine.mano import HandData

__all__ = ["SHAPES", "ManoLayer", "joint_rotations"]

SHAPES: dict[str, tuple[int, ...]] = {
    "th_v_template": (1, 778, 3), "th_shapedirs": (778, 3, 10), "th_posedirs": (778, 3, 135),
    "th_J_regressor": (16, 778), "th_weights": (778, 16), "th_hands_mean": (1, 45),
}  # fmt: skip
"""The arrays it uses, as checkpoints name them."""

_TIPS = (745, 317, 444, 556, 673)
_ORDER = (0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20)
"""Wrist, thumb, index, middle, ring, little out of 16 joints and the five tips."""
_FINGERS = ((5, 6, 7, 8), (9, 10, 11, 12), (17, 18, 19, 20), (13, 14, 15, 16), (1, 2, 3, 4))
"""The 21 joints of index, middle, little, ring and thumb: MANO's order of rotations."""
_KNUCKLES = (1, 5, 9, 13, 17)


class ManoLayer(nn.Module):
    """Linear blend skinning of a MANO-layout hand from axis-angles relative to the FLAT hand, metres."""

    th_v_template: Tensor
    th_shapedirs: Tensor
    th_posedirs: Tensor
    th_J_regressor: Tensor
    th_weights: Tensor
    th_hands_mean: Tensor

    def __init__(self, arrays: Mapping[str, Tensor]) -> None:
        """``arrays``: those of :data:`SHAPES`.

        Raises:
            ValueError: one is missing or has another shape.
        """
        super().__init__()
        for name, shape in SHAPES.items():
            if name not in arrays or tuple(arrays[name].shape) != shape:
                found = tuple(arrays[name].shape) if name in arrays else "missing"
                raise ValueError(f"hand layer: {name} is {found}; expected {shape}")
            self.register_buffer(name, arrays[name].float())

    @staticmethod
    def from_data(data: HandData) -> ManoLayer:
        """With a hand file's arrays; rotations stay relative to the flat hand, so the mean pose is not added."""
        values = data.template[None], data.shapedirs, data.posedirs, data.regressor, data.weights
        arrays = {name: torch.as_tensor(value) for name, value in zip(SHAPES, values, strict=False)}
        return ManoLayer({**arrays, "th_hands_mean": torch.zeros(1, 45)})

    def forward(
        self, rotvec: Float[Tensor, "B 48"], shape: Float[Tensor, "B 10"], centered: bool = True
    ) -> tuple[Float[Tensor, "B 778 3"], Float[Tensor, "B 21 3"]]:
        """Vertices and 21 joints; ``centered``: counted from the wrist's joint."""
        mean = torch.cat([torch.zeros_like(rotvec[:, :3]), self.th_hands_mean.expand(len(rotvec), -1)], 1)
        local = axis_angle_to_matrix((rotvec + mean).unflatten(-1, (16, 3)))
        bent = (local[:, 1:] - torch.eye(3).to(local)).flatten(1)
        shaped = self.th_v_template + torch.einsum("vck,bk->bvc", self.th_shapedirs, shape)
        rest = self.th_J_regressor @ shaped
        turns, places = [local[:, 0]], [rest[:, 0]]
        for joint, parent in enumerate(PARENTS[1:], 1):
            places.append(places[parent] + (turns[parent] @ (rest[:, joint] - rest[:, parent])[..., None])[..., 0])
            turns.append(turns[parent] @ local[:, joint])
        turn, place = torch.stack(turns, 1), torch.stack(places, 1)
        offset = place - (turn @ rest[..., None])[..., 0]
        blend = torch.einsum("vj,bjk->bvk", self.th_weights, torch.cat([turn.flatten(2), offset], -1))
        flat = shaped + torch.einsum("vck,bk->bvc", self.th_posedirs, bent)
        vertices = (blend[..., :9].unflatten(-1, (3, 3)) @ flat[..., None])[..., 0] + blend[..., 9:]
        joints = torch.cat([place, vertices[:, list(_TIPS)]], 1)[:, list(_ORDER)]
        if centered:
            vertices, joints = vertices - joints[:, :1], joints - joints[:, :1]
        return vertices, joints


def joint_rotations(
    joints: Float[Tensor, "B 21 3"], template: Float[Tensor, "B 21 3"]
) -> tuple[Float[Tensor, "B 16 3"], Bool[Tensor, "B"]]:
    """Rotations that bring a flat hand's joints to given ones, in closed form (gSDF, Chen et al. 2023, section 3.2).

    The wrist turns by the least squares rotation of the five knuckles; each bone then swings, without twist, from where
    it came to lie towards the given joint. Bones keep the template's length.

    Args:
        joints: Wrist, thumb, index, middle, ring, little; metres.
        template: The same of the flat hand of the same shape.

    Returns:
        Axis-angles in MANO's order and whether they mean anything: where the least squares fit is a reflection (left
        hands, collapsed joints) all rotations are zero, as in the published code.
    """
    target, rest = joints - joints[:, :1], template - template[:, :1]
    knuckles = list(_KNUCKLES)
    u, _, vt = torch.linalg.svd(rest[:, knuckles].mT @ target[:, knuckles])
    wrist = vt.mT @ u.mT
    proper = (torch.linalg.det(wrist) + 1).abs() > 1e-6
    chains = torch.tensor(_FINGERS, device=joints.device)
    bones, ends = rest[:, chains], target[:, chains]  # B 5 4 3
    turn = wrist[:, None].expand(-1, 5, 3, 3)
    place = torch.zeros_like(bones[:, :, 0])
    before = torch.zeros_like(place)
    found = []
    for index in range(3):
        place = place + (turn @ (bones[:, :, index] - before)[..., None])[..., 0]
        before = bones[:, :, index]
        wanted = (turn.mT @ (ends[:, :, index + 1] - place)[..., None])[..., 0]
        swing = _swing(bones[:, :, index + 1] - before, wanted)
        turn = turn @ axis_angle_to_matrix(swing)
        found.append(swing)
    fingers = torch.stack(found, 2).flatten(1, 2)
    rotations = torch.cat([matrix_to_axis_angle(wrist)[:, None], fingers], 1)
    return torch.where(proper[:, None, None], rotations, torch.zeros_like(rotations)), proper


def _swing(start: Tensor, end: Tensor, tiny: float = 1e-7) -> Tensor:
    """The shortest rotation from one direction to another. ``tiny`` is the published code's: it moves the angle."""
    axis = torch.linalg.cross(start, end, dim=-1)
    axis = axis / (axis.norm(dim=-1, keepdim=True) + tiny)
    cosine = (start * end).sum(-1, keepdim=True)
    cosine = cosine / (start.norm(dim=-1, keepdim=True) + tiny) / (end.norm(dim=-1, keepdim=True) + tiny)
    return axis * cosine.clamp(-1 + tiny, 1 - tiny).acos()
