"""The loop: poses and features in, better poses out.

Each stage of the recipe settles its objective (fixes the sigmas at the spread of the residuals it starts from),
walks Adam for its number of steps and hands its best pose on. Every image has its own rate, its own best step and
its own verdict; an image's result does not depend on its neighbours in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from horefine import torch_steps
from horefine.align import align, align_symmetric
from horefine.config import Config, LevenbergMarquardt, Optimizer, Stage, load_config
from horefine.descent import Search
from horefine.errors import ConfigError, InputError
from horefine.hand import HandModel, load_hand
from horefine.iteration import descend
from horefine.levenberg_marquardt import Damping, minimise
from horefine.objective import Objective
from horefine.refined import Refinement
from horefine.scene import CONFIDENCES, FACTORS, MAPS, Features, Pose
from horefine.setting import Rows, Setting, Walk, choose, shared_sigmas
from horefine.starts import directions, needed
from horefine.tangent import BLOCKS, CHARTS
from horefine.threads import one_torch_thread
from horefine.verdict import conclude

__all__ = ["costs", "refine"]


def refine(
    pose: Pose,
    features: Features,
    config: Config | str | Path | Mapping[str, Any] = "default",
    *,
    hand_model: HandModel | None = None,
    renderer: str = "auto",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    complete: Callable[[Pose, Features], Features] | None = None,
) -> Refinement:
    """Refines B poses against their features by test-time optimisation.

    Args:
        pose: where to start (B images, camera frame, metres, radians).
        features: camera, mesh and maps of the same B images, on the device to work on.
        config: a recipe: its name, a path, a table or a :class:`Config`.
        hand_model: the embedded hand when not given.
        renderer: ``auto``, ``cpu``, ``torch``, ``nvdiffrast`` or ``pytorch3d``.
        seed: of the further starts, when the recipe asks for several.
        progress: called with (step, steps) after each step.
        complete: called once, after the recipe's way in, with the poses that refinement begins from; gives the features
            with what can be known only then (contact). Must hand on all else as it is.

    Raises:
        ConfigError: for a recipe that cannot be used, or a loss whose feature is missing.
        InputError: for poses and features that do not fit together or are not finite, naming field and image.
    """
    config = config if isinstance(config, Config) else load_config(config)
    check_inputs(pose, features)
    device = features.camera.matrix.device
    with one_torch_thread() if device.type == "cpu" else nullcontext():
        return _refined(pose, features, config, hand_model, renderer, seed, progress, complete)


def _refined(
    pose: Pose,
    features: Features,
    config: Config,
    hand_model: HandModel | None,
    renderer: str,
    seed: int,
    progress: Callable[[int, int], None] | None,
    complete: Callable[[Pose, Features], Features] | None,
) -> Refinement:
    """The way in, every stage, the verdict."""
    device = features.camera.matrix.device
    hand_model = (hand_model or load_hand()).to(device)
    pose = pose.to(device=device, dtype=torch.float32).detach()
    pose = pose.with_factors(FACTORS[name] for name in config.variables.names)
    begin = _aligned(pose, features, config, hand_model, renderer)
    features = complete(begin, features) if complete is not None else features
    rows = Rows.of(_counts(features, config), device)
    spread = features if rows.single else features[rows.image]
    setting = Setting.of(config, spread, hand_model, pose[rows.image], begin[rows.image], renderer)
    current = _starts(setting.initial, rows, config, setting, seed)
    history: list[dict[str, Tensor]] = []
    total = sum(stage.steps * stage.rounds for stage in config.stages.values())
    walk = Walk(current, torch.zeros(len(rows.image), dtype=torch.long, device=device), Objective({}, setting.inputs))
    descend = _damped if isinstance(config.optimizer, LevenbergMarquardt) else _descend
    for name, stage in config.stages.items():
        for _ in range(stage.rounds):
            walk = descend(setting, name, stage, walk.pose, history, lambda done: progress and progress(done, total))
    return conclude(setting, walk, history, rows)


@torch.no_grad()
def costs(
    poses: Sequence[Pose],
    features: Features,
    config: Config,
    *,
    initial: Pose,
    hand_model: HandModel | None = None,
    renderer: str = "auto",
) -> Float[Tensor, "B K"]:
    """The last stage's objective of each of K poses of B images: which one shows best what the maps show.

    All poses of an image are measured with one yardstick, the smallest spread that one of them has.

    Args:
        initial: where refinement began, for the losses that hold on to it.
    """
    count, device = len(poses), features.camera.matrix.device
    rows = Rows.of([count] * len(features), device)
    order = torch.arange(len(rows.image), device=device).view(count, -1).T.flatten()
    every = Pose.cat(list(poses))[order].to(device)
    first = initial[rows.image.to(initial.hand_transl.device)].to(device)
    hand_model = (hand_model or load_hand()).to(device)
    setting = Setting.of(config, features[rows.image], hand_model, first, first, renderer)
    objective = shared_sigmas(setting.objective(every), setting, every, rows)
    found = torch.stack(list(objective.evaluate(setting.scene(every)).values())).sum(0)
    return torch.where(found.isfinite(), found, torch.inf).view(-1, count)


def _counts(features: Features, config: Config) -> list[int]:
    """Starts of each image: as many as the recipe says, or as its pose's spread asks for."""
    if config.starts.count == "auto":
        return needed(features.pose_spread, config.starts, config.align, len(features))
    return [config.starts.count] * len(features)


def _aligned(pose: Pose, features: Features, config: Config, hand_model: HandModel, renderer: str) -> Pose:
    """The way in, if the recipe has one.

    Raises:
        ConfigError: a feature that it takes is missing.
    """
    for name in config.align.features:
        if getattr(features, name) is None:
            ways = f"align.hand: {config.align.hand}, align.object: {config.align.object}"
            raise ConfigError(f"{ways}: needs features.{name}, which is missing: extract it, or set both to given")
    found = align(pose, features.under(pose), hand_model, **config.align.model_dump(), renderer=renderer)
    return align_symmetric(found, features, hand_model)


def _descend(
    setting: Setting,
    name: str,
    stage: Stage,
    pose: Pose,
    history: list[dict[str, Tensor]],
    report: Callable[[int], Any],
) -> Walk:
    """One stage: ``stage.steps`` Adam steps from ``pose``; returns the best pose each image passed through."""
    options, objective = setting.config.optimizer, setting.objective(pose, name)
    assert isinstance(options, Optimizer)
    first = len(history)
    turns = [math.pi * step / stage.steps for step in range(stage.steps)]
    search = Search(
        [stage.decay + (1 - stage.decay) * 0.5 * (1 + math.cos(turn)) for turn in turns],
        {block: rate * stage.rate for block, rate in setting.config.rates.items()}, options.parameters, options.betas,
        options.epsilon, options.least_rate, stage.patience, stage.cut, options.keep == "last", options.fused,
        options.graph,
    )  # fmt: skip
    walked = descend(
        objective, pose, setting.scene, search, lambda step: report(first + step), setting.config.variables.names
    )
    history.extend(walked.history)
    return Walk(walked.pose, first + walked.best_step.clamp(max=stage.steps - 1), objective)


def _damped(
    setting: Setting,
    name: str,
    stage: Stage,
    pose: Pose,
    history: list[dict[str, Tensor]],
    report: Callable[[int], Any],
) -> Walk:
    """One stage: at most ``stage.steps`` Levenberg-Marquardt steps from ``pose``."""
    options, first_scene = setting.config.optimizer, setting.posed(pose)
    objective = setting.objective(first_scene, name)
    assert isinstance(options, LevenbergMarquardt)
    first = len(history)
    still = tuple(column for name in options.still for column in BLOCKS[name])
    tolerance = options.tolerance if stage.tolerance is None else stage.tolerance
    damping = Damping(options.damping, tolerance, options.turn, still)
    walk = minimise if setting.fused else torch_steps.minimise
    descent = walk(
        objective, pose, lambda at: first_scene if at is pose else setting.scene(at), stage.steps, damping,
        lambda step: report(first + step), setting.config.variables.names, lambda rows: setting.chosen(rows).scene,
    )  # fmt: skip
    for values in descent.values:
        history.append({"total": torch.stack(list(values.values())).sum(0), **values})
    return Walk(descent.pose, first + descent.best_step, objective)


@torch.no_grad()
def _starts(pose: Pose, rows: Rows, config: Config, setting: Setting, seed: int) -> Pose:
    """A row for each start: the pose as given, then ones turned and moved at random about their middles."""
    if rows.single:
        return pose
    draws = {count: directions(count, seed) for count in set(rows.counts)}  # one for all images: rows do not mix
    noise = torch.cat([draws[count] for count in rows.counts]).to(pose.hand_transl)
    step = torch.zeros(len(pose), 67, dtype=noise.dtype, device=noise.device)
    step[:, 0:3], step[:, 61:64] = noise[:, 0] * config.starts.translation, noise[:, 1] * config.starts.translation
    step[:, 3:6], step[:, 64:67] = noise[:, 2] * config.starts.rotation, noise[:, 3] * config.starts.rotation
    moved = CHARTS["tangent"].move(setting.scene(pose), step)
    first = torch.zeros(len(pose), dtype=torch.bool, device=noise.device).index_fill(0, rows.first, True)
    return choose(first, pose, moved)


def check_inputs(pose: Pose, features: Features) -> None:
    """Sizes that fit and finite numbers, or an :class:`InputError` that names the field and the images."""
    batch, (height, width) = len(features), features.camera.size
    if len(pose) != batch:
        raise InputError(f"pose has {len(pose)} images, features {batch}; give both the same number")
    for name, value in pose.items():
        _check_finite(f"pose.{name}", value)
    for name in (*MAPS, *CONFIDENCES.values()):
        value = getattr(features, name)
        if value is None:
            continue
        if tuple(value.shape[-2:]) != (height, width) or len(value) != batch:
            shape = tuple(value.shape)
            raise InputError(
                f"features.{name} has shape {shape}, but the camera of the maps is {batch} x {height} x {width}"
            )
        _check_finite(f"features.{name}", value)
        if name in CONFIDENCES.values() and not 0 <= float(value.min()) <= float(value.max()) <= 1:
            raise InputError(
                f"features.{name} runs from {value.min():g} to {value.max():g}; a confidence is from 0 to 1"
            )
    _check_finite("features.camera.matrix", features.camera.matrix)
    if len(features.object.vertices) != batch:
        raise InputError(f"features.object holds {len(features.object.vertices)} meshes for {batch} images")


def _check_finite(name: str, value: Tensor) -> None:
    bad = ~value.isfinite().reshape(len(value), -1).all(1)
    if bad.any():
        images = ", ".join(str(i) for i in bad.nonzero().flatten().tolist())
        raise InputError(f"{name} has NaN or infinite values (image {images}); repair the source or leave it out")
