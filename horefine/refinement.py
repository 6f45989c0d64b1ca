"""The loop: poses and features in, better poses out.

Each stage of the recipe settles its objective (fixes the sigmas at the spread of the residuals it starts from),
walks Adam for its number of steps and hands its best pose on. Every image has its own rate, its own best step and
its own verdict; an image's result does not depend on its neighbours in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from horefine.align import align, align_symmetric
from horefine.config import Config, LevenbergMarquardt, Optimizer, Stage, load_config
from horefine.curvature import Sigmas, sigmas
from horefine.descent import Search
from horefine.errors import ConfigError, InputError
from horefine.hand import HandModel, load_hand
from horefine.iteration import descend
from horefine.levenberg_marquardt import Damping, minimise
from horefine.objective import Objective, prepare, usable
from horefine.posing import posed
from horefine.render import OUTPUTS, Renderer, make_renderer
from horefine.scene import CONFIDENCES, FACTORS, MAPS, Features, Pose, Scene
from horefine.starts import directions, needed
from horefine.tangent import BLOCKS, CHARTS
from horefine.threads import one_torch_thread

__all__ = ["Refinement", "costs", "joined", "moved", "refine"]


@dataclass(frozen=True)
class Refinement:
    """What :func:`refine` found for B images."""

    pose: Pose
    initial: Pose
    history: dict[str, Float[Tensor, "steps B"]]
    """Weighted value of each loss, and ``total``, before each step; NaN where a stage does not use the loss."""
    best_step: Int[Tensor, "B"]
    """The step (row of the history) whose pose was kept."""
    status: tuple[str, ...]
    """``improved``; ``unchanged`` (nothing better was found, or the recipe skips the image); ``worsened`` (a recipe
    that keeps the last step); ``rejected`` (the search broke or the maps show nothing; the start is returned)."""
    reason: tuple[str, ...]
    """One sentence for each image."""
    sigma: Sigmas | None = None
    """How sure ``pose`` is by the objective's curvature; None on a GPU."""

    def __len__(self) -> int:
        return len(self.pose)

    def __getitem__(self, image: int) -> Refinement:
        """One image's result (B = 1)."""
        rows = slice(image, image + 1 or None)
        return Refinement(
            self.pose[image], self.initial[image], {name: values[:, rows] for name, values in self.history.items()},
            self.best_step[rows], self.status[rows], self.reason[rows],
            None if self.sigma is None else self.sigma.map(lambda value: value[rows]),
        )  # fmt: skip


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
    if isinstance(config.optimizer, LevenbergMarquardt) and device.type != "cpu":
        near = (pose.to("cpu"), features.to("cpu"), config)
        return moved(refine(*near, hand_model=hand_model, seed=seed, progress=progress, complete=complete), device)
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
    rows = _Rows.of(_counts(features, config), device)
    spread = features if rows.single else features[rows.image]
    setting = _Setting.of(config, spread, hand_model, pose[rows.image], begin[rows.image], renderer)
    current = _starts(setting.initial, rows, config, setting, seed)
    history: list[dict[str, Tensor]] = []
    total = sum(stage.steps * stage.rounds for stage in config.stages.values())
    walk = _Walk(current, torch.zeros(len(rows.image), dtype=torch.long, device=device), Objective({}, setting.inputs))
    descend = _damped if isinstance(config.optimizer, LevenbergMarquardt) else _descend
    for name, stage in config.stages.items():
        for _ in range(stage.rounds):
            walk = descend(setting, name, stage, walk.pose, history, lambda done: progress and progress(done, total))
    return _conclude(setting, walk, history, rows)


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
    rows = _Rows.of([count] * len(features), device)
    order = torch.arange(len(rows.image), device=device).view(count, -1).T.flatten()
    every = Pose.cat(list(poses))[order].to(device)
    first = initial[rows.image.to(initial.hand_transl.device)].to(device)
    hand_model = (hand_model or load_hand()).to(device)
    setting = _Setting.of(config, features[rows.image], hand_model, first, first, renderer)
    objective = _shared_sigmas(setting.objective(every), setting, every, rows)
    found = torch.stack(list(objective.evaluate(setting.scene(every)).values())).sum(0)
    return torch.where(found.isfinite(), found, torch.inf).view(-1, count)


def _counts(features: Features, config: Config) -> list[int]:
    """Starts of each image: as many as the recipe says, or as its pose's spread asks for."""
    if config.starts.count == "auto":
        return needed(features.pose_spread, config.starts, config.align, len(features))
    return [config.starts.count] * len(features)


@dataclass(frozen=True)
class _Rows:
    """The starts of B images as the R rows of one batch, each image's one after another."""

    counts: tuple[int, ...]
    image: Int[Tensor, "R"]
    """Whose start a row is."""
    first: Int[Tensor, "B"]
    """Each image's first row: its pose as given."""

    @staticmethod
    def of(counts: Sequence[int], device: torch.device) -> _Rows:
        many = torch.tensor(counts, device=device)
        return _Rows(
            tuple(counts), torch.arange(len(many), device=device).repeat_interleave(many), many.cumsum(0) - many
        )

    @property
    def single(self) -> bool:
        """Whether every image has one start."""
        return len(self.image) == len(self.first)

    def lowest(self, values: Float[Tensor, "R"]) -> Int[Tensor, "B"]:
        """Each image's row with the lowest value, the first of equal ones."""
        table = values.new_full((len(self.first), max(self.counts)), torch.inf)
        place = torch.arange(len(values), device=values.device) - self.first[self.image]
        table[self.image, place] = values
        return self.first + table.argmin(1)


def joined(parts: Sequence[Refinement], order: Int[Tensor, "B"]) -> Refinement:
    """One result of several, images in ``order``; a history that ended earlier than others goes on with NaN."""
    if len(parts) == 1:
        return parts[0]
    order = order.to(parts[0].best_step.device)

    def merged(values: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(values))[order]

    steps = max(len(next(iter(part.history.values()))) for part in parts)
    history = {}
    for name in dict.fromkeys(name for part in parts for name in part.history):
        columns = [part.history.get(name, torch.full_like(part.history["total"], torch.nan)) for part in parts]
        rows = [torch.nn.functional.pad(c, (0, 0, 0, steps - len(c)), value=torch.nan) for c in columns]
        history[name] = torch.cat(rows, 1)[:, order]
    sure = [part.sigma for part in parts if part.sigma is not None]
    sigma = None
    if len(sure) == len(parts):
        names = [f.name for f in fields(sure[0]) if getattr(sure[0], f.name) is not None]
        sigma = Sigmas(**{name: merged([getattr(s, name) for s in sure]) for name in names})
    status, reason = ([v for part in parts for v in getattr(part, name)] for name in ("status", "reason"))
    return Refinement(
        Pose.cat([part.pose for part in parts])[order], Pose.cat([part.initial for part in parts])[order], history,
        merged([part.best_step for part in parts]), tuple(status[i] for i in order), tuple(reason[i] for i in order),
        sigma,
    )  # fmt: skip


def moved(found: Refinement, device: torch.device) -> Refinement:
    """The same result on another device."""
    history = {name: values.to(device) for name, values in found.history.items()}
    pose, initial = found.pose.to(device), found.initial.to(device)
    return replace(found, pose=pose, initial=initial, history=history, best_step=found.best_step.to(device))


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


@dataclass(frozen=True)
class _Setting:
    """What stays the same during one refinement."""

    config: Config
    features: Features
    hand_model: HandModel
    given: Pose
    initial: Pose
    """Where refinement begins: the given pose, or what :func:`align` made of it."""
    inputs: dict[str, Any]
    renderer: Renderer

    @staticmethod
    def of(
        config: Config, features: Features, hand_model: HandModel, given: Pose, initial: Pose, renderer: str
    ) -> _Setting:
        terms = usable(config.terms(), features)
        want = OUTPUTS | ({"colors"} if any("image" in term.features for term in terms.values()) else set())
        draw = make_renderer(hand_model.faces, hand_model.codes, features.object, features.camera, renderer, want=want)
        return _Setting(config, features, hand_model, given, initial, prepare(terms, features, hand_model), draw)

    def scene(self, pose: Pose) -> Scene:
        return Scene(pose, self.initial, self.features, self.hand_model, self.renderer)

    def objective(self, at: Pose | Scene, stage: str | None = None) -> Objective:
        """The objective of a stage (the last when not named), its sigmas settled at a pose."""
        terms = usable(self.config.terms(stage or list(self.config.stages)[-1]), self.features)
        return Objective(terms, self.inputs).settle(self.scene(at) if isinstance(at, Pose) else at)


@dataclass(frozen=True)
class _Walk:
    """Where a stage ended: the best pose, its step in the history, the objective it was best for."""

    pose: Pose
    best_step: Int[Tensor, "B"]
    objective: Objective


def _descend(
    setting: _Setting,
    name: str,
    stage: Stage,
    pose: Pose,
    history: list[dict[str, Tensor]],
    report: Callable[[int], Any],
) -> _Walk:
    """One stage: ``stage.steps`` Adam steps from ``pose``; returns the best pose each image passed through."""
    options, objective = setting.config.optimizer, setting.objective(pose, name)
    assert isinstance(options, Optimizer)
    first = len(history)
    turns = [math.pi * step / stage.steps for step in range(stage.steps)]
    search = Search(
        [stage.decay + (1 - stage.decay) * 0.5 * (1 + math.cos(turn)) for turn in turns],
        {block: rate * stage.rate for block, rate in setting.config.rates.items()}, options.parameters, options.betas,
        options.epsilon, options.least_rate, stage.patience, stage.cut, options.keep == "last", options.fused,
    )  # fmt: skip
    walked = descend(
        objective, pose, setting.scene, search, lambda step: report(first + step), setting.config.variables.names
    )
    history.extend(walked.history)
    return _Walk(walked.pose, first + walked.best_step.clamp(max=stage.steps - 1), objective)


def _damped(
    setting: _Setting,
    name: str,
    stage: Stage,
    pose: Pose,
    history: list[dict[str, Tensor]],
    report: Callable[[int], Any],
) -> _Walk:
    """One stage: at most ``stage.steps`` Levenberg-Marquardt steps from ``pose``."""
    options, first_scene = setting.config.optimizer, posed(setting.scene(pose))
    objective = setting.objective(first_scene, name)
    assert isinstance(options, LevenbergMarquardt)
    first = len(history)
    still = tuple(column for name in options.still for column in BLOCKS[name])
    tolerance = options.tolerance if stage.tolerance is None else stage.tolerance
    damping = Damping(options.damping, tolerance, options.turn, still)
    descent = minimise(
        objective, pose, lambda at: first_scene if at is pose else setting.scene(at), stage.steps, damping,
        lambda step: report(first + step), setting.config.variables.names,
    )  # fmt: skip
    for values in descent.values:
        history.append({"total": torch.stack(list(values.values())).sum(0), **values})
    return _Walk(descent.pose, first + descent.best_step, objective)


def _choose(mask: Tensor, yes: Pose, no: Pose) -> Pose:
    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(mask.view(-1, *(1,) * (a.dim() - 1)), a, b)

    return Pose(**{name: pick(value, getattr(no, name)) for name, value in yes.items()})


@torch.no_grad()
def _starts(pose: Pose, rows: _Rows, config: Config, setting: _Setting, seed: int) -> Pose:
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
    return _choose(first, pose, moved)


@torch.no_grad()
def _conclude(setting: _Setting, walk: _Walk, history: list[dict[str, Tensor]], rows: _Rows) -> Refinement:
    """The best start of each image, and what to say of it."""
    objective = _shared_sigmas(walk.objective, setting, walk.pose, rows)
    end_scene, first_scene = (posed(setting.scene(at)) for at in (walk.pose, setting.given))
    ends, begins = (torch.stack(list(objective.evaluate(s).values())).sum(0) for s in (end_scene, first_scene))
    ends = torch.where(ends.isfinite(), ends, torch.inf)
    first, chosen = rows.first, rows.lowest(ends)
    end, begin = ends[chosen], begins[first]
    unseen, skipped = _unseen(setting.features)[first], _skipped(setting.features, setting.config)[first]
    better = end.isfinite() if _keeps_last(setting.config) else end < begin
    improved = better & ~unseen & ~skipped
    pose = _choose(improved, walk.pose[chosen], setting.given[first])
    told = zip(begin.tolist(), end.tolist(), unseen.tolist(), skipped.tolist(), strict=True)
    verdicts = [_verdict(*own, setting.config) for own in told]
    names = dict.fromkeys(key for entry in history for key in entry)
    missing = torch.full_like(ends, torch.nan)
    table = {n: torch.stack([e.get(n, missing) for e in history])[:, chosen] for n in names}
    best = torch.where(improved, walk.best_step[chosen], 0)
    status, reason = tuple(v[0] for v in verdicts), tuple(v[1] for v in verdicts)
    sure = _sureness(setting, end_scene, objective, chosen, torch.tensor([s == "rejected" for s in status]))
    return Refinement(pose, setting.given[first], table, best, status, reason, sure)


def _sureness(
    setting: _Setting, scene: Scene, objective: Objective, chosen: Int[Tensor, "B"], rejected: Bool[Tensor, "B"]
) -> Sigmas | None:
    """Of the chosen rows; infinite for rejected ones."""
    if chosen.device.type != "cpu":
        return None
    found = sigmas(objective, scene, setting.config.variables.names).map(lambda value: value[chosen])
    return found.map(lambda v: v.masked_fill(rejected.view(-1, *(1,) * (v.dim() - 1)), torch.inf))


def _shared_sigmas(objective: Objective, setting: _Setting, pose: Pose, rows: _Rows) -> Objective:
    """With several starts: one yardstick for all starts of an image, the smallest spread that any of them reached."""
    if rows.single:
        return objective
    settled, several = setting.objective(pose), (torch.tensor(rows.counts) > 1).to(rows.image.device)[rows.image]

    def shared(value: Any, own: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        along = (-1, *(1,) * (value.dim() - 1))
        least = value.new_full((len(rows.first), *value.shape[1:]), torch.inf)
        least = least.scatter_reduce(0, rows.image.view(along).expand_as(value), value, "amin")[rows.image]
        return torch.where(several.view(along), least, own)

    terms = {
        name: replace(term, options={k: shared(v, objective.terms[name].options[k]) for k, v in term.options.items()})
        for name, term in settled.terms.items()
    }
    return replace(settled, terms=terms)


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
