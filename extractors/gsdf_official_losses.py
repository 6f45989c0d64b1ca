"""gSDF's published losses: joints and their order in depth (stage one), fields and object centre (stage two)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from horefine.extractors.gsdf_camera import BONES
from horefine.extractors.official_truth import Scene, points_near

__all__ = ["field_losses", "ordinal_loss", "pose_losses", "signed_points"]

VIEWS = 21
"""Directions in which joints are put in order: the camera's, and others at random."""
SHARE = 3
"""One in so many pairs of joints and of bones is compared."""


def pose_losses(
    found: Float[Tensor, "B J 3"], joints: Float[Tensor, "B 21 3"], center: Float[Tensor, "B 3"],
    generator: torch.Generator,
) -> dict[str, Tensor]:  # fmt: skip
    """Stage one: squared errors (metres) of the joints and, of 22 places, of the object's centre; the joints' order."""
    losses = {
        "joints": functional.mse_loss(found[:, :21], joints),
        "order": ordinal_loss(found[:, :21], joints, generator),
    }
    if found.shape[1] > 21:
        losses["object_center"] = functional.mse_loss(found[:, 21], center)
    return losses


def ordinal_loss(
    found: Float[Tensor, "B 21 3"], true: Float[Tensor, "B 21 3"], generator: torch.Generator
) -> Float[Tensor, ""]:
    """How far joints are in the wrong order along random directions, and bones turned the wrong way about each other.

    Of a pair of joints the difference along a direction counts, of a pair of bones (child minus parent) the part of
    their cross product along it: ``log(1 + relu(-sign(true) * found))``, mean over a random third of the pairs and over
    :data:`VIEWS` directions, the camera's among them.
    """
    views = torch.randn(VIEWS, 3, generator=generator)
    views[0] = torch.tensor([0.0, 0.0, 1.0])
    views = functional.normalize(views, dim=-1).to(true)
    ends = torch.tensor(BONES, device=true.device)

    def loss(first: Tensor, second: Tensor, crossed: bool) -> Tensor:
        pair = torch.linalg.cross(first, second) if crossed else first - second
        own, exact = (pair @ views.mT).chunk(2)
        return torch.log1p(torch.relu(-exact.sign() * own)).mean()

    both = torch.cat([found, true])
    bones = both[:, ends[:, 1]] - both[:, ends[:, 0]]
    total = true.new_zeros(())
    for values, crossed in ((both, False), (bones, True)):
        pairs = torch.combinations(torch.arange(values.shape[1]))
        chosen = pairs[torch.randperm(len(pairs), generator=generator)[: len(pairs) // SHARE]].to(true.device)
        total = total + loss(values[:, chosen[:, 0]], values[:, chosen[:, 1]], crossed)
    return total


def field_losses(
    found: dict[str, Float[Tensor, "B N"]], exact: dict[str, Float[Tensor, "B N"]], clamp: float,
    center: Float[Tensor, "B 3"], true_center: Float[Tensor, "B 3"],
) -> dict[str, Tensor]:  # fmt: skip
    """Stage two: halves of the fields' absolute errors (normalised, both clamped) and of the centre's squared (m^2)."""
    losses = {
        f"{which}_field": 0.5 * (value.clamp(-clamp, clamp) - exact[which].clamp(-clamp, clamp)).abs().mean()
        for which, value in found.items()
    }
    return losses | {"object_center": 0.5 * functional.mse_loss(center, true_center)}


def signed_points(which: str, scene: Scene, count: int, generator: torch.Generator) -> Float[Tensor, "B N 3"]:
    """Points about the true surface of the ``hand`` or the ``object``, camera frame: half inside, if there are enough.

    The published files of points hold as many inside as outside, drawn about the surface: here anew each time.
    """
    drawn = points_near(which, scene, 4 * count, 0.0, generator)
    inside = scene.distance(which, drawn) < 0
    # each image's points inside first, mixed with as many outside: ranks among their own side decide
    rank = torch.where(inside, inside.int().cumsum(1), (~inside).int().cumsum(1))
    order = rank.argsort(dim=1, stable=True)[:, :count]
    return drawn.gather(1, order[..., None].expand(-1, -1, 3))
