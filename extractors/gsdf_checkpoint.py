"""Published gSDF checkpoints (``snapshot_*.pth.tar``), read without running anything in them.

The names of the tensors say which network it is: single pictures, clips, or the first stage (joints alone), and how
many numbers its fields know of a point. The dataset they do not say, and with it the fields' unit: that is in the
``exp.yaml`` that the published training leaves beside the file, or the user's to tell. Relatives whose single vector
says everything about a picture (gSDF's ``2net``, AlignSDF, Grasping Field) are named and refused.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor

from horefine.errors import AssetError, ConfigError, suggestion
from horefine.extractors.checkpoints import fill, published, read_network
from horefine.extractors.gsdf import DATASETS, JOINTS, POSE_DEPTH, Gsdf, GsdfConfig, PoseNet
from horefine.extractors.gsdf_parts import HAND_LATENTS, OBJECT_LATENTS

__all__ = [
    "GsdfCheckpoint",
    "build_gsdf",
    "detect_gsdf",
    "gsdf_names",
    "load_gsdf",
    "load_pose",
    "read_gsdf",
    "settings_beside",
]

log = logging.getLogger(__name__)

WAY_OUT = "give a snapshot_*.pth.tar of gSDF's hsdf_osdf_2net_pa or hsdf_osdf_2net_video_pa (github.com/zerchen/gSDF)"


@dataclass(frozen=True)
class GsdfCheckpoint:
    """A file's network."""

    tensors: dict[str, Tensor]
    """By our names."""
    kind: str
    """``image``, ``clip``, or ``pose``: the first stage."""
    changes: dict[str, int]
    """Entries of ``GsdfConfig`` that the tensors tell."""
    places: int = JOINTS
    """Of the first stage: 22 with the object's centre."""
    epoch: int | None = None

    def config(self, dataset: str | None = None) -> GsdfConfig:
        """Of the network, trained on ``dataset`` (``gsdf.DATASETS``; None: ``dexycb`` for clips, else ``obman``).

        Raises:
            ConfigError: another one.
        """
        dataset = dataset or ("dexycb" if self.kind == "clip" else "obman")
        if dataset not in DATASETS:
            raise ConfigError(f"gsdf dataset: {dataset!r}: there is none{suggestion(dataset, tuple(DATASETS))}")
        return dataclasses.replace(DATASETS[dataset], **self.changes)


def load_gsdf(path: Path | str, dataset: str | None = None) -> Gsdf:
    """The network of a published checkpoint, in eval mode on the CPU.

    Args:
        dataset: It was trained on: ``obman`` or ``dexycb``; the fields' unit follows from it. None: as
            :func:`settings_beside` says, else as :meth:`GsdfCheckpoint.config` supposes, with a warning.

    Raises:
        AssetError: as :func:`read_gsdf`; also for a first stage alone, and for a tensor that is missing, of another
            shape, or not finite; names it.
        ConfigError: an unknown ``dataset``.
    """
    checkpoint = read_gsdf(path)
    if checkpoint.kind == "pose":
        raise AssetError(
            f"checkpoint {path}: is gSDF's first stage (pose_kpt): joints, but no fields; {WAY_OUT}, trained with it"
        )
    network = _built(checkpoint, path, _config(checkpoint, path, dataset))
    assert isinstance(network, Gsdf)
    return network


def load_pose(path: Path | str) -> PoseNet:
    """The first stage, with the depths that it was trained for: of a file of its own, or out of a whole network's.

    Raises:
        AssetError: see :func:`load_gsdf`.
    """
    checkpoint = read_gsdf(path)
    if checkpoint.kind != "pose":
        own = {
            name.removeprefix("pose_model."): value
            for name, value in checkpoint.tensors.items()
            if name.startswith("pose_model.")
        }
        checkpoint = GsdfCheckpoint(own, "pose", {}, JOINTS, checkpoint.epoch)
    network = _built(checkpoint, path, dataclasses.replace(checkpoint.config(), hand_depth=POSE_DEPTH))
    assert isinstance(network, PoseNet)
    return network


def settings_beside(path: Path | str) -> dict[str, float]:
    """Entries of ``GsdfConfig`` that an ``exp.yaml`` beside the file, or one folder up, tells; none: nothing."""
    for folder in (Path(path).resolve().parent, Path(path).resolve().parent.parent):
        if (folder / "exp.yaml").is_file():
            try:
                table = yaml.safe_load((folder / "exp.yaml").read_text(encoding="utf-8"))
            except (yaml.YAMLError, UnicodeDecodeError):
                log.warning("%s cannot be read; it is left aside", folder / "exp.yaml")
                return {}
            scale, depth = (_entry(table, key) for key in ("recon_scale", "depth_dim"))
            depths = {} if depth is None else {"hand_depth": depth, "object_depth": depth}
            return depths if scale is None else {"scale": scale / 2, **depths}
    return {}


def _entry(table: object, key: str) -> float | None:
    """A positive number of this name, wherever it is in a table of tables."""
    if not isinstance(table, Mapping):
        return None
    value = table.get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    return next((found for part in table.values() if (found := _entry(part, key)) is not None), None)


def _config(checkpoint: GsdfCheckpoint, path: Path | str, dataset: str | None) -> GsdfConfig:
    config = checkpoint.config(dataset)
    if dataset is not None:
        return config
    told = settings_beside(path)
    if "scale" not in told:
        supposed = next(name for name, known in DATASETS.items() if known.scale == config.scale)
        log.warning(
            "checkpoint %s: nothing says on which data it was trained (no exp.yaml beside it); %s is supposed, and "
            "its fields are wrong if it was another", path, supposed,
        )  # fmt: skip
    return dataclasses.replace(config, **told)  # type: ignore[arg-type]


def _built(checkpoint: GsdfCheckpoint, path: Path | str, config: GsdfConfig) -> Gsdf | PoseNet:
    try:
        return build_gsdf(checkpoint, config)
    except ValueError as error:
        raise AssetError(f"checkpoint {path}: {error}; {WAY_OUT}") from None


def build_gsdf(checkpoint: GsdfCheckpoint, config: GsdfConfig) -> Gsdf | PoseNet:
    """The network of a checkpoint that was read, sharing its tensors.

    Raises:
        ValueError: a tensor is missing, of another shape or kind, not finite, or not the network's; names it.
    """
    with torch.device("meta"):
        network = PoseNet(config, checkpoint.places) if checkpoint.kind == "pose" else Gsdf(config)
    fill(network, checkpoint.tensors, "gSDF")
    return network


def gsdf_names(kind: str = "image", config: GsdfConfig | None = None) -> dict[str, tuple[int, ...]]:
    """Published names (without ``module.``) and shapes of a network's tensors. ``kind``: see ``GsdfCheckpoint``."""
    if config is None:
        config = GsdfConfig(clip_layers=8) if kind == "clip" else GsdfConfig()
    with torch.device("meta"):
        network = PoseNet(config) if kind == "pose" else Gsdf(config)
    return {published(name): tuple(value.shape) for name, value in network.state_dict().items()}


def read_gsdf(path: Path | str) -> GsdfCheckpoint:
    """Reads a file and finds its network.

    Raises:
        AssetError: missing, damaged, with code in it, or of another system; the message says which, and how to get a
            good one.
    """
    tensors, epoch = read_network(path, (), WAY_OUT)
    try:
        return dataclasses.replace(detect_gsdf(tensors), epoch=epoch)
    except ValueError as error:
        raise AssetError(f"checkpoint {path}: {error}; {WAY_OUT}") from None


def detect_gsdf(tensors: Mapping[str, Tensor]) -> GsdfCheckpoint:
    """Which network these tensors are of.

    Raises:
        ValueError: none that can be read; says which it looks like.
    """
    relative = _relative(tensors)
    if relative is not None:
        raise ValueError(f"is {relative}, which horefine does not read")
    heat = tensors.get("volume_head.layers.0.weight")
    if "sdf_encoder.weight" not in tensors and heat is not None and "neck.deconv_layers.0.weight" in tensors:
        places, rest = divmod(heat.shape[0] if heat.ndim else 0, GsdfConfig.bins)
        if rest or places not in (JOINTS, JOINTS + 1):
            raise ValueError(f"volume_head.layers.0.weight has shape {tuple(heat.shape)}; expected (1344, 256, 1, 1)")
        return GsdfCheckpoint(dict(tensors), "pose", {}, places)
    for name in ("pose_model.backbone.conv1.weight", "backbone_2_sdf.deconv_layers.0.weight", "sdf_encoder.weight"):
        if name not in tensors:
            first = ", ".join(sorted(tensors)[:3]) or "nothing"
            guess = next((f", looks like {system}" for system, start in _OTHERS if _any(tensors, start)), "")
            raise ValueError(f"is not a gSDF{guess}: it has no {name} (it begins with {first})")
    changes = {f"{which}_latent": _latent(tensors, short) for which, short in (("hand", "hand"), ("object", "obj"))}
    if _any(tensors, "feat_transformer."):
        changes["clip_layers"] = _layers(tensors)
        return GsdfCheckpoint(dict(tensors), "clip", changes)
    return GsdfCheckpoint(dict(tensors), "image", changes)


_OTHERS = (
    ("HOISDF", "mano_query_embed."),
    ("C2F-SDF", "pcl_feat_emb."),
    ("a torchvision ResNet", "layer1."),
)
"""Systems whose files are saved alike, and how a name of theirs begins."""


def _relative(tensors: Mapping[str, Tensor]) -> str | None:
    """What it is, of the networks of gSDF's code that describe a picture by one vector."""
    if "backbone_2_sdf.0.weight" not in tensors:
        return None
    if _any(tensors, "mano_head."):
        return "AlignSDF (hsdf_osdf_1net)"
    if _any(tensors, "pose_model."):
        return "gSDF without pixel-aligned features (hsdf_osdf_2net)"
    return "Grasping Field (hsdf_osdf_1net)"


def _any(tensors: Mapping[str, Tensor], start: str) -> bool:
    return any(name.startswith(start) for name in tensors)


def _latent(tensors: Mapping[str, Tensor], short: str) -> int:
    """What a field knows of a point beside its picture, from its first layer's width."""
    name = f"{short}_sdf_head.lin0.parametrizations.weight.original1"
    value = tensors.get(name)
    if value is None or value.ndim != 2:
        raise ValueError(f"has no {published(name)} of two dimensions")
    latent = value.shape[1] - GsdfConfig.point_features
    known = HAND_LATENTS if short == "hand" else OBJECT_LATENTS
    if latent not in known:
        sizes = ", ".join(str(GsdfConfig.point_features + count) for count in known)
        raise ValueError(f"{published(name)} has shape {tuple(value.shape)}; expected one of {sizes} numbers in a row")
    return latent


def _layers(tensors: Mapping[str, Tensor]) -> int:
    """Of the clip's transformers."""
    start = "feat_transformer.spatial_transformer.layers."
    numbers = {name.removeprefix(start).split(".")[0] for name in tensors if name.startswith(start)}
    if len(numbers) > 64 or not numbers:
        raise ValueError(f"has {len(numbers)} transformer layers for clips; the published network has 8")
    return len(numbers)
