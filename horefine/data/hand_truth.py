"""Annotated hands in the house's parameters: MANO's fingers from PCA values, left hands with their faulty shape.

DexYCB stores fingers as 45 values in MANO's PCA basis about its mean pose; HO-3D as rotations relative to the flat
hand. Both are poses of MANO. Without a MANO file the embedded hand is fitted to the annotated joints instead, and said
so.

**Left hands.** ``MANO_LEFT.pkl`` has the right hand's shape directions with x not mirrored (smplx issue 48), and
DexYCB's left hands were annotated with it (dex-ycb-toolkit issue 28). In the mirror they are right hands whose shape
moves vertices by ``diag(-1, 1, 1) S beta`` instead of ``S beta``. The nearest shape that a right hand has is found
once, with the wrist kept where it is: linear least squares over all vertices.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from horefine.data.annotation import HandPose, fit_joints
from horefine.errors import AssetError, ConfigError, InputError, suggestion
from horefine.geometry import mirror_rotvec
from horefine.hand import HandModel, load_hand
from horefine.mano import HandData, find_mano, read_mano

__all__ = ["KINDS", "TruthHand", "nearest_shape"]

KINDS = ("auto", "mano", "embedded")
_MIRROR = np.array([-1.0, 1.0, 1.0])
_LEFT_FILES = ("MANO_LEFT.pkl", "MANO_LEFT.npz")
_FITTED = "the true hand is the embedded one fitted to the annotated joints ({:.1f} mm off on the mean): no MANO file"


@dataclass(frozen=True)
class TruthHand:
    """The hand that true poses are of."""

    mano: HandData | None
    """None: the embedded hand, fitted to joints."""
    left: HandData | None = None
    """MANO's left hand, for its PCA basis and mean; without it they are the right one's in the mirror."""

    @staticmethod
    def find(mano_dir: Path | str | None = None, kind: str = "auto") -> TruthHand:
        """The user's MANO files, or the embedded hand.

        Args:
            kind: ``mano`` or ``embedded`` insists on one.

        Raises:
            ConfigError: another ``kind``. AssetError: MANO is asked for and missing or damaged.
        """
        if kind not in KINDS:
            raise ConfigError(f"hand: {kind!r}{suggestion(kind, KINDS)}")
        if kind == "embedded":
            return TruthHand(None)
        try:
            path = find_mano(mano_dir, required=kind == "mano" or mano_dir is not None)
            if path is None:
                return TruthHand(None)
            beside = next((path.parent / name for name in _LEFT_FILES if (path.parent / name).is_file()), None)
            return TruthHand(read_mano(path), None if beside is None else read_mano(beside))
        except (OSError, ValueError) as error:
            raise AssetError(str(error)) from error

    @property
    def name(self) -> str:
        """``mano`` or ``embedded``."""
        return "embedded" if self.mano is None else "mano"

    def model(self) -> HandModel:
        """The hand model that the poses are of."""
        return self._model

    @functools.cached_property
    def _model(self) -> HandModel:
        return load_hand(kind="embedded") if self.mano is None else HandModel.from_data(self.mano, "mano")

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_model"}

    def fingers(self, values: Float[ndarray, "45"], side: str) -> Float[ndarray, "15 3"]:
        """Rotations relative to the flat hand, of the hand as it is, from all 45 PCA values about the mean pose.

        Raises:
            InputError: without MANO, or with a file that has no PCA basis.
        """
        data = self.left if side == "left" and self.left is not None else self.mano
        if data is None or data.components is None:
            raise InputError("PCA values need MANO's own basis ('hands_components'): take the original MANO_RIGHT.pkl")
        rotvec = (values.astype(np.float64) @ data.components).reshape(15, 3) + data.mean_rotvec[1:]
        return rotvec * [1.0, -1.0, -1.0] if side == "left" and self.left is None else rotvec

    def from_pca(
        self,
        values: Float[ndarray, "48"],
        betas: Float[ndarray, "10"],
        transl: Float[ndarray, "3"],
        side: str,
    ) -> HandPose:
        """The pose of 3 + 45 values (wrist's axis-angle, PCA of the fingers) as a right hand; a left one mirrored.

        Raises:
            InputError: as :meth:`fingers`.
        """
        rotvec = torch.from_numpy(np.concatenate([values[None, :3], self.fingers(values[3:], side)]).astype(np.float64))
        if side == "right":
            return _pose(rotvec, betas, transl)
        assert self.mano is not None
        shape, residual = nearest_shape(self.mano, betas)
        wrist = self.mano.regressor[0] @ (self.mano.template + _faulty(self.mano, betas)) + _MIRROR * transl
        root = self.mano.regressor[0] @ (self.mano.template + self.mano.shapedirs @ shape)
        return _pose(mirror_rotvec(rotvec), shape, wrist - root, residual)

    def from_joints(self, joints: Float[ndarray, "21 3"], side: str) -> tuple[HandPose, str]:
        """The embedded hand that shows annotated joints (house order, metres), and what is to be said of it.

        Raises:
            InputError: they show no hand of that side.
        """
        found = fit_joints(joints, side, self.model())
        return found, _FITTED.format(1e3 * found.residual)


def nearest_shape(hand: HandData, betas: Float[ndarray, "10"]) -> tuple[Float[ndarray, "10"], float]:
    """The shape of a right hand nearest to a left one with MANO's fault, in the mirror; and how far it is off.

    Returns:
        The shape values, and the mean distance of the vertices (wrists together), metres.
    """
    offsets = hand.shapedirs - np.einsum("v,vck->ck", hand.regressor[0], hand.shapedirs)
    wanted = (_MIRROR[:, None] * offsets) @ betas
    # a little ridge: directions that the two shape spaces do not share must not blow up
    columns = offsets.reshape(-1, 10)
    ridge = 1e-6 * np.trace(columns.T @ columns) / 10 * np.eye(10)
    shape = np.linalg.solve(columns.T @ columns + ridge, columns.T @ wanted.reshape(-1))
    return shape, float(np.linalg.norm(offsets @ shape - wanted, axis=1).mean())


def _faulty(hand: HandData, betas: Float[ndarray, "10"]) -> Float[ndarray, "V 3"]:
    return _MIRROR * (hand.shapedirs @ betas)


def _pose(rotvec: Any, shape: ndarray, transl: ndarray, residual: float = 0.0) -> HandPose:
    def row(value: ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(value, np.float32))[None]

    return HandPose(rotvec.float()[None], row(shape), row(transl), residual)
