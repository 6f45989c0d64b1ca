"""From DexYCB's labels to true poses; what a reader must know of a subject's hand is said once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from horefine.data.annotation import HandPose, pose_of
from horefine.data.dexycb_files import Label, Recording, read_betas
from horefine.data.hand_truth import TruthHand, nearest_shape
from horefine.errors import InputError
from horefine.scene import Pose

__all__ = ["LabelTruth"]

log = logging.getLogger(__name__)

_NO_HAND = "no hand is annotated in this frame"
_NO_OBJECT = "the object's pose is not annotated in this frame"
_NO_JOINTS = "no true hand: without MANO it comes from the joints, which are not annotated here"
_FAR = {"right": 0.003, "left": 0.012}
"""Metres between annotated joints and those of the decoded hand, beyond which the decoding is doubted."""


class LabelTruth:
    """The hand that labels are decoded with, and each subject's shape."""

    def __init__(self, root: Path, hand: TruthHand) -> None:
        self.root, self.hand = root, hand
        self._betas: dict[str, Float[ndarray, "10"]] = {}
        self._checked: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_betas": {}}

    def betas(self, recording: Recording) -> Float[ndarray, "10"]:
        """The annotated shape of a recording's hand.

        Raises:
            InputError: its file is missing or damaged.
        """
        if recording.hand not in self._betas:
            self._betas[recording.hand] = read_betas(self.root, recording.hand)
        return self._betas[recording.hand]

    def pose(self, recording: Recording, label: Label) -> tuple[Pose | None, tuple[str, ...]]:
        """The true pose (None where it is not known), and what there is to say of it."""
        rows = label.objects[recording.grasped]
        said = [text for text, absent in ((_NO_HAND, label.hand is None), (_NO_OBJECT, not rows.any())) if absent]
        if label.hand is None or not rows.any():
            return None, tuple(said)
        try:
            if self.hand.mano is not None:
                found = self.hand.from_pca(label.hand[:48], self.betas(recording), label.hand[48:], recording.side)
                self._check(recording, found, label)
            elif label.joints is not None:
                found, text = self.hand.from_joints(label.joints, recording.side)
                said.append(text)
            else:
                return None, (_NO_JOINTS,)
        except InputError as error:
            return None, (f"no true hand: {error}",)
        return pose_of(found, np.concatenate([rows, [[0.0, 0.0, 0.0, 1.0]]]), recording.side), tuple(said)

    @torch.no_grad()
    def _check(self, recording: Recording, found: HandPose, label: Label) -> None:
        """Once for each subject's hand: the decoded one against the annotated joints; left ones' fault is said."""
        if recording.hand in self._checked or label.joints is None:
            return
        self._checked.add(recording.hand)
        left = recording.side == "left"
        if left and self.hand.mano is not None:
            residual = 1e3 * nearest_shape(self.hand.mano, self.betas(recording))[1]
            log.info(
                "%s: annotated with the sign fault of MANO's left shapes: the nearest right shape in the mirror is "
                "taken (%.2f mm off on the mean)", recording.hand, residual,
            )  # fmt: skip
        joints = self.hand.model()(found.rotvec, found.shape, found.transl).joints[0].double().numpy()
        far = float(np.linalg.norm(joints * [-1.0 if left else 1.0, 1.0, 1.0] - label.joints, axis=1).mean())
        if far > _FAR[recording.side]:
            log.warning(
                "%s: the decoded hand is %.1f mm from the annotated joints: is %s the original, with its PCA basis?",
                recording.hand, 1e3 * far, "MANO_LEFT.pkl" if left else "MANO_RIGHT.pkl",
            )  # fmt: skip
