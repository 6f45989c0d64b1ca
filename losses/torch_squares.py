"""The least-squares forms of ``losses.squares`` without kernels: in torch, on any device, asking it nothing.

:func:`on_any_device` takes a form to its twin, which holds the same numbers and answers the same questions
(``freeze``, ``cost``, ``rows``). A form that is plain torch already is its own twin. What the forms' tables hold was
made when the stage began; there the device is asked how long the lists are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from horefine.losses import torch_rows
from horefine.losses.contact import inside_depth
from horefine.losses.contact_squares import PenetrationSquares, SpringSquares, hand_points, outward
from horefine.losses.forms import DenseRows, Form, Observed, PointRows, Rows, gather, packed_vertices
from horefine.losses.image_squares import (
    GRAZING,
    PairSquares,
    Pixels,
    RenderedSquares,
    drawn_ids,
    see_code,
    see_rendered_depth,
)
from horefine.losses.pairs import named_points
from horefine.losses.photometric_squares import PhotometricSquares
from horefine.losses.prior_squares import COLUMNS, AnglePrior, joint_angle_slopes
from horefine.losses.silhouette_squares import SilhouetteSquares
from horefine.losses.torch_silhouette import TorchSilhouette
from horefine.scene import Scene

__all__ = ["on_any_device"]


def on_any_device(forms: Mapping[str, Form]) -> dict[str, Form]:
    """The twins of forms, not yet frozen."""
    return {name: _TWINS.get(type(form), lambda own: own)(form) for name, form in forms.items()}


# --- correspondences -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TorchPairs:
    """Twin of ``PairSquares``."""

    form: PairSquares

    def freeze(self, scene: Scene) -> TorchPairs:
        return self

    def _see(self, scene: Scene) -> Observed:
        form = self.form
        pairs = form.pairs
        own = named_points(scene.hand.vertices, pairs, 0), scene.place(form.local)
        points = torch.stack([scene.pose.seen(side) for side in own], 1)
        values, slope = torch_rows.see_pairs(
            points, pairs.pixel, pairs.depth, form.matrix, scene.object_center, form.used, form.flat
        )
        point = torch.where(form.used[..., None] > 0, points, 0.0)
        return Observed(values, slope, 0.0 if form.flat else -1.0, point, pairs.vertices, pairs.barycentric)

    def cost(self, scene: Scene) -> Float[Tensor, "B"]:
        form = self.form
        return torch_rows.robust_cost(
            self._see(scene).values, form.used, form.confidence, form.sigma, form.kernel, form.weight
        )

    def rows(self, scene: Scene) -> list[Rows]:
        form = self.form
        return torch_rows.observed_rows(
            scene, self._see(scene), form.used, form.sigma, form.kernel, form.weight, form.confidence
        )


# --- what is rendered ------------------------------------------------------------------------------------------------


def sight(pixels: Pixels, scene: Scene) -> tuple[Int[Tensor, "B 2 N 3"], Float[Tensor, "B 2 N"]]:
    """Corners of the face that each pixel sees at ``scene``, and ``valid``, or 0 for a pixel that sees none."""
    kept = scene.__dict__.setdefault("sight", {})
    if id(pixels.index) not in kept:  # losses on the same pixels see the same faces
        found = torch_rows.sight(drawn_ids(scene), pixels.index, pixels.faces, len(scene.hand_model.faces))
        kept[id(pixels.index)] = *found, pixels.index  # the index stays alive, so that no id is given twice
    corners, drawn, _ = kept[id(pixels.index)]
    return corners, drawn * pixels.valid


def see(
    vertices: Float[Tensor, "B V 3"], root: Float[Tensor, "B"], pixels: Pixels, corners: Tensor, used: Tensor
) -> tuple[Observed, Float[Tensor, "B 2 N"]]:
    """``see_code`` where the pixels have codes, else ``see_rendered_depth``: what is not used is 0."""
    find = see_code if pixels.codes.shape[1] > 1 else see_rendered_depth
    seen, grazing = find(vertices, root, pixels, corners)
    kept = used > 0
    parts = (seen.values, seen.slope, seen.point, seen.barycentric)
    values, slope, point, share = (
        torch.where(kept.view(*kept.shape, *(1,) * (part.dim() - 3)), part, 0.0) for part in parts
    )
    return Observed(values, slope, seen.root, point, corners, share), torch.where(kept, grazing, 0.0)


@dataclass(frozen=True)
class TorchRendered:
    """Twin of ``RenderedSquares``, which holds its numbers."""

    form: RenderedSquares

    def freeze(self, scene: Scene) -> TorchRendered:
        form = self.form
        corners, seen = sight(form.pixels, scene)
        there, grazing = self._see(scene, corners, seen)
        used, fixed = torch_rows.split_by_grazing(
            there.values, form.pixels.valid, seen, grazing, GRAZING, form.pixels.confidence, form.sigma, form.kernel,
            form.weight,
        )  # fmt: skip
        return TorchRendered(replace(form, corners=corners, used=used, fixed=fixed, at=(scene, there)))

    def _observed(self, scene: Scene) -> Observed:
        form = self.form
        if form.at is not None and form.at[0] is scene:
            return form.at[1]
        return self._see(scene, form.corners, form.used)[0]

    def _see(self, scene: Scene, corners: Tensor, used: Tensor) -> tuple[Observed, Tensor]:
        root = scene.object_center[:, 2]
        root = root if self.form.below else torch.zeros_like(root)
        seen, grazing = see(packed_vertices(scene), root, self.form.pixels, corners, used)
        return seen if self.form.below else replace(seen, root=0.0), grazing

    def cost(self, scene: Scene) -> Float[Tensor, "B"]:
        form, values = self.form, self._observed(scene).values
        trust = form.pixels.confidence
        return form.fixed + torch_rows.robust_cost(values, form.used, trust, form.sigma, form.kernel, form.weight)

    def rows(self, scene: Scene) -> list[Rows]:
        form, seen = self.form, self._observed(scene)
        trust = form.pixels.confidence
        return torch_rows.observed_rows(scene, seen, form.used, form.sigma, form.kernel, form.weight, trust)


class TorchPixels(Pixels):
    """Twin of ``Pixels``: its list of what the pixels see is made in torch."""

    def sight(self, scene: Scene, hand_faces: int) -> tuple[Int[Tensor, "B 2 N 3"], Float[Tensor, "B 2 N"]]:
        return sight(self, scene)


class TorchPhotometric(PhotometricSquares):
    """Twin of ``PhotometricSquares``."""

    @staticmethod
    def of(form: PhotometricSquares) -> TorchPhotometric:
        """With the numbers of the form."""
        own = TorchPixels(**_fields(form.pixels))
        return TorchPhotometric(**{**_fields(form), "pixels": own})

    def _look(self, scene: Scene, corners: Tensor, used: Tensor, sloped: bool) -> tuple[Observed, Tensor]:
        blank = replace(self.pixels, target=torch.zeros_like(self.pixels.target))
        return see(packed_vertices(scene), scene.object_center[:, 2], blank, corners, used)

    def rows(self, scene: Scene) -> list[Rows]:
        told, one = self.told(scene), self.scale.new_ones(len(scene.pose), 2)
        return torch_rows.observed_rows(scene, told, self.used, one, self.kernel, self.weight)[1:]


def _fields(of: Any) -> dict[str, Any]:
    return {f.name: getattr(of, f.name) for f in fields(of)}


# --- touch -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TorchSprings:
    """Twin of ``SpringSquares``."""

    form: SpringSquares

    def freeze(self, scene: Scene) -> TorchSprings:
        return self

    def _look(self, scene: Scene) -> tuple[Tensor, PointRows]:
        """Cost, and rows."""
        form, model = self.form, scene.hand_model
        used, sides = form.weight > 0, model.anchor_weights
        point = model.anchor_faces[form.anchor]
        share = torch.cat([1 - sides.sum(1, keepdim=True), sides], 1)[form.anchor]
        end = scene.place(form.local)
        away = (gather(scene.hand.vertices, point) * share[..., None]).sum(2) - end
        away = torch.where(used[..., None], away, 0.0)
        distance = away.norm(dim=-1)
        values = torch.where(used, (distance - form.length) / form.sigma, 0.0)
        square = values.square()
        cost = (form.weight * square / (1 + square)).sum(1, dtype=torch.float64)
        slope = away / (distance.clamp(min=1e-9) * form.sigma)[..., None]
        weight = form.weight / (1 + square).square()
        rows = PointRows(values[..., None], slope[..., None, :], _wrench(scene, end, slope), point, share, weight)
        return cost.to(form.weight.dtype), rows

    def cost(self, scene: Scene) -> Float[Tensor, "B"]:
        return self._look(scene)[0]

    def rows(self, scene: Scene) -> list[Rows]:
        return [self._look(scene)[1]]


def _wrench(scene: Scene, points: Float[Tensor, "B N 3"], slope: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 1 6"]:
    """Of residuals that grow by ``-slope`` per metre that the object moves, at these points."""
    arm = points - scene.object_center[:, None]
    return -torch.cat([slope, torch.linalg.cross(arm, slope)], -1)[..., None, :]


@dataclass(frozen=True)
class TorchPenetration:
    """Twin of ``PenetrationSquares``, on what the loss itself computes."""

    form: PenetrationSquares

    def freeze(self, scene: Scene) -> TorchPenetration:
        return self

    def cost(self, scene: Scene) -> Float[Tensor, "B"]:
        depth, area, _ = inside_depth(scene, self.form.tolerance)
        square = (depth / self.form.sigma).square() * area
        return (self.form.weight * square.sum(1, dtype=torch.float64)).to(depth.dtype)

    def rows(self, scene: Scene) -> list[Rows]:
        form, (point, share) = self.form, hand_points(scene.hand_model)
        depth, area, places = inside_depth(scene, form.tolerance)
        slope = torch.where(depth[..., None] > 0, -outward(scene, places) / form.sigma, 0.0)
        weight = torch.where(depth > 0, form.weight * area, torch.zeros_like(depth))
        batch = len(depth)
        return [
            PointRows(
                (depth / form.sigma)[..., None], slope[..., None, :], _wrench(scene, places, slope),
                point.expand(batch, -1, -1), share.expand(batch, -1, -1), weight,
            )
        ]  # fmt: skip


# --- priors ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TorchAngles:
    """Twin of ``AnglePrior``."""

    form: AnglePrior

    def freeze(self, scene: Scene) -> TorchAngles:
        return self

    def _look(self, scene: Scene) -> tuple[Tensor, Tensor]:
        """Values "B 15 3", and their slopes on the joints' turns."""
        angles, slope = joint_angle_slopes(scene)
        root = self.form.weight**0.5
        return root * (angles - self.form.expected) / self.form.sigma, root * slope / self.form.sigma[..., None]

    def cost(self, scene: Scene) -> Float[Tensor, "B"]:
        values = self._look(scene)[0]
        return values.square().sum((1, 2), dtype=torch.float64).to(values.dtype)

    def rows(self, scene: Scene) -> list[Rows]:
        values, slope = self._look(scene)
        blocks = torch.zeros(len(values), 15, 3, 15, 3, dtype=values.dtype, device=values.device)
        blocks.diagonal(dim1=1, dim2=3).copy_(slope.permute(0, 2, 3, 1))
        middle = blocks.reshape(len(values), 45, 45)
        before, behind = (middle.new_zeros(len(values), 45, count) for count in (6, COLUMNS - 51))
        return [DenseRows(values.flatten(1), torch.cat([before, middle, behind], 2))]


_TWINS = {
    PairSquares: TorchPairs,
    RenderedSquares: TorchRendered,
    SpringSquares: TorchSprings,
    PenetrationSquares: TorchPenetration,
    AnglePrior: TorchAngles,
    SilhouetteSquares: TorchSilhouette,
    PhotometricSquares: TorchPhotometric.of,
}
