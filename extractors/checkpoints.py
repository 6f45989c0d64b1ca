"""Published checkpoints of HOISDF (``snapshot_*.pth.tar``), read without running anything in them.

Such a file is ``torch.save`` of a table whose entry ``network`` holds the tensors of a ``DataParallel`` model. It is
read by torch's restricted unpickler (``weights_only``), which knows tensors and plain containers. The names say which
of the published architectures it is. The ``dexycb`` and ``ho3d`` files hold MANO's arrays too; these are left alone:
MANO comes from the user's own file.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from horefine.errors import AssetError
from horefine.extractors.hoisdf_official import ARCHITECTURES, Architecture, OfficialHoisdf

__all__ = [
    "Checkpoint",
    "build",
    "detect",
    "fill",
    "load_official",
    "published",
    "published_names",
    "read_checkpoint",
    "read_network",
    "rename",
]

UNUSED = ("norm1.", "linear_objvote.", "linear_objcls.", "mano_head.")
"""In the files, but in none of the network's sums."""
WAY_OUT = "give a snapshot_*.pth.tar of HOISDF (github.com/amathislab/HOISDF says where they are)"
_OTHERS = (
    ("C2F-SDF", ("pcl_feat_emb.", "hand_sdf_head.")),
    ("gSDF or AlignSDF", ("hand_sdf_head.", "backbone_2_sdf.")),
    ("gSDF's pose stage", ("neck.", "volume_head.")),
)
"""Systems whose files are saved alike, and how names of their tensors begin."""
_ENDINGS = (("weight_g", "parametrizations.weight.original0"), ("weight_v", "parametrizations.weight.original1"))


@dataclass(frozen=True)
class Checkpoint:
    """A file's network."""

    tensors: dict[str, Tensor]
    """By the names of ``OfficialHoisdf``, those it does not use left out."""
    architecture: Architecture
    epoch: int | None


def load_official(path: Path | str, architecture: str | None = None, lattice: str = "sheared") -> OfficialHoisdf:
    """The network of a published checkpoint, in eval mode on the CPU.

    Args:
        architecture: The name it must have (``dexycb``, ``ho3d``, ``ho3d_render``); default: whatever it is.

    Raises:
        AssetError: see :func:`read_checkpoint`; also for a network of another architecture than asked for, with a
            tensor that is missing, of another shape, or not finite; names it.
    """
    checkpoint = read_checkpoint(path)
    found = checkpoint.architecture
    if architecture is not None and ARCHITECTURES.get(architecture) != found:
        known = ", ".join(ARCHITECTURES)
        raise AssetError(
            f"checkpoint {path}: is a {found.name} network ({found.decoder} decoder, "
            f"{'with' if found.rotations else 'without'} rotations), not {architecture!r}; known: {known}; "
            "give the other file, or do not name an architecture"
        )
    try:
        return build(checkpoint, lattice)
    except ValueError as error:
        raise AssetError(f"checkpoint {path}: {error}; {WAY_OUT}") from None


def build(checkpoint: Checkpoint, lattice: str = "sheared") -> OfficialHoisdf:
    """The network of a checkpoint that was read, sharing its tensors.

    Raises:
        ValueError: a tensor is missing, of another shape or kind, not finite, or not the network's; names it.
    """
    with torch.device("meta"):
        network = OfficialHoisdf(checkpoint.architecture, lattice)
    fill(network, checkpoint.tensors, "HOISDF")
    network.reset_mask()
    return network


def fill(network: nn.Module, found: Mapping[str, Tensor], system: str) -> None:
    """Gives a network made on the meta device all its tensors (shared, not copied), in eval mode, not to be trained.

    Args:
        found: As :func:`read_network` gives them.
        system: What the network is called in messages.

    Raises:
        ValueError: a tensor is missing, of another shape or kind, not finite, or not the network's; names it.
    """
    expected, tensors = network.state_dict(), dict(found)
    for name, wanted in expected.items():
        if name.endswith("num_batches_tracked"):
            tensors.setdefault(name, torch.zeros((), dtype=torch.int64))
        if name not in tensors:
            raise ValueError(f"has no {published(name)}")
        tensors[name] = _checked(published(name), tensors[name], wanted)
    strange = [name for name in tensors if name not in expected]
    if strange:
        raise ValueError(f"{published(strange[0])} belongs to no {system} ({len(strange)} such tensors)")
    network.load_state_dict(tensors, assign=True)
    network.eval().requires_grad_(False)


def _checked(name: str, value: Tensor, wanted: Tensor) -> Tensor:
    if value.shape != wanted.shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; expected {tuple(wanted.shape)}")
    if value.is_floating_point() != wanted.is_floating_point() or value.is_complex():
        raise ValueError(f"{name} holds {value.dtype}; expected {wanted.dtype}")
    value = value.to(wanted.dtype)
    if not torch.isfinite(value).all():
        raise ValueError(f"{name} holds numbers that are not finite: download it again")
    return value


def published_names(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """The names (without ``module.``) and shapes of the tensors that its network reads from a checkpoint."""
    with torch.device("meta"):
        tensors = OfficialHoisdf(architecture).state_dict()
    return {published(name): tuple(value.shape) for name, value in tensors.items()}


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Reads a file and finds its architecture.

    Raises:
        AssetError: missing, damaged, with code in it, or of another system; the message says which, and how to get a
            good one.
    """
    tensors, epoch = read_network(path, UNUSED, WAY_OUT)
    try:
        return Checkpoint(tensors, detect(tensors), epoch)
    except ValueError as error:
        raise AssetError(f"checkpoint {path}: {error}; {WAY_OUT}") from None


def read_network(path: Path | str, unused: tuple[str, ...], way_out: str) -> tuple[dict[str, Tensor], int | None]:
    """The tensors of a file's network by our names, and its epoch.

    Args:
        unused: How names of tensors begin that are left out.
        way_out: What to do about a bad file; ends the message.

    Raises:
        AssetError: missing, damaged, with code in it, or no table of tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise AssetError(f"checkpoint {path}: {'is a folder' if path.is_dir() else 'no such file'}; {way_out}")
    table = _restricted(path, way_out)
    epoch = table.get("epoch") if isinstance(table, Mapping) else None
    try:
        return rename(_state_of(table), unused), epoch if isinstance(epoch, int) else None
    except ValueError as error:
        raise AssetError(f"checkpoint {path}: {error}; {way_out}") from None


def rename(raw: Mapping[Any, Any], unused: tuple[str, ...] = UNUSED) -> dict[str, Tensor]:
    """Published names (with or without ``module.``) to ours, without what the network does not use.

    Raises:
        ValueError: something is not a tensor; names it.
    """
    tensors: dict[str, Tensor] = {}
    for key, value in raw.items():
        name = str(key).removeprefix("module.")
        if name.startswith(unused):
            continue
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            raise ValueError(f"{key} is a {getattr(value, 'layout', type(value).__name__)}, not a plain tensor")
        tensors[_ours(name)] = value
    return tensors


def detect(tensors: Mapping[str, Tensor]) -> Architecture:
    """Which network these tensors are of.

    Raises:
        ValueError: none of HOISDF's; names a tensor that is missing.
    """
    for name in ("decoder_net.resnet_decoder.deconv1.0.weight", "mano_query_embed.weight", "hand_sigmoid_beta"):
        if name not in tensors:
            first = ", ".join(sorted(tensors)[:3]) or "nothing"
            guess = next((f", looks like {system}" for system, starts in _OTHERS if _has(tensors, starts)), "")
            raise ValueError(f"is not a HOISDF{guess}: it has no {name} (it begins with {first})")
    counts = [
        _layers(tensors, prefix)
        for prefix in ("hand_transformer.encoder", "hand_transformer.decoder", "obj_transformer.encoder")
    ]
    small = "decoder_net.resnet_decoder.conv0d.0.weight" in tensors
    rotations = "linear_pose.layers.0.weight" in tensors
    if max(counts) > 64:
        raise ValueError(f"has {max(counts)} transformer layers; the published networks have 6 at most")
    queries, wanted = sum(tensors["mano_query_embed.weight"].shape[:1]), 17 if rotations else 1
    if queries != wanted:
        raise ValueError(
            f"mano_query_embed.weight has {queries} rows; {wanted} go with "
            f"{'a' if rotations else 'no'} head for rotations (linear_pose)"
        )
    sizes = "small" if small else "big"
    depth = ARCHITECTURES["ho3d"].object_depth if not (small and rotations) else None
    return Architecture(sizes, rotations, *counts, object_depth=depth)


def _has(tensors: Mapping[str, Tensor], starts: tuple[str, ...]) -> bool:
    return all(any(name.startswith(start) for name in tensors) for start in starts)


def _layers(tensors: Mapping[str, Tensor], prefix: str) -> int:
    numbers = [m[1] for name in tensors if (m := re.match(rf"{re.escape(prefix)}\.layers\.(\d+)\.", name))]
    return 1 + max(map(int, numbers), default=-1)


def _ours(name: str) -> str:
    for theirs, ours in _ENDINGS:
        if name.endswith(f".{theirs}"):
            return name.removesuffix(theirs) + ours
    return name


def published(name: str) -> str:
    """A tensor's name in published files."""
    for theirs, ours in _ENDINGS:
        if name.endswith(ours):
            return name.removesuffix(ours) + theirs
    return name


def _restricted(path: Path, way_out: str) -> Any:
    """What ``torch.save`` wrote, if it is tensors and plain containers."""
    try:
        with warnings.catch_warnings():  # about pickles of another protocol, which fail below
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        asked = re.search(r"(?:GLOBAL|global|class|function) ([\w.]+\.[\w.]+)", str(error))
        if asked is None and _foreign_pickle(path):
            raise AssetError(
                f"checkpoint {path}: refused: a pickle that torch.save did not write; nothing in it was run; {way_out}"
            ) from None
        if asked is None:
            raise AssetError(f"checkpoint {path}: damaged, or not written by torch.save; {way_out}") from None
        raise AssetError(
            f"checkpoint {path}: refused: it asks for {asked[1]}, and a checkpoint holds tensors and plain containers "
            "only. Do not open this file with other programs unless you trust its source; "
            f"{way_out}"
        ) from None
    except PermissionError:
        raise AssetError(f"checkpoint {path}: may not be read; change its permissions (chmod u+r)") from None
    except Exception as error:  # a spoiled byte can end in almost any of them
        said = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        if "TorchScript" in said:
            raise AssetError(
                f"checkpoint {path}: is a TorchScript program, not a table of tensors; {way_out}"
            ) from None
        raise AssetError(
            f"checkpoint {path}: damaged or cut short ({path.stat().st_size} bytes; {said}); download it again"
        ) from None


def _foreign_pickle(path: Path) -> bool:
    """Whether a file begins as a pickle of a protocol that torch.save does not use."""
    with path.open("rb") as file:
        start = file.read(2)
    return len(start) == 2 and start[0] == 0x80 and 2 < start[1] <= 5


def _state_of(table: Any) -> Mapping[Any, Any]:
    if not isinstance(table, Mapping):
        raise ValueError(f"holds a {type(table).__name__}, not a table of tensors")
    if isinstance(table.get("network"), Mapping):
        return table["network"]
    if any(isinstance(value, Tensor) for value in table.values()):
        return table  # the tensors alone, without the table about them
    keys = ", ".join(map(str, list(table)[:5])) or "nothing"
    raise ValueError(f"is another system's: it has no entry 'network' (it has {keys})")
