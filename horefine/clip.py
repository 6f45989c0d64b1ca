"""A clip as one unit: its frames refined alone, put right by their neighbours, and then together.

1. Each frame is refined as an image of its own.
2. Where the motion breaks, frames begin again from the other side of the break (:mod:`horefine.clip_starts`).
3. One hand shape for all, and one focal length and object size where they are variables; the frames settle with them.
4. Sweeps: of every three frames one is refined with the loss ``temporal`` beside the others while its neighbours, which
   are in the other two thirds, stand still. A second difference couples three frames that follow one another, so this
   is descent on the whole clip's objective, a third at a time (Gauss-Seidel), and symmetric in time: nothing lags.

Frames that cannot be used (``rejected``) are bridged by the poses before and after them and tell the others nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from horefine.clip_starts import points_of, put_right, replaced, usable_frames
from horefine.config import Config, LevenbergMarquardt, load_config
from horefine.errors import InputError
from horefine.hand import HandModel, load_hand
from horefine.motion import bridged, neighbours_of
from horefine.refined import Refinement, joined, moved
from horefine.refinement import refine
from horefine.scene import FACTORS, Features, Pose

__all__ = ["FPS", "ClipRefinement", "one_hand", "refine_clip", "together"]

FPS = 30.0
"""Frames a second where nobody says otherwise."""
SETTLE = {"levenberg_marquardt": 4, "adam": 60}
"""Steps in which single frames settle with the shared shape."""
SWEEP = {"levenberg_marquardt": 2, "adam": 30}
"""Steps of each refinement in a sweep."""


@dataclass(frozen=True)
class ClipRefinement:
    """What :func:`refine_clip` found for the T frames of a clip. On the CPU."""

    frames: Refinement
    """The result; ``history`` and ``best_step`` are of the refinement of each frame alone."""
    alone: Pose
    """What each frame's own refinement had found."""
    bridged: Bool[Tensor, "T"]
    """Frames without a result of their own: their poses come from those before and after."""


def refine_clip(
    pose: Pose,
    features: Features,
    config: Config | str | Path | Mapping[str, Any] = "default",
    *,
    times: Float[Tensor, "T"] | None = None,
    hand_model: HandModel | None = None,
    renderer: str = "auto",
    seed: int = 0,
    batch: int = 16,
    progress: Callable[[int, int], None] | None = None,
    complete: Callable[[Pose, Features], Features] | None = None,
) -> ClipRefinement:
    """Refines the T frames of a clip of one hand and one object; ``config.clip`` says what couples them.

    Args:
        pose: where each frame starts (B = T, in order; camera frame, metres, radians).
        features: camera, mesh and maps of the frames.
        times: seconds, ascending (default: 30 frames a second).
        batch: frames refined at once.
        progress: called with (step, steps) after each step of each refinement on the way.
        complete: as :func:`horefine.refinement.refine`'s; called once more with the poses that single frames end at.

    Raises:
        ConfigError, InputError: as ``refine``; times that do not ascend, or are not as many as the frames.
    """
    config = config if isinstance(config, Config) else load_config(config)
    times = torch.arange(len(pose)) / FPS if times is None else times.detach().cpu().float()
    check_times(times, len(pose))
    model, device = (hand_model or load_hand()).to("cpu"), features.camera.matrix.device
    work = _Work(features, model, renderer, seed, batch, progress)
    single = config.model_copy(update={"losses": {**config.losses, "temporal": 0}})
    found = alone = work.refine(pose, torch.arange(len(pose)), single, complete=complete)
    if complete is not None:
        work = replace(work, features=complete(alone.pose.to(device), features))
    if config.clip.warm and len(pose) > 1:
        found = put_right(alone, times, single, work.features, model, renderer, work.refine)
    used = usable_frames(found)
    if config.clip.shape == "shared" and used.any():
        rows = used.nonzero().flatten()
        shared = one_hand(model, found.pose, used, found)
        settled = work.refine(shared[rows], rows, together(config, temporal=False))
        found = replaced(replace(found, pose=shared), rows, settled)
    found = work.sweeps(found, times, used, config)
    return ClipRefinement(_told(found, alone, used, times, work), alone.pose, ~used)


def check_times(times: Float[Tensor, "T"], count: int) -> None:
    """Raises InputError for times that are not ``count`` ascending seconds."""
    if len(times) != count or not bool(times.isfinite().all()):
        raise InputError(f"times: {count} finite numbers are needed, one for each frame; got {times.tolist()[:5]}")
    if bool((times.diff() <= 0).any()):
        frame = int((times.diff() <= 0).nonzero()[0]) + 1
        raise InputError(f"times: frame {frame} is not later than the one before it; put the frames in order")


def one_hand(model: HandModel, pose: Pose, used: Bool[Tensor, "T"], found: Refinement) -> Pose:
    """The poses with one shape: the mean of the used frames', each as it is sure of its joints; wrists stay in place.

    Factors (focal length, object size) get their median.
    """
    sure = torch.ones(len(pose)) if found.sigma is None else found.sigma.joints.square().mean(1).reciprocal()
    weight = torch.where(used & sure.isfinite(), sure, torch.zeros_like(sure))
    weight = used.to(weight) if not bool(weight.sum() > 0) else weight
    shape = (weight[:, None] * pose.hand_shape).sum(0) / weight.sum()
    shape = shape.expand_as(pose.hand_shape).clone()
    wrist = model.rest_joints(pose.hand_shape)[:, 0] - model.rest_joints(shape)[:, 0]
    factors = {name: value[used].median().expand_as(value).clone() for name, value in pose.items()
               if name in FACTORS.values()}  # fmt: skip
    return replace(pose, hand_shape=shape, hand_transl=pose.hand_transl + wrist, **factors)


def together(config: Config, *, temporal: bool) -> Config:
    """The recipe in which frames are refined once they know of one another: its last stage, nothing begun anew.

    What is shared stands still. ``temporal`` is there with weight 1 unless the recipe says otherwise (0: off).
    """
    table = json.loads(config.model_dump_json())
    name, stage = list(table["stages"].items())[-1]
    kind = table["optimizer"]["name"]
    stage |= {"steps": (config.clip.steps or SWEEP[kind]) if temporal else SETTLE[kind], "rounds": 1}
    if kind == "adam":
        stage["rate"] *= 0.3
    table["losses"] = {"temporal": 1.0, **table["losses"]} if temporal else table["losses"] | {"temporal": 0}
    if temporal and isinstance(stage["losses"], list):
        stage["losses"] = [*dict.fromkeys([*stage["losses"], "temporal"])]
    if config.clip.shape == "shared":
        table["variables"] = {}
        if isinstance(config.optimizer, LevenbergMarquardt):
            table["optimizer"]["still"] = [*dict.fromkeys([*config.optimizer.still, "shape"])]
        else:
            out = ("shape", *FACTORS)
            table["optimizer"]["rates"] = {k: v for k, v in table["optimizer"]["rates"].items() if k not in out}
    table |= {"stages": {name: stage}, "align": {}, "starts": {}}
    return load_config(table)


@dataclass(frozen=True)
class _Work:
    """What stays the same while one clip is refined. Poses are on the CPU."""

    features: Features
    model: HandModel
    renderer: str
    seed: int
    batch: int
    progress: Callable[[int, int], None] | None

    def refine(
        self,
        pose: Pose,
        rows: Int[Tensor, "N"],
        config: Config,
        *,
        features: Features | None = None,
        complete: Callable[[Pose, Features], Features] | None = None,
    ) -> Refinement:
        """Some frames from these poses, at most ``batch`` at once; ``features`` of the whole clip, if others."""
        whole, parts = self.features if features is None else features, []
        for start in range(0, len(rows), self.batch):
            chosen = rows[start : start + self.batch].to(whole.camera.matrix.device)
            own = pose[start : start + self.batch]
            parts.append(refine(
                own, whole[chosen], config, hand_model=self.model, renderer=self.renderer, seed=self.seed,
                progress=self.progress, complete=complete,
            ))  # fmt: skip
        return moved(joined(parts, torch.arange(len(rows))), torch.device("cpu"))

    def sweeps(
        self, found: Refinement, times: Float[Tensor, "T"], used: Bool[Tensor, "T"], config: Config
    ) -> Refinement:
        """Each third of the used frames in turn, its neighbours standing still."""
        joint, frames = together(config, temporal=True), used.nonzero().flatten()
        mesh = self.features.object.to("cpu")
        for _ in range(config.clip.sweeps if len(frames) > 2 and "temporal" in joint.terms() else 0):
            for third in range(3):
                rows = frames[third::3]
                around = neighbours_of(*points_of(self.model, mesh, found.pose), times, used)
                knowing = replace(self.features, neighbours=around).to(self.features.camera.matrix.device)
                found = replaced(found, rows, self.refine(found.pose[rows], rows, joint, features=knowing))
        return found


def _told(
    found: Refinement, alone: Refinement, used: Bool[Tensor, "T"], times: Float[Tensor, "T"], work: _Work
) -> Refinement:
    """The result with a sentence for each frame that says what the clip did to it; frames without one are bridged."""
    mesh, frames = work.features.object.to("cpu"), used.nonzero().flatten().tolist()
    pose = bridged(work.model, mesh, found.pose, times, used)
    before, after = (points_of(work.model, mesh, own) for own in (alone.pose, pose))
    far = [(a - b).norm(dim=-1).mean(1) * 1000 for a, b in zip(before, after, strict=True)]
    status, reason = list(found.status), list(found.reason)
    for t in range(len(pose)):
        if bool(used[t]):
            status[t] = alone.status[t] if alone.status[t] != "rejected" else found.status[t]
            reason[t] = (
                f"{alone.reason[t]}; the clip moved the hand by {far[0][t]:.1f} mm, the object by {far[1][t]:.1f} mm"
            )
        elif frames:
            near = [
                str(f + 1)
                for f in (
                    max((f for f in frames if f < t), default=None),
                    min((f for f in frames if f > t), default=None),
                )
                if f is not None
            ]
            reason[t] = f"{alone.reason[t].split(';')[0]}; bridged from the clip's frame {' and '.join(near)}"
    return replace(found, pose=pose, status=tuple(status), reason=tuple(reason))
