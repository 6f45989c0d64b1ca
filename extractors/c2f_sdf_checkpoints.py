"""Published checkpoints of C2F-SDF (``snapshot_*.pth.tar``), read without running anything in them.

Saved as HOISDF's are (``checkpoints``). Which branches a file's network has is seen from its tensors: the released
DexYCB file lacks the hand's. Files also hold MANO's arrays, and tensors that no sum of the network uses (``UNUSED``);
both are left alone: MANO comes from the user's own file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from horefine.errors import AssetError, ConfigError, suggestion
from horefine.extractors.c2f_sdf import DEXYCB, OBMAN, C2fConfig, C2fSdf
from horefine.extractors.checkpoints import fill, published, read_network

__all__ = ["DATASETS", "C2fCheckpoint", "build_c2f", "detect_c2f", "load_c2f", "names_c2f", "read_c2f"]

DATASETS: Mapping[str, C2fConfig] = {"dexycb": DEXYCB, "obman": OBMAN}
"""What a checkpoint was trained on; the fields' unit is not in the file."""
UNUSED = ("sigma", "fc_expand2voxel.", "fc_pred_heatmap.", "backbone_2_sdf_global.", "mano_head.mano_layer_right.")
"""How names begin of tensors in the files that no sum uses, and of MANO's arrays."""
_UNUSED_INSIDE = (".fsp_rgb.", ".fsp_depth.")
_SHARED = ".depth_downsample."
"""A second name of ``.downsample.``."""
_SAME_WIDTH = tuple(
    f"awr_head.{name}.skip_layer." for level in (2, 3, 4) for name in (f"skip_layer{level}", f"up{level}.0")
)
"""Shortcuts with a convolution where the input, having the output's width, goes through as it is."""
WAY_OUT = "give a snapshot_*.pth.tar of C2F-SDF (github.com/Ru1ven/C2F-SDF says where they are)"
_BRANCHES = {
    "hand": ("mano_head.", "backbone_2_mano."),
    "object_center": ("neck.", "volume_head."),
    "heatmap": ("heatmap_Unet.", "heatmap_head."),
    "joints": ("awr_head.finals.",),
}
_OTHERS = (
    ("HOISDF", ("decoder_net.", "hand_transformer.")),
    ("gSDF or AlignSDF", ("hand_sdf_head.", "backbone_2_sdf.")),
    ("gSDF's pose stage", ("neck.", "volume_head.")),
)
_NEEDED = ("backbone.depth_conv1.weight", "pcl_feat_emb.0.weight", "hand_sdf_head_global.lin4.weight")


@dataclass(frozen=True)
class C2fCheckpoint:
    """A file's network."""

    tensors: dict[str, Tensor]
    """By the names of ``C2fSdf``, those it does not use left out."""
    config: C2fConfig
    epoch: int | None


def load_c2f(path: Path | str, dataset: str = "dexycb") -> C2fSdf:
    """The network of a published checkpoint, in eval mode on the CPU.

    Args:
        dataset: What it was trained on, one of :data:`DATASETS`.

    Raises:
        AssetError, ConfigError: see :func:`read_c2f`; also for a tensor that is missing, of another shape, or not
            finite; names it.
    """
    checkpoint = read_c2f(path, dataset)
    try:
        return build_c2f(checkpoint)
    except ValueError as error:
        raise AssetError(f"checkpoint {path}: {error}; {WAY_OUT}") from None


def read_c2f(path: Path | str, dataset: str = "dexycb") -> C2fCheckpoint:
    """Reads a file and finds which branches its network has.

    Raises:
        AssetError: missing, damaged, with code in it, or of another system; the message says which, and how to get a
            good one.
        ConfigError: an unknown ``dataset``.
    """
    if dataset not in DATASETS:
        raise ConfigError(f"c2f_sdf dataset: {dataset!r}: there is none{suggestion(dataset, DATASETS)}")
    raw, epoch = read_network(path, UNUSED, WAY_OUT)
    try:
        tensors = _used(raw)
        return C2fCheckpoint(tensors, detect_c2f(tensors, DATASETS[dataset]), epoch)
    except ValueError as error:
        raise AssetError(f"checkpoint {path}: {error}; {WAY_OUT}") from None


def build_c2f(checkpoint: C2fCheckpoint) -> C2fSdf:
    """The network of a checkpoint that was read, sharing its tensors.

    Raises:
        ValueError: a tensor is missing, of another shape or kind, not finite, or not the network's; names it.
    """
    with torch.device("meta"):
        network = C2fSdf(checkpoint.config)
    fill(network, checkpoint.tensors, "C2F-SDF")
    return network


def detect_c2f(tensors: Mapping[str, Tensor], base: C2fConfig = DEXYCB) -> C2fConfig:
    """Which branches these tensors have; everything else as in ``base``.

    Raises:
        ValueError: none of C2F-SDF's; names a tensor that is missing. Or half a branch.
    """
    for name in _NEEDED:
        if name not in tensors:
            first = ", ".join(sorted(tensors)[:3]) or "nothing"
            guess = next((f", looks like {system}" for system, starts in _OTHERS if _has(tensors, starts)), "")
            raise ValueError(f"is not a C2F-SDF{guess}: it has no {name} (it begins with {first})")
    branches = {}
    for branch, starts in _BRANCHES.items():
        there = [start for start in starts if any(name.startswith(start) for name in tensors)]
        if there and len(there) < len(starts):
            gone = next(start for start in starts if start not in there)
            raise ValueError(f"has {there[0]}* but no {gone}*, and one is of no use without the other")
        branches[branch] = bool(there)
    return dataclasses.replace(base, **branches)


def names_c2f(config: C2fConfig = DEXYCB) -> dict[str, tuple[int, ...]]:
    """The names (without ``module.``) and shapes of the tensors that its network reads from a checkpoint."""
    with torch.device("meta"):
        tensors = C2fSdf(config).state_dict()
    return {published(name): tuple(value.shape) for name, value in tensors.items()}


def _used(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what the network does not use.

    Raises:
        ValueError: the two names of a shared convolution hold different numbers.
    """
    tensors = {}
    for name, value in raw.items():
        if _SHARED in name:
            twin = raw.get(name.replace(_SHARED, ".downsample."))
            if twin is None or not (twin.shape == value.shape and torch.equal(twin, value)):
                raise ValueError(f"{name} differs from its other name's numbers (.downsample.), yet the two are one")
        elif not (name.startswith(_SAME_WIDTH) or any(part in name for part in _UNUSED_INSIDE)):
            tensors[name] = value
    return tensors


def _has(tensors: Mapping[str, Tensor], starts: tuple[str, ...]) -> bool:
    return all(any(name.startswith(start) for name in tensors) for start in starts)
