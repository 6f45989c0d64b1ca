"""BOP's errors of every item (VSD, MSSD, MSPD; Hodan et al. 2020) and the average recall that its challenge prints."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from horefine import metrics as measure
from horefine.evaluate.cases import Case
from horefine.evaluate.predictions import Prediction

__all__ = ["BopErrors", "bop_errors"]

WIDTH = 640
"""Pixels across the image that MSPD's thresholds are meant for."""
_TOLERANCES = 10
NO_DEPTH = "no depth map of the scene: VSD is left out"


@dataclass(frozen=True)
class BopErrors:
    """Of N items; NaN where one failed."""

    vsd: Float[np.ndarray, "N 10"]
    """For each of BOP's tolerances; NaN also where the scene has no depth map."""
    mssd: Float[np.ndarray, "N"]
    """mm."""
    mspd: Float[np.ndarray, "N"]
    """Pixels of an image 640 wide."""
    diameters: Float[np.ndarray, "N"]
    """Of the objects, mm."""
    without_depth: Mapping[str, str]
    """Items whose VSD is not known, and why."""

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """By the names of ``catalogue.BOP``."""
        return {"VSD": self.vsd.mean(1), "MSPD_px": self.mspd}

    def recalls(self) -> dict[str, float]:
        """``AR_VSD``, ``AR_MSSD``, ``AR_MSPD`` and their mean ``AR``, 0 to 1; a failed item is missed at every
        threshold. Where depth maps are missing, only those of MSSD and MSPD."""
        if not len(self.mssd):
            return {}
        vsd, mssd, mspd, sizes = map(torch.from_numpy, (self.vsd, self.mssd, self.mspd, self.diameters))
        found = measure.average_recall(vsd, mssd, mspd, sizes, WIDTH)
        named = {f"AR_{name.upper()}": value for name, value in found.items() if name != "mean"} | {"AR": found["mean"]}
        return {name: named[name] for name in ("AR_MSSD", "AR_MSPD")} if self.without_depth else named


def bop_errors(cases: Sequence[Case], predictions: Sequence[Prediction], failed: Collection[str]) -> BopErrors:
    """Errors of items with a truth; those of an object other than the true one (a reconstruction) are NaN.

    Args:
        cases: With their views (``cases_from(views=True)``): an item without one has only its MSSD.
        failed: Names of items that cannot be measured.
    """
    count = len(cases)
    vsd, mssd, mspd, sizes = np.full((count, _TOLERANCES), np.nan), *(np.full(count, np.nan) for _ in range(3))
    known: dict[int, float] = {}
    without: dict[str, str] = {}
    for place, (case, prediction) in enumerate(zip(cases, predictions, strict=True)):
        mesh = case.mesh
        if mesh is None:
            continue
        if id(mesh) not in known:
            known[id(mesh)] = float(measure.diameter(mesh)[0])
        sizes[place] = known[id(mesh)]
        if case.name not in failed and prediction.mesh is None:
            vsd[place], mssd[place], mspd[place], seen = _errors(case, prediction, known[id(mesh)])
            if not seen:
                without[case.name] = NO_DEPTH
    return BopErrors(vsd, mssd, mspd, sizes, without)


@torch.no_grad()
def _errors(case: Case, prediction: Prediction, size: float) -> tuple[np.ndarray | float, float, float, bool]:
    """VSD, MSSD and MSPD of one item, and whether its scene has a depth map."""
    mesh, truth, pose = case.mesh, case.pose, prediction.pose
    assert mesh is not None and truth is not None and pose is not None
    ours, true = pose.place(mesh.vertices), measure.equivalents(mesh, truth)
    mssd = float(measure.mssd(ours, true)[0])
    view = None if case.view is None else case.view()
    if view is None:
        return np.nan, mssd, np.nan, False
    camera, depth = (view[0].mirrored(), view[1]) if case.left else view
    mspd = float(measure.mspd(ours, true, camera.matrix)[0]) * WIDTH / camera.size[1]
    if depth is None:
        return np.nan, mssd, mspd, False
    seen = (depth.flip(-1) if case.left else depth)[None]
    drawn, right = (measure.object_depth(points, mesh, camera) for points in (ours, truth.place(mesh.vertices)))
    errors = measure.vsd(drawn, right, seen, camera.matrix, torch.tensor([size]))
    return errors[0].numpy(), mssd, mspd, True
