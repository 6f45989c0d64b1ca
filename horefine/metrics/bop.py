"""BOP's errors of an object's pose (Hodan et al. 2018, 2020), and the average recall that its challenge prints.

ADD, ADI and MSSD are :func:`add`, :func:`add_s` and :func:`mssd`; BOP's te is :func:`oce` of the translations. Depth is
in metres, as everywhere; errors and diameters in millimetres. A pixel's centre has whole coordinates, in BOP as here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist
from torch import Tensor

from horefine.geometry import Camera, matrix_to_axis_angle, project
from horefine.mesh import Mesh
from horefine.metrics.units import MILLIMETRES, as_numpy, finite
from horefine.render import Topology, render

__all__ = ["average_recall", "diameter", "mspd", "object_depth", "projection_error", "rotation_error", "vsd"]

FRACTIONS = tuple(np.arange(0.05, 0.51, 0.05).tolist())
"""Tolerances of VSD and thresholds of VSD and MSSD (in diameters)."""
PIXELS = tuple(np.arange(5, 51, 5).tolist())
"""Thresholds of MSPD, in an image 640 pixels wide."""
COSTS = ("step", "tlinear")


def rotation_error(predicted: Float[Tensor, "B 3 3"], true: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B"]:
    """re: angle between two rotations. Degrees (Hodan et al. 2016)."""
    return torch.rad2deg(matrix_to_axis_angle(predicted @ true.mT).norm(dim=-1))


def projection_error(
    predicted: Float[Tensor, "B V 3"],
    true: Float[Tensor, "B V 3"],
    matrix: Float[Tensor, "B 3 3"],
    mask: Bool[Tensor, "B V"] | None = None,
) -> Float[Tensor, "B"]:
    """proj: mean distance of projected model points (Brachmann et al. 2016). Pixels."""
    distance = (project(predicted, matrix) - project(true, matrix)).norm(dim=-1)
    return distance.mean(-1) if mask is None else (distance * mask).sum(-1) / mask.sum(-1)


def mspd(
    predicted: Float[Tensor, "B V 3"],
    equivalents: Float[Tensor, "B S V 3"],
    matrix: Float[Tensor, "B 3 3"],
    mask: Bool[Tensor, "B V"] | None = None,
) -> Float[Tensor, "B"]:
    """MSPD: largest distance of projected points, over the true symmetric pose for which it is smallest. Pixels.

    BOP (Hodan et al. 2020). ``equivalents``: of :func:`horefine.metrics.equivalents`.
    """
    distance = (project(predicted, matrix)[:, None] - project(equivalents, matrix)).norm(dim=-1)
    distance = distance if mask is None else distance.masked_fill(~mask[:, None], 0.0)
    return distance.amax(-1).amin(-1)


def diameter(mesh: Mesh) -> Float[Tensor, "B"]:
    """Largest distance of two vertices of each object, as in BOP's ``models_info.json``. mm."""
    found = []
    for k in range(len(mesh)):
        points = as_numpy(mesh.trimmed(k)[0])
        try:
            points = points[ConvexHull(points).vertices]
        except QhullError:  # flat: then all of its points
            points = np.unique(points, axis=0)
        found.append(pdist(points).max(initial=0.0))
    return torch.tensor(np.asarray(found) * MILLIMETRES)


def object_depth(vertices: Float[Tensor, "B V 3"], mesh: Mesh, camera: Camera) -> Float[Tensor, "B H W"]:
    """Depth (metres, 0 where empty) of the posed objects, each rendered alone by the CPU renderer, for :func:`vsd`.

    ``vertices``: of ``mesh``, camera frame. NaN everywhere for an object whose vertices are not finite.
    """
    usable = finite(vertices)
    posed = vertices.masked_fill(~usable[:, None, None], 0.0).cpu().float()
    topology = Topology.pack([(vertices.shape[1], faces) for faces in mesh.faces.cpu()])
    depth = render(posed.flatten(0, 1), topology, camera.matrix.cpu().float(), camera.size, want={"depth"})[1]
    assert depth is not None  # asked for
    return depth.masked_fill(~usable[:, None, None].cpu(), torch.nan).to(vertices)


def vsd(
    predicted: Float[Tensor, "B H W"],
    true: Float[Tensor, "B H W"],
    observed: Float[Tensor, "B H W"],
    matrix: Float[Tensor, "B 3 3"],
    diameters: Float[Tensor, "B"],
    *,
    taus: Sequence[float] = FRACTIONS,
    delta: float = 15.0,
    cost: str = "step",
) -> Float[Tensor, "B T"]:
    """VSD: share of the visible surface that is misplaced, for each tolerance (Hodan et al. 2018, BOP 2019). 0 to 1.

    A pixel of a rendered object is visible where it is at most ``delta`` mm behind the observed surface, or nothing was
    observed; the prediction's also wherever the true one is visible. Where both are, a pixel costs 1 when their
    distances to the camera differ by tau diameters or more; where one is, always. 1 when neither is visible. DexYCB's
    toolkit has delta 15 mm and these ten tolerances.

    Args:
        predicted: rendered depth (metres, 0: empty) of the predicted pose (:func:`object_depth`).
        true: of the true pose.
        observed: depth of the scene, 0 where unknown; all 0 without a depth camera.
        matrix: intrinsics.
        diameters: mm (:func:`diameter`).
        taus: tolerances in diameters.
        delta: mm.
        cost: "step", or "tlinear": differences up to tau cost linearly (Hodan et al. 2016).

    Returns:
        Errors of each item, one column for each tau; NaN for an item that is not finite.

    Raises:
        ValueError: an unknown cost.
    """
    if cost not in COSTS:
        raise ValueError(f"cost: {cost!r} is none of {', '.join(COSTS)}")
    usable = finite(predicted, true, observed)
    ours, theirs, scene = (_distances(depth, matrix) for depth in (predicted, true, observed))
    visible = _in_front(theirs, scene, delta)
    visible_ours = _in_front(ours, scene, delta) | (visible & (ours > 0))
    both, either = visible & visible_ours, (visible | visible_ours).sum((1, 2))
    offset = (theirs - ours).abs() / diameters.to(ours)[:, None, None]
    errors = []
    for tau in taus:
        costs = (offset >= tau).double() if cost == "step" else (offset / tau).clamp(max=1.0)
        lost = (costs * both).sum((1, 2)) + either - both.sum((1, 2))
        errors.append(torch.where(either > 0, lost / either.clamp(min=1), 1.0))
    return torch.stack(errors, 1).masked_fill(~usable[:, None], torch.nan)


def average_recall(
    vsd: Float[Tensor, "N T"],
    mssd: Float[Tensor, "N"],
    mspd: Float[Tensor, "N"],
    diameters: Float[Tensor, "N"],
    width: int,
) -> dict[str, float]:
    """AR of BOP's challenge (2019 on): the share of N targets under each threshold, averaged. 0 to 1.

    ``vsd``: over ten tolerances and thresholds 0.05 to 0.5; ``mssd``: 0.05 to 0.5 diameters; ``mspd``: 5 to 50 pixels
    in an image of ``width`` 640; ``mean``: of the three. Strictly under counts; NaN, a target without a pose, does not.

    One pose for each target: with several instances in one image, match them first, in order of their scores.

    Raises:
        ValueError: no targets.
    """
    if not len(mssd):
        raise ValueError("average_recall: no targets")
    recalls = {
        "vsd": _recall(vsd, FRACTIONS),
        "mssd": _recall(mssd / diameters.to(mssd), FRACTIONS),
        "mspd": _recall(mspd * (640 / width), PIXELS),
    }
    return {**recalls, "mean": sum(recalls.values()) / len(recalls)}


def _recall(errors: Tensor, thresholds: Sequence[float]) -> float:
    return float(np.mean([float((errors < threshold).double().mean()) for threshold in thresholds]))


def _distances(depth: Tensor, matrix: Tensor) -> Tensor:
    """Depth along z (metres) to distance from the camera's centre (mm), in double precision."""
    height, width = depth.shape[1:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([columns, rows], -1).to(depth.device).double()
    focal, centre = torch.stack([matrix[:, 0, 0], matrix[:, 1, 1]], -1).double(), matrix[:, :2, 2].double()
    slope = (pixels - centre[:, None, None]) / focal[:, None, None]
    return depth.double() * ((slope**2).sum(-1) + 1).sqrt() * MILLIMETRES


def _in_front(model: Tensor, scene: Tensor, delta: float) -> Tensor:
    """Where the model can be seen; a missing observation hides nothing (BOP 2019)."""
    behind = model.float() - scene.float()  # in single precision, as BOP compares them
    return ((behind <= delta) | (scene == 0)) & (model > 0)
