"""Frames of a clip that went wrong alone: begun again from the poses of the frames beside them, and chosen as a clip.

The motion *breaks* between two frames where it is much faster than it usually is in the clip: one of the two shows the
object turned round, the hand elsewhere, or nothing. Each frame beside a break (or without a result) is refined from its
neighbours' poses too, and of all candidates the sequence is taken that costs least: what each frame's maps say, plus
how far each step is from the usual one (Viterbi 1967). So a majority wins where maps do not know, and maps win where
they do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from horefine.config import Config
from horefine.hand import HandModel
from horefine.mesh import Mesh
from horefine.motion import bridged
from horefine.refined import Refinement
from horefine.refinement import costs
from horefine.scene import Features, Pose

__all__ = ["best_sequence", "breaks", "picked", "points_of", "put_right", "replaced", "speeds", "usable_frames"]

ROUNDS = 3
"""A run of wrong frames is put right from both its ends, one frame a round."""
UNUSUAL, SMALLEST = 4.0, 0.3
"""A break is faster than so many usual speeds, and this many metres a second more."""
KERNEL = 30.0
"""A step so many times the usual one costs half of what any longer step can cost."""

RefineRows = Callable[[Pose, Int[Tensor, "N"], Config], Refinement]
"""Refines the given frames from the given poses."""


def put_right(
    alone: Refinement,
    times: Float[Tensor, "T"],
    config: Config,
    features: Features,
    model: HandModel,
    renderer: str,
    refine_rows: RefineRows,
) -> Refinement:
    """The clip with better poses where the motion breaks; an unbroken clip as it is. All on the CPU."""
    mesh, found = features.object.to("cpu"), alone
    given = {"align": {"hand": "given", "object": "given"}, "starts": {"count": 1}}
    plain = config.model_copy(update={k: getattr(config, k).model_copy(update=v) for k, v in given.items()})
    for _ in range(ROUNDS):
        used = usable_frames(found)
        source = bridged(model, mesh, found.pose, times, used)
        broken = breaks(speeds(points_of(model, mesh, source), times)) | ~used[1:] | ~used[:-1]
        sides = _beside(broken, used)
        if not used.any() or not any(len(rows) for rows, _ in sides):
            break
        slots = [found]
        for rows, origin in sides:
            slots.append(replaced(found, rows, refine_rows(source[origin], rows, plain)) if len(rows) else found)
        own = _unary(slots, [rows for rows, _ in sides], alone.initial, features, plain, model, renderer)
        choice = best_sequence(own, [points_of(model, mesh, slot.pose) for slot in slots], times)
        if not choice.any():
            break
        found = picked(slots, choice)
    return found


def usable_frames(found: Refinement) -> Bool[Tensor, "T"]:
    """Frames with a result of their own."""
    return torch.tensor([status != "rejected" for status in found.status])


def points_of(model: HandModel, mesh: Mesh, pose: Pose) -> tuple[Float[Tensor, "T 21 3"], Float[Tensor, "T 8 3"]]:
    """Joints of the hand and corners of the object's box, camera frame."""
    with torch.no_grad():
        return model(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).joints, pose.place(mesh.corners)


def speeds(points: Sequence[Float[Tensor, "T _ 3"]], times: Float[Tensor, "T"]) -> Float[Tensor, "T-1 2"]:
    """Mean speed of each body's points between frames, m / s."""
    steps = [body.diff(dim=0).norm(dim=-1).mean(1) for body in points]
    return torch.stack(steps, 1) / times.diff()[:, None]


def breaks(speed: Float[Tensor, "L 2"]) -> Bool[Tensor, "L"]:
    """Which steps are much faster than usual in the clip."""
    return (speed > UNUSUAL * usual_speed(speed) + SMALLEST).any(1)


def usual_speed(speed: Float[Tensor, "L 2"]) -> Float[Tensor, "2"]:
    """Of each body: the lower quartile, for one wrong frame in four spoils half of the steps."""
    return speed.quantile(0.25, dim=0)


def _beside(
    broken: Bool[Tensor, "L"], used: Bool[Tensor, "T"]
) -> tuple[tuple[Int[Tensor, "N"], Int[Tensor, "N"]], tuple[Int[Tensor, "M"], Int[Tensor, "M"]]]:
    """Frames after a break and those before one, and whose pose each begins from (its own place where it has none)."""
    no = torch.zeros(1, dtype=torch.bool)
    after = (torch.cat([no, broken]) | ~used).nonzero().flatten()
    before = (torch.cat([broken, no]) & used).nonzero().flatten()
    return (after, torch.where(used[after], after - 1, after)), (before, before + 1)


def _unary(
    slots: Sequence[Refinement],
    rows: Sequence[Int[Tensor, "_"]],
    initial: Pose,
    features: Features,
    config: Config,
    model: HandModel,
    renderer: str,
) -> Float[Tensor, "T K"]:
    """What each candidate of each frame costs by its own maps; infinite where there is no such candidate."""
    count = len(slots[0].status)
    found = torch.full((count, len(slots)), torch.inf)
    found[:, 0] = 0
    frames = torch.cat(list(rows)).unique()
    own = costs(
        [slot.pose[frames] for slot in slots], features[frames.to(features.camera.matrix.device)], config,
        initial=initial[frames], hand_model=model, renderer=renderer,
    ).cpu()  # fmt: skip
    found[frames] = own
    for slot, which in enumerate(rows, 1):
        there = torch.zeros(count, dtype=torch.bool)
        there[which] = True
        found[:, slot] = torch.where(there & usable_frames(slots[slot]), found[:, slot], torch.inf)
    lost = ~usable_frames(slots[0]) & found[:, 1:].isfinite().any(1)
    found[:, 0] = torch.where(lost, torch.inf, found[:, 0])
    nothing = ~found.isfinite().any(1)
    found[nothing, 0] = 0
    return found


def best_sequence(
    own: Float[Tensor, "T K"], points: Sequence[Sequence[Tensor]], times: Float[Tensor, "T"]
) -> Int[Tensor, "T"]:
    """Which candidate of each frame: the sequence of least cost.

    Args:
        own: cost of each candidate by itself; infinite: none.
        points: of each of K candidates, joints and corners of all frames (:func:`points_of`).
    """
    spans = times.diff()
    usual = usual_speed(speeds(points[0], times)) + SMALLEST / UNUSUAL
    total, last = own[0], []
    for t in range(1, len(own)):
        square = torch.zeros(own.shape[1], own.shape[1])
        for body in range(2):
            here = torch.stack([candidate[body][t - 1] for candidate in points])
            there = torch.stack([candidate[body][t] for candidate in points])
            step = (here[:, None] - there).norm(dim=-1).mean(-1)
            square += (step / (usual[body] * spans[t - 1])).square()
        every = total[:, None] + square / (1 + square / KERNEL**2)
        total, best = every.min(0)
        total = total + own[t]
        last.append(best)
    chosen = [int(total.argmin())]
    for best in reversed(last):
        chosen.append(int(best[chosen[-1]]))
    return torch.tensor(chosen[::-1])


def picked(slots: Sequence[Refinement], choice: Int[Tensor, "T"]) -> Refinement:
    """Each frame's result from the slot that was chosen for it."""
    found = slots[0]
    for slot, other in enumerate(slots[1:], 1):
        rows = (choice == slot).nonzero().flatten()
        found = replaced(found, rows, other, rows)
    return found


def replaced(
    found: Refinement, rows: Int[Tensor, "N"], other: Refinement, source: Int[Tensor, "N"] | None = None
) -> Refinement:
    """``found`` with what ``other`` says of some frames: all of its images, or those at ``source``.

    ``initial``, ``history`` and ``best_step`` stay: they tell where the frames came from.
    """
    source = torch.arange(len(rows)) if source is None else source

    def put(mine: Tensor, theirs: Tensor) -> Tensor:
        return mine.clone().index_copy_(0, rows, theirs[source])

    pose = found.pose.like(put(value, getattr(other.pose, name)) for name, value in found.pose.items())
    sigma = None
    if found.sigma is not None and other.sigma is not None:
        names = [f.name for f in fields(found.sigma) if getattr(other.sigma, f.name) is not None]
        own = {name: put(getattr(found.sigma, name), getattr(other.sigma, name)) for name in names}
        sigma = replace(found.sigma, **own)
    texts = {}
    for name in ("status", "reason"):
        values = list(getattr(found, name))
        for row, place in zip(rows.tolist(), source.tolist(), strict=True):
            values[row] = getattr(other, name)[place]
        texts[name] = tuple(values)
    return replace(found, pose=pose, sigma=sigma, **texts)
