"""The compact gSDF and C2F-SDF as initialisers (``field_initial``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.data import Sample
from horefine.extractors import load_default
from horefine.extractors.c2f_sdf_compact import CompactC2f
from horefine.extractors.crops import depth_maps, extents_of, map_camera, pictures
from horefine.extractors.eyes import Seen
from horefine.extractors.field_initial import FieldInitializer, Reading
from horefine.extractors.gsdf_compact import CompactGsdf, Skeleton
from horefine.extractors.level import Outline
from horefine.extractors.root import Frame, KnownWrist
from horefine.hand import HandModel
from horefine.inverse_kinematics import joints_to_pose
from horefine.inverse_kinematics.closed_form import flat_joints

__all__ = ["C2fInitializer", "GsdfInitializer"]


class _Compact(FieldInitializer):
    """What both do alike: the hand is the likeliest one that shows the joints."""

    def _reading(
        self, crop: Sample, joints: Float[Tensor, "21 3"], center: Float[Tensor, "3"], turn: Float[Tensor, "3 3"],
        ask: Callable[[str, Tensor], Tensor], seen: Seen,
    ) -> Reading:  # fmt: skip
        """Everything given in the network frame, ``turn`` leads there from the camera's; ``seen`` is this crop's."""
        hand = joints_to_pose((joints @ turn).cpu(), self.hand.to("cpu"))
        rest = self.hand.to("cpu").rest_joints(hand.shape)[0, 0]
        wrist = rest + hand.transl[0]
        if crop.wrist is not None and None not in crop.wrist:
            wrist = torch.tensor(crop.wrist)

        def field(which: str) -> Callable[[Tensor], Tensor]:
            return lambda points: ask(which, points.to(joints) @ turn.mT).to(points)

        thing, front = (seen.raw[name][0, 0].float().sigmoid().cpu() for name in ("obj_seg", "hand_seg"))
        outline = Outline(thing, front, map_camera([crop], thing.shape[-1]).matrix[0].cpu())
        return Reading(
            hand.rotvec[0], hand.shape[0], wrist, (center @ turn).cpu(), field("hand"), field("object"), outline=outline
        )


class GsdfInitializer(_Compact):
    """gSDF: from a colour picture."""

    def __init__(self, device: str = "cpu", hand: HandModel | None = None, model: CompactGsdf | None = None) -> None:
        """``model``: default is the compact network that comes with horefine."""
        super().__init__(device, hand)
        self.model: CompactGsdf = (model or load_default("gsdf")).to(device)  # type: ignore[assignment]
        self.template = flat_joints(self.hand).to(device)

    @torch.no_grad()
    def read(self, crops: Sequence[Sample]) -> list[Reading]:
        """Joints from the volumes, fields about them."""
        model, side = self.model, self.model.config.size
        frame = Frame.of(map_camera(crops, side).matrix.to(self.device), side, model.config.root)
        seen = model.see(pictures(crops, side).to(self.device), extents_of(crops).to(self.device), frame.focal)
        assert seen.root is not None
        wrist, center = seen.root.points(frame, KnownWrist.of(crops, self.device))
        joints = model.volumes(seen).joints(frame, wrist)
        skeleton = Skeleton.of(joints, wrist, center, self.template)

        def ask(row: int) -> Callable[[str, Tensor], Tensor]:
            own, bones, projection = seen[row], skeleton[row], frame.projection[row : row + 1]
            return lambda which, x: model.field(which, own, x[None], bones, projection)[0] / model.config.scale

        return [
            self._reading(crop, joints[row], center[row], frame.rotation[row], ask(row), seen[row])
            for row, crop in enumerate(crops)
        ]


class C2fInitializer(_Compact):
    """C2F-SDF: from a colour picture with a depth camera's map."""

    def __init__(self, device: str = "cpu", hand: HandModel | None = None, model: CompactC2f | None = None) -> None:
        """``model``: default is the compact network that comes with horefine."""
        super().__init__(device, hand)
        self.model: CompactC2f = (model or load_default("c2f_sdf")).to(device)  # type: ignore[assignment]

    @torch.no_grad()
    def read(self, crops: Sequence[Sample]) -> list[Reading]:
        """Joints from the votes of what the depth camera saw, fields about its points.

        Raises:
            InputError: a crop without depth.
        """
        model, side = self.model, self.model.config.size
        depth = depth_maps(crops, model.config.depth_size).to(self.device)
        frame = Frame.of(map_camera(crops, side).matrix.to(self.device), side, model.config.root)
        seen = model.see(pictures(crops, side).to(self.device), extents_of(crops).to(self.device), frame.focal)
        felt = model.feel(seen, depth, frame)
        points = model.semantics(felt, felt.joints[:, 0], felt.center, frame)

        def ask(row: int) -> Callable[[str, Tensor], Tensor]:
            own, known, projection = felt[row], points[row], frame.projection[row : row + 1]
            return lambda which, x: model.field(which, own, known, x[None], projection)[0] / model.config.scale

        return [
            self._reading(crop, felt.joints[row], felt.center[row], frame.rotation[row], ask(row), seen[row])
            for row, crop in enumerate(crops)
        ]
