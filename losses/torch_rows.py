"""What ``row_kernels`` do, in torch: any device, shapes that do not hang on the data.

These are the readable twins of the kernels, and what runs where there are no kernels: on a GPU. Nothing here asks the
device anything, so the host never waits for it. Conventions are the kernels': side 0 is the hand, side 1 the object;
an observation that is not ``used`` has 0 for all its numbers (whatever it is computed from, it may not be finite).
Squares are summed in double precision, as the kernels do.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.losses.forms import Observed, PointRows, Rows
from horefine.losses.robust import Residuals, trusted
from horefine.scene import Scene, focal_stretch

__all__ = ["list_pixels", "observed_rows", "robust_cost", "see_pairs", "sight", "split_by_grazing"]


def robust_cost(
    values: Float[Tensor, "B 2 N K"],
    used: Float[Tensor, "B 2 N"],
    confidence: Float[Tensor, "B 2 N"] | None,
    sigma: Float[Tensor, "B 2"],
    kernel: float,
    weight: float,
    unseen: Float[Tensor, "B 2 N"] | None = None,
) -> Float[Tensor, "B"]:
    """``weight`` times ``robust.geman_mcclure`` of the residuals that ``robust.trusted`` makes of these.

    ``unseen``: weights of observations that cost what an infinitely bad residual would.
    """
    residuals = trusted(values, used, torch.zeros_like(used) if unseen is None else unseen, confidence)
    return (weight * _geman_mcclure(residuals, sigma, kernel)).to(values.dtype)


def _geman_mcclure(residuals: Residuals, sigma: Float[Tensor, "B 2"], kernel: float) -> Float[Tensor, "B"]:
    """As ``robust.geman_mcclure``, its sums in double."""
    square = (residuals.values / sigma[..., None, None]).square().sum(-1)
    if kernel <= 0:
        return (square * residuals.used).sum((1, 2), dtype=torch.float64)
    bound = kernel * kernel
    cost = square / (1 + square / bound) * residuals.used
    return cost.sum((1, 2), dtype=torch.float64) + bound * residuals.unseen.sum(1, dtype=torch.float64)


def split_by_grazing(
    values: Float[Tensor, "B 2 N K"],
    valid: Float[Tensor, "B 2 N"],
    seen: Float[Tensor, "B 2 N"],
    grazing: Float[Tensor, "B 2 N"],
    least: float,
    confidence: Float[Tensor, "B 2 N"] | None,
    sigma: Float[Tensor, "B 2"],
    kernel: float,
    weight: float,
) -> tuple[Float[Tensor, "B 2 N"], Float[Tensor, "B"]]:
    """``used``: the pixels that see a face not edge-on; and what the others cost.

    ``seen`` is ``valid``, or 0 for a pixel that sees nothing; ``least`` is the cosine of what is edge-on.
    """
    nothing = torch.zeros_like(valid)
    sees = (valid > 0) & (seen > 0)
    plain = sees & (grazing > least)
    edge_on = torch.where(sees & ~plain, valid, nothing)
    blind = torch.where((valid > 0) & ~sees, valid, nothing)
    values = torch.where(edge_on[..., None] > 0, values, 0.0)
    fixed = robust_cost(values, edge_on, confidence, sigma, kernel, weight, blind)
    return torch.where(plain, valid, nothing), fixed


def see_pairs(
    points: Float[Tensor, "B 2 N 3"],
    pixel: Float[Tensor, "B 2 N 2"],
    depth: Float[Tensor, "B 2 N"],
    matrix: Float[Tensor, "B 3 3"],
    center: Float[Tensor, "B 3"],
    used: Float[Tensor, "B 2 N"],
    flat: bool,
) -> tuple[Float[Tensor, "B 2 N K"], Float[Tensor, "B 2 N K 3"]]:
    """Residuals and slopes of correspondences, whose surface ``points`` are where the given camera sees them.

    ``flat``: K = 2, the projected point minus its ``pixel``; else K = 1, its depth below the object's centre minus
    ``depth``.
    """
    kept = used[..., None] > 0
    x, y, z = points.unbind(-1)
    if not flat:
        values = (z - center[:, 2, None, None] - depth)[..., None]
        slope = torch.zeros_like(points[..., None, :])
        slope[..., 2] = kept.to(slope.dtype)
        return torch.where(kept, values, 0.0), slope
    fx, fy, cx, cy = (matrix[:, i, j, None, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    u, v, none = fx * x / z, fy * y / z, torch.zeros_like(z)
    values = torch.stack([u + cx, v + cy], -1) - pixel
    slope = torch.stack([torch.stack([fx / z, none, -u / z], -1), torch.stack([none, fy / z, -v / z], -1)], -2)
    return torch.where(kept, values, 0.0), torch.where(kept[..., None], slope, 0.0)


def sight(
    ids: Int[Tensor, "B 2 P"], index: Int[Tensor, "B 2 N"], faces: Int[Tensor, "B F 3"], hand_faces: int
) -> tuple[Int[Tensor, "B 2 N 3"], Int[Tensor, "B 2 N"]]:
    """Corners of the face that each pixel of ``index`` sees, and 1 for it; where there is no face both are 0.

    ``ids`` are those of the renderer, ``faces`` the hand's (``hand_faces`` of them) and the object's.
    """
    found = ids.long().gather(2, index)
    drawn = found >= 0
    first = torch.stack([torch.zeros_like(found[:, 0]), torch.full_like(found[:, 0], hand_faces)], 1)
    face = (found.clamp(min=0) + first).flatten(1)[..., None].expand(-1, -1, 3)
    corners = faces.gather(1, face).unflatten(1, found.shape[1:])
    return torch.where(drawn[..., None], corners, 0), drawn.long()


def list_pixels(shown: Float[Tensor, "B 2 P"], count: int) -> tuple[Int[Tensor, "B 2 N"], Float[Tensor, "B 2 N"]]:
    """Places of the first ``count`` pixels whose ``shown`` is above 0, in reading order, and 1 for each; then 0."""
    hidden = (shown <= 0).to(torch.int8)
    order = hidden.argsort(dim=2, stable=True)[..., :count]
    valid = hidden.gather(2, order) == 0
    return torch.where(valid, order, 0), valid.to(shown.dtype)


def observed_rows(
    scene: Scene,
    seen: Observed,
    used: Float[Tensor, "B 2 N"],
    sigma: Float[Tensor, "B 2"],
    kernel: float,
    weight: float,
    confidence: Float[Tensor, "B 2 N"] | None = None,
) -> list[Rows]:
    """Rows of the hand's and of the object's observations (``forms.observed_rows``, ``row_kernels.write_rows``)."""
    inverse, none = 1 / sigma[..., None, None], torch.zeros_like(used)
    values = seen.values * inverse
    square = values.square().sum(-1) * (1.0 if confidence is None else confidence)
    part = 1 + square / (kernel * kernel) if kernel > 0 else torch.ones_like(square)
    trust = used if confidence is None else used * confidence
    every = torch.where(used > 0, weight * trust / part.square(), none)
    slope, point = seen.slope * inverse[..., None], seen.point
    if scene.pose.focal_factor is not None:
        stretch = focal_stretch(scene.pose.focal_factor)[:, None, None]
        slope, point = slope * stretch[:, :, :, None], point / stretch
    deeper = seen.root * inverse * torch.where(used > 0, 1.0, none)[..., None].expand_as(values)
    direct = torch.cat([torch.zeros_like(slope[..., :2]), deeper[..., None]], -1)
    arm = (point - scene.object_center[:, None, None])[..., None, :]
    turned = torch.linalg.cross(arm.expand_as(slope), slope)
    hand = torch.cat([direct[:, 0], torch.zeros_like(slope[:, 0])], -1)
    thing = torch.cat([slope[:, 1] + direct[:, 1], turned[:, 1]], -1)
    return [
        PointRows(values[:, 0], slope[:, 0], hand, seen.corners[:, 0], seen.barycentric[:, 0], every[:, 0]),
        PointRows(
            values[:, 1], torch.zeros_like(slope[:, 1]), thing, seen.corners[:, 1, :, :0],
            seen.barycentric[:, 1, :, :0], every[:, 1],
        ),
    ]  # fmt: skip
