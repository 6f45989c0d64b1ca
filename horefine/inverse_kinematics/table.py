"""A file's joints as a pose: the keys ``joints``, ``joint_order``, ``joint_confidence`` and ``joint_sigma``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from horefine.errors import InputError
from horefine.geometry import mirror_rotvec
from horefine.hand import HandModel
from horefine.inverse_kinematics import joints_to_pose
from horefine.scene import Pose

__all__ = ["pose_from_table"]


def pose_from_table(table: Mapping[str, Any], where: str, hand: HandModel, side: str) -> tuple[Pose, tuple[str, ...]]:
    """The hand that shows the joints of one file (B = 1), and what there is to say of it.

    Args:
        where: the file, for errors.
        side: of the hand; a left one is returned as it is, not mirrored.

    Returns:
        The pose; its object lies between palm and fingertips.

    Raises:
        InputError: what ``joints_to_pose`` refuses; joints that show no hand of that side, or behind the camera.
    """
    order = np.asarray(table.get("joint_order", "house")).tolist()
    confidence, sigma = table.get("joint_confidence"), table.get("joint_sigma")
    try:
        found = joints_to_pose(table["joints"], hand, order=order, side=side, confidence=confidence, sigma=sigma)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if len(found.rotvec) != 1:
        raise InputError(f"{where}: joints: {len(found.rotvec)} hands; expected one, (21, 3)")
    if not found.usable[0]:
        raise InputError(f"{where}: joints: {found.notes[0][0]}")
    if float(found.joints[0, :, 2].min()) <= 0:
        raise InputError(
            f"{where}: joints: they reach behind the camera (depths from {found.joints[0, :, 2].min():.2f} m); if they "
            "are relative to the wrist, add its place in the camera's frame (x right, y down, z forward, metres)"
        )
    pose = found.pose()
    if side == "right":
        return pose, found.notes[0]
    flip = pose.hand_transl.new_tensor([-1.0, 1.0, 1.0])
    turns, shape = mirror_rotvec(pose.hand_rotvec), pose.hand_shape
    return Pose(turns, shape, pose.hand_transl * flip, pose.object_rotvec, pose.object_transl * flip), found.notes[0]
