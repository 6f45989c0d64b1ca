"""Predicted contact: which object vertices touch which region of the hand, from the maps and a first pose."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from horefine.data import Sample
from horefine.extractors import load_default
from horefine.extractors.contact_inputs import MAPS, Points, View, even_points, hand_inputs, point_inputs
from horefine.extractors.contact_net import ContactNet, Touch, contact_of
from horefine.extractors.crops import map_camera, mesh_of
from horefine.extractors.initial import HoisdfInitializer
from horefine.extractors.maps import MapExtractor
from horefine.hand import HandModel, load_hand
from horefine.scene import Features, Pose

__all__ = ["ContactExtractor", "predict_contact"]

CHUNK = 4096
"""Vertices that are looked at in one go."""


@torch.no_grad()
def predict_contact(model: ContactNet, pose: Pose, features: Features, hand_model: HandModel) -> Features:
    """The features with the contact that the network expects of B poses.

    Args:
        model: In eval mode, on the features' device.
        pose: Camera frame. Where the hand and object are thought to be; the network has learned not to believe it all.
        features: Camera, mesh and maps; maps that are missing count as unknown.
        hand_model: On the same device.
    """
    mesh = features.object
    view = View.of(pose, features, hand_model)
    hand = hand_inputs(view, hand_model)
    context = point_inputs(view, even_points(mesh, model.config.points), hand_model)
    parts = []
    for places, normals in zip(mesh.vertices.split(CHUNK, 1), mesh.normals.split(CHUNK, 1), strict=True):
        points = point_inputs(view, Points(places, normals), hand_model)
        parts.append(model(points, hand, context))
    touch = Touch(*(torch.cat([getattr(p, f.name) for p in parts], 1) for f in dataclasses.fields(Touch)))
    return dataclasses.replace(features, contact=contact_of(touch, hand_model, mesh.vertex_mask))


class ContactExtractor:
    """Contact by the network that comes with horefine."""

    def __init__(self, device: str = "cpu", hand: HandModel | None = None, model: ContactNet | None = None) -> None:
        """``model``: default is the network that comes with horefine."""
        self.device = device
        self.hand = hand if hand is not None else load_hand(kind="embedded")
        self.model: ContactNet = (model or load_default("contact")).to(device)  # type: ignore[assignment]

    def complete(self, pose: Pose, features: Features) -> Features:
        """The features with contact as of this pose, on the features' device (``refine(..., complete=)``)."""
        device = features.camera.matrix.device
        found = predict_contact(
            self.model, pose.to(self.device), features.to(self.device), self.hand.to(self.device)
        ).contact
        assert found is not None
        moved = {f.name: getattr(found, f.name).to(device) for f in dataclasses.fields(found)}
        return dataclasses.replace(features, contact=dataclasses.replace(found, **moved))

    def extract(self, crops: Sequence[Sample], names: Sequence[str]) -> dict[str, Any]:
        """``{"contact": Contact}`` for B crops, at the regressor's first pose."""
        del names
        pose, _ = HoisdfInitializer(self.device, self.hand).initialize(crops)
        maps: dict[str, Any] = dict(MapExtractor(self.device).extract(crops, MAPS))
        found = self.complete(pose, Features(map_camera(crops), mesh_of(crops), **maps))
        return {"contact": found.contact}
