"""How near the truth hands come that are fitted to noisy joints, and what they cost.

    python -m benchmarks.joints_to_pose --hands 200

Hands: those of seeded synthetic grasps of the embedded objects, whose fingers are not drawn from the prior of the fit
(the hand model is the same: no system's joints lie just where this model has them). Their joints get Gaussian noise of
the same spread in every direction. Errors are means over a hand's 21 joints (778 vertices); tables give the median
hand with its 95 % bootstrap interval. Times are of the processor, one thread, one batch, the check for the other side
included.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks._common import median_interval, write_result
from horefine import HandModel, Pose, joints_to_pose, load_hand
from horefine.data.synthetic import SceneSource
from horefine.hand import Hand
from horefine.inverse_kinematics import HandFit, closed_form

NOISES = (1.0, 2.0, 3.0, 5.0, 8.0, 10.0, 15.0, 20.0)
MIRROR = (-1.0, 1.0, 1.0)


def grasping_hands(count: int, seed: int, hand: HandModel) -> Hand:
    """Hands of ``count`` grasps, in the camera's frame."""
    source = SceneSource(seed)
    pose = Pose.cat([source.layout(index)[1].pose for index in range(count)])
    return hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl)


def millimetres(a: Float[Tensor, "B N 3"], b: Float[Tensor, "B N 3"]) -> np.ndarray:
    """Mean distance of each hand's points."""
    return (a - b).norm(dim=-1).mean(1).numpy() * 1000


def measured(true: Hand, noise: float, hand: HandModel, generator: torch.Generator) -> dict[str, object]:
    """A row of the table."""
    shifts = torch.randn(true.joints.shape, generator=generator) * noise / 1000
    given = true.joints + shifts
    rotvec, transl = closed_form(given, hand)
    first = hand(rotvec, torch.zeros(len(given), 10), transl)
    begin = time.process_time()
    found = joints_to_pose(given, hand)
    cost = (time.process_time() - begin) * 1000 / len(given)
    fitted = hand(found.rotvec, found.shape, found.transl)
    other = joints_to_pose(given * given.new_tensor(MIRROR), hand)
    before, after = millimetres(given, true.joints), millimetres(fitted.joints, true.joints)
    return {
        "noise (mm, each direction)": noise,
        "given joints (mm)": round(float(np.median(before)), 2),
        "closed form (mm)": spread(millimetres(first.joints, true.joints)),
        "fitted joints (mm)": spread(after),
        "fitted / given": round(float((after / before).mean()), 3),
        "hands nearer than given": f"{(after < before).mean():.1%}",
        "vertices (mm)": spread(millimetres(fitted.vertices, true.vertices)),
        "noise found (mm)": spread(found.sigma.numpy() * 1000),
        "usable": f"{found.usable.float().mean():.1%}",
        "left as right: said": f"{1 - other.usable.float().mean():.1%}",
        "ms a hand": round(cost, 1),
    }


def spread(values: np.ndarray) -> str:
    low, middle, high = median_interval(values)
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def finite(found: HandFit) -> bool:
    return all(bool(v.isfinite().all()) for v in (found.rotvec, found.shape, found.transl, found.joints, found.sigma))


def degenerate(true: Hand, hand: HandModel) -> dict[str, object]:
    """Hands spoilt in every way there is; whether anything is not finite, and how many are said to be of use."""
    joints, generator = true.joints, torch.Generator().manual_seed(1)
    missing = torch.rand(*joints.shape[:2], 1, generator=generator) < 0.5
    cases = {
        "mirrored": joints * joints.new_tensor(MIRROR),
        "one zero-length bone": joints.clone(),
        "all bones of a finger zero": joints.clone(),
        "in one point": joints[:, :1].expand_as(joints),
        "on a line": joints[:, :, :1] * joints.new_tensor([1.0, 0.0, 0.0]),
        "in a plane": joints * joints.new_tensor([1.0, 1.0, 0.0]),
        "half of the joints missing": joints.masked_fill(missing, torch.nan),
        "anywhere": torch.randn(joints.shape, generator=generator) / 10,
    }
    cases["one zero-length bone"][:, 7] = joints[:, 6]
    cases["all bones of a finger zero"][:, 5:9] = joints[:, :1]
    found = {name: joints_to_pose(given, hand) for name, given in cases.items()}
    return {name: {"finite": finite(one), "usable": float(one.usable.float().mean())} for name, one in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hands", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    hand = load_hand(kind="embedded")
    true = grasping_hands(arguments.hands, arguments.seed, hand)
    joints_to_pose(true.joints[:2], hand)  # compiles
    generator = torch.Generator().manual_seed(arguments.seed)
    rows = [measured(true, noise, hand, generator) for noise in NOISES]
    spoilt = degenerate(true, hand)
    notes = [f"{arguments.hands} hands of synthetic grasps, seed {arguments.seed}; medians with 95 % intervals"]
    for name, one in spoilt.items():
        assert isinstance(one, dict)
        notes.append(f"{name}: everything finite {'yes' if one['finite'] else 'NO'}, usable {one['usable']:.1%}")
    write_result("joints_to_pose", {"degenerate": spoilt}, rows=rows, notes=notes)
    print("\n".join(notes))


if __name__ == "__main__":
    main()
