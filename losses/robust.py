"""Our own image objective: residuals in metres and pixels, divided by their own spread, under a robust kernel.

Why not the paper's losses alone (``benchmarks/refine.py`` compares the two recipes):

* Reprojecting the surface point that a *noisy code* names (any nearest neighbour in code space) shrinks the apparent
  size of the thing, so it is pushed away from the camera: a bias of ``sigma^2 / var(code)``. Comparing the *rendered*
  code with the map puts the noise on the dependent variable, where it averages out.
* Correspondences reach further than pictures, so they are the way in: first they alone, then everything.
* Weights are sigmas. ``sigma: auto`` is 1.48 times the median absolute residual of the image, found when a stage
  begins; priors in standard deviations then balance by themselves, whatever the noise of the maps.
* A Geman-McClure kernel: a map pixel that belongs to something else pulls on nothing.
* Where the maps come with a confidence w, a residual's own sigma is ``sigma / sqrt(w)``: sigma is that of a pixel that
  is trusted fully, given or (``auto``) found from the residuals times ``sqrt(w)``, so that only the confidences'
  ratios count then. Kernel and ``repeats`` see the same scaled residuals. A pixel of confidence 0 is left out.
  ``confidence: false`` switches this off.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.geometry import project
from horefine.losses.masks import visible
from horefine.losses.pairs import SurfacePairs, named_points
from horefine.scene import Scene

__all__ = ["rendered_code", "rendered_depth", "silhouette", "surface_depth", "surface_reprojection"]

SIDES = ("hand", "object")


@dataclass(frozen=True)
class Residuals:
    """What a robust loss is made of, for hand (0) and object (1)."""

    values: Float[Tensor, "B 2 N K"]
    """K numbers for each of N observations."""
    used: Float[Tensor, "B 2 N"]
    """Weight of each observation; 0 leaves it out."""
    unseen: Float[Tensor, "B 2"]
    """Observations that the model does not answer at all; each costs what an infinitely bad residual would."""

    @functools.cached_property
    def middle(self) -> Float[Tensor, "B 2"]:
        """Median absolute residual of hand and of object in each image; 0 where there are none."""
        absolute = self.values.abs()
        used = (self.used > 0)[..., None].expand_as(absolute)
        absolute = torch.where(used, absolute, torch.nan).flatten(2)
        return absolute.nanmedian(2).values.nan_to_num(0.0)


def mad(residuals: Residuals, floor: float) -> Float[Tensor, "B 2"]:
    """1.48 times the median absolute residual of hand and of object in each image, never below ``floor``.

    1.48 makes it the standard deviation for normal noise (Rousseeuw and Croux 1993).
    """
    return (1.4826 * residuals.middle).clamp_min(floor)


def geman_mcclure(residuals: Residuals, sigma: float | Float[Tensor, "B 2"], kernel: float) -> Float[Tensor, "B"]:
    """Sum over observations of ``q / (1 + q / kernel^2)`` with ``q = |r / sigma|^2`` (Geman and McClure 1985).

    Close to the squared residual below ``kernel`` sigmas, flat beyond; ``kernel`` 0 gives plain squares.
    """
    if isinstance(sigma, Tensor):
        sigma = sigma[..., None, None]
    square = (residuals.values / sigma).square().sum(-1)
    if kernel <= 0:
        return (square * residuals.used).sum((1, 2))
    bound = kernel * kernel
    cost = square / (1 + square / bound)
    return (cost * residuals.used).sum((1, 2)) + bound * residuals.unseen.sum(1)


def trusted(
    values: Float[Tensor, "B 2 N K"],
    used: Float[Tensor, "B 2 N"],
    unseen: Float[Tensor, "B 2 N"],
    confidence: Float[Tensor, "B 2 N"] | None,
) -> Residuals:
    """Residuals in units of each pixel's own accuracy: times the root of its confidence, left out where that is 0.

    ``used`` and ``unseen``: 1 for the observations that the model answers, and for those that it does not.
    """
    if confidence is None:
        return Residuals(values, used, unseen.sum(2))
    known = (confidence > 0).to(used.dtype)
    return Residuals(values * confidence.sqrt()[..., None], used * known, (unseen * known).sum(2))


def both(
    hand: Float[Tensor, "B H W"] | None, thing: Float[Tensor, "B H W"] | None, wanted: bool = True
) -> Float[Tensor, "B 2 H W"] | None:
    """Confidences of hand and object; 1 where only one of them is known, None where neither is (or is wanted)."""
    if not wanted or (hand is None and thing is None):
        return None
    known = hand if hand is not None else thing
    assert known is not None
    return torch.stack([torch.ones_like(known) if c is None else c for c in (hand, thing)], 1)


def _kept(scene: Scene, residuals: Callable[..., Residuals], given: Mapping[str, object]) -> Residuals:
    """The residuals of a loss at a scene, kept with the scene for whoever asks for them next."""
    options = ("sigma", "kernel", "inflation", "repeats")
    wanted = {name: value for name, value in given.items() if name not in options}
    key = (residuals, *((name, id(value)) for name, value in wanted.items()))
    kept = scene.__dict__.setdefault("residuals", {})
    if key not in kept:
        kept[key] = residuals(scene, **wanted), wanted  # the inputs stay alive, so that no id is given twice
    return kept[key][0]


def measured(residuals: Callable[..., Residuals], floor: float) -> Callable[[Callable], Callable]:
    """Gives a loss its ``spread``: what ``sigma: auto`` stands for, found by the objective when a stage begins."""

    def decorate(loss: Callable) -> Callable:
        def spread(scene: Scene, *, inflation: float = 1.0, **given: object) -> Float[Tensor, "B 2"]:
            return mad(_kept(scene, residuals, given), floor) * inflation

        loss.spread = spread  # type: ignore[attr-defined]
        return loss

    return decorate


def mapped(residuals: Callable[..., Residuals], floor: float) -> Callable[[Callable], Callable]:
    """Gives a loss on whole maps its ``repeats``: what ``repeats: auto`` stands for, found when a stage begins."""

    def decorate(loss: Callable) -> Callable:
        def repeats(scene: Scene, **given: object) -> Float[Tensor, "B 2"]:
            return count_repeats(_kept(scene, residuals, given), scene.features.camera.size, floor)

        loss.repeats = repeats  # type: ignore[attr-defined]
        return loss

    return decorate


def count_repeats(residuals: Residuals, size: tuple[int, int], floor: float, reach: int = 8) -> Float[Tensor, "B 2"]:
    """How many pixels of a map tell the same: the sum of the residuals' autocorrelation over lags up to ``reach``.

    The variance of a mean of correlated numbers is that of independent ones times this (Bartlett 1946; his taper
    here too). Residuals are clipped at three sigmas, and what is below ``floor`` counts as independent. At least 1.
    """
    bound = 3 * mad(residuals, floor)[..., None, None]
    used = (residuals.used > 0).to(residuals.values.dtype)
    clipped = torch.minimum(torch.maximum(residuals.values, -bound), bound) * used[..., None]
    maps = clipped.mT.unflatten(-1, size)
    padded = (size[0] + reach, size[1] + reach)
    power = torch.fft.rfft2(maps, s=padded).abs().square().sum(2)
    lags = torch.fft.irfft2(power, s=padded)
    span = torch.arange(-reach, reach + 1, device=lags.device)
    distance = (span[:, None].square() + span.square()).sqrt()
    taper = (1 - distance / (reach + 1)).clamp(min=0)
    near = lags[..., span[:, None] % padded[0], span % padded[1]] * taper
    alone = lags[..., 0, 0]
    noise = used.sum(2) * residuals.values.shape[-1] * floor**2
    return (1 + (near.sum((2, 3)) - alone) / (alone + noise).clamp(min=1e-30)).clamp(min=1.0)


def _thinned(residuals: Residuals, repeats: str | float | Tensor, size: tuple[int, int], floor: float) -> Residuals:
    """Residuals whose weight is divided by how often they repeat one another."""
    if isinstance(repeats, str):
        repeats = count_repeats(residuals, size, floor).detach()
    if isinstance(repeats, Tensor):
        return Residuals(residuals.values, residuals.used / repeats[..., None], residuals.unseen / repeats)
    return Residuals(residuals.values, residuals.used / repeats, residuals.unseen / repeats)


def _sigma(sigma: str | float | Tensor, residuals: Residuals, floor: float, inflation: float) -> float | Tensor:
    """The given sigma, or (for a call outside an objective) the spread of these very residuals."""
    return mad(residuals, floor).detach() * inflation if isinstance(sigma, str) else sigma


def _code_residuals(
    scene: Scene,
    hand_mask: Float[Tensor, "B H W"],
    object_mask: Float[Tensor, "B H W"],
    hand_coords: Float[Tensor, "B 3 H W"],
    object_coords: Float[Tensor, "B 3 H W"],
    hand_confidence: Float[Tensor, "B H W"] | None = None,
    object_confidence: Float[Tensor, "B H W"] | None = None,
    *,
    confidence: bool = True,
) -> Residuals:
    render, seen = scene.render, visible(hand_mask, object_mask)
    scale = scene.features.object.scale
    scale = torch.stack([torch.full_like(scale, scene.hand_model.code_scale), scale], 1)
    target = torch.stack([hand_coords, object_coords], 1)
    values = (render.coords - target) * scale[:, :, None, None, None]
    drawn = (render.ids >= 0).to(values.dtype)
    trust = both(hand_confidence, object_confidence, confidence)
    trust = None if trust is None else trust.flatten(2)
    return trusted(values.flatten(3).mT, (seen * drawn).flatten(2), (seen * (1 - drawn)).flatten(2), trust)


@mapped(_code_residuals, floor=1e-4)
@measured(_code_residuals, floor=1e-4)
def rendered_code(
    scene: Scene,
    hand_mask: Float[Tensor, "B H W"],
    object_mask: Float[Tensor, "B H W"],
    hand_coords: Float[Tensor, "B 3 H W"],
    object_coords: Float[Tensor, "B 3 H W"],
    hand_confidence: Float[Tensor, "B H W"] | None = None,
    object_confidence: Float[Tensor, "B H W"] | None = None,
    *,
    sigma: str | float | Tensor = "auto",
    kernel: float = 3.0,
    inflation: float = 1.0,
    repeats: str | float | Tensor = 1.0,
    confidence: bool = True,
) -> Float[Tensor, "B"]:
    """The canonical code that the posed surface shows at a pixel equals the map's, in metres on the surface.

    Ours (see the module). ``sigma`` in metres; ``inflation`` widens an automatic one. Noise of neighbouring pixels is
    alike in network maps, so a sum over pixels counts the same evidence several times: it is divided by ``repeats``
    (``auto``: how often is read off the residuals, :func:`count_repeats`).
    """
    residuals = _code_residuals(
        scene, hand_mask, object_mask, hand_coords, object_coords, hand_confidence, object_confidence,
        confidence=confidence,
    )  # fmt: skip
    spread = _sigma(sigma, residuals, 1e-4, inflation)
    return geman_mcclure(_thinned(residuals, repeats, scene.features.camera.size, 1e-4), spread, kernel)


def _depth_residuals(
    scene: Scene,
    hand_mask: Float[Tensor, "B H W"],
    object_mask: Float[Tensor, "B H W"],
    depth: Float[Tensor, "B H W"],
    depth_confidence: Float[Tensor, "B H W"] | None = None,
    *,
    confidence: bool = True,
) -> Residuals:
    render, seen = scene.render, visible(hand_mask, object_mask)
    root = scene.object_center[:, 2]
    values = render.depth - root[:, None, None, None] - depth[:, None]
    drawn = (render.ids >= 0).to(values.dtype)
    trust = both(depth_confidence, depth_confidence, confidence)
    trust = None if trust is None else trust.flatten(2)
    return trusted(values.flatten(2)[..., None], (seen * drawn).flatten(2), (seen * (1 - drawn)).flatten(2), trust)


@mapped(_depth_residuals, floor=1e-4)
@measured(_depth_residuals, floor=1e-4)
def rendered_depth(
    scene: Scene,
    hand_mask: Float[Tensor, "B H W"],
    object_mask: Float[Tensor, "B H W"],
    depth: Float[Tensor, "B H W"],
    depth_confidence: Float[Tensor, "B H W"] | None = None,
    *,
    sigma: str | float | Tensor = "auto",
    kernel: float = 3.0,
    inflation: float = 1.0,
    repeats: str | float | Tensor = 1.0,
    confidence: bool = True,
) -> Float[Tensor, "B"]:
    """Rendered depth below the object's centre equals the relative depth map (Song et al. eq. 8), in metres.

    Robust and in sigmas; a pixel where nothing is rendered costs as much as a bad one but pulls on nothing.
    """
    residuals = _depth_residuals(scene, hand_mask, object_mask, depth, depth_confidence, confidence=confidence)
    spread = _sigma(sigma, residuals, 1e-4, inflation)
    return geman_mcclure(_thinned(residuals, repeats, scene.features.camera.size, 1e-4), spread, kernel)


def silhouette(
    scene: Scene,
    hand_mask: Float[Tensor, "B H W"],
    object_mask: Float[Tensor, "B H W"],
    *,
    sigma: float = 1.0,
    other: float = 0.03,
) -> Float[Tensor, "B"]:
    """Rendered coverage equals the mask, squared, summed over the pixels that show nothing of the other thing.

    Song et al. eq. 3 weighs by (1 - other mask), which is biased along the occlusion line; here pixels whose
    other mask exceeds ``other`` are left out. ``sigma`` is in coverage: masks are often half a pixel too wide
    or too narrow, so a small one buys a biased size.
    """
    masks = torch.stack([hand_mask, object_mask], 1)
    keep = (masks.flip(1) <= other).to(masks.dtype)
    return (keep * (scene.render.masks - masks) / sigma).square().sum((1, 2, 3))


def _paired(scene: Scene, pairs: SurfacePairs) -> Float[Tensor, "B 2 P 3"]:
    """Surface points that the map's pixels name, where the given camera sees them."""
    return torch.stack([named_points(vertices, pairs, side) for side, vertices in enumerate(scene.seen)], 1)


def _reprojection_residuals(
    scene: Scene, surface_pairs: SurfacePairs, threshold: float = 0.1, confidence: bool = True
) -> Residuals:
    pixels = project(_paired(scene, surface_pairs), scene.features.camera.matrix)
    used = surface_pairs.valid * (surface_pairs.distance < threshold)
    trust = surface_pairs.confidence if confidence else None
    return trusted(pixels - surface_pairs.pixel, used, torch.zeros_like(used), trust)


@measured(_reprojection_residuals, floor=0.03)
def surface_reprojection(
    scene: Scene,
    surface_pairs: SurfacePairs,
    *,
    sigma: str | float | Tensor = 1.0,
    kernel: float = 60.0,
    inflation: float = 1.0,
    threshold: float = 0.1,
    confidence: bool = True,
) -> Float[Tensor, "B"]:
    """The surface point whose code a pixel shows projects onto that pixel; ``sigma`` in pixels of the map.

    From pixels to the surface, where Song et al. (eq. 4-7) go from vertices to pixels: no quantisation, and no
    vertex of the far side is paired with a pixel. ``threshold`` is the largest distance in code space.
    """
    residuals = _reprojection_residuals(scene, surface_pairs, threshold, confidence)
    return geman_mcclure(residuals, _sigma(sigma, residuals, 0.03, inflation), kernel)


def _surface_depth_residuals(
    scene: Scene,
    surface_pairs: SurfacePairs,
    depth: Float[Tensor, "B H W"],
    threshold: float = 0.1,
    confidence: bool = True,
) -> Residuals:
    z = _paired(scene, surface_pairs)[..., 2] - scene.object_center[:, None, None, 2]
    used = surface_pairs.valid * (surface_pairs.distance < threshold)
    trust = surface_pairs.depth_confidence if confidence else None
    return trusted((z - surface_pairs.depth)[..., None], used, torch.zeros_like(used), trust)


@measured(_surface_depth_residuals, floor=2e-4)
def surface_depth(
    scene: Scene,
    surface_pairs: SurfacePairs,
    depth: Float[Tensor, "B H W"],
    *,
    sigma: str | float | Tensor = 0.005,
    kernel: float = 60.0,
    inflation: float = 1.0,
    threshold: float = 0.1,
    confidence: bool = True,
) -> Float[Tensor, "B"]:
    """The surface point whose code a pixel shows lies at that pixel's relative depth; ``sigma`` in metres.

    Song et al. eq. 9-10 from pixels to the surface: it reaches points that a wrong pose hides.
    """
    residuals = _surface_depth_residuals(scene, surface_pairs, depth, threshold, confidence)
    return geman_mcclure(residuals, _sigma(sigma, residuals, 2e-4, inflation), kernel)
