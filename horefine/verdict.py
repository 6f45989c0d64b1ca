"""The last word on each image: its best start, whether that is better than what was given, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from horefine.config import Config, Optimizer
from horefine.curvature import Sigmas, sigmas
from horefine.levenberg_marquardt import frozen_forms
from horefine.losses.forms import Form
from horefine.objective import Objective
from horefine.refined import Refinement
from horefine.scene import Features, Scene
from horefine.setting import Rows, Setting, Walk, choose, shared_sigmas

__all__ = ["conclude"]


@torch.no_grad()
def conclude(setting: Setting, walk: Walk, history: list[dict[str, Tensor]], rows: Rows) -> Refinement:
    """The best start of each image, and what to say of it."""
    objective = shared_sigmas(walk.objective, setting, walk.pose, rows)
    end_scene = setting.posed(walk.pose)
    ends, forms = _looked(objective, end_scene, setting.fused)
    begins, _ = _looked(objective, setting.posed(setting.given), setting.fused)
    ends = torch.where(ends.isfinite(), ends, torch.inf)
    first, chosen = rows.first, rows.lowest(ends)
    end, begin = ends[chosen], begins[first]
    unseen, skipped = _unseen(setting.features)[first], _skipped(setting.features, setting.config)[first]
    better = end.isfinite() if _keeps_last(setting.config) else end < begin
    improved = better & ~unseen & ~skipped
    pose = choose(improved, walk.pose[chosen], setting.given[first])
    told = zip(begin.tolist(), end.tolist(), unseen.tolist(), skipped.tolist(), strict=True)
    verdicts = [_verdict(*own, setting.config) for own in told]
    names = dict.fromkeys(key for entry in history for key in entry)
    missing = torch.full_like(ends, torch.nan)
    table = {n: torch.stack([e.get(n, missing) for e in history])[:, chosen] for n in names}
    best = torch.where(improved, walk.best_step[chosen], 0)
    status, reason = tuple(v[0] for v in verdicts), tuple(v[1] for v in verdicts)
    found = sigmas(objective, end_scene, setting.config.variables.names, forms, setting.fused)
    rejected = torch.tensor([s == "rejected" for s in status], device=chosen.device)
    sure = _unsure(found.map(lambda value: value[chosen]), rejected)
    return Refinement(pose, setting.given[first], table, best, status, reason, sure)


def _looked(objective: Objective, scene: Scene, fused: bool) -> tuple[Float[Tensor, "B"], Mapping[str, Form]]:
    """The objective at a scene; and its losses as squares, frozen there, which are quicker to ask."""
    forms = frozen_forms(objective, scene, fused)
    return torch.stack([form.cost(scene) for form in forms.values()]).sum(0), forms


def _unsure(found: Sigmas, rejected: Bool[Tensor, "B"]) -> Sigmas:
    """With infinite ones for rejected images."""
    return found.map(lambda v: v.masked_fill(rejected.view(-1, *(1,) * (v.dim() - 1)), torch.inf))


def _unseen(features: Features) -> Bool[Tensor, "B"]:
    """Images whose maps show no hand or no object: there, any pose would please the objective."""
    found = [m.flatten(1).amax(1) > 0.5 for m in (features.hand_mask, features.object_mask) if m is not None]
    everything = torch.ones(len(features), dtype=torch.bool, device=features.camera.matrix.device)
    return ~torch.stack([everything, *found]).all(0)


def _skipped(features: Features, config: Config) -> Bool[Tensor, "B"]:
    """Images whose predicted contact is too little for the recipe."""
    if not config.skip.contact or features.contact is None:
        return torch.zeros(len(features), dtype=torch.bool, device=features.camera.matrix.device)
    real = features.object.vertex_mask
    touching = (features.contact.probability > config.skip.probability) & real
    return touching.sum(1) < config.skip.contact * real.sum(1)


def _keeps_last(config: Config) -> bool:
    return isinstance(config.optimizer, Optimizer) and config.optimizer.keep == "last"


def _verdict(begin: float, end: float, unseen: bool, skipped: bool, config: Config) -> tuple[str, str]:
    if unseen:
        return "rejected", "the maps show no hand or no object; the start is returned"
    if skipped:
        share = f"less than {config.skip.contact:.2%} of the object's vertices"
        return "unchanged", f"contact is predicted at {share}: the recipe skips this image; the start is returned"
    if not math.isfinite(end):
        return "rejected", "the objective is not finite at the pose found; the start is returned"
    if end < begin:
        share = f", {end / begin:.1%} of the start's" if begin > 0 and math.isfinite(begin) else ""
        return "improved", f"the objective fell from {begin:.4g} to {end:.4g}{share}"
    if _keeps_last(config):
        return "worsened", f"the objective went from {begin:.4g} to {end:.4g}; the recipe keeps the last step"
    return "unchanged", f"no step was better than the start ({begin:.4g})"
