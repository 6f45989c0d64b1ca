"""The object's colours as squares: between two freezes a pixel keeps its face and the photograph its light."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.losses.appearance import DARK, LIGHT_WEIGHT, Appearance, log_color
from horefine.losses.forms import Observed, Rows, observed_rows, packed_vertices
from horefine.losses.image_squares import GRAZING, Pixels, see
from horefine.losses.robust import Residuals, geman_mcclure
from horefine.scene import Scene

__all__ = ["PhotometricSquares", "photometric_squares"]


@dataclass(frozen=True)
class PhotometricSquares:
    """``photometric``: three residuals for each pixel that shows the object."""

    pixels: Pixels
    """``codes`` are the linear albedo of the packed vertices, ``target`` the photograph's log colour."""
    scale: Float[Tensor, "3"]
    """One over the sigmas of the channels."""
    light: float
    kernel: float
    weight: float
    corners: Tensor = field(default_factory=lambda: torch.empty(0))
    used: Tensor = field(default_factory=lambda: torch.empty(0))
    offset: Tensor = field(default_factory=lambda: torch.empty(0))
    """Of the light, "B 3"."""
    fixed: Tensor = field(default_factory=lambda: torch.empty(0))
    """Cost of the light and of the pixels whose slope says nothing: it stays as it is for a step."""

    def freeze(self, scene: Scene) -> PhotometricSquares:
        corners, seen = self.pixels.sight(scene, len(scene.hand_model.faces))
        black, grazing = self._look(scene, corners, seen, False)
        plain = (grazing > GRAZING).to(seen.dtype)
        count = seen[:, 1].sum(1)
        own = _log(black.values[:, 1])
        offset = ((self.pixels.target[:, 1] - own) * seen[:, 1, :, None]).sum(1) / count.clamp_min(1.0)[:, None]
        found = replace(self, corners=corners, used=seen * plain, offset=offset)
        unseen = (self.pixels.valid - seen).sum(2)
        values, one = found._residuals(black.values), scene.pose.hand_transl.new_ones(())
        fixed = geman_mcclure(Residuals(values, seen * (1 - plain), unseen), one.expand(len(count), 2), self.kernel)
        light = LIGHT_WEIGHT * count * offset[:, :2].square().sum(1) / self.light**2
        return replace(found, fixed=self.weight * (fixed + light))

    def _look(self, scene: Scene, corners: Tensor, used: Tensor, sloped: bool) -> tuple[Observed, Tensor]:
        """Albedo at the pixels, and its slopes."""
        blank = replace(self.pixels, target=torch.zeros_like(self.pixels.target))
        return see(packed_vertices(scene), scene.object_center[:, 2], blank, corners, used, sloped)

    def _residuals(self, albedo: Float[Tensor, "B 2 N 3"]) -> Float[Tensor, "B 2 N 3"]:
        return (_log(albedo) + self.offset[:, None, None] - self.pixels.target) * self.scale

    def cost(self, scene: Scene) -> Float[Tensor, "B"]:
        values = self._residuals(self._look(scene, self.corners, self.used, False)[0].values)
        residuals = Residuals(values, self.used, torch.zeros_like(self.used[..., 0]))
        return self.fixed + self.weight * geman_mcclure(residuals, 1.0, self.kernel)

    def told(self, scene: Scene) -> Observed:
        """The residuals and their slopes: how ``appearance.log_color`` changes with the albedo."""
        seen = self._look(scene, self.corners, self.used, True)[0]
        per_log = seen.slope / (seen.values.clamp_min(0.0) + DARK)[..., None]
        mean = per_log.mean(-2, keepdim=True)
        slope = torch.cat([per_log[..., 0:1, :] - mean, per_log[..., 2:3, :] - mean, mean], -2) * self.scale[:, None]
        return replace(seen, values=self._residuals(seen.values), slope=slope)

    def rows(self, scene: Scene) -> list[Rows]:
        told, one = self.told(scene), self.scale.new_ones(len(scene.pose), 2)
        return observed_rows(scene, told, self.used, one, self.kernel, self.weight)[1:]  # the object's alone


def _log(albedo: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    return log_color(albedo.mT[..., None])[..., 0].mT


def photometric_squares(
    scene: Scene, weight: float, *, appearance: Appearance, chroma: float, luminance: float, light: float,
    kernel: float, **_: Any,
) -> PhotometricSquares:  # fmt: skip
    """``losses.appearance.photometric`` as squares."""
    mesh = scene.features.object
    blank = mesh.albedo.new_zeros(len(mesh.albedo), len(scene.hand_model.template), 3)
    seen = torch.stack([torch.zeros_like(appearance.inside), appearance.inside], 1)
    maps = appearance.target[:, None].expand(-1, 2, -1, -1, -1)
    pixels = Pixels.chosen(scene, seen, maps, torch.cat([blank, mesh.albedo], 1))
    scale = 1 / mesh.albedo.new_tensor([chroma, chroma, luminance])
    return PhotometricSquares(pixels, scale, light, kernel, weight)
