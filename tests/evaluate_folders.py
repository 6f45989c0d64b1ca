"""Folders with a truth and poses of systems, as ``horefine evaluate`` reads them, without pictures to speak of."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from horefine import Pose, load_hand
from horefine.data.maps import disturb
from horefine.data.mirror import mirror_pose
from horefine.evaluate import cases, evaluation, predictions

HAND = load_hand(kind="embedded")
NAMES = tuple(f"{seq}_{k:03d}" for seq in ("cup", "desk") for k in range(4))
Arrays = dict[str, np.ndarray]


def true_poses() -> Pose:
    random = np.random.default_rng(0)
    turn = torch.tensor(Rotation.random(2 * len(NAMES), rng=random).as_rotvec(), dtype=torch.float32)
    rotvec = HAND.mean_rotvec.expand(len(NAMES), 16, 3).clone()
    rotvec[:, 0] = turn[: len(NAMES)]
    place = torch.tensor([[0.02 * k, 0.05, 0.5 + 0.02 * k] for k in range(len(NAMES))])
    shape = torch.tensor(random.normal(0, 0.5, (len(NAMES), 10)), dtype=torch.float32)
    return Pose(rotvec, shape, place - HAND.rest_joints(shape)[:, 0], turn[len(NAMES) :], place + 0.03)


def arrays(pose: Pose, k: int) -> Arrays:
    return {name: value[k].numpy() for name, value in pose.items()}


def write(folder: Path, pose: Pose, change: Callable[[Arrays], Arrays] = lambda table: table) -> Path:
    """Pose files; the last item is a left hand."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(NAMES):
        left = k == len(NAMES) - 1
        table = change(arrays(mirror_pose(pose) if left else pose, k))
        np.savez(folder / f"{name}.npz", side="left" if left else "right", **table)
    return folder


def photographs(folder: Path, pose: Pose, objects: tuple[str, ...] = ("mug", "box")) -> Path:
    """As ``horefine synthesize`` writes them, without maps and with grey pictures."""
    write(folder / "truth", pose)
    (folder / "images").mkdir()
    for k, name in enumerate(NAMES):
        Image.new("L", (64, 48), 128).save(folder / "images" / f"{name}.png")
        sidecar = {"camera": {"fx": 60.0}, "object": objects[k % 2], "truth": f"../truth/{name}.npz"}
        sidecar["side"] = "left" if k == len(NAMES) - 1 else "right"
        (folder / "images" / f"{name}.json").write_text(json.dumps(sidecar))
    return folder


def findings(root: Path, folder: Path) -> evaluation.Evaluation:
    found = cases.cases_from(root)
    read = predictions.read_predictions(predictions.Output(folder), found, HAND)
    return evaluation.evaluate(found, read, HAND, ("HE_mm", "OE_mm"))


PLACES = ("hand_transl", "object_transl")


def scaled(factors: float | list[float], *keys: str) -> Callable[[Arrays], Arrays]:
    return lambda table: table | {key: table[key] * np.asarray(factors) for key in keys}


def three_folders(root: Path) -> tuple[Path, Path, Path]:
    """A truth, a rough and a fine system's poses."""
    pose = true_poses()
    folders = [disturb(pose, seed, 15 * f, 20 * f, 8 * f, model=HAND) for seed, f in ((1, 1.0), (2, 0.3))]
    return (
        photographs(root / "truth", pose),
        *(write(root / n, p) for n, p in zip(("rough", "fine"), folders, strict=True)),
    )
