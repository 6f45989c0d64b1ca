"""The hand of the published C2F-SDF: an axis-angle and 15 numbers in MANO's own basis of poses, to rotations.

The basis comes from the user's MANO file (``hands_mean``, ``hands_components``), never from a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.errors import AssetError
from horefine.mano import HandData, find_mano, read_mano

__all__ = ["HandBasis"]


@dataclass(frozen=True)
class HandBasis:
    """MANO's mean pose and the first of its principal components."""

    mean: Float[Tensor, "45"]
    components: Float[Tensor, "K 45"]

    @staticmethod
    def of(data: HandData, count: int = 15) -> HandBasis:
        """From a hand file's arrays.

        Raises:
            AssetError: it has no basis (the embedded hand has none).
        """
        if data.components is None:
            raise AssetError(
                "C2F-SDF's checkpoints tell fingers in MANO's basis of poses, and this hand file has no "
                "hands_components; give the folder of your MANO_RIGHT.pkl with --mano-dir"
            )
        mean = torch.as_tensor(data.mean_rotvec[1:]).float().flatten()
        return HandBasis(mean, torch.as_tensor(data.components[:count]).float())

    @staticmethod
    def find(folder: Path | str | None = None) -> HandBasis:
        """Of the user's MANO file (``mano.find_mano``).

        Raises:
            AssetError: there is none, it cannot be read, or it has no basis.
        """
        try:
            path = find_mano(folder, required=True)
            assert path is not None
            return HandBasis.of(read_mano(path))
        except (FileNotFoundError, ValueError) as error:
            raise AssetError(str(error)) from None

    def rotvec(self, numbers: Float[Tensor, "B C"]) -> Float[Tensor, "B 48"]:
        """Axis-angles relative to the FLAT hand from the wrist's and the coefficients (``HandNumbers.pose``)."""
        fingers = numbers[:, 3:] @ self.components.to(numbers) + self.mean.to(numbers)
        return torch.cat([numbers[:, :3], fingers], 1)

    def to(self, device: torch.device | str) -> HandBasis:
        """On another device."""
        return HandBasis(self.mean.to(device), self.components.to(device))
