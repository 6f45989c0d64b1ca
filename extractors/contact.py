"""Contact read off a first pose, until a network predicts it from pixels (CPF's PiCR)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from horefine.contact_truth import contact_from_pose
from horefine.data import Sample
from horefine.extractors.crops import mesh_of
from horefine.extractors.initial import HoisdfInitializer
from horefine.geometry import axis_angle_to_matrix
from horefine.hand import HandModel

__all__ = ["ContactExtractor"]


class ContactExtractor:
    """Which object vertices the first hand is near, by CPF's own rule for true poses."""

    def __init__(self, device: str = "cpu", hand: HandModel | None = None) -> None:
        self.initializer = HoisdfInitializer(device, hand)

    @torch.no_grad()
    def extract(self, crops: Sequence[Sample], names: Sequence[str]) -> dict[str, Any]:
        """``{"contact": Contact}`` for B crops."""
        del names
        pose, _ = self.initializer.initialize(crops)
        mesh, hand = mesh_of(crops), self.initializer.hand
        posed = hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl)
        vertices = mesh.vertices @ axis_angle_to_matrix(pose.object_rotvec).mT + pose.object_transl[:, None]
        return {"contact": contact_from_pose(hand, posed.vertices, vertices, mesh.vertex_mask)}
