"""What of its annotation an image comes with, as papers assume it at test time (``give=boxes+wrist+keypoints``)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from horefine.data.annotation import box_of
from horefine.data.known import keypoint_box
from horefine.geometry import Box, Camera
from horefine.mesh import Mesh

__all__ = ["GIVE", "given_fields"]

GIVE = ("boxes", "wrist", "keypoints")


def given_fields(
    give: frozenset[str],
    camera: Camera,
    *,
    points: Float[ndarray, "21 2"] | None,
    wrist: Float[ndarray, "3"] | None,
    box: Box | None = None,
    mesh: Mesh | None = None,
    matrix: Float[ndarray, "4 4"] | None = None,
) -> dict[str, Any]:
    """Fields of a :class:`~horefine.data.Sample`: of :data:`GIVE` what is asked for and known.

    Args:
        points: the hand's joints in the picture, house order, pixels.
        wrist: metres, camera frame.
        box: the hand's, where the dataset has one; else that of the points.
        mesh, matrix: the object and its pose, for its box.
    """
    found: dict[str, Any] = {}
    known = None if points is None else torch.from_numpy(np.ascontiguousarray(points, np.float32))
    if "wrist" in give and wrist is not None:
        found["wrist"] = tuple(float(value) for value in wrist)
    if "keypoints" in give and known is not None:
        found["keypoints"] = known
    if "boxes" not in give:
        return found
    if box is not None or known is not None:
        found["hand_box"] = box if box is not None or known is None else keypoint_box(known)
    if mesh is not None and matrix is not None:
        held = mesh.vertices[0].double().numpy() @ matrix[:3, :3].T + matrix[:3, 3]
        found["object_box"] = box_of(held, camera)
    return found
